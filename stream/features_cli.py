"""The command `fraudstream features`: what the scorer knows of an order, for people, pages and machines."""

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.plainly import settings_of

if TYPE_CHECKING:
    from features.define import Feature

__all__ = ["features_app", "listed", "markdown"]

features_app = typer.Typer()

_MARKS = str.maketrans({"|": r"\|", "<": "&lt;"})


def _groups(incomplete: str) -> list[str]:
    from features.catalogue import GROUPS

    return [name for name in (*GROUPS, "own") if name.startswith(incomplete)]


def _known_groups(asked: typer.Context) -> Mapping[str, "tuple[Feature, ...]"]:
    """The catalogue's groups, and a shop's own."""
    from stream.errors import Refusal
    from stream.own_features import catalogue_of

    try:
        return catalogue_of(settings_of(asked)).groups
    except Refusal as error:
        typer.echo(f"fraudstream: {error}", err=True)
        raise typer.Exit(1) from None


@features_app.callback(invoke_without_command=True)
def features(
    asked: typer.Context,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, for a page.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a feature.")] = False,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Only this group.", autocompletion=_groups)
    ] = None,
) -> None:
    """List every feature: what it means, its unit, its range and what a missing value means.

    A shop's own, which the setting 'features' names, are the group 'own'.

    A feature that is not yet served is of an entity whose history no worker keeps so far: a model that
    asks for it is refused.
    """
    if asked.invoked_subcommand is not None:
        return
    from features.errors import did_you_mean

    groups = _known_groups(asked)
    if group is not None and group not in groups:
        raise typer.BadParameter(
            f"there is no group {group!r}{did_you_mean(group, groups)}", param_hint="--group"
        )
    if as_markdown and as_json:
        raise typer.BadParameter("--markdown or --json, not both")
    chosen = groups if group is None else {group: groups[group]}
    if as_json:
        for each in listed(chosen):
            typer.echo(json.dumps(each))
    elif as_markdown:
        typer.echo("\n".join(markdown(chosen)))
    else:
        _show(chosen)


def listed(groups: Mapping[str, "tuple[Feature, ...]"]) -> Iterator[dict[str, Any]]:
    """Each feature of the groups as a machine reads it."""
    from features.catalogue import is_served
    from models.reasons import code_of

    for group, features_of_it in groups.items():
        for each in features_of_it:
            told: dict[str, Any] = {
                "group": group,
                "name": each.name,
                "doc": each.doc,
                "unit": each.unit,
                "between": _bounds(each),
                "missing": each.missing,
                "entity": each.entity,
                "served": is_served(each),
                "reason": code_of(each.name),
            }
            yield told if each.categories is None else told | {"categories": each.categories}


def markdown(groups: Mapping[str, "tuple[Feature, ...]"]) -> list[str]:
    """The lines of a Markdown table for each group."""
    lines: list[str] = []
    for group, features_of_it in groups.items():
        rows = [_cells(each) for each in features_of_it]
        lines += [
            f"## {group}",
            "",
            "| feature | what it means | unit | range | missing when | of | served |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {' | '.join((f'`{name}`', *(cell.translate(_MARKS) for cell in rest)))} |"
            for name, *rest in rows
        ]
        lines.append("")
    return lines[:-1]


def _cells(feature: "Feature") -> tuple[str, str, str, str, str, str, str]:
    from features.catalogue import is_served

    doc = feature.doc
    if feature.categories is not None:
        doc += f" {', '.join(f'{number} {text}' for number, text in enumerate(feature.categories))}."
    return (
        feature.name,
        doc,
        feature.unit,
        _range(feature),
        feature.missing,
        "order" if feature.entity is None else feature.entity,
        "yes" if is_served(feature) else f"with {feature.entity}",
    )


def _bounds(feature: "Feature") -> tuple[float | None, float | None]:
    """The smallest and the largest value, None where there is no bound: JSON has no infinity."""
    low, high = feature.between
    return (low if isfinite(low) else None), (high if high is not None and isfinite(high) else None)


def _range(feature: "Feature") -> str:
    low, high = _bounds(feature)
    if low is None:
        return "any number" if high is None else f"{high:,} or less"
    return f"{low:,} or more" if high is None else f"{low:,} to {high:,}"


def _show(groups: Mapping[str, "tuple[Feature, ...]"]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    for group, features_of_it in groups.items():
        table = Table("feature", "what it means", title=group, title_justify="left", box=box.SIMPLE_HEAD)
        table.columns[0].overflow = "fold"
        for each in features_of_it:
            name, doc, unit, between, missing, of, served = _cells(each)
            facts = f"{unit}, {between}; missing: {missing}"
            if served != "yes":
                facts += f"; of the {of}, {served} served"
            table.add_row(Text(name, "bold"), Text.assemble(f"{doc}\n", (facts, "dim")))
        console.print(table)
