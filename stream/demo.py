"""The demo: a broker, a shop's past, a model learnt from it, a worker, and live orders decided as you watch.

What it has done lies in `demo/` under the home folder, so that a second run goes on where the first one
ended, and a run that was killed is taken up where it was killed: publishing an order again is harmless,
an order counts once.
"""

import contextlib
import functools
import io
import itertools
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from features.events import Order
from models.policy import Action
from stream import topics
from stream.broker import EmbeddedBroker, PortInUse, ports_of
from stream.demo_home import DemoProgress, holding
from stream.demo_live import Decided, LiveOrders, order_line
from stream.demo_tally import Tally
from stream.demo_view import (
    LiveView,
    Row,
    Steps,
    again,
    is_for_eyes,
    line,
    say,
    summary,
    totals_line,
    what_next,
)
from stream.demo_worker import DemoError, DemoWorker
from stream.own_features import catalogue_of
from stream.publish import publish
from stream.registry import registry_of
from stream.settings import Settings
from stream.shop import Placed, ShopSimulator

__all__ = ["DemoError", "run_demo"]

SEED = 8
PAST_DAYS = 28
ORDERS_PER_DAY = 700
LIVE_DAYS = 60
"""How long before today the live days begin; at 50 orders a second they last a quarter of an hour."""
ONCE_ORDERS = 800

_READ_A_SECOND = 8
"""Approved orders a person can read in a second, between those that were stopped."""
_STARTED_AGAIN_AT_MOST = 5
_SILENT_AT_MOST_S = 45.0
"""A killed worker's partitions are silent until its session ends and the next one has taken over."""


