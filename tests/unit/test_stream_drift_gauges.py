"""Drift as a worker's own metrics tell it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.scorer import Scored
from stream.drift_gauges import FEWEST, DriftGauges, DriftNow
from stream.metrics import Measurements
from tests.small_desk import Shop
from tests.strategies import an_order, as_json
from tests.unit.test_stream_metrics import a_running, scraped

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AT = int((NOON + HOUR).timestamp() * 1000)
"""When all orders arrived."""
LIKE_BEFORE = [number / 1000 for number in range(100)]


def said(scores: Sequence[float], *, unknown: int = 0, times: int = 6) -> dict[str, list[Scored]]:
    """What a model says of so many orders; of the first ones it does not know the age."""
    one = [Scored(p, ("age",) if at < unknown else (), ()) for at, p in enumerate(scores)]
    return {"risk@1": one * times}


def now(gauges: DriftGauges) -> DriftNow:
    ((model, found),) = gauges.now()
    assert model == "risk@1"
    return found


def test_a_window_is_told_once_it_is_over_and_held_against_the_first() -> None:
    gauges = DriftGauges(HOUR)
    gauges.count(said(LIKE_BEFORE, unknown=5), NOON)
    assert list(gauges.now()) == []

    gauges.count(said(LIKE_BEFORE, unknown=40), NOON + HOUR)
    first = now(gauges)
    gauges.count(said([0.5] * 100), NOON + 2 * HOUR)
    like = now(gauges)
    gauges.count(said(LIKE_BEFORE), NOON + 3 * HOUR)
    moved = now(gauges)

    assert (first.orders, first.stability, first.missing) == (600, None, {"age": 0.05})
    assert first.mean == pytest.approx(0.0495)
    assert like.stability == pytest.approx(0.0)
    assert like.missing == {"age": 0.4}
    assert moved.stability is not None
    assert moved.stability > 0.25
    assert (moved.mean, moved.missing) == (0.5, {})


def test_a_window_with_few_orders_goes_on_and_a_late_batch_opens_none() -> None:
    gauges = DriftGauges(HOUR)
    gauges.count(said(LIKE_BEFORE, times=1), NOON)
    gauges.count(said(LIKE_BEFORE, times=1), NOON + 5 * HOUR)
    gauges.count(said(LIKE_BEFORE), NOON - 5 * HOUR)

    assert FEWEST > 200
    assert list(gauges.now()) == []
    gauges.count(said(LIKE_BEFORE), NOON + 6 * HOUR)
    assert now(gauges).orders == 800


def guests(hour: int, count: int) -> list[bytes]:
    """Orders of guests, of whom nothing is known."""
    at = NOON + timedelta(hours=hour)
    return [as_json(an_order(order_id=f"o{hour}-{n}", customer_id=None, placed_at=at)) for n in range(count)]


def test_a_desk_counts_what_was_committed_and_nothing_of_a_batch_that_failed() -> None:
    gauges = DriftGauges(HOUR)
    shop = Shop(drift=gauges)
    records = [shop.record("orders", 0, b"k", each, at=AT) for each in guests(0, 50)]
    shop.desk.decide(records, lambda *_: None)  # its transaction failed
    shop.arrive(*guests(0, 600), at=AT)
    shop.arrive(*guests(1, 1), at=AT)

    ((model, found),) = gauges.now()

    assert (model, found.orders) == ("counting@2026-01-01.0000", 600)
    assert found.missing == {"orders_count_30d": 1.0}, "guests have no history"


def test_the_workers_metrics_tell_it(tmp_path: Path) -> None:
    gauges = DriftGauges(HOUR)
    for hour in range(3):
        gauges.count(said(LIKE_BEFORE, unknown=20), NOON + timedelta(hours=hour))

    samples = scraped(Measurements(), replace(a_running(tmp_path), drift=gauges))

    model = ("model", "risk@1")
    assert samples["fraudstream_model_orders"] == {(model,): 600.0}
    assert samples["fraudstream_model_score_stability"] == {(model,): 0.0}
    assert samples["fraudstream_model_missing_share"] == {(("feature", "age"), model): 0.2}
