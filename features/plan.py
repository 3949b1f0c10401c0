"""Many features of one order at once: what several of them ask of a history is asked once.

A feature by itself says what its value is (`Feature.value`); a plan answers the very same values, to the last
bit, and only goes another way: all windows are found together, and the counts, totals and squares of a window
are shared by the features that are told from them.
"""

from collections.abc import Callable, Mapping, Sequence

from features.aggregates import Count, Mean, Moments, Std, Sum, ZScore, minor_units
from features.define import Feature, OrderFact
from features.events import Order
from features.history import History, Span
from features.remembered import fingerprint

__all__ = ["Plan"]

_AMOUNT = "amount"
_ORDERS = "orders"


class _OfEntity:
    """The features that look at the history of one entity."""

    def __init__(self, features: Sequence[tuple[int, Feature]]) -> None:
        self._counts: list[tuple[int, Span]] = []
        self._told: dict[Span, list[tuple[int, Callable[[Order, Moments], float | None]]]] = {}
        self._squared: set[Span] = set()
        self._others: list[tuple[int, Callable[[Order, History | None], float | None]]] = []
        spans: dict[Span, None] = {}
        for position, each in features:
            if type(each) is Count and each.what == _ORDERS and each.where is None:
                self._counts.append((position, each.span))
            elif type(each) in _OF_MOMENTS and each.what == _AMOUNT and each.where is each.rates is None:
                self._told.setdefault(each.span, []).append((position, each.of_moments))
                if each.is_squared:
                    self._squared.add(each.span)
            else:
                self._others.append((position, each.value))
            if (window := getattr(each, "span", None)) is not None:
                spans[window] = None
        self._spans = tuple(spans)

    def fill(self, values: list[float | None], order: Order, history: History) -> None:
        """Put the features' values into their places."""
        history.look_over(self._spans)
        for position, window in self._counts:
            values[position] = float(history.count(window))
        if self._told:
            currency, divided_by = fingerprint(order.currency), minor_units(order.currency)
            for window, told in self._told.items():
                count, total = history.spent(window, currency)
                squares = history.squares(window, currency) if window in self._squared else 0
                moments = (count, total, squares, divided_by)
                for position, of_moments in told:
                    values[position] = of_moments(order, moments)
        for position, value in self._others:
            values[position] = value(order, history)


_OF_MOMENTS = frozenset({Sum, Mean, Std, ZScore})


class Plan:
    """What computes a list of features of one order after the other.

    `Plan(features)(order, histories)` is `compute(features, order, histories)`.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._nothing: list[float | None] = [None] * len(features)
        self._of_order = [(at, each) for at, each in enumerate(features) if each.entity is None]
        by_entity: dict[str, list[tuple[int, Feature]]] = {}
        for at, each in enumerate(features):
            if each.entity is not None:
                by_entity.setdefault(each.entity, []).append((at, each))
        self._of_history = {entity: (_OfEntity(some), some) for entity, some in by_entity.items()}

    def __call__(self, order: Order, histories: Mapping[str, History | None]) -> tuple[float | None, ...]:
        """The order's feature vector; None stands for unknown. `histories` are those that `compute` takes."""
        values = self._nothing.copy()
        for at, each in self._of_order:
            values[at] = each.value(order, None)
        for entity, (asked, features) in self._of_history.items():
            history = histories.get(entity)
            if history is not None:
                asked.fill(values, order, history)
            else:
                for at, each in features:
                    values[at] = each.value(order, None)
        return tuple(values)
