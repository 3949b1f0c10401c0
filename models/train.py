"""From a shop's past orders to a trained model: replay, measure, learn.

Imported by name (`from models.train import train`): it brings scikit-learn, which a worker never needs.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from math import nan
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from features.catalogue import STARTER, unserved
from features.define import Feature, days
from features.events import Order, OrderEvent, Outcome
from features.plan import Plan
from features.replay import LeftOut, Replay
from models.errors import TrainingError
from models.fit import ALL_CORES, fit
from models.learn import Rows, learn, libraries, settings_of
from models.model import Model, Period
from models.policy import Policy, suggest_policy
from models.predictors import LogisticRegression, RandomForest
from models.preprocess import Scaler
from models.score import ScoreOf
from models.trained import Trained

LEFT_OUT: Final[dict[str, str]] = {
    "repeated": "sent again with the same content and label",
    "conflicting_content": "the same order and revision as an earlier line with other content",
    "conflicting_label": "the same order and revision as an earlier line with another label",
    "too_many_revisions": "revised more often than is followed",
}
"""Why an order teaches nothing, where an earlier one of the same name counted instead."""

PredictorKind = Literal["logistic_regression", "random_forest"]

HOLDOUT_SHARE: Final = 0.2
SPLIT: Final = (
    "metrics and suggested_policy: learned on the first 80 % of the labelled orders in log order, "
    "measured on the last 20 %; the published model then learned on all of them"
)
_AN_INSTANT: Final = timedelta(microseconds=1)


class Kept(NamedTuple):
    """How long workers keep what they remember after its last event; None is for ever."""

    rows: timedelta | None = None
    orders: timedelta | None = None


FOR_EVER: Final = Kept()

Heard = tuple[Order, bool | None] | OrderEvent | Outcome
"""An order and whether it is known to be fraud, or what became of one."""


class Example(NamedTuple):
    """An order as the worker would have scored it, and whether it turned out to be fraud (None: unknown)."""

    order: Order
    is_fraud: bool | None
    vector: tuple[float | None, ...]


def replay(
    examples: Iterable[Heard],
    *,
    features: Sequence[Feature],
    row_limit: int,
    left_out: Counter[str] | None = None,
    kept: Kept = FOR_EVER,
) -> Iterator[Example]:
    """The vectors of past orders, in log order, each seeing only what its entities had done before.

    What the worker does, without Kafka, as `features.replay` says. An order sent again counts once and gives
    no second example. `left_out` counts what gives no example, by LEFT_OUT. Raises TrainingError, at the
    end, where a feature asks what became of orders and nothing was said of any.
    """
    left_out = Counter() if left_out is None else left_out
    labels: dict[tuple[str, int], bool | None] = {}
    entities = {each.entity for each in features}
    past = Replay(
        Plan(features),
        row_limit=row_limit,
        entities=entities,
        rows_kept=kept.rows,
        orders_kept=kept.orders,
    )
    is_told = False
    for example in examples:
        if not isinstance(example, tuple):
            is_told = True
            past.follow(example)
            continue
        order, is_fraud = example
        label = labels.setdefault((order.order_id, order.revision), is_fraud)
        vector = past.follow(order)
        if isinstance(vector, tuple):
            yield Example(order, is_fraud, vector)
        elif vector is LeftOut.REPEATED and label is not is_fraud:
            left_out["conflicting_label"] += 1
        elif vector is not None:
            left_out[vector] += 1
    asking = [each.name for each in features if each.looks_at_facts]
    if asking and not is_told:
        message = (
            f"{', '.join(asking)} ask what became of orders, and this past has neither outcomes nor events: "
            "the model would learn that nothing ever does; leave them out, or give them in between"
        )
        raise TrainingError(message)


def train(
    examples: Iterable[Heard],
    *,
    name: str,
    predictor: PredictorKind,
    trained_at: date,
    row_limit: int,
    features: Sequence[Feature] = STARTER,
    seed: int = 0,
    threads: int = ALL_CORES,
    entities: Collection[str] = (),
    kept: Kept = FOR_EVER,
) -> Trained:
    """Learn from a shop's past which orders are fraud, and prove that the flat model says the same.

    `examples` come in log order with what is known of them; None is an order whose outcome is not known,
    which makes history and teaches nothing, and so does a test order. Outcomes and order events stand in
    between, where they arrived. `row_limit`, `kept` and `entities`, which have histories beside the
    customer, must be the workers'. The same examples, settings and libraries give the same model and
    version, whatever the `threads`. Raises TrainingError where there is nothing to learn, ExportError where
    the flat model would not answer as scikit-learn does.
    """
    if why := unserved(features, entities):
        message = f"training '{name}' {why}"
        raise TrainingError(message)
    # arrays, because a year of orders as tuples would fill the memory
    values, known, placed = array("d"), array("b"), list[datetime]()
    left_out: Counter[str] = Counter()
    for each in replay(examples, features=features, row_limit=row_limit, left_out=left_out, kept=kept):
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
    period = Period(min(placed), max(placed) + _AN_INSTANT)
    model = described(predictor, name=name, features=features, seed=seed, period=period)
    rows = Rows(matrix, labels)
    metrics, policy = _measure(model, rows, threads)
    node = learn(model, rows, threads=threads)
    learned_with = libraries(model)
    made_of = repr((model.digest, row_limit, sorted(learned_with.items())))
    fingerprint = hashlib.sha256(made_of.encode() + matrix.tobytes() + labels.tobytes()).hexdigest()[:8]
    return Trained(
        name=name,
        version=f"{trained_at.isoformat()}.{fingerprint}",
        features=tuple(features),
        nodes=(node,),
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
        settings={**settings_of(model), "row_limit": row_limit},
        libraries=learned_with,
        parents=tuple(each.parent for each in features if isinstance(each, ScoreOf)),
    )


def described(
    predictor: PredictorKind, *, name: str, features: Sequence[Feature], seed: int, period: Period
) -> Model:
    """The model that `fraudstream train` makes of one of its two predictors."""
    if predictor == "random_forest":
        forest = RandomForest(n_estimators=100, max_depth=8, min_samples_leaf=10, random_state=seed)
        parts: dict[str, Any] = {"predictor": forest}
    elif predictor == "logistic_regression":
        parts = {"predictor": LogisticRegression(random_state=seed), "preprocessors": (Scaler(),)}
    else:
        message = f"the predictor must be 'logistic_regression' or 'random_forest'; got {predictor!r}"
        raise TrainingError(message)
    # the labels of a file are those known by now, so none has to mature
    return Model(name, features=tuple(features), trained_on=period, labels_mature_after=days(0), **parts)


def _measure(model: Model, rows: Rows, threads: int) -> tuple[dict[str, float | int | None], Policy]:
    labels = rows.labels
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
    p = fit(model, rows.where(slice(cut)), threads=threads).predict(rows.matrix[cut:])
    if late.any() and not late.all():
        metrics["holdout_auc"] = float(roc_auc_score(late, p))
        metrics["holdout_average_precision"] = float(average_precision_score(late, p))
    return metrics, suggest_policy(p.tolist(), late.tolist())
