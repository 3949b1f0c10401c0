"""Decisions as a reader of the decisions topic sees them: committed ones, each once."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from pydantic import ValidationError
from rich.markup import escape

from features.catalogue import by_name
from features.define import Feature
from features.errors import FeatureDefinitionError
from models.decision import Decision, Reason, decode_decision
from models.policy import Action
from stream.settings import Settings
from stream.topics import ANSWER_WITHIN_S, TopicError, largest_record

__all__ = ["STYLES", "Seen", "Watch", "plain", "sentence", "why"]

_LATEST_MS = 253_402_300_799_000
"""The last second that a datetime can have, in milliseconds since 1970."""

STYLES = {
    Action.APPROVE: "green",
    Action.REVIEW: "yellow",
    Action.CHALLENGE: "yellow",
    Action.DECLINE: "red",
}
"""The colour of each action."""


_COUNTED = {"pieces", "tries", "days", "orders"}
"""Units that read well behind a number."""


class Seen(NamedTuple):
    """A decision, and when the log says it was made."""

    decision: Decision
    made_at: datetime


class Watch:
    """A read_committed reader of the decisions topic that belongs to no group and commits nothing.

    It starts at the end of the topic as it stood when the watch was made, or at its beginning.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        from_beginning: bool = False,
        passed_over: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`passed_over` is told the place of what is no decision, since anyone may write to a topic.

        Raises TopicError when the topic does not exist or no broker answers.
        """
        self._passed_over = passed_over
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
        """The decisions that come next, waiting at most so long for the first of them.

        What is no decision of a version that we can read is passed over, and said.
        """
        # consume() would wait its time out for the last of its records, not for the first
        first = self._consumer.poll(seconds)
        if first is None:
            return
        for message in (first, *self._consumer.consume(500, 0)):
            value = message.value()
            if message.error() is not None:
                continue
            try:
                decision = decode_decision(value or b"")
            except ValidationError:
                self._passed_over(f"{message.topic()}/{message.partition()}/{message.offset()}")
                continue
            made = min(max(message.timestamp()[1], 0), _LATEST_MS)
            yield Seen(decision, datetime.fromtimestamp(made / 1000, UTC))

    def _end(self, topic: str, partition: int) -> int:
        _, high = self._consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=ANSWER_WITHIN_S
        )
        return int(high)


def sentence(decision: Decision) -> str:
    """One decision in a line of rich's markup: what to do, how sure, and, unless it is approved, why."""
    style = STYLES[decision.action]
    score = "unscored" if decision.p_fraud is None else f"{decision.p_fraud:.3f}"
    reasons = () if decision.action is Action.APPROVE else decision.reasons[:2]
    because = "; ".join(reason.text for reason in reasons)
    again = "  (again)" if decision.repeat_of is not None else ""
    action = f"[{style}]{decision.action.value:<9}[/]"
    return (
        f"{action}  {score:>8}  {escape(plain(decision.order_id))}{again}  [dim]{escape(plain(because))}[/]"
    )


def why(decision: Decision, find_feature: Callable[[str], Feature] = by_name) -> list[tuple[str, str]]:
    """Each reason of a decision, for an analyst: what was looked at, and what was found.

    ("How often payment was tried for this order", "5 tries")
    """
    return [
        (reason.text.removeprefix("Unknown: "), _found(reason, decision, find_feature))
        for reason in decision.reasons
    ]


def _found(reason: Reason, decision: Decision, find_feature: Callable[[str], Feature]) -> str:
    value = None if reason.feature is None else decision.features.get(reason.feature)
    if value is None or reason.feature is None:
        return "unknown"
    try:
        unit = find_feature(reason.feature).unit
    except FeatureDefinitionError:  # of a model that knows more than we do
        unit = ""
    if unit == "0 or 1":
        return "yes" if value else "no"
    if unit == "share":
        return f"{value:.0%}"
    if unit.startswith("major units"):
        return f"{value:,.2f}"
    shown = f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"
    return f"{shown} {unit}" if unit in _COUNTED else shown


def plain(text: str) -> str:
    """Text that a terminal does not read as a command."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
