"""Which fraudstream this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["program_version"]


@cache
def program_version() -> str:
    """The version of this program, as decisions and control records carry it."""
    try:
        return version("fraudstream")
    except PackageNotFoundError:
        return "unknown"  # run from a checkout that is not installed
