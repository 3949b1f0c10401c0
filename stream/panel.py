"""The panel: the models of one service, and the one feature vector that all of them are scored from.

Each order meets one bench of it: who decides, who stands behind, and who only looks on. A model that can't
be had, or that fails over an order, leaves it to the next one, and the decision says so.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from features.define import Feature
from features.events import Order
from features.fast import Told
from models.decision import ModelRef, Reason
from models.policy import Action, Policy
from models.scorer import Scored, Scorer
from stream.part import Part
from stream.service import EVERYWHERE, NOBODY, Kill, Lineup, Served, Service, bucket_of

__all__ = [
    "KILL_SWITCH",
    "MODEL_UNAVAILABLE",
    "SERVICE_CODES",
    "Bench",
    "Judge",
    "Models",
    "Panel",
    "Panels",
    "unavailable",
]

log = logging.getLogger("fraudstream.panel")

KILL_SWITCH: Final = "kill_switch"
MODEL_UNAVAILABLE: Final = "model_unavailable"
SERVICE_CODES: Final[Mapping[str, str]] = {
    KILL_SWITCH: "a person took the decision from the models, or gave it to the fallback",
    MODEL_UNAVAILABLE: "the model that was to decide could not be used: another one decided, or none",
}
"""Reason codes that speak of the models in service and not of the order; they come first."""

_KILLED: Final[Mapping[Kill, tuple[Action | None, Reason]]] = {
    "approve": (Action.APPROVE, Reason(code=KILL_SWITCH, text="The kill switch has every order approved")),
    "review": (Action.REVIEW, Reason(code=KILL_SWITCH, text="The kill switch has every order reviewed")),
    "fallback": (None, Reason(code=KILL_SWITCH, text="The kill switch has the fallback model decide")),
}
_BENCHES_KEPT: Final = 65_536  # of countries, channels and merchants; each is a few tuples
_PANELS_KEPT: Final = 16
_NO_POLICY: Final = Policy(review_at=1.0, decline_at=1.0)

Vector = Sequence[float | None]


def unavailable(said: str | None, *, decided: bool) -> Reason:
    """What a decision says where the model that was to decide could not be used; None for none at all."""
    then = "another model decided" if decided else "no model decided"
    return Reason(
        code=MODEL_UNAVAILABLE, text=f"{said or 'The model in service'} could not be used, so {then}"
    )


class Models(Protocol):
    """Where the models in service are had from."""

    def features(self, served: Served) -> Sequence[Feature] | None:
        """What the model asks; None where it can't be used."""

    def scorer(self, served: Served) -> Scorer | None:
        """The model, ready to score; None where it can't be used."""


class Judge:
    """A model with its thresholds, and where its features stand in the panel's vector."""

    def __init__(
        self,
        scorer: Callable[[], Scorer | None],
        *,
        ref: ModelRef,
        policy: Policy,
        names: Sequence[str],
        places: Sequence[int] | None,
        is_guarded: bool,
    ) -> None:
        """`places` is None where the vector is its own; unless guarded, its failures are the worker's."""
        self._scorer = scorer
        self.ref = ref
        self.policy = policy
        self.names = tuple(names)
        self._places = places
        self._is_guarded = is_guarded

    @property
    def said(self) -> str:
        """`name@version`."""
        return f"{self.ref.name}@{self.ref.version}"

    def vector(self, values: Vector) -> Vector:
        """Its own features among all of the panel's."""
        places = self._places
        return values if places is None else tuple([values[at] for at in places])

    def score(self, vectors: Sequence[Vector]) -> Sequence[Scored | None]:
        """What it says of each vector of its own; None where it fails."""
        scorer = self._scorer()
        if scorer is None:
            return [None] * len(vectors)
        if not self._is_guarded:
            return scorer.score(vectors)
        try:
            return scorer.score(vectors)
        except Exception as error:  # noqa: BLE001 - whatever a model raises, its fallback decides
            log.warning(
                "%s failed over a batch and is asked order by order: %s", self.said, type(error).__name__
            )
        return [_scored_alone(scorer, each) for each in vectors]


