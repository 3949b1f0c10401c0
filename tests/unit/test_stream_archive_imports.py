"""A shop that has a database extract and no Kafka: archived, replayed with features, and learned from."""

import csv
import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from stream.archive import Archive, Limits
from stream.archive_imports import ImportsThenRecorded
from stream.archive_manifest import load
from stream.archive_place import ArchiveError, Place
from stream.cli import app
from stream.ports import TP, Record
from stream.recorded import recorded_of
from stream.replay import in_recorded_order
from stream.settings import Settings
from tests.strategies import NOON
from tests.unit.test_stream_archive import Topics

ORDERS = """
kind = "orders"
[fields]
order_id = "number"
customer_id = "customer"
placed_at = "at"
amount = { column = "total", unit = "major" }
currency = "currency"
"""
OUTCOMES = """
kind = "outcomes"
[fields]
order_id = "number"
customer_id = "customer"
kind = "what"
is_fraud = "fraud"
occurred_at = "at"
known_at = "known"
"""
COUNT = 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "3")
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "127.0.0.1:1")  # nobody answers there
    return tmp_path


def at(number: float) -> str:
    return (NOON + timedelta(hours=5 * number)).isoformat()


def imported(home: Path, name: str, mapping: str, rows: Sequence[Sequence[str]]) -> None:
    file, said = home / f"{name}.csv", home / f"{name}.toml"
    with file.open("w", newline="") as written:
        csv.writer(written).writerows(rows)
    said.write_text(mapping)
    told("archive", "import", str(file), "--map", str(said))


