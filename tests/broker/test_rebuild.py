"""New state made beside running workers: exact, never served half made, and taken over without a loss."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from features.events import Order, Outcome
from features.history import Row
from features.replay import Replay
from stream import topics
from stream.answers import STAGES
from stream.archive import ArchivableTopics, Archive
from stream.archive_manifest import Gap, Imported, PartitionEntry
from stream.archive_place import Place
from stream.desk import customer_key
from stream.kafka import KafkaCluster
from stream.keeping import row_key
from stream.ports import TP, Refused
from stream.rebuild import Progress, Rebuild, RebuildError, Rebuilt, drop
from stream.recorded import TopicsRecorded
from stream.repair import repair_offsets
from stream.settings import Settings
from stream.store import RocksStore
from stream.verify import verify
from stream.writer import BEING_REBUILT, POSITION_KEY, Owner, Rebuilding, encode_position
from tests.faults.stage import publish_starter
from tests.running import Worker, decisions, environment, orders, read, send

NARROW, WIDE, EXACT = 8, 64, 2_048


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


def left_with(settings: Settings) -> set[str]:
    """The changelogs that the owners of the group's offsets say their rows are in."""
    tps = [(topic, number) for topic in settings.inputs for number in range(settings.partitions)]
    with closing(KafkaCluster(settings)) as cluster:
        return {Owner.of(each).changelog for each in cluster.committed(tps, stable=True).values()}


def test_old_settings_are_refused_after_the_switch_where_no_order_has_come_since(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    sent = orders(320, customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent[:300])
        first = decisions(before, 300)
        assert worker.stop() == 0, worker.said()
    with (
        closing(TopicsRecorded(after)) as recorded,
        closing(Rebuild(after, before.topics.changelog, recorded)) as making,
    ):
        making.round()
    with Worker(after, tmp_path / "after") as worker:
        deadline = time.monotonic() + 40
        while left_with(after) != {after.topics.changelog}:
            assert time.monotonic() < deadline, worker.said()
            time.sleep(0.2)
        assert worker.stop() == 0, worker.said()

    # a service manager starts one of before: offsets and its own changelog agree, and it must not decide
    with Worker(before, tmp_path / "forgotten") as forgotten:
        send(before, sent[300:])
        assert forgotten.ends(60) == 1
    said = forgotten.said()
    assert f"was last decided with the rows of changelog '{after.topics.changelog}'" in said
    assert f"FRAUDSTREAM_TOPICS__CHANGELOG={after.topics.changelog}" in said
    with pytest.raises(Refused, match=f"have gone on with changelog '{after.topics.changelog}'"):
        repair_offsets(before)

    with Worker(after, tmp_path / "again") as worker:
        send(after, sent[:20])
        decided = decisions(after, 340)
        assert worker.stop() == 0, worker.said()
    assert Counter(d["order_id"] for d in decided if d["repeat_of"] is None) == Counter(
        f"o{n}" for n in range(320)
    )
    repeated = {d["order_id"]: d["repeat_of"] for d in decided if d["repeat_of"] is not None}
    assert repeated == {d["order_id"]: d["decision_id"] for d in first if int(d["order_id"][1:]) < 20}
    assert rows_of(after) == naive_rows(sent, WIDE)


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


def test_what_is_half_made_itself_is_not_rebuilt_from(settings: Settings) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    # killed before what was decided was copied: resends would be decided once more
    group, made = before.group + BEING_REBUILT, Rebuilding("of before", 0, before.partitions)
    position = encode_position({before.topics.orders: 0}, group, rebuilding=made)
    send(before, [(POSITION_KEY, position)], topic=before.topics.changelog, partition=0)

    with (
        closing(TopicsRecorded(after)) as recorded,
        closing(Rebuild(after, before.topics.changelog, recorded)) as making,
        pytest.raises(RebuildError, match="was itself being made anew, and is not complete"),
    ):
        making.round()


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


ENTITIES = ("device", "merchant")


def turned_on(settings: Settings) -> tuple[Settings, Settings]:
    """Settings before and after: devices and merchants are to have histories too."""
    before = settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 20.0})
    other = before.topics.model_copy(update={"changelog": before.topics.changelog + "-2"})
    after = before.model_copy(update={"topics": other, "entities": ENTITIES, "home": settings.home / "after"})
    for each in (before, after):
        publish_starter(each, "logistic_regression")
    return before, after


