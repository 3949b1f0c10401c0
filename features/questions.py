"""What a history is asked, many questions at once: what its windows hold, and when a text was last there.

All is told in one pass over a row's bytes, from the newest order back: where a window begins, the next longer
one only goes on. The loops are plain Python that numba compiles; where numba cannot be imported they run as
they are, slowly, with the same answers. Sums may outgrow 64 bits: they are an upper and a lower number, of
which the lower has 62 bits.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from features.remembered import COLUMN_OF

__all__ = [
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
    "NEVER",
    "ORDERS",
    "ORDERS_WITH",
    "SMALLEST",
    "START",
    "USED",
    "WINDOW",
    "Answers",
    "Questions",
    "Span",
    "Text",
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
"""When an order with the text was last placed, held or folded, in whatever window; NEVER for never."""
LAST_HELD: Final = 1
"""The same of the window's held orders."""
ORDERS_WITH: Final = 2
"""How many of the window's held orders have the text."""
DIFFERENT: Final = 3
"""How many known, different texts the window's orders have."""

# what is said of a column before its words
_HEAD_WORDS: Final = 4
_TEXT, _VOCABULARY, _CODES, _USED_WORDS = 0, 1, 2, 3

Answers = list[int]
"""Those to some questions, or of them what is in one window, at the places above."""

_MICROSECOND = timedelta(microseconds=1)


class Span(NamedTuple):
    """The window [as_of - after - over, as_of - after), in microseconds; `over` None begins with time."""

    over: int | None
    after: int = 0


EVER: Final = Span(None)


def span(over: timedelta | None, after: timedelta | None = None) -> Span:
    """The window of these durations."""
    return Span(None if over is None else over // _MICROSECOND, 0 if after is None else after // _MICROSECOND)


def total_of(answers: Answers, at: int = 0) -> int:
    """The total of the amounts in the currency that was asked for, of the window at a place."""
    return answers[at + _TOTAL] << _BITS | answers[at + _TOTAL + 1]


def squares_of(answers: Answers, at: int = 0) -> int:
    """The total of their squares."""
    return answers[at + _SQUARES] << _BITS | answers[at + _SQUARES + 1]


class Text(NamedTuple):
    """A question about one of VALUES in a window."""

    ask: int
    """LAST, LAST_HELD, ORDERS_WITH or DIFFERENT."""
    what: str
    window: Span


class Questions:
    """What a history is asked together: about windows, and about texts in them.

    The answers are one list: whether those about texts are exact, then what is in each window, then those
    about texts.
    """

    __slots__ = ("_asked", "_loops", "_size", "columns", "head", "texts", "windows")

    def __init__(self, windows: Iterable[Span], texts: Sequence[Text] = ()) -> None:
        # those that end together behind one another, the shorter first: each is a part of the next
        spans = sorted({*windows, *(each.window for each in texts)}, key=_after_and_over)
        texts = tuple(dict.fromkeys(texts))
        columns = tuple(dict.fromkeys(COLUMN_OF[each.what] for each in texts))
        self.windows = {each: 1 + WINDOW * at for at, each in enumerate(spans)}
        """Where each window's answers begin."""
        self.texts = {each: 1 + WINDOW * len(spans) + at for at, each in enumerate(texts)}
        """Where the answer about each text stands."""
        self.columns = columns
        """The columns that hold the texts."""
        self.head = struct.Struct(f"<{1 + _HEAD_WORDS * len(columns)}q")
        """How many columns there are, and what is said of each of them: see `answer`."""
        asked = [len(spans), *(number for each in spans for number in _after_and_over(each))]
        for each in texts:
            asked += (each.ask, columns.index(COLUMN_OF[each.what]), spans.index(each.window))
        self._asked = np.array(asked, np.int64)
        self._size = 1 + WINDOW * len(spans) + len(texts)
        self._loops = _compiled()

    def answer(  # noqa: PLR0917 - numba's functions take bytes and numbers, not objects
        self,
        times: bytes,
        amounts: bytes,
        codes: bytes,
        code: int,
        tiles: bytes,
        folded: int,
        as_of: int,
        currency: int,
        column_words: bytes,
        column_codes: bytes,
    ) -> Answers:
        """What a row with these bytes answers.

        `folded` is how many orders should be in the tiles. Of the orders held those are in the currency whose
        code is `code`; without `codes` all of them if `code` is 0, and else none. `column_words` begins with
        `head`, which says of each column: the text asked about (UNKNOWN for none), how many words its
        vocabulary has, how many bytes its codes, and how many words tell when folded orders last used which
        text. Behind it are the vocabularies, each followed by these words. `column_codes` are the codes of
        all columns.
        """
        answers = np.empty(self._size, np.int64)
        self._loops(
            times,
            amounts,
            codes,
            code,
            tiles,
            folded,
            as_of,
            currency,
            column_words,
            column_codes,
            self._asked,
            answers,
        )
        told: Answers = answers.tolist()
        return told


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
    window: Any, amounts: Any, codes: Any, code: int, start: int, end: int
) -> None:
    """Add the orders held from start to end, of those that are in the currency."""
    if len(codes) == 0:
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
        if len(codes) > 0 and codes[where] != code:
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


