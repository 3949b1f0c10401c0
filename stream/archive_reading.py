"""Rows of a partition in the order of their offsets, out of files by day and country."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from stream.archive_files import ROWS_A_GROUP, SCHEMA, as_current
from stream.archive_manifest import FileEntry
from stream.archive_place import ArchiveError, Place

__all__ = ["NEEDED", "FileGone", "merged", "table_in"]

NEEDED: Final = ("partition", "offset", "appended_at", "key", "value", "headers", "erased", "digest")
"""The columns that make a record."""
_ROWS_AHEAD: Final = 65_536
"""Files are opened ahead as long as fewer rows are in memory."""
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024


class FileGone(ArchiveError):
    """A file that the manifest names is not there; where a run replaced it, the newest manifest knows."""


def table_in(place: Place, file: FileEntry) -> pa.Table:
    """All of a file, with the columns of today. Raises ArchiveError."""
    try:
        with _opened(place, file) as opened:
            return as_current(pq.read_table(opened))
    except pa.ArrowException as error:
        raise _damaged(place, file, error) from error


def _opened(place: Place, file: FileEntry) -> Any:
    """The file, once all its bytes were seen to be those that were written.

    Parquet would not see it: a byte that was changed makes another value, or no error that says so.
    Raises ArchiveError.
    """
    try:
        opened, digest = place.open(file.path), hashlib.sha256()
    except FileNotFoundError as error:
        raise FileGone(
            f"the archive {place} lacks a file that its manifest names ({file.path}); see what is missing: "
            "fraudstream archive verify"
        ) from error
    try:
        while some := opened.read(_BYTES_AT_ONCE):
            digest.update(some)
        opened.seek(0)
    except (OSError, pa.ArrowException) as error:
        opened.close()
        raise _damaged(place, file, error) from error
    if digest.hexdigest() != file.sha256:
        opened.close()
        raise _damaged(place, file, "its bytes are not those that were written")
    return opened


def _damaged(place: Place, file: FileEntry, why: object) -> ArchiveError:
    said = str(why).partition("\n")[0]
    return ArchiveError(
        f"{file.path} in {place} is damaged ({said}); get it from a backup, or archive the topics anew"
    )


def merged(
    place: Place, files: Sequence[FileEntry], start: int = 0, end: int = 2**63 - 1
) -> Iterator[pa.Table]:
    """The rows with offsets in [start, end) in their order, of files whose own rows are in it."""
    waiting = deque(
        sorted(
            (file for file in files if file.last >= start and file.first < end),
            key=lambda file: (file.first, file.last),
        )
    )
    reading: list[_Reading] = []
    while waiting or reading:
        while waiting and (
            not reading
            or sum(len(each.rows) for each in reading) < _ROWS_AHEAD
            or waiting[0].first <= min(each.first for each in reading)
        ):
            opened = _Reading(place, waiting.popleft(), start, end)
            if len(opened.rows):
                reading.append(opened)
        if not reading:
            return
        # up to here nothing can come that is not in memory
        bounds = [each.last for each in reading if each.has_more]
        if waiting:
            bounds.append(waiting[0].first - 1)
        upto = min(bounds, default=end)
        parts = [part for each in reading if len(part := each.take(upto))]
        if parts:
            yield _in_order(parts)
        reading = [each for each in reading if len(each.rows)]


def _in_order(parts: Sequence[pa.Table]) -> pa.Table:
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables(parts)
    offsets = table.column("offset").to_numpy()
    return table.take(pa.array(np.argsort(offsets, kind="stable")))


class _Reading:
    """A file of which some rows are in memory."""

    def __init__(self, place: Place, file: FileEntry, start: int, end: int) -> None:
        self._place, self._file = place, file
        self._start, self._end = start, end
        try:
            opened = pq.ParquetFile(_opened(place, file))
        except pa.ArrowException as error:
            raise _damaged(place, file, error) from error
        there = set(opened.schema_arrow.names)
        self._batches = opened.iter_batches(
            ROWS_A_GROUP, columns=[name for name in NEEDED if name in there], row_groups=self._groups(opened)
        )
        self.rows: pa.Table = as_current(SCHEMA.empty_table(), NEEDED)
        self._ahead: pa.Table | None = self._next()
        self._refill()

    def _groups(self, opened: Any) -> list[int]:
        """The row groups that may have what is asked for."""
        at = opened.schema_arrow.get_field_index("offset")
        groups = []
        for number in range(opened.metadata.num_row_groups):
            told = opened.metadata.row_group(number).column(at).statistics
            if told is None or (told.max >= self._start and told.min < self._end):
                groups.append(number)
        return groups

    def _next(self) -> pa.Table | None:
        while (batch := self._next_batch()) is not None:
            rows = as_current(pa.table(batch), NEEDED)
            offsets = rows.column("offset").to_numpy()
            begin, stop = np.searchsorted(offsets, [self._start, self._end])
            if stop > begin:
                return rows.slice(begin, stop - begin)
        return None

    def _next_batch(self) -> Any:
        try:
            return next(self._batches, None)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self._place, self._file, error) from error

    def _refill(self) -> None:
        if not len(self.rows) and self._ahead is not None:
            self.rows, self._ahead = self._ahead, self._next()

    @property
    def has_more(self) -> bool:
        """Whether rows follow that are not in memory."""
        return self._ahead is not None

    @property
    def first(self) -> int:
        return int(self.rows.column("offset")[0].as_py())

    @property
    def last(self) -> int:
        return int(self.rows.column("offset")[-1].as_py())

    def take(self, upto: int) -> pa.Table:
        """The rows in memory up to an offset, which are then no longer here."""
        count = int(np.searchsorted(self.rows.column("offset").to_numpy(), upto, side="right"))
        taken, self.rows = self.rows.slice(0, count), self.rows.slice(count)
        self._refill()
        return taken
