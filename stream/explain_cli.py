"""The command `fraudstream features explain`: which features are meant, progress, and how they are told."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import NamedTuple

import typer

from features.define import Feature
from features.errors import did_you_mean
from features.events import LARGEST_RECORD
from models.registry import named
from stream.explain import ExplainError, explain_given, explain_order, is_explained, said
from stream.own_features import catalogue_of
from stream.registry import registry_of
from stream.settings import Settings

__all__ = ["Asked", "progress", "run_explain"]


class Asked(NamedTuple):
    """What was asked on the command line."""

    order_id: str | None
    given: Path | None
    """A file with the order, when it is not named."""
    names: Sequence[str]
    group: str | None
    since: datetime | None
    most: int
    as_json: bool


def run_explain(settings: Settings, asked: Asked) -> None:
    """Explain the order and print it. Raises a Refusal, ModelError or FeatureDefinitionError."""
    features, left_out = _features(settings, asked)
    value = None if asked.given is None else _bytes_of(asked.given)
    with progress() as told:
        if value is None:
            explanation = explain_order(
                settings, asked.order_id or "", features, since=asked.since, most=asked.most, told=told
            )
        else:
            explanation = explain_given(
                settings, value, features, since=asked.since, most=asked.most, told=told
            )
    if asked.as_json:
        not_explained = {"not_explained": [each.name for each in left_out]}
        typer.echo(json.dumps(explanation.as_json() | not_explained))
        for each in explanation.features:
            typer.echo(json.dumps(each.as_json()))
        return
    for line in said(explanation, asked.since):
        typer.echo(line)
    if left_out:
        typer.echo(
            f"{len(left_out)} not explained, as they ask what became of the customer's orders, or a history "
            f"that the setting entities does not name: {', '.join(each.name for each in left_out)}"
        )


def _features(settings: Settings, asked: Asked) -> tuple[Sequence[Feature], Sequence[Feature]]:
    """Those named, else those of the group or of the model in service; and those of them not explained."""
    catalogue = catalogue_of(settings)
    told = partial(is_explained, entities=settings.entities)
    if asked.names:
        return catalogue.by_names(dict.fromkeys(asked.names)), ()
    if asked.group is not None:
        if asked.group not in catalogue.groups:
            hint = did_you_mean(asked.group, catalogue.groups)
            raise typer.BadParameter(f"there is no group {asked.group!r}{hint}", param_hint="--group")
        meant = catalogue.groups[asked.group]
        if not any(map(told, meant)):
            raise ExplainError(
                f"nothing of group '{asked.group}' is explained so far: it asks what became of the "
                "customer's orders, or a history that the setting entities does not name; 'fraudstream "
                "features' lists the other groups"
            )
    else:
        meant = registry_of(settings, catalogue.by_name).load(*named(settings.model)).features
    return tuple(filter(told, meant)), tuple(filterfalse(told, meant))


def _bytes_of(file: Path) -> bytes:
    """The order in the file; more than an order may have is not read."""
    with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
        return source.read(LARGEST_RECORD + 1)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _read, _of: None
        return
    from rich.console import Console  # noqa: PLC0415 (only a terminal needs it)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(
        TextColumn("reading orders"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeRemainingColumn(),
        console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("reading", total=None)
        yield lambda read, of: bar.update(task, completed=read, total=of)
