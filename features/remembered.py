"""What a history remembers of an order: texts as fingerprints, small numbers, and the place it goes to."""

import struct
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
    "numbers_of",
    "place_of",
    "told",
    "word_of",
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

_number = struct.Struct("<q").unpack
_numbers = struct.Struct(f"<{len(NUMBERS) + 1}q").pack
_NO_WORD = bytes(8)
_ONE = b"\1" + bytes(7)
_NO_CARD = 3 * _NO_WORD

PLACE = "place"
COLUMN_OF: Mapping[str, int] = MappingProxyType(
    {name: position for position, name in enumerate((*VALUES, *NUMBERS, PLACE))}
)
"""Where each of them stands among the columns of a row."""
_columns = struct.Struct(f"<{len(COLUMN_OF)}q").unpack


def word_of(text: str) -> bytes:
    """The eight bytes of BLAKE2b that stand for a text, never all 0; not remembered, as for an order's id."""
    word = blake2b(text.encode(), digest_size=8).digest()
    return word if word != _NO_WORD else _ONE  # nothing is taken


def hashed(text: str) -> int:
    """`word_of` the text as the number that a little-endian machine reads in it."""
    number: int = _number(word_of(text))[0]
    return number


# Pure, so remembering their answers changes nothing; most of what an order tells, its customer told before.
@lru_cache(maxsize=1 << 14)
def fingerprint(text: str | None) -> int:
    """Sixty-four bits of BLAKE2b that stand for a text; 0 stands for None and for no other text."""
    return UNKNOWN if text is None else hashed(text)


@lru_cache(maxsize=1 << 15)  # of a kilobyte each
def _words_of(*texts: str | None) -> bytes:
    """The fingerprints of some texts that mostly come together, as words."""
    return b"".join([_NO_WORD if text is None else word_of(text) for text in texts])


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


def numbers_of(said: bytes) -> tuple[int, ...]:
    """What `told` answered, as numbers."""
    return _columns(said)


def told(order: Order | Told) -> bytes:
    """What each column remembers of an order, in their order: words, little-endian."""
    card, shipping, billing, items = order.card, order.shipping, order.billing, order.items
    device, ip, codes, attempts = order.device_id, order.ip, order.promotion_codes, order.payment_attempts
    category = items[0].category if items else None
    pieces = digital = gifts = UNKNOWN
    if items:
        pieces = digital = gifts = 1  # a known number is kept one larger
        for item in items:
            pieces += item.quantity
            if item.digital:
                digital += item.quantity
            if item.gift_card:
                gifts += item.quantity
    age = None if order.account_created_at is None else _account_age_days(order)
    # what mostly comes together is looked up together: each look into so large a memory is felt
    shop = _words_of(order.currency, order.country, order.merchant_id, order.payment_method, order.channel)
    who = _words_of(
        None if shipping is None else shipping.hash,
        None if shipping is None else shipping.postcode,
        order.email_domain,
        order.customer_id,
        order.email_hash,
        order.phone_hash,
        None if billing is None else billing.hash,
        None if shipping is None else shipping.country,
    )
    paid = _NO_CARD if card is None else _words_of(card.fingerprint, card.issuer_country, card.bin)
    return b"".join(
        (
            shop[:24],
            _NO_WORD if device is None else word_of(device),
            paid[:8],
            who[:16],
            _NO_WORD if ip is None else word_of(ip),
            who[16:24],
            _NO_WORD if category is None else _words_of(category),
            shop[24:32],
            who[24:],
            paid[8:16],
            shop[32:],
            paid[16:],
            _words_of(codes[0]) if codes else _NO_WORD,
            _numbers(
                pieces,
                digital,
                gifts,
                len(codes) + 1,
                UNKNOWN if attempts is None else attempts + 1,
                UNKNOWN if age is None else age + 1,
                UNKNOWN if shipping is None and billing is None else place_of(order),
            ),
        )
    )
