"""Jobs of learning, written as one sentence.

    Learn(model) >> Predict(model, period) >> Evaluate() >> Register(registry)

A chain describes and checks itself when it is written; `plan` says what it would do on a past, `run` does it.
What was done before on the same past is taken from a folder, by the digest of everything that decides it: a
changed leaf is learned again, and what stands above it. Models that need nothing of each other learn at once.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from features.catalogue import CATALOGUE
from features.define import Feature
from models.errors import ModelDefinitionError, TrainingError
from models.examples import UNKNOWN, Examples
from models.labels import Labelling, Silence
from models.learn import Rows, learn, libraries, out_of_fold
from models.manifest import Manifest, arrays_of, golden_of, manifest_of, nodes_of
from models.model import Model, Period
from models.policy import Policy, suggest_policy
from models.predictors import HistGradientBoosting
from models.registry import Registry
from models.trained import Node, Trained
from stream.errors import Refusal
from stream.own_features import catalogue_of
from stream.replay import Opened
from stream.replay_files import replay_to
from stream.settings import Settings
from stream.training_set import Chosen, TrainingRows, TrainingSet, kept_in_sample

if TYPE_CHECKING:
    from models.report import Evaluated

__all__ = ["Chain", "Done", "Evaluate", "JobError", "Learn", "Past", "Plan", "Predict", "Register", "Scores"]

Floats = npt.NDArray[np.float64]

FOLDS: Final = 5
_DAY: Final = timedelta(days=1)


class JobError(Refusal):
    """A job can't be done as it is written; the message says why and what to do."""


# ---------------------------------------------------------------------- what a chain says


class _Job:
    def __rshift__(self, then: "Job | Chain") -> "Chain":
        """This, then that."""
        return self.alone >> then

    @property
    def alone(self) -> "Chain":
        """This job and nothing after it."""
        return Chain((self,))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Learn(_Job):
    """Learn a model, its submodels first."""

    model: Model


@dataclass(frozen=True, slots=True)
class Predict(_Job):
    """Score the orders placed in a period by a model that was learned before."""

    model: Model
    period: Period


@dataclass(frozen=True, slots=True)
class Evaluate(_Job):
    """Measure all that was predicted, on the orders that all of it is about."""

    to: Path | None = None
    """Where the report goes, a page of HTML; None for the measures alone."""


@dataclass(frozen=True, slots=True)
class Register(_Job):
    """Publish what was learned to a registry; with `promote` the last model becomes champion."""

    registry: Registry
    promote: bool = False


Job = Learn | Predict | Evaluate | Register


