"""A desk to try in a test: a scorer that counts, a dict for the rows, and batches as they come."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from features.catalogue import by_names
from features.define import Feature
from features.events import Order
from features.history import Row
from models.decision import ModelRef, Reason, decode_decision
from models.policy import Policy
from models.scorer import Scored
from stream.desk import ScoringDesk, partition_of
from stream.keeping import FOR_EVER, row_key
from stream.ports import Effects, Headers, Record
from stream.settings import Topics
from tests.strategies import as_json


class CountingScorer:
    """Believes that every earlier order of the customer adds a tenth to the probability of fraud."""

    name, version, digest = "counting", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)

    def __init__(self, features: Sequence[Feature] = by_names(["orders_count_30d", "amount"])) -> None:
        """`features` begin with orders_count_30d."""
        self.features = tuple(features)

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [
            Scored(
                min((vector[0] or 0) / 10, 1.0),
                ("orders_count_30d",) if vector[0] is None else (),
                (Reason(code="MANY_ORDERS", text="Many orders", feature="orders_count_30d"),),
            )
            for vector in vectors
        ]


class Shop:
    """A desk with its rows, fed one batch at a time as the writer would; what goes to a stage comes back."""

    def __init__(self, **settings: Any) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.entities: tuple[str, ...] = settings.get("entities", ())
        self.partitions: int = settings.get("partitions", 1)
        self.topics: Topics = settings.get("topics") or Topics()
        self.row_limit: int = settings.get("row_limit", 100)
        self.stages = {entity: self.topics.by(entity) for entity in self.entities}
        self.desk = ScoringDesk(
            scorer=settings.get("scorer") or CountingScorer(),  # type: ignore[arg-type]  # stands in for a trained model
            policy=Policy(review_at=0.2, decline_at=0.5),
            topics=self.topics,
            partitions=self.partitions,
            row_limit=self.row_limit,
            ahead_by_at_most=timedelta(minutes=5),
            reject_share=settings.get("reject_share", 0.0),
            headers=(("worker", b"w1"),),
            stages=self.stages,
            panels=settings.get("panels"),
            in_force=settings.get("in_force"),
            horizons=settings.get("horizons", FOR_EVER),
            drift=settings.get("drift"),
        )
        self.watermarks: dict[int, int] = {}
        self.positions: dict[int, dict[str, int]] = {}
        self.ends: Counter[tuple[str, int]] = Counter()
        """The next offset of each partition of each topic."""
        self.waiting: list[Record] = []
        """What lies in the stages' topics and was not yet taken."""
        self.at_once: int | None = settings.get("at_once")
        """How many records of a stage are taken in one batch; all that wait when None."""

    def arrive(self, *values: bytes | None, key: bytes | None = None, **fields: Any) -> Effects:
        """Take orders; outcomes and order events where `topic` says so."""
        topic = fields.get("topic", "orders")
        records = []
        for value in values:
            chosen = key if key is not None else _key_of(value)
            partition = partition_of(chosen, self.partitions)
            at, headers = fields.get("at", 1_800_000_000_000), fields.get("headers", ())
            records.append(self.record(topic, partition, chosen, value, headers, at=at))
        return self.take(records)

    def record(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        at: int = 1_800_000_000_000,
    ) -> Record:
        """A record at the end of a topic."""
        offset = self.ends[topic, partition]
        self.ends[topic, partition] += 1
        return Record(topic, partition, offset, at, key, value, headers)

    def take(self, records: Sequence[Record]) -> Effects:
        """Decide records as they are, commit what they change, and go on until all roads are at their end."""
        effects = self.only(records)
        while self.waiting:
            self.go_on(effects)
        return effects

    def go_on(self, effects: Effects, which: int = 0) -> None:
        """Take from the stage that has something waiting and is the last, or the one before, and so on."""
        topics = sorted({each.topic for each in self.waiting}, key=list(self.stages.values()).index)
        topic = topics[-1 - which % len(topics)]
        there = [each for each in self.waiting if each.topic == topic]
        some, left = there[: self.at_once], there[len(there[: self.at_once]) :]
        self.waiting = [each for each in self.waiting if each.topic != topic] + left
        then = self.only(some)
        effects.produce += then.produce
        effects.counts.update(then.counts)

    def only(self, records: Sequence[Record]) -> Effects:
        """Decide records and commit; what they send on its road waits."""
        effects = self.desk.decide(
            records,
            lambda partition, key: self.rows.get((partition, key)),
            self.watermarks,
            self.positions,
        )
        for each in records:
            self.positions.setdefault(each.partition, {})[each.topic] = each.offset + 1
        self.commit(effects)
        return effects

    def commit(self, effects: Effects) -> None:
        for partition, rows in effects.rows.items():
            for key, row in rows.items():
                if row is None:
                    self.rows.pop((partition, key), None)
                else:
                    self.rows[partition, key] = row
        self.watermarks |= effects.watermarks
        on_their_road = [each for each in effects.produce if each.topic in self.stages.values()]
        effects.produce = [each for each in effects.produce if each.topic not in self.stages.values()]
        for each in on_their_road:
            self.waiting.append(self.record(each.topic, each.partition, each.key, each.value, each.headers))
        if effects.committed is not None:
            effects.committed()

    def row(self, entity: str, named: str) -> Row:
        """The row of an entity, on the partition of its key."""
        kept = self.rows.get((partition_of(named.encode(), self.partitions), row_key(entity, named)))
        return Row(self.row_limit) if kept is None else Row.decode(kept, self.row_limit)

    def decide(self, *orders: Order, **fields: Any) -> list[Any]:
        effects = self.arrive(*(as_json(order) for order in orders), **fields)
        return decisions(effects)


def _key_of(value: bytes | None) -> bytes:
    content = json.loads(value or b"{}")
    return str(content.get("customer_id") or content.get("order_id")).encode()


def decisions(effects: Effects, topic: str = "decisions") -> list[Any]:
    return [decode_decision(p.value or b"") for p in effects.produce if p.topic == topic]


def rejects(effects: Effects) -> list[dict[str, bytes]]:
    return [dict(p.headers) for p in effects.produce if p.topic == "orders-rejected"]
