"""The doctor: what keeps the scorer from deciding, or soon will, and what to do about each.

Every check is a small function that looks at one thing and says what it found. They run from the near
to the far: settings, disk and model need no broker; the rest is skipped, and said to be, while none
answers. Nothing is changed, but for one record in an aborted transaction, which no reader ever sees: the
broker's clock can't be asked for otherwise, and it shows that the cluster can do transactions at all.
"""

import difflib
import os
import shutil
import socket
import ssl
import struct
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final, Literal

import psutil
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, ResourceType

from stream.control import in_force
from stream.errors import Refusal
from stream.kafka import KafkaCluster, Member, once_it_answers
from stream.lag import held_by_transactions, left_on_the_road
from stream.ports import TP, Committed, Refused
from stream.repair import last_position
from stream.service import Service
from stream.settings import Settings, SettingsError, describe_settings
from stream.topics import TopicState, describe
from stream.writer import left_for

__all__ = ["Finding", "examine", "unusable_settings"]

State = Literal["ok", "warn", "fail", "skipped"]

_TOUCH_S: Final = 2.0
_ANSWER_S: Final = 5.0
_READ_S: Final = 3.0
_RECENT: Final = 200
"""How many of the last records of a partition are looked at."""

_SPACE_FAIL: Final = 256 * 1024 * 1024
_SPACE_WARN: Final = 2 * 1024 * 1024 * 1024
_SKEW_WARN_S: Final = 5.0
_SKEW_FAIL_S: Final = 60.0
_HANGING_S: Final = 90.0
"""An open transaction older than this has outlived its sender's usual timeout of 60 s."""

# What is asked of a broker: API -> (its name, the version, what would go wrong without it).
_NEEDED: Final[Mapping[int, tuple[str, int, str]]] = {
    3: ("Metadata", 10, "a changelog that was deleted and made again could not be told from the old one"),
    9: ("OffsetFetch", 7, "offsets of an open transaction could not be told from stable ones"),
    22: ("InitProducerId", 3, "a transaction whose outcome is unknown could not be ended"),
    28: ("TxnOffsetCommit", 3, "a worker that lost its partitions could still commit"),
}
_NEEDS_KAFKA: Final = "2.8"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    state: State
    found: str
    do: str = ""
    """What to do; nothing where all is well."""

    def as_json(self) -> dict[str, str]:
        """The same, for machines."""
        return asdict(self)


def unusable_settings(error: SettingsError) -> Finding:
    """The finding where the settings themselves can't be read, so that nothing else can be looked at."""
    return Finding("settings", "fail", str(error), "mend the setting named, then ask the doctor again")


def examine(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.time,
    environment: Mapping[str, str] = os.environ,
    within_s: float = 45.0,
) -> Iterator[Finding]:
    """Every finding, one after the other as each is made; `clock` is this machine's.

    No check is begun after `within_s`; each waits for at most a few seconds.
    """
    with closing(_Look(settings, clock, environment)) as look:
        deadline = time.monotonic() + within_s
        for name, check in _NEAR.items():
            yield from _examined(look, name, check)
        answers = True
        for name, check in _REACH.items():
            if not answers:
                yield Finding(name, "skipped", "needs a broker that answers")
                continue
            for finding in _examined(look, name, check):
                answers &= finding.state != "fail"
                yield finding
        answers &= look.metadata is not None  # a check that could not be made has found no fault
        for name, check in _FAR.items():
            if not answers:
                yield Finding(name, "skipped", "needs a broker that answers")
            elif time.monotonic() > deadline:
                yield Finding(name, "skipped", f"the {within_s:.0f} s for all checks are over")
            else:
                yield from _examined(look, name, check)


def _examined(look: "_Look", name: str, check: "Check") -> Iterator[Finding]:
    """The check's findings; one that says all is well where it had nothing to say."""
    nothing = True
    try:
        for state, found, do in check(look):
            nothing = False
            yield Finding(name, state, found, do)
    except Refused as error:  # asking again would change nothing
        nothing = False
        yield Finding(name, "warn", f"could not be looked at: {error}", "do what it says")
    except Refusal as error:
        nothing = False
        yield Finding(name, "warn", f"could not be looked at: {error}", "see the findings above; try again")
    except KafkaException as failure:
        nothing = False
        refused: KafkaError = failure.args[0]
        rights = refused.code() in {
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        }
        yield Finding(
            name,
            "warn",
            f"could not be looked at: {refused.name()}: {refused.str()}",
            "let this user describe topics, groups and configs" if rights else "try again",
        )
    except TimeoutError:
        nothing = False
        yield Finding(name, "warn", "could not be looked at: no answer in time", "try again")
    if nothing:
        yield Finding(name, "ok", "")


