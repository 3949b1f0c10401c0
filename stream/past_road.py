"""The past of orders that went a road of stages, decided again: at home, then at one stage after the other.

What came into a stage lies recorded in its topic, partition by partition, in the order in which it was taken.
So each partition of each stage is gone through by itself: a desk takes what was recorded, and has to send on,
byte for byte, what the next stage has recorded. Where every place does, the decisions that the last one makes
are those of the whole road; where one does not, that message is named.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar
from uuid import UUID

import msgspec

from features.revisions import Revisions
from models.decision import Source, decision_id
from stream.anew import Anew
from stream.answers import SHADOW, STAGES
from stream.deciding import Deciding, said_in
from stream.desk import order_key, shorten
from stream.errors import Refusal
from stream.keeping import ORDER, PASSED, ROW, ROWS
from stream.passed import Passed
from stream.past import (
    AHEAD,
    AT_ONCE,
    BYTES_AT_ONCE,
    DecidedSoFar,
    Made,
    Outcome,
    Past,
    Read,
    Sources,
    decided_under,
    parted,
    set_aside,
    source_in,
)
from stream.past_desks import NO_CONTROL, UNTOLD, ControlPast, Desks, Doubt, Model, Models, Under
from stream.past_rows import Rows, RowsOf
from stream.ports import NO_POSITIONS, NO_WATERMARKS, TP, Effects, Produce, Record
from stream.recorded import Recorded, has_topic, records_of
from stream.replay import in_recorded_order
from stream.road import Passing, PassingBytesError, PassingVersionError, Road
from stream.settings import Settings

__all__ = ["RoadError", "Roads", "Switch", "Unlike", "WantedOnTheRoad"]

_ORDER: Final = Struct(">cHQ")
_MESSAGE: Final = Struct(">cBBHHQ")
_DECIDED, _FROM_HOME, _SENT = b"D", b"H", b"M"

_GIVEN_UP: Final = "were lost before they were archived (archive run --accept-gap)"

_records = msgspec.msgpack.Decoder(list[Record]).decode
_stages = msgspec.json.Decoder(dict[str, tuple[int, int]]).decode
_encode = msgspec.msgpack.Encoder().encode


class RoadError(Refusal):
    """The road can't be gone through; the message says why and what to do."""


class WantedOnTheRoad(NamedTuple):
    """Whether an order is to be decided again, asked where it came in and of each message about it."""

    order: Callable[[Record], bool]
    passing: Callable[[Passing], bool]


class Unlike(NamedTuple):
    """A message between stages that is not as it is sent again."""

    cause: str
    """`message_changed`, `message_missing` or `message_lost`."""
    partition: int
    """Where the order came in that it is about."""
    offset: int | None
    """The same; None of what came of an outcome or an order event, and where that can't be told."""
    order_id: str | None
    place: str | None
    """TOPIC/PARTITION/OFFSET of the recorded message; None for one that is missing."""
    said: str


class Switch(NamedTuple):
    """Where a partition's orders began to be decided with rows for another road, or of another length."""

    offset: int
    """The first order that was."""
    before: Deciding
    after: Deciding


class _Head(NamedTuple):
    """What the message says with which an order left home."""

    others: dict[str, int]
    is_observed: bool
    names: int
    """Of which list of features it speaks."""
    decided_as: bytes
    """What its decision is to be called; empty where there is to be none."""
    revision: int
    is_first: bool
    """Whether it is not a resend."""
    who: int | None
    """Which model and policy gave that name; None where none is known that would."""


class _Recorded(NamedTuple):
    """A message as it lies in a stage's topic."""

    offset: int
    digest: bytes
    names: int | None


_head = msgspec.msgpack.Decoder(_Head).decode
_messages = msgspec.msgpack.Decoder(list[_Recorded]).decode


class _Span:
    """The least and the greatest offset of some."""

    __slots__ = ("first", "last")

    def __init__(self, offset: int) -> None:
        self.first = self.last = offset

    def add(self, offset: int) -> None:
        self.first, self.last = min(self.first, offset), max(self.last, offset)


_K = TypeVar("_K")


def _add(spans: dict[_K, _Span], key: _K, offset: int) -> None:
    span = spans.get(key)
    if span is None:
        spans[key] = _Span(offset)
    else:
        span.add(offset)


