"""How long it takes from an order being sent to its decision being visible, seen by separate processes.

    python tests/bench/latency.py
    python tests/bench/latency.py --rates 200 1000 --seconds 60
    python tests/bench/latency.py --entities device,merchant   # and customers only, in one run
    python tests/bench/latency.py --smoke

One process sends at a steady rate and notes when it called produce; another reads the decisions
read_committed and notes when each came into its hands; the clock is the machine's, the same for both.
Where the milliseconds go is told by the broker's own times, to the millisecond: when the order was
appended, and when the worker produced the decision inside its transaction.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from features.catalogue import STARTER
from stream.kafka import record_of
from stream.settings import Settings
from tests.bench.real import cpu_of
from tests.bench.results import Cell, record
from tests.faults.on_the_road import ASKED, publish_model
from tests.faults.stage import (
    CLI_WORKER,
    OPENED_AT,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    high,
    make_topics,
    orders,
    publish_starter,
    running_broker,
    temporary_home,
)

CUSTOMERS = 3_000
SETTLING_RATE = 500.0
START_WITHIN_S = 120.0
LAST_WITHIN_S = 30.0


def send(settings: Settings, named: str, rate: float, seconds: float, times: Path) -> None:
    """Send at a steady rate, and write down when each order was handed to the producer."""
    producer = Producer(
        settings.confluent(
            partitioner="murmur2_random", enable_idempotence=True, acks="all", linger_ms=0, log_level=0
        )
    )
    # behind all that were sent before: what is placed earlier is a late order
    count = sum(high(settings, (settings.topics.orders, number)) for number in range(settings.partitions))
    since = OPENED_AT + timedelta(minutes=count)
    source = orders(1, plain=True, customers=CUSTOMERS, named=named, with_merchants=True, since=since)
    sent: dict[str, int] = {}
    began = time.monotonic()
    for number in range(round(rate * seconds)):
        key, value = next(source)
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            producer.poll(0)
            time.sleep(ahead)
        sent[f"{named}{number}"] = time.time_ns()
        producer.produce(settings.topics.orders, value, key)
    producer.flush(LAST_WITHIN_S)
    times.write_text(json.dumps(sent))


def read(settings: Settings, starts: Sequence[int], ready: Event, ended: Event, times: Path) -> None:
    """Read decisions as they become visible, and write down when and with which of the broker's times."""
    consumer = Consumer(
        settings.confluent(
            group_id="latency",
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_wait_max_ms=100,
            log_level=0,
        )
    )
    topic = settings.topics.decisions
    consumer.assign([TopicPartition(topic, number, start) for number, start in enumerate(starts)])
    seen: dict[str, tuple[int, int, int]] = {}
    ready.set()
    quiet_since = time.monotonic()
    while not ended.is_set() or time.monotonic() - quiet_since < 2.0:
        message = consumer.poll(0.05)
        if message is None or message.error() is not None:
            continue
        now = time.time_ns()
        quiet_since = time.monotonic()
        decision = record_of(message)
        headers = dict(decision.headers)
        seen[headers["order_id"].decode()] = (now, int(headers["order_arrived_at"]), decision.timestamp)
    consumer.close()
    times.write_text(json.dumps(seen))


