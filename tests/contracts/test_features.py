"""What every feature of the catalogue keeps to, without being asked."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalogue import STARTER
from features.define import Feature, compute, features_digest
from features.events import Order
from features.history import Row
from tests.strategies import NOON, an_order, histories, orders

every_feature = pytest.mark.parametrize("feature", STARTER, ids=lambda each: each.name)
# a few each: what is subtle is tried harder, for all features at once, by tests/parity
a_few = settings(max_examples=12)
scored = orders(currencies=st.sampled_from(("EUR", "JPY")))


def a_row_of(arrived: list[Order], limit: int = 125) -> Row:
    row = Row(limit)
    for order in arrived:
        row.remember(order)
    return row


@every_feature
def test_it_is_named_and_documented(feature: Feature) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", feature.name)
    assert re.fullmatch(r"[A-Z0-9a-z].{10,200}\.", feature.doc)
    assert feature.missing
    assert feature.declaration


@every_feature
def test_it_has_a_unit_and_bounds(feature: Feature) -> None:
    low, high = feature.between

    assert feature.unit
    assert high is None or low < high


@every_feature
@a_few
@given(arrived=histories(max_size=6), order=scored)
def test_it_is_finite_and_within_its_bounds_or_missing(
    feature: Feature, arrived: list[Order], order: Order
) -> None:
    value = feature.value(order, a_row_of(arrived).as_of(order.placed_at))

    low, high = feature.between
    if value is not None:
        assert type(value) is float
        assert math.isfinite(value)
        assert low <= value <= (math.inf if high is None else high)
    elif feature.missing == "never":
        pytest.fail(f"{feature.name} is never missing, and was")


@every_feature
@a_few
@given(arrived=histories(max_size=8), order=scored)
def test_it_cannot_see_the_present_nor_the_future(
    feature: Feature, arrived: list[Order], order: Order
) -> None:
    past = [one for one in arrived if one.placed_at < order.placed_at]

    with_future = feature.value(order, a_row_of(arrived).as_of(order.placed_at))
    without = feature.value(order, a_row_of(past).as_of(order.placed_at))

    assert with_future == without


@every_feature
@a_few
@given(data=st.data(), arrived=histories(max_size=8), order=scored, limit=st.integers(1, 9))
def test_it_does_not_depend_on_the_order_of_arrival(
    feature: Feature, data: st.DataObject, arrived: list[Order], order: Order, limit: int
) -> None:
    # orders of one instant stay as they arrived, and only a full row can tell
    distinct = list({one.placed_at: one for one in arrived}.values())
    otherwise = data.draw(st.permutations(distinct))

    assert feature.value(order, a_row_of(distinct, limit).as_of(order.placed_at)) == feature.value(
        order, a_row_of(otherwise, limit).as_of(order.placed_at)
    )


@every_feature
@a_few
@given(arrived=histories(max_size=6), order=scored)
def test_it_is_the_same_from_a_row_that_went_through_its_bytes(
    feature: Feature, arrived: list[Order], order: Order
) -> None:
    row = a_row_of(arrived)
    again = Row.decode(row.encode(), 125)

    assert feature.value(order, row.as_of(order.placed_at)) == feature.value(
        order, again.as_of(order.placed_at)
    )


@every_feature
@a_few
@given(arrived=histories(max_size=6), order=scored)
def test_it_answers_the_same_twice_and_changes_nothing(
    feature: Feature, arrived: list[Order], order: Order
) -> None:
    row = a_row_of(arrived)
    before, as_sent = row.encode(), order.model_dump_json()

    first = feature.value(order, row.as_of(order.placed_at))
    second = feature.value(order, row.as_of(order.placed_at))

    assert first == second
    assert row.encode() == before
    assert order.model_dump_json() == as_sent


@every_feature
def test_it_answers_or_is_missing_on_an_empty_history_and_for_a_guest(feature: Feature) -> None:
    assert isinstance(feature.value(an_order(), Row(1).as_of(NOON)), float | None)
    assert isinstance(feature.value(an_order(customer_id=None), None), float | None)


@every_feature
@a_few
@given(order=scored)
def test_it_is_the_same_of_an_order_that_went_through_json(feature: Feature, order: Order) -> None:
    again = Order.model_validate_json(order.model_dump_json())

    assert feature.value(order, None) == feature.value(again, None)


@every_feature
def test_its_declaration_is_its_own(feature: Feature) -> None:
    assert [each for each in STARTER if features_digest([each]) == features_digest([feature])] == [feature]


@given(arrived=histories(max_size=6), order=scored, data=st.data())
def test_a_vector_does_not_depend_on_its_neighbours(
    arrived: list[Order], order: Order, data: st.DataObject
) -> None:
    row = a_row_of(arrived)
    shuffled = data.draw(st.permutations(STARTER))

    values = dict(
        zip(STARTER, compute(STARTER, order, {"customer": row.as_of(order.placed_at)}), strict=True)
    )
    again = compute(shuffled, order, {"customer": row.as_of(order.placed_at)})

    assert again == tuple(values[each] for each in shuffled)
