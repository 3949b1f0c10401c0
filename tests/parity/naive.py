"""The naive oracle of the whole grammar: lists of orders and facts, for loops, fractions.

It knows nothing of rows, columns, tiles, fingerprints, bounds of windows or sums kept: every feature is
read off what arrived, anew each time. A value is an exact fraction that is rounded once, at the very end.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

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
from features.conditions import (
    _And,
    _Not,
    as_large,
    at_least,
    below,
    is_in,
    near_hour,
    other,
    same,
    was,
)
from features.define import Feature, OrderFact
from features.events import Order, OrderEvent, Outcome
from features.facts import Fact
from features.money import exponent
from features.rates import Rates

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOTHING = timedelta(0)
TICK = timedelta(microseconds=1)
EARTH_KM = 6371.0088

Vector = tuple[float | None, ...]

ENTITIES: Mapping[str, Callable[[Order], str | None]] = {
    "customer": lambda order: order.customer_id,
    "device": lambda order: order.device_id,
    "card": lambda order: order.card.fingerprint if order.card else None,
    "ip": lambda order: order.ip,
    "email": lambda order: order.email_hash,
    "shipping_address": lambda order: order.shipping.hash if order.shipping else None,
    "merchant": lambda order: order.merchant_id,
}
"""What a history may belong to, and where an order names it."""

VALUES: Mapping[str, Callable[[Order], str | None]] = {
    **ENTITIES,
    "currency": lambda order: order.currency,
    "country": lambda order: order.country,
    "postcode": lambda order: order.shipping.postcode if order.shipping else None,
    "email_domain": lambda order: order.email_domain,
    "category": lambda order: order.items[0].category if order.items else None,
    "payment_method": lambda order: order.payment_method,
    "phone": lambda order: order.phone_hash,
    "billing_address": lambda order: order.billing.hash if order.billing else None,
    "shipping_country": lambda order: order.shipping.country if order.shipping else None,
    "issuer_country": lambda order: order.card.issuer_country if order.card else None,
    "channel": lambda order: order.channel,
    "card_bin": lambda order: order.card.bin if order.card else None,
    "promotion": lambda order: order.promotion_codes[0] if order.promotion_codes else None,
}

NUMBERS: Mapping[str, Callable[[Order], int | None]] = {
    "pieces": lambda order: sum(item.quantity for item in order.items) if order.items else None,
    "digital_pieces": lambda order: (
        sum(item.quantity for item in order.items if item.digital) if order.items else None
    ),
    "gift_card_pieces": lambda order: (
        sum(item.quantity for item in order.items if item.gift_card) if order.items else None
    ),
    "promotions": lambda order: len(order.promotion_codes),
    "payment_attempts": lambda order: order.payment_attempts,
    "account_age_days": lambda order: (
        None
        if order.account_created_at is None or order.account_created_at > order.placed_at
        else (order.placed_at - order.account_created_at) // DAY
    ),
}

FACTS = ("fraud", "authorised", "declined", "cancelled", "delivered", "refunded", "returned", "repaid")


def standing(arrived: Iterable[Order]) -> list[Order]:
    """The orders that stand, by time: of each the highest revision, once; equal times as they arrived.

    A test order stands nowhere, and neither does what it revises.
    """
    highest: dict[str, Order] = {}
    for order in arrived:
        before = highest.get(order.order_id)
        if before is None or before.revision < order.revision:
            highest.pop(order.order_id, None)  # it stands where it arrived, not where the first one did
            highest[order.order_id] = order
    return sorted((one for one in highest.values() if not one.test), key=lambda one: one.placed_at)


class Said(NamedTuple):
    """One statement about an order that stands."""

    fact: Fact
    name: str | None = None
    supersedes: str | None = None


def said_of(order: Order, event: Outcome | OrderEvent) -> Said:
    """What an event says of an order."""
    if isinstance(event, Outcome):
        what, is_so, name, supersedes = "fraud", event.is_fraud, event.outcome_id, event.supersedes
    else:
        what, is_so, name, supersedes = event.kind.removeprefix("payment_"), True, None, None
    amount, currency = order.amount, order.currency
    if event.amount is not None:
        amount, currency = event.amount, event.currency or order.currency
    return Said(
        Fact(order.order_id, order.placed_at, what, is_so, event.known_at, amount, currency),
        name,
        supersedes,
    )


@dataclass(frozen=True)
class Past:
    """What is known of one entity: the orders that stand, by time, and every statement about its orders."""

    orders: Sequence[Order]
    said: Sequence[Said] = ()


def saying_so(about_one: Iterable[Said], before: datetime) -> list[Fact]:
    """The statements that say so, as known before an instant, since nobody said that it is not so.

    What is superseded by then no longer speaks. Of what is said at one instant the yes counts.
    """
    said = list(about_one)
    speaking: list[Fact] = []
    for instant in sorted({each.fact.known_at for each in said if each.fact.known_at < before}):
        known = [each for each in said if each.fact.known_at <= instant]
        superseded = [each.supersedes for each in known if each.supersedes not in {None, each.name}]
        now = {each.fact for each in known if each.fact.known_at == instant and each.name not in superseded}
        if not all(fact.is_so for fact in now):
            speaking = []
        speaking += sorted((fact for fact in now if fact.is_so), key=lambda one: one.amount)
    return speaking


@dataclass
class Scene:
    """One order, looked at from an instant, with the past of one entity."""

    order: Order
    past: Past
    as_of: datetime
    _marked: dict[str, list[list[Fact]]] = field(default_factory=dict)

    def before(self) -> list[Order]:
        """Every order of the past."""
        return [one for one in self.past.orders if one.placed_at < self.as_of]

    def window(self, over: timedelta, known_after: timedelta | None) -> list[Order]:
        """The orders placed in [as_of - known_after - over, as_of - known_after)."""
        end = self.as_of - (known_after or NOTHING)
        return [one for one in self.past.orders if end - over <= one.placed_at < end]

    def marked(self, what: str) -> list[list[Fact]]:
        """For each order of which the fact is known, the statements that say so."""
        if what not in self._marked:
            by_order: dict[str, list[Said]] = {}
            for said in self.past.said:
                if said.fact.what == what:
                    by_order.setdefault(said.fact.order_id, []).append(said)
            speaking = [saying_so(said, self.as_of) for said in by_order.values()]
            self._marked[what] = [facts for facts in speaking if facts]
        return self._marked[what]


Answer = Fraction | int | float | None


def naive(feature: Feature, order: Order, scenes: Mapping[str, Scene]) -> float | None:
    """The feature of an order, given a scene for each entity that the order names; None is unknown."""
    answer = exact(feature, order, scenes)
    return None if answer is None else float(answer)


def naive_vector(
    features: Iterable[Feature],
    order: Order,
    pasts: Mapping[str, Past],
    as_of: datetime | None = None,
) -> Vector:
    """Every one of these features of an order, given the past of each entity that the order names."""
    instant = order.placed_at if as_of is None else as_of
    scenes = {entity: Scene(order, past, instant) for entity, past in pasts.items()}
    return tuple(naive(each, order, scenes) for each in features)


def naive_features(
    features: Sequence[Feature], arrived: Iterable[Order], order: Order
) -> dict[str, float | None]:
    """The same by name, after these orders of the order's customer arrived."""
    pasts = {} if order.customer_id is None else {"customer": Past(standing(arrived))}
    return dict(zip([each.name for each in features], naive_vector(features, order, pasts), strict=True))


