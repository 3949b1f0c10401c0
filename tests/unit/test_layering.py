"""Imports point down: stream, then models, then features; and there are no other packages."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "features": {"features"},
    "models": {"models", "features"},
    "stream": {"stream", "models", "features"},
}
# What only the world's package may touch.
WORLDLY = {
    "features": {
        "os", "pathlib", "socket", "subprocess", "threading", "asyncio", "time", "random", "tempfile",
        "confluent_kafka", "aiokafka", "faust", "rocksdict", "pydantic_settings",
    },
    "models": {
        "socket", "subprocess", "asyncio", "time", "shutil", "tempfile",
        "confluent_kafka", "aiokafka", "faust", "rocksdict",
    },
    "stream": set(),
}  # fmt: skip


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package: str) -> None:
    ours = set(MAY_IMPORT)
    for path in (ROOT / package).rglob("*.py"):
        for name in _imports(path):
            top = name.split(".")[0]
            assert top not in ours - MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {name}"
            assert top != "tests", f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_only_stream_touches_the_world(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        if path == ROOT / "models" / "shelf.py":
            continue  # the one place below stream that reads and writes files
        for name in _imports(path):
            assert name.split(".")[0] not in WORLDLY[package], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ["features", "models"])
def test_nothing_below_stream_asks_what_time_it_is(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "monotonic"}:
                raise AssertionError(f"{path.relative_to(ROOT)}:{node.lineno} asks for .{node.attr}")


def test_there_are_only_three_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(project["tool"]["setuptools"]["packages"]) == set(MAY_IMPORT)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


def test_the_lock_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()

    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--find-links" not in lock


def test_every_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        line.split("==")[0]
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    }

    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {name.split("==")[0].split(">")[0].split("[")[0] for name in wanted} <= locked
