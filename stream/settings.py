"""Every setting of the scorer, in one frozen value that checks itself when it is built.

A setting comes, in this order, from the call, the environment (`FRAUDSTREAM_BROKER`,
`FRAUDSTREAM_TOPICS__ORDERS`), a TOML file (`--config FILE` or `FRAUDSTREAM_CONFIG`) or its default.
Both Kafka clients are configured from here alone: `confluent()` and `Security` for confluent-kafka,
`ssl_context()` and the same `Security` for Faust's aiokafka, so that TLS and SASL can't differ between
them. The string below each setting is what `fraudstream settings --describe` and docs/settings.md say.
"""

import errno
import os
import re
import socket
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from stream.errors import Refusal
from stream.guard import Gates, Guardrails
from stream.keeping import Horizons

__all__ = [
    "Security",
    "SettingDescription",
    "Settings",
    "SettingsError",
    "Topics",
    "describe_settings",
    "load_settings",
]

_LARGEST_FILE = 1_000_000
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_WORKER_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

Share = Annotated[float, Field(ge=0, le=1)]
Entity = Literal["device", "card", "ip", "email", "shipping_address", "merchant"]
"""What may have a history besides the customer."""


class SettingsError(Refusal):
    """A setting is missing or wrong; the message names it, where it came from and what is expected."""


class Topics(BaseModel):
    """The names of the topics."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prefix: str = ""
    """What stands before the name of every topic that is not named itself, such as `shop.`."""
    orders: str = "orders"
    """The topic of the orders to be decided."""
    outcomes: str = "outcomes"
    """The topic of what orders turned out to be."""
    order_events: str = "order-events"
    """The topic of what happened to an order after it was placed."""
    decisions: str = "decisions"
    """The topic the decisions go to."""
    decisions_shadow: str = "decisions-shadow"
    """The topic that decisions of models on trial go to."""
    rejected: str = "orders-rejected"
    """The topic of what could not be decided, as received."""
    changelog: str = "histories-changelog"
    """The topic the rows are restored from; another name is another, empty history."""
    control: str = "control"
    """The topic of what was decided about all workers: pauses, observing, going live."""

    @model_validator(mode="before")
    @classmethod
    def _prefixed(cls, given: Any) -> Any:
        prefix = given.get("prefix") if isinstance(given, dict) else None
        if not isinstance(prefix, str):
            return given
        named = {name: prefix + field.default for name, field in cls.model_fields.items() if name != "prefix"}
        return named | given

    @model_validator(mode="after")
    def _usable(self) -> Self:
        names = list(self.model_dump(exclude={"prefix"}).values())
        for name in names:
            if not _TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
                raise ValueError(f"'{name}' can't be a topic; use 1 to 249 letters, digits, '.', '_' or '-'")
        if len(set(names)) < len(names):
            raise ValueError("two topics have one name; give each its own")
        return self

    def by(self, entity: str) -> str:
        """The topic of the stage at which the histories of an entity are, named after the orders' topic."""
        return f"{self.orders}-by-{entity.replace('_', '-')}"


