"""The transaction core survives every fault tried here, and the simulated Kafka can be trusted to say so."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from features.events import Order
from stream.keeping import Horizons
from stream.ports import (
    Aborted,
    Assignment,
    Batch,
    Committed,
    Effects,
    Fenced,
    LocalPosition,
    NotStable,
    OutcomeUnknown,
    Positions,
    Produce,
    Recall,
    Record,
    Refused,
    Watermarks,
)
from stream.store import RocksStore
from stream.writer import BEING_REBUILT, POSITION_KEY, Limits, Rebuilding, Writer, encode_position
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.schedule import MOST_CRASHES, run
from tests.faults.simulate import kill, tell
from tests.faults.simulated import (
    SESSION_S,
    SWEEP_S,
    TOMBSTONES_S,
    TRANSACTION_S,
    Fault,
    Killed,
    Life,
    Log,
    Member,
    SimClock,
    SimCluster,
    SimCondition,
    SimProducer,
    SimStore,
    Worker,
    World,
)
from tests.small_desk import Shop
from tests.strategies import NOON, an_order, as_json

IN = ("orders", 0)
OUT = ("decisions", 0)
OTHER = ("customers-changelog", 0)


class Stage:
    """A cluster, two workers in the group, and one thread that does what a test says."""

    def __init__(self, seed: int = 1) -> None:
        self.world = World(seed)
        self.world.workers = [Worker(0), Worker(1)]
        self.lives = [Life(worker) for worker in self.world.workers]
        self.clusters = [SimCluster(self.world, life) for life in self.lives]
        self.assignments: list[Assignment] = []

    def play(self, story: Callable[[], None]) -> None:
        """Run a story to its end; what it asserts is what the test asserts."""
        failed: list[BaseException] = []

        def told() -> None:
            try:
                story()
            except Exception as error:  # noqa: BLE001 (raised again below, outside the scheduler)
                failed.append(error)
            self.world.over = True

        self.world.start(self.lives[0], "story", told)
        self.world.run()
        if failed:
            raise failed[0]

    def join(self) -> Assignment:
        """Let the first worker join, alone."""
        assignment = self.world.group.join(self.lives[0])
        assert assignment is not None
        return assignment

    def records(self, tp: tuple[str, int] = OUT) -> list[bytes | None]:
        """What a read_committed reader sees."""
        return [record.value for record in self.world.log(tp).visible()]

    def settle(self) -> None:
        """Wait until every marker is written."""
        self.world.pause(10.0)


def a_record(value: bytes, tp: tuple[str, int] = OUT) -> Produce:
    return Produce(tp[0], tp[1], b"c1", value)


def in_transaction(producer: SimProducer, *records: Produce) -> None:
    producer.begin()
    for record in records:
        producer.produce(record)
    producer.flush()


def test_a_reader_sees_nothing_of_a_transaction_until_its_marker() -> None:
    log = Log("decisions", 0)
    log.append(b"c1", b"before", 0.0)
    log.append(b"c1", b"inside", 0.0, pid=7)
    log.append(b"c1", b"after", 0.0)

    assert (log.end, log.stable()) == (3, 1)
    assert [record.value for record in log.visible()] == [b"before"]

    log.mark(7, 0, commit=True)

    assert (log.end, log.stable()) == (4, 4)
    assert [record.value for record in log.visible()] == [b"before", b"inside", b"after"]


def test_an_aborted_record_keeps_its_offset_and_is_never_seen() -> None:
    log = Log("decisions", 0)
    log.append(b"c1", b"aborted", 0.0, pid=7)
    log.mark(7, 0, commit=False)
    offset = log.append(b"c1", b"good", 0.0)

    assert offset == 2
    assert [record.offset for record in log.visible()] == [2]


def test_compaction_keeps_the_last_of_every_key_and_stays_below_the_last_stable_offset() -> None:
    log = Log("customers-changelog", 0)
    log.append(b"c1", b"1", 0.0)
    log.append(b"c2", b"1", 0.0)
    log.append(b"c1", b"2", 0.0)
    log.append(b"c2", b"2", 0.0, pid=7)
    log.append(b"c2", b"3", 0.0)

    log.compact(upto=100, now=0.0)

    assert [entry.offset for entry in log.entries] == [1, 2, 3, 4]
    assert log.end == 5


def test_a_tombstone_outlives_its_first_compaction_by_the_retention() -> None:
    log = Log("customers-changelog", 0)
    log.append(b"c1", b"1", 0.0)
    log.append(b"c1", None, 0.0)

    log.compact(upto=2, now=100.0)
    assert [entry.offset for entry in log.entries] == [1]

    log.compact(upto=2, now=100.0 + TOMBSTONES_S - 1)
    assert [entry.offset for entry in log.entries] == [1]

    log.compact(upto=2, now=100.0 + TOMBSTONES_S + 1)
    assert log.entries == []


def test_markers_arrive_after_the_decision_and_partition_by_partition() -> None:
    orders = set()
    for seed in range(40):
        stage = Stage(seed)

        def story(stage: Stage = stage) -> None:
            producer = stage.clusters[0].producer("w0")
            in_transaction(producer, a_record(b"d"), a_record(b"r", OTHER))
            producer.commit()
            stable = (stage.world.log(OUT).stable(), stage.world.log(OTHER).stable())
            while stable == (0, 0):
                stage.world.pause(0.0005)
                stable = (stage.world.log(OUT).stable(), stage.world.log(OTHER).stable())
            orders.add(stable)

        stage.play(story)

    assert {(2, 0), (0, 2)} <= orders


def test_a_new_producer_fences_the_old_one_and_aborts_what_it_left_open() -> None:
    stage = Stage()

    def story() -> None:
        old = stage.clusters[0].producer("w0")
        in_transaction(old, a_record(b"old"))
        new = stage.clusters[1].producer("w0")
        in_transaction(new, a_record(b"new"))
        with pytest.raises(Fenced):
            old.commit()
        new.commit()
        stage.settle()
        assert stage.records() == [b"new"]

    stage.play(story)


def test_a_new_producer_waits_for_the_commit_of_the_old_one() -> None:
    stage = Stage()

    def story() -> None:
        old = stage.clusters[0].producer("w0")
        in_transaction(old, a_record(b"old"))
        old.commit()
        stage.clusters[1].producer("w0")
        assert stage.records() == [b"old"]

    stage.play(story)


def test_a_transaction_left_alone_is_aborted_after_its_timeout() -> None:
    stage = Stage()

    def story() -> None:
        producer = stage.clusters[0].producer("w0")
        in_transaction(producer, a_record(b"d"))
        stage.world.pause(TRANSACTION_S - 1.0)
        assert stage.world.log(OUT).open
        stage.world.pause(SWEEP_S + 2.0)
        assert not stage.world.log(OUT).open
        with pytest.raises(Fenced):
            producer.commit()

    stage.play(story)


def test_a_late_commit_ends_the_next_transaction_of_the_same_epoch() -> None:
    # what the core must guard against: a new producer after every unknown outcome
    caught = 0
    for seed in range(60):
        stage = Stage(seed)

        def story(stage: Stage = stage) -> None:
            nonlocal caught
            producer = stage.clusters[0].producer("w0")
            in_transaction(producer, a_record(b"first"))
            stage.world.workers[0].faults.append(Fault("delayed request", 0, 1, op="commit"))
            with pytest.raises(OutcomeUnknown):
                producer.commit()
            try:
                producer.abort()
                in_transaction(producer, a_record(b"half"))
            except (Aborted, Fenced):
                return
            stage.world.pause(14.0)
            caught += stage.records() == [b"half"]

        stage.play(story)

    assert caught > 0


def test_a_late_commit_of_a_replaced_producer_is_refused() -> None:
    stage = Stage()

    def story() -> None:
        producer = stage.clusters[0].producer("w0")
        in_transaction(producer, a_record(b"first"))
        stage.world.workers[0].faults.append(Fault("lost request", 0, 1, op="commit"))
        with pytest.raises(OutcomeUnknown):
            producer.commit()
        stage.clusters[0].producer("w0")
        with pytest.raises(Fenced):
            stage.world.end_transaction(stage.world.transaction("w0"), 0, commit=True)
        stage.settle()
        assert stage.records() == []

    stage.play(story)


def test_a_lost_reply_leaves_the_effect() -> None:
    stage = Stage()

    def story() -> None:
        producer = stage.clusters[0].producer("w0")
        in_transaction(producer, a_record(b"d"))
        stage.world.workers[0].faults.append(Fault("lost reply", 0, 1, op="commit"))
        with pytest.raises(OutcomeUnknown):
            producer.commit()
        stage.settle()
        assert stage.records() == [b"d"]

    stage.play(story)


def test_offsets_are_pending_until_their_marker_and_the_older_ones_stay_readable() -> None:
    stage = Stage()

    def story() -> None:
        assignment = stage.join()
        cluster = stage.clusters[0]
        producer = cluster.producer("w0")
        producer.begin()
        producer.send_offsets({IN: Committed(5)}, assignment)
        with pytest.raises(NotStable):
            cluster.committed([IN], stable=True)
        assert cluster.committed([IN], stable=False) == {IN: None}
        producer.commit()
        stage.settle()
        assert cluster.committed([IN], stable=True) == {IN: Committed(5)}

    stage.play(story)


def test_the_group_checks_generation_and_member_but_not_who_owns_the_partition() -> None:
    stage = Stage()

    def story() -> None:
        assignment = stage.join()
        cluster = stage.clusters[0]
        for stale, code in (
            (Assignment(assignment.generation - 1, assignment.member, frozenset({0})), "ILLEGAL_GENERATION"),
            (Assignment(assignment.generation, "w0-99", frozenset({0})), "UNKNOWN_MEMBER_ID"),
        ):
            producer = cluster.producer("w0")
            producer.begin()
            with pytest.raises(Aborted, match=code):
                producer.send_offsets({IN: Committed(5)}, stale)
        producer = cluster.producer("w0")
        producer.begin()
        producer.send_offsets({("orders", 77): Committed(5)}, assignment)

    stage.play(story)


def test_a_coordinator_that_has_just_moved_answers_from_before() -> None:
    stage = Stage()

    def story() -> None:
        assignment = stage.join()
        cluster = stage.clusters[0]
        producer = cluster.producer("w0")
        for offset in (5, 6):
            producer.begin()
            producer.send_offsets({IN: Committed(offset)}, assignment)
            producer.commit()
            stage.settle()
        stage.world.down["freshness"] = stage.world.now + 1_000.0
        answers = {cluster.committed([IN], stable=True)[IN] for _ in range(50)}
        assert answers == {Committed(5), Committed(6)}

    stage.play(story)


def test_a_worker_that_stops_answering_leaves_the_group_only_after_its_session() -> None:
    stage = Stage()

    def story() -> None:
        members, stopped = stage.world.group.members, stage.lives[1]
        stage.join()
        stopped.member = "w1-9"
        members["w1-9"] = Member(stopped)
        stage.world.stop_for(stopped, SESSION_S + 5.0)
        stage.world.pause(SESSION_S - 1.0)
        assert "w1-9" in members
        stage.world.pause(2.0)
        assert "w1-9" not in members

    stage.play(story)


def test_a_read_stops_where_an_open_transaction_begins() -> None:
    stage = Stage()

    def story() -> None:
        log = stage.world.log(OUT)
        log.append(b"c1", b"good", 0.0)
        log.append(b"c1", b"open", 0.0, pid=7)
        reading = stage.clusters[0].read(OUT, 0, 2)
        assert [record.value for record in next(reading)] == [b"good"]
        with pytest.raises(NotStable):
            next(reading)

    stage.play(story)


def test_the_dead_have_no_effect() -> None:
    stage = Stage()

    def story() -> None:
        store = SimStore(stage.world, stage.lives[1])
        producer = stage.clusters[1].producer("w1")
        in_transaction(producer, a_record(b"d"))
        condition = SimCondition(stage.world, stage.lives[1])
        stage.world.kill(stage.lives[1])
        for act in (
            producer.commit,
            producer.flush,
            condition.__enter__,
            lambda: store.write(0, {b"c1": b"1"}, LocalPosition({}, 0, "", 0.0)),
        ):
            with pytest.raises(Killed):
                act()
        stage.settle()
        assert stage.records() == []
        assert stage.world.workers[1].disk == {}

    stage.play(story)


def test_a_kill_after_a_store_write_finds_the_rows_on_the_disk() -> None:
    for after, kept in ((False, set()), (True, {0})):
        stage = Stage()

        def story(stage: Stage = stage, after: bool = after) -> None:
            stage.world.workers[0].faults.append(Fault("kill", 0, 1, op="store.write", after=after))
            SimStore(stage.world, stage.lives[0]).write(0, {b"c1": b"1"}, LocalPosition({}, 0, "", 0.0))

        stage.play(story)

        assert set(stage.world.workers[0].disk) == kept


class PlainDesk:
    """Emits and keeps nothing."""

    def decide(
        self, records: Sequence[Record], recall: Recall, watermarks: Watermarks, positions: Positions
    ) -> Effects:
        return Effects()

    def set_aside(self, record: Record, recall: Recall, positions: Positions) -> Effects:
        return Effects()


def test_what_was_not_handed_over_while_held_is_not_taken_for_lost() -> None:
    stage = Stage()
    world, life = stage.world, stage.lives[0]
    for number in range(world.partitions):
        world.log(("orders", number))

    def story() -> None:
        writer = Writer(
            name=life.worker.name,
            roads=(("orders",),),
            changelog="changelog",
            partitions=world.partitions,
            cluster=stage.clusters[0],
            store=SimStore(world, life),
            desk=PlainDesk(),
            clock=SimClock(world, life),
            limits=Limits(idle_s=3.0, behind_s=8.0),
        )
        assignment = stage.join()
        world.start(life, "writer", writer.run)
        writer.mailbox.assign(assignment)
        world.pause(20.0)
        writer.mailbox.hold(True)
        for number in range(world.partitions):
            world.log(("orders", number)).append(b"c1", b"o1", world.now)
        world.pause(20.0)
        writer.mailbox.hold(False)
        records, _ = world.log(("orders", 0)).read(0, 1, 1)
        writer.mailbox.offer(Batch("orders", 0, records, assignment, None))
        world.pause(2.0)
        soon = writer.opened
        world.pause(20.0)
        assert [each["orders"] for each in soon.values()] == [0, 0], "the other may still be handed over"
        assert [each["orders"] for each in writer.opened.values()] == [1, 1]

    stage.play(story)


@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_evicted_does_not_come_back_with_an_old_copy_of_the_rows(
    compacted: bool, tmp_path: Path
) -> None:
    stage = Stage()
    world, life = stage.world, stage.lives[0]
    world.now = 1_900_000_000.0  # orders are not dated ahead of their arrival
    for number in range(world.partitions):
        world.log(("orders", number))
    day = 86_400_000_000

    def work(assignment: Assignment, rows: str, *orders: Order) -> set[bytes]:
        """Open the partitions over the rows of a folder and take some orders; what is left in the end."""
        store = RocksStore(tmp_path / rows)
        writer = Writer(
            name=life.worker.name,
            roads=(("orders",),),
            changelog="changelog",
            partitions=world.partitions,
            cluster=stage.clusters[0],
            store=store,
            desk=Shop(horizons=(horizons := Horizons(rows=10 * day, orders=10 * day))).desk,
            clock=SimClock(world, life),
            limits=Limits(tombstones_s=TOMBSTONES_S / 2, idle_s=3.0),
            horizons=horizons,
        )
        world.start(life, "writer", writer.run)
        writer.mailbox.assign(assignment)
        for order in orders:
            world.log(("orders", 0)).append(order.key.encode(), as_json(order), world.now)
        world.pause(20.0)
        assert writer.opened[0] == {"orders": world.log(("orders", 0)).end}
        writer.stop()
        world.pause(5.0)
        keys = {key for key, _ in store.rows(0)}
        store.close()
        return keys

    def story() -> None:
        assignment = stage.join()
        assert work(assignment, "rows", an_order()) == {b"cc1", b"oo1"}
        shutil.copytree(tmp_path / "rows", tmp_path / "copy")
        later = an_order(order_id="o2", customer_id="c2", placed_at=NOON + timedelta(days=20))
        assert work(assignment, "rows", later) == {b"cc2", b"oo2"}
        if compacted:
            log = world.log(("changelog", 0))
            log.compact(log.end, world.now)
            world.pause(TOMBSTONES_S + 1.0)
            log.compact(log.end, world.now)
        tombstones = [record.key for record in log_of(world) if record.value is None]
        assert tombstones == ([] if compacted else [b"cc1", b"oo1"])

        assert work(assignment, "copy") == {b"cc2", b"oo2"}

    stage.play(story)


def opening(stage: Stage, life: Life, changelog: str, assignment: Assignment) -> tuple[Writer, list[str]]:
    """Let a worker open partitions with a changelog; with why it refuses, once it does."""
    world, said = stage.world, list[str]()
    writer = Writer(
        name=life.worker.name,
        roads=(("orders",),),
        changelog=changelog,
        partitions=world.partitions,
        cluster=SimCluster(world, life),
        store=SimStore(world, life),
        desk=PlainDesk(),
        clock=SimClock(world, life),
        limits=Limits(patience_s=5.0),
    )

    def work() -> None:
        try:
            writer.run()
        except Refused as error:
            said.append(str(error))

    world.start(life, "writer", work)
    writer.mailbox.assign(assignment)
    return writer, said


def opened(stage: Stage, life: Life, changelog: str, *numbers: int) -> str:
    """Have a worker open these partitions with a changelog, and leave again; why it refused, if it did."""
    joined = stage.world.group.join(life)
    assert joined is not None
    writer, said = opening(stage, life, changelog, replace(joined, partitions=frozenset(numbers)))
    stage.world.pause(20.0)
    assert bool(said) is not writer.is_open
    writer.stop()
    stage.world.pause(5.0)
    stage.world.group.remove(life.member)
    return "".join(said)


def rebuilt(stage: Stage, changelog: str, group: str = "") -> None:
    """Leave the position of a rebuild in every partition, at the beginning of all inputs."""
    world = stage.world
    made = encode_position({"orders": 0}, group, rebuilding=Rebuilding("of before", 0, world.partitions))
    for number in range(world.partitions):
        world.log((changelog, number)).append(POSITION_KEY, made, world.now)


def test_old_settings_are_refused_also_in_a_partition_that_the_new_ones_have_not_reached_yet() -> None:
    stage = Stage()

    def story() -> None:
        before, after = stage.lives
        assert not opened(stage, before, "changelog", 0, 1)
        rebuilt(stage, "changelog-2")
        assert not opened(stage, after, "changelog-2", 0)

        assert "with the rows of changelog 'changelog-2'" in opened(stage, before, "changelog", 1)
        assert not opened(stage, after, "changelog-2", 0), "who has begun goes on before the other has come"
        assert not opened(stage, after, "changelog-2", 0, 1)

    stage.play(story)


@pytest.mark.parametrize("seed", range(40))
def test_of_old_and_new_settings_that_are_started_at_once_both_never_go_on(seed: int) -> None:
    stage = Stage(seed)

    def story() -> None:
        before, after = stage.lives
        assert not opened(stage, before, "changelog", 0, 1)
        rebuilt(stage, "changelog-2")
        joined = stage.join()
        new, _ = opening(stage, after, "changelog-2", replace(joined, partitions=frozenset({0})))
        old, _ = opening(stage, before, "changelog", replace(joined, partitions=frozenset({1})))
        stage.world.pause(20.0)

        assert not (old.is_open and new.is_open)

    stage.play(story)


def test_half_made_rows_are_not_served_by_who_read_them_before_a_rebuild_was_killed() -> None:
    stage = Stage()

    def story() -> None:
        before, after = stage.lives
        assert not opened(stage, before, "changelog", 0, 1)
        rebuilt(stage, "changelog-2", BEING_REBUILT)
        assert "is being rebuilt and not complete" in opened(stage, after, "changelog-2", 0)
        log = stage.world.log(("changelog-2", 0))
        log.append(b"c1", b"1", stage.world.now, pid=7)
        log.mark(7, 0, commit=False)

        assert "is being rebuilt and not complete" in opened(stage, after, "changelog-2", 0)

    stage.play(story)


def log_of(world: World) -> list[Record]:
    return world.log(("changelog", 0)).visible()


def test_the_same_seed_tells_the_same_story() -> None:
    first, again = run(4711, trace=True), run(4711, trace=True)

    assert first.world.trace == again.world.trace
    assert first.world.trace


def test_a_poison_order_is_set_aside_after_few_crashes() -> None:
    poisoned = [s for s in map(run, range(200)) if s.poison is not None and s.crashes]

    assert poisoned
    for schedule in poisoned:
        assert schedule.crashes <= MOST_CRASHES
        assert schedule.poison in schedule.set_aside


def test_every_kind_of_fault_strikes_now_and_then() -> None:
    struck = Counter(kind for seed in range(400) for kind in run(seed).world.struck)

    never = [
        kind
        for kind in (
            "kill", "pause", "stall", "stop", "wipe", "gone", "absence", "lost request", "lost reply",
            "delayed request", "refusal", "rebalance", "compaction", "batch lost by Faust",
            "batch handed over late", "poison order", "namesake", "second input", "publisher's abort",
            "publisher's death", "all workers paused", "group answers older offsets",
            "group answers that nothing was committed",
        )
        if not struck[kind]
    ]  # fmt: skip
    assert never == []


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_schedule_of_faults_breaks_the_promise(first: int) -> None:
    broken = [tell(s) for s in map(run, range(first, first + 100)) if s.world.violations]

    assert broken == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_known_mistake_is_found(mutant: Mutant) -> None:
    needed, _ = kill(mutant)

    assert needed is not None