class _Look:
    """What the checks look at; asked for once."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float], environment: Mapping[str, str]
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.environment = environment
        self.errors: list[KafkaError] = []
        self.metadata: ClusterMetadata | None = None

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient(self.settings.confluent(log_level=0) | {"error_cb": self.errors.append})

    @cached_property
    def cluster(self) -> KafkaCluster:
        return KafkaCluster(self.settings, quiet=True)

    def close(self) -> None:
        """Let go of the cluster, if it was asked anything."""
        if "cluster" in self.__dict__:
            self.cluster.close()

    @cached_property
    def addresses(self) -> list[tuple[str, int]]:
        return [_address(each) for each in self.settings.broker.split(",")]

    @cached_property
    def touched(self) -> dict[tuple[str, int], str]:
        """Why each address of the setting can't be reached; an empty text for one that can."""
        return _touch(self.addresses)

    @cached_property
    def states(self) -> list[TopicState]:
        return describe(self.settings)

    @cached_property
    def there(self) -> list[TopicState]:
        return [state for state in self.states if state.partitions is not None]

    def tps(self, *topics: str) -> list[TP]:
        """The partitions of those topics that exist."""
        return [
            (state.plan.name, partition)
            for state in self.there
            if state.plan.name in topics
            for partition in range(state.partitions or 0)
        ]

    @cached_property
    def inputs(self) -> list[TP]:
        return self.tps(*self.settings.inputs)

    @cached_property
    def members(self) -> list[Member]:
        """The living workers."""
        return sorted(once_it_answers(self.cluster.roll_call).values())

    @cached_property
    def committed(self) -> Mapping[TP, Committed | None]:
        """The group's offsets of the inputs."""
        if not self.inputs:
            return {}
        return once_it_answers(self.cluster.committed, self.inputs, stable=False)

    def bounds(self, tps: Iterable[TP], *, stable: bool = False) -> dict[TP, tuple[int, int]]:
        """The first offset of each partition and the one after its last."""
        return {tp: once_it_answers(self.cluster.bounds, tp, stable=stable) for tp in tps}

    def config(self, kind: ResourceType, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The settings of topics or brokers."""
        resources = [ConfigResource(kind, name) for name in names]
        if not resources:
            return {}
        futures = self.admin.describe_configs(resources, request_timeout=_ANSWER_S)
        return {
            resource.name: {key: entry.value or "" for key, entry in future.result(2 * _ANSWER_S).items()}
            for resource, future in futures.items()
        }

    def last_records(self, tps: Iterable[TP], count: int) -> list[Message]:
        """About the last `count` committed records of each partition."""
        bounds = self.bounds(tps, stable=True)
        left = {tp for tp, (low, end) in bounds.items() if low < end}
        if not left:
            return []
        consumer = Consumer(
            self.settings.confluent(
                group_id=f"{self.settings.group}-doctor",
                enable_auto_commit=False,
                enable_partition_eof=True,
                isolation_level="read_committed",
                fetch_wait_max_ms=10,
                log_level=0,
            )
        )
        found = []
        try:
            consumer.assign([TopicPartition(*tp, max(bounds[tp][0], bounds[tp][1] - count)) for tp in left])
            deadline = time.monotonic() + _READ_S
            while left and time.monotonic() < deadline:
                for message in consumer.consume(1000, 0.05):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        left.discard((message.topic() or "", message.partition() or 0))
        finally:
            consumer.close()
        return found


Said = tuple[State, str, str]
Check = Callable[[_Look], Iterator[Said]]


def _ok(found: str) -> Said:
    return "ok", found, ""


def _warn(found: str, do: str) -> Said:
    return "warn", found, do


def _fail(found: str, do: str) -> Said:
    return "fail", found, do


def _skipped(why: str) -> Said:
    return "skipped", why, ""


# ---------------------------------------------------------------------- near: no broker needed


def _settings(look: _Look) -> Iterator[Said]:
    """Words in the environment that look like settings and are none are passed over in silence elsewhere."""
    known = {each.variable for each in describe_settings()} | {"FRAUDSTREAM_CONFIG"}
    known |= {f"FRAUDSTREAM_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(look.environment):
        if name.startswith("FRAUDSTREAM_") and name.upper() not in known:
            near = difflib.get_close_matches(name, known, 1)
            do = f"did you mean {near[0]}?" if near else "'fraudstream settings --describe' lists them all"
            yield _warn(f"{name} is in the environment and is no setting", do)
    security = look.settings.security
    try:
        look.settings.ssl_context()
        look.settings.signing_secret()
    except SettingsError as error:
        yield _fail(str(error), "mend the file or the setting named")
    if security.protocol == "SASL_PLAINTEXT" and security.sasl_mechanism == "PLAIN":
        yield _warn("the password travels unencrypted (SASL_PLAINTEXT with PLAIN)", "set SASL_SSL")


def _home(look: _Look) -> Iterator[Said]:
    home = look.settings.home.absolute()
    place = home
    try:
        # what is not there yet is made by whoever needs it first; a file in its way is found here
        place = next(each for each in (home, *home.parents) if each.exists())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(64 * 1024))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield _fail(
            f"can't write to {home}: {error.strerror or error}",
            "let this user write there, make room, or set FRAUDSTREAM_HOME to another folder",
        )
        return
    free = shutil.disk_usage(place).free
    least = f"{free / 1024**2:,.0f} MiB are free at {place}"
    if free < _SPACE_FAIL:
        yield _fail(least, "make room, or set FRAUDSTREAM_HOME: a worker that can't write its rows ends")
    elif free < _SPACE_WARN:
        yield _warn(least, "make room before the rows need it; RocksDB keeps old and new files for a while")
    else:
        yield _ok(f"{home}, {free / 1024**3:,.0f} GiB free")


def _model(look: _Look) -> Iterator[Said]:
    from models.registry import Registry  # noqa: PLC0415 (numpy and faust: not for `--help`)
    from stream.own_features import OwnFeaturesError  # noqa: PLC0415
    from stream.registry import shelf_of  # noqa: PLC0415
    from stream.worker import load_model  # noqa: PLC0415

    settings = look.settings
    try:
        scorer, _ = load_model(settings)
    except Refusal as error:
        root = settings.registry_address
        name = settings.model.partition("@")[0]
        try:  # without the key, which may be what is wrong
            published = {each for each, _ in Registry(shelf_of(root)).list()}
        except (Refusal, OSError):
            published = set()
        if isinstance(error, OwnFeaturesError):
            do = "do what it says"
        elif name not in published:
            do = "train one: fraudstream train FILE"
            if published:
                do += (
                    f"; or name one of those in {root} with FRAUDSTREAM_MODEL: {', '.join(sorted(published))}"
                )
        elif any(
            word in str(error)
            for word in ("row_limit", "ROW_LIMIT", "REVIEW_AT", "no champion", "trained on feature")
        ):
            do = "do what it says"
        else:
            do = (
                f"do not use it: put {root}/{name} back from a copy, or train again (fraudstream train "
                "FILE); and find out who can write there"
            )
        yield _fail(str(error), do)
    else:
        said = f"{scorer.name}@{scorer.version}"
        yield _ok(f"{said} is sound: digests, golden rows, features")
        if settings.signing_secret() is not None and "@" not in settings.model:
            yield _warn(
                f"which version '{settings.model}' is, the alias champion says, and no signature covers it: "
                "who may write to the registry can have it name another signed version",
                f"set FRAUDSTREAM_MODEL={said}, or put it into service, where control keeps its digest: "
                f"fraudstream models deploy {said} --role champion",
            )


# ---------------------------------------------------------------------- reaching the broker


def _reached(look: _Look) -> Iterator[Said]:
    failed = {address: why for address, why in look.touched.items() if why}
    said = "; ".join(f"{host}:{port}: {why}" for (host, port), why in failed.items())
    if len(failed) == len(look.touched):
        yield _fail(
            f"no broker: {said}",
            "start it ('fraudstream broker start' starts the embedded one), or set FRAUDSTREAM_BROKER",
        )
    elif failed:
        yield _warn(
            f"some brokers can't be reached: {said}",
            "start them, or take them off FRAUDSTREAM_BROKER",
        )
    else:
        yield _ok(f"{look.settings.broker} takes connections")


def _versions_spoken(look: _Look) -> Iterator[Said]:
    settings = look.settings
    for (host, port), why in look.touched.items():
        if why:
            continue
        try:
            spoken = _ask_versions(settings, host, port)
        except ssl.SSLCertVerificationError as error:
            yield _fail(
                f"{host}:{port}: its certificate is not trusted: {error.verify_message}",
                "set FRAUDSTREAM_SECURITY__CA_FILE to the authority that signed it, "
                "and name the broker as the certificate does",
            )
        except ssl.SSLError as error:
            yield _fail(
                f"{host}:{port} does not speak TLS as we do: {error.reason or error}",
                "set FRAUDSTREAM_SECURITY__PROTOCOL to what that port speaks, or name another port",
            )
        except _NoKafkaError as error:
            yield _fail(
                f"{host}:{port} {error}",
                "set FRAUDSTREAM_BROKER to a Kafka listener, "
                "and FRAUDSTREAM_SECURITY__PROTOCOL to what it expects",
            )
        else:
            old = [
                f"{name} {spoken.get(api, (-1, -1))[1]} of {least} ({why})"
                for api, (name, least, why) in _NEEDED.items()
                if spoken.get(api, (-1, -1))[1] < least
            ]
            if old:
                yield _fail(
                    f"{host}:{port} is an old broker: it speaks {'; '.join(old)}",
                    f"upgrade it to Kafka {_NEEDS_KAFKA} or newer (4.x is what is tested)",
                )
            else:
                yield _ok(f"{host}:{port} speaks all that is needed")


def _answering(look: _Look) -> Iterator[Said]:
    """Librdkafka's own way in: TLS, SASL and the first answer."""
    settings = look.settings
    try:
        look.metadata = look.admin.list_topics(timeout=_ANSWER_S)
    except KafkaException as failure:
        look.admin.poll(0.1)
        codes = {error.code(): error for error in (*look.errors, failure.args[0])}
        words = failure.args[0].str()
        if (error := codes.get(KafkaError._AUTHENTICATION)) is not None:  # noqa: SLF001
            words, do = (
                error.str(),
                (
                    "set FRAUDSTREAM_SECURITY__SASL_USERNAME, _SASL_PASSWORD and _SASL_MECHANISM "
                    "as the broker knows them"
                ),
            )
        elif (error := codes.get(KafkaError._SSL)) is not None:  # noqa: SLF001
            words, do = error.str(), "see FRAUDSTREAM_SECURITY__CA_FILE, _CERTIFICATE_FILE and _KEY_FILE"
        elif settings.security.protocol in {"PLAINTEXT", "SSL"}:
            do = (
                "if the listener wants a user (SASL), set FRAUDSTREAM_SECURITY__PROTOCOL and the user; "
                "else see the broker's log"
            )
        else:
            do = "see the broker's log"
        yield _fail(f"the broker takes connections and does not answer: {words}", do)
        return
    brokers = look.metadata.brokers.values()
    named = {(str(broker.host), broker.port) for broker in brokers}
    unreachable = {address: why for address, why in _touch(named).items() if why}
    for (host, port), why in unreachable.items():
        yield (
            "fail" if len(unreachable) == len(named) else "warn",
            f"the cluster says to find a broker at {host}:{port}, and from here: {why}",
            "set that broker's advertised.listeners to an address this machine can reach, or start it",
        )
    if not unreachable:
        yield _ok(f"{len(named)} broker(s) answer: {', '.join(f'{h}:{p}' for h, p in sorted(named))}")


class _NoKafkaError(Exception):
    """What answers there is no Kafka listener of the protocol we speak."""


def _ask_versions(settings: Settings, host: str, port: int) -> dict[int, tuple[int, int]]:
    """What a broker speaks: API -> lowest and highest version. Asked before any SASL, as clients do."""
    context = settings.ssl_context()
    try:
        with socket.create_connection((host, port), _TOUCH_S) as plain:
            plain.settimeout(_ANSWER_S)
            if context is None:
                return _versions_over(plain)
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                return _versions_over(wrapped)
    except ssl.SSLError:
        raise
    except TimeoutError:
        raise _NoKafkaError(f"takes the connection and says nothing for {_ANSWER_S:.0f} s") from None
    except OSError as error:
        raise _NoKafkaError(f"broke off the connection ({error.strerror or error})") from None


def _versions_over(connection: socket.socket) -> dict[int, tuple[int, int]]:
    # ApiVersions 0, the one request that every broker since 0.10 answers; no client id
    request = struct.pack(">hhih", 18, 0, 1, -1)
    connection.sendall(struct.pack(">i", len(request)) + request)
    first = _exactly(connection, 4)
    if first[:2] == b"\x15\x03":
        raise _NoKafkaError("answers in TLS; security.protocol says it should not")
    (size,) = struct.unpack(">i", first)
    if not 10 <= size <= 65_536:
        raise _NoKafkaError("does not answer as Kafka does")
    answer = _exactly(connection, size)
    correlation, error, count = struct.unpack_from(">ihi", answer)
    if correlation != 1 or error or size < 10 + 6 * count:
        raise _NoKafkaError("does not answer as Kafka does")
    apis = struct.iter_unpack(">hhh", answer[10 : 10 + 6 * count])
    return {api: (low, high) for api, low, high in apis}


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            raise _NoKafkaError("closes the connection without an answer; perhaps it wants TLS")
        got += more
    return got


# ---------------------------------------------------------------------- the cluster


def _broker_settings(look: _Look) -> Iterator[Said]:
    settings = look.settings
    assert look.metadata is not None  # noqa: S101 (the broker answered)
    for number, config in look.config(
        ResourceType.BROKER, [str(each) for each in look.metadata.brokers]
    ).items():
        low = _number(config, "group.min.session.timeout.ms", 6_000) / 1000
        high = _number(config, "group.max.session.timeout.ms", 1_800_000) / 1000
        longest = _number(config, "transaction.max.timeout.ms", 900_000) / 1000
        kept = _number(config, "offsets.retention.minutes", 10_080)
        if not low <= settings.session_s <= high:
            yield _fail(
                f"broker {number} takes sessions of {low:g} to {high:g} s, "
                f"and session_s is {settings.session_s:g}",
                "set FRAUDSTREAM_SESSION_S within, or the broker's group.min/max.session.timeout.ms",
            )
        if settings.transaction_s > longest:
            yield _fail(
                f"broker {number} takes transactions of at most {longest:g} s, and transaction_s is "
                f"{settings.transaction_s:g}",
                "set FRAUDSTREAM_TRANSACTION_S lower, or raise the broker's transaction.max.timeout.ms",
            )
        if kept < 1440:
            yield _warn(
                f"broker {number} forgets the offsets of a group that was idle for {kept} minutes",
                "raise the broker's offsets.retention.minutes to days, or be ready to run "
                "'fraudstream topics repair-offsets'",
            )
        if config.get("auto.create.topics.enable") == "true":
            yield _warn(
                f"broker {number} makes topics by itself: a misspelt name becomes a topic nobody chose",
                "set auto.create.topics.enable=false on the brokers",
            )


def _number(config: Mapping[str, str], name: str, otherwise: int) -> int:
    return int(config.get(name) or otherwise)


def _topics(look: _Look) -> Iterator[Said]:
    missing = [state.plan.name for state in look.states if state.partitions is None]
    if missing:
        yield _fail(
            f"missing: {', '.join(missing)}",
            "make them with 'fraudstream topics create', "
            "or set FRAUDSTREAM_TOPICS__... to the names they have",
        )
    else:
        yield _ok(f"all {len(look.states)} are there")


def _partition_counts(look: _Look) -> Iterator[Said]:
    for state in look.there:
        if state.partitions != state.plan.partitions:
            yield _fail(
                f"{state.plan.name} has {state.partitions} partitions, and the setting says "
                f"{state.plan.partitions}",
                f"if the topic is right, set FRAUDSTREAM_PARTITIONS={state.partitions}; else delete it and "
                "run 'fraudstream topics create': a key's partition is fixed for life, so none can be added",
            )


def _topic_settings(look: _Look) -> Iterator[Said]:
    names = look.settings.topics
    configs = look.config(ResourceType.TOPIC, [state.plan.name for state in look.there])
    for state in look.there:
        name, config = state.plan.name, configs[state.plan.name]
        for wrong in state.wrong:
            if "partitions" not in wrong:
                setting = wrong.removeprefix("has ").partition("=")[0]
                should = state.plan.config[setting]
                yield _fail(f"{name} {wrong}", f"set {setting}={should} on the topic (kafka-configs.sh)")
        if (
            name in {names.orders, names.outcomes, names.order_events}
            and _number(config, "retention.ms", -1) >= 0
        ):
            days = _number(config, "retention.ms", -1) / 86_400_000
            yield _warn(
                f"{name} forgets after {days:g} days: what is not archived by then can't be replayed",
                "set retention.ms=-1 on the topic, or archive it",
            )
        if name == names.control and _number(config, "retention.ms", -1) >= 0:
            days = _number(config, "retention.ms", -1) / 86_400_000
            yield _fail(
                f"{name} forgets after {days:g} days what is in force: a worker that starts then is refused",
                "set retention.ms=-1 on the topic",
            )
        insync = _number(config, "min.insync.replicas", 1)
        if state.replication is not None and insync > state.replication:
            yield _fail(
                f"{name} wants {insync} replicas in sync and has {state.replication}: nothing can be written",
                "lower min.insync.replicas on the topic, or give it more replicas",
            )
        elif state.replication is not None and state.replication >= 3 and insync < 2:
            yield _warn(
                f"{name} has min.insync.replicas={insync}: a write may be on one broker only, "
                "and lost with it",
                f"set min.insync.replicas={state.replication - 1} on the topic",
            )


def _replication(look: _Look) -> Iterator[Said]:
    assert look.metadata is not None  # noqa: S101 (the broker answered)
    wanted = look.settings.replication
    few = [f"{s.plan.name} ({s.replication})" for s in look.there if (s.replication or 0) < wanted]
    if few:
        yield _fail(
            f"fewer than {wanted} replicas: {', '.join(few)}",
            "give them more with kafka-reassign-partitions.sh, or set FRAUDSTREAM_REPLICATION",
        )
    mine = {state.plan.name for state in look.there}
    for name in sorted(mine & look.metadata.topics.keys()):
        parts = look.metadata.topics[name].partitions.values()
        if lost := [str(part.id) for part in parts if part.leader < 0]:
            yield _fail(
                f"{name}: no broker leads partition {', '.join(lost)}: it can't be read or written",
                "start the brokers that have it",
            )
        behind = [str(part.id) for part in parts if part.leader >= 0 and len(part.isrs) < len(part.replicas)]
        if behind:
            yield _warn(
                f"{name}: not all replicas are in sync in partition {', '.join(behind)}",
                "see that every broker runs and keeps up",
            )
    brokers = len(look.metadata.brokers)
    if brokers >= 3 and wanted == 1:
        yield _warn(
            f"replication is 1 on a cluster of {brokers} brokers: losing one loses decisions",
            "set FRAUDSTREAM_REPLICATION=3 before the topics are made",
        )


def _clock_and_transactions(look: _Look) -> Iterator[Said]:
    topic = look.settings.topics.order_events
    if topic not in {state.plan.name for state in look.there}:
        yield _skipped(f"needs the topic {topic}")
        return
    append_times: list[int] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        kind, at = message.timestamp()
        if error is None and kind == TIMESTAMP_LOG_APPEND_TIME:
            append_times.append(at)

    group = look.settings.group
    producer = Producer(
        look.settings.confluent(
            # no worker can have this name
            transactional_id=f"{group}.#doctor",
            transaction_timeout_ms=5_000,
            delivery_timeout_ms=5_000,
            linger_ms=0,
            log_level=0,
        )
    )
    try:
        producer.init_transactions(_ANSWER_S)
        producer.begin_transaction()
        before = look.clock()
        producer.produce(topic, b"", None, 0, on_delivery=delivered, headers=[("doctor", b"aborted")])
        left = producer.flush(_ANSWER_S)
        after = look.clock()
        producer.abort_transaction(_ANSWER_S)
    except KafkaException as failure:
        error = failure.args[0]
        yield _fail(
            f"the cluster can't do a transaction: {error.name()}: {error.str()}",
            f"let this user write to {topic} and use the transactional ids {group}.*; on one or two "
            "brokers set transaction.state.log.replication.factor and .min.isr to 1; see the broker's log",
        )
        return
    if left:
        yield _fail(f"{topic} took no record within {_ANSWER_S:.0f} s", "see the broker's log")
        return
    if not append_times:
        yield _skipped(f"{topic} does not keep the broker's time; see 'topic settings'")
        return
    at = append_times[0] / 1000
    skew = at - after if at > after else at - before if at < before else 0.0
    said = f"the broker's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    do = (
        "set both by NTP (timedatectl set-ntp true): orders dated more than "
        f"{look.settings.ahead_by_at_most_s:g} s after the broker's time are rejected, and ages are wrong"
    )
    if abs(skew) > _SKEW_FAIL_S:
        yield _fail(said, do)
    elif abs(skew) > _SKEW_WARN_S:
        yield _warn(said, do)
    else:
        yield _ok(f"a transaction goes through; {said}")


