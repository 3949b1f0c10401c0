"""The published features of the Fraud Detection Handbook, met by the declarations themselves."""

import csv
import gzip
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from features.aggregates import Count, Mean, Share
from features.define import Feature, compute, days
from features.events import Order, Outcome
from features.remembered import ENTITIES
from features.replay import Replay

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
TRANSACTIONS = DATA / "hb_tx_2018-06-11_2018-08-14.csv.gz"
PUBLISHED = DATA / "hb_published_features_2018-07-25_2018-08-14.csv.gz"
# Two transactions of one customer in one second: the published pass counted one of them only.
TIES = {"1114752", "1114753", "1120860", "1120861", "1240489", "1240490", "1242689", "1242690"}
WINDOWS = (1, 7, 30)
FEATURES = tuple(
    word for window in WINDOWS for word in (Count(over=days(window)), Mean("amount", over=days(window)))
)
COLUMNS = tuple(
    column
    for window in WINDOWS
    for column in (f"CUSTOMER_ID_NB_TX_{window}DAY_WINDOW", f"CUSTOMER_ID_AVG_AMOUNT_{window}DAY_WINDOW")
)
MERCHANT_FEATURES = tuple(
    word
    for window in WINDOWS
    for word in (
        Count(over=days(window), by="merchant", known_after=days(7)),
        Share("fraud", over=days(window), by="merchant", known_after=days(7)),
    )
)
MERCHANT_COLUMNS = tuple(
    column
    for window in WINDOWS
    for column in (f"TERMINAL_ID_NB_TX_{window}DAY_WINDOW", f"TERMINAL_ID_RISK_{window}DAY_WINDOW")
)
needs_data = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="needs ../shared/data (the Handbook's transactions)"
)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as lines:
        yield from csv.DictReader(lines)


def an_order_of(transaction: dict[str, str]) -> Order:
    return Order(
        order_id=transaction["TRANSACTION_ID"],
        customer_id=transaction["CUSTOMER_ID"],
        placed_at=datetime.fromisoformat(transaction["TX_DATETIME"]).replace(tzinfo=UTC),
        amount=round(float(transaction["TX_AMOUNT"]) * 100),
        currency="EUR",
        merchant_id=transaction["TERMINAL_ID"],
    )


def an_outcome_of(order: Order) -> Outcome:
    """That it was fraud, a week after it was placed."""
    known_at = order.placed_at + days(7)
    return Outcome(
        order_id=order.order_id, kind="chargeback", is_fraud=True, occurred_at=known_at, known_at=known_at
    )


def arriving() -> Iterator[Order | Outcome]:
    """The transactions as they are placed, and among them the frauds as they become known."""
    waiting: deque[Outcome] = deque()
    for transaction in rows_of(TRANSACTIONS):
        order = an_order_of(transaction)
        while waiting and waiting[0].known_at <= order.placed_at:
            yield waiting.popleft()
        yield order
        if transaction["TX_FRAUD"] == "1":
            waiting.append(an_outcome_of(order))


def met_and_missed(features: Sequence[Feature], columns: Sequence[str], entity: str) -> tuple[int, set[str]]:
    """How many rows of published features the declarations meet to a millionth, and which they do not.

    By a replay of orders and outcomes as they arrive. The published windows are (t - w, t] and count the
    transaction itself, so each is asked as of one second later, once it is remembered; times are whole
    seconds.
    """
    published = {
        row["TRANSACTION_ID"]: tuple(float(row[column]) for column in columns) for row in rows_of(PUBLISHED)
    }
    past = Replay(lambda _order, _histories: None, row_limit=1000, entities=[entity])
    met, missed, keys = 0, set(), set()
    for event in arriving():
        past.follow(event, wanted=False)
        wanted = published.get(event.order_id)
        if wanted is None or not isinstance(event, Order):
            continue
        key = ENTITIES[entity](event)
        assert key is not None
        keys.add(key)
        history = past.row(entity, key).as_of(event.placed_at + timedelta(seconds=1))
        found = compute(features, event, {entity: history})
        # where there is nothing in the window the published share is 0, and ours is missing
        if all(abs((value or 0.0) - number) <= 1e-6 for value, number in zip(found, wanted, strict=True)):
            met += 1
        else:
            missed.add(event.order_id)
    assert all(past.row(entity, key).folded == 0 for key in keys)
    assert met + len(missed) == len(published)
    return met, missed


@needs_data
def test_the_published_customer_features_are_met_to_a_millionth() -> None:
    met, missed = met_and_missed(FEATURES, COLUMNS, "customer")

    assert missed <= TIES
    assert met + len(missed) == 201_295


@needs_data
@pytest.mark.slow
def test_the_published_merchant_features_are_met_to_a_millionth() -> None:
    met, missed = met_and_missed(MERCHANT_FEATURES, MERCHANT_COLUMNS, "merchant")

    assert missed <= TIES
    assert met + len(missed) == 201_295
