"""The features of a model that are computed at one place of the road, and where they stand among all."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Final, cast

from features.define import Feature
from features.events import Order
from features.fast import Told
from features.history import History
from features.plan import Plan

__all__ = ["UNHEARD", "Part"]

UNHEARD: Final = nan
"""Stands on the road for a value that no worker computed; no feature is ever this."""


class Part:
    """What home computes, or the stage of one entity."""

    def __init__(
        self,
        features: Sequence[Feature],
        entity: str | None = None,
        elsewhere: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        """The features by one entity; without one all but those that are computed `elsewhere`.

        `names` are what they are called on the road where that is not their own names.
        """
        own = [
            (at, each)
            for at, each in enumerate(features)
            if (each.entity == entity if entity is not None else each.entity not in elsewhere)
        ]
        self._all_names = [each.name for each in features] if names is None else list(names)
        self.names = "\n".join(self._all_names)
        """All features of the models, by line: a worker that serves other models sees that by it."""
        self._own = own
        self._places = [at for at, _ in own]
        self._unknown: list[float | None] = [None] * len(features)
        self._is_all = len(own) == len(features)
        self._plan = Plan([each for _, each in own])

    def begin(
        self, order: Order | Told, histories: Mapping[str, History | None], said: bytes | None
    ) -> list[float | None]:
        """A feature vector with the values computed here; the others are unknown as yet."""
        values = self._plan(cast("Order", order), histories, said)  # either has the fields that features read
        if self._is_all:
            return list(values)
        begun = self._unknown.copy()
        for at, value in zip(self._places, values, strict=True):
            begun[at] = value
        return begun

    def go_on(
        self,
        values: list[float | None],
        order: Order | Told,
        histories: Mapping[str, History | None],
        said: bytes | None,
    ) -> None:
        """Put the values computed here into a vector that was begun elsewhere."""
        if not self._places:
            return
        own = self._plan(cast("Order", order), histories, said)
        for at, value in zip(self._places, own, strict=True):
            values[at] = value

    def taken_over(
        self, names: str, values: Sequence[float | None], unheard: float | None = None
    ) -> list[float | None]:
        """The values that a worker with other models computed, as far as ours ask for them too.

        The rest is `unheard`.
        """
        theirs = dict(zip(names.split("\n") if names else (), values, strict=True))
        return [theirs.get(name, unheard) for name in self._all_names]