def _partitioner(look: _Look) -> Iterator[Said]:
    from stream.desk import partition_of  # noqa: PLC0415 (aiokafka: not for `--help`)

    counts = {state.plan.name: state.partitions or 1 for state in look.there}
    seen: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for message in look.last_records(look.inputs, _RECENT):
        topic, key = message.topic() or "", message.key()
        seen[topic] += 1
        if key is not None and partition_of(key, counts[topic]) != message.partition():
            wrong[topic] += 1
    for topic, count in wrong.items():
        yield _fail(
            f"{count} of the last {seen[topic]} records of {topic} lie on another partition than their key's "
            "murmur2, so a customer's history is split",
            "set the sender's partitioner to murmur2 (librdkafka: partitioner=murmur2_random; Java and "
            "aiokafka have it), then send those orders again",
        )
    if not wrong:
        yield _ok(f"{sum(seen.values())} recent records lie where murmur2 puts their key")


# ---------------------------------------------------------------------- the group


def _control(look: _Look) -> Iterator[Said]:
    """What people said to all workers: the one cause of silence that no fault explains."""
    topic = look.settings.topics.control
    if topic not in {state.plan.name for state in look.there}:
        yield _skipped(f"needs the topic {topic}")
        return
    state = in_force(look.settings)
    if state.refusal:
        yield _fail(state.refusal, "do what it says")
    if state.pause is not None:
        yield _warn(f"no orders are taken: {state.pause}", "go on with 'fraudstream resume'")
    if state.observing(unless_told=look.settings.observe):
        yield _warn(
            f"decisions go to {look.settings.topics.decisions_shadow} only, so nobody acts on them: "
            f"{state.mode or 'the setting observe'}",
            "once you trust them: fraudstream go-live",
        )
    if state.service.kill is not None:
        yield _warn(next(state.service.said()), "once the cause is gone: fraudstream kill-switch off")
    yield from _in_service(look, state.service)


