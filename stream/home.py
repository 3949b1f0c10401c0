"""An order's home, on its customer's partition: what it is, what its customer did before, where it goes next.

Here are kept its customer's history, its revisions and what was said of it; whatever the stages of other
entities are to do is told from these alone.
"""

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from features.decode import Rejection, decode_event
from features.events import Order, OrderEvent, Outcome
from features.facts import Fact
from features.fast import Told
from features.remembered import told
from features.revisions import MOST_REVISIONS, Arrival, Held, Revision, Revisions, ids_of
from models.decision import Source
from stream.answers import Answers, Asked, Pending
from stream.decoder import Decoder, decoder_for
from stream.keeping import customer_key, order_key
from stream.merge import arrived_at
from stream.overlay import Overlay
from stream.panel import Bench, Panel
from stream.ports import Record
from stream.road import Home, Passing, Road, Travelling, is_history, partition_of, written
from stream.settings import Topics

__all__ = ["AtHome", "source_of"]


class _Known(NamedTuple):
    """What is known of an order when it has come in and was found to be sound."""

    at: tuple[int, bytes]
    """Where its memory is kept."""
    revisions: Revisions
    seen: Revision
    arrival: Arrival | None
    """What it changes; None where this very revision was seen before."""
    is_again: bool
    """Whether histories may have it although it is not remembered here any more."""


