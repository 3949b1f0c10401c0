"""How commands say things: a refusal in one line, and nobody's text as an order to a terminal."""

import errno
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from stream.settings import Settings

__all__ = [
    "at_ms",
    "plain",
    "refuse",
    "said_plainly",
    "settings_of",
    "who_says_so",
    "write_no_more",
    "write_whole",
]


def settings_of(asked: typer.Context) -> "Settings":
    """The settings that the command line was given. Raises SettingsError."""
    from stream.settings import load_settings

    return load_settings(asked.find_root().params.get("config"))


def who_says_so(who: str | None) -> str:
    """The name that a change is kept under: the one given, or the user's."""
    import getpass

    try:
        return getpass.getuser() if who is None else who
    except (KeyError, OSError):  # a container's user may have no name
        raise typer.BadParameter("this user has no name; say who decides it", param_hint="--who") from None


def write_whole(to: Path, text: str) -> None:
    """Write a file for others to read, whole or not at all."""
    unfinished = to.with_name(f".{to.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(to)


def plain(text: str) -> str:
    """Text that anyone may have written, as one line that gives a terminal no orders."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def at_ms(ms: int) -> str:
    """A broker's time, milliseconds since 1970, as a person reads it."""
    return datetime.fromtimestamp(max(ms, 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def refuse(message: object) -> NoReturn:
    """One line on stderr, and exit code 1."""
    told = "\n".join(map(plain, str(message).split("\n")))  # it may quote what anyone has written
    typer.echo(f"fraudstream: {told}", err=True)
    raise typer.Exit(1)


def said_plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Tell a refusal in one line; a traceback is kept for mistakes of ours."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()  # a full disk is said here, and not by an interpreter that is ending
        except BrokenPipeError:  # `| head` has seen enough
            write_no_more()
            raise typer.Exit(0) from None
        except OSError as error:
            if isinstance(error, _refusals()):
                refuse(error)
            if error.filename is None and error.errno not in {errno.ENOSPC, errno.EIO}:
                raise  # not of a file that somebody named
            where = f"'{error.filename}'"
            if error.filename is None:
                where = "standard output"
                write_no_more()
            refuse(f"can't use {where}: {error.strerror}; name one that you may use, on a disk with room")
        except Exception as error:
            if isinstance(error, _refusals()):
                refuse(error)
            if type(error).__name__ == "KafkaException":  # not imported for it: help must be quick
                refuse(f"{error.args[0].str()}; 'fraudstream doctor' looks for the cause")
            raise

    return run


def write_no_more() -> None:
    """Send what is left in standard output nowhere, or the interpreter would fail over it when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # a test's output is no file
        return


def _refusals() -> tuple[type[Exception], ...]:
    """What is said in one line; the lower packages know nothing of `stream`, so theirs are named here."""
    from features.errors import FeatureDefinitionError, FeatureValueError
    from features.history import RowVersionError
    from models.errors import ModelError
    from stream.errors import Refusal

    return Refusal, ModelError, FeatureDefinitionError, FeatureValueError, RowVersionError
