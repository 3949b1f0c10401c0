"""The words for what an entity did before: one declaration says what a feature is called, means and computes.

    Mean("amount", over=days(30))                           # amount_mean_30d
    Count(over=days(7), where=same("card"))                 # orders_count_7d_same_card
    Share("fraud", by="merchant", over=days(7), known_after=days(7))

Every value is an exact fraction of integers, rounded once; no order of arrival and no batch changes a bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, lru_cache
from math import asin, cos, hypot, radians, sin, sqrt
from typing import ClassVar

from features.columns import both, either, neither
from features.conditions import Condition, check_condition, check_fact, check_value, same, spoken
from features.define import OrderFact, Quantity, days, hours, minutes, years
from features.errors import FeatureDefinitionError, did_you_mean
from features.events import LARGEST_AMOUNT, Order
from features.facts import FACTS
from features.history import History
from features.money import CURRENCIES, exponent
from features.questions import (
    COUNT,
    EVER,
    LARGEST,
    SMALLEST,
    Answers,
    Question,
    Span,
    span,
    squares_of,
    total_of,
)
from features.rates import Rates
from features.remembered import (
    ENTITIES,
    NUMBERS,
    PLACE,
    UNKNOWN,
    VALUES,
    coordinates,
    fingerprint,
    place_of,
)

__all__ = [
    "Category",
    "Count",
    "Distance",
    "Distinct",
    "IsNew",
    "Max",
    "Mean",
    "Min",
    "OrderAmount",
    "Ratio",
    "Share",
    "SinceFirst",
    "SinceLast",
    "Speed",
    "Std",
    "Sum",
    "Trend",
    "ZScore",
]

MICROSECONDS_A_DAY = 86_400_000_000
_MICROSECONDS_AN_HOUR = 3_600_000_000
_EARTH_KM = 6371.0088
_ENOUGH_TO_SPREAD = 2
_MAJOR = "major units of the order's currency"
"""50.00 EUR is 50 and 5,000 JPY is 5000: in minor units a model would take the two for the same."""
_OTHER_CURRENCIES = " Past orders in another currency than the order's do not count."
_MOST = {"max": "Most", "min": "Fewest"}
_ORDERS = "orders"
_OTHER = "other"
_AMOUNT = "amount"

_DOES = {
    "customer": "the customer placed",
    "device": "placed with this device",
    "card": "paid with this card",
    "ip": "placed from this IP address",
    "email": "placed under this email",
    "shipping_address": "shipped to this address",
    "merchant": "placed with this merchant",
}
"""How a sentence about an entity's orders goes on."""


# What is checked and named alike ------------------------------------------------------------------


def _short(over: timedelta) -> str:
    for unit, length in (("d", days(1)), ("h", hours(1))):
        if over % length == timedelta(0):
            return f"{over // length}{unit}"
    return f"{over // minutes(1)}m"


def _long(over: timedelta) -> str:
    short = _short(over)
    number, word = short[:-1], {"d": "day", "h": "hour", "m": "minute"}[short[-1]]
    return word if number == "1" else f"{number} {word}s"


def _check_entity(word: str, by: str) -> None:
    if not isinstance(by, str) or by not in ENTITIES:
        message = f"{word}(by={by!r}): no such entity{did_you_mean(by, ENTITIES)}"
        raise FeatureDefinitionError(message)


def _check_duration(word: str, over: timedelta) -> None:
    if not isinstance(over, timedelta):
        message = f"{word} looks over a duration such as days(30), not {over!r}"
        raise FeatureDefinitionError(message)
    if over <= timedelta(0) or over % minutes(1) != timedelta(0) or over > years(100):
        message = (
            f"{word} looks over whole minutes, from one to 100 years, not {over}; write minutes(), hours(), "
            "days() or years()"
        )
        raise FeatureDefinitionError(message)


def _check_quantity(word: str, what: str) -> None:
    """Refuse what is neither the amount nor a number of a history."""
    is_text = isinstance(what, str)
    if is_text and (what == _AMOUNT or what in NUMBERS):
        return
    numbers = (_AMOUNT, *NUMBERS)
    if is_text and what in VALUES:
        message = f"{word}({what!r}): {what!r} is a text; count its values with Distinct({what!r}, over=...)"
    else:
        message = f"{word}({what!r}): a history has no number {what!r}{did_you_mean(what, numbers)}"
    raise FeatureDefinitionError(message)


def _check_rates(word: str, what: str, rates: Rates | None) -> None:
    if rates is None:
        return
    if not isinstance(rates, Rates):
        message = f"{word}: rates= takes a table Rates('2026-01', base='EUR', per_unit=...), not {rates!r}"
        raise FeatureDefinitionError(message)
    if what in NUMBERS:
        message = f"{word}({what!r}): {what!r} is no money; leave rates= out"
        raise FeatureDefinitionError(message)


@lru_cache(maxsize=64)
def _worth(rates: Rates) -> dict[int, int]:
    """A table's numerators, by the currency's fingerprint."""
    return {fingerprint(currency): worth for currency, worth in rates.numerators.items()}


class _Derived:
    """What every aggregate has in common: its value is its exact fraction, rounded once."""

    entity: str | None = None
    categories: tuple[str, ...] | None = None

    @property
    def looks_at_facts(self) -> bool:
        """Whether it asks what became of past orders."""
        return False

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        raise NotImplementedError

    def value(self, order: Order, history: History | None) -> float | None:
        """The value, None when it is unknown."""
        fraction = self.exact(order, history)
        return None if fraction is None else fraction[0] / fraction[1]  # of integers: correctly rounded


