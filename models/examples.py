"""Labelled orders as arrays: what a model learns from and is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.events import microseconds
from models.errors import TrainingError
from models.labels import Labelling

__all__ = ["UNKNOWN", "Examples"]

UNKNOWN = -1
"""The label of an order of which it is not known whether it is fraud."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Orders, each with its features as of its own `placed_at`, and its label.

    Every array has one entry an order, in the order of their `placed_at`. `matrix` has a column for each of
    `names`, float64, NaN where a feature is unknown. `labels` are 1 for fraud, 0 for not fraud and UNKNOWN.
    `weights` say for how many orders one stands, where legitimate ones were sampled.
    """

    names: tuple[str, ...]
    matrix: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float64]
    placed_at: Array
    """datetime64[us], in UTC."""
    known_at: Array
    """When the label was known, datetime64[us]; NaT where it is not."""
    caught_at: Array
    """When an earlier fraud of the order's customer was known, NaT where none was by `placed_at`."""
    order_id: Array
    """Texts."""
    customer_id: Array
    """Texts, None of a guest."""
    country: Array
    """Texts, None where the order says none."""
    amount: npt.NDArray[np.float64]
    """In minor units of the order's currency."""
    action: Array
    """What was decided, such as 'decline'; None where no decision was read."""

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        if self.matrix.shape != (len(self.labels), len(self.names)):
            message = (
                f"examples need a matrix of {len(self.labels)} orders by {len(self.names)} features; "
                f"got shape {self.matrix.shape}"
            )
            raise TrainingError(message)

    def __len__(self) -> int:
        """How many orders."""
        return len(self.labels)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """Those of the orders for which `chosen` is true."""
        arrays = {name: getattr(self, name)[chosen] for name in self.__dataclass_fields__ if name != "names"}
        return replace(self, **arrays)

    def only(self, names: Sequence[str]) -> Self:
        """The same orders with these features, in this order. Raises TrainingError for one not there."""
        missing = [name for name in names if name not in self.names]
        if missing:
            message = f"the training set has no feature {missing}; build it with the features of the model"
            raise TrainingError(message)
        return replace(
            self, names=tuple(names), matrix=self.matrix[:, [self.names.index(name) for name in names]]
        )

    def beside(self, other: Self) -> Self:
        """The same orders with the features of both."""
        if not np.array_equal(self.order_id, other.order_id):
            message = "features of two training sets stand side by side only where their orders are the same"
            raise TrainingError(message)
        return replace(self, names=self.names + other.names, matrix=np.hstack([self.matrix, other.matrix]))

    def labelled(self, labelling: Labelling) -> Self:
        """The same orders with the labels of another cut-off, before the one that they have.

        The labels here have to be what was said last, without waiting for any to mature (`mature_after` 0).
        Of an order of which something was said after the new cut-off nothing is known: what was said before
        is not here, and it was not silence.
        """
        as_of, matured_before = map(_moment, (labelling.as_of, labelling.matured_before))
        is_said = self.labels != UNKNOWN
        silent = 0 if labelling.silence == "not_fraud" else UNKNOWN
        known = np.where(is_said, np.where(self.known_at < as_of, self.labels, UNKNOWN), silent)
        labels = np.where(self.placed_at > matured_before, UNKNOWN, known)
        return replace(self, labels=labels.astype(np.int8))

    def known(self) -> Self:
        """Those of which it is known whether they are fraud."""
        return self.where(self.labels != UNKNOWN)

    @property
    def clusters(self) -> Array:
        """Texts that orders share when they are not independent: the customer; a guest's order is its own."""
        return np.array(
            [
                f"guest {order}" if customer is None else customer
                for customer, order in zip(self.customer_id, self.order_id, strict=True)
            ],
            dtype=object,
        )


def _moment(at: datetime) -> np.datetime64:
    return np.datetime64(microseconds(at), "us")
