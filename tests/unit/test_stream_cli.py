import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.events import Order
from stream.cli import app
from stream.topics import TopicPlan, TopicState

run = CliRunner()


def test_help_lists_the_commands() -> None:
    result = run.invoke(app, ["--help"])

    assert result.exit_code == 0
    for command in (
        "publish",
        "watch",
        "worker",
        "train",
        "demo",
        "broker",
        "topics",
        "simulate",
        "contracts",
    ):
        assert command in result.stdout


def test_a_wrong_option_is_a_usage_error() -> None:
    assert run.invoke(app, ["broker", "start", "--nodes", "2"]).exit_code == 2
    assert run.invoke(app, ["publish"]).exit_code == 2


def test_a_wrong_setting_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "eight")

    result = run.invoke(app, ["settings"])

    assert result.exit_code == 1
    assert result.stderr.startswith("fraudstream: setting partitions: ")
    assert len(result.stderr.splitlines()) == 1


def test_an_embedded_broker_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "kafka.example.com:9092")

    result = run.invoke(app, ["broker", "start"])

    assert result.exit_code == 1
    assert "an embedded broker answers on 127.0.0.1 only" in result.stderr


def test_no_broker_has_status_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))

    result = run.invoke(app, ["broker", "status", "--json"])

    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["state"] == "stopped"


def test_a_simulated_past_is_orders_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "past.jsonl"

    result = run.invoke(app, ["simulate", "past", str(file), "--days", "1", "--per-day", "50"])

    assert result.exit_code == 0
    lines = file.read_text().splitlines()
    assert len(lines) > 20
    assert all(Order.model_validate_json(line) and "is_fraud" in json.loads(line) for line in lines)


def test_training_on_a_line_that_is_no_order_names_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    file = tmp_path / "past.jsonl"
    file.write_text('{"order_id": "o1", "is_fraud": true}\n')

    result = run.invoke(app, ["train", str(file)])

    assert result.exit_code == 1
    assert f"{file}, line 1: placed_at: Field required" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_training_on_one_kind_of_order_only_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    file = tmp_path / "past.jsonl"
    order = {"order_id": "o1", "placed_at": "2026-01-01T00:00:00Z", "amount": 1, "currency": "EUR"}
    file.write_text(json.dumps(order | {"is_fraud": False}))

    result = run.invoke(app, ["train", str(file)])

    assert result.exit_code == 1
    assert "needs orders known to be fraud" in result.stderr


def test_a_topic_that_does_not_exist_is_missing_and_not_wrong() -> None:
    plan = TopicPlan("orders", "", 8, 1, {"cleanup.policy": "delete"}, frozenset({"cleanup.policy"}))

    assert TopicState(plan, None, None, {}).wrong == ()
    assert TopicState(plan, 8, 1, {"cleanup.policy": "compact"}).wrong == (
        "has cleanup.policy=compact and not delete",
    )
