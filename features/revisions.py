"""An order's revisions: what is known of each, and which of them stands in whose history.

The one rule, for the worker and for training alike: the highest revision seen stands in the history of
its own customer, unless it is a test order; whatever stood there before it is taken out.
"""

from datetime import datetime
from typing import Final, Self

import msgspec

from features.events import Order, microseconds
from features.fast import Told
from features.history import RowBytesError, RowVersionError

__all__ = ["MOST_REVISIONS", "Arrival", "Held", "Revision", "Revisions", "last_placed_at"]

MOST_REVISIONS: Final = 100
"""How many revisions of one order are followed; all are written anew with each, and a row has its limit."""

_VERSION: Final = 3
"""Version 2 says which revisions were decided while observing; version 3 when the newest was placed, and the
amount of the one that stands in a history. Which orders are old enough to be forgotten has to be known of
every order, so nothing older than version 3 is written."""


class Revision(msgspec.Struct, array_like=True):
    """One revision of an order, and what was decided about it."""

    revision: int
    content: bytes
    """Digest of the content, to tell a resend from a conflict."""
    decision_id: bytes = b""
    decision: bytes = b""
    """As it was emitted; empty for an order that was only remembered."""
    is_brief: bool = False
    """Whether only the brief form of the decision is kept."""


class Held(msgspec.Struct, array_like=True, frozen=True):
    """Where an order stands: in whose history, when, and with what amount."""

    customer_id: str
    placed_at: datetime
    amount: int | None = None
    """In minor units; None where a version before 3 did not say it."""
    currency: str | None = None


class Arrival(msgspec.Struct, frozen=True):
    """What a revision not seen before changes when it arrives."""

    seen: Revision
    forgotten: Held | None
    """What to take out of a history before the features are computed: an order is not its own past."""
    is_remembered: bool
    """Whether to put the order into its customer's history once the features are computed."""


class Revisions(msgspec.Struct, array_like=True):
    """An order's revisions, oldest arrival first, and where the order stands in a history."""

    v: int = _VERSION
    seen: list[Revision] = msgspec.field(default_factory=list)
    held: Held | None = None
    observed: list[int] = msgspec.field(default_factory=list)
    """The revisions that were decided while observing only, so that nobody acted on it; since version 2."""
    last_at: int | None = None
    """When the newest revision was placed, in microseconds since 1970, whoever's it is; since version 3.

    None where an older version knew of no history that the order stands in.
    """

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
        seen.decision_id, seen.is_brief = decision_id, False
        if seen.revision in self.observed:
            self.observed.remove(seen.revision)
        if observing:
            self.observed.append(seen.revision)

    def is_decided(self, seen: Revision, *, observing: bool) -> bool:
        """Whether whoever asks was told a decision: what was decided while observing, only observers were."""
        return bool(seen.decision_id) and (observing or seen.revision not in self.observed)

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

    def arrive(self, order: Order | Told, content: bytes) -> Arrival:
        """Note a revision that was not seen before, and say what it changes."""
        newest = max(each.revision for each in self.seen) if self.seen else -1
        seen = Revision(order.revision, content)
        self.seen.append(seen)
        at = microseconds(order.placed_at)
        if self.last_at is None or at > self.last_at:
            self.last_at = at
        if newest > order.revision:
            return Arrival(seen, None, is_remembered=False)
        forgotten, self.held = self.held, None
        if order.customer_id is not None and not order.test:
            self.held = Held(order.customer_id, order.placed_at, order.amount, order.currency)
        return Arrival(seen, forgotten, is_remembered=self.held is not None)

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


class _Skipped(msgspec.Struct, array_like=True):
    """Revisions of which only their last word is read."""

    v: int
    seen: msgspec.Raw
    held: msgspec.Raw = msgspec.Raw(b"\xc0")  # None
    observed: msgspec.Raw = msgspec.Raw()
    last_at: int | None = None


_skip = msgspec.msgpack.Decoder(_Skipped).decode


def last_placed_at(data: bytes) -> int | None:
    """`Revisions.last_at` of encoded revisions, without reading all of them; None for a newer version's.

    Raises RowBytesError.
    """
    try:
        skipped = _skip(data)
    except msgspec.DecodeError as error:
        version = _version_in(data)
        if version is not None and version > _VERSION:
            return None
        raise RowBytesError(_not_revisions(data)) from error
    if skipped.v > _VERSION:
        return None
    if skipped.last_at is not None:
        return skipped.last_at
    # version 2 did not say it
    try:
        held = msgspec.msgpack.decode(skipped.held, type=Held | None)
    except msgspec.DecodeError as error:
        raise RowBytesError(_not_revisions(data)) from error
    return None if held is None else microseconds(held.placed_at)


def _not_revisions(data: bytes) -> str:
    return f"{len(data)} bytes are not the revisions of an order; restore them from the changelog"


def _version_in(data: bytes) -> int | None:
    """The version that bytes of a layout we do not know begin with."""
    try:
        content = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return None
    return content[0] if isinstance(content, list) and content and isinstance(content[0], int) else None
