"""The command `fraudstream`: each command says in one sentence what it does; errors are one line on stderr.

Exit codes: 0 done, 1 refused, 2 usage. Imports wait until a command needs them, so that help is quick.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from stream import journey_cli, replay_decision_cli, verify_cli
from stream.archive_cli import archive_app
from stream.compare_cli import models_compare, models_drift
from stream.entity_cli import entity_app
from stream.examples import put_in
from stream.features_cli import features_app
from stream.judge_cli import models_judge
from stream.learn_cli import evaluate, parity, retrain, training_set
from stream.models_cli import models_app
from stream.plainly import refuse, said_plainly, who_says_so, write_no_more
from stream.replay_cli import app as replay_app
from stream.replay_topics_cli import replay_features, replay_records, replay_to_topic
from stream.service_cli import kill_app

if TYPE_CHECKING:
    from datetime import datetime

    from stream.deadletters import DeadLetter, Filters, Place
    from stream.settings import Settings
    from stream.shop import ShopSimulator

__all__ = ["app", "main"]


class _OneLine(TyperGroup):
    """Commands whose mistakes in usage are told in one line, as every other refusal is."""

    def main(self, args: Any = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **options)
        if sys.stdout is None:  # closed by the caller: what would be written there is written nowhere
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open for as long as the program
        else:
            # a name of a file that is not UTF-8 is shown as it can be
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            code = super().main(args, standalone_mode=False, **options)
            sys.stdout.flush()
        except TyperException as error:
            if message := error.format_message().replace("\n", " ").removesuffix("."):
                context = getattr(error, "ctx", None)
                path = self.name if context is None else context.command_path
                typer.echo(f"fraudstream: {message}; see '{path} --help'", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # `| head` has seen enough
            write_no_more()
            sys.exit(0)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            write_no_more()
            typer.echo(f"fraudstream: can't write to standard output: {error.strerror}", err=True)
            sys.exit(1)
        sys.exit(code or 0)


app = typer.Typer(
    name="fraudstream",
    cls=_OneLine,
    help="Orders in on a Kafka topic, exactly one decision out for each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from FRAUDSTREAM_* or a TOML file: fraudstream settings",
)
broker_app = typer.Typer(
    no_args_is_help=True, help="A real Kafka on this machine, for the demo and the tests."
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics the scorer needs.")
simulate_app = typer.Typer(no_args_is_help=True, help="A simulated shop with labelled fraud.")
contracts_app = typer.Typer(no_args_is_help=True, help="The JSON Schemas of what goes in and comes out.")
dead_letters_app = typer.Typer(
    no_args_is_help=True, help="What could not be decided: look at it, mend it, send it again."
)
rebuild_app = typer.Typer(no_args_is_help=True, help="New rows from old orders, beside the running workers.")
docs_app = typer.Typer(no_args_is_help=True, help="The reference pages, for those who change fraudstream.")
app.add_typer(broker_app, name="broker")
app.add_typer(topics_app, name="topics")
app.add_typer(simulate_app, name="simulate")
app.add_typer(contracts_app, name="contracts")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(docs_app, name="docs", hidden=True)
app.add_typer(features_app, name="features")
app.add_typer(rebuild_app, name="rebuild")
app.add_typer(archive_app, name="archive")
app.add_typer(entity_app, name="entity")
app.add_typer(models_app, name="models")
app.add_typer(kill_app, name="kill-switch")
app.add_typer(replay_app, name="replay")

_config: Path | None = None


def _show_version(wanted: bool) -> None:
    if wanted:
        from stream.version import program_version

        typer.echo(f"fraudstream {program_version()}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is."),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="FRAUDSTREAM_CONFIG", help="Settings in TOML."),
    ] = None,
) -> None:
    global _config  # noqa: PLW0603 - one command a process
    _config = config


def _settings(**overrides: Any) -> "Settings":
    from stream.settings import load_settings

    return load_settings(_config, **overrides)


replay_app.command("records")(said_plainly(replay_records))
replay_app.command("features")(said_plainly(replay_features))
replay_app.command("to-topic")(said_plainly(replay_to_topic))
app.command("training-set")(said_plainly(training_set))
app.command("parity")(said_plainly(parity))
app.command("evaluate")(said_plainly(evaluate))
app.command("retrain")(said_plainly(retrain))
models_app.command("compare")(said_plainly(models_compare))
models_app.command("drift")(said_plainly(models_drift))
models_app.command("judge")(said_plainly(models_judge))

Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object a line.")]
Nodes = Annotated[int, typer.Option(metavar="1|3", help="Nodes in the cluster.")]


# ---------------------------------------------------------------------- broker


@broker_app.command("start")
@said_plainly
def broker_start(nodes: Nodes = 1, as_json: Json = False) -> None:
    """Start the embedded broker and wait until it answers; the first time it fetches Kafka."""
    _one_or_three(nodes)
    from stream.broker import EmbeddedBroker, ports_of

    settings = _settings()
    _refuse_another_size(settings, nodes)
    broker = EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=nodes))
    started = broker.start()
    if as_json:
        typer.echo(json.dumps({"started": started, "broker": broker.bootstrap}))
    else:
        typer.echo(f"the broker {'answers' if started else 'already runs'} at {broker.bootstrap}")


@broker_app.command("stop")
@said_plainly
def broker_stop(as_json: Json = False) -> None:
    """Stop the embedded broker; what its topics hold stays."""
    from stream.broker import EmbeddedBroker, ports_of

    settings = _settings()
    stopped = False
    for count in (1, 3):
        stopped |= EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=count)).stop()
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    else:
        typer.echo("the broker is stopped" if stopped else "no broker was running")


@broker_app.command("status")
@said_plainly
def broker_status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a node.")] = False,
) -> None:
    """Say whether the embedded broker runs; exit code 1 when it does not."""
    from stream.broker import EmbeddedBroker, ports_of

    settings = _settings()
    running = False
    for count in (1, 3):
        broker = EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=count))
        for node in broker.status():
            if count == 3 and node.state == "stopped" and not broker.folder.exists():
                continue
            running |= node.state == "running"
            if as_json:
                shown = {"node": node.number, "address": node.address, "state": node.state, "pid": node.pid}
                typer.echo(json.dumps(shown | {"nodes": count}))
            else:
                pid = "" if node.pid is None else f", process {node.pid}"
                typer.echo(
                    f"node {node.number} of {count}: {node.state} ({node.address}{pid}), log {node.console}"
                )
    if not running:
        raise typer.Exit(1)


def _one_or_three(nodes: int) -> None:
    if nodes not in {1, 3}:
        raise typer.BadParameter(f"a broker has 1 or 3 nodes, not {nodes}", param_hint="--nodes")


def _refuse_another_size(settings: "Settings", nodes: int) -> None:
    from stream.broker import BrokerError, EmbeddedBroker, ports_of

    other = 4 - nodes
    try:
        states = EmbeddedBroker(settings.home, ports=ports_of(settings.broker, nodes=other)).status()
    except BrokerError:
        return  # the other size can't even be described with these ports
    if any(node.state == "running" for node in states):
        refuse(f"a broker of {other} node(s) runs already; stop it first: fraudstream broker stop")


# ---------------------------------------------------------------------- topics


@topics_app.command("create")
@said_plainly
def topics_create(as_json: Json = False) -> None:
    """Make the topics that are missing; running it again changes nothing."""
    from stream import topics

    settings = _settings()
    made = topics.create(settings)
    if as_json:
        typer.echo(json.dumps({"made": made}))
    else:
        typer.echo(f"made {', '.join(made)}" if made else "all topics are there")


@topics_app.command("describe")
@said_plainly
def topics_describe(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a topic.")] = False,
) -> None:
    """Show how each topic is kept; exit code 1 when one is missing or wrong."""
    from stream import topics

    states = topics.describe(_settings())
    for state in states:
        if as_json:
            shown = {
                "topic": state.plan.name,
                "purpose": state.plan.purpose,
                "partitions": state.partitions,
                "replication": state.replication,
                "config": dict(state.config),
                "wrong": list(state.wrong),
            }
            typer.echo(json.dumps(shown))
        elif state.partitions is None:
            typer.echo(f"{state.plan.name}: missing ({state.plan.purpose})")
        else:
            config = " ".join(f"{name}={value}" for name, value in state.config.items())
            wrong = f" WRONG: {'; '.join(state.wrong)}" if state.wrong else ""
            typer.echo(f"{state.plan.name}: {state.partitions} x {state.replication}, {config}{wrong}")
    if any(state.partitions is None or state.wrong for state in states):
        if not as_json:
            typer.echo("fraudstream: make what is missing with 'fraudstream topics create'", err=True)
        raise typer.Exit(1)


@topics_app.command("repair-offsets")
@said_plainly
def topics_repair_offsets(as_json: Json = False) -> None:
    """Put the group's offsets back where the changelog says the rows are; every worker must be stopped."""
    from stream.repair import repair_offsets

    settings = _settings()
    for (topic, partition), offset in sorted(repair_offsets(settings).items()):
        if as_json:
            typer.echo(json.dumps({"topic": topic, "partition": partition, "next_offset": offset}))
        else:
            typer.echo(f"{topic} partition {partition}: next offset {offset:,}")
    if not as_json:
        typer.echo(f"group '{settings.group}' goes on from there")


