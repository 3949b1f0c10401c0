"""A stage of the road: one entity's histories, on the partitions of its own keys.

What an order is was said at home. Here its entity's row is recalled, the features by it are computed, the
order is remembered and sent on; the last stage of the road has it decided.
"""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from features.decode import Rejection
from features.events import Order, microseconds
from features.fast import Told
from features.history import Row
from features.remembered import told
from features.revisions import Revision
from models.decision import Source
from stream.answers import Asked, Pending
from stream.keeping import PASSED, ROWS, row_key
from stream.overlay import Overlay
from stream.panel import Panel
from stream.part import UNHEARD
from stream.passed import Passed, Place
from stream.ports import Record
from stream.road import Home, Passing, PassingBytesError, Road, Travelling

__all__ = ["AtStage", "asked_in"]

_NO_MESSAGE: Final = "not_a_message"


class AtStage:
    """Takes what comes to the stage of one entity."""

    def __init__(self, entity: str, *, road: Road, panel: Callable[[Home], Panel]) -> None:
        """`panel` is of the models that were in service at the home of an order."""
        self._entity = entity
        self._road = road
        self._panel = panel
        self._is_last = road.entities[-1] == entity
        self._memory = PASSED + ROWS[entity]

    def take(self, record: Record, overlay: Overlay) -> Pending | Rejection | None:
        """Do what the message says: settle where the order stands, compute, remember, and send it on.

        Answers what is to be decided or repeated here; None for what goes on, and for what ends here unsaid.
        Raises PassingVersionError for a message of a newer version.
        """
        try:
            passing = Passing.decode(record.value)
            order = None if passing.travelling is None else passing.order()
        except PassingBytesError as error:
            return Rejection(_NO_MESSAGE, str(error), None, None)
        at = (record.partition, self._memory + passing.order_id.encode())
        if order is None or passing.travelling is None:
            self._tell(passing, at, overlay)
            self._send(passing, overlay)
            return None
        travelling = passing.travelling
        travelling.passed[record.topic] = (record.partition, record.offset)
        repeated = self._repeated(passing, travelling, order, at, overlay)
        if repeated is not None:
            return repeated
        enters = self._settle(passing, at, overlay)
        self._pass(passing, travelling, order, record.partition, overlay, enters=enters)
        overlay.accept(record.partition, order, self._entity)  # last, as at home
        if not self._is_last:
            self._send(passing, overlay)
            return None
        if travelling.is_history:
            return None
        return self._at_its_end(passing, travelling, order, at, overlay)

    def _send(self, passing: Passing, overlay: Overlay) -> None:
        if (sent := self._road.sent(passing, self._entity)) is not None:
            overlay.effects.produce.append(sent)

    # Where the order stands ---------------------------------------------------------------------

    def _settle(self, passing: Passing, at: tuple[int, bytes], overlay: Overlay) -> bool:
        """Take the order out of where it stood on this partition; whether it is to enter its history now."""
        standing, entity, partition = passing.standing, self._entity, at[0]
        if not standing:
            return False
        named, before = passing.ids.get(entity), passing.stood.get(entity)
        is_new_place = passing.travelling is not None and named is not None
        place = None
        if is_new_place and named is not None and passing.held_at is not None:
            place = Place(named, passing.held_at)
        stood = None
        if before is not None and passing.stood_at is not None and self._road.partition(before) == partition:
            stood = Place(before, passing.stood_at)
        passed = overlay.passed(at, entity)
        was_cleared = passed.is_cleared
        taken_out, enters = passed.put(standing, place, stood)
        if standing > 1 or passed.is_cleared is not was_cleared:
            self._note(passed, passing, at, overlay)
        for each in taken_out:
            # late, of where the order stands anew by now: what is known of it was learned with that
            is_late = not enters and passed.place is not None and passed.place.named == each.named
            self._take_out(passing.order_id, each, partition, overlay, with_facts=not is_late)
        if enters and place is not None and passing.travelling is not None and passing.travelling.is_again:
            self._take_out(passing.order_id, place, partition, overlay)
        return enters

    def _note(self, passed: Passed, passing: Passing, at: tuple[int, bytes], overlay: Overlay) -> None:
        for moment in (passing.held_at, passing.stood_at):
            if moment is not None and (passed.last_at is None or microseconds(moment) > passed.last_at):
                passed.last_at = microseconds(moment)
        overlay.touch(at, passed)

    def _take_out(
        self, order_id: str, place: Place, partition: int, overlay: Overlay, *, with_facts: bool = True
    ) -> None:
        key = row_key(self._entity, place.named)
        row = overlay.row(partition, key, self._entity)
        was_held = row.forget(order_id, place.placed_at)
        if (with_facts and row.forget_facts(order_id)) or was_held:
            overlay.touch_row(partition, key, row)

    # Histories ----------------------------------------------------------------------------------

    def _row(self, passing: Passing, partition: int, overlay: Overlay) -> tuple[bytes, Row] | None:
        named = passing.ids.get(self._entity)
        if named is None:
            return None
        key = row_key(self._entity, named)
        return key, overlay.row(partition, key, self._entity)

    def _pass(
        self,
        passing: Passing,
        travelling: Travelling,
        order: Order | Told,
        partition: int,
        overlay: Overlay,
        *,
        enters: bool,
    ) -> None:
        """Compute the features by this entity, then remember the order and what is known of it."""
        found = self._row(passing, partition, overlay)
        said = None if found is None else told(order)
        if not travelling.is_history:
            panel = self._panel(passing.home)
            part = panel.stages[self._entity]
            self._take_over(travelling, panel, overlay)
            history = None if found is None else found[1].as_of(order.placed_at)
            part.go_on(travelling.values, order, {self._entity: history}, said)
            if history is not None and not history.is_exact:
                overlay.effects.counts["orders_approximate"] += 1
        if not enters or found is None:
            return
        key, row = found
        if row.remember(order, said):
            overlay.effects.counts["orders_late"] += 1
        for fact in passing.facts:
            row.learn(fact)
        overlay.touch_row(partition, key, row)

    def _take_over(self, travelling: Travelling, panel: Panel, overlay: Overlay) -> None:
        """Keep what a worker with other models computed, as far as ours ask for it too.

        Models in service are the same everywhere: what that worker did not compute, it could not, and no
        model is to take it for a value that is missing.
        """
        part = panel.stages[self._entity]
        if travelling.names == part.names:
            return
        overlay.effects.counts["orders_of_another_model"] += 1
        unheard = UNHEARD if panel.is_moved else None
        travelling.values[:] = part.taken_over(travelling.names, travelling.values, unheard)
        travelling.names = part.names

    def _tell(self, passing: Passing, at: tuple[int, bytes], overlay: Overlay) -> None:
        """Let a history forget the order, or learn what became of it."""
        if passing.stood:
            self._settle(passing, at, overlay)
            return
        if passing.standing < overlay.passed(at, self._entity).standing:
            return  # about where the order does not stand any more: what is known of it was sent there anew
        found = self._row(passing, at[0], overlay)
        if found is None:
            return
        key, row = found
        changes = [row.unlearn(fact) for fact in passing.withdrawn]
        changes += [row.learn(fact) for fact in passing.facts]
        if any(changes):
            overlay.touch_row(at[0], key, row)

    # The decision -------------------------------------------------------------------------------

    def _repeated(
        self,
        passing: Passing,
        travelling: Travelling,
        order: Order | Told,
        at: tuple[int, bytes],
        overlay: Overlay,
    ) -> Pending | None:
        """The decision that a resend is to hear again, where it was made at this stage."""
        if travelling.repeat_of is None:
            return None
        passed = overlay.passed(at, self._entity)
        seen = passed.of(order.revision)
        if seen is None or seen.content != travelling.content:
            return None
        return Pending(order, passed.seen, seen, asked_in(passing))

    def _at_its_end(
        self,
        passing: Passing,
        travelling: Travelling,
        order: Order | Told,
        at: tuple[int, bytes],
        overlay: Overlay,
    ) -> Pending:
        """The order with all its features, to be decided; the decision is kept here for resends."""
        passed = overlay.passed(at, self._entity)
        seen = Revision(order.revision, travelling.content, travelling.decision_id)
        passed.keep(seen)
        placed_at = microseconds(order.placed_at)
        if passed.last_at is None or placed_at > passed.last_at:
            passed.last_at = placed_at
        overlay.touch(at, passed)
        return Pending(
            order,
            passed.seen,
            seen,
            asked_in(passing),
            vector=tuple(travelling.values),
            # it alone does not equal itself
            has_unheard=any(value != value for value in travelling.values),  # noqa: PLR0124
            bench=self._panel(passing.home).bench(order),
            supersedes=None if travelling.supersedes is None else UUID(bytes=travelling.supersedes),
            repeat_of=None if travelling.repeat_of is None else UUID(bytes=travelling.repeat_of),
        )


def asked_in(passing: Passing) -> Asked:
    """Who waits for a decision about the order that travels."""
    home, travelling = passing.home, passing.travelling
    source = Source.model_construct(
        topic=home.topic, partition=home.partition, offset=home.offset, others=home.others
    )
    if travelling is None:
        return Asked(source, home.timestamp, is_observed=False)
    return Asked(source, home.timestamp, travelling.is_observed, travelling.passed)
