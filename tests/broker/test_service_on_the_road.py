"""Models that move in and out of service while orders go through the stages of two entities."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.catalogue import by_names
from features.define import Feature
from models.bundle import pack
from models.registry import Registry
from models.train import PredictorKind, train
from stream import topics
from stream.cli import app
from stream.control import in_force
from stream.deploying import Mover, Who, kill
from stream.model_watch import WatchedFolder
from stream.ports import Refused
from stream.service import Scope
from stream.settings import Settings
from stream.verify import verify
from tests.broker.test_road import ASKED, an_order, an_outcome
from tests.broker.test_service import by, hears, takes_up, told
from tests.running import Worker, decisions, environment, read, send
from tests.strategies import as_json

WHO = Who("anna", "a test")
ENTITIES = ("device", "merchant")
OF_THE_DEVICE = by_names(["amount", "orders_count_1d", "by_device_orders_count_1h"])
OF_THE_CARD = by_names(["amount", "by_card_orders_count_1h"])


def a_version(
    registry: Registry, name: str, kind: PredictorKind, features: Sequence[Feature], entities: Sequence[str]
) -> str:
    examples: list[Any] = []
    for number in range(300):
        order = an_order(number)
        examples.append((order, number % 3 == 0))
        if number % 3 == 0:
            examples.append(an_outcome(order))
    trained = train(
        examples,
        name=name,
        predictor=kind,
        row_limit=512,
        trained_at=date(2026, 2, 1),
        features=features,
        entities=entities,
    )
    registry.publish(trained)
    return f"{trained.name}@{trained.version}"


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, str]]:
    """A registry with a champion, and what others in it are called by their names."""
    root = tmp_path_factory.mktemp("versions") / "models"
    published = Registry(root, entities=ENTITIES)
    starter = a_version(published, "starter", "logistic_regression", ASKED, ENTITIES)
    published.promote("starter", starter.partition("@")[2])
    said = [
        a_version(published, "forest", "random_forest", ASKED, ENTITIES),
        a_version(published, "line", "logistic_regression", OF_THE_DEVICE, ENTITIES),
        a_version(published, "home", "random_forest", by_names(["amount", "orders_count_1d"]), ENTITIES),
        a_version(Registry(root, entities=["card"]), "card", "logistic_regression", OF_THE_CARD, ["card"]),
    ]
    return root, {each.partition("@")[0]: each for each in (starter, *said)}


@pytest.fixture
def said(versions: tuple[Path, Mapping[str, str]]) -> Mapping[str, str]:
    return versions[1]


@pytest.fixture
def shop(
    settings: Settings, versions: tuple[Path, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    made = settings.model_copy(
        update={"entities": ENTITIES, "session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0}
    )
    topics.create(made)
    shutil.copytree(versions[0], made.home / "models")
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def mover(shop: Settings) -> Mover:
    return Mover(shop, Registry(shop.home / "models", entities=shop.entities))


def send_some(shop: Settings, first: int, count: int) -> None:
    send(shop, [(order.key.encode(), as_json(order)) for order in map(an_order, range(first, first + count))])


def run(*arguments: str, exit_code: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def decided_by(shop: Settings, first: int, count: int) -> dict[str, Any]:
    """Send orders and wait for their decisions."""
    send_some(shop, first, count)
    every = decisions(shop, first + count, within_s=60.0)
    assert Counter(each["order_id"] for each in every) == Counter(f"o{n}" for n in range(first + count))
    return {each["order_id"]: each for each in every if int(each["order_id"][1:]) >= first}


def test_every_move_decides_the_orders_that_come_in_after_it_and_all_is_decided_again_alike(
    shop: Settings, mover: Mover, said: Mapping[str, str], tmp_path: Path
) -> None:
    merchant = Scope(merchant="m5")
    with Worker(shop, tmp_path / "a") as worker:
        assert {by(d) for d in decided_by(shop, 0, 24).values()} == {said["starter"]}
        mover.deploy(said["home"], WHO, role="fallback")
        mover.deploy(said["line"], WHO, role="canary", share=5_000)
        takes_up(worker, mover.promote(said["forest"], WHO).offset)
        on_trial = {d["customer_id"]: by(d) for d in decided_by(shop, 24, 24).values()}
        assert set(on_trial.values()) == {said["line"], said["forest"]}
        takes_up(worker, mover.deploy(said["home"], WHO, role="champion", scope=merchant).offset)
        scoped = decided_by(shop, 48, 36)
        of_merchant = [d for n, d in scoped.items() if an_order(int(n[1:])).merchant_id == "m5"]
        assert of_merchant
        assert {by(d) for d in of_merchant} == {said["home"]}
        assert {by(d) for d in scoped.values() if d not in of_merchant} == {said["line"], said["forest"]}
        # before it, orders may still be on their road
        state, _ = kill(shop, "review", WHO)
        hears(worker, f"models of control offset {state.next_offset} are there")
        killed = decided_by(shop, 84, 12)
        assert {(by(d), d["action"]) for d in killed.values()} == {(None, "review")}
        state, _ = kill(shop, "fallback", WHO)
        hears(worker, f"models of control offset {state.next_offset} are there")
        assert {by(d) for d in decided_by(shop, 96, 12).values()} == {said["home"]}
        kill(shop, None, WHO)
        takes_up(worker, mover.retire("home", WHO, scope=merchant).offset)
        assert worker.stop() == 0, worker.said()
    mover.retire("line", WHO)
    mover.deploy(said["line"], WHO)
    with Worker(shop, tmp_path / "b") as worker:
        assert {by(d) for d in decided_by(shop, 108, 24).values()} == {said["forest"]}
        shadow = told(read(shop, shop.topics.decisions_shadow, 24))
        assert Counter(d["order_id"] for d in shadow) == Counter(f"o{n}" for n in range(108, 132))
        assert {by(d) for d in shadow} == {said["line"]}
        takes_up(worker, mover.roll_back("forest", WHO).offset)
        assert {by(d) for d in decided_by(shop, 132, 12).values()} == {said["starter"]}
        assert worker.stop() == 0, worker.said()

    again = verify(shop, processes=1)
    assert (again.equal, again.listed) == (144, [])
    for number in (0, 30, 50, 85, 97, 110, 133):
        (replayed,) = run("replay", "decision", f"o{number}")
        assert replayed["equal"], replayed
        explained, *_ = run("explain", f"o{number}")
        assert explained["decided_again"]["equal"], explained["decided_again"]


BREAKS = """
import os
from models.scorer import Scorer
_score = Scorer.score