@rebuild_app.command("start")
@said_plainly
def rebuild_start(
    source: Annotated[
        str, typer.Option("--from", metavar="CHANGELOG", help="The changelog that workers use now.")
    ],
    archive: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="An archive, for orders that the topic no longer has."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when it is where the old one is.")] = False,
    as_json: Json = False,
) -> None:
    """Make the rows anew, into the changelog that these settings name, while workers go on with another.

    Run it with the settings that the workers are to have: FRAUDSTREAM_TOPICS__CHANGELOG, and what made
    this necessary, such as FRAUDSTREAM_ROW_LIMIT. It ends when a worker opens the new changelog.
    """
    from stream.rebuild_cli import follow

    follow(_settings(), source, archive=archive, once=once, as_json=as_json)


@rebuild_app.command("confirm")
@said_plainly
def rebuild_confirm(
    source: Annotated[str, typer.Option("--drop", metavar="CHANGELOG", help="What workers used before.")],
    as_json: Json = False,
) -> None:
    """Delete the changelog that workers used before; refused unless they have gone on with the new one."""
    from stream.rebuild import drop

    drop(_settings(), source)
    typer.echo(json.dumps({"deleted": source}) if as_json else f"changelog '{source}' is deleted")


# ---------------------------------------------------------------------- orders in, decisions out


