"""Kill, pause and wipe workers on a real broker while orders flow, then count every order.

    python tests/faults/chaos.py                    # 30 kills, 6 pauses, 6 wipes, 4 clean restarts
    python tests/faults/chaos.py --short            # what CI runs, two to three minutes
    python tests/faults/chaos.py --seed 7 --compare # the same faults on stock Faust, side by side
    python tests/faults/chaos.py --entities         # two more stages, outcomes and order events beside orders
    python tests/faults/chaos.py --swaps            # champions change and the kill switch is thrown meanwhile
    python tests/faults/chaos.py --swaps --entities # both

Two workers share the orders of one topic. A kill is SIGKILL, most of them aimed at the moment a
decision has been written and its transaction not yet committed; a pause is SIGSTOP for longer than
the session, so that the worker wakes as a zombie; a wipe is a kill after which its rows are gone; a
clean restart is SIGTERM. When all orders are decided, the decisions, the rejected orders and the rows
are held against a run of the same desk in one process over the same log.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import msgspec

from models.registry import Registry
from stream.control import ControlState
from stream.desk import ScoringDesk
from stream.panel import Panels
from stream.ports import Record
from stream.serving import Shelf
from stream.settings import Settings
from stream.store import RocksStore
from stream.verify import verify
from stream.worker import load_model
from stream.writer import POSITION_KEY, Owner, decode_position
from tests.bench.results import record as keep_figures
from tests.faults import on_the_road, swaps
from tests.faults.checks import (
    Answers,
    Fault,
    Sighting,
    compare_answers,
    count_by,
    lone_gaps,
    shared_names,
)
from tests.faults.stage import (
    OUR_WORKER,
    Fleet,
    LastStable,
    Publisher,
    StageError,
    Watcher,
    Worker,
    committed,
    end_on_sigterm,
    environment_of,
    high,
    make_topics,
    orders,
    publish_starter,
    read_all,
    running_broker,
    temporary_home,
)

PARTITIONS: Final = 4
WORKERS: Final = ("w1", "w2")
PAUSE_S: Final = 15.0
GAP_S: Final = 15.0
"""The next decision has to come within so long after a lone kill."""
PATIENCE_S: Final = 90.0
REST_WITHIN_S: Final = 30.0
"""How long a fault that is meant for a group at rest waits for it."""
FIRST_DECISION_S: Final = 120.0

Key = tuple[int, int] | str
"""What a decision answers: partition and offset of an order, or its id where that is all it tells."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run without faults makes of the same log."""

    decisions: Mapping[Key, bytes]
    rejected: Mapping[Key, bytes]
    rows: Mapping[tuple[int, bytes], bytes]
    messages: Mapping[str, bytes] = field(default_factory=dict)
    """What goes from stage to stage."""


@dataclass(frozen=True, slots=True)
class System:
    """What is tried: how a worker of it is started, and how its logs are to be read."""

    name: str
    command: Sequence[str]
    environment: Callable[[Settings, str], Mapping[str, str]]
    changelog: str
    plain: bool
    """Whether it is spared orders sent again, revised or unreadable."""
    expect: Callable[[Settings, Mapping[int, Sequence[Record]]], Expected]
    answers: Callable[[Record], Key]
    """What a decision answers."""
    names: Callable[[Record], str | None]
    """A decision's own id, where it has one."""
    restored: Callable[[Sequence[Record]], dict[tuple[int, bytes], bytes]]
    """The rows in a changelog read from its start."""
    is_transactional: bool = True
    is_ours: bool = True
    moves_models: bool = False
    """Whether models change meanwhile."""


# --- our own worker -------------------------------------------------------------------------------


class _Source(msgspec.Struct):
    partition: int
    offset: int


class _Decision(msgspec.Struct):
    decision_id: str
    source: _Source


def _read_decision(record: Record) -> _Decision:
    return msgspec.json.decode(record.value or b"null", type=_Decision)


def _source_of(record: Record) -> Key:
    source = _read_decision(record).source
    return source.partition, source.offset


def _rejected_source(record: Record) -> Key:
    headers = dict(record.headers)
    return b"/".join(headers["source_" + name] for name in ("topic", "partition", "offset")).decode()


