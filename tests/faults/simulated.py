"""An in-memory Kafka with real semantics, driven by one seeded scheduler in virtual time.

Everything a worker does passes through a port call, and every port call is a step: it takes a seeded
time to reach the broker and a seeded time to answer, others act meanwhile, and a fault may strike
before or after its effect. The same seed gives the same run.

What is modelled: partitioned logs with transactions, control markers that take up offsets, the last
stable offset, compaction; the transaction coordinator (epochs, fencing, timeouts, markers written
later, partition by partition); the group coordinator (members, sessions, generations, eager
rebalances, pending offsets); requests and replies that are lost, late or refused; disks that survive
a crash. Tests of these semantics are in `test_simulation.py`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import NoReturn, Self

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

from stream.ports import (
    TP,
    Aborted,
    Assignment,
    Committed,
    Fenced,
    Headers,
    LocalPosition,
    NotStable,
    OutcomeUnknown,
    Produce,
    Record,
    Unreachable,
)

OPEN, COMMITTED, ABORTED, MARKER = range(4)
"""What became of a record of the log; a marker is no record at all."""

EMPTY, ONGOING, PREPARE, COMPLETE_COMMIT, COMPLETE_ABORT = range(5)
"""States of a transaction at its coordinator."""

NO_FAULT, KILL_AFTER, PAUSE_AFTER, LOST_REQUEST, LOST_REPLY, DELAYED, REFUSED = range(7)
"""What strikes a step, beyond what already struck before it."""

EPOCH_MS = 1_000_000
"""The broker's time when a schedule begins, in milliseconds: of earlier times published records may tell."""
SESSION_S = 10.0
HEARTBEAT_S = 3.0
REBALANCE_S = 20.0
TRANSACTION_S = 15.0
SWEEP_S = 5.0
REQUEST_S = 10.0
"""How long a client keeps asking before it gives up."""
WATCHDOG_S = 20.0
TOMBSTONES_S = 60.0

WRITES = frozenset({"producer", "flush", "send_offsets", "commit", "abort"})
READS = frozenset({"committed", "members", "low", "high", "ends", "log_id", "read"})
DISK = frozenset({"store.write", "store.clear"})
TALK = WRITES | READS


class Killed(BaseException):
    """The worker was killed; derives from BaseException because the dead don't recover."""


class Fault:
    """One thing that will go wrong for a worker: at its n-th step, or at its n-th call of one kind."""

    __slots__ = ("after", "kind", "nth", "op", "seconds", "worker")

    def __init__(
        self, kind: str, worker: int, nth: int, *, op: str = "", after: bool = False, seconds: float = 0.0
    ) -> None:
        self.kind = kind
        self.worker = worker
        self.nth = nth
        self.op = op
        self.after = after
        self.seconds = seconds

    def __str__(self) -> str:
        where = f"its {self.nth}th {self.op}" if self.op else f"step {self.nth}"
        much = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind}{much} {'after' if self.after else 'before'} {where} of worker {self.worker}"


class Task:
    """One thread of a worker."""

    __slots__ = ("greenlet", "life", "name", "notified", "token")

    def __init__(self, life: "Life", name: str) -> None:
        self.life = life
        self.name = name
        self.token = 0
        self.notified = False
        self.greenlet: greenlet | None = None


class Worker:
    """A named worker: its disk and its steps outlive its lives."""

    __slots__ = ("disk", "faults", "index", "leave", "life", "lives", "name", "steps", "wipe")

    def __init__(self, index: int, name: str = "") -> None:
        self.index = index
        self.name = name or f"w{index}"
        self.disk: dict[int, Shelf] = {}
        self.faults: list[Fault] = []
        self.steps = 0
        self.lives = 0
        self.wipe = False
        self.leave = ""
        self.life: Life | None = None


class Life:
    """One life of a worker, from its start to its kill."""

    __slots__ = (
        "dead",
        "faust",
        "idle",
        "known",
        "looked_at",
        "member",
        "number",
        "paused_until",
        "rejoin",
        "round",
        "stopping",
        "tasks",
        "worker",
        "writing",
    )

    def __init__(self, worker: Worker) -> None:
        worker.lives += 1
        worker.life = self
        self.worker = worker
        self.number = worker.lives
        self.dead = False
        self.paused_until = 0.0
        self.tasks: list[Task] = []
        self.faust: Task | None = None
        self.idle = False
        self.rejoin = False
        self.round = -1
        self.member = ""
        self.known: Mapping[str, str] = {}
        """The members as it was last told: member id -> worker."""
        self.stopping = False
        self.writing = True
        self.looked_at = 0.0
        """When its writer last looked at the clock."""

    def __str__(self) -> str:
        return f"{self.worker.name}.{self.number}"


class Entry:
    """One offset of a log."""

    __slots__ = ("horizon", "offset", "record", "status")

    def __init__(self, offset: int, record: Record | None, status: int) -> None:
        self.offset = offset
        self.record = record
        self.status = status
        self.horizon = 0.0


