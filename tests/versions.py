"""Many versions of models of four kinds, published for benches and the fault harness."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from features.catalogue import STARTER
from features.define import days
from models.learn import Rows, learn
from models.model import Model, Period
from models.pipeline import flat_node
from models.predictors import HistGradientBoosting, LogisticRegression, RandomForest
from models.preprocess import Scaler
from models.registry import Registry
from models.train import replay, train
from models.trained import Node
from stream.settings import Settings
from tests.small_shop import a_past

KINDS: Final = ("line", "forest", "boosting", "imported")
_LEARNED: Final = 4
"""So many of each kind learn; there are as many versions as are asked for."""
_FIRST_TRAINED_AT: Final = date(2026, 2, 14)


def publish_versions(settings: Settings, count: int) -> list[str]:
    """Publish so many models of the small shop, four kinds by turns, and say what they are called.

    A line, a forest, boosting, and a pipeline of scikit-learn as `models import` makes a model of it. Each
    kind learns a few times only; the versions of it differ in what they are called.
    """
    past = a_past(2_000)
    first = train(
        past,
        name="line",
        predictor="logistic_regression",
        trained_at=_FIRST_TRAINED_AT,
        row_limit=settings.row_limit,
    )
    told = [
        each
        for each in replay(past, features=STARTER, row_limit=settings.row_limit)
        if each.is_fraud is not None
    ]
    rows = Rows(
        np.array([each.vector for each in told], dtype=np.float64),
        np.array([each.is_fraud for each in told], dtype=np.bool_),
    )
    learned = [four_kinds(rows, seed) for seed in range(min(_LEARNED, -(-count // len(KINDS))))]
    registry = Registry(settings.home / "models")
    said = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        trained_at = (_FIRST_TRAINED_AT + timedelta(days=number)).isoformat()
        trained = replace(
            first,
            name=kind,
            version=f"{trained_at}.{number:04x}",
            trained_at=trained_at,
            nodes=(learned[number // len(KINDS) % len(learned)][kind],),
        )
        registry.publish(trained)
        said.append(f"{trained.name}@{trained.version}")
    return said


def four_kinds(rows: Rows, seed: int) -> dict[str, Node]:
    """One of each of KINDS, learned from a sample of the rows."""
    some = np.random.default_rng(seed).permutation(len(rows.labels))[: len(rows.labels) * 4 // 5]
    rows = rows.where(some)
    period = Period.months("2026-01", "2026-01")
    parts: dict[str, dict[str, Any]] = {
        "line": {"predictor": LogisticRegression(), "preprocessors": (Scaler(),)},
        "forest": {"predictor": RandomForest(n_estimators=100, max_depth=8, random_state=seed)},
        "boosting": {"predictor": HistGradientBoosting(max_iter=100, random_state=seed), "imputer": None},
    }
    nodes = {
        kind: learn(
            Model(kind, features=STARTER, trained_on=period, labels_mature_after=days(0), **each), rows
        )
        for kind, each in parts.items()
    }
    brought = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        ExtraTreesClassifier(100, max_depth=8, random_state=seed),
    )
    brought.fit(rows.matrix, rows.labels)
    nodes["imported"] = flat_node(brought, name="imported", features=[each.name for each in STARTER])
    return nodes