class _Recording:
    """What was decided and what was sent, by the place where its order came in."""

    def __init__(
        self, recorded: Recorded, settings: Settings, models: Models, control: ControlPast, rows: Rows
    ) -> None:
        self._recorded = recorded
        self._control = control
        self._settings = settings
        self._models = models
        self._rows = rows
        topics = settings.topics
        self.partitions = recorded.partitions(topics.orders)
        self._homes = {topics.orders: 0, topics.outcomes: 1, topics.order_events: 2}
        self._stages = {topic: at for at, topic in enumerate(settings.stages.values())}
        self._offsets = [array("q") for _ in range(self.partitions)]
        self._strays: list[list[Made]] = [[] for _ in range(self.partitions)]
        self._last = [-1] * self.partitions
        self._first: dict[int, int] = {}
        self._at_home: set[int] = set()
        """The partitions in which orders were decided before there were stages."""
        self._made: dict[tuple[str, int, int], _Span] = {}
        """The offsets in a stage's partition of what was decided there for orders of a home."""
        self._sent: dict[tuple[str, int, str, int], _Span] = {}
        """The offsets at home of what was sent to a stage's partition."""
        self._who: list[tuple[Model, str]] = []
        """Each model with each policy that may have decided."""
        self._latest = 0
        self._has_asked = False
        self._names: dict[str, int] = {}
        self._lists: list[str] = []
        self._names_by_model: dict[Model, int | None] = {}
        self.bounds: dict[TP, tuple[int, int]] = {}
        """Of each partition of each stage, from where to where it was read."""
        self.decisions: list[list[tuple[int, int]]] = [[] for _ in range(self.partitions)]
        self._settings_since: list[dict[bytes, int]] = [{} for _ in range(self.partitions)]
        """By partition: from which order on decisions say that they were made with these settings."""

    # reading

    def read(self, told: Read) -> None:
        """Read all of it; what comes of others first, so that what it came of is there."""
        topics, known = self._settings.topics, dict[tuple[Model, str], None]()
        for topic in (topics.decisions, topics.decisions_shadow):
            if topic == topics.decisions or has_topic(self._recorded, topic):
                for number in range(self.partitions):
                    self._read_decisions((topic, number), known, told)
        self._who = list(known)
        self._offsets = [array("q", sorted(each)) for each in self._offsets]
        for topic in reversed(self._stages):
            if self._recorded.partitions(topic) != self.partitions:
                raise RoadError(
                    f"'{topic}' has {self._recorded.partitions(topic)} partitions and "
                    f"'{topics.orders}' {self.partitions}; see 'fraudstream topics list'"
                )
            for number in range(self.partitions):
                self._read_stage((topic, number), told)

    def _read_decisions(self, tp: TP, known: dict[tuple[Model, str], None], told: Read) -> None:
        bounds = self._recorded.bounds(tp)
        number = tp[1]
        self.decisions[number].append(bounds)
        for count, record in enumerate(records_of(self._recorded, tp, *bounds), 1):
            if SHADOW in record.headers:  # what a challenger would have decided
                continue
            made = Made.of(record)
            about, word = made.about, made.word
            if about is None or (about.topic, about.partition) != (self._settings.topics.orders, number):
                self._strays[number].append(made)
                continue
            key = _ORDER.pack(_DECIDED, number, about.offset)
            before = self._rows.recall(0, key)
            if before is None:
                self._offsets[number].append(about.offset)
            records = [] if before is None else _records(before)
            self._rows.change({key: _encode([*records, record])})
            self._last[number] = max(self._last[number], about.offset)
            if said := said_in(record.headers):
                since = self._settings_since[number]
                since[said] = min(since.get(said, about.offset), about.offset)
            if word is not None and made.is_first and word.model is not None:
                known[word.model, word.policy] = None
                if b'"entities"' not in (said_in(record.headers) or b""):
                    self._at_home.add(number)
            self._note_maker(record, number)
            if not count % AT_ONCE:
                told(AT_ONCE)

    def _note_maker(self, record: Record, number: int) -> None:
        stages = stood_in(record)
        for topic in reversed(self._stages):
            if topic in stages:
                at, offset = stages[topic]
                _add(self._made, (topic, at, number), offset)
                return

    def _read_stage(self, tp: TP, told: Read) -> None:
        self.bounds[tp] = self._recorded.bounds(tp)
        for count, record in enumerate(records_of(self._recorded, tp, *self.bounds[tp]), 1):
            if not count % AT_ONCE:
                told(AT_ONCE)
            passing = _passing_in(record)
            if passing is None or (key := self._key(record, passing)) is None:
                continue
            home, travelling = passing.home, passing.travelling
            names = None if travelling is None else self._named(travelling.names)
            before = self._rows.recall(0, key)
            entry = _Recorded(record.offset, _digest(record, passing), names)
            entries = [*([] if before is None else _messages(before)), entry]
            self._rows.change({key: _encode(entries)})
            _add(self._sent, (*tp, home.topic, home.partition), home.offset)
            if travelling is not None and not travelling.passed:
                self._rows.change(
                    {_ORDER.pack(_FROM_HOME, home.partition, home.offset): _encode(self._head(passing))}
                )
                self._last[home.partition] = max(self._last[home.partition], home.offset)
                first = self._first.get(home.partition, home.offset)
                self._first[home.partition] = min(first, home.offset)

    def _key(self, sent: Record | Produce, passing: Passing) -> bytes | None:
        home = passing.home
        if home.topic not in self._homes or not 0 <= home.partition < self.partitions or home.offset < 0:
            return None
        to, about = self._stages[sent.topic], self._homes[home.topic]
        return _MESSAGE.pack(_SENT, to, about, sent.partition, home.partition, home.offset)

    def _named(self, names: str) -> int:
        known = self._names.get(names)
        if known is None:
            known = self._names[names] = len(self._lists)
            self._lists.append(names)
        return known

    def _head(self, passing: Passing) -> _Head:
        travelling = passing.travelling
        assert travelling is not None  # noqa: S101 (asked by the caller)
        revision, who = 0, None
        if travelling.decision_id:
            with suppress(PassingBytesError):
                revision = passing.order().revision
                who = self._who_named(passing, travelling.content, travelling.decision_id, revision)
        return _Head(
            passing.home.others,
            travelling.is_observed,
            self._named(travelling.names),
            travelling.decision_id,
            revision,
            travelling.repeat_of is None,
            who,
        )

    def _who_named(self, passing: Passing, content: bytes, named: bytes, revision: int) -> int | None:
        """By which model and policy the decision was named at home: another may have made it in the end."""
        home = passing.home
        source = Source.model_construct(
            topic=home.topic, partition=home.partition, offset=home.offset, others=home.others
        )

        def is_by(who: int) -> bool:
            model, policy = self._who[who]
            given = decision_id(
                order_id=passing.order_id,
                revision=revision,
                content_digest=content,
                model_digest=model.digest,
                policy_digest=policy,
                source=source,
            )
            return given.bytes == named

        if self._latest < len(self._who) and is_by(self._latest):
            return self._latest
        found = next(filter(is_by, range(len(self._who))), None)
        # where models were moved the service tells, and hundreds of versions are not loaded for nothing
        moved = self._control.is_moved(home.others.get(self._settings.topics.control, NO_CONTROL))
        if found is None and not moved and not self._has_asked:
            self._has_asked = True
            begin, there = len(self._who), set(self._who)
            self._who += [each for each in self._models.known() if each not in there]
            found = next(filter(is_by, range(begin, len(self._who))), None)
        if found is not None:
            self._latest = found
        return found

    # asking

    def made(self, partition: int, offset: int) -> list[Made]:
        """The decisions about the order there."""
        kept = self._rows.recall(0, _ORDER.pack(_DECIDED, partition, offset))
        return [] if kept is None else [Made.of(each) for each in _records(kept)]

    def head(self, partition: int, offset: int) -> _Head | None:
        """How the order that came in there left home; None where it did not."""
        kept = self._rows.recall(0, _ORDER.pack(_FROM_HOME, partition, offset))
        return None if kept is None else _head(kept)

    def last(self, partition: int) -> int:
        """The last order of which something is recorded; -1 without one."""
        return self._last[partition]

    def turned_on_at(self, partition: int, low: int, end: int) -> int | None:
        """Before which order others were decided at home because there were no stages; None without such."""
        first = self._first.get(partition, end)
        is_told = any(begin > 0 for begin, _ in self.decisions[partition]) or partition in self._at_home
        return first if self._first and first > low and is_told else None

    def first_heard(self, topic: str, partition: int, end: int) -> int:
        """From where on stages were told what became of orders."""
        spans = [span.first for key, span in self._sent.items() if key[2:] == (topic, partition)]
        head = None if partition not in self._first else self.head(partition, self._first[partition])
        return min([*spans, end if head is None else head.others.get(topic, 0)])

    def switches(self) -> dict[int, Switch]:
        """By partition: where it was first gone on with other rows, where orders went through stages before.

        Between two such settings nothing is on its way, so the orders of either lie together.
        """
        roads = [_roads(since) for since in self._settings_since]
        found = {
            number: Switch(each[1].offset, each[0].deciding, each[1].deciding)
            for number, each in enumerate(roads)
            if len(each) > 1
        }
        for number, each in enumerate(roads):
            # where no order had come before, others say whether this is behind
            for switch in list(found.values()) if len(each) == 1 else ():
                if _road(switch.after) == _road(each[0].deciding):
                    found[number] = switch._replace(offset=each[0].offset)
        return found

    def decided(self, partition: int) -> "_Decided":
        """The decisions about the orders of a partition."""
        return _Decided(self, partition, self._offsets[partition], self._strays[partition])

    def who(self, number: int) -> tuple[Model, str]:
        """A model and a policy."""
        return self._who[number]

    def spoken_of(self, names: int) -> str:
        """A list of features, by line."""
        return self._lists[names]

    def known(self, under: Under) -> list[tuple[Model, str]]:
        """Each model with each policy that may have decided, first what orders were decided under."""
        if under.model is None or under.policy is None:
            return self._who
        return [(under.model, under.policy), *self._who]

    def by_names(self, names: int, unless: Model | None) -> Model | None:
        """A model that asks for these features, to be used in place of another one; None where that does."""
        if unless is not None and self._names_of(unless) == names:
            return None
        return next((model for model, _ in self._who if self._names_of(model) == names), None)

    def _names_of(self, model: Model) -> int | None:
        if model not in self._names_by_model:
            scorer = self._models.scorer(model)
            asked = None if isinstance(scorer, Doubt) else "\n".join([each.name for each in scorer.features])
            self._names_by_model[model] = None if asked is None else self._named(asked)
        return self._names_by_model[model]

    def sent(self, produce: Produce, passing: Passing) -> list[_Recorded]:
        """What is recorded of a message that is sent again, and is not matched yet."""
        key = self._key(produce, passing)
        kept = None if key is None else self._rows.recall(0, key)
        return [] if kept is None else _messages(kept)

    def match(self, produce: Produce, passing: Passing, one: _Recorded) -> None:
        """Note that this is the one that was sent."""
        key = self._key(produce, passing)
        assert key is not None  # noqa: S101 (it was found)
        rest = [each for each in self.sent(produce, passing) if each != one]
        self._rows.change({key: _encode(rest) if rest else None})

    def is_matched(self, record: Record, passing: Passing) -> bool:
        """Whether somebody sends the recorded message again."""
        key = self._key(record, passing)
        kept = None if key is None else self._rows.recall(0, key)
        entries = [] if kept is None else _messages(kept)
        return key is not None and not any(each.offset == record.offset for each in entries)

    def sent_span(self, produce: Produce, passing: Passing) -> _Span | None:
        """From where to where messages of its home are recorded in the partition it goes to."""
        home = passing.home
        return self._sent.get((produce.topic, produce.partition, home.topic, home.partition))

    def made_span(self, record: Record, home: int) -> _Span | None:
        """From where to where a partition of a stage is known to have decided about orders of a home."""
        return self._made.get((record.topic, record.partition, home))


