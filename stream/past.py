"""The past decided again: a partition's orders, as the worker's own desk decides them from what was recorded.

There is no second scorer. Orders come in the order of their offsets, and each is decided with the model, the
policy, the settings and the control state that its recorded decision names; an order that was only remembered
is remembered, one that was set aside is set aside. Rows are kept in memory, and on the disk where they are
many. Nothing is joined, committed or changed.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, cast
from uuid import UUID

import msgspec
from rocksdict import DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from features.define import Feature
from features.revisions import Revisions
from models.decision import ModelRef
from models.errors import ModelError
from models.policy import Policy
from models.scorer import Scored, Scorer
from stream.control import ControlState
from stream.deciding import Deciding, said_in
from stream.decoder import CONTRACT, Decoder, decoder_of
from stream.desk import ScoringDesk, order_key, shorten
from stream.last import last_with
from stream.own_features import catalogue_of
from stream.ports import TP, Effects, Record
from stream.recorded import Recorded
from stream.registry import registry_of
from stream.settings import Settings
from stream.topics import TopicError
from stream.writer import POSITION_KEY, decode_position

__all__ = [
    "ControlPast",
    "Doubt",
    "Made",
    "Models",
    "Outcome",
    "Past",
    "Read",
    "Sources",
    "Wanted",
]

_AT_ONCE: Final = 4_000
_BYTES_AT_ONCE: Final = 32 * 1024 * 1024
_AHEAD: Final = 1_000
"""How many decisions are read ahead of an order that has none, before it is taken for one without."""
_ROWS_IN_MEMORY: Final = 128 * 1024 * 1024
SPILLED: Final = "fraudstream-verify-"
"""What the names of temporary folders begin with."""
_A_ROW_COSTS: Final = 200
"""Bytes beside key and value, about."""
_SETTLED_MS: Final = 10_000
_NONE: Final = -1
"""The control offset of a decision that names none: there was no control topic."""

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


class _Model(msgspec.Struct, frozen=True):
    name: str
    version: str
    digest: str


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
    model: _Model | None = None
    repeat_of: str | None = None


class _SourceOnly(msgspec.Struct):
    source: Source


_word: Final = msgspec.json.Decoder(_Word).decode
_source: Final = msgspec.json.Decoder(_SourceOnly).decode
_ASIDE: Final = b'"code":"scorer_error"'


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
        """Whether it was scored, and repeats no other."""
        return self.word is not None and self.word.model is not None and self.word.repeat_of is None

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
            if len(pending) >= _AHEAD:
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


# What decided -------------------------------------------------------------------------------------


class Doubt(NamedTuple):
    """Why a decision can't be decided again as it was, and what to do."""

    cause: str
    said: str


