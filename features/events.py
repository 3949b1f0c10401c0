"""The events a shop sends, version 1: the order, what became of its payment and parcel, and its outcome.

Every contract is frozen and checks itself when it is built. Optional means unknown: leave the field
out or send null, never an empty text or a zero that stands for "no idea". Fields we do not know are
ignored, so a shop may send more than we read; fields we know must be right.
"""

import json
import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from features.money import CURRENCIES

__all__ = [
    "LARGEST_AMOUNT",
    "LARGEST_RECORD",
    "LARGEST_REVISION",
    "LONGEST_ID",
    "Address",
    "Card",
    "Item",
    "Order",
    "OrderEvent",
    "Outcome",
    "contracts",
    "microseconds",
]

LARGEST_AMOUNT = 10**12
"""The largest amount an event may carry, in minor units; more is a mistake, and would crowd the sums."""

LONGEST_ID = 128
"""The most characters an order's or a customer's id may have."""

LARGEST_REVISION = 2**31 - 1
"""The highest number a revision may have."""

LARGEST_RECORD = 1024 * 1024
"""The most bytes an event may have: its value, uncompressed, without key, headers and framing."""

MOST_ITEMS = 1_000
MOST_PROMOTION_CODES = 100
MOST_ATTRIBUTES = 100

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]+$"
COUNTRY_CODE = r"^[A-Z]{2}$"
CARD_BIN = r"^[0-9]{4,8}$"

