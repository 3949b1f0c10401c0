"""The commands that move models in service: `fraudstream models deploy` and its like, and `kill-switch`."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.models_cli import Json, models_app
from stream.plainly import plain, said_plainly, settings_of, who_says_so

if TYPE_CHECKING:
    from models.policy import Policy
    from stream.control import ControlEvent
    from stream.deploying import Moved, Mover, Who
    from stream.service import Kill, Role, Scope

__all__ = ["kill_app"]

_ANOTHER = re.compile(r",(?=(?:country|channel|merchant)=)")
"""Where a scope names another value."""

kill_app = typer.Typer(
    no_args_is_help=True, help="Take every decision from the models at once, and give it back."
)

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="NAME@VERSION, or NAME where one is meant.", show_default=False),
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept for whoever asks later.")]
By = Annotated[
    str | None,
    typer.Option("--who", metavar="NAME", help="Who decided it [default: you].", show_default=False),
]
For = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        metavar="NAME=VALUE",
        help="Only for these orders: country=DE, channel=web, merchant=m17; with commas between or repeated, "
        "and all must hold.",
        show_default=False,
    ),
]
ReviewAt = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="The probability to review from [default: the model's own]."),
]
DeclineAt = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="The probability to decline from [default: the model's own]."),
]
Slowest = Annotated[
    float, typer.Option("--slowest", metavar="MICROSECONDS", min=0, help="What an order may take in a batch.")
]


@models_app.command("deploy")
@said_plainly
def models_deploy(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    model: Model,
    why: Why,
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            help="challenger (decides into the shadow), canary (for some customers), champion, fallback.",
        ),
    ] = "challenger",
    scope: For = None,
    share: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="Of the customers that a canary decides for: 0.01 to 100."),
    ] = None,
    review_at: ReviewAt = None,
    decline_at: DeclineAt = None,
    slowest: Slowest = 500.0,
    who: By = None,
    as_json: Json = False,
) -> None:
    """Put a published model into service, in all workers without a restart, once it has passed every check.

    Checked are its signature, every byte, its features, its golden rows, from what histories it learned and
    how long it takes. What fails is refused with the cause, and service stays as it is.
    """
    with _mover(asked, slowest) as mover:
        moved = mover.deploy(
            model,
            _who(who, why),
            role=_role(role) or "challenger",
            scope=_scope(scope),
            share=None if share is None else _share(share),
            policy=_policy(review_at, decline_at),
        )
    _tell(moved, as_json=as_json)


@models_app.command("promote")
@said_plainly
def models_promote(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    model: Model,
    why: Why,
    scope: For = None,
    review_at: ReviewAt = None,
    decline_at: DeclineAt = None,
    slowest: Slowest = 500.0,
    who: By = None,
    as_json: Json = False,
) -> None:
    """Make a model the champion: it decides from a recorded control offset on, and a rollback leads back.

    NAME alone is the one that looks on, or is on trial, in this scope; else the one that the registry calls
    its champion.
    """
    with _mover(asked, slowest) as mover:
        moved = mover.promote(
            model, _who(who, why), scope=_scope(scope), policy=_policy(review_at, decline_at)
        )
    _tell(moved, as_json=as_json)


@models_app.command("rollback")
@said_plainly
def models_rollback(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context, model: Model, why: Why, scope: For = None, who: By = None, as_json: Json = False
) -> None:
    """Take back the champion that is named; the one before it decides again."""
    with _mover(asked) as mover:
        moved = mover.roll_back(model, _who(who, why), scope=_scope(scope))
    _tell(moved, as_json=as_json)


@models_app.command("retire")
@said_plainly
def models_retire(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    model: Model,
    why: Why,
    scope: For = None,
    role: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Which of its roles; needed where it has several.")
    ] = None,
    who: By = None,
    as_json: Json = False,
) -> None:
    """Take a model out of service; it stays published."""
    with _mover(asked) as mover:
        moved = mover.retire(model, _who(who, why), scope=_scope(scope), role=_role(role))
    _tell(moved, as_json=as_json)


@models_app.command("service")
@said_plainly
def models_service(asked: typer.Context, as_json: Json = False) -> None:
    """Show which models are in service: in which role, for which orders, with which thresholds."""
    from stream.control import in_force

    settings = settings_of(asked)
    state = in_force(settings)
    if as_json:
        typer.echo(json.dumps({"kill_switch": state.service.kill, "next_offset": state.next_offset}))
        for each in state.service.served:
            typer.echo(json.dumps(each.shown()))
        return
    for line in state.service.said():
        typer.echo(plain(line))
    if not state.service.is_for_all:
        others = "every other order" if state.service.served else "every order"
        typer.echo(
            f"{others} is decided by the model that each worker's settings name ({settings.model} here)"
        )


@models_app.command("watch")
@said_plainly
def models_watch(  # noqa: PLR0917 (typer gives them by name)
    asked: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where bundles are dropped.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="What they become, as of 'models deploy'.")] = (
        "challenger"
    ),
    scope: For = None,
    share: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Of the customers that a canary decides for.")
    ] = None,
    slowest: Slowest = 500.0,
    every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="How often to look; files that grow wait."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Take what lies there now, and end.")] = False,
    who: By = None,
    as_json: Json = False,
) -> None:
    """Publish and deploy every bundle that is dropped into a folder, until stopped (Ctrl-C).

    A bundle is a file of 'models export', checked as 'models deploy' does. What is refused gets the cause in
    NAME.reason.txt beside it, and in 'models history'; what is deployed gets NAME.deployed.txt.
    """
    import time

    from stream.deploying import Mover
    from stream.model_watch import WatchedFolder
    from stream.ports import NotStable, Unreachable
    from stream.registry import registry_with_features

    settings = settings_of(asked)
    registry = registry_with_features(settings)
    watched = WatchedFolder(
        folder,
        registry,
        Mover(settings, registry, slowest_us=slowest),
        who=who_says_so(who),
        role=_role(role) or "challenger",
        scope=_scope(scope),
        share=None if share is None else _share(share),
    )
    is_any_bad = has_looked = False
    try:
        while True:
            try:
                for each in watched.look(at_once=once):
                    is_any_bad |= not each.models
                    if as_json:
                        told = {"file": each.file.name, "models": each.models, "said": each.said}
                        typer.echo(json.dumps(told))
                    else:
                        good = "deployed" if each.models else "REFUSED"
                        typer.echo(f"{good} {plain(each.file.name)}: {plain(each.said)}")
                has_looked = True
            except (Unreachable, NotStable, OSError) as error:
                # a folder that can't be read at first is a mistake; later it may be a mount that went away
                if once or (isinstance(error, OSError) and not has_looked):
                    raise
                typer.echo(f"fraudstream: {plain(str(error))}; trying again", err=True)
            if once:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        return
    if is_any_bad:
        raise typer.Exit(1)


@models_app.command("history")
@said_plainly
def models_history(
    asked: typer.Context,
    at: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"],
            help="Say what was in service then instead; UTC unless it says otherwise.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every move of a model: what, when, by whom, why; or who was in service at a time.

    Beside the moves stand refusals, what retraining came to, and what the judge said of models on trial.
    """
    from stream.control import history
    from stream.service import MOVES, NOBODY, NOTES

    service = NOBODY
    until = None if at is None else at.replace(tzinfo=at.tzinfo or UTC)
    count = 0
    for event in history(settings_of(asked)):
        told = event.record
        if told.kind not in MOVES | NOTES or (until is not None and event.at > until):
            continue
        is_void = False
        if told.kind in MOVES:
            try:
                moved = service.after(told.kind, told.model_extra or {}, event.offset)
            except ValueError:  # as a worker sees it: no move
                continue
            is_void, service = moved is service, moved
        count += 1
        if at is None:
            shown = event.as_json() | ({"void": True} if is_void else {})
            typer.echo(json.dumps(shown) if as_json else _line(event, is_void=is_void))
    if at is not None and as_json:
        models = [each.shown() for each in service.served]
        typer.echo(json.dumps({"kill_switch": service.kill, "models": models}))
    elif at is not None:
        for line in service.said():
            typer.echo(plain(line))
        if not service.is_for_all:
            typer.echo("other orders were decided by the model that the workers' settings named")
    elif not (count or as_json):
        typer.echo("no model was moved yet: workers serve the model that their settings name")


