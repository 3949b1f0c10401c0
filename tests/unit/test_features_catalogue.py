"""Each group of the catalogue on the orders it is meant for."""

from datetime import UTC, datetime, timedelta

import pytest

from features.aggregates import Count, Mean, Ratio, Share, SinceLast, Sum, Trend
from features.catalogue import (
    CATALOGUE,
    GROUPS,
    SERVED,
    STARTER,
    Catalogue,
    amounts_in,
    by_name,
    by_names,
    unserved,
)
from features.conditions import same, was
from features.define import compute, days
from features.errors import FeatureDefinitionError
from features.events import Address, Card, Item, Order
from features.facts import Fact
from features.history import Row
from features.rates import Rates
from features.remembered import ENTITIES
from tests.strategies import NOON, an_order


def value(name: str, order: Order, *past: Order) -> float | None:
    row = Row(125)
    for one in past:
        row.remember(one)
    return asked(name, order, row)


def asked(name: str, order: Order, row: Row) -> float | None:
    return by_name(name).value(order, row.as_of(order.placed_at))


BERLIN = Address(latitude=52.52, longitude=13.405)
PARIS = Address(latitude=48.8566, longitude=2.3522)


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("amount", an_order(amount=0), 0.0),
        ("amount", an_order(amount=7581), 75.81),
        ("amount", an_order(amount=7581, currency="JPY"), 7581.0),
        ("amount", an_order(amount=7581, currency="KWD"), 7.581),
        ("hour_of_day", an_order(placed_at=datetime(2024, 5, 1, 23, 59, tzinfo=UTC)), 23.0),
        ("is_weekend", an_order(placed_at=datetime(2024, 5, 3, 23, 59, 59, tzinfo=UTC)), 0.0),
        ("is_weekend", an_order(placed_at=datetime(2024, 5, 4, tzinfo=UTC)), 1.0),
        ("items_count", an_order(items=(Item(quantity=3), Item())), 4.0),
        ("items_count", an_order(), None),
        ("digital_share", an_order(items=(Item(quantity=3), Item(digital=True))), 0.25),
        ("digital_share", an_order(items=(Item(),)), 0.0),
        ("digital_share", an_order(), None),
        ("payment_attempts", an_order(payment_attempts=0), 0.0),
        ("payment_attempts", an_order(), None),
        ("account_age_days", an_order(account_created_at=NOON - timedelta(hours=36)), 1.5),
        ("account_age_days", an_order(account_created_at=NOON), 0.0),
        ("account_age_days", an_order(account_created_at=NOON + timedelta(seconds=1)), None),
        ("account_age_days", an_order(), None),
        ("issuer_country_differs", an_order(country="DE", card=Card(issuer_country="FR")), 1.0),
        ("issuer_country_differs", an_order(country="DE", card=Card(issuer_country="DE")), 0.0),
        ("issuer_country_differs", an_order(card=Card(issuer_country="DE")), None),
        ("issuer_country_differs", an_order(country="DE", card=Card()), None),
        (
            "shipping_country_differs",
            an_order(billing=Address(country="DE"), shipping=Address(country="FR")),
            1.0,
        ),
        (
            "shipping_country_differs",
            an_order(billing=Address(country="DE"), shipping=Address(country="DE")),
            0.0,
        ),
        ("shipping_country_differs", an_order(billing=Address(country="DE")), None),
        ("shipping_country_differs", an_order(billing=Address(country="DE"), shipping=Address()), None),
        ("is_guest", an_order(), 0.0),
        (
            "issuer_country_differs_from_billing",
            an_order(card=Card(issuer_country="DE"), billing=Address(country="FR")),
            1.0,
        ),
        (
            "issuer_country_differs_from_billing",
            an_order(card=Card(issuer_country="FR"), billing=Address(country="FR")),
            0.0,
        ),
        ("issuer_country_differs_from_billing", an_order(card=Card(issuer_country="DE")), None),
        (
            "issuer_country_differs_from_billing",
            an_order(card=Card(issuer_country="DE"), billing=Address()),
            None,
        ),
        (
            "issuer_country_differs_from_shipping",
            an_order(card=Card(issuer_country="DE"), shipping=Address(country="FR")),
            1.0,
        ),
        ("issuer_country_differs_from_shipping", an_order(shipping=Address(country="FR")), None),
        ("issuer_country_differs_from_shipping", an_order(card=Card(issuer_country="DE")), None),
        ("billing_country_differs", an_order(country="DE", billing=Address(country="FR")), 1.0),
        ("billing_country_differs", an_order(country="FR", billing=Address(country="FR")), 0.0),
        ("billing_country_differs", an_order(country="DE"), None),
        ("billing_country_differs", an_order(billing=Address(country="FR")), None),
        ("shipping_country_differs_from_order", an_order(country="DE", shipping=Address(country="FR")), 1.0),
        ("shipping_country_differs_from_order", an_order(country="DE"), None),
        (
            "shipping_address_differs",
            an_order(billing=Address(hash="home"), shipping=Address(hash="locker")),
            1.0,
        ),
        (
            "shipping_address_differs",
            an_order(billing=Address(hash="home"), shipping=Address(hash="home")),
            0.0,
        ),
        ("shipping_address_differs", an_order(shipping=Address(hash="home")), None),
        ("shipping_address_differs", an_order(billing=Address(hash="home"), shipping=Address()), None),
        ("km_from_billing_to_shipping", an_order(billing=BERLIN, shipping=BERLIN), 0.0),
        ("km_from_billing_to_shipping", an_order(billing=BERLIN), None),
        ("km_from_billing_to_shipping", an_order(shipping=BERLIN), None),
        ("km_from_billing_to_shipping", an_order(billing=BERLIN, shipping=Address(latitude=1.0)), None),
        ("km_from_billing_to_shipping", an_order(billing=Address(longitude=1.0), shipping=BERLIN), None),
        ("lines_count", an_order(items=(Item(quantity=3), Item())), 2.0),
        ("lines_count", an_order(), None),
        ("gift_cards_count", an_order(items=(Item(quantity=3, gift_card=True), Item())), 3.0),
        ("gift_cards_count", an_order(items=(Item(),)), 0.0),
        ("gift_cards_count", an_order(), None),
        (
            "largest_line_share",
            an_order(items=(Item(unit_price=100, quantity=3), Item(unit_price=100))),
            0.75,
        ),
        ("largest_line_share", an_order(items=(Item(unit_price=100), Item())), None),
        ("largest_line_share", an_order(items=(Item(unit_price=0),)), None),
        ("largest_line_share", an_order(), None),
        (
            "mean_piece_price",
            an_order(items=(Item(unit_price=100, quantity=3), Item(unit_price=500))),
            2.0,
        ),
        ("mean_piece_price", an_order(items=(Item(unit_price=500),), currency="JPY"), 500.0),
        ("mean_piece_price", an_order(items=(Item(unit_price=500),), currency="KWD"), 0.5),
        ("mean_piece_price", an_order(items=(Item(unit_price=100), Item())), None),
        ("mean_piece_price", an_order(), None),
        ("promotions_count", an_order(promotion_codes=("SPRING", "FRIEND")), 2.0),
        ("promotions_count", an_order(), 0.0),
        ("device_is_new", an_order(device_id="phone"), 1.0),
        ("device_is_new", an_order(), None),
        ("shipping_address_is_new", an_order(shipping=Address(city="Berlin")), None),
        ("days_since_last_order", an_order(), None),
        ("amount_mean_30d", an_order(), None),
        ("amount_sum_1d", an_order(), 0.0),
    ],
)
def test_a_first_order_has(name: str, order: Order, expected: float | None) -> None:
    assert value(name, order) == expected


