"""The pages of docs/ that are made from the code say what the code says."""

from pathlib import Path

import pytest

from stream.reference import pages
from stream.settings import SettingDescription, describe_settings

FOLDER = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_the_codes_own(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], (
        "run 'fraudstream docs export docs', read what changed"
    )


@pytest.mark.parametrize("setting", describe_settings(), ids=lambda setting: setting.name)
def test_every_setting_says_what_it_means(setting: SettingDescription) -> None:
    assert len(setting.meaning) > 15
    assert setting.meaning.endswith(".")


def test_the_pages_do_not_depend_on_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pages()
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "none of your business")
    monkeypatch.setenv("FRAUDSTREAM_TOPICS__ORDERS", "shop")

    assert pages() == before