@dataclass(frozen=True)
class _OfHistory(_Derived):
    """An aggregate of an entity's past orders: whose, over which window, and which of them."""

    over: timedelta = field(kw_only=True)
    by: str = field(default="customer", kw_only=True)
    where: Condition | None = field(default=None, kw_only=True)
    known_after: timedelta | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        word = type(self).__name__
        _check_entity(word, self.by)
        _check_duration(word, self.over)
        if self.known_after is not None:
            _check_duration(f"{word}(known_after=)", self.known_after)
        if self.where is not None:
            check_condition(f"{word}(where=)", self.where)

    @cached_property
    def entity(self) -> str:  # type: ignore[override]
        return self.by

    @property
    def looks_at_facts(self) -> bool:
        """Whether it asks what became of past orders, itself or by its condition."""
        what = getattr(self, "what", None)
        of_what = what in FACTS if what is None or isinstance(what, str) else what.looks_at_facts
        return of_what or (self.where is not None and self.where.looks_at_facts)

    @cached_property
    def span(self) -> Span:
        """The window, in microseconds."""
        return span(self.over, self.known_after)

    @cached_property
    def _needs(self) -> tuple[str, ...]:
        return () if self.where is None else self.where.needs

    def _chosen(self, order: Order, history: History) -> bytes | None:
        """Which of the window's held orders meet the condition; None where the order cannot say."""
        if self.where is None or not self._told(order, history):
            return None
        return self.where.mask(order, history, *history.held_window(self.span))

    def _told(self, order: Order, history: History | None) -> bool:
        """Whether there is a history, and the order says what the condition compares with."""
        if history is None:
            return False
        # a list: a generator costs more than the one field that is usually asked
        return None not in [VALUES[what](order) for what in self._needs]

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        start, end = history.held_window(self.span)
        if self.where is None:
            return list(range(start, end))
        chosen = self._chosen(order, history) or b""
        return [start + where for where, counts in enumerate(chosen) if counts]

    def _called(self, head: str, window: str = "") -> str:
        parts = [] if self.by == "customer" else [f"by_{self.by}"]
        parts += [head, window or _short(self.over)]
        if self.where is not None:
            parts.append(self.where.name)
        if self.known_after is not None:
            parts += ["known_after", _short(self.known_after)]
        return "_".join(parts)

    @property
    def _orders(self) -> str:
        """Which orders a sentence is about."""
        which = "" if self.where is None else f" {self.where.doc}"
        return f"orders {_DOES[self.by]}{which} {self._window}"

    @property
    def _window(self) -> str:
        if self.known_after is None:
            return f"in the {_long(self.over)} before this one"
        return f"in the {_long(self.over)} that ended {_long(self.known_after)} before this one"

    def _arguments(self, *first: str, rates: Rates | None = None) -> str:
        said = [*first, f"over={_short(self.over)}"]
        if self.by != "customer":
            said.append(f"by={self.by}")
        if self.where is not None:
            said.append(f"where={self.where.declaration}")
        if self.known_after is not None:
            said.append(f"known_after={_short(self.known_after)}")
        if rates is not None:
            said.append(f"rates={rates.declaration}")
        return ", ".join(said)

    @property
    def _nobody(self) -> str:
        whose = (
            "a guest, who has no history"
            if self.by == "customer"
            else f"the order names no {spoken(self.by)}"
        )
        needs = dict.fromkeys(self._needs)
        return "".join([whose, *(f", or the order does not say its {spoken(what)}" for what in needs)])


# Counting -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count(_OfHistory):
    """How many orders were placed in the window: `Count(over=days(30))` is orders_count_30d.

    `Count("refunded", over=days(180))` counts the orders of which one of FACTS was known before this one.
    """

    what: str = _ORDERS
    between: ClassVar[tuple[float, float | None]] = (0, None)
    unit = "orders"

    def __post_init__(self) -> None:
        """Check the words."""
        super().__post_init__()
        if self.what != _ORDERS:
            _check_counted("Count", self.what)
            if self.where is not None:
                message = (
                    f"Count({self.what!r}, where=...): write Count(where=was({self.what!r}) & ..., over=...)"
                )
                raise FeatureDefinitionError(message)

    @cached_property
    def name(self) -> str:  # noqa: D102 - said in Feature, here and below
        return self._called(f"{self.what}_count")

    @property
    def doc(self) -> str:  # noqa: D102
        known = "" if self.what == _ORDERS else f", known to be {self.what}"
        return _sentence(f"{self._orders}{known}.")

    @property
    def missing(self) -> str:  # noqa: D102
        return self._nobody

    @cached_property
    def counted(self) -> Question | None:
        """The question of how many of the window's held orders meet its condition, where one tells that."""
        return None if self.where is None else self.where.counted(self.span)

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Count({self._arguments(*([] if self.what == _ORDERS else [repr(self.what)]))})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None:
            return None
        if self.what != _ORDERS:
            return history.known(self.what, self.span), 1
        if self.where is None:
            return history.count(self.span), 1
        if (question := self.counted) is not None:
            counted = history.count_where(question, order)
            return None if counted is None else (counted[0], 1)
        chosen = self._chosen(order, history)
        return None if chosen is None else (chosen.count(1), 1)

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        positions = super().looked_at(order, history)
        return positions if self.what == _ORDERS else _known_among(self.what, positions, history)


