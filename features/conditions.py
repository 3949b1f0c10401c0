"""Which past orders count: conditions on an order of the history, also relative to the order being scored.

    Count(over=days(30), where=same("card") & ~was("declined"))

Conditions look at the orders held one by one, the newest of the row; a declaration that is wrong is
refused where it is written.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from features.columns import both, either, neither
from features.errors import FeatureDefinitionError, did_you_mean
from features.events import Order, microseconds
from features.facts import FACTS
from features.history import History
from features.questions import (
    AS_LARGE,
    AT_LEAST,
    BELOW,
    NEAR,
    ORDERS_WITH,
    ORDERS_WITH_ANOTHER,
    Question,
    Span,
)
from features.remembered import NUMBERS, VALUES, fingerprint

__all__ = [
    "Condition",
    "as_large",
    "at_least",
    "below",
    "is_in",
    "near_hour",
    "other",
    "same",
    "was",
]

_MICROSECONDS_AN_HOUR = 3_600_000_000
_MICROSECONDS_A_DAY = 24 * _MICROSECONDS_AN_HOUR
_MOST_HOURS = 11


class Condition(Protocol):
    """Which of an entity's past orders count."""

    @property
    def name(self) -> str:
        """Its part of a feature's name."""

    @property
    def doc(self) -> str:
        """What it says of a past order, as in "orders <doc>"."""

    @property
    def declaration(self) -> str:
        """Everything that decides it, as text."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of VALUES the order being scored has to say; else the feature is missing."""

    @property
    def looks_at_facts(self) -> bool:
        """Whether it asks what became of past orders."""

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:
        """For each order held from start to end: 1 if it counts, else 0."""

    def counted(self, window: Span) -> Question | None:
        """The question of how many of the window's held orders count; None where only the mask tells."""


class _Combined:
    """What every condition can do."""

    @property
    def looks_at_facts(self) -> bool:
        """Whether it asks what became of past orders; few do."""
        return False

    def counted(self, window: Span) -> Question | None:  # noqa: ARG002
        """The question of how many of the window's held orders count; None where only the mask tells."""
        return None

    def __and__(self, other: Condition) -> "_And":
        return _And(self, other)  # type: ignore[arg-type] # whoever inherits is a condition

    def __invert__(self) -> "_Not":
        return _Not(self)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        # `one and another` would be the other alone
        message = "conditions are joined with & and turned round with ~; and, or and not see only one of them"
        raise FeatureDefinitionError(message)


@dataclass(frozen=True)
class _And(_Combined):
    one: Condition
    another: Condition

    def __post_init__(self) -> None:
        for each in (self.one, self.another):
            check_condition("&", each)

    @property
    def name(self) -> str:
        return f"{self.one.name}_and_{self.another.name}"

    @property
    def doc(self) -> str:
        return f"{self.one.doc} and {self.another.doc}"

    @property
    def declaration(self) -> str:
        return f"({self.one.declaration} & {self.another.declaration})"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.one.needs, *self.another.needs)

    @property
    def looks_at_facts(self) -> bool:
        return self.one.looks_at_facts or self.another.looks_at_facts

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:
        return both(self.one.mask(order, history, start, end), self.another.mask(order, history, start, end))


@dataclass(frozen=True)
class _Not(_Combined):
    condition: Condition

    @property
    def name(self) -> str:
        # of what, or ~(a & b) would be called what ~a & b is
        joined = _joined(self.condition)
        if len(joined) == 1:
            return f"not_{joined[0].name}"
        which = "both" if len(joined) == 2 else f"all_{len(joined)}"
        return f"not_{which}_{self.condition.name}"

    @property
    def doc(self) -> str:
        which = "both " if isinstance(self.condition, _And) else ""
        return f"other than those {which}{self.condition.doc}"

    @property
    def declaration(self) -> str:
        return f"~{self.condition.declaration}"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.condition.needs

    @property
    def looks_at_facts(self) -> bool:
        return self.condition.looks_at_facts

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:
        return neither(self.condition.mask(order, history, start, end))


def _joined(condition: Condition) -> tuple[Condition, ...]:
    """The conditions that are all to be met."""
    if isinstance(condition, _And):
        return (*_joined(condition.one), *_joined(condition.another))
    return (condition,)