PAST = (
    an_order(
        order_id="a",
        placed_at=NOON - timedelta(days=29),
        amount=300,
        device_id="phone",
        card=Card(fingerprint="v"),
    ),
    an_order(
        order_id="b",
        placed_at=NOON - timedelta(days=6),
        amount=600,
        device_id="laptop",
        card=Card(fingerprint="v"),
    ),
    an_order(order_id="c", placed_at=NOON - timedelta(minutes=30), amount=900, shipping=Address(hash="home")),
    an_order(order_id="old", placed_at=NOON - timedelta(days=300), amount=9999, device_id="desktop"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders_count_1h", 1.0),
        ("orders_count_1d", 1.0),
        ("orders_count_7d", 2.0),
        ("orders_count_30d", 3.0),
        ("amount_sum_1d", 9.0),
        ("amount_mean_7d", 7.5),
        ("amount_mean_30d", 6.0),
        ("amount_max_30d", 9.0),
        ("days_since_last_order", 30 / 1440),
        ("days_since_first_order", 300.0),
        ("device_distinct_30d", 2.0),
        ("card_distinct_30d", 1.0),
        ("device_is_new", 0.0),
        ("card_is_new", 1.0),
        ("shipping_address_is_new", 0.0),
        ("amount_over_amount_mean_30d", 2.0),
    ],
)
def test_a_returning_customers_order_has(name: str, expected: float) -> None:
    order = an_order(
        amount=1200, device_id="desktop", card=Card(fingerprint="m"), shipping=Address(hash="home")
    )

    assert value(name, order, *PAST) == expected


