"""The desk: what a batch of records changes and emits, as a value; nothing has happened yet.

An order's way through it: at home (`stream.home`) it is decoded, its customer recalled, its features
computed, and it is remembered; then it goes through the stage of each other entity in service
(`stream.stage`). What has come to the end of its way is scored at once and decided order by order
(`stream.answers`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import compress
from types import MappingProxyType
from typing import Final, NamedTuple

from features.decode import Identity, Rejection, identity_in
from features.history import RowVersionError
from models.policy import Policy
from models.scorer import Scored, Scorer
from stream.answers import Answers, Asked, Kept, Pending, Rejected, Verdict, kept_of, shorten
from stream.control import ControlState
from stream.decoder import CONTRACT, Decoder
from stream.drift_gauges import DriftGauges
from stream.home import AtHome, source_of
from stream.keeping import FOR_EVER, Horizons, customer_key, order_key
from stream.overlay import Overlay
from stream.panel import Judge, Panel, Panels
from stream.ports import (
    NO_POSITIONS,
    NO_WATERMARKS,
    Effects,
    Headers,
    Positions,
    Recall,
    Record,
    Refused,
    Unreachable,
    Watermarks,
)
from stream.road import (
    MODE,
    Home,
    Passing,
    PassingBytesError,
    PassingVersionError,
    Road,
    is_history,
    partition_of,
)
from stream.service import NOBODY
from stream.settings import Topics
from stream.stage import AtStage, asked_in
from stream.version import program_version

__all__ = [
    "KINDS",
    "MODE",
    "Kept",
    "ScoringDesk",
    "customer_key",
    "is_history",
    "kept_of",
    "order_key",
    "partition_of",
    "shorten",
]

KINDS: Final = ("approximate", "guest", "late", "revised", "revised_folded", "test")
"""What an order may be besides decided, remembered or rejected (docs/history.md); counted as `orders_<kind>`.
"""

_RECENT: Final = 1_000

_SCORER_ERROR: Final = "deciding this order stopped the worker repeatedly; report it with this record"


_Shadow = tuple[Judge, Sequence[float | None], Scored]


class _Scores(NamedTuple):
    """What models said of a batch."""

    verdicts: Sequence[Verdict]
    shadows: Sequence[Sequence[_Shadow]]
    placed_at: datetime
    """When the last of its orders was placed."""

    def by_model(self) -> Mapping[str, Sequence[Scored]]:
        """By `name@version`."""
        by_judge: dict[Judge, list[Scored]] = {}
        for judge, _, scored, _ in self.verdicts:
            if judge is not None and scored is not None:
                by_judge.setdefault(judge, []).append(scored)
        for beside in self.shadows:
            for judge, _, scored in beside:
                by_judge.setdefault(judge, []).append(scored)
        said: dict[str, list[Scored]] = {}
        for judge, scores in by_judge.items():
            said.setdefault(judge.said, []).extend(scores)
        return said


class ScoringDesk:
    """Decides batches with the models in service; pure but for the rows it recalls and the models it asks."""

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        policy: Policy | None = None,
        panels: Panels | None = None,
        topics: Topics,
        partitions: int,
        row_limit: int,
        ahead_by_at_most: timedelta,
        reject_share: float,
        headers: Headers,
        stages: Mapping[str, str] = MappingProxyType({}),
        in_force: Callable[[], ControlState] | None = None,
        observe: bool = False,
        decoder: Decoder = CONTRACT,
        horizons: Horizons = FOR_EVER,
        drift: DriftGauges | None = None,
    ) -> None:
        """Decide under the control state that `in_force` answers at the beginning of each batch.

        `panels` give the models in service at each state; without them `scorer` and `policy` decide,
        whatever was said of others.

        `stages` are the topics of the road by their entities, in its order. `observe` is the mode of a group
        for which nothing was recorded. Without `in_force` there is no control topic. `drift` counts what
        models say.
        """
        self._drift = drift
        self._in_force = in_force
        self._observe = observe
        self._decoder = decoder
        self._scorer = scorer
        self._topics = topics
        self._row_limit = row_limit
        self._horizons = horizons
        self._reject_share = reject_share
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        """Whether each of the last live records was rejected; of committed batches only."""
        self._state: ControlState | None = None
        """The control state in force since it was last looked at."""
        self._road = road = Road(stages, partitions)
        self._panels = panels or Panels(scorer=scorer, policy=policy, entities=road.entities)
        self._panel = self._panels.of(NOBODY)
        """Of the models in service in this batch."""
        self._answers = answers = Answers(topics=topics, headers=headers)
        self._home = AtHome(
            answers=answers,
            road=road,
            topics=topics,
            partitions=partitions,
            decoder=decoder,
            ahead_by_at_most=ahead_by_at_most,
        )
        self._stages = {
            topic: AtStage(entity, road=road, panel=self._panel_of) for entity, topic in stages.items()
        }

    @property
    def share_rejected(self) -> float:
        """The share of the last 1,000 live orders that was rejected; any thread may ask."""
        recent = list(self._recent)
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def said(self) -> str:
        """`name@version` of the model that decides what no narrower scope has; any thread may ask."""
        ref = self._panel_now().ref
        return "none" if ref is None else f"{ref.name}@{ref.version}"

    def identity(self) -> Mapping[str, str]:
        """What decides what no narrower scope has, as metrics tell it; any thread may ask."""
        panel = self._panel_now()
        return {
            "version": program_version(),
            "model": "" if panel.ref is None else panel.ref.name,
            "model_version": "" if panel.ref is None else panel.ref.version,
            "model_digest": "" if panel.ref is None else panel.ref.digest,
            "policy": panel.policy.digest,
        }

    def _panel_now(self) -> Panel:
        return self._panel if self._in_force is None else self._panels.of(self._in_force().service)

    @property
    def observing(self) -> bool:
        """Whether the next batch is decided into the shadow; any thread may ask."""
        return self._observes(None if self._in_force is None else self._in_force())

    def decide(
        self,
        records: Sequence[Record],
        recall: Recall,
        watermarks: Watermarks = NO_WATERMARKS,
        positions: Positions = NO_POSITIONS,
    ) -> Effects:
        """What these records change and emit; trying it again changes nothing and says the same.

        Raises Refused when a row, a message or a control record is of a newer version; the effects do, once
        committed, when rejects flood; anything else is a mistake of ours.
        """
        self._look_at_control()
        overlay = self._overlay(recall, watermarks, positions)
        observing = self._observes(self._state)
        # one entry a record, in log order: decisions come out in the order the orders went in
        try:
            taken = [self._take(record, overlay, observing=observing) for record in records]
        except (RowVersionError, PassingVersionError) as error:
            # no fault of the order's: setting it aside would lose it to the version that can read the row
            raise Refused(str(error)) from error
        # whatever is not said: about a past that was accepted, and what goes on to the next stage
        said = [(record, answer) for record, answer in zip(records, taken, strict=True) if answer is not None]
        scored = self._answer(said, overlay.effects)
        tally = [
            isinstance(answer, Rejected)
            for record, answer in zip(records, taken, strict=True)
            if record.topic == self._topics.orders and not is_history(record)
        ]
        overlay.effects.committed = partial(self._committed, tally, scored)
        return overlay.done()

    def _take(self, record: Record, overlay: Overlay, *, observing: bool) -> Pending | Rejected | None:
        """Take a record where it has come in: at home, or at a stage of the road."""
        if record.topic == self._topics.orders:
            answer = self._home.take(record, overlay, panel=self._panel, observing=observing)
            if not isinstance(answer, Rejection):
                return answer
            # what is only to be remembered is never reviewed: nobody waits for a decision about the past
            if is_history(record):
                return Rejected(answer, None)
            return Rejected(answer, Asked(source_of(record, overlay), record.timestamp, observing))
        stage = self._stages.get(record.topic)
        answer = self._home.hear(record, overlay) if stage is None else stage.take(record, overlay)
        return Rejected(answer, None) if isinstance(answer, Rejection) else answer

    def _answer(self, said: Sequence[tuple[Record, Pending | Rejected]], effects: Effects) -> _Scores | None:
        """Score what is to be scored, all at once, and emit what there is to say about each record."""
        pending = [answer for _, answer in said if isinstance(answer, Pending) and answer.vector is not None]
        of_all, beside = _verdicts(pending), _shadows(pending)
        verdicts, shadows = iter(of_all), iter(beside)
        for record, answer in said:
            if isinstance(answer, Rejected):
                self._answers.reject(record, answer, self._panel.policy, effects)
            elif answer.vector is None:
                self._answers.repeat(answer, effects)
            else:
                self._answers.decide(answer, next(verdicts), effects)
                for judge, vector, scored in next(shadows):
                    self._answers.shadow(answer, judge, vector, scored, effects)
        return _Scores(of_all, beside, pending[-1].order.placed_at) if pending else None

    def set_aside(self, record: Record, recall: Recall, positions: Positions = NO_POSITIONS) -> Effects:
        """Dead-letter a record that stopped the worker again and again, with a REVIEW decision."""
        self._look_at_control()
        # nothing is recalled: its rows may be the cause
        overlay = self._overlay(recall, NO_WATERMARKS, positions)
        asked: Asked | None = None
        if record.topic == self._topics.orders:
            named = self._decoder.identity(record.value)
            if not is_history(record):
                source = source_of(record, overlay)
                asked = Asked(source, record.timestamp, self._observes(self._state))
        elif record.topic in self._stages:
            named, asked = _on_the_road(record)
        else:
            named = identity_in(record.value)
        why = Rejection("scorer_error", _SCORER_ERROR, *named)
        self._answers.reject(record, Rejected(why, asked), self._panel.policy, overlay.effects)
        return overlay.effects

    def _overlay(self, recall: Recall, watermarks: Watermarks, positions: Positions) -> Overlay:
        state, topics = self._state, self._topics
        return Overlay(
            recall,
            self._row_limit,
            self._horizons,
            watermarks,
            positions=positions,
            read={} if state is None else {topics.control: state.next_offset},
            beside=(topics.outcomes, topics.order_events),
            entities=self._road.entities,
        )

    def _look_at_control(self) -> None:
        """Take on what is in force now; between batches, so that one batch is decided under one state."""
        if self._in_force is not None and (state := self._in_force()) is not self._state:
            if state.refusal:
                raise Refused(state.refusal)
            self._state = state
            self._panel = self._panels.of(state.service)

    def _panel_of(self, home: Home) -> Panel:
        """The panel of the models that were in service at the home of an order: it meets no others."""
        state, offset = self._state, home.others.get(self._topics.control)
        if state is None or offset is None:
            return self._panels.of(NOBODY)
        if offset > state.next_offset:
            # its home has read more of control than we have: ours is under way
            raise Unreachable(
                f"'{self._topics.control}' was read to offset {state.next_offset} here, and to {offset} "
                "where an order came in"
            )
        return self._panels.of(state.service_at(offset))

    def _observes(self, state: ControlState | None) -> bool:
        return self._observe if state is None else state.observing(unless_told=self._observe)

    def _committed(self, tally: Sequence[bool], scored: _Scores | None) -> None:
        """What is counted once a batch is committed, so that one tried again does not count twice."""
        if self._drift is not None and scored is not None:
            self._drift.count(scored.by_model(), scored.placed_at)
        self._mind_the_breaker(tally)  # last: it may stop the worker

    def _mind_the_breaker(self, tally: Sequence[bool]) -> None:
        """Stop when rejects flood: most likely the shop changed its format, and a person must look."""
        self._recent.extend(tally)
        if not self._reject_share:
            return
        rejected = sum(self._recent)
        if len(self._recent) == _RECENT and rejected > self._reject_share * _RECENT:
            raise Refused(
                f"{rejected} of the last {_RECENT} orders were rejected, more than reject_share="
                f"{self._reject_share} allows; see why in topic '{self._topics.rejected}', mend the sender "
                "or raise the setting, then start the worker again"
            )


def _verdicts(pending: Sequence[Pending]) -> list[Verdict]:
    """What the models say of the orders, each asked for all of its orders at once.

    Where one can't be used, the next of the order's bench is asked.
    """
    verdicts = [Verdict(None, (), None, None)] * len(pending)
    left: Sequence[int] = range(len(pending))
    turn = 0
    while left:
        asked: dict[Judge, list[int]] = {}
        for at in left:
            bench = pending[at].bench
            if bench is not None and turn < len(bench.deciders):
                asked.setdefault(bench.deciders[turn], []).append(at)
        failed = []
        for judge, those in asked.items():
            said = _said_by(judge, [pending[at] for at in those])
            for at, (vector, scored) in zip(those, said, strict=True):
                before = verdicts[at].failed
                if scored is None:
                    verdicts[at] = Verdict(None, (), None, before or judge)
                    failed.append(at)
                else:
                    verdicts[at] = Verdict(judge, vector, scored, before)
        left, turn = sorted(failed), turn + 1
    return verdicts


def _shadows(pending: Sequence[Pending]) -> list[list[_Shadow]]:
    """What challengers say of the orders; one that can't be used says nothing."""
    told: list[dict[Judge, _Shadow]] = [{} for _ in pending]
    asked: dict[Judge, list[int]] = {}
    for at, each in enumerate(pending):
        for judge in () if each.bench is None else each.bench.challengers:
            asked.setdefault(judge, []).append(at)
    for judge, those in asked.items():
        said = _said_by(judge, [pending[at] for at in those])
        for at, (vector, scored) in zip(those, said, strict=True):
            if scored is not None:
                told[at][judge] = (judge, vector, scored)
    # in the bench's order, which no batch decides
    return [
        [shadow for judge in each.bench.challengers if (shadow := beside.get(judge))] if each.bench else []
        for each, beside in zip(pending, told, strict=True)
    ]


def _said_by(
    judge: Judge, pending: Sequence[Pending]
) -> Iterator[tuple[Sequence[float | None], Scored | None]]:
    """Its own features of each order, and what it says of it; None where it can't be used."""
    vectors = [judge.vector(each.vector or ()) for each in pending]
    is_heard = [
        not each.has_unheard or all(value == value for value in vector)  # noqa: PLR0124 - UNHEARD does not
        for each, vector in zip(pending, vectors, strict=True)
    ]
    said = iter(judge.score(list(compress(vectors, is_heard))) if any(is_heard) else ())
    for vector, heard in zip(vectors, is_heard, strict=True):
        yield vector, next(said) if heard else None


def _on_the_road(record: Record) -> tuple[Identity, Asked | None]:
    """Which order a message between stages is about, and who waits for its decision."""
    try:
        passing = Passing.decode(record.value)
        order = None if passing.travelling is None else passing.order()
    except (PassingBytesError, PassingVersionError):
        return Identity(), None
    if order is None or passing.travelling is None or passing.travelling.is_history:
        return Identity(passing.order_id), None
    return Identity(order.order_id, order.customer_id, order.revision), asked_in(passing)
