"""What the transaction core asks of the world: a log, a group, a store, a clock, a desk.

The core (`stream.writer`) is written against these alone, so the very same code runs on a real
Kafka (`stream.kafka`) and on the simulated one that tries it against every order of faults
(`tests/faults`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Protocol

from stream.errors import Refusal

TP = tuple[str, int]
"""A topic and a partition of it."""

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """One record of the log, as the broker keeps it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """When the broker appended it, in milliseconds since 1970; -1 when unknown."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def __repr__(self) -> str:
        """The place only: whatever logs a record must not log an order's values."""
        return f"<Record of {self.topic}/{self.partition}, offset={self.offset}>"


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What the group gave this worker, in one generation; two are the same only if they are one object."""

    generation: int
    member: str
    partitions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one fetch of one partition, and the assignment they were fetched under."""

    topic: str
    partition: int
    records: Sequence[Record] = field(repr=False)
    assignment: Assignment
    after: int | None
    """Where the batch before it ended; None for the first after an assignment or a seek."""
    is_history: bool = False
    """Whether it is about the past, as far as its ends tell: nobody waits for it, so it may wait for more."""
    until: int | None = None
    """Where the fetch ended: between its last record and this there are only markers; None when unknown."""
    size: int = field(init=False, repr=False)
    """Bytes of its values."""

    def __post_init__(self) -> None:
        """Count the bytes once: they are asked for when the batch comes and when it goes."""
        object.__setattr__(self, "size", sum([len(record.value or b"") for record in self.records]))


@dataclass(frozen=True, slots=True)
class Committed:
    """The group's offset for one input partition and the words its owner left with it."""

    offset: int
    metadata: str = ""


class Produce(NamedTuple):
    """One record to be produced inside the transaction, to a partition given explicitly."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def __repr__(self) -> str:
        """The place only: whatever logs a record must not log an order's values."""
        return f"<Produce to {self.topic}/{self.partition}>"


@dataclass(frozen=True, slots=True)
class LocalPosition:
    """How far the local rows of one partition have come.

    `inputs` is the next offset of every input topic that the rows contain, empty while a restore is
    under way; `changelog` is the next changelog offset to replay; `log` identifies the changelog
    topic the rows came from (a topic deleted and made again has another); `stored_at` is wall
    clock seconds, used only to tell rows older than the broker keeps tombstones; `watermark` is the
    greatest `placed_at` of the orders they contain, in microseconds since 1970, None before the first.
    """

    inputs: Mapping[str, int]
    changelog: int
    log: str
    stored_at: float
    watermark: int | None = None


@dataclass(slots=True)
class Effects:
    """What a batch changes and emits, as a value; nothing has happened yet."""

    produce: list[Produce] = field(default_factory=list)
    rows: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    """By partition: every key changed and its new bytes; None forgets the key."""
    watermarks: dict[int, int] = field(default_factory=dict)
    """By partition: the watermark after the batch, where an order was accepted."""
    gone_before: dict[int, dict[bytes, int]] = field(default_factory=dict)
    """By partition: what of its stages was last heard of before these instants is gone, by what its key
    begins with."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the batch did, for metrics; counted once it is committed."""
    committed: Callable[[], None] | None = field(default=None, compare=False)
    """To be called once, after the batch is committed and its rows are stored; what was only tried is not."""


class TransactionError(Exception):
    """The transaction did not go through as asked."""


class Aborted(TransactionError):
    """The transaction surely has no effect; it can be aborted and its producer used again."""


class OutcomeUnknown(TransactionError):
    """The transaction may or may not have been committed; only the stable offsets can tell."""


class Fenced(TransactionError):
    """Another producer took this transactional id; nothing more can be done with this one."""


class NotStable(Refusal):
    """An open transaction still covers what was asked for; ask again later."""


class Unreachable(Refusal):
    """The cluster did not answer in time; ask again later."""


class Refused(Refusal):
    """The worker must not go on; the message says why and what to do."""


