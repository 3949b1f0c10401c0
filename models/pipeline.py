"""A pipeline of scikit-learn that somebody else has fitted, as flat arrays that answer as it does.

Imported by name (`from models.pipeline import flat_node`): it brings scikit-learn, and a worker needs none.
What can't be said exactly is refused with its reason; nothing is approximated.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler

from models.errors import ExportError
from models.export import flatten
from models.fit import Fitted
from models.flat import FlatModel
from models.flat_arrays import Floats, Matrix
from models.flat_columns import SCALE
from models.impute import Imputer
from models.layout import Layout, Transform
from models.predictors import (
    DecisionTree,
    ExtraTrees,
    GradientBoosting,
    HistGradientBoosting,
    LightGBM,
    LogisticRegression,
    Predictor,
    RandomForest,
    XGBoost,
)
from models.prove import prove, trial_rows
from models.trained import Node

__all__ = ["flat_node", "names_of"]

_KINDS: Final[tuple[type[Predictor], ...]] = (
    LogisticRegression,
    DecisionTree,
    RandomForest,
    ExtraTrees,
    GradientBoosting,
    HistGradientBoosting,
    XGBoost,
    LightGBM,
)
_ROWS: Final = 2000
_CUTS: Final = 1000
_MISSING_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Brought(Fitted):
    """Answers by the pipeline itself, so that the flat model is held against nothing of ours."""

    pipeline: Any = None

    def predict(self, matrix: Matrix) -> Floats:
        """The pipeline's own probabilities of fraud."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it knows its columns by name, and is given them in that order
            p = self.pipeline.predict_proba(matrix)
        return np.array(p[:, 1], dtype=np.float64)


def names_of(pipeline: Any) -> tuple[str, ...] | None:
    """The names of the columns that it was fitted with, in their order; None where they had none."""
    names = getattr(pipeline, "feature_names_in_", None)
    return None if names is None else tuple(map(str, names))


def flat_node(pipeline: Any, *, name: str, features: Sequence[str]) -> Node:
    """The pipeline as a node of a model called `name`, its columns called `features`, proven to answer as it.

    Raises ExportError where it can't be exported exactly.
    """
    steps = list(_steps(pipeline))
    if not steps:
        raise ExportError("the pipeline is empty; it needs at least a classifier")
    *_, estimator = steps
    predictor = _predictor(estimator)
    asked = getattr(pipeline, "n_features_in_", len(features))
    if asked != len(features):
        raise ExportError(f"the pipeline takes {asked} columns, and {len(features)} features are named")
    imputer, before = _imputer(steps[:-1], features)
    layout = Layout.of(imputer)
    transforms = [_scaled(step, layout) for step in before]
    if any(map(np.isnan, imputer.fills)) and not predictor.takes_missing:
        raise ExportError(
            f"{type(estimator).__name__} does not say what an unknown value is; put a SimpleImputer before it"
        )
    if estimator.get_params().get("n_jobs") is not None:
        estimator.set_params(n_jobs=1)  # by threads, trees would be added up in any order
    fitted = _Brought(
        predictor=predictor,
        layout=layout,
        transforms=tuple(transforms),
        estimator=estimator,
        typical=_typical(imputer, transforms),
        pipeline=pipeline,
    )
    model = flatten(fitted)
    golden = prove(fitted, model, _some_rows(model))
    return Node(name, model, golden, _described(steps))


def _steps(pipeline: Any) -> Iterator[Any]:
    if type(pipeline) is not Pipeline:
        yield pipeline
        return
    for _, step in pipeline.steps:
        if step is not None and step != "passthrough":
            yield from _steps(step)


def _predictor(estimator: Any) -> Predictor:
    kind = _kinds().get(_path(estimator))
    if kind is None:
        known = ", ".join(sorted(path.rpartition(".")[2] for path in _kinds()))
        raise ExportError(
            f"{_path(estimator)} can't be exported exactly; a pipeline ends in one of {known}, and not in a "
            "class made from one of them"
        )
    classes = np.asarray(getattr(estimator, "classes_", ())).tolist()
    if classes not in ([0, 1], [False, True]):
        raise ExportError(
            f"the classifier knows the classes {classes[:5]}; fit it with 0 for legitimate and 1 for fraud"
        )
    return kind()


