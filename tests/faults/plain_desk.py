"""What the simulated desk makes of records, and what must come of them if nothing ever happens.

Orders are counted by customer, at home, and then by what else they name, at one stage after another; the
last decides. What is said of orders stays at home: it has a row of its own, which orders look at. So a
decision tells how the inputs were interleaved, and which records came before it, each once and in order.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from stream.merge import ARRIVED_AT, arrived_at, recorded_order
from stream.ports import Produce, Record

ORDERS = "orders"
DECISIONS = "decisions"
KEPT_FOR = 100
"""For how long after its last event a row is kept, in the event time of a schedule."""

Rows = MutableMapping[bytes, bytes | None]
Others = Mapping[str, int]


class Message(NamedTuple):
    """What is said of an order on its way, and in the end."""

    order: bytes
    home: int
    """The partition at which it arrived."""
    passed: bytes
    """What it met at each place that it passed."""

    @classmethod
    def of(cls, value: bytes | None) -> "Message":
        """The message of a stage's record, or of a decision."""
        order, home, passed = (value or b"? -1 ?").split()
        return cls(order, int(home), passed)

    def then(self, passed: bytes) -> "Message":
        """The message after one more place."""
        return self._replace(passed=self.passed + b"/" + passed)

    @property
    def others(self) -> Others:
        """The next offset of every other input when it was taken at home."""
        told = self.passed.split(b"/")[0].split(b",")[-1]
        return {
            topic: int(at) for each in told.decode().split("+") if each for topic, at in [each.split("=")]
        }

    @property
    def is_aside(self) -> bool:
        """Whether it was set aside, somewhere on its way."""
        return self.passed.endswith(b"aside")

    def __bytes__(self) -> bytes:
        """As it is produced."""
        return b"%s %d %s" % self


def order_of(record: Record) -> tuple[bytes, int]:
    """The name of the order, or of what is said, and its home."""
    if record.value is not None and b" " in record.value:
        message = Message.of(record.value)
        return message.order, message.home
    return record.value or b"?", record.partition


def counted(before: bytes | None, value: bytes, at: int) -> tuple[bytes | None, bytes]:
    """The row after a record, and what it met: how many came before it, and which.

    The fourth is forgotten with those before it, so that restores meet tombstones.
    """
    count, last_at, digest = (0, at, 0) if before is None else map(int, before.split())
    count, digest = count + 1, crc32(value, digest)
    row = None if count == 4 else b"%d %d %d" % (count, max(last_at, at), digest)
    return row, b"%d:%08x" % (count, digest)


@dataclass(frozen=True)
class Road:
    """What becomes of records, of one partition or of all."""

    roads: Sequence[Sequence[str]]
    partitions: int
    placed_at: Callable[[bytes], int]
    """When an order was placed, in event time."""

    @property
    def home(self) -> Sequence[str]:
        """The inputs of an order's home."""
        return self.roads[0]

    def stage_after(self, topic: str) -> str | None:
        """The next stage of the road; None after the last."""
        stages = [road[0] for road in self.roads[1:]]
        at = stages.index(topic) + 1 if topic in stages else 0
        return stages[at] if at < len(stages) else None

    def source_of(self, message: Message, topic: str) -> int:
        """The partition from which an order came to a stage."""
        stages = [road[0] for road in self.roads[1:]]
        before = stages[: stages.index(topic)]
        return self._at(message.order, before[-1])[1] if before else message.home

    def _at(self, order: bytes, stage: str) -> tuple[bytes, int]:
        """What an order names there, and the partition of it."""
        entity = crc32(order + stage.encode()) % 3
        return b"e%d" % entity, entity % self.partitions

    def take(
        self, record: Record, rows: Rows, watermark: int | None, others: Others
    ) -> tuple[Produce, int | None]:
        """Change the rows by a record; what is produced, and the watermark after it."""
        topic, value = record.topic, record.value or b"?"
        if topic not in self.home:
            row, met = counted(rows.get(key := b"by %s@%s" % (record.key, topic.encode())), value, 0)
            rows[key] = row
            return self._send(Message.of(value).then(met), record), watermark
        if topic != ORDERS:
            key = said_key(record.key, topic)
            rows[key], met = counted(rows.get(key), value, 0)
            message = Message(value, record.partition, met)
            return Produce(DECISIONS, record.partition, record.key, bytes(message)), watermark
        at = self.placed_at(value)
        key = b"%s@%s" % (record.key, ORDERS.encode())
        before = rows.get(key)
        if before is not None and watermark is not None and int(before.split()[1]) < watermark - KEPT_FOR:
            before = None
        rows[key], met = counted(before, value, at)
        said = [rows.get(said_key(record.key, each)) or b"" for each in self.home if each != ORDERS]
        told = "+".join(f"{other}={others[other]}" for other in sorted(others) if other in self.home)
        passed = b"%s,%08x,%s" % (met, crc32(b"".join(said)), told.encode())
        return (
            self._send(Message(value, record.partition, passed), record),
            at if watermark is None else max(watermark, at),
        )

    def _send(self, message: Message, record: Record) -> Produce:
        """Send an order on to the next stage, or decide it."""
        stage = self.stage_after(record.topic)
        if stage is None:
            return Produce(DECISIONS, message.home, message.order, bytes(message))
        key, partition = self._at(message.order, stage)
        arrived = ((ARRIVED_AT, b"%d" % arrived_at(record)),)
        return Produce(stage, partition, key, bytes(message), arrived)

    def set_aside(self, record: Record) -> Produce:
        """Decide an order that stops workers, wherever it is."""
        order, home = order_of(record)
        return Produce(DECISIONS, home, order, bytes(Message(order, home, b"aside")))


def said_key(key: bytes | None, topic: str) -> bytes:
    """The row of what is said of a customer's orders; not of a kind that is forgotten."""
    return b"other-%s@%s" % (key, topic.encode())


@dataclass
class Told:
    """What a worker does to whom nothing ever happens: it evicts nothing, and yet decides as if it did."""

    rows: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    produced: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    """By topic and partition, in the order in which they are produced by each that produces there."""
    watermarks: dict[int, int | None] = field(default_factory=dict)

    def take(self, road: Road, records: Iterable[tuple[Record, Others]], aside: Mapping[bytes, str]) -> None:
        """Take records one by one, with what had been taken of others before each; some are set aside."""
        for record, others in records:
            number = record.partition
            if aside.get(order_of(record)[0]) == record.topic:
                produce = road.set_aside(record)
            else:
                produce, self.watermarks[number] = road.take(
                    record, self.rows.setdefault(number, {}), self.watermarks.get(number), others
                )
            self.produced.setdefault((produce.topic, produce.partition), []).append(produce.value or b"")


def as_recorded(
    visible: Mapping[str, Sequence[Record]], home: Sequence[str], others_of: Mapping[bytes, Others]
) -> list[tuple[Record, Others]]:
    """A partition's home inputs in the order in which they were taken, as the messages of its orders say."""
    marks = [
        (record.offset, others_of[order])
        for record in visible[ORDERS]
        if (order := record.value or b"?") in others_of
    ]
    inputs = {topic: visible[topic] for topic in home}
    return [
        (record, others_of.get(record.value or b"?", {}))
        for record in recorded_order(inputs, orders=ORDERS, marks=marks)
    ]
