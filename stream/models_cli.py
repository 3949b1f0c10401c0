"""The command `fraudstream models`: what is published, what it is, whether it is sound, how it travels."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.plainly import plain, said_plainly, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from models.policy import Policy
    from models.registry import Entry, Registry
    from models.shelf import Content
    from stream.settings import Settings

__all__ = ["Json", "models_app", "policy_of"]

models_app = typer.Typer(no_args_is_help=True, help="The published models, whole and checked or refused.")

Named = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME@VERSION, or NAME for its champion.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object a line.")]


def _registry(settings: "Settings") -> "Registry":
    """The registry, with the features that the settings name: enough to load a model."""
    from stream.registry import registry_with_features

    return registry_with_features(settings)


def _entry(registry: "Registry", model: str) -> "Entry":
    """The version that is meant, its manifest read."""
    from models.errors import RegistryError
    from models.registry import named

    name, version = named(model)
    if version is None:
        version = registry.champion(name)
    if version is None:
        there = [entry.said for entry in registry.entries([name])]
        known = f"name one of {', '.join(there)}" if there else "see what is there: fraudstream models list"
        raise RegistryError(f"model '{name}' has no champion; {known}")
    entry = registry.entry(name, version)
    if entry.manifest is None:
        raise RegistryError(plain(entry.wrong))
    return entry


@models_app.command("list")
@said_plainly
def models_list(
    asked: typer.Context,
    name: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.")] = None,
    as_json: Json = False,
) -> None:
    """List what is published: champion (*), version, predictor, what it learned from, metrics, signature."""
    from stream.model_pages import as_json as told
    from stream.model_pages import line
    from stream.registry import registry_of

    registry = registry_of(settings_of(asked))
    entries = list(registry.entries(name or ()))
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(told(entry)))
        return
    rows = [line(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        typer.echo(f"nothing is published in {registry.address}", err=True)


@models_app.command("show")
@said_plainly
def models_show(asked: typer.Context, model: Named, as_json: Json = False) -> None:
    """Show everything that a model's manifest says; nothing is loaded."""
    from stream.model_pages import page
    from stream.registry import registry_of

    registry = registry_of(settings_of(asked))
    entry = _entry(registry, model)
    digest = registry.digest(entry.name, entry.version)
    if as_json and entry.manifest is not None:
        told = entry.manifest.model_dump(mode="json")
        shown = {"digest": digest, "champion": entry.is_champion, "signature": entry.signature}
        typer.echo(json.dumps(shown | {"manifest": told}))
        return
    for each in page(entry, digest):
        typer.echo(each)