def exact(feature: Any, order: Order, scenes: Mapping[str, Scene]) -> Answer:
    """The feature before it is rounded."""
    match feature:
        case OrderFact():
            answer = ORDER_FACTS.get(feature.name, feature.read)(order)
            return None if answer is None else float(answer)  # a function answers a float
        case OrderAmount():
            found, divisor = amounts([(order.amount, order.currency)], order, feature.rates)
            return Fraction(found[0], divisor) if found else None
        case Category():
            text = (VALUES | {"card_funding": funding})[feature.what](order)
            words = [*feature.vocabulary, text]
            return None if text is None else words.index(text)
        case Ratio():
            above, below = (exact(each, order, scenes) for each in (feature.quantity, feature.to))
            return Fraction(above) / Fraction(below) if above is not None and below else None
    scene = scenes.get(feature.by)
    return None if scene is None else ASKED[type(feature)](feature, scene)


def funding(order: Order) -> str | None:
    return order.card.funding if order.card else None


# Money --------------------------------------------------------------------------------------------


def worth(currency: str, own: str, rates: Rates | None) -> Fraction | None:
    """A minor unit in major units of the order's own currency, or of the rates' base; None does not count."""
    if rates is None:
        return Fraction(1, 10 ** exponent(currency)) if currency == own else None
    rate = "1" if currency == rates.base else rates.per_unit.get(currency)
    return None if rate is None else Fraction(rate) / 10 ** exponent(currency)


