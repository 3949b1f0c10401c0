"""What the command `publish` shows: a dry run, how far it is, each refusal, and the sums."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, Protocol, Self, TextIO

import typer

from features.mapping import Kind
from stream.guess import guessing_source, proposed
from stream.mapping import load_mapping
from stream.publish import (
    Left,
    Plan,
    Published,
    PublishError,
    Ready,
    RefusedLine,
    planned,
    publish_file,
    ready_rows,
)
from stream.settings import Settings
from stream.sources import Source

__all__ = ["Asked", "dry_run", "guess", "opened_plan", "run_publish"]

_FIRST: Final = 5
"""How many rows a dry run shows as they would be sent."""
_TOLD: Final = 20
"""How many refusals are told one by one while sending; --rejects keeps them all."""
_WORDS: Final = {"orders": "orders", "events": "order events", "outcomes": "outcomes"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was asked."""

    file: str
    mapping: Path | None = None
    kind: Kind | None = None
    rate: float | None = None
    history: bool = False
    limit: int | None = None
    from_start: bool = False
    rejects: Path | None = None
    as_json: bool = False


class Rejects:
    """A file of refused rows, one JSON object a line: row, code, field, column, reason and the whole row."""

    def __init__(self, file: Path, *, after: int) -> None:
        """Of an earlier run's refusals those of the first `after` rows stay; the others come again."""
        self._file = file
        try:
            kept = self._of_earlier_rows(after) if after else []
            # by the line: a refusal is on the disk's way before its row is committed as done
            self._out: TextIO = file.open("w", encoding="utf-8", buffering=1)
            self._out.writelines(kept)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> PublishError:
        return PublishError(
            f"can't write {self._file}: {error.strerror}; name another file for the refused rows"
        )

    def _of_earlier_rows(self, after: int) -> list[str]:
        if not self._file.exists():
            return []
        kept = []
        for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                if line.endswith("\n") and int(json.loads(line)["row"]) <= after:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by the kill; its row comes again
        return kept

    def write(self, refused: RefusedLine) -> None:
        """Keep one."""
        try:
            self._out.write(json.dumps(_as_json(refused), default=str) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._out.close()
        except OSError as error:
            if kind is None:  # else it was said before
                raise self._unwritable(error) from error


def run_publish(settings: Settings, asked: Asked) -> int:
    """Send the rows, tell what became of them, and return the exit code: 1 when any was refused."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does
    try:
        return _published(settings, asked)
    except KeyboardInterrupt:
        raise PublishError(f"stopped while sending {asked.file}; what was sent may have arrived") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _published(settings: Settings, asked: Asked) -> int:
    with opened_plan(settings, asked) as (source, plan), ExitStack() as closing:
        rejects: Rejects | None = None
        told = 0
        view = closing.enter_context(_view(source, _WORDS[plan.kind]))
        if not source.is_continuable:
            view.say("a pipe can't be continued: killed, it has to be sent again from its start")

        def went_on(after: int) -> None:
            nonlocal rejects
            if asked.rejects is not None:
                rejects = closing.enter_context(Rejects(_not_read(asked.rejects, asked, plan), after=after))

        def refused(row: RefusedLine) -> None:
            nonlocal told
            told += 1
            if told <= _TOLD:
                view.say(f"refused {row}")
            elif told == _TOLD + 1:
                view.say("refused more; --rejects FILE keeps every refused row, --dry-run tells them all")
            if rejects is not None:
                rejects.write(row)

        published = publish_file(
            settings, source, plan, from_start=asked.from_start, refused=refused, went_on=went_on,
            progress=view.show,
        )  # fmt: skip
    _sum_up(published, plan, asked)
    return 1 if published.refused or published.before["refused"] else 0


def dry_run(settings: Settings, asked: Asked) -> int:
    """Show the first rows as they would be sent and every refusal; nothing is sent, no broker is asked."""
    published = Published()
    first: list[Ready] = []
    with opened_plan(settings, asked) as (source, plan), ExitStack() as closing:
        topic = plan.topic(settings)
        rejects: Rejects | None = None
        if asked.rejects is not None:
            rejects = closing.enter_context(Rejects(_not_read(asked.rejects, asked, plan), after=0))
        for each in ready_rows(source, plan):
            if isinstance(each, Ready):
                published.sent += 1
                if len(first) < _FIRST:
                    first.append(each)
                    _show(each, topic, as_json=asked.as_json)
            elif isinstance(each, Left):
                published.left_out += 1
            else:
                published.refused += 1
                published.causes[each.code] += 1
                if rejects is not None:
                    rejects.write(each)
                if asked.as_json:
                    typer.echo(json.dumps({"refused": _as_json(each, whole=False)}))
                else:
                    typer.echo(f"refused {each}")
    if asked.as_json:
        typer.echo(json.dumps({"dry_run": True, "topic": topic, **_counts(published)}))
    else:
        words = _WORDS[plan.kind]
        typer.echo(
            f"a dry run, nothing was sent: of {published.rows:,} rows {published.sent:,} would be {words} in "
            f"'{topic}'{_and_refused(published)}"
        )
    return 1 if published.refused else 0


def guess(asked: Asked) -> None:
    """Print a mapping that fits the file, with the reasons for it as comments."""
    with guessing_source(asked.file) as source:
        typer.echo(proposed(source, kind=asked.kind or "orders"), nl=False)


def _not_read(rejects: Path, asked: Asked, plan: Plan) -> Path:
    """The file for the refused rows, refused itself where writing it would wipe what we read."""
    wiped = f"--rejects {rejects} is a file we read and would be overwritten; name another"
    for read in (asked.file, asked.mapping, plan.other_file):
        try:
            # stdin too: a shell may have opened the very file
            being_read = os.fstat(0) if read == "-" else None if read is None else Path(read).stat()
            written = rejects.stat()
        except OSError:
            continue  # what is not there is not wiped
        if being_read is not None and rejects.is_file() and os.path.samestat(being_read, written):
            raise PublishError(wiped)
    return rejects


@contextmanager
def opened_plan(settings: Settings, asked: Asked) -> Iterator[tuple[Source, Plan]]:
    """The file and what becomes of it; a mapping is read once, because it may come from a pipe."""
    mapping = None if asked.mapping is None else load_mapping(asked.mapping)
    if mapping is not None and asked.kind not in {None, mapping.kind}:
        raise PublishError(
            f"{asked.mapping} is a mapping of {mapping.kind} and --kind says {asked.kind}; leave --kind out"
        )
    with Source(asked.file, None if mapping is None else mapping.source) as source:
        yield (
            source,
            planned(
                settings,
                source,
                mapping,
                said=str(asked.mapping),
                beside=Path() if asked.mapping is None else asked.mapping.parent,
                kind=asked.kind or "orders",
                history=asked.history,
                rate=asked.rate,
                limit=asked.limit,
            ),
        )


def _show(ready: Ready, topic: str, *, as_json: bool) -> None:
    value = json.loads(ready.value)
    if as_json:
        typer.echo(json.dumps({"row": ready.row, "topic": topic, "key": ready.key, "value": value}))
        return
    from rich.console import Console  # noqa: PLC0415 (only a person's dry run needs it)
    from rich.json import JSON  # noqa: PLC0415

    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
    console.print(f"row {ready.row:,} to '{topic}' under key {ready.key!r}")
    console.print(JSON.from_data(value, indent=2))


def _as_json(refused: RefusedLine, *, whole: bool = True) -> dict[str, Any]:
    shown = {
        "row": refused.line,
        "code": refused.code,
        "field": refused.field,
        "column": refused.column,
        "reason": refused.reason,
    }
    return shown | {"raw": _as_words(refused.raw)} if whole else shown


def _as_words(value: Any) -> Any:
    """A row as it was read, with words for the numbers that JSON has none for."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _as_words(inner) for name, inner in value.items()}
    return [_as_words(inner) for inner in value] if isinstance(value, list) else value


def _counts(published: Published) -> dict[str, Any]:
    return {
        "rows": published.rows,
        "sent": published.sent,
        "refused": published.refused,
        "left_out": published.left_out,
        "refused_by_cause": dict(published.causes.most_common()),
    }


def _sum_up(published: Published, plan: Plan, asked: Asked) -> None:
    before = published.before
    if asked.as_json:
        earlier = {name: before[name] for name in ("rows", "sent", "refused", "left_out")}
        shown = {**_counts(published), "before": earlier, "seconds": round(published.seconds, 3)}
        typer.echo(json.dumps(shown | {"already_published": published.is_repeat}))
        return
    words = _WORDS[plan.kind]
    if published.is_repeat:
        typer.echo(
            f"already published: {before['sent']:,} {words} of {before['rows']:,} rows"
            f"{_and_refused(before)}; nothing to do (--from-start sends them again)"
        )
        return
    speed = published.sent / max(published.seconds, 1e-9)
    went_on = f", going on after row {before['rows']:,}" if before["rows"] else ""
    typer.echo(
        f"published {published.sent:,} {words} in {published.seconds:.1f} s ({speed:,.0f}/s){went_on}"
        f"{_and_refused(published)}"
    )


def _and_refused(of: Published | Counter[str]) -> str:
    refused, left_out = (
        (of.refused, of.left_out) if isinstance(of, Published) else (of["refused"], of["left_out"])
    )
    said = f"; left out {left_out:,} rows" if left_out else ""
    if not refused:
        return said
    causes = ""
    if isinstance(of, Published) and of.causes:
        causes = f" ({', '.join(f'{code} {count:,}' for code, count in of.causes.most_common())})"
    return f"{said}; refused {refused:,} rows{causes}"


class _View(Protocol):
    def say(self, line: str) -> None:
        """One line for the person at the terminal."""

    def show(self, published: Published) -> None:
        """How far it is."""


def _view(source: Source, words: str) -> AbstractContextManager[_View]:
    return _Bar(source, words) if sys.stderr.isatty() else nullcontext(_Quiet())


class _Quiet:
    """For logs and pipes: refusals, and no bar."""

    def say(self, line: str) -> None:
        typer.echo(f"fraudstream: {line}", err=True)

    def show(self, published: Published) -> None:
        pass


class _Bar:
    """For a terminal: how much, how fast, and how long it will take."""

    def __init__(self, source: Source, words: str) -> None:
        from rich.console import Console  # noqa: PLC0415 (only a terminal needs it)
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._source = source
        self._console = Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._words = words
        self._task = self._bar.add_task(f"publishing {words}", total=None if source.share is None else 1.0)
        self._rates: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 (passed on as they come)
        self._bar.__exit__(*error)

    def say(self, line: str) -> None:
        self._bar.console.print(f"fraudstream: {line}")

    def show(self, published: Published) -> None:
        now = time.monotonic()
        self._rates = [*self._rates[-30:], (now, published.sent)]
        (since, sent), *_ = self._rates
        rate = (published.sent - sent) / max(now - since, 1e-9)
        self._bar.update(
            self._task,
            completed=self._source.share or 0.0,
            description=f"{published.sent:,} {self._words}, {rate:,.0f}/s",
        )
