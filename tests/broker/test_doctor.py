"""The doctor finds each fault that was planted, by name, and says what to do about it.

All on a real broker, but for the old one, which can't be had: there a small server answers as Kafka 2.0 did.
"""

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from pydantic import SecretStr
from typer.testing import CliRunner

from stream import topics
from stream.broker import EmbeddedBroker, free_ports
from stream.cli import app
from stream.control import OBSERVE, PAUSED, change
from stream.desk import partition_of
from stream.doctor import Finding, examine
from stream.registry import registry_of
from stream.settings import Security, Settings
from stream.writer import POSITION_KEY, Owner, Rebuilding, encode_position
from tests.running import environment, orders, send
from tests.small_shop import a_trained

pytestmark = pytest.mark.broker
run = CliRunner()


@pytest.fixture
def shop(settings: Settings, registry: Path) -> Settings:
    """Settings with every topic made and a model to decide with."""
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    return settings


def diagnosed(settings: Settings, check: str, **world: Any) -> list[Finding]:
    """What one check says of these settings; the environment of whoever runs the tests is none of it."""
    world.setdefault("environment", {})
    return [finding for finding in examine(settings, **world) if finding.check == check]


def the_fault(settings: Settings, check: str, **world: Any) -> Finding:
    """The one thing that is wrong."""
    (finding,) = diagnosed(settings, check, **world)
    assert finding.state == "fail", finding
    assert finding.do
    return finding


def test_where_all_is_well_nothing_is_to_be_done(shop: Settings) -> None:
    send(shop, orders(50))

    findings = list(examine(shop, environment={}))

    assert [finding for finding in findings if finding.state in {"fail", "skipped"}] == []
    assert [finding.check for finding in findings if finding.do] == ["workers"], "none runs and orders wait"


def test_no_broker(settings: Settings) -> None:
    away = settings.model_copy(update={"broker": f"127.0.0.1:{free_ports(1)[0]}"})

    finding = the_fault(away, "broker")

    assert finding.found == f"no broker: {away.broker}: nothing listens there"
    assert "fraudstream broker start" in finding.do
    assert "FRAUDSTREAM_BROKER" in finding.do
    assert {each.state for each in diagnosed(away, "topics")} == {"skipped"}


@pytest.fixture
def kafka_2_0() -> Iterator[str]:
    """A server that says which requests it takes, as Kafka 2.0 did, and nothing else."""
    spoken = {0: 6, 1: 8, 2: 3, 3: 6, 8: 4, 9: 4, 10: 2, 11: 3, 18: 2, 22: 1, 24: 1, 25: 1, 26: 1, 28: 1}
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(1024)
                if len(request) < 14:
                    continue
                (correlation,) = struct.unpack_from(">i", request, 8)
                apis = b"".join(struct.pack(">hhh", api, 0, high) for api, high in spoken.items())
                answer = struct.pack(">ihi", correlation, 0, len(spoken)) + apis
                connection.sendall(struct.pack(">i", len(answer)) + answer)

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_an_old_broker(settings: Settings, kafka_2_0: str) -> None:
    finding = the_fault(settings.model_copy(update={"broker": kafka_2_0}), "broker version")

    assert "is an old broker: it speaks" in finding.found
    assert "TxnOffsetCommit 1 of 3" in finding.found
    assert "upgrade it to Kafka 2.8 or newer" in finding.do


def test_a_missing_topic(shop: Settings) -> None:
    names = shop.topics.model_copy(update={"orders": shop.topics.orders + "-misspelt"})

    finding = the_fault(shop.model_copy(update={"topics": names}), "topics")

    assert finding.found == f"missing: {names.orders}"
    assert "'fraudstream topics create'" in finding.do


def test_a_wrong_partition_count(shop: Settings) -> None:
    findings = diagnosed(shop.model_copy(update={"partitions": 3}), "partition counts")

    assert f"{shop.topics.orders} has 2 partitions, and the setting says 3" in [f.found for f in findings]
    assert {finding.state for finding in findings} == {"fail"}
    assert all("FRAUDSTREAM_PARTITIONS=2" in finding.do for finding in findings)


def test_a_wrong_partitioner(shop: Settings) -> None:
    (key, value), *_ = orders(1)
    send(shop, orders(9, customers=1))
    send(shop, [(key, value)], partition=1 - partition_of(key, 2))

    finding = the_fault(shop, "partitioner")

    assert finding.found.startswith(
        f"1 of the last 10 records of {shop.topics.orders} lie on another partition"
    )
    assert "partitioner=murmur2_random" in finding.do


