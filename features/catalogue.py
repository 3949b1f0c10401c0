"""Every feature the scorer knows, grouped by what it looks at. A new one is one line here."""

from collections.abc import Iterable

from features.aggregates import (
    Count,
    Distinct,
    IsNew,
    Max,
    Mean,
    OrderAmount,
    Ratio,
    SinceFirst,
    SinceLast,
    Sum,
)
from features.define import Feature, days, feature, hours
from features.errors import FeatureDefinitionError, did_you_mean
from features.events import Order, microseconds

__all__ = ["BASKET", "COMPARED", "CUSTOMER_HISTORY", "STARTER", "by_name", "by_names"]

_SATURDAY = 5


amount = OrderAmount()


@feature(unit="hour of the day in UTC", between=(0, 23), missing="never")
def hour_of_day(order: Order) -> float:
    """The hour the order was placed in."""
    return order.placed_at.hour


@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_weekend(order: Order) -> float:
    """1 when the order was placed on a Saturday or Sunday in UTC, else 0."""
    return order.placed_at.weekday() >= _SATURDAY


@feature(unit="pieces", between=(0, None), missing="the order lists no items")
def items_count(order: Order) -> float | None:
    """Pieces in the basket, quantities counted."""
    return sum(item.quantity for item in order.items) if order.items else None


@feature(unit="share", between=(0, 1), missing="the order lists no items")
def digital_share(order: Order) -> float | None:
    """Share of the basket's pieces that are digital and delivered at once."""
    if not order.items:
        return None
    pieces = sum(item.quantity for item in order.items)
    return sum(item.quantity for item in order.items if item.digital) / pieces


@feature(unit="tries", between=(0, None), missing="the shop does not say")
def payment_attempts(order: Order) -> float | None:
    """How often payment was tried for this order."""
    return order.payment_attempts


@feature(unit="days", between=(0, None), missing="not said, a guest, or dated after the order")
def account_age_days(order: Order) -> float | None:
    """Days from the account's creation to the order."""
    if order.account_created_at is None:
        return None
    age = microseconds(order.placed_at) - microseconds(order.account_created_at)
    return age / 86_400_000_000 if age >= 0 else None


@feature(unit="0 or 1", between=(0, 1), missing="the card's or the order's country is not known")
def issuer_country_differs(order: Order) -> float | None:
    """1 when the card was issued in another country than the order was placed in, else 0."""
    if order.card is None or order.card.issuer_country is None or order.country is None:
        return None
    return order.card.issuer_country != order.country


@feature(unit="0 or 1", between=(0, 1), missing="the shipping or the billing country is not known")
def shipping_country_differs(order: Order) -> float | None:
    """1 when the order ships to another country than it is billed to, else 0."""
    if order.shipping is None or order.billing is None:
        return None
    if order.shipping.country is None or order.billing.country is None:
        return None
    return order.shipping.country != order.billing.country


BASKET: tuple[Feature, ...] = (
    amount,
    hour_of_day,
    is_weekend,
    items_count,
    digital_share,
    payment_attempts,
    account_age_days,
    issuer_country_differs,
    shipping_country_differs,
)
"""What the order says itself."""

CUSTOMER_HISTORY: tuple[Feature, ...] = (
    Count(over=hours(1)),  # orders_count_1h
    Count(over=days(1)),
    Count(over=days(7)),
    Count(over=days(30)),
    Sum("amount", over=days(1)),  # amount_sum_1d
    Mean("amount", over=days(7)),  # amount_mean_7d
    Mean("amount", over=days(30)),
    Max("amount", over=days(30)),  # amount_max_30d
    SinceLast(),  # days_since_last_order
    SinceFirst(),  # days_since_first_order
    Distinct("device", over=days(30)),  # device_distinct_30d
    Distinct("card", over=days(30)),
    IsNew("device"),  # device_is_new
    IsNew("card"),
    IsNew("shipping_address"),
)
"""What the customer did before."""

COMPARED: tuple[Feature, ...] = (
    Ratio(amount, to=Mean("amount", over=days(30))),  # amount_over_amount_mean_30d
)
"""How the order compares with what the customer did before."""

STARTER: tuple[Feature, ...] = BASKET + CUSTOMER_HISTORY + COMPARED
"""The features the first models are trained on."""

_BY_NAME = {each.name: each for each in STARTER}


def by_name(name: str) -> Feature:
    """The feature of this name; an unknown one is refused with the nearest that exists."""
    try:
        return _BY_NAME[name]
    except KeyError:
        message = f"there is no feature {name!r}{did_you_mean(name, _BY_NAME)}"
        raise FeatureDefinitionError(message) from None


def by_names(names: Iterable[str]) -> tuple[Feature, ...]:
    """The features of these names, in their order, as a trained model lists them."""
    return tuple(by_name(name) for name in names)
