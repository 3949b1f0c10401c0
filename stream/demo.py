"""The demo: a broker, a shop's past, a model learnt from it, a worker, and live orders decided as you watch.

What it has done lies in `demo/` under the home folder, so that a second run goes on where the first one
ended, and a run that was killed is taken up where it was killed: publishing an order again is harmless,
an order counts once.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.markup import escape

from features.events import Order
from models.policy import Action
from models.registry import Registry
from stream import topics
from stream.broker import DIE_WITH_PARENT, EmbeddedBroker, ports_of
from stream.errors import Refusal
from stream.publish import publish
from stream.settings import Settings
from stream.shop import Placed, ShopSimulator
from stream.watch import Seen, Watch, sentence

__all__ = ["DemoError", "run_demo"]

SEED = 8
PAST_DAYS = 28
LIVE_DAYS = 60
"""How long before today the live days begin; at 50 orders a second they last a quarter of an hour."""
ONCE_ORDERS = 500
WORKER = "demo-worker"

_SHOWN_A_SECOND = 8


class DemoError(Refusal):
    """The demo can't go on; the message says at which stage, why, and where to read more."""


def run_demo(settings: Settings, *, once: bool, rate: float, config: Path | None) -> int:
    """Run the demo until Ctrl-C, or with `once` for a few hundred orders; returns the exit code.

    Everything it started is stopped when it ends.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    # A closed terminal or a `kill` should stop the children too, the way Ctrl-C does.
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    try:
        with contextlib.ExitStack() as started:
            try:
                return _Demo(settings, console, started, config).run(once=once, rate=rate)
            finally:
                # a second Ctrl-C must not leave children behind
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        console.print("stopped; 'make demo' goes on from here, 'make clean' forgets it all")
        return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@dataclass(slots=True)
class _Progress:
    """How far the demo of this home folder has come."""

    path: Path
    opened: datetime
    past_published: bool = False
    live: int = 0
    """Live orders handed out so far."""

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            known = json.loads(path.read_text())
            return cls(path, datetime.fromisoformat(known["opened"]), known["past_published"], known["live"])
        except (OSError, ValueError, KeyError, TypeError):
            day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            return cls(path, day - timedelta(days=PAST_DAYS + LIVE_DAYS))

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        known = {"opened": self.opened.isoformat(), "past_published": self.past_published, "live": self.live}
        fresh.write_text(json.dumps(known))
        fresh.replace(self.path)


@dataclass(slots=True)
class _Totals:
    """What came of the live orders, as their decisions come in."""

    actions: Counter[Action] = field(default_factory=Counter)
    frauds: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    fraud_amount: int = 0
    caught_amount: int = 0
    honest: int = 0
    bothered: int = 0
    """Honest orders that were not approved."""
    latencies: list[float] = field(default_factory=list)

    def count(self, placed: Placed, seen: Seen, latency: float) -> None:
        action = seen.decision.action
        self.actions[action] += 1
        self.latencies.append(latency)
        if placed.fraud_kind is None:
            self.honest += 1
            self.bothered += action is not Action.APPROVE
            return
        self.frauds[placed.fraud_kind] += 1
        # pounds are counted as euros: a demo's sum, not a ledger's
        self.fraud_amount += placed.order.amount
        if action is not Action.APPROVE:
            self.caught[placed.fraud_kind] += 1
            self.caught_amount += placed.order.amount


class _Demo:
    def __init__(
        self, settings: Settings, console: Console, started: contextlib.ExitStack, config: Path | None
    ) -> None:
        self._settings = settings
        self._console = console
        self._started = started
        self._config = config
        self._progress = _Progress.read(settings.home / "demo" / "progress.json")
        self._log = settings.home / "demo" / "worker.log"

    def run(self, *, once: bool, rate: float) -> int:
        self._broker()
        self._say("topics", "making those that are missing")
        topics.create(self._settings)
        self._past_and_model()
        with contextlib.closing(_consumer(self._settings)) as consumer:
            before = _claims(consumer, self._settings)
            worker = self._worker()
            self._wait_until_read(worker, consumer, before)
        return self._live(worker, once=once, rate=rate)

    # ------------------------------------------------------------------ stages

    def _broker(self) -> None:
        settings = self._settings
        broker = EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=1), tied=True)
        self._say(
            "broker", f"starting Apache Kafka at {broker.bootstrap} (fetched the first time, about 45 MB)"
        )
        if broker.start():
            self._started.callback(self._stop_broker, broker)

    def _stop_broker(self, broker: EmbeddedBroker) -> None:
        self._say("broker", "stopping")
        broker.stop()

    def _past_and_model(self) -> None:
        settings, progress = self._settings, self._progress
        name, _, version = settings.model.partition("@")
        registry = Registry(settings.home / "models", key=settings.signing_secret())
        trained = bool(version) or registry.champion(name) is not None
        if trained and progress.past_published:
            self._say("past", "the shop's past and the model are there from an earlier run")
            return
        progress.write()  # the day the shop opened must survive a kill from here on
        self._say("past", f"living through {PAST_DAYS} days of a simulated shop")
        past = list(self._shop().past(PAST_DAYS))
        frauds = sum(placed.is_fraud for placed in past)
        self._say("past", f"{len(past):,} orders, {frauds:,} of them fraud; publishing them as history")
        lines = (_line(placed.order) for placed in past)
        publish(settings, lines, history=True)
        progress.past_published = True
        progress.write()
        if trained:
            return
        self._say("model", f"training '{name}', a random forest, on what was known")
        from stream.learn import learn  # noqa: PLC0415 - takes seconds, and a second run needs none of it

        learnt = learn(settings, ((placed.order, placed.is_fraud) for placed in past), name=name)
        auc = learnt.metrics.get("holdout_auc")
        self._say(
            "model",
            f"{learnt.name}@{learnt.version}: area under the curve {auc:.3f} on the last days; "
            f"review from {learnt.policy.review_at:.3f}, decline from {learnt.policy.decline_at:.3f}",
        )

    def _worker(self) -> subprocess.Popen[bytes]:
        self._say("worker", f"starting; its log is {self._log}")
        pid_file = self._log.with_name("worker.pid")
        _end_leftover(pid_file)
        command = [sys.executable, "-m", "stream.cli"]
        if self._config is not None:
            command += ["--config", str(self._config)]
        environment = {
            **os.environ,
            "FRAUDSTREAM_WORKER": WORKER,
            "FRAUDSTREAM_HOME": str(self._settings.home.absolute()),
        }
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            worker = subprocess.Popen(
                [*command, "worker"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C comes to us, and we stop it in our order
                preexec_fn=DIE_WITH_PARENT,  # noqa: PLW1509 - one prctl call
            )
        pid_file.write_text(
            json.dumps({"pid": worker.pid, "began": psutil.Process(worker.pid).create_time()})
        )
        self._started.callback(self._stop_worker, worker, pid_file)
        return worker

    def _stop_worker(self, worker: subprocess.Popen[bytes], pid_file: Path) -> None:
        if worker.poll() is None:
            self._say("worker", "stopping; it finishes the transaction in hand")
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        pid_file.unlink(missing_ok=True)

    def _wait_until_read(
        self, worker: subprocess.Popen[bytes], consumer: Consumer, before: dict[int, str] | None
    ) -> None:
        """Wait until the worker has every partition and has taken in what was published before it came."""
        began = said = time.monotonic()
        while True:
            self._check(worker)
            claims = _claims(consumer, self._settings)
            # Each owner leaves its own words with its offsets: old ones are an earlier worker's.
            owned = claims is not None and all(
                words != (before or {}).get(p, "") for p, words in claims.items()
            )
            behind = _behind(consumer, self._settings)
            now = time.monotonic()
            if owned and behind == 0:
                self._say("worker", f"is ready after {now - began:.1f} s, with its customers' histories")
                return
            if now - said > 2:
                self._say(
                    "worker", f"reads what came before it, {behind:,} to go" if behind else "joins its group"
                )
                said = now
            if now - began > 180:
                raise DemoError(f"the worker was not ready within 3 minutes; see {self._log}")
            time.sleep(0.1)

    def _live(self, worker: subprocess.Popen[bytes], *, once: bool, rate: float) -> int:
        count = ONCE_ORDERS if once else None
        self._say(
            "live", f"{rate:g} orders a second" + (f", {count} in all" if count else "; Ctrl-C ends it")
        )
        if self._progress.live:
            self._say(
                "live", f"the shop goes on after its {self._progress.live:,} live orders of earlier runs"
            )
        waiting: dict[str, tuple[Placed, float]] = {}
        stop = threading.Event()
        failure: list[BaseException] = []

        def lines() -> Iterator[bytes]:
            shop = itertools.islice(self._live_orders(), count)
            for placed in shop:
                if stop.is_set() or placed.order.placed_at > datetime.now(UTC):
                    return
                waiting[placed.order.order_id] = (placed, time.monotonic())
                self._progress.live += 1
                if self._progress.live % 50 == 0:
                    self._progress.write()
                yield _line(placed.order)

        def send() -> None:
            try:
                publish(self._settings, lines(), rate=rate)
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                failure.append(error)

        totals = _Totals()
        doubled = 0
        sender = threading.Thread(target=send, name="live orders", daemon=True)
        with Watch(self._settings) as watch:
            sender.start()
            try:
                quiet_since = shown_since = totalled = time.monotonic()
                shown = 0
                while sender.is_alive() or waiting:
                    self._check(worker)
                    if failure:
                        raise DemoError(f"sending live orders failed: {failure[0]}") from failure[0]
                    for seen in watch.within(0.1):
                        quiet_since = now = time.monotonic()
                        placed, sent = waiting.pop(seen.decision.order_id, (None, 0.0))
                        if placed is None:
                            doubled += seen.decision.repeat_of is None
                            continue
                        totals.count(placed, seen, now - sent)
                        if now - shown_since > 1:
                            shown, shown_since = 0, now
                        # every fraud and every order that was stopped, and of the others what can be read
                        if (
                            placed.is_fraud
                            or seen.decision.action is not Action.APPROVE
                            or shown < _SHOWN_A_SECOND
                        ):
                            shown += 1
                            self._print(seen, placed, now - sent)
                    now = time.monotonic()
                    if now - totalled > 5 and totals.latencies:
                        totalled = now
                        self._print_totals(totals)
                    if not sender.is_alive() and now - quiet_since > 30:
                        break
            finally:
                stop.set()
                sender.join(10)
                self._progress.write()
                self._summary(totals, undecided=len(waiting), doubled=doubled)
        return 1 if waiting or doubled else 0

    # ------------------------------------------------------------------ the shop

    def _shop(self) -> ShopSimulator:
        # beset: in a quiet shop ten seconds would show one fraud or none
        return ShopSimulator(
            seed=SEED, start=self._progress.opened, customers=1200, orders_per_day=700, beset=2
        )

    def _live_orders(self) -> Iterator[Placed]:
        """The shop's orders after its past, from where the last run ended."""
        end = self._progress.opened + timedelta(days=PAST_DAYS)
        live = itertools.dropwhile(lambda placed: placed.order.placed_at < end, self._shop().orders())
        return itertools.islice(live, self._progress.live, None)

    # ------------------------------------------------------------------ words

    def _say(self, stage: str, what: str) -> None:
        self._console.print(f"[bold]{stage:<7}[/] {escape(what)}")

    def _check(self, worker: subprocess.Popen[bytes]) -> None:
        code = worker.poll()
        if code is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-8:]
            raise DemoError(
                f"the worker ended with code {code}; the end of {self._log}:\n  " + "\n  ".join(lines)
            )

    def _print(self, seen: Seen, placed: Placed, latency: float) -> None:
        money = f"{placed.order.amount / 100:>9.2f} {placed.order.currency}"
        truth = "" if placed.fraud_kind is None else f"  [bold magenta]fraud: {placed.fraud_kind}[/]"
        self._console.print(f"{latency * 1000:>5.0f} ms {money}  {sentence(seen.decision)}{truth}")

    def _print_totals(self, totals: _Totals) -> None:
        made = sum(totals.actions.values())
        self._console.print(
            f"[bold]so far[/]  {made:,} decisions; "
            f"frauds stopped {totals.caught.total()} of {totals.frauds.total()}; "
            f"honest orders held up {totals.bothered} of {totals.honest:,}; {_latency(totals)}"
        )

    def _summary(self, totals: _Totals, *, undecided: int, doubled: int) -> None:
        made = totals.actions.total()
        say = self._console.print
        say()
        say(
            f"[bold]summary[/]  {made + undecided:,} live orders, {made:,} decisions, "
            f"{undecided} undecided, {doubled} decided twice"
        )
        if not made:
            return
        actions = ", ".join(f"{action.value} {count:,}" for action, count in totals.actions.most_common())
        say(f"  decided:          {actions}; {_latency(totals)}")
        kinds = ", ".join(
            f"{kind.replace('_', ' ')} {totals.caught[kind]} of {count}"
            for kind, count in totals.frauds.most_common()
        )
        say(
            f"  frauds stopped:   {totals.caught.total()} of {totals.frauds.total()}"
            + (f" ({kinds})" if kinds else "")
        )
        say(f"  money kept:       {totals.caught_amount / 100:,.2f} of {totals.fraud_amount / 100:,.2f}")
        say(f"  honest held up:   {totals.bothered:,} of {totals.honest:,}")