class _Decided:
    """The decisions of a partition, by the offset of the order that each is about."""

    def __init__(
        self, recording: _Recording, partition: int, offsets: "array[int]", strays: list[Made]
    ) -> None:
        self._recording = recording
        self._partition = partition
        self._offsets = offsets
        self._answered = bytearray(len(offsets))
        self.stray = strays
        self.read = 0

    def at(self, offset: int) -> list[Made]:
        at = self._at(offset)
        if at is None:
            return []
        self._answered[at] = True
        return self._recording.made(self._partition, offset)

    def has_answered(self, offset: int) -> bool:
        at = self._at(offset)
        return at is not None and bool(self._answered[at])

    def ahead(self, offset: int) -> Iterator[Made]:
        at = bisect_left(self._offsets, offset)
        for each in self._offsets[at : at + AHEAD]:
            yield from self._recording.made(self._partition, each)

    def rest(self) -> Iterator[Made]:
        for at, offset in enumerate(self._offsets):
            if not self._answered[at]:
                yield from self._recording.made(self._partition, offset)

    def _at(self, offset: int) -> int | None:
        at = bisect_left(self._offsets, offset)
        return at if at < len(self._offsets) and self._offsets[at] == offset else None


class Roads:
    """All partitions of a past, from their homes through every stage."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        *,
        models: Models,
        from_archive: bool = False,
        read: Read = lambda _: None,
        beside: Path | None = None,
        is_rebuilt: bool = True,
    ) -> None:
        """Read what was decided and sent. What does not fit into memory goes below the folder `beside`.

        `is_rebuilt`: where entities were turned on later, their rows were made from what was there before.

        Raises RoadError, TopicError.
        """
        self._stack = ExitStack()
        self.sources = sources
        self.settings = settings
        self.models = models
        self.from_archive = from_archive
        self.is_rebuilt = is_rebuilt
        self.told = read
        self.rows = self._stack.enter_context(Rows(beside=beside))
        self.rebuilt = self._stack.enter_context(Rows(beside=beside))
        """What a rebuild made of customers and orders, until home takes it over."""
        self.control = ControlPast.read(sources.asked, settings)
        self.recording = _Recording(
            sources.asked, settings, models, self.control, self._stack.enter_context(Rows(beside=beside))
        )
        self.road = Road(settings.stages, settings.partitions)
        self.unlike: list[Unlike] = []
        """Messages that differ; whoever looks at them takes them away."""
        self.messages = 0
        """How many messages are as they are sent again."""
        self.on_their_way = 0
        """How many records of stages come after the last that was decided there."""
        self.gaps = {
            (topic, number): sources.asked.gaps((topic, number))
            for topic in settings.stages.values()
            for number in range(settings.partitions)
        }
        self.homes: list[_Home] = []
        self.turned_on: dict[int, int] = {}
        """By partition: before which order others did not go through stages because there were none."""

    def __enter__(self) -> Self:
        self.recording.read(self.told)
        for number in range(self.recording.partitions):
            self.homes.append(self._stack.enter_context(_Home(self, number)))
        for home in self.homes:
            first = self.recording.turned_on_at(home.partition, home.low, home.end)
            if first is not None:
                self.turned_on[home.partition] = first
        if self.turned_on and self.is_rebuilt:
            self._make_anew()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def records(self) -> int:
        """How many records are to be read, about, by whoever has entered."""
        of_stages = sum(end - low for low, end in self.recording.bounds.values())
        return sum(home.records for home in self.homes) + 2 * of_stages

    def _make_anew(self) -> None:
        """Make the rows that a rebuild made, from what came in before there were stages."""
        desk, _ = Desks(self.settings, self.models, self.control, self.settings.entities).desk(
            first_on_the_road(self.homes, self.settings), real=False
        )
        anew = Anew(desk, self.settings.stages.values())
        watermarks: dict[int, int] = {}

        def recall(partition: int, key: bytes) -> bytes | None:
            return RowsOf(self.rebuilt if _is_at_home(key) else self.rows, partition).recall(0, key)

        records = in_recorded_order(self.sources.asked, self._before_stages())
        while some := list(islice(records, AT_ONCE)):
            changed = anew.remember(some, recall, watermarks)
            watermarks |= changed.watermarks
            for number, rows in changed.rows.items():
                at_home = {key: row for key, row in rows.items() if _is_at_home(key)}
                RowsOf(self.rebuilt, number).change(at_home)
                RowsOf(self.rows, number).change(
                    {key: row for key, row in rows.items() if key not in at_home}
                )

    def _before_stages(self) -> list[tuple[TP, tuple[int, int]]]:
        topics, asked = self.settings.topics, self.sources.asked
        spans: list[tuple[TP, tuple[int, int]]] = []
        for topic in self.settings.roads[0]:
            for number, first in self.turned_on.items():
                begin, end = asked.bounds((topic, number))
                if topic != topics.orders:
                    first = self.recording.first_heard(topic, number, end)  # noqa: PLW2901
                spans.append(((topic, number), (begin, max(begin, first))))
        return spans

    def again(self, wanted: WantedOnTheRoad) -> Iterator[tuple[Past, Outcome]]:
        """What was decided about the orders wanted and what is decided again, each with its home; once only.

        Of orders that went on from home it is told by the stage that decided.
        """
        for home in self.homes:
            for outcome in home.again(wanted.order):
                yield home, outcome
        for entity in self.road.entities:
            for number in range(self.recording.partitions):
                yield from _Stage(self, entity, number).again(wanted.passing)

    def order(self, partition: int, offset: int) -> Record | None:
        """The record of an order where it came in; None where it is not there any more."""
        tp = (self.settings.topics.orders, partition)
        return next(records_of(self.sources.asked, tp, offset, offset + 1), None)

    def sent(self, effects: Effects, *, judged: bool) -> list[Passing]:
        """Hold what is sent on against what is recorded of it; what can't be judged is believed."""
        found = []
        for each in effects.produce:
            if self.road.entity(each.topic) is not None:
                passing = Passing.decode(each.value)
                found.append(passing)
                self._hold(each, passing, judged=judged)
        return found

    def _hold(self, produce: Produce, passing: Passing, *, judged: bool) -> None:
        recording = self.recording
        entries = recording.sent(produce, passing)
        if not entries:
            span = recording.sent_span(produce, passing)
            if judged and span is not None and span.first < passing.home.offset < span.last:
                self.unlike.append(self._missing(produce, passing))
            return
        digest = _digest(produce, passing) if judged else b""
        one = next((each for each in entries if not judged or each.digest == digest), None)
        if one is not None:
            self.messages += judged
            recording.match(produce, passing, one)

    def _missing(self, produce: Produce, passing: Passing) -> Unlike:
        where = f"{produce.topic}/{produce.partition}"
        if self.gaps[produce.topic, produce.partition]:
            cause = "message_lost"
            said = f"a message to {where} may be among those that {_GIVEN_UP}"
        else:
            cause = "message_missing"
            said = (
                f"a message is sent again to {where}, and there is none; see who could delete records of it"
            )
        number, offset, order_id = self._about(produce, passing)
        return Unlike(cause, number, offset, order_id, None, said)

    def check(self, record: Record, passing: Passing | None) -> None:
        """Note a recorded message that nobody sends again."""
        if passing is not None and self.recording.is_matched(record, passing):
            return
        place = f"{record.topic}/{record.partition}/{record.offset}"
        before = self.road.before(record.topic)
        if any(self.gaps[topic, n] for topic in before for n in range(self.recording.partitions)):
            cause = "message_lost"
            said = f"what the message at {place} came of may be among those that {_GIVEN_UP}"
        else:
            cause = "message_changed"
            said = (
                f"the message at {place} is not one that is sent again; what follows of it is gone through "
                f"as it is; see who could write to '{record.topic}'"
            )
        number, offset, order_id = self._about(record, passing)
        self.unlike.append(Unlike(cause, number, offset, order_id, place, said))

    def _about(self, sent: Record | Produce, passing: Passing | None) -> tuple[int, int | None, str | None]:
        if passing is None:
            return sent.partition, None, None
        home = passing.home
        is_order = home.topic == self.settings.topics.orders
        return home.partition, home.offset if is_order else None, passing.order_id