def _answer_texts(  # noqa: PLR0917
    times: Any,
    held: int,
    as_of: int,
    folded: int,
    has_dropped: bool,
    column_words: Any,
    column_codes: Any,
    spans: Any,
    texts: Any,
    windows: Any,
    answers: Any,
) -> int:
    """Answer the questions about texts; 1 where all answers are exact."""
    are_exact = 1
    behind_head = 1 + _HEAD_WORDS * column_words[0]
    for at in range(len(texts)):
        ask, column = texts[at, 0], 1 + _HEAD_WORDS * texts[at, 1]
        window, after, over = windows[texts[at, 2]], spans[texts[at, 2], 0], spans[texts[at, 2], 1]
        first_word, first_code = behind_head, 0
        for before in range(1, column, _HEAD_WORDS):
            first_word += column_words[before + _VOCABULARY] + column_words[before + _USED_WORDS]
            first_code += column_words[before + _CODES]
        text = column_words[column + _TEXT]
        first_used = first_word + column_words[column + _VOCABULARY]
        vocabulary = column_words[first_word:first_used]
        used = column_words[first_used : first_used + column_words[column + _USED_WORDS]]
        codes = column_codes[first_code : first_code + column_words[column + _CODES]]
        width = len(codes) // max(len(times), 1)
        # of the longer past of some texts nothing is known
        is_short = has_dropped or len(used) >= 2 * USED

        if ask == DIFFERENT:
            start, end = window[START], window[END]
            if start > 0 or folded == 0:
                answers[at] = _different(vocabulary, codes, width, start, end, used[:0], 0, 0)
                continue
            until = as_of - after
            answers[at] = _different(vocabulary, codes, width, start, end, used, until - over, until)
            # the newest use is the first; what was used before it, in the window, is not known
            if is_short or (len(used) > 0 and used[1] >= until):
                are_exact = 0
            continue
        answers[at] = 0 if ask == ORDERS_WITH else NEVER
        if text == 0:
            continue
        code = _position(vocabulary, text)
        if ask == LAST:
            where = _last_with(codes, width, code, 0, held)
            if where >= 0:
                answers[at] = times[where]
            elif folded > 0:
                last = _last_used(used, text)
                if last < as_of:
                    answers[at] = last
                if last >= as_of or (last == NEVER and is_short):
                    are_exact = 0
            continue
        if window[IS_CUT] or window[HIGH] > window[LOW]:
            are_exact = 0
        if ask == LAST_HELD:
            where = _last_with(codes, width, code, window[START], window[END])
            if where >= 0:
                answers[at] = times[where]
        elif width == 0:
            answers[at] = window[END] - window[START] if code == 0 else 0
        else:
            for where in range(window[START], window[END]):
                if _code_at(codes, width, where) == code:
                    answers[at] += 1
    return are_exact


def _answer(  # noqa: PLR0917
    times: bytes,
    amounts: bytes,
    codes: bytes,
    code: int,
    tiles: bytes,
    folded: int,
    as_of: int,
    currency: int,
    column_words: bytes,
    column_codes: bytes,
    asked: Any,
    answers: Any,
) -> None:
    """Questions.answer, into an array."""
    count = asked[0]
    spans, texts = asked[1 : 1 + 2 * count].reshape(-1, 2), asked[1 + 2 * count :].reshape(-1, 3)
    windows = answers[1 : 1 + WINDOW * count].reshape(-1, WINDOW)
    placed_at = np.frombuffer(times, np.int64)
    tiled = np.frombuffer(tiles, np.int64).reshape(-1, _TILE_WORDS)
    held = _first_from(placed_at, as_of, 0, len(placed_at))
    has_dropped = folded > tiled[:, _TILE_ORDERS].sum()
    for at in range(len(windows)):
        window, after = windows[at], spans[at, 0]
        until = as_of - after
        if at > 0 and spans[at - 1, 0] == after:
            window[:] = windows[at - 1]
            done, end = window[START], window[END]
        else:
            window[:] = 0
            window[SMALLEST] = window[LARGEST] = -1
            done = end = _first_from(placed_at, until, 0, len(placed_at))
        start = _first_from(placed_at, until - spans[at, 1], 0, done)
        window[START], window[END], window[ORDERS] = start, end, end - start
        if code >= 0:
            if len(amounts) == len(times):
                _add_orders(window, np.frombuffer(amounts, np.int64), codes, code, start, done)
            else:
                _add_orders(window, np.frombuffer(amounts, np.uint32), codes, code, start, done)
    if folded > 0:
        # last, because a window goes on where the one before it began: with its tiles they would be twice
        for at in range(len(windows)):
            window, until = windows[at], as_of - spans[at, 0]
            if window[START] == 0:
                window[IS_CUT] = has_dropped
                _find_tiles(window, tiled, until - spans[at, 1], until)
                _add_tiles(window, tiled, currency)
    answers[0] = 1
    if len(texts) > 0:
        answers[0] = _answer_texts(
            placed_at,
            held,
            as_of,
            folded,
            has_dropped,
            np.frombuffer(column_words, np.int64),
            np.frombuffer(column_codes, np.uint8),
            spans,
            texts,
            windows,
            answers[1 + WINDOW * count :],
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
    _answer_texts,
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
    signature = numba.void(raw, raw, raw, number, raw, number, number, number, raw, raw, numbers, numbers)
    try:
        compiled: Callable[..., None] = numba.njit(signature, cache=True)(_answer)
    except (RuntimeError, OSError):  # no room to keep it: compiled again by each program
        compiled = numba.njit(signature)(_answer)
    return compiled
