"""Where an archive lies: a folder, or any address that pyarrow's filesystems know, such as s3://bucket/shop.

A file is there whole or not at all: in a folder it is written aside, brought to the disk and renamed; an
object store shows an object once it was sent whole.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import fs

from stream.errors import Refusal

__all__ = ["ArchiveError", "Place", "PlaceError"]

_ASIDE: Final = ".aside"
_LOCK: Final = ".lock"
_AT_ONCE: Final = 4


class ArchiveError(Refusal):
    """The archive can't do what was asked, or is not what it says; the message says where and what to do."""


class PlaceError(ArchiveError, OSError):
    """A place can't be read or written; whoever knows nothing of archives sees an OSError."""


class Place:
    """The files of one archive, named by their paths below its root."""

    def __init__(self, address: str, filesystem: Any = None) -> None:
        """`filesystem` is pyarrow's, with `address` a path of it; found by the address when absent.

        Raises ArchiveError.
        """
        self.address = _without_secrets(address)
        if not address.strip():
            raise ArchiveError("an archive has to lie somewhere; name a folder or an address")
        try:
            if filesystem is not None:
                self._files, self._root = filesystem, address.rstrip("/")
            elif "://" in address:
                self._files, self._root = fs.FileSystem.from_uri(address.rstrip("/"))
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(address).absolute())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ArchiveError(
                f"'{self}' can't be opened ({_first_line(error)}); name a folder or an address such as "
                "s3://bucket/shop, with its credentials in the environment"
            ) from error
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        self._lock: int | None = None

    def __str__(self) -> str:
        return self.address

    def path(self, name: str) -> str:
        """A file's path as its filesystem has it."""
        return f"{self._root}/{name}" if name else self._root

    def exists(self, name: str) -> bool:
        """Whether there is such a file. Raises PlaceError."""
        with self._told(f"look for {name}"):
            return bool(self._files.get_file_info(self.path(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError, PlaceError."""
        with self._told(f"read {name}"), self._files.open_input_stream(self.path(name)) as opened:
            content: bytes = opened.read()
        return content

    def open(self, name: str) -> Any:
        """A file to be read here and there. Raises FileNotFoundError, PlaceError."""
        with self._told(f"open {name}"):
            return self._files.open_input_file(self.path(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Each file below a folder, with its size in bytes. Raises PlaceError."""
        asked = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        with self._told(f"list {folder}"):
            return {
                str(PurePosixPath(found.path).relative_to(self._root)): found.size
                for found in self._files.get_file_info(asked)
                if found.type == fs.FileType.File
            }

    @contextmanager
    def _told(self, doing: str, *, may_be_missing: bool = True) -> Iterator[None]:
        """Say where it failed and why; that a file is not there stays FileNotFoundError."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                raise
            raise PlaceError(
                f"can't {doing} in {self}: {_first_line(error)}; see to its rights, its room and the way to "
                "it, then run this again"
            ) from error

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write each file, whole and lasting, in place of what had its name. Raises PlaceError."""
        with self._told("write", may_be_missing=False):
            self._write(files)

    def _write(self, files: Mapping[str, bytes]) -> None:
        if not self.is_local:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._send, files, files.values()))
            return
        aside = Path(self._root, _ASIDE)
        aside.mkdir(parents=True, exist_ok=True)
        named = {name: aside / f"{number}" for number, name in enumerate(files)}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(_write_through, named.values(), files.values()))
            folders: set[Path] = set()
            for name, written in named.items():
                final = Path(self._root, name)
                folders.update(_made(final.parent, Path(self._root)))
                written.replace(final)
            list(pool.map(_sync, folders))

    def _send(self, name: str, content: bytes) -> None:
        path = self.path(name)
        try:
            out = self._files.open_output_stream(path)
        except FileNotFoundError:  # a filesystem that has folders, unlike an object store
            self._files.create_dir(str(PurePosixPath(path).parent), recursive=True)
            out = self._files.open_output_stream(path)
        with out:
            out.write(content)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files that may be there, and the folders that are left empty. Raises PlaceError."""
        folders: set[Path] = set()
        for name in names:
            with suppress(FileNotFoundError), self._told(f"delete {name}"):
                self._files.delete_file(self.path(name))
            if self.is_local:
                folders.update(Path(self._root, *parents) for parents in _parents(name))
        for folder in sorted(folders, reverse=True):
            with suppress(OSError):  # not empty
                folder.rmdir()

    def sweep_aside(self) -> None:
        """Delete what a run that was killed has left half written."""
        if self.is_local:
            self.delete(self.sizes(_ASIDE))

    def lock(self) -> None:
        """Refuse a second writer; only a folder on this machine can be locked. Raises ArchiveError."""
        if not self.is_local:
            return
        root = Path(self._root)
        with self._told("write", may_be_missing=False):
            root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            raise ArchiveError(
                f"another program writes the archive {self.address}; wait until it has ended, or stop it"
            ) from None

    def unlock(self) -> None:
        """Let another writer in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _parents(name: str) -> Sequence[tuple[str, ...]]:
    """The folders above a file, but not the first."""
    parts = PurePosixPath(name).parts[:-1]
    return [parts[:length] for length in range(2, len(parts) + 1)]


def _made(folder: Path, root: Path) -> list[Path]:
    """Make a folder, and name all whose entries have changed."""
    changed = [folder]
    missing = folder
    while not missing.exists() and missing != root:
        missing = missing.parent
        changed.append(missing)
    folder.mkdir(parents=True, exist_ok=True)
    return changed


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _without_secrets(address: str) -> str:
    """The address as it may be shown: pyarrow takes keys in it, as s3://KEY:SECRET@bucket."""
    scheme, divider, rest = address.partition("://")
    front, slash, path = rest.partition("/")
    return f"{scheme}{divider}{front.rpartition('@')[2]}{slash}{path}" if divider else address


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
