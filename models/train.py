"""From a shop's past orders to a trained model: replay, learn, measure, export to flat arrays, prove it.

Imported by name (`from models.train import train`): it brings scikit-learn, which a worker never needs.
"""

import hashlib
import platform
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from math import nan
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from features.catalogue import STARTER, unserved
from features.define import Feature, features_digest
from features.events import Order
from features.plan import Plan
from features.replay import LeftOut, Replay
from models.errors import ExportError, TrainingError
from models.flat import FlatForest, FlatLinear, FlatModel, Predictor
from models.impute import Imputer, Matrix, fit_imputer
from models.policy import Policy, suggest_policy
from models.score import ScoreOf
from models.trained import PARITY, GoldenRows, Trained

LEFT_OUT: Final[dict[str, str]] = {
    "repeated": "sent again with the same content and label",
    "conflicting_content": "the same order and revision as an earlier line with other content",
    "conflicting_label": "the same order and revision as an earlier line with another label",
    "too_many_revisions": "revised more often than is followed",
}
"""Why an order teaches nothing, where an earlier one of the same name counted instead."""

PredictorKind = Literal["logistic_regression", "random_forest"]
Labels = npt.NDArray[np.bool_]

HOLDOUT_SHARE: Final = 0.2
SPLIT: Final = (
    "metrics and suggested_policy: learned on the first 80 % of the labelled orders in log order, "
    "measured on the last 20 %; the published model then learned on all of them"
)
FOREST_SETTINGS: Final = {"n_estimators": 100, "max_depth": 8, "min_samples_leaf": 10}
LINEAR_SETTINGS: Final = {"C": 1.0, "max_iter": 1000}

_THREADS: Final = -1  # as many as there are cores
_CUTS_PROVED: Final = 1000
_ROWS_PROVED: Final = 2000
_CUTS_KEPT: Final = 30
_ROWS_KEPT: Final = 64


class Example(NamedTuple):
    """An order as the worker would have scored it, and whether it turned out to be fraud (None: unknown)."""

    order: Order
    is_fraud: bool | None
    vector: tuple[float | None, ...]


def replay(
    examples: Iterable[tuple[Order, bool | None]],
    *,
    features: Sequence[Feature],
    row_limit: int,
    left_out: Counter[str] | None = None,
) -> Iterator[Example]:
    """The vectors of past orders, in log order, each seeing only what its customer had done before.

    What the worker does, without Kafka, as `features.replay` says. An order sent again counts once and gives
    no second example. `left_out` counts what gives no example, by LEFT_OUT.
    """
    left_out = Counter() if left_out is None else left_out
    labels: dict[tuple[str, int], bool | None] = {}
    entities = {each.entity for each in features}
    past = Replay(Plan(features), row_limit=row_limit, entities=entities)
    for order, is_fraud in examples:
        label = labels.setdefault((order.order_id, order.revision), is_fraud)
        vector = past.follow(order)
        if isinstance(vector, tuple):
            yield Example(order, is_fraud, vector)
        elif vector is LeftOut.REPEATED and label is not is_fraud:
            left_out["conflicting_label"] += 1
        elif vector is not None:
            left_out[vector] += 1


