"""622,892 real-shaped orders through publish, worker and decisions, and every one of them checked.

    python tests/bench/real.py                  # the backlog first, then the worker
    python tests/bench/real.py --concurrently   # the worker first, orders while it works
    python tests/bench/real.py --orders 50000
    python tests/bench/real.py --smoke

The Fraud Detection Handbook's transactions become orders (terminal = merchant, euros in cents, seconds
in UTC), go through the product's own publishing into a broker on this machine, and one worker started
as a user would start it decides them. A reader of committed records counts. The rows are restored from
the changelog and held against a dict of lists, and against the Handbook's published features.
"""

import argparse
import csv
import gzip
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import msgspec
import psutil
from confluent_kafka import Consumer, TopicPartition

from features.catalogue import STARTER
from features.define import compute
from features.events import Order, microseconds
from features.history import Row
from features.remembered import VALUES, fingerprint
from models.registry import Registry
from models.train import train
from stream.kafka import record_of
from stream.publish import publish
from stream.settings import Settings
from tests.bench.results import Cell, record
from tests.faults.stage import (
    CLI_WORKER,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    make_topics,
    read_all,
    running_broker,
    temporary_home,
)
from tests.parity.naive import naive_features
from tests.parity.test_published_features import COLUMNS as PUBLISHED_COLUMNS
from tests.parity.test_published_features import (
    FEATURES,
    PUBLISHED,
    TIES,
    TRANSACTIONS,
    rows_of,
)

WORKER = "w1"
ROW_LIMIT = 512
LEARNT_FROM = 60_000
SAMPLED = 25
"""Customers whose every decision is held against the naive features."""
SILENCE_S = 90.0
MEMORY_MB = 600
ORDERS_A_SECOND = 3_000
A_MEASUREMENT = 100_000
"""With fewer orders the figures are of starting up, and no target is set for them."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A line of the Handbook."""

    order_id: str
    customer_id: str
    terminal: str
    placed_at: datetime
    cents: int
    is_fraud: bool

    def line(self) -> bytes:
        """The order as a shop would send it."""
        told = {
            "order_id": self.order_id,
            "customer_id": self.customer_id,
            "merchant_id": self.terminal,
            "amount": self.cents,
            "currency": "EUR",
            "placed_at": self.placed_at.isoformat(),
        }
        return json.dumps(told).encode() + b"\n"

    def order(self) -> Order:
        """The order as the worker reads it."""
        return Order(
            order_id=self.order_id,
            customer_id=self.customer_id,
            merchant_id=self.terminal,
            amount=self.cents,
            currency="EUR",
            placed_at=self.placed_at,
        )


def transactions(most: int | None) -> Iterator[Transaction]:
    """The Handbook's transactions in their order in time."""
    with gzip.open(TRANSACTIONS, "rt", newline="") as lines:
        for row in itertools.islice(csv.DictReader(lines), most):
            yield Transaction(
                row["TRANSACTION_ID"],
                row["CUSTOMER_ID"],
                row["TERMINAL_ID"],
                datetime.fromisoformat(row["TX_DATETIME"]).replace(tzinfo=UTC),
                round(float(row["TX_AMOUNT"]) * 100),
                row["TX_FRAUD"] == "1",
            )


def publish_model(settings: Settings, past: Sequence[Transaction]) -> None:
    """A forest that learned from the first transactions, as the champion."""
    trained = train(
        ((each.order(), each.is_fraud) for each in past),
        name="starter",
        predictor="random_forest",
        trained_at=date(2018, 8, 15),
        row_limit=ROW_LIMIT,
    )
    registry = Registry(settings.home / "models")
    registry.publish(trained)
    registry.promote("starter", trained.version)


class Sampler(threading.Thread):
    """Watches what two processes use: the most memory, and all processor time."""

    def __init__(self, worker: int, broker: int) -> None:
        super().__init__(name="sampler", daemon=True)
        self._worker = psutil.Process(worker)
        self._broker = psutil.Process(broker)
        self._broker_before = cpu_of(self._broker)
        self.worker_mb = 0.0
        self.worker_cpu = 0.0
        self.broker_cpu = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            try:
                self.worker_mb = max(self.worker_mb, self._worker.memory_info().rss / 2**20)
                self.worker_cpu = cpu_of(self._worker)
                self.broker_cpu = cpu_of(self._broker) - self._broker_before
            except psutil.Error:
                return

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self.join()


