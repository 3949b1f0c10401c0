"""A database extract into the archive, without Kafka: mapped and refused as `fraudstream publish` does."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from stream.archive import Archive, filed
from stream.archive_files import chained, digests_of, divided, table_of
from stream.archive_manifest import Imported, PartitionEntry, Pending
from stream.archive_place import ArchiveError
from stream.desk import partition_of
from stream.ports import Record
from stream.publish import Left, Plan, Ready, RefusedLine, history_headers, identity_of, ready_rows
from stream.settings import Settings
from stream.sources import Source

__all__ = ["Import", "import_file"]


@dataclass(slots=True)
class Import:
    """What became of a file's rows."""

    id: str
    topic: str
    records: int = 0
    refused: int = 0
    left_out: int = 0
    was_stopped: bool = False
    is_repeat: bool = False
    """Whether the same rows were imported before; then nothing was done."""


def import_file(
    archive: Archive,
    settings: Settings,
    source: Source,
    plan: Plan,
    *,
    refused: Callable[[RefusedLine], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Import:
    """Bring in each row of a file once: all of the file, or nothing of it where it is ended before.

    Raises ArchiveError, SourceError.
    """
    if not source.is_continuable:
        raise ArchiveError("a pipe can't be told from another; save it to a file and import that")
    topic = plan.topic(settings)
    done = Import(identity_of(settings, source, plan), topic)
    manifest = archive.manifest
    for before in manifest.imports:
        if before.id == done.id:
            done.records, done.refused, done.left_out = before.rows.count, before.refused, before.left_out
            done.is_repeat = True
            return done
    known = manifest.topics.get(topic)
    partitions = settings.partitions if known is None else len(known.partitions)
    rows = PartitionEntry(next=0, first=0)
    pending = Pending("import")
    held: list[Record] = []
    held_bytes = 0
    keys: dict[str, int] = {}
    counts = Counter[int]()

    def settle() -> None:
        if not held:
            return
        digests = digests_of(held)
        table, homes = table_of(held, digests=digests, is_erased=archive.is_erased, import_id=done.id)
        contents: dict[str, bytes] = {}
        for home, part in divided(table, homes):
            entry, content = filed([part], topic, home, -1, done.id)
            pending.writes.append(entry)
            contents[entry.path] = content
        archive.write_ahead(pending, contents)
        rows.count += len(held)
        counts.update(each.partition for each in held)
        rows.digest = chained(bytes.fromhex(rows.digest), digests).hex()
        held.clear()

    try:
        for each in ready_rows(source, plan):
            if isinstance(each, Ready):
                if (partition := keys.get(each.key)) is None:
                    partition = keys[each.key] = partition_of(each.key.encode(), partitions)
                headers = history_headers(each.value)
                held.append(Record(topic, partition, rows.next, -1, each.key.encode(), each.value, headers))
                rows.next += 1
                held_bytes += len(each.value)
                if len(held) >= archive.limits.records or held_bytes >= archive.limits.bytes:
                    settle()
                    held_bytes = 0
            elif isinstance(each, Left):
                done.left_out += 1
            else:
                done.refused += 1
                refused(each)
            if stopping():
                done.was_stopped = True
                break
        else:
            settle()
    except BaseException:
        with suppress(Exception):  # what raised is to be told; the next run undoes it all the same
            archive.undo()
        raise
    if done.was_stopped:
        archive.undo()
        return done
    done.records = rows.count
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest.imports.append(
        Imported(done.id, topic, source.file, rows, partitions, done.refused, done.left_out, now, counts)
    )
    archive.commit(pending, {})
    return done
