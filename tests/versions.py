"""Many versions of models of four kinds, published for benches and the fault harness."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from features.catalogue import STARTER
from features.define import Feature, days
from models.learn import Rows, learn
from models.model import Model, Period
from models.pipeline import flat_node
from models.predictors import HistGradientBoosting, LogisticRegression, RandomForest
from models.preprocess import Scaler
from models.registry import Registry
from models.train import Heard, replay, train
from models.trained import Node
from stream.settings import Settings
from tests.small_shop import a_past

KINDS: Final = ("line", "forest", "boosting", "imported")
_LEARNED: Final = 4
"""So many of each kind learn; there are as many versions as are asked for."""
_FIRST_TRAINED_AT: Final = date(2026, 2, 14)


def publish_versions(
    settings: Settings,
    count: int,
    *,
    past: Iterable[Heard] | None = None,
    asked: Sequence[Sequence[Feature]] = (STARTER,),
) -> list[str]:
    """Publish so many models of the small shop, four kinds by turns, and say what they are called.

    A line, a forest, boosting, and a pipeline of scikit-learn as `models import` makes a model of it. Each
    kind learns a few times only; the versions of it differ in what they are called. Where several things
    are `asked`, the first of each kind ask the first, and so on.
    """
    heard = list(a_past(2_000) if past is None else past)
    first = train(
        heard,
        name="line",
        predictor="logistic_regression",
        trained_at=_FIRST_TRAINED_AT,
        row_limit=settings.row_limit,
        features=asked[0],
        entities=settings.entities,
    )
    turns = min(_LEARNED, -(-count // len(KINDS)))
    features = [tuple(asked[turn % len(asked)]) for turn in range(turns)]
    rows = {each: _rows(heard, each, settings.row_limit) for each in dict.fromkeys(features)}
    learned = [four_kinds(rows[each], seed, each) for seed, each in enumerate(features)]
    registry = Registry(settings.home / "models", entities=settings.entities)
    said = []
    for number in range(count):
        kind, turn = KINDS[number % len(KINDS)], number // len(KINDS) % turns
        trained_at = (_FIRST_TRAINED_AT + timedelta(days=number)).isoformat()
        trained = replace(
            first,
            name=kind,
            version=f"{trained_at}.{number:04x}",
            trained_at=trained_at,
            features=features[turn],
            nodes=(learned[turn][kind],),
        )
        registry.publish(trained)
        said.append(f"{trained.name}@{trained.version}")
    return said


def _rows(heard: Iterable[Heard], features: Sequence[Feature], row_limit: int) -> Rows:
    told = [
        each for each in replay(heard, features=features, row_limit=row_limit) if each.is_fraud is not None
    ]
    return Rows(
        np.array([each.vector for each in told], dtype=np.float64),
        np.array([each.is_fraud for each in told], dtype=np.bool_),
    )


def four_kinds(rows: Rows, seed: int, features: tuple[Feature, ...] = STARTER) -> dict[str, Node]:
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
            Model(kind, features=features, trained_on=period, labels_mature_after=days(0), **each), rows
        )
        for kind, each in parts.items()
    }
    brought = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        ExtraTreesClassifier(100, max_depth=8, random_state=seed),
    )
    brought.fit(rows.matrix, rows.labels)
    nodes["imported"] = flat_node(brought, name="imported", features=[each.name for each in features])
    return nodes
