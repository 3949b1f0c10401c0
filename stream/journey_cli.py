"""The command `fraudstream explain`: a decision's journey in a terminal, as JSON, or as a page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.verify_cli import Archive, progress

if TYPE_CHECKING:
    from stream.settings import Settings

__all__ = ["mount"]


def mount(
    app: typer.Typer,
    settings: Callable[..., "Settings"],
    said_plainly: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    """Put the command into a command line, with its settings and its way of telling refusals."""

    @app.command("explain")
    @said_plainly
    def explain(
        order_id: Annotated[str, typer.Argument(metavar="ORDER_ID", help="The order.")],
        *,
        html: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write a page to this file, which needs nothing else."),
        ] = None,
        archive: Archive = None,
        most: Annotated[
            int,
            typer.Option(metavar="ORDERS", min=0, max=100_000, help="At most so many past orders a feature."),
        ] = 5,
        shap: Annotated[
            bool,
            typer.Option(
                "--shap", help="Also exact Shapley values, against orders the model decided before; seconds."
            ),
        ] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON object for each time the order arrived.")
        ] = False,
    ) -> None:
        """Show how an order was decided: what was known, what each model said, why, and what came of it.

        The order, the history used, features with units and missing marks, the score of each model,
        thresholds, reasons, versions, times and places, what other models said in the shadow, outcomes since;
        and whether deciding it again gives the same bytes. Its partition is read from the beginning, so a
        large topic takes a while; nothing is changed. This prints a customer's data.
        """
        if html is not None and as_json:
            raise typer.BadParameter("--html FILE or --json, not both")
        from stream.journey import journeys_of  # noqa: PLC0415 (help must be quick)
        from stream.journey_pages import page, said  # noqa: PLC0415
        from stream.replay_topics_cli import ends_plainly  # noqa: PLC0415

        with ends_plainly(), progress("reading the past") as told:
            journeys = journeys_of(
                settings(), order_id, archive=archive, most=most, with_shapley=shap, told=told
            )
        if html is not None:
            html.write_text(page(order_id, journeys), encoding="utf-8", errors="backslashreplace")
            typer.echo(f"{html}: {len(journeys)} time{'' if len(journeys) == 1 else 's'} the order arrived")
            return
        for line in map(json.dumps, (each.as_json() for each in journeys)) if as_json else said(journeys):
            typer.echo(line)
