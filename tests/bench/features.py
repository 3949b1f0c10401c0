"""What an order's features cost, whatever its customer's past, and how fast lost rows come back.

    python tests/bench/features.py
    python tests/bench/features.py --smoke

First the customer alone, without Kafka: decode the row, compute, remember, encode, for one order of a
customer with so many past orders. Each figure is the processor time of one of the quickest of many passes,
divided by the orders in it: whatever else runs on the machine adds to it, and a virtual machine's clock loses
some now and then, so it is not the very quickest. Then a million rows are put into the changelog of a real
broker, and a worker's own code restores them into an empty RocksDB.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from copy import copy
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":
    # else this file stands in for the package of its name
    sys.path[0] = str(Path(__file__).parents[2])

from features.catalogue import SERVED, by_names
from features.define import Feature, compute
from features.facts import Fact
from features.fast import Told, read_usual
from features.history import Row
from features.plan import Plan
from features.remembered import told
from features.tiles import TILED
from stream.desk import customer_key, partition_of
from stream.kafka import KafkaCluster, RealClock
from stream.metrics import MeasuredCluster, Measurements
from stream.ports import Assignment, Produce
from stream.settings import Settings
from stream.store import RocksStore
from stream.writer import Limits, Writer
from tests.bench.results import Cell, record
from tests.faults.stage import end_on_sigterm, high, make_topics, running_broker, temporary_home

AT = datetime(2026, 3, 1, tzinfo=UTC)
LIMIT = 512
PARTITIONS = 8
ROWS_A_TRANSACTION = 4_000
TARGET_US = 60.0
TARGET_PAST = 100
FLAT_WITHIN = 1.25
"""Times what a full row without tiles costs: more, and a longer past would not be called flat."""
TARGET_ROWS_A_SECOND = 50_000
LEAST_PASSES = 10
LEAST_ORDERS = 20
"""In a pass."""
OPENED_WITHIN_S = 300.0

THIRTY = by_names(
    (
        *("amount", "hour_of_day", "items_count", "digital_share", "payment_attempts", "account_age_days"),
        *("issuer_country_differs", "shipping_country_differs"),
        *("orders_count_1h", "orders_count_1d", "orders_count_30d", "orders_trend_7d_90d"),
        *("days_since_last_order", "days_since_first_order", "days_since_last_order_same_card"),
        *("amount_sum_1d", "amount_sum_30d", "amount_mean_30d", "amount_std_90d", "amount_max_30d"),
        *("amount_zscore_90d", "amount_over_amount_mean_30d"),
        *("device_is_new", "card_is_new", "shipping_address_is_new"),
        *("device_distinct_30d", "card_distinct_30d", "same_country_share_90d"),
        *("declined_count_30d", "fraud_share_365d"),
    )
)
"""What a first model of a shop would ask, from every group that asks the past."""


# The orders ---------------------------------------------------------------------------------------


def an_order(number: int, customer: str, placed_at: datetime, chance: random.Random) -> Told:
    """An order with what a shop usually tells, as a worker reads it."""
    address = {"postcode": "10115", "country": "DE", "latitude": 52.53, "longitude": 13.38}
    value = {
        "order_id": f"{customer}-{number}",
        "customer_id": customer,
        "placed_at": placed_at.isoformat(),
        "amount": chance.randrange(100, 100_000),
        "currency": "EUR",
        "country": "DE",
        "channel": "web",
        "merchant_id": "m1",
        "device_id": f"d-{customer}-{chance.randrange(4)}",
        "ip": f"192.0.2.{chance.randrange(255)}",
        "email_hash": f"e-{customer}",
        "email_domain": "example.org",
        "account_created_at": "2024-05-01T10:00:00Z",
        "card": {
            "fingerprint": f"f-{customer}-{chance.randrange(3)}",
            "bin": "411111",
            "issuer_country": "DE",
        },
        "payment_method": "card",
        "payment_attempts": 1,
        "shipping": {"hash": f"s-{customer}", **address},
        "billing": {"hash": f"s-{customer}", **address},
        "items": [
            {
                "sku": "a",
                "category": chance.choice(("books", "games", "home")),
                "unit_price": 1200,
                "quantity": chance.randrange(1, 4),
            }
        ],
    }
    told = read_usual(
        json.dumps(value).encode(), key=customer.encode(), arrived_at=None, ahead_by_at_most=timedelta(0)
    )
    assert told is not None, "an order of the bench was left to the slow way"
    return told


def past_orders(customer: str, count: int) -> Iterator[Told]:
    """A customer's orders, oldest first: one in nine hours, or in five minutes where they are many."""
    chance = random.Random(customer)
    # with a full row even the windows of days are full: the dearest there is, and the same for all of them
    apart = timedelta(hours=9) if count < LIMIT else min(timedelta(minutes=5), timedelta(days=365) / count)
    some = [an_order(number, customer, AT, chance) for number in range(min(count, 2_000))]
    for number in range(count):
        order = copy(some[number % len(some)])
        order.order_id = f"{customer}-{number}"
        order.placed_at = AT - apart * (count - number)
        order.amount = chance.randrange(100, 100_000)
        yield order


