"""The demo's folder: held by one demo at a time, and how far it has come there."""

import contextlib
import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from stream.demo_worker import DemoError

__all__ = ["NEEDS_MB", "DemoProgress", "holding"]

NEEDS_MB = 300
"""Room the home folder must have; a first run takes about a tenth of it."""


@dataclass(slots=True)
class DemoProgress:
    """How far the demo of this home folder has come."""

    path: Path
    opened: datetime
    past_published: bool = False
    live: int = 0
    """Live orders handed out so far."""

    @classmethod
    def read(cls, home: Path, *, opened: datetime) -> Self:
        """What an earlier demo of this home left; a new one begins with a shop that opened then."""
        path = home / "demo" / "progress.json"
        try:
            known = json.loads(path.read_text())
            return cls(path, datetime.fromisoformat(known["opened"]), known["past_published"], known["live"])
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path, opened)

    def write(self) -> None:
        """Keep it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        known = {"opened": self.opened.isoformat(), "past_published": self.past_published, "live": self.live}
        fresh.write_text(json.dumps(known))
        fresh.replace(self.path)


@contextlib.contextmanager
def holding(home: Path) -> Iterator[None]:
    """Hold the home folder for one demo; refuse one that can't be written, is full or is in use."""
    folder = home / "demo"
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / "lock").open("a"))
            free_mb = shutil.disk_usage(folder).free // 1_000_000
        except OSError as error:
            raise DemoError(_unwritable(home, error)) from error
        if free_mb < NEEDS_MB:
            raise DemoError(
                f"{home.absolute()} has {free_mb:,} MB free and the demo needs {NEEDS_MB}; "
                "make room, or name another folder with FRAUDSTREAM_HOME"
            )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f"another demo runs in {home.absolute()}; end that, or give this one its own "
                "FRAUDSTREAM_HOME and FRAUDSTREAM_BROKER"
            ) from None
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
                raise
            raise DemoError(_unwritable(home, error)) from error


def _unwritable(home: Path, error: OSError) -> str:
    return (
        f"can't write in {home.absolute()}: {error.strerror}; "
        "mend that, or name another folder with FRAUDSTREAM_HOME"
    )
