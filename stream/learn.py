"""A labelled past from outside to a published model: the world's side of `models.train`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from features.decode import Rejection, read_order
from features.events import Order
from models.errors import TrainingError
from models.policy import Policy
from models.train import LEFT_OUT, Kept, PredictorKind, train
from stream.own_features import catalogue_of
from stream.registry import registry_of
from stream.settings import Settings

__all__ = ["Learnt", "UnreadLine", "learn", "learn_from_lines"]

FEWEST_FRAUD = 10
"""Frauds a model must have been measured on to be put in service without being told to."""

MOST_UNREAD = 0.01
"""The share of a file's lines that may be unreadable without being told so."""

_Labelled = tuple[Order, bool | None]


class _Label(msgspec.Struct):
    is_fraud: bool | None = None


@dataclass(frozen=True, slots=True)
class Learnt:
    """A model that was trained and published."""

    name: str
    version: str
    place: str
    promoted: bool
    """Whether it is the champion now."""
    features: tuple[str, ...]
    """The names of its features, in the model's order."""
    labelled: int
    fraud: int
    metrics: Mapping[str, float | int | None]
    policy: Policy
    left_out: Mapping[str, int]
    """Orders that taught nothing, by what they were."""


def learn(
    settings: Settings,
    examples: Iterable[_Labelled],
    *,
    name: str,
    features: str = "starter",
    predictor: PredictorKind = "random_forest",
    seed: int = 0,
    promote: bool | None = None,
) -> Learnt:
    """Train on orders in log order, publish the model to the registry and make it the champion.

    `features` names those it learns from, as `Catalogue.chosen` reads it. Unless told whether to `promote`
    it, a model measured on fewer than FEWEST_FRAUD frauds it had not seen stays out of service: nobody
    knows how good it is.
    """
    catalogue = catalogue_of(settings)
    trained = train(
        examples,
        name=name,
        features=catalogue.chosen(features),
        predictor=predictor,
        trained_at=datetime.now(UTC).date(),
        row_limit=settings.row_limit,
        seed=seed,
        kept=Kept(_days(settings.forget_after_days), _days(settings.order_memory_days)),
        entities=settings.entities,
    )
    registry = registry_of(settings, catalogue.by_name)
    # The same past, seed and day give the same version, and versions never change: nothing to publish.
    if registry.has(name, trained.version):
        place = registry.place(name, trained.version)
    else:
        place = registry.publish(trained)
    if promote is None:
        measured = trained.metrics["holdout_auc"] is not None
        promote = measured and int(trained.metrics["holdout_fraud"] or 0) >= FEWEST_FRAUD
    if promote:
        registry.promote(name, trained.version)
    return Learnt(
        promoted=promote,
        name=name,
        version=trained.version,
        place=place,
        features=tuple(each.name for each in trained.features),
        labelled=int(trained.trained_on["labelled_orders"]),
        fraud=int(trained.trained_on["fraud_orders"]),
        metrics=trained.metrics,
        policy=trained.suggested_policy,
        left_out={
            what: int(trained.trained_on[f"left_out_{why}"])
            for why, what in LEFT_OUT.items()
            if f"left_out_{why}" in trained.trained_on
        },
    )


def _days(number: int) -> timedelta | None:
    return timedelta(days=number) if number else None


@dataclass(frozen=True, slots=True)
class UnreadLine:
    """A line that is no order with a label, and why; the lines around it were read."""

    line: int
    reason: str

    def __str__(self) -> str:
        """The line's number and the reason."""
        return f"line {self.line:,}: {self.reason}"


def learn_from_lines(
    settings: Settings,
    lines: Iterable[bytes],
    *,
    said: str,
    name: str,
    features: str = "starter",
    predictor: PredictorKind = "random_forest",
    seed: int = 0,
    promote: bool | None = None,
    allow_rejects: bool = False,
    unread: Callable[[UnreadLine], None] = lambda _: None,
) -> Learnt:
    """Learn from orders with `is_fraud`, one in JSON a line; `said` names the file in errors.

    `unread` is told of each line that can't be read. When they are more than MOST_UNREAD of all lines
    nothing is learnt, unless `allow_rejects`: a model of half a file would look like any other.
    """
    examples = _labelled(lines, said, allow_rejects=allow_rejects, unread=unread)
    return learn(
        settings,
        examples,
        name=name,
        features=features,
        predictor=predictor,
        seed=seed,
        promote=promote,
    )


def _labelled(
    lines: Iterable[bytes], said: str, *, allow_rejects: bool, unread: Callable[[UnreadLine], None]
) -> Iterator[_Labelled]:
    label = msgspec.json.Decoder(_Label).decode
    read = lost = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        order = read_order(line)
        if isinstance(order, Rejection):
            lost += 1
            unread(UnreadLine(number, order.detail))
            continue
        try:
            is_fraud = label(line).is_fraud
        except msgspec.MsgspecError:
            lost += 1
            unread(
                UnreadLine(number, "$.is_fraud: expected true, false or null, got something else; correct it")
            )
            continue
        read += 1
        yield order, is_fraud
    if lost > MOST_UNREAD * (read + lost) and not allow_rejects:
        raise TrainingError(
            f"{said}: {lost:,} of {read + lost:,} lines can't be read, and more than {MOST_UNREAD:.0%} would "
            "make a model of another past; mend them, or train on the others with --allow-rejects"
        )