def test_a_distance_is_the_one_on_the_map() -> None:
    order = an_order(billing=BERLIN, shipping=PARIS)

    assert value("km_from_billing_to_shipping", order) == pytest.approx(878, abs=2)


def test_the_far_side_of_the_earth_is_halfway_round_it() -> None:
    pole, other_pole = Address(latitude=90, longitude=0), Address(latitude=-90, longitude=120)

    kilometres = value("km_from_billing_to_shipping", an_order(billing=pole, shipping=other_pole))

    assert kilometres == pytest.approx(20_015, abs=1)
    high = by_name("km_from_billing_to_shipping").between[1]
    assert high is not None
    assert kilometres is not None
    assert kilometres <= high


def test_a_guest_is_said_to_be_one_and_has_no_other_feature_of_a_customer() -> None:
    guest = an_order(customer_id=None, device_id="phone", country="DE")
    histories = {"customer": None}

    values = dict(zip([each.name for each in SERVED], compute(SERVED, guest, histories), strict=True))

    assert values["is_guest"] == 1.0
    assert {values[each.name] for each in SERVED if each.entity == "customer"} == {None}


def a_habit() -> Row:
    """Ten orders, one every third day at noon, over 10.00 EUR each, all alike; and what became of three."""
    row = Row(125)
    for number in range(1, 11):
        order = an_order(
            order_id=f"past{number}",
            placed_at=NOON - timedelta(days=3 * number),
            country="DE",
            device_id="phone",
            card=Card(fingerprint="visa", issuer_country="DE"),
            shipping=BERLIN.model_copy(update={"hash": "home", "country": "DE"}),
            items=(Item(quantity=2, unit_price=500),),
            payment_attempts=number % 3,
            promotion_codes=("SPRING",) if number > 5 else (),
            payment_method="card",
        )
        row.remember(order)
        for what, known in KNOWN.get(number, ()):
            row.learn(Fact(order.order_id, order.placed_at, what, True, known, order.amount, "EUR"))
    return row


KNOWN = {
    2: (("declined", NOON - timedelta(days=6)),),
    3: (("refunded", NOON - timedelta(days=1)), ("fraud", NOON + timedelta(days=1))),
    4: (("fraud", NOON - timedelta(days=2)), ("cancelled", NOON - timedelta(days=12))),
}
STRANGE = an_order(
    amount=4000,
    placed_at=NOON,
    country="FR",
    device_id="laptop",
    card=Card(fingerprint="master", issuer_country="US", funding="prepaid"),
    shipping=PARIS.model_copy(update={"hash": "locker", "country": "FR"}),
    billing=BERLIN.model_copy(update={"hash": "home", "country": "DE"}),
    items=(Item(quantity=5, unit_price=800, gift_card=True, category="gift-card"),),
    account_created_at=NOON - timedelta(days=40),
    payment_method="voucher",
)


