"""What became of an order: statements of the shop, the provider or the bank, each known from an instant on.

Nothing may use a statement before it was known. A correction is a later statement that it is not so. The
rules by which an order's statements become the facts that histories count are here and nowhere else.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from features.events import OrderEvent, Outcome

__all__ = ["FACTS", "LAST_COUNTS", "Fact", "Statement", "fact_of", "facts_of", "statement_of"]

FACTS: Final = ("fraud", "authorised", "declined", "cancelled", "delivered", "refunded", "returned", "repaid")
"""What may be known of an order; the order of the names is part of a row's bytes: new ones go to the end."""

LAST_COUNTS: Final = frozenset({"fraud"})
"""Of which the last statement says all, its amount too; of the others each is a part, and amounts add up."""

_OF_EVENTS: Mapping[str, str] = MappingProxyType(
    {"payment_authorised": "authorised", "payment_declined": "declined"}
)
_NO_CURRENCY: Final = "XXX"
"""ISO 4217's word for none: amounts in it are added to no others."""


class Statement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an outcome or an order event says of its order, whatever revision of it then stands.

    Two that say the same are one.
    """

    what: str
    """One of FACTS."""
    is_so: bool
    known_at: datetime
    amount: int | None
    """In minor units of `currency`; None is the whole order."""
    currency: str | None
    """None is the order's."""
    name: str | None = None
    """The `outcome_id`."""
    supersedes: str | None = None
    """The name of the statement it takes the place of."""


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


def statement_of(event: Outcome | OrderEvent) -> Statement:
    """What an event says: an outcome, whether the order counts as fraud; an order event, that it happened."""
    if isinstance(event, Outcome):
        what, is_so, name, supersedes = "fraud", event.is_fraud, event.outcome_id, event.supersedes
    else:
        what, is_so, name, supersedes = _OF_EVENTS.get(event.kind, event.kind), True, None, None
    currency = None if event.amount is None else event.currency
    return Statement(what, is_so, event.known_at, event.amount, currency, name, supersedes)


def facts_of(
    statements: Iterable[Statement],
    order_id: str,
    *,
    placed_at: datetime,
    amount: int | None,
    currency: str | None,
) -> tuple[Fact, ...]:
    """What an order's statements make known of it, each fact once, in the order in which they were said.

    The order was placed then and cost so much; None where nobody remembers. A statement is not among them
    whose successor was known no later than itself: it never counted. One whose successor was known later
    counts until then, because of LAST_COUNTS the last one does.
    """
    said = tuple(statements)
    succeeded: dict[str, datetime] = {}
    for each in said:
        name = each.supersedes
        if name is not None and name != each.name:
            succeeded[name] = min(each.known_at, succeeded.get(name, each.known_at))
    facts: dict[Fact, None] = {}
    for each in said:
        until = None if each.name is None else succeeded.get(each.name)
        if until is None or each.known_at < until:
            worth = amount if each.amount is None else each.amount
            # what an order of an unknown amount was worth is added to nothing
            unit = _NO_CURRENCY if worth is None else each.currency or currency or _NO_CURRENCY
            facts[Fact(order_id, placed_at, each.what, each.is_so, each.known_at, worth or 0, unit)] = None
    return tuple(facts)


def fact_of(event: Outcome | OrderEvent, *, placed_at: datetime, amount: int, currency: str) -> Fact:
    """What an event by itself says of the order that was placed then and cost so much.

    An event without an amount is about the whole order. An outcome says whether the order counts as fraud.
    """
    (fact,) = facts_of(
        (statement_of(event),), event.order_id, placed_at=placed_at, amount=amount, currency=currency
    )
    return fact
