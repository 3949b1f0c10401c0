"""Models that move in and out of service on a real broker, under orders that go on coming."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Self

import pytest
from confluent_kafka import Message
from typer.testing import CliRunner

from models.bundle import pack
from models.registry import ARRAYS, MANIFEST, Registry
from models.train import PredictorKind, train
from stream import topics
from stream.cli import app
from stream.control import Appender, Control, history, in_force
from stream.deploying import AlreadySo, Mover, Who, kill
from stream.doctor import examine
from stream.model_watch import WatchedFolder
from stream.ports import Refused
from stream.service import Scope
from stream.settings import Settings
from stream.verify import verify
from tests.running import Worker, decisions, environment, orders, read, send
from tests.small_shop import small_examples

WHO = Who("anna", "a test")
DE = Scope(country="DE")


@pytest.fixture(scope="session")
def versions(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A registry with the small model in service and three more of it, and what they are called."""
    root = tmp_path_factory.mktemp("versions") / "models"
    shutil.copytree(registry, root)
    published = Registry(root)
    said = [
        a_version(published, name, kind, seed)
        for seed, (name, kind) in enumerate(
            [("forest", "random_forest"), ("forest", "random_forest"), ("line", "logistic_regression")]
        )
    ]
    return root, said


def a_version(registry: Registry, name: str, kind: PredictorKind, seed: int) -> str:
    """A small model that is published; what it is called."""
    trained = train(
        small_examples(more=seed, above=70 + seed),
        name=name,
        predictor=kind,
        row_limit=512,
        trained_at=date(2026, 3, 1 + seed),
        seed=seed,
    )
    registry.publish(trained)
    return f"{trained.name}@{trained.version}"


@pytest.fixture
def shop(settings: Settings, versions: tuple[Path, list[str]]) -> Settings:
    """Settings with every topic made and a model to decide with."""
    topics.create(settings)
    shutil.copytree(versions[0], settings.home / "models")
    return settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0})


@pytest.fixture
def mover(shop: Settings) -> Iterator[Mover]:
    with Mover(shop, Registry(shop.home / "models")) as made:
        yield made


@pytest.fixture
def said(versions: tuple[Path, list[str]]) -> list[str]:
    """Two forests and a line."""
    return versions[1]


def by(decision: Mapping[str, Any]) -> str | None:
    """The model that decided."""
    model = decision["model"]
    return model and f"{model['name']}@{model['version']}"


def told(messages: list[Message]) -> list[dict[str, Any]]:
    return [json.loads(message.value() or b"") for message in messages]


def hears(worker: Worker, words: str, *, within_s: float = 40.0) -> None:
    """Wait until the worker has said so."""
    deadline = time.monotonic() + within_s
    while words not in worker.said():
        assert worker.process.poll() is None, worker.said()
        assert time.monotonic() < deadline, f"'{words}' was not said:\n{worker.said()}"
        time.sleep(0.05)


def takes_up(worker: Worker, offset: int) -> None:
    """Wait until the worker has taken up the state after a control record."""
    hears(worker, f"models of control offset {offset + 1} are there")


