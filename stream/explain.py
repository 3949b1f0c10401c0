"""Why an order's features are what they are: each value, and the past orders that made it.

The past is read from the topic and goes through `features.replay`, as a worker would have seen it.
Nothing is joined, committed or changed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from features.catalogue import is_served
from features.decode import Rejection
from features.define import Feature
from features.events import Order
from features.fast import Told
from features.history import History
from features.money import in_major_units
from features.remembered import NUMBERS, VALUES, hashed
from features.replay import LeftOut, Replay
from stream.decoder import CONTRACT, decoder_of
from stream.desk import is_history, partition_of
from stream.errors import Refusal
from stream.explain_stage import Known, known_at_stage
from stream.plainly import plain
from stream.ports import TP, Record
from stream.recorded import Recorded, TopicsRecorded
from stream.settings import Settings

__all__ = [
    "ExplainError",
    "Explained",
    "Explanation",
    "PastOrder",
    "Read",
    "explain_given",
    "explain_order",
    "explain_recorded",
    "is_explained",
    "money",
    "said",
    "when",
]

_CUSTOMER: Final = "customer"
_AS_MANY_AGAIN: Final = 4
"""Times the orders of a row that are kept by what they say, before those no longer in the row are let go."""

Read = Callable[[int, int], None]
"""Told how many records were read so far, and of how many."""


class ExplainError(Refusal):
    """The order can't be explained; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PastOrder:
    """One of the orders that made a value."""

    order_id: str
    placed_at: datetime
    amount: int
    currency: str
    said: Mapping[str, str | int]
    """What it says of the fields that the feature looks at; what it does not say is left out."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        return {
            "order_id": self.order_id,
            "placed_at": self.placed_at.isoformat(),
            "amount": self.amount,
            "currency": self.currency,
            "said": dict(self.said),
        }


@dataclass(frozen=True, slots=True)
class Explained:
    """A feature's value for the order, None where it is missing, and what made it."""

    feature: Feature
    value: float | None
    is_exact: bool
    """False where older orders than those held one by one count, within the bound of docs/history.md."""
    orders: tuple[PastOrder, ...]
    """Newest first; not all of them where `more` is not 0."""
    more: int

    @property
    def shown(self) -> str:
        """The value with its unit, or why there is none."""
        if self.value is None:
            return f"missing: {self.feature.missing}"
        if self.feature.categories is not None:
            return self.feature.categories[int(self.value)]
        number = f"{self.value:,.0f}" if self.value.is_integer() else f"{self.value:,.6g}"
        return f"{number}  ({self.feature.unit})"

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        feature = self.feature
        told: dict[str, Any] = {"feature": feature.name, "value": self.value, "unit": feature.unit}
        if feature.categories is not None and self.value is not None:
            told["category"] = feature.categories[int(self.value)]
        if self.value is None:
            told["missing"] = feature.missing
        orders = [each.as_json() for each in self.orders]
        return told | {"exact": self.is_exact, "orders": orders, "more": self.more}


@dataclass(frozen=True, slots=True)
class Explanation:
    """An order's features, and of how many past orders they know."""

    order: Order | Told
    past: int | None
    """The customer's remembered orders from before this one; None for a guest."""
    folded: int
    """How many more are counted in tiles only."""
    features: tuple[Explained, ...]
    known: Mapping[str, Known] = field(default_factory=dict)
    """The same of the other entities whose features are explained."""

    def as_json(self) -> dict[str, Any]:
        """The order, without its features, for machines."""
        order = self.order
        return {
            "order_id": order.order_id,
            "revision": order.revision,
            "customer_id": order.customer_id,
            "placed_at": order.placed_at.isoformat(),
            "amount": order.amount,
            "currency": order.currency,
            "past_orders": self.past,
            "folded_orders": self.folded,
            "entities": {
                entity: {
                    "id": known.named,
                    "past_orders": None if known.history is None else len(known.history),
                    "folded_orders": known.folded,
                }
                for entity, known in self.known.items()
            },
        }


