"""Every setting of the scorer, in one frozen value that checks itself when it is built.

A setting comes, in this order, from the call, the environment (`FRAUDSTREAM_BROKER`,
`FRAUDSTREAM_TOPICS__ORDERS`), a TOML file (`--config FILE` or `FRAUDSTREAM_CONFIG`) or its default.
Both Kafka clients are configured from here alone: `confluent()` for confluent-kafka and `faust()`
for Faust's aiokafka, so that TLS and SASL can't differ between them.
"""

import os
import re
import socket
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

__all__ = ["Security", "Settings", "SettingsError", "Topics", "load_settings"]

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_WORKER_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

Share = Annotated[float, Field(ge=0, le=1)]


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it, where it came from and what is expected."""


class Topics(BaseModel):
    """The names of the topics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: str = "orders"
    outcomes: str = "outcomes"
    order_events: str = "order-events"
    decisions: str = "decisions"
    decisions_shadow: str = "decisions-shadow"
    rejected: str = "orders-rejected"
    changelog: str = "customer-changelog"
    control: str = "control"

    @model_validator(mode="after")
    def _usable(self) -> Self:
        names = list(self.model_dump().values())
        for name in names:
            if not _TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
                raise ValueError(f"'{name}' can't be a topic; use 1 to 249 letters, digits, '.', '_' or '-'")
        if len(set(names)) < len(names):
            raise ValueError("two topics have one name; give each its own")
        return self


class Security(BaseModel):
    """How both Kafka clients reach the brokers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: Path | None = None
    """The certificate authority's PEM file; the system's own authorities when absent."""
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None

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
    )

    broker: str = "127.0.0.1:9092"
    """Bootstrap servers, `host:port` with commas between."""
    security: Security = Security()
    home: Path = Path(".fraudstream")
    """Where the embedded broker, the rows, the registry and the logs live."""
    topics: Topics = Topics()
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Partitions of every topic; fixed for life, because the key's hash divides by it."""
    replication: Annotated[int, Field(ge=1, le=15)] = 1

    group: str = "fraudstream"
    worker: str = Field(default_factory=lambda: re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:100])
    """The worker's stable name; two living workers must not share one."""
    model: str = "starter"
    """The model in service: `name` for its champion or `name@version`."""
    review_at: Share | None = None
    """Score from which an order is reviewed; the model's own suggestion when absent."""
    decline_at: Share | None = None
    """Score from which an order is declined; the model's own suggestion when absent."""
    row_limit: Annotated[int, Field(ge=1, le=10_000)] = 512
    """How many orders of a customer are remembered exactly; older ones are dropped. A full row of
    10,000 orders has about 1 MB, half of what the changelog takes in one record."""
    ahead_by_at_most_s: Annotated[float, Field(ge=0, le=86_400)] = 300
    """How far ahead of its broker timestamp an order may be dated."""

    batch_records: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Records in one transaction, at most."""
    session_s: Annotated[float, Field(ge=1, le=300)] = 8
    """After this long without a heartbeat a worker is taken for dead. Brokers allow 6 s and more unless told
    otherwise; most of the silence after a kill is this."""
    transaction_s: Annotated[float, Field(ge=1, le=900)] = 10
    """After this long the broker aborts a transaction that was left open."""
    call_s: Annotated[float, Field(ge=1, le=600)] = 30
    """After this long in one transactional call the watchdog ends the process."""
    patience_s: Annotated[float, Field(ge=1, le=3600)] = 30
    """How long a worker asks again when offsets and changelog disagree, before it refuses to go on."""
    crashes: Annotated[int, Field(ge=1, le=100)] = 3
    """How often one order alone may stop the worker before it is set aside."""
    reject_share: Share = 0
    """The breaker: stop when more than this share of the last 1,000 orders were rejected; 0 never stops."""
    signing_key: SecretStr | None = None
    signing_key_file: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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
        """The topics a worker consumes; co-partitioned."""
        return (self.topics.orders,)

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
        return config | dotted

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for aiokafka, from the same files; None without TLS."""
        security = self.security
        if not security.protocol.endswith("SSL"):
            return None
        context = ssl.create_default_context(cafile=str(security.ca_file) if security.ca_file else None)
        if security.certificate_file is not None and security.key_file is not None:
            password = security.key_password.get_secret_value() if security.key_password else None
            context.load_cert_chain(security.certificate_file, security.key_file, password)
        return context

    def signing_secret(self) -> bytes | None:
        """The key that model manifests are signed with; None when none is set."""
        if self.signing_key is not None:
            return self.signing_key.get_secret_value().encode()
        if self.signing_key_file is not None:
            return self.signing_key_file.read_bytes().strip()
        return None

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


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings; `overrides` that are None count as not given.

    Raises SettingsError naming the setting, what came and what is expected.
    """
    path = file or (Path(os.environ["FRAUDSTREAM_CONFIG"]) if os.environ.get("FRAUDSTREAM_CONFIG") else None)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        _FileSource.values = tomllib.loads(path.read_text()) if path else {}
        return Settings(**given)
    except OSError as error:
        raise SettingsError(
            f"can't read settings file {path}: {error.strerror}; name a TOML file that exists"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}; mend that line") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(
            f"setting {where}: {message} (see 'fraudstream settings' for all of them)"
        ) from None
    finally:
        _FileSource.values = {}
