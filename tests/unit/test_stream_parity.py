"""What a worker wrote into decisions, held against what a replay computes."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from features.aggregates import Count
from features.catalogue import amount
from features.define import days
from stream.cli import app
from stream.parity import held_against
from stream.ports import Record
from stream.replay import Bounds, ReplayError
from stream.settings import Settings
from stream.topics import TopicError
from tests.recorded import Lists, a_record, opens
from tests.strategies import NOON

ORDERS, DECISIONS = "orders", "decisions"


def chosen() -> Any:
    return (amount, Count(over=days(30)))


def order(number: int) -> Record:
    at = NOON + timedelta(days=number)
    told = {"order_id": f"o{number}", "customer_id": "c1", "placed_at": at.isoformat(), "amount": 1000}
    value = json.dumps(told | {"currency": "EUR"}).encode()
    return a_record(ORDERS, 0, number, int(at.timestamp() * 1000), value, key=b"c1")


def decision(number: int, features: Mapping[str, float | None], **fields: Any) -> Record:
    said = {"order_id": f"o{number}", "action": "approve", "features": features}
    said |= {"model": {"name": "m", "version": "1"}} | fields
    return a_record(DECISIONS, 0, number, 0, json.dumps(said).encode(), key=b"c1")


def past(*decided: Record, orders: int = 4) -> Lists:
    return Lists({ORDERS: [[order(n) for n in range(orders)]], DECISIONS: [list(decided)]})


def right(number: int) -> dict[str, float | None]:
    return {"amount": 10.0, "orders_count_30d": float(number)}


def test_what_serving_saw_is_what_training_would_see() -> None:
    found, tally = held_against(Settings(), past(*(decision(n, right(n)) for n in range(4))), chosen)

    assert (found.compared, found.not_decided, found.not_replayed) == (4, 0, 0)
    assert found.found == {"amount": {"equal": 4}, "orders_count_30d": {"equal": 4}}
    assert found.over(0.0) == []
    assert tally.out == 4


def test_every_way_of_being_unequal_is_told_apart() -> None:
    wrong = [{"orders_count_30d": 7.0}, {"orders_count_30d": None}, right(2) | {"amount": 10.000000000000002}]
    found, _ = held_against(Settings(), past(*(decision(n, each) for n, each in enumerate(wrong))), chosen)

    assert found.found["orders_count_30d"] == {"differ": 1, "missing_in_decisions": 1, "equal": 1}
    assert found.found["amount"] == {"not_logged": 2, "differ": 1}
    assert found.unequal("orders_count_30d") == pytest.approx(2 / 3)
    assert found.unequal("amount") == 1.0
    assert found.over(0.7) == ["amount"]
    assert found.not_decided == 1
    assert [(each.feature, each.logged, each.computed) for each in found.examples] == [
        ("orders_count_30d", 7.0, 0.0),
        ("orders_count_30d", None, 1.0),
        ("amount", 10.000000000000002, 10.0),
    ]


def test_decisions_without_their_order_are_counted_unless_bounds_left_it_out() -> None:
    decided = [decision(n, right(n)) for n in (0, 1, 9)]
    assert held_against(Settings(), past(*decided), chosen)[0].not_replayed == 1

    found, _ = held_against(
        Settings(), past(*decided), chosen, bounds=Bounds(since=NOON + timedelta(hours=1))
    )
    assert (found.compared, found.not_decided, found.not_replayed) == (1, 2, 0)


def test_repeats_and_unscored_decisions_are_not_compared() -> None:
    decided = [
        decision(0, {}, model=None),
        decision(1, right(1)),
        decision(1, {"amount": 1.0}, repeat_of="a-decision"),
    ]

    found, _ = held_against(Settings(), past(*decided), chosen)

    assert found.compared == 1
    assert found.over(0.0) == []


def test_without_a_topic_of_decisions_it_says_so() -> None:
    with pytest.raises(TopicError, match="'decisions' does not exist"):
        held_against(Settings(), Lists({ORDERS: [[order(0)]]}), chosen)


def test_nothing_to_compare_is_no_agreement() -> None:
    with pytest.raises(ReplayError, match="nothing can be held against anything"):
        held_against(Settings(), past(), chosen)


@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (1, 1)])
def test_the_command_ends_with_1_where_a_feature_is_over_the_threshold(
    monkeypatch: pytest.MonkeyPatch, wrong: int, code: int
) -> None:
    decided = [decision(n, right(n + wrong)) for n in range(4)]
    topics = {ORDERS: [[order(n) for n in range(4)]], DECISIONS: [decided]}
    monkeypatch.setattr("stream.learn_cli.opened", lambda *_: opens(topics))

    done = CliRunner().invoke(app, ["parity", "--features", "amount,orders_count_30d"])

    assert done.exit_code == code
    assert "4 orders compared" in done.stdout
    assert ("features explain o0" in done.stderr) == bool(wrong)
    told = CliRunner().invoke(app, ["parity", "--features", "amount,orders_count_30d", "--json"])
    assert json.loads(told.stdout)["over"] == ["orders_count_30d"] * wrong
