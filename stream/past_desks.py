"""What decided, as decisions name it: models, policies, settings and control states of then.

Each desk made here is the worker's own; where what decided can't be had, it says so and a stand-in
remembers.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple, Self, cast

import msgspec

from features.define import Feature
from models.decision import ModelRef
from models.errors import ModelError
from models.policy import Policy
from models.registry import named
from models.scorer import Scored, Scorer
from stream.control import ControlState
from stream.deciding import Deciding
from stream.decoder import CONTRACT, Decoder, decoder_of
from stream.desk import ScoringDesk
from stream.own_features import catalogue_of
from stream.panel import Panel, Panels
from stream.ports import Record
from stream.recorded import Recorded, has_topic, records_of
from stream.registry import policy_of, registry_of
from stream.service import Served
from stream.settings import Settings

__all__ = ["NO_CONTROL", "UNTOLD", "ControlPast", "Desks", "Doubt", "Model", "Models", "Under"]

NO_CONTROL: Final = -1
"""The control offset of a decision that names none: there was no control topic."""


class Model(msgspec.Struct, frozen=True):
    """A model, as a decision names it."""

    name: str
    version: str
    digest: str


class Doubt(NamedTuple):
    """Why a decision can't be decided again as it was, and what to do."""

    cause: str
    said: str


class Models:
    """The models and policies that decisions name, loaded once each."""

    def __init__(self, settings: Settings) -> None:
        """Raises OwnFeaturesError, SettingsError."""
        self._settings = settings
        self._catalogue = catalogue_of(settings)
        self._registry = registry_of(settings, self._catalogue.by_name)
        self._loaded: dict[Model, Scorer | Doubt] = {}
        self._policies: dict[str, Policy] | None = None

    def scorer(self, model: Model) -> Scorer | Doubt:
        """The model, or why it can't be had."""
        found = self._loaded.get(model)
        if found is None:
            found = self._loaded[model] = self._load(model)
        return found

    def policy(self, digest: str) -> Policy | Doubt:
        """The policy of this digest, or why it can't be had."""
        if self._policies is None:
            self._policies = {each.digest: each for each in self._known_policies()}
        known = self._policies.get(digest)
        if known is not None:
            return known
        return Doubt(
            "policy_unknown",
            f"the thresholds of policy {digest[:12]} are neither those that are set now nor suggested by a "
            "model of the registry; set FRAUDSTREAM_REVIEW_AT and FRAUDSTREAM_DECLINE_AT as they were then, "
            "and verify again",
        )

    def known(self) -> Iterator[tuple[Model, str]]:
        """Every model of the registry with every policy that can be had, the latest first."""
        if self._policies is None:
            self._policies = {each.digest: each for each in self._known_policies()}
        for name, version in reversed(list(self._registry.list())):
            with suppress(ModelError):
                digest = self._registry.load(name, version).digest
                yield from ((Model(name, version, digest), policy) for policy in self._policies)

    @cached_property
    def own(self) -> tuple[Model, str] | None:
        """The model that the settings of now name, and its policy; None where it can't be had."""
        with suppress(ModelError):
            scorer = self._registry.load(*named(self._settings.model))
            policy = policy_of(self._settings) or scorer.suggested_policy
            if policy is not None:
                return Model(scorer.name, scorer.version, scorer.digest), policy.digest
        return None

    def row_limit(self, model: Model) -> int | None:
        """From how long histories the model learned."""
        try:
            kept = self._registry.manifest(model.name, model.version).settings.get("row_limit")
        except ModelError:
            return None
        return kept if isinstance(kept, int) else None

    def _load(self, model: Model) -> Scorer | Doubt:
        named = f"{model.name}@{model.version}"
        if not self._registry.has(model.name, model.version):
            return Doubt(
                "model_unknown",
                f"model {named} (digest {model.digest[:12]}) is not in {self._registry.address}; bring its "
                "folder back from a copy, and verify again",
            )
        try:
            scorer = self._registry.load(model.name, model.version)
        except ModelError as error:
            return self._refused(model, error)
        if scorer.digest != model.digest:
            return Doubt(
                "model_other",
                f"model {named} decided with digest {model.digest[:12]}, and the registry has it with "
                f"{scorer.digest[:12]}; bring the folder of then back from a copy, and verify again",
            )
        return scorer

    def _refused(self, model: Model, error: ModelError) -> Doubt:
        """Whether the features are to blame, or the model."""
        with suppress(ModelError):
            for entry in self._registry.manifest(model.name, model.version).features:
                try:
                    declared = self._catalogue.by_name(entry.name).declaration
                except Exception:  # noqa: BLE001 - whatever the catalogue raises, it has no such feature
                    declared = None
                if declared != entry.declaration and not entry.name.startswith("score_of_"):
                    return Doubt(
                        "features_changed",
                        f"{error}; verify with the definition of then (setting features, or the "
                        "fraudstream that decided)",
                    )
        return Doubt("model_refused", str(error))

    def _known_policies(self) -> Iterator[Policy]:
        if (said := policy_of(self._settings)) is not None:
            yield said
        for name, version in self._registry.list():
            with suppress(ModelError):
                yield self._registry.manifest(name, version).suggested_policy


