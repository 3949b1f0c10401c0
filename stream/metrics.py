"""What is measured of a worker, and how Prometheus reads it.

The transaction core knows nothing of this: its ports are measured from outside, once a batch and not once
an order. One thread counts, the writer's; whoever asks reads. Times are those of this worker's clock.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from features.decode import REJECTION_CODES
from models.policy import Action
from stream.answers import ORDER_ARRIVED_AT, SHADOW
from stream.desk import KINDS, ScoringDesk
from stream.drift_gauges import DriftGauges, DriftNow
from stream.hot import HotKeys
from stream.ports import (
    NO_POSITIONS,
    NO_WATERMARKS,
    TP,
    Cluster,
    Committed,
    Desk,
    Effects,
    Headers,
    NotStable,
    Positions,
    Produce,
    Producer,
    Recall,
    Record,
    Unreachable,
    Watermarks,
)
from stream.store import RocksStore
from stream.writer import Writer

__all__ = [
    "METRICS",
    "MeasuredCluster",
    "MeasuredDesk",
    "Measurements",
    "MetricDescription",
    "Restore",
    "Running",
    "Standing",
    "registry",
]

_Answer = TypeVar("_Answer")

_LATENCIES: Final = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    3600.0,
)  # fmt: skip
_STAGE_TIMES: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 3600.0,
)  # fmt: skip
_BATCH_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000)
_STAGES: Final = ("wait", "decide", "transaction", "store")


class MetricDescription(NamedTuple):
    """One metric, for a person who wants to look at it."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    meaning: str


