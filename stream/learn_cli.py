"""The commands about learning: training sets, parity, evaluation, retraining; stream.cli registers them."""

import json
import re
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.plainly import settings_of
from stream.replay_topics_cli import (
    Archive,
    Imports,
    bounds_of,
    chosen,
    ends_plainly,
    opened,
    replay_into,
    tell_bad,
)

if TYPE_CHECKING:
    from datetime import datetime

    from stream.parity import Parity

__all__ = ["duration", "evaluate", "moment", "parity", "retrain", "training_set"]

Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="starter, served, a group, a feature, or several with commas; without it, those of --model.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[@VERSION]",
        help="The features of this model [default: the setting 'model'].",
        show_default=False,
    ),
]


def moment(text: str | None, option: str) -> "datetime | None":
    """The time that a person wrote."""
    from datetime import UTC, datetime

    from stream.deadletters import DeadLetterError, since

    try:
        return None if text is None else since(text, datetime.now(UTC))
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def duration(text: str, option: str) -> timedelta:
    """The hours or days that a person wrote."""
    found = re.fullmatch(r"(\d{1,4})([hd])", text)
    if found is None:
        raise typer.BadParameter(f"'{text}' is no duration; write 45d or 12h", param_hint=option)
    return timedelta(**{{"h": "hours", "d": "days"}[found[2]]: int(found[1])})


_UNITS = {"MB": 10**6, "GB": 10**9}


def _bytes(text: str, option: str) -> int:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d)?)\s?([MG]B)", text.upper())
    if found is None:
        raise typer.BadParameter(f"'{text}' is no size; write 500MB or 2GB", param_hint=option)
    return int(float(found[1]) * _UNITS[found[2]])


def training_set(
    asked: typer.Context,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE.parquet", help="Where the rows go, whole or not at all.")
    ],
    features: Features = None,
    model: Model = None,
    from_decisions: Annotated[
        bool,
        typer.Option(
            "--from-decisions", help="The features that decisions wrote down, instead of computed ones."
        ),
    ] = False,
    archive: Archive = None,
    imports: Imports = True,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What became known later does not count [default: now]."),
    ] = None,
    mature_after: Annotated[
        str,
        typer.Option(
            metavar="45d", help="Orders younger than this at that time are unknown, not 'no fraud'."
        ),
    ] = "45d",
    silence_is_legitimate: Annotated[
        bool,
        typer.Option(
            "--silence-is-legitimate", help="A matured order without any outcome is not fraud, not unknown."
        ),
    ] = False,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only orders placed then or later.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only orders placed before then.")] = None,
    country: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Only orders of this country; may be repeated.")
    ] = None,
    keep_legitimate: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of orders that were no fraud keep this share, with weights."),
    ] = 1.0,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Also orders of which it is unknown what they were.")
    ] = False,
    leave_out_caught: Annotated[
        bool,
        typer.Option("--leave-out-caught", help="Without orders of customers whose fraud was known by then."),
    ] = False,
    memory: Annotated[
        str,
        typer.Option(metavar="2GB", help="Say whether the rows fit this as arrays; the file may be larger."),
    ] = "2GB",
    processes: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=64, help="So many partitions at once.")
    ] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a training set: orders with their features as of their placing, and what they turned out to be.

    By the worker's own code, from topics or an archive. Rows are written as they come; in memory are the
    histories. A test order is never among them. Changes nothing.
    """
    from datetime import UTC, datetime

    from models.labels import Labelling
    from stream.replay_files import format_of
    from stream.training_set import Chosen, TrainingRows, TrainingSet

    if features is not None and model is not None:
        raise typer.BadParameter("--features or --model, not both")
    if to == "-" or format_of(Path(to)) != "parquet":
        raise typer.BadParameter("a training set is a Parquet file; name it .parquet", param_hint="--to")
    budget = _bytes(memory, "--memory")
    labelling = Labelling(
        moment(as_of, "--as-of") or datetime.now(UTC),
        duration(mature_after, "--mature-after"),
        "not_fraud" if silence_is_legitimate else "unknown",
    )
    choice = Chosen(
        labelling,
        since=moment(since, "--since"),
        until=moment(until, "--until"),
        countries=bounds_of((None, None), country).countries,
        keep_legitimate=keep_legitimate,
        unlabelled=unlabelled,
        leave_out_caught=leave_out_caught,
    )
    settings = settings_of(asked)
    by = partial(chosen, settings, features or "", None if features else model or settings.model)
    job = TrainingRows(settings, by, choice, from_decisions)
    source = opened(settings, archive, imports=imports)
    replay_into(job, source, to, processes, quiet=quiet, as_json=as_json, what="orders")
    made = TrainingSet.open(Path(to))
    if not as_json and made.bytes_in_memory > budget:
        typer.echo(
            f"as arrays they take about {made.bytes_in_memory / 1e9:.1f} GB, more than {memory}: "
            f"read them in chunks, or build it with --keep-legitimate {budget / made.bytes_in_memory:.1g}"
        )


def parity(
    asked: typer.Context,
    *,
    features: Features = None,
    model: Model = None,
    archive: Archive = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only orders that arrived then or later: 24h ago, or a time."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only orders that arrived before then.")
    ] = None,
    at_most: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Exit code 1 where more of a feature's values are unequal."
        ),
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Hold the features that decisions wrote down against those that training would compute.

    Both come from one definition and have to be equal to the last bit. Changes nothing.
    """
    from contextlib import closing

    from stream.parity import held_against

    if features is not None and model is not None:
        raise typer.BadParameter("--features or --model, not both")
    settings = settings_of(asked)
    bounds = bounds_of((since, until))
    by = partial(chosen, settings, features or "", None if features else model or settings.model)
    with ends_plainly(), closing(opened(settings, archive)()) as recorded:
        found, tally = held_against(settings, recorded, by, bounds=bounds)
    over = found.over(at_most)
    if as_json:
        typer.echo(json.dumps({**found.as_json(), "over": over}))
    else:
        _tell_parity(found)
        tell_bad(tally)
    if over:
        if not as_json:
            typer.echo(
                f"fraudstream: more than {at_most:.2%} of {', '.join(over)} are unequal; look at one with "
                f"'fraudstream features explain {found.examples[0].order_id}', and see docs/learning.md",
                err=True,
            )
        raise typer.Exit(1)


