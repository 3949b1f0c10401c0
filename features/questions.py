"""What a history is asked, many questions at once: what its windows hold, and what their orders say.

All is told in one pass over a row's bytes, from the newest order back: where a window begins, the next longer
one only goes on. The loops are plain Python that numba compiles; where numba cannot be imported they run as
they are, slowly, with the same answers. Sums may outgrow 64 bits: they are an upper and a lower number, of
which the lower has 62 bits.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from features.remembered import COLUMN_OF

__all__ = [
    "AS_LARGE",
    "AT_LEAST",
    "BELOW",
    "COUNT",
    "DIFFERENT",
    "END",
    "EVER",
    "HIGH",
    "IS_CUT",
    "LARGEST",
    "LAST",
    "LAST_HELD",
    "LOW",
    "NEAR",
    "NEVER",
    "ORDERS",
    "ORDERS_WITH",
    "ORDERS_WITH_ANOTHER",
    "SMALLEST",
    "START",
    "USED",
    "WINDOW",
    "Answered",
    "Answers",
    "Question",
    "Questions",
    "Span",
    "span",
    "squares_of",
    "total_of",
]

# Constants of the loops stay in this file: numba's cache notices no change of another.

NEVER: Final = -(2**63)
"""When something was that never was; no order can be that old."""
USED: Final = 64
"""Of how many different texts, of each of VALUES, the last use is known once their orders are folded."""

START: Final = 0
"""Where the window's orders held one by one begin, and END, where those after it do."""
END: Final = 1
LOW: Final = 2
"""Where the entries of its tiles begin, and HIGH, where those after it do."""
HIGH: Final = 3
IS_CUT: Final = 4
"""1 where a tile lies in it in part, or orders are missing that no tile holds."""
ORDERS: Final = 5
"""How many orders there are, those in tiles included, in whatever currency."""
COUNT: Final = 6
"""How many of them are in the currency that was asked for; then the total of their amounts and of the
squares of these, in minor units."""
_TOTAL: Final = 7
_SQUARES: Final = 9
SMALLEST: Final = 11
"""The smallest of these amounts, then the largest; -1 where COUNT is 0."""
LARGEST: Final = 12
WINDOW: Final = 13
"""So many numbers tell what is in a window."""

_BITS: Final = 62
_LOWER: Final = (1 << _BITS) - 1
_HALF: Final = 31
_LOWER_HALF: Final = (1 << _HALF) - 1

_SMALL: Final = 1 << 20
"""The squares of two million smaller amounts are below 2**62 together; no row holds as many."""

# a tile's record of words, as features.tiles writes it
_TILE_WORDS: Final = 9
_TILE_LAST, _TILE_CURRENCY, _TILE_ORDERS, _TILE_TOTAL = 1, 2, 3, 4
_TILE_SQUARES, _TILE_SMALLEST, _TILE_LARGEST = 5, 7, 8

LAST: Final = 0
"""When an order with the order's text was last placed, held or folded, in whatever window; NEVER for never.

To this question and to the next three NEVER is also the answer where the order does not say the text."""
LAST_HELD: Final = 1
"""The same of the window's held orders."""
ORDERS_WITH: Final = 2
"""How many of the window's held orders have the text, and then how many have another known one."""
ORDERS_WITH_ANOTHER: Final = 3
DIFFERENT: Final = 4
"""How many known, different texts the window's orders have."""
AT_LEAST: Final = 5
"""Of how many of its held orders a number is known and at least the question's; then, of how many smaller."""
BELOW: Final = 6
AS_LARGE: Final = 7
"""How many of its held orders are in the currency that was asked for and have the order's amount or more."""
NEAR: Final = 8
"""How many of its held orders were placed within the question's microseconds of the order's time of day."""

_DAY: Final = 86_400_000_000
_WORD: Final = 8

# what is said of a column before the words of all
_HEAD_WORDS: Final = 4
_POSITION, _VOCABULARY, _CODES, _USED_WORDS = 0, 1, 2, 3

_LARGEST: Final = 2**63 - 1

Answers = list[int]
"""Those to some questions, or of them what is in one window, at the places above."""

Answered = np.ndarray[tuple[int], np.dtype[np.int64]]
"""The same as they come, of 64 bits each; a list's numbers can be counted on beyond these."""

_MICROSECOND = timedelta(microseconds=1)