@app.command("publish")
@said_plainly
def publish_orders(  # noqa: PLR0917 (typer gives them by name)
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet, also in gzip or zip; - for stdin."),
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
    rate: Annotated[
        float | None,
        typer.Option(metavar="ORDERS/S", min=0.001, max=1e6, help="Not faster than this."),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="To be remembered and never decided.")] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="ROWS", min=1, max=10**12, help="Only the first so many.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the first orders and every refusal; send nothing.")
    ] = False,
    guess: Annotated[bool, typer.Option("--guess", help="Print a mapping that fits the file.")] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send again what an earlier run has sent.")
    ] = False,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the refused rows, whole, with the reason.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The sums, or the dry run, in JSON.")] = False,
) -> None:
    """Send orders to the orders topic, each under its customer's key; 1 when a row was refused.

    A file that was published, or partly before a kill, is not sent twice.
    """
    if kind not in {None, "orders", "events", "outcomes"}:
        raise typer.BadParameter(f"'{kind}' is none of orders, events, outcomes", param_hint="--kind")
    from stream import publish_cli

    asked = publish_cli.Asked(
        file,
        mapping=mapping,
        kind=kind,  # type: ignore[arg-type]
        rate=rate,
        history=history,
        limit=limit,
        from_start=from_start,
        rejects=rejects,
        as_json=as_json,
    )
    if guess:
        publish_cli.guess(asked)
        return
    code = publish_cli.dry_run(_settings(), asked) if dry_run else publish_cli.run_publish(_settings(), asked)
    if code:
        raise typer.Exit(code)


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    import gzip
    import zlib

    try:
        with gzip.open(file, "rb") if file.endswith(".gz") else Path(file).open("rb") as lines:
            yield from lines
    except (EOFError, zlib.error) as error:
        refuse(f"{file} is cut short or damaged ({error}); the lines before that were read")
    except OSError as error:
        refuse(f"can't read {file}: {error.strerror or error}; name a file of orders, one in JSON a line")


@app.command()
@said_plainly
def watch(
    count: Annotated[int | None, typer.Option(metavar="DECISIONS", min=1, help="Stop after so many.")] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Also those made before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a decision.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="Those that nobody acts on.")] = False,
) -> None:
    """Print decisions as they are committed, until Ctrl-C."""
    from rich.console import Console

    from stream.watch import Watch, sentence

    console = Console(soft_wrap=True, highlight=False, emoji=False)
    left = count
    settings = _settings()
    if shadow:
        names = settings.topics.model_copy(update={"decisions": settings.topics.decisions_shadow})
        settings = settings.model_copy(update={"topics": names})

    def pass_over(place: str) -> None:
        typer.echo(f"fraudstream: {place} is no decision that this version can read: passed over", err=True)

    try:
        with Watch(settings, from_beginning=from_beginning, passed_over=pass_over) as watching:
            while left is None or left > 0:
                for seen in watching.within(0.5):
                    if as_json:
                        typer.echo(seen.decision.model_dump_json())
                    else:
                        console.print(sentence(seen.decision))
                    if left is not None:
                        left -= 1
                        if left == 0:
                            break
    except KeyboardInterrupt:
        return


