"""A declared table of exchange rates: amounts in several currencies are compared in one, never added raw."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import lcm
from types import MappingProxyType

from features.money import CURRENCIES, exponent

__all__ = ["Rates", "RatesError"]

_RATE = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


class RatesError(ValueError):
    """A table of rates is declared wrongly."""


@dataclass(frozen=True)
class Rates:
    """What one unit of each currency is worth in the base currency, under a name that never changes meaning.

        Rates("2026-01", base="EUR", per_unit={"USD": "0.92", "JPY": "0.0061"})

    A feature's declaration holds the whole table: other rates make another feature, and a model trained
    with one table is never served with another. Rates are exact decimals, written as text. The base
    currency itself is worth 1. Raises RatesError for anything that is not a rate.
    """

    name: str
    base: str
    per_unit: Mapping[str, str]

    def __post_init__(self) -> None:
        """Check the table, and make it one that cannot change."""
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            message = f"Rates need a name such as '2026-01', not {self.name!r}"
            raise RatesError(message)
        if not isinstance(self.base, str) or self.base not in CURRENCIES:
            message = f"Rates {self.name!r} need a base currency of ISO 4217 such as 'EUR', not {self.base!r}"
            raise RatesError(message)
        if not isinstance(self.per_unit, Mapping):
            message = (
                f"Rates {self.name!r}: per_unit= takes what one unit of each currency is worth, such as "
                f"{{'USD': '0.92'}}, not {self.per_unit!r}"
            )
            raise RatesError(message)
        for currency, rate in self.per_unit.items():
            if currency not in CURRENCIES:
                message = f"Rates {self.name!r}: {currency!r} is not a currency of ISO 4217"
                raise RatesError(message)
            if currency == self.base and rate != "1":
                message = f"Rates {self.name!r}: one {self.base} is worth 1 {self.base}; leave it out"
                raise RatesError(message)
            self._check(currency, rate)
        object.__setattr__(self, "per_unit", MappingProxyType(dict(sorted(self.per_unit.items()))))

    def _check(self, currency: str, rate: str) -> None:
        if not isinstance(rate, str) or not _RATE.fullmatch(rate) or not Decimal(rate):
            message = (
                f"Rates {self.name!r}: one {currency} must be worth a positive number of {self.base} written "
                f"as text, such as '0.92', of at most 15 digits before and behind the point; got {rate!r}"
            )
            raise RatesError(message)

    def __hash__(self) -> int:
        """Equal tables hash alike."""
        return hash((self.name, self.base, *self.per_unit.items()))

    @property
    def declaration(self) -> str:
        """The whole table, as text."""
        rates = ", ".join(f"{currency}: {rate}" for currency, rate in self.per_unit.items())
        return f"Rates({self.name!r}, base={self.base}, {rates})"

    @cached_property
    def _worth(self) -> dict[str, Fraction]:
        """What a minor unit of each currency is worth, in major units of the base."""
        rates = {self.base: "1"} | dict(self.per_unit)
        return {currency: Fraction(rate) / 10 ** exponent(currency) for currency, rate in rates.items()}

    @cached_property
    def denominator(self) -> int:
        """What the numerators are to be divided by."""
        return lcm(*(worth.denominator for worth in self._worth.values()))

    @cached_property
    def numerators(self) -> Mapping[str, int]:
        """What a currency's minor units are multiplied by; over `denominator` they are then of the base."""
        return MappingProxyType(
            {
                currency: worth.numerator * (self.denominator // worth.denominator)
                for currency, worth in self._worth.items()
            }
        )
