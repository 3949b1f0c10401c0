"""Many features of one order at once: what several of them ask of a history is asked once.

A feature by itself says what its value is (`Feature.value`). A plan answers the very same values, to the last
bit, and only goes another way: all windows are found together, what several features are told from is shared
by them, and what is told from it is told in one compiled pass.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

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
    OrderAmount,
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
from features.facts import FACTS
from features.history import History
from features.questions import (
    COUNT,
    DIFFERENT,
    END,
    EVER,
    LARGEST,
    LAST,
    LAST_HELD,
    ORDERS,
    SMALLEST,
    START,
    WINDOW,
    Answered,
    Answers,
    Question,
    Questions,
    Span,
)
from features.questions import IS_CUT as CUT_AT
from features.remembered import COLUMN_OF, NUMBERS, told
from features.values import (
    AMOUNT,
    COUNTED,
    EXTREME,
    IS_CUT,
    MEAN,
    NEW,
    RATIO,
    SHARE,
    SINCE,
    STD,
    SUM,
    TREND,
    VALUE,
    ZSCORE,
    Steps,
    Vector,
)

__all__ = ["Plan", "Vectors"]

_AMOUNT = "amount"
_ORDERS = "orders"
_SINCE = {SinceFirst: History.first_at, SinceLast: History.last_at}
_EXTREMES = {Min: SMALLEST, Max: LARGEST}
_OF_MOMENTS = {Sum: SUM, Mean: MEAN, Std: STD, ZScore: ZSCORE}
_OF_NUMBERS = frozenset({Min, Max, Sum, Mean, Std})
"""A ZScore of a number is told by itself: it does not ask the history where the order says none."""
_COMPARED = frozenset({Count, Sum, Mean, Min, Max})
"""What of a history is told together with others where it is a part of a Ratio."""


class _OfEntity:
    """The features that look at the history of one entity.

    Each is held with its place among all features.
    """

    def __init__(
        self, features: Sequence[tuple[int, Feature]], place_of_fact: Callable[[OrderFact], int]
    ) -> None:
        parts = [part for _, each in features for part in _parts_of(each)]
        windows = [window for part in parts for window in _windows_of(part)]
        # those of features told by themselves: what they ask is answered already
        windows += [part.span for part in parts if hasattr(part, "span")]
        single = [question for _, each in features if (question := _question_of(each)) is not None]
        self._questions = Questions(
            windows, single, [number for part in parts for number in _number_of(part)]
        )
        self._place_of_fact = place_of_fact
        self._facts: list[tuple[int, int, Span, str]] = []
        self._known: list[tuple[int, Span, str]] = []
        self._of_facts: list[tuple[int, Callable[[Order, History | None], float | None]]] = []
        """Of these nothing is known, or 0, where of no order it was said what became of it."""
        self._since: list[tuple[int, Callable[[History], int | None]]] = []
        self._moves: list[tuple[int, Callable[[float, int], float]]] = []
        self._others: list[tuple[int, Callable[[Order, History | None], float | None]]] = []
        self._moments: dict[int, tuple[Callable[[Order, Moments], float | None], int, bool]] = {}
        """What is told of moments, with where those were answered and whether they are of money."""
        steps: list[tuple[int, ...]] = []
        for at, each in features:
            steps += self._steps_of(at, each)
        self._steps = Steps(dict.fromkeys(steps))
        self._values = {at: each.value for at, each in features}
        self._none_known = [at for at, *_ in self._known]
        self._none_known += [at for at, each in features if _is_sum_of_facts(each)]

    def _steps_of(self, at: int, each: Any) -> list[tuple[int, ...]]:
        """The steps that tell a feature; none where it is told another way."""
        kind, question = type(each), _question_of(each)
        if kind is Ratio:
            return self._steps_of_ratio(at, each)
        if question is not None:
            return [self._step_of_question(at, kind, question)]
        if kind in _SINCE and each.what == _ORDERS and each.where is None:
            self._since.append((at, _SINCE[kind]))
        elif kind is Count and each.what != _ORDERS:
            self._known.append((at, each.span, each.what))
        elif _is_sum_of_facts(each) or (kind in _SINCE and each.what in FACTS and each.where is None):
            self._of_facts.append((at, each.value))
        elif kind in {Distance, Speed}:
            self._moves.append((at, each.of_move))
        elif not (places := self._places_of(each)):
            self._others.append((at, each.value))
        else:
            cut: list[tuple[int, ...]] = [(IS_CUT, 0, place + CUT_AT) for place in places]
            if kind is Share:
                self._facts.append((at, places[0] + ORDERS, each.span, each.what))
                return cut
            if kind is Trend:
                is_money = each.what == _AMOUNT
                lately, ever = [place if is_money else place + ORDERS for place in places]
                return [*cut, (TREND, at, lately, ever, int(is_money), *each.weights)]
            if kind in _OF_MOMENTS:
                self._moments[at] = each.of_moments, places[0], each.what == _AMOUNT
            told_as, *where = _quantity(each, places[0])
            return [*cut, (told_as, at, *where)]
        return []

    def _step_of_question(self, at: int, kind: type[Feature], question: Question) -> tuple[int, ...]:
        where = self._questions.single[question]
        if question.ask == LAST:
            return NEW, at, where, COLUMN_OF[question.what]
        if question.ask == LAST_HELD:
            return SINCE, at, where
        if kind is Share:
            window = self._questions.windows[question.window]
            return SHARE, at, where, window + START, window + END
        return COUNTED, at, where

    def _steps_of_ratio(self, at: int, ratio: Ratio) -> list[tuple[int, ...]]:
        """The steps that tell a Ratio; none where a part of it is told by itself."""
        parts: list[int] = []
        cut: list[tuple[int, ...]] = []
        for each in _parts_of(ratio):
            places = self._places_of(each)
            if type(each) is OrderAmount and each.rates is None:
                parts += (AMOUNT, 0, 0)
            elif type(each) is OrderFact:
                parts += (VALUE, self._place_of_fact(each), 0)
            elif places and type(each) in _COMPARED:
                kind, where, is_money, *known = _quantity(each, places[0])
                # of an extreme it has to be known too whether there is one
                parts += (kind, where, 2 * known[0] + is_money if known else is_money)
                cut += [(IS_CUT, 0, place + CUT_AT) for place in places]
            else:
                self._others.append((at, ratio.value))
                return []
        return [*cut, (RATIO, at, *parts)]

    def _places_of(self, each: Any) -> list[int]:
        """Where the answers stand from which the feature is told together with others."""
        places = [self._questions.windows[window] for window in _windows_of(each)]
        return places + [self._questions.numbers[number] for number in _number_of(each)]

    def fill(self, values: Vector, order: Order, history: History, said: bytes) -> None:
        """Put the features' values into their places."""
        amount = order.amount
        answers = history.answer(self._questions, said, amount, microseconds(order.placed_at))
        left, is_cut = self._steps.tell(
            answers, said, history.as_of, amount, minor_units(order.currency), values
        )
        if is_cut:
            history.is_exact = False
        for at in left:  # seldom: numbers that only integers hold
            _put(values, at, self._told_alone(at, answers, order, history))
        if history.says_what_became:
            for at, where, span, what in self._facts:
                if orders := int(answers[where]):
                    values[at] = min(history.known(what, span), orders) / orders
            for at, span, what in self._known:
                values[at] = history.known(what, span)
            for at, value in self._of_facts:
                _put(values, at, value(order, history))
        else:  # the usual case
            for at in self._none_known:
                values[at] = 0.0
            for at, where, *_ in self._facts:
                if answers[where] > 0:
                    values[at] = 0.0
        for at, ask in self._since:
            if (placed_at := ask(history)) is not None:
                values[at] = (history.as_of - placed_at) / MICROSECONDS_A_DAY
        if self._moves and (moved := Distance.moved(order, history)) is not None:
            for at, of_move in self._moves:
                values[at] = of_move(*moved)
        for at, value in self._others:
            _put(values, at, value(order, history))

    def _told_alone(self, at: int, answers: Answered, order: Order, history: History) -> float | None:
        """The value of one feature by Python's integers, from what was answered where that tells it."""
        if at not in self._moments:
            return self._values[at](order, history)
        of_moments, place, is_money = self._moments[at]
        found: Answers = answers[place : place + WINDOW].tolist()
        return of_moments(order, moments_of(found, 0, minor_units(order.currency) if is_money else 1))