def explain_order(
    settings: Settings,
    order_id: str,
    features: Sequence[Feature],
    *,
    since: datetime | None = None,
    most: int = 5,
    told: Read = lambda _read, _of: None,
) -> Explanation:
    """The features of an order in the topic as of its arrival; of several revisions the newest.

    `since`: what arrived before is not looked at. At most `most` past orders are shown for each feature.
    Raises ExplainError, TopicError, Unreachable, MappingFileError.
    """
    _refuse_unexplained(features, settings)
    with closing(_Shop(settings, since, told)) as shop:
        place, order = shop.find(order_id)
        past = shop.past(order, place.partition, place.offset)
        return _explained(
            order, past, features, settings, most, at_stages=shop.at_stages(order, place, features)
        )


def explain_given(
    settings: Settings,
    value: bytes,
    features: Sequence[Feature],
    *,
    since: datetime | None = None,
    most: int = 5,
    told: Read = lambda _read, _of: None,
) -> Explanation:
    """The features that an order would have if it arrived now; `value` is as the shop sends it.

    What the topic has under its id is not part of its past. Raises as `explain_order` does.
    """
    _refuse_unexplained(features, settings)
    decoder = decoder_of(settings)
    named = decoder.identity(value)
    key = (named.customer_id or named.order_id or "").encode()
    order = decoder.order(value, key=key, arrived_at=None, ahead_by_at_most=_ahead(settings))
    if isinstance(order, Rejection):
        raise ExplainError(f"the order would be rejected: {order.code}: {order.detail}")
    with closing(_Shop(settings, since, told)) as shop:
        past = shop.past(order, partition_of(key, shop.partitions), None)
        return _explained(
            order, past, features, settings, most, at_stages=shop.at_stages(order, None, features)
        )


def explain_recorded(
    settings: Settings,
    recorded: Recorded,
    record: Record,
    features: Sequence[Feature],
    *,
    most: int = 5,
    told: Read = lambda _read, _of: None,
) -> Explanation | None:
    """The features of an order that was recorded, as of its arrival; None for one that can't be read.

    Raises as `explain_order` does; what was recorded is not closed.
    """
    _refuse_unexplained(features, settings)
    shop = _Shop(settings, None, told, recorded)
    order = shop.decoded(record)
    if isinstance(order, Rejection):
        return None
    past = shop.past(order, record.partition, record.offset)
    place = _Place(record.partition, record.offset)
    return _explained(order, past, features, settings, most, at_stages=shop.at_stages(order, place, features))


def is_explained(feature: Feature, entities: Collection[str] = ()) -> bool:
    """Whether what it asks lies in the topic of orders, or in that of the stage of one of these entities.

    What became of a customer's orders does not.
    """
    return feature.entity in entities or (is_served(feature) and not feature.looks_at_facts)


def _refuse_unexplained(features: Sequence[Feature], settings: Settings) -> None:
    names = [
        f"{each.name} ({'what became of orders' if each.looks_at_facts else each.entity})"
        for each in features
        if not is_explained(each, settings.entities)
    ]
    if names:
        raise ExplainError(
            "only what the order, its customer's orders and the histories of the setting entities say is "
            f"explained so far, not {', '.join(names)}; 'fraudstream features' lists the others"
        )


def _ahead(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.ahead_by_at_most_s)


# Reading ------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    partition: int
    offset: int
    is_live: bool
    order: Order | Told


class _Place(NamedTuple):
    partition: int
    offset: int


