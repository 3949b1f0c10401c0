"""Switches from changelog to changelog where orders go through stages, with everybody killed on the way.

Two workers decide while a shop goes on sending. Again and again their rows are made anew for other
settings: one more entity, another order of them, another `row_limit`. The rebuild is killed while it
follows them, in the drain and at the switch, and so are workers, old and new; a pause is lifted before its
time, and a worker with the old settings is started behind the switch. After each kill of a rebuild, rows that
are called complete have to be those of a plain replay up to where they say that they go; in the end all rows,
and each order decided once, a resend with what was decided first.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from features.define import Feature
from features.events import Order, OrderEvent, Outcome
from features.replay import Replay
from stream.kafka import KafkaCluster, once_it_answers
from stream.keeping import row_key
from stream.ports import Committed
from stream.settings import Settings
from stream.writer import POSITION_KEY, Owner, Position, decode_position, rebuilds
from tests.faults import on_the_road
from tests.faults.stage import (
    OUR_WORKER,
    Fleet,
    Publisher,
    StageError,
    high,
    is_there,
    make_topics,
    read_all,
    running_broker,
    temporary_home,
)
from tests.running import environment, send

PARTITIONS: Final = 4
WORKERS: Final = ("w1", "w2")
RATE: Final = 40.0
ROADS: Final = (("device", "merchant"), ("merchant", "device"))
"""What is switched to in turn, after `device` alone."""
ROW_LIMITS: Final = (4_096, 2_048)
"""Either holds every order of a run: which ones are folded depends on how two homes overtake each other."""
WITHIN_S: Final = 120.0
LONGEST_S: Final = 2.5
"""How long after it first wrote a run is killed at the latest."""

Rows = dict[bytes, bytes]


@dataclass
class Seen:
    """What became of it."""

    kills_of_rebuilds: int = 0
    kills_of_workers: int = 0
    pauses_lifted: int = 0
    switches: int = 0
    complete: int = 0
    """How often rows that were called complete were held against a replay."""
    old_refused: int = 0
    rows_wrong: int = 0
    rows: int = 0
    orders: int = 0
    decisions_missing: int = 0
    decisions_repeated: int = 0
    resends_wrong: int = 0

    def figures(self) -> dict[str, int]:
        """As they are recorded."""
        return {
            "kills of a rebuild": self.kills_of_rebuilds,
            "kills of workers": self.kills_of_workers,
            "pauses lifted before the switch": self.pauses_lifted,
            "switches": self.switches,
            "workers of before refused after it": self.old_refused,
            "complete rows held against a replay": self.complete,
            "rows wrong": self.rows_wrong,
            "rows in the end": self.rows,
            "orders answered": self.orders,
            "answers missing": self.decisions_missing,
            "answers repeated": self.decisions_repeated,
            "resends answered otherwise": self.resends_wrong,
        }

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not (
            self.rows_wrong or self.decisions_missing or self.decisions_repeated or self.resends_wrong
        )


# --- what should be -------------------------------------------------------------------------------


def replayed(settings: Settings, upto: Mapping[int, Mapping[str, int]] | None = None) -> Rows:
    """The rows of a plain replay of what came in, by partition and topic up to an offset; or of all of it."""
    past = Replay(lambda *_: None, row_limit=settings.row_limit, entities=("customer", *settings.entities))
    reads: dict[str, Callable[[bytes], Order | Outcome | OrderEvent]] = {
        settings.topics.outcomes: Outcome.model_validate_json,
        settings.topics.order_events: OrderEvent.model_validate_json,
        settings.topics.orders: Order.model_validate_json,
    }
    logs = {topic: on_the_road.read_by_partition(settings, topic) for topic in reads}
    named: dict[bytes, tuple[str, str]] = {}
    for number in range(settings.partitions):
        came = [
            each
            for topic, log in logs.items()
            for each in log[number]
            if upto is None or each.offset < upto[number].get(topic, 0)
        ]
        for record in sorted(came, key=lambda each: each.timestamp):
            try:
                event = reads[record.topic](record.value or b"")
            except ValidationError:
                continue
            if isinstance(event, Order):
                if event.placed_at.year > 3_000:  # refused, as from too far ahead
                    continue
                for entity in ("customer", *settings.entities):
                    if (each := getattr(event, f"{entity}_id")) is not None:
                        named[row_key(entity, each)] = (entity, each)
            past.follow(event)
    return {key: row.encode() for key, each in named.items() if len(row := past.row(*each))}


def rows_in(settings: Settings) -> tuple[Rows, dict[int, Position]]:
    """What the settings' changelog comes to: rows, and the last position of each partition."""
    rows: Rows = {}
    positions: dict[int, Position] = {}
    of_rows = b"cdm"
    if not is_there(settings, settings.topics.changelog):
        return rows, positions
    for each in read_all(settings, settings.topics.changelog, settings.partitions, within_s=60):
        if each.key == POSITION_KEY:
            positions[each.partition] = decode_position(each.value or b"")
        elif each.key is None or each.key[:1] not in of_rows:
            continue
        elif each.value is None:
            rows.pop(each.key, None)
        else:
            rows[each.key] = each.value
    return rows, positions


