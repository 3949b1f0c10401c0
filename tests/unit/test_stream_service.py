"""Who decides which orders after the moves of the control topic."""

import json
from hashlib import sha256
from typing import Any

import pytest

from stream.control import ControlState
from stream.ports import Record
from stream.service import (
    DEPLOYED,
    KILL_OFF,
    KILL_ON,
    PROMOTED,
    REFUSED,
    RETIRED,
    ROLLED_BACK,
    Scope,
    Service,
    bucket_of,
)

DE, WEB, SHOP = {"country": "DE"}, {"channel": "web"}, {"merchant": "m1"}


def a_model(name: str, **more: Any) -> dict[str, Any]:
    told = {
        "name": name,
        "version": "2026-01-01.0000",
        "digest": sha256(name.encode()).hexdigest(),
        "review_at": 0.2,
        "decline_at": 0.8,
    }
    return told | {"role": "champion", "scope": {}, "replaces": None} | more


def told(*moves: tuple[str, dict[str, Any]]) -> ControlState:
    """The state of group 'g' after so many moves."""
    state = ControlState("g")
    for kind, more in moves:
        value = {"kind": kind, "group": "g", "who": "anna", "why": "a test", "required": True} | more
        state = state.after(Record("control", 0, state.next_offset, 0, None, json.dumps(value).encode()))
    return state


def service(*moves: tuple[str, dict[str, Any]]) -> Service:
    state = told(*moves)
    assert state.malformed == 0
    return state.service


def deciders(
    said: Service,
    merchant: str | None = None,
    country: str | None = None,
    channel: str | None = None,
    at: int = 0,
) -> list[str | None]:
    """Who decides an order, and who instead; None is the model that the settings name."""
    lineup = said.lineup(merchant, country, channel)
    return [each and each.ref.name for each in lineup.deciders(at)]


def test_nobody_in_service_leaves_all_orders_to_the_model_of_the_settings() -> None:
    assert deciders(service(), "m1", "DE", "web") == [None]


def test_the_most_specific_champion_decides_and_a_wider_one_stands_behind_it() -> None:
    said = service(
        (DEPLOYED, a_model("anywhere")),
        (DEPLOYED, a_model("web", scope=WEB)),
        (DEPLOYED, a_model("german", scope=DE)),
        (DEPLOYED, a_model("german_web", scope=DE | WEB)),
        (DEPLOYED, a_model("shop", scope=SHOP)),
    )

    assert deciders(said, "m1", "DE", "web") == ["shop", "german_web", "german", "web", "anywhere"]
    assert deciders(said, "m2", "DE", "web") == ["german_web", "german", "web", "anywhere"]
    assert deciders(said, "m2", "FR", "web") == ["web", "anywhere"]
    assert deciders(said) == ["anywhere"]


def test_a_scoped_champion_leaves_other_orders_to_the_model_of_the_settings() -> None:
    said = service((DEPLOYED, a_model("german", scope=DE)))

    assert deciders(said, country="DE") == ["german", None]
    assert deciders(said, country="FR") == [None]
    assert not said.is_for_all


def test_a_fallback_comes_before_wider_champions() -> None:
    said = service(
        (DEPLOYED, a_model("anywhere")),
        (DEPLOYED, a_model("german", scope=DE)),
        (DEPLOYED, a_model("spare", role="fallback")),
        (DEPLOYED, a_model("german_spare", role="fallback", scope=DE)),
    )

    assert deciders(said, country="DE") == ["german", "german_spare", "spare", "anywhere"]
    assert deciders(said, country="FR") == ["anywhere", "spare"]


def test_a_canary_decides_for_its_share_of_the_customers_and_the_same_ones_always() -> None:
    said = service((DEPLOYED, a_model("old")), (DEPLOYED, a_model("new", role="canary", share=500)))
    more = service((DEPLOYED, a_model("old")), (DEPLOYED, a_model("new", role="canary", share=1_000)))

    def on_trial(one: Service) -> set[str]:
        return {c for c in map(str, range(4_000)) if deciders(one, at=bucket_of(c))[0] == "new"}

    assert 140 < len(on_trial(said)) < 260
    assert on_trial(said) < on_trial(more)
    assert deciders(said, at=0) == ["new", "old"]
    assert deciders(said, at=500) == ["old"]


def test_who_would_decide_without_a_canary_stands_behind_it_and_before_any_fallback() -> None:
    german = a_model("german_canary", role="canary", share=500, scope=DE)
    spare = (DEPLOYED, a_model("spare", role="fallback"))

    narrower = service((DEPLOYED, a_model("anywhere")), (DEPLOYED, german), spare)
    nobody = service((DEPLOYED, a_model("new", role="canary", share=500)), spare)

    assert deciders(narrower, country="DE") == ["german_canary", "anywhere", "spare"]
    assert deciders(narrower, country="DE", at=500) == ["anywhere", "spare"]
    assert deciders(nobody) == ["new", None, "spare"], "the model of the settings is the champion here"


def test_a_promoted_model_no_longer_looks_on_where_it_decides() -> None:
    said = service(
        (DEPLOYED, a_model("old")),
        (DEPLOYED, a_model("new", role="challenger")),
        (DEPLOYED, a_model("other", role="challenger")),
        (PROMOTED, a_model("new")),
    )

    assert deciders(said) == ["new"]
    assert [each.ref.name for each in said.lineup(None, None, None).challengers] == ["other"]