def train(
    examples: Iterable[tuple[Order, bool | None]],
    *,
    name: str,
    predictor: PredictorKind,
    trained_at: date,
    row_limit: int,
    features: Sequence[Feature] = STARTER,
    seed: int = 0,
) -> Trained:
    """Learn from a shop's past which orders are fraud, and prove that the flat model says the same.

    `examples` come in log order with what is known of them; None is an order whose outcome is not known,
    which makes history and teaches nothing, and so does a test order. `row_limit` is how many orders a
    customer's row holds and must be the worker's. The same examples, settings and libraries give the
    same model and version. Raises TrainingError where there is nothing to learn, ExportError where the
    flat model would not answer as scikit-learn does.
    """
    if why := unserved(features):
        message = f"training '{name}' {why}"
        raise TrainingError(message)
    # arrays, because a year of orders as tuples would fill the memory
    values, known, placed = array("d"), array("b"), list[datetime]()
    left_out: Counter[str] = Counter()
    for each in replay(examples, features=features, row_limit=row_limit, left_out=left_out):
        if each.is_fraud is not None and not each.order.test:
            values.extend([nan if value is None else value for value in each.vector])
            known.append(each.is_fraud)
            placed.append(each.order.placed_at)
    labels = np.array(known, dtype=np.bool_)
    if not labels.any() or labels.all():
        message = (
            f"training '{name}' needs orders known to be fraud and orders known not to be; "
            f"got {int(labels.sum())} and {int((~labels).sum())} among {len(labels)} labelled"
        )
        raise TrainingError(message)
    matrix = np.array(values, dtype=np.float64).reshape(len(labels), len(features))
    names = tuple(feature.name for feature in features)
    settings = _settings(predictor, seed)

    metrics, policy = _measure(matrix, labels, names=names, predictor=predictor, seed=seed)
    fitted = _fit(matrix, labels, names=names, predictor=predictor, seed=seed)
    model = flatten(fitted)
    golden = prove(fitted, model, matrix)
    libraries = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    described = repr((name, settings, features_digest(features), row_limit, sorted(libraries.items())))
    fingerprint = hashlib.sha256(described.encode() + matrix.tobytes() + labels.tobytes()).hexdigest()[:8]
    return Trained(
        name=name,
        version=f"{trained_at.isoformat()}.{fingerprint}",
        features=tuple(features),
        model=model,
        golden=golden,
        suggested_policy=policy,
        metrics=metrics,
        split=SPLIT,
        trained_at=trained_at.isoformat(),
        trained_on={
            "first_placed_at": min(placed).isoformat(),
            "last_placed_at": max(placed).isoformat(),
            "labelled_orders": len(labels),
            "fraud_orders": int(labels.sum()),
            **{f"left_out_{why}": left_out[why] for why in LEFT_OUT if left_out[why]},
        },
        settings={**settings, "row_limit": row_limit},
        libraries=libraries,
        parents=tuple(each.parent for each in features if isinstance(each, ScoreOf)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A model as scikit-learn learned it: what the flat model is made from and held against."""

    imputer: Imputer
    scaler: Any
    """A StandardScaler for a logistic regression, None for a forest."""
    estimator: Any

    def predict(self, matrix: Matrix) -> npt.NDArray[np.float64]:
        """Scikit-learn's probabilities of fraud for vectors in which NaN means unknown."""
        filled = self.imputer.fill(matrix)
        seen = filled if self.scaler is None else self.scaler.transform(filled)
        return np.asarray(self.estimator.predict_proba(seen)[:, 1], dtype=np.float64)


def _settings(predictor: PredictorKind, seed: int) -> dict[str, str | int | float]:
    if predictor == "random_forest":
        return {"predictor": predictor, "seed": seed, **FOREST_SETTINGS}
    if predictor == "logistic_regression":
        return {"predictor": predictor, "seed": seed, **LINEAR_SETTINGS}
    message = f"the predictor must be 'logistic_regression' or 'random_forest'; got {predictor!r}"
    raise TrainingError(message)


def _fit(
    matrix: Matrix, labels: Labels, *, names: Sequence[str], predictor: PredictorKind, seed: int
) -> Fitted:
    imputer = fit_imputer(matrix, names)
    filled = imputer.fill(matrix)
    if predictor == "random_forest":
        forest = RandomForestClassifier(**FOREST_SETTINGS, random_state=seed, n_jobs=_THREADS)
        forest.fit(filled, labels)
        # grown by threads, each tree is the same: its seed is drawn before. Asked by threads, the trees
        # would be added up in any order, and the last bit of a score with it.
        forest.set_params(n_jobs=1)
        return Fitted(imputer, None, forest)
    scaler = StandardScaler().fit(filled)
    linear = LogisticRegression(**LINEAR_SETTINGS, random_state=seed).fit(scaler.transform(filled), labels)
    return Fitted(imputer, scaler, linear)


def _measure(
    matrix: Matrix, labels: Labels, *, names: Sequence[str], predictor: PredictorKind, seed: int
) -> tuple[dict[str, float | int | None], Policy]:
    cut = len(labels) - max(1, round(HOLDOUT_SHARE * len(labels)))
    early, late = labels[:cut], labels[cut:]
    metrics: dict[str, float | int | None] = {
        "holdout_orders": len(late),
        "holdout_fraud": int(late.sum()),
        "holdout_prevalence": float(late.mean()),
        "holdout_auc": None,
        "holdout_average_precision": None,
    }
    if not early.any() or early.all():
        # nothing could be learned from the earlier orders alone, so nothing can be measured
        return metrics, Policy(review_at=0.5, decline_at=0.9)
    fitted = _fit(matrix[:cut], early, names=names, predictor=predictor, seed=seed)
    p = fitted.predict(matrix[cut:])
    if late.any() and not late.all():
        metrics["holdout_auc"] = float(roc_auc_score(late, p))
        metrics["holdout_average_precision"] = float(average_precision_score(late, p))
    return metrics, suggest_policy(p.tolist(), late.tolist())


def flatten(fitted: Fitted) -> FlatModel:
    """The fitted model as flat arrays."""
    if fitted.scaler is not None:
        predictor: Predictor = FlatLinear(
            mean=np.asarray(fitted.scaler.mean_, dtype=np.float64),
            scale=np.asarray(fitted.scaler.scale_, dtype=np.float64),
            coefficient=np.asarray(fitted.estimator.coef_[0], dtype=np.float64),
            intercept=np.asarray(fitted.estimator.intercept_, dtype=np.float64),
        )
        return FlatModel(fitted.imputer, predictor)
    trees = [each.tree_ for each in fitted.estimator.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    left = np.concatenate([tree.children_left + root for tree, root in zip(trees, roots, strict=True)])
    right = np.concatenate([tree.children_right + root for tree, root in zip(trees, roots, strict=True)])
    return FlatModel(
        fitted.imputer,
        FlatForest(
            roots=roots.astype(np.int32),
            feature=np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.int32),
            threshold=np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees])),
            left=np.where(leaf, -1, left).astype(np.int32),
            right=np.where(leaf, -1, right).astype(np.int32),
            value=np.concatenate([tree.value[:, 0, 1] for tree in trees]),
        ),
    )


