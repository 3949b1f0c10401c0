"""What the demo shows: its steps while it sets up, and the live view, which fits any terminal.

The view is drawn anew from what it was told each time, so a resized terminal is right at the next drawing.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from features.catalogue import by_name
from features.define import Feature
from models.decision import Decision
from models.policy import Action
from stream.demo_tally import Tally
from stream.settings import Settings
from stream.shop import Placed
from stream.watch import STYLES, plain, sentence, why

__all__ = [
    "NEXT",
    "LiveView",
    "Row",
    "Step",
    "Steps",
    "again",
    "is_for_eyes",
    "line",
    "say",
    "summary",
    "totals_line",
    "what_next",
]

_REDRAWN_A_SECOND = 5
_BAR = 6
_PLAIN_EVERY_S = 3.0
_FEWEST_DECISIONS = 4


def is_for_eyes(console: Console) -> bool:
    """Whether a person looks at a terminal that can draw; a file, a pipe or a dumb terminal gets lines."""
    return sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal


# ---------------------------------------------------------------------- setting up


class Step:
    """One step of the set-up while it goes on."""

    def __init__(self, console: Console, stage: str, progress: Progress | None) -> None:
        self._console = console
        self._stage = stage
        self._progress = progress
        self._task = progress.add_task("", total=None, stage=stage) if progress else None
        self._said_at = time.monotonic()
        self.outcome = ""
        """What came of it; said with the time it took when it ends."""

    def doing(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Say what goes on, and how far it is if that can be counted."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=escape(what), completed=done, total=total)
        elif time.monotonic() - self._said_at > _PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            say(self._console, self._stage, what)


class Steps:
    """The steps of the set-up: each is said when it begins and when it has ended, with its time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def step(self, stage: str, what: str) -> Iterator[Step]:
        """A step that goes on inside the block; a spinner turns where there is someone to see it."""
        began = time.monotonic()
        with contextlib.ExitStack() as shown:
            progress = None
            if is_for_eyes(self._console):
                columns = (
                    SpinnerColumn("line"),
                    TextColumn("[bold]{task.fields[stage]:<7}[/] {task.description}"),
                    BarColumn(bar_width=20),
                    TimeElapsedColumn(),
                )
                progress = shown.enter_context(Progress(*columns, console=self._console, transient=True))
            else:
                say(self._console, stage, what)
            step = Step(self._console, stage, progress)
            step.doing(what)
            yield step
        if step.outcome:
            say(self._console, stage, f"{step.outcome} ({time.monotonic() - began:.1f} s)")


def say(console: Console, stage: str, what: str) -> None:
    """One line about a stage."""
    console.print(f"[bold]{stage:<7}[/] {escape(what)}")


# ---------------------------------------------------------------------- the live view


@dataclass(frozen=True, slots=True)
class Row:
    """A decision as it is shown."""

    at: datetime
    decision: Decision
    placed: Placed | None
    """None when someone else sent the order."""
    latency: float


