"""What was imported into an archive, before what was recorded: one past, read as if from the topics.

No broker has seen an import. Its records arrived when the order was placed or when it became known what it
turned out to be, at the latest when they were imported, and come in that order; their offsets lie below zero.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]

from stream.archive import ArchiveRecorded, opened
from stream.archive_files import records_in
from stream.archive_manifest import Imported
from stream.archive_place import ArchiveError, Place
from stream.archive_reading import FileGone, merged
from stream.merge import arrived_at
from stream.ports import TP, Record

__all__ = ["ImportsThenRecorded"]


class ImportsThenRecorded:
    """What an archive has, imports first. Raises ArchiveError.

    An offset below zero is a record's number among the imported ones of its partition, which begin at minus
    how many there are; another import changes it.
    """

    def __init__(self, place: Place | str) -> None:
        """Read the manifest; what is archived or imported later is not seen."""
        self._place = Place(place) if isinstance(place, str) else place
        self._manifest = opened(self._place)
        self._recorded = ArchiveRecorded(self._place)
        self._imports: dict[str, list[Imported]] = {}
        for each in self._manifest.imports:
            self._imports.setdefault(each.topic, []).append(each)
        files = [each for each in self._manifest.files if each.import_id is not None]
        self._days = {
            topic: sorted({each.day for each in files if each.topic == topic}) for topic in self._imports
        }
        self._begins: dict[TP, list[int]] = {}
        """Of each day so far: the offset of its first record."""
        self._day: dict[TP, tuple[int, list[Record]]] = {}
        """The day that was read last, because whoever merges comes back to it."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where the archive has no such topic."""
        imports = self._imports.get(topic, ())
        known = self._manifest.topics.get(topic)
        counts = {each.partitions for each in imports}
        if known is not None or not counts:
            counts.add(self._recorded.partitions(topic))
        if len(counts) > 1:
            told = ", ".join(map(str, sorted(counts)))
            raise ArchiveError(
                f"'{topic}' was imported into {self._place} for other numbers of partitions than it has, or "
                f"than were set before ({told}); import its files into a new archive, or leave what was "
                "imported out: --no-imports"
            )
        return counts.pop()

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is, below zero where something was imported, and the one after the last."""
        topic, partition = tp
        imports = self._imports.get(topic, ())
        for each in imports:
            if sum(each.counts.values()) != each.rows.count:
                raise ArchiveError(
                    f"'{each.file}' was imported into {self._place} by an earlier version, which counted "
                    "otherwise; import it into a new archive, or leave what was imported out: --no-imports"
                )
        count = sum(each.counts.get(partition, 0) for each in imports)
        if imports and topic not in self._manifest.topics:
            return -count, 0
        first, end = self._recorded.bounds(tp)
        return (-count if count else first), end

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Records in [start, end), in chunks that are not empty; erased ones are gaps."""
        if start < 0:
            for chunk in self._imported(tp, start):
                some = [each for each in chunk if start <= each.offset < end]
                if some:
                    yield some
                if chunk[-1].offset >= end - 1:
                    break
        if end > 0 and tp[0] in self._manifest.topics:
            yield from self._recorded.read(tp, max(start, 0), end)

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        """What the topic had lost before it was archived, and that was given up."""
        return self._recorded.gaps(tp)

    def close(self) -> None:
        """Nothing is kept open between two reads."""

    def _imported(self, tp: TP, start: int) -> Iterator[list[Record]]:
        """What was imported for a partition, a day at once, from the day on in which an offset lies.

        Files lie under the day of their records' arrival, so days in their order are records in theirs.
        """
        days = self._days.get(tp[0], ())
        begins = self._begins.setdefault(tp, [self.bounds(tp)[0]])
        for at in range(max(0, bisect_right(begins, start) - 1), len(days)):
            kept = self._day.get(tp)
            if kept is None or kept[0] != at:
                kept = self._day[tp] = (at, self._of_a_day(tp, days[at], begins[at]))
            records = kept[1]
            if at + 1 == len(begins):
                begins.append(begins[at] + len(records))
            if records:
                yield records
        self._day.pop(tp, None)

    def _of_a_day(self, tp: TP, day: str, first: int) -> list[Record]:
        """The records by arrival, those of one moment as they were imported."""
        topic, partition = tp
        found: list[tuple[int, Record]] = []
        for imported in self._imports[topic]:
            latest = int(datetime.fromisoformat(imported.at).timestamp() * 1000)
            for table in self._tables(imported.id, day):
                rows = table.filter(pc.equal(table.column("partition"), partition))
                found += [(min(arrived_at(each), latest), each) for each in records_in(topic, rows)]
        found.sort(key=itemgetter(0))
        return [
            each._replace(timestamp=arrived, offset=offset)
            for offset, (arrived, each) in enumerate(found, first)
        ]

    def _tables(self, import_id: str, day: str) -> list[Any]:
        """An import's rows of a day, in the order of its file."""
        while True:
            manifest = self._manifest
            files = [each for each in manifest.files if each.import_id == import_id and each.day == day]
            try:
                return list(merged(self._place, files))
            except FileGone:
                # a run made several files one meanwhile, or wrote one anew: the same rows lie elsewhere
                self._manifest = opened(self._place)
                if self._manifest.files == manifest.files:
                    raise
