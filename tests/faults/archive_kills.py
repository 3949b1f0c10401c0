"""A real archiver killed at random, again and again, and its archive looked at after every kill.

    python tests/faults/archive_kills.py              # 50 kills
    python tests/faults/archive_kills.py --short      # 5

Orders of several countries go to a real broker all the while. `fraudstream archive run` writes them in small
commits, compacts them, and is killed (SIGKILL) after a random moment. After each kill every file that the
manifest names is whole and has the records it says; after the run that follows, a glob over data/ has every
record of the topics once: no duplicate, no hole, no half file. An archive made anew at the end has the same
digests.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import pyarrow.dataset as ds

from stream.archive import ArchivableTopics
from stream.archive_manifest import Manifest, load
from stream.archive_place import Place
from stream.archive_verify import verify
from stream.settings import Settings
from tests.bench.results import Cell, record
from tests.faults.stage import StageError, end_on_sigterm, make_topics, running_broker, temporary_home
from tests.running import environment, send

COUNTRIES = ("DE", "FR", "AT", None)
ORDERS_A_ROUND = 6_000


@dataclass(slots=True)
class Seen:
    """What became of the kills."""

    kills: int = 0
    in_a_commit: Counter[str] = field(default_factory=Counter)
    """What was under way when it was killed, as the manifest says."""
    beside: int = 0
    """Kills that left files which the manifest did not name."""
    records: int = 0
    wrong: list[str] = field(default_factory=list)


def some_orders(first: int, count: int) -> list[tuple[bytes, bytes]]:
    """Orders with their keys."""
    made = []
    for number in range(first, first + count):
        customer = f"c{number % 97}"
        told = {
            "order_id": f"o{number}",
            "customer_id": customer,
            "placed_at": "2026-01-01T00:00:00Z",
            "amount": number,
            "currency": "EUR",
            "country": COUNTRIES[number % len(COUNTRIES)],
        }
        made.append((customer.encode(), json.dumps(told).encode()))
    return made


def an_archiver(settings: Settings) -> subprocess.Popen[bytes]:
    """`fraudstream archive run` as a process of its own, which writes as often as it can."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "stream.cli", "archive", "run"),
            *("--follow", "--every", "0.1", "--commit-records", "250", "--files-a-day", "3"),
        ],
        env={**os.environ, **environment(settings)},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_a_commit(
    root: Path, archiver: subprocess.Popen[bytes], before: int, chance: random.Random
) -> None:
    """Until its first commit, so that it dies writing and not starting, and then a random while.

    Mostly until another commit is under way as well: these take less time than what lies between them.
    """
    manifest = root / "manifest.json"
    deadline = time.monotonic() + 60
    while archiver.poll() is None and time.monotonic() < deadline:
        if manifest.exists() and manifest.stat().st_mtime_ns != before:
            break
        time.sleep(0.001)
    time.sleep(chance.expovariate(1 / 0.1))
    if chance.random() < 0.75:
        wanted = chance.choice((b'"what": "append"', b'"what": "compact"'))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and wanted not in manifest.read_bytes():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))


def run_once(settings: Settings) -> None:
    """A run that is left to end."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stream.cli", "archive", "run", "--commit-records", "50000"),
            *("--files-a-day", "3"),
        ],
        env={**os.environ, **environment(settings)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StageError(f"archive run ended with code {done.returncode}: {done.stderr}")


def globbed(root: Path) -> Counter[tuple[str, int, int]]:
    """Every record that a glob finds, and how often."""
    if not list(root.glob("data/**/*.parquet")):
        return Counter()
    rows = ds.dataset(root / "data", partitioning="hive").to_table(columns=["topic", "partition", "offset"])
    return Counter(zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True))


def manifest_of(root: Path) -> Manifest:
    """The archive's manifest; an empty one where there is none yet."""
    return load(Place(str(root))) or Manifest()


def play(kills: int, seed: int) -> Seen:
    """Kill so often; what was seen."""
    chance, seen = random.Random(seed), Seen()
    with temporary_home("archive-kills") as home, running_broker(home) as broker:
        settings = Settings(broker=broker.bootstrap, home=home, partitions=4, group="kills", worker="kills")
        make_topics(settings)
        root = home / "archive"
        sent = 0
        for _ in range(kills):
            send(settings, some_orders(sent, ORDERS_A_ROUND))
            sent += ORDERS_A_ROUND
            before = (root / "manifest.json").stat().st_mtime_ns if root.exists() else 0
            archiver = an_archiver(settings)
            try:
                wait_for_a_commit(root, archiver, before, chance)
            finally:
                code = archiver.poll()
                archiver.kill()
                _, said = archiver.communicate(timeout=20)
            if code is not None:
                raise StageError(f"the archiver ended by itself with code {code}: {said.decode()}")
            seen.kills += 1
            after_a_kill(root, seen)
            run_once(settings)
            after_a_run(settings, root, sent, seen)
            print(f"kill {seen.kills} of {kills}, so far wrong: {len(seen.wrong)}", flush=True)
        digests = {topic: entry.partitions for topic, entry in manifest_of(root).topics.items()}
        shutil.rmtree(root)
        run_once(settings)
        if digests != {topic: entry.partitions for topic, entry in manifest_of(root).topics.items()}:
            seen.wrong.append("made anew, the archive has other digests")
        seen.records = sent
    return seen


def after_a_kill(root: Path, seen: Seen) -> None:
    """What the manifest names is whole, whatever lies beside it."""
    manifest = manifest_of(root)
    seen.in_a_commit[manifest.pending.what if manifest.pending else "nothing"] += 1
    if not (root / "manifest.json").exists():
        return
    found = verify(Place(str(root)))
    named = {file.path for file in manifest.files}
    there = {str(path.relative_to(root)) for path in root.glob("data/**/*.parquet")}
    seen.beside += bool(there - named)
    seen.wrong += [f"kill {seen.kills}: {each}" for each in found.differences]


def after_a_run(settings: Settings, root: Path, sent: int, seen: Seen) -> None:
    """A glob has every record of the topics once, and each is the topics' own."""
    records = globbed(root)
    twice = [place for place, count in records.items() if count > 1]
    if twice:
        seen.wrong.append(f"after kill {seen.kills}: {len(twice)} records are there twice, as {twice[0]}")
    if len(records) != sent:
        seen.wrong.append(f"after kill {seen.kills}: {len(records):,} of {sent:,} records are there")
    source = ArchivableTopics(settings)
    try:
        found = verify(Place(str(root)), source)
    finally:
        source.close()
    seen.wrong += [f"after kill {seen.kills}: {each}" for each in found.differences]
    if found.behind or found.compared != sent:
        seen.wrong.append(f"after kill {seen.kills}: {found.compared:,} of {sent:,} records are the topics'")


def main(argv: Sequence[str] | None = None) -> int:
    """Play and judge; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--short", action="store_true", help="5 kills")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default 1)")
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/bench/RESULTS.md")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    seen = play(5 if arguments.short else arguments.kills, arguments.seed)
    figures: dict[str, Cell] = {
        "kills": seen.kills,
        "of them in the middle of an append": seen.in_a_commit["append"],
        "of them in the middle of a compaction": seen.in_a_commit["compact"],
        "left files that the manifest did not name": seen.beside,
        "records": seen.records,
        "wrong": len(seen.wrong),
    }
    record(
        "An archiver killed at random",
        figures,
        "After each kill what the manifest names was whole; after the run that followed every record of the "
        "topics was there once, by a glob and by comparison."
        + "".join(f" WRONG: {each}." for each in seen.wrong),
        keep=arguments.record,
    )
    return 1 if seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