def run_demo(settings: Settings, *, once: bool, rate: float, config: Path | None) -> int:
    """Run the demo until Ctrl-C, or with `once` for some hundred orders; returns the exit code.

    It is 0 only when every live order that was sent was decided once. Everything the demo started is stopped
    when it ends. Raises DemoError, BrokerError, TopicError.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that can't show every letter stays in use
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    try:
        with holding(settings.home), contextlib.ExitStack() as started:
            # A closed terminal or a `kill` should stop the children too, the way Ctrl-C does.
            for name in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, _interrupt)
            try:
                code = _Demo(settings, console, started, config).run(once=once, rate=rate)
            finally:
                # a second Ctrl-C must not leave children behind
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        console.print(f"stopped; '{again()}' goes on from here")
        return 0
    for each in what_next(settings):
        console.print(each)
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _asked_to_end() -> Iterator[list[int]]:
    """The signals that asked for the end inside the block, noted instead of raised.

    An exception in the midst of drawing or counting would leave a terminal half drawn or an order half
    counted.
    """
    asked: list[int] = []
    before = {
        name: signal.signal(name, lambda number, _: asked.append(number))
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield asked
    finally:
        for name, words in before.items():
            signal.signal(name, words)


class _Demo:
    def __init__(
        self, settings: Settings, console: Console, started: contextlib.ExitStack, config: Path | None
    ) -> None:
        self._settings = settings
        self._console = console
        self._started = started
        self._step = Steps(console).step
        day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._progress = DemoProgress.read(settings.home, opened=day - timedelta(days=PAST_DAYS + LIVE_DAYS))
        self._broker = EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=1), tied=True)
        self._worker = DemoWorker(settings, config)

    def run(self, *, once: bool, rate: float) -> int:
        self._start_broker()
        self._make_topics()
        self._live_through_the_past()
        self._train_a_model()
        self._start_worker()
        return 0 if self._decide_live_orders(once=once, rate=rate) else 1

    # ------------------------------------------------------------------ stages

    def _start_broker(self) -> None:
        broker = self._broker
        with self._step("broker", f"starting Apache Kafka at {broker.bootstrap}") as step:
            fetched = 0

            def tell(size: int) -> None:
                nonlocal fetched
                fetched += size
                step.doing(f"fetching Apache Kafka, once: {fetched / 1e6:.0f} of about 46 MB")

            try:
                ours = broker.start(fetched=tell)
            except PortInUse as error:
                raise DemoError(
                    f"{error.said}; stop that, or take another port: "
                    f"FRAUDSTREAM_BROKER=127.0.0.1:{error.free} {again()}"
                ) from None
            if ours:
                self._started.callback(self._stop_broker)
            step.outcome = f"Apache Kafka {'answers' if ours else 'already runs'} at {broker.bootstrap}"

    def _stop_broker(self) -> None:
        self._say_at_the_end("broker", "stopping")
        self._broker.stop()

    def _make_topics(self) -> None:
        with self._step("topics", "making those that are missing") as step:
            made = topics.create(self._settings)
            step.outcome = f"made {', '.join(made)}" if made else "all are there"

    def _live_through_the_past(self) -> None:
        if self._progress.past_published:
            say(self._console, "past", "the shop's past is there from an earlier run")
            return
        self._progress.write()  # the day the shop opened must survive a kill from here on
        with self._step("past", f"living through {PAST_DAYS} days of a simulated shop") as step:
            past = self._past
            sent = 0

            def lines() -> Iterator[bytes]:
                nonlocal sent
                for sent, placed in enumerate(past, 1):
                    if sent % 500 == 0:
                        step.doing(f"publishing as history: {sent:,} of {len(past):,}", sent, len(past))
                    yield order_line(placed)

            step.doing(f"publishing {len(past):,} orders as history", 0, len(past))
            publish(self._settings, lines(), history=True)
            frauds = sum(placed.is_fraud for placed in past)
            step.outcome = (
                f"{len(past):,} orders of {PAST_DAYS} days, {frauds:,} of them fraud, published as history"
            )
        self._progress.past_published = True
        self._progress.write()

    def _train_a_model(self) -> None:
        settings = self._settings
        name, _, version = settings.model.partition("@")
        registry = registry_of(settings)
        if version or registry.champion(name) is not None:
            say(self._console, "model", f"'{name}' is there from an earlier run")
            return
        with self._step("model", f"training '{name}', a random forest, on that past") as step:
            from stream.learn import learn  # noqa: PLC0415 - takes seconds, and a second run needs none of it

            past = self._past

            def examples() -> Iterator[tuple[Order, bool]]:
                for number, placed in enumerate(past, 1):
                    if number % 250 == 0:
                        step.doing(
                            f"computing features: {number:,} of {len(past):,} orders", number, len(past)
                        )
                    yield placed.order, placed.is_fraud
                step.doing("growing the forest, measuring it on the last days")

            learnt = learn(settings, examples(), name=name)
            auc = learnt.metrics.get("holdout_auc")
            step.outcome = (
                f"{learnt.name}@{learnt.version}: area under the curve {auc:.3f} on the last days; "
                f"review from {learnt.policy.review_at:.3f}, decline from {learnt.policy.decline_at:.3f}"
            )

    def _start_worker(self) -> None:
        worker = self._worker
        with self._step("worker", f"starting; its log is {worker.log}") as step:
            before = worker.claims()
            worker.start()
            self._started.callback(self._stop_worker)
            most = 0

            def tell(behind: int | None) -> None:
                nonlocal most
                if not behind:
                    step.doing("joins its group")
                    return
                most = max(most, behind)
                step.doing(
                    f"takes in what came before it: {most - behind:,} of {most:,}", most - behind, most
                )

            worker.take_in(before, tell)
            step.outcome = f"process {worker.pid} is ready, with its customers' histories"

    def _stop_worker(self) -> None:
        self._say_at_the_end("worker", "stopping; it finishes the transaction in hand")
        (node,) = self._broker.status()
        # without a broker there is nothing it could finish
        self._worker.stop(within_s=20.0 if node.state == "running" else 2.0)

    def _say_at_the_end(self, stage: str, what: str) -> None:
        with contextlib.suppress(OSError):  # whoever listened may be gone, and the children must still go
            say(self._console, stage, what)

    def _decide_live_orders(self, *, once: bool, rate: float) -> bool:
        """Send live orders and show their decisions; returns whether each was decided once."""
        count = ONCE_ORDERS if once else None
        say(
            self._console,
            "live",
            f"{rate:g} orders a second"
            + (f", {count:,} in all" if count else "; Ctrl-C ends it")
            + (f", after {self._progress.live:,} of earlier runs" if self._progress.live else ""),
        )
        tally = Tally()
        view = LiveView(tally, rate, find_feature=catalogue_of(self._settings).by_name)
        orders = itertools.islice(self._live_orders(), count)
        with LiveOrders(self._settings, orders, rate=rate, placed=self._remember_placed) as live:
            try:
                if is_for_eyes(self._console):
                    with view.shown(self._console):
                        to_the_end = self._watch(live, view, drawn=True)
                else:
                    to_the_end = self._watch(live, view, drawn=False)
            finally:
                live.stop_sending()
                self._progress.write()
                self._console.print()
                for each in summary(
                    tally, undecided=live.undecided, doubled=live.doubled, others=live.others
                ):
                    self._console.print(each)
        if live.undecided:
            said = f"{live.undecided} orders wait for the next run; {self._worker.log} may tell why"
            say(self._console, "live", said)
        elif to_the_end and tally.decided != count:
            said = f"the shop has reached the present; remove {self._settings.home} to begin anew"
            say(self._console, "live", said)
        return not live.undecided and not live.doubled and (tally.decided > 0 or not to_the_end)

    # ------------------------------------------------------------------ while it is live

    def _watch(self, live: LiveOrders, view: LiveView, *, drawn: bool) -> bool:
        """Show what comes until everything sent is decided; after Ctrl-C only that is waited for.

        Returns whether it came to its end without Ctrl-C.
        """
        lines = _Lines(self._console)
        patience = _Patience()
        with _asked_to_end() as asked:
            while live.is_on and patience.lasts(live):
                self._see_that_all_run(live, view, patience)
                for decided in live.within(0.1):
                    patience.renew()
                    row = self._count(decided, view)
                    shown = lines.are_worth(row)
                    view.add(row, shown=shown)
                    if shown and not drawn:
                        self._console.print(line(row))
                if len(asked) > 1:
                    break
                if asked and live.is_sending:
                    live.stop_sending()
                    view.notice = "no more are sent; those on their way are decided (Ctrl-C ends at once)"
                if drawn:
                    view.draw()
                else:
                    lines.totals(view.tally)
        return not asked

    def _count(self, decided: Decided, view: LiveView) -> Row:
        seen, placed, sent_at, read, latency = decided
        if placed is not None and sent_at is not None:
            action = seen.decision.action
            view.tally.count(placed, action, latency=latency, sent_at=sent_at, now=read)
        return Row(datetime.now(UTC).astimezone(), seen.decision, placed, latency)

    def _see_that_all_run(self, live: LiveOrders, view: LiveView, patience: "_Patience") -> None:
        if live.failure is not None:
            raise DemoError(f"live orders stopped: {live.failure}") from live.failure
        if not patience.looks_now():
            return
        (node,) = self._broker.status()
        if node.state != "running":
            raise DemoError(
                f"the broker ended (its console: {node.console}); nothing committed is lost, "
                f"'{again()}' goes on from here"
            )
        died = self._worker.died()
        if died is not None:
            patience.spend(died, self._worker)
            view.notice = f"the worker was ended by {died}; another takes over, its orders wait"
            if not is_for_eyes(self._console):
                say(self._console, "worker", view.notice)
            self._worker.start()
        elif patience.is_renewed:
            view.notice = ""

    # ------------------------------------------------------------------ the shop

    def _shop(self) -> ShopSimulator:
        # beset: in a quiet shop ten seconds would show one fraud or none
        return ShopSimulator(
            seed=SEED, start=self._progress.opened, customers=1200, orders_per_day=ORDERS_PER_DAY, beset=2
        )

    @functools.cached_property
    def _past(self) -> list[Placed]:
        return list(self._shop().past(PAST_DAYS))

    def _live_orders(self) -> Iterator[Placed]:
        """The shop's orders after its past, from where the last run ended, until the present."""
        end = self._progress.opened + timedelta(days=PAST_DAYS)
        live = itertools.dropwhile(lambda placed: placed.order.placed_at < end, self._shop().orders())
        so_far = itertools.takewhile(lambda placed: placed.order.placed_at <= datetime.now(UTC), live)
        return itertools.islice(so_far, self._progress.live, None)

    def _remember_placed(self) -> None:
        self._progress.live += 1
        if self._progress.live % 50 == 0:
            self._progress.write()


