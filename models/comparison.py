"""Two models on the same orders, in money: what each one's actions cost, and whether that is chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.evaluation import Difference, Ranking, difference, paired
from models.policy import Action

__all__ = ["Compared", "Losses", "Pairs", "compared"]

Floats = npt.NDArray[np.float64]

ACTIONS: Final = tuple(Action)
_LOOKED_AT: Final = (ACTIONS.index(Action.REVIEW), ACTIONS.index(Action.CHALLENGE))
_FEWEST: Final = 2
"""Customers that a difference needs at least: of one alone nothing can be drawn."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What an action costs, of one order.

    An approved fraud costs a share of its amount, a declined order that was none the margin on it, a review
    (or a challenge) the same for every order. A fraud that was looked at is taken to be stopped, and an order
    that was none to be let through.
    """

    review: float = 300.0
    """In minor units."""
    lost_share: float = 1.0
    """Of an approved fraud's amount."""
    margin: float = 0.2
    """Of a declined good order's amount."""

    def of(self, actions: npt.NDArray[np.int64], is_fraud: npt.NDArray[np.bool_], amounts: Floats) -> Floats:
        """Of each order what its action, a place in ACTIONS, costs; in the unit of the amounts."""
        approved = actions == ACTIONS.index(Action.APPROVE)
        declined = actions == ACTIONS.index(Action.DECLINE)
        costs = np.where(approved & is_fraud, amounts * self.lost_share, 0.0)
        costs += np.where(declined & ~is_fraud, amounts * self.margin, 0.0)
        costs += np.where(np.isin(actions, _LOOKED_AT), self.review, 0.0)
        return costs


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Orders that two models decided, of which it is known what they were; all of one currency."""

    champion: npt.NDArray[np.int64]
    """What was done, as a place in ACTIONS."""
    challenger: npt.NDArray[np.int64]
    """What would have been done."""
    p_champion: Floats
    p_challenger: Floats
    is_fraud: npt.NDArray[np.bool_]
    amounts: Floats
    """In minor units."""
    customers: npt.NDArray[Any]
    """Whose they are; orders of one customer are not independent of each other."""

    def __len__(self) -> int:
        """How many they are."""
        return len(self.amounts)


class Compared(NamedTuple):
    """What came of a comparison; money in minor units."""

    orders: int
    frauds: int
    champion_cost: float
    challenger_cost: float
    saved: Difference | None
    """By the challenger, in all; below 0 it costs more. None where there are too few orders."""
    auc: Difference | None
    """How much larger the challenger's is; None without frauds or without others."""
    actions: Sequence[tuple[str, str, int, int]]
    """The champion's action, the challenger's, how many orders, how many of them frauds; none without orders.
    """

    @property
    def verdict(self) -> str:
        """Which is better, as far as these orders tell."""
        saved = self.saved
        if saved is None or saved.low <= 0.0 <= saved.high:
            return "undecided"
        return "challenger" if saved.value > 0 else "champion"


def compared(
    pairs: Pairs, losses: Losses, *, samples: int = 2_000, seed: int = 0, confidence: float = 0.95
) -> Compared:
    """Hold two models against each other; the bounds are of a paired bootstrap of customers.

    `confidence` is that of the money's bounds; those of the AUC are 95 %.
    """
    champion = losses.of(pairs.champion, pairs.is_fraud, pairs.amounts)
    challenger = losses.of(pairs.challenger, pairs.is_fraud, pairs.amounts)
    saved = auc = None
    if len(np.unique(pairs.customers)) >= _FEWEST:
        saved = paired(
            champion - challenger, pairs.customers, samples=samples, seed=seed, confidence=confidence
        )
        auc = difference(
            Ranking.of(pairs.p_challenger, pairs.is_fraud),
            Ranking.of(pairs.p_champion, pairs.is_fraud),
            np.ones(len(pairs)),
            pairs.customers,
            Ranking.auc,
            samples=min(samples, 200),
            seed=seed,
        )
    found = []
    for one, done in enumerate(ACTIONS):
        for other, instead in enumerate(ACTIONS):
            both = (pairs.champion == one) & (pairs.challenger == other)
            if both.any():
                found.append((done.value, instead.value, int(both.sum()), int(pairs.is_fraud[both].sum())))
    return Compared(
        len(pairs),
        int(pairs.is_fraud.sum()),
        float(champion.sum()),
        float(challenger.sum()),
        saved,
        auc,
        found,
    )
