"""The archive: past topics as a data set of Parquet files, each record in it exactly once.

What is written becomes part of the archive in three steps: the manifest names the files to come, the files
are written, the manifest names them as its own. A run that is killed between two of them leaves what the
next one finishes or undoes (docs/decisions/0013).
"""

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.archive_files import (
    SCHEMA_VERSION,
    chained,
    digests_in,
    digests_of,
    divided,
    erased,
    file_of,
    records_in,
    table_of,
)
from stream.archive_manifest import (
    DATA,
    MANIFEST,
    Erasure,
    FileEntry,
    Forgotten,
    Gap,
    Manifest,
    PartitionEntry,
    Pending,
    TopicEntry,
    load,
    store,
)
from stream.archive_place import ArchiveError, Place
from stream.archive_reading import FileGone, merged, table_in
from stream.ports import TP, Record, Unreachable
from stream.recorded import Recorded, TopicsRecorded
from stream.settings import Settings
from stream.topics import TopicError

__all__ = [
    "ArchivableTopics",
    "Archive",
    "ArchiveRecorded",
    "ArchiveSource",
    "Archived",
    "Limits",
    "archived_topics",
    "filed",
    "opened",
    "size_of",
]

_AT_ONCE: Final = 10_000
"""Records that are made columns together."""
_BYTES_AT_ONCE: Final = 32 * 1024 * 1024
_ANSWER_S: Final = 10.0


class ArchiveSource(Recorded, Protocol):
    """Recorded topics that can be told from others of the same name."""

    def topics(self) -> frozenset[str]:
        """The topics there are."""

    def cluster_id(self) -> str:
        """What tells this cluster from another."""

    def topic_id(self, topic: str) -> str:
        """What tells this topic from one of the same name made later."""


class ArchivableTopics(TopicsRecorded):
    """The topics of the settings' broker, to be archived. Raises Unreachable where that does not answer."""

    def __init__(self, settings: Settings) -> None:
        """Connect; nothing is joined or committed."""
        super().__init__(settings)
        self._admin = AdminClient(settings.confluent(log_level=0))
        self._cluster_id = str(self._list().cluster_id)

    def topics(self) -> frozenset[str]:
        """The topics there are now."""
        return frozenset(self._list().topics)

    def cluster_id(self) -> str:
        """What tells this cluster from another."""
        return self._cluster_id

    def _list(self) -> Any:
        try:
            return self._admin.list_topics(timeout=_ANSWER_S)
        except KafkaException as error:
            raise Unreachable(
                f"no broker answers at {self._settings.broker} ({error.args[0].str()}); see that it runs, "
                "or ask 'fraudstream doctor'"
            ) from error

    def topic_id(self, topic: str) -> str:
        """What tells this topic from one of the same name made later."""
        return self._cluster.log_id(topic)


