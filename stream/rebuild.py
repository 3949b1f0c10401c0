"""New state beside the running workers: rows made anew from the recorded orders, into a changelog of its own.

Needed where rows as they are can't become what they should be: more orders held one by one, something more
remembered of each order. The old changelog says up to which orders it goes; the desk remembers those orders
anew, as a past that is not decided; and what was decided about each order is copied, so that a resend hears
the same. Every transaction ends with a position, as a worker's do. While the new changelog lags behind, its
position is marked as being rebuilt, and no worker opens it.

Why it is safe to switch while this runs is in docs/decisions/0015-state-is-rebuilt-beside-the-workers.md.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, cast

from features.define import Feature
from models.policy import Policy
from models.scorer import Scored, Scorer
from stream.decoder import decoder_of
from stream.desk import MODE, ScoringDesk
from stream.errors import Refusal
from stream.kafka import KafkaCluster, RealClock, once_it_answers
from stream.keeping import ORDER
from stream.ports import (
    TP,
    LocalPosition,
    NotStable,
    Produce,
    Producer,
    Record,
    TransactionError,
)
from stream.recorded import Recorded, last_with
from stream.settings import Settings
from stream.store import RocksStore
from stream.topics import delete, partitions_of
from stream.writer import (
    BEING_REBUILT,
    POSITION_KEY,
    Position,
    Rebuilding,
    decode_position,
    encode_position,
    rebuilds,
)

__all__ = ["Rebuild", "RebuildError", "Rebuilt", "TakenOver", "drop", "forget_local"]

_KEYS: Final = 10_000
"""So many keys go into a transaction, give or take what one chunk of orders changes."""
_TOLD_WITHIN_S: Final = 10.0
"""How long after its producer was ended a rebuild waits to be told by whom."""
_HISTORY: Final = ((MODE, b"history"),)

Told = Callable[["Progress"], None]


class RebuildError(Refusal):
    """The state can't be rebuilt; the message says why and what to do."""


class TakenOver(Refusal):
    """A worker has opened the new changelog: it is the worker's from here on."""


