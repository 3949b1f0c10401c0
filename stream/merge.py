"""Several inputs as one: their records by arrival, and later in the very order in which they were taken.

`Merge` holds what was handed over and says what may be taken next. It knows no clock and no Kafka: it is told
the time, the ends of the inputs, and what was read. Why, and what it does not promise, is in
docs/decisions/0017-inputs-are-merged-by-arrival.md.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

from stream.ports import TP, Batch, Headers, Produce, Record

__all__ = ["ARRIVED_AT", "Gap", "Merge", "Room", "arrived_at", "by_arrival", "recorded_order"]

ARRIVED_AT: Final = "arrived_at"
"""The header of a record that was recorded elsewhere before: when it arrived there, in ms since 1970."""

_DIGITS: Final = 18
_LONG_AGO: Final = -1


def arrived_at(record: Record) -> int:
    """When the record arrived, in milliseconds since 1970: where it was recorded first, if it says so.

    A header that says anything else is passed over, and one that is ahead of the broker can't be.
    """
    said = _said_of_arrival(record.headers)
    if said < 0:
        return record.timestamp
    return min(said, record.timestamp) if record.timestamp >= 0 else said


def _said_of_arrival(headers: Headers) -> int:
    """The header's word; -1 where there is none that can be read."""
    for name, value in headers:
        if name == ARRIVED_AT and value.isdigit() and len(value) < _DIGITS:
            return int(value)
    return _LONG_AGO


class Room(NamedTuple):
    """How much may be taken at once."""

    records: int
    history_records: int
    """The same where all of them are about the past."""
    size: int
    """Bytes of values, give or take one record."""


class Gap(NamedTuple):
    """Offsets of an input, `begin` to `end` - 1, that the writer has to read itself."""

    tp: TP
    begin: int
    end: int


_Key = tuple[int, int, int]
"""What a record is taken by: its arrival, the rank of its topic in the road, and the partition."""


class _Held(NamedTuple):
    """A record that was handed over."""

    arrived_at: int
    """Never less than that of the record before it: an input's own order is never changed."""
    record: Record
    is_history: bool


_LIVE_MS: Final = 60_000
"""What arrived longer before it was appended here is a past that was published."""


