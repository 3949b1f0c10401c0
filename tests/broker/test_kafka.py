"""The transactional producer and the repair, on a real broker."""

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.kafka import LARGEST_PRODUCED, KafkaCluster, _Producer
from stream.ports import Aborted, Assignment, Committed, OutcomeUnknown, Produce, Refused, Unreachable
from stream.repair import repair_offsets
from stream.settings import Settings
from stream.writer import POSITION_KEY, Rebuilding, encode_position


@pytest.fixture
def cluster(settings: Settings) -> Iterator[KafkaCluster]:
    topics.create(settings)
    made = KafkaCluster(settings)
    yield made
    made.close()


def test_an_order_that_came_in_compressed_goes_out_again_however_large(
    cluster: KafkaCluster, settings: Settings
) -> None:
    value = json.dumps({"order_id": "big", "items": ["the same again"] * 600_000}).encode()
    assert len(value) > 8 * 1024 * 1024
    shop = Producer(
        {**settings.confluent(), "compression.type": "zstd", "message.max.bytes": 64 * 1024 * 1024}
    )
    shop.produce(settings.topics.orders, value, b"c1", 0)
    assert shop.flush(20) == 0
    assert cluster.high((settings.topics.orders, 0)) == 1, "the topic took it"

    producer = cluster.producer("w1")
    producer.begin()
    producer.produce(Produce(settings.topics.rejected, 0, b"c1", value))
    delivered = producer.flush()
    producer.commit()
    producer.close()

    assert delivered == {(settings.topics.rejected, 0): 0}


