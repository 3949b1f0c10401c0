"""Rows from a file or a pipe: CSV, JSON lines or Parquet, plain, in gzip or in a zip.

What a file is, its first bytes say and not its name. A row that can't be read is told with its place and
the rows around it are read; what makes the whole file unreadable is refused before or where it is found.
"""

import codecs
import csv
import gzip
import hashlib
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self, TypeAlias, cast

from features.events import LARGEST_RECORD
from features.mapping import Reading
from stream.errors import Refusal

__all__ = ["LONGEST_LINE", "EncodingError", "Row", "Source", "SourceError", "Unreadable", "is_undecoded"]

LONGEST_LINE: Final = 16 * 1024 * 1024
"""A line beyond this is refused without being held: 16 times what an order may have."""

_LONGEST_FIELD: Final = LARGEST_RECORD
_PARQUET: Final = b"PAR1"
_SAMPLE: Final = 4096
"""Bytes that are looked at to tell text from what is none."""


class SourceError(Refusal):
    """A file can't be read as what it is said to be; the message names it and says what to do."""


class EncodingError(SourceError):
    """A file's text is in another encoding than it is said to be; the message says where to name it."""


class Unreadable(NamedTuple):
    """A row of which nothing can be taken, with as much of it as was read."""

    code: str
    reason: str
    raw: str


Row: TypeAlias = tuple[int, int, Sequence[Any] | bytes | Unreadable]
"""Its number from 1, its line in the text (0 in Parquet), and its values, its bytes (JSON) or why not."""