class Progress(NamedTuple):
    """How far a partition has come."""

    partition: int
    orders: int
    """Remembered anew by this run."""
    of: int
    copied: int
    """Offsets of the old changelog gone through by this run, and of how many."""
    of_copied: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a round has done."""

    orders: int
    keys: int
    """Orders whose decisions were copied."""


@dataclass(slots=True)
class _Partition:
    """Where the new changelog stands, in one partition."""

    number: int
    log: str
    inputs: dict[str, int]
    watermark: int | None
    copied: int
    """The next offset of the old changelog to be copied."""
    is_ready: bool
    after: int
    """Behind the last record of ours in the new changelog."""


class _NobodyScores:
    """What a desk needs where nothing is decided."""

    name = version = digest = ""
    features: tuple[Feature, ...] = ()
    ref = None

    def score(self, vectors: Sequence[object]) -> list[Scored]:
        """Nothing came to be scored."""
        if vectors:
            raise AssertionError("a past is remembered, not decided")
        return []


class Rebuild:
    """Fills the settings' changelog from the orders, beside workers that still use another one."""

    def __init__(self, settings: Settings, source: str, recorded: Recorded) -> None:
        """`source` is the changelog that the workers use now; `settings` are those they are to have.

        Raises RebuildError, TopicError, Unreachable.
        """
        self._settings = settings
        self._source = source
        self._target = settings.topics.changelog
        if source == self._target:
            raise RebuildError(
                f"'{source}' is the changelog that these settings name: name the new one by "
                "FRAUDSTREAM_TOPICS__CHANGELOG, and the one that workers use now by --from"
            )
        if settings.entities:
            raise RebuildError(
                f"entities = {','.join(settings.entities)}: this version can't rebuild rows of stages; "
                "begin with another group and changelog, and publish the past as history"
            )
        partitions = partitions_of(settings, source, self._target, *settings.inputs)
        if partitions[source] != (new := partitions[self._target]):
            raise RebuildError(
                f"'{source}' has {partitions[source]} partitions and '{self._target}' {new}: make the new "
                "one with as many"
            )
        self._recorded = recorded
        self._clock = RealClock()
        self._cluster = KafkaCluster(settings, quiet=True)
        self._logs = {topic: once_it_answers(self._cluster.log_id, topic) for topic in settings.inputs}
        self._source_log = once_it_answers(self._cluster.log_id, source)
        self._store = RocksStore(_local(settings))
        self._desk = ScoringDesk(
            scorer=cast("Scorer", _NobodyScores()),
            policy=Policy(review_at=1.0, decline_at=1.0),
            topics=settings.topics,
            partitions=settings.partitions,
            row_limit=settings.row_limit,
            ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
            reject_share=0.0,
            headers=(),
            decoder=decoder_of(settings),
            horizons=settings.horizons,
        )
        # what an earlier run left open ends here, and so does that run if it still goes on
        self._producer: Producer = once_it_answers(self._cluster.producer, rebuilds(self._target))
        self._partitions = [self._opened(number) for number in range(partitions[source])]

    def close(self) -> None:
        """Let go of the store and the connections."""
        self._producer.close()
        self._store.close()
        self._cluster.close()

    def round(self, told: Told = lambda _progress: None) -> Rebuilt:
        """Bring the new changelog to where the old one is now.

        Raises TakenOver once a worker has opened it; RebuildError, Unreachable. After any error begin anew:
        what was committed is found again.
        """
        orders = keys = 0
        try:
            for partition in self._partitions:
                done = self._catch_up(partition, told)
                orders, keys = orders + done.orders, keys + done.keys
        except TransactionError as error:
            # whoever ended our producer writes a position of its own next, which says who it is
            deadline = time.monotonic() + _TOLD_WITHIN_S
            while time.monotonic() < deadline:
                for partition in self._partitions:
                    self._check_ours(partition)
                time.sleep(0.2)
            raise RebuildError(
                f"a transaction did not go through: {error}; run this again, it goes on where it was"
            ) from error
        return Rebuilt(orders, keys)

    @property
    def behind(self) -> dict[int, int]:
        """By partition: how many offsets of the inputs the group has committed beyond the new changelog."""
        committed = once_it_answers(
            self._cluster.committed,
            [(topic, each.number) for each in self._partitions for topic in self._settings.inputs],
            stable=True,
        )
        behind: dict[int, int] = {}
        for (topic, number), words in committed.items():
            if words is not None:
                at = self._partitions[number].inputs.get(topic, 0)
                behind[number] = behind.get(number, 0) + words.offset - at
        return behind

    @property
    def workers(self) -> int:
        """How many workers the group has now."""
        return len(once_it_answers(self._cluster.members))

    # Opening ------------------------------------------------------------------------------------

    def _opened(self, number: int) -> _Partition:
        """Bring the local rows to the new changelog's end; it may be empty, or an earlier run's."""
        tp = (self._target, number)
        identity = once_it_answers(self._cluster.log_id, self._target)
        low, high = once_it_answers(self._cluster.bounds, tp, stable=True)
        found = _last_position(self._cluster, tp, low, high)
        partition = _Partition(number, identity, {}, None, 0, is_ready=False, after=high)
        if found is None and any(True for _ in _chunks(self._cluster, tp, low, high)):
            raise RebuildError(f"'{self._target}' is not empty and no rebuild made it; name another topic")
        if found is not None:
            position = decode_position(found, self._settings.group, self._logs)
            if position.rebuilding is None or position.rebuilding.source != self._source_log:
                raise RebuildError(
                    f"'{self._target}' was not rebuilt from '{self._source}', or workers use it already; "
                    "'fraudstream lag' shows whether they do, else name another topic"
                )
            partition.inputs, partition.watermark = dict(position.inputs), position.watermark
            partition.is_ready = not position.is_partial
            partition.copied = position.rebuilding.copied
        local = self._store.position(number)
        if local is None or local.log != identity or local.changelog > high:
            self._store.clear(number)
            local = LocalPosition({}, low, identity, self._clock.wall())
        for chunk in _chunks(self._cluster, tp, local.changelog, high):
            rows = {
                each.key: each.value for each in chunk if each.key is not None and each.key != POSITION_KEY
            }
            local = LocalPosition({}, chunk[-1].offset + 1, identity, self._clock.wall())
            self._store.write(number, rows, local)
        if local.changelog < high:
            local = LocalPosition({}, high, identity, self._clock.wall())
            self._store.write(number, {}, local)
        return partition

    # Catching up --------------------------------------------------------------------------------

    def _catch_up(self, partition: _Partition, told: Told) -> Rebuilt:
        number = partition.number
        self._check_ours(partition)
        tp = (self._source, number)
        low, high = once_it_answers(self._cluster.bounds, tp, stable=True)
        if partition.is_ready and partition.copied >= high:
            return Rebuilt(0, 0)
        found = _last_position(self._cluster, tp, low, high)
        if found is None:
            if any(True for _ in _chunks(self._cluster, tp, low, high)):
                raise RebuildError(
                    f"{self._source}/{number} has rows and no position; name the changelog that workers use"
                )
            return Rebuilt(0, 0)
        goal = decode_position(found, self._settings.group, self._logs)
        orders = self._remember(partition, goal, told)
        keys = self._copy(partition, max(low, partition.copied), high, told)
        return Rebuilt(orders, keys)

    def _check_ours(self, partition: _Partition) -> None:
        """Raise TakenOver where a worker wrote behind us, as it does when it opens the partition.

        Raises RebuildError where another rebuild did.
        """
        tp = (self._target, partition.number)
        _, high = once_it_answers(self._cluster.bounds, tp, stable=True)
        if any(True for _ in _chunks(self._cluster, tp, partition.after, high)):
            found = _last_position(self._cluster, tp, partition.after, high)
            if found is not None and decode_position(found).rebuilding is not None:
                raise RebuildError(
                    f"another rebuild of '{self._target}' has begun and goes on in this one's place; one is "
                    "enough"
                )
            raise TakenOver(f"a worker has opened '{self._target}': it is the workers' from here on")

    def _remember(self, partition: _Partition, goal: Position, told: Told) -> int:
        """Remember anew the orders up to where the old changelog stands."""
        number, orders = partition.number, 0
        for topic, end in goal.inputs.items():
            tp = (topic, number)
            first, _ = self._recorded.bounds(tp)
            begin = partition.inputs.get(topic, 0)
            if begin < first:
                raise RebuildError(
                    f"{topic}/{number} begins at offset {first:,}: what came before is no longer there, and "
                    "the rows would lack it; give the archive that has it: --archive PLACE"
                )
            for chunk in self._recorded.read(tp, begin, end):
                past = [record._replace(headers=_HISTORY) for record in chunk]
                watermark = partition.watermark
                effects = self._desk.decide(
                    past, self._store.recall, {} if watermark is None else {number: watermark}
                )
                partition.watermark = effects.watermarks.get(number, watermark)
                partition.inputs[topic] = chunk[-1].offset + 1
                self._commit(partition, effects.rows.get(number, {}), copied=partition.copied)
                orders += len(chunk)
                told(Progress(number, chunk[-1].offset + 1 - begin, end - begin, 0, 0))
            partition.inputs[topic] = end
        partition.watermark = goal.watermark if goal.watermark is not None else partition.watermark
        return orders

    def _copy(self, partition: _Partition, begin: int, end: int, told: Told) -> int:
        """Copy what was decided about each order; after they are remembered, or none would be new."""
        keys: dict[bytes, bytes | None] = {}
        copied = 0
        for chunk in _chunks(self._cluster, (self._source, partition.number), begin, end):
            for record in chunk:
                if record.key is not None and record.key.startswith(ORDER):
                    keys[record.key] = record.value
            told(Progress(partition.number, 0, 0, chunk[-1].offset + 1 - begin, end - begin))
            if len(keys) >= _KEYS:
                copied += len(keys)
                self._commit(partition, keys, copied=chunk[-1].offset + 1)
                keys = {}
        self._commit(partition, keys, copied=end, is_ready=True)
        return copied + len(keys)

    def _commit(
        self,
        partition: _Partition,
        rows: dict[bytes, bytes | None],
        *,
        copied: int,
        is_ready: bool = False,
    ) -> None:
        """One transaction: rows and how far they go; then the local rows."""
        number, group = partition.number, self._settings.group
        value = encode_position(
            partition.inputs,
            group if is_ready else group + BEING_REBUILT,
            self._logs,
            partition.watermark,
            Rebuilding(self._source_log, copied),
        )
        self._producer.begin()
        self._producer.produce_rows(self._target, number, rows)
        self._producer.produce(Produce(self._target, number, POSITION_KEY, value))
        delivered = self._producer.flush()
        self._producer.commit()
        partition.copied, partition.is_ready = copied, is_ready
        partition.after = delivered[self._target, number] + 1
        position = LocalPosition({}, partition.after, partition.log, self._clock.wall(), partition.watermark)
        self._store.write(number, rows, position)