def _tell_parity(found: "Parity") -> None:
    typer.echo(
        f"{found.compared:,} orders compared; {found.not_decided:,} had no scored decision, "
        f"{found.not_replayed:,} decisions were about orders that are not there"
    )
    kinds = ("equal", "differ", "missing_in_decisions", "missing_in_replay", "not_logged")
    width = max(map(len, found.found), default=0)
    typer.echo(f"{'':{width}}  {'  '.join(kinds)}")
    for name, counts in found.found.items():
        cells = "  ".join(f"{counts[kind]:>{len(kind)},}" for kind in kinds)
        typer.echo(f"{name:{width}}  {cells}")
    for each in found.examples:
        typer.echo(f"  {each.feature} of {each.order_id}: logged {each.logged}, computed {each.computed}")


def evaluate(
    asked: typer.Context,
    models: Annotated[
        list[str], typer.Argument(metavar="NAME[@VERSION]...", help="Published models; by name the champion.")
    ],
    *,
    on: Annotated[
        Path,
        typer.Option("--on", metavar="FILE.parquet", help="A training set that has the features of all."),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE.html", help="Where the report goes, one page.")
    ] = Path("evaluation.html"),
    review_cost: Annotated[
        float, typer.Option(metavar="AMOUNT", min=0, help="What a review costs, in major units.")
    ] = 3.0,
    lost_share: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, max=10, help="What a missed fraud costs, of its amount."),
    ] = 1.0,
    with_learned_from: Annotated[
        bool, typer.Option("--with-learned-from", help="Also orders that a model may have learned from.")
    ] = False,
    memory: Annotated[
        str, typer.Option(metavar="2GB", help="Refuse orders that would take more as arrays.")
    ] = "2GB",
    as_json: Json = False,
) -> None:
    """Measure published models on the same labelled orders, and write a report that stands for itself.

    Curves with bands, calibration, review budgets, costs, groups, importance, stability, and paired tests of
    several models. Orders from the time a model learned from are left out.
    """
    from models.evaluation import Costs
    from stream.evaluating import evaluate_set, written
    from stream.registry import registry_with_features
    from stream.training_set import TrainingSet

    settings = settings_of(asked)
    registry = registry_with_features(settings)
    found = evaluate_set(
        registry,
        models,
        TrainingSet.open(on),
        costs=Costs(review_cost * 100, lost_share),
        with_learned_from=with_learned_from,
        memory=_bytes(memory, "--memory"),
        told=_tell,
    )
    written(found, to)
    if as_json:
        typer.echo(json.dumps({**found.as_json(), "report": str(to)}))
        return
    for each in found.judged:
        auc, precision = each.bands["auc"], each.bands["average_precision"]
        if auc.value is None:
            typer.echo(f"{each.name}: {found.known:,} orders and {found.frauds:,} frauds tell nothing")
            continue
        typer.echo(
            f"{each.name}: AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}), average precision "
            f"{precision.value:.3f} ({precision.low:.3f} to {precision.high:.3f}) on {found.known:,} orders, "
            f"{found.frauds:,} of them fraud"
        )
    for one, other, measure, by in found.differences:
        typer.echo(
            f"{one} over {other}: {measure} {by.value:+.4f} ({by.low:+.4f} to {by.high:+.4f}), {by.p_said}"
        )
    typer.echo(f"report: {to}")


