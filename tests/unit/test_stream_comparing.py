"""Challengers held against what decided, from recorded topics."""

from datetime import timedelta
from typing import Any

import pytest

from models.labels import Labelling
from stream.comparing import Asked, Comparison, compare
from stream.decided import DecidedError
from stream.settings import Settings
from tests.decided_past import LATER, DecidedPast

HEARD = Labelling(LATER, timedelta(days=45), "not_fraud")


class Past(DecidedPast):
    def compared(self, labelling: Labelling = HEARD, **asked: Any) -> list[Comparison]:
        return compare(Settings(), self.opened, Asked(labelling, samples=100, **asked))


def test_what_a_challenger_would_have_saved_is_counted_of_the_same_orders() -> None:
    past = Past()
    for number in range(10):
        past.order(number, "approve", "decline", became=True)
    for number in range(10, 30):
        past.order(number, "approve", "approve")
    past.order(30, "approve", None, became=True)  # before the challenger was there

    (found,) = past.compared()

    assert (found.challenger, found.champions) == ("new@2026-02-01.bbbb", {"old@2026-01-01.aaaa": 30})
    assert (found.found.orders, found.found.frauds) == (30, 10)
    assert (found.found.champion_cost, found.found.challenger_cost) == (100_000, 0)
    assert found.as_json()["saved"]["value"] == 100_000
    assert found.as_json()["verdict"] == "challenger"


def test_what_nobody_can_know_does_not_count_and_is_told() -> None:
    past = Past()
    past.order(0, "approve", "approve", became=False)
    past.order(1, "decline", "approve")  # silence about a declined order says nothing
    past.order(2, "decline", "approve", became=True)
    past.order(3, "approve", "approve", placed_at=(LATER - timedelta(days=44)).isoformat())
    past.order(4, "approve", "approve", currency="USD")

    (found,) = past.compared()
    (unheard,) = past.compared(Labelling(LATER, timedelta(days=45)))

    assert found.found.orders == 2
    assert found.left_out == {"declined": 1, "young": 1, "currency": 1}
    assert found.found.challenger_cost == 10_000
    assert unheard.left_out == found.left_out


def test_orders_without_an_outcome_count_only_where_silence_does() -> None:
    past = Past()
    past.order(0, "approve", "approve")

    (silent,) = past.compared()
    (unknown,) = past.compared(Labelling(LATER, timedelta(days=45)))

    assert silent.found.orders == 1
    assert (unknown.found.orders, unknown.left_out) == (0, {"unknown": 1})


def test_of_an_order_that_was_revised_the_newest_revision_counts() -> None:
    past = Past()
    past.order(0, "approve", "approve", became=True)
    past.order(0, "review", "decline", revision=1)

    (found,) = past.compared()

    assert found.found.actions == [("review", "decline", 1, 1)]
    assert found.left_out == {"revised": 1}


def test_what_is_said_while_observing_is_no_challengers_word() -> None:
    past = Past()
    past.order(0, "approve", "decline", became=True, headers=(("mode", b"observe"),))

    with pytest.raises(DecidedError, match="no order in 'orders' was decided and scored by a challenger"):
        past.compared()


def test_only_those_named_are_compared() -> None:
    past = Past()
    past.order(0, "approve", "decline", became=True)

    assert len(past.compared(challengers=["new"], champion="old@2026-01-01.aaaa")) == 1
    with pytest.raises(DecidedError, match=r"there are: new@2026-02-01\.bbbb"):
        past.compared(challengers=["other"])
    with pytest.raises(DecidedError):
        past.compared(champion="other")


def test_a_review_costs_the_same_in_a_currency_without_cents() -> None:
    past = Past()
    past.order(0, "review", "approve", became=False, currency="JPY")

    (found,) = past.compared(review_cost=500.0)

    assert found.found.champion_cost == 500