@pytest.mark.parametrize(("wrong_by", "said"), [(600, "s behind this"), (-600, "s ahead of this")])
def test_clock_skew(shop: Settings, wrong_by: float, said: str) -> None:
    finding = the_fault(shop, "clock", clock=lambda: time.time() + wrong_by)

    assert finding.found.startswith(("the broker's clock is 59", "the broker's clock is 60"))
    assert said in finding.found
    assert "NTP" in finding.do


def test_no_model(shop: Settings) -> None:
    shutil.rmtree(shop.home / "models")

    finding = the_fault(shop, "model")

    assert "'starter'" in finding.found
    assert "fraudstream train FILE" in finding.do


def test_an_alias_that_no_signature_covers(shop: Settings, tmp_path: Path) -> None:
    trained = a_trained("logistic_regression")
    said = f"{trained.name}@{trained.version}"
    signed = shop.model_copy(
        update={
            "registry": str(tmp_path / "signed"),
            "signing_key": SecretStr("a secret of the test"),
            "model": trained.name,
            "row_limit": trained.settings["row_limit"],
        }
    )
    registry = registry_of(signed)
    registry.publish(trained)
    registry.promote(trained.name, trained.version)

    sound, warned = diagnosed(signed, "model")
    (named,) = diagnosed(signed.model_copy(update={"model": said}), "model")

    assert (sound.state, warned.state, named.state) == ("ok", "warn", "ok")
    assert f"FRAUDSTREAM_MODEL={said}" in warned.do


def test_a_tampered_model(shop: Settings) -> None:
    (arrays,) = (shop.home / "models").glob("starter/*/arrays.safetensors")
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.chmod(0o644)
    arrays.write_bytes(content)

    finding = the_fault(shop, "model")

    assert "its sha256 differs" in finding.found
    assert finding.do.startswith("do not use it: put ")
    assert "who can write there" in finding.do


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True
    ).returncode
    != 0,
    reason="a disk of one MiB can't be mounted by this user",
)
def test_no_disk(settings: Settings) -> None:
    settings.home.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {settings.home}"
    script = f"{mount} && exec {sys.executable} -m stream.cli doctor --json"

    told = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, **environment(settings)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    (finding,) = [each for each in map(json.loads, told.stdout.splitlines()) if each["check"] == "home"]
    assert told.returncode == 1
    assert finding["state"] == "fail"
    assert finding["found"] == f"1 MiB are free at {settings.home}"
    assert "make room, or set FRAUDSTREAM_HOME" in finding["do"]


def test_a_home_that_cannot_be_written_to(settings: Settings) -> None:
    settings.home.write_text("a file, and no folder")

    finding = the_fault(settings, "home")

    assert finding.found == f"can't write to {settings.home}: Not a directory"
    assert "let this user write there" in finding.do


def test_two_workers_with_one_name(shop: Settings) -> None:
    config = shop.confluent(group_id=shop.group, enable_auto_commit=False)
    both = [Consumer(config), Consumer(config)]
    try:
        for each in both:
            each.subscribe([shop.topics.orders])
        deadline = time.monotonic() + 30
        while not all(each.assignment() for each in both):
            assert time.monotonic() < deadline
            for each in both:
                each.poll(0.1)

        finding = the_fault(shop, "workers")
    finally:
        for each in both:
            each.close()

    assert finding.found.startswith(f"2 workers in group '{shop.group}' are named '{shop.worker}'")
    assert "give every worker its own name with FRAUDSTREAM_WORKER" in finding.do


# ---------------------------------------------------------------------- beyond the ten


def test_offsets_that_expired(shop: Settings) -> None:
    key = POSITION_KEY
    value = encode_position({shop.topics.orders: 0}, shop.group)
    send(shop, [(key, value)], topic=shop.topics.changelog, partition=1)

    finding = next(each for each in diagnosed(shop, "offsets") if each.state == "fail")

    assert f"has no offsets for {shop.topics.orders}/1, and the changelog has rows" in finding.found
    assert "'fraudstream topics repair-offsets'" in finding.do


def test_an_input_that_no_worker_read_before_has_no_offsets_to_lose(shop: Settings) -> None:
    """As after an upgrade from a version that read fewer topics."""
    value = encode_position({shop.topics.orders: 0}, shop.group)
    send(shop, [(POSITION_KEY, value)], topic=shop.topics.changelog, partition=0)

    (finding,) = (each for each in diagnosed(shop, "offsets") if each.state == "fail")

    assert f"has no offsets for {shop.topics.orders}/0, and" in finding.found