def retrain(
    asked: typer.Context,
    job: Annotated[
        Path,
        typer.Argument(
            metavar="JOB.py|JOB.toml", help="What is learned and what it has to pass; it runs code."
        ),
    ],
    *,
    archive: Archive = None,
    imports: Imports = True,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="As if it were then [default: now].")
    ] = None,
    silence_is_legitimate: Annotated[
        bool,
        typer.Option(
            "--silence-is-legitimate", help="A matured order without any outcome is not fraud, not unknown."
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Reports, and what is reused [default: learning in home]."),
    ] = None,
    then: Annotated[
        str | None,
        typer.Option(
            metavar="stop|shadow",
            help="What comes after it is published: nothing, or it looks on [default: as the job says].",
        ),
    ] = None,
    who: Annotated[
        str, typer.Option("--who", metavar="NAME", help="Under which name what was done is kept.")
    ] = "retrain",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and end.")] = False,
    memory: Annotated[
        str, typer.Option(metavar="2GB", help="Refuse orders that would take more as arrays.")
    ] = "2GB",
    processes: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=64, help="So many partitions, and models, at once.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """Learn a model anew from the archive, measure it, and publish it when it passes every gate.

    Its report says why it did or did not; exit code 1 when it did not. With --then shadow it is deployed as a
    challenger, and what came of it is a control record; 'models judge' does the rest (docs/loop.md).
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    from stream.control import in_force
    from stream.jobs import Evaluate, Learn, Past, Predict, Register
    from stream.registry import registry_with_features
    from stream.retrain import into_shadow, moved, read_job
    from stream.retrain import retrain as retrained

    settings = settings_of(asked)
    read = read_job(job)
    if then not in {None, "stop", "shadow"}:
        raise typer.BadParameter(f"'{then}' is neither stop nor shadow", param_hint="--then")
    read = replace(read, then=then or read.then)
    where = settings.home / "learning" if folder is None else folder
    past = Past(
        settings,
        opened(settings, archive, imports=imports),
        moment(as_of, "--as-of") or datetime.now(UTC),
        "not_fraud" if silence_is_legitimate else "unknown",
        archive or "",
        processes,
    )
    registry = registry_with_features(settings)
    if dry_run:
        trained_on, tested_on = read.schedule.periods(read.model, past.as_of)
        model = moved(read.model, trained_on)
        chain = Learn(model) >> Predict(model, tested_on) >> Evaluate() >> Register(registry)
        typer.echo(model)
        typer.echo(chain.plan(past, where / "cache"))
        return
    with ends_plainly():
        if read.then == "shadow":
            in_force(settings)  # whoever can't be told is not learned for
        done = retrained(
            read,
            past,
            registry,
            folder=where,
            at_once=processes,
            memory=_bytes(memory, "--memory"),
            told=_tell,
        )
        put = into_shadow(done, settings, registry, who=who) if read.then == "shadow" else None
    if as_json:
        typer.echo(json.dumps(done.as_json() | {"deployed": None if put is None else put.offset}))
    else:
        typer.echo(f"learned from {done.trained_on}, measured on {done.tested_on}")
        for each in done.gates:
            typer.echo(f"  {'passed' if each.passed else 'FAILED'}  {each.name}: {each.said}")
        typer.echo(done.why)
        if put is not None:
            typer.echo(str(put))
        typer.echo(f"report: {done.report}")
    if not done.published:
        raise typer.Exit(1)


def _tell(said: str) -> None:
    typer.echo(f"fraudstream: {said}", err=True)
