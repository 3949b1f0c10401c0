"""622,892 real-shaped orders decided by workers that are killed meanwhile, and every decision decided again.

    python tests/bench/verify.py                # all of them, with two processes
    python tests/bench/verify.py --orders 50000 --processes 1
    python tests/bench/verify.py --smoke

The orders of `make real`. The worker is killed with SIGKILL as often as --kills says, and started again; then
`fraudstream verify` reads topics only and must find every decision equal, byte for byte.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import psutil
from confluent_kafka import Consumer, TopicPartition

from stream.publish import publish
from stream.settings import Settings
from tests.bench.real import LEARNT_FROM, ROW_LIMIT, SILENCE_S, publish_model, transactions
from tests.bench.results import Cell, record
from tests.faults.stage import (
    CLI_WORKER,
    ROOT,
    Fleet,
    StageError,
    end_on_sigterm,
    environment_of,
    make_topics,
    running_broker,
    temporary_home,
)
from tests.parity.test_published_features import TRANSACTIONS

WORKER = "w1"


def decide_all(settings: Settings, expected: int, kills: int, fleet: Fleet) -> None:
    """Have all orders decided, with a worker that is killed now and then."""
    consumer = Consumer(
        settings.confluent(
            group_id="count", isolation_level="read_committed", enable_auto_commit=False, log_level=0
        )
    )
    topic = settings.topics.decisions
    consumer.assign([TopicPartition(topic, number, 0) for number in range(settings.partitions)])
    due = [expected * (number + 1) // (kills + 1) for number in range(kills)]
    seen, quiet_since = 0, time.monotonic()
    while seen < expected:
        if time.monotonic() - quiet_since > SILENCE_S:
            raise StageError(f"{seen} of {expected} decisions, and no more; see {fleet.folder}")
        found = sum(each.error() is None for each in consumer.consume(5_000, 0.1))
        fleet.tick()
        if any(not asked for _, _, asked in fleet.exits):
            raise StageError(f"the worker ended by itself; see {fleet.folder}")
        if found:
            seen += found
            quiet_since = time.monotonic()
        if due and seen >= due[0]:
            due.pop(0)
            fleet.kill(WORKER)
    consumer.close()


class Memory(threading.Thread):
    """Watches how much memory a command and its processes have at most, together and apart."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(name="memory", daemon=True)
        self._process = process
        self.together_mb = self.one_mb = self.cpu_s = 0.0

    def run(self) -> None:
        while True:
            try:
                all_of_them = [self._process, *self._process.children(recursive=True)]
                each = [one.memory_info().rss / 2**20 for one in all_of_them]
                times = [one.cpu_times() for one in all_of_them]
            except psutil.Error:
                if not self._process.is_running():
                    return
                continue
            self.together_mb, self.one_mb = max(self.together_mb, sum(each)), max(self.one_mb, *each)
            self.cpu_s = max(self.cpu_s, sum(one.user + one.system for one in times))
            time.sleep(0.2)


def play(arguments: argparse.Namespace) -> tuple[dict[str, Cell], list[str]]:
    """One run: the figures, and what is wrong."""
    sent = list(transactions(arguments.orders))
    with temporary_home("verify") as home, running_broker(home) as broker:
        settings = Settings(
            broker=broker.bootstrap,
            home=home,
            partitions=8,
            group="verify",
            worker="bench",
            row_limit=ROW_LIMIT,
        )
        make_topics(settings)
        publish_model(settings, sent[:LEARNT_FROM])
        file = home / "orders.jsonl"
        with file.open("wb") as lines:
            lines.writelines(each.line() for each in sent)
        with file.open("rb") as lines:
            publish(settings, lines)
        fleet = Fleet(
            CLI_WORKER,
            lambda name: environment_of(settings, name),
            home / "workers",
            [WORKER],
            random.Random(1),
        )
        try:
            fleet.start()
            decide_all(settings, len(sent), arguments.kills, fleet)
            fleet.stop()
        finally:
            fleet.kill_all()
        kills = len(fleet.exits)
        began = time.monotonic()
        asked = ["verify", "--json", "--processes", str(arguments.processes)]
        process = subprocess.Popen(
            [sys.executable, "-m", "stream.cli", *asked],
            env=environment_of(settings, "bench"),
            cwd=ROOT,  # where we are started, a bench may have a package's name
            stdout=subprocess.PIPE,
            text=True,
        )
        memory = Memory(psutil.Process(process.pid))
        memory.start()
        out, _ = process.communicate()
        seconds = time.monotonic() - began
        memory.join()
        one = random.Random(2).choice(sent).order_id
        began = time.monotonic()
        again = subprocess.run(
            [sys.executable, "-m", "stream.cli", "replay", "decision", one, "--json"],
            env=environment_of(settings, "bench"),
            cwd=ROOT,  # where we are started, a bench may have a package's name
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds_for_one = time.monotonic() - began
    found = json.loads(out.splitlines()[-1])
    figures: dict[str, Cell] = {
        "orders": len(sent),
        "kills of the worker": kills,
        "processes": arguments.processes,
        "decisions compared": found["compared"],
        "decisions equal, byte for byte": found["equal"],
        "seconds, start to end of the command": seconds,
        "decisions a second": found["compared"] / seconds,
        "CPU s per 10,000 decisions": memory.cpu_s / max(found["compared"], 1) * 10_000,
        "memory of all processes at most (MB)": memory.together_mb,
        "memory of one process at most (MB)": memory.one_mb,
        "replay decision of one order, seconds": seconds_for_one,
    }
    wrong = [] if process.returncode == 0 else [f"verify ended with code {process.returncode}: {out[:2000]}"]
    if not found["equal"] == found["compared"] == len(sent):
        wrong.append(f"{found['equal']} of {len(sent)} orders have an equal decision")
    if again.returncode != 0:
        wrong.append(f"replay decision {one} ended with code {again.returncode}: {again.stdout[:2000]}")
    if kills != arguments.kills:
        wrong.append(f"the worker was killed {kills} times and not {arguments.kills}")
    return figures, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Play, record, judge; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, help="the first so many; all when absent")
    parser.add_argument("--processes", type=int, default=2, help="of verify")
    parser.add_argument("--kills", type=int, default=3, help="how often the worker is killed")
    parser.add_argument("--smoke", action="store_true", help="the first 3,000, one kill, nothing recorded")
    arguments = parser.parse_args(argv)
    if not TRANSACTIONS.exists():
        print("needs ../shared/data (the Handbook's transactions)", file=sys.stderr)
        return 2
    if arguments.smoke:
        arguments.orders, arguments.kills = 3_000, 1
    end_on_sigterm()
    figures, wrong = play(arguments)
    record(
        "Decisions decided again",
        figures,
        "One worker, 8 partitions, random forest, broker on the same machine; verify reads topics only."
        + "".join(f" WRONG: {each}." for each in wrong),
        keep=not arguments.smoke,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
