"""What people tell all workers of a group, on a real broker: pause, resume, observe, go live."""

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner

from features.history import Row
from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.cli import app
from stream.control import LIVE, OBSERVE, PAUSED, RESUMED, Control, ControlState, change, in_force
from stream.deploying import Who, kill
from stream.desk import customer_key
from stream.doctor import examine
from stream.ports import Refused, Unreachable
from stream.publish import publish
from stream.settings import Settings
from stream.store import RocksStore
from stream.topics import TopicError
from tests.running import Worker, decisions, environment, orders, read, send


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with every topic made and a model to decide with."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    return settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0})


def tell(shop: Settings, kind: str) -> None:
    state, written = change(shop, kind, who="anna", why="a test")
    assert written, state


def hears(worker: Worker, words: str, *, times: int = 1, within_s: float = 40.0) -> None:
    """Wait until the worker has said so."""
    deadline = time.monotonic() + within_s
    while worker.said().count(words) < times:
        assert worker.process.poll() is None, worker.said()
        assert time.monotonic() < deadline, f"'{words}' was not said:\n{worker.said()}"
        time.sleep(0.05)


def under(decided: list[Message]) -> Counter[int]:
    """How many decisions were made under each control offset."""
    return Counter(
        next(iter(json.loads(message.value() or b"")["source"]["others"].values())) for message in decided
    )


def test_a_paused_group_takes_no_orders_and_goes_on_where_it_was(shop: Settings, tmp_path: Path) -> None:
    other = shop.model_copy(update={"worker": shop.worker + "-b"})
    with Worker(shop, tmp_path / "a") as a, Worker(other, tmp_path / "b") as b:
        send(shop, orders(100))
        read(shop, shop.topics.decisions, 100)
        tell(shop, PAUSED)
        for worker in (a, b):
            hears(worker, "no orders are taken: paused by anna on ")
        send(shop, orders(100, first=100))
        # time enough to decide them, were they not held
        time.sleep(1.0)
        assert in_force(shop).paused
        tell(shop, RESUMED)
        decided = read(shop, shop.topics.decisions, 200)
        assert (a.stop(), b.stop()) == (0, 0), a.said() + b.said()

    assert under(decided) == {0: 100, 2: 100}, "nothing was decided between pause and resume"
    assert Counter(json.loads(m.value() or b"")["order_id"] for m in decided) == Counter(
        f"o{n}" for n in range(200)
    )


def test_a_worker_that_starts_while_its_group_is_paused_waits(shop: Settings, tmp_path: Path) -> None:
    tell(shop, PAUSED)
    send(shop, orders(50))
    with Worker(shop, tmp_path / "log") as worker:
        hears(worker, "opened 2 partitions")
        tell(shop, RESUMED)
        decided = read(shop, shop.topics.decisions, 50)
        assert worker.stop() == 0, worker.said()

    assert under(decided) == {2: 50}


def test_observing_decides_into_the_shadow_only_until_the_group_goes_live(
    shop: Settings, tmp_path: Path
) -> None:
    observing = shop.model_copy(update={"observe": True})
    bad = [(b"c0", json.dumps({"order_id": "b1", "customer_id": "c0"}).encode())]
    with Worker(observing, tmp_path / "log") as worker:
        send(shop, [*orders(50), *orders(5), *bad])
        shadow = read(shop, shop.topics.decisions_shadow, 56)
        tell(shop, LIVE)
        hears(worker, "started with --observe, but the record wins: live by anna on ")
        send(shop, [*orders(5), *orders(5), *orders(20, first=50)])
        live = read(shop, shop.topics.decisions, 30)
        tell(shop, OBSERVE)
        hears(worker, "in force from control offset 2 on: not paused, observing")
        send(shop, orders(1, first=70))
        again = read(shop, shop.topics.decisions_shadow, 57)
        assert worker.stop() == 0, worker.said()

    assert len(read(shop, shop.topics.decisions, 30)) == 30
    assert {dict(m.headers() or ()).get("mode") for m in shadow} == {b"observe"}
    assert {dict(m.headers() or ()).get("mode") for m in live} == {None}
    assert (under(shadow), under(live), under(again)) == ({0: 56}, {1: 30}, {0: 56, 2: 1})
    told = [json.loads(m.value() or b"") for m in live]
    firsts = [d for d in told if d["repeat_of"] is None]
    assert sorted(d["order_id"] for d in firsts) == sorted(f"o{n}" for n in [*range(5), *range(50, 70)]), (
        "of an order decided in the shadow nobody was told: it is decided, and no repeat"
    )
    assert {d["repeat_of"] for d in told} - {None} <= {d["decision_id"] for d in firsts}
    rehearsed = {d["order_id"]: d for m in shadow if (d := json.loads(m.value() or b""))["model"]}
    for decision in firsts:
        if decision["order_id"] in rehearsed:
            assert decision["features"] == rehearsed[decision["order_id"]]["features"]
    store = RocksStore(shop.home / "rows" / shop.worker)
    rows = {key: value for number in range(2) for key, value in store.rows(number)}
    store.close()
    assert [len(Row.decode(rows[customer_key(f"c{n}")], 512)) for n in range(5)] == [15, 14, 14, 14, 14]


