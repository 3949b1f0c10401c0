"""Kill a rebuild again and again; what it leaves is the old state, whole, or marked as not complete.

    python tests/faults/rebuild_kills.py [--kills N] [--orders N] [--record]
    python tests/faults/rebuild_kills.py --entities [--minutes N]  # through stages, workers killed too

A worker decides orders of every kind and ends. Then its changelog is rebuilt into another one, with the same
settings, so that the two have to agree byte for byte: every row, and what was decided about every order.
Each run is killed with `kill -9` at a random moment after it began to write, and the next goes on; a
complete one is held against the old, and another is begun. After each kill a position that says complete
has to be one. Through stages the switch is tried as well: `tests/faults/switches.py`.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from stream.kafka import KafkaCluster, once_it_answers
from stream.settings import Settings
from stream.writer import POSITION_KEY, decode_position
from tests.bench.results import record
from tests.faults import switches
from tests.faults.stage import (
    StageError,
    end_on_sigterm,
    high,
    is_there,
    make_topics,
    orders,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
    undecided,
)
from tests.running import Worker, environment, send

PARTITIONS = 4
DECIDED_WITHIN_S = 300.0
LONGEST_S = 1.5
"""How long after it first wrote a run is killed at the latest."""

State = dict[int, dict[bytes, bytes]]
"""By partition: what stands under each key."""


def state_of(settings: Settings, changelog: str) -> tuple[State, list[bool]]:
    """What a changelog comes to, and of each partition whether its position says that it is complete."""
    state: State = {number: {} for number in range(settings.partitions)}
    complete = [False] * settings.partitions
    if not is_there(settings, changelog):  # killed before it was made
        return state, complete
    for each in read_all(settings, changelog, settings.partitions, within_s=60):
        if each.key == POSITION_KEY:
            complete[each.partition] = not decode_position(each.value or b"").is_partial
        elif each.value is None:
            state[each.partition].pop(each.key or b"", None)
        else:
            state[each.partition][each.key or b""] = each.value
    return state, complete


def decide(settings: Settings, count: int, log: Path) -> None:
    """Have a worker decide so many orders of every kind."""
    send(settings, islice(orders(1), count))
    with closing(KafkaCluster(settings, quiet=True)) as cluster, Worker(settings, log) as worker:
        deadline = time.monotonic() + DECIDED_WITHIN_S
        while any(left != 0 for left in undecided(settings, cluster).values()):
            if time.monotonic() > deadline or worker.process.poll() is not None:
                raise StageError(f"the worker did not decide all orders:\n{worker.said()[-2_000:]}")
            time.sleep(0.2)
        if worker.stop() != 0:
            raise StageError(worker.said())


def wait_until_it_writes(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has sent something to the new changelog, or has ended."""
    changelog = settings.topics.changelog

    def reached() -> list[int]:
        there = is_there(settings, changelog)
        return [high(settings, (changelog, n)) if there else 0 for n in range(settings.partitions)]

    before = reached()
    while process.poll() is None and reached() == before:
        time.sleep(0.05)


def differences(found: State, expected: State) -> int:
    """How many keys differ."""
    return sum(
        found[number].get(key) != expected[number].get(key)
        for number in expected
        for key in found[number].keys() | expected[number].keys()
    )


def run(kills: int, count: int) -> Mapping[str, float]:
    """Kill so many runs; what was seen."""
    chance = random.Random(1)
    seen = {"kills": 0, "kills while it worked": 0, "rebuilds completed": 0, "keys wrong": 0, "keys": 0}
    with temporary_home("rebuild") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap, home=home, partitions=PARTITIONS, group="shop", worker="w1", row_limit=64
        )
        make_topics(settings)
        publish_starter(settings, "logistic_regression")
        decide(settings, count, home / "worker.log")
        source = settings.topics.changelog
        expected, _ = state_of(settings, source)
        seen["keys"] = sum(map(len, expected.values()))
        target = 2
        while seen["kills"] < kills or not seen["rebuilds completed"]:
            topics = settings.topics.model_copy(update={"changelog": f"{source}-{target}"})
            anew = settings.model_copy(update={"topics": topics})
            with (home / "rebuild.log").open("ab") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "stream.cli", "rebuild", "start", "--from", source, "--once"],
                    env={"PATH": "/usr/bin:/bin", "PYTHONPATH": sys.path[0], **environment(anew)},
                    stdout=out,
                    stderr=out,
                )
            try:
                if seen["kills"] < kills:
                    wait_until_it_writes(anew, process)
                    process.wait(chance.uniform(0.0, LONGEST_S))
                else:
                    process.wait(120.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                seen["kills"] += 1
            else:
                if process.returncode:
                    raise StageError((home / "rebuild.log").read_text()[-2_000:])
            with closing(KafkaCluster(anew, quiet=True)) as cluster:
                # ends what the killed one left open, as the next run would
                once_it_answers(cluster.producer, f"rebuild-{topics.changelog}").close()
            found, complete = state_of(settings, topics.changelog)
            wrong = {n: each for n, each in found.items() if complete[n]}
            seen["keys wrong"] += differences(wrong, {n: expected[n] for n in wrong})
            at_work = process.returncode < 0 and any(found.values()) and not all(complete)
            seen["kills while it worked"] += at_work
            if process.returncode == 0:
                if not all(complete):
                    raise StageError(f"'{topics.changelog}' was called complete and is not: {complete}")
                seen["rebuilds completed"] += 1
                target += 1
            print(f"{seen['kills']}/{kills} kills, {seen['rebuilds completed']} complete", flush=True)
    return seen


def run_switches(arguments: argparse.Namespace) -> int:
    """The same where orders go through stages."""
    seen = switches.run(arguments.seed, arguments.kills, arguments.minutes * 60)
    for name, value in seen.figures().items():
        print(f"{name}: {value:,}")
    if arguments.record:
        record(
            "Rebuilds and switches killed again and again, through stages",
            dict(seen.figures()),
            "Two workers decide 40 orders/s through `device`, then `device,merchant` and `merchant,device` "
            "in turn, with another `row_limit` at each second switch. Killed are the rebuild (while it "
            "follows, in the drain, at the switch) and workers, old and new. What a rebuild calls complete, "
            "and the rows in the end, are held against a plain replay, byte for byte; each order has to have "
            f"one answer, and one sent again that of the first. Seed {arguments.seed}.",
        )
    return 0 if seen.is_clean else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run, record, judge; 1 where a key was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--orders", type=int, default=40_000)
    parser.add_argument("--entities", action="store_true", help="where orders go through stages")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="no switch is begun later; with --entities"
    )
    parser.add_argument("--seed", type=int, default=1, help="with --entities")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    if arguments.entities:
        return run_switches(arguments)
    seen = run(arguments.kills, arguments.orders)
    for name, value in seen.items():
        print(f"{name}: {value:,}")
    if arguments.record:
        record(
            "A rebuild killed again and again",
            dict(seen),
            "Each run of `fraudstream rebuild start` is killed at a random moment after it first wrote; "
            "after each kill, and each complete rebuild, the new changelog is held against the old one, byte "
            "for byte.",
        )
    return 1 if seen["keys wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
