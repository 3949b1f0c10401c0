"""A shop's orders, events and outcomes from a file or a pipe to their topics, under their customer's key.

Of lines that follow the contract only the key is read: what an order means is the worker's to judge, and
what it can't judge it rejects whole. Refused here is what would not even arrive. Rows of the shop's own
are mapped, held against the contract, and refused with field and column. Every row is sent, refused, or
left out by the mapping; nothing else becomes of one.

A file is published in transactions that carry the number of its next row as an offset of a consumer
group of its own, so that a publisher that was killed goes on where it was and nothing comes twice.
"""

import hashlib
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from pydantic import BaseModel, ValidationError

from features.events import LARGEST_RECORD, OrderEvent, Outcome, microseconds
from features.mapping import Kind, Reading, RowFault, RowMapper, RowMapping, row_in, said_by
from stream.errors import Refusal
from stream.kafka import Watchdog, check_group_metadata, group_metadata
from stream.mapping import bound_to
from stream.merge import ARRIVED_AT
from stream.ports import Assignment, Headers, Refused
from stream.settings import Settings
from stream.sources import Source, SourceError, Unreadable
from stream.topics import AROUND_AN_EVENT, largest_record

__all__ = [
    "Left",
    "Plan",
    "PublishError",
    "Published",
    "Ready",
    "RefusedLine",
    "history_headers",
    "identity_of",
    "planned",
    "publish",
    "publish_file",
    "ready_rows",
]

HISTORY = (("mode", b"history"),)
"""The header of what is remembered and never decided."""


class _When(msgspec.Struct, gc=False):
    placed_at: datetime | None = None
    known_at: datetime | None = None


_when = msgspec.json.Decoder(_When).decode


