"""What counts as a label, and when."""

from datetime import timedelta

import pytest

from features.facts import Statement
from models.errors import TrainingError
from models.labels import Label, Labelling
from tests.strategies import NOON

DAY = timedelta(days=1)


def said(
    day: float, *, is_fraud: bool = True, name: str | None = None, supersedes: str | None = None
) -> Statement:
    return Statement("fraud", is_fraud, NOON + day * DAY, None, None, name, supersedes)


def known(day: float, *, is_fraud: bool = True) -> Label:
    return Label(NOON + day * DAY, is_fraud)


FRAUD = said(3)


def at(days: float, mature_after: float = 7, silence: str = "unknown") -> Labelling:
    return Labelling(NOON + days * DAY, mature_after * DAY, silence)  # type: ignore[arg-type]


def test_an_order_is_unknown_until_it_has_matured_whatever_was_said_of_it() -> None:
    assert at(6.9).label([FRAUD], NOON) is None
    assert at(7).label([FRAUD], NOON) == known(3)


def test_what_became_known_at_the_cut_off_or_later_does_not_count() -> None:
    assert at(10).label([said(10)], NOON) is None
    assert at(10.1).label([said(10)], NOON) == known(10)


def test_the_statement_that_was_known_last_holds() -> None:
    cleared = said(5, is_fraud=False)

    assert at(9).label([cleared, FRAUD], NOON) == known(5, is_fraud=False)
    assert at(9).label([FRAUD, cleared], NOON) == known(5, is_fraud=False)
    assert at(4, mature_after=1).label([FRAUD, cleared], NOON) == known(3)
    assert at(9).label([FRAUD, said(3, is_fraud=False)], NOON) == known(3, is_fraud=False)


def test_what_was_superseded_no_later_never_counted() -> None:
    wrong = said(5, name="a")
    instead = said(4, is_fraud=False, supersedes="a")

    assert at(9).label([wrong], NOON) == known(5)
    assert at(9).label([wrong, instead], NOON) == known(4, is_fraud=False)


def test_silence_is_unknown_unless_the_shop_says_what_it_means() -> None:
    assert at(30).label([], NOON) is None
    assert at(30, silence="not_fraud").label([], NOON) == known(7, is_fraud=False)
    assert at(6, silence="not_fraud").label([], NOON) is None


def test_silence_needs_its_time() -> None:
    with pytest.raises(TrainingError, match="silence can't mean 'not fraud'"):
        at(30, mature_after=0, silence="not_fraud")
    with pytest.raises(TrainingError, match="can't mature before"):
        at(30, mature_after=-1)
    with pytest.raises(TrainingError, match="offset from UTC"):
        Labelling(NOON.replace(tzinfo=None), DAY)
