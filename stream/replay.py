"""Past topics again, in the order in which they were recorded: their records, and their orders' features.

Within a partition orders come by their offsets and other inputs are merged by arrival, outcomes before
orders that arrived in the same millisecond; partitions are independent of one another. Reading joins,
commits and changes nothing. Only `send_again` writes to a topic, in transactions.
"""

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import isnan
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeVar, cast

import orjson
from pydantic import ValidationError

from features.decode import Rejection
from features.define import Feature
from features.events import Order, OrderEvent, Outcome
from features.mapping import said_by
from features.plan import Vectors
from features.replay import LeftOut, Replay
from features.values import Vector
from stream.deadletters import Place
from stream.decoder import Decoder, decoder_for, decoder_of
from stream.desk import is_history
from stream.errors import Refusal
from stream.merge import ARRIVED_AT, by_arrival
from stream.ports import TP, Record
from stream.recorded import Recorded, losses
from stream.settings import Settings
from stream.topics import TopicError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = [
    "OF_THE_ORDER",
    "BadRecord",
    "Bounds",
    "FeatureSheet",
    "Features",
    "Job",
    "Kind",
    "Opened",
    "Records",
    "ReplayError",
    "Span",
    "Tally",
    "event_in",
    "lost_of",
    "of_the_order",
    "refuse_unequal",
    "spans_of",
]

ROWS_AT_ONCE: Final = 10_000
BYTES_AT_ONCE: Final = 32 * 1024 * 1024
_PIECE: Final = 10_000
"""Offsets that are read at once of each of several inputs that are merged."""
_PIECE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of values after which fewer are."""
_BAD_KEPT: Final = 20
"""Bad records of which the place is kept, of a part; all are counted."""
_TOLD_EVERY: Final = 2_000

Span = Mapping[TP, tuple[int, int]]
"""By partition: the first offset that is read, and the one after the last."""

Opened = Callable[[], Recorded]
"""Opens what is read, in whichever process: it can be pickled."""

Told = Callable[[int], None]
"""Told how many records were read so far."""

Kind = Literal["text", "int32", "int64", "float", "bool", "moment", "arrival"]
"""Of what kind a column is; an arrival is in milliseconds since 1970, less than 0 unknown."""


class ReplayError(Refusal):
    """The past can't be replayed as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What comes out; None, or nothing, is no bound."""

    since: datetime | None = None
    """By the broker's time, as `until`; what arrived then comes out."""
    until: datetime | None = None
    """What arrived then does not come out."""
    countries: frozenset[str] = frozenset()
    customers: frozenset[str] = frozenset()
    offsets: Mapping[int, Sequence[tuple[int, int | None]]] = field(default_factory=dict)
    """By partition: first and last offset; where one has some, partitions without any are left out."""
    partitions: frozenset[int] = frozenset()

    def of(self, partitions: int) -> list[int]:
        """The partitions out of which something may come. Raises ReplayError for one that is not there."""
        named = self.partitions | self.offsets.keys()
        if named and max(named) >= partitions:
            raise ReplayError(
                f"there is no partition {max(named)}, the topic has {partitions}; name 0 to {partitions - 1}"
            )
        return [
            each
            for each in range(partitions)
            if (not self.partitions or each in self.partitions) and (not self.offsets or each in self.offsets)
        ]

    def place(self) -> Callable[[Record], bool]:
        """What says whether a record lies within the bounds of time, partition and offset."""
        first = None if self.since is None else _milliseconds(self.since)
        last = None if self.until is None else _milliseconds(self.until)
        offsets, partitions = self.offsets, self.partitions
        if first is None and last is None and not offsets and not partitions:
            return _everywhere

        def lies_within(record: Record) -> bool:
            at = record.timestamp
            if (first is not None and at < first) or (last is not None and at >= last):
                return False
            if partitions and record.partition not in partitions:
                return False
            return not offsets or any(
                begin <= record.offset and (end is None or record.offset <= end)
                for begin, end in offsets.get(record.partition, ())
            )

        return lies_within

    def last_offset(self, partition: int) -> int | None:
        """The last offset out of which something may come; None where there is no last."""
        ranges = self.offsets.get(partition)
        if not ranges:
            return None
        ends = [end for _, end in ranges]
        return None if None in ends else max(end for end in ends if end is not None)

    def first_offset(self, partition: int) -> int | None:
        """The first offset out of which something may come; None where there is no first."""
        return min((begin for begin, _ in self.offsets.get(partition, ())), default=None)