@dataclass(frozen=True)
class Share(_OfHistory):
    """Which share of the window's orders: `Share("fraud", over=days(90))`, `Share(same("country"), ...)`."""

    what: str | Condition
    between: ClassVar[tuple[float, float | None]] = (0, 1)
    unit = "share"

    def __post_init__(self) -> None:
        """Check the words."""
        super().__post_init__()
        if isinstance(self.what, str):
            _check_counted("Share", self.what)
            if self.where is not None:
                message = (
                    f"Share({self.what!r}, where=...): write Share(was({self.what!r}), where=..., over=...)"
                )
                raise FeatureDefinitionError(message)
        else:
            check_condition("Share", self.what)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return self._called(f"{self.what if isinstance(self.what, str) else self.what.name}_share")

    @property
    def doc(self) -> str:  # noqa: D102
        which = f"known to be {self.what}" if isinstance(self.what, str) else self.what.doc
        return f"Share {which} among the {self._orders}."

    @property
    def missing(self) -> str:  # noqa: D102
        return f"no order in the window, or {self._nobody}"

    @property
    def declaration(self) -> str:  # noqa: D102
        what = repr(self.what) if isinstance(self.what, str) else self.what.declaration
        return f"Share({self._arguments(what)})"

    @cached_property
    def _needs(self) -> tuple[str, ...]:
        mine = () if isinstance(self.what, str) else self.what.needs
        return (*mine, *(() if self.where is None else self.where.needs))

    @cached_property
    def counted(self) -> Question | None:
        """The question of how many of the window's held orders are its share, where one tells that."""
        return None if isinstance(self.what, str) or self.where is not None else self.what.counted(self.span)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None or not self._told(order, history):
            return None
        if isinstance(self.what, str):
            count = history.count(self.span)
            # an order may be known of that is not in the history, as one of another service: never above 1
            return (min(history.known(self.what, self.span), count), count) if count else None
        if (question := self.counted) is not None:
            counted = history.count_where(question, order)
            return counted if counted is not None and counted[1] else None
        start, end = history.held_window(self.span)
        chosen = self.what.mask(order, history, start, end)
        if self.where is None:
            return (chosen.count(1), end - start) if end > start else None
        among = self.where.mask(order, history, start, end)
        count = among.count(1)
        return (both(chosen, among).count(1), count) if count else None


def _check_counted(word: str, what: str) -> None:
    if isinstance(what, str) and what in VALUES:
        message = f"{word}({what!r}): count a text's values with Distinct({what!r}, over=...)"
        raise FeatureDefinitionError(message)
    check_fact(word, what)


def _known_among(fact: str, positions: list[int], history: History) -> list[int]:
    if not positions:
        return []
    return _among(positions, history.where_known(fact, positions[0], positions[-1] + 1))


def _among(positions: list[int], counts: Sequence[object]) -> list[int]:
    """Those positions that count; `counts` begins at the first of them."""
    return [position for position in positions if counts[position - positions[0]]]


@dataclass(frozen=True)
class Distinct(_OfHistory):
    """How many different ones in the window: `Distinct("device", over=days(30))` is device_distinct_30d."""

    what: str
    between: ClassVar[tuple[float, float | None]] = (0, None)

    def __post_init__(self) -> None:
        """Check the words."""
        super().__post_init__()
        check_value("Distinct", self.what)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return self._called(f"{self.what}_distinct")

    @property
    def unit(self) -> str:  # noqa: D102
        return f"different {_plural(self.what)}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"Different {_plural(self.what)} among the {self._orders}."

    @property
    def missing(self) -> str:  # noqa: D102
        return self._nobody

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Distinct({self._arguments(repr(self.what))})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None:
            return None
        if self.where is None:
            return history.distinct(self.what, self.span), 1
        chosen = self._chosen(order, history)
        return None if chosen is None else (history.distinct(self.what, self.span, chosen), 1)

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        positions = super().looked_at(order, history)
        if not positions:
            return []
        start, end = positions[0], positions[-1] + 1
        return _among(positions, neither(history.where_is(self.what, UNKNOWN, start, end)))


# Amounts and numbers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrderAmount(_Derived):
    """The order's own total: `OrderAmount()` is amount, `OrderAmount(rates=RATES)` is amount_eur."""

    rates: Rates | None = None
    between: ClassVar[tuple[float, float | None]] = (0, LARGEST_AMOUNT)
    doc = "The order's total."

    def __post_init__(self) -> None:
        """Check the rates."""
        _check_rates("OrderAmount", _AMOUNT, self.rates)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return _money_name(self.rates)

    @property
    def unit(self) -> str:  # noqa: D102
        return _money_unit(self.rates)

    @property
    def missing(self) -> str:  # noqa: D102
        return "never" if self.rates is None else "its currency has no rate"

    @property
    def declaration(self) -> str:  # noqa: D102
        return "OrderAmount()" if self.rates is None else f"OrderAmount(rates={self.rates.declaration})"

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: D102
        if self.rates is None:
            return order.amount / minor_units(order.currency)
        return super().value(order, history)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        if self.rates is None:
            return order.amount, minor_units(order.currency)
        worth = self.rates.numerators.get(order.currency)
        return None if worth is None else (order.amount * worth, self.rates.denominator)


@lru_cache(maxsize=len(CURRENCIES))
def minor_units(currency: str) -> int:
    """How many minor units are one of the currency: 100 cents are a euro."""
    return int(10 ** exponent(currency))


def _money_name(rates: Rates | None) -> str:
    return _AMOUNT if rates is None else f"{_AMOUNT}_{rates.base.lower()}"


def _money_unit(rates: Rates | None) -> str:
    return _MAJOR if rates is None else f"{rates.base}, by the rates {rates.name}"


Moments = tuple[int, int, int, int]
"""How many, their total and the total of their squares, scaled alike, and what divides the scale.

The squares are 0 where nobody needs them.
"""


def moments_of(answers: Answers, at: int, divided_by: int) -> Moments:
    """What the answers tell at a place, of a window's amounts or of a number in it."""
    return answers[at + COUNT], total_of(answers, at), squares_of(answers, at), divided_by


