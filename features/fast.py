"""An order's bytes read without the contract's models: the way most records go.

pydantic is the contract and its own oracle. What is read here is read the same by `decode_order`, to the
last bit of the content's digest (a property test holds them together); whatever is unusual is not read
here at all, so that every rejection is worded in one place.
"""

import json
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import product
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from features.events import (
    LARGEST_AMOUNT,
    LARGEST_RECORD,
    LARGEST_REVISION,
    LONGEST_ID,
    MOST_ATTRIBUTES,
    MOST_ITEMS,
    MOST_PROMOTION_CODES,
    microseconds,
)
from features.money import CURRENCIES

__all__ = ["Told", "read_usual"]

_Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
_Text = Annotated[str, Meta(min_length=1, max_length=256)]
_Amount = Annotated[int, Meta(ge=0, le=LARGEST_AMOUNT)]
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
if TYPE_CHECKING:
    _Moment = datetime
else:
    # read as text first: beyond microseconds the contract cuts and msgspec rounds
    _Moment = Annotated[str, Meta(min_length=20, max_length=32)]


class _Address(msgspec.Struct, omit_defaults=True, gc=False):
    hash: _Text | None = None
    city: _Text | None = None
    postcode: _Text | None = None
    country: str | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None


class _Card(msgspec.Struct, omit_defaults=True, gc=False):
    fingerprint: _Text | None = None
    bin: Annotated[str, Meta(min_length=4, max_length=8)] | None = None
    funding: Literal["credit", "debit", "prepaid", "unknown"] | None = None
    issuer_country: str | None = None


class _Item(msgspec.Struct, omit_defaults=True, gc=False):
    sku: _Text | None = None
    category: _Text | None = None
    unit_price: _Amount | None = None
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    digital: bool = False
    gift_card: bool = False


class Told(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What an order says, field for field as `Order` has it: features and rows read either alike."""

    # the same fields in the same order, because the digest is taken of them as they stand
    schema_version: Annotated[int, Meta(ge=1, le=1)] = 1
    order_id: _Id
    revision: Annotated[int, Meta(ge=0, le=LARGEST_REVISION)] = 0
    customer_id: _Id | None = None
    placed_at: _Moment
    amount: _Amount
    currency: str
    country: str | None = None
    channel: _Text | None = None
    merchant_id: _Text | None = None
    device_id: _Text | None = None
    ip: _Text | None = None
    email_hash: _Text | None = None
    email_domain: _Text | None = None
    phone_hash: _Text | None = None
    card: _Card | None = None
    payment_method: _Text | None = None
    payment_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    billing: _Address | None = None
    shipping: _Address | None = None
    account_created_at: _Moment | None = None
    items: Annotated[tuple[_Item, ...], Meta(max_length=MOST_ITEMS)] = ()
    promotion_codes: Annotated[tuple[_Text, ...], Meta(max_length=MOST_PROMOTION_CODES)] = ()
    test: bool = False
    attributes: Annotated[dict[_Text, str | _Integer | float | bool], Meta(max_length=MOST_ATTRIBUTES)] = (
        msgspec.field(default_factory=dict)
    )

    @property
    def key(self) -> str:
        """The Kafka key, as `Order.key`."""
        return self.order_id if self.customer_id is None else self.customer_id

    @property
    def content_digest(self) -> bytes:
        """The sixteen bytes of `Order.content_digest`."""
        attributes = self.attributes
        if not attributes:
            return blake2b(_encode(self), digest_size=16).digest()
        self.attributes = {}
        digest = blake2b(_encode(self), digest_size=16)
        self.attributes = attributes
        digest.update(json.dumps(attributes, sort_keys=True, allow_nan=False).encode())
        return digest.digest()


def read_usual(
    value: bytes | None, *, key: bytes | None, arrived_at: int | None, ahead_by_at_most: timedelta
) -> Told | None:
    """What the order in a record's value says; None where `decode_order` has to look at it.

    Which is for every record it rejects, and for a few that it reads and we are not sure of.
    """
    if value is None or len(value) > LARGEST_RECORD:
        return None
    if value.count(b"]") + value.count(b"}") > _CLOSED_AT_MOST:
        return None
    try:
        if not value.isascii():
            value.decode()  # in fields we do not know too
        told = _decode(value)
        told.placed_at = placed_at = _moment(told.placed_at)
        if told.account_created_at is not None:
            told.account_created_at = _moment(told.account_created_at)
    except (ValueError, RecursionError):  # msgspec's and Unicode's own errors are ValueErrors
        return None
    card, billing, shipping, customer_id = told.card, told.billing, told.shipping, told.customer_id
    if (
        told.currency not in _CURRENCIES
        or told.country not in _COUNTRIES
        # what is printable has no control characters; the few others are asked about
        or not told.order_id.isprintable()
        or (customer_id is not None and not customer_id.isprintable())
        or (billing is not None and billing.country not in _COUNTRIES)
        or (shipping is not None and shipping.country not in _COUNTRIES)
        or (card is not None and (card.issuer_country not in _COUNTRIES or not _is_bin(card.bin)))
        or key != (told.order_id if customer_id is None else customer_id).encode()
    ):
        return None
    if arrived_at is not None and arrived_at >= 0:
        ahead = microseconds(placed_at) - arrived_at * 1000
        if ahead > ahead_by_at_most // _MICROSECOND:
            return None
    return told


_MICROSECOND = timedelta(microseconds=1)
_CLOSED_AT_MOST: Final = 200
"""JSON nested deeper than this the contract does not read, and it can't be without so many brackets."""
_CURRENCIES: Final = frozenset(CURRENCIES)
_COUNTRIES: Final = frozenset({None} | {a + b for a, b in product(ascii_uppercase, repeat=2)})
_DIGITS_AFTER = 26
"""Where, in a time of msgspec's only form, a seventh digit of its fraction would stand."""

_decode = msgspec.json.Decoder(Told).decode
_encode = msgspec.json.Encoder().encode


def _moment(said: object) -> datetime:
    """The moment in a text, in UTC. Raises ValueError where the contract would refuse it or cut it."""
    text = str(said)
    if text[_DIGITS_AFTER : _DIGITS_AFTER + 1].isdecimal():
        raise ValueError
    moment = msgspec.convert(text, datetime)
    if moment.tzinfo is None or not 1970 <= moment.year < 9999:
        raise ValueError
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _is_bin(text: str | None) -> bool:
    return text is None or (text.isdecimal() and text.isascii())
