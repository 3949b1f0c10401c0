"""What `fraudstream rebuild` says while new state is made beside the running workers."""

import json
import signal
import sys
import time
from contextlib import ExitStack, closing

import typer

from stream.rebuild import Progress, Rebuild, TakenOver
from stream.recorded import EarlierThenLater, Recorded, recorded_of
from stream.settings import Settings
from stream.topics import create

__all__ = ["follow"]

_EVERY_S = 1.0


def follow(settings: Settings, source: str, *, archive: str | None, once: bool, as_json: bool) -> None:
    """Fill the settings' changelog until a worker opens it or this process is asked to end.

    With `once`, until it is where the old one was. Raises RebuildError, TopicError, Unreachable.
    """
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    target = settings.topics.changelog
    create(settings)
    with ExitStack() as stack:
        recorded: Recorded = stack.enter_context(closing(recorded_of(settings, None)))
        if archive is not None:
            earlier = stack.enter_context(closing(recorded_of(settings, archive)))
            recorded = EarlierThenLater(earlier, recorded)
        rebuild = stack.enter_context(closing(Rebuild(settings, source, recorded)))
        told = False
        try:
            while not ended:
                done = rebuild.round(_Shown())
                left = sum(rebuild.behind.values())
                if not told and not left:
                    _complete(target, rebuild.workers, once=once, as_json=as_json)
                    told = True
                if once:
                    break
                if not done.orders:
                    time.sleep(_EVERY_S)
        except TakenOver as over:
            words = f"{over}; '{source}' is kept until 'fraudstream rebuild confirm --drop {source}'"
            typer.echo(json.dumps({"taken_over": target}) if as_json else words)
            return
        if not told:
            raise typer.Exit(1)


def _complete(target: str, workers: int, *, once: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"complete": target, "workers": workers}))
        return
    further = "run this again without --once before you switch" if once else "this keeps it so"
    typer.echo(f"'{target}' is complete up to what the group has committed; {further}")
    if workers:
        typer.echo(
            f"to switch: stop the {workers} running worker{'s' * (workers > 1)}, wait a second or two, and "
            "start them with the settings that this command has"
        )
    sys.stdout.flush()


class _Shown:
    """Progress on a terminal's standard error, once a second."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said < _EVERY_S or not sys.stderr.isatty():
            return
        self._said = now
        if progress.of:
            rate = progress.orders / (now - self._began)
            left = (progress.of - progress.orders) / rate if rate else 0.0
            words = f"{progress.orders:,} of {progress.of:,} orders, {rate:,.0f}/s, {left:,.0f} s left"
        else:
            words = f"{progress.copied:,} of {progress.of_copied:,} offsets of the old changelog copied"
        typer.echo(f"partition {progress.partition}: {words}", err=True)