def archived_topics(settings: Settings) -> tuple[str, ...]:
    """The topics that are archived: all of the settings but the changelog, which holds no events.

    What comes of others stands before them.
    """
    names = settings.topics
    of_workers = (names.decisions, names.decisions_shadow, names.rejected)
    stages = reversed(settings.stages.values())
    return (*of_workers, *stages, names.orders, names.outcomes, names.order_events, names.control)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is written in one commit, and how files are kept few."""

    records: int = 250_000
    """Records in one commit, at most about."""
    bytes: int = 192 * 1024 * 1024
    """Bytes of values in one commit, at most about."""
    files_a_day: int = 16
    """Files of one partition, day and country: more are made one before the day has ended."""
    compacted_bytes: int = 32 * 1024 * 1024
    """What files that are made one have together, at most."""
    compacted_rows: int = 500_000


@dataclass(slots=True)
class Archived:
    """What a run has done."""

    records: int = 0
    files: int = 0
    bytes: int = 0
    commits: int = 0
    compacted: int = 0
    """Files that were made part of larger ones."""
    seconds: float = 0.0
    was_stopped: bool = False
    by_topic: dict[str, int] = field(default_factory=dict)
    recovered: str = ""
    """What became of a run that was killed before."""
    expected: int = 0
    """Offsets between what was archived and the ends."""


Told = Callable[[Archived], None]


def opened(place: Place) -> Manifest:
    """The manifest of an archive that is there. Raises ArchiveError."""
    manifest = load(place)
    if manifest is None:
        raise ArchiveError(f"there is no archive in {place}; make one: fraudstream archive run --at {place}")
    return manifest


class _Building:
    """Records on their way into files, and what the manifest will say once they are there."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.partitions: dict[TP, PartitionEntry] = {}
        self.tables: dict[tuple[str, int, str, str], list[Any]] = {}
        self.records = 0
        self.bytes = 0
        self.by_topic: dict[str, int] = {}

    def entry(self, tp: TP) -> PartitionEntry:
        """The partition as it will be, to be changed."""
        if (entry := self.partitions.get(tp)) is None:
            entry = self.partitions[tp] = deepcopy(self._manifest.topics[tp[0]].partitions[tp[1]])
        return entry

    def add(
        self, tp: TP, records: Sequence[Record], is_erased: Callable[[Record, str | None], bool] | None
    ) -> None:
        """Take records that follow on those before."""
        if not records:
            return
        digests = digests_of(records)
        table, homes = table_of(records, digests=digests, is_erased=is_erased)
        for (day, country), part in divided(table, homes):
            self.tables.setdefault((*tp, day, country), []).append(part)
        entry = self.entry(tp)
        if not entry.count:
            entry.first = records[0].offset
        entry.count += len(records)
        entry.next = records[-1].offset + 1
        entry.digest = chained(bytes.fromhex(entry.digest), digests).hex()
        self.records += len(records)
        self.bytes += table.nbytes
        self.by_topic[tp[0]] = self.by_topic.get(tp[0], 0) + len(records)

    def reached(self, tp: TP, end: int) -> None:
        """Nothing more comes before this offset."""
        if (entry := self.entry(tp)).next != end:
            entry.next = end
            if not entry.count:
                entry.first = end

    def pending(self) -> Pending:
        """What will be written."""
        partitions: dict[str, dict[int, PartitionEntry]] = {}
        for (topic, partition), entry in self.partitions.items():
            if entry != self._manifest.topics[topic].partitions[partition]:
                partitions.setdefault(topic, {})[partition] = entry
        return Pending("append", partitions=partitions)


