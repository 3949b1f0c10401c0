"""How fast topics are archived and read back, and what an order costs on disk.

    python tests/bench/archive.py                  # the Handbook's 622,892 orders, else generated ones
    python tests/bench/archive.py --orders 50000
    python tests/bench/archive.py --smoke

The orders are published to a real broker; `fraudstream archive run` archives them as a process of its own,
and every record is read back and held against the topics. The archive is deleted and made again, and has
the same digests.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from stream.archive import ArchivableTopics, ArchiveRecorded
from stream.archive_manifest import load
from stream.archive_place import Place
from stream.archive_verify import verify
from stream.publish import publish
from stream.settings import Settings
from tests.bench.real import TRANSACTIONS, transactions
from tests.bench.results import Cell, record
from tests.faults.stage import StageError, end_on_sigterm, make_topics, running_broker, temporary_home
from tests.running import environment

ORDERS = 622_892
A_MEASUREMENT = 100_000
"""With fewer orders the figures are of starting up, and no target is set for them."""
RECORDS_A_SECOND = 50_000
READ_A_SECOND = 100_000


def lines(count: int) -> Iterator[bytes]:
    """The Handbook's orders, or such as a shop of a few countries would send where it is absent."""
    if TRANSACTIONS.exists():
        for each in transactions(count):
            yield each.line()
        return
    for number in range(count):
        told = {
            "order_id": f"o{number}",
            "customer_id": f"c{number % 5_000}",
            "placed_at": f"2026-01-{1 + number % 28:02}T{number % 24:02}:{number % 60:02}:00Z",
            "amount": 1_000 + number % 90_000,
            "currency": "EUR",
            "country": ("DE", "FR", "AT", "NL")[number % 4],
        }
        yield json.dumps(told).encode() + b"\n"


def archived(settings: Settings) -> tuple[Mapping[str, int | float], float]:
    """What `fraudstream archive run` said, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "stream.cli", "archive", "run", "--json"],
        env={**os.environ, **environment(settings)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StageError(f"archive run ended with code {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told: dict[str, int | float] = json.loads(done.stdout)
    return told, used


def digests(place: Place) -> dict[str, list[str]]:
    """Of each topic, its partitions' digests."""
    manifest = load(place)
    if manifest is None:
        raise StageError(f"there is no archive in {place}")
    return {
        topic: [state.digest for state in entry.partitions.values()]
        for topic, entry in manifest.topics.items()
    }


def play(orders: int) -> tuple[dict[str, Cell], list[str]]:
    """One run: the figures, and what is wrong."""
    with temporary_home("archive") as home, running_broker(home) as broker:
        settings = Settings(broker=broker.bootstrap, home=home, partitions=8, group="archive", worker="bench")
        make_topics(settings)
        sent = list(lines(orders))
        publish(settings, sent)
        place = Place(str(home / "archive"))
        told, used = archived(settings)
        first = digests(place)
        shutil.rmtree(home / "archive")
        again, _ = archived(settings)
        recorded = ArchiveRecorded(place)
        topic = settings.topics.orders
        began, cpu_began = time.monotonic(), time.process_time()
        read = 0
        for partition in range(recorded.partitions(topic)):
            for chunk in recorded.read((topic, partition), *recorded.bounds((topic, partition))):
                read += len(chunk)
        read_s, read_cpu = time.monotonic() - began, time.process_time() - cpu_began
        source = ArchivableTopics(settings)
        try:
            found = verify(place, source)
        finally:
            source.close()
        same = digests(place) == first
    rate = told["records"] / told["seconds"]
    figures: dict[str, Cell] = {
        "orders": len(sent),
        "archived": int(told["records"]),
        "archived/s": rate,
        "archived/s, made again": again["records"] / again["seconds"],
        "archiver, CPU µs a record, starting included": used / len(sent) * 1e6,
        "files": int(told["files"]),
        "bytes an order, archived": told["bytes"] / len(sent),
        "bytes an order, as JSON": sum(map(len, sent)) / len(sent),
        "read back": read,
        "read back/s": read / read_s,
        "reader, CPU µs a record": read_cpu / max(read, 1) * 1e6,
        "compared with the topics": found.compared,
        "compared/s": found.compared / found.seconds,
        "differences": len(found.differences),
        "digests the same when made again": "yes" if same else "no",
    }
    wrong = [*found.differences[:3]]
    if not told["records"] == read == found.compared == len(sent):
        wrong.append(
            f"{told['records']} of {len(sent)} orders archived, {read} read, {found.compared} compared"
        )
    if not same:
        wrong.append("made again, the archive has other digests")
    if orders >= A_MEASUREMENT:
        if rate < RECORDS_A_SECOND:
            wrong.append(f"{rate:,.0f} archived/s, {RECORDS_A_SECOND:,} wanted")
        if read / read_s < READ_A_SECOND:
            wrong.append(f"{read / read_s:,.0f} read back/s, {READ_A_SECOND:,} wanted")
    return figures, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, judge; 1 when anything is wrong or a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=ORDERS, help=f"how many (default {ORDERS:,})")
    parser.add_argument("--smoke", action="store_true", help="3,000 orders, nothing recorded")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    figures, wrong = play(3_000 if arguments.smoke else arguments.orders)
    data = "the Handbook's" if TRANSACTIONS.exists() else "generated"
    record(
        "Archive",
        figures,
        f"{data} orders in 8 partitions; archiver and broker on the same machine."
        + "".join(f" WRONG: {each}." for each in wrong),
        keep=not arguments.smoke,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
