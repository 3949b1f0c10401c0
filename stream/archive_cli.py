"""The command `fraudstream archive`: past topics as Parquet files, and whether they are complete."""

import json
import signal
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.plainly import said_plainly, settings_of

if TYPE_CHECKING:
    from stream.archive import Archived
    from stream.archive_place import Place
    from stream.settings import Settings

__all__ = ["archive_app"]

archive_app = typer.Typer(
    no_args_is_help=True, help="Past topics as a data set of Parquet files, each record in it exactly once."
)

At = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|ADDRESS",
        help="Where the archive lies, such as s3://bucket/shop [default: archive in the setting home].",
    ),
]
Topic = Annotated[
    list[str] | None, typer.Option(metavar="TOPIC", help="Only this topic; may be given more than once.")
]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object a line.")]


def _place(settings: "Settings", at: str | None) -> "Place":
    from stream.archive_place import Place

    return Place(str(settings.home / "archive") if at is None else at)


def _topics(settings: "Settings", asked: list[str] | None, there: frozenset[str]) -> list[str]:
    """The topics that are meant, of those there are."""
    from stream.archive import archived_topics
    from stream.archive_place import ArchiveError

    ours = archived_topics(settings)
    if not asked:
        return [topic for topic in ours if topic in there]
    for topic in asked:
        if topic not in there:
            raise ArchiveError(f"there is no topic '{topic}'; see them: fraudstream topics describe")
    return [*sorted({*asked}.difference(ours)), *(topic for topic in ours if topic in asked)]


@archive_app.command("run")
@said_plainly
def archive_run(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    at: At = None,
    topic: Topic = None,
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on until stopped, or to the ends as of now.")
    ] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="With --follow, how often.")
    ] = 60.0,
    commit_records: Annotated[
        int, typer.Option(metavar="RECORDS", min=1, max=10_000_000, help="Records in one commit, about.")
    ] = 250_000,
    files_a_day: Annotated[
        int,
        typer.Option(
            metavar="FILES", min=1, max=10_000, help="Of one partition and country; more of today become one."
        ),
    ] = 16,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on without records that the topics have lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Archive what the topics have gained since the last run; killed, the next run goes on.

    Ctrl-C or SIGTERM ends it when what was read is archived.
    """
    from stream.archive import ArchivableTopics, Archive, Limits
    from stream.ports import NotStable, Unreachable

    settings = settings_of(asked)
    stopped = _Stopped()
    source = ArchivableTopics(settings)
    try:
        _topics(settings, topic, source.topics())  # refused before a folder is made
        with Archive(
            _place(settings, at), Limits(records=commit_records, files_a_day=files_a_day)
        ) as archive:
            while True:
                try:
                    topics = _topics(settings, topic, source.topics())  # some may have been made meanwhile
                    done = archive.append(
                        source, topics, accept_gap=accept_gap, stopping=stopped, told=_Progress()
                    )
                except (Unreachable, NotStable) as error:
                    if not follow:
                        raise
                    typer.echo(f"fraudstream: {error}; asking again", err=True)
                else:
                    done.compacted = archive.compact(stopping=stopped)
                    if done.records or done.compacted or not follow:
                        _sum_up(done, archive.place, as_json=as_json)
                if not follow or stopped.wait(every):
                    return
    finally:
        source.close()


class _Stopped:
    """Whether somebody asked to end it: once politely, a second time at once."""

    def __init__(self) -> None:
        self._is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self._is_asked = True
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._is_asked

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until asked to end."""
        until = time.monotonic() + seconds
        while not self._is_asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self._is_asked


class _Progress:
    """A line on stderr, every few seconds."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, done: "Archived") -> None:
        now = time.monotonic()
        if now < self._told_at + 2:
            return
        self._told_at = now
        rate = done.records / max(done.seconds, 1e-9)
        left = max(0, done.expected - done.records) / max(rate, 1e-9)
        typer.echo(
            f"fraudstream: archived {done.records:,} of about {done.expected:,} records, {rate:,.0f}/s, "
            f"about {left:,.0f} s left",
            err=True,
        )


def _sum_up(done: "Archived", place: "Place", *, as_json: bool) -> None:
    if as_json:
        shown = {
            "archive": str(place),
            "records": done.records,
            "by_topic": done.by_topic,
            "files": done.files,
            "bytes": done.bytes,
            "compacted": done.compacted,
            "seconds": round(done.seconds, 3),
            "stopped": done.was_stopped,
            "recovered": done.recovered,
        }
        typer.echo(json.dumps(shown))
        sys.stdout.flush()
        return
    before = f"{done.recovered}; " if done.recovered else ""
    stopped = ", stopped before the end: run it again" if done.was_stopped else ""
    if not done.records:
        typer.echo(f"{before}nothing new to archive in {place}{stopped}")
        return
    rate = done.records / max(done.seconds, 1e-9)
    typer.echo(
        f"{before}archived {done.records:,} records in {done.seconds:.1f} s ({rate:,.0f}/s) in "
        f"{done.files:,} files of {done.bytes:,} bytes to {place}{stopped}"
    )


@archive_app.command("verify")
@said_plainly
def archive_verify(
    asked: typer.Context,
    at: At = None,
    against_topics: Annotated[
        bool, typer.Option("--against-topics", help="Compare each record with what the topics still have.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove that the archive is whole and has every record once; exit code 1 with each difference on a line.

    Against topics: that they are the ones that were archived, and how many records are not archived yet.
    """
    from stream.archive import ArchivableTopics, archived_topics
    from stream.archive_verify import verify

    settings = settings_of(asked)
    place = _place(settings, at)
    source = ArchivableTopics(settings) if against_topics else None
    try:
        found = verify(place, source, archived_topics(settings))
    finally:
        if source is not None:
            source.close()
    if as_json:
        typer.echo(json.dumps({"archive": str(place), **found.as_json()}))
    else:
        for difference in found.differences:
            typer.echo(difference)
        for note in found.notes:
            typer.echo(f"fraudstream: {note}", err=True)
        typer.echo(found.shown(str(place)))
    if found.differences:
        raise typer.Exit(1)