def committed(shop: Settings, offset: int, metadata: str = "") -> None:
    """The group has committed this for a partition of the orders."""
    admin = AdminClient(shop.confluent())
    asked = [TopicPartition(shop.topics.orders, 0, offset, metadata)]
    request = [ConsumerGroupTopicPartitions(shop.group, asked)]
    deadline = time.monotonic() + 20
    error: KafkaError | None = KafkaError(KafkaError.NOT_COORDINATOR)
    while error is not None:  # it has to find the coordinator first, and says so only in the answer
        assert time.monotonic() < deadline, error
        (future,) = admin.alter_consumer_group_offsets(request).values()
        (error,) = (each.error for each in future.result().topic_partitions)


def test_an_input_made_anew(shop: Settings) -> None:
    committed(shop, 99)

    finding = next(each for each in diagnosed(shop, "offsets") if each.state == "fail")

    assert "end before the group's offsets" in finding.found


def test_rows_that_were_left_for_another_changelog_or_are_yet_to_be_taken_over(shop: Settings) -> None:
    committed(shop, 0, Owner("w1", "m1", changelog="rows-2").left_with(0).metadata)

    def position(rebuilding: Rebuilding | None) -> None:
        value = encode_position({shop.topics.orders: 0}, shop.group, rebuilding=rebuilding)
        send(shop, [(POSITION_KEY, value)], topic=shop.topics.changelog, partition=0)

    finding = the_fault(shop, "offsets")
    assert "decides with changelog 'rows-2'" in finding.found
    assert "fraudstream rebuild start --from rows-2" in finding.do

    position(Rebuilding("rows-2", 0))
    (finding,) = diagnosed(shop, "offsets")
    assert (finding.state, "still decides with 'rows-2'" in finding.found) == ("warn", True)

    position(None)
    finding = the_fault(shop, "offsets")
    assert "was left for it" in finding.found
    assert "FRAUDSTREAM_TOPICS__CHANGELOG=rows-2" in finding.do


def test_a_transaction_that_hangs(shop: Settings) -> None:
    sender = Producer({**shop.confluent(), "transactional.id": f"{shop.group}-sender"})
    sender.init_transactions(10)
    sender.begin_transaction()
    sender.produce(shop.topics.orders, b"{}", partition=1)
    sender.flush(10)
    try:
        assert all(each.state == "ok" for each in diagnosed(shop, "open transactions")), "it may still end"
        finding = the_fault(shop, "open transactions", clock=lambda: time.time() + 600)
    finally:
        sender.abort_transaction(10)

    assert f"holds back 1 records of {shop.topics.orders}/1" in finding.found
    assert f"--topic {shop.topics.orders} --partition 1 --start-offset 0" in finding.do


def test_a_group_that_was_paused_and_told_to_observe(shop: Settings) -> None:
    change(shop, PAUSED, who="anna", why="a test")
    change(shop, OBSERVE, who="anna", why="a test")

    waits, observes = diagnosed(shop, "control")

    assert (waits.state, observes.state) == ("warn", "warn")
    assert waits.found.startswith("no orders are taken: paused by anna on ")
    assert "'fraudstream resume'" in waits.do
    assert f"decisions go to {shop.topics.decisions_shadow} only" in observes.found
    assert "fraudstream go-live" in observes.do


@pytest.mark.parametrize("address", ["a..b:9092", "a" * 70 + ".com:9092", "127.0.0.1:99999"])
def test_an_address_that_can_be_none(settings: Settings, address: str) -> None:
    finding = the_fault(settings.model_copy(update={"broker": address}), "broker")

    assert address in finding.found


