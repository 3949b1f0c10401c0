"""The command `fraudstream models judge`: who is looked at, how often, and what is told of it."""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stream.compare_cli import Json
from stream.learn_cli import moment
from stream.plainly import plain, settings_of
from stream.replay_topics_cli import ends_plainly, opened
from stream.verify_cli import Archive

if TYPE_CHECKING:
    from stream.judging import Judged

__all__ = ["models_judge"]

_CRASHED: Final = 70


def models_judge(
    asked: typer.Context,
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Only these, NAME or NAME@VERSION.")
    ] = None,
    *,
    archive: Archive = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on looking until stopped (Ctrl-C), instead of once.")
    ] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How often canaries are looked at.")
    ] = 30.0,
    challengers_every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="The same of challengers, which takes longer.")
    ] = 3600.0,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As if it were then; with --dry-run only [default: now]."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say the verdicts, move nothing and write nothing.")
    ] = False,
    who: Annotated[
        str, typer.Option("--who", metavar="NAME", help="Under which name moves are kept.")
    ] = "judge",
    as_json: Json = False,
) -> None:
    """Judge the models on trial: promote challengers that passed every gate, take back bad canaries.

    A challenger that costs more, decides too much else, or gives no answer in time is retired. What is asked
    are the settings 'gates.…' and 'guardrails.…' (docs/loop.md). Every verdict that is new is a control
    record, with its figures. From cron, or left running with --watch; two at once move nothing twice.
    """
    from stream.judging import Trials
    from stream.registry import registry_with_features

    if as_of is not None and not dry_run:
        raise typer.BadParameter("only --dry-run judges another time than now", param_hint="--as-of")
    settings = settings_of(asked)
    registry = registry_with_features(settings)

    def trials(place: str | None) -> Trials:
        return Trials(
            settings,
            opened(settings, place),
            registry,
            who=who,
            models=model or (),
            as_of=moment(as_of, "--as-of"),
            dry_run=dry_run,
        )

    # a canary is judged by its newest orders, which no archive has yet
    canaries, challengers = trials(None), trials(archive)
    told = _Told(as_json=as_json, all_of_it=not watch)
    if not watch:
        with ends_plainly():
            failed = told.tell([*canaries.canaries(), *challengers.challengers()])
        if failed:
            raise typer.Exit(1)
        return
    # beside each other: challengers take as long as there is past, and a canary must not wait for that
    beside = threading.Thread(
        target=_or_the_process_ends,
        args=(partial(_look_on, challengers.challengers, told.tell, every=challengers_every, again=every),),
        name="challengers",
        daemon=True,
    )
    beside.start()
    with suppress(KeyboardInterrupt):
        _look_on(canaries.canaries, told.tell, every=every, again=every)


def _or_the_process_ends(look_on: Callable[[], None]) -> None:
    try:
        look_on()
    except BaseException:  # noqa: BLE001 - whatever ends it, the other half must not go on alone
        traceback.print_exc()
        os._exit(_CRASHED)


def _look_on(
    look: "Callable[[], Iterator[Judged]]",
    tell: "Callable[[Iterator[Judged]], object]",
    *,
    every: float,
    again: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look every so many seconds until interrupted, and `again` so soon after a look that failed."""
    from stream.errors import Refusal

    while True:
        began, wait = time.monotonic(), every
        try:
            tell(look())
        except Refusal as error:
            typer.echo(f"fraudstream: {error}; looking again", err=True)
            wait = min(again, every)
        sleep(max(0.0, began + wait - time.monotonic()))


class _Told:
    """Tells verdicts; of those that are as they were only on demand."""

    def __init__(self, *, as_json: bool, all_of_it: bool) -> None:
        self._as_json = as_json
        self._all_of_it = all_of_it
        self._before: dict[int, tuple[str, tuple[str, ...]]] = {}

    def tell(self, judged: "Iterator[Judged] | list[Judged]") -> bool:
        """Tell them as they come, and whether one of them could not be done."""
        failed = False
        for each in judged:
            now = each.verdict.kind, each.verdict.unmet
            is_new = self._before.get(each.on_trial.offset) != now
            self._before[each.on_trial.offset] = now
            failed |= bool(each.done) and not each.moved
            if self._as_json and (self._all_of_it or is_new or each.done):
                typer.echo(json.dumps(each.as_json()))
            elif self._all_of_it or is_new or each.done:
                for line in _lines(each, gates=self._all_of_it):
                    typer.echo(plain(line))
        return failed


def _lines(judged: "Judged", *, gates: bool) -> Iterator[str]:
    verdict = judged.verdict
    yield f"{judged.on_trial}: {verdict.kind.replace('_', ' ').upper()}: {verdict.why}"
    failed = "NOT YET" if verdict.kind == "wait" else "FAILED"
    for each in verdict.gates if gates else ():
        yield f"  {'passed' if each.passed else failed}  {each.name}: {each.said}"
    if judged.done:
        yield f"  {judged.done}"
