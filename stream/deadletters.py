"""Dead letters: what could not be decided, looked at, and sent again exactly once.

That a dead letter was sent again is a record of its own in `orders-rejected`: in the same partition,
behind the dead letter, with the header `redriven` (its offset) and no header `reason`. It is written
in the transaction that sends the order, so there is never one without the other, and retention, which
deletes from the front, can't take it away before the dead letter it speaks of.
"""

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from features.decode import Rejection
from stream.decoder import Decoder, decoder_of
from stream.desk import partition_of
from stream.errors import Refusal
from stream.kafka import KafkaCluster
from stream.ports import TP, Aborted, Fenced, Headers, NotStable, OutcomeUnknown, Produce, Record
from stream.settings import Settings
from stream.topics import partitions_of

__all__ = [
    "DeadLetter",
    "DeadLetterError",
    "Filters",
    "Found",
    "Place",
    "Redriven",
    "find",
    "list_dead_letters",
    "order_in",
    "readable",
    "redrive",
    "since",
]

REDRIVEN: Final = "redriven"
"""The header of a record that says: the dead letter at this offset of this partition was sent again."""
REDRIVEN_FROM: Final = "redriven_from"
"""The header of an order sent again: the place of its dead letter."""
REDRIVEN_SOURCE: Final = "redriven_source"
"""The header of an order sent again: the place it was first read from."""

_TRANSACTIONAL_ID: Final = "#redrive"
"""No worker can have this name, so no worker is fenced."""
_RECORDS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_STABLE_WITHIN_S: Final = 60.0
_CUTS: Final = frozenset({"value_bytes", "key_bytes", "headers_bytes"})


class DeadLetterError(Refusal):
    """A dead letter is not there, or can't be sent again; the message says why and what to do."""


class Place(NamedTuple):
    """Where a record lies: TOPIC/PARTITION/OFFSET."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that a person wrote. Raises DeadLetterError."""
        found = re.fullmatch(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})", text)
        if found is None:
            raise DeadLetterError(
                f"'{text}' is no place; write TOPIC/PARTITION/OFFSET, such as orders-rejected/3/17"
            )
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What may be said of a dead letter without showing a customer's data."""

    place: Place
    rejected_at: datetime
    reason: str
    detail: str
    source: Place
    size: int
    """Bytes of the value as received."""
    is_cut: bool
    """Whether it was too large to be kept whole; the whole record stands at its source."""
    redriven: bool

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        return asdict(self) | {
            "place": str(self.place),
            "rejected_at": self.rejected_at.isoformat(),
            "source": str(self.source),
        }


class Found(NamedTuple):
    """A dead letter with the record as it was received."""

    letter: DeadLetter
    key: bytes | None
    value: bytes | None
    headers: Headers

    def refused_now(self, settings: Settings) -> str | None:
        """Why it would be rejected if it arrived now; None where it could be decided."""
        return _refused_now(settings, decoder_of(settings), self.key, self.value)

    def as_json(self, settings: Settings) -> dict[str, Any]:
        """The same, for machines; bytes in base64, and as text where they are text."""
        return self.letter.as_json() | {
            "key": _shown(self.key),
            "value": _shown(self.value),
            "headers": [{"name": name, **(_shown(value) or {})} for name, value in self.headers],
            "refused_now": self.refused_now(settings),
        }


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant; None leaves all through."""

    reason: str | None = None
    since: datetime | None = None
    topic: str | None = None
    """The topic they were first read from."""

    def match(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        return (
            (self.reason is None or letter.reason == self.reason)
            and (self.topic is None or letter.source.topic == self.topic)
            and (self.since is None or letter.rejected_at >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of the dead letters that were meant."""

    sent: int
    before: int
    """How many had been sent again before, and were not sent now."""
    left: tuple[tuple[Place, str], ...]
    """Those that can't be sent, each with the reason."""


def since(text: str, now: datetime) -> datetime:
    """The instant that a person wrote: `90m`, `24h`, `7d` ago, or a date and time (UTC unless it says).

    >>> since("2h", datetime(2026, 1, 1, 12, tzinfo=UTC)).isoformat()
    '2026-01-01T10:00:00+00:00'
    """
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if ago is not None:
        # no log is older than 1970, and brokers know no time before it
        return now - min(int(ago[1]) * _UNITS[ago[2]], now - _EPOCH)
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        raise DeadLetterError(
            f"'{text}' is no time; write 90m, 24h or 7d for so long ago, or 2026-11-20T08:00Z"
        ) from None
    return max(said if said.tzinfo is not None else said.replace(tzinfo=UTC), _EPOCH)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def list_dead_letters(settings: Settings, filters: Filters) -> list[DeadLetter]:
    """The dead letters that the filters let through, oldest first.

    Raises TopicError, Unreachable.
    """
    with _Shelf(settings) as shelf:
        return shelf.letters(filters)


