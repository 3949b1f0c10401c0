"""The vocabulary tests are written in: one order to build by hand, and Hypothesis strategies for many."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from features.events import Address, Card, Item, Order
from features.money import CURRENCIES

NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
"""A Wednesday; the instant most tests score an order at."""

_EDGES = tuple(timedelta(hours=hours) for hours in (0, 1, 24, 7 * 24, 30 * 24))
_TICK = timedelta(microseconds=1)


def an_order(**fields: Any) -> Order:
    """An order of customer c1 over 10.00 EUR at noon, but for what the test says."""
    return Order(
        **{
            "order_id": "o1",
            "customer_id": "c1",
            "placed_at": NOON,
            "amount": 1000,
            "currency": "EUR",
        }
        | fields
    )


def as_json(order: Order, **changes: Any) -> bytes:
    """The order as a shop sends it, with some of its fields changed to whatever the test says."""
    return json.dumps(json.loads(order.model_dump_json()) | changes).encode()


def moments() -> st.SearchStrategy[datetime]:
    """Moments around noon: on the edges of windows, a microsecond beside them, and anywhere in 70 days."""
    beside = st.sampled_from((-_TICK, timedelta(0), _TICK))
    edges = st.builds(lambda edge, tick: NOON - edge + tick, st.sampled_from(_EDGES), beside)
    anywhere = st.builds(lambda minutes: NOON - timedelta(minutes=minutes), st.integers(-14_400, 90_000))
    return edges | anywhere


def texts() -> st.SearchStrategy[str]:
    """Texts as shops send them: any characters that JSON can carry."""
    return st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def ids() -> st.SearchStrategy[str]:
    """Ids: no control characters."""
    return st.text(
        st.characters(codec="utf-8", exclude_characters=[*map(chr, range(32)), "\x7f"]),
        min_size=1,
        max_size=20,
    )


def _few(*values: str) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


def _addresses() -> st.SearchStrategy[Address]:
    return st.builds(
        Address,
        hash=_few("home", "office", "locker"),
        city=st.none() | texts(),
        postcode=_few("10115", "80331"),
        country=_few("DE", "FR"),
        latitude=st.none() | st.floats(-90, 90),
        longitude=st.none() | st.floats(-180, 180),
    )


def _cards() -> st.SearchStrategy[Card]:
    return st.builds(
        Card,
        fingerprint=_few("visa", "master", "amex"),
        bin=_few("411111", "5500"),
        funding=_few("credit", "debit", "prepaid", "unknown"),
        issuer_country=_few("DE", "FR"),
    )


def _items() -> st.SearchStrategy[Item]:
    return st.builds(
        Item,
        sku=st.none() | texts(),
        category=_few("shoes", "phones"),
        unit_price=st.none() | st.integers(0, 10**12),
        quantity=st.integers(1, 5),
        digital=st.booleans(),
        gift_card=st.booleans(),
    )


def orders(
    order_ids: st.SearchStrategy[str] | None = None,
    customer_ids: st.SearchStrategy[str | None] | None = None,
    currencies: st.SearchStrategy[str] | None = None,
) -> st.SearchStrategy[Order]:
    """Valid orders, with few enough devices, cards and addresses that they come again."""
    attributes = st.dictionaries(
        texts(),
        texts()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans(),
        max_size=3,
    )
    return st.builds(
        Order,
        order_id=ids() if order_ids is None else order_ids,
        revision=st.integers(0, 3),
        customer_id=st.none() | ids() if customer_ids is None else customer_ids,
        placed_at=moments(),
        amount=st.integers(0, 10**12) | st.integers(0, 10_000),
        currency=st.sampled_from(sorted(CURRENCIES)) if currencies is None else currencies,
        country=_few("DE", "FR"),
        channel=_few("web", "app"),
        merchant_id=st.none() | texts(),
        device_id=_few("phone", "laptop", "tablet"),
        ip=_few("192.0.2.1", "2001:db8::1"),
        email_hash=st.none() | texts(),
        email_domain=_few("example.org", "example.com"),
        phone_hash=st.none() | texts(),
        card=st.none() | _cards(),
        payment_method=_few("card", "invoice"),
        payment_attempts=st.none() | st.integers(0, 5),
        billing=st.none() | _addresses(),
        shipping=st.none() | _addresses(),
        account_created_at=st.none() | moments(),
        items=st.lists(_items(), max_size=3).map(tuple),
        promotion_codes=st.lists(texts(), max_size=2).map(tuple),
        attributes=attributes,
    )


def histories(max_size: int = 12) -> st.SearchStrategy[list[Order]]:
    """Orders of one customer in the order they arrived, which need not be the order they were placed in.

    They carry what a history remembers and little else: Hypothesis pays for every field it draws.
    """
    each = st.builds(
        an_order,
        placed_at=moments(),
        amount=st.sampled_from((0, 1, 999, 10**12)) | st.integers(0, 10_000),
        currency=st.sampled_from(("EUR", "EUR", "EUR", "JPY")),
        device_id=_few("phone", "laptop"),
        card=st.sampled_from((None, Card(), Card(fingerprint="visa"), Card(fingerprint="amex"))),
        shipping=st.sampled_from(
            (None, Address(city="Berlin"), Address(hash="home"), Address(hash="office"))
        ),
    )
    return st.lists(each, max_size=max_size).map(_numbered)


def _numbered(arrived: list[Order]) -> list[Order]:
    return [order.model_copy(update={"order_id": f"o{number}"}) for number, order in enumerate(arrived)]
