"""Rows remember in time's order, within bounds, and histories end before their instant."""

from datetime import timedelta

import pytest

from features.define import days, hours
from features.events import microseconds
from features.history import (
    VALUES,
    History,
    Row,
    RowBytesError,
    RowVersionError,
    StaleHistoryError,
    fingerprint,
)
from tests.strategies import NOON, an_order

TICK = timedelta(microseconds=1)


def a_row(*hours_ago: float, limit: int = 125) -> Row:
    """Orders so many hours before noon, amount = 100 times the position in which they arrived."""
    row = Row(limit)
    for number, ago in enumerate(hours_ago, start=1):
        row.remember(
            an_order(order_id=f"o{number}", placed_at=NOON - timedelta(hours=ago), amount=100 * number)
        )
    return row


def test_a_history_begins_at_the_window_and_ends_before_its_instant() -> None:
    row = Row(9)
    for number, moment in enumerate([NOON - days(1) - TICK, NOON - days(1), NOON - TICK, NOON, NOON + TICK]):
        row.remember(an_order(order_id=f"o{number}", placed_at=moment))
    history = row.as_of(NOON)

    assert len(history) == 3
    assert history.within(days(1)) == slice(1, 3)
    assert history.count(days(1)) == 2
    assert history.last_at() == microseconds(NOON - TICK)


def test_a_late_order_is_inserted_where_it_belongs() -> None:
    assert a_row(3, 1, 2).as_of(NOON).spent(hours(2), "EUR") == (200 + 300, 2)
    assert a_row(3, 1, 2).as_of(NOON - hours(1)).last_at() == microseconds(NOON - hours(2))


def test_sums_stay_right_when_orders_come_late_go_and_are_dropped_after_a_sum_was_asked_for() -> None:
    row = a_row(5, 4, limit=3)
    assert row.as_of(NOON).spent(days(1), "EUR") == (300, 2)

    row.remember(an_order(order_id="new", placed_at=NOON - hours(1), amount=7))
    assert row.as_of(NOON).spent(days(1), "EUR") == (307, 3)
    row.remember(an_order(order_id="newer", placed_at=NOON - TICK, amount=10))
    assert row.as_of(NOON).spent(days(1), "EUR") == (217, 3)
    row.remember(an_order(order_id="late", placed_at=NOON - hours(2), amount=1000))
    assert row.as_of(NOON).spent(days(1), "EUR") == (1017, 3)
    assert row.forget("new", NOON - hours(1))
    assert row.as_of(NOON).spent(days(1), "EUR") == (1010, 2)


def test_only_orders_in_the_same_currency_are_added() -> None:
    row = a_row(3, 2)
    row.remember(an_order(order_id="yen", currency="JPY", amount=5000, placed_at=NOON - hours(1)))
    history = row.as_of(NOON)

    assert history.spent(days(1), "EUR") == (300, 2)
    assert history.spent(days(1), "JPY") == (5000, 1)
    assert history.spent(days(1), "USD") == (0, 0)
    assert history.largest(days(1), "EUR") == 200
    assert history.largest(days(1), "USD") is None


def test_a_row_of_one_currency_has_nothing_in_another() -> None:
    assert a_row(3, 2).as_of(NOON).spent(days(1), "JPY") == (0, 0)
    assert a_row(3, 2).as_of(NOON).largest(days(1), "JPY") is None


def test_beyond_its_limit_a_row_drops_the_oldest_and_counts_it() -> None:
    row = a_row(4, 3, 2, 1, limit=2)

    assert (len(row), row.dropped) == (2, 2)
    assert row.as_of(NOON).spent(days(1), "EUR") == (700, 2)


def test_an_order_older_than_everything_in_a_full_row_is_only_counted() -> None:
    row = a_row(2, 1, 9, limit=2)

    assert (len(row), row.dropped) == (2, 1)
    assert "o3" not in row


def test_the_first_order_is_known_after_it_was_dropped() -> None:
    row = Row.decode(a_row(48, 2, 1, limit=2).encode(), 2)

    assert row.as_of(NOON).first_at() == microseconds(NOON - hours(48))
    assert row.as_of(NOON - hours(48)).first_at() is None


def test_orders_of_the_same_instant_are_all_held_and_forgotten_by_their_id() -> None:
    row = a_row(1, 1, 1)

    assert row.forget("o2", NOON - hours(1))
    assert not row.forget("o2", NOON - hours(1))
    assert [name in row for name in ("o1", "o2", "o3")] == [True, False, True]
    assert row.as_of(NOON).spent(days(1), "EUR") == (400, 2)


def test_an_order_is_forgotten_only_at_the_time_it_was_placed() -> None:
    row = a_row(2, 1)

    assert not row.forget("o1", NOON - hours(1))
    assert len(row) == 2


def test_forgetting_the_first_order_makes_the_second_the_first() -> None:
    row = a_row(2, 1)
    row.forget("o1", NOON - hours(2))
    assert row.first_at == microseconds(NOON - hours(1))

    row.forget("o2", NOON - hours(1))
    assert row.first_at is None
    assert row == Row(125)


def test_a_revision_replaces_what_it_revises() -> None:
    row = a_row(2)
    row.forget("o1", NOON - hours(2))
    row.remember(an_order(order_id="o1", revision=1, placed_at=NOON - hours(2), amount=900))

    assert row.as_of(NOON).spent(days(1), "EUR") == (900, 1)


