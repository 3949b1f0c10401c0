"""Which fraudstream this is."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["program_version"]


@cache
def program_version() -> str:
    """The version of this program, as decisions and control records carry it."""
    try:
        return version("fraudstream")
    except PackageNotFoundError:  # run from a checkout that is not installed
        project = Path(__file__).parents[1] / "pyproject.toml"
        return (
            str(tomllib.loads(project.read_text())["project"]["version"]) if project.exists() else "unknown"
        )