@dataclass(frozen=True)
class Chain:
    """Jobs one after the other.

    Raises ModelDefinitionError for a prediction of a model that is not learned before it, or of a period in
    which the model learned, for an evaluation of nothing, and for a registration of nothing.
    """

    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        """Check the order of the jobs."""
        learned: dict[str, Model] = {}
        predicted = False
        for job in self.jobs:
            match job:
                case Learn(model):
                    if learned.setdefault(model.name, model).digest != model.digest:
                        _refuse(f"two models are called '{model.name}'; give one another name")
                case Predict(model, period):
                    if learned.get(model.name) is None or learned[model.name].digest != model.digest:
                        _refuse(f"Predict({model.name}) needs Learn({model.name}) before it")
                    for each in model.nodes:
                        if period.start < each.trained_on.end:
                            _refuse(
                                f"Predict({model.name}, {period}) begins before the period ends that "
                                f"'{each.name}' learned from ({each.trained_on}); start it later, for what a "
                                "model says of what it knows says nothing"
                            )
                    predicted = True
                case Evaluate():
                    if not predicted:
                        _refuse("Evaluate needs a Predict before it")
                case Register():
                    if not learned:
                        _refuse("Register needs a Learn before it")

    def __rshift__(self, then: "Job | Chain") -> "Chain":
        """These, then that."""
        return Chain((*self.jobs, *(then.jobs if isinstance(then, Chain) else (then,))))

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that are asked for, each once."""
        return tuple({job.model.name: job.model for job in self.jobs if isinstance(job, Learn)}.values())

    @cached_property
    def nodes(self) -> tuple[Model, ...]:
        """Those and their submodels, each after what it asks."""
        found: dict[str, Model] = {}
        for model in self.models:
            for node in model.nodes:
                if found.setdefault(node.name, node).digest != node.digest:
                    _refuse(f"two models are called '{node.name}'; give one another name")
        return tuple(found.values())

    @cached_property
    def leaves(self) -> tuple[Feature, ...]:
        """Every feature that any of them asks, once."""
        found: dict[str, Feature] = {}
        for model in self.models:
            for each in model.leaves:
                if found.setdefault(each.name, each).declaration != each.declaration:
                    _refuse(f"two features are called '{each.name}'; give one another name")
        return tuple(found.values())

    @cached_property
    def span(self) -> Period:
        """From the first to the last order that is looked at."""
        periods = [node.trained_on for node in self.nodes]
        periods += [job.period for job in self.jobs if isinstance(job, Predict)]
        return Period(min(each.start for each in periods), max(each.end for each in periods))

    def plan(self, past: "Past", cache: Path) -> "Plan":
        """What would be done on a past, and what is done already; reads the bounds and changes nothing."""
        return Plan(self, past, cache)

    def run(
        self,
        past: "Past",
        cache: Path,
        *,
        at_once: int = 2,
        memory: int | None = None,
        told: Callable[[str], None] = lambda _: None,
    ) -> "Done":
        """Do it. `at_once` bounds how many models learn at once, `memory` the bytes of the orders as arrays.

        Raises JobError, and what reading, learning and publishing raise.
        """
        return _Run(self.plan(past, cache), at_once=at_once, memory=memory, told=told).done()


def _refuse(why: str) -> None:
    raise ModelDefinitionError(why)


# ---------------------------------------------------------------------- what it is done on


@dataclass(frozen=True, slots=True)
class Past:
    """A recorded past that can be learned from, and how its silence is read.

    `as_of` is the cut-off: what became known later does not count. `place` says in digests whose past it is.
    """

    settings: Settings
    opened: Opened
    as_of: datetime
    silence: Silence = "unknown"
    place: str = ""
    processes: int = 1
    caught_since: datetime | None = None
    """From when on a fraud counts as catching its customer; None is from the beginning."""

    def digest(self) -> str:
        """What two pasts share only if they recorded the same, are read alike, and are cut off alike."""
        settings = self.settings
        recorded = self.opened()
        try:
            spans = TrainingRows(settings, tuple, self._chosen(None)).inputs(recorded)
        finally:
            recorded.close()
        told = [
            self.place or settings.broker,
            sorted((*tp, *span) for tp, span in spans.items()),
            [settings.row_limit, settings.forget_after_days, settings.order_memory_days],
            [settings.ahead_by_at_most_s, str(settings.mapping)],
            [self.as_of.isoformat(), str(self.caught_since)],
        ]
        return _digest(told)

    def _chosen(self, span: Period | None) -> Chosen:
        since, until = (None, None) if span is None else (span.start, span.end)
        return Chosen(
            Labelling(self.as_of, timedelta(0)),
            since=since,
            until=until,
            unlabelled=True,
            caught_since=self.caught_since,
        )

    def rows(self, features: Sequence[Feature], span: Period) -> TrainingRows:
        """The job that writes down all orders of the span with these features."""
        return TrainingRows(self.settings, Declared(self.settings, tuple(features)), self._chosen(span))

    def labelling(self, model: Model) -> Labelling:
        """The labels that a model learns from: those known when the last order of its period had matured."""
        matured = model.trained_on.end + model.labels_mature_after
        return Labelling(min(self.as_of, matured), model.labels_mature_after, self._silence_of(model))

    def _silence_of(self, model: Model) -> Silence:
        return self.silence if model.labels_mature_after else "unknown"

    def judged(self, model: Model) -> Labelling:
        """The labels that a model is measured by: those known now, of orders that have matured."""
        return Labelling(self.as_of, model.labels_mature_after, self._silence_of(model))


class Declared:
    """Features for a process of its own: those of the catalogue go there by their names.

    One that is in no catalogue goes as it is, which a function of an order can't: put such into the setting
    `features`, or use one process.
    """

    def __init__(self, settings: Settings, features: Sequence[Feature]) -> None:
        self._settings, self._features = settings, tuple(features)

    def __call__(self) -> Sequence[Feature]:
        return self._features

    def __getstate__(self) -> dict[str, Any]:
        known = {each.name: each for each in (*CATALOGUE, *catalogue_of(self._settings).own)}
        sent = [
            each.name if each.name in known and known[each.name].declaration == each.declaration else each
            for each in self._features
        ]
        return {"settings": self._settings, "sent": sent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings = state["settings"]
        catalogue = catalogue_of(self._settings)
        sent = state["sent"]
        self._features = tuple(catalogue.by_name(each) if isinstance(each, str) else each for each in sent)


def _digest(told: Any) -> str:
    return sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


# ---------------------------------------------------------------------- the plan


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: reading, learning, scoring out of fold."""

    name: str
    key: str
    needs: tuple[str, ...]
    is_done: bool