@app.command()
@said_plainly
def worker(
    observe: Annotated[
        bool | None,
        typer.Option(
            "--observe",
            help="Decide into decisions-shadow only, until 'fraudstream go-live'.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Decide orders until stopped (Ctrl-C or SIGTERM finishes the transaction in hand)."""
    # before the slow imports, until Faust takes over: asked to end while starting, there is nothing to finish
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from stream.logs import set_up_logging

    settings = _settings(observe=observe)
    set_up_logging(settings)
    from stream.worker import run

    code = run(settings)
    if code:
        raise typer.Exit(code)


def _models(incomplete: str) -> list[str]:
    try:
        from stream.registry import registry_of

        published = {name for name, _ in registry_of(_settings()).list()}
        return sorted(name for name in published if name.startswith(incomplete))
    except Exception:  # noqa: BLE001 - a shell that completes a word must not be told of wrong settings
        return []


# ---------------------------------------------------------------------- all workers of the group at once

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept for whoever asks later.")]
Who = Annotated[
    str | None,
    typer.Option("--who", metavar="NAME", help="Who decided it [default: you].", show_default=False),
]


@app.command()
@said_plainly
def pause(
    why: Why,
    who: Who = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain", help="Let orders that are on their way between stages come to their decision."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Have all workers take no more orders, until 'resume'; nothing is lost, and no position moves."""
    _change("paused", why, who, as_json=as_json, drain=drain)


@app.command()
@said_plainly
def resume(why: Why = "the pause is over", who: Who = None, as_json: Json = False) -> None:
    """Have all workers take orders again."""
    _change("resumed", why, who, as_json=as_json)


@app.command()
@said_plainly
def observe(why: Why, who: Who = None, as_json: Json = False) -> None:
    """Have all workers decide into decisions-shadow only, so that nobody acts on it."""
    _change("observe", why, who, as_json=as_json)


@app.command("go-live")
@said_plainly
def go_live(why: Why, who: Who = None, as_json: Json = False) -> None:
    """Have all workers decide into decisions, whatever they were started with."""
    _change("live", why, who, as_json=as_json)


@app.command("control")
@said_plainly
def show_control(
    past: Annotated[
        bool, typer.Option("--history", help="Everything that was decided so far, oldest first.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; of the history, one for each change.")
    ] = False,
) -> None:
    """Show what is in force for the group: paused or not, observing or live, since when, by whom and why."""
    from stream.control import history, in_force

    settings = _settings()
    if past:
        changes = list(history(settings))
        for event in changes:
            typer.echo(json.dumps(event.as_json()) if as_json else str(event))
        if not (changes or as_json):
            typer.echo("nothing was changed yet")
        return
    state = in_force(settings)
    if as_json:
        typer.echo(json.dumps(state.shown()))
        return
    typer.echo(state.said(unless_told=settings.observe))


def _change(kind: str, why: str, who: str | None, *, as_json: bool, drain: bool = False) -> None:
    from stream.control import change

    settings = _settings()
    state, written = change(settings, kind, who=who_says_so(who), why=why, drain=drain)
    if as_json:
        typer.echo(json.dumps(state.shown() | {"changed": written}))
        return
    if not written:
        typer.echo("nothing to change:")
    typer.echo(state.said(unless_told=settings.observe))


@app.command()
@said_plainly
def train(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Orders with 'is_fraud', one in JSON a line, oldest first.")
    ],
    *,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model's name [default: the setting 'model'].",
            autocompletion=_models,
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What it learns from, in this order: starter, served, a group or a feature of "
            "'fraudstream features', own, or several of these with commas.",
        ),
    ] = "starter",
    predictor: Annotated[
        str, typer.Option(metavar="KIND", help="random_forest or logistic_regression.")
    ] = "random_forest",
    seed: Annotated[
        int,
        typer.Option(metavar="NUMBER", min=0, max=2**32 - 1, help="The same seed and file: the same model."),
    ] = 0,
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote",
            help="Make it the champion [default: if measured on 10 frauds or more].",
            show_default=False,
        ),
    ] = None,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Train though more than 1 % of the lines can't be read.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model on a labelled past, publish it to the registry and make it the champion."""
    if predictor not in {"random_forest", "logistic_regression"}:
        raise typer.BadParameter(
            f"'{predictor}' is neither random_forest nor logistic_regression", param_hint="--predictor"
        )
    from models.registry import named
    from stream.learn import learn_from_lines

    settings = _settings()
    trained_name, version = named(name or settings.model)
    if name and version:
        raise typer.BadParameter("the version comes from training; give the name alone", param_hint="--name")
    unread = 0

    def tell(line: object) -> None:
        nonlocal unread
        unread += 1
        if unread <= 20:
            typer.echo(f"fraudstream: can't read {line}", err=True)

    learnt = learn_from_lines(
        settings,
        _lines(str(file)),
        said=str(file),
        name=trained_name,
        features=features,
        predictor=predictor,  # type: ignore[arg-type]
        seed=seed,
        promote=promote,
        allow_rejects=allow_rejects,
        unread=tell,
    )
    if as_json:
        told = {"name": learnt.name, "version": learnt.version, "champion": learnt.promoted}
        told |= {"labelled": learnt.labelled, "fraud": learnt.fraud, "metrics": dict(learnt.metrics)}
        typer.echo(json.dumps(told | {"features": learnt.features, "place": learnt.place}))
        return
    typer.echo(
        f"trained {learnt.name}@{learnt.version} "
        f"on {learnt.labelled:,} orders, {learnt.fraud:,} of them fraud"
    )
    typer.echo(f"  {len(learnt.features)} features: {features}")
    if unread:
        typer.echo(f"  left out {unread:,} lines that can't be read")
    for what, orders in learnt.left_out.items():
        typer.echo(f"  left out {orders:,} orders: {what}")
    for metric, value in learnt.metrics.items():
        typer.echo(f"  {metric} {value:.4f}" if isinstance(value, float) else f"  {metric} {value}")
    typer.echo(f"  review from {learnt.policy.review_at}, decline from {learnt.policy.decline_at}")
    typer.echo(f"published to {learnt.place}{' and made champion' if learnt.promoted else ''}")
    if promote is None and not learnt.promoted:
        typer.echo(
            "not made champion: it was measured on too few frauds; "
            "give it a longer past, or put it in service all the same with --promote"
        )