@dataclass(frozen=True)
class _OfQuantities(_OfHistory):
    """An aggregate of the amounts, or of another number, of the window's orders."""

    what: str
    rates: Rates | None = field(default=None, kw_only=True)
    between: ClassVar[tuple[float, float | None]] = (0, None)
    _says = ""
    _word = ""
    is_squared = False
    """Whether it needs the squares added up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        word = type(self).__name__
        if word != "Sum" or not isinstance(self.what, str) or self.what not in FACTS:
            _check_quantity(word, self.what)
        elif self.where is not None:
            message = f"Sum({self.what!r}, where=...): what became of orders is added up without conditions"
            raise FeatureDefinitionError(message)
        _check_rates(word, self.what, self.rates)

    @cached_property
    def _is_fact(self) -> bool:
        return self.what in FACTS

    @cached_property
    def _is_money(self) -> bool:
        return self.what == _AMOUNT or self._is_fact

    @cached_property
    def _called_what(self) -> str:
        if self.what == _AMOUNT:
            return _money_name(self.rates)
        return self.what if self.rates is None else f"{self.what}_{self.rates.base.lower()}"

    @cached_property
    def name(self) -> str:
        return self._called(f"{self._called_what}_{self._word}")

    @property
    def unit(self) -> str:
        return _money_unit(self.rates) if self._is_money else spoken(self.what)

    @property
    def doc(self) -> str:
        if self.what == _AMOUNT:
            what = "amount"
        else:
            what = f"amount {self.what}" if self.what in FACTS else spoken(self.what)
            if self.what in NUMBERS and self._word in _MOST:
                return f"{_MOST[self._word]} {what} of any of the {self._orders}."
        return f"{self._says.format(what)} of the {self._orders}.{self._money_note}"

    @property
    def _money_note(self) -> str:
        if not self._is_money:
            return ""
        if self.rates is None:
            return _OTHER_CURRENCIES
        return " Past orders in a currency without a rate do not count."

    @property
    def missing(self) -> str:
        in_currency = " in the order's currency" if self._is_money and self.rates is None else ""
        return f"no order in the window{in_currency}, or {self._nobody}"

    @property
    def declaration(self) -> str:
        return f"{type(self).__name__}({self._arguments(repr(self.what), rates=self.rates)})"

    def _scale(self, rates: Rates, history: History) -> tuple[Sequence[tuple[int, int]], int]:
        """Which currencies count, what their minor units are multiplied with, and what then divides them."""
        worth = _worth(rates)
        known = [(code, worth[code]) for code in history.currencies(self.span) if code in worth]
        return known, rates.denominator

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        positions = super().looked_at(order, history)
        if self.what in FACTS:
            return _known_among(self.what, positions, history)
        if not positions:
            return []
        start, end = positions[0], positions[-1] + 1
        if self.what in NUMBERS:
            return _among(
                positions, [each is not None for each in history.held_numbers(self.what, start, end)]
            )
        counts = bytes(end - start)
        if self.rates is None:
            currencies = [fingerprint(order.currency)]
        else:
            currencies = [currency for currency, _ in self._scale(self.rates, history)[0]]
        for currency in currencies:
            in_it = history.where_is("currency", currency, start, end)
            counts = either(counts, in_it)
        return _among(positions, counts)

    def _moments(self, order: Order, history: History) -> "Moments | None":
        chosen = None
        if self.where is not None:
            chosen = self._chosen(order, history)
            if chosen is None:
                return None
        squared = self.is_squared
        if not self._is_money:
            if chosen is None:
                return moments_of(history.numbers(self.what, self.span), 0, 1)
            numbers = history.chosen_numbers(self.what, self.span, chosen)
            return len(numbers), sum(numbers), sum([n * n for n in numbers]) if squared else 0, 1
        if self.rates is None:
            currency, divided_by = fingerprint(order.currency), minor_units(order.currency)
            count, total = history.spent(self.span, currency, chosen)
            return count, total, history.squares(self.span, currency, chosen) if squared else 0, divided_by
        count = total = squares = 0
        scale, divided_by = self._scale(self.rates, history)
        for currency, worth in scale:
            these, spent = history.spent(self.span, currency, chosen)
            count, total = count + these, total + spent * worth
            if squared:
                squares += history.squares(self.span, currency, chosen) * worth * worth
        return count, total, squares, divided_by

    def _extreme(self, order: Order, history: History) -> tuple[int, int] | None:
        """The smallest, for Min, or the largest, as a fraction; None without one."""
        chosen = None
        if self.where is not None:
            chosen = self._chosen(order, history)
            if chosen is None:
                return None
        is_min = self._word == "min"
        if not self._is_money:
            if chosen is None:
                found = history.numbers(self.what, self.span)
                return (found[SMALLEST if is_min else LARGEST], 1) if found[COUNT] else None
            numbers = history.chosen_numbers(self.what, self.span, chosen)
            return ((min if is_min else max)(numbers), 1) if numbers else None
        ask = history.smallest if is_min else history.largest
        if self.rates is None:
            amount = ask(self.span, fingerprint(order.currency), chosen)
            return None if amount is None else (amount, minor_units(order.currency))
        scale, divided_by = self._scale(self.rates, history)
        amounts = [
            amount * worth
            for currency, worth in scale
            if (amount := ask(self.span, currency, chosen)) is not None
        ]
        return ((min if is_min else max)(amounts), divided_by) if amounts else None


class _OfMoments(_OfQuantities):
    """What can be told from how many, their total and the total of their squares."""

    def of_moments(self, order: Order, moments: Moments) -> float | None:
        """The value, of the moments of the window's orders."""
        raise NotImplementedError

    def value(self, order: Order, history: History | None) -> float | None:
        """The value, None when it is unknown."""
        moments = None if history is None else self._moments(order, history)
        return None if moments is None else self.of_moments(order, moments)