class _Input:
    """One partition of one topic: what was handed over and not yet taken, and what is known of its end."""

    __slots__ = (
        "_coming",
        "_last",
        "_later",
        "_pending",
        "_rank",
        "asked_at",
        "end",
        "excused_until",
        "held",
        "missed_since",
        "owed",
        "reached",
        "size",
        "sure",
        "tp",
    )

    def __init__(self, tp: TP, rank: int, position: int) -> None:
        self.tp = tp
        self.held: deque[_Held] = deque()
        self.size = 0
        """Bytes of the values held, and of those behind a hole."""
        self.reached = position
        """Everything before this offset is held, was taken, or is no record."""
        self.end = 0
        """Where it ended when that was last asked."""
        self.asked_at = float("-inf")
        self.sure: float = float("-inf")
        """Everything appended before this time, in ms since 1970, is held, was taken, or lies open."""
        self._pending: tuple[int, float] | None = None
        """Where it ended when asked, and what will be sure once that is reached."""
        self.owed = 0
        """Up to where the writer reads it itself, without waiting any more."""
        self.missed_since: float | None = None
        """Since when others wait for it; None once something was handed over."""
        self.excused_until = float("-inf")
        """Until when nobody waits for what was produced to it: nothing of it can be read yet."""
        self._coming: deque[tuple[int, int]] = deque()
        """Of what was produced to it and has not come yet: the last offset of each time, and the earliest
        arrival."""
        self._rank = rank
        self._last = _LONG_AGO
        self._later: deque[Batch] = deque()
        """Batches behind a hole: Faust lost what was before them."""

    @property
    def waiting(self) -> int:
        """How many records were handed over and not yet taken."""
        return len(self.held) + sum(len(batch.records) for batch in self._later)

    @property
    def next(self) -> _Key:
        """The key of its next record, or, while it is empty, the least that this could have."""
        return (self.held[0].arrived_at if self.held else self._last, self._rank, self.tp[1])

    @property
    def due(self) -> int:
        """Up to where something was produced to it that may not have come yet."""
        return self._coming[-1][0] + 1 if self._coming else 0

    def next_due(self, now: float) -> _Key | None:
        """The least key of what was produced to it and is waited for; None where there is no such."""
        if self.due <= self.reached or not self.is_behind(now):
            return None
        earliest = min(arrival for _, arrival in self._coming)
        return (max(self._last, earliest), self._rank, self.tp[1])

    def expect(self, offset: int, earliest: int) -> None:
        """Something was produced to it, up to this offset, none of it arrived earlier than that."""
        self._coming.append((offset, earliest))

    def take_over(self, position: int) -> None:
        """Pass over what lies before a position: it was taken, by whomever."""
        while self.held and self.held[0].record.offset < position:
            self.pop()
        if position > self.reached:
            self.reached = position
            self._close_hole()
            self.settle()

    def hand_over(self, batch: Batch) -> None:
        """Add what is new of a batch; it waits while what comes before it is still to be read."""
        self.missed_since = None
        self.size += batch.size
        self._later.append(batch)
        self._close_hole()
        self.settle()

    def fill(self, records: Sequence[Record], until: int) -> None:
        """Add what the writer itself read: there is nothing else before `until`."""
        new = [record for record in records if record.offset >= self.reached]
        self.size += sum(len(record.value or b"") for record in new)
        self._hold(new, is_history=False)
        self.reached = max(self.reached, until)
        self._close_hole()
        self.settle()

    def learn(self, end: int, asked_at: float, appended: float) -> None:
        """Where it ended when that was asked, at which time the broker had come at least so far."""
        self.end, self.asked_at = end, asked_at
        if self._pending is None:
            self._pending = (end, appended)
        self.settle()

    def settle(self) -> None:
        """Note what is sure now, and that nobody waits for an input that is at its end."""
        if self._pending is not None and self._pending[0] <= self.reached:
            self.sure = max(self.sure, self._pending[1])
            self._pending = None
        while self._coming and self._coming[0][0] < self.reached:
            self._coming.popleft()
        if max(self.end, self.owed, self.due) <= self.reached:
            self.missed_since = None

    def _close_hole(self) -> None:
        while self._later:
            batch = self._later[0]
            records = new = batch.records
            if records and records[0].offset < self.reached:
                new = [record for record in records if record.offset >= self.reached]
            # Faust may lose what it fetched around a rebalance or a seek: a hole is read, never taken for
            # transaction markers, unless this batch follows on from one we have seen
            if new and new[0].offset > self.reached and (batch.after is None or batch.after > self.reached):
                self.owed = max(self.owed, new[0].offset)
                return
            self._later.popleft()
            if len(new) < len(records):
                self.size -= batch.size - sum(len(record.value or b"") for record in new)
            self._hold(new, is_history=batch.is_history)
            if records:
                self.reached = max(self.reached, records[-1].offset + 1, batch.until or 0)

    def _hold(self, records: Sequence[Record], *, is_history: bool) -> None:
        last, hold = self._last, self.held.append
        for record in records:
            last = max(last, arrived_at(record))
            hold(_Held(last, record, is_history))
        self._last = last

    def pop(self) -> _Held:
        """Take the next record."""
        held = self.held.popleft()
        self.size -= len(held.record.value or b"")
        return held

    def put_back(self, held: _Held) -> None:
        """Hold a record again that was taken last."""
        self.held.appendleft(held)
        self.size += len(held.record.value or b"")

    def is_behind(self, now: float) -> bool:
        """Whether, being empty, it is known to have more."""
        ends = max(self.end, self.due)
        return self.owed > self.reached or (ends > self.reached and now >= self.excused_until)

    def hinders(self, now: float, trusted_s: float) -> bool:
        """Whether, being empty, it may still get a record that arrived before those of others."""
        return self.is_behind(now) or now - self.asked_at >= trusted_s

    @property
    def sure_by_itself(self) -> float:
        """What is sure of it, as long as nothing is to be read; of what is due more is known."""
        return float("-inf") if self.owed > self.reached else self.sure