def test_history_is_never_decided_whatever_the_mode(shop: Settings, tmp_path: Path) -> None:
    past = [value for _, value in orders(60)]
    with Worker(shop, tmp_path / "log") as worker:
        publish(shop, past[:20], history=True)
        tell(shop, OBSERVE)
        publish(shop, past[20:40], history=True)
        tell(shop, PAUSED)
        hears(worker, "no orders are taken")
        publish(shop, past[40:], history=True)
        tell(shop, RESUMED)
        tell(shop, LIVE)
        hears(worker, "in force from control offset 4 on: not paused, live")
        send(shop, orders(5, first=60))
        decided = decisions(shop, 5)
        assert worker.stop() == 0, worker.said()

    assert [d["features"]["orders_count_1d"] for d in decided] == [12] * 5
    assert read(shop, shop.topics.decisions_shadow, 0) == []


def test_what_anyone_writes_into_control_stops_no_worker(shop: Settings, tmp_path: Path) -> None:
    told = {"group": shop.group, "who": "eve", "why": "to see"}
    with Worker(shop, tmp_path / "log") as worker:
        hears(worker, "opened 2 partitions")
        send(
            shop,
            [
                (None, None),
                (b"k", b"\xff\x00 not json"),
                (b"k", json.dumps({**told, "kind": 7}).encode()),
                (b"k", json.dumps({**told, "kind": "paused", "group": "another group"}).encode()),
                (b"k", json.dumps({**told, "kind": "alias", "schema_version": 9, "moves": "x"}).encode()),
            ],
            topic=shop.topics.control,
            partition=0,
        )
        hears(worker, "control record 4 is 'alias', written by fraudstream unknown: kept, and not known here")
        send(shop, orders(20))
        decided = read(shop, shop.topics.decisions, 20)
        assert worker.stop() == 0, worker.said()

    assert under(decided) == {5: 20}
    assert worker.said().count("is no control record: ignored") == 3
    state = in_force(shop)
    assert (state.paused, state.malformed, [event.record.kind for event in state.unknown]) == (
        False,
        3,
        ["alias"],
    )


def test_a_control_record_that_has_to_be_followed_and_is_not_known_ends_the_worker(
    shop: Settings, tmp_path: Path
) -> None:
    told = {"kind": "erase", "group": shop.group, "who": "anna", "why": "the law", "required": True}
    told |= {"schema_version": 2, "written_by": "7.1.0"}
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(10))
        read(shop, shop.topics.decisions, 10)
        send(shop, [(b"k", json.dumps(told).encode())], topic=shop.topics.control, partition=0)
        hears(worker, "in force from control offset 1 on")
        send(shop, orders(10, first=10))
        assert worker.ends(40) == 1, worker.said()

    last = worker.said().splitlines()[-1]
    assert "control record 0 is 'erase' of version 2, which a worker has to follow" in last
    assert "run fraudstream 7.1.0, which wrote it, or a newer one" in last
    with Worker(shop, tmp_path / "again") as worker:
        assert worker.ends(40) == 1, worker.said()
    with pytest.raises(Refused, match="run fraudstream 7"):
        change(shop, PAUSED, who="anna", why="to see")