def _in_service(look: _Look, service: Service) -> Iterator[Said]:
    """Models in service that a worker of these settings can't use, so that others decide."""
    from models.errors import ModelError  # noqa: PLC0415 (numpy: not for `--help`)
    from stream.registry import registry_with_features  # noqa: PLC0415
    from stream.serving import check_served  # noqa: PLC0415

    if not service.served:
        return
    try:
        registry = registry_with_features(look.settings)
    except Refusal:
        return  # `model` says it
    for each in {served.ref: served for served in service.served}.values():
        try:
            check_served(look.settings, registry, each)
        except (ModelError, Refusal) as error:
            yield _fail(
                f"{each.said} is {each.role} and can't be used, so others decide: {error}",
                "bring it back from a copy, or move another one: fraudstream models service",
            )


def _workers(look: _Look) -> Iterator[Said]:
    settings = look.settings
    hosts: dict[str, list[str]] = defaultdict(list)
    for name, host in look.members:
        hosts[name].append(host)
    for name, where in hosts.items():
        if len(where) > 1:
            yield _fail(
                f"{len(where)} workers in group '{settings.group}' are named '{name}' "
                f"(at {', '.join(where)}): they fence each other",
                "give every worker its own name with FRAUDSTREAM_WORKER, and start them again",
            )
    namesakes = hosts.get(settings.worker, [])
    if len(namesakes) == 1 and namesakes[0] not in _own_addresses():
        yield _warn(
            f"a worker named '{settings.worker}', as one started here would be, runs at {namesakes[0]}",
            "unless that is this machine, set FRAUDSTREAM_WORKER here to another name",
        )
    if len(look.members) > settings.partitions:
        yield _warn(
            f"{len(look.members)} workers share {settings.partitions} partitions: some have nothing to do",
            "stop those that are too many",
        )
    if not look.members:
        waiting = sum(
            max(0, high - (low if (c := look.committed[tp]) is None else c.offset))
            for tp, (low, high) in look.bounds(look.inputs).items()
        )
        if waiting:
            yield _warn(
                f"no worker runs and about {waiting:,} records wait",
                "start one: fraudstream worker",
            )
    if len(hosts) == len(look.members):
        yield _ok(f"{len(look.members)} worker(s): {', '.join(sorted(hosts)) or 'none runs'}")


