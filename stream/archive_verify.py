"""Whether an archive is whole: its files, its records, and the topics they came from."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from stream.archive import ArchiveSource, opened
from stream.archive_files import NO_RECORDS, chained, day_of, digests_in, digests_of
from stream.archive_manifest import DATA, Imported, Manifest
from stream.archive_place import ArchiveError, Place
from stream.archive_reading import merged
from stream.ports import TP

__all__ = ["Held", "Verified", "holdings", "verify"]

_TOLD: Final = 10
"""Differences between records of one partition that are told one by one."""


@dataclass(slots=True)
class Verified:
    """What was looked at, and every difference with its place and cause."""

    files: int = 0
    records: int = 0
    compared: int = 0
    """Records that the topics still have and that were held against the archive's."""
    behind: int | None = None
    """Offsets that the topics have and the archive has not; None when they were not asked."""
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def shown(self, place: str) -> str:
        """The sums, as a person reads them."""
        said = f"{place}: {self.records:,} records in {self.files:,} files"
        if self.behind is not None:
            said += f", {self.compared:,} of them compared with the topics, which are {self.behind:,} ahead"
        if self.differences:
            return f"{said}; {len(self.differences):,} differences"
        return f"{said}; all of it is whole and there once"


def verify(place: Place, source: ArchiveSource | None = None, expected: Iterable[str] = ()) -> Verified:
    """Hold the archive against its manifest, and against the topics where they are given.

    Topics that are there and expected, and were never archived, are noted.

    Raises ArchiveError where there is no archive or its manifest can't be read.
    """
    began = time.monotonic()
    manifest = opened(place)
    found = Verified(notes=_losses(manifest))
    _files(place, manifest, found)
    if source is not None:
        found.behind = 0
        if manifest.cluster is None:
            source = None  # of imports alone
        elif source.cluster_id() != manifest.cluster:
            found.differences.append(
                f"the archive is of the cluster {manifest.cluster} and the broker of {source.cluster_id()}"
            )
            source = None
    for topic, entry in sorted(manifest.topics.items()):
        its_source = source
        if source is not None:
            if topic not in source.topics():
                found.notes.append(f"topic '{topic}' is no longer there; only the archive has it")
                its_source = None
            elif source.topic_id(topic) != entry.id:
                found.differences.append(
                    f"topic '{topic}' was made anew since: the archive has {entry.id} and the broker "
                    f"{source.topic_id(topic)}"
                )
                its_source = None
        for partition in entry.partitions:
            _Line(place, manifest, (topic, partition), found).look(its_source)
        if its_source is not None:
            _new_partitions(its_source, topic, len(entry.partitions), found)
    if source is not None:
        for topic in source.topics().intersection(expected).difference(manifest.topics):
            found.notes.append(f"topic '{topic}' was never archived; fraudstream archive run --at {place}")
            _new_partitions(source, topic, 0, found)
    for imported in manifest.imports:
        _Line(place, manifest, imported, found).look(None)
    found.seconds = time.monotonic() - began
    return found


def _new_partitions(source: ArchiveSource, topic: str, known: int, found: Verified) -> None:
    """Partitions that the topic got since the last run are not archived yet."""
    for partition in range(known, source.partitions(topic)):
        low, end = source.bounds((topic, partition))
        found.behind = (found.behind or 0) + end - low
        if known:
            found.notes.append(f"{topic}/{partition} was added since the last run, and is not archived yet")


def _losses(manifest: Manifest) -> list[str]:
    """What the archive says it has not, although it was recorded."""
    return [
        f"{gap.topic}/{gap.partition} lacks the offsets {gap.start:,} to {gap.end - 1:,}, which the "
        f"topic had lost before; accepted at {gap.accepted_at}"
        for gap in manifest.gaps
    ] + [
        f"'{each.topic}' lacks {each.records:,} records of before {each.before}, forgotten at {each.at}"
        for each in manifest.forgotten
    ]


