"""The words features are declared in: one declaration says what a feature is called, means and computes.

    Mean("amount", over=days(30))     # amount_mean_30d

A declaration is a frozen value that checks itself when it is written. Names, documentation and the
digest that ties a model to its features are derived from it, so that none of them can drift.
"""

import ast
import builtins
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from math import isfinite
from types import MappingProxyType
from typing import Protocol

from features.events import LARGEST_AMOUNT, Order
from features.history import REMEMBERED, History
from features.money import exponent

__all__ = [
    "Count",
    "Distinct",
    "Feature",
    "FeatureDefinitionError",
    "FeatureValueError",
    "IsNew",
    "Max",
    "Mean",
    "OrderAmount",
    "OrderFact",
    "Quantity",
    "Ratio",
    "SinceFirst",
    "SinceLast",
    "Sum",
    "compute",
    "days",
    "did_you_mean",
    "feature",
    "features_digest",
    "hours",
    "minutes",
]

GRAMMAR = 2
"""Raised when a word changes what it computes: every model trained before must then be trained again."""

_MICROSECONDS_A_DAY = 86_400_000_000
_NOT_A_CUSTOMER = "a guest, who has no history"
_MAJOR = "major units of the order's currency"
"""50.00 EUR is 50 and 5,000 JPY is 5000: in minor units a model would take the two for the same."""
_SPENT = "Past orders in another currency than the order's do not count."


class FeatureDefinitionError(ValueError):
    """A feature is declared wrongly; raised where it is written, never while scoring."""


class FeatureValueError(ValueError):
    """A feature's function answered what is not a finite number; the function has to be corrected."""


class Feature(Protocol):
    """One number we know about an order, or None when it is unknown."""

    @property
    def name(self) -> str:
        """Its name, as in vectors, decisions and reasons."""

    @property
    def doc(self) -> str:
        """What it means, in one sentence."""

    @property
    def unit(self) -> str:
        """What it is counted in."""

    @property
    def between(self) -> tuple[float, float | None]:
        """The smallest and the largest value it can have; None is no bound."""

    @property
    def missing(self) -> str:
        """What a missing value means."""

    @property
    def declaration(self) -> str:
        """Everything that decides its value, as text; a digest of it ties a model to the feature."""

    def value(self, order: Order, history: History | None) -> float | None:
        """The feature of the order, given its customer's history; None for history is a guest."""


class Quantity(Feature, Protocol):
    """A feature whose value is an exact fraction, so that it can be compared with another one."""

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        """Numerator and denominator of the value; None when it is unknown."""


def compute(features: Sequence[Feature], order: Order, history: History | None) -> tuple[float | None, ...]:
    """The order's feature vector; None stands for unknown. History None is a guest."""
    return tuple([each.value(order, history) for each in features])


def features_digest(features: Iterable[Feature]) -> str:
    """SHA-256 of the features' declarations in their order, as hex digits: equal means the same vectors."""
    declarations = [each.declaration for each in features]
    return sha256(json.dumps([GRAMMAR, declarations]).encode()).hexdigest()


def days(number: int) -> timedelta:
    """So many days of 24 hours."""
    return timedelta(days=number)


def hours(number: int) -> timedelta:
    """So many hours."""
    return timedelta(hours=number)


