"""Challengers held against what decided, from recorded topics."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.labels import Labelling
from models.policy import score_of
from stream.comparing import Asked, Comparison, compare
from stream.decided import DecidedError
from stream.ports import Headers, Record
from stream.settings import Settings
from tests.recorded import a_record, opens

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=100)
HEARD = Labelling(LATER, timedelta(days=45), "not_fraud")
SHADOW: Headers = (("mode", b"shadow"),)


class Past:
    """Orders with their decisions, put down one after the other in one partition."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = {
            "orders": [], "decisions": [], "decisions-shadow": [], "outcomes": [],
        }  # fmt: skip

    def put(self, topic: str, customer: str, content: Mapping[str, Any], headers: Headers = ()) -> int:
        records = self.topics[topic]
        value = json.dumps(content).encode()
        records.append(
            a_record(
                topic,
                0,
                len(records),
                int(LATER.timestamp() * 1000),
                value,
                key=customer.encode(),
                headers=headers,
            )
        )
        return len(records) - 1

    def order(
        self,
        number: int,
        champion: str,
        challenger: str | None,
        *,
        became: bool | None = None,
        headers: Headers = SHADOW,
        **fields: Any,
    ) -> None:
        customer = f"c{number}"
        order = {
            "order_id": f"o{number}",
            "customer_id": customer,
            "placed_at": (NOON + timedelta(minutes=number)).isoformat(),
            "amount": 10_000,
            "currency": "EUR",
        } | fields
        offset = self.put("orders", customer, order)
        self.put("decisions", customer, a_decision(order, offset, "old@2026-01-01.aaaa", champion))
        if challenger is not None:
            said = a_decision(order, offset, "new@2026-02-01.bbbb", challenger)
            self.put("decisions-shadow", customer, said, headers)
        if became is not None:
            at = order["placed_at"]
            outcome = {"order_id": order["order_id"], "customer_id": customer, "is_fraud": became}
            kind = "chargeback" if became else "confirmed_legitimate"
            self.put("outcomes", customer, outcome | {"kind": kind, "occurred_at": at, "known_at": at})

    def compared(self, labelling: Labelling = HEARD, **asked: Any) -> list[Comparison]:
        opened = opens({topic: [records] for topic, records in self.topics.items()})
        return compare(Settings(), opened, Asked(labelling, samples=100, **asked))


def a_decision(order: Mapping[str, Any], offset: int, model: str, action: str) -> dict[str, Any]:
    name, version = model.split("@")
    p = {"approve": 0.1, "review": 0.5, "decline": 0.9}[action]
    return {
        "decision_id": "00000000-0000-5000-8000-000000000000",
        "order_id": order["order_id"],
        "revision": order.get("revision", 0),
        "action": action,
        "p_fraud": p,
        "score": score_of(p),
        "model": {"name": name, "version": version, "digest": "d"},
        "policy": "p",
        "features": {"amount": 100.0},
        "source": {"topic": "orders", "partition": 0, "offset": offset, "others": {}},
    }


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
