"""The stage that the fault harness and the benches play on: a broker, orders, a model, workers, logs to read.

Everything lies in one temporary folder and everything that is started is stopped by its pid.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from models.registry import Registry
from models.train import PredictorKind, train
from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.kafka import KafkaCluster, once_it_answers, record_of
from stream.ports import TP, Committed, Record
from stream.settings import Settings
from tests.faults.checks import Sighting
from tests.small_shop import a_past

ROOT = Path(__file__).parents[2]
OUR_WORKER = (sys.executable, str(ROOT / "tests" / "faults" / "run_worker.py"))
CLI_WORKER = (sys.executable, "-m", "stream.cli", "worker")
"""As a user starts it."""
_LED_WITHIN_S = 15.0
OPENED_AT = datetime(2026, 1, 1, 9, tzinfo=UTC)


class StageError(Exception):
    """The stage could not be set or read; the message says what was expected and what came."""


@contextmanager
def temporary_home(name: str) -> Iterator[Path]:
    """A folder for one run; removed after a run without an exception, named and kept after one with."""
    home = Path(tempfile.mkdtemp(prefix=f"fraudstream-{name}-"))
    try:
        yield home
    except Exception:
        print(f"kept for a look: {home}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def running_broker(home: Path, *, nodes: int = 1) -> Iterator[EmbeddedBroker]:
    """A broker of one or three nodes on free ports, ended with this block or with this process."""
    with EmbeddedBroker(home, ports=free_ports(nodes), tied=True) as broker:
        yield broker


def end_on_sigterm() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that whatever was started is stopped."""

    def unwind(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)


def make_topics(settings: Settings) -> None:
    """Make every topic the scorer needs."""
    topics.create(settings)


def publish_starter(settings: Settings, predictor: PredictorKind = "random_forest") -> None:
    """Train a small model on a small shop's generated past and make it the champion."""
    trained = train(
        a_past(2_000),
        name="starter",
        predictor=predictor,
        trained_at=date(2026, 2, 14),
        row_limit=settings.row_limit,
    )
    registry = Registry(settings.home / "models")
    registry.publish(trained)
    registry.promote("starter", trained.version)


def environment_of(settings: Settings, worker: str) -> dict[str, str]:
    """What a worker's process is told, without anything the caller's shell may have set for another."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDSTREAM_")}
    asked = {"FRAUDSTREAM_ENTITIES": ",".join(settings.entities), "FRAUDSTREAM_FEATURES": settings.features}
    return environment | {
        **{name: value for name, value in asked.items() if value},
        "PYTHONPATH": str(ROOT),
        "FRAUDSTREAM_BROKER": settings.broker,
        "FRAUDSTREAM_HOME": str(settings.home),
        "FRAUDSTREAM_WORKER": worker,
        "FRAUDSTREAM_PARTITIONS": str(settings.partitions),
        "FRAUDSTREAM_GROUP": settings.group,
        "FRAUDSTREAM_ROW_LIMIT": str(settings.row_limit),
        "FRAUDSTREAM_SESSION_S": str(settings.session_s),
    }


# --- orders ---------------------------------------------------------------------------------------


def orders(
    seed: int,
    *,
    plain: bool = False,
    customers: int = 300,
    named: str = "o",
    with_merchants: bool = False,
    since: datetime = OPENED_AT,
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a shop's orders without end, at most a minute apart; the same seed gives the same.

    Unless `plain`, some are late, some come from guests, are sent again, revised, changed without a
    revision, or can't be read. With merchants most name one, and a revision changes device and merchant.
    """
    chance = random.Random(seed)
    now = since
    recent: list[dict[str, Any]] = []
    number = 0
    while True:
        kind = 1.0 if plain else chance.random()
        if kind < 0.04 and recent:
            yield _another(chance, dict(chance.choice(recent)), kind)
            continue
        now += timedelta(seconds=60 * chance.random())
        late = timedelta(hours=chance.randrange(1, 48)) if kind > 0.97 and not plain else timedelta(0)
        customer = f"c{chance.randrange(customers)}"
        order: dict[str, Any] = {
            "order_id": f"{named}{number}",
            "customer_id": customer,
            "placed_at": (now - late).isoformat(),
            "amount": chance.randrange(100, 100_000),
            "currency": chance.choice(("EUR", "EUR", "EUR", "USD")),
            "country": "DE",
            "device_id": f"d{chance.randrange(2_000)}" if chance.random() < 0.2 else f"of-{customer}",
            "payment_attempts": chance.randrange(1, 4),
            "card": {"fingerprint": f"f-{customer}-{chance.randrange(3)}", "issuer_country": "DE"},
        }
        if with_merchants and number % 11:
            order["merchant_id"] = f"m{number % 37}"
        number += 1
        if 0.04 <= kind < 0.08:
            del order["customer_id"]
        recent.append(order)
        del recent[:-500]
        yield _sent(order)


