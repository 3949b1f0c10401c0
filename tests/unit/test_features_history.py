"""Rows remember in time's order, within bounds, and histories end before their instant."""

import struct
from datetime import timedelta

import msgspec
import pytest

from features.aggregates import ZScore
from features.columns import fits
from features.define import days, hours
from features.events import microseconds
from features.facts import Fact
from features.history import (
    History,
    Row,
    RowBytesError,
    RowVersionError,
    StaleHistoryError,
    last_event_at,
)
from features.questions import Span, span
from features.rates import Rates
from features.remembered import NUMBERS, VALUES, fingerprint
from tests.strategies import NOON, an_order

EUR, JPY, USD = map(fingerprint, ("EUR", "JPY", "USD"))
DAY, EVER = span(days(1)), Span(None)
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
    assert history.held_window(DAY) == (1, 3)
    assert history.count(DAY) == 2
    assert history.last_at() == microseconds(NOON - TICK)


def test_a_late_order_is_inserted_where_it_belongs() -> None:
    assert a_row(3, 1, 2).as_of(NOON).spent(span(hours(2)), EUR) == (2, 200 + 300)
    assert a_row(3, 1, 2).as_of(NOON - hours(1)).last_at() == microseconds(NOON - hours(2))


def test_sums_stay_right_when_orders_come_late_go_and_are_folded_after_a_sum_was_asked_for() -> None:
    row = a_row(5, 4, limit=3)
    assert row.as_of(NOON).spent(DAY, EUR) == (2, 300)

    row.remember(an_order(order_id="new", placed_at=NOON - hours(1), amount=7))
    assert row.as_of(NOON).spent(DAY, EUR) == (3, 307)
    row.remember(an_order(order_id="newer", placed_at=NOON - TICK, amount=10))
    assert (len(row), row.folded) == (3, 1)
    assert row.as_of(NOON).spent(DAY, EUR) == (4, 317)
    row.remember(an_order(order_id="late", placed_at=NOON - hours(2), amount=1000))
    assert row.as_of(NOON).spent(DAY, EUR) == (5, 1317)
    assert row.forget("new", NOON - hours(1))
    assert row.as_of(NOON).spent(DAY, EUR) == (4, 1310)


def test_only_orders_in_the_same_currency_are_added() -> None:
    row = a_row(3, 2)
    row.remember(an_order(order_id="yen", currency="JPY", amount=5000, placed_at=NOON - hours(1)))
    history = row.as_of(NOON)

    assert history.spent(DAY, EUR) == (2, 300)
    assert history.spent(DAY, JPY) == (1, 5000)
    assert history.spent(DAY, USD) == (0, 0)
    assert (history.smallest(DAY, EUR), history.largest(DAY, EUR)) == (100, 200)
    assert history.largest(DAY, USD) is None


def test_a_row_of_one_currency_has_nothing_in_another() -> None:
    assert a_row(3, 2).as_of(NOON).spent(DAY, JPY) == (0, 0)
    assert a_row(3, 2).as_of(NOON).smallest(DAY, JPY) is None


def test_beyond_its_limit_a_row_counts_the_oldest_in_tiles() -> None:
    row = a_row(4, 3, 2, 1, limit=2)

    assert (len(row), row.folded) == (2, 2)
    assert row.as_of(NOON).spent(DAY, EUR) == (4, 1000)
    assert row.as_of(NOON).spent(span(hours(3)), EUR) == (3, 900)
    assert (row.as_of(NOON).smallest(DAY, EUR), row.as_of(NOON).largest(DAY, EUR)) == (100, 400)
    assert row.as_of(NOON).squares(DAY, EUR) == 300_000


def test_an_order_older_than_everything_in_a_full_row_is_counted_where_it_belongs() -> None:
    row = a_row(2, 1, 0.5, 9, limit=2)

    assert (len(row), row.folded) == (2, 2)
    assert "o4" not in row
    assert row.as_of(NOON).count(DAY) == 4
    assert row.as_of(NOON).first_at() == microseconds(NOON - hours(9))


