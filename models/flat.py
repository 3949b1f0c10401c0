"""Models as flat arrays: what a trained model is in service, with no code to load.

Two predictors, a logistic regression and a random forest, each written twice: as a numba kernel, which
serves, and as plain numpy, which is its oracle and takes over where numba cannot be imported. Both give
the same bits. A row is scored alone, feature by feature and tree by tree in a fixed order and without
BLAS, so a score depends neither on the size of its batch nor on its neighbours.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.decision import MOST_REASONS
from models.errors import MalformedModelError
from models.impute import Imputer, Matrix

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Engine = Literal["numba", "numpy"]

LEAST_ATTRIBUTION: Final = 1e-6
"""A smaller push than the last decimal of a score is rounding, not a reason."""

_LEAF: Final = -1


class Walked(NamedTuple):
    """What the model says of a batch, row by row.

    `p` is the probability of fraud, not yet rounded. `attributions` has a column for each feature (its
    missing flag included): how far it pushed this row, up or down. `first` names by position the at most
    five features that pushed up most, the earlier feature first on ties; a feature that was imputed is
    given as its position plus the number of features, and -1 fills the rest.
    """

    p: Floats
    attributions: Floats
    first: Ints


@dataclass(frozen=True, slots=True, eq=False)
class FlatLinear:
    """A logistic regression on standardised columns; attributions: coefficient times value, in log-odds."""

    kind = "logistic_regression"

    mean: Floats
    scale: Floats
    coefficient: Floats
    intercept: Floats

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        _freeze(self)
        _expect(self.mean.ndim == 1 and len(self.mean) > 0, "mean must be one number a column")
        _expect(
            self.mean.shape == self.scale.shape == self.coefficient.shape,
            "mean, scale and coefficient differ in length",
        )
        _expect(self.intercept.shape == (1,), "intercept must be one number")
        for name in ("mean", "scale", "coefficient", "intercept"):
            _expect(bool(np.isfinite(getattr(self, name)).all()), f"{name} must be finite")
        _expect(bool((self.scale > 0.0).all()), "scale must be above zero")

    def check_columns(self, columns: int) -> None:
        """Refuse a model that was made for another number of columns."""
        _expect(
            len(self.mean) == columns, f"made for {len(self.mean)} columns, and the imputer gives {columns}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class FlatForest:
    """A random forest, all its trees in one row of nodes; attributions are Saabas's path attributions.

    A node goes left where float32(value) <= threshold, as scikit-learn does; a leaf has left == right == -1.
    Children stand after their parent and within their tree, and every node but a root has one parent:
    so a walk ends. `value` is the share of fraud among a node's training orders.
    """

    kind = "random_forest"

    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        _freeze(self)
        nodes = len(self.value) if self.value.ndim == 1 else -1
        for name in ("feature", "threshold", "left", "right", "value"):
            _expect(getattr(self, name).shape == (nodes,), f"{name} must be one number a node")
        _expect(self.roots.ndim == 1 and len(self.roots) > 0, "roots must be one number a tree")
        _expect(
            self.roots[0] == 0 and self.roots[-1] < nodes,
            "the first root must be node 0, the last within the nodes",
        )
        _expect(bool((np.diff(self.roots) > 0).all()), "roots must rise")
        _expect(bool(np.isfinite(self.threshold).all()), "threshold must be finite")
        _expect(bool(((self.value >= 0.0) & (self.value <= 1.0)).all()), "value must lie in [0, 1]")
        split = self.left != _LEAF
        _expect(
            bool((self.right[~split] == _LEAF).all()), "a leaf must have neither a left nor a right child"
        )
        children = np.concatenate([self.left[split], self.right[split]])
        _expect(bool(((children >= 0) & (children < nodes)).all()), "a child lies outside the nodes")
        parents = np.tile(np.flatnonzero(split), 2)
        tree = np.searchsorted(self.roots, np.arange(nodes), side="right")
        _expect(bool((children > parents).all()), "a child stands before its parent, which could be a cycle")
        _expect(bool((tree[children] == tree[parents]).all()), "a child belongs to another tree")
        grown = np.sort(np.concatenate([children, self.roots]))
        _expect(
            bool(np.array_equal(grown, np.arange(nodes))), "each node must be a root or the child of one node"
        )

    def check_columns(self, columns: int) -> None:
        """Refuse a model that splits on a column the imputer does not give."""
        used = self.feature[self.left != _LEAF]
        _expect(
            bool(((used >= 0) & (used < columns)).all()),
            f"a node splits on a column outside the imputer's {columns}",
        )


Predictor = FlatLinear | FlatForest
PREDICTORS: Final[Mapping[str, type[FlatLinear] | type[FlatForest]]] = {
    p.kind: p for p in (FlatLinear, FlatForest)
}


@dataclass(frozen=True, slots=True, eq=False)
class FlatModel:
    """An imputer and a predictor, ready to score vectors in which NaN means unknown."""

    imputer: Imputer
    predictor: Predictor
    _medians: Floats = field(init=False, repr=False)
    _flags: Ints = field(init=False, repr=False)
    _owners: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the predictor fits the imputer's columns, and lay out the imputer as arrays."""
        self.predictor.check_columns(self.imputer.columns)
        for name, values, dtype in (
            ("_medians", self.imputer.medians, np.float64),
            ("_flags", self.imputer.flag_columns, np.int32),
            ("_owners", self.imputer.owners, np.int32),
        ):
            array = np.array(values, dtype=dtype)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def walk(self, matrix: Matrix, *, engine: Engine | None = None) -> Walked:
        """Score every row of `matrix`, shape (rows, features); raises ValueError on an infinite value."""
        matrix = np.array(matrix, dtype=np.float64, order="C")  # one layout, so that one kernel is compiled
        if matrix.ndim != 2 or matrix.shape[1] != len(self._medians):
            message = f"expected a matrix of rows by {len(self._medians)} features; got shape {matrix.shape}"
            raise ValueError(message)
        rows, features = matrix.shape
        walked = Walked(
            np.empty(rows), np.zeros((rows, features)), np.full((rows, MOST_REASONS), -1, dtype=np.int32)
        )
        of_batch = (matrix, self._medians, self._flags, self._owners)
        predictor = self.predictor
        linear_kernel, forest_kernel = _kernels(engine or default_engine())
        if isinstance(predictor, FlatLinear):
            arrays = (predictor.mean, predictor.scale, predictor.coefficient, predictor.intercept)
            infinite = linear_kernel(*of_batch, *arrays, *walked)
            # here, because numpy's exp and libm's differ in the last bit: both engines use this one
            walked.p[:] = [_sigmoid(margin) for margin in walked.p.tolist()]
        else:
            nodes = (predictor.feature, predictor.threshold, predictor.left, predictor.right, predictor.value)
            infinite = forest_kernel(*of_batch, predictor.roots, *nodes, *walked)
        if infinite >= 0:
            names = [n for n, v in zip(self.imputer.names, matrix[infinite], strict=True) if np.isinf(v)]
            message = (
                f"row {infinite} of the batch has an infinite value for {names}; a feature is finite or None"
            )
            raise ValueError(message)
        return walked


