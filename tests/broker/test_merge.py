"""Orders and what is said of them are taken as they arrived, whether they come one by one or all at once."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from stream import topics
from stream.merge import ARRIVED_AT
from stream.settings import Settings
from tests.running import environment, read

PROGRAM = Path(__file__).with_name("take_in_order.py")
ARRIVED = 1_700_000_000_000

Told = tuple[str, int, int, bytes]
"""Which kind of topic, which partition, when it arrived in ms after the first, and what it says."""


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with every topic made; small transactions, so that inputs have to wait for one another."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    return settings.model_copy(
        update={"session_s": 6.0, "transaction_s": 5.0, "patience_s": 5.0, "batch_records": 50}
    )


@contextmanager
def a_worker(shop: Settings, log: Path) -> Iterator[None]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], env={**os.environ, **environment(shop)}, stdout=out, stderr=out
        )
    try:
        yield
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def a_story(length: int) -> list[Told]:
    """Orders, now and then an outcome or an event, in the order in which they happen; some at one instant."""
    story: list[Told] = []
    for number in range(length):
        kind = "outcomes" if not number % 11 else "order_events" if not number % 7 else "orders"
        story.append((kind, number % 5 % 2, number // 3 * 3, b"%s-%d" % (kind.encode(), number)))
    ranks = ("outcomes", "order_events", "orders")
    return sorted(story, key=lambda told: (told[2], ranks.index(told[0]), told[1]))


def publish(shop: Settings, story: Sequence[Told], *, at_once: bool) -> None:
    """Publish with the arrival said; or one by one as it happens, each in a millisecond of its own."""
    producer = Producer({**shop.confluent(), "linger.ms": 1})
    for kind, partition, at, value in story:
        headers = [(ARRIVED_AT, b"%d" % (ARRIVED + at))] if at_once else []
        producer.produce(getattr(shop.topics, kind), value, b"k", partition, headers=headers)
        if not at_once:
            assert producer.flush(30) == 0
            time.sleep(0.002)
    assert producer.flush(60) == 0


def taken(shop: Settings, count: int) -> list[bytes]:
    found = read(shop, shop.topics.decisions, count, within_s=180.0)
    return [message.value() or b"" for message in found]


def test_a_past_published_topic_by_topic_is_taken_as_it_arrived(shop: Settings, tmp_path: Path) -> None:
    story = a_story(6_000)
    for kind in ("orders", "order_events", "outcomes"):
        publish(shop, [told for told in story if told[0] == kind], at_once=True)

    with a_worker(shop, tmp_path / "log"):
        assert taken(shop, len(story)) == [value for *_, value in story]


def test_a_backlog_is_taken_as_it_would_have_been_live(shop: Settings, tmp_path: Path) -> None:
    story = a_story(24)
    publish(shop, story[:12], at_once=False)

    with a_worker(shop, tmp_path / "log"):
        taken(shop, 12)
        for number, told in enumerate(story[12:], 13):
            # live: the next happens once the one before has been taken
            publish(shop, [told], at_once=False)
            so_far = taken(shop, number)

    assert so_far == [value for *_, value in story]