def prove(fitted: Fitted, model: FlatModel, matrix: Matrix) -> GoldenRows:
    """The golden rows of a model, once it has answered them and many more as scikit-learn does.

    Rows of training, rows with missing values, one with nothing but missing values, and rows on and next
    to the forest's thresholds (for a linear model, its medians), in float64 and in float32.
    """
    proved = _trial_rows(model, matrix, rows=_ROWS_PROVED, cuts=_CUTS_PROVED)
    expected, answered = fitted.predict(proved), model.walk(proved).p
    furthest = float(np.abs(expected - answered).max())
    if not furthest <= PARITY:
        message = (
            f"the flat model is up to {furthest:.3g} away from scikit-learn {sklearn.__version__} on "
            f"{len(proved)} rows and may be {PARITY}; it is not exported, the conversion needs mending"
        )
        raise ExportError(message)
    kept = _trial_rows(model, matrix, rows=_ROWS_KEPT, cuts=_CUTS_KEPT)
    return GoldenRows(rows=kept, p=fitted.predict(kept), first=model.walk(kept).first)


def _trial_rows(model: FlatModel, matrix: Matrix, *, rows: int, cuts: int) -> Matrix:
    features = matrix.shape[1]
    from_training = matrix[_evenly(len(matrix), rows)]
    with_missing = matrix[np.isnan(matrix).any(axis=1)]
    with_missing = with_missing[_evenly(len(with_missing), rows)]
    all_missing = np.full((1, features), np.nan)
    predictor = model.predictor
    if isinstance(predictor, FlatForest):
        is_split = (predictor.left >= 0) & (predictor.feature < features)  # not those on missing flags
        where = np.unique(
            np.column_stack([predictor.feature[is_split], predictor.threshold[is_split]]), axis=0
        )
    else:
        where = np.column_stack([np.arange(features), model.imputer.medians])
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


def _evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.intp))
