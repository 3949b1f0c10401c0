"""A past of a million orders loaded without deciding it, then live orders decided with that past.

    python tests/bench/history.py
    python tests/bench/history.py --orders 50000 --workers 1
    python tests/bench/history.py --customers 5000
    python tests/bench/history.py --smoke

The past is written to a file first. Then workers started as a user would start them wait, a publisher
of its own process sends the file with the product's own publishing, and the clock runs from the first
order sent until the group's committed offsets stand at the ends of the topic: what they cover is in the
changelog by the same transaction. Afterwards live orders of the same customers come in, and every
decision's features are held against the naive oracle. In the end the workers' own rows are counted.
"""

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import msgspec
import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.catalogue import STARTER
from features.events import Order
from features.history import Row
from stream.kafka import record_of
from stream.ports import Committed
from stream.publish import publish
from stream.settings import Settings
from stream.store import RocksStore
from stream.writer import Owner
from tests.bench.results import Cell, record
from tests.faults.stage import (
    CLI_WORKER,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    high,
    make_topics,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
)
from tests.parity.naive import naive_features

ROW_LIMIT = 512
FROM = datetime(2024, 1, 1, tzinfo=UTC)
PAST = timedelta(days=365)
LIVE = 1_000
START_WITHIN_S = 120.0
SILENCE_S = 90.0
ORDERS_A_SECOND = 15_000
MEMORY_MB = 600
A_MEASUREMENT = 200_000
"""With fewer orders the figures are of starting up, and no target is set for them."""


def past_orders(count: int, customers: int) -> Iterator[dict[str, Any]]:
    """Orders in their order in time, with what a shop usually tells; some customers come far more often."""
    chance = random.Random(1)
    often = list(accumulate(chance.lognormvariate(0, 0.9) for _ in range(customers)))
    numbers = range(customers)
    step = PAST / count
    draw = chance.random
    for first in range(0, count, 10_000):
        chosen = chance.choices(numbers, cum_weights=often, k=min(10_000, count - first))
        for number, customer in enumerate(chosen, first):
            yield an_order(f"past-{number}", customer, FROM + step * number, draw)


def live_orders(count: int, customers: int) -> Iterator[dict[str, Any]]:
    """Orders placed on the day after the past, by customers taken at random."""
    chance = random.Random(2)
    for number in range(count):
        placed_at = FROM + PAST + timedelta(seconds=80 * number)
        yield an_order(f"live-{number}", chance.randrange(customers), placed_at, chance.random)


def an_order(order_id: str, customer: int, placed_at: datetime, draw: Any) -> dict[str, Any]:
    """An order with what a shop usually tells."""
    address = {
        "hash": f"s{customer}",
        "city": "Mainz",
        "postcode": f"{customer % 99_999:05}",
        "country": "DE",
    }
    return {
        "order_id": order_id,
        "customer_id": f"customer-{customer}",
        "placed_at": placed_at.isoformat(),
        "amount": int(draw() * 100_000),
        "currency": "EUR",
        "country": "DE",
        "channel": "web",
        "merchant_id": "shop-1",
        "device_id": f"d{customer}-{int(draw() * 4)}",
        "ip": f"192.0.2.{int(draw() * 255)}",
        "email_hash": f"e{customer}",
        "email_domain": "mail.example",
        "card": {"fingerprint": f"f{customer}-{int(draw() * 3)}", "bin": "411111", "issuer_country": "DE"},
        "payment_method": "card",
        "payment_attempts": 1,
        "billing": address,
        "shipping": address,
        "items": [
            {
                "sku": f"sku-{int(draw() * 400)}",
                "category": ("apparel", "home", "games")[int(draw() * 3)],
                "unit_price": 1200,
                "quantity": 2,
            }
        ],
    }


def write(file: Path, orders: Iterator[dict[str, Any]]) -> int:
    """One order in JSON a line; answers how many."""
    encode = msgspec.json.Encoder().encode
    count = 0
    with file.open("wb") as lines:
        for count, order in enumerate(orders, 1):  # noqa: B007 (the last one is the answer)
            lines.write(encode(order) + b"\n")
    return count


