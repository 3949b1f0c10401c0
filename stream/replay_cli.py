"""The commands `fraudstream replay`: past topics as a data set."""

import typer

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Past topics again, from the broker or an archive: their records, and their orders' features.",
)