@cache
def _kinds() -> Mapping[str, type[Predictor]]:
    """Each class that can be exported, by where it is defined; libraries that are not installed have none."""
    found: dict[str, type[Predictor]] = {}
    for kind in _KINDS:
        module, _, name = kind.estimator.partition(":")
        try:
            found[_path(getattr(import_module(module), name)())] = kind
        except ImportError:
            continue
    return found


def _path(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}"


def _imputer(before: Sequence[Any], features: Sequence[str]) -> tuple[Imputer, Sequence[Any]]:
    """What fills the features, and the steps after it."""
    names = tuple(features)
    if not before or type(before[0]) is not SimpleImputer:
        return Imputer(names, (np.nan,) * len(names), ()), before
    step = before[0]
    missing = step.missing_values
    if not (isinstance(missing, float) and np.isnan(missing)):
        raise ExportError(f"the SimpleImputer takes {missing!r} for missing; here an unknown value is NaN")
    fills = np.asarray(step.statistics_, dtype=np.float64)
    gone = [name for name, fill in zip(names, fills.tolist(), strict=True) if np.isnan(fill)]
    if gone:
        raise ExportError(
            f"the SimpleImputer drops {gone}, which were always missing in its training; leave them out and "
            "fit it again, or set keep_empty_features=True"
        )
    flagged = () if step.indicator_ is None else tuple(names[at] for at in step.indicator_.features_)
    return Imputer(names, tuple(fills.tolist()), flagged), before[1:]


def _scaled(step: Any, layout: Layout) -> Transform:
    """Write a scaler down; other steps are refused."""
    wide = len(layout.columns)
    if type(step) is StandardScaler:
        mean = step.mean_ if step.with_mean else np.zeros(wide)
        scale = step.scale_ if step.with_std else np.ones(wide)
    elif type(step) is RobustScaler:
        mean = step.center_ if step.with_centering else np.zeros(wide)
        scale = step.scale_ if step.with_scaling else np.ones(wide)
    else:
        raise ExportError(
            f"the step {_path(step)} can't be exported exactly; before the classifier there may be one "
            "SimpleImputer first, then StandardScaler or RobustScaler over all columns"
        )
    for at, column in enumerate(layout.columns):
        (layout.columns[at],) = layout.new(column)
        layout.steps.append((SCALE, column, layout.columns[at], np.array([mean[at], scale[at]])))
    transform: Transform = step.transform
    return transform


def _typical(imputer: Imputer, transforms: Sequence[Transform]) -> Floats:
    """What the classifier sees of an order of which nothing is known: its own training's mean is not told."""
    seen = np.array([[*imputer.fills, *(0.0 for _ in imputer.flagged)]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above: columns without names
        for transform in transforms:
            seen = transform(seen)
    typical: Floats = np.asarray(seen, dtype=np.float64)[0]
    return typical


def _some_rows(model: FlatModel) -> Matrix:
    """Rows that reach many leaves: each value drawn from beside the thresholds, or around what fills it."""
    fills = np.nan_to_num(np.array(model.imputer.fills))
    beside = trial_rows(model, fills[np.newaxis], rows=1, cuts=_CUTS)
    chance = np.random.default_rng(0)
    columns = []
    for fill, values in zip(fills, beside.T, strict=True):
        drawn = chance.choice(values[np.isfinite(values)], _ROWS)
        around = fill + max(1.0, abs(fill)) * chance.standard_normal(_ROWS)
        columns.append(np.where(chance.random(_ROWS) < 0.5, drawn, around))
    rows: Matrix = np.column_stack(columns)
    rows[chance.random(rows.shape) < _MISSING_SHARE] = np.nan
    return rows


def _described(steps: Sequence[Any]) -> dict[str, Any]:
    """The steps and their parameters, as text: they came from elsewhere."""
    return {
        f"{number}_{type(step).__name__}": {
            key: repr(value) for key, value in step.get_params(deep=False).items()
        }
        for number, step in enumerate(steps, 1)
    }
