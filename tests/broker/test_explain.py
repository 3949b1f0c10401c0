"""An order explained from the topic it lies in, on a real broker."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.catalogue import STARTER
from stream import topics
from stream.cli import app
from stream.kafka import KafkaCluster
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, send


def explain(*arguments: str, given: str | None = None) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["features", "explain", *arguments, "--json"], input=given)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["features", "explain", *arguments])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def values(told: list[dict[str, Any]]) -> Mapping[str, float | None]:
    return {each["feature"]: each["value"] for each in told[1:]}


@pytest.fixture
def here(settings: Settings, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop with its topics, and its settings in the environment."""
    topics.create(settings)
    settings.home.mkdir(parents=True)
    (settings.home / "models").symlink_to(registry)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


def test_an_order_is_explained_as_the_worker_decided_it(here: Settings, tmp_path: Path) -> None:
    sent = orders(60)
    again = (b"c3", sent[3][1])
    late = json.loads(sent[58][1]) | {"order_id": "late", "placed_at": "2025-12-31T00:00:00Z"}
    revised = json.loads(sent[58][1]) | {"revision": 1, "amount": 99}
    rejected = b'{"order_id": "bad", "customer_id": "c3", "amount": -1}'
    send(here, [*sent, again, (b"c3", rejected)])
    send(here, [(b"c3", json.dumps(each).encode()) for each in (late, revised)])

    with Worker(here, tmp_path / "log") as worker:
        decided = {each["order_id"]: each for each in decisions(here, 64) if not each["repeat_of"]}
        worker.stop()
    positions = KafkaCluster(here, quiet=True)
    parts = [(here.topics.orders, number) for number in range(here.partitions)]
    before = positions.committed(parts, stable=True)

    for order_id in ("o0", "o33", "o57", "late", "o58"):
        told = explain(order_id)
        assert values(told) == decided[order_id]["features"]
        assert list(values(told)) == [each.name for each in STARTER]

    told = explain("o33", "--feature", "orders_count_1d", "--most", "2")
    assert told[0]["past_orders"] == 6
    assert [each["order_id"] for each in told[1]["orders"]] == ["o28", "o23"]
    assert told[1]["more"] == 4
    assert explain("o58", "--group", "velocity")[0]["revision"] == 1
    assert "order 'bad' is in topic" in refused("bad")
    assert "no order 'o61' arrived in topic" in refused("o61")
    assert positions.committed(parts, stable=True) == before
    positions.close()


def test_an_order_that_was_not_sent_is_explained_from_a_file(here: Settings, tmp_path: Path) -> None:
    send(here, orders(20))
    order = json.loads(orders(20)[18][1]) | {"order_id": "new", "placed_at": "2026-01-01T00:01:00Z"}
    file = tmp_path / "order.json"
    file.write_text(json.dumps(order))

    told = explain("--order", str(file), "--group", "velocity")
    piped = explain("--order", "-", "--group", "velocity", given=file.read_text())
    known = explain("--order", "-", "--group", "velocity", given=json.dumps(order | {"order_id": "o18"}))

    assert told == piped
    assert values(told)["orders_count_30d"] == 4
    # what the topic has under its own id is not part of its past
    assert values(known)["orders_count_30d"] == 3
    file.write_text(json.dumps(order | {"currency": "XYZ"}))
    assert "the order would be rejected: unknown_currency" in refused("--order", str(file))


def test_what_arrived_before_since_is_not_looked_at(here: Settings) -> None:
    send(here, orders(10))

    assert values(explain("o9", "--feature", "orders_count_1d", "--since", "1h")) == {"orders_count_1d": 1}
    assert "read further back with --since" in refused("o9", "--since", "2099-01-01")


def test_orders_in_a_shops_own_json_are_found_by_the_id_that_the_mapping_makes(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'kind = "orders"\n[fields]\norder_id = { template = "shop-{nr}" }\ncustomer_id = "buyer"\n'
        'placed_at = "at"\namount = { column = "cents", unit = "minor" }\ncurrency = { value = "EUR" }\n'
    )
    monkeypatch.setenv("FRAUDSTREAM_MAPPING", str(mapping))
    rows = [
        {"nr": str(number), "buyer": "c1", "at": f"2026-01-01T00:00:0{number}Z", "cents": 100}
        for number in range(3)
    ]
    send(here, [(b"c1", json.dumps(row).encode()) for row in rows])

    assert values(explain("shop-2", "--feature", "orders_count_1d")) == {"orders_count_1d": 2}
