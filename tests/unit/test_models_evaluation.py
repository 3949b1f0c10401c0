"""Measures held against scikit-learn, by weights against repeated rows, and what a shop reads off them."""

from datetime import timedelta

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from models.evaluation import (
    Costs,
    Difference,
    Ranking,
    at_budget,
    bands,
    calibration,
    calibration_error,
    compromised_at,
    cost_curve,
    difference,
    measured,
    paired,
    permuted,
    stability,
)


def some(rows: int = 500, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels that they say something of."""
    chance = np.random.default_rng(seed)
    p = chance.integers(0, 40, rows) / 40
    return p, chance.random(rows) < 0.05 + 0.5 * p


def test_the_measures_are_those_of_scikit_learn_ties_and_weights_included() -> None:
    p, is_fraud = some()
    weights = np.random.default_rng(2).integers(1, 5, len(p)).astype(float)

    found = measured(p, is_fraud, weights)

    assert found.auc == pytest.approx(roc_auc_score(is_fraud, p, sample_weight=weights), abs=1e-12)
    wanted = average_precision_score(is_fraud, p, sample_weight=weights)
    assert found.average_precision == pytest.approx(wanted, abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(is_fraud, p, sample_weight=weights), abs=1e-12)


def test_a_weight_is_so_many_orders() -> None:
    p, is_fraud = some()
    times = np.random.default_rng(2).integers(0, 4, len(p))

    weighted = measured(p, is_fraud, times.astype(float))
    repeated = measured(np.repeat(p, times), np.repeat(is_fraud, times), np.ones(times.sum()))

    assert weighted[2:] == pytest.approx(repeated[2:], abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_what_is_not_defined_is_none(label: bool) -> None:
    found = measured(np.array([0.1, 0.2]), np.array([label, label]), np.ones(2))

    assert found.auc is None
    assert (found.average_precision is None) is not label
    assert measured(np.array([]), np.array([], dtype=bool), np.array([])).auc is None


def test_bands_hold_the_measure_and_are_wider_where_orders_belong_together() -> None:
    p, is_fraud = some()
    ranking = Ranking.of(p, is_fraud)
    each_alone = bands(ranking, np.ones(len(p)), np.arange(len(p)))
    together = bands(ranking, np.ones(len(p)), np.arange(len(p)) // 25)

    auc = each_alone["auc"]
    assert auc.low < auc.value < auc.high
    assert auc.value == ranking.auc(np.ones(len(p)))
    assert each_alone["roc"].value[0] <= each_alone["roc"].value[-1] == 1
    assert together["auc"].value == auc.value
    again = bands(ranking, np.ones(len(p)), np.arange(len(p)))
    assert again["auc"] == auc


def test_a_better_model_is_told_from_chance_and_chance_from_a_better_one() -> None:
    p, is_fraud = some(3000)
    chance = np.random.default_rng(5)
    worse, alike = p + chance.normal(0, 0.5, len(p)), p + chance.normal(0, 1e-9, len(p))
    one, blurred, same = (Ranking.of(each, is_fraud) for each in (p, worse, alike))
    ones, clusters = np.ones(len(p)), np.arange(len(p))

    better = difference(one, blurred, ones, clusters, Ranking.auc, samples=200)
    equal = difference(one, same, ones, clusters, Ranking.auc, samples=200)

    assert better is not None
    assert better.low > 0
    assert better.p_value == pytest.approx(2 / 201), "what no sample showed is rare, and not impossible"
    assert better.p_said == "p = 0.010"
    assert equal is not None
    assert abs(equal.value) < 0.01
    assert equal.low <= 0 <= equal.high or abs(equal.value) < 0.005


@pytest.mark.parametrize(
    ("p_value", "said"),
    [(1.0, "p = 1.000"), (0.0488, "p = 0.049"), (0.001, "p = 0.001"), (0.00099, "p < 0.001")],
)
def test_a_p_is_said_as_statisticians_do_and_is_never_nothing(p_value: float, said: str) -> None:
    assert Difference(0.1, 0.0, 0.2, p_value).p_said == said
    gains = np.full(100, 5.0)
    assert paired(gains, np.arange(100), samples=2_000).p_said == "p < 0.001"


def test_a_calibrated_model_has_no_calibration_error() -> None:
    chance = np.random.default_rng(3)
    p = chance.random(50_000) ** 3
    came = chance.random(50_000) < p

    error = calibration_error(calibration(p, came, np.ones(len(p))))
    off = calibration_error(calibration(np.sqrt(p), came, np.ones(len(p))))

    assert error is not None
    assert off is not None
    assert error < 0.01
    assert off > 0.1
    assert sum(each.weight for each in calibration(p, came, np.ones(len(p)))) == 50_000


def test_orders_of_one_score_are_calibrated_together_whenever_they_came() -> None:
    # a stump says two scores; that frauds came late is no error of it
    p = np.tile([0.1, 0.1, 0.1, 0.5], 250)
    late = np.arange(1000) >= 500
    came = np.where(p == 0.1, late & (np.arange(1000) % 5 == 0), late)

    bins = calibration(p, came, np.ones(1000))

    assert [(each.said, each.weight) for each in bins] == [(pytest.approx(0.1), 750), (0.5, 250)]
    assert calibration_error(bins) == pytest.approx(0.0, abs=1e-3)


def test_a_budget_is_never_exceeded_and_value_is_counted_in_money() -> None:
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    is_fraud = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    amounts = np.array([100.0, 5, 300, 5, 5, 5, 5, 5, 5, 600])

    cut = at_budget(p, is_fraud, np.ones(10), amounts, 0.35)

    assert cut is not None
    assert (cut.threshold, cut.stopped) == (0.7, 0.3)
    assert cut.precision == pytest.approx(2 / 3)
    assert cut.recall == pytest.approx(2 / 3)
    assert cut.value_recall == pytest.approx(0.4)


def test_a_budget_that_the_highest_score_alone_exceeds_has_no_cut() -> None:
    p, is_fraud = np.full(200, 0.3), np.arange(200) < 5

    assert at_budget(p, is_fraud, np.ones(200), np.ones(200), 0.05) is None
    whole = at_budget(p, is_fraud, np.ones(200), np.ones(200), 1.0)
    assert whole is not None
    assert whole.stopped == 1.0


def test_the_cheapest_threshold_weighs_reviews_against_frauds() -> None:
    p = np.array([0.9, 0.5, 0.1])
    is_fraud = np.array([True, False, True])
    amounts = np.array([1000.0, 50.0, 10.0])

    thresholds, cost = cost_curve(p, is_fraud, np.ones(3), amounts, Costs(review=100, lost_share=1.0))

    assert thresholds.tolist() == [0.9, 0.5, 0.1, 1.0]
    assert cost.tolist() == [110.0, 210.0, 300.0, 1010.0]


def test_a_customer_that_was_found_leaves_the_list_of_the_next_days() -> None:
    day = np.datetime64("2026-01-01T10:00", "us")
    placed = np.array([day, day, day, day + timedelta(days=1), day + timedelta(days=1)])
    customers = np.array(["a", "b", None, "a", "b"], dtype=object)
    p = np.array([0.9, 0.8, 0.1, 0.9, 0.8])
    is_fraud = np.array([1, 0, 0, 1, 1], dtype=bool)

    # day 1: a is found; day 2: a has left, so b is asked
    assert compromised_at(1, p, is_fraud, customers, placed) == 1.0
    assert compromised_at(2, p, is_fraud, customers, placed) == pytest.approx((0.5 + 0.5) / 2)


def test_what_changed_its_kind_is_unstable_and_unknown_is_a_kind() -> None:
    chance = np.random.default_rng(1)
    one, other = chance.normal(0, 1, 5000), chance.normal(0, 1, 5000)
    with_holes = np.where(chance.random(5000) < 0.4, np.nan, other)

    assert stability(one, other) < 0.02
    assert stability(one, other + 1) > 0.25
    assert stability(one, with_holes) > 0.25


def test_a_feature_that_nobody_uses_can_be_mixed_without_loss() -> None:
    chance = np.random.default_rng(1)
    matrix = chance.random((1000, 2))
    is_fraud = chance.random(1000) < matrix[:, 0]

    used, unused = permuted(lambda rows: rows[:, 0], matrix, is_fraud, np.ones(1000))

    assert used > 0.1
    assert unused == 0
