"""Recorded events through the rules of a worker, for every entity."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest

from features.aggregates import Count, IsNew, Share, Sum
from features.catalogue import by_names
from features.define import Feature, compute, days
from features.errors import FeatureDefinitionError
from features.events import Order, OrderEvent, Outcome
from features.plan import Plan
from features.remembered import ENTITIES
from features.replay import Event, LeftOut, Replay
from features.revisions import MOST_REVISIONS
from stream.keeping import Horizons
from tests.small_desk import CountingScorer, Shop
from tests.strategies import NOON, an_order

HOUR = timedelta(hours=1)
COUNT = Count(over=days(30))
BY_DEVICE = Count(over=days(30), by="device")
FRAUD = Count("fraud", over=days(30))


def at(hour: int, **fields: Any) -> Order:
    return an_order(**{"order_id": f"o{hour}", "placed_at": NOON + hour * HOUR} | fields)


def fraud(order_id: str, known_at: datetime, *, is_fraud: bool = True, **fields: Any) -> Outcome:
    return Outcome(
        order_id=order_id,
        kind="confirmed_fraud" if is_fraud else "reversal",
        is_fraud=is_fraud,
        occurred_at=known_at,
        known_at=known_at,
        **fields,
    )


def replay_of(*features: Feature) -> Replay[tuple[float | None, ...]]:
    return Replay(partial(compute, features), row_limit=10, entities=ENTITIES)


def values(features: Sequence[Feature], *events: Event) -> list[Any]:
    past = replay_of(*features)
    return [past.follow(event) for event in events]


def test_an_order_sees_the_past_of_each_entity_that_it_names() -> None:
    found = values(
        [COUNT, BY_DEVICE],
        at(0, device_id="d1"),
        at(1, device_id="d1", customer_id="c2"),
        at(2, device_id="d2"),
        at(3),
    )

    assert found == [(0, 0), (0, 1), (1, 0), (2, None)]


def test_a_guest_counts_for_the_device_and_for_no_customer() -> None:
    found = values(
        [COUNT, BY_DEVICE], at(0, device_id="d1", customer_id=None), at(1, device_id="d1", customer_id=None)
    )

    assert found == [(None, 0), (None, 1)]


def test_a_revision_leaves_the_device_that_the_order_had_before() -> None:
    found = values(
        [BY_DEVICE],
        at(0, device_id="d1"),
        at(0, device_id="d2", revision=1),
        at(1, device_id="d1"),
        at(2, device_id="d2"),
    )

    assert found == [(0,), (0,), (0,), (1,)]


def test_a_revision_of_a_guest_is_not_its_own_past() -> None:
    guest = {"device_id": "d1", "customer_id": None}
    found = values([BY_DEVICE], at(0, **guest), at(1, order_id="o0", revision=1, **guest), at(2, **guest))

    assert found == [(0,), (0,), (1,)]


def test_a_revision_older_than_one_before_changes_no_history() -> None:
    late = at(0, device_id="d2", revision=1)
    found = values([BY_DEVICE], at(0, device_id="d1", revision=2), late, at(1, device_id="d2"))

    assert found == [(0,), (0,), (0,)]


def test_a_test_order_is_looked_at_and_remembered_by_nobody() -> None:
    found = values([COUNT, BY_DEVICE], at(0, device_id="d1", test=True), at(1, device_id="d1"))

    assert found == [(0, 0), (0, 0)]


def test_what_is_left_out_changes_no_history_and_is_counted() -> None:
    past = replay_of(COUNT)
    answers = [past.follow(each) for each in (at(0), at(0), at(0, amount=1), at(1))]
    many = [past.follow(at(2, revision=number)) for number in range(MOST_REVISIONS + 1)]

    assert answers == [(0,), LeftOut.REPEATED, LeftOut.CONFLICTING_CONTENT, (1,)]
    assert many[-1] is LeftOut.TOO_MANY_REVISIONS
    assert past.left_out == {"repeated": 1, "conflicting_content": 1, "too_many_revisions": 1}


def test_an_outcome_counts_from_when_it_is_known_until_it_is_corrected() -> None:
    found = values(
        [FRAUD],
        at(0),
        fraud("o0", NOON + 2 * HOUR),
        at(1),
        at(3),
        fraud("o0", NOON + 4 * HOUR, is_fraud=False),
        at(5),
    )

    assert found == [(0,), None, (0,), (1,), None, (0,)]


def test_an_outcome_that_comes_before_its_order_waits_for_it() -> None:
    past = replay_of(FRAUD)

    assert past.follow(fraud("o0", NOON + HOUR)) is None
    assert past.waiting == 1
    assert past.follow(at(0)) == (0,)
    assert past.waiting == 0
    assert past.follow(at(2)) == (1,)


def test_what_becomes_of_a_test_order_is_known_to_no_history() -> None:
    past = replay_of(FRAUD, Share("fraud", over=days(30)))
    past.follow(at(0, test=True))
    past.follow(fraud("o0", NOON + HOUR))

    assert past.follow(at(2)) == (0, None)
    assert past.waiting == 1


def test_an_order_event_is_a_fact_of_every_entity_of_its_order() -> None:
    refunded = OrderEvent(
        order_id="o0", kind="refunded", occurred_at=NOON + HOUR, known_at=NOON + HOUR, amount=1
    )
    by_device = Count("refunded", over=days(30), by="device")

    found = values([by_device], at(0, device_id="d1"), refunded, at(2, device_id="d1", customer_id="c9"))

    assert found[-1] == (1,)


BY_EACH = tuple(Count("fraud", over=days(30), by=entity) for entity in ("customer", "device", "merchant"))


def test_what_became_of_an_order_goes_with_it_to_another_customer_and_device() -> None:
    first = {"customer_id": "c1", "device_id": "d1", "merchant_id": "m1"}
    moved = {"customer_id": "c2", "device_id": "d2", "merchant_id": "m1"}
    found = values(
        BY_EACH,
        at(0, **first),
        fraud("o0", NOON + HOUR),
        at(2, **first),
        at(0, revision=1, **moved),
        at(3, **first),
        at(4, **moved),
        fraud("o0", NOON + 5 * HOUR, is_fraud=False),
        at(6, **moved),
    )

    assert [each for each in found if each] == [
        *((0, 0, 0), (1, 1, 1), (0, 0, 0)),
        *((0, 0, 1), (1, 1, 1), (0, 0, 0)),
    ]


def test_an_order_that_changes_hands_is_not_known_to_be_fraud_when_it_is_looked_at() -> None:
    found = values(
        [FRAUD, Share("fraud", over=days(30))],
        at(0),
        fraud("o0", NOON + HOUR),
        at(9, order_id="o0", revision=1),
    )

    assert found[-1] == (0, None)


def test_what_became_of_an_order_stays_where_it_is_when_an_older_revision_comes() -> None:
    found = values(
        BY_EACH[:2],
        at(0, device_id="d1", revision=2),
        fraud("o0", NOON + HOUR),
        at(0, device_id="d2", revision=1),
        at(2, device_id="d1"),
        at(3, device_id="d2"),
    )

    assert found[-2:] == [(1, 1), (1, 0)]


def test_what_became_of_an_order_is_of_the_time_and_amount_that_the_newest_revision_says() -> None:
    found = values(
        [Sum("fraud", over=days(2))],
        at(0),
        fraud("o0", NOON + HOUR),
        at(2, order_id="o0", revision=1, amount=700),
        at(49),
        at(51),
    )

    assert found[-2:] == [(7.0,), (0.0,)]


def test_one_fraud_of_which_a_warning_and_a_chargeback_come_is_one_loss() -> None:
    found = values(
        [Sum("fraud", over=days(30)), FRAUD],
        at(0),
        fraud("o0", NOON + HOUR),
        fraud("o0", NOON + 2 * HOUR, amount=900, currency="EUR"),
        at(3),
    )

    assert found[-1] == (9.0, 1)


def test_what_is_said_before_a_test_order_waits_for_the_order_that_is_none() -> None:
    past = replay_of(FRAUD)
    for event in (fraud("o0", NOON + HOUR), at(0, test=True)):
        past.follow(event)

    assert past.waiting == 1
    past.follow(at(0, revision=1))
    assert past.waiting == 0
    assert past.follow(at(2)) == (1,)


def test_a_superseded_outcome_counts_until_its_successor_is_known_and_not_at_all_if_that_was_known() -> None:
    first = fraud("o0", NOON + 2 * HOUR, outcome_id="a")
    found = [
        values(
            [FRAUD],
            at(0),
            *(first, fraud("o0", NOON + known * HOUR, supersedes="a", is_fraud=False))[::way],
            at(3),
            at(5),
        )[-2:]
        for known in (1, 4)
        for way in (1, -1)
    ]

    assert found == [[(0,), (0,)], [(0,), (0,)], [(1,), (0,)], [(1,), (0,)]]


def test_what_is_said_of_a_forgotten_order_waits_in_vain_and_rows_without_events_begin_anew() -> None:
    past = Replay(
        Plan([FRAUD, COUNT]), row_limit=10, rows_kept=timedelta(days=20), orders_kept=timedelta(days=10)
    )
    past.follow(at(0))
    past.follow(at(24 * 15, customer_id="c2"))

    past.follow(fraud("o0", NOON + timedelta(days=15)))
    assert past.waiting == 1
    past.follow(at(24 * 16, customer_id="c2"))
    past.follow(fraud(f"o{24 * 16}", NOON + timedelta(days=16)))
    past.follow(at(24 * 40, customer_id="c3"))
    assert past.follow(at(24 * 41, customer_id="c2")) == (0, 0)
    assert past.row("customer", "c2").facts_dropped == 0


def test_asking_for_a_history_changes_none() -> None:
    past = replay_of(COUNT, IsNew("device"))
    past.follow(at(0))

    assert [len(past.recall(at(9))["customer"] or ()) for _ in range(2)] == [1, 1]
    assert past.follow(at(1)) == (1, None)


def test_an_unknown_entity_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeatureDefinitionError, match="no such entity 'devise'; did you mean 'device'"):
        Replay(lambda _order, _histories: None, row_limit=1, entities=["devise"])


@pytest.mark.parametrize("seed", range(20))
def test_what_a_worker_forgets_is_forgotten(seed: int) -> None:
    chance = Random(seed)
    names = ("orders_count_365d", "days_since_first_order", "amount_sum_30d")
    features = by_names(names)
    shop = Shop(horizons=Horizons.of_days(rows=10, orders=5), scorer=CountingScorer(features))
    past = Replay(Plan(features), row_limit=100, rows_kept=timedelta(days=10), orders_kept=timedelta(days=5))
    day = 0
    compared = 0
    for _ in range(120):
        day += chance.choice((0, 0, 1, 2, 7))
        # a few orders and customers, so that orders come again, are revised, come late, and after silence
        number = chance.randrange(12)
        order = an_order(
            order_id=f"o{number}",
            revision=chance.choice((0, 0, 1, 2)),
            customer_id=chance.choice(("c1", "c2", None)) if number % 5 == 0 else f"c{number % 3}",
            placed_at=NOON + timedelta(days=day - chance.choice((0, 0, 0, 3, 6, 12))),
            test=number == 11,
        )
        vector = past.follow(order)
        decided = [each for each in shop.decide(order, at=-1) if each.features and each.repeat_of is None]
        if isinstance(vector, LeftOut):
            assert not decided
            continue
        compared += 1
        assert vector is not None
        assert [dict(each.features) for each in decided] == [dict(zip(names, vector, strict=True))]
    assert compared > 40
