"""The commands `fraudstream replay records`, `features` and `to-topic`; stream.cli registers them."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.plainly import settings_of

if TYPE_CHECKING:
    from features.define import Feature
    from stream.replay import Bounds, Job, Opened, Tally
    from stream.replay_files import Reading
    from stream.settings import Settings

__all__ = [
    "Archive",
    "Imports",
    "bounds_of",
    "chosen",
    "counts_of",
    "ends_plainly",
    "opened",
    "progress",
    "replay_features",
    "replay_into",
    "replay_records",
    "replay_to_topic",
    "tell_bad",
]

Archive = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE", help="Read an archive, a folder or s3 address, instead of the broker's topics."
    ),
]
Imports = Annotated[
    bool,
    typer.Option(
        "--imports/--no-imports",
        help="Of an archive also what was imported, before what was recorded; workers never saw it.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="What arrived then or later: 24h or 90d ago, or 2026-11-20T08:00Z (broker time)."
    ),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="What arrived before then, as --since.")]
Country = Annotated[
    list[str] | None, typer.Option(metavar="CODE", help="Only orders of this country; may be repeated.")
]
Customer = Annotated[
    list[str] | None, typer.Option(metavar="ID", help="Only those of this customer; may be repeated.")
]
Offsets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="P:FROM-TO",
        help="Only these offsets, both included, such as 0:100-200 or 0:100-; may be repeated.",
    ),
]
Partition = Annotated[
    list[int] | None,
    typer.Option(metavar="NUMBER", min=0, help="Only this partition; may be repeated."),
]
Processes = Annotated[
    int,
    typer.Option(metavar="NUMBER", min=1, max=64, help="So many at once, each with partitions of its own."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")]
To = Annotated[
    str,
    typer.Option(
        "--to", metavar="FILE", help="A .jsonl or .parquet file, whole or not at all; - for JSON to stdout."
    ),
]


def replay_records(
    asked: typer.Context,
    *,
    to: To = "-",
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC", help="A topic; may be repeated; without it, the orders.", show_default=False
        ),
    ] = None,
    archive: Archive = None,
    imports: Imports = True,
    since: Since = None,
    until: Until = None,
    country: Country = None,
    customer: Customer = None,
    offsets: Offsets = None,
    partition: Partition = None,
    processes: Processes = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the records of topics as they are, in the order in which they were recorded.

    Partition by partition; in each, records of several topics by arrival, outcomes before orders of the same
    millisecond. Changes nothing. This prints customers' data.
    """
    from stream.replay import Records

    settings = settings_of(asked)
    bounds = bounds_of((since, until), country, customer, offsets, partition)
    job = Records(settings, tuple(topic or (settings.topics.orders,)), bounds)
    source = opened(settings, archive, imports=imports)
    replay_into(job, source, to, processes, quiet=quiet, as_json=as_json, what="records")