class Security(BaseModel):
    """How both Kafka clients reach the brokers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether connections are encrypted (SSL) and name a user (SASL)."""
    ca_file: Path | None = None
    """The certificate authority's PEM file; the system's own authorities when absent."""
    certificate_file: Path | None = None
    """This client's own certificate, a PEM file, for brokers that ask for one; goes with key_file."""
    key_file: Path | None = None
    """The private key of certificate_file, a PEM file."""
    key_password: SecretStr | None = None
    """What key_file is encrypted with."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the user proves who it is; PLAIN sends the password as it is, so only inside SASL_SSL."""
    sasl_username: str | None = None
    """The user; needed with SASL."""
    sasl_password: SecretStr | None = None
    """The user's password; needed with SASL."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(
                f"protocol {self.protocol} needs sasl_username and sasl_password; set both or use SSL"
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together; set both or neither")
        return self


class Settings(BaseSettings):
    """What the scorer is told from outside."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FRAUDSTREAM_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    broker: str = "127.0.0.1:9092"
    """Bootstrap servers, `host:port` with commas between."""
    security: Security = Security()
    home: Path = Path(".fraudstream")
    """Where the embedded broker, the rows and the logs live."""
    registry: str | None = None
    """Where models are published: a folder, or an address such as s3://bucket/models with its credentials in
    the environment; `models` in `home` when absent."""
    topics: Topics = Topics()
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Partitions of every topic; fixed for life, because the key's hash divides by it."""
    replication: Annotated[int, Field(ge=1, le=15)] = 1
    """On how many brokers each topic is kept; 3 survives the loss of one without losing a decision."""

    group: str = "fraudstream"
    """The consumer group that all workers of one scorer share; another group decides every order again,
    and needs `topics.changelog`, `topics.decisions` and `topics.rejected` of its own."""
    worker: str = Field(
        default_factory=lambda: re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:100],
        json_schema_extra={"shown": "the machine's name"},
    )
    """The worker's stable name; two living workers must not share one."""
    model: str = "starter"
    """The model in service: `name` for its champion or `name@version`."""
    features: str | None = None
    """A shop's own features, beside the built-in ones (docs/own-features.md): `module:NAME` or
    `path/to/file.py:NAME` of a tuple of them. It is code that runs; the same for training and for workers."""
    observe: bool = False
    """Whether decisions go to `topics.decisions_shadow` only, as long as nothing was recorded for the group:
    after `fraudstream go-live` or `fraudstream observe` the record wins."""
    review_at: Share | None = None
    """Score from which an order is reviewed; the model's own suggestion when absent."""
    decline_at: Share | None = None
    """Score from which an order is declined; the model's own suggestion when absent."""
    entities: Annotated[tuple[Entity, ...], NoDecode] = ()
    """What has a history besides the customer, in the order of the road, with commas between; each is a stage
    with a topic `orders-by-…` that every order goes through (docs/history.md). The one with the fewest
    different values first. To change it is to rebuild (docs/operations.md)."""
    row_limit: Annotated[int, Field(ge=1, le=10_000)] = 512
    """How many orders of a customer are remembered exactly; older ones are counted in tiles. A full row of
    10,000 orders has about 1 MB, half of what the changelog takes in one record."""
    forget_after_days: Annotated[int, Field(ge=0, le=36_500)] = 730
    """After so many days without an event a customer is forgotten, counted in event time; 0 never. At least
    the longest window that the model in service asks for."""
    order_memory_days: Annotated[int, Field(ge=0, le=36_500)] = 400
    """For how many days after it was placed an order is remembered, to answer a resend as the first time and
    to know what a revision revises, counted in event time; 0 for ever."""
    ahead_by_at_most_s: Annotated[float, Field(ge=0, le=86_400)] = 300
    """How far ahead of its broker timestamp an order may be dated."""
    mapping: Path | None = None
    """A TOML file that says how the shop's own JSON in `topics.orders` becomes orders (docs/own-data.md);
    our contract when absent."""
    hash_salt: SecretStr | None = None
    """A secret that a mapping's hashes of e-mails, phones and addresses are made with, so that nobody else
    can make them; the same for publishing and for workers, and for life."""

    batch_records: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Records in one transaction, at most."""
    session_s: Annotated[float, Field(ge=6, le=300)] = 8
    """After this long without a heartbeat a worker is taken for dead; most of the silence after a kill is
    this. At least 6 s, because brokers refuse shorter sessions (group.min.session.timeout.ms)."""
    transaction_s: Annotated[float, Field(ge=5, le=900)] = 10
    """After this long the broker aborts a transaction that was left open. At least 5 s, because a broker
    that pauses or hands over to another would abort sound ones; at most 15 min, because brokers refuse more
    (transaction.max.timeout.ms)."""
    call_s: Annotated[float, Field(ge=15, le=600)] = 30
    """After this long in one call to the cluster the watchdog ends the process. At least 15 s, because a
    sound call may wait up to 10 s for its answer; transactional ones wait for half of this."""
    patience_s: Annotated[float, Field(ge=1, le=3600)] = 30
    """How long a worker asks again when offsets and changelog disagree, before it refuses to go on."""
    crashes: Annotated[int, Field(ge=1, le=100)] = 3
    """How often one order alone may stop the worker before it is set aside."""
    serving_memory_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """How much of the models in service a worker holds in memory, as large as their files are; of more, those
    that were asked last. The others are loaded when an order needs them."""
    reject_share: Share = 0
    """The breaker: stop when more than this share of the last 1,000 orders were rejected; 0 never stops."""
    hot_share: Share = 0.5
    """Warn in the log, once a minute at most, when one key has more than this share of the last 1,000 records
    of a partition; 0 never warns."""
    drift_window_hours: Annotated[float, Field(gt=0, le=8_760)] = 24
    """How long a window of event time is in which a worker's metrics tell of drift."""
    gates: Gates = Gates()
    guardrails: Guardrails = Guardrails()
    health_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Where a worker answers `/healthz`, `/readyz` and `/metrics` over HTTP; nowhere when absent."""
    health_host: str = "127.0.0.1"
    """The address it answers on; 0.0.0.0 lets other machines ask, and nothing asks them who they are."""
    health_stuck_s: Annotated[float, Field(ge=5, le=3600)] = 60
    """After this long in which something waited and nothing moved, `/healthz` says 503. Rebalances, restarts
    of a broker and what dead workers leave open take up to 30 s."""
    log_format: Literal["text", "json"] = "text"
    """How a worker logs to stderr: lines to be read, or one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that a worker logs; debug adds messages of exceptions that may hold an order's values."""
    signing_key: SecretStr | None = None
    """The key that model manifests are signed with; models without its signature are then refused."""
    signing_key_file: Path | None = None
    """A file that has the signing key, instead of signing_key."""

    @field_validator("entities", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return (
            tuple(name.strip() for name in given.split(",") if name.strip())
            if isinstance(given, str)
            else given
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.entities)) < len(self.entities):
            raise ValueError(f"entities {','.join(self.entities)}: one is named twice; name each once")
        if not _WORKER_NAME.fullmatch(self.worker):
            raise ValueError(
                f"worker '{self.worker}' can't be a name; use 1 to 100 letters, digits, '.', '_', '-'"
            )
        if (self.review_at is None) != (self.decline_at is None):
            raise ValueError("review_at and decline_at go together; set both or neither")
        if (
            self.review_at is not None
            and self.decline_at is not None
            and not 0 < self.review_at <= self.decline_at
        ):
            raise ValueError(
                f"0 < review_at <= decline_at must hold; got {self.review_at} and {self.decline_at}"
            )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics a worker consumes, those of an order's home first; co-partitioned."""
        names = self.topics
        return (names.orders, names.outcomes, names.order_events, *self.stages.values())

    @property
    def roads(self) -> tuple[tuple[str, ...], ...]:
        """The inputs in groups, in the order in which an order comes through them: home, then each stage.

        Within a group records are merged by arrival; those of one arrival go in the group's order of topics.
        """
        names = self.topics
        at_home = (names.outcomes, names.order_events, names.orders)
        return (at_home, *((topic,) for topic in self.stages.values()))

    @property
    def stages(self) -> dict[str, str]:
        """The topic of each of the entities' stages, in the order of the road."""
        return {entity: self.topics.by(entity) for entity in self.entities}

    @property
    def registry_address(self) -> str:
        """Where models are published."""
        return str(self.home / "models") if self.registry is None else self.registry

    @property
    def horizons(self) -> Horizons:
        """For how long rows and the memory of orders are kept."""
        return Horizons.of_days(rows=self.forget_after_days, orders=self.order_memory_days)

    def confluent(self, **extra: Any) -> dict[str, Any]:
        """Configuration for a confluent-kafka client; keyword names have `_` for `.`."""
        security = self.security
        config: dict[str, Any] = {
            "bootstrap.servers": self.broker,
            "security.protocol": security.protocol,
            "client.id": self.worker,
        }
        if security.ca_file is not None:
            config["ssl.ca.location"] = str(security.ca_file)
        if security.certificate_file is not None and security.key_file is not None:
            config["ssl.certificate.location"] = str(security.certificate_file)
            config["ssl.key.location"] = str(security.key_file)
            if security.key_password is not None:
                config["ssl.key.password"] = security.key_password.get_secret_value()
        if security.protocol.startswith("SASL") and security.sasl_password is not None:
            config["sasl.mechanism"] = security.sasl_mechanism
            config["sasl.username"] = security.sasl_username
            config["sasl.password"] = security.sasl_password.get_secret_value()
        # the one property that librdkafka itself writes with an underscore
        dotted = {name if name == "log_level" else name.replace("_", "."): v for name, v in extra.items()}
        if self.log_format == "json":
            # librdkafka writes to stderr itself, and not in JSON; what its errors lead to is logged by us
            dotted["log_level"] = 2
        return config | dotted

    def aiokafka(self) -> dict[str, Any]:
        """Configuration for an aiokafka client. Raises SettingsError when a TLS file can't be used."""
        security = self.security
        config: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.broker.split(",")],
            "security_protocol": security.protocol,
            "ssl_context": self.ssl_context(),
            "client_id": self.worker,
        }
        if security.protocol.startswith("SASL") and security.sasl_password is not None:
            config["sasl_mechanism"] = security.sasl_mechanism
            config["sasl_plain_username"] = security.sasl_username
            config["sasl_plain_password"] = security.sasl_password.get_secret_value()
        return config

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for aiokafka, from the same files; None without TLS.

        Raises SettingsError when one of them can't be used.
        """
        security = self.security
        if not security.protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=str(security.ca_file) if security.ca_file else None)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"setting security.ca_file: can't use {security.ca_file}: {error}; name a PEM file"
            ) from error
        if security.certificate_file is not None and security.key_file is not None:
            password = security.key_password.get_secret_value() if security.key_password else ""
            try:
                # an empty password rather than none: a worker must not stop and ask at the terminal
                context.load_cert_chain(security.certificate_file, security.key_file, password)
            except OSError as error:
                raise SettingsError(
                    f"setting security.certificate_file: can't use {security.certificate_file} with "
                    f"{security.key_file}: {error}; name two PEM files that belong together, and "
                    "key_password if the key is encrypted"
                ) from error
        return context

    def hashing_salt(self) -> bytes:
        """The secret that a mapping hashes with; empty when none is set."""
        return b"" if self.hash_salt is None else self.hash_salt.get_secret_value().encode()

    def signing_secret(self) -> bytes | None:
        """The key that model manifests are signed with; None when none is set.

        Raises SettingsError when its file can't be read or has nothing in it.
        """
        if self.signing_key is not None:
            return self.signing_key.get_secret_value().encode()
        if self.signing_key_file is None:
            return None
        try:
            key = _content(self.signing_key_file).strip()
        except OSError as error:
            raise SettingsError(
                f"setting signing_key_file: can't read {self.signing_key_file}: {error.strerror}; "
                "name a file that exists and that this user may read"
            ) from error
        if not key:
            raise SettingsError(
                f"setting signing_key_file: {self.signing_key_file} is empty; put the key into it"
            )
        return key

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The call, then the environment, then the file that `load_settings` read."""
        return init_settings, env_settings, _FileSource(settings_cls)


