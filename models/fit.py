"""A model learns: what its description says, by scikit-learn, XGBoost or LightGBM, from rows of its columns.

Imported by name (`from models.fit import learn`): it brings scikit-learn, which a worker never needs.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression as Logistic
from sklearn.model_selection import GroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from models.errors import TrainingError
from models.flat_arrays import Floats, Matrix
from models.impute import Imputer, fit_imputer
from models.layout import Labels, Layout, Seen, Transform, add, dense
from models.model import Model
from models.predictors import (
    DecisionTree,
    ExtraTrees,
    HistGradientBoosting,
    IsolationForest,
    Isotonic,
    LightGBM,
    Predictor,
    RandomForest,
    XGBoost,
)
from models.preprocess import Encoder, Hashing, OneHot, TargetEncoding

__all__ = ["Fitted", "Rows", "fit", "folds_of"]

ALL_CORES: Final = -1
CALIBRATED_DECIMALS: Final = 4
"""Raw scores closer than that teach a calibration as one: else their last bits could make a step."""

_KNOW_MISSING: Final = (OneHot, Hashing, TargetEncoding)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a model learns from: its columns, features and submodels' scores, and what is known of each order.

    `weights` say for how many orders one stands (None: one each); `amounts`, for `weigh="amount"`, are in one
    currency; orders of the same of `groups`, such as a customer, are never on both sides of a fold.
    """

    matrix: Matrix
    labels: Labels
    weights: Floats | None = None
    amounts: Floats | None = None
    groups: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        """How many orders."""
        return len(self.labels)

    def where(self, chosen: npt.NDArray[Any] | slice) -> "Rows":
        """Those of the orders that are chosen, by a mask, a slice or their places."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: part[chosen] for name, part in parts.items() if part is not None})


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A model as its library learned it: what the flat model is made from and held against."""

    predictor: Predictor
    layout: Layout
    transforms: tuple[Transform, ...]
    estimator: Any
    typical: Floats
    """The mean of each column that the predictor sees, in training."""
    calibrator: Any = None
    """A fitted LogisticRegression on the raw score, or an IsotonicRegression."""

    @property
    def imputer(self) -> Imputer:
        """What fills its features."""
        return self.layout.imputer

    def see(self, matrix: Matrix) -> Seen:
        """The columns that the predictor sees of vectors in which NaN means unknown."""
        seen = self.imputer.fill(matrix)
        for transform in self.transforms:
            seen = transform(seen)
        return _fitting(self.predictor, seen)

    def raw(self, matrix: Matrix) -> Floats:
        """What a calibration learns from: log-odds, a share of trees, or the anomaly score."""
        seen, estimator = self.see(matrix), self.estimator
        match self.predictor:
            case XGBoost():
                raw = estimator.predict(seen, output_margin=True)
            case LightGBM():
                raw = estimator.predict(seen, raw_score=True)
            case IsolationForest():
                raw = -estimator.score_samples(seen)
            case DecisionTree() | RandomForest() | ExtraTrees():
                raw = estimator.predict_proba(seen)[:, 1]
            case _:
                raw = estimator.decision_function(seen)
        return np.asarray(raw, dtype=np.float64)

    def predict(self, matrix: Matrix) -> Floats:
        """The library's own probabilities of fraud for vectors in which NaN means unknown."""
        if self.calibrator is None:
            if isinstance(self.predictor, IsolationForest):
                return self.raw(matrix)
            p = self.estimator.predict_proba(self.see(matrix))[:, 1]
        elif isinstance(self.calibrator, IsotonicRegression):
            p = self.calibrator.predict(self.raw(matrix))
        else:
            p = self.calibrator.predict_proba(self.raw(matrix).reshape(-1, 1))[:, 1]
        return np.asarray(p, dtype=np.float64)


