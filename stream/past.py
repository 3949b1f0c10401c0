"""The past decided again: a partition's orders, as the worker's own desk decides them from what was recorded.

There is no second scorer. Orders come in the order of their offsets, and each is decided with the model, the
policy, the settings and the control state that its recorded decision names; an order that was only remembered
is remembered, one that was set aside is set aside. Rows are kept in memory, and on the disk where they are
many. Nothing is joined, committed or changed.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

import msgspec

from features.revisions import Revisions
from stream.answers import SHADOW
from stream.deciding import said_in
from stream.desk import order_key, shorten
from stream.last import last_with
from stream.panel import KILL_SWITCH, MODEL_UNAVAILABLE
from stream.past_desks import NO_CONTROL, UNTOLD, ControlPast, Desks, Doubt, Model, Models, Under
from stream.past_rows import Rows, RowsOf
from stream.ports import NO_POSITIONS, TP, Effects, Record
from stream.recorded import Recorded, has_topic, records_of
from stream.settings import Settings, Topics
from stream.writer import POSITION_KEY, decode_position

__all__ = [
    "AHEAD",
    "AT_ONCE",
    "BYTES_AT_ONCE",
    "DecidedSoFar",
    "Made",
    "Outcome",
    "Past",
    "Read",
    "Sources",
    "Wanted",
    "decided_under",
    "parted",
    "set_aside",
    "source_in",
]

AT_ONCE: Final = 4_000
BYTES_AT_ONCE: Final = 32 * 1024 * 1024
AHEAD: Final = 1_000
"""How many decisions are read ahead of an order that has none, before it is taken for one without."""
_SETTLED_MS: Final = 10_000

Read = Callable[[int], None]
"""Told how many more records were read."""


class Sources(NamedTuple):
    """What was recorded, opened once for each that reads at the same time: a `Recorded` reads one topic."""

    asked: Recorded
    orders: Recorded
    decisions: Recorded
    shadow: Recorded

    @classmethod
    def opened(cls, open_: Callable[[], Recorded], stack: ExitStack) -> Self:
        """All of them, to be closed with the stack."""

        def each() -> Recorded:
            recorded = open_()
            stack.callback(recorded.close)
            return recorded

        return cls(each(), each(), each(), each())


# What was decided ---------------------------------------------------------------------------------


class Source(msgspec.Struct):
    """Where an order stands, and how far the other inputs had been read."""

    topic: str
    partition: int
    offset: int
    others: dict[str, int] = {}


class _Word(msgspec.Struct):
    """What a decision says of how it was made."""

    decision_id: str
    order_id: str
    policy: str
    source: Source
    revision: int = 0
    model: Model | None = None
    repeat_of: str | None = None


class _SourceOnly(msgspec.Struct):
    source: Source


_word: Final = msgspec.json.Decoder(_Word).decode
_source_only: Final = msgspec.json.Decoder(_SourceOnly).decode
_ASIDE: Final = b'"code":"scorer_error"'
_KILLED: Final = f'"code":"{KILL_SWITCH}"'.encode()
_UNAVAILABLE: Final = f'"code":"{MODEL_UNAVAILABLE}"'.encode()


def source_in(value: bytes | None) -> Source:
    """Where the order stands that a decision of ours is about."""
    return _source_only(value or b"").source


class Made(NamedTuple):
    """A decision as it was recorded."""

    record: Record
    word: _Word | None
    """What it says of how it was made; None where that can't be read."""

    @classmethod
    def of(cls, record: Record) -> Self:
        """The record, and what it says."""
        try:
            return cls(record, _word(record.value or b""))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return cls(record, None)

    @property
    def place(self) -> str:
        """TOPIC/PARTITION/OFFSET."""
        return f"{self.record.topic}/{self.record.partition}/{self.record.offset}"

    @property
    def about(self) -> Source | None:
        """Where its order stands; None where that can't be read."""
        return None if self.word is None else self.word.source

    @property
    def order_id(self) -> str | None:
        """The order it names."""
        if self.word is not None:
            return self.word.order_id
        named = dict(self.record.headers).get("order_id")
        return None if named is None else named.decode(errors="replace")

    @property
    def is_first(self) -> bool:
        """Whether it was decided, by a model or without one, and repeats no other."""
        word, value = self.word, self.record.value or b""
        if word is None or word.repeat_of is not None:
            return False
        return word.model is not None or _KILLED in value or _UNAVAILABLE in value

    @property
    def is_of_an_order_set_aside(self) -> bool:
        """Whether it says that deciding the order stopped the worker."""
        word = self.word
        return (
            word is not None
            and word.model is None
            and word.repeat_of is None
            and _ASIDE in (self.record.value or b"")
        )

    @property
    def arrived_at(self) -> int | None:
        """The broker time of its order, in milliseconds; None where it does not say."""
        try:
            return int(dict(self.record.headers)["order_arrived_at"])
        except (KeyError, ValueError):
            return None


