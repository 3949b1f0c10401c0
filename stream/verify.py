"""Recorded decisions held against what is decided again, byte for byte, and why they differ where they do."""

import json
import multiprocessing
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

from models.errors import ModelError
from stream.deciding import said_in
from stream.decoder import CONTRACT, decoder_of
from stream.desk import is_history
from stream.errors import Refusal
from stream.past import Made, Outcome, Past, Read, Sources
from stream.past_desks import Models
from stream.past_road import Roads, Switch, WantedOnTheRoad
from stream.past_rows import SPILLED
from stream.ports import Record
from stream.recorded import Recorded, has_topic, losses, recorded_of
from stream.settings import Settings
from stream.version import program_version

__all__ = [
    "CAUSES",
    "Difference",
    "FieldDifference",
    "Progress",
    "Replayed",
    "Verified",
    "VerifyError",
    "Window",
    "replay_decision",
    "verify",
    "verify_partition",
]

_FIRST: Final = -1
_SAID_EVERY_S: Final = 0.2

CAUSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "changed": "the bytes are not those that are decided again; the fields that differ are named",
        "missing": "an order that is decided again has no decision",
        "repeated": "an order has a decision already",
        "not_recomputed": "there is a decision about a record that is not decided again",
        "unreadable": "the recorded bytes are no decision",
        "order_gone": "the order that the decision is about is not there any more",
        "other_order": "the decision is about another order than the one at its place",
        "beginning_missing": "the beginning of the orders is not there, so histories are incomplete",
        "message_lost": "a message between stages may be among those that were lost and given up",
        "lost": "records that it may depend on were lost before they were archived, and were given up",
        "decisions_begin_later": "it speaks of a decision that is no longer there",
        "history_evicted": "what a worker had forgotten can't be told after it was to remember for longer",
        "model_unknown": "the model that decided is not in the registry",
        "model_other": "the registry has another model under that name and version",
        "model_refused": "the registry refuses the model that decided",
        "features_changed": "a feature of the model that decided has been changed since",
        "policy_unknown": "the thresholds that decided are not known",
        "through_stages": "the order went through stages of entities that are not set",
        "message_changed": "a message between stages is not one that is sent again",
        "message_missing": "a message between stages that is sent again is not there",
        "settings_differ": "a setting that decides is another now, and its old value is not recorded",
        "control_unreadable": "a control record in force can't be followed by this version",
        "control_missing": "control records that were in force are not there",
        "other_version": "another version of fraudstream decided, and decides otherwise",
    }
)
"""Why a decision is not equal, by its code; docs/verify.md says what to do."""

Progress = Callable[[int, int], None]
"""Told how many records were read so far, and of how many."""


class VerifyError(Refusal):
    """Decisions can't be decided again; the message says why and what to do."""


class FieldDifference(NamedTuple):
    """A field of a decision that differs."""

    path: str
    recorded: Any
    recomputed: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that is not equal, and why."""

    cause: str
    """One of CAUSES."""
    partition: int
    offset: int | None
    """Where the order stands; None where that can't be told."""
    order_id: str | None
    decision: str | None
    """TOPIC/PARTITION/OFFSET of the recorded decision; None for one that is missing."""
    said: str
    """What is wrong and what to do."""
    fields: tuple[FieldDifference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "cause": self.cause,
            "partition": self.partition,
            "offset": self.offset,
            "order_id": self.order_id,
            "decision": self.decision,
            "said": self.said,
            "fields": [each._asdict() for each in self.fields],
        }


class Window(NamedTuple):
    """Between which broker times of their orders decisions are compared; milliseconds since 1970."""

    since: int | None = None
    until: int | None = None

    def has(self, timestamp: int) -> bool:
        """Whether the time lies in [since, until)."""
        return (self.since is None or timestamp >= self.since) and (
            self.until is None or timestamp < self.until
        )


EVER: Final = Window()
_ALL: Final = range(2**31)