METRICS: Final = (
    MetricDescription(
        "fraudstream_healthy", "gauge", (), "1 while `/healthz` says 200, else 0."
    ),
    MetricDescription(
        "fraudstream_ready", "gauge", (), "1 while `/readyz` says 200, else 0."
    ),
    MetricDescription(
        "fraudstream_stuck_seconds", "gauge", (),
        "How long something has waited while nothing moved; 0 to 1 in good health.",
    ),
    MetricDescription("fraudstream_uptime_seconds", "gauge", (), "Since the worker started."),
    MetricDescription(
        "fraudstream_paused", "gauge", (),
        "1 while a person has paused the group, so that no orders are taken, else 0.",
    ),
    MetricDescription(
        "fraudstream_observing", "gauge", (),
        "1 while decisions go to the shadow only, so that nobody acts on them, else 0.",
    ),
    MetricDescription(
        "fraudstream_orders_total", "counter", (),
        "Records of the inputs that were taken and committed: decided, repeated, remembered or rejected.",
    ),
    MetricDescription(
        "fraudstream_decisions_total", "counter", ("action",),
        "Decisions by action; those heard again by a resent order not included.",
    ),
    MetricDescription(
        "fraudstream_decisions_repeated_total", "counter", (),
        "Decisions that a resent order heard again.",
    ),
    MetricDescription(
        "fraudstream_orders_remembered_total", "counter", (),
        "Orders of history: remembered, never decided.",
    ),
    MetricDescription(
        "fraudstream_orders_rejected_total", "counter", ("reason",),
        "Records that ended in the rejects' topic, by reason code.",
    ),
    MetricDescription(
        "fraudstream_orders_misplaced_total", "counter", (),
        "Orders on another partition than their key's murmur2: their histories are split.",
    ),
    MetricDescription(
        "fraudstream_orders_of_kind_total", "counter", ("kind",),
        "Orders that came `late` (the history held one placed later), of a `guest`, a `test`, `revised` (an "
        "older revision was taken out of a history) or `revised_folded` (it was too old to be taken out), or "
        "decided on an `approximate` history; docs/history.md.",
    ),
    MetricDescription(
        "fraudstream_evicted_total", "counter", ("what",),
        "What was forgotten because its last event lies too far back: `rows` of customers or `orders`.",
    ),
    MetricDescription(
        "fraudstream_other_total", "counter", ("what",),
        "Whatever else committed batches count and no metric above has.",
    ),
    MetricDescription(
        "fraudstream_order_latency_seconds", "histogram", (),
        "From the broker's timestamp of an order in `orders` to the commit of its decision, through all "
        "stages; what nobody decides (history) left out. The difference between the broker's clock and this "
        "worker's is part of it.",
    ),
    MetricDescription(
        "fraudstream_stage_seconds", "histogram", ("stage",),
        "Per batch: `wait` from the broker's timestamp of its first order until the desk takes it, `decide` "
        "(decode, recall, compute, score), `transaction` (begin to commit), `store` (local rows).",
    ),
    MetricDescription(
        "fraudstream_batch_orders", "histogram", (), "Orders in a committed batch."
    ),
    MetricDescription(
        "fraudstream_transactions_total", "counter", ("outcome",),
        "Transactions `committed`, `aborted` (decided anew), or of `unknown` outcome (the offsets tell).",
    ),
    MetricDescription(
        "fraudstream_lag_orders", "gauge", ("topic", "partition"),
        "Offsets between an opened partition's position and its end as last fetched.",
    ),
    MetricDescription(
        "fraudstream_hottest_key_share", "gauge", ("topic", "partition"),
        "Share that the most frequent key of an opened partition had of its last whole 1,000 records (or of "
        "a larger batch); above the setting `hot_share` the log warns.",
    ),
    MetricDescription(
        "fraudstream_waiting_orders", "gauge", (), "Orders fetched and not yet in a transaction."
    ),
    MetricDescription(
        "fraudstream_partitions", "gauge", (), "Partitions opened: restored, claimed and being decided."
    ),
    MetricDescription(
        "fraudstream_generation", "gauge", (),
        "The group's generation of the present assignment; each change is a rebalance.",
    ),
    MetricDescription(
        "fraudstream_restore_offsets", "gauge", ("partition",),
        "Offsets of the changelog that the partition's last restore has to go through.",
    ),
    MetricDescription(
        "fraudstream_restore_offsets_left", "gauge", ("partition",),
        "How many of these are left; 0 when restored.",
    ),
    MetricDescription(
        "fraudstream_restored_records_total", "counter", (), "Records replayed from the changelog."
    ),
    MetricDescription(
        "fraudstream_store_keys", "gauge", (), "Keys of the local rows, as RocksDB estimates them."
    ),
    MetricDescription(
        "fraudstream_store_bytes", "gauge", (), "Bytes of the local rows, on disk and in memory tables."
    ),
    MetricDescription(
        "fraudstream_reject_share", "gauge", (),
        "Share rejected of the last 1,000 orders, which the breaker looks at.",
    ),
    MetricDescription(
        "fraudstream_reject_share_limit", "gauge", (),
        "The setting `reject_share`: the worker stops above it; 0 never stops.",
    ),
    MetricDescription(
        "fraudstream_model_orders", "gauge", ("model",),
        "Orders of this worker that a model, `name@version`, said something of in its newest whole window of "
        "`drift_window_hours`, by when orders were placed; challengers too. This and the next three come "
        "once a model has had a whole window with 500 orders since the worker started.",
    ),
    MetricDescription(
        "fraudstream_model_score_mean", "gauge", ("model",),
        "The mean probability of fraud in that window.",
    ),
    MetricDescription(
        "fraudstream_model_score_stability", "gauge", ("model",),
        "The population stability index of the probability, that window against the first since the worker "
        "started; above 0.25 they are hardly of one kind.",
    ),
    MetricDescription(
        "fraudstream_model_missing_share", "gauge", ("model", "feature"),
        "The share of that window's orders of which a feature was unknown; those always known left out.",
    ),
    MetricDescription(
        "fraudstream_info", "gauge", ("version", "model", "model_version", "model_digest", "policy"),
        "Always 1; its labels are what decides.",
    ),
)  # fmt: skip
"""Every metric of ours, in the order of the page; `process_*` comes from the Prometheus client."""

_DESCRIBED: Final = {metric.name: metric for metric in METRICS}


class _Distribution:
    """How many values fell below each bound. One thread adds; reading meanwhile is off by one at most."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated, as Prometheus wants them."""
        so_far = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, map(float, self.bounds)), "+Inf"], list(self.counts), strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return buckets


@dataclass(slots=True)
class Restore:
    """How far the restore of one partition has come, in offsets of its changelog."""

    start: int
    end: int
    at: int

    @property
    def left(self) -> int:
        """Offsets still to be gone through."""
        return max(0, self.end - self.at)


