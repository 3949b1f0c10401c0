"""The control topic: what people decided about all workers of a group, in one total order.

It has one partition, is never compacted and is read from its start by every worker, outside the group.
The state in force after the records before an offset is a pure fold of them, so a decision that names
that offset says under which control state it was made.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream.kafka import KafkaCluster, once_it_answers
from stream.ports import Record, Refused, Unreachable
from stream.service import MOVES, NOBODY, NOTES, REFUSED, Service
from stream.settings import Settings
from stream.topics import TopicError, partitions_of
from stream.version import program_version

__all__ = [
    "DRAIN",
    "LIVE",
    "LONGEST_CAUSE",
    "OBSERVE",
    "PAUSED",
    "RESUMED",
    "SCHEMA_VERSION",
    "Appender",
    "Control",
    "ControlEvent",
    "ControlRecord",
    "ControlState",
    "append",
    "change",
    "check_words",
    "event_of",
    "history",
    "in_force",
]

log = logging.getLogger("fraudstream.control")

SCHEMA_VERSION: Final = 1
"""The newest version of a control record that this program follows."""

PAUSED: Final = "paused"
RESUMED: Final = "resumed"
OBSERVE: Final = "observe"
LIVE: Final = "live"
DRAIN: Final = "drain"
"""The field of a pause that says whether orders on their road go on."""

_LONGEST_WHO: Final = 200
_LONGEST_WHY: Final = 2_000
LONGEST_CAUSE: Final = 1_900
"""What a program says why is cut to so much."""
_ANSWER_S: Final = 10.0
_POLL_S: Final = 0.5
_LOOK_AGAIN_S: Final = 0.1
_SAY_EVERY_S: Final = 30.0
_CRASHED: Final = 70
_EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_LATEST_MS: Final = 253_402_300_799_000
"""The last second that a datetime can have, the year 9999's, in milliseconds since 1970."""


class ControlRecord(BaseModel):
    """One thing that a person, or a program, decided about the workers of a group.

    When it was decided is the broker's time of the record. These fields keep their meaning in every
    version; fields that a later version adds are kept as they are.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    kind: str = Field(min_length=1, max_length=64)
    """What was decided: paused, resumed, observe, live, or a word of a later version."""
    group: str | None = Field(default=None, min_length=1, max_length=249)
    """Whom it concerns; None is every group that reads this topic."""
    who: str = Field(min_length=1, max_length=_LONGEST_WHO)
    why: str = Field(min_length=1, max_length=_LONGEST_WHY)
    required: bool = False
    """Whether a worker that does not know the kind must refuse to go on."""
    written_by: str = Field(default="unknown", max_length=64)
    """The version of fraudstream that wrote it: the one to run where it can't be followed."""


@dataclass(frozen=True, slots=True)
class ControlEvent:
    """A control record and its place in the log."""

    offset: int
    at: datetime
    """When the broker appended it."""
    record: ControlRecord

    def __str__(self) -> str:
        """`paused by anna on 2026-11-22 10:00:00 UTC: the warehouse is down`."""
        told = self.record
        drains = ", but for orders on their road," if self.drains else ""
        return _on_one_line(
            f"{told.kind}{drains} by {told.who} on {self.at:%Y-%m-%d %H:%M:%S} UTC: {told.why}"
        )

    @property
    def drains(self) -> bool:
        """Of a pause: whether orders that are on their road come to their decision.

        An earlier version does not know this, and pauses them too.
        """
        return (self.record.model_extra or {}).get(DRAIN) is True

    def as_json(self) -> dict[str, object]:
        """The same, for machines."""
        return {"offset": self.offset, "at": self.at.isoformat(), **self.record.model_dump(mode="json")}


