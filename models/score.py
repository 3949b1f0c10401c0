"""A model as a feature: what one model says of an order stands among the features of another."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from features.errors import FeatureDefinitionError
from features.events import Order
from features.history import History
from features.plan import Plan
from models.scorer import Scorer

__all__ = ["PREFIX", "ScoreOf"]

PREFIX: Final = "score_of_"
"""What the name of every such feature begins with; the model's name follows."""


@dataclass(frozen=True, eq=False)
class ScoreOf:
    """Another model's probability: `ScoreOf(registry.load("velocity"))` is score_of_velocity.

    The version is part of the declaration: another version is another feature, and a model trained with it is
    served with it. It is never missing, because a model imputes what it does not know. Its features are of
    the order and of one entity; two submodels may be of two.
    """

    scorer: Scorer
    unit = "probability"
    between = (0.0, 1.0)
    missing = "never"
    categories = None

    def __post_init__(self) -> None:
        """Check that it is a model, and that one history is enough."""
        if not isinstance(self.scorer, Scorer):
            message = f"ScoreOf takes a loaded model, such as registry.load('velocity'), not {self.scorer!r}"
            raise FeatureDefinitionError(message)
        entities = {each.entity for each in self.scorer.features} - {None}
        if len(entities) > 1:
            looked_at = " and ".join(sorted(map(str, entities)))
            message = (
                f"ScoreOf({self.parent}) looks at the histories of {looked_at}; "
                "train one model for each, and use both scores"
            )
            raise FeatureDefinitionError(message)

    @property
    def parent(self) -> str:
        """The model and its version, as a manifest names them."""
        return f"{self.scorer.name}@{self.scorer.version}"

    @cached_property
    def name(self) -> str:  # noqa: D102 - said in Feature, here and below
        return PREFIX + self.scorer.name

    @property
    def doc(self) -> str:  # noqa: D102
        return f"Probability of fraud by the model {self.scorer.name.replace('_', ' ')}."

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"ScoreOf({self.parent}, {self.scorer.digest})"

    @cached_property
    def entity(self) -> str | None:  # noqa: D102
        return next((each.entity for each in self.scorer.features if each.entity is not None), None)

    @property
    def looks_at_facts(self) -> bool:  # noqa: D102
        return any(each.looks_at_facts for each in self.scorer.features)

    @cached_property
    def _plan(self) -> Plan:
        return Plan(self.scorer.features)

    def value(self, order: Order, history: History | None) -> float:
        """The model's probability, rounded as in a decision of its own."""
        histories = {} if self.entity is None else {self.entity: history}
        (scored,) = self.scorer.score([self._plan(order, histories)])
        return scored.p_fraud
