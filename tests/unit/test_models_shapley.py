"""Exact Shapley values, held against the sum over all orders in which features could be replaced."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from models.fit import Rows
from models.flat import FlatModel
from models.learn import learn
from models.shapley import mean_shapley, shapley
from tests.small_models import ALL_KINDS, FEATURES, a_risk, some_rows

KINDS = [
    "logistic",
    "tree, missing",
    "forest",
    "forest, hashed",
    "histogram, encoded",
    "isolation",
    "boosting",
]
ROWS = some_rows(400)


def a_model(kind: str) -> FlatModel:
    return learn(a_risk(**ALL_KINDS[kind]), Rows(ROWS.matrix, ROWS.labels, ROWS.amounts), threads=1).model


def by_definition(model: FlatModel, row: Any, other: Any) -> Any:
    """What each feature adds, in the mean of all orders in which the others' values are replaced."""
    features = range(len(row))
    raw: dict[frozenset[int], float] = {}

    def of(ours: frozenset[int]) -> float:
        if ours not in raw:
            mixed = np.array([row[at] if at in ours else other[at] for at in features])
            raw[ours] = float(model.raw(mixed[np.newaxis], engine="numpy")[0])
        return raw[ours]

    values = np.zeros(len(row))
    every = list(permutations(features))
    for order in every:
        ours: frozenset[int] = frozenset()
        for feature in order:
            values[feature] += of(ours | {feature}) - of(ours)
            ours |= {feature}
    return values / len(every)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_what_shapley_defined(kind: str) -> None:
    model = a_model(kind)
    assert len(FEATURES) == 7
    row, others = ROWS.matrix[0], ROWS.matrix[5:8]

    values = shapley(model, row, others)

    expected = np.mean([by_definition(model, row, other) for other in others], axis=0)
    assert values == pytest.approx(expected, abs=1e-9)
    assert np.abs(values).max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_values_add_up_to_what_the_order_is_away_from_the_others(kind: str) -> None:
    model = a_model(kind)
    row, others = ROWS.matrix[1], ROWS.matrix[10:40]

    away = model.raw(row[np.newaxis])[0] - model.raw(others).mean()

    assert shapley(model, row, others).sum() == pytest.approx(away, abs=1e-9)


@pytest.mark.parametrize(("kind", "told"), [("forest", 12), ("logistic", 12)])
def test_a_mean_is_of_the_size_of_the_values(kind: str, told: int) -> None:
    model = a_model(kind)
    rows, others = ROWS.matrix[:told], ROWS.matrix[20:25]

    found = mean_shapley(model, rows, others)

    each = [np.abs(shapley(model, row, others)) for row in rows]
    assert found == pytest.approx(np.sum(each, axis=0) / told, abs=1e-12)
    assert found.shape == (len(FEATURES),)
    with pytest.raises(ValueError, match="got 0 and 5"):
        mean_shapley(model, rows[:0], others)


def test_of_a_large_forest_the_first_orders_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.shapley._NODES", 1)
    model = a_model("forest")

    found = mean_shapley(model, ROWS.matrix[:30], ROWS.matrix[40:43])

    assert found.tolist() == mean_shapley(model, ROWS.matrix[:10], ROWS.matrix[40:43]).tolist()
