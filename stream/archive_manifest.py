"""What an archive says of itself: which files it has, which records are in them, and what is under way.

The manifest is the truth. A file that it does not name is not part of the archive, whatever is in it.
"""

from typing import Final

import msgspec

from stream.archive_files import NO_RECORDS, SCHEMA_VERSION
from stream.archive_place import ArchiveError, Place

__all__ = [
    "DATA",
    "MANIFEST",
    "Erasure",
    "FileEntry",
    "Forgotten",
    "Gap",
    "Imported",
    "Manifest",
    "PartitionEntry",
    "Pending",
    "TopicEntry",
    "load",
    "store",
]

MANIFEST: Final = "manifest.json"
DATA: Final = "data"
"""The folder that all files lie below."""
FORMAT: Final = 1


class PartitionEntry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is archived of one partition."""

    next: int
    """The offset the next run begins with."""
    first: int
    """The offset of the first record that is there; `next` where there is none."""
    count: int = 0
    digest: str = NO_RECORDS.hex()
    """Of every record that is there, in the order of offsets, however they lie in files."""


class TopicEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A topic and its partitions."""

    id: str
    """What tells it from a topic of the same name made later."""
    partitions: dict[int, PartitionEntry]


class FileEntry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A file of the archive."""

    path: str
    topic: str
    day: str
    country: str
    partition: int
    """-1 in a file of an import, where a column says it."""
    first: int
    last: int
    rows: int
    bytes: int
    sha256: str
    import_id: str | None = None
    plain: int = 0
    """Bytes of its rows in memory, about; 0 where that was not said."""


class Pending(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is being written: all of it becomes part of the archive, or nothing.

    A run that was killed is finished by the next one where every file is whole, and undone where not.
    """

    what: str
    """append, compact, erase or import."""
    writes: list[FileEntry] = msgspec.field(default_factory=list)
    replaces: list[str] = msgspec.field(default_factory=list)
    partitions: dict[str, dict[int, PartitionEntry]] = msgspec.field(default_factory=dict)
    """By topic: what is archived of its partitions afterwards, where that changes."""


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Offsets [start, end) that the topic had lost before they were archived, and that were given up."""

    topic: str
    partition: int
    start: int
    end: int
    accepted_at: str


class Forgotten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Days before one that were deleted; records of a partition from the offset `through` on came later."""

    topic: str
    before: str
    through: dict[int, int]
    records: int
    """How many, imported ones included."""
    at: str


class Erasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Customers who were erased."""

    why: str
    at: str
    customers: int


class Imported(msgspec.Struct, forbid_unknown_fields=True):
    """A file that was brought in without Kafka."""

    id: str
    """What two imports share only if they are of the same rows, mapped the same way."""
    topic: str
    file: str
    rows: PartitionEntry
    """Its records, numbered from 0 in the order of the file."""
    partitions: int
    refused: int
    left_out: int
    at: str
    counts: dict[int, int] = {}
    """Its records, erased ones too, by partition."""


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """The whole."""

    format: int = FORMAT
    schema: int = SCHEMA_VERSION
    cluster: str | None = None
    topics: dict[str, TopicEntry] = msgspec.field(default_factory=dict)
    files: list[FileEntry] = msgspec.field(default_factory=list)
    pending: Pending | None = None
    obsolete: list[str] = msgspec.field(default_factory=list)
    """Files that were replaced, and may not be deleted yet."""
    gaps: list[Gap] = msgspec.field(default_factory=list)
    forgotten: list[Forgotten] = msgspec.field(default_factory=list)
    salt: str = ""
    """What the hashes of erased customers are made with."""
    erased: list[str] = msgspec.field(default_factory=list)
    """The hashes of erased customers."""
    is_erasing: bool = False
    """Whether files may still have rows of erased customers."""
    erasures: list[Erasure] = msgspec.field(default_factory=list)
    imports: list[Imported] = msgspec.field(default_factory=list)


def load(place: Place) -> Manifest | None:
    """The archive's manifest; None where there is no archive. Raises ArchiveError."""
    try:
        content = place.read(MANIFEST)
    except FileNotFoundError:
        return None
    try:
        found = msgspec.json.decode(content, type=_Version)
        if found.format != FORMAT:
            raise ArchiveError(
                f"the archive {place} is of format {found.format} and this program writes {FORMAT}; "
                "use the version that made it, or archive into another place"
            )
        if found.schema > SCHEMA_VERSION:
            raise ArchiveError(
                f"the archive {place} has files of schema {found.schema} and this program knows "
                f"{SCHEMA_VERSION}; use the version that wrote them"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
        _check_paths(place, manifest)
    except msgspec.MsgspecError as error:
        raise ArchiveError(
            f"{MANIFEST} in {place} is damaged ({error}); get it from a backup, or archive into another place"
        ) from error
    return manifest


def _check_paths(place: Place, manifest: Manifest) -> None:
    """Refuse a manifest that names a file elsewhere: what it names is read, replaced and deleted."""
    written = [] if manifest.pending is None else manifest.pending.writes
    replaced = [] if manifest.pending is None else manifest.pending.replaces
    for path in (*(file.path for file in (*manifest.files, *written)), *replaced, *manifest.obsolete):
        first, *others = path.split("/")
        if first != DATA or not others or not {"", ".", ".."}.isdisjoint(others):
            raise ArchiveError(
                f"{MANIFEST} in {place} is damaged (it names '{path}', which is not below {DATA}); get it "
                "from a backup, or archive into another place"
            )


class _Version(msgspec.Struct):
    format: int
    schema: int


def store(place: Place, manifest: Manifest) -> None:
    """Replace the manifest, at once or not at all."""
    manifest.files.sort(
        key=lambda file: (file.topic, file.import_id or "", file.partition, file.first, file.path)
    )
    place.write({MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1)})
