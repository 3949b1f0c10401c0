"""A shop small enough to train on in a test: literal times, seeded customers, fraud that can be learned."""

import random
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

from features.events import Order
from models.train import PredictorKind, train
from models.trained import Trained

OPENED_AT = datetime(2026, 1, 1, 9, tzinfo=UTC)
TRAINED_AT = date(2026, 2, 14)


def an_order(number: int = 0, **fields: Any) -> Order:
    """An order of customer c1, `number` hours after the shop opened."""
    told: dict[str, Any] = {
        "order_id": f"o{number}",
        "customer_id": "c1",
        "placed_at": OPENED_AT + timedelta(hours=number),
        "amount": 5000,
        "currency": "EUR",
    }
    return Order(**(told | fields))


def a_past(orders: int = 1200, seed: int = 7) -> list[tuple[Order, bool | None]]:
    """Labelled orders: fraud is dearer and from new devices, a tenth is unlabelled, a tenth from guests."""
    chance = random.Random(seed)
    past = []
    for number in range(orders):
        is_fraud = chance.random() < 0.1
        customer = f"c{chance.randrange(60)}"
        order = an_order(
            number,
            customer_id=None if chance.random() < 0.1 else customer,
            amount=chance.randrange(100, 9000) * (3 if is_fraud else 1),
            device_id=f"d{chance.randrange(500)}" if is_fraud else f"of-{customer}",
            payment_attempts=chance.randrange(1, 5) if chance.random() < 0.5 else None,
        )
        past.append((order, is_fraud if chance.random() < 0.9 else None))
    return past


@cache
def a_trained(predictor: PredictorKind) -> Trained:
    """A model of the small shop's past; trained once for all tests, and nothing of it can be changed."""
    return train(
        a_past(), name="order_risk", predictor=predictor, trained_at=TRAINED_AT, row_limit=50, seed=1
    )


def small_examples(*, more: int = 0, above: int = 80) -> list[tuple[Order, bool]]:
    """600 orders of 40 customers, fraud where they cost much; `more` and `above` make another past of it."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        (
            Order(
                order_id=f"t{n}",
                customer_id=f"c{n % 40}",
                placed_at=start + timedelta(minutes=7 * n),
                amount=100 * (n % 97) + more,
                currency="EUR",
            ),
            n % 97 > above,
        )
        for n in range(600)
    ]