@cache
def default_engine() -> Engine:
    """The engine in use: numba where it can be imported, else numpy with the same answers."""
    try:
        import numba  # noqa: F401, PLC0415 - half a second that only a scorer should pay
    except (ImportError, OSError):  # OSError: its compiler library does not load on this machine
        return "numpy"
    return "numba"


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        message = f"the arrays are not a model: {otherwise}; publish the model again from its training"
        raise MalformedModelError(message)


def _freeze(predictor: Predictor) -> None:
    for each in fields(predictor):
        array = getattr(predictor, each.name)
        expected = np.float64 if each.type is Floats else np.int32
        _expect(
            isinstance(array, np.ndarray) and array.dtype == expected,
            f"{each.name} must be {expected.__name__}",
        )
        frozen = np.array(array, order="C")
        frozen.flags.writeable = False
        object.__setattr__(predictor, each.name, frozen)


def _sigmoid(margin: float) -> float:
    if margin >= 0.0:
        return 1.0 / (1.0 + math.exp(-margin))
    grown = math.exp(margin)
    return grown / (1.0 + grown)


# The kernels below write into p, attributions and first, and return the first row that has an infinite
# value, or -1. They are plain python for numba to compile, so they spell out their loops.


def _pick_first(attributions: Floats, missing: npt.NDArray[np.bool_], first: Ints) -> None:
    features = len(attributions)
    last_push, last_feature = np.inf, -1
    for place in range(len(first)):
        best_push, best = LEAST_ATTRIBUTION, -1
        for j in range(features):
            push = attributions[j]
            after_last = push < last_push or (push == last_push and j > last_feature)
            if after_last and push > best_push:
                best_push, best = push, j
        if best < 0:
            return
        first[place] = best + features if missing[best] else best
        last_push, last_feature = best_push, best