def _whole(partition: int, key: bytes | None, value: bytes | None) -> bytes:
    """A record as one value, so that a wrong partition or key is a difference too."""
    return b"%d %s %s" % (partition, key or b"-", value or b"-")


def single_process_run(settings: Settings, log: Mapping[int, Sequence[Record]], batch: int = 64) -> Expected:
    """The same desk, over each partition in log order, with a dict for its rows and nothing that can fail."""
    nothing_said = ControlState(settings.group)
    return _run_alone(settings, log, lambda _: nothing_said, batch)


def run_under_recorded_states(settings: Settings, log: Mapping[int, Sequence[Record]]) -> Expected:
    """The same, each order under the models that were in service when it was really decided."""
    return _run_alone(settings, log, swaps.under_recorded_states(settings))


def _run_alone(
    settings: Settings,
    log: Mapping[int, Sequence[Record]],
    state_of: Callable[[Record], ControlState],
    batch: int = 64,
) -> Expected:
    scorer, policy = load_model(settings)
    now = [ControlState(settings.group)]
    desk = ScoringDesk(
        panels=Panels(
            scorer=scorer, policy=policy, models=Shelf(settings, Registry(settings.home / "models"))
        ),
        topics=settings.topics,
        partitions=settings.partitions,
        row_limit=settings.row_limit,
        ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
        reject_share=0,
        headers=(),
        in_force=lambda: now[-1],
        horizons=settings.horizons,
    )
    watermarks: dict[int, int] = {}
    rows: dict[tuple[int, bytes], bytes] = {}
    decisions: dict[Key, bytes] = {}
    rejected: dict[Key, bytes] = {}
    for records in log.values():
        for state, some in on_the_road.batches(records, state_of, batch):
            now[:] = [state]
            effects = desk.decide(some, lambda number, key: rows.get((number, key)), watermarks)
            watermarks |= effects.watermarks
            for each in effects.produce:
                record = Record(each.topic, each.partition, -1, -1, each.key, each.value, each.headers)
                whole = _whole(each.partition, each.key, each.value)
                if each.topic == settings.topics.decisions:
                    decisions[_source_of(record)] = whole
                elif each.topic == settings.topics.rejected:
                    rejected[_rejected_source(record)] = whole
            for number, changed in effects.rows.items():
                for key, value in changed.items():
                    if value is None:
                        rows.pop((number, key), None)
                    else:
                        rows[number, key] = value
    return Expected(decisions, rejected, rows)


def run_on_the_road(settings: Settings, _: Mapping[int, Sequence[Record]]) -> Expected:
    """The same desk over home and over each stage, in the order in which they were really taken."""
    nothing_said = ControlState(settings.group)
    return _run_along(settings, lambda _: nothing_said)


def run_on_the_road_under_recorded_states(settings: Settings, _: Mapping[int, Sequence[Record]]) -> Expected:
    """The same, each order at all its stages under the models that were in service when it left home."""
    return _run_along(settings, swaps.under_recorded_states(settings))


def _run_along(settings: Settings, state_of: Callable[[Record], ControlState]) -> Expected:
    made = on_the_road.run_through(settings, state_of)
    expected: dict[str, dict[Any, bytes]] = {"decisions": {}, "rejected": {}, "messages": {}}
    for each in made.produced:
        record = Record(each.topic, each.partition, -1, -1, each.key, each.value, each.headers)
        whole = _whole(each.partition, each.key, each.value)
        if each.topic == settings.topics.decisions:
            expected["decisions"][_source_of(record)] = whole
        elif each.topic == settings.topics.rejected:
            expected["rejected"][_rejected_source(record)] = whole
        else:
            named, says = on_the_road.message(each)
            expected["messages"][named] = says
    return Expected(**expected, rows=made.rows)


def _rows_of(changelog: Sequence[Record]) -> dict[tuple[int, bytes], bytes]:
    rows: dict[tuple[int, bytes], bytes] = {}
    for record in changelog:
        if record.key is None or record.key == POSITION_KEY:
            continue
        if record.value is None:
            rows.pop((record.partition, record.key), None)
        else:
            rows[record.partition, record.key] = record.value
    return rows


