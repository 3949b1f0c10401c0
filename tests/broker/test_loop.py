"""Models on trial that nobody watches: the judge promotes, retires and takes back, on a real broker."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.policy import Policy
from models.registry import ARRAYS, Registry
from stream import topics
from stream.control import ControlEvent, history, in_force
from stream.deploying import Mover, Who, kill
from stream.guard import Gates, Guardrails
from stream.judging import Trials
from stream.replay_topics_cli import opened
from stream.retrain import Retrained, into_shadow
from stream.service import EVERYWHERE
from stream.settings import Settings
from tests.broker.test_service import by, hears, takes_up, versions
from tests.running import Worker, decisions, environment, orders, read, send

__all__ = ["versions"]

WHO = Who("anna", "a test")
EVERYTHING = 1e-6
APPROVES = Policy(review_at=1.0, decline_at=1.0)
REVIEWS = Policy(review_at=EVERYTHING, decline_at=1.0)
DECLINES = Policy(review_at=EVERYTHING, decline_at=EVERYTHING)


@pytest.fixture
def shop(settings: Settings, versions: tuple[Path, list[str]]) -> Settings:
    """Settings with every topic made, models to decide with, and gates that a short trial can pass."""
    topics.create(settings)
    shutil.copytree(versions[0], settings.home / "models")
    gates = Gates(
        days=0, orders=50, frauds=5, disagreement=1.0, silence_is_legitimate=True, review_cost=0.0, margin=1.0
    )
    return settings.model_copy(update={"gates": gates, "session_s": 6.0, "transaction_s": 5.0})


@pytest.fixture
def mover(shop: Settings) -> Mover:
    return Mover(shop, Registry(shop.home / "models"))


@pytest.fixture
def said(versions: tuple[Path, list[str]]) -> list[str]:
    return versions[1]


def trials(shop: Settings, **more: Any) -> Trials:
    return Trials(shop, opened(shop, None), Registry(shop.home / "models"), who="judge", **more)


@contextmanager
def judge(shop: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A judge as a service manager would leave it running."""
    command = [sys.executable, "-m", "stream.cli", "models", "judge", "--watch"]
    with log.open("wb") as out:
        running = subprocess.Popen(
            [*command, "--every", "1", "--challengers-every", "1", "--json"],
            env={**os.environ, **environment(shop)},
            stdout=out,
            stderr=out,
        )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(20)


def moves(shop: Settings, kind: str) -> list[ControlEvent]:
    return [event for event in history(shop) if event.record.kind == kind]


def comes(shop: Settings, kind: str, log: Path, *, within_s: float = 60.0) -> ControlEvent:
    """The first event of this kind, once it is there."""
    deadline = time.monotonic() + within_s
    while not (found := moves(shop, kind)):
        assert time.monotonic() < deadline, f"no {kind}:\n{log.read_text()}"
        time.sleep(0.3)
    return found[0]


def outcomes(shop: Settings, numbers: range, *, customers: int) -> None:
    """Chargebacks of these orders."""
    told = []
    for number in numbers:
        outcome = {
            "order_id": f"o{number}",
            "customer_id": f"c{number % customers}",
            "kind": "chargeback",
            "is_fraud": True,
            "occurred_at": "2026-01-20T00:00:00Z",
            "known_at": "2026-01-20T00:00:00Z",
        }
        told.append((f"c{number % customers}".encode(), json.dumps(outcome).encode()))
    send(shop, told, topic=shop.topics.outcomes)