def find(settings: Settings, place: Place) -> Found:
    """The dead letter at a place of the rejects topic, or the one that was first read from a place.

    Raises DeadLetterError when there is none; TopicError, Unreachable.
    """
    with _Shelf(settings) as shelf:
        letter = shelf.find(place)
        for found in shelf.received([letter]):
            return found
    raise DeadLetterError(f"{letter.place} was deleted a moment ago, by the topic's retention")


def readable(found: Found, settings: Settings) -> Iterator[str]:
    """A dead letter in lines for a person: all of it, decoded as far as that goes."""
    letter = found.letter
    yield f"place     {letter.place}"
    yield f"source    {letter.source}"
    yield f"rejected  {letter.rejected_at.isoformat()}{', and sent again since' if letter.redriven else ''}"
    yield f"reason    {letter.reason}: {letter.detail}"
    yield f"now       {found.refused_now(settings) or 'it could be decided'}"
    if letter.is_cut:
        yield f"cut       it had {letter.size:,} bytes; what follows is the beginning"
    yield f"key       {_plain(found.key)}"
    for name, value in found.headers:
        yield f"header    {_plain(name.encode())} = {_plain(value)}"
    yield f"value     {len(found.value or b''):,} bytes"
    try:
        whole = json.dumps(json.loads(found.value or b""), indent=2, ensure_ascii=True)
    except (ValueError, RecursionError):
        whole = _plain(found.value)
    yield whole


def _plain(raw: bytes | None) -> str:
    """Text as it is, other bytes escaped; a terminal never reads it as a command."""
    if raw is None:
        return "nothing"
    text = raw.decode(errors="backslashreplace")
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def order_in(settings: Settings, value: bytes) -> bytes:
    """The key of a corrected order. Raises DeadLetterError, saying why, when it would be rejected too."""
    decoder = decoder_of(settings)
    named = decoder.identity(value)
    key = (named.customer_id or named.order_id or "").encode()
    refused = _refused_now(settings, decoder, key, value)
    if refused is not None:
        raise DeadLetterError(f"the corrected order would be rejected too: {refused}")
    return key


def redrive(
    settings: Settings,
    *,
    places: Sequence[Place] = (),
    filters: Filters | None = None,
    corrected: bytes | None = None,
    dry_run: bool = False,
    told: Callable[[DeadLetter, str], None] = lambda _letter, _what: None,
) -> Redriven:
    """Send dead letters to the topics they came from, with their key and headers, each exactly once.

    Those at `places`, or those that `filters` let through. Each goes to the partition that murmur2 gives
    its key, with the headers `redriven_from` and `redriven_source`. What was sent before is not sent again,
    by whomever; two that redrive at once can't both go through. `corrected` is sent instead of the value
    of the one dead letter named. `told` hears of each, once it is settled.

    Raises DeadLetterError, TopicError, Unreachable, Refused.
    """
    with _Shelf(settings) as shelf:
        key = None if corrected is None else order_in(settings, corrected)
        if dry_run:
            return _Redrive(shelf, None, told).run(places, filters, corrected, key)
        # Before anything is read: it ends what an earlier redrive left open, and no other goes on beside us.
        producer = shelf.cluster.producer(_TRANSACTIONAL_ID)
        try:
            return _Redrive(shelf, producer, told).run(places, filters, corrected, key)
        except Aborted as error:
            raise DeadLetterError(f"the cluster refused to take them: {error}; run it again") from error
        except (OutcomeUnknown, Fenced) as error:
            raise DeadLetterError(
                f"no answer tells what became of the last ones ({error}), perhaps because another redrive "
                "began; run it again: what was sent is known and not sent twice"
            ) from error
        finally:
            producer.close()


