"""What the histories of a device, a card … held before an order came, from the topics of their stages.

A stage's topic has every order whole, and what became of it, keyed by the entity: what it says goes once more
through the worker's own code, as a past that is not decided.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from features.events import Order
from features.fast import Told
from features.history import History, Row
from features.remembered import hashed
from features.revisions import ids_of
from stream.desk import ScoringDesk, partition_of
from stream.keeping import row_key
from stream.ports import Record
from stream.road import Passing, PassingBytesError
from stream.settings import Settings

__all__ = ["Home", "Known", "known_at_stage"]

_AT_ONCE: Final = 1_000
_AS_MANY_AGAIN: Final = 4
"""Times the orders of a row that are kept by what they say, before those no longer in the row are let go."""

Home = tuple[int, int]
"""The partition and offset in the topic of orders at which an order came in."""


class Known(NamedTuple):
    """What was known of an entity before an order."""

    named: str | None
    """Its id; None where the order names none."""
    history: History | None
    folded: int
    """How many orders more are counted in tiles only."""
    by_id: Mapping[int, Order | Told]
    """Its orders, by the hash under which a row holds them."""

    @classmethod
    def nothing(cls) -> "Known":
        """Of an entity that the order does not name, or at whose stage it never was."""
        return cls(None, None, 0, {})


def known_at_stage(
    settings: Settings,
    entity: str,
    order: Order | Told,
    home: Home | None,
    records: Callable[[str, int], Iterator[Record]],
) -> Known:
    """What the stage of an entity knew when the order stood there; all that it knows where it has no `home`.

    `records` reads a partition of a topic from its beginning. Raises PassingVersionError for messages of a
    newer version.
    """
    named = next((named for _, named in ids_of(order, [entity])), None)
    if named is None:
        return Known.nothing()
    stage = _Stage(settings, entity, named)
    for record in records(settings.topics.by(entity), stage.partition):
        passing = stage.passing(record)
        if passing is None:
            continue
        if passing.order_id != order.order_id:
            stage.take(record, passing)
        elif passing.travelling is not None and (passing.home.partition, passing.home.offset) == home:
            return stage.known(order)
    # one that never stood there was decided without it
    return stage.known(order) if home is None else Known.nothing()


class _Stage:
    """One entity's history, as its stage makes it."""

    def __init__(self, settings: Settings, entity: str, named: str) -> None:
        self._settings = settings
        self._entity = entity
        self._named = named
        self._wanted = named.encode()
        self.partition = partition_of(self._wanted, settings.partitions)
        self._rows: dict[bytes, bytes | None] = {}
        self._by_id: dict[int, Order | Told] = {}
        self._waiting: list[Record] = []
        self._desk = ScoringDesk(
            topics=settings.topics,
            partitions=settings.partitions,
            row_limit=settings.row_limit,
            ahead_by_at_most=timedelta(0),
            reject_share=0.0,
            headers=(),
            stages={entity: settings.topics.by(entity)},
        )

    def passing(self, record: Record) -> Passing | None:
        """The message in a record that is about this entity; None in others'."""
        if record.value is None or self._wanted not in record.value:
            return None
        try:
            passing = Passing.decode(record.value)
        except PassingBytesError:
            return None
        is_about = self._named in (passing.ids.get(self._entity), passing.stood.get(self._entity))
        return passing if is_about else None

    def take(self, record: Record, passing: Passing) -> None:
        """Let the history learn what a message says."""
        travelling = passing.travelling
        if travelling is not None:
            order = passing.order()
            where = hashed(order.order_id)
            before = self._by_id.get(where)
            if before is None or before.revision < order.revision:
                self._by_id[where] = order
            # only remembered: nothing is computed or decided
            told = msgspec.structs.replace(
                passing, travelling=msgspec.structs.replace(travelling, is_history=True, repeat_of=None)
            )
            record = record._replace(value=told.encode())
        self._waiting.append(record)
        if len(self._waiting) >= _AT_ONCE:
            self._go_on()

    def known(self, order: Order | Told) -> Known:
        """What is known by now, as of the order's placing."""
        self._go_on()
        row = self._row()
        return Known(self._named, row.as_of(order.placed_at), row.folded, self._by_id)

    def _go_on(self) -> None:
        effects = self._desk.decide(self._waiting, lambda _, key: self._rows.get(key))
        self._waiting.clear()
        self._rows |= effects.rows.get(self.partition, {})
        if len(self._by_id) > _AS_MANY_AGAIN * self._settings.row_limit:
            held = set(self._row().column("order"))
            self._by_id = {each: order for each, order in self._by_id.items() if each in held}

    def _row(self) -> Row:
        limit = self._settings.row_limit
        kept = self._rows.get(row_key(self._entity, self._named))
        return Row(limit) if kept is None else Row.decode(kept, limit)