class Sum(_OfMoments):
    """The total in the window: `Sum("amount", over=days(1))` is amount_sum_1d.

    `Sum("refunded", over=days(180))` adds up what was refunded, as far as it was known before this order, of
    the orders placed in the window.
    """

    _says = "Total {}"
    _word = "sum"

    @property
    def missing(self) -> str:  # noqa: D102
        return self._nobody

    def fraction(self, moments: Moments) -> tuple[int, int]:
        """The value as a fraction."""
        return moments[1], moments[3]

    def of_moments(self, order: Order, moments: Moments) -> float:  # noqa: ARG002, D102
        return moments[1] / moments[3]  # of integers, here and below: correctly rounded

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: D102
        return _Derived.value(self, order, history) if self._is_fact else super().value(order, history)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None:
            return None
        if self._is_fact:
            if self.rates is None:
                scale, divided_by = {fingerprint(order.currency): 1}, minor_units(order.currency)
            else:
                scale, divided_by = _worth(self.rates), self.rates.denominator
            known = history.known_amounts(self.what, self.span)
            return sum(amount * scale.get(currency, 0) for amount, currency in known), divided_by
        moments = self._moments(order, history)
        return None if moments is None else self.fraction(moments)


class Mean(_OfMoments):
    """The mean in the window: `Mean("amount", over=days(30))` is amount_mean_30d."""

    _says = "Mean {}"
    _word = "mean"

    def fraction(self, moments: Moments) -> tuple[int, int] | None:
        """The value as a fraction."""
        return (moments[1], moments[0] * moments[3]) if moments[0] else None

    def of_moments(self, order: Order, moments: Moments) -> float | None:  # noqa: ARG002, D102
        return moments[1] / (moments[0] * moments[3]) if moments[0] else None

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        moments = None if history is None else self._moments(order, history)
        return None if moments is None else self.fraction(moments)


class Min(_OfQuantities):
    """The smallest in the window: `Min("amount", over=days(30))` is amount_min_30d."""

    _says = "Smallest {}"
    _word = "min"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        return None if history is None else self._extreme(order, history)


class Max(_OfQuantities):
    """The largest in the window: `Max("amount", over=days(30))` is amount_max_30d."""

    _says = "Largest {}"
    _word = "max"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        return None if history is None else self._extreme(order, history)


class Std(_OfMoments):
    """The standard deviation in the window, dividing by how many: `Std("amount", over=days(90))`."""

    _says = "Standard deviation of the {}"
    _word = "std"
    is_squared = True

    def of_moments(self, order: Order, moments: Moments) -> float | None:  # noqa: ARG002
        """The root of the exact variance, rounded before and after the root."""
        count, total, squares, divided_by = moments
        if not count:
            return None
        return sqrt((count * squares - total * total) / (count * divided_by) ** 2)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        """The value as a fraction."""
        value = self.value(order, history)
        return None if value is None else value.as_integer_ratio()


class ZScore(_OfMoments):
    """By how many standard deviations this order differs from the window's mean: `ZScore("amount", ...)`."""

    between: ClassVar[tuple[float, float | None]] = (float("-inf"), None)
    _says = "Standard deviations of this order's {} from the mean"
    _word = "zscore"
    is_squared = True
    unit = "standard deviations"

    @property
    def doc(self) -> str:  # noqa: D102
        what = "amount" if self.what == _AMOUNT else spoken(self.what)
        return (
            f"By how many standard deviations this order's {what} differs from the mean of the "
            f"{self._orders}.{self._money_note}"
        )

    @property
    def missing(self) -> str:  # noqa: D102
        return f"fewer than 2 orders to compare with, all alike, or {self._nobody}"

    def of_moments(self, order: Order, moments: Moments) -> float | None:
        """The distance over the root of the exact variance."""
        mine = self._mine(order)
        count, total, squares, _ = moments
        if mine is None or count < _ENOUGH_TO_SPREAD:
            return None
        spread = count * squares - total * total
        return (count * mine - total) / sqrt(spread) if spread else None

    def value(self, order: Order, history: History | None) -> float | None:
        """The value, None when it is unknown; of an order that has none of it the history is not asked."""
        return None if self._mine(order) is None else super().value(order, history)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        """The value as a fraction."""
        value = self.value(order, history)
        return None if value is None else value.as_integer_ratio()

    def _mine(self, order: Order) -> int | None:
        """What this order has of it, scaled as the moments are."""
        if not self._is_money:
            return NUMBERS[self.what](order)
        if self.rates is None:
            return order.amount
        worth = self.rates.numerators.get(order.currency)
        return None if worth is None else order.amount * worth


