"""The health port says on the log what it could not answer, when the fault is ours."""

import logging
import socket

import pytest

from stream.health import Health, Judgement, _Server
from stream.metrics import Measurements


class AMistake(Health):
    def judge(self) -> Judgement:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("asked", "logged"), [(b"GET /healthz HTTP/1.1\r\n\r\n", [ZeroDivisionError]), (b"", [])]
)
def test_a_mistake_of_ours_is_logged_and_a_client_that_left_is_not(
    asked: bytes, logged: list[type[BaseException]], caplog: pytest.LogCaptureFixture
) -> None:
    client, accepted = socket.socketpair()
    with client, _Server(("127.0.0.1", 0), "w1", AMistake(Measurements(), stuck_s=60)) as server:
        client.sendall(asked)
        client.shutdown(socket.SHUT_WR)
        with caplog.at_level(logging.INFO, "fraudstream.health"):
            server.process_request_thread(accepted, ("somewhere", 0))

    told = [record for record in caplog.records if record.name == "fraudstream.health"]
    assert [record.exc_info and record.exc_info[0] for record in told] == logged
