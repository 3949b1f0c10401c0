"""What counts as a label, and when."""

from datetime import timedelta

import pytest

from models.errors import TrainingError
from models.labels import Labelling, Statement
from tests.strategies import NOON

DAY = timedelta(days=1)
FRAUD = Statement(NOON + 3 * DAY, is_fraud=True)


def at(days: float, mature_after: float = 7, silence: str = "unknown") -> Labelling:
    return Labelling(NOON + days * DAY, mature_after * DAY, silence)  # type: ignore[arg-type]


def test_an_order_is_unknown_until_it_has_matured_whatever_was_said_of_it() -> None:
    assert at(6.9).label([FRAUD], NOON) is None
    assert at(7).label([FRAUD], NOON) == FRAUD


def test_what_became_known_at_the_cut_off_or_later_does_not_count() -> None:
    late = Statement(NOON + 10 * DAY, is_fraud=True)

    assert at(10).label([late], NOON) is None
    assert at(10.1).label([late], NOON) == late


def test_the_statement_that_was_known_last_holds() -> None:
    cleared = Statement(NOON + 5 * DAY, is_fraud=False)

    assert at(9).label([cleared, FRAUD], NOON) == cleared
    assert at(9).label([FRAUD, cleared], NOON) == cleared
    assert at(4, mature_after=1).label([FRAUD, cleared], NOON) == FRAUD
    same_time = Statement(FRAUD.known_at, is_fraud=False)
    assert at(9).label([FRAUD, same_time], NOON) == same_time


def test_silence_is_unknown_unless_the_shop_says_what_it_means() -> None:
    assert at(30).label([], NOON) is None
    assert at(30, silence="not_fraud").label([], NOON) == Statement(NOON + 7 * DAY, is_fraud=False)
    assert at(6, silence="not_fraud").label([], NOON) is None


def test_silence_needs_its_time() -> None:
    with pytest.raises(TrainingError, match="silence can't mean 'not fraud'"):
        at(30, mature_after=0, silence="not_fraud")
    with pytest.raises(TrainingError, match="can't mature before"):
        at(30, mature_after=-1)
    with pytest.raises(TrainingError, match="offset from UTC"):
        Labelling(NOON.replace(tzinfo=None), DAY)