# ---------------------------------------------------------------------- a shop to try it on


Days = Annotated[
    int, typer.Option(metavar="DAYS", min=1, max=3650, help="How long its past is; live orders come after.")
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="DATE",
        help="The shop's first day [default: 30 days before its past ends].",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="NUMBER", min=0, max=2**63 - 1, help="The same seed gives the same shop.")
]
PerDay = Annotated[
    float,
    typer.Option(metavar="ORDERS", min=1, max=1e6, help="Orders a day, about."),
]
LIVE_DAYS = 30
"""How long before today a shop's past ends; at 50 orders a second its live days last ten minutes."""


def _shop(*, start: str | None, days: int, seed: int, per_day: float) -> "ShopSimulator":
    """The one shop of `past` and `live`: the same customers, the same frauds, one after the other."""
    from datetime import UTC, date, datetime, time, timedelta

    from stream.shop import ShopSimulator

    if start is None:
        first = datetime.now(UTC).date() - timedelta(days=days + LIVE_DAYS)
    else:
        try:
            first = date.fromisoformat(start)
        except ValueError:
            first = date.min
        if not 1973 <= first.year < 2200:  # customers joined up to three years before; orders begin in 1970
            raise typer.BadParameter(
                f"'{start}' is no day from 1973-01-01 to 2199-12-31", param_hint="--start"
            )
    opened = datetime.combine(first, time(), UTC)
    return ShopSimulator(seed=seed, start=opened, orders_per_day=per_day)


@simulate_app.command("past")
@said_plainly
def simulate_past(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write the orders; - for stdout.")],
    days: Days = 28,
    start: Start = None,
    seed: Seed = 7,
    per_day: PerDay = 1000,
) -> None:
    """Write a shop's labelled past, one order in JSON a line with 'is_fraud' and 'fraud_kind'."""
    from stream.shop import labelled_line

    shop = _shop(start=start, days=days, seed=seed, per_day=per_day)
    orders = fraud = 0
    try:
        with nullcontext(sys.stdout.buffer) if file == "-" else Path(file).open("wb") as out:
            for placed in shop.past(days):
                out.write(labelled_line(placed) + b"\n")
                orders += 1
                fraud += placed.is_fraud
            out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        said = "standard output" if file == "-" else file
        refuse(f"can't write {said}: {error.strerror}; name a file that you may write, on a disk with room")
    typer.echo(f"wrote {orders:,} orders, {fraud:,} of them fraud", err=True)