def _line(order: Order) -> bytes:
    return order.model_dump_json(exclude_defaults=True).encode()


def _latency(totals: _Totals) -> str:
    latencies = sorted(totals.latencies)
    if not latencies:
        return "no decision yet"
    middle, late = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return f"order to decision {middle * 1000:.0f} ms (p50), {late * 1000:.0f} ms (p99)"


def _consumer(settings: Settings) -> Consumer:
    """A consumer that asks about the worker's group and joins nothing."""
    return Consumer({**settings.confluent(), "group.id": settings.group, "log_level": 0})


def _claims(consumer: Consumer, settings: Settings) -> dict[int, str] | None:
    """The words each partition's last owner left with its offset; None while that can't be told."""
    try:
        committed = consumer.committed(_inputs(settings), timeout=5)
    except KafkaException:
        return None  # a transaction is open
    return {each.partition: each.metadata or "" for each in committed}


def _behind(consumer: Consumer, settings: Settings) -> int | None:
    """How many orders the group has yet to take in; None while that can't be told."""
    behind = 0
    try:
        for committed in consumer.committed(_inputs(settings), timeout=5):
            low, high = consumer.get_watermark_offsets(
                TopicPartition(committed.topic, committed.partition), timeout=5
            )
            behind += high - (committed.offset if committed.offset >= 0 else low)
    except KafkaException:
        return None
    return behind


def _inputs(settings: Settings) -> list[TopicPartition]:
    return [TopicPartition(settings.topics.orders, partition) for partition in range(settings.partitions)]


def _end_leftover(pid_file: Path) -> None:
    """End the worker of a demo that was killed, if it is that one: a pid can pass to another program."""
    try:
        known = json.loads(pid_file.read_text())
        process = psutil.Process(int(known["pid"]))
        same = abs(process.create_time() - float(known["began"])) < 5 and "stream.cli" in process.cmdline()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        same = False
    if same:
        process.terminate()
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            process.kill()
    pid_file.unlink(missing_ok=True)