def test_a_rollback_leads_back_through_the_champions_and_then_to_the_settings() -> None:
    moves = [
        (DEPLOYED, a_model("first")),
        (PROMOTED, a_model("second")),
        (PROMOTED, a_model("third")),
        (ROLLED_BACK, a_model("second")),
        (ROLLED_BACK, a_model("first")),
    ]
    scope = Scope()

    before = [service(*moves[: at + 1]).before(scope) for at in range(5)]
    assert [each and each.ref.name for each in before] == [None, "first", "second", "first", None]
    assert deciders(service(*moves[:4])) == ["second"]
    gone = (ROLLED_BACK, {"scope": {}, "replaces": "first@2026-01-01.0000"})
    assert deciders(service(*moves, gone)) == [None]


def test_what_a_rollback_leads_back_to_is_kept_once_and_not_with_every_service_that_was() -> None:
    state = told(*((PROMOTED, a_model(f"m{number}")) for number in range(50)))

    assert [each.ref.name for each in state.service.past] == [f"m{number}" for number in range(49)]
    assert sum(len(each.past) for each in state.services[:-1]) == 0
    assert [deciders(each)[0] for each in state.services] == [None, *(f"m{number}" for number in range(50))]


def test_a_rollback_of_one_scope_leaves_the_past_of_another() -> None:
    said = service(
        (DEPLOYED, a_model("first")),
        (DEPLOYED, a_model("german", scope=DE)),
        (PROMOTED, a_model("second")),
        (PROMOTED, a_model("german_two", scope=DE)),
        (ROLLED_BACK, a_model("german", scope=DE)),
    )

    assert deciders(said, country="DE") == ["german", "second"]
    assert [each.ref.name for each in said.past] == ["first"]


def test_a_retired_model_is_gone_from_its_role_and_scope_only() -> None:
    said = service(
        (DEPLOYED, a_model("anywhere")),
        (DEPLOYED, a_model("german", scope=DE)),
        (DEPLOYED, a_model("german", role="challenger")),
        (RETIRED, a_model("german", scope=DE)),
    )

    assert deciders(said, country="DE") == ["anywhere"]
    assert [each.ref.name for each in said.lineup(None, "DE", None).challengers] == ["german"]


def test_the_kill_switch_is_what_was_last_said_and_leaves_the_models_where_they_are() -> None:
    on = [(DEPLOYED, a_model("old")), (KILL_ON, {"action": "approve"}), (KILL_ON, {"action": "review"})]

    assert service(*on).kill == "review"
    off = service(*on, (KILL_OFF, {}))
    assert (off.kill, deciders(off)) == (None, ["old"])


def test_each_move_is_in_force_from_an_offset_of_its_own() -> None:
    state = told((DEPLOYED, a_model("first")), ("observe", {}), (PROMOTED, a_model("second")))

    assert [deciders(state.service_at(offset)) for offset in (-1, 0, 1, 2, 3, 9)] == [
        [None], [None], ["first"], ["first"], ["second"], ["second"],
    ]  # fmt: skip


def test_what_was_refused_is_kept_and_changes_nothing() -> None:
    state = told((DEPLOYED, a_model("first")), (REFUSED, {"model": "second", "required": False}))

    assert (deciders(state.service), state.unknown, state.refusal) == (["first"], (), "")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (DEPLOYED, {}),
        (DEPLOYED, a_model("new", digest="d")),
        (DEPLOYED, a_model("new", version="latest")),
        (DEPLOYED, a_model("../new")),
        (DEPLOYED, a_model("new", review_at=None)),
        (DEPLOYED, a_model("new", review_at=0.9)),
        (DEPLOYED, a_model("new", role="king")),
        (DEPLOYED, a_model("new", role="canary")),
        (DEPLOYED, a_model("new", share=100)),
        (DEPLOYED, a_model("new", scope={"country": "germany"})),
        (DEPLOYED, a_model("new", scope={"city": "Bonn"})),
        (PROMOTED, {"scope": {}}),
        (KILL_ON, {"action": "decline"}),
    ],
)
def test_a_move_that_cannot_be_read_is_counted_and_moves_nothing(kind: str, more: dict[str, Any]) -> None:
    state = told((DEPLOYED, a_model("first")), (kind, more))

    assert (state.malformed, deciders(state.service), state.service.kill) == (1, ["first"], None)


def test_what_is_in_service_is_told() -> None:
    state = told(
        (DEPLOYED, a_model("anywhere")),
        (DEPLOYED, a_model("new", role="canary", share=250, scope=DE | WEB)),
        (KILL_ON, {"action": "review"}),
    )

    trial = "new@2026-01-01.0000, canary of country=DE,channel=web"
    assert state.said().splitlines()[2:] == [
        "the kill switch is on: every order is reviewed",
        "in service: anywhere@2026-01-01.0000, champion (review from 0.2, decline from 0.8)",
        f"in service: {trial} for 2.5 % of the customers (review from 0.2, decline from 0.8)",
    ]


def test_a_move_that_was_decided_on_another_service_is_void() -> None:
    first, second = a_model("first", expects=0), a_model("second", expects=0)

    state = told((DEPLOYED, first), (PROMOTED, second), (RETIRED, first | {"expects": 0}))

    assert [each.ref.name for each in state.service.served] == ["first"]
    assert (state.malformed, state.next_offset, state.service.since) == (0, 3, 1)
    assert told((DEPLOYED, first), (PROMOTED, second | {"expects": 1})).service.champion(Scope()) != (
        state.service.champion(Scope())
    )
