"""Where a registry's files lie: a folder, or a store of objects that is given to it.

A version is there whole or not at all, and its files never change. In a folder it is written aside, brought
to the disk and renamed. An object store has no rename, but shows an object once it was sent whole: there
the file that makes a version one, its manifest, is sent last and taken away first.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, Protocol

__all__ = ["Content", "Folder", "Objects", "Shelf", "Store", "TooLargeError"]

_AT_ONCE: Final = 16

Content = Mapping[str, bytes]
"""A version's files by their names in its folder."""


class TooLargeError(OSError):
    """A file has more bytes than it may have; no more than that were read."""


class Shelf(Protocol):
    """What a registry needs of the place where its files lie; `name` and `folder` are paths below it."""

    @property
    def address(self) -> str:
        """How a person names the place."""

    def read(self, name: str, *, limit: int) -> bytes:
        """A file's content. Raises FileNotFoundError, TooLargeError, OSError."""

    def read_all(self, names: Collection[str], *, limit: int) -> Iterator[bytes | OSError]:
        """The content of each, in the order of their names; what went wrong where one can't be read."""

    def files(self) -> Iterable[str]:
        """The paths of files, and of what killed publications have left, in no order."""

    def has(self, folder: str, *, seal: str) -> bool:
        """Whether a version lies there: whether its last file does."""

    def publish(self, folder: str, files: Content, *, seal: str, check: Callable[[Content], object]) -> None:
        """Put a version in its place for ever, all of it at once; `seal` names the file that comes last.

        `check` is given what was read back from where it was written, before anyone can see it, and stops
        the publication by raising. Raises FileExistsError where there is a version already.
        """

    def put(self, name: str, content: bytes) -> None:
        """Write a small file that may change, whole, in place of what had its name."""

    def remove(self, folder: str, *, seal: str) -> None:
        """Take a version away: at once for those who look, then its bytes."""

    def sweep(self, left: str) -> None:
        """Delete what is no version, a folder or a file."""


class Folder:
    """A registry's files in a folder of this machine, or one that it has mounted."""

    def __init__(self, root: Path) -> None:
        """The folder need not exist yet."""
        self._root = root

    @property
    def address(self) -> str:  # noqa: D102 - said in Shelf, here and below
        return str(self._root)

    def read(self, name: str, *, limit: int) -> bytes:  # noqa: D102
        # no links: a model is the bytes in its own folder; no waiting on a pipe somebody put there
        opened = os.open(
            self._root / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
        with os.fdopen(opened, "rb") as file:
            return _at_most(file, limit)

    def read_all(self, names: Collection[str], *, limit: int) -> Iterator[bytes | OSError]:  # noqa: D102
        for name in names:
            try:
                yield self.read(name, limit=limit)
            except OSError as wrong:
                yield wrong

    def files(self) -> Iterable[str]:  # noqa: D102
        found = (path for pattern in ("*/*", "*/*/*") for path in self._root.glob(pattern))
        return (str(path.relative_to(self._root)) for path in found)

    def has(self, folder: str, *, seal: str) -> bool:  # noqa: D102, ARG002 - a folder is there whole
        return (self._root / folder).exists()

    def publish(  # noqa: D102
        self, folder: str, files: Content, *, seal: str, check: Callable[[Content], object]
    ) -> None:
        place = self._root / folder
        if self.has(folder, seal=seal):
            raise FileExistsError
        place.parent.mkdir(parents=True, exist_ok=True)
        # the dot keeps an unfinished folder out of sight; the same parent keeps the rename on one disk
        unfinished = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            for name, content in files.items():
                _write(unfinished / name, content)
            unfinished.chmod(0o755)
            _sync_folder(unfinished)
            written = Folder(unfinished)
            check({name: written.read(name, limit=len(content)) for name, content in files.items()})
            try:
                unfinished.rename(place)  # refused by the system if a full folder stands there by now
            except OSError as wrong:
                if wrong.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                    raise  # a disk that fails, or a right that is missing, is nobody's publication
                raise FileExistsError from wrong
            _sync_folder(place.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def put(self, name: str, content: bytes) -> None:  # noqa: D102
        place = self._root / name
        opened, unfinished = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
        os.close(opened)
        _write(Path(unfinished), content)
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(place)
        _sync_folder(place.parent)

    def remove(self, folder: str, *, seal: str) -> None:  # noqa: D102, ARG002
        place = self._root / folder
        gone = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        place.rename(gone / "version")
        _sync_folder(place.parent)
        shutil.rmtree(gone)

    def sweep(self, left: str) -> None:  # noqa: D102
        place = self._root / left
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


class Store(Protocol):
    """What `Objects` needs of a store; stream.archive_place.Place is one."""

    address: str

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    def open(self, name: str) -> IO[bytes]:
        """An object to be read. Raises FileNotFoundError."""

    def sizes(self, folder: str) -> Mapping[str, int]:
        """Each object below a folder, with its size in bytes."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Send each, whole, in place of what had its name."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects that may be there."""


class Objects:
    """A registry's files in a store of objects, such as s3.

    Two that publish the same version in the same moment are told so at best: a store of objects refuses
    neither. A version's name has the digest of what it learned from, so theirs are the same bytes; if not,
    sha256 sums refuse what they left on load.
    """

    def __init__(self, store: Store) -> None:
        """The objects of the store are the registry's alone."""
        self._store = store

    @property
    def address(self) -> str:  # noqa: D102
        return self._store.address

    def read(self, name: str, *, limit: int) -> bytes:  # noqa: D102
        with self._store.open(name) as file:
            return _at_most(file, limit)

    def read_all(self, names: Collection[str], *, limit: int) -> Iterator[bytes | OSError]:  # noqa: D102
        def one(name: str) -> bytes | OSError:
            try:
                return self.read(name, limit=limit)
            except OSError as wrong:
                return wrong

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(one, names)

    def files(self) -> Iterable[str]:  # noqa: D102
        return self._store.sizes("")

    def has(self, folder: str, *, seal: str) -> bool:  # noqa: D102
        return self._store.exists(f"{folder}/{seal}")

    def publish(  # noqa: D102
        self, folder: str, files: Content, *, seal: str, check: Callable[[Content], object]
    ) -> None:
        if self.has(folder, seal=seal):
            raise FileExistsError
        before = {f"{folder}/{name}": content for name, content in files.items() if name != seal}
        sealed = f"{folder}/{seal}"
        self._store.write(before)
        try:
            read = {name: self._read_back(folder, name, files) for name in files if name != seal}
            check(read | {seal: files[seal]})
        except BaseException:
            if not self._store.exists(sealed):
                self._store.delete(before)
            raise
        if self.has(folder, seal=seal):
            raise FileExistsError
        self._store.write({sealed: files[seal]})
        if self._read_back(folder, seal, files) != files[seal]:
            raise FileExistsError

    def _read_back(self, folder: str, name: str, files: Content) -> bytes:
        return self.read(f"{folder}/{name}", limit=len(files[name]))

    def put(self, name: str, content: bytes) -> None:  # noqa: D102
        self._store.write({name: content})

    def remove(self, folder: str, *, seal: str) -> None:  # noqa: D102
        self._store.delete([f"{folder}/{seal}"])
        self._store.delete(self._store.sizes(folder))

    def sweep(self, left: str) -> None:  # noqa: D102
        self._store.delete(self._store.sizes(left))


def _at_most(file: IO[bytes], limit: int) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise TooLargeError
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