def minutes(number: int) -> timedelta:
    """So many minutes."""
    return timedelta(minutes=number)


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = get_close_matches(typed, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


# Facts of the order itself ------------------------------------------------------------------------


@dataclass(frozen=True)
class OrderFact:
    """A feature that a function of the order alone answers; made by `@feature`."""

    name: str
    doc: str
    unit: str
    between: tuple[float, float | None]
    missing: str
    declaration: str = field(repr=False)
    read: Callable[[Order], float | None] = field(repr=False, compare=False)

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: ARG002 - as every feature
        """What the function answers, as a float."""
        answer = self.read(order)
        if answer is None:
            return None
        if not isfinite(answer):
            message = f"feature {self.name!r} answered {answer}; answer a finite number, or None for unknown"
            raise FeatureValueError(message)
        return float(answer)

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        """The value as a fraction."""
        answer = self.value(order, history)
        return None if answer is None else answer.as_integer_ratio()


def feature(
    *, unit: str, between: tuple[float, float | None], missing: str
) -> Callable[[Callable[[Order], float | None]], OrderFact]:
    """Declare a function of the order as the feature of its name, documented by its docstring.

    `missing` says what None means, or "never".
    """

    def declare(read: Callable[[Order], float | None]) -> OrderFact:
        name = getattr(read, "__name__", "")
        if not name.isidentifier() or name != name.lower():
            message = f"feature {name!r} needs a name of small letters; write it as a function with def"
            raise FeatureDefinitionError(message)
        doc = inspect.getdoc(read)
        if not doc:
            message = (
                f"feature {name!r} has no docstring; write the one line that should appear in the catalogue"
            )
            raise FeatureDefinitionError(message)
        if len(inspect.signature(read).parameters) != 1:
            message = (
                f"feature {name!r} must take the order and nothing else; histories are asked in aggregates"
            )
            raise FeatureDefinitionError(message)
        low, high = between
        if high is not None and high < low:
            message = f"feature {name!r} says it lies between {low} and {high}; write the smaller first"
            raise FeatureDefinitionError(message)
        return OrderFact(
            name=name,
            doc=doc.partition("\n\n")[0].replace("\n", " "),
            unit=unit,
            between=between,
            missing=missing,
            declaration=f"{name}: {_source(name, read)}",
            read=read,
        )

    return declare


def _source(name: str, read: Callable[..., object]) -> str:
    """What a function computes, as text: its body, then every constant and function that it names.

    Without docstrings, comments and layout. What comes from Python itself stands by its name; what no text
    can hold, such as a list that may change, is refused.
    """
    texts: dict[str, str] = {}
    _describe(name, read, texts)
    return "\n".join(texts.values())


def _describe(name: str, read: Callable[..., object], texts: dict[str, str]) -> None:
    """Add the text of a function, and of what it names, under the names they have where they are used."""
    called = f"{read.__module__}.{read.__qualname__}"
    if called in texts:
        return
    function = _definition(name, read)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    inside = [node for statement in body for node in ast.walk(statement)]
    own = {argument.arg for node in (function, *inside) for argument in _arguments(node)}
    own |= {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in inside if isinstance(node, ast.FunctionDef)}
    known = dict(zip(read.__code__.co_freevars, read.__closure__ or (), strict=True))
    # a helper's arguments are part of it; a feature has one, the order
    head = f"{read.__name__}({ast.unparse(function.args)})\n" if texts else ""
    texts[called] = head + "\n".join(ast.unparse(statement) for statement in body)
    for word in sorted({node.id for node in inside if isinstance(node, ast.Name)} - own):
        if word in known:
            value = known[word].cell_contents
        elif word in read.__globals__:
            value = read.__globals__[word]
        elif hasattr(builtins, word):
            continue
        else:
            message = f"feature {name!r} names {word!r}, which is not there yet; define it above the feature"
            raise FeatureDefinitionError(message)
        if isinstance(value, _CONSTANTS):
            # told for each function that names it: two modules may give one name to two numbers
            texts[f"{called} {word}"] = f"{word} = {_constant(name, word, value)}"
        elif (origin := _from_python(value)) is not None:
            texts[f"{called} {word}"] = f"{word} is {origin}"
        elif inspect.isfunction(value):
            _describe(name, value, texts)
        else:
            raise FeatureDefinitionError(_undescribed(name, word, value))


def _from_python(value: object) -> str | None:
    """The name of a module, class or function of Python's own library; None for anything else."""
    if inspect.ismodule(value):
        origin = value.__name__
    elif inspect.isclass(value) or inspect.isroutine(value):
        origin = f"{value.__module__}.{value.__qualname__}"
    else:
        return None
    return origin if origin.partition(".")[0] in sys.stdlib_module_names else None


_CONSTANTS = (
    *(bool, int, float, str, bytes, type(None)),
    *(date, timedelta, Decimal, Fraction),
    *(tuple, frozenset, MappingProxyType),
)


def _constant(name: str, word: str, value: object) -> str:
    """A constant as text that is the same in every run."""
    if isinstance(value, MappingProxyType):
        return f"{{{', '.join(sorted(_constant(name, word, pair) for pair in value.items()))}}}"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(_constant(name, word, each) for each in value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(_constant(name, word, each) for each in value)})"
    if not isinstance(value, _CONSTANTS):
        raise FeatureDefinitionError(_undescribed(name, word, value))
    return repr(value)


def _undescribed(name: str, word: str, value: object) -> str:
    return (
        f"feature {name!r} names {word!r}, a {type(value).__name__}, which no digest can hold; use numbers, "
        "texts, tuples, frozensets, MappingProxyType and functions"
    )


def _definition(name: str, read: Callable[..., object]) -> ast.FunctionDef:
    try:
        source = textwrap.dedent(inspect.getsource(read))
    except (OSError, TypeError) as error:
        message = (
            f"the source of feature {name!r} cannot be read, so no digest can hold it; define it in a file"
        )
        raise FeatureDefinitionError(message) from error
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef):
        message = f"feature {name!r}, and what it calls, must be written with def"
        raise FeatureDefinitionError(message)
    return function