def test_a_canary_that_declines_everybody_is_taken_back_unattended_and_the_champion_stays(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    mover.promote(said[0], WHO, policy=APPROVES)
    mover.deploy(said[2], WHO, role="canary", share=5_000, policy=DECLINES)
    log = tmp_path / "judge"
    with Worker(shop, tmp_path / "log") as worker, judge(shop, log):
        send(shop, orders(200, customers=200))
        decisions(shop, 200)
        event = comes(shop, "model_retired", log)
        takes_up(worker, event.offset)
        send(shop, orders(200, customers=200, first=200))
        after = decisions(shop, 400)
        assert worker.stop() == 0, worker.said()

    assert (event.record.who, event.record.required) == ("judge", True)
    assert event.record.why.startswith("roll back: in ")
    assert "it declined 100.0% of its customers' orders" in event.record.why
    evidence = (event.record.model_extra or {})["evidence"]
    assert evidence["figures"]["24 hours"]["canary"]["declines"] == 1.0
    assert {"declines", "most declines"} <= set(evidence["unmet"])
    assert [(each.said, each.role) for each in in_force(shop).service.served] == [(said[0], "champion")]
    late = [d for d in after if int(d["order_id"][1:]) >= 200]
    assert {(by(d), d["action"]) for d in late} == {(said[0], "approve")}


def test_a_canary_that_fails_is_taken_back_and_one_that_does_not_stays(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    mover.promote(said[0], WHO, policy=APPROVES)
    mover.deploy(said[2], WHO, role="canary", share=5_000, policy=APPROVES)
    with Worker(shop, tmp_path / "log") as worker:
        hears(worker, "opened")  # what waits for a worker to start is slow
        send(shop, orders(200, customers=200))
        decisions(shop, 200)
        (well,) = trials(shop).canaries()
        (again,) = trials(shop).canaries()
        assert worker.stop() == 0, worker.said()
    arrays = shop.home / "models" / said[2].replace("@", "/") / ARRAYS
    arrays.chmod(0o644)
    arrays.write_bytes(b"\0" + arrays.read_bytes()[1:])
    with Worker(shop, tmp_path / "again") as worker:
        hears(worker, "opened")
        send(shop, orders(200, customers=200, first=200))
        decisions(shop, 400)
        (judged,) = trials(shop, dry_run=True).canaries()
        (done,) = trials(shop).canaries()
        assert worker.stop() == 0, worker.said()

    assert (well.verdict.kind, well.verdict.unmet, well.done) == ("wait", (), "")
    assert len(moves(shop, "model_judged")) == 1, "what was said before is not said again"
    assert again.verdict == well.verdict
    assert (judged.verdict.kind, judged.verdict.unmet, judged.moved) == (
        "roll_back", ("fallbacks", "fallbacks"), False,
    )  # fmt: skip
    assert done.moved
    assert [each.said for each in in_force(shop).service.served] == [said[0]]
    assert list(trials(shop).canaries()) == []


def test_challengers_are_promoted_or_retired_by_what_they_would_have_saved(
    shop: Settings, mover: Mover, said: list[str], tmp_path: Path
) -> None:
    mover.promote(said[0], WHO, policy=APPROVES)
    mover.deploy(said[2], WHO, policy=REVIEWS)
    first = list(trials(shop).challengers())
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(200, customers=50))
        read(shop, shop.topics.decisions_shadow, 200)
        early = list(trials(shop).challengers())
        outcomes(shop, range(0, 200, 10), customers=50)
        done: list[Any] = []
        judges = [threading.Thread(target=lambda: done.extend(trials(shop).challengers())) for _ in range(3)]
        for each in judges:
            each.start()
        for each in judges:
            each.join()
        champion = in_force(shop).service.champion(EVERYWHERE)
        assert champion is not None
        (promoted,) = [each for each in moves(shop, "model_promoted") if each.offset == champion.offset]
        # the next one declines what the new champion has looked at
        takes_up(worker, mover.deploy(said[1], WHO, policy=DECLINES).offset)
        send(shop, orders(200, customers=50, first=200))
        read(shop, shop.topics.decisions_shadow, 400)
        outcomes(shop, range(200, 400, 10), customers=50)
        (worse,) = trials(shop).challengers()
        assert worker.stop() == 0, worker.said()

    assert [each.verdict.kind for each in [*first, *early]] == ["wait", "wait"]
    assert set(early[0].verdict.unmet) == {"frauds", "speed"}
    assert sum(each.moved for each in done) == 1, "of three who look at once one promotes"
    told = promoted.record.model_extra or {}
    assert (told["name"], told["evidence"]["figures"]["frauds"]) == (said[2].split("@")[0], 20)
    assert (told["review_at"], told["decline_at"]) == (EVERYTHING, 1.0), "with the thresholds of its trial"
    assert promoted.record.why.startswith("promote: every gate let it through: ")
    assert (worse.verdict.kind, worse.moved) == ("stop", True), worse.verdict
    assert worse.verdict.why.startswith("it costs more than what decides: it would have saved -")
    assert [(each.said, each.role) for each in in_force(shop).service.served] == [(said[2], "champion")]


def test_nothing_is_judged_while_a_person_has_taken_the_decisions_from_the_models(
    shop: Settings, mover: Mover, said: list[str]
) -> None:
    mover.deploy(said[2], WHO)
    mover.deploy(said[1], WHO, role="canary", share=5_000)
    kill(shop, "review", WHO)

    assert list(trials(shop).challengers()) == []
    assert list(trials(shop).canaries()) == []


def test_guardrails_and_gates_come_from_the_settings_of_the_shop(shop: Settings, tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("[guardrails]\ndeclines = 0.02\n[gates]\ndays = 14\n")

    told = subprocess.run(
        [sys.executable, "-m", "stream.cli", "--config", str(file), "settings"],
        capture_output=True,
        check=True,
    )

    settings = json.loads(told.stdout)
    assert settings["guardrails"] == Guardrails(declines=0.02).model_dump()
    assert settings["gates"] == Gates(days=14).model_dump()


def test_what_was_learned_anew_looks_on_once_and_what_was_not_published_is_told(
    shop: Settings, said: list[str]
) -> None:
    registry = Registry(shop.home / "models")
    learned = Retrained("forest", "2026-01-01..2026-02-01", "2026-02-10..2026-02-20", why="every gate passed")
    learned.published = said[0]
    failed = Retrained("forest", "2026-01-01..2026-02-01", "2026-02-10..2026-02-20", why="accuracy: AUC 0.4")

    put = into_shadow(learned, shop, registry, who="retrain")
    again = into_shadow(learned, shop, registry, who="retrain")
    nothing = into_shadow(failed, shop, registry, who="retrain")

    assert put is not None
    assert (put.put, put.role) == (said[0], "challenger")
    assert (again, nothing) == (None, None), "a trial that goes on does not begin again"
    assert [(event.record.kind, event.record.who) for event in history(shop)] == [
        ("model_retrained", "retrain"), ("model_deployed", "retrain"),
        ("model_retrained", "retrain"), ("model_retrained", "retrain"),
    ]  # fmt: skip
    assert [each.role for each in in_force(shop).service.served] == ["challenger"]
    assert in_force(shop).unknown == ()
