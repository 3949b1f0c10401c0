"""The real cluster behind the transaction core's ports, on confluent-kafka.

Every call is bounded twice: by the time librdkafka is given, and by a watchdog that ends the
process, because librdkafka does not always keep to its own time in transactional calls.
"""

import asyncio
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, Self, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    SaslAuthenticationFailed,
    for_code,
)
from aiokafka.errors import KafkaError as AIOKafkaError
from confluent_kafka import (
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Producer as ConfluentProducer
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream import ports
from stream.ports import (
    TP,
    Aborted,
    Assignment,
    Committed,
    Fenced,
    Headers,
    NotStable,
    OutcomeUnknown,
    Produce,
    Record,
    Refused,
    TransactionError,
    Unreachable,
)
from stream.settings import Settings

__all__ = [
    "KafkaCluster",
    "Member",
    "RealClock",
    "Watchdog",
    "check_group_metadata",
    "group_metadata",
    "once_it_answers",
    "record_of",
]

log = logging.getLogger("fraudstream.kafka")

# where nobody set up logging, as in the commands, its failed attempts would be lines on stderr beside ours
logging.getLogger("aiokafka").addHandler(logging.NullHandler())

WATCHDOG_EXIT = 70
"""Exit code when the watchdog ends the process."""

LARGEST_PRODUCED = 128 * 1024 * 1024
"""What a transactional producer takes in one record, in bytes before compression.

An input's limit is the broker's and counts compressed bytes: 5 MB of JSON can arrive under 1 MiB, and
has to leave again through orders-rejected, where the broker counts compressed bytes as well.
"""

_ANSWER_S = 5.0
_STABLE_S = 0.5
_PATIENCE_S: Final = 15.0
_ASKED_AGAIN_S: Final = 0.2

_Answer = TypeVar("_Answer")
_Asked = ParamSpec("_Asked")

_REPLACED = frozenset(
    {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}  # noqa: SLF001
)
"""Another producer of the same id was made."""

_LOST = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001
"""A connection that was there is gone."""

_LED_ANEW = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
"""The partition has another leader, or the same one since its restart: the client has yet to hear of it."""

_FOR_GOOD = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.SECURITY_DISABLED,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_CONFIG,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
        KafkaError._INVALID_ARG,  # noqa: SLF001
    }
)
"""Asking again gets the same answer until a person changes rights or settings."""


class RealClock:
    """The machine's clock, for waiting and bounds."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def condition(self) -> threading.Condition:
        """A new condition to wait on."""
        return threading.Condition()


class Watchdog:
    """Ends the process when a guarded call outlasts its bound: crash-only, because nothing else helps.

    >>> with Watchdog(seconds=30)("commit"):
    ...     pass
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._what = ""
        self._deadline: float | None = None
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __call__(self, what: str) -> Self:
        """Name the call about to be made."""
        self._what = what
        return self

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline = None

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                log.critical("%s did not return within %.0f s; the process ends", self._what, self._seconds)
                logging.shutdown()
                os._exit(WATCHDOG_EXIT)


def group_metadata(group: str, assignment: Assignment) -> bytes:
    """Librdkafka's own bytes for a group's generation and member (KIP-447), made from Faust's."""
    return (
        b"CGMDv2:"
        + struct.pack("<i", assignment.generation)
        + group.encode()
        + b"\0"
        + assignment.member.encode()
        + b"\0"
        + b"\1"  # no group instance id
    )


def check_group_metadata(consumer: Consumer, group: str) -> None:
    """Refuse to start if librdkafka changed the format that `group_metadata` writes."""
    ours = group_metadata(group, Assignment(-1, "", frozenset()))
    theirs = consumer.consumer_group_metadata()
    if ours != theirs:
        raise Refused(
            f"this confluent-kafka writes group metadata as {theirs!r} and fraudstream knows {ours!r}; "
            "install the version in requirements.lock"
        )


def record_of(message: Message) -> Record:
    """A confluent-kafka message as a record."""
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        _headers(message),
    )


def _headers(message: Message) -> Headers:
    """The record's headers; none where a name is not UTF-8, which no client can read."""
    try:
        return tuple(message.headers() or ())  # type: ignore[arg-type]
    except SystemError:  # what confluent-kafka makes of the UnicodeDecodeError
        log.error(  # noqa: TRY400 (its traceback says nothing more)
            "the headers of %s/%s offset %s can't be read, because a name is not UTF-8; taken as none",
            message.topic(),
            message.partition(),
            message.offset(),
        )
        return ()


