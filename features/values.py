"""What a history answered becomes the values of many features at once, in one compiled pass.

A value is an exact fraction of integers, rounded once. Integers below 2**53 are exact as floats too, and so
their quotient is rounded just as it should be. How far amounts spread needs larger ones as soon as a customer
has some thousand orders: it is told in two numbers of 62 bits. What else needs larger ones is left to the
feature itself. The loop is plain Python that numba compiles, as those of features.questions are.
"""

from collections.abc import Callable, Iterable
from functools import cache
from math import ldexp, sqrt
from typing import Any, Final

import numpy as np

__all__ = [
    "AMOUNT",
    "COUNTED",
    "EXTREME",
    "IS_CUT",
    "MEAN",
    "NEW",
    "RATIO",
    "SHARE",
    "SINCE",
    "STD",
    "SUM",
    "TREND",
    "VALUE",
    "ZSCORE",
    "Steps",
    "Vector",
]

# Constants of the loop stay in this file: numba's cache notices no change of another. A test holds those
# that features.questions has too.

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
"""Features' values; NaN is unknown."""

COUNTED: Final = 0
"""An answer: its place. NEVER is unknown."""
SUM: Final = 1
"""The total of a window: its place, and 1 for money, 0 for a number; so are MEAN, STD and ZSCORE."""
MEAN: Final = 2
STD: Final = 3
ZSCORE: Final = 4
EXTREME: Final = 5
"""An answer where a window has something: the answer's place, 1 for money, the place of how many."""
TREND: Final = 6
"""Two windows' totals, or two counts: the two places, 1 for totals, and what either is multiplied with."""
NEW: Final = 7
"""Whether an answer is NEVER, where the order says the text: its place, and the column of the text."""
SINCE: Final = 8
"""Days since an answer: its place."""
SHARE: Final = 9
"""An answer of a window's held orders: its place, and those of where the window begins and ends."""
RATIO: Final = 10
"""One fraction over another: what each is (SUM, MEAN, EXTREME, COUNTED, AMOUNT or VALUE) and its place, and
whether it is money, as above, or the place of how many where it is EXTREME."""
AMOUNT: Final = 11
"""The order's own amount."""
VALUE: Final = 12
"""A value that is there already, and whole."""
IS_CUT: Final = 13
"""No value: whether an answer, at its place, says that what else is answered is not exact."""

_WORDS: Final = 8
"""So many numbers tell of a step: what it is, where its value goes, and what is said above."""
_NEVER: Final = -(2**63)
_COUNT: Final = 6
_TOTAL: Final = 7
_SQUARES: Final = 9
_SURE: Final = 1 << 53
"""The integers that a float holds exactly end here."""
_BITS: Final = 62
"""Of a larger sum or product the lower number has so many, and the upper one is what is above."""
_LOWER: Final = (1 << _BITS) - 1
_HALF: Final = 31
_LOWER_HALF: Final = (1 << _HALF) - 1
_ENOUGH_BITS: Final = 1 << (_BITS - 1)
"""An integer from here on has more bits than a float by so many that one bit can stand for all others."""
_UNSURE: Final = -1
"""For a number that is none of them; no number here is below 0."""
_A_DAY: Final = 86_400_000_000
_ENOUGH_TO_SPREAD: Final = 2


class Steps:
    """How some features' values are told from what a history answered."""

    __slots__ = ("_loop", "_most", "_steps")

    def __init__(self, steps: Iterable[tuple[int, ...]]) -> None:
        """Each step is what it is, where its value goes among all, and what is said of its kind."""
        laid = [(*each, *([0] * (_WORDS - len(each)))) for each in steps]
        self._steps = np.array(laid, np.int64).reshape(-1, _WORDS)
        self._most = len(laid)
        self._loop = _compiled()

    def tell(  # noqa: PLR0917 - numba's functions take arrays and numbers, not objects
        self, answers: Any, said: bytes, as_of: int, amount: int, a_unit: int, values: Vector
    ) -> tuple[list[int], bool]:
        """Put the values into their places; which are left, and whether something was not exact.

        `said` is what `told` answers of the order, whose amount is in minor units, so many to one of its
        currency.
        """
        left = np.empty(self._most, np.int64)
        found = self._loop(answers, self._steps, said, as_of, amount, a_unit, values, left)
        return left[: found >> 1].tolist() if found > 1 else [], bool(found & 1)


