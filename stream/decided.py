"""Scored decisions with the orders that they are about, read from what was recorded, topics or an archive.

Both are read side by side, so that little of them is in memory at once. Nothing is joined, committed or
changed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Final, NamedTuple

import msgspec

from features.decode import Rejection, decode_event
from features.events import Outcome
from features.facts import Statement, statement_of
from models.policy import Action
from stream.answers import ORDER_ARRIVED_AT, SHADOW
from stream.decoder import decoder_of
from stream.errors import Refusal
from stream.panel import MODEL_UNAVAILABLE
from stream.past import Sources
from stream.ports import TP, Record
from stream.recorded import Recorded, TopicsRecorded, has_topic
from stream.replay import Opened
from stream.settings import Settings, Topics

__all__ = [
    "DecidedError",
    "DecidedOrder",
    "Newest",
    "Read",
    "Word",
    "decided_in",
    "reading",
    "statements_of",
]

_CLOCKS_MS: Final = 300_000
"""How far a worker's clock may be behind the broker's."""
_ACTIONS: Final = frozenset(Action)
_AHEAD: Final = 10_000
"""Of so many orders the decisions are read ahead of them: through stages they come in another order."""

Read = Callable[[int], None]
"""Told how many more records were read."""


class DecidedError(Refusal):
    """There are no decisions to be looked at; the message says why and what to do."""


class _Model(msgspec.Struct, frozen=True):
    name: str
    version: str


class _Source(msgspec.Struct):
    topic: str
    offset: int
    others: dict[str, int] = {}


class _Reason(msgspec.Struct, frozen=True):
    code: str


class _Decision(msgspec.Struct):
    action: str
    source: _Source
    p_fraud: float | None = None
    features: dict[str, float | None] = {}
    model: _Model | None = None
    reasons: tuple[_Reason, ...] = ()
    repeat_of: str | None = None
    policy: str = ""


_decision: Final = msgspec.json.Decoder(_Decision).decode


class Word(NamedTuple):
    """What one model said of an order."""

    model: str
    """`name@version`."""
    action: str
    p_fraud: float
    features: Mapping[str, float | None]
    """None is unknown."""
    control: int = 0
    """The control offset that it was said under."""
    took_s: float | None = None
    """From the order's arrival to the decision, both by the broker or the worker that wrote them."""
    failed: bool = False
    """Whether the model that was to decide could not be used."""
    policy: str = ""
    """The digest of the thresholds that made an action of what it said."""

    def is_of(self, models: Collection[str]) -> bool:
        """Whether one of these models said it, each `name` or `name@version`; of none, whichever did."""
        return not models or self.model in models or self.model.partition("@")[0] in models


class DecidedOrder(NamedTuple):
    """An order that was scored."""

    order_id: str
    revision: int
    customer_id: str | None
    placed_at: int
    """Microseconds since 1970."""
    amount: int
    """In minor units of `currency`."""
    currency: str
    counted: Word | None
    """What the model said that decided; None where only challengers scored it, or its decision is gone."""
    shadow: tuple[Word, ...]
    """What challengers said of the same arrival."""
    merchant: str | None = None
    country: str | None = None
    channel: str | None = None
    arrived_at: int = 0
    """Milliseconds since 1970, by the broker."""

    @property
    def placed(self) -> datetime:
        """`placed_at`, in UTC."""
        return datetime.fromtimestamp(self.placed_at / 1_000_000, UTC)

    def is_placed(self, since: datetime | None, until: datetime | None) -> bool:
        """Whether it was placed in [since, until); None bounds nothing."""
        return (since is None or self.placed >= since) and (until is None or self.placed < until)


@contextmanager
def reading(
    settings: Settings, opened: Opened, read: Callable[[int, int], None]
) -> Iterator[tuple[Sources, range, Read]]:
    """What was recorded, its partitions, and through what `read` is told how many records of about how many.

    Raises DecidedError where orders and decisions are not of one shop.
    """
    with ExitStack() as stack:
        sources = Sources.opened(opened, stack)
        partitions = range(_partitions(settings, sources.asked))
        topics = (settings.topics.orders, settings.topics.decisions)
        bounds = [sources.asked.bounds((topic, each)) for topic in topics for each in partitions]
        of, so_far = sum(end - low for low, end in bounds), 0

        def more(records: int) -> None:
            nonlocal so_far
            so_far += records
            read(so_far, max(of, so_far))

        yield sources, partitions, more


def _partitions(settings: Settings, recorded: Recorded) -> int:
    topics = settings.topics
    there = recorded.partitions(topics.orders)
    decisions = recorded.partitions(topics.decisions)
    if there != decisions:
        raise DecidedError(
            f"'{topics.orders}' has {there} partitions and '{topics.decisions}' {decisions}, so they are not "
            "of one shop; see the settings topics.*"
        )
    return there


class Newest(NamedTuple):
    """Which of the recorded orders are read, where not all of them."""

    since: datetime
    """What arrived before is left out where times of arrival can be looked up, which an archive's can't."""
    at_most: int | None = None
    """Of a partition, the newest."""


