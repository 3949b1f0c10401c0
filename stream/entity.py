"""Linked evidence: which orders and customers one device, card or merchant has, and what became of them.

Rows keep fingerprints, so what is told here is read from the log that made the row: of a stage its topic,
whose messages have the orders whole, of a customer the orders, outcomes and order events of their partition.
It goes by the rules of the workers. Nothing is joined, committed or changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from features.decode import Rejection, decode_event
from features.errors import did_you_mean
from features.events import Order, OrderEvent, Outcome
from features.facts import Fact
from features.fast import Told
from features.remembered import ENTITIES
from features.revisions import Revisions, ids_of
from stream.decoder import CONTRACT, decoder_of
from stream.errors import Refusal
from stream.explain import Read, money, when
from stream.kafka import KafkaCluster, once_it_answers
from stream.passed import Passed, Place
from stream.plainly import plain
from stream.ports import Record
from stream.road import Passing, PassingBytesError, PassingVersionError, Road, partition_of
from stream.settings import Settings
from stream.topics import partitions_of

__all__ = ["EntityError", "Evidence", "Linked", "Span", "evidence_of", "told"]

_CUSTOMER: Final = "customer"
_FRAUD: Final = "fraud"


class EntityError(Refusal):
    """There is nothing to tell; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Linked:
    """An order that stands in the entity's history."""

    order_id: str
    revision: int
    customer_id: str | None
    """None for a guest."""
    placed_at: datetime
    amount: int
    """In minor units of `currency`."""
    currency: str
    fraud_known_at: datetime | None
    """Since when it is known to be fraud; None where it is not known, or was taken back."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        known_at = self.fraud_known_at
        return {
            "order_id": self.order_id,
            "revision": self.revision,
            "customer_id": self.customer_id,
            "placed_at": self.placed_at.isoformat(),
            "amount": self.amount,
            "currency": self.currency,
            "fraud_known_at": None if known_at is None else known_at.isoformat(),
        }


class Span(NamedTuple):
    """What was read: the records of one partition from an offset up to another."""

    topic: str
    partition: int
    begin: int
    """Not 0 where the topic has lost what came before."""
    end: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the logs say of one entity."""

    entity: str
    named: str
    orders: tuple[Linked, ...]
    """All that stand in its history, newest first."""
    read: tuple[Span, ...]

    @property
    def frauds(self) -> tuple[Linked, ...]:
        """The orders known to be fraud, newest first."""
        return tuple([each for each in self.orders if each.fraud_known_at is not None])

    @property
    def fraud_share(self) -> float | None:
        """The share of its orders known to be fraud, 0 to 1; None without orders."""
        return len(self.frauds) / len(self.orders) if self.orders else None

    def customers(self) -> list[tuple[str | None, int, int]]:
        """Each customer, with how many of the orders are theirs and how many of these known fraud.

        Most orders first, of as many most fraud; None stands for all guests.
        """
        orders = Counter(each.customer_id for each in self.orders)
        frauds = Counter(each.customer_id for each in self.frauds)
        told = [(customer_id, count, frauds[customer_id]) for customer_id, count in orders.items()]
        return sorted(told, key=lambda each: each[1:], reverse=True)

    def as_json(self, most: int) -> dict[str, Any]:
        """The same for machines; of orders and customers at most so many each."""
        customers = self.customers()
        first, last = _seen(self.orders)
        return {
            "entity": self.entity,
            "id": self.named,
            "first_seen": None if first is None else first.isoformat(),
            "last_seen": None if last is None else last.isoformat(),
            "orders": len(self.orders),
            "known_fraud": len(self.frauds),
            "known_fraud_share": self.fraud_share,
            "customers": sum(customer_id is not None for customer_id, _, _ in customers),
            "most_orders": [
                {"customer_id": customer_id, "orders": orders, "known_fraud": frauds}
                for customer_id, orders, frauds in customers[:most]
            ],
            "newest_known_fraud": [each.as_json() for each in self.frauds[:most]],
            "newest_orders": [each.as_json() for each in self.orders[:most]],
            "read": [each._asdict() for each in self.read],
        }


def evidence_of(
    settings: Settings, entity: str, named: str, *, told: Read = lambda _read, _of: None
) -> Evidence:
    """What the logs say of an entity, as far as they go back.

    Raises EntityError for an entity without histories and for an id that never came, TopicError, Unreachable,
    MappingFileError.
    """
    _check(settings, entity)
    at_home = entity == _CUSTOMER
    names = settings.topics
    topics = (names.orders, names.outcomes, names.order_events) if at_home else (settings.stages[entity],)
    partitions = partitions_of(settings, *topics)[topics[0]]
    partition = partition_of(named.encode(), partitions)
    ledger: _Ledger
    if at_home:
        ledger = _OfCustomer(settings, named)
    else:
        ledger = _OfStage(Road(settings.stages, partitions), entity, named)
    with closing(KafkaCluster(settings, quiet=True)) as cluster:
        spans = [
            # what an open transaction holds back has not arrived for a worker either
            Span(topic, partition, *once_it_answers(cluster.bounds, (topic, partition), stable=True))
            for topic in topics
        ]
        for record in _records(cluster, spans, told):
            ledger.take(record)
    if not ledger.was_seen:
        since = " since the topic lost what came before" if spans[0].begin else ""
        raise EntityError(
            f"no order of {entity} '{plain(named)}' came to topic '{topics[0]}' on {settings.broker}{since}; "
            "check the id: it is what orders say, letter for letter"
        )
    return Evidence(entity, named, ledger.orders(), tuple(spans))


