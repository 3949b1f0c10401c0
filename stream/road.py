"""The road of an order: from its home through the stage of one entity after the other, to its decision.

At home, on its customer's partition of the orders' topic, is known what the order is: a new one, a revision,
a resend. What a stage is to do with it is said in the message that goes there: the order, what was computed
so far, which of its revisions stands in the histories. Every stage does that and sends the message on; the
last one scores and decides. Facts about an order take the same road, so that they come after it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple, Self

import msgspec

from features.decode import Rejection, read_order
from features.events import Order
from features.facts import Fact
from features.fast import Told, read_usual
from stream.merge import ARRIVED_AT
from stream.ports import Headers, Produce, Record

__all__ = [
    "HISTORY",
    "MODE",
    "Home",
    "Passing",
    "PassingBytesError",
    "PassingVersionError",
    "Road",
    "Travelling",
    "is_history",
    "partition_of",
    "written",
]

MODE: Final = "mode"
"""The header of an order that says `history`: remember it, never decide it. In the header of a decision it
says `observe`: nobody should act on this."""

HISTORY: Final = (MODE, b"history")

_MAGIC: Final = b"road"
"""What every message begins with, before its version: whatever else comes is no message of a newer one."""

_VERSION: Final = 1
_ZERO: Final = timedelta(0)


class PassingVersionError(ValueError):
    """The message was written by a newer version of this program."""


class PassingBytesError(ValueError):
    """The bytes are no message between stages."""


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition a key belongs to: murmur2, as Java, aiokafka and librdkafka's murmur2_random do."""
    from aiokafka.partitioner import murmur2  # noqa: PLC0415 (imports a whole client for one function)

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def is_history(record: Record) -> bool:
    """Whether the order is only to be remembered, never decided."""
    return HISTORY in record.headers


class Home(NamedTuple):
    """Where an order came in."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """When the broker appended it, in milliseconds since 1970."""
    arrived_at: int
    """The same, or when it first arrived elsewhere: in this order stages take what comes from several
    homes."""
    others: dict[str, int]
    """How far every other input of the partition was read."""


class Travelling(msgspec.Struct, array_like=True, gc=False):
    """The order itself, on its way to be decided or only to be remembered; each stage adds to it."""

    order: bytes
    """In our contract, whatever the shop's own JSON is."""
    content: bytes
    """Its digest."""
    is_history: bool
    is_observed: bool
    """Whether it is decided into the shadow; home has looked, so that all stages are of one mind."""
    is_again: bool
    """Whether it may stand in histories although nobody remembers: there it takes its own place."""
    decision_id: bytes
    """What its decision is to be called."""
    supersedes: bytes | None
    """The decision that it takes the place of."""
    repeat_of: bytes | None
    """The decision it got before: the stage that has it says the same again."""
    names: str
    """The features of the model in service at home, by line."""
    values: list[float | None]
    """Their values as far as they are computed."""
    passed: dict[str, tuple[int, int]]
    """Where it stood in each stage before: topic, partition and offset."""


class Passing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What goes from stage to stage about one order."""

    home: Home
    order_id: str
    key: bytes
    """The key it came in under: its customer's, or its own where it names none."""
    ids: dict[str, str]
    """The entities whose histories it is about, and their ids."""
    standing: int
    """Which of the order's changes of place this is: 1 is the first, and of two the later one counts, in
    whatever order they come. 0 changes no history."""
    held_at: datetime | None
    """When the order was placed that from now on stands in these histories; None where none does."""
    stood: dict[str, str]
    """The ids it stood under before, by entity."""
    stood_at: datetime | None
    """When it was placed, then."""
    facts: tuple[Fact, ...]
    """What these histories learn of the order."""
    withdrawn: tuple[Fact, ...]
    """What they unlearn before."""
    travelling: Travelling | None
    """None where only histories are told of the order."""

    def encode(self) -> bytes:
        """The message as bytes."""
        return _HEAD + _encode(self)

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """The message in the bytes. Raises PassingVersionError for newer ones, else PassingBytesError."""
        if value is None or value[: len(_MAGIC)] != _MAGIC or len(value) == len(_MAGIC):
            raise PassingBytesError(_not_passing(value))
        version = value[len(_MAGIC)]
        if version > _VERSION:
            message = (
                f"a message between stages is of version {version} and this program reads up to {_VERSION}; "
                "run the version that wrote it, or a newer one (docs/upgrades.md)"
            )
            raise PassingVersionError(message)
        try:
            return _decode(memoryview(value)[len(_HEAD) :])  # type: ignore[return-value]
        except msgspec.MsgspecError as error:
            raise PassingBytesError(_not_passing(value)) from error

    def order(self) -> Order | Told:
        """The order that travels. Raises PassingBytesError."""
        assert self.travelling is not None  # noqa: S101 (asked by the caller)
        value = self.travelling.order
        order: Order | Told | Rejection | None = read_usual(
            value, key=self.key, arrived_at=None, ahead_by_at_most=_ZERO
        )
        if order is None:
            order = read_order(value)
        if isinstance(order, Rejection):
            raise PassingBytesError(order.detail)
        return order


_HEAD = _MAGIC + bytes((_VERSION,))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Passing).decode


def _not_passing(value: bytes | None) -> str:
    came = "nothing" if value is None else f"{len(value):,} bytes that are none"
    return f"value: expected a message between stages, got {came}; only workers write to this topic"


def written(order: Order | Told) -> bytes:
    """The order in our contract's JSON: read again, it says the same."""
    if isinstance(order, Told):
        return _json(order)
    return order.model_dump_json(exclude_defaults=True).encode()


_json = msgspec.json.Encoder().encode


class Road:
    """The stages in service, in their order."""

    def __init__(self, stages: Mapping[str, str], partitions: int) -> None:
        """`stages` are topics by entity; every one has so many partitions."""
        self.entities = tuple(stages)
        self._topics = dict(stages)
        self._entity_of = {topic: entity for entity, topic in stages.items()}
        self._partitions = partitions
        self._after: dict[str | None, tuple[str, ...]] = {None: self.entities} | {
            entity: self.entities[at + 1 :] for at, entity in enumerate(self.entities)
        }

    def __len__(self) -> int:
        """How many stages there are."""
        return len(self.entities)

    def entity(self, topic: str) -> str | None:
        """Whose stage a topic is; None for no stage's."""
        return self._entity_of.get(topic)

    def before(self, topic: str) -> tuple[str, ...]:
        """The topics of the stages before a stage's."""
        topics = tuple(self._topics.values())
        return topics[: topics.index(topic)]

    def partition(self, named: str) -> int:
        """The partition of every stage on which an id is."""
        return partition_of(named.encode(), self._partitions)

    def sent(self, passing: Passing, after: str | None = None) -> Produce | None:
        """The message to the next stage behind that of an entity, or behind home; None behind the last.

        An order goes through every stage, under its own id where it names no entity. What became of it goes
        the same way, behind it, as far as it names one; what is to be forgotten goes just where it stood.
        """
        travelling = passing.travelling
        for at, entity in enumerate(self._after[after], 1):
            named = passing.ids.get(entity)
            if named is None and travelling is None:
                further = self._after[after][at:]
                if passing.stood or not any(each in passing.ids for each in further):
                    continue
            key = (named or passing.order_id).encode()
            headers: Headers = (
                (ARRIVED_AT, str(passing.home.arrived_at).encode()),
                ("order_id", passing.order_id.encode()),
            )
            if travelling is not None and travelling.is_history:
                headers += (HISTORY,)
            where = partition_of(key, self._partitions)
            return Produce(self._topics[entity], where, key, passing.encode(), headers)
        return None
