"""Many questions of one history: told together, alone, and where numba cannot be imported."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import features.questions
import features.values
from features.aggregates import Count, Max, Mean, Min, Ratio, Share, Std, Sum, Trend, ZScore
from features.catalogue import SERVED, by_name
from features.conditions import Condition, as_large, at_least, below, near_hour, other, same
from features.define import Feature, compute, days, feature
from features.errors import FeatureValueError
from features.events import Item, Order, microseconds
from features.history import Row
from features.plan import Plan
from features.questions import EVER, LAST, NEVER, Question, Questions, span, squares_of, total_of
from features.remembered import COLUMN_OF, VALUES, fingerprint, told
from tests.strategies import NOON, an_order, as_json

EUR = fingerprint("EUR")
LIMIT = 8
OVER = (days(30), timedelta(hours=4))


def some_orders(count: int) -> list[Order]:
    """Orders of one customer, an hour apart, in which everything a question can be about varies."""
    chance = random.Random(7)
    return [
        an_order(
            order_id=f"o{number}",
            placed_at=NOON - timedelta(hours=count - number),
            amount=chance.choice((0, 5, 1 << 20, 1 << 31, 1 << 33, 10**12)),
            currency=chance.choice(("EUR", "EUR", "JPY")),
            device_id=chance.choice((None, "phone", "tablet", "watch", "desk")),
            card={"fingerprint": f"card-{chance.randrange(20)}"},
            country=chance.choice((None, "DE", "FR")),
            ip=f"192.0.2.{chance.randrange(50)}",
            payment_attempts=chance.choice((None, 0, 1, 2, 2, 3)),
            items=(Item(quantity=quantity),) if (quantity := chance.randrange(4)) else (),
        )
        for number in range(count)
    ]


VECTORS = """
import json, sys
if sys.argv[1] == "without":
    sys.modules["numba"] = None
from features.catalogue import SERVED
from features.events import Order
from features.history import Row
from features.plan import Plan

row, plan, vectors = Row(int(sys.argv[2])), Plan(SERVED), []
for line in sys.stdin:
    order = Order.model_validate_json(line)
    history = row.as_of(order.placed_at)
    vectors.append([plan(order, {"customer": history}), history.is_exact])
    row.remember(order)