class Decided:
    """The decisions of a partition, by the offset of the order that each is about."""

    def __init__(self, streams: Sequence[Iterator[Record]], orders: TP, low: int, end: int) -> None:
        self._streams = streams
        self._orders = orders
        self._low = low
        self._end = end
        self._answered = bytearray((max(0, end - low) >> 3) + 1)
        self._pending: list[dict[int, list[Made]]] = [{} for _ in streams]
        self.read = 0
        self.stray: list[Made] = []
        """Those that are about no order that is still to come; whoever looks at them takes them away."""

    def at(self, offset: int) -> list[Made]:
        """Those about the order at this offset; asked in the order of the offsets."""
        found: list[Made] = []
        for number, pending in enumerate(self._pending):
            self._read_ahead(number, offset)
            found += pending.pop(offset, ())
        if found:
            at = offset - self._low
            self._answered[at >> 3] |= 1 << (at & 7)
        return found

    def has_answered(self, offset: int) -> bool:
        """Whether a decision about the order at this offset was met."""
        at = offset - self._low
        return self._low <= offset < self._end and bool(self._answered[at >> 3] & 1 << (at & 7))

    def ahead(self, offset: int) -> Iterator[Made]:
        """What was read ahead, beginning with this offset, in the order of their orders."""
        for number, pending in enumerate(self._pending):
            self._read_ahead(number, offset)
            for each in sorted(pending):
                yield from pending[each]

    def rest(self) -> Iterator[Made]:
        """Those about orders that never came."""
        for pending, stream in zip(self._pending, self._streams, strict=True):
            for each in sorted(pending):
                yield from pending[each]
            pending.clear()
            for record in stream:
                self.read += 1
                yield Made.of(record)

    def _read_ahead(self, number: int, offset: int) -> None:
        pending, stream = self._pending[number], self._streams[number]
        while offset not in pending:
            if len(pending) >= AHEAD:
                passed = [each for each in pending if each < offset]
                if not passed:
                    return
                for each in passed:
                    self.stray += pending.pop(each)
            record = next(stream, None)
            if record is None:
                return
            self.read += 1
            made = Made.of(record)
            about = made.about
            if about is None or (about.topic, about.partition) != self._orders or about.offset < offset:
                self.stray.append(made)
            else:
                pending.setdefault(about.offset, []).append(made)


# Deciding again -----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """An order, what was decided about it, and what is decided again."""

    record: Record
    made: list[Made]
    again: bytes | None
    topic: str | None
    """Where it is decided again."""
    key: bytes | None
    doubt: Doubt | None
    """Why what is decided again need not be what was decided."""
    is_recorded: bool
    """Whether its decision would still be there; those of old orders may have been deleted."""
    was_set_aside: bool