# What numba compiles --------------------------------------------------------------------------------


def _sure(upper: Any, lower: Any) -> Any:
    """A sum of two numbers; unsure where it is large."""
    return lower if upper == 0 and lower < _SURE else np.int64(_UNSURE)


def _times(one: Any, another: Any) -> Any:
    """The product; unsure where it is large or one of them is."""
    if one < 0 or another < 0 or np.float64(one) * np.float64(another) >= _SURE:
        return np.int64(_UNSURE)
    return one * another


def _product(one: Any, another: Any) -> Any:
    """The product of two numbers of 62 bits: an upper number and a lower one."""
    upper, lower = one >> _HALF, one & _LOWER_HALF
    their_upper, their_lower = another >> _HALF, another & _LOWER_HALF
    twice = upper * their_lower + lower * their_upper
    below = lower * their_lower + ((twice & _LOWER_HALF) << _HALF)
    return upper * their_upper + (twice >> _HALF) + (below >> _BITS), below & _LOWER


def _spread(number: Any, total: Any, squares_upper: Any, squares: Any) -> Any:
    """Number * squares - total * total, an upper number and a lower one; unsure where it has over 124 bits.

    It is not below 0, as the squares are those of so many numbers with that total.
    """
    if np.float64(squares_upper) * np.float64(number) >= _SURE:
        return np.int64(_UNSURE), np.int64(0)
    upper, lower = _product(number, squares)
    upper += squares_upper * number
    their_upper, their_lower = _product(total, total)
    lower -= their_lower
    upper -= their_upper + (lower < 0)
    return upper, lower & _LOWER


def _rounded(upper: Any, lower: Any) -> float:
    """The integer of two numbers as the nearest float, as Python rounds it."""
    shift = 0
    while upper >> shift:
        shift += 1
    if shift == 0:
        return np.float64(lower)
    top = (upper << (_BITS - shift)) | (lower >> shift)
    if lower & ((1 << shift) - 1):
        top |= 1  # a bit that only says that there is more
    return ldexp(np.float64(top), shift)


def _quotient(upper: Any, lower: Any, divisor: Any) -> float:
    """The integer of two numbers over one of 62 bits, as the nearest float, as Python rounds it."""
    quotient, rest = upper // divisor, upper % divisor
    if quotient == 0 and rest == 0 and lower == 0:
        return 0.0
    left = _BITS
    # bit by bit, behind the lower number's own ones 0, until there are enough to be rounded
    while quotient < _ENOUGH_BITS:
        left -= 1
        rest = 2 * rest + ((lower >> left) & 1 if left >= 0 else 0)
        quotient *= 2
        if rest >= divisor:
            rest -= divisor
            quotient += 1
    if rest > 0 or (left > 0 and lower & ((1 << left) - 1)):
        quotient |= 1
    return ldexp(np.float64(quotient), left)


def _fraction(  # noqa: PLR0917
    kind: Any, at: Any, more: Any, answers: Any, amount: Any, a_unit: Any, values: Any
) -> Any:
    """One part of a ratio: numerator, denominator, the latter 0 where it is unknown; unsure, or both."""
    one = np.int64(1)
    if kind == AMOUNT:
        return _sure(0, amount), a_unit
    if kind == COUNTED:
        return _sure(0, answers[at]), one
    if kind == VALUE:
        value = values[at]
        if np.isnan(value):
            return one, np.int64(0)
        if not 0 <= value < _SURE or value != np.floor(value):
            return np.int64(_UNSURE), one
        return np.int64(value), one
    if kind == EXTREME:
        if answers[more >> 1] == 0:
            return one, np.int64(0)
        return _sure(0, answers[at]), a_unit if more & 1 else one
    total = _sure(answers[at + _TOTAL], answers[at + _TOTAL + 1])
    divided_by = a_unit if more else one
    if kind == SUM:
        return total, divided_by
    return total, _times(answers[at + _COUNT], divided_by)  # 0 of nothing