class Producer(Protocol):
    """One incarnation of a transactional producer; its older incarnations are fenced when it is made."""

    def begin(self) -> None:
        """Begin a transaction."""

    def produce(self, record: Produce) -> None:
        """Add a record to the transaction; its delivery is settled by `flush`."""

    def produce_rows(self, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Add a record for each key to the transaction, without headers: thousands at once."""

    def flush(self) -> Mapping[TP, int]:
        """Wait for every record to be delivered and return the last offset of each partition.

        Raises Aborted when any delivery failed.
        """

    def send_offsets(self, offsets: Mapping[TP, Committed], assignment: Assignment) -> None:
        """Add the group's offsets, guarded by the generation and member of the assignment.

        Raises Aborted when the group refuses the generation or the member, OutcomeUnknown when no
        answer came, Fenced when the producer was replaced.
        """

    def commit(self) -> None:
        """Commit. Raises Aborted, OutcomeUnknown or Fenced."""

    def abort(self) -> None:
        """Abort. Raises OutcomeUnknown or Fenced."""

    def close(self) -> None:
        """Let go of the producer without a word to the broker."""


class Cluster(Protocol):
    """The Kafka cluster as the transaction core sees it. Every call is bounded in time."""

    def producer(self, transactional_id: str) -> Producer:
        """Make a producer; ends, either way, the transaction an older one of the same id left open.

        Raises Unreachable.
        """

    def committed(self, inputs: Sequence[TP], *, stable: bool) -> Mapping[TP, Committed | None]:
        """The group's committed offsets; None where there is none.

        With `stable`, raises NotStable while an open transaction has offsets pending for any of
        them. Without, answers what was committed before that. Raises Unreachable.
        """

    def members(self) -> Mapping[str, str]:
        """The living members of the group: member id -> client id (the worker's name). Raises Unreachable."""

    def low(self, tp: TP) -> int:
        """The first offset the partition still has. Raises Unreachable."""

    def high(self, tp: TP) -> int:
        """The high watermark: the offset after the last replicated record, open transactions included.

        Raises Unreachable.
        """

    def ends(self, tps: Sequence[TP]) -> Mapping[TP, int]:
        """The last stable offsets, before which everything can be read that ever will. Raises Unreachable."""

    def log_id(self, topic: str) -> str:
        """What tells this topic from one of the same name made later. Raises Unreachable."""

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end), in chunks; aborted ones and markers are passed over.

        Raises NotStable when an open transaction begins before `end`; the chunks yielded until then
        are good. Raises Unreachable.
        """


class Store(Protocol):
    """The local rows, by partition. Only the writer thread changes them."""

    def position(self, partition: int) -> LocalPosition | None:
        """How far the rows have come; None when there are none."""

    def recall(self, partition: int, key: bytes) -> bytes | None:
        """The bytes kept for a key; None when it is unknown."""

    def write(self, partition: int, rows: Mapping[bytes, bytes | None], position: LocalPosition) -> None:
        """Change rows and position at once or not at all."""

    def expired(self, partition: int, before: Mapping[bytes, int], most: int) -> Sequence[bytes]:
        """Some keys whose last event was before the instant given for what they begin with.

        At most so many; which, and how soon after they could be, is the store's affair. Changes no row.
        """

    def clear(self, partition: int) -> None:
        """Forget the partition's rows and position."""


class Condition(Protocol):
    """`threading.Condition`, or the simulated one."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified, at most `timeout` seconds."""

    def notify_all(self) -> None:
        """Wake everyone who waits."""


class Clock(Protocol):
    """Time for waiting and for bounds; never for a decision."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def wall(self) -> float:
        """Seconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def condition(self) -> Condition:
        """A new condition to wait on."""


Watermarks = Mapping[int, int]
"""By partition: the greatest `placed_at` of the orders accepted before a batch; microseconds since 1970."""

NO_WATERMARKS: Watermarks = MappingProxyType({})

Positions = Mapping[int, Mapping[str, int]]
"""By partition: the next offset of every input before a batch."""

NO_POSITIONS: Positions = MappingProxyType({})

Recall = Callable[[int, bytes], bytes | None]
"""Reads the bytes kept for a key of a partition, as of the end of the transaction before this one."""


class Desk(Protocol):
    """Decides a batch; pure but for the rows it recalls."""

    def decide(
        self, records: Sequence[Record], recall: Recall, watermarks: Watermarks, positions: Positions
    ) -> Effects:
        """What these records change and emit; they are in the order in which they are taken.

        That is the log's order for the records of one input; how others are merged with them is
        `stream.merge`'s affair. What lies too far before a watermark counts as absent, whether or not it can
        still be recalled.

        An exception is a mistake of ours and stops the worker.
        """

    def set_aside(self, record: Record, recall: Recall, positions: Positions) -> Effects:
        """Dead-letter a record that stopped the worker again and again, with a REVIEW decision."""
