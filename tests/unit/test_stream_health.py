"""How a worker is judged, with its parts in any state and time in our hands."""

import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stream.health import Health, HealthPort
from stream.metrics import Measurements, Restore, Running
from stream.ports import TP, Assignment, Refused
from stream.settings import Settings


@dataclass
class AMailbox:
    assignment: Assignment | None = None
    has_work: bool = False
    stopping: bool = False
    waiting: int = 0
    held: bool = False
    draining: bool = False


@dataclass
class AWriter:
    mailbox: AMailbox = field(default_factory=AMailbox)
    counts: Counter[str] = field(default_factory=Counter)
    is_open: bool = False
    opened: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


class AWorker:
    """A worker judged twice a second, whose parts a test sets as it likes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.measured = Measurements()
        self.writer = AWriter()
        self.ends: dict[TP, int] = {}
        self.health = Health(self.measured, stuck_s=60, clock=lambda: self.now)
        self.starts()

    def starts(self) -> None:
        parts = cast("Any", self.writer), cast("Any", None), cast("Any", None)
        self.health.running = Running(*parts, 0.0, self.ends.get, dict)

    def opens(self, *partitions: int) -> None:
        self.writer.mailbox.assignment = Assignment(1, "m", frozenset(partitions))
        self.writer.opened = {number: {"orders": 0} for number in partitions}
        self.writer.is_open = True

    def lives(self, seconds: float, *, committing: bool = False) -> None:
        for _ in range(int(2 * seconds)):
            self.now += 0.5
            self.writer.counts["transactions"] += committing
            self.health.look()


@pytest.fixture
def worker() -> AWorker:
    return AWorker()


def test_an_order_after_an_hour_of_nothing_does_not_look_like_an_hour_of_standstill(worker: AWorker) -> None:
    worker.opens(0)
    worker.lives(3600)

    worker.ends["orders", 0] = 1
    worker.lives(10)

    assert worker.health.judge().healthy
    assert worker.health.judge().state == "deciding"
    worker.lives(60)
    assert not worker.health.judge().healthy


def test_a_backlog_of_hours_is_healthy_while_it_is_worked_off(worker: AWorker) -> None:
    worker.opens(0)
    worker.ends["orders", 0] = 1_000_000

    worker.lives(3600, committing=True)

    assert worker.health.judge().healthy
    assert worker.health.lag() == {("orders", 0): 1_000_000}


def test_a_standstill_that_nobody_else_explains_is_one_that_a_restart_helps(worker: AWorker) -> None:
    worker.opens(0)
    worker.writer.mailbox.has_work = True

    worker.lives(61)

    judged = worker.health.judge()
    assert (judged.healthy, judged.restart_helps, judged.state) == (False, True, "deciding")


def test_behind_a_hanging_transaction_a_worker_is_unhealthy_and_a_restart_does_not_help(
    worker: AWorker,
) -> None:
    worker.writer.mailbox.assignment = Assignment(1, "m", frozenset({0}))
    worker.measured.open_transaction = "histories-changelog/0: an open transaction begins before offset 7"

    worker.lives(30)
    early = worker.health.judge()
    worker.lives(31)
    late = worker.health.judge()

    assert (early.healthy, early.ready, early.state) == (True, False, "blocked")
    assert (late.healthy, late.restart_helps) == (False, False)
    assert "histories-changelog/0" in late.reason


def test_a_broker_that_is_away_for_long_makes_even_an_idle_worker_unhealthy_until_it_is_back(
    worker: AWorker,
) -> None:
    worker.opens(0)
    worker.measured.unreachable = "orders/0: no answer within 10 s"

    worker.lives(30)
    early = worker.health.judge()
    worker.lives(31)
    late = worker.health.judge()
    worker.measured.unreachable = None
    worker.lives(1)

    assert early.healthy
    assert (late.healthy, late.state, late.restart_helps) == (False, "unreachable", False)
    assert worker.health.judge().healthy


def test_a_long_restore_is_healthy_as_long_as_records_come(worker: AWorker) -> None:
    worker.writer.mailbox.assignment = Assignment(1, "m", frozenset({0, 1}))
    restore = worker.measured.restores[0] = Restore(0, 5000, 0)

    for _ in range(10):
        restore.at += 300
        worker.measured.restored += 300
        worker.lives(50)
        judged = worker.health.judge()
        assert (judged.healthy, judged.ready, judged.state) == (True, False, "opening")

    assert "2,000 offsets of the changelog are left" in worker.health.judge().reason
    worker.lives(61)
    assert not worker.health.judge().healthy


def test_a_rebalance_takes_readiness_away_and_not_health(worker: AWorker) -> None:
    worker.opens(0)
    worker.lives(100)

    worker.writer.mailbox.assignment, worker.writer.is_open = None, False
    worker.lives(20)

    judged = worker.health.judge()
    assert (judged.healthy, judged.ready, judged.state) == (True, False, "unassigned")


def test_a_worker_that_the_group_has_no_partition_for_is_ready_and_healthy(worker: AWorker) -> None:
    worker.opens()

    worker.lives(3600)

    judged = worker.health.judge()
    assert (judged.healthy, judged.ready, judged.state) == (True, True, "idle")


def test_markers_behind_the_last_order_are_no_lag(worker: AWorker) -> None:
    worker.opens(0)
    worker.writer.opened = {0: {"orders": 41}}
    worker.ends["orders", 0] = 43
    worker.lives(5)
    before = worker.health.lag()

    worker.measured.searched["orders", 0] = 43
    worker.lives(3600)

    assert before == {("orders", 0): 2}
    assert worker.health.lag() == {("orders", 0): 0}
    assert worker.health.judge().healthy


def test_a_worker_that_is_asked_to_end_is_no_longer_ready(worker: AWorker) -> None:
    worker.opens(0)
    worker.writer.mailbox.stopping = True

    worker.lives(1)

    judged = worker.health.judge()
    assert (judged.healthy, judged.ready, judged.state) == (True, False, "stopping")


def test_a_worker_that_never_gets_started_becomes_unhealthy() -> None:
    worker = AWorker()
    worker.health.running = None

    worker.lives(30)
    early = worker.health.judge()
    worker.lives(31)

    assert (early.healthy, early.ready, early.state) == (True, False, "starting")
    assert not worker.health.judge().healthy


def test_a_port_that_is_taken_is_refused_with_the_name_of_its_setting(worker: AWorker) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(Refused, match=rf"^setting health_port: can't listen on 127.0.0.1:{port}: Addr"):
            HealthPort.open(Settings(health_port=port), worker.health)


def test_without_a_port_nothing_listens(worker: AWorker) -> None:
    assert HealthPort.open(Settings(), worker.health) is None