def measure(
    settings: Settings, rate: float, *, warm_up: float, seconds: float, named: str | None = None
) -> dict[str, Cell]:
    """One rate: warm up, send, read, and match by order id; `named` is what ids begin with."""
    context = multiprocessing.get_context("spawn")
    ready, ended = context.Event(), context.Event()
    named = named or f"r{rate:g}-"
    sent_at, seen_at = settings.home / f"{named}sent.json", settings.home / f"{named}seen.json"
    starts = [high(settings, (settings.topics.decisions, number)) for number in range(settings.partitions)]
    reader = context.Process(target=read, args=(settings, starts, ready, ended, seen_at))
    sender = context.Process(target=send, args=(settings, named, rate, warm_up + seconds, sent_at))
    try:
        reader.start()
        ready.wait(30)
        sender.start()
        sender.join(warm_up + seconds + 60)
        ended.set()
        reader.join(LAST_WITHIN_S)
    finally:
        for process in (sender, reader):
            if process.is_alive():
                process.kill()
    if not sent_at.exists() or not seen_at.exists():
        raise StageError("the sender or the reader did not end; see what it said above")
    sent: dict[str, int] = json.loads(sent_at.read_text())
    seen: dict[str, list[int]] = json.loads(seen_at.read_text())
    measured = dict(list(sent.items())[round(rate * warm_up) :])
    both = [(at, *seen[order_id]) for order_id, at in measured.items() if order_id in seen]
    if len(both) < len(measured):
        raise StageError(
            f"{len(measured) - len(both)} of {len(measured)} orders were not decided within 2 s of the last "
            "decision; the worker can't keep up with this rate here"
        )
    # a decision is visible of those too, and costs less: so many orders before that these are dated ahead
    if any(high(settings, (settings.topics.rejected, number)) for number in range(settings.partitions)):
        raise StageError(f"orders were rejected; see why in topic '{settings.topics.rejected}'")
    whole = [(seen - sent) / 1e6 for sent, seen, _, _ in both]
    to_broker = [arrived - sent / 1e6 for sent, _, arrived, _ in both]
    to_decision = [float(produced - arrived) for _, _, arrived, produced in both]
    to_reader = [seen / 1e6 - produced for _, seen, _, produced in both]
    return {
        "orders measured": len(both),
        "p50 (ms)": quantile(whole, 0.5),
        "p95 (ms)": quantile(whole, 0.95),
        "p99 (ms)": quantile(whole, 0.99),
        "max (ms)": max(whole),
        "of it, p50: sent to appended": quantile(to_broker, 0.5),
        "of it, p50: appended to decision produced": quantile(to_decision, 0.5),
        "of it, p50: decision produced to visible": quantile(to_reader, 0.5),
        "p99: sent to appended": quantile(to_broker, 0.99),
        "p99: appended to decision produced": quantile(to_decision, 0.99),
        "p99: decision produced to visible": quantile(to_reader, 0.99),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def play(arguments: argparse.Namespace, entities: tuple[str, ...]) -> dict[float, dict[str, Cell]]:
    """Each rate with the stages of these entities; without any an order is decided at its customer."""
    measured: dict[float, dict[str, Cell]] = {}
    with temporary_home("latency") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=8,
            group="latency-workers",
            worker="bench",
            entities=entities,
        )
        make_topics(settings)
        if entities:
            publish_model(settings, (*STARTER, *(each for each in ASKED if each not in STARTER)))
        else:
            publish_starter(settings)
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            ["w1"],
            random.Random(1),
        )
        try:
            fleet.start()
            wait_for_the_worker(settings, fleet)
            worker, broker_pid = fleet.workers["w1"].process, broker.status()[0].pid
            if worker is None or broker_pid is None:
                raise StageError("the worker or the broker is gone before the run")
            settle(settings, arguments.settling)
            for rate in arguments.rates:
                used = {"worker": psutil.Process(worker.pid), "broker": psutil.Process(broker_pid)}
                before = {name: cpu_of(process) for name, process in used.items()}
                figures = measure(settings, rate, warm_up=arguments.warm_up, seconds=arguments.seconds)
                sent = rate * (arguments.warm_up + arguments.seconds)
                for name, process in used.items():
                    spent = cpu_of(process) - before[name]
                    figures[f"{name}, CPU s per 10,000 orders"] = spent / sent * 10_000
                measured[rate] = figures
            if fleet.stop() != {"w1": 0}:
                raise StageError(f"the worker did not end cleanly; see {home / 'workers'}")
        finally:
            fleet.kill_all()
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Set the stage, measure each rate, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 1000.0], help="orders a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each rate")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds before them, not measured")
    parser.add_argument(
        "--settling", type=float, default=90.0, help="seconds at 500/s first, until the broker is compiled"
    )
    parser.add_argument(
        "--entities", help="also with the stages of these, such as device,merchant: the two side by side"
    )
    parser.add_argument("--smoke", action="store_true", help="a few seconds, nothing recorded")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.rates, arguments.seconds, arguments.warm_up = [50.0], 3.0, 2.0
        arguments.settling = 0.01
    end_on_sigterm()
    columns: dict[str, dict[str, Cell]] = {}
    roads = [()] if arguments.entities is None else [(), tuple(arguments.entities.split(","))]
    for entities in roads:
        for rate, figures in play(arguments, entities).items():
            columns[f"{rate:,.0f}/s" + "".join(f" {each}" for each in entities)] = figures
    names = next(iter(columns.values())).keys()
    rows: dict[str, Any] = {name: [column[name] for column in columns.values()] for name in names}
    record(
        "Order to visible decision",
        rows,
        f"One worker, 8 partitions, {CUSTOMERS:,} customers, broker on the same machine; sender and reader "
        f"are processes of their own; {arguments.settling:g} s at {SETTLING_RATE:g}/s before all, then for "
        f"each rate {arguments.warm_up:g} s of warm-up and {arguments.seconds:g} s; "
        f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.",
        columns=list(columns),
        keep=not arguments.smoke,
    )
    return 0


def settle(settings: Settings, seconds: float) -> None:
    """Send orders to the worker until the broker has come to rest.

    A broker's JVM compiles what it does for its first minutes, and half the machine is busy with that; one in
    service did so long ago.
    """
    send(settings, "settling-", SETTLING_RATE, seconds, settings.home / "settling.json")


def wait_for_the_worker(settings: Settings, fleet: Fleet) -> None:
    """Send one order and wait until it is decided."""

    def decided() -> list[int]:
        return [high(settings, (settings.topics.decisions, n)) for n in range(settings.partitions)]

    # a worker that was there before has decided others, and a resend
    before = decided()
    send(settings, f"first-{sum(before)}-", 1.0, 1.0, settings.home / "first.json")
    deadline = time.monotonic() + START_WITHIN_S
    while decided() == before:
        fleet.tick()
        if fleet.exits or time.monotonic() > deadline:
            raise StageError(f"the worker did not decide its first order; see {fleet.folder}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