class ControlPast:
    """The control states that were in force, by the offset up to which the topic had been read."""

    def __init__(
        self, group: str, records: Sequence[Record], low: int, gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        self._records = records
        self._first_lost = min((start for start, _ in gaps), default=None) if not low else 0
        self._offsets = [0, *(each.offset + 1 for each in records)]
        """From which control offset on each of the states is in force."""
        self._states = list(accumulate(records, ControlState.after, initial=ControlState(group)))

    @classmethod
    def read(cls, recorded: Recorded, settings: Settings) -> Self:
        """All that was said, and where it begins; nothing where there is no such topic."""
        tp = (settings.topics.control, 0)
        if not has_topic(recorded, tp[0]):
            return cls(settings.group, (), 0)
        low, end = recorded.bounds(tp)
        return cls(settings.group, list(records_of(recorded, tp, low, end)), low, recorded.gaps(tp))

    def policy(self, digest: str) -> Policy | None:
        """The thresholds of this digest, where a model was ever in service with them."""
        served = (each for service in self._states[-1].services for each in service.served)
        return next((each.policy for each in served if each.policy.digest == digest), None)

    def is_moved(self, offset: int) -> bool:
        """Whether models were moved before the offset."""
        state = None if offset == NO_CONTROL else self.at(offset)
        return isinstance(state, ControlState) and state.service.since > 0

    def at(self, offset: int) -> ControlState | Doubt:
        """The state after the records before the offset, or why it can't be told."""
        place = bisect_right(self._offsets, offset) - 1
        is_lost = self._first_lost is not None and self._first_lost < offset
        if place < 0 or self._offsets[place] != offset or is_lost:
            records = self._records
            there = f"from {records[0].offset:,} to {records[-1].offset:,}" if records else "none"
            return Doubt(
                "control_missing",
                f"decided under control offset {offset:,}, and the records of control that are there are "
                f"{there}; bring the topic of then back, or read an archive that has it (--archive)",
            )
        state = self._states[place]
        return Doubt("control_unreadable", state.refusal) if state.refusal else state


class _NoScorer:
    """Stands in for a model where nobody looks at what it says."""

    name, version, digest = "none", "none", ""
    ref = ModelRef(name=name, version=version, digest=digest)
    features: tuple[Feature, ...] = ()

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [_UNSCORED] * len(vectors)


_UNSCORED: Final = Scored(0.0, (), ())
_NO_SCORER: Final = cast("Scorer", _NoScorer())
_NO_POLICY: Final = Policy(review_at=1.0, decline_at=1.0)


class Under(NamedTuple):
    """What orders are decided under; None is what no decision has said yet."""

    model: Model | None = None
    policy: str | None = None
    control: int | None = None
    is_observed: bool | None = None
    settings: bytes | None = None
    """The header; empty where an older version wrote none."""
    instead: str | None = None
    """`name@version/policy` of the model that decided where another was to and could not; else empty."""
    lacks: tuple[str, ...] | None = None
    """`name@version` of the models in service of which the worker knew nothing when it sent the order on."""

    def and_then(self, told: "Under") -> "Under | None":
        """Both together; None where they contradict each other."""
        for mine, other in zip(self, told, strict=True):
            if mine is not None and other is not None and mine != other:
                return None
        return self.or_else(told)

    def or_else(self, other: "Under") -> "Under":
        """This, and what it does not say as the other says it."""
        return Under._make(theirs if mine is None else mine for mine, theirs in zip(self, other, strict=True))


UNTOLD: Final = Under()


class _Served:
    """The models in service, as published; those that could not be used then are not used."""

    def __init__(
        self, models: Models, instead: str | None = None, lacks: tuple[str, ...] | None = None
    ) -> None:
        self._models = models
        self._instead = instead
        self._lacks = lacks or ()

    def features(self, served: Served) -> Sequence[Feature] | None:
        if served.said in self._lacks:
            return None
        scorer = self._models.scorer(_model_of(served))
        return None if isinstance(scorer, Doubt) else scorer.features

    def scorer(self, served: Served) -> Scorer | None:
        if self._instead and f"{served.said}/{served.policy.digest}" != self._instead:
            return None
        scorer = self._models.scorer(_model_of(served))
        return None if isinstance(scorer, Doubt) else scorer


def _model_of(served: Served) -> Model:
    return Model(served.ref.name, served.ref.version, served.ref.digest)


class Desks:
    """The desks that decide as was decided, made once each."""

    def __init__(
        self, settings: Settings, models: Models, control: ControlPast, stages: Sequence[str] = ()
    ) -> None:
        """`stages` are the entities whose stages are gone through."""
        self._settings = settings
        self._own = Deciding.of(settings)
        self._own_decoder = decoder_of(settings)
        self._models = models
        self._control = control
        self._stages = dict.fromkeys(stages)
        self._desks: dict[tuple[Under, bool], tuple[ScoringDesk, Doubt | None]] = {}
        self._untold: dict[Under, Under] = {}
        self._lacking: dict[tuple[int, str], tuple[str, ...]] = {}
        self._names: dict[tuple[int, Model, tuple[str, ...] | None], str | None] = {}
        self._state = ControlState(settings.group)
        self._smallest: list[int | None] = [None, None]
        self.grew = ""
        """Which horizon was raised, if one was: what was forgotten before can't be told."""

    @property
    def has_mapping(self) -> bool:
        """Whether orders come in a shop's own JSON."""
        return self._own.mapping is not None

    @property
    def own(self) -> bytes:
        """The header of what is decided with the settings of now."""
        return self._own.encode()

    @property
    def named_now(self) -> Under:
        """The model that the settings of now name: it stands for one of which no decision tells."""
        return UNTOLD if self._models.own is None else Under(*self._models.own)

    def deciding(self, under: Under) -> Deciding:
        """The settings that decide; of decisions that do not say them those of now, at home."""
        if under.settings is None:
            return self._own
        said = Deciding.decode(under.settings) if under.settings else None
        return said or msgspec.structs.replace(self._own, entities=())

    def is_moved(self, control: int | None) -> bool:
        """Whether models were moved before a control offset, so that the service tells who decided."""
        return control is not None and self._control.is_moved(control)

    def lacking(self, control: int, names: str) -> tuple[str, ...]:
        """`name@version` of models in service then that ask what a message between stages does not speak of.

        Whoever sent it could not read them, so it computed nothing for them.
        """
        found = self._lacking.get((control, names))
        if found is None:
            found = self._lacking[control, names] = tuple(self._lacked(control, names))
        return found

    def _lacked(self, control: int, names: str) -> Iterator[str]:
        state = self._control.at(control)
        if isinstance(state, Doubt):
            return
        kill = state.service.kill
        spoken_of = {name.partition("#")[0] for name in names.split("\n")}
        models = _Served(self._models)
        for served in state.service.served:
            if kill is not None and (kill, served.role) != ("fallback", "fallback"):
                continue
            if not spoken_of.issuperset(each.name for each in models.features(served) or ()):
                yield served.said

    def untold(self, under: Under) -> Under:
        """What control does not tell: which models were in service, and their thresholds, it does.

        A decision is held to that, and not to the model it names. What is left is the model of the settings,
        and one that can't be had now.
        """
        if not self.is_moved(under.control):
            return under
        found = self._untold.get(under)
        if found is None:
            found = self._untold[under] = self._left_untold(under)
        return found

    def _left_untold(self, under: Under) -> Under:
        assert under.control is not None  # noqa: S101 - it was moved
        state = self._control.at(under.control)
        assert not isinstance(state, Doubt)  # noqa: S101 - as above
        served = state.service.served
        model, policy = under.model, under.policy
        is_served = any(_model_of(each) == model and policy in {None, each.policy.digest} for each in served)
        if is_served or (model is None and any(each.policy.digest == policy for each in served)):
            policy = None
        if model is not None and is_served and not isinstance(self._models.scorer(model), Doubt):
            model = None
        return under._replace(model=model, policy=policy)

    def with_settings_model(self, under: Under, names: str, known: Iterable[tuple[Model, str]]) -> Under:
        """With the model that the settings of the worker named, where a service leaves orders to that.

        An order that another one decided does not say which it was, but what was sent on of it speaks of its
        features too. Of those `known` with their policies it is the first that fits.
        """
        if under.model is not None or under.control is None or not self.is_moved(under.control):
            return under
        state = self._control.at(under.control)
        if isinstance(state, Doubt) or state.service.is_for_all or state.service.kill is not None:
            return under
        served = {(_model_of(each), each.policy.digest) for each in state.service.served}
        own = [] if self._models.own is None else [self._models.own]
        pairs = list(known)
        # it may be in service as well, with the same thresholds, so that nothing else tells of it
        for each in (*pairs[:1], *(pair for pair in pairs[1:] if pair not in served), *own, *pairs[1:]):
            if self._names_beside(under, each[0]) == names:
                return under._replace(model=each[0], policy=each[1])
        return under

    def _names_beside(self, under: Under, model: Model) -> str | None:
        """What is sent on speaks of so many features where the settings name this model."""
        assert under.control is not None  # noqa: S101 - asked by the caller
        key = (under.control, model, under.lacks)
        if key not in self._names:
            state, scorer = self._control.at(under.control), self._models.scorer(model)
            if isinstance(state, Doubt) or isinstance(scorer, Doubt):
                self._names[key] = None
            else:
                models = _Served(self._models, lacks=under.lacks)
                panel = Panel(
                    state.service,
                    scorer=scorer,
                    policy=_NO_POLICY,
                    models=models,
                    entities=tuple(self._stages),
                )
                self._names[key] = panel.home.names
        return self._names[key]

    def desk(self, under: Under, *, real: bool) -> tuple[ScoringDesk, Doubt | None]:
        """The desk that decides as was decided; a stand-in where that can't be or need not be."""
        self._remember_horizons(under)
        has_control = under.control is not None and under.control != NO_CONTROL
        # the state is told to the desk, so one desk does for all of them
        kind = (under._replace(control=NO_CONTROL if under.control is None else min(under.control, 0)), real)
        found = self._desks.get(kind)
        if found is None:
            found = self._desks[kind] = self._made_desk(under, real=real, has_control=has_control)
        desk, doubt = found
        if real and has_control and under.control is not None:
            state = self._control.at(under.control)
            if isinstance(state, Doubt):
                return self.desk(under._replace(control=NO_CONTROL), real=False)[0], state
            self._state = state
        return desk, doubt

    def _made_desk(self, under: Under, *, real: bool, has_control: bool) -> tuple[ScoringDesk, Doubt | None]:
        deciding = self.deciding(under)
        scorer, policy, doubt = _NO_SCORER, _NO_POLICY, None
        decoder: Decoder = CONTRACT
        if deciding.mapping is not None:
            decoder = self._own_decoder
            if deciding.mapping != self._own.mapping:
                doubt = Doubt(
                    "settings_differ",
                    f"decided with mapping {deciding.mapping}, and the one that is set now is "
                    f"{self._own.mapping or 'none'}; set the mapping of then (FRAUDSTREAM_MAPPING), and "
                    "verify again",
                )
        elif not under.settings:
            decoder = self._own_decoder
        row_limit = deciding.row_limit
        if under.model is not None and not under.settings:
            row_limit = self._models.row_limit(under.model) or row_limit
        if real:
            if under.policy is not None:
                known = self._policy(under.policy, under.control)
                if isinstance(known, Doubt):
                    doubt = known
                else:
                    policy = known
            if under.model is not None:
                loaded = self._models.scorer(under.model)
                if isinstance(loaded, Doubt):
                    doubt = loaded
                else:
                    scorer = loaded
        if not set(deciding.entities) <= self._stages.keys():
            doubt = Doubt(
                "through_stages",
                f"decided behind the stages of {', '.join(deciding.entities)}, and the setting entities is "
                f"'{','.join(self._stages)}': set FRAUDSTREAM_ENTITIES to what it was then, and verify again",
            )
        stages = {each: self._settings.topics.by(each) for each in deciding.entities if each in self._stages}
        desk = ScoringDesk(
            panels=Panels(
                scorer=scorer,
                policy=policy,
                models=_Served(self._models, under.instead, under.lacks) if real else None,
                entities=tuple(stages),
            ),
            topics=self._settings.topics,
            partitions=self._settings.partitions,
            row_limit=row_limit,
            ahead_by_at_most=deciding.ahead_by_at_most,
            reject_share=0.0,
            headers=(),
            in_force=(lambda: self._state) if has_control and real else None,
            observe=bool(under.is_observed),
            decoder=decoder,
            horizons=deciding.horizons,
            stages=stages,
        )
        return desk, doubt

    def _policy(self, digest: str, control: int | None) -> Policy | Doubt:
        """The thresholds of this digest: those of a model that was in service, or as the models know them."""
        state = self._control.at(control) if control is not None and self.is_moved(control) else None
        if isinstance(state, ControlState):
            for each in state.service.served:
                if each.policy.digest == digest:
                    return each.policy
        return self._models.policy(digest)

    def _remember_horizons(self, under: Under) -> None:
        horizons = self.deciding(under).horizons
        for at, (name, kept) in enumerate(
            (("forget_after_days", horizons.rows), ("order_memory_days", horizons.orders))
        ):
            before = self._smallest[at]
            if before is not None and (kept is None or kept > before):
                self.grew = name
            if kept is not None and (before is None or kept < before):
                self._smallest[at] = kept
