"""Every feature the scorer knows, grouped by what it looks at. A new one is one line here.

Names, meanings, units, ranges and what a missing value means are derived from the lines, and
docs/features.md from them. The comments name what is not plain from the words.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import asin, cos, radians, sin, sqrt
from types import MappingProxyType
from typing import Final

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
from features.conditions import as_large, at_least, near_hour, other, same
from features.define import Feature, OrderFact, days, feature, hours, minutes
from features.errors import FeatureDefinitionError
from features.events import LARGEST_AMOUNT, Order, microseconds
from features.money import exponent
from features.rates import Rates

__all__ = [
    "BUILT_IN",
    "CATALOGUE",
    "GROUPS",
    "SERVED",
    "STARTER",
    "Catalogue",
    "amounts_in",
    "by_name",
    "by_names",
    "is_declared",
    "is_served",
    "unserved",
]

_SATURDAY = 5
_EARTH_KM = 6371.0088
"""The earth's mean radius, as the International Union of Geodesy and Geophysics gives it."""
_HALFWAY_ROUND_KM = 20_016
"""Two places on earth are no further apart."""


# The order itself ---------------------------------------------------------------------------------


amount = OrderAmount()


@feature(unit="hour of the day in UTC", between=(0, 23), missing="never")
def hour_of_day(order: Order) -> float:
    """The hour the order was placed in."""
    return order.placed_at.hour


@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_weekend(order: Order) -> float:
    """1 when the order was placed on a Saturday or Sunday in UTC, else 0."""
    return order.placed_at.weekday() >= _SATURDAY


@feature(unit="pieces", between=(0, None), missing="the order lists no items")
def items_count(order: Order) -> float | None:
    """Pieces in the basket, quantities counted."""
    return sum(item.quantity for item in order.items) if order.items else None


@feature(unit="share", between=(0, 1), missing="the order lists no items")
def digital_share(order: Order) -> float | None:
    """Share of the basket's pieces that are digital and delivered at once."""
    if not order.items:
        return None
    pieces = sum(item.quantity for item in order.items)
    return sum(item.quantity for item in order.items if item.digital) / pieces


@feature(unit="tries", between=(0, None), missing="the shop does not say")
def payment_attempts(order: Order) -> float | None:
    """How often payment was tried for this order."""
    return order.payment_attempts


@feature(unit="days", between=(0, None), missing="not said, a guest, or dated after the order")
def account_age_days(order: Order) -> float | None:
    """Days from the account's creation to the order."""
    if order.account_created_at is None:
        return None
    age = microseconds(order.placed_at) - microseconds(order.account_created_at)
    return age / 86_400_000_000 if age >= 0 else None


@feature(unit="0 or 1", between=(0, 1), missing="the card's or the order's country is not known")
def issuer_country_differs(order: Order) -> float | None:
    """1 when the card was issued in another country than the order was placed in, else 0."""
    if order.card is None or order.card.issuer_country is None or order.country is None:
        return None
    return order.card.issuer_country != order.country


@feature(unit="0 or 1", between=(0, 1), missing="the shipping or the billing country is not known")
def shipping_country_differs(order: Order) -> float | None:
    """1 when the order ships to another country than it is billed to, else 0."""
    if order.shipping is None or order.billing is None:
        return None
    if order.shipping.country is None or order.billing.country is None:
        return None
    return order.shipping.country != order.billing.country


def _differ(one: str | None, another: str | None) -> bool | None:
    """Whether two texts differ; None where one is unknown."""
    return None if one is None or another is None else one != another


@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_guest(order: Order) -> float:
    """1 when a guest ordered, of whom no history is kept, else 0."""
    return order.customer_id is None


@feature(unit="0 or 1", between=(0, 1), missing="the card's or the billing country is not known")
def issuer_country_differs_from_billing(order: Order) -> float | None:
    """1 when the card was issued in another country than the order is billed to, else 0."""
    if order.card is None or order.billing is None:
        return None
    return _differ(order.card.issuer_country, order.billing.country)