def a_long_row(orders: int, *, limit: int) -> Row:
    """An order a minute, the last of them a minute before noon; every tenth in yen."""
    row = Row(limit)
    for number in range(orders):
        row.remember(
            an_order(
                order_id=f"o{number}",
                placed_at=NOON - timedelta(minutes=orders - number),
                amount=number,
                currency="JPY" if number % 10 == 0 else "EUR",
                device_id=f"d{number // 100}",
            )
        )
    return row


def test_a_count_beyond_the_limit_is_off_by_a_sixteenth_at_most() -> None:
    row = a_long_row(5_000, limit=64)

    worst = 0.0
    for minutes in range(1, 5_200, 7):
        history = row.as_of(NOON)
        count, true = history.count(span(timedelta(minutes=minutes))), min(minutes, 5_000)
        worst = max(worst, abs(count - true) / true)
        assert history.is_exact is False or count == true
    assert 0 < worst <= 1 / 16


def test_a_window_that_cuts_no_tile_is_exact_however_long() -> None:
    row = a_long_row(5_000, limit=64)

    history = row.as_of(NOON)
    assert history.count(EVER) == 5_000
    assert history.spent(EVER, JPY) == (500, sum(range(0, 5_000, 10)))
    assert history.is_exact


def test_a_question_asked_again_says_again_that_its_answer_is_not_exact() -> None:
    row = a_long_row(5_000, limit=64)
    for number in range(65):
        row.learn(Fact(f"o{number}", NOON, "fraud", is_so=True, known_at=NOON, amount=1, currency="EUR"))
    history = row.as_of(NOON + TICK)
    window = span(timedelta(minutes=4_000))
    answers = (
        lambda: history.spent(window, EUR),
        lambda: history.squares(window, EUR),
        lambda: history.count(window),
        lambda: history.known("fraud", window),
    )
    for answer in (*answers, *answers):
        history.is_exact = True
        answer()
        assert not history.is_exact


def test_what_an_order_cannot_be_compared_with_is_not_asked_for() -> None:
    rates = Rates("2026-01", base="EUR", per_unit={"USD": "0.92"})
    row, window = a_long_row(5_000, limit=64), timedelta(minutes=4_000)
    for feature in (ZScore("pieces", over=window), ZScore("amount", over=window, rates=rates)):
        history = row.as_of(NOON)
        assert feature.value(an_order(currency="JPY", items=()), history) is None
        assert history.is_exact, feature.name


def test_what_was_used_long_ago_is_not_new() -> None:
    history = a_long_row(5_000, limit=64).as_of(NOON)

    assert history.has_seen("device", fingerprint("d0"))
    assert not history.has_seen("device", fingerprint("d99"))
    assert history.distinct("device", EVER) == 50
    assert history.distinct("device", span(timedelta(minutes=450))) == 5
    assert history.is_exact


def test_of_more_different_texts_than_are_known_of_folded_orders_the_last_used_count() -> None:
    row = Row(16)
    for number in range(200):
        row.remember(
            an_order(
                order_id=f"o{number}", device_id=f"d{number}", placed_at=NOON - timedelta(hours=200 - number)
            )
        )
    history = row.as_of(NOON)

    assert history.has_seen("device", fingerprint("d150"))
    assert history.is_exact
    assert not history.has_seen("device", fingerprint("d0"))
    assert not history.is_exact


def test_a_row_of_many_orders_grows_no_more() -> None:
    few, many = a_long_row(1_000, limit=64), a_long_row(20_000, limit=64)

    assert len(many.encode()) < 3 * len(few.encode())
    assert 64 <= len(many) < 68


def test_an_order_sees_no_tile_that_ends_after_it() -> None:
    row = a_long_row(5_000, limit=64)

    for minutes in range(70, 5_000, 113):
        history = row.as_of(NOON - timedelta(minutes=minutes))
        assert history.count(EVER) <= 5_000 - minutes


def test_the_first_order_is_known_after_it_was_folded() -> None:
    row = Row.decode(a_row(48, 2, 1, limit=2).encode(), 2)

    assert row.as_of(NOON).first_at() == microseconds(NOON - hours(48))
    assert row.as_of(NOON - hours(48)).first_at() is None


