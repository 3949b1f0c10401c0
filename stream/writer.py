"""The transaction core: what a batch changes and emits becomes true at once or not at all.

One writer thread per worker takes what Faust has fetched, lets the desk decide it, and makes the
effects true in one Kafka transaction: decisions, rejects, one changelog record per touched key, the
position of every partition and the group's offsets. Only then do the local rows change. Whatever
goes wrong in between, the stable offsets of the group say what happened, and the rows are brought
to them from the changelog.

The order of every step here was tried against every fault by `make simulate-faults`; the reasons
are in docs/decisions/0002-one-transaction-per-batch.md.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from features.revisions import glimpse
from stream.keeping import FOR_EVER, ORDER, ROWS, Horizons
from stream.last import last_with
from stream.merge import Merge, Room
from stream.ports import (
    TP,
    Aborted,
    Assignment,
    Batch,
    Clock,
    Cluster,
    Committed,
    Desk,
    Effects,
    Fenced,
    LocalPosition,
    NotStable,
    OutcomeUnknown,
    Produce,
    Producer,
    Record,
    Refused,
    Store,
    TransactionError,
    Unreachable,
)

__all__ = [
    "BEING_REBUILT",
    "POSITION_KEY",
    "Limits",
    "Mailbox",
    "Owner",
    "Position",
    "Rebuilding",
    "Writer",
    "decode_position",
    "encode_position",
    "is_position",
    "left_for",
    "rebuilds",
]

log = logging.getLogger("fraudstream.writer")

_SAID_AGAIN_S = 5.0

_OF_ROWS = frozenset(ROWS.values())
"""What the keys of rows begin with."""

_NO_LOGS: Mapping[str, str] = MappingProxyType({})

BEING_REBUILT = " (being rebuilt)"
"""What stands behind the group's name in a position of a changelog that is not yet complete."""

POSITION_KEY = b"\0position"
"""The changelog key whose record says up to which inputs the records before it go."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the core; durations in seconds."""

    records: int = 1_000
    """Records in one transaction."""
    history_records: int = 12_000
    """The same where all of them are about the past: fewer transactions, and fewer copies of each row."""
    size: int = 16 * 1024 * 1024
    """Bytes of records in one transaction, give or take one record."""
    behind_s: float = 1.0
    """How long others wait for an empty input that has more before the writer reads it itself."""
    trusted_s: float = 1.0
    """How long an input that was at its end is believed to be still there."""
    revoke_s: float = 3.0
    """How long a revocation waits for the transaction in hand."""
    patience_s: float = 30.0
    """How long an answer that should be transient is asked for again before the worker refuses."""
    pause_s: float = 0.02
    """Between two such questions."""
    hanging_s: float = 60.0
    """After so long behind an open transaction the log says how to end it by hand."""
    idle_s: float = 10.0
    """Without a batch for so long, the inputs are searched for records that were never handed over."""
    tombstones_s: float = 6 * 86_400.0
    """Rows untouched for longer are rebuilt: the changelog keeps a tombstone for seven days only."""
    crashes: int = 3
    """How often one record alone may stop the worker before it is set aside."""
    evicted: int = 16
    """Keys evicted of one partition in one transaction, or as many as its batch itself changes if more."""

    @property
    def room(self) -> Room:
        """What one transaction takes."""
        return Room(self.records, self.history_records, self.size)


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner of a partition leaves in the metadata of its committed offset.

    `opens` counts how often the partition was opened since a transaction last went through, while
    input was waiting; `tries` how often the record at the offset was begun alone. `changelog` is where the
    rows are that go with the offset; empty where nobody said so, as earlier versions did not.
    """

    name: str = ""
    member: str = ""
    opens: int = 0
    tries: int = 0
    changelog: str = ""

    @classmethod
    def of(cls, committed: Committed | None) -> "Owner":
        """The owner that left this offset; one without a name where none is readable."""
        if committed is None or not committed.metadata:
            return cls()
        try:
            return msgspec.json.decode(committed.metadata, type=cls)
        except msgspec.DecodeError:
            # an operator's own tool may have committed the offset
            return cls()

    def left_with(self, offset: int) -> Committed:
        """The offset to be committed with these words."""
        return Committed(offset, msgspec.json.encode(self).decode())


def left_for(committed: Mapping[TP, Committed | None], *ours: str) -> dict[TP, str]:
    """Where the last owners had their rows in another changelog than these, and in which."""
    used = {tp: Owner.of(each).changelog for tp, each in committed.items()}
    return {tp: each for tp, each in used.items() if each not in {"", *ours}}


_VERSION = 2
"""Version 2 of a position says the watermark; before the first order, version 1 is written."""


class _Version(msgspec.Struct, frozen=True):
    v: int = 1


class _Position(msgspec.Struct, frozen=True):
    next: dict[str, int]
    v: int = 1
    group: str = ""
    logs: dict[str, str] = {}
    watermark: int | UnsetType = UNSET
    source: str | UnsetType = UNSET
    copied: int | UnsetType = UNSET
    together: int | UnsetType = UNSET
    settings: str | UnsetType = UNSET


class Rebuilding(NamedTuple):
    """How far a changelog is made anew from another one."""

    source: str
    """What tells the other one from one of the same name made later."""
    copied: int
    """Its next offset to be copied."""
    together: int = 0
    """How many partitions are made together and served together; 0 where a version said nothing of it."""
    settings: str = ""
    """Those that the rows depend on, as JSON; empty where a version said nothing of it."""
    inputs: tuple[str, ...] = ()
    """The inputs of the workers that are to take it over; told when read, not when written."""


class Position(NamedTuple):
    """What a position record says of the records before it in the changelog."""

    inputs: dict[str, int]
    """The next offset of every input topic."""
    watermark: int | None
    """The greatest `placed_at` of the orders accepted, in microseconds since 1970; None when unknown."""
    rebuilding: Rebuilding | None = None
    """What the rebuild says that wrote it; None where a worker did."""
    is_partial: bool = False
    """Whether that rebuild was not yet complete: no worker may go on from here."""


def encode_position(
    inputs: Mapping[str, int],
    group: str = "",
    logs: Mapping[str, str] = _NO_LOGS,
    watermark: int | None = None,
    rebuilding: Rebuilding | None = None,
) -> bytes:
    """The value of a position record: the next offset of every input topic, and the watermark.

    Beside it stands whose offsets they are, and in which log each counts: a topic deleted and made again
    is another log. `rebuilding` is given where a rebuild writes it.
    """
    position = _Position(
        dict(inputs),
        1 if watermark is None else _VERSION,
        group,
        dict(logs),
        UNSET if watermark is None else watermark,
        *(rebuilding or ())[:4],
    )
    return msgspec.json.encode(position)


def decode_position(value: bytes, group: str = "", logs: Mapping[str, str] = _NO_LOGS) -> Position:
    """What a position record says.

    Raises msgspec.DecodeError for bytes that no worker wrote; Refused for a record of a newer version, of
    another group than the one named, or about other logs than those given: two groups in one changelog would
    count every order in each other's rows, and the offsets of a deleted topic mean other orders in the one
    that took its name.
    """
    # first: a newer version may have given the other fields another form
    version = msgspec.json.decode(value, type=_Version).v
    if version > _VERSION:
        raise Refused(
            f"the changelog's position record has version {version} and this program reads up to {_VERSION}; "
            "run the version that wrote it, or a newer one"
        )
    position = msgspec.json.decode(value, type=_Position)
    theirs = position.group.removesuffix(BEING_REBUILT)
    if group and theirs and theirs != group:
        raise Refused(
            f"the changelog is that of group '{theirs}' and this worker is of '{group}': a group "
            "needs topics.changelog, topics.decisions and topics.rejected of its own, or that group's name"
        )
    for topic, counted_in in position.logs.items():
        if logs.get(topic, counted_in) != counted_in:
            raise Refused(
                f"topic '{topic}' was deleted and made anew since its orders were decided up to offset "
                f"{position.next.get(topic, 0):,}, so its offsets mean other orders now: begin again with "
                "another group and changelog (FRAUDSTREAM_GROUP, FRAUDSTREAM_TOPICS__CHANGELOG), and publish "
                "the past as history"
            )
    return Position(
        position.next,
        None if position.watermark is UNSET else position.watermark,
        rebuilding=(
            None
            if position.source is UNSET or position.copied is UNSET
            else Rebuilding(
                position.source,
                position.copied,
                0 if position.together is UNSET else position.together,
                "" if position.settings is UNSET else position.settings,
                tuple(position.logs),
            )
        ),
        is_partial=theirs != position.group,
    )


def is_position(value: bytes) -> bool:
    """Whether bytes are a position record's, be it of a newer version; anyone may write to a topic."""
    try:
        decode_position(value)
    except msgspec.DecodeError:
        return False
    except Refused:
        return True  # why, is said by who reads it
    return True


