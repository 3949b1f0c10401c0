"""A model learned anew from the archive, measured, and published only when it passes every gate.

A job is a Python file that declares `MODEL`, whose period is where it begins, or a TOML file beside it that
says when and how; it never makes a model champion. Why it did or did not publish stands in its report.
"""

import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import ModelError
from models.evaluation import Difference, Ranking, difference
from models.examples import UNKNOWN, Examples
from models.gates import Gate, Limits, gates
from models.model import Model, Period
from models.registry import Registry
from models.report import Evaluated
from models.scorer import Scorer
from stream.control import LONGEST_CAUSE, append, in_force
from stream.deploying import Moved, Mover, Who
from stream.errors import Refusal
from stream.evaluating import judged_scorer, learned_until, written
from stream.jobs import Done, Evaluate, Learn, Past, Predict, Register, Scores
from stream.parity import held_against
from stream.replay import ReplayError
from stream.replay_files import replay_to
from stream.service import RETRAINED
from stream.settings import Settings
from stream.topics import TopicError
from stream.training_set import TrainingSet

__all__ = [
    "RetrainError",
    "RetrainJob",
    "Retrained",
    "Schedule",
    "into_shadow",
    "moved",
    "read_job",
    "retrain",
]

_DAY: Final = timedelta(days=1)


