"""One schedule: two workers, a few orders, a few faults, and what must be true at the end.

A seed decides everything: the orders, the network's moods, the faults, and how far each worker gets
before it is struck. `run(seed)` answers what was violated.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from types import ModuleType
from typing import NoReturn

from stream import writer as core
from stream.keeping import Horizons
from stream.merge import ARRIVED_AT, arrived_at
from stream.ports import (
    TP,
    Assignment,
    Batch,
    Committed,
    Effects,
    Headers,
    Positions,
    Recall,
    Record,
    Refused,
    Watermarks,
)
from tests.faults.plain_desk import DECISIONS, KEPT_FOR, ORDERS, Message, Road, Told, as_recorded, order_of
from tests.faults.simulated import (
    COMMITTED,
    EPOCH_MS,
    NETWORK,
    SESSION_S,
    SWEEP_S,
    TOMBSTONES_S,
    TRANSACTION_S,
    Fault,
    Killed,
    Life,
    SimClock,
    SimCluster,
    SimStore,
    Worker,
    World,
)

CHANGELOG = "customers-changelog"
FAULTS_END_S = 60.0
"""Faults that have not found their step by then never strike."""
RECOVERY_S = 200.0
"""How long after the last fault everything must be decided, in virtual seconds."""
MOST_CRASHES = 16
"""How often a poison order may stop workers before it is set aside, whatever else strikes them."""
LIVE_MS = 60_000
"""What arrived longer before it was appended is a past that was published."""
NEIGHBOUR_S = 60.0
"""How long a busy partition gets an order every second beside a quiet one."""


class Poisoned(Exception):
    """An order that a mistake of ours can't decide."""


class FakeDesk:
    """Takes records down the road, as `tests.faults.plain_desk` says; it may take its time, or be the end."""

    def __init__(self, schedule: "Schedule", life: Life, road: Road) -> None:
        self._schedule = schedule
        self._world = schedule.world
        self._life = life
        self._road = road

    def decide(
        self, records: Sequence[Record], recall: Recall, watermarks: Watermarks, positions: Positions
    ) -> Effects:
        """What every record changes and produces."""
        schedule = self._schedule
        schedule.check_not_held(self._life)
        schedule.check_merged(self._life, self._road, records, positions)
        struck = self._world.begin(self._life, "decide")
        effects = Effects()
        if len(records) == 1:
            schedule.alone.add((records[0].topic, order_of(records[0])[0]))
        at = {number: dict(offsets) for number, offsets in positions.items()}
        for record in records:
            if order_of(record)[0] == schedule.poison and record.topic == schedule.poisoned_at:
                schedule.crash(self._life)
            number = record.partition
            rows = _Overlay(number, recall, effects.rows.setdefault(number, {}))
            watermark = effects.watermarks.get(number, watermarks.get(number))
            others = {topic: offset for topic, offset in at[number].items() if topic != record.topic}
            produce, watermark = self._road.take(record, rows, watermark, others)
            at[number][record.topic] = record.offset + 1
            if watermark is not None:
                effects.watermarks[number] = watermark
            effects.produce.append(produce)
        self._world.effect(self._life, struck)
        self._world.end(self._life, struck)
        return effects

    def set_aside(self, record: Record, recall: Recall, positions: Positions) -> Effects:
        """A decision that says the order was set aside; its rows stay as they are."""
        self._schedule.check_set_aside(record)
        effects = Effects()
        effects.produce.append(self._road.set_aside(record))
        return effects


class _Overlay(dict[bytes, bytes | None]):
    """The rows of a partition as a batch has changed them so far."""

    def __init__(self, number: int, recall: Recall, changed: dict[bytes, bytes | None]) -> None:
        super().__init__(changed)
        self._number = number
        self._recall = recall
        self._changed = changed

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        return self._changed[key] if key in self._changed else self._recall(self._number, key) or default

    def __setitem__(self, key: bytes, row: bytes | None) -> None:
        self._changed[key] = row


