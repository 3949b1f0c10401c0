"""Recorded records once more through the desk, as a past: nothing is decided, only remembered.

What the desk sends to a stage comes back to it at once, so that the rows of an entity that is turned on come
out as if it had always been.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stream.merge import arrived_at
from stream.ports import NO_POSITIONS, Desk, Produce, Recall, Record, Watermarks
from stream.road import HISTORY

__all__ = ["Anew", "Changed"]

_UNKNOWN: Final = -1


@dataclass(slots=True)
class Changed:
    """What some records change."""

    rows: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    """By partition: every key changed and its new bytes."""
    watermarks: dict[int, int] = field(default_factory=dict)
    """By partition: the watermark after them, where an order was accepted."""


class Anew:
    """Remembers records of an order's home in the order given, at home and in every stage."""

    def __init__(self, desk: Desk, stages: Iterable[str]) -> None:
        """`stages` are the topics of all stages that the desk sends to, in the order of the road."""
        self._desk = desk
        self._stages = tuple(stages)
        self._ends: Counter[tuple[str, int]] = Counter()

    def remember(self, records: Sequence[Record], recall: Recall, watermarks: Watermarks) -> Changed:
        """What records change that come next, by arrival; `recall` and `watermarks` are those before them."""
        changed = Changed()
        rows = changed.rows

        def recalled(partition: int, key: bytes) -> bytes | None:
            here = rows.get(partition)
            return here[key] if here is not None and key in here else recall(partition, key)

        def take(some: Sequence[Record]) -> None:
            known = {**watermarks, **changed.watermarks}
            effects = self._desk.decide(some, recalled, known, NO_POSITIONS)
            for partition, keys in effects.rows.items():
                rows.setdefault(partition, {}).update(keys)
            changed.watermarks.update(effects.watermarks)
            for each in effects.produce:
                if each.topic in waiting:
                    waiting[each.topic].append(self._record(each))

        waiting: Mapping[str, list[Record]] = {topic: [] for topic in self._stages}
        take([each._replace(headers=(*each.headers, HISTORY)) for each in records])
        for topic in self._stages:
            # what skipped a stage has come before what passed it
            if some := sorted(waiting[topic], key=arrived_at):
                take(some)
        return changed

    def _record(self, sent: Produce) -> Record:
        tp = (sent.topic, sent.partition)
        self._ends[tp] += 1
        # no broker took it: it arrived when its header says
        return Record(*tp, self._ends[tp] - 1, _UNKNOWN, sent.key, sent.value, sent.headers)
