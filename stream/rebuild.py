"""New state beside the running workers: rows made anew from the recorded orders, into a changelog of its own.

Needed where rows as they are can't become what they should be: more orders held one by one, something more
remembered of each order. The old changelog says up to which orders it goes; the desk remembers those orders
anew, as a past that is not decided; and what was decided about each order is copied, so that a resend hears
the same. Every transaction ends with a position, as a worker's do. While the new changelog lags behind, its
position is marked as being rebuilt, and no worker opens it.

Where the new settings turn entities on, the orders go through their stages in memory (`stream.anew`), all
partitions by arrival, because a device's orders come from many. So a transaction is about several partitions,
and they are served together or not at all.

Where orders go through stages already, rows made from what came in at home hold the orders that are still on
their way too. So they are served only from a moment at which nothing was.

Why it is safe to switch while this runs is in docs/decisions/0015-state-is-rebuilt-beside-the-workers.md, and
in 0022-stages-are-rebuilt-where-nothing-is-on-its-way.md.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, cast
from uuid import UUID

import msgspec

from features.define import Feature
from features.revisions import Revision, Revisions
from models.policy import Policy
from models.scorer import Scored, Scorer
from stream.anew import Anew
from stream.answers import keep_few_whole
from stream.deciding import Deciding
from stream.decoder import decoder_of
from stream.desk import ScoringDesk
from stream.errors import Refusal
from stream.kafka import KafkaCluster, RealClock, once_it_answers
from stream.keeping import ORDER, PASSED, order_key
from stream.last import last_with
from stream.passed import Passed
from stream.ports import (
    TP,
    LocalPosition,
    NotStable,
    Produce,
    Producer,
    Record,
    TransactionError,
)
from stream.recorded import Recorded, has_topic
from stream.replay import in_recorded_order
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
    left_for,
    rebuilds,
)

__all__ = ["Rebuild", "RebuildError", "Rebuilt", "TakenOver", "drop", "forget_local"]

_KEYS: Final = 10_000
"""So many copied keys go into a transaction, give or take those of one chunk of the old changelog."""
_RECORDS: Final = 2_000
"""So many records are remembered in a transaction."""
_TOLD_WITHIN_S: Final = 10.0
"""How long after its producer was ended a rebuild waits to be told by whom."""

Told = Callable[["Progress"], None]
_Rows = dict[int, dict[bytes, bytes | None]]


class RebuildError(Refusal):
    """The state can't be rebuilt; the message says why and what to do."""


class TakenOver(Refusal):
    """A worker has opened the new changelog: it is the worker's from here on."""


class Progress(NamedTuple):
    """How far a partition has come."""

    partition: int | None
    """None where it is said of all of them."""
    orders: int
    """Remembered anew by this run, with outcomes and whatever else is read."""
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
    before: Mapping[str, int] = field(default_factory=dict)
    """Where the old changelog stood when this was opened."""
    stages: dict[str, int] = field(default_factory=dict)
    """How far the stages were taken that made the old rows."""


class _Home(msgspec.Struct):
    partition: int


class _Kept(msgspec.Struct):
    """What a decision says of where it belongs."""

    decision_id: UUID
    source: _Home
    repeat_of: UUID | None = None