@simulate_app.command("live")
@said_plainly
def simulate_live(
    *,
    rate: Annotated[
        float, typer.Option(metavar="ORDERS/S", min=0.001, max=1e6, help="Not faster than this.")
    ] = 50,
    count: Annotated[
        int | None, typer.Option(metavar="ORDERS", min=1, max=10**12, help="Stop after so many.")
    ] = None,
    skip: Annotated[
        int,
        typer.Option(metavar="ORDERS", min=0, max=10**12, help="Leave out so many, sent by an earlier run."),
    ] = 0,
    days: Days = 28,
    start: Start = None,
    seed: Seed = 7,
    per_day: PerDay = 1000,
) -> None:
    """Send a shop's orders from where its past ended to the orders topic, until Ctrl-C or the present."""
    from datetime import UTC, datetime
    from itertools import islice, takewhile

    from stream.publish import publish

    settings = _settings()
    shop = _shop(start=start, days=days, seed=seed, per_day=per_day)
    asked_to_end = False

    def end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C waits for nothing

    so_far = takewhile(
        lambda placed: not asked_to_end and placed.order.placed_at <= datetime.now(UTC), shop.after(days)
    )
    lines = (
        placed.order.model_dump_json(exclude_defaults=True).encode()
        for placed in islice(so_far, skip, None if count is None else skip + count)
    )
    before = signal.signal(signal.SIGINT, end)  # what is on its way arrives, and is counted
    try:
        result = publish(settings, lines, rate=rate)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)
    typer.echo(
        f"published {result.sent:,} orders in {result.seconds:.1f} s; "
        f"the shop goes on with --skip {skip + result.sent}"
    )


@app.command()
@said_plainly
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after some hundred decisions.")] = False,
    rate: Annotated[float, typer.Option(metavar="ORDERS/S", min=0.1, max=2000, help="Live orders.")] = 50,
) -> None:
    """See it work: broker, a shop's past, a model, a worker, live orders and their decisions.

    Exit code 0 means that every live order was decided once.
    """
    typer.echo(
        "fraudstream demo: a broker, a shop's past, a model, a worker, then live orders; Ctrl-C ends it"
    )
    from stream.demo import run_demo

    code = run_demo(_settings(), once=once, rate=rate, config=_config)
    if code:
        raise typer.Exit(code)


# ---------------------------------------------------------------------- what waits, what was set aside


