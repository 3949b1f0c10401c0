"""Stories: what happens in a small shop, in the order it arrives, drawn by Hypothesis.

What an order says beyond time, money and identity comes from a fixed set of baskets, so that Hypothesis
draws few numbers for each event and shrinks well: the devices, cards and addresses meet again and again.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st

from features.events import Address, Card, Item, Order, OrderEvent, Outcome
from features.replay import Event
from tests.strategies import NOON, an_order

TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
EDGES = (
    *(timedelta(minutes=minutes) for minutes in (0, 10, 60, 7 * 60)),
    *(number * DAY for number in (1, 2, 7, 8, 14, 21, 28, 30, 37, 90, 97, 180, 187, 365)),
)
"""How long before noon the windows of the catalogue and of WORDS begin and end."""

LONGEST = 20


def _some(dice: random.Random, *values: object) -> object:
    return dice.choice((None, *values))


def _address(dice: random.Random) -> Address | None:
    if dice.random() < 0.25:
        return None
    latitude, longitude = dice.choice(
        (
            (None, None),
            (52.52, 13.405),
            (48.1374, 11.5755),
            (-33.8688, 151.2093),
            (90.0, 180.0),
            (0.0, 0.0),
            (-90.0, -180.0),
            (52.52, None),
            (52.520001, 13.405004),
            (dice.uniform(-90, 90), dice.uniform(-180, 180)),
        )
    )
    return Address(
        hash=_some(dice, "home", "office"),
        postcode=_some(dice, "10115", "80331"),
        country=_some(dice, "DE", "FR", "US"),
        latitude=latitude,
        longitude=longitude,
    )


def _items(dice: random.Random) -> tuple[Item, ...]:
    return tuple(
        Item(
            category=_some(dice, "shoes", "phones"),
            quantity=dice.randint(1, 4),
            digital=dice.random() < 0.3,
            gift_card=dice.random() < 0.3,
        )
        for _ in range(dice.choice((0, 0, 1, 2)))
    )


def _baskets(number: int) -> tuple[dict[str, object], ...]:
    dice = random.Random(5)
    return tuple(
        {
            "country": _some(dice, "DE", "FR", "US"),
            "channel": _some(dice, "web", "app"),
            "merchant_id": _some(dice, "m1", "m2"),
            "device_id": _some(dice, "phone", "laptop"),
            "ip": _some(dice, "192.0.2.1", "2001:db8::1"),
            "email_hash": _some(dice, "e1", "e2"),
            "email_domain": _some(dice, "example.org", "example.com"),
            "phone_hash": _some(dice, "p1", "p2"),
            # the same text as another word's value: what is a device's must not be taken for a card's
            "card": dice.choice((
                None,
                Card(),
                Card(fingerprint="phone", bin="411111", issuer_country="DE"),
                Card(fingerprint="visa", issuer_country="FR"),
                Card(fingerprint="amex", bin="5500", issuer_country="US"),
            )),
            "payment_method": _some(dice, "card", "invoice", "paypal"),
            "payment_attempts": _some(dice, 0, 1, 2, 5),
            "billing": _address(dice),
            "shipping": _address(dice),
            "account_created_at": _some(dice, NOON - 400 * DAY, NOON - 3 * DAY, NOON - DAY, NOON),
            "items": _items(dice),
            "promotion_codes": dice.choice(((), (), ("SPRING",), ("AUTUMN", "SPRING"))),
        }
        for _ in range(number)
    )  # fmt: skip


BASKETS = _baskets(96)


@dataclass(frozen=True)
class Story:
    """Orders and what is said of them as it arrives, and the order that is looked at in the end."""

    events: tuple[Event, ...]
    last: Order


def _moments() -> st.SearchStrategy[datetime]:
    beside = st.sampled_from((timedelta(0), -TICK, TICK))
    edges = st.builds(lambda edge, tick: NOON - edge + tick, st.sampled_from(EDGES), beside)
    anywhere = st.builds(lambda minutes: NOON - timedelta(minutes=minutes), st.integers(-3_000, 300_000))
    lately = st.builds(lambda minutes: NOON - timedelta(minutes=minutes), st.integers(-100, 3_000))
    return edges | lately | anywhere


_MOMENTS = _moments()
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "JPY", "KWD", "CHF")
_AMOUNTS = st.sampled_from((1000, 0, 1, 999, 10**12, 10**12 - 1)) | st.integers(0, 20_000)
_CUSTOMERS = ("c1", "c1", "c1", "c1", "c1", "c1", "phone", None)


@st.composite
def an_arrival(
    draw: st.DrawFn,
    moment: st.SearchStrategy[datetime] = _MOMENTS,
    currencies: tuple[str, ...] = _CURRENCIES,
) -> Order:
    """An order of a few customers, without an id yet."""
    basket = BASKETS[draw(st.integers(0, len(BASKETS) - 1))]
    return an_order(
        customer_id=draw(st.sampled_from(_CUSTOMERS)),
        placed_at=draw(moment),
        amount=draw(_AMOUNTS),
        currency=draw(st.sampled_from(currencies)),
        **basket,
    )


_LATER = (
    timedelta(0),
    TICK,
    timedelta(hours=5),
    *(days * DAY for days in (1, 6, 7, 8, 30, 100)),
)


@st.composite
def stories(draw: st.DrawFn, longest: int = LONGEST) -> Story:
    """Ties, late orders, repeats, revisions, guests, test orders; outcomes early, late and corrected."""
    placed: list[Order] = []
    events: list[Event] = []
    # sums of rows in one currency come about in another way than those of several
    currencies = draw(st.sampled_from((("EUR",), _CURRENCIES)))
    for number in range(draw(st.integers(0, longest))):
        kind = draw(st.sampled_from(_KINDS))
        if kind == "again" and events:
            events.append(events[draw(st.integers(0, len(events) - 1))])
        elif kind == "fact" and placed:
            events.append(_statement(draw, placed[draw(st.integers(0, len(placed) - 1))], events))
        elif kind == "fact of an order to come":  # or of one that never comes
            ahead = f"o{number + draw(st.integers(1, 4))}"
            about = draw(an_arrival()).model_copy(update={"order_id": ahead})
            events.append(_statement(draw, about, events))
        elif kind == "revision" and placed:
            order = _revision(draw, placed[draw(st.integers(0, len(placed) - 1))], currencies)
            if all((one.order_id, one.revision) != (order.order_id, order.revision) for one in placed):
                placed.append(order)
                events.append(order)
        else:
            moments = (
                st.sampled_from([one.placed_at for one in placed]) if kind == "tie" and placed else _MOMENTS
            )
            order = draw(an_arrival(moments, currencies)).model_copy(
                update={"order_id": f"o{number}", "test": kind == "test order"}
            )
            placed.append(order)
            events.append(order)
    last = draw(an_arrival(st.sampled_from((NOON, NOON, NOON, NOON, NOON - 7 * DAY, NOON + TICK))))
    return Story(tuple(events), last.model_copy(update={"order_id": "last"}))


_KINDS = (
    *("order",) * 7,
    *("tie", "again", "revision", "revision", "test order"),
    *("fact",) * 6,
    *("fact of an order to come",) * 2,
)


def _revision(draw: st.DrawFn, one: Order, currencies: tuple[str, ...]) -> Order:
    """Another revision, which may come before the one it revises, move in time, and change hands."""
    told = draw(an_arrival(currencies=currencies))
    return told.model_copy(
        update={
            "order_id": one.order_id,
            "revision": draw(st.sampled_from((one.revision + 1, one.revision + 1, 0, 1, 2, 3))),
            "placed_at": draw(st.sampled_from((one.placed_at, told.placed_at))),
            "test": draw(st.sampled_from((False, False, False, True))),
        }
    )


_NAMES = st.sampled_from((None, None, "a", "b", "c"))
_EVENTS = (
    *("payment_authorised", "payment_declined", "cancelled", "delivered", "returned", "repaid"),
    *("refunded",) * 4,
)


def _statement(draw: st.DrawFn, about: Order, events: list[Event]) -> Outcome | OrderEvent:
    """What is said of an order at some time, as it is sent: with names, in parts, of all of it."""
    before = [one for one in events if not isinstance(one, Order) and one.order_id == about.order_id]
    known_at = draw(
        st.sampled_from((NOON - TICK, NOON, NOON + TICK, *(one.known_at for one in before)))
        | st.builds(lambda after: about.placed_at + after, st.sampled_from(_LATER))
    )
    amount = draw(st.sampled_from((None, about.amount // 2, 1)))
    currency = draw(st.sampled_from((None, about.currency)))
    for each in before:
        # who says two things of one order at once speaks of all of it, or of amounts in one currency
        if each.known_at == known_at:
            currency = each.currency
            amount = each.amount if None in {amount, each.amount} else amount
    said = {
        "order_id": about.order_id,
        "occurred_at": known_at,
        "known_at": known_at,
        "amount": amount,
        "currency": currency,
    }
    if draw(st.booleans()):
        return OrderEvent(kind=draw(st.sampled_from(_EVENTS)), **said)
    is_fraud = draw(st.sampled_from((True, True, False)))
    return Outcome(
        kind="chargeback" if is_fraud else "dispute_won",
        is_fraud=is_fraud,
        outcome_id=draw(_NAMES),
        supersedes=draw(_NAMES),
        **said,
    )