@feature(unit="0 or 1", between=(0, 1), missing="the card's or the shipping country is not known")
def issuer_country_differs_from_shipping(order: Order) -> float | None:
    """1 when the card was issued in another country than the order ships to, else 0."""
    if order.card is None or order.shipping is None:
        return None
    return _differ(order.card.issuer_country, order.shipping.country)


@feature(unit="0 or 1", between=(0, 1), missing="the billing or the order's country is not known")
def billing_country_differs(order: Order) -> float | None:
    """1 when the order is billed to another country than it was placed in, else 0."""
    return None if order.billing is None else _differ(order.billing.country, order.country)


@feature(unit="0 or 1", between=(0, 1), missing="the shipping or the order's country is not known")
def shipping_country_differs_from_order(order: Order) -> float | None:
    """1 when the order ships to another country than it was placed in, else 0."""
    return None if order.shipping is None else _differ(order.shipping.country, order.country)


@feature(unit="0 or 1", between=(0, 1), missing="the shipping or the billing address is not known")
def shipping_address_differs(order: Order) -> float | None:
    """1 when the order ships to another address than it is billed to, else 0."""
    if order.shipping is None or order.billing is None:
        return None
    return _differ(order.shipping.hash, order.billing.hash)


@feature(
    unit="kilometres",
    between=(0, _HALFWAY_ROUND_KM),
    missing="the place of the shipping or of the billing address is not known",
)
def km_from_billing_to_shipping(order: Order) -> float | None:
    """Kilometres from where the order is billed to where it ships, the shortest way over the earth."""
    if order.billing is None or order.shipping is None:
        return None
    if order.billing.latitude is None or order.billing.longitude is None:
        return None
    if order.shipping.latitude is None or order.shipping.longitude is None:
        return None
    north, south = radians(order.billing.latitude), radians(order.shipping.latitude)
    across = radians(order.shipping.longitude) - radians(order.billing.longitude)
    half = sin((south - north) / 2) ** 2 + cos(north) * cos(south) * sin(across / 2) ** 2
    return 2 * _EARTH_KM * asin(sqrt(min(1.0, half)))  # rounding may put it above 1


@feature(unit="lines", between=(1, None), missing="the order lists no items")
def lines_count(order: Order) -> float | None:
    """Lines of the basket."""
    return len(order.items) or None


@feature(unit="pieces", between=(0, None), missing="the order lists no items")
def gift_cards_count(order: Order) -> float | None:
    """Gift cards in the basket, quantities counted."""
    return sum(item.quantity for item in order.items if item.gift_card) if order.items else None


@feature(unit="share", between=(0, 1), missing="an item has no price, or all together cost nothing")
def largest_line_share(order: Order) -> float | None:
    """The dearest line's share of the basket's value."""
    worth = [item.unit_price * item.quantity for item in order.items if item.unit_price is not None]
    if len(worth) < len(order.items) or not sum(worth):
        return None
    return max(worth) / sum(worth)


@feature(
    unit="major units of the order's currency",
    between=(0, LARGEST_AMOUNT),
    missing="the order lists no items, or one without its price",
)
def mean_piece_price(order: Order) -> float | None:
    """What a piece of the basket costs in the mean."""
    total = pieces = 0
    for item in order.items:
        if item.unit_price is None:
            return None
        total += item.unit_price * item.quantity
        pieces += item.quantity
    return total / (pieces * 10 ** exponent(order.currency)) if pieces else None


@feature(unit="codes", between=(0, None), missing="never")
def promotions_count(order: Order) -> float:
    """Promotion codes the order used."""
    return len(order.promotion_codes)


# The groups ---------------------------------------------------------------------------------------


_VELOCITY: tuple[Feature, ...] = (
    Count(over=minutes(10)),  # orders_count_10m
    Count(over=hours(1)),
    Count(over=days(1)),
    Count(over=days(7)),
    Count(over=days(30)),
    Count(over=days(365)),
    SinceLast(),  # days_since_last_order
    SinceFirst(),  # days_since_first_order
    Trend("orders", over=days(7), against=days(90)),  # orders_trend_7d_90d
)

