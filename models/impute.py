"""What stands in for a feature that is unknown: a number learned in training, and a flag saying so."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.errors import MalformedModelError, TrainingError
from models.flat_arrays import Matrix
from models.parameters import check, claim, number

NOTHING_KNOWN: Final = 0.0
"""What fills a feature that was always missing in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fills:
    """What is put where a feature is unknown.

    A category is given the most frequent one; but what OneHot, Hashing or TargetEncoding takes stays unknown,
    for to them that is a category of its own.

    With `flag_missing` a feature that was sometimes unknown in training has a column beside it, 1.0 where it
    is unknown, so that the predictor can learn what being unknown means.
    """

    flag_missing: bool = claim(True)

    def __post_init__(self) -> None:
        """Check the parameters."""
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Median(_Fills):
    """The median of the known values in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(_Fills):
    """The mean of the known values in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MostFrequent(_Fills):
    """The most frequent value in training, the smallest of them on ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(_Fills):
    """A number that stands for unknown, the same for every feature."""

    value: float = number(0.0)


Filling = Median | Mean | MostFrequent | Constant


@dataclass(frozen=True, slots=True)
class Imputer:
    """What fills each feature of a model, and which features carry a missing flag.

    What follows sees the features first, in their order, then one column (1.0 or 0.0) for each flagged
    feature. A feature flagged was sometimes missing in training, so the predictor could learn what
    being unknown means. A feature that was always missing has nothing to learn from: it is named in
    `all_missing`, its column is the same for every training order, and so it cannot move a score. A fill
    that is NaN leaves the feature missing, for predictors that learn from missing values.
    """

    names: tuple[str, ...]
    fills: tuple[float, ...]
    flagged: tuple[str, ...]
    all_missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse fills that do not belong to the features."""
        if not self.names or len(set(self.names)) != len(self.names):
            message = f"an imputer needs at least one feature and each once; got {self.names}"
            raise MalformedModelError(message)
        if len(self.fills) != len(self.names) or np.isinf(self.fills).any():
            message = f"expected {len(self.names)} fills without infinity, one a feature; got {self.fills}"
            raise MalformedModelError(message)
        strangers = [n for n in (*self.flagged, *self.all_missing) if n not in self.names]
        if strangers or len(set(self.flagged)) != len(self.flagged):
            message = (
                f"flags must name the imputer's own features once; got {self.flagged}, {self.all_missing}"
            )
            raise MalformedModelError(message)

    @property
    def columns(self) -> int:
        """How many columns it gives: features and flags."""
        return len(self.names) + len(self.flagged)

    @property
    def flag_columns(self) -> tuple[int, ...]:
        """For each feature the column of its missing flag, -1 where it has none."""
        column = {name: len(self.names) + i for i, name in enumerate(self.flagged)}
        return tuple(column.get(name, -1) for name in self.names)

    @property
    def owners(self) -> tuple[int, ...]:
        """For each column the feature it speaks of, by position."""
        return (*range(len(self.names)), *(self.names.index(name) for name in self.flagged))

    def fill(self, matrix: Matrix) -> Matrix:
        """The features filled, then the flags."""
        missing = np.isnan(matrix)
        flags = [missing[:, self.names.index(name)] for name in self.flagged]
        filled = np.where(missing, np.asarray(self.fills), matrix)
        return np.column_stack([filled, *flags]).astype(np.float64)


def fit_imputer(
    matrix: Matrix,
    names: Sequence[str],
    filling: Filling | None = Median(flag_missing=True),
    *,
    categorical: Collection[str] = (),
    kept: Collection[str] = (),
) -> Imputer:
    """What the known values of the training orders say of each feature; None fills nothing that has any.

    Of the `kept` too nothing is filled nor flagged: an encoder that comes next knows what missing is.

    >>> fit_imputer(np.array([[1.0, np.nan], [3.0, 5.0], [8.0, np.nan]]), ["amount", "days_since_last_order"])
    Imputer(names=('amount', 'days_since_last_order'), fills=(3.0, 5.0), flagged=('days_since_last_order',), all_missing=())
    """  # noqa: E501 - a doctest's answer is one line
    infinite = [name for name, column in zip(names, matrix.T, strict=True) if np.isinf(column).any()]
    if infinite:
        message = (
            f"features {infinite} gave an infinite value on a training order; a feature is finite or None"
        )
        raise TrainingError(message)
    fills, flagged, all_missing = [], [], []
    for name, column in zip(names, matrix.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            all_missing.append(name)
            if filling is None and name not in kept:
                # left missing it would teach as little, and scikit-learn's histograms have no bin for it
                fills.append(NOTHING_KNOWN)
                continue
        how = None if name in kept else MostFrequent() if filling and name in categorical else filling
        if 0 < len(known) < len(column) and how is not None and filling is not None and filling.flag_missing:
            flagged.append(name)
        fills.append(_filled(known, how))
    return Imputer(tuple(names), tuple(fills), tuple(flagged), tuple(all_missing))


def _filled(known: npt.NDArray[np.float64], filling: Filling | None) -> float:
    match filling:
        case None:
            return float("nan")
        case Constant():
            return float(filling.value)
    if not len(known):
        return NOTHING_KNOWN
    match filling:
        case Median():
            return float(np.median(known))
        case Mean():
            return float(np.mean(known))
        case MostFrequent():
            values, counts = np.unique(known, return_counts=True)
            return float(values[np.argmax(counts)])
