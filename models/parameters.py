"""What the parameters of a constructor may be, checked when it is built.

    n_estimators: int = whole(100, least=1)

Predictors, imputers and preprocessors are described with these, so a mistyped number stops the program where
it was written and not an hour later in a training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Final

from models.errors import ModelDefinitionError

__all__ = ["check", "choice", "claim", "number", "seed", "share_or_count", "told", "whole"]

_RULE: Final = "rule"


@dataclass(frozen=True, slots=True)
class _Rule:
    holds: Callable[[Any], bool]
    said: str


def whole(default: int | None, *, least: int, most: int | None = None, also: tuple[Any, ...] = ()) -> Any:
    """A whole number from `least` to `most`, or one of `also`."""

    def holds(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and value >= least and (most is None or value <= most)

    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    return _field(default, holds, f"a whole number {bounds}", also)


def number(
    default: float | str | None,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    also: tuple[Any, ...] = (),
) -> Any:
    """A finite number within bounds (`above` and `below` leave out the bound), or one of `also`."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and isfinite(value)
            and (above is None or value > above)
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (below is None or value < below)
        )

    bounds = [
        f"{word} {bound}"
        for word, bound in (("above", above), ("of at least", least), ("of at most", most), ("below", below))
        if bound is not None
    ]
    return _field(default, holds, " ".join(["a number", " and ".join(bounds)]).strip(), also)


def choice(default: Any, *others: Any) -> Any:
    """One of a few words."""
    return _field(default, lambda _: False, "", (default, *others))


def claim(default: bool) -> Any:
    """True or false."""
    return _field(default, lambda value: isinstance(value, bool), "True or False", ())


def share_or_count(default: float | str | None, *also: Any) -> Any:
    """A number of features or orders above zero, or a share of them, as scikit-learn tells them apart."""
    return number(default, above=0, also=also)


def seed() -> Any:
    """What a draw begins with, as scikit-learn's random_state."""
    return whole(0, least=0, most=2**32 - 1)


def _field(default: Any, holds: Callable[[Any], bool], said: str, also: tuple[Any, ...]) -> Any:
    words = [*([said] if said else []), *map(repr, also)]
    known = [(type(each), each) for each in also]  # typed: True is not the number 1
    rule = _Rule(lambda value: (type(value), value) in known or holds(value), " or ".join(words))
    return field(default=default, metadata={_RULE: rule})


def check(constructed: Any) -> None:
    """Refuse a constructor whose parameters are not what they may be."""
    for each in fields(constructed):
        rule = each.metadata.get(_RULE)
        value = getattr(constructed, each.name)
        if rule is not None and not rule.holds(value):
            message = f"{type(constructed).__name__}: {each.name} must be {rule.said}; got {value!r}"
            raise ModelDefinitionError(message)


def told(constructed: Any) -> dict[str, Any]:
    """The constructor's name and all its parameters, as JSON has them, for a digest or a manifest."""
    parameters = {each.name: getattr(constructed, each.name) for each in fields(constructed)}
    return {"is": type(constructed).__name__} | {
        name: list(each) if isinstance(each, tuple) else each for name, each in parameters.items()
    }
