"""Forests, boosted trees and isolation trees as flat arrays: the kernel and its numpy twin."""

import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from models.flat_arrays import Floats, Ints, Matrix, Words, expect, freeze_arrays

__all__ = ["CATEGORIES", "WORDS", "Combine", "FlatTrees", "goes_left", "trees_loops", "trees_numpy"]

Combine = Literal["mean", "sum", "single_sum"]

WORDS: Final = 8
CATEGORIES: Final = 32 * WORDS
"""Categories that a split can tell apart: one bit each."""

_LEAF: Final = -1
_NUMBER: Final = -1
_LARGEST_SINGLE: Final = 1e30


@dataclass(frozen=True, slots=True, eq=False)
class FlatTrees:
    """Trees, all in one row of nodes; attributions are Saabas's path attributions, in the unit of `value`.

    A node goes left where its column <= threshold, compared after a cast to float32 where `single`, as
    scikit-learn's forests and XGBoost do. NaN goes left where `missing_left` is 1. A node whose `category` is
    not -1 goes left where the bit of the column's value is set in its eight words of `bits`, beginning there;
    what is no category goes the way of NaN. A leaf has left == right == -1.

    Children stand after their parent and within their tree, and every node but a root has one parent:
    so a walk ends. `value` of a leaf is what it adds; of a node above, the mean of its training orders. The
    raw score is the mean of the trees' leaves, or their sum from `base` on, in float32 where `combine` is
    single_sum, as XGBoost adds.
    """

    kind = "trees"

    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    missing_left: Ints
    category: Ints
    bits: Words
    base: Floats
    combine: Combine
    single: bool
    arrays: tuple[Any, ...] = field(init=False, repr=False)
    """What the kernels take beside the columns."""

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        freeze_arrays(self)
        expect(
            self.combine in get_args(Combine) and isinstance(self.single, bool),
            "no such way to combine trees",
        )
        nodes = len(self.value) if self.value.ndim == 1 else -1
        for name in ("feature", "threshold", "left", "right", "value", "missing_left", "category"):
            expect(getattr(self, name).shape == (nodes,), f"{name} must be one number a node")
        expect(self.roots.ndim == 1 and len(self.roots) > 0, "roots must be one number a tree")
        expect(
            self.roots[0] == 0 and self.roots[-1] < nodes,
            "the first root must be node 0, the last within the nodes",
        )
        expect(bool((np.diff(self.roots) > 0).all()), "roots must rise")
        # a split that only tells missing from known has the threshold infinity
        expect(bool((self.threshold > -np.inf).all()), "threshold must be a number above minus infinity")
        if self.combine == "mean":
            expect(bool(((self.value >= 0.0) & (self.value <= 1.0)).all()), "value must lie in [0, 1]")
        expect(bool(np.isfinite(self.value).all()), "value must be finite")
        if self.combine == "single_sum":
            narrow = np.abs(np.concatenate([self.value, self.base])) < _LARGEST_SINGLE
            expect(bool(narrow.all()), "value must fit into float32")
        expect(
            self.base.shape == (1,) and bool(np.isfinite(self.base).all()), "base must be one finite number"
        )
        expect(bool(np.isin(self.missing_left, (0, 1)).all()), "missing_left must be 0 or 1")
        expect(self.bits.ndim == 1 and len(self.bits) % WORDS == 0, f"bits must be {WORDS} words a split")
        told = self.category[self.category != _NUMBER]
        expect(
            bool(((told >= 0) & (told <= len(self.bits) - WORDS)).all()),
            "a category's bits lie outside the bits",
        )
        self._check_links(nodes)
        object.__setattr__(
            self,
            "arrays",
            (
                self.roots, self.feature, self.threshold, self.left, self.right, self.value,
                self.missing_left, self.category, self.bits, self.base,
                self.combine == "mean", self.combine == "single_sum", self.single,
            ),
        )  # fmt: skip

    def _check_links(self, nodes: int) -> None:
        split = self.left != _LEAF
        expect(bool((self.right[~split] == _LEAF).all()), "a leaf must have neither a left nor a right child")
        children = np.concatenate([self.left[split], self.right[split]])
        expect(bool(((children >= 0) & (children < nodes)).all()), "a child lies outside the nodes")
        parents = np.tile(np.flatnonzero(split), 2)
        tree = np.searchsorted(self.roots, np.arange(nodes), side="right")
        expect(bool((children > parents).all()), "a child stands before its parent, which could be a cycle")
        expect(bool((tree[children] == tree[parents]).all()), "a child belongs to another tree")
        grown = np.sort(np.concatenate([children, self.roots]))
        expect(
            bool(np.array_equal(grown, np.arange(nodes))), "each node must be a root or the child of one node"
        )

    def check_columns(self, columns: int) -> None:
        """Refuse a model that splits on a column that is not there."""
        used = self.feature[self.left != _LEAF]
        expect(
            bool(((used >= 0) & (used < columns)).all()),
            f"a node splits on a column outside the {columns} there are",
        )

    @property
    def used(self) -> Ints:
        """The columns it looks at."""
        return np.unique(self.feature[self.left != _LEAF])


