"""Every command that README.md writes is run as it is written, in the order it is written in."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stream.broker import free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
]
"""The commands of each console block."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell on a machine of its own: a folder, a port for the broker, and nothing left when it ends."""
    commands = tmp_path / "bin"
    commands.mkdir()
    program = f'exec "{sys.executable}" -m stream.cli "$@"'
    _script(commands / "fraudstream", program)
    # make's own recipes are the commands of this file or of .ci/run: here it need only know its targets
    really = shutil.which("make")
    _script(commands / "make", f'exec {really} --silent --just-print -C "{ROOT}" "$@" >/dev/null')
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FRAUDSTREAM_BROKER": f"127.0.0.1:{free_ports(1)[0]}",
        "FRAUDSTREAM_HOME": str(tmp_path / ".fraudstream"),
    }
    running = subprocess.Popen(
        ["bash", "-e"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(10)
        stop = [commands / "fraudstream", "broker", "stop"]
        subprocess.run(stop, env=environment, check=False, timeout=60)


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/bash\n{line}\n")
    path.chmod(0o755)


@pytest.mark.broker
@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(
    shell: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text(
        "order_id,customer_id,created,total,currency,country\n"
        + "".join(f"w{n},k{n % 7},2026-03-01 10:{n:02}:00,{n}.50,EUR,DE\n" for n in range(60))
    )
    script = "\n".join(f"echo; echo '$' {line!r}\n{line}" for block in BLOCKS for line in block)

    said, _ = shell.communicate(script + "\nkill %1; wait %1; echo all of it was run\n", timeout=400)

    assert shell.returncode == 0, said
    assert "all of it was run" in said, said
    watched = said.partition("fraudstream watch")[2].partition("\n$")[0]
    assert len(re.findall(r"(?m)^(approve|review|decline) ", watched)) == 500, said
    assert "60 orders" in said.partition("--dry-run")[2], "the shop's own orders are understood"


def test_the_readme_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 105


def test_every_file_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