class Plan:
    """What a chain comes to on a past; `print(plan)` shows it."""

    def __init__(self, chain: Chain, past: Past, cache: Path) -> None:
        """Reads the bounds of the past, and what lies in the cache."""
        self.chain, self.past, self.cache = chain, past, cache
        span = chain.span
        self.rows_key = _digest([past.digest(), span.start.isoformat(), span.end.isoformat()])
        self.sets = self._sets()
        there = {each for one in self.sets for each in one.told.get("declarations", {}).items()}
        self.missing = [each for each in chain.leaves if (each.name, _digest(each.declaration)) not in there]
        self.keys = {node.name: self._key_of(node) for node in chain.nodes}

    def _sets(self) -> list[TrainingSet]:
        """The training sets of this span that were written before."""
        return [TrainingSet.open(file) for file in sorted(self.folder.glob("*.parquet"))]

    @property
    def folder(self) -> Path:
        """Where the span's training sets are."""
        return self.cache / "rows" / self.rows_key[:32]

    def _key_of(self, node: Model) -> str:
        labelling = self.past.labelling(node)
        told = [node.digest, self.rows_key, labelling.as_of.isoformat(), labelling.silence, libraries(node)]
        return _digest(told)

    def learned(self, node: Model) -> Path:
        """Where a learned model is kept."""
        return self.cache / "models" / f"{node.name}-{self.keys[node.name][:32]}"

    def folded(self, node: Model) -> Path:
        """Where its scores out of fold are kept."""
        return self.cache / "models" / f"{node.name}-{self.keys[node.name][:32]}.folds.npy"

    @cached_property
    def shared(self) -> frozenset[str]:
        """The submodels that learn from the period of what stands above them."""
        return frozenset(
            submodel.name
            for node in self.chain.nodes
            for submodel in node.submodels
            if submodel.trained_on == node.trained_on
        )

    def steps(self) -> Iterator[Step]:
        """What there is to do, each after what it needs."""
        read = f"read {len(self.missing)} features" if self.missing else "read the orders"
        yield Step(read, self.rows_key, (), not self.missing)
        for node in self.chain.nodes:
            needs = tuple(
                f"score {each.name} out of fold" if each.name in self.shared else f"learn {each.name}"
                for each in node.submodels
            )
            key = self.keys[node.name]
            yield Step(f"learn {node.name}", key, needs or (read,), self.learned(node).exists())
            if node.name in self.shared:
                yield Step(
                    f"score {node.name} out of fold", key, needs or (read,), self.folded(node).exists()
                )

    def __str__(self) -> str:
        """A line for each step, then the jobs that follow."""
        lines = [
            f"{'done before' if each.is_done else 'to do':11}  {each.name:40}  {each.key[:12]}"
            + (f"  after {', '.join(each.needs)}" if each.needs else "")
            for each in self.steps()
        ]
        for job in self.chain.jobs:
            match job:
                case Predict(model, period):
                    lines.append(f"{'to do':11}  predict {model.name}, {period}")
                case Evaluate(to):
                    lines.append(f"{'to do':11}  evaluate{'' if to is None else f' into {to}'}")
                case Register(registry, promote):
                    lines.append(f"{'to do':11}  register in {registry}{', as champion' if promote else ''}")
                case Learn():
                    pass
        return "\n".join(lines)


