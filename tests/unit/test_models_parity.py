"""Every predictor, imputer, preprocessor and calibration, flat, answers as the library that learned it."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from models import layout
from models.errors import ExportError, TrainingError
from models.export import flatten
from models.fit import Fitted, Rows, fit
from models.flat import Engine, FlatModel, FlatTrees
from models.impute import Median
from models.learn import learn, out_of_fold
from models.model import Model
from models.predictors import (
    DecisionTree,
    HistGradientBoosting,
    IsolationForest,
    Isotonic,
    LightGBM,
    LogisticRegression,
    Predictor,
    RandomForest,
    Sigmoid,
    XGBoost,
)
from models.preprocess import Condenser, Encoder, Hashing, OneHot, Ordinal, Scaler, TargetEncoding
from models.prove import SINGLE_PARITY, prove, trial_rows
from models.trained import PARITY
from tests.small_models import ALL_KINDS, FEATURES, a_risk, some_rows

ROWS = some_rows()


class Case(NamedTuple):
    fitted: Fitted
    flat: FlatModel
    tried: Any
    allowed: float


@pytest.fixture(scope="module", params=list(ALL_KINDS))
def case(request: pytest.FixtureRequest) -> Case:
    model = a_risk(**ALL_KINDS[request.param])
    if model.predictor.extra:
        pytest.importorskip(model.predictor.extra)
    fitted = fit(model, ROWS, threads=1)
    flat = flatten(fitted)
    allowed = SINGLE_PARITY if isinstance(model.predictor, XGBoost) else PARITY
    tried = trial_rows(flat, ROWS.matrix, rows=500, cuts=300)
    never_met = some_rows(300, seed=1).matrix
    never_met[:, 5:] += 30
    return Case(fitted, flat, np.vstack([tried, never_met, some_rows(300, seed=2).matrix]), allowed)


def test_a_flat_model_answers_as_its_library(case: Case) -> None:
    assert np.abs(case.flat.walk(case.tried).p - case.fitted.predict(case.tried)).max() <= case.allowed


def test_numba_and_numpy_give_the_same_bits_and_each_row_stands_alone(case: Case) -> None:
    whole = case.flat.walk(case.tried, engine="numba")
    tried: list[tuple[Engine, int]] = [
        ("numpy", len(case.tried)),
        ("numba", 256),
        ("numba", 1),
        ("numpy", 64),
    ]
    for engine, size in tried:
        rows = case.tried if size > 1 else case.tried[:200]
        parts = [case.flat.walk(part, engine=engine) for part in batches(rows, size)]
        for name in ("p", "attributions", "first"):
            joined = np.concatenate([getattr(each, name) for each in parts])
            assert joined.tobytes() == getattr(whole, name)[: len(rows)].tobytes()


def batches(rows: Any, size: int) -> Iterator[Any]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def test_what_was_exported_proves_itself_and_says_why(case: Case) -> None:
    golden = prove(case.fitted, case.flat, ROWS.matrix)
    golden.check(case.flat)
    assert np.isnan(golden.rows).all(axis=1).any()
    attributions = case.flat.walk(ROWS.matrix).attributions
    assert attributions.shape == ROWS.matrix.shape
    # the amount is what fraud was made of, so it pushes somewhere, both ways
    assert attributions[:, 0].max() > 1e-3
    assert attributions[:, 0].min() < -1e-3


def test_attributions_of_trees_add_up_from_the_roots_to_the_raw_score(case: Case) -> None:
    trees = case.flat.predictor
    if not isinstance(trees, FlatTrees):
        return
    roots = trees.value[trees.roots]
    start = trees.base[0] + (roots.mean() if trees.combine == "mean" else roots.sum())
    walked = case.flat.walk(case.tried[:500])
    assert walked.attributions.sum(axis=1) + start == pytest.approx(case.flat.raw(case.tried[:500]), abs=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_are_refused_by_name(case: Case, value: float) -> None:
    row = case.tried[:1].copy()
    row[0, 4] = value
    engines: list[Engine] = ["numba", "numpy"]
    for engine in engines:
        with pytest.raises(ValueError, match=r"an infinite value for \['account_age_days'\]"):
            case.flat.walk(row, engine=engine)


def test_a_flat_model_that_is_a_hair_off_is_not_exported() -> None:
    two = Rows(ROWS.matrix[:, :2], ROWS.labels)
    model = a_risk(predictor=RandomForest(n_estimators=5, max_depth=3), features=FEATURES[:2])
    fitted = fit(model, two, threads=1)
    flat = flatten(fitted)
    trees = flat.predictor
    assert isinstance(trees, FlatTrees)
    moved = trees.threshold.copy()
    moved[0] = np.nextafter(np.float32(moved[0]), np.float32(np.inf))  # the next number a tree can tell apart
    off = replace(flat, predictor=replace(trees, threshold=moved))
    with pytest.raises(ExportError, match="away from scikit-learn"):
        prove(fitted, off, two.matrix)


@pytest.mark.parametrize("filling", [Median(), None])
@pytest.mark.parametrize(
    "predictor", [RandomForest(n_estimators=5), HistGradientBoosting(max_iter=5)], ids=str
)
def test_a_feature_always_missing_moves_no_score(predictor: Any, filling: Median | None) -> None:
    matrix = ROWS.matrix.copy()
    matrix[:, 4] = np.nan
    there = matrix.copy()
    there[:, 4] = 7.0
    model = a_risk(predictor=predictor, imputer=filling)
    node = learn(model, Rows(matrix, ROWS.labels), threads=1)
    assert node.model.imputer.all_missing == ("account_age_days",)
    assert node.score(matrix).tolist() == node.score(there).tolist()


def test_weighing_moves_what_is_learned_the_way_it_says() -> None:
    def mean(weigh: Any) -> float:
        model = a_risk(predictor=LogisticRegression(weigh=weigh), preprocessors=(Scaler(),))
        return float(fit(model, ROWS, threads=1).predict(ROWS.matrix).mean())

    share = ROWS.labels.mean()
    assert mean("equal") == pytest.approx(share, abs=0.01)
    assert mean("balanced") > share + 0.05
    dear = ROWS.matrix[:, 0] > 150
    by_amount = fit(a_risk(predictor=DecisionTree(max_depth=3, weigh="amount")), ROWS, threads=1)
    equal = fit(a_risk(predictor=DecisionTree(max_depth=3)), ROWS, threads=1)
    assert by_amount.predict(ROWS.matrix[dear]).mean() > equal.predict(ROWS.matrix[dear]).mean()


@pytest.mark.parametrize("smooth", ["auto", 20.0])
def test_an_order_that_stands_for_several_is_encoded_as_several(smooth: str | float) -> None:
    model = a_risk(
        predictor=DecisionTree(max_depth=3),
        preprocessors=(TargetEncoding("country_category", smooth=smooth),),
    )
    encoded = model.columns.index("country_category")
    three = np.where(ROWS.labels, 1, 3)
    several = fit(model, Rows(ROWS.matrix.repeat(three, axis=0), ROWS.labels.repeat(three)), threads=1)
    weighted = fit(model, Rows(ROWS.matrix, ROWS.labels, weights=three.astype(np.float64)), threads=1)

    met = ROWS.matrix[:50].copy()
    met[0, encoded], met[1, encoded] = np.nan, 99  # unknown, and never met
    assert weighted.see(met)[:, -1] == pytest.approx(several.see(met)[:, -1], abs=1e-12)
    assert weighted.see(met)[:, -1].max() < fit(model, ROWS, threads=1).see(met)[:, -1].max()


def test_an_order_that_stands_for_several_counts_as_several() -> None:
    kept = ROWS.labels | (np.arange(len(ROWS)) % 4 == 0)
    thinned = Rows(ROWS.matrix, ROWS.labels, weights=np.where(ROWS.labels, 1.0, 4.0)).where(kept)
    model = a_risk(predictor=LogisticRegression(), preprocessors=(Scaler(),))
    p = fit(model, thinned, threads=1).predict(ROWS.matrix)
    assert p.mean() == pytest.approx(ROWS.labels.mean(), abs=0.03)
    bare = fit(model, Rows(thinned.matrix, thinned.labels), threads=1).predict(ROWS.matrix)
    assert bare.mean() > p.mean() + 0.1


@pytest.mark.parametrize("calibration", [Sigmoid(), Isotonic()])
def test_a_calibration_puts_right_what_balancing_exaggerates(calibration: Any) -> None:
    rows = some_rows(3000, seed=5)
    predictor = RandomForest(n_estimators=20, min_samples_leaf=20, weigh="balanced")
    bare = fit(a_risk(predictor=predictor), rows, threads=1).predict(rows.matrix).mean()
    calibrated = fit(a_risk(predictor=predictor, calibration=calibration), rows, threads=1)
    share = rows.labels.mean()
    assert abs(calibrated.predict(rows.matrix).mean() - share) < min(0.03, abs(bare - share))


def test_a_score_out_of_fold_does_not_know_its_own_label() -> None:
    rng = np.random.default_rng(3)
    noise = Rows(rng.normal(size=(800, len(FEATURES))).round(6), rng.random(800) < 0.3)
    model = a_risk(predictor=RandomForest(n_estimators=20))
    inside = learn(model, noise, threads=1).score(noise.matrix)
    outside = out_of_fold(model, noise, threads=1)
    assert inside[noise.labels].min() > inside[~noise.labels].max() - 0.3
    assert abs(outside[noise.labels].mean() - outside[~noise.labels].mean()) < 0.05


def test_orders_of_one_group_are_never_on_both_sides_of_a_fold() -> None:
    rng = np.random.default_rng(4)
    customer = np.repeat(np.arange(100), 8)
    fraudster = np.isin(customer, rng.permutation(100)[:40])
    # a column that tells customers apart, and nothing of why one is a fraudster
    matrix = np.column_stack([customer + 0.0] * len(FEATURES))
    rows = Rows(matrix, fraudster, groups=customer)
    model = a_risk(predictor=DecisionTree())

    mixed = rng.permutation(len(rows))
    by_order = out_of_fold(model, Rows(matrix, fraudster).where(mixed), threads=1)
    by_customer = out_of_fold(model, rows.where(mixed), threads=1)

    assert ((by_order > 0.5) == fraudster[mixed]).all(), "an order knows its customer by the others"
    assert ((by_customer > 0.5) == fraudster[mixed]).mean() < 0.8


@pytest.mark.parametrize("predictor", [RandomForest(n_estimators=5), HistGradientBoosting()], ids=str)
def test_a_fold_that_would_learn_from_one_kind_alone_is_refused(predictor: Predictor) -> None:
    number = np.arange(len(ROWS))
    one_fraudster = Rows(ROWS.matrix, ROWS.labels, groups=np.where(ROWS.labels, -1, number))
    one_honest = Rows(ROWS.matrix, ROWS.labels, groups=np.where(ROWS.labels, number, -1))
    three = Rows(ROWS.matrix, ROWS.labels, groups=number % 3)
    model = a_risk(predictor=predictor, calibration=Sigmoid())

    for rows, why in (
        (one_fraudster, "has every fraud,"),
        (one_honest, "has every order that is no fraud"),
        (three, "needs as many groups, such as customers; got 3"),
    ):
        with pytest.raises(TrainingError, match=why):
            fit(model, rows, threads=1)
        with pytest.raises(TrainingError, match=why):
            out_of_fold(a_risk(predictor=predictor), rows, threads=1)


def test_what_cannot_be_learned_is_refused_with_its_reason() -> None:
    with pytest.raises(TrainingError, match="known to be fraud and orders known not to be"):
        fit(a_risk(predictor=LogisticRegression()), Rows(ROWS.matrix, ROWS.labels & False))
    with pytest.raises(TrainingError, match="needs a matrix of"):
        fit(a_risk(predictor=LogisticRegression()), Rows(ROWS.matrix[:, :2], ROWS.labels))
    with pytest.raises(TrainingError, match="needs the orders' amounts"):
        fit(a_risk(predictor=LogisticRegression(weigh="amount")), Rows(ROWS.matrix, ROWS.labels))
    few = np.flatnonzero(ROWS.labels)[:3]
    labels = np.isin(np.arange(len(ROWS)), few)
    with pytest.raises(TrainingError, match="by 5 folds needs as many frauds"):
        fit(a_risk(predictor=LogisticRegression(), calibration=Sigmoid()), Rows(ROWS.matrix, labels))
    with pytest.raises(TrainingError, match="Hashing takes whole numbers of 32 bits, and 'account_age_days'"):
        fit(a_risk(predictor=LogisticRegression(), preprocessors=(Hashing("account_age_days"),)), ROWS)
    nothing = Rows(np.zeros((len(ROWS), 5)), ROWS.labels)
    with pytest.raises(TrainingError, match="Condenser left no column"):
        fit(a_risk(predictor=RandomForest(), preprocessors=(Condenser(),), features=FEATURES[:5]), nothing)


@pytest.mark.parametrize(
    "encoder", [Ordinal("country_category"), TargetEncoding("country_category")], ids=repr
)
def test_a_category_beyond_whole_doubles_is_not_the_one_next_to_it(encoder: Encoder) -> None:
    matrix = ROWS.matrix.copy()
    matrix[:, 5] = 2.0**60 + 4096 * matrix[:, 5]
    fitted = fit(
        a_risk(predictor=LogisticRegression(), preprocessors=(encoder, Scaler())),
        Rows(matrix, ROWS.labels),
        threads=1,
    )
    never_met = matrix[:50].copy()
    never_met[:, 5] = 2.0**61
    assert np.abs(flatten(fitted).walk(never_met).p - fitted.predict(never_met)).max() <= PARITY
    prove(fitted, flatten(fitted), matrix)


SPARSE: dict[str, dict[str, Any]] = {
    "centred": {"predictor": LogisticRegression(), "preprocessors": (Scaler(),)},
    "scaled for trees": {
        "predictor": RandomForest(n_estimators=30),
        "preprocessors": (Hashing("hour_of_day", dimensions=16), Scaler(with_mean=False)),
    },
    "ranks beside": {
        "predictor": RandomForest(n_estimators=5),
        "preprocessors": (Hashing("hour_of_day", dimensions=16), Ordinal(), Condenser(least=5)),
    },
    "unknown beside": {
        "predictor": RandomForest(n_estimators=5),
        "preprocessors": (Hashing("hour_of_day", dimensions=16),),
        "imputer": None,
    },
    "target beside": {
        "predictor": LogisticRegression(),
        "preprocessors": (Hashing("hour_of_day", dimensions=16), TargetEncoding()),
    },
}


@pytest.mark.parametrize("parts", SPARSE.values(), ids=SPARSE)
def test_columns_too_many_to_be_kept_dense_teach_and_answer_the_same(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = flatten(fit(a_risk(**parts), ROWS, threads=1))
    monkeypatch.setattr(layout, "_DENSE_CELLS", 1000)
    fitted = fit(a_risk(**parts), ROWS, threads=1)
    sparse = flatten(fitted)
    prove(fitted, sparse, ROWS.matrix)
    assert sparse.columns.table.tolist() == pytest.approx(dense.columns.table.tolist(), nan_ok=True)
    assert np.abs(sparse.walk(ROWS.matrix).p - dense.walk(ROWS.matrix).p).max() < 0.1


def test_what_will_not_fit_into_memory_dense_is_refused_by_what_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashing = Hashing("hour_of_day", dimensions=16)
    monkeypatch.setattr(layout, "_DENSE_CELLS", 1000)
    monkeypatch.setattr(layout, "_MOST_CELLS", 2000)
    for parts, why in (
        ({"predictor": LogisticRegression(), "preprocessors": (Scaler(),)}, r"^Scaler .*with_mean=False"),
        (
            {"predictor": HistGradientBoosting(), "preprocessors": (hashing,)},
            "^HistGradientBoosting .*Condenser",
        ),
    ):
        with pytest.raises(TrainingError, match=why):
            fit(a_risk(**parts), ROWS, threads=1)


def test_preprocessors_refuse_what_they_could_not_learn_from() -> None:
    def learned(*preprocessors: Any, rows: Rows = ROWS) -> None:
        fit(a_risk(predictor=LogisticRegression(), preprocessors=preprocessors), rows, threads=1)

    with pytest.raises(TrainingError, match="Condenser left out 'hour_of_day', which a later"):
        learned(Condenser(least=1990), OneHot("hour_of_day"))
    labels = np.arange(len(ROWS)) < 4
    for weights in (None, np.full(len(ROWS), 3.0)):
        with pytest.raises(TrainingError, match=r"TargetEncoding by 5 folds needs as many frauds .* got 4"):
            learned(TargetEncoding(), rows=Rows(ROWS.matrix, labels, weights))
    far = ROWS.matrix.copy()
    far[:, 0] *= 1e200
    with pytest.raises(TrainingError, match=r"Scaler .*\['amount'\]"):
        learned(Scaler(), rows=Rows(far, ROWS.labels))


def test_a_library_that_is_not_installed_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(
        TrainingError, match=r"needs the package lightgbm.*pip install 'fraudstream\[lightgbm\]'"
    ):
        fit(a_risk(predictor=LightGBM()), ROWS)


def test_isolation_needs_no_labels_and_says_between_nothing_and_certain() -> None:
    fitted = fit(a_risk(predictor=IsolationForest(n_estimators=20)), Rows(ROWS.matrix, ROWS.labels & False))
    p = flatten(fitted).walk(ROWS.matrix).p
    assert ((p > 0) & (p <= 1)).all()
    odd = ROWS.matrix[:1].copy()
    odd[:] = [99999, 23, 8, 3, 9999, 11, 3]
    assert flatten(fitted).walk(odd).p[0] > np.quantile(p, 0.99)


def test_the_condenser_keeps_what_occurs_and_changes_no_answer_of_what_it_knows() -> None:
    def hashed(*condenser: Condenser) -> Model:
        preprocessors = (Hashing("country_category", dimensions=500), *condenser, Scaler(with_mean=False))
        return a_risk(predictor=LogisticRegression(), preprocessors=preprocessors)

    wide, narrow = hashed(), hashed(Condenser())
    one, other = (flatten(fit(each, ROWS, threads=1)) for each in (wide, narrow))
    assert one.columns.width > 500
    assert other.columns.width < 50
    assert np.abs(one.walk(ROWS.matrix).p - other.walk(ROWS.matrix).p).max() < 1e-4


def test_rows_with_a_mean_for_typical_have_no_push_where_nothing_is_unusual() -> None:
    node = learn(
        a_risk(predictor=LogisticRegression(), preprocessors=(Scaler(),), imputer=Median()), ROWS, threads=1
    )
    attributions = node.model.walk(ROWS.matrix).attributions
    assert np.abs(attributions.mean(axis=0)).max() < 1e-6
