import numpy as np
import pytest
from numpy import nan
from sklearn.impute import SimpleImputer

from models.errors import MalformedModelError, TrainingError
from models.impute import Imputer, fit_imputer

NAMES = ["amount", "days_since_last_order", "items_count"]
MATRIX = np.array([[1.0, nan, nan], [3.0, 5.0, nan], [8.0, 6.0, nan], [9.0, nan, nan]])


def test_what_is_unknown_becomes_the_training_median_and_says_so() -> None:
    imputer = fit_imputer(MATRIX, NAMES)
    assert imputer.fills == (5.5, 5.5, 0.0)
    assert imputer.flagged == ("days_since_last_order",)
    assert imputer.fill(np.array([[nan, nan, nan], [0.0, 1.0, 2.0]])).tolist() == [
        [5.5, 5.5, 0.0, 1.0],
        [0.0, 1.0, 2.0, 0.0],
    ]


def test_a_feature_that_was_always_missing_is_named() -> None:
    assert fit_imputer(MATRIX, NAMES).all_missing == ("items_count",)


def test_zero_is_a_number_and_not_a_missing_value() -> None:
    imputer = fit_imputer(np.array([[0.0], [0.0], [7.0]]), ["amount"])
    assert (imputer.fills, imputer.flagged) == ((0.0,), ())


def test_medians_are_those_of_scikit_learn() -> None:
    matrix = np.random.default_rng(3).normal(size=(101, 4))
    matrix[np.random.default_rng(4).random(matrix.shape) < 0.3] = nan
    ours = fit_imputer(matrix, list("abcd")).fill(matrix)
    theirs = SimpleImputer(strategy="median", add_indicator=True).fit_transform(matrix)
    assert np.array_equal(ours, theirs)


def test_each_column_knows_the_feature_it_speaks_of() -> None:
    imputer = Imputer(("a", "b", "c"), (0.0, 0.0, 0.0), flagged=("c", "a"))
    assert imputer.flag_columns == (4, -1, 3)
    assert imputer.owners == (0, 1, 2, 2, 0)


def test_an_infinite_value_stops_training_by_the_features_name() -> None:
    with pytest.raises(TrainingError, match="days_since_last_order"):
        fit_imputer(np.array([[1.0, np.inf, 0.0]]), NAMES)


@pytest.mark.parametrize(
    ("names", "medians", "flagged"),
    [
        ((), (), ()),
        (("a", "a"), (0.0, 0.0), ()),
        (("a", "b"), (0.0,), ()),
        (("a",), (float("inf"),), ()),
        (("a",), (0.0,), ("b",)),
        (("a",), (0.0,), ("a", "a")),
    ],
)
def test_an_imputer_that_does_not_fit_its_features_is_refused(
    names: tuple[str, ...], medians: tuple[float, ...], flagged: tuple[str, ...]
) -> None:
    with pytest.raises(MalformedModelError):
        Imputer(names, medians, flagged)
