"""The demo's worker: a process of its own that is started, waited for, and started again when killed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.broker import DIE_WITH_PARENT
from stream.errors import Refusal
from stream.settings import Settings

__all__ = ["DemoError", "DemoWorker"]

WORKER = "demo-worker"
READY_WITHIN_S = 180.0

_REFUSED = 1


class DemoError(Refusal):
    """The demo can't go on; the message says at which stage, why, and where to read more."""


class DemoWorker:
    """One worker of the demo's home; a worker that an earlier demo left behind is ended first."""

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._settings = settings
        self._config = config
        self._folder = settings.home / "demo"
        self._pid_file = self._folder / "worker.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._inputs = [
            TopicPartition(settings.topics.orders, partition) for partition in range(settings.partitions)
        ]
        self.log = self._folder / "worker.log"

    @property
    def pid(self) -> int:
        """Its process; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it; its words go to its log."""
        self._end_leftover()
        command = [sys.executable, "-m", "stream.cli"]
        if self._config is not None:
            command += ["--config", str(self._config)]
        environment = {
            **os.environ,
            "FRAUDSTREAM_WORKER": WORKER,
            "FRAUDSTREAM_HOME": str(self._settings.home.absolute()),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        # what an earlier one of this run said stays: it may say why it ended
        with self.log.open("wb" if self._process is None else "ab") as log:
            self._process = subprocess.Popen(
                [*command, "worker"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C comes to us, and we stop it in our order
                preexec_fn=DIE_WITH_PARENT,  # noqa: PLW1509 - one prctl call
            )
        began = psutil.Process(self._process.pid).create_time()
        self._pid_file.write_text(json.dumps({"pid": self._process.pid, "began": began}))

    def stop(self, *, within_s: float) -> None:
        """Ask it to end once the transaction in hand is finished, and end it if it does not."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pid_file.unlink(missing_ok=True)

    def died(self) -> str | None:
        """How it died, if it did in a way that a service manager would start it again after.

        Raises DemoError when it refused to go on: another one would refuse too.
        """
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        if code in {0, _REFUSED}:
            raise DemoError(f"the worker ended with code {code}; {self.said()}")
        return f"signal {-code}" if code < 0 else f"code {code}"

    def said(self) -> str:
        """The end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return f"the end of {self.log}:\n  " + "\n  ".join(lines)

    # ------------------------------------------------------------------ how far it is

    def claims(self) -> dict[int, str] | None:
        """The words each partition's last owner left with its offset; None while that can't be told."""
        with contextlib.closing(self._asking()) as consumer:
            committed = self._committed(consumer)
        return None if committed is None else {each.partition: each.metadata or "" for each in committed}

    def take_in(self, before: dict[int, str] | None, told: Callable[[int | None], None]) -> None:
        """Wait until it has every partition and has taken in what was published before it came.

        `before` is what `claims` was before it was started; `told` hears how many orders it is behind.
        Raises DemoError.
        """
        began = time.monotonic()
        with contextlib.closing(self._asking()) as consumer:
            while True:
                died = self.died()
                if died is not None:
                    raise DemoError(f"the worker ended by {died} before it was ready; {self.said()}")
                committed = self._committed(consumer)
                # Each owner leaves its own words with its offsets: old ones are an earlier worker's.
                owned = committed is not None and all(
                    (each.metadata or "") != (before or {}).get(each.partition, "") for each in committed
                )
                behind = None if committed is None else self._behind(consumer, committed)
                if owned and behind == 0:
                    return
                told(behind)
                if time.monotonic() - began > READY_WITHIN_S:
                    raise DemoError(f"the worker was not ready within 3 minutes; {self.said()}")
                time.sleep(0.1)

    def _asking(self) -> Consumer:
        """A consumer that asks about the worker's group and joins nothing."""
        return Consumer({**self._settings.confluent(), "group.id": self._settings.group, "log_level": 0})

    def _committed(self, consumer: Consumer) -> list[TopicPartition] | None:
        """The group's offsets with their owners' words; None while they can't be told."""
        try:
            return consumer.committed(self._inputs, timeout=5)
        except KafkaException:
            return None  # a transaction is open

    def _behind(self, consumer: Consumer, committed: list[TopicPartition]) -> int | None:
        """How many orders the group has yet to take in; None while that can't be told."""
        behind = 0
        try:
            for each in committed:
                low, high = consumer.get_watermark_offsets(
                    TopicPartition(each.topic, each.partition), timeout=5
                )
                behind += high - (each.offset if each.offset >= 0 else low)
        except KafkaException:
            return None
        return behind

    def _end_leftover(self) -> None:
        """End the worker of a demo that was killed, if it is that one: a pid can pass to another program."""
        try:
            known = json.loads(self._pid_file.read_text())
            process = psutil.Process(int(known["pid"]))
            same = (
                abs(process.create_time() - float(known["began"])) < 5 and "stream.cli" in process.cmdline()
            )
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            same = False
        if same:
            process.terminate()
            try:
                process.wait(20)
            except psutil.TimeoutExpired:
                process.kill()
        self._pid_file.unlink(missing_ok=True)