_AMOUNTS: tuple[Feature, ...] = (
    amount,
    Sum("amount", over=days(1)),
    Sum("amount", over=days(30)),
    Mean("amount", over=days(7)),
    Mean("amount", over=days(30)),
    Std("amount", over=days(90)),
    Max("amount", over=days(30)),
    ZScore("amount", over=days(90)),  # amount_zscore_90d
    Ratio(amount, to=Mean("amount", over=days(30))),  # amount_over_amount_mean_30d
    Ratio(amount, to=Max("amount", over=days(365))),
    Share(as_large(), over=days(365)),  # how usual so large an order is
    Trend("amount", over=days(7), against=days(90)),
)

_NOVELTY: tuple[Feature, ...] = (
    IsNew("device"),  # device_is_new
    IsNew("card"),
    IsNew("shipping_address"),
    IsNew("billing_address"),
    IsNew("email"),
    IsNew("ip"),
    IsNew("country"),
    IsNew("shipping_country"),
    IsNew("category"),
    IsNew("merchant"),
    IsNew("payment_method"),
    IsNew("currency"),
)

_DISTINCT: tuple[Feature, ...] = (
    Distinct("card", over=hours(1)),  # card_distinct_1h
    Distinct("card", over=days(30)),
    Distinct("device", over=days(30)),
    Distinct("ip", over=days(1)),
    Distinct("shipping_address", over=days(30)),
    Distinct("country", over=days(30)),
    Distinct("issuer_country", over=days(90)),
    Distinct("payment_method", over=days(30)),
)

_COUNTRIES: tuple[Feature, ...] = (
    issuer_country_differs,
    issuer_country_differs_from_billing,
    issuer_country_differs_from_shipping,
    shipping_country_differs,
    shipping_country_differs_from_order,
    billing_country_differs,
    Share(same("country"), over=days(90)),  # same_country_share_90d
)

_PLACES: tuple[Feature, ...] = (
    shipping_address_differs,
    km_from_billing_to_shipping,
    Distance(),  # km_from_last_address
    Speed(),  # km_per_hour_from_last_address
    SinceLast(where=same("shipping_address")),  # days_since_last_order_same_shipping_address
)

_ACCOUNT: tuple[Feature, ...] = (
    is_guest,
    account_age_days,
    Ratio(Count(over=days(1)), to=account_age_days),  # a burst out of a young account
)

_HABIT: tuple[Feature, ...] = (
    hour_of_day,
    is_weekend,
    Share(near_hour(2), over=days(365)),  # how usual an order at this hour is
)

_BASKET: tuple[Feature, ...] = (
    items_count,
    lines_count,
    digital_share,
    gift_cards_count,
    largest_line_share,
    mean_piece_price,
    Ratio(items_count, to=Mean("pieces", over=days(90))),
    Sum("gift_card_pieces", over=days(30)),
)

_PAYMENT: tuple[Feature, ...] = (
    payment_attempts,
    Max("payment_attempts", over=days(30)),
    Count("declined", over=hours(1)),  # declined_count_1h
    Count("declined", over=days(30)),
    Share("declined", over=days(30)),
    Count(over=days(1), where=other("card")),  # orders_count_1d_other_card
    Count(over=days(365), where=same("card")),  # how often this card was used before
    SinceLast(where=same("card")),
)

_PROMOTIONS: tuple[Feature, ...] = (
    promotions_count,
    IsNew("promotion"),
    Sum("promotions", over=days(30)),
    Share(at_least("promotions", 1), over=days(90)),
)

_RETURNS: tuple[Feature, ...] = (
    Count("refunded", over=days(180)),  # refunded_count_180d
    Share("refunded", over=days(180)),
    Sum("refunded", over=days(180)),
    SinceLast("refunded"),
    Count("returned", over=days(180)),
    Share("returned", over=days(180)),
    Count("cancelled", over=days(30)),
    Share("delivered", over=days(180), known_after=days(14)),
    Count("repaid", over=days(365)),
)

