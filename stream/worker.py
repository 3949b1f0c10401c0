"""The worker: Faust keeps the app, the agent, the subscription and the group; the writer keeps the promise.

Faust hands the agent one event per fetched partition (`BatchConsumer`), not one per order; its own
commits are off. What the group assigns is published to the writer as one snapshot, and every batch
carries the snapshot it was fetched under.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, cast

import faust
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP as FaustTP  # noqa: N811 (a type, for all its capitals)
from faust.types import ConsumerMessage

from features.history import RowBytesError
from models.errors import RegistryError
from models.policy import Policy
from models.registry import Registry, named
from models.scorer import Scorer
from stream.control import Control, ControlState
from stream.deciding import Deciding
from stream.decoder import decoder_of
from stream.desk import ScoringDesk, is_history
from stream.drift_gauges import DriftGauges
from stream.health import Health, HealthPort
from stream.hot import HotKeys
from stream.kafka import KafkaCluster, RealClock
from stream.lag import left_on_the_road
from stream.logs import tell_generation
from stream.metrics import MeasuredCluster, MeasuredDesk, Measurements, Running
from stream.panel import Panels
from stream.ports import Assignment, Batch, Clock, Cluster, Refused, Unreachable
from stream.registry import check_servable, policy_of, registry_with_features
from stream.serving import Serving, Shelf
from stream.settings import Settings
from stream.store import RocksStore
from stream.topics import TopicError, describe
from stream.version import program_version
from stream.writer import Limits, Load, Mailbox, Writer

__all__ = ["run"]

log = logging.getLogger("fraudstream.worker")

CRASHED: Final = 70
REFUSED: Final = 1

_FETCH_WAIT_MS: Final = 100
_HISTORY_TIMES: Final = 12
"""Times the records of one transaction that one about the past may have.

Less than a second's work, in which every row is read and written once however many of its orders come; they
lie in memory meanwhile, and of old customers they are large.
"""
_WAITING_RECORDS: Final = 16
"""Times the records of one transaction that may wait for the writer before fetching pauses."""
_WAITING_BYTES: Final = 64 * 1024 * 1024
_FULL_S: Final = 0.02
"""How long a fetch waits that leaves out inputs with enough waiting: they may soon have room again."""
_CATCH_UP_S: Final = 5.0
"""How long a new assignment waits for what was said in the control topic before it."""


_NO_PARTITION: Final = FaustTP("", 0)


class _PassThrough:
    """A codec for values that are not bytes to be decoded but batches."""

    def loads(self, value: Any) -> Any:
        return value

    def dumps(self, value: Any) -> Any:
        return value

    def __or__(self, other: Any) -> Any:
        return other


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, reading committed records only."""

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        # Faust's own is hard-wired read_uncommitted outside its exactly_once, waits 1.5 s for a
        # fetch, and without tables would take a round-robin assignor that puts one partition of
        # two topics on two workers
        conf = self.app.conf
        self._assignor = self.app.assignor
        return AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            # what is fetched ahead of every partition lies in memory; a larger record still comes alone
            max_partition_fetch_bytes=1024 * 1024,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    fetched_to: Mapping[FaustTP, int] = MappingProxyType({})
    """Where the last fetch ended in each partition it brought something of, markers included."""

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> Any:
        fetched = await super()._fetch_records(consumer, *arguments, **options)
        # at once, before anybody seeks; the consumer has no other word for it
        assigned = getattr(consumer._subscription.subscription, "assignment", None)  # noqa: SLF001
        states = {tp: assigned and assigned.state_value(tp) for tp in fetched}
        self.fetched_to = {tp: state.position for tp, state in states.items() if state is not None}
        return fetched

    async def seek_assigned(self, offsets: Mapping[FaustTP, int]) -> None:
        """Seek, on the thread that fetches: aiokafka's consumer is not made for two."""
        await self.call_thread(self._seek_assigned, offsets)

    async def _seek_assigned(self, offsets: Mapping[FaustTP, int]) -> None:
        assigned = self.assignment()
        for tp, offset in offsets.items():
            if tp in assigned:
                self.seek(tp, offset)


