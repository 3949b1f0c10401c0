"""What docs/learning.md shows is accepted, and its code runs."""

import re
import shlex
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from models.gates import Limits
from stream.cli import app
from stream.jobs import Chain
from stream.reference import commands

PAGE = (Path(__file__).parents[2] / "docs/learning.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(TOML,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = re.findall(r"^\$ fraudstream (.*)$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_pages_commands_are_command_lines_that_are_accepted(line: str) -> None:
    taken: list[str] = []
    command = get_command(app)
    for called, each in commands(command):
        each.callback = partial(lambda called, **_: taken.append(called), called)

    command.main(args=shlex.split(line), prog_name="fraudstream", standalone_mode=False)

    assert taken


def test_the_pages_models_and_chain_can_be_written() -> None:
    here: dict[str, Any] = {}

    for block in PYTHON:
        exec(block, here)  # noqa: S102 - the page's own code

    assert isinstance(here["chain"], Chain)
    assert [each.name for each in here["chain"].nodes] == ["bursts", "risk"]


def test_the_pages_gates_are_gates() -> None:
    told = tomllib.loads(TOML)

    assert Limits.of(told["gates"]).auc == 0.75
    assert set(told) <= {"model", "train_days", "test_days", "gates", "then"}
