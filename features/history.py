"""A customer's remembered orders as one row of sorted columns, and what of it was known at an instant.

The columns are parallel arrays of 64-bit integers, oldest order first, so that a window
[as_of - w, as_of) is two binary searches, and sums are exact whatever order the orders came in.
"""

# ruff: noqa: SLF001 - a row and its history are one subject, and see into each other

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, compress
from types import MappingProxyType
from typing import Self

from features.events import Order, microseconds

__all__ = [
    "REMEMBERED",
    "History",
    "Row",
    "RowBytesError",
    "RowVersionError",
    "StaleHistoryError",
    "fingerprint",
]

REMEMBERED: Mapping[str, Callable[[Order], str | None]] = MappingProxyType(
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
    }
)
"""What a history remembers of an order besides its time and amount, and where the order says it.

Kept as 64-bit fingerprints: enough to tell two of one customer's devices apart, and no personal data.
The order of the names is the order of the columns in a row's bytes; a change needs a new ROW_VERSION.
"""

ROW_VERSION = 1
LARGEST_LIMIT = 1_000_000
"""The most orders a row may be asked to hold; more would not fit a record of a topic anyway."""

_COLUMN_OF = {name: position for position, name in enumerate(REMEMBERED)}
_CURRENCY = _COLUMN_OF["currency"]
_READ = tuple(REMEMBERED.values())
_COLUMNS = 3 + len(REMEMBERED)
_UNKNOWN = 0
_MICROSECOND = timedelta(microseconds=1)
_HEADER = struct.Struct("<BBHIQq")
_NEVER = -(2**63)
"""Where the header says that no order was ever remembered; no order can be that old."""


class RowVersionError(ValueError):
    """The row was written by a newer version of this program."""


class RowBytesError(ValueError):
    """The bytes are not those of a row."""


class StaleHistoryError(RuntimeError):
    """A history was asked after its row had changed."""


def _hashed(text: str) -> int:
    return (
        int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) or 1
    )  # 0 is taken


# Pure, so remembering its answers changes nothing; the device of an order is asked for twice at least.
_hashed_again = lru_cache(maxsize=1 << 14)(_hashed)


def fingerprint(text: str | None) -> int:
    """Sixty-four bits of BLAKE2b that stand for a text; 0 stands for None and for no other text."""
    return _UNKNOWN if text is None else _hashed_again(text)