def _check(settings: Settings, entity: str) -> None:
    if entity == _CUSTOMER or entity in settings.entities:
        return
    if entity not in ENTITIES:
        raise EntityError(
            f"there is no entity '{plain(entity)}'{did_you_mean(entity, ENTITIES)}; "
            f"there are {', '.join(ENTITIES)}"
        )
    kept = ", ".join((_CUSTOMER, *settings.entities))
    raise EntityError(
        f"'{entity}' has no history here, only {kept}; the setting entities says which have (docs/history.md)"
    )


def _records(
    cluster: KafkaCluster, spans: Sequence[Span], told: Callable[[int, int], None]
) -> Iterator[Record]:
    of, before = sum(span.end - span.begin for span in spans), 0
    for topic, partition, begin, end in spans:
        for chunk in cluster.read((topic, partition), begin, end):
            yield from chunk
            told(before + chunk[-1].offset + 1 - begin, of)
        before += end - begin


# Ledgers ------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What is kept of an order: there may be very many."""

    revision: int
    customer_id: str | None
    placed_at: datetime
    amount: int
    currency: str


class _Ledger:
    """The orders in one history, and the facts about them; unlike a row it forgets nothing."""

    def __init__(self, named: str) -> None:
        self.was_seen = False
        self._named = named
        self._wanted = named.encode()
        self._entries: dict[tuple[str, datetime], _Entry] = {}
        """By id and by when they were placed: while messages overtake each other an order may stand twice."""
        self._facts: dict[str, dict[Fact, None]] = {}

    def take(self, record: Record) -> None:
        """Take notice of the next record, whatever it is about."""
        raise NotImplementedError

    def orders(self) -> tuple[Linked, ...]:
        """Those in the history now, newest first."""
        linked = [
            Linked(order_id, *entry, self._fraud_known_at(order_id))
            for (order_id, _), entry in self._entries.items()
        ]
        return tuple(sorted(linked, key=lambda each: (each.placed_at, each.order_id), reverse=True))

    def _enter(self, order: Order | Told, facts: Iterable[Fact]) -> None:
        self.was_seen = True
        self._entries[order.order_id, order.placed_at] = _Entry(
            order.revision, order.customer_id, order.placed_at, order.amount, order.currency
        )
        self._learn(order.order_id, (), facts)

    def _leave(self, order_id: str, placed_at: datetime) -> None:
        self._entries.pop((order_id, placed_at), None)
        self._facts.pop(order_id, None)

    def _learn(self, order_id: str, withdrawn: Iterable[Fact], facts: Iterable[Fact]) -> None:
        known = self._facts.setdefault(order_id, {})  # a fact may overtake its order
        for fact in withdrawn:
            known.pop(fact, None)
        known.update(dict.fromkeys(facts))

    def _fraud_known_at(self, order_id: str) -> datetime | None:
        said = [fact for fact in self._facts.get(order_id, ()) if fact.what == _FRAUD]
        # the last one counts; of two known at one instant the one that it is so, as in histories
        last = max(said, key=lambda fact: (fact.known_at, fact.is_so), default=None)
        return last.known_at if last is not None and last.is_so else None


class _OfStage(_Ledger):
    """An entity's history, from the messages of its stage."""

    def __init__(self, road: Road, entity: str, named: str) -> None:
        super().__init__(named)
        self._road = road
        self._entity = entity
        self._passed: dict[str, Passed] = {}

    def take(self, record: Record) -> None:
        value = record.value
        if value is None or self._wanted not in value:  # decoding is most of the work
            return
        try:
            passing = Passing.decode(value)
            order = None if passing.travelling is None else passing.order()
        except PassingVersionError as error:
            raise EntityError(str(error)) from error
        except PassingBytesError:
            return  # workers set it aside
        if self._named not in {passing.ids.get(self._entity), passing.stood.get(self._entity)}:
            return
        if order is None and not passing.stood:
            self._hear(passing)
        elif passing.standing:
            self._settle(passing, order, record.partition)

    def _hear(self, passing: Passing) -> None:
        passed = self._passed.get(passing.order_id)
        if passed is None or passing.standing >= passed.standing:
            self._learn(passing.order_id, passing.withdrawn, passing.facts)

    def _settle(self, passing: Passing, order: Order | Told | None, partition: int) -> None:
        """What the message says of the order's place, by the same memory as the stage's."""
        named, before = passing.ids.get(self._entity), passing.stood.get(self._entity)
        place = stood = None
        if order is not None and named is not None and passing.held_at is not None:
            place = Place(named, passing.held_at)
        if before is not None and passing.stood_at is not None and self._road.partition(before) == partition:
            stood = Place(before, passing.stood_at)
        passed = self._passed.setdefault(passing.order_id, Passed())
        taken_out, enters = passed.put(passing.standing, place, stood)
        for each in taken_out:
            # overtaken messages may still tell of an earlier place in this very history
            if each.named == self._named and each != passed.place:
                self._leave(passing.order_id, each.placed_at)
        if enters and order is not None and named == self._named:
            self._enter(order, passing.facts)


