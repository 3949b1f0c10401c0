"""What challengers of a real worker would have been worth, and how a decision beside them is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.policy import Policy
from models.registry import Registry
from stream import topics
from stream.cli import app
from stream.deploying import Mover, Who
from stream.settings import Settings
from tests.broker.test_service import versions  # noqa: F401 - a fixture
from tests.running import Worker, decisions, environment, orders, read, send


@pytest.fixture
def published(request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """A registry with a small model in service, and three more that are called so."""
    made: tuple[Path, list[str]] = request.getfixturevalue("versions")
    return made


@pytest.fixture
def shop(settings: Settings, published: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with every topic made and models to decide with, in the environment too."""
    topics.create(settings)
    shutil.copytree(published[0], settings.home / "models")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


def asked(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_challenger_is_held_against_what_was_decided_and_told_beside_it(
    shop: Settings, published: tuple[Path, list[str]], tmp_path: Path
) -> None:
    challengers = sorted(published[1][1:])
    mover = Mover(shop, Registry(shop.home / "models"))
    for model in challengers:
        mover.deploy(model, Who("anna", "a test"))
    own = {"review_at": 0.123, "decline_at": 0.987}
    mover.deploy("starter", Who("anna", "a test"), role="champion", policy=Policy(**own))
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [*orders(60), *orders(5)])
        (first, *_) = decisions(shop, 65)
        read(shop, shop.topics.decisions_shadow, 120)
        assert worker.stop() == 0, worker.said()
    assert first["action"] == ("review" if first["p_fraud"] >= 0.123 else "approve")
    champion = f"{first['model']['name']}@{first['model']['version']}"

    compared = asked("models", "compare", "--mature-after", "1d", "--silence-is-legitimate")
    drift = asked("models", "drift", "--window", "1d", "--fewest", "10")
    (told, again) = asked("explain", "o3")

    assert [each["challenger"] for each in compared] == challengers
    assert [each["champions"] for each in compared] == [{champion: 60}] * 2
    assert [(each["orders"], each["frauds"]) for each in compared] == [(60, 0)] * 2
    assert {each["model"]: each["windows"][0]["shadow"] for each in drift} == {
        champion: False
    } | dict.fromkeys(challengers, True)
    shadow = [each["decision"]["model"] for each in told["shadow"]]
    assert sorted(f"{each['name']}@{each['version']}" for each in shadow) == challengers
    assert told["decided_again"]["equal"]
    assert (told["policy"], told["said"]) == (own, []), "thresholds that no manifest and no setting has"
    assert again["shadow"] == []
