"""Orders from a file or a pipe to the orders topic, under the key that keeps a customer's orders together.

Only the key is read: what an order means is the worker's to judge, and what it can't judge it rejects
whole. Refused here is what would not even arrive: a line without a key, or larger than the topic takes.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import Refusal
from stream.settings import Settings
from stream.topics import largest_record

__all__ = ["HISTORY", "PublishError", "Published", "RefusedLine", "publish"]

HISTORY = (("mode", b"history"),)
"""The header of orders that are remembered and never decided."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class PublishError(Refusal):
    """The orders could not be published; the message says how far it came and what to do."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that was not published, and why; the lines around it were."""

    line: int
    reason: str

    def __str__(self) -> str:
        """The line's number and the reason."""
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Published:
    """What became of the lines."""

    sent: int
    refused: int
    seconds: float


class _Keys(msgspec.Struct, gc=False):
    order_id: _Id
    customer_id: _Id | None = None


def publish(
    settings: Settings,
    lines: Iterable[bytes],
    *,
    rate: float | None = None,
    history: bool = False,
    refused: Callable[[RefusedLine], None] = lambda _: None,
) -> Published:
    """Send each line, one order in JSON, and return when the broker has acknowledged them all.

    `rate` paces to so many orders a second; `history` marks them as remembered but never decided.
    `refused` is told of each line that was not sent. Raises PublishError, TopicError.
    """
    topic = settings.topics.orders
    largest = largest_record(settings, topic)
    producer = Producer(
        {
            **settings.confluent(),
            # As Java's and aiokafka's producers do: another partitioner would split histories.
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5 if rate is None else 1,
            "queue.buffering.max.kbytes": 64 * 1024,
            "message.max.bytes": largest,
            "delivery.report.only.error": True,
            "log_level": 0,
        }
    )
    decode = msgspec.json.Decoder(_Keys).decode
    headers: list[tuple[str, str | bytes | None]] | None = list(HISTORY) if history else None
    counted = 0
    began = time.monotonic()
    errors: list[RefusedLine] = []
    fatal: list[KafkaError] = []

    def undelivered(number: int, error: KafkaError | None, _: Message) -> None:
        if error is None:
            return
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            errors.append(RefusedLine(number, _too_large(largest)))
        else:
            fatal.append(error)

    def report() -> None:
        while errors:
            refused(errors.pop())

    lost = 0
    for number, raw in enumerate(lines if rate is None else _paced(lines, rate), 1):
        line = raw.strip()
        if not line:
            continue
        try:
            keys = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            errors.append(RefusedLine(number, f"{_reason(error)}; the line needs an order in JSON"))
            lost += 1
            report()
            continue
        key = keys.order_id if keys.customer_id is None else keys.customer_id
        while True:
            try:
                producer.produce(
                    topic, line, key, headers=headers, on_delivery=functools.partial(undelivered, number)
                )
                counted += 1
                break
            except BufferError:
                producer.poll(0.05)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise PublishError(_stopped(settings, counted, error.args[0])) from error
                errors.append(RefusedLine(number, _too_large(largest, len(line))))
                lost += 1
                break
        if counted % 1000 == 0 or errors or rate is not None:
            producer.poll(0)
            report()
        if fatal:
            raise PublishError(_stopped(settings, counted, fatal[0]))
    while producer.flush(1.0) and not fatal:
        pass
    if fatal:
        raise PublishError(_stopped(settings, counted, fatal[0]))
    late = len(errors)
    report()
    return Published(sent=counted - late, refused=lost + late, seconds=time.monotonic() - began)


def _paced(lines: Iterable[bytes], rate: float) -> Iterator[bytes]:
    """At most `rate` lines a second, each taken only when its time has come."""
    began = None  # with the first line: whoever makes the lines may need a while for it
    for number, line in enumerate(lines, 1):
        began = began or time.monotonic()
        yield line
        time.sleep(max(0.0, began + number / rate - time.monotonic()))


def _too_large(largest: int, size: int | None = None) -> str:
    came = "the order" if size is None else f"the order has {size:,} bytes and"
    return (
        f"{came} is larger than the {largest:,} bytes the topic takes; shorten it, or raise max.message.bytes"
    )


def _reason(error: Exception) -> str:
    # msgspec's own words name the field and what came, never its value
    return str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__


def _stopped(settings: Settings, counted: int, error: KafkaError) -> str:
    return (
        f"publishing to '{settings.topics.orders}' stopped after about {counted:,} orders: {error.str()}; "
        "see that the broker runs and publish again (an order sent twice is decided once)"
    )
