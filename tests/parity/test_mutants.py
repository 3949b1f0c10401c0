"""The tests of features and of the road find mistakes: a few here, all of them in `make mutants`."""

from pathlib import Path

import pytest

from tests.parity.mutants import MUTANTS, QUICK, Mutant, is_caught


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_a_mutant_is_still_a_change_of_the_source(mutant: Mutant, tmp_path: Path) -> None:
    (tmp_path / mutant.path).parent.mkdir()
    source = (Path(__file__).parents[2] / mutant.path).read_text()
    (tmp_path / mutant.path).write_text(source)

    mutant.put_into(tmp_path)

    changed = (tmp_path / mutant.path).read_text()
    assert changed != source
    compile(changed, mutant.file, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_is_caught_by_the_test_named_for_it(name: str) -> None:
    (mutant,) = (each for each in MUTANTS if each.name == name)

    assert is_caught(mutant)
