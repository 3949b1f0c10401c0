"""Which revision of an order stands in whose histories, and what those know of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import msgspec
import pytest

from features.events import Order, OrderEvent, Outcome, microseconds
from features.facts import Fact
from features.history import Row, RowBytesError, RowVersionError
from features.revisions import (
    MOST_REVISIONS,
    MOST_STATEMENTS,
    Arrival,
    Glimpse,
    Held,
    Learned,
    Revision,
    Revisions,
    glimpse,
    ids_of,
)
from tests.strategies import NOON, an_order

HOUR = timedelta(hours=1)
C1 = (("customer", "c1"),)
ROAD = ("customer", "device", "card", "merchant")


def arrive(
    revisions: Revisions, order: Order, content: bytes, entities: Sequence[str] = ("customer",)
) -> Arrival:
    return revisions.arrive(order, content, ids_of(order, entities))


def outcome(known: float = 1, *, is_fraud: bool = True, **fields: Any) -> Outcome:
    """What became known of order o1 so many hours after noon."""
    return Outcome(
        **{
            "order_id": "o1",
            "kind": "chargeback" if is_fraud else "dispute_won",
            "is_fraud": is_fraud,
            "occurred_at": NOON,
            "known_at": NOON + known * HOUR,
        }
        | fields
    )


def refund(known: float, amount: int | None) -> OrderEvent:
    return OrderEvent(
        order_id="o1", kind="refunded", occurred_at=NOON, known_at=NOON + known * HOUR, amount=amount
    )


def fraud(
    known: float = 1,
    amount: int = 1000,
    *,
    is_so: bool = True,
    placed_at: datetime = NOON,
    what: str = "fraud",
) -> Fact:
    return Fact("o1", placed_at, what, is_so, NOON + known * HOUR, amount, "EUR")


def test_the_highest_revision_takes_the_place_of_the_one_before_it() -> None:
    revisions = Revisions()
    first = arrive(revisions, an_order(), b"a")

    second = arrive(revisions, an_order(revision=3, placed_at=NOON + HOUR), b"b")

    assert (first.forgotten, first.held) == (None, Held(C1, NOON, 1000, "EUR"))
    assert second.forgotten == Held(C1, NOON, 1000, "EUR")
    assert revisions.held == second.held == Held(C1, NOON + HOUR, 1000, "EUR")


def test_a_revision_that_comes_after_a_newer_one_changes_nothing() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(revision=2), b"a")
    revisions.learn(outcome())

    late = arrive(revisions, an_order(revision=1, customer_id="c2"), b"b")

    assert (late.forgotten, late.held, late.facts) == (None, None, ())
    assert revisions.held == Held(C1, NOON, 1000, "EUR")
    seen = revisions.of(1)
    assert seen is not None
    assert seen.content == b"b"


@pytest.mark.parametrize("fields", [{"test": True}, {"customer_id": None}])
def test_what_belongs_in_no_history_only_takes_the_older_revision_out(fields: dict[str, object]) -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")

    gone = arrive(revisions, an_order(revision=1, **fields), b"b")
    back = arrive(revisions, an_order(revision=2), b"c")

    assert (gone.forgotten, gone.held) == (Held(C1, NOON, 1000, "EUR"), None)
    assert (back.forgotten, back.held) == (None, Held(C1, NOON, 1000, "EUR"))


def test_an_order_stands_in_the_histories_of_all_that_it_names() -> None:
    guest = an_order(customer_id=None, device_id="d1", merchant_id="m1", ip="192.0.2.1")

    arrival = arrive(Revisions(), guest, b"a", ROAD)

    assert arrival.held is not None
    assert arrival.held.ids == (("device", "d1"), ("merchant", "m1"))


def test_an_order_is_followed_for_so_many_revisions() -> None:
    revisions = Revisions()
    for revision in range(MOST_REVISIONS):
        assert not revisions.is_full
        arrive(revisions, an_order(revision=revision), b"a")

    assert revisions.is_full


# What was said -------------------------------------------------------------------------------------


def test_what_is_said_of_an_order_is_learned_by_the_histories_it_stands_in() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(device_id="d1"), b"a", ROAD)

    assert revisions.learn(outcome()) == Learned((), (fraud(),))
    assert revisions.learn(outcome(2, is_fraud=False, amount=300, currency="USD")) == Learned(
        (), (Fact("o1", NOON, "fraud", False, NOON + 2 * HOUR, 300, "USD"),)
    )


def test_the_same_statement_twice_is_nothing_new() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")
    revisions.learn(outcome())

    assert revisions.learn(outcome(source="another bank", customer_id="c1")) is None
    assert revisions.learn(outcome(amount=1)) is not None


def test_what_was_said_of_an_order_moves_with_it() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(device_id="d1"), b"a", ROAD)
    revisions.learn(outcome())
    revisions.learn(refund(2, 200))

    moved = arrive(
        revisions, an_order(device_id="d2", revision=1, placed_at=NOON - HOUR, amount=700), b"b", ROAD
    )

    assert moved.forgotten is not None
    assert dict(moved.forgotten.ids)["device"] == "d1"
    assert moved.facts == (
        fraud(amount=700, placed_at=NOON - HOUR),
        fraud(2, 200, placed_at=NOON - HOUR, what="refunded"),
    )


def test_what_is_said_before_an_order_comes_waits_for_it_and_not_for_a_test_order() -> None:
    revisions = Revisions()

    assert revisions.learn(outcome()) == Learned((), ())
    assert revisions.is_orphaned
    assert arrive(revisions, an_order(test=True), b"a").facts == ()
    assert not revisions.is_orphaned
    assert revisions.learn(refund(2, 100)) == Learned((), ())
    assert arrive(revisions, an_order(revision=1), b"b").facts == (fraud(), fraud(2, 100, what="refunded"))


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_superseding_outcome_takes_the_place_of_the_one_it_names_whichever_comes_first(known: int) -> None:
    """The row then answers alike, whenever it is asked, wherever the order stands in it."""
    said = [
        outcome(2, outcome_id="a", amount=900, currency="EUR"),
        outcome(known, outcome_id="b", supersedes="a", amount=500, currency="EUR"),
    ]
    rows = []
    for events in permutations([an_order(), *said]):
        revisions, row = Revisions(), Row(10)
        for event in events:
            _follow(revisions, row, event)
        rows.append(row)
    lost = [
        [amount for amount, _ in rows[0].as_of(NOON + hour * HOUR).known_amounts("fraud", (None, 0))]
        for hour in (2, 2.5, 3.5)
    ]

    assert all(each == rows[0] for each in rows)
    assert lost == {1: [[500], [500], [500]], 2: [[], [500], [500]], 3: [[], [900], [500]]}[known]


def test_what_was_superseded_stays_so_when_its_successor_is_superseded() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")
    revisions.learn(outcome(5, outcome_id="a"))
    revisions.learn(outcome(4, outcome_id="b", supersedes="a"))

    learned = revisions.learn(outcome(3, outcome_id="c", supersedes="b", is_fraud=False))

    assert learned == Learned((fraud(4),), (fraud(3, is_so=False),))


def test_an_outcome_supersedes_neither_itself_nor_one_that_has_no_name() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")
    revisions.learn(outcome(2))

    assert revisions.learn(outcome(1, outcome_id="a", supersedes="a")) == Learned((), (fraud(1),))


def test_a_fact_that_is_said_in_another_way_too_is_not_withdrawn() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")
    revisions.learn(outcome(2, outcome_id="a"))
    revisions.learn(outcome(2, kind="confirmed_fraud"))

    assert revisions.learn(outcome(1, supersedes="a", is_fraud=False)) == Learned(
        (), (fraud(1, is_so=False),)
    )


def test_of_more_statements_than_are_kept_the_earliest_known_counts_no_longer() -> None:
    revisions = Revisions()
    arrive(revisions, an_order(), b"a")
    for number in range(MOST_STATEMENTS):
        revisions.learn(refund(number + 1, 10))

    assert revisions.learn(refund(100, 10)) == Learned(
        (fraud(1, 10, what="refunded"),), (fraud(100, 10, what="refunded"),)
    )
    assert revisions.learn(refund(0, 10)) == Learned((), ())
    assert (len(revisions.statements), revisions.statements_dropped) == (MOST_STATEMENTS, 2)


def test_of_an_order_whose_amount_nobody_remembers_only_what_says_its_own_is_added() -> None:
    revisions = Revisions(held=Held(C1, NOON))

    learned = [
        revisions.learn(each) for each in (outcome(), refund(2, None), outcome(3, amount=7, currency="EUR"))
    ]

    assert [(each.facts[0].amount, each.facts[0].currency) for each in learned if each is not None] == [
        (0, "XXX"),
        (0, "XXX"),
        (7, "EUR"),
    ]


def _follow(revisions: Revisions, row: Row, event: Order | Outcome) -> None:
    """As a worker has one row of it."""
    if isinstance(event, Order):
        arrival = arrive(revisions, event, b"a")
        row.remember(event)
        for fact in arrival.facts:
            row.learn(fact)
    elif (learned := revisions.learn(event)) is not None:
        for fact in learned.withdrawn:
            assert row.unlearn(fact)
        for fact in learned.facts:
            assert row.learn(fact)


# Bytes ----------------------------------------------------------------------------------------------


def test_revisions_come_back_from_their_bytes() -> None:
    revisions = Revisions()
    seen = arrive(revisions, an_order(placed_at=NOON + timedelta(microseconds=1)), b"a" * 16, ROAD).seen
    seen.decision_id, seen.decision, seen.is_brief = b"i" * 16, b"{}", True
    revisions.learn(outcome(outcome_id="x"))

    assert Revisions.decode(revisions.encode()) == revisions


@pytest.mark.parametrize("content", [[5], [5, {"other": 1}], [7, [], None, "more"]])
def test_revisions_of_a_newer_version_are_refused_as_such(content: object) -> None:
    with pytest.raises(
        RowVersionError, match="reads up to 4; run the version that wrote them, or a newer one"
    ):
        Revisions.decode(msgspec.msgpack.encode(content))


def test_the_newest_time_is_known_of_every_order_also_of_a_guests_and_a_tests() -> None:
    for fields in ({}, {"customer_id": None}, {"test": True}):
        revisions = Revisions()
        arrive(revisions, an_order(placed_at=NOON + 2 * HOUR, **fields), b"a")
        arrive(revisions, an_order(revision=1, **fields), b"b")

        assert revisions.last_at == microseconds(NOON + 2 * HOUR)
        assert glimpse(revisions.encode()) == Glimpse(revisions.last_at, is_orphaned=False)


def test_an_order_is_heard_of_when_something_is_known_of_it_and_is_no_orphan_once_it_came() -> None:
    revisions = Revisions()
    revisions.learn(outcome(3))

    assert glimpse(revisions.encode()) == Glimpse(microseconds(NOON + 3 * HOUR), is_orphaned=True)
    arrive(revisions, an_order(), b"a")
    assert glimpse(revisions.encode()) == Glimpse(microseconds(NOON + 3 * HOUR), is_orphaned=False)


def test_of_what_older_versions_wrote_the_newest_time_is_that_of_the_order_in_a_history() -> None:
    held = msgspec.msgpack.encode((1, [], ("c1", NOON)))
    guest = msgspec.msgpack.encode((2, [], None, [0]))

    assert (glimpse(held).last_at, Revisions.decode(held).last_at) == (microseconds(NOON),) * 2
    assert (glimpse(guest).last_at, Revisions.decode(guest).last_at) == (None, None)


def test_the_newest_time_of_a_newer_version_is_not_guessed_at() -> None:
    assert glimpse(msgspec.msgpack.encode((5, [], None, [], 7))).last_at is None
    assert glimpse(msgspec.msgpack.encode((5, {"other": 1}))).last_at is None


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode([1, 7]), msgspec.msgpack.encode({})])
def test_bytes_that_are_no_revisions_are_told_apart(data: bytes) -> None:
    with pytest.raises(RowBytesError, match="restore them from the changelog"):
        Revisions.decode(data)


# ---------------------------------------------------------------------- decisions kept elsewhere


def decided(decision_id: bytes, decision: bytes) -> Revisions:
    """An order whose only revision was decided, here or elsewhere."""
    revisions = Revisions()
    arrive(revisions, an_order(order_id="o1"), b"content")
    revisions.seen[0].decision_id, revisions.seen[0].decision = decision_id, decision
    return revisions


def said(revisions: Revisions) -> tuple[bytes, bytes]:
    return revisions.seen[0].decision_id, revisions.seen[0].decision


def test_an_order_decided_anew_does_not_keep_what_was_decided_before() -> None:
    """It was decided observing, at home; live it goes a road, and is decided at its end."""
    revisions = decided(b"observed", b"to observe")

    revisions.decide(revisions.seen[0], b"live", observing=False)

    assert said(revisions) == (b"live", b"")


def test_a_memory_that_only_names_a_decision_takes_none_away() -> None:
    brought = decided(b"", b"")
    brought.decided_elsewhere(Revision(0, b"content", b"again", b"as decided"), b"first")
    assert said(brought) == (b"first", b"as decided")

    brought.decided_as(decided(b"first", b""))
    assert said(brought) == (b"first", b"as decided")

    brought.decided_as(decided(b"anew", b"as decided anew"))
    assert said(brought) == (b"anew", b"as decided anew")


def test_what_was_decided_about_other_content_is_not_taken_over() -> None:
    revisions = decided(b"", b"")

    revisions.decided_elsewhere(Revision(0, b"other", b"x", b"other"), b"x")
    revisions.decided_elsewhere(Revision(1, b"content", b"x", b"other"), b"x")

    assert said(revisions) == (b"", b"")
