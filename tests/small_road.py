"""A past of orders that went through stages: what workers would have recorded of it, as lists of records."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import Any

from features.catalogue import by_names
from features.events import Order, OrderEvent, Outcome
from models.registry import Registry
from models.train import PredictorKind, train
from stream.control import ControlState
from stream.deciding import Deciding
from stream.desk import ScoringDesk
from stream.panel import Panels
from stream.past import Sources
from stream.past_desks import Models
from stream.past_road import Roads
from stream.ports import TP, Effects, Headers, Record
from stream.road import partition_of
from stream.serving import Shelf
from stream.settings import Settings
from stream.topics import TopicError
from stream.verify import EVER, Verified, Window, as_it_was, verify_roads
from stream.version import program_version
from tests.small_shop import a_past
from tests.strategies import as_json

NOON_MS = 1_790_000_000_000
_ASKED = by_names(
    [
        "amount",
        "orders_count_30d",
        "by_device_customer_distinct_30d",
        "by_device_days_since_first_order",
        "by_device_fraud_count_90d_known_after_7d",
        "by_merchant_amount_zscore_30d",
        "by_merchant_fraud_share_7d_known_after_7d",
    ]
)


@dataclass
class Lists:
    """Topics of several partitions as lists of records."""

    number: int
    topics: dict[str, list[list[Record]]] = field(default_factory=dict)
    beginnings: dict[TP, int] = field(default_factory=dict)
    lost: dict[TP, list[tuple[int, int]]] = field(default_factory=dict)
    appended: int = 0

    def partitions(self, topic: str) -> int:
        if topic not in self.topics:
            raise TopicError(f"no topic {topic}")
        return len(self.topics[topic])

    def bounds(self, tp: TP) -> tuple[int, int]:
        records = self.topics[tp[0]][tp[1]]
        end = records[-1].offset + 1 if records else 0
        return min(self.beginnings.get(tp, 0), end), end

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        begin = max(start, self.beginnings.get(tp, 0))
        found = [each for each in self.topics[tp[0]][tp[1]] if begin <= each.offset < end]
        found = [each for each in found if not any(a <= each.offset < b for a, b in self.gaps(tp))]
        for first in range(0, len(found), 7):
            yield found[first : first + 7]

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        return self.lost.get(tp, [])

    def close(self) -> None:
        """Nothing is open."""

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()
    ) -> Record:
        records = self.topics[topic][partition]
        self.appended += 1
        offset = records[-1].offset + 1 if records else 0
        record = Record(topic, partition, offset, NOON_MS + self.appended, key, value, headers)
        records.append(record)
        return record


class LiveRoad:
    """Workers' desks and rows, and the lists of what they recorded; each stage takes when it is told to."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.settings = settings
        named = settings.topics.model_dump(exclude={"prefix", "control"})
        number = settings.partitions
        self.lists = Lists(number, {each: [[] for _ in range(number)] for each in named.values()})
        self.lists.topics[settings.topics.control] = [[]]
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.watermarks: dict[int, int] = {}
        self.state = ControlState(settings.group)
        self.read: dict[TP, int] = {}
        """The next offset of each input of each partition."""
        self.started(settings, model)

    def started(self, settings: Settings, model: str) -> None:
        """Go on as workers started anew with these settings and this model do."""
        self.settings = settings
        for topic in settings.stages.values():
            self.lists.topics.setdefault(topic, [[] for _ in range(settings.partitions)])
        registry = Registry(settings.home / "models", entities=settings.entities)
        scorer = registry.load(*model.split("@"))
        policy = scorer.suggested_policy
        assert policy is not None
        version = ("fraudstream", program_version().encode())
        self.desk = ScoringDesk(
            panels=Panels(
                scorer=scorer,
                policy=policy,
                models=Shelf(settings, registry),
                entities=tuple(settings.stages),
            ),
            topics=settings.topics,
            partitions=settings.partitions,
            row_limit=settings.row_limit,
            ahead_by_at_most=timedelta(minutes=5),
            reject_share=0.0,
            headers=(version, Deciding.of(settings).header),
            horizons=settings.horizons,
            stages=settings.stages,
            in_force=lambda: self.state,
        )

    def tell(self, kind: str, **fields: Any) -> None:
        """Write a control record, and hear of it."""
        told = {"kind": kind, "group": self.settings.group, "who": "anna", "why": "a test"} | fields
        value = json.dumps(told).encode()
        self.state = self.state.after(self.lists.append(self.settings.topics.control, 0, None, value))

    def send(self, *events: Order | Outcome | OrderEvent | bytes, headers: Headers = ()) -> list[Record]:
        """What a shop sends; nobody has taken it yet."""
        topics = self.settings.topics
        by_kind = {Outcome: topics.outcomes, OrderEvent: topics.order_events}
        sent = []
        for event in events:
            key = b"k" if isinstance(event, bytes) else (event.customer_id or event.order_id).encode()
            if isinstance(event, Order):
                value = as_json(event)
            else:
                value = event if isinstance(event, bytes) else event.model_dump_json().encode()
            topic = by_kind.get(type(event), topics.orders)  # type: ignore[arg-type]
            where = partition_of(key, self.settings.partitions)
            sent.append(self.lists.append(topic, where, key, value, headers))
        return sent

    def waiting(self, topic: str, partition: int) -> list[Record]:
        """What nobody has taken yet."""
        return self.lists.topics[topic][partition][self.read.get((topic, partition), 0) :]

    def take(self, topic: str, partition: int, most: int = 1_000) -> int:
        """Let a partition of an input be taken, so many records at most, in one transaction."""
        records = self.waiting(topic, partition)[:most]
        if records:
            self.commit(records, self.desk.decide(records, self._recall, self.watermarks, self._positions()))
        return len(records)

    def set_aside(self, topic: str, partition: int) -> None:
        """Let the next record stop the worker until it is set aside."""
        record = self.waiting(topic, partition)[0]
        self.commit([record], self.desk.set_aside(record, self._recall, self._positions()))

    def finish(self, chance: random.Random | None = None) -> None:
        """Take all that waits everywhere: in the order of the road, or as chance will have it."""
        inputs = [(topic, n) for topic in self.settings.inputs for n in range(self.settings.partitions)]
        while any(self.waiting(*each) for each in inputs):
            for each in inputs:
                if chance is None:
                    self.take(*each)
                elif chance.random() < 0.5:
                    self.take(*each, most=chance.randint(1, 6))

    def commit(self, records: Sequence[Record], effects: Effects) -> None:
        for partition, rows in effects.rows.items():
            for key, row in rows.items():
                if row is None:
                    self.rows.pop((partition, key), None)
                else:
                    self.rows[partition, key] = row
        self.watermarks |= effects.watermarks
        for each in effects.produce:
            self.lists.append(each.topic, each.partition, each.key, each.value, each.headers)
        last = records[-1]
        self.read[last.topic, last.partition] = last.offset + 1

    def _recall(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get((partition, key))

    def _positions(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        for (topic, partition), offset in self.read.items():
            found.setdefault(partition, {})[topic] = offset
        return found

    # what is there afterwards

    @property
    def decided(self) -> list[Record]:
        """The recorded decisions of all partitions."""
        return [each for records in self.lists.topics[self.settings.topics.decisions] for each in records]

    def replace(self, old: Record, new: Record | None) -> None:
        """Change what was recorded; None takes it away."""
        records = self.lists.topics[old.topic][old.partition]
        at = records.index(old)
        records[at : at + 1] = [] if new is None else [new]

    @contextmanager
    def roads(self, settings: Settings | None = None, *, is_rebuilt: bool = True) -> Iterator[Roads]:
        """What was recorded, to be gone through again."""
        now, lists = settings or self.settings, self.lists
        sources = Sources(lists, lists, lists, lists)
        with Roads(sources, now, models=Models(now), from_archive=True, is_rebuilt=is_rebuilt) as roads:
            yield roads

    def verified(self, settings: Settings | None = None, window: Window = EVER, **options: Any) -> Verified:
        """What `verify` finds."""
        return as_it_was(
            partial(self.roads, settings),
            lambda roads: verify_roads(roads, window, **options),
            lambda found: found.different,
        )


def an_outcome(order: Order, after: timedelta = timedelta(hours=1)) -> Outcome:
    """Word that it was fraud."""
    known_at = order.placed_at + after
    return Outcome(
        order_id=order.order_id,
        customer_id=order.customer_id,
        kind="chargeback",
        is_fraud=True,
        occurred_at=known_at,
        known_at=known_at,
    )


def _told() -> Iterator[tuple[Order, bool | None] | Outcome]:
    for order, is_fraud in a_past():
        yield order, is_fraud
        if is_fraud:
            yield an_outcome(order)


def publish_models(settings: Settings) -> list[str]:
    """Models in the settings' registry, as name@version: of all features, of fewer, of the customer's."""
    registry = Registry(settings.home / "models", entities=("device", "merchant"))
    named = []
    kinds: tuple[PredictorKind, ...] = ("logistic_regression", "random_forest", "logistic_regression")
    for kind, asked in zip(kinds, (7, 4, 2), strict=True):
        trained = train(
            list(_told()),
            name="order_risk",
            predictor=kind,
            trained_at=date(2026, 2, 14),
            row_limit=50,
            seed=1,
            features=_ASKED[:asked],
            entities=("device", "merchant"),
        )
        registry.publish(trained)
        named.append(f"{trained.name}@{trained.version}")
    return named
