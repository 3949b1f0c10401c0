"""Drift of what is decided on: each model's features and scores, by windows of when orders were placed.

What decisions wrote down is looked at, so what is told is what a model really saw. Of each window at most
`KEPT` orders are kept, chosen by their ids, so that memory is bounded and asking again says the same.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.drift import SCORE, Limits, Moved, moved
from stream.decided import DecidedError, DecidedOrder, Newest, Word, decided_in, reading
from stream.replay import Opened
from stream.settings import Settings

__all__ = ["KEPT", "Asked", "Drift", "WindowDrift", "drift_of", "exposition"]

KEPT: Final = 10_000
"""Orders of a window that are looked at."""
_NEWEST: Final = 2
"""How many windows back a model may have decided its last order and still be judged."""


class Asked(NamedTuple):
    """What is looked at."""

    window: timedelta = timedelta(days=7)
    models: Sequence[str] = ()
    """`name` or `name@version`; all when empty."""
    reference: tuple[datetime, datetime] | None = None
    """What others are held against, by `placed_at`, [since, until); None for each model's first window."""
    since: datetime | None = None
    until: datetime | None = None
    """Of `placed_at`, [since, until); the reference is not bound by it."""
    fewest: int = 500
    """Orders of a window of which anything is said."""
    limits: Limits = Limits()
    newest: Newest | None = None
    """Which orders are read; None for all."""
    only: Callable[[Word], bool] = lambda _: True
    """Whether what a model said counts."""


@dataclass(frozen=True, slots=True)
class WindowDrift:
    """A window of event time, held against the reference."""

    start: datetime
    end: datetime
    orders: int
    is_shadow: bool
    """Whether the model acted on none of them."""
    moved: tuple[Moved, ...]
    """The probability first, then each feature; empty for the reference, and for too few orders."""

    @property
    def beyond(self) -> tuple[Moved, ...]:
        """What is beyond a limit, the most moved first."""
        return tuple(sorted((each for each in self.moved if each.breaks), key=lambda each: -each.stability))


@dataclass(frozen=True, slots=True)
class Drift:
    """A model's windows, in their order."""

    model: str
    """`name@version`."""
    reference: tuple[datetime, datetime, int] | None
    """From when to when, and how many orders; None where there are too few to hold anything against."""
    windows: tuple[WindowDrift, ...]
    is_current: bool
    """Whether it decided something lately, measured by the newest order of all."""

    @property
    def newest(self) -> WindowDrift | None:
        """The newest window that has enough orders and is not the reference."""
        return next((each for each in reversed(self.windows) if each.moved), None)

    @property
    def drifts(self) -> bool:
        """Whether the newest window of a model in use is beyond a limit."""
        return self.is_current and self.newest is not None and bool(self.newest.beyond)

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        reference = self.reference
        return {
            "model": self.model,
            "drifts": self.drifts,
            "current": self.is_current,
            "reference": None
            if reference is None
            else {
                "since": reference[0].isoformat(),
                "until": reference[1].isoformat(),
                "orders": reference[2],
            },
            "windows": [
                {
                    "since": each.start.isoformat(),
                    "until": each.end.isoformat(),
                    "orders": each.orders,
                    "shadow": each.is_shadow,
                    "moved": [one.as_json() for one in each.moved],
                }
                for each in self.windows
            ],
        }


def drift_of(
    settings: Settings,
    opened: Opened,
    asked: Asked,
    *,
    read: Callable[[int, int], None] = lambda _read, _of: None,
) -> list[Drift]:
    """The drift of every model that scored orders, challengers in the shadow too.

    `opened` opens what was recorded. Raises DecidedError where no such model scored any, and what else keeps
    topics or the archive from being read.
    """
    width = int(asked.window / timedelta(microseconds=1))
    seen: dict[str, _Seen] = {}
    with reading(settings, opened, read) as (sources, partitions, more):
        for partition in partitions:
            for order in decided_in(settings, sources, partition, read=more, newest=asked.newest):
                for word, is_shadow in _words(order, asked.models):
                    if not asked.only(word):
                        continue
                    of_model = seen.setdefault(word.model, _Seen(tuple(word.features)))
                    of_model.add(order, word, asked, width, is_shadow=is_shadow)
    if not any(each.windows for each in seen.values()):
        raise DecidedError(
            f"no order of '{settings.topics.orders}' was scored by {' or '.join(asked.models) or 'a model'} "
            "within these bounds; see which models there are: fraudstream models list"
        )
    newest = max(start for each in seen.values() for start in each.windows)
    return [each.drift(name, asked, width, newest) for name, each in sorted(seen.items()) if each.windows]