def a_past(customer: str, count: int, *, with_facts: bool) -> Row:
    """The row of a customer with so many past orders."""
    row = Row(LIMIT)
    for number, order in enumerate(past_orders(customer, count)):
        row.remember(order)
        # a row holds as many statements as orders: of older orders nothing would be left
        if with_facts and number >= count - LIMIT:
            for what, is_so, after in (("authorised", True, 0), ("fraud", number % 50 == 0, 45)):
                known_at = order.placed_at + timedelta(days=after, seconds=2)
                row.learn(Fact(order.order_id, order.placed_at, what, is_so, known_at, order.amount, "EUR"))
    return row


# One order ----------------------------------------------------------------------------------------


class Customers:
    """Rows of customers alike, and the order that each of them places next."""

    def __init__(self, past: int, *, count: int, with_facts: bool = False) -> None:
        began = time.thread_time()
        self.rows = [a_past(f"c{number}", past, with_facts=with_facts) for number in range(count)]
        self.remembering = (time.thread_time() - began) * 1e6 / (past * count)
        """Microseconds a past order took, its making included."""
        for row in self.rows:
            assert len(row) + row.folded == past, "an order was lost on the way into the row"
        # a pass over one customer would be too short for the clock
        again = -(-LEAST_ORDERS // count)
        self.kept = again * [row.encode() for row in self.rows]
        self.orders = again * [
            an_order(past, f"c{number}", AT, random.Random(number)) for number in range(count)
        ]

    def whole(self, features: Sequence[Feature]) -> Callable[[], None]:
        """Recall, compute, remember and encode, one order after the other."""

        plan = Plan(features)

        def work() -> None:
            for data, order in zip(self.kept, self.orders, strict=True):
                row, said = Row.decode(data, LIMIT), told(order)
                plan(order, {"customer": row.as_of(order.placed_at)}, said)
                row.remember(order, said)
                row.encode()

        return work

    def steps(self) -> dict[str, Callable[[], object]]:
        """What is to be measured; the names are those of the figures."""

        def decode() -> list[Row]:
            return [Row.decode(data, LIMIT) for data in self.kept]

        plan = Plan(THIRTY)

        def thirty() -> None:
            for row, order in zip(decode(), self.orders, strict=True):
                plan(order, {"customer": row.as_of(order.placed_at)})

        def remembered() -> list[Row]:
            rows = decode()
            for row, order in zip(rows, self.orders, strict=True):
                row.remember(order)
            return rows

        return {
            "recall: decode the row's bytes": decode,
            "recall and compute 30 features": thirty,
            "recall and remember": remembered,
            "recall, remember and encode": lambda: [row.encode() for row in remembered()],
            "all of it, 30 features": self.whole(THIRTY),
            f"all of it, the {len(SERVED)} served features": self.whole(SERVED),
        }

    def check(self) -> None:
        """A row's bytes are the row, and its counts are within the bound."""
        year = by_names(("orders_count_365d",))
        for data, row, order in zip(self.kept, self.rows, self.orders, strict=False):
            again = Row.decode(data, LIMIT)
            assert again.encode() == data, "a row is not what its bytes say"
            vectors = [compute(SERVED, order, {"customer": each.as_of(AT)}) for each in (row, again)]
            assert vectors[0] == vectors[1], "a row's bytes answer otherwise than the row"
            (counted,) = compute(year, order, {"customer": again.as_of(AT)})
            past = len(row) + row.folded
            assert counted is not None
            assert past * (1 - 1 / TILED) <= counted <= past, f"{counted} orders counted of {past}"


def microseconds_each(work: Callable[[], object], orders: int, seconds: float) -> float:
    """The processor time of a pass, divided by its orders; one of ten was quicker."""
    until = time.monotonic() + seconds
    passes: list[int] = []
    while len(passes) < LEAST_PASSES or time.monotonic() < until:
        began = time.thread_time_ns()
        work()
        passes.append(time.thread_time_ns() - began)
    return sorted(passes)[len(passes) // 10] / 1_000 / orders


def one_order(pasts: Sequence[int], seconds: float) -> tuple[dict[str, list[Cell]], list[str]]:
    """The figures of one order for each length of the past, and which targets are missed."""
    figures: dict[str, list[Cell]] = {}

    def add(name: str, cell: Cell) -> None:
        figures.setdefault(name, []).append(cell)

    for past in pasts:
        # the row of a million takes a while to make, and one alone stays in the processor's cache as they do
        customers = Customers(past, count=40 if past <= LIMIT else 1)
        customers.check()
        count = len(customers.orders)
        for name, work in customers.steps().items():
            add(name, microseconds_each(work, count, seconds))
        heard = Customers(past, count=count, with_facts=True) if past <= LIMIT else None
        if heard is not None:
            heard.check()
        add(
            "all of it, 30 features, two facts told of each order",
            None if heard is None else microseconds_each(heard.whole(THIRTY), count, seconds),
        )
        mean = sum(map(len, customers.kept)) // count
        add("bytes of the row", mean)
        add("bytes of the row, a past order", mean / past)
        add(
            "bytes of the row, two facts told of each order",
            None if heard is None else sum(map(len, heard.kept)) // count,
        )
        add("orders held one by one", len(customers.rows[0]))
        add("made by remembering one after the other, an order", customers.remembering)
    whole = dict(zip(pasts, cast("list[float]", figures["all of it, 30 features"]), strict=True))
    missed = []
    if whole.get(TARGET_PAST, 0.0) > TARGET_US:
        missed.append(f"{whole[TARGET_PAST]:.1f} µs at {TARGET_PAST} past orders, {TARGET_US:.0f} wanted")
    missed += [
        f"{cost:.1f} µs at {past:,} past orders, {whole[LIMIT]:.1f} at {LIMIT}: not flat"
        for past, cost in whole.items()
        if past > LIMIT and cost > FLAT_WITHIN * whole[LIMIT]
    ]
    return figures, missed


# The restore --------------------------------------------------------------------------------------


class _NoDesk:
    """Decides nothing: a restore is over before the first order."""

    def decide(self, *_: Any) -> Any:
        """No order comes."""
        raise AssertionError("an order came during a restore")

    set_aside = decide


def fill(settings: Settings, cluster: KafkaCluster, rows: Sequence[bytes], count: int) -> int:
    """Put so many rows into the changelog, as a worker does; answers their bytes."""
    producer = cluster.producer("filler")
    written = 0
    numbered = zip(range(count), cycle(rows), strict=False)
    while some := list(islice(numbered, ROWS_A_TRANSACTION)):
        producer.begin()
        for number, row in some:
            customer = f"customer-{number}"
            partition = partition_of(customer.encode(), settings.partitions)
            producer.produce(Produce(settings.topics.changelog, partition, customer_key(customer), row))
            written += len(row)
        producer.flush()
        producer.commit()
    producer.close()
    return written


def restore(settings: Settings, cluster: KafkaCluster, store: RocksStore) -> tuple[float, float]:
    """Have a writer open every partition; seconds, and the processor time of this process meanwhile."""
    measured = Measurements()
    writer = Writer(
        name=settings.worker,
        roads=settings.roads,
        changelog=settings.topics.changelog,
        partitions=settings.partitions,
        group=settings.group,
        cluster=MeasuredCluster(cluster, measured, changelog=settings.topics.changelog),
        store=store,
        desk=_NoDesk(),
        clock=RealClock(),
        limits=Limits(),
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            writer.run()
        except BaseException as error:  # noqa: BLE001 (raised below, in the thread that waits)
            failed.append(error)

    thread = threading.Thread(target=run, name="writer", daemon=True)
    thread.start()
    began, before = time.monotonic(), time.process_time()
    writer.mailbox.assign(Assignment(-1, "", frozenset(range(settings.partitions))))
    while not writer.is_open and not failed and time.monotonic() < began + OPENED_WITHIN_S:
        time.sleep(0.005)
    seconds, cpu = time.monotonic() - began, time.process_time() - before
    assert not failed, failed
    assert writer.is_open, f"not restored within {OPENED_WITHIN_S:.0f} s"
    writer.stop()
    thread.join()
    return seconds, cpu


def restored(count: int) -> tuple[dict[str, list[Cell]], list[str]]:
    """The figures of a restore of so many rows, and which targets are missed."""
    rows = [
        a_past(f"c{number}", 1 + number % 5, with_facts=False).encode()
        for number in range(min(count, 20_000))
    ]
    with temporary_home("features") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=PARTITIONS,
            group="restored",
            worker="bench",
            row_limit=LIMIT,
        )
        make_topics(settings)
        with closing(KafkaCluster(settings, quiet=True)) as cluster:
            written = fill(settings, cluster, rows, count)
            store = RocksStore(settings.home / "rows" / settings.worker)
            try:
                seconds, cpu = restore(settings, cluster, store)
                found = {key: value for number in range(PARTITIONS) for key, value in store.rows(number)}
                size = store.size()
            finally:
                store.close()
        records = sum(high(settings, (settings.topics.changelog, each)) for each in range(PARTITIONS))
    assert len(found) == count, f"{len(found)} of {count} rows came back"
    for number, row in zip(range(count), cycle(rows), strict=False):
        assert found[customer_key(f"customer-{number}")] == row, "a row came back otherwise than it was"
    rate = count / seconds
    figures: dict[str, list[Cell]] = {
        "rows": [count],
        "rows/s": [rate],
        "seconds": [seconds],
        "MB/s of rows": [written / seconds / 1e6],
        "CPU µs a row": [cpu / count * 1e6],
        "bytes a row": [written / count],
        "MB of rows": [written / 1e6],
        "MB in RocksDB": [None if size is None else size.bytes / 1e6],
        "offsets of the changelog": [records],
    }
    missed = [f"{rate:,.0f} rows/s, {TARGET_ROWS_A_SECOND:,} wanted"] if rate < TARGET_ROWS_A_SECOND else []
    return figures, missed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, record, judge; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="to be restored; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=1.5, help="of passes for each figure")
    parser.add_argument("--smoke", action="store_true", help="a few orders and rows, nothing recorded")
    arguments = parser.parse_args(argv)
    pasts = (10, TARGET_PAST, LIMIT, 100_000, 1_000_000)
    if arguments.smoke:
        pasts, arguments.rows, arguments.seconds = (10, TARGET_PAST, LIMIT, 2_000), 3_000, 0.0
    end_on_sigterm()
    figures, missed = one_order(pasts, arguments.seconds)
    restore_figures: dict[str, list[Cell]] = {}
    if arguments.rows:
        restore_figures, more = restored(arguments.rows)
        record(
            "Rows restored",
            restore_figures,
            f"One worker's own code, from the changelog of a broker on the same machine into an empty "
            f"RocksDB: {PARTITIONS} partitions, rows of 1 to 5 orders, written {ROWS_A_TRANSACTION:,} to a "
            "transaction." + "".join(f" MISSED: {each}." for each in more),
            keep=not arguments.smoke,
        )
        missed += more
    record(
        "Features, by the length of the past",
        figures,
        f"Microseconds of processor time an order, by how many past orders its customer has; rows of "
        f"{LIMIT} orders, tiles beyond; an order in nine hours, from {LIMIT} on in five minutes or less, "
        f"so that every window is full; the 30 features are {', '.join(each.name for each in THIRTY)}. "
        "Recall is from memory: RocksDB and Kafka are not in it."
        + "".join(f" MISSED: {each}." for each in missed),
        columns=[f"{past:,}" for past in pasts],
        keep=not arguments.smoke,
    )
    return 1 if missed and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
