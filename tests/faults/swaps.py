"""Models that change while workers are killed: who moves them, and what must be true of it afterwards."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from models.registry import Registry
from stream.control import ControlState
from stream.deploying import AlreadySo, Mover, Who, kill
from stream.ports import Record
from stream.service import EVERYWHERE, KILL_OFF, KILL_ON, PROMOTED, ROLLED_BACK
from stream.settings import Settings
from tests.faults import on_the_road
from tests.faults.stage import read_all
from tests.versions import publish_versions

WHO: Final = Who("chaos", "to see what comes of it")
VERSIONS: Final = 8
EVERY_S: Final = 2.0
"""So often, on average, models are moved."""
TAKEN_UP_S: Final = 5.0
"""So long after a move every worker that lives decides under it."""


class Swaps(threading.Thread):
    """Promotes, rolls back, and throws the kill switch, until told to end; then a last model is champion."""

    def __init__(self, settings: Settings, models: Sequence[str], chance: random.Random) -> None:
        super().__init__(name="swaps", daemon=True)
        self.moves = Counter[str]()
        self.failure: BaseException | None = None
        self._settings = settings
        self._models = models
        self._chance = chance
        self._ends = threading.Event()

    def end(self) -> None:
        """Make the last move, and wait until it is made."""
        self._ends.set()
        self.join(60.0)

    def run(self) -> None:
        try:
            registry = Registry(self._settings.home / "models", entities=self._settings.entities)
            with Mover(self._settings, registry, slowest_us=1e6) as mover:
                self._move_on(mover)
        except BaseException as failure:  # noqa: BLE001 (the harness raises it in its own thread)
            self.failure = failure

    def _move_on(self, mover: Mover) -> None:
        champions: list[str] = []
        number = 0
        while not self._ends.wait(self._chance.uniform(0.0, 2 * EVERY_S)):
            word = self._chance.random()
            if word < 0.15:
                _, is_new = kill(self._settings, self._chance.choice(("review", "approve")), WHO)
                self.moves[KILL_ON] += is_new
                self._ends.wait(self._chance.uniform(0.5, EVERY_S))
                kill(self._settings, None, WHO)
                self.moves[KILL_OFF] += 1
            elif word < 0.4 and len(champions) > 1:
                mover.roll_back(champions.pop(), WHO)
                self.moves[ROLLED_BACK] += 1
            else:
                champions += self._promote(mover, number)
                number += 1
        self._promote(mover, number)

    def _promote(self, mover: Mover, number: int) -> list[str]:
        model = self._models[number % len(self._models)]
        try:
            mover.promote(model, WHO)
        except AlreadySo:  # rollbacks have led back to it
            return []
        self.moves[PROMOTED] += 1
        return [model]


def publish_models(settings: Settings) -> list[str]:
    """Some versions of four kinds, `name@version` each; where there are stages, not all ask the same."""
    if not settings.entities:
        return publish_versions(settings, VERSIONS)
    asked = (on_the_road.ASKED, on_the_road.ASKED_LESS)
    return publish_versions(settings, VERSIONS, past=on_the_road.a_past(), asked=asked)


def states_of(settings: Settings) -> dict[int, ControlState]:
    """By the control offset that a decision names, the state that it was made under."""
    state = ControlState(settings.group)
    states = {0: state}
    for record in read_all(settings, settings.topics.control, 1):
        state = state.after(record)
        states[state.next_offset] = state
    return states


def control_offsets(settings: Settings, decisions: Iterable[Record]) -> dict[int, dict[int, int]]:
    """By partition and offset of an order, how far control was read when it was decided."""
    found: dict[int, dict[int, int]] = {}
    for record in decisions:
        source = json.loads(record.value or b"null")["source"]
        found.setdefault(record.partition, {})[source["offset"]] = source["others"][settings.topics.control]
    return found


def under_recorded_states(settings: Settings) -> Callable[[Record], ControlState]:
    """The state that each order was decided under; of one without a decision, that of the order before.

    Of what came to a stage it is the newest: its home has written into the message which one counts.
    """
    states = states_of(settings)
    newest = states[max(states)]
    decisions = read_all(settings, settings.topics.decisions, settings.partitions)
    offsets = control_offsets(settings, decisions)
    last: dict[int, int] = {}

    def state(record: Record) -> ControlState:
        if record.topic in settings.stages.values():
            return newest
        before = last.get(record.partition, 0)
        if record.topic == settings.topics.orders:
            before = offsets.get(record.partition, {}).get(record.offset, before)
        last[record.partition] = before
        return states[before]

    return state


def violations(
    settings: Settings, decisions: Sequence[Record], *, workers: Sequence[str], moved_at: float
) -> dict[str, tuple[object, ...]]:
    """What is wrong about who decided: `moved_at` is when the last move was in force, in s since 1970."""
    found: dict[str, tuple[object, ...]] = {}
    back = switched_back(control_offsets(settings, decisions))
    if back:
        found["switches that are not at one offset of a partition"] = back
    states = states_of(settings)
    newest = states[max(states)]
    champion = newest.service.champion(EVERYWHERE)
    late: dict[str, set[tuple[int, str | None]]] = {name: set() for name in workers}
    for record in decisions:
        headers = dict(record.headers)
        if int(headers["order_arrived_at"]) / 1000 < moved_at + TAKEN_UP_S:
            continue
        told = json.loads(record.value or b"null")
        if told["repeat_of"] is None and told["model"] is not None:
            model = f"{told['model']['name']}@{told['model']['version']}"
            control = told["source"]["others"][settings.topics.control]
            late[headers["worker"].decode()].add((control, model))
    wanted = {(newest.next_offset, None if champion is None else champion.said)}
    apart = tuple((name, sorted(map(str, served))) for name, served in late.items() if served != wanted)
    if apart:
        found["workers that do not serve what was moved last"] = apart
    return found


def switched_back(offsets: Mapping[int, Mapping[int, int]]) -> tuple[tuple[int, int], ...]:
    """Partition and offset of each order decided under less of control than the one before it."""
    found = []
    for partition, of_orders in offsets.items():
        read = 0
        for order, control in sorted(of_orders.items()):
            if control < read:
                found.append((partition, order))
            read = control
    return tuple(found)