# ---------------------------------------------------------------------- what comes out


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a model says of the orders of a period."""

    model: Model
    period: Period
    examples: Examples
    p: Floats


@dataclass(slots=True)
class Done:
    """What a chain has come to."""

    trained: dict[str, Trained] = field(default_factory=dict)
    """What was asked for, as the registry takes it."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """Every model, submodels too."""
    labels: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """By model: of the orders it learned from, whether they were fraud."""
    scores: list[Scores] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    """The models that were learned, and not taken from before."""
    reused: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    evaluations: list["Evaluated"] = field(default_factory=list)


class _Run:
    def __init__(self, plan: Plan, *, at_once: int, memory: int | None, told: Callable[[str], None]) -> None:
        self._plan, self._chain, self._past = plan, plan.chain, plan.past
        self._at_once, self._memory, self._told = at_once, memory, told
        self._folded: dict[str, Floats] = {}
        self._done = Done()
        self._nodes = self._done.nodes

    def done(self) -> Done:
        self._examples = self._read()
        self._learn()
        for job in self._chain.jobs:
            match job:
                case Predict(model, period):
                    self._done.scores.append(self._predict(model, period))
                case Evaluate(to):
                    self._evaluate(to)
                case Register(registry, promote):
                    self._register(registry, promote=promote)
                case Learn():
                    pass
        return self._done

    # the orders

    def _read(self) -> Examples:
        plan = self._plan
        if plan.missing:
            self._told(f"reading orders with {len(plan.missing)} features")
            plan.folder.mkdir(parents=True, exist_ok=True)
            declared = {each.name: _digest(each.declaration) for each in plan.missing}
            file = plan.folder / f"{_digest(declared)[:32]}.parquet"
            job = self._past.rows(plan.missing, self._chain.span)
            replay_to(job, self._past.opened, file, processes=self._past.processes)
            plan = self._plan = Plan(self._chain, self._past, plan.cache)
        return self._side_by_side(plan.sets)

    def _side_by_side(self, sets: Sequence[TrainingSet]) -> Examples:
        wanted = {each.name: _digest(each.declaration) for each in self._chain.leaves}
        found: Examples | None = None
        for one in sets:
            declared = one.told.get("declarations", {})
            here = [name for name in one.names if name in wanted and declared.get(name) == wanted[name]]
            if not here:
                continue
            for name in here:
                del wanted[name]
            # those of one order stand in one place, whichever histories were asked
            part = one.examples(memory=self._memory, names=here)
            found = part if found is None else found.beside(part)
        if found is None:
            raise JobError(f"no order was placed in {self._chain.span}; choose another period")
        return found

    # learning

    def _learn(self) -> None:
        waiting = list(self._chain.nodes)
        while waiting:
            ready = [node for node in waiting if all(each.name in self._nodes for each in node.submodels)]
            tasks = [task for node in ready for task in self._tasks(node)]
            threads = max(1, self._at_once // max(1, len(tasks)))
            results = Parallel(n_jobs=self._at_once, backend="threading")(
                delayed(task)(threads) for task in tasks
            )
            for name, kind, value in results:
                (self._nodes if kind == "learn" else self._folded)[name] = value
            waiting = [node for node in waiting if node not in ready]

    def _tasks(self, node: Model) -> list[Callable[[int], tuple[str, str, Any]]]:
        """What has to be worked out of a model; what was worked out before is read at once."""
        plan, tasks = self._plan, list[Callable[[int], tuple[str, str, Any]]]()
        chosen = self._chosen(node)
        self._done.labels[node.name] = self._labelled(node).where(chosen).labels == 1
        if plan.learned(node).exists():
            self._nodes[node.name] = _read_node(plan.learned(node))
            self._done.reused.append(node.name)
        else:
            self._done.learned.append(node.name)
            tasks.append(partial(self._learn_one, node, chosen))
        if node.name in plan.shared:
            if plan.folded(node).exists():
                self._folded[node.name] = np.load(plan.folded(node), allow_pickle=False)
            else:
                tasks.append(partial(self._fold_one, node, chosen))
        return tasks

    def _learn_one(self, node: Model, chosen: npt.NDArray[np.bool_], threads: int) -> tuple[str, str, Any]:
        self._told(f"learning {node.name} from {int(chosen.sum()):,} orders")
        learned = learn(node, self._rows(node, chosen), threads=_threads_for(node, threads))
        _write_node(self._plan.learned(node), node, learned)
        return node.name, "learn", learned

    def _fold_one(self, node: Model, chosen: npt.NDArray[np.bool_], threads: int) -> tuple[str, str, Any]:
        self._told(f"scoring {node.name} out of fold")
        # of every order one place, where it did not learn from the order what the whole model says
        scores = np.full(len(self._examples), np.nan)
        threads = _threads_for(node, threads)
        scores[chosen] = out_of_fold(node, self._rows(node, chosen), folds=FOLDS, threads=threads)
        self._plan.folded(node).parent.mkdir(parents=True, exist_ok=True)
        np.save(self._plan.folded(node), scores, allow_pickle=False)
        return node.name, "fold", scores

    def _chosen(self, node: Model) -> npt.NDArray[np.bool_]:
        """The orders that a model learns from."""
        examples = self._labelled(node)
        chosen = (examples.labels != UNKNOWN) & _within(examples, node.trained_on)
        if node.countries is not None:
            chosen &= np.isin(examples.country.astype(str), node.countries)
        if node.without_caught:
            chosen &= ~(examples.caught_at <= examples.placed_at)
        if node.sampled < 1:
            kept = [kept_in_sample(each, node.sampled) for each in examples.order_id]
            chosen &= (examples.labels == 1) | np.array(kept, dtype=np.bool_)
        if not chosen.any():
            raise TrainingError(
                f"'{node.name}' has nothing to learn from: no order of {node.trained_on} has a label that "
                f"had matured by {self._past.labelling(node).as_of:%Y-%m-%d}; choose an earlier period, or "
                "say what silence means"
            )
        return np.asarray(chosen)

    def _labelled(self, node: Model) -> Examples:
        return self._examples.labelled(self._past.labelling(node))

    def _rows(self, node: Model, chosen: npt.NDArray[np.bool_]) -> Rows:
        examples, labels = self._labelled(node).where(chosen), self._done.labels[node.name]
        weights = None if node.sampled >= 1 else np.where(labels, 1.0, 1.0 / node.sampled)
        return Rows(
            self._matrix(node, examples, chosen),
            labels,
            weights=weights,
            amounts=examples.amount,
            groups=examples.clusters,
        )

    def _matrix(self, node: Model, examples: Examples, chosen: npt.NDArray[np.bool_] | None) -> Floats:
        """The columns of a model: features, and what its submodels say.

        With `chosen`, where these orders stand, submodels of the same period say it out of fold.
        """
        columns = []
        for each in node.features:
            if not isinstance(each, Model):
                columns.append(examples.matrix[:, examples.names.index(each.name)])
                continue
            said = self._nodes[each.name].score(self._matrix(each, examples, None))
            if chosen is not None and each.trained_on == node.trained_on:
                folded = self._folded[each.name][chosen]
                said = np.where(np.isnan(folded), said, folded)
            columns.append(said)
        return np.asarray(np.column_stack(columns), dtype=np.float64)

    # what follows

    def _predict(self, model: Model, period: Period) -> Scores:
        examples = self._examples.where(_within(self._examples, period)).labelled(self._past.judged(model))
        if not len(examples):
            raise JobError(f"no order was placed in {period}; predict another period")
        return Scores(model, period, examples, self._score(model, examples))

    def _score(self, model: Model, examples: Examples) -> Floats:
        return self._nodes[model.name].score(self._matrix(model, examples, None))

    def trained(self, model: Model) -> Trained:
        """A model as the registry takes it."""
        chosen = self._chosen(model)
        labels = self._done.labels[model.name]
        placed = self._examples.placed_at[chosen]
        metrics, policy, split = self._measured(model)
        day = self._past.as_of.astimezone(UTC).date().isoformat()
        return Trained(
            name=model.name,
            version=f"{day}.{self._plan.keys[model.name][:8]}",
            features=model.leaves,
            nodes=tuple(self._nodes[each.name] for each in model.nodes),
            suggested_policy=policy,
            metrics=metrics,
            split=split,
            trained_at=day,
            trained_on={
                "first_placed_at": f"{placed.min()}Z",
                "last_placed_at": f"{placed.max()}Z",
                "labelled_orders": len(labels),
                "fraud_orders": int(labels.sum()),
                "labels_mature_after_days": str(model.labels_mature_after / _DAY),
                "labels_as_of": self._past.labelling(model).as_of.isoformat(),
                "countries": "all" if model.countries is None else ", ".join(model.countries),
                "period": str(model.trained_on),
            },
            settings={
                "predictor": str(model.predictor),
                "row_limit": self._past.settings.row_limit,
                "model_digest": model.digest,
            },
            libraries=libraries(*model.nodes),
        )

    def _measured(self, model: Model) -> tuple[dict[str, float | int | None], Policy, str]:
        from models.evaluation import measured  # noqa: PLC0415 - only where something is measured

        mine = [each for each in self._done.scores if each.model.name == model.name]
        if not mine:
            nothing = "nothing was measured: the chain had no Predict of this model"
            return {}, Policy(review_at=0.5, decline_at=0.9), nothing
        last = mine[-1]
        known = last.examples.labels != UNKNOWN
        labels, p = last.examples.labels[known] == 1, last.p[known]
        found = measured(p, labels, np.ones(len(p)))
        metrics: dict[str, float | int | None] = {
            "holdout_orders": found.orders,
            "holdout_fraud": found.frauds,
            "holdout_prevalence": found.frauds / found.orders if found.orders else None,
            "holdout_auc": found.auc,
            "holdout_average_precision": found.average_precision,
        }
        if not len(p):
            return metrics, Policy(review_at=0.5, decline_at=0.9), "no order of the period had matured"
        split = (
            f"learned from {model.trained_on}, measured on {last.period}, by labels as of "
            f"{self._past.as_of:%Y-%m-%d} that were {model.labels_mature_after / _DAY:g} days old"
        )
        return metrics, suggest_policy(p.tolist(), labels.tolist()), split

    def _evaluate(self, to: Path | None) -> None:
        """Measure what was predicted, on the orders that all predictions are about."""
        from models.report import Scored, evaluated  # noqa: PLC0415 - only where something is measured
        from models.shapley import mean_shapley  # noqa: PLC0415
        from stream.evaluating import attributions_of, written  # noqa: PLC0415

        scores = self._done.scores
        start = max(each.period.start for each in scores)
        end = min(each.period.end for each in scores)
        if start >= end:
            raise JobError(
                "the predicted periods have no order in common; predict the same period by each model"
            )
        common = Period(start, end)
        # the latest to mature: a label is then evidence for all
        slowest = max((each.model for each in scores), key=lambda model: model.labels_mature_after)
        labelling = self._past.judged(slowest)
        chosen = _within(self._examples, common)
        examples = self._examples.where(chosen).labelled(labelling)
        judged = []
        for model in {each.model.name: each.model for each in scores}.values():
            names = tuple(each.name for each in model.leaves)
            flat = self._nodes[model.name].model
            judged.append(
                Scored(
                    model.name,
                    self._score(model, examples),
                    names,
                    partial(self._score_rows, model, names),
                    None if model.submodels else attributions_of(flat),
                    None if model.submodels else partial(mean_shapley, flat),
                    learned_from=str(model.trained_on),
                )
            )
        title = f"Evaluation of {', '.join(each.name for each in judged)}"
        found = evaluated(title, examples, judged, labelling)
        self._done.evaluations.append(found)
        if to is not None:
            written(found, to)

    def _score_rows(self, model: Model, names: tuple[str, ...], rows: Floats) -> Floats:
        """Scores of rows of all features of the tree."""
        columns = dict(zip(names, rows.T, strict=True))

        def matrix(node: Model) -> Floats:
            said = [
                self._nodes[each.name].score(matrix(each)) if isinstance(each, Model) else columns[each.name]
                for each in node.features
            ]
            return np.asarray(np.column_stack(said), dtype=np.float64)

        return self._nodes[model.name].score(matrix(model))

    def _register(self, registry: Registry, *, promote: bool) -> None:
        for model in self._chain.models:
            trained = self._done.trained[model.name] = self.trained(model)
            if (trained.name, trained.version) not in registry.list():
                registry.publish(trained)
            self._done.registered.append(f"{trained.name}@{trained.version}")
        if promote:
            registry.promote(trained.name, trained.version)


def _threads_for(node: Model, threads: int) -> int:
    """How many threads a model learns with: histograms in one.

    Its threads wait for each other after each split, spinning: beside whatever else runs they crawl.
    """
    return 1 if isinstance(node.predictor, HistGradientBoosting) else threads


def _within(examples: Examples, period: Period) -> npt.NDArray[np.bool_]:
    start, end = (np.datetime64(each.replace(tzinfo=None), "us") for each in (period.start, period.end))
    return np.asarray((examples.placed_at >= start) & (examples.placed_at < end))


# ---------------------------------------------------------------------- what is kept


_KEPT_MANIFEST, _KEPT_ARRAYS, _KEPT_GOLDEN = "manifest.json", "arrays.safetensors", "golden.safetensors"


def _write_node(folder: Path, model: Model, node: Node) -> None:
    """Keep a learned model, in the registry's own formats: nothing in the cache can run code."""
    alone = Trained(
        name=node.name,
        version="kept",
        features=(),
        nodes=(node,),
        suggested_policy=Policy(review_at=0.5, decline_at=0.9),
        metrics={},
        split="",
        trained_at="",
        trained_on={},
        settings={"predictor": str(model.predictor)},
        libraries={},
    )
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(alone, {})
    (unfinished / _KEPT_MANIFEST).write_text(manifest.model_dump_json())
    (unfinished / _KEPT_ARRAYS).write_bytes(arrays_of(alone.nodes))
    (unfinished / _KEPT_GOLDEN).write_bytes(golden_of(alone.nodes))
    unfinished.replace(folder)


def _read_node(folder: Path) -> Node:
    manifest = Manifest.model_validate_json((folder / _KEPT_MANIFEST).read_text())
    arrays, golden = (folder / _KEPT_ARRAYS).read_bytes(), (folder / _KEPT_GOLDEN).read_bytes()
    (node,) = nodes_of(manifest, arrays, golden)
    node.golden.check(node.model)
    return node
