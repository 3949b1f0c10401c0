"""The worker on a real broker, as its users run it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from stream import topics
from stream.desk import customer_key, partition_of
from stream.ports import Refused
from stream.repair import repair_offsets
from stream.settings import Settings
from stream.writer import POSITION_KEY
from tests.running import Worker, decisions, orders, read, send


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with every topic made and a model to decide with."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    return settings.model_copy(update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0})


def test_every_order_is_decided_once_and_a_stopped_worker_goes_on_where_it_was(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(100))
        decisions(shop, 100)
        assert worker.stop() == 0, worker.said()
    send(shop, orders(100, first=100))
    with Worker(shop, tmp_path / "log") as worker:
        decided = decisions(shop, 200)
        assert worker.stop() == 0, worker.said()

    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(200))
    assert max(d["features"]["orders_count_1d"] for d in decided) == 39, (
        "40 orders a customer, none its own past"
    )


def test_bad_input_ends_whole_in_orders_rejected_and_the_stream_goes_on(
    shop: Settings, tmp_path: Path
) -> None:
    good = orders(3, customers=1)
    readable = json.loads(good[0][1])
    bad: list[tuple[bytes | None, bytes | None]] = [
        (b"c0", None),
        (b"c0", b"\xff\xfe\xfd"),
        (b"c0", b"not json"),
        (b"c0", b"[" * 200_000),
        (b"c0", json.dumps(readable | {"order_id": "b1", "amount": -5}).encode()),
        (b"c0", json.dumps(readable | {"order_id": "b2", "placed_at": "2099-01-01T00:00:00Z"}).encode()),
        (b"someone else", json.dumps(readable | {"order_id": "b3"}).encode()),
        (b"k" * 900_000, json.dumps(readable | {"order_id": "b4"}).encode()),
        (b"c0", json.dumps(readable | {"amount": 77}).encode()),
    ]
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [good[0], *bad, *good[1:]])
        decided = decisions(shop, 8)
        assert worker.stop() == 0, worker.said()

    rejected = read(shop, shop.topics.rejected, len(bad))
    kept = [(key and key[: 64 * 1024], value) for key, value in bad]
    assert Counter((m.key(), m.value()) for m in rejected) == Counter(kept), "only an absurd key is cut"
    for message in rejected:
        headers = dict(message.headers() or ())
        assert headers["source_topic"] == shop.topics.orders.encode()
        assert headers["reason"]
        assert headers["detail"]
    reviewed = sorted(d["order_id"] for d in decided if d["p_fraud"] is None)
    assert reviewed == ["b1", "b2", "b3", "b4", "o0"], "each with a readable id, the conflict included"
    assert sorted(d["order_id"] for d in decided if d["p_fraud"] is not None) == ["o0", "o1", "o2"]


def test_rows_lost_with_the_disk_come_back_from_the_changelog(shop: Settings, tmp_path: Path) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(50))
        decisions(shop, 50)
        worker.kill()
    shutil.rmtree(shop.home / "rows")
    again = orders(50)[:5]
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, again)
        decided = decisions(shop, 55)
        assert worker.stop() == 0, worker.said()

    first = {d["order_id"]: d for d in decided if d["repeat_of"] is None}
    repeated = [d for d in decided if d["repeat_of"] is not None]
    assert len(first) == 50
    assert {d["order_id"]: d["repeat_of"] for d in repeated} == {
        f"o{n}": first[f"o{n}"]["decision_id"] for n in range(5)
    }


@pytest.mark.slow
def test_an_order_that_kills_the_worker_is_set_aside_for_review_and_the_rest_is_decided(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(4, customers=2))
        decisions(shop, 4)
        assert worker.stop() == 0, worker.said()
    # a row no version wrote: reading it is a mistake of ours, and stops the program
    partition = partition_of(b"c1", shop.partitions)
    send(shop, [(customer_key("c1"), b"\x01garbage")], topic=shop.topics.changelog, partition=partition)
    send(shop, orders(3, customers=2, first=4))

    crashes = 0
    decided = None
    while decided is None and crashes < 10:
        with Worker(shop, tmp_path / "log") as worker:
            try:
                assert worker.ends(within_s=20) == 70
                crashes += 1
            except subprocess.TimeoutExpired:
                decided = decisions(shop, 7)

    assert decided is not None
    assert 3 <= crashes <= 6
    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(7))
    (aside,) = [d for d in decided if d["p_fraud"] is None]
    assert (aside["order_id"], aside["action"]) == ("o5", "review")
    assert aside["reasons"][0]["code"] == "scorer_error"
    (kept,) = read(shop, shop.topics.rejected, 1)
    assert kept.value() == orders(1, customers=2, first=5)[0][1]


def test_a_second_worker_of_the_same_name_refuses(shop: Settings, tmp_path: Path) -> None:
    elsewhere = shop.model_copy(update={"home": tmp_path / "elsewhere"})
    shutil.copytree(shop.home / "models", elsewhere.home / "models")
    with Worker(shop, tmp_path / "first") as first:
        send(shop, orders(1))
        decisions(shop, 1)
        with Worker(elsewhere, tmp_path / "second") as second:
            assert second.ends(within_s=40) == 1
            assert f"a worker named '{shop.worker}' is already in group" in second.said()
        send(shop, orders(1, first=1))
        decisions(shop, 2)
        assert first.stop() == 0


def test_a_worker_without_topics_says_which_command_makes_them(
    settings: Settings, registry: Path, tmp_path: Path
) -> None:
    shutil.copytree(registry, settings.home / "models")
    with Worker(settings, tmp_path / "log") as worker:
        assert worker.ends(within_s=30) == 1
        assert "run 'fraudstream topics create'" in worker.said()


def test_a_flood_of_rejects_stops_the_worker_when_the_breaker_is_set(shop: Settings, tmp_path: Path) -> None:
    flooded = shop.model_copy(update={"reject_share": 0.5})
    send(flooded, [(b"c0", b"not json")] * 2500)
    with Worker(flooded, tmp_path / "log") as worker:
        assert worker.ends(within_s=40) == 1
        assert "of the last 1000 orders were rejected" in worker.said()


def test_lost_offsets_are_refused_and_put_back_from_the_changelog(shop: Settings, tmp_path: Path) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(20))
        decisions(shop, 20)
        assert worker.stop() == 0, worker.said()
    admin = AdminClient(shop.confluent())
    admin.delete_consumer_groups([shop.group])[shop.group].result(10)
    with Worker(shop, tmp_path / "refused") as worker:
        assert worker.ends(within_s=80) == 1
        assert "run 'fraudstream topics repair-offsets'" in worker.said()

    repaired = repair_offsets(shop)

    assert sum(repaired.values()) == 20
    send(shop, orders(5, first=20))
    with Worker(shop, tmp_path / "log") as worker:
        decided = decisions(shop, 25)
        assert worker.stop() == 0, worker.said()
    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(25))


def test_the_offsets_of_a_deleted_topic_are_not_put_into_the_one_that_took_its_name(
    shop: Settings, tmp_path: Path
) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(5))
        decisions(shop, 5)
        assert worker.stop() == 0, worker.said()
    admin = AdminClient(shop.confluent())
    admin.delete_topics([shop.topics.orders])[shop.topics.orders].result(10)
    _create_when_gone(shop)
    send(shop, orders(50, first=100))  # longer by now than the old one was

    with pytest.raises(Refused, match="deleted and made anew"):
        repair_offsets(shop)


def _create_when_gone(shop: Settings) -> None:
    deadline = time.monotonic() + 20
    while not topics.create(shop):
        assert time.monotonic() < deadline
        time.sleep(0.2)


SEND_BAD_HEADER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_):
        return b"\\xff\\xfe"

async def main(broker, topic, key, value):
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        await producer.send_and_wait(topic, value.encode(), key=key.encode(), headers=[(Name("n"), b"v")])

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_header_with_a_name_no_client_can_read_stops_nothing(shop: Settings, tmp_path: Path) -> None:
    (before, bad, after) = orders(3, customers=1)
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [before])
        decisions(shop, 1)
        subprocess.run(
            [sys.executable, "-c", SEND_BAD_HEADER, shop.broker, shop.topics.orders]
            + [part.decode() for part in bad],
            # the compiled producer checks names, the plain one encodes whatever it is given
            env={**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"},
            check=True,
        )
        send(shop, [after])
        decided = decisions(shop, 3)
        assert worker.stop() == 0, worker.said()

    assert Counter(d["order_id"] for d in decided) == {"o0": 1, "o1": 1, "o2": 1}


@pytest.mark.parametrize("junk", [b"junk", b'{"next":{},"v":"1"}'])
def test_a_position_that_no_worker_wrote_stops_nobody(shop: Settings, tmp_path: Path, junk: bytes) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(20))
        decisions(shop, 20)
        assert worker.stop() == 0, worker.said()
    for partition in range(shop.partitions):
        send(shop, [(POSITION_KEY, junk)], topic=shop.topics.changelog, partition=partition)
    if junk == b"junk":
        assert sum(repair_offsets(shop).values()) == 20
    send(shop, orders(20, first=20))
    with Worker(shop, tmp_path / "log") as worker:
        decided = decisions(shop, 40)
        assert worker.stop() == 0, worker.said()

    assert Counter(d["order_id"] for d in decided) == Counter(f"o{n}" for n in range(40))
    assert "is no position that a worker wrote" in worker.said()


def test_a_second_group_does_not_share_the_firsts_changelog(shop: Settings, tmp_path: Path) -> None:
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, orders(5))
        decisions(shop, 5)
        assert worker.stop() == 0, worker.said()
    other = shop.model_copy(update={"group": "another", "worker": "another"})

    with Worker(other, tmp_path / "other") as worker:
        assert worker.ends(within_s=40) == 1
        assert f"the changelog is that of group '{shop.group}'" in worker.said()
    with pytest.raises(Refused, match=f"the changelog is that of group '{shop.group}'"):
        repair_offsets(other)
    assert len(decisions(shop, 5)) == 5
