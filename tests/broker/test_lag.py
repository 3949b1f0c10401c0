"""The lag, on a real broker, with and without a worker."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from stream import topics
from stream.cli import app
from stream.lag import PartitionLag, read_lag
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, send

run = CliRunner()


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with every topic made and a model to decide with."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    return settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0})


def test_before_the_first_worker_every_order_waits_and_nobody_owns_it(shop: Settings) -> None:
    send(shop, orders(30))

    lags = read_lag(shop)

    assert sum(lag.waiting for lag in lags) == 30
    assert {lag.position for lag in lags} == {None}
    assert {lag.owner for lag in lags} == {None}
    assert all(lag.oldest_s is not None for lag in lags if lag.waiting)


def test_a_worker_is_named_as_the_owner_while_it_lives_and_as_gone_after_a_kill(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(20))
        decisions(shop, 20)
        alive = _until(shop, lambda lags: all(lag.waiting == 0 and lag.owner_lives for lag in lags))
        assert {lag.owner for lag in alive} == {shop.worker}, worker.said()
        worker.kill()
    send(shop, orders(10, first=20))

    gone = _until(shop, lambda lags: not any(lag.owner_lives for lag in lags))

    assert {lag.owner for lag in gone} == {shop.worker}
    assert sum(lag.waiting for lag in gone) == 10
    assert sum(lag.end - (lag.position or 0) for lag in gone) == 10


def test_orders_of_an_open_transaction_are_said_to_be_held(shop: Settings) -> None:
    sender = Producer(
        {**shop.confluent(), "transactional.id": f"{shop.group}-sender", "partitioner": "murmur2_random"}
    )
    sender.init_transactions(10)
    sender.begin_transaction()
    for key, value in orders(5, customers=1):
        sender.produce(shop.topics.orders, value, key)
    sender.flush(10)

    held = [lag for lag in read_lag(shop) if lag.held]
    sender.abort_transaction(10)
    after = _until(shop, lambda lags: not any(lag.held for lag in lags))

    assert [lag.held for lag in held] == [5]
    assert held[0].held_s is not None
    assert sum(lag.waiting for lag in after) == 0, "what was aborted waits for nobody"


def test_machines_get_a_line_for_each_partition_and_the_sum(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)
    send(shop, orders(7))

    result = run.invoke(app, ["lag", "--json"])

    assert result.exit_code == 0
    *partitions, total = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["topic"], each["partition"]) for each in partitions] == [
        (topic, number) for topic in shop.inputs for number in (0, 1)
    ]
    assert {each["topic"] for each in partitions if each["waiting"]} == {shop.topics.orders}
    assert total == {"total": True, "waiting": 7}
    assert "waiting" in run.invoke(app, ["lag"]).stdout


def test_a_missing_topic_is_refused_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)

    result = run.invoke(app, ["lag"])

    assert result.exit_code == 1
    assert result.stderr == (
        f"fraudstream: topic '{settings.topics.orders}' does not exist on {settings.broker}; "
        "run 'fraudstream topics create'\n"
    )


def _until(settings: Settings, holds: Callable[[list[PartitionLag]], bool]) -> list[PartitionLag]:
    deadline = time.monotonic() + 30
    while not holds(lags := read_lag(settings)):
        assert time.monotonic() < deadline, lags
        time.sleep(0.2)
    return lags
