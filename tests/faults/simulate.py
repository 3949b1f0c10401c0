"""Try the transaction core against every order of faults that a seed can think of.

python tests/faults/simulate.py                     50,000 schedules on all cores
python tests/faults/simulate.py --seed 4711 --trace  one schedule, step by step
python tests/faults/simulate.py --mutants            every known mistake must be found
python tests/faults/simulate.py --record             and keep the figures in tests/bench/RESULTS.md
"""

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from stream import writer as core  # noqa: E402 (the repository is on the path only now)
from tests.bench import results  # noqa: E402
from tests.faults.mutants import MUTANTS, Mutant  # noqa: E402
from tests.faults.schedule import Schedule  # noqa: E402
from tests.faults.schedule import run as run_schedule  # noqa: E402

CHUNK = 100
MUTANT_SEEDS = 1_000
PROGRESS_S = 10.0
SHOWN = 20
"""How many violated schedules are told in words."""


def rerun(seed: int, mutant: str = "") -> str:
    """The one command that runs a schedule again and tells every step."""
    chosen = f" --mutants '{mutant}'" if mutant else ""
    return f"python tests/faults/simulate.py --seed {seed}{chosen} --trace"


def tell(schedule: Schedule, mutant: str = "") -> str:
    """What a schedule was made of and what it violated."""
    lines = [f"seed {schedule.seed}: {'; '.join(schedule.faults) or 'no fault'}"]
    lines += [f"  VIOLATED {violation}" for violation in schedule.world.violations]
    lines.append(f"  again, step by step: {rerun(schedule.seed, mutant)}")
    return "\n".join(lines)


def run_traced(seed: int, writer: ModuleType = core) -> tuple[Schedule, str]:
    """Run one schedule and write down every step of it."""
    schedule = run_schedule(seed, writer=writer, trace=True)
    return schedule, "\n".join(schedule.world.trace or ())


def kill(mutant: Mutant, seeds: int = MUTANT_SEEDS, first: int = 0) -> tuple[int | None, Schedule | None]:
    """How many seeds it takes to find a mutant, and the schedule that finds it; None when none does."""
    module = mutant.module()
    for seed in range(first, first + seeds):
        schedule = run_schedule(seed, writer=module)
        if schedule.world.violations:
            return seed - first + 1, schedule
    return None, None


@dataclass(slots=True)
class Tried:
    """What some schedules tried, and what came of it."""

    schedules: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    """Faults that really struck, by kind."""
    crashes: int = 0
    """The most often that one poison order stopped workers."""
    failed: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Tried") -> None:
        """Add what others tried."""
        self.schedules += other.schedules
        self.cpu_s += other.cpu_s
        self.virtual_s += other.virtual_s
        self.struck.update(other.struck)
        self.crashes = max(self.crashes, other.crashes)
        self.failed += other.failed


def _run_chunk(seeds: range) -> Tried:
    tried, started = Tried(len(seeds)), time.process_time()
    for seed in seeds:
        schedule = run_schedule(seed)
        tried.virtual_s += schedule.world.now
        tried.struck.update(schedule.world.struck)
        tried.crashes = max(tried.crashes, schedule.crashes)
        if schedule.world.violations:
            tried.failed.append((seed, tell(schedule)))
    tried.cpu_s = time.process_time() - started
    return tried


def _kill_one(index: int) -> tuple[int, int | None, str]:
    needed, schedule = kill(MUTANTS[index])
    return index, needed, "" if schedule is None else schedule.world.violations[0].strip().splitlines()[-1]


def _chunks(first: int, count: int) -> Iterator[range]:
    for begin in range(first, first + count, CHUNK):
        yield range(begin, min(begin + CHUNK, first + count))