@cache
def scale(own: str, rates: Rates | None) -> tuple[dict[str, int], int]:
    """By what each currency's minor units are multiplied to be integers alike, and what then divides them."""
    worths = {
        currency: each
        for currency in ([own] if rates is None else [rates.base, *rates.per_unit])
        if (each := worth(currency, own, rates)) is not None
    }
    divisor = math.lcm(*(each.denominator for each in worths.values()))
    return {currency: int(each * divisor) for currency, each in worths.items()}, divisor


def amounts(found: Iterable[tuple[int, str]], order: Order, rates: Rates | None) -> tuple[list[int], int]:
    """Amounts that can be compared with the order's, as integers, and what divides them."""
    factors, divisor = scale(order.currency, rates)
    return [amount * factors[currency] for amount, currency in found if currency in factors], divisor


def measured(feature: Any, orders: Iterable[Order], order: Order) -> tuple[list[int], int]:
    """What orders say of the amount or the number, where they say it, and what divides it."""
    if feature.what == "amount":
        return amounts([(one.amount, one.currency) for one in orders], order, feature.rates)
    numbers = [NUMBERS[feature.what](one) for one in orders]
    return [each for each in numbers if each is not None], 1


# Conditions ---------------------------------------------------------------------------------------


def chosen(where: Any, orders: list[Order], scene: Scene) -> list[Order] | None:
    """Those of the orders that meet the condition; None when this order does not say what is compared."""
    if where is None:
        return orders
    if not can_be_asked(where, scene.order):
        return None
    return [one for one in orders if meets(where, one, scene)]


def can_be_asked(where: Any, order: Order) -> bool:
    match where:
        case _And(one=one, another=another):
            return can_be_asked(one, order) and can_be_asked(another, order)
        case _Not(condition=condition):
            return can_be_asked(condition, order)
        case same(what=what) | other(what=what):
            return VALUES[what](order) is not None
    return True


def meets(where: Any, one: Order, scene: Scene) -> bool:
    """Whether a past order meets the condition."""
    order = scene.order
    match where:
        case _And(one=left, another=right):
            return meets(left, one, scene) and meets(right, one, scene)
        case _Not(condition=condition):
            return not meets(condition, one, scene)
        case same(what=what):
            return VALUES[what](one) == VALUES[what](order)
        case other(what=what):
            return VALUES[what](one) not in {None, VALUES[what](order)}
        case is_in(what=what, texts=texts):
            return VALUES[what](one) in texts
        case at_least(what=what, number=number):
            said = NUMBERS[what](one)
            return said is not None and said >= number
        case below(what=what, number=number):
            said = NUMBERS[what](one)
            return said is not None and said < number
        case near_hour(hours=hours):
            apart = abs(time_of_day(one) - time_of_day(order))
            return min(apart, DAY - apart) <= timedelta(hours=hours)
        case was(fact=fact):
            return one.order_id in [said[-1].order_id for said in scene.marked(fact)]
        case as_large():
            return one.currency == order.currency and one.amount >= order.amount
    raise AssertionError(f"the oracle does not know the condition {where!r}")


def time_of_day(order: Order) -> timedelta:
    """Since midnight, in UTC."""
    at = order.placed_at
    return timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)


# Words --------------------------------------------------------------------------------------------


