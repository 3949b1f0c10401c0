from typing import Any

import numpy as np
import pytest
from numpy import nan

from models.errors import MalformedModelError
from models.flat import Engine, FlatColumns, FlatLinear, FlatModel, FlatPredictor, FlatTrees
from models.impute import Imputer

ENGINES: tuple[Engine, ...] = ("numba", "numpy")
IMPUTER = Imputer(("amount", "device_is_new"), (10.0, 0.0), flagged=("device_is_new",))


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


def a_forest(**arrays: Any) -> FlatTrees:
    """Two trees: amount <= 100, then device_is_new <= 0.5; and one that asks for the missing flag."""
    parts = {
        "roots": ints(0, 5),
        "feature": ints(0, 0, 1, 0, 0, 2, 0, 0),
        "threshold": floats(100.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0),
        "left": ints(1, -1, 3, -1, -1, 6, -1, -1),
        "right": ints(2, -1, 4, -1, -1, 7, -1, -1),
        "value": floats(0.25, 0.0, 0.5, 0.25, 1.0, 0.25, 0.125, 0.5),
        "bits": np.zeros(0, dtype=np.uint32),
        "base": floats(0.0),
        "combine": "mean",
        "single": True,
    }
    told = parts | arrays
    nodes = len(told["value"])
    plain = {"missing_left": np.zeros(nodes, dtype=np.int32), "category": np.full(nodes, -1, dtype=np.int32)}
    return FlatTrees(**(plain | told))


def a_linear(**arrays: Any) -> FlatLinear:
    parts = {
        "column": ints(0, 1, 2),
        "coefficient": floats(0.25, 2.0, -1.0),
        "typical": floats(10.0, 0.5, 0.0),
        "intercept": floats(-4.5),
    }
    return FlatLinear(**(parts | arrays))


