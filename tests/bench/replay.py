"""How fast the past is replayed: records as they are, and orders through 30 and all served features.

    python tests/bench/replay.py
    python tests/bench/replay.py --orders 50000
    python tests/bench/replay.py --smoke

The main data set lies in eight partitions, in a file for each; reading them takes the place of a broker or
an archive, so what is measured is the replay. Each run begins with starting its processes. The figures of
one process and of two are of the same bytes, which is checked.
"""

import argparse
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

if __name__ == "__main__":
    # else this file stands in for the package of its name
    sys.path[0] = str(Path(__file__).parents[2])

from features.catalogue import SERVED
from features.define import Feature
from stream.desk import partition_of
from stream.ports import TP, Record
from stream.replay import Features, Job, Records
from stream.replay_files import replay_to
from stream.settings import Settings
from stream.topics import TopicError
from tests.bench.results import Cell, record

# Each process that replays imports this file first, and no command has to wait for what a bench is made of:
# other benches, and scikit-learn with them, are imported where they are used.

PARTITIONS = 8
CHUNK = 2_000
TARGET = 20_000
SMOKE = 2_000


def thirty() -> Sequence[Feature]:
    """What a first model would ask, but for what became of orders: of that the topics say nothing."""
    from tests.bench.features import THIRTY  # noqa: PLC0415

    return tuple(each for each in THIRTY if not each.looks_at_facts)


def served() -> Sequence[Feature]:
    """Every feature that a worker serves."""
    return SERVED


@dataclass(frozen=True)
class Files:
    """A topic of orders in files, one a partition."""

    folder: Path
    counts: tuple[int, ...]

    def partitions(self, topic: str) -> int:
        """How many; there is no other topic."""
        if topic != "orders":
            raise TopicError(f"topic '{topic}' does not exist")
        return len(self.counts)

    def bounds(self, tp: TP) -> tuple[int, int]:
        """All of them."""
        return 0, self.counts[tp[1]]

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records, a chunk after the other as a client hands them out."""
        topic, partition = tp
        offset = 0
        with (self.folder / str(partition)).open("rb") as kept:
            while offset < end:
                some: list[tuple[int, bytes, bytes]] = pickle.load(kept)  # noqa: S301 - written below
                chunk = [
                    Record(topic, partition, at, arrived, key, value)
                    for at, (arrived, key, value) in enumerate(some, offset)
                    if start <= at < end
                ]
                offset += len(some)
                if chunk:
                    yield chunk

    def gaps(self, _: TP) -> Sequence[tuple[int, int]]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def lay_down(folder: Path, most: int | None) -> tuple[int, ...]:
    """The main data set as records in files; how many each partition has."""
    from tests.bench.real import transactions  # noqa: PLC0415

    parts: list[list[tuple[int, bytes, bytes]]] = [[] for _ in range(PARTITIONS)]
    for each in transactions(most):
        key = each.customer_id.encode()
        arrived = int(each.placed_at.timestamp() * 1000)
        parts[partition_of(key, PARTITIONS)].append((arrived, key, each.line().strip()))
    for number, part in enumerate(parts):
        with (folder / str(number)).open("wb") as kept:
            for at in range(0, len(part), CHUNK):
                pickle.dump(part[at : at + CHUNK], kept)
    return tuple(map(len, parts))


def cpu_s() -> float:
    """Processor time of this process, and of those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and record."""
    from tests.bench.real import TRANSACTIONS  # noqa: PLC0415
    from tests.faults.stage import temporary_home  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=None, help="only the first so many")
    parser.add_argument("--smoke", action="store_true", help="a few orders, nothing recorded")
    arguments = parser.parse_args(argv)
    if not TRANSACTIONS.exists():
        print(f"{TRANSACTIONS} is not there; nothing is measured", file=sys.stderr)
        return 0
    most = SMOKE if arguments.smoke else arguments.orders
    settings = Settings()
    chosen: dict[str, Callable[[], Sequence[Feature]]] = {
        f"{len(thirty())} features": thirty,
        f"all {len(served())} served features": served,
    }
    jobs: dict[str, Job] = {"records as they are": Records(settings, (settings.topics.orders,))}
    jobs |= {name: Features(settings, each) for name, each in chosen.items()}
    rows: dict[str, Cell | Sequence[Cell]] = {}
    wrong: list[str] = []
    with temporary_home("replay") as home:
        folder = home / "records"
        folder.mkdir(parents=True)
        counts = lay_down(folder, most)
        rows["orders"] = [sum(counts)] * 2
        opened = partial(Files, folder, counts)
        for name, job in jobs.items():
            per_second: list[Cell] = []
            cpu: list[Cell] = []
            digests: set[str] = set()
            for processes in (1, 2):
                file = home / "out.parquet"
                began, used = time.monotonic(), cpu_s()
                tally = replay_to(job, opened, file, processes=processes)
                per_second.append(tally.out / (time.monotonic() - began))
                cpu.append((cpu_s() - used) * 1e6 / tally.out)
                digests.add(sha256(file.read_bytes()).hexdigest())
                if tally.out != sum(counts):
                    wrong.append(f"{name}: {tally.out} of {sum(counts)} came out")
            if len(digests) > 1:
                wrong.append(f"{name}: two processes wrote other bytes than one")
            rows[f"{name}, a second"] = per_second
            rows[f"{name}, CPU µs each"] = cpu
            rows[f"{name}, bytes of Parquet each"] = [file.stat().st_size / sum(counts)] * 2
    record(
        "Replay",
        rows,
        f"The Handbook's orders in {PARTITIONS} partitions, read from files, into one Parquet file; starting "
        f"processes counts. The target is {TARGET:,} orders a second through all served features with "
        "two processes.",
        columns=("one process", "two processes"),
        keep=not (arguments.smoke or arguments.orders),
    )
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
