"""The local rows: one RocksDB per worker, keys prefixed by their partition.

A row is written only after the transaction that made it is committed, together with the position it
belongs to, so a store found on disk is always some earlier state of the changelog, whatever killed
the process that wrote it.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from stream.ports import LocalPosition, Refused

__all__ = ["RocksStore", "StoreSize"]

log = logging.getLogger("fraudstream.store")

_POSITION = b"\0local"
"""Reserved key, never in the changelog: how far this partition's rows have come."""


_NOT_THE_ROWS: Mapping[str, str] = {
    "No space left on device": "the disk is full; make room",
    "Disk quota exceeded": "this user's share of the disk is full; make room",
    "Permission denied": "this user may not write there; give the folder to it",
    "Read-only file system": "the disk is read-only; mount it for writing",
    "Too many open files": "this process may not open more files; raise its limit (ulimit -n)",
}
"""What the system says when the rows are sound and can't be used: what is wrong, and what to do."""


class _Stored(msgspec.Struct, frozen=True):
    inputs: dict[str, int]
    changelog: int
    log: str
    stored_at: float


class StoreSize(NamedTuple):
    """How much is stored, as RocksDB estimates it."""

    keys: int
    bytes: int


class RocksStore:
    """The rows of one worker. Only the writer thread changes them.

    Rows that can't be read or written are no loss, the changelog has them all: whoever finds out marks
    them (`mark_for_rebuild`) and stops the worker, and the next one to open them begins anew. Every call
    raises Refused where they are sound and the system won't let them be used: a full disk, for one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = path.with_name(path.name + ".rebuild")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = self._open()

    def _open(self) -> Rdict:
        try:
            rows = Rdict(str(self._path), _options())
        except Exception as error:
            said = str(error)
            if "lock hold by" in said or "While lock file" in said:
                raise Refused(
                    f"the rows in {self._path} are in use by another process; "
                    "give every worker its own name (FRAUDSTREAM_WORKER) or stop the other one"
                ) from error
            self._refuse_if_sound(error)
            return self._anew(said)
        if not self._mark.exists():
            return rows
        # opened first, mark or not: a living worker of this name would still hold the lock
        rows.close()
        return self._anew(self._mark.read_text(errors="replace"))

    def _anew(self, why: str) -> Rdict:
        """Move the database aside, for whoever wants to know what happened, and make an empty one."""
        aside = self._path.with_name(f"{self._path.name}.unreadable-{time.time_ns()}")
        older = list(self._path.parent.glob(f"{self._path.name}.unreadable-*"))
        try:
            if self._path.exists():
                shutil.move(self._path, aside)
                log.error("rows moved to %s, to be rebuilt from the changelog: %s", aside, why)
            for each in older:
                # one is evidence, all of them would fill the disk
                shutil.rmtree(each, ignore_errors=True)
            rows = Rdict(str(self._path), _options())
        except Exception as error:
            raise Refused(
                f"the rows in {self._path} can't be opened ({why}) nor made anew ({error}); "
                "see that the disk has room and belongs to this user"
            ) from error
        self._mark.unlink(missing_ok=True)
        return rows

    def _refuse_if_sound(self, error: Exception) -> None:
        """Refuse to go on where the system, and not the rows, is to blame: nothing is moved or rebuilt."""
        said = str(error)
        for words, advice in _NOT_THE_ROWS.items():
            if words in said:
                raise Refused(
                    f"the rows in {self._path} can't be used: {advice} and start the worker again "
                    "(they are left as they are, and nothing is lost)"
                ) from error

    def mark_for_rebuild(self, reason: str) -> None:
        """Have the next worker that opens these rows begin with none, and restore from the changelog.

        For rows that can't be believed; the caller stops the worker, because a crash repeated over sound
        orders would have them set aside.
        """
        log.error("rows in %s are to be rebuilt: %s", self._path, reason)
        # where even this can't be written, the exception under way says more
        with contextlib.suppress(OSError), self._mark.open("w") as mark:
            mark.write(reason)
            mark.flush()
            os.fsync(mark.fileno())

    def position(self, partition: int) -> LocalPosition | None:
        """How far the rows have come; None when there are none."""
        value = self.recall(partition, _POSITION)
        if value is None:
            return None
        try:
            stored = msgspec.msgpack.decode(value, type=_Stored)
        except msgspec.DecodeError as error:
            self.mark_for_rebuild(f"position of partition {partition}: {error}")
            raise
        return LocalPosition(stored.inputs, stored.changelog, stored.log, stored.stored_at)

    def recall(self, partition: int, key: bytes) -> bytes | None:
        """The bytes kept for a key; None when it is unknown."""
        try:
            value: bytes | None = self._rows.get(_key(partition, key))
        except Exception as error:
            self._blame(error)
            raise
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
        try:
            self._rows.write(batch)
        except Exception as error:
            self._blame(error)
            raise

    def clear(self, partition: int) -> None:
        """Forget the partition's rows and position."""
        try:
            self._rows.delete_range(_key(partition, b""), _key(partition + 1, b""))
        except Exception as error:
            self._blame(error)
            raise

    def rows(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Every key and its bytes, for checks and explanations."""
        prefix = _key(partition, b"")
        for key, value in self._rows.items(from_key=prefix):
            # raw mode: always bytes, which the stubs can't say
            if not isinstance(key, bytes) or not key.startswith(prefix):
                return
            if key != prefix + _POSITION:
                yield key[len(prefix) :], value

    def size(self) -> StoreSize | None:
        """How much is stored, on disk and in memory tables; None once closed. Any thread may ask."""
        try:
            keys, tables, memory = (
                self._rows.property_int_value("rocksdb." + name) or 0
                for name in ("estimate-num-keys", "live-sst-files-size", "cur-size-all-mem-tables")
            )
        except (DbClosedError, RuntimeError):
            # the second is what its binding says to other threads while it is being closed
            return None
        return StoreSize(keys, tables + memory)

    def close(self) -> None:
        """Close the database and let go of its lock."""
        try:
            self._rows.close()
        except Exception as error:  # noqa: BLE001 - whatever its folder has become, the changelog has the rows
            log.warning("the rows in %s could not be closed: %s; they may be rebuilt", self._path, error)

    def _blame(self, error: Exception) -> None:
        # a store closed under its user says nothing about its rows
        if not isinstance(error, DbClosedError):
            self._refuse_if_sound(error)
            self.mark_for_rebuild(str(error))


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