@dataclass(frozen=True)
class Trend(_OfHistory):
    """Whether there is more lately: `Trend("orders", over=days(7), against=days(90))`.

    What there is a day in the shorter window, over what there is a day in the longer one, which ends with
    it: 1 is as always, 0 nothing lately.
    """

    what: str
    against: timedelta = field(kw_only=True)
    between: ClassVar[tuple[float, float | None]] = (0, None)
    unit = "ratio"

    def __post_init__(self) -> None:
        """Check the words."""
        super().__post_init__()
        _check_duration("Trend(against=)", self.against)
        if self.against <= self.over:
            message = (
                f"Trend(over={_short(self.over)}, against={_short(self.against)}): against is the longer one"
            )
            raise FeatureDefinitionError(message)
        if self.what not in (_ORDERS, _AMOUNT):
            message = f"Trend({self.what!r}) takes 'orders' or 'amount'"
            raise FeatureDefinitionError(message)
        if self.where is not None and self.what == _AMOUNT:
            message = "Trend('amount', where=...): conditions go with Trend('orders', ...)"
            raise FeatureDefinitionError(message)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return self._called(f"{self.what}_trend", f"{_short(self.over)}_{_short(self.against)}")

    @property
    def doc(self) -> str:  # noqa: D102
        what = "orders" if self.what == _ORDERS else "amount of orders"
        which = "" if self.where is None else f" {self.where.doc}"
        note = "" if self.what == _ORDERS else _OTHER_CURRENCIES
        longer = f"that in the {_long(self.against)} to the same end"
        return f"Daily {what} {_DOES[self.by]}{which} {self._window}, divided by {longer}.{note}"

    @property
    def missing(self) -> str:  # noqa: D102
        return f"nothing in the longer window, or {self._nobody}"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Trend({self._arguments(repr(self.what), f'against={_short(self.against)}')})"

    @cached_property
    def _longer(self) -> "Count | Sum":
        word = {"by": self.by, "known_after": self.known_after}
        if self.what == _AMOUNT:
            return Sum(_AMOUNT, over=self.against, **word)  # type: ignore[arg-type]
        return Count(over=self.against, where=self.where, **word)  # type: ignore[arg-type]

    @cached_property
    def _shorter(self) -> "Count | Sum":
        word = {"by": self.by, "known_after": self.known_after}
        if self.what == _AMOUNT:
            return Sum(_AMOUNT, over=self.over, **word)  # type: ignore[arg-type]
        return Count(over=self.over, where=self.where, **word)  # type: ignore[arg-type]

    @cached_property
    def weights(self) -> tuple[int, int]:
        """What is multiplied with what there is in the shorter window, and in the longer one."""
        return self.against // minutes(1), self.over // minutes(1)

    @property
    def longer_span(self) -> Span:
        """The longer window."""
        return self._longer.span

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        lately, ever = self._shorter.exact(order, history), self._longer.exact(order, history)
        if lately is None or ever is None or not ever[0]:
            return None
        # both over the same denominator
        return lately[0] * self.weights[0], ever[0] * self.weights[1]

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        return self._longer.looked_at(order, history)


# How long ago, and whether ever -------------------------------------------------------------------


@dataclass(frozen=True)
class _Since(_OfHistory):
    what: str = _ORDERS
    over: timedelta = field(default=years(100), init=False, repr=False)
    known_after: timedelta | None = field(default=None, init=False, repr=False)
    between: ClassVar[tuple[float, float | None]] = (0, None)
    unit = "days"
    _which = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.what != _ORDERS:
            _check_counted(type(self).__name__, self.what)
            if self.where is not None:
                message = f"{type(self).__name__}({self.what!r}, where=...): a fact has no conditions"
                raise FeatureDefinitionError(message)

    @cached_property
    def span(self) -> Span:
        """All time."""
        return EVER

    @cached_property
    def name(self) -> str:
        what = "order" if self.what == _ORDERS else self.what
        parts = [] if self.by == "customer" else [f"by_{self.by}"]
        parts.append(f"days_since_{self._which}_{what}")
        if self.where is not None:
            parts.append(self.where.name)
        return "_".join(parts)

    @property
    def declaration(self) -> str:
        said = [] if self.what == _ORDERS else [repr(self.what)]
        if self.by != "customer":
            said.append(f"by={self.by}")
        if self.where is not None:
            said.append(f"where={self.where.declaration}")
        return f"{type(self).__name__}({', '.join(said)})"

    @property
    def doc(self) -> str:
        if self.what != _ORDERS:
            said = f"it {self._which} became known that an order {_DOES[self.by]} was {self.what}"
            return f"Days since {said}."
        which = "" if self.where is None else f" {self.where.doc}"
        return f"Days since the {self._which} order {_DOES[self.by]}{which} before this one."

    @property
    def missing(self) -> str:
        none = "no such order before" if self.what == _ORDERS else f"{self.what} is known of none"
        return f"{none}, or {self._nobody}"

    def _at(self, order: Order, history: History) -> int | None:
        raise NotImplementedError

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        at = None if history is None else self._at(order, history)
        return None if history is None or at is None else (history.as_of - at, MICROSECONDS_A_DAY)


class SinceLast(_Since):
    """How long ago the last order was: `SinceLast()` is days_since_last_order.

    `SinceLast("refunded")` counts from when it was last known of an order; a condition looks at the orders
    held one by one.
    """

    _which = "last"

    def _at(self, order: Order, history: History) -> int | None:
        if self.what != _ORDERS:
            known = history.known_at(self.what)
            return None if known is None else known[1]
        if self.where is None:
            return history.last_at()
        if type(self.where) is same:  # the usual one, without a mask
            what = self.where.what
            text = VALUES[what](order)
            return None if text is None else history.last_held_with(what, fingerprint(text), self.span)
        chosen = self._chosen(order, history)
        where = -1 if chosen is None else chosen.rfind(1)
        return None if where < 0 else history.held_times(0, where + 1)[where]

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The position, among the orders held, of the one that made the value."""
        return super().looked_at(order, history)[-1:] if self.what == _ORDERS else []


class SinceFirst(_Since):
    """How long there have been orders: `SinceFirst()` is days_since_first_order.

    Exact even where the first order itself is no longer held; a condition looks at those held one by one.
    """

    _which = "first"

    def _at(self, order: Order, history: History) -> int | None:
        if self.what != _ORDERS:
            known = history.known_at(self.what)
            return None if known is None else known[0]
        if self.where is None:
            return history.first_at()
        chosen = self._chosen(order, history)
        where = -1 if chosen is None else chosen.find(1)
        return None if where < 0 else history.held_times(0, where + 1)[where]

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The position, among the orders held, of the one that made the value; none for one not held."""
        first = super().looked_at(order, history)[:1] if self.what == _ORDERS else []
        # where the first of all is folded, another is the first that is held
        return (
            first
            if first and history.held_times(first[0], first[0] + 1)[0] == self._at(order, history)
            else []
        )


