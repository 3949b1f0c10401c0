"""Orders that are no longer held one by one: how many, their amounts, from when to when.

As the buckets of "Maintaining Stream Statistics over Sliding Windows" (Datar, Gionis, Indyk, Motwani, 2002):
the older, the more orders a tile holds, and never more than a sixteenth of the orders newer than it.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress, groupby
from typing import Final, NamedTuple

__all__ = ["TILED", "TILE_BYTES", "Money", "Tile", "TileView", "last_of", "merged", "money_of", "tiles_in"]

TILED: Final = 16
"""A tile holds at most one sixteenth of the orders newer than it: the error bound of a window's count."""

_TILE = struct.Struct("<9q")
_TILE_WORDS: Final = 9
"""First and last order, currency; how many, total, squares (two words), smallest, largest. A tile in several
currencies is several of them in a row."""
_ORDERS, _TOTAL, _SQUARES, _SMALLEST, _LARGEST = 3, 4, 5, 7, 8
TILE_BYTES: Final = _TILE.size
_WORD: Final = 8
_BITS: Final = 63


def last_of(raw: bytes) -> int:
    """When the newest order of the last tile was placed."""
    last: int = _TILE.unpack_from(raw, len(raw) - _TILE.size)[1]
    return last


class Money(NamedTuple):
    """Amounts of one currency, in minor units."""

    orders: int
    total: int
    squares: int
    smallest: int
    largest: int

    def plus(self, other: "Money") -> "Money":
        """Both together."""
        return Money(
            self.orders + other.orders,
            self.total + other.total,
            self.squares + other.squares,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )


def money_of(amounts: Sequence[int]) -> Money:
    """These amounts, at least one."""
    return Money(len(amounts), sum(amounts), sum(each * each for each in amounts), min(amounts), max(amounts))


class Tile:
    """Orders that are no longer held one by one."""

    __slots__ = ("count", "first_at", "last_at", "money")

    def __init__(self, first_at: int, last_at: int, money: dict[int, Money]) -> None:
        self.first_at = first_at
        self.last_at = last_at
        self.money = money
        self.count = sum(each.orders for each in money.values())

    def take(self, other: "Tile") -> None:
        """Count another tile's orders too."""
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)
        self.count += other.count
        for currency, money in other.money.items():
            mine = self.money.get(currency)
            self.money[currency] = money if mine is None else mine.plus(money)

    def encode(self) -> bytes:
        """The tile as bytes."""
        return b"".join(
            _TILE.pack(
                *(self.first_at, self.last_at, currency, money.orders, money.total),
                *(money.squares >> _BITS, money.squares & (1 << _BITS) - 1, money.smallest, money.largest),
            )
            for currency, money in sorted(self.money.items())
        )


def tiles_in(raw: bytes) -> list[Tile]:
    """The tiles in the bytes, oldest first; neighbours of one and the same microsecond come out as one."""
    tiles = []
    for (first_at, last_at), records in groupby(_TILE.iter_unpack(raw), key=lambda record: record[:2]):
        tile = Tile(first_at, last_at, {})
        for _, _, currency, count, total, high, low, smallest, largest in records:
            money = Money(count, total, high << _BITS | low, smallest, largest)
            tile.take(Tile(first_at, last_at, {currency: money}))
        tiles.append(tile)
    return tiles


def merged(tiles: list[Tile], newer: int) -> list[Tile]:
    """The tiles, oldest first, of which two neighbours are one where both are few beside what is newer."""
    kept: list[Tile] = []
    for tile in reversed(tiles):
        if kept and (tile.count + kept[-1].count) * TILED <= newer:
            kept[-1].take(tile)
            continue
        if kept:
            newer += kept[-1].count
        kept.append(tile)
    return kept[::-1]


class TileView:
    """A row's tiles as columns, one entry for each tile and currency."""

    __slots__ = ("_cells", "_only", "_totals", "counts", "currencies", "firsts", "lasts")

    def __init__(self, raw: bytes) -> None:
        self._cells = cells = array("q", raw)
        self.firsts = cells[0::_TILE_WORDS]
        self.lasts = cells[1::_TILE_WORDS]
        self.currencies = cells[2::_TILE_WORDS]
        self.counts = list(accumulate(cells[_ORDERS::_TILE_WORDS], initial=0))
        codes = self.currencies.tobytes()
        # of a row of version 1 that dropped orders there are none
        alone = bool(codes) and codes == codes[:_WORD] * len(self.currencies)
        self._only = self.currencies[0] if alone else None
        self._totals: list[int] = []

    def from_middle(self, at: int) -> int:
        """Where the entries begin whose tile's middle is at or after an instant."""
        firsts, lasts = self.firsts, self.lasts
        entry = bisect_left(lasts, at)
        # of the others only the tile in which the instant lies may have its middle before it
        while entry < len(firsts) and (firsts[entry] + lasts[entry]) // 2 < at:
            entry += 1
        return entry

    def spent(self, low: int, high: int, currency: int) -> tuple[int, int]:
        """How many orders of the entries from low to high are in a currency, and their total."""
        if currency == self._only:
            if not self._totals:
                self._totals = list(accumulate(self._cells[_TOTAL::_TILE_WORDS], initial=0))
            return self.counts[high] - self.counts[low], self._totals[high] - self._totals[low]
        orders = self._of(_ORDERS, low, high, currency)
        return sum(orders), sum(self._of(_TOTAL, low, high, currency))

    def squares(self, low: int, high: int, currency: int) -> int:
        """The sum of the squares of the amounts that `spent` adds up."""
        upper = sum(self._of(_SQUARES, low, high, currency))
        return (upper << _BITS) + sum(self._of(_SQUARES + 1, low, high, currency))

    def smallest(self, low: int, high: int, currency: int) -> Iterable[int]:
        """The smallest amount of each of these entries."""
        return self._of(_SMALLEST, low, high, currency)

    def largest(self, low: int, high: int, currency: int) -> Iterable[int]:
        """The largest amount of each of these entries."""
        return self._of(_LARGEST, low, high, currency)

    def _of(self, cell: int, low: int, high: int, currency: int) -> Iterable[int]:
        found = self._cells[low * _TILE_WORDS + cell : high * _TILE_WORDS : _TILE_WORDS]
        if currency == self._only:
            return found
        return compress(found, [code == currency for code in self.currencies[low:high]])