class Models:
    """The models and policies that decisions name, loaded once each."""

    def __init__(self, settings: Settings) -> None:
        """Raises OwnFeaturesError, SettingsError."""
        self._settings = settings
        self._catalogue = catalogue_of(settings)
        self._registry = registry_of(settings, self._catalogue.by_name)
        self._loaded: dict[_Model, Scorer | Doubt] = {}
        self._policies: dict[str, Policy] | None = None

    def scorer(self, model: _Model) -> Scorer | Doubt:
        """The model, or why it can't be had."""
        found = self._loaded.get(model)
        if found is None:
            found = self._loaded[model] = self._load(model)
        return found

    def policy(self, digest: str) -> Policy | Doubt:
        """The policy of this digest, or why it can't be had."""
        if self._policies is None:
            self._policies = {each.digest: each for each in self._known_policies()}
        known = self._policies.get(digest)
        if known is not None:
            return known
        return Doubt(
            "policy_unknown",
            f"the thresholds of policy {digest[:12]} are neither those that are set now nor suggested by a "
            "model of the registry; set FRAUDSTREAM_REVIEW_AT and FRAUDSTREAM_DECLINE_AT as they were then, "
            "and verify again",
        )

    def row_limit(self, model: _Model) -> int | None:
        """From how long histories the model learned."""
        try:
            kept = self._registry.manifest(model.name, model.version).settings.get("row_limit")
        except ModelError:
            return None
        return kept if isinstance(kept, int) else None

    def _load(self, model: _Model) -> Scorer | Doubt:
        named = f"{model.name}@{model.version}"
        if not self._registry.has(model.name, model.version):
            return Doubt(
                "model_unknown",
                f"model {named} (digest {model.digest[:12]}) is not in {self._registry.address}; bring its "
                "folder back from a copy, and verify again",
            )
        try:
            scorer = self._registry.load(model.name, model.version)
        except ModelError as error:
            return self._refused(model, error)
        if scorer.digest != model.digest:
            return Doubt(
                "model_other",
                f"model {named} decided with digest {model.digest[:12]}, and the registry has it with "
                f"{scorer.digest[:12]}; bring the folder of then back from a copy, and verify again",
            )
        return scorer

    def _refused(self, model: _Model, error: ModelError) -> Doubt:
        """Whether the features are to blame, or the model."""
        with suppress(ModelError):
            for entry in self._registry.manifest(model.name, model.version).features:
                try:
                    declared = self._catalogue.by_name(entry.name).declaration
                except Exception:  # noqa: BLE001 - whatever the catalogue raises, it has no such feature
                    declared = None
                if declared != entry.declaration and not entry.name.startswith("score_of_"):
                    return Doubt(
                        "features_changed",
                        f"{error}; verify with the definition of then (setting features, or the "
                        "fraudstream that decided)",
                    )
        return Doubt("model_refused", str(error))

    def _known_policies(self) -> Iterator[Policy]:
        settings = self._settings
        if settings.review_at is not None and settings.decline_at is not None:
            yield Policy(review_at=settings.review_at, decline_at=settings.decline_at)
        for name, version in self._registry.list():
            with suppress(ModelError):
                yield self._registry.manifest(name, version).suggested_policy