def _own_addresses() -> set[str]:
    return {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}


def _offsets(look: _Look) -> Iterator[Said]:
    settings = look.settings
    committed = look.committed
    bounds = look.bounds(look.inputs)
    rows = look.tps(settings.topics.changelog)
    begun = {tp[1] for tp, (_, high) in look.bounds(rows).items() if high > 0}
    none = [tp for tp in look.inputs if committed[tp] is None and tp[1] in begun]
    # an input that workers have not read yet, as after an upgrade, has none to lose
    last = {number: last_position(look.cluster, settings, number) for number in {tp[1] for tp in none}}
    expired = [tp for tp in none if (at := last[tp[1]]) is not None and tp[0] in at.inputs]
    if expired:
        yield _fail(
            f"group '{settings.group}' has no offsets for {_named(expired)}, and the changelog has rows: "
            "they expired or were deleted",
            "stop every worker and run 'fraudstream topics repair-offsets', which puts them back",
        )
    yield from _left_for_another(look)
    offsets = {tp: c.offset for tp in look.inputs if (c := committed[tp]) is not None}
    if beyond := [tp for tp, offset in offsets.items() if offset > bounds[tp][1]]:
        yield _fail(
            f"{_named(beyond)} end before the group's offsets: the topic was made anew or cut short",
            "bring its records back, or begin again with another group and changelog (FRAUDSTREAM_GROUP, "
            "FRAUDSTREAM_TOPICS__CHANGELOG)",
        )
    if lost := [tp for tp, offset in offsets.items() if offset < bounds[tp][0]]:
        count = sum(bounds[tp][0] - offsets[tp] for tp in lost)
        yield _fail(
            f"{count:,} records of {_named(lost)} were deleted before they were decided",
            "set retention.ms=-1 on the topic, and let the shop send those orders again",
        )
    for entity, waiting in left_on_the_road(settings).items():
        yield _fail(
            f"{waiting:,} records wait in '{settings.topics.by(entity)}' and {entity} is not among the "
            f"entities ('{','.join(settings.entities)}'): no worker starts, or nobody would decide them",
            "set FRAUDSTREAM_ENTITIES to what it was, and change it once they have arrived "
            "(docs/upgrades.md)",
        )


