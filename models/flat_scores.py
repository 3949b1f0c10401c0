"""From a raw score to a probability: links and calibrations.

One number at a time in plain python, for both engines: numpy's exp and the machine's differ in the last bit.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from models.flat_arrays import Floats, expect, freeze_arrays

__all__ = ["Calibrated", "FlatIsotonic", "FlatSigmoid", "Link", "linked"]

Link = Literal["share", "log_odds", "depth"]
"""What a raw score is: a share of fraud, log-odds of fraud, or minus a depth over the expected one."""


def linked(raw: float, link: Link) -> float:
    """The score that a raw one stands for."""
    if link == "log_odds":
        return sigmoid(raw)
    if link == "depth":
        return math.pow(2.0, raw)
    return raw


def sigmoid(margin: float) -> float:
    """The probability of log-odds."""
    if margin >= 0.0:
        return 1.0 / (1.0 + math.exp(-margin))
    grown = math.exp(margin)
    return grown / (1.0 + grown)


@dataclass(frozen=True, slots=True, eq=False)
class FlatSigmoid:
    """A logistic curve: the probability of log-odds slope times raw + intercept."""

    kind = "sigmoid"

    slope: Floats
    intercept: Floats

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        freeze_arrays(self)
        for name in ("slope", "intercept"):
            array = getattr(self, name)
            expect(
                array.shape == (1,) and bool(np.isfinite(array).all()), f"{name} must be one finite number"
            )

    def __call__(self, raw: float) -> float:
        """The probability of a raw score."""
        return sigmoid(float(self.slope[0]) * raw + float(self.intercept[0]))


@dataclass(frozen=True, slots=True, eq=False)
class FlatIsotonic:
    """A rising curve: the line between the two points around a raw score, and the last point beyond them."""

    kind = "isotonic"

    raw: Floats
    p: Floats
    _raw: list[float] = field(init=False, repr=False)
    _p: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        freeze_arrays(self)
        expect(self.raw.ndim == 1 and len(self.raw) > 0, "raw must be one number a point")
        expect(self.raw.shape == self.p.shape, "raw and p differ in length")
        expect(bool(np.isfinite(self.raw).all()) and bool((np.diff(self.raw) > 0).all()), "raw must rise")
        expect(
            bool(((self.p >= 0.0) & (self.p <= 1.0)).all()) and bool((np.diff(self.p) >= 0).all()),
            "p must rise within [0, 1]",
        )
        object.__setattr__(self, "_raw", self.raw.tolist())
        object.__setattr__(self, "_p", self.p.tolist())

    def __call__(self, raw: float) -> float:
        """The probability of a raw score."""
        xs, ys = self._raw, self._p
        if raw <= xs[0]:
            return ys[0]
        if raw >= xs[-1]:
            return ys[-1]
        at = bisect_left(xs, raw)
        slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
        # the rise may miss the point by the last bit, and a probability must not leave its bounds
        return min(slope * (raw - xs[at - 1]) + ys[at - 1], ys[at])


Calibrated = FlatSigmoid | FlatIsotonic
