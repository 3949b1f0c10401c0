"""Orders and what became of them, through the stages of two entities, by two workers on a real broker."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

from features.catalogue import by_names
from features.events import Order, Outcome
from features.plan import Plan
from features.replay import Replay
from models.registry import Registry
from models.train import train
from stream import topics
from stream.cli import app
from stream.settings import Settings
from tests.running import Worker, decisions, environment, read, send
from tests.strategies import as_json

START = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = by_names(
    [
        "amount",
        "orders_count_30d",
        "by_device_orders_count_1h",
        "by_device_customer_distinct_30d",
        "by_device_fraud_count_90d_known_after_7d",
        "by_merchant_fraud_share_7d_known_after_7d",
    ]
)
ROUNDS, AT_ONCE = 5, 12


def an_order(number: int) -> Order:
    """In one round no two orders share a device or a merchant, so that nothing hangs on who comes first."""
    turn, within = divmod(number, AT_ONCE)
    return Order(
        order_id=f"o{number}",
        customer_id=f"c{within % 5}",
        device_id=f"d{(within + turn) % AT_ONCE}",
        merchant_id=f"m{(within * 5 + turn) % AT_ONCE}" if within else None,
        placed_at=START + timedelta(days=8 * turn, minutes=number),
        amount=1000 + number,
        currency="EUR",
    )


def an_outcome(order: Order) -> Outcome:
    known_at = order.placed_at + timedelta(seconds=30)
    return Outcome(
        order_id=order.order_id,
        customer_id=order.customer_id,
        kind="chargeback",
        is_fraud=True,
        occurred_at=known_at,
        known_at=known_at,
    )


@pytest.fixture
def shop(settings: Settings) -> Settings:
    """Two entities, every topic, and a model that asks them."""
    made = settings.model_copy(
        update={"entities": ("device", "merchant"), "session_s": 6.0, "transaction_s": 5.0}
    )
    topics.create(made)
    examples: list[Any] = []
    for number in range(300):
        examples.append((an_order(number), number % 3 == 0))
        if number % 3 == 0:
            examples.append(an_outcome(an_order(number)))
    trained = train(
        examples,
        name="starter",
        predictor="logistic_regression",
        row_limit=512,
        trained_at=date(2026, 2, 1),
        features=ASKED,
        entities=made.entities,
    )
    published = Registry(made.home / "models", entities=made.entities)
    published.publish(trained)
    published.promote("starter", trained.version)
    return made


def test_orders_through_two_stages_by_two_workers_have_the_features_of_a_replay(
    shop: Settings, tmp_path: Path
) -> None:
    past = Replay(Plan(ASKED), row_limit=512, entities=("customer", *shop.entities))
    expected: dict[str, Sequence[float | None]] = {}
    last_stage = shop.stages["merchant"]
    other = shop.model_copy(update={"worker": "w2", "home": shop.home})
    with Worker(shop, tmp_path / "log") as worker, Worker(other, tmp_path / "log2") as second:
        passed = 0
        decided: list[Any] = []
        for turn in range(ROUNDS):
            orders = [an_order(turn * AT_ONCE + n) for n in range(AT_ONCE)]
            send(shop, [(order.key.encode(), as_json(order)) for order in orders])
            for order in orders:
                vector = past.follow(order)
                assert isinstance(vector, tuple)
                expected[order.order_id] = vector
            decided = decisions(shop, len(expected), within_s=120.0)
            frauds = [order for order in orders[::4] if order.merchant_id is not None]
            told = [(order.key.encode(), an_outcome(order).model_dump_json().encode()) for order in frauds]
            send(shop, told, topic=shop.topics.outcomes)
            for order in frauds:
                past.follow(an_outcome(order))
            passed += len(orders) + len(frauds)
            # once it lies before the next round's orders in every log it passes, they are decided with it
            read(shop, last_stage, passed, within_s=60.0)
        assert worker.stop() == 0, worker.said()
        assert second.stop() == 0, second.said()

    assert Counter(each["order_id"] for each in decided) == Counter(list(expected))
    names = [each.name for each in ASKED]
    assert {each["order_id"]: tuple(each["features"][name] for name in names) for each in decided} == expected
    assert any(each["features"]["by_device_fraud_count_90d_known_after_7d"] for each in decided), (
        "nothing was learned of any device"
    )


def some_of(number: int) -> tuple[list[Order], list[Outcome]]:
    """Four orders of few customers, devices and merchants; one is resent or revised, one was fraud."""
    orders = [
        Order(
            order_id=f"o{number}-{n}",
            customer_id=f"c{(number + n) % 9}" if n else None,
            device_id=f"d{number * n % 7}",
            merchant_id=f"m{(number + n) % 3}" if n != 2 else None,
            placed_at=START + timedelta(hours=number, minutes=n),
            amount=1000 + number,
            currency="EUR",
        )
        for n in range(4)
    ]
    last = orders[3]
    again = last if number % 2 else last.model_copy(update={"revision": 1, "device_id": f"d{number % 7}"})
    return [*orders, again], [an_outcome(orders[1])] if number % 3 == 0 else []


def publish_some(shop: Settings, begin: int, end: int) -> None:
    for number in range(begin, end):
        orders, outcomes = some_of(number)
        send(shop, [(each.key.encode(), as_json(each)) for each in orders])
        if outcomes:
            told = [((each.customer_id or "").encode(), each.model_dump_json().encode()) for each in outcomes]
            send(shop, told, topic=shop.topics.outcomes)


def run(*arguments: str, exit_code: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_two_workers_decided_on_the_road_with_kills_is_decided_again_byte_for_byte(
    shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)
    turns, orders_a_turn = 60, 5
    decided = turns * orders_a_turn
    other = shop.model_copy(update={"worker": "w2"})
    with Worker(shop, tmp_path / "log") as worker:
        publish_some(shop, 0, 20)
        decisions(shop, 30, within_s=60.0)
        with Worker(other, tmp_path / "log2") as second:
            publish_some(shop, 20, 40)
            decisions(shop, 130, within_s=60.0)
            second.kill()
        with Worker(other, tmp_path / "log3"):
            publish_some(shop, 40, turns)
            decisions(shop, decided - 60, within_s=90.0)
            worker.kill()
            made = read(shop, shop.topics.decisions, decided, within_s=90.0)

    (found,) = run("verify")
    assert (found["equal"], found["compared"], found["undecided"]) == (decided, decided, 0)
    assert found["messages"] > 2 * decided - 60
    place = str(tmp_path / "archive")
    run("archive", "run", "--at", place)
    (archived,) = run("verify", "--archive", place)
    assert {**archived, "seconds": 0} == {**found, "seconds": 0}

    first, again = run("replay", "decision", "o7-3")
    assert (first["equal"], again["equal"]) == (True, True)
    assert first["recorded"]["features"]["by_device_orders_count_1h"] is not None
    assert again["recomputed"]["repeat_of"] == first["recorded"]["decision_id"]
    newest = {
        each["order_id"]: each for each in map(told_in, made) if each["revision"] or not each["repeat_of"]
    }
    for order_id in ("o7-3", "o8-3", "o20-0", "o33-1", "o46-2", "o59-3"):
        about, *features = run("features", "explain", order_id)
        features = {each["feature"]: each["value"] for each in features}
        assert features == newest[order_id]["features"]
        assert about["not_explained"] == []
    _, *features = run("features", "explain", "o59-3", "--feature", "by_device_customer_distinct_30d")
    assert features[0]["orders"], "a device of a seventh of all orders had none"
    told, _ = run("explain", "o7-3")
    assert (told["order"]["content"]["device_id"], told["decided_again"]["equal"]) == ("d0", True)
    assert told["history"]["entities"]["device"]["id"] == "d0"
    assert all(each["value_now"] == each["value"] for each in told["features"])
    (from_archive, _) = run("explain", "o7-3", "--archive", place)
    assert from_archive == told

    tampered = shop.model_copy(
        update={"topics": shop.topics.model_copy(update={"decisions": shop.topics.decisions + "-tampered"})}
    )
    topics.create(tampered)
    copy_with_one_changed(tampered, made)
    monkeypatch.setenv("FRAUDSTREAM_TOPICS__DECISIONS", tampered.topics.decisions)
    difference, found = run("verify", exit_code=1)
    assert (found["causes"], found["equal"]) == ({"changed": 1}, decided - 1)
    assert [each["path"] for each in difference["fields"]] == ["action"]


def told_in(made: Message) -> Any:
    return json.loads(made.value() or b"")


def copy_with_one_changed(settings: Settings, made: Sequence[Message]) -> None:
    producer = Producer({**settings.confluent(), "linger.ms": 1})
    for number, each in enumerate(made):
        value = each.value() or b""
        if number == len(made) // 2:
            value = json.dumps(json.loads(value) | {"action": "challenge"}, separators=(",", ":")).encode()
        producer.produce(
            settings.topics.decisions, value, each.key(), each.partition(), headers=each.headers()
        )
        producer.poll(0)
    assert producer.flush(30) == 0


def test_a_worker_without_an_entity_in_whose_stage_orders_wait_refuses_to_leave_them(
    settings: Settings, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = settings.model_copy(update={"entities": ("device", "merchant"), "session_s": 6.0})
    topics.create(both)
    shutil.copytree(registry, both.home / "models")
    with Worker(both, tmp_path / "log") as worker:
        send(both, [(order.key.encode(), as_json(order)) for order in map(an_order, range(30))])
        decisions(both, 30)
        assert worker.stop() == 0, worker.said()
    fewer = both.model_copy(update={"entities": ("device",)})
    with Worker(fewer, tmp_path / "fewer") as worker:
        send(both, [(order.key.encode(), as_json(order)) for order in map(an_order, range(30, 40))])
        decisions(both, 40)
        assert worker.stop() == 0, worker.said()
    stage = both.stages["merchant"]
    (first, *_) = read(both, stage, 30)
    # as if the worker had been stopped before it took it
    send(both, [(first.key(), first.value())], topic=stage, partition=first.partition())

    for entities in ((), ("device",)):
        without = both.model_copy(update={"entities": entities})
        with Worker(without, tmp_path / f"without{len(entities)}") as worker:
            assert worker.ends(30.0) == 1
            said = worker.said()
        assert f"wait in '{stage}' and merchant is not among the entities ('{','.join(entities)}')" in said
        assert "Traceback" not in said
    for name, value in environment(fewer).items():
        monkeypatch.setenv(name, value)
    findings = run("doctor", exit_code=1)
    assert any(f"wait in '{stage}'" in json.dumps(each) for each in findings)

    with Worker(both, tmp_path / "again") as worker:
        decisions(both, 41)
        assert worker.stop() == 0, worker.said()
    with Worker(fewer, tmp_path / "after") as worker:
        send(both, [(order.key.encode(), as_json(order)) for order in map(an_order, range(40, 45))])
        decisions(both, 46)
        assert worker.stop() == 0, worker.said()