def _put(values: Vector, at: int, value: float | None) -> None:
    if value is not None:
        values[at] = value


def _quantity(each: Any, place: int) -> tuple[int, ...]:
    """How a quantity is told from the answers at a place, as steps say it."""
    kind, is_money = type(each), int(each.what == _AMOUNT)
    if kind is Count:
        return COUNTED, place + ORDERS, 0
    if kind in _EXTREMES:
        return EXTREME, place + _EXTREMES[kind], is_money, place + COUNT
    return _OF_MOMENTS[kind], place, is_money


def _parts_of(each: Any) -> tuple[Any, ...]:
    return (each.quantity, each.to) if type(each) is Ratio else (each,)


def _is_sum_of_facts(each: Any) -> bool:
    """Whether it adds up what was said of what became of orders; of none, that is 0."""
    return type(each) is Sum and each.what in FACTS


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
        or (kind in _OF_MOMENTS.keys() | _EXTREMES.keys() and each.what == _AMOUNT)
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


class Vectors:
    """What computes a list of features of one order after the other, as an array in which NaN is unknown.

    For tables; `Plan` answers the same with None for unknown.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._count = self._size = len(features)
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
        self._of_history = [
            (entity, _OfEntity(some, self._place_of), some) for entity, some in by_entity.items()
        ]
        self._unknown = np.full(self._size, np.nan)

    def _place_of(self, fact: OrderFact) -> int:
        """Where the fact's value is put, behind all features where it is none of them."""
        for at, each in self._facts:
            if each is fact:
                return at
        self._facts.append((self._size, fact))
        self._size += 1
        return self._size - 1

    def __call__(
        self, order: Order, histories: Mapping[str, History | None], said: bytes | None = None
    ) -> Vector:
        """The order's features; `histories` are those that `compute` takes.

        `said` is what `told` answers of the order, where that is known already.
        """
        values = self._unknown.copy()
        self._read(values, order)
        for at, value in self._of_order:
            if (answer := value(order, None)) is not None:
                values[at] = answer
        for entity, together, features in self._of_history:
            history = histories.get(entity)
            if history is not None:
                said = told(order) if said is None else said
                together.fill(values, order, history, said)
            else:
                for at, each in features:
                    _put(values, at, each.value(order, None))
        return values[: self._count]

    def _read(self, values: Vector, order: Order) -> None:
        """Put what functions of the order answer into their places."""
        try:
            for at, each in self._facts:
                answer = each.read(order)
                if answer is not None:
                    if not isfinite(answer):
                        break
                    values[at] = answer
            else:
                return
        except Exception:  # noqa: BLE001, S110 - the feature itself says what is wrong
            pass
        for at, each in self._facts:
            _put(values, at, each.value(order, None))


class Plan:
    """What computes a list of features of one order after the other.

    `Plan(features)(order, histories)` is `compute(features, order, histories)`, and quicker.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._vectors = Vectors(features)

    def __call__(
        self, order: Order, histories: Mapping[str, History | None], said: bytes | None = None
    ) -> tuple[float | None, ...]:
        """The order's feature vector; None stands for unknown. `histories` are those that `compute` takes.

        `said` is what `told` answers of the order, where that is known already.
        """
        values = self._vectors(order, histories, said).tolist()
        return tuple([None if value != value else value for value in values])  # noqa: PLR0124 - NaN
