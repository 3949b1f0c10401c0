"""The worker, a replay, and lists with for loops agree about every feature, bit for bit.

`make test` tries some histories, `make parity` 10,000 of them.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from features.aggregates import Count, Mean, OrderAmount, Ratio, Share, Std, Sum, ZScore
from features.catalogue import SERVED
from features.define import Feature, days, hours
from features.events import Order, OrderEvent, Outcome
from features.facts import Fact
from features.history import Row
from features.plan import Plan
from models.decision import ModelRef
from models.policy import Policy
from models.scorer import Scored
from stream.desk import ScoringDesk
from stream.ports import Record
from stream.settings import Topics
from tests.parity.naive import Vector, naive_vector
from tests.parity.stories import Story, stories
from tests.parity.ways import (
    Ask,
    Rows,
    arrivals,
    bits,
    differences,
    is_within,
    keys_of,
    pasts_of,
    through_lists,
    through_replay,
    through_rows,
)
from tests.parity.words import EVERY_FEATURE
from tests.strategies import NOON, an_order, as_json

HISTORIES = int(os.environ.get("PARITY_HISTORIES", "300"))
"""How many histories are tried in all."""

PARTS = 4
TICK = timedelta(microseconds=1)


def so_many(share: float) -> settings:
    """A share of the histories."""
    # for mutants it is enough that one is found: to make it small takes long
    phases = [Phase.generate] if "PARITY_SEARCH_ONLY" in os.environ else list(Phase)
    return settings(
        max_examples=max(1, round(share * HISTORIES)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )


def asking(story: Story, part: int) -> Ask:
    """Every feature of the last order, and a part of them of each order as it arrives."""
    return lambda order: EVERY_FEATURE if order is story.last else EVERY_FEATURE[part::PARTS]


@pytest.mark.parametrize("part", range(PARTS))
@so_many(0.6 / PARTS)
@given(story=stories())
def test_worker_replay_and_oracle_agree_about_every_feature(story: Story, part: int) -> None:
    ask = asking(story, part)
    expected = through_lists(ask, story)

    replayed = through_replay(ask, story, limit=100)
    worked = through_rows(ask, story, limit=100, through_bytes=True)

    assert differences(ask, story, replayed, expected) == []
    assert differences(ask, story, worked, expected) == []


@pytest.mark.parametrize("part", range(PARTS))
@so_many(0.2 / PARTS)
@given(story=stories(), limit=st.sampled_from((1, 1, 2, 2, 3, 4, 5, 7, 15, 16, 17)))
def test_what_a_short_row_says_is_exact_is_exact(story: Story, limit: int, part: int) -> None:
    """And whatever lies within the newest orders, as many as the limit, it does say is exact."""
    ask = asking(story, part)
    worker, replay = (Rows(limit, through_bytes=through_bytes) for through_bytes in (True, False))
    for order, _, (_, pasts), ever in zip(
        worker.play(story), replay.play(story), pasts_of(story), arrivals(story), strict=True
    ):
        features = ask(order)
        keys = dict(keys_of(order))
        rows, kept = (
            {entity: each.recall((entity, keys[entity])) for entity in keys} for each in (worker, replay)
        )
        for feature, wanted in zip(features, naive_vector(features, order, pasts), strict=True):
            entity = feature.entity
            if entity not in keys:
                continue
            history = rows[entity].as_of(
                order.placed_at
            )  # of its own: it says whether all it was asked is exact
            value = feature.value(order, history)
            assert bits((value,)) == bits((feature.value(order, kept[entity].as_of(order.placed_at)),)), (
                feature.name
            )
            planned = rows[entity].as_of(order.placed_at)
            assert bits(Plan((feature,))(order, {entity: planned})) == bits((value,)), feature.name
            assert planned.is_exact == history.is_exact, feature.name
            if (entity, keys[entity]) in worker.torn:
                continue
            if is_within(feature, pasts[entity], limit, ever[entity, keys[entity]], order):
                assert history.is_exact, feature.name
            if history.is_exact:
                assert bits((value,)) == bits((wanted,)), feature.name


class Listening:
    """A scorer that keeps the vectors it is given."""

    name, version, digest = "listening", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)
    features = SERVED

    def __init__(self) -> None:
        self.heard: list[Vector] = []

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        self.heard += map(tuple, vectors)
        return [Scored(0.0, (), ()) for _ in vectors]


def through_the_desk(orders: Iterable[Order], limit: int, batches: Sequence[int]) -> list[Vector]:
    """What the scorer of a worker is asked about, order by order, its rows kept as bytes between batches."""
    scorer = Listening()
    desk = ScoringDesk(
        scorer=scorer,  # type: ignore[arg-type] # stands in for a trained model
        policy=Policy(review_at=0.2, decline_at=0.5),
        topics=Topics(),
        partitions=1,
        row_limit=limit,
        ahead_by_at_most=timedelta(minutes=5),
        reject_share=0.0,
        headers=(),
    )
    rows: dict[tuple[int, bytes], bytes | None] = {}
    waiting = [
        Record("orders", 0, offset, 1_800_000_000_000, order.key.encode(), as_json(order), ())
        for offset, order in enumerate(orders)
    ]
    sizes = list(batches)
    while waiting:
        size = sizes.pop() if sizes else len(waiting)
        effects = desk.decide(waiting[:size], lambda partition, key: rows.get((partition, key)))
        rows.update({(n, key): row for n, changed in effects.rows.items() for key, row in changed.items()})
        del waiting[:size]
    return scorer.heard


@so_many(0.2)
@given(story=stories(), batches=st.lists(st.integers(1, 6), max_size=8))
def test_the_desk_of_a_worker_computes_what_the_oracle_says(story: Story, batches: list[int]) -> None:
    """Through JSON, in batches, with resends, revisions, guests and test orders."""
    orders = [each for each in story.events if isinstance(each, Order)]
    expected = through_lists(lambda _: SERVED, Story(tuple(orders), story.last))

    heard = through_the_desk((*orders, story.last), 100, batches)

    assert [bits(each) for each in heard] == [bits(each) for each in expected]


def said(fact: Fact) -> Outcome | OrderEvent:
    """The event that says it."""
    about = {
        "order_id": fact.order_id,
        "occurred_at": fact.known_at,
        "known_at": fact.known_at,
        "amount": fact.amount,
        "currency": fact.currency,
    }
    if fact.what == "fraud":
        return Outcome(kind="confirmed_fraud", is_fraud=fact.is_so, **about)
    return OrderEvent(kind=fact.what, **about)


def looked_at(
    features: Sequence[Feature], orders: Sequence[Order], order: Order, facts: Sequence[Fact] = ()
) -> dict[str, float | None]:
    """The features of an order after these of its customer, which worker and oracle agree on."""
    story = Story((*orders, *map(said, facts)), order)

    def ask(_: Order) -> Sequence[Feature]:
        return features

    found = through_rows(ask, story, 200, through_bytes=True)[-1]
    assert bits(found) == bits(through_lists(ask, story)[-1])
    assert bits(found) == bits(through_replay(ask, story, 200)[-1])
    return dict(zip([each.name for each in features], found, strict=True))


def test_a_window_begins_at_its_exact_instant_and_ends_before_the_order() -> None:
    orders = [
        an_order(order_id=f"o{number}", placed_at=moment, amount=10**number)
        for number, moment in enumerate(
            [NOON - days(30) - TICK, NOON - days(30), NOON - TICK, NOON, NOON + TICK]
        )
    ]
    mean = Mean("amount", over=days(30))

    found = looked_at(
        [Count(over=days(30)), mean, Ratio(OrderAmount(), to=mean)], orders, an_order(order_id="x", amount=55)
    )

    assert list(found.values()) == [2, 0.55, 1.0]


def test_a_window_that_waits_for_labels_ends_where_they_are_known() -> None:
    orders = [
        an_order(order_id=f"o{number}", placed_at=moment)
        for number, moment in enumerate(
            [NOON - days(14) - TICK, NOON - days(14), NOON - days(7) - TICK, NOON - days(7), NOON - TICK]
        )
    ]
    facts = [
        Fact(f"o{number}", orders[number].placed_at, "fraud", True, known_at, 1000, "EUR")
        for number, known_at in ((1, NOON - TICK), (2, NOON), (3, NOON - TICK))
    ]

    found = looked_at(
        [Count(over=days(7), known_after=days(7)), Share("fraud", over=days(7), known_after=days(7))],
        orders,
        an_order(order_id="x"),
        facts,
    )

    assert list(found.values()) == [2, 0.5]


def test_what_was_taken_back_is_not_known_any_more_and_of_two_at_once_the_yes_counts() -> None:
    orders = [an_order(order_id=f"o{number}", placed_at=NOON - days(number + 1)) for number in range(3)]
    said = [
        (0, True, 3),
        (0, False, 2),
        (1, False, 2),
        (1, True, 2),
        (2, True, 3),
        (2, False, 2),
        (2, True, 1),
    ]
    facts = [
        Fact(f"o{number}", orders[number].placed_at, "fraud", is_so, NOON - minutes * TICK, 1000, "EUR")
        for number, is_so, minutes in said
    ]

    found = looked_at([Count("fraud", over=days(30))], orders, an_order(order_id="x"), facts)

    assert list(found.values()) == [2]


def test_a_statement_sent_twice_counts_once_and_refunds_in_parts_add_up() -> None:
    order = an_order(order_id="o1", placed_at=NOON - days(9))
    facts = [
        Fact("o1", order.placed_at, "refunded", True, NOON - days(known), amount, "EUR")
        for known, amount in ((3, 200), (2, 300), (3, 200))
    ]

    found = looked_at(
        [Sum("refunded", over=days(30)), Count("refunded", over=days(30))],
        [order],
        an_order(order_id="x"),
        facts,
    )

    assert list(found.values()) == [5.0, 1]


def test_sums_asked_between_two_orders_are_made_anew() -> None:
    placed = (5, 3, 1, 4, 4, 2)
    orders = [
        an_order(order_id=f"o{number}", placed_at=NOON - days(each), amount=100 * each)
        for number, each in enumerate(placed)
    ]
    story = Story(tuple(orders), an_order(order_id="x"))

    def ask(_: Order) -> Sequence[Feature]:
        return [word("amount", over=days(30)) for word in (Sum, Std)]

    assert through_rows(ask, story, 100, through_bytes=False) == through_lists(ask, story)


def test_no_bit_is_lost_in_sums_and_squares_of_the_largest_amounts() -> None:
    orders = [
        an_order(
            order_id=f"o{number}", placed_at=NOON - timedelta(minutes=number + 1), amount=10**12 - number % 3
        )
        for number in range(125)
    ]
    features = [word("amount", over=days(1)) for word in (Sum, Mean, Std, ZScore)]

    found = looked_at(features, orders, an_order(order_id="x", amount=10**12))

    assert found["amount_sum_1d"] == 1249999999998.76
    assert found["amount_std_1d"] == pytest.approx(0.0081, abs=1e-4)


def counted(row: Row, over: timedelta) -> float | None:
    """How many orders a row counts before noon."""
    return Count(over=over).value(an_order(), row.as_of(NOON))


def test_orders_of_one_microsecond_are_all_counted_when_they_are_folded() -> None:
    row = Row(2)
    for number in range(9):
        row.remember(an_order(order_id=f"o{number}", placed_at=NOON - days(1)))

    assert counted(row, days(7)) == 9


def test_an_order_older_than_what_is_folded_is_folded_also_when_none_is_held() -> None:
    row = Row(1)
    for number in range(4):
        row.remember(an_order(order_id=f"o{number}", placed_at=NOON - days(4 - number)))
    assert row.forget("o3", NOON - days(1))
    row.remember(an_order(order_id="late", placed_at=NOON - days(2) - hours(12)))

    assert counted(row, days(2) + hours(6)) == 1
    assert counted(row, days(7)) == 4