print(json.dumps([vectors, row.folded, "numba" in sys.modules and sys.modules["numba"] is not None]))
"""


def test_a_machine_without_numba_gives_the_same_answers() -> None:
    orders = b"\n".join(as_json(order) for order in some_orders(80))

    answered = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", VECTORS, how, str(LIMIT)],
                input=orders,
                capture_output=True,
                check=True,
                cwd=Path.cwd(),
            ).stdout
        )
        for how in ("with", "without")
    ]

    (compiled, folded, with_numba), (plain, _, without_numba) = answered
    assert (with_numba, without_numba) == (True, False)
    assert folded > LIMIT, "nothing was folded, so no question was about tiles"
    assert compiled == plain


@pytest.mark.parametrize("limit", [LIMIT, 1_000])
def test_what_is_asked_together_is_answered_as_it_is_alone(limit: int) -> None:
    row, orders = Row(limit), some_orders(60)
    for order in orders:
        row.remember(order)
    order = an_order(device_id="watch")
    windows = [span(days(1)), span(timedelta(hours=5), timedelta(hours=3)), span(days(30)), EVER]

    together = row.as_of(NOON)
    questions = Questions(windows)
    answers = together.answer(questions, told(order), order.amount, microseconds(order.placed_at))

    for window in windows:
        alone, at = row.as_of(NOON), questions.windows[window]
        assert (alone.spent(window, EUR)[1], alone.squares(window, EUR)) == (
            total_of(answers, at),
            squares_of(answers, at),
        )
        for ask in ("count", "currencies", "held_window"):
            assert getattr(together, ask)(window) == getattr(alone, ask)(window)
        for currency in map(fingerprint, ("EUR", "JPY", "USD")):
            for ask in ("spent", "squares", "smallest", "largest"):
                assert getattr(together, ask)(window, currency) == getattr(alone, ask)(window, currency)


CONDITIONS: tuple[Condition, ...] = (
    *(word(what) for word in (same, other) for what in ("card", "device", "country", "ip", "currency")),
    *(at_least("payment_attempts", number) for number in (0, 1, 2, 3, 2**70)),
    *(below("payment_attempts", number) for number in (0, 1, 2, 3, 2**70)),
    near_hour(1),
    near_hour(5),
    near_hour(11),
    as_large(),
)


@pytest.mark.parametrize("limit", [LIMIT, 1_000])
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: each.declaration)
def test_a_condition_counts_by_itself_what_its_mask_counts(condition: Condition, limit: int) -> None:
    row, orders = Row(limit), some_orders(60)
    for order in orders:
        row.remember(order)
    # both ways round midnight, with amounts that others have too
    for order in (*orders[-20:], an_order(device_id="never seen", currency="USD")):
        asks = order.model_copy(update={"placed_at": NOON + timedelta(hours=13)})
        for window in (days(1), timedelta(hours=4), days(30)):
            history = row.as_of(NOON)
            held = history.held_window(span(window))
            told_all = all(VALUES[what](asks) is not None for what in condition.needs)
            expected = float(condition.mask(asks, history, *held).count(1)) if told_all else None
            features = (Count(over=window, where=condition), Share(condition, over=window))

            alone, together = row.as_of(NOON), row.as_of(NOON)
            answered = compute(features, asks, {"customer": alone})

            share = None if expected is None or held[0] == held[1] else expected / (held[1] - held[0])
            assert answered == (expected, share)
            assert Plan(features)(asks, {"customer": together}) == answered
            assert together.is_exact == alone.is_exact


NUMBERS_ASKED = tuple(
    word(what, over=over)
    for word in (Sum, Mean, Min, Max, Std, ZScore)
    for what in ("payment_attempts", "pieces", "promotions")
    for over in OVER
)


@pytest.mark.parametrize("limit", [LIMIT, 1_000])
def test_numbers_are_told_together_as_they_are_of_chosen_orders(limit: int) -> None:
    row = Row(limit)
    for past in some_orders(60):
        row.remember(past)
    everything = ~near_hour(11) & near_hour(11)
    for order in (some_orders(60)[-1], an_order(items=())):
        asks = order.model_copy(update={"placed_at": NOON})
        alone, together = row.as_of(NOON), row.as_of(NOON)
        answered = compute(NUMBERS_ASKED, asks, {"customer": alone})

        assert Plan(NUMBERS_ASKED)(asks, {"customer": together}) == answered
        assert together.is_exact == alone.is_exact
        # one that every order meets: its numbers are picked one by one
        chosen = [replace(each, where=~everything) for each in NUMBERS_ASKED]
        assert compute(chosen, asks, {"customer": row.as_of(NOON)}) == answered


@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_dear(order: Order) -> float:
    """1 for an order that costs something; an order for nothing is a mistake of this feature."""
    return 1.0 if order.amount else float("inf")


@feature(unit="0 or 1", between=(0, 1), missing="never")
def fails_on_nothing(order: Order) -> float:
    """1, but for an order for nothing."""
    return order.amount / order.amount


@pytest.mark.parametrize("wrong", [is_dear, fails_on_nothing], ids=lambda each: each.name)
def test_a_plan_says_which_function_of_the_order_answers_no_number(wrong: Feature) -> None:
    features = (*SERVED, wrong)

    with pytest.raises(FeatureValueError) as alone:
        compute(features, an_order(amount=0), {})
    with pytest.raises(FeatureValueError) as together:
        Plan(features)(an_order(amount=0), {})

    assert wrong.name in str(together.value)
    assert str(together.value) == str(alone.value)
    assert Plan(features)(an_order(amount=5), {}) == compute(features, an_order(amount=5), {})


def test_a_sum_that_outgrows_64_bits_is_exact() -> None:
    amounts = [each for number in range(20) for each in (465 * 2**31 - 1 - number, 10**12 - number)]
    row = Row(40)
    for number, amount in enumerate(amounts):
        row.remember(
            an_order(order_id=f"o{number}", amount=amount, placed_at=NOON - timedelta(hours=40 - number))
        )

    assert row.as_of(NOON).squares(EVER, EUR) == sum(each * each for each in amounts)


def test_amounts_on_both_sides_of_what_is_small_are_added_up_alike() -> None:
    amounts = [(1 << 20) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 0]
    for count in range(1, len(amounts) + 1):
        row = Row(9)
        for number, amount in enumerate(amounts[:count]):
            row.remember(
                an_order(order_id=f"o{number}", amount=amount, placed_at=NOON - timedelta(hours=9 - number))
            )
        history = row.as_of(NOON)
        for first in range(count):
            window = span(timedelta(hours=9 - first))
            some = amounts[first:count]
            assert history.spent(window, EUR) == (len(some), sum(some))
            assert history.squares(window, EUR) == sum(each * each for each in some)
            assert (history.smallest(window, EUR), history.largest(window, EUR)) == (min(some), max(some))


OF_AMOUNTS: tuple[Feature, ...] = (
    *(word("amount", over=over) for word in (Sum, Mean, Min, Max, Std, ZScore) for over in OVER),
    *(Ratio(by_name("amount"), to=word("amount", over=days(30))) for word in (Sum, Mean, Min, Max)),
    Ratio(Sum("amount", over=days(30)), to=Count(over=days(30))),
    Trend("amount", over=timedelta(hours=4), against=days(30)),
)


@given(st.data())
def test_what_is_told_together_is_rounded_once_however_large_the_numbers_are(data: st.DataObject) -> None:
    # round where a sum, a product or a total of squares is no longer exact as a float
    large = st.integers(2, 39).flatmap(lambda bits: st.integers(2**bits - 3, 2**bits + 3))
    amounts = data.draw(st.lists(large, max_size=12))
    currency = data.draw(st.sampled_from(("EUR", "JPY", "KWD")))
    row = Row(data.draw(st.sampled_from((2, 100))))
    for number, amount in enumerate(amounts):
        at = NOON - timedelta(hours=12 - number)
        row.remember(an_order(order_id=f"o{number}", amount=amount, currency=currency, placed_at=at))
    order = an_order(amount=data.draw(large), currency=currency)
    alone, together = row.as_of(NOON), row.as_of(NOON)

    assert Plan(OF_AMOUNTS)(order, {"customer": together}) == compute(OF_AMOUNTS, order, {"customer": alone})
    assert together.is_exact == alone.is_exact


def test_what_no_float_holds_exactly_is_left_to_integers() -> None:
    # with floats alone some of these would end in another bit
    chance = random.Random(7)
    for _ in range(100):
        row, largest = Row(1_000), chance.choice((2**8, 2**29, 10**12))
        currency = chance.choice(("EUR", "KWD"))
        for number in range(chance.choice((0, 1, 2, 8, 997))):
            at = NOON - timedelta(minutes=number + 1)
            amount = chance.randrange(largest)
            row.remember(an_order(order_id=f"o{number}", amount=amount, currency=currency, placed_at=at))
        asks = an_order(amount=chance.randrange(largest), currency=currency)

        answered = Plan(OF_AMOUNTS)(asks, {"customer": row.as_of(NOON)})

        assert answered == compute(OF_AMOUNTS, asks, {"customer": row.as_of(NOON)})


@given(st.integers(2**52, 2**53 - 1), st.integers(1, 2**31), st.integers(0, 9), st.sampled_from((-1, 0, 1)))
def test_a_spread_half_way_between_two_floats_is_rounded_as_python_rounds_it(
    whole: int, divisor: int, doubled: int, beside: int
) -> None:
    def halves(number: int) -> tuple[int, int]:
        return number >> 62, number & (2**62 - 1)

    half_way = (2 * whole + 1) * divisor * 2**doubled + beside

    assert features.values._quotient(*halves(half_way), divisor) == half_way / divisor
    assert features.values._rounded(*halves(half_way)) == float(half_way)
    exactly = (2 * whole + 1) * 2 ** (doubled + 12) + beside
    assert features.values._rounded(*halves(exactly)) == float(exactly)


@feature(unit="share", between=(0, None), missing="never")
def part_of_a_major_unit(order: Order) -> float:
    """What the order costs in hundreds of a minor unit, which no whole number is."""
    return order.amount / 100


def test_a_ratio_to_a_function_of_the_order_is_exact_whether_or_not_that_is_whole() -> None:
    row = Row(LIMIT)
    for past in some_orders(5):
        row.remember(past)
    features = tuple(
        ratio
        for fact in (part_of_a_major_unit, by_name("payment_attempts"))
        for ratio in (Ratio(fact, to=Count(over=days(30))), Ratio(Count(over=days(30)), to=fact))
    )
    for amount in (0, 7, 100, 10**12):
        for attempts in (None, 0, 3):
            order = an_order(amount=amount, payment_attempts=attempts)
            expected = compute(features, order, {"customer": row.as_of(NOON)})

            # with the function among the features, and only as a part of others
            assert Plan(features)(order, {"customer": row.as_of(NOON)}) == expected
            both = Plan((part_of_a_major_unit, *features))(order, {"customer": row.as_of(NOON)})
            assert both == (amount / 100, *expected)


def test_steps_read_answers_where_questions_put_them() -> None:
    # each file that numba compiles has constants of its own
    for name in ("NEVER", "COUNT", "TOTAL", "SQUARES"):
        asked = getattr(features.questions, name, None) or getattr(features.questions, f"_{name}")
        assert getattr(features.values, f"_{name}") == asked, name


def test_a_text_nobody_names_is_asked_about_without_an_answer() -> None:
    row = Row(LIMIT)
    row.remember(an_order(placed_at=NOON - timedelta(hours=1)))
    question = Question(LAST, "device", EVER)
    questions = Questions((), [question])

    answers = row.as_of(NOON).answer(questions, bytes(8 * len(COLUMN_OF)), 0, 0)

    assert answers[questions.single[question]] == NEVER
    assert row.as_of(NOON).last_with("country", fingerprint("DE")) is None
    assert row.as_of(NOON).last_with("currency", EUR) == microseconds(NOON - timedelta(hours=1))


def test_a_plan_of_no_feature_asks_nothing() -> None:
    assert Plan(())(an_order(), {"customer": Row(LIMIT).as_of(NOON)}) == ()
    assert len(Plan(SERVED)(an_order(), {"customer": Row(LIMIT).as_of(NOON)})) == len(SERVED)
