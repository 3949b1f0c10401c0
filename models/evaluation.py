"""How good scores are, on orders of which it is known what they were; every measure takes weights.

Nothing here learns, and nothing is random but the bootstrap, whose seed is given. Undefined measures, such as
the AUC of orders without fraud, are None.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Band",
    "Bin",
    "Costs",
    "Cut",
    "Difference",
    "Measures",
    "Ranking",
    "at_budget",
    "bands",
    "calibration",
    "calibration_error",
    "compromised_at",
    "cost_curve",
    "difference",
    "measured",
    "paired",
    "permuted",
    "stability",
    "stability_of_counts",
]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

GRID: Final = np.linspace(0.0, 1.0, 101)
_DAY: Final = np.timedelta64(1, "D")
_LEAST_P: Final = 0.001
_LEAST: Final = 1e-4
"""The share a bin has at least in a stability index, which an empty one would make infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Orders by their score, the highest first, those of one score together."""

    order: npt.NDArray[np.intp]
    """Where each stood."""
    ends: npt.NDArray[np.intp]
    """The last of each group of one score."""
    is_fraud: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, p: Floats, is_fraud: npt.NDArray[np.bool_]) -> "Ranking":
        """Sorted once; weights may then change."""
        order = np.argsort(-p, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(p[order]) != 0, True)[: len(p)])
        return cls(order, ends, is_fraud[order])

    def sums(self, weights: Floats) -> tuple[Floats, Floats]:
        """The weight of frauds and of others down to each score."""
        sorted_weights = weights[self.order]
        frauds = np.cumsum(np.where(self.is_fraud, sorted_weights, 0.0))[self.ends]
        return frauds, np.cumsum(sorted_weights)[self.ends] - frauds

    def auc(self, weights: Floats) -> float | None:
        """The chance that a fraud has a higher score than another order, ties as a half."""
        frauds, others = self.sums(weights)
        if not len(frauds) or not frauds[-1] or not others[-1]:
            return None
        heights = frauds + np.append(0.0, frauds[:-1])
        return float((np.diff(others, prepend=0.0) * heights).sum() / (2 * frauds[-1] * others[-1]))

    def average_precision(self, weights: Floats) -> float | None:
        """The mean precision over all frauds, from the highest score down."""
        frauds, others = self.sums(weights)
        if not len(frauds) or not frauds[-1]:
            return None
        seen = frauds + others
        precision = np.divide(frauds, seen, out=np.zeros_like(frauds), where=seen > 0)
        return float((np.diff(frauds, prepend=0.0) * precision).sum() / frauds[-1])

    def roc(self, weights: Floats) -> Floats:
        """The share of frauds caught, by the share of other orders stopped on GRID."""
        frauds, others = self.sums(weights)
        x = np.append(0.0, others / max(others[-1], 1e-300))
        return np.asarray(np.interp(GRID, x, np.append(0.0, frauds / max(frauds[-1], 1e-300))))

    def precision(self, weights: Floats) -> Floats:
        """The precision, by the share of frauds caught on GRID."""
        frauds, others = self.sums(weights)
        recall = frauds / max(frauds[-1], 1e-300)
        precision = frauds / np.maximum(frauds + others, 1e-300)
        # at each recall the first score that reaches it
        places = np.minimum(np.searchsorted(recall, GRID - 1e-12), len(recall) - 1)
        return np.asarray(precision[places])


class Measures(NamedTuple):
    """What is said of a group of orders; None where it is not defined."""

    orders: int
    frauds: int
    auc: float | None
    average_precision: float | None
    brier: float | None


def measured(p: Floats, is_fraud: npt.NDArray[np.bool_], weights: Floats) -> Measures:
    """The measures of some orders; the counts are of rows, the others are weighted."""
    ranking = Ranking.of(p, is_fraud)
    total = float(weights.sum())
    brier = float((weights * (p - is_fraud) ** 2).sum() / total) if total else None
    return Measures(
        len(p), int(is_fraud.sum()), ranking.auc(weights), ranking.average_precision(weights), brier
    )


# ---------------------------------------------------------------------- bootstrap


class Band(NamedTuple):
    """A measure, and between what it lies in 95 of 100 samples; `low` and `high` may be curves."""

    value: Any
    low: Any
    high: Any


def _draws(clusters: Array, samples: int, seed: int) -> Iterator[Floats]:
    """How often each order is drawn, those of a cluster alike: they are not independent of each other."""
    _, place = np.unique(clusters, return_inverse=True)
    chance = np.random.default_rng(seed)
    count = int(place.max()) + 1 if len(place) else 0
    for _ in range(samples):
        yield chance.poisson(1.0, count).astype(np.float64)[place]


def bands(
    ranking: Ranking, weights: Floats, clusters: Array, *, samples: int = 200, seed: int = 0
) -> Mapping[str, Band]:
    """AUC, average precision, ROC and precision-recall with their 95 % bands, by a bootstrap of clusters."""
    measures: Mapping[str, Callable[[Floats], Any]] = {
        "auc": ranking.auc,
        "average_precision": ranking.average_precision,
        "roc": ranking.roc,
        "precision": ranking.precision,
    }
    drawn: dict[str, list[Any]] = {name: [] for name in measures}
    for times in _draws(clusters, samples, seed):
        for name, measure in measures.items():
            if (value := measure(weights * times)) is not None:
                drawn[name].append(value)
    found = {}
    for name, measure in measures.items():
        value = measure(weights)
        low, high = np.percentile(drawn[name], [2.5, 97.5], axis=0) if drawn[name] else (value, value)
        found[name] = Band(value, low, high)
    return found


class Difference(NamedTuple):
    """How much better one model is than another on the same orders, and whether that may be chance."""

    value: float
    low: float
    high: float
    p_value: float
    """How often such samples would say the opposite, twice: the two-sided test. Never 0."""

    @property
    def p_said(self) -> str:
        """`p_value` for people: three decimals, and below them that it is less."""
        return f"p < {_LEAST_P}" if self.p_value < _LEAST_P else f"p = {self.p_value:.3f}"


def _p_value(drawn: Floats) -> float:
    """Of the differences drawn, the two-sided p, the difference itself counted as one of the draws.

    So what no sample showed is rare, and not impossible (Davison and Hinkley, Bootstrap Methods, 1997, 4.2).
    """
    opposite = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (opposite + 1) / (len(drawn) + 1))


def difference(
    one: Ranking,
    other: Ranking,
    weights: Floats,
    clusters: Array,
    measure: Callable[[Ranking, Floats], float | None],
    *,
    samples: int = 500,
    seed: int = 0,
) -> Difference | None:
    """A paired bootstrap of `measure(one) - measure(other)`: both are asked of the same samples."""
    here, there = measure(one, weights), measure(other, weights)
    if here is None or there is None:
        return None
    drawn = []
    for times in _draws(clusters, samples, seed):
        first, second = measure(one, weights * times), measure(other, weights * times)
        if first is not None and second is not None:
            drawn.append(first - second)
    if not drawn:
        return None
    found = np.array(drawn)
    low, high = np.percentile(found, [2.5, 97.5])
    return Difference(here - there, float(low), float(high), _p_value(found))


def paired(
    gains: Floats, clusters: Array, *, samples: int = 2_000, seed: int = 0, confidence: float = 0.95
) -> Difference:
    """The sum of what each order gains, and its bounds, by a bootstrap of clusters."""
    _, place = np.unique(clusters, return_inverse=True)
    of_clusters = np.bincount(place, weights=gains)
    # most gain nothing, and however often they are drawn they add nothing
    of_clusters = of_clusters[of_clusters != 0.0]
    chance = np.random.default_rng(seed)
    # one sample after the other: together they would be a table of samples by clusters
    times = (chance.poisson(1.0, len(of_clusters)).astype(np.float64) for _ in range(samples))
    drawn = np.array([each @ of_clusters for each in times])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(gains.sum()), float(low), float(high), _p_value(drawn))


# ---------------------------------------------------------------------- calibration


class Bin(NamedTuple):
    """Orders of about one score: what was said in the mean, what came, and how many there are."""

    said: float
    came: float
    weight: float


def calibration(p: Floats, is_fraud: npt.NDArray[np.bool_], weights: Floats, *, bins: int = 10) -> list[Bin]:
    """Bins by the score, smaller towards the highest; orders of one score are in one bin."""
    order = np.argsort(p, kind="stable")
    _, of_score, orders = np.unique(p[order], return_inverse=True, return_counts=True)
    total = np.cumsum(weights[order])[np.cumsum(orders) - 1][of_score]
    if not len(total) or not total[-1]:
        return []
    # finer towards the top, where the frauds are: the quantiles of the square root of what is left
    edges = total[-1] * (1 - np.linspace(1, 0, bins + 1) ** 3)
    place = np.clip(np.searchsorted(edges, total, side="left") - 1, 0, bins - 1)
    found = []
    for each in np.unique(place):
        rows = order[place == each]
        weight = weights[rows]
        found.append(
            Bin(
                float(np.average(p[rows], weights=weight)),
                float(np.average(is_fraud[rows], weights=weight)),
                float(weight.sum()),
            )
        )
    return found


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """The mean distance between what was said and what came, by weight."""
    total = sum(each.weight for each in bins)
    return sum(abs(each.said - each.came) * each.weight for each in bins) / total if total else None


# ---------------------------------------------------------------------- what a shop can do with it


class Cut(NamedTuple):
    """What stopping every order from a score on comes to."""

    threshold: float
    stopped: float
    """The share of orders."""
    precision: float
    recall: float
    value_recall: float
    """The share of the frauds' amounts."""