def _line(event: "ControlEvent", *, is_void: bool) -> str:
    """`3  2026-11-22 10:00:00 UTC  model_promoted starter@2026-02-14.3f9c of country=DE by anna: …`."""
    from stream.service import KILL_OFF, KILL_ON, NOTES, Move

    told = event.record
    more = told.model_extra or {}
    what = ""
    if told.kind == KILL_ON:
        what = f" ({more.get('action')})"
    elif told.kind in NOTES:
        what = f" {more.get('model')}"
    elif told.kind != KILL_OFF:
        move = Move.model_validate(more)
        put = "to the settings' model" if move.name is None else f"{move.name}@{move.version}"
        where = "" if move.scope.is_everywhere else f" of {move.scope}"
        before = "" if move.replaces in {None, put} else f", before {move.replaces}"
        void = " (void: another move was there first)" if is_void else ""
        what = f" {put} as {move.role}{where}{before}{void}"
    return plain(
        f"{event.offset:>4}  {event.at:%Y-%m-%d %H:%M:%S} UTC  {told.kind}{what} by {told.who}: {told.why}"
    )


@kill_app.command("on")
@said_plainly
def kill_on(
    asked: typer.Context,
    why: Why,
    action: Annotated[
        str,
        typer.Option(
            metavar="ACTION",
            help="approve or review every order, or let the fallback model decide (fallback).",
        ),
    ] = "review",
    who: By = None,
    as_json: Json = False,
) -> None:
    """Take every decision from the models, in all workers within two seconds; decisions say so."""
    _switch(asked, _kill(action), _who(who, why), as_json=as_json)