def simulate(count: int, first: int, minutes: float | None, *, keep: bool = False) -> int:
    """Run that many schedules, or for that many minutes, and return how many were violated."""
    started = said = time.monotonic()
    tried = Tried()
    if minutes is not None:
        count = 10**9
    with get_context("fork").Pool() as pool:
        for chunk in pool.imap_unordered(_run_chunk, _chunks(first, count)):
            for seed, text in chunk.failed:
                if not tried.failed:
                    print(run_traced(seed)[1])
                if len(tried.failed) < SHOWN:
                    print(text, flush=True)
            tried.add(chunk)
            now = time.monotonic()
            if now - said > PROGRESS_S:
                said = now
                print(f"{tried.schedules:,} schedules, {len(tried.failed)} violated", flush=True)
            if minutes is not None and now - started > minutes * 60:
                pool.terminate()
                break
    sum_up(tried, first, time.monotonic() - started, keep=keep)
    return len(tried.failed)


def sum_up(tried: Tried, first: int, seconds: float, *, keep: bool) -> None:
    """Say what was tried and what came of it; with `keep` add it to RESULTS.md."""
    rows: dict[str, str | int | float | None] = {
        "schedules": tried.schedules,
        "schedules violated": len(tried.failed),
        "seconds": round(seconds, 1),
        "CPU ms per schedule": round(tried.cpu_s / max(1, tried.schedules) * 1000, 2),
        "virtual hours": round(tried.virtual_s / 3600, 1),
        "most crashes by one poison order": tried.crashes,
        "faults that struck": tried.struck.total(),
    }
    rows |= {f"- {kind}": struck for kind, struck in tried.struck.most_common()}
    note = (
        f"Seeds from {first}: `python tests/faults/simulate.py --seed {first} --schedules {tried.schedules}`"
    )
    results.record("Fault simulation of the transaction core", rows, note, keep=keep)


def kill_mutants() -> int:
    """Find every mutant and say how many seeds it took; return how many were not found."""
    alive = 0
    with get_context("fork").Pool() as pool:
        for index, needed, why in pool.imap(_kill_one, range(len(MUTANTS))):
            name = MUTANTS[index].name
            if needed is None:
                alive += 1
                print(f"{name:<45} NOT FOUND in {MUTANT_SEEDS} seeds", flush=True)
            else:
                print(f"{name:<45} found after {needed:4} seeds: {why[:110]}", flush=True)
    print(f"{len(MUTANTS) - alive} of {len(MUTANTS)} mutants found")
    return alive


def main() -> int:
    """Run the command; 0 when nothing was violated and, with --mutants, every mutant was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, metavar="N", help="schedules to run [default: 50000]")
    parser.add_argument("--seed", type=int, metavar="S", help="first seed; alone, the only one")
    parser.add_argument("--minutes", type=float, metavar="M", help="run for so long instead")
    parser.add_argument(
        "--mutants", nargs="?", const="", metavar="NAME", help="find the mutants; with --seed, run this one"
    )
    parser.add_argument("--trace", action="store_true", help="tell every step of the one schedule of --seed")
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/bench/RESULTS.md")
    chosen = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # a set of names must be walked in the same order when a seed is run again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S606
    logging.disable(logging.CRITICAL)
    if chosen.mutants is not None and chosen.seed is None:
        return int(kill_mutants() > 0)
    if chosen.seed is not None and chosen.schedules is None and chosen.minutes is None:
        named = [mutant for mutant in MUTANTS if mutant.name == chosen.mutants]
        if chosen.mutants and not named:
            parser.error(f"there is no mutant '{chosen.mutants}'; see tests/faults/mutants.py")
        schedule, trace = run_traced(chosen.seed, named[0].module() if named else core)
        if chosen.trace:
            print(trace)
        print(tell(schedule, chosen.mutants or "") if schedule.world.violations else "nothing was violated")
        return int(bool(schedule.world.violations))
    return int(simulate(chosen.schedules or 50_000, chosen.seed or 0, chosen.minutes, keep=chosen.record) > 0)


if __name__ == "__main__":
    sys.exit(main())