class DecidedSoFar(Protocol):
    """The decisions of a partition, by the offset of the order that each is about."""

    stray: list[Made]
    """Those that are about no order that is still to come; whoever looks at them takes them away."""
    read: int
    """How many records were read for it."""

    def at(self, offset: int) -> list[Made]:
        """Those about the order at this offset; asked in the order of the offsets."""

    def has_answered(self, offset: int) -> bool:
        """Whether a decision about the order at this offset was met."""

    def ahead(self, offset: int) -> Iterator[Made]:
        """Some that come next, beginning with this offset, in the order of their orders."""

    def rest(self) -> Iterator[Made]:
        """Those about orders that never came."""


Wanted = Callable[[Record], bool]
"""Whether this order is to be decided again; of the others only what they leave behind counts."""


class Past:
    """One partition's orders decided again, in the order of their offsets."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        partition: int,
        *,
        models: Models,
        from_archive: bool = False,
        read: Read = lambda _: None,
        beside: Path | None = None,
    ) -> None:
        """Ask where the topics begin and end. In an archive they may end at different times.

        Rows that do not fit into memory go below the folder `beside`.
        """
        self._sources = sources
        self._settings = settings
        self.partition = partition
        self.from_archive = from_archive
        self._told = read
        self._stack = ExitStack()
        topics = settings.topics
        self.orders: TP = (topics.orders, partition)
        self._outputs = (topics.decisions, topics.decisions_shadow)
        self._desks = self._opened_desks(models)
        self._rows = self._opened_rows(beside)
        self._watermarks: dict[int, int] = {}
        self._heard = {topics.outcomes: 0, topics.order_events: 0}
        """How far is heard what became of orders, by topic."""
        # first where the workers have come to: whatever they decided until then is there to be read
        position = None if from_archive else self._position()
        self.low, end = sources.asked.bounds(self.orders)
        self._bounds = [self._bounds_of(each) for each in self._outputs]
        heard = [(topic, partition) for topic in self._heard]
        self.gaps = {tp: sources.asked.gaps(tp) for tp in (self.orders, *heard, *self._output_partitions)}
        """Of orders, what became of them, and decisions: offsets [start, end) that an archive lacks."""
        self.end = max(self.low, min(end, self._decided_to(position)))
        self._orders_end = end
        """The first order that the workers have not decided, as far as that can be told."""
        self.undecided = end - self.end
        self.first_recorded = self.low
        """The first order whose decision would be there."""
        self._aside = set_aside(self._sources.asked, settings.topics, self.orders)
        self.seen = 0
        """How many records of orders were gone through."""
        self.decided = self._opened_decisions()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def records(self) -> int:
        """How many records are to be read, about."""
        return self.end - self.low + sum(end - low for low, end in self._bounds)

    def lacks_history_of(self, made: Made, offset: int) -> bool:
        """Whether something was lost that was known when the order at the offset was decided."""
        others = {} if made.word is None else made.word.source.others
        known = {(topic, self.partition): end for topic, end in others.items()} | {self.orders: offset}
        return any(start < known.get(tp, 0) for tp, gaps in self.gaps.items() for start, _ in gaps)

    def has_lost(self, offset: int) -> bool:
        """Whether the order at the offset was lost."""
        return any(start <= offset < end for start, end in self.gaps[self.orders])

    @property
    def has_lost_decisions(self) -> bool:
        """Whether decisions were lost."""
        return any(self.gaps[tp] for tp in self._output_partitions)

    @property
    def _output_partitions(self) -> tuple[TP, ...]:
        return tuple((topic, self.partition) for topic in self._outputs)

    @property
    def has_mapping(self) -> bool:
        """Whether orders come in a shop's own JSON."""
        return self._desks.has_mapping

    @property
    def grew(self) -> str:
        """Which horizon was raised, if one was: what was forgotten before can't be told."""
        return self._desks.grew

    @property
    def begins_at(self) -> str:
        """Which topic that histories are made of lacks its beginning, and where it begins; none: empty."""
        return f"{self.orders[0]}/{self.partition} begins at offset {self.low:,}" if self.low else ""

    def is_to_come(self, offset: int) -> bool:
        """Whether an order may stand there that was not decided yet when the reading began."""
        if offset < self.end:
            return False
        if offset >= self._orders_end and not self.from_archive:
            self._orders_end = self._sources.asked.bounds(self.orders)[1]
        return self.from_archive or offset < self._orders_end

    def again(self, wanted: Wanted, *, until: int | None = None) -> Iterator[Outcome]:
        """What was decided about the orders wanted before an offset, and what is decided again; once only.

        Orders whose decisions are no longer there are decided too, wanted or not, because resends and
        revisions of them speak of what was decided.
        """
        decided, under, first = self.decided, UNTOLD, self.end
        for made in decided.ahead(self.low):
            under = under.or_else(self._desks.untold(decided_under(made, self._settings)))
            if made.word is not None:
                first = min(first, made.word.source.offset)
        if under.model is None:
            under = under.or_else(self._desks.named_now)
        if any(low > 0 for low, _ in self._bounds):
            self.first_recorded = first
        batch: list[tuple[Record, list[Made]]] = []
        size, is_wanted, told = 0, False, 0
        for record in self._stream(
            self._sources.orders, self.orders, self.low, self.end if until is None else min(until, self.end)
        ):
            self.seen += 1
            made_here = decided.at(record.offset)
            said, others = self._told_of(record, made_here, under)
            together = under.and_then(said)
            now_wanted = wanted(record)
            was_set_aside = self._was_set_aside(record, made_here)
            is_full = len(batch) >= AT_ONCE or size > BYTES_AT_ONCE
            unheard = {
                topic: others[topic] for topic, heard in self._heard.items() if others.get(topic, 0) > heard
            }
            is_apart = together is None or was_set_aside or now_wanted != is_wanted or bool(unheard)
            if batch and (is_apart or is_full):
                yield from self._decide(batch, under, wanted=is_wanted)
                batch, size = [], 0
                self._told(self.seen + decided.read - told)
                told = self.seen + decided.read
            under = said.or_else(under) if together is None else together
            self._hear(unheard, under)
            is_wanted = now_wanted
            if was_set_aside:
                yield from self._put_aside(record, made_here, under, wanted=now_wanted)
                continue
            batch.append((record, made_here))
            size += len(record.value or b"")
        if batch:
            yield from self._decide(batch, under, wanted=is_wanted)
        self._told(self.seen + decided.read - told)
        self._at_the_end(under)

    # what an order that goes on from here changes (`stream.past_road`)

    def _opened_desks(self, models: Models) -> Desks:
        return Desks(self._settings, models, ControlPast.read(self._sources.asked, self._settings))

    def _opened_rows(self, beside: Path | None) -> Rows | RowsOf:
        return self._stack.enter_context(Rows(beside=beside))

    def _opened_decisions(self) -> DecidedSoFar:
        streams = [
            # what challengers would have decided is nobody's decision
            (
                each
                for each in self._stream(source, (topic, self.partition), *bounds)
                if SHADOW not in each.headers
            )
            for source, topic, bounds in zip(
                (self._sources.decisions, self._sources.shadow), self._outputs, self._bounds, strict=True
            )
        ]
        return Decided(streams, self.orders, self.low, self.end)

    def _told_of(
        self, _record: Record, made: Sequence[Made], _under: Under
    ) -> tuple[Under, Mapping[str, int]]:
        """What the order was decided under, and how far its other inputs had been read."""
        if not made:
            return UNTOLD, {}
        word = made[0].word
        under = self._desks.untold(decided_under(made[0], self._settings))
        return under, {} if word is None else word.source.others

    def _was_set_aside(self, record: Record, made: Sequence[Made]) -> bool:
        return record.offset in self._aside or (bool(made) and made[0].is_of_an_order_set_aside)

    def _sent_on(self, _effects: Effects, *, judged: bool) -> AbstractSet[int]:  # noqa: ARG002
        """Look at what is sent on; which orders are decided elsewhere. What can't be `judged` is believed."""
        return frozenset()

    def _believe(self, batch: Sequence[tuple[Record, list[Made]]], rows: dict[bytes, bytes | None]) -> None:
        _believe(batch, rows)

    def _at_the_end(self, under: Under) -> None:
        pass

    # reading

    def _stream(self, source: Recorded, tp: TP, start: int, end: int) -> Iterator[Record]:
        records = records_of(source, tp, start, end)
        self._stack.callback(records.close)  # what is not read to its end would hold the reader
        return records

    def _bounds_of(self, topic: str) -> tuple[int, int]:
        if not has_topic(self._sources.asked, topic):
            return 0, 0
        return self._sources.asked.bounds((topic, self.partition))

    def _position(self) -> tuple[int, int] | None:
        """Where the workers have come to, as the changelog says, and when they said so."""
        tp = (self._settings.topics.changelog, self.partition)
        low, end = self._bounds_of(tp[0])
        found = last_with(POSITION_KEY, partial(self._sources.asked.read, tp), low, end)
        if found is not None and found.value is not None:
            with suppress(msgspec.DecodeError):
                reached = decode_position(found.value).inputs.get(self.orders[0])
                return None if reached is None else (reached, found.timestamp)
        return None

    def _decided_to(self, position: tuple[int, int] | None) -> int:
        """The first order that may have no decision yet."""
        if position is None:
            return self._last_decided()
        reached, said_at = position
        # each partition is told apart that a transaction is committed, so the changelog may know it first
        is_fresh = abs(time.time() * 1000 - said_at) < _SETTLED_MS
        return min(reached, self._last_decided()) if is_fresh else reached

    def _last_decided(self) -> int:
        """The offset after the last order that has a decision, as the last decisions say."""
        last = 0
        for topic, (low, end) in zip(self._outputs, self._bounds, strict=True):
            start = max(low, end - AHEAD)
            for chunk in self._sources.asked.read((topic, self.partition), start, end) if start < end else ():
                for made in map(Made.of, chunk):
                    if made.word is not None and made.word.source.topic == self.orders[0]:
                        last = max(last, made.word.source.offset + 1)
        return last

    def _hear(self, unheard: Mapping[str, int], under: Under) -> None:
        """Let histories learn what became of orders, as far as the workers knew it then."""
        for topic, end in unheard.items():
            desk, doubt = self._desks.desk(under, real=False)
            tp = (topic, self.partition)
            for chunk in self._sources.asked.read(tp, self._heard[topic], end):
                effects = desk.decide(chunk, self._rows.recall, self._watermarks, NO_POSITIONS)
                self._rows.change(effects.rows.get(self.partition, {}))
                self._sent_on(effects, judged=doubt is None)
            self._heard[topic] = end

    # deciding

    def _decide(
        self, batch: Sequence[tuple[Record, list[Made]]], under: Under, *, wanted: bool
    ) -> Iterator[Outcome]:
        real = wanted or batch[0][0].offset < self.first_recorded
        desk, doubt = self._desks.desk(under, real=real)
        # what a stand-in says must be corrected before a resend is told the same
        for part in [batch] if doubt is None else parted(batch):
            records = [record for record, _ in part]
            positions = {self.partition: self._heard}
            effects = desk.decide(records, self._rows.recall, self._watermarks, positions)
            changed = effects.rows.get(self.partition, {})
            if doubt is not None or not real:
                self._believe(part, changed)
            self._rows.change(changed)
            self._watermarks |= effects.watermarks
            elsewhere = self._sent_on(effects, judged=real and doubt is None)
            if wanted:
                yield from self._outcomes(part, effects, doubt, elsewhere)

    def _put_aside(
        self, record: Record, made: list[Made], under: Under, *, wanted: bool
    ) -> Iterator[Outcome]:
        desk, doubt = self._desks.desk(under, real=wanted)
        effects = desk.set_aside(record, self._rows.recall, {self.partition: self._heard})
        if wanted:
            yield from self._outcomes([(record, made)], effects, doubt, (), was_set_aside=True)

    def _outcomes(
        self,
        batch: Sequence[tuple[Record, list[Made]]],
        effects: Effects,
        doubt: Doubt | None,
        elsewhere: Container[int],
        *,
        was_set_aside: bool = False,
    ) -> Iterator[Outcome]:
        emitted = {
            source_in(each.value).offset: each
            for each in effects.produce
            if each.topic in self._outputs and SHADOW not in each.headers
        }
        for record, made in batch:
            if record.offset in elsewhere:
                continue
            again = emitted.get(record.offset)
            yield Outcome(
                record,
                made,
                None if again is None else again.value,
                None if again is None else again.topic,
                None if again is None else again.key,
                doubt,
                record.offset >= self.first_recorded,
                was_set_aside,
            )