@app.command()
@said_plainly
def lag(
    as_json: Json = False,
    watching: Annotated[bool, typer.Option("--watch", help="Again every 2 seconds, until Ctrl-C.")] = False,
) -> None:
    """Show how far each partition is behind: position, end, orders waiting, the oldest's age, the owner.

    Works while workers run and while none does. Ages are in seconds, this machine's clock against the
    broker's. "held" are orders that their sender's open transaction holds back.
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from stream.lag import read_lag, shown

    settings = _settings()
    console = Console(highlight=False, emoji=False)

    def look() -> list[Any]:
        lags = read_lag(settings)
        if as_json:
            for each in lags:
                typer.echo(json.dumps(each.as_json()))
            typer.echo(json.dumps({"total": True, "waiting": sum(each.waiting for each in lags)}))
        return lags

    if not watching:
        lags = look()
        if not as_json:
            console.print(shown(lags))
        return
    try:
        if as_json:
            while True:
                look()
                time.sleep(2)
        with Live(shown(look()), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(2)
                live.update(shown(look()), refresh=True)
    except KeyboardInterrupt:
        return


def _reasons(incomplete: str) -> list[str]:
    from features.decode import REJECTION_CODES

    return [code for code in REJECTION_CODES if code.startswith(incomplete)]


def _input_topics(incomplete: str) -> list[str]:
    try:
        names = _settings().topics
    except Exception:  # noqa: BLE001 - a shell that completes a word must not be told of wrong settings
        return []
    return [
        name for name in (names.orders, names.outcomes, names.order_events) if name.startswith(incomplete)
    ]


Reason = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Only those of this reason code.", autocompletion=_reasons),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only those since: 90m, 24h or 7d ago, or 2026-11-20T08:00Z."),
]
OfTopic = Annotated[
    str | None,
    typer.Option(
        "--topic", metavar="TOPIC", help="Only those from this topic.", autocompletion=_input_topics
    ),
]


def _filters(reason: str | None, since: str | None, topic: str | None) -> "Filters":
    from features.decode import REJECTION_CODES
    from stream.deadletters import Filters

    if reason is not None and reason not in REJECTION_CODES:
        raise typer.BadParameter(f"'{reason}' is none of {', '.join(REJECTION_CODES)}", param_hint="--reason")
    return Filters(reason, _instant(since), topic)


def _instant(since: str | None) -> "datetime | None":
    from datetime import UTC, datetime

    from stream.deadletters import DeadLetterError
    from stream.deadletters import since as instant

    try:
        return None if since is None else instant(since, datetime.now(UTC))
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


def _place(text: str) -> "Place":
    from stream.deadletters import DeadLetterError, Place

    try:
        return Place.parse(text)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="PLACE") from None


@dead_letters_app.command("list")
@said_plainly
def dead_letters_list(
    reason: Reason = None,
    since: Since = None,
    topic: OfTopic = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="At most the newest so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List what was set aside: how many by reason, then the newest, oldest first; no customer's data."""
    from collections import Counter

    from stream.deadletters import list_dead_letters

    filters = _filters(reason, since, topic)
    letters = list_dead_letters(_settings(), filters)
    counts = Counter(letter.reason for letter in letters)
    again = Counter(letter.reason for letter in letters if letter.redriven)
    newest = letters[len(letters) - min(limit, len(letters)) :]
    if as_json:
        for code, count in counts.most_common():
            typer.echo(json.dumps({"reason": code, "dead_letters": count, "redriven": again[code]}))
        for letter in newest:
            typer.echo(json.dumps(letter.as_json()))
        return
    if not letters:
        typer.echo("no dead letters")
    for code, count in counts.most_common():
        sent = f", {again[code]:,} of them sent again" if again[code] else ""
        typer.echo(f"{count:>9,} {code}{sent}")
    for letter in newest:
        sent = " (sent again)" if letter.redriven else ""
        when = letter.rejected_at.strftime("%Y-%m-%d %H:%M:%SZ")
        typer.echo(f"{letter.place}  {when}  from {letter.source}, {letter.size:,} bytes{sent}")
        typer.echo(f"    {letter.reason}: {letter.detail}")


@dead_letters_app.command("show")
@said_plainly
def dead_letters_show(
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="TOPIC/PARTITION/OFFSET: its own place, or its source's.")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the value's bytes, as received, to stdout.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole, as received, with its headers; this prints a customer's data."""
    from stream.deadletters import find, readable

    settings = _settings()
    found = find(settings, _place(place))
    if raw:
        sys.stdout.buffer.write(found.value or b"")
        sys.stdout.buffer.flush()
    elif as_json:
        typer.echo(json.dumps(found.as_json(settings)))
    else:
        for line in readable(found, settings):
            typer.echo(line)


@dead_letters_app.command("redrive")
@said_plainly
def dead_letters_redrive(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLACE...", help="TOPIC/PARTITION/OFFSET of each; or choose with the options."
        ),
    ] = None,
    *,
    reason: Reason = None,
    since: Since = None,
    topic: OfTopic = None,
    edit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Send this corrected order in place of the one dead letter named."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters again to the topic they came from, with their key and headers, each exactly once.

    Mend the cause first: an order that is still wrong is set aside again. What was sent before is known
    and not sent twice, also after a kill. Exit code 1 when one of them can't be sent.
    """
    from stream.deadletters import redrive

    chosen = [_place(place) for place in places or []]
    if bool(chosen) == any(each is not None for each in (reason, since, topic)):
        raise typer.BadParameter("name the places, or choose with --reason, --since or --topic; not both")
    if edit is not None and len(chosen) != 1:
        raise typer.BadParameter("--edit goes with one place", param_hint="--edit")
    filters = None if chosen else _filters(reason, since, topic)
    settings = _settings()
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            refuse("say --yes to send them, or --dry-run to see what would be sent")
        typer.confirm(f"send them again to the topics they came from on {settings.broker}?", abort=True)

    def tell(letter: "DeadLetter", what: str) -> None:
        if as_json:
            typer.echo(json.dumps({"place": str(letter.place), "reason": letter.reason, "outcome": what}))
        else:
            typer.echo(f"{letter.place} ({letter.reason}) {what}")

    corrected = None if edit is None else edit.read_bytes()
    done = redrive(settings, places=chosen, filters=filters, corrected=corrected, dry_run=dry_run, told=tell)
    if as_json:
        typer.echo(json.dumps({"sent": done.sent, "sent_before": done.before, "left": len(done.left)}))
    else:
        sent = "would be sent" if dry_run else "sent"
        typer.echo(f"{done.sent:,} {sent}, {done.before:,} had been sent before, {len(done.left):,} can't be")
    if done.left:
        raise typer.Exit(1)


