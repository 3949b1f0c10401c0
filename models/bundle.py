"""Published versions in one file: a tar archive that has one form for one content, and is read in no other.

A reader of tar archives must fear links, devices, paths that lead elsewhere, names that come twice, sizes
that lie and extensions nobody asked for. Here every header must be, to the byte, the one that the writer
makes for that name and size, and names must rise: so there is nothing of that to read.
"""

import re
import tarfile
from collections.abc import Mapping
from typing import Final

from models.errors import RegistryError

__all__ = ["LARGEST", "is_bundle", "pack", "unpack"]

LARGEST: Final = 1024 * 1024 * 1024
"""Bytes of a bundle, at most."""

_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = b"\0" * (2 * _BLOCK)
_NAME_AT: Final = slice(0, 100)
_PREFIX_AT: Final = slice(345, 500)
_MAGIC_AT: Final = slice(257, 263)
_SIZE_AT: Final = slice(124, 135)
_NAME: Final = re.compile(
    rb"[a-z][a-z0-9_]{0,63}/[0-9]{4}-[0-9]{2}-[0-9]{2}\.[0-9a-f]{4,8}/[a-z][a-z0-9_-]{0,30}(\.[a-z0-9_]{1,16}){0,2}"
)


def pack(files: Mapping[str, bytes]) -> bytes:
    """The bundle of files that are named `name/version/file`; the same files give the same bytes."""
    parts = []
    for name in sorted(files):
        content = files[name]
        parts += [_header(name.encode(), len(content)), content, b"\0" * (-len(content) % _BLOCK)]
    return b"".join((*parts, _END))


def is_bundle(content: bytes) -> bool:
    """Whether it says that it is a tar archive; whether it is a sound bundle, `unpack` says."""
    return content[_MAGIC_AT] == b"ustar\0"


def unpack(bundle: bytes) -> dict[str, bytes]:
    """The files of a bundle by `name/version/file`.

    Raises RegistryError for bytes that `pack` does not make.
    """
    files: dict[str, bytes] = {}
    at, last = 0, b""
    while bundle[at : at + _BLOCK] != _END[:_BLOCK]:
        header = bundle[at : at + _BLOCK]
        before, name = header[_PREFIX_AT].rstrip(b"\0"), header[_NAME_AT].rstrip(b"\0")
        name = b"/".join(each for each in (before, name) if each)
        size = header[_SIZE_AT]
        if not (_NAME.fullmatch(name) and re.fullmatch(rb"[0-7]{11}", size)):
            raise _refused(f"at byte {at:,} there is no header of a model's file")
        if header != _header(name, int(size, 8)):
            raise _refused(f"the header of {name.decode()} is not as fraudstream writes it")
        if name <= last:
            raise _refused(f"{name.decode()} stands after {last.decode()}, and names must rise")
        at, last = at + _BLOCK, name
        content = bundle[at : at + int(size, 8)]
        if len(content) != int(size, 8):
            raise _refused(f"it ends within {name.decode()}")
        at += len(content)
        padding = bundle[at : at + -len(content) % _BLOCK]
        if padding != b"\0" * (-len(content) % _BLOCK):
            raise _refused(f"something stands between {name.decode()} and the next file")
        at += len(padding)
        files[last.decode()] = content
    if bundle[at:] != _END:
        raise _refused("it does not end as it should")
    if not files:
        raise _refused("it is empty")
    return files


def _header(name: bytes, size: int) -> bytes:
    said = tarfile.TarInfo(name.decode())
    said.size = size
    return said.tobuf(tarfile.USTAR_FORMAT)


def _refused(why: str) -> RegistryError:
    return RegistryError(
        f"this is no bundle of a model, or a damaged one: {why}; make it again: fraudstream models export"
    )
