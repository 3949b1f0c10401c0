"""What was decided long ago is decided again, whatever a shop has changed since."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.policy import Policy
from stream import topics
from stream.cli import app
from stream.deploying import Mover, Who
from stream.learn import learn
from stream.registry import registry_with_features
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, send
from tests.small_shop import a_past

ROUNDS = 7
A_FEATURE = '''
@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_over_{number}(order: Order) -> float:
    """1 when the order is over {amount} minor units, else 0."""
    return float(order.amount > {amount})
'''
WHO = Who("anna", "a test")


@pytest.fixture
def shop(settings: Settings, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop with a file of features of its own, its topics and a model, its settings in the environment."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    made = settings.model_copy(
        update={"features": f"{tmp_path / 'shop.py'}:FEATURES", "session_s": 6.0, "patience_s": 5.0}
    )
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def write_features(file: Path, count: int) -> None:
    """The shop's file with so many features."""
    declared = [A_FEATURE.format(number=number, amount=1_000 + 13 * number) for number in range(count)]
    names = "".join(f"is_over_{number}, " for number in range(count))
    file.write_text(f"from features import Order, feature\n{''.join(declared)}\nFEATURES = ({names})\n")


def test_a_decision_of_twenty_changes_ago_is_decided_again_byte_for_byte(
    shop: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "shop.py"
    write_features(file, 1)
    with Worker(shop, tmp_path / "log") as worker:
        decided = five_more(shop, 0)
        assert worker.stop() == 0, worker.said()

    changes = 0
    for number in range(ROUNDS):
        write_features(file, number + 2)
        with Worker(shop, tmp_path / "log") as worker, Mover(shop, registry_with_features(shop)) as mover:
            decided = five_more(shop, decided)
            model = a_new_model(shop, number)
            takes_up(worker, mover.promote(model, WHO).offset)
            decided = five_more(shop, decided)
            stricter = Policy(review_at=0.01 * (number + 1), decline_at=0.5)
            takes_up(worker, mover.promote(model, WHO, policy=stricter).offset)
            decided = five_more(shop, decided)
            assert worker.stop() == 0, worker.said()
        changes += 3

    assert changes > 20
    told = decisions(shop, decided)
    under = {(model_of(each), json.dumps(each["policy"])) for each in told}
    assert len(under) == 1 + 2 * ROUNDS, "every change of a model or of its thresholds has decided orders"
    first = CliRunner().invoke(app, ["replay", "decision", "o0", "--json"])
    assert first.exit_code == 0, first.output
    (again,) = map(json.loads, first.stdout.splitlines())
    assert again["equal"]
    assert model_of(again["recorded"]).startswith("starter@")
    whole = CliRunner().invoke(app, ["verify", "--processes", "1", "--json"])
    assert whole.exit_code == 0, whole.output
    found = json.loads(whole.stdout)
    assert (found["equal"], found["compared"]) == (decided, decided)


def a_new_model(shop: Settings, number: int) -> str:
    """One that learns from every feature the shop has by now."""
    learnt = learn(
        shop,
        a_past(400, seed=number),
        name="risk",
        features="own,amount,orders_count_1d",
        predictor="random_forest" if number % 2 else "logistic_regression",
    )
    assert len(learnt.features) == number + 4
    return f"{learnt.name}@{learnt.version}"


def takes_up(worker: Worker, offset: int, *, within_s: float = 40.0) -> None:
    """Wait until the worker decides under a control record."""
    deadline = time.monotonic() + within_s
    while f"models of control offset {offset + 1} are there" not in worker.said():
        assert worker.process.poll() is None, worker.said()
        assert time.monotonic() < deadline, worker.said()
        time.sleep(0.05)


def five_more(shop: Settings, decided: int) -> int:
    send(shop, orders(5, first=decided))
    decisions(shop, decided + 5)
    return decided + 5


def model_of(decision: Mapping[str, Any]) -> str:
    return f"{decision['model']['name']}@{decision['model']['version']}"
