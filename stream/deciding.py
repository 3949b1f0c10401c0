"""The settings that decide: what beside model, policy and the control topic a decision's bytes depend on.

Every decision carries them in its header `settings`, so that it can be decided again long after they were
changed (docs/decisions/0014-a-decision-carries-the-settings-that-decide.md).
"""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import blake2b
from typing import Final, Self

import msgspec

from stream.keeping import Horizons
from stream.mapping import load_mapping
from stream.ports import Headers
from stream.settings import Settings

__all__ = ["HEADER", "Deciding"]

HEADER: Final = "settings"
"""The header of a decision that has the settings it was made with, as JSON."""


class Deciding(msgspec.Struct, frozen=True, omit_defaults=True):
    """The settings that a decision depends on."""

    ahead_by_at_most_s: float
    forget_after_days: int
    mapping: str | None
    """The digest of the mapping; None where orders come in our contract. The salt is not in it."""
    order_memory_days: int
    row_limit: int
    entities: tuple[str, ...] = ()
    """The stages of the road besides the customer, in its order; left out where there are none."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the settings. Raises MappingFileError."""
        return cls(
            settings.ahead_by_at_most_s,
            settings.forget_after_days,
            None if settings.mapping is None else _digest(settings),
            settings.order_memory_days,
            settings.row_limit,
            settings.entities,
        )

    @classmethod
    def decode(cls, said: bytes) -> "Deciding | None":
        """Those that a header tells; None for one that can't be read."""
        try:
            return msgspec.json.decode(said, type=cls)
        except msgspec.DecodeError:
            return None

    def encode(self) -> bytes:
        """The header's value."""
        return msgspec.json.encode(self)

    @property
    def header(self) -> tuple[str, bytes]:
        """What a decision carries."""
        return HEADER, self.encode()

    @property
    def horizons(self) -> Horizons:
        """For how long rows and the memory of orders are kept."""
        return Horizons.of_days(rows=self.forget_after_days, orders=self.order_memory_days)

    @property
    def ahead_by_at_most(self) -> timedelta:
        """How far ahead of its broker timestamp an order may be dated."""
        return timedelta(seconds=self.ahead_by_at_most_s)


def said_in(headers: Headers) -> bytes | None:
    """The header's value among those of a decision; None where an older version wrote it."""
    named: Mapping[str, bytes] = dict(headers)
    return named.get(HEADER)


def _digest(settings: Settings) -> str:
    """What tells this mapping from another; what is not said in it is left out, as its defaults may grow."""
    assert settings.mapping is not None  # noqa: S101 (asked by the caller)
    told = load_mapping(settings.mapping).model_dump_json(exclude_defaults=True)
    return blake2b(told.encode(), digest_size=8).hexdigest()
