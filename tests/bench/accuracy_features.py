"""What the benches' data sets say of an order beside the catalogue, declared as a shop's own features are."""

from features import Order, feature


@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_night(order: Order) -> float:
    """1 when the order was placed before seven in the morning in UTC, else 0."""
    return order.placed_at.hour <= 6


@feature(unit="minor units of whatever currency", between=(0, None), missing="never")
def minor_units(order: Order) -> float:
    """The order's total as it is written: where the amounts were drawn whatever the currency."""
    return order.amount


@feature(unit="degrees north", between=(-90, 90), missing="the place is not known")
def latitude(order: Order) -> float | None:
    """How far north the order is billed."""
    return None if order.billing is None else order.billing.latitude


@feature(unit="degrees east", between=(-180, 180), missing="the place is not known")
def longitude(order: Order) -> float | None:
    """How far east the order is billed."""
    return None if order.billing is None else order.billing.longitude


FEATURES = (is_night, minor_units, latitude, longitude)