def _linear_loops(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    matrix: Matrix,
    medians: Floats,
    flags: Ints,
    owners: Ints,
    mean: Floats,
    scale: Floats,
    coefficient: Floats,
    intercept: Floats,
    p: Floats,
    attributions: Floats,
    first: Ints,
) -> int:
    rows, features = matrix.shape
    columns = np.empty(len(owners), dtype=np.float64)
    missing = np.empty(features, dtype=np.bool_)
    for i in range(rows):
        for j in range(features):
            value = matrix[i, j]
            if math.isinf(value):
                return i
            missing[j] = math.isnan(value)
            columns[j] = medians[j] if missing[j] else value
            if flags[j] >= 0:
                columns[flags[j]] = 1.0 if missing[j] else 0.0
        margin = 0.0
        for c in range(len(columns)):
            term = coefficient[c] * ((columns[c] - mean[c]) / scale[c])
            margin += term
            attributions[i, owners[c]] += term
        p[i] = margin + intercept[0]
        _pick_first(attributions[i], missing, first[i])
    return -1


def _forest_loops(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    matrix: Matrix,
    medians: Floats,
    flags: Ints,
    owners: Ints,
    roots: Ints,
    feature: Ints,
    threshold: Floats,
    left: Ints,
    right: Ints,
    node_value: Floats,
    p: Floats,
    attributions: Floats,
    first: Ints,
) -> int:
    rows, features = matrix.shape
    trees = len(roots)
    columns = np.empty(len(owners), dtype=np.float32)  # scikit-learn's trees compare in float32
    missing = np.empty(features, dtype=np.bool_)
    for i in range(rows):
        for j in range(features):
            value = matrix[i, j]
            if math.isinf(value):
                return i
            missing[j] = math.isnan(value)
            columns[j] = np.float32(medians[j] if missing[j] else value)
            if flags[j] >= 0:
                columns[flags[j]] = np.float32(1.0 if missing[j] else 0.0)
        total = 0.0
        for t in range(trees):
            node = roots[t]
            share = node_value[node]
            while left[node] >= 0:
                split_on = feature[node]
                node = left[node] if columns[split_on] <= threshold[node] else right[node]
                attributions[i, owners[split_on]] += node_value[node] - share
                share = node_value[node]
            total += share
        p[i] = total / trees
        for j in range(features):
            attributions[i, j] /= trees
        _pick_first(attributions[i], missing, first[i])
    return -1


# The same in plain numpy: all rows at once, and every sum taken in the order of the loops above.


def _numpy_columns(
    matrix: Matrix, medians: Floats, flags: Ints, columns: int
) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    missing = np.isnan(matrix)
    seen = np.empty((len(matrix), columns))
    seen[:, : len(medians)] = np.where(missing, medians, matrix)
    for j in np.flatnonzero(flags >= 0):
        seen[:, flags[j]] = missing[:, j]
    return seen, missing


