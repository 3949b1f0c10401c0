"""What every test may ask for: a broker for the session, and settings of its own on it."""

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from stream.broker import EmbeddedBroker, free_ports
from stream.settings import Settings, Topics

_NUMBER = itertools.count(1)

# no timed assertions: machines are shared, and a slow example says nothing of the code
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for the broker is a broker test, whether or not it says so."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FRAUDSTREAM_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs no broker reaches nothing at all."""
    if request.node.get_closest_marker("broker") is not None:
        return

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"this test reached for {address}; mark it 'broker' or give it a fake")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One embedded broker for the whole session; it ends with it, however it ends."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), ports=free_ports(1), tied=True) as running:
        yield running


@pytest.fixture
def settings(broker: EmbeddedBroker, tmp_path: Path) -> Settings:
    """Settings on the session's broker with topics, a group and a home that no other test uses."""
    prefix = f"t{next(_NUMBER)}-"
    names = {
        field: prefix + default.default for field, default in Topics.model_fields.items() if field != "prefix"
    }
    return Settings(
        broker=broker.bootstrap,
        home=tmp_path / "home",
        partitions=2,
        topics=Topics(**names),
        group=prefix + "group",
        worker=prefix + "worker",
    )