@dataclass(slots=True)
class Verified:
    """What came of it: how many decisions are equal, and which are not."""

    equal: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """How many are not equal, by cause."""
    listed: list[Difference] = field(default_factory=list)
    set_aside: int = 0
    """How many of the equal ones are about orders that had stopped the worker and were set aside."""
    orders: int = 0
    """How many records of orders were gone through."""
    undecided: int = 0
    """How many of them come after the last that the workers have decided."""
    unrecorded: int = 0
    """How many of them are older than the decisions that are still there."""
    messages: int = 0
    """How many messages between stages are as they are sent again."""
    not_comparable: int = 0
    """How many decisions and messages come out otherwise where rows were made anew, and say nothing."""
    notes: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """How many decisions should be there, or are."""
        return self.equal + self.different - sum(self.causes[each] for each in _OF_MESSAGES)

    @property
    def different(self) -> int:
        """How many of them, and of the messages between stages, are not equal."""
        return self.causes.total()

    def add(self, other: "Verified", most: int) -> None:
        """Count in another partition's; at most so many differences are listed, the first ones."""
        self.equal += other.equal
        self.causes.update(other.causes)
        self.set_aside += other.set_aside
        self.orders += other.orders
        self.undecided += other.undecided
        self.unrecorded += other.unrecorded
        self.messages += other.messages
        self.not_comparable += other.not_comparable
        self.notes = sorted({*self.notes, *other.notes})
        together = [*self.listed, *other.listed]
        together.sort(key=_in_order)
        self.listed = together[:most]

    def as_json(self) -> dict[str, Any]:
        """The same, without the differences, for machines."""
        return {
            "compared": self.compared,
            "equal": self.equal,
            "different": self.different,
            "causes": dict(sorted(self.causes.items())),
            "set_aside": self.set_aside,
            "orders": self.orders,
            "undecided": self.undecided,
            "unrecorded": self.unrecorded,
            "messages": self.messages,
            "not_comparable": self.not_comparable,
            "notes": self.notes,
        }


def _in_order(difference: Difference) -> tuple[int, int]:
    return difference.partition, _FIRST if difference.offset is None else difference.offset


# Comparing ----------------------------------------------------------------------------------------

_OF_MESSAGES: Final = ("message_changed", "message_missing", "message_lost")
_SEE_WHO: Final = "see which worker or group wrote it (its headers say)"
_OF_HISTORY: Final = ("features", "repeat_of", "supersedes")
_GIVEN_UP: Final = "were lost before they were archived (archive run --accept-gap)"


def verify_partition(past: Past, window: Window = EVER, *, most: int = 20) -> Verified:
    """Every decision of a partition whose order arrived in the window, held against what is decided again.

    At most so many differences are listed; all are counted.
    """
    found, tally = Verified(notes=_notes(past)), _Tally(window, most)
    for outcome in past.again(lambda record: window.has(record.timestamp)):
        tally.compare(found, outcome, past)
        tally.strays(found, past)
    for made in past.decided.rest():
        past.decided.stray.append(made)
    tally.strays(found, past)
    found.orders, found.undecided = past.seen, past.undecided
    return found


def verify_roads(
    roads: Roads, window: Window = EVER, *, partitions: Container[int] = _ALL, most: int = 20
) -> Verified:
    """Every decision whose order arrived in the window at these partitions, and what went between stages.

    At most so many differences are listed; all are counted.
    """
    switches = roads.recording.switches()
    behind = {number: switch.offset for number, switch in switches.items()}
    found, tally = Verified(), _Tally(window, most, behind)

    def is_wanted(partition: int, timestamp: int) -> bool:
        return partition in partitions and window.has(timestamp)

    wanted = WantedOnTheRoad(
        lambda record: is_wanted(record.partition, record.timestamp),
        lambda passing: is_wanted(passing.home.partition, passing.home.timestamp),
    )
    for past, outcome in roads.again(wanted):
        tally.compare(found, outcome, past)
        tally.messages(found, roads)
    tally.messages(found, roads)
    for past in roads.homes:
        if past.partition not in partitions:
            continue
        for made in past.decided.rest():
            past.decided.stray.append(made)
        tally.strays(found, past)
        found.orders += past.seen
        found.undecided += past.undecided
        found.notes += _notes(past)
    if roads.turned_on:
        how = "made from them" if roads.is_rebuilt else "begun without them"
        found.notes.append(
            f"{sum(roads.turned_on.values()):,} offsets of orders lie before entities were turned on; the "
            f"rows of those are taken to have been {how}"
        )
    found.notes += [_switched(roads, number, switch) for number, switch in sorted(switches.items())]
    found.notes += [told for tp, gaps in roads.gaps.items() for told in losses(tp, gaps)]
    found.messages = roads.messages
    found.undecided += roads.on_their_way
    found.listed.sort(key=_in_order)
    return found