@dataclass(frozen=True, slots=True)
class ControlState:
    """What is in force for a group after the first records of the control topic."""

    group: str
    next_offset: int = 0
    """The offset after the last record that this state knows of."""
    pause: ControlEvent | None = None
    """The pause in force."""
    mode: ControlEvent | None = None
    """What last said whether the group observes or is live; None when nothing ever did."""
    services: tuple[Service, ...] = (NOBODY,)
    """Every service that was in force, oldest first: an order on its road is decided under its home's."""
    unknown: tuple[ControlEvent, ...] = ()
    """Records of kinds that a later version knows: kept, not followed."""
    malformed: int = 0
    """How many records were none of ours; anyone may write to a topic."""
    refusal: str = ""
    """Why a worker of this version must not go on; empty when it may."""

    @property
    def paused(self) -> bool:
        """Whether the workers take no orders."""
        return self.pause is not None

    @property
    def draining(self) -> bool:
        """Whether the workers take no orders, while those on their road come to their decision."""
        return self.pause is not None and self.pause.drains

    def observing(self, *, unless_told: bool = False) -> bool:
        """Whether decisions go to the shadow only; the record wins over what a worker was started with."""
        return unless_told if self.mode is None else self.mode.record.kind == OBSERVE

    @property
    def service(self) -> Service:
        """The models in service."""
        return self.services[-1]

    def service_at(self, offset: int) -> Service:
        """The models in service after the records before an offset."""
        return next(each for each in reversed(self.services) if each.since <= max(offset, 0))

    def said(self, *, unless_told: bool = False) -> str:
        """What is in force, in a line for each thing."""
        mode = "observing" if self.observing(unless_told=unless_told) else "live"
        lines = [
            f"group '{self.group}' is {'not paused' if self.pause is None else f'paused ({self.pause})'}",
            f"group '{self.group}' is {mode} ({self.mode or 'as its workers were started'})",
        ]
        lines += [_on_one_line(each) for each in self.service.said()]
        lines += [f"not known here: {event}" for event in self.unknown]
        if self.refusal:
            lines.append(self.refusal)
        return "\n".join(lines)

    def shown(self) -> dict[str, object]:
        """The same for machines."""
        return {
            "group": self.group,
            "next_offset": self.next_offset,
            "paused": self.paused,
            "draining": self.draining,
            "mode": None if self.mode is None else self.mode.record.kind,
            "pause": _shown(self.pause),
            "mode_set": _shown(self.mode),
            "kill_switch": self.service.kill,
            "models": [each.shown() for each in self.service.served],
            "unknown": [_shown(event) for event in self.unknown],
            "malformed": self.malformed,
            "refusal": self.refusal,
        }

    def after(self, record: Record) -> "ControlState":
        """The state once this record is in force too; a record that can't be read changes nothing else."""
        moved = replace(self, next_offset=record.offset + 1)
        event = event_of(record)
        if event is None:
            return replace(moved, malformed=self.malformed + 1)
        told = event.record
        if told.group not in {None, self.group}:
            return moved
        effect = _EFFECTS.get(told.kind)
        if effect is not None and told.schema_version <= SCHEMA_VERSION:
            try:
                return effect(moved, event)
            except ValueError:  # one of ours that does not say what its kind has to
                return replace(moved, malformed=self.malformed + 1)
        if effect is None and not told.required:
            return replace(moved, unknown=(*self.unknown, event))
        return replace(moved, refusal=self.refusal or _too_new(event))


def _shown(event: ControlEvent | None) -> dict[str, object] | None:
    return None if event is None else event.as_json()


def _pause(state: ControlState, event: ControlEvent) -> ControlState:
    return replace(state, pause=event)


def _resume(state: ControlState, _: ControlEvent) -> ControlState:
    return replace(state, pause=None)


def _set_mode(state: ControlState, event: ControlEvent) -> ControlState:
    return replace(state, mode=event)


def _move(state: ControlState, event: ControlEvent) -> ControlState:
    told = event.record
    moved = state.service.after(told.kind, told.model_extra or {}, event.offset)
    if moved is state.service:  # somebody else's move was there first
        return state
    # only what is in force leads back anywhere: kept with each, it would grow with the square of the moves
    *others, before = state.services
    return replace(state, services=(*others, replace(before, past=()), moved))


def _as_it_was(state: ControlState, _: ControlEvent) -> ControlState:
    return state