def decided_under(made: Made, settings: Settings) -> Under:
    """What a decision says of what it was made under; a repeated one says it of the first."""
    word = made.word
    if word is None:
        return UNTOLD
    is_repeat = word.repeat_of is not None
    return Under(
        None if is_repeat else word.model,
        None if is_repeat else word.policy,
        word.source.others.get(settings.topics.control, NO_CONTROL),
        made.record.topic == settings.topics.decisions_shadow,
        said_in(made.record.headers) or b"",
        None if is_repeat else _instead(made),
    )


def _instead(made: Made) -> str:
    """The model that decided where another was to and could not, with its policy; empty where none had to."""
    if _UNAVAILABLE not in (made.record.value or b""):
        return ""
    word = made.word
    return (
        "none"
        if word is None or word.model is None
        else f"{word.model.name}@{word.model.version}/{word.policy}"
    )


def set_aside(recorded: Recorded, topics: Topics, tp: TP) -> frozenset[int]:
    """Which records of a partition were set aside after they had stopped the worker, as far as still told."""
    rejected = (topics.rejected, tp[1])
    if not has_topic(recorded, topics.rejected):
        return frozenset()
    low, end = recorded.bounds(rejected)
    found = set()
    for record in records_of(recorded, rejected, low, end):
        said = dict(record.headers)
        if said.get("reason") == b"scorer_error" and said.get("source_topic") == tp[0].encode():
            with suppress(KeyError, ValueError):
                found.add(int(said["source_offset"]))
    return frozenset(found)


