"""Where the figures of the benches are kept: one Markdown file, the newest at its end."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = "# Results\n\nWritten by the benches themselves; a figure without its machine says nothing.\n"

Cell = str | int | float | None


def machine() -> str:
    """The processor, how many of it, and its memory."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB"


def commit() -> str:
    """The commit that was measured, and whether the files had changed since."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD") or "not a repository"
    changed = git("status", "--porcelain", "--", "features", "models", "stream")
    return head + (" and changes not committed" if changed else "")


def table(rows: Mapping[str, Cell | Sequence[Cell]], columns: Sequence[str] = ("",)) -> str:
    """Rows of figures as a Markdown table; a row is one cell or one for each column."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in rows.items():
        listed: Sequence[Cell] = [cells] if isinstance(cells, str | int | float | None) else cells
        lines.append(f"| {name} | " + " | ".join(shown(cell) for cell in listed) + " |")
    return "\n".join(lines)


def shown(cell: Cell) -> str:
    """A figure as a person reads it."""
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return cell


def record(
    title: str,
    rows: Mapping[str, Cell | Sequence[Cell]],
    note: str = "",
    *,
    columns: Sequence[str] = ("",),
    keep: bool = True,
) -> None:
    """Print the figures as a table and as one line of JSON; with `keep` add them to RESULTS.md."""
    body = table(rows, columns)
    print(f"{title}\n\n{body}\n")
    if note:
        print(f"{note}\n")
    print(json.dumps({"title": title, "columns": list(columns), "figures": rows}, ensure_ascii=False))
    if not keep:
        return
    said = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, "
        f"Python {platform.python_version()}, {machine()}"
    )
    before = RESULTS.read_text() if RESULTS.exists() else _HEAD
    RESULTS.write_text(f"{before}\n## {title}\n\n{said}\n\n{body}\n" + (f"\n{note}\n" if note else ""))