class Archive:
    """The one writer of an archive; leaving the block lets another in. Raises ArchiveError."""

    def __init__(self, place: Place, limits: Limits | None = None) -> None:
        """Finish or undo what a run that was killed has left."""
        self.place = place
        self.limits = limits or Limits()
        self.recovered = ""
        self._stored = b""
        place.lock()
        try:
            self.manifest = load(place) or Manifest(salt=secrets.token_hex(16))
            self.manifest.schema = SCHEMA_VERSION
            self._recover()
        except BaseException:
            place.unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.place.unlock()

    # ------------------------------------------------------------------ commits

    def _recover(self) -> None:
        pending = self.manifest.pending
        self._refuse_what_is_not_ours(pending)
        self.place.sweep_aside()
        if pending is not None:
            # an import is whole once the manifest names it, whatever there is of its files
            if pending.what != "import" and all(self._is_whole(file) for file in pending.writes):
                self._apply(pending)
                self.recovered = f"finished the {pending.what} of a run that was ended"
            else:
                self._give_up(pending)
                self.recovered = f"undid the {pending.what} of a run that was ended"
            self.save()
        self._delete_obsolete()
        if self.manifest.is_erasing:
            self._erase_rows()
            self.recovered += f"{'; ' if self.recovered else ''}finished an erasure that was ended"

    def _refuse_what_is_not_ours(self, pending: Pending | None) -> None:
        """Refuse where files lie that the manifest knows nothing of: they may be all that is left of records.

        A manifest names files before they are written and until they are deleted, so these are no leftovers
        of a run: the manifest is lost or an older one, or `data` is somebody's own folder.
        """
        known = {file.path for file in self.manifest.files}.union(self.manifest.obsolete)
        if pending is not None:
            known.update(file.path for file in pending.writes)
        unknown = sorted(path for path in self.place.sizes(DATA) if path not in known)
        if unknown and not known:
            raise ArchiveError(
                f"{self.place} has files in {DATA}, such as {unknown[0]}, and its {MANIFEST} names none; get "
                "the manifest back from a backup, or archive into an empty place"
            )
        if unknown := [path for path in unknown if path.endswith(".parquet")]:
            raise ArchiveError(
                f"{self.place} has {len(unknown):,} files that its {MANIFEST} does not name, such as "
                f"{unknown[0]}; if the manifest is an older one, as from a backup, get the newest; else move "
                "these files away"
            )

    def _give_up(self, pending: Pending) -> None:
        """What was to be written is to be deleted."""
        self.manifest.pending = None
        self.manifest.obsolete = [*self.manifest.obsolete, *(file.path for file in pending.writes)]

    def _delete_obsolete(self) -> None:
        named = {file.path for file in self.manifest.files}
        self.place.delete(path for path in self.manifest.obsolete if path not in named)
        self.manifest.obsolete = []

    def _is_whole(self, file: FileEntry) -> bool:
        try:
            return hashlib.sha256(self.place.read(file.path)).hexdigest() == file.sha256
        except FileNotFoundError:
            return False

    def commit(self, pending: Pending, contents: Mapping[str, bytes]) -> None:
        """Make all of it part of the archive, or nothing."""
        if contents:
            self.manifest.pending = pending
            self.save()
            self.place.write(contents)
        self._apply(pending)
        self.save()
        self._delete_obsolete()

    def write_ahead(self, pending: Pending, contents: Mapping[str, bytes]) -> None:
        """Write files that become part of the archive when `pending` is committed, or are undone."""
        self.manifest.pending = pending
        self.save()
        self.place.write(contents)

    def undo(self) -> None:
        """Delete what was written ahead."""
        pending = self.manifest.pending
        if pending is not None:
            self._give_up(pending)
            self.save()
            self._delete_obsolete()

    def save(self) -> None:
        """Replace the manifest where it says anything new."""
        if (said := msgspec.json.encode(self.manifest)) != self._stored:
            store(self.place, self.manifest)
            self._stored = said

    def _apply(self, pending: Pending) -> None:
        manifest = self.manifest
        manifest.pending = None
        gone = set(pending.replaces)
        manifest.files = [file for file in manifest.files if file.path not in gone] + pending.writes
        for topic, partitions in pending.partitions.items():
            manifest.topics[topic].partitions.update(partitions)
        manifest.obsolete = pending.replaces

    # ------------------------------------------------------------------ topics to files

    def append(
        self,
        source: ArchiveSource,
        topics: Iterable[str],
        *,
        accept_gap: bool = False,
        stopping: Callable[[], bool] = lambda: False,
        told: Told = lambda _: None,
    ) -> Archived:
        """Archive what the topics have gained since, up to their ends as of now.

        Topics that come of others are named before them: then what a record speaks of is archived with it,
        and before it.
        Raises ArchiveError where records are lost that were not archived, or a topic is not the one that
        was archived before; `accept_gap` notes what is lost in the manifest and goes on.
        """
        began = time.monotonic()
        done = Archived(recovered=self.recovered)
        self.recovered = ""
        # asked last where it ends, a cause has all that its effects name; written first, none waits for it
        ranges = self._ranges(source, list(dict.fromkeys(topics)), accept_gap=accept_gap)[::-1]
        done.expected = sum(end - start for _, start, end in ranges)
        building, is_erased = _Building(self.manifest), self.is_erased
        at_once = min(_AT_ONCE, self.limits.records)
        for tp, start, end in ranges:
            held: list[Record] = []
            held_bytes = 0
            lost: Gap | None = None
            for chunk in _without_holes(source, tp, start, end):
                if isinstance(chunk, Gap):
                    lost = chunk
                    if not accept_gap:
                        break
                    self.manifest.gaps.append(lost)
                    continue
                held += chunk
                held_bytes += size_of(chunk)
                if len(held) < at_once and held_bytes < _BYTES_AT_ONCE and not stopping():
                    continue
                building.add(tp, held, is_erased)
                held, held_bytes = [], 0
                if stopping():
                    break
                if building.records >= self.limits.records or building.bytes >= self.limits.bytes:
                    self._settle(building, done, began, told)
                    building = _Building(self.manifest)
            if lost is not None and not accept_gap:
                building.add(tp, held, is_erased)
                self._settle(building, done, began, told)
                raise _lost([lost])
            if stopping():
                done.was_stopped = True
                break
            building.add(tp, held, is_erased)
            building.reached(tp, end)
            if building.records >= self.limits.records or building.bytes >= self.limits.bytes:
                self._settle(building, done, began, told)
                building = _Building(self.manifest)
        self._settle(building, done, began, told)
        self.save()
        done.seconds = time.monotonic() - began
        return done

    def _settle(self, building: _Building, done: Archived, began: float, told: Told) -> None:
        pending = building.pending()
        if not pending.partitions:
            return
        contents: dict[str, bytes] = {}
        for (topic, partition, day, country), tables in building.tables.items():
            entry, content = filed(tables, topic, (day, country), partition)
            pending.writes.append(entry)
            contents[entry.path] = content
        self.commit(pending, contents)
        done.commits += 1
        done.records += building.records
        done.files += len(contents)
        done.bytes += sum(map(len, contents.values()))
        for topic, count in building.by_topic.items():
            done.by_topic[topic] = done.by_topic.get(topic, 0) + count
        done.seconds = time.monotonic() - began
        told(done)

    def compact(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Make small files one: those of finished days, and of today's where they are many; says how many."""
        today = datetime.now(UTC).date().isoformat()
        groups: dict[tuple[str, int, str, str, str], list[FileEntry]] = {}
        for file in self.manifest.files:
            home = (file.topic, file.partition, file.day, file.country, file.import_id or "")
            groups.setdefault(home, []).append(file)
        pending, contents, compacted = Pending("compact"), dict[str, bytes](), 0
        for (topic, partition, day, country, import_id), files in sorted(groups.items()):
            if day >= today and len(files) <= self.limits.files_a_day:
                continue
            for run in self._small(files):
                if stopping():
                    break
                tables = [table_in(self.place, file) for file in run]
                entry, content = filed(tables, topic, (day, country), partition, import_id or None)
                pending.writes.append(entry)
                pending.replaces += [file.path for file in run]
                contents[entry.path] = content
                compacted += len(run)
                if sum(map(len, contents.values())) >= self.limits.compacted_bytes:
                    self.commit(pending, contents)
                    pending, contents = Pending("compact"), {}
        if contents:
            self.commit(pending, contents)
        return compacted

    def _small(self, files: Iterable[FileEntry]) -> Iterator[list[FileEntry]]:
        """Files that follow on each other and are small enough to be one."""
        run: list[FileEntry] = []
        for file in sorted(files, key=lambda file: file.first):
            if (
                sum(each.bytes for each in run) + file.bytes > self.limits.compacted_bytes
                or sum(each.rows for each in run) + file.rows > self.limits.compacted_rows
                or sum(each.plain for each in run) + file.plain > self.limits.bytes
            ):
                if len(run) > 1:
                    yield run
                run = []
            # one that is large already is not written again for every small one behind it
            if file.bytes <= self.limits.compacted_bytes // 2 and file.plain <= self.limits.bytes // 2:
                run.append(file)
        if len(run) > 1:
            yield run

    # ------------------------------------------------------------------ what is no longer kept

    def forget(self, topic: str, before: date) -> int:
        """Delete the days of a topic before this one, and say how many records they had.

        Later runs go on as before: what was forgotten does not come back. Raises ArchiveError.
        """
        manifest, day = self.manifest, before.isoformat()
        if (known := manifest.topics.get(topic)) is None and not any(
            each.topic == topic for each in manifest.imports
        ):
            raise ArchiveError(
                f"the archive {self.place} has no topic '{topic}'; see fraudstream archive status"
            )
        gone = [file for file in manifest.files if file.topic == topic and file.day < day]
        if not gone:
            return 0
        pending = Pending("forget", replaces=[file.path for file in gone])
        files = [file for file in manifest.files if file.topic == topic and file.day >= day]
        through: dict[int, int] = {}
        for partition, entry in () if known is None else known.partitions.items():
            through[partition] = entry.next
            if any(file.partition == partition and file.import_id is None for file in gone):
                kept = [file for file in files if file.partition == partition and file.import_id is None]
                pending.partitions.setdefault(topic, {})[partition] = self._counted(topic, kept, entry)
        for imported in manifest.imports:
            if any(file.import_id == imported.id for file in gone):
                kept = [file for file in files if file.import_id == imported.id]
                imported.rows = self._counted(topic, kept, imported.rows)
                imported.counts = Counter(
                    partition
                    for table in merged(self.place, kept)
                    for partition in table.column("partition").to_pylist()
                )
        records = sum(file.rows for file in gone)
        manifest.forgotten.append(Forgotten(topic, day, through, records, _now()))
        self.commit(pending, {})
        return records

    def _counted(self, topic: str, files: Sequence[FileEntry], before: PartitionEntry) -> PartitionEntry:
        """What is left of a partition in these files."""
        entry = PartitionEntry(next=before.next, first=before.next)
        for table in merged(self.place, files):
            if not entry.count:
                entry.first = table.column("offset")[0].as_py()
            entry.count += len(table)
            entry.digest = chained(bytes.fromhex(entry.digest), digests_in(topic, table)).hex()
        return entry

    def erase(self, customers: Iterable[str], why: str) -> int:
        """Leave nothing of these customers' records but where they stood; says of how many records.

        Runs from now on erase what they bring of these customers before it is written. Imports too.
        """
        manifest = self.manifest
        hashes = {self._hash(customer.encode()) for customer in customers}
        manifest.erasures.append(Erasure(why, _now(), len(hashes)))
        manifest.erased = sorted(hashes.union(manifest.erased))
        manifest.is_erasing = True
        self.save()
        return self._erase_rows()

    def _erase_rows(self) -> int:
        is_erased = self.is_erased
        rows = 0
        pending, contents = Pending("erase"), dict[str, bytes]()
        for file in list(self.manifest.files):
            table = table_in(self.place, file)
            records = records_in(file.topic, table, with_erased=True)
            customers: list[str | None] = table.column("customer_id").to_pylist()
            marks = [
                is_erased is not None and is_erased(record, customer)
                for record, customer in zip(records, customers, strict=True)
            ]
            if not any(marks):
                continue
            rows += sum(marks)
            entry, content = revised(file, erased(table, marks, digests_in(file.topic, table)))
            pending.writes.append(entry)
            pending.replaces.append(file.path)
            contents[entry.path] = content
            if sum(map(len, contents.values())) >= self.limits.compacted_bytes:
                self.commit(pending, contents)
                pending, contents = Pending("erase"), {}
        self.commit(pending, contents)
        self.manifest.is_erasing = False  # not before: the commit may be undone
        self.save()
        return rows

    @property
    def is_erased(self) -> Callable[[Record, str | None], bool] | None:
        """Whether a record is of a customer who was erased; None while nobody was.

        It is one of theirs where it names them or has them as its key, as every topic of orders has.
        """
        if not self.manifest.erased:
            return None
        hashes = frozenset(self.manifest.erased)

        @lru_cache(100_000)
        def is_one(customer: bytes) -> bool:
            return self._hash(customer) in hashes

        def is_erased(record: Record, customer: str | None) -> bool:
            return (record.key is not None and is_one(record.key)) or (
                customer is not None and is_one(customer.encode())
            )

        return is_erased

    def _hash(self, customer: bytes) -> str:
        return hashlib.blake2b(customer, digest_size=20, key=bytes.fromhex(self.manifest.salt)).hexdigest()

    # ------------------------------------------------------------------ what may be archived

    def _ranges(
        self, source: ArchiveSource, topics: Sequence[str], *, accept_gap: bool
    ) -> list[tuple[TP, int, int]]:
        """What is to be read of each partition, after every question whether it may be."""
        manifest = self.manifest
        cluster = source.cluster_id()
        if manifest.cluster not in {None, cluster}:
            raise ArchiveError(
                f"the archive {self.place} is of the cluster {manifest.cluster} and this broker is of "
                f"{cluster}; archive it into another place, or set FRAUDSTREAM_BROKER to the first one"
            )
        manifest.cluster = cluster
        found: list[tuple[TP, int, int]] = []
        gaps: list[Gap] = []
        for topic in topics:
            known = self._known(source, topic)
            for partition, entry in known.partitions.items():
                tp = (topic, partition)
                low, end = source.bounds(tp)
                start = entry.next
                if start < 0:  # the archive begins here
                    entry.first = entry.next = start = low
                if end < start:
                    raise ArchiveError(
                        f"{topic}/{partition} ends at offset {end:,} and is archived up to {start:,}: the "
                        "topic has lost its newest records; restore it, or archive into another place"
                    )
                if low > start:
                    gaps.append(Gap(topic, partition, start, low, _now()))
                    start = low
                if start < end:
                    found.append((tp, start, end))
        if gaps and not accept_gap:
            raise _lost(gaps)
        for gap in gaps:
            entry = manifest.topics[gap.topic].partitions[gap.partition]
            entry.next = gap.end
            if not entry.count:
                entry.first = gap.end
        manifest.gaps += gaps
        return found

    def _known(self, source: ArchiveSource, topic: str) -> TopicEntry:
        """The topic as the archive has it, which it must still be."""
        identity, partitions = source.topic_id(topic), source.partitions(topic)
        if (known := self.manifest.topics.get(topic)) is None:
            entries = {number: PartitionEntry(next=-1, first=-1) for number in range(partitions)}
            known = self.manifest.topics[topic] = TopicEntry(identity, entries)
            return known
        if known.id != identity:
            raise ArchiveError(
                f"topic '{topic}' was deleted and made anew since it was archived: its offsets begin again "
                f"and can't follow on those in {self.place}; archive into another place, "
                "or leave the topic out: --topic names the others"
            )
        for number in range(len(known.partitions), partitions):
            known.partitions[number] = PartitionEntry(next=-1, first=-1)
        return known


def _lost(gaps: Sequence[Gap]) -> ArchiveError:
    first, *others = gaps
    more = f", and of {len(others)} more partitions" if others else ""
    return ArchiveError(
        f"{first.topic}/{first.partition} no longer has the offsets {first.start:,} to "
        f"{first.end - 1:,}{more}: they were deleted before they were archived; "
        "go on without them and note it in the manifest: --accept-gap"
    )


def _without_holes(source: ArchiveSource, tp: TP, start: int, end: int) -> Iterator[Sequence[Record] | Gap]:
    """What the topic has, and in its place what its retention deletes while this is read.

    A reader is then moved to what is left without a word, and transactions leave gaps of their own.
    """
    at = start
    for chunk in source.read(tp, start, end):
        after = chunk[-1].offset + 1
        if after - at != len(chunk) and (low := source.bounds(tp)[0]) > at:
            for number, record in enumerate(chunk):
                if at < record.offset and at < low:
                    if number:
                        yield chunk[:number]
                    yield Gap(*tp, at, min(low, record.offset), _now())
                    yield chunk[number:]
                    break
                at = record.offset + 1
            else:
                yield chunk
        else:
            yield chunk
        at = after
    if at < end and (low := source.bounds(tp)[0]) > at:
        yield Gap(*tp, at, min(low, end), _now())


def size_of(records: Iterable[Record]) -> int:
    """Bytes that they take, about: of their keys, values and headers."""
    return sum(
        [
            len(record.value or b"")
            + len(record.key or b"")
            + (sum([len(value or b"") for _, value in record.headers]) if record.headers else 0)
            for record in records
        ]
    )


def filed(
    tables: Sequence[Any],
    topic: str,
    home: tuple[str, str],
    partition: int,
    import_id: str | None = None,
) -> tuple[FileEntry, bytes]:
    """Rows of one partition, day and country as a file, and what the manifest says of it."""
    content = file_of(tables)
    day, country = home
    first = tables[0].column("offset")[0].as_py()
    last = tables[-1].column("offset")[-1].as_py()
    of = str(partition) if import_id is None else f"import-{import_id}"
    entry = FileEntry(
        path=f"{DATA}/topic={topic}/day={day}/country={country}/{of}-{first}-{last}.parquet",
        topic=topic,
        day=day,
        country=country,
        partition=partition,
        first=first,
        last=last,
        rows=sum(map(len, tables)),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        import_id=import_id,
        plain=sum(table.nbytes for table in tables),
    )
    return entry, content


def revised(file: FileEntry, table: Any) -> tuple[FileEntry, bytes]:
    """The file with other rows in it, under another name: until it is whole, the one before is."""
    content = file_of([table])
    # of the name, because a topic's may have an '.r' in it too
    folder, _, own = file.path.removesuffix(".parquet").rpartition("/")
    name, _, revision = own.partition(".r")
    entry = msgspec.structs.replace(
        file,
        path=f"{folder}/{name}.r{int(revision or 0) + 1}.parquet",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        plain=table.nbytes,
    )
    return entry, content


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------------- files to records


class ArchiveRecorded:
    """What an archive has of topics, read as if from the topics themselves. Raises ArchiveError."""

    def __init__(self, place: Place | str) -> None:
        """Read the manifest; what is archived later is not seen."""
        self._place = Place(place) if isinstance(place, str) else place
        self._manifest = opened(self._place)

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where the archive has no such topic."""
        return len(self._topic(topic).partitions)

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is, and the one after the last that was archived."""
        if (entry := self._topic(tp[0]).partitions.get(tp[1])) is None:
            raise TopicError(
                f"the archive {self._place} has no partition {tp[1]} of '{tp[0]}'; archive what came since: "
                f"fraudstream archive run --at {self._place}"
            )
        return entry.first, entry.next

    def topic_id(self, topic: str) -> str:
        """What tells the topic that was archived from one of the same name made later. Raises TopicError."""
        return self._topic(topic).id

    def imported(self, topic: str) -> int:
        """How many records of the topic were imported; nothing here gives them."""
        return sum(each.rows.count for each in self._manifest.imports if each.topic == topic)

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        """What the topic had lost before it was archived, and that was given up."""
        return [(gap.start, gap.end) for gap in self._manifest.gaps if (gap.topic, gap.partition) == tp]

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Records in [start, end), in chunks that are not empty; erased ones are gaps."""
        at = start
        while True:
            self._topic(tp[0])
            manifest = self._manifest
            files = [
                file
                for file in manifest.files
                if (file.topic, file.partition) == tp and file.import_id is None
            ]
            try:
                for table in merged(self._place, files, at, end):
                    at = table.column("offset")[-1].as_py() + 1
                    if records := records_in(tp[0], table):
                        yield records
            except FileGone:
                # a run made several files one meanwhile, or wrote one anew: the same rows lie elsewhere
                self._manifest = opened(self._place)
                if self._manifest.files == manifest.files:
                    raise
            else:
                return

    def close(self) -> None:
        """Nothing is kept open between two reads."""

    def _topic(self, topic: str) -> TopicEntry:
        if (found := self._manifest.topics.get(topic)) is None:
            there = ", ".join(sorted(self._manifest.topics)) or "none"
            if self.imported(topic):
                raise TopicError(
                    f"the archive {self._place} has of '{topic}' only what was imported, which no worker has "
                    "seen; to have workers remember it, publish its file: fraudstream publish FILE --history"
                )
            raise TopicError(f"the archive {self._place} has no topic '{topic}'; it has {there}")
        return found