def test_orders_of_the_same_instant_are_all_held_and_forgotten_by_their_id() -> None:
    row = a_row(1, 1, 1)

    assert row.forget("o2", NOON - hours(1))
    assert not row.forget("o2", NOON - hours(1))
    assert [name in row for name in ("o1", "o2", "o3")] == [True, False, True]
    assert row.as_of(NOON).spent(DAY, EUR) == (2, 400)


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

    assert row.as_of(NOON).spent(DAY, EUR) == (1, 900)


def test_a_history_of_a_row_that_changed_since_refuses_to_answer() -> None:
    row = a_row(2, 1)
    history = row.as_of(NOON)
    row.remember(an_order(order_id="late", placed_at=NOON - hours(3)))

    for ask in (
        lambda: len(history),
        history.last_at,
        history.first_at,
        lambda: history.count(DAY),
        lambda: history.spent(DAY, EUR),
        lambda: history.largest(DAY, EUR),
        lambda: history.distinct("device", DAY),
        lambda: history.has_seen("device", fingerprint("phone")),
        lambda: history.held_window(DAY),
    ):
        with pytest.raises(StaleHistoryError, match=r"ask Row\.as_of for another"):
            ask()


def test_unknown_values_do_not_count_as_different_ones() -> None:
    row = Row(9)
    for number, device in enumerate(["phone", None, "laptop", "phone"]):
        row.remember(an_order(order_id=f"o{number}", device_id=device, placed_at=NOON - hours(number + 1)))

    assert row.as_of(NOON).distinct("device", DAY) == 2
    assert row.as_of(NOON).distinct("device", span(hours(2))) == 1
    assert row.as_of(NOON).distinct("card", DAY) == 0


def test_a_value_first_seen_later_has_not_been_seen() -> None:
    row = Row(9)
    row.remember(an_order(order_id="o1", device_id="phone", placed_at=NOON - hours(1)))
    row.remember(an_order(order_id="o2", device_id="laptop", placed_at=NOON))

    assert row.as_of(NOON).has_seen("device", fingerprint("phone"))
    assert not row.as_of(NOON).has_seen("device", fingerprint("laptop"))


def test_a_row_comes_back_from_its_bytes() -> None:
    row = a_row(48, 2, 1, limit=2)

    again = Row.decode(row.encode(), 2)

    assert again == row
    assert (again.folded, again.first_at) == (1, row.first_at)
    assert Row.decode(Row(5).encode(), 5) == Row(5)


def test_what_is_remembered_keeps_its_place_in_the_bytes() -> None:
    """Rows live for years in changelogs: new columns go to the end, and none is taken out."""
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
        "customer",
        "email",
        "phone",
        "billing_address",
        "shipping_country",
        "issuer_country",
        "channel",
        "card_bin",
        "promotion",
    ]
    assert list(NUMBERS) == [
        "pieces",
        "digital_pieces",
        "gift_card_pieces",
        "promotions",
        "payment_attempts",
        "account_age_days",
    ]


@pytest.mark.parametrize("different", [1, 2, 255, 256, 257, 300])
def test_any_number_of_different_texts_is_kept_apart(different: int) -> None:
    row = Row(700)
    for number in range(600):
        device = None if number % 7 == 0 else f"d{number % different}"
        row.remember(
            an_order(
                order_id=f"o{number}", device_id=device, placed_at=NOON - timedelta(minutes=600 - number)
            )
        )
    told = [None if number % 7 == 0 else f"d{number % different}" for number in range(600)]
    history = row.as_of(NOON)

    assert row.column("device") == [fingerprint(device) for device in told]
    assert history.distinct("device", EVER) == len(set(told) - {None})
    assert history.where_is("device", fingerprint("d0"), 0, 600).count(1) == told.count("d0")
    assert Row.decode(row.encode(), 700).column("device") == row.column("device")
    assert (
        history.last_with("device", fingerprint("d0"))
        == row.column("placed_at")[max(number for number, device in enumerate(told) if device == "d0")]
    )


def test_the_last_event_is_read_off_the_bytes() -> None:
    row = a_row(2, 1)
    assert last_event_at(row.encode()) == row.last_at == microseconds(NOON - hours(1))
    assert last_event_at(Row(3).encode()) is None

    row.learn(Fact("o1", NOON - hours(2), "fraud", True, NOON, 100, "EUR"))
    assert last_event_at(row.encode()) == row.last_at == microseconds(NOON)
    for version in (2, 3):  # all begin with it, and a restore asks each of them
        rest = row.encode()[1:9] + b"not asked for"
        assert last_event_at(bytes([version]) + rest) == row.last_at


