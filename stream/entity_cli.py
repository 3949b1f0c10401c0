"""The command `fraudstream entity`: linked evidence of a device, a card, a merchant, a customer."""

import json
from typing import Annotated

import typer

from stream.plainly import said_plainly, settings_of

__all__ = ["entity_app"]

entity_app = typer.Typer(
    no_args_is_help=True, help="What is known of one device, card, merchant or customer, in all its orders."
)


@entity_app.command("show")
@said_plainly
def entity_show(
    asked: typer.Context,
    entity: Annotated[
        str, typer.Argument(metavar="ENTITY", help="customer, or one that the setting entities names.")
    ],
    named: Annotated[str, typer.Argument(metavar="ID", help="Its id, as orders say it.")],
    most: Annotated[
        int,
        typer.Option(metavar="COUNT", min=0, max=100_000, help="At most so many orders and customers each."),
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: one JSON object.")] = False,
) -> None:
    """Show its customers, its orders, which of them are known fraud, and when it was first and last seen.

    Reads the log of its stage (of a customer: orders, outcomes and order events) and changes nothing; a
    large topic takes a while. What the topics have lost, and what came before the entity was turned on, is
    not in it. This prints customers' data.
    """
    from stream.entity import evidence_of, told
    from stream.explain_cli import progress

    with progress() as reading:
        evidence = evidence_of(settings_of(asked), entity, named, told=reading)
    if as_json:
        typer.echo(json.dumps(evidence.as_json(most)))
        return
    for line in told(evidence, most):
        typer.echo(line)