class Schedule:
    """The story of one seed."""

    def __init__(self, seed: int, *, writer: ModuleType = core, trace: bool = False) -> None:
        self.seed = seed
        self.core = writer
        self.world = world = World(seed, trace=trace)
        rng = world.rng
        self._roads = self._some_roads(Random(f"roads {seed}"))
        self.limits = writer.Limits(
            behind_s=Random(f"behind {seed}").choice((0.25, 1.0)),
            trusted_s=1.0,
            evicted=Random(f"evicted {seed}").choice((1, 16)),
            records=(records := rng.choice((1, 2, 4, 1000))),
            history_records=3 * records,
            revoke_s=3.0,
            patience_s=30.0,
            pause_s=0.3,
            idle_s=rng.choice((3.0, 10.0)),
            tombstones_s=TOMBSTONES_S / 2,
            crashes=1000,
        )
        self.faults: list[str] = []
        self.quiet_at = 0.0
        self.ended = ""
        self.poison: bytes | None = None
        self.poisoned_at = ORDERS
        """The topic at which the poison order stops workers."""
        self.crashes = 0
        """How often the poison order stopped a worker."""
        self.alone: set[tuple[str, bytes]] = set()
        """The orders that were taken, or tried, without others, and where."""
        self.set_aside: dict[bytes, str] = {}
        """The orders that were set aside, and where."""
        self._deadly = False
        self._namesake: Worker | None = None
        self._refused_namesakes = 0
        self._second_input_at = self._second_input_read_at = 0.0
        self.held = False
        """Whether somebody paused all workers."""
        self._hearing: set[Life] = set()
        self._decided_held: dict[Life, int] = {}
        """How often a worker began to decide since it was told to hold."""
        self._times = Random(f"time {seed}")
        # of a chance of its own, so that event time changes nothing of what an old seed tells
        self._strides: tuple[int, ...] = self._times.choice(
            ((0,), (0, 1, 20), (0, 10, KEPT_FOR, KEPT_FOR + 1), (-60, 0, 30, KEPT_FOR, 3 * KEPT_FOR))
        )
        self._placed: dict[bytes, int] = {}
        self._today = 0
        sweeps, lazy = Random(f"sweeps {seed}"), self._times.choice((0.0, 0.5))
        world.finds_nothing = lambda: sweeps.random() < lazy
        self._quiet: frozenset[TP] = frozenset()
        """The inputs of which Faust loses everything it fetches."""
        self.decided_within_s: float | None = None
        """How long after its arrival an order is taken at the latest."""
        if rng.random() < 0.4:
            world.slow = rng.choice((0.005, 0.02, 0.05))
        world.lazy = rng.choice((0.0, 0.02, 0.1, 0.3))
        if rng.random() < 0.3:
            world.noise = rng.choice((0.01, 0.04, 0.1))
        self._clumsy = rng.random() < 0.5
        self._closing = False
        self._writers: dict[Life, core.Writer] = {}
        world.on_death = self._come_back
        world.on_offset = self._check_tries
        about = rng.random()
        if about < 0.02:
            self._plan_a_busy_neighbour()
            return
        if about < 0.03:
            self._plan_a_silent_input()
            return
        if 0.19 <= about < 0.24 and len(self._roads[0]) > 1:
            self._plan_a_second_input(rng)
        self._plan_orders(rng)
        self._start_workers(2)
        if about < 0.14:
            self._plan_poison(rng)
        self._plan_faults(rng)
        if 0.14 <= about < 0.19:
            self._plan_a_namesake(rng)
        # of a chance of its own, so that seeds without it tell the same story as ever
        holds = Random(f"hold {seed}")
        if holds.random() < 0.15:
            self._plan_a_hold(holds)

    @property
    def inputs(self) -> tuple[str, ...]:
        """All topics that workers take."""
        return tuple(topic for road in self._roads for topic in road)

    @property
    def road(self) -> Road:
        """What becomes of the records of all inputs."""
        return Road(self._roads, self.world.partitions, self._placed.__getitem__)

    # --- the plan --------------------------------------------------------------------------------

    def _some_roads(self, rng: Random) -> tuple[tuple[str, ...], ...]:
        home = rng.choice(((ORDERS,), ("outcomes", ORDERS), ("outcomes", "order-events", ORDERS)))
        stages = (("orders-by-device",), ("orders-by-merchant",))[: rng.choice((0, 0, 1, 2, 2))]
        self.world.fed = frozenset(topic for stage in stages for topic in stage)
        return (home, *stages)

    def _plan_orders(self, rng: Random) -> None:
        world = self.world
        for topic in self.inputs:
            for number in range(world.partitions):
                world.log((topic, number))
        home = self._roads[0]
        published = Random(f"published {self.seed}")
        strides = published.choice(((), (), (0, 10), (-30, 0, 0, 20)))
        arrived = 500_000
        count = rng.randint(10, 20)
        span = rng.choice((0.0, 10.0, 25.0, 40.0))
        transactional = rng.random() < 0.25
        at = last = 0.0
        for index in range(count):
            at = index * span / count
            topic = rng.choice(home)
            tp = (topic, rng.randrange(world.partitions))
            if topic != ORDERS and self._second_input_at:
                tp = (topic, 0)  # at the other, nothing may come after the claim of the new input
            key = b"c%d" % rng.randrange(3)
            value = b"o%d" % index
            headers: Headers = ()
            if strides and published.random() < 0.9:
                arrived += published.choice(strides)
                headers = ((ARRIVED_AT, b"%d" % arrived),)
            if not transactional or rng.random() < 0.5:
                world.later(
                    at,
                    lambda tp=tp, k=key, v=value, h=headers: self._arrive(tp, k, v, h),  # type: ignore[misc]
                )
            else:
                commit = rng.random() < 0.7
                held = rng.random() * 2.0
                if rng.random() < 0.15:
                    # its publisher died; the coordinator aborts it, and all readers wait for that
                    commit, held = False, TRANSACTION_S + rng.random() * SWEEP_S
                last = max(last, at + held)
                world.later(
                    at,
                    lambda tp=tp, k=key, v=value, c=commit, h=held, p=index, s=headers: (  # type: ignore[misc]
                        self._arrive_in_transaction(tp, k, v, s, commit=c, held=h, pid=p)
                    ),
                )
        self.quiet_at = max(at, last, self._second_input_read_at) + 2.0

    def _place(self, value: bytes) -> None:
        """Say when an order was placed, in event time: it may jump, and come late."""
        stride = self._times.choice(self._strides)
        self._placed[value] = self._today + stride
        self._today = max(self._today, self._placed[value])

    def _arrive(self, tp: TP, key: bytes, value: bytes, headers: Headers = ()) -> None:
        self._place(value)
        self.world.log(tp).append(key, value, self.world.now, headers=headers)
        self.world.nudge_all()

    def _arrive_in_transaction(
        self, tp: TP, key: bytes, value: bytes, headers: Headers, *, commit: bool, held: float, pid: int
    ) -> None:
        log = self.world.log(tp)
        self._place(value)
        log.append(key, value, self.world.now, pid, headers=headers)

        def end() -> None:
            if not commit:
                self.world.struck["publisher's abort" if held < TRANSACTION_S else "publisher's death"] += 1
            log.mark(pid, 0, commit=commit, now=self.world.now)
            self.world.nudge_all()

        self.world.later(held, end)

    def _plan_a_busy_neighbour(self) -> None:
        """A quiet partition of which Faust loses all must not wait for its busy neighbour to pause."""
        world = self.world
        world.slow = world.lazy = 0.0
        world.noise = world.rng.choice((0.0, 0.05))
        self._roads = ((ORDERS,),)
        self._clumsy = False
        self._quiet = frozenset({(ORDERS, 1)})
        self.limits = replace(self.limits, idle_s=3.0)
        self._start_workers(1)
        self._tell("a quiet partition beside a busy one")
        for second in range(int(NEIGHBOUR_S)):
            # one order, and no pause of the neighbour as long as idle_s
            number = int(second == 10)
            tp, value = ("orders", number), b"o%d" % second
            world.later(float(second), lambda tp=tp, v=value: self._arrive(tp, b"c0", v))  # type: ignore[misc]
        self.quiet_at = NEIGHBOUR_S

        def look() -> None:
            committed = world.group.committed(("orders", 1))
            if committed is None or committed.offset < world.log(("orders", 1)).end:
                world.violation(
                    f"an order of a quiet partition waits while its neighbour is busy: {committed}"
                )

        if not world.noise:
            # when the quiet partition's order has just been found
            worker = world.workers[0]
            worker.faults.append(Fault("lost request", 0, 1, op="read"))
            self._tell(str(worker.faults[0]))
            # with a bad network the end of the schedule must do: everything is decided then
            world.later(NEIGHBOUR_S - 5.0, look)

    def _plan_a_silent_input(self) -> None:
        """Orders must not wait for ever for outcomes that Faust loses, nor go before them."""
        world = self.world
        world.slow = world.lazy = world.noise = 0.0
        self._roads = (("outcomes", ORDERS),)
        self._clumsy = False
        self._quiet = frozenset(("outcomes", number) for number in range(world.partitions))
        # so that nobody comes upon what is lost by looking for it
        self.limits = replace(self.limits, idle_s=10 * NEIGHBOUR_S)
        self.decided_within_s = 40.0  # the worker may need half of it to start
        self._start_workers(1)
        self._tell("all outcomes lost by Faust")
        for second in range(int(NEIGHBOUR_S)):
            tp, value = (self.inputs[second % 3 % 2], second % 2), b"o%d" % second
            world.later(float(second), lambda tp=tp, v=value: self._arrive(tp, b"c0", v))  # type: ignore[misc]
        # outcomes after the last order are waited for by nobody
        world.later(NEIGHBOUR_S, lambda: self._arrive((ORDERS, 0), b"c0", b"last"))
        world.later(NEIGHBOUR_S, lambda: setattr(self, "_quiet", frozenset()))
        world.later(NEIGHBOUR_S, world.group.rebalance_if_any)
        self.quiet_at = NEIGHBOUR_S

    def _plan_poison(self, rng: Random) -> None:
        self.poison = b"o%d" % rng.randrange(10)
        self._deadly = rng.random() < 0.5
        self.limits = replace(self.limits, crashes=3)
        self.poisoned_at = Random(f"poisoned {self.seed}").choice(self.inputs)
        what = "kills the worker" if self._deadly else "raises"
        self._tell(f"order {self.poison.decode()} {what} at '{self.poisoned_at}'")

    def _plan_a_namesake(self, rng: Random) -> None:
        world = self.world
        self._namesake = worker = Worker(2, world.workers[0].name)
        world.workers.append(worker)
        at = rng.random() * rng.choice((0.1, 3.0, 30.0))
        self._tell(f"a second worker named {worker.name} at {at:.1f} s")
        world.later(at, lambda: self._start(worker))
        self._quiet_after(at)

    def _plan_a_second_input(self, rng: Random) -> None:
        # not too early: at a partition where all orders came before, nothing hides what the claim says
        self._second_input_at = at = 5.0 + rng.random() * 45.0
        self._tell(f"of the home inputs only '{ORDERS}' is read until {at:.1f} s")

        def restart(worker: Worker) -> None:
            self.world.struck["second input"] += 1
            if worker.life is not None and not worker.life.dead:
                worker.life.stopping = True
                self.world.nudge(worker.life)

        for index in range(2):
            when = at + rng.random() * 10.0
            self.world.later(when, lambda i=index: restart(self.world.workers[i]))  # type: ignore[misc]
            self._second_input_read_at = max(self._second_input_read_at, when)

    def _plan_a_hold(self, rng: Random) -> None:
        """Somebody pauses all workers and, later, lets them go on; each hears of it in its own time."""
        at, seconds = rng.random() * 35.0, rng.choice((0.5, 4.0, 15.0, 45.0)) * (0.5 + rng.random())
        self._tell(f"all workers paused at {at:.1f} s for {seconds:.1f} s")
        self.world.later(at, lambda: self._hold(held=True))
        self.world.later(at + seconds, lambda: self._hold(held=False))
        self._quiet_after(at + seconds)

    def _hold(self, *, held: bool) -> None:
        self.held = held
        self.world.struck["all workers paused"] += 1
        for life in self._writers:
            if not life.dead and life not in self._hearing:
                self._hearing.add(life)
                self.world.start(life, "control", lambda each=life: self._hear(each))  # type: ignore[misc]

    def _hear(self, life: Life) -> None:
        """What the one thread does that follows the control topic."""
        mailbox = self._writers[life].mailbox
        while mailbox.held != self.held:
            self.world.pause(self.world.rnd())
            mailbox.hold(self.held)
        self._hearing.remove(life)

    def check_not_held(self, life: Life) -> None:
        """Once told to hold, a worker may finish what it had begun, and begins nothing more."""
        if not self._writers[life].mailbox.held:
            self._decided_held[life] = 0
            return
        self._decided_held[life] = self._decided_held.get(life, 0) + 1
        if self._decided_held[life] > 1:
            self.world.violation(f"{life} goes on deciding while it is held")

    def _start_workers(self, count: int) -> None:
        world, rng = self.world, self.world.rng
        world.workers = [Worker(index) for index in range(count)]
        for worker in world.workers:
            world.later(rng.random() * rng.choice((0.1, 8.0)), lambda w=worker: self._start(w))  # type: ignore[misc]

    def _plan_faults(self, rng: Random) -> None:
        world = self.world
        # some schedules are about one kind of fault, so that rare ones meet each other
        theme = rng.choice(_THEMES) if rng.random() < 0.4 else ""
        for _ in range(4 if theme else rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 4, 4))):
            self._plan_fault(rng, theme)
            if theme in ("absence", "gone"):
                theme = "rebalance"  # somebody has to be left
        world.later(FAULTS_END_S, self._no_more_faults)

    def _plan_fault(self, rng: Random, theme: str) -> None:
        world = self.world
        kind = theme or rng.choices(
            (
                "kill", "pause", "lost reply", "lost request", "delayed request",
                "wipe", "stop", "down", "compaction", "rebalance", "gone", "absence", "forgetful",
                "refusal", "stall",
                "stale",
            ),
            (24, 12, 9, 6, 12, 6, 5, 4, 5, 7, 12, 10, 5, 8, 20, 8),
        )[0]  # fmt: skip
        if kind in ("down", "compaction", "rebalance", "forgetful", "stale"):
            at = rng.random() * 40.0
            if kind == "down":
                part = rng.choice(("transactions", "group", "logs"))
                seconds = rng.choice((0.5, 3.0, 12.0)) * rng.random()
                self._tell(f"{part} unreachable at {at:.1f} s for {seconds:.1f} s")
                world.later(at, lambda: self._take_down(part, seconds))
                self._quiet_after(at + seconds)
            elif kind == "forgetful":
                seconds = rng.random() * 6.0
                self._tell(
                    f"group answers that nothing was ever committed from {at:.1f} s for {seconds:.1f} s"
                )
                world.later(at, lambda: self._take_down("memory", seconds))
                self._quiet_after(at + seconds)
            elif kind == "stale":
                seconds = rng.random() * 8.0
                self._tell(f"group answers older offsets from {at:.1f} s for {seconds:.1f} s")
                world.later(at, lambda: self._take_down("freshness", seconds))
                world.later(at, world.group.rebalance_if_any)
                self._quiet_after(at + seconds)
            elif kind == "compaction":
                number, share = rng.randrange(world.partitions), rng.random()
                again = rng.choice((0.0, TOMBSTONES_S + 1.0))
                self._tell(f"compaction of partition {number} at {at:.1f} s")
                for when in (at, at + 4.0, at + again):
                    world.later(when, lambda: self._compact(number, share))
                self._quiet_after(at + again)
            else:
                self._tell(f"rebalance at {at:.1f} s")
                world.later(at, self._rebalance)
                self._quiet_after(at)
            return
        worker = rng.choice(world.workers)
        seconds = 0.0
        if kind == "pause":
            seconds = rng.choice((1.0, SESSION_S + 1.0, 14.0, 25.0)) * (0.8 + 0.4 * rng.random())
        elif kind == "stall":
            seconds = 7.0 + rng.random() * 7.0
        op = ""
        nth = int(4 + rng.random() ** 2 * 120)
        network = kind in NETWORK
        if rng.random() < 0.5:
            op = rng.choice(_TRANSACTIONAL if network else _ANY)
            nth = rng.randint(1, 12 if op in ("flush", "read") else 5)
        if kind in _BEST_AT:
            op = rng.choice(_BEST_AT[kind])
            nth = rng.choice((2, 2, 3, 4, 6)) * (2 if op == "flush" else 1)
        elif theme == "delayed request":
            op, nth = "commit", rng.randint(2, 6)
        fault = Fault(kind, worker.index, nth, op=op, after=rng.random() < 0.5, seconds=seconds)
        worker.faults.append(fault)
        self._tell(str(fault))

    def _take_down(self, part: str, seconds: float) -> None:
        self.world.struck[_DOWN.get(part, f"{part} unreachable")] += 1
        self.world.down[part] = self.world.now + seconds

    def _rebalance(self) -> None:
        self.world.struck["rebalance"] += 1
        self.world.group.rebalance_if_any()

    def _tell(self, fault: str) -> None:
        self.faults.append(fault)

    def _quiet_after(self, at: float) -> None:
        self.quiet_at = max(self.quiet_at, at)

    def _no_more_faults(self) -> None:
        world = self.world
        for worker in world.workers:
            worker.faults.clear()
        world.noise = world.slow = world.lazy = 0.0
        self._quiet_after(world.now)

    def _compact(self, number: int, share: float) -> None:
        log = self.world.log((CHANGELOG, number))
        upto = int(log.stable() * (0.5 + share / 2))
        log.compact(upto, self.world.now)
        self.world.struck["compaction"] += 1
        self.world.note(None, f"compacted {CHANGELOG}/{number} up to {upto}")

    # --- workers ---------------------------------------------------------------------------------

    def _come_back(self, life: Life) -> None:
        world, worker = self.world, life.worker
        if worker.leave == "namesake":
            return
        if worker.leave == "gone" and self._may_go(life):
            world.transaction(worker.name).patient = True
            world.note(life, "is gone for good")
            self._quiet_after(world.now + SESSION_S)
            return
        r = world.rnd()
        after = r * 0.5 if r < 0.4 else r * 8.0 if r < 0.8 else r * 25.0
        if worker.leave == "absence":
            after += TOMBSTONES_S + SESSION_S + 8.0
            for index in range(10):
                # what is forgotten now must not come back with the worker's old rows
                tp, key = (
                    (ORDERS, world.rng.randrange(world.partitions)),
                    b"c%d" % world.rng.randrange(3),
                )
                order = b"away-%s-%d" % (str(life).encode(), index)
                world.later(world.rnd() * 5.0, lambda tp=tp, k=key, v=order: self._arrive(tp, k, v))  # type: ignore[misc]
            for number in range(world.partitions):
                for when in (after - TOMBSTONES_S - 1.0, after - 0.5):
                    world.later(when, lambda n=number: self._compact(n, 1.0))  # type: ignore[misc]
        refused = worker.leave == "refused"
        worker.leave = ""
        if not refused:
            # a refusal is no fault of ours: it must not put off the end
            self._quiet_after(world.now + after)
        world.later(after, lambda: self._start(worker))

    def _may_go(self, life: Life) -> bool:
        """Whether the other can take over at once: somebody is left, and knows whose transaction to end."""
        group = self.world.group
        others = [worker for worker in self.world.workers if worker is not life.worker]
        mine = {number for number, member in group.owners.items() if member == life.member}
        writer = self._writers.get(life)
        return (
            all(not worker.leave for worker in others)
            # who is told that nothing was committed can't know the dead owner, and waits for the timeout
            and not any("group answers" in fault for fault in self.faults)
            and len(self.world.workers) == 2
            and writer is not None
            and bool(mine)
            and group.state == group.STABLE
            and mine == set(writer.opened)
        )

    def _start(self, worker: Worker) -> None:
        world = self.world
        if worker.wipe:
            worker.wipe = False
            worker.disk = {}
        life = Life(worker)
        if world.trace is not None:
            world.note(life, "started" if worker.disk else "started with an empty disk")
        clock = SimClock(world, life)
        road = self.road
        if world.now < self._second_input_at:
            road = replace(road, roads=((ORDERS,), *self._roads[1:]))
        inputs = [topic for topics in road.roads for topic in topics]
        writer = self.core.Writer(
            name=worker.name,
            roads=road.roads,
            changelog=CHANGELOG,
            partitions=world.partitions,
            cluster=SimCluster(world, life),
            store=SimStore(world, life),
            desk=FakeDesk(self, life, road),
            clock=clock,
            limits=self.limits,
            horizons=Horizons(rows=KEPT_FOR),
        )
        self._writers[life] = writer
        life.faust = world.start(life, "faust", lambda: self._faust(life, writer, inputs))
        world.start(life, "writer", lambda: self._write(life, writer))

    def _write(self, life: Life, writer: core.Writer) -> None:
        world = self.world
        try:
            writer.run()
        except Refused as error:
            if world.trace is not None:
                world.note(life, f"REFUSED {error}")
            twice = "another worker named" in str(error)
            life.worker.leave = "namesake" if twice else "refused"
            self._refused_namesakes += twice
            world.struck["namesake" if twice else "refusal to go on"] += 1
            self.ended = f"; the last to refuse said: {error}"
        except Poisoned:
            world.note(life, "ended by the poison order")
        except Exception:  # noqa: BLE001 (whatever it is, it is a mistake of the core)
            world.violation(f"the core failed: {traceback.format_exc(limit=-3)}")
        life.writing = False
        if not life.stopping:
            world.kill(life)

    def _faust(self, life: Life, writer: core.Writer, inputs: Sequence[str]) -> None:
        """What Faust does: join, assign, fetch and offer, revoke, join again; stop when asked."""
        world, mailbox = self.world, writer.mailbox
        rnd = world.rnd
        if self.held:
            mailbox.hold(True)
        late: list[Batch] = []
        while not life.stopping:
            assignment = world.group.join(life)
            if assignment is None:
                continue
            mailbox.assign(assignment)
            if world.trace is not None:
                world.note(life, f"assigned {sorted(assignment.partitions)} in {assignment.generation}")
            position = self._seek(assignment, inputs)
            after: dict[tuple[str, int], int | None] = dict.fromkeys(position)
            while not (life.rejoin or life.stopping):
                fetched = False
                full = mailbox.full((6, 1 << 30))
                for tp in position:
                    if tp in full:
                        continue
                    log = world.log(tp)
                    records, position[tp] = log.read(position[tp], log.stable(), 1 + int(rnd() * 5))
                    if not records:
                        continue
                    fetched = True
                    # decided alike here; what differs is how many go into one transaction
                    about_the_past = records[0].offset % 3 == 0
                    until = position[tp] if rnd() < 0.7 else None
                    batch = Batch(tp[0], tp[1], records, assignment, after[tp], about_the_past, until)
                    after[tp] = records[-1].offset + 1
                    r = rnd()
                    if tp in self._quiet:
                        world.struck["batch lost by Faust"] += 1
                        world.note(life, "Faust lost a batch")
                    elif self._clumsy and r < 0.06:
                        world.struck["batch handed over late"] += 1
                        late.append(batch)
                    elif self._clumsy and r < 0.1:
                        world.struck["batch lost by Faust"] += 1
                        world.note(life, "Faust lost a batch")
                    else:
                        mailbox.offer(batch)
                if late and rnd() < 0.3:
                    mailbox.offer(late.pop(0))
                if fetched or full:
                    world.pause(0.002 + world.travel() * (1 if rnd() < 0.7 else 20))
                else:
                    life.idle = True
                    if life.rejoin or life.stopping:
                        life.idle = False
                    else:
                        world.block()
                        life.idle = False
            mailbox.revoke()
            if world.trace is not None:
                world.note(life, "revoked")
        writer.stop()
        for _ in range(200):
            if not life.writing:
                break
            world.pause(0.2)
        world.group.remove(life.member)
        world.kill(life)

    def _seek(self, assignment: Assignment, inputs: Sequence[str]) -> dict[tuple[str, int], int]:
        """Where Faust begins to fetch: the offsets it sees, with what it forgets and repeats."""
        world, rnd = self.world, self.world.rnd
        position = {}
        for number in sorted(assignment.partitions):
            for topic in inputs:
                tp = (topic, number)
                committed = world.group.committed(tp)
                at = 0 if committed is None else committed.offset
                if self._clumsy:
                    r = rnd()
                    if r < 0.2:
                        _, at = world.log(tp).read(at, world.log(tp).stable(), 1 + int(rnd() * 3))
                    elif r < 0.3:
                        at = max(0, at - 3)
                position[tp] = at
        return position

    # --- what must be true -----------------------------------------------------------------------

    def run(self) -> "Schedule":
        """Let it happen, then check."""
        world = self.world
        world.later(3.0, self._look)
        world.run()
        if not world.violations and self.unfinished:
            world.violation(f"stuck at {world.now:.0f} s: {self.unfinished}{self.ended}")
        if not world.violations:
            self._check()
        return self

    unfinished = "nothing was looked at"

    def _look(self) -> None:
        """Look now and then whether everything is done."""
        world = self.world
        self.unfinished = self._what_is_missing()
        if world.now > self.quiet_at and not self._closing:
            self._closing = True
            self._no_more_faults()
            self.unfinished = "the faults have only just ended"
        if (world.now > self.quiet_at and not self.unfinished) or world.now > max(
            self.quiet_at, FAULTS_END_S
        ) + RECOVERY_S:
            world.over = True
        else:
            world.later(1.0, self._look)

    def _what_is_missing(self) -> str:
        world = self.world
        if self._namesake is not None and self._refused_namesakes != 1:
            return f"{self._refused_namesakes} workers named {self._namesake.name} were refused"
        for topic in self.inputs:
            for number in range(world.partitions):
                log = world.log((topic, number))
                if log.open:
                    return f"{topic}/{number} has open transactions"
                end = max((e.offset + 1 for e in log.entries if e.status == COMMITTED), default=0)
                committed = world.group.committed((topic, number))
                if committed is None or committed.offset < end:
                    return f"{topic}/{number} is committed up to {committed} of {end}"
        for number in range(world.partitions):
            owner = world.group.members.get(world.group.owners.get(number, ""))
            if owner is None or owner.life.dead or owner.life.paused_until > world.now:
                return f"nobody owns partition {number}"
            shelf = owner.life.worker.disk.get(number)
            if shelf is None or shelf.position is None:
                return f"the owner of partition {number} has no rows"
            for topic in self.inputs:
                committed = world.group.committed((topic, number))
                if committed is None or shelf.position.inputs.get(topic) != committed.offset:
                    return (
                        f"the rows of partition {number} stand at {shelf.position}, the group at {committed}"
                    )
            if any(world.log((topic, number)).open for topic in (CHANGELOG, DECISIONS, *self.inputs)):
                return f"a transaction is open in partition {number}"
        return ""

    def crash(self, life: Life) -> NoReturn:
        """What the poison order does to a worker."""
        self.crashes += 1
        self.world.struck["poison order"] += 1
        if self.crashes > MOST_CRASHES:
            self.world.violation(f"order {self.poison!r} stopped the workers {self.crashes} times")
        if self._deadly:
            self.world.kill(life)
            raise Killed
        raise Poisoned

    def check_merged(self, life: Life, road: Road, records: Sequence[Record], positions: Positions) -> None:
        """No record is taken before one that surely arrived earlier and that its worker must know of.

        Surely: by the latest arrival that the other could be given, and the earliest of this one. It must
        know what could be read for longer than an end is trusted, when it looked at the clock. A past that is
        published behind live records arrives with the last of them, so it too may be taken as one of these.
        """
        world, at = self.world, {number: dict(offsets) for number, offsets in positions.items()}
        careful = any(each.care.attempt for each in self._writers[life]._partitions.values())
        for record in records:
            topics = next(topics for topics in road.roads if record.topic in topics)
            key = (arrived_at(record), topics.index(record.topic), record.partition)
            if (
                self.decided_within_s is not None
                and (late := world.now - (record.timestamp - EPOCH_MS) / 1000) > self.decided_within_s
            ):
                world.violation(f"{record.value!r} waited for {late:.0f} s")
            # of a live record it need only know what could be read when it was appended
            is_live = record.timestamp - self._latest(record) < LIVE_MS
            since = (record.timestamp - EPOCH_MS) / 1000 if is_live else life.looked_at
            known_at = min(since, life.looked_at) - self.limits.trusted_s
            for number in [record.partition] if careful else at:
                for rank, topic in enumerate(topics):
                    tp = (topic, number)
                    if tp == record[:2]:
                        continue
                    readable = world.log(tp).readable_at(known_at)
                    other = self._first_beyond(tp, at[number][topic], readable)
                    if other and (self._latest(other), rank, number) < key:
                        world.violation(
                            f"{life} takes {record.value!r} before {other.value!r}, which arrived earlier"
                        )
            at[record.partition][record.topic] = record.offset + 1

    def _latest(self, record: Record) -> int:
        """The latest arrival that the record could be given: that of any before it in its input."""
        before, _ = self.world.log(record[:2]).read(0, record.offset + 1, 10_000)
        return max(map(arrived_at, before))

    def _first_beyond(self, tp: TP, position: int, end: int) -> Record | None:
        found, _ = self.world.log(tp).read(position, end, 1)
        return found[0] if found else None

    def check_set_aside(self, record: Record) -> None:
        """Only an order that was announced and tried alone, often enough, may be set aside."""
        world = self.world
        order = order_of(record)[0]
        self.set_aside[order] = record.topic
        if (order, record.topic) != (self.poison, self.poisoned_at):
            world.struck["sound order set aside"] += 1
        tries = max(
            (self.core.Owner.of(c).tries for c in world.group.left_behind((record.topic, record.partition))),
            default=0,
        )
        alone = (record.topic, order) in self.alone
        if tries < self.limits.crashes or not alone:
            tried = "was tried alone" if alone else "was never tried alone"
            world.violation(f"order {order!r} is set aside; it {tried} and was announced {tries} times")

    def _check_tries(self, tp: TP, before: Committed | None, after: Committed) -> None:
        """Every try is announced, so the committed count of them never rises by more than one."""
        tries = self.core.Owner.of(after).tries
        said = self.core.Owner.of(before).tries if before is not None and before.offset == after.offset else 0
        if tries > said + 1:
            self.world.violation(f"the tries of {tp} at {after.offset} rose from {said} to {tries} at once")

    def _check(self) -> None:
        """Hold what came of it against a worker to whom nothing ever happened."""
        world, road, told = self.world, self.road, Told()
        numbers = range(world.partitions)
        stages = [topic for topics in self._roads[1:] for topic in topics]
        seen = {
            (topic, number): [record.value or b"?" for record in world.log((topic, number)).visible()]
            for topic in (*stages, DECISIONS)
            for number in numbers
        }
        asides = {m.order for tp, found in seen.items() for m in map(Message.of, found) if m.is_aside}
        aside = {order: topic for order, topic in self.set_aside.items() if order in asides}
        if self.poison is not None:
            aside[self.poison] = self.poisoned_at
        # an order says where the others stood when it left its home
        first = [
            Message.of(value)
            for tp, values in seen.items()
            if tp[0] == (*stages, DECISIONS)[0]
            for value in values
        ]
        others_of = {each.order: each.others for each in first if not each.is_aside and b"," in each.passed}
        for number in numbers:
            visible = {topic: world.log((topic, number)).visible() for topic in road.home}
            try:
                told.take(road, as_recorded(visible, road.home, others_of), aside)
            except ValueError as error:
                world.violation(f"the order of partition {number} can't have been: {error}")
                return
        for topic in stages:
            # what came to a stage counts as it came, once it is known to be what had to come
            for number in numbers:
                self._check_road(topic, number, seen[topic, number], told.produced.get((topic, number), []))
            for number in numbers:
                told.take(road, ((record, {}) for record in world.log((topic, number)).visible()), aside)
        for number in numbers:
            self._check_each_once(
                (DECISIONS, number), seen[DECISIONS, number], told.produced.get((DECISIONS, number), [])
            )
        for number in numbers:
            rows = {key: row for key, row in told.rows.get(number, {}).items() if row is not None}
            self._check_rows(number, rows, told.watermarks.get(number))

    def _check_road(self, topic: str, number: int, seen: Sequence[bytes], told: Sequence[bytes]) -> None:
        """What came to a stage came once, and in the order of each partition that it came from."""
        self._check_each_once((topic, number), seen, told)
        for source in range(self.world.partitions):
            here, there = (
                [value for value in some if self.road.source_of(Message.of(value), topic) == source]
                for some in (seen, told)
            )
            if here != there:
                self.world.violation(f"{topic}/{number} has of partition {source} {here} instead of {there}")

    def _check_each_once(self, tp: TP, seen: Sequence[bytes], told: Sequence[bytes]) -> None:
        found: dict[bytes, list[bytes]] = {}
        for value in seen:
            found.setdefault(value.split()[0], []).append(value)
        for value in told:
            order = value.split()[0]
            here = found.pop(order, [])
            if len(here) != 1:
                self.world.violation(f"order {order!r} is {len(here)} times in {tp}: {here}")
            elif here[0] != value:
                self.world.violation(f"order {order!r} is {here[0]!r} in {tp} instead of {value!r}")
        if found:
            self.world.violation(f"in {tp} are orders that never came there: {found}")

    def _check_rows(self, number: int, rows: Mapping[bytes, bytes], watermark: int | None) -> None:
        world = self.world
        owner = world.group.members[world.group.owners[number]]
        shelf = owner.life.worker.disk[number]
        kept = shelf.rows
        # what is old enough to be forgotten may be gone, and when it goes is free; all else is there
        old = {
            key
            for key, value in rows.items()
            if watermark is not None and key[:1] == b"c" and int(value.split()[1]) < watermark - KEPT_FOR
        }
        world.struck["row evicted"] += len(old - kept.keys())
        if kept != {key: value for key, value in rows.items() if key in kept or key not in old}:
            world.violation(f"the rows of partition {number} are {kept} instead of {rows}, {old} or not")
        if shelf.position is not None and shelf.position.watermark != watermark:
            world.violation(f"the watermark of partition {number} is {shelf.position} instead of {watermark}")
        restored: dict[bytes, bytes] = {}
        position: dict[str, int] = {}
        restored_watermark: int | None = None
        for record in world.log((CHANGELOG, number)).visible():
            if record.key == self.core.POSITION_KEY:
                position, restored_watermark, *_ = self.core.decode_position(record.value)
            elif record.value is None:
                restored.pop(record.key, None)  # type: ignore[arg-type]
            else:
                restored[record.key] = record.value  # type: ignore[index]
        if restored != kept:
            world.violation(f"the changelog of partition {number} gives {restored} instead of {kept}")
        if restored_watermark != watermark:
            world.violation(
                f"the changelog of partition {number} has watermark {restored_watermark}, not {watermark}"
            )
        committed = {
            t: c.offset for t in self.inputs if (c := world.group.committed((t, number))) is not None
        }
        if position != committed:
            world.violation(
                f"the changelog of partition {number} stands at {position}, the group at {committed}"
            )


_TRANSACTIONAL = (
    "producer",
    "flush",
    "flush",
    "send_offsets",
    "send_offsets",
    "commit",
    "commit",
    "commit",
    "abort",
    "read",
)
_ANY = (
    *_TRANSACTIONAL,
    "decide",
    "store.write",
    "store.write",
    "store.clear",
    "committed",
    "members",
    "ends",
    "high",
    "read",
    "log_id",
)


_THEMES = (
    "stall",
    "stall",
    "gone",
    "gone",
    "absence",
    "absence",
    "delayed request",
    "delayed request",
    "forgetful",
    "stale",
    "kill",
    "pause",
)
_DOWN = {"memory": "group answers that nothing was committed", "freshness": "group answers older offsets"}
_BEST_AT = {
    "gone": ("send_offsets", "flush", "commit", "commit"),
    "stall": ("decide", "decide", "send_offsets", "store.write", "flush"),
    "absence": ("store.write", "commit"),
}
"""The calls at which some faults tell most."""


def run(seed: int, *, writer: ModuleType = core, trace: bool = False) -> Schedule:
    """Run the schedule of a seed against a writer."""
    return Schedule(seed, writer=writer, trace=trace).run()