_FRAUD: tuple[Feature, ...] = (
    Count("fraud", over=days(365)),  # fraud_count_365d
    Share("fraud", over=days(365)),
    SinceLast("fraud"),
    # of orders old enough that most of their chargebacks have come
    Count("fraud", over=days(365), known_after=days(45)),
    Share("fraud", over=days(365), known_after=days(45)),
)

_OFTEN = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "AT", "PL", "BR")

_CATEGORIES: tuple[Feature, ...] = (
    # a start, not a list of the world: put in what your own orders say
    Category("country", _OFTEN),
    Category("issuer_country", _OFTEN),
    Category("category", ("apparel", "electronics", "home", "beauty", "games", "grocery", "gift-card")),
    Category("payment_method", ("card", "paypal", "invoice", "bank_transfer", "direct_debit", "wallet")),
    Category("email_domain", ("gmail.com", "yahoo.com", "hotmail.com", "outlook.com", "icloud.com")),
    Category("channel", ("web", "app", "phone", "marketplace")),
    Category("card_funding", ("credit", "debit", "prepaid")),
)

_BY_DEVICE: tuple[Feature, ...] = (
    Count(over=hours(1), by="device"),  # by_device_orders_count_1h
    SinceFirst(by="device"),
    Distinct("customer", over=days(30), by="device"),
    Distinct("card", over=days(30), by="device"),
    Count("fraud", over=days(90), known_after=days(7), by="device"),
    Share("fraud", over=days(90), known_after=days(7), by="device"),
)

_BY_CARD: tuple[Feature, ...] = (
    Count(over=hours(1), by="card"),
    Count(over=days(1), by="card"),
    SinceFirst(by="card"),
    Distinct("customer", over=days(30), by="card"),
    Distinct("shipping_address", over=days(30), by="card"),
    Count("declined", over=days(1), by="card"),
    Share("fraud", over=days(90), known_after=days(7), by="card"),
)

_BY_IP: tuple[Feature, ...] = (
    Count(over=hours(1), by="ip"),
    Distinct("customer", over=days(1), by="ip"),
    Distinct("card", over=days(1), by="ip"),
    Count("fraud", over=days(30), known_after=days(7), by="ip"),
    Share("fraud", over=days(30), known_after=days(7), by="ip"),
)

_BY_EMAIL: tuple[Feature, ...] = (
    SinceFirst(by="email"),
    Distinct("card", over=days(90), by="email"),
    Count("fraud", over=days(365), known_after=days(7), by="email"),
)

_BY_SHIPPING_ADDRESS: tuple[Feature, ...] = (
    SinceFirst(by="shipping_address"),
    Distinct("customer", over=days(90), by="shipping_address"),
    Distinct("card", over=days(90), by="shipping_address"),
    Share("fraud", over=days(365), known_after=days(7), by="shipping_address"),
)

_BY_MERCHANT: tuple[Feature, ...] = (
    Count(over=hours(1), by="merchant"),
    Trend("orders", over=days(1), against=days(30), by="merchant"),
    ZScore("amount", over=days(30), by="merchant"),
    Count("fraud", over=days(7), known_after=days(7), by="merchant"),
    Share("fraud", over=days(7), known_after=days(7), by="merchant"),
)

GROUPS: Final[Mapping[str, tuple[Feature, ...]]] = MappingProxyType(
    {
        "velocity": _VELOCITY,
        "amounts": _AMOUNTS,
        "novelty": _NOVELTY,
        "distinct": _DISTINCT,
        "countries": _COUNTRIES,
        "places": _PLACES,
        "account": _ACCOUNT,
        "habit": _HABIT,
        "basket": _BASKET,
        "payment": _PAYMENT,
        "promotions": _PROMOTIONS,
        "returns": _RETURNS,
        "fraud": _FRAUD,
        "categories": _CATEGORIES,
        "by_device": _BY_DEVICE,
        "by_card": _BY_CARD,
        "by_ip": _BY_IP,
        "by_email": _BY_EMAIL,
        "by_shipping_address": _BY_SHIPPING_ADDRESS,
        "by_merchant": _BY_MERCHANT,
    }
)
"""Every feature of the catalogue, by the name of its group; each is in one group only."""