def _arguments(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        return []
    told = node.args
    others = [argument for argument in (told.vararg, told.kwarg) if argument is not None]
    return [*told.posonlyargs, *told.args, *told.kwonlyargs, *others]


# Aggregates of the customer's history -------------------------------------------------------------


def _short(over: timedelta) -> str:
    for unit, length in (("d", days(1)), ("h", hours(1))):
        if over % length == timedelta(0):
            return f"{over // length}{unit}"
    return f"{over // minutes(1)}m"


def _long(over: timedelta) -> str:
    short = _short(over)
    number, word = short[:-1], {"d": "day", "h": "hour", "m": "minute"}[short[-1]]
    return word if number == "1" else f"{number} {word}s"


def _check_window(word: str, over: timedelta) -> None:
    if not isinstance(over, timedelta):
        message = f"{word} looks over a duration such as days(30), not {over!r}"
        raise FeatureDefinitionError(message)
    if over <= timedelta(0) or over % minutes(1) != timedelta(0):
        message = (
            f"{word} looks over whole minutes, at least one, not {over}; write days(), hours() or minutes()"
        )
        raise FeatureDefinitionError(message)


def _check_amount(word: str, what: str) -> None:
    if what != "amount":
        hint = (
            f"{word} takes the number 'amount'; count values with Distinct"
            if what in REMEMBERED
            else f"{word} takes 'amount'"
        )
        message = f"Order has no number {what!r} in a history; {hint}"
        near = get_close_matches(what, ["amount"], n=1)
        raise FeatureDefinitionError(
            f"Order has no field {what!r}; did you mean 'amount'?" if near else message
        )


def _check_remembered(word: str, what: str) -> None:
    if what not in REMEMBERED:
        message = f"{word}({what!r}): a history does not remember {what!r}{did_you_mean(what, REMEMBERED)}"
        raise FeatureDefinitionError(message)


class _Derived:
    """What every aggregate has in common: its value is its exact fraction, rounded once."""

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        raise NotImplementedError

    def value(self, order: Order, history: History | None) -> float | None:
        """The value, None when it is unknown."""
        fraction = self.exact(order, history)
        return None if fraction is None else fraction[0] / fraction[1]  # of integers: correctly rounded


@dataclass(frozen=True)
class OrderAmount(_Derived):
    """The order's own total: `OrderAmount()` is amount."""

    name = "amount"
    doc = "The order's total."
    unit = _MAJOR
    between = (0, LARGEST_AMOUNT)
    missing = "never"
    declaration = "OrderAmount()"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        return order.amount, 10 ** exponent(order.currency)


@dataclass(frozen=True)
class Count(_Derived):
    """How many orders the customer placed in the window: `Count(over=days(30))` is orders_count_30d."""

    over: timedelta
    unit = "orders"
    between = (0, None)
    missing = _NOT_A_CUSTOMER

    def __post_init__(self) -> None:
        _check_window("Count", self.over)

    @cached_property
    def name(self) -> str:  # noqa: D102 - said in Feature, here and below
        return f"orders_count_{_short(self.over)}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"Orders the customer placed in the {_long(self.over)} before this one."

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Count(over={_short(self.over)})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        return None if history is None else (history.count(self.over), 1)


@dataclass(frozen=True)
class _OfAmounts(_Derived):
    what: str
    over: timedelta = field(kw_only=True)
    unit = _MAJOR
    between = (0, None)

    def __post_init__(self) -> None:
        _check_amount(type(self).__name__, self.what)
        _check_window(type(self).__name__, self.over)

    @cached_property
    def name(self) -> str:
        return f"{self.what}_{type(self).__name__.lower()}_{_short(self.over)}"

    @property
    def declaration(self) -> str:
        return f"{type(self).__name__}({self.what!r}, over={_short(self.over)})"


@dataclass(frozen=True)
class Sum(_OfAmounts):
    """What the customer spent in the window: `Sum("amount", over=days(1))` is amount_sum_1d."""

    missing = _NOT_A_CUSTOMER

    @property
    def doc(self) -> str:  # noqa: D102
        return f"What the customer spent in the {_long(self.over)} before this order. {_SPENT}"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None:
            return None
        return history.spent(self.over, order.currency)[0], 10 ** exponent(order.currency)


@dataclass(frozen=True)
class Mean(_OfAmounts):
    """The customer's mean amount in the window: `Mean("amount", over=days(30))` is amount_mean_30d."""

    missing = "no order in the window in the order's currency, or a guest"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"Mean amount of the customer's orders in the {_long(self.over)} before this one. {_SPENT}"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        if history is None:
            return None
        total, count = history.spent(self.over, order.currency)
        return (total, count * 10 ** exponent(order.currency)) if count else None


@dataclass(frozen=True)
class Max(_OfAmounts):
    """The customer's largest amount in the window: `Max("amount", over=days(30))` is amount_max_30d."""

    missing = "no order in the window in the order's currency, or a guest"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"Largest amount of the customer's orders in the {_long(self.over)} before this one. {_SPENT}"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        largest = None if history is None else history.largest(self.over, order.currency)
        return None if largest is None else (largest, 10 ** exponent(order.currency))


@dataclass(frozen=True)
class Distinct(_Derived):
    """How many different ones in the window: `Distinct("device", over=days(30))` is device_distinct_30d."""

    what: str
    over: timedelta = field(kw_only=True)
    between = (0, None)
    missing = _NOT_A_CUSTOMER

    def __post_init__(self) -> None:
        _check_remembered("Distinct", self.what)
        _check_window("Distinct", self.over)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{self.what}_distinct_{_short(self.over)}"

    @property
    def unit(self) -> str:  # noqa: D102
        return f"different values of {self.what.replace('_', ' ')}"

    @property
    def doc(self) -> str:  # noqa: D102
        what = self.what.replace("_", " ")
        return (
            f"Different values of {what} in the customer's orders in the {_long(self.over)} before this one."
        )

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Distinct({self.what!r}, over={_short(self.over)})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        return None if history is None else (history.distinct(self.what, self.over), 1)


@dataclass(frozen=True)
class SinceLast(_Derived):
    """How long ago the customer's last order was: `SinceLast()` is days_since_last_order."""

    name = "days_since_last_order"
    doc = "Days from the customer's last order before this one to this one."
    unit = "days"
    between = (0, None)
    missing = "no order remembered from before this one, or a guest"
    declaration = "SinceLast()"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        last_at = None if history is None else history.last_at()
        return None if history is None or last_at is None else (history.as_of - last_at, _MICROSECONDS_A_DAY)


@dataclass(frozen=True)
class SinceFirst(_Derived):
    """How long the customer has been ordering: `SinceFirst()` is days_since_first_order.

    Exact even where the first order itself is no longer held.
    """

    name = "days_since_first_order"
    doc = "Days from the customer's first order ever to this one."
    unit = "days"
    between = (0, None)
    missing = "no order from before this one, or a guest"
    declaration = "SinceFirst()"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: ARG002, D102
        first_at = None if history is None else history.first_at()
        return (
            None if history is None or first_at is None else (history.as_of - first_at, _MICROSECONDS_A_DAY)
        )


@dataclass(frozen=True)
class IsNew(_Derived):
    """Whether the customer never used it before: `IsNew("device")` is device_is_new.

    Everything is new in a first order. Orders no longer held are not looked at.
    """

    what: str
    unit = "0 or 1"
    between = (0, 1)

    def __post_init__(self) -> None:
        _check_remembered("IsNew", self.what)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{self.what}_is_new"

    @property
    def doc(self) -> str:  # noqa: D102
        what = self.what.replace("_", " ")
        return f"1 when no remembered order of the customer had this {what}, else 0; 1 for a first order."

    @property
    def missing(self) -> str:  # noqa: D102
        return f"the order does not say its {self.what.replace('_', ' ')}, or a guest"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"IsNew({self.what!r})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        text = REMEMBERED[self.what](order)
        return None if history is None or text is None else (int(not history.has_seen(self.what, text)), 1)


@dataclass(frozen=True)
class Ratio(_Derived):
    """One quantity over another: `Ratio(amount, to=Mean("amount", over=days(30)))`.

    Computed from both exact fractions and rounded once.
    """

    quantity: Quantity
    to: Quantity = field(kw_only=True)
    between = (0, None)

    def __post_init__(self) -> None:
        for each in (self.quantity, self.to):
            if not hasattr(each, "exact"):
                message = f"Ratio compares features such as Mean('amount', over=days(30)), not {each!r}"
                raise FeatureDefinitionError(message)
            if each.between[0] < 0:
                message = f"Ratio compares quantities that are never negative, and {each.name!r} may be"
                raise FeatureDefinitionError(message)

    @cached_property
    def name(self) -> str:  # noqa: D102
        return f"{self.quantity.name}_over_{self.to.name}"

    @property
    def unit(self) -> str:  # noqa: D102
        return "ratio"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"{self.quantity.name} divided by {self.to.name}."

    @property
    def missing(self) -> str:  # noqa: D102
        return f"{self.to.name} is missing or 0, or {self.quantity.name} is missing"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"Ratio({self.quantity.declaration}, to={self.to.declaration})"

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:  # noqa: D102
        below = self.to.exact(order, history)
        above = self.quantity.exact(order, history)
        if above is None or below is None or below[0] == 0:
            return None
        return above[0] * below[1], above[1] * below[0]