def _position(cluster: KafkaCluster, tp: TP, group: str, logs: Mapping[str, str]) -> Position | None:
    """Where a partition of a changelog stands."""
    found = _last_position(cluster, tp, *once_it_answers(cluster.bounds, tp, stable=True))
    return None if found is None else decode_position(found, group, logs)


def _last_position(cluster: KafkaCluster, tp: TP, low: int, high: int) -> bytes | None:
    """The last position record from one offset to another."""
    found = last_with(POSITION_KEY, partial(_chunks, cluster, tp), low, high)
    return None if found is None else found.value


def _chunks(cluster: KafkaCluster, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
    while True:
        try:
            for chunk in cluster.read(tp, start, end):
                yield chunk
                start = chunk[-1].offset + 1
        except NotStable:
            time.sleep(0.2)  # `end` was stable: a broker has forgotten it for a moment
        else:
            return


def _local(settings: Settings) -> Path:
    return settings.home / "rebuild" / settings.topics.changelog


def forget_local(settings: Settings) -> None:
    """Delete a rebuild's own copy of the rows: nobody needs it once workers have the changelog."""
    folder = _local(settings)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others are being rebuilt, or there is none
        folder.parent.rmdir()


def drop(settings: Settings, source: str) -> None:
    """Delete the changelog that workers used before.

    Raises RebuildError unless every partition of the settings' changelog has come at least as far, and one of
    them further, by a worker's own writing; TopicError, Unreachable.
    """
    if source == settings.topics.changelog:
        raise RebuildError(f"'{source}' is the changelog that these settings name; nothing is deleted")
    partitions = partitions_of(settings, source, settings.topics.changelog)[source]
    further = 0
    with closing(KafkaCluster(settings, quiet=True)) as cluster:
        logs = {topic: once_it_answers(cluster.log_id, topic) for topic in settings.inputs}
        for number in range(partitions):
            old, new = (
                _position(cluster, (changelog, number), settings.group, logs)
                for changelog in (source, settings.topics.changelog)
            )
            if old is None:
                continue
            if new is None or any(new.inputs.get(topic, -1) < at for topic, at in old.inputs.items()):
                raise RebuildError(
                    f"'{source}' has come further than '{settings.topics.changelog}' in partition {number}: "
                    "workers still use it, and nothing is deleted"
                )
            further += new.rebuilding is None and new.inputs != old.inputs
    if not further:
        raise RebuildError(
            f"nothing shows yet that workers use '{settings.topics.changelog}': confirm once orders were "
            "decided with it"
        )
    delete(settings, source)
    forget_local(settings)
