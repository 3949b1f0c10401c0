"""What we know: events, histories and features, as pure values and functions.

Nothing here reads a clock, a file, a setting or a topic; instants and bytes come in as arguments.
"""

from features.catalogue import STARTER, by_name, by_names
from features.decode import REJECTION_CODES, Rejection, decode_order
from features.define import (
    Count,
    Distinct,
    Feature,
    FeatureDefinitionError,
    FeatureValueError,
    IsNew,
    Max,
    Mean,
    Ratio,
    SinceFirst,
    SinceLast,
    Sum,
    compute,
    days,
    feature,
    features_digest,
    hours,
    minutes,
)
from features.events import Address, Card, Item, Order, OrderEvent, Outcome, contracts, microseconds
from features.history import History, Row, RowBytesError, RowVersionError, StaleHistoryError

__all__ = [
    "REJECTION_CODES",
    "STARTER",
    "Address",
    "Card",
    "Count",
    "Distinct",
    "Feature",
    "FeatureDefinitionError",
    "FeatureValueError",
    "History",
    "IsNew",
    "Item",
    "Max",
    "Mean",
    "Order",
    "OrderEvent",
    "Outcome",
    "Ratio",
    "Rejection",
    "Row",
    "RowBytesError",
    "RowVersionError",
    "SinceFirst",
    "SinceLast",
    "StaleHistoryError",
    "Sum",
    "by_name",
    "by_names",
    "compute",
    "contracts",
    "days",
    "decode_order",
    "feature",
    "features_digest",
    "hours",
    "microseconds",
    "minutes",
]
