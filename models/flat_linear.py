"""A weighted sum of columns as flat arrays: the kernel and its numpy twin."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.flat_arrays import Floats, Ints, Matrix, expect, freeze_arrays

__all__ = ["FlatLinear", "linear_loops", "linear_numpy"]


@dataclass(frozen=True, slots=True, eq=False)
class FlatLinear:
    """The sum of coefficient times column, in log-odds.

    Attributions say how far a column pushed from what is typical of it: coefficient times (column - typical).
    """

    kind = "linear"

    column: Ints
    coefficient: Floats
    typical: Floats
    intercept: Floats
    arrays: tuple[npt.NDArray[Any], ...] = field(init=False, repr=False)
    """What the kernels take beside the columns."""

    def __post_init__(self) -> None:
        """Check and freeze the arrays."""
        freeze_arrays(self)
        expect(self.column.ndim == 1 and len(self.column) > 0, "column must be one number a coefficient")
        expect(
            self.column.shape == self.coefficient.shape == self.typical.shape,
            "column, coefficient and typical differ in length",
        )
        expect(self.intercept.shape == (1,), "intercept must be one number")
        for name in ("coefficient", "typical", "intercept"):
            expect(bool(np.isfinite(getattr(self, name)).all()), f"{name} must be finite")

        arrays = (self.column, self.coefficient, self.typical, self.intercept)
        object.__setattr__(self, "arrays", arrays)

    def check_columns(self, columns: int) -> None:
        """Refuse a model that was made for other columns."""
        expect(
            bool(((self.column >= 0) & (self.column < columns)).all()),
            f"a coefficient belongs to a column outside the {columns} there are",
        )

    @property
    def used(self) -> Ints:
        """The columns it looks at."""
        return self.column


def linear_loops(  # noqa: PLR0917 - numba's kernels take arrays, not objects
    columns: Matrix,
    owners: Ints,
    raw: Floats,
    attributions: Floats,
    column: Ints,
    coefficient: Floats,
    typical: Floats,
    intercept: Floats,
) -> None:
    """Fill `raw` and `attributions`, row by row and column by column."""
    for i in range(len(columns)):
        margin = 0.0
        for c in range(len(column)):
            value = columns[i, column[c]]
            margin += coefficient[c] * value
            attributions[i, owners[column[c]]] += coefficient[c] * (value - typical[c])
        raw[i] = margin + intercept[0]


def linear_numpy(  # noqa: PLR0917 - as the kernel
    columns: Matrix,
    owners: Ints,
    raw: Floats,
    attributions: Floats,
    column: Ints,
    coefficient: Floats,
    typical: Floats,
    intercept: Floats,
) -> None:
    """The same in plain numpy: all rows at once, and every sum taken in the order of the loops."""
    margin = np.zeros(len(columns))
    with np.errstate(over="ignore", invalid="ignore"):  # silent where the kernel is
        for c in range(len(column)):
            value = columns[:, column[c]]
            margin += coefficient[c] * value
            attributions[:, owners[column[c]]] += coefficient[c] * (value - typical[c])
        raw[:] = margin + intercept[0]
