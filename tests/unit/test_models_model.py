"""A model is described by a constructor that refuses what could not be trained or served honestly."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from features.aggregates import Count, Mean
from features.catalogue import by_name, by_names
from features.define import days, feature
from features.events import Order
from models.errors import ModelDefinitionError
from models.impute import Constant, Median
from models.model import Model, Period
from models.predictors import (
    GradientBoosting,
    HistGradientBoosting,
    Isotonic,
    LogisticRegression,
    RandomForest,
)
from models.preprocess import Condenser, Hashing, OneHot, Scaler, TargetEncoding

BASKET = by_names(["amount", "hour_of_day"])
CATEGORIES = by_names(["country_category", "channel_category"])
JUNE, SEPTEMBER = Period.months("2025-06", "2025-06"), Period.months("2025-09", "2025-09")
WINTER, SUMMER = Period.months("2025-01", "2025-03"), Period.months("2025-06", "2025-11")


def a_model(name: str = "basket_risk", **parts: Any) -> Model:
    told: dict[str, Any] = {
        "features": BASKET, "predictor": LogisticRegression(), "trained_on": WINTER,
    }  # fmt: skip
    return Model(name, **(told | parts))


def test_a_model_prints_as_its_tree() -> None:
    model = Model(
        "order_risk",
        features=(*BASKET, Count(over=days(30)), Mean("amount", over=days(30)), a_model()),
        predictor=HistGradientBoosting(max_iter=200),
        trained_on=SUMMER,
    )

    assert str(model).splitlines() == [
        "order_risk  HistGradientBoosting, 2025-06-01..2025-12-01",
        "  amount",
        "  hour_of_day",
        "  orders_count_30d",
        "  amount_mean_30d",
        "  basket_risk  LogisticRegression, 2025-01-01..2025-04-01",
        "    amount",
        "    hour_of_day",
    ]


def test_a_tree_names_its_nodes_from_the_leaves_up_and_each_feature_once() -> None:
    basket = a_model(features=by_names(["hour_of_day", "items_count"]))
    middle = a_model("middle", features=(by_name("amount"), basket), trained_on=JUNE)
    top = a_model("top", features=(by_name("amount"), middle, basket), trained_on=SEPTEMBER)

    assert [each.name for each in top.nodes] == ["basket_risk", "middle", "top"]
    assert [each.name for each in top.leaves] == ["amount", "hour_of_day", "items_count"]
    assert top.columns == ("amount", "middle", "basket_risk")


def test_scores_of_a_submodel_whose_labels_are_not_mature_are_refused() -> None:
    late = Period(datetime(2025, 4, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC))
    with pytest.raises(
        ModelDefinitionError,
        match=r"^'late' trains from 2025-04-01 on the scores of 'basket_risk', whose labels are not mature "
        r"until 2025-05-16; start 'late' later or end 'basket_risk' sooner, or give both the same period "
        r"and 'late' out_of_fold=True",
    ):
        a_model("late", features=(a_model(),), trained_on=late)


def test_a_submodel_is_mature_at_the_very_instant_its_labels_are() -> None:
    mature_at = WINTER.end + days(45)
    until = datetime(2025, 9, 1, tzinfo=UTC)
    assert a_model("late", features=(a_model(),), trained_on=Period(mature_at, until)).submodels
    with pytest.raises(ModelDefinitionError, match="not mature until 2025-05-16"):
        a_model(
            "late", features=(a_model(),), trained_on=Period(mature_at - timedelta(microseconds=1), until)
        )


def test_one_period_is_shared_only_out_of_fold() -> None:
    with pytest.raises(ModelDefinitionError, match="out_of_fold=True, so that"):
        a_model("top", features=(a_model(),))
    assert a_model("top", features=(a_model(),), out_of_fold=True).submodels
    with pytest.raises(ModelDefinitionError, match="give 'basket_risk' the same period"):
        a_model("top", features=(a_model(trained_on=Period.months("2025-02", "2025-03")),), out_of_fold=True)


def test_a_submodel_of_a_submodel_has_its_own_fence() -> None:
    basket = a_model()
    middle = a_model("middle", features=(basket,), trained_on=JUNE)
    # 'top' may ask 'basket_risk' too, but not before 'middle' is mature
    with pytest.raises(ModelDefinitionError, match="scores of 'middle'"):
        a_model("top", features=(middle, basket), trained_on=Period.months("2025-07", "2025-08"))


@pytest.mark.parametrize("name", ["", "Risk", "1st", "order-risk", "a" * 65, None])
def test_a_name_is_of_small_letters(name: Any) -> None:
    with pytest.raises(ModelDefinitionError, match="begins with a small letter"):
        a_model(name)


@feature(unit="0 or 1", between=(0, 1), missing="never")
def basket_risk(order: Order) -> float:
    """1 always."""
    return float(order.amount >= 0)


def test_two_things_of_one_name_cannot_be_in_a_tree() -> None:
    other = a_model(predictor=LogisticRegression(C=0.3))
    middle = a_model("middle", features=(other,), trained_on=JUNE)
    with pytest.raises(ModelDefinitionError, match="two things of the tree are called 'basket_risk'"):
        a_model("top", features=(middle, a_model()), trained_on=SEPTEMBER)
    with pytest.raises(ModelDefinitionError, match="two things of the tree are called 'basket_risk'"):
        a_model("top", features=(middle, basket_risk), trained_on=SEPTEMBER)
    with pytest.raises(ModelDefinitionError, match="two things of the tree are called 'amount'"):
        a_model("amount")
    with pytest.raises(ModelDefinitionError, match="twice among its features"):
        a_model(features=(*BASKET, *BASKET))


def test_a_model_that_asks_itself_is_refused() -> None:
    inner = a_model(trained_on=Period.months("2024-01", "2024-01"))
    outer = a_model("outer", features=(inner,))
    object.__setattr__(inner, "features", (outer,))
    with pytest.raises(ModelDefinitionError, match="is asked by itself"):
        replace(outer)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"features": ()}, "at least one feature"),
        ({"features": ("amount",)}, r"write by_name\('amount'\)"),
        ({"features": (3.0,)}, "declared with @feature"),
        ({"predictor": "logistic_regression"}, "predictor= takes one of LogisticRegression, "),
        ({"predictor": RandomForest}, "predictor= takes one of"),
        ({"imputer": "median"}, "imputer= takes one of Median, Mean"),
        ({"trained_on": "2025-01"}, "trained_on= takes one of Period"),
        ({"labels_mature_after": 45}, "labels_mature_after= takes one of timedelta"),
        ({"labels_mature_after": -days(1)}, "cannot mature before"),
        ({"sampled": 0}, r"in \(0, 1\]"),
        ({"sampled": 1.5}, r"in \(0, 1\]"),
        ({"countries": "DE"}, "country codes in a tuple"),
        ({"countries": ("DE", "de")}, "codes of two capitals"),
        ({"calibration": Isotonic}, "calibration= takes one of Sigmoid, Isotonic or None"),
        ({"imputer": None}, "LogisticRegression does not learn from missing values"),
        ({"imputer": None, "predictor": GradientBoosting()}, "does not learn from missing"),
        ({"preprocessors": (OneHot("amout"),)}, r"takes \['amout'\], which are not among"),
        ({"preprocessors": (OneHot("amount"), Hashing("amount"))}, "taken by two preprocessors"),
        ({"preprocessors": (OneHot(),)}, "takes nothing"),
        ({"preprocessors": (Hashing("amount"), Scaler())}, "fill the sparse columns"),
        ({"preprocessors": (Scaler(), OneHot("amount"))}, "put the Scaler behind OneHot"),
        ({"preprocessors": (Scaler(), Hashing("amount"))}, "put the Scaler behind Hashing"),
        (
            {"features": CATEGORIES, "predictor": HistGradientBoosting(), "preprocessors": (Scaler(),)},
            r"numbers of \['country_category', 'channel_category'\]",
        ),
        ({"preprocessors": ("scaler",)}, "is no preprocessor"),
        ({"preprocessors": (Condenser(), Condenser())}, "one Condenser"),
    ],
)
def test_what_could_not_be_trained_or_served_is_refused(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelDefinitionError, match=why):
        a_model(**parts)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (
            lambda: RandomForest(n_estimators=0),
            r"RandomForest: n_estimators must be a whole number of at least 1; got 0",
        ),
        (
            lambda: RandomForest(max_depth=True),
            "max_depth must be a whole number of at least 1 or None; got True",
        ),
        (lambda: RandomForest(weigh="cost"), "'equal' or 'balanced' or 'amount'; got 'cost'"),
        (lambda: HistGradientBoosting(early_stopping=1), "'auto' or True or False; got 1"),
        (lambda: LogisticRegression(C=float("nan")), "C must be a number above 0; got nan"),
        (lambda: LogisticRegression(l1_ratio=0.5), "needs solver='saga'"),
        (lambda: Constant(value=float("inf")), "value must be a number; got inf"),
        (lambda: Median(flag_missing=None), "flag_missing must be True or False"),
        (lambda: Hashing("a", dimensions=1), "dimensions must be a whole number from 2"),
        (lambda: TargetEncoding("a", smooth=-1), "smooth must be a number of at least 0 or 'auto'"),
        (lambda: OneHot("a", "a"), "each once"),
        (lambda: OneHot(by_name("amount")), "names of features"),
    ],
)
def test_a_mistyped_parameter_stops_where_it_is_written(build: Any, why: str) -> None:
    with pytest.raises(ModelDefinitionError, match=why):
        build()


def test_categories_that_nobody_takes_become_one_hot_columns() -> None:
    features = (*BASKET, *CATEGORIES)
    assert a_model(features=features).steps == (OneHot("country_category", "channel_category"),)
    taken = a_model(features=features, preprocessors=(TargetEncoding("country_category"), Scaler()))
    assert taken.steps == (OneHot("channel_category"), TargetEncoding("country_category"), Scaler())
    assert a_model(features=features, predictor=HistGradientBoosting()).steps == ()
    assert a_model(features=features, preprocessors=(OneHot(),)).steps == (OneHot(),)


def test_a_period_is_of_whole_months_or_days_in_utc_and_leaves_out_its_end() -> None:
    assert str(Period.months("2025-06", "2025-12")) == "2025-06-01..2026-01-01"
    assert str(Period.days("2018-07-25", "2018-07-31")) == "2018-07-25..2018-08-01"
    start = datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    period = Period(start, datetime(2025, 1, 2, 12, 30, tzinfo=UTC))
    assert str(period) == "2025-01-01..2025-01-02T12:30:00+00:00"
    assert period.start in period
    assert period.end not in period


@pytest.mark.parametrize(
    "build",
    [
        lambda: Period.months("2025-03", "2025-01"),
        lambda: Period.months("2025-13", "2026-01"),
        lambda: Period.months("2025", "2026"),
        lambda: Period.days("2025-02-30", "2025-03-01"),
        lambda: Period(datetime(2025, 1, 1), datetime(2025, 1, 2)),  # noqa: DTZ001 - that is the mistake
    ],
)
def test_what_is_no_period_is_refused(build: Any) -> None:
    with pytest.raises(ModelDefinitionError, match="Period"):
        build()


@pytest.mark.parametrize(
    "changed",
    [
        {"features": BASKET[::-1]},
        {"predictor": LogisticRegression(C=0.5)},
        {"predictor": RandomForest()},
        {"imputer": Median(flag_missing=False)},
        {"imputer": Constant()},
        {"preprocessors": (Scaler(),)},
        {"calibration": Isotonic()},
        {"trained_on": SUMMER},
        {"countries": ("DE",)},
        {"labels_mature_after": days(30)},
        {"sampled": 0.5},
        {"without_caught": True},
        {"out_of_fold": True},
    ],
)
def test_whatever_decides_a_training_is_in_the_digest(changed: dict[str, Any]) -> None:
    assert a_model(**changed).digest != a_model().digest
    above = Period.months("2026-09", "2026-09")
    tops = [a_model("top", features=(each,), trained_on=above) for each in (a_model(), a_model(**changed))]
    assert tops[0].digest != tops[1].digest, "a parent learns from what its submodels say"


def test_the_same_description_written_twice_has_one_digest() -> None:
    assert a_model(countries=("DE", "FR")).digest == a_model(countries=("FR", "DE")).digest
    assert a_model().digest == a_model().digest
    assert a_model() == a_model()