OURS = System(
    name="fraudstream",
    command=OUR_WORKER,
    environment=environment_of,
    changelog="histories-changelog",
    plain=False,
    expect=single_process_run,
    answers=_source_of,
    names=lambda record: _read_decision(record).decision_id,
    restored=_rows_of,
)


ON_THE_ROAD = replace(OURS, name="fraudstream, two stages", expect=run_on_the_road)
"""The same worker, where devices and merchants have histories too."""


SWAPPED = replace(
    OURS, name="fraudstream, models change", expect=run_under_recorded_states, moves_models=True
)
"""The same worker, while models are promoted and rolled back and the kill switch is thrown."""

SWAPPED_ON_THE_ROAD = replace(
    SWAPPED, name="fraudstream, two stages, models change", expect=run_on_the_road_under_recorded_states
)
"""Both."""

WITH_STAGES: Final = (ON_THE_ROAD, SWAPPED_ON_THE_ROAD)


# --- stock Faust, for comparison ------------------------------------------------------------------


def _stock(name: str, guarantee: str) -> System:
    from tests.faults import stock_faust  # noqa: PLC0415 (Faust is slow to import)

    def expect(settings: Settings, log: Mapping[int, Sequence[Record]]) -> Expected:
        decisions: dict[Key, bytes] = {}
        rows: dict[tuple[int, bytes], bytes] = {}
        for number, records in log.items():
            counts: dict[str, int] = {}
            for record in records:
                order = json.loads(record.value or b"null")
                customer = order["customer_id"]
                counts[customer] = counts.get(customer, 0) + 1
                decision = stock_faust.decision(order, counts[customer])
                decisions[order["order_id"]] = _whole(number, record.key, decision)
            rows |= {(number, customer.encode()): b"%d" % count for customer, count in counts.items()}
        return Expected(decisions, {}, rows)

    def restored(changelog: Sequence[Record]) -> dict[tuple[int, bytes], bytes]:
        return {
            (record.partition, json.loads(record.key or b'""').encode()): record.value or b""
            for record in changelog
        }

    def environment(settings: Settings, worker: str) -> dict[str, str]:
        return environment_of(settings, worker) | {"STOCK_GUARANTEE": guarantee}

    return System(
        name=name,
        command=(sys.executable, stock_faust.__file__ or ""),
        environment=environment,
        changelog=stock_faust.CHANGELOG,
        plain=True,
        expect=expect,
        answers=lambda record: str(json.loads(record.value or b"null")["order_id"]),
        names=lambda record: None,
        restored=restored,
        is_transactional=guarantee == "exactly_once",
        is_ours=False,
    )


def system_of(name: str) -> System:
    """The system of this name."""
    for ours in (OURS, SWAPPED, *WITH_STAGES):
        if name == ours.name:
            return ours
    return _stock(name, {"faust-alo": "at_least_once", "faust-eos": "exactly_once"}[name])


# --- the faults -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One fault to come, and what it waits for."""

    kind: str
    after_s: float
    calm: bool
    """Whether it waits, bounded, until the group has got over the last fault."""


def plan_of(chance: random.Random, counts: Mapping[str, int]) -> list[Step]:
    """The faults in a random order, most of them to a group at rest.

    The first and the last are kills with nothing before or after them, so that every run measures the
    gap after a lone kill.
    """
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    chance.shuffle(kinds)
    for end in (0, -1):
        if kinds.count("kill") > 1 or (end == 0 and "kill" in kinds):
            other = kinds.index("kill", 1) if end and kinds[0] == "kill" else kinds.index("kill")
            kinds[end], kinds[other] = kinds[other], kinds[end]
    return [
        Step(kind, chance.uniform(0.5, 6.0), calm=chance.random() < 0.7 or number in {0, 1, len(kinds) - 1})
        for number, kind in enumerate(kinds)
    ]


