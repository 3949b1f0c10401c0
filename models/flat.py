"""Models as flat arrays: what a trained model is in service, with no code to load.

Columns, a predictor over them, and how its raw score becomes a probability. Columns and predictors are each
written twice: as a numba kernel, which serves, and as plain numpy, which is its oracle and takes over where
numba cannot be imported. Both give the same bits. A row is scored alone, column by column and tree by tree in
a fixed order and without BLAS, so a score depends neither on the size of its batch nor on its neighbours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from models import flat_columns
from models.decision import MOST_REASONS
from models.flat_arrays import Floats, Ints, Matrix
from models.flat_columns import FlatColumns, columns_loops, columns_numpy
from models.flat_linear import FlatLinear, linear_loops, linear_numpy
from models.flat_scores import Calibrated, FlatIsotonic, FlatSigmoid, Link, linked
from models.flat_trees import FlatTrees, trees_loops, trees_numpy
from models.impute import Imputer

__all__ = [
    "Engine",
    "FlatColumns",
    "FlatIsotonic",
    "FlatLinear",
    "FlatModel",
    "FlatPredictor",
    "FlatSigmoid",
    "FlatTrees",
    "Floats",
    "Ints",
    "Walked",
    "default_engine",
    "first_pushes",
]

Engine = Literal["numba", "numpy"]
FlatPredictor = FlatLinear | FlatTrees

Bools = npt.NDArray[np.bool_]
_Arrays = tuple[Any, ...]

LEAST_ATTRIBUTION: Final = 1e-6
"""A smaller push than the last decimal of a score is rounding, not a reason."""

_CELLS: Final = 4_000_000
"""Columns laid out at once: 32 MB."""


class Walked(NamedTuple):
    """What the model says of a batch, row by row.

    `p` is the probability of fraud, not yet rounded. `attributions` has a column for each feature (whatever
    columns were made of it included): how far it pushed this row, up or down, in the unit of the raw score.
    `first` names by position the at most five features that pushed up most, the earlier feature first on
    ties; a feature that was missing is given as its position plus the number of features, and -1 fills the
    rest.
    """

    p: Floats
    attributions: Floats
    first: Ints


@dataclass(frozen=True, slots=True, eq=False)
class FlatModel:
    """Columns, a predictor and a calibration, ready to score vectors in which NaN means unknown."""

    columns: FlatColumns
    predictor: FlatPredictor
    link: Link
    calibration: Calibrated | None = None

    def __post_init__(self) -> None:
        """Check that the predictor fits the columns."""
        self.predictor.check_columns(self.columns.width)

    @property
    def imputer(self) -> Imputer:
        """What fills its features; `imputer.names` are they."""
        return self.columns.imputer

    def raw(self, matrix: Matrix, *, engine: Engine | None = None) -> Floats:
        """What the predictor says of every row before it becomes a probability."""
        return self._walk(np.array(matrix, dtype=np.float64, order="C"), engine)[0]

    def walk(self, matrix: Matrix, *, engine: Engine | None = None) -> Walked:
        """Score every row of `matrix`, shape (rows, features); raises ValueError on an infinite value."""
        # one layout, and one that can be written to, so that one kernel is compiled
        raw, attributions, first, _ = self._walk(np.array(matrix, dtype=np.float64, order="C"), engine)
        return Walked(np.array(self._probabilities(raw), dtype=np.float64), attributions, first)

    def answer(self, matrix: Matrix, *, engine: Engine) -> tuple[list[float], list[list[int]], Bools]:
        """What `walk` says of probabilities and first features, as lists, and which values were missing.

        For one who scores an order at a time: of a matrix of its own, float64 and in C order.
        """
        raw, _, first, missing = self._walk(matrix, engine)
        return self._probabilities(raw), first.tolist(), missing

    def _probabilities(self, raw: Floats) -> list[float]:
        link, calibrate = self.link, self.calibration
        if calibrate is not None:
            # a depth is calibrated as the score that people know
            return [calibrate(linked(each, "depth") if link == "depth" else each) for each in raw.tolist()]
        if link == "share":
            said: list[float] = raw.tolist()
            return said
        return [linked(each, link) for each in raw.tolist()]

    def _walk(self, matrix: Matrix, engine: Engine | None) -> tuple[Floats, Floats, Ints, Bools]:
        features = len(self.columns.imputer.names)
        if matrix.ndim != 2 or matrix.shape[1] != features:
            message = f"expected a matrix of rows by {features} features; got shape {matrix.shape}"
            raise ValueError(message)
        rows = len(matrix)
        raw, attributions = np.empty(rows), np.zeros((rows, features))
        first = np.empty((rows, MOST_REASONS), dtype=np.int32)
        missing = np.empty((rows, features), dtype=np.bool_)
        walk = _walks(engine or default_engine())[self.predictor.kind]
        columns = self.columns
        arrays = columns.arrays, columns.owners, self.predictor.arrays
        at_once = max(1, _CELLS // columns.width)
        if rows <= at_once:
            infinite = walk(matrix, *arrays, raw, attributions, first, missing)
            if infinite >= 0:
                self._refuse_infinite(matrix, infinite)
            return raw, attributions, first, missing
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            infinite = walk(matrix[part], *arrays, raw[part], attributions[part], first[part], missing[part])
            if infinite >= 0:
                self._refuse_infinite(matrix, start + infinite)
        return raw, attributions, first, missing

    def _refuse_infinite(self, matrix: Matrix, row: int) -> NoReturn:
        wrong = [name for name, v in zip(self.imputer.names, matrix[row], strict=True) if np.isinf(v)]
        message = f"row {row} of the batch has an infinite value for {wrong}; a feature is finite or None"
        raise ValueError(message)


@cache
def default_engine() -> Engine:
    """The engine in use: numba where it can be imported, else numpy with the same answers."""
    try:
        import numba  # noqa: F401, PLC0415 - half a second that only a scorer should pay
    except (ImportError, OSError):  # OSError: its compiler library does not load on this machine
        return "numpy"
    return "numba"


def _first_loops(attributions: Floats, missing: Bools, first: Ints) -> None:
    rows, features = attributions.shape
    for i in range(rows):
        for place in range(first.shape[1]):
            first[i, place] = -1
        last_push, last_feature = np.inf, -1
        for place in range(first.shape[1]):
            best_push, best = LEAST_ATTRIBUTION, -1
            for j in range(features):
                push = attributions[i, j]
                after_last = push < last_push or (push == last_push and j > last_feature)
                if after_last and push > best_push:
                    best_push, best = push, j
            if best < 0:
                break
            first[i, place] = best + features if missing[i, best] else best
            last_push, last_feature = best_push, best


def first_pushes(attributions: Floats, missing: Bools) -> Ints:
    """Of each row the columns that pushed up most, as `Walked.first` names them."""
    first = np.empty((len(attributions), MOST_REASONS), dtype=np.int32)
    _first_numpy(attributions, missing, first)
    return first


def _first_numpy(attributions: Floats, missing: Bools, first: Ints) -> None:
    features = attributions.shape[1]
    first[:] = -1
    order = np.argsort(-attributions, axis=1, kind="stable")[:, : first.shape[1]]
    push = np.take_along_axis(attributions, order, axis=1)
    named = order + features * np.take_along_axis(missing, order, axis=1)
    first[:, : order.shape[1]] = np.where(push > LEAST_ATTRIBUTION, named, -1)


# What a batch goes through, in one call, because each call of a compiled function costs microseconds. It
# fills raw, attributions, first and missing, and returns the first row with an infinite value, or -1.


def _walk_linear(  # noqa: PLR0917 - as the kernels
    matrix: Matrix,
    of_columns: _Arrays,
    owners: Ints,
    of_linear: _Arrays,
    raw: Floats,
    attributions: Floats,
    first: Ints,
    missing: Bools,
) -> int:
    columns = np.zeros((len(matrix), len(owners)))
    infinite = columns_loops(matrix, columns, missing, *of_columns)
    if infinite < 0:
        linear_loops(columns, owners, raw, attributions, *of_linear)
        _first_loops(attributions, missing, first)
    return infinite


def _walk_trees(  # noqa: PLR0917 - as the kernels
    matrix: Matrix,
    of_columns: _Arrays,
    owners: Ints,
    of_trees: _Arrays,
    raw: Floats,
    attributions: Floats,
    first: Ints,
    missing: Bools,
) -> int:
    columns = np.zeros((len(matrix), len(owners)))
    infinite = columns_loops(matrix, columns, missing, *of_columns)
    if infinite < 0:
        trees_loops(columns, owners, raw, attributions, *of_trees)
        _first_loops(attributions, missing, first)
    return infinite


def _walk_numpy(  # noqa: PLR0917 - as the kernels
    predict: Callable[..., None],
    matrix: Matrix,
    of_columns: _Arrays,
    owners: Ints,
    of_predictor: _Arrays,
    raw: Floats,
    attributions: Floats,
    first: Ints,
    missing: Bools,
) -> int:
    columns = np.zeros((len(matrix), len(owners)))
    infinite = columns_numpy(matrix, columns, missing, *of_columns)
    if infinite < 0:
        predict(columns, owners, raw, attributions, *of_predictor)
        _first_numpy(attributions, missing, first)
    return infinite


@cache
def _walks(engine: Engine) -> Mapping[str, Callable[..., int]]:
    """By the predictor's kind."""
    if engine == "numpy":
        return {"linear": partial(_walk_numpy, linear_numpy), "trees": partial(_walk_numpy, trees_numpy)}
    import numba.extending  # noqa: PLC0415 - half a second that only a scorer should pay

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, error_model="numpy")(function)
        except RuntimeError:  # no folder to keep it in: compiled again by each worker
            return numba.njit(error_model="numpy")(function)

    loops = (flat_columns.bucket, columns_loops, linear_loops, trees_loops, _first_loops)
    for function in loops:  # so that the walks may call them
        numba.extending.register_jitable(function)
    return {"linear": compiled(_walk_linear), "trees": compiled(_walk_trees)}