def _everywhere(_: Record) -> bool:
    return True


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _milliseconds(moment: datetime) -> int:
    return -((_EPOCH - moment) // timedelta(milliseconds=1))  # up: nothing from before it


class BadRecord(NamedTuple):
    """A record that says no order or event; it stays out, and the replay goes on."""

    place: Place
    code: str
    detail: str

    def __str__(self) -> str:
        """Where it is, and why."""
        return f"{self.place}: {self.code}: {self.detail}"


@dataclass(slots=True)
class Tally:
    """What became of the records that were read."""

    read: int = 0
    out: int = 0
    """How many came out."""
    bad: Counter[str] = field(default_factory=Counter)
    """How many could not be read, by reason code."""
    bad_records: list[BadRecord] = field(default_factory=list)
    """The first of them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Orders within the bounds without features of their own: resends, and what a worker rejects."""
    waiting: int = 0
    """Outcomes and order events whose order was not seen."""
    partitions: int = 0
    lost: list[str] = field(default_factory=list)
    """What an archive lacks of what was to be read, in words."""

    def note(self, record: Record, code: str, detail: str) -> None:
        """Count a record that can't be read."""
        self.bad[code] += 1
        if len(self.bad_records) < _BAD_KEPT:
            place = Place(record.topic, record.partition, record.offset)
            self.bad_records.append(BadRecord(place, code, detail))

    def add(self, other: "Tally") -> None:
        """Count what became of another part's records too."""
        self.read += other.read
        self.out += other.out
        self.bad += other.bad
        self.bad_records = [*self.bad_records, *other.bad_records][:_BAD_KEPT]
        self.left_out += other.left_out
        self.waiting += other.waiting
        self.partitions += other.partitions
        self.lost += other.lost


class Sheet(Protocol):
    """How what comes out is written."""

    @property
    def schema(self) -> "pa.Schema":
        """The columns of a table of it."""

    def batch(self, rows: Sequence[Any]) -> "pa.RecordBatch":
        """Some of it as columns."""

    def lines(self, rows: Sequence[Any]) -> bytes:
        """Some of it as JSON, one object a line."""


class Job(Protocol):
    """What is replayed; it can be pickled, because each part may run in a process of its own."""

    def inputs(self, recorded: Recorded) -> Span:
        """What is read, as it is now. Raises TopicError, ReplayError, Unreachable."""

    def parts(self, spans: Span) -> list[tuple[int, ...]]:
        """Which partitions have to be replayed together, in the order in which the parts come out."""

    def sheet(self) -> Sheet:
        """How it is written."""

    def rows(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[Sequence[Any]]:
        """What comes out of a part, many rows at once."""


# ---------------------------------------------------------------------- reading


def lost_of(recorded: Recorded, spans: Span) -> list[str]:
    """What was lost, before it was archived, of what is to be read."""
    return [
        told
        for tp, (begin, end) in sorted(spans.items())
        for told in losses(tp, [gap for gap in recorded.gaps(tp) if gap[1] > begin and gap[0] < end])
    ]


def spans_of(recorded: Recorded, topic: str, partitions: Sequence[int]) -> dict[TP, tuple[int, int]]:
    """What there is of these partitions now."""
    return {(topic, each): recorded.bounds((topic, each)) for each in partitions}


def in_recorded_order(recorded: Recorded, inputs: Sequence[tuple[TP, tuple[int, int]]]) -> Iterator[Record]:
    """The records of several partitions by arrival, each partition's by its offsets.

    Of those that arrived at the same time the partition named first goes first.
    """
    some = [(tp, span) for tp, span in inputs if span[0] < span[1]]
    if len(some) == 1:
        ((tp, (begin, end)),) = some
        return chain.from_iterable(recorded.read(tp, begin, end))
    # a client reads one partition at a time, so each is read piece by piece
    return by_arrival([chain.from_iterable(_pieces(recorded, tp, begin, end)) for tp, (begin, end) in some])


def _pieces(recorded: Recorded, tp: TP, begin: int, end: int) -> Iterator[Sequence[Record]]:
    while begin < end:
        until = min(begin + _PIECE, end)
        piece: list[Record] = []
        size = 0
        chunks = cast("Generator[Sequence[Record], None, None]", recorded.read(tp, begin, until))
        with closing(chunks):  # what is not read to its end would hold the reader
            for chunk in chunks:
                piece += chunk
                size += sum([len(each.value or b"") for each in chunk])
                if size >= _PIECE_BYTES:
                    until = chunk[-1].offset + 1
                    break
        yield piece
        begin = until


def _counted(records: Iterator[Record], tally: Tally, told: Told) -> Iterator[Record]:
    for number, record in enumerate(records, 1):
        if not number % _TOLD_EVERY:
            tally.read = number
            told(number)
        yield record
        tally.read = number
    told(tally.read)


# ---------------------------------------------------------------------- records as they are


@dataclass(frozen=True, slots=True)
class Records:
    """The records of topics as they are, in recorded order."""

    settings: Settings
    topics: tuple[str, ...]
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Refuse bounds that some of the topics know nothing of."""
        orders = self.settings.topics.orders
        if self.bounds.countries and self.topics != (orders,):
            raise ReplayError(
                f"only orders say their country; choose '{orders}' alone, or leave countries out"
            )
        if self.bounds.offsets and len(self.topics) > 1:
            raise ReplayError("offsets are of one topic; choose one, or leave offsets out")

    def inputs(self, recorded: Recorded) -> Span:
        """The chosen partitions of the topics."""
        counts = {topic: recorded.partitions(topic) for topic in self.topics}
        refuse_unequal(counts)
        found: dict[TP, tuple[int, int]] = {}
        for topic, count in counts.items():
            for tp, (begin, end) in spans_of(recorded, topic, self.bounds.of(count)).items():
                first, last = self.bounds.first_offset(tp[1]), self.bounds.last_offset(tp[1])
                until = end if last is None else min(end, last + 1)
                found[tp] = (min(begin if first is None else max(begin, first), until), until)
        return found

    def parts(self, spans: Span) -> list[tuple[int, ...]]:
        """Each partition by itself."""
        return [(each,) for each in sorted({partition for _, partition in spans})]

    def sheet(self) -> Sheet:
        """Place, arrival, key, value and headers."""
        return _RecordSheet()

    def rows(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[Sequence[Record]]:
        """The records within the bounds."""
        rows: list[Record] = []
        size = 0
        for record in self.records(recorded, spans, part, tally, told):
            rows.append(record)
            size += len(record.value or b"")
            if len(rows) == ROWS_AT_ONCE or size > BYTES_AT_ONCE:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def records(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[Record]:
        """The same, one by one."""
        tally.partitions += len(part)
        bounds, lies_within = self.bounds, self.bounds.place()
        keys = frozenset(each.encode() for each in bounds.customers)
        countries = bounds.countries
        decoder = decoder_of(self.settings) if countries else None
        ahead = timedelta(seconds=self.settings.ahead_by_at_most_s)
        ranked = _ranked(self.settings, self.topics)
        inputs = [((topic, each), spans[topic, each]) for topic in ranked for each in part]
        for record in _counted(in_recorded_order(recorded, inputs), tally, told):
            if not lies_within(record) or (keys and record.key not in keys):
                continue
            if decoder is not None:
                order = _order_in(decoder, record, ahead)
                if isinstance(order, Rejection):
                    tally.note(record, order.code, order.detail)
                    continue
                if order.country not in countries:
                    continue
            tally.out += 1
            yield record


def _ranked(settings: Settings, topics: Sequence[str]) -> list[str]:
    """The topics as they go when records arrived at the same time: outcomes, order events, others, orders."""
    names = settings.topics
    ranks = {names.outcomes: 0, names.order_events: 1, names.orders: 3}
    return sorted(dict.fromkeys(topics), key=lambda topic: (ranks.get(topic, 2), topic))


def refuse_unequal(counts: Mapping[str, int]) -> None:
    """Refuse topics of different numbers of partitions. Raises ReplayError."""
    if len(set(counts.values())) > 1:
        told = ", ".join(f"'{topic}' {count}" for topic, count in counts.items())
        raise ReplayError(
            f"partitions of one number belong together, and the topics have different ones ({told}); "
            "replay each topic by itself"
        )


def _order_in(decoder: Decoder, record: Record, ahead: timedelta) -> Any:
    return decoder_for(record, decoder).order(
        record.value, key=record.key, arrived_at=record.timestamp, ahead_by_at_most=ahead
    )


class _RecordSheet:
    """A record's place, arrival, key, value and headers."""

    @property
    def schema(self) -> "pa.Schema":
        import pyarrow as pa  # noqa: PLC0415 - half a second, and only for tables

        header = pa.struct([("name", pa.string()), ("value", pa.binary())])
        return pa.schema(
            [
                ("topic", pa.string()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                (ARRIVED_AT, pa.timestamp("ms", "UTC")),
                ("key", pa.binary()),
                ("value", pa.binary()),
                ("headers", pa.list_(header)),
            ]
        )

    def batch(self, rows: Sequence[Record]) -> "pa.RecordBatch":
        import pyarrow as pa  # noqa: PLC0415

        topics, partitions, offsets, times, keys, values, headers = zip(*rows, strict=True)
        columns = (
            *(topics, partitions, offsets, [None if each < 0 else each for each in times], keys, values),
            [[{"name": name, "value": value} for name, value in each] for each in headers],
        )
        schema = self.schema
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def lines(self, rows: Sequence[Record]) -> bytes:
        return b"".join([orjson.dumps(_record_as_json(each), option=_LINE) for each in rows])


_LINE: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


def _record_as_json(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        ARRIVED_AT: _moment(record.timestamp),
        **_as_text("key", record.key),
        **_as_text("value", record.value),
        "headers": [{"name": name, **_as_text("value", value)} for name, value in record.headers],
    }


def _moment(milliseconds: int) -> datetime | None:
    return None if milliseconds < 0 else _EPOCH + timedelta(milliseconds=milliseconds)


def _as_text(name: str, raw: bytes | None) -> dict[str, str | None]:
    """Bytes as text where they are text, else in base64 under a name that says so."""
    try:
        return {name: None if raw is None else raw.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode  # noqa: PLC0415 - hardly ever

        return {f"{name}_base64": b64encode(raw or b"").decode()}


# ---------------------------------------------------------------------- orders with their features

OF_THE_ORDER: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "order_id": "text",
        "revision": "int32",
        "customer_id": "text",
        "placed_at": "moment",
        "partition": "int32",
        "offset": "int64",
        ARRIVED_AT: "arrival",
        "history": "bool",
    }
)
"""What is said of an order beside its features; `history` is whether it was only to be remembered."""


@dataclass(frozen=True, slots=True)
class Features:
    """Every order with its features as of its arrival, as a worker computes them."""

    settings: Settings
    chosen: Callable[[], Sequence[Feature]]
    """Finds the features, in whichever process: it can be pickled, and a shop's own features can't."""
    bounds: Bounds = field(default_factory=Bounds)
    """Which orders come out; what lies before them is read all the same, so that histories are whole."""

    def topics(self) -> tuple[str, ...]:
        """The topics that are followed: orders and, where a feature asks it, those of what became of them."""
        names = self.settings.topics
        if any(each.looks_at_facts for each in self.chosen()):
            return names.orders, names.outcomes, names.order_events
        return (names.orders,)

    def inputs(self, recorded: Recorded) -> Span:
        """The topic of orders and, where a feature asks what became of orders, those that say it."""
        names = self.settings.topics
        features = self.chosen()
        partitions = recorded.partitions(names.orders)
        counts = {names.orders: partitions}
        for topic in self.topics()[1:]:
            with suppress(TopicError):  # the topic of orders was found, so this one is not there
                counts[topic] = recorded.partitions(topic)
        refuse_unequal(counts)
        wanted = self.bounds.of(partitions)
        read = range(partitions) if crosses_partitions(features) else wanted
        found: dict[TP, tuple[int, int]] = {}
        for topic in _ranked(self.settings, list(counts)):
            found |= spans_of(recorded, topic, read)
        if not crosses_partitions(features):
            for each in wanted:
                begin, end = found[names.orders, each]
                last = self.bounds.last_offset(each)
                found[names.orders, each] = (begin, end if last is None else max(begin, min(end, last + 1)))
        return found

    def parts(self, spans: Span) -> list[tuple[int, ...]]:
        """Each partition by itself, unless a history crosses them."""
        partitions = sorted({partition for _, partition in spans})
        if crosses_partitions(self.chosen()):
            return [tuple(partitions)]
        return [(each,) for each in partitions]

    def _kept(self, features: Sequence[Feature]) -> dict[str, timedelta | None]:
        """How long a worker keeps what it remembers; it forgets by the time of its partition."""
        if crosses_partitions(features):
            return {}
        settings = self.settings
        return {
            "rows_kept": _days(settings.forget_after_days),
            "orders_kept": _days(settings.order_memory_days),
        }

    def sheet(self) -> Sheet:
        """The order's name, place and times, then a column for each feature."""
        return FeatureSheet(self.chosen())

    def rows(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """The orders within the bounds that a worker would have computed features for, each once."""
        lies_within, countries, customers = self.bounds.place(), self.bounds.countries, self.bounds.customers

        def wanted(order: Order, record: Record) -> bool:
            return (
                lies_within(record)
                and (not countries or order.country in countries)
                and (not customers or order.customer_id in customers)
            )

        rows: list[tuple[Any, ...]] = []
        for record, order, vector in self.followed(recorded, spans, part, tally, told, wanted=wanted):
            # as bytes, while the processor has it at hand
            rows.append((*of_the_order(order, record), vector.tobytes()))
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    def followed(
        self,
        recorded: Recorded,
        spans: Span,
        part: Sequence[int],
        tally: Tally,
        told: Told,
        *,
        wanted: Callable[[Order, Record], bool],
    ) -> Iterator[tuple[Record, Order, Vector]]:
        """Each order that is wanted, with its features; of the others nothing is computed.

        `wanted` is asked about every order that can be read, in recorded order, resends too.
        """
        tally.partitions += len(part)
        settings, lies_within = self.settings, self.bounds.place()
        features = self.chosen()
        past = Replay(
            Vectors(features),
            row_limit=settings.row_limit,
            entities=["customer", *(each.entity for each in features)],
            **self._kept(features),
        )
        follow, decoder, orders = past.follow, decoder_of(settings), settings.topics.orders
        outcomes = settings.topics.outcomes
        ahead = timedelta(seconds=settings.ahead_by_at_most_s)
        topics = _ranked(settings, [topic for topic, _ in spans])
        inputs = [((topic, each), spans[topic, each]) for topic in topics for each in part]
        with _garbage_left():
            for record in _counted(in_recorded_order(recorded, inputs), tally, told):
                if record.topic != orders:
                    event: Outcome | OrderEvent | str = (
                        event_in(record, Outcome)
                        if record.topic == outcomes
                        else event_in(record, OrderEvent)
                    )
                    if isinstance(event, str):
                        tally.note(record, "bad_event", event)
                    else:
                        follow(event)
                    continue
                order = _order_in(decoder, record, ahead)
                if isinstance(order, Rejection):
                    if lies_within(record):
                        tally.note(record, order.code, order.detail)
                    continue
                is_wanted = wanted(order, record)
                vector = follow(order, wanted=is_wanted)
                if not is_wanted:
                    continue
                if type(vector) is LeftOut:
                    tally.left_out[vector.value] += 1
                    continue
                tally.out += 1
                yield record, order, cast("Vector", vector)
        tally.waiting += past.waiting


def of_the_order(order: Order, record: Record) -> tuple[Any, ...]:
    """What OF_THE_ORDER names."""
    return (
        *(order.order_id, order.revision, order.customer_id, order.placed_at),
        *(record.partition, record.offset, record.timestamp, is_history(record)),
    )


def _days(number: int) -> timedelta | None:
    return timedelta(days=number) if number else None


def crosses_partitions(features: Sequence[Feature]) -> bool:
    """Whether a feature asks a history of another entity than the customer, whose orders lie anywhere."""
    return any(each.entity not in {None, "customer"} for each in features)


Said = TypeVar("Said", Outcome, OrderEvent)


def event_in(record: Record, contract: type[Said]) -> Said | str:
    """What became of an order, or why the record does not say it."""
    try:
        return contract.model_validate_json(record.value or b"")
    except ValidationError as error:
        return said_by(error)


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Nothing here is made in circles, and to look for them among a million rows takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class FeatureSheet:
    """What is said of an order, then its features: in a row the bytes of a Vector."""

    def __init__(
        self,
        features: Sequence[Feature],
        said: Mapping[str, Kind] = OF_THE_ORDER,
        metadata: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """`said` names what stands before the features, and of which kind it is; `metadata` is of tables."""
        self._features, self._said, self._metadata = features, said, metadata
        self._names = (*said, *(each.name for each in features))
        twice = [name for name, count in Counter(self._names).items() if count > 1]
        if twice:
            raise ReplayError(f"'{twice[0]}' would be the name of two columns; leave that feature out")
        self._categories = [
            (at, each.categories)
            for at, each in enumerate(features, len(said))
            if each.categories is not None
        ]
        self._arrivals = [at for at, kind in enumerate(said.values()) if kind == "arrival"]

    @property
    def schema(self) -> "pa.Schema":
        """A column for everything; moments in UTC, categories as dictionaries."""
        import pyarrow as pa  # noqa: PLC0415 - half a second, and only for tables

        kinds = {
            "text": pa.string(),
            "int32": pa.int32(),
            "int64": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "moment": pa.timestamp("us", "UTC"),
            "arrival": pa.timestamp("ms", "UTC"),
        }
        category = pa.dictionary(pa.int32(), pa.string())
        return pa.schema(
            [
                *((name, kinds[kind]) for name, kind in self._said.items()),
                *(
                    (each.name, pa.float64() if each.categories is None else category)
                    for each in self._features
                ),
            ],
            self._metadata,
        )

    def batch(self, rows: Sequence[tuple[Any, ...]]) -> "pa.RecordBatch":
        """Some orders as columns."""
        import numpy as np  # noqa: PLC0415 - only for tables
        import pyarrow as pa  # noqa: PLC0415

        schema, before = self.schema, len(self._said)
        *columns, vectors = zip(*rows, strict=True)
        for at in self._arrivals:
            columns[at] = tuple([None if each < 0 else each for each in columns[at]])
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types[:before], strict=True)]
        matrix = np.frombuffer(b"".join(vectors), np.float64).reshape(len(rows), len(self._features))
        categories = dict(self._categories)
        for at, column in enumerate(np.ascontiguousarray(matrix.T), before):
            values = pa.array(column, from_pandas=True)  # no value is NaN, so NaN is null
            if (texts := categories.get(at)) is not None:
                # every batch with all texts, in their order: codes are the values that a model sees
                values = pa.DictionaryArray.from_arrays(values.cast(pa.int32()), pa.array(texts))
            arrays.append(values)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def lines(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        """Some orders as JSON, one a line."""
        names = self._names
        lines = []
        for *said, vector in rows:
            told = dict(zip(names, (*said, *memoryview(vector).cast("d")), strict=True))
            for at in self._arrivals:
                told[names[at]] = _moment(said[at])
            for at, texts in self._categories:
                value = told[names[at]]
                told[names[at]] = None if isnan(value) else texts[int(value)]
            lines.append(orjson.dumps(told, option=_LINE))  # NaN, which is unknown, as null
        return b"".join(lines)