def _scored_alone(scorer: Scorer, vector: Vector) -> Scored | None:
    try:
        return scorer.score([vector])[0]
    except Exception:  # noqa: BLE001 - as above
        return None


class Bench(NamedTuple):
    """Who is there for an order."""

    policy: Policy
    """By which a decision that no model made is named."""
    deciders: tuple[Judge, ...]
    """The first that can be used decides."""
    challengers: tuple[Judge, ...] = ()
    action: Action | None = None
    """What is decided without any model."""
    why: Reason | None = None
    """What the decision says first, where a person took it from the models."""


class Panel:
    """The models of one service."""

    def __init__(
        self,
        service: Service,
        *,
        scorer: Scorer | None,
        policy: Policy | None,
        models: Models | None,
        entities: Sequence[str],
    ) -> None:
        """`scorer` and `policy` are of the model that the settings name, None where it can't be had."""
        self._service = service = NOBODY if models is None else service
        self.is_moved = service.since > 0
        """Whether it is of a service, so that all workers are to have the same models."""
        self._asks = service.asks
        self._benches: dict[tuple[str | None, str | None, str | None, int], Bench] = {}
        self._lineups: dict[tuple[str | None, str | None, str | None], Lineup] = {}
        settings_policy = policy or _NO_POLICY
        champion = service.champion(EVERYWHERE)
        self.ref = champion.ref if champion is not None else None if scorer is None else scorer.ref
        """The model that decides what no narrower scope has; None where it can't be had."""
        self.policy = settings_policy if champion is None else champion.policy
        """By which a decision that no model made is named."""
        self._killed = None if service.kill is None else _KILLED[service.kill]
        seats = list(_seats(service, scorer, settings_policy, models))
        self.lacks = sum(not seat.is_known for seat in seats)
        """Of how many models nothing is known here, so that they decide nothing."""
        union: dict[str, tuple[str, Feature]] = {}
        """By declaration: what a feature is called here, and the feature."""
        for seat in seats:
            _join(union, seat.features)
        place = {declared: at for at, declared in enumerate(union)}
        self._judges = {
            seat.served: Judge(
                seat.scorer,
                ref=seat.ref,
                policy=seat.policy,
                names=[feature.name for feature in seat.features],
                places=_places(seat.features, place),
                is_guarded=self.is_moved,
            )
            for seat in seats
        }
        names = [name for name, _ in union.values()]
        all_features = [feature for _, feature in union.values()]
        self.home = Part(all_features, elsewhere=entities, names=names)
        """What is computed at home."""
        self.stages = {entity: Part(all_features, entity, names=names) for entity in entities}
        """What is computed at the stage of each entity."""
        self._only = self._bench_of(None) if not service.served or self._killed_without_model else None

    @property
    def _killed_without_model(self) -> bool:
        return self._killed is not None and self._killed[0] is not None

    def bench(self, order: Order | Told) -> Bench:
        """Who is there for an order."""
        if self._only is not None:
            return self._only
        merchant, country, channel = self._asks
        values = (
            order.merchant_id if merchant else None,
            order.country if country else None,
            order.channel if channel else None,
        )
        lineup = self._lineups.get(values)
        if lineup is None:
            if len(self._lineups) >= _BENCHES_KEPT:
                self._lineups.clear()
                self._benches.clear()
            lineup = self._lineups[values] = self._service.lineup(*values)
        shares = sorted({canary.share or 0 for canary, _ in lineup.levels if canary is not None})
        # customers between the same two shares meet the same models
        step = bisect_right(shares, bucket_of(order.customer_id or order.order_id)) if shares else 0
        bench = self._benches.get((*values, step))
        if bench is None:
            bench = self._benches[*values, step] = self._bench_of(lineup, shares[step - 1] if step else 0)
        return bench

    def _bench_of(self, lineup: Lineup | None, bucket: int = 0) -> Bench:
        """The judges of a lineup, for customers of this bucket; without one, the model of the settings."""
        if self._killed is not None:
            action, why = self._killed
            fallbacks = () if lineup is None or action is not None else lineup.fallbacks
            return Bench(self.policy, self._sat(fallbacks), (), action, why)
        if lineup is None:
            return Bench(self.policy, self._sat((None,)))
        return Bench(self.policy, self._sat(lineup.deciders(bucket)), self._sat(lineup.challengers))

    def _sat(self, served: Iterable[Served | None]) -> tuple[Judge, ...]:
        return tuple([self._judges[each] for each in served if each in self._judges])


