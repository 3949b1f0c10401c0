"""New state made beside running workers: exact, never served half made, and taken over without a loss."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from features.events import Order
from features.history import Row
from stream import topics
from stream.archive import ArchivableTopics, Archive
from stream.archive_manifest import Gap, Imported, PartitionEntry
from stream.archive_place import Place
from stream.desk import customer_key
from stream.ports import TP
from stream.rebuild import Progress, Rebuild, RebuildError, Rebuilt, drop
from stream.recorded import TopicsRecorded
from stream.settings import Settings
from stream.store import RocksStore
from tests.faults.stage import publish_starter
from tests.running import Worker, decisions, environment, orders, send

NARROW, WIDE = 8, 64


def a_shop(settings: Settings) -> tuple[Settings, Settings]:
    """Settings before and after: the rows are to hold more orders."""
    before = settings.model_copy(
        update={"row_limit": NARROW, "session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0}
    )
    wider = before.topics.model_copy(update={"changelog": before.topics.changelog + "-2"})
    after = before.model_copy(update={"topics": wider, "row_limit": WIDE, "home": settings.home / "after"})
    for each in (before, after):
        # a model is told how many orders a row holds, so each has its own
        publish_starter(each, "logistic_regression")
    return before, after


def rebuild(settings: Settings, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "rebuild", *words],
        env={**os.environ, **environment(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_of(settings: Settings) -> dict[bytes, bytes]:
    """What a stopped worker has of customers on its disk."""
    store = RocksStore(settings.home / "rows" / settings.worker)
    rows = {k: v for number in range(settings.partitions) for k, v in store.rows(number) if k[:1] == b"c"}
    store.close()
    return rows


def naive_rows(sent: Sequence[tuple[bytes, bytes]], limit: int) -> dict[bytes, bytes]:
    rows: dict[bytes, Row] = {}
    seen = set()
    for _, value in sent:
        order = Order.model_validate_json(value)
        if order.order_id not in seen:
            seen.add(order.order_id)
            rows.setdefault(customer_key(order.key), Row(limit)).remember(order)
    return {key: row.encode() for key, row in rows.items()}


def test_rows_are_made_wider_beside_a_worker_that_goes_on_and_taken_over_without_a_loss(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    sent = orders(600, customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent[:300])
        first = decisions(before, 300)
        making = rebuild(after, "start", "--from", before.topics.changelog)
        try:
            send(before, sent[300:450])
            decisions(before, 450)
            time.sleep(3)
            assert worker.stop() == 0, worker.said()
            with Worker(after, tmp_path / "after") as wider:
                # the last are resends: who switched still knows what was decided
                send(after, [*sent[450:], *sent[:20]])
                decided = decisions(after, 620)
                said, _ = making.communicate(timeout=30)
                assert making.returncode == 0, said
                assert wider.stop() == 0, wider.said()
        finally:
            making.kill()

    assert "is complete" in said
    assert "the workers' from here on" in said
    assert not (after.home / "rebuild").exists(), "the worker has rows of its own"
    assert Counter(d["order_id"] for d in decided if d["repeat_of"] is None) == Counter(
        f"o{n}" for n in range(600)
    )
    repeated = {d["order_id"]: d["repeat_of"] for d in decided if d["repeat_of"] is not None}
    assert repeated == {d["order_id"]: d["decision_id"] for d in first if int(d["order_id"][1:]) < 20}
    assert rows_of(after) == naive_rows(sent, WIDE)
    done = rebuild(after, "confirm", "--drop", before.topics.changelog)
    said, _ = done.communicate(timeout=30)
    assert done.returncode == 0, said
    assert before.topics.changelog not in {s.plan.name for s in topics.describe(before) if s.partitions}


class Killed(BaseException):
    """What no code of ours catches."""


def test_a_half_made_state_is_not_served_and_a_killed_rebuild_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    sent = orders(300, customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent)
        decisions(before, 300)
        assert worker.stop() == 0, worker.said()

    def killed(_: Progress) -> None:
        raise Killed

    with closing(TopicsRecorded(after)) as recorded:
        with closing(Rebuild(after, before.topics.changelog, recorded)) as making, pytest.raises(Killed):
            making.round(killed)
        with Worker(after, tmp_path / "early") as early:
            assert early.ends(40) != 0
            assert "is being rebuilt and not complete" in early.said()
        with closing(Rebuild(after, before.topics.changelog, recorded)) as making:
            making.round()
            assert sum(making.behind.values()) == 0
            assert making.round() == Rebuilt(0, 0)
    with Worker(after, tmp_path / "after") as worker:
        send(after, sent[:5])
        decided = decisions(after, 305)
        assert worker.stop() == 0, worker.said()

    assert [d["repeat_of"] is not None for d in decided].count(True) == 5
    assert rows_of(after) == naive_rows(sent, WIDE)
    with (
        closing(TopicsRecorded(after)) as recorded,
        pytest.raises(RebuildError, match="workers use it already"),
    ):
        Rebuild(after, before.topics.changelog, recorded)


def test_the_old_changelog_is_kept_while_nothing_shows_that_workers_use_the_new_one(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, orders(20))
        decisions(before, 20)
        with pytest.raises(RebuildError, match="has come further than"):
            drop(after, before.topics.changelog)
        with (
            closing(TopicsRecorded(after)) as recorded,
            closing(Rebuild(after, before.topics.changelog, recorded)) as making,
        ):
            making.round()
        with pytest.raises(RebuildError, match="nothing shows yet"):
            drop(after, before.topics.changelog)
        assert worker.stop() == 0, worker.said()


def test_of_two_rebuilds_the_first_says_that_another_goes_on_and_not_that_a_worker_does(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    elsewhere = after.model_copy(update={"home": tmp_path / "elsewhere"})
    source = before.topics.changelog
    with Worker(before, tmp_path / "before") as worker, closing(TopicsRecorded(after)) as recorded:
        send(before, orders(20))
        decisions(before, 20)
        with closing(Rebuild(after, source, recorded)) as first:
            first.round()
            with closing(Rebuild(elsewhere, source, recorded)) as second:
                send(before, orders(40)[20:])
                decisions(before, 40)
                assert second.round().orders > 0
                with pytest.raises(RebuildError, match=r"another rebuild of .* has begun"):
                    first.round()
        assert worker.stop() == 0, worker.said()


def test_an_archive_of_other_topics_or_with_a_hole_is_not_rebuilt_from(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    place = Place(str(tmp_path / "archive"))
    with closing(ArchivableTopics(before)) as source, Archive(place) as archive:
        archive.append(source, before.inputs)
        words = ("start", "--once", "--from", before.topics.changelog, "--archive", str(place))
        for harm, said in (
            ({"id": "made-before"}, "is of another topic"),
            ({"gap": True}, "lacks the offsets 3 to 4"),
        ):
            entry = archive.manifest.topics[before.topics.orders]
            identity, entry.id = entry.id, str(harm.get("id", entry.id))
            archive.manifest.gaps = [Gap(before.topics.orders, 0, 3, 5, "now")] if "gap" in harm else []
            archive.save()
            entry.id = identity
            told, _ = (making := rebuild(after, *words)).communicate(timeout=60)
            assert (making.returncode, said in told) == (1, True), told
        archive.manifest.gaps = []
        rows = PartitionEntry(next=4, first=0, count=4)
        archive.manifest.imports = [
            Imported("0f", before.topics.orders, "old.csv", rows, before.partitions, 0, 0, "2026-01-01")
        ]
        archive.save()
    told, _ = (making := rebuild(after, *words)).communicate(timeout=60)
    assert making.returncode == 0, told
    assert "4 records" in told, "a past that no worker has seen is not taken for one that they have"
    assert "rows are made without them" in told


class Truncated(TopicsRecorded):
    """A topic whose first records are gone."""

    def bounds(self, tp: TP) -> tuple[int, int]:
        _, end = super().bounds(tp)
        return min(3, end), end


def test_orders_that_are_no_longer_there_are_missed_before_anything_is_made(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, orders(20))
        decisions(before, 20)
        assert worker.stop() == 0, worker.said()

    with (
        closing(Truncated(after)) as recorded,
        closing(Rebuild(after, before.topics.changelog, recorded)) as making,
        pytest.raises(RebuildError, match="give the archive that has it"),
    ):
        making.round()
