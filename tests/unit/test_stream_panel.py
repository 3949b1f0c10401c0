"""What the models in service make of orders: who decides, who looks on, and who stands behind."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from features.aggregates import Count
from features.catalogue import by_names
from features.define import Feature, days
from models.decision import ModelRef, Reason
from models.policy import Policy
from models.scorer import Scored
from stream.control import ControlState
from stream.panel import Panels
from stream.ports import Record, Unreachable
from stream.service import DEPLOYED, KILL_OFF, KILL_ON, PROMOTED, Served
from tests.small_desk import Shop, decisions
from tests.strategies import NOON, an_order, as_json
from tests.unit.test_stream_service import DE, a_model

POLICY = Policy(review_at=0.2, decline_at=0.5)


class Says:
    """A scorer that always says the same, and breaks where it is told to."""

    def __init__(
        self, p: float, *names: str, breaks_at: float | None = None, features: Sequence[Feature] = ()
    ) -> None:
        self.p = p
        self.features = tuple(features or by_names(list(names)))
        self.breaks_at = breaks_at
        self.ref = ModelRef(name="settings", version="2026-01-01.0000", digest="0" * 64)
        self.digest = self.ref.digest

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        if any(self.breaks_at in vector for vector in vectors if self.breaks_at is not None):
            raise ZeroDivisionError
        return [Scored(self.p, (), (Reason(code="P", text=str(len(v))),)) for v in vectors]


class Named(dict[str, Says]):
    """Models by their names; those that are not there can't be had."""

    def features(self, served: Served) -> Sequence[Feature] | None:
        return self[served.ref.name].features if served.ref.name in self else None

    def scorer(self, served: Served) -> Any:
        return self.get(served.ref.name)


MODELS = Named(
    low=Says(0.1, "amount"),
    high=Says(0.9, "hour_of_day", "amount"),
    counts=Says(0.3, "orders_count_30d", "amount"),
    frail=Says(0.15, "amount", breaks_at=7.77),
)


def state(*moves: tuple[str, dict[str, Any]]) -> ControlState:
    said = ControlState("g")
    for kind, more in moves:
        value = json.dumps({"kind": kind, "group": "g", "who": "anna", "why": "a test"} | more).encode()
        said = said.after(Record("control", 0, said.next_offset, 0, None, value))
    return said


def a_shop(*moves: tuple[str, dict[str, Any]], **more: Any) -> tuple[Shop, list[ControlState]]:
    """A shop in which these moves were made, and its states: the last is in force."""
    states = [state(*moves)]
    entities = more.get("entities", ())
    scorer: Any = more.pop("scorer", Says(0.6, "amount"))
    panels = Panels(scorer=scorer, policy=POLICY, models=MODELS, entities=entities)
    return Shop(panels=panels, in_force=lambda: states[-1], **more), states


def a_shop_without(name: str, *moves: tuple[str, dict[str, Any]], **more: Any) -> Shop:
    """The same, where a worker can't read one of the models."""
    scorer: Any = Says(0.6, "amount")
    models = Named({each: says for each, says in MODELS.items() if each != name})
    panels = Panels(scorer=scorer, policy=POLICY, models=models, entities=more["entities"])
    return Shop(panels=panels, in_force=lambda: state(*moves), **more)


def by(decision: Any) -> str | None:
    return decision.model and decision.model.name


def codes(decision: Any) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_each_order_is_decided_by_its_champion_with_that_models_features_and_thresholds() -> None:
    shop, _ = a_shop(
        (DEPLOYED, a_model("low", review_at=0.05)), (DEPLOYED, a_model("high", scope=DE, decline_at=0.95))
    )

    french, german, guest = shop.decide(
        an_order(country="FR"),
        an_order(order_id="o2", country="DE"),
        an_order(order_id="o3", customer_id=None),
    )

    assert [by(d) for d in (french, german, guest)] == ["low", "high", "low"]
    assert [d.action.value for d in (french, german, guest)] == ["review"] * 3
    assert [sorted(d.features) for d in (french, german)] == [["amount"], ["amount", "hour_of_day"]]
    assert french.policy != german.policy