def facts_in(feature: Any, scene: Scene) -> list[list[Fact]]:
    """The statements about each of the orders placed in the feature's window of which the fact is known."""
    end = scene.as_of - (feature.known_after or NOTHING)
    return [said for said in scene.marked(feature.what) if end - feature.over <= said[-1].placed_at < end]


def of_orders(answer: Callable[[Any, Scene, list[Order]], Answer]) -> Callable[[Any, Scene], Answer]:
    """An answer that needs the orders in the window, and is unknown where they cannot be compared."""

    def asked(feature: Any, scene: Scene) -> Answer:
        window = scene.window(feature.over, feature.known_after)
        orders = chosen(feature.where, window, scene)
        return None if orders is None else answer(feature, scene, orders)

    return asked


def of_numbers(answer: Callable[[list[int], int], Answer]) -> Callable[[Any, Scene], Answer]:
    """An answer of the amounts or numbers in the window; without one it is unknown."""

    def asked(feature: Any, scene: Scene, orders: list[Order]) -> Answer:
        found, divisor = measured(feature, orders, scene.order)
        return answer(found, divisor) if found else None

    return of_orders(asked)


def count(feature: Count, scene: Scene, orders: list[Order]) -> Answer:
    return len(facts_in(feature, scene)) if feature.what in FACTS else len(orders)


def total(feature: Sum, scene: Scene, orders: list[Order]) -> Answer:
    if feature.what in FACTS:
        # of a fraud the last statement says how much was lost; refunds of one order add up
        which = [said[-1:] if feature.what == "fraud" else said for said in facts_in(feature, scene)]
        said = [(fact.amount, fact.currency) for facts in which for fact in facts]
        found, divisor = amounts(said, scene.order, feature.rates)
    else:
        found, divisor = measured(feature, orders, scene.order)
    return Fraction(sum(found), divisor)


def mean(found: list[int], divisor: int) -> Fraction:
    return Fraction(sum(found), len(found) * divisor)


def deviation(found: list[int], divisor: int) -> float:
    """The population's: the root of the mean of the squares less the square of the mean."""
    squares = Fraction(sum(each * each for each in found), len(found) * divisor**2)
    return math.sqrt(squares - mean(found, divisor) ** 2)


def distinct(feature: Distinct, scene: Scene, orders: list[Order]) -> Answer:
    return len({VALUES[feature.what](one) for one in orders} - {None})


def share(feature: Share, scene: Scene, orders: list[Order]) -> Answer:
    if isinstance(feature.what, str):
        # what became of an order may be known of one that is not among them
        met: int | None = min(len(facts_in(feature, scene)), len(orders))
    else:
        which = chosen(feature.what, orders, scene)
        met = None if which is None else len(which)
    return Fraction(met, len(orders)) if orders and met is not None else None


def z_score(feature: ZScore, scene: Scene, orders: list[Order]) -> Answer:
    """By how many deviations the order's own lies from the mean, in the integers it is defined in."""
    own, _ = measured(feature, [scene.order], scene.order)
    found, _ = measured(feature, orders, scene.order)
    number, sums, squares = len(found), sum(found), sum(each * each for each in found)
    if not own or number < 2 or number * squares == sums * sums:
        return None
    return (number * own[0] - sums) / math.sqrt(number * squares - sums * sums)


def trend(feature: Trend, scene: Scene) -> Answer:
    rates = []
    for over in (feature.over, feature.against):
        orders = chosen(feature.where, scene.window(over, feature.known_after), scene)
        if orders is None:
            return None
        found = Fraction(len(orders))
        if feature.what == "amount":
            minor, divisor = amounts([(one.amount, one.currency) for one in orders], scene.order, None)
            found = Fraction(sum(minor), divisor)
        rates.append(found / in_days(over))
    return rates[0] / rates[1] if rates[1] else None


def since_first(feature: SinceFirst, scene: Scene) -> Answer:
    return since(feature, scene, first=True)


def since_last(feature: SinceLast, scene: Scene) -> Answer:
    return since(feature, scene, first=False)


