"""A worker's desk through the stages of three entities, and a replay of the same records, agree bit for
bit."""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import CATALOGUE
from features.events import Order, OrderEvent, Outcome
from features.history import Row
from features.plan import Plan
from features.replay import LeftOut, Replay
from models.decision import ModelRef
from models.scorer import Scored
from stream.desk import partition_of
from stream.ports import Effects
from tests.parity.naive import ENTITIES as KEYS
from tests.parity.naive import Vector
from tests.parity.stories import stories
from tests.parity.test_parity import so_many
from tests.parity.ways import bits
from tests.small_desk import Shop, decisions
from tests.strategies import NOON, as_json

ENTITIES = ("device", "merchant", "card")
FEATURES = tuple(each for each in CATALOGUE if each.entity in {None, "customer", *ENTITIES})
DAY = timedelta(days=1)

Event = Order | Outcome | OrderEvent


class Listening:
    """A scorer that keeps the vectors it is given."""

    name, version, digest = "listening", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)
    features = FEATURES

    def __init__(self) -> None:
        self.heard: list[Vector] = []

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        self.heard += map(tuple, vectors)
        return [Scored(0.0, (), ()) for _ in vectors]


@st.composite
def happenings(draw: st.DrawFn) -> list[Event]:
    """What a shop says, in the order it arrives: outcomes late, corrected, said twice and before their
    order."""
    story = draw(stories(longest=12))
    events: list[Event] = [each for each in (*story.events, story.last) if isinstance(each, Order)]
    orders = [each for each in events if isinstance(each, Order)]
    said: list[Outcome | OrderEvent] = []
    for number in range(draw(st.integers(0, 8))):
        about = draw(st.sampled_from(orders))
        if said and draw(st.integers(0, 4)) == 0:
            event: Outcome | OrderEvent = draw(st.sampled_from(said))
        else:
            event = _event(draw, about, number)
            said.append(event)
        events.insert(draw(st.integers(0, len(events))), event)
    return events


def _event(draw: st.DrawFn, about: Order, number: int) -> Outcome | OrderEvent:
    known_at = draw(
        st.sampled_from((NOON - timedelta(microseconds=1), NOON))
        | st.builds(lambda days: about.placed_at + days * DAY, st.sampled_from((0, 1, 7, 8, 30)))
    )
    fields: dict[str, Any] = {
        "order_id": about.order_id,
        "customer_id": about.customer_id,
        "occurred_at": min(about.placed_at, known_at),
        "known_at": known_at,
    }
    amount = draw(st.sampled_from((None, 1, about.amount // 2)))
    if amount is not None:
        fields |= {"amount": amount, "currency": about.currency}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(("refunded", "delivered", "payment_declined", "repaid")))
        return OrderEvent(kind=kind, **fields)
    is_fraud = draw(st.sampled_from((True, True, False)))
    supersedes = draw(st.sampled_from((None, *(f"outcome{n}" for n in range(number)))))
    return Outcome(
        kind="confirmed_fraud" if is_fraud else "confirmed_legitimate",
        is_fraud=is_fraud,
        outcome_id=f"outcome{number}",
        supersedes=supersedes,
        **fields,
    )


def arrive(shop: Shop, event: Event, key: bytes) -> Effects:
    """An event at the end of its topic, taken by the worker."""
    value = as_json(event) if isinstance(event, Order) else event.model_dump_json().encode()
    at = 1_900_000_000_000
    return shop.take([shop.record(topic_of(event), partition_of(key, shop.partitions), key, value, at=at)])


@so_many(0.1)
@given(events=happenings(), partitions=st.sampled_from((1, 3)))
def test_the_desk_of_a_worker_through_three_stages_computes_what_a_replay_says(
    events: list[Event], partitions: int
) -> None:
    """Each record goes all its way before the next comes; an order keeps to one home whoever it is of."""
    scorer = Listening()
    shop = Shop(scorer=scorer, entities=ENTITIES, partitions=partitions)
    past = Replay(Plan(FEATURES), row_limit=100, entities=("customer", *ENTITIES))
    expected = []
    customers: dict[str, str | None] = {}
    for event in events:
        # an order that changes its customer changes its home; here all are at one
        customer_id = customers.setdefault(event.order_id, event.customer_id)
        event = event.model_copy(update={"customer_id": customer_id})  # noqa: PLW2901
        vector = past.follow(event)
        if isinstance(event, Order) and not isinstance(vector, LeftOut):
            expected.append(vector)
        arrive(shop, event, (customer_id or event.order_id).encode())

    assert [bits(each) for each in scorer.heard] == [bits(each) for each in expected]
    for entity in ("customer", *ENTITIES):
        for named in names_of(entity, events):
            kept, wanted = shop.row(entity, named), past.row(entity, named)
            assert kept.encode() == wanted.encode(), (entity, named)


def names_of(entity: str, events: Sequence[Event]) -> set[str]:
    """Every id of an entity that occurs."""
    found = {KEYS[entity](each) for each in events if isinstance(each, Order)}
    return {each for each in found if each is not None}


def content(row: Row) -> tuple[list[tuple[int, ...]], bytes]:
    """What a row holds, whatever the order of what was placed in one instant."""
    columns = ("placed_at", "order", "amount", "merchant", "device", "card")
    return sorted(zip(*(row.column(each) for each in columns), strict=True)), row._facts


@so_many(0.2)
@given(
    events=happenings(),
    partitions=st.sampled_from((1, 2, 3)),
    chance=st.randoms(use_true_random=False),
)
def test_in_whatever_order_messages_come_each_order_is_decided_once_and_rows_are_the_same(
    events: list[Event], partitions: int, chance: random.Random
) -> None:
    """Only each partition of a topic keeps its own order: revisions may overtake what they revise."""
    shop = Shop(scorer=Listening(), entities=ENTITIES, partitions=partitions)
    past = Replay(lambda *_: None, row_limit=100, entities=("customer", *ENTITIES))
    customers: dict[str, str | None] = {}
    told = []
    for event in events:
        customer_id = customers.setdefault(event.order_id, event.customer_id)
        told.append(event.model_copy(update={"customer_id": customer_id}))
        past.follow(told[-1])
    rest = [(topic_of(each), (each.customer_id or each.order_id).encode(), each) for each in told]
    decided = []
    while rest or shop.waiting:
        if rest and (not shop.waiting or chance.random() < 0.6):
            topic, key, event = rest.pop(0)
            value = as_json(event) if isinstance(event, Order) else event.model_dump_json().encode()
            where = partition_of(key, partitions)
            some = [shop.record(topic, where, key, value, at=1_900_000_000_000)]
        else:
            log = chance.choice(sorted({(each.topic, each.partition) for each in shop.waiting}))
            some = [each for each in shop.waiting if (each.topic, each.partition) == log]
            some = some[: chance.randint(1, len(some))]
            shop.waiting = [each for each in shop.waiting if each not in some]
        decided += decisions(shop.only(some))

    arrived = [each for each in told if isinstance(each, Order)]
    assert len(decided) == len(arrived)
    assert len({(each.source.partition, each.source.offset) for each in decided}) == len(arrived)
    for entity in ("customer", *ENTITIES):
        for named in names_of(entity, told):
            assert content(shop.row(entity, named)) == content(past.row(entity, named)), (entity, named)


def topic_of(event: Event) -> str:
    """Where an event is sent."""
    return {Order: "orders", Outcome: "outcomes", OrderEvent: "order-events"}[type(event)]
