"""Linked evidence of a device, a merchant and a customer, from the logs of a real broker."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stream import topics
from stream.cli import app
from stream.settings import Settings
from tests.running import Worker, decisions, environment, read, send

START = datetime(2026, 1, 1, tzinfo=UTC)


def show(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["entity", "show", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["entity", "show", *arguments])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def an_order(number: int, device: str, **fields: Any) -> tuple[bytes, bytes]:
    customer = f"c{number % 3}"
    order = {
        "order_id": f"o{number}",
        "customer_id": customer,
        "device_id": device,
        "placed_at": (START + timedelta(minutes=number)).isoformat(),
        "amount": 1000 + number,
        "currency": "EUR",
    }
    return customer.encode(), json.dumps(order | fields).encode()


def an_outcome(number: int, *, is_fraud: bool, minutes: int) -> tuple[bytes, bytes]:
    known_at = (START + timedelta(days=1, minutes=minutes)).isoformat()
    outcome = {
        "order_id": f"o{number}",
        "customer_id": f"c{number % 3}",
        "kind": "chargeback",
        "is_fraud": is_fraud,
        "occurred_at": known_at,
        "known_at": known_at,
    }
    return f"c{number % 3}".encode(), json.dumps(outcome).encode()


@pytest.fixture
def shop(settings: Settings, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop whose devices have histories."""
    made = settings.model_copy(update={"entities": ("device", "merchant")})
    topics.create(made)
    made.home.mkdir(parents=True)
    (made.home / "models").symlink_to(registry)
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def test_a_device_and_a_customer_are_shown_with_their_orders_and_known_fraud(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        first = [an_order(number, "d1" if number % 2 else "d2") for number in range(12)]
        send(shop, first)
        decisions(shop, 12)
        # o1 turns out to be another device's, o3 was fraud, o5 was thought to be
        send(shop, [an_order(1, "d2", revision=1)])
        decisions(shop, 13)
        told = [
            an_outcome(3, is_fraud=True, minutes=1),
            an_outcome(5, is_fraud=True, minutes=1),
            an_outcome(5, is_fraud=False, minutes=2),
        ]
        send(shop, told, topic=shop.topics.outcomes)
        # the orders; word to d1's history that o1 left, where that is on another partition; the outcomes
        read(shop, shop.stages["device"], 16, within_s=60)
        worker.stop()

    device = show("device", "d1", "--most", "2")
    assert (device["orders"], device["customers"]) == (5, 3)
    assert (device["known_fraud"], device["known_fraud_share"]) == (1, 0.2)
    assert [each["order_id"] for each in device["newest_known_fraud"]] == ["o3"]
    assert [each["order_id"] for each in device["newest_orders"]] == ["o11", "o9"]
    assert device["first_seen"] == (START + timedelta(minutes=3)).isoformat()
    assert device["last_seen"] == (START + timedelta(minutes=11)).isoformat()
    assert device["most_orders"][0] == {"customer_id": "c0", "orders": 2, "known_fraud": 1}
    assert [each["topic"] for each in device["read"]] == [shop.stages["device"]]

    assert show("device", "d2")["orders"] == 7

    customer = show("customer", "c2")
    assert (customer["orders"], customer["known_fraud"]) == (4, 0)
    assert [each["order_id"] for each in customer["newest_orders"]] == ["o11", "o8", "o5", "o2"]
    assert show("customer", "c0")["known_fraud"] == 1

    assert "no order of device 'd3' came to topic" in refused("device", "d3")
    assert "no order of customer 'd1' came to topic" in refused("customer", "d1")
    assert "'card' has no history here, only customer, device, merchant;" in refused("card", "k1")