def at_budget(
    p: Floats, is_fraud: npt.NDArray[np.bool_], weights: Floats, amounts: Floats, share: float
) -> Cut | None:
    """The cut that stops as many orders as this share allows, those with the highest scores.

    None without frauds, and where already those of the highest score are more.
    """
    ranking = Ranking.of(p, is_fraud)
    frauds, others = ranking.sums(weights)
    if not len(frauds) or not frauds[-1]:
        return None
    stopped = (frauds + others) / (frauds[-1] + others[-1])
    at = int(np.searchsorted(stopped, share, side="right")) - 1
    if at < 0:
        return None
    worth = np.where(ranking.is_fraud, (weights * amounts)[ranking.order], 0.0)
    caught = np.cumsum(worth)[ranking.ends]
    return Cut(
        float(p[ranking.order[ranking.ends[at]]]),
        float(stopped[at]),
        float(frauds[at] / (frauds[at] + others[at])),
        float(frauds[at] / frauds[-1]),
        float(caught[at] / caught[-1]) if caught[-1] else 0.0,
    )


def compromised_at(
    k: int, p: Floats, is_fraud: npt.NDArray[np.bool_], customers: Array, placed_at: Array
) -> float | None:
    """CP@k: each day the k customers with the highest score, the share truly defrauded, in the mean of days.

    A customer that was found leaves the list. None without orders. Guests, None, are customers of their own.
    """
    found: set[Any] = set()
    precision = []
    days = placed_at.astype("datetime64[D]")
    for day in np.unique(days):
        top: dict[Any, tuple[float, bool]] = {}
        for at in np.flatnonzero(days == day):
            customer = customers[at] if customers[at] is not None else ("guest", at)
            if customer in found:
                continue
            score, fraud = top.get(customer, (-1.0, False))
            top[customer] = (max(score, float(p[at])), fraud or bool(is_fraud[at]))
        ranked = sorted(top.items(), key=lambda each: -each[1][0])[:k]
        caught = [customer for customer, (_, fraud) in ranked if fraud]
        found.update(caught)
        precision.append(len(caught) / k)
    return float(np.mean(precision)) if precision else None


