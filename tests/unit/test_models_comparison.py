"""Two models on the same orders, in money."""

from collections.abc import Sequence

import numpy as np
import pytest

from models.comparison import ACTIONS, Compared, Losses, Pairs, compared
from models.evaluation import paired
from models.policy import Action

APPROVE, REVIEW, CHALLENGE, DECLINE = Action.APPROVE, Action.REVIEW, Action.CHALLENGE, Action.DECLINE


def held(
    rows: Sequence[tuple[Action, Action, bool, float]], customers: Sequence[str] | None = None
) -> Compared:
    """Rows of: what was done, what the challenger would have done, whether it was fraud, the amount."""
    champion, challenger, is_fraud, amounts = zip(*rows, strict=True)
    pairs = Pairs(
        champion=np.array([ACTIONS.index(each) for each in champion]),
        challenger=np.array([ACTIONS.index(each) for each in challenger]),
        p_champion=np.linspace(0, 1, len(rows)),
        p_challenger=np.linspace(0, 1, len(rows)),
        is_fraud=np.array(is_fraud),
        amounts=np.array(amounts),
        customers=np.array(customers or [f"c{at}" for at in range(len(rows))]),
    )
    return compared(pairs, Losses(review=300, lost_share=1.0, margin=0.2), samples=500)


@pytest.mark.parametrize(
    ("action", "is_fraud", "cost"),
    [
        (APPROVE, True, 10_000),
        (APPROVE, False, 0),
        (REVIEW, True, 300),
        (REVIEW, False, 300),
        (CHALLENGE, False, 300),
        (DECLINE, True, 0),
        (DECLINE, False, 2_000),
    ],
)
def test_an_action_costs_what_it_loses(action: Action, *, is_fraud: bool, cost: float) -> None:
    found = held([(action, APPROVE, is_fraud, 10_000)])

    assert found.champion_cost == cost


def test_a_challenger_that_catches_what_was_missed_saves_it_beyond_chance() -> None:
    missed = [(APPROVE, DECLINE, True, 10_000.0)] * 60
    alike = [(APPROVE, APPROVE, False, 5_000.0)] * 400

    found = held([*missed, *alike])

    assert found.saved is not None
    assert found.saved.value == found.champion_cost - found.challenger_cost == 600_000
    assert 0 < found.saved.low < 600_000 < found.saved.high
    assert found.verdict == "challenger"
    assert found.actions == [("approve", "approve", 400, 0), ("approve", "decline", 60, 60)]


def test_one_customers_many_orders_are_one_stroke_of_luck() -> None:
    missed = [(APPROVE, DECLINE, True, 10_000.0)] * 60
    alike = [(APPROVE, APPROVE, False, 5_000.0)] * 400

    found = held([*missed, *alike], customers=["unlucky"] * 60 + [f"c{at}" for at in range(400)])

    assert found.saved is not None
    assert found.saved.value == 600_000
    assert found.saved.low == 0
    assert found.verdict == "undecided"


def test_a_challenger_that_declines_good_orders_costs_their_margin() -> None:
    found = held([(APPROVE, DECLINE, False, 10_000.0)] * 50)

    assert found.saved is not None
    assert found.saved.value == -100_000
    assert (found.verdict, found.auc) == ("champion", None)


def test_bounds_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of gains whose mean is known, 95 % bounds miss it in about one of twenty draws."""
    chance = np.random.default_rng(7)
    missed = 0
    for seed in range(200):
        gains = chance.normal(1.0, 3.0, 150)
        found = paired(gains, np.arange(150), samples=400, seed=seed)
        missed += not found.low <= 150 <= found.high

    assert missed <= 24


def test_of_one_order_nothing_is_drawn() -> None:
    found = held([(APPROVE, APPROVE, False, 1.0)])

    assert (found.saved, found.auc, found.verdict) == (None, None, "undecided")
