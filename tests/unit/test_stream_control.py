"""What is in force after the records of the control topic, and under what a desk decides."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from features.history import Row
from stream.control import LIVE, OBSERVE, PAUSED, RESUMED, ControlState
from stream.desk import customer_key
from stream.ports import Effects, Record, Refused
from tests.small_desk import Shop, decisions
from tests.strategies import NOON, an_order, as_json


def told(*kinds: str | bytes | None, group: str | None = "g", **more: Any) -> ControlState:
    """The state of group 'g' after so many records."""
    state = ControlState("g")
    for kind in kinds:
        value = (
            json.dumps({"kind": kind, "group": group, "who": "anna", "why": "a test"} | more).encode()
            if isinstance(kind, str)
            else kind
        )
        state = state.after(Record("control", 0, state.next_offset, 1_800_000_000_000, None, value))
    return state


def test_the_last_word_is_in_force() -> None:
    assert [told(*kinds).paused for kinds in ([], [PAUSED], [PAUSED, RESUMED], [RESUMED, PAUSED])] == [
        False,
        True,
        False,
        True,
    ]


def test_the_last_pause_says_whether_orders_on_their_road_go_on() -> None:
    who = {"group": "g", "who": "anna", "why": "merchants"}
    drain = json.dumps({"kind": PAUSED, "drain": True} | who).encode()
    states = [told(drain), told(PAUSED, drain), told(drain, PAUSED), told(drain, RESUMED), told(PAUSED)]

    assert [(state.paused, state.draining) for state in states] == [
        (True, True),
        (True, True),
        (True, False),
        (False, False),
        (True, False),
    ]
    assert str(states[0].pause).startswith("paused, but for orders on their road, by anna on ")


def test_a_record_wins_over_what_the_workers_were_started_with() -> None:
    assert told().observing(unless_told=True)
    assert not told().observing()
    assert not told(OBSERVE, LIVE).observing(unless_told=True)
    assert told(LIVE, OBSERVE).observing()


def test_who_paused_when_and_why_is_known() -> None:
    event = told(PAUSED).pause

    assert event is not None
    assert (event.offset, event.at) == (0, datetime(2027, 1, 15, 8, tzinfo=UTC))
    assert str(event) == "paused by anna on 2027-01-15 08:00:00 UTC: a test"


def test_what_anyone_wrote_gives_a_terminal_no_orders() -> None:
    state = told(PAUSED, why="\x1b[2J\ngone")

    assert not set("\x1b\r") & set(state.said())
    assert len(state.said().splitlines()) == 2


def test_another_groups_pause_is_not_ours_and_one_for_all_is() -> None:
    assert not told(PAUSED, group="other").paused
    assert told(PAUSED, group=None).paused


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\xff", b"[]", b"{}", b'{"kind":"paused","group":"g","who":"","why":"x"}', b"[" * 100_000],
)
def test_bytes_that_are_no_record_are_counted_and_change_nothing(value: bytes | None) -> None:
    state = told(PAUSED, value)

    assert (state.paused, state.malformed, state.next_offset, state.refusal) == (True, 1, 2, "")


def test_a_pause_is_followed_whatever_time_its_record_has() -> None:
    value = b'{"kind":"paused","group":"g","who":"anna","why":"a test"}'

    for at in (-1, 253_402_300_800_000, 2**63 - 1):
        assert ControlState("g").after(Record("control", 0, 0, at, None, value)).paused


def test_a_kind_of_a_later_version_is_kept_and_named() -> None:
    state = told("alias", PAUSED, schema_version=1, moves="champion")

    assert state.paused
    assert [event.record.kind for event in state.unknown] == ["alias"]
    assert state.unknown[0].record.model_extra == {"moves": "champion"}
    assert "not known here: alias by anna" in state.said()


@pytest.mark.parametrize(("kind", "more"), [("erase", {"required": True}), (PAUSED, {"schema_version": 2})])
def test_a_later_version_that_has_to_be_followed_is_refused_and_named(
    kind: str, more: dict[str, Any]
) -> None:
    state = told(kind, LIVE, written_by="9.1.0", **more)

    assert f"control record 0 is '{kind}'" in state.refusal
    assert "run fraudstream 9.1.0, which wrote it, or a newer one" in state.refusal


def shadow(effects: Effects) -> list[Any]:
    return decisions(effects, "decisions-shadow")


def a_shop(state: ControlState) -> tuple[Shop, list[ControlState]]:
    """A shop whose desk is told the last of these states."""
    states = [state]
    return Shop(in_force=lambda: states[-1]), states


def test_a_decision_names_the_control_offset_it_was_made_under() -> None:
    shop, states = a_shop(told())

    (first,) = shop.decide(an_order())
    states.append(told(PAUSED, RESUMED))
    (second,) = shop.decide(an_order(order_id="o2"))
    (again,) = shop.decide(an_order())

    assert [d.source.others for d in (first, second, again)] == [
        {"control": 0},
        {"control": 2},
        {"control": 2},
    ]
    assert again.repeat_of == first.decision_id


def test_the_same_log_under_the_same_control_gives_the_same_bytes() -> None:
    made = []
    for _ in range(2):
        shop, states = a_shop(told())
        produced = shop.arrive(as_json(an_order())).produce
        states.append(told(OBSERVE))
        produced += shop.arrive(as_json(an_order(order_id="o2")), as_json(an_order())).produce
        made.append((produced, shop.rows))

    assert made[0] == made[1]


def test_while_observing_nothing_is_decided_but_in_the_shadow() -> None:
    shop, _ = a_shop(told(OBSERVE))

    effects = shop.arrive(
        as_json(an_order()), as_json(an_order()), as_json(an_order(order_id="o2"), amount=-1)
    )

    assert decisions(effects) == []
    assert [d.order_id for d in shadow(effects)] == ["o1", "o1", "o2"]
    assert shadow(effects)[1].repeat_of == shadow(effects)[0].decision_id
    kept = [p for p in effects.produce if p.topic == "decisions-shadow"]
    assert {dict(p.headers)["mode"] for p in kept} == {b"observe"}
    assert [p.topic for p in effects.produce].count("orders-rejected") == 1
    assert effects.counts["decisions_observed"] == effects.counts["decisions"] == 3


def test_an_order_decided_in_the_shadow_is_decided_anew_when_it_comes_live_and_counts_once() -> None:
    shop, states = a_shop(told(OBSERVE))
    (rehearsed,) = shadow(shop.arrive(as_json(an_order())))
    shop.arrive(as_json(an_order(order_id="o0", placed_at=NOON - timedelta(hours=1))))
    states.append(told(OBSERVE, LIVE))

    (live,) = shop.decide(an_order())
    (again,) = shop.decide(an_order())

    assert (live.repeat_of, live.features["orders_count_30d"]) == (None, 1), (
        "as of its own time, as now known"
    )
    assert live.decision_id != rehearsed.decision_id
    assert again.repeat_of == live.decision_id
    assert len(Row.decode(shop.rows[0, customer_key("c1")], 100)) == 2


def test_a_live_decision_supersedes_nothing_that_nobody_was_told() -> None:
    shop, states = a_shop(told(OBSERVE))
    (rehearsed,) = shadow(shop.arrive(as_json(an_order())))
    (revised,) = shadow(shop.arrive(as_json(an_order(revision=1))))
    states.append(told(OBSERVE, LIVE))

    (live,) = shop.decide(an_order(revision=2))

    assert revised.supersedes == rehearsed.decision_id
    assert live.supersedes is None


@pytest.mark.parametrize("resent", [True, False])
def test_a_live_decision_supersedes_the_last_that_was_told_though_one_of_the_shadow_came_between(
    resent: bool,
) -> None:
    shop, states = a_shop(told())
    (first,) = shop.decide(an_order())
    states.append(told(OBSERVE))
    shop.arrive(as_json(an_order(revision=1)))
    states.append(told(OBSERVE, LIVE))

    (live,) = shop.decide(an_order(revision=1 if resent else 2))

    assert live.supersedes == first.decision_id


def test_an_order_decided_live_hears_that_again_while_observing() -> None:
    shop, states = a_shop(told())
    (live,) = shop.decide(an_order())
    states.append(told(OBSERVE))

    (again,) = shadow(shop.arrive(as_json(an_order())))
    states.append(told(OBSERVE, LIVE))
    (once_more,) = shop.decide(an_order())

    assert again.repeat_of == once_more.repeat_of == live.decision_id


def test_a_desk_refuses_what_it_has_to_follow_and_does_not_know() -> None:
    shop, states = a_shop(told())
    states.append(told("erase", required=True))

    with pytest.raises(Refused, match="'erase' of version 1, which a worker has to follow"):
        shop.decide(an_order())
