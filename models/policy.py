"""How a probability becomes an action: thresholds, and the one place where scores are rounded."""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from math import fsum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCORE_DECIMALS: Final = 6
_STEPS: Final = 10**SCORE_DECIMALS
_SLACK: Final = 1e-9  # a mean of 100 leaves may land a few units in the last place beyond 1


class Action(StrEnum):
    """What the shop is told to do with an order, from the mildest to the hardest."""

    APPROVE = "approve"
    REVIEW = "review"
    CHALLENGE = "challenge"
    DECLINE = "decline"


def rounded(p: float) -> float:
    """The probability as everybody sees it: six decimals, and nowhere else is a score rounded.

    >>> rounded(0.12345649)
    0.123456
    """
    if not -_SLACK <= p <= 1.0 + _SLACK:  # written so that NaN is refused too
        message = (
            f"a probability of fraud must lie in [0, 1], and {p!r} came; the model that gave it is broken"
        )
        raise ValueError(message)
    return min(1.0, max(0.0, round(p, SCORE_DECIMALS)))


def score_of(p: float) -> int:
    """The score an analyst reads, 0 to 1000: whole thousandths of the rounded probability.

    Cut, not rounded: a score of 500 is reached exactly where a threshold of 0.5 is, so that no
    approved order shows a score at or above the threshold it stayed below.

    >>> score_of(0.4999996), score_of(0.499999), score_of(1.0)
    (500, 499, 1000)
    """
    return round(rounded(p) * _STEPS) * 1000 // _STEPS


class Policy(BaseModel):
    """Two thresholds on the probability of fraud: from one an order is reviewed, from the other declined.

    >>> Policy(review_at=0.2, decline_at=0.8).decide(0.2).value
    'review'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    review_at: float = Field(gt=0.0, le=1.0, description="probability from which an order goes to review")
    decline_at: float = Field(gt=0.0, le=1.0, description="probability from which an order is declined")

    @model_validator(mode="after")
    def _review_comes_first(self) -> Self:
        if self.review_at > self.decline_at:
            message = (
                f"review_at={self.review_at} is above decline_at={self.decline_at}, "
                "so no order would ever be reviewed; give review_at <= decline_at"
            )
            raise ValueError(message)
        return self

    @cached_property
    def digest(self) -> str:
        """The sha256 of the thresholds, by which a decision names the policy that made it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def decide(self, p: float) -> Action:
        """The action for a probability of fraud; a threshold belongs to the harder action."""
        seen = rounded(p)
        if seen >= self.decline_at:
            return Action.DECLINE
        if seen >= self.review_at:
            return Action.REVIEW
        return Action.APPROVE


def suggest_policy(
    p: Sequence[float],
    labels: Sequence[bool],
    *,
    weights: Sequence[float] | None = None,
    review_share: float = 0.05,
    decline_precision: float = 0.9,
    fewest_declined: int = 20,
) -> Policy:
    """Thresholds that a shop could start from, read off orders the model did not learn from.

    `decline_at` is the lowest probability at which orders from there on were fraud with at least
    `decline_precision`, counted over at least `fewest_declined` orders; where there is none, it is 1.0.
    `review_at` is the lowest probability that sends at most `review_share` of all orders to review,
    between it and `decline_at`. `weights` say for how many orders one stands, where legitimate ones were
    sampled; None: one each. Only the shop knows what a review costs: this is a beginning. Raises ValueError
    where labels or weights are not one for each probability.
    """
    weighing = [1.0] * len(p) if weights is None else weights
    if len(p) != len(labels) or len(p) != len(weighing) or not p:
        message = (
            "give one label for each probability and at least one, and as many weights if any; got "
            f"{len(p)} probabilities, {len(labels)} labels and {len(weighing)} weights"
        )
        raise ValueError(message)
    by_score = sorted(zip(map(rounded, p), labels, weighing, strict=True), reverse=True)
    levels = []
    for level, group in groupby(by_score, key=lambda each: each[0]):
        if level > 0.0:  # a threshold of 0 would act on everything
            orders = list(group)
            frauds = fsum(weight for _, label, weight in orders if label)
            levels.append((level, len(orders), fsum(weight for *_, weight in orders), frauds))
    decline_at, counted, taken, fraud = 1.0, 0, 0.0, 0.0
    for level, orders_there, weight_there, fraud_there in levels:
        counted, taken, fraud = counted + orders_there, taken + weight_there, fraud + fraud_there
        if counted >= fewest_declined and fraud >= decline_precision * taken:
            decline_at = level
    review_at, reviewed, all_orders = decline_at, 0.0, fsum(weighing)
    for level, _, weight_there, _ in levels:
        if level < decline_at:
            reviewed += weight_there
            if reviewed > review_share * all_orders:
                break
            review_at = level
    return Policy(review_at=review_at, decline_at=decline_at)