def replay_features(
    asked: typer.Context,
    *,
    to: To,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="starter, served, a group, a feature, or several with commas; without it, served.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="The features of this model.")
    ] = None,
    archive: Archive = None,
    imports: Imports = True,
    since: Since = None,
    until: Until = None,
    country: Country = None,
    customer: Customer = None,
    offsets: Offsets = None,
    partition: Partition = None,
    processes: Processes = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write every order with its features as of its arrival, by the worker's own code.

    The bounds say which orders come out; those before them are read all the same, so that histories are
    whole. Outcomes and order events are merged where a feature asks for them. Features by another entity
    than the customer need all partitions at once, in one process. Changes nothing.
    """
    from stream.replay import Features

    if features is not None and model is not None:
        raise typer.BadParameter("--features or --model, not both")
    settings = settings_of(asked)
    bounds = bounds_of((since, until), country, customer, offsets, partition)
    job = Features(settings, partial(chosen, settings, features or "served", model), bounds)
    source = opened(settings, archive, imports=imports)
    replay_into(job, source, to, processes, quiet=quiet, as_json=as_json, what="orders")


def replay_to_topic(
    asked: typer.Context,
    target: Annotated[str, typer.Argument(metavar="NAME", help="The topic to write to.")],
    *,
    topic: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="The topic to read; without it, the orders.", show_default=False),
    ] = None,
    archive: Archive = None,
    since: Since = None,
    until: Until = None,
    country: Country = None,
    customer: Customer = None,
    offsets: Offsets = None,
    partition: Partition = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the topic, if it is missing, with as many partitions.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send again what earlier runs have sent.")
    ] = False,
    into_live: Annotated[
        bool, typer.Option("--into-live-topic", help="Even into a topic that workers read; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Send the records of a topic again to another topic, each exactly once.

    Key, value, partition and headers stay; 'replayed_from' says where a record was and 'arrived_at' when it
    arrived there. After a kill the same command goes on behind the last record that arrived. A topic that
    workers read is refused without --into-live-topic.
    """
    from stream.replay_to_topic import check_target, send_again

    settings = settings_of(asked)
    bounds = bounds_of((since, until), country, customer, offsets, partition)
    source = settings.topics.orders if topic is None else topic
    check_target(settings, source, target, into_live=into_live)
    if into_live and not yes:
        from stream.replay import ReplayError

        if not sys.stdin.isatty():
            raise ReplayError(f"say --yes to send into '{target}', which workers read as it comes")
        typer.confirm(f"workers read '{target}' on {settings.broker}; send into it?", abort=True)
    with ends_plainly(), progress(quiet=quiet) as told:
        done = send_again(
            settings, opened(settings, archive), target, topic=source, bounds=bounds, into_live=into_live,
            create=create, from_start=from_start, told=told,
        )  # fmt: skip
    tally = done.tally
    if as_json:
        after = {str(each): offset for each, offset in sorted(done.went_on_after.items())}
        typer.echo(json.dumps({"sent": tally.out, **counts_of(tally), "went_on_after": after}))
        return
    before = f"; {done.passed_over:,} offsets were passed over, sent before" if done.passed_over else ""
    typer.echo(f"sent {tally.out:,} of {tally.read:,} records of '{source}' to '{target}'{before}")
    tell_bad(tally)


def opened(settings: "Settings", archive: str | None, *, imports: bool = False) -> "Opened":
    """What opens the recorded past, in this process or another; with `imports` those of the archive too."""
    from stream.recorded import recorded_of

    return partial(recorded_of, settings, archive, imports=imports)


def chosen(settings: "Settings", names: str, model: str | None) -> "Sequence[Feature]":
    """The features that were asked for, in whichever process."""
    from stream.own_features import catalogue_of

    catalogue = catalogue_of(settings)
    if model is None:
        return catalogue.chosen(names)
    from models.registry import named
    from stream.registry import registry_of

    return registry_of(settings, catalogue.by_name).load(*named(model)).features


def bounds_of(
    between: tuple[str | None, str | None],
    country: Sequence[str] | None = None,
    customer: Sequence[str] | None = None,
    offsets: Sequence[str] | None = None,
    partition: Sequence[int] | None = None,
) -> "Bounds":
    """The bounds that the options mean; usage errors for what nobody can mean."""
    from datetime import UTC, datetime

    from stream.deadletters import DeadLetterError
    from stream.deadletters import since as instant
    from stream.replay import Bounds

    now = datetime.now(UTC)
    times = []
    for name, text in zip(("--since", "--until"), between, strict=True):
        try:
            times.append(None if text is None else instant(text, now))
        except DeadLetterError as error:
            raise typer.BadParameter(str(error), param_hint=name) from None
    if times[0] is not None and times[1] is not None and times[0] >= times[1]:
        raise typer.BadParameter("nothing lies between --since and --until", param_hint="--until")
    for code in country or ():
        if not re.fullmatch(r"[A-Z]{2}", code):
            raise typer.BadParameter(f"'{code}' is no country; write DE", param_hint="--country")
    ranges: dict[int, list[tuple[int, int | None]]] = {}
    for text in offsets or ():
        found = re.fullmatch(r"(\d{1,9}):(\d{1,18})(?:(-)(\d{1,18})?)?", text)
        if found is None:
            raise typer.BadParameter(f"'{text}' is none; write 0:100-200", param_hint="--offsets")
        first = int(found[2])
        last = int(found[4]) if found[4] else (None if found[3] else first)
        if last is not None and last < first:
            raise typer.BadParameter(f"'{text}' ends before it begins", param_hint="--offsets")
        ranges.setdefault(int(found[1]), []).append((first, last))
    return Bounds(
        times[0],
        times[1],
        frozenset(country or ()),
        frozenset(customer or ()),
        ranges,
        frozenset(partition or ()),
    )


