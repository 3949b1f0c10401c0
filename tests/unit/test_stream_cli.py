import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from rich.text import Text
from typer.testing import CliRunner, Result

from features.events import Order
from features.history import RowVersionError
from models.decision import Decision, Source
from models.errors import RegistryError
from models.policy import Action
from stream.broker import BrokerError
from stream.cli import app
from stream.errors import Refusal
from stream.ports import NotStable, Refused, Unreachable
from stream.publish import Published, PublishError
from stream.settings import Settings
from stream.topics import TopicError, TopicPlan, TopicState
from stream.version import program_version
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


@pytest.mark.parametrize("command", ["describe", "create", "repair-offsets"])
def test_a_certificate_that_is_none_is_refused_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("FRAUDSTREAM_SECURITY__PROTOCOL", "SSL")
    monkeypatch.setenv("FRAUDSTREAM_SECURITY__CA_FILE", str(tmp_path / "ca.pem"))

    result = run.invoke(app, ["topics", command])

    assert result.exit_code == 1
    assert result.stderr.startswith("fraudstream: no client can be made for 127.0.0.1:9092: ")
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


def _a_past(tmp_path: Path, *more: str) -> Path:
    """A labelled past of about 480 orders, and some lines more."""
    file = tmp_path / "past.jsonl"
    assert run.invoke(app, ["simulate", "past", str(file), "--days", "6", "--per-day", "80"]).exit_code == 0
    with file.open("a") as out:
        out.writelines(f"{line}\n" for line in more)
    return file


def _train(monkeypatch: pytest.MonkeyPatch, file: Path, *options: str) -> Result:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(file.parent))
    return run.invoke(app, ["train", str(file), "--predictor", "logistic_regression", *options])


UNREADABLE = ('{"order_id": "o1", "is_fraud": true}', "half a li", '{"is_fraud": 1}')


def test_a_line_that_cannot_be_read_is_named_and_the_others_are_learned_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = _a_past(tmp_path, *UNREADABLE[:1])
    number = len(file.read_text().splitlines())

    result = _train(monkeypatch, file)

    assert result.exit_code == 0
    assert result.stderr == (
        f"fraudstream: can't read line {number}: $.placed_at: expected a field every order has, got nothing; "
        "correct it and send the order again (2 more fields are wrong)\n"
    )
    assert "  left out 1 lines that can't be read\n" in result.stdout


def test_nothing_is_learned_of_a_file_of_which_much_cannot_be_read_unless_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = _a_past(tmp_path, *UNREADABLE * 10)
    lines = len(file.read_text().splitlines())

    refused = _train(monkeypatch, file)

    assert refused.exit_code == 1
    said = refused.stderr.splitlines()
    assert len(said) == 20 + 1
    assert said[-1].startswith(f"fraudstream: {file}: 30 of {lines} lines can't be read, and more than 1% ")
    assert not (tmp_path / "models").exists()
    assert _train(monkeypatch, file, "--allow-rejects").exit_code == 0


def test_a_label_that_is_none_is_a_line_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "past.jsonl"
    order = {"order_id": "o1", "placed_at": "2026-01-01T00:00:00Z", "amount": 1, "currency": "EUR"}
    file.write_text(json.dumps(order | {"is_fraud": 1}))

    result = _train(monkeypatch, file)

    assert result.stderr.startswith(
        "fraudstream: can't read line 1: $.is_fraud: expected true, false or null, got "
    )
    assert result.exit_code == 1


def test_training_says_what_it_left_out_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = json.loads(_a_past(tmp_path).read_text().splitlines()[0])
    again = [
        first,
        first | {"is_fraud": not first["is_fraud"]},
        first | {"is_fraud": None},
        first | {"amount": first["amount"] + 1},
    ]

    result = _train(monkeypatch, _a_past(tmp_path, *map(json.dumps, again)))

    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if "left out" in line] == [
        "  left out 1 orders: sent again with the same content and label",
        "  left out 1 orders: the same order and revision as an earlier line with other content",
        "  left out 2 orders: the same order and revision as an earlier line with another label",
    ]


@pytest.mark.parametrize("model", ["starter@", "@", "Starter", "starter@2026", "starter@2026-01-01.abcd@"])
def test_a_model_that_is_neither_a_name_nor_a_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_MODEL", model)

    result = _train(monkeypatch, _a_past(tmp_path))

    assert result.exit_code == 1
    assert f"such as starter@2026-02-14.3f9c; got '{model}'" in result.stderr


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


