"""Workers as a user runs them, in processes of their own, and what readers of their topics see."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from pydantic import SecretStr

from stream.settings import Settings


class Worker:
    """One worker process; leaving the block ends it whatever happened."""

    def __init__(self, settings: Settings, log: Path, *, code: Path | None = None) -> None:
        """`code` is the checkout it runs, when not this one."""
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream.cli", "worker"],
                env={**os.environ, **environment(settings)} | ({"PYTHONPATH": str(code)} if code else {}),
                cwd=code,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def stop(self) -> int:
        """Ask it to end, as a service manager would, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def ends(self, within_s: float) -> int:
        """Its exit code once it has ended by itself."""
        return self.process.wait(within_s)

    def said(self) -> str:
        return self.log.read_text()


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables."""
    given = {
        "FRAUDSTREAM_" + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump(
            exclude={"topics", "security", "gates", "guardrails"}, exclude_none=True
        ).items()
    }
    topics = {
        "FRAUDSTREAM_TOPICS__" + name.upper(): topic
        for name, topic in settings.topics.model_dump().items()
        if topic  # an earlier version refuses a name it does not know, even with nothing in it
    }
    judging = {
        f"FRAUDSTREAM_{group.upper()}__{name.upper()}": str(value)
        for group in ("gates", "guardrails")
        for name, value in getattr(settings, group).model_dump(exclude_defaults=True).items()
    }
    security = {
        "FRAUDSTREAM_SECURITY__" + name.upper(): secret.get_secret_value()
        if isinstance(secret, SecretStr)
        else str(secret)
        for name, secret in settings.security.model_dump(exclude_none=True).items()
    }
    return given | topics | judging | security


def send(
    settings: Settings,
    records: Iterable[tuple[bytes | None, bytes | None]],
    *,
    topic: str | None = None,
    partition: int = -1,
) -> None:
    """Produce records as they are, with the partitioner every shop uses unless told a partition."""
    producer = Producer({**settings.confluent(), "partitioner": "murmur2_random", "linger.ms": 1})
    for key, value in records:
        producer.produce(topic or settings.topics.orders, value, key, partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def orders(count: int, *, customers: int = 5, first: int = 0) -> list[tuple[bytes, bytes]]:
    """Plain orders with their keys, one a second."""
    made = []
    for number in range(first, first + count):
        customer = f"c{number % customers}"
        order = {
            "order_id": f"o{number}",
            "customer_id": customer,
            "placed_at": f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z",
            "amount": 1000 + number,
            "currency": "EUR",
        }
        made.append((customer.encode(), json.dumps(order).encode()))
    return made


def read(settings: Settings, topic: str, count: int, *, within_s: float = 40.0) -> list[Message]:
    """The first `count` committed records of a topic, and any that come within a moment after them."""
    consumer = Consumer(
        {
            **settings.confluent(),
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + within_s
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records of {topic} in {within_s} s"
            found += [message for message in consumer.consume(500, 0.1) if message.error() is None]
        settled = time.monotonic() + 0.5
        while time.monotonic() < settled:
            found += [message for message in consumer.consume(500, 0.1) if message.error() is None]
    finally:
        consumer.close()
    return found


def decisions(settings: Settings, count: int, *, within_s: float = 40.0) -> list[Mapping[str, Any]]:
    """The decisions, as JSON."""
    return [
        json.loads(m.value() or b"")
        for m in read(settings, settings.topics.decisions, count, within_s=within_s)
    ]
