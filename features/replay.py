"""Recorded events, one after the other, through the rules of a worker: what was known before each order.

    past = Replay(Plan(features), row_limit=512, entities=["customer"])
    for event in events:
        vector = past.follow(event)

For training, for notebooks and for explaining: no topic, no store, the same rules.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar, cast

from features.errors import FeatureDefinitionError, did_you_mean
from features.events import Order, OrderEvent, Outcome, microseconds
from features.facts import fact_of
from features.fast import Told
from features.history import History, Row
from features.plan import Plan, Vectors
from features.questions import NEVER
from features.remembered import ENTITIES, told
from features.revisions import MOST_REVISIONS

__all__ = ["Event", "LeftOut", "Replay"]

Event = Order | Told | OrderEvent | Outcome
"""Whatever a shop says."""

_ORDERS = (Told, Order)
"""In this order: asking whether something is a pydantic model is slow, unless it is that very one."""

Answer = TypeVar("Answer")


class LeftOut(StrEnum):
    """Why an order gave no answer and changed no history; an earlier one of the same name counted instead."""

    REPEATED = "repeated"
    CONFLICTING_CONTENT = "conflicting_content"
    TOO_MANY_REVISIONS = "too_many_revisions"


_MICROSECOND = timedelta(microseconds=1)

_Standing = tuple[datetime, int, str, list[str | None]]
"""Where an order stands, by its newest revision: its time, amount and currency, and each entity's id."""


