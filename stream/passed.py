"""What a stage remembers of an order: where it last stood there, and what was decided about it.

Messages about one order may overtake each other where its revisions take different roads. So each change of
an order's place has a number, given at home, and of two the later one counts, whichever comes first. Only
what was revised, and at the last stage what was decided, has to be remembered for it.
"""

from datetime import datetime
from typing import Final, NamedTuple, Self

import msgspec

from features.history import RowBytesError, RowVersionError
from features.revisions import Revision

__all__ = ["Passed", "Place", "last_passed_at"]

_VERSION: Final = 1
_FIRST: Final = 1
_SECOND: Final = 2


class Place(NamedTuple):
    """Where an order stands at a stage: in whose history, and when it was placed."""

    named: str
    placed_at: datetime


class Passed(msgspec.Struct, array_like=True, gc=False):
    """What a stage remembers of an order."""

    v: int = _VERSION
    last_at: int | None = None
    """When the newest of it was placed, in microseconds since 1970."""
    standing: int = 0
    """The number of the latest change of place heard of, from the second on; 0 before that."""
    place: Place | None = None
    """Where that put it on this partition."""
    is_cleared: bool = False
    """Whether where the first put it is settled: taken out, or never to be put in."""
    seen: list[Revision] = msgspec.field(default_factory=list)
    """Its revisions that were decided at this stage."""

    def put(self, standing: int, place: Place | None, stood: Place | None) -> tuple[list[Place], bool]:
        """Note a change of place: which places to take the order out of, and whether to put it into its own.

        `place` is where it stands from now on and `stood` where it stood before, of what is on this
        partition.
        """
        if standing == _FIRST:
            if not self.standing:
                return [], place is not None
            self.is_cleared = True  # overtaken by a later one
            return [], False
        taken_out: list[Place] = []
        if standing == _SECOND and not self.is_cleared:
            self.is_cleared = True
            if stood is not None and stood != self.place:  # a later one may have come back to that very place
                taken_out.append(stood)
        if standing <= self.standing:
            return taken_out, False
        if self.place is not None:
            taken_out.append(self.place)
        if place is not None and not self.is_cleared:
            taken_out.append(
                place
            )  # the first may stand there, which nobody noted: then this takes its place
        self.standing, self.place = standing, place
        return taken_out, place is not None

    def of(self, revision: int) -> Revision | None:
        """What was decided here about this revision; None where nothing was."""
        return next((each for each in self.seen if each.revision == revision), None)

    def keep(self, decided: Revision) -> None:
        """Remember what was decided about a revision, instead of what was before."""
        self.seen[:] = [*(each for each in self.seen if each.revision != decided.revision), decided]

    def encode(self) -> bytes:
        """The memory as bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The memory in the bytes. Raises RowVersionError for a newer version's, else RowBytesError."""
        try:
            passed = msgspec.msgpack.decode(data, type=cls)
            version = passed.v
        except msgspec.MsgspecError as error:
            version = _version_in(data)
            if version <= _VERSION:
                raise RowBytesError(_not_passed(data)) from error
        else:
            if version <= _VERSION:
                return passed
        message = (
            f"a stage's memory of an order is of version {version} and this program reads up to {_VERSION}; "
            "run the version that wrote it, or a newer one (docs/upgrades.md)"
        )
        raise RowVersionError(message)


class _Head(msgspec.Struct, array_like=True):
    v: int
    last_at: int | None = None


def last_passed_at(data: bytes) -> int | None:
    """`Passed.last_at` of its bytes; None for a newer version's. Raises RowBytesError."""
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
    except msgspec.MsgspecError as error:
        raise RowBytesError(_not_passed(data)) from error
    return head.last_at if head.v <= _VERSION else None


def _not_passed(data: bytes) -> str:
    return f"{len(data)} bytes are not a stage's memory of an order; restore them from the changelog"


def _version_in(data: bytes) -> int:
    try:
        return msgspec.msgpack.decode(data, type=_Head).v
    except msgspec.MsgspecError:
        return 0