def test_more_rows_than_the_producer_can_hold_are_each_written_once(
    cluster: KafkaCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _Producer._config
    monkeypatch.setattr(
        _Producer, "_config", lambda *about: {**config(*about), "queue.buffering.max.messages": 50}
    )
    rows = {b"c%d" % number: None if number % 7 == 0 else b"row %d" % number for number in range(1_000)}

    producer = cluster.producer("w1")
    producer.begin()
    producer.produce_rows(settings.topics.changelog, 0, rows)
    delivered = producer.flush()
    producer.commit()
    producer.close()

    tp = (settings.topics.changelog, 0)
    assert delivered == {tp: 999}
    read = [record for chunk in cluster.read(tp, 0, cluster.high(tp)) for record in chunk]
    assert {record.key: record.value for record in read} == rows
    assert len(read) == 1_000


def test_a_row_that_no_record_can_hold_aborts_the_transaction(
    cluster: KafkaCluster, settings: Settings
) -> None:
    producer = cluster.producer("w1")
    producer.begin()
    with pytest.raises(Aborted, match="size too large"):
        producer.produce_rows(
            settings.topics.changelog, 0, {b"c1": b"row", b"c2": bytes(LARGEST_PRODUCED + 1), b"c3": b"row"}
        )
    producer.abort()
    producer.close()


def test_workers_of_one_name_in_two_groups_do_not_fence_each_other(
    cluster: KafkaCluster, settings: Settings
) -> None:
    other = KafkaCluster(settings.model_copy(update={"group": settings.group + "-other"}))
    first, second = cluster.producer("w1"), other.producer("w1")

    for producer in (first, second):
        producer.begin()
        producer.produce(Produce(settings.topics.decisions, 0, b"k", b"v"))
        producer.flush()
        producer.commit()
        producer.close()
    other.close()


def test_a_producer_that_cannot_be_made_is_refused_and_leaves_nothing_running(
    cluster: KafkaCluster, settings: Settings
) -> None:
    # beyond transaction.max.timeout.ms of the brokers
    wrong = KafkaCluster(settings.model_copy(update={"transaction_s": 1_000.0}))
    gc.collect()
    gc.disable()
    try:
        before = _native_threads()
        with pytest.raises(Refused, match="INVALID_TRANSACTION_TIMEOUT"):
            wrong.producer("w1")
        assert _native_threads() <= before + 1, "librdkafka's own threads ended with their producer"
    finally:
        gc.enable()
    wrong.close()


def _native_threads() -> int:
    import psutil  # noqa: PLC0415

    assert threading.active_count()
    return int(psutil.Process().num_threads())


def _decided_up_to(settings: Settings, offset: int, *, rebuilding: Rebuilding | None = None) -> None:
    changelog = Producer(settings.confluent())
    position = encode_position({settings.topics.orders: offset}, rebuilding=rebuilding)
    changelog.produce(settings.topics.changelog, position, POSITION_KEY, 0)
    assert changelog.flush(20) == 0


def test_offsets_are_repaired_from_the_changelogs_position(cluster: KafkaCluster, settings: Settings) -> None:
    shop = Producer(settings.confluent())
    for _ in range(5):
        shop.produce(settings.topics.orders, b"{}", b"c1", 0)
    assert shop.flush(20) == 0
    _decided_up_to(settings, 5)

    assert repair_offsets(settings) == {(settings.topics.orders, 0): 5}

    tp = (settings.topics.orders, 0)
    committed = cluster.committed([tp], stable=True)[tp]
    assert committed is not None
    assert committed.offset == 5


def test_offsets_an_input_does_not_have_are_not_committed(cluster: KafkaCluster, settings: Settings) -> None:
    _decided_up_to(settings, 500)  # of an orders topic that was deleted and made again

    with pytest.raises(Refused, match=r"decided up to offset 500, but that has 0 to 0"):
        repair_offsets(settings)

    tp = (settings.topics.orders, 0)
    assert cluster.committed([tp], stable=True) == {tp: None}


def test_offsets_are_not_repaired_from_rows_that_no_worker_has_taken_over(
    cluster: KafkaCluster, settings: Settings
) -> None:
    shop = Producer(settings.confluent())
    for _ in range(5):
        shop.produce(settings.topics.orders, b"{}", b"c1", 0)
    assert shop.flush(20) == 0
    # workers have gone on with the changelog of before, and only that knows how far
    _decided_up_to(settings, 3, rebuilding=Rebuilding("the changelog of before", 7, 1))

    with pytest.raises(Refused, match="made anew and no worker has gone on with it"):
        repair_offsets(settings)

    tp = (settings.topics.orders, 0)
    assert cluster.committed([tp], stable=True) == {tp: None}


@pytest.mark.broker
def test_offsets_are_known_again_as_soon_as_a_broker_is_back(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker", ports=free_ports(1), tied=True) as broker:
        settings = Settings(broker=broker.bootstrap, home=tmp_path / "home", partitions=1)
        topics.create(settings)
        cluster = KafkaCluster(settings)
        assert _once_it_answers(lambda: cluster.high(("orders", 0))) == 0

        broker.stop()
        broker.start()

        # the restart made a new leader epoch, which the client learns only when it asks who leads; left
        # alone, it is told off for minutes
        assert _once_it_answers(lambda: cluster.high(("orders", 0))) == 0
        assert cluster.low(("orders", 0)) == 0
        cluster.close()


def _once_it_answers(ask: Callable[[], int]) -> int:
    deadline = time.monotonic() + 20
    while True:
        try:
            return ask()
        except Unreachable:
            assert time.monotonic() < deadline, "the broker has long been back"
            time.sleep(0.2)


@pytest.mark.broker
def test_a_producer_whose_broker_went_away_is_to_be_replaced_and_the_next_one_commits(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker", ports=free_ports(1), tied=True) as broker:
        settings = Settings(broker=broker.bootstrap, home=tmp_path / "home", partitions=1)
        topics.create(settings)
        cluster = KafkaCluster(settings)
        nobody = Assignment(-1, "", frozenset({0}))  # as a group without members is committed to
        producer = cluster.producer("w1")
        producer.begin()
        producer.send_offsets({("orders", 0): Committed(0)}, nobody)
        producer.commit()

        broker.kill_node(1)
        broker.start_node(1)

        producer.begin()
        # it may know a coordinator that is no more, and would wait for it past every timeout
        with pytest.raises(OutcomeUnknown, match="a broker was lost"):
            producer.send_offsets({("orders", 0): Committed(1)}, nobody)
        producer.close()
        after = cluster.producer("w1")
        after.begin()
        after.send_offsets({("orders", 0): Committed(2)}, nobody)
        after.commit()
        assert cluster.committed([("orders", 0)], stable=True) == {("orders", 0): Committed(2)}
        after.close()
        cluster.close()
