"""An order's revisions and what was said of it: which stands in whose histories, and what they count of it.

The one rule, for the worker, for replay and for training alike: the highest revision seen stands in the
histories of all that it names, unless it is a test order; whatever stood before it is taken out. What became
of the order is known to the histories it stands in, and moves with it. What is said of an order that stands
nowhere, because it was not seen yet or is a test order, waits in the same place until it does:

    arrival = revisions.arrive(order, content, ids_of(order, ("customer", "device")))
    # the rows of arrival.forgotten.ids forget the order and its facts; the features are computed; then the
    # rows of arrival.held.ids remember the order and learn arrival.facts
    learned = revisions.learn(outcome)
    # the rows of revisions.held.ids unlearn learned.withdrawn and learn learned.facts
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple, Self

import msgspec

from features.events import Order, OrderEvent, Outcome, microseconds
from features.facts import Fact, Statement, facts_of, statement_of
from features.fast import Told
from features.history import RowBytesError, RowVersionError
from features.remembered import ENTITIES

__all__ = [
    "MOST_REVISIONS",
    "MOST_STATEMENTS",
    "Arrival",
    "Glimpse",
    "Held",
    "Ids",
    "Learned",
    "Revision",
    "Revisions",
    "glimpse",
    "ids_of",
]

MOST_REVISIONS: Final = 100
"""How many revisions of one order are followed; all are written anew with each, and a row has its limit."""

MOST_STATEMENTS: Final = 64
"""How many statements about one order are kept; of more, those known earliest count no longer."""

_VERSION: Final = 4
"""Version 2 says which revisions were decided while observing; version 3 when the newest was placed, and the
amount of the one that stands in a history; version 4 whose histories those are besides the customer's, and
what was said of the order. Nothing older is written."""
_HELD_BY_CUSTOMER: Final = 3
"""The last version that knew of the customer's history alone."""
_EMPTY: Final = b"\x90"
"""An array of nothing, in MessagePack."""


Ids = tuple[tuple[str, str], ...]
"""Each entity that has a history and that an order names, and its id."""


def ids_of(order: Order | Told, entities: Iterable[str]) -> Ids:
    """The histories that the order belongs to, where these entities have histories; in their order."""
    return tuple([(each, named) for each in entities if (named := ENTITIES[each](order)) is not None])


class Revision(msgspec.Struct, array_like=True, gc=False):
    """One revision of an order, and what was decided about it."""

    revision: int
    content: bytes
    """Digest of the content, to tell a resend from a conflict."""
    decision_id: bytes = b""
    decision: bytes = b""
    """As it was emitted; empty for an order that was only remembered."""
    is_brief: bool = False
    """Whether only the brief form of the decision is kept."""


