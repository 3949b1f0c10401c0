"""How a worker is judged whose group a person paused."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stream.health import Health
from stream.kafka import RealClock
from stream.metrics import Measurements, Running
from stream.ports import TP, Assignment, Batch, Record
from stream.writer import Limits, Mailbox

ORDERS, STAGE = "orders", "orders-by-device"


@dataclass
class AWriter:
    mailbox: Mailbox = field(default_factory=lambda: Mailbox(RealClock(), Limits()))
    counts: Counter[str] = field(default_factory=Counter)
    is_open: bool = True
    opened: Mapping[int, Mapping[str, int]] = field(default_factory=lambda: {0: {ORDERS: 0, STAGE: 7}})


class AWorker:
    """A worker with an opened partition in which an order waits, judged twice a second."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.writer = AWriter()
        self.measured = Measurements()
        self.health = Health(self.measured, stuck_s=60, clock=lambda: self.now)
        self.ends: dict[TP, int] = {(ORDERS, 0): 1, (STAGE, 0): 7}
        parts = cast("Any", self.writer), cast("Any", None), cast("Any", None)
        self.health.running = Running(*parts, 0.0, self.ends.get, dict, stages=frozenset({STAGE}))
        assignment = Assignment(1, "m", frozenset({0}))
        self.writer.mailbox.assign(assignment)
        order = Record(ORDERS, 0, 0, 0, b"c1", b"{}")
        assert self.writer.mailbox.offer(Batch(ORDERS, 0, [order], assignment, None))

    def lives(self, seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            self.now += 0.5
            self.health.look()


@pytest.fixture
def worker() -> AWorker:
    return AWorker()


def test_a_paused_worker_is_healthy_however_long_orders_wait(worker: AWorker) -> None:
    worker.writer.mailbox.hold(True)

    worker.lives(600)

    judged = worker.health.judge()
    assert (judged.state, judged.healthy, judged.ready, judged.restart_helps) == ("paused", True, True, False)
    assert "fraudstream resume" in judged.reason


def test_a_worker_that_only_finishes_what_is_on_its_road_is_healthy_while_orders_wait(
    worker: AWorker,
) -> None:
    worker.writer.mailbox.hold(False, draining=True)

    worker.lives(600)
    assert worker.health.judge().state == "paused"
    assert worker.health.judge().healthy

    worker.writer.mailbox.hold(False)
    worker.lives(70)
    assert not worker.health.judge().healthy


def test_a_worker_that_does_not_finish_what_is_on_its_road_is_unhealthy(worker: AWorker) -> None:
    worker.ends[STAGE, 0] = 12
    worker.writer.mailbox.hold(False, draining=True)

    worker.lives(50)
    judged = worker.health.judge()
    assert (judged.state, judged.healthy, judged.ready) == ("draining", True, True)
    assert "5 records are on their way" in judged.reason

    worker.lives(20)
    judged = worker.health.judge()
    assert (judged.state, judged.healthy, judged.restart_helps) == ("draining", False, True)


def test_the_time_of_a_pause_is_not_held_against_who_goes_on(worker: AWorker) -> None:
    worker.writer.mailbox.hold(True)
    worker.lives(600)

    worker.writer.mailbox.hold(False)
    worker.lives(50)
    assert worker.health.judge().healthy
    worker.lives(20)
    assert not worker.health.judge().healthy


def test_a_broker_that_was_away_when_a_pause_began_is_nothing_a_paused_worker_waits_for(
    worker: AWorker,
) -> None:
    worker.measured.unreachable = "no answer"  # nobody asks again before the pause is over
    worker.writer.mailbox.hold(True)

    worker.lives(600)

    assert worker.health.judge().healthy


def test_a_paused_worker_that_can_t_open_its_partitions_is_unhealthy(worker: AWorker) -> None:
    worker.writer.is_open = False
    worker.writer.mailbox.hold(True)

    worker.lives(70)

    judged = worker.health.judge()
    assert (judged.state, judged.healthy) == ("opening", False)
