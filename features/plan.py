"""Many features of one order at once: what several of them ask of a history is asked once.

A feature by itself says what its value is (`Feature.value`). A plan answers the very same values, to the last
bit, and only goes another way: all windows are found together, the counts, totals and squares of a window are
shared by the features told from them, and what is the same for every order is looked up beforehand.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from features.aggregates import (
    MICROSECONDS_A_DAY,
    Count,
    Distance,
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
    Speed,
    Std,
    Sum,
    Trend,
    ZScore,
    minor_units,
    moments_of,
)
from features.conditions import same
from features.define import Feature, OrderFact
from features.events import Order, microseconds
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
    SMALLEST,
    START,
    Answers,
    Question,
    Questions,
    Span,
    total_of,
)
from features.remembered import COLUMN_OF, NUMBERS, numbers_of, told

__all__ = ["Plan"]

_Fraction = tuple[int, int] | None
_OfAnswers = Callable[[Order, History, Answers, int], _Fraction]
"""A fraction told from answers, where so many minor units are one of the order's currency."""

_AMOUNT = "amount"
_ORDERS = "orders"
_SINCE = {SinceFirst: History.first_at, SinceLast: History.last_at}
_EXTREMES = {Min: SMALLEST, Max: LARGEST}
_FRACTIONS = frozenset({Sum, Mean})
_OF_MOMENTS = frozenset({*_FRACTIONS, Std, ZScore})
_OF_NUMBERS = frozenset({*_EXTREMES, *_FRACTIONS, Std})
"""A ZScore of a number is told by itself: it does not ask the history where the order says none."""


class _OfEntity:
    """The features that look at the history of one entity.

    Each is held with its place among all features, and those told together with where their answers stand.
    """

    def __init__(self, features: Sequence[tuple[int, Feature]]) -> None:
        parts = [part for _, each in features for part in _parts_of(each)]
        windows = [window for part in parts for window in _windows_of(part)]
        # those of features told by themselves: what they ask is answered already
        windows += [part.span for part in parts if hasattr(part, "span")]
        single = [question for _, each in features if (question := _question_of(each)) is not None]
        self._questions = Questions(
            windows, single, [number for part in parts for number in _number_of(part)]
        )
        self._counts: list[tuple[int, int]] = []
        self._trends: list[
            tuple[int, Callable[[Answers, int], int], int, int, Callable[[int, int], float | None]]
        ] = []
        self._moments: dict[tuple[int, bool], list[tuple[int, Callable[[Order, Moments], float | None]]]] = {}
        self._extremes: list[tuple[int, int, int, bool]] = []
        self._facts: list[tuple[int, int, Span, str]] = []
        self._new: list[tuple[int, int, int]] = []
        self._last: list[tuple[int, int]] = []
        self._shares: list[tuple[int, int, int]] = []
        self._known: list[tuple[int, Span, str]] = []
        self._since: list[tuple[int, Callable[[History], int | None]]] = []
        self._moves: list[tuple[int, Callable[[float, int], float]]] = []
        self._ratios: list[tuple[int, _OfAnswers, _OfAnswers]] = []
        self._others: list[tuple[int, Callable[[Order, History | None], float | None]]] = []
        self._cut: list[int] = []
        """Where it stands whether tiles cut a window, of those windows of which tiles tell too."""
        for at, each in features:
            self._place(at, each)

    def _place(self, at: int, each: Any) -> None:
        kind, question = type(each), _question_of(each)
        places = self._places_of(each)
        if kind is Ratio:
            self._ratios.append((at, self._fraction_of(each.quantity), self._fraction_of(each.to)))
        elif question is not None:
            where = self._questions.single[question]
            if question.ask == LAST:
                self._new.append((at, where, COLUMN_OF[question.what]))
            elif question.ask == LAST_HELD:
                self._last.append((at, where))
            elif kind is Share:
                self._shares.append((at, where, self._questions.windows[question.window]))
            else:
                self._counts.append((at, where))
        elif kind in _SINCE and each.what == _ORDERS and each.where is None:
            self._since.append((at, _SINCE[kind]))
        elif kind is Count and each.what != _ORDERS:
            self._known.append((at, each.span, each.what))
        elif kind in {Distance, Speed}:
            self._moves.append((at, each.of_move))
        elif not places:
            self._others.append((at, each.value))
        elif kind is Count:
            self._counts.append((at, places[0] + ORDERS))
        elif kind is Trend:
            much = total_of if each.what == _AMOUNT else _orders_of
            self._trends.append((at, much, *places, each.of_windows))
        elif kind is Share:
            self._facts.append((at, places[0] + ORDERS, each.span, each.what))
        elif kind in _EXTREMES:
            where = places[0] + _EXTREMES[kind]
            self._extremes.append((at, places[0] + COUNT, where, each.what == _AMOUNT))
        else:
            some = self._moments.setdefault((places[0], each.what == _AMOUNT), [])
            some.append((at, each.of_moments))

    def _places_of(self, each: Any) -> list[int]:
        """Where the answers stand from which the feature is told together with others."""
        places = [self._questions.windows[window] for window in _windows_of(each)]
        places += [self._questions.numbers[number] for number in _number_of(each)]
        self._cut += [place + IS_CUT for place in places if place + IS_CUT not in self._cut]
        return places

    def _fraction_of(self, each: Any) -> _OfAnswers:
        """How a part of a Ratio is told."""
        kind: Any = type(each)
        places = self._places_of(each)
        if not places or kind not in _FRACTIONS | _EXTREMES.keys() | {Count}:
            return lambda order, history, _, __: each.exact(order, history)
        (at,), is_money = places, each.what == _AMOUNT
        if kind is Count:
            return lambda _, __, answers, ___: (answers[at + ORDERS], 1)
        if kind in _FRACTIONS:
            return lambda _, __, answers, a_unit: each.fraction(
                moments_of(answers, at, a_unit if is_money else 1)
            )
        where = at + _EXTREMES[kind]
        return lambda _, __, answers, a_unit: (
            (answers[where], a_unit if is_money else 1) if answers[at + COUNT] else None
        )

    def fill(
        self, values: list[float | None], order: Order, history: History, said: bytes, texts: Sequence[int]
    ) -> None:
        """Put the features' values into their places; `texts` are the words of `said` as numbers."""
        answers = history.answer(self._questions, said, order.amount, microseconds(order.placed_at))
        for where in self._cut:
            if answers[where]:
                history.is_exact = False
        for at, where in self._counts:
            count = answers[where]
            values[at] = None if count == NEVER else float(count)
        for at, much, lately, ever, of_windows in self._trends:
            values[at] = of_windows(much(answers, lately), much(answers, ever))
        a_unit = minor_units(order.currency)
        for (where, is_money), some in self._moments.items():
            moments = moments_of(answers, where, a_unit if is_money else 1)
            for at, of_moments in some:
                values[at] = of_moments(order, moments)
        for at, known, where, is_money in self._extremes:
            if answers[known]:
                values[at] = answers[where] / (a_unit if is_money else 1)
        for at, where, span, what in self._facts:
            if orders := answers[where]:
                values[at] = min(history.known(what, span), orders) / orders
        for at, where, position in self._new:
            if texts[position]:
                values[at] = 1.0 if answers[where] == NEVER else 0.0
        for at, where in self._last:
            if answers[where] != NEVER:
                values[at] = (history.as_of - answers[where]) / MICROSECONDS_A_DAY
        for at, where, window in self._shares:
            held = answers[window + END] - answers[window + START]
            if held and answers[where] != NEVER:
                values[at] = answers[where] / held
        for at, span, what in self._known:
            values[at] = float(history.known(what, span))
        for at, ask in self._since:
            if (placed_at := ask(history)) is not None:
                values[at] = (history.as_of - placed_at) / MICROSECONDS_A_DAY
        if self._moves and (moved := Distance.moved(order, history)) is not None:
            for at, of_move in self._moves:
                values[at] = of_move(*moved)
        for at, above, below in self._ratios:
            fraction = Ratio.of_fractions(
                above(order, history, answers, a_unit), below(order, history, answers, a_unit)
            )
            values[at] = None if fraction is None else fraction[0] / fraction[1]
        for at, value in self._others:
            values[at] = value(order, history)


