"""Decisions as a reader of the decisions topic sees them: committed ones, each once."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from rich.markup import escape

from models.decision import Decision, decode_decision
from models.policy import Action
from stream.settings import Settings
from stream.topics import ANSWER_WITHIN_S, TopicError, largest_record

__all__ = ["Seen", "Watch", "sentence"]

_STYLES = {
    Action.APPROVE: "green",
    Action.REVIEW: "yellow",
    Action.CHALLENGE: "yellow",
    Action.DECLINE: "red",
}


class Seen(NamedTuple):
    """A decision, and when the log says it was made."""

    decision: Decision
    made_at: datetime


class Watch:
    """A read_committed reader of the decisions topic that belongs to no group and commits nothing.

    It starts at the end of the topic as it stood when the watch was made, or at its beginning.
    """

    def __init__(self, settings: Settings, *, from_beginning: bool = False) -> None:
        """Raises TopicError when the topic does not exist or no broker answers."""
        topic = settings.topics.decisions
        largest_record(settings, topic)
        self._consumer = Consumer(
            {
                **settings.confluent(),
                "group.id": f"{settings.group}-watch",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            known = self._consumer.list_topics(topic, timeout=ANSWER_WITHIN_S).topics[topic].partitions
            # The offsets are settled now: what is decided between this and the first read is seen too.
            self._consumer.assign(
                [
                    TopicPartition(topic, p, OFFSET_BEGINNING if from_beginning else self._end(topic, p))
                    for p in known
                ]
            )
        except KafkaException as error:
            self._consumer.close()
            raise TopicError(
                f"can't read '{topic}' on {settings.broker}: {error.args[0].str()}; see that the broker runs"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def within(self, seconds: float) -> Iterator[Seen]:
        """The decisions that come next, waiting at most so long for the first of them."""
        # consume() would wait its time out for the last of its records, not for the first
        first = self._consumer.poll(seconds)
        if first is None:
            return
        for message in (first, *self._consumer.consume(500, 0)):
            value = message.value()
            if message.error() is None and value is not None:
                _, made = message.timestamp()
                yield Seen(decode_decision(value), datetime.fromtimestamp(made / 1000, UTC))

    def _end(self, topic: str, partition: int) -> int:
        _, high = self._consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=ANSWER_WITHIN_S
        )
        return int(high)


def sentence(decision: Decision) -> str:
    """One decision in a line of rich's markup: what to do, how sure, and, unless it is approved, why."""
    style = _STYLES[decision.action]
    score = "unscored" if decision.p_fraud is None else f"{decision.p_fraud:.3f}"
    reasons = () if decision.action is Action.APPROVE else decision.reasons[:2]
    why = "; ".join(reason.text for reason in reasons)
    again = "  (again)" if decision.repeat_of is not None else ""
    action = f"[{style}]{decision.action.value:<9}[/]"
    return f"{action}  {score:>8}  {_plain(decision.order_id)}{again}  [dim]{_plain(why)}[/]"


def _plain(text: str) -> str:
    """Text that rich does not read as markup, and a terminal not as a command."""
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))