@dataclass(slots=True)
class Measurements:
    """What the measured ports have seen since the worker started."""

    orders: int = 0
    latency: _Distribution = field(default_factory=partial(_Distribution, _LATENCIES))
    batch: _Distribution = field(default_factory=partial(_Distribution, _BATCH_SIZES))
    stages: dict[str, _Distribution] = field(
        default_factory=lambda: {stage: _Distribution(_STAGE_TIMES) for stage in _STAGES}
    )
    restores: dict[int, Restore] = field(default_factory=dict)
    restored: int = 0
    """Records replayed from the changelog."""
    ends: dict[TP, int] = field(default_factory=dict)
    """The high watermarks that the writer itself asked for."""
    searched: dict[TP, int] = field(default_factory=dict)
    """How far inputs were read past their positions: what lies before that is decided or no order."""
    unreachable: str | None = None
    """What the cluster's last refusal to answer said; None since it answered again."""
    open_transaction: str | None = None
    """What is covered by a transaction that somebody left open; None once it is not."""
    hot: HotKeys = field(default_factory=HotKeys)
    committed_at: float = 0.0
    """When the last transaction was committed, by `time.perf_counter`."""

    def went_through(self) -> None:
        """Note that nobody's open transaction is in the way."""
        self.unreachable = self.open_transaction = None

    def ask(self, call: Callable[..., _Answer], *arguments: Any, **options: Any) -> _Answer:
        """Make a call to the cluster, noting whether it answers."""
        try:
            answer = call(*arguments, **options)
        except Unreachable as error:
            self.unreachable = str(error)
            raise
        except NotStable as error:
            self.open_transaction = str(error)
            self.unreachable = None
            raise
        self.unreachable = None
        return answer


class MeasuredDesk:
    """A desk, with the time its batches take from their arrival until they are stored."""

    def __init__(self, desk: Desk, measured: Measurements, *, decisions: Collection[str]) -> None:
        """`decisions` are the topics that decisions go to."""
        self._desk = desk
        self._measured = measured
        self._decisions = frozenset(decisions)

    def decide(
        self,
        records: Sequence[Record],
        recall: Recall,
        watermarks: Watermarks = NO_WATERMARKS,
        positions: Positions = NO_POSITIONS,
    ) -> Effects:
        """What the desk decides; measured again when the batch is tried again."""
        stages = self._measured.stages
        if records[0].timestamp >= 0:
            stages["wait"].add(max(0.0, time.time() - records[0].timestamp / 1000))
        began = time.perf_counter()
        effects = self._desk.decide(records, recall, watermarks, positions)
        stages["decide"].add(time.perf_counter() - began)
        effects.committed = partial(self._committed, records, effects.produce, effects.committed)
        return effects

    def set_aside(self, record: Record, recall: Recall, positions: Positions = NO_POSITIONS) -> Effects:
        """What the desk makes of a record that stopped the worker."""
        effects = self._desk.set_aside(record, recall, positions)
        effects.committed = partial(self._committed, (record,), effects.produce, effects.committed)
        return effects

    def _committed(
        self, records: Sequence[Record], produced: Sequence[Produce], then: Callable[[], None] | None
    ) -> None:
        measured = self._measured
        measured.stages["store"].add(time.perf_counter() - measured.committed_at)
        measured.orders += len(records)
        measured.batch.add(len(records))
        measured.hot.count(records)
        now = time.time()
        # under load a broker gives hundreds of records one timestamp: each is looked up once
        for arrived, times in Counter(map(_order_arrived_at, self._decided(produced))).items():
            if arrived >= 0:
                measured.latency.add(max(0.0, now - arrived / 1000), times)
        if then is not None:
            then()  # last: the breaker may stop the worker here

    def _decided(self, produced: Sequence[Produce]) -> Iterator[Headers]:
        # by topic: a reject has its sender's headers, whatever they say
        return (
            each.headers for each in produced if each.topic in self._decisions and SHADOW not in each.headers
        )


def _order_arrived_at(headers: Headers) -> int:
    """When the broker had the order that a decision is about, in milliseconds since 1970; -1 if unknown."""
    return next((int(value) for name, value in headers if name == ORDER_ARRIVED_AT), -1)


