"""An evaluation as a page of HTML that stands for itself: no network, no script, everything in one file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from itertools import pairwise, zip_longest
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.evaluation import (
    GRID,
    Band,
    Bin,
    Costs,
    Cut,
    Difference,
    Measures,
    Ranking,
    at_budget,
    bands,
    calibration,
    calibration_error,
    compromised_at,
    cost_curve,
    difference,
    measured,
    permuted,
    stability,
)
from models.examples import UNKNOWN, Examples
from models.labels import Labelling
from models.policy import Policy, suggest_policy
from models.svg import Line, chart

__all__ = ["Evaluated", "Importance", "Judged", "Scored", "evaluated", "page"]

Floats = npt.NDArray[np.float64]

BUDGETS: Final = (0.005, 0.01, 0.05)
"""Shares of all orders that a shop may be able to review."""
CUSTOMERS_A_DAY: Final = 100
_SAMPLES: Final = 200
_ROWS_PERMUTED: Final = 4000
_EXPLAINED: Final = 40
"""Orders of which Shapley values are asked, frauds and others in turns; they take milliseconds a pair."""
_HELD_AGAINST: Final = 25
_FEWEST: Final = 30
"""Orders of which a group's measures are shown."""
_FINE_BANDS: Final = 4
_NEW: Final = ("days_since_first_order", "days_since_last_order")
"""Features that are unknown of a customer's first order."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A model to be judged, and what it says of the orders."""

    name: str
    p: Floats
    """Its probabilities, one for each of the examples."""
    names: tuple[str, ...] = ()
    """The features that it asks, of those that the examples have."""
    score: Callable[[Floats], Floats] | None = None
    """Scores rows of those features; None where importance can't be asked."""
    attributions: Callable[[Floats], Floats] | None = None
    """Path attributions of such rows, a column a feature."""
    shapley: Callable[[Floats, Floats], Floats] | None = None
    """The mean size of exact Shapley values of some rows held against others, a number a feature."""
    learned_from: str = ""


class Importance(NamedTuple):
    """How much a model owes to a feature."""

    feature: str
    lost: float
    """Average precision lost when its values are mixed."""
    pushed: float | None
    """The mean absolute path attribution; None where nobody can tell it."""
    shapley: float | None
    """The mean absolute Shapley value; None where nobody can tell it."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """All that was measured of one model."""

    name: str
    learned_from: str
    measures: Measures
    bands: Mapping[str, Band]
    bins: Sequence[Bin]
    calibration_error: float | None
    cuts: Mapping[float, Cut | None]
    compromised: float | None
    """None of a sample too: the customers that were left out might have been on the list."""
    costs: tuple[Floats, Floats]
    cheapest: float
    """The threshold at which mistakes cost least."""
    policy: Policy
    groups: Mapping[str, Sequence[tuple[str, Measures]]]
    importance: Sequence[Importance]
    """The most important feature first."""
    score_stability: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """Several models on the same orders."""

    title: str
    judged: Sequence[Judged]
    differences: Sequence[tuple[str, str, str, Difference]]
    """One model, another, the measure, and how much better the first is."""
    orders: int
    known: int
    frauds: int
    fraud_share: float | None
    """Of the orders of which it is known, by their weights; None without any."""
    first: str
    last: str
    labelling: Labelling
    declined: int
    declined_known: int
    without_declined: Sequence[tuple[str, Measures]]
    missing: Sequence[tuple[str, float, float]]
    """Feature, the share of orders of which it is unknown, its stability from first half to second."""
    is_sampled: bool
    costs: Costs
    notes: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The figures for machines."""
        return {
            "title": self.title,
            "orders": self.orders,
            "known": self.known,
            "frauds": self.frauds,
            "fraud_share": self.fraud_share,
            "first": self.first,
            "last": self.last,
            "labels_as_of": self.labelling.as_of.isoformat(),
            "declined": self.declined,
            "models": {each.name: _figures(each) for each in self.judged},
            "differences": [
                {"model": one, "than": other, "measure": measure, **found._asdict()}
                for one, other, measure, found in self.differences
            ],
        }


