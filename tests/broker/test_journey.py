"""A decision's journey told from what a real worker left on a real broker, and from an archive of it."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from stream import topics
from stream.cli import app
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, read, send

NASTY = "<img src=x onerror=alert(1)>\u202e"
"""An id as a stranger may send it: a tag, and a letter that turns a line around."""


@pytest.fixture
def shop(settings: Settings, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop with its topics and a model, and its settings in the environment."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


def explained(order_id: str, *arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["explain", order_id, "--json", *arguments])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def an_outcome(customer: str, order_id: str) -> tuple[bytes, bytes]:
    told = {
        "order_id": order_id,
        "customer_id": customer,
        "kind": "chargeback",
        "is_fraud": True,
        "occurred_at": "2026-01-02T00:00:00Z",
        "known_at": "2026-01-03T00:00:00Z",
    }
    return customer.encode(), json.dumps(told).encode()


def test_a_decision_is_told_from_the_order_to_what_became_of_it(shop: Settings, tmp_path: Path) -> None:
    nasty = json.loads(orders(1, first=33)[0][1]) | {"order_id": NASTY}
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(33))
        decisions(shop, 33)
        send(shop, [an_outcome("c3", "o28")], topic=shop.topics.outcomes)
        send(shop, [(b"c3", json.dumps(nasty).encode()), orders(33)[28]])
        made = {each["order_id"]: each for each in decisions(shop, 35) if not each["repeat_of"]}
        worker.stop()
    send(shop, [an_outcome("c3", NASTY)], topic=shop.topics.outcomes)
    # what a challenger would have decided
    (real,) = [m for m in read(shop, shop.topics.decisions, 35) if json.loads(m.value())["order_id"] == NASTY]
    other = json.loads(real.value()) | {"action": "decline", "p_fraud": 0.9, "score": 900}
    other["model"] = {"name": "challenger", "version": "2026-02-02.00000000", "digest": "e" * 64}
    producer_headers = [("order_id", NASTY.encode()), ("mode", b"shadow")]
    _send_with_headers(shop, real.partition(), json.dumps(other).encode(), producer_headers)

    (told,) = explained(NASTY)
    assert told["decision"] == made[NASTY]
    assert told["decided_again"] == {"equal": True, "difference": None}
    assert told["order"]["content"]["order_id"] == NASTY
    assert [each["name"] for each in told["nodes"]] == ["starter"]
    assert told["nodes"][0]["p_fraud"] == made[NASTY]["p_fraud"]
    features = {each["feature"]: each for each in told["features"]}
    assert {name: each["value"] for name, each in features.items()} == made[NASTY]["features"]
    counted = features["orders_count_30d"]
    assert (counted["unit"], counted["value_now"], counted["more_orders"]) == ("orders", 6.0, 1)
    assert [each["order_id"] for each in counted["orders"]] == ["o28", "o23", "o18", "o13", "o8"]
    unknown = [each for each in features.values() if each["value"] is None]
    assert unknown
    assert all(each["missing"] for each in unknown)
    assert [each["code"] for each in told["reasons"]] == [each["code"] for each in made[NASTY]["reasons"]]
    (became,) = told["became"]
    assert (became["kind"], became["was_known_when_decided"]) == ("chargeback", False)
    (shadow,) = told["shadow"]
    assert shadow["decision"]["model"]["name"] == "challenger"
    assert told["latency_ms"] >= 0

    (exact,) = explained(NASTY, "--shap")
    assert exact["shapley_against_orders"] == 20
    assert {each["feature"] for each in exact["features"] if "shapley" in each} == set(features)
    assert {each["shapley"] != 0.0 for each in exact["features"] if each["feature"] == "amount"} == {True}

    first, again = explained("o28")
    assert again["decision"]["repeat_of"] == first["decision"]["decision_id"]
    assert [each["was_known_when_decided"] for each in (*first["became"], *again["became"])] == [False, True]

    person = CliRunner().invoke(app, ["explain", NASTY]).stdout
    assert "\u202e" not in person
    assert "equal, byte for byte" in person
    assert "challenger@2026-02-02.00000000" in person

    page = _page(NASTY, tmp_path / "page.html")
    assert NASTY.replace("\u202e", "\\u202e") in page.text
    assert page.text.replace("\n", "").isprintable()
    assert not page.tags & {"img", "script", "link", "iframe"}

    _archived(shop, tmp_path / "archive")
    (from_archive,) = explained(NASTY, "--archive", str(tmp_path / "archive"))
    assert from_archive == told


def test_an_order_that_was_not_scored_is_told_all_the_same(shop: Settings, tmp_path: Path) -> None:
    unreadable = json.dumps({"order_id": "bad", "customer_id": "c1", "amount": -1}).encode()
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [*orders(3), (b"c1", unreadable)])
        decisions(shop, 4)
        worker.stop()
    shutil.rmtree(shop.home / "models")

    (rejected,) = explained("bad")
    (without_model,) = explained("o2")
    refused = CliRunner().invoke(app, ["explain", "nobody"])

    assert (rejected["order"]["content"], rejected["features"]) == (None, [])
    assert rejected["decision"]["action"] == "review"
    assert rejected["reasons"][0]["customer"] == "We need a little more time to check this order"
    assert without_model["nodes"] == []
    assert without_model["decided_again"]["difference"]["cause"] == "model_unknown"
    assert "is not in" in without_model["said"][0]
    assert {each["unit"] for each in without_model["features"]} >= {"orders"}
    assert refused.exit_code == 1
    assert refused.stderr.startswith("fraudstream: no order 'nobody' is in ")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def _page(order_id: str, file: Path) -> _Text:
    result = CliRunner().invoke(app, ["explain", order_id, "--html", str(file)])
    assert result.exit_code == 0, result.output
    text = _Text()
    text.feed(file.read_text(encoding="utf-8"))
    return text


def _send_with_headers(
    shop: Settings, partition: int, value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    producer = Producer(shop.confluent())
    producer.produce(shop.topics.decisions_shadow, value, b"c3", partition, headers=headers)
    assert producer.flush(30) == 0


def _archived(shop: Settings, place: Path) -> None:
    result = CliRunner().invoke(app, ["archive", "run", "--at", str(place), "--once"])
    assert result.exit_code == 0, result.output
