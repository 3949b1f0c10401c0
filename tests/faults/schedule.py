"""One schedule: two workers, a few orders, a few faults, and what must be true at the end.

A seed decides everything: the orders, the network's moods, the faults, and how far each worker gets
before it is struck. `run(seed)` answers what was violated.
"""

import traceback
from collections.abc import Mapping, Sequence
from random import Random
from types import ModuleType

from stream import writer as core
from stream.ports import Assignment, Batch, Effects, Produce, Recall, Record, Refused
from tests.faults.simulated import (
    COMMITTED,
    NETWORK,
    SESSION_S,
    TOMBSTONES_S,
    Fault,
    Life,
    SimClock,
    SimCluster,
    SimStore,
    Worker,
    World,
)

CHANGELOG = "customers-changelog"
DECISIONS = "decisions"
FAULTS_END_S = 60.0
"""Faults that have not found their step by then never strike."""
RECOVERY_S = 200.0
"""How long after the last fault everything must be decided, in virtual seconds."""


class FakeDesk:
    """Counts the orders of a customer and decides by the count; the fourth order is forgotten with the rest."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    def decide(self, records: Sequence[Record], recall: Recall) -> Effects:
        """One decision and one new count for every order; it may take its time, or be the end."""
        struck = self._world.begin(self._life, "decide")
        effects = Effects()
        for record in records:
            number = record.partition
            rows = effects.rows.setdefault(number, {})
            key = row_key(record)
            before = rows[key] if key in rows else recall(number, key)
            count = 1 if before is None else int(before) + 1
            # the fourth is forgotten, so that restores meet tombstones
            rows[key] = None if count == 4 else b"%d" % count
            effects.produce.append(Produce(DECISIONS, number, key, b"%s %s %d" % (record.value, key, count)))
        self._world.effect(self._life, struck)
        self._world.end(self._life, struck)
        return effects

    def set_aside(self, record: Record, recall: Recall) -> Effects:
        """A decision that says the order was set aside; its customer's row stays as it is."""
        effects = Effects()
        key = row_key(record)
        effects.produce.append(Produce(DECISIONS, record.partition, key, b"%s aside" % record.value))
        return effects


def row_key(record: Record) -> bytes:
    """The customer of an order; every input counts for itself, so that their interleaving is free."""
    return b"%s@%s" % (record.key, record.topic.encode())


