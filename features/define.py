"""What a feature is, and the features that a function of the order answers.

    @feature(unit="0 or 1", between=(0, 1), missing="never")
    def is_gift(order: Order) -> float: ...

A declaration is a frozen value that checks itself when it is written. Names, documentation and the
digest that ties a model to its features are derived from it, so that none of them can drift.
"""

import ast
import builtins
import dis
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from math import isfinite, isnan
from operator import index
from types import CellType, CodeType, MappingProxyType
from typing import Protocol

from features.errors import FeatureDefinitionError, FeatureValueError, did_you_mean
from features.events import Address, Card, Order
from features.history import History

__all__ = [
    "Feature",
    "OrderFact",
    "Quantity",
    "compute",
    "days",
    "feature",
    "features_digest",
    "hours",
    "minutes",
    "weeks",
    "years",
]

GRAMMAR = 2
"""Raised when a word changes what it computes: every model trained before must then be trained again."""


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

    @property
    def entity(self) -> str | None:
        """Whose history it looks at, one of ENTITIES; None for the order alone."""

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The texts that the values 0, 1, ... stand for; None for a number."""

    @property
    def looks_at_facts(self) -> bool:
        """Whether it asks what became of past orders: known fraud, refunds and the like."""

    def value(self, order: Order, history: History | None) -> float | None:
        """The feature of the order, given its entity's history; None for history: the order names none."""


class Quantity(Feature, Protocol):
    """A feature whose value is an exact fraction, so that it can be compared with another one."""

    def exact(self, order: Order, history: History | None) -> tuple[int, int] | None:
        """Numerator and denominator of the value; None when it is unknown."""


def compute(
    features: Sequence[Feature], order: Order, histories: Mapping[str, History | None]
) -> tuple[float | None, ...]:
    """The order's feature vector; None stands for unknown.

    `histories` has one for each entity, taken as of the order; None, or none, where the order does not name
    the entity: a guest has no customer.
    """
    known = histories.get
    # of no entity there is no history
    return tuple([each.value(order, known(each.entity)) for each in features])  # type: ignore[arg-type]


def features_digest(features: Iterable[Feature]) -> str:
    """SHA-256 of the features' declarations in their order, as hex digits: equal means the same vectors."""
    declarations = [each.declaration for each in features]
    return sha256(json.dumps([GRAMMAR, declarations]).encode()).hexdigest()


def days(number: int) -> timedelta:
    """So many days of 24 hours."""
    return _whole("days", number, timedelta(days=1))


def hours(number: int) -> timedelta:
    """So many hours."""
    return _whole("hours", number, timedelta(hours=1))


def minutes(number: int) -> timedelta:
    """So many minutes."""
    return _whole("minutes", number, timedelta(minutes=1))


def weeks(number: int) -> timedelta:
    """So many weeks of 7 days."""
    return _whole("weeks", number, timedelta(days=7))


def years(number: int) -> timedelta:
    """So many years of 365 days: what the calendar says would make two windows of one name differ."""
    return _whole("years", number, timedelta(days=365))


def _whole(word: str, number: int, unit: timedelta) -> timedelta:
    try:
        if isinstance(number, bool):
            raise TypeError(number)  # noqa: TRY301 - said below
        return index(number) * unit
    except (TypeError, OverflowError) as error:
        message = (
            f"{word}() takes a whole number that a duration can hold, such as {word}(30), not {number!r}"
        )
        raise FeatureDefinitionError(message) from error


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
    entity = None
    categories = None
    looks_at_facts = False

    def value(self, order: Order, history: History | None) -> float | None:  # noqa: ARG002 - as every feature
        """What the function answers, as a float."""
        try:
            answer = self.read(order)
            if answer is None:
                return None
            is_finite = isfinite(answer)
        except Exception as error:
            # without the error's own words: they may hold what the order says of a person
            message = (
                f"feature {self.name!r} failed on order {order.order_id!r} with {type(error).__name__}; "
                "answer a finite number, or None for unknown, whatever an order does not say"
            )
            raise FeatureValueError(message) from error
        if not is_finite:
            message = (
                f"feature {self.name!r} answered {answer} on order {order.order_id!r}; answer a finite "
                "number, or None for unknown"
            )
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
        _check_fields(name, read)
        for word, text in (("unit", unit), ("missing", missing)):
            if not isinstance(text, str) or not text:
                message = f"feature {name!r} needs a text for {word}=, not {text!r}"
                raise FeatureDefinitionError(message)
        if not _is_range(between):
            message = (
                f"feature {name!r}: between= takes the smallest and the largest value, such as (0, 1), "
                f"or None for no largest, not {between!r}"
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


def _is_range(between: object) -> bool:
    if not isinstance(between, tuple) or len(between) != 2:
        return False
    numbers = between if between[1] is not None else between[:1]
    return all(isinstance(each, int | float) and not isnan(each) for each in numbers)


_FIELDS = {
    "": frozenset({*Order.model_fields, "key"}),
    "card": frozenset(Card.model_fields),
    "billing": frozenset(Address.model_fields),
    "shipping": frozenset(Address.model_fields),
}


def _check_fields(name: str, read: Callable[..., object]) -> None:
    """Refuse what an order does not say, before an order comes to show it.

    Also what only a pydantic model has: in service an order is read by a faster model with the same fields,
    which nothing else keeps from being changed.
    """
    function = _definition(name, read)
    order = function.args.args[0].arg if function.args.args else ""
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute | ast.Subscript):
            continue
        if not isinstance(node.ctx, ast.Load) and _is_of(node, order):
            message = f"feature {name!r} changes {ast.unparse(node)}; a feature reads the order and answers"
            raise FeatureDefinitionError(message)
        if isinstance(node, ast.Subscript):
            continue
        owner = None
        if isinstance(node.value, ast.Name) and node.value.id == order:
            owner = ""
        elif (
            isinstance(node.value, ast.Attribute)
            and isinstance(node.value.value, ast.Name)
            and node.value.value.id == order
        ):
            owner = node.value.attr
        if owner in _FIELDS and node.attr not in _FIELDS[owner]:
            where = f"order.{owner}" if owner else "order"
            hint = did_you_mean(node.attr, _FIELDS[owner])
            message = f"feature {name!r} reads {where}.{node.attr}, which is not a field{hint}"
            raise FeatureDefinitionError(message)