@pytest.mark.parametrize(
    ("name", "usual", "strange"),
    [
        ("orders_count_10m", 0.0, 0.0),
        ("orders_count_365d", 10.0, 10.0),
        ("orders_trend_7d_90d", (2 / 7) / (10 / 90), (2 / 7) / (10 / 90)),
        ("amount_std_90d", 0.0, 0.0),
        ("amount_zscore_90d", None, None),
        ("amount_over_amount_max_365d", 1.0, 4.0),
        ("as_large_share_365d", 1.0, 0.0),
        ("country_is_new", 0.0, 1.0),
        ("payment_method_is_new", 0.0, 1.0),
        ("currency_is_new", 0.0, 0.0),
        ("shipping_country_is_new", 0.0, 1.0),
        ("issuer_country_distinct_90d", 1.0, 1.0),
        ("same_country_share_90d", 1.0, 0.0),
        ("km_from_last_address", 0.0, pytest.approx(878, abs=2)),
        ("km_per_hour_from_last_address", 0.0, pytest.approx(878 / 72, abs=0.1)),
        ("days_since_last_order_same_shipping_address", 3.0, None),
        ("near_hour_2_share_365d", 1.0, 1.0),
        ("items_count_over_pieces_mean_90d", 1.0, 2.5),
        ("gift_card_pieces_sum_30d", 0.0, 0.0),
        ("payment_attempts_max_30d", 2.0, 2.0),
        ("orders_count_365d_same_card", 10.0, 0.0),
        ("orders_count_1d_other_card", 0.0, 0.0),
        ("days_since_last_order_same_card", 3.0, None),
        ("declined_count_30d", 1.0, 1.0),
        ("declined_share_30d", 0.1, 0.1),
        ("declined_count_1h", 0.0, 0.0),
        ("promotions_sum_30d", 5.0, 5.0),
        ("promotion_is_new", 0.0, None),
        ("refunded_count_180d", 1.0, 1.0),
        ("refunded_share_180d", 0.1, 0.1),
        ("refunded_sum_180d", 10.0, 10.0),
        ("days_since_last_refunded", 1.0, 1.0),
        ("cancelled_count_30d", 1.0, 1.0),
        ("fraud_count_365d", 1.0, 1.0),
        ("fraud_share_365d", 0.1, 0.1),
        ("days_since_last_fraud", 2.0, 2.0),
        ("fraud_count_365d_known_after_45d", 0.0, 0.0),
        ("fraud_share_365d_known_after_45d", None, None),
        ("country_category", 2.0, 3.0),
        ("payment_method_category", 0.0, 6.0),
        ("card_funding_category", None, 2.0),
        ("largest_line_share", 1.0, 1.0),
        ("gift_cards_count", 0.0, 5.0),
        ("orders_count_1d_over_account_age_days", None, 0.0),
    ],
)
def test_an_order_unlike_the_customers_others_stands_out(
    name: str, usual: float | None, strange: float | None
) -> None:
    alike = an_order(
        placed_at=NOON,
        country="DE",
        device_id="phone",
        card=Card(fingerprint="visa", issuer_country="DE"),
        shipping=BERLIN.model_copy(update={"hash": "home", "country": "DE"}),
        items=(Item(quantity=2, unit_price=500),),
        promotion_codes=("SPRING",),
        payment_method="card",
    )

    assert (asked(name, alike, a_habit()), asked(name, STRANGE, a_habit())) == (usual, strange)


def test_an_hour_far_from_the_customers_habit_is_told_from_it_also_across_midnight() -> None:
    late = an_order(placed_at=NOON + timedelta(hours=11, minutes=30))
    row = a_habit()
    row.remember(an_order(order_id="night", placed_at=NOON - timedelta(hours=11)))  # 1 o'clock

    assert asked("near_hour_2_share_365d", late, row) == 1 / 11


def test_a_cancelled_order_still_counts_as_an_order() -> None:
    row, order = Row(125), an_order(order_id="a", placed_at=NOON - timedelta(hours=3))
    row.remember(order)
    row.learn(Fact("a", order.placed_at, "cancelled", True, NOON - timedelta(hours=2), 1000, "EUR"))

    assert asked("orders_count_1d", an_order(), row) == 1.0
    assert asked("cancelled_count_30d", an_order(), row) == 1.0


def test_the_velocity_of_a_card_is_that_of_everyone_who_pays_with_it() -> None:
    row = Row(125)
    for number in range(3):
        row.remember(
            an_order(
                order_id=f"o{number}",
                customer_id=f"c{number}",
                placed_at=NOON - timedelta(minutes=10 * number + 1),
                card=Card(fingerprint="visa"),
                shipping=Address(hash="drop"),
            )
        )
    order = an_order(card=Card(fingerprint="visa"))

    assert asked("by_card_orders_count_1h", order, row) == 3.0
    assert asked("by_card_customer_distinct_30d", order, row) == 3.0
    assert asked("by_card_shipping_address_distinct_30d", order, row) == 1.0
    assert asked("by_card_days_since_first_order", order, row) == 21 / 1440


def test_known_fraud_of_a_device_counts_once_it_had_a_week_to_be_known() -> None:
    row = Row(125)
    for days_ago, is_fraud in ((8, True), (9, False), (5, True)):
        placed_at = NOON - timedelta(days=days_ago)
        row.remember(an_order(order_id=f"o{days_ago}", placed_at=placed_at, device_id="phone"))
        if is_fraud:
            known_at = placed_at + timedelta(days=1)
            row.learn(Fact(f"o{days_ago}", placed_at, "fraud", True, known_at, 1000, "EUR"))

    assert asked("by_device_fraud_count_90d_known_after_7d", an_order(), row) == 1.0
    assert asked("by_device_fraud_share_90d_known_after_7d", an_order(), row) == 0.5


RATES = Rates("test", base="EUR", per_unit={"USD": "0.5"})


def test_amounts_in_one_currency_add_up_what_was_paid_in_several() -> None:
    row = Row(125)
    row.remember(an_order(order_id="eur", amount=1000, placed_at=NOON - timedelta(hours=2)))
    row.remember(an_order(order_id="usd", amount=4000, currency="USD", placed_at=NOON - timedelta(hours=1)))
    order = an_order(amount=6000, currency="USD")

    values = {each.name: each.value(order, row.as_of(NOON)) for each in amounts_in(RATES)}

    assert values["amount_eur"] == 30.0
    assert values["amount_eur_sum_1d"] == 30.0
    assert values["amount_eur_mean_30d"] == 15.0
    assert values["amount_eur_std_90d"] == 5.0
    assert values["amount_eur_zscore_90d"] == 3.0
    assert values["amount_eur_over_amount_eur_max_365d"] == 1.5
    assert not {*values} & {each.name for each in CATALOGUE}


def test_a_currency_without_a_rate_has_no_amount_in_another() -> None:
    order = an_order(currency="JPY")

    assert amounts_in(RATES)[0].value(order, Row(125).as_of(NOON)) is None


def test_every_feature_is_in_one_group_and_found_by_its_name() -> None:
    names = [each.name for group in GROUPS.values() for each in group]

    assert len(names) == len(set(names)) >= 70
    assert by_names(names) == CATALOGUE


def test_every_entity_that_may_have_a_history_has_features() -> None:
    assert {each.entity for each in CATALOGUE} == {None, *ENTITIES}


def test_what_is_served_looks_at_the_order_and_its_customer_alone() -> None:
    assert {each.entity for each in SERVED} == {None, "customer"}
    assert not unserved(SERVED)


def test_what_became_of_orders_is_served_however_it_is_asked() -> None:
    asking = (
        Count("refunded", over=days(30)),
        Share("fraud", over=days(30)),
        Share(same("card") & ~was("declined"), over=days(30)),
        Sum("refunded", over=days(30)),
        SinceLast("fraud"),
        Mean("amount", over=days(30), where=was("returned")),
        Ratio(Count("fraud", over=days(7)), to=Count(over=days(7))),
        Trend("orders", over=days(7), against=days(30), where=~was("fraud")),
    )

    assert all(each.looks_at_facts for each in asking)
    assert not unserved(asking)


def test_features_of_an_entity_without_a_history_are_named_with_what_to_do() -> None:
    asked = [by_name(each) for each in ("amount", "by_card_orders_count_1h", "by_ip_card_distinct_1d")]

    assert not unserved(asked, ("ip", "card"))
    assert unserved(asked, ("device", "ip")) == (
        "asks for features of a history that workers do not keep here: by_card_orders_count_1h (card); "
        "set FRAUDSTREAM_ENTITIES=device,ip,card and run 'fraudstream rebuild', or leave them out"
    )
    assert "(card), by_ip_card_distinct_1d (ip); set FRAUDSTREAM_ENTITIES=card,ip and" in unserved(asked)


def test_what_is_chosen_as_served_follows_the_entities_that_have_histories() -> None:
    chosen = Catalogue(entities=("merchant",)).chosen("served")

    assert {each.entity for each in chosen} == {None, "customer", "merchant"}
    assert not unserved(chosen, ("merchant",))


def test_the_starter_features_stay_what_published_models_know() -> None:
    assert [each.name for each in STARTER] == [
        "amount", "hour_of_day", "is_weekend", "items_count", "digital_share", "payment_attempts",
        "account_age_days", "issuer_country_differs", "shipping_country_differs", "orders_count_1h",
        "orders_count_1d", "orders_count_7d", "orders_count_30d", "amount_sum_1d", "amount_mean_7d",
        "amount_mean_30d", "amount_max_30d", "days_since_last_order", "days_since_first_order",
        "device_distinct_30d", "card_distinct_30d", "device_is_new", "card_is_new",
        "shipping_address_is_new", "amount_over_amount_mean_30d",
    ]  # fmt: skip


def test_an_unknown_feature_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeatureDefinitionError, match="did you mean 'fraud_share_365d'"):
        by_name("fraud_share_356d")