def rebuilds(changelog: str) -> str:
    """The transactional id under which a changelog is rebuilt; the worker that opens it ends it."""
    return f"rebuild-{changelog}"


Load = tuple[int, int]
"""Records, and the bytes of their values."""


class Mailbox:
    """What the Faust side hands to the writer thread: the assignment, and batches fetched under it."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._changed = clock.condition()
        self._clock = clock
        self._limits = limits
        self._batches: list[Batch] = []
        self._busy = False
        self._stopping = False
        self._held = False
        self.draining = False
        """Whether orders stay at home, while those on their road go on."""
        self.assignment: Assignment | None = None
        self._offered: dict[TP, Load] = {}
        """By input: what lies here."""
        self._kept: Mapping[TP, Load] = {}
        """By input: what the writer has taken and not yet committed."""
        self.searching = False
        """Whether the inputs are to be searched at once, not only those long silent."""
        self.resumed_at = -1e9
        """When batches were last given out again after a hold; monotonic seconds."""

    @property
    def held(self) -> bool:
        """Whether batches are held back until told otherwise; partitions are opened all the same."""
        return self._held

    @property
    def stopping(self) -> bool:
        """Whether the writer was asked to end."""
        return self._stopping

    @property
    def has_work(self) -> bool:
        """Whether batches wait, or are in hand."""
        return bool(self._offered or self._kept) or self._busy

    @property
    def waiting(self) -> int:
        """How many records wait for the writer, or for others that are to go before them."""
        return sum(records for records, _ in self._loads().values())

    def full(self, most: Load) -> frozenset[TP]:
        """The inputs of which nothing more should be fetched until the writer has taken some.

        Each input that has something waiting may have its share of `most`; one that has nothing never is
        full, so that others can't keep from it what they wait for.
        """
        loads = self._loads()
        records, size = most[0] / max(1, len(loads)), most[1] / max(1, len(loads))
        return frozenset(tp for tp, load in loads.items() if load[0] > records or load[1] > size)

    def _loads(self) -> dict[TP, Load]:
        with self._changed:
            loads = dict(self._kept)
            for tp, load in self._offered.items():
                loads[tp] = _sum(loads.get(tp, (0, 0)), load)
            return loads

    def assign(self, assignment: Assignment) -> None:
        """Publish what the group gave this worker; batches of any earlier assignment are dropped."""
        with self._changed:
            self.assignment = assignment
            self._empty()
            self._changed.notify_all()

    def revoke(self) -> bool:
        """Take everything away and wait, bounded, for the transaction in hand; False if it is still going.

        What still goes on then is harmless: it is sent under the revoked generation.
        """
        with self._changed:
            self.assignment = None
            self._empty()
            self._changed.notify_all()
            deadline = self._clock.monotonic() + self._limits.revoke_s
            while self._busy and (left := deadline - self._clock.monotonic()) > 0:
                self._changed.wait(left)
            return not self._busy

    def offer(self, batch: Batch) -> bool:
        """Queue a batch; False when it was fetched under an assignment that is no longer current."""
        with self._changed:
            if batch.assignment is not self.assignment or batch.partition not in batch.assignment.partitions:
                return False
            self._batches.append(batch)
            tp = (batch.topic, batch.partition)
            self._offered[tp] = _sum(self._offered.get(tp, (0, 0)), (len(batch.records), batch.size))
            self._changed.notify_all()
            return True

    def search(self) -> None:
        """Ask the writer to search the inputs for records that will not be handed over."""
        with self._changed:
            self.searching = True
            self._changed.notify_all()

    def hold(self, held: bool, *, draining: bool = False) -> None:
        """Hold batches back after the transaction in hand, or give them out again.

        `draining`: give out all of them, and keep of what comes of it only what is at home.
        """
        with self._changed:
            if (self._held or self.draining) and not held:
                self.resumed_at = self._clock.monotonic()
            self._held, self.draining = held, draining
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask the writer to end after the transaction in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def take(self, opened: Assignment | None, patience: float) -> tuple[Assignment, Sequence[Batch]] | None:
        """Wait for work: an assignment not yet opened, or batches of the opened one; None to end.

        No batches of the opened assignment come after `patience` seconds without any, and nothing of it while
        held.
        """
        with self._changed:
            waited = patience <= 0.0
            while not self._stopping:
                assignment = self.assignment
                work = (self._batches or waited or self.searching) and not self._held
                if assignment is not None and (assignment is not opened or work):
                    self._busy = True
                    return assignment, self._all() if assignment is opened else ()
                nothing_to_do = assignment is None or self._held
                waited = not self._changed.wait(self._limits.idle_s if nothing_to_do else patience)
            return None

    def done(self, assignment: Assignment, kept: Mapping[TP, Load]) -> None:
        """End the turn that `take` began; `kept` is what the writer has not yet committed, by input."""
        with self._changed:
            self._busy = False
            self._kept = kept if assignment is self.assignment else {}
            self._changed.notify_all()

    def _all(self) -> Sequence[Batch]:
        taken, self._batches = self._batches, []
        self._offered = {}
        return taken

    def _empty(self) -> None:
        self._batches = []
        self._offered = {}
        self._kept = {}


def _sum(one: Load, other: Load) -> Load:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True, slots=True)
class _Care:
    """How carefully a partition goes on, as its next owner would read it."""

    attempt: int = 0
    """Records to try in one transaction after the worker was stopped here repeatedly; 0 is no limit."""
    tries: Mapping[str, int] = field(default_factory=dict)
    """How often the record at the position of an input was begun alone."""


@dataclass(slots=True)
class _Partition:
    """An opened partition: where it stands, and how carefully it goes on."""

    number: int
    inputs: dict[str, int]
    """The next offset of every input."""
    log: str
    care: _Care
    watermark: int | None
    """The greatest `placed_at` of the orders accepted, in microseconds since 1970."""


class _Outdated(Exception):
    """The assignment changed while something was done under it."""


class _Held(Exception):
    """Batches are held back: what is not yet in a transaction waits."""


class Writer:
    """Takes batches and makes what the desk decides of them true, exactly once."""

    def __init__(
        self,
        *,
        name: str,
        roads: Sequence[Sequence[str]],
        changelog: str,
        partitions: int,
        group: str = "",
        cluster: Cluster,
        store: Store,
        desk: Desk,
        clock: Clock,
        limits: Limits,
        horizons: Horizons = FOR_EVER,
    ) -> None:
        """Take the inputs in `roads`, groups of topics in the order in which what comes in goes through them.

        Within a group records are taken by arrival, and later groups go first (`stream.merge`). Each has so
        many `partitions`.
        """
        self.mailbox = Mailbox(clock, limits)
        self.counts: Counter[str] = Counter()
        """What committed batches did since the worker started."""
        self._name = name
        self._roads = tuple(map(tuple, roads))
        self._inputs = tuple(topic for road in self._roads for topic in road)
        self._changelog = changelog
        self._of_partitions = partitions
        self._group = group
        self._cluster = cluster
        self._store = store
        self._desk = desk
        self._clock = clock
        self._limits = limits
        self._horizons = horizons
        self._producer: Producer | None = None
        self._opened: Assignment | None = None
        self._partitions: dict[int, _Partition] = {}
        self._stuck_since: float | None = None
        self._said_at = -1e9
        self._waiting_since: float | None = None
        self._logs: dict[str, str] = {}
        """What tells each input topic from one of the same name made later."""
        self._ended: set[str] = set()
        """Dead owners whose transactions were ended for the present assignment."""
        self._heard: dict[TP, float] = {}
        """When an input last handed something over, or was searched."""
        self._merge = self._new_merge()
        self._merging: Assignment | None = None
        """Under which assignment that was handed over what the merge holds."""
        self._patience = limits.idle_s
        self._announced: dict[TP, int] = {}
        """The record that this very process last announced to try alone."""
        self._made_anew: dict[int, Position] = {}
        """By partition: the last position in the changelog, where a rebuild wrote it."""
        self._begun_at: dict[TP, int] = {}
        """Where this very process last opened a partition."""

    @property
    def opened(self) -> Mapping[int, Mapping[str, int]]:
        """The positions of the opened partitions: partition -> input topic -> next offset."""
        return {number: dict(partition.inputs) for number, partition in self._partitions.items()}

    @property
    def is_open(self) -> bool:
        """Whether the present assignment is opened: restored and claimed, be it of no partition."""
        return self._opened is not None and self._opened is self.mailbox.assignment

    def stop(self) -> None:
        """Ask `run` to return after the transaction in hand."""
        self.mailbox.stop()

    def run(self) -> None:
        """Take and commit until stopped.

        Raises Refused when the worker must not go on, and whatever the desk raises: that is a
        mistake of ours, and the program ends with nothing of its batch committed.
        """
        try:
            while (turn := self.mailbox.take(self._opened, self._patience)) is not None:
                try:
                    self._take_turn(*turn)
                finally:
                    self.mailbox.done(turn[0], self._merge.waiting())
        finally:
            self._drop_producer()

    def _take_turn(self, assignment: Assignment, batches: Sequence[Batch]) -> None:
        """Open the assignment, or commit what comes next; what can't be done now waits for another turn."""
        self._patience = 0.0
        try:
            if assignment is not self._opened:
                self._open(assignment)
            else:
                for batch in batches:
                    self._hand_over(batch)
                went_on = self._go_on()
                if not (self._look_for_lost_records() or went_on):
                    patience = self._merge.patience(self._clock.monotonic())
                    self._patience = self._limits.idle_s if patience is None else patience
        except (_Outdated, _Held):
            self._stuck_since = None
        except Aborted as error:
            log.warning("transaction aborted: %s", error)
            self.counts["transactions_aborted"] += 1
            self._bear(error)
            self._end_aborted()
        except (OutcomeUnknown, Fenced) as error:
            log.warning("transaction outcome unknown: %s", error)
            self.counts["transactions_unknown"] += 1
            self._start_over()
            self._bear(error)
        except (Unreachable, NotStable) as error:
            self._warn("the cluster can't answer yet: %s", error)
            self._stuck_since = None
            self._clock.sleep(self._limits.pause_s)
        else:
            self._stuck_since = None

    # --- what comes next -------------------------------------------------------------------------

    def _new_merge(self) -> Merge:
        return Merge(self._roads, wait_s=self._limits.behind_s, trusted_s=self._limits.trusted_s)

    def _hand_over(self, batch: Batch) -> None:
        if batch.assignment is self._merging:
            self._heard[batch.topic, batch.partition] = self._clock.monotonic()
            self._merge.hand_over(batch)

    def _go_on(self) -> bool:
        """Commit what comes next, or find out what does; False when nothing can be done but wait."""
        merge = self._merge
        now = self._clock.monotonic()
        if questions := merge.questions(now):
            merge.learn(self._cluster.ends(questions), now)
        if overdue := merge.overdue(now):
            # not as asked before: what is open since then can't be read, and must not be waited for
            merge.search(self._cluster.ends(overdue), now)
        gap = merge.gap()
        if gap is not None:
            self._read(*gap)
        records = merge.take(now, self._limits.room, only_stages=self.mailbox.draining)
        try:
            if records:
                self._transact(records)
        finally:
            merge.put_back(self.opened)
        return bool(records or gap or overdue)

    def _read(self, tp: TP, begin: int, end: int) -> None:
        """Read a piece of what was not handed over: of a gap it is not known how much it has."""
        self._check_not_held()
        read = 0
        for chunk in self._cluster.read(tp, begin, end):
            self._merge.fill(tp, chunk, chunk[-1].offset + 1)
            read += len(chunk)
            if read >= self._limits.records:
                return
        # only markers and aborted records are left, if any
        self._merge.fill(tp, (), end)

    def _look_for_lost_records(self) -> bool:
        """Look for what lies beyond what was handed over though nothing came: the tail of a lost fetch."""
        now = self._clock.monotonic()
        at_once, self.mailbox.searching = self.mailbox.searching, False
        silent = []
        for number, partition in self._partitions.items():
            for topic in partition.inputs:
                # each for itself: a quiet partition must not wait for its busy neighbour to pause
                # while batches were held back, nothing could be heard
                heard = max(self._heard.setdefault((topic, number), now), self.mailbox.resumed_at)
                if now - heard >= self._limits.idle_s or at_once:
                    silent.append((topic, number))
        if not silent:
            return False
        ends = self._cluster.ends(silent)
        for tp, end in ends.items():
            self._heard[tp] = now
            if end < self._partitions[tp[1]].inputs[tp[0]]:
                raise OutcomeUnknown(f"{tp[0]}/{tp[1]} ends at {end}, before our position")
        self._merge.search(ends, now)
        return self._merge.gap() is not None

    # --- committing ------------------------------------------------------------------------------

    def _transact(self, records: Sequence[Record]) -> None:
        """Decide the records and make the effects true."""
        self._check_not_held()
        careful = {n for n, partition in self._partitions.items() if partition.care.attempt}
        plain = [record for record in records if record.partition not in careful] if careful else records
        if plain:
            effects = self._desk.decide(plain, self._store.recall, self._watermarks(), self.opened)
            self._make_true(effects, self._ends(plain))
        for number in sorted(careful):
            here = [record for record in records if record.partition == number]
            for topic, some in groupby(here, lambda record: record.topic):
                self._carefully(self._partitions[number], topic, list(some))

    def _ends(self, records: Sequence[Record]) -> dict[int, dict[str, int]]:
        """The next offset after these records, by partition and topic: behind the markers after the last."""
        ends: dict[int, dict[str, int]] = {}
        for record in records:
            ends.setdefault(record.partition, {})[record.topic] = record.offset + 1
        for number, end in ends.items():
            for topic, offset in end.items():
                end[topic] = self._merge.position_after((topic, number), offset - 1)
        return ends

    def _carefully(self, partition: _Partition, topic: str, records: Sequence[Record]) -> None:
        """Commit record by record, then by twos, fours, …: something here stopped the worker before."""
        begin = 0
        while begin < len(records):
            self._check_not_held()
            attempt, tries = partition.care.attempt, partition.care.tries.get(topic, 0)
            some = records[begin : begin + (attempt or len(records))]
            # an announcement of our own that we lived to see was no crash: aborts don't count
            announced = self._announced.get((topic, partition.number)) == some[0].offset
            if attempt == 1 and not announced and tries >= self._limits.crashes:
                log.error(
                    "order set aside after stopping the worker %d times: %s partition %d offset %d",
                    tries,
                    topic,
                    some[0].partition,
                    some[0].offset,
                )
                effects = self._desk.set_aside(some[0], self._store.recall, self.opened)
            else:
                if attempt == 1 and not announced:
                    # said before it is tried, where the next owner will read it: a crash leaves no time
                    self._announce(partition, topic, tries + 1)
                    self._announced[topic, partition.number] = some[0].offset
                try:
                    effects = self._desk.decide(some, self._store.recall, self._watermarks(), self.opened)
                except Refused:
                    if attempt == 1:
                        # the record is not to blame
                        self._announce(partition, topic, max(tries - 1, 0) if announced else tries)
                    raise
            attempt *= 2
            went_well = _Care(
                attempt if attempt <= self._limits.records else 0, {**partition.care.tries, topic: 0}
            )
            ends = {partition.number: {topic: some[-1].offset + 1}}
            self._make_true(effects, ends, {partition.number: went_well})
            begin += len(some)

    def _announce(self, partition: _Partition, topic: str, tries: int) -> None:
        """Commit how often the record at the position was begun alone."""
        care = _Care(partition.care.attempt, {**partition.care.tries, topic: tries})
        self._make_true(Effects(), {partition.number: {}}, {partition.number: care})

    def _watermarks(self) -> dict[int, int]:
        return {n: each.watermark for n, each in self._partitions.items() if each.watermark is not None}

    def _evict(self, effects: Effects, ends: Mapping[int, Mapping[str, int]]) -> None:
        """Add to a batch's effects the end of what its partitions have kept for long enough.

        What the batch touches is left alone: it has a new last event, or is to be found again.
        """
        for number, end in ends.items():
            if not end:
                continue  # an announcement: no event, so nothing has grown older
            watermark = effects.watermarks.get(number, self._partitions[number].watermark)
            before = self._horizons.at(watermark) | effects.gone_before.get(number, {})
            touched = effects.rows.get(number, {})
            for key in self._store.expired(number, before, max(self._limits.evicted, len(touched))):
                if key not in touched:
                    effects.rows.setdefault(number, {})[key] = None
                    effects.counts[self._evicted(number, key)] += 1

    def _evicted(self, number: int, key: bytes) -> str:
        """What it is counted as that a key goes: a row, an order, or what was said of one that never came."""
        if key[:1] in _OF_ROWS:
            return "rows_evicted"
        kept = self._store.recall(number, key) if key[:1] == ORDER else None
        return "orders_evicted" if kept is None or not glimpse(kept).is_orphaned else "outcomes_orphaned"

    def _make_true(
        self,
        effects: Effects,
        ends: Mapping[int, Mapping[str, int]],
        cares: Mapping[int, _Care] = MappingProxyType({}),
    ) -> None:
        """One transaction: effects, positions, offsets and care; afterwards the local rows."""
        assignment, producer = self._opened, self._producer
        if assignment is None or producer is None or self.mailbox.assignment is not assignment:
            raise _Outdated
        inputs = {number: self._partitions[number].inputs | dict(end) for number, end in ends.items()}
        watermarks = {n: effects.watermarks.get(n, self._partitions[n].watermark) for n in inputs}
        self._evict(effects, ends)
        # an aborted announcement is none: the care changes with the position, or not at all
        cares = {number: cares.get(number, self._partitions[number].care) for number in inputs}
        producer.begin()
        for record in effects.produce:
            producer.produce(record)
        for number, rows in effects.rows.items():
            producer.produce_rows(self._changelog, number, rows)
        for number, position in inputs.items():
            value = encode_position(position, self._group, self._logs, watermarks[number])
            producer.produce(Produce(self._changelog, number, POSITION_KEY, value))
        offsets = {
            (topic, number): self._owner(cares[number], topic).left_with(offset)
            for number, position in inputs.items()
            for topic, offset in position.items()
        }
        producer.send_offsets(offsets, assignment)
        delivered = producer.flush()
        producer.commit()
        self._merge.produced(delivered, effects.produce)
        for number, position in inputs.items():
            partition = self._partitions[number]
            self._store.write(
                number,
                effects.rows.get(number, {}),
                LocalPosition(
                    position,
                    delivered[self._changelog, number] + 1,
                    partition.log,
                    self._clock.wall(),
                    watermarks[number],
                ),
            )
            partition.inputs, partition.care = position, cares[number]
            partition.watermark = watermarks[number]
        self.counts.update(effects.counts)
        self.counts["transactions"] += 1
        if effects.committed is not None:
            effects.committed()

    def _owner(self, care: _Care, topic: str) -> Owner:
        assert self._opened is not None  # noqa: S101 (only called inside a transaction of the opened one)
        return Owner(
            name=self._name,
            member=self._opened.member,
            # still careful: were it to crash now, the next owner must be careful at once
            opens=2 if care.attempt else 0,
            tries=care.tries.get(topic, 0),
            changelog=self._changelog,
        )

    # --- after a fault ---------------------------------------------------------------------------

    def _end_aborted(self) -> None:
        """End the failed transaction; its records may then be decided anew from the rows as they were."""
        try:
            if self._producer is not None:
                self._producer.abort()
        except TransactionError as error:
            log.warning("the abort failed: %s", error)
            self._start_over()

    def _start_over(self) -> None:
        """Forget everything in memory; a new producer ends the old transaction, the offsets say how."""
        self._drop_producer()
        self._opened = None
        self._partitions = {}

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _bear(self, error: TransactionError) -> None:
        """Pause after a failed transaction; raise Refused when none has gone through for too long."""
        now = self._clock.monotonic()
        if self._stuck_since is None or self._stuck_since < self.mailbox.resumed_at:
            # the time that batches were held back is nobody's fault
            self._stuck_since = now
        elif now - self._stuck_since > self._limits.patience_s:
            raise Refused(
                f"no transaction went through for {now - self._stuck_since:.0f} s; the last said: {error}; "
                "see the broker's log, then start the worker again"
            ) from error
        self._clock.sleep(self._limits.pause_s)

    # --- opening ---------------------------------------------------------------------------------

    def _open(self, assignment: Assignment) -> None:
        """Take over the partitions of an assignment: end what was left open, restore, claim."""
        self._opened = None
        self._partitions = {}
        self._ended = set()
        self._heard = {}
        self._wait_to_be_alone(assignment)
        if self._producer is None:
            self._producer = self._cluster.producer(self._name)
        numbers = sorted(assignment.partitions)
        self._logs = {topic: self._cluster.log_id(topic) for topic in self._inputs}
        committed = dict(self._stable_offsets(self._tps(numbers), assignment))
        restored = {number: self._restore(number, committed, assignment) for number in numbers}
        self._check_not_left(assignment)
        self._partitions = self._claim(restored, committed, assignment)
        # once more: of old and new settings that claim at the same time one sees the other
        self._check_not_left(assignment)
        if self._merging is not assignment:
            self._merge, self._merging = self._new_merge(), assignment
        self._merge.open(self.opened)
        self._opened = assignment
        self._waiting_since = None
        log.info("opened %d partitions in generation %d", len(numbers), assignment.generation)

    def _tps(self, numbers: Iterable[int]) -> list[TP]:
        return [(topic, number) for number in numbers for topic in self._inputs]

    def _wait_to_be_alone(self, assignment: Assignment) -> None:
        """Wait for an earlier worker of this name to leave the group; refuse if it lives on."""
        deadline = self._clock.monotonic() + self._limits.patience_s
        while True:
            self._check_current(assignment)
            others = [
                member
                for member, client in self._cluster.members().items()
                if client == self._name and member != assignment.member
            ]
            # of two that start at once, the one with the smaller member id stays
            if not others or (self._clock.monotonic() > deadline and assignment.member < min(others)):
                return
            if self._clock.monotonic() > deadline:
                raise Refused(
                    f"another worker named '{self._name}' is in the group (member {min(others)}); "
                    "give every worker its own name (FRAUDSTREAM_WORKER) or stop the other one"
                )
            self._clock.sleep(self._limits.pause_s)

    def _stable_offsets(self, tps: Sequence[TP], assignment: Assignment) -> Mapping[TP, Committed | None]:
        """The committed offsets once no open transaction covers them; ends those of dead owners."""
        while True:
            self._check_current(assignment)
            self._end_left_open(tps)
            try:
                return self._cluster.committed(tps, stable=True)
            except NotStable as error:
                self._wait_for_stable(error)

    def _wait_for_stable(self, error: NotStable) -> None:
        """Wait a little for a transaction that somebody left open, and say so now and then.

        Bounded by the broker: it aborts the transaction once its time is over.
        """
        now = self._clock.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        said = self._warn("waiting for an open transaction to end: %s", error)
        if said and now - self._waiting_since > self._limits.hanging_s:
            log.error(
                "that transaction has outlived every timeout: the broker itself lost it; find it with "
                "'kafka-transactions.sh find-hanging' and end it with 'kafka-transactions.sh abort' "
                "(docs/guarantees.md)"
            )
        self._clock.sleep(self._limits.pause_s)

    def _warn(self, what: str, error: Exception) -> bool:
        """Say what is waited for, every few seconds while it lasts; whether it was said."""
        now = self._clock.monotonic()
        due = now - self._said_at > _SAID_AGAIN_S
        if due:
            log.warning(what, error)
            self._said_at = now
        return due

    def _end_left_open(self, tps: Sequence[TP]) -> None:
        """End the transactions that dead owners may have left open."""
        owners = {Owner.of(committed) for committed in self._cluster.committed(tps, stable=False).values()}
        members = self._cluster.members()
        # an owner that lives, or came back under its name, ends its transaction itself
        dead = {
            owner.name
            for owner in owners
            if owner.member not in members and owner.name not in {"", self._name, *members.values()}
        }
        for name in sorted(dead - self._ended):
            self._cluster.producer(name).close()
            self._ended.add(name)

    def _restore(
        self, number: int, committed: dict[TP, Committed | None], assignment: Assignment
    ) -> LocalPosition:
        """Bring the local rows to the committed offsets, or refuse where changelog and offsets disagree."""
        deadline = self._clock.monotonic() + self._limits.patience_s
        tps = self._tps([number])
        while True:
            local = self._replay_changelog(number, assignment)
            if number not in self._made_anew:
                self._remind(number)
            is_whole = True
            if number in self._made_anew and (is_whole := self._is_whole(number)):
                local = self._take_over(number, assignment)
            expected = {topic: c.offset for topic, _ in tps if (c := committed[topic, number]) is not None}
            found = self._taken(local.inputs)
            if is_whole and found == expected:
                return local
            if self._clock.monotonic() > deadline:
                raise Refused(
                    self._half_made()
                    if number in self._made_anew
                    else self._left_behind() or self._disagreement(number, expected, found)
                )
            # a coordinator that has just moved may answer from before, and a rebuild catch up: ask again, and
            # claim nothing yet
            self._clock.sleep(self._limits.pause_s)
            committed.update(self._stable_offsets(tps, assignment))

    def _check_not_left(self, assignment: Assignment) -> None:
        """Refuse rows that were left for another changelog.

        Where no order came since, the offsets are those of our rows too, and would say nothing.
        """
        deadline = self._clock.monotonic() + self._limits.patience_s
        while True:
            self._check_current(assignment)
            try:
                left = self._left_behind()
            except NotStable as error:
                self._wait_for_stable(error)
                continue
            if not left:
                return
            if self._clock.monotonic() > deadline:
                raise Refused(left)
            self._clock.sleep(self._limits.pause_s)

    def _left_behind(self) -> str:
        """Why the rows are not to be gone on with, if the last owner of a partition had them elsewhere.

        Of any partition: while some are gone on with here and others there, neither changelog has all of
        them. What a rebuild made is there to be taken over from another one.
        """
        members = self._cluster.members()
        committed = dict(self._cluster.committed(self._tps(range(self._of_partitions)), stable=False))
        # one whose owner is gone may be claimed this moment
        if gone := [tp for tp, each in committed.items() if Owner.of(each).member not in members]:
            committed |= self._cluster.committed(gone, stable=True)
        for tp, elsewhere in left_for(committed, self._changelog).items():
            number = tp[1]
            if Owner.of(committed[tp]).member in self._cluster.members():
                return (
                    f"partition {number} is being decided with the rows of changelog '{elsewhere}', and this "
                    f"worker has those of '{self._changelog}': stop all workers with the one settings before "
                    "the first is started with the others"
                )
            position = self._last_position(number)
            if position is None or position.rebuilding is None:
                return (
                    f"partition {number} was last decided with the rows of changelog '{elsewhere}', and this "
                    f"worker has those of '{self._changelog}', which were left for it: start the worker with "
                    f"the settings of the others (FRAUDSTREAM_TOPICS__CHANGELOG={elsewhere}); to go back to "
                    "earlier settings, have their rows made anew under another name ('fraudstream rebuild "
                    f"start --from {elsewhere}')"
                )
        return ""

    def _remind(self, number: int) -> None:
        """Look again whether a rebuild made the rows: whoever read that may not have lived to open them.

        Also where something was read since: it may hold no position, as markers and aborted records do not.
        """
        position = self._last_position(number)
        if position is not None and position.rebuilding is not None:
            self._made_anew[number] = position

    def _taken(self, inputs: Mapping[str, int]) -> dict[str, int]:
        """Of positions those of our inputs."""
        return {topic: offset for topic, offset in inputs.items() if topic in self._inputs}

    def _is_whole(self, number: int) -> bool:
        """Whether the rebuild that made the rows has come as far as the group, in all that it makes together.

        A device's rows are made of orders of other partitions, so one alone says nothing. What another worker
        has taken over was whole.
        """
        made = self._made_anew[number].rebuilding
        numbers = range(made.together) if made is not None and made.together else [number]
        try:
            members = self._cluster.members()
            committed = self._cluster.committed(self._tps(numbers), stable=True)
            for each in numbers:
                position = self._last_position(each)
                if position is not None and position.rebuilding is None:
                    continue
                here = {tp[0]: c for tp, c in committed.items() if c is not None and tp[1] == each}
                found = {} if position is None else self._taken(position.inputs)
                if found != {topic: c.offset for topic, c in here.items()}:
                    return False
                if position is not None and position.is_partial:
                    return False
                # with the changelog of before: it would go on with that once we are gone on
                if any(Owner.of(c).member in members for c in here.values()):
                    return False
        except NotStable:
            return False
        return True

    def _last_position(self, number: int) -> Position | None:
        tp = (self._changelog, number)
        found = last_with(
            POSITION_KEY,
            partial(self._cluster.read, tp),
            self._cluster.low(tp),
            self._cluster.high(tp),
            sound=is_position,
        )
        return None if found is None else decode_position(found.value or b"", self._group, self._logs)

    def _take_over(self, number: int, assignment: Assignment) -> LocalPosition:
        """End the rebuild that made the rows, which might still go on, and read what it did until then."""
        self._cluster.producer(rebuilds(self._changelog)).close()
        return self._replay_changelog(number, assignment)

    def _half_made(self) -> str:
        return (
            f"changelog '{self._changelog}' is being rebuilt and not complete: run 'fraudstream rebuild' "
            "until it says so, with all workers stopped that have the settings of before, or start the "
            "worker with the changelog that was used before (FRAUDSTREAM_TOPICS__CHANGELOG); it has to end, "
            "too, what is on its way between stages ('fraudstream pause --drain')"
        )

    def _claim(
        self,
        restored: Mapping[int, LocalPosition],
        committed: Mapping[TP, Committed | None],
        assignment: Assignment,
    ) -> dict[int, _Partition]:
        """Commit the same offsets under our name, so that the next owner knows whose transaction to end."""
        partitions: dict[int, _Partition] = {}
        claim: dict[TP, Committed] = {}
        started: dict[int, dict[str, int]] = {}
        for number, local in restored.items():
            opens = 0
            tries: dict[str, int] = {}
            inputs = dict(local.inputs)
            for topic in self._inputs:
                before = committed[topic, number]
                if before is None:
                    inputs[topic] = self._cluster.low((topic, number))
                    started[number] = inputs
                elif self._end_of((topic, number), before.offset, assignment) > before.offset:
                    owner = Owner.of(before)
                    # opened again by the process that opened it here before, nothing has crashed
                    again = self._begun_at.get((topic, number)) == before.offset
                    opens = max(opens, owner.opens + (0 if again else 1))
                    tries[topic] = owner.tries
            if number in self._made_anew:
                started[number] = inputs  # ours from here on: no rebuild goes on with it
            # the second open in vain
            care = _Care(attempt=1 if opens >= 2 else 0, tries=tries)
            partition = partitions[number] = _Partition(number, inputs, local.log, care, local.watermark)
            for topic in self._inputs:
                words = Owner(
                    self._name,
                    assignment.member,
                    opens=opens,
                    tries=tries.get(topic, 0),
                    changelog=self._changelog,
                )
                claim[topic, number] = words.left_with(partition.inputs[topic])
        if not claim:
            return partitions
        producer = self._producer
        assert producer is not None  # noqa: S101 (made by _open)
        self._check_current(assignment)
        producer.begin()
        for number, inputs in started.items():
            # only where an input or the changelog is new: elsewhere it would hide one that fell behind
            value = encode_position(inputs, self._group, self._logs, partitions[number].watermark)
            producer.produce(Produce(self._changelog, number, POSITION_KEY, value))
        producer.send_offsets(claim, assignment)
        delivered = producer.flush()
        producer.commit()
        self._begun_at |= {tp: words.offset for tp, words in claim.items()}
        self._made_anew = {}
        for number, inputs in started.items():
            after, partition = delivered[self._changelog, number] + 1, partitions[number]
            self._store.write(
                number,
                {},
                LocalPosition(inputs, after, partition.log, self._clock.wall(), partition.watermark),
            )
        return partitions

    def _end_of(self, tp: TP, position: int, assignment: Assignment) -> int:
        """The input's high watermark; refuses an input that ends before the position."""
        low = self._cluster.low(tp)
        if low > position:
            log.error(
                "records %d to %d of %s/%d were deleted before they were decided", position, low - 1, *tp
            )
        deadline = self._clock.monotonic() + self._limits.patience_s
        while (high := self._cluster.high(tp)) < position:
            self._check_current(assignment)
            if self._clock.monotonic() > deadline:
                raise Refused(
                    f"{tp[0]}/{tp[1]} ends at offset {high} and was decided up to {position}: the topic was "
                    "made anew or cut short. Bring its records back, or begin again with another group and "
                    "changelog (FRAUDSTREAM_GROUP, FRAUDSTREAM_TOPICS__CHANGELOG)"
                )
            self._clock.sleep(self._limits.pause_s)
        return high

    def _replay_changelog(self, number: int, assignment: Assignment) -> LocalPosition:
        """Replay the changelog onto the local rows up to its high watermark."""
        tp = (self._changelog, number)
        identity = self._cluster.log_id(self._changelog)
        # not the last stable offset: an owner's last transaction may be decided but not yet marked
        # in the changelog, while its offsets are already to be seen
        high = self._cluster.high(tp)
        local = self._store.position(number)
        if (
            local is None
            or local.log != identity
            or local.changelog > high
            or self._clock.wall() - local.stored_at > self._limits.tombstones_s
        ):
            self._store.clear(number)
            local = LocalPosition({}, self._cluster.low(tp), identity, self._clock.wall())
        while True:
            self._check_current(assignment)
            try:
                for chunk in self._cluster.read(tp, local.changelog, high):
                    local = self._replay(number, chunk, local)
            except NotStable as error:
                self._wait_for_stable(error)
                self._end_left_open(self._tps([number]))
            else:
                break
        if local.changelog < high:
            local = LocalPosition(local.inputs, high, identity, self._clock.wall(), local.watermark)
            self._store.write(number, {}, local)
        return local

    def _replay(self, number: int, chunk: Sequence[Record], local: LocalPosition) -> LocalPosition:
        rows: dict[bytes, bytes | None] = {}
        inputs, watermark = local.inputs, local.watermark
        for record in chunk:
            if record.key == POSITION_KEY and record.value is not None:
                try:
                    position = decode_position(record.value, self._group, self._logs)
                except msgspec.DecodeError:
                    # the offsets must agree with the last that one of ours left
                    log.error(  # noqa: TRY400 (its traceback says nothing more)
                        "%s/%d offset %d is no position that a worker wrote: passed over; see who else may "
                        "write to the changelog",
                        *(self._changelog, number, record.offset),
                    )
                else:
                    inputs, watermark = position.inputs, position.watermark
                    self._made_anew.pop(number, None)
                    if position.rebuilding is not None:
                        self._made_anew[number] = position
            elif record.key is not None:
                rows[record.key] = record.value
        replayed = LocalPosition(inputs, chunk[-1].offset + 1, local.log, self._clock.wall(), watermark)
        self._store.write(number, rows, replayed)
        return replayed

    def _disagreement(self, number: int, expected: Mapping[str, int], found: Mapping[str, int]) -> str:
        where = f"partition {number}: the group's offsets are {expected or 'missing'}, "
        where += f"the changelog '{self._changelog}' stands at {found or 'nothing'}; "
        if found and not expected:
            return where + (
                "the offsets have expired, or were deleted, be it with their topic: run 'fraudstream topics "
                "repair-offsets', which puts them back from the changelog or says why that can't be"
            )
        if all(found.get(topic, -1) >= offset for topic, offset in expected.items()):
            return where + (
                "the changelog already holds the orders in between, and deciding them again would count "
                "them twice: run 'fraudstream topics repair-offsets'"
            )
        return where + (
            "the changelog has lost records: restore the topic, or delete the group and the changelog "
            "and replay the orders"
        )

    def _check_current(self, assignment: Assignment) -> None:
        if self.mailbox.assignment is not assignment or self.mailbox.stopping:
            raise _Outdated

    def _check_not_held(self) -> None:
        if self.mailbox.held:
            raise _Held