class Row:
    """One entity's remembered orders, oldest first, bounded to the newest `limit`.

    Remembering the same orders in another order makes the same row, except that orders placed in the
    same microsecond stay in the order they came. Test orders do not belong in it: whoever remembers
    checks `order.test`.
    """

    __slots__ = (
        "_amounts",
        "_changes",
        "_first_at",
        "_orders",
        "_seen",
        "_times",
        "_totals",
        "dropped",
        "limit",
    )

    def __init__(self, limit: int) -> None:
        """Begin a row without orders."""
        if not 1 <= limit <= LARGEST_LIMIT:
            message = f"Row(limit={limit}) must hold 1 to {LARGEST_LIMIT} orders"
            raise ValueError(message)
        self.limit = limit
        self.dropped = 0
        """How many orders were remembered and are no longer held: what beyond `limit` was oldest."""
        self._first_at: int | None = None
        self._times = array("q")
        self._amounts = array("q")
        self._orders = array("q")
        self._seen = [array("q") for _ in REMEMBERED]
        self._totals: list[int] | None = None  # running totals of _amounts, made when first asked for
        self._changes = 0

    def __len__(self) -> int:
        """How many orders are held."""
        return len(self._times)

    def __contains__(self, order_id: str) -> bool:
        """Whether an order of this id is held."""
        return _hashed(order_id) in self._orders

    def __eq__(self, other: object) -> bool:
        """Whether two rows hold, and have dropped, the same."""
        return self.encode() == other.encode() if isinstance(other, Row) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        """Count and bounds only: no customer's data."""
        return f"<Row of {len(self)} orders, limit {self.limit}, {self.dropped} dropped>"

    @property
    def first_at(self) -> int | None:
        """When the first order ever remembered was placed, dropped or not; microseconds since 1970."""
        return self._first_at

    def remember(self, order: Order) -> None:
        """Insert the order where it belongs by `placed_at`; beyond `limit` the oldest is dropped."""
        at = microseconds(order.placed_at)
        times, totals = self._times, self._totals
        held = len(times)
        where = held if not held or times[-1] <= at else bisect_right(times, at)
        self._changes += 1
        if self._first_at is None or at < self._first_at:
            self._first_at = at
        times.insert(where, at)
        self._amounts.insert(where, order.amount)
        self._orders.insert(where, _hashed(order.order_id))
        for column, read in zip(self._seen, _READ, strict=True):
            text = read(order)
            column.insert(where, _UNKNOWN if text is None else _hashed_again(text))
        if totals is not None:
            if where == held:
                totals.append(totals[-1] + order.amount)
            else:
                self._totals = None
        if held >= self.limit:
            self._drop_oldest(1)

    def forget(self, order_id: str, placed_at: datetime) -> bool:
        """Take one order out again, as when a revision replaces it; False when it is not held."""
        at, wanted = microseconds(placed_at), _hashed(order_id)
        times = self._times
        for where in range(bisect_left(times, at), bisect_right(times, at)):
            if self._orders[where] == wanted:
                break
        else:
            return False
        self._changes += 1
        for column in self._columns():
            del column[where]
        self._totals = None
        if not self.dropped:
            self._first_at = times[0] if times else None
        return True

    def as_of(self, instant: datetime) -> "History":
        """What the row held from strictly before the instant; good until the row changes."""
        return History(self, microseconds(instant))

    def encode(self) -> bytes:
        """The row as bytes, little-endian, the same on every machine.

        A header (version, columns, which of them are constant, orders held, orders dropped, first order),
        then the columns; a column of equal values is written as one: most customers pay in one currency.
        """
        held = len(self._times)
        parts, constant = [b""], 0
        for position, column in enumerate(self._columns()):
            if sys.byteorder == "big":
                column = column[:]  # noqa: PLW2901
                column.byteswap()
            raw = column.tobytes()
            if held > 1 and raw == raw[:8] * held:
                constant |= 1 << position
                raw = raw[:8]
            parts.append(raw)
        first_at = _NEVER if self._first_at is None else self._first_at
        parts[0] = _HEADER.pack(ROW_VERSION, len(parts) - 1, constant, held, self.dropped, first_at)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes, limit: int) -> Self:
        """The row in the bytes; when `limit` is smaller than it was, the oldest are dropped and counted."""
        if not data:
            message = "a row's bytes are empty; restore the row from its changelog"
            raise RowBytesError(message)
        if data[0] > ROW_VERSION:
            message = (
                f"a row is of version {data[0]} and this program reads up to {ROW_VERSION}; run the version "
                "that wrote it, or a newer one (docs/upgrades.md)"
            )
            raise RowVersionError(message)
        if len(data) < _HEADER.size or data[0] != ROW_VERSION:
            message = (
                f"{len(data)} bytes are not a row of version {ROW_VERSION}; restore it from its changelog"
            )
            raise RowBytesError(message)
        _, count, constant, held, dropped, first_at = _HEADER.unpack_from(data)
        words = count * held - constant.bit_count() * (held - 1)
        if count != _COLUMNS or constant >> count or len(data) != _HEADER.size + 8 * words:
            message = (
                f"a row of {held} orders in {count} columns does not fit its {len(data)} bytes; "
                "restore the row from its changelog"
            )
            raise RowBytesError(message)
        row = cls(limit)
        row.dropped = dropped
        row._first_at = None if first_at == _NEVER else first_at
        cells = array("q", data[_HEADER.size :])
        if sys.byteorder == "big":
            cells.byteswap()
        columns, start = [], 0
        for position in range(count):
            if constant >> position & 1:
                columns.append(cells[start : start + 1] * held)
                start += 1
            else:
                columns.append(cells[start : start + held])
                start += held
        row._times, row._amounts, row._orders, *row._seen = columns
        if held > limit:
            row._drop_oldest(held - limit)
        return row

    def _columns(self) -> tuple["array[int]", ...]:
        return (self._times, self._amounts, self._orders, *self._seen)

    def _drop_oldest(self, count: int) -> None:
        for column in self._columns():
            del column[:count]
        if self._totals is not None:
            del self._totals[:count]
        self.dropped += count

    def _running_totals(self) -> list[int]:
        if self._totals is None:
            self._totals = list(accumulate(self._amounts, initial=0))
        return self._totals


