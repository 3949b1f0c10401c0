"""What a replay is written to: a file of JSON lines, a Parquet table or a pipe, by one process or several.

Each partition's part is the same whoever replays it, and the parts are put together in the order of the
partitions: the same bytes come out whatever the number of processes. A file stands there whole, or as it
was before.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, NamedTuple, Protocol

from stream.recorded import Recorded
from stream.replay import Job, Opened, ReplayError, Sheet, Span, Tally, lost_of

__all__ = ["Format", "Reading", "format_of", "replay_to"]

Format = Literal["jsonl", "parquet"]

_GROUP: Final = 100_000
"""Rows of a row group of Parquet, about."""
_ASKED_EVERY_S: Final = 0.5


class Reading(NamedTuple):
    """How far a replay is."""

    read: int
    """Records read."""
    of: int
    """Offsets that are read, at most so many records."""
    seconds: float


Told = Callable[[Reading], None]


def format_of(file: Path) -> Format:
    """The format that a file's name asks for. Raises ReplayError."""
    match file.suffix:
        case ".jsonl" | ".ndjson":
            return "jsonl"
        case ".parquet":
            return "parquet"
        case _:
            raise ReplayError(
                f"'{file}' says no format by its name; end it with .jsonl or .parquet, or give -"
            )


def replay_to(
    job: Job,
    opened: Opened,
    to: Path | BinaryIO,
    *,
    processes: int = 1,
    told: Told = lambda _: None,
) -> Tally:
    """Replay a job into a file of JSON lines or Parquet, by its name, or into a pipe as JSON lines.

    `told` is told of the progress about twice a second. Raises ReplayError, and what reading raises.
    """
    with closing(opened()) as recorded:
        spans = job.inputs(recorded)
        parts = job.parts(spans)
        sheet = job.sheet()
        with ExitStack() as closing_:
            out = closing_.enter_context(_written(to, sheet))
            if (at_once := min(processes, len(parts))) > 1:
                is_table = isinstance(to, Path) and format_of(to) == "parquet"
                beside = to.parent if isinstance(to, Path) else None
                folder = closing_.enter_context(tempfile.TemporaryDirectory(prefix=".replay-", dir=beside))
                work = _Work(job, opened, spans, parts, Path(folder), is_table)
                tally = _by_several(work, at_once, out, told)
            else:
                tally = _by_one(_Work(job, opened, spans, parts), recorded, out, told)
        tally.lost = lost_of(recorded, spans)
        return tally


def _offsets(spans: Span) -> int:
    return sum(end - begin for begin, end in spans.values())


class _Out(Protocol):
    """Where rows go."""

    def put(self, rows: Sequence[Any]) -> None:
        """Write some."""

    def join(self, part: Path) -> None:
        """Write those of a part's file."""


def _by_one(work: "_Work", recorded: Recorded, out: _Out, told: Told) -> Tally:
    tally, began, of = Tally(), time.monotonic(), _offsets(work.spans)
    last_told = began

    def heard(read: int) -> None:
        nonlocal last_told
        now = time.monotonic()
        if now > last_told + _ASKED_EVERY_S:
            last_told = now
            told(Reading(tally.read + read, of, now - began))

    for part in work.parts:
        own = Tally()
        for rows in work.job.rows(recorded, work.spans, part, own, heard):
            out.put(rows)
        tally.add(own)
    told(Reading(tally.read, of, time.monotonic() - began))
    return tally


# ---------------------------------------------------------------------- several processes


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process of ours is told once."""

    job: Job
    opened: Opened
    spans: Span
    parts: Sequence[tuple[int, ...]]
    folder: Path = Path()
    """Where the parts' files are put."""
    is_table: bool = False


class _Stopped(Exception):
    """Nobody waits for the part any more."""


_work: _Work
_read: Any
"""By part: how many records were read; behind them, whether to stop."""


def _begin(work: _Work, read: Any) -> None:
    """In a process of ours: it ends when whoever started it says so, or is gone."""
    global _work, _read
    _work, _read = work, read
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _replayed(number: int) -> Tally:
    """In a process of ours: a part into its file."""
    work, tally = _work, Tally()
    parent = multiprocessing.parent_process()

    def heard(read: int) -> None:
        _read[number] = read
        if _read[len(work.parts)] or (parent is not None and not parent.is_alive()):
            raise _Stopped

    sheet = work.job.sheet()
    file = work.folder / str(number)
    with closing(work.opened()) as recorded, file.open("wb") as written:
        out = _Columns(written, sheet) if work.is_table else _Lines(written, sheet)
        for rows in work.job.rows(recorded, work.spans, work.parts[number], tally, heard):
            out.put(rows)
        out.end()
    return tally


