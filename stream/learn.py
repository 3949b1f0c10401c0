"""A labelled past from outside to a published model: the world's side of `models.train`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from pydantic import ValidationError

from features.events import Order
from models.errors import TrainingError
from models.policy import Policy
from models.registry import Registry
from models.train import PredictorKind, train
from stream.settings import Settings

__all__ = ["Learnt", "learn", "learn_from_lines"]

FEWEST_FRAUD = 10
"""Frauds a model must have been measured on to be put in service without being told to."""

_Labelled = tuple[Order, bool | None]


class _Label(msgspec.Struct):
    is_fraud: bool | None = None


@dataclass(frozen=True, slots=True)
class Learnt:
    """A model that was trained and published."""

    name: str
    version: str
    place: Path
    promoted: bool
    """Whether it is the champion now."""
    labelled: int
    fraud: int
    metrics: Mapping[str, float | int | None]
    policy: Policy


def learn(
    settings: Settings,
    examples: Iterable[_Labelled],
    *,
    name: str,
    predictor: PredictorKind = "random_forest",
    seed: int = 0,
    promote: bool | None = None,
) -> Learnt:
    """Train on orders in log order, publish the model to the registry and make it the champion.

    Unless told whether to `promote` it, a model measured on fewer than FEWEST_FRAUD frauds it had not
    seen stays out of service: nobody knows how good it is.
    """
    trained = train(
        examples,
        name=name,
        predictor=predictor,
        trained_at=datetime.now(UTC).date(),
        row_limit=settings.row_limit,
        seed=seed,
    )
    registry = Registry(settings.home / "models", key=settings.signing_secret())
    # The same past, seed and day give the same version, and versions never change: nothing to publish.
    if (name, trained.version) in registry.list():
        place = registry.root / name / trained.version
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
        labelled=int(trained.trained_on["labelled_orders"]),
        fraud=int(trained.trained_on["fraud_orders"]),
        metrics=trained.metrics,
        policy=trained.suggested_policy,
    )


def learn_from_lines(
    settings: Settings,
    lines: Iterable[bytes],
    *,
    said: str,
    name: str,
    predictor: PredictorKind = "random_forest",
    seed: int = 0,
    promote: bool | None = None,
) -> Learnt:
    """Learn from orders with `is_fraud`, one in JSON a line; `said` names the file in errors."""
    return learn(settings, _labelled(lines, said), name=name, predictor=predictor, seed=seed, promote=promote)


def _labelled(lines: Iterable[bytes], said: str) -> Iterator[_Labelled]:
    label = msgspec.json.Decoder(_Label).decode
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Order.model_validate_json(line), label(line).is_fraud
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise TrainingError(
                f"{said}, line {number}: {where}: {first['msg']}; mend the line or leave it out"
            ) from None
        except msgspec.MsgspecError as error:
            raise TrainingError(f"{said}, line {number}: {error}; is_fraud is true, false or null") from None
