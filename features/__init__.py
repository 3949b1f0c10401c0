"""What we know: events, histories and features, as pure values and functions.

Nothing here reads a clock, a file, a setting or a topic; instants and bytes come in as arguments.
"""

from features.catalogue import STARTER, by_name, by_names
from features.decode import REJECTION_CODES, Identity, Rejection, decode_order, identity_in
from features.define import (
    Count,
    Distinct,
    Feature,
    FeatureDefinitionError,
    FeatureValueError,
    IsNew,
    Max,
    Mean,
    OrderAmount,
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
from features.revisions import MOST_REVISIONS, Arrival, Held, Revision, Revisions

__all__ = [
    "MOST_REVISIONS",
    "REJECTION_CODES",
    "STARTER",
    "Address",
    "Arrival",
    "Card",
    "Count",
    "Distinct",
    "Feature",
    "FeatureDefinitionError",
    "FeatureValueError",
    "Held",
    "History",
    "Identity",
    "IsNew",
    "Item",
    "Max",
    "Mean",
    "Order",
    "OrderAmount",
    "OrderEvent",
    "Outcome",
    "Ratio",
    "Rejection",
    "Revision",
    "Revisions",
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
    "identity_in",
    "microseconds",
    "minutes",
]