def _is_at_home(key: bytes) -> bool:
    return key.startswith((ROW, ORDER))


def first_on_the_road(homes: Sequence[Past], settings: Settings, entity: str = "") -> Under:
    """The settings of the first decision made behind stages, or behind that of an entity."""
    for home in homes:
        for made in home.decided.ahead(home.low):
            said = decided_under(made, settings).settings
            entities = None if not said else Deciding.decode(said)
            if entities is not None and entities.entities and (not entity or entity in entities.entities):
                return Under(settings=said)
    return UNTOLD


class _TakenOver(RowsOf):
    """The rows of a home, which are those that a rebuild made once orders go through stages."""

    def __init__(self, roads: Roads, partition: int) -> None:
        super().__init__(roads.rows, partition)
        self._rebuilt = RowsOf(roads.rebuilt, partition)
        self._is_taken_over = False

    def take_over(self) -> None:
        """Go on with what the rebuild made."""
        self._is_taken_over = True

    def recall(self, partition: int, key: bytes) -> bytes | None:
        ours = super().recall(partition, key)
        made = self._rebuilt.recall(partition, key) if self._is_taken_over and _is_at_home(key) else None
        if made is None or ours is None or not key.startswith(ORDER):
            return ours if made is None else made
        # what was decided about each order was copied
        known = Revisions.decode(made)
        known.decided_as(Revisions.decode(ours))
        return known.encode()

    def change(self, rows: Mapping[bytes, bytes | None]) -> None:
        super().change(rows)
        if self._is_taken_over:
            self._rebuilt.change(dict.fromkeys(filter(_is_at_home, rows)))