@archive_app.command("status")
@said_plainly
def archive_status(
    asked: typer.Context,
    at: At = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Don't ask the topics how far they are ahead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what the archive holds of each topic, and how far it is behind."""
    from stream.archive import ArchivableTopics
    from stream.archive_verify import holdings

    settings = settings_of(asked)
    place = _place(settings, at)
    source = None if offline else ArchivableTopics(settings)
    try:
        held = holdings(place, source)
    finally:
        if source is not None:
            source.close()
    for each in held:
        if as_json:
            typer.echo(json.dumps(each.as_json()))
        else:
            typer.echo(each.shown())


# ---------------------------------------------------------------------- what comes in, and what goes


@archive_app.command("import")
@said_plainly
def archive_import(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet, also in gzip or zip.")
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--map", metavar="TOML", help="What its columns mean; without it they are our contract's."
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="orders|events|outcomes", help="What JSON of our contract holds.")
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Bring a database extract in without Kafka, all of it or nothing; 1 when a row was refused.

    Rows are mapped and refused as by 'fraudstream publish'; a file that was imported is not imported twice.
    """
    if kind not in {None, "orders", "events", "outcomes"}:
        raise typer.BadParameter(f"'{kind}' is none of orders, events, outcomes", param_hint="--kind")
    from stream.archive import Archive
    from stream.archive_import import import_file
    from stream.publish_cli import Asked, opened_plan

    settings = settings_of(asked)
    stopped = _Stopped()
    told = 0

    def refused(row: object) -> None:
        nonlocal told
        told += 1
        if told <= _TOLD:
            typer.echo(f"fraudstream: refused {row}", err=True)

    wanted = Asked(file, mapping=mapping, kind=kind, history=True)  # type: ignore[arg-type]
    with opened_plan(settings, wanted) as (source, plan), Archive(_place(settings, at)) as archive:
        done = import_file(archive, settings, source, plan, refused=refused, stopping=stopped)
        if not done.is_repeat:
            archive.compact(stopping=stopped)
    if as_json:
        shown = {
            "id": done.id,
            "topic": done.topic,
            "records": done.records,
            "refused": done.refused,
            "left_out": done.left_out,
            "already_imported": done.is_repeat,
            "stopped": done.was_stopped,
        }
        typer.echo(json.dumps(shown))
    elif done.was_stopped:
        typer.echo("stopped: nothing of the file is in the archive; import it again")
    else:
        said = "was imported before" if done.is_repeat else "imported"
        typer.echo(
            f"{said}: {done.records:,} records of '{done.topic}' as {done.id}; refused {done.refused:,} rows "
            f"and left out {done.left_out:,}"
        )
    if done.refused or done.was_stopped:
        raise typer.Exit(1)


_TOLD = 20
"""Refusals that are told one by one; 'fraudstream publish --dry-run' tells them all."""


@archive_app.command("forget")
@said_plainly
def archive_forget(
    asked: typer.Context,
    topic: Annotated[str, typer.Option(metavar="TOPIC", help="Of this topic.")],
    before: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="The first day, in UTC, that is kept.")],
    at: At = None,
    as_json: Json = False,
) -> None:
    """Delete the days of a topic before one: retention."""
    from stream.archive import Archive, opened

    try:
        day = date.fromisoformat(before)
    except ValueError:
        raise typer.BadParameter(f"'{before}' is no day; write 2026-01-31", param_hint="--before") from None
    settings = settings_of(asked)
    place = _place(settings, at)
    opened(place)
    with Archive(place) as archive:
        count = archive.forget(topic, day)
    if as_json:
        typer.echo(json.dumps({"topic": topic, "before": before, "records": count}))
    else:
        typer.echo(f"forgot {count:,} records of '{topic}' before {before}")


@archive_app.command("erase")
@said_plainly
def archive_erase(
    asked: typer.Context,
    customers: Annotated[Path, typer.Option(metavar="FILE", help="Their customer ids, one a line.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="Kept in the manifest.")],
    at: At = None,
    as_json: Json = False,
) -> None:
    """Leave nothing of some customers' records but where they stood; what comes later of them is erased too.

    A guest is erased by the order's id.
    """
    from stream.archive import Archive, opened
    from stream.archive_place import ArchiveError

    try:
        # with or without the mark that some editors put first: it would be part of the first id
        lines = customers.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{customers} is not UTF-8; save it as UTF-8, one customer id a line") from error
    named = sorted({line.strip() for line in lines} - {""})
    if not named:
        raise ArchiveError(f"{customers} names nobody; write one customer id a line")
    settings = settings_of(asked)
    place = _place(settings, at)
    opened(place)  # nobody is erased of an archive that is not there
    with Archive(place) as archive:
        count = archive.erase(named, why)
    if as_json:
        typer.echo(json.dumps({"customers": len(named), "records": count}))
    else:
        typer.echo(f"erased {count:,} records of {len(named):,} customers; the topics may still have them")
