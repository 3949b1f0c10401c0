"""A simulated shop: customers with habits, and the four frauds that shops fear most, labelled.

Everything follows from the seed and the start: two shops with the same ones place the same orders.
The shop never looks at a clock, so its past takes no longer to live through than to compute.

    card testing      a bot tries stolen card numbers on small digital goods, seconds apart
    account takeover  someone else orders from a customer's account: new device, new address, dear goods
    reshipping        fresh accounts with foreign cards send electronics to one drop address
    refund abuse      a customer who orders much, and claims again and again that it never came
"""

import heapq
import itertools
import json
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from features.events import Address, Card, Item, Order

__all__ = ["Campaign", "FraudKind", "Placed", "ShopSimulator", "labelled_line"]

FraudKind = Literal["card_testing", "account_takeover", "reshipping", "refund_abuse"]

# country -> (share of customers, latitude, longitude, currency, cities)
_COUNTRIES: dict[str, tuple[float, float, float, str, tuple[str, ...]]] = {
    "DE": (0.40, 51.1, 10.4, "EUR", ("Berlin", "Hamburg", "Leipzig", "Mainz")),
    "FR": (0.20, 46.6, 2.4, "EUR", ("Lyon", "Nantes", "Paris")),
    "NL": (0.15, 52.2, 5.5, "EUR", ("Delft", "Utrecht")),
    "AT": (0.10, 47.6, 14.1, "EUR", ("Graz", "Wien")),
    "GB": (0.15, 52.4, -1.5, "GBP", ("Leeds", "London")),
}
_FAR_COUNTRIES = ("US", "BR", "NG", "RU", "ID", "VN")
# category -> (share of items, usual price in minor units, digital)
_CATEGORIES: dict[str, tuple[float, int, bool]] = {
    "apparel": (0.34, 3900, False),
    "home": (0.22, 2900, False),
    "beauty": (0.14, 1900, False),
    "electronics": (0.12, 18900, False),
    "games": (0.12, 1500, True),
    "gift-card": (0.06, 2500, True),
}
_CATEGORY_NAMES = tuple(_CATEGORIES)
_CATEGORY_SHARES = tuple(share for share, _, _ in _CATEGORIES.values())
# Orders by hour of the day: quiet nights, a lunch break, long evenings.
_HOURS = (2, 1, 1, 1, 1, 2, 3, 5, 7, 8, 9, 10, 11, 10, 9, 9, 9, 10, 12, 14, 15, 13, 9, 5)
_BUSIEST = max(_HOURS)
_FUNDINGS: tuple[Literal["debit", "credit", "prepaid"], ...] = ("debit", "credit", "prepaid")
_DOMAINS = ("mail.example", "post.example", "inbox.example", "web.example")
_THROWAWAY_DOMAINS = ("tempbox.example", "10min.example")

_CAMPAIGNS: dict[FraudKind, float] = {
    "card_testing": 0.7,
    "account_takeover": 3.0,
    "reshipping": 0.8,
    "refund_abuse": 0.5,
}
"""Campaigns that begin on a day of 1,000 orders; each is one to a few dozen orders."""


class Campaign(NamedTuple):
    """Where a fraudulent order stands in the campaign it belongs to: the `nth` of its `orders`."""

    number: int
    nth: int
    orders: int


class Placed(NamedTuple):
    """An order, and what only the simulation knows of it."""

    order: Order
    is_fraud: bool
    fraud_kind: FraudKind | None
    campaign: Campaign | None = None


def labelled_line(placed: Placed) -> bytes:
    """One line of a labelled past: the order in JSON with `is_fraud` and `fraud_kind`."""
    order = placed.order.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(order | {"is_fraud": placed.is_fraud, "fraud_kind": placed.fraud_kind}).encode()


@dataclass(slots=True)
class _Customer:
    customer_id: str
    country: str
    joined_at: datetime
    home: Address
    email: str
    domain: str
    phone: str
    devices: list[str]
    cards: list[Card]
    ip: str
    spends: float
    """How dear this customer's baskets are; 1 is usual."""
    addresses: list[Address] = field(default_factory=list)
    """Of family and friends."""


