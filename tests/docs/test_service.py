"""Every command of docs/service.md is run as it is written, in the order it is written in."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_readme import shell

__all__ = ["shell"]

PAGE = (Path(__file__).parents[2] / "docs/service.md").read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.broker
@pytest.mark.slow
def test_an_analyst_can_take_a_model_through_its_life(shell: subprocess.Popen[str], tmp_path: Path) -> None:
    asked = [
        "fraudstream models history --json > history.jsonl",
        "fraudstream watch --from-beginning --count 650 --json > decisions.jsonl",
        "kill %1; wait %1; echo all of it was run",
    ]
    script = "\n".join(f"echo; echo '$' {line!r}\n{line}" for line in [*COMMANDS, *asked])

    said, _ = shell.communicate(script + "\n", timeout=600)

    assert shell.returncode == 0, said
    assert "all of it was run" in said, said
    moves = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [move["kind"].removeprefix("model_") for move in moves] == [
        "deployed", "deployed", "promoted", "rolled_back", "promoted", "deployed", "retired", "deployed",
        "kill_switch_on", "kill_switch_off", "refused", "deployed",
    ]  # fmt: skip
    decided = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    models = {each["model"] and each["model"]["name"] for each in decided}
    assert models == {"starter", "velocity", None}, "each was in service, and the kill switch too"
    assert "is no bundle" in (tmp_path / "incoming/notes.tar.reason.txt").read_text()
