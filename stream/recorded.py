"""What was recorded: the records of topics as the broker appended them, read from topics or an archive.

Whatever reads the past (replay, verify, rebuild, training) reads it through `Recorded`, and cannot tell
where it comes from.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol

from stream.kafka import KafkaCluster, once_it_answers
from stream.ports import TP, Record
from stream.settings import Settings
from stream.topics import TopicError, partitions_of

__all__ = [
    "EarlierThenLater",
    "Recorded",
    "TopicsRecorded",
    "has_topic",
    "losses",
    "recorded_of",
    "records_of",
]


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

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        """Offsets [start, end) whose records were lost before they could be kept here."""

    def close(self) -> None:
        """Let go of files and connections."""


def recorded_of(settings: Settings, archive: str | None, *, imports: bool = False) -> Recorded:
    """What an archive has, a folder or an address; without one, what the topics have.

    With `imports` what was imported into the archive comes before what was recorded. No worker has seen it.
    """
    if archive is None:
        return TopicsRecorded(settings)
    from stream.archive import ArchiveRecorded  # noqa: PLC0415 - pyarrow only where it is asked for
    from stream.archive_imports import ImportsThenRecorded  # noqa: PLC0415

    return ImportsThenRecorded(archive) if imports else ArchiveRecorded(archive)


def has_topic(recorded: Recorded, topic: str) -> bool:
    """Whether there is such a topic."""
    try:
        recorded.partitions(topic)
    except TopicError:
        return False
    return True


def records_of(recorded: Recorded, tp: TP, start: int, end: int) -> Generator[Record, None, None]:
    """The records of a partition one by one."""
    if start < end:
        for chunk in recorded.read(tp, start, end):
            yield from chunk


def losses(tp: TP, gaps: Iterable[tuple[int, int]]) -> list[str]:
    """Each gap in words."""
    return [
        f"{tp[0]}/{tp[1]} lacks the offsets {start:,} to {end - 1:,}, lost before they were archived"
        for start, end in gaps
    ]


class TopicsRecorded:
    """What the topics of the settings' broker still have. Raises Unreachable where that does not answer."""

    def __init__(self, settings: Settings) -> None:
        """Connect; nothing is joined or committed."""
        self._settings = settings
        self._cluster = KafkaCluster(settings, quiet=True)
        self._partitions: dict[str, int] = {}
        """Of the topics that were asked for: it is fixed for life, and asking takes tens of milliseconds."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where there is no such topic."""
        known = self._partitions.get(topic)
        if known is None:
            known = self._partitions[topic] = partitions_of(self._settings, topic)[topic]
        return known

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is, and the one after the last that no open transaction holds back."""
        return once_it_answers(self._cluster.bounds, tp, stable=True)

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks that are not empty; offsets may leave gaps."""
        return self._cluster.read(tp, start, end)

    def first_since(self, tp: TP, ms: int) -> int | None:
        """The first offset that arrived at this time or later, in milliseconds since 1970; None for none."""
        return once_it_answers(self._cluster.since, [tp], ms)[tp]

    def gaps(self, _: TP) -> Sequence[tuple[int, int]]:
        """None: what a topic lost lies before its beginning."""
        return ()

    def close(self) -> None:
        """Close the connection."""
        self._cluster.close()


class EarlierThenLater:
    """What an archive has, and behind its end what the topics have; closes neither."""

    def __init__(self, earlier: Recorded, later: Recorded) -> None:
        """`later` says how many partitions there are."""
        self._earlier = earlier
        self._later = later

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises TopicError where there is no such topic."""
        return self._later.partitions(topic)

    def bounds(self, tp: TP) -> tuple[int, int]:
        """The first offset there is in either, and the end of the later; from the gap on, if there is one."""
        (first, end), (begin, stable) = self._earlier.bounds(tp), self._later.bounds(tp)
        return (first if first < end and begin <= end else begin), stable

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks that are not empty; offsets may leave gaps."""
        _, until = self._earlier.bounds(tp)
        if start < until:
            yield from self._earlier.read(tp, start, min(end, until))
        if end > until:
            yield from self._later.read(tp, max(start, until), end)

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        """Those of the earlier."""
        return self._earlier.gaps(tp)

    def close(self) -> None:
        """Nothing: what was given is closed by who gave it."""
