"""Each starter feature on the order it is meant for."""

from datetime import UTC, datetime, timedelta

import pytest

from features.catalogue import STARTER, by_name
from features.events import Address, Card, Item, Order
from features.history import Row
from tests.strategies import NOON, an_order


def value(name: str, order: Order, *past: Order) -> float | None:
    row = Row(125)
    for one in past:
        row.remember(one)
    return by_name(name).value(order, row.as_of(order.placed_at))


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("amount", an_order(amount=0), 0.0),
        ("amount", an_order(amount=7581), 75.81),
        ("amount", an_order(amount=7581, currency="JPY"), 7581.0),
        ("amount", an_order(amount=7581, currency="KWD"), 7.581),
        ("hour_of_day", an_order(placed_at=datetime(2024, 5, 1, 23, 59, tzinfo=UTC)), 23.0),
        ("is_weekend", an_order(placed_at=datetime(2024, 5, 3, 23, 59, 59, tzinfo=UTC)), 0.0),
        ("is_weekend", an_order(placed_at=datetime(2024, 5, 4, tzinfo=UTC)), 1.0),
        ("items_count", an_order(items=(Item(quantity=3), Item())), 4.0),
        ("items_count", an_order(), None),
        ("digital_share", an_order(items=(Item(quantity=3), Item(digital=True))), 0.25),
        ("digital_share", an_order(items=(Item(),)), 0.0),
        ("digital_share", an_order(), None),
        ("payment_attempts", an_order(payment_attempts=0), 0.0),
        ("payment_attempts", an_order(), None),
        ("account_age_days", an_order(account_created_at=NOON - timedelta(hours=36)), 1.5),
        ("account_age_days", an_order(account_created_at=NOON), 0.0),
        ("account_age_days", an_order(account_created_at=NOON + timedelta(seconds=1)), None),
        ("account_age_days", an_order(), None),
        ("issuer_country_differs", an_order(country="DE", card=Card(issuer_country="FR")), 1.0),
        ("issuer_country_differs", an_order(country="DE", card=Card(issuer_country="DE")), 0.0),
        ("issuer_country_differs", an_order(card=Card(issuer_country="DE")), None),
        ("issuer_country_differs", an_order(country="DE", card=Card()), None),
        (
            "shipping_country_differs",
            an_order(billing=Address(country="DE"), shipping=Address(country="FR")),
            1.0,
        ),
        (
            "shipping_country_differs",
            an_order(billing=Address(country="DE"), shipping=Address(country="DE")),
            0.0,
        ),
        ("shipping_country_differs", an_order(billing=Address(country="DE")), None),
        ("shipping_country_differs", an_order(billing=Address(country="DE"), shipping=Address()), None),
        ("device_is_new", an_order(device_id="phone"), 1.0),
        ("device_is_new", an_order(), None),
        ("shipping_address_is_new", an_order(shipping=Address(city="Berlin")), None),
        ("days_since_last_order", an_order(), None),
        ("amount_mean_30d", an_order(), None),
        ("amount_sum_1d", an_order(), 0.0),
    ],
)
def test_a_first_order_has(name: str, order: Order, expected: float | None) -> None:
    assert value(name, order) == expected


PAST = (
    an_order(
        order_id="a",
        placed_at=NOON - timedelta(days=29),
        amount=300,
        device_id="phone",
        card=Card(fingerprint="v"),
    ),
    an_order(
        order_id="b",
        placed_at=NOON - timedelta(days=6),
        amount=600,
        device_id="laptop",
        card=Card(fingerprint="v"),
    ),
    an_order(order_id="c", placed_at=NOON - timedelta(minutes=30), amount=900, shipping=Address(hash="home")),
    an_order(order_id="old", placed_at=NOON - timedelta(days=300), amount=9999, device_id="desktop"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders_count_1h", 1.0),
        ("orders_count_1d", 1.0),
        ("orders_count_7d", 2.0),
        ("orders_count_30d", 3.0),
        ("amount_sum_1d", 9.0),
        ("amount_mean_7d", 7.5),
        ("amount_mean_30d", 6.0),
        ("amount_max_30d", 9.0),
        ("days_since_last_order", 30 / 1440),
        ("days_since_first_order", 300.0),
        ("device_distinct_30d", 2.0),
        ("card_distinct_30d", 1.0),
        ("device_is_new", 0.0),
        ("card_is_new", 1.0),
        ("shipping_address_is_new", 0.0),
        ("amount_over_amount_mean_30d", 2.0),
    ],
)
def test_a_returning_customers_order_has(name: str, expected: float) -> None:
    order = an_order(
        amount=1200, device_id="desktop", card=Card(fingerprint="m"), shipping=Address(hash="home")
    )

    assert value(name, order, *PAST) == expected


def test_no_two_features_share_a_name() -> None:
    assert len({each.name for each in STARTER}) == len(STARTER)