class Source:
    """An opened file of rows; leaving the block closes it.

    `columns` names the values of each row of CSV and Parquet, and is None for JSON lines.
    """

    def __init__(self, file: str, reading: Reading | None = None, *, stdin: IO[bytes] | None = None) -> None:
        """`file` is a path, or - for stdin. Raises SourceError."""
        self.file = "stdin" if file == "-" else file
        self.path = file
        self.reading = reading or Reading()
        self._closing = ExitStack()
        self._path = None if file == "-" else Path(file)
        self._total = 0
        self._parquet: Any = None
        self.columns: tuple[str, ...] | None = None
        try:
            with self._refusing("get it again"):
                self._open(stdin)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def close(self) -> None:
        """Let go of the file."""
        self._closing.close()

    @property
    def is_parquet(self) -> bool:
        """Whether it is a Parquet file."""
        return self._parquet is not None

    @property
    def is_continuable(self) -> bool:
        """Whether the same rows can be read again: a file's, but not a pipe's."""
        return self._path is not None and self._path.is_file()

    @property
    def share(self) -> float | None:
        """How much of it is read, 0 to 1; None where that can't be known."""
        if not self._total:
            return None
        try:
            return min(1.0, self._position() / self._total)
        except ValueError:  # closed
            return 1.0

    def digest(self) -> str:
        """What two files share only if they hold the same bytes. Raises SourceError."""
        if self._path is None:
            raise SourceError("stdin can't be read twice; save it to a file")
        try:
            with self._path.open("rb") as content:
                return hashlib.file_digest(content, "blake2b").hexdigest()
        except OSError as error:
            raise self._error(error) from error

    def rows(self) -> Iterator[Row]:
        """Each row once, in the file's order. Raises SourceError where the file is cut short or damaged."""
        with self._refusing("the rows before that were read"):
            if self._parquet is not None:
                yield from self._of_parquet()
            elif self.columns is None:
                yield from self._of_json()
            else:
                yield from self._of_csv()

    @contextmanager
    def _refusing(self, then: str) -> Iterator[None]:
        """What reading can raise, as a SourceError; `then` says what is left to do or was done."""
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError) as error:
            raise SourceError(f"{self.file} is cut short or damaged ({error}); {then}") from error
        except UnicodeError as error:
            raise EncodingError(
                f"{self.file} is not {self.reading.encoding}, or is cut short; {then}; "
                "if it is whole, name its encoding under [source]"
            ) from error
        except OSError as error:
            raise self._error(error) from error

    # ------------------------------------------------------------------ opening

    def _open(self, stdin: IO[bytes] | None) -> None:
        self._content = content = self._unpacked(self._raw(stdin))
        start = content.peek(4)[:4]
        kind = self.reading.format
        if start == _PARQUET or kind == "parquet":
            self._open_parquet(start)
            return
        if not start and self._path is not None:
            raise SourceError(f"{self.file} is empty; name a file with rows")
        is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if is_utf16 and self.reading.encoding == "utf-8":
            raise SourceError(f"{self.file} is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
        if start.startswith(codecs.BOM_UTF8):
            content.read(len(codecs.BOM_UTF8))
        beginning = content.peek(64).lstrip()[:1]
        if kind is None:
            kind = "json" if beginning in {b"{", b"["} else "csv"
        if kind == "json":
            if beginning == b"[":
                raise SourceError(
                    f"{self.file} is one JSON list and not one object a line; convert it: jq -c '.[]' FILE"
                )
            return
        if self._is_binary(content.peek(_SAMPLE)[:_SAMPLE]):
            raise self._no_text(start)
        self._open_csv(start)

    def _is_binary(self, sample: bytes) -> bool:
        """Whether more of it are control characters than any text has."""
        text = sample.decode(self.reading.encoding, errors="replace")
        return 20 * sum(map(_is_control, text)) > len(text)

    def _no_text(self, start: bytes) -> SourceError:
        return SourceError(
            f"{self.file} is neither text nor Parquet, gzip or zip: it begins with the bytes "
            f"{start.hex(' ')}; get it again, or name the text's encoding under [source]"
        )

    def _raw(self, stdin: IO[bytes] | None) -> io.BufferedReader:
        if self._path is None:
            return _buffered(stdin or sys.stdin.buffer)
        file = self._closing.enter_context(self._path.open("rb"))
        if self._path.is_file():
            self._total = self._path.stat().st_size
            self._position: Callable[[], int] = file.tell
        return file

    def _unpacked(self, raw: io.BufferedReader) -> io.BufferedReader:
        start = raw.peek(4)[:4]
        if start.startswith(b"\x1f\x8b"):
            unzipped = self._closing.enter_context(gzip.GzipFile(fileobj=raw, mode="rb"))
            return io.BufferedReader(cast("io.RawIOBase", unzipped), 256 * 1024)
        if start in {b"PK\x03\x04", b"PK\x05\x06"}:
            return self._member(raw)
        if self.reading.member is not None:
            raise SourceError(f"{self.file} is no zip, so it has no member '{self.reading.member}'")
        return raw

    def _member(self, raw: io.BufferedReader) -> io.BufferedReader:
        if self._path is None:
            raise SourceError(
                "a zip can't be read from stdin; save it to a file, or unzip -p it into the pipe"
            )
        archive = self._closing.enter_context(zipfile.ZipFile(raw))
        names = [each.filename for each in archive.infolist() if not each.is_dir()]
        wanted = self.reading.member
        if not names:
            raise SourceError(f"{self.file} is a zip without files; get it again")
        if wanted is None:
            if len(names) != 1:
                raise SourceError(
                    f"{self.file} holds {len(names)} files; name one as member under [source]: "
                    f"{', '.join(names[:10])}"
                )
            wanted = names[0]
        if wanted not in names:
            raise SourceError(f"{self.file} has no member '{wanted}'; it has: {', '.join(names[:10])}")
        try:
            member = self._closing.enter_context(archive.open(wanted))
        except RuntimeError as error:  # encrypted
            raise SourceError(f"{self.file}: {wanted} can't be read: {error}; unzip it first") from error
        return io.BufferedReader(cast("io.RawIOBase", member), 256 * 1024)

    def _open_parquet(self, start: bytes) -> None:
        if self._path is None:
            raise SourceError("Parquet can't be read from stdin; save it to a file")
        if start != _PARQUET:
            raise SourceError(f"{self.file} is no Parquet: it does not begin with PAR1; leave format out")
        import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 (a second, and only for Parquet)
        import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415

        self._content.seek(0)
        try:
            self._parquet = self._closing.enter_context(pq.ParquetFile(self._content))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{self.file} is no whole Parquet file ({_first_line(error)}); get it again"
            ) from error
        self.columns = self._unique(self._parquet.schema_arrow.names)
        self._total = self._parquet.metadata.num_rows
        self._done = 0
        self._position = lambda: self._done

    def _open_csv(self, start: bytes) -> None:
        csv.field_size_limit(_LONGEST_FIELD)
        self._lines = _Lines(self._content, self.reading.encoding, self.file)
        reading = self.reading
        if not reading.header:
            self.columns = self._unique(reading.columns or ())
            return
        first = next((row for row in self._csv_rows() if row[1]), None)
        if first is None or isinstance(first[1], str):
            reason = "" if first is None else f" ({first[1]})"
            raise SourceError(f"{self.file} has no line that names the columns{reason}; say header = false")
        names = [name.strip() for name in first[1]]
        if any(map(_is_control, "".join(names))):
            raise self._no_text(start)
        if any(is_undecoded(name) for name in names):
            raise EncodingError(
                f"{self.file}: the line that names the columns is not {reading.encoding}; "
                "name its encoding under [source], such as latin-1"
            )
        if reading.columns is not None:
            if len(reading.columns) != len(names):
                raise SourceError(
                    f"{self.file} has {len(names)} columns and the mapping names {len(reading.columns)}"
                )
            names = list(reading.columns)
        self.columns = self._unique(names)

    def _unique(self, names: Sequence[str]) -> tuple[str, ...]:
        seen: dict[str, int] = {}
        for place, name in enumerate(names, 1):
            if name in seen:
                raise SourceError(
                    f"{self.file} has two columns '{name}' ({seen[name]} and {place}); "
                    "give every column a name of its own with columns under [source]"
                )
            seen[name] = place
        return tuple(names)

    def _error(self, error: OSError) -> SourceError:
        return SourceError(f"can't read {self.file}: {error.strerror or error}; name a file of rows")

    # ------------------------------------------------------------------ rows

    def _of_json(self) -> Iterator[Row]:
        number, line = 0, 0
        while raw := self._content.readline(LONGEST_LINE):
            line += 1
            if len(raw) >= LONGEST_LINE and not raw.endswith(b"\n"):
                shown = raw[:1000].decode(errors="backslashreplace")
                while (rest := self._content.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                number += 1
                reason = f"the line is longer than {LONGEST_LINE:,} bytes; send one order a line"
                yield number, line, Unreadable("too_large", reason, shown)
                continue
            stripped = raw.strip()
            if stripped:
                number += 1
                yield number, line, stripped

    def _of_parquet(self) -> Iterator[Row]:
        import pyarrow as pa  # noqa: PLC0415

        number = 0
        try:
            for batch in self._parquet.iter_batches(batch_size=8192):
                for values in zip(*map(_listed, batch.columns), strict=True):
                    number += 1
                    if any(value is _BEYOND for value in values):
                        named = zip(self.columns or (), values, strict=True)
                        where = ", ".join(f"'{name}'" for name, value in named if value is _BEYOND)
                        reason = f"column {where}: expected a time of the years 1 to 9999, got another"
                        yield number, 0, Unreadable("bad_value", f"{reason}; correct the row", "")
                        continue
                    yield number, 0, values
                self._done = number
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{self.file} is damaged after row {number:,} ({_first_line(error)}); get it again"
            ) from error

    def _of_csv(self) -> Iterator[Row]:
        width = len(self.columns or ())
        number = 0
        for line, values in self._csv_rows():
            if not values:
                continue  # an empty line
            number += 1
            if isinstance(values, str):
                yield number, line, Unreadable("bad_value", values, self._lines.text)
            elif len(values) == width:
                yield number, line, values
            else:
                # a quote that was never closed swallows lines: only the first of them is refused
                raw = self._lines.give_back()
                reason = f"expected {width} columns, got {len(values)}; quote the delimiter, or mend the row"
                yield number, line, Unreadable("bad_value", reason, raw)

    def _csv_rows(self) -> Iterator[tuple[int, list[str] | str]]:
        """Each row with its first line's number, or why the text there is no row."""
        lines = self._lines
        reader = csv.reader(lines, delimiter=self.reading.delimiter, strict=True)
        while True:
            lines.begin()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                lines.text = lines.give_back()
                reason = str(error)
                if "field larger" in reason:
                    reason = (
                        f"a field has more than {_LONGEST_FIELD:,} characters, or a quote is never closed"
                    )
                elif "unexpected end" in reason:
                    reason = "a quote is opened and never closed"
                yield lines.first, f"{reason}; mend the line"
            else:
                yield lines.first, values


