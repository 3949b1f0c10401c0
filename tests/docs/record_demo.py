"""Record the demo for docs/demo.md: a fresh clone is set up and run twice in a terminal of a fixed size.

    python tests/docs/record_demo.py

Everything is fetched anew, as on a machine that has only Python 3.11, git and make. Only what is committed is
recorded. Takes some minutes.
"""

# ruff: noqa: E501 - the page is wrapped as its readers see it
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, not as a module

from tests.bench.results import machine, table  # noqa: E402
from tests.docs.terminal import Terminal  # noqa: E402

PAGE = ROOT / "docs" / "demo.md"
COLUMNS, ROWS = 110, 34
RUN = ["make", "demo", "ONCE=1"]


class Run(NamedTuple):
    """One run of the demo as it was seen."""

    seconds: float
    first_words: float
    until_live: float
    setting_up: str
    picture: str
    summary: str


def main() -> None:
    """Set up, run twice, write the page."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        env = {name: str(folder / name) for name in ("PIP_CACHE_DIR", "M2_REPO", "JGO_CACHE_DIR")}
        # this is itself run by make, whose child would name the folders it enters and leaves
        env["MAKEFLAGS"] = "--no-print-directory"
        clone = folder / "fraudstream"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        began = time.monotonic()
        subprocess.run(["make", "setup"], cwd=clone, env={**os.environ, **env}, check=True)
        set_up = time.monotonic() - began
        runs = [_run(clone, env), _run(clone, env)]
        head = ["git", "-C", str(clone), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        PAGE.write_text(_page(commit, set_up, *runs))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def _run(clone: Path, env: Mapping[str, str]) -> Run:
    terminal = Terminal(RUN, columns=COLUMNS, rows=ROWS, env=env, cwd=clone)
    try:
        began = time.monotonic()
        terminal.until("fraudstream demo:", 30)
        first_words = time.monotonic() - began
        terminal.until("\nlive ", 600)
        until_live = time.monotonic() - began
        code = terminal.ends(600)
        seconds = time.monotonic() - began
    finally:
        terminal.close()
    said = terminal.screen.text()
    if code:
        raise SystemExit(f"the demo ended with code {code}:\n{said}")
    setting_up, _, rest = said.partition("\n fraudstream ")
    picture, _, summary = (" fraudstream " + rest).partition("\nsummary  ")
    return Run(
        seconds, first_words, until_live, setting_up.strip(), picture.rstrip(), "summary  " + summary.strip()
    )


def _page(commit: str, set_up: float, first: Run, second: Run) -> str:
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    load = os.getloadavg()[1]
    times = table(
        {
            "`make setup`, once: a virtualenv and every Python package": set_up,
            "`make demo ONCE=1`, the first time": first.seconds,
            "of that until its first live order (Kafka fetched, past lived, model trained)": first.until_live,
            "`make demo ONCE=1`, the second time": second.seconds,
            "of that until its first words": second.first_words,
            "of that until its first live order": second.until_live,
        },
        ("seconds",),
    )
    return f"""# The demo, as it was seen

Recorded on {day} by `make record-demo` in a terminal of {COLUMNS} columns and {ROWS} lines; colours and the
spinners are lost in text. Commit {commit}, Python {platform.python_version()}, {machine()};
{load:.1f} programs wanted to run on it at a time. Times vary with the machine, what else it does, and its network.

{times}

## The first run sets up

```text
$ {" ".join(RUN)}
{first.setting_up}
```

## While orders come in

The view fills the terminal, whatever its size, and is drawn five times a second. Where an order is fraud, `why`
begins with its kind, which only the simulation knows. This is the last picture of the first run:

```text
{first.picture}
```

The money is reckoned on what is assumed in the line below it; no shop's own figures are in it. An order that goes
to review counts as held up, and as stopped if it is fraud.

## It ends with a summary

```text
{first.summary}
```

With `ONCE=1` the exit code is 0 only if every order was decided once. Without it the demo goes on until Ctrl-C
and then waits for the orders that are on their way. Kill the worker while it runs (the line that says it is ready
names its process): another takes over when the session of the first has ended, and every order is still decided
once.

## The second run goes on

It downloads nothing and needs no network.

```text
$ {" ".join(RUN)}
{second.setting_up}

{second.summary.partition("worker  ")[0].rstrip()}
```
"""


if __name__ == "__main__":
    main()
