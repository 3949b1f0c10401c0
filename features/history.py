"""An entity's remembered orders as one row of coded columns, and what of it was known at an instant.

Times and amounts are sorted columns of integers, oldest order first, so that a window is two binary
searches and sums are exact whatever order the orders came in. Everything else an order says is a column
of small codes into the values that occur in it: counting the orders with this card is counting a byte.

The newest `limit` orders are held one by one. Older ones are folded into tiles, as in "Maintaining Stream
Statistics over Sliding Windows" (Datar, Gionis, Indyk, Motwani, 2002): the older, the more orders a tile
holds, and never more than a sixteenth of the orders newer than it.
"""

# ruff: noqa: SLF001 - a row and its history are one subject, and see into each other

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import compress
from operator import mul
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np

from features.columns import (
    WORD,
    Column,
    Varying,
    all_fit,
    both,
    code_of,
    different,
    inserted,
    last_known,
    lengthened,
    mask_of,
    mask_where,
    only,
    packed,
    parted,
    values_between,
    values_of,
    word,
    words,
)
from features.events import Order, microseconds
from features.facts import FACTS, LAST_COUNTS, Fact
from features.fast import Told
from features.questions import (
    AS_LARGE,
    COUNT,
    DIFFERENT,
    END,
    EVER,
    HIGH,
    IS_CUT,
    LARGEST,
    LAST,
    LAST_HELD,
    LOW,
    NEVER,
    ORDERS,
    SMALLEST,
    START,
    USED,
    WINDOW,
    Answered,
    Answers,
    Question,
    Questions,
    Span,
    squares_of,
    total_of,
)
from features.remembered import COLUMN_OF, PLACE, UNKNOWN, VALUES, fingerprint, hashed, told, word_of
from features.tiles import TILE_BYTES, TILED, Tile, TileView, last_of, merged, money_of, tiles_in

__all__ = [
    "History",
    "Row",
    "RowBytesError",
    "RowVersionError",
    "StaleHistoryError",
    "last_event_at",
]

if sys.byteorder != "little":  # pragma: no cover
    message = "rows are read where they lie, as little-endian integers; run this on a little-endian machine"
    raise ImportError(message)

ROW_VERSION = 3
LARGEST_LIMIT = 1_000_000
"""The most orders a row may be asked to hold; more would not fit a record of a topic anyway."""

_NO_WORD: Final = bytes(WORD)
_NOTHING: Final = _NO_WORD * len(COLUMN_OF)
_CURRENCY: Final = COLUMN_OF["currency"]
_CURRENCY_WORD: Final = slice(WORD * _CURRENCY, WORD * (_CURRENCY + 1))
_NO_CODES: Final = (b"", b"")
_NO_ANSWERS: Final[Answered] = np.empty(0, np.int64)
_HEAD = struct.Struct("<Bq")
_SINCE_HEAD: Final = 2
"""The first version whose bytes begin so."""
_NUMBER = struct.Struct("<q")
_SMALL = struct.Struct("<I")
_STATEMENT = struct.Struct("<qBqBqqq")
"""When it was known, what, of which order, whether it is so; when that was placed, amount and currency."""
_WHERE_WHAT, _WHERE_ORDER, _WHERE_IS_SO = 8, slice(9, 17), 17
_TOO_LARGE: Final = 2**63
"""What no number of a row can be; bytes that say so are not a row's."""
_WHAT = {what: code for code, what in enumerate(FACTS)}
_V1 = struct.Struct("<BBHIQq")
_V1_COLUMNS: Final = 14


class RowVersionError(ValueError):
    """The row was written by a newer version of this program."""


class RowBytesError(ValueError):
    """The bytes are not those of a row."""


class StaleHistoryError(RuntimeError):
    """A history was asked after its row had changed."""


# The row ------------------------------------------------------------------------------------------


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """A row's bytes, after their head.

    `_read` looks at the bounds of its numbers: msgspec's own, beside a tuple of two, crash Python (0.22).
    """

    first_at: int
    folded: int
    times: bytes
    amounts: bytes
    orders: bytes
    same: bytes
    varying: dict[int, Varying]
    tiles: bytes = b""
    used: list[bytes] = []
    facts: bytes = b""
    facts_dropped: int = 0


class _Stored2(msgspec.Struct, array_like=True, gc=False):
    """The same in version 2, which had each column by itself."""

    first_at: int
    folded: int
    times: bytes
    amounts: bytes
    orders: bytes
    columns: list[int | Varying | None]
    tiles: bytes = b""
    used: list[bytes] = []
    facts: bytes = b""
    facts_dropped: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_decode_2 = msgspec.msgpack.Decoder(_Stored2).decode