@dataclass(frozen=True)
class _OfValue(_Combined):
    what: str

    def __post_init__(self) -> None:
        check_value(type(self).__name__, self.what)

    @property
    def name(self) -> str:
        return f"{type(self).__name__}_{self.what}"

    @property
    def declaration(self) -> str:
        return f"{type(self).__name__}({self.what!r})"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.what,)


class same(_OfValue):  # noqa: N801 - reads as a word of a sentence
    """The past order has the same as this one: `same("card")`."""

    @property
    def doc(self) -> str:  # noqa: D102 - said in Condition
        return f"with the same {spoken(self.what)}"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: D102
        return history.where_is(self.what, fingerprint(VALUES[self.what](order)), start, end)

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(ORDERS_WITH, self.what, window)


class other(_OfValue):  # noqa: N801
    """The past order has another one than this order; where it is not known, it does not count."""

    @property
    def doc(self) -> str:  # noqa: D102
        return f"with another {spoken(self.what)}"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: D102
        mine = history.where_is(self.what, fingerprint(VALUES[self.what](order)), start, end)
        unknown = history.where_is(self.what, fingerprint(None), start, end)
        return both(neither(mine), neither(unknown))

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(ORDERS_WITH_ANOTHER, self.what, window)


@dataclass(frozen=True, init=False)
class is_in(_Combined):  # noqa: N801
    """The past order has one of these texts: `is_in("payment_method", "invoice", "instalments")`."""

    what: str
    texts: tuple[str, ...]
    needs = ()

    def __init__(self, what: str, *texts: str) -> None:
        """Check the field and its texts."""
        check_value("is_in", what)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            message = f"is_in({what!r}, ...) takes the texts that count, such as is_in({what!r}, 'a', 'b')"
            raise FeatureDefinitionError(message)
        object.__setattr__(self, "what", what)
        object.__setattr__(self, "texts", tuple(sorted(set(texts))))

    @property
    def name(self) -> str:  # noqa: D102
        words = [
            "".join(c if c.isascii() and c.isalnum() else "_" for c in text.lower()) for text in self.texts
        ]
        return f"{self.what}_in_{'_or_'.join(words)}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"with {spoken(self.what)} {' or '.join(self.texts)}"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"is_in({self.what!r}, {', '.join(map(repr, self.texts))})"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: ARG002, D102
        found = bytes(end - start)
        for text in self.texts:
            found = either(found, history.where_is(self.what, fingerprint(text), start, end))
        return found


@dataclass(frozen=True)
class _OfNumber(_Combined):
    what: str
    number: int
    needs = ()

    def __post_init__(self) -> None:
        word = type(self).__name__
        check_number(word, self.what)
        if not isinstance(self.number, int) or isinstance(self.number, bool) or self.number < 0:
            message = f"{word}({self.what!r}, ...) takes a whole number from 0 on, not {self.number!r}"
            raise FeatureDefinitionError(message)

    @property
    def declaration(self) -> str:
        return f"{type(self).__name__}({self.what!r}, {self.number})"


class at_least(_OfNumber):  # noqa: N801
    """The past order's number is known and at least this: `at_least("gift_card_pieces", 1)`."""

    @property
    def name(self) -> str:  # noqa: D102
        return f"{self.what}_from_{self.number}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"with at least {self.number} {_counted(self.what, self.number)}"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: ARG002, D102
        return history.where_number(self.what, lambda number: number >= self.number, start, end)

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(AT_LEAST, self.what, window, self.number)


class below(_OfNumber):  # noqa: N801
    """The past order's number is known and smaller than this: `below("pieces", 3)`."""

    @property
    def name(self) -> str:  # noqa: D102
        return f"{self.what}_below_{self.number}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"with fewer than {self.number} {_counted(self.what, self.number)}"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: ARG002, D102
        return history.where_number(self.what, lambda number: number < self.number, start, end)

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(BELOW, self.what, window, self.number)