@dataclass(slots=True)
class LiveView:
    """What the terminal shows while orders come in; told by `add`, drawn by rich at any size."""

    tally: Tally
    rate: float
    began: float = field(default_factory=time.monotonic)
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=200))
    declined: Row | None = None
    """The last order that was declined."""
    shop_time: datetime | None = None
    notice: str = ""
    """What is out of the ordinary now."""
    is_over: bool = False
    now: float | None = None
    """The instant to draw, if not the present one."""
    find_feature: Callable[[str], Feature] = by_name
    """The feature of a name, for the units of its values."""

    def add(self, row: Row, *, shown: bool) -> None:
        """Take in a decision; it joins the stream if `shown`."""
        if row.placed is not None:
            self.shop_time = row.placed.order.placed_at
        if shown:
            self.rows.append(row)
        if row.decision.action is Action.DECLINE:
            self.declined = row

    @contextlib.contextmanager
    def shown(self, console: Console) -> Iterator[Self]:
        """Draw on the whole terminal inside the block; leave it in order, with the last picture."""
        with Live(self, console=console, screen=True, auto_refresh=False) as live:
            self._live = live
            self._drawn_at = 0.0
            yield self
        console.print(_Still(self), soft_wrap=False)

    def draw(self) -> None:
        """Draw if it is time to; called in between, so that drawing never meets counting."""
        now = time.monotonic()
        if now - self._drawn_at >= 1 / _REDRAWN_A_SECOND:
            self._drawn_at = now
            self._live.refresh()

    _live: Live = field(init=False, repr=False)
    _drawn_at: float = field(init=False, repr=False, default=0.0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Exactly as many lines as there are, the most telling first when there are few."""
        height = options.height or options.size.height
        width = options.max_width
        head, figures = self._head(width), self._figures(width)
        left = height - 1 - len(figures)
        below: list[list[object]] = []
        if left - _FEWEST_DECISIONS >= 4:
            below.append(self._campaigns(width, at_most=min(8, 3 if height < 30 else height // 5)))
            left -= len(below[-1])
        if left - _FEWEST_DECISIONS >= 4:
            below.append(self._why(at_most=min(left - _FEWEST_DECISIONS, 4 if height < 30 else 6)))
            left -= len(below[-1])
        stream = self._stream(width, left) if left >= 3 else []
        narrow = options.update(width=width, height=None, no_wrap=True, overflow="ellipsis")
        lines: list[list[Segment]] = []
        for part in (head, *figures, *stream, *(each for section in below for each in section)):
            lines += console.render_lines(part, narrow, pad=True)  # type: ignore[arg-type]
        del lines[height:]
        lines += [[Segment(" " * width)]] * (height - len(lines))
        for number, each in enumerate(lines):
            yield from each
            if number < len(lines) - 1:
                yield Segment.line()

    # ------------------------------------------------------------------ its parts

    def _head(self, width: int) -> object:
        now = time.monotonic() if self.now is None else self.now
        minutes, seconds = divmod(int(now - self.began), 60)
        shop = "" if self.shop_time is None else f"in the shop it is {self.shop_time:%a %d %b %H:%M}"
        live = f"{'ended after' if self.is_over else 'live'} {minutes}:{seconds:02}"
        words = [live, shop, "" if self.is_over else "Ctrl-C ends it"]
        text = Text.assemble((" fraudstream ", "bold reverse"), "  ", "   ".join(filter(None, words)))
        text.truncate(width, overflow="ellipsis")
        return text

    def _figures(self, width: int) -> list[object]:
        tally = self.tally
        now = time.monotonic() if self.now is None else self.now
        frauds, stopped = tally.frauds.total(), tally.stopped.total()
        first = [
            f"[bold]orders {tally.decided:,}[/]",
            *(
                f"[{STYLES[action]}]{_DONE[action]} {tally.actions[action]:,}[/]"
                for action in (Action.APPROVE, Action.REVIEW, Action.DECLINE)
            ),
            f"{tally.per_second(now):.0f}/s",
            f"p50 {tally.latency(0.5) * 1000:.0f} ms",
            f"p99 {tally.latency(0.99) * 1000:.0f} ms",
        ]
        second = [
            f"[bold]frauds stopped {stopped:,} of {frauds:,}[/]{_share(stopped, frauds)}",
            f"honest held up {tally.held_up:,} of {tally.honest:,}{_share(tally.held_up, tally.honest)}",
        ]
        third = [
            f"[bold green]saved {_euros(tally.saved_cents)} EUR[/]",
            f"= {_euros(tally.stopped_cents)} of {_euros(tally.fraud_cents)} fraud stopped",
            f"- {_euros(tally.review_cents)} reviews",
            f"- {_euros(tally.lost_cents)} honest declined",
        ]
        assumed = [f"[dim]assumed: {tally.assumed}[/]"]
        return [
            *_flow(first, width),
            *_flow(second, width),
            *_flow(third, width, between=" "),
            *_flow(assumed, width),
        ]

    def _stream(self, width: int, height: int) -> list[object]:
        title = (
            "[bold red]" + escape(self.notice) + "[/]" if self.notice else "decisions as they are committed"
        )
        barred, whole = width >= 100, width >= 130
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim", pad_edge=False)
        table.add_column("time", no_wrap=True, width=8)
        table.add_column("order", no_wrap=True, width=21 if whole else 7)
        table.add_column("customer", no_wrap=True, width=10 if whole else 8)
        table.add_column("amount", no_wrap=True, width=13 if whole else 12, justify="right")
        table.add_column("fraud p" if barred else "p", no_wrap=True, width=_BAR + 6 if barred else 5)
        table.add_column("action", no_wrap=True, width=7)
        table.add_column("why", no_wrap=True, ratio=1, overflow="ellipsis")
        table.add_column("ms", no_wrap=True, width=4, justify="right")
        newest = list(self.rows)[-(height - 2) :]
        for row in newest:
            table.add_row(*_cells(row, barred=barred, whole=whole))
        empty: list[object] = [Text("")] * (height - 2 - len(newest))
        return [_rule(title), table, *empty]

    def _campaigns(self, width: int, *, at_most: int) -> list[object]:
        seen = self.tally.campaigns.values()
        running = sum(not each.is_over for each in seen)
        title = f"campaigns of fraud: {len(seen)} began, {running} going on; the newest of 3 orders or more"
        campaigns = sorted((each for each in seen if each.orders > 2), key=lambda each: each.began_at)
        lines: list[object] = []
        for each in reversed(campaigns[-at_most:]):
            style = "green" if each.stopped else "red"
            money = f"; {_euros(each.stopped_cents)} of {_euros(each.cents)} EUR" if width >= 100 else ""
            name = each.kind.replace("_", " ")
            began = (f"{each.began_at:%H:%M:%S}  ", "dim")
            lines.append(Text.assemble(began, (f"{name:<17}", "bold"), (f"{each}{money}", style)))
        return [_rule(title), *lines, *[Text("")] * (at_most - len(lines))]

    def _why(self, *, at_most: int) -> list[object]:
        if self.declined is None:
            return [_rule("why an order is declined, once one is"), *[Text("")] * (at_most - 1)]
        row = self.declined
        order = "" if row.placed is None else f"{_amount(row.placed)} "
        truth = "" if row.placed is None else f"; it is {_truth(row.placed) or 'honest'}"
        reasons = why(row.decision, self.find_feature)
        title = (
            f"why {order}at {row.at:%H:%M:%S} was [red]declined[/] with {_probability(row.decision)}{truth}"
        )
        lines: list[object] = []
        for looked_at, found in reasons[: at_most - 1]:
            lines.append(Text.assemble((f"{found:>12}  ", "bold"), plain(looked_at)))
        return [_rule(title), *lines, *[Text("")] * (at_most - 1 - len(lines))]


@dataclass(slots=True)
class _Still:
    """The view's last picture, for the scroll-back: not higher than it needs."""

    view: LiveView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(8, min(options.size.height - 1, 40))
        self.view.now = self.view.now or time.monotonic()
        self.view.is_over = True
        yield from console.render(self.view, options.update(height=height))
        yield Segment.line()


_DONE = {Action.APPROVE: "approved", Action.REVIEW: "reviewed", Action.DECLINE: "declined"}


def _cells(row: Row, *, barred: bool, whole: bool) -> Sequence[Text]:
    decision, placed = row.decision, row.placed
    style = STYLES[decision.action]
    order, customer = plain(decision.order_id), plain(decision.customer_id or "guest")
    probability = Text(_probability(decision), style)
    if barred and decision.p_fraud is not None:
        probability.append(" " + "#" * max(1, round(decision.p_fraud * _BAR)), style)
    because = Text("" if placed is None else _truth(placed), "bold magenta")
    if decision.action is not Action.APPROVE:
        shorts = [_short(reason.feature or reason.code) for reason in decision.reasons[: 4 if barred else 2]]
        because.append((": " if because else "") + ", ".join(shorts), "not bold default")
    return (
        Text(f"{row.at:%H:%M:%S}", "dim"),
        Text(order if whole else order[-7:]),
        Text(customer if whole else customer.rpartition("-")[2][:7]),
        Text("?" if placed is None else _amount(placed)),
        probability,
        Text(decision.action.value, style),
        because,
        Text(f"{row.latency * 1000:,.0f}", "dim") if placed is not None else Text("-"),
    )


def _short(feature: str) -> str:
    return feature.lower().replace("_", " ")


def _truth(placed: Placed) -> str:
    return "" if placed.fraud_kind is None else placed.fraud_kind.replace("_", " ")


def _amount(placed: Placed) -> str:
    return f"{placed.order.amount / 100:,.2f} {placed.order.currency}"


def _probability(decision: Decision) -> str:
    return "unscored" if decision.p_fraud is None else f"{decision.p_fraud:.3f}"


def _euros(cents: int) -> str:
    return f"{round(cents / 100):,}"


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _rule(title: str) -> Rule:
    return Rule(Text.from_markup(title), style="dim", align="left")


def _flow(pieces: Sequence[str], width: int, *, between: str = "  ") -> list[object]:
    """Pieces of markup in as few lines as they need, none of them broken unless it is alone too long."""
    lines: list[Text] = []
    for piece in pieces:
        text = Text.from_markup(piece)
        if lines and lines[-1].cell_len + len(between) + text.cell_len <= width:
            lines[-1].append(between).append_text(text)
        else:
            lines.append(text)
    return list(lines)


# ---------------------------------------------------------------------- lines


def line(row: Row) -> str:
    """A decision in one line of markup, for who reads lines."""
    if row.placed is None:
        return f"{'':>8} {'':>13}  {sentence(row.decision)}"
    truth = f"  [bold magenta]fraud: {_truth(row.placed)}[/]" if row.placed.is_fraud else ""
    return f"{row.latency * 1000:>5.0f} ms {_amount(row.placed):>13}  {sentence(row.decision)}{truth}"


def totals_line(tally: Tally) -> str:
    """The running totals in one line of markup."""
    return (
        f"[bold]so far[/]  {tally.decided:,} decisions; "
        f"frauds stopped {tally.stopped.total()} of {tally.frauds.total()}; "
        f"honest orders held up {tally.held_up} of {tally.honest:,}; "
        f"saved {_euros(tally.saved_cents)} EUR; {_latency(tally)}"
    )


def summary(tally: Tally, *, undecided: int, doubled: int, others: int) -> Iterator[str]:
    """What came of the run, in lines of markup."""
    yield (
        f"[bold]summary[/]  {tally.decided + undecided:,} live orders, {tally.decided:,} decisions, "
        f"{undecided} undecided, {doubled} decided twice" + (f"; {others} orders of others" if others else "")
    )
    if not tally.decided:
        return
    actions = ", ".join(f"{action.value} {count:,}" for action, count in tally.actions.most_common())
    yield f"  decided          {actions}; {_latency(tally)}"
    kinds = ", ".join(
        f"{kind.replace('_', ' ')} {tally.stopped[kind]} of {count}"
        for kind, count in tally.frauds.most_common()
    )
    yield f"  frauds stopped   {tally.stopped.total()} of {tally.frauds.total()}" + (
        f" ({kinds})" if kinds else ""
    )
    yield f"  honest held up   {tally.held_up:,} of {tally.honest:,}{_share(tally.held_up, tally.honest)}"
    yield (
        f"  saved            {_euros(tally.saved_cents)} EUR against doing nothing: "
        f"{_euros(tally.stopped_cents)} of {_euros(tally.fraud_cents)} EUR of fraud stopped, "
        f"less {_euros(tally.review_cents)} for reviews and {_euros(tally.lost_cents)} for honest declined"
    )
    yield f"                   [dim]assumed: {tally.assumed}[/]"


def _latency(tally: Tally) -> str:
    if not tally.latencies:
        return "no decision yet"
    middle, late = tally.latency(0.5) * 1000, tally.latency(0.99) * 1000
    return f"order to decision {middle:.0f} ms (p50), {late:.0f} ms (p99)"


# ---------------------------------------------------------------------- what next


def again() -> str:
    """The command that runs the demo, as the user gave it."""
    return "make demo" if "MAKELEVEL" in os.environ else "fraudstream demo"


def what_next(settings: Settings) -> Iterator[str]:
    """What each of three people might do next, in lines of markup."""
    given = {"FRAUDSTREAM_BROKER": settings.broker, "FRAUDSTREAM_HOME": str(settings.home)}
    usual = {"FRAUDSTREAM_BROKER": "127.0.0.1:9092", "FRAUDSTREAM_HOME": ".fraudstream"}
    differs = " ".join(f"{name}={value}" for name, value in given.items() if value != usual[name])
    yield ""
    yield "[bold]next[/]  'source .venv/bin/activate' gives the command 'fraudstream'" + (
        f"; then: export {escape(differs)}" if differs else ""
    )
    yield f"  '{again()}' goes on from here; without {settings.home} it begins anew"
    for who, steps in NEXT.items():
        yield f"  {who}"
        for command, what in steps:
            yield f"    {command:<58} [dim]{what}[/]"


NEXT: dict[str, tuple[tuple[str, str], ...]] = {
    "platform engineer": (
        ("fraudstream broker start", "the demo's broker, with all that is in it"),
        ("fraudstream doctor", "what is wrong, and what to do about it"),
        ("fraudstream lag", "how far each partition is behind, and who owns it"),
        ("make chaos", "kills and pauses workers, counts every order (11 min)"),
    ),
    "risk analyst": (
        ("fraudstream watch --from-beginning", "every decision so far with its reasons"),
        ("fraudstream watch --from-beginning --json", "the same with every feature's value"),
    ),
    "data scientist": (
        ("fraudstream publish orders.csv --guess", "what your own file would mean to it"),
        ("fraudstream simulate past past.jsonl", "a labelled past; yours has the same form"),
        ("fraudstream train past.jsonl --name mine", "a model of it, measured on its last days"),
    ),
}
"""Commands worth trying after the demo, for each of three people."""