@models_app.command("verify")
@said_plainly
def models_verify(
    asked: typer.Context,
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="NAME@VERSION or NAME; all when absent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that models are as they were published: every byte, signature, features, golden rows.

    Exit code 1 when one is not.
    """
    registry = _registry(settings_of(asked))
    any_bad = False
    for entry, wrong in _verified(registry, model):
        any_bad |= bool(wrong)
        if as_json:
            told = {"name": entry.name, "version": entry.version, "signature": entry.signature}
            typer.echo(json.dumps(told | {"sound": not wrong, "wrong": wrong}))
        elif wrong:
            typer.echo(f"BAD {entry.said}: {plain(wrong)}")
        else:
            from stream.model_pages import SIGNATURES

            typer.echo(f"ok  {entry.said}, {SIGNATURES[entry.signature]}")
    if not registry.is_signed:
        typer.echo(
            "fraudstream: no key is set, so whoever may write to the registry could have changed models and "
            "sums together; set FRAUDSTREAM_SIGNING_KEY_FILE",
            err=True,
        )
    if any_bad:
        raise typer.Exit(1)


def _verified(registry: "Registry", models: list[str] | None) -> "Iterator[tuple[Entry, str]]":
    """Each version that was asked for and what is wrong with it; empty where it is sound."""
    from models.errors import ModelError, RegistryError
    from models.registry import named

    wanted = [named(each) for each in models or ()]
    entries = list(registry.entries([name for name, _ in wanted]))
    for name, version in wanted:
        if not any(entry.name == name and version in {None, entry.version} for entry in entries):
            said = name if version is None else f"{name}@{version}"
            raise RegistryError(
                f"{said} is not published in {registry.address}; see: fraudstream models list"
            )
    strays = registry.strays()
    for entry in entries:
        if wanted and not {(entry.name, None), (entry.name, entry.version)} & set(wanted):
            continue
        try:
            registry.load(entry.name, entry.version)
        except ModelError as error:
            yield entry, str(error)
        else:
            beside = ", ".join(strays.get(entry.said, ()))
            yield entry, f"holds {beside}, which its manifest does not name; delete it" if beside else ""


@models_app.command("diff")
@said_plainly
def models_diff(
    asked: typer.Context,
    first: Annotated[str, typer.Argument(metavar="MODEL", help="NAME@VERSION, or NAME for its champion.")],
    second: Annotated[str, typer.Argument(metavar="MODEL", help="The one to hold against it.")],
    as_json: Json = False,
) -> None:
    """Show in what two models differ: features, what they learned from, settings, metrics, thresholds."""
    from stream.model_pages import differences
    from stream.registry import registry_of

    registry = registry_of(settings_of(asked))
    one, other = _entry(registry, first), _entry(registry, second)
    if one.manifest is None or other.manifest is None:
        return  # both were read
    found = list(differences(one.manifest, other.manifest))
    if as_json:
        for each in found:
            typer.echo(json.dumps(each._asdict()))
        return
    typer.echo(f"{one.said} -> {other.said}")
    for each in found:
        typer.echo(f"  {each}")
    if not found:
        typer.echo(
            "  nothing but the name and the numbers that were learned" if one != other else "  the same"
        )


@models_app.command("card")
@said_plainly
def models_card(
    asked: typer.Context,
    model: Named,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print a model card in Markdown: what it is for, what it learned from, how good it is, its limits."""
    from stream.model_pages import card
    from stream.registry import registry_of

    registry = registry_of(settings_of(asked))
    entry = _entry(registry, model)
    text = "\n".join(card(entry, registry.digest(entry.name, entry.version)))
    if to is None:
        typer.echo(text)
    else:
        to.write_text(f"{text}\n", encoding="utf-8")
        typer.echo(f"wrote {to}")


# ---------------------------------------------------------------------- from one registry to another


@models_app.command("export")
@said_plainly
def models_export(
    asked: typer.Context,
    model: Named,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle to write, such as starter.tar.")],
    as_json: Json = False,
) -> None:
    """Write a model, and the submodels it needs, into one file; the same model gives the same bytes.

    Signatures come along. It is a tar archive.
    """
    from models.bundle import pack
    from stream.registry import registry_of

    registry = registry_of(settings_of(asked))
    entry = _entry(registry, model)
    bundled: dict[str, Content] = {}
    left = [(entry.name, entry.version)]
    while left:
        name, version = left.pop()
        if f"{name}/{version}" not in bundled:
            bundled[f"{name}/{version}"] = registry.files(name, version)
            left += [_version(parent) for parent in registry.manifest(name, version).parents]
    content = pack({f"{at}/{name}": told for at, files in bundled.items() for name, told in files.items()})
    file.write_bytes(content)
    submodels = sorted(each.replace("/", "@") for each in bundled if each != f"{entry.name}/{entry.version}")
    if as_json:
        typer.echo(json.dumps({"model": entry.said, "submodels": submodels, "bytes": len(content)}))
    else:
        more = f" and its submodels {', '.join(submodels)}" if submodels else ""
        typer.echo(f"wrote {entry.said}{more} to {file}, {len(content):,} bytes")


def _version(model: str) -> tuple[str, str]:
    name, _, version = model.partition("@")
    return name, version


@models_app.command("import")
@said_plainly
def models_import(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A bundle of 'models export', or a fitted pipeline of scikit-learn.",
        ),
    ],
    sign: Annotated[
        bool,
        typer.Option("--sign", help="Sign a bundle with this registry's key, whatever signature it has."),
    ] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What a pipeline's model is called; needed for one.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="The features a pipeline takes, in their order where it names none."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="A pipeline's column and the feature it is; repeatable."),
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What a pipeline learned from; kept in the manifest.")
    ] = None,
    review_at: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The probability to review from [default: 0.5].")
    ] = None,
    decline_at: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The probability to decline from [default: 0.9].")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust-this-file", help="Open a file of joblib or pickle: it runs whatever code is in it."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish what is in a file, once every byte, the signature, the features and the golden rows are right.

    A pipeline is a file of skops. It is opened in a process of its own without settings, keys or network,
    and becomes arrays that answer as it does, or is refused with the reason. Nothing becomes a champion.
    """
    from models.bundle import LARGEST, is_bundle
    from stream.model_import import ImportRefused, Pipeline, publish_bundle, publish_pipeline
    from stream.own_features import catalogue_of
    from stream.registry import registry_of

    settings = settings_of(asked)
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ImportRefused(f"{file} has more than {LARGEST:,} bytes, and a model has no more")
    catalogue = catalogue_of(settings)
    registry = registry_of(settings, catalogue.by_name)
    if is_bundle(content):
        published = publish_bundle(registry, content, sign=sign)
    else:
        if name is None:
            raise typer.BadParameter("a pipeline needs a name for its model", param_hint="--name")
        pipeline = Pipeline(
            said=file.name,
            content=content,
            name=name,
            trained_at=datetime.now(UTC).date(),
            row_limit=settings.row_limit,
            features=None if features is None else tuple(each.name for each in catalogue.chosen(features)),
            renamed=_renamed(rename or ()),
            trained_on=trained_on,
            policy=policy_of(review_at, decline_at),
            is_trusted=trust,
        )
        published = iter([publish_pipeline(registry, catalogue, pipeline)])
    for model, is_new in published:
        if as_json:
            typer.echo(json.dumps({"model": model, "published": is_new}))
        else:
            typer.echo(f"published {model}" if is_new else f"{model} was published before, with these bytes")


def _renamed(pairs: "Iterable[str]") -> dict[str, str]:
    renamed = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise typer.BadParameter(f"'{pair}' is not THEIRS=OURS", param_hint="--rename")
        renamed[theirs] = ours
    return renamed


def policy_of(review_at: float | None, decline_at: float | None) -> "Policy | None":
    """The thresholds that were given; None where none were."""
    from models.policy import Policy

    if (review_at is None) != (decline_at is None):
        raise typer.BadParameter("goes with --decline-at; give both or neither", param_hint="--review-at")
    if review_at is None or decline_at is None:
        return None
    try:
        return Policy(review_at=review_at, decline_at=decline_at)
    except ValueError:
        raise typer.BadParameter(
            f"0 < {review_at} <= {decline_at} <= 1 must hold", param_hint="--review-at"
        ) from None


# ---------------------------------------------------------------------- what nobody needs any more


@models_app.command("gc")
@said_plainly
def models_gc(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be.")] = False,
    kept_days: Annotated[
        int, typer.Option("--keep", metavar="DAYS", min=0, help="What was trained since stays.")
    ] = 30,
    decided_days: Annotated[
        int,
        typer.Option(
            "--decided", metavar="DAYS", min=1, help="What decided, or was in service, since stays."
        ),
    ] = 400,
    archive: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Look for decisions in an archive as well.")
    ] = None,
    ignore_decisions: Annotated[
        bool,
        typer.Option(
            "--ignore-decisions",
            help="Don't ask which models decided, nor which are in service: there is no Kafka.",
        ),
    ] = False,
    leftovers: Annotated[
        bool,
        typer.Option("--leftovers", help="Also what killed publications left; while nobody publishes."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete the versions that nothing needs: dry run unless --yes.

    Kept are champions, what is in service or was lately, what a rollback leads back to, what the setting
    model names, what recent decisions name, what was trained lately, and every submodel of what is kept. A
    decision whose model is gone can't be verified again.
    """
    from stream.model_gc import has_lost_decisions, judged, named_in_control, named_in_decisions
    from stream.recorded import recorded_of
    from stream.registry import registry_of

    settings = settings_of(asked)
    registry = registry_of(settings)
    now = datetime.now(UTC)
    decided: frozenset[str] = frozenset()
    served: Mapping[str, str] = {}
    since = now - timedelta(days=decided_days)
    for place in () if ignore_decisions else dict.fromkeys([archive, None]):
        with closing(recorded_of(settings, place)) as recorded:
            decided |= named_in_decisions(settings, recorded, since)
            if place is None:
                # last, because decisions take long to read and somebody may move a model meanwhile
                served = named_in_control(settings, recorded, since)
                if archive is None and has_lost_decisions(settings, recorded):
                    typer.echo(
                        "fraudstream: the topics no longer have every decision; name the archive that has "
                        "the others: --archive PLACE",
                        err=True,
                    )
    found = judged(
        list(registry.entries()),
        decided=decided,
        served=served,
        pinned=settings.model,
        kept_since=(now - timedelta(days=kept_days)).date(),
    )
    for entry, why in found:
        if not why and yes:
            registry.remove(entry.name, entry.version)
        if as_json:
            told: dict[str, Any] = {"model": entry.said, "kept_for": why or None, "deleted": yes and not why}
            typer.echo(json.dumps(told))
        else:
            goes = "deleted" if yes else "would be deleted"
            typer.echo(f"keep  {entry.said}: {why}" if why else f"gone  {entry.said}: {goes}")
    left = (registry.sweep() if yes else registry.leftovers()) if leftovers else ()
    for each in left:
        if as_json:
            typer.echo(json.dumps({"leftover": each, "deleted": yes}))
        else:
            typer.echo(f"gone  {each}: {'deleted' if yes else 'would be deleted'}, a killed publication's")
    if not yes and (left or any(not why for _, why in found)):
        typer.echo("fraudstream: nothing was deleted; run it again with --yes", err=True)