@dataclass(frozen=True)
class near_hour(_Combined):  # noqa: N801
    """The past order was placed within so many hours of this one's time of day: `near_hour(2)`."""

    hours: int
    needs = ()

    def __post_init__(self) -> None:
        """Check the hours."""
        if type(self.hours) is not int or not 1 <= self.hours <= _MOST_HOURS:
            message = f"near_hour takes 1 to {_MOST_HOURS} hours, not {self.hours!r}; a day has 24, both ways"
            raise FeatureDefinitionError(message)

    @property
    def name(self) -> str:  # noqa: D102
        return f"near_hour_{self.hours}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"within {self.hours} hours of this one's time of day"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"near_hour({self.hours})"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: D102
        mine, near = microseconds(order.placed_at), self.hours * _MICROSECONDS_AN_HOUR
        later = (mine - np.asarray(history.held_times(start, end), np.int64)) % _MICROSECONDS_A_DAY
        return ((later <= near) | (later >= _MICROSECONDS_A_DAY - near)).tobytes()

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(NEAR, "", window, self.hours * _MICROSECONDS_AN_HOUR)


@dataclass(frozen=True)
class was(_Combined):  # noqa: N801
    """One of FACTS was known of the past order before this one: `was("declined")`."""

    fact: str
    needs = ()

    def __post_init__(self) -> None:
        """Check the fact."""
        check_fact("was", self.fact)

    @property
    def looks_at_facts(self) -> bool:  # noqa: D102
        return True

    @property
    def name(self) -> str:  # noqa: D102
        return f"was_{self.fact}"

    @property
    def doc(self) -> str:  # noqa: D102
        return f"known to be {self.fact}"

    @property
    def declaration(self) -> str:  # noqa: D102
        return f"was({self.fact!r})"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: ARG002, D102
        return history.where_known(self.fact, start, end)


@dataclass(frozen=True)
class as_large(_Combined):  # noqa: N801
    """The past order's amount was this one's or more, in the same currency."""

    needs = ()
    name = "as_large"
    doc = "at least as large as this one in its currency"
    declaration = "as_large()"

    def mask(self, order: Order, history: History, start: int, end: int) -> bytes:  # noqa: D102
        large = (np.asarray(history.held_amounts(start, end), np.int64) >= order.amount).tobytes()
        return both(large, history.where_is("currency", fingerprint(order.currency), start, end))

    def counted(self, window: Span) -> Question:  # noqa: D102
        return Question(AS_LARGE, "", window)


_CONDITIONS = frozenset({_And, _Not, same, other, is_in, at_least, below, near_hour, was, as_large})


def spoken(what: str) -> str:
    """A field's name as words."""
    return _SPOKEN.get(what) or what.replace("_", " ")


_SPOKEN = {"ip": "IP address", "card_bin": "card BIN"}


def _counted(what: str, number: int) -> str:
    """The name of one of NUMBERS after a number: 1 piece, 2 pieces."""
    return spoken(what).removesuffix("s") if number == 1 else spoken(what)


def check_condition(word: str, where: object) -> None:
    """Refuse what is not a condition."""
    if type(where) not in _CONDITIONS:  # of another class no digest would hold the code
        message = f"{word}: a condition such as same('card') or was('declined') is needed, not {where!r}"
        raise FeatureDefinitionError(message)


def check_value(word: str, what: str) -> None:
    """Refuse what a history does not remember as a text."""
    if not isinstance(what, str) or what not in VALUES:
        message = f"{word}({what!r}): a history does not remember {what!r}{did_you_mean(what, VALUES)}"
        if isinstance(what, str) and (what == "amount" or what in NUMBERS):
            message = f"{word}({what!r}): {what!r} is a number; {word} takes texts such as 'device'"
        raise FeatureDefinitionError(message)


def check_number(word: str, what: str) -> None:
    """Refuse what a history does not remember as a number."""
    if not isinstance(what, str) or what not in NUMBERS:
        message = f"{word}({what!r}): a history has no number {what!r}{did_you_mean(what, NUMBERS)}"
        raise FeatureDefinitionError(message)


def check_fact(word: str, what: str) -> None:
    """Refuse what is not one of FACTS."""
    if not isinstance(what, str) or what not in FACTS:
        message = f"{word}({what!r}): no such fact about an order{did_you_mean(what, FACTS)}"
        raise FeatureDefinitionError(message)
