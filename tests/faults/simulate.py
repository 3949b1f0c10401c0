"""Try the transaction core against every order of faults that a seed can think of.

python tests/faults/simulate.py                     50,000 schedules on all cores
python tests/faults/simulate.py --seed 4711 --trace  one schedule, step by step
python tests/faults/simulate.py --mutants            every known mistake must be found
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from stream import writer as core  # noqa: E402 (the repository is on the path only now)
from tests.faults.mutants import MUTANTS, Mutant  # noqa: E402
from tests.faults.schedule import Schedule  # noqa: E402
from tests.faults.schedule import run as run_schedule  # noqa: E402

CHUNK = 100
MUTANT_SEEDS = 1_000


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


def _run_chunk(seeds: range) -> tuple[int, list[tuple[int, str]]]:
    failed = []
    for seed in seeds:
        schedule = run_schedule(seed)
        if schedule.world.violations:
            failed.append((seed, tell(schedule)))
    return len(seeds), failed


def _kill_one(index: int) -> tuple[int, int | None, str]:
    needed, schedule = kill(MUTANTS[index])
    return index, needed, "" if schedule is None else schedule.world.violations[0].strip().splitlines()[-1]


def _chunks(first: int, count: int) -> Iterator[range]:
    for begin in range(first, first + count, CHUNK):
        yield range(begin, min(begin + CHUNK, first + count))


def simulate(count: int, first: int, minutes: float | None) -> int:
    """Run that many schedules, or for that many minutes, and return how many were violated."""
    started = time.monotonic()
    done = bad = 0
    if minutes is not None:
        count = 10**9
    with get_context("fork").Pool() as pool:
        for ran, failed in pool.imap_unordered(_run_chunk, _chunks(first, count)):
            done += ran
            for seed, text in failed:
                bad += 1
                if bad == 1:
                    print(run_traced(seed)[1])
                if bad <= 20:
                    print(text, flush=True)
            if minutes is not None and time.monotonic() - started > minutes * 60:
                pool.terminate()
                break
    seconds = time.monotonic() - started
    print(
        f"{done:,} schedules (seeds from {first}) in {seconds:.0f} s on {os.cpu_count()} cores: "
        f"{bad} violated"
    )
    return bad


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
    return int(simulate(chosen.schedules or 50_000, chosen.seed or 0, chosen.minutes) > 0)


if __name__ == "__main__":
    sys.exit(main())
