"""Two versions at once: a rolling upgrade, and a worker that is older than the rows it meets."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from features.events import Order
from features.history import ROW_VERSION, Row
from features.remembered import VALUES
from stream import topics
from stream.desk import customer_key, partition_of
from stream.settings import Settings
from stream.store import RocksStore
from tests.running import Worker, decisions, environment, orders, send

ROOT: Final = Path(__file__).parents[2]
IN_VERSION_1: Final = 11
"""So many of VALUES a row of version 1 remembers."""
PACKAGES: Final = ("features", "models", "stream")
EARLIER: Final = "d388fb4d3ea83815ade2f12395a5f0cb6081ce43"
"""A commit whose rows this version reads; it knows nothing of the control topic."""


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they were in an earlier commit."""
    code = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", EARLIER, *PACKAGES, "pyproject.toml"],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip(f"commit {EARLIER[:7]} is not in this clone, so there is no earlier version to run")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(code)  # noqa: S202 - ours; Python 3.11.2 knows no filter
    return code


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of this version, with rows of a version that this one does not know."""
    code = tmp_path_factory.mktemp("later")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    history = code / "features" / "history.py"
    text = history.read_text()
    assert text.count(f"\nROW_VERSION = {ROW_VERSION}\n") == 1
    history.write_text(
        text.replace(f"\nROW_VERSION = {ROW_VERSION}\n", f"\nROW_VERSION = {ROW_VERSION + 1}\n")
    )
    return code


def a_worker(settings: Settings, name: str, code: Path) -> Settings:
    """Settings of a worker that runs this code, with a model that this code trained."""
    mine = settings.model_copy(
        update={
            "worker": name,
            "home": settings.home / name,
            "session_s": 6.0,
            "transaction_s": 5.0,
            "patience_s": 5.0,
        }
    )
    mine.home.mkdir(parents=True)
    past = str(mine.home / "past.jsonl")
    for command in (
        ("simulate", "past", past, "--days", "8", "--per-day", "80"),
        ("train", past, "--predictor", "logistic_regression", "--promote"),
    ):
        subprocess.run(
            [sys.executable, "-m", "stream.cli", *command],
            env={**os.environ, **environment(mine), "PYTHONPATH": str(code)},
            cwd=code,
            capture_output=True,
            check=True,
        )
    return mine


def opens(worker: Worker, words: str, within_s: float = 40.0) -> None:
    """Wait until the worker has opened partitions, or has refused to."""
    deadline = time.monotonic() + within_s
    while words not in worker.said() and worker.process.poll() is None:
        assert time.monotonic() < deadline, worker.said()
        time.sleep(0.05)


def rows_of(settings: Settings) -> dict[bytes, bytes]:
    """What a stopped worker has on its disk of the customers."""
    store = RocksStore(settings.home / "rows" / settings.worker)
    rows = {k: v for number in range(settings.partitions) for k, v in store.rows(number) if k[:1] == b"c"}
    store.close()
    return rows


def known(row: Row) -> list[list[int]]:
    """What either version remembers of each order."""
    return [row.column(name) for name in ("placed_at", "amount", "order", *list(VALUES)[:IN_VERSION_1])]


def test_two_versions_run_side_by_side_and_every_order_is_decided_once(
    settings: Settings, earlier: Path, tmp_path: Path
) -> None:
    topics.create(settings)
    old, new = a_worker(settings, "old", earlier), a_worker(settings, "new", ROOT)
    sent = orders(500, customers=20)
    with Worker(old, tmp_path / "old", code=earlier) as running:
        send(settings, sent[:100])
        decisions(settings, 100)
        with Worker(new, tmp_path / "new") as upgraded:
            opens(upgraded, "opened 1 partitions")
            send(settings, [*sent[100:200], *sent[:20]])
            decisions(settings, 220)
            running.kill()
            send(settings, sent[200:300])
            decisions(settings, 320)
            # what the new version wrote, the old one takes over: to go on with it, or to refuse in one line
            with Worker(old, tmp_path / "old-again", code=earlier) as again:
                opens(again, "opened 1 partitions")
                send(settings, sent[300:400])
                decisions(settings, 420)
                refused = again.process.poll() is not None
                said = again.said()
                assert not refused or "upgrade the program" in said or "or a newer one" in said, said
                assert refused or again.stop() == 0, again.said()
            send(settings, sent[400:])
            decided = decisions(settings, 520)
            assert upgraded.stop() == 0, upgraded.said()

    firsts = [d for d in decided if d["repeat_of"] is None]
    assert Counter(d["order_id"] for d in firsts) == Counter(f"o{n}" for n in range(500))
    resent = [d for d in decided if d["repeat_of"] is not None]
    assert sorted(d["order_id"] for d in resent) == sorted(f"o{n}" for n in range(20))
    assert {tuple(d["source"]["others"]) for d in decided} == {(), (settings.topics.control,)}, "both decided"
    expected: dict[bytes, Row] = {}
    for _, value in sent:
        order = Order.model_validate_json(value)
        expected.setdefault(customer_key(order.key), Row(new.row_limit)).remember(order)
    found = {key: Row.decode(data, new.row_limit) for key, data in rows_of(new).items()}
    assert {key: known(row) for key, row in found.items()} == {
        key: known(row) for key, row in expected.items()
    }


def test_a_worker_older_than_the_rows_refuses_and_hands_over(
    settings: Settings, later: Path, tmp_path: Path
) -> None:
    topics.create(settings)
    newer, older = a_worker(settings, "newer", later), a_worker(settings, "older", ROOT)
    keys = [f"c{number}".encode() for number in range(20)]
    assert {partition_of(key, settings.partitions) for key in keys} == {0, 1}, (
        "whatever it is given, it meets"
    )
    sent = orders(200, customers=20)
    with Worker(newer, tmp_path / "newer", code=later) as running:
        send(settings, sent[:100])
        decisions(settings, 100)
        with Worker(older, tmp_path / "older") as refuses:
            opens(refuses, "opened 1 partitions")
            send(settings, sent[100:])
            assert refuses.ends(40) == 1, refuses.said()
        decided = decisions(settings, 200)
        assert running.stop() == 0, running.said()

    last = refuses.said().splitlines()[-1]
    assert (
        f"a row is of version {ROW_VERSION + 1} and this program reads up to {ROW_VERSION}; run the version"
        in last
    )
    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(200))
    assert {row[0] for row in rows_of(newer).values()} == {ROW_VERSION + 1}