def _left_for_another(look: _Look) -> Iterator[Said]:
    """Whether workers decide with another changelog than these settings name."""
    ours = look.settings.topics.changelog
    elsewhere = left_for({tp: look.committed[tp] for tp in look.inputs}, ours)
    if not elsewhere:
        return
    theirs = min(elsewhere.values())
    is_there = bool(look.tps(ours))
    positions = [
        last_position(look.cluster, look.settings, number) if is_there else None
        for number in sorted({tp[1] for tp in elsewhere})
    ]
    if any(each is not None and each.rebuilding is None for each in positions):
        yield _fail(
            f"group '{look.settings.group}' has gone on with changelog '{theirs}', and '{ours}', which these "
            "settings name, was left for it: no worker starts with these",
            f"set what its workers have, FRAUDSTREAM_TOPICS__CHANGELOG={theirs}; to go back to earlier ones, "
            f"have the rows made anew under another name: fraudstream rebuild start --from {theirs}",
        )
    elif any(positions):
        yield _warn(
            f"'{ours}', which these settings name, is being made anew, and group '{look.settings.group}' "
            f"still decides with '{theirs}'",
            "switch once 'fraudstream rebuild start' says that it is complete "
            "(docs/operations.md#rows-made-anew-and-entities-turned-on)",
        )
    else:
        yield _fail(
            f"group '{look.settings.group}' decides with changelog '{theirs}', and these settings name "
            f"'{ours}', which has no rows: no worker starts with these",
            f"set FRAUDSTREAM_TOPICS__CHANGELOG={theirs}, or make the rows first: fraudstream rebuild start "
            f"--from {theirs}",
        )


