"""Every order of the real data sets, through rows in the worker's way, against lists and a for loop.

    python tests/parity/real_data.py
    python tests/parity/real_data.py --customers 200 --forget   # a short one, not written to RESULTS.md

Each customer's events come in the order they arrive; between any two of them the row goes through its
bytes. Labels become facts a week later; of some it is said after ten days more that they were wrong. With
rows that are long enough every feature must agree bit for bit; with rows of 32 orders counts and sums must
lie within the bound that is promised, and how far they are off is written down.

Of the customer's features those are looked at that these data can feed: that are not the same for all.
"""

import argparse
import csv
import gzip
import sys
import time
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, repeat
from multiprocessing import get_context
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from features.aggregates import Count, Sum
from features.catalogue import CATALOGUE, by_names
from features.define import Feature, compute
from features.events import Order
from features.facts import Fact
from features.history import Row
from features.money import CURRENCIES
from tests.bench.results import Cell, record
from tests.parity.naive import NOTHING, Past, Said, Scene, Vector, naive
from tests.parity.ways import bits

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
HANDBOOK = DATA / "hb_tx_2018-06-11_2018-08-14.csv.gz"
EVALML = DATA / "evalml_fraud_transactions.csv.gz"
LONG_ENOUGH = 100_000
SHORT = 32
DAY = timedelta(days=1)
EVERYDAY_NAMES = {"NIS": "ILS", "GGP": "GBP", "IMP": "GBP", "JEP": "GBP"}

Event = Order | Fact

CUSTOMERS = tuple(each for each in CATALOGUE if each.entity in (None, "customer"))
"""The features of the order and of its customer, also those of what became of orders."""


def lines_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as lines:
        yield from csv.DictReader(lines)


@dataclass(frozen=True)
class Orders:
    """A data set: its lines by customer, and what makes events of them."""

    title: str
    by: dict[str, list[dict[str, str]]]
    events: Callable[[Iterable[dict[str, str]]], list[Event]]
    is_in_time: bool
    """Whether orders come in time's order, as the bound for short rows supposes."""
    is_short_only: bool = False
    """Whether to look only at counts and sums with short rows."""