_Step = TypeVar("_Step", bound=tuple[Any, ...])


def parted(batch: Sequence[_Step]) -> Iterator[Sequence[_Step]]:
    """The batch in parts that each begin with a resend; of each the last says what was decided."""
    begin = 0
    for at, (*_, made) in enumerate(batch):
        if at > begin and made and made[0].word is not None and made[0].word.repeat_of is not None:
            yield batch[begin:at]
            begin = at
    yield batch[begin:]


def _believe(batch: Sequence[tuple[Record, list[Made]]], rows: dict[bytes, bytes | None]) -> None:
    """Remember of orders that were not decided again what was decided about them.

    Resends and revisions that come later speak of it.
    """
    for _, made in batch:
        for each in made[:1]:
            word = each.word
            if word is None or not each.is_first:
                continue
            key = order_key(word.order_id)
            kept = rows.get(key)
            if kept is None:
                continue
            revisions = Revisions.decode(kept)
            seen = revisions.of(word.revision)
            if seen is None or not seen.decision_id:
                continue
            with suppress(ValueError):  # pydantic's is one: bytes that are no decision are believed nothing
                seen.decision_id, seen.decision = UUID(word.decision_id).bytes, each.record.value or b""
                if seen.is_brief:
                    shorten(seen)
                rows[key] = revisions.encode()