class Member(NamedTuple):
    """A living member of the group."""

    name: str
    """Its client id: a worker's name."""
    host: str
    """The address it has for the broker."""


def once_it_answers(
    ask: Callable[_Asked, _Answer], *arguments: _Asked.args, **options: _Asked.kwargs
) -> _Answer:
    """What the cluster answers, asked again for a while: a coordinator may just be made, or be moving.

    For a person's questions; the writer asks again by itself. Raises Unreachable, which says what to do.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask(*arguments, **options)
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise Unreachable(f"{error}; ask 'fraudstream doctor' what is wrong") from error
            time.sleep(_ASKED_AGAIN_S)


class KafkaCluster:
    """The cluster as the transaction core sees it, and as those who look at it from outside do."""

    def __init__(self, settings: Settings, *, quiet: bool = False) -> None:
        """`quiet` keeps librdkafka from telling stderr what the caller is told by an exception."""
        log_level = 0 if quiet else 3
        self._settings = settings
        self._watchdog = Watchdog(settings.call_s)
        common: dict[str, Any] = {
            "group_id": settings.group,
            "enable_auto_commit": False,
            "enable_partition_eof": True,
            "auto_offset_reset": "earliest",
            "fetch_wait_max_ms": 10,
            "retry_backoff_ms": 5,
            "log_level": log_level,
        }
        try:
            self._admin = AdminClient(settings.confluent(log_level=log_level))
            self._uncommitted = Consumer(settings.confluent(**common, isolation_level="read_uncommitted"))
            self._committed = Consumer(settings.confluent(**common, isolation_level="read_committed"))
        except KafkaException as failure:
            raise _unanswered("no client can be made", failure.args[0]) from failure
        check_group_metadata(self._committed, settings.group)
        self._roll_call = _RollCall(settings)

    def close(self) -> None:
        """Let go of the consumers."""
        self._roll_call.close()
        self._uncommitted.close()
        self._committed.close()
        self._watchdog.close()

    def producer(self, transactional_id: str) -> "_Producer":
        """Make a producer; ends the transaction an older one of the same id left open.

        The id is this group's own: another group on the cluster may have a worker of the same name.
        Raises Refused where asking again is in vain, Unreachable otherwise.
        """
        return _Producer(self._settings, f"{self._settings.group}.{transactional_id}", self._watchdog)

    def committed(self, inputs: Sequence[TP], *, stable: bool) -> Mapping[TP, Committed | None]:
        """The group's committed offsets."""
        consumer = self._reader(stable=stable)
        asked = [TopicPartition(topic, partition) for topic, partition in inputs]
        try:
            with self._watchdog("reading committed offsets"):
                answers = consumer.committed(asked, timeout=_STABLE_S if stable else _ANSWER_S)
        except KafkaException as failure:
            error = failure.args[0]
            if stable and error.code() in (KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT):  # noqa: SLF001
                raise NotStable(str(error)) from failure
            raise _unanswered("committed offsets", error) from failure
        for answer in answers:
            if answer.error is not None:
                if stable and answer.error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT:
                    raise NotStable(str(answer.error))
                raise _unanswered("committed offsets", answer.error)
        return {
            (answer.topic, answer.partition): None
            if answer.offset == OFFSET_INVALID
            else Committed(answer.offset, answer.metadata or "")
            for answer in answers
        }

    def members(self) -> Mapping[str, str]:
        """The living members of the group: member id -> client id."""
        return {member_id: member.name for member_id, member in self.roll_call().items()}

    def roll_call(self) -> Mapping[str, Member]:
        """The living members of the group by member id, with where they are; none when nobody ever joined."""
        with self._watchdog("describing the group"):
            return self._roll_call()

    def low(self, tp: TP) -> int:
        """The first offset the partition still has."""
        return self.bounds(tp)[0]

    def high(self, tp: TP) -> int:
        """The high watermark, open transactions included."""
        return self.bounds(tp)[1]

    def bounds(self, tp: TP, *, stable: bool = False) -> tuple[int, int]:
        """The first offset the partition still has and the one after its last record.

        `stable`: the latter is where the first open transaction begins, if there is one.
        """
        try:
            return self._watermarks(tp, stable=stable)
        except KafkaException as failure:
            if failure.args[0].code() not in _LED_ANEW:
                raise _unanswered(f"{tp[0]}/{tp[1]}", failure.args[0]) from failure
        # the client would go on asking under the old epoch until its metadata grow old, for minutes
        try:
            with self._watchdog("asking who leads"):
                self._reader(stable=stable).list_topics(tp[0], timeout=_ANSWER_S)
            return self._watermarks(tp, stable=stable)
        except KafkaException as failure:
            raise _unanswered(f"{tp[0]}/{tp[1]}", failure.args[0]) from failure

    def _watermarks(self, tp: TP, *, stable: bool) -> tuple[int, int]:
        with self._watchdog("asking for a partition's bounds"):
            return self._reader(stable=stable).get_watermark_offsets(TopicPartition(*tp), timeout=_ANSWER_S)

    def _reader(self, *, stable: bool) -> Consumer:
        # the upper bound that a reader of committed records is told is the last stable offset
        return self._committed if stable else self._uncommitted

    def since(self, tps: Sequence[TP], timestamp_ms: int) -> Mapping[TP, int | None]:
        """The first offset of each partition whose record has this timestamp or a later one; None if none."""
        if not tps:
            return {}
        asked = [TopicPartition(topic, partition, timestamp_ms) for topic, partition in tps]
        try:
            with self._watchdog("asking for offsets by time"):
                answers = self._uncommitted.offsets_for_times(asked, timeout=_ANSWER_S)
        except KafkaException as failure:
            raise _unanswered("offsets by time", failure.args[0]) from failure
        for answer in answers:
            if answer.error is not None:
                raise _unanswered(f"{answer.topic}/{answer.partition}", answer.error)
        return {
            (answer.topic, answer.partition): None if answer.offset == OFFSET_END else answer.offset
            for answer in answers
        }

    def ends(self, tps: Sequence[TP]) -> Mapping[TP, int]:
        """The last stable offsets, all in one request."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(*tp): latest for tp in tps}
        futures = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_S
        )
        with self._watchdog("asking for the ends of partitions"):
            failures = [failure for each in futures.values() if (failure := each.exception()) is not None]
        if any(isinstance(each, KafkaException) and each.args[0].code() in _LED_ANEW for each in failures):
            # the admin client keeps the old epoch for minutes; this way is mended where that is so
            return {tp: self.bounds(tp, stable=True)[1] for tp in tps}
        return {
            (asked.topic, asked.partition): _result(f"{asked.topic}/{asked.partition}", answer).offset
            for asked, answer in futures.items()
        }

    def log_id(self, topic: str) -> str:
        """The topic's id."""
        future = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_ANSWER_S)
        with self._watchdog("describing a topic"):
            return str(_result(topic, future[topic]).topic_id)

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks."""
        if start >= end:
            return
        consumer = self._committed
        consumer.assign([TopicPartition(tp[0], tp[1], start)])
        silent_since = time.monotonic()
        try:
            while True:
                with self._watchdog("reading a topic"):
                    messages = consumer.consume(2_000, timeout=0.05)
                if not messages:
                    if time.monotonic() - silent_since > _ANSWER_S:
                        raise Unreachable(f"{tp[0]}/{tp[1]} gave nothing for {_ANSWER_S:.0f} s")
                    continue
                silent_since = time.monotonic()
                chunk: list[Record] = []
                stop: KafkaError | bool | None = None
                for message in messages:
                    error = message.error()
                    if error is None and (message.offset() or 0) < end:
                        chunk.append(record_of(message))
                    elif error is None:
                        stop = True
                        break
                    else:
                        stop = error
                        if error.code() == KafkaError._PARTITION_EOF and (message.offset() or 0) >= end:  # noqa: SLF001
                            stop = True
                        break
                if chunk:
                    yield chunk
                    silent_since = time.monotonic()  # whoever took it may have needed long
                if stop is True:
                    return
                if isinstance(stop, KafkaError):
                    if stop.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        # the end for this isolation level is the last stable offset
                        raise NotStable(f"{tp[0]}/{tp[1]}: an open transaction begins before offset {end}")
                    raise _unanswered(f"{tp[0]}/{tp[1]}", stop)
        finally:
            with suppress(RuntimeError):  # closed before this was read to its end: there is nothing assigned
                consumer.unassign()


class _RollCall:
    """Asks the coordinator of a group for its members, over aiokafka.

    librdkafka's own question ends the whole process by an assertion when the coordinator dies while it is
    asked (its pull request 5397).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaAdminClient | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="roll-call", daemon=True)
        self._thread.start()

    def __call__(self) -> Mapping[str, Member]:
        """The members by member id. Raises Unreachable, or Refused where asking is in vain."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            return asked.result(2 * _ANSWER_S)
        except TookTooLong as late:
            asked.cancel()
            raise Unreachable(f"{self._what}: no answer within {2 * _ANSWER_S:.0f} s") from late
        except (AuthenticationFailedError, GroupAuthorizationFailedError, SaslAuthenticationFailed) as error:
            raise _refused(f"{self._what}: {error}") from error
        except (AIOKafkaError, OSError) as error:
            raise Unreachable(f"{self._what}: {error}") from error

    def close(self) -> None:
        """Let go of the connections; one that can't be let go of in time is left to the process's end."""
        with suppress(TookTooLong, AIOKafkaError, OSError):
            asyncio.run_coroutine_threadsafe(self._let_go(), self._loop).result(_ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        if not self._thread.is_alive():
            self._loop.close()

    @property
    def _what(self) -> str:
        return f"group '{self._settings.group}'"

    async def _ask(self) -> Mapping[str, Member]:
        try:
            if self._client is None:
                self._client = AIOKafkaAdminClient(
                    **self._settings.aiokafka(), request_timeout_ms=int(_ANSWER_S * 1000)
                )
                await self._client.start()
            (answer,) = await self._client.describe_consumer_groups([self._settings.group])
            (group,) = answer.groups
            error_code, members = group[0], group[5]
            if error_code:
                raise for_code(error_code)  # noqa: TRY301 (to be let go of like any other failure)
        except BaseException:
            # the next question begins with the bootstrap servers again
            await self._let_go()
            raise
        return {member_id: Member(name, host.lstrip("/")) for member_id, name, host, *_ in members}

    async def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Producer:
    """One incarnation of a transactional producer."""

    def __init__(self, settings: Settings, transactional_id: str, watchdog: Watchdog) -> None:
        self._group = settings.group
        self._watchdog = watchdog
        self._timeout = settings.call_s / 2
        self._failed: KafkaError | None = None
        self._last: dict[TP, int] = {}
        self._has_sent_offsets = False
        self._lost: KafkaError | None = None
        try:
            self._producer = ConfluentProducer(self._config(settings, transactional_id))
        except KafkaException as failure:
            raise _unanswered("no producer can be made", failure.args[0]) from failure
        try:
            with watchdog("init_transactions"):
                self._producer.init_transactions(self._timeout)
        except KafkaException as failure:
            # else its threads would go on until the garbage collector finds the cycle through on_delivery
            self.close()
            raise _unanswered(f"no transactional producer '{transactional_id}'", failure.args[0]) from failure

    def _config(self, settings: Settings, transactional_id: str) -> dict[str, Any]:
        return settings.confluent(
            transactional_id=transactional_id,
            transaction_timeout_ms=int(settings.transaction_s * 1000),
            delivery_timeout_ms=int(settings.transaction_s * 1000),
            acks="all",
            linger_ms=0,
            # the default of 100 shows as a 100 ms tail: the first request of a transaction to a
            # partition often meets the last one's markers and is retried
            retry_backoff_ms=2,
            retry_backoff_max_ms=50,
            # before the broker does it (10 min): a connection lost without our doing means a fault
            connections_max_idle_ms=4 * 60 * 1000,
            compression_type="lz4",
            message_max_bytes=LARGEST_PRODUCED,
            queue_buffering_max_messages=1_000_000,
            queue_buffering_max_kbytes=256 * 1024,
            log_level=3,
            # without an error_cb confluent-kafka raises a fatal error in the middle of a delivery report, as
            # SystemError instead of Fenced
        ) | {"on_delivery": self._delivered, "error_cb": self._heard}

    def begin(self) -> None:
        """Begin a transaction."""
        self._failed = None
        self._last = {}
        self._guard("begin_transaction", self._producer.begin_transaction)

    def produce(self, record: Produce) -> None:
        """Add a record to the transaction."""
        topic, partition, key, value, headers = record
        while True:
            try:
                self._producer.produce(
                    topic, value, key, partition, headers=list(headers) if headers else None
                )
            except BufferError:
                self._producer.poll(0.01)
            except KafkaException as failure:
                raise Aborted(f"{topic}/{partition}: {failure.args[0]}") from failure
            else:
                return

    def produce_rows(self, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Add a record for each key to the transaction."""
        left: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in rows.items()]
        while left:
            try:
                queued = self._producer.produce_batch(topic, left, partition)
            except KafkaException as failure:
                raise Aborted(f"{topic}/{partition}: {failure.args[0]}") from failure
            if queued == len(left):
                return
            # it marks what it did not take, and goes on
            left = [each for each in left if "_error" in each]
            for each in left:
                if (error := each.pop("_error")).code() != KafkaError._QUEUE_FULL:  # noqa: SLF001 (theirs)
                    raise Aborted(f"{topic}/{partition}: {error}")
            self._producer.poll(0.01)

    def flush(self) -> Mapping[TP, int]:
        """Wait for every record to be delivered."""
        try:
            with self._watchdog("flush"):
                left = self._producer.flush(self._timeout)
        except (KafkaException, SystemError) as error:
            # the latter is what confluent-kafka makes of a fatal error in the middle of a delivery report
            fatal = error if isinstance(error, KafkaException) else error.__cause__
            if fatal is None:  # it may even lose that error: "returned NULL without setting an exception"
                raise OutcomeUnknown(f"flush: {error}") from error
            if not isinstance(fatal, KafkaException):
                raise
            raise _translated("flush", fatal) from error
        if self._failed is not None:
            said = f"a record was not delivered: {self._failed}"
            raise _refused(said) if self._failed.code() in _FOR_GOOD else Aborted(said)
        if left:
            raise Aborted(f"{left} records were not delivered within {self._timeout:.0f} s")
        return self._last

    def send_offsets(self, offsets: Mapping[TP, Committed], assignment: Assignment) -> None:
        """Add the group's offsets, guarded by generation and member."""
        # librdkafka remembers where the group's coordinator was. When that broker went away between two
        # questions, it waits for the connection it no longer makes, past every timeout: another producer
        # asks anew (rd_kafka_coord_req_fsm; the timeout of a coord_req is never looked at)
        self._producer.poll(0)
        if self._lost is not None:
            raise OutcomeUnknown(f"a broker was lost, so this producer is replaced: {self._lost.str()}")
        positions = [
            TopicPartition(topic, partition, committed.offset, metadata=committed.metadata)
            for (topic, partition), committed in offsets.items()
        ]
        self._guard(
            "send_offsets_to_transaction",
            self._producer.send_offsets_to_transaction,
            positions,
            group_metadata(self._group, assignment),
            self._timeout,
        )
        self._has_sent_offsets = True

    def commit(self) -> None:
        """Commit."""
        try:
            self._guard("commit_transaction", self._producer.commit_transaction, self._timeout)
        except Aborted as error:
            # every delivery was settled before, so what fails here is the commit itself
            raise OutcomeUnknown(str(error)) from error

    def abort(self) -> None:
        """Abort."""
        self._guard("abort_transaction", self._producer.abort_transaction, self._timeout)

    def close(self) -> None:
        """Let go of the producer without a word to the broker."""
        with self._watchdog("closing a producer"):
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            del self._producer

    def _heard(self, error: KafkaError) -> None:
        if self._has_sent_offsets and error.code() in _LOST:
            self._lost = error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = error
        else:
            self._last[message.topic(), message.partition()] = message.offset()  # type: ignore[index,assignment]

    def _guard(self, what: str, call: Any, *arguments: Any) -> None:
        try:
            with self._watchdog(what):
                call(*arguments)
        except KafkaException as failure:
            raise _translated(what, failure) from failure


