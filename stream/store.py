"""The local rows: one RocksDB per worker, keys prefixed by their partition.

A row is written only after the transaction that made it is committed, together with the position it
belongs to, so a store found on disk is always some earlier state of the changelog, whatever killed
the process that wrote it.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from stream.ports import LocalPosition, Refused

__all__ = ["RocksStore"]

log = logging.getLogger("fraudstream.store")

_POSITION = b"\0local"
"""Reserved key, never in the changelog: how far this partition's rows have come."""


class _Stored(msgspec.Struct, frozen=True):
    inputs: dict[str, int]
    changelog: int
    log: str
    stored_at: float


class RocksStore:
    """The rows of one worker. Only the writer thread changes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = self._open()

    def _open(self) -> Rdict:
        try:
            return Rdict(str(self._path), _options())
        except Exception as error:
            said = str(error)
            if "lock" in said.lower():
                raise Refused(
                    f"the rows in {self._path} are in use by another process; "
                    "give every worker its own name (FRAUDSTREAM_WORKER) or stop the other one"
                ) from error
            # whatever is wrong with it, the changelog has it all
            aside = self._path.with_name(f"{self._path.name}.unreadable-{int(time.time())}")
            log.exception("rows moved to %s and rebuilt from the changelog", aside)
            shutil.move(self._path, aside)
            return Rdict(str(self._path), _options())

    def position(self, partition: int) -> LocalPosition | None:
        """How far the rows have come; None when there are none."""
        value = self._rows.get(_key(partition, _POSITION))
        if value is None:
            return None
        stored = msgspec.msgpack.decode(value, type=_Stored)
        return LocalPosition(stored.inputs, stored.changelog, stored.log, stored.stored_at)

    def recall(self, partition: int, key: bytes) -> bytes | None:
        """The bytes kept for a key; None when it is unknown."""
        value: bytes | None = self._rows.get(_key(partition, key))
        return value

    def write(self, partition: int, rows: Mapping[bytes, bytes | None], position: LocalPosition) -> None:
        """Change rows and position at once or not at all."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                batch.delete(_key(partition, key))
            else:
                batch.put(_key(partition, key), value)
        stored = _Stored(dict(position.inputs), position.changelog, position.log, position.stored_at)
        batch.put(_key(partition, _POSITION), msgspec.msgpack.encode(stored))
        self._rows.write(batch)

    def clear(self, partition: int) -> None:
        """Forget the partition's rows and position."""
        self._rows.delete_range(_key(partition, b""), _key(partition + 1, b""))

    def rows(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Every key and its bytes, for checks and explanations."""
        prefix = _key(partition, b"")
        for key, value in self._rows.items(from_key=prefix):
            # raw mode: always bytes, which the stubs can't say
            if not isinstance(key, bytes) or not key.startswith(prefix):
                return
            if key != prefix + _POSITION:
                yield key[len(prefix) :], value

    def close(self) -> None:
        """Close the database and let go of its lock."""
        self._rows.close()


def _key(partition: int, key: bytes) -> bytes:
    return partition.to_bytes(4, "big") + key


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.set_compression_type(DBCompressionType.lz4())
    # bounded: a worker's memory must not grow with its rows
    options.set_write_buffer_size(32 * 1024 * 1024)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(64 * 1024 * 1024))
    blocks.set_bloom_filter(10, block_based=False)
    options.set_block_based_table_factory(blocks)
    return options
