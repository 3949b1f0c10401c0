"""Decide the same raw orders again, by other workers and in other partitions; count decisions that differ.

    python tests/faults/rerun.py [--orders N] [--record]

First two workers decide them, one of which is killed on the way. Then one worker of another group decides
the same topic, and another one the same orders published anew into a topic of other partitions. A decision
of the second has to be the first's; one of the third all but for its place in the log, and for its id,
which is made of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from stream.kafka import KafkaCluster
from stream.settings import Settings, Topics
from tests.bench.results import record
from tests.faults.stage import (
    StageError,
    end_on_sigterm,
    make_topics,
    orders,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
    undecided,
)
from tests.running import Worker, send

WITHIN_S = 300.0
PLACES = frozenset({"source", "decision_id", "repeat_of", "supersedes"})
"""What of a decision is, or is made of, a place in the log."""


def decide(settings: Settings, workers: Sequence[str], *, kill: bool = False) -> list[Mapping[str, Any]]:
    """Have these workers decide all there is; the decisions."""
    with closing(KafkaCluster(settings, quiet=True)) as cluster, ExitStack() as stack:
        running = [
            stack.enter_context(
                Worker(
                    settings.model_copy(update={"worker": name}),
                    settings.home / f"{settings.group}-{name}.log",
                )
            )
            for name in workers
        ]
        deadline, killed = time.monotonic() + WITHIN_S, not kill
        while any((left := undecided(settings, cluster)).values()) or None in left.values():
            if not killed and None not in left.values():
                running[-1].kill()
                killed = True
            if time.monotonic() > deadline:
                raise StageError(
                    f"by partition, so many orders are not decided: {left}:\n{running[0].said()[-2_000:]}"
                )
            time.sleep(0.1)
        for each in running:
            if each.process.poll() is None and each.stop():
                raise StageError(each.said()[-2_000:])
    topic = settings.topics.decisions
    return [json.loads(each.value or b"") for each in read_all(settings, topic, settings.partitions)]


def by_place(decisions: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """The decisions by where their orders stand."""
    return {(each["source"]["partition"], each["source"]["offset"]): each for each in decisions}


def by_order(decisions: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, int], Mapping[str, Any]]:
    """The decisions without their places, by order, revision and the how many-th about it."""
    told: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    for each in sorted(decisions, key=lambda each: (each["source"]["partition"], each["source"]["offset"])):
        number = 0
        while (each["order_id"], each["revision"], number) in told:
            number += 1
        kept = {name: value for name, value in each.items() if name not in PLACES}
        told[each["order_id"], each["revision"], number] = kept
    return told


def differing(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> int:
    """How many decisions are in one only, or not the same in both."""
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


def run(count: int) -> Mapping[str, float]:
    """Decide three times; what was seen."""
    sent = list(islice(orders(1), count))
    with temporary_home("rerun") as home, running_broker(home) as broker:
        first = Settings(broker=broker.bootstrap, home=home, partitions=4, group="two-workers", row_limit=64)
        names = first.topics.model_dump()
        again = first.model_copy(
            update={
                "group": "one-worker",
                "topics": Topics(
                    **names
                    | {
                        name: names[name] + "-2"
                        for name in ("changelog", "decisions", "rejected", "decisions_shadow")
                    }
                ),
            }
        )
        elsewhere = first.model_copy(
            update={"group": "elsewhere", "partitions": 7, "topics": Topics(prefix="other-")}
        )
        publish_starter(first, "logistic_regression")
        for settings in (first, again, elsewhere):
            make_topics(settings)
        send(first, sent)
        send(elsewhere, sent)
        two = decide(first, ("w1", "w2"), kill=True)
        one = decide(again, ("w3",))
        other = decide(elsewhere, ("w4",))
    return {
        "orders": count,
        "decisions": len(two),
        "unlike, another worker count": differing(by_place(two), by_place(one)),
        "unlike, other partitions too": differing(by_order(two), by_order(other)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run and record; what differs is a figure and no failure, but for the same topic again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=60_000)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    seen = run(arguments.orders)
    for name, value in seen.items():
        print(f"{name}: {value:,}")
    if arguments.record:
        record(
            "The same raw orders decided again",
            dict(seen),
            "Two workers, one of them killed on the way; then one worker of another group on the same topic; "
            "then one on the same orders published into a topic of seven partitions instead of four.",
        )
    return 1 if seen["unlike, another worker count"] else 0


if __name__ == "__main__":
    sys.exit(main())