def _switched(roads: Roads, partition: int, switch: Switch) -> str:
    """Where a switch lies, and what is not told for its sake."""
    told = (
        " and ".join(
            words
            for words, is_other in (
                (f"entities {','.join(each.entities)}", switch.before.entities != switch.after.entities),
                (f"row_limit {each.row_limit}", switch.before.row_limit != switch.after.row_limit),
            )
            if is_other
        )
        for each in (switch.before, switch.after)
    )
    return (
        f"{roads.settings.topics.orders}/{partition}: from offset {switch.offset:,} on orders were decided "
        f"behind a switch (from {' to '.join(told)}); rows that a rebuild made are not made again, "
        "so what comes out otherwise there, and of the messages between stages, is not comparable"
    )


class _Tally:
    """Counts what is equal and what differs, and lists the first differences."""

    def __init__(self, window: Window, most: int, behind: Mapping[int, int] = MappingProxyType({})) -> None:
        """`behind` which order of a partition rows may be others than those that are made here."""
        self._window = window
        self._most = most
        self._behind = behind

    def compare(self, found: Verified, outcome: Outcome, past: Past) -> None:
        """Hold the decisions about an order against what is decided again."""
        if outcome.again is not None and not outcome.made and not outcome.is_recorded:
            found.unrecorded += 1
        for difference in _differences(outcome, past):
            if difference is None:
                found.equal += 1
                found.set_aside += outcome.was_set_aside
            self._differs(found, difference)

    def strays(self, found: Verified, past: Past) -> None:
        """Take the decisions that no order asked for."""
        while past.decided.stray:
            self._differs(found, _stray(past.decided.stray.pop(), past, self._window))

    def messages(self, found: Verified, roads: Roads) -> None:
        """Take the messages that are not as they are sent again."""
        for each in roads.unlike:
            self._differs(found, Difference(*each))
        roads.unlike.clear()

    def _differs(self, found: Verified, difference: Difference | None) -> None:
        if difference is None:
            return
        if self._is_not_comparable(difference):
            found.not_comparable += 1
        else:
            found.causes[difference.cause] += 1
            if len(found.listed) < self._most:
                found.listed.append(difference)

    def _is_not_comparable(self, difference: Difference) -> bool:
        """Whether it may come of rows that a rebuild made."""
        if not self._behind:
            return False
        if difference.cause in _OF_MESSAGES:
            return True  # what was sent before goes by another road too
        behind = self._behind.get(difference.partition)
        return (
            difference.cause == "changed"
            and behind is not None
            and difference.offset is not None
            and difference.offset >= behind
        )