@dataclass(slots=True)
class Run:
    """One run of one system under one plan."""

    system: System
    settings: Settings
    fleet: Fleet
    publisher: Publisher
    chance: random.Random
    mover: swaps.Swaps | None = None
    moved_at: float = 0.0
    """When the last move of a model was in force, in seconds since 1970."""
    faults: list[Fault] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    last_seen: dict[str, float] = field(default_factory=dict)
    """When each worker's last decision was seen."""
    last_arrived: dict[str, float] = field(default_factory=dict)
    """When the order of that decision had arrived."""
    _last_written: dict[str, Sighting] = field(default_factory=dict)
    _written: dict[str, threading.Event] = field(default_factory=dict)
    _last_stable: LastStable = field(init=False)

    def __post_init__(self) -> None:
        self._last_stable = LastStable(self.settings)

    def watch(self) -> tuple[Watcher, Watcher]:
        """Follow the decisions: as a reader would, and what no reader may see yet, to aim the kills."""
        self._written = {name: threading.Event() for name in WORKERS}

        def seen(sighting: Sighting) -> None:
            self.sightings.append(sighting)
            self.owners[sighting.partition] = sighting.worker
            self.last_arrived[sighting.worker] = sighting.arrived_at
            self.last_seen[sighting.worker] = sighting.seen_at

        def written(sighting: Sighting) -> None:
            self._last_written[sighting.worker] = sighting
            self._written[sighting.worker].set()

        committed_ones = Watcher(self.settings, isolation="read_committed", on_seen=seen)
        all_of_them = Watcher(self.settings, isolation="read_uncommitted", on_seen=written)
        committed_ones.start()
        all_of_them.start()
        return committed_ones, all_of_them

    def wait(self, until: Callable[[], bool], within_s: float) -> bool:
        """Look after the workers until something holds; False when it does not in time."""
        deadline = time.monotonic() + within_s
        while not until():
            if time.monotonic() > deadline:
                return False
            if self.publisher.failure is not None:
                raise StageError("the publisher failed") from self.publisher.failure
            if self.mover is not None and self.mover.failure is not None:
                raise StageError("models could not be moved") from self.mover.failure
            self.fleet.tick()
            time.sleep(0.02)
        return True

    def end_swaps(self) -> None:
        """Make the last move, and go on until every worker has decided under it for a while."""
        if self.mover is None:
            return
        self.mover.end()
        self.moved_at = time.time()
        self.wait(self.is_at_rest, REST_WITHIN_S)
        self.wait(lambda: False, swaps.TAKEN_UP_S + 5.0)

    def wait_for_the_first_decisions(self) -> None:
        """Wait until every partition has decided something."""
        if not self.wait(lambda: len(self.owners) == PARTITIONS, FIRST_DECISION_S):
            raise StageError(f"not every partition decided within {FIRST_DECISION_S:.0f} s of the start")

    def strike(self, kind: str) -> None:
        """Do one fault to a worker; most faults find one that is deciding orders."""
        fleet = self.fleet
        if not self.wait(lambda: any(w.lives and not w.is_paused for w in fleet.workers.values()), 60):
            raise StageError("no worker came up within 60 s; see their logs")
        if kind == "clean" or self.chance.random() < 0.8:
            # a worker asked to stop before it has begun just dies: that is no clean restart
            self.wait(lambda: any(map(self._serves, fleet.workers.values())), 30)
        alive = [w for w in fleet.workers.values() if w.lives and (not w.is_paused or kind == "kill")]
        serving = [w for w in alive if self._serves(w)]
        pool = serving if serving and (kind == "clean" or self.chance.random() < 0.8) else alive
        victim = self.chance.choice(pool).name
        aimed = kind in {"kill", "wipe"} and self.chance.random() < 0.8
        in_flight = aimed and self.system.is_transactional and self._freeze_in_flight(victim)
        at = time.time()
        if kind == "kill":
            fleet.kill(victim)
        elif kind == "wipe":
            fleet.kill(victim, wipe=self.settings.home / "rows" / victim)
        elif kind == "stop":
            fleet.pause(victim, PAUSE_S)
        else:
            fleet.restart(victim)
        ended_at = at + (PAUSE_S if kind == "stop" else 0)
        self.faults.append(Fault(kind, victim, at, ended_at, in_flight))

    def is_at_rest(self) -> bool:
        """Whether every worker decides orders that arrived after the last fault was over."""
        over = max((fault.ended_at for fault in self.faults), default=0.0)
        return all(
            self._serves(worker) and self.last_arrived[worker.name] > over
            for worker in self.fleet.workers.values()
        )

    def _serves(self, worker: Worker) -> bool:
        """Whether a living worker has decided something lately, since it was started."""
        last = self.last_seen.get(worker.name, 0.0)
        return worker.lives and not worker.is_paused and last > max(worker.started_at, time.time() - 2.0)

    def _freeze_in_flight(self, name: str) -> bool:
        """Freeze a worker with a decision written and not yet committed; False when it can't be caught.

        Its decision is seen uncommitted and the worker stopped; after a moment in which a commit already
        sent would have been carried out, the last stable offset tells whether the transaction is open.
        """
        fleet, worker = self.fleet, self.fleet.workers[name]
        written = self._written[name]
        for _ in range(40):
            if not self._serves(worker):
                return False
            written.clear()
            if not written.wait(0.5):
                continue
            fleet.freeze(name)
            time.sleep(0.004)
            last = self._last_written[name]
            if self._last_stable((self.settings.topics.decisions, last.partition)) <= last.offset:
                return True
            fleet.thaw(name)
            time.sleep(self.chance.uniform(0, 0.03))
        return False

    def is_all_read(self) -> bool:
        """Whether the group has committed all that was sent, and of what went to stages all there is."""
        return all(self._is_read(topic) for topic in self.inputs)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics that something was sent to."""
        settings = self.settings
        if not settings.entities:
            return (settings.topics.orders,)
        return settings.inputs

    def _is_read(self, topic: str) -> bool:
        done = committed(self.settings, topic)
        is_a_stage = topic in self.settings.stages.values()
        for number in range(self.settings.partitions):
            end = high(self.settings, (topic, number))
            read = done[number].offset if number in done else 0
            # the end of the last transaction may be left unread: it is no record
            if read < end - is_a_stage:
                return False
        return True

    def finish(self) -> bool:
        """Wait until every order is decided; False when there was no progress for too long."""
        self.publisher.enough()
        self.wait(lambda: not self.publisher.is_alive(), 600)
        progress = (-1, -1)
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE_S:
            if self.is_all_read():
                # what was committed last has still to be seen
                self.wait(lambda: False, 2.0)
                return True
            stands = [committed(self.settings, topic) for topic in self.inputs]
            now = (len(self.sightings), sum(each.offset for ends in stands for each in ends.values()))
            if now != progress:
                progress, since = now, time.monotonic()
            self.wait(lambda: False, 1.0)
        return False


# --- the report -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What a run showed."""

    figures: dict[str, Any]
    violations: dict[str, tuple[Any, ...]]


