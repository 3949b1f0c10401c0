"""Orders and what became of them, through the stages of two entities, by two workers on a real broker."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from typer.testing import CliRunner

from features.catalogue import by_names
from features.events import Order, OrderEvent, Outcome, microseconds
from features.plan import Plan
from features.replay import Replay
from models.registry import Registry
from models.train import train
from stream import topics
from stream.cli import app
from stream.merge import ARRIVED_AT
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


Event = Order | OrderEvent | Outcome


def happening() -> list[tuple[datetime, Event]]:
    """Orders of few customers, devices and merchants for three weeks, and among them, when it became known,
    what became of those before: every second was fraud, and of half of these it is taken back later.
    """
    told: list[tuple[datetime, Event]] = []
    for number in range(60):
        order = Order(
            order_id=f"o{number}",
            customer_id=f"c{number % 7}" if number % 9 else None,
            device_id=f"d{number % 5}",
            merchant_id=f"m{number % 3}",
            placed_at=START + timedelta(hours=8 * number),
            amount=1000 + number,
            currency="EUR",
        )
        told.append((order.placed_at, order))
        if number % 2:
            frauds = [an_outcome(order).model_copy(update={"outcome_id": "first"})]
            if number % 4 == 1:
                known_at = order.placed_at + timedelta(days=10, minutes=1)
                later = {"is_fraud": False, "kind": "reversal", "known_at": known_at}
                frauds.append(
                    frauds[0].model_copy(update={**later, "outcome_id": "second", "supersedes": "first"})
                )
            told += [(each.known_at, each) for each in frauds]
        elif number % 4:
            refund = OrderEvent(
                order_id=order.order_id,
                customer_id=order.customer_id,
                kind="refunded",
                amount=10,
                currency="EUR",
                occurred_at=order.placed_at,
                known_at=order.placed_at + timedelta(hours=30, minutes=2),
            )
            told.append((refund.known_at, refund))
    return sorted(told, key=lambda each: each[0])


def publish(shop: Settings, told: Sequence[tuple[datetime, Event]], *, with_arrival: bool) -> None:
    """Each to its topic; with when it arrived, or else one after the other in milliseconds of their own."""
    producer = Producer({**shop.confluent(), "partitioner": "murmur2_random", "linger.ms": 1})
    of = {Order: shop.topics.orders, Outcome: shop.topics.outcomes, OrderEvent: shop.topics.order_events}
    for at, event in told:
        value = as_json(event) if isinstance(event, Order) else event.model_dump_json().encode()
        headers = [(ARRIVED_AT, str(microseconds(at) // 1_000).encode())] if with_arrival else []
        producer.produce(
            of[type(event)], value, (event.customer_id or event.order_id).encode(), headers=headers
        )
        if not with_arrival:
            assert producer.flush(30) == 0
            time.sleep(0.002)
    assert producer.flush(30) == 0


def committed(shop: Settings, *named: str) -> Iterator[int]:
    """How many records of these topics are there for a reader by now, each time it is asked."""
    consumer = Consumer(
        {
            **shop.confluent(),
            "group.id": "counter",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 5,
        }
    )
    consumer.assign([TopicPartition(topic, n, 0) for topic in named for n in range(shop.partitions)])
    found = 0
    with closing(consumer):
        while True:
            found += sum(1 for message in consumer.consume(100, 0.05) if message.error() is None)
            yield found


def live(shop: Settings, told: Sequence[tuple[datetime, Event]]) -> None:
    """Each event happens once the one before has come all its way."""
    # an order is told to its last stage and then decided, of what becomes of it only the stage is told
    with closing(committed(shop, shop.stages["merchant"], shop.topics.decisions)) as counts:
        wanted = 0
        for one in told:
            publish(shop, [one], with_arrival=False)
            wanted += 2 if isinstance(one[1], Order) else 1
            deadline = time.monotonic() + 60.0
            while next(counts) < wanted:
                assert time.monotonic() < deadline, f"{one} has not come all its way"


def features_of(shop: Settings, count: int) -> dict[str, Mapping[str, float | None]]:
    """What the decisions say of their orders."""
    made = decisions(shop, count, within_s=120.0)
    found = {each["order_id"]: each["features"] for each in made}
    assert len(made) == len(found) == count
    return found


def replayed(told: Sequence[tuple[datetime, Event]]) -> dict[str, Mapping[str, float | None]]:
    """The features of each order when all of it is taken in this order."""
    past = Replay(Plan(ASKED), row_limit=512, entities=("customer", "device", "merchant"))
    found = [(event, past.follow(event)) for _, event in told]
    names = [each.name for each in ASKED]
    return {
        event.order_id: dict(zip(names, vector, strict=True))
        for event, vector in found
        if isinstance(event, Order) and isinstance(vector, tuple)
    }


def test_orders_and_outcomes_published_as_one_backlog_have_the_features_they_have_live(
    shop: Settings, tmp_path: Path
) -> None:
    told = happening()
    orders = [each for each in told if isinstance(each[1], Order)]
    others = [each for each in told if not isinstance(each[1], Order)]
    expected = replayed(told)
    assert replayed([*orders, *others]) != expected, "it makes no difference when outcomes are heard of"
    assert replayed([*others, *orders]) == expected, "what is not known yet counts, once it is told"

    found = {}
    for number, way in enumerate(("live", "as it happened", "topic by topic")):
        prefix = f"{shop.group}-{number}-"
        # few records at once, so that inputs have to wait for one another
        one = shop.model_copy(
            update={
                "topics": shop.topics.model_validate({"prefix": prefix}),
                "group": prefix + "group",
                "worker": prefix + "worker",
                "home": tmp_path / way,
                "batch_records": 7,
            }
        )
        topics.create(one)
        shutil.copytree(shop.home / "models", one.home / "models")
        if way == "as it happened":
            publish(one, told, with_arrival=False)
        elif way == "topic by topic":
            publish(one, [*orders, *others], with_arrival=True)
        with Worker(one, tmp_path / f"{number}.log") as worker:
            if way == "live":
                live(one, told)
            found[way] = features_of(one, len(orders))
            assert worker.stop() == 0, worker.said()

    assert found["live"] == expected
    assert found["as it happened"] == expected
    assert found["topic by topic"] == expected


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