def a_model(predictor: FlatPredictor, imputer: Imputer = IMPUTER) -> FlatModel:
    return FlatModel(
        FlatColumns.of(imputer), predictor, "log_odds" if isinstance(predictor, FlatLinear) else "share"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forest_is_the_mean_of_the_leaves_it_reaches(engine: Engine) -> None:
    walked = a_model(a_forest()).walk(floats(100, 0, 101, 0, 101, 1).reshape(3, 2), engine=engine)
    assert walked.p.tolist() == [(0.0 + 0.125) / 2, (0.25 + 0.125) / 2, (1.0 + 0.125) / 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_attributions_follow_the_path_and_add_up_to_the_score(engine: Engine) -> None:
    walked = a_model(a_forest()).walk(floats(101, 1).reshape(1, 2), engine=engine)
    # amount: 0.25 -> 0.5; device: 0.5 -> 1.0, and its flag 0.25 -> 0.125; halved, for two trees
    assert walked.attributions.tolist() == [[0.125, 0.1875]]
    assert walked.attributions.sum() + 0.25 == walked.p[0]
    assert walked.first.tolist() == [[1, 0, -1, -1, -1]]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_feature_counts_by_its_median_and_by_its_flag(engine: Engine) -> None:
    walked = a_model(a_forest()).walk(floats(nan, nan).reshape(1, 2), engine=engine)
    assert walked.p.tolist() == [(0.0 + 0.5) / 2]
    assert walked.attributions.tolist() == [[-0.125, 0.125]]
    assert walked.first.tolist() == [
        [2 + 1, -1, -1, -1, -1]
    ]  # two features: 3 says that the second is unknown


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forest_compares_in_single_precision_as_scikit_learn_does(engine: Engine) -> None:
    just_above = np.nextafter(100.0, np.inf)
    assert np.float32(just_above) == 100.0
    walked = a_model(a_forest()).walk(floats(just_above, 0).reshape(1, 2), engine=engine)
    assert walked.p.tolist() == [(0.0 + 0.125) / 2]  # it went left


@pytest.mark.parametrize("engine", ENGINES)
def test_a_logistic_regression_adds_coefficient_times_value(engine: Engine) -> None:
    walked = a_model(a_linear()).walk(floats(14, 1, 14, nan).reshape(2, 2), engine=engine)
    # from what is typical: 0.25 * (14 - 10) = 1; 2 * (1 - 0.5) = 1, unknown: 2 * (0 - 0.5) - 1 = -2
    assert walked.attributions.tolist() == [[1.0, 1.0], [1.0, -2.0]]
    assert walked.p.tolist() == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))], abs=1e-15)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_equal_pushes_the_earlier_feature_comes_first(engine: Engine) -> None:
    names = tuple("abcdefgh")
    imputer = Imputer(names, (0.0,) * 8, ())
    same = np.ones(8)
    linear = FlatLinear(ints(*range(8)), same, np.zeros(8), floats(0.0))
    vector = floats(1, 2, 1, 0, -3, 2, 1, 1).reshape(1, 8)
    assert a_model(linear, imputer).walk(vector, engine=engine).first.tolist() == [[1, 5, 0, 2, 6]]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_rounds_away_is_no_reason(engine: Engine) -> None:
    imputer = Imputer(("a", "b"), (0.0, 0.0), ())
    linear = FlatLinear(ints(0, 1), floats(1, 1), floats(0, 0), floats(0))
    walked = a_model(linear, imputer).walk(floats(1e-7, 1e-5).reshape(1, 2), engine=engine)
    assert walked.first.tolist() == [[1, -1, -1, -1, -1]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("predictor", [a_forest(), a_linear()], ids=["forest", "linear"])
def test_an_infinite_value_is_our_mistake_and_is_named(engine: Engine, predictor: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1 of the batch has an infinite value for \['amount'\]"):
        a_model(predictor).walk(floats(1, 1, -np.inf, 0).reshape(2, 2), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_value_beyond_single_precision_goes_right(engine: Engine) -> None:
    walked = a_model(a_forest()).walk(floats(1e300, 0).reshape(1, 2), engine=engine)
    assert walked.p.tolist() == [(0.25 + 0.125) / 2]


def test_a_matrix_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match="rows by 2 features"):
        a_model(a_forest()).walk(np.zeros((1, 3)))


def test_an_empty_batch_has_no_answers() -> None:
    for engine in ENGINES:
        assert a_model(a_forest()).walk(np.zeros((0, 2)), engine=engine).p.tolist() == []


def test_a_forest_of_single_leaves_says_what_they_hold() -> None:
    stumps = a_forest(
        roots=ints(0, 1), feature=ints(0, 0), threshold=floats(0, 0), left=ints(-1, -1), right=ints(-1, -1),
        value=floats(0.25, 0.75),
    )  # fmt: skip
    for engine in ENGINES:
        assert a_model(stumps).walk(np.zeros((1, 2)), engine=engine).p.tolist() == [0.5]


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"left": ints(0, -1, 3, -1, -1, 6, -1, -1)}, "cycle"),
        ({"left": ints(1, -1, 1, -1, -1, 6, -1, -1)}, "cycle"),
        ({"left": ints(99, -1, 3, -1, -1, 6, -1, -1)}, "outside the nodes"),
        ({"left": ints(-7, -1, 3, -1, -1, 6, -1, -1)}, "outside the nodes"),
        ({"right": ints(2**31 - 1, -1, 4, -1, -1, 7, -1, -1)}, "outside the nodes"),
        ({"right": ints(7, -1, 4, -1, -1, 7, -1, -1)}, "another tree"),
        ({"right": ints(3, -1, 4, -1, -1, 7, -1, -1)}, "child of one node"),
        ({"right": ints(2, 3, 4, -1, -1, 7, -1, -1)}, "neither a left nor a right"),
        ({"roots": ints(5, 0)}, "first root"),
        ({"roots": ints(0, 0)}, "rise"),
        ({"roots": ints(0, 8)}, "first root"),
        ({"roots": ints()}, "one number a tree"),
        ({"threshold": floats(nan, 0, 0.5, 0, 0, 0.5, 0, 0)}, "threshold must be a number"),
        ({"threshold": floats(-np.inf, 0, 0.5, 0, 0, 0.5, 0, 0)}, "threshold must be a number"),
        ({"value": floats(0, 0, 0.5, 0.25, 2, 0.25, 0, 0)}, r"value must lie in \[0, 1\]"),
        ({"value": floats(0, 0, 0.5, nan, 1, 0.25, 0, 0)}, r"value must lie in \[0, 1\]"),
        ({"value": floats(0, 0, 0.5)}, "one number a node"),
        ({"value": np.zeros((8, 1))}, "one number a node"),
        ({"value": [0.5]}, "value must be float64"),
        ({"missing_left": ints(2, 0, 0, 0, 0, 0, 0, 0)}, "missing_left must be 0 or 1"),
        ({"category": ints(0, -1, -1, -1, -1, -1, -1, -1)}, "lie outside the bits"),
        ({"bits": np.zeros(7, dtype=np.uint32)}, "8 words a split"),
        ({"base": floats(np.inf)}, "base must be one finite number"),
        ({"combine": "median"}, "no such way"),
        ({"combine": "single_sum", "value": floats(0, 0, 0, 0, 0, 0, 1e38, 0)}, "fit into float32"),
        ({"feature": np.zeros(8, dtype=np.int64)}, "feature must be int32"),
    ],
)
def test_arrays_that_are_no_forest_are_refused(arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedModelError, match=why):
        a_forest(**arrays)


@pytest.mark.parametrize("column", [3, -1, 2**31 - 1])
def test_a_split_on_a_column_that_is_not_there_is_refused(column: int) -> None:
    with pytest.raises(MalformedModelError, match="outside the 3 there are"):
        a_model(a_forest(feature=ints(column, 0, 1, 0, 0, 2, 0, 0)))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"typical": floats(1, 1)}, "differ in length"),
        ({"coefficient": floats(nan, 1, 1)}, "coefficient must be finite"),
        ({"intercept": floats(0, 1)}, "intercept must be one number"),
        ({"column": ints(), "typical": floats(), "coefficient": floats()}, "one number a coefficient"),
    ],
)
def test_arrays_that_are_no_logistic_regression_are_refused(arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedModelError, match=why):
        a_linear(**arrays)


def test_a_logistic_regression_for_other_columns_is_refused() -> None:
    with pytest.raises(MalformedModelError, match="a column outside the 1 there are"):
        a_model(a_linear(), Imputer(("a",), (0.0,), ()))


def test_a_model_in_service_cannot_be_changed_from_outside() -> None:
    mine = floats(0.25, 0.0, 0.5, 0.25, 1.0, 0.25, 0.125, 0.5)
    forest = a_forest(value=mine)
    mine[:] = 1.0
    assert forest.value[1] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        forest.value[0] = 1.0