def with_devices(made: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The same orders, from devices and of merchants that customers of all partitions share."""
    named = []
    for number, (key, value) in enumerate(made):
        further = {"device_id": f"d{number % 7}", "merchant_id": f"m{number % 3}"}
        named.append((key, json.dumps(json.loads(value) | further).encode()))
    return named


def frauds(numbers: range, *, customers: int) -> list[tuple[bytes, bytes]]:
    """What became of some of these orders."""
    return [
        (
            f"c{number % customers}".encode(),
            json.dumps(
                {
                    "order_id": f"o{number}",
                    "customer_id": f"c{number % customers}",
                    "kind": "chargeback",
                    "is_fraud": True,
                    "occurred_at": "2026-01-02T00:00:00Z",
                    "known_at": f"2026-01-03T00:{number // 60:02}:{number % 60:02}Z",
                }
            ).encode(),
        )
        for number in numbers
    ]


def all_rows_of(settings: Settings) -> dict[bytes, bytes]:
    """What stopped workers have of customers, devices and merchants on their disks."""
    store = RocksStore(settings.home / "rows" / settings.worker)
    rows = {k: v for number in range(settings.partitions) for k, v in store.rows(number) if k[:1] in b"cdm"}
    store.close()
    return rows


def replayed_rows(
    settings: Settings, sent: Sequence[tuple[bytes, bytes]], told: Sequence[tuple[bytes, bytes]]
) -> dict[bytes, bytes]:
    """The rows of a replay of the same."""
    past = Replay(lambda *_: None, row_limit=settings.row_limit, entities=("customer", *ENTITIES))
    named: dict[bytes, tuple[str, str]] = {}
    for _, value in sent:
        order = Order.model_validate_json(value)
        past.follow(order)
        ids = (("customer", order.customer_id), ("device", order.device_id), ("merchant", order.merchant_id))
        named |= {row_key(entity, each): (entity, each) for entity, each in ids if each is not None}
    for _, value in told:
        past.follow(Outcome.model_validate_json(value))
    return {key: past.row(*each).encode() for key, each in named.items()}


def test_entities_are_turned_on_beside_a_worker_that_goes_on_and_no_order_is_lost_or_doubled(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = turned_on(settings)
    topics.create(before)
    sent = with_devices(orders(600, customers=10))
    early, late = frauds(range(0, 200, 3), customers=10), frauds(range(200, 590, 5), customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent[:300])
        send(before, early, topic=before.topics.outcomes)
        first = decisions(before, 300)
        making = rebuild(after, "start", "--from", before.topics.changelog)
        try:
            send(before, sent[300:450])
            decisions(before, 450)
            time.sleep(3)
            assert worker.stop() == 0, worker.said()
            # nobody waits for the rebuild: the workers do
            with Worker(after, tmp_path / "after") as wider:
                send(after, [*sent[450:], *sent[:20]])
                send(after, late, topic=after.topics.outcomes)
                decided = read(after, after.topics.decisions, 620, within_s=90)
                said, _ = making.communicate(timeout=60)
                assert making.returncode == 0, said
                settled(after)
                assert wider.stop() == 0, wider.said()
        finally:
            making.kill()

    found = [json.loads(each.value() or b"") for each in decided]
    assert Counter(d["order_id"] for d in found if d["repeat_of"] is None) == Counter(
        f"o{n}" for n in range(600)
    )
    repeated = {d["order_id"]: d["repeat_of"] for d in found if d["repeat_of"] is not None}
    assert repeated == {d["order_id"]: d["decision_id"] for d in first if int(d["order_id"][1:]) < 20}
    on_the_road = [each for each in decided if STAGES in dict(each.headers() or ())]
    assert len(on_the_road) == 150  # what came after the switch, and no resend of what was decided before
    assert all_rows_of(after) == replayed_rows(after, sent, [*early, *late])
    again = verify(after, processes=1)
    assert (dict(again.causes), again.equal) == ({}, 620)


def settled(settings: Settings) -> None:
    """Wait until the group has taken all that there is."""
    with closing(KafkaCluster(settings, quiet=True)) as cluster:
        tps = [(topic, number) for topic in settings.inputs for number in range(settings.partitions)]
        deadline = time.monotonic() + 60
        while True:
            committed, ends = cluster.committed(tps, stable=False), cluster.ends(tps)
            left = [
                tp
                for tp in tps
                if ((at := committed[tp]) is None and ends[tp]) or (at and at.offset < ends[tp])
            ]
            if not left:
                return
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


def test_half_made_rows_of_an_entity_are_not_served_and_a_killed_rebuild_makes_them_once(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = turned_on(settings)
    after = after.model_copy(update={"patience_s": 5.0})
    topics.create(before)
    topics.create(after)
    sent, told = with_devices(orders(3_000, customers=10)), frauds(range(0, 3_000, 7), customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent)
        send(before, told, topic=before.topics.outcomes)
        decisions(before, 3_000)
        settled(before)
        assert worker.stop() == 0, worker.said()

    def killed(_: Progress) -> None:
        raise Killed

    source = before.topics.changelog
    with closing(TopicsRecorded(after)) as recorded:
        with closing(Rebuild(after, source, recorded)) as making, pytest.raises(Killed):
            making.round(killed)
        # twice: what the first one restored to its disk is not taken for whole by the second
        for attempt in range(2):
            with Worker(after, tmp_path / f"early-{attempt}") as early:
                assert early.ends(60) != 0
                assert "is being rebuilt and not complete" in early.said()
        with closing(Rebuild(after, source, recorded)) as making:
            assert making.round().orders < 3_000 + len(told)
            assert making.round() == Rebuilt(0, 0)
    with Worker(after, tmp_path / "after") as worker:
        send(after, sent[:5])
        decided = decisions(after, 3_005)
        settled(after)
        assert worker.stop() == 0, worker.said()

    assert [d["repeat_of"] is not None for d in decided].count(True) == 5
    assert all_rows_of(after) == replayed_rows(after, sent, told)


# ---------------------------------------------------------------------- where there are stages already


def restaged(
    settings: Settings, entities: Sequence[str], further: Sequence[str], *, row_limit: int = EXACT
) -> tuple[Settings, Settings]:
    """Settings before and after, with stages before; `row_limit` is that of before.

    After, rows hold every order: which ones are folded depends on how those of several homes overtake each
    other.
    """
    before = settings.model_copy(
        update={
            "session_s": 6.0,
            "transaction_s": 5.0,
            "patience_s": 20.0,
            "row_limit": row_limit,
            "entities": tuple(entities),
        }
    )
    other = before.topics.model_copy(update={"changelog": before.topics.changelog + "-2"})
    after = before.model_copy(
        update={
            "topics": other,
            "entities": tuple(further),
            "row_limit": EXACT,
            "home": settings.home / "after",
        }
    )
    for each in (before, after):
        publish_starter(each, "logistic_regression")
    return before, after


def command(settings: Settings, *words: str) -> str:
    """What a command of the program says that goes well."""
    ended = subprocess.run(
        [sys.executable, "-m", "stream.cli", *words],
        env={**os.environ, **environment(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


class Shop:
    """Sends one order after the other, whatever becomes of the workers."""

    def __init__(self, settings: Settings, sent: Sequence[tuple[bytes, bytes]], *, a_second: int) -> None:
        self._settings = settings
        self._sent = sent
        self._pause_s = 1 / a_second
        self._is_over = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(20)

    def waits_for(self, count: int) -> None:
        """Wait until so many were sent."""
        deadline = time.monotonic() + 120
        while self.count < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _run(self) -> None:
        for begin in range(0, len(self._sent), 5):
            if self._is_over.wait(5 * self._pause_s):
                return
            send(self._settings, self._sent[begin : begin + 5])
            self.count = begin + 5


class Told:
    """What a running command says, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.lines.extend(said)

    def hears(self, words: str, *, times: int = 1) -> None:
        deadline = time.monotonic() + 90
        while sum(words in line for line in self.lines) < times:
            assert time.monotonic() < deadline, self.lines
            assert self._process.poll() is None, self.lines
            time.sleep(0.1)

    def ends(self) -> int:
        code = self._process.wait(60)
        self._thread.join(10)
        return code

    def kill(self) -> None:
        self._process.kill()
        self.ends()


def assert_decided_once(found: Sequence[Mapping[str, Any]], count: int) -> dict[str, str]:
    """Every order was decided exactly once; the id of each decision by order."""
    first = [each for each in found if each["repeat_of"] is None]
    assert Counter(each["order_id"] for each in first) == Counter(f"o{n}" for n in range(count))
    return {each["order_id"]: each["decision_id"] for each in first}


@pytest.mark.parametrize("order", [("device", "merchant"), ("merchant", "device")])
def test_an_entity_is_added_under_load_and_no_order_is_lost_or_doubled_whoever_is_killed(
    settings: Settings, tmp_path: Path, order: tuple[str, ...]
) -> None:
    before, after = restaged(settings, ("device",), order)
    topics.create(before)
    count = 1_500
    sent = with_devices(orders(count, customers=10))
    told = frauds(range(0, 300, 3), customers=10)
    late = frauds(range(1, count, 7), customers=10)
    source = before.topics.changelog
    begun: list[Told] = []

    def begin() -> Told:
        begun.append(Told(rebuild(after, "start", "--from", source)))
        return begun[-1]

    try:
        with Shop(before, sent, a_second=40) as shop:
            with Worker(before, tmp_path / "before") as worker:
                shop.waits_for(300)
                send(before, told, topic=before.topics.outcomes)
                making = begin()
                shop.waits_for(450)
                making.kill()  # somewhere on its way
                making = begin()
                making.hears("follows the workers")
                command(after, "pause", "--drain", "--why", "merchants are turned on")
                worker.kill()  # with orders on their way, or in its hands
            with Worker(after, tmp_path / "early") as early:
                time.sleep(2)  # where something is on its way it waits, and refuses in the end
                early.kill()
            with Worker(before, tmp_path / "again") as worker:
                making.hears("is complete up to what the group has committed")
                making.kill()
                making = begin()
                making.hears("is complete up to what the group has committed")
                worker.kill()  # instead of being stopped, as asked
            with Worker(after, tmp_path / "after") as wider:
                making.hears("the workers' from here on")
                assert making.ends() == 0
                command(after, "resume")
                shop.waits_for(count)
                found = [json.loads(m.value() or b"") for m in read(after, after.topics.decisions, count)]
                send(after, sent[: count // 2 : 5])
                send(after, late, topic=after.topics.outcomes)
                repeats = len(sent[: count // 2 : 5])
                decided = decisions(after, count + repeats)
                settled(after)
                assert wider.stop() == 0, wider.said()
    finally:
        for each in begun:
            each.kill()

    first = assert_decided_once(found, count)
    repeated = {d["order_id"]: d["repeat_of"] for d in decided if d["repeat_of"] is not None}
    assert repeated == {f"o{n}": first[f"o{n}"] for n in range(0, count // 2, 5)}
    assert len(decided) == count + repeats
    assert all_rows_of(after) == replayed_rows(after, sent, [*told, *late])
    command(after, "rebuild", "confirm", "--drop", source)


def test_rows_are_made_wider_where_orders_go_through_stages(settings: Settings, tmp_path: Path) -> None:
    before, after = restaged(settings, ENTITIES, ENTITIES, row_limit=NARROW)
    topics.create(before)
    count = 600
    sent, told = with_devices(orders(count, customers=10)), frauds(range(0, count, 4), customers=10)
    source = before.topics.changelog
    making: Told | None = None
    try:
        with Worker(before, tmp_path / "before") as worker:
            send(before, sent[:300])
            send(before, told[:75], topic=before.topics.outcomes)
            found = decisions(before, 300)
            making = Told(rebuild(after, "start", "--from", source))
            making.hears("is complete up to what the group has committed")  # of a shop at rest at once
            send(before, sent[300:400])
            command(after, "pause", "--drain", "--why", "rows are made wider")
            making.hears("is complete up to what the group has committed", times=2)
            assert worker.stop() == 0, worker.said()
        send(after, [*sent[400:], *sent[:400:7]])
        with Worker(after, tmp_path / "after") as wider:
            making.hears("the workers' from here on")
            assert making.ends() == 0
            command(after, "resume")
            decided = decisions(after, count + len(sent[:400:7]))
            send(after, told[75:], topic=after.topics.outcomes)
            settled(after)
            assert wider.stop() == 0, wider.said()
    finally:
        if making is not None:
            making.kill()

    assert len(found) == 300
    first = assert_decided_once(decided, count)
    repeated = {d["order_id"]: d["repeat_of"] for d in decided if d["repeat_of"] is not None}
    assert repeated == {f"o{n}": first[f"o{n}"] for n in range(0, 400, 7)}
    assert len(decided) == count + len(repeated)
    assert all_rows_of(after) == replayed_rows(after, sent, told)


def test_what_is_on_its_way_between_stages_keeps_new_workers_out_until_it_has_come_to_its_end(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = restaged(settings, ("device",), ENTITIES)
    after = after.model_copy(update={"patience_s": 3.0})
    topics.create(before)
    topics.create(after)
    sent = with_devices(orders(60))
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent)
        decisions(before, 60)
        settled(before)
        assert worker.stop() == 0, worker.said()
    # home has sent what no stage has taken: as left by a worker that was stopped in between
    on_its_way = read(before, before.topics.by("device"), 60)[-1]
    send(before, [(on_its_way.key(), on_its_way.value())], topic=before.topics.by("device"))
    with closing(TopicsRecorded(after)) as recorded:
        with closing(Rebuild(after, before.topics.changelog, recorded)) as making:
            making.round()
            assert (making.awaits_settling, making.has_settled) == (True, False)
            assert making.behind == dict.fromkeys(making.behind, 0)
            with Worker(after, tmp_path / "early") as early:
                assert early.ends(60) != 0
                assert "fraudstream pause --drain" in early.said()
        with Worker(before, tmp_path / "again") as worker:
            settled(before)
            assert worker.stop() == 0, worker.said()
        with closing(Rebuild(after, before.topics.changelog, recorded)) as making:
            making.round()
            assert making.has_settled
            assert making.round() == Rebuilt(0, 0)


def test_the_last_entity_is_not_turned_off_by_a_rebuild(settings: Settings, tmp_path: Path) -> None:
    before, after = restaged(settings, ("device",), ())
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, with_devices(orders(20)))
        decisions(before, 20)
        assert worker.stop() == 0, worker.said()
    with (
        closing(TopicsRecorded(after)) as recorded,
        pytest.raises(RebuildError, match="the last can't be turned off"),
    ):
        Rebuild(after, before.topics.changelog, recorded)


# ------------------------------------------------------------ who gets the order of things wrong is told


def test_a_killed_rebuild_does_not_go_on_with_other_settings(settings: Settings, tmp_path: Path) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, orders(20))
        decisions(before, 20)
        assert worker.stop() == 0, worker.said()
    source = before.topics.changelog
    # from a shell in which nobody had said it again
    forgotten = after.model_copy(update={"row_limit": NARROW})
    with closing(TopicsRecorded(after)) as recorded:
        with closing(Rebuild(after, source, recorded)) as making:
            making.round()
        with pytest.raises(RebuildError, match=rf"row_limit={WIDE}.* row_limit={NARROW}"):
            Rebuild(forgotten, source, recorded)
        with closing(Rebuild(after, source, recorded)) as making:
            assert making.round() == Rebuilt(0, 0)


def test_a_killed_workers_open_transaction_does_not_end_a_rebuild(settings: Settings, tmp_path: Path) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, orders(20))
        decisions(before, 20)
        settled(before)
        assert worker.stop() == 0, worker.said()
    sender = Producer({**before.confluent(), "transactional.id": f"{before.group}-killed"})
    sender.init_transactions(10)
    sender.begin_transaction()
    group = Consumer({**before.confluent(), "group.id": before.group})
    open_at = [TopicPartition(before.topics.orders, number, 0) for number in range(before.partitions)]
    sender.send_offsets_to_transaction(open_at, group.consumer_group_metadata(), 10)
    try:
        with (
            closing(TopicsRecorded(after)) as recorded,
            closing(Rebuild(after, before.topics.changelog, recorded)) as making,
        ):
            making.round()
            assert making.behind == dict.fromkeys(making.behind, 0)
    finally:
        sender.abort_transaction(10)
        group.close()


def test_rows_are_not_made_anew_from_a_changelog_that_workers_have_left(
    settings: Settings, tmp_path: Path
) -> None:
    before, after = a_shop(settings)
    topics.create(before)
    topics.create(after)
    with Worker(before, tmp_path / "before") as worker:
        send(before, orders(20))
        decisions(before, 20)
        assert worker.stop() == 0, worker.said()
    source = before.topics.changelog
    with closing(TopicsRecorded(after)) as recorded, closing(Rebuild(after, source, recorded)) as making:
        making.round()
    with Worker(after, tmp_path / "after") as worker:
        send(after, orders(40)[20:])
        decisions(after, 40)
        assert worker.stop() == 0, worker.said()
    third = after.topics.model_copy(update={"changelog": source + "-3"})
    once_more = after.model_copy(update={"topics": third})
    topics.create(once_more)
    with closing(TopicsRecorded(after)) as recorded:
        with pytest.raises(RebuildError, match=f"--from {after.topics.changelog}"):
            Rebuild(once_more, source, recorded)
        with closing(Rebuild(once_more, after.topics.changelog, recorded)) as making:
            making.round()
            assert sum(making.behind.values()) == 0


def test_an_entity_is_turned_off_and_on_again(settings: Settings, tmp_path: Path) -> None:
    before, without = restaged(settings, ENTITIES, ("device",))
    topics.create(before)
    sent, told = with_devices(orders(300, customers=10)), frauds(range(0, 300, 4), customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent[:100])
        decisions(before, 100)
        settled(before)
        assert worker.stop() == 0, worker.said()

    def switched(source: Settings, target: Settings, named: str, number: int) -> None:
        topics.create(target)
        with (
            closing(TopicsRecorded(target)) as recorded,
            closing(Rebuild(target, source.topics.changelog, recorded)) as making,
        ):
            making.round()
            assert making.has_settled
        with Worker(target, tmp_path / named) as worker:
            send(target, sent[number - 100 : number])
            decisions(target, number, within_s=60)
            settled(target)
            assert worker.stop() == 0, worker.said()

    switched(before, without, "without", 200)
    send(without, told, topic=without.topics.outcomes)
    third = without.topics.model_copy(update={"changelog": before.topics.changelog + "-3"})
    again = without.model_copy(
        update={"topics": third, "entities": ENTITIES, "home": settings.home / "again"}
    )
    publish_starter(again, "logistic_regression")
    topics.create(again)
    with (
        closing(TopicsRecorded(again)) as recorded,
        pytest.raises(RebuildError, match="archive and delete that topic"),
    ):
        Rebuild(again, without.topics.changelog, recorded)
    topics.delete(without, before.topics.by("merchant"))
    switched(without, again, "again", 300)
    assert_decided_once(decisions(again, 300), 300)
    assert all_rows_of(again) == replayed_rows(again, sent, told)


@pytest.mark.parametrize(
    ("entities", "further", "row_limit"),
    [(("device",), ENTITIES, EXACT), (ENTITIES, ("merchant", "device"), EXACT), (ENTITIES, ENTITIES, NARROW)],
    ids=["one more", "another order", "wider"],
)
def test_verify_says_where_a_switch_lies_and_tells_no_false_differences_behind_it(
    settings: Settings, tmp_path: Path, entities: tuple[str, ...], further: tuple[str, ...], row_limit: int
) -> None:
    before, after = restaged(settings, entities, further, row_limit=row_limit)
    topics.create(before)
    topics.create(after)
    sent, told = with_devices(orders(400, customers=10)), frauds(range(0, 200, 4), customers=10)
    with Worker(before, tmp_path / "before") as worker:
        send(before, sent[:200])
        decisions(before, 200)
        settled(before)
        assert worker.stop() == 0, worker.said()
    with (
        closing(TopicsRecorded(after)) as recorded,
        closing(Rebuild(after, before.topics.changelog, recorded)) as making,
    ):
        making.round()
    with closing(KafkaCluster(after, quiet=True)) as cluster:
        first_behind = {n: cluster.high((after.topics.orders, n)) for n in range(after.partitions)}
    with Worker(after, tmp_path / "after") as worker:
        send(after, told, topic=after.topics.outcomes)
        send(after, sent[200:])
        decisions(after, 400)
        settled(after)
        assert worker.stop() == 0, worker.said()

    shutil.copytree(before.home / "models", after.home / "models", dirs_exist_ok=True)
    found = verify(after, processes=1)
    assert dict(found.causes) == {}
    assert found.equal >= 200, "before the switch decisions are compared"
    # another road sends other messages
    assert (found.not_comparable > 0) == (entities != further)
    switches = [note for note in found.notes if "behind a switch" in note]
    assert [note.partition(" on orders")[0] for note in switches] == [
        f"{after.topics.orders}/{number}: from offset {offset}" for number, offset in first_behind.items()
    ]
