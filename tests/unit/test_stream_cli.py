import json
from pathlib import Path
from uuid import UUID

import pytest
from rich.text import Text
from typer.testing import CliRunner

from features.events import Order
from features.history import RowVersionError
from models.decision import Decision, Source
from models.errors import RegistryError
from models.policy import Action
from stream.broker import BrokerError
from stream.cli import app
from stream.errors import Refusal
from stream.ports import NotStable, Refused, Unreachable
from stream.publish import PublishError
from stream.settings import Settings
from stream.topics import TopicError, TopicPlan, TopicState
from stream.watch import sentence

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


def test_a_wrong_setting_does_not_hide_what_settings_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "eight")
    refused = run.invoke(app, ["topics", "describe"]).stderr
    assert "'fraudstream settings --describe'" in refused

    result = run.invoke(app, ["settings", "--describe"])

    assert result.exit_code == 0
    assert "partitions  [FRAUDSTREAM_PARTITIONS]  1 to 10,000; default: 8" in result.stdout


def test_a_missing_signing_key_file_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUDSTREAM_SIGNING_KEY_FILE", str(tmp_path / "none"))
    file = tmp_path / "past.jsonl"
    assert run.invoke(app, ["simulate", "past", str(file), "--days", "6", "--per-day", "80"]).exit_code == 0

    result = run.invoke(app, ["train", str(file), "--predictor", "logistic_regression"])

    assert result.exit_code == 1
    assert result.stderr.startswith("fraudstream: setting signing_key_file: can't read ")


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("no"), TopicError("no"), BrokerError("no"), PublishError("no"), Refused("no"),
        Unreachable("no"), NotStable("no"), RegistryError("no"), RowVersionError("no"),
    ],
    ids=lambda refusal: type(refusal).__name__,
)  # fmt: skip
def test_a_refusal_of_any_package_is_one_line(refusal: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Settings) -> None:
        raise refusal

    monkeypatch.setattr("stream.repair.repair_offsets", refuse)

    result = run.invoke(app, ["topics", "repair-offsets"])

    assert (result.exit_code, result.stderr) == (1, "fraudstream: no\n")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(_: Settings) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("stream.repair.repair_offsets", mistake)

    assert isinstance(run.invoke(app, ["topics", "repair-offsets"]).exception, KeyError)


@pytest.mark.parametrize("order_id", ["a[/]b", "[bold]", "a\\", ":warning:", "[red]x[/red]", "a[/nothing]"])
def test_an_order_id_is_shown_as_it_is_and_never_read_as_markup(order_id: str) -> None:
    shown = Text.from_markup(sentence(_decided(order_id)), emoji=False).plain

    assert order_id in shown


def test_an_order_id_gives_a_terminal_no_orders() -> None:
    assert "\x1b" not in sentence(_decided("o1\x1b[2J"))


def _decided(order_id: str) -> Decision:
    return Decision(
        decision_id=UUID(int=1),
        order_id=order_id,
        revision=0,
        customer_id=None,
        action=Action.REVIEW,
        p_fraud=None,
        score=None,
        reasons=(),
        model=None,
        policy="",
        features={},
        imputed=(),
        repeat_of=None,
        supersedes=None,
        source=Source(topic="orders", partition=0, offset=0),
    )


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


def test_a_topic_may_allow_larger_records_than_planned_and_not_smaller() -> None:
    plan = TopicPlan(
        "rejected", "", 8, 1, {"max.message.bytes": "200"}, frozenset(), {"max.message.bytes": 200}
    )

    assert TopicState(plan, 8, 1, {"max.message.bytes": "200"}).wrong == ()
    assert TopicState(plan, 8, 1, {"max.message.bytes": "300"}).wrong == ()
    assert TopicState(plan, 8, 1, {"max.message.bytes": "100"}).wrong == (
        "has max.message.bytes=100 and not at least 200",
    )
