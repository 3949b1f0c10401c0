"""Recorded events, one after the other, through the rules of a worker: what was known before each order.

    past = Replay(Plan(features), row_limit=512, entities=["customer"])
    for event in events:
        vector = past.follow(event)

For training, for notebooks and for explaining: no topic, no store, the same rules.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Generic, TypeVar, cast

from features.errors import FeatureDefinitionError, did_you_mean
from features.events import Order, OrderEvent, Outcome
from features.fast import Told
from features.history import History, Row
from features.plan import Plan, Vectors
from features.questions import NEVER
from features.remembered import ENTITIES, told
from features.revisions import Ids, Revisions, ids_of

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
        self._row_limit = row_limit
        self._rows: dict[str, defaultdict[str, Row]] = {
            name: defaultdict(partial(Row, row_limit)) for name in self._named
        }
        self._rows_kept = None if rows_kept is None else rows_kept // _MICROSECOND
        self._orders_kept = None if orders_kept is None else orders_kept // _MICROSECOND
        self._watermark = NEVER
        """The greatest `placed_at` that was accepted: what lies too far before it is forgotten."""
        self._orders: dict[str, Revisions] = {}
        self.left_out: Counter[LeftOut] = Counter()
        """How many orders were left out, by why."""

    @property
    def waiting(self) -> int:
        """How many outcomes and order events wait for an order that was not seen, or is a test order."""
        return sum([len(each.statements) for each in self._orders.values() if each.held is None])

    def follow(self, event: Event, *, wanted: bool = True) -> Answer | LeftOut | None:
        """Take the next event: for an order what `look` answers, or why it was left out; else None.

        What is not `wanted` makes history just so, and `look` is not asked about it: None.
        """
        order_id = event.order_id
        revisions = self._orders.get(order_id)
        if revisions is None or (
            self._orders_kept is not None and self._is_gone(revisions.last_at, self._orders_kept)
        ):
            revisions = self._orders[order_id] = Revisions()
        if not isinstance(event, _ORDERS):
            self._learn(event, revisions)
            return None
        content = event.content_digest
        if revisions.seen:
            seen = revisions.of(event.revision)
            if seen is not None:
                same = seen.content == content
                return self._leave_out(LeftOut.REPEATED if same else LeftOut.CONFLICTING_CONTENT)
            if revisions.is_full:
                return self._leave_out(LeftOut.TOO_MANY_REVISIONS)
        ids = ids_of(event, self._named)
        arrival = revisions.arrive(event, content, ids)
        at, forgotten, held = arrival.placed_at, arrival.forgotten, arrival.held
        # before the look: an order is not part of its own past
        if forgotten is not None:
            for row in self._rows_of(forgotten.ids):
                row.forget(order_id, forgotten.placed_at)
                row.forget_facts(order_id)
        elif held is not None and self._orders_kept is not None and self._is_gone(at, self._orders_kept):
            # too old to be known for a resend: should it be one, it takes its own place in history
            for row in self._rows_of(ids):
                row.forget(order_id, held.placed_at)
        rows = self._rows_of(ids)
        said: bytes | None = None
        answer: Answer | None = None
        if wanted:
            order = cast("Order", event)  # either has the fields that features read
            histories = self._histories(ids, rows, event.placed_at)
            if self._plan is None:
                answer = self._look(order, histories)
            else:
                # worked out once, for the look and for the rows
                said = told(event)
                answer = cast("Answer", self._plan(order, histories, said))
        if held is not None:
            if said is None:
                said = told(event)
            for row in rows:
                row.remember(event, said)
                for fact in arrival.facts:
                    row.learn(fact)
        self._watermark = max(self._watermark, at)  # last: it was looked at with what was known before it
        return answer

    def recall(self, order: Order | Told) -> dict[str, History | None]:
        """The history of each entity as of the order, None where it names none.

        Good until the next event is followed; nothing changes by it, so it may be asked of any order.
        """
        ids = ids_of(order, self._named)
        return self._histories(ids, self._rows_of(ids), order.placed_at)

    def _histories(self, ids: Ids, rows: Sequence[Row], instant: datetime) -> dict[str, History | None]:
        found: dict[str, History | None] = dict.fromkeys(self._named)
        for (name, _), row in zip(ids, rows, strict=True):
            found[name] = row.as_of(instant)
        return found

    def row(self, entity: str, key: str) -> Row:
        """The row of an entity, as it is now; one without orders where nothing is known."""
        rows = self._rows[entity]
        row = rows[key]
        if self._rows_kept is not None and self._is_gone(row.last_at, self._rows_kept):
            row = rows[key] = Row(self._row_limit)
        return row

    def _is_gone(self, last_at: int | None, kept: int | None) -> bool:
        """Whether what was last heard of then is forgotten by now."""
        return kept is not None and last_at is not None and last_at < self._watermark - kept

    def _leave_out(self, why: LeftOut) -> LeftOut:
        self.left_out[why] += 1
        return why

    def _learn(self, event: OrderEvent | Outcome, revisions: Revisions) -> None:
        learned = revisions.learn(event)
        if learned is None or revisions.held is None:
            return
        for row in self._rows_of(revisions.held.ids):
            for fact in learned.withdrawn:
                row.unlearn(fact)
            for fact in learned.facts:
                row.learn(fact)

    def _rows_of(self, ids: Ids) -> list[Row]:
        if self._rows_kept is None:
            return [self._rows[entity][key] for entity, key in ids]
        return [self.row(entity, key) for entity, key in ids]