class _Redrive:
    """One run of sending again; without a producer it only says what it would do."""

    def __init__(self, shelf: "_Shelf", producer: Any, told: Callable[[DeadLetter, str], None]) -> None:
        self._shelf = shelf
        self._producer = producer
        self._told = told
        self._pending: list[tuple[Found, tuple[str, int]]] = []
        """What goes with the next transaction, each with the topic and partition it goes to."""
        self._size = 0
        self._sent = 0
        self._left: list[tuple[Place, str]] = []

    def run(
        self,
        places: Sequence[Place],
        filters: Filters | None,
        corrected: bytes | None,
        key: bytes | None,
    ) -> Redriven:
        shelf, whole = self._shelf, self._producer is not None
        letters = (
            list({(letter := shelf.find(place, whole=whole)).place: letter for place in places}.values())
            if filters is None
            else shelf.letters(filters, whole=whole)
        )
        before = [letter for letter in letters if letter.redriven]
        for letter in before:
            self._told(letter, "was sent again before")
        wanted = {letter.place: letter for letter in letters if not letter.redriven}
        for kept in shelf.received(
            [letter for letter in wanted.values() if corrected is not None or not letter.is_cut]
        ):
            letter = wanted.pop(kept.letter.place)
            self._offer(letter, kept if corrected is None else kept._replace(value=corrected, key=key))
        for letter in wanted.values():  # those that were cut, and any that retention took a moment ago
            self._offer(letter, None if corrected is None else Found(letter, key, corrected, ()))
        self._commit()
        return Redriven(self._sent, len(before), tuple(self._left))

    def _offer(self, letter: DeadLetter, kept: Found | None) -> None:
        """Send it with the next transaction, from its source where it was not kept; or say why not."""
        try:
            found = kept or self._shelf.at_source(letter)
            goal = self._shelf.goal(found)
        except DeadLetterError as error:
            self._left.append((letter.place, str(error)))
            self._told(letter, f"can't be sent: {error}")
        else:
            self._add(found, goal)

    def _add(self, found: Found, goal: tuple[str, int]) -> None:
        size = len(found.value or b"") + len(found.key or b"")
        if self._pending and (len(self._pending) >= _RECORDS_AT_ONCE or self._size + size > _BYTES_AT_ONCE):
            self._commit()
        self._pending.append((found, goal))
        self._size += size

    def _commit(self) -> None:
        pending, self._pending, self._size = self._pending, [], 0
        if not pending:
            return
        if self._producer is not None:
            self._producer.begin()
            try:
                for found, (topic, partition) in pending:
                    self._producer.produce(Produce(topic, partition, found.key, found.value, _headers(found)))
                    self._producer.produce(_mark(found.letter.place))
                self._producer.flush()
            except Aborted:
                self._producer.abort()
                raise
            self._producer.commit()
        self._sent += len(pending)
        done = "sent" if self._producer is not None else "would be sent"
        for found, (topic, partition) in pending:
            self._told(found.letter, f"{done} to {topic}/{partition}")


def _headers(found: Found) -> Headers:
    """The sender's own headers, and from where it was sent again."""
    own = tuple(each for each in found.headers if each[0] not in {REDRIVEN_FROM, REDRIVEN_SOURCE})
    return (
        *own,
        (REDRIVEN_FROM, str(found.letter.place).encode()),
        (REDRIVEN_SOURCE, str(found.letter.source).encode()),
    )


def _mark(place: Place) -> Produce:
    return Produce(place.topic, place.partition, None, None, ((REDRIVEN, str(place.offset).encode()),))


