"""The judge: looks at models on trial, and promotes, retires or takes them back as the evidence says.

It keeps nothing: since when a model is on trial, and what was said of it last, stands in the control topic.
So it may be stopped, started elsewhere, or run twice at once: a move holds only on the service that it was
decided on, and only as long as the model is on trial as it was when it was looked at.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from models.errors import ModelError
from models.labels import Labelling
from models.registry import Registry
from stream.comparing import Asked, compare
from stream.control import LONGEST_CAUSE, Control, ControlEvent, ControlState, append, history
from stream.decided import DecidedError, DecidedOrder, Newest, Word, decided_in, reading
from stream.deploying import AlreadySo, Mover, Who, microseconds_of
from stream.drifting import Asked as AskedDrift
from stream.drifting import drift_of
from stream.ports import Refused
from stream.replay import Opened
from stream.service import JUDGED, WHOLE_SHARE, Lineup, Scope, Served, Service, bucket_of
from stream.settings import Settings
from stream.trial import Arm, Arms, Evidence, Verdict, judge_canary, judge_challenger

__all__ = ["Judged", "Trials", "evidence_of", "windows_of"]

_LATE: Final = timedelta(hours=1)
"""How much later than it was placed an order may arrive and still be looked at, of the longer window."""

Read = Callable[[int, int], None]


class Judged(NamedTuple):
    """What came of a look at a model on trial."""

    on_trial: Served
    verdict: Verdict
    done: str
    """What was moved, or why it was not; empty for nothing."""
    moved: bool

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "model": self.on_trial.said,
            "role": self.on_trial.role,
            "scope": self.on_trial.scope.model_dump(exclude_none=True),
            "verdict": self.verdict.kind,
            "why": self.verdict.why,
            "gates": [{"name": e.name, "passed": e.passed, "said": e.said} for e in self.verdict.gates],
            "figures": dict(self.verdict.figures),
            "moved": self.moved,
            "done": self.done,
        }


class Trials:
    """The models on trial of one group, as often as somebody looks."""

    def __init__(
        self,
        settings: Settings,
        opened: Opened,
        registry: Registry,
        *,
        who: str,
        models: Collection[str] = (),
        as_of: datetime | None = None,
        dry_run: bool = False,
        read: Read = lambda _read, _of: None,
    ) -> None:
        """`opened` opens what was recorded; `models`, `name` or `name@version`, are looked at, all if empty.

        `as_of` is the time it is taken to be, now when absent. With `dry_run` nothing is moved or written.
        """
        self._settings = settings
        self._opened = opened
        self._registry = registry
        self._mover = Mover(settings, registry, slowest_us=settings.gates.slowest_us)
        self._who = who
        self._models = models
        self._as_of = as_of
        self._dry_run = dry_run
        self._read = read

    def challengers(self) -> Iterator[Judged]:
        """Look at every challenger, and promote or retire those that are due.

        Raises TopicError, Unreachable, NotStable, and what reading decisions raises.
        """
        for on_trial, state, events in self._on_trial("challenger"):
            as_of = self._as_of or datetime.now(UTC)
            seen = evidence_of(
                self._settings,
                self._opened,
                on_trial,
                state,
                champion=state.service.deciding(on_trial.scope),
                since=events[on_trial.offset].at,
                as_of=as_of,
                read=self._read,
            )
            verdict = judge_challenger(seen, self._settings.gates)
            if verdict.unmet == ("speed",):  # the last thing to ask, because it loads the model
                seen = seen._replace(took_us=self._took_us(on_trial))
                verdict = judge_challenger(seen, self._settings.gates)
            yield self._act(on_trial, verdict, events, judged=state.service)

    def canaries(self) -> Iterator[Judged]:
        """Look at every canary, and take those back that break a guardrail. Raises as `challengers`."""
        for on_trial, state, events in self._on_trial("canary"):
            seen = windows_of(
                self._settings,
                self._opened,
                on_trial,
                state,
                since=events[on_trial.offset].at,
                as_of=self._as_of or datetime.now(UTC),
                read=self._read,
            )
            yield self._act(on_trial, judge_canary(*seen, self._settings.guardrails), events)

    def _on_trial(self, role: str) -> Iterator[tuple[Served, ControlState, Mapping[int, ControlEvent]]]:
        """Whoever stands in this role, with everything that was said, read again before each."""
        done: set[int] = set()
        while True:
            with closing(Control(self._settings)) as control:
                state = control.read_to_end()
            if state.refusal:
                raise Refused(state.refusal)
            if state.service.kill is not None:  # a person took the decisions from all models
                return
            left = [
                each
                for each in state.service.served
                if each.role == role
                and each.offset not in done
                and (not self._models or each.said in self._models or each.ref.name in self._models)
            ]
            if not left:
                return
            done.add(left[0].offset)
            yield left[0], state, {event.offset: event for event in history(self._settings)}

    def _took_us(self, on_trial: Served) -> float | None:
        try:
            return microseconds_of(self._registry.load(on_trial.ref.name, on_trial.ref.version))
        except ModelError:  # promoting would refuse it, with the cause
            return None

    def _act(
        self,
        on_trial: Served,
        verdict: Verdict,
        events: Mapping[int, ControlEvent],
        *,
        judged: Service | None = None,
    ) -> Judged:
        evidence = {
            "trial": on_trial.offset,
            "verdict": verdict.kind,
            "unmet": list(verdict.unmet),
            "figures": dict(verdict.figures),
        }
        if self._dry_run:
            return Judged(on_trial, verdict, "", moved=False)
        if verdict.kind == "wait":
            if _said_last(on_trial, events) != evidence["unmet"]:
                append(
                    self._settings,
                    JUDGED,
                    who=self._who,
                    why=_cut(verdict.why),
                    model=on_trial.said,
                    role=on_trial.role,
                    scope=on_trial.scope.model_dump(exclude_none=True),
                    evidence=evidence,
                )
            return Judged(on_trial, verdict, "", moved=False)
        who = Who(self._who, _cut(f"{verdict.kind.replace('_', ' ')}: {verdict.why}"))
        common: dict[str, Any] = {
            "scope": on_trial.scope,
            "on_trial": on_trial,
            "judged": judged,
            "evidence": evidence,
        }
        try:
            if verdict.kind == "promote":
                moved = self._mover.promote(on_trial.said, who, **common)
            else:
                moved = self._mover.retire(on_trial.said, who, role=on_trial.role, **common)
        except AlreadySo as late:
            return Judged(on_trial, verdict, str(late), moved=False)
        except Refused as refused:
            return Judged(on_trial, verdict, f"could not be done: {refused}", moved=False)
        return Judged(on_trial, verdict, str(moved), moved=True)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CAUSE else text[: LONGEST_CAUSE - 1] + "…"


def _said_last(on_trial: Served, events: Mapping[int, ControlEvent]) -> list[str] | None:
    """What did not pass when it was judged last; None where it never was."""
    for event in sorted(events.values(), key=lambda each: -each.offset):
        more = event.record.model_extra or {}
        evidence = more.get("evidence")
        if event.record.kind != JUDGED or not isinstance(evidence, dict):
            continue
        if evidence.get("trial") == on_trial.offset and more.get("model") == on_trial.said:
            unmet = evidence.get("unmet")
            return unmet if isinstance(unmet, list) else None
    return None


# What challengers said ----------------------------------------------------------------------------


def evidence_of(
    settings: Settings,
    opened: Opened,
    on_trial: Served,
    state: ControlState,
    *,
    champion: Served | None,
    since: datetime,
    as_of: datetime,
    read: Read = lambda _read, _of: None,
) -> Evidence:
    """What a challenger, on trial since then, would have done beside the champion that decides there now.

    What was said before either of them stood where it stands does not count, nor what a canary decided, of
    which `state` knows. Without a champion the model of the settings decides, whichever that was. Raises as
    `compare`.
    """
    gates = settings.gates
    lineups = _Lineups(state)
    from_offset = max(on_trial.offset, -1 if champion is None else champion.offset)

    def is_beside(order: DecidedOrder, decided: Word) -> bool:
        by_champion = decided.model != on_trial.said if champion is None else decided.model == champion.said
        return (
            by_champion
            and not decided.failed
            and decided.control > from_offset
            and _is_in(on_trial.scope, order)
            and not lineups.is_for_canary(order, decided)
        )

    answered, arrived_at = _Answered(), 0

    def counts(order: DecidedOrder, decided: Word, said: Word) -> bool:
        nonlocal arrived_at
        if said.control <= from_offset or not is_beside(order, decided):
            return False
        if said.policy != on_trial.policy.digest:  # it looks on elsewhere too, with other thresholds
            return False
        arrived_at = max(arrived_at, order.arrived_at)
        return True

    def decided_beside(order: DecidedOrder, decided: Word) -> None:
        if is_beside(order, decided):
            answered.add(order, by=on_trial.said)

    newest = Newest(since)
    asked = Asked(
        Labelling(
            as_of,
            timedelta(days=gates.mature_after_days),
            "not_fraud" if gates.silence_is_legitimate else "unknown",
        ),
        gates.review_cost,
        gates.lost_share,
        gates.margin,
        challengers=(on_trial.said,),
        currency=gates.currency,
        confidence=gates.confidence,
        newest=newest,
        only=counts,
        decided=decided_beside,
    )
    seen = Evidence((as_of - since) / timedelta(days=1))
    try:
        (found,) = compare(settings, opened, asked, read=read)
    except DecidedError:  # nobody has said anything yet
        return seen
    seen = seen._replace(
        scored=found.scored,
        disagreed=found.disagreed,
        declined=found.declined,
        released=found.released,
        compared=found.found,
        currency=found.currency,
        answered=answered.share,
        silent_days=(as_of.timestamp() - arrived_at / 1000) / timedelta(days=1).total_seconds(),
    )
    asked_drift = AskedDrift(
        timedelta(days=gates.window_days),
        (on_trial.said,),
        newest=newest,
        only=lambda said: said.control > on_trial.offset,
    )
    try:
        (drift,) = drift_of(settings, opened, asked_drift, read=read)
    except DecidedError:
        return seen
    # of the newest window only its beginning is there, which may be a night
    whole = [each for each in drift.windows[:-1] if each.moved]
    if not whole:
        return seen
    score, *features = whole[-1].moved
    moved = {each.name: abs(each.missing_now - each.missing_before) for each in features}
    return seen._replace(
        stability=score.stability, missing=max(moved.items(), key=lambda each: each[1], default=None)
    )


class _Answered:
    """Of how many of the orders that it might have scored a challenger said anything, since it began to."""

    def __init__(self) -> None:
        self._answered = 0
        self._first: int | None = None
        self._not_answered = array("q")
        """When these were placed: what is older than the first answer may have lost its own to retention."""

    def add(self, order: DecidedOrder, *, by: str) -> None:
        """Take in an arrival."""
        if any(word.model == by for word in order.shadow):
            self._answered += 1
            self._first = order.placed_at if self._first is None else min(self._first, order.placed_at)
        else:
            self._not_answered.append(order.placed_at)

    @property
    def share(self) -> float:
        """0 before the first answer."""
        if self._first is None:
            return 0.0
        missed = sum(placed_at >= self._first for placed_at in self._not_answered)
        return self._answered / (self._answered + missed)


def _is_in(scope: Scope, order: DecidedOrder) -> bool:
    values = (order.merchant, order.country, order.channel)
    return all(value in {None, of} for value, of in zip(scope.values, values, strict=True))


# What canaries did --------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """An order that the canary might have decided."""

    placed_at: int
    on_trial: bool
    customer: str
    word: Word
    failed: bool
    unknown: tuple[str, ...]


def windows_of(
    settings: Settings,
    opened: Opened,
    on_trial: Served,
    state: ControlState,
    *,
    since: datetime,
    as_of: datetime,
    read: Read = lambda _read, _of: None,
) -> tuple[Arms, Arms, Arm]:
    """What was done with a canary's customers and with all others of its scope: shorter and longer window.

    The windows end with the newest order that was placed. The third are the canary's orders of the longer
    window that are not in the shorter. `state` says who was to decide each order.
    """
    rails = settings.guardrails
    short = timedelta(minutes=rails.short_window_minutes)
    long = timedelta(hours=rails.long_window_hours)
    newest = Newest(
        max(since, as_of - long - _LATE), max(1, rails.most_orders // max(settings.partitions, 1))
    )
    judged = _Bench(on_trial, state)
    seen: list[_Seen] = []
    with reading(settings, opened, read) as (sources, partitions, more):
        for partition in partitions:
            orders = decided_in(settings, sources, partition, read=more, newest=newest, unscored=True)
            seen += filter(None, map(judged.seen, orders))
    end = max((each.placed_at for each in seen), default=0)
    of_short = Arms(f"{rails.short_window_minutes:g} minutes")
    of_long = Arms(f"{rails.long_window_hours:g} hours")
    before = Arm()
    for each in seen:
        age = timedelta(microseconds=end - each.placed_at)
        if age >= long:
            continue
        arms = [of_long.canary if each.on_trial else of_long.others]
        if age < short:
            arms.append(of_short.canary if each.on_trial else of_short.others)
        elif each.on_trial:
            arms.append(before)
        for arm in arms:
            arm.add(
                each.customer,
                action=each.word.action,
                p_fraud=each.word.p_fraud,
                took_s=each.word.took_s,
                unknown=each.unknown,
                failed=each.failed,
            )
    return of_short, of_long, before


class _Lineups:
    """Who was there for orders, at the control offsets that their decisions name."""

    def __init__(self, state: ControlState) -> None:
        self._state = state
        self._lineups: dict[tuple[int, str | None, str | None, str | None], Lineup] = {}

    def of(self, order: DecidedOrder, word: Word) -> Lineup:
        service = self._state.service_at(word.control)
        asks = service.asks
        values = (
            order.merchant if asks[0] else None,
            order.country if asks[1] else None,
            order.channel if asks[2] else None,
        )
        lineup = self._lineups.get((service.since, *values))
        if lineup is None:
            lineup = self._lineups[service.since, *values] = service.lineup(*values)
        return lineup

    def is_for_canary(self, order: DecidedOrder, word: Word) -> bool:
        """Whether a canary was to decide the order."""
        first = self.of(order, word).deciders(bucket_of(_customer(order)))[0]
        return first is not None and first.role == "canary"


def _customer(order: DecidedOrder) -> str:
    """Whose order tells whether it meets a canary."""
    return order.customer_id or order.order_id


class _Bench:
    """Which orders a canary might decide, and which of them it is to decide."""

    def __init__(self, on_trial: Served, state: ControlState) -> None:
        self._on_trial = on_trial
        self._state = state
        self._lineups = _Lineups(state)

    def seen(self, order: DecidedOrder) -> _Seen | None:
        """The order, and on which side it is; None where the canary is not there for it, whoever it is of."""
        word = order.counted
        if word is None or word.control <= self._on_trial.offset:
            return None
        if self._state.service_at(word.control).kill is not None:
            return None
        if self._lineups.of(order, word).deciders(0)[0] != self._on_trial:
            return None
        customer = _customer(order)
        on_trial = bucket_of(customer) < (self._on_trial.share or WHOLE_SHARE)
        failed = word.model != self._on_trial.said if on_trial else word.failed or not word.model
        unknown = tuple(name for name, value in word.features.items() if value is None) if on_trial else ()
        return _Seen(order.placed_at, on_trial, customer, word._replace(features={}), failed, unknown)