class MeasuredCluster:
    """A cluster, with what it was asked for and whether it answered."""

    def __init__(self, cluster: Cluster, measured: Measurements, *, changelog: str) -> None:
        self._cluster = cluster
        self._measured = measured
        self._changelog = changelog

    def producer(self, transactional_id: str) -> Producer:
        """Make a producer whose transactions are timed."""
        return _MeasuredProducer(self._measured.ask(self._cluster.producer, transactional_id), self._measured)

    def committed(self, inputs: Sequence[TP], *, stable: bool) -> Mapping[TP, Committed | None]:
        """The group's committed offsets."""
        offsets = self._measured.ask(self._cluster.committed, inputs, stable=stable)
        if stable:
            self._measured.went_through()
        return offsets

    def members(self) -> Mapping[str, str]:
        """The living members of the group."""
        return self._measured.ask(self._cluster.members)

    def low(self, tp: TP) -> int:
        """The first offset the partition still has."""
        return self._measured.ask(self._cluster.low, tp)

    def high(self, tp: TP) -> int:
        """The high watermark, kept for the lag."""
        high = self._measured.ends[tp] = self._measured.ask(self._cluster.high, tp)
        return high

    def ends(self, tps: Sequence[TP]) -> Mapping[TP, int]:
        """The last stable offsets, kept for the lag."""
        ends = self._measured.ask(self._cluster.ends, tps)
        self._measured.ends.update(ends)
        return ends

    def log_id(self, topic: str) -> str:
        """What tells this topic from one of the same name made later."""
        return self._measured.ask(self._cluster.log_id, topic)

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """Committed records in [start, end); of the changelog, this is a restore."""
        measured = self._measured
        restore = None
        if tp[0] == self._changelog:
            restore = measured.restores[tp[1]] = Restore(start, end, start)
        chunks = self._cluster.read(tp, start, end)
        while (chunk := measured.ask(next, chunks, None)) is not None:
            if restore is not None:
                restore.at = chunk[-1].offset + 1
                measured.restored += len(chunk)
            yield chunk
        measured.went_through()
        if restore is not None:
            restore.at = end
        else:
            measured.searched[tp] = end


class _MeasuredProducer:
    """A producer whose transactions are timed; what is called once a record goes straight through."""

    def __init__(self, producer: Producer, measured: Measurements) -> None:
        self._producer = producer
        self._measured = measured
        self._began = 0.0
        self.produce = producer.produce
        self.produce_rows = producer.produce_rows
        self.flush = producer.flush
        self.send_offsets = producer.send_offsets
        self.abort = producer.abort
        self.close = producer.close

    def begin(self) -> None:
        """Begin a transaction."""
        self._began = time.perf_counter()
        self._producer.begin()

    def commit(self) -> None:
        """Commit, and note how long the transaction took from its beginning."""
        self._producer.commit()
        now = self._measured.committed_at = time.perf_counter()
        self._measured.stages["transaction"].add(now - self._began)
        self._measured.went_through()


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a running worker that are looked at from outside."""

    writer: Writer
    store: RocksStore
    desk: ScoringDesk
    reject_share: float
    fetched_to: Callable[[TP], int | None]
    """The end of an input as the consumer saw it with its last fetch; None while it can't tell."""
    identity: Callable[[], Mapping[str, str]]
    """What decides: the labels of `fraudstream_info`."""
    drift: DriftGauges | None = None
    """What models say, by windows; None where nobody counts it."""
    stages: frozenset[str] = frozenset()
    """The topics in which orders are on their way between stages."""


class Standing(NamedTuple):
    """How a worker stands, in the numbers that an alert asks for."""

    healthy: bool
    ready: bool
    stuck_s: float
    """How long something has waited while nothing moved."""
    up_s: float
    lag: Mapping[TP, int]


def registry(
    measured: Measurements, running: Callable[[], Running | None], standing: Callable[[], Standing]
) -> CollectorRegistry:
    """A registry of its own with the worker's metrics and those of its process."""
    made = CollectorRegistry()
    made.register(_WorkerCollector(measured, running, standing))
    ProcessCollector(registry=made)
    return made