class Merge:
    """Holds the inputs of a worker and takes their records in the order in which they arrived.

    `roads` are groups of topics. The records of a group are taken by arrival over all partitions: those that
    arrived at the same time in the group's order of topics, then by partition, then by offset. Later groups
    go first. A record is taken once every other input of its group has a later one, or is at its end: an end
    is believed for `trusted_s`, for what is appended later arrives later. A live record need not wait for an
    input that has all that was appended up to `trusted_s` before it. Otherwise an empty input that is behind
    is waited for, for `wait_s`; then it is a gap, to be read by whoever asks.

    Seconds are those of any clock that only grows. What is handed over lies in memory until it is taken.
    """

    def __init__(self, roads: Sequence[Sequence[str]], *, wait_s: float, trusted_s: float) -> None:
        self._roads = roads
        self._wait_s = wait_s
        self._trusted_s = trusted_s
        self._groups: list[list[_Input]] = [[] for _ in roads]
        self._inputs: dict[TP, _Input] = {}
        self._taken: list[tuple[_Input, _Held]] = []
        self._appended = float("-inf")
        """When the newest record that was seen was appended, in ms since 1970."""

    def open(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Go on from these positions, by partition and topic; what is held of before them is passed over."""
        self.put_back({})
        for group, topics in zip(self._groups, self._roads, strict=True):
            for number, offsets in positions.items():
                for rank, topic in enumerate(topics):
                    tp = (topic, number)
                    if tp not in self._inputs:
                        self._inputs[tp] = _Input(tp, rank, offsets[topic])
                        group.append(self._inputs[tp])
                    self._inputs[tp].take_over(offsets[topic])

    def hand_over(self, batch: Batch) -> None:
        """Add a batch; what was already handed over, or read, is passed over."""
        if batch.records:
            self._appended = max(self._appended, batch.records[-1].timestamp)
        self._inputs[batch.topic, batch.partition].hand_over(batch)

    def fill(self, tp: TP, records: Sequence[Record], until: int) -> None:
        """Add what was read of a gap: all there is from its beginning to before `until`."""
        self._inputs[tp].fill(records, until)

    def reached(self, tp: TP) -> int:
        """The offset before which everything was handed over or read."""
        return self._inputs[tp].reached

    def position_after(self, tp: TP, offset: int) -> int:
        """The next offset of an input once that record is taken: beyond markers, where no other waits."""
        each = self._inputs[tp]
        return offset + 1 if each.held else max(offset + 1, each.reached)

    def waiting(self) -> dict[TP, tuple[int, int]]:
        """By input that holds any: records and bytes that were handed over and not yet taken."""
        return {tp: (count, each.size) for tp, each in self._inputs.items() if (count := each.waiting)}

    # --- what is known of the ends ---------------------------------------------------------------

    def questions(self, now: float) -> list[TP]:
        """The inputs whose ends must be asked before more is taken: all, if any, for it is one question."""
        for group in self._groups:
            if any(each.held for each in group):
                for each in group:
                    # early: until it hinders, what is on its way has time to come
                    old = now - each.asked_at >= self._trusted_s / 2
                    if old and not each.held and not each.is_behind(now):
                        return list(self._inputs)
        return []

    def learn(self, ends: Mapping[TP, int], asked_at: float) -> None:
        """Where inputs ended, for a reader of committed records, when that was asked."""
        for tp, end in ends.items():
            self._inputs[tp].learn(end, asked_at, self._appended)

    def produced(self, last: Mapping[TP, int], records: Iterable[Produce]) -> None:
        """What was just produced, and its last offsets: inputs among these are behind until it comes."""
        to = self._inputs.keys() & last.keys()
        earliest: dict[TP, int] = {}
        for record in records if to else ():
            tp = (record.topic, record.partition)
            if tp in to:
                arrival = _said_of_arrival(record.headers)
                earliest[tp] = min(earliest.get(tp, arrival), arrival)
        for tp in to:
            self._inputs[tp].expect(last[tp], earliest.get(tp, _LONG_AGO))

    def overdue(self, now: float) -> list[TP]:
        """The inputs that others have waited for long enough."""
        return [
            tp
            for tp, each in self._inputs.items()
            if not each.held
            and each.missed_since is not None
            and now - each.missed_since >= self._wait_s
            and each.owed <= each.reached
            and each.is_behind(now)
        ]

    def search(self, ends: Mapping[TP, int], asked_at: float) -> None:
        """Read inputs up to these ends without waiting; what can't be read yet is not waited for either."""
        self.learn(ends, asked_at)
        for tp, end in ends.items():
            each = self._inputs[tp]
            if end > each.reached:
                each.owed = max(each.owed, end)
            else:
                each.excused_until = asked_at + self._trusted_s

    def gap(self) -> Gap | None:
        """What has to be read now: a piece of it will do, and then it is asked again."""
        for tp, each in self._inputs.items():
            if not each.held and each.owed > each.reached:
                return Gap(tp, each.reached, each.owed)
        return None

    # --- taking ----------------------------------------------------------------------------------

    def take(self, now: float, room: Room, *, only_stages: bool = False) -> list[Record]:
        """The records that come next, as many as there is room for; `put_back` what then was not taken.

        `only_stages`: those of the first group, an order's home, stay where they are.
        """
        self._taken = []
        left = _Left(room)
        for group in reversed(self._groups[1:] if only_stages else self._groups):
            if not self._take_of(group, now, left):
                break
        return [held.record for _, held in self._taken]

    def _take_of(self, group: Sequence[_Input], now: float, left: "_Left") -> bool:
        """Take of one group; False once there is no more room."""
        heads = [(each.next, each) for each in group if each.held]
        if not heads:
            return True
        hindering = [each for each in group if not each.held and each.hinders(now, self._trusted_s)]
        least = min((each.next for each in hindering), default=None)
        sure = min((each.sure_by_itself for each in hindering), default=0.0)
        due = min(filter(None, (each.next_due(now) for each in hindering)), default=None)
        heapq.heapify(heads)
        while heads:
            key, each = heads[0]
            is_before_due = due is None or key <= due
            if (
                least is not None
                and key > least
                and not (is_before_due and self._is_live(each.held[0], sure))
            ):
                for other in hindering:
                    if other.missed_since is None and other.next < key and other.is_behind(now):
                        other.missed_since = now
                return True
            if not left.has_room_for(each.held[0]):
                return False
            self._taken.append((each, each.pop()))
            if each.held:
                heapq.heapreplace(heads, (each.next, each))
                continue
            heapq.heappop(heads)
            if each.hinders(now, self._trusted_s):
                due = min(filter(None, (due, each.next_due(now))), default=None)
                sure = each.sure_by_itself if not hindering else min(sure, each.sure_by_itself)
                least = each.next if least is None else min(least, each.next)
                hindering.append(each)
        return True

    def _is_live(self, held: _Held, sure: float) -> bool:
        """Whether a record is of now, and no later than others are sure of, give or take what is trusted."""
        appended = held.record.timestamp
        return appended <= sure + self._trusted_s * 1000 and appended - held.arrived_at < _LIVE_MS

    def put_back(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Hold again what was taken last and lies beyond these positions; all of it where there are none."""
        for each, held in reversed(self._taken):
            topic, number = each.tp
            if held.record.offset >= positions.get(number, {}).get(topic, 0):
                each.put_back(held)
        self._taken = []

    def patience(self, now: float) -> float | None:
        """Seconds until more can be done though nothing is handed over; None where nothing is waited for."""
        waits = [
            max(0.0, each.missed_since + self._wait_s - now)
            for each in self._inputs.values()
            if not each.held and each.missed_since is not None and each.is_behind(now)
        ]
        return min(waits, default=None)


class _Left:
    """The room that is left."""

    __slots__ = ("_all_history", "_records", "_room", "_size")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._records = 0
        self._size = 0
        self._all_history = True

    def has_room_for(self, held: _Held) -> bool:
        """Whether one more finds room, and if so it takes it."""
        all_history = self._all_history and held.is_history
        room = self._room
        # few where one is to be decided
        if (
            self._records >= (room.history_records if all_history else room.records)
            or self._size >= room.size
        ):
            return False
        self._all_history = all_history
        self._records += 1
        self._size += len(held.record.value or b"")
        return True


# ---------------------------------------------------------------------- the past


def by_arrival(inputs: Iterable[Iterable[Record]]) -> Iterator[Record]:
    """The records of inputs of which all is known, in the order in which a worker takes them.

    Of records that arrived at the same time that of the input named first goes first.
    """
    return (record for _, record in heapq.merge(*map(_by_their_own_order, inputs), key=itemgetter(0)))


def _by_their_own_order(records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    last = _LONG_AGO
    for record in records:
        last = max(last, arrived_at(record))
        yield last, record


def recorded_order(
    inputs: Mapping[str, Iterable[Record]], *, orders: str, marks: Iterable[tuple[int, Mapping[str, int]]]
) -> Iterator[Record]:
    """The records of a partition's inputs in the order in which a worker took them.

    `inputs` are in the order that counts where arrivals are equal, each by its offsets. `marks` say, for some
    of the orders and by their offsets, the next offset of every other input when that order was taken, as its
    decision does. Between two of these nothing is known but the arrival, and that goes.

    Raises ValueError where the marks contradict one another.
    """
    sources = [_Source(topic, records) for topic, records in inputs.items()]
    home = next(source for source in sources if source.topic == orders)
    others = [source for source in sources if source is not home]
    said = dict.fromkeys((source.topic for source in others), 0)
    for offset, mark in marks:
        for topic in said:
            bound = mark.get(topic, said[topic])
            if bound < said[topic]:
                raise ValueError(
                    f"'{orders}' offset {offset} says that '{topic}' had been taken up to offset {bound}, "
                    f"and an order before it says {said[topic]}"
                )
            said[topic] = bound
        yield from _merged(sources, said | {orders: offset})
        # the order itself, and not what came after it
        yield from _merged([home], {orders: offset + 1})
    yield from _merged(sources, {})


def _merged(sources: Sequence["_Source"], before: Mapping[str, int]) -> Iterator[Record]:
    """By arrival, what lies before these offsets; of other inputs everything."""
    while True:
        ready = [each for each in sources if each.has_one_before(before.get(each.topic))]
        if not ready:
            return
        yield min(ready, key=attrgetter("arrived_at")).pop()


class _Source:
    """One input of the past."""

    __slots__ = ("_next", "_records", "topic")

    def __init__(self, topic: str, records: Iterable[Record]) -> None:
        self.topic = topic
        self._records = _by_their_own_order(records)
        self._next = next(self._records, None)

    def has_one_before(self, offset: int | None) -> bool:
        return self._next is not None and (offset is None or self._next[1].offset < offset)

    @property
    def arrived_at(self) -> int:
        return self._there[0]

    def pop(self) -> Record:
        record = self._there[1]
        self._next = next(self._records, None)
        return record

    @property
    def _there(self) -> tuple[int, Record]:
        assert self._next is not None  # noqa: S101 (only asked for where it has one)
        return self._next
