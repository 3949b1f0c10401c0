"""The short version of what `make registry-kills` does."""

import pytest

from tests.faults.registry_kills import offer, play


@pytest.mark.slow
def test_a_publication_that_is_killed_leaves_no_half_version() -> None:
    seen = play(kills=4, seed=7)

    assert seen.wrong == []
    assert seen.kills == 4


def test_a_broken_file_is_refused_and_never_scores_otherwise() -> None:
    offered = offer(files=400, seed=7)

    assert offered.wrong == []
    assert offered.refused > 300