class Schedule:
    """The story of one seed."""

    def __init__(self, seed: int, *, writer: ModuleType = core, trace: bool = False) -> None:
        self.seed = seed
        self.core = writer
        self.world = world = World(seed, trace=trace)
        rng = world.rng
        self.inputs = ("orders", "outcomes") if rng.random() < 0.25 else ("orders",)
        self.limits = writer.Limits(
            records=rng.choice((1, 2, 4, 1000)),
            revoke_s=3.0,
            patience_s=30.0,
            pause_s=0.3,
            tombstones_s=TOMBSTONES_S / 2,
            crashes=1000,
        )
        self.faults: list[str] = []
        self.quiet_at = 0.0
        self.ended = ""
        if rng.random() < 0.4:
            world.slow = rng.choice((0.005, 0.02, 0.05))
        world.lazy = rng.choice((0.0, 0.02, 0.1, 0.3))
        if rng.random() < 0.3:
            world.noise = rng.choice((0.01, 0.04, 0.1))
        self._clumsy = rng.random() < 0.5
        self._closing = False
        self._writers: dict[Life, core.Writer] = {}
        world.on_death = self._come_back
        self._plan_orders(rng)
        self._plan_faults(rng)

    # --- the plan --------------------------------------------------------------------------------

    def _plan_orders(self, rng: Random) -> None:
        world = self.world
        for topic in self.inputs:
            for number in range(world.partitions):
                world.log((topic, number))
        count = rng.randint(10, 20)
        span = rng.choice((0.0, 10.0, 25.0, 40.0))
        transactional = rng.random() < 0.25
        at = 0.0
        for index in range(count):
            at = index * span / count
            topic = rng.choice(self.inputs)
            tp = (topic, rng.randrange(world.partitions))
            key = b"c%d" % rng.randrange(3)
            value = b"o%d" % index
            if not transactional or rng.random() < 0.5:
                world.later(at, lambda tp=tp, k=key, v=value: self._arrive(tp, k, v))  # type: ignore[misc]
            else:
                commit = rng.random() < 0.7
                held = rng.random() * 2.0
                world.later(
                    at,
                    lambda tp=tp, k=key, v=value, c=commit, h=held, p=index: self._arrive_in_transaction(  # type: ignore[misc]
                        tp, k, v, c, h, p
                    ),
                )
        self.quiet_at = at + 2.0

    def _arrive(self, tp: tuple[str, int], key: bytes, value: bytes) -> None:
        self.world.log(tp).append(key, value, self.world.now)
        self.world.nudge_all()

    def _arrive_in_transaction(
        self, tp: tuple[str, int], key: bytes, value: bytes, commit: bool, held: float, pid: int
    ) -> None:
        log = self.world.log(tp)
        log.append(key, value, self.world.now, pid)

        def end() -> None:
            log.mark(pid, 0, commit=commit)
            self.world.nudge_all()

        self.world.later(held, end)

    def _plan_faults(self, rng: Random) -> None:
        world = self.world
        world.workers = [Worker(0), Worker(1)]
        for worker in world.workers:
            world.later(rng.random() * rng.choice((0.1, 8.0)), lambda w=worker: self._start(w))  # type: ignore[misc]
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
                "wipe", "stop", "down", "compaction", "rebalance", "gone", "absence", "forgetful", "refusal", "stall",
            ),
            (24, 12, 9, 6, 12, 6, 5, 4, 5, 7, 12, 10, 5, 8, 20),
        )[0]  # fmt: skip
        if kind in ("down", "compaction", "rebalance", "forgetful"):
            at = rng.random() * 40.0
            if kind == "down":
                part = rng.choice(("transactions", "group", "logs"))
                seconds = rng.choice((0.5, 3.0, 12.0)) * rng.random()
                self._tell(f"{part} unreachable at {at:.1f} s for {seconds:.1f} s")
                world.later(at, lambda: world.down.__setitem__(part, world.now + seconds))
                self._quiet_after(at + seconds)
            elif kind == "forgetful":
                seconds = rng.random() * 6.0
                self._tell(
                    f"group answers that nothing was ever committed from {at:.1f} s for {seconds:.1f} s"
                )
                world.later(at, lambda: world.down.__setitem__("memory", world.now + seconds))
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
                world.later(at, world.group.rebalance_if_any)
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
        self.world.note(None, f"compacted {CHANGELOG}/{number} up to {upto}")

    # --- workers ---------------------------------------------------------------------------------

    def _come_back(self, life: Life) -> None:
        world, worker = self.world, life.worker
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
                    (self.inputs[0], world.rng.randrange(world.partitions)),
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
        """Whether the other worker can take over at once: somebody is left, and knows whose transaction to end."""
        group = self.world.group
        others = [worker for worker in self.world.workers if worker is not life.worker]
        mine = {number for number, member in group.owners.items() if member == life.member}
        writer = self._writers.get(life)
        return (
            all(not worker.leave for worker in others)
            # who is told that nothing was committed can't know the dead owner, and waits for the timeout
            and not any("nothing was ever committed" in fault for fault in self.faults)
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
        writer = self.core.Writer(
            name=worker.name,
            inputs=self.inputs,
            changelog=CHANGELOG,
            cluster=SimCluster(world, life),
            store=SimStore(world, life),
            desk=FakeDesk(world, life),
            clock=clock,
            limits=self.limits,
        )
        self._writers[life] = writer
        life.faust = world.start(life, "faust", lambda: self._faust(life, writer))
        world.start(life, "writer", lambda: self._write(life, writer))

    def _write(self, life: Life, writer: core.Writer) -> None:
        world = self.world
        try:
            writer.run()
        except Refused as error:
            if world.trace is not None:
                world.note(life, f"REFUSED {error}")
            life.worker.leave = "refused"
            self.ended = f"; the last to refuse said: {error}"
        except Exception:  # noqa: BLE001 (whatever it is, it is a mistake of the core)
            world.violation(f"the core failed: {traceback.format_exc(limit=-3)}")
        life.writing = False
        if not life.stopping:
            world.kill(life)

    def _faust(self, life: Life, writer: core.Writer) -> None:
        """What Faust does: join, assign, fetch and offer, revoke, join again; stop when asked."""
        world, mailbox = self.world, writer.mailbox
        rnd = world.rnd
        late: list[Batch] = []
        while not life.stopping:
            assignment = world.group.join(life)
            if assignment is None:
                continue
            mailbox.assign(assignment)
            if world.trace is not None:
                world.note(life, f"assigned {sorted(assignment.partitions)} in {assignment.generation}")
            position = self._seek(assignment)
            after: dict[tuple[str, int], int | None] = dict.fromkeys(position)
            while not (life.rejoin or life.stopping):
                fetched = False
                for tp in position:
                    if mailbox.waiting > 6:
                        continue
                    log = world.log(tp)
                    records, position[tp] = log.read(position[tp], log.stable(), 1 + int(rnd() * 5))
                    if not records:
                        continue
                    fetched = True
                    batch = Batch(tp[0], tp[1], records, assignment, after[tp])
                    after[tp] = records[-1].offset + 1
                    r = rnd()
                    if self._clumsy and r < 0.06:
                        late.append(batch)
                    elif self._clumsy and r < 0.1:
                        world.note(life, "Faust lost a batch")
                    else:
                        mailbox.offer(batch)
                if late and rnd() < 0.3:
                    mailbox.offer(late.pop(0))
                if fetched or mailbox.waiting > 6:
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

    def _seek(self, assignment: Assignment) -> dict[tuple[str, int], int]:
        """Where Faust begins to fetch: the offsets it sees, with what it forgets and repeats."""
        world, rnd = self.world, self.world.rnd
        position = {}
        for number in sorted(assignment.partitions):
            for topic in self.inputs:
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
            self._close()
        if (world.now > self.quiet_at and not self.unfinished) or world.now > max(
            self.quiet_at, FAULTS_END_S
        ) + RECOVERY_S:
            world.over = True
        else:
            world.later(1.0, self._look)

    def _close(self) -> None:
        """The faults are over: Faust loses nothing more, and one more order comes to every partition.

        What Faust lost before is noticed by the order after it, so there must be one.
        """
        self._closing = True
        self._clumsy = False
        self._no_more_faults()
        for topic in self.inputs:
            for number in range(self.world.partitions):
                self._arrive((topic, number), b"c0", b"last-%s-%d" % (topic.encode(), number))
        self.unfinished = "the last orders have only just arrived"

    def _what_is_missing(self) -> str:
        world = self.world
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
            if world.log((CHANGELOG, number)).open or world.log((DECISIONS, number)).open:
                return f"a transaction is open in partition {number}"
        return ""

    def _check(self) -> None:
        world = self.world
        for number in range(world.partitions):
            rows, decisions = self._single_worker(number)
            seen: dict[bytes, list[bytes]] = {}
            for record in world.log((DECISIONS, number)).visible():
                value = record.value or b"?"
                seen.setdefault(value.split()[0], []).append(value)
            for order, decision in decisions.items():
                found = seen.pop(order, [])
                if len(found) != 1:
                    world.violation(f"order {order!r} has {len(found)} visible decisions: {found}")
                elif found[0] != decision:
                    world.violation(f"order {order!r} was decided {found[0]!r} instead of {decision!r}")
            if seen:
                world.violation(f"decisions for orders never placed: {seen}")
            self._check_rows(number, rows)

    def _check_rows(self, number: int, rows: Mapping[bytes, bytes]) -> None:
        world = self.world
        owner = world.group.members[world.group.owners[number]]
        kept = owner.life.worker.disk[number].rows
        if kept != rows:
            world.violation(f"the rows of partition {number} are {kept} instead of {rows}")
        restored: dict[bytes, bytes] = {}
        position: dict[str, int] = {}
        for record in world.log((CHANGELOG, number)).visible():
            if record.key == self.core.POSITION_KEY:
                position = self.core.decode_position(record.value)
            elif record.value is None:
                restored.pop(record.key, None)  # type: ignore[arg-type]
            else:
                restored[record.key] = record.value  # type: ignore[index]
        if restored != rows:
            world.violation(f"the changelog of partition {number} gives {restored} instead of {rows}")
        committed = {
            t: c.offset for t in self.inputs if (c := world.group.committed((t, number))) is not None
        }
        if position != committed:
            world.violation(
                f"the changelog of partition {number} stands at {position}, the group at {committed}"
            )

    def _single_worker(self, number: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Rows and decisions of a worker to whom nothing ever happens: one list, one loop."""
        rows: dict[bytes, bytes] = {}
        decisions: dict[bytes, bytes] = {}
        for topic in self.inputs:
            for record in self.world.log((topic, number)).visible():
                key = row_key(record)
                count = int(rows.get(key, b"0")) + 1
                decisions[record.value] = b"%s %s %d" % (record.value, key, count)  # type: ignore[index]
                if count == 4:
                    rows.pop(key, None)
                else:
                    rows[key] = b"%d" % count
        return rows, decisions


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
    "forgetful",
    "kill",
    "pause",
)
_BEST_AT = {
    "gone": ("send_offsets", "flush", "commit", "commit"),
    "stall": ("decide", "decide", "send_offsets", "store.write", "flush"),
    "absence": ("store.write", "commit"),
}
"""The calls at which some faults tell most."""


def run(seed: int, *, writer: ModuleType = core, trace: bool = False) -> Schedule:
    """Run the schedule of a seed against a writer."""
    return Schedule(seed, writer=writer, trace=trace).run()