def test_a_history_of_a_row_that_changed_since_refuses_to_answer() -> None:
    row = a_row(2, 1)
    history = row.as_of(NOON)
    row.remember(an_order(order_id="late", placed_at=NOON - hours(3)))

    for ask in (
        lambda: len(history),
        history.last_at,
        history.first_at,
        lambda: history.count(days(1)),
        lambda: history.spent(days(1), "EUR"),
        lambda: history.largest(days(1), "EUR"),
        lambda: history.distinct("device", days(1)),
        lambda: history.has_seen("device", "phone"),
        lambda: history.within(days(1)),
    ):
        with pytest.raises(StaleHistoryError, match=r"ask Row\.as_of for another"):
            ask()


def test_unknown_values_do_not_count_as_different_ones() -> None:
    row = Row(9)
    for number, device in enumerate(["phone", None, "laptop", "phone"]):
        row.remember(an_order(order_id=f"o{number}", device_id=device, placed_at=NOON - hours(number + 1)))

    assert row.as_of(NOON).distinct("device", days(1)) == 2
    assert row.as_of(NOON).distinct("device", hours(2)) == 1
    assert row.as_of(NOON).distinct("card", days(1)) == 0


def test_a_value_first_seen_later_has_not_been_seen() -> None:
    row = Row(9)
    row.remember(an_order(order_id="o1", device_id="phone", placed_at=NOON - hours(1)))
    row.remember(an_order(order_id="o2", device_id="laptop", placed_at=NOON))

    assert row.as_of(NOON).has_seen("device", "phone")
    assert not row.as_of(NOON).has_seen("device", "laptop")


def test_a_row_comes_back_from_its_bytes() -> None:
    row = a_row(48, 2, 1, limit=2)

    again = Row.decode(row.encode(), 2)

    assert again == row
    assert (again.dropped, again.first_at) == (1, row.first_at)
    assert Row.decode(Row(5).encode(), 5) == Row(5)


def test_the_bytes_of_a_row_stay_what_they_are() -> None:
    """Rows live for years in changelogs: a change here needs a new ROW_VERSION and a way to read the old."""
    row = Row(2)
    row.remember(an_order(order_id="o1", device_id="phone"))

    assert row.encode().hex() == (
        "010e00000100000000000000000000000030d93963170600"  # the header
        "0030d93963170600"  # placed at
        "e803000000000000"  # amount
        "b4536ee010d86a97"  # order
        "f3a45fb4c48cbf53"  # currency
        "0000000000000000"  # country
        "0000000000000000"  # merchant
        "e70d8d9fca47b9f3"  # device
        "0000000000000000"  # card
        "0000000000000000"  # shipping address
        "0000000000000000"  # postcode
        "0000000000000000"  # ip
        "0000000000000000"  # email domain
        "0000000000000000"  # category
        "0000000000000000"  # payment method
    )
    assert list(VALUES) == [
        "currency",
        "country",
        "merchant",
        "device",
        "card",
        "shipping_address",
        "postcode",
        "ip",
        "email_domain",
        "category",
        "payment_method",
    ]


def test_columns_that_never_vary_cost_one_word() -> None:
    assert len(a_row(*range(1, 101)).encode()) < 100 * 3 * 8 + 200


def test_a_smaller_limit_drops_the_oldest_of_a_row_read_back() -> None:
    row = Row.decode(a_row(3, 2, 1).encode(), 1)

    assert (len(row), row.dropped) == (1, 2)
    assert "o3" in row


def test_a_row_of_a_newer_version_is_not_guessed_at() -> None:
    data = bytes([9]) + a_row(1).encode()[1:]

    with pytest.raises(
        RowVersionError, match="version 9 and this program reads up to 1; run the version that wrote"
    ):
        Row.decode(data, 125)


@pytest.mark.parametrize("cut", [0, 1, 10, 24, -8, -1])
def test_half_a_row_is_refused(cut: int) -> None:
    with pytest.raises(RowBytesError, match="restore"):
        Row.decode(a_row(2, 1).encode()[:cut], 125)


def test_a_row_with_a_tail_is_refused() -> None:
    with pytest.raises(RowBytesError, match="does not fit"):
        Row.decode(a_row(2, 1).encode() + bytes(8), 125)


@pytest.mark.parametrize("limit", [0, -1, 10**7])
def test_a_row_needs_a_sensible_limit(limit: int) -> None:
    with pytest.raises(ValueError, match=r"must hold 1 to 1000000 orders"):
        Row(limit)


def test_nothing_about_the_customer_is_printed() -> None:
    assert repr(a_row(3, 2, limit=1)) == "<Row of 1 orders, limit 1, 1 dropped>"


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    assert fingerprint("phone") == int.from_bytes(bytes.fromhex("e70d8d9fca47b9f3"), "little", signed=True)
    assert fingerprint(None) == 0
    assert fingerprint("") != 0


def test_an_empty_history_has_nothing_and_nobody() -> None:
    history = Row(1).as_of(NOON)

    assert isinstance(history, History)
    assert len(history) == 0
    assert history.count(days(30)) == 0
    assert history.last_at() is None
    assert history.first_at() is None
    assert history.spent(days(30), "EUR") == (0, 0)