@dataclass(frozen=True)
class IsNew(_Derived):
    """Whether it was never used before: `IsNew("device")` is device_is_new.

    Everything is new in a first order.
    """

    what: str
    by: str = field(default="customer", kw_only=True)
    unit = "0 or 1"
    between: ClassVar[tuple[float, float | None]] = (0, 1)

    def __post_init__(self) -> None:
        """Check the words."""
        check_value("IsNew", self.what)
        _check_entity(type(self).__name__, self.by)

    @cached_property
    def entity(self) -> str:  # type: ignore[override] # noqa: D102
        return self.by

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{'' if self.by == 'customer' else f'by_{self.by}_'}{self.what}_is_new"

    @property
    def doc(self) -> str:  # noqa: D102
        what = spoken(self.what)
        if self.by == "customer":
            return f"1 when no remembered order of the customer had this {what}, else 0; 1 for a first order."
        return (
            f"1 when none of the orders {_DOES[self.by]} before had this {what}, else 0; 1 for a first order."
        )

    @property
    def missing(self) -> str:  # noqa: D102
        whose = "a guest" if self.by == "customer" else f"the order names no {spoken(self.by)}"
        return f"the order does not say its {spoken(self.what)}, or {whose}"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"IsNew({self.what!r}{'' if self.by == 'customer' else f', by={self.by}'})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        text = VALUES[self.what](order)
        if history is None or text is None:
            return None
        return int(not history.has_seen(self.what, fingerprint(text))), 1

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that had it."""
        code = fingerprint(VALUES[self.what](order))
        if code == UNKNOWN:
            return []
        return [at for at, has in enumerate(history.where_is(self.what, code, 0, len(history))) if has]


# Where from ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance(_Derived):
    """How far this order goes from where the last one went: `Distance()` is km_from_last_address.

    Great circle between the coordinates of the shipping addresses, else of the billing ones, by the
    haversine formula on a sphere, to the metre.
    """

    by: str = field(default="customer", kw_only=True)
    between: ClassVar[tuple[float, float | None]] = (0, 20_016)
    unit = "km"
    _what = "km_from_last_address"
    _says = "Kilometres from the last known address of the orders {} before to this order's."

    def __post_init__(self) -> None:
        """Check the words."""
        _check_entity(type(self).__name__, self.by)

    @cached_property
    def entity(self) -> str:  # type: ignore[override] # noqa: D102
        return self.by

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{'' if self.by == 'customer' else f'by_{self.by}_'}{self._what}"

    @property
    def doc(self) -> str:  # noqa: D102
        return self._says.format(_DOES[self.by])

    @property
    def missing(self) -> str:  # noqa: D102
        whose = "a guest" if self.by == "customer" else f"the order names no {spoken(self.by)}"
        return f"no coordinates in this order or in any before, or {whose}"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"{type(self).__name__}({'' if self.by == 'customer' else f'by={self.by}'})"

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: D102
        moved = None if history is None else self.moved(order, history)
        return None if moved is None else self.of_move(*moved)

    def of_move(self, km: float, microseconds_ago: int) -> float:  # noqa: ARG002
        """The value, where the last address is so far away and that order so long ago."""
        return km

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        value = self.value(order, history)
        return None if value is None else value.as_integer_ratio()

    @staticmethod
    def moved(order: Order, history: History) -> tuple[float, int] | None:
        """How far away the last address is, in kilometres, and how many microseconds ago that order was."""
        here = place_of(order)
        last = history.last_place() if here else None
        if last is None:
            return None
        place, at = last
        return _great_circle(place, here), history.as_of - at

    def looked_at(self, order: Order, history: History) -> list[int]:  # noqa: ARG002
        """The position, among the orders held, of the last one that says where."""
        last = history.last_place()
        if last is None:
            return []
        places = history.held_numbers(PLACE, 0, len(history))
        return [max(where for where, place in enumerate(places) if place is not None)]


@dataclass(frozen=True)
class Speed(Distance):
    """How fast one would have to travel from the last address: `Speed()` is km_per_hour_from_last_address."""

    between: ClassVar[tuple[float, float | None]] = (0, None)
    unit = "km/h"
    _what = "km_per_hour_from_last_address"
    _says = "Kilometres from the last known address of the orders {} before, per hour since."

    def of_move(self, km: float, microseconds_ago: int) -> float:  # noqa: D102
        return km * _MICROSECONDS_AN_HOUR / microseconds_ago


def _great_circle(one: int, another: int) -> float:
    (lat1, lon1), (lat2, lon2) = coordinates(one), coordinates(another)
    north, south = radians(lat1), radians(lat2)
    half = hypot(sin((south - north) / 2), sqrt(cos(north) * cos(south)) * sin(radians(lon2 - lon1) / 2))
    return round(2 * _EARTH_KM * asin(min(half, 1.0)), 3)


# Of other features --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio(_Derived):
    """One quantity over another: `Ratio(amount, to=Mean("amount", over=days(30)))`.

    Computed from both exact fractions and rounded once. Both are of one entity, or of the order itself.
    """

    quantity: Quantity
    to: Quantity = field(kw_only=True)
    between: ClassVar[tuple[float, float | None]] = (0, None)
    unit = "ratio"

    def __post_init__(self) -> None:
        """Check what is compared."""
        for each in (self.quantity, self.to):
            if type(each) not in _QUANTITIES:
                message = f"Ratio compares features such as Mean('amount', over=days(30)), not {each!r}"
                raise FeatureDefinitionError(message)
            if each.between[0] < 0:
                message = f"Ratio compares quantities that are never negative, and {each.name!r} may be"
                raise FeatureDefinitionError(message)
        entities = {self.quantity.entity, self.to.entity} - {None}
        if len(entities) > 1:
            message = (
                f"Ratio compares within one history, and {self.quantity.name!r} and {self.to.name!r} look at "
                f"those of {' and '.join(sorted(map(str, entities)))}; declare two features"
            )
            raise FeatureDefinitionError(message)

    @cached_property
    def entity(self) -> str | None:  # type: ignore[override] # noqa: D102
        return self.quantity.entity or self.to.entity

    @property
    def looks_at_facts(self) -> bool:
        """Whether either of the two does."""
        return self.quantity.looks_at_facts or self.to.looks_at_facts

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{self.quantity.name}_over_{self.to.name}"

    @property
    def doc(self) -> str:  # noqa: D102
        below = _claim(self.to)
        return f"{_claim(self.quantity)}, divided by: {below[0].lower()}{below[1:]}."

    @property
    def missing(self) -> str:  # noqa: D102
        return f"{self.to.name} is missing or 0, or {self.quantity.name} is missing"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Ratio({self.quantity.declaration}, to={self.to.declaration})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        return self.of_fractions(self.quantity.exact(order, history), self.to.exact(order, history))

    @staticmethod
    def of_fractions(above: tuple[int, int] | None, below: tuple[int, int] | None) -> tuple[int, int] | None:
        """The value as a fraction, of what is compared as fractions."""
        if above is None or below is None or below[0] == 0:
            return None
        return above[0] * below[1], above[1] * below[0]

    def looked_at(self, order: Order, history: History) -> list[int]:
        """The positions, among the orders held, of those that made the value."""
        found: set[int] = set()
        for each in (self.quantity, self.to):
            if hasattr(each, "looked_at"):
                found.update(each.looked_at(order, history))
        return sorted(found)


@dataclass(frozen=True)
class Category(_Derived):
    """Which of a few texts the order says: `Category("country", ("DE", "FR"))` is country_category.

    The value is the text's position in the vocabulary; a text that is not in it has the position after the
    last. Models that know categories take it as one, the others through one-hot columns.
    """

    what: str
    vocabulary: tuple[str, ...]
    unit = "category"

    def __post_init__(self) -> None:
        """Check the field and its vocabulary."""
        if not isinstance(self.what, str) or self.what not in _TEXTS:
            message = f"Category({self.what!r}): no such text of an order{did_you_mean(self.what, _TEXTS)}"
            raise FeatureDefinitionError(message)
        words = self.vocabulary
        is_texts = isinstance(words, tuple) and all(isinstance(word, str) and word for word in words)
        if not is_texts or not words or len(set(words)) < len(words):
            message = f"Category({self.what!r}) takes a tuple of different texts, not {words!r}"
            raise FeatureDefinitionError(message)
        if _OTHER in words:
            message = (
                f"Category({self.what!r}): {_OTHER!r} is what every text outside the vocabulary is called; "
                "leave it out"
            )
            raise FeatureDefinitionError(message)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{self.what}_category"

    @property
    def doc(self) -> str:  # noqa: D102
        return (
            f"Which {spoken(self.what)} the order says, of {len(self.vocabulary)} known ones and any other."
        )

    @property
    def between(self) -> tuple[float, float | None]:  # noqa: D102
        return 0, len(self.vocabulary)

    @property
    def missing(self) -> str:  # noqa: D102
        return f"the order does not say its {spoken(self.what)}"

    @property
    def categories(self) -> tuple[str, ...]:  # type: ignore[override]
        """The vocabulary, and at its end what stands for every other text."""
        return (*self.vocabulary, _OTHER)

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Category({self.what!r}, {self.vocabulary!r})"

    @cached_property
    def _text(self) -> Callable[[Order], str | None]:
        return _TEXTS[self.what]

    @cached_property
    def _values(self) -> dict[str, float]:
        return {word: float(position) for position, word in enumerate(self.vocabulary)}

    @cached_property
    def _other(self) -> float:
        return float(len(self.vocabulary))

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: ARG002, D102
        text = self._text(order)
        return None if text is None else self._values.get(text, self._other)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        value = self.value(order, history)
        return None if value is None else (int(value), 1)


_QUANTITIES = frozenset(
    {
        *(OrderFact, OrderAmount, Count, Share, Distinct, Sum, Mean, Min, Max, Std, ZScore),
        *(Trend, SinceFirst, SinceLast, IsNew, Distance, Speed, Ratio),
    }
)
"""What can be compared: everything but a category, whose values are no quantities."""


def _funding(order: Order) -> str | None:
    return None if order.card is None else order.card.funding


_TEXTS: Mapping[str, Callable[[Order], str | None]] = {**VALUES, "card_funding": _funding}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _plural(what: str) -> str:
    """A field's name as words for several."""
    text = spoken(what)
    if text.endswith("y"):
        return f"{text[:-1]}ies"
    return f"{text}es" if text.endswith("s") else f"{text}s"


def _claim(feature: Quantity) -> str:
    """The first sentence of a feature's doc, without its full stop."""
    return feature.doc.partition(". ")[0].removesuffix(".")