class Log:
    """One partition of a topic."""

    __slots__ = ("_stables", "end", "entries", "epochs", "offsets", "open", "partition", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.entries: list[Entry] = []
        self.offsets: list[int] = []
        self.end = 0
        self.open: dict[int, list[Entry]] = {}
        self.epochs: dict[int, int] = {}
        self._stables: list[tuple[int, float]] = []
        """Every last stable offset there was, and since when."""

    def stable(self) -> int:
        """The last stable offset: where the first open transaction begins, or the end."""
        if not self.open:
            return self.end
        return min(entries[0].offset for entries in self.open.values())

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        now: float,
        pid: int | None = None,
        *,
        epoch: int = 0,
        headers: Headers = (),
    ) -> int:
        """Append a record, inside a transaction when a producer id is given; return its offset."""
        offset = self.end
        record = Record(self.topic, self.partition, offset, EPOCH_MS + int(now * 1000), key, value, headers)
        entry = Entry(offset, record, COMMITTED if pid is None else OPEN)
        self.entries.append(entry)
        self.offsets.append(offset)
        self.end = offset + 1
        if pid is not None:
            self.epochs[pid] = epoch
            mine = self.open.get(pid)
            if mine is None:
                self.open[pid] = [entry]
            else:
                mine.append(entry)
        self._note(now)
        return offset

    def _note(self, now: float) -> None:
        stable = self.stable()
        if not self._stables or stable > self._stables[-1][0]:
            self._stables.append((stable, now))

    def readable_at(self, at: float) -> int:
        """The last stable offset that there was at a time."""
        return next((stable for stable, since in reversed(self._stables) if since <= at), 0)

    def mark(self, pid: int, epoch: int, *, commit: bool, now: float = 0.0) -> None:
        """Write the control marker that ends a transaction here."""
        if epoch > self.epochs.get(pid, -1):
            self.epochs[pid] = epoch
        for entry in self.open.pop(pid, ()):
            entry.status = COMMITTED if commit else ABORTED
        self.entries.append(Entry(self.end, None, MARKER))
        self.offsets.append(self.end)
        self.end += 1
        self._note(now)

    def read(self, start: int, end: int, most: int) -> tuple[list[Record], int]:
        """At most so many committed records of [start, end), and where to read on."""
        found: list[Record] = []
        entries = self.entries
        for index in range(bisect_left(self.offsets, start), len(entries)):
            entry = entries[index]
            if entry.offset >= end:
                break
            if entry.status == COMMITTED:
                if len(found) == most:
                    return found, entry.offset
                found.append(entry.record)  # type: ignore[arg-type]
        return found, max(start, end)

    def visible(self) -> list[Record]:
        """What a read_committed reader of the whole partition sees."""
        return self.read(0, self.stable(), len(self.entries))[0]

    def compact(self, upto: int, now: float) -> None:
        """Keep the last committed record of every key below `upto`; offsets stay as they are.

        A tombstone or marker is dropped only once it was seen by a compaction long enough ago.
        """
        upto = min(upto, self.stable())
        last: dict[bytes | None, int] = {}
        for entry in self.entries:
            if entry.offset >= upto:
                break
            if entry.status == COMMITTED:
                last[entry.record.key] = entry.offset  # type: ignore[union-attr]
        kept = []
        for entry in self.entries:
            if entry.offset < upto:
                if entry.status == ABORTED:
                    continue
                record = entry.record
                if record is not None and last[record.key] != entry.offset:
                    continue
                if record is None or record.value is None:
                    if not entry.horizon:
                        entry.horizon = now + TOMBSTONES_S
                    elif entry.horizon < now:
                        continue
            kept.append(entry)
        self.entries = kept
        self.offsets = [entry.offset for entry in kept]


class Transaction:
    """What the coordinator knows of one transactional id."""

    __slots__ = (
        "committing",
        "epoch",
        "name",
        "offsets",
        "partitions",
        "patient",
        "pid",
        "serial",
        "state",
        "unmarked",
    )

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.epoch = -1
        self.state = EMPTY
        self.partitions: list[TP] = []
        self.offsets = False
        self.committing = False
        self.serial = 0
        self.unmarked = 0
        self.patient = False
        """Whether it is given more time than anybody would wait for it."""


class Member:
    """A member of the group, and the life behind it."""

    __slots__ = ("joined", "life", "result", "task")

    def __init__(self, life: Life) -> None:
        self.life = life
        self.joined = False
        self.task: Task | None = None
        self.result: tuple[int, tuple[int, ...]] | None = None