def test_the_live_orders_are_those_that_come_after_the_past(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[bytes] = []

    def publish(_: Settings, lines: Iterable[bytes], **__: object) -> Published:
        sent.extend(lines)
        return Published(len(sent), 0, 1.0)

    monkeypatch.setattr("stream.publish.publish", publish)
    of_one_shop = ["--days", "4", "--per-day", "60"]
    file = tmp_path / "past.jsonl"
    assert run.invoke(app, ["simulate", "past", str(file), *of_one_shop]).exit_code == 0

    result = run.invoke(app, ["simulate", "live", "--count", "50", *of_one_shop])
    assert result.stdout.endswith("the shop goes on with --skip 50\n")
    assert run.invoke(app, ["simulate", "live", "--skip", "50", *of_one_shop]).exit_code == 0

    past = [Order.model_validate_json(line) for line in file.read_text().splitlines()]
    live = [Order.model_validate_json(line) for line in sent]
    ids = [order.order_id for order in past + live]
    assert ids == sorted(ids)
    assert len(ids) == len(set(ids))
    times = [order.placed_at for order in past + live]
    assert times == sorted(times)
    assert times[-1] <= datetime.now(UTC) < times[-1] + timedelta(days=1)
    regulars = {order.customer_id for order in past} & {order.customer_id for order in live} - {None}
    assert len(regulars) > len(past) / 4


@pytest.mark.parametrize(
    "options",
    [
        ["--start", "0001-01-01"], ["--start", "9999-12-31"], ["--start", "2026-02-30"], ["--start", ""],
        ["--days", "0"], ["--days", "999999999"], ["--seed", "-1"], ["--per-day", "nan"],
        ["--per-day", "inf"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_absurd_shop_is_a_usage_error_in_one_line(options: list[str], tmp_path: Path) -> None:
    for command in (["past", str(tmp_path / "past.jsonl")], ["live"]):
        result = run.invoke(app, ["simulate", *command, *options])

        assert result.exit_code == 2
        assert result.stderr.startswith("fraudstream: Invalid value for ")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("start", ["1973-01-01", "2199-12-31"])
def test_a_shop_may_open_on_any_day_that_its_orders_can_say(start: str, tmp_path: Path) -> None:
    options = ["--start", start, "--days", "2", "--per-day", "40"]

    assert run.invoke(app, ["simulate", "past", str(tmp_path / "past.jsonl"), *options]).exit_code == 0


@pytest.mark.parametrize("place", ["none/past.jsonl", ".", "file/past.jsonl", "/dev/full"])
def test_a_past_that_cannot_be_written_is_refused_in_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run.invoke(app, ["simulate", "past", str(tmp_path / place), "--days", "1", "--per-day", "20"])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"fraudstream: can't write {tmp_path / place}: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["contracts", "docs"])
def test_pages_that_cannot_be_written_are_refused_in_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run.invoke(app, [command, "export", str(tmp_path / "file")])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"fraudstream: can't use '{tmp_path / 'file'}': File exists")


def _in_a_shell(line: str) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m stream.cli"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("fraudstream", command)],
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("fraudstream simulate past - --days 1 | head -1 > /dev/null", 0, b"wrote "),
        ("fraudstream settings --describe | true", 0, b""),
        ("fraudstream settings > /dev/full", 1, b"fraudstream: can't use standard output: No space left"),
        ("fraudstream --help > /dev/full", 1, b"fraudstream: can't write to standard output: No space left"),
        ("fraudstream settings >&-", 0, b""),
        ("FRAUDSTREAM_HOME=$'\\xff' fraudstream settings > /dev/null", 0, b""),
        ("fraudstream train $'/none/\\xff'", 1, b"fraudstream: can't read /none/"),
    ],
)
def test_no_end_of_the_output_gives_a_traceback(line: str, code: int, said: bytes) -> None:
    result = _in_a_shell(line)

    assert result.returncode == code
    assert result.stderr.startswith(said) if result.stderr else code == 0
    assert len(result.stderr.splitlines()) <= 1


def test_a_worker_asked_to_end_while_it_still_starts_ends_cleanly() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "stream.cli", "worker"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as worker:
        assert worker.stderr is not None
        for line in worker.stderr:
            if b"faust" in line:  # among the first of the slow imports
                break
        worker.terminate()
        worker.stderr.read()

    assert worker.returncode == 0


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


def test_the_version_is_said() -> None:
    result = run.invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"fraudstream {program_version()}\n")


@pytest.mark.parametrize("command", ["pause", "observe", "go-live"])
def test_what_stops_decisions_or_starts_them_needs_a_reason(command: str) -> None:
    assert run.invoke(app, [command]).exit_code == 2


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_control_without_a_broker_is_refused_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Unreachable("no")

    monkeypatch.setattr("stream.control.change", refuse)

    result = run.invoke(app, [command, "--why", "a test", "--who", "anna"])

    assert (result.exit_code, result.stderr) == (1, "fraudstream: no\n")
