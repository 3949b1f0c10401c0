"""What the fault harness needs where orders go through the stages of further entities.

Orders name devices and merchants, and what becomes of them is said beside them. What should be is worked out
topic by topic, each time from the log that is really there: home in the order that its decisions name, each
stage in the order of its own topic. So every message between stages, every decision and every row is held
byte for byte, although which of two homes a stage hears first is anybody's.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec

from features.catalogue import by_names
from features.define import Feature
from features.events import Order, Outcome
from models.registry import Registry
from models.train import Heard, train
from stream.control import ControlState
from stream.desk import ScoringDesk
from stream.merge import recorded_order
from stream.panel import Panels
from stream.ports import Produce, Record
from stream.road import Passing
from stream.serving import Shelf
from stream.settings import Settings
from stream.worker import load_model
from tests.faults.stage import orders, read_all

ENTITIES: Final = ("device", "merchant")
ASKED: Final = by_names(
    [
        "amount",
        "orders_count_30d",
        "by_device_orders_count_1h",
        "by_device_customer_distinct_30d",
        "by_device_fraud_count_90d_known_after_7d",
        "by_merchant_fraud_share_7d_known_after_7d",
    ]
)
ASKED_LESS: Final = by_names(["amount", "orders_count_1d", "by_device_orders_count_1h"])
"""What another model asks: more of the customer, less of the device, and nothing of the merchant."""
_BATCH: Final = 64


# --- what a shop says -----------------------------------------------------------------------------


def said(settings: Settings, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Topic, key and value of orders and of what becomes of them, without end; the same for the same seed.

    Some is said before the order comes, some twice, and some is taken back.
    """
    chance = random.Random(seed + 1)
    topics = settings.topics
    later: defaultdict[int, list[tuple[str, bytes, bytes]]] = defaultdict(list)
    for number, (key, value) in enumerate(orders(seed, with_merchants=True)):
        yield from later.pop(number, ())
        kind = chance.random()
        if kind > 0.15 or (order := _readable(value)) is None:
            yield topics.orders, key, value
            continue
        if kind < 0.05:
            told = {"kind": "refunded", "amount": 1 + order["amount"] // 2, "currency": order["currency"]}
            statements = [(topics.order_events, key, _about(order, told, hours=5))]
        else:
            fraud = {"kind": "chargeback", "is_fraud": True}
            statements = [(topics.outcomes, key, _about(order, fraud, hours=30))]
            if kind < 0.08:
                legitimate = {"kind": "confirmed_legitimate", "is_fraud": False}
                statements.append((topics.outcomes, key, _about(order, legitimate, hours=50)))
        if kind < 0.1:
            statements.append(chance.choice(statements))
        if chance.random() < 0.2:
            yield statements.pop(0)
        yield topics.orders, key, value
        for each in statements:
            later[number + chance.randrange(1, 2_000)].append(each)


def _readable(value: bytes) -> dict[str, Any] | None:
    try:
        order: dict[str, Any] = json.loads(value)
    except ValueError:
        return None
    return order


def _about(order: Mapping[str, Any], told: Mapping[str, Any], *, hours: int) -> bytes:
    known_at = (datetime.fromisoformat(order["placed_at"]) + timedelta(hours=hours)).isoformat()
    whose = {name: order[name] for name in ("order_id", "customer_id") if name in order}
    return json.dumps({**whose, **told, "occurred_at": known_at, "known_at": known_at}).encode()


def publish_model(settings: Settings, features: Sequence[Feature] = ASKED) -> None:
    """A model that asks for devices and merchants, as the champion."""
    trained = train(
        a_past(),
        name="starter",
        predictor="random_forest",
        trained_at=date(2026, 2, 14),
        row_limit=settings.row_limit,
        features=features,
        entities=settings.entities,
    )
    registry = Registry(settings.home / "models", entities=settings.entities)
    registry.publish(trained)
    registry.promote("starter", trained.version)


def a_past() -> list[Heard]:
    """Orders of before, and that every seventh was fraud."""
    heard: list[Heard] = []
    source = orders(99, plain=True, named="past-", with_merchants=True)
    for number in range(2_000):
        order = Order.model_validate_json(next(source)[1])
        is_fraud = number % 7 == 0
        heard.append((order, is_fraud))
        if is_fraud:
            told = _about(order.model_dump(mode="json"), {"kind": "chargeback", "is_fraud": True}, hours=1)
            heard.append(Outcome.model_validate_json(told))
    return heard


# --- what should be -------------------------------------------------------------------------------


class Made(NamedTuple):
    """What a run without faults makes of the logs that are there."""

    produced: list[Produce]
    rows: dict[tuple[int, bytes], bytes]


def run_through(settings: Settings, state_of: Callable[[Record], ControlState]) -> Made:
    """One desk, without faults, over home and then over each stage.

    `state_of` a record at home is what it was taken under, and of one at a stage any that is not older.
    """
    scorer, policy = load_model(settings)
    now = [ControlState(settings.group)]
    registry = Registry(settings.home / "models", entities=settings.entities)
    models = Shelf(settings, registry)
    desk = ScoringDesk(
        panels=Panels(scorer=scorer, policy=policy, models=models, entities=settings.entities),
        topics=settings.topics,
        partitions=settings.partitions,
        row_limit=settings.row_limit,
        ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
        reject_share=0,
        headers=(),
        stages=settings.stages,
        in_force=lambda: now[-1],
        horizons=settings.horizons,
    )
    made = Made([], {})

    def take(records: Sequence[Record]) -> None:
        watermarks: dict[int, int] = {}
        positions: dict[int, dict[str, int]] = {}
        for state, some in batches(records, state_of, _BATCH):
            now[:] = [state]
            _decide(desk, some, made, watermarks, positions)

    read = partial(read_by_partition, settings)
    topics = settings.topics
    home = {topic: read(topic) for topic in (topics.outcomes, topics.order_events, topics.orders)}
    marks = marks_of(settings)
    for number in range(settings.partitions):
        inputs = {topic: logs[number] for topic, logs in home.items()}
        order = recorded_order(inputs, orders=topics.orders, marks=marks[number])
        take(list(order))
    for topic in settings.stages.values():
        for log in read(topic).values():
            take(log)
    return made


def batches(
    records: Sequence[Record], state_of: Callable[[Record], ControlState], most: int
) -> Iterator[tuple[ControlState, list[Record]]]:
    """Records one after the other, as many at once as are decided under one state."""
    for state, of_state in groupby(records, state_of):
        some = list(of_state)
        for begin in range(0, len(some), most):
            yield state, some[begin : begin + most]


def _decide(
    desk: ScoringDesk,
    some: Sequence[Record],
    made: Made,
    watermarks: dict[int, int],
    positions: dict[int, dict[str, int]],
) -> None:
    effects = desk.decide(some, lambda *at: made.rows.get(at), watermarks, positions)
    watermarks |= effects.watermarks
    for each in some:
        positions.setdefault(each.partition, {})[each.topic] = each.offset + 1
    made.produced.extend(effects.produce)
    for number, changed in effects.rows.items():
        for key, value in changed.items():
            if value is None:
                made.rows.pop((number, key), None)
            else:
                made.rows[number, key] = value


def read_by_partition(settings: Settings, topic: str) -> dict[int, list[Record]]:
    """A topic, as a reader of what is committed sees it."""
    logs: dict[int, list[Record]] = {number: [] for number in range(settings.partitions)}
    for record in read_all(settings, topic, settings.partitions):
        logs[record.partition].append(record)
    return logs


def marks_of(settings: Settings) -> dict[int, list[tuple[int, Mapping[str, int]]]]:
    """By partition, how far all else was read when an order was taken, as its decision says."""
    found: dict[int, dict[int, Mapping[str, int]]] = {number: {} for number in range(settings.partitions)}
    for record in read_all(settings, settings.topics.decisions, settings.partitions):
        source = json.loads(record.value or b"null")["source"]
        found[record.partition][source["offset"]] = source["others"]
    return {number: sorted(marks.items()) for number, marks in found.items()}


def message(record: Record | Produce) -> tuple[str, bytes]:
    """Which message between stages it is, and all that it says.

    What only tells histories something says how far home was read between two orders, which nobody knows
    afterwards: that is left out.
    """
    passing = Passing.decode(record.value)
    home = passing.home
    travels = passing.travelling is not None
    if not travels:
        passing = msgspec.structs.replace(passing, home=home._replace(others={}))
    what = "order" if travels else "told"
    named = f"{what} of {home.topic}/{home.partition}/{home.offset} at {record.topic}"
    return named, b"%d %s %s" % (record.partition, record.key or b"-", passing.encode())
