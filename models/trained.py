"""What training leaves behind: a flat model, the rows that prove it, and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from features.define import Feature
from models.errors import MalformedModelError
from models.flat import Engine, FlatModel, Floats, Ints
from models.impute import Matrix
from models.policy import Policy

PARITY: Final = 1e-12
"""How far a flat model may be from scikit-learn, in probability."""


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRows:
    """Vectors with the answers they must get, checked whenever the model is loaded.

    `p` is scikit-learn's own probability; `first` are the positions of the first reasons.
    """

    rows: Matrix
    p: Floats
    first: Ints

    def check(self, model: FlatModel, *, engine: Engine | None = None) -> None:
        """Refuse a model, or a machine, that gives other answers."""
        features = len(model.imputer.names)
        if self.rows.ndim != 2 or self.rows.shape[1] != features or not len(self.rows):
            message = f"golden rows must be rows by {features} features; got shape {self.rows.shape}"
            raise MalformedModelError(message)
        if np.isinf(self.rows).any():
            message = "golden rows hold an infinite value; publish the model again from its training"
            raise MalformedModelError(message)
        walked = model.walk(self.rows, engine=engine)
        if walked.p.shape != self.p.shape or not (np.abs(walked.p - self.p) <= PARITY).all():
            message = "the model does not give its golden rows the probabilities they had in training"
            raise MalformedModelError(message)
        if not np.array_equal(walked.first, self.first):
            message = "the model does not give its golden rows the reasons they had in training"
            raise MalformedModelError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model, not yet published: `Registry.publish` gives it a place, `Registry.load` a scorer."""

    name: str
    version: str
    features: tuple[Feature, ...]
    model: FlatModel
    golden: GoldenRows
    suggested_policy: Policy
    metrics: Mapping[str, float | int | None]
    split: str
    trained_at: str
    trained_on: Mapping[str, str | int]
    settings: Mapping[str, str | int | float]
    libraries: Mapping[str, str]
    parents: Sequence[str] = field(default=())
