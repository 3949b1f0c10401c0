from pathlib import Path

import pytest

from stream.schemas import schemas

FOLDER = Path(__file__).parents[2] / "docs" / "contracts"


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_published_schema_is_the_codes_own(name: str) -> None:
    assert (FOLDER / name).read_text() == schemas()[name], "run 'make contracts' and read what changed"


def test_no_schema_is_published_that_the_code_does_not_know() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(schemas())