def cpu_of(process: psutil.Process) -> float:
    """The processor time it used so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


class _Named(msgspec.Struct):
    decision_id: str


@dataclass(slots=True)
class Counted:
    """What a reader of committed decisions saw."""

    decisions: int = 0
    decision_ids: set[str] = field(default_factory=set)
    order_ids: set[str] = field(default_factory=set)
    sampled: dict[str, bytes] = field(default_factory=dict)
    first_at: float = 0.0
    last_at: float = 0.0


def count_decisions(
    settings: Settings, expected: int, sample: set[bytes], fleet: Fleet, silence_s: float = SILENCE_S
) -> Counted:
    """Read until all were seen or nothing came for a long while; afterwards whatever came too many."""
    consumer = Consumer(
        settings.confluent(
            group_id="count", isolation_level="read_committed", enable_auto_commit=False, log_level=0
        )
    )
    topic = settings.topics.decisions
    consumer.assign([TopicPartition(topic, number, 0) for number in range(settings.partitions)])
    counted = Counted()
    decode = msgspec.json.Decoder(_Named).decode
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < (2.0 if counted.decisions >= expected else silence_s):
        messages = [each for each in consumer.consume(5_000, 0.1) if each.error() is None]
        fleet.tick()
        if fleet.exits:
            raise StageError(f"the worker ended with code {fleet.exits[0][1]}; see {fleet.folder}")
        if not messages:
            continue
        quiet_since = counted.last_at = time.monotonic()
        counted.first_at = counted.first_at or quiet_since
        for message in messages:
            seen = record_of(message)
            order_id = dict(seen.headers)["order_id"].decode()
            counted.decisions += 1
            counted.decision_ids.add(decode(seen.value or b"").decision_id)
            counted.order_ids.add(order_id)
            if seen.key in sample:
                counted.sampled[order_id] = seen.value or b""
    consumer.close()
    return counted


def restored_rows(settings: Settings) -> dict[str, Row]:
    """Every customer's row, from the changelog alone."""
    kept: dict[bytes, bytes] = {}
    for each in read_all(settings, settings.topics.changelog, settings.partitions):
        if each.key is not None and each.key.startswith(b"c"):
            if each.value is None:
                kept.pop(each.key, None)
            else:
                kept[each.key] = each.value
    return {key[1:].decode(): Row.decode(value, ROW_LIMIT) for key, value in kept.items()}


def wrong_rows(rows: dict[str, Row], sent: Sequence[Transaction]) -> list[str]:
    """Customers whose row does not hold just what a dict of lists holds, column by column."""
    past: dict[str, list[Transaction]] = {}
    for each in sent:
        past.setdefault(each.customer_id, []).append(each)
    wrong = sorted(rows.keys() - past.keys())
    for customer, arrived in past.items():
        row = rows.get(customer)
        held = sorted(arrived, key=lambda each: each.placed_at)[-ROW_LIMIT:]  # stable: as they arrived
        told = {
            "currency": ["EUR"] * len(held),
            "merchant": [each.terminal for each in held],
            "customer": [customer] * len(held),
        }
        if (
            row is None
            or row.folded != len(arrived) - len(held)
            or row.column("placed_at") != [microseconds(each.placed_at) for each in held]
            or row.column("amount") != [each.cents for each in held]
            or row.column("order") != [fingerprint(each.order_id) for each in held]
            or any(
                row.column(name) != [fingerprint(value) for value in told.get(name, [None] * len(held))]
                for name in VALUES
            )
        ):
            wrong.append(customer)
    return wrong


def wrong_features(sampled: dict[str, bytes], sent: Sequence[Transaction], sample: set[bytes]) -> list[str]:
    """Orders of the sampled customers whose decision tells other features than the naive oracle."""
    past: dict[str, list[Order]] = {}
    wrong = []
    for each in sent:
        if each.customer_id.encode() not in sample:
            continue
        order, arrived = each.order(), past.setdefault(each.customer_id, [])
        naive = naive_features(STARTER, arrived, order)
        arrived.append(order)
        told = json.loads(sampled[each.order_id])["features"] if each.order_id in sampled else None
        if told != naive:
            wrong.append(each.order_id)
    return wrong


def published_features(rows: dict[str, Row], sent: Sequence[Transaction]) -> tuple[int, list[str]]:
    """How many of the Handbook's features the restored rows meet to a millionth, and where they do not.

    Its windows are (t - w, t] and count the transaction itself, so the rows are asked as of one second
    later; times are whole seconds.
    """
    known = {
        row["TRANSACTION_ID"]: [float(row[column]) for column in PUBLISHED_COLUMNS]
        for row in rows_of(PUBLISHED)
    }
    one_second = timedelta(seconds=1)
    met, missed = 0, []
    for each in sent:
        wanted = known.get(each.order_id)
        if wanted is None or each.order_id in TIES:
            continue
        row = rows.get(each.customer_id)
        found = (
            ()
            if row is None
            else compute(FEATURES, each.order(), {"customer": row.as_of(each.placed_at + one_second)})
        )
        if len(found) == len(wanted) and all(
            value is not None and abs(value - number) <= 1e-6
            for value, number in zip(found, wanted, strict=True)
        ):
            met += 1
        else:
            missed.append(each.order_id)
    return met, missed


