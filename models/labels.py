"""What an order turned out to be, as far as it was known at an instant and as far as that is evidence.

An order that is too young to have its chargeback is not "not fraud": it is unknown, and teaches nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from features.facts import Statement, facts_of
from models.errors import TrainingError

__all__ = ["Label", "Labelling", "Silence"]

Silence = Literal["unknown", "not_fraud"]
"""What an order means of which nobody said anything, once it has matured."""


class Label(NamedTuple):
    """Whether an order counts as fraud, and since when that is known."""

    known_at: datetime
    is_fraud: bool


@dataclass(frozen=True, slots=True)
class Labelling:
    """How outcomes become labels.

    `as_of` is the cut-off: what became known at it or later does not count. An order counts only when it was
    placed at least `mature_after` before the cut-off, whatever was said of it so far: of younger orders
    frauds would be known and the others not. `silence` says what a matured order is without any outcome;
    `not_fraud` is for a shop that only hears of chargebacks. Raises TrainingError where silence would make
    orders legitimate before anyone could complain.
    """

    as_of: datetime
    mature_after: timedelta
    silence: Silence = "unknown"

    def __post_init__(self) -> None:
        """Check that the moments can be compared and that silence has had its time."""
        if self.as_of.tzinfo is None:
            message = f"as_of takes a moment with its offset from UTC, not {self.as_of}"
            raise TrainingError(message)
        if self.mature_after < timedelta(0):
            message = f"labels can't mature before their order: labels_mature_after is {self.mature_after}"
            raise TrainingError(message)
        if self.silence == "not_fraud" and not self.mature_after:
            message = (
                "silence can't mean 'not fraud' from the first second on; say after how many days the shop "
                "has heard of nearly all fraud (labels_mature_after), such as 45"
            )
            raise TrainingError(message)

    @property
    def matured_before(self) -> datetime:
        """Orders placed before it, or just then, have matured."""
        return self.as_of - self.mature_after

    def label(self, statements: Sequence[Statement], placed_at: datetime) -> Label | None:
        """What is known of an order placed then; None where it is unknown whether it is fraud.

        By the rules that histories have (`features.facts`): what was superseded does not count, and of the
        rest what was known last, of two known at once what was said later. Silence that means something is
        known when the order has matured.
        """
        if placed_at > self.matured_before:
            return None
        holds: Label | None = None
        known = [each for each in statements if each.known_at < self.as_of]
        for each in facts_of(known, "", placed_at=placed_at, amount=None, currency=None) if known else ():
            if each.what == "fraud" and (holds is None or each.known_at >= holds.known_at):
                holds = Label(each.known_at, each.is_so)
        if holds is None and self.silence == "not_fraud":
            return Label(placed_at + self.mature_after, is_fraud=False)
        return holds
