"""What training leaves behind: a tree of flat models, the rows that prove each, and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.define import Feature
from models.decision import Reason
from models.errors import MalformedModelError
from models.flat import Engine, FlatModel, Floats, Ints
from models.flat_arrays import Matrix
from models.policy import Policy, rounded
from models.reasons import code_of

__all__ = ["PARITY", "GoldenRows", "Node", "Trained", "check_tree"]

PARITY: Final = 1e-12
"""How far a flat model may be from scikit-learn, in probability."""


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRows:
    """Vectors with the answers they must get, checked whenever the model is loaded.

    `p` is the flat model's own probability, held against its library's when it was exported; `first` are the
    positions of the first reasons.
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
        try:
            walked = model.walk(self.rows, engine=engine)
        except (OverflowError, ValueError) as broken:
            message = f"the model cannot score its golden rows ({broken}); publish it again from its training"
            raise MalformedModelError(message) from broken
        if walked.p.shape != self.p.shape or not (np.abs(walked.p - self.p) <= PARITY).all():
            message = "the model does not give its golden rows the probabilities they had in training"
            raise MalformedModelError(message)
        if not np.array_equal(walked.first, self.first):
            message = "the model does not give its golden rows the reasons they had in training"
            raise MalformedModelError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One model of a tree, in service; its `inputs` are features of the tree or nodes before it."""

    name: str
    model: FlatModel
    golden: GoldenRows
    described: Mapping[str, Any] = field(default_factory=dict)
    """How it was asked for, as `Model.described` tells it."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it asks, in the order of its columns."""
        return self.model.imputer.names

    @property
    def reason(self) -> Reason:
        """What an analyst reads where its score pushed another model's up."""
        spoken = self.name.replace("_", " ")
        return Reason(
            code=code_of(self.name), text=f"Probability of fraud by the model {spoken}", feature=self.name
        )

    def score(self, matrix: Matrix, *, engine: Engine | None = None) -> Floats:
        """Its rounded probabilities, as its parent sees them, of rows of its inputs; NaN is unknown."""
        return scores_of(self.model.walk(matrix, engine=engine).p)


def scores_of(p: Floats) -> Floats:
    """Probabilities as another model sees them: rounded, so that what is logged is what was seen."""
    return np.array([rounded(each) for each in p.tolist()], dtype=np.float64)


def check_tree(features: Sequence[str], nodes: Sequence[Node]) -> None:
    """Refuse nodes that ask for what is neither a feature nor a node before them, as MalformedModelError."""
    known = set(features)
    if not nodes:
        message = "a model needs at least one node; publish it again from its training"
        raise MalformedModelError(message)
    for node in nodes:
        strangers = [name for name in node.inputs if name not in known]
        if strangers or node.name in known:
            what = f"asks for {strangers[0]!r}, which" if strangers else "has a name that"
            said = (
                "is neither a feature nor a node before it"
                if strangers
                else "is a feature's or another node's"
            )
            message = f"the node '{node.name}' {what} {said}; publish the model again from its training"
            raise MalformedModelError(message)
        known.add(node.name)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model, not yet published: `Registry.publish` gives it a place, `Registry.load` a scorer.

    `features` are all that the tree asks; `nodes` stand after those they ask, the last is the model itself.
    """

    name: str
    version: str
    features: tuple[Feature, ...]
    nodes: tuple[Node, ...]
    suggested_policy: Policy
    metrics: Mapping[str, float | int | None]
    split: str
    trained_at: str
    trained_on: Mapping[str, str | int]
    settings: Mapping[str, str | bool | int | float]
    libraries: Mapping[str, str]
    parents: Sequence[str] = field(default=())

    @property
    def model(self) -> FlatModel:
        """The flat model of the last node."""
        return self.nodes[-1].model

    @property
    def golden(self) -> GoldenRows:
        """The golden rows of the last node."""
        return self.nodes[-1].golden