def a_fact(
    order_id: str = "o1", what: str = "fraud", *, is_so: bool = True, known: float = 1, amount: int = 100
) -> Fact:
    """What became known so many hours before noon, of an order placed two days before."""
    return Fact(order_id, NOON - days(2), what, is_so, NOON - timedelta(hours=known), amount, "EUR")


def test_a_fact_counts_from_when_it_is_known_and_until_it_is_corrected() -> None:
    row = Row(9)
    row.learn(a_fact(known=5))
    row.learn(a_fact(known=3, is_so=False))

    def known(hours_before: float) -> int:
        return row.as_of(NOON - timedelta(hours=hours_before)).known("fraud", EVER)

    assert [known(at) for at in (6, 5, 4.99, 3, 2.99, 0)] == [0, 0, 1, 1, 0, 0]


def test_facts_may_come_in_any_order_and_twice() -> None:
    told = [a_fact(known=5), a_fact(known=3, is_so=False), a_fact(known=1), a_fact("o2", "refunded", known=2)]
    rows = []
    for facts in (told, told[::-1], told + told):
        row = Row(9)
        for fact in facts:
            row.learn(fact)
        rows.append(row)

    assert rows[0] == rows[1] == rows[2]
    assert rows[0].as_of(NOON).known("fraud", EVER) == 1


def test_a_fact_belongs_to_the_window_its_order_was_placed_in() -> None:
    row = Row(9)
    row.learn(a_fact())

    assert row.as_of(NOON).known("fraud", span(days(2))) == 1
    assert row.as_of(NOON).known("fraud", DAY) == 0
    assert row.as_of(NOON).known("fraud", span(days(1), days(1))) == 1
    assert row.as_of(NOON).known("fraud", span(days(2), days(2))) == 0


def test_two_refunds_of_an_order_are_one_order_and_both_amounts() -> None:
    row = Row(9)
    row.learn(a_fact(what="refunded", known=4, amount=30))
    row.learn(a_fact(what="refunded", known=2, amount=20))

    assert row.as_of(NOON).known("refunded", EVER) == 1
    assert row.as_of(NOON).known_amounts("refunded", EVER) == [(30, EUR), (20, EUR)]
    assert row.as_of(NOON).known_at("refunded") == (
        microseconds(NOON - hours(4)),
        microseconds(NOON - hours(2)),
    )


def test_two_statements_of_one_fraud_are_one_loss_and_the_last_says_how_large() -> None:
    row = Row(9)
    row.learn(a_fact(known=4, amount=30))
    row.learn(a_fact(known=2, amount=20))

    assert row.as_of(NOON - hours(3)).known_amounts("fraud", EVER) == [(30, EUR)]
    assert row.as_of(NOON).known_amounts("fraud", EVER) == [(20, EUR)]
    assert row.as_of(NOON).known_at("fraud") == (
        microseconds(NOON - hours(4)),
        microseconds(NOON - hours(2)),
    )


def test_what_became_of_one_order_is_forgotten_and_of_the_others_it_is_not() -> None:
    row, without = Row(9), Row(9)
    row.learn(a_fact("o1"))
    row.learn(a_fact("o1", "refunded", known=4))
    for each in (row, without):
        each.learn(a_fact("o2", known=2))

    assert row.forget_facts("o1")
    assert row == without
    assert not row.forget_facts("o1")
    assert not Row(9).forget_facts("o1")


def test_one_fact_is_taken_out_again_and_one_that_is_not_held_changes_nothing() -> None:
    row = Row(9)
    row.learn(a_fact())
    row.learn(a_fact(known=2))
    history = row.as_of(NOON)

    assert not row.unlearn(a_fact(known=3))
    assert history.known("fraud", EVER) == 1
    assert row.unlearn(a_fact(known=2))
    with pytest.raises(StaleHistoryError):
        history.known("fraud", EVER)
    assert row.as_of(NOON).known_at("fraud") == (microseconds(NOON - hours(1)),) * 2
    assert row.learn(a_fact(known=2))
    assert not row.learn(a_fact(known=2))


