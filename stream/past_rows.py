"""Rows for as long as a past is gone through: a dict, and a temporary database for what does not fit."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from rocksdict import DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

__all__ = ["SPILLED", "Rows", "RowsOf"]

SPILLED: Final = "fraudstream-verify-"
"""What the names of temporary folders begin with."""
_ROWS_IN_MEMORY: Final = 128 * 1024 * 1024
_A_ROW_COSTS: Final = 200
"""Bytes beside key and value, about."""


class Rows:
    """What is kept by key for as long as something is gone through."""

    def __init__(self, most: int = _ROWS_IN_MEMORY, beside: Path | None = None) -> None:
        """What does not fit goes below a folder, the temporary one if none is given."""
        self._most = most
        self._beside = beside
        self._rows: dict[bytes, bytes | None] = {}
        self._size = 0
        self._folder: Path | None = None
        self._spilled: Rdict | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.clear()
        if self._spilled is not None:
            self._spilled.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def recall(self, _: int, key: bytes) -> bytes | None:
        """What is kept under the key; None where nothing is."""
        if key in self._rows or self._spilled is None:
            return self._rows.get(key)
        kept: bytes | None = self._spilled.get(key)
        return kept

    def change(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Keep what is given; None forgets a key."""
        for key, value in rows.items():
            before = self._rows.get(key)
            self._size += len(value or b"") - len(before or b"")
            if key not in self._rows:
                self._size += len(key) + _A_ROW_COSTS
            self._rows[key] = value
        if self._size > self._most:
            self._spill()

    def _spill(self) -> None:
        if self._spilled is None:
            self._folder = Path(tempfile.mkdtemp(prefix=SPILLED, dir=self._beside))
            options = Options(raw_mode=True)
            options.create_if_missing(create_if_missing=True)
            options.set_compression_type(DBCompressionType.lz4())
            self._spilled = Rdict(str(self._folder / "rows"), options)
            unlogged = WriteOptions()
            # nothing of it outlives this process; a property, whatever the stubs say
            unlogged.disable_wal = True  # type: ignore[method-assign,assignment]
            self._spilled.set_write_options(unlogged)
        batch = WriteBatch(raw_mode=True)
        for key, value in self._rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._spilled.write(batch)
        self._rows.clear()
        self._size = 0


class RowsOf:
    """The rows of one partition among those of all."""

    def __init__(self, rows: Rows, partition: int) -> None:
        self._rows = rows
        self._of = partition.to_bytes(4, "big")

    def recall(self, _: int, key: bytes) -> bytes | None:
        """What is kept under the key; None where nothing is."""
        return self._rows.recall(0, self._of + key)

    def change(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Keep what is given; None forgets a key."""
        self._rows.change({self._of + key: value for key, value in rows.items()})
