"""Every order of the main data set by three entities: a worker's desk, a replay, and lists with for loops.

    python tests/parity/real_entities.py
    python tests/parity/real_entities.py --customers 100 --forget   # a short one, not written to RESULTS.md

The Fraud Detection Handbook's transactions are orders of customers at merchants (its terminals). It knows no
devices: here every customer has one, one order in five comes from one of 2,000 that are shared, and one in
fifty names none. One order in 97 arrives ninety minutes late. That it was fraud is said a week later, of one
in five only two days after it was known, and of one in three it is taken back after ten days more, by half of
them with the name of the outcome that is superseded. Refunds and declined payments are said too.

All of it goes, in the order in which it arrives, through the desk of a worker as JSON: home first, then the
stage of devices and that of merchants, in batches of any size; what an order's decision says is read from its
JSON. A replay follows the same events. The lists are asked for each entity by itself, since nobody's history
hangs on another's. Every value must agree in every bit, and so must every row of worker and replay.
"""

import heapq
import json
import random
import sys
import time
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import chain
from mmap import mmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import numpy as np
from numpy.typing import NDArray

from features.catalogue import CATALOGUE
from features.define import Feature
from features.events import Order, OrderEvent, Outcome, microseconds
from features.history import Row
from features.plan import Plan
from features.replay import Replay
from models.decision import ModelRef
from models.scorer import Scored
from stream.desk import partition_of
from stream.ports import Effects, Record
from tests.bench.results import Cell, record
from tests.parity.naive import Past, Said, Vector, naive, said_of
from tests.parity.real_data import DAY, HANDBOOK, LONG_ENOUGH, Quick, arguments_of, lines_of
from tests.parity.words import EVERY_FEATURE
from tests.small_desk import Shop
from tests.strategies import as_json

STAGES = ("device", "merchant")
ENTITIES = ("customer", *STAGES)
PARTITIONS = 8
LARGEST_BATCH = 1_000
HANDS = 64
"""In how many parts the customers are dealt out, and the devices, and the merchants."""
LATE = timedelta(minutes=90)

Event = Order | Outcome | OrderEvent


class Line(NamedTuple):
    """A transaction."""

    number: int
    """Its place in the data, from 0."""
    order_id: str
    customer_id: str
    device_id: str | None
    merchant_id: str
    placed_at: datetime
    amount: int
    is_fraud: bool

    def order(self) -> Order:
        """The transaction as an order."""
        return Order(
            order_id=self.order_id,
            customer_id=self.customer_id,
            device_id=self.device_id,
            merchant_id=self.merchant_id,
            placed_at=self.placed_at,
            amount=self.amount,
            currency="EUR",
        )


def lines(customers: int | None) -> Iterator[Line]:
    """The transactions, oldest first; those of so many customers, where that is said."""
    known: set[str] = set()
    number = 0
    for line in lines_of(HANDBOOK):
        customer = line["CUSTOMER_ID"]
        if customers is not None and customer not in known:
            if len(known) == customers:
                continue
            known.add(customer)
        device = None
        if number % 50:
            device = f"shared-{number // 5 % 2_000}" if number % 5 == 1 else f"of-{customer}"
        yield Line(
            number,
            line["TRANSACTION_ID"],
            customer,
            device,
            line["TERMINAL_ID"],
            datetime.fromisoformat(line["TX_DATETIME"]).replace(tzinfo=UTC),
            round(float(line["TX_AMOUNT"]) * 100),
            line["TX_FRAUD"] == "1",
        )
        number += 1


class Arrival(NamedTuple):
    """An event and when it arrives; of those that arrive together the order of the data counts."""

    at: datetime
    number: int
    rank: int
    event: Event


