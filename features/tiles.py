"""Orders that are no longer held one by one: how many, their amounts, from when to when.

As the buckets of "Maintaining Stream Statistics over Sliding Windows" (Datar, Gionis, Indyk, Motwani, 2002):
the older, the more orders a tile holds, and never more than a sixteenth of the orders newer than it.
"""

import struct
from array import array
from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

__all__ = ["TILED", "TILE_BYTES", "Money", "Tile", "TileView", "last_of", "merged", "money_of", "tiles_in"]

TILED: Final = 16
"""A tile holds at most one sixteenth of the orders newer than it: the error bound of a window's count."""

_TILE = struct.Struct("<9q")
_TILE_WORDS: Final = 9
"""First and last order, currency; how many, total, squares (two words), smallest, largest: features.questions
reads them too. A tile in several currencies is several of them in a row."""
TILE_BYTES: Final = _TILE.size
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
    """A row's tiles as columns, one entry for each tile and currency; features.questions adds them up."""

    __slots__ = ("counts", "currencies", "firsts", "lasts")

    def __init__(self, raw: bytes) -> None:
        cells = array("q", raw)
        self.firsts = cells[0::_TILE_WORDS]
        self.lasts = cells[1::_TILE_WORDS]
        self.currencies = cells[2::_TILE_WORDS]
        self.counts = cells[3::_TILE_WORDS]
