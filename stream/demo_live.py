"""Live orders sent and their decisions read, each in a thread of its own, so that drawing delays neither."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self

from stream.publish import publish
from stream.settings import Settings
from stream.shop import Placed
from stream.watch import Seen, Watch

__all__ = ["Decided", "LiveOrders", "order_line"]


class Decided(NamedTuple):
    """A decision that came in, and the order it is about if that was ours."""

    seen: Seen
    placed: Placed | None
    sent_at: datetime | None
    read: float
    """A monotonic clock's reading."""
    latency: float


class LiveOrders:
    """Orders on their way to their decisions; inside the block they are sent and decisions are read."""

    def __init__(
        self, settings: Settings, orders: Iterable[Placed], *, rate: float, placed: Callable[[], None]
    ) -> None:
        """`placed` is called for each order when its time has come."""
        self._settings = settings
        self._orders = orders
        self._rate = rate
        self._placed = placed
        self._waiting: dict[str, tuple[Placed, datetime, float]] = {}
        self._decided: set[str] = set()
        self._came: queue.SimpleQueue[tuple[Seen, float]] = queue.SimpleQueue()
        self._no_more = threading.Event()
        self._read_no_more = threading.Event()
        self._failures: list[BaseException] = []
        self._sender = threading.Thread(target=self._kept(self._send), name="live orders", daemon=True)
        self._reader = threading.Thread(target=self._kept(self._read), name="decisions", daemon=True)
        self.doubled = 0
        """Orders of ours that were decided twice, other than by a repeat that says so."""
        self.others = 0
        """Decisions about orders that someone else sent."""

    def __enter__(self) -> Self:
        self._watch = Watch(self._settings)
        self._reader.start()
        self._sender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._no_more.set()
        self._read_no_more.set()
        self._reader.join(5)
        self._sender.join(5)

    @property
    def undecided(self) -> int:
        """How many orders were sent and have no decision yet."""
        return len(self._waiting)

    @property
    def is_on(self) -> bool:
        """Whether anything is still to be sent or to be decided."""
        return self._sender.is_alive() or bool(self._waiting)

    @property
    def is_sending(self) -> bool:
        """Whether more orders are to come."""
        return self._sender.is_alive()

    @property
    def failure(self) -> BaseException | None:
        """What stopped the sending or the reading, if anything did."""
        return self._failures[0] if self._failures else None

    def stop_sending(self) -> None:
        """Send no further order; those on their way are still decided."""
        self._no_more.set()

    def within(self, seconds: float) -> Iterator[Decided]:
        """The decisions that have come, waiting at most so long for the first of them."""
        with contextlib.suppress(queue.Empty):
            seen, read = self._came.get(timeout=seconds)
            while True:
                yield self._met(seen, read)
                seen, read = self._came.get_nowait()

    def _met(self, seen: Seen, read: float) -> Decided:
        order_id = seen.decision.order_id
        waited = self._waiting.pop(order_id, None)
        if waited is not None:
            self._decided.add(order_id)
            placed, sent_at, sent = waited
            return Decided(seen, placed, sent_at, read, read - sent)
        if order_id not in self._decided:
            self.others += 1
        elif seen.decision.repeat_of is None:
            self.doubled += 1
        return Decided(seen, None, None, read, 0.0)

    def _send(self) -> None:
        publish(self._settings, self._lines(), rate=self._rate)

    def _lines(self) -> Iterator[bytes]:
        for placed in self._orders:
            if self._no_more.is_set():
                return
            self._waiting[placed.order.order_id] = (placed, datetime.now(UTC).astimezone(), time.monotonic())
            self._placed()
            yield order_line(placed)

    def _read(self) -> None:
        with self._watch as watch:
            while not self._read_no_more.is_set():
                for seen in watch.within(0.1):
                    self._came.put((seen, time.monotonic()))

    def _kept(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                self._failures.append(error)

        return run


def order_line(placed: Placed) -> bytes:
    """The order in JSON, as a shop would send it: without its label."""
    return placed.order.model_dump_json(exclude_defaults=True).encode()
