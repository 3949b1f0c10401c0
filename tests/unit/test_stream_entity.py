"""Linked evidence holds what the entity's row holds, by name."""

import json
from datetime import UTC, datetime, timedelta
from itertools import chain
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from features.facts import FACTS
from features.history import Row
from features.remembered import hashed
from stream.cli import app
from stream.entity import (
    EntityError,
    Evidence,
    Linked,
    Span,
    _Ledger,
    _OfCustomer,
    _OfStage,
    evidence_of,
    told,
)
from stream.ports import Headers, Record
from stream.road import Road, partition_of
from stream.settings import Settings
from tests.small_desk import Shop

START = datetime(2026, 1, 1, tzinfo=UTC)
CUSTOMERS = [
    [f"c{n}" for n in range(12) if partition_of(b"c%d" % n, 3) == partition][:2] for partition in range(3)
]
"""Some of each partition: a revision on another one would be another order."""
LATER = START + timedelta(days=3650)


class LoggedShop(Shop):
    """A shop that keeps the log of all its topics."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.log: list[Record] = []

    def record(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        at: int = 1_800_000_000_000,
    ) -> Record:
        made = super().record(topic, partition, key, value, headers, at=at)
        self.log.append(made)
        return made

    def follow(self, ledger: _Ledger, named: str, *topics: str) -> None:
        """Let it read the partition of what is named, a topic after the other."""
        partition = partition_of(named.encode(), self.partitions)
        for topic in topics:
            for each in self.log:
                if (each.topic, each.partition) == (topic, partition):
                    ledger.take(each)


def an_order(rng: Random, number: int, revision: int) -> dict[str, Any]:
    return {
        "order_id": f"o{number}",
        "revision": revision,
        "customer_id": CUSTOMERS[number % 3][revision % 2],
        "placed_at": (START + timedelta(minutes=number, seconds=revision)).isoformat(),
        "amount": rng.randrange(1, 9999),
        "currency": "EUR",
        "test": rng.random() < 0.1,
        **({"card": {"fingerprint": f"k{rng.randrange(4)}"}} if rng.random() < 0.9 else {}),
        **({"device_id": f"d{rng.randrange(4)}"} if rng.random() < 0.9 else {}),
    }


def an_outcome(rng: Random, number: int) -> dict[str, Any]:
    known_at = (START + timedelta(days=1, minutes=rng.randrange(5))).isoformat()
    return {
        "order_id": f"o{number}",
        "customer_id": CUSTOMERS[number % 3][0],
        "kind": "chargeback",
        "is_fraud": rng.random() < 0.6,
        "occurred_at": known_at,
        "known_at": known_at,
    }


def a_life(seed: int) -> LoggedShop:
    """Orders, their revisions and outcomes, whose messages lie some time in the stages."""
    rng = Random(seed)
    shop = LoggedShop(entities=("card", "device"), partitions=3)
    for _ in range(40):
        number, dice = rng.randrange(8), rng.random()
        topic = "orders" if dice < 0.65 else "outcomes"
        said = an_order(rng, number, rng.randrange(4)) if topic == "orders" else an_outcome(rng, number)
        key = said["customer_id"].encode()
        partition = partition_of(key, 3)
        shop.only([shop.record(topic, partition, key, json.dumps(said).encode())])
        while shop.waiting and rng.random() < 0.6:
            one_taken(shop, rng)
    while shop.waiting:
        one_taken(shop, rng)
    return shop


def one_taken(shop: Shop, rng: Random) -> None:
    """Take the next message of any partition: what is on different roads overtakes each other."""
    where = rng.choice(sorted({(each.topic, each.partition) for each in shop.waiting}))
    one = next(each for each in shop.waiting if (each.topic, each.partition) == where)
    shop.waiting.remove(one)
    shop.only([one])


def assert_same(orders: tuple[Linked, ...], row: Row) -> None:
    assert sorted(hashed(each.order_id) for each in orders) == sorted(row.column("order"))
    history = row.as_of(LATER)
    frauds = [each for each in orders if each.fraud_known_at is not None]
    assert len(frauds) == history.known("fraud", (None, 0))
    assert "fraud" in FACTS


@pytest.mark.parametrize("seed", range(40))
def test_what_is_told_of_a_device_is_what_its_row_holds_whatever_overtook_what(seed: int) -> None:
    shop = a_life(seed)
    for device in ("d0", "d1", "d2", "d3"):
        ledger = _OfStage(Road(shop.stages, 3), "device", device)
        shop.follow(ledger, device, "orders-by-device")
        assert_same(ledger.orders(), shop.row("device", device))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_told_of_a_customer_is_what_its_row_holds(seed: int) -> None:
    shop = a_life(seed)
    for customer in chain(*CUSTOMERS):
        ledger = _OfCustomer(Settings(), customer)
        shop.follow(ledger, customer, "orders", "outcomes")
        assert_same(ledger.orders(), shop.row("customer", customer))


def some(**fields: Any) -> Evidence:
    orders = tuple(
        Linked(
            f"o{n}", 0, None if n == 2 else f"c{n % 2}", START + timedelta(days=n), 100 * n, "EUR",
            START + timedelta(days=9) if n in {1, 3} else None,
        )
        for n in (4, 3, 2, 1)
    )  # fmt: skip
    return Evidence(**{"entity": "device", "named": "d1", "orders": orders, "read": ()} | fields)


def test_evidence_is_told_in_lines_with_no_more_than_asked() -> None:
    lines = list(told(some(read=(Span("orders-by-device", 1, 5, 1200),)), 2))

    assert lines == [
        "device d1",
        "first seen 2026-01-02 00:00:00Z, last seen 2026-01-05 00:00:00Z",
        "4 orders, 2 known fraud (50.0%)",
        "2 customers, those with most orders first",
        "    c1  2 orders, 2 known fraud",
        "    c0  1 order, 0 known fraud",
        "    and 1 more",
        "known fraud, newest orders first",
        "    2026-01-04 00:00:00Z  o3  3.00 EUR  customer c1  fraud, known since 2026-01-10 00:00:00Z",
        "    2026-01-02 00:00:00Z  o1  1.00 EUR  customer c1  fraud, known since 2026-01-10 00:00:00Z",
        "orders, newest first",
        "    2026-01-05 00:00:00Z  o4  4.00 EUR  customer c0",
        "    2026-01-04 00:00:00Z  o3  3.00 EUR  customer c1  fraud, known since 2026-01-10 00:00:00Z",
        "    and 2 more",
        "read from topic 'orders-by-device', partition 1, offsets 5 to 1,200, which is all it still has",
    ]


def test_nobodys_text_is_a_command_to_the_terminal() -> None:
    order = Linked("o\x1b[2J", 0, "c\x1b[2J", START, 1, "EUR", START)

    shown = "\n".join(told(some(named="d\x1b[2J", orders=(order,)), 5))

    assert "\x1b" not in shown
    assert shown.count("\\x1b[2J") == 6


def test_an_entity_whose_orders_all_went_elsewhere_is_told_without_any() -> None:
    gone = some(orders=())

    assert list(told(gone, 5))[1] == "no orders any more: later revisions have all gone elsewhere"
    assert gone.as_json(5)["known_fraud_share"] is None


def test_an_entity_without_histories_is_refused_in_one_line() -> None:
    with pytest.raises(EntityError, match="there is no entity 'devise'; did you mean 'device'"):
        evidence_of(Settings(), "devise", "d1")
    with pytest.raises(EntityError, match="'card' has no history here, only customer, device; the setting"):
        evidence_of(Settings(entities=("device",)), "card", "k1")


def test_the_command_refuses_in_one_line() -> None:
    result = CliRunner().invoke(app, ["entity", "show", "devise", "d1"])

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