def _feature_names(incomplete: str) -> list[str]:
    from features.catalogue import SERVED

    return [each.name for each in SERVED if each.name.startswith(incomplete)]


@features_app.command("explain")
@said_plainly
def features_explain(
    order_id: Annotated[
        str | None,
        typer.Argument(metavar="ORDER_ID", help="An order in the topic; else give one with --order."),
    ] = None,
    *,
    given: Annotated[
        Path | None,
        typer.Option("--order", metavar="FILE", help="An order as the shop sends it, in JSON; - for stdin."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            metavar="NAME",
            help="Only this feature, and others so named; without it, those of the model in service.",
            autocompletion=_feature_names,
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Only what is served of this group.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Look at nothing that arrived before: 24h or 90d ago, or 2026-11-20T08:00Z."
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(metavar="ORDERS", min=0, max=100_000, help="At most so many past orders a feature.")
    ] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for the order, then one a feature.")
    ] = False,
) -> None:
    """Show an order's features and the past orders that made each value, newest first.

    Reads the topic of orders as a worker would have, and changes nothing; a large topic takes a while. This
    prints a customer's data.
    """
    if (order_id is None) == (given is None):
        raise typer.BadParameter("name an order, or give one with --order; one of both")
    if names and group is not None:
        raise typer.BadParameter("--feature or --group, not both")
    from stream import explain_cli

    explain_cli.run_explain(
        _settings(),
        explain_cli.Asked(order_id, given, names or (), group, _instant(since), most, as_json),
    )


@app.command()
@said_plainly
def doctor(as_json: Json = False) -> None:
    """Find what keeps the scorer from deciding, or soon will, and say what to do; 1 when something fails.

    Settings, disk, model, brokers and their versions, topics, clock, partitioner, pauses, workers, offsets,
    open transactions. Takes a few seconds, a minute at most. Changes nothing, but for one record in an
    aborted transaction in the topic of order events, which no reader ever sees.
    """
    from rich.console import Console
    from rich.markup import escape

    from stream.doctor import examine, unusable_settings
    from stream.settings import SettingsError

    console = Console(soft_wrap=True, highlight=False, emoji=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
    failed = 0
    try:
        findings = examine(_settings())
    except SettingsError as error:
        findings = iter([unusable_settings(error)])
    for finding in findings:
        failed += finding.state == "fail"
        if as_json:
            typer.echo(json.dumps(finding.as_json()))
            continue
        found = f"  {escape(finding.found)}" if finding.found else ""
        console.print(f"[{colours[finding.state]}]{finding.state:<7}[/]  {finding.check}{found}")
        if finding.do:
            console.print(f"         -> {escape(finding.do)}")
    if failed:
        if not as_json:
            typer.echo(f"fraudstream: {failed} to be mended; each says how", err=True)
        raise typer.Exit(1)


# ---------------------------------------------------------------------- the past


replay_decision_cli.mount(replay_app, _settings, said_plainly)
verify_cli.mount(app, _settings, said_plainly)
journey_cli.mount(app, _settings, said_plainly)


# ---------------------------------------------------------------------- contracts and settings


@contracts_app.command("export")
@said_plainly
def contracts_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made when missing.")],
) -> None:
    """Write the JSON Schema of each contract to DIR."""
    from stream.schemas import schemas

    _write(folder, schemas())


@app.command("settings")
@said_plainly
def show_settings(
    describe: Annotated[
        bool, typer.Option("--describe", help="What each one means, takes and is when not set.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every setting as it is now; secrets are not shown."""
    if describe:
        from dataclasses import asdict

        from stream.settings import describe_settings

        for each in describe_settings():
            if as_json:
                typer.echo(json.dumps(asdict(each)))
                continue
            typer.echo(f"{each.name}  [{each.variable}]  {each.expects}; default: {each.default}")
            typer.echo(f"    {each.meaning}")
        return
    typer.echo(json.dumps(_settings().model_dump(mode="json"), indent=None if as_json else 2))


@docs_app.command("export")
@said_plainly
def docs_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made when missing.")],
) -> None:
    """Write the pages of docs/ that are made from the code to DIR."""
    from stream.reference import pages

    _write(folder, pages())


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        typer.echo(f"wrote {folder / name}")


put_in(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
