"""The archive, without a broker: records from lists, kept in a folder or an object store."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs
from typer.testing import CliRunner

from stream.archive import Archive, ArchiveRecorded, Limits, archived_topics
from stream.archive_files import SCHEMA, digests_of, records_in, table_of
from stream.archive_import import Import, import_file
from stream.archive_imports import ImportsThenRecorded
from stream.archive_manifest import MANIFEST, Manifest, load
from stream.archive_place import ArchiveError, Place
from stream.archive_verify import holdings, verify
from stream.cli import app
from stream.desk import partition_of
from stream.mapping import mapping_of
from stream.ports import TP, Headers, Record
from stream.publish import RefusedLine, planned
from stream.settings import Settings
from stream.sources import Source
from stream.topics import TopicError

DAY_MS = 86_400_000
FIRST_DAY = 20_454 * DAY_MS
"""2026-01-01."""


@dataclass
class Topics:
    """Recorded topics that are lists."""

    kept: dict[TP, list[Record]] = field(default_factory=dict)
    low: dict[TP, int] = field(default_factory=dict)
    ends: dict[TP, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    cluster: str = "cluster-1"
    chunk: int = 7

    def topics(self) -> frozenset[str]:
        return frozenset(topic for topic, _ in self.kept)

    def cluster_id(self) -> str:
        return self.cluster

    def topic_id(self, topic: str) -> str:
        return self.ids.get(topic, f"id-of-{topic}")

    def partitions(self, topic: str) -> int:
        return sum(each == topic for each, _ in self.kept)

    def bounds(self, tp: TP) -> tuple[int, int]:
        records = self.kept[tp]
        end = self.ends.get(tp, records[-1].offset + 1 if records else 0)
        return self.low.get(tp, 0), end

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        records = [each for each in self.kept[tp] if max(start, self.low.get(tp, 0)) <= each.offset < end]
        for at in range(0, len(records), self.chunk):
            yield records[at : at + self.chunk]

    def gaps(self, _: TP) -> Sequence[tuple[int, int]]:
        return ()

    def close(self) -> None:
        pass


COUNTRIES = ("DE", "AT", None, "../x", "fr")


def an_order(offset: int, *, partition: int = 0, day: int = 0, topic: str = "orders", **said: Any) -> Record:
    value = {
        "order_id": f"o{partition}-{offset}",
        "customer_id": f"customer-{offset % 3}",
        "placed_at": "2026-01-01T09:00:00.25Z",
        "amount": offset,
        "currency": "EUR",
        "country": COUNTRIES[offset % len(COUNTRIES)],
    } | said
    at = FIRST_DAY + day * DAY_MS + offset
    headers: Headers = (("mode", b"history"),) if offset % 4 == 0 else ()
    return Record(
        topic, partition, offset, at, str(value["customer_id"]).encode(), json.dumps(value).encode(), headers
    )


def some_topics(count: int = 50) -> Topics:
    """Two partitions of orders over two days, with gaps where transactions ended."""
    return Topics(
        {
            ("orders", partition): [
                an_order(offset, partition=partition, day=offset // 30)
                for offset in range(count)
                if offset % 10
            ]
            for partition in range(2)
        }
    )


def run(place: Place | Path, topics: Topics, **limits: int) -> Archive:
    place = Place(str(place)) if isinstance(place, Path) else place
    with Archive(place, Limits(**limits)) as archive:
        archive.append(topics, sorted(topics.topics()))
    return archive


def everything(place: Place | Path, topics: Topics) -> dict[TP, list[Record]]:
    recorded = ArchiveRecorded(place if isinstance(place, Place) else str(place))
    return {
        tp: [record for chunk in recorded.read(tp, *recorded.bounds(tp)) for record in chunk]
        for tp in topics.kept
    }


def digests(place: Path) -> dict[TP, str]:
    manifest = load(Place(str(place)))
    assert manifest is not None
    return {
        (topic, partition): state.digest
        for topic, entry in manifest.topics.items()
        for partition, state in entry.partitions.items()
    }


def test_every_record_comes_out_as_it_went_in_and_in_its_order(tmp_path: Path) -> None:
    topics = some_topics()

    run(tmp_path, topics)

    assert everything(tmp_path, topics) == topics.kept
    assert verify(Place(str(tmp_path)), topics).differences == []


def test_files_lie_by_topic_day_and_country_and_nothing_a_shop_sends_becomes_a_path(tmp_path: Path) -> None:
    run(tmp_path, some_topics())

    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("data/**/*.parquet")}
    assert folders == {
        f"data/topic=orders/day={day}/country={country}"
        for day in ("2026-01-01", "2026-01-02")
        for country in ("DE", "AT", "FR", "none")
    }


def test_a_second_run_archives_only_what_came_since(tmp_path: Path) -> None:
    topics = some_topics()
    run(tmp_path, topics)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/**/*.parquet")}

    topics.kept["orders", 0] += [an_order(50, day=5), an_order(51, day=5)]
    with Archive(Place(str(tmp_path))) as archive:
        done = archive.append(topics, ["orders"])

    assert done.records == 2
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert everything(tmp_path, topics) == topics.kept


def test_the_digest_does_not_depend_on_how_runs_and_files_cut_the_records(tmp_path: Path) -> None:
    run(tmp_path / "whole", some_topics())
    for count in (13, 31, 50):
        run(tmp_path / "cut", some_topics(count), records=4)

    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert verify(Place(str(tmp_path / "cut")), some_topics()).differences == []


def test_one_record_more_or_other_makes_another_digest(tmp_path: Path) -> None:
    run(tmp_path / "one", some_topics())
    topics = some_topics()
    topics.kept["orders", 1][7] = topics.kept["orders", 1][7]._replace(headers=(("mode", None),))  # type: ignore[arg-type]
    run(tmp_path / "other", topics)

    one, other = digests(tmp_path / "one"), digests(tmp_path / "other")
    assert one["orders", 0] == other["orders", 0]
    assert one["orders", 1] != other["orders", 1]


def test_the_same_records_become_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name, some_topics())

    def content(name: str) -> dict[str, bytes]:
        root = tmp_path / name
        return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("data/**/*.parquet")}

    assert content("one") == content("two")


def test_small_files_of_finished_days_become_one_with_the_same_records(tmp_path: Path) -> None:
    topics = some_topics()
    for count in range(5, 51, 5):
        run(tmp_path, some_topics(count))
    place = Place(str(tmp_path))
    before = digests(tmp_path)

    with Archive(place) as archive:
        assert archive.compact() > 0
        assert archive.compact() == 0

    # partitions, days and countries
    assert len(list(tmp_path.glob("data/**/*.parquet"))) == 2 * 2 * 4
    assert digests(tmp_path) == before
    assert everything(tmp_path, topics) == topics.kept
    assert verify(place, topics).differences == []


def test_files_that_are_small_on_the_disk_alone_are_not_made_one(tmp_path: Path) -> None:
    large = [an_order(n, note="all alike " * 2_000) for n in range(12)]
    topics = Topics({("orders", 0): large})
    run(tmp_path, topics, records=1)

    with Archive(Place(str(tmp_path)), Limits(bytes=50_000)) as archive:
        archive.compact()

    assert all(file.plain < 60_000 for file in archive.manifest.files)
    assert max(file.rows for file in archive.manifest.files) == 2
    assert everything(tmp_path, topics) == topics.kept


def test_reading_from_the_middle_gives_the_middle(tmp_path: Path) -> None:
    for count in range(5, 51, 5):
        run(tmp_path, some_topics(count))
    recorded = ArchiveRecorded(str(tmp_path))

    found = [record for chunk in recorded.read(("orders", 1), 23, 37) for record in chunk]

    assert [record.offset for record in found] == [*range(23, 30), *range(31, 37)]
    assert recorded.bounds(("orders", 1)) == (1, 50)
    assert recorded.partitions("orders") == 2
    with pytest.raises(TopicError, match="has no topic 'outcomes'; it has orders"):
        recorded.partitions("outcomes")


def test_a_reader_goes_on_where_files_are_made_one_under_it(tmp_path: Path) -> None:
    topics = some_topics()
    for count in range(5, 51, 5):
        run(tmp_path, some_topics(count))
    recorded = ArchiveRecorded(str(tmp_path))
    chunks = recorded.read(("orders", 0), 0, 50)
    with Archive(Place(str(tmp_path))) as archive:
        assert archive.compact() > 0

    assert [record for chunk in chunks for record in chunk] == topics.kept["orders", 0]

    next(tmp_path.glob("data/**/0-*.parquet")).unlink()
    with pytest.raises(ArchiveError, match="lacks a file that its manifest names"):
        list(recorded.read(("orders", 0), 0, 50))


def test_what_only_an_end_of_transactions_follows_is_up_to_date(tmp_path: Path) -> None:
    topics = some_topics()
    topics.ends["orders", 0] = 53
    run(tmp_path, topics)

    assert [held.behind for held in holdings(Place(str(tmp_path)), topics)] == [0]
    with Archive(Place(str(tmp_path))) as archive:
        assert archive.append(topics, ["orders"]).records == 0


def test_a_partition_that_was_added_is_behind_and_not_read_as_if_it_were_empty(tmp_path: Path) -> None:
    topics = some_topics()
    run(tmp_path, topics)
    topics.kept["orders", 2] = [an_order(n, partition=2) for n in range(5)]

    found = verify(Place(str(tmp_path)), topics)
    assert (found.behind, found.differences) == (5, [])
    assert any("orders/2 was added since" in each for each in found.notes)
    with pytest.raises(TopicError, match="has no partition 2 of 'orders'"):
        ArchiveRecorded(str(tmp_path)).bounds(("orders", 2))


def test_an_empty_topic_is_archived_as_one(tmp_path: Path) -> None:
    topics = Topics({("control", 0): []})
    run(tmp_path, topics)

    assert ArchiveRecorded(str(tmp_path)).partitions("control") == 1
    assert everything(tmp_path, topics) == {("control", 0): []}
    assert verify(Place(str(tmp_path)), topics).differences == []


# ---------------------------------------------------------------------- what must not be archived


def test_records_that_the_topic_lost_first_are_refused_or_noted(tmp_path: Path) -> None:
    run(tmp_path, some_topics(20))
    topics = some_topics()
    topics.low["orders", 1] = 33

    with pytest.raises(ArchiveError, match=r"orders/1 no longer has the offsets 20 to 32: .* --accept-gap"):
        run(tmp_path, topics)
    with Archive(Place(str(tmp_path))) as archive:
        archive.append(topics, ["orders"], accept_gap=True)

    manifest = load(Place(str(tmp_path)))
    assert manifest is not None
    assert [(gap.partition, gap.start, gap.end) for gap in manifest.gaps] == [(1, 20, 33)]
    assert [each.offset for each in everything(tmp_path, topics)["orders", 1] if 15 < each.offset < 36] == [
        *(16, 17, 18, 19),
        *(33, 34, 35),
    ]
    assert verify(Place(str(tmp_path)), topics).differences == []


@dataclass
class Aging(Topics):
    """Topics whose retention deletes records while they are read, once so many of one were."""

    after: int = 8
    to: int = 15

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        for chunk in super().read(tp, start, end):
            if chunk[0].offset >= self.after and tp[1] == 1:
                self.low[tp] = self.to
            if left := [each for each in chunk if each.offset >= self.low.get(tp, 0)]:
                yield left


@pytest.mark.parametrize("after", [8, 43])
def test_records_that_are_deleted_while_they_are_read_are_no_gap_that_nobody_knows_of(
    tmp_path: Path, after: int
) -> None:
    lost = {8: (8, 15), 43: (47, 50)}[after]
    topics = Aging(some_topics().kept, after=after, to=lost[1])

    with pytest.raises(ArchiveError, match=f"orders/1 no longer has the offsets {lost[0]} to {lost[1] - 1}"):
        run(tmp_path, topics)
    kept = [each.offset for each in topics.kept["orders", 1] if not lost[0] <= each.offset]
    assert [each.offset for each in everything(tmp_path, topics)["orders", 1]] == kept
    with Archive(Place(str(tmp_path))) as archive:
        archive.append(topics, ["orders"], accept_gap=True)

    assert [(gap.start, gap.end) for gap in archive.manifest.gaps] == [lost]
    found = verify(Place(str(tmp_path)), topics)
    assert found.differences == []
    assert any(f"orders/1 lacks the offsets {lost[0]} to {lost[1] - 1}" in each for each in found.notes)
    assert found.records == len(topics.kept["orders", 0]) + len(
        [each for each in topics.kept["orders", 1] if not lost[0] <= each.offset < lost[1]]
    )


def test_a_gap_that_is_accepted_while_it_comes_about_is_noted(tmp_path: Path) -> None:
    topics = Aging(some_topics().kept)

    with Archive(Place(str(tmp_path))) as archive:
        archive.append(topics, ["orders"], accept_gap=True)

    assert [(gap.topic, gap.partition, gap.start, gap.end) for gap in archive.manifest.gaps] == [
        ("orders", 1, 8, 15)
    ]
    assert verify(Place(str(tmp_path)), topics).differences == []


def test_a_topic_made_anew_is_refused(tmp_path: Path) -> None:
    run(tmp_path, some_topics())
    topics = some_topics()
    topics.ids["orders"] = "another"

    with pytest.raises(ArchiveError, match="topic 'orders' was deleted and made anew"):
        run(tmp_path, topics)
    assert "made anew" in verify(Place(str(tmp_path)), topics).differences[0]


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    run(tmp_path, some_topics())
    topics = some_topics()
    topics.cluster = "cluster-2"

    with pytest.raises(ArchiveError, match="of the cluster cluster-1 and this broker is of cluster-2"):
        run(tmp_path, topics)


def test_a_topic_that_lost_its_newest_records_is_refused(tmp_path: Path) -> None:
    run(tmp_path, some_topics())

    with pytest.raises(ArchiveError, match=r"orders/0 ends at offset 20 and is archived up to 50"):
        run(tmp_path, some_topics(20))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        Archive(Place(str(tmp_path))),
        pytest.raises(ArchiveError, match="another program writes the archive"),
    ):
        Archive(Place(str(tmp_path)))


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"there is no archive in .*; make one: fraudstream archive run"):
        ArchiveRecorded(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is damaged"),
        (b'{"format": 2, "schema": 1}', "is of format 2 and this program writes 1"),
        (b'{"format": 1, "schema": 99}', "has files of schema 99 and this program knows 1"),
        (b'{"format": 1, "schema": 1, "topics": 7}', "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)

    with pytest.raises(ArchiveError, match=said):
        Archive(Place(str(tmp_path)))


# ---------------------------------------------------------------------- killed


class Killed(BaseException):
    """What a process that is killed would not see."""


class Dying(Place):
    """A place whose writer is killed at its so-many-th step."""

    def __init__(self, address: str, steps: int) -> None:
        super().__init__(address)
        self.steps = steps

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Killed

    def write(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():  # one by one, so that it may end between two
            self._step()
            super().write({name: content})

    def delete(self, names: Any) -> None:
        for name in sorted(names):
            self._step()
            super().delete([name])


def whole(place: Place, topics: Topics) -> None:
    """What the manifest names is whole, whatever lies beside it."""
    assert verify(place).differences == []
    manifest = load(place)
    for tp, expected in topics.kept.items():
        recorded = [] if manifest is None or tp[0] not in manifest.topics else everything(place, topics)[tp]
        assert recorded == expected[: len(recorded)]


@pytest.mark.parametrize("steps", range(0, 60, 5))
def test_a_run_killed_between_any_two_files_leaves_no_duplicate_and_no_hole(
    tmp_path: Path, steps: int
) -> None:
    topics = some_topics()
    run(tmp_path, some_topics(20), records=10)

    dying = Dying(str(tmp_path), steps)
    with pytest.raises(Killed):  # noqa: PT012 (each step may be the one)
        with Archive(dying, Limits(records=10)) as archive:
            archive.append(topics, ["orders"])
            archive.compact()
        raise Killed
    place = Place(str(tmp_path))
    whole(place, topics)

    with Archive(place, Limits(records=10)) as archive:
        archive.append(topics, ["orders"])
        archive.compact()

    assert verify(place, topics).differences == []
    assert everything(tmp_path, topics) == topics.kept
    found = ds.dataset(tmp_path / "data", partitioning="hive").to_table(columns=["partition", "offset"])
    assert sorted(zip(found["partition"].to_pylist(), found["offset"].to_pylist(), strict=True)) == sorted(
        (record.partition, record.offset) for records in topics.kept.values() for record in records
    )
    assert not list(tmp_path.glob(".aside/*"))


def test_a_run_that_is_asked_to_stop_archives_what_it_has_read(tmp_path: Path) -> None:
    topics = some_topics()
    asked = iter([False, False, True])
    with Archive(Place(str(tmp_path))) as archive:
        done = archive.append(topics, ["orders"], stopping=lambda: next(asked, True))

    assert done.was_stopped
    assert 0 < done.records < 90
    run(tmp_path, topics)
    assert everything(tmp_path, topics) == topics.kept


# ---------------------------------------------------------------------- what is not ours


def test_files_that_the_manifest_does_not_name_are_never_deleted(tmp_path: Path) -> None:
    topics = some_topics(20)
    run(tmp_path, topics)
    before = (tmp_path / MANIFEST).read_bytes()
    run(tmp_path, some_topics())
    files = sorted(tmp_path.glob("data/**/*.parquet"))

    (tmp_path / MANIFEST).write_bytes(before)  # as after a backup was brought back
    with pytest.raises(
        ArchiveError, match=r"files that its manifest\.json does not name, such as data/topic="
    ):
        run(tmp_path, some_topics())
    assert any("does not name it" in each for each in verify(Place(str(tmp_path))).differences)

    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ArchiveError, match=r"its manifest\.json names none"):
        run(tmp_path, some_topics())
    assert sorted(tmp_path.glob("data/**/*.parquet")) == files


def test_a_folder_named_data_that_is_somebodys_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orders.csv").write_text("all that is left of 2019")

    with pytest.raises(ArchiveError, match=r"has files in data, such as data/orders\.csv"):
        run(tmp_path, some_topics())

    assert (tmp_path / "data" / "orders.csv").read_text() == "all that is left of 2019"


@pytest.mark.parametrize(
    "path", ["../precious.parquet", "data/../../precious.parquet", "/etc/passwd", "data"]
)
@pytest.mark.parametrize("where", ["files", "writes", "replaces", "obsolete"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path, path: str, where: str) -> None:
    run(tmp_path / "archive", some_topics(), records=10)
    manifest = json.loads((tmp_path / "archive" / MANIFEST).read_text())
    file = manifest["files"][0] | {"path": path}
    manifest["files"] += [file] if where == "files" else []
    manifest["obsolete"] = [path] if where == "obsolete" else []
    manifest["pending"] = {
        "what": "append",
        "writes": [file] if where == "writes" else [],
        "replaces": [path] if where == "replaces" else [],
    }
    (tmp_path / "archive" / MANIFEST).write_text(json.dumps(manifest))
    precious = tmp_path / "precious.parquet"
    precious.write_text("not the archive's")

    with pytest.raises(ArchiveError, match=r"it names .* not below data"):
        run(tmp_path / "archive", some_topics())
    with pytest.raises(ArchiveError, match=r"it names .* not below data"):
        ArchiveRecorded(str(tmp_path / "archive"))

    assert precious.read_text() == "not the archive's"


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("at", [0.02, 0.3, 0.6, 0.98])
def test_a_file_of_which_a_byte_was_changed_is_read_by_nobody(tmp_path: Path, at: float) -> None:
    run(tmp_path, some_topics(), records=10)
    path = next(tmp_path.glob("data/**/0-*.parquet"))
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(bytes(content))
    place = Place(str(tmp_path))

    with pytest.raises(ArchiveError, match="is damaged"):
        everything(tmp_path, some_topics())
    with Archive(place) as archive:
        for change in (
            archive.compact,
            lambda: archive.erase(["customer-1"], "request 7"),
            lambda: archive.forget("orders", date(2026, 1, 2)),
        ):
            # what was changed would be written anew, with a new digest that nobody doubts
            with pytest.raises(ArchiveError, match="is damaged"):
                change()
            archive.manifest = load(place) or Manifest()
    assert path.read_bytes() == bytes(content)


def test_a_file_that_is_gone_is_missed_in_one_line_by_whoever_writes(tmp_path: Path) -> None:
    run(tmp_path, some_topics(), records=10)
    for path in tmp_path.glob("data/**/day=2026-01-02/**/0-*.parquet"):
        path.unlink()

    with Archive(Place(str(tmp_path))) as archive:
        with pytest.raises(ArchiveError, match="lacks a file"):
            archive.compact()
        with pytest.raises(ArchiveError, match="lacks a file"):
            archive.forget("orders", date(2026, 1, 2))


class Full(Place):
    """A place without room, or whose connection is gone."""

    def _write(self, files: Mapping[str, bytes]) -> None:
        raise OSError(28, "No space left on device")


def test_an_address_is_shown_without_the_secret_in_it() -> None:
    with pytest.raises(ArchiveError) as refused:
        Place("s3://AKIAKEY:sEcrEt@bucket/shop?nonsense=1")

    assert "s3://bucket/shop" in str(refused.value)
    assert "sEcrEt" not in str(refused.value)


def test_a_disk_that_is_full_is_said_with_the_archive_and_not_with_standard_output(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=f"can't write in {tmp_path}: .*No space left"):
        run(Full(str(tmp_path)), some_topics())
    run(tmp_path, some_topics())
    assert everything(tmp_path, some_topics()) == some_topics().kept


# ---------------------------------------------------------------------- verify


def _lose(root: Path) -> None:
    next(root.glob("data/**/0-*.parquet")).unlink()


def _damage(root: Path) -> None:
    path = next(root.glob("data/**/0-*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _add(root: Path) -> None:
    path = next(root.glob("data/**/0-*.parquet"))
    path.with_name("0-900-999.parquet").write_bytes(path.read_bytes())


def _forge(root: Path) -> None:
    manifest = json.loads((root / MANIFEST).read_text())
    manifest["topics"]["orders"]["partitions"]["0"]["count"] += 1
    (root / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_lose, "the manifest names it and it is not there"),
        (_damage, "its bytes were changed"),
        (_add, "is there and the manifest does not name it"),
        (_forge, "orders/0: has 45 records and the manifest says 46"),
    ],
)
def test_verify_tells_what_was_lost_changed_or_added(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    run(tmp_path, some_topics())
    harm(tmp_path)

    assert any(said in each for each in verify(Place(str(tmp_path))).differences)


def test_verify_against_topics_tells_each_record_that_differs(tmp_path: Path) -> None:
    run(tmp_path, some_topics())
    topics = some_topics()
    topics.kept["orders", 0][3] = topics.kept["orders", 0][3]._replace(value=b"{}")
    topics.kept["orders", 1].insert(9, an_order(10, partition=1))
    del topics.kept["orders", 1][20]
    topics.kept["orders", 1] += [an_order(50, partition=1), an_order(51, partition=1)]

    found = verify(Place(str(tmp_path)), topics)

    assert found.differences == [
        "orders/0 offset 4: the archive has another record than the topic",
        "orders/1 offset 10: the topic has it and the archive has not",
        "orders/1 offset 22: the archive has it and the topic has not",
    ]
    assert (found.records, found.compared, found.behind) == (90, 89, 2)


def test_what_the_topics_no_longer_have_only_the_archive_proves(tmp_path: Path) -> None:
    run(tmp_path, some_topics())
    topics = some_topics()
    topics.low = {("orders", 0): 25, ("orders", 1): 50}

    found = verify(Place(str(tmp_path)), topics)

    assert found.differences == []
    assert (found.records, found.compared) == (90, 23)


# ---------------------------------------------------------------------- files


def test_columns_beside_the_bytes_say_what_the_record_says_and_no_more(tmp_path: Path) -> None:
    values = [
        b'{"order_id": "o1", "revision": 2, "amount": "12", "placed_at": "2026-01-01T09:00:00+01:00"}',
        b'{"order_id": 7, "currency": "EUR", "placed_at": "2026-01-01T09:00:00", "amount": 1e400}',
        b"\xff",
        None,
        b"[1]",
        b'{"amount": 99999999999999999999, "decision_id": "d", "action": "review", "p_fraud": 0.25}',
        b'{"model": {"name": "starter", "version": "v1"}}',
    ]
    records = [Record("decisions", 0, n, -1, None, value) for n, value in enumerate(values)]

    table, homes = table_of(records)

    rows = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    plain = {"partition", "offset", "value", "headers", "erased"}
    assert [{k: str(v) for k, v in row.items() if k not in plain} for row in rows] == [
        {"order_id": "o1", "revision": "2", "placed_at": "2026-01-01 08:00:00+00:00"},
        {"currency": "EUR"},
        {},
        {},
        {},
        {"decision_id": "d", "action": "review", "p_fraud": "0.25"},
        {"model_name": "starter", "model_version": "v1"},
    ]
    assert homes == [("1970-01-01", "none")] * 7
    assert records_in("decisions", table) == records


_bytes = st.none() | st.binary(max_size=20)
_headers = st.lists(st.tuples(st.text(max_size=5), _bytes), max_size=3).map(tuple)
_records = st.lists(
    st.builds(
        Record,
        topic=st.just("t"),
        partition=st.integers(0, 3),
        offset=st.integers(0, 2**62),
        timestamp=st.integers(-1, 2**53),
        key=_bytes,
        value=_bytes,
        headers=_headers,
    ),
    min_size=1,
    max_size=20,
)


@given(_records)
def test_whatever_bytes_a_record_has_its_file_gives_them_back(records: list[Record]) -> None:
    table, _ = table_of(records)

    assert records_in("t", table) == records
    assert records_in("t", table.slice(1)) == records[1:]


@given(_records)
def test_two_records_have_one_digest_only_if_they_are_the_same(records: list[Record]) -> None:
    told = {each[2:]: digest for each, digest in zip(records, digests_of(records), strict=True)}

    assert len(set(told.values())) == len(told)


def test_files_of_an_older_schema_are_read_with_the_newer_ones(tmp_path: Path) -> None:
    topics = some_topics()
    run(tmp_path, some_topics(25))
    newer = {"erased", "digest", "import_id", "model_version"}
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    for file in manifest["files"]:
        path = tmp_path / file["path"]
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(list(newer)), path)
        file["sha256"] = _sha256(path)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))

    run(tmp_path, topics)

    assert everything(tmp_path, topics) == topics.kept
    assert verify(Place(str(tmp_path)), topics).differences == []
    with Archive(Place(str(tmp_path))) as archive:
        assert archive.compact() > 0
    assert everything(tmp_path, topics) == topics.kept
    assert ds.dataset(tmp_path / "data", schema=SCHEMA).count_rows() == 90


def _sha256(path: Path) -> str:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_others_read_the_files_without_us(tmp_path: Path) -> None:
    topics = some_topics()
    run(tmp_path, topics)

    table = ds.dataset(tmp_path / "data", partitioning="hive").to_table(
        filter=(pa.compute.field("country") == "DE") & (pa.compute.field("day") == "2026-01-01")
    )

    expected = [
        json.loads(record.value or b"")
        for records in topics.kept.values()
        for record in records
        if record.offset < 30 and json.loads(record.value or b"")["country"] == "DE"
    ]
    assert sorted(table["order_id"].to_pylist()) == sorted(each["order_id"] for each in expected)
    assert sorted(table["amount"].to_pylist()) == sorted(each["amount"] for each in expected)


def test_the_page_reads_the_archive_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = some_topics()
    run(tmp_path / "archive", topics)
    # what a run that was killed may leave, and the manifest does not name
    path = next((tmp_path / "archive").glob("data/**/0-*.parquet"))
    path.with_name("0-900-999.parquet").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "archive.md"
    by_glob, by_manifest = (
        block
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        if "pyarrow" in block
    )

    found: dict[str, Any] = {}
    exec(by_glob, found)  # noqa: S102 (our own page)
    assert set(found["orders"].column_names) == {"customer_id", "placed_at", "amount"}
    exec(by_manifest, found)  # noqa: S102 (as above)
    assert found["orders"].count_rows() == 90
    assert {"topic", "day", "country"} <= set(found["orders"].schema.names)


def test_an_object_store_holds_the_same_archive(tmp_path: Path) -> None:
    # it can't rename, and is not told apart from S3 by anything that the archive does
    store = fs._MockFileSystem() if hasattr(fs, "_MockFileSystem") else fs.FileSystem.from_uri("mock:///x")[0]
    place = Place("bucket/shop", store)
    topics = some_topics()
    run(place, some_topics(20))
    run(place, topics)
    run(tmp_path, topics)

    assert not place.is_local
    assert verify(place, topics).differences == []
    assert everything(place, topics) == topics.kept
    with Archive(place) as archive:
        assert archive.compact() > 0
    assert verify(place, topics).differences == []


def test_a_manifest_says_the_same_after_it_was_stored(tmp_path: Path) -> None:
    archive = run(tmp_path, some_topics())

    assert isinstance(archive.manifest, Manifest)
    assert load(Place(str(tmp_path))) == archive.manifest


# ---------------------------------------------------------------------- what is no longer kept


def test_forgotten_days_are_gone_and_do_not_come_back(tmp_path: Path) -> None:
    topics = some_topics()
    place = Place(str(tmp_path))
    run(place, topics)

    with Archive(place) as archive:
        assert archive.forget("orders", date(2026, 1, 2)) == 54
        assert archive.forget("orders", date(2026, 1, 2)) == 0
    topics.kept["orders", 0].append(an_order(50, day=2))
    run(place, topics)

    later = {tp: [each for each in records if each.offset >= 30] for tp, records in topics.kept.items()}
    assert everything(place, topics) == later
    assert ArchiveRecorded(place).bounds(("orders", 1)) == (31, 50)
    assert verify(place, topics).differences == []
    assert not list(tmp_path.glob("data/**/day=2026-01-01"))


def test_of_an_erased_customer_nothing_is_left_but_where_the_records_stood(tmp_path: Path) -> None:
    topics = some_topics(40)
    place = Place(str(tmp_path))
    run(place, topics)
    before = digests(tmp_path)

    with Archive(place) as archive:
        assert archive.erase(["customer-1", "nobody"], "request 7") == 24
    others = {
        tp: [each for each in records if each.key != b"customer-1"] for tp, records in topics.kept.items()
    }
    assert everything(place, topics) == others
    assert digests(tmp_path) == before
    assert verify(place, topics).differences == []
    assert not any(b"customer-1" in path.read_bytes() for path in tmp_path.glob("**/*") if path.is_file())

    run(place, some_topics())
    others = {
        tp: [each for each in records if each.key != b"customer-1"]
        for tp, records in some_topics().kept.items()
    }
    assert everything(place, topics) == others
    assert verify(place, some_topics()).differences == []
    rows = ds.dataset(tmp_path / "data", partitioning="hive").to_table(filter=pa.compute.field("erased"))
    assert len(rows) == 90 - sum(map(len, others.values()))
    told = {"partition", "offset", "appended_at", "erased", "digest", "topic", "day", "country"}
    assert {name for name in rows.column_names if rows[name].null_count < len(rows)} == told


def test_a_topic_whose_name_has_the_mark_of_a_revision_in_it_is_erased_as_any(tmp_path: Path) -> None:
    topics = Topics({("shop.returns", 0): [an_order(n, topic="shop.returns") for n in range(6)]})
    run(tmp_path, topics)
    place = Place(str(tmp_path))

    for customer in ("customer-1", "customer-2"):
        with Archive(place) as archive:
            assert archive.erase([customer], "request 7") == 2

    assert [each.offset for each in everything(place, topics)["shop.returns", 0]] == [0, 3]
    assert verify(place, topics).differences == []
    assert all(
        path.name.endswith((".r1.parquet", ".r2.parquet")) for path in tmp_path.glob("data/**/*.parquet")
    )


@pytest.mark.parametrize("steps", range(0, 40, 4))
def test_an_erasure_that_is_killed_is_finished_by_the_next_run(tmp_path: Path, steps: int) -> None:
    topics = some_topics(40)
    run(tmp_path, topics, records=10)
    dying = Dying(str(tmp_path), steps + 1)
    with pytest.raises(Killed):  # noqa: PT012 (each step may be the one)
        with Archive(dying) as archive:
            archive.erase(["customer-1"], "request 7")
        raise Killed
    place = Place(str(tmp_path))

    with Archive(place) as archive:
        archive.append(topics, ["orders"])

    others = {
        tp: [each for each in records if each.key != b"customer-1"] for tp, records in topics.kept.items()
    }
    assert everything(place, topics) == others
    assert verify(place, topics).differences == []
    assert not any(b"customer-1" in path.read_bytes() for path in tmp_path.glob("**/*") if path.is_file())


# ---------------------------------------------------------------------- extracts of databases


def _extract(tmp_path: Path, count: int = 30) -> Path:
    file = tmp_path / "extract.csv"
    rows = [f"o{n},c{n % 7},2025-12-{1 + n // 10:02}T10:00:{n:02}Z,{n}.50,EUR,DE" for n in range(count)]
    rows[5] = "o5,c5,yesterday,1.50,EUR,DE"
    file.write_text("\n".join(["number,customer,at,total,currency,country", *rows]) + "\n")
    return file


MAPPING = """
kind = "orders"
[fields]
order_id = "number"
customer_id = "customer"
placed_at = "at"
amount = { column = "total", unit = "major" }
currency = "currency"
country = "country"
"""


def _import(place: Place, file: Path, **options: Any) -> Import:
    settings = Settings(partitions=2)
    mapping = mapping_of(MAPPING, said="test")
    with Source(str(file), mapping.source) as source, Archive(place, Limits(records=10)) as archive:
        return import_file(archive, settings, source, planned(settings, source, mapping), **options)


def imported(place: Place, partition: int) -> list[Record]:
    """What was imported of a partition, as a replay reads it."""
    past = ImportsThenRecorded(place)
    first, _ = past.bounds(("orders", partition))
    return [record for chunk in past.read(("orders", partition), first, 0) for record in chunk]


def test_an_extract_is_imported_once_and_comes_before_what_was_recorded(tmp_path: Path) -> None:
    file, place = _extract(tmp_path), Place(str(tmp_path / "archive"))
    run(place, some_topics())
    refused: list[RefusedLine] = []

    done = _import(place, file, refused=refused.append)
    again = _import(place, file)

    assert (done.records, done.refused, [each.line for each in refused]) == (29, 1, [6])
    assert (again.is_repeat, again.id, again.records) == (True, done.id, 29)
    records = [record for partition in range(2) for record in imported(place, partition)]
    assert sorted(json.loads(each.value or b"")["order_id"] for each in records) == sorted(
        f"o{n}" for n in range(30) if n != 5
    )
    assert all(each.partition == partition_of(each.key or b"", 2) for each in records)
    assert {each.headers[0] for each in records} == {("mode", b"history")}
    assert all(each.headers[1][0] == "arrived_at" for each in records)
    for partition in range(2):
        offsets = [each.offset for each in records if each.partition == partition]
        assert offsets == sorted(offsets)
    assert everything(place, some_topics()) == some_topics().kept
    assert verify(place, some_topics()).differences == []
    assert {path.parent.parent.name for path in (tmp_path / "archive").glob("data/**/import-*")} == {
        f"day=2025-12-0{day}" for day in (1, 2, 3)
    }


def test_the_small_files_of_an_import_become_one_with_the_same_records(tmp_path: Path) -> None:
    file, place = _extract(tmp_path), Place(str(tmp_path / "archive"))
    _import(place, file)
    rows = [f"o{n},c{n % 7},2025-12-01T10:00:{n % 60:02}Z,{n}.50,EUR,DE" for n in range(100, 140)]
    file.write_text("\n".join(["number,customer,at,total,currency,country", *rows]) + "\n")
    _import(place, file)
    before = [imported(place, number) for number in range(2)]

    with Archive(place) as archive:
        assert archive.compact() > 0

    homes = [(file.import_id, file.day, file.country) for file in archive.manifest.files]
    assert len(homes) == len(set(homes)) == 4
    assert [imported(place, number) for number in range(2)] == before
    with pytest.raises(TopicError, match="only what was imported"):
        ArchiveRecorded(place).bounds(("orders", 0))
    # of imports alone: no cluster is another than theirs
    assert verify(place, some_topics()).differences == []


def test_an_import_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    file, place = _extract(tmp_path), Place(str(tmp_path / "archive"))
    asked = iter([False] * 25)

    done = _import(place, file, stopping=lambda: next(asked, True))

    assert done.was_stopped
    assert not list((tmp_path / "archive").glob("data/**/*.parquet"))
    with pytest.raises(Killed):
        _import(Dying(str(tmp_path / "archive"), 3), file)
    assert _import(place, file).records == 29
    assert verify(place).differences == []
    assert ds.dataset(tmp_path / "archive/data", partitioning="hive").count_rows() == 29


def test_what_was_imported_is_forgotten_and_erased_as_what_was_recorded(tmp_path: Path) -> None:
    file, place = _extract(tmp_path), Place(str(tmp_path / "archive"))
    _import(place, file)

    with Archive(place) as archive:
        archive.erase(["c1"], "request 8")
        archive.forget("orders", date(2025, 12, 2))

    left = [
        json.loads(record.value or b"") for partition in range(2) for record in imported(place, partition)
    ]
    assert sorted(each["order_id"] for each in left) == sorted(f"o{n}" for n in range(10, 30) if n % 7 != 1)
    assert verify(place).differences == []


def test_the_commands_import_tell_forget_and_erase(tmp_path: Path) -> None:
    file, at = _extract(tmp_path), str(tmp_path / "archive")
    (tmp_path / "mapping.toml").write_text(MAPPING)
    # as editors of Windows and spreadsheets save it: the first name is none other for the mark before it
    (tmp_path / "customers.txt").write_text("\ufeffc3\r\n\r\n  c4 \r\n", encoding="utf-8")

    def told(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["archive", *words, "--at", at, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    mapped = ("import", str(file), "--map", str(tmp_path / "mapping.toml"))
    first = told(*mapped, code=1)
    assert (first["records"], first["refused"], first["already_imported"]) == (29, 1, False)
    assert told(*mapped, code=1)["already_imported"]
    held = told("status", "--offline")
    assert (held["topic"], held["imported"], held["last_day"]) == ("orders", 29, "2025-12-03")
    assert told("forget", "--topic", "orders", "--before", "2025-12-02")["records"] == 9
    assert told("erase", "--customers", str(tmp_path / "customers.txt"), "--why", "r9") == {
        "customers": 2,
        "records": 6,
    }
    assert told("verify")["differences"] == []
    assert load(Place(at)).erasures[0].why == "r9"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("forget", "--topic", "orders", "--before", "yesterday"),
            2,
            "'yesterday' is no day; write 2026-01-31",
        ),
        (("forget", "--topic", "orders", "--before", "2026-01-01"), 1, "there is no archive in"),
        (("erase", "--customers", "somebody.txt", "--why", "r"), 1, "there is no archive in"),
        (("status", "--offline", "--at", ""), 1, "has to lie somewhere"),
        (("erase", "--customers", "nobody.txt", "--why", "r"), 1, "names nobody"),
        (("verify",), 1, "there is no archive in"),
        (("status", "--offline", "--at", "nonsense://x"), 1, "'nonsense://x' can't be opened"),
        (("import", "nobody.txt", "--kind", "people"), 2, "'people' is none of orders, events, outcomes"),
    ],
)
def test_what_a_command_cannot_do_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nobody.txt").write_text("\n")
    (tmp_path / "somebody.txt").write_text("c1\n")

    done = CliRunner().invoke(app, ["archive", *words])

    told = done.stderr if done.exit_code == 1 else str(done.output) + str(done.exception)
    assert (done.exit_code, said in told) == (code, True), done.output
    assert {path.name for path in tmp_path.iterdir()} == {"nobody.txt", "somebody.txt"}


class Moving(Topics):
    """Topics in which a worker decides under what was just said whenever somebody asks where one ends."""

    def bounds(self, tp: TP) -> tuple[int, int]:
        asked = super().bounds(tp)
        for topic in ("control", "decisions"):
            said = self.kept[topic, 0]
            said.append(an_order(len(said), topic=topic))
        return asked


def test_what_a_decision_names_is_archived_with_it_and_before_it(tmp_path: Path) -> None:
    settings = Settings()
    topics = Moving({(name, 0): [] for name in ("control", "decisions")})
    archive = Archive(Place(str(tmp_path)), Limits(records=1))
    written: list[str] = []

    with archive:
        for _ in range(5):
            names = [name for name in archived_topics(settings) if name in topics.topics()]
            archive.append(topics, names, told=lambda done: written.extend(done.by_topic))

    kept = archive.manifest.topics
    assert kept["decisions"].partitions[0].next > 0
    assert kept["control"].partitions[0].next >= kept["decisions"].partitions[0].next
    assert written[0] == "control"


def test_topics_that_were_never_archived_are_told(tmp_path: Path) -> None:
    topics = some_topics()
    topics.kept["decisions", 0] = [an_order(offset, topic="decisions") for offset in range(4)]
    place = Place(str(tmp_path))
    with Archive(place) as archive:
        archive.append(topics, ["orders"])

    found = verify(place, topics, ["decisions", "orders", "outcomes"])

    assert (found.differences, found.behind) == ([], 4)
    assert len(found.notes) == 1
    assert "topic 'decisions' was never archived" in found.notes[0]
