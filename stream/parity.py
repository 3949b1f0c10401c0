"""Whether training would have seen what serving saw: logged features held against computed ones.

What a worker wrote into its decisions is the one; what the replay of the same recorded past computes is the
other. Both come from one definition, so whatever differs is a mistake: other settings, another version of a
feature, a past that is no longer whole.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Final, Literal

from features.define import Feature
from stream.ports import Record
from stream.recorded import Recorded
from stream.replay import Bounds, Features, ReplayError, Tally, Told, lost_of, refuse_unequal, spans_of
from stream.settings import Settings
from stream.training_set import logged_in

__all__ = ["Found", "Parity", "held_against"]

Found = Literal["equal", "differ", "missing_in_decisions", "missing_in_replay", "not_logged"]
"""What one feature of one order was found to be.

Missing means unknown on one side alone; `not_logged` that the decision's model did not ask for the feature.
"""

_KEPT: Final = 5
_WRONG: Final = ("differ", "missing_in_decisions", "missing_in_replay")


@dataclass(frozen=True, slots=True)
class Unequal:
    """A feature that was another in a decision than in the replay."""

    feature: str
    order_id: str
    logged: float | None
    computed: float | None


@dataclass(slots=True)
class Parity:
    """What was found, feature by feature."""

    found: dict[str, Counter[str]] = field(default_factory=dict)
    compared: int = 0
    """Orders that were decided and replayed."""
    not_decided: int = 0
    """Orders without a scored decision: history, or decisions that are gone."""
    not_replayed: int = 0
    """Scored decisions whose order the topics no longer have."""
    examples: list[Unequal] = field(default_factory=list)
    """The first few of each feature."""

    def unequal(self, feature: str) -> float:
        """The share of a feature's values that were not equal, of those that were logged; 0 without any."""
        counts = self.found[feature]
        logged = sum(counts.values()) - counts["not_logged"]
        return sum(counts[each] for each in _WRONG) / logged if logged else 0.0

    def over(self, threshold: float) -> list[str]:
        """The features of which more than this share was not equal."""
        return [name for name in self.found if self.unequal(name) > threshold]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "compared": self.compared,
            "not_decided": self.not_decided,
            "not_replayed": self.not_replayed,
            "features": {
                name: {**counts, "unequal_share": self.unequal(name)} for name, counts in self.found.items()
            },
            "examples": [
                {"feature": e.feature, "order_id": e.order_id, "logged": e.logged, "computed": e.computed}
                for e in self.examples
            ],
        }


def held_against(
    settings: Settings,
    recorded: Recorded,
    chosen: Callable[[], Sequence[Feature]],
    *,
    bounds: Bounds | None = None,
    told: Told = lambda _: None,
) -> tuple[Parity, Tally]:
    """Replay the orders that were decided, and hold each feature against what its decision says.

    `chosen` gives the features. Raises ReplayError where there are no decisions at all, TopicError where
    there is no topic of them.
    """
    bounds = bounds or Bounds()
    job = Features(settings, chosen, bounds)
    spans = job.inputs(recorded)
    topic = settings.topics.decisions
    partitions = sorted({partition for _, partition in spans})
    orders = settings.topics.orders
    refuse_unequal({orders: recorded.partitions(orders), topic: recorded.partitions(topic)})
    decisions = spans_of(recorded, topic, partitions)
    names = [each.name for each in chosen()]
    parity, tally, lies_within = Parity({name: Counter() for name in names}), Tally(), bounds.place()
    for part in job.parts(spans):
        logged = dict(logged_in(recorded, decisions, topic, part))

        def is_decided(order: Any, record: Record, logged: Any = logged) -> bool:
            if not lies_within(record):
                return False
            decided = (order.order_id, order.revision) in logged
            parity.not_decided += not decided
            return decided

        of_part = Tally()
        for _, order, vector in job.followed(recorded, spans, part, of_part, told, wanted=is_decided):
            decided = logged.pop((order.order_id, order.revision))
            parity.compared += 1
            for name, computed in zip(names, vector.tolist(), strict=True):
                known = None if isnan(computed) else computed
                _compare(parity, order.order_id, name, decided.features, known)
        # within bounds others are left over, of which nobody asked
        parity.not_replayed += len(logged) if bounds == Bounds() else 0
        tally.add(of_part)
    tally.lost = lost_of(recorded, spans)
    if not parity.compared:
        raise ReplayError(
            f"no scored decision in '{topic}' is about an order in '{settings.topics.orders}'; "
            "nothing can be held against anything"
        )
    return parity, tally


def _compare(parity: Parity, order_id: str, name: str, features: Any, computed: float | None) -> None:
    if name not in features:
        parity.found[name]["not_logged"] += 1
        return
    logged = features[name]
    if logged == computed:
        parity.found[name]["equal"] += 1
        return
    what: Found = (
        "missing_in_decisions" if logged is None else "missing_in_replay" if computed is None else "differ"
    )
    counts = parity.found[name]
    if sum(counts[each] for each in _WRONG) < _KEPT:
        parity.examples.append(Unequal(name, order_id, logged, computed))
    counts[what] += 1