def _is_of(node: ast.expr, order: str) -> bool:
    """Whether it is a part of the order, or a part of a part."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name) and node.id == order


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
    called = f"{id(read)}"  # one text of a program may define several functions, each of other numbers
    if called in texts:
        return
    if hasattr(read, "__wrapped__"):
        message = (
            f"feature {name!r}: {read.__name__!r} is wrapped by a decorator, which no digest would hold; "
            "do in its body what the decorator does"
        )
        raise FeatureDefinitionError(message)
    function = _definition(name, read)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    known = dict(zip(read.__code__.co_freevars, read.__closure__ or (), strict=True))
    for node in (each for statement in body for each in ast.walk(statement)):
        _check_pure(name, node, known)
    # a helper's arguments are part of it; a feature has one, the order
    head = f"{read.__name__}({ast.unparse(function.args)})\n" if texts else ""
    texts[called] = head + "\n".join(ast.unparse(statement) for statement in body)
    named = _preset(function.args, read)
    for word in sorted(known.keys() | _outside(read.__code__)):
        if word in known and not _is_empty(known[word]):
            value = known[word].cell_contents
        elif word in read.__globals__:
            value = read.__globals__[word]
        elif hasattr(builtins, word):
            if word in _FROM_ELSEWHERE:
                message = f"feature {name!r} names {word!r}, and no digest would hold what comes from there"
                raise FeatureDefinitionError(message)
            continue
        else:
            message = f"feature {name!r} names {word!r}, which is not there yet; define it above the feature"
            raise FeatureDefinitionError(message)
        named.append((word, value))
    for word, value in named:
        if isinstance(value, _CONSTANTS):
            # told for each function that names it: two modules may give one name to two numbers
            texts[f"{called} {word}"] = f"{word} = {_constant(name, word, value)}"
        elif (origin := _from_python(value)) is not None:
            texts[f"{called} {word}"] = f"{word} is {origin}"
        elif inspect.isfunction(value):
            _describe(name, value, texts)
            if word != value.__name__:
                texts[f"{called} {word}"] = f"{word} is {value.__qualname__}"
        else:
            raise FeatureDefinitionError(_undescribed(name, word, value))


def _preset(arguments: ast.arguments, read: Callable[..., object]) -> list[tuple[str, object]]:
    """What arguments are preset to, where the text does not say it: the text, and the value it had."""
    by_place = zip(arguments.defaults, getattr(read, "__defaults__", None) or (), strict=True)
    by_word = getattr(read, "__kwdefaults__", None) or {}
    by_name = [
        (node, by_word[argument.arg])
        for argument, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if node is not None
    ]
    said = [(node, value) for node, value in (*by_place, *by_name) if not isinstance(node, ast.Constant)]
    return [(ast.unparse(node), value) for node, value in said]


def _outside(code: CodeType) -> set[str]:
    """The names that code takes from its module or from Python: what it names and does not set itself."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in _LOADS}
    return names.union(*(_outside(part) for part in code.co_consts if isinstance(part, CodeType)))


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def _is_empty(cell: CellType) -> bool:
    """Whether a name of the function around has no value yet."""
    try:
        cell.cell_contents  # noqa: B018 - asking is all there is
    except ValueError:
        return True
    return False


def _from_python(value: object) -> str | None:
    """The name of a module, class or function of Python's own library; None for anything else."""
    if inspect.ismodule(value):
        origin = value.__name__
    elif inspect.isclass(value) or inspect.isroutine(value):
        origin = f"{value.__module__}.{value.__qualname__}"
    else:
        return None
    return origin if origin.partition(".")[0] in sys.stdlib_module_names else None


_FROM_ELSEWHERE = frozenset(("__import__", "compile", "eval", "exec", "globals", "input", "open"))
"""Python's own words for code and data that do not stand in the function."""

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


def _check_pure(name: str, node: ast.AST, outside: Iterable[str]) -> None:
    """Refuse what lets a function answer otherwise next time, and no digest would hold."""
    if isinstance(node, ast.Global | ast.Nonlocal):
        for word in node.names:
            if isinstance(node, ast.Global) or word in outside:
                message = f"feature {name!r} changes {word!r}; a feature reads the order and answers"
                raise FeatureDefinitionError(message)
    elif isinstance(node, ast.ClassDef):
        message = f"feature {name!r} defines a class; write a function beside it"
        raise FeatureDefinitionError(message)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or "."] if isinstance(node, ast.ImportFrom) else [e.name for e in node.names]
        for module in modules:
            if module.partition(".")[0] not in sys.stdlib_module_names:
                message = (
                    f"feature {name!r} imports {module!r} while it runs; import what it needs at the top"
                )
                raise FeatureDefinitionError(message)
