"""A past to be decided again: what a worker would have recorded of a few orders, as lists of records."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from models.registry import Registry
from stream.control import ControlState
from stream.deciding import Deciding
from stream.decoder import decoder_of
from stream.desk import ScoringDesk
from stream.panel import Panels
from stream.past import Past, Sources
from stream.past_desks import Models
from stream.ports import TP, Effects, Headers, Record
from stream.serving import Shelf
from stream.settings import Settings
from stream.topics import TopicError
from stream.verify import EVER, Verified, Window, verify_partition
from stream.version import program_version
from stream.writer import POSITION_KEY, encode_position
from tests.small_shop import OPENED_AT, a_trained

NOON_MS = int((OPENED_AT + timedelta(days=110)).timestamp() * 1000)
"""When the first record arrived; one comes each second."""


@dataclass
class Lists:
    """Topics of one partition as lists of records; `beginnings` is what retention has let go of each."""

    topics: dict[str, list[Record]] = field(default_factory=dict)
    beginnings: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    lost: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Offsets of each that were never kept."""

    def partitions(self, topic: str) -> int:
        if topic not in self.topics:
            raise TopicError(f"no topic {topic}")
        return 1

    def bounds(self, tp: TP) -> tuple[int, int]:
        records = self.topics[tp[0]]
        end = self.ends.get(tp[0], records[-1].offset + 1 if records else 0)
        return min(self.beginnings.get(tp[0], 0), end), end

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        begin = self.beginnings.get(tp[0], 0)
        found = [
            each
            for each in self.topics[tp[0]]
            if max(start, begin) <= each.offset < end
            and not any(first <= each.offset < last for first, last in self.gaps(tp))
        ]
        for first in range(0, len(found), 7):
            yield found[first : first + 7]

    def gaps(self, tp: TP) -> Sequence[tuple[int, int]]:
        return self.lost.get(tp[0], [])

    def close(self) -> None:
        """Nothing is open."""

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), at: int | None = None
    ) -> Record:
        records = self.topics.setdefault(topic, [])
        offset = records[-1].offset + 1 if records else 0
        record = Record(topic, 0, offset, NOON_MS + 1000 * offset if at is None else at, key, value, headers)
        records.append(record)
        return record


