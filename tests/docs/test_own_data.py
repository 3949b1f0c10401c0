"""What docs/own-data.md shows is what the code takes."""

import re
from pathlib import Path

import pytest

from features.mapping import Reading, RowMapping, Taken
from stream.mapping import load_mapping, mapping_of
from tests.own_data import FILES, MAPPINGS

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text()


def test_the_mapping_on_the_page_loads() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    mapping = mapping_of(shown, said="docs/own-data.md")

    assert mapping.taken["amount"].decimal == ","
    assert mapping.items is not None


@pytest.mark.parametrize("name", [*Taken.model_fields, *Reading.model_fields, *RowMapping.model_fields])
def test_every_option_of_a_mapping_is_on_the_page(name: str) -> None:
    assert re.search(rf"`{name}\b|^{name} = |\[{name}\b|, {name} = ", PAGE, re.MULTILINE), name


def test_each_mapping_of_a_data_file_loads() -> None:
    names = {file.stem for file in MAPPINGS.glob("*.toml")}

    assert names >= set(FILES)
    for name in names:
        assert load_mapping(MAPPINGS / f"{name}.toml").fields
