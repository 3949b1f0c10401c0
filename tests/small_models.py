"""Models of every kind over rows that can be learned from: for parity tests and benches."""

from typing import Any

import numpy as np

from features.catalogue import by_names
from models.fit import Rows
from models.impute import Constant, Mean, MostFrequent
from models.model import Model, Period
from models.predictors import (
    DecisionTree,
    ExtraTrees,
    GradientBoosting,
    HistGradientBoosting,
    IsolationForest,
    Isotonic,
    LightGBM,
    LogisticRegression,
    RandomForest,
    Sigmoid,
    XGBoost,
)
from models.preprocess import Condenser, Hashing, OneHot, Ordinal, Scaler, TargetEncoding

FEATURES = by_names(
    ["amount", "hour_of_day", "items_count", "payment_attempts", "account_age_days",
     "country_category", "channel_category"]
)  # fmt: skip
ALL_KINDS: dict[str, dict[str, Any]] = {
    "logistic": {"predictor": LogisticRegression(), "preprocessors": (Scaler(),)},
    "logistic, balanced": {"predictor": LogisticRegression(weigh="balanced"), "preprocessors": (Scaler(),)},
    "target-encoded": {"predictor": LogisticRegression(), "preprocessors": (TargetEncoding(), Scaler())},
    "target-encoded smoothly": {
        "predictor": RandomForest(n_estimators=10),
        "preprocessors": (TargetEncoding("country_category", "hour_of_day", smooth=20.0),),
    },
    "scaled without a mean": {
        "predictor": LogisticRegression(),
        "preprocessors": (OneHot("hour_of_day"), Scaler(with_mean=False)),
    },
    "tree": {"predictor": DecisionTree(max_depth=5)},
    "tree, missing": {"predictor": DecisionTree(max_depth=5), "imputer": None},
    "forest": {"predictor": RandomForest(n_estimators=30, max_depth=8), "imputer": Mean()},
    "forest, missing": {"predictor": RandomForest(n_estimators=30), "imputer": None},
    "forest, by amount": {
        "predictor": RandomForest(n_estimators=30, weigh="amount"), "imputer": Constant(value=-1.0),
    },
    "forest, isotonic": {"predictor": RandomForest(n_estimators=20), "calibration": Isotonic()},
    "forest, ranks": {
        "predictor": RandomForest(n_estimators=20), "preprocessors": (Ordinal(),), "imputer": None,
    },
    "forest, hashed": {
        "predictor": RandomForest(n_estimators=20),
        "preprocessors": (
            Hashing("payment_attempts", "country_category", dimensions=64), Condenser(least=20),
        ),
    },
    "extra trees": {"predictor": ExtraTrees(n_estimators=30), "imputer": MostFrequent(flag_missing=False)},
    "extra trees, missing": {"predictor": ExtraTrees(n_estimators=30), "imputer": None},
    "boosting": {"predictor": GradientBoosting(n_estimators=30, subsample=0.7)},
    "boosting, isotonic": {"predictor": GradientBoosting(n_estimators=20), "calibration": Isotonic()},
    "histogram": {"predictor": HistGradientBoosting(max_iter=40)},
    "histogram, missing": {"predictor": HistGradientBoosting(max_iter=40), "imputer": None},
    "histogram, balanced sigmoid": {
        "predictor": HistGradientBoosting(max_iter=30, weigh="balanced"), "imputer": None,
        "calibration": Sigmoid(),
    },
    "histogram, encoded": {
        "predictor": HistGradientBoosting(max_iter=20), "imputer": None,
        "preprocessors": (Hashing("country_category", dimensions=16), Condenser()),
    },
    "isolation": {"predictor": IsolationForest()},
    "isolation, isotonic": {"predictor": IsolationForest(max_features=0.5), "calibration": Isotonic()},
    "xgboost": {"predictor": XGBoost(n_estimators=40)},
    "xgboost, missing": {"predictor": XGBoost(n_estimators=40, gamma=1.0), "imputer": None},
    "xgboost, exact": {"predictor": XGBoost(n_estimators=40, tree_method="exact", base_score=0.5)},
    "xgboost, isotonic": {"predictor": XGBoost(n_estimators=20), "calibration": Isotonic()},
    "lightgbm": {"predictor": LightGBM(n_estimators=40)},
    "lightgbm, missing": {"predictor": LightGBM(n_estimators=40), "imputer": None},
}  # fmt: skip


def some_rows(number: int = 2000, seed: int = 0) -> Rows:
    """Orders with fraud that can be learned, missing values and categories, many of the same value."""
    rng = np.random.default_rng(seed)
    matrix = np.column_stack(
        [
            np.round(rng.lognormal(4, 1, number), 1),
            rng.integers(0, 24, number),
            rng.integers(1, 9, number),
            rng.integers(1, 4, number),
            rng.exponential(100, number),
            rng.integers(0, 12, number),
            rng.integers(0, 4, number),
        ]
    ).astype(np.float64)
    for column in (2, 4, 5):
        matrix[rng.random(number) < 0.15, column] = np.nan
    log_odds = matrix[:, 0] / 100 - 3 + np.nan_to_num(matrix[:, 5]) % 3 - np.isnan(matrix[:, 2])
    return Rows(matrix, rng.random(number) < 1 / (1 + np.exp(-log_odds)), amounts=matrix[:, 0])


def a_risk(**parts: Any) -> Model:
    told: dict[str, Any] = {"features": FEATURES, "trained_on": Period.months("2025-01", "2025-03")}
    return Model("risk", **(told | parts))
