"""Challengers held against the champion: the same recorded orders, what became of them, and the money."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from features.money import exponent
from models.comparison import ACTIONS, Compared, Losses, Pairs, compared
from models.evaluation import Difference
from models.labels import Labelling
from models.policy import Action
from stream.decided import DecidedError, DecidedOrder, Newest, Word, decided_in, reading, statements_of
from stream.replay import Opened
from stream.settings import Settings

__all__ = ["LEFT_OUT", "Asked", "Comparison", "compare"]

_PLACES = {action.value: place for place, action in enumerate(ACTIONS)}

LEFT_OUT: Mapping[str, str] = {
    "young": "are too young to be known",
    "unknown": "have no outcome, and silence does not count",
    "declined": "were declined and have no outcome: what would have become of them nobody knows",
    "currency": "are of another currency",
    "revised": "were revised, and the newer revision counts",
}
"""Why an order that both decided does not count, by its code."""


class Asked(NamedTuple):
    """What is to be compared."""

    labelling: Labelling
    review_cost: float = 3.0
    """In major units of the currency."""
    lost_share: float = 1.0
    margin: float = 0.2
    """As in Losses."""
    champion: str | None = None
    """Only orders that this model decided, `name` or `name@version`; None for whichever did."""
    challengers: Sequence[str] = ()
    """Only these; all when empty."""
    since: datetime | None = None
    until: datetime | None = None
    """Of `placed_at`, [since, until)."""
    currency: str | None = None
    """None for that of most orders."""
    samples: int = 2_000
    confidence: float = 0.95
    """Of the bounds of the money."""
    newest: Newest | None = None
    """Which orders are read; None for all."""
    only: Callable[[DecidedOrder, Word, Word], bool] = lambda *_: True
    """Whether an order counts that was decided so, with what the challenger said of it."""
    decided: Callable[[DecidedOrder, Word], object] = lambda *_: None
    """Told every arrival that was decided, whether or not a challenger said anything of it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One challenger, with one pair of thresholds, against what decided."""

    challenger: str
    policy: str
    """The digest of its thresholds: with others it is another one."""
    champions: Mapping[str, int]
    """Which models decided its orders, and how many."""
    currency: str
    found: Compared
    left_out: Counter[str] = field(default_factory=Counter)
    """Orders that both decided and that do not count, by one of LEFT_OUT."""
    scored: int = 0
    """Orders that both decided, those left out included."""
    disagreed: int = 0
    """Of these, where the challenger would have done something else."""
    declined: int = 0
    """Of these, those that were declined and have no outcome."""
    released: int = 0
    """Of the declined, those that the challenger would have approved: the money says nothing of them."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines; money in minor units."""
        found = self.found
        return {
            "challenger": self.challenger,
            "policy": self.policy,
            "champions": dict(self.champions),
            "currency": self.currency,
            "orders": found.orders,
            "frauds": found.frauds,
            "champion_cost": found.champion_cost,
            "challenger_cost": found.challenger_cost,
            "saved": _difference(found.saved),
            "auc_difference": _difference(found.auc),
            "verdict": found.verdict,
            "actions": [
                {"champion": one, "challenger": other, "orders": orders, "frauds": frauds}
                for one, other, orders, frauds in found.actions
            ],
            "left_out": dict(sorted(self.left_out.items())),
            "scored": self.scored,
            "disagreed": self.disagreed,
            "declined": self.declined,
            "released": self.released,
        }