def _differences(outcome: Outcome, past: Past) -> Iterator[Difference | None]:
    """For each decision there is, or should be, about an order: how it differs, None where it is equal."""
    record, made, again = outcome.record, outcome.made, outcome.again
    if not made:
        if again is None or not outcome.is_recorded:
            return
        cause, why = (
            ("lost", f"it may be among the decisions that {_GIVEN_UP}")
            if past.has_lost_decisions
            else (
                "missing",
                "see whether somebody deleted records of that topic, or another group decided",
            )
        )
        said = f"the order is decided again, and {outcome.topic}/{past.partition} has no decision about it"
        yield Difference(cause, past.partition, record.offset, _named(again), None, f"{said}; {why}")
        return
    same = _compared_one(outcome)
    if _is_equal(same, outcome):
        yield None
    elif again is None:
        yield _not_recomputed(same, outcome, past)
    else:
        yield _judged(same, outcome, past)
    for each in made:
        if each is not same:
            yield Difference(
                "repeated",
                past.partition,
                record.offset,
                each.order_id,
                each.place,
                f"the order has a decision at {same.place} already; {_SEE_WHO}",
            )


def _compared_one(outcome: Outcome) -> Made:
    """The decision that is equal, else the first."""
    return next((each for each in outcome.made if _is_equal(each, outcome)), outcome.made[0])


def _is_equal(made: Made, outcome: Outcome) -> bool:
    record = made.record
    return (record.value, record.topic, record.key) == (outcome.again, outcome.topic, outcome.key)


def _not_recomputed(made: Made, outcome: Outcome, past: Past) -> Difference:
    if outcome.doubt is not None:
        cause, said = outcome.doubt
    else:
        cause = "not_recomputed"
        said = (
            "the order is history (mode=history), which is never decided"
            if is_history(outcome.record)
            else "the record names no order that could be decided"
        ) + "; see whether it is the record that was decided then"
    return Difference(cause, past.partition, outcome.record.offset, made.order_id, made.place, said)


def _judged(made: Made, outcome: Outcome, past: Past) -> Difference:
    """Why a decision is not as it is decided again."""
    fields = tuple(_fields(made, outcome))
    cause, said = _cause(made, outcome, past, {each.path.partition(".")[0] for each in fields})
    if outcome.doubt is not None:
        fields = ()  # what a stand-in says tells nothing
    return Difference(cause, past.partition, outcome.record.offset, made.order_id, made.place, said, fields)


def _cause(made: Made, outcome: Outcome, past: Past, differing: set[str]) -> tuple[str, str]:
    of_history = differing.intersection(_OF_HISTORY)
    written_by = dict(made.record.headers).get("fraudstream", b"").decode(errors="replace")
    if outcome.doubt is not None:
        return outcome.doubt
    if made.word is None:
        cause, said = "unreadable", "its bytes are no decision of this version; see who wrote them"
    elif "order_id" in differing:
        cause = "other_order"
        said = (
            f"the decision is about order '{made.order_id}', and another order stands at its place; if the "
            "topic was made anew, read an archive of the one of then (--archive)"
        )
    elif of_history and past.begins_at:
        cause = "beginning_missing"
        said = (
            f"{past.begins_at}, and the orders before it are part of histories; read an archive that has "
            "them (--archive)"
        )
    elif of_history and past.lacks_history_of(made, outcome.record.offset):
        cause = "lost"
        said = f"orders before it, or what became of them, {_GIVEN_UP}, and are part of histories"
    elif differing.intersection({"repeat_of", "supersedes"}) and past.first_recorded > past.low:
        cause = "decisions_begin_later"
        said = (
            f"it speaks of an order before offset {past.first_recorded:,}, whose decision is gone; "
            "read an archive that has it (--archive)"
        )
    elif of_history and past.grew:
        cause = "history_evicted"
        said = (
            f"{past.grew} was raised in between: what workers had forgotten by then is remembered here, and "
            "nothing records when each key was let go; no decision can be held against it"
        )
    elif written_by and written_by != program_version():
        cause = "other_version"
        said = (
            f"decided by fraudstream {written_by}, and this is {program_version()}; verify with the version "
            "that decided, and read its entry in CHANGELOG.md"
        )
    else:
        cause = "changed"
        said = f"its bytes are not what is decided again; see who could write to '{made.record.topic}'"
        if not said_in(made.record.headers):
            said += (
                "; it does not carry the settings it was made with, so those of now were taken: check "
                "row_limit, forget_after_days, order_memory_days, ahead_by_at_most_s and mapping"
            )
        elif differing == {"decision_id"} and past.has_mapping:
            said += "; only its id differs: check the setting hash_salt"
    return cause, said


