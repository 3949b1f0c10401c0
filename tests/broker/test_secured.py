"""Both Kafka clients of a worker reach a broker over TLS with SASL, from one place in the settings."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.settings import Security, Settings
from tests.running import Worker, decisions, orders, send

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("openssl") is None, reason="openssl, which makes the certificate, is absent"
    ),
]


class SecuredBroker(EmbeddedBroker):
    """An embedded broker with one more listener, that asks for TLS, a name and a password."""

    def __init__(self, home: Path, certificate: Path) -> None:
        plain, self.port = free_ports(2)
        super().__init__(home, ports=(plain,), tied=True)
        self.certificate = certificate

    def _properties(self, node: Any) -> str:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return (
            super()
            ._properties(node)
            .replace("listeners=PLAINTEXT", f"listeners=SASL_SSL://127.0.0.1:{self.port},PLAINTEXT", 1)
            .replace(
                "advertised.listeners=PLAINTEXT",
                f"advertised.listeners=SASL_SSL://127.0.0.1:{self.port},PLAINTEXT",
            )
            + "listener.security.protocol.map=SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            + "sasl.enabled.mechanisms=PLAIN\n"
            + f'listener.name.sasl_ssl.plain.sasl.jaas.config={plain} user_shop="secret";\n'
            + f"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={login};\n"
            + f"ssl.keystore.type=PEM\nssl.keystore.location={self.certificate}\n"
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecuredBroker, Path]]:
    folder = tmp_path_factory.mktemp("secured")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "ca.pem"),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "ca.pem").read_text())
    with SecuredBroker(folder, both) as broker:
        yield broker, folder / "ca.pem"


def test_a_worker_decides_over_tls_and_sasl(
    secured: tuple[SecuredBroker, Path], registry: Path, tmp_path: Path
) -> None:
    broker, authority = secured
    plain = Settings(broker=broker.bootstrap, home=tmp_path, partitions=2, group="secured", worker="secured")
    topics.create(plain)
    shutil.copytree(registry, tmp_path / "models")
    over_tls = plain.model_copy(
        update={
            "broker": f"127.0.0.1:{broker.port}",
            "security": Security.model_validate(
                {
                    "protocol": "SASL_SSL",
                    "ca_file": str(authority),
                    "sasl_mechanism": "PLAIN",
                    "sasl_username": "shop",
                    "sasl_password": "secret",
                }
            ),
        }
    )

    with Worker(over_tls, tmp_path / "log") as worker:
        send(over_tls, orders(10))
        assert len(decisions(over_tls, 10)) == 10
        assert worker.stop() == 0, worker.said()
