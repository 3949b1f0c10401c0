"""A customer's remembered orders as one row of sorted columns, and what of it was known at an instant.

The columns are parallel arrays of 64-bit integers, oldest order first, so that a window
[as_of - w, as_of) is two binary searches, and sums are exact whatever order the orders came in.

A row's bytes are unpacked when somebody first asks what is in them. To remember one more order, the
newest, nobody asks: each column of the bytes is made longer by one number.
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
from features.fast import Told

__all__ = [
    "REMEMBERED",
    "History",
    "Row",
    "RowBytesError",
    "RowVersionError",
    "StaleHistoryError",
    "fingerprint",
]

REMEMBERED: Mapping[str, Callable[[Order | Told], str | None]] = MappingProxyType(
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
_COLUMNS = 3 + len(REMEMBERED)
_UNKNOWN = 0
_MICROSECOND = timedelta(microseconds=1)
_HEADER = struct.Struct("<BBHIQq")
_WORD = 8
_NUMBER = struct.Struct("<q")
_ENTRY = struct.Struct(f"<{_COLUMNS}q")
_FEW = 2
"""Of fewer orders no column is constant, so the bytes are made anew."""
_APART = struct.Struct(f"{_WORD}s" * _COLUMNS)
"""An entry's numbers as bytes of their own."""
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


# Pure, so remembering its answers changes nothing; most of what an order tells, its customer told before.
@lru_cache(maxsize=1 << 16)
def fingerprint(text: str | None) -> int:
    """Sixty-four bits of BLAKE2b that stand for a text; 0 stands for None and for no other text."""
    return _UNKNOWN if text is None else _hashed(text)


def _remembered(order: Order | Told) -> tuple[str | None, ...]:
    """What each of REMEMBERED reads, at once: eleven calls an order are felt."""
    card, shipping, items = order.card, order.shipping, order.items
    return (
        order.currency,
        order.country,
        order.merchant_id,
        order.device_id,
        None if card is None else card.fingerprint,
        None if shipping is None else shipping.hash,
        None if shipping is None else shipping.postcode,
        order.ip,
        order.email_domain,
        items[0].category if items else None,
        order.payment_method,
    )