class AtHome:
    """Takes orders, outcomes and order events where their customer is."""

    def __init__(
        self,
        *,
        answers: Answers,
        road: Road,
        topics: Topics,
        partitions: int,
        decoder: Decoder,
        ahead_by_at_most: timedelta,
    ) -> None:
        self._answers = answers
        self._road = road
        self._partitions = partitions
        self._decoder = decoder
        self._ahead_by_at_most = ahead_by_at_most
        self._with_histories = ("customer", *road.entities)
        self._events: dict[str, type[Outcome | OrderEvent]] = {
            topics.outcomes: Outcome,
            topics.order_events: OrderEvent,
        }

    # Orders -------------------------------------------------------------------------------------

    def take(
        self, record: Record, overlay: Overlay, *, panel: Panel, observing: bool
    ) -> Pending | Rejection | None:
        """Recall, compute, remember: everything about an order that needs its customer's past.

        Answers what is to be decided or repeated here; None for what is only remembered, or goes on its road.
        """
        order = decoder_for(record, self._decoder).order(
            record.value,
            key=record.key,
            arrived_at=record.timestamp,
            ahead_by_at_most=self._ahead_by_at_most,
        )
        if isinstance(order, Rejection):
            return order
        counts = overlay.effects.counts
        if record.key is not None and partition_of(record.key, self._partitions) != record.partition:
            counts["orders_misplaced"] += 1
        only_history = is_history(record)
        known = self._known(order, (record.partition, order_key(order.order_id)), overlay)
        if isinstance(known, Rejection):
            return known
        at, revisions, seen, arrival, _ = known
        source = source_of(record, overlay)
        asked = Asked(source, record.timestamp, observing)
        repeat_of: bytes | None = None
        if arrival is None and (only_history or revisions.is_decided(seen, observing=observing)):
            # a resend counts once, and hears again what it heard the first time
            if only_history:
                return None
            if seen.decision or not self._road:
                return Pending(order, revisions.seen, seen, asked)
            repeat_of = seen.decision_id
        values, said = self._compute(order, record.partition, overlay, panel, unless=only_history)
        bench: Bench | None = None
        superseded: Revision | None = None
        named = b""
        if only_history:
            counts["orders_remembered"] += 1
        elif repeat_of is not None:
            named = self._answers.name(order, seen.content, source, panel.bench(order)).bytes
        else:
            bench = panel.bench(order)
            # asked on arrival: a revision known from history may be decided later, even in the same batch
            superseded = revisions.superseded_by(seen, observing=observing)
            # named at once, so that a resend in this very batch is known for one
            named = self._answers.name(order, seen.content, source, bench).bytes
            revisions.decide(seen, named, observing=observing)
            overlay.touch(at, revisions)
        supersedes = None if superseded is None else superseded.decision_id
        if arrival is not None:
            self._remember(order, arrival, record.partition, overlay, said)
        overlay.accept(record.partition, order)  # last: it is decided with what was known before it
        if self._road:
            travelling = Travelling(
                *(written(order), seen.content, only_history, observing, known.is_again, named),
                *(supersedes, repeat_of, panel.home.names, values, {}),
            )
            self._send(order, known, travelling, _home(record, source), overlay)
            return None
        if only_history:
            return None
        return Pending(
            order,
            revisions.seen,
            seen,
            asked,
            vector=tuple(values),
            bench=bench,
            supersedes=None if supersedes is None else UUID(bytes=supersedes),
        )

    def _known(self, order: Order | Told, at: tuple[int, bytes], overlay: Overlay) -> _Known | Rejection:
        """What is known of the order with this revision, or why it can't be one of its revisions."""
        content = order.content_digest
        revisions = overlay.revisions(at)
        seen = revisions.of(order.revision)
        if seen is not None:
            if seen.content != content:
                return _rejected(
                    order,
                    "conflicting_content",
                    f"order_id and revision {order.revision} came before with other content; "
                    "send a changed order with a higher revision",
                )
            return _Known(at, revisions, seen, None, is_again=False)
        if revisions.is_full:
            return _rejected(
                order,
                "too_many_revisions",
                f"$.revision: expected at most {MOST_REVISIONS} revisions of an order, got another; "
                "send it as a new order",
            )
        arrival = revisions.arrive(order, content, ids_of(order, self._with_histories))
        overlay.touch(at, revisions)
        is_again = self._make_room(order, arrival, at[0], overlay)
        counts = overlay.effects.counts
        if order.test:
            counts["orders_test"] += 1
        if order.customer_id is None:
            counts["orders_guest"] += 1
        return _Known(at, revisions, arrival.seen, arrival, is_again)

    def _make_room(self, order: Order | Told, arrival: Arrival, partition: int, overlay: Overlay) -> bool:
        """Take out of the customer's history what the order replaces; whether it may be there unknown."""
        forgotten = arrival.forgotten
        if forgotten is not None:
            was_held = True
            customer_id = _customer_in(forgotten)
            if customer_id is not None:
                key = customer_key(customer_id)
                row = overlay.row(partition, key)
                was_held = row.forget(order.order_id, forgotten.placed_at)
                if row.forget_facts(order.order_id) or was_held:
                    overlay.touch_row(partition, key, row)
            overlay.effects.counts["orders_revised" if was_held else "orders_revised_folded"] += 1
            return False
        if arrival.held is None or not overlay.is_forgotten(partition, arrival.placed_at):
            return False
        # too old to be known for a resend: should it be one, it takes its own place in history
        customer_id = _customer_in(arrival.held)
        if customer_id is not None:
            key = customer_key(customer_id)
            row = overlay.row(partition, key)
            if row.forget(order.order_id, order.placed_at):
                overlay.touch_row(partition, key, row)
        return True

    def _compute(
        self, order: Order | Told, partition: int, overlay: Overlay, panel: Panel, *, unless: bool
    ) -> tuple[list[float | None], bytes | None]:
        """The features of the order and of its customer, and what the row is told of the order."""
        if unless:
            return [], None
        row = None if order.customer_id is None else overlay.row(partition, customer_key(order.customer_id))
        history = None if row is None else row.as_of(order.placed_at)
        said = None if history is None else told(order)
        values = panel.home.begin(order, {"customer": history}, said)
        if history is not None and not history.is_exact:
            overlay.effects.counts["orders_approximate"] += 1
        return values, said

    def _remember(
        self, order: Order | Told, arrival: Arrival, partition: int, overlay: Overlay, said: bytes | None
    ) -> None:
        """Count the order in its customer's history, after it was computed: never part of its own past."""
        if arrival.held is None or order.customer_id is None:
            return
        key = customer_key(order.customer_id)
        row = overlay.row(partition, key)
        if row.remember(order, said):
            overlay.effects.counts["orders_late"] += 1
        for fact in arrival.facts:
            row.learn(fact)
        overlay.touch_row(partition, key, row)

    # The road -----------------------------------------------------------------------------------

    def _send(
        self, order: Order | Told, known: _Known, travelling: Travelling, home: Home, overlay: Overlay
    ) -> None:
        """Send the order on its road and, where it stood in other histories, tell those to forget it."""
        arrival, standing = known.arrival, 0
        stood: dict[str, str] = {}
        stood_at = held_at = None
        facts: tuple[Fact, ...] = ()
        if arrival is not None and (arrival.forgotten is not None or arrival.held is not None):
            standing = _standing(known.revisions)
            facts = arrival.facts
            held_at = None if arrival.held is None else arrival.held.placed_at
            if arrival.forgotten is not None:
                stood, stood_at = dict(arrival.forgotten.ids), arrival.forgotten.placed_at
        road, key = self._road, order.key.encode()
        ids = dict(ids_of(order, road.entities))
        passing = Passing(
            *(home, order.order_id, key, ids, standing, held_at, stood, stood_at, facts, (), travelling)
        )
        for entity in road.entities:
            before = stood.get(entity)
            goes_by = ids.get(entity) or order.order_id
            if before is not None and road.partition(before) != road.partition(goes_by):
                there = {entity: before}
                told_there = Passing(
                    *(home, order.order_id, key, there, standing, None, there, stood_at, (), (), None)
                )
                self._produce(told_there, overlay)
        self._produce(passing, overlay)

    def _produce(self, passing: Passing, overlay: Overlay) -> None:
        if (sent := self._road.sent(passing)) is not None:
            overlay.effects.produce.append(sent)

    # What became of orders ----------------------------------------------------------------------

    def hear(self, record: Record, overlay: Overlay) -> Rejection | None:
        """Let the histories in which an order stands learn what became of it, now or when it comes."""
        topic, partition = record.topic, record.partition
        what = "outcomes" if self._events[topic] is Outcome else "order_events"
        counts = overlay.effects.counts
        overlay.reach(topic, partition, record.offset + 1)
        event = decode_event(
            record.value,
            self._events[topic],
            key=record.key,
            arrived_at=record.timestamp,
            ahead_by_at_most=self._ahead_by_at_most,
        )
        if isinstance(event, Rejection):
            return event
        at = (partition, order_key(event.order_id))
        revisions = overlay.revisions(at)
        learned = revisions.learn(event)
        counts[what] += 1
        if learned is None:
            counts[what + "_repeated"] += 1
            return None
        overlay.touch(at, revisions)
        held = revisions.held
        if held is None:
            counts[what + "_waiting"] += 1
            return None
        if not learned.facts and not learned.withdrawn:
            return None
        customer_id = _customer_in(held)
        if customer_id is not None:
            key = customer_key(customer_id)
            row = overlay.row(partition, key)
            changes = [row.unlearn(fact) for fact in learned.withdrawn]
            changes += [row.learn(fact) for fact in learned.facts]
            if any(changes):
                overlay.touch_row(partition, key, row)
        if self._road:
            home = _home(record, source_of(record, overlay))
            ids = {each: named for each, named in held.ids if each in self._road.entities}
            standing = _standing(revisions)
            self._produce(
                Passing(
                    *(home, event.order_id, record.key or b"", ids, standing, held.placed_at, {}, None),
                    *(learned.facts, learned.withdrawn, None),
                ),
                overlay,
            )
        return None


def _customer_in(held: Held) -> str | None:
    """The customer in whose history an order stands; None where it is a guest's."""
    return next((named for entity, named in held.ids if entity == "customer"), None)


def _standing(revisions: Revisions) -> int:
    """Which of the order's changes of place the last one was: each revision newer than all before is one."""
    newest, changes = -1, 0
    for seen in revisions.seen:
        if seen.revision > newest:
            newest, changes = seen.revision, changes + 1
    return changes


def source_of(record: Record, overlay: Overlay) -> Source:
    """Where a record at home stands, and how far all else was read by then."""
    return Source.model_construct(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        others=overlay.others(record.partition),
    )


def _home(record: Record, source: Source) -> Home:
    return Home(
        *(record.topic, record.partition, record.offset, record.timestamp, arrived_at(record)), source.others
    )


def _rejected(order: Order | Told, code: str, detail: str) -> Rejection:
    return Rejection(code, detail, order.order_id, order.customer_id, order.revision)
