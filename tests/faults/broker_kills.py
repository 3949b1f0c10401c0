"""Kill brokers under a working worker, again and again, and count every order.

    python tests/faults/broker_kills.py [--nodes 1|3] [--rounds N] [--record]

Each round sends orders, kills a broker with `kill -9` while they are decided (of three each in its turn),
starts it again and waits for every order to be decided. A worker that ended is started again, and its
exit code told.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from stream.errors import Refusal
from stream.ports import Record
from stream.publish import publish
from stream.settings import Settings
from tests.bench.results import record
from tests.faults.stage import (
    StageError,
    end_on_sigterm,
    make_topics,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
)
from tests.running import Worker, orders

ORDERS = 2_000
RATE = 200.0
WAIT_S = 60.0


def send(settings: Settings, first: int) -> None:
    """Send one round's orders, a few at a time, again where the broker was away: a resend is harmless."""
    lines = [value for _, value in orders(ORDERS, customers=200, first=first)]
    for begin in range(0, ORDERS, 50):
        for _ in range(30):
            with suppress(Refusal):
                publish(settings, lines[begin : begin + 50], rate=RATE)
                break
            time.sleep(1)


def decided(settings: Settings) -> list[Record]:
    """Every first decision about an order, for a read_committed reader."""
    topic = settings.topics.decisions
    records = read_all(settings, topic, settings.partitions, within_s=20)
    return [record for record in records if b'"repeat_of":null' in (record.value or b"")]


def by_order(decisions: Sequence[Record]) -> Counter[str]:
    """How often each order was decided."""
    return Counter(dict(decision.headers)["order_id"].decode() for decision in decisions)


def main(argv: Sequence[str] | None = None) -> int:
    """Play the rounds. Raises StageError when an order stays undecided or is decided twice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--kill-after", type=float, default=5.0, help="seconds of each round")
    parser.add_argument("--down", type=float, default=3.0, help="seconds a killed broker stays away")
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/bench/RESULTS.md")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    exits: list[int] = []
    gaps: list[float] = []
    missing = twice = 0
    with temporary_home("broker-kills") as home, running_broker(home, nodes=arguments.nodes) as broker:
        settings = Settings(
            broker=broker.bootstrap, home=home, group="kills", worker="w1", replication=arguments.nodes
        )
        make_topics(settings)
        publish_starter(settings)
        worker = Worker(settings, home / "worker.log")
        try:
            for number in range(arguments.rounds):
                sender = threading.Thread(target=send, args=(settings, number * ORDERS))
                sender.start()
                time.sleep(arguments.kill_after)
                node = broker.nodes[number % len(broker.nodes)]
                killed_at = time.time()
                broker.kill_node(node)
                time.sleep(arguments.down)
                broker.start_node(node)
                sender.join()
                wanted = (number + 1) * ORDERS
                found: list[Record] = []
                deadline = time.monotonic() + WAIT_S
                while len(by_order(found)) < wanted and time.monotonic() < deadline:
                    code = worker.process.poll()
                    if code is not None:
                        exits.append(code)
                        print(f"round {number}: the worker ended with {code} and is started again")
                        worker = Worker(settings, home / "worker.log")
                    time.sleep(2)
                    with suppress(StageError):
                        found = decided(settings)
                counts = by_order(found)
                twice = sum(count > 1 for count in counts.values())
                # a decision that was on its way when the broker died is no sign of life
                after = [each.timestamp / 1000 for each in found if each.timestamp / 1000 > killed_at + 1]
                gaps.append(min(after, default=time.time()) - killed_at)
                print(
                    f"round {number}: {len(counts):,} of {wanted:,} orders decided, {twice} twice; "
                    f"the next decision {gaps[-1]:.1f} s after broker {node} was killed",
                    flush=True,
                )
                missing = wanted - len(counts)
                if missing or twice:
                    raise StageError(f"see {home / 'worker.log'}")
        finally:
            worker.__exit__(None, None, None)
    record(
        f"Brokers killed under load, {arguments.nodes} of them in the cluster",
        {
            "kills": arguments.rounds,
            "orders": arguments.rounds * ORDERS,
            "missing": missing,
            "decided twice": twice,
            "exits of the worker that nobody asked for": len(exits),
            "longest wait for the next decision (s)": max(gaps),
            "the same, median (s)": sorted(gaps)[len(gaps) // 2],
        },
        f"A killed broker stayed away for {arguments.down:.0f} s; {RATE:.0f} orders/s, one worker.",
        keep=arguments.record,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
