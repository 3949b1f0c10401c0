"""The published features of customers and merchants, from orders and outcomes on topics, by a worker.

    python tests/bench/merchants.py                  # all 622,892 orders, every published row
    python tests/bench/merchants.py --orders 20000   # those of some customers and some merchants
    python tests/bench/merchants.py --smoke

The Fraud Detection Handbook's transactions are published as history (terminal = merchant), their frauds as
outcomes known a week later, each with the time at which it would have arrived. A worker with the stage of
merchants takes it all as one backlog. The published windows are (t - w, t] and count the transaction itself;
so of each published row a test order asks, one second later, which is decided and remembered nowhere. What
its decision says of customer and merchant is held against the published row to a millionth.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from confluent_kafka import Producer

from features.events import microseconds
from models.train import Heard, train
from stream.merge import ARRIVED_AT
from stream.own_features import catalogue_of
from stream.publish import HISTORY
from stream.registry import registry_of
from stream.settings import Settings
from tests.bench.real import Counted, Sampler, Transaction, count_decisions, transactions
from tests.bench.results import Cell, record
from tests.faults.stage import (
    CLI_WORKER,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    make_topics,
    running_broker,
    temporary_home,
)
from tests.parity.test_published_features import (
    COLUMNS,
    FEATURES,
    MERCHANT_COLUMNS,
    MERCHANT_FEATURES,
    PUBLISHED,
    TIES,
    TRANSACTIONS,
    an_outcome_of,
    rows_of,
)

WORKER = "w1"
ROW_LIMIT = 1_000
"""So many that every window is exact: no customer and no merchant has more in the data."""
ALL_ORDERS = 622_892
ONE_SECOND = timedelta(seconds=1)
ASKS = "asks-"
"""What the ids of test orders begin with; behind it is that of the transaction asked of."""
LEARNT_FROM = 20
"""Of one merchant in so many the model learns."""
SLOWEST = 200
"""Orders a second: with fewer the run is given up."""


class Chosen(NamedTuple):
    """Whose orders are published, and of whom the published rows are held."""

    customers: frozenset[str]
    merchants: frozenset[str]

    def has(self, customer: str, merchant: str) -> bool:
        """Whether a transaction is published."""
        return customer in self.customers or merchant in self.merchants


def chosen(sent: Sequence[Transaction], most: int | None) -> Chosen:
    """All customers and merchants, or so many of each that about `most` orders are theirs.

    Whoever is chosen is so with the whole past: a row is held only where all that its windows see is there.
    """
    customers = sorted({each.customer_id for each in sent})
    merchants = sorted({each.terminal for each in sent})
    share = 1.0 if most is None else min(1.0, most / len(sent) / 2)
    chance = random.Random(1)
    return Chosen(
        *(frozenset(chance.sample(each, max(1, round(len(each) * share)))) for each in (customers, merchants))
    )


class Sent(NamedTuple):
    """A record to be published."""

    topic: str
    arrived_at: datetime
    key: str
    value: bytes
    is_history: bool


def the_past(settings: Settings, sent: Sequence[Transaction], asked: frozenset[str]) -> Iterator[Sent]:
    """Orders, what became of them and what is asked, in the order in which they arrive."""
    topics = settings.topics
    records = []
    for each in sent:
        records.append(Sent(topics.orders, each.placed_at, each.customer_id, each.line().strip(), True))
        if each.order_id in asked:
            at = each.placed_at + ONE_SECOND
            asking = each.order().model_copy(
                update={"order_id": ASKS + each.order_id, "placed_at": at, "test": True}
            )
            value = asking.model_dump_json(exclude_defaults=True).encode()
            records.append(Sent(topics.orders, at, each.customer_id, value, False))
        if each.is_fraud:
            outcome = an_outcome_of(each.order()).model_copy(update={"customer_id": each.customer_id})
            value = outcome.model_dump_json(exclude_defaults=True).encode()
            records.append(Sent(topics.outcomes, outcome.known_at, each.customer_id, value, True))
    return iter(sorted(records, key=lambda each: each.arrived_at))  # stable: as the data has them


def publish(settings: Settings, records: Iterator[Sent]) -> tuple[int, int]:
    """Send all of it; how many orders and outcomes."""
    failed: list[object] = []
    producer = Producer(
        settings.confluent(partitioner="murmur2_random", enable_idempotence=True, acks="all", log_level=0)
    )
    orders = outcomes = 0
    for each in records:
        arrived_at = str(microseconds(each.arrived_at) // 1000).encode()
        headers: list[tuple[str, str | bytes | None]] = [(ARRIVED_AT, arrived_at)]
        headers += HISTORY if each.is_history else ()
        while True:
            try:
                producer.produce(
                    each.topic,
                    each.value,
                    each.key.encode(),
                    headers=headers,
                    on_delivery=lambda error, _: failed.append(error) if error else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        orders += each.topic == settings.topics.orders
        outcomes += each.topic == settings.topics.outcomes
    if producer.flush(60.0) or failed:
        raise StageError(f"{len(failed)} records were not taken by the broker; the run says nothing")
    return orders, outcomes


def publish_model(settings: Settings, sent: Sequence[Transaction]) -> None:
    """A model that asks for the published features, as the champion."""
    merchants = sorted({each.terminal for each in sent})
    of = set(random.Random(2).sample(merchants, max(1, len(merchants) // LEARNT_FROM)))
    heard: list[Heard] = []
    for each in sent:
        if each.terminal in of:
            heard.append((each.order(), each.is_fraud))
            if each.is_fraud:
                heard.append(an_outcome_of(each.order()))

    def at(event: Heard) -> datetime:
        return event[0].placed_at if isinstance(event, tuple) else event.known_at

    trained = train(
        sorted(heard, key=at),
        name="starter",
        predictor="logistic_regression",
        trained_at=date(2018, 8, 15),
        row_limit=settings.row_limit,
        features=(*FEATURES, *MERCHANT_FEATURES),
        entities=settings.entities,
    )
    registry = registry_of(settings, catalogue_of(settings).by_name)
    registry.publish(trained)
    registry.promote("starter", trained.version)


class Held(NamedTuple):
    """How many values of published rows were met, and the rows of which one was missed."""

    rows: int
    customers: int
    merchants: int
    missed: list[str]


def hold(counted: Counted, sent: Sequence[Transaction], whose: Chosen) -> Held:
    """Hold decisions against the published rows, the named ties apart.

    Where nothing is in a window the published share is 0 and ours is missing.
    """
    rows = customers = merchants = 0
    missed = []
    published = {row["TRANSACTION_ID"]: row for row in rows_of(PUBLISHED)}
    for each in sent:
        named, row = each.order_id, published.get(each.order_id)
        if row is None or named in TIES:
            continue
        of_customer, of_merchant = each.customer_id in whose.customers, each.terminal in whose.merchants
        rows += 1
        told = json.loads(counted.sampled.get(ASKS + named, b'{"features": {}}'))["features"]
        wanted = [(feature.name, column) for feature, column in zip(FEATURES, COLUMNS, strict=True)]
        wanted = wanted if of_customer else []
        if of_merchant:
            wanted += [
                (feature.name, column)
                for feature, column in zip(MERCHANT_FEATURES, MERCHANT_COLUMNS, strict=True)
            ]
        if all(
            name in told and abs((told[name] or 0.0) - float(row[column])) <= 1e-6 for name, column in wanted
        ):
            customers += of_customer
            merchants += of_merchant
        else:
            missed.append(named)
    return Held(rows, customers, merchants, missed)


def play(arguments: argparse.Namespace) -> tuple[dict[str, Cell], list[str]]:
    """One run: the figures, and what is wrong."""
    began = time.monotonic()
    everything = list(transactions(None))
    whose = chosen(everything, arguments.orders)
    sent = [each for each in everything if whose.has(each.customer_id, each.terminal)]
    published = {row["TRANSACTION_ID"] for row in rows_of(PUBLISHED)} - TIES
    asked = frozenset(each.order_id for each in sent if each.order_id in published)
    with temporary_home("merchants") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=8,
            group="merchants",
            worker="bench",
            row_limit=ROW_LIMIT,
            entities=("merchant",),
            features=f"{Path(__file__).with_name('published_words.py')}:OWN",
        )
        make_topics(settings)
        publish_model(settings, everything)
        orders, outcomes = publish(settings, the_past(settings, sent, asked))
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            [WORKER],
            random.Random(1),
        )
        sampler = None
        try:
            fleet.start()
            started = time.monotonic()
            worker, broker_pid = fleet.workers[WORKER].process, broker.status()[0].pid
            if worker is None or broker_pid is None:
                raise StageError("the worker or the broker is gone before the run")
            sampler = Sampler(worker.pid, broker_pid)
            sampler.start()
            # nothing is decided until the weeks before the first published row are remembered
            keys = {each.customer_id.encode() for each in sent}
            counted = count_decisions(
                settings, len(asked), keys, fleet, silence_s=120.0 + (orders + outcomes) / SLOWEST
            )
            sampler.end()
            code = fleet.stop()[WORKER]
        finally:
            fleet.kill_all()
            if sampler is not None:
                sampler.end()
    held = hold(counted, sent, whose)
    figures: dict[str, Cell] = {
        "orders remembered": len(sent),
        "outcomes": outcomes,
        "orders decided": counted.decisions,
        "missing": len(asked) - len(counted.order_ids),
        "repeated": counted.decisions - len(counted.order_ids),
        "published rows held": held.rows,
        "of them met to 1e-6 by customer": held.customers,
        "of them met to 1e-6 by merchant": held.merchants,
        "published rows missed": len(held.missed),
        "records/s of home, from the worker's start": (orders + outcomes) / (counted.last_at - started),
        "worker's memory at most (MB)": sampler.worker_mb,
        "worker, CPU s per 10,000 orders": sampler.worker_cpu / orders * 10_000,
        "broker, CPU s per 10,000 orders": sampler.broker_cpu / orders * 10_000,
        "seconds in all": time.monotonic() - began,
    }
    wrong = [
        f"{figures[name]} {name}"
        for name in ("missing", "repeated", "published rows missed")
        if figures[name]
    ]
    wrong += [f"such as {', '.join(held.missed[:5])}"] if held.missed else []
    if code != 0:
        wrong.append(f"the worker ended with code {code} when asked to stop")
    return figures, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, judge; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--orders", type=int, help="about so many, of some customers and some merchants; all when absent"
    )
    parser.add_argument("--smoke", action="store_true", help="about 6,000, nothing recorded")
    arguments = parser.parse_args(argv)
    if not TRANSACTIONS.exists():
        print("needs ../shared/data (the Handbook's transactions)", file=sys.stderr)
        return 2
    if arguments.smoke:
        arguments.orders = 6_000
    end_on_sigterm()
    figures, wrong = play(arguments)
    whose = (
        ""
        if arguments.orders is None
        else (
            " Of some customers and some merchants, each with the whole past; a row is held by customer "
            "where its customer is among them, and by merchant where its merchant is."
        )
    )
    record(
        "Published features of customers and merchants, by a worker",
        figures,
        "One worker, 8 partitions, the stage of merchants, orders and outcomes published as one backlog "
        "before it started. 201,295 rows are published; 8, of one customer in one second, are left out."
        + whose
        + "".join(f" WRONG: {each}." for each in wrong),
        keep=not arguments.smoke,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
