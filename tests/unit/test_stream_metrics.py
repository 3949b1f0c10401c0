"""What is measured around the transaction core, and what Prometheus reads of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from features.decode import REJECTION_CODES
from models.policy import Action
from stream.control import OBSERVE
from stream.hot import RECENT
from stream.metrics import (
    METRICS,
    MeasuredCluster,
    MeasuredDesk,
    Measurements,
    Running,
    Standing,
    registry,
)
from stream.ports import TP, LocalPosition, NotStable, Record, Unreachable
from stream.store import RocksStore
from tests.small_desk import Shop
from tests.strategies import an_order, as_json
from tests.unit.test_stream_control import a_shop, told
from tests.unit.test_stream_health import AWriter

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
STANDING = Standing(healthy=True, ready=True, stuck_s=0.0, up_s=5.0, lag={("orders", 0): 3})
DECISIONS = ("decisions", "decisions-shadow")
IDENTITY = {"version": "1", "model": "m", "model_version": "v", "model_digest": "d", "policy": "p"}


def scraped(
    measured: Measurements, running: Running | None = None
) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample by name and labels, read as Prometheus reads them."""
    text = generate_latest(registry(measured, lambda: running, lambda: STANDING)).decode()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def a_running(tmp_path: Path, **counts: int) -> Running:
    writer = AWriter()
    writer.counts.update(counts)
    store = RocksStore(tmp_path / "rows")
    return Running(cast("Any", writer), store, Shop().desk, 0.5, lambda _: None, lambda: IDENTITY)


def test_everything_described_is_measured_and_everything_measured_is_described(tmp_path: Path) -> None:
    running = a_running(tmp_path, transactions=1)
    text = generate_latest(registry(Measurements(), lambda: running, lambda: STANDING)).decode()

    told = dict(re.findall(r"^# TYPE (fraudstream_\S+) (\S+)$", text, re.MULTILINE))

    # there is a generation only while there is an assignment
    assert told | {"fraudstream_generation": "gauge"} == {each.name: each.kind for each in METRICS}


def test_names_follow_what_prometheus_asks_of_them() -> None:
    for each in METRICS:
        assert each.name.startswith("fraudstream_")
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert each.meaning.endswith(".")


def test_before_the_worker_has_its_parts_a_scrape_tells_what_there_is() -> None:
    samples = scraped(Measurements())

    assert samples["fraudstream_healthy"] == {(): 1.0}
    assert "fraudstream_info" not in samples
    assert samples["process_resident_memory_bytes"][()] > 0


def test_every_action_and_every_reason_is_there_from_the_start(tmp_path: Path) -> None:
    samples = scraped(Measurements(), a_running(tmp_path))

    assert samples["fraudstream_decisions_total"] == {(("action", each.value),): 0.0 for each in Action}
    assert samples["fraudstream_orders_rejected_total"] == {
        (("reason", code),): 0.0 for code in REJECTION_CODES
    }


def test_a_count_nobody_gave_a_metric_is_told_all_the_same(tmp_path: Path) -> None:
    samples = scraped(Measurements(), a_running(tmp_path, transactions=2, transactions_aborted=1, new=7))

    assert samples["fraudstream_other_total"] == {(("what", "new"),): 7.0}
    assert samples["fraudstream_transactions_total"] == {
        (("outcome", "committed"),): 2.0,
        (("outcome", "aborted"),): 1.0,
        (("outcome", "unknown"),): 0.0,
    }


def test_the_size_of_the_rows_is_told_and_left_out_once_they_are_closed(tmp_path: Path) -> None:
    running = a_running(tmp_path)
    running.store.write(0, {b"k": b"v" * 100}, LocalPosition({}, 1, "log", 0.0))

    assert scraped(Measurements(), running)["fraudstream_store_keys"] == {(): 2.0}
    running.store.close()
    assert "fraudstream_store_keys" not in scraped(Measurements(), running)