def told(*words: str) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def an_extract(home: Path) -> None:
    """Orders in the wrong order, in two files, and what became of each order six hours after it."""
    head = ["number", "customer", "at", "total", "currency"]
    rows = [[f"o{n}", f"c{n % 4}", at(n), f"{n}.50", "EUR"] for n in range(COUNT)]
    imported(home, "newer", ORDERS, [head, *reversed(rows[COUNT // 2 :])])
    imported(home, "older", ORDERS, [head, *rows[: COUNT // 2]])
    head = ["number", "customer", "what", "fraud", "at", "known"]
    rows = [
        [
            f"o{n}",
            f"c{n % 4}",
            "confirmed_fraud" if n % 5 == 0 else "confirmed_legitimate",
            str(n % 5 == 0),
            at(n),
            at(n + 1.2),
        ]
        for n in range(COUNT)
    ]
    imported(home, "outcomes", OUTCOMES, [head, *reversed(rows)])


def test_an_extract_alone_is_replayed_in_the_order_in_which_it_happened(home: Path) -> None:
    an_extract(home)
    archive = str(home / "archive")

    done = told(
        "replay",
        "features",
        "--archive",
        archive,
        "--to",
        str(home / "f.parquet"),
        "--features",
        "orders_count_30d",
    )

    assert done["orders"] == COUNT
    rows = {each["order_id"]: each for each in pq.read_table(home / "f.parquet").to_pylist()}
    assert [rows[f"o{n}"]["orders_count_30d"] for n in range(COUNT)] == [n // 4 for n in range(COUNT)]
    assert all(each["history"] and each["arrived_at"] == each["placed_at"] for each in rows.values())
    assert all(each["offset"] < 0 for each in rows.values())
    since = told(
        *("replay", "records", "--archive", archive, "--to", str(home / "r.jsonl"), "--processes", "2"),
        *("--topic", "orders", "--topic", "outcomes", "--since", at(COUNT / 2).replace("+00:00", "Z")),
    )
    assert since["records"] > 0
    lines = [json.loads(line) for line in (home / "r.jsonl").read_text().splitlines()]
    assert {json.loads(each["value"])["order_id"] for each in lines if each["topic"] == "orders"} == {
        f"o{n}" for n in range(COUNT // 2, COUNT)
    }
    for partition in range(3):
        times = [each["arrived_at"] for each in lines if each["partition"] == partition]
        assert times == sorted(times)
        assert len({each["topic"] for each in lines if each["partition"] == partition}) in {0, 2}


def test_an_extract_is_replayed_by_a_shop_whose_workers_map_its_own_json(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_extract(home)
    own = ORDERS.replace('"number"', '"bestellnummer"').replace('"customer"', '"kunde"')
    (home / "own.toml").write_text(own)
    monkeypatch.setenv("FRAUDSTREAM_MAPPING", str(home / "own.toml"))
    file = home / "f.parquet"

    done = told(
        *("replay", "features", "--archive", str(home / "archive"), "--to", str(file)),
        *("--features", "orders_count_30d"),
    )

    assert done["orders"] == COUNT
    assert sum(each["orders_count_30d"] for each in pq.read_table(file).to_pylist()) > 0


def test_a_training_set_is_made_of_an_extract_alone(home: Path) -> None:
    an_extract(home)

    done = told(
        *("training-set", "--archive", str(home / "archive"), "--to", str(home / "t.parquet")),
        *(
            "--features",
            "orders_count_30d",
            "--as-of",
            at(COUNT * 30).replace("+00:00", "Z"),
            "--mature-after",
            "1d",
        ),
    )

    rows = {each["order_id"]: each for each in pq.read_table(home / "t.parquet").to_pylist()}
    assert done["orders"] == len(rows) == COUNT
    assert {name for name, each in rows.items() if each["is_fraud"]} == {f"o{n}" for n in range(0, COUNT, 5)}
    assert [rows[f"o{n}"]["orders_count_30d"] for n in range(COUNT)] == [n // 4 for n in range(COUNT)]


def all_of(past: ImportsThenRecorded, topic: str) -> list[list[Record]]:
    return [
        [each for chunk in past.read((topic, number), *past.bounds((topic, number))) for each in chunk]
        for number in range(past.partitions(topic))
    ]


def test_what_was_imported_comes_before_what_was_recorded_and_can_be_left_out(home: Path) -> None:
    an_extract(home)
    place, value = Place(str(home / "archive")), b'{"order_id": "live", "customer_id": "c1"}'
    live: dict[TP, list[Record]] = {
        ("orders", number): [Record("orders", number, 0, 4_000_000_000_000, b"c1", value)] * (number == 1)
        for number in range(3)
    }
    with Archive(place) as archive:
        archive.append(Topics(live), ["orders"])

    past = ImportsThenRecorded(place)
    there = all_of(past, "orders")
    assert [len(part) for part in there] == [
        end - first for first, end in (past.bounds(("orders", n)) for n in range(3))
    ]
    assert sum(map(len, there)) == COUNT + 1
    assert there[1][-1] == live["orders", 1][0]
    for part in there:
        assert [each.offset for each in part] == list(range(part[0].offset, part[0].offset + len(part)))
        assert [each.timestamp for each in part] == sorted(each.timestamp for each in part)
    with_it = told("replay", "records", "--archive", str(home / "archive"), "--to", str(home / "r.jsonl"))
    without = told(
        *(
            "replay",
            "records",
            "--archive",
            str(home / "archive"),
            "--to",
            str(home / "r.jsonl"),
            "--no-imports",
        )
    )
    assert (with_it["records"], without["records"]) == (COUNT + 1, 1)
    # what workers decided is never held against what they have not seen
    assert recorded_of(Settings(), str(home / "archive")).bounds(("orders", 1)) == (0, 1)


def test_a_part_of_what_was_imported_is_read_as_it_stands_in_the_whole(home: Path) -> None:
    an_extract(home)
    past = ImportsThenRecorded(str(home / "archive"))
    tp = ("orders", 1)
    first, end = past.bounds(tp)
    whole = [each for chunk in past.read(tp, first, end) for each in chunk]
    anew = ImportsThenRecorded(str(home / "archive"))

    for begin in range(first, 0, 3):
        for reader in (past, anew):
            some = [each for chunk in reader.read(tp, begin, begin + 3) for each in chunk]
            assert some == [each for each in whole if begin <= each.offset < begin + 3]
    merged = list(
        in_recorded_order(past, [(tp, (first, end)), (("outcomes", 1), past.bounds(("outcomes", 1)))])
    )
    assert [each.timestamp for each in merged] == sorted(each.timestamp for each in merged)


def test_customers_who_are_erased_and_days_that_are_forgotten_while_it_is_read_are_gone(home: Path) -> None:
    an_extract(home)
    place = Place(str(home / "archive"))
    before = [each for part in all_of(ImportsThenRecorded(place), "orders") for each in part]
    reading, later = ImportsThenRecorded(place), ImportsThenRecorded(place)

    with Archive(place) as archive:
        archive.erase(["c1"], "request 9")
    known = [each.value for part in all_of(reading, "orders") for each in part]
    with Archive(place) as archive:
        archive.forget("orders", date.fromisoformat(at(20)[:10]))
    left = [each.value for part in all_of(later, "orders") for each in part]

    assert known == [each.value for each in before if each.key != b"c1"]
    assert left == [
        each.value
        for each in before
        if each.key != b"c1" and json.loads(each.value or b"")["placed_at"][:10] >= at(20)[:10]
    ]


def test_outcomes_lie_under_the_day_they_became_known_so_that_forgetting_leaves_the_younger(
    home: Path,
) -> None:
    an_extract(home)
    place = Place(str(home / "archive"))

    with Archive(place, Limits()) as archive:
        days = {file.day for file in archive.manifest.files if file.topic == "outcomes"}
        before = date.fromisoformat(sorted(days)[3])
        gone = archive.forget("outcomes", before)

    assert min(days) == at(1.2)[:10]
    left = [each for part in all_of(ImportsThenRecorded(place), "outcomes") for each in part]
    assert 0 < gone == COUNT - len(left) < COUNT
    assert all(json.loads(each.value or b"")["known_at"][:10] >= before.isoformat() for each in left)


def test_an_order_dated_after_its_import_is_refused_and_holds_back_nothing(home: Path) -> None:
    head = ["number", "customer", "at", "total", "currency"]
    imported(
        home,
        "orders",
        ORDERS,
        [head, ["o1", "c1", "2099-01-01T00:00:00Z", "1", "EUR"], ["o2", "c1", at(0), "1", "EUR"]],
    )

    done = told(
        "replay",
        "features",
        "--archive",
        str(home / "archive"),
        "--to",
        str(home / "f.jsonl"),
        "--features",
        "orders_count_30d",
    )

    assert done["orders"] == 1
    assert done["bad"] == {"future_time": 1}


def test_imports_for_another_number_of_partitions_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_extract(home)
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "5")
    head = ["number", "customer", "at", "total", "currency"]
    imported(home, "more", ORDERS, [head, ["o99", "c1", at(0), "1", "EUR"]])

    with pytest.raises(ArchiveError, match=r"other numbers of partitions than it has.*\(3, 5\)"):
        ImportsThenRecorded(str(home / "archive")).partitions("orders")


def test_an_import_of_a_version_that_did_not_count_by_partition_is_refused(home: Path) -> None:
    an_extract(home)
    manifest = home / "archive/manifest.json"
    said = json.loads(manifest.read_text())
    for each in said["imports"]:
        del each["counts"]
    manifest.write_text(json.dumps(said))
    assert load(Place(str(home / "archive"))) is not None

    with pytest.raises(ArchiveError, match="by an earlier version"):
        ImportsThenRecorded(str(home / "archive")).bounds(("orders", 0))