class ShopSimulator:
    """A shop that opens at `start` and takes about `orders_per_day` orders a day for ever."""

    def __init__(
        self,
        *,
        seed: int,
        start: datetime,
        customers: int = 1500,
        orders_per_day: float = 1000,
        beset: float = 1.0,
    ) -> None:
        """The shop on its first morning; nothing is ordered before `orders` is read.

        `beset` is how much more often than usual campaigns of fraud begin.
        """
        self.start = start
        self._seed = seed
        self._random = random.Random(seed)
        self._per_day = orders_per_day
        self._beset = beset
        self._number = itertools.count(1)
        self._customer_number = itertools.count(1)
        self._card_number = itertools.count(1)
        self._turn = itertools.count()
        self._campaigns = 0
        self._planned: dict[int, int] = {}
        """How many orders each campaign has."""
        self._customers = [self._customer(start - self._days(3, 900)) for _ in range(customers)]
        weights = (self._random.lognormvariate(0, 0.9) for _ in range(customers))
        self._often = list(itertools.accumulate(weights))
        self._due: list[tuple[datetime, int, Callable[[datetime], Placed | None]]] = []

    def orders(self) -> Iterator[Placed]:
        """Every order from the opening on, in time order, without end."""
        self._plan(self._next_visit(self.start), self._visit)
        for kind in _CAMPAIGNS:
            self._plan(self._next_campaign(kind, self.start), self._begin(kind))
        while True:
            now, _, happen = heapq.heappop(self._due)
            placed = happen(now)
            if placed is not None:
                yield placed

    def past(self, days: int) -> Iterator[Placed]:
        """The orders of the shop's first `days` days."""
        end = self.start + timedelta(days=days)
        return itertools.takewhile(lambda placed: placed.order.placed_at < end, self.orders())

    def after(self, days: int) -> Iterator[Placed]:
        """The orders that come after `past(days)`, without end, from the same customers."""
        end = self.start + timedelta(days=days)
        return itertools.dropwhile(lambda placed: placed.order.placed_at < end, self.orders())

    # ------------------------------------------------------------------ honest customers

    def _visit(self, now: datetime) -> Placed:
        self._plan(self._next_visit(now), self._visit)
        chance = self._random.random()
        if chance < 0.05:  # a guest
            return self._sale(self._customer(now), now, guest=True)
        if chance < 0.12:  # a new customer
            customer = self._customer(now - timedelta(minutes=self._random.uniform(2, 90)))
            self._customers.append(customer)
            self._often.append(self._often[-1] + self._random.lognormvariate(0, 0.9))
            return self._sale(customer, now)
        return self._sale(self._regular(), now)

    def _sale(self, customer: _Customer, now: datetime, *, guest: bool = False) -> Placed:
        """An honest order, with the small oddities of honest people."""
        draw = self._random
        if draw.random() < 0.02:
            customer.devices.append(self._device())
        if draw.random() < 0.015:
            customer.cards.append(self._card(customer.country))
        shipping = customer.home
        if draw.random() < 0.08:
            if not customer.addresses or draw.random() < 0.3:
                customer.addresses.append(self._address(draw.choice([*_COUNTRIES, customer.country])))
            shipping = draw.choice(customer.addresses)
        travels = draw.random() < 0.03
        order = self._order(
            customer,
            now,
            items=self._basket(customer.spends),
            shipping=shipping,
            device=customer.devices[-1] if draw.random() < 0.7 else draw.choice(customer.devices),
            card=customer.cards[-1] if draw.random() < 0.8 else draw.choice(customer.cards),
            ip=self._ip() if travels else customer.ip,
            attempts=1 if draw.random() < 0.94 else draw.randint(2, 3),
            guest=guest,
        )
        return Placed(order, is_fraud=False, fraud_kind=None)

    # ------------------------------------------------------------------ the others

    def _begin(self, kind: FraudKind) -> Callable[[datetime], None]:
        campaigns = {
            "card_testing": self._card_testing,
            "account_takeover": self._account_takeover,
            "reshipping": self._reshipping,
            "refund_abuse": self._refund_abuse,
        }

        def begin(now: datetime) -> None:
            self._plan(self._next_campaign(kind, now), begin)
            self._campaigns += 1
            campaigns[kind](now)

        return begin

    def _card_testing(self, now: datetime) -> None:
        draw = self._random
        account = self._customer(now - timedelta(minutes=draw.uniform(1, 30)))
        account.domain = draw.choice(_THROWAWAY_DOMAINS)
        device, ip, guest = self._device(), self._ip(), draw.random() < 0.4
        for _ in range(draw.randint(8, 30)):
            now += timedelta(seconds=draw.uniform(3, 70))
            self._plan_fraud(
                now,
                "card_testing",
                account,
                items=(self._item("games", draw.uniform(0.1, 0.5)),),
                device=device,
                card=self._card(draw.choice(_FAR_COUNTRIES), (1, 1, 1)),
                ip=ip,
                attempts=draw.randint(1, 6),
                guest=guest,
            )

    def _account_takeover(self, now: datetime) -> None:
        draw = self._random
        victim, device, ip = self._regular(), self._device(), self._ip()
        drop = self._address(victim.country if draw.random() < 0.6 else draw.choice(tuple(_COUNTRIES)))
        for _ in range(draw.randint(1, 5)):
            category = draw.choice(("electronics", "electronics", "gift-card"))
            self._plan_fraud(
                now,
                "account_takeover",
                victim,
                items=tuple(self._item(category, draw.uniform(1.2, 4)) for _ in range(draw.randint(1, 2))),
                shipping=drop,
                device=device,
                card=victim.cards[-1],  # the one stored in the account
                ip=ip,
                attempts=draw.choice((1, 1, 2, 3)),
            )
            now += timedelta(minutes=draw.uniform(2, 40))

    def _reshipping(self, now: datetime) -> None:
        draw = self._random
        country = draw.choice(tuple(_COUNTRIES))
        drop = self._address(country)
        for _ in range(draw.randint(4, 10)):
            now += timedelta(hours=draw.uniform(0.5, 9))
            mule = self._customer(now - timedelta(hours=draw.uniform(0.2, 60)), country)
            issuer = draw.choice(_FAR_COUNTRIES) if draw.random() < 0.7 else draw.choice(tuple(_COUNTRIES))
            self._plan_fraud(
                now,
                "reshipping",
                mule,
                items=tuple(
                    self._item("electronics", draw.uniform(0.8, 3)) for _ in range(draw.randint(1, 3))
                ),
                shipping=drop,
                billing=mule.home.model_copy(update={"country": issuer}),
                card=self._card(issuer),
                attempts=draw.choice((1, 1, 2, 4)),
            )

    def _refund_abuse(self, now: datetime) -> None:
        draw = self._random
        abuser = self._regular()
        for _ in range(draw.randint(3, 9)):
            now += timedelta(hours=draw.uniform(3, 60))
            self._plan_fraud(
                now,
                "refund_abuse",
                abuser,
                items=tuple(
                    self._item(draw.choice(("apparel", "electronics")), draw.uniform(1, 2.5))
                    for _ in range(draw.randint(2, 5))
                ),
                promotions=("FREESHIP",),
            )

    def _plan_fraud(self, at: datetime, kind: FraudKind, customer: _Customer, **order: Any) -> None:
        """Plan an order of the campaign that begins now; it gets its number when it is placed."""
        number = self._campaigns
        nth = self._planned[number] = self._planned.get(number, 0) + 1

        def place(now: datetime) -> Placed:
            campaign = Campaign(number, nth, self._planned[number])
            return Placed(self._order(customer, now, **order), True, kind, campaign)

        self._plan(at, place)

    # ------------------------------------------------------------------ when

    def _plan(self, at: datetime, happen: Callable[[datetime], Placed | None]) -> None:
        # the turn settles equal times: callables can't be compared
        heapq.heappush(self._due, (at, next(self._turn), happen))

    def _next_visit(self, now: datetime) -> datetime:
        """The next arrival of a Poisson stream whose rate follows the hour (thinned from the busiest)."""
        busiest_per_second = self._per_day * _BUSIEST * 24 / sum(_HOURS) / 86_400
        while True:
            now += timedelta(seconds=self._random.expovariate(busiest_per_second))
            if self._random.random() * _BUSIEST < _HOURS[now.hour]:
                return now

    def _next_campaign(self, kind: FraudKind, now: datetime) -> datetime:
        per_day = _CAMPAIGNS[kind] * self._per_day / 1000 * self._beset
        return now + timedelta(days=self._random.expovariate(per_day))

    def _days(self, low: float, high: float) -> timedelta:
        return timedelta(days=self._random.uniform(low, high))

    # ------------------------------------------------------------------ what

    def _order(
        self,
        customer: _Customer,
        now: datetime,
        *,
        items: tuple[Item, ...],
        shipping: Address | None = None,
        billing: Address | None = None,
        device: str | None = None,
        card: Card | None = None,
        ip: str | None = None,
        attempts: int = 1,
        guest: bool = False,
        promotions: tuple[str, ...] = (),
    ) -> Order:
        number = next(self._number)
        return Order(
            order_id=f"s{self._seed}-{self.start:%y%m%d%H%M}-{number:07d}",
            customer_id=None if guest else customer.customer_id,
            placed_at=now,
            amount=sum((item.unit_price or 0) * item.quantity for item in items),
            currency=_COUNTRIES[customer.country][3],
            country=customer.country,
            channel="app" if device is not None and device.endswith("a") else "web",
            merchant_id="shop-1",
            device_id=device or customer.devices[-1],
            ip=ip or customer.ip,
            email_hash=customer.email,
            email_domain=customer.domain,
            phone_hash=customer.phone,
            card=card or customer.cards[-1],
            payment_method="card",
            payment_attempts=attempts,
            billing=billing or customer.home,
            shipping=shipping or customer.home,
            account_created_at=None if guest else customer.joined_at,
            items=items,
            promotion_codes=promotions or (("WELCOME",) if self._random.random() < 0.05 else ()),
        )

    def _basket(self, spends: float) -> tuple[Item, ...]:
        count = 1 + min(5, int(self._random.expovariate(0.9)))
        categories = self._random.choices(_CATEGORY_NAMES, _CATEGORY_SHARES, k=count)
        return tuple(self._item(category, spends) for category in categories)

    def _item(self, category: str, dearness: float) -> Item:
        _, usual, digital = _CATEGORIES[category]
        price = max(99, round(usual * dearness * self._random.lognormvariate(0, 0.45)))
        return Item(
            sku=f"{category}-{self._random.randint(1, 400)}",
            category=category,
            unit_price=price,
            quantity=1 if self._random.random() < 0.85 else self._random.randint(2, 3),
            digital=digital,
            gift_card=category == "gift-card",
        )

    # ------------------------------------------------------------------ who

    def _regular(self) -> _Customer:
        return self._customers[bisect(self._often, self._random.random() * self._often[-1])]

    def _customer(self, joined_at: datetime, country: str | None = None) -> _Customer:
        draw = self._random
        country = (
            country or draw.choices(tuple(_COUNTRIES), tuple(share for share, *_ in _COUNTRIES.values()))[0]
        )
        number = next(self._customer_number)
        # People move and keep their bank: a foreign card is no proof.
        bank = country if draw.random() < 0.95 else draw.choice((*_COUNTRIES, *_FAR_COUNTRIES))
        return _Customer(
            customer_id=f"s{self._seed}-c{number:06d}",
            country=country,
            joined_at=joined_at,
            home=self._address(country),
            email=self._hash("email", number),
            domain=draw.choice(_DOMAINS),
            phone=self._hash("phone", number),
            devices=[self._device() for _ in range(draw.choice((1, 1, 2)))],
            cards=[self._card(bank) for _ in range(draw.choice((1, 1, 1, 2)))],
            ip=self._ip(),
            spends=draw.lognormvariate(0, 0.35),
        )

    def _card(self, issuer: str, shares: tuple[int, int, int] = (55, 42, 3)) -> Card:
        return Card(
            fingerprint=self._hash("card", next(self._card_number)),
            bin=str(self._random.randint(400_000, 559_999)),
            funding=self._random.choices(_FUNDINGS, shares)[0],
            issuer_country=issuer,
        )

    def _address(self, country: str) -> Address:
        draw = self._random
        _, latitude, longitude, _, cities = _COUNTRIES[country]
        return Address(
            hash=self._hash("address", draw.getrandbits(60)),
            city=draw.choice(cities),
            postcode=f"{draw.randint(10_000, 99_999)}",
            country=country,
            latitude=round(latitude + draw.gauss(0, 1), 4),
            longitude=round(longitude + draw.gauss(0, 1), 4),
        )

    def _device(self) -> str:
        return f"d{self._random.getrandbits(48):012x}{self._random.choice('aww')}"

    def _ip(self) -> str:
        return (
            f"10.{self._random.randint(0, 255)}.{self._random.randint(0, 255)}.{self._random.randint(1, 254)}"
        )

    def _hash(self, kind: str, number: int) -> str:
        return blake2b(f"{self._seed}/{kind}/{number}".encode(), digest_size=8).hexdigest()
