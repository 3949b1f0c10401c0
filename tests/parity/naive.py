"""The naive oracle: a list of orders and a for loop, without rows, columns, windows' bounds or sums kept."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction

from features.events import Order
from features.money import in_major_units

DAY = timedelta(days=1)


def naive_features(
    arrived: Iterable[Order], order: Order, limit: int, as_of: datetime | None = None
) -> dict[str, float | None]:
    """Every starter feature of an order, after these orders of its customer arrived in this order."""
    as_of = order.placed_at if as_of is None else as_of
    remembered = sorted(arrived, key=lambda past: past.placed_at)  # stable: equal times stay as they arrived
    first_at = remembered[0].placed_at if remembered else as_of
    past = [one for one in remembered[-limit:] if one.placed_at < as_of]
    found: dict[str, float | None] = _of_the_order(order)
    for name, window in {"1h": timedelta(hours=1), "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}.items():
        inside = [one for one in past if one.placed_at >= as_of - window]
        amounts = [_money(one) for one in inside if one.currency == order.currency]
        mean = sum(amounts, Fraction()) / len(amounts) if amounts else None
        found[f"orders_count_{name}"] = float(len(inside))
        found[f"amount_sum_{name}"] = float(sum(amounts))
        found[f"amount_mean_{name}"] = None if mean is None else float(mean)
        found[f"amount_max_{name}"] = float(max(amounts)) if amounts else None
        found[f"amount_over_amount_mean_{name}"] = float(_money(order) / mean) if mean else None
        found[f"device_distinct_{name}"] = float(len({one.device_id for one in inside} - {None}))
        found[f"card_distinct_{name}"] = float(len({_card(one) for one in inside} - {None}))
    found["days_since_last_order"] = (as_of - past[-1].placed_at) / DAY if past else None
    found["days_since_first_order"] = (as_of - first_at) / DAY if first_at < as_of else None
    for name, what in {
        "device": lambda one: one.device_id,
        "card": _card,
        "shipping_address": _address,
    }.items():
        known = [what(one) for one in past]
        found[f"{name}_is_new"] = None if what(order) is None else float(what(order) not in known)
    return found


def _of_the_order(order: Order) -> dict[str, float | None]:
    pieces = [item.digital for item in order.items for _ in range(item.quantity)]
    age = None if order.account_created_at is None else (order.placed_at - order.account_created_at) / DAY
    issued_in = order.card.issuer_country if order.card else None
    ships_to = order.shipping.country if order.shipping else None
    billed_to = order.billing.country if order.billing else None
    return {
        "amount": float(_money(order)),
        "hour_of_day": float(order.placed_at.hour),
        "is_weekend": float(order.placed_at.strftime("%a") in {"Sat", "Sun"}),
        "items_count": float(len(pieces)) if pieces else None,
        "digital_share": pieces.count(True) / len(pieces) if pieces else None,
        "payment_attempts": None if order.payment_attempts is None else float(order.payment_attempts),
        "account_age_days": age if age is not None and age >= 0 else None,
        "issuer_country_differs": float(issued_in != order.country) if issued_in and order.country else None,
        "shipping_country_differs": float(ships_to != billed_to) if ships_to and billed_to else None,
    }


def _money(order: Order) -> Fraction:
    return Fraction(in_major_units(order.amount, order.currency))


def _card(order: Order) -> str | None:
    return order.card.fingerprint if order.card else None


def _address(order: Order) -> str | None:
    return order.shipping.hash if order.shipping else None
