"""What learns: predictors and calibrations as frozen constructors, with scikit-learn's parameters.

    RandomForest(n_estimators=300, max_depth=8, weigh="balanced")

They describe and never fit, and need none of the libraries that do: `models.fit` builds the estimator from
the description. `weigh` says how much an order counts in learning: "equal"; "balanced", frauds as much as all
others together; "amount", a fraud by its amount relative to the mean fraud, so that dear ones count for more.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from models.errors import ModelDefinitionError
from models.parameters import check, choice, claim, number, seed, share_or_count, whole

__all__ = [
    "Calibration",
    "DecisionTree",
    "ExtraTrees",
    "GradientBoosting",
    "HistGradientBoosting",
    "IsolationForest",
    "Isotonic",
    "LightGBM",
    "LogisticRegression",
    "Predictor",
    "RandomForest",
    "Sigmoid",
    "XGBoost",
]

Weigh = Literal["equal", "balanced", "amount"]
_Features = int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    estimator: ClassVar[str]
    """Where the class that learns is found, `module:class`."""
    takes_missing: ClassVar[bool] = False
    """Whether it learns from missing values itself, without an imputer."""
    takes_categories: ClassVar[bool] = False
    """Whether it learns from categories itself; the others see one-hot columns."""
    extra: ClassVar[str | None] = None
    """The optional extra of fraudstream that brings its library."""

    def __post_init__(self) -> None:
        """Check the parameters."""
        check(self)

    def __str__(self) -> str:
        """Its name."""
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression(_Described):
    """A weighted sum of columns, as log-odds. Scale the columns first: `preprocessors=(Scaler(),)`."""

    estimator = "sklearn.linear_model:LogisticRegression"

    C: float = number(1.0, above=0)
    l1_ratio: float = number(0.0, least=0, most=1)
    fit_intercept: bool = claim(True)
    solver: str = choice("lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga")
    tol: float = number(1e-4, above=0)
    max_iter: int = whole(1000, least=1)
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")

    def __post_init__(self) -> None:
        """Check the parameters, and that the solver knows the penalty."""
        check(self)
        if self.l1_ratio > 0 and self.solver != "saga" and (self.l1_ratio, self.solver) != (1, "liblinear"):
            message = f"LogisticRegression: l1_ratio={self.l1_ratio} needs solver='saga', not {self.solver!r}"
            raise ModelDefinitionError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grown(_Described):
    """What all trees of scikit-learn have in common."""

    takes_missing = True

    criterion: str = choice("gini", "entropy", "log_loss")
    max_depth: int | None = whole(None, least=1, also=(None,))
    min_samples_split: float = share_or_count(2)
    min_samples_leaf: float = share_or_count(1)
    min_weight_fraction_leaf: float = number(0.0, least=0, most=0.5)
    max_leaf_nodes: int | None = whole(None, least=2, also=(None,))
    min_impurity_decrease: float = number(0.0, least=0)
    ccp_alpha: float = number(0.0, least=0)
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTree(_Grown):
    """One tree; its probability is the share of fraud in the leaf an order falls into."""

    estimator = "sklearn.tree:DecisionTreeClassifier"

    splitter: str = choice("best", "random")
    max_features: _Features = share_or_count(None, None, "sqrt", "log2")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomForest(_Grown):
    """The mean of many trees, each grown on orders drawn again from all of them."""

    estimator = "sklearn.ensemble:RandomForestClassifier"

    n_estimators: int = whole(100, least=1)
    max_features: _Features = share_or_count("sqrt", "sqrt", "log2", None)
    bootstrap: bool = claim(True)
    max_samples: float | None = share_or_count(None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraTrees(_Grown):
    """The mean of many trees that split at thresholds drawn at random."""

    estimator = "sklearn.ensemble:ExtraTreesClassifier"

    n_estimators: int = whole(100, least=1)
    max_features: _Features = share_or_count("sqrt", "sqrt", "log2", None)
    bootstrap: bool = claim(False)
    max_samples: float | None = share_or_count(None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientBoosting(_Described):
    """Trees that each mend the log-odds of those before; small data, needs an imputer."""

    estimator = "sklearn.ensemble:GradientBoostingClassifier"

    learning_rate: float = number(0.1, above=0)
    n_estimators: int = whole(100, least=1)
    subsample: float = number(1.0, above=0, most=1)
    min_samples_split: float = share_or_count(2)
    min_samples_leaf: float = share_or_count(1)
    min_weight_fraction_leaf: float = number(0.0, least=0, most=0.5)
    max_depth: int | None = whole(3, least=1, also=(None,))
    min_impurity_decrease: float = number(0.0, least=0)
    max_features: _Features = share_or_count(None, None, "sqrt", "log2")
    max_leaf_nodes: int | None = whole(None, least=2, also=(None,))
    validation_fraction: float = number(0.1, above=0, below=1)
    n_iter_no_change: int | None = whole(None, least=1, also=(None,))
    tol: float = number(1e-4, least=0)
    ccp_alpha: float = number(0.0, least=0)
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistGradientBoosting(_Described):
    """Boosted trees on binned values: large data, missing values and categories as they are."""

    estimator = "sklearn.ensemble:HistGradientBoostingClassifier"
    takes_missing = True
    takes_categories = True

    learning_rate: float = number(0.1, above=0)
    max_iter: int = whole(100, least=1)
    max_leaf_nodes: int | None = whole(31, least=2, also=(None,))
    max_depth: int | None = whole(None, least=1, also=(None,))
    min_samples_leaf: int = whole(20, least=1)
    l2_regularization: float = number(0.0, least=0)
    max_features: float = number(1.0, above=0, most=1)
    max_bins: int = whole(255, least=2, most=255)
    early_stopping: bool | str = choice("auto", True, False)
    validation_fraction: float = number(0.1, above=0, below=1)
    n_iter_no_change: int = whole(10, least=1)
    tol: float = number(1e-7, least=0)
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationForest(_Described):
    """How easily an order is told apart from all others, without labels.

    Its score is Liu's anomaly score 2 ** (-mean depth / expected depth): above 0 and at most 1, about 0.5
    for an ordinary order, near 1 for one that a few splits isolate. It is not a probability of fraud unless
    the model says `calibration=Isotonic()` or stands in another as a feature.
    """

    estimator = "sklearn.ensemble:IsolationForest"

    n_estimators: int = whole(100, least=1)
    max_samples: float | str = share_or_count("auto", "auto")
    max_features: float = share_or_count(1.0)
    bootstrap: bool = claim(False)
    random_state: int = seed()
    weigh: ClassVar[Weigh] = "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class XGBoost(_Described):
    """Boosted trees of XGBoost (`pip install 'fraudstream[xgboost]'`); it computes in float32."""

    estimator = "xgboost:XGBClassifier"
    takes_missing = True
    extra = "xgboost"

    n_estimators: int = whole(100, least=1)
    max_depth: int = whole(6, least=0)
    learning_rate: float = number(0.3, above=0)
    max_leaves: int = whole(0, least=0)
    tree_method: str = choice("hist", "exact", "approx")
    gamma: float = number(0.0, least=0)
    min_child_weight: float = number(1.0, least=0)
    max_delta_step: float = number(0.0, least=0)
    subsample: float = number(1.0, above=0, most=1)
    colsample_bytree: float = number(1.0, above=0, most=1)
    colsample_bylevel: float = number(1.0, above=0, most=1)
    reg_alpha: float = number(0.0, least=0)
    reg_lambda: float = number(1.0, least=0)
    max_bin: int = whole(256, least=2)
    base_score: float | None = number(None, above=0, below=1, also=(None,))
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class LightGBM(_Described):
    """Boosted trees of LightGBM (`pip install 'fraudstream[lightgbm]'`)."""

    estimator = "lightgbm:LGBMClassifier"
    takes_missing = True
    extra = "lightgbm"

    n_estimators: int = whole(100, least=1)
    num_leaves: int = whole(31, least=2)
    max_depth: int = whole(-1, least=-1)
    learning_rate: float = number(0.1, above=0)
    min_split_gain: float = number(0.0, least=0)
    min_child_weight: float = number(1e-3, least=0)
    min_child_samples: int = whole(20, least=1)
    subsample: float = number(1.0, above=0, most=1)
    subsample_freq: int = whole(0, least=0)
    colsample_bytree: float = number(1.0, above=0, most=1)
    reg_alpha: float = number(0.0, least=0)
    reg_lambda: float = number(0.0, least=0)
    max_bin: int = whole(255, least=2)
    random_state: int = seed()
    weigh: Weigh = choice("equal", "balanced", "amount")


Predictor = (
    LogisticRegression
    | DecisionTree
    | RandomForest
    | ExtraTrees
    | GradientBoosting
    | HistGradientBoosting
    | IsolationForest
    | XGBoost
    | LightGBM
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibrated:
    folds: int = whole(5, least=2)

    def __post_init__(self) -> None:
        """Check the parameters."""
        check(self)

    def __str__(self) -> str:
        """Its name."""
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid(_Calibrated):
    """Makes scores probabilities by a logistic curve through out-of-fold scores (Platt 1999).

    Fitted without `weigh`: what a balanced or cost-weighted predictor exaggerates is put right.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Isotonic(_Calibrated):
    """Makes scores probabilities by a rising curve through out-of-fold scores; needs many frauds.

    Fitted without `weigh`: what a balanced or cost-weighted predictor exaggerates is put right.
    """


Calibration = Sigmoid | Isotonic
