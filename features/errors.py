"""What goes wrong with a feature: while it is declared, or while it is computed."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["FeatureDefinitionError", "FeatureValueError", "did_you_mean"]


class FeatureDefinitionError(ValueError):
    """A feature is declared wrongly; raised where it is written, never while scoring."""


class FeatureValueError(ValueError):
    """A feature's function failed, or answered what is not a finite number; it has to be corrected."""


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = get_close_matches(str(typed), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
