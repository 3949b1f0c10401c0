"""Which past orders made a feature's value."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from features.aggregates import (
    Count,
    Distance,
    Distinct,
    IsNew,
    Max,
    Mean,
    Ratio,
    SinceFirst,
    SinceLast,
    Sum,
    Trend,
)
from features.catalogue import SERVED, Catalogue, by_name
from features.conditions import at_least, other, same
from features.define import Feature, days, hours
from features.events import Address, Order
from stream.cli import app
from stream.explain import Explained, _explained, _Found, _newest, is_explained, said
from stream.explain_cli import Asked, _features
from stream.settings import Settings
from tests.strategies import NOON, an_order


def at(hour: int, **fields: Any) -> Order:
    return an_order(**{"order_id": f"o{hour}", "placed_at": NOON + timedelta(hours=hour)} | fields)


NOW = at(100, device_id="d1", shipping=Address(hash="home", latitude=52.5, longitude=13.4))


def explained(
    feature: Feature, past: Sequence[Order], order: Order = NOW, *, most: int = 100, row_limit: int = 50
) -> Explained:
    found = _explained(order, iter(past), [feature], Settings(row_limit=row_limit), most)
    return found.features[0]


def ids(feature: Feature, past: Sequence[Order], order: Order = NOW, **options: Any) -> list[str]:
    return [each.order_id for each in explained(feature, past, order, **options).orders]


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (Count(over=hours(24)), ["o90", "o80"]),
        (Count(over=days(30), where=same("device")), ["o90", "o20"]),
        (Count(over=days(30), where=other("device")), ["o80"]),
        (Distinct("device", over=days(30)), ["o90", "o80", "o20"]),
        (IsNew("device"), ["o90", "o20"]),
        (Mean("amount", over=days(30)), ["o90", "o20", "o10"]),
        (Max("payment_attempts", over=days(30)), ["o80"]),
        (Sum("refunded", over=days(30)), []),
        (SinceLast(), ["o90"]),
        (SinceFirst(), ["o10"]),
        (Distance(), ["o20"]),
        (Trend("amount", over=hours(24), against=days(30)), ["o90", "o20", "o10"]),
        (Ratio(Count(over=hours(24)), to=Count(over=hours(85))), ["o90", "o80", "o20"]),
        (by_name("hour_of_day"), []),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_the_orders_that_made_a_value_are_shown_newest_first(feature: Feature, expected: list[str]) -> None:
    past = [
        at(10),
        at(20, device_id="d1", shipping=Address(latitude=48.1, longitude=11.6)),
        at(80, device_id="d2", currency="JPY", payment_attempts=3),
        at(90, device_id="d1"),
        at(200),
    ]

    assert ids(feature, past) == expected


def test_a_missing_value_says_why_and_shows_no_orders() -> None:
    found = explained(IsNew("device"), [at(1), at(2, device_id="d1")], at(9))

    assert found.shown == "missing: the order does not say its device, or a guest"
    assert (found.orders, found.more) == ((), 0)


def test_a_guest_has_no_past_and_its_own_features_all_the_same() -> None:
    guest = at(9, customer_id=None)
    found = _explained(guest, iter(()), SERVED, Settings(), 5)

    assert list(said(found))[1] == "a guest, who has no history"
    values = {each.feature.name: each.value for each in found.features}
    assert (values["is_guest"], values["orders_count_30d"]) == (1, None)


def test_a_past_order_says_what_the_feature_looks_at() -> None:
    past = [at(1, device_id="d1", payment_attempts=2, ip="192.0.2.1"), at(2, payment_attempts=5)]
    feature = Count(over=days(30), where=at_least("payment_attempts", 2) & ~same("device"))

    assert [each.said for each in explained(feature, past).orders] == [{"payment_attempts": 5}]
    assert explained(IsNew("device"), past).orders[0].said == {"device": "d1"}


def test_more_orders_than_asked_for_are_counted() -> None:
    found = explained(Count(over=days(30)), [at(hour) for hour in range(10)], most=3)

    assert [each.order_id for each in found.orders] == ["o9", "o8", "o7"]
    assert (found.more, found.value) == (7, 10)


def test_no_order_at_all_is_shown_when_none_is_asked_for() -> None:
    found = explained(Count(over=days(30)), [at(1)], most=0)

    assert (found.orders, found.more) == ((), 1)


def test_every_feature_of_a_long_past_is_explained_from_what_the_row_holds() -> None:
    past = [at(0, order_id=f"p{n}", placed_at=NOON + n * timedelta(minutes=1)) for n in range(300)]
    found = _explained(NOW, iter(past), SERVED, Settings(row_limit=16), 5)

    assert found.past is not None
    assert found.past + found.folded == 300
    by_its_name = {each.feature.name: each for each in found.features}
    assert by_its_name["orders_count_30d"].value == 300
    assert by_its_name["days_since_first_order"].orders == ()  # the first is held no longer
    assert by_its_name["days_since_last_order"].orders[0].order_id == "p299"


def test_of_two_features_of_one_window_that_cuts_a_tile_neither_is_called_exact() -> None:
    past = [at(0, order_id=f"p{n}", placed_at=NOON + n * timedelta(minutes=1)) for n in range(300)]
    window = timedelta(hours=100) - timedelta(minutes=5)
    both = [Sum("amount", over=window), Mean("amount", over=window)]
    found = _explained(NOW, iter(past), both, Settings(row_limit=32), 5)

    assert [each.is_exact for each in found.features] == [False, False]


def test_a_revised_order_is_shown_as_its_newest_revision_says() -> None:
    past = [at(1, amount=500, revision=2), at(1, amount=900, revision=1)]

    assert [each.amount for each in explained(Count(over=days(30)), past).orders] == [500]


def test_the_first_live_arrival_of_the_newest_revision_is_the_one_explained() -> None:
    def came(offset: int, *, live: bool = True, **fields: Any) -> _Found:
        return _Found(0, offset, live, at(1, **fields))

    arrived = [
        came(1),
        came(2, revision=1, live=False),
        came(3, revision=1, amount=7),
        came(4, revision=1),
        came(5, revision=1),
        came(6),
    ]

    place, order = _newest(arrived)

    assert (place.offset, order.revision, order.amount) == (4, 1, 1000)


def test_of_a_group_what_can_be_explained_is() -> None:
    found, left_out = _features(Settings(), Asked(None, None, (), "payment", None, 5, False))

    assert {"payment_attempts", "payment_attempts_max_30d"} <= {each.name for each in found}
    assert all(map(is_explained, found))
    assert left_out
    assert not any(map(is_explained, left_out))
    assert {*found, *left_out} == {*Catalogue().groups["payment"]}


def test_a_text_of_the_customers_is_never_a_command_to_the_terminal() -> None:
    order = at(2, device_id="d\x1b[2J")
    found = _explained(order, iter([at(1, device_id="d\x1b[2J")]), [IsNew("device")], Settings(), 5)

    shown = "\n".join(said(found))

    assert "device d\\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an order, or give one with --order; one of both"),
        (["o1", "--order", "order.json"], "name an order, or give one with --order; one of both"),
        (["o1", "--feature", "amount", "--group", "habit"], "--feature or --group, not both"),
        (["o1", "--group", "habits"], "there is no group 'habits'; did you mean 'habit'?"),
        (["o1", "--since", "yesterday"], "'yesterday' is no time"),
    ],
)
def test_what_cannot_be_meant_is_refused_as_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["features", "explain", *arguments])

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feature", "orders_count_30"], "there is no feature 'orders_count_30'; did you mean"),
        (
            ["--feature", "by_card_orders_count_1h"],
            "(card); 'fraudstream features' lists",
        ),
        (["--feature", "fraud_count_365d"], "(what became of orders); 'fraudstream features' lists"),
        (["--group", "by_card"], "nothing of group 'by_card' is explained so far"),
        (["--group", "returns"], "nothing of group 'returns' is explained so far"),
    ],
)
def test_a_feature_that_cannot_be_explained_is_refused_in_one_line(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["features", "explain", "o1", *arguments])

    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
