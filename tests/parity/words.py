"""Declarations of every word, condition, entity, fact, text and number of the grammar, to try them with."""

from datetime import timedelta

from features.aggregates import (
    Category,
    Count,
    Distance,
    Distinct,
    IsNew,
    Max,
    Mean,
    Min,
    OrderAmount,
    Ratio,
    Share,
    SinceFirst,
    SinceLast,
    Speed,
    Std,
    Sum,
    Trend,
    ZScore,
)
from features.catalogue import CATALOGUE
from features.conditions import (
    Condition,
    as_large,
    at_least,
    below,
    is_in,
    near_hour,
    other,
    same,
    was,
)
from features.define import Feature, days, hours, minutes, weeks, years
from features.facts import FACTS
from features.rates import Rates
from tests.parity.naive import ENTITIES, NUMBERS, VALUES

RATES = Rates("for the tests", base="EUR", per_unit={"USD": "0.92", "JPY": "0.0061", "KWD": "3.0321"})
"""The Swiss franc is left out on purpose."""

_OVER = days(30)

CONDITIONS: tuple[Condition, ...] = (
    *(same(what) for what in VALUES),
    other("card"),
    other("country"),
    other("device"),
    is_in("payment_method", "invoice", "paypal"),
    is_in("country", "DE"),
    at_least("payment_attempts", 2),
    at_least("gift_card_pieces", 1),
    at_least("promotions", 1),
    below("pieces", 3),
    below("account_age_days", 30),
    near_hour(1),
    near_hour(6),
    near_hour(11),
    *(was(fact) for fact in FACTS),
    as_large(),
    ~same("device"),
    ~was("refunded"),
    ~is_in("payment_method", "invoice"),
    ~below("pieces", 3),
    same("card") & ~was("declined"),
    ~(near_hour(2) & same("country")) & as_large(),
)

_AMOUNTS = (Mean, Std, Min, Max, ZScore)

WORDS: tuple[Feature, ...] = (
    *(Count(over=over) for over in (minutes(10), hours(7), days(2), weeks(4), years(1))),
    *(Count(over=_OVER, where=condition) for condition in CONDITIONS),
    *(Count(over=_OVER, by=entity) for entity in ENTITIES if entity != "customer"),
    *(Count(over=days(7), by=entity, known_after=days(7)) for entity in ENTITIES),
    *(Count(fact, over=days(180)) for fact in FACTS),
    *(Count("fraud", over=days(7), by=entity, known_after=days(7)) for entity in ENTITIES),
    *(Sum("refunded", over=days(180), by=entity) for entity in ("customer", "merchant")),
    Sum("refunded", over=days(90), rates=RATES),
    Sum("amount", over=hours(1)),
    Sum("amount", over=_OVER, rates=RATES),
    Sum("amount", over=_OVER, where=same("merchant"), rates=RATES, known_after=days(1)),
    Sum("amount", over=_OVER, where=was("fraud"), by="merchant"),
    *(word("amount", over=days(90)) for word in _AMOUNTS),
    *(word("amount", over=years(1), rates=RATES) for word in _AMOUNTS),
    *(word("amount", over=days(90), where=same("country")) for word in _AMOUNTS),
    *(word("amount", over=days(90), by="merchant", known_after=days(7)) for word in _AMOUNTS),
    *(Mean(what, over=days(90)) for what in NUMBERS),
    *(word("pieces", over=days(90), where=other("category")) for word in (Sum, Mean, Std, Min, Max)),
    *(word("payment_attempts", over=days(180), by="card") for word in (Sum, Mean, Std, Min, Max)),
    *(Distinct(what, over=days(90)) for what in VALUES),
    *(Distinct("customer", over=days(180), by=entity) for entity in ENTITIES if entity != "customer"),
    Distinct("card", over=days(90), where=is_in("country", "DE", "FR"), known_after=hours(1)),
    *(Share(condition, over=days(90)) for condition in CONDITIONS),
    *(Share("fraud", over=days(7), by=entity, known_after=days(7)) for entity in ENTITIES),
    *(Share(fact, over=years(1)) for fact in FACTS),
    SinceFirst(),
    SinceLast(),
    *(word(by=entity) for word in (SinceFirst, SinceLast) for entity in ("device", "merchant")),
    *(word(where=condition) for word in (SinceFirst, SinceLast) for condition in CONDITIONS),
    *(word(fact) for word in (SinceFirst, SinceLast) for fact in FACTS),
    *(IsNew(what) for what in VALUES),
    IsNew("card", by="device"),
    Ratio(OrderAmount(), to=Mean("amount", over=_OVER)),
    Ratio(Sum("refunded", over=days(180)), to=Sum("amount", over=days(180))),
    Ratio(Count(over=days(1), by="device"), to=Distinct("card", over=days(30), by="device")),
    Ratio(OrderAmount(), to=Max("amount", over=_OVER, by="merchant")),
    *(Trend(what, over=days(7), against=days(90)) for what in ("orders", "amount")),
    Trend("orders", over=hours(1), against=days(2), where=same("card"), by="merchant"),
    Trend("orders", over=days(1), against=days(30), known_after=days(7)),
    Distance(),
    Speed(),
    Distance(by="card"),
    Speed(by="card"),
    OrderAmount(),
    OrderAmount(rates=RATES),
    Category("country", ("DE", "FR")),
    Category("payment_method", ("paypal", "card")),
)

EVERY_FEATURE: tuple[Feature, ...] = tuple({each.name: each for each in (*CATALOGUE, *WORDS)}.values())
"""The catalogue, and what it leaves out."""


def windows_of(feature: Feature) -> tuple[timedelta, ...]:
    """How far the feature looks back, whichever of its parts does."""
    found = [getattr(feature, name, None) for name in ("over", "against")]
    return tuple(each for each in found if each is not None)
