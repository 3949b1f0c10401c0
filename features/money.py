"""Money is an integer of minor units and an ISO-4217 currency; this is the list and its exponents."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

__all__ = ["CURRENCIES", "exponent", "in_major_units", "in_minor_units"]

_TWO_DECIMALS = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
    CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD
    GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL
    MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR
    PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP
    TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG
"""
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS = "CLF UYW"
# Withdrawn in the last years, and kept: a replay of past orders must still be able to read them.
_WITHDRAWN_TWO_DECIMALS = "ANG BGN CUC HRK LTL MRO SLL STD VEF ZMK ZWL"
_WITHDRAWN_NO_DECIMALS = "BYR"

CURRENCIES: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(f"{_TWO_DECIMALS} {_WITHDRAWN_TWO_DECIMALS}".split(), 2)
    | dict.fromkeys(f"{_NO_DECIMALS} {_WITHDRAWN_NO_DECIMALS}".split(), 0)
    | dict.fromkeys(_THREE_DECIMALS.split(), 3)
    | dict.fromkeys(_FOUR_DECIMALS.split(), 4)
)
"""Every currency an order may be paid in, with the number of decimals of its minor unit.

Precious metals and the codes for testing and for "no currency" are not in it: nobody pays with them.
"""


def exponent(currency: str) -> int:
    """How many decimals the currency's minor unit has: 2 for EUR, 0 for JPY, 3 for KWD."""
    try:
        return CURRENCIES[currency]
    except KeyError:
        message = f"{currency!r} is not a currency of ISO 4217; write three capital letters such as 'EUR'"
        raise ValueError(message) from None


def in_minor_units(amount: Decimal, currency: str) -> int:
    """The amount as an integer of minor units; what the currency cannot pay is refused, never rounded.

    >>> in_minor_units(Decimal("75.81"), "EUR"), in_minor_units(Decimal("75"), "JPY")
    (7581, 75)
    """
    decimals = exponent(currency)
    if not amount.is_finite():
        message = f"an amount of {currency} must be a finite number; leave it out when it is unknown"
        raise ValueError(message)
    minor = amount.scaleb(decimals)
    if minor != int(minor):
        message = f"{currency} has {decimals} decimals and the amount has more; round it where it is made"
        raise ValueError(message)
    return int(minor)


def in_major_units(amount: int, currency: str) -> Decimal:
    """The amount as people write it, with the currency's decimals.

    >>> str(in_major_units(7580, "EUR")), str(in_major_units(75, "JPY"))
    ('75.80', '75')
    """
    return Decimal(amount).scaleb(-exponent(currency))