def replay_into(
    job: "Job",
    source: "Opened",
    to: str,
    processes: int,
    *,
    quiet: bool,
    as_json: bool,
    what: str,
) -> "Tally":
    """Replay a job into a file, or stdout for -, and say what became of the records."""
    import time

    from stream.replay_files import format_of, replay_to

    piped = to == "-"
    if not piped:
        format_of(Path(to))
    began = time.monotonic()
    with ends_plainly(), progress(quiet=quiet) as told:
        tally = replay_to(
            job,
            source,
            sys.stdout.buffer if piped else Path(to),
            processes=processes,
            told=told,
        )
    seconds = time.monotonic() - began
    if as_json:
        summary = {what: tally.out, **counts_of(tally), "seconds": round(seconds, 3)}
        typer.echo(json.dumps(summary), err=piped)
        return tally
    rate = tally.read / max(seconds, 1e-9)
    left = f"; left out {sum(tally.left_out.values()):,} ({listed(tally.left_out)})" if tally.left_out else ""
    waiting = f"; {tally.waiting:,} outcomes and events of orders that were not seen" if tally.waiting else ""
    where = "stdout" if piped else to
    typer.echo(
        f"{tally.out:,} {what} to {where}, from {tally.read:,} records of {tally.partitions:,} partitions in "
        f"{seconds:.1f} s ({rate:,.0f}/s){left}{waiting}",
        err=piped,
    )
    tell_bad(tally)
    return tally


def counts_of(tally: "Tally") -> dict[str, Any]:
    """For machines: what became of the records."""
    return {
        "read": tally.read,
        "partitions": tally.partitions,
        "bad": dict(tally.bad.most_common()),
        "bad_records": [
            {"place": str(each.place), "code": each.code, "detail": each.detail} for each in tally.bad_records
        ],
        "left_out": dict(tally.left_out.most_common()),
        "waiting": tally.waiting,
        "lost": tally.lost,
    }


def listed(counts: Any) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def tell_bad(tally: "Tally") -> None:
    """What could not be read, or is not there, with its place, on stderr: it did not stop the others."""
    for told in tally.lost:
        typer.echo(f"fraudstream: {told}", err=True)
    if not tally.bad:
        return
    for each in tally.bad_records:
        typer.echo(f"fraudstream: {each}", err=True)
    typer.echo(f"fraudstream: {sum(tally.bad.values()):,} bad records ({listed(tally.bad)})", err=True)


@contextmanager
def ends_plainly() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does, and either leaves nothing half done."""
    from stream.replay import ReplayError

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise ReplayError("stopped; no file was changed, and what went to a topic is whole") from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[["Reading"], None]]:
    """One line on a terminal's stderr, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True, highlight=False), refresh_per_second=1, transient=True) as line:
        yield lambda reading: line.update(_said(reading))


def _said(reading: "Reading") -> str:
    rate = reading.read / max(reading.seconds, 1e-9)
    left = (reading.of - reading.read) / rate if rate else 0.0
    return (
        f"read {reading.read:,} of {reading.of:,} records, {rate:,.0f}/s, "
        f"{int(left // 60)}:{int(left % 60):02} left"
    )
