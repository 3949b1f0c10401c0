"""The local rows: one RocksDB per worker, keys prefixed by their partition.

A row is written only after the transaction that made it is committed, together with the position it
belongs to, so a store found on disk is always some earlier state of the changelog, whatever killed
the process that wrote it.

Beside the rows stands an index of them by the day of their last event, so that those which are to be
forgotten are found without looking at the others. It is made from the rows alone, with each write, and it
may be behind: a key is filed under the day it had when it was new, and filed anew when that day is due and
the key is seen to have lived on. So a key costs the index one filing, together with those that were new in
the same write, and, once in the time it is kept, one look. A restore writes without reading, so it may file a
key under each day that it met it under: they go as their day is due.
"""

import contextlib
import logging
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

from features.history import last_event_at
from features.revisions import glimpse
from stream.keeping import ORDER, PASSED, ROWS
from stream.passed import last_passed_at
from stream.ports import LocalPosition, Refused

__all__ = ["RocksStore", "StoreSize"]

log = logging.getLogger("fraudstream.store")

_POSITION = b"\0local"
"""Reserved key, never in the changelog: how far this partition's rows have come."""

_FORMAT = 3
"""Of what is on the disk: since 2 there is the index, and without one nothing would ever be forgotten.

Since 3 an entry of it has several keys.
"""

_FILED = "filed"
"""The index's column family: partition, first byte of its keys, day of their last event, a name; and the keys
as a MessagePack array."""

