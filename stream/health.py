"""How a worker stands, told over HTTP: `/healthz` (positions move or nothing waits), `/readyz`, `/metrics`.

A restart is the wrong answer to most of what can be wrong: it brings back no broker and ends nobody else's
transaction. So the answer says whether one would help, and `/healthz?restart_helps` is 503 only then.
"""

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream.metrics import Measurements, Running, Standing, registry
from stream.ports import TP, Refused
from stream.settings import Settings

__all__ = ["PATHS", "Health", "HealthPort", "Judgement"]

log = logging.getLogger("fraudstream.health")

PATHS: Final = ("/healthz", "/readyz", "/metrics")
LOOK_S: Final = 0.5
"""How often the worker's progress is looked at."""
_SLOW_CLIENT_S: Final = 5.0


class Judgement(NamedTuple):
    """What `/healthz` and `/readyz` say, and why."""

    healthy: bool
    ready: bool
    state: str
    """One word: starting, unassigned, opening, deciding, idle, paused, draining, unreachable, blocked or
    stopping."""
    reason: str
    """The state in a sentence, without personal data."""
    stuck_s: float
    """How long something has waited while nothing moved."""
    restart_helps: bool
    """Whether ending the process could change anything; only ever true of an unhealthy one."""


class Health:
    """Judges a worker by what moved since it last looked; `look` has to be called now and then.

    An idle worker that gets an order after an hour is not stuck for an hour: only time in which something
    waited counts.
    """

    def __init__(
        self,
        measured: Measurements,
        *,
        stuck_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.measured = measured
        self.running: Running | None = None
        """The parts of the worker, once they are made."""
        self._stuck_s = stuck_s
        self._clock = clock
        self._started_at = self._moved_at = clock()
        self._seen: object = None

    def look(self) -> None:
        """Note whether anything moved, or nothing waits."""
        seen = self._marks()
        if seen != self._seen or not self._something_waits():
            self._seen = seen
            self._moved_at = self._clock()

    def judge(self) -> Judgement:
        """How the worker stands now."""
        stuck_s = self._clock() - self._moved_at
        state, reason, ready, mendable = self._state()
        healthy = stuck_s <= self._stuck_s
        return Judgement(healthy, ready, state, reason, stuck_s, restart_helps=not healthy and mendable)

    def standing(self) -> Standing:
        """The judgement in numbers."""
        judged = self.judge()
        up_s = self._clock() - self._started_at
        return Standing(judged.healthy, judged.ready, judged.stuck_s, up_s, self.lag())

    def lag(self) -> Mapping[TP, int]:
        """How many offsets of each opened input lie beyond its position; nothing where the end is unknown."""
        running, lag = self.running, dict[TP, int]()
        if running is None:
            return lag
        for number, inputs in running.writer.opened.items():
            for topic, position in inputs.items():
                tp = (topic, number)
                known = (running.fetched_to(tp), self.measured.ends.get(tp))
                if ends := [end for end in known if end is not None]:
                    # what was searched holds markers and aborted records at most
                    lag[tp] = max(0, max(ends) - max(position, self.measured.searched.get(tp, 0)))
        return lag

    def _on_the_road(self, running: Running) -> int:
        """How many offsets of the stages lie beyond their positions."""
        return sum(lag for (topic, _), lag in self.lag().items() if topic in running.stages)

    def _is_paused(self, running: Running) -> bool:
        """Whether orders wait because a person says so, and nothing else is under way."""
        mailbox = running.writer.mailbox
        if not running.writer.is_open:
            return False
        return mailbox.held or (mailbox.draining and not self._on_the_road(running))

    def _marks(self) -> object:
        """What changes whenever the worker comes on."""
        running = self.running
        if running is None:
            return None
        writer = running.writer
        return writer.counts["transactions"], self.measured.restored, writer.is_open

    def _something_waits(self) -> bool:
        running = self.running
        if running is not None and self._is_paused(running):
            return False
        if running is None or self.measured.unreachable is not None:
            return True
        if running.writer.mailbox.stopping:
            return False
        if not running.writer.is_open or running.writer.mailbox.has_work:
            return True
        return any(self.lag().values())

    def _state(self) -> tuple[str, str, bool, bool]:
        """State, reason, whether ready, and whether a restart could change it."""
        running, measured = self.running, self.measured
        if running is not None and running.writer.mailbox.stopping:
            return "stopping", "the worker was asked to end and finishes its transaction", False, True
        if running is not None and self._is_paused(running):
            return "paused", "a person paused the group; go on with 'fraudstream resume'", True, False
        is_open = running is not None and running.writer.is_open
        if measured.unreachable is not None:
            return "unreachable", f"the broker does not answer: {measured.unreachable}", is_open, False
        if running is None:
            return "starting", "topics, model and group are looked at", False, True
        if measured.open_transaction is not None:
            reason = f"an open transaction must end first: {measured.open_transaction}"
            return "blocked", reason, is_open, False
        mailbox = running.writer.mailbox
        assignment = mailbox.assignment
        if assignment is None:
            return "unassigned", "the group has not given this worker its partitions yet", False, True
        if not is_open:
            left = sum(restore.left for restore in dict(measured.restores).values())
            count = len(assignment.partitions)
            reason = f"{count} partitions are being opened; {left:,} offsets of the changelog are left"
            return "opening", reason, False, True
        if mailbox.draining:
            reason = (
                f"{self._on_the_road(running):,} records are on their way between stages; all others wait "
            )
            return "draining", reason + "until 'fraudstream resume'", True, True
        if mailbox.has_work or any(self.lag().values()):
            return "deciding", "orders wait, or are being decided", True, True
        return "idle", "nothing waits", True, True


class HealthPort:
    """The HTTP port that answers for a worker, in threads that never keep the process from ending."""

    def __init__(self, server: "_Server") -> None:
        self._server = server
        threading.Thread(target=server.serve_forever, args=(LOOK_S,), name="health", daemon=True).start()

    @classmethod
    def open(cls, settings: Settings, health: Health) -> Self | None:
        """Listen where the settings say; None when they name no port.

        Raises Refused when the port can't be had.
        """
        if settings.health_port is None:
            return None
        try:
            server = _Server((settings.health_host, settings.health_port), settings.worker, health)
        except OSError as error:
            raise Refused(
                f"setting health_port: can't listen on {settings.health_host}:{settings.health_port}: "
                f"{error.strerror}; stop what does, or set FRAUDSTREAM_HEALTH_PORT (and "
                "FRAUDSTREAM_HEALTH_HOST) to what is free"
            ) from error
        log.info("health answers on http://%s:%d", settings.health_host, settings.health_port)
        return cls(server)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # the default of 5 drops the connections of a burst

    def __init__(self, address: tuple[str, int], worker: str, health: Health) -> None:
        self.worker = worker
        self.health = health
        self.registry: CollectorRegistry = registry(health.measured, lambda: health.running, health.standing)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Answers)

    def server_bind(self) -> None:
        # not HTTPServer's, which asks the name server for our own name and may wait long for it
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def service_actions(self) -> None:
        self.health.look()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (socketserver's)
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("a client of the health port went away")
        else:
            log.error("the health port could not answer, which is a mistake of ours", exc_info=error)


class _Answers(BaseHTTPRequestHandler):
    server: _Server
    server_version = "fraudstream"
    sys_version = ""
    timeout = _SLOW_CLIENT_S

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == "/metrics":
            # chosen by what the scraper accepts: the text format, or OpenMetrics
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(self.server.registry), content_type)
            return
        if asked.path not in PATHS:
            self._tell(HTTPStatus.NOT_FOUND, {"error": f"ask for one of {', '.join(PATHS)}"})
            return
        health = self.server.health
        judged = health.judge()
        if asked.path == "/readyz":
            good = judged.ready
        elif asked.query == "restart_helps":
            good = not judged.restart_helps
        else:
            good = judged.healthy
        told = judged._asdict() | {"stuck_s": round(judged.stuck_s, 1), "worker": self.server.worker}
        told["lag"] = sum(health.lag().values())
        self._tell(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, told)

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def _tell(self, status: HTTPStatus, told: Mapping[str, object]) -> None:
        self._answer(status, json.dumps(told).encode() + b"\n", "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing: a line for every scrape would bury what matters."""
