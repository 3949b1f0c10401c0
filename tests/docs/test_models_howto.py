"""What docs/models-howto.md shows is what the constructors say."""

import re
from pathlib import Path
from typing import Any, get_args

from models.predictors import Calibration, Predictor
from models.preprocess import Preprocessor

PAGE = (Path(__file__).parents[2] / "docs/models-howto.md").read_text()


def test_the_tree_on_the_page_is_what_its_code_prints() -> None:
    code, tree = re.findall(r"```(?:python)?\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the page's own example

    assert str(names["ORDER_RISK"]) == tree.strip()


def test_every_predictor_calibration_and_preprocessor_is_named() -> None:
    for kind in (*get_args(Predictor), *get_args(Calibration), *get_args(Preprocessor)):
        assert f"`{kind.__name__}" in PAGE
