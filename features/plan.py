"""Many features of one order at once: what several of them ask of a history is asked once.

A feature by itself says what its value is (`Feature.value`). A plan answers the very same values, to the last
bit, and only goes another way: all windows are found together, the counts, totals and squares of a window are
shared by the features told from them, and what is the same for every order is looked up beforehand.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from features.aggregates import (
    MICROSECONDS_A_DAY,
    Count,
    Distinct,
    IsNew,
    Max,
    Mean,
    Min,
    Moments,
    Ratio,
    Share,
    SinceFirst,
    SinceLast,
    Std,
    Sum,
    Trend,
    ZScore,
    minor_units,
)
from features.conditions import same
from features.define import Feature
from features.events import Order
from features.history import History
from features.questions import (
    COUNT,
    DIFFERENT,
    END,
    EVER,
    IS_CUT,
    LARGEST,
    LAST,
    LAST_HELD,
    NEVER,
    ORDERS,
    ORDERS_WITH,
    SMALLEST,
    START,
    Answers,
    Questions,
    Span,
    Text,
    squares_of,
    total_of,
)
from features.remembered import COLUMN_OF, numbers_of, told

__all__ = ["Plan"]

_Answer = TypeVar("_Answer")
_OfHistory = Callable[[Order, History | None], _Answer]
_Fraction = tuple[int, int] | None

_AMOUNT = "amount"
_ORDERS = "orders"
_SINCE = {SinceFirst: History.first_at, SinceLast: History.last_at}
_EXTREMES = {Min: SMALLEST, Max: LARGEST}
_OF_AMOUNTS = frozenset({*_EXTREMES, Mean, Std, Sum, ZScore})
_CURRENCY = COLUMN_OF["currency"]


class _OfEntity:
    """The features that look at the history of one entity.

    Each is held with its place among all features, and those told together with where their answers stand.
    """

    def __init__(self, features: Sequence[tuple[int, Feature]]) -> None:
        windows: set[Span] = set()
        texts: list[Text] = []
        for _, each in features:
            windows.update(_windows_of(each))
            # those of features told by themselves: what they ask is answered already
            windows.update(part.span for part in _parts_of(each) if hasattr(part, "span"))
            if (text := _text_of(each)) is not None:
                texts.append(text)
        self._questions = Questions(windows, texts)
        self._counts: list[tuple[int, int]] = []
        self._trends: list[tuple[int, int, int, Callable[[int, int], float | None]]] = []
        self._amounts: dict[int, list[tuple[int, Callable[[Order, Moments], float | None]]]] = {}
        self._extremes: list[tuple[int, int, int]] = []
        self._facts: list[tuple[int, int, Span, str]] = []
        self._new: list[tuple[int, int, int]] = []
        self._last: list[tuple[int, int]] = []
        self._shares: list[tuple[int, int, int, int]] = []
        self._known: list[tuple[int, Span, str]] = []
        self._since: list[tuple[int, Callable[[History], int | None]]] = []
        self._ratios: list[tuple[int, _OfHistory[_Fraction], int, Callable[[Moments], _Fraction]]] = []
        self._others: list[tuple[int, _OfHistory[float | None]]] = []
        self._cut: list[int] = []
        """Where it stands whether tiles cut a window, of those windows of which tiles tell too."""
        for at, each in features:
            self._place(at, each)

    def _place(self, at: int, each: Any) -> None:
        asked, kind, text = self._questions, type(each), _text_of(each)
        windows = [asked.windows[window] for window in _windows_of(each)]
        self._cut += [window + IS_CUT for window in windows if window + IS_CUT not in self._cut]
        if kind is Ratio and windows:
            self._ratios.append((at, each.quantity.exact, windows[0], each.to.fraction))
        elif text is not None:
            where, position = asked.texts[text], COLUMN_OF[text.what]
            if text.ask == LAST:
                self._new.append((at, where, position))
            elif text.ask == LAST_HELD:
                self._last.append((at, where))
            elif text.ask == DIFFERENT:
                self._counts.append((at, where))
            else:
                self._shares.append((at, where, position, asked.windows[text.window]))
        elif kind in _SINCE and each.what == _ORDERS and each.where is None:
            self._since.append((at, _SINCE[kind]))
        elif kind is Count and each.what != _ORDERS:
            self._known.append((at, each.span, each.what))
        elif not windows:
            self._others.append((at, each.value))
        elif kind is Count:
            self._counts.append((at, windows[0] + ORDERS))
        elif kind is Trend:
            self._trends.append((at, windows[0] + ORDERS, windows[1] + ORDERS, each.of_counts))
        elif kind is Share:
            self._facts.append((at, windows[0] + ORDERS, each.span, each.what))
        elif kind in _EXTREMES:
            self._extremes.append((at, windows[0] + COUNT, windows[0] + _EXTREMES[kind]))
        else:
            self._amounts.setdefault(windows[0], []).append((at, each.of_moments))

    def fill(self, values: list[float | None], order: Order, history: History, said: Sequence[int]) -> None:
        """Put the features' values into their places."""
        answers = history.answer(self._questions, said[_CURRENCY], said)
        for where in self._cut:
            if answers[where]:
                history.is_exact = False
        for at, where in self._counts:
            values[at] = float(answers[where])
        for at, where, longer, of_counts in self._trends:
            values[at] = of_counts(answers[where], answers[longer])
        divided_by = minor_units(order.currency)
        for where, some in self._amounts.items():
            moments = _moments(answers, where, divided_by)
            for at, of_moments in some:
                values[at] = of_moments(order, moments)
        for at, count, where in self._extremes:
            if answers[count]:
                values[at] = answers[where] / divided_by
        for at, where, span, what in self._facts:
            if orders := answers[where]:
                values[at] = min(history.known(what, span), orders) / orders
        for at, where, position in self._new:
            if said[position]:
                values[at] = 1.0 if answers[where] == NEVER else 0.0
        for at, where in self._last:
            if answers[where] != NEVER:
                values[at] = (history.as_of - answers[where]) / MICROSECONDS_A_DAY
        for at, where, position, window in self._shares:
            held = answers[window + END] - answers[window + START]
            if said[position] and held:
                values[at] = answers[where] / held
        for at, span, what in self._known:
            values[at] = float(history.known(what, span))
        for at, ask in self._since:
            if (placed_at := ask(history)) is not None:
                values[at] = (history.as_of - placed_at) / MICROSECONDS_A_DAY
        for at, above, where, below in self._ratios:
            fraction = Ratio.of_fractions(above(order, history), below(_moments(answers, where, divided_by)))
            values[at] = None if fraction is None else fraction[0] / fraction[1]
        for at, value in self._others:
            values[at] = value(order, history)


