"""What a batch changes, over what was recalled: rows, memories of orders, watermarks, and what is emitted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from features.events import Order, microseconds
from features.fast import Told
from features.history import Row
from features.revisions import Revisions
from stream.keeping import CLOCK, ROWS, Horizons
from stream.passed import Passed
from stream.ports import NO_POSITIONS, Effects, Positions, Recall, Watermarks

__all__ = ["Overlay"]

_AT_HOME: Final = ""


class Overlay:
    """What is being built up for one batch: the touched rows over those recalled, and the emissions.

    What lies too far before the watermark is absent, be it still stored or not: when a key is really
    removed must not be seen in any decision. The watermark advances order by order.
    """

    def __init__(
        self,
        recall: Recall,
        row_limit: int,
        horizons: Horizons,
        watermarks: Watermarks,
        *,
        positions: Positions = NO_POSITIONS,
        read: Mapping[str, int] = MappingProxyType({}),
        beside: tuple[str, ...] = (),
        entities: tuple[str, ...] = (),
    ) -> None:
        """`read` says how far topics are read that all share, `beside` which inputs there are but orders."""
        self._recall = recall
        self._row_limit = row_limit
        self._horizons = horizons
        self._entities = entities
        self._watermarks: dict[tuple[int, str], int | None] = {
            (partition, _AT_HOME): at for partition, at in watermarks.items()
        }
        """By partition, and the entity whose stage it is, or none at home."""
        self._moved: dict[tuple[int, str], int] = {}
        """The watermarks of stages that advanced."""
        self._positions = positions
        self._read = read
        self._beside = beside
        self._others: dict[int, dict[str, int]] = {}
        self._rows: dict[tuple[int, bytes], Row] = {}
        self._orders: dict[tuple[int, bytes], Revisions] = {}
        self._passed: dict[tuple[int, bytes], Passed] = {}
        # dicts, not sets: the order of the changelog must not depend on a hash
        self._changed_rows: dict[tuple[int, bytes], Row] = {}
        self._changed_orders: dict[tuple[int, bytes], Revisions | Passed] = {}
        self.effects = Effects()

    # Rows ---------------------------------------------------------------------------------------

    def row(self, partition: int, key: bytes, entity: str = _AT_HOME) -> Row:
        """The row of a key, as this batch has left it so far; `entity` is the one whose stage this is."""
        at = (partition, key)
        row = self._rows.get(at)
        if row is None:
            kept = self._recall(*at)
            row = Row(self._row_limit) if kept is None else Row.decode(kept, self._row_limit)
            self._rows[at] = row
        if self._is_gone(partition, entity, row.last_at, self._horizons.rows):
            row = self._rows[at] = Row(self._row_limit)
        return row

    def touch_row(self, partition: int, key: bytes, row: Row) -> None:
        """Note that a row changes with this batch."""
        self._changed_rows[partition, key] = row

    # Memories of orders -------------------------------------------------------------------------

    def revisions(self, at: tuple[int, bytes]) -> Revisions:
        """What is known of the order at home, as this batch has left it so far."""
        revisions = self._orders.get(at)
        if revisions is None:
            kept = self._recall(*at)
            revisions = Revisions() if kept is None else Revisions.decode(kept)
            self._orders[at] = revisions
        if self._is_gone(at[0], _AT_HOME, revisions.last_at, self._horizons.orders):
            revisions = self._orders[at] = Revisions()
        return revisions

    def passed(self, at: tuple[int, bytes], entity: str) -> Passed:
        """What the stage of an entity knows of the order, as this batch has left it so far."""
        passed = self._passed.get(at)
        if passed is None:
            kept = self._recall(*at)
            passed = Passed() if kept is None else Passed.decode(kept)
            self._passed[at] = passed
        if self._is_gone(at[0], entity, passed.last_at, self._horizons.orders):
            passed = self._passed[at] = Passed()
        return passed

    def touch(self, at: tuple[int, bytes], memory: Revisions | Passed) -> None:
        """Note that what is known of an order changes with this batch."""
        self._changed_orders[at] = memory

    # Event time ---------------------------------------------------------------------------------

    def is_forgotten(self, partition: int, last_at: int | None) -> bool:
        """Whether home would have forgotten an order that was last heard of then."""
        return self._is_gone(partition, _AT_HOME, last_at, self._horizons.orders)

    def _is_gone(self, partition: int, entity: str, last_at: int | None, kept_for: int | None) -> bool:
        """Whether what was last heard of then lies too far back; asked of every order, so without detours."""
        if last_at is None or kept_for is None:
            return False
        watermark = self._watermark(partition, entity)
        return watermark is not None and last_at < watermark - kept_for

    def _watermark(self, partition: int, entity: str) -> int | None:
        at = (partition, entity)
        if entity and at not in self._watermarks:
            kept = self._recall(partition, CLOCK + ROWS[entity])
            self._watermarks[at] = None if kept is None else msgspec.msgpack.decode(kept, type=int)
        return self._watermarks.get(at)

    def accept(self, partition: int, order: Order | Told, entity: str = _AT_HOME) -> None:
        """Let event time advance to the order's, at home or at the stage of an entity."""
        at, watermark = microseconds(order.placed_at), self._watermark(partition, entity)
        if watermark is None or at > watermark:
            self._watermarks[partition, entity] = at
            if entity:
                self._moved[partition, entity] = at
            else:
                self.effects.watermarks[partition] = at

    # The recorded order -------------------------------------------------------------------------

    def others(self, partition: int) -> dict[str, int]:
        """How far everything else is read that orders of a partition are decided with.

        An input of which nothing was ever read is left out.
        """
        others = self._others.get(partition)
        if others is None:
            positions = self._positions.get(partition, {})
            beside = {topic: read for topic in self._beside if (read := positions.get(topic, 0))}
            others = self._others[partition] = _in_one_order({**self._read, **beside})
        return others

    def reach(self, topic: str, partition: int, offset: int) -> None:
        """Note how far an input beside the orders is read."""
        self._others[partition] = _in_one_order(self.others(partition) | {topic: offset})

    # The end ------------------------------------------------------------------------------------

    def done(self) -> Effects:
        """The effects, with every row and order that was changed."""
        effects = self.effects
        rows = effects.rows
        for (partition, key), row in self._changed_rows.items():
            # what a revision left without any event is as no row, and had nothing to be forgotten after
            is_empty = row.first_at is None and row.last_at is None
            rows.setdefault(partition, {})[key] = None if is_empty else row.encode()
        for (partition, key), memory in self._changed_orders.items():
            rows.setdefault(partition, {})[key] = memory.encode()
        for (partition, entity), moved_to in self._moved.items():
            rows.setdefault(partition, {})[CLOCK + ROWS[entity]] = msgspec.msgpack.encode(moved_to)
        for partition in {partition: None for partition, _ in self._moved}:
            known = {
                entity: at
                for entity in self._entities
                if (at := self._watermark(partition, entity)) is not None
            }
            effects.gone_before[partition] = self._horizons.at_stages(known)
        return effects


def _in_one_order(read: Mapping[str, int]) -> dict[str, int]:
    """By name, and not by what came first in a batch: the bytes of a message must not depend on batches."""
    return dict(sorted(read.items()))