def differing(found: Rows, expected: Rows) -> list[bytes]:
    """The keys of rows that are not the same."""
    return sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))


# --- a run ----------------------------------------------------------------------------------------


def step(settings: Settings, number: int) -> Settings:
    """The settings after so many switches."""
    topics = settings.topics.model_copy(update={"changelog": f"histories-changelog-{number}"})
    entities = ROADS[(number - 1) % len(ROADS)] if number else ("device",)
    return settings.model_copy(
        update={
            "topics": topics,
            "entities": entities,
            "row_limit": ROW_LIMITS[number // 2 % 2],
            "home": settings.home / str(number),
        }
    )


def publish_model(settings: Settings) -> None:
    """A model that asks for the entities there are."""

    def is_of(feature: Feature) -> bool:
        return not feature.name.startswith("by_") or feature.name.split("_")[1] in settings.entities

    on_the_road.publish_model(settings, [each for each in on_the_road.ASKED if is_of(each)])


@dataclass
class Making:
    """A rebuild's process: started, killed and started again."""

    settings: Settings
    source: str
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    begun_at: int = 0

    def begin(self) -> None:
        """Start it."""
        self.begun_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream.cli", "rebuild", "start", "--from", self.source],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": sys.path[0], **environment(self.settings)},
                stdout=out,
                stderr=out,
            )

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    def said(self) -> str:
        """What it said since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self.begun_at)
            return log.read().decode()

    def is_complete_in_pause(self, since: int) -> bool:
        """Whether it said so behind what it had said, and not that a pause is needed first."""
        _, is_said, behind = self.said()[since:].rpartition("is complete up to")
        return bool(is_said) and "once more" not in behind

    def kill(self) -> bool:
        """End it at once; whether it still ran."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True


