"""What broker tests share: a registry with a model in service."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from features.events import Order
from models.registry import Registry
from models.train import train


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a small model in service."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    examples = [
        (
            Order(
                order_id=f"t{n}",
                customer_id=f"c{n % 40}",
                placed_at=start + timedelta(minutes=7 * n),
                amount=100 * (n % 97),
                currency="EUR",
            ),
            n % 97 > 80,
        )
        for n in range(600)
    ]
    root = tmp_path_factory.mktemp("registry")
    trained = train(
        examples,
        name="starter",
        predictor="logistic_regression",
        row_limit=512,
        trained_at=date(2026, 2, 1),
    )
    published = Registry(root)
    published.publish(trained)
    published.promote("starter", trained.version)
    return root