def _files(place: Place, manifest: Manifest, found: Verified) -> None:
    sizes = place.sizes(DATA)
    expected = {file.path for file in manifest.files}
    if len(expected) < len(manifest.files):
        found.differences.append("the manifest names a file twice")
    on_their_way = set(manifest.obsolete)
    if manifest.pending is not None:
        on_their_way |= {file.path for file in manifest.pending.writes}
        found.notes.append(
            f"a run was ended, or is under way, in the middle of its {manifest.pending.what}; "
            "the next run finishes or undoes it"
        )
    for path in sorted(sizes.keys() - expected - on_their_way):
        found.differences.append(
            f"{path}: is there and the manifest does not name it; is the manifest an older one, as from a "
            "backup? else move the file away"
        )
    for file in manifest.files:
        found.files += 1
        try:
            digest = hashlib.sha256(place.read(file.path)).hexdigest()
        except FileNotFoundError:
            found.differences.append(f"{file.path}: the manifest names it and it is not there")
            continue
        if digest != file.sha256:
            found.differences.append(
                f"{file.path}: its bytes were changed, they have the sha256 {digest} and the manifest says "
                f"{file.sha256}"
            )


_Row = tuple[int, bytes, int]
"""An offset, the record's digest, and when it was appended."""


class _Line:
    """One partition or import: its rows against the manifest, and against its topic."""

    def __init__(self, place: Place, manifest: Manifest, line: TP | Imported, found: Verified) -> None:
        self._place, self._manifest, self._found = place, manifest, found
        if isinstance(line, Imported):
            self._topic, self._partition = line.topic, -1
            self._said, self._state, of_import = f"import {line.id}", line.rows, line.id
        else:
            self._topic, self._partition = line
            self._said, of_import = f"{line[0]}/{line[1]}", None
            self._state = manifest.topics[self._topic].partitions[self._partition]
        self._files = [
            file
            for file in manifest.files
            if (file.topic, file.partition, file.import_id) == (self._topic, self._partition, of_import)
        ]
        self._count = 0
        self._first = self._last = -1
        self._digest = NO_RECORDS
        self._told = 0

    def look(self, source: ArchiveSource | None) -> None:
        """Tell every difference."""
        try:
            if source is None:
                for _ in self._rows():
                    pass
            else:
                self._compare(source)
        except (ArchiveError, OSError) as error:
            self._differs(str(error))
            return
        state = self._state
        self._found.records += self._count
        if self._told > _TOLD:
            self._differs(f"{self._told - _TOLD:,} more records differ")
        if self._count != state.count:
            self._differs(f"has {self._count:,} records and the manifest says {state.count:,}")
        if (rows := sum(file.rows for file in self._files)) != self._count:
            self._differs(f"has {self._count:,} records and the manifest's files say {rows:,}")
        if self._digest.hex() != state.digest:
            self._differs(
                f"its records have the digest {self._digest.hex()} and the manifest says {state.digest}"
            )
        if self._count and self._first != state.first:
            self._differs(f"begins at offset {self._first:,} and the manifest says {state.first:,}")
        if self._last >= max(state.next, 0):
            self._differs(f"has offset {self._last:,} and the manifest says it ends before {state.next:,}")

    def _differs(self, what: str) -> None:
        self._found.differences.append(f"{self._said}: {what}")

    def _record_differs(self, offset: int, what: str) -> None:
        self._told += 1
        if self._told <= _TOLD:
            self._found.differences.append(f"{self._said} offset {offset:,}: {what}")

    def _rows(self) -> Iterator[_Row]:
        """Each row, checked against the one before."""
        for table in merged(self._place, self._files):
            offsets: list[int] = table.column("offset").to_pylist()
            partitions = set(table.column("partition").to_pylist())
            if self._partition >= 0 and partitions != {self._partition}:
                self._differs("has rows of another partition")
            if self._first < 0:
                self._first = offsets[0]
            for offset in offsets:
                if offset <= self._last:
                    self._record_differs(offset, "is there twice, or not in its place")
                self._last = offset
            digests = digests_in(self._topic, table)
            self._count += len(offsets)
            self._digest = chained(self._digest, digests)
            times = table.column("appended_at").cast("int64").to_pylist()
            yield from zip(offsets, digests, (each or 0 for each in times), strict=True)

    def _compare(self, source: ArchiveSource) -> None:
        tp = (self._topic, self._partition)
        low, end = source.bounds(tp)
        following = self._state.next
        if end < following:
            self._differs(f"is archived up to offset {following:,} and the topic ends at {end:,}")
        self._found.behind = (self._found.behind or 0) + max(0, end - max(following, low))
        theirs = _recorded(source, tp, low, min(end, following))
        other = next(theirs, None)
        for offset, digest, _ in self._rows():
            while other is not None and other[0] < offset:
                self._missing(other)
                other = next(theirs, None)
            if other is None or other[0] > offset:
                if low <= offset < end:
                    self._record_differs(offset, "the archive has it and the topic has not")
                continue
            self._found.compared += 1
            if other[1] != digest:
                self._record_differs(offset, "the archive has another record than the topic")
            other = next(theirs, None)
        while other is not None:
            self._missing(other)
            other = next(theirs, None)

    def _missing(self, row: _Row) -> None:
        """The topic has a record that the archive has not: it may have been forgotten, or given up."""
        offset, _, timestamp = row
        topic, partition = self._topic, self._partition
        day = day_of(timestamp)
        if not any(
            each.topic == topic and offset < each.through.get(partition, 0) and day < each.before
            for each in self._manifest.forgotten
        ) and not any(
            (gap.topic, gap.partition) == (topic, partition) and gap.start <= offset < gap.end
            for gap in self._manifest.gaps
        ):
            self._record_differs(offset, "the topic has it and the archive has not")


