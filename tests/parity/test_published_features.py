"""The published features of the Fraud Detection Handbook's customers, met by the declarations themselves."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from features.aggregates import Count, Mean
from features.define import compute, days
from features.events import Order
from features.history import Row

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


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_the_published_customer_features_are_met_to_a_millionth() -> None:
    """As an oracle only: their windows are (t - w, t] and count the transaction itself.

    So each is asked as of one second later, with its own order remembered; times are whole seconds.
    """
    published = {
        row["TRANSACTION_ID"]: tuple(float(row[column]) for column in COLUMNS) for row in rows_of(PUBLISHED)
    }
    rows: dict[str, Row] = defaultdict(lambda: Row(limit=1000))
    one_second = timedelta(seconds=1)
    met, missed = 0, set()
    for transaction in rows_of(TRANSACTIONS):
        order = an_order_of(transaction)
        row = rows[transaction["CUSTOMER_ID"]]
        row.remember(order)
        wanted = published.get(order.order_id)
        if wanted is None:
            continue
        found = compute(FEATURES, order, {"customer": row.as_of(order.placed_at + one_second)})
        if all(
            value is not None and abs(value - number) <= 1e-6
            for value, number in zip(found, wanted, strict=True)
        ):
            met += 1
        else:
            missed.add(order.order_id)

    assert missed <= TIES
    assert met + len(missed) == len(published) == 201_295
    assert all(row.dropped == 0 for row in rows.values())