class History:
    """An entity's orders from strictly before `as_of`, oldest first: a view of its row, without copies.

    It is cut off when it is built, so whatever a feature does with it, it cannot see the order being
    scored nor anything after it. The row has to stay as it is while the history is read; after a
    change every question raises StaleHistoryError.
    """

    __slots__ = ("_changes", "_end", "_one_currency", "_row", "_starts", "as_of")

    def __init__(self, row: Row, as_of: int) -> None:
        """Cut the row off at an instant in microseconds since 1970."""
        self.as_of = as_of
        self._row = row
        self._end = bisect_left(row._times, as_of)
        self._changes = row._changes
        self._starts: dict[timedelta, int] = {}
        self._one_currency: int | None = None

    def __len__(self) -> int:
        """How many orders are held from before `as_of`."""
        self._fresh()
        return self._end

    def within(self, over: timedelta) -> slice:
        """Where the orders placed in [as_of - over, as_of) lie among the row's."""
        return slice(self._start(over), self._end)

    def count(self, over: timedelta) -> int:
        """How many orders were placed in the window."""
        return self._end - self._start(over)

    def first_at(self) -> int | None:
        """When the first order ever remembered was placed, if that was before `as_of`; held or dropped."""
        first_at = self._fresh().first_at
        return first_at if first_at is not None and first_at < self.as_of else None

    def last_at(self) -> int | None:
        """When the last order held from before `as_of` was placed, in microseconds since 1970."""
        row = self._fresh()
        return row._times[self._end - 1] if self._end else None

    def spent(self, over: timedelta, currency: str) -> tuple[int, int]:
        """The total of the window's orders in a currency, in minor units, and how many they are."""
        start, end, row = self._start(over), self._end, self._row
        code = _hashed_again(currency)
        if self._is_all_in(code):
            totals = row._running_totals()
            return totals[end] - totals[start], end - start
        chosen = [each == code for each in row._seen[_CURRENCY][start:end]]
        return sum(compress(row._amounts[start:end], chosen)), sum(chosen)

    def largest(self, over: timedelta, currency: str) -> int | None:
        """The largest amount among the window's orders in a currency; None without one."""
        start, end, row = self._start(over), self._end, self._row
        code = _hashed_again(currency)
        amounts = row._amounts[start:end]
        if self._is_all_in(code):
            return max(amounts, default=None)
        return max(
            compress(amounts, (each == code for each in row._seen[_CURRENCY][start:end])),
            default=None,
        )

    def distinct(self, what: str, over: timedelta) -> int:
        """How many known, different values of one of REMEMBERED the window's orders had."""
        start = self._start(over)
        values = set(self._row._seen[_COLUMN_OF[what]][start : self._end])
        return len(values) - (_UNKNOWN in values)

    def has_seen(self, what: str, value: str) -> bool:
        """Whether an order held from before `as_of` had this value of one of REMEMBERED."""
        column = self._fresh()._seen[_COLUMN_OF[what]]
        wanted = _hashed_again(value)
        try:
            return column.index(wanted, 0, self._end) >= 0
        except ValueError:
            return False

    def _fresh(self) -> Row:
        if self._changes != self._row._changes:
            message = "the row has changed since this history was taken of it; ask Row.as_of for another"
            raise StaleHistoryError(message)
        return self._row

    def _start(self, over: timedelta) -> int:
        self._fresh()
        start = self._starts.get(over)
        if start is None:
            start = bisect_left(self._row._times, self.as_of - over // _MICROSECOND, 0, self._end)
            self._starts[over] = start
        return start

    def _is_all_in(self, code: int) -> bool:
        """Whether every order of the row is in this currency, the usual case, worth asking for once."""
        if self._one_currency is None:
            currencies = self._row._seen[_CURRENCY]
            alone = bool(currencies) and currencies == array("q", (currencies[0],)) * len(currencies)
            self._one_currency = currencies[0] if alone else _UNKNOWN
        return self._one_currency == code