def play(arguments: argparse.Namespace) -> tuple[dict[str, Cell], list[str]]:
    """One run: the figures, and what is wrong."""
    began = time.monotonic()
    sent = list(transactions(arguments.orders))
    customers = sorted({each.customer_id for each in sent})
    sample = {c.encode() for c in random.Random(1).sample(customers, min(SAMPLED, len(customers)))}
    with temporary_home("real") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=8,
            group="real",
            worker="bench",
            row_limit=ROW_LIMIT,
        )
        make_topics(settings)
        publish_model(settings, sent[:LEARNT_FROM])
        file = home / "orders.jsonl"
        with file.open("wb") as lines:
            lines.writelines(each.line() for each in sent)
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            [WORKER],
            random.Random(1),
        )
        broker_pid = broker.status()[0].pid
        published: list[float] = []
        failures: list[BaseException] = []

        def publish_all() -> None:
            try:
                with file.open("rb") as lines:
                    done = publish(settings, lines)
            except BaseException as failure:  # noqa: BLE001 (raised again in the main thread)
                failures.append(failure)
                return
            if done.sent != len(sent):
                failures.append(StageError(f"{done.refused} of {len(sent)} orders were refused by publish"))
            published.append(done.seconds)

        publishing = threading.Thread(target=publish_all, name="publish", daemon=True)
        sampler = None
        try:
            if not arguments.concurrently:
                publishing.start()
                publishing.join()
            fleet.start()
            worker = fleet.workers[WORKER].process
            if worker is None or broker_pid is None:
                raise StageError("the worker or the broker is gone before the run")
            sampler = Sampler(worker.pid, broker_pid)
            sampler.start()
            if arguments.concurrently:
                publishing.start()
            counted = count_decisions(settings, len(sent), sample, fleet)
            publishing.join()
            sampler.end()
            if failures:
                raise failures[0]
            code = fleet.stop()[WORKER]
        finally:
            fleet.kill_all()
            if sampler is not None:
                sampler.end()
        rows = restored_rows(settings)
    ids = {each.order_id for each in sent}
    bad_rows = wrong_rows(rows, sent)
    bad_features = wrong_features(counted.sampled, sent, sample)
    met, missed = published_features(rows, sent)
    seconds = counted.last_at - counted.first_at
    rate = counted.decisions / seconds if seconds else 0.0
    figures: dict[str, Cell] = {
        "orders": len(sent),
        "decisions": counted.decisions,
        "distinct decision ids": len(counted.decision_ids),
        "distinct order ids": len(counted.order_ids),
        "missing": len(ids - counted.order_ids),
        "repeated": counted.decisions - len(counted.order_ids),
        "orders/s, first decision to last": rate,
        "seconds, first decision to last": seconds,
        "publishing, orders/s": len(sent) / published[0],
        "worker's memory at most (MB)": sampler.worker_mb,
        "worker, CPU s": sampler.worker_cpu,
        "worker, CPU s per 10,000 orders": sampler.worker_cpu / len(sent) * 10_000,
        "broker, CPU s": sampler.broker_cpu,
        "customers": len(customers),
        "rows unlike the naive pass": len(bad_rows),
        "sampled decisions": len(counted.sampled),
        "sampled decisions unlike the naive features": len(bad_features),
        "published features met to 1e-6": met,
        "published features missed": len(missed),
        "seconds in all": time.monotonic() - began,
    }
    wrong = [
        f"{figures[name]} {name}"
        for name in (
            "missing",
            "repeated",
            "rows unlike the naive pass",
            "sampled decisions unlike the naive features",
            "published features missed",
        )
        if figures[name]
    ]
    if len(counted.decision_ids) != len(sent) or counted.order_ids != ids:
        wrong.append("the ids decided are not the ids sent")
    if code != 0:
        wrong.append(f"the worker ended with code {code} when asked to stop")
    if len(sent) >= A_MEASUREMENT:
        if sampler.worker_mb > MEMORY_MB:
            wrong.append(f"{sampler.worker_mb:.0f} MB of memory, {MEMORY_MB} allowed")
        if rate < ORDERS_A_SECOND:
            wrong.append(f"{rate:.0f} orders/s, {ORDERS_A_SECOND} wanted")
    return figures, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, judge; 1 when anything is wrong or a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, help="the first so many; all when absent")
    parser.add_argument("--concurrently", action="store_true", help="publish while the worker works")
    parser.add_argument("--smoke", action="store_true", help="the first 3,000, nothing recorded")
    arguments = parser.parse_args(argv)
    if not TRANSACTIONS.exists():
        print("needs ../shared/data (the Handbook's transactions)", file=sys.stderr)
        return 2
    if arguments.smoke:
        arguments.orders = 3_000
    end_on_sigterm()
    figures, wrong = play(arguments)
    how = (
        "orders published while the worker works" if arguments.concurrently else "all orders published before"
    )
    record(
        "Real orders",
        figures,
        f"One worker, 8 partitions, random forest, {how}, broker and reader on the same machine."
        + "".join(f" WRONG: {each}." for each in wrong),
        keep=not arguments.smoke,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
