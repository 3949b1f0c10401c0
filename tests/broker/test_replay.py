"""Past topics replayed from a real broker: to files, as a worker decided them, and into another topic."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from typer.testing import CliRunner, Result

from stream import topics
from stream.cli import app
from stream.kafka import KafkaCluster
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, read, send

MANY = 40_000


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", *arguments])


def done(*arguments: str) -> dict[str, Any]:
    """The summary of a replay that went well."""
    result = replay(*arguments, "--json")
    assert result.exit_code == 0, result.output
    summary: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return summary


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def here(settings: Settings, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop with its topics, and its settings in the environment."""
    topics.create(settings)
    settings.home.mkdir(parents=True)
    (settings.home / "models").symlink_to(registry)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


def test_records_come_out_as_they_lie_in_the_topic(here: Settings, tmp_path: Path) -> None:
    sent = orders(50)
    send(here, sent)
    aborted = Producer({**here.confluent(), "transactional.id": f"{here.group}-aborts"})
    aborted.init_transactions()
    aborted.begin_transaction()
    aborted.produce(here.topics.orders, b"never", b"c1")
    aborted.flush()
    aborted.abort_transaction()
    send(here, [(b"c1", b"last")])

    summary = done("records", "--to", str(tmp_path / "all.jsonl"), "--processes", "2")
    piped = replay("records", "--quiet")

    told = rows(tmp_path / "all.jsonl")
    assert piped.stdout == (tmp_path / "all.jsonl").read_text()
    assert summary["records"] == 51
    found = read(here, here.topics.orders, 51)
    assert [(each["partition"], each["offset"], each["key"], each["value"]) for each in told] == sorted(
        (m.partition(), m.offset(), (m.key() or b"").decode(), (m.value() or b"").decode()) for m in found
    )


def test_features_are_those_in_the_decisions_of_the_same_orders(here: Settings, tmp_path: Path) -> None:
    sent = orders(300, customers=7)
    late = json.loads(sent[200][1]) | {"order_id": "late", "placed_at": "2025-12-31T00:00:00Z"}
    revised = json.loads(sent[58][1]) | {"revision": 1, "amount": 99}
    guest = {"order_id": "guest", "placed_at": "2026-01-01T00:10:00Z", "amount": 5, "currency": "EUR"}
    tested = json.loads(sent[3][1]) | {"order_id": "tested", "test": True}
    last = json.loads(sent[3][1]) | {"order_id": "last", "placed_at": "2026-01-01T01:00:00Z"}
    strange = [late, revised, guest, tested, last]
    send(here, [*sent, sent[3], (b"c3", b'{"order_id": "bad", "customer_id": "c3", "amount": -1}')])
    send(here, [(each.get("customer_id", "guest").encode(), json.dumps(each).encode()) for each in strange])
    with Worker(here, tmp_path / "log") as worker:
        decided = decisions(here, 307)
        worker.stop()

    summary = done("features", "--to", str(tmp_path / "all.jsonl"), "--model", here.model)

    scored = [each for each in decided if each["features"] and not each["repeat_of"]]
    names = list(scored[0]["features"])
    assert {
        (each["partition"], each["offset"]): {name: each[name] for name in names}
        for each in rows(tmp_path / "all.jsonl")
    } == {(each["source"]["partition"], each["source"]["offset"]): each["features"] for each in scored}
    assert (summary["orders"], len(scored)) == (305, 305)
    assert (summary["left_out"], sum(summary["bad"].values())) == ({"repeated": 1}, 1)


def test_replaying_into_files_joins_and_commits_nothing(here: Settings, tmp_path: Path) -> None:
    send(here, orders(20))

    done("features", "--to", str(tmp_path / "all.parquet"))

    cluster = KafkaCluster(here, quiet=True)
    inputs = [(here.topics.orders, each) for each in range(here.partitions)]
    assert set(cluster.committed(inputs, stable=True).values()) == {None}
    assert cluster.members() == {}
    assert cluster.high((here.topics.decisions, 0)) == 0
    cluster.close()


def told_of(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or () if isinstance(value, bytes)}