def test_one_of_two_brokers_that_is_away_says_nothing_of_its_own(shop: Settings) -> None:
    away = f"127.0.0.1:{free_ports(1)[0]}"
    told = subprocess.run(
        [sys.executable, "-m", "stream.cli", "doctor", "--json"],
        env={**os.environ, **environment(shop), "FRAUDSTREAM_BROKER": f"{away},{shop.broker}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    (finding,) = [each for each in map(json.loads, told.stdout.splitlines()) if each["check"] == "broker"]
    assert finding["found"] == f"some brokers can't be reached: {away}: nothing listens there"
    assert told.stderr == ""


def test_a_topic_kept_in_a_way_that_loses_orders(shop: Settings) -> None:
    _configure(shop, shop.topics.orders, {"message.timestamp.type": "CreateTime", "retention.ms": "86400000"})
    _configure(shop, shop.topics.changelog, {"cleanup.policy": "delete", "min.insync.replicas": "2"})

    findings = diagnosed(shop, "topic settings")

    said = {finding.found: finding.state for finding in findings}
    assert said == {
        f"{shop.topics.orders} has message.timestamp.type=CreateTime and not LogAppendTime": "fail",
        f"{shop.topics.orders} forgets after 1 days: what is not archived by then can't be replayed": "warn",
        f"{shop.topics.changelog} has cleanup.policy=delete and not compact": "fail",
        f"{shop.topics.changelog} wants 2 replicas in sync and has 1: nothing can be written": "fail",
    }
    assert all(finding.do for finding in findings)


def test_fewer_replicas_than_the_setting_asks_for(shop: Settings) -> None:
    finding = the_fault(shop.model_copy(update={"replication": 3}), "replication")

    assert f"{shop.topics.orders} (1)" in finding.found
    assert "FRAUDSTREAM_REPLICATION" in finding.do


def test_tls_asked_of_a_port_that_speaks_none(shop: Settings) -> None:
    finding = the_fault(shop.model_copy(update={"security": Security(protocol="SSL")}), "broker version")

    assert "FRAUDSTREAM_SECURITY__PROTOCOL" in finding.do


def test_an_authority_that_is_no_certificate(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    security = Security(protocol="SSL", ca_file=file)

    findings = list(examine(settings.model_copy(update={"security": security}), environment={}))

    assert [
        finding.check for finding in findings if finding.state == "fail" and str(file) in finding.found
    ] == ["settings"]
    assert {finding.state for finding in findings if finding.check in {"topics", "workers"}} == {"skipped"}


class SaslBroker(EmbeddedBroker):
    """An embedded broker with one more listener, that asks for a name and a password."""

    def __init__(self, home: Path) -> None:
        plain, self.port = free_ports(2)
        super().__init__(home, ports=(plain,), tied=True)

    def _properties(self, node: Any) -> str:
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        address = f"listeners=SASL_PLAINTEXT://127.0.0.1:{self.port},PLAINTEXT"
        return (
            super()._properties(node).replace("listeners=PLAINTEXT", address)
            + "listener.security.protocol.map="
            + "SASL_PLAINTEXT:SASL_PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            + "sasl.enabled.mechanisms=PLAIN\n"
            + f'listener.name.sasl_plaintext.plain.sasl.jaas.config={login} user_shop="secret";\n'
        )


@pytest.mark.slow
def test_a_password_that_is_refused_and_one_that_is_missing(settings: Settings, tmp_path: Path) -> None:
    with SaslBroker(tmp_path) as broker:
        plain = settings.model_copy(update={"broker": f"127.0.0.1:{broker.port}"})
        user = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "shop"}
        refused = plain.model_copy(
            update={"security": Security.model_validate(user | {"sasl_password": "wrong"})}
        )
        sound = plain.model_copy(
            update={"security": Security.model_validate(user | {"sasl_password": "secret"})}
        )

        missing = the_fault(plain, "broker answers")
        wrong = the_fault(refused, "broker answers")

        assert [each.state for each in diagnosed(sound, "broker answers")] == ["ok"]
    assert "FRAUDSTREAM_SECURITY__PROTOCOL" in missing.do
    assert "FRAUDSTREAM_SECURITY__SASL_USERNAME" in wrong.do


def test_a_setting_that_was_misspelt(settings: Settings) -> None:
    (finding,) = diagnosed(settings, "settings", environment={"FRAUDSTREAM_PARTITONS": "8", "PATH": ""})

    assert finding.state == "warn"
    assert finding.do == "did you mean FRAUDSTREAM_PARTITIONS?"


def test_settings_that_cannot_be_read_are_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "eight")

    result = run.invoke(app, ["doctor", "--json"])

    assert result.exit_code == 1
    (finding,) = map(json.loads, result.stdout.splitlines())
    assert (finding["check"], finding["state"]) == ("settings", "fail")


def test_the_doctor_leaves_nothing_that_a_reader_sees(shop: Settings) -> None:
    list(examine(shop, environment={}))

    reader = Consumer(
        shop.confluent(group_id="reader", isolation_level="read_committed", enable_partition_eof=True)
    )
    every = [
        TopicPartition(topic, partition, 0)
        for topic, partition in itertools.product((shop.topics.orders, shop.topics.order_events), range(2))
    ]
    reader.assign(every)
    ends, records = 0, 0
    while ends < len(every):
        for message in reader.consume(100, 0.2):
            ends += message.error() is not None
            records += message.error() is None
    reader.close()

    assert records == 0


def _configure(settings: Settings, topic: str, config: dict[str, str]) -> None:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient(settings.confluent())  # held: its futures end with it
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    asked = ConfigResource(ResourceType.TOPIC, topic)
    deadline = time.monotonic() + 30
    while True:  # the broker that answers may hear of it a moment later
        (described,) = admin.describe_configs([asked]).values()
        found = described.result()
        if all(found[name].value == value for name, value in config.items()):
            return
        assert time.monotonic() < deadline, f"{topic} is not configured"
        time.sleep(0.05)