class Span(NamedTuple):
    """The window [as_of - after - over, as_of - after), in microseconds; `over` None begins with time."""

    over: int | None
    after: int = 0


EVER: Final = Span(None)


def span(over: timedelta | None, after: timedelta | None = None) -> Span:
    """The window of these durations."""
    return Span(None if over is None else over // _MICROSECOND, 0 if after is None else after // _MICROSECOND)


def total_of(answers: Answers | Answered, at: int = 0) -> int:
    """The total of the amounts in the currency that was asked for, of the window at a place."""
    return int(answers[at + _TOTAL]) << _BITS | int(answers[at + _TOTAL + 1])


def squares_of(answers: Answers | Answered, at: int = 0) -> int:
    """The total of their squares."""
    return int(answers[at + _SQUARES]) << _BITS | int(answers[at + _SQUARES + 1])


class Question(NamedTuple):
    """One question about the orders in a window, which one number answers."""

    ask: int
    """One of LAST to NEAR."""
    what: str
    """Which of VALUES or NUMBERS it is about; "" for times and amounts."""
    window: Span
    number: int = 0
    """What past orders are compared with, where the order being scored does not say it."""


class Questions:
    """What a history is asked together: about windows, about numbers in them, and single questions.

    The answers are one list: whether those to the single questions are exact, then what is in each window,
    then what held orders say of each number, as if it were their amount, then those to the single questions.
    """

    __slots__ = ("_asked", "_loops", "_size", "columns", "numbers", "single", "windows")

    def __init__(
        self,
        windows: Sequence[Span] = (),
        single: Sequence[Question] = (),
        numbers: Sequence[tuple[str, Span]] = (),
    ) -> None:
        # those that end together behind one another, the shorter first: each is a part of the next
        spans = sorted(
            {*windows, *(each.window for each in single), *(window for _, window in numbers)},
            key=_after_and_over,
        )
        single, numbers = tuple(dict.fromkeys(single)), tuple(dict.fromkeys(numbers))
        first_number = 1 + WINDOW * len(spans)
        first_single = first_number + WINDOW * len(numbers)
        self.windows = {each: 1 + WINDOW * at for at, each in enumerate(spans)}
        """Where each window's answers begin."""
        self.numbers = {each: first_number + WINDOW * at for at, each in enumerate(numbers)}
        """Where the answers about each number in a window begin; IS_CUT is 1 where some of it is folded."""
        self.single = {each: first_single + at for at, each in enumerate(single)}
        """Where the answer to each single question stands."""
        asked_of = ("currency", *(what for what, _ in numbers), *(each.what for each in single if each.what))
        self.columns = tuple(COLUMN_OF[what] for what in dict.fromkeys(asked_of))
        """The columns that are looked into."""
        asked = [COLUMN_OF["currency"], len(COLUMN_OF), len(spans), len(numbers)]
        for each in spans:
            asked += _after_and_over(each)
        for what, window in numbers:
            asked += (COLUMN_OF[what], spans.index(window))
        for question in single:
            column = COLUMN_OF[question.what or "currency"]
            asked += (question.ask, column, spans.index(question.window), min(question.number, _LARGEST))
        self._asked = np.array(asked, np.int64)
        self._size = first_single + len(single)
        self._loops = _compiled()

    def answer(  # noqa: PLR0917 - numba's functions take bytes and numbers, not objects
        self,
        times: bytes,
        amounts: bytes,
        tiles: bytes,
        folded: int,
        as_of: int,
        words: bytes,
        codes: bytes,
        amount: int,
        placed_at: int,
    ) -> Answered:
        """What a row with these bytes answers an order of this amount and instant.

        `folded` is how many orders should be in the tiles. `words` begin with what the order says, as `told`
        has it, and then with what all held orders say. Next is how many columns are told of: those of
        `columns` in which orders differ, or of which folded ones are known. Next are, of each, its position,
        how many words its vocabulary has (none where all say the same), how many bytes its codes, and how
        many words tell when folded orders last used which text. Last are the vocabularies, each followed by
        these words. `codes` are those of all these columns.
        """
        answers = np.empty(self._size, np.int64)
        self._loops(
            times, amounts, tiles, folded, as_of, words, codes, amount, placed_at, self._asked, answers
        )
        return answers


def _after_and_over(window: Span) -> tuple[int, int]:
    return window.after, _LOWER if window.over is None else window.over


# What numba compiles --------------------------------------------------------------------------------


def _first_from(times: Any, at: int, low: int, high: int) -> int:
    """Where, from low to high, the first of the times at or after an instant stands."""
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


def _add_orders(  # noqa: PLR0917 - numba's functions take arrays and numbers, not objects
    window: Any, amounts: Any, codes: Any, width: int, code: int, start: int, end: int
) -> None:
    """Add the orders held from start to end, of those that have the code."""
    if width == 0:
        largest: Any = np.int64(0)
        for where in range(start, end):
            largest = max(largest, np.int64(amounts[where]))
        if largest < _SMALL:
            _add_small(window, amounts, start, end, largest)
            return
    count, smallest, largest = window[COUNT], window[SMALLEST], window[LARGEST]
    total_upper, total = window[_TOTAL], window[_TOTAL + 1]
    squares_upper, squares = window[_SQUARES], window[_SQUARES + 1]
    for where in range(start, end):
        if width > 0 and _code_at(codes, width, where) != code:
            continue
        amount = np.int64(amounts[where])
        smallest = amount if count == 0 else min(smallest, amount)
        largest = max(largest, amount)
        count += 1
        total += amount
        total_upper += total >> _BITS
        total &= _LOWER
        upper, lower = amount >> _HALF, amount & _LOWER_HALF
        squares += lower * lower
        if upper > 0:
            # the carry first: three such numbers are more than 64 bits hold
            squares_upper += squares >> _BITS
            squares &= _LOWER
            twice = 2 * upper * lower
            squares_upper += upper * upper + (twice >> _HALF)
            squares += (twice & _LOWER_HALF) << _HALF
        squares_upper += squares >> _BITS
        squares &= _LOWER
    window[COUNT], window[SMALLEST], window[LARGEST] = count, smallest, largest
    window[_TOTAL], window[_TOTAL + 1] = total_upper, total
    window[_SQUARES], window[_SQUARES + 1] = squares_upper, squares


def _add_small(window: Any, amounts: Any, start: int, end: int, largest: Any) -> None:
    """Add these orders, none of them larger than the largest, whose squares 62 bits hold together."""
    smallest = largest
    total = squares = np.int64(0)
    for where in range(start, end):
        amount = np.int64(amounts[where])
        smallest = min(smallest, amount)
        total += amount
        squares += amount * amount
    if start < end:
        window[SMALLEST] = smallest if window[COUNT] == 0 else min(smallest, window[SMALLEST])
        window[LARGEST] = max(largest, window[LARGEST])
        window[COUNT] += end - start
        total += window[_TOTAL + 1]
        window[_TOTAL] += total >> _BITS
        window[_TOTAL + 1] = total & _LOWER
        squares += window[_SQUARES + 1]
        window[_SQUARES] += squares >> _BITS
        window[_SQUARES + 1] = squares & _LOWER


def _add_numbers(  # noqa: PLR0917
    window: Any, vocabulary: Any, codes: Any, width: int, start: int, end: int
) -> None:
    """Add the known numbers of the orders held from start to end, as if they were amounts."""
    numbers = np.empty(end - start, np.int64)
    known = 0
    for where in range(start, end):
        number = vocabulary[_code_at(codes, width, where)]
        if number != 0:
            numbers[known] = number - 1
            known += 1
    _add_orders(window, numbers, codes, 0, 0, 0, known)


def _find_tiles(window: Any, tiles: Any, since: int, until: int) -> None:
    """Find the entries of the tiles that end before the window does and whose middle lies in it."""
    entries, lasts = len(tiles), tiles[:, _TILE_LAST]
    high = _first_from(lasts, until, 0, entries)
    low = first = _first_from(lasts, since, 0, entries)
    # of the others only the tile in which the instant lies may have its middle before it
    while low < entries and (tiles[low, 0] + tiles[low, _TILE_LAST]) >> 1 < since:
        low += 1
    window[LOW], window[HIGH] = min(low, high), high
    if (first < entries and tiles[first, 0] < since) or (high < entries and tiles[high, 0] < until):
        window[IS_CUT] = 1


def _add_tiles(window: Any, tiles: Any, currency: int) -> None:
    """Add the entries of the window's tiles."""
    for entry in range(window[LOW], window[HIGH]):
        tile = tiles[entry]
        window[ORDERS] += tile[_TILE_ORDERS]
        if tile[_TILE_CURRENCY] != currency:
            continue
        if window[COUNT] == 0:
            window[SMALLEST] = tile[_TILE_SMALLEST]
        window[COUNT] += tile[_TILE_ORDERS]
        window[SMALLEST] = min(window[SMALLEST], tile[_TILE_SMALLEST])
        window[LARGEST] = max(window[LARGEST], tile[_TILE_LARGEST])
        total = window[_TOTAL + 1] + (tile[_TILE_TOTAL] & _LOWER)
        window[_TOTAL] += (tile[_TILE_TOTAL] >> _BITS) + (total >> _BITS)
        window[_TOTAL + 1] = total & _LOWER
        # these are written as an upper number and a lower one of 63 bits
        upper, lower = tile[_TILE_SQUARES], tile[_TILE_SQUARES + 1]
        squares = window[_SQUARES + 1] + (lower & _LOWER)
        window[_SQUARES] += 2 * upper + (lower >> _BITS) + (squares >> _BITS)
        window[_SQUARES + 1] = squares & _LOWER


def _code_at(codes: Any, width: int, where: int) -> Any:
    """The code of an order, in a column whose codes are so many bytes wide; 0 where there are none."""
    if width == 1:
        return np.int64(codes[where])
    code = np.int64(0)
    for byte in range(width):
        code |= np.int64(codes[where * width + byte]) << (8 * byte)
    return code


def _last_with(codes: Any, width: int, code: int, start: int, end: int) -> int:
    """Where the last order from start to end with this code stands; -1 without one."""
    for where in range(end - 1, start - 1, -1):
        if _code_at(codes, width, where) == code:
            return where
    return -1


def _position(words: Any, word: int) -> int:
    """Where a word stands; -1 for nowhere."""
    for at in range(len(words)):
        if words[at] == word:
            return at
    return -1


def _last_used(used: Any, text: int) -> Any:
    """When a folded order last had the text; NEVER where that is not known."""
    for at in range(0, len(used), 2):
        if used[at] == text:
            return used[at + 1]
    return NEVER


def _different(  # noqa: PLR0917
    vocabulary: Any, codes: Any, width: int, start: int, end: int, used: Any, since: int, until: int
) -> int:
    """How many different, known texts the orders from start to end have, or folded ones last had then."""
    has = np.zeros(len(vocabulary), np.uint8)
    if width == 1:
        for where in range(start, end):
            has[codes[where]] = 1
    elif width == 0:
        has[0] = start < end
    else:
        for where in range(start, end):
            has[_code_at(codes, width, where)] = 1
    different = 0
    for code in range(len(vocabulary)):
        if has[code] and vocabulary[code] != 0:
            different += 1
    for at in range(0, len(used), 2):
        if since <= used[at + 1] < until:
            code = _position(vocabulary, used[at])
            if code < 0 or has[code] == 0:
                different += 1
    return different


def _count_where(  # noqa: PLR0917
    ask: int, mine: int, number: int, vocabulary: Any, codes: Any, width: int, start: int, end: int
) -> Any:
    """How many of the orders from start to end say what is asked for; each word is looked at once."""
    counts = np.zeros(len(vocabulary), np.uint8)
    for at in range(len(vocabulary)):
        said = vocabulary[at]
        if ask == ORDERS_WITH:
            counts[at] = said == mine
        elif ask == ORDERS_WITH_ANOTHER:
            counts[at] = 0 != said != mine
        elif ask == AT_LEAST:  # a known number is kept one larger
            counts[at] = said > number
        else:
            counts[at] = 0 < said <= number
    if width == 0:
        return (end - start) * np.int64(counts[0])
    count = np.int64(0)
    for where in range(start, end):
        count += counts[_code_at(codes, width, where)]
    return count


def _count_as_large(  # noqa: PLR0917
    amounts: Any, least: int, codes: Any, width: int, code: int, start: int, end: int
) -> Any:
    """How many of the orders from start to end have the code, and this amount at least."""
    count = np.int64(0)
    for where in range(start, end):
        if amounts[where] >= least and _code_at(codes, width, where) == code:
            count += 1
    return count


def _count_near(times: Any, at: int, near: int, start: int, end: int) -> Any:
    """How many of the orders from start to end were placed so near to an instant's time of day."""
    count = np.int64(0)
    for where in range(start, end):
        later = (at - times[where]) % _DAY
        if later <= near or later >= _DAY - near:
            count += 1
    return count


def _column(words: Any, codes: Any, columns: int, position: int) -> Any:
    """A column's vocabulary, its codes, and when folded orders last used which text."""
    same = columns + position
    head, first_word, first_code = (
        2 * columns,
        2 * columns + 1 + _HEAD_WORDS * words[2 * columns],
        np.int64(0),
    )
    for at in range(head + 1, head + 1 + _HEAD_WORDS * words[head], _HEAD_WORDS):
        first_used = first_word + words[at + _VOCABULARY]
        next_word, next_code = first_used + words[at + _USED_WORDS], first_code + words[at + _CODES]
        if words[at + _POSITION] == position:
            if first_word == first_used:
                return words[same : same + 1], codes[:0], words[first_used:next_word]
            return words[first_word:first_used], codes[first_code:next_code], words[first_used:next_word]
        first_word, first_code = next_word, next_code
    return words[same : same + 1], codes[:0], words[:0]


def _answer_numbers(  # noqa: PLR0917
    orders: int, words: Any, all_codes: Any, columns: int, numbers: Any, windows: Any, answers: Any
) -> None:
    """Answer what the held orders of windows say of numbers."""
    for at in range(len(numbers)):
        answer, window = answers[at], windows[numbers[at, 1]]
        answer[:] = 0
        answer[SMALLEST] = answer[LARGEST] = -1
        answer[IS_CUT] = window[IS_CUT] or window[HIGH] > window[LOW]
        vocabulary, codes, _ = _column(words, all_codes, columns, numbers[at, 0])
        width = len(codes) // max(orders, 1)
        _add_numbers(answer, vocabulary, codes, width, window[START], window[END])


def _answer_single(  # noqa: PLR0917
    times: Any,
    amounts: bytes,
    held: int,
    as_of: int,
    folded: int,
    has_dropped: bool,
    words: Any,
    all_codes: Any,
    columns: int,
    amount: int,
    placed_at: int,
    spans: Any,
    single: Any,
    windows: Any,
    answers: Any,
) -> int:
    """Answer the single questions; 1 where all answers are exact."""
    are_exact = 1
    for at in range(len(single)):
        ask, column, number = single[at, 0], single[at, 1], single[at, 3]
        window, after, over = windows[single[at, 2]], spans[single[at, 2], 0], spans[single[at, 2], 1]
        start, end = window[START], window[END]
        mine = words[column]
        vocabulary, codes, used = _column(words, all_codes, columns, column)
        width = len(codes) // max(len(times), 1)
        # of the longer past of some texts nothing is known
        is_short = has_dropped or len(used) >= 2 * USED

        if ask == DIFFERENT:
            if start > 0 or folded == 0:
                answers[at] = _different(vocabulary, codes, width, start, end, used[:0], 0, 0)
                continue
            until = as_of - after
            answers[at] = _different(vocabulary, codes, width, start, end, used, until - over, until)
            # the newest use is the first; what was used before it, in the window, is not known
            if is_short or (len(used) > 0 and used[1] >= until):
                are_exact = 0
            continue
        if ask <= ORDERS_WITH_ANOTHER:
            answers[at] = NEVER
            if mine == 0:
                continue
        if ask == LAST:
            where = _last_with(codes, width, _position(vocabulary, mine), 0, held)
            if where >= 0:
                answers[at] = times[where]
            elif folded > 0:
                last = _last_used(used, mine)
                if last < as_of:
                    answers[at] = last
                if last >= as_of or (last == NEVER and is_short):
                    are_exact = 0
            continue
        if window[IS_CUT] or window[HIGH] > window[LOW]:
            are_exact = 0
        if ask == LAST_HELD:
            where = _last_with(codes, width, _position(vocabulary, mine), start, end)
            if where >= 0:
                answers[at] = times[where]
        elif ask == NEAR:
            answers[at] = _count_near(times, placed_at, number, start, end)
        elif ask == AS_LARGE:
            code = _position(vocabulary, mine)
            if len(amounts) == _WORD * len(times):
                large = np.frombuffer(amounts, np.int64)
                answers[at] = _count_as_large(large, amount, codes, width, code, start, end)
            else:
                small = np.frombuffer(amounts, np.uint32)
                answers[at] = _count_as_large(small, amount, codes, width, code, start, end)
        else:
            answers[at] = _count_where(ask, mine, number, vocabulary, codes, width, start, end)
    return are_exact


def _answer(  # noqa: PLR0917
    times: bytes,
    amounts: bytes,
    tiles: bytes,
    folded: int,
    as_of: int,
    columns_words: bytes,
    columns_codes: bytes,
    amount: int,
    placed_at: int,
    asked: Any,
    answers: Any,
) -> None:
    """Questions.answer, into an array."""
    currency_column, columns, count, first_number = asked[0], asked[1], asked[2], 4 + 2 * asked[2]
    first_single = first_number + 2 * asked[3]
    spans = asked[4:first_number].reshape(-1, 2)
    numbers, single = asked[first_number:first_single].reshape(-1, 2), asked[first_single:].reshape(-1, 4)
    told = answers[1 : 1 + WINDOW * (count + len(numbers))].reshape(-1, WINDOW)
    windows = told[:count]
    placed = np.frombuffer(times, np.int64)
    tiled = np.frombuffer(tiles, np.int64).reshape(-1, _TILE_WORDS)
    held = _first_from(placed, as_of, 0, len(placed))
    has_dropped = folded > tiled[:, _TILE_ORDERS].sum()
    words, all_codes = np.frombuffer(columns_words, np.int64), np.frombuffer(columns_codes, np.uint8)
    currency = words[currency_column]
    currencies, codes, _ = _column(words, all_codes, columns, currency_column)
    code, width = _position(currencies, currency), len(codes) // max(len(placed), 1)
    for at in range(count):
        window, after = windows[at], spans[at, 0]
        until = as_of - after
        if at > 0 and spans[at - 1, 0] == after:
            window[:] = windows[at - 1]
            done, end = window[START], window[END]
        else:
            window[:] = 0
            window[SMALLEST] = window[LARGEST] = -1
            done = end = _first_from(placed, until, 0, len(placed))
        start = _first_from(placed, until - spans[at, 1], 0, done)
        window[START], window[END], window[ORDERS] = start, end, end - start
        if code >= 0:
            if len(amounts) == len(times):
                _add_orders(window, np.frombuffer(amounts, np.int64), codes, width, code, start, done)
            else:
                _add_orders(window, np.frombuffer(amounts, np.uint32), codes, width, code, start, done)
    if folded > 0:
        # last, because a window goes on where the one before it began: with its tiles they would be twice
        for at in range(count):
            window, until = windows[at], as_of - spans[at, 0]
            if window[START] == 0:
                window[IS_CUT] = has_dropped
                _find_tiles(window, tiled, until - spans[at, 1], until)
                _add_tiles(window, tiled, currency)
    _answer_numbers(len(placed), words, all_codes, columns, numbers, windows, told[count:])
    answers[0] = _answer_single(
        placed,
        amounts,
        held,
        as_of,
        folded,
        has_dropped,
        words,
        all_codes,
        columns,
        amount,
        placed_at,
        spans,
        single,
        windows,
        answers[1 + WINDOW * (count + len(numbers)) :],
    )


_CALLED: Final = (
    _first_from,
    _add_small,
    _add_orders,
    _find_tiles,
    _add_tiles,
    _code_at,
    _last_with,
    _position,
    _last_used,
    _different,
    _count_where,
    _count_as_large,
    _count_near,
    _column,
    _add_numbers,
    _answer_numbers,
    _answer_single,
)


@cache
def _compiled() -> Callable[..., None]:
    try:
        import numba.extending  # noqa: PLC0415 - half a second that only who asks a history should pay
    except (ImportError, OSError):  # OSError: its compiler library does not load on this machine
        return _answer

    for each in _CALLED:
        numba.extending.register_jitable(each)  # so that the loops may call it
    raw, number = numba.types.Bytes(numba.uint8, 1, "C"), numba.int64
    numbers = numba.int64[::1]
    # with its signature, so that it is compiled here and not while the first order waits
    signature = numba.void(*(raw, raw, raw, number, number, raw, raw, number, number, numbers, numbers))
    try:
        compiled: Callable[..., None] = numba.njit(signature, cache=True)(_answer)
    except (RuntimeError, OSError):  # no room to keep it: compiled again by each program
        compiled = numba.njit(signature)(_answer)
    return compiled