class _Home(Past):
    """A partition's orders where they came in; most go on from there."""

    def __init__(self, roads: Roads, partition: int) -> None:
        self._roads = roads
        super().__init__(
            roads.sources,
            roads.settings,
            partition,
            models=roads.models,
            from_archive=roads.from_archive,
            read=roads.told,
        )

    @property
    def begins_at(self) -> str:
        return super().begins_at or next(
            (
                f"{topic}/{number} begins at offset {low:,}"
                for (topic, number), (low, _) in self._roads.recording.bounds.items()
                if low
            ),
            "",
        )

    def lacks_history_of(self, made: Made, offset: int) -> bool:
        return super().lacks_history_of(made, offset) or any(self._roads.gaps.values())

    def _opened_desks(self, models: Models) -> Desks:
        return Desks(self._settings, models, self._roads.control, self._settings.entities)

    def _opened_rows(self, _beside: Path | None) -> RowsOf:
        self._taken_over = _TakenOver(self._roads, self.partition)
        return self._taken_over

    def _opened_decisions(self) -> DecidedSoFar:
        return self._roads.recording.decided(self.partition)

    def _last_decided(self) -> int:
        return self._roads.recording.last(self.partition) + 1

    def _told_of(self, record: Record, made: Sequence[Made], under: Under) -> tuple[Under, Mapping[str, int]]:
        recording = self._roads.recording
        head = recording.head(self.partition, record.offset)
        if head is None:
            return super()._told_of(record, made, under)
        if head.who is not None:
            model, policy = recording.who(head.who)
            said = Under(model, policy)
        elif head.decided_as and made:
            said = decided_under(made[0], self._settings)
        else:
            said = Under(recording.by_names(head.names, under.model))
        control = head.others.get(self._settings.topics.control, NO_CONTROL)
        said = said._replace(
            control=control,
            is_observed=head.is_observed,
            settings=self._roads_settings(made, under),
        )
        if not self._desks.is_moved(control):
            return said, head.others
        names = recording.spoken_of(head.names)
        said = self._desks.untold(said._replace(lacks=self._desks.lacking(control, names)))
        return self._desks.with_settings_model(said, names, recording.known(under)), head.others

    def _roads_settings(self, made: Sequence[Made], under: Under) -> bytes | None:
        """The settings of an order that went on: what its decision says, else what others say about then."""
        for each in (decided_under(made[0], self._settings) if made else UNTOLD, under):
            if each.settings is not None and self._desks.deciding(each).entities:
                return each.settings
        return self._desks.own

    def _decide(
        self, batch: Sequence[tuple[Record, list[Made]]], under: Under, *, wanted: bool
    ) -> Iterator[Outcome]:
        self._take_over(under)
        return super()._decide(batch, under, wanted=wanted)

    def _hear(self, unheard: Mapping[str, int], under: Under) -> None:
        self._take_over(under)
        super()._hear(unheard, under)

    def _take_over(self, under: Under) -> None:
        if self._desks.deciding(under).entities:
            self._taken_over.take_over()

    def _was_set_aside(self, record: Record, made: Sequence[Made]) -> bool:
        # one that went on was set aside at a stage
        went_on = self._roads.recording.head(self.partition, record.offset) is not None
        return not went_on and super()._was_set_aside(record, made)

    def _sent_on(self, effects: Effects, *, judged: bool) -> AbstractSet[int]:
        sent = self._roads.sent(effects, judged=judged)
        return {each.home.offset for each in sent if _is_decided(each)}

    def _believe(self, batch: Sequence[tuple[Record, list[Made]]], rows: dict[bytes, bytes | None]) -> None:
        at_home = []
        for record, made in batch:
            head = self._roads.recording.head(self.partition, record.offset)
            if head is None:
                at_home.append((record, made))
            elif head.decided_as and head.is_first and made:
                key = order_key(made[0].order_id or "")
                kept = rows.get(key)
                if kept is not None:
                    revisions = Revisions.decode(kept)
                    seen = revisions.of(head.revision)
                    if seen is not None and seen.decision_id:
                        seen.decision_id = head.decided_as
                        rows[key] = revisions.encode()
        super()._believe(at_home, rows)

    def _at_the_end(self, under: Under) -> None:
        rest = {}
        for topic, heard in self._heard.items():
            _, end = self._bounds_of(topic)
            if end > heard:
                rest[topic] = end
        self._hear(rest, under)


