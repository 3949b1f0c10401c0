"""From a feature vector to the columns a predictor sees, as flat arrays.

A row of columns begins with the model's features, filled, then their missing flags. Steps then fill further
columns, each from one that stands before it. Written twice, as a numba kernel and in plain numpy, with the
same bits: each number is computed alone.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.flat_arrays import Floats, Ints, Matrix, expect, freeze_arrays, frozen
from models.impute import Imputer

__all__ = ["HASH", "HEAD", "LOOK_UP", "SCALE", "SPREAD", "FlatColumns", "bucket"]

SCALE: Final = 0
LOOK_UP: Final = 1
SPREAD: Final = 2
HASH: Final = 3
HEAD: Final = 2
"""Entries of a table before its keys: what stands for a value that is not among them, and for NaN."""

Bools = npt.NDArray[np.bool_]

_ROUNDS: Final = (0xCC9E2D51, 0x1B873593, 0xE6546B64, 0x85EBCA6B, 0xC2B2AE35)
_INT32: Final = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class FlatColumns:
    """An imputer and the steps after it.

    Step `s` reads column `source[s]` and what belongs to it in `table`, from `start[s]` on:

    - SCALE writes (x - table[0]) / table[1] into `into[s]`.
    - LOOK_UP has `count[s]` rising keys behind the HEAD, then a value for each; it writes the value of the
      key that equals x, or table[0] where none does, or table[1] for NaN.
    - SPREAD is the same, but the values name the column that becomes 1.0; -1 names none.
    - HASH has `count[s]` buckets, each with its column or -1; the one that x falls into becomes 1.0 or -1.0.

    A column that no step fills is 0.0. `owners` has for each column the feature it speaks of, by position.
    """

    imputer: Imputer
    op: Ints
    source: Ints
    into: Ints
    start: Ints
    count: Ints
    table: Floats
    owners: Ints
    arrays: tuple[npt.NDArray[Any], ...] = field(init=False, repr=False)
    """What the kernels take beside the matrix: what fills a feature, its flag's column, the steps."""

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        freeze_arrays(self)
        fills = frozen(np.array(self.imputer.fills, dtype=np.float64))
        flags = frozen(np.array(self.imputer.flag_columns, dtype=np.int32))
        steps_of = (self.op, self.source, self.into, self.start, self.count, self.table)
        object.__setattr__(self, "arrays", (fills, flags, *steps_of))
        steps = self.op.shape
        for name in ("op", "source", "into", "start", "count"):
            expect(
                getattr(self, name).shape == steps and len(steps) == 1, f"{name} must be one number a step"
            )
        expect(self.table.ndim == 1 and self.owners.ndim == 1, "table and owners must be rows of numbers")
        given = self.imputer.owners
        expect(tuple(self.owners[: len(given)].tolist()) == given, "the first columns must be the imputer's")
        inside = (self.owners >= 0) & (self.owners < len(self.imputer.names))
        expect(bool(inside.all()), "a column speaks of a feature that is not there")
        filled = np.zeros(self.width, dtype=np.bool_)
        filled[: len(given)] = True
        for step in range(len(self.op)):
            self._check_step(step, filled)

    @classmethod
    def of(cls, imputer: Imputer) -> "FlatColumns":
        """An imputer with no step after it."""
        none = np.zeros(0, dtype=np.int32)
        owners = np.array(imputer.owners, dtype=np.int32)
        return cls(imputer, none, none, none, none, none, np.zeros(0), owners)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.owners)

    def _check_step(self, step: int, filled: Bools) -> None:
        op, source, into = int(self.op[step]), int(self.source[step]), int(self.into[step])
        start, count = int(self.start[step]), int(self.count[step])
        expect(SCALE <= op <= HASH, f"there is no step of kind {op}")
        expect(
            0 <= source < self.width and bool(filled[source]), "a step reads a column not filled before it"
        )
        size = {SCALE: HEAD, LOOK_UP: HEAD + 2 * count, SPREAD: HEAD + 2 * count, HASH: count}[op]
        expect(
            0 <= count <= len(self.table) and 0 <= start <= len(self.table) - size,
            "a step's table lies outside the tables",
        )
        table = self.table[start : start + size]
        if op == SCALE:
            expect(bool(np.isfinite(table).all()) and table[1] > 0.0, "a scale must be finite and above zero")
        if op in {LOOK_UP, SPREAD}:
            keys = table[HEAD : HEAD + count]
            expect(
                bool(np.isfinite(keys).all()) and bool((np.diff(keys) > 0).all()),
                "keys must rise and be finite",
            )
        if op in {SCALE, LOOK_UP}:
            expect(not np.isinf(table).any(), "a table must not hold an infinite value")
            written = np.array([into])
        else:
            expect(op != HASH or count > 0, "a hash must have buckets")
            columns = table if op == HASH else np.concatenate([table[:HEAD], table[HEAD + count :]])
            whole = (columns >= -1) & (columns < self.width)
            expect(bool(whole.all()) and bool((columns == np.floor(columns)).all()), "a step fills no column")
            written = np.unique(columns[columns >= 0]).astype(np.intp)
        expect(
            bool(((written >= 0) & (written < self.width)).all()) and not filled[written].any(),
            "a step fills a column that is filled already, or none",
        )
        expect(
            bool((self.owners[written] == self.owners[source]).all()),
            "a column has another owner than its source",
        )
        filled[written] = True