class Sending:
    """Orders that go on coming, with who is to be in service meanwhile."""

    def __init__(self, shop: Settings, rate: int) -> None:
        self.count = 0
        self._shop, self._rate = shop, rate
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._ends.is_set():
            send(self._shop, orders(self._rate // 20, first=self.count))
            self.count += self._rate // 20
            self._ends.wait(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


@pytest.mark.parametrize("entities", [(), ("device",)])
def test_every_order_is_decided_once_while_champions_change_and_workers_are_killed(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path, entities: tuple[str, ...]
) -> None:
    shop = shop.model_copy(update={"entities": entities})
    topics.create(shop)
    other = shop.model_copy(update={"worker": shop.worker + "-b"})
    moves: dict[int, str] = {}
    with Worker(shop, tmp_path / "a") as a, Worker(other, tmp_path / "b") as b, Sending(shop, 200) as sending:
        read(shop, shop.topics.decisions, 20)
        for number in range(9):
            model = said[number % 3]
            moved = mover.promote(model, WHO)
            moves[moved.offset + 1] = model
            if number == 4:
                b.kill()
        takes_up(a, max(moves) - 1)
        read(shop, shop.topics.decisions, sending.count)
        time.sleep(0.5)
    with Worker(other, tmp_path / "again") as again:
        hears(again, f"model {said[2]}")
        decided = told(read(shop, shop.topics.decisions, sending.count, within_s=60))
        assert again.stop() == 0, again.said()

    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(sending.count))
    again_decided = verify(shop, processes=1)
    assert (again_decided.equal, again_decided.listed) == (sending.count, [])
    moves[0] = by(decided[0]) or ""
    assert {(d["source"]["others"][shop.topics.control], by(d)) for d in decided} <= set(moves.items())
    assert {by(d) for d in decided} >= {said[2], moves[0]}


def test_the_most_specific_champion_decides_and_a_rollback_gives_its_orders_back(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    def some(first: int) -> list[tuple[bytes, bytes]]:
        made = []
        for number, (key, value) in enumerate(orders(20, first=first)):
            country = "DE" if number % 2 else "FR"
            made.append((key, json.dumps(json.loads(value) | {"country": country}).encode()))
        return made

    mover.deploy(said[0], WHO, role="champion")
    mover.deploy(said[2], WHO, role="champion", scope=DE)
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, some(0))
        decisions(shop, 20)
        takes_up(worker, mover.roll_back("line", WHO, scope=DE).offset)
        send(shop, some(20))
        decided = {int(d["order_id"][1:]): by(d) for d in decisions(shop, 40)}
        assert worker.stop() == 0, worker.said()

    assert [decided[n] for n in range(20)] == [said[0], said[2]] * 10
    assert [decided[n] for n in range(20, 40)] == [said[0]] * 20


def test_a_rollback_to_the_model_of_the_settings_is_refused_where_that_can_not_be_had(
    shop: Settings, mover: Mover, said: list[str]
) -> None:
    without = Mover(shop.model_copy(update={"model": "gone"}), Registry(shop.home / "models"))
    mover.promote(said[0], WHO)
    mover.deploy(said[2], WHO, role="champion", scope=DE)

    with pytest.raises(Refused, match=r"'gone'.*nothing was changed"):
        without.roll_back(said[0], WHO)

    assert without.roll_back(said[2], WHO, scope=DE).put is None, "who decides everywhere decides there"
    assert [each.said for each in in_force(shop).service.served] == [said[0]]
    assert mover.roll_back(said[0], WHO).put is None


def test_a_champion_whose_file_is_broken_falls_back_and_the_decisions_say_so(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    mover.deploy(said[2], WHO, role="fallback")
    mover.deploy(said[0], WHO, role="champion")
    arrays = shop.home / "models" / said[0].replace("@", "/") / ARRAYS
    arrays.chmod(0o644)
    arrays.write_bytes(b"\0" + arrays.read_bytes()[1:])
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(20))
        decided = decisions(shop, 20)
        assert worker.stop() == 0, worker.said()

    assert {by(d) for d in decided} == {said[2]}
    assert {(d["reasons"][0]["code"], d["reasons"][0]["text"]) for d in decided} == {
        ("model_unavailable", f"{said[0]} could not be used, so another model decided")
    }
    assert f"{said[0]} is champion and can't be used: " in worker.said()
    arrays.parent.joinpath(MANIFEST).unlink()
    found = [each for each in examine(shop, environment={}) if each.check == "control"]
    assert [each.state for each in found] == ["fail"]
    assert f"{said[0]} is champion and can't be used, so others decide" in found[0].found


def test_the_kill_switch_takes_decisions_from_the_models_within_two_seconds_and_gives_them_back(
    shop: Settings, said: list[str], tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(20))
        before = decisions(shop, 20)
        _, changed = kill(shop, "review", WHO)
        assert changed
        time.sleep(2.0)
        send(shop, orders(20, first=20))
        killed = told(read(shop, shop.topics.decisions, 40))[20:]
        kill(shop, None, WHO)
        time.sleep(2.0)
        send(shop, [*orders(20, first=40), *orders(5, first=20)])
        after = told(read(shop, shop.topics.decisions, 65))
        assert worker.stop() == 0, worker.said()
    with pytest.raises(Refused, match="no fallback model for every order"):
        kill(shop, "fallback", WHO)

    firsts = {d["order_id"]: d for d in after if d["repeat_of"] is None}
    killed = [firsts[f"o{n}"] for n in range(20, 40)]
    assert {(d["action"], by(d), d["reasons"][0]["code"]) for d in killed} == {
        ("review", None, "kill_switch")
    }
    assert {by(firsts[f"o{n}"]) for n in [*range(20), *range(40, 60)]} == {by(before[0])}
    assert [firsts[f"o{n}"]["features"]["orders_count_1d"] for n in range(40, 45)] == [8] * 5, (
        "what was not scored was remembered"
    )
    repeated = [d for d in after if d["repeat_of"] is not None]
    assert Counter(d["action"] for d in repeated) == {"review": 5}


def test_challengers_look_on_in_the_shadow_and_decide_nothing(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    for model in said[1:]:
        mover.deploy(model, WHO)
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [*orders(20), *orders(5)])
        decided = decisions(shop, 25)
        shadow = read(shop, shop.topics.decisions_shadow, 40)
        assert worker.stop() == 0, worker.said()

    assert len({by(d) for d in decided}) == 1
    assert {dict(m.headers() or ())["mode"] for m in shadow} == {b"shadow"}
    looked = told(shadow)
    assert Counter(by(d) for d in looked) == dict.fromkeys(said[1:], 20)
    assert not {d["decision_id"] for d in looked} & {d["decision_id"] for d in decided}
    assert {d["order_id"]: d["features"]["amount"] for d in looked} == {
        d["order_id"]: d["features"]["amount"] for d in decided
    }


def test_a_canary_decides_for_its_customers_and_a_model_that_fails_its_check_moves_nothing(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    mover.deploy(said[2], WHO, role="canary", share=5_000)
    arrays = shop.home / "models" / said[0].replace("@", "/") / ARRAYS
    arrays.chmod(0o644)
    arrays.write_bytes(b"\0" + arrays.read_bytes()[1:])
    with pytest.raises(Refused, match="sha256 differs"):
        mover.promote(said[0], WHO)
    with pytest.raises(Refused, match=r"takes .* microseconds an order and may take 0"):
        Mover(shop, Registry(shop.home / "models"), slowest_us=0.0).promote(said[1], WHO)
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(200, customers=50))
        decided = decisions(shop, 200)
        assert worker.stop() == 0, worker.said()

    models = {d["customer_id"]: set[str | None]() for d in decided}
    for decision in decided:
        models[decision["customer_id"]].add(by(decision))
    assert {len(each) for each in models.values()} == {1}, "one customer meets one model"
    on_trial = sum(each == {said[2]} for each in models.values())
    assert 10 < on_trial < 40
    state = in_force(shop)
    assert [each.said for each in state.service.served] == [said[2]]
    assert (state.next_offset, state.unknown) == (3, ())


def test_what_replay_and_rollback_need_outlives_a_cleaning_and_nothing_else_does(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(shop.home / "models")
    scout, german, theirs, unneeded = (
        a_version(registry, name, "logistic_regression", 3) for name in ("scout", "german", "theirs", "gone")
    )
    looked_on, before, now = said
    mover.deploy(looked_on, WHO)
    mover.deploy(german, WHO, role="champion", scope=DE)  # no order of which comes
    with Worker(shop.model_copy(update={"model": scout}), tmp_path / "one") as worker:
        send(shop, orders(20))
        read(shop, shop.topics.decisions_shadow, 20)
        mover.retire(german, WHO, scope=DE)
        mover.retire(looked_on, WHO)
        mover.promote(before, WHO)
        takes_up(worker, mover.promote(now, WHO).offset)
        send(shop, orders(20, first=20))
        decisions(shop, 40)
        assert worker.stop() == 0, worker.said()
    Mover(shop.model_copy(update={"group": shop.group + "-2"}), registry).promote(theirs, WHO)
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)

    def cleaned(*more: str) -> dict[str, tuple[str | None, bool]]:
        # nothing here was trained today
        result = CliRunner().invoke(app, ["models", "gc", "--keep", "0", "--json", *more])
        assert result.exit_code == 0, result.output
        told = [json.loads(line) for line in result.stdout.splitlines()]
        return {each["model"]: (each["kept_for"], each["deleted"]) for each in told}

    starter = f"starter@{registry.champion('starter')}"
    today = cleaned("--yes")

    assert {model: why and why.split(" since")[0] for model, (why, _) in today.items()} == {
        starter: "the champion",
        scout: "named by a decision",
        looked_on: "named by a decision",
        german: "in service",
        before: "what a rollback leads back to",
        now: "named by a decision",
        theirs: "in service",
        unneeded: None,
    }
    assert [model for model, (_, is_deleted) in today.items() if is_deleted] == [unneeded]
    assert {f"{name}@{version}" for name, version in registry.list()} == set(today) - {unneeded}
    mover.roll_back(now, WHO)
    with Worker(shop, tmp_path / "two") as worker:
        send(shop, orders(20, first=40))
        decided = decisions(shop, 60)
        assert worker.stop() == 0, worker.said()
    assert Counter(by(d) for d in decided) == {scout: 20, now: 20, before: 20}
    again = verify(shop, processes=1)
    assert (again.equal, again.listed) == (60, [])


def test_a_bundle_that_is_dropped_into_the_watched_folder_is_deployed_and_a_bad_one_says_why(
    shop: Settings, mover: Mover, versions: tuple[Path, list[str]], tmp_path: Path
) -> None:
    registry = Registry(shop.home / "models")
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    good, forest = versions[1][2], versions[1][0]
    bundles = {}
    for model in (good, forest):
        name, version = model.split("@")
        files = {f"{name}/{version}/{file}": told for file, told in registry.files(name, version).items()}
        bundles[model] = pack(files)
        shutil.rmtree(shop.home / "models" / name / version)
    (incoming / "line.tar").write_bytes(bundles[good])
    harmed = {path: told[:-1] + b"\1" if path.endswith(ARRAYS) else told for path, told in files.items()}
    (incoming / "broken.tar").write_bytes(pack(harmed))
    (incoming / "notes.txt").write_text("to do")
    odd = [incoming / ("x" * 255), incoming / "a\udcff\n\u202e.tar"]
    for each in odd:
        each.write_text("neither")
    watched = WatchedFolder(incoming, registry, mover, who="anna")

    assert list(watched.look()) == [], "they may still grow"
    dropped = {each.file.name: each for each in watched.look()}
    assert list(watched.look()) == []

    assert {name: each.models for name, each in dropped.items()} == {
        "line.tar": (good,), "broken.tar": (), "notes.txt": (), odd[0].name: (), odd[1].name: (),
    }  # fmt: skip
    assert dropped[odd[1].name].said.isprintable()
    assert "sha256" in (incoming / "broken.tar.reason.txt").read_text()
    assert "is no bundle" in (incoming / "notes.txt.reason.txt").read_text()
    assert (incoming / "line.tar.deployed.txt").read_text().startswith(f"{good} is challenger")
    assert registry.has(*good.split("@"))
    assert not registry.has(*forest.split("@"))
    assert [each.said for each in in_force(shop).service.served] == [good]
    kinds = [event.record.kind for event in history(shop)]
    assert sorted(kinds) == ["model_deployed", *["model_refused"] * 4]
    (incoming / "line.tar.deployed.txt").unlink()  # as if it had been killed before it could say so
    assert [each.models for each in watched.look(at_once=True)] == [(good,)]
    assert "already" in (incoming / "line.tar.deployed.txt").read_text()
    assert len(list(history(shop))) == 5, "it is not moved again"
    (incoming / "broken.tar").write_bytes(bundles[forest])
    os.utime(incoming / "broken.tar", (2e9, 2e9))
    assert [each.models for each in watched.look(at_once=True)] == [(forest,)], "a mended file is tried again"
    assert not (incoming / "broken.tar.reason.txt").exists()


def test_what_a_stranger_says_in_control_is_told_and_gives_a_terminal_no_orders(
    shop: Settings, mover: Mover, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)
    mover.deploy(said[0], WHO, scope=Scope(channel="\u202e\x07"))
    told = next(history(shop)).record.model_extra or {}
    # void: decided on the service of before
    Appender(shop).append("model_deployed", who="eve\x07", why="\u202e", **told)

    commands = [["service"], ["history"], ["history", "--at", "2100-01-01"]]
    outputs = [CliRunner().invoke(app, ["models", *each]).output for each in commands]

    assert all(each.replace("\n", "").isprintable() for each in outputs), outputs
    assert [each.count("\\u202e\\x07") for each in outputs] == [1, 2, 1]
    assert outputs[1].count("void") == 1
    wrong = CliRunner().invoke(app, ["models", "retire", "line", "--why", "x", "--scope", "channel=\u202e"])
    assert (wrong.exit_code, wrong.output.replace("\n", "").isprintable()) == (1, True)
    again = CliRunner().invoke(app, ["models", "deploy", said[0], "--why", "x" * 2_001])
    assert again.exit_code == 1
    assert again.stderr.startswith("fraudstream: --why: expected 1 to 2,000 letters, got 2,001")
    assert len(list(history(shop))) == 2


def test_what_another_group_has_in_service_is_not_deleted(
    shop: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)
    registry = Registry(shop.home / "models")
    Mover(shop.model_copy(update={"group": "another"}), registry).deploy(said[0], WHO)
    Mover(shop, registry).deploy(said[1], WHO)

    result = CliRunner().invoke(app, ["models", "gc", "--keep", "0", "--yes"])

    assert result.exit_code == 0, result.output
    assert [registry.has(*each.split("@")) for each in said] == [True, True, False]


def test_moves_that_follow_each_other_make_one_connection_and_each_sees_the_one_before(
    shop: Settings, mover: Mover, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Control] = []

    def connected(settings: Settings) -> Control:
        made.append(Control(settings))
        return made[-1]

    monkeypatch.setattr("stream.deploying.Control", connected)
    moved = [
        mover.deploy(model, WHO, role="champion", scope=Scope(merchant=f"m{number}"))
        for number, model in enumerate(said * 5)
    ]
    for model in said[:2]:
        mover.promote(model, WHO)

    assert mover.roll_back(said[1], WHO).put == said[0]
    assert len(made) == 1, "a connection takes half a second, and hundreds of versions would take minutes"
    assert [each.offset for each in moved] == list(range(15))
    assert len(in_force(shop).service.served) == 16


def test_of_several_who_promote_in_the_same_moment_each_takes_the_place_of_the_one_before(
    shop: Settings, mover: Mover, said: list[str]
) -> None:
    for model in said:
        mover.deploy(model, WHO)
    on_trial = {each.said: each for each in in_force(shop).service.served}
    done: list[str] = []

    def promote(model: str) -> None:
        try:
            moved = Mover(shop, mover._registry).promote(model, WHO, on_trial=on_trial[model])
        except AlreadySo:
            done.append("late")
        else:
            done.append(f"{moved.put} after {moved.replaces}")

    threads = [threading.Thread(target=promote, args=(model,)) for model in [*said, *said]]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert done.count("late") == 3, "each is promoted once, whoever asks twice"
    befores = [each.partition(" after ")[2] for each in done if each != "late"]
    assert len(set(befores)) == 3, f"one after the other: {done}"
    service = in_force(shop).service
    assert len(service.past) == 2
    assert [each.role for each in service.served] == ["champion"]
