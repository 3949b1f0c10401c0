"""What docs/features-howto.md shows is what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from features import CATALOGUE, features_digest
from stream.cli import app
from stream.reference import commands

PAGE = (Path(__file__).parents[2] / "docs/features-howto.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = re.findall(r"^\$ fraudstream (.*)$", PAGE, flags=re.MULTILINE)


def test_the_pages_features_are_looked_at_in_the_pages_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (simulate,) = [each for each in COMMANDS if each.startswith("simulate")]
    assert CliRunner().invoke(app, shlex.split(simulate)).exit_code == 0
    here: dict[str, Any] = {}

    for number, block in enumerate(PYTHON):
        # a feature's source has to be in a file, for its digest
        file = tmp_path / f"cell{number}.py"
        file.write_text(block)
        exec(compile(block, file, "exec"), here)  # noqa: S102 - the page's own code

    names = [each.name for each in here["mine"]]
    assert here["found"].column_names[4:] == names
    assert here["found"].num_rows == 100
    assert "orders_count_6h_other_device" in names
    assert not set(names) & {each.name for each in CATALOGUE}
    assert features_digest(here["mine"])


@pytest.mark.parametrize("line", [each for each in COMMANDS if each.startswith("features explain")])
def test_the_pages_explanations_are_command_lines_that_are_accepted(line: str) -> None:
    taken: list[dict[str, Any]] = []
    command = get_command(app)
    explain = dict(commands(command))["features explain"]
    explain.callback = lambda **options: taken.append(options)

    command.main(args=shlex.split(line), prog_name="fraudstream", standalone_mode=False)

    assert len(taken) == 1
