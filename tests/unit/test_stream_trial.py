"""What a challenger has to show before it decides, and what sends a canary back."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from models.comparison import Compared
from models.evaluation import Difference
from stream.guard import Gates, Guardrails
from stream.trial import Arm, Arms, Evidence, Verdict, judge_canary, judge_challenger

GATES, RAILS = Gates(), Guardrails()
BETTER = Difference(50_000, 10_000, 90_000, 0.01)


def compared(saved: Difference | None = BETTER, *, orders: int = 2_000, frauds: int = 60) -> Compared:
    return Compared(orders, frauds, 500_000, 450_000, saved, None, ())


GOOD = Evidence(60.0, 3_000, 90, compared(), "EUR", 0.02, ("amount", 0.0), 1.0, 100, 10, 0.01, 40.0)


def test_a_challenger_that_passed_every_gate_is_promoted_and_its_why_has_the_figures() -> None:
    verdict = judge_challenger(GOOD, GATES)

    assert (verdict.kind, verdict.unmet) == ("promote", ())
    for figure in (
        "60.0 days",
        "2,000 matured",
        "60 of them",
        "500.00 EUR",
        "100.00 EUR",
        "3.0%",
        "40 micro",
    ):
        assert figure in verdict.why
    assert verdict.figures["saved"]["low"] == 10_000


@pytest.mark.parametrize(
    ("seen", "unmet"),
    [
        ({"days": 6.9}, "days"),
        ({"compared": compared(orders=999)}, "orders"),
        ({"compared": compared(frauds=29)}, "frauds"),
        ({"compared": compared(Difference(50_000, -1, 90_000, 0.1))}, "money"),
        ({"compared": compared(None)}, "money"),
        ({"stability": 0.3}, "drift"),
        ({"missing": ("account_age_days", 0.2)}, "missing"),
        ({"answered": 0.94}, "answered"),
        ({"released": 11}, "released"),
        ({"silent_days": 1.5}, "silent"),
        ({"silent_days": None}, "silent"),
        ({"took_us": 501.0}, "speed"),
        ({"took_us": None}, "speed"),
    ],
)
def test_each_gate_alone_makes_it_wait_and_after_the_longest_time_go(
    seen: dict[str, Any], unmet: str
) -> None:
    lacking = GOOD._replace(**seen)

    assert judge_challenger(lacking, GATES).kind == "wait"
    assert judge_challenger(lacking, GATES).unmet == (unmet,)
    late = judge_challenger(lacking._replace(days=121.0), GATES)
    assert late.kind == ("promote" if unmet == "days" else "stop")
    if late.kind == "stop":
        assert late.why.startswith("no answer within 120 days: ")


def test_what_costs_more_for_sure_is_retired_at_once_and_what_may_cost_a_little_more_is_not() -> None:
    worse = compared(Difference(-50_000, -90_000, -10_000, 0.01))

    verdict = judge_challenger(GOOD._replace(compared=worse), GATES)
    allowed = judge_challenger(GOOD._replace(compared=worse), Gates(worse=0.2))
    unsure = judge_challenger(GOOD._replace(compared=worse._replace(frauds=10)), GATES)

    assert verdict.kind == "stop"
    assert "-500.00 EUR" in verdict.why
    assert allowed.kind == "promote", "a fifth of 5,000.00 EUR is more than 900.00"
    assert unsure.kind == "wait"


def test_a_challenger_that_does_something_else_with_too_many_orders_is_retired() -> None:
    assert judge_challenger(GOOD._replace(disagreed=400), GATES).kind == "stop"
    assert judge_challenger(GOOD._replace(scored=500, disagreed=400), GATES).kind == "wait", "too few yet"


def test_nothing_is_known_of_a_challenger_that_has_just_come() -> None:
    verdict = judge_challenger(Evidence(0.0), GATES)

    assert verdict.kind == "wait"
    assert set(verdict.unmet) == {"days", "orders", "frauds", "money", "answered", "silent", "speed"}


def test_gates_that_nobody_could_pass_are_refused() -> None:
    with pytest.raises(ValidationError, match="nothing is known before mature_after_days, 45"):
        Gates(most_days=30)
    with pytest.raises(ValidationError, match="short_window_minutes must be less"):
        Guardrails(short_window_minutes=120, long_window_hours=1)


@pytest.mark.parametrize("kind", [Gates, Guardrails])
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_no_gate_takes_a_number_that_money_can_not_be_held_against(kind: Any, number: float) -> None:
    name = "review_cost" if kind is Gates else "slow_s"

    with pytest.raises(ValidationError, match="finite"):
        kind(**{name: number})


def an_arm(
    customers: int,
    *,
    declines: int = 0,
    reviews: int = 0,
    p: float = 0.1,
    failed: int = 0,
    unknown: int = 0,
    slow: int = 0,
    orders: int = 1,
) -> Arm:
    """Customers of so many orders each, of whom the first ones are declined, the next reviewed."""
    arm = Arm()
    for number in range(customers):
        action = "decline" if number < declines else "review" if number < declines + reviews else "approve"
        for _ in range(orders):
            arm.add(
                f"c{number}",
                action=action,
                p_fraud=p,
                took_s=5.0 if number < slow else 0.02,
                unknown=("age",) if number < unknown else (),
                failed=number >= customers - failed,
            )
    return arm


def judged(canary: Arm, others: Arm | None = None, before: Arm | None = None) -> Verdict:
    arms = Arms("60 minutes", canary, others or an_arm(500, declines=15, reviews=50))
    return judge_canary(arms, replace(arms, window="24 hours"), before or Arm(), RAILS)


def test_a_canary_like_all_others_stays() -> None:
    assert judged(an_arm(100, declines=3, reviews=10)).kind == "wait"
    assert judged(an_arm(100, declines=3, reviews=10)).unmet == ()


@pytest.mark.parametrize(
    ("canary", "broken"),
    [
        (an_arm(60, declines=60), "declines"),
        (an_arm(200, reviews=80), "reviews"),
        (an_arm(100, declines=3, p=0.6), "score"),
        (an_arm(100, failed=20), "fallbacks"),
        (an_arm(100, failed=100), "fallbacks"),
        (an_arm(100, slow=30), "latency"),
    ],
)
def test_each_guardrail_alone_sends_it_back_and_says_why(canary: Arm, broken: str) -> None:
    verdict = judged(canary)

    assert verdict.kind == "roll_back"
    assert broken in verdict.unmet
    assert verdict.why.startswith("in 60 minutes ")
    assert verdict.figures["60 minutes"]["canary"]["orders"] == canary.orders


def test_an_outage_that_slows_all_alike_sends_nobody_back_and_a_model_that_slows_all_goes() -> None:
    assert judged(an_arm(100, slow=30), an_arm(500, slow=150)).kind == "wait"
    assert judged(an_arm(100, slow=90), an_arm(500, slow=450)).unmet == ("latency", "latency")


def test_a_feature_that_was_known_before_and_is_not_any_more_sends_it_back() -> None:
    verdict = judged(an_arm(100, unknown=60), before=an_arm(300, unknown=15))

    assert (verdict.kind, verdict.unmet) == ("roll_back", ("missing",))
    assert "age of 60.0% after 5.0%" in verdict.why
    assert judged(an_arm(100, unknown=60), before=an_arm(300, unknown=180)).kind == "wait"


def test_chance_sends_nobody_back() -> None:
    assert judged(an_arm(29, declines=29)).kind == "wait", "too few customers"
    assert judged(an_arm(100, declines=12)).kind == "wait", "9 in 100 more may be chance"
    assert judged(an_arm(2_000, declines=240)).kind == "roll_back", "of 2,000 it is none"


def test_one_customer_with_many_orders_counts_once() -> None:
    canary = an_arm(60, declines=1)
    for _ in range(500):
        canary.add("c0", action="decline", p_fraud=0.9, took_s=None, unknown=(), failed=False)

    assert judged(canary).kind == "wait"


def test_a_canary_for_everybody_is_held_against_what_nobody_may_decline() -> None:
    verdict = judged(an_arm(60, declines=60), Arm())

    assert verdict.kind == "roll_back"
    assert "most declines" in verdict.unmet
    assert judged(an_arm(60, declines=20), Arm()).kind == "wait"
