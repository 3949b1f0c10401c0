import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from stream.broker import BrokerError, EmbeddedBroker, free_ports, ports_of

pytestmark = pytest.mark.broker


@pytest.fixture
def own(tmp_path: Path) -> EmbeddedBroker:
    return EmbeddedBroker(tmp_path, ports=free_ports(1), tied=True)


def _pid_file(broker: EmbeddedBroker) -> Path:
    return broker.folder / "node-1" / "node.pid"


def test_a_killed_broker_is_seen_and_starts_again(own: EmbeddedBroker) -> None:
    with own:
        first = own.status()[0]
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        _wait_until_gone(first.pid)
        assert own.status()[0].state == "crashed"

        assert own.start()
        assert own.status()[0].state == "running"
        assert not own.start()  # runs already
    assert own.status()[0].state == "stopped"
    assert not own.stop()  # nothing left to stop


def test_a_pid_that_passed_to_another_program_is_never_signalled(own: EmbeddedBroker) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        own._cluster()
        _pid_file(own).parent.mkdir(parents=True)
        began = psutil.Process(bystander.pid).create_time()
        _pid_file(own).write_text(json.dumps({"pid": bystander.pid, "began": began}))

        assert own.status()[0].state == "crashed"
        own.stop()

        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_occupied_port_is_said_with_its_number(own: EmbeddedBroker) -> None:
    port = own._ports[0]
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(BrokerError, match=f"port {port} is in use"),
    ):
        own.start()


def test_a_broker_that_cannot_start_shows_what_it_said(
    own: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = EmbeddedBroker._properties
    monkeypatch.setattr(
        EmbeddedBroker, "_properties", lambda self, node: sound(self, node) + "num.io.threads=none\n"
    )

    with pytest.raises(BrokerError, match=r"num\.io\.threads"):
        own.start()
    assert own.status()[0].pid is None


def test_two_nodes_are_not_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="1 or 3 nodes, not 2"):
        EmbeddedBroker(tmp_path, ports=[1, 2])


def test_the_broker_setting_gives_the_ports() -> None:
    assert ports_of("127.0.0.1:9092", nodes=1) == (9092,)
    assert ports_of("localhost:9092,localhost:9192,localhost:9292", nodes=3) == (9092, 9192, 9292)
    with pytest.raises(BrokerError, match="answers on 127"):
        ports_of("kafka.example.com:9092", nodes=1)


@pytest.mark.slow
def test_a_cluster_whose_id_begins_with_a_dash_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xfb" + bytes(15)))

    with EmbeddedBroker(tmp_path, ports=free_ports(1), tied=True) as broker:
        known = json.loads((broker.folder / "cluster.json").read_text())
        assert known["id"].startswith("-")
        assert [node.state for node in broker.status()] == ["running"]


def test_three_nodes_outlive_the_loss_of_one(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, ports=free_ports(3), tied=True) as cluster:
        cluster.kill_node(2)
        assert [node.state for node in cluster.status()] == ["running", "stopped", "running"]
        cluster.start_node(2)
        assert [node.state for node in cluster.status()] == ["running"] * 3


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and psutil.pid_exists(pid):
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.02)