class BatchConsumer(driver.Consumer):
    """Faust's consumer, handing over the records of one fetch of one partition as one message."""

    app: "ScorerApp"

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    _thread: BatchConsumerThread

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 (Faust's name)
        snapshot = self.app.mailbox.assignment
        if snapshot is None:
            # a fetch now could not be told from one under the next assignment
            await self.sleep(0.02)
            return {}
        if self.app.mailbox.held:
            # asked for none of our partitions: nothing is taken, and the group sees a consumer that lives
            await self._thread.getmany({_NO_PARTITION}, 0.0)
            await self.sleep(0.1)
            return {}
        # back-pressure, input by input: one that is waited for must not wait behind the others
        if full := self.app.mailbox.full(self.app.most):
            active_partitions = ((active_partitions or self.assignment()) - full) or {_NO_PARTITION}
            timeout = _FULL_S
        try:
            fetched = await super()._getmany(active_partitions, timeout)
        except UnicodeDecodeError as error:
            await self._leave_to_the_writer(error)
            return {}
        if self.app.mailbox.assignment is not snapshot:
            # what came may belong to either assignment: read it again under the present one
            await self._read_again(fetched)
            return {}
        batches = {}
        for tp, records in fetched.items():
            if not records:
                continue
            after = self.app.handed_over.get(tp)
            about_the_past = is_history(records[0]) and is_history(records[-1])
            until = self._thread.fetched_to.get(tp)
            batches[tp] = [Batch(tp.topic, tp.partition, records, snapshot, after, about_the_past, until)]
            self.app.handed_over[tp] = records[-1].offset + 1
        return batches

    async def _read_again(self, fetched: Mapping[FaustTP, Any]) -> None:
        for tp in fetched:
            self.app.handed_over.pop(tp, None)
        first = {tp: records[0].offset for tp, records in fetched.items() if records}
        await self._thread.seek_assigned(first)

    async def _leave_to_the_writer(self, error: UnicodeDecodeError) -> None:
        """Go on after a record whose header has a name that aiokafka can't read.

        It lost what it had fetched, and would stumble over the record for ever. librdkafka reads it:
        the writer searches the inputs itself, and we go on behind where it came to.
        """
        log.error("a record's header has a name that is not UTF-8; the writer reads it: %s", error.reason)
        self.app.handed_over.clear()
        self.app.mailbox.search()
        await self.sleep(1.0)
        positions = {
            FaustTP(topic, partition): offset
            for partition, inputs in self.app.positions().items()
            for topic, offset in inputs.items()
        }
        await self._thread.seek_assigned(positions)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets; what comes next does not follow on from what came before."""
        self.app.handed_over.clear()
        await super().perform_seek()
        self.app.handed_over.clear()

    def _to_message(self, tp: FaustTP, record: Any) -> ConsumerMessage:
        batch: Batch = record
        last = batch.records[-1]
        return ConsumerMessage(
            batch.topic,
            batch.partition,
            last.offset,
            last.timestamp / 1000.0,
            0,
            None,
            None,
            cast("bytes", batch),  # the pass-through codec keeps it what it is
            None,
            0,
            0,
            tp,
            # by keyword: a batch without it is skipped by the stream, silently
            generation_id=self.app.consumer_generation_id,
        )


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = BatchConsumer


class ScorerApp(faust.App):
    """The Faust app, with the mailbox that its consumer and its agent fill."""

    mailbox: Mailbox
    most: Load
    """What may wait for the writer before fetching pauses, shared among the inputs that have something."""
    handed_over: dict[Any, int]
    """Where the last batch of each partition ended, since the last assignment or seek."""
    positions: Callable[[], Mapping[int, Mapping[str, int]]]
    """Where the writer has come to: partition -> input topic -> next offset."""

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)


def make_app(
    settings: Settings, writer: Writer, control: Control | None = None, serving: Serving | None = None
) -> ScorerApp:
    """The app: one agent that hands fetched batches to the mailbox, and the assignment callbacks."""
    home = settings.home / "faust" / settings.worker
    home.mkdir(parents=True, exist_ok=True)
    app = ScorerApp(
        settings.group,
        broker=[f"kafka://{server.strip()}" for server in settings.broker.split(",")],
        broker_client_id=settings.worker,
        broker_credentials=_credentials(settings),
        broker_max_poll_records=4 * settings.batch_records,
        broker_max_poll_interval=600.0,
        broker_session_timeout=settings.session_s,
        broker_heartbeat_interval=settings.session_s * 0.3,
        broker_request_timeout=max(30.0, settings.session_s + 5),
        broker_rebalance_timeout=max(15.0, settings.session_s + 5),
        # a broker that has just come up may not name our topics yet, and who asks then is assigned nothing
        # until the metadata is asked for again; Faust's own 5 min are too long for that
        consumer_metadata_max_age_ms=5_000,
        datadir=str(home),
        stream_buffer_maxsize=64,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=1,  # there are no tables; at 0 Faust turns to round-robin
        web_enabled=False,
        cython_optimizations=True,
        reply_create_topic=False,
    )
    mailbox = app.mailbox = writer.mailbox
    app.handed_over = {}
    app.most = (_WAITING_RECORDS * settings.batch_records, _WAITING_BYTES)
    app.positions = lambda: writer.opened
    inputs = app.topic(
        *settings.inputs,
        value_serializer=cast("Any", _PassThrough()),
        key_serializer="raw",
        acks=False,  # Faust never commits
        internal=False,
    )

    async def hand_over(batches: Any) -> None:
        async for batch in batches:
            mailbox.offer(batch)

    app.agent(inputs, name="hand_over")(hand_over)

    async def on_assigned(_sender: Any, assigned: Any, **_: Any) -> None:
        snapshot = _snapshot(app, settings, assigned)
        if control is not None:
            # a partition's last owner must not have known more of the control topic than its next one
            await asyncio.get_running_loop().run_in_executor(None, control.catch_up, _CATCH_UP_S)
        if serving is not None:
            await asyncio.get_running_loop().run_in_executor(None, serving.settle, _CATCH_UP_S)
        mailbox.assign(snapshot)

    async def on_revoked(_sender: Any, _revoked: Any, **_: Any) -> None:
        # off the loop: the writer may need seconds to finish, and the heartbeat must go on
        finished = await asyncio.get_running_loop().run_in_executor(None, mailbox.revoke)
        app.handed_over.clear()
        if not finished:
            log.warning("a transaction outlasts the revocation; the group will refuse it")

    _connect(app.on_partitions_assigned, on_assigned)
    _connect(app.on_partitions_revoked, on_revoked)
    return app


def _connect(signal_: Any, receiver: Callable[..., Awaitable[None]]) -> None:
    """Connect for good: Faust would forget a closure that nothing else holds."""
    signal_.connect(receiver, weak=False)


def _snapshot(app: ScorerApp, settings: Settings, assigned: Any) -> Assignment:
    """What the group gave us, in one value: the partitions of which we have every input."""
    by_topic = [{tp.partition for tp in assigned if tp.topic == topic} for topic in settings.inputs]
    partitions = set.intersection(*by_topic)
    if apart := sorted(set.union(*by_topic) - partitions):
        # the group gives each topic to those only that read it; what we leave, nobody skips: whoever gets
        # the whole partition begins at its committed offsets
        log.warning(
            "partitions %s are not decided here: some of their inputs were given to another worker of group "
            "'%s', which does not read all that this one reads (it is of another version, or has other "
            "entities); upgrade it, or stop it",
            apart,
            settings.group,
        )
    # Faust has no word for the member id
    coordinator = cast("Any", app.consumer)._thread._consumer._coordinator  # noqa: SLF001
    generation = app.consumer_generation_id
    if generation <= 0:
        raise RuntimeError(f"assigned partitions in generation {generation}")
    return Assignment(generation, coordinator.member_id, frozenset(partitions))


def _credentials(settings: Settings) -> Any:
    security = settings.security
    if security.protocol.startswith("SASL") and security.sasl_password is not None:
        return faust.SASLCredentials(
            mechanism=security.sasl_mechanism,
            username=security.sasl_username,
            password=security.sasl_password.get_secret_value(),
            ssl_context=settings.ssl_context(),
        )
    if security.protocol == "SSL":
        return faust.SSLCredentials(settings.ssl_context())
    return None


def check_topics(settings: Settings) -> None:
    """Refuse to start without every topic, or on one that would lose or split histories."""
    try:
        states = {state.plan.name: state for state in describe(settings)}
    except TopicError as error:
        raise Refused(str(error)) from error
    names = settings.topics
    used = (
        *settings.inputs,
        names.decisions,
        names.decisions_shadow,
        names.rejected,
        names.changelog,
        names.control,
    )
    missing = [name for name in used if states[name].partitions is None]
    if missing:
        raise Refused(
            f"missing on {settings.broker}: topic {', '.join(missing)}; run 'fraudstream topics create'"
        )
    wrong = [f"topic '{name}' {what}" for name in used for what in states[name].wrong]
    if wrong:
        raise Refused(f"{'; '.join(wrong)}; make the topic, or FRAUDSTREAM_PARTITIONS, agree")


def load_model(settings: Settings, registry: Registry | None = None) -> tuple[Scorer, Policy]:
    """The model that the settings name, and its policy; `registry` is that of the settings.

    Raises Refused, or OwnFeaturesError, naming what is missing.
    """
    registry = registry or registry_with_features(settings)
    try:
        scorer = registry.load(*named(settings.model))
    except RegistryError as error:
        raise Refused(str(error)) from error
    check_servable(settings, registry.manifest(scorer.name, scorer.version), scorer.features)
    policy = policy_of(settings) or scorer.suggested_policy
    if policy is None:
        raise Refused(
            f"{scorer.name}@{scorer.version} suggests no thresholds; set FRAUDSTREAM_REVIEW_AT and "
            "FRAUDSTREAM_DECLINE_AT"
        )
    return scorer, policy


def _model_of_the_settings(settings: Settings, registry: Registry) -> tuple[Scorer, Policy] | Refused:
    """The model that the settings name, or why it can't be had: it may not be needed."""
    try:
        return load_model(settings, registry)
    except Refused as error:
        return error


def _needed(
    model: tuple[Scorer, Policy] | Refused, state: ControlState
) -> tuple[Scorer, Policy] | tuple[None, None]:
    """The model of the settings; None where it can't be had and others decide every order. Raises Refused."""
    if not isinstance(model, Refused):
        return model
    if not state.service.is_for_all:
        raise model
    log.warning("the model that the settings name is not needed now, and can't be had: %s", model)
    return None, None


def wait_for_namesake(cluster: Cluster, settings: Settings, clock: Clock) -> None:
    """Let an earlier worker of this name leave the group; refuse when it lives on.

    Before the producer is made, because making it would fence the other one.
    """
    deadline = clock.monotonic() + settings.session_s + 5
    while True:
        try:
            living = settings.worker in cluster.members().values()
        except Unreachable as error:
            log.warning("the broker can't be reached yet: %s", error)
            clock.sleep(1.0)
            continue
        if not living:
            return
        if clock.monotonic() > deadline:
            raise Refused(
                f"a worker named '{settings.worker}' is already in group '{settings.group}'; "
                "give every worker its own name (FRAUDSTREAM_WORKER) or stop the other one"
            )
        clock.sleep(0.25)


def check_road(settings: Settings) -> None:
    """Refuse to leave orders behind in the stages of entities that are not set any more.

    Raises Refused; TopicError and Unreachable where it can't be told.
    """
    for entity, waiting in left_on_the_road(settings).items():
        topic = settings.topics.by(entity)
        raise Refused(
            f"{waiting:,} records wait in '{topic}' and {entity} is not among the entities "
            f"('{','.join(settings.entities)}'): nobody would decide the orders in them; start workers with "
            "FRAUDSTREAM_ENTITIES as it was until 'fraudstream lag' says 0 with the senders stopped, then "
            "change it (docs/upgrades.md)"
        )


def read_control(settings: Settings, clock: Clock) -> Control:
    """The control topic, read to its end. Raises Refused when it says that this version must not go on."""
    control: Control | None = None
    while True:
        try:
            control = control or Control(settings)
            state = control.read_to_end()
        except TopicError as error:
            raise Refused(str(error)) from error
        except Unreachable as error:
            log.warning("the control topic can't be read yet: %s", error)
            clock.sleep(1.0)
            continue
        if state.refusal:
            raise Refused(state.refusal)
        return control


def _say(state: ControlState, settings: Settings) -> None:
    """Say what is in force, for whoever reads the log."""
    if state.pause is not None:
        log.warning("no orders are taken: %s; go on with 'fraudstream resume'", state.pause)
    if state.observing(unless_told=settings.observe):
        why = state.mode or "started with --observe"
        log.warning("decisions go to '%s' only: %s", settings.topics.decisions_shadow, why)
    elif settings.observe:
        log.warning("started with --observe, but the record wins: %s", state.mode)
    log.info(
        "in force from control offset %d on: %s, %s",
        state.next_offset,
        "paused" if state.paused else "not paused",
        "observing" if state.observing(unless_told=settings.observe) else "live",
    )


class _FaustWorker(faust.Worker):
    """Faust's worker, with logging left to whoever started us."""

    def _setup_logging(self) -> None:
        self.spinner = None


class _WriterThread(threading.Thread):
    """Runs the writer; when it fails the whole program ends."""

    def __init__(self, writer: Writer, store: RocksStore) -> None:
        super().__init__(name="writer", daemon=True)
        self._writer = writer
        self._store = store
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._writer.run()
        except BaseException as failure:
            self.failure = failure
            if isinstance(failure, RowBytesError):
                # the disk may be to blame; the changelog has it all
                self._store.mark_for_rebuild(str(failure))
            if not isinstance(failure, Refused):
                # nothing of the batch was committed; the next start, or the next owner, takes it again
                log.critical("the writer failed; the worker ends", exc_info=failure)
                logging.shutdown()
                os._exit(CRASHED)
            os.kill(os.getpid(), signal.SIGTERM)


def run(settings: Settings) -> int:
    """Run one worker until it is stopped; returns its exit code, 0 for a clean stop.

    Raises Refused when it must not start or go on.
    """
    # until Faust takes over: asked to end while starting, there is nothing to finish
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    measured = Measurements(hot=HotKeys(settings.hot_share))
    health = Health(measured, stuck_s=settings.health_stuck_s)
    HealthPort.open(settings, health)
    check_topics(settings)
    registry = registry_with_features(settings)
    named_model = _model_of_the_settings(settings, registry)
    clock = RealClock()
    real = KafkaCluster(settings)
    cluster = MeasuredCluster(real, measured, changelog=settings.topics.changelog)
    wait_for_namesake(cluster, settings, clock)
    check_road(settings)
    control = read_control(settings, clock)
    scorer, policy = _needed(named_model, control.state)
    shelf = Shelf(settings, registry)
    panels = Panels(scorer=scorer, policy=policy, models=shelf, entities=tuple(settings.stages))
    serving = Serving(shelf, panels, control.state)
    store = RocksStore(settings.home / "rows" / settings.worker)
    drift = DriftGauges(timedelta(hours=settings.drift_window_hours))
    desk = ScoringDesk(
        panels=panels,
        topics=settings.topics,
        partitions=settings.partitions,
        row_limit=settings.row_limit,
        ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
        reject_share=settings.reject_share,
        stages=settings.stages,
        headers=(
            ("worker", settings.worker.encode()),
            ("fraudstream", program_version().encode()),
            Deciding.of(settings).header,
        ),
        in_force=lambda: serving.state,
        observe=settings.observe,
        decoder=decoder_of(settings),
        horizons=settings.horizons,
        drift=drift,
    )
    writer = Writer(
        name=settings.worker,
        roads=settings.roads,
        changelog=settings.topics.changelog,
        partitions=settings.partitions,
        group=settings.group,
        cluster=cluster,
        store=store,
        desk=MeasuredDesk(
            desk, measured, decisions=(settings.topics.decisions, settings.topics.decisions_shadow)
        ),
        clock=clock,
        limits=Limits(
            records=settings.batch_records,
            history_records=_HISTORY_TIMES * settings.batch_records,
            patience_s=max(settings.patience_s, settings.session_s + 5),
            crashes=settings.crashes,
        ),
        horizons=settings.horizons,
    )
    thread = _WriterThread(writer, store)

    def hear(state: ControlState) -> None:
        _say(state, settings)
        writer.mailbox.hold(state.paused and not state.draining, draining=state.draining)
        serving.take_up(state)

    hear(control.state)
    control.follow(hear)
    app = make_app(settings, writer, control, serving)
    health.running = Running(
        writer,
        store,
        desk,
        settings.reject_share,
        lambda tp: _fetched_to(app, tp),
        desk.identity,
        drift,
        frozenset(settings.stages.values()),
    )
    tell_generation(lambda: getattr(writer.mailbox.assignment, "generation", None))

    async def finish(_sender: Any = None, **_: Any) -> None:
        # before the consumer leaves the group: the transaction in hand may still commit
        writer.stop()
        await asyncio.get_running_loop().run_in_executor(None, thread.join, 10.0)

    _connect(app.on_before_shutdown, finish)
    faust_worker = _FaustWorker(app, redirect_stdouts=False, quiet=True)
    threading.Thread(target=_report, args=(writer,), name="report", daemon=True).start()
    log.info("worker '%s' starts: model %s, %d partitions", settings.worker, desk.said, settings.partitions)
    # what is there now stays: the collector need not walk it again and again while orders wait
    gc.collect()
    gc.freeze()
    # rows are many small tuples without cycles: looked for in every batch, cycles cost a twentieth of it,
    # and every 700 tuples a sixth
    gc.set_threshold(500_000, 20, 20)
    thread.start()
    exit_code = 0
    try:
        faust_worker.execute_from_commandline()
    except SystemExit as end:
        exit_code = CRASHED if end.code else 0
    finally:
        writer.stop()
        thread.join(10.0)
    if thread.failure is not None:
        raise thread.failure
    if thread.is_alive():
        log.error("the writer did not finish within 10 s; its transaction is left to the next owner")
        os._exit(CRASHED)
    control.close()
    store.close()
    real.close()
    return exit_code


def _fetched_to(app: ScorerApp, tp: tuple[str, int]) -> int | None:
    """The end of an input as of its last fetch; None before the first, or while it changes hands."""
    try:
        end: int | None = app.consumer.highwater(FaustTP(*tp))
    except Exception:  # noqa: BLE001 - asked from another thread, whatever a rebalance is just doing
        return None
    return end


def _report(writer: Writer, every_s: float = 10.0) -> None:
    """Say every few seconds what was done, for whoever reads the log."""
    last: dict[str, int] = {}
    while True:
        time.sleep(every_s)
        counts = dict(writer.counts)
        misplaced = counts.get("orders_misplaced", 0)
        if misplaced > last.get("orders_misplaced", 0):
            log.error(
                "%d orders came on another partition than their key's murmur2, so histories are split; "
                "set the sender's partitioner to murmur2 (librdkafka: partitioner=murmur2_random)",
                misplaced,
            )
        if counts != last:
            log.info("so far: %s", ", ".join(f"{name} {counts[name]}" for name in sorted(counts)))
            last = counts