class _Lines:
    """Lines of text for the CSV reader, which can be given back when a quote swallowed them."""

    def __init__(self, content: io.BufferedReader, encoding: str, file: str) -> None:
        # a byte that is not in the encoding spoils its row, and not the file
        self._content = io.TextIOWrapper(content, encoding, errors="surrogateescape", newline="")
        self._file = file
        self._waiting: list[str] = []
        self._taken: list[str] = []
        self._next = 1
        self.first = 1
        """The number of the first line of the present row."""
        self.text = ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._waiting:
            line = self._waiting.pop()
        else:
            line = self._content.readline(LONGEST_LINE)
            if not line:
                raise StopIteration
        self._taken.append(line)
        self._next += 1
        return line

    def begin(self) -> None:
        """A new row begins."""
        self._taken.clear()
        self.first = self._next

    def give_back(self) -> str:
        """All lines of the present row but the first will come again; returns the first."""
        first, *others = self._taken or [""]
        self._waiting.extend(reversed(others))
        self._next -= len(others)
        self._taken = [first]
        return first.rstrip("\r\n")


_BEYOND: Final = object()
"""Stands for a value that Python's types can't hold."""


def _listed(column: Any) -> list[Any]:
    """A Parquet column's values; times are cut to the microsecond, as our contract cuts them.

    Times of a zone come in UTC: the zone's name says nothing of when they were, and may be known to nobody.
    """
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_timestamp(column.type) and (column.type.unit == "ns" or column.type.tz):
        column = column.cast(pa.timestamp("us", column.type.tz and "UTC"), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_held(value) for value in column]


def _held(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return _BEYOND


def _is_control(letter: str) -> bool:
    return (letter < " " and letter not in "\t\n\r\f\v") or letter == "\x7f"


def is_undecoded(text: str) -> bool:
    """Whether bytes of it were outside the encoding."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def _buffered(stream: IO[bytes]) -> io.BufferedReader:
    return (
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", stream))
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
