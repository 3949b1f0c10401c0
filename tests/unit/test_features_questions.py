"""Many questions of one history: told together, alone, and where numba cannot be imported."""

import json
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from features.catalogue import SERVED
from features.define import days
from features.events import Order, microseconds
from features.history import Row
from features.plan import Plan
from features.questions import EVER, LAST, NEVER, Question, Questions, span, squares_of, total_of
from features.remembered import COLUMN_OF, fingerprint, told
from tests.strategies import NOON, an_order, as_json

EUR = fingerprint("EUR")
LIMIT = 8


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
