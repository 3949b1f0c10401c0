"""What all flat arrays have in common: their types, and how they are checked and frozen."""

from dataclasses import fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.errors import MalformedModelError

__all__ = ["Floats", "Ints", "Matrix", "Words", "expect", "freeze_arrays", "frozen"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]
Matrix = npt.NDArray[np.float64]

_DTYPES: Final[dict[Any, type]] = {Floats: np.float64, Ints: np.int32, Words: np.uint32}


def expect(holds: bool, otherwise: str) -> None:
    """Refuse arrays that are no model."""
    if not holds:
        message = f"the arrays are not a model: {otherwise}; publish the model again from its training"
        raise MalformedModelError(message)


def freeze_arrays(of: Any) -> None:
    """Take a copy of every array of a frozen value, of the type it declares, that nobody can change."""
    for each in fields(of):
        dtype = _DTYPES.get(each.type)
        if dtype is not None and each.init:
            array = getattr(of, each.name)
            expect(
                isinstance(array, np.ndarray) and array.dtype == dtype,
                f"{each.name} must be {dtype.__name__}",
            )
            object.__setattr__(of, each.name, frozen(array))


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that nobody can change, in one piece."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy
