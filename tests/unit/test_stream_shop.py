import json
from collections import Counter
from datetime import UTC, datetime
from itertools import islice

import pytest

from features.events import Order
from stream.shop import Placed, ShopSimulator, labelled_line

OPENED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def month() -> list[Placed]:
    return list(ShopSimulator(seed=7, start=OPENED, orders_per_day=300, beset=2).past(28))


def test_the_same_seed_and_day_place_the_same_orders() -> None:
    one = ShopSimulator(seed=3, start=OPENED, customers=50)
    other = ShopSimulator(seed=3, start=OPENED, customers=50)

    assert list(islice(one.orders(), 200)) == list(islice(other.orders(), 200))


def test_another_seed_places_other_orders() -> None:
    one = next(ShopSimulator(seed=3, start=OPENED, customers=50).orders())
    other = next(ShopSimulator(seed=4, start=OPENED, customers=50).orders())

    assert one.order.amount != other.order.amount or one.order.placed_at != other.order.placed_at


def test_orders_come_in_time_order_and_each_has_its_own_id(month: list[Placed]) -> None:
    times = [placed.order.placed_at for placed in month]

    assert times == sorted(times)
    assert times[0] >= OPENED
    assert times[-1] < datetime(2026, 1, 29, tzinfo=UTC)
    assert len({placed.order.order_id for placed in month}) == len(month)


def test_every_kind_of_fraud_happens_and_stays_rare(month: list[Placed]) -> None:
    kinds = Counter(placed.fraud_kind for placed in month)

    assert set(kinds) == {None, "card_testing", "account_takeover", "reshipping", "refund_abuse"}
    assert 0.01 < 1 - kinds[None] / len(month) < 0.15
    assert all(placed.is_fraud == (placed.fraud_kind is not None) for placed in month)


def test_no_customer_orders_before_joining(month: list[Placed]) -> None:
    for placed in month:
        joined_at = placed.order.account_created_at
        assert joined_at is None or joined_at <= placed.order.placed_at


def test_card_testing_tries_many_cards_from_one_device(month: list[Placed]) -> None:
    cards: dict[str | None, set[str | None]] = {}
    for placed in month:
        if placed.fraud_kind == "card_testing" and placed.order.card is not None:
            cards.setdefault(placed.order.device_id, set()).add(placed.order.card.fingerprint)

    assert all(len(tried) >= 8 for tried in list(cards.values())[:-1])


def test_a_taken_over_account_belongs_to_someone_who_ordered_with_another_device(month: list[Placed]) -> None:
    honest: dict[str | None, set[str | None]] = {}
    strange = known = 0
    for placed in month:
        devices = honest.setdefault(placed.order.customer_id, set())
        if placed.fraud_kind == "account_takeover" and devices:
            known += 1
            strange += placed.order.device_id not in devices
        if placed.fraud_kind is None:
            devices.add(placed.order.device_id)

    assert known > 10
    assert strange == known


def test_reshipped_parcels_meet_at_one_address(month: list[Placed]) -> None:
    parcels = Counter(
        placed.order.shipping.hash
        for placed in month
        if placed.fraud_kind == "reshipping" and placed.order.shipping is not None
    )

    assert parcels.most_common(1)[0][1] >= 4


def test_a_labelled_line_is_an_order_and_its_label(month: list[Placed]) -> None:
    placed = next(each for each in month if each.is_fraud)

    line = labelled_line(placed)

    assert Order.model_validate_json(line) == placed.order
    assert json.loads(line)["is_fraud"] is True
    assert json.loads(line)["fraud_kind"] == placed.fraud_kind


def test_some_guests_order_and_have_no_customer(month: list[Placed]) -> None:
    guests = [placed for placed in month if placed.order.customer_id is None]

    assert guests
    assert all(placed.order.key == placed.order.order_id for placed in guests)
