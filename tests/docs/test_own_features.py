"""What docs/own-features.md shows is what happens: its file, its commands in their order, its refusal."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from features.catalogue import STARTER, amounts_in
from features.rates import Rates
from stream.settings import Settings
from tests.running import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-features.md").read_text()
(SHOP,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ ")]
OWN = ("is_bulk", "is_gift", "orders_count_3d_same_device")
EURO = Rates("any", base="EUR", per_unit={})
(REFUSAL,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)


def _machine(folder: Path, settings: Settings) -> Mapping[str, str]:
    """The environment of a shell in which `fraudstream` is a command, on the session's broker."""
    program = folder / "bin" / "fraudstream"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m stream.cli "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **environment(settings), **path}


@pytest.mark.broker
@pytest.mark.slow
def test_the_page_is_true_from_the_file_to_the_decisions_and_to_the_refusal(
    settings: Settings, tmp_path: Path
) -> None:
    shop = tmp_path / "shop.py"
    shop.write_text(SHOP)
    on_it = _machine(tmp_path, settings.model_copy(update={"session_s": 6.0}))
    script = "\n".join(f"echo; echo '$' {line!r}\n{line}" for line in COMMANDS)
    running = subprocess.Popen(
        ["bash", "-e"],
        cwd=tmp_path,
        env=on_it,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = running.communicate(script + "\nkill %1; wait %1; echo all of it was run\n", timeout=400)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(10)

    assert running.returncode == 0, said
    assert "all of it was run" in said, said
    asked = {*(each.name for each in STARTER), *OWN, *(each.name for each in amounts_in(EURO))}
    decided = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert len(decided) == 200
    assert all(each["features"].keys() == asked for each in decided)
    assert {each["features"]["is_bulk"] for each in decided} == {0, 1}
    assert {each["features"]["is_gift"] for each in decided} == {None}, (
        "the simulated shop says nothing of it"
    )
    worth = {(each["features"]["amount_eur"], each["features"]["amount"]) for each in decided}
    assert {round(eur / own, 2) for eur, own in worth if eur is not None and own > 5} >= {1.0, 1.17}

    shop.write_text(SHOP.replace("MANY = 3", "MANY = 4"))
    again = subprocess.run(
        ["fraudstream", "worker"],
        cwd=tmp_path,
        env={**on_it, "FRAUDSTREAM_FEATURES": "shop.py:FEATURES"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert again.returncode == 1
    refused = again.stderr.splitlines()[-1].partition(" was trained on ")
    assert refused[2].split() == REFUSAL.partition(" was trained on ")[2].split(), again.stderr