def _fields(made: Made, outcome: Outcome) -> Iterator[FieldDifference]:
    record = made.record
    if record.topic != outcome.topic:
        yield FieldDifference("(topic)", record.topic, outcome.topic)
    if record.key != outcome.key:
        yield FieldDifference("(key)", _text(record.key), _text(outcome.key))
    if record.value == outcome.again:
        return
    try:
        recorded = json.loads(record.value or b"")
    except ValueError:
        yield FieldDifference("(bytes)", f"{len(record.value or b''):,} bytes that are no JSON", "a decision")
        return
    found = False
    for each in _compared("", recorded, json.loads(outcome.again or b"null")):
        found = True
        yield each
    if not found:
        where = _first_unlike(record.value or b"", outcome.again or b"")
        yield FieldDifference("(bytes)", f"other bytes from {where:,} on", "the same content")


def _compared(path: str, recorded: Any, recomputed: Any) -> Iterator[FieldDifference]:
    if isinstance(recorded, dict) and isinstance(recomputed, dict):
        for name in sorted({*recorded, *recomputed}):
            inner = f"{path}.{name}" if path else name
            yield from _compared(inner, recorded.get(name), recomputed.get(name))
    elif recorded != recomputed or type(recorded) is not type(recomputed):
        yield FieldDifference(path, recorded, recomputed)


def _first_unlike(one: bytes, other: bytes) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="backslashreplace")


def _named(value: bytes) -> str:
    return str(json.loads(value)["order_id"])


def _stray(made: Made, past: Past, window: Window) -> Difference | None:
    """What is to be said of a decision that no order asked for; None where nothing is."""
    arrived_at = made.arrived_at
    if arrived_at is not None and not window.has(arrived_at):
        return None
    about = made.about
    if about is None:
        cause, offset, said = (
            "unreadable",
            None,
            "its bytes are no decision of this version; see who wrote them",
        )
    elif (about.topic, about.partition) == past.orders and past.is_to_come(about.offset):
        return None
    elif (about.topic, about.partition) == past.orders and past.decided.has_answered(about.offset):
        cause, offset, said = "repeated", about.offset, f"the order has a decision already; {_SEE_WHO}"
    elif (about.topic, about.partition) == past.orders and past.has_lost(about.offset):
        cause, offset = "lost", about.offset
        said = f"its order is among those of {about.topic}/{about.partition} that {_GIVEN_UP}"
    else:
        cause, offset = "order_gone", about.offset
        said = (
            f"{about.topic}/{about.partition} offset {about.offset:,} is not there any more; read an archive "
            "that has it (--archive)"
        )
    return Difference(cause, past.partition, offset, made.order_id, made.place, said)


def _notes(past: Past) -> list[str]:
    notes = []
    if past.low > 0:
        notes.append(
            f"{past.orders[0]}/{past.partition} begins at offset {past.low:,}: what customers ordered before "
            "is not known here"
        )
    notes += [told for tp, gaps in past.gaps.items() for told in losses(tp, gaps)]
    return notes


# In processes of their own ------------------------------------------------------------------------


class _Asked(NamedTuple):
    """What is to be verified."""

    settings: Settings
    window: Window
    archive: str | None
    most: int
    folder: Path | None = None
    """Where rows that do not fit into memory go: whoever is ended does not tidy up, so we do."""