def examine(run: Run, *, finished: bool, gap_limit: float, began: float) -> Report:
    """Read everything there is and hold it against a run without faults."""
    system, settings = run.system, run.settings
    log: dict[int, list[Record]] = {number: [] for number in range(settings.partitions)}
    for record in read_all(settings, settings.topics.orders, settings.partitions):
        log[record.partition].append(record)
    expected = system.expect(settings, log)
    decisions = list(read_all(settings, settings.topics.decisions, settings.partitions))
    written = read_all(settings, settings.topics.decisions, settings.partitions, isolation="read_uncommitted")
    visible = {(record.partition, record.offset) for record in decisions}
    aborted = [record for record in written if (record.partition, record.offset) not in visible]
    rejected = list(read_all(settings, settings.topics.rejected, settings.partitions))
    changelog = list(read_all(settings, system.changelog, settings.partitions))

    asked = compare_answers(expected.decisions, [(system.answers(r), _as_seen(r)) for r in decisions])
    refused = compare_answers(expected.rejected, [(_rejected_source(r), _as_seen(r)) for r in rejected])
    rows = compare_answers(expected.rows, system.restored(changelog).items())
    stages = settings.stages.values()
    between = [record for topic in stages for record in read_all(settings, topic, settings.partitions)]
    messages = compare_answers(expected.messages, map(on_the_road.message, between))
    violations: dict[str, tuple[Any, ...]] = {
        **messages.violations("messages between stages"),
        **asked.violations("decisions"),
        **refused.violations("rejected orders"),
        **rows.violations("rows in the changelog"),
    }
    if names := shared_names((system.answers(r), name) for r in decisions if (name := system.names(r))):
        violations["decision ids shared"] = names
    if not finished:
        violations["no progress"] = (f"for {PATIENCE_S:.0f} s",)
    gaps = lone_gaps(
        run.faults,
        run.sightings,
        partitions=settings.partitions,
        workers=len(WORKERS),
        alone_for=gap_limit,
        until=run.sightings[-1].seen_at if run.sightings else time.time(),
    )
    longest = max((gap for _, gap in gaps), default=None)
    if longest is not None and longest > gap_limit:
        violations["gap too long"] = (f"{longest:.1f} s after a lone kill",)
    if run.mover is not None:
        violations |= swaps.violations(settings, decisions, workers=WORKERS, moved_at=run.moved_at)
        verified = verify(settings, processes=1)
        if verified.different or verified.equal != len(decisions):
            violations["decisions that 'fraudstream verify' decides otherwise"] = tuple(
                map(str, verified.listed or [f"{verified.equal} of {len(decisions)} are equal"])
            )
    if system.is_ours:
        if longest is None and any(fault.is_a_kill for fault in run.faults):
            violations["gap not measured"] = ("no kill was lone: the machine is too slow or too busy",)
        violations |= _of_our_own(run, expected.rows, log, changelog)
    sent = sum(map(len, log.values()))
    if sent != run.publisher.sent:
        raise StageError(f"{run.publisher.sent} orders were sent and {sent} are in the log")
    kills = [fault for fault in run.faults if fault.is_a_kill]
    figures = {
        "orders": sent,
        "to be decided": asked.expected,
        "decisions visible": asked.seen,
        "missing": len(asked.missing),
        "repeated": len(asked.repeated),
        "conflicting": len(asked.conflicting),
        "unlike the single-process run": len(asked.different),
        "to be rejected": refused.expected,
        "rejected wrongly": _wrong(refused),
        **(
            {"messages between stages": messages.expected, "messages wrong": _wrong(messages)}
            if settings.entities
            else {}
        ),
        **_of_swaps(run, decisions),
        "rows": rows.expected,
        "rows wrong": _wrong(rows),
        "decisions aborted, invisible": len(aborted),
        **{f"faults: {kind}": count for kind, count in count_by(run.faults, lambda f: f.kind).items()},
        "kills with a transaction surely in flight": sum(kill.in_flight for kill in kills),
        "lone kills measured": len(gaps),
        "gap after a lone kill, longest (s)": None if longest is None else round(longest, 1),
        "gap after a lone kill, median (s)": _median([gap for _, gap in gaps]),
        "longest silence of a partition (s)": round(_silence(run.sightings), 1),
        "exits nobody asked for": sum(not asked_for for *_, asked_for in run.fleet.exits),
        "seconds": round(time.monotonic() - began),
    }
    return Report(figures, violations)