class Replay(Generic[Answer]):
    """Follows events in the order in which they were recorded, as a worker does.

    `look` is asked about each order, before that is remembered, with the history of each entity as of the
    order: `Plan(features)` answers its feature vector. A resend counts once; the newest revision
    stands in the histories of all that it names; a guest has no customer, and a test order is never
    remembered. What became of an order is told to the histories in which it stands then, and waits as long
    as it stands in none.
    """

    def __init__(
        self,
        look: Callable[[Order, Mapping[str, History | None]], Answer],
        *,
        row_limit: int,
        entities: Iterable[str | None] = ("customer",),
        rows_kept: timedelta | None = None,
        orders_kept: timedelta | None = None,
    ) -> None:
        """`row_limit` has to be the worker's. None among the entities is passed over.

        A history, and what is known of an order, is forgotten as a worker forgets that keeps them for so long
        after their last event (docs/history.md); None is for ever. Events are then those of one partition.
        Raises FeatureDefinitionError for what is no entity.
        """
        self._look = look
        self._plan = look if isinstance(look, Plan | Vectors) else None
        self._named = tuple(dict.fromkeys(each for each in entities if each is not None))
        for name in self._named:
            if name not in ENTITIES:
                message = f"Replay(entities=...): no such entity {name!r}{did_you_mean(name, ENTITIES)}"
                raise FeatureDefinitionError(message)
        self._entities = tuple((name, ENTITIES[name], _rows_of(row_limit)) for name in self._named)
        self._rows_kept = None if rows_kept is None else rows_kept // _MICROSECOND
        self._orders_kept = None if orders_kept is None else orders_kept // _MICROSECOND
        self._watermark = NEVER
        """The greatest `placed_at` that was accepted: what lies too far before it is forgotten."""
        self._first: dict[str, tuple[int, bytes, int]] = {}
        """Of each order the revision that came first, its content, and when the newest of all was placed."""
        self._several: dict[str, dict[int, bytes]] = {}
        """Of the few orders that were revised all revisions."""
        self._standing: dict[str, _Standing] = {}
        self._waiting: dict[str, list[OrderEvent | Outcome]] = {}
        self.left_out: Counter[LeftOut] = Counter()
        """How many orders were left out, by why."""

    @property
    def waiting(self) -> int:
        """How many outcomes and order events wait for an order that was not seen, or is a test order."""
        return sum(map(len, self._waiting.values()))

    def follow(self, event: Event, *, wanted: bool = True) -> Answer | LeftOut | None:
        """Take the next event: for an order what `look` answers, or why it was left out; else None.

        What is not `wanted` makes history just so, and `look` is not asked about it: None.
        """
        if not isinstance(event, _ORDERS):
            self._tell(event)
            return None
        order_id, content, is_newest = event.order_id, event.content_digest, True
        at = microseconds(event.placed_at)
        first = self._first.setdefault(order_id, came := (event.revision, content, at))
        if first is not came and self._is_gone(first[2], self._orders_kept):
            self._first[order_id] = first = came
            self._several.pop(order_id, None)
            self._standing.pop(order_id, None)  # it stays in histories, and nothing knows where
        if first is not came:
            seen = self._several.get(order_id) or {first[0]: first[1]}
            known = seen.get(event.revision)
            if known is not None:
                return self._leave_out(LeftOut.REPEATED if known == content else LeftOut.CONFLICTING_CONTENT)
            if len(seen) >= MOST_REVISIONS:
                return self._leave_out(LeftOut.TOO_MANY_REVISIONS)
            is_newest = max(seen) < event.revision
            if is_newest:
                # before the look: an order is not part of its own past
                self._take_out(order_id)
            seen[event.revision] = content
            self._several[order_id] = seen
            self._first[order_id] = (first[0], first[1], max(first[2], at))
        elif self._is_gone(at, self._orders_kept):
            # too old to be known for a resend: should it be one, it takes its own place in history
            for name, id_of, _ in self._entities:
                if (named := id_of(event)) is not None and not event.test:
                    self._row(name, named).forget(order_id, event.placed_at)
        said: bytes | None = None
        answer: Answer | None = None
        if wanted:
            order = cast("Order", event)  # either has the fields that features read
            histories = self.recall(event)
            if self._plan is None:
                answer = self._look(order, histories)
            else:
                # worked out once, for the look and for the rows
                said = told(event)
                answer = cast("Answer", self._plan(order, histories, said))
        if is_newest and not event.test:
            self._remember(event, said)
        self._watermark = max(self._watermark, at)  # last: it was looked at with what was known before it
        return answer

    def recall(self, order: Order | Told) -> dict[str, History | None]:
        """The history of each entity as of the order, None where it names none.

        Good until the next event is followed; nothing changes by it, so it may be asked of any order.
        """
        found: dict[str, History | None] = {}
        for name, id_of, rows in self._entities:
            named = id_of(order)
            if named is None:
                found[name] = None
            else:
                row = rows[named] if self._rows_kept is None else self._row(name, named)
                found[name] = row.as_of(order.placed_at)
        return found

    def row(self, entity: str, key: str) -> Row:
        """The row of an entity, as it is now; one without orders where nothing is known."""
        return self._row(entity, key)

    def _row(self, entity: str, key: str) -> Row:
        rows = self._entities[self._named.index(entity)][2]
        row = rows[key]
        if self._rows_kept is not None and self._is_gone(row.last_at, self._rows_kept):
            del rows[key]
            row = rows[key]
        return row

    def _is_gone(self, last_at: int | None, kept: int | None) -> bool:
        """Whether what was last heard of then is forgotten by now."""
        return kept is not None and last_at is not None and last_at < self._watermark - kept

    def _leave_out(self, why: LeftOut) -> LeftOut:
        self.left_out[why] += 1
        return why

    def _take_out(self, order_id: str) -> None:
        stood = self._standing.pop(order_id, None)
        if stood is not None:
            for row in self._rows_with(stood):
                row.forget(order_id, stood[0])

    def _remember(self, order: Order | Told, said: bytes | None) -> None:
        ids = []
        for name, id_of, rows in self._entities:
            named = id_of(order)
            ids.append(named)
            if named is not None:
                if said is None:
                    said = told(order)
                row = rows[named] if self._rows_kept is None else self._row(name, named)
                row.remember(order, said)
        stands = self._standing[order.order_id] = (order.placed_at, order.amount, order.currency, ids)
        if self._waiting:
            for event in self._waiting.pop(order.order_id, ()):
                self._learn(event, stands)

    def _tell(self, event: OrderEvent | Outcome) -> None:
        stands = self._standing.get(event.order_id)
        if stands is None:
            self._waiting.setdefault(event.order_id, []).append(event)
        else:
            self._learn(event, stands)

    def _learn(self, event: OrderEvent | Outcome, stands: _Standing) -> None:
        placed_at, amount, currency, _ = stands
        fact = fact_of(event, placed_at=placed_at, amount=amount, currency=currency)
        for row in self._rows_with(stands):
            row.learn(fact)

    def _rows_with(self, stands: _Standing) -> list[Row]:
        """The rows of the entities that an order names."""
        each = zip(self._entities, stands[3], strict=True)
        return [rows[named] for (_, _, rows), named in each if named is not None]


def _rows_of(limit: int) -> defaultdict[str, Row]:
    return defaultdict(lambda: Row(limit))