_WRITTEN_AS_A_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([Tt _]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS_A_DAY = 86_400_000_000


def microseconds(moment: datetime) -> int:
    """An aware moment as microseconds since 1970 in UTC, the integer every history counts in."""
    since = moment - _EPOCH
    return since.days * _MICROSECONDS_A_DAY + since.seconds * 1_000_000 + since.microseconds


def _in_utc(value: object, validate: ValidatorFunctionWrapHandler) -> datetime:
    if not isinstance(value, str | datetime):
        kind = "datetime_type"
        raise PydanticCustomError(kind, "Input should be a time as text, such as 2024-05-01T12:30:00Z")
    if isinstance(value, str) and value[4:5] != "-":
        # pydantic would read a text of digits as seconds since 1970, and '20240101' as a day of that year
        kind = "datetime_parsing"
        raise PydanticCustomError(kind, "Input should be an ISO 8601 time such as 2024-05-01T12:30:00Z")
    try:
        moment: datetime = validate(value)
    except ValidationError:
        # said in our words: pydantic's name the part it stumbled on, which is seldom the one that is wrong
        if isinstance(value, str) and _WRITTEN_AS_A_TIME.fullmatch(value):
            kind = "no_such_time"
            raise PydanticCustomError(kind, "Input should be a day, hour and offset that exist") from None
        kind = "datetime_parsing"
        message = "Input should be an ISO 8601 time such as 2024-05-01T12:30:00Z"
        raise PydanticCustomError(kind, message) from None
    if moment.tzinfo is None or moment.utcoffset() is None:
        kind = "timezone_aware"
        message = "Input should be a time with its offset from UTC, such as 2024-05-01T12:30:00Z"
        raise PydanticCustomError(kind, message)
    if not 1970 <= moment.year < 9999:
        kind = "moment_out_of_range"
        raise PydanticCustomError(kind, "Input should be a time from 1970 to 9998")
    return moment.astimezone(UTC)


def _known(currency: str) -> str:
    if currency not in CURRENCIES:
        kind = "unknown_currency"
        raise PydanticCustomError(kind, "Input should be a currency of ISO 4217 in capitals, such as 'EUR'")
    return currency


def _few(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    # counted before any is looked at: a million wrong ones would make a million complaints
    if isinstance(value, dict) and len(value) > MOST_ATTRIBUTES:
        kind = "too_long"
        raise PydanticCustomError(kind, "Input should have at most {most} fields", {"most": MOST_ATTRIBUTES})
    return validate(value)


# No control characters: an id is a key of topics and rows, where a leading NUL marks keys of our own.
Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID, pattern=NO_CONTROL_CHARACTERS)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Country = Annotated[str, StringConstraints(pattern=COUNTRY_CODE)]
Currency = Annotated[str, AfterValidator(_known)]
Amount = Annotated[int, Field(ge=0, le=LARGEST_AMOUNT)]
# Not strict: a wrapped validator no longer knows that its text came from JSON. _in_utc is strict itself.
Moment = Annotated[datetime, Field(strict=False), WrapValidator(_in_utc)]
Version1 = Annotated[int, Field(ge=1, le=1)]
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Attributes = Annotated[
    dict[Text, str | Integer | float | bool], Field(max_length=MOST_ATTRIBUTES), WrapValidator(_few)
]


class _Contract(BaseModel):
    # strict: "12" is not 12 and true is not 1; a shop that sends them should hear of it
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Address(_Contract):
    """Where an order is billed or shipped to."""

    hash: Text | None = None
    """The shop's digest of the whole address; what tells two addresses apart."""
    city: Text | None = None
    postcode: Text | None = None
    country: Country | None = None
    """ISO 3166, two capital letters."""
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None


class Card(_Contract):
    """The card an order is paid with, without its number."""

    fingerprint: Text | None = None
    """The payment provider's digest of the number; what tells two cards apart."""
    bin: Annotated[str, StringConstraints(pattern=CARD_BIN)] | None = None
    """The first digits of the number, which name the issuer."""
    funding: Literal["credit", "debit", "prepaid", "unknown"] | None = None
    issuer_country: Country | None = None


class Item(_Contract):
    """One line of the basket."""

    sku: Text | None = None
    category: Text | None = None
    unit_price: Amount | None = None
    """Minor units of the order's currency."""
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    digital: bool = False
    gift_card: bool = False


class Order(_Contract):
    """One order as the shop sent it: who, when, how much, with what and where to.

    Identity is `order_id` and `revision`. `placed_at` is the shop's clock, read into UTC. A test
    order (`test=True`) is decided like any other and never enters a history: whoever remembers
    orders checks it.
    """

    schema_version: Version1 = 1
    order_id: Id
    revision: Annotated[int, Field(ge=0, le=LARGEST_REVISION)] = 0
    customer_id: Id | None = None
    """None is a guest: no history, and none shared with other guests."""
    placed_at: Moment
    amount: Amount
    """The order's total in minor units of `currency`."""
    currency: Currency
    country: Country | None = None
    """The country of the shop front the order was placed in."""
    channel: Text | None = None
    merchant_id: Text | None = None
    device_id: Text | None = None
    ip: Text | None = None
    email_hash: Text | None = None
    email_domain: Text | None = None
    phone_hash: Text | None = None
    card: Card | None = None
    payment_method: Text | None = None
    payment_attempts: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """How often payment was tried for this order, the successful try included."""
    billing: Address | None = None
    shipping: Address | None = None
    account_created_at: Moment | None = None
    items: Annotated[tuple[Item, ...], Field(max_length=MOST_ITEMS), FailFast()] = ()
    promotion_codes: Annotated[tuple[Text, ...], Field(max_length=MOST_PROMOTION_CODES), FailFast()] = ()
    test: bool = False
    attributes: Attributes = Field(default_factory=dict)
    """The shop's own fields. A whole number beyond 64 bits is read as the nearest float."""

    @property
    def key(self) -> str:
        """The Kafka key: the customer, or the order itself for a guest."""
        return self.order_id if self.customer_id is None else self.customer_id

    @property
    def content_digest(self) -> bytes:
        """Sixteen bytes that two orders share only if they say the same.

        Taken of canonical JSON of what was understood: the order of the sender's fields, fields we do
        not know, and defaults written out make no difference; a field added to a later contract does
        not change the digests of orders without it.
        """
        digest = blake2b(
            self.model_dump_json(exclude_defaults=True, exclude={"attributes"}).encode(), digest_size=16
        )
        if self.attributes:
            digest.update(json.dumps(self.attributes, sort_keys=True, allow_nan=False).encode())
        return digest.digest()


class _Known(_Contract):
    occurred_at: Moment
    """When it happened."""
    known_at: Moment
    """When the shop learned of it; nothing may use it earlier."""

    @model_validator(mode="after")
    def _is_known_after_it_happened(self) -> Self:
        if self.known_at < self.occurred_at:
            kind = "known_before_it_happened"
            raise PydanticCustomError(kind, "Input should have known_at at or after occurred_at")
        return self


class OrderEvent(_Known):
    """What became of an order's payment or parcel."""

    schema_version: Version1 = 1
    order_id: Id
    customer_id: Id | None = None
    kind: Literal[
        "payment_authorised",
        "payment_declined",
        "cancelled",
        "delivered",
        "refunded",
        "returned",
        "repaid",
    ]
    amount: Amount | None = None
    """Minor units of `currency`; None is the whole order."""
    currency: Currency | None = None
    avs_result: Text | None = None
    """The issuer's answer on the billing address."""
    cvv_result: Text | None = None
    three_d_secure_result: Text | None = None
    decline_code: Text | None = None
    source: Text | None = None
    """Who says so: the payment provider, the carrier, the shop."""


class Outcome(_Known):
    """What an order turned out to be, and who says so."""

    schema_version: Version1 = 1
    order_id: Id
    customer_id: Id | None = None
    kind: Literal[
        "chargeback",
        "early_fraud_warning",
        "dispute_won",
        "dispute_lost",
        "refund_abuse",
        "payment_default",
        "confirmed_fraud",
        "confirmed_legitimate",
        "reversal",
    ]
    is_fraud: bool
    """Whether the order counts as fraud, by this outcome."""
    fraud_kind: Text | None = None
    amount: Amount | None = None
    """What was lost, in minor units of `currency`; None is the whole order."""
    currency: Currency | None = None
    source: Text | None = None
    outcome_id: Text | None = None
    """The sender's name for this outcome, by which a later one of the same order can supersede it."""
    supersedes: Text | None = None
    """The `outcome_id` of the outcome of this order that this one corrects, and takes the place of."""


def contracts() -> dict[str, type[BaseModel]]:
    """The contracts a shop sends, by name; what `docs/contracts/` is exported from."""
    return {"Order": Order, "OrderEvent": OrderEvent, "Outcome": Outcome}