def goes_left(trees: FlatTrees, columns: Matrix) -> npt.NDArray[np.bool_]:
    """Of each row and each node, shape (rows, nodes), whether the row would go left there; plain numpy."""
    seen = columns
    if trees.single:
        with np.errstate(over="ignore"):
            seen = columns.astype(np.float32)
    x = seen[:, np.where(trees.left != _LEAF, trees.feature, 0)]
    left = np.where(np.isnan(x), trees.missing_left == 1, x <= trees.threshold)
    told = trees.category != _NUMBER
    if told.any():
        known = told & (x >= 0.0) & (x < CATEGORIES)
        code = np.where(known, x, 0.0).astype(np.intp)
        word = trees.bits[np.where(known, trees.category + code // 32, 0)]
        is_set = (word >> (code % 32).astype(np.uint32)) & np.uint32(1) == 1
        left = np.where(told, np.where(known, is_set, trees.missing_left == 1), left)
    return left


def trees_loops(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    columns: Matrix,
    owners: Ints,
    raw: Floats,
    attributions: Floats,
    roots: Ints,
    feature: Ints,
    threshold: Floats,
    left: Ints,
    right: Ints,
    value: Floats,
    missing_left: Ints,
    category: Ints,
    bits: Words,
    base: Floats,
    is_mean: bool,
    is_narrow: bool,
    single: bool,
) -> None:
    """Fill `raw` and `attributions`, row by row, tree by tree and down each path."""
    rows, width = columns.shape
    trees = len(roots)
    seen = np.empty(width, dtype=np.float64)
    for i in range(rows):
        for c in range(width):
            seen[c] = np.float64(np.float32(columns[i, c])) if single else columns[i, c]
        total = base[0]
        for t in range(trees):
            node = roots[t]
            so_far = value[node]
            while left[node] >= 0:
                split_on = feature[node]
                x = seen[split_on]
                if category[node] >= 0:
                    if 0.0 <= x < CATEGORIES:  # written so that NaN is no category
                        code = int(x)
                        goes_left = (bits[category[node] + code // 32] >> np.uint32(code % 32)) & np.uint32(
                            1
                        ) == 1
                    else:
                        goes_left = missing_left[node] == 1
                elif math.isnan(x):
                    goes_left = missing_left[node] == 1
                else:
                    goes_left = x <= threshold[node]
                node = left[node] if goes_left else right[node]
                attributions[i, owners[split_on]] += value[node] - so_far
                so_far = value[node]
            total += so_far
            if is_narrow:
                total = np.float64(np.float32(total))
        if is_mean:
            raw[i] = total / trees
            for j in range(attributions.shape[1]):
                attributions[i, j] /= trees
        else:
            raw[i] = total


def trees_numpy(  # noqa: PLR0917 - as the kernel
    columns: Matrix,
    owners: Ints,
    raw: Floats,
    attributions: Floats,
    roots: Ints,
    feature: Ints,
    threshold: Floats,
    left: Ints,
    right: Ints,
    value: Floats,
    missing_left: Ints,
    category: Ints,
    bits: Words,
    base: Floats,
    is_mean: bool,
    is_narrow: bool,
    single: bool,
) -> None:
    """The same in plain numpy: all rows at once, and every sum taken in the order of the loops."""
    rows, features = attributions.shape
    seen = columns
    if single:
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, and goes right, as in the kernel
            seen = columns.astype(np.float32)
    node = np.tile(roots, (rows, 1))
    row = np.arange(rows)[:, np.newaxis]
    steps, pushes = [], []  # one array (rows, trees) for each level walked
    while (walking := left[node] >= 0).any():
        split_on = np.where(walking, feature[node], 0)
        x = seen[row, split_on]
        goes_left = np.where(np.isnan(x), missing_left[node] == 1, x <= threshold[node])
        told = category[node] >= 0
        if told.any():
            known = told & (x >= 0.0) & (x < CATEGORIES)
            code = np.where(known, x, 0.0).astype(np.intp)
            word = bits[np.where(known, category[node] + code // 32, 0)]
            is_set = (word >> (code % 32).astype(np.uint32)) & np.uint32(1) == 1
            goes_left = np.where(told, np.where(known, is_set, missing_left[node] == 1), goes_left)
        child = np.where(walking, np.where(goes_left, left[node], right[node]), node)
        steps.append(row * features + owners[split_on])
        pushes.append(value[child] - value[node])  # 0.0 on a leaf: adding it changes no bit
        node = child
    if steps:
        # bincount adds one after the other in the order given: row by row, tree by tree, down each path
        of = np.stack(steps, axis=-1).ravel()
        summed = np.bincount(of, np.stack(pushes, axis=-1).ravel(), minlength=rows * features)
        attributions += summed.reshape(rows, features)
    added = np.concatenate([np.full((rows, 1), base[0]), value[node]], axis=1)
    if is_narrow:
        added = added.astype(np.float32)
    raw[:] = np.add.accumulate(added, axis=1)[:, -1]
    if is_mean:
        attributions /= len(roots)
        raw /= len(roots)
