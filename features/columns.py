"""Columns of small codes: the values that occur, in order of their first use, and one code for each order.

Counting the orders with one value is counting a byte, and the different ones of a slice are a set of bytes.
"""

import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache

__all__ = [
    "WORD",
    "Column",
    "Varying",
    "all_fit",
    "both",
    "code_of",
    "codes_of",
    "different",
    "either",
    "fits",
    "inserted",
    "last_known",
    "lengthened",
    "mask_of",
    "mask_where",
    "neither",
    "only",
    "packed",
    "parted",
    "values_between",
    "values_of",
    "word",
    "words",
]

WORD = 8
"""Bytes of a number."""

Varying = tuple[bytes, bytes]
"""The values in order of their first use, and a code for each order."""

Column = bytes | Varying
"""The word that all orders say, or what each of them does."""

_CODES_A_BYTE = 256
_CODES_A_WORD = 65_536
_BYTES = bytes(range(_CODES_A_BYTE))
_BYTE = [bytes((code,)) for code in _BYTES]
_NUMBER = struct.Struct("<q")
_NO_WORD = bytes(WORD)
"""What says nothing."""
_FEW_CODES = {WORD * known: _BYTES[:known] for known in range(1, _CODES_A_BYTE + 1)}
"""The codes that there are, by the length of their vocabulary."""


def words(raw: bytes) -> tuple[int, ...]:
    """The numbers in the bytes."""
    return struct.unpack(f"<{len(raw) // WORD}q", raw)


def word(value: int) -> bytes:
    """The number as a word."""
    return _NUMBER.pack(value)


def code_of(vocabulary: bytes, value: bytes) -> int:
    """Where the word stands in the vocabulary; -1 where it does not."""
    where = vocabulary.find(value)
    while where > 0 and where % WORD:
        where = vocabulary.find(value, where + 1)
    return where // WORD


def codes_of(column: Varying, held: int) -> bytes | memoryview:
    """The codes of a column, one for each order."""
    codes = column[1]
    width = len(codes) // held
    return codes if width == 1 else memoryview(codes).cast("H" if width == 2 else "I")


def values_of(column: Column, held: int) -> list[int]:
    """The value of each order."""
    return values_between(column, held, 0, held)


def values_between(column: Column, held: int, start: int, end: int) -> list[int]:
    """The value of each order from start to end."""
    if isinstance(column, bytes):
        return [*words(column)] * (end - start)
    known = words(column[0])
    return [known[code] for code in codes_of(column, held)[start:end]]


def last_known(column: Column, held: int, end: int) -> tuple[int, int] | None:
    """The last known value of the orders before end, and where it stands; None where none is known."""
    if isinstance(column, bytes):
        return None if end == 0 or column == _NO_WORD else (*_NUMBER.unpack(column), end - 1)
    vocabulary, codes = column[0], codes_of(column, held)
    for where in range(end - 1, -1, -1):
        (value,) = _NUMBER.unpack_from(vocabulary, WORD * codes[where])
        if value:
            return value, where
    return None


def different(column: Column, held: int, start: int, end: int) -> set[int]:
    """The different values of the orders from start to end."""
    if start == end:
        return set()
    if isinstance(column, bytes):
        return {*words(column)}
    known = words(column[0])
    return {known[code] for code in set(codes_of(column, held)[start:end])}


def mask_where(column: Column, held: int, counts: Callable[[int], bool], start: int, end: int) -> bytes:
    """For each order from start to end: 1 if its value counts, else 0; each value is asked about once."""
    if isinstance(column, bytes):
        return (b"\1" if counts(words(column)[0]) else b"\0") * (end - start)
    table = bytes(map(counts, words(column[0])))
    codes = codes_of(column, held)[start:end]
    if isinstance(codes, bytes):
        return codes.translate(table.ljust(_CODES_A_BYTE, b"\0"))
    return bytes([table[code] for code in codes])


def mask_of(column: Column, held: int, value: bytes, start: int, end: int) -> bytes:
    """For each order from start to end: 1 if it says the word, else 0."""
    if isinstance(column, bytes):
        return (b"\1" if column == value else b"\0") * (end - start)
    code = code_of(column[0], value)
    if code < 0:
        return bytes(end - start)
    codes = codes_of(column, held)[start:end]
    if isinstance(codes, bytes):
        return codes.translate(only(code))
    return bytes([each == code for each in codes])


def packed(values: Sequence[int]) -> Column:
    """The column of these values, the same for the same values."""
    vocabulary = dict.fromkeys(values)
    if len(vocabulary) <= 1:
        return word(values[0]) if values else _NO_WORD
    return _varying(values, vocabulary)


def _varying(values: Sequence[int], vocabulary: Collection[int]) -> Varying:
    code = {value: position for position, value in enumerate(vocabulary)}
    codes = _coded(map(code.__getitem__, values), len(vocabulary))
    return struct.pack(f"<{len(vocabulary)}q", *vocabulary), codes