CATALOGUE: Final[tuple[Feature, ...]] = tuple(each for group in GROUPS.values() for each in group)
"""Every feature, in the order of the groups."""

_ALWAYS_KEPT: Final = frozenset({None, "customer"})
"""Whose features every worker computes; None is the order itself."""


def is_served(feature: Feature, entities: Collection[str] = ()) -> bool:
    """Whether a worker that keeps these entities' histories, beside the customer's, computes the feature."""
    return feature.entity in _ALWAYS_KEPT or feature.entity in entities


SERVED: Final[tuple[Feature, ...]] = tuple(filter(is_served, CATALOGUE))
"""The features a model may use where workers keep no history but the customer's."""

STARTER: Final[tuple[Feature, ...]] = tuple(
    {each.name: each for each in CATALOGUE}[name]
    for name in (
        "amount",
        "hour_of_day",
        "is_weekend",
        "items_count",
        "digital_share",
        "payment_attempts",
        "account_age_days",
        "issuer_country_differs",
        "shipping_country_differs",
        "orders_count_1h",
        "orders_count_1d",
        "orders_count_7d",
        "orders_count_30d",
        "amount_sum_1d",
        "amount_mean_7d",
        "amount_mean_30d",
        "amount_max_30d",
        "days_since_last_order",
        "days_since_first_order",
        "device_distinct_30d",
        "card_distinct_30d",
        "device_is_new",
        "card_is_new",
        "shipping_address_is_new",
        "amount_over_amount_mean_30d",
    )
)
"""The features the first models are trained on; published models depend on these names and their order."""


def amounts_in(rates: Rates) -> tuple[Feature, ...]:
    """The features of amounts with all currencies of a rate table brought to its base: amount_eur and so on.

    For shops that sell in several currencies. They are not part of CATALOGUE, because the table is the
    shop's own, and its digest is part of what a model learnt from.
    """
    own = OrderAmount(rates=rates)
    return (
        own,
        Sum("amount", over=days(1), rates=rates),
        Sum("amount", over=days(30), rates=rates),
        Mean("amount", over=days(30), rates=rates),
        Mean("amount", over=days(365), rates=rates),
        Std("amount", over=days(90), rates=rates),
        Min("amount", over=days(90), rates=rates),
        Max("amount", over=days(30), rates=rates),
        Max("amount", over=days(365), rates=rates),
        ZScore("amount", over=days(90), rates=rates),
        Ratio(own, to=Mean("amount", over=days(30), rates=rates)),
        Ratio(own, to=Max("amount", over=days(365), rates=rates)),
    )