class Held(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where an order stands: in whose histories, when, and with what amount."""

    ids: Ids
    """Never empty."""
    placed_at: datetime
    amount: int | None = None
    """In minor units; None where a version before 3 did not say it."""
    currency: str | None = None


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """What a revision not seen before changes when it arrives."""

    seen: Revision
    placed_at: int
    """In microseconds since 1970."""
    forgotten: Held | None
    """What to take out of histories, with its facts, before the features are computed: an order is not part
    of its own past."""
    held: Held | None
    """The histories to put the order into once the features are computed; None for no history."""
    facts: tuple[Fact, ...]
    """What those histories then learn: all that was said of the order before."""


class Learned(NamedTuple):
    """What a statement not heard before changes in the histories in which its order stands."""

    withdrawn: tuple[Fact, ...]
    """No longer to count, nor ever to have counted."""
    facts: tuple[Fact, ...]
    """To count from when they are known."""


_NOTHING_LEARNED: Final = Learned((), ())


class Revisions(msgspec.Struct, array_like=True, gc=False):
    """An order's revisions, oldest arrival first, where the order stands, and what was said of it."""

    v: int = _VERSION
    seen: tuple[Revision, ...] = ()
    held: Held | None = None
    observed: tuple[int, ...] = ()
    """The revisions that were decided while observing only, so that nobody acted on it; since version 2."""
    last_at: int | None = None
    """When the newest revision was placed, whoever's it is, or the last statement known, whichever is later,
    in microseconds since 1970; since version 3.

    None where an older version knew of no history that the order stands in.
    """
    statements: tuple[Statement, ...] = ()
    """What was said of the order, in the order in which it was heard; since version 4."""
    statements_dropped: int = 0
    """How many were heard and are no longer kept: the earliest known ones, beyond MOST_STATEMENTS."""

    @property
    def is_full(self) -> bool:
        """Whether no further revision is followed."""
        return len(self.seen) >= MOST_REVISIONS

    def of(self, revision: int) -> Revision | None:
        """What is known of this revision; None when it was not seen."""
        for seen in self.seen:
            if seen.revision == revision:
                return seen
        return None

    def decide(self, seen: Revision, decision_id: bytes, *, observing: bool) -> None:
        """Note that a revision is decided; one decided live after it was decided observing is live."""
        # of what was decided before nothing is kept: the new decision may be made elsewhere, or fail
        seen.decision_id, seen.decision, seen.is_brief = decision_id, b"", False
        if seen.revision in self.observed:
            self.observed = tuple([each for each in self.observed if each != seen.revision])
        if observing:
            self.observed += (seen.revision,)

    def is_decided(self, seen: Revision, *, observing: bool) -> bool:
        """Whether whoever asks was told a decision: what was decided while observing, only observers were."""
        return bool(seen.decision_id) and (observing or seen.revision not in self.observed)

    def decided_as(self, other: "Revisions") -> None:
        """Note what another memory of the same order says was decided, and nothing else of it.

        Where that one names a decision and does not have it, one that is here stays.
        """
        if not self.seen:
            self.seen, self.observed = other.seen, other.observed
            return
        for theirs in other.seen:
            seen = self.of(theirs.revision)
            if seen is not None and seen.content == theirs.content and (theirs.decision or not seen.decision):
                seen.decision_id, seen.decision = theirs.decision_id, theirs.decision
                seen.is_brief = theirs.is_brief
        self.observed = other.observed

    def decided_elsewhere(self, theirs: Revision, first: bytes) -> None:
        """Take over what was decided about a revision elsewhere, so that a resend hears it from here.

        `first` is the id of its first decision: where that could not be found again, another one was made.
        """
        seen = self.of(theirs.revision)
        if seen is not None and seen.content == theirs.content:
            seen.decision_id, seen.decision, seen.is_brief = first, theirs.decision, theirs.is_brief

    def superseded_by(self, seen: Revision, *, observing: bool) -> Revision | None:
        """The revision whose decision this one's takes the place of: the last that whoever asks was told of.

        None where there is none, and for a revision that comes after a newer one.
        """
        told: Revision | None = None
        for each in self.seen:
            if each.revision > seen.revision:
                return None
            is_newer = each is not seen and (told is None or each.revision > told.revision)
            if is_newer and self.is_decided(each, observing=observing):
                told = each
        return told

    @property
    def is_orphaned(self) -> bool:
        """Whether something was said of an order that was never seen."""
        return not self.seen and bool(self.statements)

    def arrive(self, order: Order | Told, content: bytes, ids: Ids) -> Arrival:
        """Note a revision that was not seen before, and say what it changes; `ids` as `ids_of` answers."""
        revision, placed_at, before = order.revision, order.placed_at, self.seen
        seen, at = Revision(revision, content), microseconds(placed_at)
        self.seen = (*before, seen) if before else (seen,)
        if self.last_at is None or at > self.last_at:
            self.last_at = at
        if before and max([each.revision for each in before]) > revision:
            return Arrival(seen, at, None, None, ())
        forgotten, self.held = self.held, None
        if order.test or not ids:
            return Arrival(seen, at, forgotten, None, ())
        self.held = held = Held(ids, placed_at, order.amount, order.currency)
        facts = self._facts(order.order_id) if self.statements else ()
        return Arrival(seen, at, forgotten, held, facts)

    def learn(self, event: Outcome | OrderEvent) -> Learned | None:
        """Note what is said of the order, seen or not; None for what was said before.

        Where the order stands in no history nothing is to be learned now: `arrive` says it when it does.
        """
        statement = statement_of(event)
        if statement in self.statements:
            return None
        at = microseconds(statement.known_at)
        if self.last_at is None or at > self.last_at:
            self.last_at = at
        before = self._facts(event.order_id)
        self.statements += (statement,)
        if len(self.statements) > MOST_STATEMENTS:
            earliest = min(self.statements, key=lambda each: each.known_at)
            self.statements = tuple([each for each in self.statements if each is not earliest])
            self.statements_dropped += 1
        after = self._facts(event.order_id)
        if before == after:
            return _NOTHING_LEARNED
        return Learned(
            tuple([each for each in before if each not in after]),
            tuple([each for each in after if each not in before]),
        )

    def _facts(self, order_id: str) -> tuple[Fact, ...]:
        """What the histories in which the order stands know of it."""
        held = self.held
        if held is None:
            return ()
        return facts_of(
            self.statements,
            order_id,
            placed_at=held.placed_at,
            amount=held.amount,
            currency=held.currency,
        )

    def encode(self) -> bytes:
        """The revisions as bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The revisions in the bytes. Raises RowVersionError for a newer version's, else RowBytesError."""
        try:
            revisions = msgspec.msgpack.decode(data, type=cls)
        except msgspec.DecodeError as error:
            version = _version_in(data)
            if version is not None and version <= _HELD_BY_CUSTOMER:
                return cls._upcast(data)
            if version is None or version <= _VERSION:
                raise RowBytesError(_not_revisions(data)) from error
        else:
            version = revisions.v
            if version <= _VERSION:
                # what an older version has no word for is as it was then: nothing was decided observing
                revisions.v = _VERSION
                if revisions.last_at is None and revisions.held is not None:
                    revisions.last_at = microseconds(revisions.held.placed_at)
                return revisions
        message = (
            f"an order's revisions are of version {version} and this program reads up to {_VERSION}; run the "
            "version that wrote them, or a newer one (docs/upgrades.md)"
        )
        raise RowVersionError(message)

    @classmethod
    def _upcast(cls, data: bytes) -> Self:
        """What a version knew that kept the customer's history alone."""
        try:
            old = msgspec.msgpack.decode(data, type=_Revisions3)
        except msgspec.DecodeError as error:
            raise RowBytesError(_not_revisions(data)) from error
        held, last_at = None, old.last_at
        if old.held is not None:
            customer_id, *rest = msgspec.structs.astuple(old.held)
            held = Held((("customer", customer_id),), *rest)
            last_at = microseconds(held.placed_at) if last_at is None else last_at
        return cls(_VERSION, old.seen, held, old.observed, last_at)


class _Held3(msgspec.Struct, array_like=True):
    """Where an order stood up to version 3."""

    customer_id: str
    placed_at: datetime
    amount: int | None = None
    currency: str | None = None


class _Revisions3(msgspec.Struct, array_like=True):
    """Revisions up to version 3."""

    v: int
    seen: tuple[Revision, ...]
    held: _Held3 | None = None
    observed: tuple[int, ...] = ()
    last_at: int | None = None


class _Skipped(msgspec.Struct, array_like=True):
    """Revisions of which only what tells whether they are gone is read."""

    v: int
    seen: msgspec.Raw
    held: msgspec.Raw = msgspec.Raw(b"\xc0")  # None
    observed: msgspec.Raw = msgspec.Raw()
    last_at: int | None = None
    statements: msgspec.Raw = msgspec.Raw(_EMPTY)


_skip = msgspec.msgpack.Decoder(_Skipped).decode


class Glimpse(NamedTuple):
    """What is seen of encoded revisions without reading all of them."""

    last_at: int | None
    """`Revisions.last_at`; None for a newer version's."""
    is_orphaned: bool
    """`Revisions.is_orphaned`."""


def glimpse(data: bytes) -> Glimpse:
    """When something was last heard of an order, and whether the order itself was never seen.

    Raises RowBytesError.
    """
    try:
        skipped = _skip(data)
    except msgspec.DecodeError as error:
        version = _version_in(data)
        if version is not None and version > _VERSION:
            return _UNREADABLE
        raise RowBytesError(_not_revisions(data)) from error
    if skipped.v > _VERSION:
        return _UNREADABLE
    if skipped.last_at is not None:
        is_orphaned = bytes(skipped.seen) == _EMPTY != bytes(skipped.statements)
        return Glimpse(skipped.last_at, is_orphaned)
    # version 2 did not say it
    try:
        held = msgspec.msgpack.decode(skipped.held, type=_Held3 | None)
    except msgspec.DecodeError as error:
        raise RowBytesError(_not_revisions(data)) from error
    return Glimpse(None if held is None else microseconds(held.placed_at), is_orphaned=False)


_UNREADABLE: Final = Glimpse(None, is_orphaned=False)


def _not_revisions(data: bytes) -> str:
    return f"{len(data)} bytes are not the revisions of an order; restore them from the changelog"


def _version_in(data: bytes) -> int | None:
    """The version that bytes of a layout we do not know begin with."""
    try:
        content = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return None
    return content[0] if isinstance(content, list) and content and isinstance(content[0], int) else None
