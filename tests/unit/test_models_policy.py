import hashlib
import math

import pytest
from pydantic import ValidationError

from models.policy import Action, Policy, rounded, score_of, suggest_policy

POLICY = Policy(review_at=0.2, decline_at=0.8)


@pytest.mark.parametrize(
    ("p", "action"),
    [
        (0.0, Action.APPROVE),
        (0.199999, Action.APPROVE),
        (0.2, Action.REVIEW),
        (0.799999, Action.REVIEW),
        (0.8, Action.DECLINE),
        (1.0, Action.DECLINE),
    ],
)
def test_a_threshold_belongs_to_the_harder_action(p: float, action: Action) -> None:
    assert POLICY.decide(p) is action


def test_with_equal_thresholds_nothing_is_reviewed() -> None:
    policy = Policy(review_at=0.5, decline_at=0.5)
    assert [policy.decide(p) for p in (0.4, 0.5)] == [Action.APPROVE, Action.DECLINE]


def test_the_policy_sees_the_score_that_everybody_sees() -> None:
    assert rounded(0.1999999) == 0.2
    assert POLICY.decide(0.1999999) is Action.REVIEW


@pytest.mark.parametrize(
    ("review_at", "decline_at"), [(0.9, 0.1), (0.0, 0.5), (0.5, 1.1), (math.nan, 0.5), (-0.1, 0.5)]
)
def test_thresholds_that_make_no_sense_are_refused(review_at: float, decline_at: float) -> None:
    with pytest.raises(ValidationError):
        Policy(review_at=review_at, decline_at=decline_at)


def test_the_digest_names_the_thresholds_and_nothing_else() -> None:
    assert POLICY.digest == Policy(decline_at=0.8, review_at=0.2).digest
    assert POLICY.digest != Policy(review_at=0.2, decline_at=0.81).digest
    assert POLICY.digest == hashlib.sha256(b'{"decline_at": 0.8, "review_at": 0.2}').hexdigest()


def test_asking_for_the_digest_does_not_make_two_policies_differ() -> None:
    asked, other = Policy(review_at=0.3, decline_at=0.6), Policy(review_at=0.3, decline_at=0.6)
    assert len(asked.digest) == 64
    assert asked == other


@pytest.mark.parametrize("p", [math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_what_is_no_probability_is_never_rounded_into_one(p: float) -> None:
    with pytest.raises(ValueError, match="probability of fraud must lie in"):
        rounded(p)


def test_the_dust_of_summing_leaves_is_rounded_away() -> None:
    assert rounded(1.0000000000000002) == 1.0
    assert math.copysign(1.0, rounded(-1e-18)) == 1.0


def test_no_order_below_a_threshold_shows_a_score_at_it() -> None:
    assert [score_of(p) for p in (0.0, 0.0004, 0.001, 0.499999, 0.5, 0.999999, 1.0)] == [
        0, 0, 1, 499, 500, 999, 1000,
    ]  # fmt: skip


def test_suggested_thresholds_decline_where_fraud_is_nearly_certain_and_review_a_share() -> None:
    p = [0.95] * 20 + [0.5] * 10 + [0.3] * 70
    labels = [True] * 19 + [False] + [True] * 3 + [False] * 7 + [False] * 70
    assert suggest_policy(p, labels, review_share=0.1) == Policy(review_at=0.5, decline_at=0.95)


def test_nothing_is_declined_where_too_few_orders_speak_for_it() -> None:
    p = [0.9] * 5 + [0.1] * 95
    suggested = suggest_policy(p, [True] * 5 + [False] * 95, review_share=0.05)
    assert suggested == Policy(review_at=0.9, decline_at=1.0)


def test_a_share_that_cannot_be_met_leaves_no_review() -> None:
    assert suggest_policy([0.4] * 50, [False] * 50) == Policy(review_at=1.0, decline_at=1.0)


def test_a_suggestion_needs_a_label_for_each_probability() -> None:
    with pytest.raises(ValueError, match="one label for each probability"):
        suggest_policy([0.1, 0.2], [True])


def test_an_order_that_stands_for_ten_counts_as_ten_in_a_suggestion() -> None:
    p = [0.9] * 30 + [0.6] * 10 + [0.3] * 40 + [0.1] * 920
    labels = [True] * 28 + [False] * 2 + [False] * 10 + [False] * 960
    weights = [1.0 if each else 10.0 for each in labels]
    times = [round(each) for each in weights]

    repeated = suggest_policy(
        [each for each, n in zip(p, times, strict=True) for _ in range(n)],
        [each for each, n in zip(labels, times, strict=True) for _ in range(n)],
    )

    assert suggest_policy(p, labels, weights=weights) == repeated
    # 28 frauds of 30 in the sample are 28 of 48 orders
    assert repeated.decline_at > 0.9
    assert suggest_policy(p, labels).decline_at == 0.9