@dataclass(frozen=True)
class Catalogue:
    """The features that can be asked for by name: those of CATALOGUE, and a shop's `own`.

    `entities` are those whose histories are kept beside the customer's.
    Raises FeatureDefinitionError where one of the own is no declared feature, or has a name that another
    feature or a group has.
    """

    own: tuple[Feature, ...] = ()
    entities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the shop's own features."""
        taken = {each.name: "the catalogue has a feature" for each in CATALOGUE}
        taken |= dict.fromkeys((*GROUPS, *_SETS), "there is a group")
        for number, each in enumerate(self.own, 1):
            if not is_declared(each):
                message = f"number {number} should be a declared feature and is {_not_one(each)}"
                raise FeatureDefinitionError(message)
            if each.name in taken:
                message = (
                    f"number {number} has the name {each.name!r}, and {taken[each.name]} of that name "
                    "already; leave it out, or give it another name"
                )
                raise FeatureDefinitionError(message)
            taken[each.name] = "one before it is a feature"

    @cached_property
    def groups(self) -> Mapping[str, tuple[Feature, ...]]:
        """Every feature by the name of its group; a shop's own are the group `own`."""
        return MappingProxyType({**GROUPS, "own": self.own}) if self.own else GROUPS

    @cached_property
    def served(self) -> tuple[Feature, ...]:
        """The features a model in service may use."""
        return tuple(each for each in (*CATALOGUE, *self.own) if is_served(each, self.entities))

    @cached_property
    def _by_name(self) -> Mapping[str, Feature]:
        return {each.name: each for each in (*CATALOGUE, *self.own)}

    def by_name(self, name: str) -> Feature:
        """The feature of this name; an unknown one is refused with the nearest that exists."""
        try:
            return self._by_name[name]
        except KeyError:
            message = f"there is no feature {name!r}{self._nearest(name, self._by_name)}"
            raise FeatureDefinitionError(message) from None

    def by_names(self, names: Iterable[str]) -> tuple[Feature, ...]:
        """The features of these names, in their order, as a trained model lists them."""
        return tuple(self.by_name(name) for name in names)

    def chosen(self, what: str) -> tuple[Feature, ...]:
        """What a person asks for: `starter`, `served`, a group's name or a feature's, or several with commas.

        In the order they are asked for; one that is asked for twice counts where it came first.
        """
        sets = {"starter": STARTER, "served": self.served, **self.groups}
        found: dict[str, Feature] = {}
        for word in map(str.strip, what.split(",")):
            if word not in sets and word not in self._by_name:
                message = (
                    f"there is no feature or group {word!r}{self._nearest(word, (*sets, *self._by_name))}"
                )
                raise FeatureDefinitionError(message)
            found |= {each.name: each for each in sets.get(word) or (self._by_name[word],)}
        return tuple(found.values())

    def _nearest(self, typed: str, known: Iterable[str]) -> str:
        near = get_close_matches(typed, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; 'fraudstream features' lists them"
        return hint if self.own else f"{hint} (a shop's own are those that the setting 'features' names)"


_SETS: Final = ("starter", "served", "own")

_WORDS: Final = frozenset(
    {
        *(OrderFact, OrderAmount, Category, Count, Share, Distinct, Sum, Mean, Min, Max, Std, ZScore),
        *(Trend, SinceFirst, SinceLast, IsNew, Distance, Speed, Ratio),
    }
)
"""What features are declared with; of another class, or of one derived, no digest would hold the code."""


def is_declared(thing: object) -> bool:
    """Whether it is a feature made by `@feature` or by a word of the grammar."""
    return type(thing) in _WORDS


def _not_one(thing: object) -> str:
    """What came in place of a feature, and what to write."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}; write what it is to count, such as Count(over=days(30))"
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__}; write a * before it, as in (weight, *amounts_in(RATES))"
    if callable(thing):
        return "a function; write @feature(...) above it"
    return f"of the class {type(thing).__name__}; declare it with @feature or the grammar's words"


BUILT_IN: Final = Catalogue()
"""The catalogue of a shop without features of its own."""


def by_name(name: str) -> Feature:
    """The feature of CATALOGUE of this name; an unknown one is refused with the nearest that exists."""
    return BUILT_IN.by_name(name)


def by_names(names: Iterable[str]) -> tuple[Feature, ...]:
    """The features of CATALOGUE of these names, in their order."""
    return BUILT_IN.by_names(names)


def unserved(features: Iterable[Feature], entities: Collection[str] = ()) -> str:
    """Why workers that keep these entities' histories, beside the customer's, can't serve a model with these.

    And what to do; an empty text when they can.
    """
    asking = [each for each in features if not is_served(each, entities)]
    if not asking:
        return ""
    names = ", ".join([f"{each.name} ({each.entity})" for each in asking])
    needed = ",".join(dict.fromkeys([*entities, *(str(each.entity) for each in asking)]))
    return (
        f"asks for features of a history that workers do not keep here: {names}; set "
        f"FRAUDSTREAM_ENTITIES={needed} and run 'fraudstream rebuild', or leave them out"
    )