class ControlPast:
    """The control states that were in force, by the offset up to which the topic had been read."""

    def __init__(
        self, group: str, records: Sequence[Record], low: int, gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        self._records = records
        self._first_lost = min((start for start, _ in gaps), default=None) if not low else 0
        self._group = group
        self._states: dict[int, ControlState | Doubt] = {}

    @classmethod
    def read(cls, recorded: Recorded, settings: Settings) -> Self:
        """All that was said, and where it begins; nothing where there is no such topic."""
        tp = (settings.topics.control, 0)
        try:
            recorded.partitions(tp[0])
        except TopicError:
            return cls(settings.group, (), 0)
        low, end = recorded.bounds(tp)
        records = [each for chunk in recorded.read(tp, low, end) for each in chunk]
        return cls(settings.group, records, low, recorded.gaps(tp))

    def at(self, offset: int) -> ControlState | Doubt:
        """The state after the records before the offset, or why it can't be told."""
        state = self._states.get(offset)
        if state is None:
            state = self._states[offset] = self._fold(offset)
        return state

    def _fold(self, offset: int) -> ControlState | Doubt:
        before = [each for each in self._records if each.offset < offset]
        reached = before[-1].offset + 1 if before else 0
        is_lost = self._first_lost is not None and self._first_lost < offset
        if reached != offset or is_lost:
            records = self._records
            there = f"from {records[0].offset:,} to {records[-1].offset:,}" if records else "none"
            return Doubt(
                "control_missing",
                f"decided under control offset {offset:,}, and the records of control that are there are "
                f"{there}; bring the topic of then back, or read an archive that has it (--archive)",
            )
        state = ControlState(self._group)
        for each in before:
            state = state.after(each)
        return Doubt("control_unreadable", state.refusal) if state.refusal else state


class _NoScorer:
    """Stands in for a model where nobody looks at what it says."""

    name, version, digest = "none", "none", ""
    ref = ModelRef(name=name, version=version, digest=digest)
    features: tuple[Feature, ...] = ()

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [_UNSCORED] * len(vectors)


_UNSCORED: Final = Scored(0.0, (), ())
_NO_SCORER: Final = cast("Scorer", _NoScorer())
_NO_POLICY: Final = Policy(review_at=1.0, decline_at=1.0)


class _Under(NamedTuple):
    """What orders are decided under; None is what no decision has said yet."""

    model: _Model | None = None
    policy: str | None = None
    control: int | None = None
    is_observed: bool | None = None
    settings: bytes | None = None
    """The header; empty where an older version wrote none."""

    def and_then(self, told: "_Under") -> "_Under | None":
        """Both together; None where they contradict each other."""
        for mine, other in zip(self, told, strict=True):
            if mine is not None and other is not None and mine != other:
                return None
        return self.or_else(told)

    def or_else(self, other: "_Under") -> "_Under":
        """This, and what it does not say as the other says it."""
        return _Under._make(
            theirs if mine is None else mine for mine, theirs in zip(self, other, strict=True)
        )


_UNTOLD: Final = _Under()


# Rows ---------------------------------------------------------------------------------------------


class _Rows:
    """The rows of one partition: a dict, and a temporary database for what does not fit."""

    def __init__(self, most: int = _ROWS_IN_MEMORY, beside: Path | None = None) -> None:
        """What does not fit goes below a folder, the temporary one if none is given."""
        self._most = most
        self._beside = beside
        self._rows: dict[bytes, bytes | None] = {}
        self._size = 0
        self._folder: Path | None = None
        self._spilled: Rdict | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.clear()
        if self._spilled is not None:
            self._spilled.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def recall(self, _: int, key: bytes) -> bytes | None:
        if key in self._rows or self._spilled is None:
            return self._rows.get(key)
        kept: bytes | None = self._spilled.get(key)
        return kept

    def change(self, rows: Mapping[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            before = self._rows.get(key)
            self._size += len(value or b"") - len(before or b"")
            if key not in self._rows:
                self._size += len(key) + _A_ROW_COSTS
            self._rows[key] = value
        if self._size > self._most:
            self._spill()

    def _spill(self) -> None:
        if self._spilled is None:
            self._folder = Path(tempfile.mkdtemp(prefix=SPILLED, dir=self._beside))
            options = Options(raw_mode=True)
            options.create_if_missing(create_if_missing=True)
            options.set_compression_type(DBCompressionType.lz4())
            self._spilled = Rdict(str(self._folder / "rows"), options)
            unlogged = WriteOptions()
            # nothing of it outlives this process; a property, whatever the stubs say
            unlogged.disable_wal = True  # type: ignore[method-assign,assignment]
            self._spilled.set_write_options(unlogged)
        batch = WriteBatch(raw_mode=True)
        for key, value in self._rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._spilled.write(batch)
        self._rows.clear()
        self._size = 0


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


Wanted = Callable[[Record], bool]
"""Whether this order is to be decided again; of the others only what they leave behind counts."""


def _records(source: Recorded, tp: TP, start: int, end: int) -> Generator[Record, None, None]:
    if start < end:
        for chunk in source.read(tp, start, end):
            yield from chunk


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
        self._own = Deciding.of(settings)
        self._own_decoder = decoder_of(settings)
        self.partition = partition
        self._models = models
        self.from_archive = from_archive
        self._told = read
        self._stack = ExitStack()
        topics = settings.topics
        self.orders: TP = (topics.orders, partition)
        self._outputs = (topics.decisions, topics.decisions_shadow)
        self._control = ControlPast.read(sources.asked, settings)
        self._desks: dict[tuple[_Under, bool], tuple[ScoringDesk, Doubt | None]] = {}
        self._state = ControlState(settings.group)
        self._rows = self._stack.enter_context(_Rows(beside=beside))
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
        self._aside = self._set_aside()
        self._smallest: list[int | None] = [None, None]
        self.grew = ""
        """Which horizon was raised, if one was: what was forgotten before can't be told."""
        self.seen = 0
        """How many records of orders were gone through."""
        streams = [
            self._stream(source, (topic, partition), *bounds)
            for source, topic, bounds in zip(
                (sources.decisions, sources.shadow), self._outputs, self._bounds, strict=True
            )
        ]
        self.decided = Decided(streams, self.orders, self.low, self.end)

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
        return self._own.mapping is not None

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
        decided, under, first = self.decided, _UNTOLD, self.end
        for made in decided.ahead(self.low):
            under = under.or_else(self._under_of(made))
            if made.word is not None:
                first = min(first, made.word.source.offset)
        if any(low > 0 for low, _ in self._bounds):
            self.first_recorded = first
        batch: list[tuple[Record, list[Made]]] = []
        size, is_wanted, told = 0, False, 0
        for record in self._stream(
            self._sources.orders, self.orders, self.low, self.end if until is None else min(until, self.end)
        ):
            self.seen += 1
            made_here = decided.at(record.offset)
            said = self._under_of(made_here[0]) if made_here else _UNTOLD
            together = under.and_then(said)
            now_wanted = wanted(record)
            was_set_aside = record.offset in self._aside or (
                bool(made_here) and made_here[0].is_of_an_order_set_aside
            )
            is_full = len(batch) >= _AT_ONCE or size > _BYTES_AT_ONCE
            unheard = self._unheard(made_here)
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

    # reading

    def _stream(self, source: Recorded, tp: TP, start: int, end: int) -> Iterator[Record]:
        records = _records(source, tp, start, end)
        self._stack.callback(records.close)  # what is not read to its end would hold the reader
        return records

    def _bounds_of(self, topic: str) -> tuple[int, int]:
        try:
            self._sources.asked.partitions(topic)
        except TopicError:
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
            start = max(low, end - _AHEAD)
            for chunk in self._sources.asked.read((topic, self.partition), start, end) if start < end else ():
                for made in map(Made.of, chunk):
                    if made.word is not None and made.word.source.topic == self.orders[0]:
                        last = max(last, made.word.source.offset + 1)
        return last

    def _set_aside(self) -> frozenset[int]:
        """The orders that were set aside after they had stopped the worker, as far as it is still told."""
        tp = (self._settings.topics.rejected, self.partition)
        low, end = self._bounds_of(tp[0])
        found = set()
        for chunk in self._sources.asked.read(tp, low, end) if low < end else ():
            for record in chunk:
                said = dict(record.headers)
                if (
                    said.get("reason") == b"scorer_error"
                    and said.get("source_topic") == self.orders[0].encode()
                ):
                    with suppress(KeyError, ValueError):
                        found.add(int(said["source_offset"]))
        return frozenset(found)

    def _unheard(self, made: Sequence[Made]) -> dict[str, int]:
        """What of its other inputs was known when an order was decided, and is not heard yet."""
        word = made[0].word if made else None
        others = {} if word is None else word.source.others
        return {topic: others[topic] for topic, heard in self._heard.items() if others.get(topic, 0) > heard}

    def _hear(self, unheard: Mapping[str, int], under: _Under) -> None:
        """Let histories learn what became of orders, as far as the workers knew it then."""
        for topic, end in unheard.items():
            desk, _ = self._desk(under, real=False)
            tp = (topic, self.partition)
            for chunk in self._sources.asked.read(tp, self._heard[topic], end):
                effects = desk.decide(chunk, self._rows.recall, self._watermarks)
                self._rows.change(effects.rows.get(self.partition, {}))
            self._heard[topic] = end

    # deciding

    def _under_of(self, made: Made) -> _Under:
        word = made.word
        if word is None:
            return _UNTOLD
        is_repeat = word.repeat_of is not None
        return _Under(
            None if is_repeat else word.model,
            None if is_repeat else word.policy,
            word.source.others.get(self._settings.topics.control, _NONE),
            made.record.topic == self._settings.topics.decisions_shadow,
            said_in(made.record.headers) or b"",
        )

    def _decide(
        self, batch: Sequence[tuple[Record, list[Made]]], under: _Under, *, wanted: bool
    ) -> Iterator[Outcome]:
        real = wanted or batch[0][0].offset < self.first_recorded
        desk, doubt = self._desk(under, real=real)
        # what a stand-in says must be corrected before a resend is told the same
        for part in [batch] if doubt is None else _parted(batch):
            records = [record for record, _ in part]
            positions = {self.partition: self._heard}
            effects = desk.decide(records, self._rows.recall, self._watermarks, positions)
            changed = effects.rows.get(self.partition, {})
            if doubt is not None or not real:
                _believe(part, changed)
            self._rows.change(changed)
            self._watermarks |= effects.watermarks
            if wanted:
                yield from self._outcomes(part, effects, doubt)

    def _put_aside(
        self, record: Record, made: list[Made], under: _Under, *, wanted: bool
    ) -> Iterator[Outcome]:
        desk, doubt = self._desk(under, real=wanted)
        effects = desk.set_aside(record, self._rows.recall, {self.partition: self._heard})
        if wanted:
            yield from self._outcomes([(record, made)], effects, doubt, was_set_aside=True)

    def _outcomes(
        self,
        batch: Sequence[tuple[Record, list[Made]]],
        effects: Effects,
        doubt: Doubt | None,
        *,
        was_set_aside: bool = False,
    ) -> Iterator[Outcome]:
        emitted = {
            _source(each.value or b"").source.offset: each
            for each in effects.produce
            if each.topic in self._outputs
        }
        for record, made in batch:
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

    def _desk(self, under: _Under, *, real: bool) -> tuple[ScoringDesk, Doubt | None]:
        """The desk that decides as was decided; a stand-in where that can't be or need not be."""
        self._remember_horizons(under)
        has_control = under.control is not None and under.control != _NONE
        # the state is told to the desk, so one desk does for all of them
        kind = (under._replace(control=_NONE if under.control is None else min(under.control, 0)), real)
        found = self._desks.get(kind)
        if found is None:
            found = self._desks[kind] = self._made_desk(under, real=real, has_control=has_control)
        desk, doubt = found
        if real and has_control and under.control is not None:
            state = self._control.at(under.control)
            if isinstance(state, Doubt):
                return self._desk(under._replace(control=_NONE), real=False)[0], state
            self._state = state
        return desk, doubt

    def _made_desk(self, under: _Under, *, real: bool, has_control: bool) -> tuple[ScoringDesk, Doubt | None]:
        deciding = (Deciding.decode(under.settings) if under.settings else None) or self._own
        scorer, policy, doubt = _NO_SCORER, _NO_POLICY, None
        decoder: Decoder = CONTRACT
        if deciding.mapping is not None:
            decoder = self._own_decoder
            if deciding.mapping != self._own.mapping:
                doubt = Doubt(
                    "settings_differ",
                    f"decided with mapping {deciding.mapping}, and the one that is set now is "
                    f"{self._own.mapping or 'none'}; set the mapping of then (FRAUDSTREAM_MAPPING), and "
                    "verify again",
                )
        elif not under.settings:
            decoder = self._own_decoder
        if deciding.entities:
            doubt = Doubt(
                "through_stages",
                f"decided behind the stages of {', '.join(deciding.entities)}, and only what was decided at "
                "home is decided again by this version; nothing can be held against it",
            )
        row_limit = deciding.row_limit
        if under.model is not None and not under.settings:
            row_limit = self._models.row_limit(under.model) or row_limit
        if real:
            if under.policy is not None:
                known = self._models.policy(under.policy)
                if isinstance(known, Doubt):
                    doubt = known
                else:
                    policy = known
            if under.model is not None:
                loaded = self._models.scorer(under.model)
                if isinstance(loaded, Doubt):
                    doubt = loaded
                else:
                    scorer = loaded
        desk = ScoringDesk(
            scorer=scorer,
            policy=policy,
            topics=self._settings.topics,
            partitions=self._settings.partitions,
            row_limit=row_limit,
            ahead_by_at_most=deciding.ahead_by_at_most,
            reject_share=0.0,
            headers=(),
            in_force=(lambda: self._state) if has_control and real else None,
            observe=bool(under.is_observed),
            decoder=decoder,
            horizons=deciding.horizons,
        )
        return desk, doubt

    def _remember_horizons(self, under: _Under) -> None:
        deciding = (Deciding.decode(under.settings) if under.settings else None) or self._own
        horizons = deciding.horizons
        for at, (name, kept) in enumerate(
            (("forget_after_days", horizons.rows), ("order_memory_days", horizons.orders))
        ):
            before = self._smallest[at]
            if before is not None and (kept is None or kept > before):
                self.grew = name
            if kept is not None and (before is None or kept < before):
                self._smallest[at] = kept


def _parted(
    batch: Sequence[tuple[Record, list[Made]]],
) -> Iterator[Sequence[tuple[Record, list[Made]]]]:
    """The batch in parts that each begin with a resend."""
    begin = 0
    for at, (_, made) in enumerate(batch):
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
