"""What a history remembers of an order: texts as fingerprints, small numbers, and the place it goes to."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType

from features.events import Order, microseconds
from features.fast import Told

__all__ = [
    "COLUMN_OF",
    "ENTITIES",
    "NUMBERS",
    "PLACE",
    "UNKNOWN",
    "VALUES",
    "coordinates",
    "fingerprint",
    "hashed",
    "place_of",
    "told",
]

UNKNOWN = 0
"""What a column holds where the order does not say; a known number is kept one larger."""

_MICROSECONDS_A_DAY = 86_400_000_000


def _account_age_days(order: Order | Told) -> int | None:
    if order.account_created_at is None:
        return None
    age = microseconds(order.placed_at) - microseconds(order.account_created_at)
    return age // _MICROSECONDS_A_DAY if age >= 0 else None


VALUES: Mapping[str, Callable[[Order | Told], str | None]] = MappingProxyType(
    {
        "currency": lambda order: order.currency,
        "country": lambda order: order.country,
        "merchant": lambda order: order.merchant_id,
        "device": lambda order: order.device_id,
        "card": lambda order: None if order.card is None else order.card.fingerprint,
        "shipping_address": lambda order: None if order.shipping is None else order.shipping.hash,
        "postcode": lambda order: None if order.shipping is None else order.shipping.postcode,
        "ip": lambda order: order.ip,
        "email_domain": lambda order: order.email_domain,
        "category": lambda order: order.items[0].category if order.items else None,
        "payment_method": lambda order: order.payment_method,
        "customer": lambda order: order.customer_id,
        "email": lambda order: order.email_hash,
        "phone": lambda order: order.phone_hash,
        "billing_address": lambda order: None if order.billing is None else order.billing.hash,
        "shipping_country": lambda order: None if order.shipping is None else order.shipping.country,
        "issuer_country": lambda order: None if order.card is None else order.card.issuer_country,
        "channel": lambda order: order.channel,
        "card_bin": lambda order: None if order.card is None else order.card.bin,
        "promotion": lambda order: order.promotion_codes[0] if order.promotion_codes else None,
    }
)
"""The texts a history remembers of an order, and where the order says them.

Kept as 64-bit fingerprints: enough to tell two of one customer's devices apart, and no personal data.
The order of the names, then of NUMBERS and the place, is the order of the columns in a row's bytes. A new
column has to come after the place; anywhere else it moves the others, and rows need another version.
"""

NUMBERS: Mapping[str, Callable[[Order | Told], int | None]] = MappingProxyType(
    {
        "pieces": lambda order: sum(item.quantity for item in order.items) if order.items else None,
        "digital_pieces": lambda order: (
            sum(item.quantity for item in order.items if item.digital) if order.items else None
        ),
        "gift_card_pieces": lambda order: (
            sum(item.quantity for item in order.items if item.gift_card) if order.items else None
        ),
        "promotions": lambda order: len(order.promotion_codes),
        "payment_attempts": lambda order: order.payment_attempts,
        "account_age_days": _account_age_days,
    }
)
"""The numbers a history remembers of an order besides its amount: whole, and never negative."""

ENTITIES: Mapping[str, Callable[[Order | Told], str | None]] = MappingProxyType(
    {
        name: VALUES[name]
        for name in ("customer", "device", "card", "ip", "email", "shipping_address", "merchant")
    }
)
"""What may have a history, and where an order names it."""

PLACE = "place"
COLUMN_OF: Mapping[str, int] = MappingProxyType(
    {name: position for position, name in enumerate((*VALUES, *NUMBERS, PLACE))}
)
"""Where each of them stands among the columns of a row."""


def hashed(text: str) -> int:
    """Sixty-four bits of BLAKE2b that stand for a text, never 0; not remembered, as for an order's id."""
    return (
        int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) or 1
    )  # 0 is taken


# Pure, so remembering its answers changes nothing; most of what an order tells, its customer told before.
@lru_cache(maxsize=1 << 16)
def fingerprint(text: str | None) -> int:
    """Sixty-four bits of BLAKE2b that stand for a text; 0 stands for None and for no other text."""
    return UNKNOWN if text is None else hashed(text)


def place_of(order: Order | Told) -> int:
    """Where the order goes, else where it is billed, as one number of 1e-5 degrees; else 0."""
    for address in (order.shipping, order.billing):
        if address is not None and address.latitude is not None and address.longitude is not None:
            latitude = round(address.latitude * 100_000) + 9_000_000
            return (latitude << 26 | round(address.longitude * 100_000) + 18_000_000) + 1
    return UNKNOWN


def coordinates(place: int) -> tuple[float, float]:
    """Latitude and longitude, in degrees, of what `place_of` answered."""
    return ((place - 1 >> 26) - 9_000_000) / 100_000, ((place - 1 & (1 << 26) - 1) - 18_000_000) / 100_000


def told(order: Order | Told) -> tuple[int, ...]:
    """What each column remembers of an order, at once: twenty-seven calls an order are felt."""
    card, shipping, billing, items, codes = (
        order.card,
        order.shipping,
        order.billing,
        order.items,
        order.promotion_codes,
    )
    of_items: tuple[int, int, int] = (UNKNOWN, UNKNOWN, UNKNOWN)
    if items:
        pieces = digital = gifts = 1  # a known number is kept one larger
        for item in items:
            pieces += item.quantity
            if item.digital:
                digital += item.quantity
            if item.gift_card:
                gifts += item.quantity
        of_items = (pieces, digital, gifts)
    age = None if order.account_created_at is None else _account_age_days(order)
    # no contract has an empty text, so what is false is unknown
    return (
        fingerprint(order.currency),
        fingerprint(order.country) if order.country else 0,
        fingerprint(order.merchant_id) if order.merchant_id else 0,
        fingerprint(order.device_id) if order.device_id else 0,
        0 if card is None else fingerprint(card.fingerprint),
        0 if shipping is None else fingerprint(shipping.hash),
        0 if shipping is None else fingerprint(shipping.postcode),
        fingerprint(order.ip) if order.ip else 0,
        fingerprint(order.email_domain) if order.email_domain else 0,
        fingerprint(items[0].category) if items else 0,
        fingerprint(order.payment_method) if order.payment_method else 0,
        fingerprint(order.customer_id) if order.customer_id else 0,
        fingerprint(order.email_hash) if order.email_hash else 0,
        fingerprint(order.phone_hash) if order.phone_hash else 0,
        0 if billing is None else fingerprint(billing.hash),
        0 if shipping is None else fingerprint(shipping.country),
        0 if card is None else fingerprint(card.issuer_country),
        fingerprint(order.channel) if order.channel else 0,
        0 if card is None else fingerprint(card.bin),
        fingerprint(codes[0]) if codes else 0,
        *of_items,
        len(codes) + 1,
        UNKNOWN if order.payment_attempts is None else order.payment_attempts + 1,
        UNKNOWN if age is None else age + 1,
        UNKNOWN if shipping is None and billing is None else place_of(order),
    )
