"""A model in service: vectors in, rounded probabilities and first reasons out."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from features.define import Feature
from models.decision import ModelRef, Reason
from models.errors import MalformedModelError
from models.flat import Engine, FlatModel, Floats, Walked, default_engine, first_pushes
from models.flat_arrays import Matrix
from models.policy import Policy, rounded
from models.reasons import handed_down, reasons_for, with_unknown
from models.trained import Node, check_tree, scores_of

Vector = Sequence[float | None]

_PATTERNS_KEPT: Final = 4096  # of missing values; each is a tuple of names


class Scored(NamedTuple):
    """What a model says of one order.

    `imputed` names the features that were unknown, in the model's order; `reasons` are at most five, the
    strongest first. `submodels` are the probabilities of the models it asks, in the order of `Scorer.nodes`.
    """

    p_fraud: float
    imputed: tuple[str, ...]
    reasons: tuple[Reason, ...]
    submodels: tuple[float, ...] = ()


class Scorer:
    """One version of a model, in memory and checked, ready to score.

    `features` are all that its tree asks, each computed once; `nodes` are its submodels and itself, the last.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        digest: str,
        features: Sequence[Feature],
        nodes: Sequence[Node],
        reasons: Mapping[str, Reason] | None = None,
        reasons_reach: bool = True,
        suggested_policy: Policy | None = None,
        engine: Engine | None = None,
    ) -> None:
        """A scorer of `nodes`.

        `reasons` has one for each feature, as published; else they are made from the features. With
        `reasons_reach` a submodel's push is told by the features that moved it; without, by its own name, as
        it was up to manifests of format 2. `engine` is numba where it can be imported. Raises
        MalformedModelError for nodes that are no tree.
        """
        self.name = name
        self.version = version
        self.digest = digest
        self.features = tuple(features)
        self.ref = ModelRef(name=name, version=version, digest=digest)
        self.nodes = tuple(nodes)
        self.suggested_policy = suggested_policy
        self.engine: Engine = engine or default_engine()
        self._names = tuple(feature.name for feature in self.features)
        check_tree(self._names, self.nodes)
        self.model: FlatModel = self.nodes[-1].model
        """The flat model of the last node, whose score is the answer."""
        unasked = set(self._names).difference(*(node.inputs for node in self.nodes))
        if unasked:
            message = f"{name}@{version} never asks for its features {sorted(unasked)}"
            raise MalformedModelError(message)
        told = dict(zip(self._names, reasons_for(self.features), strict=True)) if reasons is None else reasons
        told = {node.name: node.reason for node in self.nodes} | dict(told)
        self._reach = reasons_reach and len(self.nodes) > 1
        pushing = (
            (*self._names, *(node.name for node in self.nodes)) if self._reach else self.nodes[-1].inputs
        )
        self._reasons = with_unknown([told[each] for each in pushing])
        place = {each: at for at, each in enumerate((*self._names, *(node.name for node in self.nodes)))}
        self._places = [[place[each] for each in node.inputs] for node in self.nodes]
        self._is_plain = len(self.nodes) == 1 and self.nodes[0].inputs == self._names
        self._imputed: dict[bytes, tuple[str, ...]] = {}
        self._walk(np.zeros((1, len(self._names))))  # compiles the kernels now

    def __repr__(self) -> str:
        """The scorer by its name, version and kind."""
        return (
            f"<Scorer {self.name}@{self.version}, {self.model.predictor.kind}, {len(self._names)} features>"
        )

    def score(self, vectors: Sequence[Vector]) -> list[Scored]:
        """What the model says of each vector, in the order given.

        A vector has one value for each of `features`, in their order; None or NaN is unknown. An answer
        depends on its own vector alone. An infinite value or a vector of another length is a mistake of
        ours, not of the order, and raises ValueError.
        """
        if not vectors:
            return []
        matrix = self._matrix(vectors)
        under: Iterable[tuple[float, ...]] = repeat((), len(matrix))
        if self._is_plain:
            said, firsts, missing = self.model.answer(matrix, engine=self.engine)
        else:
            walked = self._walk(matrix)
            said, missing, first = walked[-1].p.tolist(), np.isnan(matrix), walked[-1].first
            if self._reach:
                scores = np.zeros(
                    (len(matrix), len(self.nodes)), dtype=np.bool_
                )  # of a node is never missing
                first = first_pushes(self._handed_down(walked), np.column_stack([missing, scores]))
            firsts = first.tolist()
            if len(walked) > 1:
                under = zip(*(scores_of(each.p).tolist() for each in walked[:-1]), strict=True)
        reasons = self._reasons
        return [
            Scored(rounded(p), self._names_in(unknown), tuple([reasons[i] for i in pushed if i >= 0]), nodes)
            for p, unknown, pushed, nodes in zip(said, missing, firsts, under, strict=True)
        ]

    def walk(self, vectors: Sequence[Vector]) -> dict[str, Walked]:
        """What every node says of each vector and what pushed it, by its name; the model comes last."""
        walked = self._walk(self._matrix(vectors))
        return {node.name: each for node, each in zip(self.nodes, walked, strict=True)}

    def pushes(self, vectors: Sequence[Vector]) -> Floats:
        """How far each feature pushed each vector's raw score, through the whole tree; then each node.

        Shape (vectors, features + nodes), in the order of `features` and `nodes`, in the unit of the raw
        score. A node's own push is what none of its features accounts for, mostly 0.
        """
        return self._handed_down(self._walk(self._matrix(vectors)))

    def inputs(self, vectors: Sequence[Vector]) -> Matrix:
        """What the last node is asked for each vector, in the order of its inputs; NaN is unknown.

        Shape (vectors, inputs of the node): features, and the rounded scores of its submodels.
        """
        matrix = self._matrix(vectors)
        if self._is_plain:
            return matrix
        scores = [scores_of(each.p) for each in self._walk(matrix)]
        asked: Matrix = np.column_stack([matrix, *scores])[:, self._places[-1]]
        return asked

    def _handed_down(self, walked: Sequence[Walked]) -> Floats:
        """The pushes on the last node's score, each submodel's given on to what moved it."""
        pushes = np.zeros((len(walked[-1].p), len(self._names) + len(self.nodes)))
        pushes[:, self._places[-1]] = walked[-1].attributions
        for at in reversed(range(len(self.nodes) - 1)):  # a node stands after those it asks
            handed_down(pushes, len(self._names) + at, walked[at].attributions, self._places[at])
        return pushes

    def _matrix(self, vectors: Sequence[Vector]) -> Matrix:
        try:
            matrix = np.array(vectors, dtype=np.float64, order="C")
        except (TypeError, ValueError) as wrong:
            message = f"vectors must each hold {len(self._names)} numbers or None, in the order of `features`"
            raise ValueError(message) from wrong
        if matrix.ndim != 2 or matrix.shape[1] != len(self._names):
            message = f"expected vectors of {len(self._names)} features; got shape {matrix.shape}"
            raise ValueError(message)
        return matrix

    def _walk(self, matrix: Matrix) -> list[Walked]:
        if self._is_plain:
            return [self.model.walk(matrix, engine=self.engine)]
        known = np.column_stack([matrix, np.empty((len(matrix), len(self.nodes)))])
        walked = []
        for at, (node, places) in enumerate(zip(self.nodes, self._places, strict=True), len(self._names)):
            walked.append(node.model.walk(known[:, places], engine=self.engine))
            known[:, at] = scores_of(walked[-1].p)
        return walked

    def _names_in(self, missing: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[str, ...]:
        pattern = missing.tobytes()
        names = self._imputed.get(pattern)
        if names is None:
            if len(self._imputed) >= _PATTERNS_KEPT:
                self._imputed.clear()
            names = tuple(n for n, is_missing in zip(self._names, missing, strict=True) if is_missing)
            self._imputed[pattern] = names
        return names