def since(feature: Any, scene: Scene, *, first: bool) -> Answer:
    if feature.what in FACTS:
        moments = [fact.known_at for said in scene.marked(feature.what) for fact in said]
    else:
        moments = [one.placed_at for one in chosen(feature.where, scene.before(), scene) or ()]
    if not moments:
        return None
    return in_days(scene.as_of - (min(moments) if first else max(moments)))


def in_days(duration: timedelta) -> Fraction:
    return Fraction(duration // TICK, DAY // TICK)


def is_new(feature: IsNew, scene: Scene) -> Answer:
    value = VALUES[feature.what](scene.order)
    if value is None:
        return None
    return value not in [VALUES[feature.what](one) for one in scene.before()]


def place(order: Order) -> tuple[float, float] | None:
    """Where the order went, or else where it was billed to, to the fifth decimal of a degree."""
    for address in (order.shipping, order.billing):
        if address and address.latitude is not None and address.longitude is not None:
            return round(address.latitude * 10**5) / 10**5, round(address.longitude * 10**5) / 10**5
    return None


def kilometres(here: tuple[float, float], there: tuple[float, float]) -> float:
    """The great circle between two places by the haversine formula, on a sphere, to the metre."""
    (north, east), (other_north, other_east) = (
        (math.radians(latitude), math.radians(longitude)) for latitude, longitude in (here, there)
    )
    haversine = (
        math.sin((other_north - north) / 2) ** 2
        + math.cos(north) * math.cos(other_north) * math.sin((other_east - east) / 2) ** 2
    )
    return round(2 * EARTH_KM * math.asin(math.sqrt(min(haversine, 1.0))), 3)


def moved(scene: Scene) -> tuple[float, timedelta] | None:
    """How far it is from the last place that is known, and how long ago that was."""
    here = place(scene.order)
    known = [(there, one.placed_at) for one in scene.before() if (there := place(one)) is not None]
    if here is None or not known:
        return None
    there, placed_at = known[-1]
    return kilometres(there, here), scene.as_of - placed_at


def distance(feature: Distance, scene: Scene) -> Answer:
    found = moved(scene)
    return None if found is None else found[0]


def speed(feature: Speed, scene: Scene) -> Answer:
    found = moved(scene)
    return None if found is None else found[0] * (HOUR // TICK) / (found[1] // TICK)


ASKED: Mapping[type, Callable[[Any, Scene], Answer]] = {
    Count: of_orders(count),
    Sum: of_orders(total),
    Mean: of_numbers(mean),
    Std: of_numbers(deviation),
    Min: of_numbers(lambda found, divisor: Fraction(min(found), divisor)),
    Max: of_numbers(lambda found, divisor: Fraction(max(found), divisor)),
    ZScore: of_orders(z_score),
    Distinct: of_orders(distinct),
    Share: of_orders(share),
    Trend: trend,
    SinceFirst: since_first,
    SinceLast: since_last,
    IsNew: is_new,
    Distance: distance,
    Speed: speed,
}
"""How each word is answered."""


# Functions of the order ---------------------------------------------------------------------------


def share_of_pieces(order: Order) -> float | None:
    pieces = [item.digital for item in order.items for _ in range(item.quantity)]
    return pieces.count(True) / len(pieces) if pieces else None


def differs(one: str | None, other: str | None) -> bool | None:
    return one != other if one is not None and other is not None else None


ORDER_FACTS: Mapping[str, Callable[[Order], Answer]] = {
    "hour_of_day": lambda order: order.placed_at.hour,
    "is_weekend": lambda order: order.placed_at.strftime("%a") in {"Sat", "Sun"},
    "items_count": NUMBERS["pieces"],
    "digital_share": share_of_pieces,
    "payment_attempts": lambda order: order.payment_attempts,
    "account_age_days": lambda order: (
        None
        if order.account_created_at is None or order.account_created_at > order.placed_at
        else in_days(order.placed_at - order.account_created_at)
    ),
    "issuer_country_differs": lambda order: differs(VALUES["issuer_country"](order), order.country),
    "shipping_country_differs": lambda order: differs(
        VALUES["shipping_country"](order), order.billing.country if order.billing else None
    ),
}
"""Functions of the catalogue, said another way; those that are not here are read as they are."""
