"""What `fraudstream rebuild` says while new state is made beside the running workers."""

import json
import signal
import sys
import time
from contextlib import ExitStack, closing

import typer

from stream.control import in_force
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
        told = told_in_pause = has_said_to_drain = False
        try:
            while not ended:
                done = rebuild.round(_Shown())
                left = sum(rebuild.behind.values())
                is_complete = not left and rebuild.has_settled
                # where orders go through stages it comes and goes, and stays in a pause: said then once more
                in_pause = is_complete and rebuild.awaits_settling and in_force(settings).paused
                if is_complete and (not told or (in_pause and not told_in_pause)):
                    in_use = rebuild.awaits_settling and not in_pause
                    _complete(rebuild, target, once=once, in_use=in_use, as_json=as_json)
                    told = True
                told_in_pause = in_pause
                if once:
                    break
                if rebuild.awaits_settling and not is_complete and not has_said_to_drain:
                    _drain(target, as_json=as_json)
                    has_said_to_drain = True
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
                f"'{target}' is {left:,} orders behind"
                + ("" if rebuild.has_settled else ", or some are on their way between stages")
                + ", and no worker can open it; run this again: it goes on"
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
        for topic in settings.roads[0]:  # all that is read
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


def _drain(target: str, *, as_json: bool) -> None:
    """Say what to do while workers go on: rows may be taken over only where nothing is between stages."""
    if as_json:
        typer.echo(json.dumps({"follows": target}))
    else:
        typer.echo(
            f"'{target}' is made, and follows the workers; to switch: run 'fraudstream pause --drain', and "
            "wait until this says that it is complete"
        )
    sys.stdout.flush()


def _complete(rebuild: Rebuild, target: str, *, once: bool, in_use: bool, as_json: bool) -> None:
    """Say how to switch; `in_use` where the next order would go on its road, and it is complete no more."""
    workers = rebuild.workers
    if as_json:
        typer.echo(json.dumps({"complete": target, "workers": workers}))
        return
    further = "run this again without --once before you switch" if once else "this keeps it so"
    typer.echo(f"'{target}' is complete up to what the group has committed; {further}")
    if workers and in_use:
        typer.echo("to switch: run 'fraudstream pause --drain', and wait until this says so once more")
    elif workers:
        typer.echo(
            f"to switch: stop the {workers} running worker{'s' * (workers > 1)}, wait a second or two, and "
            "start them with the settings that this command has"
            + (", then run 'fraudstream resume'" if rebuild.awaits_settling else "")
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
            words = f"{progress.orders:,} of {progress.of:,} records, {rate:,.0f}/s, {left:,.0f} s left"
        else:
            words = f"{progress.copied:,} of {progress.of_copied:,} offsets of the old changelog copied"
        where = "" if progress.partition is None else f"partition {progress.partition}: "
        typer.echo(where + words, err=True)