class _Shop:
    """The topic of orders, to be read; or an archive that has it, of which no time can be asked."""

    def __init__(
        self, settings: Settings, since: datetime | None, told: Read, recorded: Recorded | None = None
    ) -> None:
        self._settings = settings
        self._topic = settings.topics.orders
        self._since = since
        self._decoder = decoder_of(settings)
        self._topics = TopicsRecorded(settings) if recorded is None else None
        self._recorded = recorded or cast("Recorded", self._topics)
        self.partitions = self._recorded.partitions(self._topic)
        self._told = told
        self._read = self._of = 0

    def close(self) -> None:
        if self._topics is not None:
            self._topics.close()

    def find(self, order_id: str) -> tuple[_Place, Order | Told]:
        """Where the order's newest revision was first decided, else first remembered.

        Two partitions know nothing of each other, so the first that has the order is read to its end.
        """
        refused: Rejection | None = None
        wanted = order_id.encode()
        bounds = {partition: self._bounds(partition) for partition in range(self.partitions)}
        self._of = sum(end - begin for begin, end in bounds.values())
        for partition, (begin, end) in bounds.items():
            found: list[_Found] = []
            for record in self._records(partition, begin, end):
                value = record.value
                # decoding is most of the work; JSON may write any letter with a backslash, and a mapping
                # may make the id of several fields
                if value is None or (
                    self._decoder is CONTRACT and wanted not in value and b"\\" not in value
                ):
                    continue
                order = self.decoded(record)
                if order.order_id != order_id:
                    continue
                if isinstance(order, Rejection):
                    refused = order
                else:
                    found.append(_Found(partition, record.offset, not is_history(record), order))
            if found:
                return _newest(found)
        if refused is not None:
            raise ExplainError(
                f"order '{order_id}' is in topic '{self._topic}' and was rejected: {refused.code}: "
                f"{refused.detail}; 'fraudstream dead-letters list' shows it"
            )
        when = "" if self._since is None else f" since {self._since.isoformat()}"
        further = "" if self._since is None else ", read further back with --since"
        raise ExplainError(
            f"no order '{order_id}' arrived in topic '{self._topic}' on {self._settings.broker}{when}; "
            f"check the id{further}, or give the order itself: --order FILE"
        )

    def past(self, order: Order | Told, partition: int, before: int | None) -> Iterator[Order | Told]:
        """The customer's other orders that arrived before an offset, in log order; none for a guest."""
        if order.customer_id is None:
            return
        key = order.key.encode()
        begin, end = self._bounds(partition)
        end = end if before is None else min(before, end)
        self._of = self._read + max(0, end - begin)
        for record in self._records(partition, begin, end):
            if record.key != key:
                continue
            other = self.decoded(record)
            if not isinstance(other, Rejection) and other.order_id != order.order_id:
                yield other

    def at_stages(
        self, order: Order | Told, place: _Place | None, features: Sequence[Feature]
    ) -> dict[str, Known]:
        """What was known of every other entity that features ask, when the order stood at its stage."""
        asked = {each.entity for each in features}
        return {
            entity: known_at_stage(self._settings, entity, order, place, self._from_the_beginning)
            for entity in self._settings.entities
            if entity in asked
        }

    def _from_the_beginning(self, topic: str, partition: int) -> Iterator[Record]:
        self._recorded.partitions(topic)
        begin, end = self._bounds(partition, topic)
        self._of = self._read + max(0, end - begin)
        return self._records(partition, begin, end, topic)

    def decoded(self, record: Record) -> Order | Told | Rejection:
        return self._decoder.order(
            record.value,
            key=record.key,
            arrived_at=record.timestamp,
            ahead_by_at_most=_ahead(self._settings),
        )

    def _bounds(self, partition: int, topic: str = "") -> tuple[int, int]:
        tp: TP = (topic or self._topic, partition)
        # what an open transaction holds back has not arrived for a worker either
        begin, end = self._recorded.bounds(tp)
        if self._since is not None and self._topics is not None:
            first = self._topics.first_since(tp, int(self._since.timestamp() * 1000))
            begin = end if first is None else min(max(begin, first), end)
        return begin, end

    def _records(self, partition: int, begin: int, end: int, topic: str = "") -> Iterator[Record]:
        before, tp = self._read, (topic or self._topic, partition)
        for chunk in self._recorded.read(tp, begin, end) if begin < end else ():
            yield from chunk
            self._read = before + chunk[-1].offset + 1 - begin
            self._told(self._read, self._of)
        self._read = before + end - begin


def _newest(found: Sequence[_Found]) -> tuple[_Place, Order | Told]:
    """The first live arrival of the newest revision as it counted: what came first under its number."""
    newest = max(each.order.revision for each in found)
    same = [each for each in found if each.order.revision == newest]
    content = same[0].order.content_digest
    counted = [each for each in same if each.order.content_digest == content]
    first = next((each for each in counted if each.is_live), counted[0])
    return _Place(first.partition, first.offset), first.order


# Explaining ---------------------------------------------------------------------------------------


