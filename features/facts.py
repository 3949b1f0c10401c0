"""What became of an order: statements of the shop, the provider or the bank, each known from an instant on.

Nothing may use a statement before it was known. A correction is a later statement that it is not so.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from features.events import OrderEvent, Outcome

__all__ = ["FACTS", "Fact", "fact_of"]

FACTS: Final = ("fraud", "authorised", "declined", "cancelled", "delivered", "refunded", "returned", "repaid")
"""What may be known of an order; the order of the names is part of a row's bytes: new ones go to the end."""

_OF_EVENTS: Mapping[str, str] = MappingProxyType(
    {"payment_authorised": "authorised", "payment_declined": "declined"}
)


class Fact(NamedTuple):
    """One statement about an order: that something is so, or is not so after all."""

    order_id: str
    placed_at: datetime
    """When the order was placed; which windows the fact belongs to."""
    what: str
    """One of FACTS."""
    is_so: bool
    known_at: datetime
    amount: int
    """What it was about, in minor units of `currency`: refunded, repaid, lost."""
    currency: str


def fact_of(event: Outcome | OrderEvent, *, placed_at: datetime, amount: int, currency: str) -> Fact:
    """What an event says of the order that was placed then and cost so much.

    An event without an amount is about the whole order. An outcome says whether the order counts as fraud.
    """
    if isinstance(event, Outcome):
        what, is_so = "fraud", event.is_fraud
    else:
        what, is_so = _OF_EVENTS.get(event.kind, event.kind), True
    return Fact(
        event.order_id,
        placed_at,
        what,
        is_so,
        event.known_at,
        amount if event.amount is None else event.amount,
        currency if event.currency is None or event.amount is None else event.currency,
    )