def _named(tps: Iterable[TP]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in tps)


def _open_transactions(look: _Look) -> Iterator[Said]:
    names = look.settings.topics
    tps = look.tps(*look.settings.inputs, names.decisions, names.rejected, names.changelog)
    highs = {tp: high for tp, (_, high) in look.bounds(tps).items()}
    stables = {tp: end for tp, (_, end) in look.bounds(tps, stable=True).items()}
    held = held_by_transactions(look.settings, tps, highs, stables, clock=look.clock)
    for each in held:
        if each.open_s is not None and each.open_s > _HANGING_S:
            yield _fail(
                f"a transaction has been open for {each.open_s:,.0f} s and holds back {each.records:,} "
                f"records of {each.topic}/{each.partition}",
                "if its sender is gone, find it with 'kafka-transactions.sh --bootstrap-server "
                f"{look.settings.broker} find-hanging --broker-id ID' and end it with '... abort --topic "
                f"{each.topic} --partition {each.partition} "
                f"--start-offset {stables[each.topic, each.partition]}'",
            )


def _worker_versions(look: _Look) -> Iterator[Said]:
    from stream.version import program_version  # noqa: PLC0415

    living = {name for name, _ in look.members}
    newest: dict[str, tuple[int, str]] = {}
    for message in look.last_records(look.tps(look.settings.topics.decisions), 50):
        headers = dict(message.headers() or ())
        name, version = (_text(headers.get(header)) for header in ("worker", "fraudstream"))
        at = message.timestamp()[1]
        if name in living and version and at >= newest.get(name, (0, ""))[0]:
            newest[name] = (at, version)
    here = program_version()
    other = sorted(f"'{name}' runs {version}" for name, (_, version) in newest.items() if version != here)
    if other:
        yield _warn(
            f"this is fraudstream {here}, and worker {', '.join(other)}",
            "finish the upgrade: stop and start those workers one after the other, with the newer version",
        )


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