_OF_ROWS = frozenset(ROWS.values())
"""What the keys of rows begin with."""
_MICROSECONDS_A_DAY = 86_400_000_000
_DAY = struct.Struct(">I")
_DAY_ZERO = 2**31
"""1970-01-01 in the index, so that days before it sort first."""
_PLACE = 4 + 1 + _DAY.size
"""Bytes of an entry before its name."""
_NAME = 12
"""Bytes of a name, which says nothing: two writes must not make one entry."""
_MIB = 1024 * 1024
_FILED_TOGETHER = 64
"""Keys in one entry of the index at most: they are written again when one of them goes."""
_LOOK_AGAIN_DAYS = 30
"""A key whose last event can't be told is looked at again after so many days."""


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
    watermark: int | None = None
    v: int = 1


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
        self._filed: Rdict = self._rows.get_column_family(_FILED)
        self._in_index: Any = self._rows.get_column_family_handle(_FILED)
        self._known: dict[int, set[bytes]] = {}
        """Keys that were seen to be there since their partition was last written: the index has them."""
        self._due: dict[int, dict[bytes, bytes]] = {}
        """Keys found to be expired since their partition was last written, and the entry each is filed in."""
        self._first: dict[bytes, bytes] = {}
        """By partition and first byte of its keys: before which entry there is none."""

    def _open(self) -> Rdict:
        try:
            rows = _database(self._path)
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
            rows = _database(self._path)
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
        if stored.v != _FORMAT:  # of a newer version too, after a return to this one
            log.info("the rows of partition %d have no index like ours and are made anew", partition)
            return None
        return LocalPosition(stored.inputs, stored.changelog, stored.log, stored.stored_at, stored.watermark)

    def recall(self, partition: int, key: bytes) -> bytes | None:
        """The bytes kept for a key; None when it is unknown."""
        try:
            value: bytes | None = self._rows.get(_key(partition, key))
        except Exception as error:
            self._blame(error)
            raise
        if value is not None:
            self._known.setdefault(partition, set()).add(key)
        return value

    def write(self, partition: int, rows: Mapping[bytes, bytes | None], position: LocalPosition) -> None:
        """Change rows and position at once or not at all."""
        batch = WriteBatch(raw_mode=True)
        known, due = self._known.pop(partition, ()), self._due.pop(partition, {})
        prefix = _key(partition, b"")
        new: dict[tuple[bytes, int], list[bytes]] = {}
        leaving: dict[bytes, set[bytes]] = {}
        for key, value in rows.items():
            whole = prefix + key
            if value is None:
                batch.delete(whole)
                if (entry := due.get(key)) is not None:
                    leaving.setdefault(entry, set()).add(key)
                continue
            batch.put(whole, value)
            if key not in known:
                last_at = _last_at(key, value)
                at = position.watermark or 0 if last_at is None else last_at
                new.setdefault((key[:1], at // _MICROSECONDS_A_DAY), []).append(key)
        for (kind, day), keys in new.items():
            self._file(batch, prefix + kind, day, keys)
        stored = _Stored(
            dict(position.inputs),
            position.changelog,
            position.log,
            position.stored_at,
            position.watermark,
            _FORMAT,
        )
        batch.put(_key(partition, _POSITION), msgspec.msgpack.encode(stored))
        try:
            for entry, gone in leaving.items():
                if (filed := self._filed.get(entry)) is not None:
                    self._refile(batch, entry, [key for key in _keys_in(filed) if key not in gone])
            self._rows.write(batch)
        except Exception as error:
            self._blame(error)
            raise

    def expired(self, partition: int, before: Mapping[bytes, int], most: int) -> list[bytes]:
        """Some keys whose last event was on a day before the one of the instant given for their first byte.

        Those that lie longest are found first; at most so many are looked at.
        """
        found = self._due[partition] = {}
        for kind, instant in before.items():
            if most > 0:
                most = self._look(_key(partition, kind), instant // _MICROSECONDS_A_DAY, most, found)
        return list(found)

    def _look(self, place: bytes, today: int, most: int, found: dict[bytes, bytes]) -> int:
        """Look at what is filed before a day; answers how many more may be looked at."""
        end = place + _DAY.pack(today + _DAY_ZERO)
        first = self._first.get(place, place)
        if first >= end:
            return most
        anew = WriteBatch(raw_mode=True)
        living: dict[int, list[bytes]] = {}
        # where the next look begins: an entry that is found is there until its key is gone
        begin: bytes | None = None
        try:
            for entry, value in self._filed.items(from_key=first):
                # raw mode: always bytes, which the stubs can't say
                if not isinstance(entry, bytes) or entry >= end:
                    break
                if not most:
                    begin = begin or entry
                    break
                keys = _keys_in(value)
                stay: list[bytes] = []
                for key in keys[:most]:
                    day = self._day_of(place, key, today)
                    if day is None:
                        continue
                    if day >= today:
                        living.setdefault(day, []).append(key)
                    elif key not in found:
                        stay.append(key)
                due = len(stay)
                stay += keys[most:]
                most -= min(most, len(keys))
                if stay != keys:
                    self._refile(anew, entry, stay)
                if stay:
                    found.update(dict.fromkeys(stay[:due], entry))
                    begin = begin or entry
            self._first[place] = begin or end
            for day, keys in living.items():
                self._file(anew, place, day, keys)
            if len(anew):
                self._rows.write(anew)
        except Exception as error:
            self._blame(error)
            raise
        return most

    def _day_of(self, place: bytes, key: bytes, today: int) -> int | None:
        """The day of a key's last event; None where the key is gone."""
        value: bytes | None = self._rows.get(place[:4] + key)
        if value is None:
            return None
        last_at = _last_at(key, value)
        return today + _LOOK_AGAIN_DAYS if last_at is None else last_at // _MICROSECONDS_A_DAY

    def _file(self, batch: WriteBatch, place: bytes, day: int, keys: Sequence[bytes]) -> None:
        """File keys of one day together, noting where the first of their place is."""
        where = place + _DAY.pack(day + _DAY_ZERO)
        for start in range(0, len(keys), _FILED_TOGETHER):
            entry = where + os.urandom(_NAME)
            self._refile(batch, entry, keys[start : start + _FILED_TOGETHER])
            first = self._first.get(place)
            if first is not None and entry < first:
                self._first[place] = entry

    def _refile(self, batch: WriteBatch, entry: bytes, keys: Sequence[bytes]) -> None:
        """Let an entry of the index have these keys; without any it goes."""
        if keys:
            batch.put(entry, msgspec.msgpack.encode(keys), self._in_index)
        else:
            batch.delete(entry, self._in_index)

    def clear(self, partition: int) -> None:
        """Forget the partition's rows and position."""
        self._known.pop(partition, None)
        self._due.pop(partition, None)
        self._first = {}
        try:
            # rows without an index would never be forgotten; an index without rows mends itself
            for each in (self._rows, self._filed):
                each.delete_range(_key(partition, b""), _key(partition + 1, b""))
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
            # the lock is let go with the last of them
            self._in_index = None
            self._filed.close()
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


_keys_in = msgspec.msgpack.Decoder(list[bytes]).decode
"""The keys filed in an entry of the index."""


def _last_at(key: bytes, value: bytes) -> int | None:
    """When what a key stands for last had an event; None where its bytes don't say."""
    try:
        kind = key[:1]
        if kind in _OF_ROWS:
            return last_event_at(value)
        if kind == PASSED:
            return last_passed_at(value)
        return glimpse(value).last_at if kind == ORDER else None
    except (ValueError, IndexError, struct.error):
        # unreadable bytes are found out by whoever needs what is in them
        return None


def _database(path: Path) -> Rdict:
    options = _options(memory=32 * _MIB, cache=64 * _MIB)
    options.create_missing_column_families(create_missing_cfs=True)
    # the log of writes is kept until both are flushed, and the index fills slowly
    options.set_max_total_wal_size(128 * _MIB)
    return Rdict(str(path), options, column_families={_FILED: _options(memory=4 * _MIB, cache=4 * _MIB)})


def _options(*, memory: int, cache: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.set_compression_type(DBCompressionType.lz4())
    # bounded: a worker's memory must not grow with its rows
    options.set_write_buffer_size(memory)
    # a key that is new is looked for in vain: a filter says so sooner than the tables in memory
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.set_memtable_whole_key_filtering(True)
    options.set_allow_concurrent_memtable_write(False)  # one thread writes
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(cache))
    blocks.set_bloom_filter(10, block_based=False)
    options.set_block_based_table_factory(blocks)
    return options