class _Step(NamedTuple):
    """A record of a stage, and what is known of it."""

    record: Record
    passing: Passing | None
    made: list[Made]


class _Stage:
    """One partition of a stage, gone through again."""

    def __init__(self, roads: Roads, entity: str, partition: int) -> None:
        self._roads = roads
        self._entity = entity
        self._partition = partition
        self._topic = roads.settings.stages[entity]
        self._tp: TP = (self._topic, partition)
        self._desks = Desks(roads.settings, roads.models, roads.control, roads.settings.entities)
        self._rows = RowsOf(roads.rows, partition)
        self._outputs = (roads.settings.topics.decisions, roads.settings.topics.decisions_shadow)
        self._aside = set_aside(roads.sources.asked, roads.settings.topics, self._tp)

    def again(self, wanted: Callable[[Passing], bool]) -> Iterator[tuple[Past, Outcome]]:
        """What is decided or said again here about the orders wanted."""
        recording = self._roads.recording
        # a past may come before the first decision
        under = first_on_the_road(self._roads.homes, self._roads.settings, self._entity)
        batch, size, is_wanted = list[_Step](), 0, False
        for record in records_of(self._roads.sources.asked, self._tp, *recording.bounds[self._tp]):
            step = self._step(record)
            self._roads.check(record, step.passing)
            now_wanted = step.passing is not None and wanted(step.passing)
            said = self._under(step, under)
            together = under.and_then(said)
            was_set_aside = self._was_set_aside(step)
            is_full = len(batch) >= AT_ONCE or size > BYTES_AT_ONCE
            if batch and (together is None or was_set_aside or now_wanted != is_wanted or is_full):
                yield from self._decide(batch, under, wanted=is_wanted)
                batch, size = [], 0
            under = said.or_else(under) if together is None else together
            is_wanted = now_wanted
            if was_set_aside:
                yield from self._put_aside(step, under, wanted=now_wanted)
                continue
            batch.append(step)
            size += len(record.value or b"")
        if batch:
            yield from self._decide(batch, under, wanted=is_wanted)

    def _step(self, record: Record) -> _Step:
        passing = _passing_in(record)
        made: list[Made] = []
        if passing is not None and _is_decided(passing):
            made = self._roads.recording.made(passing.home.partition, passing.home.offset)
        return _Step(record, passing, made)

    def _under(self, step: _Step, under: Under) -> Under:
        """What the worker had at this stage: another one may have had the order before it and after."""
        model = policy = settings = instead = None
        passing, made = step.passing, step.made
        if passing is None or passing.travelling is None:
            return UNTOLD
        if made and (word := made[0].word) is not None:
            told = decided_under(made[0], self._roads.settings)
            settings, instead = told.settings, told.instead
            # one that is said again was made by another, and by whom does not matter
            named = passing.travelling.decision_id
            if word.repeat_of is None or _is_named(word.decision_id, named):
                model, policy = word.model, word.policy
        said = Under(
            model, policy, settings=settings if self._is_on_the_road(settings) else None, instead=instead
        )
        recording, names = self._roads.recording, self._names_sent(passing)
        # the service of an order's home decides at all stages; until models were moved, there is none
        control = passing.home.others.get(self._roads.settings.topics.control, NO_CONTROL)
        if not self._desks.is_moved(control):
            other = None if names is None else recording.by_names(names, model or under.model)
            return said if other is None else said._replace(model=other)
        came = passing.travelling.names if names is None else recording.spoken_of(names)
        lacks = None if names is None else self._desks.lacking(control, came)
        said = self._desks.untold(said._replace(control=control, lacks=lacks))
        return self._desks.with_settings_model(said, came, recording.known(under))

    def _is_on_the_road(self, settings: bytes | None) -> bool:
        return (
            settings is not None and self._entity in self._desks.deciding(Under(settings=settings)).entities
        )

    def _names_sent(self, passing: Passing) -> int | None:
        """The features that the recorded message to the next stage speaks of; None without one."""
        road = self._roads.road
        after = road.entities.index(self._entity) + 1
        if after == len(road.entities):
            return None
        following = road.entities[after]
        to = road.partition(passing.ids.get(following) or passing.order_id)
        onward = Produce(self._roads.settings.stages[following], to, None, None)
        return next((each.names for each in self._roads.recording.sent(onward, passing)), None)

    def _was_set_aside(self, step: _Step) -> bool:
        if step.record.offset in self._aside:
            return True
        made = step.made
        # the stages before are named in its decision
        return bool(made) and made[0].is_of_an_order_set_aside and self._topic not in stood_in(made[0].record)

    def _decide(
        self, batch: Sequence[_Step], under: Under, *, wanted: bool
    ) -> Iterator[tuple[Past, Outcome]]:
        real = wanted or any(self._is_unrecorded(each) for each in batch)
        desk, doubt = self._desks.desk(under, real=real)
        for part in [batch] if doubt is None else parted(batch):
            records = [each.record for each in part]
            effects = desk.decide(records, self._recall, NO_WATERMARKS, NO_POSITIONS)
            changed = effects.rows.get(self._partition, {})
            if doubt is not None or not real:
                self._believe(part, changed)
            self._rows.change(changed)
            sent = self._roads.sent(effects, judged=real and doubt is None)
            if wanted:
                yield from self._outcomes(part, effects, doubt, sent)
        self._roads.told(len(batch))

    def _put_aside(self, step: _Step, under: Under, *, wanted: bool) -> Iterator[tuple[Past, Outcome]]:
        desk, doubt = self._desks.desk(under, real=wanted)
        effects = desk.set_aside(step.record, self._recall)
        if wanted:
            yield from self._outcomes([step], effects, doubt, [], was_set_aside=True)

    def _recall(self, partition: int, key: bytes) -> bytes | None:
        return self._rows.recall(partition, key)

    def _is_unrecorded(self, step: _Step) -> bool:
        """Whether its decision was deleted since, as the oldest are."""
        passing = step.passing
        if passing is None or step.made or not _is_decided(passing):
            return False
        number = passing.home.partition
        if not any(low > 0 for low, _ in self._roads.recording.decisions[number]):
            return False
        span = self._roads.recording.made_span(step.record, number)
        return span is None or step.record.offset < span.first

    def _outcomes(
        self,
        batch: Sequence[_Step],
        effects: Effects,
        doubt: Doubt | None,
        sent: Sequence[Passing],
        *,
        was_set_aside: bool = False,
    ) -> Iterator[tuple[Past, Outcome]]:
        emitted: dict[tuple[int, int], Produce] = {}
        for each in effects.produce:
            if each.topic in self._outputs and SHADOW not in each.headers:
                source = source_in(each.value)
                emitted[source.partition, source.offset] = each
        went_on = {(each.home.partition, each.home.offset) for each in sent if _is_decided(each)}
        for step in batch:
            passing = step.passing
            if passing is None or not _is_decided(passing):
                continue
            home = passing.home
            if (home.partition, home.offset) in went_on:
                continue
            again = emitted.get((home.partition, home.offset))
            is_recorded = not self._is_unrecorded(step)
            if again is not None and not step.made and is_recorded:
                span = self._roads.recording.made_span(step.record, home.partition)
                if span is None or step.record.offset > span.last:
                    self._roads.on_their_way += 1
                    continue
            order = Record(
                *(home.topic, home.partition, home.offset, home.timestamp, passing.key, None),
                step.record.headers,
            )
            yield (
                self._roads.homes[home.partition],
                Outcome(
                    order,
                    step.made,
                    None if again is None else again.value,
                    None if again is None else again.topic,
                    None if again is None else again.key,
                    doubt,
                    is_recorded,
                    was_set_aside,
                ),
            )

    def _believe(self, batch: Sequence[_Step], rows: dict[bytes, bytes | None]) -> None:
        """Remember of orders that were not decided again what was decided about them."""
        for _, passing, made in batch:
            word = made[0].word if made else None
            if passing is None or word is None or not made[0].is_first:
                continue
            key = PASSED + ROWS[self._entity] + passing.order_id.encode()
            kept = rows.get(key)
            if kept is None:
                continue
            passed = Passed.decode(kept)
            seen = passed.of(word.revision)
            if seen is None:
                continue
            with suppress(ValueError):  # bytes that are no decision are believed nothing
                seen.decision_id, seen.decision = UUID(word.decision_id).bytes, made[0].record.value or b""
                if seen.is_brief:
                    shorten(seen)
                rows[key] = passed.encode()