def compare(
    settings: Settings,
    opened: Opened,
    asked: Asked,
    *,
    read: Callable[[int, int], None] = lambda _read, _of: None,
) -> list[Comparison]:
    """Every challenger that scored orders in the shadow, held against what decided the same orders.

    One whose thresholds were changed is several: an order counts for those of its newest revision.
    `opened` opens what was recorded. Raises DecidedError where there is none, and what else keeps topics or
    the archive from being read.
    """
    orders: dict[str, dict[str, dict[str, _Both]]] = {}
    """By model, order and thresholds."""
    revised: Counter[tuple[str, str]] = Counter()
    said_by: set[str] = set()
    champions = () if asked.champion is None else (asked.champion,)
    heard = replace(asked.labelling, silence="unknown")
    with reading(settings, opened, read) as (sources, partitions, more):
        for partition in partitions:
            statements = statements_of(settings, sources.asked, partition, read=more)
            for order in decided_in(settings, sources, partition, read=more, newest=asked.newest):
                counted = order.counted
                if (
                    counted is None
                    or not order.is_placed(asked.since, asked.until)
                    or not counted.is_of(champions)
                ):
                    continue
                asked.decided(order, counted)
                # the silence about a declined order says nothing
                labelling = heard if counted.action == Action.DECLINE else asked.labelling
                label = labelling.label(statements.get(order.order_id, ()), order.placed)
                for word in order.shadow:
                    said_by.add(word.model)
                    if not word.is_of(asked.challengers) or not asked.only(order, counted, word):
                        continue
                    of_model = orders.setdefault(word.model, {})
                    kept = of_model.setdefault(order.order_id, {})
                    newest = max((each.order.revision for each in kept.values()), default=-1)
                    if order.revision > newest:
                        revised.update((word.model, policy) for policy in kept)
                        kept.clear()
                    revised[word.model, word.policy] += order.revision < newest or word.policy in kept
                    if order.revision < newest:
                        continue
                    kept[word.policy] = _Both(
                        order._replace(counted=None, shadow=()),
                        counted._replace(features={}),
                        word._replace(features={}),
                        None if label is None else label.is_fraud,
                    )
    if not orders:
        others = f"; there are: {', '.join(sorted(said_by))}" if said_by else ""
        raise DecidedError(
            f"no order in '{settings.topics.orders}' was decided and scored by a challenger as well{others}; "
            "deploy one: fraudstream models deploy NAME@VERSION --role challenger --why TEXT"
        )
    by_policy: dict[tuple[str, str], list[_Both]] = {}
    for name, of_model in orders.items():
        for kept in of_model.values():
            for policy, both in kept.items():
                by_policy.setdefault((name, policy), []).append(both)
    return [_comparison(*said, those, asked, revised[said]) for said, those in sorted(by_policy.items())]


class _Both(NamedTuple):
    """An order that both decided."""

    order: DecidedOrder
    champion: Word
    challenger: Word
    is_fraud: bool | None


def _comparison(name: str, policy: str, both: Sequence[_Both], asked: Asked, revised: int) -> Comparison:
    currencies = Counter(each.order.currency for each in both)
    currency = asked.currency or min(currencies, key=lambda each: (-currencies[each], each))
    left_out: Counter[str] = Counter({"revised": revised} if revised else {})
    kept, champions = [], Counter[str]()
    for each in both:
        if each.order.currency != currency:
            left_out["currency"] += 1
        elif each.order.placed > asked.labelling.matured_before:
            left_out["young"] += 1
        elif each.is_fraud is None:
            left_out["declined" if each.champion.action == Action.DECLINE else "unknown"] += 1
        else:
            kept.append(each)
            champions[each.champion.model] += 1
    pairs = Pairs(
        champion=np.array([_PLACES[each.champion.action] for each in kept], dtype=np.int64),
        challenger=np.array([_PLACES[each.challenger.action] for each in kept], dtype=np.int64),
        p_champion=np.array([each.champion.p_fraud for each in kept], dtype=np.float64),
        p_challenger=np.array([each.challenger.p_fraud for each in kept], dtype=np.float64),
        is_fraud=np.array([each.is_fraud for each in kept], dtype=np.bool_),
        amounts=np.array([each.order.amount for each in kept], dtype=np.float64),
        # a guest is a customer of its own
        customers=np.array(
            [
                f"c{each.order.customer_id}" if each.order.customer_id else f"o{each.order.order_id}"
                for each in kept
            ],
            dtype=np.str_,
        ),
    )
    losses = Losses(asked.review_cost * 10 ** exponent(currency), asked.lost_share, asked.margin)
    found = compared(pairs, losses, samples=asked.samples, confidence=asked.confidence)
    disagreed = sum(each.champion.action != each.challenger.action for each in both)
    declined = [
        each.challenger.action
        for each in both
        if each.is_fraud is None and each.champion.action == Action.DECLINE
    ]
    released = sum(action == Action.APPROVE for action in declined)
    return Comparison(
        *(name, policy, dict(champions), currency, found),
        *(left_out, len(both), disagreed, len(declined), released),
    )


def _difference(found: Difference | None) -> dict[str, float] | None:
    return None if found is None else found._asdict()
