"""Laws of events and rows, whatever the orders."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from features.columns import inserted, packed, parted, word
from features.decode import decode_order
from features.events import Order
from features.history import Row
from features.questions import span
from features.remembered import VALUES, fingerprint
from tests.strategies import histories, orders

limits = st.integers(1, 14)


def a_row_of(arrived: list[Order], limit: int) -> Row:
    row = Row(limit)
    for order in arrived:
        row.remember(order)
    return row


@given(arrived=histories(), limit=limits)
def test_a_row_comes_back_from_its_bytes(arrived: list[Order], limit: int) -> None:
    row = a_row_of(arrived, limit)

    assert Row.decode(row.encode(), limit).encode() == row.encode()


@given(order=orders())
def test_an_order_comes_back_from_its_json(order: Order) -> None:
    value = order.model_dump_json().encode()

    assert (
        decode_order(value, key=order.key.encode(), arrived_at=None, ahead_by_at_most=timedelta(minutes=5))
        == order
    )


@given(order=orders(), other=orders())
def test_orders_share_a_digest_when_they_say_the_same_and_only_then(order: Order, other: Order) -> None:
    again = Order.model_validate_json(order.model_dump_json())

    assert again.content_digest == order.content_digest
    # not the other way round: True == 1 == 1.0 in Python, and a shop that sends them says three things
    assert order == other or order.content_digest != other.content_digest


@given(arrived=histories(), data=st.data())
def test_up_to_the_limit_remembering_in_any_order_makes_the_same_row(
    arrived: list[Order], data: st.DataObject
) -> None:
    distinct = list({order.placed_at: order for order in arrived}.values())
    otherwise = data.draw(st.permutations(distinct))

    assert a_row_of(otherwise, 125) == a_row_of(distinct, 125)


@given(arrived=histories(), limit=limits)
def test_remembering_through_bytes_is_remembering(arrived: list[Order], limit: int) -> None:
    row = Row(limit)
    for order in arrived:
        row = Row.decode(row.encode(), limit)
        row.remember(order)

    assert row == a_row_of(arrived, limit)


@given(order=orders(customer_ids=st.just("c1")))
def test_a_history_has_seen_of_an_order_just_what_is_to_be_remembered(order: Order) -> None:
    row = a_row_of([order], 1)
    history = row.as_of(order.placed_at + timedelta(seconds=1))

    for name, read in VALUES.items():
        text = read(order)
        assert history.distinct(name, span(timedelta(days=1))) == (text is not None)
        assert text is None or history.has_seen(name, fingerprint(text))


@given(arrived=histories(), limit=limits, in_time=st.booleans(), data=st.data())
def test_a_row_made_longer_is_the_row_made_anew(
    arrived: list[Order], limit: int, in_time: bool, data: st.DataObject
) -> None:
    if in_time:
        arrived.sort(key=lambda order: order.placed_at)
    row = Row(limit)
    for order in arrived:
        row.remember(order)
        if data.draw(st.booleans()):
            row = Row.decode(row.encode(), limit)
        if data.draw(st.booleans()):
            row.as_of(order.placed_at)

    anew = Row(limit)
    for order in arrived:
        anew.remember(order)
        anew.as_of(order.placed_at)
    assert row.encode() == anew.encode()
    assert (len(row), row.folded, row.first_at) == (len(anew), anew.folded, anew.first_at)


@given(arrived=histories(), data=st.data())
def test_forgetting_undoes_remembering(arrived: list[Order], data: st.DataObject) -> None:
    kept = [order for order in arrived if data.draw(st.booleans())]
    row = a_row_of(arrived, 125)
    for order in arrived:
        if order not in kept:
            assert row.forget(order.order_id, order.placed_at)

    assert row == a_row_of(kept, 125)


@given(
    # on either side of the numbers of codes at which a code takes another byte
    several=st.sampled_from(
        [(), tuple(range(-3, 251)), tuple(range(253)), tuple(range(255)), tuple(range(300))]
    ),
    few=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    data=st.data(),
)
def test_a_column_with_an_order_inserted_is_that_of_all_its_values(
    several: range, few: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(few)))
    values = [*few[:cut], *several, *few[cut:]]
    where = data.draw(st.one_of(st.integers(0, len(values)), st.integers(0, min(len(few), cut + 1))))
    value = data.draw(st.one_of(st.integers(-2, 5), st.integers(-10, 310)))
    column, told = packed(values), word(value)

    if not isinstance(column, bytes):
        column = inserted(column, len(values), where, told)
    elif column != told:
        column = parted(column, len(values), where, told)

    assert column == packed([*values[:where], value, *values[where:]])


@given(arrived=histories(), limit=limits)
def test_every_order_is_held_or_counted_as_folded(arrived: list[Order], limit: int) -> None:
    row = a_row_of(arrived, limit)

    assert len(row) + row.folded == len(arrived)
    assert len(row) == min(len(arrived), limit)
    assert row.first_at == a_row_of(arrived, 125).first_at
