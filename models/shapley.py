"""Exact Shapley values of a flat model's raw score for an order, against other orders; when somebody asks.

A feature's value is how much the raw score changes when another order's value of it is replaced by this
one's, in the mean of all sequences in which the features could be replaced, and of the other orders:
"interventional" values (Lundberg et al. 2020, From local explanations to global understanding with
explainable AI for trees). They add up to how far this raw score is from the mean of the others'. For trees
that takes a walk of each tree for each other order: seconds, and no place on the way of an order.
"""

from collections.abc import Sequence
from math import factorial
from typing import Final, NamedTuple

import numpy as np

from models.flat import FlatModel, Floats
from models.flat_arrays import Matrix
from models.flat_columns import columns_numpy
from models.flat_linear import FlatLinear
from models.flat_trees import goes_left

__all__ = ["mean_shapley", "shapley"]

_NODES: Final = 400_000
"""Nodes times orders that a mean is told of, so that a large forest takes seconds too."""
_FEWEST: Final = 10


def shapley(model: FlatModel, row: Matrix, others: Matrix) -> Floats:
    """Of each feature of the model its Shapley value, in the unit of the raw score.

    `row` has shape (features,) and `others` (orders, features), at least one order; NaN is unknown.
    """
    asked = np.vstack([row[np.newaxis], others])
    columns = np.zeros((len(asked), model.columns.width))
    missing = np.empty(asked.shape, dtype=np.bool_)
    columns_numpy(asked, columns, missing, *model.columns.arrays)
    values = np.zeros(len(row))
    owners = model.columns.owners
    predictor = model.predictor
    if isinstance(predictor, FlatLinear):
        away = columns[0] - columns[1:].mean(axis=0)
        np.add.at(values, owners[predictor.column], predictor.coefficient * away[predictor.column])
        return values
    trees = _Trees(
        predictor.roots.tolist(),
        predictor.left.tolist(),
        predictor.right.tolist(),
        owners[np.where(predictor.left < 0, 0, predictor.feature)].tolist(),
        predictor.value.tolist(),
    )
    ours = goes_left(predictor, columns[:1])[0].tolist()
    for at in range(1, len(columns)):  # one after the other: all at once would be rows by nodes
        _walk(trees, ours, goes_left(predictor, columns[at : at + 1])[0].tolist(), values)
    return values / (len(others) * (len(trees.roots) if predictor.combine == "mean" else 1))


def mean_shapley(model: FlatModel, rows: Matrix, others: Matrix) -> Floats:
    """Of each feature the mean size of its Shapley values, in the unit of the raw score, over the rows.

    Of a large forest over the first rows only, at least ten. Raises ValueError without rows or others.
    """
    predictor = model.predictor
    nodes = 1 if isinstance(predictor, FlatLinear) else len(predictor.value)
    some = rows[: max(_FEWEST, _NODES // nodes)]
    if not len(some) or not len(others):
        message = f"Shapley values hold orders against others; got {len(some)} and {len(others)}"
        raise ValueError(message)
    return np.asarray(np.mean([np.abs(shapley(model, row, others)) for row in some], axis=0))


class _Trees(NamedTuple):
    roots: Sequence[int]
    left: Sequence[int]
    """Below 0 for a leaf."""
    right: Sequence[int]
    owner: Sequence[int]
    """The feature that a node splits on."""
    value: Sequence[float]


def _walk(trees: _Trees, ours: Sequence[bool], theirs: Sequence[bool], values: Floats) -> None:
    """Add what every leaf gives that some mixture of the two orders reaches.

    A feature that sends the two apart is one that the mixture must have of ours, or of theirs.
    """
    reached: list[tuple[int, dict[int, bool]]] = [(root, {}) for root in trees.roots]
    while reached:
        node, has_ours = reached.pop()
        left, right = trees.left[node], trees.right[node]
        if left < 0:
            _share(trees.value[node], has_ours, values)
            continue
        owner = trees.owner[node]
        told = has_ours.get(owner)
        if told is not None:
            reached.append((left if (ours if told else theirs)[node] else right, has_ours))
        elif ours[node] == theirs[node]:
            reached.append((left if ours[node] else right, has_ours))
        else:
            reached.append((left if ours[node] else right, has_ours | {owner: True}))
            reached.append((left if theirs[node] else right, has_ours | {owner: False}))


def _share(value: float, has_ours: dict[int, bool], values: Floats) -> None:
    """Give a leaf's value to the features on its way, by the share of sequences that reach it with each."""
    ours = sum(has_ours.values())
    theirs = len(has_ours) - ours
    sequences = factorial(len(has_ours))
    for owner, is_ours in has_ours.items():
        if is_ours:
            values[owner] += value * (factorial(ours - 1) * factorial(theirs) / sequences)
        else:
            values[owner] -= value * (factorial(ours) * factorial(theirs - 1) / sequences)