def _coded(codes: Iterable[int], vocabulary: int) -> bytes:
    if vocabulary <= _CODES_A_BYTE:
        return bytes(codes)
    return array("H" if vocabulary <= _CODES_A_WORD else "I", codes).tobytes()


def lengthened(column: Varying, held: int, value: bytes) -> Varying:
    """The column with one more order at its end, which says these eight bytes."""
    vocabulary, codes = column
    where = vocabulary.find(value)
    code = where // WORD if where < 0 or where % WORD == 0 else code_of(vocabulary, value)
    if code < 0:
        code = len(vocabulary) // WORD
        vocabulary += value
        if code in (_CODES_A_BYTE, _CODES_A_WORD):
            return vocabulary, _coded([*codes_of(column, held), code], code + 1)
    if len(codes) == held:
        return vocabulary, codes + _BYTE[code]
    return vocabulary, codes + struct.pack("<H" if len(codes) == 2 * held else "<I", code)


def inserted(column: Varying, held: int, where: int, value: bytes) -> Varying:
    """The column with one more order, which says these eight bytes, before the order that stands at `where`.

    It is what `packed` makes of all the values; nearly always without looking at each.
    """
    vocabulary, codes = column
    known, width = len(vocabulary) // WORD, len(codes) // held
    code = code_of(vocabulary, value)
    before = codes[: width * where]
    if code < 0 and known not in (_CODES_A_BYTE, _CODES_A_WORD):
        # the last code stands behind the first use of every other one
        if _occurs(known - 1, before, width):
            return vocabulary + value, before + known.to_bytes(width, "little") + codes[width * where :]
    elif code >= 0 and _occurs(code, before, width):
        return vocabulary, before + code.to_bytes(width, "little") + codes[width * where :]
    values = values_of(column, held)
    values.insert(where, *words(value))
    return _varying(values, dict.fromkeys(values))


def parted(before: bytes, held: int, where: int, value: bytes) -> Varying:
    """The column of orders that all say `before`, with one that says something else inserted at `where`."""
    if where:
        return before + value, bytes(where) + b"\1" + bytes(held - where)
    return value + before, b"\0" + b"\1" * held


def _occurs(code: int, codes: bytes, width: int) -> bool:
    wanted = code.to_bytes(width, "little")
    # from the end: what comes late comes a little late
    where = codes.rfind(wanted)
    while where > 0 and where % width:
        where = codes.rfind(wanted, 0, where + width - 1)
    return where >= 0


@lru_cache(maxsize=_CODES_A_BYTE)
def only(code: int) -> bytes:
    """What translates this code to 1 and every other to 0."""
    return bytes(code) + b"\1" + bytes(_CODES_A_BYTE - 1 - code)


def all_fit(columns: Mapping[int, Varying], same: bytes, held: int) -> bool:
    """Whether these can be columns, beside what all of so many orders say; asked of each row that is read."""
    for position, column in columns.items():
        # as a word there would be taken for what all orders say; where there is none, there is no such column
        if position < 0 or not same.startswith(_NO_WORD, WORD * position):
            return False
        vocabulary, codes = column
        if 0 < held == len(codes) and (valid := _FEW_CODES.get(len(vocabulary))) is not None:
            # as in `fits`; so are nearly all
            if codes.translate(None, valid):
                return False
        elif not fits(column, held):
            return False
    return True


def fits(column: Varying, held: int) -> bool:
    """Whether this can be a column of so many orders: a code for each, and a value for each code."""
    vocabulary, codes = column
    known = len(vocabulary) // WORD
    if not held or len(vocabulary) % WORD:
        return False
    # tables, and no loop over the codes
    if len(codes) == held:
        valid = _FEW_CODES.get(len(vocabulary))
        return valid is not None and not codes.translate(None, valid)
    if len(codes) == 2 * held:
        page, last = divmod(known - 1, _CODES_A_BYTE)
        low, high = codes[0::2], codes[1::2]
        beyond = bytes(last + 1) + b"\1" * (_CODES_A_BYTE - 1 - last)
        return (
            0 < known <= _CODES_A_WORD
            and not high.translate(None, _BYTES[: page + 1])
            and 1 not in both(high.translate(only(page)), low.translate(beyond))
        )
    return len(codes) == 4 * held and all(code < known for code in struct.unpack(f"<{held}I", codes))


def both(one: bytes, other: bytes) -> bytes:
    """The 1s that two masks have in common."""
    together = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return together.to_bytes(len(one), "little")


def either(one: bytes, other: bytes) -> bytes:
    """The 1s of both masks."""
    together = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return together.to_bytes(len(one), "little")


def neither(mask: bytes) -> bytes:
    """A mask's 0s as 1s, and its 1s as 0s."""
    return mask.translate(_ONLY_ZERO)


_ONLY_ZERO = only(0)
