"""Records of a topic sent again to another one: key, partition and headers as they were, each exactly once.

Each record says where it came from, so the topic itself says how far a replay has come: one that was
killed goes on behind the last record that arrived, and a transaction holds a chunk whole or not at all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from stream.deadletters import DeadLetterError, Place
from stream.kafka import KafkaCluster, once_it_answers
from stream.merge import ARRIVED_AT, arrived_at
from stream.ports import TP, Aborted, Fenced, Headers, NotStable, OutcomeUnknown, Produce, Record
from stream.recorded import Recorded
from stream.replay import Bounds, Opened, Records, ReplayError, Span, Tally, lost_of
from stream.replay_files import Reading
from stream.settings import Settings
from stream.topics import TopicError, partitions_of

__all__ = ["REPLAYED_FROM", "SentAgain", "check_target", "send_again"]

REPLAYED_FROM: Final = "replayed_from"
"""The header of a record sent again: the place it was read from, TOPIC/PARTITION/OFFSET."""

_RECORDS_AT_ONCE: Final = 2_000
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_LOOKED_BACK: Final = 500
"""Offsets at the end of a partition that are looked at first for the last record of a replay."""
_STABLE_WITHIN_S: Final = 60.0
_TOLD_EVERY_S: Final = 0.5


@dataclass(slots=True)
class SentAgain:
    """What was sent, and how far earlier runs had come."""

    tally: Tally = field(default_factory=Tally)
    """Of what was read; `out` was sent, and committed."""
    went_on_after: dict[int, int] = field(default_factory=dict)
    """By partition: the offset up to which an earlier run had come."""
    passed_over: int = 0
    """Offsets that earlier runs had done."""


def check_target(settings: Settings, source: str, target: str, *, into_live: bool) -> None:
    """Refuse a topic that a replay must not write to. Raises ReplayError."""
    names = settings.topics
    if target == source:
        raise ReplayError(f"'{target}' can't be replayed into itself; name another topic")
    own = {names.decisions, names.decisions_shadow, names.rejected, names.changelog, names.control}
    if target in own:
        raise ReplayError(f"only the scorer itself writes to '{target}'; name another topic")
    if target in {*settings.inputs, names.outcomes, names.order_events} and not into_live:
        raise ReplayError(
            f"workers read '{target}' and would decide or count what is sent again; name another topic, "
            "or say --into-live-topic"
        )


def send_again(
    settings: Settings,
    opened: Opened,
    target: str,
    *,
    topic: str | None = None,
    bounds: Bounds | None = None,
    into_live: bool = False,
    create: bool = False,
    from_start: bool = False,
    told: Callable[[Reading], None] = lambda _: None,
) -> SentAgain:
    """Send the records of a topic, the orders unless another is named, again to the target.

    Each goes to the partition it had, with its key, value and headers, and with `replayed_from` and
    `arrived_at`. What an earlier run has sent is passed over, by its last record of each partition, unless
    `from_start`. Raises ReplayError, TopicError, Unreachable, Refused.
    """
    source = settings.topics.orders if topic is None else topic
    check_target(settings, source, target, into_live=into_live)
    job = Records(settings, (source,), bounds or Bounds())
    with closing(opened()) as recorded:
        spans = job.inputs(recorded)
        _check_partitions(settings, source, target, recorded.partitions(source), create=create)
        with closing(KafkaCluster(settings, quiet=True)) as cluster:
            # before the target is read: it ends what a killed run left open, and no other goes on beside us
            producer = cluster.producer(f"#replay.{target}")
            try:
                sending = _Sending(cluster, producer, job, target, told)
                return sending.run(recorded, spans, from_start=from_start)
            except Aborted as error:
                raise ReplayError(
                    f"the cluster refused to take the records ({error}); run it again: it goes on"
                ) from error
            except (OutcomeUnknown, Fenced) as error:
                raise ReplayError(
                    f"no answer tells what became of the last records ({error}), perhaps because another "
                    f"replay into '{target}' began; run it again: it goes on behind what arrived"
                ) from error
            finally:
                producer.close()


def _check_partitions(settings: Settings, source: str, target: str, count: int, *, create: bool) -> None:
    partitions_of(settings)  # whether a broker answers
    try:
        there = partitions_of(settings, target)[target]
    except TopicError:
        if not create:
            raise ReplayError(
                f"topic '{target}' does not exist on {settings.broker}; say --create to make it with "
                f"{count} partitions, or name another"
            ) from None
        _create(settings, target, count)
        return
    if there != count:
        raise ReplayError(
            f"topic '{target}' has {there} partitions and '{source}' has {count}; each record keeps its "
            "partition, so name a topic with as many"
        )


def _create(settings: Settings, target: str, count: int) -> None:
    admin = AdminClient({**settings.confluent(), "log_level": 0})
    # kept for ever, and by the broker's clock, as the inputs are
    config = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}
    made = admin.create_topics([NewTopic(target, count, settings.replication, config=config)])
    try:
        made[target].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ReplayError(f"can't create topic '{target}': {error.args[0].str()}") from error
    deadline = time.monotonic() + _STABLE_WITHIN_S
    while True:  # the controller answers before the brokers know
        try:
            partitions_of(settings, target)
        except TopicError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


class _Sending:
    """One run: each partition behind what has arrived of it."""

    def __init__(
        self, cluster: KafkaCluster, producer: Any, job: Records, target: str, told: Callable[[Reading], None]
    ) -> None:
        self._cluster, self._producer, self._job, self._target = cluster, producer, job, target
        self._told = told
        self._began = self._told_at = time.monotonic()
        self._of = 0
        self._done = SentAgain()
        self._chunk: list[Record] = []
        self._size = 0

    def run(self, recorded: Recorded, spans: Span, *, from_start: bool) -> SentAgain:
        done, (topic,) = self._done, self._job.topics
        left: dict[TP, tuple[int, int]] = {}
        for (_, partition), (begin, end) in sorted(spans.items()):
            last = None if from_start else self._last(topic, partition)
            if last is not None and last >= begin:
                done.went_on_after[partition] = last
                done.passed_over += min(last + 1, end) - begin
            left[topic, partition] = (begin if last is None else min(max(begin, last + 1), end), end)
        self._of = sum(end - begin for begin, end in left.values())
        for part in self._job.parts(left):
            tally = Tally()
            for record in self._job.records(recorded, left, part, tally, self._heard):
                self._chunk.append(record)
                self._size += len(record.value or b"")
                if len(self._chunk) >= _RECORDS_AT_ONCE or self._size > _BYTES_AT_ONCE:
                    self._commit()
            self._commit()
            done.tally.add(tally)
        done.tally.lost = lost_of(recorded, left)
        self._told(Reading(done.tally.read, self._of, time.monotonic() - self._began))
        return done

    def _heard(self, read: int) -> None:
        now = time.monotonic()
        if now > self._told_at + _TOLD_EVERY_S:
            self._told_at = now
            self._told(Reading(self._done.tally.read + read, self._of, now - self._began))

    def _commit(self) -> None:
        chunk, self._chunk, self._size = self._chunk, [], 0
        if not chunk:
            return
        self._producer.begin()
        try:
            for each in chunk:
                self._producer.produce(
                    Produce(self._target, each.partition, each.key, each.value, _headers(each))
                )
            self._producer.flush()
        except Aborted:
            self._producer.abort()
            raise
        self._producer.commit()

    def _last(self, topic: str, partition: int) -> int | None:
        """The offset of the last record of the partition that arrived at the target; None before any did."""
        tp = (self._target, partition)
        # what other producers hold open is waited for: ours may lie behind it
        low, end = once_it_answers(self._cluster.bounds, tp)
        looked_back, until = _LOOKED_BACK, end
        while until > low:
            begin = max(low, until - looked_back)
            last = None
            for record in self._read(tp, begin, until):
                place = _replayed_from(record)
                if place is not None and (place.topic, place.partition) == (topic, partition):
                    last = place.offset
            if last is not None:
                return last
            until, looked_back = begin, looked_back * 4
        return None

    def _read(self, tp: TP, begin: int, end: int) -> Iterator[Record]:
        deadline = time.monotonic() + _STABLE_WITHIN_S
        while begin < end:
            try:
                for chunk in self._cluster.read(tp, begin, end):
                    begin = chunk[-1].offset + 1
                    yield from chunk
            except NotStable:
                if time.monotonic() > deadline:
                    raise NotStable(
                        f"an open transaction has held back {tp[0]}/{tp[1]} for {_STABLE_WITHIN_S:.0f} s, so "
                        "it can't be said how far a replay came; ask 'fraudstream doctor', then try again"
                    ) from None
                time.sleep(0.1)
            else:
                return


def _headers(record: Record) -> Headers:
    """The record's own headers, where it comes from, and when it arrived there."""
    place = Place(record.topic, record.partition, record.offset)
    own = tuple(each for each in record.headers if each[0] not in {REPLAYED_FROM, ARRIVED_AT})
    at = arrived_at(record)
    when = () if at < 0 else ((ARRIVED_AT, str(at).encode()),)
    return (*own, *when, (REPLAYED_FROM, str(place).encode()))


def _replayed_from(record: Record) -> Place | None:
    for name, value in reversed(record.headers):
        if name == REPLAYED_FROM:
            try:
                return Place.parse(value.decode())
            except (DeadLetterError, UnicodeDecodeError):
                return None  # anybody may write to a topic
    return None
