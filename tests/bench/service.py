"""What models in service cost: champions that change under load, five that look on, three hundred versions.

    python tests/bench/service.py
    python tests/bench/service.py --rate 500 --seconds 60 --swaps 50 --versions 300
    python tests/bench/service.py --smoke

One worker and one broker on this machine; orders are sent, and decisions read, by processes of their own
(tests/bench/latency.py). Afterwards every decision is looked at: each order once, and in every partition
each move at one offset.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import psutil

from models.registry import Registry
from stream.deploying import Mover, Who
from stream.service import Scope
from stream.settings import Settings
from tests.bench.latency import SETTLING_RATE, measure, settle, wait_for_the_worker
from tests.bench.real import cpu_of
from tests.bench.results import Cell, record
from tests.faults.stage import (
    CLI_WORKER,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    make_topics,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
)
from tests.versions import publish_versions

WHO = Who("bench", "to measure")
SHADOWS = 5


class Swaps(threading.Thread):
    """Promotes one model after the other, evenly over the seconds."""

    def __init__(self, mover: Mover, models: Sequence[str], times: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._mover, self._models = mover, models
        self._times, self._every = times, seconds / max(times, 1)
        self.moves: dict[int, str] = {}
        """By the control offset from which on it is in force, the champion."""

    def run(self) -> None:
        began = time.monotonic()
        for number in range(self._times):
            time.sleep(max(0.0, began + number * self._every - time.monotonic()))
            model = self._models[number % len(self._models)]
            self.moves[self._mover.promote(model, WHO).offset + 1] = model


def check(settings: Settings, moves: dict[int, str], *, first: str) -> dict[str, Cell]:
    """Every decision: each order once, by the champion of its control offset, each switch at one place."""
    orders = Counter[str]()
    places: dict[int, list[tuple[int, int]]] = {}
    wrong = 0
    for each in read_all(settings, settings.topics.decisions, settings.partitions):
        told = json.loads(each.value or b"")
        orders[told["order_id"]] += 1
        control = told["source"]["others"][settings.topics.control]
        in_force = max((at for at in moves if at <= control), default=None)
        expected = first if in_force is None else moves[in_force]
        wrong += f"{told['model']['name']}@{told['model']['version']}" != expected
        places.setdefault(each.partition, []).append((told["source"]["offset"], control))
    back = sum(
        one[1] > other[1]
        for some in places.values()
        for one, other in zip(sorted(some), sorted(some)[1:], strict=False)
    )
    sent = sum(1 for _ in read_all(settings, settings.topics.orders, settings.partitions))
    return {
        "orders sent": sent,
        "orders lost": sent - len(orders),
        "orders decided twice": sum(times > 1 for times in orders.values()),
        "decided by another than the champion of their control offset": wrong,
        "switches that are not at one offset of a partition": back,
    }


@contextmanager
def worker(settings: Settings, fleet: Fleet) -> Iterator[psutil.Process]:
    """The worker, once it decides."""
    fleet.start()
    wait_for_the_worker(settings, fleet)
    process = fleet.workers["w1"].process
    if process is None:
        raise StageError(f"the worker is gone; see {fleet.folder}")
    yield psutil.Process(process.pid)
    if fleet.stop() != {"w1": 0}:
        raise StageError(f"the worker did not end cleanly; see {fleet.folder}")


def play(arguments: argparse.Namespace) -> tuple[dict[str, dict[str, Cell]], dict[str, Cell]]:
    """The figures of each way to serve, and what was checked."""
    measured: dict[str, dict[str, Cell]] = {}
    with temporary_home("service") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap, home=home, partitions=8, group="service-workers", worker="bench"
        )
        make_topics(settings)
        publish_starter(settings)
        registry = Registry(home / "models")
        models = publish_versions(settings, max(arguments.versions, SHADOWS + 1))
        mover = Mover(settings, registry, slowest_us=100_000.0)
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            ["w1"],
            random.Random(1),
        )

        def way(named: str, process: psutil.Process) -> None:
            before = cpu_of(process)
            figures = measure(
                settings,
                arguments.rate,
                warm_up=arguments.warm_up,
                seconds=arguments.seconds,
                named=f"{named.replace(' ', '-')}-",
            )
            sent = arguments.rate * (arguments.warm_up + arguments.seconds)
            kept = {
                name: figures[name]
                for name in ("orders measured", "p50 (ms)", "p95 (ms)", "p99 (ms)", "max (ms)")
            }
            kept["worker, CPU s per 10,000 orders"] = (cpu_of(process) - before) / sent * 10_000
            kept["worker, memory (MiB)"] = process.memory_info().rss / 1024**2
            measured[named] = kept

        starter = f"starter@{registry.champion('starter')}"
        try:
            with worker(settings, fleet) as process:
                settle(settings, arguments.settling)
                way("one model", process)
                swaps = Swaps(mover, models[:4], arguments.swaps, arguments.warm_up + arguments.seconds)
                swaps.start()
                way("swaps", process)
                swaps.join(120)
                moves = swaps.moves
                for model in models[1 : 1 + SHADOWS]:
                    mover.deploy(model, WHO)
                time.sleep(2.0)
                way("five shadows", process)
            began = time.monotonic()
            for number, model in enumerate(models[: arguments.versions]):
                mover.deploy(model, WHO, role="champion", scope=Scope(merchant=f"m{number}"))
            deployed_s = time.monotonic() - began
            for model in models[1 : 1 + SHADOWS]:
                mover.retire(model, WHO, role="challenger")
            checked: dict[str, Cell] = {"moves": len(moves)}
            checked |= check(settings, moves, first=starter)
            began = time.monotonic()
            with worker(settings, fleet) as process:
                started_s = time.monotonic() - began
                way("versions", process)
            measured["versions"]["start until first decision (s)"] = started_s
            measured["versions"]["deploying all of them (s)"] = deployed_s
        finally:
            fleet.kill_all()
    return measured, checked


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, and fail where an order was lost or decided by another model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=1_000.0, help="orders a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each way to serve")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds before them, not measured")
    parser.add_argument(
        "--settling",
        type=float,
        default=90.0,
        help=f"seconds at {SETTLING_RATE:g}/s first, until the broker is compiled",
    )
    parser.add_argument("--swaps", type=int, default=50, help="of champions, evenly over the seconds")
    parser.add_argument("--versions", type=int, default=300, help="each the champion of a merchant")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, nothing recorded")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.rate, arguments.seconds, arguments.warm_up = 40.0, 4.0, 2.0
        arguments.swaps, arguments.versions, arguments.settling = 3, 8, 0.01
    end_on_sigterm()
    measured, checked = play(arguments)
    names = dict.fromkeys(name for figures in measured.values() for name in figures)
    rows = {name: [figures.get(name, "") for figures in measured.values()] for name in names}
    record(
        "Models in service",
        rows,
        f"{arguments.settling:g} s at {SETTLING_RATE:g}/s before all, then for each way "
        f"{arguments.rate:,.0f} orders/s for {arguments.seconds:g} s, {arguments.warm_up:g} s of warm-up, "
        f"one worker; {arguments.swaps} promotions meanwhile; {SHADOWS} challengers; {arguments.versions} "
        "champions of a merchant each, orders come for 37. Of all decisions: "
        + ", ".join(f"{name} {value}" for name, value in checked.items())
        + f"; load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.",
        columns=list(measured),
        keep=not arguments.smoke,
    )
    bad = [value for name, value in checked.items() if name not in {"moves", "orders sent"}]
    return 1 if any(bad) or checked["moves"] != arguments.swaps else 0


if __name__ == "__main__":
    sys.exit(main())