class _Future(Protocol):
    """A future of the admin client."""

    def result(self, timeout: float | None = None) -> Any:
        """What came, within so many seconds."""


def _result(what: str, answer: _Future) -> Any:
    """What the admin client was told. Raises Unreachable, or Refused where asking again is in vain."""
    try:
        return answer.result(timeout=2 * _ANSWER_S)
    except KafkaException as failure:
        raise _unanswered(what, failure.args[0]) from failure
    except TimeoutError as late:
        raise Unreachable(f"{what}: no answer within {2 * _ANSWER_S:.0f} s") from late


def _unanswered(what: str, error: KafkaError) -> Unreachable | Refused:
    """Why there is no answer: one to wait for, or one that only a person can bring about."""
    said = f"{what}: {error.name()}: {error.str()}"
    if error.code() in _FOR_GOOD or (error.fatal() and error.code() not in _REPLACED):
        return _refused(said)
    return Unreachable(said)


def _refused(said: str) -> Refused:
    return Refused(
        f"{said}; asking again would change nothing: see what this user may do on the cluster, and the "
        "settings broker, security, group and transaction_s"
    )


def _translated(what: str, failure: KafkaException) -> TransactionError | Refused:
    error: KafkaError = failure.args[0]
    said = f"{what}: {error.name()}: {error.str()}"
    if error.code() in _FOR_GOOD:
        return _refused(said)
    if error.fatal() or error.code() in _REPLACED:
        return Fenced(said)
    if error.txn_requires_abort():
        return Aborted(said)
    return OutcomeUnknown(said)


_: type[ports.Cluster] = KafkaCluster