@lru_cache(maxsize=4096)
def _layout(constant: int, held: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """What takes the columns of a row's bytes apart."""
    sizes = (_WORD if constant >> position & 1 else _WORD * held for position in range(_COLUMNS))
    return struct.Struct(f"{_HEADER.size}x" + "".join(f"{size}s" for size in sizes)).unpack


class Row:
    """One entity's remembered orders, oldest first, bounded to the newest `limit`.

    Remembering the same orders in another order makes the same row, except that orders placed in the
    same microsecond stay in the order they came. Test orders do not belong in it: whoever remembers
    checks `order.test`.
    """

    __slots__ = (
        "_added",
        "_amounts",
        "_changes",
        "_columns",
        "_data",
        "_dropped",
        "_first_at",
        "_orders",
        "_placed",
        "_seen",
        "_times",
        "_totals",
        "limit",
    )

    # the columns, from when somebody first asks what is in them
    _times: "array[int]"
    _amounts: "array[int]"
    _orders: "array[int]"
    _seen: "list[array[int]]"
    _columns: "tuple[array[int], ...]"
    """All of them, in the order of a row's bytes."""
    _totals: list[int] | None
    """Running totals of the amounts, made when first asked for."""

    def __init__(self, limit: int) -> None:
        """Begin a row without orders."""
        if not 1 <= limit <= LARGEST_LIMIT:
            message = f"Row(limit={limit}) must hold 1 to {LARGEST_LIMIT} orders"
            raise ValueError(message)
        self.limit = limit
        self._data: bytes | None = None
        """The bytes the row was decoded from, while `_added` at their end is all that has happened since."""
        self._added: list[tuple[int, ...]] = []
        """What was remembered since: a number for each column."""
        self._placed: int | None = None
        """How many of `_added` stand in the columns; None before the columns are made."""
        self._dropped = 0
        self._first_at: int | None = None
        self._changes = 0

    def __len__(self) -> int:
        """How many orders are held."""
        self._settle()
        return len(self._times)

    def __contains__(self, order_id: str) -> bool:
        """Whether an order of this id is held."""
        self._settle()
        return _hashed(order_id) in self._orders

    def __eq__(self, other: object) -> bool:
        """Whether two rows hold, and have dropped, the same."""
        return self.encode() == other.encode() if isinstance(other, Row) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        """Count and bounds only: no customer's data."""
        return f"<Row of {len(self)} orders, limit {self.limit}, {self.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """How many orders were remembered and are no longer held: what beyond `limit` was oldest."""
        self._settle()
        return self._dropped

    @property
    def first_at(self) -> int | None:
        """When the first order ever remembered was placed, dropped or not; microseconds since 1970."""
        return self._first_at

    def remember(self, order: Order | Told) -> None:
        """Insert the order where it belongs by `placed_at`; beyond `limit` the oldest is dropped."""
        at = microseconds(order.placed_at)
        self._changes += 1
        if self._first_at is None or at < self._first_at:
            self._first_at = at
        self._added.append((at, order.amount, _hashed(order.order_id), *map(fingerprint, _remembered(order))))
        if len(self._added) > self.limit:
            self._settle()  # a row is bounded, also while nobody asks

    def forget(self, order_id: str, placed_at: datetime) -> bool:
        """Take one order out again, as when a revision replaces it; False when it is not held."""
        self._settle()
        at, wanted = microseconds(placed_at), _hashed(order_id)
        times = self._times
        for where in range(bisect_left(times, at), bisect_right(times, at)):
            if self._orders[where] == wanted:
                break
        else:
            return False
        self._changes += 1
        self._data = None
        for column in self._columns:
            del column[where]
        self._totals = None
        if not self._dropped:
            self._first_at = times[0] if times else None
        return True

    def as_of(self, instant: datetime) -> "History":
        """What the row held from strictly before the instant; good until the row changes."""
        self._settle()
        return History(self, microseconds(instant))

    def encode(self) -> bytes:
        """The row as bytes, little-endian, the same on every machine.

        A header (version, columns, which of them are constant, orders held, orders dropped, first order),
        then the columns; a column of equal values is written as one: most customers pay in one currency.
        """
        if self._data is not None or self._placed is None:
            data = self._lengthened()
            if data is not None:
                return data
        self._settle()
        held = len(self._times)
        parts, constant = [b""], 0
        for position, column in enumerate(self._columns):
            if sys.byteorder == "big":
                column = column[:]  # noqa: PLW2901
                column.byteswap()
            raw = column.tobytes()
            if held > 1 and raw == raw[:8] * held:
                constant |= 1 << position
                raw = raw[:8]
            parts.append(raw)
        first_at = _NEVER if self._first_at is None else self._first_at
        parts[0] = _HEADER.pack(ROW_VERSION, len(parts) - 1, constant, held, self._dropped, first_at)
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
        row._data = data
        row._dropped = dropped
        row._first_at = None if first_at == _NEVER else first_at
        if held > limit:
            row._settle()
            row._drop_oldest(held - limit)
        return row

    def _lengthened(self) -> bytes | None:
        """The bytes with what was added at the end of each column; None where it does not belong there."""
        data, added = self._data, self._added
        if data is not None and not added:
            return data
        constant = held = 0
        latest = _NEVER
        if data is not None:
            _, _, constant, held, _, _ = _HEADER.unpack_from(data)
        if data is not None and held:
            (latest,) = _NUMBER.unpack_from(data, _HEADER.size + (0 if constant & 1 else _WORD * (held - 1)))
        if held + len(added) > self.limit:
            return None
        for entry in added:
            if entry[0] < latest:
                return None
            latest = entry[0]
        if data is None or held < _FEW:
            one = [_ENTRY.unpack_from(data, _HEADER.size)] if data is not None and held else []
            return self._of_few([*one, *added]) if added else None
        count = len(added)
        if count == 1:
            fresh = _APART.unpack(_ENTRY.pack(*added[0]))
        else:
            fresh = tuple([struct.pack(f"<{count}q", *column) for column in zip(*added, strict=True)])
        parts = [b""]
        for position, (told, new) in enumerate(zip(_layout(constant, held)(data), fresh, strict=True)):
            if len(told) > _WORD:
                parts.append(told)
                parts.append(new)
            elif new == told * count:
                parts.append(told)
            else:
                constant ^= 1 << position
                parts.append(told * held)
                parts.append(new)
        parts[0] = _HEADER.pack(ROW_VERSION, _COLUMNS, constant, held + count, self._dropped, self._first_at)
        return b"".join(parts)

    def _of_few(self, entries: list[tuple[int, ...]]) -> bytes:
        """The bytes of a row of these few, in time's order."""
        held, constant = len(entries), 0
        parts = [b""]
        for position, column in enumerate(zip(*entries, strict=True)):
            if held > 1 and column.count(column[0]) == held:
                constant |= 1 << position
                parts.append(_NUMBER.pack(column[0]))
            else:
                parts.append(struct.pack(f"<{held}q", *column))
        parts[0] = _HEADER.pack(ROW_VERSION, _COLUMNS, constant, held, self._dropped, self._first_at)
        return b"".join(parts)

    def _settle(self) -> None:
        """Make the columns, if need be, and put into them what was added."""
        if self._placed is None:
            self._unpack()
            self._placed = 0
        if self._placed < len(self._added):
            for entry in self._added[self._placed :]:
                self._insert(entry)
            self._placed = len(self._added)
        if self._data is None:
            self._added.clear()
            self._placed = 0

    def _unpack(self) -> None:
        self._totals = None
        columns: list[array[int]]
        if self._data is None:
            columns = [array("q") for _ in range(_COLUMNS)]
        else:
            _, count, constant, held, _, _ = _HEADER.unpack_from(self._data)
            cells = array("q", self._data[_HEADER.size :])
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
        self._times, self._amounts, self._orders, *self._seen = columns
        self._columns = tuple(columns)

    def _insert(self, entry: tuple[int, ...]) -> None:
        at, amount, *_ = entry
        times, totals = self._times, self._totals
        held = len(times)
        where = held if not held or times[-1] <= at else bisect_right(times, at)
        if where == held:
            for column, value in zip(self._columns, entry, strict=True):
                column.append(value)
            if totals is not None:
                totals.append(totals[-1] + amount)
        else:
            self._data = self._totals = None
            for column, value in zip(self._columns, entry, strict=True):
                column.insert(where, value)
        if held >= self.limit:
            self._drop_oldest(1)

    def _drop_oldest(self, count: int) -> None:
        self._data = None
        for column in self._columns:
            del column[:count]
        if self._totals is not None:
            del self._totals[:count]
        self._dropped += count

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
        code = fingerprint(currency)
        if self._is_all_in(code):
            totals = row._running_totals()
            return totals[end] - totals[start], end - start
        chosen = [each == code for each in row._seen[_CURRENCY][start:end]]
        return sum(compress(row._amounts[start:end], chosen)), sum(chosen)

    def largest(self, over: timedelta, currency: str) -> int | None:
        """The largest amount among the window's orders in a currency; None without one."""
        start, end, row = self._start(over), self._end, self._row
        code = fingerprint(currency)
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
        wanted = fingerprint(value)
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