def grouped(path: Path, column: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in lines_of(path):
        if line[column]:
            found[line[column]].append(line)
    return found


def handbook(lines: Iterable[dict[str, str]]) -> list[Event]:
    """The Handbook's transactions in time's order, and in between what became known of them."""
    coming: list[tuple[datetime, int, Event]] = []
    for number, line in enumerate(lines):
        order = Order(
            order_id=line["TRANSACTION_ID"],
            customer_id=line["CUSTOMER_ID"],
            placed_at=datetime.fromisoformat(line["TX_DATETIME"]).replace(tzinfo=UTC),
            amount=round(float(line["TX_AMOUNT"]) * 100),
            currency="EUR",
            merchant_id=line["TERMINAL_ID"],
        )
        coming.append((order.placed_at, number, order))
        known = became_of(order, is_fraud=line["TX_FRAUD"] == "1")
        coming += [(fact.known_at, number, fact) for fact in known]
    return [event for _, _, event in sorted(coming, key=lambda each: each[:2])]


def evalml(lines: Iterable[dict[str, str]]) -> list[Event]:
    """evalml's transactions in the file's order, which is not time's."""
    coming: list[Event] = []
    for line in lines:
        currency = EVERYDAY_NAMES.get(line["currency"], line["currency"])
        if currency not in CURRENCIES:
            continue  # nobody can say what they were worth
        order = Order(
            order_id=line["id"],
            customer_id=line["card_id"],
            placed_at=datetime.fromisoformat(line["datetime"]).replace(tzinfo=UTC),
            amount=int(line["amount"]),
            currency=currency,
            merchant_id=line["store_id"],
            country=line["country"] or None,
            channel=line["provider"],
        )
        coming += [order, *became_of(order, is_fraud=line["fraud"] == "True")]
    return coming


def became_of(order: Order, *, is_fraud: bool) -> Iterator[Fact]:
    """What is known of the order afterwards: fraud after a week, taken back for one in three; refunds."""
    number = int(order.order_id)

    def fact(what: str, after: timedelta, amount: int, *, is_so: bool = True) -> Fact:
        known_at = order.placed_at + after
        return Fact(order.order_id, order.placed_at, what, is_so, known_at, amount, order.currency)

    if is_fraud:
        yield fact("fraud", 7 * DAY, order.amount)
        if number % 3 == 0:
            yield fact("fraud", 17 * DAY, order.amount, is_so=False)
    if number % 11 == 0:
        yield fact("refunded", 3 * DAY, order.amount // 2)
    if number % 13 == 0:
        yield fact("declined", timedelta(seconds=2), order.amount)


@dataclass
class Quick(Scene):
    """A scene whose past is found by halving a sorted list of times, and otherwise read like any other."""

    times: list[datetime] = field(default_factory=list)
    _windows: dict[tuple[timedelta | None, timedelta | None], list[Order]] = field(default_factory=dict)

    def before(self) -> list[Order]:
        return self._between(None, None)

    def window(self, over: timedelta, known_after: timedelta | None) -> list[Order]:
        return self._between(over, known_after)

    def _between(self, over: timedelta | None, known_after: timedelta | None) -> list[Order]:
        found = self._windows.get((over, known_after))
        if found is None:
            end = self.as_of - (known_after or NOTHING)
            first = 0 if over is None else bisect_left(self.times, end - over)
            found = list(self.past.orders[first : bisect_left(self.times, end)])
            self._windows[over, known_after] = found
        return found


def by_lists(features: Sequence[Feature], events: Iterable[Event]) -> Iterator[tuple[Vector, Quick]]:
    """Every order's vector as it arrives, and where it was read."""
    orders: list[Order] = []
    times: list[datetime] = []
    facts: list[Said] = []
    for event in events:
        if isinstance(event, Fact):
            facts.append(Said(event))
            continue
        scene = Quick(event, Past(orders, facts), event.placed_at, times=times)
        yield tuple(naive(each, event, {"customer": scene}) for each in features), scene
        insort(times, event.placed_at)
        insort(orders, event, key=lambda one: one.placed_at)


def by_rows(features: Sequence[Feature], events: Iterable[Event], limit: int) -> Iterator[Vector]:
    """The same through a row that goes through its bytes between any two events."""
    data = Row(limit).encode()
    for event in events:
        row = Row.decode(data, limit)
        if isinstance(event, Fact):
            row.learn(event)
        else:
            yield compute(features, event, {"customer": row.as_of(event.placed_at)})
            row.remember(event)
        data = row.encode()


@dataclass
class Found:
    """What came of comparing some customers."""

    orders: int = 0
    facts: int = 0
    values: int = 0
    unlike: Counter[str] = field(default_factory=Counter)
    """Values that differ from the lists', with long rows, by feature."""
    bounded: int = 0
    off: Counter[str] = field(default_factory=Counter)
    """Values that differ with short rows."""
    beyond: Counter[str] = field(default_factory=Counter)
    """Of them, those further off than is promised."""
    of_none: Counter[str] = field(default_factory=Counter)
    """Of those that differ, how many should be 0, which nothing is a share of."""
    errors: Counter[str] = field(default_factory=Counter)
    """The sum of what they were off, as a share of what they should be."""
    largest: dict[str, float] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        for name in ("orders", "facts", "values", "bounded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("unlike", "off", "beyond", "of_none", "errors"):
            getattr(self, name).update(getattr(other, name))
        for name, error in other.largest.items():
            self.largest[name] = max(error, self.largest.get(name, 0.0))


def is_tiled(feature: Feature) -> bool:
    """Whether the feature is a count or a sum that tiles answer, so that the bound is promised for it."""
    is_sum = isinstance(feature, Sum) and feature.what == "amount" and feature.rates is None
    is_count = isinstance(feature, Count) and feature.what == "orders"
    return (is_sum or is_count) and feature.where is None and feature.known_after is None


def bound_of(feature: Feature, scene: Quick) -> tuple[float, float]:
    """How far below and above the exact value the feature may be: by the one tile that its window cuts.

    A tile holds at most a sixteenth of the orders newer than it, all of which lie in the window.
    """
    start = bisect_left(scene.times, scene.as_of - feature.over)
    end = bisect_left(scene.times, scene.as_of)
    most = (end - start) // 16
    if isinstance(feature, Count):
        return most, min(most, start)
    divisor = 10 ** CURRENCIES[scene.order.currency]
    below, above = (
        sum(one.amount for one in orders if one.currency == scene.order.currency) / divisor
        for orders in (
            scene.past.orders[start : start + most],
            scene.past.orders[max(0, start - most) : start],
        )
    )
    return below, above


def compare(customers: Sequence[str], names: Sequence[str]) -> Found:
    """Some customers, by lists, by long rows and by short ones."""
    found, features = Found(), by_names(names)
    tiled = [each for each in features if is_tiled(each)]
    places = [features.index(each) for each in tiled]
    for customer in customers:
        events = LOOKED_AT[0].events(LOOKED_AT[0].by[customer])
        found.facts += sum(isinstance(each, Fact) for each in events)
        exact = by_lists(features, events)
        long_rows = by_rows(features, events, LONG_ENOUGH)
        ways = (repeat(None) if LOOKED_AT[0].is_short_only else long_rows, by_rows(tiled, events, SHORT))
        for (expected, scene), vector, short in zip(exact, *ways, strict=False):
            found.orders += 1
            if vector is not None:
                found.values += len(features)
            if vector is not None and bits(vector) != bits(expected):
                for feature, mine, theirs in zip(features, vector, expected, strict=True):
                    found.unlike[feature.name] += bits((mine,)) != bits((theirs,))
            for feature, place, value in zip(tiled, places, short, strict=True):
                found.bounded += 1
                wanted = expected[place]
                if value == wanted:
                    continue
                assert value is not None and wanted is not None  # noqa: PT018 (counts and sums)
                below, above = bound_of(feature, scene)
                found.off[feature.name] += 1
                if wanted:
                    error = abs(value - wanted) / wanted
                    found.errors[feature.name] += error
                    found.largest[feature.name] = max(error, found.largest.get(feature.name, 0.0))
                else:
                    found.of_none[feature.name] += 1
                # the last bits of a sum of floats are not what is promised
                if LOOKED_AT[0].is_in_time and not -below - 1e-6 <= value - wanted <= above + 1e-6:
                    found.beyond[feature.name] += 1
    return found


def fed(data: Orders) -> list[str]:
    """The customer's features that these orders can be told apart by."""
    seen: list[set[float | None]] = [set() for _ in CUSTOMERS]
    for lines in islice(data.by.values(), 0, None, max(1, len(data.by) // 25)):
        for vector, _ in by_lists(CUSTOMERS, data.events(lines[:150])):
            for values, value in zip(seen, vector, strict=True):
                values.add(value)
    found = [each for each, values in zip(CUSTOMERS, seen, strict=True) if len(values) > 1]
    return [each.name for each in found if is_tiled(each) or not data.is_short_only]


def run(data: Orders, processes: int) -> tuple[dict[str, Cell], list[str]]:
    """Compare all customers on every core; the figures, and what is wrong."""
    began = time.monotonic()
    names = fed(data)
    LOOKED_AT[:] = [data]
    # the largest first, dealt out like cards
    listed = sorted(data.by, key=lambda customer: -len(data.by[customer]))
    found = Found()
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        for each in [pool.submit(compare, listed[first::HANDS], names) for first in range(HANDS)]:
            found.add(each.result())
    off = sum(found.off.values())
    figures: dict[str, Cell] = {
        "rows": len(data.by),
        "orders": found.orders,
        "facts": found.facts,
        "features": len(names),
        "values": found.values,
        "values unlike the lists', bit for bit": sum(found.unlike.values()),
        f"counts and sums with rows of {SHORT}": found.bounded,
        "of them not exact": off,
        "of them beyond the bound": sum(found.beyond.values()) if data.is_in_time else None,
        "of them where 0 is right": sum(found.of_none.values()),
        "mean error of all (%)": 100 * sum(found.errors.values()) / max(1, found.bounded),
        "mean error of those not exact (%)": 100 * sum(found.errors.values()) / max(1, off),
        "largest error (%)": 100 * max(found.largest.values(), default=0.0),
        "seconds": time.monotonic() - began,
    }
    wrong = [
        f"{data.title}: {n} values of {name} are not as the lists say"
        for name, n in found.unlike.items()
        if n
    ]
    wrong += [
        f"{data.title}: {n} values of {name} are beyond the bound" for name, n in found.beyond.items() if n
    ]
    return figures, wrong


HANDS = 64
"""In how many parts the customers are dealt out."""

LOOKED_AT: list[Orders] = []
"""The data set that is being compared; a process that is forked has it without being sent it."""


def arguments_of(about: str | None, customers: str) -> argparse.Namespace | None:
    """What was asked on the command line; None where the data is not there, which is told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, help=customers, metavar="N")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--forget", action="store_true", help="do not write to RESULTS.md")
    arguments = parser.parse_args()
    if HANDBOOK.exists():
        return arguments
    print(f"{HANDBOOK.name} is not in {DATA}; nothing was compared", file=sys.stderr)
    return None


def main() -> int:
    arguments = arguments_of(__doc__, "only so many of each data set")
    if arguments is None:
        return 1
    columns, wrong = [], []
    for data in (
        Orders("Handbook, by customer", grouped(HANDBOOK, "CUSTOMER_ID"), handbook, is_in_time=True),
        Orders("evalml, unsorted, by card", grouped(EVALML, "card_id"), evalml, is_in_time=False),
        Orders(
            "evalml, unsorted, by country",
            {name: lines for name, lines in grouped(EVALML, "country").items() if 100 < len(lines) < 2_000},
            evalml,
            is_in_time=False,
            is_short_only=True,
        ),
    ):
        few = replace(data, by=dict(islice(data.by.items(), arguments.customers)))
        figures, faults = run(few, arguments.processes)
        columns.append((data.title, figures))
        wrong += faults
        print(data.title, figures, flush=True)
    names = list(dict.fromkeys(name for _, figures in columns for name in figures))
    record(
        "Parity on real orders",
        {name: [figures.get(name) for _, figures in columns] for name in names},
        "Each row went through its bytes between any two events. Errors are shares of the exact value; no "
        "bound is promised for orders that come late.",
        columns=[title for title, _ in columns],
        keep=not arguments.forget and not arguments.customers and not wrong,
    )
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