def _another(chance: random.Random, order: dict[str, Any], kind: float) -> tuple[bytes, bytes]:
    if kind < 0.015:
        return _sent(order)
    if kind < 0.025:
        moved = {"device_id": "d1", "merchant_id": "m1"} if "merchant_id" in order else {}
        return _sent(order | {"revision": 1, "amount": order["amount"] + 1} | moved)
    if kind < 0.03:
        return _sent(order | {"amount": order["amount"] + 1})
    key, value = _sent(order | {"order_id": f"{order['order_id']}-bad-{chance.randrange(10**9)}"})
    return key, chance.choice(
        (
            value[: len(value) // 2],
            value.replace(b"EUR", b"EUX"),
            value.replace(b'"amount": ', b'"amount": -'),
            value.replace(b'"placed_at": "2', b'"placed_at": "9'),
            b"\xff" + value,
        )
    )


def _sent(order: Mapping[str, Any]) -> tuple[bytes, bytes]:
    return order.get("customer_id", order["order_id"]).encode(), json.dumps(order).encode()


class Publisher(threading.Thread):
    """Sends orders at a steady rate until told to stop and at least `at_least` were sent.

    What is said to other topics goes between them, and is not counted.
    """

    def __init__(
        self, settings: Settings, source: Iterator[tuple[str, bytes, bytes]], *, rate: float, at_least: int
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        self.sent = 0
        self.failure: BaseException | None = None
        self._settings = settings
        self._source = source
        self._rate = rate
        self._at_least = at_least
        self._enough = threading.Event()
        self._abandoned = threading.Event()

    def enough(self) -> None:
        """No more than `at_least` are needed now."""
        self._enough.set()

    def abandon(self) -> None:
        """Stop at once."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            self._send()
        except BaseException as failure:  # noqa: BLE001 (the harness raises it in its own thread)
            self.failure = failure

    def _send(self) -> None:
        undelivered: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                undelivered.append(error)

        producer = Producer(
            self._settings.confluent(
                partitioner="murmur2_random", enable_idempotence=True, acks="all", linger_ms=1, log_level=0
            )
        )
        began = time.monotonic()
        while not (self._enough.is_set() and self.sent >= self._at_least) and not self._abandoned.is_set():
            ahead = began + self.sent / self._rate - time.monotonic()
            if ahead > 0:
                producer.poll(0)
                time.sleep(ahead)
            topic, key, value = next(self._source)
            producer.produce(topic, value, key, on_delivery=delivered)
            self.sent += topic == self._settings.topics.orders
        left = producer.flush(30.0)
        if undelivered or left:
            raise StageError(
                f"{left + len(undelivered)} orders were not taken by the broker; the run says nothing"
            )


# --- workers --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Worker:
    """One worker's process, and when it is to be started again."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    """In seconds since 1970."""
    start_at: float | None = None
    continue_at: float | None = None
    wipe: Path | None = None
    """A folder to remove before the next start."""
    expected_to_end: bool = False

    @property
    def lives(self) -> bool:
        """Whether its process runs or is paused."""
        return self.process is not None and self.process.poll() is None

    @property
    def is_paused(self) -> bool:
        """Whether it was stopped with SIGSTOP and not yet woken."""
        return self.continue_at is not None


@dataclass(slots=True)
class Fleet:
    """The workers: started, supervised, struck and in the end stopped; all from one thread.

    >>> fleet.tick()  # doctest: +SKIP
    """

    command: Sequence[str]
    environment: Callable[[str], Mapping[str, str]]
    folder: Path
    names: Sequence[str]
    chance: random.Random
    exits: list[tuple[str, int, bool]] = field(default_factory=list)
    """Worker, exit code, and whether a fault had asked for it."""
    workers: dict[str, Worker] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workers = {name: Worker(name, self.folder / f"{name}.log") for name in self.names}

    def start(self) -> None:
        """Start every worker."""
        for worker in self.workers.values():
            self._launch(worker)

    def tick(self) -> None:
        """See who ended, start again who is due, wake who was paused long enough."""
        now = time.monotonic()
        for worker in self.workers.values():
            if worker.process is not None and (code := worker.process.poll()) is not None:
                self.exits.append((worker.name, code, worker.expected_to_end))
                worker.process = None
                worker.continue_at = None
                worker.start_at = now + self.chance.uniform(0, 3)
            if worker.continue_at is not None and now >= worker.continue_at and worker.process is not None:
                worker.continue_at = None
                worker.process.send_signal(signal.SIGCONT)
            if worker.start_at is not None and now >= worker.start_at:
                self._launch(worker)

    def kill(self, name: str, *, wipe: Path | None = None) -> None:
        """SIGKILL; with `wipe` its folder is removed before it is started again."""
        worker = self.workers[name]
        worker.wipe = wipe or worker.wipe
        worker.expected_to_end = True
        if worker.process is not None:
            worker.process.kill()

    def freeze(self, name: str) -> None:
        """SIGSTOP, until it is killed or thawed."""
        worker = self.workers[name]
        if worker.process is not None:
            worker.process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        worker = self.workers[name]
        if worker.process is not None:
            worker.process.send_signal(signal.SIGCONT)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds: a zombie that thinks nothing happened."""
        worker = self.workers[name]
        if worker.process is not None:
            worker.process.send_signal(signal.SIGSTOP)
            worker.continue_at = time.monotonic() + seconds

    def restart(self, name: str) -> None:
        """SIGTERM: the worker ends in good order and is started again."""
        worker = self.workers[name]
        worker.expected_to_end = True
        if worker.process is not None:
            worker.process.terminate()

    def stop(self, within_s: float = 30.0) -> dict[str, int | None]:
        """End every worker in good order, or by force after a while; answers their exit codes."""
        running = {name: w.process for name, w in self.workers.items() if w.process is not None}
        for process in running.values():
            with suppress(ProcessLookupError):
                process.terminate()
                process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + within_s
        codes: dict[str, int | None] = {}
        for name, process in running.items():
            try:
                codes[name] = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes[name] = None
        for worker in self.workers.values():
            worker.process = worker.start_at = worker.continue_at = None
        return codes

    def kill_all(self) -> None:
        """End every worker at once, for a harness that is itself ending."""
        for worker in self.workers.values():
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()
                worker.process = None

    def _launch(self, worker: Worker) -> None:
        if worker.wipe is not None:
            shutil.rmtree(worker.wipe, ignore_errors=True)
            worker.wipe = None
        worker.start_at = None
        worker.expected_to_end = False
        worker.started_at = time.time()
        with worker.log.open("ab") as log:
            worker.process = subprocess.Popen(
                self.command,
                env=self.environment(worker.name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the harness, which then ends them
            )


# --- reading --------------------------------------------------------------------------------------


class Watcher(threading.Thread):
    """Follows the decisions as a reader would, and notes when it came to see each."""

    def __init__(self, settings: Settings, *, isolation: str, on_seen: Callable[[Sighting], None]) -> None:
        super().__init__(name=f"watcher-{isolation}", daemon=True)
        self.seen = 0
        self._settings = settings
        self._isolation = isolation
        self._on_seen = on_seen
        self._ended = threading.Event()

    def end(self) -> None:
        """Stop following."""
        self._ended.set()
        self.join(10.0)

    def run(self) -> None:
        topic = self._settings.topics.decisions
        consumer = _reader(self._settings, self._isolation, fetch_wait_max_ms=5, fetch_error_backoff_ms=20)
        consumer.assign([TopicPartition(topic, number, 0) for number in range(self._settings.partitions)])
        try:
            while not self._ended.is_set():
                for message in consumer.consume(200, 0.05):
                    if message.error() is not None:
                        continue
                    record = record_of(message)
                    headers = dict(record.headers)
                    self.seen += 1
                    self._on_seen(
                        Sighting(
                            time.time(),
                            record.partition,
                            int(headers["order_arrived_at"]) / 1000,
                            headers["worker"].decode(),
                            record.offset,
                        )
                    )
        finally:
            consumer.close()


def read_all(
    settings: Settings,
    topic: str,
    partitions: int,
    *,
    isolation: str = "read_committed",
    within_s: float = 60.0,
) -> Iterator[Record]:
    """Every record of a topic up to its high watermark, partition by partition in log order.

    Waits, bounded, for a transaction that is still open; raises StageError when one stays open.
    """
    consumer = _reader(settings, isolation, enable_partition_eof=True)
    try:
        for number in range(partitions):
            end = high(settings, (topic, number))
            if end == 0:
                continue
            consumer.assign([TopicPartition(topic, number, 0)])
            deadline = time.monotonic() + within_s
            reached = False
            while not reached:
                messages = consumer.consume(5_000, 0.2)
                if messages:
                    deadline = max(deadline, time.monotonic() + within_s / 2)
                for message in messages:
                    error = message.error()
                    if error is None:
                        yield record_of(message)
                    # an end of partition says where the next record would be; markers have no record
                    if (error is None or error.code() == KafkaError._PARTITION_EOF) and (
                        (message.offset() or 0) + (error is None) >= end
                    ):
                        reached = True
                if time.monotonic() > deadline:
                    raise StageError(
                        f"{topic}/{number} can't be read to offset {end} as {isolation}: "
                        "a transaction stayed open, or the broker is gone"
                    )
    finally:
        consumer.close()


def is_there(settings: Settings, topic: str) -> bool:
    """Whether the broker has a topic of this name."""
    return topic in _admin(settings).list_topics(timeout=10).topics


def high(settings: Settings, tp: TP) -> int:
    """The high watermark of a partition."""
    return _latest(_admin(settings), tp, IsolationLevel.READ_UNCOMMITTED)


class LastStable:
    """Asks, quickly and again and again, where the oldest open transaction of a partition begins."""

    def __init__(self, settings: Settings) -> None:
        self._admin = _admin(settings)

    def __call__(self, tp: TP) -> int:
        """The last stable offset; the high watermark when no transaction is open."""
        return _latest(self._admin, tp, IsolationLevel.READ_COMMITTED)


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(settings.confluent(log_level=0))


def _latest(admin: AdminClient, tp: TP, isolation: IsolationLevel) -> int:
    asked = TopicPartition(*tp)
    deadline = time.monotonic() + _LED_WITHIN_S
    while True:
        future = admin.list_offsets(
            {asked: OffsetSpec.latest()},  # type: ignore[no-untyped-call]
            isolation_level=isolation,
            request_timeout=10,
        )
        try:
            return int(future[asked].result().offset)
        except KafkaException:  # a topic that was just made has no leader for a moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def committed(settings: Settings, topic: str | None = None) -> dict[int, Committed]:
    """The group's offsets for the orders or another input, with the words their owners left."""
    consumer = _reader(settings, "read_uncommitted", group_id=settings.group)
    try:
        asked = [
            TopicPartition(topic or settings.topics.orders, number) for number in range(settings.partitions)
        ]
        return {
            each.partition: Committed(each.offset, each.metadata or "")
            for each in consumer.committed(asked, timeout=10)
            if each.offset >= 0
        }
    finally:
        consumer.close()


def undecided(settings: Settings, cluster: KafkaCluster) -> dict[int, int | None]:
    """By partition: how many orders the group has not decided yet; None where it has committed nothing."""
    tps = [(settings.topics.orders, number) for number in range(settings.partitions)]
    known = once_it_answers(cluster.committed, tps, stable=False)
    return {tp[1]: None if (at := known[tp]) is None else high(settings, tp) - at.offset for tp in tps}


def _reader(settings: Settings, isolation: str, **extra: Any) -> Consumer:
    return Consumer(
        settings.confluent(
            **{
                "group_id": f"reader-{os.getpid()}",
                "enable_auto_commit": False,
                "isolation_level": isolation,
                "fetch_wait_max_ms": 20,
                "log_level": 0,
            }
            | extra
        )
    )
