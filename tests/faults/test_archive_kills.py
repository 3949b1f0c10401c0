"""The short version of what `make archive-kills` does."""

import pytest

from tests.faults.archive_kills import play


@pytest.mark.slow
@pytest.mark.broker
def test_an_archiver_that_is_killed_leaves_no_duplicate_no_hole_and_no_half_file() -> None:
    seen = play(kills=5, seed=7)

    assert seen.wrong == []
    assert (seen.kills, seen.records) == (5, 30_000)