class _WorkerCollector(Collector):
    """Puts together what Prometheus asks for, when it asks; the writer's thread is not held up by it."""

    def __init__(
        self, measured: Measurements, running: Callable[[], Running | None], standing: Callable[[], Standing]
    ) -> None:
        self._measured = measured
        self._running = running
        self._standing = standing

    def describe(self) -> Iterator[Metric]:
        """Nothing: a registry that asks would take values before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now; those of the parts that do not run yet are left out."""
        yield from self._of_health()
        yield from self._of_measurements()
        running = self._running()
        if running is not None:
            yield from self._of_counts(running)
            yield from self._of_state(running)
            yield from self._of_keys(running)
            yield from _of_drift({} if running.drift is None else dict(running.drift.now()))

    def _of_health(self) -> Iterator[Metric]:
        standing = self._standing()
        yield _one("fraudstream_healthy", standing.healthy)
        yield _one("fraudstream_ready", standing.ready)
        yield _one("fraudstream_stuck_seconds", standing.stuck_s)
        yield _one("fraudstream_uptime_seconds", standing.up_s)
        yield _many(
            "fraudstream_lag_orders",
            {(topic, str(number)): orders for (topic, number), orders in standing.lag.items()},
        )

    def _of_measurements(self) -> Iterator[Metric]:
        measured = self._measured
        yield _one("fraudstream_orders_total", measured.orders)
        yield _histogram("fraudstream_order_latency_seconds", {(): measured.latency})
        yield _histogram(
            "fraudstream_stage_seconds", {(stage,): spent for stage, spent in measured.stages.items()}
        )
        yield _histogram("fraudstream_batch_orders", {(): measured.batch})
        restores = {(str(number),): restore for number, restore in dict(measured.restores).items()}
        yield _many(
            "fraudstream_restore_offsets", {at: each.end - each.start for at, each in restores.items()}
        )
        yield _many("fraudstream_restore_offsets_left", {at: each.left for at, each in restores.items()})
        yield _one("fraudstream_restored_records_total", measured.restored)

    def _of_counts(self, running: Running) -> Iterator[Metric]:
        counts = dict(running.writer.counts)
        counts.pop("decisions", None)  # the sum of others
        counts.pop("rejected", None)
        yield _many(
            "fraudstream_decisions_total",
            {(action.value,): counts.pop("decision_" + action.value, 0) for action in Action},
        )
        yield _one("fraudstream_decisions_repeated_total", counts.pop("decision_repeated", 0))
        yield _one("fraudstream_orders_remembered_total", counts.pop("orders_remembered", 0))
        yield _one("fraudstream_orders_misplaced_total", counts.pop("orders_misplaced", 0))
        yield _many(
            "fraudstream_orders_of_kind_total", {(kind,): counts.pop("orders_" + kind, 0) for kind in KINDS}
        )
        yield _many(
            "fraudstream_orders_rejected_total",
            {(code,): counts.pop("rejected_" + code, 0) for code in REJECTION_CODES},
        )
        yield _many(
            "fraudstream_evicted_total",
            {(what,): counts.pop(what + "_evicted", 0) for what in ("rows", "orders")},
        )
        outcomes = {"committed": "transactions"} | {
            outcome: "transactions_" + outcome for outcome in ("aborted", "unknown")
        }
        yield _many(
            "fraudstream_transactions_total",
            {(outcome,): counts.pop(name, 0) for outcome, name in outcomes.items()},
        )
        yield _many("fraudstream_other_total", {(what,): times for what, times in sorted(counts.items())})

    def _of_state(self, running: Running) -> Iterator[Metric]:
        mailbox = running.writer.mailbox
        yield _one("fraudstream_paused", mailbox.held)
        yield _one("fraudstream_observing", running.desk.observing)
        yield _one("fraudstream_waiting_orders", mailbox.waiting)
        yield _one("fraudstream_partitions", len(running.writer.opened))
        assignment = mailbox.assignment
        if assignment is not None:
            yield _one("fraudstream_generation", assignment.generation)
        size = running.store.size()
        if size is not None:
            yield _one("fraudstream_store_keys", size.keys)
            yield _one("fraudstream_store_bytes", size.bytes)
        yield _one("fraudstream_reject_share", running.desk.share_rejected)
        yield _one("fraudstream_reject_share_limit", running.reject_share)
        labels = _DESCRIBED["fraudstream_info"].labels
        identity = running.identity()
        yield _many("fraudstream_info", {tuple(identity[label] for label in labels): 1})

    def _of_keys(self, running: Running) -> Iterator[Metric]:
        opened = running.writer.opened
        shares = dict(self._measured.hot.shares)
        yield _many(
            "fraudstream_hottest_key_share",
            {(topic, str(number)): share for (topic, number), share in shares.items() if number in opened},
        )


def _of_drift(now: Mapping[str, DriftNow]) -> Iterator[Metric]:
    yield _many("fraudstream_model_orders", {(model,): each.orders for model, each in now.items()})
    yield _many("fraudstream_model_score_mean", {(model,): each.mean for model, each in now.items()})
    yield _many(
        "fraudstream_model_score_stability",
        {(model,): each.stability for model, each in now.items() if each.stability is not None},
    )
    yield _many(
        "fraudstream_model_missing_share",
        {(model, name): share for model, each in now.items() for name, share in each.missing.items()},
    )


def _one(name: str, value: float) -> Metric:
    return _many(name, {(): value})


def _many(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    described = _DESCRIBED[name]
    kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    family = kind(name, described.meaning, labels=described.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, distributions: Mapping[tuple[str, ...], _Distribution]) -> Metric:
    described = _DESCRIBED[name]
    family = HistogramMetricFamily(name, described.meaning, labels=described.labels)
    for labels, distribution in distributions.items():
        family.add_metric(labels, distribution.buckets(), distribution.total)
    return family