class _Sample:
    """Orders of a window: how many, and those that are kept."""

    def __init__(self) -> None:
        self.orders = 0
        self.acted = 0
        self._kept: list[tuple[int, bytes]] = []
        """A heap, whose first is the next to go."""

    def add(self, order_id: str, row: bytes, *, is_shadow: bool) -> None:
        self.orders += 1
        self.acted += not is_shadow
        place = -int.from_bytes(blake2b(order_id.encode(), digest_size=8).digest())
        if len(self._kept) < KEPT:
            heapq.heappush(self._kept, (place, row))
        else:
            heapq.heappushpop(self._kept, (place, row))

    def matrix(self, columns: int) -> npt.NDArray[np.float64]:
        rows = np.frombuffer(b"".join(row for _, row in sorted(self._kept)), dtype=np.float64)
        return rows.reshape(-1, columns)


@dataclass(slots=True)
class _Seen:
    """What one model saw."""

    names: tuple[str, ...]
    windows: dict[int, _Sample] = field(default_factory=dict)
    """By the number of the window since 1970."""
    reference: _Sample = field(default_factory=_Sample)

    def add(self, order: DecidedOrder, word: Word, asked: Asked, width: int, *, is_shadow: bool) -> None:
        if tuple(word.features) != self.names:
            return  # written by somebody else: a model always asks the same
        row = np.array([word.p_fraud, *word.features.values()], dtype=np.float64).tobytes()
        if asked.reference is not None and order.is_placed(*asked.reference):
            self.reference.add(order.order_id, row, is_shadow=is_shadow)
        elif order.is_placed(asked.since, asked.until):
            sample = self.windows.setdefault(order.placed_at // width, _Sample())
            sample.add(order.order_id, row, is_shadow=is_shadow)

    def drift(self, model: str, asked: Asked, width: int, newest: int) -> Drift:
        numbers = sorted(self.windows)
        between, base, own = self._reference(asked, width, numbers)
        names = (SCORE, *self.names)
        before = None if base is None else base.matrix(len(names))
        windows = []
        for number in numbers:
            sample = self.windows[number]
            found: tuple[Moved, ...] = ()
            if before is not None and number != own and sample.orders >= asked.fewest:
                found = tuple(moved(before, sample.matrix(len(names)), names, asked.limits))
            windows.append(WindowDrift(*_between(number, width), sample.orders, not sample.acted, found))
        return Drift(model, between, tuple(windows), numbers[-1] > newest - _NEWEST)

    def _reference(
        self, asked: Asked, width: int, numbers: Sequence[int]
    ) -> tuple[tuple[datetime, datetime, int] | None, _Sample | None, int | None]:
        if asked.reference is not None:
            if self.reference.orders < asked.fewest:
                return None, None, None
            return (*asked.reference, self.reference.orders), self.reference, None
        own = next((each for each in numbers if self.windows[each].orders >= asked.fewest), None)
        if own is None:
            return None, None, None
        return (*_between(own, width), self.windows[own].orders), self.windows[own], own


def _words(order: DecidedOrder, models: Sequence[str]) -> Iterator[tuple[Word, bool]]:
    """What each of the models said of an order, and whether in the shadow."""
    said = [] if order.counted is None else [(order.counted, False)]
    for word, is_shadow in (*said, *((each, True) for each in order.shadow)):
        # a decision without features is one in brief, of an order that was revised again and again
        if word.features and word.is_of(models):
            yield word, is_shadow


def _between(number: int, width: int) -> tuple[datetime, datetime]:
    start = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=number * width)
    return start, start + timedelta(microseconds=width)


# For Prometheus -----------------------------------------------------------------------------------

_GAUGES: Final[Mapping[str, tuple[str, Callable[[Moved], float | None]]]] = {
    "stability": ("Population stability index against the reference.", lambda each: each.stability),
    "missing_share": ("Share of orders of which it is unknown.", lambda each: each.missing_now),
    "missing_share_reference": ("The same in the reference.", lambda each: each.missing_before),
    "mean": ("Mean of what is known.", lambda each: each.mean_now),
    "mean_reference": ("The same in the reference.", lambda each: each.mean_before),
}


def exposition(drifts: Sequence[Drift]) -> str:
    """Each model's newest window as Prometheus text, for the textfile collector of its node exporter."""
    lines = []
    for name, (meaning, value) in _GAUGES.items():
        lines += _head(f"fraudstream_drift_{name}", meaning)
        for each in drifts:
            for one in each.newest.moved if each.newest is not None else ():
                found = value(one)
                if found is not None:
                    labels = f'model="{_label(each.model)}",feature="{_label(one.name)}"'
                    lines.append(f"fraudstream_drift_{name}{{{labels}}} {found!r}")
    for name, meaning, number in (
        ("orders", "Orders of the newest window that is judged.", lambda window: window.orders),
        (
            "window_end_seconds",
            "When that window ends, in seconds since 1970.",
            lambda window: window.end.timestamp(),
        ),
        (
            "beyond_limits",
            "How many features, the score included, are beyond a limit.",
            lambda window: len(window.beyond),
        ),
    ):
        lines += _head(f"fraudstream_drift_{name}", meaning)
        for each in drifts:
            if each.newest is not None:
                lines.append(
                    f'fraudstream_drift_{name}{{model="{_label(each.model)}"}} {number(each.newest)!r}'
                )
    return "\n".join(lines) + "\n"


def _head(name: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