def send(settings: Settings, file: Path, told: Any) -> None:
    """Publish the file as history, and tell when the first order went out and what processor time it took."""
    began = time.monotonic()
    before = time.process_time()
    with file.open("rb") as lines:
        published = publish(settings, lines, history=True)
    told.put((began, published.sent, published.seconds, time.process_time() - before))


@dataclass(slots=True)
class Used:
    """What processes of one kind used together between two looks."""

    processes: Sequence[psutil.Process]
    most_mb: float = 0.0
    """Of any one of them."""
    began: float = 0.0
    threads: dict[int, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Forget what came before."""
        self.began = self.cpu()
        self.threads = self._threads()

    def look(self) -> None:
        """See how much memory it has."""
        self.most_mb = max(self.most_mb, *(each.memory_info().rss / 2**20 for each in self.processes))

    def cpu(self) -> float:
        """Processor time so far."""
        times = [each.cpu_times() for each in self.processes]
        return float(sum(each.user + each.system for each in times))

    @property
    def seconds(self) -> float:
        """Processor time since `begin`."""
        return self.cpu() - self.began

    def by_kind(self) -> Mapping[str, float]:
        """Processor time since `begin`, by what its threads are named after."""
        kinds: Counter[str] = Counter()
        for number, seconds in self._threads().items():
            try:
                name = Path(f"/proc/{number}/comm").read_text().strip()  # a thread's own
            except OSError:
                continue
            kind = next((kind for kind in ("rdk", "rocksdb") if name.startswith(kind)), "python")
            kinds[kind] += seconds - self.threads.get(number, 0.0)
        return kinds

    def _threads(self) -> dict[int, float]:
        return {
            thread.id: thread.user_time + thread.system_time
            for each in self.processes
            for thread in each.threads()
        }


def wait_until_idle(settings: Settings, fleet: Fleet) -> None:
    """Wait until every partition is claimed, and every worker has claimed some."""
    deadline = time.monotonic() + START_WITHIN_S
    while owners(settings) != set(fleet.names):
        alive(fleet)
        if time.monotonic() > deadline:
            raise StageError(
                f"the partitions were not claimed within {START_WITHIN_S:.0f} s; see {fleet.folder}"
            )
        time.sleep(0.2)


def owners(settings: Settings) -> set[str]:
    """The workers that claimed a partition; one without a name where nobody did."""
    return {Owner.of(Committed(each.offset, each.metadata or "")).name for each in _committed(settings)}


def committed(settings: Settings) -> list[int]:
    """The group's committed offset of each partition; below 0 where there is none."""
    return [each.offset for each in _committed(settings)]


def _committed(settings: Settings) -> Sequence[TopicPartition]:
    topic = settings.topics.orders
    asked = [TopicPartition(topic, number) for number in range(settings.partitions)]
    try:
        return _asking(settings).committed(asked, timeout=10.0)
    except KafkaException:
        # a broker that has just started has no coordinator for the group yet
        return asked


_CONSUMERS: dict[str, Consumer] = {}


def _asking(settings: Settings) -> Consumer:
    """A member of no group that asks for the group's offsets, and so keeps one connection."""
    if settings.broker not in _CONSUMERS:
        _CONSUMERS[settings.broker] = Consumer(
            settings.confluent(group_id=settings.group, enable_auto_commit=False, log_level=0)
        )
    return _CONSUMERS[settings.broker]


def alive(fleet: Fleet) -> None:
    """Stop the run when the worker ended."""
    fleet.tick()
    if fleet.exits:
        raise StageError(f"the worker ended with code {fleet.exits[0][1]}; see {fleet.folder}")


def load(
    settings: Settings, file: Path, count: int, fleet: Fleet, used: Mapping[str, Used]
) -> dict[str, Cell]:
    """Publish the past and wait until the worker has committed the last of it; the figures."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    publisher = context.Process(target=send, args=(settings, file, told), daemon=True)
    for each in used.values():
        each.begin()
    publisher.start()
    answer = None
    ends: list[int] = []
    silent_since = time.monotonic()
    last = sum(committed(settings))
    while True:
        time.sleep(0.1)
        alive(fleet)
        for each in used.values():
            each.look()
        if answer is None and not told.empty():
            answer = told.get()
            ends = [high(settings, (settings.topics.orders, number)) for number in range(settings.partitions)]
        stands = committed(settings)
        if sum(stands) != last:
            silent_since, last = time.monotonic(), sum(stands)
        now = time.monotonic()
        if answer is not None and stands == ends:
            break
        if now - silent_since > SILENCE_S or publisher.exitcode:
            raise StageError(f"{last:,} of {count:,} orders were loaded, then nothing; see {fleet.folder}")
    began, sent, seconds, cpu = answer
    publisher.join()
    if sent != count:
        raise StageError(f"{sent} of {count} orders were published")
    kinds = used["worker"].by_kind()
    costs = {
        "publisher": cpu,
        "broker": used["broker"].seconds,
        "worker": used["worker"].seconds,
        "worker's own code (Python)": kinds["python"],
        "worker's Kafka client (librdkafka)": kinds["rdk"],
        "worker's store (RocksDB)": kinds["rocksdb"],
    }
    figures: dict[str, Cell] = {
        "orders loaded": count,
        "orders/s, first sent to last committed": count / (now - began),
        "seconds": now - began,
        "publishing, orders/s": count / seconds,
    }
    total = costs["publisher"] + costs["broker"] + costs["worker"]
    figures["CPU µs an order, all three"] = total / count * 1e6
    figures |= {f"CPU µs an order, {name}": spent / count * 1e6 for name, spent in costs.items()}
    figures["worker's memory at most (MB)"] = used["worker"].most_mb
    figures["broker's memory at most (MB)"] = used["broker"].most_mb
    return figures


class _Named(msgspec.Struct):
    order_id: str


def decide_live(settings: Settings, file: Path, count: int, fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Send the live orders and read their decisions: order id -> decision."""
    consumer = Consumer(
        settings.confluent(
            group_id="reader", isolation_level="read_committed", enable_auto_commit=False, log_level=0
        )
    )
    topic = settings.topics.decisions
    # from the beginning: a decision about the past would be among them
    consumer.assign([TopicPartition(topic, number, 0) for number in range(settings.partitions)])
    with file.open("rb") as lines:
        publish(settings, lines)
    decisions: dict[str, dict[str, Any]] = {}
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < (2.0 if len(decisions) >= count else SILENCE_S):
        alive(fleet)
        for message in consumer.consume(1_000, 0.1):
            if message.error() is None:
                quiet_since = time.monotonic()
                seen = record_of(message)
                decisions[dict(seen.headers)["order_id"].decode()] = json.loads(seen.value or b"")
    consumer.close()
    return decisions


def wrong_features(
    decisions: Mapping[str, dict[str, Any]], past: Path, live: Path
) -> tuple[int, float, list[str]]:
    """How many live orders were compared, the mean past told, and those unlike the naive oracle's."""
    sent = [Order.model_validate_json(line) for line in live.read_bytes().splitlines()]
    wanted = {order.customer_id for order in sent}
    arrived: dict[str | None, list[Order]] = {customer: [] for customer in wanted}
    quick = msgspec.json.Decoder(_Customer).decode
    with past.open("rb") as lines:
        for line in lines:
            customer = quick(line).customer_id
            if customer in wanted:
                arrived[customer].append(Order.model_validate_json(line))
    wrong = []
    counted = 0.0
    for order in sent:
        naive = naive_features(STARTER, arrived[order.customer_id], order)
        arrived[order.customer_id].append(order)
        told = decisions.get(order.order_id, {}).get("features")
        counted += naive["orders_count_30d"] or 0.0
        if told != naive:
            wrong.append(order.order_id)
    return len(sent), counted / len(sent), wrong


class _Customer(msgspec.Struct):
    customer_id: str | None = None


def held(settings: Settings, workers: Sequence[str]) -> tuple[int, int]:
    """How many customers and how many of their orders the workers' own rows hold, once they have stopped."""
    customers = orders = 0
    for name in workers:
        store = RocksStore(settings.home / "rows" / name)
        try:
            for number in range(settings.partitions):
                for key, value in store.rows(number):
                    if key.startswith(b"c"):
                        row = Row.decode(value, ROW_LIMIT)
                        customers += 1
                        orders += len(row) + row.folded
        finally:
            store.close()
    return customers, orders


def play(arguments: argparse.Namespace) -> tuple[dict[str, Cell], list[str]]:
    """One run: the figures, and what is wrong."""
    with temporary_home("history") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=8,
            group="history",
            worker="bench",
            row_limit=ROW_LIMIT,
        )
        make_topics(settings)
        publish_starter(settings)
        past, live = home / "past.jsonl", home / "live.jsonl"
        count = write(past, past_orders(arguments.orders, arguments.customers))
        asked = write(live, live_orders(min(LIVE, arguments.orders), arguments.customers))
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            [f"w{number}" for number in range(1, arguments.workers + 1)],
            random.Random(1),
        )
        broker_pid = broker.status()[0].pid
        try:
            fleet.start()
            wait_until_idle(settings, fleet)
            workers = [each.process.pid for each in fleet.workers.values() if each.process is not None]
            if len(workers) != arguments.workers or broker_pid is None:
                raise StageError("a worker or the broker is gone before the run")
            used = {
                "worker": Used([psutil.Process(pid) for pid in workers]),
                "broker": Used([psutil.Process(broker_pid)]),
            }
            figures = load(settings, past, count, fleet, used)
            decisions = decide_live(settings, live, asked, fleet)
            codes = fleet.stop()
        finally:
            fleet.kill_all()
            if (consumer := _CONSUMERS.pop(settings.broker, None)) is not None:
                consumer.close()
        compared, mean, bad = wrong_features(decisions, past, live)
        customers, orders = held(settings, fleet.names)
        rejected = sum(1 for _ in read_all(settings, settings.topics.rejected, settings.partitions))
        changelog = sum(
            high(settings, (settings.topics.changelog, number)) for number in range(settings.partitions)
        )
    figures |= {
        "customers": customers,
        "orders in the workers' rows": orders,
        "changelog records an order": changelog / (count + asked),
        "decisions about history": sum(1 for order_id in decisions if not order_id.startswith("live-")),
        "live orders": asked,
        "live orders decided": sum(1 for order_id in decisions if order_id.startswith("live-")),
        "live decisions held against the naive features": compared,
        "of them unlike": len(bad),
        "orders of the last 30 days that a live order met, mean": mean,
        "rejected": rejected,
    }
    wrong = [
        f"{figures[name]} {name}"
        for name in ("decisions about history", "of them unlike", "rejected")
        if figures[name]
    ]
    if figures["live orders decided"] != asked:
        wrong.append(f"{figures['live orders decided']} of {asked} live orders were decided")
    if orders != count + asked:
        wrong.append(f"{orders} of {count + asked} orders are in the rows")
    if any(codes.values()):
        wrong.append(f"workers ended with codes {codes} when asked to stop")
    if count >= A_MEASUREMENT:
        rate = figures["orders/s, first sent to last committed"]
        if isinstance(rate, float) and rate < ORDERS_A_SECOND:
            wrong.append(f"{rate:,.0f} orders/s, {ORDERS_A_SECOND:,} wanted")
        if used["worker"].most_mb > MEMORY_MB:
            wrong.append(f"{used['worker'].most_mb:.0f} MB of memory, {MEMORY_MB} allowed")
    return figures, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, judge; 1 when anything is wrong or a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1_000_000, help="of the past (default 1,000,000)")
    parser.add_argument("--workers", type=int, default=2, help="one for each core (default 2)")
    parser.add_argument("--customers", type=int, default=20_000, help="who placed them (default 20,000)")
    parser.add_argument(
        "--smoke", action="store_true", help="3,000 orders of 200 customers, nothing recorded"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.orders, arguments.customers = 3_000, 200
    end_on_sigterm()
    figures, wrong = play(arguments)
    record(
        "History loaded",
        figures,
        f"Workers: {arguments.workers}; 8 partitions, {arguments.customers:,} customers, a year in time "
        "order, published while it is loaded; publisher, broker and workers on the same machine."
        + "".join(f" WRONG: {each}." for each in wrong),
        keep=not arguments.smoke,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