def verify(
    settings: Settings,
    *,
    partitions: Sequence[int] = (),
    window: Window = EVER,
    archive: str | None = None,
    processes: int = 2,
    most: int = 20,
    told: Progress = lambda _read, _of: None,
) -> Verified:
    """Hold the decisions of these partitions, or all, against what is decided again.

    What was recorded is read from the topics, or from the archive at a place. Each process takes one
    partition after the other. Raises a Refusal where nothing can be verified at all.
    """
    asked = _Asked(settings, window, archive, most)
    wanted = _partitions(asked, partitions)
    together = Verified()
    if settings.entities:
        return _verified_roads(asked, wanted, _Count(1, told))
    count = _Count(len(wanted), told)
    if min(processes, len(wanted)) < 2:
        with ExitStack() as stack:
            sources, models = Sources.opened(partial(recorded_of, settings, archive), stack), Models(settings)
            for number in wanted:
                found = _verified(sources, models, asked, number, begun=count.begin, read=count)
                together.add(found, most)
        return together
    with tempfile.TemporaryDirectory(prefix=SPILLED, ignore_cleanup_errors=True) as folder:
        asked = asked._replace(folder=Path(folder))
        for found in _in_processes(asked, wanted, min(processes, len(wanted)), count):
            together.add(found, most)
    return together


class _Count:
    """How many records were read, and of how many; partitions not begun yet are taken to be alike."""

    def __init__(self, partitions: int, told: Progress) -> None:
        self._partitions = partitions
        self._told = told
        self._begun = self._of = self._read = 0

    def begin(self, records: int) -> None:
        self._begun += 1
        self._of += records
        self(0)

    def __call__(self, records: int) -> None:
        self._read += records
        expected = self._of * max(self._partitions, self._begun) // max(self._begun, 1)
        self._told(self._read, max(self._read, expected))


def _partitions(asked: _Asked, wanted: Sequence[int]) -> list[int]:
    topics = asked.settings.topics
    with ExitStack() as stack:
        recorded = recorded_of(asked.settings, asked.archive)
        stack.callback(recorded.close)
        there = recorded.partitions(topics.orders)
        recorded.partitions(topics.decisions)
    for number in wanted:
        if not 0 <= number < there:
            raise VerifyError(f"there is no partition {number} of '{topics.orders}'; it has 0 to {there - 1}")
    return sorted({*wanted}) or list(range(there))


def _verified(
    sources: Sources, models: Models, asked: _Asked, number: int, *, begun: Callable[[int], None], read: Read
) -> Verified:
    is_archive = asked.archive is not None
    with Past(
        sources,
        asked.settings,
        number,
        models=models,
        from_archive=is_archive,
        read=read,
        beside=asked.folder,
    ) as past:
        begun(past.records)
        return verify_partition(past, asked.window, most=asked.most)


def _verified_roads(asked: _Asked, partitions: Sequence[int], count: _Count) -> Verified:
    """A device's orders come from all partitions, so all are gone through by one process."""

    def verified(roads: Roads) -> Verified:
        return verify_roads(roads, asked.window, partitions=partitions, most=asked.most)

    return as_it_was(
        partial(_opened_roads, asked.settings, asked.archive, count), verified, lambda found: found.different
    )


@contextmanager
def _opened_roads(
    settings: Settings, archive: str | None, count: _Count, *, is_rebuilt: bool
) -> Iterator[Roads]:
    with ExitStack() as stack:
        sources = Sources.opened(partial(recorded_of, settings, archive), stack)
        roads = stack.enter_context(
            Roads(
                sources,
                settings,
                models=Models(settings),
                from_archive=archive is not None,
                read=count,
                is_rebuilt=is_rebuilt,
            )
        )
        count.begin(roads.records)
        yield roads


class _OpensRoads(Protocol):
    def __call__(self, *, is_rebuilt: bool) -> AbstractContextManager[Roads]: ...


_Found = TypeVar("_Found")


def as_it_was(
    opens: _OpensRoads, judged: Callable[[Roads], _Found], differing: Callable[[_Found], int]
) -> _Found:
    """What is found where the rows of entities that were turned on later are made as they were.

    Nothing records whether a rebuild made them, so that which differs in less is believed.
    """
    with opens(is_rebuilt=True) as roads:
        found = judged(roads)
        is_in_doubt = bool(roads.turned_on) and differing(found) > 0
    if not is_in_doubt:
        return found
    with opens(is_rebuilt=False) as roads:
        return min(found, judged(roads), key=differing)


