"""What was recorded: the records of topics as the broker appended them, read from topics or an archive.

Whatever reads the past (replay, verify, rebuild, training) reads it through `Recorded`, and cannot tell
where it comes from.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from stream.kafka import KafkaCluster, once_it_answers
from stream.ports import TP, Record
from stream.settings import Settings
from stream.topics import partitions_of

__all__ = ["Recorded", "TopicsRecorded"]


class Recorded(Protocol):
    """Records of topics, partition by partition, in the order of their offsets; reading changes nothing."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where there is no such topic."""

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is, and the one after the last that no open transaction holds back."""

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks that are not empty; offsets may leave gaps.

        Records before `start` and after `end` that are kept are not looked at.
        """

    def close(self) -> None:
        """Let go of files and connections."""


class TopicsRecorded:
    """What the topics of the settings' broker still have. Raises Unreachable where that does not answer."""

    def __init__(self, settings: Settings) -> None:
        """Connect; nothing is joined or committed."""
        self._settings = settings
        self._cluster = KafkaCluster(settings, quiet=True)

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where there is no such topic."""
        return partitions_of(self._settings, topic)[topic]

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is, and the one after the last that no open transaction holds back."""
        return once_it_answers(self._cluster.bounds, tp, stable=True)

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks that are not empty; offsets may leave gaps."""
        return self._cluster.read(tp, start, end)

    def close(self) -> None:
        """Close the connection."""
        self._cluster.close()