def test_the_share_that_was_rejected_is_told_though_the_breaker_is_off(tmp_path: Path) -> None:
    shop = Shop()
    effects = shop.arrive(as_json(an_order()), b"no order", b"nor this", b"nor that", key=b"c1")
    assert effects.committed is not None
    effects.committed()
    running = Running(
        cast("Any", AWriter()), RocksStore(tmp_path / "rows"), shop.desk, 0.0, {}.get, lambda: IDENTITY
    )

    assert scraped(Measurements(), running)["fraudstream_reject_share"] == {(): 0.75}


def test_whether_the_group_is_paused_or_observes_is_told_before_the_next_order(tmp_path: Path) -> None:
    running = a_running(tmp_path)
    samples = scraped(Measurements(), running)
    assert samples["fraudstream_paused"] == samples["fraudstream_observing"] == {(): 0.0}

    cast("Any", running.writer.mailbox).held = True
    shop, states = a_shop(told())
    states.append(told(OBSERVE))
    samples = scraped(Measurements(), replace(running, desk=shop.desk))

    assert samples["fraudstream_paused"] == samples["fraudstream_observing"] == {(): 1.0}


def _record(offset: int, timestamp: int, *, history: bool = False) -> Record:
    value = as_json(an_order(order_id=f"o{offset}"))
    return Record("orders", 0, offset, timestamp, b"c1", value, (("mode", b"history"),) if history else ())


def test_latency_is_that_of_each_committed_order_from_its_arrival_and_not_of_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream.metrics.time.time", lambda: 1_800_000_000.0)
    now = 1_800_000_000_000
    measured = Measurements()
    desk = MeasuredDesk(Shop().desk, measured, decisions=DECISIONS)
    records = [
        _record(0, now - 40_000),
        _record(1, now - 400),
        _record(2, now - 400),
        _record(3, now - 400, history=True),
        _record(4, now + 250),
        _record(5, -1),
    ]

    effects = desk.decide(records, lambda *_: None)
    before = scraped(measured)
    assert effects.committed is not None
    effects.committed()
    after = scraped(measured)

    assert before["fraudstream_order_latency_seconds_count"] == {(): 0.0}, "not yet committed"
    assert after["fraudstream_orders_total"] == {(): 6.0}
    buckets = {dict(at)["le"]: n for at, n in after["fraudstream_order_latency_seconds_bucket"].items()}
    assert buckets["0.005"] == 1, "a clock ahead of the broker's counts as no time"
    assert (buckets["0.25"], buckets["0.5"], buckets["30.0"], buckets["60.0"]) == (1, 3, 3, 4)
    assert after["fraudstream_order_latency_seconds_sum"][()] == pytest.approx(40.8)
    assert after["fraudstream_batch_orders_sum"] == {(): 6.0}


def test_an_order_that_goes_through_stages_is_counted_once_from_its_arrival_at_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream.metrics.time.time", lambda: 1_800_000_010.0)
    measured = Measurements()
    shop = Shop(entities=("device", "merchant"))
    shop.desk = cast("Any", MeasuredDesk(shop.desk, measured, decisions=DECISIONS))
    order = as_json(an_order(order_id="o1", device_id="d1"))

    shop.only([shop.record("orders", 0, b"c1", order)])
    assert scraped(measured)["fraudstream_order_latency_seconds_count"] == {(): 0.0}, "nothing is decided yet"
    while shop.waiting:
        # appended there nine seconds after it came in
        shop.waiting = [each._replace(timestamp=1_800_000_009_000) for each in shop.waiting]
        shop.only([shop.waiting.pop()])

    after = scraped(measured)
    assert after["fraudstream_order_latency_seconds_count"] == {(): 1.0}
    assert after["fraudstream_order_latency_seconds_sum"] == {(): 10.0}


def test_what_a_sender_wrote_into_a_rejected_records_headers_is_no_latency() -> None:
    measured = Measurements()
    headers = (("order_arrived_at", b"not a number"), ("mode", b"history"))
    record = Record("orders", 0, 0, 1_800_000_000_000, b"c1", b"no order", headers)
    effects = MeasuredDesk(Shop().desk, measured, decisions=DECISIONS).decide([record], lambda *_: None)
    assert effects.committed is not None
    effects.committed()

    assert measured.latency.total == 0
    assert measured.orders == 1