class World:
    """The scheduler, the clock and the cluster of one schedule."""

    def __init__(self, seed: int, *, partitions: int = 2, trace: bool = False) -> None:
        self.rng = Random(seed)
        self.rnd = self.rng.random
        self.now = 0.0
        self.partitions = partitions
        self.trace: list[str] | None = [] if trace else None
        self.violations: list[str] = []
        self.over = False
        self.budget = 60_000
        self.fed: frozenset[str] = frozenset()
        """Topics that workers both produce to and take."""
        self.slow = 0.0
        self.noise = 0.0
        self.lazy = 0.01
        """How often a marker takes seconds."""
        self.finds_nothing: Callable[[], bool] = lambda: False
        """Whether a store now finds nothing of what it might evict."""
        self.current: Task | None = None
        self.hub = getcurrent()
        self._heap: list[tuple[float, int, Task | None, object]] = []
        self._seq = 0
        self.logs: dict[TP, Log] = {}
        self.transactions: dict[str, Transaction] = {}
        self.down: dict[str, float] = {}
        self.group = Group(self)
        self.workers: list[Worker] = []
        self.struck: Counter[str] = Counter()
        """What really happened of the faults that were planned, by kind."""
        self.on_death: Callable[[Life], None] = lambda life: None
        self.on_offset: Callable[[TP, Committed | None, Committed], None] = lambda tp, before, after: None

    # --- scheduling ------------------------------------------------------------------------------

    def later(self, seconds: float, event: Callable[[], object]) -> None:
        """Do something that is nobody's step."""
        self._seq += 1
        heappush(self._heap, (self.now + seconds, self._seq, None, event))

    def start(self, life: Life, name: str, main: Callable[[], None]) -> Task:
        """Start a thread of a worker."""
        task = Task(life, name)

        def run() -> None:
            with suppress(Killed):
                main()

        task.greenlet = greenlet(run, parent=self.hub)
        life.tasks.append(task)
        self.wake(task)
        return task

    def wake(self, task: Task, seconds: float = 0.0) -> None:
        """Let a task that waits go on."""
        self._seq += 1
        heappush(self._heap, (self.now + seconds, self._seq, task, task.token))

    def pause(self, seconds: float) -> None:
        """Let time pass for the current task."""
        until = self.now + seconds
        heap = self._heap
        self.budget -= 1
        if self.budget < 0:
            self.over = True
        elif not heap or heap[0][0] > until:
            self.now = until
            return
        task = self.current
        assert task is not None
        task.token += 1
        self._seq += 1
        heappush(heap, (until, self._seq, task, task.token))
        self.hub.switch()

    def block(self) -> None:
        """Wait until somebody wakes the current task."""
        assert self.current is not None
        self.current.token += 1
        self.hub.switch()

    def run(self) -> None:
        """Run until nothing is left to happen, or `over` is set."""
        heap = self._heap
        try:
            while heap and not self.over:
                at, _, task, what = heappop(heap)
                if task is None:
                    self.now = max(self.now, at)
                    what()  # type: ignore[operator]
                    continue
                life = task.life
                if life.dead or task.token != what:
                    continue
                if life.paused_until > at:
                    self._seq += 1
                    heappush(heap, (life.paused_until + self.rnd() * 0.01, self._seq, task, what))
                    continue
                self.now = max(self.now, at)
                self.current = task
                task.greenlet.switch()  # type: ignore[union-attr]
                self.current = None
        finally:
            self.over = True
            for worker in self.workers:
                if worker.life is not None:
                    worker.life.dead = True
                    self._bury(worker.life)

    def _bury(self, life: Life) -> None:
        for task in life.tasks:
            thread = task.greenlet
            if thread is not None and thread is not getcurrent() and not thread.dead:
                if not thread:  # never ran
                    task.greenlet = None
                    continue
                self.current = task
                thread.throw(Killed)
                self.current = None
        life.tasks = [task for task in life.tasks if task.greenlet is getcurrent()]

    def kill(self, life: Life) -> None:
        """End a life: none of its threads ever takes another step."""
        if life.dead:
            return
        life.dead = True
        if self.trace is not None:
            self.note(life, "KILLED")
        self.later(0.0, lambda: self._bury(life))
        self.group.watch(life, self.now)
        self.on_death(life)

    def stop_for(self, life: Life, seconds: float) -> None:
        """SIGSTOP a life, and SIGCONT it later."""
        life.paused_until = self.now + seconds
        if self.trace is not None:
            self.note(life, f"STOPPED for {seconds:.1f} s")
        self.group.watch(life, self.now)

    def note(self, life: Life | None, text: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f} {life or 'broker'!s:>6} {text}")

    def violation(self, text: str) -> None:
        """Something that must never happen did."""
        self.violations.append(text)
        self.note(None, f"VIOLATION {text}")
        self.over = True

    # --- steps -----------------------------------------------------------------------------------

    def travel(self) -> float:
        """How long a request or a reply takes: mostly nothing, sometimes ages."""
        r = self.rnd()
        if r < 0.8:
            return r * 0.004
        if r < 0.97:
            return (r - 0.8) * 0.4
        return (r - 0.97) * 40.0

    def begin(self, life: Life, op: str) -> int:
        """Begin a step: faults may strike before it; returns what strikes it or comes after."""
        if life.dead:
            raise Killed
        worker = life.worker
        worker.steps += 1
        struck = NO_FAULT
        if worker.faults:
            struck = self._strike(life, op)
        if not struck and self.noise and self.rnd() < self.noise and op in TALK:
            struck = LOST_REQUEST + int(self.rnd() * 4)
            self.struck[_NETWORK_NAMES[struck]] += 1
        if self.slow and self.rnd() < self.slow:
            self.pause(self.rnd() * 8.0)
        self.pause(self.travel())
        if self.trace is not None:
            self.note(life, op + ("", "", "", " LOST REQUEST", " LOST REPLY", " DELAYED", " REFUSED")[struck])
        return struck

    def end(self, life: Life, struck: int) -> None:
        """End a step: the reply travels back, unless something strikes first."""
        if struck == KILL_AFTER:
            self.kill(life)
            raise Killed
        if struck == PAUSE_AFTER:
            self.pause(max(0.0, life.paused_until - self.now))
        elif self.rnd() < 0.3:
            self.pause(self.travel())

    def _strike(self, life: Life, op: str) -> int:
        worker = life.worker
        for fault in worker.faults:
            kind = fault.kind
            if fault.op:
                if fault.op != op:
                    continue
                fault.nth -= 1
                if fault.nth > 0:
                    continue
            elif worker.steps < fault.nth or (kind in NETWORK and op not in TALK):
                continue
            worker.faults.remove(fault)
            self.struck[kind] += 1
            if kind in NETWORK:
                return NETWORK[kind]
            if kind == "stop":
                life.stopping = True
                if self.trace is not None:
                    self.note(life, "asked to stop")
                self.nudge(life)
                return NO_FAULT
            if kind == "stall":
                # only this thread: the rest of the worker goes on, through a rebalance
                if self.trace is not None:
                    self.note(life, f"{op} stalls for {fault.seconds:.1f} s")
                self.later(self.rnd(), self.group.rebalance_if_any)
                self.pause(fault.seconds)
                return NO_FAULT
            if kind == "pause":
                if fault.after:
                    # struck now, seen by this thread when it ends its step
                    self.later(0.0, lambda: None)
                    return self._pause_after(life, fault.seconds)
                self.stop_for(life, fault.seconds)
                self.pause(fault.seconds)
                return NO_FAULT
            if kind == "wipe":
                worker.wipe = True
            elif kind in ("gone", "absence"):
                worker.leave = kind
            if fault.after:
                return KILL_AFTER
            self.kill(life)
            raise Killed
        return NO_FAULT

    def _pause_after(self, life: Life, seconds: float) -> int:
        life.paused_until = -seconds
        return PAUSE_AFTER

    def effect(self, life: Life, struck: int) -> None:
        """Called right after a step took effect."""
        if struck == PAUSE_AFTER:
            self.stop_for(life, -life.paused_until)

    def nudge(self, life: Life) -> None:
        """Wake the Faust side of a life if it has nothing to do."""
        if life.idle and life.faust is not None and not life.dead:
            life.idle = False
            self.wake(life.faust, self.rnd() * 0.02)

    def nudge_all(self) -> None:
        """Wake every Faust side that has nothing to do: there may be something to fetch."""
        for worker in self.workers:
            if worker.life is not None and worker.life.idle:
                self.nudge(worker.life)

    # --- logs ------------------------------------------------------------------------------------

    def log(self, tp: TP) -> Log:
        """A partition of a topic; it exists once it is asked for."""
        found = self.logs.get(tp)
        if found is None:
            found = self.logs[tp] = Log(*tp)
        return found

    def is_down(self, part: str) -> bool:
        """Whether a part of the cluster (`transactions`, `group`, `logs`) does not answer now."""
        return bool(self.down) and self.down.get(part, 0.0) > self.now

    # --- the transaction coordinator ---------------------------------------------------------------

    def transaction(self, name: str) -> Transaction:
        """The coordinator's entry for a transactional id."""
        found = self.transactions.get(name)
        if found is None:
            found = self.transactions[name] = Transaction(name, 1000 + len(self.transactions))
        return found

    def add_to(self, transaction: Transaction, epoch: int, tps: Sequence[TP], *, offsets: bool) -> None:
        """AddPartitionsToTxn or AddOffsetsToTxn, sent again while the transaction before is being marked."""
        waited = 0.0
        while True:
            if epoch != transaction.epoch:
                raise Fenced(f"epoch {epoch} of {transaction.name} was replaced by {transaction.epoch}")
            if transaction.state != PREPARE and not self.is_down("transactions"):
                break
            if waited > REQUEST_S:
                raise Aborted("the transaction coordinator did not take the partitions in time")
            wait = min(0.005 + waited, 0.5)
            waited += wait
            self.pause(wait)
        if transaction.state != ONGOING:
            transaction.state = ONGOING
            transaction.serial += 1
            transaction.partitions = []
            transaction.offsets = False
            serial = transaction.serial
            self.later(TRANSACTION_S + self.rnd() * SWEEP_S, lambda: self._expire(transaction, serial))
        for tp in tps:
            if tp not in transaction.partitions:
                transaction.partitions.append(tp)
        if offsets:
            transaction.offsets = True

    def _expire(self, transaction: Transaction, serial: int) -> None:
        if transaction.state == ONGOING and transaction.serial == serial and not transaction.patient:
            transaction.epoch += 1
            self.note(None, f"transaction of {transaction.name} timed out")
            self._decide(transaction, commit=False)

    def fence(self, transaction: Transaction) -> None:
        """The first half of InitProducerId: an ongoing transaction is aborted under a newer epoch."""
        if transaction.state == ONGOING:
            transaction.epoch += 1
            self._decide(transaction, commit=False)

    def bump(self, transaction: Transaction) -> None:
        """The second half of InitProducerId, once nothing is left to be marked."""
        transaction.epoch += 1
        transaction.state = EMPTY

    def end_transaction(self, transaction: Transaction, epoch: int, *, commit: bool) -> None:
        """EndTxn: the decision is written down; the markers follow later."""
        if epoch != transaction.epoch:
            raise Fenced(f"epoch {epoch} of {transaction.name} was replaced by {transaction.epoch}")
        state = transaction.state
        if state == ONGOING:
            self._decide(transaction, commit=commit)
        elif state == PREPARE:
            if transaction.committing != commit:
                raise Fenced("the transaction is already ending the other way")
        elif state == EMPTY or (state == COMPLETE_COMMIT) != commit:
            raise Fenced("there is no transaction to end this way")

    def _decide(self, transaction: Transaction, *, commit: bool) -> None:
        transaction.state = PREPARE
        transaction.committing = commit
        if self.trace is not None:
            self.note(None, f"{transaction.name} prepares {'commit' if commit else 'abort'}")
        pid, epoch = transaction.pid, transaction.epoch
        parts: list[TP | None] = list(transaction.partitions)
        if transaction.offsets:
            parts.append(None)
        transaction.unmarked = len(parts)
        if not parts:
            transaction.state = COMPLETE_COMMIT if commit else COMPLETE_ABORT
        for part in parts:
            r = self.rnd()
            usually = r * 0.01 if r < 0.9 else (r - 0.9) * 5.0
            after = self.rnd() * 6.0 if r < self.lazy else usually
            self.later(after, partial(self._mark, transaction, part, pid, epoch, commit))

    def _mark(self, transaction: Transaction, part: TP | None, pid: int, epoch: int, commit: bool) -> None:
        if self.is_down("transactions") or self.is_down("group" if part is None else "logs"):
            self.later(0.2 + self.rnd(), lambda: self._mark(transaction, part, pid, epoch, commit))
            return
        if part is None:
            self.group.settle(pid, epoch, commit=commit)
        else:
            self.log(part).mark(pid, epoch, commit=commit, now=self.now)
            if part[0] in self.fed:
                self.nudge_all()
        if self.trace is not None:
            where = "offsets" if part is None else f"{part[0]}/{part[1]}"
            self.note(None, f"{transaction.name} {'commit' if commit else 'abort'} marker in {where}")
        transaction.unmarked -= 1
        if not transaction.unmarked:
            transaction.state = COMPLETE_COMMIT if commit else COMPLETE_ABORT