def history_headers(value: bytes) -> Headers:
    """The headers of an event of the past: that it is history, and when it would have arrived.

    An order arrived when it was placed, an outcome or event when it became known; so the past is merged in
    the order in which it happened, in whichever order its files are published. One that says no time that
    can be read has no `arrived_at`.
    """
    try:
        told = _when(value)
    except msgspec.MsgspecError:
        return HISTORY
    moment = told.known_at or told.placed_at
    if moment is None or moment.tzinfo is None or moment.year < _FIRST_YEAR:
        return HISTORY
    return (*HISTORY, (ARRIVED_AT, str(microseconds(moment) // 1000).encode()))


_FIRST_YEAR: Final = 1970


_ID_LENGTH: Final = 128
_BOM: Final = b"\xef\xbb\xbf"
_AROUND: Final = 256
"""Bytes a record needs beside key and value: its header in the batch, and the headers of history."""

_SILENT = logging.getLogger("fraudstream.publish.librdkafka")
"""Where librdkafka's own words go: what it says of a fatal error we say ourselves, in one line."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_SPAN_S: Final = 0.5
"""How long a transaction stays open: until it ends, no later order of any shop is seen."""
_PACED_SPAN_S: Final = 0.2
_EVERY_ROW: Final = 2**63
MOST_SORTED: Final = 5_000_000
"""Rows that are sorted in memory, at most."""


class PublishError(Refusal):
    """The orders could not be published; the message says how far it came and what to do."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A row that was not published, and why; the rows around it were."""

    line: int
    """Its number: lines of JSON and rows of a table are counted from 1, without a table's header."""
    reason: str
    code: str = "not_json"
    """The cause, in one of the words of REJECTION_CODES."""
    field: str = ""
    column: str = ""
    raw: Any = None
    """The row as it was read: a text, or an object of columns."""
    word: str = "line"

    def __str__(self) -> str:
        """The row's number and the reason."""
        return f"{self.word} {self.line:,}: {self.reason}"


class Ready(NamedTuple):
    """A row as it will be sent."""

    row: int
    key: str
    value: bytes


class Left(NamedTuple):
    """A row that the mapping leaves out."""

    row: int


_Fed: TypeAlias = Ready | RefusedLine | Left


@dataclass(slots=True)
class Published:
    """What became of the rows, of this run; `before` counts the runs that this one continues."""

    sent: int = 0
    refused: int = 0
    seconds: float = 0.0
    left_out: int = 0
    """Rows that the mapping does not take."""
    causes: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    """`rows`, `sent`, `refused` and `left_out` of earlier runs over the same file."""
    is_repeat: bool = False
    """Whether there was nothing left to do."""

    @property
    def rows(self) -> int:
        """Rows in."""
        return self.sent + self.refused + self.left_out


class _Keys(msgspec.Struct, gc=False):
    order_id: str
    customer_id: str | None = None


# ---------------------------------------------------------------------- rows, made ready to be sent


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file's rows become and how they are sent."""

    kind: Kind = "orders"
    history: bool = False
    rate: float | None = None
    limit: int | None = None
    """Only the first so many rows."""
    mapper: RowMapper | None = None
    digest: str = ""
    """What two mappings share only if they say the same; empty without one."""
    columns: tuple[str, ...] = ()
    """The columns that are read of JSON."""
    sort: str | None = None
    other_file: Path | None = None
    """The table of the items, where it is a file of its own."""

    def topic(self, settings: Settings) -> str:
        """Where the rows go."""
        topics = settings.topics
        return {"orders": topics.orders, "events": topics.order_events, "outcomes": topics.outcomes}[
            self.kind
        ]


def planned(
    settings: Settings,
    source: Source,
    mapping: RowMapping | None,
    *,
    said: str = "mapping",
    beside: Path = Path(),
    kind: Kind = "orders",
    history: bool = False,
    rate: float | None = None,
    limit: int | None = None,
) -> Plan:
    """How an opened source is published by a mapping, or as it is, in JSON of the contract.

    `said` names the mapping in messages and `beside` is the folder its own files are relative to.
    Raises MappingFileError, SourceError.
    """
    plan = Plan(kind=kind, history=history, rate=rate, limit=limit)
    if mapping is None:
        return plan
    salt = settings.hashing_salt()
    mapper = bound_to(mapping, source, said=said, beside=beside, salt=salt)
    told = [mapping.digest, hashlib.blake2b(salt).hexdigest()]
    join = None if mapping.items is None else mapping.items.join
    other_file = None if join is None or join.file is None else beside / join.file
    if join is not None and other_file is not None:
        with Source(str(other_file), Reading(member=join.member)) as other:
            told.append(other.digest())
    return replace(
        plan,
        kind=mapping.kind,
        mapper=mapper,
        digest=" ".join(told),
        columns=mapping.columns,
        sort=mapping.source.sort,
        other_file=other_file,
    )


def ready_rows(
    source: Source, plan: Plan, *, largest: int = LARGEST_RECORD + AROUND_AN_EVENT, skip: int = 0
) -> Iterator[_Fed]:
    """Each row of the source as it will be sent, or why it is not. Raises SourceError.

    `largest` is what the topic takes with the key and what is around it; the first `skip` rows are passed
    over.
    """
    if plan.mapper is None and source.columns is not None:
        raise SourceError(
            f"{source.file} is a table and not orders in JSON; say what its columns mean: --map mapping.toml "
            "(--guess proposes one)"
        )
    if plan.sort is not None:
        rows = _sorted(_made_ready(source, plan, largest, 0), plan.sort)
        return itertools.islice(rows, skip, None)
    return _made_ready(source, plan, largest, skip)


def _made_ready(source: Source, plan: Plan, largest: int, skip: int) -> Iterator[_Fed]:
    rows = itertools.islice(source.rows(), skip, plan.limit)
    mapper, columns = plan.mapper, source.columns
    names = plan.columns
    word = "line" if columns is None else "row"
    for number, line, found in rows:
        if type(found) is Unreadable:
            yield RefusedLine(number, _at(found.reason, number, line), found.code, raw=found.raw, word=word)
            continue
        if mapper is None:
            yield _checked(number, found, largest, plan.kind)  # type: ignore[arg-type]
            continue
        try:
            row: Any = row_in(found, names) if columns is None else found  # type: ignore[arg-type]
            if mapper.leaves_out(row):
                yield Left(number)
                continue
            mapped = mapper.take(row)
        except RowFault as fault:
            reason, raw = _at(str(fault), number, line), _as_read(found, columns)
            yield RefusedLine(number, reason, fault.code, fault.field, fault.column, raw, word)
            continue
        if (too_large := _too_large(mapped.key, mapped.value, largest)) is not None:
            yield RefusedLine(number, too_large, "too_large", raw=_as_read(found, columns), word=word)
            continue
        yield Ready(number, mapped.key, mapped.value)


def _at(reason: str, number: int, line: int) -> str:
    """Where the lines of the text are counted otherwise than its rows, both are told."""
    return f"(line {line:,} of the text) {reason}" if line not in {0, number} else reason


def _as_read(found: Any, columns: Sequence[str] | None) -> Any:
    return _shown(found) if columns is None else dict(zip(columns, found, strict=False))


def _shown(found: Any) -> str:
    return found.decode(errors="backslashreplace") if isinstance(found, bytes) else str(found)


_keys_of = msgspec.json.Decoder(_Keys).decode


_CONTRACTS: Final[Mapping[Kind, type[BaseModel]]] = {"events": OrderEvent, "outcomes": Outcome}
"""What is looked at whole, because no worker answers for it yet; orders are the worker's to judge."""


def _checked(number: int, line: bytes, largest: int, kind: Kind) -> Ready | RefusedLine:
    """A line of the contract: of an order only what it needs in order to arrive is looked at."""
    try:
        keys = _keys_of(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        code, said = _unread(error)
        return RefusedLine(number, f"{said}; {_needed(kind)}", code, raw=_shown(line))
    customer = keys.customer_id
    for name, given in (("order_id", keys.order_id), ("customer_id", customer)):
        if given is not None and not _is_id(given):
            reason = (
                f"{name}: expected 1 to {_ID_LENGTH} characters without control characters (newline, NUL, "
                f"ESC), got {_what_is_wrong(given)}; a worker would reject it, send another {name}"
            )
            return RefusedLine(number, reason, "bad_value", name, raw=_shown(line))
    key = keys.order_id if customer is None else customer
    if (too_large := _too_large(key, line, largest)) is not None:
        return RefusedLine(number, too_large, "too_large", raw=_shown(line))
    if (contract := _CONTRACTS.get(kind)) is not None:
        try:
            contract.model_validate_json(line)
        except ValidationError as error:
            reason = f"{said_by(error)}; {_needed(kind)}"
            return RefusedLine(number, reason, "bad_value", raw=_shown(line))
    return Ready(number, key, line)


def _unread(error: Exception) -> tuple[str, str]:
    """The cause, as a worker would name it, and its words."""
    match error:
        case RecursionError():
            return "too_deep", "expected JSON that is not nested deeply, got deeper"
        case UnicodeDecodeError():
            return "bad_utf8", f"expected UTF-8, got another byte in the text of {len(error.object):,} bytes"
        case msgspec.ValidationError():
            # msgspec's own words name the field and what came, never its value
            said = str(error)
            if said.startswith("Object missing"):
                return "missing_field", said
            return ("wrong_type" if " - at `$." in said else "not_an_object"), said
        case _:
            return "not_json", str(error)


def _needed(kind: Kind) -> str:
    return f"the line needs one of the {kind} in JSON (docs/contracts)"


def _is_id(given: str) -> bool:
    if not 0 < len(given) <= _ID_LENGTH:
        return False
    # isprintable is quick and stricter than the contract: only what fails it is looked at closely
    return given.isprintable() or not any(letter < " " or letter == "\x7f" for letter in given)


def _what_is_wrong(given: str) -> str:
    if not given:
        return "an empty text"
    return f"{len(given):,} characters" if len(given) > _ID_LENGTH else "one with a control character"


def _too_large(key: str, value: bytes, largest: int) -> str | None:
    """Why neither the topic nor, behind it, a worker would take it; None where both do."""
    size = len(value)
    # a letter has four bytes at most: only where that may matter they are counted
    if size + 4 * len(key) + _AROUND <= min(largest, LARGEST_RECORD):
        return None
    most = min(LARGEST_RECORD, largest - _AROUND - len(key.encode()))
    if size <= most:
        return None
    return f"the row has {size:,} bytes and is larger than the {most:,} bytes that are taken; shorten it"


def _sorted(rows: Iterable[_Fed], by: str) -> Iterator[_Fed]:
    """What is not sent first, in the file's order; then the rows by their time, ties in the file's order.

    Nothing comes before the whole file was read, so that who has seen one row to send has seen all refusals.
    """
    timed = msgspec.json.Decoder(msgspec.defstruct("Timed", [(by, datetime)])).decode
    kept: list[tuple[datetime, int, Ready]] = []
    not_sent: list[_Fed] = []
    for each in rows:
        if not isinstance(each, Ready):
            not_sent.append(each)
            continue
        if len(kept) == MOST_SORTED:
            raise SourceError(
                f"more than {MOST_SORTED:,} rows can't be sorted in memory; "
                "sort the file by its time first, and leave sort out of the mapping"
            )
        kept.append((getattr(timed(each.value), by), each.row, each))
    kept.sort(key=lambda entry: entry[:2])
    yield from not_sent
    for _, _, ready in kept:
        yield ready


# ---------------------------------------------------------------------- sending


class _Sink(Protocol):
    """Where ready rows go."""

    span_s: float
    """How long what was sent may wait for `settle`."""

    def send(self, ready: Ready) -> None:
        """Hand a row to the client; it is not there yet."""

    def settle(self, done: Mapping[str, int], *, last: bool) -> None:
        """Make what was sent true, and remember how far it came."""


Told: TypeAlias = Callable[[Published], None]


def publish(
    settings: Settings,
    lines: Iterable[bytes],
    *,
    rate: float | None = None,
    history: bool = False,
    refused: Callable[[RefusedLine], None] = lambda _: None,
) -> Published:
    """Send each line, one order in JSON, and return when the broker has acknowledged them all.

    `rate` paces to so many orders a second; `history` marks them as remembered but never decided.
    `refused` is told of each line that was not sent. Raises PublishError, TopicError.
    """
    topic = settings.topics.orders
    largest = largest_record(settings, topic)
    sink = _Plain(settings, topic, largest, history=history, paced=rate is not None)
    fed = _of_lines(lines, largest)
    return _send_all(fed, sink, Published(), rate=rate, refused=refused)


def publish_file(
    settings: Settings,
    source: Source,
    plan: Plan,
    *,
    from_start: bool = False,
    refused: Callable[[RefusedLine], None] = lambda _: None,
    went_on: Callable[[int], None] = lambda _: None,
    progress: Told = lambda _: None,
) -> Published:
    """Send each row of a file once, going on where an earlier run over the same file was ended.

    `refused` is told of each row that was not sent, `went_on` first of the number up to which rows were
    done by earlier runs, `progress` a few times a second. From a pipe nothing can be continued; it is sent
    plainly.
    Raises PublishError, SourceError, TopicError.
    """
    topic = plan.topic(settings)
    largest = largest_record(settings, topic)
    if not source.is_continuable:
        sink = _Plain(settings, topic, largest, history=plan.history, paced=plan.rate is not None)
        fed = ready_rows(source, plan, largest=largest)
        went_on(0)
        return _send_all(fed, sink, Published(), rate=plan.rate, refused=refused, progress=progress)
    place = _Place(settings, topic, identity_of(settings, source, plan))
    producing = _Transactional(settings, place, largest, plan)
    try:
        before = Counter() if from_start else place.done()
        # sorted, all refusals come before the first row that is sent, whatever their numbers
        went_on(_EVERY_ROW if plan.sort is not None and before["rows"] else before["rows"])
        producing.settled = before["rows"]
        published = Published(before=before)
        if before["complete"]:
            published.is_repeat = True
            return published
        fed = ready_rows(source, plan, largest=largest, skip=before["rows"])
        _send_all(fed, producing, published, rate=plan.rate, refused=refused, progress=progress)
    except KeyboardInterrupt:
        # what is not settled is aborted: the last row may have been sent and not yet been counted
        raise PublishError(
            f"stopped after row {producing.settled:,}; the same command goes on from there"
        ) from None
    finally:
        producing.close()
    if plan.limit is not None and not published.rows and before["rows"]:
        published.is_repeat = True
    return published


def identity_of(settings: Settings, source: Source, plan: Plan) -> str:
    """What names the sending of these rows to this topic: the content, the mapping, and how it is sent."""
    said = [source.digest(), plan.digest, plan.topic(settings), str(plan.history)]
    if plan.sort is not None:
        said.append(str(plan.limit))  # the order of fewer rows is another order
    return hashlib.blake2b("\0".join(said).encode(), digest_size=12).hexdigest()


def _of_lines(lines: Iterable[bytes], largest: int) -> Iterator[_Fed]:
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if number == 1:
            line = line.removeprefix(_BOM)
        if line:
            yield _checked(number, line, largest, "orders")


def _send_all(
    fed: Iterable[_Fed],
    sink: _Sink,
    published: Published,
    *,
    rate: float | None = None,
    refused: Callable[[RefusedLine], None],
    progress: Told = lambda _: None,
) -> Published:
    """Send what is ready, and settle often enough that nobody waits for it."""
    began = time.monotonic()
    first_at: float | None = None  # with the first order: whoever makes the rows may need a while for it
    unsettled_since: float | None = None
    told_at = began
    paced = 0
    waiting = 0
    try:
        for each in fed:
            if type(each) is Ready:
                if rate is not None:
                    first_at = first_at or time.monotonic()
                    due = first_at + paced / rate
                    paced += 1
                    if unsettled_since is not None and due > unsettled_since + sink.span_s:
                        sink.settle(_done(published), last=False)
                        unsettled_since = None
                    time.sleep(max(0.0, due - time.monotonic()))
                sink.send(each)
                published.sent += 1
                unsettled_since = unsettled_since or time.monotonic()
            elif type(each) is RefusedLine:
                published.refused += 1
                published.causes[each.code] += 1
                refused(each)
            else:
                published.left_out += 1
            waiting += 1
            if waiting < 200 and rate is None:
                continue
            waiting = 0
            now = time.monotonic()
            if unsettled_since is not None and now > unsettled_since + sink.span_s:
                sink.settle(_done(published), last=False)
                unsettled_since = None
            if now > told_at + 0.1:
                published.seconds = now - began
                told_at = now
                progress(published)
        sink.settle(_done(published), last=True)
    except SourceError:
        sink.settle(_done(published), last=False)
        raise
    published.seconds = time.monotonic() - began
    progress(published)
    return published


def _done(published: Published) -> dict[str, int]:
    before = published.before
    return {
        "rows": before["rows"] + published.rows,
        "sent": before["sent"] + published.sent,
        "refused": before["refused"] + published.refused,
        "left_out": before["left_out"] + published.left_out,
    }


def _producer_config(settings: Settings, largest: int, **extra: Any) -> dict[str, Any]:
    return {
        "queue.buffering.max.kbytes": 64 * 1024,
        **settings.confluent(**extra),
        # As Java's and aiokafka's producers do: another partitioner would split histories.
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
        "acks": "all",
        "queue.buffering.max.messages": 500_000,
        "message.max.bytes": largest,
        "delivery.report.only.error": True,
        "log_level": 0,
    }


class _Plain:
    """A producer without transactions: every order is there a moment after it was sent."""

    span_s = 0.1

    def __init__(self, settings: Settings, topic: str, largest: int, *, history: bool, paced: bool) -> None:
        self._settings, self._topic = settings, topic
        self._history = history
        self._failed: KafkaError | None = None
        self._sent = 0
        config = _producer_config(settings, largest, linger_ms=1 if paced else 5)
        self._producer = Producer(config | {"on_delivery": self._delivered})

    def send(self, ready: Ready) -> None:
        while True:
            try:
                headers: Any = list(history_headers(ready.value)) if self._history else None
                self._producer.produce(self._topic, ready.value, ready.key, headers=headers)
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:
                raise PublishError(self._stopped(error.args[0])) from error
            else:
                self._sent += 1
                return

    def settle(self, done: Mapping[str, int], *, last: bool) -> None:  # noqa: ARG002 (nothing remembers it)
        self._producer.poll(0)
        while last and self._failed is None and self._producer.flush(1.0):
            pass
        if self._failed is not None:
            raise PublishError(self._stopped(self._failed))

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = error

    def _stopped(self, error: KafkaError) -> str:
        return (
            f"publishing to '{self._topic}' stopped after about {self._sent:,} orders: {error.str()}; "
            "see that the broker runs and publish again (an order sent twice is decided once)"
        )


class _Place:
    """How far a file was published: an offset of a group that belongs to the file alone."""

    def __init__(self, settings: Settings, topic: str, identity: str) -> None:
        self.settings, self.topic = settings, topic
        self.group = f"{settings.group}.publish.{identity}"

    def done(self) -> Counter[str]:
        """What earlier runs have done; nothing for a file that was never published. Raises PublishError."""
        consumer = Consumer(
            self.settings.confluent(
                group_id=self.group, enable_auto_commit=False, isolation_level="read_committed", log_level=0
            )
        )
        try:
            check_group_metadata(consumer, self.group)
            found = self._asked(consumer)
        except Refused as error:
            raise PublishError(str(error)) from error
        finally:
            consumer.close()
        if found.offset == OFFSET_INVALID:
            return Counter()
        try:
            said = Counter({name: int(n) for name, n in json.loads(found.metadata or "{}").items()})
        except (ValueError, TypeError, AttributeError):
            said = Counter()
        said["rows"] = found.offset
        return said

    def _asked(self, consumer: Consumer) -> TopicPartition:
        within_s = self.settings.call_s / 2
        deadline = time.monotonic() + self.settings.call_s
        while True:
            try:
                (found,) = consumer.committed([TopicPartition(self.topic, 0)], timeout=within_s)
                error = found.error  # taken for "nowhere", it would send everything twice
            except KafkaException as failure:
                error = failure.args[0]
            if error is None:
                return found
            # a broker that has just started has yet to find out who keeps this group
            if error.code() not in _NOT_YET or time.monotonic() > deadline:
                raise PublishError(
                    f"can't ask how far '{self.group}' came: {error.str()}; see that the broker runs "
                    "and that this user may read the group's offsets"
                )
            time.sleep(0.2)

    def reached(self, done: Mapping[str, int], *, complete: bool) -> list[TopicPartition]:
        """The offset that says so."""
        words = json.dumps({**done, "complete": int(complete)})
        return [TopicPartition(self.topic, 0, done["rows"], metadata=words)]


class _Transactional:
    """A producer whose transactions hold rows and how far they came, both or neither."""

    def __init__(self, settings: Settings, place: _Place, largest: int, plan: Plan) -> None:
        self.span_s = _SPAN_S if plan.rate is None else _PACED_SPAN_S
        self._place = place
        self._history = plan.history
        self._limit = plan.limit
        self._failed: KafkaError | None = None
        self._fatal: KafkaError | None = None
        self._open = False
        self._within_s = settings.call_s / 2
        self.settled = 0
        """The row up to which all is done and committed."""
        self._watchdog = Watchdog(settings.call_s)
        self._metadata = group_metadata(place.group, Assignment(-1, "", frozenset()))
        config = _producer_config(
            settings,
            largest,
            transactional_id=place.group,
            transaction_timeout_ms=int(settings.transaction_s * 1000),
            delivery_timeout_ms=int(settings.transaction_s * 1000),
            linger_ms=5 if plan.rate is None else 1,
            retry_backoff_ms=2,
            retry_backoff_max_ms=50,
            compression_type="lz4",
            # little: what waits here when a transaction ends keeps it, and all readers, waiting
            queue_buffering_max_kbytes=8 * 1024,
        )
        try:
            told = {"on_delivery": self._delivered, "error_cb": self._ended, "logger": _SILENT}
            self._producer = Producer(config | told)
            with self._watchdog("init_transactions"):
                self._producer.init_transactions(self._within_s)
        except KafkaException as error:
            raise PublishError(
                f"no transaction can be begun on {settings.broker}: {error.args[0].str()}; "
                f"let this user write with the transactional id '{place.group}'"
            ) from error

    def send(self, ready: Ready) -> None:
        try:
            if not self._open:
                self._producer.begin_transaction()
                self._open = True
            while True:
                try:
                    headers: Any = list(history_headers(ready.value)) if self._history else None
                    self._producer.produce(self._place.topic, ready.value, ready.key, headers=headers)
                except BufferError:
                    self._producer.poll(0.01)
                    if self._failed is not None:
                        raise PublishError(self._stopped(self._failed)) from None
                else:
                    return
        except KafkaException as error:
            raise PublishError(self._stopped(error.args[0])) from error

    def settle(self, done: Mapping[str, int], *, last: bool) -> None:
        complete = last and self._limit is None
        try:
            with self._watchdog("a publishing transaction"):
                if not self._open:
                    self._producer.begin_transaction()
                self._producer.send_offsets_to_transaction(
                    self._place.reached(done, complete=complete), self._metadata, self._within_s
                )
                self._producer.commit_transaction(self._within_s)
        except KafkaException as error:
            raise PublishError(self._stopped(error.args[0])) from error
        self._open = False
        self.settled = done["rows"]

    def close(self) -> None:
        """Let go; what is not settled is aborted."""
        if self._open:
            try:
                self._producer.purge(in_queue=True, in_flight=True, blocking=False)
                self._producer.abort_transaction(5.0)
            except KafkaException:
                pass  # the broker does it after transaction_s, and the next run at once

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = error

    def _ended(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error

    def _stopped(self, error: KafkaError) -> str:
        try:
            self._producer.poll(0)  # only now it is told what was fatal
        except KafkaException as failure:
            self._ended(failure.args[0])
        said = (self._fatal or self._failed or error).str()
        if error.code() in _TAKEN_OVER or (self._fatal is not None and self._fatal.code() in _TAKEN_OVER):
            return (
                f"another publisher of the same file to '{self._place.topic}' has taken over after row "
                f"{self.settled:,}; let one of them finish"
            )
        return (
            f"publishing to '{self._place.topic}' stopped after row {self.settled:,}: {said}; "
            "see that the broker runs and give the same command: it goes on there, nothing is sent twice"
        )


_NOT_YET = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""Asking again a moment later gets an answer."""

_TAKEN_OVER = frozenset(
    {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}  # noqa: SLF001
)
