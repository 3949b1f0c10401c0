"""The rows and the grammar agree with a list and a for loop, bit for bit."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import STARTER
from features.define import compute
from features.events import Order
from features.history import Row
from tests.parity.naive import naive_features
from tests.strategies import NOON, an_order, histories, orders

NAMES = [each.name for each in STARTER]


def through_the_row(arrived: list[Order], order: Order, limit: int) -> dict[str, float | None]:
    """Features the way a worker has them: the row goes through its bytes between any two orders."""
    data = Row(limit).encode()
    for past in arrived:
        row = Row.decode(data, limit)
        row.remember(past)
        data = row.encode()
    return dict(
        zip(
            NAMES,
            compute(STARTER, order, {"customer": Row.decode(data, limit).as_of(order.placed_at)}),
            strict=True,
        )
    )


def bits(features: dict[str, float | None]) -> dict[str, str | None]:
    """What tells 0.0 from -0.0 and one float from the next."""
    return {name: None if value is None else value.hex() for name, value in features.items()}


def expected(arrived: list[Order], order: Order, limit: int) -> dict[str, float | None]:
    naive = naive_features(arrived, order, limit)
    return {name: naive[name] for name in NAMES}


@given(
    arrived=histories(), order=orders(currencies=st.sampled_from(("EUR", "JPY"))), limit=st.integers(1, 14)
)
def test_any_order_after_any_history_has_the_features_the_naive_oracle_says(
    arrived: list[Order], order: Order, limit: int
) -> None:
    assert bits(through_the_row(arrived, order, limit)) == bits(expected(arrived, order, limit))


@given(arrived=histories(max_size=8), limit=st.integers(1, 10))
def test_live_and_replay_of_one_customer_agree_at_every_order(arrived: list[Order], limit: int) -> None:
    row = Row(limit)
    for position, order in enumerate(arrived):
        live = dict(
            zip(NAMES, compute(STARTER, order, {"customer": row.as_of(order.placed_at)}), strict=True)
        )
        row.remember(order)  # after recall: an order is not part of its own past

        assert bits(live) == bits(expected(arrived[:position], order, limit))


def test_a_window_begins_at_its_exact_instant_and_ends_before_the_order() -> None:
    tick = timedelta(microseconds=1)
    arrived = [
        an_order(order_id=f"o{number}", placed_at=moment, amount=10**number)
        for number, moment in enumerate(
            [NOON - timedelta(days=30) - tick, NOON - timedelta(days=30), NOON - tick, NOON, NOON + tick]
        )
    ]

    found = through_the_row(arrived, an_order(order_id="scored", amount=55), 125)

    assert found["orders_count_30d"] == 2
    assert found["amount_mean_30d"] == 0.55
    assert found["amount_over_amount_mean_30d"] == 1.0
    assert bits(found) == bits(expected(arrived, an_order(order_id="scored", amount=55), 125))


def test_no_float_is_lost_in_sums_of_the_largest_amounts() -> None:
    arrived = [
        an_order(
            order_id=f"o{number}", placed_at=NOON - timedelta(minutes=number + 1), amount=10**12 - number % 3
        )
        for number in range(125)
    ]

    assert bits(through_the_row(arrived, an_order(), 125)) == bits(expected(arrived, an_order(), 125))