def fit(model: Model, rows: Rows, *, threads: int = ALL_CORES) -> Fitted:
    """Learn from rows with the columns of `model.columns`; its submodels have been learned before.

    How many threads are used changes nothing of what is learned. Raises TrainingError where there is nothing
    to learn.
    """
    expected = (len(rows), len(model.columns))
    if rows.matrix.shape != expected:
        message = f"training '{model.name}' needs a matrix of {expected}; got shape {rows.matrix.shape}"
        raise TrainingError(message)
    needs_labels = not isinstance(model.predictor, IsolationForest) or model.calibration is not None
    if needs_labels and (not rows.labels.any() or rows.labels.all()):
        message = (
            f"training '{model.name}' needs orders known to be fraud and orders known not to be; "
            f"got {int(rows.labels.sum())} and {int((~rows.labels).sum())} among {len(rows)} labelled"
        )
        raise TrainingError(message)
    # of its own accord each of the libraries' kernels takes all cores
    with threadpool_limits(None if threads == ALL_CORES else threads):
        calibrator = _calibrator(model, rows, threads) if model.calibration is not None else None
        return _fit(model, rows, threads, calibrator)


def folds_of(rows: Rows, number: int, name: str) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The places of the orders learned from and of those left out, fold by fold, each order left out once.

    Raises TrainingError where there are fewer groups, frauds or other orders than folds, or where a fold
    would learn from one kind alone.
    """
    few = min(int(rows.labels.sum()), int((~rows.labels).sum()))
    if few < number:
        message = (
            f"training '{name}' by {number} folds needs as many frauds and as many other orders; got {few}"
        )
        raise TrainingError(message)
    if rows.groups is None:
        # not shuffled: orders that follow each other, which may be one campaign, stay on one side
        folds = StratifiedKFold(number).split(rows.matrix, rows.labels)
    else:
        groups = len(np.unique(rows.groups))
        if groups < number:
            message = (
                f"training '{name}' by {number} folds needs as many groups, such as customers; got {groups}"
            )
            raise TrainingError(message)
        folds = GroupKFold(number).split(rows.matrix, rows.labels, rows.groups)
    for learned, left_out in folds:
        labels = rows.labels[learned]
        if not labels.any() or labels.all():
            what = "fraud" if not labels.any() else "order that is no fraud"
            message = (
                f"training '{name}' by {number} folds: one group, such as a customer, has every {what}, and "
                "nothing can be learned without it; learn from more of them, or without folds"
            )
            raise TrainingError(message)
        yield learned, left_out


def _fit(model: Model, rows: Rows, threads: int, calibrator: Any) -> Fitted:
    kept = {
        name for step in model.steps if isinstance(step, _KNOW_MISSING) for name in model.encoded_by(step)
    }
    imputer = fit_imputer(rows.matrix, model.columns, model.imputer, categorical=model.categorical, kept=kept)
    layout = Layout.of(imputer)
    seen: Seen = imputer.fill(rows.matrix)
    transforms = []
    for step in model.steps:
        names = model.encoded_by(step) if isinstance(step, Encoder) else ()
        seen, transform = add(step, names, seen, layout, labels=rows.labels, weights=rows.weights)
        transforms.append(transform)
    seen = _fitting(model.predictor, seen)
    typical = np.asarray(seen.mean(axis=0)).ravel()
    estimator = _estimator(model, layout, threads)
    weights = _weights(model.predictor, rows)
    try:
        if isinstance(model.predictor, IsolationForest):
            estimator.fit(seen, sample_weight=weights)
        else:
            estimator.fit(seen, rows.labels, sample_weight=weights)
    except ValueError as wrong:
        why = str(wrong).partition("\n")[0]  # advice follows, on how to use the library
        message = f"training '{model.name}': {type(estimator).__name__} refuses: {why}"
        raise TrainingError(message) from wrong
    if estimator.get_params().get("n_jobs") is not None:
        # grown by threads, each tree is the same: its seed is drawn before. Asked by threads, the trees
        # would be added up in any order, and the last bit of a score with it.
        estimator.set_params(n_jobs=1)
    return Fitted(model.predictor, layout, tuple(transforms), estimator, typical, calibrator)


def _fitting(predictor: Predictor, seen: Seen) -> Seen:
    """Columns as a predictor takes them: those that cannot take sparse ones are given dense ones."""
    needs_dense = isinstance(predictor, HistGradientBoosting | XGBoost)
    if sparse.issparse(seen) and isinstance(predictor, DecisionTree | RandomForest | ExtraTrees):
        needs_dense = bool(np.isnan(seen.data).any())  # scikit-learn's trees take unknown in dense ones only
    return dense(seen, str(predictor), "hash to fewer dimensions") if needs_dense else seen


def _estimator(model: Model, layout: Layout, threads: int) -> Any:
    predictor = model.predictor
    module, _, name = predictor.estimator.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as missing:
        message = (
            f"{predictor} needs the package {module}, which is not installed; "
            f"pip install 'fraudstream[{predictor.extra}]'"
        )
        raise TrainingError(message) from missing
    parameters = {
        each.name: getattr(predictor, each.name) for each in fields(predictor) if each.name != "weigh"
    }
    match predictor:
        case HistGradientBoosting():
            own = {name: at for at, name in enumerate(model.columns)}
            categories = [
                layout.columns.index(own[each]) for each in model.categorical if own[each] in layout.columns
            ]
            parameters["categorical_features"] = categories or None
        case RandomForest() | ExtraTrees() | IsolationForest():
            parameters["n_jobs"] = threads
        case XGBoost():
            parameters |= {"n_jobs": threads, "objective": "binary:logistic", "missing": float("nan")}
        case LightGBM():
            # row-wise in one order whatever the threads, so that a model can be learned again bit by bit
            parameters |= {"n_jobs": threads, "objective": "binary", "verbosity": -1}
            parameters |= {"deterministic": True, "force_row_wise": True}
        case _:
            pass
    if isinstance(predictor, RandomForest | ExtraTrees) and not predictor.bootstrap:
        parameters["max_samples"] = None
    return kind(**parameters)


def _weights(predictor: Predictor, rows: Rows) -> Floats | None:
    """How much each order counts in learning; None: all the same."""
    if predictor.weigh == "equal":
        return rows.weights
    given = np.ones(len(rows)) if rows.weights is None else rows.weights
    fraud = rows.labels
    if predictor.weigh == "balanced":
        half = given.sum() / 2
        counts = np.where(fraud, half / given[fraud].sum(), half / given[~fraud].sum())
        return np.asarray(given * counts)
    if rows.amounts is None:
        message = f"{predictor}(weigh='amount') needs the orders' amounts, and none came"
        raise TrainingError(message)
    mean = np.average(rows.amounts[fraud], weights=given[fraud])
    if not mean > 0:
        message = f"{predictor}(weigh='amount') needs frauds of some amount; got a mean of {mean}"
        raise TrainingError(message)
    return np.asarray(np.where(fraud, given * (rows.amounts / mean), given))


def _calibrator(model: Model, rows: Rows, threads: int) -> Any:
    """What makes probabilities of raw scores, learned from scores of orders that were left out."""
    calibration = model.calibration
    assert calibration is not None  # noqa: S101 - asked only then
    raw = np.empty(len(rows))
    for learned, left_out in folds_of(rows, calibration.folds, model.name):
        raw[left_out] = _fit(model, rows.where(learned), threads, None).raw(rows.matrix[left_out])
    if isinstance(calibration, Isotonic):
        rounded = np.round(raw, CALIBRATED_DECIMALS)
        isotonic = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        return isotonic.fit(rounded, rows.labels.astype(np.float64), sample_weight=rows.weights)
    return Logistic(C=np.inf, tol=1e-8, max_iter=1000).fit(
        raw.reshape(-1, 1), rows.labels, sample_weight=rows.weights
    )
