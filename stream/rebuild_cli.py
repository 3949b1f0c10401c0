"""What `fraudstream rebuild` says while new state is made beside the running workers."""

import json
import signal
import sys
import time
from contextlib import ExitStack, closing

import typer

from stream.rebuild import Progress, Rebuild, RebuildError, TakenOver, forget_local
from stream.recorded import EarlierThenLater, Recorded, TopicsRecorded
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
        recorded: Recorded = stack.enter_context(closing(TopicsRecorded(settings)))
        if archive is not None:
            recorded = EarlierThenLater(_of_the_same_topics(settings, archive), recorded)
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
            stack.close()
            forget_local(settings)  # the worker restores rows of its own
            return
        if not told:
            left = sum(rebuild.behind.values())
            words = (
                f"'{target}' is {left:,} orders behind, and no worker can open it; run this again: it goes on"
            )
            typer.echo(json.dumps({"behind": left}) if as_json else words)
            raise typer.Exit(1)


def _of_the_same_topics(settings: Settings, archive: str) -> Recorded:
    """The archive, which has to be of the very topics that workers read, without a hole.

    Of others the offsets would be the same and the orders not. Raises RebuildError, ArchiveError, TopicError.
    """
    from stream.archive import ArchivableTopics, ArchiveRecorded  # noqa: PLC0415 - pyarrow only where it is asked for

    earlier = ArchiveRecorded(archive)
    with closing(ArchivableTopics(settings)) as there:
        for topic in settings.inputs:
            if earlier.topic_id(topic) != there.topic_id(topic):
                raise RebuildError(
                    f"the archive {archive} is of another topic '{topic}' than the one that is there, which "
                    "was made anew or is another cluster's; give the archive of this one"
                )
            for partition in range(earlier.partitions(topic)):
                for start, end in earlier.gaps((topic, partition)):
                    raise RebuildError(
                        f"the archive {archive} lacks the offsets {start:,} to {end - 1:,} of "
                        f"{topic}/{partition}, and the rows would lack them; give one that has them"
                    )
            if count := earlier.imported(topic):
                typer.echo(
                    f"fraudstream: {count:,} records of '{topic}' were imported into {archive}; workers "
                    "never saw them, so the rows are made without them; to have workers remember them: "
                    "fraudstream publish FILE --history",
                    err=True,
                )
    return earlier


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