def _in_processes(
    asked: _Asked, partitions: Sequence[int], processes: int, count: _Count
) -> Iterator[Verified]:
    """What the partitions gave, as they are done; a process that fails fails all."""
    context = multiprocessing.get_context("spawn")  # librdkafka and numba have threads: no fork
    left = list(reversed(partitions))
    at_work: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, asked), daemon=True)
            process.start()
            theirs.close()
            ours.send(left.pop())
            at_work[ours] = process
        while at_work:
            for ready in wait(list(at_work)):
                connection = cast("Connection", ready)
                try:
                    kind, said = connection.recv()
                except EOFError:
                    at_work[connection].join()
                    raise VerifyError(
                        f"a process ended with code {at_work[connection].exitcode} before it was done; was "
                        "it killed, or is memory short? try --processes 1"
                    ) from None
                if kind == "begun":
                    count.begin(said)
                elif kind == "read":
                    count(said)
                elif kind == "failed":
                    raise said
                else:
                    yield said
                    if left:
                        connection.send(left.pop())
                    else:
                        at_work.pop(connection).terminate()
                        connection.close()
    finally:
        for connection, process in at_work.items():
            connection.close()
            process.terminate()
            process.join()


def _serve(connection: Connection, asked: _Asked) -> None:
    """Verify one partition after the other, as told, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    read, said_at = 0, 0.0

    def begun(records: int) -> None:
        connection.send(("begun", records))

    def told(records: int) -> None:
        nonlocal read, said_at
        read += records
        if time.monotonic() - said_at > _SAID_EVERY_S:
            connection.send(("read", read))
            read, said_at = 0, time.monotonic()

    try:
        with ExitStack() as stack:
            sources = Sources.opened(partial(recorded_of, asked.settings, asked.archive), stack)
            models = Models(asked.settings)
            while True:
                number = connection.recv()
                found = _verified(sources, models, asked, number, begun=begun, read=told)
                connection.send(("read", read))
                read = 0
                connection.send(("done", found))
    except (Refusal, ModelError) as error:
        connection.send(("failed", error))
    except (EOFError, BrokenPipeError):
        return  # nobody asks any more


# One decision -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was decided about one arrival of an order, and what is decided again."""

    order: Record
    made: Made | None
    """The recorded decision; None where there is none."""
    recomputed: bytes | None
    """None where nothing is decided again, or only a stand-in could."""
    difference: Difference | None
    """How the two differ; None where they are equal, or where there need not be a decision."""
    said: str
    """What there is to say where there is no decision; empty otherwise."""

    @property
    def is_equal(self) -> bool:
        """Whether the recorded bytes are the recomputed ones."""
        return self.made is not None and self.difference is None


def replay_decision(
    settings: Settings,
    order_id: str,
    *,
    archive: str | None = None,
    told: Progress = lambda _read, _of: None,
) -> list[Replayed]:
    """Every arrival of an order, with what was decided about it and what is decided again.

    Raises VerifyError where there is no such order, and what else keeps topics from being read.
    """
    count = _Count(1, told)
    replayed: list[Replayed] = []
    with ExitStack() as stack:
        sources = Sources.opened(partial(recorded_of, settings, archive), stack)
        names = _Names(settings, order_id)
        places = _places(sources, settings, names, count)
        if not places:
            raise VerifyError(
                f"no order '{order_id}' is in '{settings.topics.orders}', and no decision about it is there; "
                "check the id, or read an archive that has it (--archive). An order of which not even the id "
                "could be read is with the dead letters: fraudstream dead-letters list"
            )
        if settings.entities:
            wanted = WantedOnTheRoad(names.order, lambda passing: passing.order_id == order_id)
            return as_it_was(
                partial(_opened_roads, settings, archive, count),
                partial(_replayed_on_the_road, wanted=wanted, places=places),
                lambda found: sum(each.difference is not None for each in found),
            )
        models = Models(settings)
        for partition, last in places.items():
            with Past(
                sources, settings, partition, models=models, from_archive=archive is not None, read=count
            ) as past:
                count.begin(past.records)
                replayed += _replayed(past, names, last)
    return replayed