class _FileSource(PydanticBaseSettingsSource):
    """The TOML file last named to `load_settings`."""

    values: Mapping[str, Any] = {}

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 (as above)
        value = self.values.get(field_name)
        return value, field_name, isinstance(value, dict)

    def __call__(self) -> dict[str, Any]:
        return dict(self.values)


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting, for a person who wants to set it."""

    name: str
    """As in a TOML file; `security.protocol` is `protocol` in `[security]`."""
    variable: str
    """Its environment variable."""
    expects: str
    default: str
    meaning: str


def describe_settings() -> tuple[SettingDescription, ...]:
    """Every setting there is, whatever the present ones are."""
    return tuple(_described(Settings, "", "FRAUDSTREAM_"))


def _described(settings: type[BaseModel], prefix: str, variable: str) -> Iterator[SettingDescription]:
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _described(field.annotation, f"{prefix}{name}.", f"{variable}{name.upper()}__")
            continue
        shown = field.json_schema_extra
        yield SettingDescription(
            prefix + name,
            variable + name.upper(),
            _expected(name, field),
            str(shown["shown"]) if isinstance(shown, dict) else _default(field.default),
            " ".join((field.description or "").split()),
        )


def _default(value: object) -> str:
    if value is None or value == "":
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _expected(name: str, field: FieldInfo) -> str:
    """What a setting takes, in words: `6 to 300 seconds`."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(kind) for kind in kinds)
    kind = kinds[0] if kinds else field.annotation
    bounds = [*field.metadata]
    if get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        bounds += [bound for each in inner for bound in getattr(each, "metadata", [])]
    if kind is bool:
        return "true or false"
    if name == "entities":
        return "names of " + ", ".join(get_args(Entity))
    if kind not in {int, float}:
        return "a path" if kind is Path else "text, kept secret" if kind is SecretStr else "text"
    low = next((bound.ge for bound in bounds if isinstance(bound, Ge)), None)
    high = next((bound.le for bound in bounds if isinstance(bound, Le)), None)
    number = "a number" if low is None or high is None else f"{low:,} to {high:,}"
    return f"{number} seconds" if name.endswith("_s") else number


