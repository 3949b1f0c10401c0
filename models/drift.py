"""Whether orders, and what a model says of them, are still of the kind they were. Nothing here is random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.evaluation import stability

__all__ = ["SCORE", "Limits", "Moved", "moved"]

Floats = npt.NDArray[np.float64]

SCORE: Final = "p_fraud"
"""The name under which the probability itself stands among the features."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a change is told as drift."""

    stability: float = 0.25
    """A population stability index; above it two groups of orders are hardly of one kind."""
    missing: float = 0.1
    """By how much the share of orders of which a feature is unknown may grow or shrink."""
    score: float = 0.05
    """By how much the mean probability of fraud may move."""


class Moved(NamedTuple):
    """How a feature, or the probability of fraud, differs from the reference."""

    name: str
    stability: float
    missing_before: float
    """The share of orders of which it was unknown."""
    missing_now: float
    mean_before: float | None
    """Of those of which it is known; None where it is known of none."""
    mean_now: float | None
    breaks: tuple[str, ...]
    """The limits it is beyond: `stability`, `missing`, `score`."""

    def as_json(self) -> Mapping[str, Any]:
        """The same, for machines."""
        return self._asdict() | {"breaks": list(self.breaks)}


def moved(reference: Floats, now: Floats, names: Sequence[str], limits: Limits) -> Iterator[Moved]:
    """Every column of `now` against that of `reference`, shapes (orders, names); NaN is unknown."""
    for at, name in enumerate(names):
        before, after = reference[:, at], now[:, at]
        index = stability(before, after)
        missing = float(np.isnan(before).mean()), float(np.isnan(after).mean())
        means = _mean(before), _mean(after)
        breaks = []
        if index > limits.stability:
            breaks.append("stability")
        if abs(missing[1] - missing[0]) > limits.missing:
            breaks.append("missing")
        if name == SCORE and None not in means and abs(means[1] - means[0]) > limits.score:  # type: ignore[operator]
            breaks.append("score")
        yield Moved(name, index, *missing, *means, tuple(breaks))


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
