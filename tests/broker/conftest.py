"""What broker tests share: a registry with a model in service."""

from datetime import date
from pathlib import Path

import pytest

from models.registry import Registry
from models.train import train
from tests.small_shop import small_examples


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a small model in service."""
    root = tmp_path_factory.mktemp("registry")
    trained = train(
        small_examples(),
        name="starter",
        predictor="logistic_regression",
        row_limit=512,
        trained_at=date(2026, 2, 1),
    )
    published = Registry(root)
    published.publish(trained)
    published.promote("starter", trained.version)
    return root
