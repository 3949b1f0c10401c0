"""How long what is remembered is kept after its last event, counted in event time.

Event time is the partition's watermark, the greatest `placed_at` of the orders it accepted: a partition into
which nothing comes forgets nothing, and a worker that replays forgets the same. Each stage has one of its own
in each of its partitions, so that what is forgotten there is told from its own log alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from stream.ports import Refused

if TYPE_CHECKING:
    # settings are read before features are needed
    from features.define import Feature

__all__ = [
    "CLOCK",
    "FOR_EVER",
    "ORDER",
    "PASSED",
    "ROW",
    "ROWS",
    "Horizons",
    "check_horizons",
    "customer_key",
    "order_key",
    "reach",
    "row_key",
]

ROWS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "customer": b"c",
        "device": b"d",
        "card": b"k",
        "ip": b"i",
        "email": b"e",
        "shipping_address": b"s",
        "merchant": b"m",
    }
)
"""What the key of a row begins with, by the entity it is of; for life, because changelogs have it."""

ROW: Final = ROWS["customer"]
"""What the key of a customer's row begins with."""

ORDER: Final = b"o"
"""What the key of an order's memory begins with: at home, where its revisions are known."""

PASSED: Final = b"p"
"""What the key of an order's memory at a stage begins with; the first byte of that entity's rows follows."""

CLOCK: Final = b"w"
"""What the key of a stage's watermark begins with; the same follows."""

_MICROSECONDS_A_DAY: Final = 86_400_000_000


def row_key(entity: str, named: str) -> bytes:
    """The key of an entity's row, in the store and in the changelog."""
    return ROWS[entity] + named.encode()


def customer_key(customer_id: str) -> bytes:
    """The key of a customer's row, in the store and in the changelog."""
    return ROW + customer_id.encode()


def order_key(order_id: str) -> bytes:
    """The key under which an order's revisions, and what was said of it, are remembered at home."""
    return ORDER + order_id.encode()


@dataclass(frozen=True, slots=True)
class Horizons:
    """For how many microseconds after its last event a key is kept; None is for ever."""

    rows: int | None = None
    orders: int | None = None

    @classmethod
    def of_days(cls, *, rows: int, orders: int) -> "Horizons":
        """So many days each; 0 is for ever."""
        return cls(rows * _MICROSECONDS_A_DAY or None, orders * _MICROSECONDS_A_DAY or None)

    def at(self, watermark: int | None) -> dict[bytes, int]:
        """What was last heard of before these instants is gone, by what its key begins with."""
        if watermark is None:
            return {}
        kept = {ROW: self.rows, ORDER: self.orders}
        return {kind: watermark - keep for kind, keep in kept.items() if keep is not None}

    def at_stages(self, watermarks: Mapping[str, int]) -> dict[bytes, int]:
        """The same of what the stages of these entities keep, each by its own watermark."""
        gone: dict[bytes, int] = {}
        if self.rows is not None:
            gone = {ROWS[entity]: watermark - self.rows for entity, watermark in watermarks.items()}
        if self.orders is not None and watermarks:
            # kept together, so by the stage that has come least far
            gone[PASSED] = min(watermarks.values()) - self.orders
        return gone


FOR_EVER: Final = Horizons()


def reach(feature: object) -> timedelta:
    """How far back of an order a feature asks for what lies in a window; one that asks for all has none."""
    if not is_dataclass(feature):
        return timedelta(0)
    scorer = getattr(feature, "scorer", None)  # another model's score asks what that model asks
    if scorer is not None:
        return max(map(reach, scorer.features), default=timedelta(0))
    own, within = timedelta(0), timedelta(0)
    # what nobody wrote is no window: `over` stands in every aggregate
    for each in (each for each in fields(feature) if each.init):
        value = getattr(feature, each.name)
        if not isinstance(value, timedelta):
            within = max(within, reach(value))
        elif each.name == "known_after":
            own += value
        else:
            within = max(within, value)
    return own + within


def check_horizons(features: "Sequence[Feature]", *, model: str, forget_after_days: int) -> None:
    """Refuse to keep rows for shorter than a feature asks: its values would change with what is forgotten."""
    if not forget_after_days:
        return
    longest = max(features, key=reach)
    if reach(longest) > timedelta(days=forget_after_days):
        days = -(-reach(longest) // timedelta(days=1))
        raise Refused(
            f"{model} asks for {days} days of a customer's past ({longest.name}) and this worker forgets it "
            f"after {forget_after_days}; set FRAUDSTREAM_FORGET_AFTER_DAYS to {days} or more, or 0 for ever"
        )