_kept = msgspec.json.Decoder(_Kept).decode


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
        self._deciding = Deciding.of(settings)
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
            stages=settings.stages,
        )
        self._anew = Anew(self._desk, settings.stages.values())
        # what an earlier run left open ends here, and so does that run if it still goes on
        self._producer: Producer = once_it_answers(self._cluster.producer, rebuilds(self._target))
        self._partitions = [self._opened(number) for number in range(partitions[source])]
        self._passed_before = self._stages_before()
        self._check_in_use()
        self._check_stages()

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
        try:
            return self._catch_up(told)
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

    @property
    def behind(self) -> dict[int, int]:
        """By partition: how many offsets of the inputs the group has committed beyond the new changelog."""
        committed = once_it_answers(
            self._cluster.committed,
            [(topic, each.number) for each in self._partitions for topic in self._settings.inputs],
            # nobody's open transaction is waited for: a killed worker's ends when it is over
            stable=False,
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
            if set(position.rebuilding.inputs) != set(self._logs):
                raise RebuildError(
                    f"'{self._target}' was begun with other entities than "
                    f"'{','.join(self._settings.entities)}': go on with those, or name another topic"
                )
            self._check_begun_alike(position.rebuilding.settings)
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

    def _check_begun_alike(self, said: str) -> None:
        """Refuse to go on with rows that an earlier run began with other settings."""
        begun = Deciding.decode(said.encode())
        if begun is None or begun == self._deciding:
            return
        then, now = (
            ", ".join(
                f"{name}={getattr(each, name)}"
                for name in begun.__struct_fields__
                if getattr(begun, name) != getattr(self._deciding, name)
            )
            for each in (begun, self._deciding)
        )
        raise RebuildError(
            f"'{self._target}' was begun with {then}, and these settings have {now}: go on with those of "
            "then, or name another topic"
        )

    def _check_in_use(self) -> None:
        """Refuse a changelog that workers have left: it will never come to where they are."""
        tps = [(topic, each.number) for each in self._partitions for topic in self._settings.roads[0]]
        committed = once_it_answers(self._cluster.committed, tps, stable=False)
        for tp, used in left_for(committed, self._source, self._target).items():
            (topic, number), words = tp, committed[tp]
            if words is not None and self._partitions[number].before.get(topic, -1) < words.offset:
                raise RebuildError(
                    f"workers have gone on from '{self._source}' to '{used}' and decided with that: make the "
                    f"rows anew from it (--from {used})"
                )

    def _stages_before(self) -> tuple[str, ...]:
        """The topics of the stages that made the old rows."""
        at_home, stages = self._settings.roads[0], dict[str, None]()
        for partition in self._partitions:
            position = _position(self._cluster, (self._source, partition.number), self._settings.group, {})
            if position is not None:
                partition.before = position.inputs
                partition.stages = {
                    topic: at
                    for topic, at in position.inputs.items()
                    # of one that was turned off and deleted, the position stays
                    if topic not in at_home and has_topic(self._recorded, topic)
                }
                stages |= dict.fromkeys(partition.stages)
        return tuple(stages)

    def _check_stages(self) -> None:
        """Refuse what can't be made anew, and stages whose topics have something that nobody has taken.

        Workers would take it once more.
        """
        before = self._passed_before
        if before and not self._settings.stages:
            raise RebuildError(
                f"workers with '{self._source}' have orders go through {', '.join(before)}, and these "
                "settings have no entities: the last can't be turned off, keep one in FRAUDSTREAM_ENTITIES"
            )
        for topic in self._settings.stages.values():
            for partition in self._partitions if topic not in before else ():
                low, high = once_it_answers(self._cluster.bounds, (topic, partition.number), stable=True)
                if low < high:
                    raise RebuildError(
                        f"'{topic}' has messages from when its entity was on before, and workers "
                        "would take them once more: archive and delete that topic, then run this again"
                    )

    # Catching up --------------------------------------------------------------------------------

    def _catch_up(self, told: Told) -> Rebuilt:
        """Bring every partition to where the old changelog is now."""
        source = [(self._source, each.number) for each in self._partitions]
        # before positions are read: what a stage has decided by now is about orders that these have
        stable = {tp[1]: once_it_answers(self._cluster.bounds, tp, stable=True) for tp in source}
        ends = {number: end for number, (_, end) in stable.items()}
        if self._passed_before:
            # open transactions included, which are waited for: a stage may have what one of them sent
            ends = {tp[1]: once_it_answers(self._cluster.bounds, tp)[1] for tp in source}
        goals: dict[int, Position] = {}
        spans: dict[int, tuple[int, int]] = {}
        for partition in self._partitions:
            number = partition.number
            self._check_ours(partition)
            low, decided = stable[number]
            if partition.copied >= ends[number] and (partition.is_ready or self._passed_before):
                continue
            found = _last_position(self._cluster, (self._source, number), low, ends[number])
            if found is not None:
                goals[number] = goal = decode_position(found, self._settings.group, self._logs)
                if goal.is_partial:
                    raise RebuildError(
                        f"'{self._source}' was itself being made anew, and is not complete: name by "
                        "--from the changelog that workers use"
                    )
                spans[number] = max(low, partition.copied), decided
            elif any(True for _ in _chunks(self._cluster, (self._source, number), low, ends[number])):
                raise RebuildError(
                    f"{self._source}/{number} has rows and no position; name the changelog that workers use"
                )
            else:
                partition.copied = ends[number]
        if self._passed_before and goals:
            for partition in self._partitions:
                partition.is_ready = False  # an order of one changes rows of the others
        orders = self._remember(goals, told) if goals else 0
        keys = sum(self._copy(self._partitions[number], *span, told) for number, span in spans.items())
        if self._passed_before:
            self._settle(ends)
        return Rebuilt(orders, keys)

    def _settle(self, ends: Mapping[int, int]) -> None:
        """Let workers go on from here if nothing is on its way between stages.

        `ends` are those of the old changelog that this round has come to. Where these have not changed
        since, no worker has taken anything in between; so whatever was sent by then lies in the topics of the
        stages, be it committed yet or not.
        """
        if all(each.is_ready for each in self._partitions):
            return
        if any(each.copied < ends[each.number] for each in self._partitions) or self._are_on_their_way():
            return
        for number, end in ends.items():
            if once_it_answers(self._cluster.bounds, (self._source, number))[1] != end:
                return
        for partition in self._partitions:
            partition.is_ready = True
        # at once: one alone says nothing
        self._commit({each.number: {} for each in self._partitions})

    def _are_on_their_way(self) -> bool:
        """Whether something was sent to a stage that made the old rows, and not taken there."""
        for topic in self._passed_before:
            for partition in self._partitions:
                tp = (topic, partition.number)
                low, high = once_it_answers(self._cluster.bounds, tp)
                taken = max(low, partition.stages.get(topic, 0))
                try:
                    # nothing but markers and what was aborted
                    if any(True for _ in self._cluster.read(tp, taken, high)):
                        return True
                except NotStable:
                    return True
        return False

    @property
    def has_settled(self) -> bool:
        """Whether nothing was on its way between stages where the new changelog stands."""
        return not self._passed_before or all(each.is_ready for each in self._partitions)

    @property
    def awaits_settling(self) -> bool:
        """Whether orders have to come to the end of their road before the switch."""
        return bool(self._passed_before)

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

    def _remember(self, goals: Mapping[int, Position], told: Told) -> int:
        """Remember anew what these partitions had taken up to where the old changelog stands, by arrival."""
        spans = self._spans(goals)
        orders, of = 0, sum(end - begin for _, (begin, end) in spans)
        records = in_recorded_order(self._recorded, spans)
        while some := list(islice(records, _RECORDS)):
            watermarks = {
                each.number: each.watermark for each in self._partitions if each.watermark is not None
            }
            changed = self._anew.remember(some, self._store.recall, watermarks)
            for number, watermark in changed.watermarks.items():
                self._partitions[number].watermark = watermark
            for record in some:
                partition = self._partitions[record.partition]
                partition.inputs[record.topic] = record.offset + 1
                partition.is_ready = False
            touched = changed.rows.keys() | {record.partition for record in some}
            self._commit({number: changed.rows.get(number, {}) for number in sorted(touched)})
            orders += len(some)
            told(Progress(None, orders, of, 0, 0))
        for number, goal in goals.items():
            partition = self._partitions[number]
            # behind the markers after the last record
            inputs, before = goal.inputs, self._passed_before
            partition.inputs.update({topic: at for topic, at in inputs.items() if topic in self._logs})
            partition.stages = {topic: at for topic, at in inputs.items() if topic in before}
            partition.watermark = goal.watermark if goal.watermark is not None else partition.watermark
        return orders

    def _spans(self, goals: Mapping[int, Position]) -> list[tuple[TP, tuple[int, int]]]:
        """What is to be read, in the order that counts where records arrived at the same time."""
        spans: list[tuple[TP, tuple[int, int]]] = []
        for topic in self._settings.roads[0]:
            for number, goal in goals.items():
                if (end := goal.inputs.get(topic)) is None:
                    continue
                tp, begin = (topic, number), self._partitions[number].inputs.get(topic, 0)
                first, _ = self._recorded.bounds(tp)
                if begin < first and begin < end:
                    raise RebuildError(
                        f"{topic}/{number} begins at offset {first:,}: what came before is no longer there, "
                        "and the rows would lack it; give the archive that has it: --archive PLACE"
                    )
                spans.append((tp, (begin, end)))
        return spans

    def _copy(self, partition: _Partition, begin: int, end: int, told: Told) -> int:
        """Copy what was decided about each order; after they are remembered, or none would be new.

        What the last stage has kept goes to the order's home, which answers resends: the last stage is
        another one now, or its rows are.
        """
        number = partition.number
        rows: _Rows = {number: {}}
        copied, partition.is_ready = 0, False
        for chunk in _chunks(self._cluster, (self._source, number), begin, end):
            for record in chunk:
                if record.key is None:
                    continue
                if record.key.startswith(ORDER):
                    rows[number][record.key] = self._decided(number, record.key, record.value, rows)
                elif record.key.startswith(PASSED) and record.value is not None:
                    self._bring_home(record.key, Passed.decode(record.value).seen, rows)
            told(Progress(number, 0, 0, chunk[-1].offset + 1 - begin, end - begin))
            if (keys := sum(map(len, rows.values()))) >= _KEYS:
                copied += keys
                partition.copied = chunk[-1].offset + 1
                self._commit(rows)
                rows = {number: {}}
        partition.copied, partition.is_ready = max(begin, end), not self._passed_before
        self._commit(rows)
        return copied + sum(map(len, rows.values()))

    def _decided(self, number: int, key: bytes, old: bytes | None, rows: _Rows) -> bytes | None:
        """Our memory of an order, with what the old one says was decided; the old one where we have none."""
        ours = self._kept(number, key, rows)
        if ours is None or old is None:
            return old
        known = Revisions.decode(ours)
        known.decided_as(Revisions.decode(old))
        return known.encode()

    def _bring_home(self, key: bytes, decided: Sequence[Revision], rows: _Rows) -> None:
        """Keep what a stage has decided about an order where it came in, if it is known there."""
        at = order_key(key[len(PASSED) + 1 :].decode())
        for each in decided:
            try:
                told = _kept(each.decision)
            except msgspec.DecodeError:
                continue  # it was named, and never made
            number = told.source.partition
            if (ours := self._kept(number, at, rows)) is None:
                continue  # forgotten at home: who sends it again sends a new order
            known = Revisions.decode(ours)
            known.decided_elsewhere(each, (told.repeat_of or told.decision_id).bytes)
            keep_few_whole(known.seen)
            rows.setdefault(number, {})[at] = known.encode()

    def _kept(self, number: int, key: bytes, rows: _Rows) -> bytes | None:
        here = rows.get(number, {})
        return here[key] if key in here else self._store.recall(number, key)

    def _commit(self, rows: Mapping[int, Mapping[bytes, bytes | None]]) -> None:
        """One transaction: rows by partition and how far each goes; then the local rows."""
        group, together = self._settings.group, len(self._partitions)
        self._producer.begin()
        for number, keys in rows.items():
            partition = self._partitions[number]
            value = encode_position(
                partition.inputs,
                group if partition.is_ready else group + BEING_REBUILT,
                self._logs,
                partition.watermark,
                Rebuilding(self._source_log, partition.copied, together, self._deciding.encode().decode()),
            )
            self._producer.produce_rows(self._target, number, keys)
            self._producer.produce(Produce(self._target, number, POSITION_KEY, value))
        delivered = self._producer.flush()
        self._producer.commit()
        for number, keys in rows.items():
            partition = self._partitions[number]
            partition.after = delivered[self._target, number] + 1
            position = LocalPosition(
                {}, partition.after, partition.log, self._clock.wall(), partition.watermark
            )
            self._store.write(number, keys, position)


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
            # a stage that was turned off has no position any more
            inputs = {topic: at for topic, at in old.inputs.items() if topic in logs}
            if new is None or any(new.inputs.get(topic, -1) < at for topic, at in inputs.items()):
                raise RebuildError(
                    f"'{source}' has come further than '{settings.topics.changelog}' in partition {number}: "
                    "workers still use it, and nothing is deleted"
                )
            # a stage that is new has a position from the start
            came = any(new.inputs.get(topic) != at for topic, at in inputs.items())
            further += new.rebuilding is None and came
    if not further:
        raise RebuildError(
            f"nothing shows yet that workers use '{settings.topics.changelog}': confirm once orders were "
            "decided with it"
        )
    delete(settings, source)
    forget_local(settings)