def test_orders_of_several_champions_are_decided_alike_in_any_batches() -> None:
    orders = [an_order(order_id=f"o{n}", country="DE" if n % 3 else "FR") for n in range(9)]
    moves = (
        (DEPLOYED, a_model("counts")),
        (DEPLOYED, a_model("high", scope=DE)),
        (DEPLOYED, a_model("low", role="challenger")),
        (DEPLOYED, a_model("frail", role="challenger", scope=DE)),
    )
    together, alone = a_shop(*moves)[0], a_shop(*moves)[0]

    at_once = together.arrive(*map(as_json, orders)).produce
    one_by_one = [each for order in orders for each in alone.arrive(as_json(order)).produce]

    assert at_once == one_by_one
    assert together.rows == alone.rows


def test_whoever_never_deployed_hears_what_he_heard_before() -> None:
    scorer: Any = Says(0.6, "amount")
    nothing_said = state()
    before = Shop(scorer=scorer, in_force=lambda: nothing_said)
    now, _ = a_shop(scorer=scorer)

    assert before.arrive(as_json(an_order())).produce == now.arrive(as_json(an_order())).produce


def test_a_model_that_breaks_over_one_order_leaves_that_order_to_its_fallback_and_no_other() -> None:
    shop, _ = a_shop((DEPLOYED, a_model("frail")), (DEPLOYED, a_model("high", role="fallback")))

    sound, poison = shop.decide(an_order(amount=100), an_order(order_id="o2", amount=777))

    assert (by(sound), codes(sound)) == ("frail", ["P"])
    assert (by(poison), codes(poison)) == ("high", ["model_unavailable", "P"])
    assert poison.reasons[0].text == "frail@2026-01-01.0000 could not be used, so another model decided"


def test_where_no_model_is_left_the_order_is_reviewed_and_the_decision_says_why() -> None:
    shop, _ = a_shop((DEPLOYED, a_model("gone")))

    effects = shop.arrive(as_json(an_order()))
    (decision,) = decisions(effects)

    assert (decision.action.value, decision.model, decision.p_fraud) == ("review", None, None)
    assert [each.text for each in decision.reasons] == [
        "gone@2026-01-01.0000 could not be used, so no model decided"
    ]
    assert effects.counts["model_unavailable"] == 1
    (again,) = shop.decide(an_order())
    assert again.repeat_of == decision.decision_id


def test_a_scope_whose_model_is_gone_goes_to_the_wider_champion_then_to_the_settings() -> None:
    wider, _ = a_shop((DEPLOYED, a_model("low")), (DEPLOYED, a_model("gone", scope=DE)))
    settings, _ = a_shop((DEPLOYED, a_model("gone", scope=DE)))

    assert [by(shop.decide(an_order(country="DE"))[0]) for shop in (wider, settings)] == ["low", "settings"]


@pytest.mark.parametrize("action", ["approve", "review"])
def test_a_killed_service_decides_without_touching_a_model_and_remembers_all_the_same(action: str) -> None:
    moves = (DEPLOYED, a_model("counts")), (KILL_ON, {"action": action})
    shop, states = a_shop(*moves)

    (killed,) = shop.decide(an_order())
    states.append(state(*moves, (KILL_OFF, {})))
    (after,) = shop.decide(an_order(order_id="o2"))

    assert (killed.action.value, killed.model, codes(killed)) == (action, None, ["kill_switch"])
    assert (by(after), after.features["orders_count_30d"]) == ("counts", 0)
    (third,) = shop.decide(an_order(order_id="o3", placed_at=NOON + timedelta(hours=3)))
    assert third.features["orders_count_30d"] == 2


def test_the_kill_switch_can_have_the_fallback_decide_whoever_is_champion() -> None:
    shop, _ = a_shop(
        (DEPLOYED, a_model("low")),
        (DEPLOYED, a_model("counts", role="challenger")),
        (DEPLOYED, a_model("high", role="fallback")),
        (KILL_ON, {"action": "fallback"}),
    )

    effects = shop.arrive(as_json(an_order()))

    assert [(by(d), codes(d)) for d in decisions(effects)] == [("high", ["kill_switch", "P"])]
    assert decisions(effects, "decisions-shadow") == []


def test_challengers_say_what_they_would_have_decided_and_count_for_nothing() -> None:
    shop, _ = a_shop(
        (DEPLOYED, a_model("low")),
        (DEPLOYED, a_model("high", role="challenger")),
        (DEPLOYED, a_model("counts", role="challenger", scope=DE)),
        (DEPLOYED, a_model("gone", role="challenger")),
    )

    effects = shop.arrive(
        as_json(an_order(country="DE")), as_json(an_order(order_id="o2")), as_json(an_order(country="DE"))
    )

    assert [by(d) for d in decisions(effects)] == ["low", "low", "low"]
    shadow = decisions(effects, "decisions-shadow")
    assert [(d.order_id, by(d), d.action.value) for d in shadow] == [
        ("o1", "counts", "review"), ("o1", "high", "decline"), ("o2", "high", "decline"),
    ]  # fmt: skip
    headers = [dict(p.headers) for p in effects.produce if p.topic == "decisions-shadow"]
    assert {each["mode"] for each in headers} == {b"shadow"}
    assert effects.counts["decisions"] == 3
    assert len({d.decision_id for d in (*shadow, *decisions(effects))}) == 6