def test_beyond_the_limit_the_earliest_known_facts_are_dropped_and_counted() -> None:
    row = Row(2)
    for number in range(4):
        row.learn(a_fact(f"o{number}", known=4 - number))

    assert row.facts_dropped == 2
    assert row.as_of(NOON).known("fraud", EVER) == 2
    assert Row.decode(row.encode(), 2) == row


def test_columns_that_never_vary_cost_one_word() -> None:
    assert len(a_row(*range(1, 101)).encode()) < 100 * 3 * 8 + 200


def test_a_smaller_limit_folds_the_oldest_of_a_row_read_back() -> None:
    row = Row.decode(a_row(3, 2, 1).encode(), 1)

    assert (len(row), row.folded) == (1, 2)
    assert "o3" in row


def test_a_row_of_a_newer_version_is_not_guessed_at() -> None:
    data = bytes([9]) + a_row(1).encode()[1:]

    with pytest.raises(
        RowVersionError, match="version 9 and this program reads up to 3; run the version that wrote"
    ):
        Row.decode(data, 125)


@pytest.mark.parametrize("cut", [0, 1, 10, 24, -8, -1])
def test_half_a_row_is_refused(cut: int) -> None:
    with pytest.raises(RowBytesError, match="restore"):
        Row.decode(a_row(2, 1).encode()[:cut], 125)


def with_parts(**parts: object) -> bytes:
    """A row of two orders, of two devices, whose bytes say something else in these parts."""
    row = Row(125)
    for hour in (1, 2):
        row.remember(an_order(order_id=f"o{hour}", placed_at=NOON + hours(hour), device_id=f"d{hour}"))
    data = row.encode()
    names = [
        "first_at",
        "folded",
        "times",
        "amounts",
        "orders",
        "same",
        "varying",
        "tiles",
        "used",
        "facts",
        "dropped",
    ]
    said = dict(zip(names, msgspec.msgpack.decode(data[9:]), strict=True))
    return data[:9] + msgspec.msgpack.encode(list((said | parts).values()))


@pytest.mark.parametrize(
    "parts",
    [
        {"same": b"1234567"},
        {"same": bytes(8 * 99)},
        {"varying": {3: (b"12345678", b"\0\1")}},
        {"varying": {3: (b"12345678", b"\0\0\1\0")}},
        {"varying": {3: (b"12345678", b"\0")}},
        {"varying": {3: (b"", b"\0\0")}},
        {"varying": {3: (b"1234567", b"\0\0")}},
        {"varying": {27: (b"12345678", b"\0\0")}},
        {"varying": {-1: (b"12345678", b"\0\0")}},
        # all orders say something, and each of them something else
        {"same": b"12345678", "varying": {0: (b"1234567887654321", b"\0\1")}},
        {"same": bytes(8), "varying": {1: (b"1234567887654321", b"\0\1")}},
        {"same": bytes(8), "varying": {-1: (b"1234567887654321", b"\0\1")}},
        {"used": [b"12345678"]},
        {"used": [b""] * 99},
        {"folded": 2**63},
        {"folded": -1},
        {"first_at": 2**63},
        {"dropped": 2**63},
    ],
)
def test_bytes_that_no_row_has_are_refused_before_they_are_asked(parts: dict[str, object]) -> None:
    with pytest.raises(RowBytesError, match="restore the row from its changelog"):
        Row.decode(with_parts(**parts), 1)


@pytest.mark.parametrize("column", [(b"12345678", b""), (b"1234567887654321", b""), (b"", b"")])
def test_a_row_without_orders_has_no_column_in_which_they_differ(column: tuple[bytes, bytes]) -> None:
    data = with_parts(times=b"", amounts=b"", orders=b"", varying={3: column})

    with pytest.raises(RowBytesError, match="restore the row from its changelog"):
        Row.decode(data, 125)


def test_tiles_that_add_up_to_more_than_a_number_are_refused() -> None:
    tile = struct.pack("<9q", 0, 0, 1, 1, 2**63 - 1, 0, 0, 0, 0)
    with pytest.raises(RowBytesError, match="restore"):
        Row.decode(with_parts(tiles=tile + tile, folded=2), 1)