def bucket(value: float, buckets: int) -> int:
    """The bucket that scikit-learn's murmurhash3_32 gives a whole number of 32 bits.

    -1 - bucket where the hash is negative, which counts as -1.0; `buckets` for what is no such number.
    """
    if not (-_INT32 <= value < _INT32) or value != math.floor(value):
        return buckets
    key = np.uint32(np.int64(value) & 0xFFFFFFFF)
    key = np.uint32(np.uint64(key) * np.uint64(0xCC9E2D51) & np.uint64(0xFFFFFFFF))
    key = np.uint32(
        (np.uint64(key) << np.uint64(15) | np.uint64(key) >> np.uint64(17)) & np.uint64(0xFFFFFFFF)
    )
    key = np.uint32(np.uint64(key) * np.uint64(0x1B873593) & np.uint64(0xFFFFFFFF))
    mixed = np.uint64(
        (np.uint64(key) << np.uint64(13) | np.uint64(key) >> np.uint64(19)) & np.uint64(0xFFFFFFFF)
    )
    mixed = (mixed * np.uint64(5) + np.uint64(0xE6546B64)) & np.uint64(0xFFFFFFFF)
    mixed = mixed ^ np.uint64(4)
    mixed = mixed ^ mixed >> np.uint64(16)
    mixed = mixed * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    mixed = mixed ^ mixed >> np.uint64(13)
    mixed = mixed * np.uint64(0xC2B2AE35) & np.uint64(0xFFFFFFFF)
    mixed = mixed ^ mixed >> np.uint64(16)
    signed = np.int64(mixed)
    if signed >= _INT32:
        signed -= np.int64(2 * _INT32)
        return int(-1 - (-signed) % buckets)
    return int(signed % buckets)


# The kernel writes into columns and missing, and returns the first row with an infinite value, or -1. It is
# plain python for numba to compile, so it spells out its loops.


def columns_loops(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    matrix: Matrix,
    columns: Matrix,
    missing: Bools,
    fills: Floats,
    flags: Ints,
    op: Ints,
    source: Ints,
    into: Ints,
    start: Ints,
    count: Ints,
    table: Floats,
) -> int:
    """Fill `columns` and `missing`, row by row."""
    rows, features = matrix.shape
    for i in range(rows):
        for j in range(features):
            value = matrix[i, j]
            if math.isinf(value):
                return i
            missing[i, j] = math.isnan(value)
            columns[i, j] = fills[j] if missing[i, j] else value
            if flags[j] >= 0:
                columns[i, flags[j]] = 1.0 if missing[i, j] else 0.0
        for s in range(len(op)):
            value = columns[i, source[s]]
            at = start[s]
            if op[s] == SCALE:
                columns[i, into[s]] = (value - table[at]) / table[at + 1]
            elif op[s] == HASH:
                place = count[s] if math.isnan(value) else bucket(value, count[s])
                if place < count[s]:
                    column = int(table[at + (place if place >= 0 else -1 - place)])
                    if column >= 0:
                        columns[i, column] = 1.0 if place >= 0 else -1.0
            else:
                found = table[at]
                if math.isnan(value):
                    found = table[at + 1]
                else:
                    low, high = at + HEAD, at + HEAD + count[s]
                    while low < high:
                        middle = (low + high) // 2
                        if table[middle] < value:
                            low = middle + 1
                        else:
                            high = middle
                    if low < at + HEAD + count[s] and table[low] == value:
                        found = table[low + count[s]]
                if op[s] == LOOK_UP:
                    columns[i, into[s]] = found
                elif found >= 0.0:
                    columns[i, int(found)] = 1.0
    return -1


def columns_numpy(  # noqa: PLR0917 - as the kernel
    matrix: Matrix,
    columns: Matrix,
    missing: Bools,
    fills: Floats,
    flags: Ints,
    op: Ints,
    source: Ints,
    into: Ints,
    start: Ints,
    count: Ints,
    table: Floats,
) -> int:
    """The same in plain numpy: all rows at once, step by step."""
    infinite = np.flatnonzero(np.isinf(matrix).any(axis=1))
    if len(infinite):
        return int(infinite[0])
    missing[:] = np.isnan(matrix)
    columns[:, : len(fills)] = np.where(missing, fills, matrix)
    for j in np.flatnonzero(flags >= 0):
        columns[:, flags[j]] = missing[:, j]
    every = np.arange(len(matrix))
    for s in range(len(op)):
        value, at, entries = columns[:, source[s]], start[s], count[s]
        if op[s] == SCALE:
            with np.errstate(over="ignore", invalid="ignore"):  # silent where the kernel is
                columns[:, into[s]] = (value - table[at]) / table[at + 1]
        elif op[s] == HASH:
            place = np.array(
                [entries if math.isnan(x) else bucket(x, int(entries)) for x in value.tolist()],
                dtype=np.int64,
            )
            has = place < entries
            column = np.full(len(value), -1)
            column[has] = table[at + np.where(place >= 0, place, -1 - place)[has]].astype(np.intp)
            has &= column >= 0
            columns[every[has], column[has]] = np.where(place[has] >= 0, 1.0, -1.0)
        else:
            keys = table[at + HEAD : at + HEAD + entries]
            low = np.searchsorted(keys, value)
            inside = np.minimum(low, max(entries - 1, 0))
            equal = (
                (low < entries) & (keys[inside] == value) if entries else np.zeros(len(value), dtype=np.bool_)
            )
            found = np.where(
                equal, table[np.minimum(at + HEAD + entries + inside, len(table) - 1)], table[at]
            )
            found = np.where(np.isnan(value), table[at + 1], found)
            if op[s] == LOOK_UP:
                columns[:, into[s]] = found
            else:
                has = found >= 0.0
                columns[every[has], found[has].astype(np.intp)] = 1.0
    return -1