class RetrainError(Refusal):
    """A model can't be retrained as the job says; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which orders a run learns from and is measured on, counted back from when it runs.

    It is measured on the `test_days` before the last order that has matured, and learns from the `train_days`
    that end so long before those that its labels had matured when they began.
    """

    train_days: int = 90
    test_days: int = 14

    def periods(self, model: Model, as_of: datetime) -> tuple[Period, Period]:
        """The period to learn from and that to be measured on; both of whole days."""
        midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
        matured = -(-model.labels_mature_after // _DAY) * _DAY
        test_end = midnight - matured
        test_start = test_end - self.test_days * _DAY
        train_end = test_start - matured
        return Period(train_end - self.train_days * _DAY, train_end), Period(test_start, test_end)


@dataclass(frozen=True, slots=True)
class RetrainJob:
    """A model, when it learns, and what it has to pass."""

    model: Model
    schedule: Schedule
    limits: Limits
    then: str = "stop"
    """What comes after it is published: nothing (stop), or it looks on (shadow)."""


def read_job(file: Path) -> RetrainJob:
    """The job of a file: Python with MODEL (and SCHEDULE, LIMITS), or TOML that names such a file.

    It is code that runs: whoever may write the file may run code as this user. Raises RetrainError.
    """
    told: Mapping[str, Any] = {}
    code = file
    if file.suffix == ".toml":
        try:
            told = tomllib.loads(file.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise RetrainError(f"'{file}' can't be read: {error}; write TOML (docs/learning.md)") from None
        if not isinstance(told.get("model"), str):
            raise RetrainError(f"'{file}' names no model; write model = \"risk.py\" (docs/learning.md)")
        code = file.parent / told["model"]
    unknown = sorted(set(told) - {"model", "train_days", "test_days", "gates", "then"})
    if unknown:
        raise RetrainError(
            f"'{file}' says '{unknown[0]}', which nobody reads; take it out (docs/learning.md)"
        )
    if told.get("then", "stop") not in {"stop", "shadow"}:
        raise RetrainError(f'\'{file}\': then is "stop" or "shadow", not {told["then"]!r}')
    module = _module(code)
    model = getattr(module, "MODEL", None)
    if not isinstance(model, Model):
        raise RetrainError(f"'{code}' declares no MODEL; write MODEL = Model(...) (docs/learning.md)")
    schedule = getattr(module, "SCHEDULE", Schedule())
    limits = getattr(module, "LIMITS", None) or Limits.of(told.get("gates", {}))
    days = {name: told[name] for name in ("train_days", "test_days") if name in told}
    if any(not isinstance(each, int) or each < 1 for each in days.values()):
        raise RetrainError(f"'{file}': train_days and test_days are whole numbers of days, at least 1")
    return RetrainJob(model, replace(schedule, **days), limits, told.get("then", "stop"))


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"fraudstream_job_{file.stem}", file)
    if spec is None or spec.loader is None or not file.exists():
        raise RetrainError(f"there is no Python file '{file}'; name one that declares MODEL")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a feature's source is looked up by its module
    try:
        spec.loader.exec_module(module)
    except Refusal:
        raise
    except ModelError:
        raise
    except Exception as error:
        raise RetrainError(f"'{file}' failed with {type(error).__name__}: {error}; mend it") from error
    return module


@dataclass(slots=True)
class Retrained:
    """What came of it."""

    model: str
    trained_on: str
    tested_on: str
    gates: list[Gate] = field(default_factory=list)
    published: str | None = None
    why: str = ""
    report: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate let it through."""
        return all(each.passed for each in self.gates)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "model": self.model,
            "trained_on": self.trained_on,
            "tested_on": self.tested_on,
            "passed": self.passed,
            "published": self.published,
            "why": self.why,
            "gates": [{"name": e.name, "passed": e.passed, "said": e.said} for e in self.gates],
            "report": None if self.report is None else str(self.report),
        }


def retrain(
    job: RetrainJob,
    past: Past,
    registry: Registry,
    *,
    folder: Path,
    at_once: int = 2,
    memory: int | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Retrained:
    """Learn, measure, and publish where every gate lets it through; the report goes to `folder`.

    The champion stays, and `job.then` is left to `into_shadow`. Raises RetrainError, and what reading and
    learning raise.
    """
    trained_on, tested_on = job.schedule.periods(job.model, past.as_of)
    model = moved(job.model, trained_on)
    chain = Learn(model) >> Predict(model, tested_on) >> Evaluate()
    done = chain.run(past, folder / "cache", at_once=at_once, memory=memory, told=told)
    found = Retrained(model.name, str(trained_on), str(tested_on))
    champion, against = _against_champion(done, past, registry, model, folder)
    (scores,) = done.scores
    (evaluation,) = done.evaluations
    found.gates = list(
        gates(
            evaluation.judged[0],
            scores.examples,
            scores.p,
            job.limits,
            parity=_parity(model, past),
            against=against,
            champion=champion,
        )
    )
    if found.passed:
        registered = (chain >> Register(registry)).run(past, folder / "cache", at_once=at_once, memory=memory)
        found.published = registered.registered[-1]
        found.why = f"published {found.published}: every gate let it through. It is not champion"
        if job.then == "stop":
            found.why += f"; read the report, then: fraudstream models promote {found.published}"
    else:
        failed = "; ".join(f"{each.name}: {each.said}" for each in found.gates if not each.passed)
        found.why = f"not published: {failed}"
    found.report = folder / f"{model.name}-{past.as_of:%Y-%m-%d}.html"
    notes = [found.why, *(f"{'passed' if e.passed else 'FAILED'} {e.name}: {e.said}" for e in found.gates)]
    written(_noted(evaluation, notes), found.report)
    found.report.with_suffix(".json").write_text(json.dumps(found.as_json(), indent=2) + "\n")
    return found


def into_shadow(found: Retrained, settings: Settings, registry: Registry, *, who: str) -> Moved | None:
    """Record what came of it in the control topic, and have what was published look on beside what decides.

    None where nothing was published, or where that version is in service already: its trial goes on. Raises
    Refused where it may not be served, with the cause, which is recorded too; TopicError, Unreachable.
    """
    append(
        settings,
        RETRAINED,
        who=who,
        why=found.why[:LONGEST_CAUSE],
        model=found.model,
        published=found.published,
        trained_on=found.trained_on,
        tested_on=found.tested_on,
        gates=[{"name": e.name, "passed": e.passed, "said": e.said} for e in found.gates],
    )
    if found.published is None:
        return None
    if any(each.said == found.published for each in in_force(settings).service.served):
        return None
    why = f"learned from {found.trained_on}, and every gate let it through"
    return Mover(settings, registry, slowest_us=settings.gates.slowest_us).deploy(
        found.published, Who(who, why)
    )


def _noted(evaluation: Evaluated, notes: list[str]) -> Evaluated:
    return replace(evaluation, notes=(*evaluation.notes, *notes))


def moved(model: Model, to: Period) -> Model:
    """The model with another period; its submodels' periods stay as long before it, or its own."""
    shift = to.start - model.trained_on.start

    def shifted(each: Any) -> Any:
        if not isinstance(each, Model):
            return each
        if each.trained_on == model.trained_on:
            return moved(each, to)
        return moved(each, Period(each.trained_on.start + shift, each.trained_on.end + shift))

    return replace(model, features=tuple(map(shifted, model.features)), trained_on=to)


def _parity(model: Model, past: Past) -> Mapping[str, float] | None:
    """The share of unequal values of each feature that workers logged; None where none was logged."""
    recorded = past.opened()
    try:
        found, _ = held_against(past.settings, recorded, lambda: model.leaves)
    except (ReplayError, TopicError):
        return None  # no decisions, or none of orders that are there
    finally:
        recorded.close()
    logged = {
        name: found.unequal(name)
        for name, counts in found.found.items()
        if sum(counts.values()) > counts["not_logged"]
    }
    return logged or None


def _against_champion(
    done: Done, past: Past, registry: Registry, model: Model, folder: Path
) -> tuple[str | None, Difference | None]:
    """The champion of the same name, and how much better the new one is on the same orders."""
    version = registry.champion(model.name)
    if version is None:
        return None, None
    name = f"{model.name}@{version}"
    (scores,) = done.scores
    try:
        scorer = registry.load(model.name, version)
        examples = _with_features_of(scorer, scores, past, model, folder)
        until = learned_until(registry, scorer)
    except (ModelError, Refusal) as error:
        return f"{name} ({error})", None
    if until >= scores.period.start:
        name += ", which has learned from some of these orders,"
    known = examples.labels != UNKNOWN
    examples, p = examples.where(known), scores.p[known]
    is_fraud = examples.labels == 1
    champion = judged_scorer(scorer, examples).p
    return name, difference(
        Ranking.of(p, is_fraud),
        Ranking.of(champion, is_fraud),
        np.ones(len(p)),
        examples.clusters,
        Ranking.average_precision,
    )


def _with_features_of(scorer: Scorer, scores: Scores, past: Past, model: Model, folder: Path) -> Examples:
    """The same orders with what another model asks; read once more where it asks something else."""
    if {each.name for each in scorer.features} <= set(scores.examples.names):
        return scores.examples
    file = folder / "champion.parquet"
    replay_to(past.rows(scorer.features, scores.period), past.opened, file, processes=past.processes)
    examples = TrainingSet.open(file).examples().labelled(past.judged(model))
    if not np.array_equal(examples.order_id, scores.examples.order_id):
        raise RetrainError("the past has changed while it was read; retrain from an archive")
    return examples