def _by_several(work: _Work, processes: int, out: _Out, told: Told) -> Tally:
    parts, context = work.parts, multiprocessing.get_context("spawn")
    read: Any = RawArray("q", len(parts) + 1)
    tally, began, of = Tally(), time.monotonic(), _offsets(work.spans)
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(work, read)) as pool:
        # the largest first, so that no process is left with one when the others are done
        by_size = sorted(range(len(parts)), key=lambda each: -_size(work.spans, parts[each]))
        try:
            done = {each: pool.submit(_replayed, each) for each in by_size}
            for number in range(len(parts)):
                for _ in _until(done[number]):
                    told(Reading(sum(read) - read[len(parts)], of, time.monotonic() - began))
                tally.add(done[number].result())
                file = work.folder / str(number)
                out.join(file)
                file.unlink()
        except BrokenProcessPool:
            raise ReplayError(
                "a process that replayed a partition ended by itself, perhaps for want of memory; "
                "run it again with --processes 1"
            ) from None
        finally:
            read[len(parts)] = 1
            pool.shutdown(cancel_futures=True)
    told(Reading(tally.read, of, time.monotonic() - began))
    return tally


def _size(spans: Span, part: Sequence[int]) -> int:
    return sum(end - begin for (_, partition), (begin, end) in spans.items() if partition in part)


def _until(future: "Future[Tally]") -> Iterator[None]:
    while wait([future], _ASKED_EVERY_S, FIRST_COMPLETED).not_done:
        yield


# ---------------------------------------------------------------------- files


@contextmanager
def _written(to: Path | BinaryIO, sheet: Sheet) -> Iterator[_Out]:
    """What rows are written to; a file takes its place when all is well."""
    if not isinstance(to, Path):
        yield _Lines(to, sheet)
        to.flush()
        return
    form = format_of(to)
    if to.exists() and not to.is_file():  # a folder, a pipe, a device: what is renamed would take its place
        raise ReplayError(f"'{to}' is there and no file; name another, or give - for a pipe")
    try:
        unfinished = tempfile.NamedTemporaryFile(  # noqa: SIM115 - renamed, or removed, below
            prefix=f".{to.name}.", suffix=".unfinished", dir=to.parent, delete=False
        )
    except OSError as error:
        error.filename = str(to)  # the name that was given
        raise
    try:
        with unfinished as file:
            out = _Table(file, sheet) if form == "parquet" else _Lines(file, sheet)
            try:
                yield out
            except BaseException:
                with suppress(Exception):  # the file is removed, and pyarrow would complain of a closed one
                    out.end()
                raise
            out.end()
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(unfinished.name).chmod(0o666 & ~umask)  # as any file that is made, and not as a secret
        Path(unfinished.name).replace(to)
    except BaseException as error:
        Path(unfinished.name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(to)  # a write that finds no room does not say where
        raise


class _Lines:
    """JSON, one object a line."""

    def __init__(self, file: IO[bytes], sheet: Sheet) -> None:
        self._file, self._sheet = file, sheet

    def put(self, rows: Sequence[Any]) -> None:
        self._file.write(self._sheet.lines(rows))

    def join(self, part: Path) -> None:
        with part.open("rb") as lines:
            while some := lines.read(1 << 20):
                self._file.write(some)

    def end(self) -> None:
        pass


class _Columns:
    """A part's columns, quickly written and read once."""

    def __init__(self, file: IO[bytes], sheet: Sheet) -> None:
        import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - half a second, and only for tables

        self._sheet = sheet
        self._out = pa.ipc.new_stream(file, sheet.schema)

    def put(self, rows: Sequence[Any]) -> None:
        self._out.write_batch(self._sheet.batch(rows))

    def end(self) -> None:
        self._out.close()


class _Table:
    """A Parquet file."""

    def __init__(self, file: IO[bytes], sheet: Sheet) -> None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415

        self._sheet, self._schema = sheet, sheet.schema
        # numbers are mostly different ones: to look for those alike costs more than it saves
        texts = [each.name for each in self._schema if not pa.types.is_floating(each.type)]
        self._out = pq.ParquetWriter(
            file, self._schema, compression="zstd", compression_level=1, use_dictionary=texts
        )
        self._batches: list[Any] = []
        self._held = 0

    def put(self, rows: Sequence[Any]) -> None:
        self._take(self._sheet.batch(rows))

    def join(self, part: Path) -> None:
        import pyarrow as pa  # noqa: PLC0415

        with pa.memory_map(str(part)) as mapped, pa.ipc.open_stream(mapped) as batches:
            for batch in batches:
                self._take(batch)

    def _take(self, batch: Any) -> None:
        self._batches.append(batch)
        self._held += batch.num_rows
        if self._held >= _GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        table = pa.Table.from_batches(self._batches, self._schema)
        self._out.write_table(table, row_group_size=max(self._held, 1))
        self._batches, self._held = [], 0

    def end(self) -> None:
        if self._held:
            self._write()
        self._out.close()