@dataclass(slots=True)
class _Lines:
    """Which decisions are worth a line: what was stopped or is fraud, and of the others what can be read."""

    console: Console
    _second: float = 0.0
    _shown: int = 0
    _totalled: float = 0.0

    def are_worth(self, row: Row) -> bool:
        now = time.monotonic()
        if now - self._second > 1:
            self._second, self._shown = now, 0
        of_note = row.decision.action is not Action.APPROVE or row.placed is None or row.placed.is_fraud
        if of_note or self._shown < _READ_A_SECOND:
            self._shown += 1
            return True
        return False

    def totals(self, tally: Tally) -> None:
        now = time.monotonic()
        self._totalled = self._totalled or now
        if now - self._totalled > 5 and tally.decided:
            self._totalled = now
            self.console.print(totals_line(tally))


class _Patience:
    """How long decisions are waited for, and how often a worker is started again."""

    def __init__(self) -> None:
        self._since = self._looked = time.monotonic()
        self._died = 0
        self._died_at: float | None = None

    def renew(self) -> None:
        self._since = time.monotonic()

    @property
    def is_renewed(self) -> bool:
        """Whether decisions came again since a worker ended; its own last ones take less than a second."""
        return self._died_at is not None and self._since > self._died_at + 1

    def lasts(self, live: LiveOrders) -> bool:
        return live.is_sending or time.monotonic() - self._since < _SILENT_AT_MOST_S

    def looks_now(self) -> bool:
        now = time.monotonic()
        if now - self._looked < 0.5:
            return False
        self._looked = now
        return True

    def spend(self, died: str, worker: DemoWorker) -> None:
        self._died += 1
        self._died_at = time.monotonic()
        if self._died > _STARTED_AGAIN_AT_MOST:
            raise DemoError(f"the worker ended {self._died} times, now by {died}; {worker.said()}")
