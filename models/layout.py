"""Columns while they are learned: what scikit-learn sees, and the flat steps that will give the same.

Every preprocessor is fitted by scikit-learn and written down as steps of `FlatColumns` at once. What a table
holds is asked of the fitted transformer, value by value, so that the two cannot differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from sklearn.utils import murmurhash3_32

from models.errors import TrainingError
from models.flat_arrays import Floats, Matrix
from models.flat_columns import HASH, HEAD, LOOK_UP, SCALE, SPREAD, FlatColumns
from models.impute import Imputer
from models.preprocess import Condenser, Hashing, OneHot, Ordinal, Preprocessor, Scaler, TargetEncoding

__all__ = ["Layout", "Seen", "Transform", "add", "dense"]

Seen = Any
"""Columns as a predictor sees them: a dense matrix, or a sparse one (CSR) where most are zero."""
Transform = Callable[[Seen], Seen]
"""What a fitted preprocessor makes of columns."""
Labels = npt.NDArray[np.bool_]

_DENSE_CELLS: Final = 2**26
"""512 MB: what is larger and mostly zero stays sparse."""
_MOST_CELLS: Final = 2**28
"""2 GB: what is larger is not made dense for anyone."""


@dataclass
class Layout:
    """The flat steps so far, and which column of them each column of the matrix is."""

    imputer: Imputer
    columns: list[int]
    """For each column of the matrix, in its order, the flat one."""
    owners: list[int]
    """For each flat column the feature it speaks of."""
    steps: list[tuple[int, int, int, Floats]] = field(default_factory=list)
    """Kind, source, column filled (-1 where the table names columns), table."""

    @classmethod
    def of(cls, imputer: Imputer) -> "Layout":
        """The imputer's own columns."""
        return cls(imputer, list(range(imputer.columns)), list(imputer.owners))

    def copy(self) -> "Layout":
        """One that can be added to without changing this one."""
        return Layout(self.imputer, list(self.columns), list(self.owners), list(self.steps))

    def place_of(self, feature: str) -> int:
        """Where a feature's own column stands in the matrix."""
        own = self.imputer.names.index(feature)
        if own not in self.columns:
            message = (
                f"the Condenser left out {feature!r}, which a later preprocessor takes; "
                "put the Condenser behind it"
            )
            raise TrainingError(message)
        return self.columns.index(own)

    def new(self, source: int, number: int = 1) -> list[int]:
        """Room for columns that speak of what the source does."""
        first = len(self.owners)
        self.owners += [self.owners[source]] * number
        return list(range(first, first + number))

    def flat(self, used: Sequence[int]) -> tuple[FlatColumns, dict[int, int]]:
        """The columns needed for those used, and where each of these stands by now."""
        needed = {*range(self.imputer.columns), *used}
        kept = []
        for op, source, into, table in reversed(self.steps):
            if into in needed if into >= 0 else not needed.isdisjoint(_named(op, table)):
                needed.add(source)
                kept.append((op, source, into, table))
        place = {column: at for at, column in enumerate(sorted(needed))}
        ops, sources, intos, starts, counts, tables, at = [], [], [], [], [], [], 0
        for op, source, into, table in reversed(kept):
            moved = _moved(op, table, place)
            ops.append(op)
            sources.append(place[source])
            intos.append(place.get(into, -1))
            starts.append(at)
            counts.append(len(table) if op == HASH else (len(table) - HEAD) // 2)
            tables.append(moved)
            at += len(moved)
        flat = FlatColumns(
            self.imputer,
            op=np.array(ops, dtype=np.int32),
            source=np.array(sources, dtype=np.int32),
            into=np.array(intos, dtype=np.int32),
            start=np.array(starts, dtype=np.int32),
            count=np.array(counts, dtype=np.int32),
            table=np.concatenate(tables) if tables else np.zeros(0),
            owners=np.array([self.owners[column] for column in place], dtype=np.int32),
        )
        return flat, place


def _named(op: int, table: Floats) -> list[int]:
    """The columns that a table names."""
    named = table if op == HASH else np.concatenate([table[:HEAD], table[HEAD + (len(table) - HEAD) // 2 :]])
    columns: list[int] = named[named >= 0].astype(np.intp).tolist()
    return columns


def _moved(op: int, table: Floats, place: dict[int, int]) -> Floats:
    """A table whose columns are named as they stand by now; those not needed are named no more."""
    if op in {SCALE, LOOK_UP}:
        return table
    keys = slice(0, 0) if op == HASH else slice(HEAD, HEAD + (len(table) - HEAD) // 2)
    moved = np.array(
        [place.get(int(each), -1) if each >= 0 else -1 for each in table.tolist()], dtype=np.float64
    )
    moved[keys] = table[keys]
    return moved


def add(
    step: Preprocessor,
    names: Sequence[str],
    seen: Seen,
    layout: Layout,
    *,
    labels: Labels,
    weights: Floats | None = None,
) -> tuple[Seen, Transform]:
    """Fit a preprocessor that takes the features `names`, write it down, and transform the training orders.

    `seen` has the shape (orders, columns of the layout) and is left as it is; `labels` and `weights` are one
    an order. `weights` say for how many orders one stands; None is one each. Of target encoding what comes
    back is not what the transform gives: each order is encoded by other folds. Raises TrainingError for
    orders that the preprocessor cannot learn from.
    """
    match step:
        case Scaler():
            return _scale(step, seen, layout)
        case Condenser():
            return _condense(step, seen, layout)
        case Hashing():
            return _hash(step, names, seen, layout)
        case OneHot():
            return _spread(names, seen, layout)
        case Ordinal() | TargetEncoding():
            return _look_up(step, names, seen, layout, labels=labels, weights=weights)


def _scale(step: Scaler, seen: Seen, layout: Layout) -> tuple[Seen, Transform]:
    scaler = StandardScaler(with_mean=step.with_mean, with_std=step.with_std)

    def scaled(columns: Seen) -> Seen:
        if step.with_mean:
            return scaler.transform(_to_centre(columns))
        if step.with_std and sparse.issparse(columns):
            # scikit-learn would multiply by 1 / scale here, which is another last bit than when dense
            divided = columns.tocsr(copy=True)
            divided.data /= scaler.scale_[divided.indices]
            return divided
        return scaler.transform(columns)

    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        scaler.fit(_to_centre(seen) if step.with_mean else seen)
    mean = scaler.mean_ if step.with_mean else np.zeros(seen.shape[1])
    scale = scaler.scale_ if step.with_std else np.ones(seen.shape[1])
    if not np.isfinite(mean + scale).all():
        of = {layout.owners[layout.columns[at]] for at in np.flatnonzero(~np.isfinite(mean + scale))}
        names = [layout.imputer.names[owner] for owner in sorted(of)]
        message = f"Scaler finds no finite mean or deviation of {names}; their values are too large"
        raise TrainingError(message)
    for at, column in enumerate(layout.columns):
        (layout.columns[at],) = layout.new(column)
        layout.steps.append((SCALE, column, layout.columns[at], np.array([mean[at], scale[at]])))
    return scaled(seen), scaled


def _to_centre(columns: Seen) -> Matrix:
    return dense(columns, "Scaler", "write Scaler(with_mean=False)")


def _condense(step: Condenser, seen: Seen, layout: Layout) -> tuple[Seen, Transform]:
    occurs = seen.getnnz(axis=0) if sparse.issparse(seen) else np.count_nonzero(seen, axis=0)
    kept = np.flatnonzero(np.asarray(occurs) >= step.least)
    if not len(kept):
        message = f"the Condenser left no column: none is other than zero in {step.least} training orders"
        raise TrainingError(message)
    layout.columns = [layout.columns[at] for at in kept]

    def condense(columns: Seen) -> Seen:
        return _packed(columns[:, kept])

    return condense(seen), condense


def _hash(step: Hashing, names: Sequence[str], seen: Seen, layout: Layout) -> tuple[Seen, Transform]:
    taken = [layout.place_of(name) for name in names]
    for name, at in zip(names, taken, strict=True):
        codes = _column(seen, at)
        codes = codes[~np.isnan(codes)]
        if not _is_code(codes).all():
            message = f"Hashing takes whole numbers of 32 bits, and {name!r} has others; leave it out"
            raise TrainingError(message)
    made = []
    for at in taken:
        column = layout.columns[at]
        buckets = layout.new(column, step.dimensions)
        layout.steps.append((HASH, column, -1, np.array(buckets, dtype=np.float64)))
        made += buckets

    def hashed(columns: Seen) -> Any:
        return sparse.hstack([_hashed(_column(columns, at), step.dimensions) for at in taken], format="csr")

    return _replaced(seen, taken, made, layout, hashed)


def _is_code(values: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray((values >= -(2**31)) & (values < 2**31) & (values == np.floor(values)))


def _hashed(values: Floats, buckets: int) -> Any:
    is_code = _is_code(values)
    codes = np.where(is_code, values, 0).astype(np.int32)
    mixed = murmurhash3_32(np.ascontiguousarray(codes)).astype(np.int64)
    sign = np.where(mixed >= 0, 1.0, -1.0)
    rows = np.flatnonzero(is_code)
    return sparse.csr_matrix(
        (sign[rows], (rows, (np.abs(mixed) % buckets)[rows])), shape=(len(values), buckets)
    )


def _spread(names: Sequence[str], seen: Seen, layout: Layout) -> tuple[Seen, Transform]:
    taken = [layout.place_of(name) for name in names]
    encoder = OneHotEncoder(handle_unknown="ignore").fit(_block(seen, taken))
    made = []
    for at, known in zip(taken, encoder.categories_, strict=True):
        column = layout.columns[at]
        spread = np.array(layout.new(column, len(known)), dtype=np.float64)
        made += spread.astype(int).tolist()
        is_known = ~np.isnan(known)
        missing = spread[~is_known][0] if not is_known.all() else -1.0
        table = np.concatenate([[-1.0, missing], known[is_known], spread[is_known]])
        layout.steps.append((SPREAD, column, -1, table))

    def one_hot(columns: Seen) -> Any:
        return encoder.transform(_block(columns, taken))

    return _replaced(seen, taken, made, layout, one_hot)


def _look_up(
    step: Ordinal | TargetEncoding,
    names: Sequence[str],
    seen: Seen,
    layout: Layout,
    *,
    labels: Labels,
    weights: Floats | None,
) -> tuple[Seen, Transform]:
    taken = [layout.place_of(name) for name in names]
    block = _block(seen, taken)
    few = min(int(labels.sum()), int((~labels).sum()))
    if isinstance(step, TargetEncoding) and few < step.folds:
        message = (
            f"TargetEncoding by {step.folds} folds needs as many frauds and as many other orders; got {few}"
        )
        raise TrainingError(message)
    encoder: Any
    if isinstance(step, Ordinal):
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        encoded = encoder.fit_transform(block)
    else:
        folds = StratifiedKFold(step.folds, shuffle=True, random_state=step.random_state)
        encoder = TargetEncoder(target_type="binary", smooth=step.smooth, cv=folds)
        if weights is None:
            encoded = encoder.fit_transform(block, labels)
        else:
            encoded = np.empty(block.shape)
            for learned, left_out in folds.split(block, labels):
                _encode_weighted(encoder, block[learned], labels[learned], weights[learned])
                encoded[left_out] = encoder.transform(block[left_out])
            _encode_weighted(encoder, block, labels, weights)
    made = []
    for which, (at, known) in enumerate(zip(taken, encoder.categories_, strict=True)):
        keys = known[~np.isnan(known)]
        unseen = np.nextafter(keys.max(), np.inf) if len(keys) else 0.0
        # asked one by one: whatever the encoder does with NaN and with the unseen is what the table holds
        asked = np.repeat(block[:1], len(keys) + HEAD, axis=0)
        asked[:, which] = [unseen, np.nan, *keys]
        answers = encoder.transform(asked)[:, which]
        (column,) = layout.new(layout.columns[at])
        table = np.concatenate([answers[:HEAD], keys, answers[HEAD:]])
        layout.steps.append((LOOK_UP, layout.columns[at], column, table))
        made.append(column)

    def look_up(columns: Seen) -> Any:
        return encoder.transform(_block(columns, taken))

    return _replaced(seen, taken, made, layout, look_up, of_training=encoded)


def _encode_weighted(encoder: Any, block: Matrix, labels: Labels, weights: Floats) -> None:
    """Fit scikit-learn's TargetEncoder, which takes no weights, as if each order were there so many times."""
    encoder.fit(block, labels)
    overall = np.average(labels, weights=weights)
    variance = np.average((labels - overall) ** 2, weights=weights)
    encodings = []
    for column in block.T:
        # as in its categories_, NaN is one value and the last
        values, which = np.unique(column, return_inverse=True)
        counts = np.bincount(which, weights, minlength=len(values))
        frauds = np.bincount(which, weights * labels, minlength=len(values))
        if encoder.smooth == "auto":
            means = frauds / counts
            spread = np.bincount(which, weights * (labels - means[which]) ** 2, minlength=len(values))
            trust = variance * counts / (variance * counts + spread / counts)
            encodings.append(trust * means + (1 - trust) * overall)
        else:
            encodings.append((frauds + encoder.smooth * overall) / (counts + encoder.smooth))
    encoder.encodings_, encoder.target_mean_ = encodings, overall


def _replaced(
    seen: Seen,
    taken: Sequence[int],
    made: Sequence[int],
    layout: Layout,
    make: Callable[[Seen], Any],
    *,
    of_training: Any = None,
) -> tuple[Seen, Transform]:
    """The columns not taken, then those made; of the training orders `of_training`, where it is given."""
    left = [at for at in range(len(layout.columns)) if at not in set(taken)]
    layout.columns = [*(layout.columns[at] for at in left), *made]

    def replace(columns: Seen) -> Seen:
        return _joined(columns[:, left], make(columns))

    if of_training is not None:
        return _joined(seen[:, left], of_training), replace
    return replace(seen), replace


def _joined(left: Seen, right: Any) -> Seen:
    if not sparse.issparse(left) and not sparse.issparse(right):
        return np.column_stack([left, right])
    return _packed(sparse.hstack([sparse.csr_matrix(left), sparse.csr_matrix(right)], format="csr"))


def _packed(columns: Seen) -> Seen:
    """Dense, unless it would be too large."""
    if sparse.issparse(columns):
        return columns.toarray() if columns.shape[0] * columns.shape[1] <= _DENSE_CELLS else columns.tocsr()
    return columns


def dense(columns: Seen, needed_by: str, otherwise: str) -> Matrix:
    """Columns as a dense matrix; TrainingError says who needed it, and what to do where it is too large."""
    if sparse.issparse(columns):
        if columns.shape[0] * columns.shape[1] > _MOST_CELLS:
            message = (
                f"{needed_by} would need {columns.shape[0]} orders by {columns.shape[1]} columns in memory "
                f"at once; put a Condenser() behind what makes so many, or {otherwise}"
            )
            raise TrainingError(message)
        columns = columns.toarray()
    return np.asarray(columns)


def _column(columns: Seen, at: int) -> Floats:
    (column,) = _block(columns, [at]).T
    return np.asarray(column, dtype=np.float64)


def _block(columns: Seen, taken: Sequence[int]) -> Matrix:
    chosen = columns[:, list(taken)]
    return np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen, dtype=np.float64)
