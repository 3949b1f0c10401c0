"""Columns of small codes: the values that occur, in order of their first use, and one code for each order.

Counting the orders with one value is counting a byte, and the different ones of a slice are a set of bytes.
"""

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from features.remembered import UNKNOWN

__all__ = [
    "WORD",
    "Column",
    "Varying",
    "all_fit",
    "both",
    "code_of",
    "codes_of",
    "either",
    "fits",
    "lengthened",
    "neither",
    "only",
    "packed",
    "values_of",
    "words",
]

WORD = 8
"""Bytes of a number."""

Varying = tuple[bytes, bytes]
"""The values in order of their first use, and a code for each order."""

Column = int | Varying
"""What all orders say, or what each of them does."""

_CODES_A_BYTE = 256
_CODES_A_WORD = 65_536
_BYTES = bytes(range(_CODES_A_BYTE))
_BYTE = [bytes((code,)) for code in _BYTES]
_NUMBER = struct.Struct("<q")
_NO_WORD = bytes(WORD)
_FEW_CODES = {WORD * known: _BYTES[:known] for known in range(1, _CODES_A_BYTE + 1)}
"""The codes that there are, by the length of their vocabulary."""


def words(raw: bytes) -> tuple[int, ...]:
    """The numbers in the bytes."""
    return struct.unpack(f"<{len(raw) // WORD}q", raw)


def code_of(vocabulary: bytes, value: int) -> int:
    """Where the value stands in the vocabulary; -1 where it does not."""
    return _code_of(vocabulary, _NUMBER.pack(value))


def _code_of(vocabulary: bytes, wanted: bytes) -> int:
    where = vocabulary.find(wanted)
    while where > 0 and where % WORD:
        where = vocabulary.find(wanted, where + 1)
    return where // WORD


def codes_of(column: Varying, held: int) -> bytes | memoryview:
    """The codes of a column, one for each order."""
    codes = column[1]
    width = len(codes) // held
    return codes if width == 1 else memoryview(codes).cast("H" if width == 2 else "I")


def values_of(column: Column, held: int) -> list[int]:
    """The value of each order."""
    if isinstance(column, int):
        return [column] * held
    known = words(column[0])
    return [known[code] for code in codes_of(column, held)]


def packed(values: Sequence[int]) -> Column:
    """The column of these values, the same for the same values."""
    vocabulary = dict.fromkeys(values)
    if len(vocabulary) <= 1:
        return values[0] if values else UNKNOWN
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
    code = where // WORD if where % WORD == 0 else _code_of(vocabulary, value)
    if code < 0:
        code = len(vocabulary) // WORD
        vocabulary += value
        if code in (_CODES_A_BYTE, _CODES_A_WORD):
            return vocabulary, _coded([*codes_of(column, held), code], code + 1)
    if len(codes) == held:
        return vocabulary, codes + _BYTE[code]
    return vocabulary, codes + struct.pack("<H" if len(codes) == 2 * held else "<I", code)


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
        if not fits(column, held):
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
