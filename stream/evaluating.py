"""Published models, or those of a chain of jobs, measured on labelled orders; and the report about it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import RegistryError
from models.evaluation import Costs
from models.examples import Examples
from models.flat import FlatModel
from models.labels import Labelling
from models.policy import rounded
from models.registry import Registry, named
from models.report import Evaluated, Scored, evaluated, page
from models.scorer import Scorer
from models.shapley import mean_shapley
from stream.plainly import write_whole
from stream.training_set import TrainingSet, TrainingSetError

__all__ = ["attributions_of", "evaluate_set", "judged_scorer", "learned_until", "written"]

Floats = npt.NDArray[np.float64]


def evaluate_set(
    registry: Registry,
    models: Sequence[str],
    on: TrainingSet,
    *,
    costs: Costs | None = None,
    with_learned_from: bool = False,
    memory: int | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Evaluated:
    """Measure published models, `name` or `name@version`, on orders that they did not learn from.

    Orders placed no later than the last that one of them learned from are left out, unless
    `with_learned_from`. Raises TrainingSetError where a feature is not in the set or no order is left, and
    RegistryError.
    """
    scorers = [registry.load(*named(each)) for each in models]
    asked = list(dict.fromkeys(each.name for scorer in scorers for each in scorer.features))
    missing = [name for name in asked if name not in on.names]
    if missing:
        raise TrainingSetError(
            f"'{on.file}' has no feature '{missing[0]}'; build it with the features of every model: "
            f"--features {','.join(asked[:3])},…"
        )
    examples = on.examples(memory=memory, names=asked)
    notes = []
    last = max(learned_until(registry, scorer) for scorer in scorers)
    is_later = examples.placed_at > np.datetime64(last.replace(tzinfo=None), "us")
    if with_learned_from:
        notes.append(
            f"{int((~is_later).sum()):,} of these orders were placed no later than the last that a model "
            "learned from: of those it knew the answer, and every figure is too good."
        )
    else:
        left_out = int((~is_later).sum())
        examples = examples.where(is_later)
        if not len(examples):
            raise TrainingSetError(
                f"every order in '{on.file}' was placed by {last:%Y-%m-%d %H:%M}, up to when a model "
                "learned; build a set of later orders (--since)"
            )
        if left_out:
            notes.append(
                f"{left_out:,} orders placed by {last:%Y-%m-%d %H:%M} UTC, up to when a model learned, are "
                "left out."
            )
    judged = []
    for scorer in scorers:
        told(f"scoring {len(examples):,} orders by {scorer.name}@{scorer.version}")
        judged.append(judged_scorer(scorer, examples, learned_from=_learned_from(registry, scorer)))
    title = f"Evaluation of {', '.join(each.name for each in judged)}"
    return evaluated(title, examples, judged, labelling_of(on), costs=costs, notes=notes)


def labelling_of(on: TrainingSet) -> Labelling:
    """How the labels of a training set were made."""
    try:
        return Labelling(
            datetime.fromisoformat(on.told["as_of"]),
            timedelta(days=on.told["labels_mature_after_days"]),
            on.told["silence"],
        )
    except KeyError:
        raise TrainingSetError(
            f"'{on.file}' does not say how its labels were made; make one: fraudstream training-set"
        ) from None


def judged_scorer(scorer: Scorer, examples: Examples, *, learned_from: str = "") -> Scored:
    """A published model and what it says of orders."""
    names = tuple(each.name for each in scorer.features)

    def score(matrix: Floats) -> Floats:
        walked = scorer.walk(matrix)  # type: ignore[arg-type]
        return np.array([rounded(each) for each in walked[scorer.nodes[-1].name].p.tolist()])

    top = scorer.nodes[-1].model
    # of a tree's top both are about its submodels' scores, and not about the features alone
    is_alone = scorer.nodes[-1].inputs == names
    return Scored(
        f"{scorer.name}@{scorer.version}",
        score(examples.only(names).matrix),
        names,
        score,
        attributions_of(top) if is_alone else None,
        partial(mean_shapley, top) if is_alone else None,
        learned_from,
    )


def attributions_of(model: FlatModel) -> Callable[[Floats], Floats]:
    """Path attributions of rows of its features."""
    return lambda matrix: model.walk(matrix).attributions


def learned_until(registry: Registry, scorer: Scorer) -> datetime:
    """When the last order was placed that a model learned from. Raises RegistryError where nobody knows."""
    said = str(registry.manifest(scorer.name, scorer.version).trained_on.get("last_placed_at", ""))
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        message = (
            f"{scorer.name}@{scorer.version} does not say until when it learned, so nobody knows which "
            "orders it has seen; evaluate another version"
        )
        raise RegistryError(message) from None
    return moment


def _learned_from(registry: Registry, scorer: Scorer) -> str:
    told = registry.manifest(scorer.name, scorer.version).trained_on
    first, last = (str(told.get(name, "?"))[:10] for name in ("first_placed_at", "last_placed_at"))
    orders = told.get("labelled_orders")
    return f"{f'{orders:,}' if isinstance(orders, int) else '?'} orders, {first} to {last}"


def written(found: Evaluated, to: Path) -> None:
    """Write the report, whole or not at all."""
    write_whole(to, page(found))