def _orders_of(answers: Answers, at: int) -> int:
    return answers[at + ORDERS]


def _parts_of(each: Any) -> tuple[Any, ...]:
    return (each.quantity, each.to) if type(each) is Ratio else (each,)


def _is_bare(each: Any) -> bool:
    """Whether neither a condition nor rates decide what counts."""
    return getattr(each, "where", None) is None and getattr(each, "rates", None) is None


def _windows_of(each: Any) -> tuple[Span, ...]:
    """The windows that the feature is told from together with others, their tiles included."""
    # a shop's own subclass may answer what it likes
    kind = type(each)
    if not _is_bare(each):
        return ()
    if kind is Trend:
        return each.span, each.longer_span
    if (
        (kind is Count and each.what == _ORDERS)
        or (kind is Share and isinstance(each.what, str))
        or (kind in _OF_MOMENTS | _EXTREMES.keys() and each.what == _AMOUNT)
    ):
        return (each.span,)
    return ()


def _number_of(each: Any) -> tuple[tuple[str, Span], ...]:
    """The number, and the window, that the feature is told from together with others."""
    is_told = type(each) in _OF_NUMBERS and each.what in NUMBERS and each.where is None
    return ((each.what, each.span),) if is_told else ()


def _question_of(each: Any) -> Question | None:
    """The single question that the feature is told from."""
    kind = type(each)
    if kind is IsNew:
        return Question(LAST, each.what, EVER)
    if kind is Distinct and each.where is None:
        return Question(DIFFERENT, each.what, each.span)
    if kind is SinceLast and each.what == _ORDERS and type(each.where) is same:
        return Question(LAST_HELD, each.where.what, each.span)
    counted: Question | None = each.counted if kind in {Count, Share} else None
    return counted


class Plan:
    """What computes a list of features of one order after the other.

    `Plan(features)(order, histories)` is `compute(features, order, histories)`, and quicker.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._unknown: list[float | None] = [None] * len(features)
        self._facts = [(at, each) for at, each in enumerate(features) if type(each) is OrderFact]
        self._of_order = [
            (at, each.value)
            for at, each in enumerate(features)
            if each.entity is None and type(each) is not OrderFact
        ]
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
        self._read(values, order)
        for at, value in self._of_order:
            values[at] = value(order, None)
        texts: Sequence[int] | None = None
        for entity, together, features in self._of_history:
            history = histories.get(entity)
            if history is not None:
                said = told(order) if said is None else said
                texts = texts or numbers_of(said)
                together.fill(values, order, history, said, texts)
            else:
                for at, each in features:
                    values[at] = each.value(order, None)
        return tuple(values)

    def _read(self, values: list[float | None], order: Order) -> None:
        """Put what functions of the order answer into their places."""
        try:
            for at, each in self._facts:
                answer = each.read(order)
                if answer is not None:
                    if not isfinite(answer):
                        break
                    values[at] = float(answer)
            else:
                return
        except Exception:  # noqa: BLE001, S110 - the feature itself says what is wrong
            pass
        for at, each in self._facts:
            values[at] = each.value(order, None)