def arrivals_of(line: Line) -> Iterator[Arrival]:
    """The order, and what is said of it."""
    number, placed_at = line.number, line.placed_at
    yield Arrival(placed_at + LATE if number % 97 == 0 else placed_at, number, 0, line.order())
    about: dict[str, Any] = {
        "order_id": line.order_id,
        "customer_id": line.customer_id,
        "occurred_at": placed_at,
    }
    if line.is_fraud:
        known_at = placed_at + 7 * DAY
        named = f"{line.order_id}-fraud"
        said = Outcome(kind="chargeback", is_fraud=True, known_at=known_at, outcome_id=named, **about)
        yield Arrival(known_at + 2 * DAY if number % 5 == 0 else known_at, number, 1, said)
        if number % 3 == 0:
            known_at += 10 * DAY
            supersedes = named if number % 2 else None
            taken_back = Outcome(
                kind="reversal", is_fraud=False, known_at=known_at, supersedes=supersedes, **about
            )
            yield Arrival(known_at, number, 2, taken_back)
    if number % 11 == 0:
        money: dict[str, Any] = {"amount": line.amount // 2, "currency": "EUR"}
        known_at = placed_at + 3 * DAY
        yield Arrival(known_at, number, 3, OrderEvent(kind="refunded", known_at=known_at, **money, **about))
    if number % 13 == 0:
        # of an order that is late it is known before the order
        known_at = placed_at + timedelta(seconds=2)
        yield Arrival(known_at, number, 4, OrderEvent(kind="payment_declined", known_at=known_at, **about))


def arriving(some: Iterable[Line]) -> Iterator[Arrival]:
    """All events in the order in which they arrive."""
    waiting: list[Arrival] = []
    for line in some:
        while waiting and waiting[0] < (line.placed_at, line.number):
            yield heapq.heappop(waiting)
        for each in arrivals_of(line):
            heapq.heappush(waiting, each)
    while waiting:
        yield heapq.heappop(waiting)


# By lists -----------------------------------------------------------------------------------------


def by_lists(features: Sequence[Feature], entity: str, some: Iterable[Line]) -> Iterator[tuple[int, Vector]]:
    """The place in the data of each order of one entity, as it arrives, and its features."""
    orders: list[Order] = []
    times: list[datetime] = []
    said: list[Said] = []
    came: dict[str, Order] = {}
    early: defaultdict[str, list[Outcome | OrderEvent]] = defaultdict(list)
    for arrival in arriving(some):
        event = arrival.event
        if not isinstance(event, Order):
            if event.order_id in came:
                said.append(said_of(came[event.order_id], event))
            else:
                early[event.order_id].append(event)
            continue
        scene = Quick(event, Past(orders, said), event.placed_at, times=times)
        yield arrival.number, tuple(naive(each, event, {entity: scene}) for each in features)
        insort(times, event.placed_at)
        insort(orders, event, key=lambda one: one.placed_at)
        came[event.order_id] = event
        said += [said_of(event, each) for each in early.pop(event.order_id, ())]


# By a worker and by a replay ----------------------------------------------------------------------


class Scorer:
    """A model that asks for these features, and is never worried."""

    name, version, digest = "calm", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [Scored(0.0, (), ()) for _ in vectors]


TOPIC_OF = {Order: "orders", Outcome: "outcomes", OrderEvent: "order-events"}

Rows = dict[tuple[str, str], bytes]
"""The digest of the row of each entity and id."""


def as_record(shop: Shop, arrival: Arrival) -> Record:
    """The event at the end of its topic, as a shop sends it."""
    event = arrival.event
    value = as_json(event) if isinstance(event, Order) else event.model_dump_json().encode()
    key = (event.customer_id or event.order_id).encode()
    at = microseconds(arrival.at) // 1_000
    return shop.record(TOPIC_OF[type(event)], partition_of(key, PARTITIONS), key, value, at=at)


@dataclass
class Comparison:
    """What the processes that compare share."""

    lines: list[Line]
    features: dict[str, tuple[Feature, ...]]
    """By entity; those of the order itself are the customer's."""
    places: dict[str, int]
    """Where an order lies in the data, by its id."""
    by: dict[str, list[list[Line]]]
    """The lines of each customer, device and merchant."""
    vectors: dict[str, NDArray[np.float64]]
    """What each way says: an order a row, missing is not a number."""

    @property
    def all_features(self) -> tuple[Feature, ...]:
        """Those of all entities."""
        return tuple(chain(*(self.features[entity] for entity in ENTITIES)))


SHARED: list[Comparison] = []
"""What is compared; a process that is forked has it without being sent it, and writes to the same arrays."""


def by_worker() -> tuple[Rows, Counter[str]]:
    """Everything through a worker's desk: the rows that it leaves, and how often it decided each order."""
    compared = SHARED[0]
    names = [each.name for each in compared.all_features]
    shop = Shop(
        scorer=Scorer(compared.all_features),
        entities=STAGES,
        partitions=PARTITIONS,
        row_limit=LONG_ENOUGH,
    )
    chance = random.Random(1)
    decided: Counter[str] = Counter()
    waiting: list[Record] = []
    batch = 1

    def take() -> None:
        for number, each in decisions_in(shop.take(waiting)):
            decided[number] += 1
            told = each["features"]
            compared.vectors["worker"][compared.places[number]] = [told[name] for name in names]
        waiting.clear()

    for arrival in arriving(compared.lines):
        waiting.append(as_record(shop, arrival))
        if len(waiting) >= batch:
            take()
            batch = chance.randint(1, LARGEST_BATCH)
    take()
    return {each: digest(shop.row(*each)) for each in named(compared)}, decided


def decisions_in(effects: Effects) -> Iterator[tuple[str, Any]]:
    """The decisions, each with the id of its order."""
    for each in effects.produce:
        if each.topic != "decisions":
            raise AssertionError(f"the desk sent to {each.topic}: {each.headers}")
        decision = json.loads(each.value or b"")
        yield decision["order_id"], decision


def by_replay() -> Rows:
    """Everything through a replay; the rows that it leaves."""
    compared = SHARED[0]
    past = Replay(Plan(compared.all_features), row_limit=LONG_ENOUGH, entities=ENTITIES)
    for arrival in arriving(compared.lines):
        vector = past.follow(arrival.event)
        if isinstance(arrival.event, Order):
            assert isinstance(vector, tuple), vector
            compared.vectors["replay"][arrival.number] = vector
    return {each: digest(past.row(*each)) for each in named(compared)}


def named(compared: Comparison) -> list[tuple[str, str]]:
    """Every entity that occurs."""
    found = {(entity, getattr(line, f"{entity}_id")) for line in compared.lines for entity in ENTITIES}
    return sorted((entity, each) for entity, each in found if each is not None)


def digest(row: Row) -> bytes:
    return blake2b(row.encode(), digest_size=16).digest()


def lists_of(entity: str, hand: int) -> int:
    """One part of an entity's histories by lists; how many orders were in them."""
    compared = SHARED[0]
    before = sum(len(compared.features[each]) for each in ENTITIES[: ENTITIES.index(entity)])
    features = compared.features[entity]
    count = 0
    for some in compared.by[entity][hand::HANDS]:
        for number, vector in by_lists(features, entity, some):
            compared.vectors["lists"][number, before : before + len(features)] = vector
            count += 1
    return count


# The comparison -----------------------------------------------------------------------------------


def grouped(some: Sequence[Line], entity: str) -> list[list[Line]]:
    """The lines of each of the entity's ids, the longest first, so that they can be dealt out like cards."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in some:
        named = getattr(line, f"{entity}_id")
        if named is not None:
            found[named].append(line)
    return sorted(found.values(), key=lambda each: -len(each))


def fed(entity: str, histories: Sequence[Sequence[Line]]) -> tuple[Feature, ...]:
    """The entity's features that these orders can be told apart by.

    Of the customer's those of the catalogue; of the others' whatever the tests of parity know.
    """
    kinds = (None, "customer") if entity == "customer" else (entity,)
    asked = [each for each in (CATALOGUE if None in kinds else EVERY_FEATURE) if each.entity in kinds]
    seen: list[set[float | None]] = [set() for _ in asked]
    for some in histories[:: max(1, len(histories) // 25)]:
        for _, vector in by_lists(asked, entity, some[:150]):
            for values, value in zip(seen, vector, strict=True):
                values.add(value)
    return tuple(each for each, values in zip(asked, seen, strict=True) if len(values) > 1)


def shared_array(rows: int, columns: int) -> NDArray[np.float64]:
    """An array of missing values that forked processes write to."""
    found = np.frombuffer(mmap(-1, max(1, rows * columns * 8)), np.float64).reshape(rows, columns)
    found[:] = np.nan
    return found


def unlike(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values of each column differ in any bit."""
    differ = one.view(np.int64) != other.view(np.int64)
    return np.asarray((differ & ~(np.isnan(one) & np.isnan(other))).sum(axis=0))


def run(some: list[Line], processes: int) -> tuple[dict[str, Cell], list[str]]:
    """Compare the ways; the figures, and what is wrong."""
    began = time.monotonic()
    by = {entity: grouped(some, entity) for entity in ENTITIES}
    features = {entity: fed(entity, by[entity]) for entity in ENTITIES}
    places = {line.order_id: line.number for line in some}
    width = sum(map(len, features.values()))
    vectors = {way: shared_array(len(some), width) for way in ("worker", "replay", "lists")}
    compared = Comparison(some, features, places, by, vectors)
    SHARED[:] = [compared]
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        worker, replay = pool.submit(by_worker), pool.submit(by_replay)
        asked = {entity: [pool.submit(lists_of, entity, hand) for hand in range(HANDS)] for entity in by}
        counts = {entity: sum(each.result() for each in parts) for entity, parts in asked.items()}
        (kept, decided), replayed = worker.result(), replay.result()
    said: Counter[str] = Counter()
    for _, number, rank, event in arriving(some):
        said[type(event).__name__] += 1
        said["late"] += rank == 0 and number % 97 == 0
        said["taken back"] += rank == 2
    columns = [each.name for each in compared.all_features]
    differ = {
        f"{way} and {other}": unlike(vectors[way], vectors[other])
        for way, other in (("worker", "lists"), ("replay", "lists"), ("worker", "replay"))
    }
    figures: dict[str, Cell] = {
        "orders": len(some),
        "of them late": said["late"],
        "outcomes": said["Outcome"],
        "of them corrections": said["taken back"],
        "order events": said["OrderEvent"],
        "customers, devices, merchants": ", ".join(f"{len(by[entity]):,}" for entity in ENTITIES),
        "features of the order and its customer": len(features["customer"]),
        "of its device": len(features["device"]),
        "of its merchant": len(features["merchant"]),
        "orders decided once": sum(count == 1 for count in decided.values()),
        "missing": len(some) - len(decided),
        "repeated": sum(decided.values()) - len(decided),
        "values": vectors["worker"].size,
        "of them known": int((~np.isnan(vectors["worker"])).sum()),
        **{f"unlike, {pair}, bit for bit": int(each.sum()) for pair, each in differ.items()},
        "rows of entities": len(kept),
        "rows unlike, worker and replay": sum(kept[each] != replayed[each] for each in kept),
        "seconds": time.monotonic() - began,
    }
    wrong = [
        f"{count:,} values of {name} differ between {pair}"
        for pair, each in differ.items()
        for name, count in zip(columns, each.tolist(), strict=True)
        if count
    ]
    wrong += [
        f"{figures[name]:,} {name}"
        for name in ("missing", "repeated", "rows unlike, worker and replay")
        if figures[name]
    ]
    wrong += [
        f"lists were asked of {counts[entity]:,} orders by {entity}"
        for entity in ENTITIES
        if counts[entity] != sum(map(len, by[entity]))
    ]
    return figures, wrong


def main() -> int:
    arguments = arguments_of(__doc__, "only the orders of so many")
    if arguments is None:
        return 1
    figures, wrong = run(list(lines(arguments.customers)), arguments.processes)
    record(
        "Parity on real orders by three entities",
        figures,
        f"Customers, devices and merchants; devices are made up. The worker's desk took everything as JSON "
        f"through two stages of {PARTITIONS} partitions, up to {LARGEST_BATCH:,} records at once.",
        keep=not arguments.forget and not arguments.customers and not wrong,
    )
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
