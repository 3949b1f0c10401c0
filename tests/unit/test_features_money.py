"""Currencies and their minor units."""

from decimal import Decimal

import pytest

from features.money import CURRENCIES, exponent, in_major_units, in_minor_units


@pytest.mark.parametrize(
    ("currency", "decimals"),
    [
        *(("EUR", 2), ("HUF", 2), ("IDR", 2), ("MGA", 2), ("MRU", 2), ("TWD", 2), ("UYU", 2), ("XCG", 2)),
        *(("JPY", 0), ("ISK", 0), ("KRW", 0), ("CLP", 0), ("UGX", 0), ("UYI", 0), ("VND", 0), ("XPF", 0)),
        *(("BHD", 3), ("IQD", 3), ("JOD", 3), ("KWD", 3), ("LYD", 3), ("OMR", 3), ("TND", 3)),
        *(("CLF", 4), ("UYW", 4)),
        *(("BGN", 2), ("BYR", 0), ("HRK", 2), ("MRO", 2), ("VEF", 2), ("ZMK", 2)),
    ],
)
def test_a_currency_has_the_decimals_of_iso_4217(currency: str, decimals: int) -> None:
    assert exponent(currency) == decimals


def test_nobody_pays_in_gold_or_in_no_currency() -> None:
    assert not {"XAU", "XTS", "XXX", "EURO", "eur"} & set(CURRENCIES)


def test_every_code_is_three_capital_letters() -> None:
    assert all(len(code) == 3 and code.isascii() and code.isalpha() and code.isupper() for code in CURRENCIES)


def test_an_unknown_currency_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'eur' is not a currency of ISO 4217"):
        exponent("eur")


def test_an_amount_goes_to_minor_units_and_back() -> None:
    for currency in CURRENCIES:
        assert in_minor_units(in_major_units(123_456, currency), currency) == 123_456


def test_an_amount_the_currency_cannot_pay_is_never_rounded() -> None:
    with pytest.raises(ValueError, match="JPY has 0 decimals"):
        in_minor_units(Decimal("75.5"), "JPY")


@pytest.mark.parametrize("amount", ["NaN", "Infinity"])
def test_an_amount_that_is_no_number_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        in_minor_units(Decimal(amount), "EUR")