def _figures(judged: Judged) -> dict[str, Any]:
    auc, precision = judged.bands["auc"], judged.bands["average_precision"]
    return {
        "auc": auc.value,
        "auc_95": [_float(auc.low), _float(auc.high)],
        "average_precision": precision.value,
        "average_precision_95": [_float(precision.low), _float(precision.high)],
        "brier": judged.measures.brier,
        "calibration_error": judged.calibration_error,
        "at_budget": {str(share): cut and cut._asdict() for share, cut in judged.cuts.items()},
        "compromised_at_100": judged.compromised,
        "cheapest_threshold": judged.cheapest,
        "suggested_policy": judged.policy.model_dump(),
        "score_stability": judged.score_stability,
    }


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


# ---------------------------------------------------------------------- measuring


def evaluated(
    title: str,
    examples: Examples,
    models: Sequence[Scored],
    labelling: Labelling,
    *,
    costs: Costs | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Evaluated:
    """Measure models on the same orders; only those count of which it is known what they were.

    The same orders, scores and seed give the same figures.
    """
    costs = costs or Costs()
    is_known = examples.labels != UNKNOWN
    known = examples.where(is_known)
    is_fraud = known.labels == 1
    rankings = {each.name: Ranking.of(each.p[is_known], is_fraud) for each in models}
    declined = examples.action == "decline"
    kept = ~(known.action == "decline")
    is_sampled = bool((examples.weights != 1).any())
    return Evaluated(
        title=title,
        judged=[
            _judged(
                each,
                rankings[each.name],
                known,
                is_known=is_known,
                is_sampled=is_sampled,
                costs=costs,
                seed=seed,
            )
            for each in models
        ],
        differences=list(_differences(models, rankings, known, seed)),
        orders=len(examples),
        known=len(known),
        frauds=int(is_fraud.sum()),
        fraud_share=float(np.average(is_fraud, weights=known.weights)) if len(known) else None,
        first=_day(examples.placed_at.min()) if len(examples) else "",
        last=_day(examples.placed_at.max()) if len(examples) else "",
        labelling=labelling,
        declined=int(declined.sum()),
        declined_known=int((declined & is_known).sum()),
        without_declined=[
            (each.name, measured(each.p[is_known][kept], is_fraud[kept], known.weights[kept]))
            for each in models
        ]
        if declined.any()
        else [],
        missing=list(_missing(examples, sorted({name for each in models for name in each.names}))),
        is_sampled=is_sampled,
        costs=costs,
        notes=notes,
    )


def _judged(
    model: Scored,
    ranking: Ranking,
    known: Examples,
    *,
    is_known: npt.NDArray[np.bool_],
    is_sampled: bool,
    costs: Costs,
    seed: int,
) -> Judged:
    p, weights, is_fraud = model.p[is_known], known.weights, known.labels == 1
    bins = calibration(p, is_fraud, weights)
    thresholds, cost = cost_curve(p, is_fraud, weights, known.amount, costs)
    half = len(model.p) // 2
    return Judged(
        name=model.name,
        learned_from=model.learned_from,
        measures=measured(p, is_fraud, weights),
        bands=bands(ranking, weights, known.clusters, samples=_SAMPLES, seed=seed),
        bins=bins,
        calibration_error=calibration_error(bins),
        cuts={share: at_budget(p, is_fraud, weights, known.amount, share) for share in BUDGETS},
        compromised=None
        if is_sampled
        else compromised_at(CUSTOMERS_A_DAY, p, is_fraud, known.customer_id, known.placed_at),
        costs=(thresholds, cost),
        cheapest=float(thresholds[int(np.argmin(cost))]),
        policy=suggest_policy(p.tolist(), is_fraud.tolist(), weights=weights.tolist())
        if len(p)
        else Policy(review_at=0.5, decline_at=0.9),
        groups={what: list(_grouped(p, known, groups)) for what, groups in _groupings(known).items()},
        importance=list(_importance(model, known, seed)),
        score_stability=stability(model.p[:half], model.p[half:]),
    )


def _groupings(known: Examples) -> Mapping[str, Mapping[str, npt.NDArray[np.bool_]]]:
    """By what orders are told apart; of each group its name and its orders, as a reader looks for them."""
    edges = np.unique(np.quantile(known.amount, [0.25, 0.5, 0.75])) if len(known) else np.array([])
    bounds = ["0", *(f"{edge / 100:,.2f}" for edge in edges), "…"]
    place = np.searchsorted(edges, known.amount, side="right")
    amounts = {f"{low} to {high}": place == at for at, (low, high) in enumerate(pairwise(bounds))}
    column = next((name for name in _NEW if name in known.names), None)
    if column is not None:
        is_first = np.isnan(known.matrix[:, known.names.index(column)])
        what = "customer"
    else:
        _, firsts = np.unique(known.clusters.astype(str), return_index=True)
        is_first = np.isin(np.arange(len(known)), firsts)
        what = "customer, among these orders"
    return {
        "country": _by_name(np.array([each or "not said" for each in known.country], dtype=object)),
        "month": _by_name(known.placed_at.astype("datetime64[M]").astype(str)),
        "amount": amounts,
        what: {"first order, or a guest": is_first, "ordered before": ~is_first},
    }


def _by_name(groups: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[np.bool_]]:
    texts = groups.astype(str)
    return {str(each): texts == each for each in np.unique(texts)}


def _grouped(
    p: Floats, known: Examples, groups: Mapping[str, npt.NDArray[np.bool_]]
) -> Iterator[tuple[str, Measures]]:
    for name, mine in groups.items():
        if mine.sum() >= _FEWEST:
            yield name, measured(p[mine], known.labels[mine] == 1, known.weights[mine])


def _importance(model: Scored, known: Examples, seed: int) -> Iterator[Importance]:
    if model.score is None or not model.names or not len(known):
        return
    # all frauds would be too few else
    chance = np.random.default_rng(seed)
    frauds = np.flatnonzero(known.labels == 1)
    others = np.flatnonzero(known.labels == 0)
    picked = [chance.permutation(each)[: _ROWS_PERMUTED // 2] for each in (frauds, others)]
    some = np.sort(np.concatenate(picked))
    matrix = known.only(model.names).matrix[some]
    is_fraud = known.labels[some] == 1
    lost = permuted(model.score, matrix, is_fraud, np.ones(len(some)), seed=seed)
    pushed: Sequence[float | None] = [None] * len(model.names)
    if model.attributions is not None:
        pushed = np.abs(model.attributions(matrix)).mean(axis=0).tolist()
    owed: Sequence[float | None] = [None] * len(model.names)
    if model.shapley is not None:
        kinds = [chance.permutation(np.flatnonzero(is_fraud == each)).tolist() for each in (True, False)]
        against = known.only(model.names).matrix[chance.permutation(len(known))[:_HELD_AGAINST]]
        # in turns, for of a large model only the first are asked
        turns = [each for pair in zip_longest(*kinds) for each in pair if each is not None]
        owed = model.shapley(matrix[turns[:_EXPLAINED]], against).tolist()
    found = map(Importance, model.names, lost, pushed, owed)
    yield from sorted(found, key=lambda each: -each.lost)


def _differences(
    models: Sequence[Scored], rankings: Mapping[str, Ranking], known: Examples, seed: int
) -> Iterator[tuple[str, str, str, Difference]]:
    measures: Mapping[str, Callable[[Ranking, Floats], float | None]] = {
        "AUC": Ranking.auc,
        "average precision": Ranking.average_precision,
    }
    for at, one in enumerate(models):
        for other in models[at + 1 :]:
            for name, measure in measures.items():
                found = difference(
                    rankings[one.name],
                    rankings[other.name],
                    known.weights,
                    known.clusters,
                    measure,
                    seed=seed,
                )
                if found is not None:
                    yield one.name, other.name, name, found


def _missing(examples: Examples, names: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    half = len(examples) // 2
    for name in names:
        column = examples.matrix[:, examples.names.index(name)]
        yield name, float(np.isnan(column).mean()), stability(column[:half], column[half:])


def _day(moment: Any) -> str:
    return str(np.datetime64(moment, "D"))


# ---------------------------------------------------------------------- the page


_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;max-width:1040px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #e3e3e3}
td:first-child,th:first-child{text-align:left}th{font-weight:600}
.charts{display:flex;flex-wrap:wrap;gap:1.2em}.charts svg{width:460px;max-width:100%}
svg text{font:11px system-ui,sans-serif;fill:#333}.mid{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:#e4e4e4;fill:none}.diagonal{stroke:#999;stroke-dasharray:4 4;fill:none}
.note{background:#fff8e1;border-left:4px solid #f0b400;padding:.5em 1em}
@media print{body{max-width:none}h2{break-after:avoid}}
"""


def page(found: Evaluated) -> str:
    """The evaluation as one HTML page."""
    sections = (
        _head(found),
        _rests_on(found),
        _summary(found),
        _curves(found),
        _paired(found),
        _calibrated(found),
        _budget(found),
        _cost(found),
        _by_group(found),
        _features(found),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(found.title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(each for each in sections if each)
        + "\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>\n{lines}</tbody></table>"


def _shown(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 - a dash for people


def _banded(band: Band) -> str:
    if band.value is None:
        return "–"  # noqa: RUF001
    return f"{band.value:.3f} ({band.low:.3f} to {band.high:.3f})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"  # noqa: RUF001


def _head(found: Evaluated) -> str:
    names = ", ".join(escape(each.name) for each in found.judged)
    return (
        f"<h1>{escape(found.title)}</h1><p>{names}: {found.orders:,} orders placed from {found.first} to "
        f"{found.last}; of {found.known:,} it is known what they were, {found.frauds:,} were fraud"
        f"{'' if found.fraud_share is None else f' ({found.fraud_share:.2%})'}.</p>"
    )


def _rests_on(found: Evaluated) -> str:
    labelling = found.labelling
    mature = labelling.mature_after / timedelta(days=1)
    unknown = found.orders - found.known
    silence = (
        "An order of which nothing was said by then counts as not fraud."
        if labelling.silence == "not_fraud"
        else "An order of which nothing was said is unknown, not legitimate."
    )
    maturity = (
        f"<strong>Label maturity.</strong> Labels are those known by {labelling.as_of:%Y-%m-%d %H:%M} UTC. "
        f"An order counts once it is {mature:g} days old; a fraud that is reported later is none here. "
        f"{silence} {unknown:,} of {found.orders:,} orders are unknown and left out."
    )
    said = [maturity]
    if found.declined:
        said.append(
            f"<strong>Declined orders.</strong> {found.declined:,} orders were declined. What they would "
            f"have become nobody knows: of {found.declined_known:,} a label is there, mostly because "
            "silence stands for one. A model that agrees with the one in service looks better than it is, "
            "and one that would have let them pass can't show that it was right. Without them: "
            + "; ".join(
                f"{escape(name)} AUC {_shown(one.auc)}, average precision {_shown(one.average_precision)}"
                for name, one in found.without_declined
            )
            + "."
        )
    else:
        said.append(
            "<strong>Declined orders.</strong> No decision is known of these orders. Had some been declined, "
            "their fraud would never have happened and would count here as none."
        )
    if found.is_sampled:
        said.append(
            "<strong>Sample.</strong> Legitimate orders were sampled and weigh what they stand for, in every "
            "share, curve, cost and threshold; counts of orders are of the sample. "
            "CP@100 can't be told of one."
        )
    said += [escape(each) for each in found.notes]
    lines = "".join(f"<p>{each}</p>" for each in said)
    return f'<h2>What these figures rest on</h2><div class="note">{lines}</div>'


def _summary(found: Evaluated) -> str:
    rows = [
        (
            each.name,
            _banded(each.bands["auc"]),
            _banded(each.bands["average_precision"]),
            _shown(each.measures.brier, 4),
            _shown(each.calibration_error, 4),
            _shown(each.compromised),
            each.learned_from or "not said",
        )
        for each in found.judged
    ]
    head = ("", "AUC", "average precision", "Brier", "calibration error", "CP@100", "learned from")
    return (
        "<h2>Summary</h2>"
        + _table(head, rows)
        + "<p>In brackets: between what 95 of 100 bootstrap samples of customers lie. <em>AUC</em>: how "
        "often a fraud has a higher score than another order; 0.5 is chance. <em>Average precision</em>: the "
        "share of frauds among the orders from a score on, in the mean over all frauds; chance gives the "
        f"share of frauds, {_shown(found.fraud_share)}. <em>Brier</em>: the mean squared distance between "
        f"the probability and what came, 0 or 1; always saying the share of frauds gives {_guessing(found)}. "
        "<em>Calibration error</em>: the mean distance between the probability and the share that came, in "
        "bins by the score. <em>CP@100</em>: of the 100 customers with the highest score of each day the "
        "share truly defrauded; found ones leave the list, and a day with fewer than 100 customers counts as "
        "100.</p>"
    )


def _guessing(found: Evaluated) -> str:
    share = found.fraud_share
    return _shown(None if share is None else share * (1 - share), 4)


def _curves(found: Evaluated) -> str:
    roc = [
        Line(each.name, GRID, each.bands["roc"].value, each.bands["roc"].low, each.bands["roc"].high)
        for each in found.judged
    ]
    precision = [
        Line(
            each.name,
            GRID,
            each.bands["precision"].value,
            each.bands["precision"].low,
            each.bands["precision"].high,
        )
        for each in found.judged
    ]
    return (
        '<h2>ROC and precision-recall</h2><div class="charts">'
        + chart(roc, x="legitimate orders stopped", y="frauds caught", title="ROC curve", diagonal=True)
        + chart(precision, x="frauds caught", y="precision", title="Precision-recall curve")
        + "</div><p>Each point is a score from which on orders are stopped. Shaded: 95 % bands of the "
        "bootstrap. Precision: the share of frauds among the orders stopped. Where frauds are rare, look at "
        "the right one: a small share of all legitimate orders is many orders.</p>"
    )


def _paired(found: Evaluated) -> str:
    if not found.differences:
        return ""
    rows = [
        (
            f"{one} over {other}",
            measure,
            f"{each.value:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            each.p_said,
            "yes" if each.p_value < 0.05 else "no",
        )
        for one, other, measure, each in found.differences
    ]
    head = ("", "measure", "difference", "95 % of samples", "paired test", "more than chance")
    return (
        "<h2>Compared on the same orders</h2>"
        + _table(head, rows)
        + "<p>A paired bootstrap of customers: both models are measured on the same samples. p: how often "
        "chance alone would make a difference as large, in either direction.</p>"
    )


def _calibrated(found: Evaluated) -> str:
    lines = [
        Line(each.name, [b.said for b in each.bins], [b.came for b in each.bins], has_points=True)
        for each in found.judged
    ]
    small = [float(one.said) for each in found.judged for one in each.bins[:-_FINE_BANDS]]
    top = max([*small, 1e-3]) * 1.1
    finer = [
        Line(
            each.name,
            [b.said for b in each.bins if b.said <= top],
            [min(b.came, top) for b in each.bins if b.said <= top],
            has_points=True,
        )
        for each in found.judged
    ]
    return (
        '<h2>Calibration</h2><div class="charts">'
        + chart(lines, x="probability said", y="share that was fraud", title="Calibration", diagonal=True)
        + chart(
            finer,
            x="probability said, lower part",
            y="share that was fraud",
            title="Calibration of low scores",
            x_range=(0.0, top),
            y_range=(0.0, top),
            diagonal=True,
        )
        + "</div><p>Each point is a bin of orders of about one score: what was said of them in the mean, and "
        "which share was fraud. On the dashed line what is said is what comes; below it the model says too "
        "much. The right chart is the lower end of the left one, where most orders are.</p>"
    )


def _budget(found: Evaluated) -> str:
    rows = []
    for each in found.judged:
        for share, cut in each.cuts.items():
            rows.append(
                (
                    each.name,
                    _percent(share),
                    _shown(cut and cut.threshold, 4),
                    _percent(cut and cut.stopped),
                    _percent(cut and cut.precision),
                    _percent(cut and cut.recall),
                    _percent(cut and cut.value_recall),
                )
            )
    head = ("", "budget", "from score", "orders", "precision", "frauds caught", "of their value")
    return (
        "<h2>At a review budget</h2>"
        + _table(head, rows)
        + "<p>If at most so many of all orders can be reviewed: the score to review from, the share of "
        "orders that is, how many of them are fraud (precision), and which share of all frauds, and of their "
        "amounts, is among them. A dash: already the orders of the highest score are more than that, or "
        "there is no fraud.</p>"
    )


def _cost(found: Evaluated) -> str:
    lines = []
    for each in found.judged:
        thresholds, cost = each.costs
        at = np.unique(np.linspace(0, len(cost) - 1, 300).astype(int))
        at = at[np.argsort(thresholds[at], kind="stable")]
        lines.append(Line(each.name, thresholds[at], cost[at] / 100))
    rows = [
        (
            each.name,
            "no review pays"
            if int(np.argmin(each.costs[1])) == len(each.costs[1]) - 1
            else f"{each.cheapest:.4f}",
            f"{each.costs[1].min() / 100:,.2f}",
            f"{each.costs[1][-1] / 100:,.2f}",
            f"{each.policy.review_at:.4f}",
            f"{each.policy.decline_at:.4f}",
        )
        for each in found.judged
    ]
    head = (
        "",
        "cheapest from score",
        "mistakes then cost",
        "reviewing none costs",
        "suggested review",
        "suggested decline",
    )
    return (
        '<h2>Cost and threshold</h2><div class="charts">'
        + chart(lines, x="every order from this score on is reviewed", y="cost", title="Cost", y_range=None)
        + "</div>"
        + _table(head, rows)
        + f"<p>With {escape(str(found.costs))} (--review-cost, --lost-share), in the currency of the orders: "
        "every review costs, and so does every fraud that is not reviewed; a reviewed fraud is stopped. Only "
        "the shop knows what mistakes cost it, and amounts of several currencies are added as they are. The "
        "suggested thresholds are found as the registry's are: at most 5 % reviewed, declined from where "
        "nine of ten are fraud; 1.0000 declines next to nothing.</p>"
    )


def _by_group(found: Evaluated) -> str:
    parts = ["<h2>By country, month, amount and customer</h2>"]
    for what in found.judged[0].groups if found.judged else ():
        rows = [
            (
                each.name,
                group,
                f"{one.orders:,}",
                f"{one.frauds:,}",
                _shown(one.auc),
                _shown(one.average_precision),
            )
            for each in found.judged
            for group, one in each.groups[what]
        ]
        if len(rows) > len(found.judged):
            parts.append(
                f"<h3>By {escape(what)}</h3>"
                + _table(("", what, "orders", "frauds", "AUC", "average precision"), rows)
            )
    parts.append(
        f"<p>Groups of fewer than {_FEWEST} orders are left out, and so is what all orders share. The "
        "average precision of groups with other shares of frauds can't be compared: more frauds make it "
        "higher.</p>"
    )
    return "".join(parts)


def _features(found: Evaluated) -> str:
    parts = ["<h2>Features</h2>"]
    for each in found.judged:
        if each.importance:
            rows = [
                (one.feature, f"{one.lost:+.4f}", _shown(one.shapley, 4), _shown(one.pushed, 4))
                for one in each.importance
            ]
            parts.append(
                f"<h3>Importance in {escape(each.name)}</h3>"
                + _table(("", "average precision lost", "mean |SHAP|", "mean |path attribution|"), rows)
            )
    parts.append(
        "<p>Average precision lost: when a feature's values are dealt to other orders, on a sample, half "
        f"of it frauds. SHAP: exact Shapley values of at most {_EXPLAINED} orders, frauds and others in "
        f"turns, held against {_HELD_AGAINST} orders: how far a feature moves the raw score (the "
        "share of trees, or log-odds), up or down, in the mean. Path attributions, of which "
        "reasons are made, are the steps of the score along the trees, or a linear model's terms, in the "
        "same unit. A dash: of a model of models neither is told of features.</p>"
    )
    steady = [(name, _percent(missing), _shown(psi, 2)) for name, missing, psi in found.missing]
    steady += [(f"score of {each.name}", "–", _shown(each.score_stability, 2)) for each in found.judged]  # noqa: RUF001
    parts.append(
        "<h3>Missing and stability</h3>"
        + _table(("", "unknown, so imputed", "stability index"), steady)
        + "<p>The population stability index from the first half of the orders to the second: below 0.1 they "
        "are alike, above 0.25 hardly.</p>"
    )
    return "".join(parts)