class _Since(NamedTuple):
    """From which order of a partition on decisions were made with these settings."""

    offset: int
    deciding: Deciding


def _road(deciding: Deciding) -> tuple[tuple[str, ...], int]:
    """What of the settings has rows made anew."""
    return deciding.entities, deciding.row_limit


def _roads(since: Mapping[bytes, int]) -> list[_Since]:
    """Each road, and length of rows, of which decisions tell, the earliest first."""
    found: dict[tuple[tuple[str, ...], int], _Since] = {}
    for said, offset in sorted(since.items(), key=lambda each: each[1]):
        deciding = Deciding.decode(said)
        if deciding is not None and deciding.entities:
            found.setdefault(_road(deciding), _Since(offset, deciding))
    return list(found.values())


def stood_in(decision: Record) -> dict[str, tuple[int, int]]:
    """Where an order stood in each stage before it was decided, as its decision says."""
    said = dict(decision.headers).get(STAGES)
    if said is not None:
        with suppress(msgspec.DecodeError):
            return _stages(said)
    return {}


def _passing_in(record: Record) -> Passing | None:
    """The message in a stage's record; None where none is. Raises RoadError for a newer version's."""
    try:
        return Passing.decode(record.value)
    except PassingBytesError:
        return None
    except PassingVersionError as error:
        raise RoadError(f"{record.topic}/{record.partition} offset {record.offset:,}: {error}") from error


def _is_decided(passing: Passing) -> bool:
    """Whether somebody waits for a decision about what passes."""
    return passing.travelling is not None and not passing.travelling.is_history


def _is_named(decision: str, named: bytes) -> bool:
    try:
        return UUID(decision).bytes == named
    except ValueError:
        return False


def _digest(sent: Record | Produce, passing: Passing) -> bytes:
    """What tells the message from another."""
    value = sent.value
    is_told = passing.travelling is None
    if is_told or len(passing.facts) > 1:
        # how far other inputs were read, and what of two of them was heard first, is recorded only where an
        # order is to be decided by it; histories are the same whichever it was
        value = msgspec.structs.replace(
            passing,
            home=passing.home._replace(others={}) if is_told else passing.home,
            facts=tuple(sorted(passing.facts, key=_encode)),
        ).encode()
    return blake2b(_encode((sent.key, value, sent.headers)), digest_size=16).digest()