def _first_infinite(matrix: Matrix) -> int:
    rows = np.flatnonzero(np.isinf(matrix).any(axis=1))
    return int(rows[0]) if len(rows) else -1


def _numpy_first(attributions: Floats, missing: npt.NDArray[np.bool_], first: Ints) -> None:
    features = attributions.shape[1]
    order = np.argsort(-attributions, axis=1, kind="stable")[:, : first.shape[1]]
    push = np.take_along_axis(attributions, order, axis=1)
    named = order + features * np.take_along_axis(missing, order, axis=1)
    first[:, : order.shape[1]] = np.where(push > LEAST_ATTRIBUTION, named, -1)


def _linear_numpy(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    matrix: Matrix,
    medians: Floats,
    flags: Ints,
    owners: Ints,
    mean: Floats,
    scale: Floats,
    coefficient: Floats,
    intercept: Floats,
    p: Floats,
    attributions: Floats,
    first: Ints,
) -> int:
    infinite = _first_infinite(matrix)
    if infinite >= 0:
        return infinite
    columns, missing = _numpy_columns(matrix, medians, flags, len(owners))
    margin = np.zeros(len(matrix))
    with np.errstate(over="ignore", invalid="ignore"):  # silent where the kernel is
        for c in range(len(owners)):
            term = coefficient[c] * ((columns[:, c] - mean[c]) / scale[c])
            margin += term
            attributions[:, owners[c]] += term
        p[:] = margin + intercept[0]
    _numpy_first(attributions, missing, first)
    return -1


def _forest_numpy(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    matrix: Matrix,
    medians: Floats,
    flags: Ints,
    owners: Ints,
    roots: Ints,
    feature: Ints,
    threshold: Floats,
    left: Ints,
    right: Ints,
    node_value: Floats,
    p: Floats,
    attributions: Floats,
    first: Ints,
) -> int:
    infinite = _first_infinite(matrix)
    if infinite >= 0:
        return infinite
    rows, features = matrix.shape
    seen, missing = _numpy_columns(matrix, medians, flags, len(owners))
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, and goes right, as in the kernel
        columns = seen.astype(np.float32)
    node = np.tile(roots, (rows, 1))
    row = np.arange(rows)[:, np.newaxis]
    steps, pushes = [], []  # one array (rows, trees) for each level walked
    while (walking := left[node] >= 0).any():
        split_on = np.where(walking, feature[node], 0)
        goes_left = columns[row, split_on] <= threshold[node]
        child = np.where(walking, np.where(goes_left, left[node], right[node]), node)
        steps.append(row * features + owners[split_on])
        pushes.append(node_value[child] - node_value[node])  # 0.0 on a leaf: adding it changes no bit
        node = child
    if steps:
        # bincount adds one after the other in the order given: row by row, tree by tree, down each path
        of = np.stack(steps, axis=-1).ravel()
        summed = np.bincount(of, np.stack(pushes, axis=-1).ravel(), minlength=rows * features)
        attributions += summed.reshape(rows, features)
    attributions /= len(roots)
    p[:] = np.add.accumulate(node_value[node], axis=1)[:, -1] / len(roots)
    _numpy_first(attributions, missing, first)
    return -1


@cache
def _kernels(engine: Engine) -> tuple[Callable[..., int], Callable[..., int]]:
    if engine == "numpy":
        return _linear_numpy, _forest_numpy
    import numba.extending  # noqa: PLC0415 - half a second that only a scorer should pay

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, error_model="numpy")(function)
        except RuntimeError:  # no folder to keep it in: compiled again by each worker
            return numba.njit(error_model="numpy")(function)

    numba.extending.register_jitable(_pick_first)  # so that the loops may call it
    return compiled(_linear_loops), compiled(_forest_loops)