def _content(file: Path) -> bytes:
    """What is in a small file. Raises OSError, also for one that is too large: a device may have no end."""
    with file.open("rb") as opened:
        content = opened.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it has more than {_LARGEST_FILE:,} bytes", str(file))
    return content


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings; `overrides` that are None count as not given.

    Raises SettingsError naming the setting, what came and what is expected.
    """
    _refuse_unknown(os.environ)
    path = file or (Path(os.environ["FRAUDSTREAM_CONFIG"]) if os.environ.get("FRAUDSTREAM_CONFIG") else None)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        _FileSource.values = tomllib.loads(_content(path).decode()) if path else {}
        return Settings(**given)
    except OSError as error:
        raise SettingsError(
            f"can't read settings file {path}: {error.strerror}; name a TOML file that exists"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} is not TOML: {error}; mend that line") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            raise SettingsError(_no_such(where, [each.name for each in describe_settings()])) from None
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"setting {where}: {message} ('fraudstream settings --describe' lists them all)"
        ) from None
    finally:
        _FileSource.values = {}


_FROM_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
"""What Kubernetes puts into the environment of every pod beside a service named `fraudstream…`."""


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is no setting: a misspelt one would change nothing, and nobody would know."""
    names = [each.variable for each in describe_settings()]
    # a whole group may come as one JSON object; FRAUDSTREAM_CONFIG names the file
    known = {*names, *(name.partition("__")[0] for name in names), "FRAUDSTREAM_CONFIG"}
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        if not name.startswith("FRAUDSTREAM_") or name in known or _FROM_KUBERNETES.search(name):
            continue
        if name.endswith("_PORT") and "://" in value:
            continue  # Kubernetes again
        raise SettingsError(_no_such(variable, [*names, "FRAUDSTREAM_CONFIG"]))


def _no_such(name: str, names: list[str]) -> str:
    # by the letters that tell names apart: not by their case, nor by what all variables begin with
    by_letters = {each.upper().removeprefix("FRAUDSTREAM_"): each for each in names}
    near = get_close_matches(name.upper().removeprefix("FRAUDSTREAM_"), by_letters, n=1)
    meant = f"did you mean {by_letters[near[0]]}? " if near else ""
    listed = "('fraudstream settings --describe' lists them all)"
    return f"setting {name}: there is none of this name; {meant}{listed}"