# ---------------------------------------------------------------------- below


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal():
        return text.strip().strip("[]"), 9092
    return host.strip("[]"), int(port)


def _touch(addresses: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    every = list(addresses)
    with ThreadPoolExecutor(max_workers=min(16, len(every) or 1)) as pool:
        return dict(zip(every, pool.map(_touch_one, every), strict=True))


def _touch_one(address: tuple[str, int]) -> str:
    try:
        socket.create_connection(address, _TOUCH_S).close()
    except socket.gaierror:
        return "no such host"
    except ConnectionRefusedError:
        return "nothing listens there"
    except TimeoutError:
        return f"no answer within {_TOUCH_S:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    except (UnicodeError, OverflowError):
        return "no host can have that name, or no port that number"
    return ""


_NEAR: Final[Mapping[str, Check]] = {"settings": _settings, "home": _home, "model": _model}
_REACH: Final[Mapping[str, Check]] = {
    "broker": _reached,
    "broker version": _versions_spoken,
    "broker answers": _answering,
}
_FAR: Final[Mapping[str, Check]] = {
    "broker settings": _broker_settings,
    "topics": _topics,
    "partition counts": _partition_counts,
    "topic settings": _topic_settings,
    "replication": _replication,
    "clock": _clock_and_transactions,
    "partitioner": _partitioner,
    "control": _control,
    "workers": _workers,
    "offsets": _offsets,
    "open transactions": _open_transactions,
    "worker versions": _worker_versions,
}
