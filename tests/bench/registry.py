"""How long a list of 300 published versions takes, the whole command, and how long one is published.

python tests/bench/registry.py
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from models.registry import Registry
from tests.bench.results import record
from tests.faults.stage import temporary_home
from tests.small_shop import a_trained

VERSIONS = 300
TIMES = 7
KEY = "a key for benches"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 when a list shows another number of versions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.parse_args(argv)
    with temporary_home("bench-registry") as home:
        registry, trained = Registry(home / "models", key=KEY.encode()), a_trained("random_forest")
        published = []
        for number in range(VERSIONS):
            began = time.perf_counter()
            registry.publish(replace(trained, version=f"2026-02-14.{number:08x}"))
            published.append(time.perf_counter() - began)
        environment = {**os.environ, "FRAUDSTREAM_HOME": str(home), "FRAUDSTREAM_SIGNING_KEY": KEY}
        walls, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(TIMES):
            began = time.perf_counter()
            listed = subprocess.run(
                [sys.executable, "-m", "stream.cli", "models", "list"],
                env=environment,
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            )
            walls.append(time.perf_counter() - began)
            if listed.stdout.count("  signed\n") != VERSIONS:
                print(f"the list shows other than {VERSIONS} signed versions", file=sys.stderr)
                return 1
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / TIMES
    record(
        "A list of 300 published models",
        {
            "versions": VERSIONS,
            "list s, best": min(walls),
            "list s, median": statistics.median(walls),
            "list CPU s": used,
            "publish s, median": statistics.median(published),
        },
        "The whole command `fraudstream models list`, manifests read and signatures checked; a forest of "
        "100 trees is published.",
        keep=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
