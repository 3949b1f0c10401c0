"""Rows on disk: whatever is wrong with them, the changelog has them all."""

import os
import random
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.ports import LocalPosition, Refused
from stream.store import RocksStore

POSITION = LocalPosition({"orders": 3}, 7, "log", 1_767_225_600.0)


def _with_a_row(path: Path) -> RocksStore:
    store = RocksStore(path)
    store.write(0, {b"c1": b"row"}, POSITION)
    return store


class _Broken:
    """A database whose disk went bad."""

    def __init__(self, rows: Any, said: Exception) -> None:
        self._rows, self._said = rows, said

    def get(self, key: bytes) -> bytes:
        raise self._said

    def write(self, batch: object) -> None:
        raise self._said

    def delete_range(self, begin: bytes, end: bytes) -> None:
        raise self._said

    def close(self) -> None:
        self._rows.close()


def _goes_bad(store: RocksStore, said: str = "Corruption: block checksum mismatch") -> None:
    store._rows = _Broken(store._rows, Exception(said))  # type: ignore[assignment]


def test_rows_are_found_again(tmp_path: Path) -> None:
    _with_a_row(tmp_path / "w1").close()

    store = RocksStore(tmp_path / "w1")

    assert (store.recall(0, b"c1"), store.position(0)) == (b"row", POSITION)
    assert store.recall(1, b"c1") is None
    store.close()


def test_a_folder_or_a_damaged_block_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "padlock" / "w1"
    store = _with_a_row(path)
    store._rows.flush()
    store.close()
    for table in path.glob("*.sst"):
        table.unlink()  # RocksDB's message has its whole path

    store = RocksStore(path)

    assert store.position(0) is None, "made anew, to be restored from the changelog"
    assert [p.name.split("-")[0] for p in path.parent.iterdir() if p != path] == ["w1.unreadable"]
    store.close()


def test_rows_in_use_by_another_worker_are_left_alone(tmp_path: Path) -> None:
    store = _with_a_row(tmp_path / "w1")
    store.mark_for_rebuild("said by the one who has them open")

    with pytest.raises(Refused, match="in use by another process"):
        RocksStore(tmp_path / "w1")
    assert store.recall(0, b"c1") == b"row"
    store.close()


@pytest.mark.parametrize("does", ["recall", "position", "write", "clear"])
def test_rows_that_fail_while_in_use_are_rebuilt_at_the_next_start(tmp_path: Path, does: str) -> None:
    store = _with_a_row(tmp_path / "w1")
    _goes_bad(store)
    calls = {
        "recall": lambda: store.recall(0, b"c1"),
        "position": lambda: store.position(0),
        "write": lambda: store.write(0, {}, POSITION),
        "clear": lambda: store.clear(0),
    }

    with pytest.raises(Exception, match="block checksum mismatch"):
        calls[does]()
    assert (tmp_path / "w1.rebuild").read_text() == "Corruption: block checksum mismatch"
    store.close()

    again = RocksStore(tmp_path / "w1")
    assert again.position(0) is None
    assert again.recall(0, b"c1") is None
    again.write(0, {b"c1": b"restored"}, POSITION)
    again.close()

    once = RocksStore(tmp_path / "w1")
    assert once.recall(0, b"c1") == b"restored", "rebuilt once, not at every start"
    once.close()


