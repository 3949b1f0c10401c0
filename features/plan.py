"""Many features of one order at once: what several of them ask of a history is asked once.

A feature by itself says what its value is (`Feature.value`). A plan answers the very same values, to the last
bit, and only goes another way: all windows are found together, the counts, totals and squares of a window are
shared by the features told from them, and what is the same for every order is looked up beforehand.
"""

from collections.abc import Callable, Mapping, Sequence

from features.aggregates import (
    Count,
    Distinct,
    IsNew,
    Max,
    Mean,
    Min,
    Moments,
    Std,
    Sum,
    Trend,
    ZScore,
    minor_units,
)
from features.define import Feature
from features.events import Order
from features.history import History, Span
from features.remembered import VALUES, fingerprint

__all__ = ["Plan"]

_AMOUNT = "amount"
_ORDERS = "orders"
_TOGETHER = frozenset({Count, Distinct, IsNew, Max, Mean, Min, Std, Sum, Trend, ZScore})


class _OfEntity:
    """The features that look at the history of one entity."""

    def __init__(self, features: Sequence[tuple[int, Feature]]) -> None:
        self._counts: list[tuple[int, Span]] = []
        self._trends: list[tuple[int, Span, Span, Callable[[int, int], float | None]]] = []
        self._told: dict[Span, list[tuple[int, Callable[[Order, Moments], float | None]]]] = {}
        self._squared: set[Span] = set()
        self._extremes: list[tuple[int, Span, bool]] = []
        self._distinct: list[tuple[int, str, Span]] = []
        self._new: list[tuple[int, Callable[[Order], str | None], str]] = []
        self._others: list[tuple[int, Callable[[Order, History | None], float | None]]] = []
        spans: dict[Span, None] = {}
        for at, each in features:
            window: Span | None = getattr(each, "span", None)
            if window is not None:
                spans[window] = None
            # a shop's own subclass may answer what it likes
            if type(each) not in _TOGETHER or getattr(each, "where", None) is not None:
                self._others.append((at, each.value))
            elif isinstance(each, IsNew):
                self._new.append((at, VALUES[each.what], each.what))
            elif isinstance(each, Distinct):
                self._distinct.append((at, each.what, each.span))
            elif isinstance(each, Count) and each.what == _ORDERS:
                self._counts.append((at, each.span))
            elif isinstance(each, Trend) and each.what == _ORDERS:
                spans[each.longer_span] = None
                self._trends.append((at, each.span, each.longer_span, each.of_counts))
            elif isinstance(each, Sum | Mean | Std | ZScore) and each.what == _AMOUNT and each.rates is None:
                self._told.setdefault(each.span, []).append((at, each.of_moments))
                if each.is_squared:
                    self._squared.add(each.span)
            elif isinstance(each, Min | Max) and each.what == _AMOUNT and each.rates is None:
                self._extremes.append((at, each.span, isinstance(each, Max)))
            else:
                self._others.append((at, each.value))
        self._spans = tuple(spans)

    def fill(self, values: list[float | None], order: Order, history: History) -> None:
        """Put the features' values into their places."""
        history.look_over(self._spans)
        for at, window in self._counts:
            values[at] = float(history.count(window))
        for at, window, longer, of_counts in self._trends:
            values[at] = of_counts(history.count(window), history.count(longer))
        if self._told or self._extremes:
            currency, divided_by = fingerprint(order.currency), minor_units(order.currency)
            for window, told in self._told.items():
                count, total = history.spent(window, currency)
                squares = history.squares(window, currency) if window in self._squared else 0
                moments = (count, total, squares, divided_by)
                for at, of_moments in told:
                    values[at] = of_moments(order, moments)
            for at, window, is_max in self._extremes:
                amount = (history.largest if is_max else history.smallest)(window, currency)
                values[at] = None if amount is None else amount / divided_by
        for at, what, window in self._distinct:
            values[at] = float(history.distinct(what, window))
        for at, said, what in self._new:
            text = said(order)
            if text is not None:
                values[at] = 0.0 if history.has_seen(what, fingerprint(text)) else 1.0
        for at, value in self._others:
            values[at] = value(order, history)


class Plan:
    """What computes a list of features of one order after the other.

    `Plan(features)(order, histories)` is `compute(features, order, histories)`, and quicker.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._unknown: list[float | None] = [None] * len(features)
        self._of_order = [(at, each.value) for at, each in enumerate(features) if each.entity is None]
        by_entity: dict[str, list[tuple[int, Feature]]] = {}
        for at, each in enumerate(features):
            if each.entity is not None:
                by_entity.setdefault(each.entity, []).append((at, each))
        self._of_history = [(entity, _OfEntity(some), some) for entity, some in by_entity.items()]

    def __call__(self, order: Order, histories: Mapping[str, History | None]) -> tuple[float | None, ...]:
        """The order's feature vector; None stands for unknown. `histories` are those that `compute` takes."""
        values = self._unknown.copy()
        for at, value in self._of_order:
            values[at] = value(order, None)
        for entity, together, features in self._of_history:
            history = histories.get(entity)
            if history is not None:
                together.fill(values, order, history)
            else:
                for at, each in features:
                    values[at] = each.value(order, None)
        return tuple(values)