class _Names:
    """Whether a record names the order."""

    def __init__(self, settings: Settings, order_id: str) -> None:
        self._order_id = order_id
        self._wanted = order_id.encode()
        self._decoder = decoder_of(settings)

    def order(self, record: Record) -> bool:
        value = record.value
        # decoding is most of the work; JSON may write any letter with a backslash, and a mapping may make the
        # id of several fields
        if value is None or (self._decoder is CONTRACT and self._wanted not in value and b"\\" not in value):
            return False
        return self._decoder.identity(value).order_id == self._order_id

    def decision(self, record: Record) -> bool:
        return dict(record.headers).get("order_id") == self._wanted


def _places(sources: Sources, settings: Settings, names: _Names, count: _Count) -> dict[int, int]:
    """The partitions that know the order, and its last place in each: as decisions say, else orders."""
    topics, recorded = settings.topics, sources.asked
    partitions = range(recorded.partitions(topics.orders))
    found: dict[int, int] = {}
    for topic in (topics.decisions, topics.decisions_shadow):
        for record in _all(recorded, topic, partitions, count):
            if names.decision(record):
                about = Made.of(record).about
                offset = -1 if about is None else about.offset
                found[record.partition] = max(found.get(record.partition, -1), offset)
    if not found:
        for record in _all(recorded, topics.orders, partitions, count):
            if names.order(record):
                found[record.partition] = record.offset
    return found


def _all(recorded: Recorded, topic: str, partitions: Sequence[int], count: _Count) -> Iterator[Record]:
    if not has_topic(recorded, topic):
        return
    for number in partitions:
        low, end = recorded.bounds((topic, number))
        count.begin(end - low)
        for chunk in recorded.read((topic, number), low, end) if low < end else ():
            count(len(chunk))
            yield from chunk


def _replayed_on_the_road(roads: Roads, wanted: WantedOnTheRoad, places: Mapping[int, int]) -> list[Replayed]:
    found = []
    for past, outcome in roads.again(wanted):
        # a stage knows of the order where it stands, and not what the shop wrote
        record = roads.order(outcome.record.partition, outcome.record.offset) or outcome.record
        found.append(_replayed_one(outcome._replace(record=record), past))
    for partition, last in places.items():
        if not any(each.order.partition == partition for each in found):
            raise _not_decided_yet(roads.homes[partition], last)
    return sorted(found, key=lambda each: (each.order.partition, each.order.offset))


def _replayed(past: Past, names: _Names, last: int) -> Iterator[Replayed]:
    met = False
    for outcome in past.again(names.order, until=last + 1):
        met = True
        yield _replayed_one(outcome, past)
    if not met:
        raise _not_decided_yet(past, last)


def _replayed_one(outcome: Outcome, past: Past) -> Replayed:
    again = None if outcome.doubt is not None else outcome.again
    made = _compared_one(outcome) if outcome.made else None
    # what there is to say of the decision compared comes first
    difference = next(_differences(outcome, past), None)
    said = ""
    if made is None and outcome.again is None:
        said = (
            "it is history (mode=history): remembered, and never decided"
            if is_history(outcome.record)
            else "it names no order that could be decided; 'fraudstream dead-letters list' has it"
        )
    elif made is None and difference is None:
        said = "its decision is no longer there; what is decided again is by the model that is known next"
    return Replayed(outcome.record, made, again, difference, said)


def _not_decided_yet(past: Past, last: int) -> VerifyError:
    where = f"{past.orders[0]}/{past.partition}"
    return VerifyError(
        f"the order at {where} offset {last:,} is not decided yet (decided up to {past.end:,}), or no "
        f"longer there (it begins at {past.low:,}); see 'fraudstream lag', or read an archive (--archive)"
    )