def test_a_damaged_block_on_disk_is_no_reason_to_blame_an_order(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    for n in range(2_000):
        store.write(0, {b"c%d" % n: os.urandom(200)}, POSITION)
    store._rows.flush()
    store.close()
    tables = sorted((tmp_path / "w1").glob("*.sst"), key=lambda each: each.stat().st_size)
    for table in tables[-1:]:  # the rows'; the index's is smaller
        with table.open("r+b") as damaged:
            damaged.seek(10_000)
            damaged.write(b"\xff" * 50_000)

    store = RocksStore(tmp_path / "w1")
    with pytest.raises(Exception, match="Corruption"):
        _ = [store.recall(0, b"c%d" % n) for n in range(2_000)]
    store.close()

    again = RocksStore(tmp_path / "w1")
    assert again.position(0) is None
    again.close()


def test_rows_that_cannot_be_decoded_can_be_marked_by_who_finds_out(tmp_path: Path) -> None:
    store = _with_a_row(tmp_path / "w1")
    store.mark_for_rebuild("row of partition 0: not those of a row")
    store.close()

    again = RocksStore(tmp_path / "w1")

    assert again.position(0) is None
    again.close()


def test_a_position_that_is_none_is_rebuilt(tmp_path: Path) -> None:
    store = _with_a_row(tmp_path / "w1")
    store._rows.put(b"\0\0\0\0" + b"\0local", b"\xc1")

    with pytest.raises(msgspec.DecodeError):
        store.position(0)

    assert (tmp_path / "w1.rebuild").exists()
    store.close()


def test_a_store_closed_under_its_user_is_not_damaged(tmp_path: Path) -> None:
    store = _with_a_row(tmp_path / "w1")
    store.close()

    with pytest.raises(Exception, match="closed"):
        store.recall(0, b"c1")

    assert not (tmp_path / "w1.rebuild").exists()


def test_who_asks_for_the_size_while_the_rows_are_closed_is_told_nothing_and_no_error(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "rows")
    store.write(0, {b"c%d" % n: random.Random(n).randbytes(1000) for n in range(10_000)}, POSITION)
    told: list[object] = []

    def ask() -> None:
        while not told or told[-1] is not None:
            try:
                told.append(store.size())
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                told.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    store.close()
    asking.join(30)

    assert told[-1] is None
    assert [each for each in told if isinstance(each, Exception)] == []


def test_rows_moved_aside_again_and_again_do_not_fill_the_disk(tmp_path: Path) -> None:
    for _ in range(3):
        store = _with_a_row(tmp_path / "w1")
        store.mark_for_rebuild("again")
        store.close()

    RocksStore(tmp_path / "w1").close()

    assert len(list(tmp_path.glob("w1.unreadable-*"))) == 1


ON_A_FULL_DISK = (
    "IO error: No space left on device: While appending to file: w1/000009.sst: No space left on device"
)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (ON_A_FULL_DISK, "the disk is full; make room and start the worker again"),
        (
            "IO error: While open a file for appending: w1/LOCK: Permission denied",
            "this user may not write there",
        ),
    ],
)
def test_sound_rows_that_cannot_be_opened_are_neither_moved_nor_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str, named: str
) -> None:
    _with_a_row(tmp_path / "w1").close()

    def refuse(*_: object, **__: object) -> None:
        raise Exception(said)  # noqa: TRY002 - what rocksdict raises

    with monkeypatch.context() as full:
        full.setattr("stream.store.Rdict", refuse)
        with pytest.raises(Refused, match=named):
            RocksStore(tmp_path / "w1")

    assert caplog.messages == []
    assert [path.name for path in tmp_path.iterdir()] == ["w1"]
    store = RocksStore(tmp_path / "w1")
    assert store.recall(0, b"c1") == b"row"
    store.close()


@pytest.mark.parametrize("does", ["recall", "write", "clear"])
def test_a_disk_that_is_full_while_rows_are_in_use_is_named_and_they_stay(tmp_path: Path, does: str) -> None:
    store = _with_a_row(tmp_path / "w1")
    _goes_bad(store, ON_A_FULL_DISK)
    calls = {
        "recall": lambda: store.recall(0, b"c1"),
        "write": lambda: store.write(0, {}, POSITION),
        "clear": lambda: store.clear(0),
    }

    with pytest.raises(Refused, match="the disk is full; make room and start the worker again"):
        calls[does]()
    store.close()

    assert [path.name for path in tmp_path.iterdir()] == ["w1"]
    again = RocksStore(tmp_path / "w1")
    assert (again.recall(0, b"c1"), again.position(0)) == (b"row", POSITION)
    again.close()


def test_rows_that_cannot_be_moved_are_not_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = _with_a_row(tmp_path / "w1")
    store.mark_for_rebuild("bad")
    store.close()
    caplog.clear()

    def move(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("shutil.move", move)
    with pytest.raises(Refused, match="nor made anew"):
        RocksStore(tmp_path / "w1")

    assert not any("moved" in message for message in caplog.messages)
