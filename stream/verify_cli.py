"""The command `fraudstream verify`: what is asked, how far it has come, and what was found."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.plainly import plain

if TYPE_CHECKING:
    from stream.settings import Settings
    from stream.verify import Difference, Verified

__all__ = ["Archive", "milliseconds", "mount", "progress", "shown"]

Archive = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="Read an archive, a folder or an address, and no topics."),
]

_SAID_EVERY_S = 10.0
_LONGEST_SHOWN = 60


def mount(
    app: typer.Typer,
    settings: Callable[..., "Settings"],
    said_plainly: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    """Put the command into a command line, with its settings and its way of telling refusals."""

    @app.command("verify")
    @said_plainly
    def verify(
        since: Annotated[
            str | None,
            typer.Option(
                "--from",
                metavar="TIME",
                help="Only decisions about orders that arrived since: 24h ago, or 2026-11-20T08:00Z.",
            ),
        ] = None,
        until: Annotated[
            str | None,
            typer.Option(
                "--to", metavar="TIME", help="Only decisions about orders that arrived before this time."
            ),
        ] = None,
        *,
        partition: Annotated[
            list[int] | None,
            typer.Option(
                metavar="NUMBER", help="Only this partition, and others so named.", show_default=False
            ),
        ] = None,
        archive: Archive = None,
        processes: Annotated[
            int,
            typer.Option(
                metavar="NUMBER",
                min=1,
                max=64,
                help="So many partitions at once, each in its own process; one where there are entities.",
            ),
        ] = 2,
        most: Annotated[
            int,
            typer.Option(
                metavar="NUMBER",
                min=0,
                max=100_000,
                help="List at most so many differences; all are counted.",
            ),
        ] = 20,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON object a difference, then one for all.")
        ] = False,
    ) -> None:
        """Decide recorded orders again and hold every decision against the recorded one, byte for byte.

        Each is decided with the model, policy, settings and control state that it names, in the recorded
        order. Nothing is joined, committed or changed. Exit code 1 when one of them differs; the cause says
        what to do. A difference may print a customer's data.
        """
        from stream.replay_topics_cli import ends_plainly  # noqa: PLC0415
        from stream.verify import Window  # noqa: PLC0415 (help must be quick)
        from stream.verify import verify as verified  # noqa: PLC0415

        window = Window(milliseconds(since, "--from"), milliseconds(until, "--to"))
        if None not in window and window.since >= window.until:  # type: ignore[operator]
            raise typer.BadParameter("nothing lies between --from and --to", param_hint="--to")
        began = time.monotonic()
        with ends_plainly(), progress("deciding again") as told:
            found = verified(
                settings(),
                partitions=partition or (),
                window=window,
                archive=archive,
                processes=processes,
                most=most,
                told=told,
            )
        seconds = time.monotonic() - began
        if as_json:
            for each in found.listed:
                typer.echo(json.dumps(each.as_json()))
            typer.echo(json.dumps(found.as_json() | {"seconds": round(seconds, 3)}))
        else:
            for line in _said(found, seconds):
                typer.echo(line)
        if found.different:
            raise typer.Exit(1)


def milliseconds(text: str | None, option: str) -> int | None:
    """The time that a person wrote, in milliseconds since 1970."""
    from stream.deadletters import DeadLetterError, since  # noqa: PLC0415

    try:
        return None if text is None else int(since(text, datetime.now(UTC)).timestamp() * 1000)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _said(found: "Verified", seconds: float) -> Iterator[str]:
    for each in found.listed:
        yield from _lines(each)
    for note in found.notes:
        yield plain(note)
    if found.different:
        more = found.different - len(found.listed)
        yield f"{found.different:,} differ{f', {more:,} of them not listed' if more else ''}:"
        for cause, count in found.causes.most_common():
            yield f"{count:>9,} {cause}"
    if found.unrecorded:
        yield f"{found.unrecorded:,} older orders, whose decisions are no longer there, were gone through"
    if found.not_comparable:
        yield f"{found.not_comparable:,} decisions and messages are not comparable, for a switch"
    if found.undecided:
        yield f"{found.undecided:,} records come after the last that was decided"
    if found.set_aside:
        yield f"{found.set_aside:,} are about orders set aside after they had stopped the worker"
    rate = found.orders / seconds if seconds else 0.0
    yield f"{found.orders:,} records of orders in {seconds:,.1f} s, {rate:,.0f} a second"
    if found.messages:
        yield f"{found.messages:,} messages between stages are as they are sent again"
    yield f"{found.equal:,} of {found.compared:,} decisions equal"


def _lines(difference: "Difference") -> Iterator[str]:
    where = "" if difference.offset is None else f" offset {difference.offset:,}"
    decision = "" if difference.decision is None else f", decision {difference.decision}"
    yield plain(
        f"{difference.cause}: order {difference.order_id or 'without a name'}, partition "
        f"{difference.partition}{where}{decision}"
    )
    yield plain(f"    {difference.said}")
    for each in difference.fields:
        yield plain(f"    {each.path}: recorded {shown(each.recorded)}, recomputed {shown(each.recomputed)}")


def shown(value: Any) -> str:
    """A field's value, short enough for a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """How many records were read, of how many, how fast and for how long still; on stderr.

    A bar on a terminal, else a line every 10 seconds.
    """
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.console import Console  # noqa: PLC0415 (only a terminal needs it)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (
        TextColumn(what), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
        TextColumn("{task.fields[rate]:,.0f} a second"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=0, rate=0.0)
        began = time.monotonic()

        def told(read: int, of: int) -> None:
            bar.update(task, completed=read, total=of, rate=read / max(time.monotonic() - began, 0.001))

        yield told


class _Lines:
    """Progress where no terminal is: a line now and then."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._said_at = time.monotonic()

    def __call__(self, read: int, of: int) -> None:
        now = time.monotonic()
        if now - self._said_at < _SAID_EVERY_S:
            return
        self._said_at = now
        rate = read / (now - self._began)
        left = f", about {(of - read) / rate:,.0f} s left" if rate else ""
        typer.echo(f"{self._what}: {read:,} of {of:,} records, {rate:,.0f} a second{left}", err=True)