NETWORK = {
    "lost request": LOST_REQUEST,
    "lost reply": LOST_REPLY,
    "delayed request": DELAYED,
    "refusal": REFUSED,
}
_NETWORK_NAMES = {code: name for name, code in NETWORK.items()}


class Group:
    """The group coordinator: members, generations, offsets."""

    STABLE, PREPARING, NOBODY = range(3)

    def __init__(self, world: World) -> None:
        self.world = world
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.state = self.NOBODY
        self.round = 0
        self.owners: dict[int, str] = {}
        self.epochs: dict[int, int] = {}
        self.offsets: dict[TP, tuple[int, Committed]] = {}
        self.pending: dict[int, dict[TP, tuple[int, Committed]]] = {}
        self.past: dict[TP, list[Committed]] = {}
        """Everything that was ever committed, oldest first."""
        self._written = 0
        self._ids = 0

    # --- offsets ---------------------------------------------------------------------------------

    def take(self, pid: int, epoch: int, offsets: Mapping[TP, Committed], assignment: Assignment) -> None:
        """TxnOffsetCommit: checks generation and member, never who owns a partition."""
        if self.epochs.get(pid, -1) > epoch:
            raise Fenced(f"producer {pid} was fenced")
        if assignment.member not in self.members:
            raise Aborted("UNKNOWN_MEMBER_ID")
        if assignment.generation != self.generation:
            raise Aborted("ILLEGAL_GENERATION")
        self.epochs[pid] = epoch
        mine = self.pending.setdefault(pid, {})
        for tp, committed in offsets.items():
            self._written += 1
            mine[tp] = (self._written, committed)

    def settle(self, pid: int, epoch: int, *, commit: bool) -> None:
        """The marker of a transaction arrives at the offsets topic."""
        if epoch > self.epochs.get(pid, -1):
            self.epochs[pid] = epoch
        pending = self.pending.pop(pid, None)
        if not commit or pending is None:
            return
        for tp, (written, committed) in pending.items():
            before = self.offsets.get(tp)
            if before is None or before[0] < written:
                if before is not None and committed.offset < before[1].offset:
                    self.world.violation(
                        f"the committed offset of {tp} went back from {before[1].offset} "
                        f"to {committed.offset}"
                    )
                self.world.on_offset(tp, None if before is None else before[1], committed)
                self.offsets[tp] = (written, committed)
                self.past.setdefault(tp, []).append(committed)

    def unstable(self, tps: Sequence[TP]) -> bool:
        """Whether an open transaction has offsets pending for any of these."""
        return any(tp in mine for mine in self.pending.values() for tp in tps)

    def committed(self, tp: TP) -> Committed | None:
        """What was last committed."""
        found = self.offsets.get(tp)
        return None if found is None else found[1]

    def left_behind(self, tp: TP) -> list[Committed]:
        """What was last committed, and what is pending."""
        found = [mine[tp][1] for mine in self.pending.values() if tp in mine]
        last = self.committed(tp)
        return found if last is None else [*found, last]

    def answer(self, tp: TP) -> Committed | None:
        """What the coordinator says was last committed; one that has just moved may answer from before."""
        world = self.world
        if world.is_down("memory"):
            return None
        if world.is_down("freshness"):
            past = self.past.get(tp, [])
            return past[-1 - int(world.rnd() * min(4, len(past)))] if past else None
        return self.committed(tp)

    # --- members ---------------------------------------------------------------------------------

    def watch(self, life: Life, since: float) -> None:
        """A life no longer sends heartbeats: it leaves once its session has timed out."""
        member = life.member
        if member in self.members:

            def expired() -> None:
                if life.dead or life.paused_until > self.world.now:
                    self.remove(member)

            self.world.later(since + SESSION_S - self.world.now, expired)

    def remove(self, member: str) -> None:
        """A member left, or its session timed out."""
        gone = self.members.pop(member, None)
        if gone is None:
            return
        self.world.note(None, f"{member} left the group")
        self._tell(gone.life)
        if gone.joined and gone.task is not None and gone.result is None and not gone.life.dead:
            self.world.wake(gone.task)
        if not self.members:
            self.state = self.NOBODY
            self.generation += 1
        elif self.state == self.PREPARING:
            self._complete_if_all_joined()
        else:
            self.rebalance()

    def rebalance_if_any(self) -> None:
        """Something (a topic's metadata, an operator) makes the group rebalance."""
        if self.members:
            self.rebalance()

    def rebalance(self) -> None:
        """Ask everybody to join anew."""
        if self.state == self.PREPARING:
            return
        self.state = self.PREPARING
        self.round += 1
        for member in self.members.values():
            member.joined = False
            member.result = None
            self._tell(member.life)
        now = self.round
        self.world.later(REBALANCE_S, lambda: self._give_up_on_the_missing(now))

    def _tell(self, life: Life) -> None:
        """The next heartbeat of a life tells it to join anew."""
        world, told = self.world, self.round

        def heartbeat() -> None:
            if life.dead:
                return
            if life.paused_until > world.now:
                world.later(life.paused_until - world.now + world.rnd() * HEARTBEAT_S, heartbeat)
            elif life.round < told or life.member not in self.members:
                life.rejoin = True
                world.nudge(life)

        world.later(world.rnd() * HEARTBEAT_S, heartbeat)

    def join(self, life: Life) -> Assignment | None:
        """Join or rejoin, and wait for the generation to begin; None when thrown out while waiting."""
        world = self.world
        world.pause(world.travel())
        while world.is_down("group"):
            world.pause(0.5)
        if life.member not in self.members:
            self._ids += 1
            life.member = f"{life.worker.name}-{self._ids}"
            self.members[life.member] = Member(life)
        member = self.members[life.member]
        if self.state != self.PREPARING:
            self.rebalance()
        life.round = self.round
        life.rejoin = False
        member.joined = True
        member.result = None
        member.task = world.current
        self._complete_if_all_joined()
        if member.result is None:
            world.block()
        else:
            world.pause(world.travel())
        result: tuple[int, tuple[int, ...]] | None = member.result
        if result is None:
            return None
        return Assignment(result[0], life.member, frozenset(result[1]))

    def _give_up_on_the_missing(self, round_: int) -> None:
        if self.state == self.PREPARING and self.round == round_:
            for name, member in list(self.members.items()):
                if not member.joined:
                    self.remove(name)

    def _complete_if_all_joined(self) -> None:
        if not all(member.joined for member in self.members.values()):
            return
        world = self.world
        self.generation += 1
        self.state = self.STABLE
        names = list(self.members)
        # a sticky assignor would hide what happens when a partition moves
        world.rng.shuffle(names)
        given: dict[str, list[int]] = {name: [] for name in names}
        for number in range(world.partitions):
            given[names[number % len(names)]].append(number)
        self.owners = {number: name for name, numbers in given.items() for number in numbers}
        world.note(None, f"generation {self.generation}: {given}")
        for name, member in self.members.items():
            member.result = (self.generation, tuple(given[name]))
            if member.task is not world.current and member.task is not None:
                world.wake(member.task, world.travel())


