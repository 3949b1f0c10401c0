"""The demo as a person runs it: to its end, after a kill, in a terminal, and where it can't run."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from stream.broker import free_ports
from tests.docs.terminal import Terminal

pytestmark = [pytest.mark.broker, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}
"""A proxy that nobody answers at."""
DEMO = [sys.executable, "-m", "stream.cli", "demo"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of demos that share one home."""
    return {
        "FRAUDSTREAM_HOME": str(tmp_path_factory.mktemp("demo")),
        "FRAUDSTREAM_BROKER": f"127.0.0.1:{free_ports(1)[0]}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def first(home: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The first run in that home, to its end."""
    return _to_its_end(home)


@pytest.fixture
def terminal(home: Mapping[str, str], first: subprocess.CompletedProcess[str]) -> Iterator[Terminal]:
    """A later run, in a terminal, until it is ended."""
    assert first.returncode == 0
    # what an earlier run fetched must be enough
    opened = Terminal(DEMO, columns=80, rows=24, env={**home, **NO_NETWORK}, cwd=ROOT)
    yield opened
    opened.close()


def _to_its_end(home: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, "--once", "--rate", "300"],
        # as a user calls it, though these tests may be run by make
        env={name: value for name, value in os.environ.items() if name != "MAKELEVEL"} | dict(home),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_demo_runs_to_its_end_and_tells_what_came_of_it(first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    assert "800 live orders, 800 decisions, 0 undecided, 0 decided twice" in first.stdout
    for said in (
        "broker  starting",
        "past    2",
        "model   starter@",
        "frauds stopped",
        "saved ",
        "data scientist",
    ):
        assert said in first.stdout
    assert "\x1b" not in first.stdout  # nobody draws into a pipe


def test_a_run_after_a_killed_one_goes_on(terminal: Terminal, home: Mapping[str, str]) -> None:
    terminal.until("in the shop it is", 60)
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    assert len(children) >= 2  # the broker and the worker
    terminal.process.kill()
    terminal.process.wait()
    if sys.platform == "linux":
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left

    again = _to_its_end({**home, **NO_NETWORK})

    assert again.returncode == 0, again.stdout + again.stderr
    assert "past    the shop's past is there from an earlier run" in again.stdout
    assert re.search(r"after \d[\d,]* of earlier runs", again.stdout)
    assert "800 live orders, 800 decisions, 0 undecided, 0 decided twice" in again.stdout


def test_a_killed_worker_is_started_again_and_ctrl_c_ends_with_every_order_decided_once(
    terminal: Terminal,
) -> None:
    terminal.until("in the shop it is", 60)
    assert terminal.screen.is_other
    found = re.search(r"process (\d+) is ready", "\n".join(terminal.screen.main))
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)
    terminal.until("was ended by signal 9", 10)
    terminal.resize(120, 40)
    terminal.until_not("was ended by signal 9", 60)
    terminal.press_ctrl_c()

    assert terminal.ends(30) == 0
    assert not terminal.screen.is_other
    assert not terminal.screen.cursor_is_hidden
    said = terminal.screen.text()
    assert "0 undecided, 0 decided twice" in said
    assert "campaigns of fraud" in said  # the last picture stays
    assert "goes on from here" in said


def test_a_second_ctrl_c_ends_at_once_and_is_no_success_while_orders_are_undecided(
    terminal: Terminal,
) -> None:
    terminal.until("in the shop it is", 60)
    found = re.search(r"process (\d+) is ready", "\n".join(terminal.screen.main))
    assert found is not None
    os.kill(int(found[1]), signal.SIGSTOP)
    terminal.press_ctrl_c()
    terminal.until("no more are sent", 10)
    terminal.press_ctrl_c()

    assert terminal.ends(60) == 1
    said = terminal.screen.text()
    assert re.search(r"[1-9]\d* orders wait for the next run", said)
    assert "goes on from here" in said


def test_a_killed_broker_is_named(terminal: Terminal) -> None:
    terminal.until("in the shop it is", 60)
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    (broker,) = (each for each in children if "kafka.Kafka" in each.cmdline())
    broker.kill()

    assert terminal.ends(60) == 1
    assert "fraudstream: the broker ended" in terminal.screen.text()
    assert not terminal.screen.is_other


def test_a_first_run_without_a_network_is_told_in_one_line(tmp_path: Path) -> None:
    refused = _to_its_end(
        {
            "FRAUDSTREAM_HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "JGO_CACHE_DIR": str(tmp_path / "jgo"),
            "M2_REPO": str(tmp_path / "m2"),
            **NO_NETWORK,
        }
    )

    assert refused.returncode == 1
    assert refused.stderr.startswith("fraudstream: can't fetch Apache Kafka (")
    assert "connect to the network once" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_an_occupied_port_is_told_with_who_has_it_and_a_free_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"FRAUDSTREAM_HOME": str(tmp_path), "FRAUDSTREAM_BROKER": f"127.0.0.1:{port}"}

        refused = _to_its_end({**env, "PYTHONPATH": str(ROOT)})

    assert refused.returncode == 1
    assert f"(process {os.getpid()})" in refused.stderr
    assert f"port {port} is in use by " in refused.stderr
    free = re.search(r"FRAUDSTREAM_BROKER=127\.0\.0\.1:(\d+) fraudstream demo", refused.stderr)
    assert free is not None
    with socket.create_server(("127.0.0.1", int(free[1]))):
        pass
    assert len(refused.stderr.splitlines()) == 1


def test_a_second_demo_in_the_same_home_is_refused(terminal: Terminal, home: Mapping[str, str]) -> None:
    terminal.until("broker", 30)

    second = _to_its_end(home)

    assert second.returncode == 1
    assert "another demo runs in" in second.stderr
    terminal.until("Ctrl-C ends it", 60)
