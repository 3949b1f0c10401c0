"""One model's score is a feature of another, in training and in service alike."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from features.aggregates import Count
from features.catalogue import by_name, by_names
from features.define import Feature, compute, days
from features.errors import FeatureDefinitionError
from features.history import Row
from models.errors import RegistryError
from models.registry import MANIFEST, Registry
from models.score import ScoreOf
from models.scorer import Scorer
from models.train import train
from models.trained import Trained
from stream.keeping import reach
from tests.small_shop import TRAINED_AT, a_past
from tests.strategies import NOON, an_order

SUBMODEL = by_names(["orders_count_1d", "amount_sum_1d", "device_is_new"])


def a_model(name: str, features: Sequence[Feature]) -> Trained:
    return train(
        a_past(400),
        name=name,
        predictor="logistic_regression",
        trained_at=TRAINED_AT,
        row_limit=50,
        seed=1,
        features=features,
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def velocity(registry: Registry) -> Scorer:
    trained = a_model("velocity", SUBMODEL)
    registry.publish(trained)
    return registry.load("velocity", trained.version)


def test_a_score_is_what_the_model_itself_says(velocity: Scorer) -> None:
    row = Row(50)
    row.remember(an_order(placed_at=NOON - timedelta(hours=2)))
    order = an_order(order_id="scored")
    history = row.as_of(NOON)

    feature = ScoreOf(velocity)
    (said,) = velocity.score([compute(SUBMODEL, order, {"customer": history})])
    assert (feature.name, feature.entity, feature.value(order, history)) == (
        "score_of_velocity",
        "customer",
        said.p_fraud,
    )
    assert 0 <= feature.value(an_order(customer_id=None), None) <= 1, "a guest is scored too"


def test_a_model_of_models_is_published_and_served_with_the_very_versions_it_learned_from(
    registry: Registry, velocity: Scorer
) -> None:
    trained = a_model("order_risk", [by_name("amount"), ScoreOf(velocity)])
    registry.publish(trained)

    loaded = registry.load("order_risk", trained.version)

    assert trained.parents == (f"velocity@{velocity.version}",)
    assert [each.declaration for each in loaded.features] == [each.declaration for each in trained.features]
    order = an_order()
    assert compute(loaded.features, order, {}) == compute(trained.features, order, {})


def test_a_model_whose_submodel_is_gone_or_another_is_refused(registry: Registry, velocity: Scorer) -> None:
    trained = a_model("order_risk", [by_name("amount"), ScoreOf(velocity)])
    place = Path(registry.publish(trained))
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"parents": ["velocity@2020-01-01.0000"]}))
    with pytest.raises(RegistryError, match=r"trained on feature 'score_of_velocity', and velocity@2020"):
        registry.load("order_risk", trained.version)

    (place / MANIFEST).write_text(json.dumps(manifest | {"parents": []}))
    with pytest.raises(RegistryError, match="there is no feature 'score_of_velocity'"):
        registry.load("order_risk", trained.version)


def test_a_submodel_of_two_histories_is_refused_where_it_is_written(velocity: Scorer) -> None:
    velocity.features = (*velocity.features[:-1], Count(over=days(1), by="card"))

    with pytest.raises(FeatureDefinitionError, match="of card and customer; train one model for each"):
        ScoreOf(velocity)


def test_a_score_reaches_as_far_back_as_what_its_model_asks(velocity: Scorer) -> None:
    assert reach(ScoreOf(velocity)) == days(1)


def test_another_version_is_another_feature(registry: Registry, velocity: Scorer) -> None:
    other = a_model("velocity", SUBMODEL[:2])
    registry.publish(other)

    assert ScoreOf(registry.load("velocity", other.version)).declaration != ScoreOf(velocity).declaration
    assert replace(ScoreOf(velocity)).declaration == ScoreOf(velocity).declaration


def test_the_name_of_a_model_is_not_a_model() -> None:
    with pytest.raises(FeatureDefinitionError, match=r"a loaded model, .* not 'velocity'"):
        ScoreOf("velocity")  # type: ignore[arg-type]