class SimProducer:
    """A transactional producer of one life."""

    __slots__ = (
        "_added",
        "_begun",
        "_epoch",
        "_fatal",
        "_life",
        "_queue",
        "_sent",
        "_serial",
        "_transaction",
        "_world",
    )

    def __init__(self, world: World, life: Life, transaction: Transaction) -> None:
        self._world = world
        self._life = life
        self._transaction = transaction
        self._epoch = transaction.epoch
        self._begun = False
        self._added = False
        self._fatal = False
        self._queue: list[Produce] = []
        self._sent: dict[TP, int] = {}
        self._serial = 0

    def begin(self) -> None:
        """Begin a transaction; a local matter."""
        if self._life.dead:
            raise Killed
        if self._fatal:
            raise Fenced("this producer was fenced before")
        assert not self._begun, "a transaction was begun inside another"
        self._begun = True
        self._added = False
        self._serial += 1
        self._queue = []
        self._sent = {}

    def produce(self, record: Produce) -> None:
        """Queue a record; it may leave at any time from now on."""
        if self._life.dead:
            raise Killed
        assert self._begun, "a record was produced outside a transaction"
        self._queue.append(record)

    def produce_rows(self, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Queue a record for each key."""
        for key, value in rows.items():
            self.produce(Produce(topic, partition, key, value))

    def flush(self) -> Mapping[TP, int]:
        """Send what is queued, partition by partition in any order."""
        failed = self._send(everything=True)
        if failed:
            raise Aborted(f"records for {failed} were not delivered")
        return self._sent

    def _send(self, *, everything: bool) -> list[TP]:
        world, life = self._world, self._life
        self._check()
        by_partition: dict[TP, list[Produce]] = {}
        for record in self._queue:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        tps = list(by_partition)
        if len(tps) > 1:
            world.rng.shuffle(tps)
        if not everything:
            tps = tps[: int(world.rnd() * (len(tps) + 1))]
        failed: list[TP] = []
        if not tps:
            return failed
        self._add(tps, offsets=False)
        self._queue = [r for r in self._queue if (r.topic, r.partition) not in tps]
        for tp in tps:
            records = by_partition[tp]
            struck = world.begin(life, "flush")
            if world.is_down("logs"):
                struck = LOST_REQUEST
            if struck in (LOST_REQUEST, DELAYED, REFUSED):
                failed.append(tp)
                if struck == DELAYED:
                    late = partial(self._arrive_late, tp, records, self._serial)
                    world.later(world.rnd() * 15.0, late)
                world.pause(world.rnd() * REQUEST_S)
                continue
            self._append(tp, records)
            world.effect(life, struck)
            if struck == LOST_REPLY:
                failed.append(tp)
                world.pause(world.rnd() * REQUEST_S)
            world.end(life, struck)
        return failed

    def _add(self, tps: Sequence[TP], *, offsets: bool) -> None:
        try:
            self._world.add_to(self._transaction, self._epoch, tps, offsets=offsets)
        except Fenced:
            self._fatal = True
            raise
        self._added = True

    def _append(self, tp: TP, records: Sequence[Produce]) -> None:
        world, transaction = self._world, self._transaction
        log = world.log(tp)
        if log.epochs.get(transaction.pid, -1) > self._epoch or transaction.epoch != self._epoch:
            self._fatal = True
            raise Fenced(f"producer {transaction.name} was fenced")
        if transaction.state != ONGOING or tp not in transaction.partitions:
            raise Aborted("the partition is not in the transaction")
        for record in records:
            self._sent[tp] = log.append(
                record.key,
                record.value,
                world.now,
                transaction.pid,
                epoch=self._epoch,
                headers=record.headers,
            )

    def _arrive_late(self, tp: TP, records: Sequence[Produce], serial: int) -> None:
        # a sequence number of an earlier transaction would be refused
        if self._serial == serial and self._begun:
            try:
                self._append(tp, records)
            except (Fenced, Aborted):
                self._world.note(self._life, f"late records for {tp} refused")

    def send_offsets(self, offsets: Mapping[TP, Committed], assignment: Assignment) -> None:
        """Add the group's offsets to the transaction."""
        world, life = self._world, self._life
        if self._queue and world.rnd() < 0.4:
            # the client sends in the background: some records are there before the offsets
            held = self._send(everything=False)
            if held:
                raise Aborted(f"records for {held} were not delivered")
        self._check()
        started = world.now
        struck = world.begin(life, "send_offsets")
        self._add((), offsets=True)
        if struck == REFUSED:
            raise Aborted("the group refused the offsets")
        if self._unanswered(struck, "group", lambda: self._take(offsets, assignment)):
            raise OutcomeUnknown("no answer to the offsets")
        try:
            self._take(offsets, assignment)
        except Fenced:
            self._fatal = True
            raise
        world.effect(life, struck)
        if struck == LOST_REPLY:
            world.pause(world.rnd() * REQUEST_S)
            raise OutcomeUnknown("no answer to the offsets")
        world.end(life, struck)
        self._watchdog(started)

    def _take(self, offsets: Mapping[TP, Committed], assignment: Assignment) -> None:
        transaction = self._transaction
        if transaction.epoch != self._epoch:
            raise Fenced("the producer was replaced")
        if transaction.state != ONGOING or not transaction.offsets:
            raise Aborted("the offsets are not in the transaction")
        self._world.group.take(transaction.pid, self._epoch, offsets, assignment)

    def commit(self) -> None:
        """EndTxn(commit)."""
        self._end(commit=True)

    def abort(self) -> None:
        """EndTxn(abort); what is queued is thrown away."""
        self._queue = []
        self._end(commit=False)

    def _end(self, *, commit: bool) -> None:
        world, life, transaction = self._world, self._life, self._transaction
        self._check()
        assert self._begun, "a transaction was ended that was never begun"
        started = world.now
        struck = world.begin(life, "commit" if commit else "abort")
        if struck == REFUSED and commit:
            raise Aborted("the transaction has to be aborted")
        if not self._added:
            self._begun = False  # nothing was sent: there is nothing to end
            world.end(life, struck)
            return
        if self._unanswered(
            struck, "transactions", lambda: world.end_transaction(transaction, self._epoch, commit=commit)
        ):
            raise OutcomeUnknown("no answer to the end of the transaction")
        try:
            world.end_transaction(transaction, self._epoch, commit=commit)
        except Fenced:
            self._fatal = True
            raise
        world.effect(life, struck)
        if struck == LOST_REPLY:
            world.pause(world.rnd() * REQUEST_S)
            raise OutcomeUnknown("no answer to the end of the transaction")
        self._begun = False
        world.end(life, struck)
        self._watchdog(started)

    def _unanswered(self, struck: int, part: str, request: Callable[[], object]) -> bool:
        """Whether the caller gives up without an answer; a delayed request arrives before or after that."""
        world = self._world
        gives_up = world.rnd() * REQUEST_S
        if struck == DELAYED:

            def arrive() -> None:
                try:
                    request()
                    world.note(self._life, "delayed request took effect")
                except (Fenced, Aborted) as error:
                    world.note(self._life, f"delayed request refused: {error}")

            late = world.rnd()
            world.later(gives_up + late * 4.0 if late < 0.7 else late * 15.0, arrive)
        elif struck != LOST_REQUEST and not world.is_down(part):
            return False
        world.pause(gives_up)
        return True

    def _watchdog(self, started: float) -> None:
        if self._world.now - started > WATCHDOG_S and self._world.rnd() < 0.5:
            self._world.kill(self._life)
            raise Killed

    def _check(self) -> None:
        if self._life.dead:
            raise Killed
        if self._fatal:
            raise Fenced("this producer was fenced before")

    def close(self) -> None:
        """Let go of the producer without a word to the broker."""
        self._fatal = True


class SimCluster:
    """The cluster as one life of a worker sees it."""

    __slots__ = ("_life", "_world")

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    def producer(self, transactional_id: str) -> SimProducer:
        """InitProducerId, sent again while an older transaction is being marked."""
        world, life = self._world, self._life
        struck = world.begin(life, "producer")
        if struck == LOST_REQUEST or world.is_down("transactions"):
            self._unreachable()
        if transactional_id != life.worker.name and transactional_id in life.known.values():
            world.violation(f"{life} fences {transactional_id}, which it was told is alive")
        transaction = world.transaction(transactional_id)
        if struck == DELAYED:
            world.later(world.rnd() * 5.0, lambda: world.fence(transaction))
            self._unreachable()
        waited = 0.0
        world.fence(transaction)
        while transaction.state in (PREPARE, ONGOING):
            if waited > REQUEST_S:
                raise Unreachable("the transaction before is still being marked")
            wait = min(0.005 + waited, 0.5)
            waited += wait
            world.pause(wait)
            world.fence(transaction)
        world.bump(transaction)
        producer = SimProducer(world, life, transaction)
        world.effect(life, struck)
        if struck == LOST_REPLY:
            self._unreachable()
        world.end(life, struck)
        return producer

    def committed(self, inputs: Sequence[TP], *, stable: bool) -> Mapping[TP, Committed | None]:
        """OffsetFetch."""
        struck = self._ask("committed", "group")
        group = self._world.group
        if stable and group.unstable(inputs):
            raise NotStable("an open transaction has offsets pending")
        answer = {tp: group.answer(tp) for tp in inputs}
        self._world.end(self._life, struck)
        return answer

    def members(self) -> Mapping[str, str]:
        """DescribeGroups."""
        struck = self._ask("members", "group")
        answer = {name: member.life.worker.name for name, member in self._world.group.members.items()}
        self._life.known = answer
        self._world.end(self._life, struck)
        return answer

    def low(self, tp: TP) -> int:
        """The first offset the partition still has."""
        struck = self._ask("low", "logs")
        self._world.log(tp)
        self._world.end(self._life, struck)
        return 0

    def high(self, tp: TP) -> int:
        """The high watermark."""
        struck = self._ask("high", "logs")
        answer = self._world.log(tp).end
        self._world.end(self._life, struck)
        return answer

    def ends(self, tps: Sequence[TP]) -> Mapping[TP, int]:
        """The last stable offsets."""
        struck = self._ask("ends", "logs")
        answer = {tp: self._world.log(tp).stable() for tp in tps}
        self._world.end(self._life, struck)
        return answer

    def log_id(self, topic: str) -> str:
        """The topic's id."""
        struck = self._ask("log_id", "logs")
        self._world.end(self._life, struck)
        return f"id of {topic}"

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Fetch committed records, a few at a time."""
        world = self._world
        log = world.log(tp)
        while start < end:
            struck = self._ask("read", "logs")
            stable = log.stable()
            found, start = log.read(start, min(end, stable), 1 + int(world.rnd() * 8))
            if found:
                yield found
            world.end(self._life, struck)
            if start < end and start >= stable:
                raise NotStable(f"an open transaction begins at {stable}")

    def _ask(self, op: str, part: str) -> int:
        world = self._world
        struck = world.begin(self._life, op)
        if struck >= LOST_REQUEST or world.is_down(part):
            self._unreachable()
        world.effect(self._life, struck)
        return struck

    def _unreachable(self) -> NoReturn:
        self._world.pause(self._world.rnd() * 3.0)
        raise Unreachable("no answer")


class Shelf:
    """The rows of one partition on a worker's disk."""

    __slots__ = ("position", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.position: LocalPosition | None = None


class SimStore:
    """A worker's disk as one of its lives sees it: it survives a crash, whole."""

    __slots__ = ("_disk", "_life", "_world")

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._disk = life.worker.disk

    def position(self, partition: int) -> LocalPosition | None:
        """How far the rows have come."""
        shelf = self._disk.get(partition)
        return None if shelf is None else shelf.position

    def recall(self, partition: int, key: bytes) -> bytes | None:
        """The bytes kept for a key."""
        shelf = self._disk.get(partition)
        return None if shelf is None else shelf.rows.get(key)

    def write(self, partition: int, rows: Mapping[bytes, bytes | None], position: LocalPosition) -> None:
        """Change rows and position at once, or die before or after."""
        world = self._world
        struck = world.begin(self._life, "store.write")
        shelf = self._disk.get(partition)
        if shelf is None:
            shelf = self._disk[partition] = Shelf()
        for key, value in rows.items():
            if value is None:
                shelf.rows.pop(key, None)
            else:
                shelf.rows[key] = value
        shelf.position = position
        if world.trace is not None:
            world.note(self._life, f"stored {partition}: {dict(position.inputs)} @{position.changelog}")
        world.effect(self._life, struck)
        world.end(self._life, struck)

    def expired(self, partition: int, before: Mapping[bytes, int], most: int) -> list[bytes]:
        """The keys whose last event was before what is given for their first byte, now and then none."""
        shelf = self._disk.get(partition)
        if shelf is None or self._world.finds_nothing():
            return []
        return [
            key
            for key, value in shelf.rows.items()
            if key[:1] in before and int(value.split()[1]) < before[key[:1]]
        ][:most]

    def clear(self, partition: int) -> None:
        """Forget the partition."""
        struck = self._world.begin(self._life, "store.clear")
        self._disk.pop(partition, None)
        self._world.effect(self._life, struck)
        self._world.end(self._life, struck)


class SimCondition:
    """A condition between the threads of one life; taking it may cost the thread its turn."""

    __slots__ = ("_depth", "_life", "_owner", "_queue", "_waiting", "_world")

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._owner: Task | None = None
        self._depth = 0
        self._queue: list[Task] = []
        self._waiting: list[Task] = []

    def __enter__(self) -> Self:
        world = self._world
        if self._life.dead:
            raise Killed
        me = world.current
        if self._owner is me and me is not None:
            self._depth += 1
            return self
        if world.rnd() < 0.15:
            world.pause(world.travel())
        self._lock(me)
        return self

    def _lock(self, me: Task | None) -> None:
        while self._owner is not None:
            self._queue.append(me)  # type: ignore[arg-type]
            self._world.block()
        self._owner = me
        self._depth = 1

    def _unlock(self) -> None:
        self._owner = None
        if self._queue:
            self._world.wake(self._queue.pop(0))

    def __exit__(self, *exc: object) -> None:
        if self._life.dead:
            return
        self._depth -= 1
        if not self._depth:
            self._unlock()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified."""
        world = self._world
        if self._life.dead:
            raise Killed
        me = world.current
        assert me is not None
        assert self._owner is me, "a condition was waited for without holding it"
        depth = self._depth
        self._unlock()
        me.notified = False
        self._waiting.append(me)
        if timeout is None:
            world.block()
        else:
            world.pause(max(0.0, timeout))
        if not me.notified:
            self._waiting.remove(me)
        self._lock(me)
        self._depth = depth
        return me.notified

    def notify_all(self) -> None:
        """Wake everyone who waits."""
        if self._life.dead:
            raise Killed
        for task in self._waiting:
            task.notified = True
            self._world.wake(task, self._world.rnd() * 0.002)
        self._waiting.clear()


class SimClock:
    """Virtual time as one life of a worker sees it."""

    __slots__ = ("_life", "_world")

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    def monotonic(self) -> float:
        """Virtual seconds."""
        if self._life.dead:
            raise Killed
        task = self._world.current
        if task is not None and task.name == "writer":
            self._life.looked_at = self._world.now
        return self._world.now

    def wall(self) -> float:
        """Virtual seconds since 1970, which was long ago."""
        if self._life.dead:
            raise Killed
        return 1_700_000_000.0 + self._world.now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        if self._life.dead:
            raise Killed
        self._world.pause(seconds)

    def condition(self) -> SimCondition:
        """A condition of this life."""
        return SimCondition(self._world, self._life)
