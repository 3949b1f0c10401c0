import json
import time
from collections.abc import Sequence

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from stream import topics
from stream.publish import RefusedLine, publish
from stream.settings import Settings
from stream.topics import TopicError


def test_an_order_travels_unchanged_under_its_customers_key(settings: Settings) -> None:
    topics.create(settings)
    lines = [b'{"order_id": "o1", "customer_id": "c1", "note": "\xc3\xa9"}\n', b'{"order_id":"o2"}\n', b"\n"]

    result = publish(settings, lines)

    assert (result.sent, result.refused) == (2, 0)
    records = _read(settings, 2)
    assert {(r.key(), r.value()) for r in records} == {
        (b"c1", lines[0].strip()),
        (b"o2", b'{"order_id":"o2"}'),  # a guest has only the order itself
    }
    assert all(r.headers() is None for r in records)


def test_history_is_marked_in_a_header(settings: Settings) -> None:
    topics.create(settings)

    publish(settings, [b'{"order_id":"o1"}'], history=True)

    assert _read(settings, 1)[0].headers() == [("mode", b"history")]


def test_history_says_when_it_would_have_arrived(settings: Settings) -> None:
    topics.create(settings)
    order = b'{"order_id":"o1","placed_at":"2018-07-25T02:00:00+02:00"}'
    unread = b'{"order_id":"o2","placed_at":"yesterday"}'

    publish(settings, [order, unread], history=True)

    said = {each.value(): dict(each.headers() or ()) for each in _read(settings, 2)}
    assert said[order] == {"mode": b"history", "arrived_at": b"1532476800000"}
    assert said[unread] == {"mode": b"history"}


def test_one_customers_orders_share_the_partition_that_murmur2_gives(settings: Settings) -> None:
    from aiokafka.partitioner import murmur2  # noqa: PLC0415 - Faust's own partitioner, as the oracle

    topics.create(settings)
    lines = [json.dumps({"order_id": f"o{n}", "customer_id": f"c{n % 7}"}).encode() for n in range(70)]

    publish(settings, lines)

    for record in _read(settings, 70):
        assert record.partition() == (murmur2(record.key()) & 0x7FFFFFFF) % settings.partitions


def test_lines_that_cannot_arrive_are_refused_by_number_and_the_rest_is_sent(settings: Settings) -> None:
    topics.create(settings)
    huge = json.dumps({"order_id": "o2", "note": "x" * 1_200_000}).encode()
    lines = [b'{"order_id":"o1"}', huge, b'{"customer_id":"c1"}', b"not json", b'{"order_id":"o5"}']
    refused: list[RefusedLine] = []

    result = publish(settings, lines, refused=refused.append)

    assert (result.sent, result.refused) == (2, 3)
    assert [each.line for each in refused] == [2, 3, 4]
    assert "larger than the 1,048,576 bytes that are taken" in refused[0].reason
    assert "order_id" in refused[1].reason
    assert "xxx" not in str(refused[0])


def test_a_rate_is_kept(settings: Settings) -> None:
    topics.create(settings)
    lines = [json.dumps({"order_id": f"o{n}"}).encode() for n in range(50)]

    began = time.monotonic()
    publish(settings, lines, rate=100)

    assert time.monotonic() - began > 0.45


def test_publishing_without_topics_names_the_command_that_makes_them(settings: Settings) -> None:
    with pytest.raises(TopicError, match=r"does not exist on .*; run 'fraudstream topics create'"):
        publish(settings, [b'{"order_id":"o1"}'])


def _read(settings: Settings, count: int) -> Sequence[Message]:
    consumer = Consumer(settings.confluent(group_id="reader", enable_auto_commit=False))
    consumer.assign([TopicPartition(settings.topics.orders, p, 0) for p in range(settings.partitions)])
    records: list[Message] = []
    deadline = time.monotonic() + 10
    while len(records) < count and time.monotonic() < deadline:
        records += [record for record in consumer.consume(count, 0.5) if record.error() is None]
    consumer.close()
    assert len(records) == count
    return records