class _Seat(NamedTuple):
    """A model that may be asked."""

    served: Served | None
    """None for the model that the settings name."""
    scorer: Callable[[], Scorer | None]
    features: Sequence[Feature]
    ref: ModelRef
    policy: Policy
    is_known: bool = True
    """Whether it is known what it asks."""


def _seats(service: Service, scorer: Scorer | None, policy: Policy, models: Models | None) -> Iterator[_Seat]:
    """Every model that an order may meet in this service: none that a kill switch has silenced is touched."""
    if scorer is not None and service.kill is None and not service.is_for_all:
        yield _Seat(None, lambda: scorer, scorer.features, scorer.ref, policy)
    if models is None:
        return
    for each in service.served:
        if service.kill is None or (service.kill, each.role) == ("fallback", "fallback"):
            features = models.features(each)
            scorer_of = partial(models.scorer, each) if features is not None else lambda: None
            yield _Seat(each, scorer_of, features or (), each.ref, each.policy, features is not None)


def _join(union: dict[str, tuple[str, Feature]], features: Iterable[Feature]) -> None:
    """Put features among those that are computed; one name may mean the scores of two versions of a model."""
    taken = {name for name, _ in union.values()}
    for each in features:
        if each.declaration in union:
            continue
        name = each.name
        if name in taken:
            name += "#" + blake2b(each.declaration.encode(), digest_size=6).hexdigest()
        union[each.declaration] = (name, each)
        taken.add(name)


def _places(asked: Sequence[Feature], place: Mapping[str, int]) -> list[int] | None:
    """Where a model's features stand among all; None where they are all, in their order."""
    places = [place[each.declaration] for each in asked]
    return None if places == list(range(len(place))) else places


class Panels:
    """The panels of the services that orders are decided under, a few of them; any thread may ask."""

    def __init__(
        self,
        *,
        scorer: Scorer | None,
        policy: Policy | None,
        models: Models | None = None,
        entities: Sequence[str] = (),
    ) -> None:
        """Without `models`, what was said of models in service is not followed."""
        self._scorer = scorer
        self._policy = policy
        self._models = models
        self._entities = tuple(entities)
        self._made: dict[int, tuple[Service, Panel]] = {}
        """By the control offset from which on the service is in force."""
        self.of(NOBODY)  # a feature that can't be computed is said at the start

    def of(self, service: Service) -> Panel:
        """The panel of a service."""
        if self._models is None:
            service = NOBODY
        known = self._made.get(service.since)
        if known is not None and (known[0] is service or known[0] == service):
            return known[1]
        return self._keep(service, self._new(service))

    def renew(self, service: Service) -> bool:
        """Make a panel again that lacks models, and keep it if it lacks fewer now; whether it does."""
        panel = self._new(service)
        if panel.lacks >= self.of(service).lacks:
            return False
        self._keep(service, panel)
        return True

    def _new(self, service: Service) -> Panel:
        return Panel(
            service,
            scorer=self._scorer,
            policy=self._policy,
            models=self._models,
            entities=self._entities,
        )

    def _keep(self, service: Service, panel: Panel) -> Panel:
        kept = list(self._made.items())[1 - _PANELS_KEPT :]
        self._made = {**dict(kept), service.since: (service, panel)}  # anew: others may be reading it
        return panel
