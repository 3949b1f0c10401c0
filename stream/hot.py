"""Hot keys: whether one customer, device or merchant has more of a partition's records than is good.

All records of one key are taken by one worker, one after the other, however many workers there are. Nothing
stops by that, but the key's partition can't be faster than one worker is; a person has to know.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from stream.ports import TP, Record

__all__ = ["RECENT", "HotKeys"]

log = logging.getLogger("fraudstream.hot")

RECENT: Final = 1_000
"""Of how many records of a partition, at least, a share is told."""

_SAID_AGAIN_S: Final = 60.0

_place = attrgetter("topic", "partition")


@dataclass(slots=True)
class _Recent:
    """What was counted of one partition since its share was last told."""

    keys: Counter[int] = field(default_factory=Counter)
    """By hash: keys may be long, and nobody needs them here."""
    records: int = 0


class HotKeys:
    """Counts what is committed, and warns of a share above the limit; one thread counts, any may read."""

    def __init__(self, limit: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is a share of 0 to 1; 0 never warns. `clock` answers seconds."""
        self._limit = limit
        self._clock = clock
        self._recent: dict[TP, _Recent] = {}
        self._said_at: float | None = None
        self.shares: dict[TP, float] = {}
        """By topic and partition: the share of the hottest key among the last whole RECENT records."""

    def count(self, records: Sequence[Record]) -> None:
        """Take notice of a committed batch."""
        for place, some in groupby(records, _place):
            keys = [record.key for record in some]
            recent = self._recent.get(place)
            if recent is None:
                recent = self._recent[place] = _Recent()
            recent.records += len(keys)
            recent.keys.update(map(hash, filter(None, keys)))
            if recent.records >= RECENT:
                self._tell(place, recent)
                del self._recent[place]

    def _tell(self, place: TP, recent: _Recent) -> None:
        share = self.shares[place] = max(recent.keys.values(), default=0) / recent.records
        if not self._limit or share <= self._limit:
            return
        now = self._clock()
        if self._said_at is not None and now - self._said_at < _SAID_AGAIN_S:
            return
        self._said_at = now
        log.warning(
            "%.0f%% of the last %s records of topic '%s', partition %s, have one key, more than "
            "hot_share=%g: they are taken by one worker, one after the other; docs/guarantees.md says what "
            "that limits",
            *(100 * share, f"{recent.records:,}", *place, self._limit),
        )
