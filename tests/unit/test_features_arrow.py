"""Past orders as a table, for a notebook."""

import doctest
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

import features.arrow
from features import Category, Count, Distinct, LeftOut, Order, days, table
from features.catalogue import CATALOGUE
from features.errors import FeatureDefinitionError
from tests.strategies import NOON, an_order

COUNT = Count(over=days(30))
COUNTRY = Category("country", ("DE", "FR"))


def at(hour: int, **fields: Any) -> Order:
    return an_order(**{"order_id": f"o{hour}", "placed_at": NOON + timedelta(hours=hour)} | fields)


def test_the_example_of_the_table_is_so() -> None:
    found = doctest.testmod(features.arrow)

    assert found.attempted
    assert not found.failed


def test_a_missing_value_is_null_and_not_zero() -> None:
    found = table([COUNT], [at(0), at(1, customer_id=None)])

    assert found["orders_count_30d"].to_pylist() == [0.0, None]
    assert found["customer_id"].to_pylist() == ["c1", None]
    assert found["placed_at"].to_pylist() == [NOON, NOON + timedelta(hours=1)]


def test_a_category_is_a_column_of_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.arrow._ROWS_AT_ONCE", 2)
    orders = [at(hour, country=country) for hour, country in enumerate(["FR", None, "US", "DE", "FR"])]

    column = table([COUNTRY], orders)["country_category"]

    assert column.to_pylist() == ["FR", None, "other", "DE", "FR"]
    assert [chunk.indices.to_pylist() for chunk in column.chunks] == [[1, None], [2, 0], [1]]


def test_all_events_make_history_and_only_those_asked_for_get_a_row() -> None:
    found = table([COUNT], [at(0), at(1), at(2)], only=["o2"])

    assert found.select(["order_id", "orders_count_30d"]).to_pylist() == [
        {"order_id": "o2", "orders_count_30d": 2.0}
    ]


def test_orders_without_a_row_that_came_before_are_counted() -> None:
    left_out: Counter[LeftOut] = Counter()

    assert len(table([COUNT], [at(0), at(0)], left_out=left_out)) == 1
    assert left_out == {"repeated": 1}


def test_features_of_any_entity_stand_in_one_table() -> None:
    found = table(CATALOGUE, [at(0, device_id="d1"), at(1, device_id="d1", customer_id="c2")])

    assert len(found.column_names) == len(CATALOGUE) + 4
    assert found["by_device_customer_distinct_30d"].to_pylist() == [0.0, 1.0]


def test_without_an_order_the_table_is_empty_and_has_its_columns() -> None:
    assert table([COUNT, COUNTRY], []).num_rows == 0
    assert table([COUNT, COUNTRY], []).schema == table([COUNT, COUNTRY], [at(0)]).schema


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match="'device_distinct_30d' would be the name of two"):
        table([Distinct("device", over=days(30)), Distinct("device", over=days(30))], [])


def test_with_pandas_the_table_is_a_frame_with_nan_for_missing() -> None:
    pytest.importorskip("pandas")

    frame = table([COUNT, COUNTRY], [at(0, country="FR"), at(1, customer_id=None)]).to_pandas()

    assert frame["orders_count_30d"].isna().tolist() == [False, True]
    assert frame["country_category"].cat.categories.tolist() == ["DE", "FR", "other"]


def test_one_text_is_not_taken_for_the_ids_of_its_letters() -> None:
    with pytest.raises(TypeError, match=r"takes the ids of orders, such as \['o1'\]"):
        table([COUNT], [at(1)], only="o1")
