"""Drift as a worker sees it: what models say, and what they don't know, by windows of event time.

Counted once a batch and by pattern, so that an order costs well under a microsecond. It is of this
worker's partitions and since its start only; `fraudstream models drift` asks the whole past.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import sqrt
from typing import Final, NamedTuple

import numpy as np

from models.evaluation import stability_of_counts
from models.scorer import Scored

__all__ = ["DriftGauges", "DriftNow"]

FEWEST: Final = 500
"""Orders that a window needs at least; with fewer it goes on."""
_BINS: Final = 200
"""Of the square root of the probability: fine where most orders are, near 0."""
_GROUPS: Final = 10
_MODELS: Final = 100
_PATTERNS: Final = 10_000


class DriftNow(NamedTuple):
    """The newest whole window of a model, held against the first."""

    orders: int
    mean: float
    """The mean probability of fraud."""
    stability: float | None
    """The population stability index of the probability; None while there is one window only."""
    missing: Mapping[str, float]
    """The share of orders of which a feature is unknown; features that were always known are left out."""


@dataclass(slots=True)
class _Window:
    number: int
    orders: int = 0
    total: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    patterns: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, said: Sequence[Scored]) -> None:
        self.orders += len(said)
        p = [each.p_fraud for each in said]
        self.total += sum(p)
        self.bins.update([int(sqrt(each) * _BINS) for each in p])
        if len(self.patterns) < _PATTERNS:
            self.patterns.update([each.imputed for each in said])

    def missing(self) -> dict[str, float]:
        unknown: Counter[str] = Counter()
        for names, orders in self.patterns.items():
            for name in names:
                unknown[name] += orders
        of = self.patterns.total() or 1
        return {name: orders / of for name, orders in sorted(unknown.items())}


class DriftGauges:
    """What each model said in the first whole window and in the newest; one thread counts, any may ask."""

    def __init__(self, window: timedelta) -> None:
        """`window` is counted in event time."""
        self._width = window.total_seconds()
        self._open: dict[str, _Window] = {}
        self._first: dict[str, _Window] = {}
        self._now: dict[str, DriftNow] = {}

    def count(self, said: Mapping[str, Sequence[Scored]], placed_at: datetime) -> None:
        """Take in what models, by `name@version`, said of a batch whose last order was placed then.

        All of the batch counts in the window of that order.
        """
        number = int(placed_at.timestamp() // self._width)
        for model, scored in said.items():
            window = self._open.get(model)
            if window is None:
                if len(self._open) >= _MODELS:
                    continue
                window = self._open[model] = _Window(number)
            elif number > window.number and window.orders >= FEWEST:
                self._close(model, window)
                window = self._open[model] = _Window(number)
            window.add(scored)

    def now(self) -> Iterator[tuple[str, DriftNow]]:
        """Every model that has had a whole window."""
        yield from sorted(dict(self._now).items())

    def _close(self, model: str, window: _Window) -> None:
        first = self._first.setdefault(model, window)
        stability = None if first is window else _stability(first.bins, window.bins)
        self._now[model] = DriftNow(window.orders, window.total / window.orders, stability, window.missing())


def _stability(before: Counter[int], after: Counter[int]) -> float:
    """The population stability index by groups that have about a tenth each of those before."""
    total, so_far, group = before.total(), 0, 0
    groups = []
    for number in range(_BINS + 1):
        groups.append(group)
        so_far += before[number]
        group = min(_GROUPS - 1, so_far * _GROUPS // total)
    first, second = np.zeros(_GROUPS), np.zeros(_GROUPS)
    for counts, of in ((before, first), (after, second)):
        for number, orders in counts.items():
            of[groups[number]] += orders
    return stability_of_counts(first, second)