_EFFECTS: Final[Mapping[str, Callable[[ControlState, ControlEvent], ControlState]]] = MappingProxyType(
    {PAUSED: _pause, RESUMED: _resume, OBSERVE: _set_mode, LIVE: _set_mode}
    | dict.fromkeys(NOTES, _as_it_was)
    | dict.fromkeys(MOVES, _move)
)
"""What each kind changes; a new kind is a word here and a field of ControlState."""


def event_of(record: Record) -> ControlEvent | None:
    """The event in a record; None for bytes that are none."""
    try:
        told = ControlRecord.model_validate_json(record.value or b"")
    except ValidationError:
        return None
    # a topic that keeps its senders' times may hold any number
    at = min(max(record.timestamp, 0), _LATEST_MS)
    return ControlEvent(record.offset, datetime.fromtimestamp(at / 1000, UTC), told)


def _too_new(event: ControlEvent) -> str:
    told = event.record
    return _on_one_line(
        f"control record {event.offset} is '{told.kind}' of version {told.schema_version}, which a worker "
        f"has to follow, and this fraudstream {program_version()} can't (it reads version {SCHEMA_VERSION}); "
        f"run fraudstream {told.written_by}, which wrote it, or a newer one"
    )


def _on_one_line(text: str) -> str:
    """Text that anyone may have written, as one line that gives a terminal no orders."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


class Control:
    """The control topic as one process follows it, with a consumer of its own outside the group."""

    def __init__(self, settings: Settings) -> None:
        """Look for the topic. Raises TopicError when it is missing, Unreachable when nobody answers."""
        self._at = TopicPartition(settings.topics.control, 0, 0)
        self._changed = threading.Condition()
        self._state = ControlState(settings.group)
        self._reached = 0
        """How far the log was read, what is no record included."""
        self._said_at = -_SAY_EVERY_S
        self._admin = AdminClient(settings.confluent(log_level=0))
        self._closing = False
        self._told: Callable[[ControlState], None] = lambda _: None
        self._thread: threading.Thread | None = None
        self._consumer = Consumer(
            settings.confluent(
                group_id=settings.group,  # to have its rights; it joins nothing
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                log_level=0,
            )
        )
        try:
            known = self._consumer.list_topics(timeout=_ANSWER_S).topics
        except KafkaException as error:
            self._consumer.close()
            raise Unreachable(
                f"no broker answers at {settings.broker} ({error.args[0].str()}); "
                "start one with 'fraudstream broker start', or set FRAUDSTREAM_BROKER"
            ) from error
        if self._at.topic not in known or known[self._at.topic].error is not None:
            self._consumer.close()
            raise TopicError(
                f"topic '{self._at.topic}' does not exist on {settings.broker}; "
                "run 'fraudstream topics create'"
            )
        self._consumer.assign([self._at])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop following and let go of the consumer; a thread that is late does that itself."""
        self._closing = True
        if self._thread is None:
            self._consumer.close()
        else:
            self._thread.join(2 * _POLL_S)

    @property
    def state(self) -> ControlState:
        """What is in force as far as the topic was read."""
        return self._state

    def read_to_end(self) -> ControlState:
        """Read what is there now, before anyone follows. Raises Unreachable."""
        if not self._reached and (begin := self._offset(_EARLIEST, _ANSWER_S)):
            # whoever folds what is left comes to another state than those who read it all
            self._state = replace(self._state, refusal=_lost(self._at.topic, begin))
        end, before = self._end(_ANSWER_S), self._state.malformed
        deadline = time.monotonic() + _ANSWER_S
        while self._reached < end:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"'{self._at.topic}' was read to offset {self._reached} of {end} in {_ANSWER_S:.0f} s; "
                    "see that its broker runs"
                )
            self._read(0.1)
        if junk := self._state.malformed - before:
            log.error("%d records of '%s' are no control records: ignored", junk, self._at.topic)
        return self._state

    def follow(self, told: Callable[[ControlState], None]) -> None:
        """Go on reading in a thread, and tell every change of the state."""
        self._told = told
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)
        self._thread.start()

    def catch_up(self, seconds: float) -> bool:
        """Wait until the thread that follows has read what is in the topic now, and told of it.

        False if it takes longer.
        """
        deadline = time.monotonic() + seconds
        try:
            end = self._end(seconds)
        except Unreachable as error:
            log.warning("going on with the control state known so far: %s", error)
            return False
        with self._changed:
            while self._reached < end:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    log.warning("control was read to offset %d of %d only", self._reached, end)
                    return False
        return True

    def _end(self, seconds: float) -> int:
        return self._offset(_LATEST, seconds)

    def _offset(self, where: OffsetSpec, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._ask_for(where, max(deadline - time.monotonic(), 0.1))
            except (KafkaException, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"'{self._at.topic}' did not say how far it goes within {seconds:.0f} s ({error}); "
                        "ask 'fraudstream doctor' what is wrong"
                    ) from error
            time.sleep(_LOOK_AGAIN_S)
            # a topic just made has no leader yet, and after a broker's restart the client asks under the
            # old leader epoch for minutes, unless it is made to look who leads
            with suppress(KafkaException):
                self._admin.list_topics(self._at.topic, timeout=max(deadline - time.monotonic(), 0.1))

    def _ask_for(self, where: OffsetSpec, seconds: float) -> int:
        # not the consumer's get_watermark_offsets: it never returns while another thread polls
        asked = {TopicPartition(self._at.topic, 0): where}
        answer = self._admin.list_offsets(asked, request_timeout=seconds)
        return int(next(iter(answer.values())).result(timeout=seconds).offset)

    def _follow(self) -> None:
        try:
            while not self._closing:
                self._read(_POLL_S)
            self._consumer.close()  # here, where nobody polls it any more
        except BaseException as failure:
            # a worker that no longer hears of a pause would go on against a person's word
            log.critical("the control topic can't be followed; the worker ends", exc_info=failure)
            logging.shutdown()
            os._exit(_CRASHED)

    def _read(self, seconds: float) -> None:
        """Take in what comes next, waiting at most so long for it."""
        message = self._consumer.poll(seconds)
        if message is None:
            return
        error = message.error()
        if error is None:
            self._take(_record(message))
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self._reach(message.offset() or 0)
        elif time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("'%s' can't be read for now: %s", self._at.topic, error.str())

    def _take(self, record: Record) -> None:
        before = self._state
        if record.offset < before.next_offset:
            log.error("'%s' was made anew: what it said before is forgotten", record.topic)
            before = ControlState(before.group)
        self._state = state = before.after(record)
        if state.malformed > before.malformed and self._thread is not None:
            log.error("record %d of '%s' is no control record: ignored", record.offset, record.topic)
        elif len(state.unknown) > len(before.unknown):
            event = state.unknown[-1]
            log.warning(
                "control record %d is '%s', written by fraudstream %s: kept, and not known here",
                event.offset,
                _on_one_line(event.record.kind),
                _on_one_line(event.record.written_by),
            )
        self._told(state)
        self._reach(record.offset + 1)  # last: who has caught up may count on it that all was told

    def _reach(self, offset: int) -> None:
        with self._changed:
            self._reached = offset
            self._changed.notify_all()


def _lost(topic: str, begin: int) -> str:
    return (
        f"'{topic}' has lost its records before offset {begin:,}, so what is in force can't be told: its "
        "retention deleted them, or somebody did; let orders on their road come to their end, delete it, "
        "make it anew with 'fraudstream topics create', and say again what is to be in force "
        "(docs/upgrades.md)"
    )


def _record(message: Message) -> Record:
    # without its headers: they may have names that no client can read, and say nothing here
    return Record(
        message.topic() or "",
        0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
    )


def in_force(settings: Settings) -> ControlState:
    """What is in force for the group now.

    Raises TopicError, Unreachable.
    """
    with Control(settings) as control:
        return control.read_to_end()


def history(settings: Settings) -> Iterator[ControlEvent]:
    """Everything that was ever decided about the group, oldest first, with who, when and why.

    Raises TopicError, Unreachable; NotStable while somebody's open transaction holds records back.
    """
    for event in map(event_of, _recorded(settings)):
        if event is not None and event.record.group in {None, settings.group}:
            yield event


def _recorded(settings: Settings) -> Iterator[Record]:
    tp = (settings.topics.control, 0)
    partitions_of(settings, tp[0])  # a missing topic is told, and not made
    with closing(KafkaCluster(settings, quiet=True)) as cluster:
        low, end = once_it_answers(cluster.bounds, tp)
        for chunk in cluster.read(tp, low, end):
            yield from chunk


class Appender:
    """Writes records about a group; from the second on each takes milliseconds."""

    def __init__(self, settings: Settings) -> None:
        """It is ready half a second later: made first, it is so by the time that something is to be said."""
        self._settings = settings
        self._producer = Producer(
            settings.confluent(
                enable_idempotence=True, acks="all", delivery_timeout_ms=int(_ANSWER_S * 1000), log_level=0
            )
        )

    def append(self, kind: str, *, who: str, why: str, **more: Any) -> int:
        """Write a record and return its offset once every in-sync replica has it.

        `more` are the fields of its kind. Raises Refused for words that can't be a record, Unreachable when
        it was not delivered.
        """
        told = _record_to_write(self._settings, kind, who=who, why=why, **more)
        answers: list[tuple[KafkaError | None, int]] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            answers.append((error, message.offset() or 0))

        topic = self._settings.topics.control
        value = json.dumps(told.model_dump(mode="json"), sort_keys=True).encode()
        self._producer.produce(topic, value, self._settings.group, 0, on_delivery=delivered)
        self._producer.flush(_ANSWER_S + 5)
        if not answers or answers[0][0] is not None:
            said = answers[0][0].str() if answers and answers[0][0] is not None else "no answer"
            raise Unreachable(
                f"'{kind}' was not written to '{topic}': {said}; see 'fraudstream control' for "
                "what is in force, then try again"
            )
        return answers[0][1]


def append(settings: Settings, kind: str, *, who: str, why: str, **more: Any) -> int:
    """Write one record, as `Appender.append` does."""
    return Appender(settings).append(kind, who=who, why=why, **more)


def change(
    settings: Settings, kind: str, *, who: str, why: str, drain: bool = False
) -> tuple[ControlState, bool]:
    """Write a record unless it would change nothing; the state then, and whether one was written.

    `drain`: of a pause, whether orders on their road come to their decision. Raises Refused, TopicError,
    Unreachable.
    """
    _record_to_write(settings, kind, who=who, why=why)
    appender = Appender(settings)
    with Control(settings) as control:
        state = control.read_to_end()
        if state.refusal:
            raise Refused(state.refusal)
        if _is_so(state, kind, drain=drain):
            return state, False
        appender.append(kind, who=who, why=why, **({DRAIN: True} if drain else {}))
        return control.read_to_end(), True


def check_words(settings: Settings, *, who: str, why: str) -> None:
    """Raise Refused for words that no record can carry."""
    _record_to_write(settings, REFUSED, who=who, why=why)


def _record_to_write(settings: Settings, kind: str, *, who: str, why: str, **more: Any) -> ControlRecord:
    for name, words, most in (("who", who, _LONGEST_WHO), ("why", why, _LONGEST_WHY)):
        if not words.strip() or len(words) > most:
            got = f"{len(words):,}" if words.strip() else "none"
            raise Refused(f"--{name}: expected 1 to {most:,} letters, got {got}; say it in other words")
    try:
        return ControlRecord(
            kind=kind,
            group=settings.group,
            who=who,
            why=why,
            # a worker that did not follow it would decide with another model than all others
            required=kind in MOVES,
            written_by=program_version(),
            **more,
        )
    except ValidationError as error:  # bytes that are no text, or a group whose name is too long
        first = error.errors(include_url=False, include_input=False)[0]
        where = "setting group" if first["loc"][0] == "group" else f"--{first['loc'][0]}"
        raise Refused(f"{where}: {first['msg']}; say it in other words") from None


def _is_so(state: ControlState, kind: str, *, drain: bool) -> bool:
    if kind in {PAUSED, RESUMED}:
        return state.paused == (kind == PAUSED) and state.draining == drain
    return state.mode is not None and state.mode.record.kind == kind