@dataclass
class Run:
    """One shop, from switch to switch."""

    first: Settings
    publisher: Publisher
    chance: random.Random
    folder: Path
    seen: Seen = field(default_factory=Seen)
    now: Settings = field(init=False)
    fleet: Fleet = field(init=False)
    making: Making | None = None
    old: "subprocess.Popen[bytes] | None" = None
    is_over: bool = True
    """Whether workers may have taken over what is made: a rebuild that is started then says so, and ends."""

    def __post_init__(self) -> None:
        self.now = self.first
        self.fleet = Fleet(OUR_WORKER, self.environment, self.folder, WORKERS, self.chance)

    def environment(self, worker: str) -> Mapping[str, str]:
        """What a worker that is started now is told."""
        return {
            "PATH": os.environ["PATH"],
            **environment(self.now.model_copy(update={"worker": worker})),
        }

    def wait(self, until: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
        """Look after the workers until something holds."""
        deadline = time.monotonic() + within_s
        while not until():
            if time.monotonic() > deadline:
                raise StageError(f"not within {within_s:g} s: {what}")
            if self.publisher.failure is not None:
                raise StageError("the shop failed") from self.publisher.failure
            if self.making is not None and (self.making.ended or 0) > 0 and not self.is_over:
                raise StageError(f"a rebuild ended: {self.making.said()[-2_000:]}")
            self.fleet.tick()
            time.sleep(0.05)

    def lasts(self, seconds: float) -> None:
        """Let them go on for so long."""
        deadline = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > deadline, "time")

    def kill_a_worker(self) -> None:
        """Kill one that lives."""
        living = [worker.name for worker in self.fleet.workers.values() if worker.lives]
        if living:
            self.fleet.kill(self.chance.choice(living))
            self.seen.kills_of_workers += 1

    def kill_rebuild(self, *, after_writing: bool) -> None:
        """Kill it a little later; what it calls complete by then has to be."""
        making = self.making
        assert making is not None
        if after_writing:
            before = self.reached(making.settings)
            self.wait(lambda: making.ended is not None or self.reached(making.settings) != before, "writes")
        self.lasts(self.chance.uniform(0.0, LONGEST_S))
        self.seen.kills_of_rebuilds += making.kill()
        self.check(making.settings)

    def reached(self, settings: Settings) -> list[int]:
        """How long each partition of its changelog is."""
        there = is_there(settings, settings.topics.changelog)
        return [
            high(settings, (settings.topics.changelog, n)) if there else 0 for n in range(settings.partitions)
        ]

    def check(self, settings: Settings) -> None:
        """Hold the rows against a replay where a rebuild calls all of them complete."""
        with closing(KafkaCluster(settings, quiet=True)) as cluster:
            # ends what the killed one left open, as the next would
            once_it_answers(cluster.producer, rebuilds(settings.topics.changelog)).close()
        rows, positions = rows_in(settings)
        made = len(positions) == settings.partitions and all(
            each.rebuilding is not None and not each.is_partial for each in positions.values()
        )
        if made:
            upto = {number: position.inputs for number, position in positions.items()}
            wrong = differing(rows, replayed(settings, upto))
            self.seen.complete += 1
            self.seen.rows_wrong += len(wrong)
            if wrong:
                print(f"wrong: {wrong[:20]}", flush=True)

    def switch(self, after: Settings) -> None:
        """Rows made anew, a drain, other workers."""
        chance, seen, before = self.chance, self.seen, self.now
        make_topics(after)
        publish_model(after)
        self.making = making = Making(after, before.topics.changelog, self.folder / "rebuild.log")
        self.is_over = False
        for _ in range(2):
            making.begin()
            self.kill_rebuild(after_writing=True)
            if chance.random() < 0.5:
                self.kill_a_worker()
        making.begin()
        self.wait(lambda: "follows the workers" in making.said() or "is complete" in making.said(), "made")
        while True:
            since = len(making.said())
            self.command("pause", "--drain", "--why", "rows are made anew")
            if chance.random() < 0.6:
                self.lasts(chance.uniform(0, 1.5))
                self.kill_a_worker()
            if chance.random() < 0.7:
                self.kill_rebuild(after_writing=False)
                making.begin()
                since = 0
            self.wait(partial(making.is_complete_in_pause, since), "complete")
            if chance.random() < 0.6:
                break
            self.command("resume")
            seen.pauses_lifted += 1
            self.lasts(chance.uniform(0, 3))
        self.now, self.is_over = after, True
        killed = chance.random() < 0.5
        for worker in self.fleet.workers.values():
            if worker.process is None or worker.process.poll() is not None:
                worker.start_at = time.monotonic()
            elif killed:
                self.fleet.kill(worker.name)
                seen.kills_of_workers += 1
            else:
                self.fleet.restart(worker.name)
            self.lasts(chance.choice((0.0, 0.0, chance.uniform(0, 3))))
        if chance.random() < 0.7:
            self.kill_rebuild(after_writing=False)
            making.begin()
        if chance.random() < 0.5:
            self.lasts(chance.uniform(0, 5))
            self.kill_a_worker()
        self.wait(lambda: self.is_taken_over(after), "taken over")
        self.wait(lambda: making.ended is not None, "the rebuild ends")
        seen.switches += 1
        self.start_old(before)
        self.command("resume")
        self.lasts(chance.uniform(0, 4))
        if chance.random() < 0.5:
            self.kill_a_worker()
        self.see_old_refused()
        at = self.committed(after, after.topics.orders)
        self.wait(lambda: self.committed(after, after.topics.orders) != at, "orders are decided again")
        print(json.dumps(seen.figures()), flush=True)

    def committed(self, settings: Settings, topic: str) -> dict[int, Committed]:
        """The group's offsets of an input, with what their owners left."""
        tps = [(topic, number) for number in range(settings.partitions)]
        with closing(KafkaCluster(settings, quiet=True)) as cluster:
            found = once_it_answers(cluster.committed, tps, stable=False)
        return {tp[1]: each for tp, each in found.items() if each is not None}

    def is_taken_over(self, settings: Settings) -> bool:
        """Whether every offset goes with this changelog."""
        said = [
            Owner.of(each).changelog for t in settings.inputs for each in self.committed(settings, t).values()
        ]
        return len(said) == settings.partitions * len(settings.inputs) and set(said) == {
            settings.topics.changelog
        }

    def start_old(self, settings: Settings) -> None:
        """As a service manager does that was forgotten."""
        with (self.folder / "old.log").open("ab") as log:
            self.old = subprocess.Popen(
                OUR_WORKER,
                env={
                    "PATH": os.environ["PATH"],
                    **environment(settings.model_copy(update={"worker": "old"})),
                },
                stdout=log,
                stderr=log,
            )

    def see_old_refused(self) -> None:
        """It has to end by itself."""
        old = self.old
        if old is None:
            return
        self.wait(lambda: old.poll() is not None, "a worker of before is refused")
        if old.returncode != 1:
            raise StageError(f"a worker of before ended with {old.returncode}")
        self.old = None
        self.seen.old_refused += 1

    def command(self, *words: str) -> None:
        """A command of the program that goes well."""
        ended = subprocess.run(
            [sys.executable, "-m", "stream.cli", *words],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": sys.path[0], **environment(self.now)},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise StageError(ended.stderr)

    def is_all_taken(self) -> bool:
        """Whether the group has committed all that there is, give or take a marker."""
        settings = self.now
        for topic in settings.inputs:
            done = self.committed(settings, topic)
            is_a_stage = topic in settings.stages.values()
            for number in range(settings.partitions):
                if (done[number].offset if number in done else 0) < high(
                    settings, (topic, number)
                ) - is_a_stage:
                    return False
        return True

    def finish(self) -> None:
        """Have the rest decided, and some once more, and look at what is there."""
        self.publisher.enough()
        self.publisher.join(30)
        self.wait(self.is_all_taken, "all is decided")
        orders = list(read_all(self.now, self.now.topics.orders, PARTITIONS))
        send(self.now, [(each.key, each.value) for each in orders[:: max(1, len(orders) // 1_000)]])
        self.wait(self.is_all_taken, "what was sent again is decided")
        self.lasts(1.0)
        self.fleet.stop()
        rows, _ = rows_in(self.now)
        self.seen.rows = len(rows)
        self.seen.rows_wrong += len(wrong := differing(rows, replayed(self.now)))
        if wrong:
            print(f"wrong: {wrong[:20]}", flush=True)
        self.count_answers()

    def count_answers(self) -> None:
        """Each order has one answer, and a resend the first."""
        seen, topics = self.seen, self.now.topics
        asked = {(each.partition, each.offset) for each in read_all(self.now, topics.orders, PARTITIONS)}
        rejected: Counter[tuple[int, int]] = Counter()
        for record in read_all(self.now, topics.rejected, PARTITIONS):
            headers = dict(record.headers)
            if headers["source_topic"].decode() == topics.orders:
                rejected[int(headers["source_partition"]), int(headers["source_offset"])] += 1
        decided: Counter[tuple[int, int]] = Counter()
        first: dict[tuple[str, int], list[str]] = {}
        again: list[dict[str, Any]] = []
        for record in read_all(self.now, topics.decisions, PARTITIONS):
            decision = json.loads(record.value or b"null")
            source = decision["source"]["partition"], decision["source"]["offset"]
            decided[source] += 1
            if source in rejected:
                continue  # that it was: not what was decided about the order of this name
            if decision["repeat_of"] is None:
                named = decision["order_id"], decision["revision"]
                first.setdefault(named, []).append(decision["decision_id"])
            else:
                again.append(decision)
        twice = [source for each in (decided, rejected) for source, count in each.items() if count > 1]
        anew = {named: ids for named, ids in first.items() if len(ids) > 1}
        otherwise = [
            each
            for each in again
            if each["repeat_of"] not in first.get((each["order_id"], each["revision"]), [None])[:1]
        ]
        seen.orders = len(asked)
        seen.decisions_missing = len(asked - decided.keys() - rejected.keys())
        seen.decisions_repeated = len(twice) + len(anew)
        seen.resends_wrong = len(otherwise)
        for wrong in (twice, list(anew.items()), otherwise):
            if wrong:
                print(f"{len(wrong)} wrong, such as {wrong[:3]}", flush=True)

    def close(self) -> None:
        """End what was started."""
        self.publisher.abandon()
        self.fleet.kill_all()
        if self.making is not None:
            self.making.kill()
        if self.old is not None:
            self.old.kill()
            self.old.wait()


def run(seed: int, kills: int, seconds: float) -> Seen:
    """Switch until so many were killed, or for so long; what was seen."""
    chance = random.Random(seed)
    with temporary_home("switches") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=PARTITIONS,
            group="shop",
            session_s=6.0,
            transaction_s=5.0,
            patience_s=10.0,
        )
        first = step(settings, 0)
        make_topics(first)
        publish_model(first)
        said = on_the_road.said(first, seed)
        publisher = Publisher(first, said, rate=RATE, at_least=0)
        play = Run(first, publisher, chance, home / "logs")
        began = time.monotonic()
        try:
            play.fleet.start()
            publisher.start()
            play.wait(
                lambda: len(play.committed(first, first.topics.orders)) == PARTITIONS,
                "the first workers decide",
            )
            number = 0
            while play.seen.kills_of_rebuilds < kills and time.monotonic() - began < seconds:
                number += 1
                play.switch(step(settings, number))
            play.finish()
        finally:
            play.close()
        return play.seen