class _OfCustomer(_Ledger):
    """A customer's history, from the orders of their partition, then from what was said of these."""

    def __init__(self, settings: Settings, named: str) -> None:
        super().__init__(named)
        names = settings.topics
        self._ahead = timedelta(seconds=settings.ahead_by_at_most_s)
        self._decoder = decoder_of(settings)
        self._events: dict[str, type[Outcome | OrderEvent]] = {
            names.outcomes: Outcome,
            names.order_events: OrderEvent,
        }
        self._revisions: dict[str, Revisions] = {}

    def take(self, record: Record) -> None:
        event = self._events.get(record.topic)
        if event is not None:
            self._take_event(record, event)
        elif self._may_matter(record):
            self._take_order(record)

    def _may_matter(self, record: Record) -> bool:
        """Whether it is the customer's order, or a revision that may give one of theirs to somebody else."""
        value = record.value or b""
        return (
            record.key == self._wanted
            or self._decoder is not CONTRACT
            # JSON may write any letter with a backslash
            or b"revision" in value
            or b"\\" in value
        )

    def _take_order(self, record: Record) -> None:
        order = self._decoder.order(
            record.value, key=record.key, arrived_at=record.timestamp, ahead_by_at_most=self._ahead
        )
        if isinstance(order, Rejection):
            return
        known = self._revisions.get(order.order_id)
        is_theirs = order.customer_id == self._named
        if known is None:
            if not is_theirs and not order.revision:
                return
            known = self._revisions[order.order_id] = Revisions()
        if known.of(order.revision) is not None or known.is_full:
            return
        arrival = known.arrive(order, order.content_digest, ids_of(order, (_CUSTOMER,)))
        if arrival.forgotten is not None:
            self._leave(order.order_id, arrival.forgotten.placed_at)
        if arrival.held is not None and is_theirs:
            self._enter(order, ())

    def _take_event(self, record: Record, kind: type[Outcome | OrderEvent]) -> None:
        event = decode_event(
            record.value, kind, key=record.key, arrived_at=record.timestamp, ahead_by_at_most=self._ahead
        )
        if isinstance(event, Rejection) or (known := self._revisions.get(event.order_id)) is None:
            return
        learned = known.learn(event)
        if learned is not None:
            self._learn(event.order_id, learned.withdrawn, learned.facts)


# Telling ------------------------------------------------------------------------------------------


def told(evidence: Evidence, most: int) -> Iterator[str]:
    """The evidence in lines for a person, at most so many orders and customers each."""
    yield plain(f"{evidence.entity} {evidence.named}")
    orders, frauds, customers = evidence.orders, evidence.frauds, evidence.customers()
    first, last = _seen(orders)
    if first is None or last is None:
        yield "no orders any more: later revisions have all gone elsewhere"
    else:
        yield f"first seen {when(first)}, last seen {when(last)}"
        yield f"{_counted(len(orders), 'order')}, {len(frauds):,} known fraud ({evidence.fraud_share:.1%})"
    if evidence.entity != _CUSTOMER and customers:
        named = sum(customer_id is not None for customer_id, _, _ in customers)
        yield f"{_counted(named, 'customer')}, those with most orders first"
        for customer_id, count, known in customers[:most]:
            who = "guests" if customer_id is None else customer_id
            yield plain(f"    {who}  {_counted(count, 'order')}, {known:,} known fraud")
        yield from _and_more(len(customers), most)
    if frauds:
        yield "known fraud, newest orders first"
        yield from _listed(frauds, most)
    if orders:
        yield "orders, newest first"
        yield from _listed(orders, most)
    for topic, partition, begin, end in evidence.read:
        lost = ", which is all it still has" if begin else ""
        yield f"read from topic '{topic}', partition {partition}, offsets {begin:,} to {end:,}{lost}"


def _listed(orders: Sequence[Linked], most: int) -> Iterator[str]:
    for each in orders[:most]:
        who = "a guest" if each.customer_id is None else f"customer {each.customer_id}"
        fraud = "" if each.fraud_known_at is None else f"  fraud, known since {when(each.fraud_known_at)}"
        yield plain(
            f"    {when(each.placed_at)}  {each.order_id}  {money(each.amount, each.currency)}  {who}{fraud}"
        )
    yield from _and_more(len(orders), most)


def _and_more(count: int, most: int) -> Iterator[str]:
    if count > most:
        yield f"    and {count - most:,} more"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _seen(orders: Sequence[Linked]) -> tuple[datetime, datetime] | tuple[None, None]:
    """When the first and the last order was placed; they are newest first."""
    return (orders[-1].placed_at, orders[0].placed_at) if orders else (None, None)
