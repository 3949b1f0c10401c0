"""That a flat model answers as the library it was learned by: tried on many rows, and kept as golden rows."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from models.errors import ExportError
from models.fit import Fitted
from models.flat import FlatModel, FlatTrees
from models.flat_arrays import Matrix
from models.flat_columns import HASH, HEAD, SCALE
from models.predictors import XGBoost
from models.trained import PARITY, GoldenRows

__all__ = ["SINGLE_PARITY", "prove", "trial_rows"]

SINGLE_PARITY: Final = 1e-6
"""How far a flat model may be from a library that computes in float32."""

_CUTS_PROVED: Final = 1000
_ROWS_PROVED: Final = 2000
_CUTS_KEPT: Final = 30
_LARGEST_CUT: Final = 1e30  # LightGBM tells missing from known by the largest number there is
_ROWS_KEPT: Final = 64


def prove(fitted: Fitted, model: FlatModel, matrix: Matrix) -> GoldenRows:
    """The golden rows of a model, once it has answered them and many more as its library does.

    Rows of training, rows with missing values, one with nothing but missing values, and rows on and next
    to thresholds (for a linear model, what it fills with), in float64 and in float32, and with every category
    and one never met. Raises ExportError where an answer is further away than PARITY, or SINGLE_PARITY for a
    library that computes in float32.
    """
    allowed = SINGLE_PARITY if isinstance(fitted.predictor, XGBoost) else PARITY
    proved = trial_rows(model, matrix, rows=_ROWS_PROVED, cuts=_CUTS_PROVED)
    furthest = float(np.abs(fitted.predict(proved) - model.walk(proved).p).max())
    if not furthest <= allowed:
        library = fitted.predictor.estimator.partition(":")[0].partition(".")[0].replace("sk", "scikit-")
        message = (
            f"the flat model is up to {furthest:.3g} away from {library} on {len(proved)} rows and may be "
            f"{allowed}; it is not exported, the conversion needs mending"
        )
        raise ExportError(message)
    kept = trial_rows(model, matrix, rows=_ROWS_KEPT, cuts=_CUTS_KEPT)
    walked = model.walk(kept)
    return GoldenRows(rows=kept, p=walked.p, first=walked.first)


def trial_rows(model: FlatModel, matrix: Matrix, *, rows: int, cuts: int) -> Matrix:
    """Rows of training and rows beside them, at those values where a mistake would show."""
    features = matrix.shape[1]
    from_training = matrix[_evenly(len(matrix), rows)]
    with_missing = matrix[np.isnan(matrix).any(axis=1)]
    with_missing = with_missing[_evenly(len(with_missing), rows)]
    all_missing = np.full((1, features), np.nan)
    where = np.unique(np.array(list(_cuts(model))).reshape(-1, 2), axis=0)
    where = where[np.abs(where[:, 1]) < _LARGEST_CUT]
    where = where[_evenly(len(where), cuts)]
    near = []
    for i, (column, cut) in enumerate(where.tolist()):
        single = np.float32(cut)
        for value in (
            cut,
            np.nextafter(cut, -np.inf),
            np.nextafter(cut, np.inf),
            float(single),
            float(np.nextafter(single, np.float32(-np.inf))),
            float(np.nextafter(single, np.float32(np.inf))),
        ):
            row = from_training[i % len(from_training)].copy()
            row[int(column)] = value
            near.append(row)
    return np.vstack([from_training, with_missing, all_missing, *near])


def _cuts(model: FlatModel) -> Iterator[tuple[int, float]]:
    """Features and the values at which something changes."""
    columns, predictor = model.columns, model.predictor
    features = len(columns.imputer.names)
    scaled = {}
    for step in range(len(columns.op)):
        op, source, start, count = (
            int(each[step]) for each in (columns.op, columns.source, columns.start, columns.count)
        )
        if op == SCALE:
            mean, scale = columns.table[start : start + HEAD].tolist()
            scaled[int(columns.into[step])] = (source, mean, scale)
        elif source < features and op != HASH:
            keys = columns.table[start + HEAD : start + HEAD + count].tolist()
            yield from ((source, key) for key in (*keys, max(keys, default=0.0) + 1.0, -1.0))
        elif source < features:
            yield from ((source, key) for key in (0.0, -1.0, 0.5, 1.0, 2.0**31, -(2.0**31), 12345.0))
    if isinstance(predictor, FlatTrees):
        is_split = (predictor.left >= 0) & np.isfinite(predictor.threshold) & (predictor.category < 0)
        for column, cut in zip(
            predictor.feature[is_split].tolist(), predictor.threshold[is_split].tolist(), strict=True
        ):
            source, mean, scale = scaled.get(column, (column, 0.0, 1.0))
            if source < features:  # not those on missing flags
                yield source, cut * scale + mean
        for column in set(predictor.feature[predictor.category >= 0].tolist()):
            yield from (
                (int(columns.owners[column]), float(code)) for code in (-1, 0, 1, 2, 3, 255, 256, 1e9)
            )
    else:
        fills = columns.imputer.fills
        yield from ((at, fill) for at, fill in enumerate(fills) if not np.isnan(fill))


def _evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.intp))
