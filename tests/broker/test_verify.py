"""Decisions of real workers decided again, from the topics of a real broker."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stream import topics
from stream.cli import app
from stream.control import LIVE, OBSERVE, change
from stream.deciding import Deciding
from stream.publish import publish
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, read, send


@pytest.fixture
def shop(settings: Settings, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shop with its topics and a model, and its settings in the environment."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    made = settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0})
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def run(*arguments: str, exit_code: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def changed(number: int, **fields: Any) -> tuple[bytes, bytes]:
    """An order of `orders` with other fields."""
    _, value = orders(1, first=number)[0]
    content = json.loads(value) | fields
    content = {name: each for name, each in content.items() if each is not None}
    return str(content.get("customer_id") or content["order_id"]).encode(), json.dumps(content).encode()


def all_kinds() -> Iterator[tuple[bytes, bytes]]:
    """Forty orders, resends, revisions, guests, a test order, and what can't be read."""
    yield from orders(40)
    yield from orders(5)
    yield changed(7, revision=1, amount=99)
    yield changed(8, revision=1, customer_id="c3")
    yield changed(9, amount=5)
    for number in range(100, 104):
        yield changed(number, customer_id=None)
    yield changed(110, test=True)
    yield changed(111, amount=-1)
    yield b"c0", b"no json"


def test_what_a_killed_worker_and_its_next_decided_is_decided_again_byte_for_byte(
    shop: Settings, tmp_path: Path
) -> None:
    publish(shop, [value for _, value in orders(60, first=200)], history=True)
    kinds = list(all_kinds())
    decided = len(kinds) - 1  # nobody can be told of what names no order
    with Worker(shop, tmp_path / "one") as worker:
        send(shop, kinds)
        decisions(shop, decided)
        send(shop, orders(2_000, first=300))
        decisions(shop, decided + 50)
        worker.kill()
    with Worker(shop, tmp_path / "two") as worker:
        decisions(shop, decided + 2_000, within_s=60)
        change(shop, OBSERVE, who="anna", why="a test")
        in_force(worker, "1 on: not paused, observing")
        send(shop, [*orders(3, first=300), *orders(50, first=3_000)])
        read(shop, shop.topics.decisions_shadow, 53)
        change(shop, LIVE, who="anna", why="a test")
        in_force(worker, "2 on: not paused, live")
        send(shop, [*orders(3, first=300), *orders(50, first=3_000)])
        decisions(shop, decided + 2_053)
        assert worker.stop() == 0, worker.said()

    for processes in ("1", "2"):
        (found,) = run("verify", "--processes", processes)
        assert (found["equal"], found["compared"]) == (decided + 2_106, decided + 2_106)
        assert (found["orders"], found["undecided"]) == (60 + len(kinds) + 2_106, 0)
        assert found["notes"] == []
    (outside,) = run("verify", "--to", "2020-01-01", "--processes", "1")
    assert (outside["compared"], outside["orders"]) == (0, found["orders"])
    person = CliRunner().invoke(app, ["verify"]).stdout.splitlines()
    assert person[-1] == f"{decided + 2_106:,} of {decided + 2_106:,} decisions equal"


def test_an_order_is_decided_again_and_shown_beside_what_was_decided(shop: Settings, tmp_path: Path) -> None:
    publish(shop, [value for _, value in orders(20, first=200)], history=True)
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, all_kinds())
        told = {each["order_id"]: each for each in decisions(shop, 54) if not each["repeat_of"]}
        worker.stop()
    send(shop, [changed(500)])

    first, again = run("replay", "decision", "o3")
    (history,) = run("replay", "decision", "o205")
    older, newer = run("replay", "decision", "o8")
    undecided = CliRunner().invoke(app, ["replay", "decision", "o500"])
    unknown = CliRunner().invoke(app, ["replay", "decision", "o501"])
    person = CliRunner().invoke(app, ["replay", "decision", "o3"]).stdout.splitlines()

    assert first["recorded"] == first["recomputed"] == told["o3"]
    assert (first["equal"], again["equal"], older["equal"], newer["equal"]) == (True,) * 4
    assert again["recomputed"]["repeat_of"] == told["o3"]["decision_id"]
    assert newer["recomputed"]["supersedes"] == older["recomputed"]["decision_id"]
    assert (history["decision"], history["difference"]) == (None, None)
    assert history["said"] == "it is history (mode=history): remembered, and never decided"
    assert undecided.exit_code == unknown.exit_code == 1
    assert "is not decided yet" in undecided.stderr
    assert unknown.stderr.startswith("fraudstream: no order 'o501' is in ")
    assert person[-1].startswith("equal, byte for byte (")
    assert any(line.split()[0] == "features.orders_count_30d" for line in person)


def test_a_decision_that_somebody_added_is_found_and_listed_with_its_cause(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(40))
        (first, *_) = read(shop, shop.topics.decisions, 40)
        worker.stop()
    again = [(first.key(), first.value())] * 3
    send(shop, again, topic=shop.topics.decisions, partition=first.partition())

    *listed, found = run("verify", "--most", "2", "--processes", "1", exit_code=1)
    person = CliRunner().invoke(app, ["verify", "--partition", str(first.partition())])

    assert dict(first.headers() or ())["settings"] == Deciding.of(shop).encode()
    assert [each["cause"] for each in listed] == ["repeated"] * 2
    assert (found["causes"], found["equal"]) == ({"repeated": 3}, 40)
    assert person.exit_code == 1
    assert "        3 repeated" in person.stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "--partition", "7"], "there is no partition 7 of "),
        (["verify", "--archive", "nowhere"], ""),
        (["replay", "decision", "o1"], "no order 'o1' is in "),
    ],
)
def test_what_cannot_be_verified_is_refused_in_one_line(
    shop: Settings, arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"fraudstream: {said}")
    assert result.stderr.count("\n") == 1


def test_what_a_process_of_its_own_refuses_is_told_in_one_line(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", "nowhere:FEATURES")

    result = CliRunner().invoke(app, ["verify", "--processes", "2"])

    assert result.exit_code == 1
    assert result.stderr.startswith("fraudstream: setting features: nowhere:FEATURES: there is no module")
    assert result.stderr.count("\n") == 1


def in_force(worker: Worker, words: str) -> None:
    """Wait until the worker has said so."""
    deadline = time.monotonic() + 30
    while f"in force from control offset {words}" not in worker.said():
        assert time.monotonic() < deadline, worker.said()
        time.sleep(0.05)