def test_the_hottest_key_is_told_of_opened_partitions_only(tmp_path: Path) -> None:
    measured = Measurements()
    for partition in (0, 1):
        measured.hot.count([Record("orders", partition, n, 0, b"c1", b"") for n in range(RECENT)])
    running = a_running(tmp_path)
    cast("Any", running.writer).opened = {1: {}}

    told = scraped(measured, running)["fraudstream_hottest_key_share"]

    assert told == {(("partition", "1"), ("topic", "orders")): 1.0}


def test_the_breaker_is_still_asked_once_a_measured_batch_is_committed() -> None:
    measured = Measurements()
    desk = Shop().desk
    effects = MeasuredDesk(desk, measured, decisions=DECISIONS).decide(
        [_record(0, 1_800_000_000_000)], lambda *_: None
    )
    assert effects.committed is not None

    effects.committed()

    assert measured.orders == 1
    assert desk.share_rejected == 0.0
    assert len(desk._recent) == 1


class ALog:
    """A cluster that answers what it is told to."""

    def __init__(self) -> None:
        self.chunks: list[Sequence[Record] | Exception] = []
        self.ends: int | Exception = 0

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def high(self, tp: TP) -> int:
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends


@pytest.fixture
def log() -> ALog:
    return ALog()


@pytest.fixture
def measured() -> Measurements:
    return Measurements()


@pytest.fixture
def cluster(log: ALog, measured: Measurements) -> MeasuredCluster:
    return MeasuredCluster(cast("Any", log), measured, changelog="changelog")


def test_a_restore_tells_how_far_it_has_come(
    log: ALog, measured: Measurements, cluster: MeasuredCluster
) -> None:
    log.chunks = [[_record(4, 0), _record(7, 0)], [_record(9, 0)]]

    left = [
        scraped(measured)["fraudstream_restore_offsets_left"] for _ in cluster.read(("changelog", 3), 2, 12)
    ]
    left.append(scraped(measured)["fraudstream_restore_offsets_left"])

    assert left == [{(("partition", "3"),): n} for n in (4.0, 2.0, 0.0)]
    assert scraped(measured)["fraudstream_restore_offsets"] == {(("partition", "3"),): 10.0}
    assert scraped(measured)["fraudstream_restored_records_total"] == {(): 3.0}


def test_an_input_that_was_searched_to_its_end_is_known_to_hold_nothing_more(
    log: ALog, measured: Measurements, cluster: MeasuredCluster
) -> None:
    log.chunks = []

    list(cluster.read(("orders", 0), 5, 8))

    assert measured.searched == {("orders", 0): 8}
    assert measured.restores == {}


def test_whether_the_cluster_answers_is_noted_with_every_question(
    log: ALog, measured: Measurements, cluster: MeasuredCluster
) -> None:
    log.ends = Unreachable("orders/0: no answer within 10 s")
    with pytest.raises(Unreachable):
        cluster.high(("orders", 0))
    away = measured.unreachable

    log.ends = 7
    assert cluster.high(("orders", 0)) == 7

    assert away == "orders/0: no answer within 10 s"
    assert measured.unreachable is None
    assert measured.ends == {("orders", 0): 7}


def test_an_open_transaction_is_in_the_way_until_what_it_covers_was_read(
    log: ALog, measured: Measurements, cluster: MeasuredCluster
) -> None:
    log.chunks = [[_record(1, 0)], NotStable("changelog/0: an open transaction begins before offset 5")]
    with pytest.raises(NotStable):
        list(cluster.read(("changelog", 0), 0, 5))
    waiting = measured.open_transaction

    log.chunks = [[_record(4, 0)]]
    list(cluster.read(("changelog", 0), 2, 5))

    assert waiting == "changelog/0: an open transaction begins before offset 5"
    assert measured.open_transaction is None


def test_alerts_ask_for_metrics_that_exist() -> None:
    expressions = re.findall(r"^ *(?:- )?expr: (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    asked = {each.name + suffix for each in METRICS for suffix in suffixes[each.kind]}

    assert len(expressions) >= 5
    for expression in expressions:
        named = set(re.findall(r"\bfraudstream_\w+", expression))
        assert named <= asked, expression
        assert named, expression