@kill_app.command("off")
@said_plainly
def kill_off(asked: typer.Context, why: Why, who: By = None, as_json: Json = False) -> None:
    """Give the decisions back to the models in service."""
    _switch(asked, None, _who(who, why), as_json=as_json)


def _switch(asked: typer.Context, action: "Kill | None", who: "Who", *, as_json: bool) -> None:
    from stream.deploying import kill

    state, changed = kill(settings_of(asked), action, who)
    if as_json:
        told = {"kill_switch": state.service.kill, "next_offset": state.next_offset, "changed": changed}
        typer.echo(json.dumps(told))
        return
    now = "off" if state.service.kill is None else f"on: {state.service.kill}"
    before = "" if changed else "nothing to change: "
    typer.echo(f"{before}the kill switch is {now} (control offset {state.next_offset - 1})")


# ---------------------------------------------------------------------- what options say


def _mover(asked: typer.Context, slowest: float = 500.0) -> "Mover":
    from stream.deploying import Mover
    from stream.registry import registry_with_features

    settings = settings_of(asked)
    return Mover(settings, registry_with_features(settings), slowest_us=slowest)


def _who(who: str | None, why: str) -> "Who":
    from stream.deploying import Who

    return Who(who_says_so(who), why)


def _role(role: str | None) -> "Role | None":
    from typing import cast, get_args

    from stream.service import Role

    if role is not None and role not in get_args(Role):
        raise typer.BadParameter(f"'{role}' is none of {', '.join(get_args(Role))}", param_hint="--role")
    return cast("Role | None", role)


def _kill(action: str) -> "Kill":
    from typing import cast, get_args

    from stream.service import Kill

    if action not in get_args(Kill):
        raise typer.BadParameter(f"'{action}' is none of {', '.join(get_args(Kill))}", param_hint="--action")
    return cast("Kill", action)


def _share(percent: float) -> int:
    # the bounds first: NaN and infinity can't be rounded
    if not (0.005 < percent <= 100 and abs(round(percent * 100) - percent * 100) < 1e-6):
        raise typer.BadParameter(
            f"{percent:g} is no percentage of 0.01 to 100 with at most two decimals", param_hint="--share"
        )
    return round(percent * 100)


def _scope(told: list[str] | None) -> "Scope":
    from pydantic import ValidationError

    from stream.service import Scope

    given: dict[str, str] = {}
    # also as scopes are told, with commas: else channel=web,country=DE were a channel that no order has
    for each in (part for one in told or () for part in _ANOTHER.split(one)):
        name, equals, value = each.partition("=")
        if not equals or name not in Scope.model_fields or name in given:
            raise typer.BadParameter(
                f"'{each}' is not one of country=DE, channel=web, merchant=m17, each at most once",
                param_hint="--scope",
            )
        given[name] = value
    try:
        return Scope(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}", param_hint="--scope") from None


def _policy(review_at: float | None, decline_at: float | None) -> "Policy | None":
    from stream.models_cli import policy_of

    return policy_of(review_at, decline_at)


def _tell(moved: "Moved", *, as_json: bool) -> None:
    if as_json:
        told = moved._asdict() | {"scope": moved.scope.model_dump(exclude_none=True)}
        typer.echo(json.dumps(told))
    else:
        typer.echo(plain(str(moved)))