def _of_swaps(run: Run, decisions: Sequence[Record]) -> dict[str, Any]:
    if run.mover is None:
        return {}
    offsets = swaps.control_offsets(run.settings, decisions)
    return {
        **{f"moves: {kind}": count for kind, count in sorted(run.mover.moves.items())},
        "control offsets that orders were decided under": len(
            {at for each in offsets.values() for at in each.values()}
        ),
    }


def _as_seen(record: Record) -> bytes:
    return _whole(record.partition, record.key, record.value)


def _wrong(answers: Answers[Any]) -> int:
    return len({*answers.missing, *answers.repeated, *answers.different, *answers.unknown})


def _median(gaps: list[float]) -> float | None:
    return round(sorted(gaps)[len(gaps) // 2], 1) if gaps else None


def _silence(sightings: Sequence[Sighting]) -> float:
    last: dict[int, float] = {}
    longest = 0.0
    for sighting in sightings:
        longest = max(longest, sighting.seen_at - last.get(sighting.partition, sighting.seen_at))
        last[sighting.partition] = sighting.seen_at
    return longest


def _of_our_own(
    run: Run,
    rows: Mapping[tuple[int, bytes], bytes],
    log: Mapping[int, Sequence[Record]],
    changelog: Sequence[Record],
) -> dict[str, tuple[Any, ...]]:
    """The local rows of the last owners, the positions, and how the workers ended."""
    settings = run.settings
    violations: dict[str, tuple[Any, ...]] = {}
    offsets = committed(settings)
    ends = {number: len(records) for number, records in log.items()}
    if (stand := {number: each.offset for number, each in offsets.items()}) != ends:
        violations["offsets not at the end"] = (f"{stand} and not {ends}",)
    positions = {
        record.partition: decode_position(record.value).inputs[settings.topics.orders]
        for record in changelog
        if record.key == POSITION_KEY and record.value is not None
    }
    if positions != ends:
        violations["positions not at the end"] = (f"{positions} and not {ends}",)
    kept: dict[tuple[int, bytes], bytes] = {}
    for name in WORKERS:
        store = RocksStore(settings.home / "rows" / name)
        for number, each in offsets.items():
            if Owner.of(each).name == name:
                kept |= {(number, key): value for key, value in store.rows(number)}
        store.close()
    violations |= compare_answers(rows, kept.items()).violations("rows in the last owners' stores")
    refusals = tuple(name for name, code, _ in run.fleet.exits if code == 1)
    if refusals:
        violations["workers refused to go on"] = refusals
    unclean = tuple((name, code) for name, code, asked in run.fleet.exits if asked and code not in (0, -9))
    if unclean:
        violations["clean restarts that failed"] = unclean
    return violations


def play(system: System, arguments: argparse.Namespace) -> Report:
    """One whole run of one system: set the stage, strike, wait, examine, clear away."""
    chance = random.Random(arguments.seed)
    counts = {name: getattr(arguments, f"{name}s") for name in ("kill", "stop", "wipe")}
    counts["clean"] = arguments.clean
    plan = plan_of(chance, counts)
    began = time.monotonic()
    with temporary_home("chaos") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=PARTITIONS,
            group="chaos",
            worker="harness",
            row_limit=64,  # small enough that rows drop their oldest orders
            entities=on_the_road.ENTITIES if system in WITH_STAGES else (),
        )
        make_topics(settings)
        plain = orders(arguments.seed, plain=system.plain)
        source: Iterator[tuple[str, bytes, bytes]] = ((settings.topics.orders, *each) for each in plain)
        if system in WITH_STAGES:
            on_the_road.publish_model(settings)
            source = on_the_road.said(settings, arguments.seed)
        elif system.is_ours:
            publish_starter(settings)
        models = swaps.publish_models(settings) if system.moves_models else []
        fleet = Fleet(
            system.command, lambda name: system.environment(settings, name), home / "workers", WORKERS, chance
        )
        publisher = Publisher(
            settings,
            source,
            rate=arguments.rate,
            at_least=arguments.orders,
        )
        mover = swaps.Swaps(settings, models, random.Random(arguments.seed)) if system.moves_models else None
        run = Run(system, settings, fleet, publisher, chance, mover)
        watchers = run.watch()
        try:
            fleet.start()
            publisher.start()
            run.wait_for_the_first_decisions()
            if mover is not None:
                mover.start()
            for number, step in enumerate(plan, 1):
                if step.calm:
                    run.wait(run.is_at_rest, REST_WITHIN_S)
                run.wait(lambda: False, step.after_s)
                run.strike(step.kind)
                fault = run.faults[-1]
                _say(
                    f"{number}/{len(plan)} {fault.kind} {fault.worker}, {len(run.sightings)} decisions so far"
                )
            # the load outlasts the faults
            run.wait(lambda: not any(w.is_paused for w in fleet.workers.values()), PAUSE_S + 5)
            run.wait(run.is_at_rest, REST_WITHIN_S)
            run.wait(lambda: False, 5.0)
            run.end_swaps()
            finished = run.finish()
            codes = fleet.stop()
            for watcher in watchers:
                watcher.end()
            report = examine(run, finished=finished, gap_limit=arguments.gap_limit, began=began)
            bad = tuple(f"{name}: {code}" for name, code in codes.items() if code != 0)
            if bad and system.is_ours:
                report.violations["workers that did not stop cleanly"] = bad
            if report.violations and system.is_ours:
                _show_logs(home)
        except BaseException:
            _show_logs(home)
            raise
        finally:
            publisher.abandon()
            fleet.kill_all()
            for watcher in watchers:
                watcher.end()
    return report


def _show_logs(home: Path, lines: int = 20) -> None:
    for log in sorted((home / "workers").glob("*.log")):
        _say(f"--- the end of {log.name}")
        _say("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def show(reports: Mapping[str, Report]) -> None:
    """The figures side by side, what was violated, and all of it once more in one line of JSON."""
    names = list(reports)
    figures = {figure: None for report in reports.values() for figure in report.figures}
    width = max(map(len, figures))
    print(f"{'':{width}}  " + "  ".join(f"{name:>12}" for name in names))
    for figure in figures:
        cells = [reports[name].figures.get(figure) for name in names]
        print(f"{figure:{width}}  " + "  ".join(f"{'-' if cell is None else cell:>12}" for cell in cells))
    for name in names:
        for what, which in reports[name].violations.items():
            some = ", ".join(str(each) for each in which[:5])
            print(f"{name}: {what}: {len(which)} ({some}{', ...' if len(which) > 5 else ''})")
        if not reports[name].violations:
            print(f"{name}: no violation")
    print(
        json.dumps(
            {
                name: {
                    **report.figures,
                    "violations": {what: len(which) for what, which in report.violations.items()},
                }
                for name, report in reports.items()
            }
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Play and judge; 1 on any violation of ours, or when stock Faust shows none in a comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--orders", type=int, default=0, help="at least so many; they flow until the faults are over"
    )
    parser.add_argument("--rate", type=float, default=200.0, help="orders a second")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--stops", type=int)
    parser.add_argument("--wipes", type=int)
    parser.add_argument("--clean", type=int)
    parser.add_argument("--gap-limit", type=float, default=GAP_S, help="seconds after a lone kill")
    parser.add_argument("--system", choices=("fraudstream", "faust-alo", "faust-eos"), default="fraudstream")
    parser.add_argument("--compare", action="store_true", help="all three systems, side by side")
    parser.add_argument(
        "--entities", action="store_true", help="devices and merchants have stages, and outcomes are sent too"
    )
    parser.add_argument(
        "--swaps", action="store_true", help="models are promoted and rolled back, and the kill switch thrown"
    )
    parser.add_argument("--short", action="store_true", help="6 kills, 1 pause, 1 wipe, 1 clean restart")
    parser.add_argument("--record", action="store_true", help="add the figures to tests/bench/RESULTS.md")
    arguments = parser.parse_args(argv)
    usual = (6, 1, 1, 1) if arguments.short else (30, 6, 6, 4)
    for name, count in zip(("kills", "stops", "wipes", "clean"), usual, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, count)
    end_on_sigterm()
    names = ("fraudstream", "faust-alo", "faust-eos") if arguments.compare else (arguments.system,)
    if arguments.entities or arguments.swaps:
        if arguments.compare or arguments.system != OURS.name:
            parser.error("stock Faust has neither stages nor models in service: leave the other systems out")
        ours = {(True, False): ON_THE_ROAD, (False, True): SWAPPED, (True, True): SWAPPED_ON_THE_ROAD}
        names = (ours[arguments.entities, arguments.swaps].name,)
    reports: dict[str, Report] = {}
    try:
        for name in names:
            _say(f"=== {name}, seed {arguments.seed}")
            reports[name] = play(system_of(name), arguments)
    except StageError as error:
        _say(f"the run says nothing: {error}")
        return 1
    except KeyboardInterrupt:
        _say("stopped; everything that was started has ended")
        return 130
    show(reports)
    if arguments.record:
        known = dict.fromkeys(figure for name in names for figure in reports[name].figures)
        figures = {figure: [reports[name].figures.get(figure) for name in names] for figure in known}
        note = (
            f"Seed {arguments.seed}, two workers, {arguments.rate:.0f} orders/s, broker on the same machine."
        )
        keep_figures("Chaos on a real broker", figures, note, columns=names)
    if any(reports[name].violations for name in names if system_of(name).is_ours):
        return 1
    if not arguments.compare:
        return 1 if reports[names[0]].violations else 0
    spared = [name for name in names if name != OURS.name and not reports[name].violations]
    if spared:
        print(f"{', '.join(spared)} showed no failure: these faults are too gentle to tell systems apart")
    return 1 if spared else 0


if __name__ == "__main__":
    sys.exit(main())
