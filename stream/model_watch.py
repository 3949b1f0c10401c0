"""A watched folder: a bundle dropped there is proven, published and deployed, or told beside it why not."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from models.bundle import LARGEST, is_bundle
from models.errors import ModelError
from models.registry import Registry
from stream.deploying import AlreadySo, Mover, Who
from stream.errors import Refusal
from stream.model_import import publish_bundle
from stream.plainly import plain
from stream.ports import NotStable, Refused, Unreachable
from stream.service import EVERYWHERE, Role, Scope

__all__ = ["REASON", "TAKEN", "Dropped", "WatchedFolder"]

REASON: Final = ".reason.txt"
"""What is added to the name of a bundle for the file that says why it was refused."""

TAKEN: Final = ".deployed.txt"
"""The same for the file that says what came of a good one; with either a bundle is not tried again."""

_LONGEST_NAME: Final = 200
_LONGEST_FILE: Final = 255
"""Bytes of a file's name, at most, on nearly every disk."""


class Dropped(NamedTuple):
    """What came of a file."""

    file: Path
    models: tuple[str, ...]
    """What is deployed now; empty where it was refused."""
    said: str
    """What the file beside it says."""


class _Seen(NamedTuple):
    size: int
    changed_at: int


class WatchedFolder:
    """Deploys the bundles of a folder, one after the other, each once."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        mover: Mover,
        *,
        who: str,
        role: Role = "challenger",
        scope: Scope = EVERYWHERE,
        share: int | None = None,
    ) -> None:
        """`registry` finds the features of the settings, and has the key that bundles must be signed with."""
        self._folder = folder
        self._registry = registry
        self._mover = mover
        self._who = who
        self._role = role
        self._scope = scope
        self._share = share
        self._seen: dict[Path, _Seen] = {}

    def look(self, *, at_once: bool = False) -> Iterator[Dropped]:
        """Take what lies there; a file that still grows is left for the next look unless `at_once`.

        Raises OSError for a folder or a registry that can't be read or written, Unreachable where nobody
        answers: then the file is left for another look too.
        """
        there = {
            file: seen for file in sorted(self._folder.iterdir()) if (seen := self._new(file)) is not None
        }
        before, self._seen = self._seen, there
        for file, seen in there.items():
            if at_once or before.get(file) == seen:
                yield self._take(file, seen)

    def _new(self, file: Path) -> _Seen | None:
        """How a file stands that was not tried as it is now."""
        if file.name.startswith(".") or file.name.endswith((REASON, TAKEN)) or not file.is_file():
            return None
        try:
            told = file.stat()
        except FileNotFoundError:  # whoever dropped it has taken it away
            return None
        for ending in (REASON, TAKEN):
            answer = _beside(file, ending)
            if answer.exists() and answer.stat().st_mtime_ns >= told.st_mtime_ns:
                return None
        return _Seen(told.st_size, told.st_mtime_ns)

    def _take(self, file: Path, seen: _Seen) -> Dropped:
        named = plain(file.name)
        who = Who(self._who, f"{named} was dropped into {plain(self._folder.name)}")
        try:
            models = self._adopted(_content(file), named)
        except (ModelError, Refusal) as error:
            self._mover.refuse(named[:_LONGEST_NAME], who, str(error))
            return self._answer(file, seen, REASON, (), str(error))
        moved: list[str] = []
        for model in models:
            try:
                moved.append(
                    str(self._mover.deploy(model, who, role=self._role, scope=self._scope, share=self._share))
                )
            except (Unreachable, NotStable):
                raise
            except AlreadySo as error:
                moved.append(str(error))
            except (ModelError, Refused) as error:
                # those before it are in service all the same
                return self._answer(file, seen, REASON, (), "\n".join((*moved, str(error))))
        return self._answer(file, seen, TAKEN, models, "\n".join(moved))

    def _adopted(self, content: bytes, named: str) -> tuple[str, ...]:
        """Publish what is in the bundle, and answer its models: whatever is no submodel of another one."""
        if len(content) > LARGEST or not is_bundle(content):
            raise Refused(
                f"{named} is no bundle of 'fraudstream models export', or has more than {LARGEST:,} bytes"
            )
        published = [model for model, _ in publish_bundle(self._registry, content, sign=False)]
        parents: set[str] = set()
        for model in published:
            name, _, version = model.partition("@")
            parents.update(self._registry.manifest(name, version).parents)
        return tuple(model for model in published if model not in parents)

    @staticmethod
    def _answer(file: Path, seen: _Seen, beside: str, models: tuple[str, ...], said: str) -> Dropped:
        for other in (REASON, TAKEN):
            _beside(file, other).unlink(missing_ok=True)
        answer = _beside(file, beside)
        answer.write_text(f"{said}\n", encoding="utf-8")
        # as old as what it is about: a file that was replaced meanwhile is tried again
        os.utime(answer, ns=(seen.changed_at, seen.changed_at))
        return Dropped(file, models, said)


def _content(file: Path) -> bytes:
    """A file's content, up to a byte more than a bundle may have. Raises Refused where it can't be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise Refused(f"{plain(file.name)} can't be read: {error.strerror}; drop it again") from error


def _beside(file: Path, ending: str) -> Path:
    """The file that says what came of another: a name that would become too long is cut, and told apart."""
    name = file.name
    if len(os.fsencode(name + ending)) > _LONGEST_FILE:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = f"{os.fsencode(name)[:_LONGEST_NAME].decode(errors='ignore')}.{digest}"
    return file.with_name(name + ending)