def _explained(
    order: Order | Told,
    past: Iterator[Order | Told],
    features: Sequence[Feature],
    settings: Settings,
    most: int,
    *,
    at_stages: Mapping[str, Known] = MappingProxyType({}),
) -> Explanation:
    replay = Replay(lambda _order, _histories: None, row_limit=settings.row_limit)
    by_id: dict[int, Order | Told] = {}
    for other in past:
        if isinstance(replay.follow(other), LeftOut):
            continue
        where = hashed(other.order_id)
        known = by_id.get(where)
        if known is None or known.revision < other.revision:
            by_id[where] = other
        if len(by_id) > _AS_MANY_AGAIN * settings.row_limit:
            held = replay.row(_CUSTOMER, other.key).column("order")
            by_id = {order: by_id[order] for order in held}
    history = replay.recall(order)[_CUSTOMER]
    folded = 0 if order.customer_id is None else replay.row(_CUSTOMER, order.customer_id).folded
    at_home = Known(order.customer_id, history, folded, by_id)
    return Explanation(
        order,
        None if history is None else len(history),
        folded,
        tuple(
            [
                _feature_explained(
                    each, cast("Order", order), at_stages.get(each.entity or "", at_home), most
                )
                for each in features
            ]
        ),
        at_stages,
    )


def _feature_explained(feature: Feature, order: Order, known: Known, most: int) -> Explained:
    history = known.history
    if feature.entity is None or history is None:
        return Explained(feature, feature.value(order, history), True, (), 0)
    history.is_exact = True
    value = feature.value(order, history)
    is_exact = history.is_exact
    looked_at: Callable[[Order, History], list[int]] | None = getattr(feature, "looked_at", None)
    positions = [] if looked_at is None or value is None else looked_at(order, history)
    held = history.held_orders(0, len(history))
    words = tuple(dict.fromkeys(_words(feature)))
    newest = [known.by_id[held[position]] for position in reversed(positions[len(positions) - most :])]
    orders = tuple([_past_order(each, words) for each in newest])
    return Explained(feature, value, is_exact, orders, len(positions) - len(orders))


def _past_order(order: Order | Told, words: Sequence[str]) -> PastOrder:
    told = {word: (VALUES.get(word) or NUMBERS[word])(order) for word in words}
    known = {word: value for word, value in told.items() if value is not None}
    return PastOrder(order.order_id, order.placed_at, order.amount, order.currency, known)


_PARTS: Final = frozenset({"what", "where", "one", "another", "condition", "quantity", "to"})
"""What a declaration is made of that names a field of an order."""


def _words(declared: object) -> Iterator[str]:
    """The fields of past orders that a feature, or a condition, looks at."""
    if isinstance(declared, str):
        if declared in VALUES or declared in NUMBERS:
            yield declared
    elif is_dataclass(declared):
        for each in fields(declared):
            if each.name in _PARTS:
                yield from _words(getattr(declared, each.name))


# Telling ------------------------------------------------------------------------------------------


def said(explanation: Explanation, since: datetime | None = None) -> Iterator[str]:
    """The explanation in lines for a person; a terminal never reads a customer's text as a command."""
    order = explanation.order
    yield plain(
        f"{order.order_id}, revision {order.revision}, placed {when(order.placed_at)}, "
        f"{money(order.amount, order.currency)}"
    )
    if explanation.past is None:
        yield "a guest, who has no history"
    else:
        folded = f"; {explanation.folded:,} older ones are counted in tiles" if explanation.folded else ""
        arrived = f" that arrived since {when(since)}" if since is not None else ""
        plural = "" if explanation.past == 1 else "s"
        yield f"{explanation.past:,} order{plural} of the customer before it{arrived}{folded}"
    for entity, known in explanation.known.items():
        about = entity.replace("_", " ")
        if known.history is None:
            yield f"it names no {about}"
            continue
        folded = f"; {known.folded:,} older ones are counted in tiles" if known.folded else ""
        plural = "" if len(known.history) == 1 else "s"
        yield plain(f"{len(known.history):,} order{plural} of {about} {known.named} before it{folded}")
    widest = max((len(each.feature.name) for each in explanation.features), default=0)
    for each in explanation.features:
        about = "" if each.is_exact else ", about"
        yield plain(f"{each.feature.name:<{widest}}  {each.shown}{about}")
        for past in each.orders:
            words = "".join(f"  {word} {value}" for word, value in past.said.items())
            yield plain(
                f"    {when(past.placed_at)}  {past.order_id}  {money(past.amount, past.currency)}{words}"
            )
        if each.more:
            yield f"    and {each.more:,} more"


def when(moment: datetime) -> str:
    """An instant in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def money(amount: int, currency: str) -> str:
    """An amount of minor units in its currency."""
    return f"{in_major_units(amount, currency)} {currency}"
