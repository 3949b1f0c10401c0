"""What `fraudstream features` lists."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.catalogue import CATALOGUE, GROUPS, STARTER, by_name
from models.errors import RegistryError, TrainingError
from models.registry import Registry
from models.train import train
from stream.cli import app
from stream.ports import Refused
from stream.settings import Settings
from stream.worker import load_model
from tests.small_shop import TRAINED_AT, a_past, a_trained


def run(*arguments: str, width: int = 200) -> str:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["features", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_feature_is_listed_with_what_it_means() -> None:
    listed = " ".join(run().split())

    for each in CATALOGUE:
        assert each.name in listed
        assert each.missing.split(",")[0] in listed


def test_machines_read_an_object_a_feature() -> None:
    told = [json.loads(line) for line in run("--json").splitlines()]

    assert [each["name"] for each in told] == [each.name for each in CATALOGUE]
    by_its_name = {each["name"]: each for each in told}
    assert by_its_name["hour_of_day"] == {
        "group": "habit",
        "name": "hour_of_day",
        "doc": "The hour the order was placed in.",
        "unit": "hour of the day in UTC",
        "between": [0, 23],
        "missing": "never",
        "entity": None,
        "served": True,
        "reason": "HOUR_OF_DAY",
    }
    assert by_its_name["channel_category"]["categories"][0] == "web"
    assert by_its_name["by_card_orders_count_1h"]["entity"] == "card"
    assert by_its_name["by_card_orders_count_1h"]["served"] is False


def test_a_number_without_bounds_is_json_all_the_same() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in run("--json").splitlines():
        json.loads(line, parse_constant=refuse)


def test_one_group_is_listed_alone() -> None:
    told = [json.loads(line) for line in run("--group", "novelty", "--json").splitlines()]

    assert [each["name"] for each in told] == [each.name for each in GROUPS["novelty"]]


def test_an_unknown_group_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["features", "--group", "novelties"])

    assert result.exit_code == 2
    assert "there is no group 'novelties'; did you mean 'novelty'?" in result.stderr


def test_a_page_and_json_are_not_printed_at_once() -> None:
    result = CliRunner().invoke(app, ["features", "--markdown", "--json"])

    assert result.exit_code == 2
    assert "--markdown or --json, not both" in result.stderr


def test_the_page_has_a_row_of_seven_cells_for_each_feature() -> None:
    rows = [line for line in run("--markdown").splitlines() if line.startswith("| `")]

    assert len(rows) == len(CATALOGUE)
    assert {row.replace(r"\|", "").count("|") for row in rows} == {8}
    hour = "| `hour_of_day` | The hour the order was placed in. | hour of the day in UTC | 0 to 23 | never |"
    assert f"{hour} order | yes |" in rows


CARD = by_name("by_card_orders_count_1h")
WHY = r"asks for features .* by_card_orders_count_1h \(card\); set FRAUDSTREAM_ENTITIES=card and run"


def test_training_refuses_features_that_no_worker_could_serve() -> None:
    with pytest.raises(TrainingError, match=f"training 'risk' {WHY}"):
        train(
            a_past(100),
            name="risk",
            predictor="logistic_regression",
            trained_at=TRAINED_AT,
            row_limit=50,
            features=(*STARTER, CARD),
        )


def test_a_worker_refuses_a_model_that_asks_for_a_history_it_does_not_keep(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    of_cards = Registry(tmp_path / "models", entities=("card",))
    trained = train(
        a_past(100),
        name="risk",
        predictor="logistic_regression",
        trained_at=TRAINED_AT,
        row_limit=512,
        features=(*STARTER, CARD),
        entities=("card",),
    )
    of_cards.publish(trained)
    of_cards.promote("risk", trained.version)
    settings = Settings(home=tmp_path, model="risk")

    with pytest.raises(Refused, match=f"risk@{trained.version} {WHY}") as refused:
        load_model(settings)

    assert "\n" not in str(refused.value)
    with pytest.raises(RegistryError, match=WHY):
        registry.promote("risk", trained.version)


def test_a_worker_opens_a_model_on_features_of_the_order_and_its_customer(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    trained = a_trained("random_forest")
    registry.publish(trained)
    registry.promote(trained.name, trained.version)
    limit = int(trained.settings["row_limit"])

    scorer, _ = load_model(Settings(home=tmp_path, model=trained.name, row_limit=limit))

    assert scorer.version == trained.version