@dataclass(frozen=True, slots=True)
class Costs:
    """What mistakes cost, in minor units: a review, and which share of a fraud's amount is lost."""

    review: float = 300.0
    lost_share: float = 1.0

    def __str__(self) -> str:
        """For people."""
        return f"{self.review / 100:.2f} a review, {self.lost_share:.0%} of a missed fraud's amount"


def cost_curve(
    p: Floats, is_fraud: npt.NDArray[np.bool_], weights: Floats, amounts: Floats, costs: Costs
) -> tuple[Floats, Floats]:
    """Thresholds, and what orders cost where all from the threshold on are reviewed; the last reviews none.

    A reviewed fraud is stopped.
    """
    ranking = Ranking.of(p, is_fraud)
    sorted_weights = weights[ranking.order]
    worth = np.where(ranking.is_fraud, sorted_weights * amounts[ranking.order], 0.0)
    reviewed = np.append(np.cumsum(sorted_weights)[ranking.ends], 0.0)
    missed = worth.sum() - np.append(np.cumsum(worth)[ranking.ends], 0.0)
    thresholds = np.append(p[ranking.order[ranking.ends]], 1.0)
    return thresholds, reviewed * costs.review + missed * costs.lost_share


# ---------------------------------------------------------------------- features


def stability(before: Floats, after: Floats, *, bins: int = 10) -> float:
    """The population stability index of a feature or score; unknown is a bin of its own.

    Above 0.25 the two are hardly of one kind; below 0.1 they are.
    """
    known = before[~np.isnan(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.array([])

    def counts(values: Floats) -> Array:
        unknown = np.isnan(values)
        places = np.searchsorted(edges, values[~unknown], side="right")
        return np.append(np.bincount(places, minlength=len(edges) + 1), unknown.sum())

    return stability_of_counts(counts(before), counts(after))


def stability_of_counts(before: Array, after: Array) -> float:
    """The population stability index of how many fell into each bin before, and how many after."""
    first, second = (np.maximum(counts / max(counts.sum(), 1), _LEAST) for counts in (before, after))
    return float(((second - first) * np.log(second / first)).sum())


def permuted(
    score: Callable[[Floats], Floats],
    matrix: Floats,
    is_fraud: npt.NDArray[np.bool_],
    weights: Floats,
    *,
    seed: int = 0,
) -> list[float]:
    """Of each column: how much average precision is lost when its values are dealt to other orders."""
    chance = np.random.default_rng(seed)

    def quality(values: Floats) -> float:
        return Ranking.of(score(values), is_fraud).average_precision(weights) or 0.0

    whole = quality(matrix)
    lost = []
    for column in range(matrix.shape[1]):
        mixed = matrix.copy()
        mixed[:, column] = chance.permutation(mixed[:, column])
        lost.append(whole - quality(mixed))
    return lost
