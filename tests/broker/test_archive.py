"""Real topics, archived by the command as a person gives it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from stream import topics
from stream.archive import ArchivableTopics, Archive, ArchiveRecorded, archived_topics
from stream.archive_manifest import load
from stream.archive_place import ArchiveError, Place
from stream.archive_verify import verify
from stream.cli import app
from stream.recorded import Recorded, TopicsRecorded
from stream.settings import Settings
from tests.running import environment, orders, send


def _archive(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(app, ["archive", *words])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.exit_code, told.output


def _in_transactions(settings: Settings, topic: str, pairs: list[tuple[bytes, bytes]]) -> None:
    """Records with headers, every other transaction aborted: markers and what nobody may read."""
    producer = Producer({**settings.confluent(), "transactional.id": topic, "partitioner": "murmur2_random"})
    producer.init_transactions(20)
    for number, (key, value) in enumerate(pairs):
        producer.begin_transaction()
        producer.produce(topic, value, key, headers=[("n", str(number).encode()), ("empty", None)])
        producer.flush(20)
        if number % 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)


def _all(recorded: Recorded, topic: str) -> list[Any]:
    return [
        record
        for partition in range(recorded.partitions(topic))
        for chunk in recorded.read((topic, partition), *recorded.bounds((topic, partition)))
        for record in chunk
    ]


def _digests(place: Path) -> dict[str, list[str]]:
    manifest = load(Place(str(place)))
    assert manifest is not None
    return {
        topic: [state.digest for state in entry.partitions.values()]
        for topic, entry in manifest.topics.items()
    }


def test_topics_are_archived_and_what_came_since_by_the_next_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    place = settings.home / "archive"
    send(settings, orders(300))
    _in_transactions(settings, settings.topics.decisions, orders(7))
    code, said = _archive(settings, monkeypatch, "run", "--json")
    assert code == 0
    assert json.loads(said)["by_topic"] == {settings.topics.orders: 300, settings.topics.decisions: 4}

    send(settings, orders(50, first=300))
    code, said = _archive(settings, monkeypatch, "run", "--json")
    assert json.loads(said)["by_topic"] == {settings.topics.orders: 50}
    assert "nothing new to archive" in _archive(settings, monkeypatch, "run")[1]

    code, said = _archive(settings, monkeypatch, "verify", "--against-topics", "--json")
    told = json.loads(said)
    assert (code, told["differences"], told["records"], told["compared"], told["behind"]) == (
        0,
        [],
        354,
        354,
        0,
    )
    archive, live = ArchiveRecorded(str(place)), TopicsRecorded(settings)
    try:
        for topic in archived_topics(settings):
            assert archive.partitions(topic) == live.partitions(topic)
            assert _all(archive, topic) == _all(live, topic)
    finally:
        live.close()
    rows = ds.dataset(place / "data", partitioning="hive").to_table(columns=["topic", "partition", "offset"])
    assert len(rows) == len({tuple(row.values()) for row in rows.to_pylist()}) == 354


def test_an_archive_deleted_and_made_again_has_the_same_digests(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    place = settings.home / "archive"
    send(settings, orders(100))
    _archive(settings, monkeypatch, "run", "--commit-records", "10")
    send(settings, orders(100, first=100))
    _archive(settings, monkeypatch, "run", "--commit-records", "10")
    before = _digests(place)

    shutil.rmtree(place)
    _archive(settings, monkeypatch, "run")

    assert _digests(place) == before


def test_a_topic_deleted_and_made_anew_is_not_mixed_with_the_one_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    send(settings, orders(20))
    _archive(settings, monkeypatch, "run")

    admin = AdminClient(settings.confluent())
    admin.delete_topics([settings.topics.orders])[settings.topics.orders].result()
    while settings.topics.orders in admin.list_topics(timeout=10).topics:
        pass
    topics.create(settings)
    send(settings, orders(20))

    code, said = _archive(settings, monkeypatch, "run")
    assert code == 1
    assert "was deleted and made anew since it was archived" in said
    code, said = _archive(settings, monkeypatch, "verify", "--against-topics")
    assert code == 1
    assert "was made anew since" in said


def test_records_that_were_deleted_before_they_were_archived_are_missed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    topic = settings.topics.orders
    send(settings, orders(10), partition=0)
    _archive(settings, monkeypatch, "run")
    send(settings, orders(10, first=10), partition=0)
    lost = TopicPartition(topic, 0, 15)
    admin = AdminClient(settings.confluent())
    admin.delete_records([lost])[lost].result(30)

    code, said = _archive(settings, monkeypatch, "run")
    assert code == 1
    assert f"{topic}/0 no longer has the offsets 10 to 14" in said
    code, said = _archive(settings, monkeypatch, "run", "--accept-gap", "--json")
    assert (code, json.loads(said)["records"]) == (0, 5)
    assert _archive(settings, monkeypatch, "verify", "--against-topics")[0] == 0


def test_what_an_open_transaction_holds_back_is_archived_once_it_is_decided(settings: Settings) -> None:
    topics.create(settings)
    topic = settings.topics.orders
    place = Place(str(settings.home / "archive"))
    producer = Producer({**settings.confluent(), "transactional.id": "open-" + topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"held back", b"c1", 0)
    producer.flush(20)
    send(settings, orders(5), partition=0)

    source = ArchivableTopics(settings)
    try:
        with Archive(place) as archive:
            assert archive.append(source, [topic]).records == 0
            producer.abort_transaction(20)
            assert archive.append(source, [topic]).records == 5
        assert verify(place, source).differences == []
    finally:
        source.close()


def test_a_follower_asked_to_end_ends_with_what_it_has_archived(settings: Settings) -> None:
    topics.create(settings)
    send(settings, orders(30))
    place = settings.home / "archive"
    follower = subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "archive", "run", "--follow", "--every", "0.2", "--json"],
        env={**os.environ, **environment(settings)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["records"] == 30
        send(settings, orders(5, first=30))
        assert json.loads(follower.stdout.readline())["records"] == 5
        with pytest.raises(ArchiveError, match="another program writes the archive"):
            Archive(Place(str(place)))
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(30) == 0
    finally:
        follower.kill()
        follower.wait(10)
        if follower.stdout is not None:
            follower.stdout.close()
    assert len(_all(ArchiveRecorded(str(place)), settings.topics.orders)) == 35


def test_status_tells_how_far_the_archive_is_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    send(settings, orders(20))
    _archive(settings, monkeypatch, "run", "--topic", settings.topics.orders)
    send(settings, orders(3, first=20))

    _, said = _archive(settings, monkeypatch, "status", "--json")
    (held,) = map(json.loads, said.splitlines())
    assert (held["topic"], held["records"], held["behind"]) == (settings.topics.orders, 20, 3)
    assert "; 3 behind" in _archive(settings, monkeypatch, "status")[1]
    code, said = _archive(settings, monkeypatch, "run", "--topic", "nonsense")
    assert (code, "there is no topic 'nonsense'" in said) == (1, True)
