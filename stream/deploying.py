"""Moves of models in service: each is checked before it is said, and said as one control record.

Who deploys loads the model as a worker would: every byte, its signature, its features and its golden rows.
What fails is refused with the cause, the cause is kept in the control topic, and what is in service stays.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple, Self

from models.errors import ModelError
from models.policy import Policy
from models.registry import Registry, named
from models.scorer import Scorer
from stream.control import LONGEST_CAUSE, Appender, Control, ControlState, check_words
from stream.errors import Refusal
from stream.ports import Refused, Unreachable
from stream.registry import check_servable
from stream.service import (
    DEPLOYED,
    EVERYWHERE,
    KILL_OFF,
    KILL_ON,
    PROMOTED,
    REFUSED,
    RETIRED,
    ROLLED_BACK,
    Kill,
    Role,
    Scope,
    Served,
    Service,
)
from stream.settings import Settings

__all__ = ["AlreadySo", "Moved", "Mover", "Who", "kill"]

_TIMED_ROWS: Final = 256
_TIMED_TIMES: Final = 5
_TRIES: Final = 5
_KEPT_S: Final = 10.0
"""So long after a move its connections serve the next one: who moves hundreds makes them once."""
SLOWEST_US: Final = 500.0
"""Microseconds of one order in a batch that a model may take, unless another bound is given."""


class AlreadySo(Refused):
    """A move would change nothing."""


class Who(NamedTuple):
    """Who makes a move, and why."""

    who: str
    why: str


class Moved(NamedTuple):
    """A move that is in force: where it is said, and what it changed."""

    offset: int
    kind: str
    put: str | None
    """`name@version` of what has the place now; None for nobody, or the model that the settings name."""
    role: Role
    scope: Scope
    replaces: str | None

    def __str__(self) -> str:
        """`order_risk@2026-02-14.3f9c is champion of country=DE, after order_risk@2026-01-02.77aa`."""
        where = "" if self.scope.is_everywhere else f" of {self.scope}"
        if self.kind == RETIRED:
            return f"{self.replaces} is no longer {self.role}{where} (control offset {self.offset})"
        put = self.put or "the model that the settings name"
        after = f", after {self.replaces}" if self.replaces else ""
        return f"{put} is {self.role}{where}{after} (control offset {self.offset})"


class _Connected(NamedTuple):
    control: Control
    appender: Appender


class Mover:
    """Makes moves of the models of one group, one after the other."""

    def __init__(self, settings: Settings, registry: Registry, *, slowest_us: float = SLOWEST_US) -> None:
        """`registry` finds the features of the settings; what is slower than `slowest_us` is refused."""
        self._settings = settings
        self._registry = registry
        self._slowest_us = slowest_us
        self._connected: _Connected | None = None
        self._used_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections; the next move makes new ones."""
        if self._connected is not None:
            self._connected.control.close()
            self._connected = None

    @contextmanager
    def _connection(self) -> Iterator[_Connected]:
        if time.monotonic() - self._used_at > _KEPT_S:
            self.close()  # it may be to a broker that is gone, or a topic that was made anew
        if self._connected is None:
            appender = Appender(self._settings)
            self._connected = _Connected(Control(self._settings), appender)
        try:
            yield self._connected
        except Unreachable:
            self.close()
            raise
        self._used_at = time.monotonic()

    def _state(self) -> ControlState:
        """What is in force now. Raises TopicError, Unreachable."""
        with self._connection() as connected:
            return connected.control.read_to_end()

    def deploy(
        self,
        model: str,
        who: Who,
        *,
        role: Role = "challenger",
        scope: Scope = EVERYWHERE,
        share: int | None = None,
        policy: Policy | None = None,
    ) -> Moved:
        """Put a published model into service; the one of that name's alias where no version is given.

        `share` is a canary's, in ten-thousandths of the customers. Raises Refused for what fails a check,
        with the cause, which is kept in the control topic too; TopicError, Unreachable.
        """
        if (role == "canary") != (share is not None):
            raise Refused("--share goes with --role canary: say for what part of the customers it decides")
        name, version = named(model)
        self._state()  # a connection takes a while: no model is checked for nothing
        scorer = self._checked(name, version, who)

        def moves(state: ControlState) -> dict[str, Any]:
            there = [each for each in state.service.served if (each.role, each.scope) == (role, scope)]
            # a challenger takes nobody's place: there may be many
            replaced = there[0] if there and role != "challenger" else None
            told = self._told(scorer, role=role, scope=scope, share=share, policy=policy, there=replaced)
            for each in there:
                if told == _words(each, replaces=told["replaces"]):
                    raise AlreadySo(f"{each.said} is {role} of {scope} already; nothing was changed")
            return told

        return self._say(DEPLOYED, who, moves)

    def promote(
        self,
        model: str,
        who: Who,
        *,
        scope: Scope = EVERYWHERE,
        policy: Policy | None = None,
        on_trial: Served | None = None,
        judged: Service | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Moved:
        """Make a model that is in service, or published, the champion of a scope.

        Without a version it is the one of that name that looks on, or is on trial, there; else as for
        `deploy`. With `on_trial` only as long as that one still is, as it was put there, and with `judged`
        only as long as whoever decided there by that service still does. `evidence` is kept with the move.
        Raises as `deploy`, and AlreadySo where it is no longer on trial, or beside another champion.
        """
        name, version = named(model)
        state = self._state()
        standing = [
            each
            for each in state.service.served
            if each.ref.name == name and each.role in {"challenger", "canary"} and each.scope == scope
        ]
        if version is None and standing:
            if len({each.ref for each in standing}) > 1:
                raise Refused(
                    f"several versions of '{name}' are challenger or canary of {scope}: "
                    f"{', '.join(sorted({each.said for each in standing}))}; name the one to promote"
                )
            version = standing[0].ref.version
        scorer = self._checked(name, version, who)
        held = next((each for each in standing if each.ref.version == version), None)
        if held is not None and held.ref.digest != scorer.digest:
            raise Refused(
                f"{held.said} was deployed with digest {held.ref.digest[:12]} and the registry has it with "
                f"{scorer.digest[:12]}; bring the folder of then back, or publish it as another version"
            )
        kept = policy or (held.policy if held is not None else None)

        def moves(state: ControlState) -> dict[str, Any]:
            _check_on_trial(state.service, on_trial, judged)
            there = state.service.champion(scope)
            told = self._told(scorer, role="champion", scope=scope, share=None, policy=kept, there=there)
            if there is not None and told == _words(there, replaces=there.said):
                raise AlreadySo(f"{there.said} is champion of {scope} already; nothing was changed")
            return told

        return self._say(PROMOTED, who, moves, evidence)

    def roll_back(self, model: str, who: Who, *, scope: Scope = EVERYWHERE) -> Moved:
        """Take the champion of a scope back; the one before it decides again.

        `model` is the one to be taken back, so that a rollback said twice, or too late, takes back no other.
        Raises as `deploy`.
        """
        name, version = named(model)
        service = self._state().service
        self._is_champion(service, name, version, scope)
        before = service.before(scope)
        if before is not None:
            self._checked(before.ref.name, before.ref.version, who, digest=before.ref.digest)
        elif scope.is_everywhere or not service.is_for_all:  # else a wider champion decides
            self._checked(*named(self._settings.model), who)

        def moves(state: ControlState) -> dict[str, Any]:
            there = self._is_champion(state.service, name, version, scope)
            if state.service.before(scope) != before:
                raise Refused("somebody else moved models just now; see: fraudstream models service")
            if before is None:
                return {"role": "champion", "scope": _plain(scope), "replaces": there.said}
            return _words(before, replaces=there.said)

        return self._say(ROLLED_BACK, who, moves)

    def _is_champion(self, service: Service, name: str, version: str | None, scope: Scope) -> Served:
        there = service.champion(scope)
        if there is None or there.ref.name != name or version not in {None, there.ref.version}:
            now = "the model that the settings name" if there is None else there.said
            raise Refused(
                f"{name}{'' if version is None else '@' + version} is not the champion of {scope}, which is "
                f"{now}; see: fraudstream models service"
            )
        return there

    def retire(
        self,
        model: str,
        who: Who,
        *,
        scope: Scope = EVERYWHERE,
        role: Role | None = None,
        on_trial: Served | None = None,
        judged: Service | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Moved:
        """Take a model out of service: nothing of it is deleted.

        The champion of everything is refused: promote another, or roll it back. `on_trial`, `judged`
        and `evidence` as for `promote`. Raises as that does.
        """
        name, version = named(model)

        def moves(state: ControlState) -> dict[str, Any]:
            _check_on_trial(state.service, on_trial, judged)
            standing = [
                each
                for each in state.service.served
                if each.ref.name == name
                and version in {None, each.ref.version}
                and each.scope == scope
                and role in {None, each.role}
            ]
            if len(standing) != 1:
                found = ", ".join(f"{each.said} as {each.role}" for each in standing) or "none"
                raise Refused(
                    f"'{model}' does not say which model of {scope} is to go: there is {found}; name "
                    "its version and --role; see: fraudstream models service"
                )
            there = standing[0]
            if there.role == "champion" and scope.is_everywhere:
                raise Refused(
                    f"{there.said} decides every order that no other scope has; promote another one, or roll "
                    "it back: fraudstream models rollback"
                )
            if there.role == "fallback" and state.service.kill == "fallback":
                raise Refused("the kill switch has the fallback decide; switch it off first")
            return _words(there, replaces=there.said)

        return self._say(RETIRED, who, moves, evidence)

    def refuse(self, what: str, who: Who, cause: str) -> int:
        """Keep in the control topic that something was refused, and why; its offset."""
        with self._connection() as connected:
            return connected.appender.append(
                REFUSED, who=who.who, why=cause[:LONGEST_CAUSE], model=what, asked=who.why
            )

    def _checked(self, name: str, version: str | None, who: Who, *, digest: str | None = None) -> Scorer:
        """The model, as a worker would load it. Raises Refused with the cause, which is kept."""
        check_words(self._settings, who=who.who, why=who.why)
        said = name if version is None else f"{name}@{version}"
        try:
            scorer = self._registry.load(name, version)
            manifest = self._registry.manifest(scorer.name, scorer.version)
            check_servable(self._settings, manifest, scorer.features)
            if digest is not None and scorer.digest != digest:
                raise Refused(
                    f"{said} was in service with digest {digest[:12]} and the registry has it with "
                    f"{scorer.digest[:12]}; bring the folder of then back from a copy"
                )
            took = microseconds_of(scorer)
            if took > self._slowest_us:
                raise Refused(
                    f"{said} takes {took:,.0f} microseconds an order and may take {self._slowest_us:,.0f}; "
                    "make it smaller, or allow more with --slowest"
                )
        except (ModelError, Refusal) as error:
            self.refuse(said, who, str(error))
            raise Refused(f"{error}; nothing was changed") from error
        return scorer

    def _told(
        self,
        scorer: Scorer,
        *,
        role: Role,
        scope: Scope,
        share: int | None,
        policy: Policy | None,
        there: Served | None,
    ) -> dict[str, Any]:
        policy = policy or scorer.suggested_policy
        if policy is None:
            raise Refused(
                f"{scorer.name}@{scorer.version} suggests no thresholds; give --review-at and --decline-at"
            )
        put = Served(scorer.ref, role, scope, policy, share, 0)
        return _words(put, replaces=None if there is None else there.said)

    def _say(
        self,
        kind: str,
        who: Who,
        moves: Callable[[ControlState], dict[str, Any]],
        evidence: Mapping[str, Any] | None = None,
    ) -> Moved:
        """Write the record that the state as it is now asks for; again where somebody else was quicker."""
        with self._connection() as (control, appender):
            for _ in range(_TRIES):
                state = control.read_to_end()
                if state.refusal:
                    raise Refused(state.refusal)
                told = moves(state)
                more = told | {"expects": state.service.since}
                if evidence is not None:
                    more["evidence"] = dict(evidence)
                offset = appender.append(kind, who=who.who, why=who.why, **more)
                if any(each.since == offset + 1 for each in control.read_to_end().services):
                    break
            else:
                raise Refused(
                    f"others moved models {_TRIES} times in the same moment, so nothing was changed; see "
                    "'fraudstream models history', then try again"
                )
        put = f"{told['name']}@{told['version']}" if told.get("name") else None
        scope = Scope(**told["scope"])
        return Moved(offset, kind, None if kind == RETIRED else put, told["role"], scope, told["replaces"])


def kill(settings: Settings, action: Kill | None, who: Who) -> tuple[ControlState, bool]:
    """Switch all models off, or on again where no action is given; the state then, and whether it is new.

    Raises Refused where a fallback is to decide and none is in service for all orders; TopicError,
    Unreachable.
    """
    appender = Appender(settings)
    with closing(Control(settings)) as control:
        state = control.read_to_end()
        if state.refusal and action not in {"approve", "review"}:  # those work, whatever can't be told
            raise Refused(state.refusal)
        if state.service.kill == action and not state.refusal:
            return state, False
        if action == "fallback" and _at(state.service, "fallback", EVERYWHERE) is None:
            raise Refused(
                "there is no fallback model for every order; deploy one with --role fallback, or have every "
                "order reviewed: fraudstream kill-switch on --action review"
            )
        if action is None:
            appender.append(KILL_OFF, who=who.who, why=who.why)
        else:
            appender.append(KILL_ON, who=who.who, why=who.why, action=action)
        return control.read_to_end(), True


def microseconds_of(scorer: Scorer) -> float:
    """What a model takes of an order in a batch, in microseconds: the best of a few batches."""
    rows = [[float((row + at) % 7) for at in range(len(scorer.features))] for row in range(_TIMED_ROWS)]
    best = float("inf")
    for _ in range(_TIMED_TIMES):
        began = time.perf_counter()
        scorer.score(rows)
        best = min(best, time.perf_counter() - began)
    return best / _TIMED_ROWS * 1e6


def _check_on_trial(service: Service, on_trial: Served | None, judged: Service | None) -> None:
    if on_trial is None:
        return
    if on_trial not in service.served:
        raise AlreadySo(
            f"{on_trial.said} is no longer {on_trial.role} of {on_trial.scope} as it was: somebody else "
            "moved it; nothing was changed"
        )
    if judged is None:
        return
    if service.kill is not None:
        raise AlreadySo("the kill switch was switched on while it was judged; nothing was changed")
    # a look takes as long as there is past, and the evidence is of the champion of when it began
    if service.deciding(on_trial.scope) != judged.deciding(on_trial.scope):
        raise AlreadySo(
            f"{on_trial.said} was judged beside another champion of {on_trial.scope} than decides now; "
            "nothing was changed, and it is judged anew"
        )


def _at(service: Service, role: Role, scope: Scope) -> Served | None:
    return next((each for each in service.served if each.role == role and each.scope == scope), None)


def _plain(scope: Scope) -> dict[str, str]:
    return scope.model_dump(exclude_none=True)


def _words(served: Served, *, replaces: str | None) -> dict[str, Any]:
    """The fields of the record that puts a model into service so."""
    return {
        "name": served.ref.name,
        "version": served.ref.version,
        "digest": served.ref.digest,
        "role": served.role,
        "share": served.share,
        "scope": _plain(served.scope),
        "review_at": served.policy.review_at,
        "decline_at": served.policy.decline_at,
        "replaces": replaces,
    }
