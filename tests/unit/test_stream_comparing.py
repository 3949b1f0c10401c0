"""Challengers held against what decided, from recorded topics."""

import json
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from models.labels import Labelling
from models.policy import Policy
from stream import compare_cli, decided
from stream.cli import app
from stream.comparing import Asked, Comparison, compare
from stream.decided import DecidedError
from stream.settings import Settings
from tests.decided_past import LATER, POLICY, SHADOW, DecidedPast, a_decision

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


def test_a_challenger_whose_thresholds_were_changed_is_one_for_each_of_them() -> None:
    past, others = Past(), Policy(review_at=0.05, decline_at=0.8)
    for number in range(10):
        past.order(number, "approve", "approve", became=True)
    past.policy = others
    for number in range(10, 14):
        past.order(number, "approve", "review", became=True)
    past.order(0, "approve", "review", became=True, revision=1)

    found = {each.policy: each for each in past.compared()}

    assert {each: (one.found.orders, one.disagreed) for each, one in found.items()} == {
        POLICY.digest: (9, 0),
        others.digest: (5, 5),
    }
    assert {each: one.left_out for each, one in found.items()} == {
        POLICY.digest: {"revised": 1},
        others.digest: {},
    }
    assert {each.challenger for each in found.values()} == {"new@2026-02-01.bbbb"}


def test_what_is_said_while_observing_is_no_challengers_word() -> None:
    past = Past()
    past.order(0, "approve", "decline", became=True, headers=(("mode", b"observe"),))

    with pytest.raises(DecidedError, match="no order in 'orders' was decided and scored by a challenger"):
        past.compared()


def test_each_of_several_challengers_has_its_say_of_every_order() -> None:
    past = Past()
    for number in range(5):
        past.order(number, "approve", "decline", became=True)
        order = json.loads(past.topics["orders"][-1].value or b"")
        said = a_decision(order, number, "third@2026-03-01.cccc", "review", features={"amount": 1.0})
        past.put("decisions-shadow", f"c{number}", said, SHADOW)

    new, third = past.compared()

    assert (new.found.orders, third.found.orders) == (5, 5)
    assert (new.found.challenger_cost, third.found.challenger_cost) == (0, 1_500)


@pytest.mark.parametrize("challengers", [1, 5])
def test_decisions_that_come_in_another_order_than_their_orders_are_found(
    challengers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decided, "_AHEAD", 4)
    past = Past()
    others = [f"other{n}@2026-03-01.cccc" for n in range(challengers - 1)]
    for number in range(12):
        past.order(number, "approve", "decline", became=True)
        order = json.loads(past.topics["orders"][-1].value or b"")
        for other in others:
            said = a_decision(order, number, other, "decline", features={"amount": 1.0})
            past.put("decisions-shadow", f"c{number}", said, SHADOW)
    for topic, of_three in (("decisions", 3), ("decisions-shadow", 3 * challengers)):
        records = past.topics[topic]
        for at in range(0, 4 * of_three, of_three):  # those of each three orders turned around
            values = [each.value for each in records[at : at + of_three]]
            for place, value in zip(range(at, at + of_three), reversed(values), strict=True):
                records[place] = records[place]._replace(value=value)
    # an order that is gone leaves its decisions behind
    del past.topics["orders"][0]

    found = past.compared()

    assert [each.found.orders for each in found] == [11] * challengers


def test_what_no_worker_has_written_stops_no_comparison() -> None:
    past = Past()
    junk, nothing = ("order_arrived_at", b"x"), ("order_arrived_at", None)
    for number, headers in enumerate([(), (), (junk,), (nothing,)]):
        past.order(number, "approve", "decline", became=False, headers=(*SHADOW, *headers))
    shadow = past.topics["decisions-shadow"]
    shadow[0] = shadow[0]._replace(value=(shadow[0].value or b"").replace(b"decline", b"banana"))

    (found,) = past.compared()

    assert found.found.orders == 3


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


def test_the_command_tells_the_money_and_what_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    past = Past()
    for number in range(20):
        past.order(number, "approve", "decline", became=True)
    past.order(20, "decline", "approve")
    monkeypatch.setattr(compare_cli, "opened", lambda *_: past.opened)
    arguments = ["models", "compare", "--as-of", LATER.isoformat(), "--silence-is-legitimate"]

    person = CliRunner().invoke(app, arguments)
    machine = CliRunner().invoke(app, [*arguments, "--json"])
    wrong = CliRunner().invoke(app, [*arguments, "--currency", "euro"])
    past.policy = Policy(review_at=0.05, decline_at=0.8)
    past.order(21, "approve", "review")
    several = CliRunner().invoke(app, arguments)

    assert person.exit_code == 0, person.output
    lines = [line.strip() for line in person.stdout.splitlines()]
    assert lines[0] == "new@2026-02-01.bbbb against old@2026-01-01.aaaa (20)"
    assert lines[2].startswith("1 more were declined and have no outcome")
    assert "what was done   2000.00 EUR" in lines
    assert any(each.startswith("the challenger would have saved 2000.00 EUR, between ") for each in lines)
    assert lines[-1] == "the challenger is better on these orders"
    assert json.loads(machine.stdout)["saved"]["value"] == 200_000
    assert wrong.exit_code == 2
    assert "with the thresholds of policy" not in person.stdout
    assert several.stdout.count(f"  with the thresholds of policy {past.policy.digest[:12]}: ") == 1
    assert several.stdout.count(f"  with the thresholds of policy {POLICY.digest[:12]}: ") == 1