def test_an_order_on_its_road_meets_the_models_of_its_home_though_others_are_in_service_by_then() -> None:
    device = Says(0.4, features=(Count(over=days(30), by="device"), *by_names(["amount"])))
    MODELS["device"] = device
    before = [(DEPLOYED, a_model("device"))]
    shop, states = a_shop(*before, entities=("device",))
    order = an_order(device_id="d1")

    shop.only([shop.record("orders", 0, b"c1", as_json(order))])
    states.append(state(*before, (PROMOTED, a_model("high"))))
    effects = shop.only([])
    shop.go_on(effects)
    effects.produce += shop.arrive(as_json(an_order(order_id="o2", device_id="d1"))).produce

    first, second = decisions(effects)
    assert [(by(d), d.source.others["control"]) for d in (first, second)] == [("device", 1), ("high", 2)]
    assert first.features["by_device_orders_count_30d"] == 0


@pytest.mark.parametrize("is_spared", [True, False])
def test_a_model_whose_features_home_could_not_compute_decides_nothing_at_a_stage(is_spared: bool) -> None:
    by_device = Count(over=days(30), by="device")
    MODELS["device"] = Says(0.4, features=(by_device, *by_names(["orders_count_30d"])))
    MODELS["spare"] = Says(0.9, features=(by_device,))
    moves = [(DEPLOYED, a_model("device")), (DEPLOYED, a_model("device", role="challenger", scope=DE))]
    moves += [(DEPLOYED, a_model("spare", role="fallback"))] if is_spared else []
    shop, _ = a_shop(*moves, entities=("device", "merchant"))
    order = shop.record("orders", 0, b"c1", as_json(an_order(device_id="d1", country="DE")))
    poor, _ = a_shop(*moves, entities=("device", "merchant"))
    poor.desk = a_shop_without("device", *moves, entities=("device", "merchant")).desk

    poor.only([order])
    shop.rows, shop.waiting, shop.ends = poor.rows, poor.waiting, poor.ends
    effects = shop.only([])
    while shop.waiting:
        shop.go_on(effects)

    (decision,) = decisions(effects)
    assert (by(decision), codes(decision)[0]) == ("spare" if is_spared else None, "model_unavailable")
    assert decision.action.value == ("decline" if is_spared else "review")
    assert decisions(effects, "decisions-shadow") == []
    (whole,) = shop.decide(an_order(order_id="o2", device_id="d1"))
    assert by(whole) == "device"


def test_a_stage_waits_until_it_has_read_as_much_of_control_as_the_home_of_an_order() -> None:
    shop, states = a_shop((DEPLOYED, a_model("low")), entities=("device",))
    shop.only([shop.record("orders", 0, b"c1", as_json(an_order(device_id="d1")))])
    states.append(state())

    with pytest.raises(Unreachable, match="read to offset 0 here, and to 1 where an order came in"):
        shop.take(shop.waiting)


def test_two_versions_of_a_submodel_are_two_features_of_one_name() -> None:
    class ScoreLike:
        unit, between, missing, categories, entity = "probability", (0.0, 1.0), "never", None, None
        name, doc, looks_at_facts = "score_of_velocity", "Probability of fraud.", False

        def __init__(self, answer: float) -> None:
            self.answer, self.declaration = answer, f"ScoreOf({answer})"

        def value(self, *_: object) -> float:
            return self.answer

    one, other = ScoreLike(0.25), ScoreLike(0.75)
    MODELS["first"] = Says(0.1, features=(one,))  # type: ignore[arg-type]  # all that a plan asks of a feature
    MODELS["second"] = Says(0.1, features=(other,))  # type: ignore[arg-type]
    shop, _ = a_shop((DEPLOYED, a_model("first")), (DEPLOYED, a_model("second", scope=DE)))

    decided = shop.decide(an_order(), an_order(order_id="o2", country="DE"))

    assert [d.features for d in decided] == [{"score_of_velocity": 0.25}, {"score_of_velocity": 0.75}]
