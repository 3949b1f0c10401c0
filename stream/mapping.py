"""Mapping files: read, checked, bound to a file's columns, and applied by a worker to a shop's own JSON."""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.mapping import Join, Joined, MappingError, RowMapper, RowMapping, said_by
from stream.errors import Refusal
from stream.sources import Source, Unreadable

__all__ = ["MappingFileError", "bound_to", "load_mapping", "mapping_of"]


class MappingFileError(Refusal):
    """A mapping can't be used; the message names the file, what is wrong and what to write."""


_LONGEST = 1_000_000
"""Characters; a device or a data file named by mistake may have no end."""


def load_mapping(file: Path) -> RowMapping:
    """The mapping in a TOML file. Raises MappingFileError."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_LONGEST)
    except OSError as error:
        raise MappingFileError(
            f"can't read mapping {file}: {error.strerror}; name a TOML file, or let --guess propose one"
        ) from error
    except UnicodeDecodeError as error:
        raise MappingFileError(f"mapping {file} is not UTF-8; save it as UTF-8") from error
    if len(text) == _LONGEST:
        raise MappingFileError(f"mapping {file} has a million characters or more; name a mapping")
    return mapping_of(text, said=str(file))


def mapping_of(text: str, *, said: str) -> RowMapping:
    """The mapping that a TOML text declares; `said` names it. Raises MappingFileError."""
    try:
        content: dict[str, Any] = tomllib.loads(text)
        return RowMapping.model_validate(content)
    except tomllib.TOMLDecodeError as error:
        raise MappingFileError(f"mapping {said} is not TOML: {error}; mend that line") from None
    except ValidationError as error:
        raise MappingFileError(f"mapping {said}: {said_by(error)}") from None


def bound_to(mapping: RowMapping, source: Source, *, said: str, beside: Path, salt: bytes = b"") -> RowMapper:
    """The mapping for the rows of an opened source; `beside` is the folder its own files are relative to.

    Raises MappingFileError, SourceError.
    """
    columns = mapping.columns if source.columns is None else source.columns
    try:
        return mapping.bind(columns, salt=salt, joined=_joined(mapping, source, beside))
    except MappingError as error:
        raise MappingFileError(f"mapping {said} does not fit {source.file}: {error}") from None


def _joined(mapping: RowMapping, source: Source, beside: Path) -> Joined | None:
    """The items' table in memory, by the value that joins it."""
    join = None if mapping.items is None else mapping.items.join
    if join is None:
        return None
    with _other(mapping, join, source, beside) as other:
        if other.columns is None:
            raise MappingFileError(f"[items] join reads tables, and {other.file} is JSON; use items.list")
        if join.key not in other.columns:
            raise MappingFileError(
                f"[items] join: {other.file} has no column '{join.key}'; it has: {', '.join(other.columns)}"
            )
        return Joined.by(join.key, other.columns, _whole(other))


def _whole(other: Source) -> Iterator[Sequence[Any]]:
    for number, line, found in other.rows():
        if isinstance(found, Unreadable):
            where = f"row {number:,} (line {line:,})"
            raise MappingFileError(f"[items] join: {other.file}, {where}: {found.reason}")
        yield found


def _other(mapping: RowMapping, join: Join, source: Source, beside: Path) -> Source:
    file = source.path if join.file is None else str(beside / join.file)
    reading = mapping.source.model_copy(
        update={"format": None, "member": join.member, "header": True, "columns": None}
    )
    return Source(file, reading)
