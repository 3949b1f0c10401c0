"""A desk to try in a test: a scorer that counts, a dict for the rows, and batches as they come."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from features.catalogue import by_names
from features.define import Feature
from features.events import Order
from models.decision import ModelRef, Reason, decode_decision
from models.policy import Policy
from models.scorer import Scored
from stream.desk import ScoringDesk
from stream.keeping import FOR_EVER
from stream.ports import Effects, Record
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
    """A desk with its rows, fed one batch at a time as the writer would."""

    def __init__(self, **settings: Any) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.desk = ScoringDesk(
            scorer=settings.get("scorer") or CountingScorer(),  # type: ignore[arg-type]  # stands in for a trained model
            policy=Policy(review_at=0.2, decline_at=0.5),
            topics=Topics(),
            partitions=1,
            row_limit=100,
            ahead_by_at_most=timedelta(minutes=5),
            reject_share=settings.get("reject_share", 0.0),
            headers=(("worker", b"w1"),),
            in_force=settings.get("in_force"),
            horizons=settings.get("horizons", FOR_EVER),
        )
        self.watermarks: dict[int, int] = {}
        self.offset = 0

    def arrive(self, *values: bytes | None, key: bytes | None = None, **fields: Any) -> Effects:
        records = []
        for value in values:
            chosen = key if key is not None else _key_of(value)
            records.append(
                Record(
                    "orders",
                    0,
                    self.offset,
                    fields.get("at", 1_800_000_000_000),
                    chosen,
                    value,
                    fields.get("headers", ()),
                )
            )
            self.offset += 1
        return self.take(records)

    def take(self, records: Sequence[Record]) -> Effects:
        """Decide records as they are, and commit what they change."""
        effects = self.desk.decide(
            records, lambda partition, key: self.rows.get((partition, key)), self.watermarks
        )
        self.commit(effects)
        return effects

    def commit(self, effects: Effects) -> None:
        for partition, rows in effects.rows.items():
            for row_key, row in rows.items():
                if row is None:
                    self.rows.pop((partition, row_key), None)
                else:
                    self.rows[partition, row_key] = row
        self.watermarks |= effects.watermarks
        if effects.committed is not None:
            effects.committed()

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