def test_few_bytes_of_version_1_that_speak_of_billions_of_orders_are_refused() -> None:
    data = struct.pack("<BBHIQq14q", 1, 14, 2**14 - 1, 2**32 - 1, 0, 0, *range(14))
    with pytest.raises(RowBytesError, match="not a row of version 1"):
        Row.decode(data, 125)


@pytest.mark.parametrize(("held", "constant"), [(0, 2**14 - 1), (0, 1), (2, 0)])
def test_bytes_that_no_row_of_version_1_has_are_refused(held: int, constant: int) -> None:
    # columns of one value where there is no order, and an amount below 0
    numbers = 14 * held - constant.bit_count() * (held - 1)
    data = struct.pack(f"<BBHIQq{numbers}q", 1, 14, constant, held, 0, 0, *range(-3, numbers - 3))
    with pytest.raises(RowBytesError, match="not a row of version 1; restore the row from its changelog"):
        Row.decode(data, 125)


@pytest.mark.parametrize("known", [1, 2, 255, 256, 257, 300, 511, 512, 513, 65_536, 65_537])
@pytest.mark.parametrize("width", ["B", "H", "I"])
def test_a_column_has_a_value_for_each_of_its_codes(known: int, width: str) -> None:
    vocabulary = bytes(8 * known)
    if known - 1 < 256 ** struct.calcsize(width):
        assert fits((vocabulary, struct.pack(f"<3{width}", 0, known - 1, 0)), 3)
    if known < 256 ** struct.calcsize(width):
        assert not fits((vocabulary, struct.pack(f"<3{width}", 0, known, 0)), 3)


@pytest.mark.parametrize("cut", [0, 1, 8])
def test_the_last_event_of_half_a_row_is_refused(cut: int) -> None:
    with pytest.raises(RowBytesError, match="restore"):
        last_event_at(a_row(1).encode()[:cut])


def test_a_smaller_limit_drops_the_earliest_facts_of_a_row_read_back() -> None:
    row = Row(8)
    for hour in range(5):
        row.learn(a_fact(f"o{hour}", "refunded", known=9 - hour))

    told = Row.decode(row.encode(), 2)

    assert told.facts_dropped == 3
    assert told.as_of(NOON).known("refunded", Span(None)) == 2


def test_a_row_with_a_tail_is_refused() -> None:
    with pytest.raises(RowBytesError, match="not a row of version 3"):
        Row.decode(a_row(2, 1).encode() + bytes(8), 125)


@pytest.mark.parametrize(
    "columns",
    [[2**63], [(b"12345678", b"\0\1")], [(b"12345678", b"\0")], [(b"1234567", b"\0\0")], [0] * 99],
)
def test_bytes_that_no_row_of_version_2_has_are_refused(columns: list[object]) -> None:
    two = struct.pack("<QQ", 1, 2)
    data = b"\2" + bytes(8) + msgspec.msgpack.encode([0, 0, two, two, two, columns])

    with pytest.raises(RowBytesError, match="not a row of version 2; restore the row from its changelog"):
        Row.decode(data, 125)


@pytest.mark.parametrize("limit", [0, -1, 10**7])
def test_a_row_needs_a_sensible_limit(limit: int) -> None:
    with pytest.raises(ValueError, match=r"must hold 1 to 1000000 orders"):
        Row(limit)


def test_nothing_about_the_customer_is_printed() -> None:
    assert repr(a_row(3, 2, limit=1)) == "<Row of 1 orders, limit 1, 1 folded>"


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    assert fingerprint("phone") == int.from_bytes(bytes.fromhex("e70d8d9fca47b9f3"), "little", signed=True)
    assert fingerprint(None) == 0
    assert fingerprint("") != 0


def test_an_empty_history_has_nothing_and_nobody() -> None:
    history = Row(1).as_of(NOON)

    assert isinstance(history, History)
    assert len(history) == 0
    assert history.count(span(days(30))) == 0
    assert history.last_at() is None
    assert history.first_at() is None
    assert history.spent(span(days(30)), EUR) == (0, 0)