def score(self, vectors):
    if vectors and self.name == "forest" and os.path.exists(os.environ["BROKEN"]):
        raise FloatingPointError("broken")
    return _score(self, vectors)

Scorer.score = score
"""


def test_a_champion_that_breaks_in_memory_falls_back_within_the_batch_and_the_decisions_say_so(
    shop: Settings, mover: Mover, said: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(BREAKS)
    monkeypatch.setenv("BROKEN", str(broken))
    mover.deploy(said["home"], WHO, role="fallback")
    mover.deploy(said["line"], WHO)
    mover.promote(said["forest"], WHO)
    with Worker(shop, tmp_path / "log", code=tmp_path / "code") as worker:
        assert {by(d) for d in decided_by(shop, 0, 24).values()} == {said["forest"]}
        broken.touch()
        fallen = decided_by(shop, 24, 24)
        broken.unlink()
        assert {by(d) for d in decided_by(shop, 48, 12).values()} == {said["forest"]}
        shadow = told(read(shop, shop.topics.decisions_shadow, 60))
        assert worker.stop() == 0, worker.said()

    assert {by(d) for d in fallen.values()} == {said["home"]}
    assert {(d["reasons"][0]["code"], d["reasons"][0]["text"]) for d in fallen.values()} == {
        ("model_unavailable", f"{said['forest']} could not be used, so another model decided")
    }
    assert Counter(by(d) for d in shadow) == {said["line"]: 60}
    assert f"{said['forest']} failed over a batch and is asked order by order: FloatingPointError" in (
        worker.said()
    )
    again = verify(shop, processes=1)
    assert (again.equal, again.listed) == (60, [])


def test_a_model_of_an_entity_without_a_stage_is_refused_and_one_in_service_all_the_same_falls_back(
    shop: Settings, mover: Mover, said: Mapping[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="card"):
        mover.promote(said["card"], WHO)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    registry = Registry(shop.home / "models", entities=["card"])
    name, version = said["card"].split("@")
    files = {f"{name}/{version}/{file}": content for file, content in registry.files(name, version).items()}
    (incoming / "card.tar").write_bytes(pack(files))
    mine = Registry(shop.home / "models", entities=shop.entities)
    (dropped,) = WatchedFolder(incoming, mine, mover, who="anna").look(at_once=True)
    assert dropped.models == ()
    assert "card" in (incoming / "card.tar.reason.txt").read_text()
    assert in_force(shop).service.served == ()

    # a shell with other settings than the workers
    theirs = shop.model_copy(update={"entities": ("device", "merchant", "card")})
    mover.deploy(said["line"], WHO, role="fallback")
    with Worker(shop, tmp_path / "log") as worker:
        decided_by(shop, 0, 12)
        takes_up(worker, Mover(theirs, registry).promote(said["card"], WHO).offset)
        fallen = decided_by(shop, 12, 12)
        assert worker.stop() == 0, worker.said()
    with Worker(shop, tmp_path / "again") as worker:
        fallen |= decided_by(shop, 24, 12)
        takes_up(worker, mover.roll_back("card", WHO).offset)
        assert {by(d) for d in decided_by(shop, 36, 12).values()} == {said["starter"]}
        assert worker.stop() == 0, worker.said()

    assert {(by(d), d["reasons"][0]["text"]) for d in fallen.values()} == {
        (said["line"], f"{said['card']} could not be used, so another model decided")
    }
    again = verify(shop, processes=1)
    assert (again.equal, again.listed) == (48, [])
