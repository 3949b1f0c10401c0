"""A recorded past made of lists, for tests that need no broker."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from stream.ports import TP, Headers, Record
from stream.recorded import Recorded
from stream.replay import Opened
from stream.topics import TopicError

_CHUNK = 3


class Lists:
    """What lists hold, by topic and partition; offsets may leave gaps."""

    def __init__(self, topics: Mapping[str, Sequence[Sequence[Record]]]) -> None:
        self._topics = topics

    def partitions(self, topic: str) -> int:
        if topic not in self._topics:
            raise TopicError(f"topic '{topic}' does not exist")
        return len(self._topics[topic])

    def bounds(self, tp: TP) -> tuple[int, int]:
        records = self._topics[tp[0]][tp[1]]
        return (records[0].offset, records[-1].offset + 1) if records else (0, 0)

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        found = [each for each in self._topics[tp[0]][tp[1]] if start <= each.offset < end]
        for at in range(0, len(found), _CHUNK):
            yield found[at : at + _CHUNK]

    def gaps(self, _: TP) -> Sequence[tuple[int, int]]:
        return ()

    def close(self) -> None:
        pass


_: type[Recorded] = Lists


def opens(topics: Mapping[str, Sequence[Sequence[Record]]]) -> Opened:
    """What opens the lists, in this process or another."""
    return partial(Lists, topics)


def a_record(
    topic: str,
    partition: int,
    offset: int,
    at: int,
    value: bytes | None,
    *,
    key: bytes,
    headers: Headers = (),
) -> Record:
    """A record that arrived `at` so many milliseconds after 1970."""
    return Record(topic, partition, offset, at, key, value, headers)