def test_no_worker_guesses_what_is_in_force_where_control_has_lost_what_was_said_first(
    shop: Settings, tmp_path: Path
) -> None:
    admin = AdminClient(shop.confluent())

    def lose(before: int) -> None:
        at = TopicPartition(shop.topics.control, 0, before)
        admin.delete_records([at])[at].result(10)

    def kept_for(milliseconds: str) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, shop.topics.control)
        entry = ConfigEntry("retention.ms", milliseconds, incremental_operation=AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
        admin.incremental_alter_configs([resource])[resource].result(10)

    tell(shop, OBSERVE)
    tell(shop, LIVE)
    with Worker(shop, tmp_path / "before") as worker:
        send(shop, orders(20))
        read(shop, shop.topics.decisions, 20)
        lose(1)
        kept_for("86400000")
        found = [each for each in examine(shop, environment={}) if shop.topics.control in each.found]
        assert {each.check: each.state for each in found} == {"topic settings": "fail", "control": "fail"}
        # the kill switch works all the same, where a worker still lives
        kill(shop, "review", Who("anna", "a test"))
        hears(worker, "models of control offset 3 are there")
        assert worker.stop() == 0, worker.said()

    for lost in (1, 3):
        lose(lost)
        with Worker(shop, tmp_path / f"after{lost}") as worker:
            assert worker.ends(30.0) == 1
            said = worker.said()
        assert f"'{shop.topics.control}' has lost its records before offset {lost}" in said
        assert "Traceback" not in said
        with pytest.raises(Refused, match="has lost its records"):
            change(shop, PAUSED, who="anna", why="a test")


def test_the_command_line_says_what_is_in_force(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    topics.create(settings)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    run = CliRunner()

    def shown() -> tuple[bool, str | None]:
        state = json.loads(run.invoke(app, ["control", "--json"]).stdout)
        return state["paused"], state["mode"]

    seen = [shown()]
    for command in ("pause", "go-live", "resume", "observe"):
        told = run.invoke(app, [command, "--why", f"to {command}", "--who", "anna"])
        assert told.exit_code == 0, told.stderr
        seen.append(shown())
    again = run.invoke(app, ["observe", "--why", "to be sure", "--who", "anna"])

    assert seen == [(False, None), (True, None), (True, "live"), (False, "live"), (False, "observe")]
    assert again.stdout.startswith("nothing to change:\n")
    assert "observe by anna on " in again.stdout
    assert again.stdout.endswith(": to observe)\n")


def test_a_stop_while_the_control_topic_is_late_is_no_crash(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topics.create(settings)
    crashed: list[int] = []
    monkeypatch.setattr("stream.control.os._exit", crashed.append)
    monkeypatch.setattr("stream.control.logging.shutdown", lambda: None)
    begun, go_on = threading.Event(), threading.Event()
    control = Control(settings)
    control.read_to_end()
    read_on = control._read

    def late(seconds: float) -> None:
        begun.set()
        assert go_on.wait(20)
        read_on(seconds)

    monkeypatch.setattr(control, "_read", late)
    control.follow(lambda _: None)
    assert begun.wait(20)

    control.close()
    go_on.set()
    assert control._thread is not None
    control._thread.join(20)

    assert (crashed, caplog.messages) == ([], [])
    assert not control._thread.is_alive()


def test_who_changed_what_when_and_why_is_told_in_order(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    run = CliRunner()
    assert run.invoke(app, ["control", "--history"]).stdout == "nothing was changed yet\n"
    tell(settings, PAUSED)
    tell(settings.model_copy(update={"group": "another"}), OBSERVE)
    send(settings, [(None, b"no record")], topic=settings.topics.control)
    tell(settings, RESUMED)

    plain = run.invoke(app, ["control", "--history"]).stdout.splitlines()
    machine = [
        json.loads(line) for line in run.invoke(app, ["control", "--history", "--json"]).stdout.splitlines()
    ]

    assert [line.partition(" on ")[0] for line in plain] == ["paused by anna", "resumed by anna"]
    assert [(each["offset"], each["kind"], each["who"], each["why"]) for each in machine] == [
        (0, "paused", "anna", "a test"),
        (3, "resumed", "anna", "a test"),
    ]


@pytest.mark.parametrize(
    ("option", "words"), [("--why", ""), ("--why", "  "), ("--who", " "), ("--why", "x" * 3000)]
)
def test_words_that_say_nothing_are_refused_even_where_nothing_would_change(
    option: str, words: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)

    result = CliRunner().invoke(app, ["resume", "--why", "a test", "--who", "anna", option, words])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"fraudstream: {option}: expected 1 to ")
    assert len(result.stderr.splitlines()) == 1


def test_control_is_refused_without_its_topic_or_its_broker(settings: Settings) -> None:
    with pytest.raises(TopicError, match="run 'fraudstream topics create'"):
        in_force(settings)
    with pytest.raises(Unreachable, match="no broker answers at 127"):
        in_force(settings.model_copy(update={"broker": "127.0.0.1:1"}))


@pytest.mark.broker
def test_who_has_caught_up_with_control_has_told_of_all_of_it(settings: Settings) -> None:
    topics.create(settings)
    heard, goes_on = threading.Event(), threading.Event()

    def told(_: ControlState) -> None:
        heard.set()
        goes_on.wait(60.0)

    with Control(settings) as control:
        control.read_to_end()
        control.follow(told)
        tell(settings, PAUSED)
        assert heard.wait(20.0)
        try:
            assert not control.catch_up(1.0), "a partition would be opened under the state of before"
        finally:
            goes_on.set()
        assert control.catch_up(20.0)


def test_control_is_caught_up_with_as_soon_as_a_broker_is_back(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker", ports=free_ports(1), tied=True) as broker:
        settings = Settings(broker=broker.bootstrap, home=tmp_path / "home", partitions=1)
        topics.create(settings)
        with Control(settings) as control:
            control.read_to_end()
            control.follow(lambda _: None)
            assert control.catch_up(5.0)

            broker.stop()
            broker.start()
            tell(settings, PAUSED)

            # the restart made a new leader epoch, of which the client hears only when it asks who leads
            deadline = time.monotonic() + 20
            while not control.catch_up(5.0):
                assert time.monotonic() < deadline, "the broker has long been back"
                time.sleep(0.2)
            assert control.state.paused
