"""The last record of a key in a part of a log, without reading all of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from stream.ports import Record

__all__ = ["last_with"]

_BACK: Final = (64, 4_096, None)
"""How many offsets before its end a log is searched for a key's last record; None is all of it."""


def last_with(
    key: bytes,
    read: Callable[[int, int], Iterable[Sequence[Record]]],
    low: int,
    end: int,
    *,
    sound: Callable[[bytes], bool] = bool,
) -> Record | None:
    """The last record with this key in [low, end) whose value is one and is `sound`; None without one."""
    for back in _BACK:
        start = low if back is None else max(low, end - back)
        found: Record | None = None
        for chunk in read(start, end) if start < end else ():
            ours = (each for each in reversed(chunk) if each.key == key)
            found = next((each for each in ours if each.value is not None and sound(each.value)), found)
        if found is not None or start == low:
            return found
    return None