class _Shelf:
    """The rejects topic, to be read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topics.rejected
        # Asked first: the cluster below would tell a missing broker in librdkafka's own words.
        self._counts = partitions_of(settings, self._topic)
        self.cluster = KafkaCluster(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()

    def letters(self, filters: Filters, *, whole: bool = False) -> list[DeadLetter]:
        """The dead letters that are meant, by time; with `whole` nothing that was redriven is overlooked.

        Else what an open transaction holds back is not waited for.
        """
        tps = [(self._topic, partition) for partition in range(self._counts[self._topic])]
        begin: dict[TP, int | None] = {}
        if filters.since is not None:
            begin |= self.cluster.since(tps, int(filters.since.timestamp() * 1000))
        found = []
        for tp in tps:
            low, end = self.cluster.bounds(tp, stable=not whole)
            first = begin.get(tp, low)
            if first is not None:
                found += [letter for letter in self._scan(tp[1], first, end) if filters.match(letter)]
        return sorted(found, key=lambda letter: (letter.rejected_at, letter.place))

    def find(self, place: Place, *, whole: bool = False) -> DeadLetter:
        """The dead letter at this place, or that came from there."""
        own = place.topic == self._topic
        if place.partition < self._counts[self._topic]:
            begin, end = self.cluster.bounds((self._topic, place.partition), stable=not whole)
            for letter in self._scan(place.partition, max(begin, place.offset) if own else begin, end):
                if place in {letter.place, letter.source}:
                    return letter
        raise DeadLetterError(
            f"there is no dead letter at {place}; 'fraudstream dead-letters list' shows those there are"
            if own
            else f"no dead letter came from {place}; name its place in '{self._topic}', or see "
            "'fraudstream dead-letters list'"
        )

    def received(self, letters: Sequence[DeadLetter]) -> Iterator[Found]:
        """The bytes of these dead letters as they were kept, by partition and offset."""
        by_partition: dict[int, dict[int, DeadLetter]] = {}
        for letter in letters:
            by_partition.setdefault(letter.place.partition, {})[letter.place.offset] = letter
        for partition, wanted in sorted(by_partition.items()):
            for chunk in self.cluster.read((self._topic, partition), min(wanted), max(wanted) + 1):
                for record in chunk:
                    if record.offset in wanted:
                        headers = record.headers[: _own_words(record.headers)]
                        yield Found(wanted[record.offset], record.key, record.value, headers)

    def at_source(self, letter: DeadLetter) -> Found:
        """The record as it was received, from where it was first read. Raises DeadLetterError."""
        source = letter.source
        tp = (source.topic, source.partition)
        if source.partition < self._partitions(letter):
            low, end = self.cluster.bounds(tp, stable=True)
            if low <= source.offset < end:
                for chunk in self.cluster.read(tp, source.offset, source.offset + 1):
                    return Found(letter, chunk[0].key, chunk[0].value, chunk[0].headers)
        raise DeadLetterError(
            f"it is not kept whole, or no longer, and {source} is no longer there; let the shop send it again"
        )

    def goal(self, found: Found) -> tuple[str, int]:
        """The topic and partition that a dead letter belongs to. Raises DeadLetterError."""
        count = self._partitions(found.letter)
        # a record without a key belongs nowhere else than where it was
        return found.letter.source.topic, (
            found.letter.source.partition % count if found.key is None else partition_of(found.key, count)
        )

    def _partitions(self, letter: DeadLetter) -> int:
        """How many partitions its source topic has. Raises DeadLetterError when that is no input of ours."""
        topic = letter.source.topic
        names = self._settings.topics
        if topic not in {*self._settings.inputs, names.outcomes, names.order_events}:
            raise DeadLetterError(
                f"{letter.place} came from topic '{topic}', which is no input of this scorer; "
                "set FRAUDSTREAM_TOPICS__ORDERS as it was then"
            )
        if topic not in self._counts:
            self._counts |= partitions_of(self._settings, topic)
        return self._counts[topic]

    def _scan(self, partition: int, begin: int, end: int) -> Iterator[DeadLetter]:
        letters: dict[int, DeadLetter] = {}
        deadline = time.monotonic() + _STABLE_WITHIN_S
        while begin < end:
            try:
                for chunk in self.cluster.read((self._topic, partition), begin, end):
                    for record in chunk:
                        self._note(record, letters)
                    begin = chunk[-1].offset + 1
                break
            except NotStable:
                # a worker commits every few milliseconds; what hangs for longer is said
                if time.monotonic() > deadline:
                    raise NotStable(
                        f"an open transaction has held back {self._topic}/{partition} for "
                        f"{_STABLE_WITHIN_S:.0f} s, so it can't be said what was sent again; "
                        "ask 'fraudstream doctor', then try again"
                    ) from None
                time.sleep(0.1)
        yield from letters.values()

    def _note(self, record: Record, letters: dict[int, DeadLetter]) -> None:
        headers = dict(record.headers)
        if "reason" in headers:
            letter = _letter(record)
            if letter is not None:
                letters[record.offset] = letter
        elif (offset := _number(headers.get(REDRIVEN))) in letters:
            letters[offset] = replace(letters[offset], redriven=True)


def _letter(record: Record) -> DeadLetter | None:
    """The dead letter in a record; None for one that no desk wrote, since anyone may write to a topic."""
    at = _own_words(record.headers)
    ours = dict(record.headers[at:])
    cut = bool(_CUTS & ours.keys())
    size = _number(ours["value_bytes"]) if "value_bytes" in ours else len(record.value or b"")
    partition, offset = _number(ours.get("source_partition")), _number(ours.get("source_offset"))
    if size is None or partition is None or offset is None:
        return None
    return DeadLetter(
        place=Place(record.topic, record.partition, record.offset),
        rejected_at=datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC),
        reason=_text(ours["reason"]),
        detail=_text(ours.get("detail")),
        source=Place(
            _text(ours.get("source_topic")),
            partition,
            offset,
        ),
        size=size,
        is_cut=cut,
        redriven=False,
    )


def _number(raw: bytes | None) -> int | None:
    return int(raw) if raw is not None and re.fullmatch(rb"[0-9]{1,19}", raw) else None


def _own_words(headers: Headers) -> int:
    """Where the sender's headers end and the desk's begin, with the last `reason`."""
    return max(number for number, (name, _) in enumerate(headers) if name == "reason")


def _ahead(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.ahead_by_at_most_s)


def _refused_now(settings: Settings, decoder: Decoder, key: bytes | None, value: bytes | None) -> str | None:
    """Why the order would be rejected if it arrived now; None where it could be decided."""
    now_ms = int(time.time() * 1000)
    read = decoder.order(value, key=key, arrived_at=now_ms, ahead_by_at_most=_ahead(settings))
    return f"{read.code}: {read.detail}" if isinstance(read, Rejection) else None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="backslashreplace")


def _shown(raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        text: str | None = raw.decode()
    except UnicodeDecodeError:
        text = None
    return {"base64": b64encode(raw).decode(), "text": text}
