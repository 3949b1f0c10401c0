"""Learning from a labelled past, and what is put in service without being asked."""

from datetime import timedelta
from pathlib import Path

import pytest

from models.registry import Registry
from stream.learn import FEWEST_FRAUD, learn
from stream.settings import Settings
from tests.strategies import NOON, an_order


@pytest.mark.parametrize(("every", "promoted"), [(25, False), (4, True)])
def test_a_model_measured_on_few_frauds_is_not_put_in_service_unasked(
    tmp_path: Path, every: int, promoted: bool
) -> None:
    settings = Settings(home=tmp_path)
    past = [
        (
            an_order(order_id=f"o{n}", placed_at=NOON + timedelta(hours=n), amount=100 + n % every),
            n % every == 0,
        )
        for n in range(250)
    ]

    learnt = learn(settings, past, name="starter", predictor="logistic_regression")

    assert learnt.promoted is promoted is (int(learnt.metrics["holdout_fraud"] or 0) >= FEWEST_FRAUD)
    champion = Registry(tmp_path / "models").champion("starter")
    assert champion == (learnt.version if promoted else None)


def test_a_model_is_put_in_service_all_the_same_when_told_to(tmp_path: Path) -> None:
    past = [(an_order(order_id=f"o{n}", placed_at=NOON + timedelta(hours=n)), n == 3) for n in range(60)]

    learnt = learn(
        Settings(home=tmp_path), past, name="starter", predictor="logistic_regression", promote=True
    )

    assert learnt.promoted
