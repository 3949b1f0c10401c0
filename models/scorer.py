"""A model in service: vectors in, rounded probabilities and first reasons out."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from features.define import Feature
from models.decision import ModelRef, Reason
from models.flat import Engine, FlatModel, default_engine
from models.policy import Policy, rounded
from models.reasons import reasons_for, with_unknown

Vector = Sequence[float | None]

_PATTERNS_KEPT: Final = 4096  # of missing values; each is a tuple of names


class Scored(NamedTuple):
    """What a model says of one order.

    `imputed` names the features that were unknown, in the model's order; `reasons` are at most five, the
    strongest first.
    """

    p_fraud: float
    imputed: tuple[str, ...]
    reasons: tuple[Reason, ...]


class Scorer:
    """One version of a model, in memory and checked, ready to score."""

    def __init__(
        self,
        *,
        name: str,
        version: str,
        digest: str,
        features: Sequence[Feature],
        model: FlatModel,
        reasons: Sequence[Reason] | None = None,
        suggested_policy: Policy | None = None,
        engine: Engine | None = None,
    ) -> None:
        """A scorer of `model`.

        `reasons` has one for each feature, as published; else they are made from the features. `engine`
        is numba where it can be imported.
        """
        self.name = name
        self.version = version
        self.digest = digest
        self.features = tuple(features)
        self.ref = ModelRef(name=name, version=version, digest=digest)
        self.model = model
        self.suggested_policy = suggested_policy
        self.engine: Engine = engine or default_engine()
        self._names = tuple(feature.name for feature in self.features)
        if self._names != model.imputer.names:
            message = f"{name}@{version} was made for features {model.imputer.names}; got {self._names}"
            raise ValueError(message)
        self._reasons = with_unknown(reasons_for(self.features) if reasons is None else reasons)
        self._imputed: dict[bytes, tuple[str, ...]] = {}
        self.model.walk(np.zeros((1, len(self._names))), engine=self.engine)  # compiles the kernel now

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
        try:
            matrix = np.array(vectors, dtype=np.float64)
        except (TypeError, ValueError) as wrong:
            message = f"vectors must each hold {len(self._names)} numbers or None, in the order of `features`"
            raise ValueError(message) from wrong
        walked = self.model.walk(matrix, engine=self.engine)
        reasons = self._reasons
        return [
            Scored(rounded(p), self._names_in(missing), tuple([reasons[i] for i in first if i >= 0]))
            for p, missing, first in zip(
                walked.p.tolist(), np.isnan(matrix), walked.first.tolist(), strict=True
            )
        ]

    def _names_in(self, missing: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[str, ...]:
        pattern = missing.tobytes()
        names = self._imputed.get(pattern)
        if names is None:
            if len(self._imputed) >= _PATTERNS_KEPT:
                self._imputed.clear()
            names = tuple(n for n, is_missing in zip(self._names, missing, strict=True) if is_missing)
            self._imputed[pattern] = names
        return names