class Live:
    """A worker's desk and rows, and the lists of what it recorded."""

    def __init__(self, settings: Settings, model: str = "order_risk") -> None:
        self.settings = settings
        self.model = model
        self.lists = Lists({name: [] for name in settings.topics.model_dump(exclude={"prefix"}).values()})
        self.rows: dict[bytes, bytes | None] = {}
        self.watermarks: dict[int, int] = {}
        self.state: ControlState | None = ControlState(settings.group)
        self.position = 0
        self.beside: dict[str, int] = {}
        """How far what became of orders is heard."""
        self.headers: Headers = (("fraudstream", b""), Deciding.of(settings).header)
        self.started(settings)

    def started(self, settings: Settings, model: str | None = None, **fields: Any) -> None:
        """Go on as a worker started anew with these settings does."""
        self.settings, self.model = settings, model or self.model
        scorer = Registry(settings.home / "models").load(*_named(self.model))
        policy = fields.get("policy") or scorer.suggested_policy
        assert policy is not None
        self.headers = fields.get(
            "headers", (("worker", b"w1"), ("fraudstream", _VERSION), Deciding.of(settings).header)
        )
        registry = Registry(settings.home / "models")
        self.desk = ScoringDesk(
            panels=Panels(scorer=scorer, policy=policy, models=Shelf(settings, registry)),
            topics=settings.topics,
            partitions=1,
            row_limit=settings.row_limit,
            ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
            reject_share=0.0,
            headers=self.headers,
            in_force=None if self.state is None else self._in_force,
            observe=settings.observe,
            decoder=decoder_of(settings),
            horizons=settings.horizons,
        )

    def _in_force(self) -> ControlState:
        assert self.state is not None
        return self.state

    def tell(self, kind: str, *, heard: bool = True, **fields: Any) -> None:
        """Write a control record, and hear of it."""
        told = {"kind": kind, "group": self.settings.group, "who": "anna", "why": "a test"} | fields
        record = self.lists.append(self.settings.topics.control, None, json.dumps(told).encode())
        assert self.state is not None
        if heard:
            self.state = self.state.after(record)

    def arrive(self, *values: bytes | None, headers: Headers = (), at_once: int = 100) -> list[Record]:
        """Take orders, so many in one batch."""
        topic = self.settings.topics.orders
        records = [self.lists.append(topic, _key_of(value), value, headers) for value in values]
        for first in range(0, len(records), at_once):
            self._decide(records[first : first + at_once])
        return records

    def hear(self, *values: bytes) -> None:
        """Take outcomes."""
        topic = self.settings.topics.outcomes
        for value in values:
            record = self.lists.append(topic, _key_of(value), value)
            effects = self._decided([record])
            self.beside[topic] = record.offset + 1
            self.rows |= effects.rows.get(0, {})

    def remember(self, *values: bytes) -> None:
        """Take orders of the past."""
        self.arrive(*values, headers=(("mode", b"history"),))

    def set_aside(self, value: bytes, headers: Headers = ()) -> None:
        """Take an order that stops the worker until it is set aside."""
        record = self.lists.append(self.settings.topics.orders, _key_of(value), value, headers)
        self._commit([record], self.desk.set_aside(record, self._recall))

    def forget(self, *keys: bytes) -> None:
        """Evict keys."""
        for key in keys:
            self.rows.pop(key, None)

    def _decide(self, records: Sequence[Record]) -> None:
        self._commit(records, self._decided(records))

    def _decided(self, records: Sequence[Record]) -> Effects:
        return self.desk.decide(records, self._recall, self.watermarks, {0: self.beside})

    def _recall(self, _: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def _commit(self, records: Sequence[Record], effects: Effects) -> None:
        self.rows |= effects.rows.get(0, {})
        self.watermarks |= effects.watermarks
        for each in effects.produce:
            self.lists.append(each.topic, each.key, each.value, each.headers)
        self.position = records[-1].offset + 1
        value = encode_position({self.settings.topics.orders: self.position})
        self.lists.append(self.settings.topics.changelog, POSITION_KEY, value)

    # what is there afterwards

    @property
    def decided(self) -> list[Record]:
        """The recorded decisions; changing them changes what was recorded."""
        return self.lists.topics[self.settings.topics.decisions]

    def past(self, settings: Settings | None = None, **options: Any) -> AbstractContextManager[Past]:
        """What was recorded, to be decided again."""
        return _past(self.lists, settings or self.settings, options)

    def verified(self, settings: Settings | None = None, window: Window = EVER, **options: Any) -> Verified:
        """What `verify` finds."""
        most = options.pop("most", 20)
        with self.past(settings, **options) as past:
            return verify_partition(past, window, most=most)


@contextmanager
def _past(lists: Lists, settings: Settings, options: dict[str, Any]) -> Iterator[Past]:
    with Past(Sources(lists, lists, lists, lists), settings, 0, models=Models(settings), **options) as past:
        yield past


def _named(model: str) -> tuple[str, str | None]:
    name, _, version = model.partition("@")
    return name, version or None


def _key_of(value: bytes | None) -> bytes:
    try:
        content = json.loads(value or b"{}")
        return str(content.get("customer_id") or content.get("order_id")).encode()
    except ValueError:
        return b"c1"


def publish_models(settings: Settings) -> tuple[str, str]:
    """Two models in the settings' registry, the first of them the champion; name@version of both."""
    registry = Registry(settings.home / "models")
    named = []
    for kind in ("logistic_regression", "random_forest"):
        trained = a_trained(kind)  # type: ignore[arg-type]
        registry.publish(trained)
        named.append(f"{trained.name}@{trained.version}")
    registry.promote("order_risk", named[0].partition("@")[2])
    return named[0], named[1]


_VERSION = program_version().encode()