class Row:
    """One entity's remembered orders, oldest first, and what became of them.

    The newest `limit` are held one by one, and a few more, so that folding is seldom; the others are
    counted in tiles. Up to `limit`, remembering the same orders in another order makes the same row, except
    that orders placed in the same microsecond stay in the order they came. Test orders do not belong in
    it: whoever remembers checks `order.test`.
    """

    __slots__ = (
        "_amounts",
        "_changes",
        "_facts",
        "_facts_dropped",
        "_first_at",
        "_fold_at",
        "_folded",
        "_newest_at",
        "_orders",
        "_same",
        "_tile_view",
        "_tiles",
        "_times",
        "_used",
        "_varying",
        "limit",
    )

    def __init__(self, limit: int) -> None:
        """Begin a row without orders."""
        if not 1 <= limit <= LARGEST_LIMIT:
            message = f"Row(limit={limit}) must hold 1 to {LARGEST_LIMIT} orders"
            raise ValueError(message)
        self.limit = limit
        self._fold_at = limit + max(1, limit // TILED)
        """How many orders are too many."""
        self._times = b""
        self._amounts = b""
        """Of four bytes each as long as none needs eight."""
        self._orders = b""
        self._same = _NOTHING
        """What every order held says, column by column as `told` has it; 0 in the columns that vary."""
        self._varying: dict[int, Varying] = {}
        """The columns in which orders differ, in the order of their positions."""
        self._tiles = b""
        self._used: list[bytes] = []
        """For each of VALUES, pairs of a text folded with its order and when it was last so, newest first."""
        self._facts = b""
        self._facts_dropped = 0
        self._folded = 0
        self._first_at: int | None = None
        self._newest_at: int | None = None
        """When the newest order held was placed."""
        self._changes = 0
        self._tile_view: TileView | None = None

    def __len__(self) -> int:
        """How many orders are held one by one."""
        return len(self._times) // WORD

    def __contains__(self, order_id: str) -> bool:
        """Whether an order of this id is held."""
        return code_of(self._orders, word_of(order_id)) >= 0

    def __eq__(self, other: object) -> bool:
        """Whether two rows hold, and have folded, the same."""
        return self.encode() == other.encode() if isinstance(other, Row) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        """Count and bounds only: no customer's data."""
        return f"<Row of {len(self)} orders, limit {self.limit}, {self.folded} folded>"

    @property
    def folded(self) -> int:
        """How many orders were remembered and are no longer held one by one."""
        return self._folded

    @property
    def facts_dropped(self) -> int:
        """How many statements about orders were learned and are no longer held: the earliest known ones."""
        return self._facts_dropped

    @property
    def first_at(self) -> int | None:
        """When the first order ever remembered was placed, held or not; microseconds since 1970."""
        return self._first_at

    @property
    def last_at(self) -> int | None:
        """When the newest order was placed or the newest fact known, whichever is later; None for neither."""
        last = self._newest_at
        if last is None:
            last = last_of(self._tiles) if self._tiles else NEVER
        if self._facts:
            (known_at,) = _NUMBER.unpack_from(self._facts, len(self._facts) - _STATEMENT.size)
            last = max(last, known_at)
        return None if last == NEVER else last

    def remember(self, order: Order | Told, said: bytes | None = None) -> bool:
        """Insert the order where it belongs by `placed_at`; whether it came late, after a newer one.

        `said` is what `told` answers of the order, where that is known already.
        """
        said = told(order) if said is None else said
        at, newest_at = microseconds(order.placed_at), self._newest_at
        self._changes += 1
        if self._first_at is None or at < self._first_at:
            self._first_at = at
        is_late = newest_at is not None and newest_at > at
        if is_late or (newest_at is None and self._tiles):
            self._insert(at, order.amount, word_of(order.order_id), said)
        else:
            self._append(at, order.amount, word_of(order.order_id), said)
        return is_late

    def forget(self, order_id: str, placed_at: datetime) -> bool:
        """Take one order out again, as when a revision replaces it; False when it is not held one by one."""
        at, wanted = microseconds(placed_at), word_of(order_id)
        times = self._times_view()
        for where in range(bisect_left(times, at), bisect_right(times, at)):
            if self._orders[WORD * where : WORD * (where + 1)] == wanted:
                break
        else:
            return False
        self._changes += 1
        held = len(self)
        if held == 1:
            self._same = _NOTHING
        self._set(
            {
                position: [*values[:where], *values[where + 1 :]]
                for position, column in self._varying.items()
                for values in (values_of(column, held),)
            }
        )
        amounts = self._amounts_view().tolist()
        del amounts[where]
        self._amounts = _amounts_packed(amounts)
        self._times = _without(self._times, where)
        self._orders = _without(self._orders, where)
        self._newest_at = self._times_view()[-1] if self._times else None
        if not self._folded:
            self._first_at = self._times_view()[0] if self._times else None
        return True

    def learn(self, fact: Fact) -> bool:
        """Note what became of an order, whether or not the order is held; False when it is known already.

        Beyond `limit` statements the one known earliest is dropped, and counted.
        """
        where, statement, is_known = self._find(fact)
        if is_known:
            return False
        self._changes += 1
        self._facts = self._facts[:where] + statement + self._facts[where:]
        self._drop_facts()
        return True

    def unlearn(self, fact: Fact) -> bool:
        """Take a fact out again, as when an outcome supersedes one known later; False when it is not held."""
        where, statement, is_known = self._find(fact)
        if not is_known:
            return False
        self._changes += 1
        self._facts = self._facts[:where] + self._facts[where + len(statement) :]
        return True

    def forget_facts(self, order_id: str) -> bool:
        """Take out all that became of an order, as when a revision moves it; False when nothing is held.

        Beside `forget`, because what became of an order is known also of one that is folded.
        """
        wanted, size = word_of(order_id), _STATEMENT.size
        if wanted not in self._facts:  # the usual case
            return False
        each = [self._facts[at : at + size] for at in range(0, len(self._facts), size)]
        kept = b"".join([said for said in each if said[_WHERE_ORDER] != wanted])
        is_known = len(kept) < len(self._facts)
        if is_known:
            self._changes += 1
            self._facts = kept
        return is_known

    def _find(self, fact: Fact) -> tuple[int, bytes, bool]:
        """Where among the facts' bytes it stands or would, its own bytes, and whether it is there."""
        statement = (
            *(microseconds(fact.known_at), _WHAT[fact.what], hashed(fact.order_id), int(fact.is_so)),
            *(microseconds(fact.placed_at), fact.amount, fingerprint(fact.currency)),
        )
        statements = list(_STATEMENT.iter_unpack(self._facts))
        where = bisect_left(statements, statement)
        is_known = where < len(statements) and statements[where] == statement
        return where * _STATEMENT.size, _STATEMENT.pack(*statement), is_known

    def _drop_facts(self) -> None:
        dropped = len(self._facts) // _STATEMENT.size - self.limit
        if dropped > 0:
            self._facts = self._facts[_STATEMENT.size * dropped :]
            self._facts_dropped += dropped

    def as_of(self, instant: datetime) -> "History":
        """What the row held from strictly before the instant; good until the row changes."""
        return History(self, microseconds(instant))

    def encode(self) -> bytes:
        """The row as bytes: version, last event, then MessagePack of columns as little-endian integers."""
        last_at = self.last_at
        return _HEAD.pack(ROW_VERSION, NEVER if last_at is None else last_at) + _encode(
            _Stored(
                NEVER if self._first_at is None else self._first_at,
                self._folded,
                self._times,
                self._amounts,
                self._orders,
                self._same,
                self._varying,
                self._tiles,
                self._used,
                self._facts,
                self._facts_dropped,
            )
        )

    @classmethod
    def decode(cls, data: bytes, limit: int) -> Self:
        """The row in the bytes; where `limit` is smaller than it was, the oldest are folded.

        Raises RowVersionError for bytes of a newer version, and RowBytesError for what is not a row.
        """
        if not data:
            message = "a row's bytes are empty; restore the row from its changelog"
            raise RowBytesError(message)
        if data[0] > ROW_VERSION:
            message = (
                f"a row is of version {data[0]} and this program reads up to {ROW_VERSION}; run the version "
                "that wrote it, or a newer one (docs/upgrades.md)"
            )
            raise RowVersionError(message)
        row = cls(limit)
        try:
            if data[0] == 1:
                row._read_version_1(data)
            else:
                row._read(data)
            held = len(row._times) // WORD
            if held:
                row._newest_at = _NUMBER.unpack_from(row._times, WORD * (held - 1))[0]
            if held >= row._fold_at:
                row._fold()
        except struct.error as error:  # amounts below 0, or tiles that say more than any order could
            raise RowBytesError(_not_a_row(data)) from error
        if row._facts:
            row._drop_facts()
        return row

    def _read(self, data: bytes) -> None:
        try:
            stored = (_decode if data[0] == ROW_VERSION else _upcast)(memoryview(data)[_HEAD.size :])
        except (msgspec.MsgspecError, ValueError) as error:
            raise RowBytesError(_not_a_row(data)) from error
        times, same, varying = stored.times, stored.same, stored.varying
        held = len(times) // WORD
        if (
            data[0] == 0
            or len(times) != WORD * held
            or len(stored.orders) != len(times)
            or len(stored.amounts) not in (WORD * held, _SMALL.size * held)
            or len(same) > len(_NOTHING)
            or len(same) % WORD
            or not all_fit(varying, same, held)
            or len(stored.tiles) % TILE_BYTES
            or len(stored.facts) % _STATEMENT.size
            or len(stored.used) > len(VALUES)
            or any(len(used) % (2 * WORD) for used in stored.used)
            or not NEVER <= stored.first_at < _TOO_LARGE
            or not 0 <= stored.folded < _TOO_LARGE
            or not 0 <= stored.facts_dropped < _TOO_LARGE
        ):
            raise RowBytesError(_not_a_row(data))
        self._first_at = None if stored.first_at == NEVER else stored.first_at
        self._folded = stored.folded
        self._times, self._amounts, self._orders = times, stored.amounts, stored.orders
        # one written before a column was added: of these orders nobody remembers it
        self._same = same if len(same) == len(_NOTHING) else same.ljust(len(_NOTHING), b"\0")
        self._varying = varying
        self._tiles, self._used = stored.tiles, stored.used
        if self._used:
            self._used += [b""] * (len(VALUES) - len(self._used))
        self._facts, self._facts_dropped = stored.facts, stored.facts_dropped

    def _read_version_1(self, data: bytes) -> None:
        if len(data) < _V1.size:
            raise RowBytesError(_not_a_row(data))
        _, count, constant, held, dropped, first_at = _V1.unpack_from(data)
        numbers = count * held - constant.bit_count() * (held - 1)
        if (
            count != _V1_COLUMNS
            or constant >> count
            or dropped >= _TOO_LARGE
            or held > LARGEST_LIMIT  # where all columns are constant, no length says how many orders
            or len(data) != _V1.size + WORD * numbers
        ):
            raise RowBytesError(_not_a_row(data))
        columns, start = [], _V1.size
        for position in range(count):
            length = 1 if constant >> position & 1 else held
            values = words(data[start : start + WORD * length])
            start += WORD * length
            columns.append(values * held if length < held else values)
        times, amounts, orders, *seen = columns
        self._times = struct.pack(f"<{held}q", *times)
        self._amounts = _amounts_packed(amounts)
        self._orders = struct.pack(f"<{held}q", *orders)
        self._set(dict(enumerate(seen)))
        self._folded = dropped
        self._first_at = None if first_at == NEVER else first_at

    # What follows changes the columns ----------------------------------------------------------

    def _times_view(self) -> memoryview:
        return memoryview(self._times).cast("q")

    def _amounts_view(self) -> memoryview:
        return memoryview(self._amounts).cast("q" if len(self._amounts) == len(self._times) else "I")

    def _column(self, position: int) -> Column:
        return self._varying.get(position) or self._same[WORD * position : WORD * (position + 1)]

    def _set(self, columns: Mapping[int, Sequence[int]]) -> None:
        """Let these columns hold these values; the others stay."""
        same, varying = bytearray(self._same), self._varying
        for position, values in columns.items():
            column, here = packed(values), slice(WORD * position, WORD * (position + 1))
            if isinstance(column, bytes):
                varying.pop(position, None)
                same[here] = column
            else:
                varying[position] = column
                same[here] = _NO_WORD
        self._same, self._varying = bytes(same), dict(sorted(varying.items()))

    def _append(self, at: int, amount: int, order: bytes, said: bytes) -> None:
        """Insert an order that none held is newer than."""
        held = len(self._times) // WORD
        self._times += _NUMBER.pack(at)
        self._newest_at = at
        self._orders += order
        if amount >> 32 == 0 and len(self._amounts) == _SMALL.size * held:
            self._amounts += _SMALL.pack(amount)
        elif held and len(self._amounts) == WORD * held:
            self._amounts += _NUMBER.pack(amount)
        else:
            self._amounts = _amounts_packed([*memoryview(self._amounts).cast("I"), amount])
        if held:
            self._say(held, held, said)
        else:
            self._same = said
        if held + 1 >= self._fold_at:
            self._fold()

    def _say(self, held: int, where: int, said: bytes) -> None:
        """Let the columns of so many orders have at `where` what one more says."""
        rest, varying = bytearray(said), self._varying
        for position, column in varying.items():
            here = slice(WORD * position, WORD * (position + 1))
            varying[position] = (
                lengthened(column, held, said[here])
                if where == held
                else inserted(column, held, where, said[here])
            )
            rest[here] = _NO_WORD
        if rest != self._same:  # seldom: an order says what no other did in a column where all agreed
            self._let_vary(held, where, bytes(rest))

    def _let_vary(self, held: int, where: int, said: bytes) -> None:
        """Let columns vary in which the order just added at `where` says something else than all others."""
        same, varying = bytearray(self._same), self._varying
        for position in range(len(said) // WORD):
            here = slice(WORD * position, WORD * (position + 1))
            if said[here] != same[here]:
                varying[position] = parted(bytes(same[here]), held, where, said[here])
                same[here] = _NO_WORD
        self._same, self._varying = bytes(same), dict(sorted(varying.items()))

    def _insert(self, at: int, amount: int, order: bytes, said: bytes) -> None:
        if not self._times:  # all that were held have been forgotten
            if last_of(self._tiles) > at:
                self._count_late(at, amount, said)
            else:
                self._append(at, amount, order, said)
        elif self._tiles and _NUMBER.unpack_from(self._times)[0] > at:
            self._count_late(at, amount, said)
        else:
            self._insert_between(at, amount, order, said)
            if len(self) >= self._fold_at:
                self._fold()

    def _insert_between(self, at: int, amount: int, order: bytes, said: bytes) -> None:
        held, where = len(self), bisect_right(self._times_view(), at)
        byte = where * WORD
        width = len(self._amounts) // held
        if amount >> 32 == 0 or width == WORD:
            here = width * where
            self._amounts = self._amounts[:here] + amount.to_bytes(width, "little") + self._amounts[here:]
        else:
            amounts = self._amounts_view().tolist()
            amounts.insert(where, amount)
            self._amounts = _amounts_packed(amounts)
        self._times = self._times[:byte] + _NUMBER.pack(at) + self._times[byte:]
        self._orders = self._orders[:byte] + order + self._orders[byte:]
        self._say(held, where, said)

    def _count_late(self, at: int, amount: int, told: bytes) -> None:
        """Count an order that is older than all that are held."""
        said = words(told)
        tiles = tiles_in(self._tiles)
        where = max(bisect_right([tile.first_at for tile in tiles], at) - 1, 0)
        tiles[where].take(Tile(at, at, {said[_CURRENCY]: money_of([amount])}))
        self._tiles = b"".join(tile.encode() for tile in tiles)
        self._tile_view = None
        self._folded += 1
        self._use({position: {said[position]: at} for position in range(len(VALUES))})

    def _fold(self) -> None:
        """Fold the oldest orders into tiles where more are held than should be."""
        held, chunk = len(self), self._fold_at - self.limit
        tiles = tiles_in(self._tiles)
        times, amounts = self._times_view(), self._amounts_view()
        columns = {position: values_of(column, held) for position, column in self._varying.items()}
        same = words(self._same)
        currencies = columns.get(_CURRENCY)
        start = 0
        while held - start >= self._fold_at:
            end = start + chunk
            money: dict[int, list[int]] = {}
            for where in range(start, end):
                code = same[_CURRENCY] if currencies is None else currencies[where]
                money.setdefault(code, []).append(amounts[where])
            tiles.append(
                Tile(times[start], times[end - 1], {code: money_of(each) for code, each in money.items()})
            )
            start = end
            tiles = merged(tiles, held - start)
        last_used: dict[int, dict[int, int]] = {}
        for position in range(len(VALUES)):
            column = columns.get(position)
            if column is None:
                last_used[position] = {same[position]: times[start - 1]}
            else:  # of one text the last time wins
                last_used[position] = dict(zip(column[:start], times[:start], strict=True))
        self._use(last_used)
        self._tiles = b"".join(tile.encode() for tile in tiles)
        self._tile_view = None
        self._folded += start
        self._set({position: column[start:] for position, column in columns.items()})
        width = len(self._amounts) // held
        self._amounts = self._amounts[width * start :]
        if width == WORD:
            self._amounts = _amounts_packed(words(self._amounts))
        self._times = self._times[WORD * start :]
        self._orders = self._orders[WORD * start :]

    def _use(self, last_used: Mapping[int, Mapping[int, int]]) -> None:
        """Note when each text was last used by an order that is folded."""
        if not self._used:
            self._used = [b""] * len(VALUES)
        for position, fresh in last_used.items():
            used = _used_in(self._used[position])
            for value, at in fresh.items():
                if value != UNKNOWN:
                    used[value] = max(at, used.get(value, NEVER))
            newest = sorted(((at, value) for value, at in used.items()), reverse=True)[:USED]
            self._used[position] = b"".join(_NUMBER.pack(value) + _NUMBER.pack(at) for at, value in newest)

    def column(self, name: str) -> list[int]:
        """What is remembered of each order held, oldest first: for tests and for people.

        `name` is placed_at (microseconds since 1970), amount (minor units), order (its id's fingerprint), one
        of VALUES (fingerprints, 0 for unknown), NUMBERS and the place (one larger than said, 0 for unknown).
        """
        if name == "placed_at":
            return self._times_view().tolist()
        if name == "amount":
            return self._amounts_view().tolist()
        if name == "order":
            return list(words(self._orders))
        return values_of(self._column(COLUMN_OF[name]), len(self))

    # What follows only asks ---------------------------------------------------------------------

    def _has_dropped(self) -> bool:
        """Whether orders are in no tile: those that a row of version 1 no longer held."""
        return self._folded > sum(self._tiled().counts)

    def _tiled(self) -> TileView:
        if self._tile_view is None:
            self._tile_view = TileView(self._tiles)
        return self._tile_view


def _upcast(content: memoryview) -> _Stored:
    """What version 2 stored, as it is stored now."""
    two = _decode_2(content)
    same = [column if isinstance(column, int) else UNKNOWN for column in two.columns]
    if any(not NEVER <= each < _TOO_LARGE for each in same):
        raise ValueError
    return _Stored(
        *(two.first_at, two.folded, two.times, two.amounts, two.orders, struct.pack(f"<{len(same)}q", *same)),
        {position: column for position, column in enumerate(two.columns) if isinstance(column, tuple)},
        *(two.tiles, two.used, two.facts, two.facts_dropped),
    )


def _not_a_row(data: bytes) -> str:
    return f"{len(data)} bytes are not a row of version {data[0]}; restore the row from its changelog"


def _without(raw: bytes, where: int) -> bytes:
    return raw[: WORD * where] + raw[WORD * (where + 1) :]


def _amounts_packed(amounts: Sequence[int]) -> bytes:
    small = max(amounts, default=0) >> 32 == 0
    return struct.pack(f"<{len(amounts)}{'I' if small else 'q'}", *amounts)


def _used_in(raw: bytes) -> dict[int, int]:
    pairs = words(raw)
    return dict(zip(pairs[0::2], pairs[1::2], strict=True))


def last_event_at(data: bytes) -> int | None:
    """`Row.last_at` of a row's bytes, without reading the rest of them."""
    if len(data) < _HEAD.size or not _SINCE_HEAD <= data[0] <= ROW_VERSION:
        return Row.decode(data, LARGEST_LIMIT).last_at
    last_at: int = _HEAD.unpack_from(data)[1]
    return None if last_at == NEVER else last_at


# The history --------------------------------------------------------------------------------------


class _Said(NamedTuple):
    """What is known of one order."""

    known_at: int
    first_known_at: int
    placed_at: int
    money: tuple[tuple[int, int], ...]
    """Amounts and their currencies."""


class History:
    """An entity's orders from strictly before `as_of`, oldest first: a view of its row, without copies.

    It is cut off when it is built, so whatever a feature does with it, it cannot see the order being
    scored nor anything after it. The row has to stay as it is while the history is read; after a
    change every question raises StaleHistoryError.
    """

    __slots__ = (
        *("_alone", "_answers", "_changes", "_currency", "_end", "_places", "_row", "_said", "_times"),
        *("as_of", "is_exact"),
    )

    def __init__(self, row: Row, as_of: int) -> None:
        """Cut the row off at an instant in microseconds since 1970."""
        self.as_of = as_of
        self.is_exact = True
        """Whether every question so far was answered exactly; see the module for the bound where not."""
        self._row = row
        self._times = row._times_view()
        self._end = bisect_left(self._times, as_of)
        self._changes = row._changes
        self._places: Mapping[Span, int] = {}
        """Where, in what was answered together, windows stand whose amounts count in one currency."""
        self._currency = _NO_WORD
        self._answers = _NO_ANSWERS
        self._alone: dict[tuple[Span, int | None], Answers] = {}
        """What is in windows that were asked about by themselves, by the currency."""
        self._said: dict[str, dict[int, _Said]] = {}

    def __len__(self) -> int:
        """How many orders are held one by one from before `as_of`."""
        self._fresh()
        return self._end

    # Many questions -----------------------------------------------------------------------------

    def answer(self, questions: Questions, said: bytes, amount: int, placed_at: int) -> Answered:
        """The answers to many questions; what windows hold stays known for the questions that follow.

        `said` is what `told` answers of the order, and amounts count in its currency; `placed_at` is in
        microseconds since 1970. Whoever reads of windows and numbers that tiles cut sees to `is_exact`.
        """
        self._answers = answers = self._answered(questions, said, amount, placed_at)
        self._places, self._currency = questions.windows, said[_CURRENCY_WORD]
        return answers

    def _answer(self, questions: Questions, said: bytes, amount: int = 0, placed_at: int = 0) -> Answers:
        answers: Answers = self._answered(questions, said, amount, placed_at).tolist()
        return answers

    def _answered(self, questions: Questions, said: bytes, amount: int, placed_at: int) -> Answered:
        row = self._fresh()
        varying, used = row._varying, row._used
        head, column_codes = [0], []
        pieces: list[bytes] = []
        for position in questions.columns:
            if position in varying or position < len(used):
                vocabulary, codes = varying.get(position, _NO_CODES)
                last_used = used[position] if position < len(used) else b""
                head += (position, len(vocabulary) // WORD, len(codes), len(last_used) // WORD)
                pieces += (vocabulary, last_used)
                column_codes.append(codes)
        head[0] = len(column_codes)
        answers = questions.answer(
            row._times,
            row._amounts,
            row._tiles,
            row._folded,
            self.as_of,
            b"".join((said, row._same, array("q", head).tobytes(), *pieces)),
            b"".join(column_codes),
            amount,
            placed_at,
        )
        if not answers[0]:
            self.is_exact = False
        return answers

    def _within(self, window: Span, currency: int | None = None) -> Answers:
        """What the window holds; `is_exact` is left to who asks."""
        self._fresh()
        at = self._places.get(window)
        if at is not None and (currency is None or word(currency) == self._currency):
            answers: Answers = self._answers[at : at + WINDOW].tolist()
            return answers
        found = self._alone.get((window, currency))
        if found is None:
            said = _NOTHING if currency is None else _only_said("currency", currency)
            found = self._alone[window, currency] = self._answer(_asked((window,)), said)[1:]
        return found

    def _of_tiles(self, window: Span, currency: int | None = None) -> Answers:
        """What the window holds, for a question that tiles answer too."""
        found = self._within(window, currency)
        if found[IS_CUT]:
            self.is_exact = False
        return found

    # Orders -------------------------------------------------------------------------------------

    def count(self, window: Span) -> int:
        """How many orders were placed in the window."""
        return self._of_tiles(window)[ORDERS]

    def first_at(self) -> int | None:
        """When the first order ever remembered was placed, if that was before `as_of`; held or folded."""
        first_at = self._fresh()._first_at
        return first_at if first_at is not None and first_at < self.as_of else None

    def last_at(self) -> int | None:
        """When the last order from before `as_of` was placed, in microseconds since 1970."""
        row = self._fresh()
        if self._end:
            at: int = self._times[self._end - 1]
            return at
        if not row._folded:
            return None
        tiles = row._tiled()
        before = bisect_left(tiles.lasts, self.as_of)
        if before < len(tiles.firsts) and tiles.firsts[before] < self.as_of:
            self.is_exact = False
            return tiles.firsts[before]
        if before:
            return tiles.lasts[before - 1]
        if row._has_dropped():
            self.is_exact = False
        return self.first_at()

    def currencies(self, window: Span) -> list[int]:
        """The currencies of the window's orders, as fingerprints, in a fixed order."""
        found = self._of_tiles(window)
        currencies = self._different(_CURRENCY, found[START], found[END])
        if found[HIGH] > found[LOW]:
            currencies |= set(self._row._tiled().currencies[found[LOW] : found[HIGH]])
        return sorted(currencies)

    def spent(self, window: Span, currency: int, chosen: bytes | None = None) -> tuple[int, int]:
        """How many of the window's orders are in a currency (its fingerprint), and their minor units in all.

        `chosen` has a 1 for each of the held orders that counts, and a 0 for the others.
        """
        if chosen is None:
            found = self._of_tiles(window, currency)
            return found[COUNT], total_of(found)
        amounts = self._amounts(window, currency, chosen)
        return len(amounts), sum(amounts)

    def squares(self, window: Span, currency: int, chosen: bytes | None = None) -> int:
        """The sum of the squares of the amounts that `spent` adds up."""
        if chosen is None:
            return squares_of(self._of_tiles(window, currency))
        amounts = self._amounts(window, currency, chosen)
        return sum(map(mul, amounts, amounts))

    def smallest(self, window: Span, currency: int, chosen: bytes | None = None) -> int | None:
        """The smallest of the amounts that `spent` adds up; None without one."""
        if chosen is None:
            found = self._of_tiles(window, currency)
            return found[SMALLEST] if found[COUNT] else None
        return min(self._amounts(window, currency, chosen), default=None)

    def largest(self, window: Span, currency: int, chosen: bytes | None = None) -> int | None:
        """The largest of the amounts that `spent` adds up; None without one."""
        if chosen is None:
            found = self._of_tiles(window, currency)
            return found[LARGEST] if found[COUNT] else None
        return max(self._amounts(window, currency, chosen), default=None)

    def _amounts(self, window: Span, currency: int, chosen: bytes) -> list[int]:
        """The amounts, in minor units, of the held orders that are chosen and in a currency."""
        start, end = self.held_window(window)
        in_it = both(self.where_is(_CURRENCY, currency, start, end), chosen)
        return list(compress(self.held_amounts(start, end), in_it))

    def numbers(self, what: str, window: Span) -> Answers:
        """What the window's held orders say of one of NUMBERS, as if it were their amount."""
        questions = _asked((), (), ((what, window),))
        found = self._answer(questions, _NOTHING)[questions.numbers[what, window] :]
        if found[IS_CUT]:
            self.is_exact = False
        return found

    def chosen_numbers(self, what: str, window: Span, chosen: bytes) -> list[int]:
        """The known numbers, of one of NUMBERS, of the window's held orders that are chosen."""
        values = self._slice(COLUMN_OF[what], *self.held_window(window))
        return [value - 1 for value in compress(values, chosen) if value]

    def distinct(self, what: str, window: Span, chosen: bytes | None = None) -> int:
        """How many known, different texts of one of VALUES the window's orders had."""
        if chosen is None:
            return self._ask(DIFFERENT, what, UNKNOWN, window)
        return len(set(compress(self._slice(COLUMN_OF[what], *self.held_window(window)), chosen)) - {UNKNOWN})

    def has_seen(self, what: str, value: int) -> bool:
        """Whether an order from before `as_of` had this text (its fingerprint) of one of VALUES."""
        return self.last_with(what, value) is not None

    def count_where(self, question: Question, order: Order) -> tuple[int, int] | None:
        """What a question that counts held orders of a window answers, and how many there are.

        None where the order does not say what they are compared with.
        """
        said = _NOTHING
        if question.what in VALUES:
            said = _only_said(question.what, fingerprint(VALUES[question.what](order)))
        elif question.ask == AS_LARGE:
            said = _only_said("currency", fingerprint(order.currency))
        questions = _asked((), (question,))
        answers = self._answer(questions, said, order.amount, microseconds(order.placed_at))
        count, at = answers[-1], questions.windows[question.window]
        return None if count == NEVER else (count, answers[at + END] - answers[at + START])

    def last_with(self, what: str, value: int) -> int | None:
        """When the last order from before `as_of` with this text was placed; None for never."""
        last = self._ask(LAST, what, value, EVER)
        return None if last == NEVER else last

    def last_held_with(self, what: str, value: int, window: Span) -> int | None:
        """When the last of the window's held orders with this text was placed; None without one."""
        last = self._ask(LAST_HELD, what, value, window)
        return None if last == NEVER else last

    def _ask(self, ask: int, what: str, value: int, window: Span) -> int:
        return self._answer(_asked((), (Question(ask, what, window),)), _only_said(what, value))[-1]

    def last_place(self) -> tuple[int, int] | None:
        """The place and time of the last order from before `as_of` that says where; of those held."""
        row = self._fresh()
        last = last_known(row._column(COLUMN_OF[PLACE]), len(row), self._end)
        if last is not None:
            place, where = last
            return place, self._times[where]
        if row._folded:
            self.is_exact = False
        return None

    # Which of them ------------------------------------------------------------------------------

    def where_is(self, what: str | int, value: int, start: int, end: int) -> bytes:
        """For each held order from start to end: 1 if its column holds the value, else 0."""
        row = self._fresh()
        column = row._column(COLUMN_OF[what] if isinstance(what, str) else what)
        return mask_of(column, len(row), word(value), start, end)

    def where_number(self, what: str, counts: Callable[[int], bool], start: int, end: int) -> bytes:
        """For each held order from start to end: 1 if one of NUMBERS is known of it and counts, else 0."""
        row = self._fresh()
        column = row._column(COLUMN_OF[what])
        return mask_where(column, len(row), lambda value: value > 0 and counts(value - 1), start, end)

    def held_numbers(self, what: str, start: int, end: int) -> list[int | None]:
        """One of NUMBERS for each held order from start to end; None where it is unknown."""
        return [value - 1 if value else None for value in self._slice(COLUMN_OF[what], start, end)]

    def held_amounts(self, start: int, end: int) -> Sequence[int]:
        """The amount, in minor units of its own currency, of each held order from start to end."""
        return self._row._amounts_view()[start:end]

    def held_times(self, start: int, end: int) -> Sequence[int]:
        """When each held order from start to end was placed, in microseconds since 1970."""
        return self._times[start:end]

    def where_known(self, what: str, start: int, end: int) -> bytes:
        """For each held order from start to end: 1 if one of FACTS is known of it, else 0."""
        known = self._facts(what)
        if not known:
            return bytes(end - start)
        orders = words(self._row._orders[WORD * start : WORD * end])
        return bytes([order in known for order in orders])

    def held_orders(self, start: int, end: int) -> tuple[int, ...]:
        """The fingerprint of each held order's id, from start to end: for whoever knows the orders."""
        self._fresh()
        return words(self._row._orders[WORD * start : WORD * end])

    def held_window(self, window: Span) -> tuple[int, int]:
        """Where the window's held orders lie; what is folded is not looked at."""
        found = self._within(window)
        if found[IS_CUT] or found[HIGH] > found[LOW]:
            self.is_exact = False
        return found[START], found[END]

    # What became of them ------------------------------------------------------------------------

    @property
    def says_what_became(self) -> bool:
        """Whether anything was ever said of what became of orders, known by now or not, held or dropped."""
        row = self._fresh()
        return bool(row._facts or row._facts_dropped)

    def known(self, what: str, window: Span) -> int:
        """Of how many orders placed in the window one of FACTS is known; held, folded or neither."""
        return len(self._facts_within(what, window))

    def known_amounts(self, what: str, window: Span) -> list[tuple[int, int]]:
        """The amounts, and their currencies' fingerprints, of what `known` counts."""
        return [money for said in self._facts_within(what, window) for money in said.money]

    def known_at(self, what: str) -> tuple[int, int] | None:
        """When one of FACTS was first and last known of an order; None where it is not."""
        said = self._facts(what).values()
        if not said:
            return None
        return min(each.first_known_at for each in said), max(each.known_at for each in said)

    def _facts_within(self, what: str, window: Span) -> list[_Said]:
        if not self._fresh()._facts:  # the usual case
            return []
        facts = self._facts(what)
        over, after = window
        until = self.as_of - after
        since = NEVER if over is None else until - over
        return [said for said in facts.values() if since <= said.placed_at < until]

    def _facts(self, what: str) -> Mapping[int, _Said]:
        row = self._fresh()
        said = self._said.get(what)
        if said is None:
            said = self._said[what] = self._read_facts(row._facts, _WHAT[what])
        if row._facts_dropped:
            self.is_exact = False
        return said

    def _read_facts(self, statements: bytes, what: int) -> dict[int, _Said]:
        about: dict[int, _Said] = {}
        if not statements:
            return about
        mine = statements[_WHERE_WHAT :: _STATEMENT.size].translate(only(what))
        if 1 not in both(mine, statements[_WHERE_IS_SO :: _STATEMENT.size]):
            return about  # the usual case: nothing but that orders were no fraud
        is_replaced = FACTS[what] in LAST_COUNTS
        for at in compress(range(0, len(statements), _STATEMENT.size), mine):
            known_at, _, order, is_so, placed_at, amount, currency = _STATEMENT.unpack_from(statements, at)
            if known_at >= self.as_of:
                break  # sorted by it
            before = about.get(order)
            if not is_so:
                # of two statements known at one instant the one that it is so comes last, and wins
                about.pop(order, None)
            elif before is None or is_replaced:
                first_known_at = known_at if before is None else before.first_known_at
                about[order] = _Said(known_at, first_known_at, placed_at, ((amount, currency),))
            else:
                money = (*before.money, (amount, currency))
                about[order] = _Said(known_at, before.first_known_at, placed_at, money)
        return about

    # Columns ------------------------------------------------------------------------------------

    def _fresh(self) -> Row:
        if self._changes != self._row._changes:
            message = "the row has changed since this history was taken of it; ask Row.as_of for another"
            raise StaleHistoryError(message)
        return self._row

    def _slice(self, position: int, start: int, end: int) -> list[int]:
        return values_between(self._row._column(position), len(self._row), start, end)

    def _different(self, position: int, start: int, end: int) -> set[int]:
        return different(self._row._column(position), len(self._row), start, end)


def _only_said(what: str, value: int) -> bytes:
    """What `told` would answer of an order that says nothing but this."""
    before = WORD * COLUMN_OF[what]
    return _NOTHING[:before] + word(value) + _NOTHING[before + WORD :]


_asked = lru_cache(maxsize=1024)(Questions)
