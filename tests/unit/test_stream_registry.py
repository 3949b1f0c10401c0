from pathlib import Path

import pytest

from stream.errors import Refusal
from stream.registry import registry_of
from stream.settings import Settings
from tests.small_shop import a_trained

LINEAR = a_trained("logistic_regression")


def test_models_are_published_where_the_setting_says(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", registry=str(tmp_path / "shared"))
    registry_of(settings).publish(LINEAR)
    assert (tmp_path / "shared" / LINEAR.name / LINEAR.version / "manifest.json").exists()
    assert not (tmp_path / "home").exists()


def test_models_are_published_at_home_where_nothing_is_said(tmp_path: Path) -> None:
    registry_of(Settings(home=tmp_path)).publish(LINEAR)
    assert (tmp_path / "models" / LINEAR.name / LINEAR.version / "manifest.json").exists()


def test_an_address_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    registry = registry_of(Settings(home=tmp_path, registry=f"file://{tmp_path}/shared"))
    registry.publish(LINEAR)
    assert registry_of(Settings(home=tmp_path, registry=str(tmp_path / "shared"))).list() == registry.list()


def test_an_address_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="gopher://models"):
        registry_of(Settings(home=tmp_path, registry="gopher://models"))
