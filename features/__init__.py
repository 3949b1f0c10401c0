"""What we know: events, histories and features, as pure values and functions.

Nothing here reads a clock, a file, a setting or a topic; instants and bytes come in as arguments.
"""

from features.aggregates import (
    Category,
    Count,
    Distance,
    Distinct,
    IsNew,
    Max,
    Mean,
    Min,
    OrderAmount,
    Ratio,
    Share,
    SinceFirst,
    SinceLast,
    Speed,
    Std,
    Sum,
    Trend,
    ZScore,
)
from features.arrow import table
from features.catalogue import CATALOGUE, GROUPS, SERVED, STARTER, Catalogue, amounts_in, by_name, by_names
from features.conditions import as_large, at_least, below, is_in, near_hour, other, same, was
from features.decode import REJECTION_CODES, Identity, Rejection, decode_order, identity_in, read_order
from features.define import Feature, compute, days, feature, features_digest, hours, minutes, weeks, years
from features.errors import FeatureDefinitionError, FeatureValueError
from features.events import Address, Card, Item, Order, OrderEvent, Outcome, contracts, microseconds
from features.facts import FACTS, Fact, fact_of
from features.history import History, Row, RowBytesError, RowVersionError, StaleHistoryError
from features.plan import Plan
from features.rates import Rates, RatesError
from features.remembered import ENTITIES, NUMBERS, VALUES
from features.replay import LeftOut, Replay
from features.revisions import MOST_REVISIONS, Arrival, Held, Revision, Revisions

__all__ = [
    "CATALOGUE",
    "ENTITIES",
    "FACTS",
    "GROUPS",
    "MOST_REVISIONS",
    "NUMBERS",
    "REJECTION_CODES",
    "SERVED",
    "STARTER",
    "VALUES",
    "Address",
    "Arrival",
    "Card",
    "Catalogue",
    "Category",
    "Count",
    "Distance",
    "Distinct",
    "Fact",
    "Feature",
    "FeatureDefinitionError",
    "FeatureValueError",
    "Held",
    "History",
    "Identity",
    "IsNew",
    "Item",
    "LeftOut",
    "Max",
    "Mean",
    "Min",
    "Order",
    "OrderAmount",
    "OrderEvent",
    "Outcome",
    "Plan",
    "Rates",
    "RatesError",
    "Ratio",
    "Rejection",
    "Replay",
    "Revision",
    "Revisions",
    "Row",
    "RowBytesError",
    "RowVersionError",
    "Share",
    "SinceFirst",
    "SinceLast",
    "Speed",
    "StaleHistoryError",
    "Std",
    "Sum",
    "Trend",
    "ZScore",
    "amounts_in",
    "as_large",
    "at_least",
    "below",
    "by_name",
    "by_names",
    "compute",
    "contracts",
    "days",
    "decode_order",
    "fact_of",
    "feature",
    "features_digest",
    "hours",
    "identity_in",
    "is_in",
    "microseconds",
    "minutes",
    "near_hour",
    "other",
    "read_order",
    "same",
    "table",
    "was",
    "weeks",
    "years",
]