def decided_in(
    settings: Settings,
    sources: Sources,
    partition: int,
    *,
    read: Read = lambda _: None,
    newest: Newest | None = None,
    unscored: bool = False,
) -> Iterator[DecidedOrder]:
    """The orders of a partition that were scored, in log order; resends and test orders are not among them.

    What was decided while observing counts as a decision. With `unscored` also those that no model could
    decide: `model` is then empty, and `p_fraud` not a number.
    """
    topics, decoder = settings.topics, decoder_of(settings)
    tp: TP = (topics.orders, partition)
    start, said_since = _start(sources.orders, tp, newest)
    decided = [
        _Said(
            _records(source, (topic, partition), read, _since(source, (topic, partition), said_since)),
            topics,
            unscored=unscored,
        )
        for source, topic in (
            (sources.decisions, topics.decisions),
            (sources.shadow, topics.decisions_shadow),
        )
    ]
    ahead = timedelta(seconds=settings.ahead_by_at_most_s)
    for record in _records(sources.orders, tp, read, start):
        counted: Word | None = None
        beside = []
        for is_challenger, word in (said for each in decided for said in each.at(record.offset)):
            if is_challenger:
                beside.append(word)
            elif counted is None:
                counted = word
        if counted is None and not beside:
            continue
        order = decoder.order(record.value, key=record.key, arrived_at=None, ahead_by_at_most=ahead)
        if isinstance(order, Rejection) or order.test:
            continue
        yield DecidedOrder(
            order.order_id,
            order.revision,
            order.customer_id,
            int(order.placed_at.timestamp() * 1_000_000),
            order.amount,
            order.currency,
            counted,
            tuple(beside),
            order.merchant_id,
            order.country,
            order.channel,
            record.timestamp,
        )


def statements_of(
    settings: Settings, recorded: Recorded, partition: int, *, read: Read = lambda _: None
) -> Mapping[str, list[Statement]]:
    """What outcomes say of a partition's orders, by order, in the order in which it was recorded."""
    said: dict[str, list[Statement]] = {}
    ahead = timedelta(seconds=settings.ahead_by_at_most_s)
    for record in _records(recorded, (settings.topics.outcomes, partition), read):
        outcome = decode_event(
            record.value, Outcome, key=record.key, arrived_at=record.timestamp, ahead_by_at_most=ahead
        )
        if not isinstance(outcome, Rejection):  # it is with the dead letters
            said.setdefault(outcome.order_id, []).append(statement_of(outcome))
    return said


def _start(recorded: Recorded, tp: TP, newest: Newest | None) -> tuple[int, int]:
    """The first offset of the orders to be read, and since when there may be decisions about them, in ms."""
    if newest is None or not has_topic(recorded, tp[0]):
        return 0, 0
    since = int(newest.since.timestamp() * 1000)
    start = _since(recorded, tp, since)
    _, end = recorded.bounds(tp)
    if newest.at_most is None or start >= end - newest.at_most:
        return start, since - _CLOCKS_MS
    start = end - newest.at_most
    first = next(iter(recorded.read(tp, start, end)), None)
    return start, (since if first is None else first[0].timestamp) - _CLOCKS_MS


def _since(recorded: Recorded, tp: TP, ms: int) -> int:
    """The first offset that arrived then or later; 0 where that can't be looked up."""
    if ms <= 0 or not isinstance(recorded, TopicsRecorded) or not has_topic(recorded, tp[0]):
        return 0
    first = recorded.first_since(tp, ms)
    return recorded.bounds(tp)[1] if first is None else first


def _records(recorded: Recorded, tp: TP, read: Read, start: int = 0) -> Iterator[Record]:
    if not has_topic(recorded, tp[0]):  # nobody scored in the shadow, or nobody reports outcomes
        return
    low, end = recorded.bounds(tp)
    low = max(low, start)
    for chunk in recorded.read(tp, low, end) if low < end else ():
        read(len(chunk))
        yield from chunk


class _Said:
    """What decisions of one topic say, by the offset of the order; an order has one from each challenger."""

    def __init__(self, records: Iterator[Record], topics: Topics, *, unscored: bool) -> None:
        self._records = records
        self._topics = topics
        self._unscored = unscored
        self._ahead: dict[int, list[tuple[bool, Word]]] = {}

    def at(self, offset: int) -> list[tuple[bool, Word]]:
        """Those about the order at this offset, and whether a challenger's; asked in the order of offsets."""
        while len(self._ahead) < _AHEAD and (record := next(self._records, None)) is not None:
            about, word = _word(record, self._topics, unscored=self._unscored)
            if word is not None and about >= offset:
                self._ahead.setdefault(about, []).append((SHADOW in record.headers, word))
        found = self._ahead.pop(offset, [])
        if len(self._ahead) >= _AHEAD:
            for gone in [each for each in self._ahead if each < offset]:  # about orders that are not there
                del self._ahead[gone]
        return found


def _word(record: Record, topics: Topics, *, unscored: bool) -> tuple[int, Word | None]:
    """The offset of a decision's order and what it says; None where none was scored, or it repeats one."""
    try:
        said = _decision(record.value or b"")
    except msgspec.MsgspecError:
        return 0, None
    if said.action not in _ACTIONS:  # anyone may write to a topic
        return 0, None
    is_scored = said.model is not None and said.p_fraud is not None
    if not (is_scored or unscored) or said.repeat_of is not None or said.source.topic != topics.orders:
        return 0, None
    arrived = next((value for name, value in record.headers if name == ORDER_ARRIVED_AT), None) or b""
    word = Word(
        f"{said.model.name}@{said.model.version}" if said.model is not None else "",
        said.action,
        nan if said.p_fraud is None else said.p_fraud,
        said.features,
        said.source.others.get(topics.control, 0),
        (record.timestamp - int(arrived)) / 1000 if arrived.isdigit() else None,
        bool(said.reasons) and said.reasons[0].code == MODEL_UNAVAILABLE,
        said.policy,
    )
    return said.source.offset, word