def test_a_replay_into_a_topic_that_was_killed_goes_on_without_a_hole_or_a_repeat(
    here: Settings, tmp_path: Path
) -> None:
    target = f"{here.topics.orders}-again"
    headers = [("shop", b"north")]
    producer = Producer({**here.confluent(), "partitioner": "murmur2_random"})
    for key, value in orders(MANY):
        producer.produce(here.topics.orders, value, key, headers=headers)
        producer.poll(0)
    assert producer.flush(60) == 0
    command = [sys.executable, "-m", "stream.cli", "replay", "to-topic", target, "--create", "--quiet"]
    cluster = KafkaCluster(here, quiet=True)

    def arrived() -> int:
        try:
            return sum(cluster.high((target, each)) for each in range(here.partitions))
        except Exception:  # noqa: BLE001 - not yet there
            return 0

    reached = []
    for _ in range(3):
        before = arrived()
        with (tmp_path / "log").open("ab") as out:
            run = subprocess.Popen(command, env={**os.environ}, stdout=out, stderr=out)
            while run.poll() is None and arrived() <= before:
                time.sleep(0.005)
            run.kill()
            run.wait()
        reached.append(arrived())
    cluster.close()
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    again = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)

    assert 0 < reached[0] < MANY, (tmp_path / "log").read_text()
    assert result.returncode == 0, result.stderr
    assert json.loads(again.stdout)["sent"] == 0
    was = {
        f"{m.topic()}/{m.partition()}/{m.offset()}": (m.partition(), m.key(), m.value(), m.timestamp()[1])
        for m in read(here, here.topics.orders, MANY)
    }
    there = read(here, target, MANY)
    assert Counter(told_of(m)["replayed_from"] for m in there) == dict.fromkeys(was, 1)
    assert {
        told_of(m)["replayed_from"]: (m.partition(), m.key(), m.value(), int(told_of(m)["arrived_at"]))
        for m in there
    } == was
    assert {told_of(m)["shop"] for m in there} == {"north"}
    for partition in range(here.partitions):
        offsets = [
            int(told_of(m)["replayed_from"].rpartition("/")[2])
            for m in sorted((m for m in there if m.partition() == partition), key=lambda m: m.offset() or 0)
        ]
        assert offsets == sorted(offsets)


def test_only_what_lies_within_the_bounds_is_sent_again(here: Settings) -> None:
    send(here, orders(20))
    target = f"{here.topics.orders}-some"

    summary = done("to-topic", target, "--create", "--customer", "c3")
    from_start = done("to-topic", target, "--customer", "c3", "--from-start")

    assert (summary["sent"], from_start["sent"]) == (4, 4)
    assert {m.key() for m in read(here, target, 8)} == {b"c3"}


def test_topics_that_a_replay_must_not_write_to_are_refused(here: Settings) -> None:
    names = here.topics

    def why(*arguments: str) -> str:
        result = replay("to-topic", *arguments)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "can't be replayed into itself" in why(names.orders)
    assert f"only the scorer itself writes to '{names.decisions}'" in why(names.decisions)
    assert "or say --into-live-topic" in why(names.outcomes)
    assert f"say --yes to send into '{names.outcomes}'" in why(names.outcomes, "--into-live-topic")
    assert "does not exist on" in why("nowhere")


def test_a_topic_that_workers_read_is_written_to_once_that_is_confirmed(here: Settings) -> None:
    past = f"{here.topics.orders}-past"
    send(here, orders(20))
    done("to-topic", past, "--create")

    summary = done("to-topic", here.topics.outcomes, "--topic", past, "--into-live-topic", "--yes")

    assert summary["sent"] == 20
    assert {told_of(m)["replayed_from"].partition("/")[0] for m in read(here, here.topics.outcomes, 20)} == {
        past
    }


def test_a_topic_with_other_partitions_is_refused(here: Settings) -> None:
    result = replay(
        "to-topic", here.topics.outcomes, "--topic", here.topics.control, "--into-live-topic", "--yes"
    )

    assert result.exit_code == 1
    assert f"'{here.topics.outcomes}' has 2 partitions and '{here.topics.control}' has 1" in result.stderr