def _recorded(source: ArchiveSource, tp: TP, start: int, end: int) -> Iterator[_Row]:
    for chunk in source.read(tp, start, end) if start < end else ():
        for record, digest in zip(chunk, digests_of(chunk), strict=True):
            yield record.offset, digest, record.timestamp


# ---------------------------------------------------------------------- what it holds


@dataclass(frozen=True, slots=True)
class Held:
    """What an archive holds of a topic."""

    topic: str
    partitions: int
    records: int
    files: int
    bytes: int
    first_day: str | None
    last_day: str | None
    imported: int = 0
    behind: int | None = None
    """Offsets that the topic has and the archive has not; None when it was not asked or is gone."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        each = self.records + self.imported
        return asdict(self) | {"bytes_a_record": round(self.bytes / each, 1) if each else None}

    def shown(self) -> str:
        """The same in a line."""
        each = self.records + self.imported
        days = "" if self.first_day is None else f", {self.first_day} to {self.last_day}"
        size = f", {self.bytes / each:,.0f} bytes a record" if each else ""
        imported = f" and {self.imported:,} imported" if self.imported else ""
        behind = "" if self.behind is None else f"; {self.behind:,} behind"
        return (
            f"{self.topic}: {self.records:,} records{imported} of {self.partitions} partitions{days} in "
            f"{self.files:,} files of {self.bytes:,} bytes{size}{behind}"
        )


def holdings(place: Place, source: ArchiveSource | None = None) -> list[Held]:
    """What the archive holds of each topic. Raises ArchiveError."""
    manifest = opened(place)
    held = []
    for topic in sorted({*manifest.topics, *(each.topic for each in manifest.imports)}):
        entry = manifest.topics.get(topic)
        partitions = {} if entry is None else entry.partitions
        files = [file for file in manifest.files if file.topic == topic]
        days = sorted(file.day for file in files)
        behind = None
        if (
            source is not None
            and entry is not None
            and topic in source.topics()
            and source.topic_id(topic) == entry.id
        ):
            behind = 0
            for partition, state in partitions.items():
                low, end = source.bounds((topic, partition))
                behind += max(0, end - max(low, state.next))
        held.append(
            Held(
                topic=topic,
                partitions=len(partitions),
                records=sum(state.count for state in partitions.values()),
                files=len(files),
                bytes=sum(file.bytes for file in files),
                first_day=days[0] if days else None,
                last_day=days[-1] if days else None,
                imported=sum(file.rows for file in files if file.import_id is not None),
                behind=behind,
            )
        )
    return held