def _tell(  # noqa: PLR0917 - one branch for each kind of step
    answers: Any,
    steps: Any,
    said: bytes,
    as_of: Any,
    amount: Any,
    a_unit: Any,
    values: Any,
    left: Any,
) -> int:
    """Steps.tell, into arrays: twice how many are left, and one more where something was not exact."""
    words = np.frombuffer(said, np.int64)
    count = is_cut = 0
    for step in range(len(steps)):
        kind, goes = steps[step, 0], steps[step, 1]
        at, more, third = steps[step, 2], steps[step, 3], steps[step, 4]
        above = below = np.int64(0)  # the value is their quotient, unknown with 0 below
        if kind == IS_CUT:
            if answers[at] != 0:
                is_cut = 1
            continue
        if kind == COUNTED:
            if answers[at] != _NEVER:
                above, below = _sure(0, answers[at]), np.int64(1)
        elif kind == NEW:
            if words[more] != 0:
                above, below = np.int64(answers[at] == _NEVER), np.int64(1)
        elif kind == SINCE:
            if answers[at] != _NEVER:
                above, below = _sure(0, as_of - answers[at]), np.int64(_A_DAY)
        elif kind == SHARE:
            if answers[at] != _NEVER:
                above, below = answers[at], answers[third] - answers[more]
        elif kind == EXTREME:
            if answers[third] != 0:
                above, below = _sure(0, answers[at]), a_unit if more else np.int64(1)
        elif kind == TREND:
            if third:
                above = _sure(answers[at + _TOTAL], answers[at + _TOTAL + 1])
                below = _sure(answers[more + _TOTAL], answers[more + _TOTAL + 1])
            else:
                above, below = answers[at], answers[more]
            above, below = _times(above, steps[step, 5]), _times(below, steps[step, 6])
        elif kind == RATIO:
            one, under_one = _fraction(at, more, third, answers, amount, a_unit, values)
            other, under_other = _fraction(
                steps[step, 5], steps[step, 6], steps[step, 7], answers, amount, a_unit, values
            )
            if under_one != 0 and under_other != 0:
                above, below = _times(one, under_other), _times(under_one, other)
        else:
            number, total = answers[at + _COUNT], _sure(answers[at + _TOTAL], answers[at + _TOTAL + 1])
            divided_by = a_unit if more else np.int64(1)
            if kind == SUM:
                above, below = total, divided_by
            elif kind == MEAN:
                above, below = total, _times(number, divided_by)
            else:
                under = _times(number, divided_by)
                upper = lower = np.int64(_UNSURE)
                if total >= 0 and 0 <= under <= _LOWER_HALF:
                    upper, lower = _spread(number, total, answers[at + _SQUARES], answers[at + _SQUARES + 1])
                if upper < 0:
                    above = np.int64(_UNSURE)
                elif kind == STD:
                    if number > 0:
                        values[goes] = sqrt(_quotient(upper, lower, under * under))
                    continue
                elif number >= _ENOUGH_TO_SPREAD and (upper > 0 or lower > 0):
                    mine = _times(number, amount)
                    if mine < 0:
                        above = np.int64(_UNSURE)
                    else:
                        # may be below 0, and so it can't go the way of the others
                        values[goes] = np.float64(mine - total) / sqrt(_rounded(upper, lower))
                        continue
        if above < 0 or below < 0:
            left[count] = goes
            count += 1
        elif below > 0:
            values[goes] = np.float64(above) / np.float64(below)
    return 2 * count + is_cut


@cache
def _compiled() -> Callable[..., int]:
    try:
        import numba.extending  # noqa: PLC0415 - half a second that only who asks a history should pay
    except (ImportError, OSError):  # OSError: its compiler library does not load on this machine
        return _tell

    for each in (_sure, _times, _product, _spread, _rounded, _quotient, _fraction):
        numba.extending.register_jitable(each)  # so that the loop may call it
    raw, number = numba.types.Bytes(numba.uint8, 1, "C"), numba.int64
    numbers = numba.int64[::1]
    signature = number(
        *(numbers, numba.int64[:, ::1], raw, number, number, number, numba.float64[::1], numbers)
    )
    try:
        compiled: Callable[..., int] = numba.njit(signature, cache=True)(_tell)
    except (RuntimeError, OSError):  # no room to keep it: compiled again by each program
        compiled = numba.njit(signature)(_tell)
    return compiled