def _moments(answers: Answers, at: int, divided_by: int) -> Moments:
    return answers[at + COUNT], total_of(answers, at), squares_of(answers, at), divided_by


def _parts_of(each: Any) -> tuple[Any, ...]:
    return (each.quantity, each.to) if isinstance(each, Ratio) else (each,)


def _windows_of(each: Any) -> tuple[Span, ...]:
    """The windows that the feature is told from together with others, their tiles included."""
    # a shop's own subclass may answer what it likes
    kind = type(each)
    if kind is Ratio:
        is_plain = type(each.to) in {Sum, Mean} and each.quantity.entity is None
        return _windows_of(each.to) if is_plain else ()
    if getattr(each, "where", None) is not None or getattr(each, "rates", None) is not None:
        return ()
    if kind is Trend and each.what == _ORDERS:
        return each.span, each.longer_span
    if (
        (kind is Count and each.what == _ORDERS)
        or (kind is Share and isinstance(each.what, str))
        or (kind in _OF_AMOUNTS and each.what == _AMOUNT)
    ):
        return (each.span,)
    return ()


def _text_of(each: Any) -> Text | None:
    """The question about a text that the feature is told from."""
    kind, where = type(each), getattr(each, "where", None)
    if kind is IsNew:
        return Text(LAST, each.what, EVER)
    if kind is SinceLast and each.what == _ORDERS and type(where) is same:
        return Text(LAST_HELD, where.what, each.span)
    if where is not None:
        return None
    if kind is Distinct:
        return Text(DIFFERENT, each.what, each.span)
    if kind is Share and type(each.what) is same:
        return Text(ORDERS_WITH, each.what.what, each.span)
    return None


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

    def __call__(
        self, order: Order, histories: Mapping[str, History | None], said: bytes | None = None
    ) -> tuple[float | None, ...]:
        """The order's feature vector; None stands for unknown. `histories` are those that `compute` takes.

        `said` is what `told` answers of the order, where that is known already.
        """
        values = self._unknown.copy()
        for at, value in self._of_order:
            values[at] = value(order, None)
        numbers: Sequence[int] | None = None
        for entity, together, features in self._of_history:
            history = histories.get(entity)
            if history is not None:
                numbers = numbers or numbers_of(told(order) if said is None else said)
                together.fill(values, order, history, numbers)
            else:
                for at, each in features:
                    values[at] = each.value(order, None)
        return tuple(values)
