"""A worker's health and metrics through its life, and its logs, on a real broker."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, read, send


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with topics, a model, and a health port."""
    return _ready(settings, registry)


def _ready(settings: Settings, registry: Path) -> Settings:
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    changes = {
        "session_s": 6.0,
        "transaction_s": 5.0,
        "health_port": free_ports(1)[0],
        "health_stuck_s": 5.0,
        "log_format": "json",
    }
    return settings.model_copy(update=changes)


def ask(settings: Settings, path: str) -> tuple[int, str]:
    """Status and body; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.health_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def told(settings: Settings, path: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON; 0 and nothing while nobody answers."""
    status, body = ask(settings, path)
    return status, json.loads(body) if body else {}


def is_told(settings: Settings, path: str, status: int, state: str) -> bool:
    """Whether it answers so."""
    found, body = told(settings, path)
    return (found, body.get("state")) == (status, state)


def until(
    wanted: Callable[[], bool],
    worker: Worker,
    *,
    within_s: float = 60,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Ask again until it is so."""
    deadline = time.monotonic() + within_s
    while not wanted():
        assert time.monotonic() < deadline, worker.said()
        assert worker.process.poll() is None, worker.said()
        if meanwhile is not None:
            meanwhile()
        time.sleep(0.1)


def samples(settings: Settings, name: str) -> dict[str, float]:
    """The values of a metric by its only, or last, label's value."""
    _, body = ask(settings, "/metrics")
    found = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            if sample.name == name:
                found[next(iter(sample.labels.values()), "")] = sample.value
    return found


def _left_open(settings: Settings, topic: str) -> Producer:
    """A stranger's transaction, open on every partition of a topic."""
    producer = Producer(
        settings.confluent(transactional_id=topic + "-stranger", transaction_timeout_ms=90_000)
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(settings.partitions):
        producer.produce(topic, b"", b"stranger", partition)
    producer.flush(30)
    return producer


def test_health_through_a_workers_life_and_metrics_that_equal_what_was_decided(
    shop: Settings, tmp_path: Path
) -> None:
    sent = [*orders(60), *orders(10), (b"c0", b"not json"), (b"c0", None)]
    stranger = _left_open(shop, shop.topics.changelog)
    send(shop, sent)
    with Worker(shop, tmp_path / "log") as worker:
        until(lambda: told(shop, "/readyz")[1].get("state") == "blocked", worker)
        assert told(shop, "/readyz")[0] == 503

        # behind somebody's transaction for longer than the bound: unhealthy, and no restart would help
        until(lambda: ask(shop, "/healthz")[0] == 503, worker)
        _, stuck = told(shop, "/healthz")
        assert (stuck["healthy"], stuck["restart_helps"]) == (False, False)
        assert shop.topics.changelog in stuck["reason"]
        assert ask(shop, "/healthz?restart_helps")[0] == 200
        assert samples(shop, "fraudstream_healthy") == {"": 0.0}

        stranger.abort_transaction(30)
        until(lambda: ask(shop, "/readyz")[0] == 200, worker)
        decided = decisions(shop, 70)
        until(lambda: told(shop, "/healthz")[1]["state"] == "idle", worker)
        assert ask(shop, "/healthz")[0] == 200

        actions = Counter(d["action"] for d in decided if d["repeat_of"] is None)
        assert +Counter(samples(shop, "fraudstream_decisions_total")) == actions
        assert samples(shop, "fraudstream_decisions_repeated_total") == {"": 10}
        assert samples(shop, "fraudstream_orders_total") == {"": len(sent)}
        assert samples(shop, "fraudstream_order_latency_seconds_count") == {"": len(decided)}
        rejected = samples(shop, "fraudstream_orders_rejected_total")
        assert +Counter(rejected) == {"not_json": 1, "tombstone": 1}
        assert samples(shop, "fraudstream_lag_orders") == {"0": 0.0, "1": 0.0}
        assert samples(shop, "fraudstream_partitions") == {"": 2}
        assert samples(shop, "fraudstream_store_keys")[""] >= 65
        assert ask(shop, "/")[0] == 404
        assert worker.stop() == 0, worker.said()
    assert ask(shop, "/healthz") == (0, "")

    shutil.rmtree(shop.home / "rows")
    with Worker(shop, tmp_path / "log") as worker:
        health: list[int] = []
        until(
            lambda: ask(shop, "/readyz")[0] == 200,
            worker,
            meanwhile=lambda: health.append(ask(shop, "/healthz")[0]),
        )
        assert set(health) <= {0, 200}, "a restore is no illness"
        assert samples(shop, "fraudstream_restored_records_total")[""] >= 65
        assert set(samples(shop, "fraudstream_restore_offsets_left").values()) == {0.0}
        assert worker.stop() == 0, worker.said()


@pytest.fixture
def mortal(tmp_path: Path, registry: Path) -> Iterator[tuple[EmbeddedBroker, Settings]]:
    """A broker of the test's own, that it may stop."""
    with EmbeddedBroker(tmp_path / "broker", ports=free_ports(1), tied=True) as broker:
        settings = Settings(broker=broker.bootstrap, home=tmp_path / "home", partitions=1, worker="w1")
        yield broker, _ready(settings, registry)


@pytest.mark.broker
@pytest.mark.slow
def test_a_broker_that_goes_away_is_named_and_health_comes_back_with_it(
    mortal: tuple[EmbeddedBroker, Settings], tmp_path: Path
) -> None:
    broker, shop = mortal
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(5))
        decisions(shop, 5)
        broker.stop()

        # a call that was under way when the broker went takes its time to fail
        until(lambda: is_told(shop, "/healthz", 503, "unreachable"), worker)
        assert told(shop, "/healthz")[1]["restart_helps"] is False
        assert ask(shop, "/healthz?restart_helps")[0] == 200

        broker.start()
        until(lambda: ask(shop, "/healthz")[0] == 200, worker)
        send(shop, orders(5, first=5))
        assert len(decisions(shop, 10)) == 10
        assert worker.stop() == 0, worker.said()


def test_a_port_that_is_taken_is_refused_before_anything_else(shop: Settings, tmp_path: Path) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        until(lambda: ask(shop, "/readyz")[0] == 200, worker)
        other = shop.model_copy(update={"worker": "another"})
        with Worker(other, tmp_path / "other") as second:
            assert second.ends(within_s=30) == 1
            assert "fraudstream: setting health_port: can't listen on 127.0.0.1:" in second.said()
        assert worker.stop() == 0, worker.said()


PERSONAL = {
    "order_id": "Ordnungsnummer-77",
    "customer_id": "ada.lovelace",
    "email_domain": "lovelace.example",
    "ip": "203.0.113.77",
    "billing": {"postcode": "W1K-4AX", "city": "Marylebone"},
    "placed_at": "2026-01-01T00:00:00Z",
    "amount": 7_654_321,
    "currency": "EUR",
}
NEVER_LOGGED = ("Ordnungsnummer", "lovelace", "203.0.113.77", "W1K-4AX", "Marylebone", "7654321")

CRASHING = """
import sys
import stream.decoder

def fail(value, **_):
    try:
        raise KeyError(value)
    except KeyError as error:
        raise ValueError(f"can't read {value!r}") from error

stream.decoder.read_usual = fail
sys.argv[1:] = ["worker"]
from stream.cli import main
main()
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_personal_data_is_logged_not_even_of_rejects_or_in_a_crash(
    shop: Settings, tmp_path: Path, form: str
) -> None:
    shop = shop.model_copy(update={"log_format": form})
    key = b"ada.lovelace"
    bad = [
        PERSONAL | {"amount": -7_654_321},
        PERSONAL | {"customer_id": "grace"},
        PERSONAL | {"amount": 7_654_322},
        PERSONAL | {"currency": "lovelace"},
    ]
    values = [json.dumps(each).encode() for each in (PERSONAL, *bad)] + [b'{"ada.lovelace": 7654321,']
    log = tmp_path / "log"
    with Worker(shop, log) as worker:
        send(shop, [(key, value) for value in values])
        assert len(read(shop, shop.topics.rejected, len(bad) + 1)) == len(bad) + 1
        assert worker.stop() == 0, worker.said()
    send(shop, [(key, json.dumps(PERSONAL | {"order_id": "Ordnungsnummer-78"}).encode())])
    with log.open("ab") as out:
        crashed = subprocess.run(
            [sys.executable, "-c", CRASHING],
            env={**os.environ, **environment(shop)},
            stdout=out,
            stderr=out,
            timeout=60,
            check=False,
        )

    said = log.read_text()
    assert crashed.returncode == 70, said
    assert "the writer failed; the worker ends" in said
    assert "ValueError" in said
    assert "in fail" in said
    assert [value for value in NEVER_LOGGED if value in said] == []
    if form == "json":
        lines = [json.loads(line) for line in said.splitlines()]
        assert {line["worker"] for line in lines} == {shop.worker}
        assert any(line.get("generation") for line in lines)
