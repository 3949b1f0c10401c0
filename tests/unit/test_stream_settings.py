"""Settings: where they come from, and what both Kafka clients are told."""

from pathlib import Path
from typing import Any

import pytest

from stream.settings import Settings, SettingsError, Topics, describe_settings, load_settings


def test_the_call_wins_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('group = "file"\nworker = "file"\npartitions = 3\n[topics]\norders = "shop-orders"\n')
    monkeypatch.setenv("FRAUDSTREAM_GROUP", "environment")
    monkeypatch.setenv("FRAUDSTREAM_WORKER", "environment")
    monkeypatch.setenv("FRAUDSTREAM_TOPICS__DECISIONS", "shop-decisions")

    settings = load_settings(file, worker="call")

    assert (settings.worker, settings.group, settings.partitions) == ("call", "environment", 3)
    assert (settings.topics.orders, settings.topics.decisions) == ("shop-orders", "shop-decisions")


def test_one_file_does_not_linger_for_the_next_settings(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("partitions = 3\n")
    load_settings(file)

    assert load_settings().partitions == 8


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"partitions": 0}, "setting partitions"),
        ({"worker": "w 1"}, "worker 'w 1' can't be a name"),
        ({"review_at": 0.5}, "review_at and decline_at go together"),
        ({"review_at": 0.9, "decline_at": 0.1}, "0 < review_at <= decline_at"),
        ({"topics": {"orders": "a/b"}}, "'a/b' can't be a topic"),
        ({"topics": {"orders": "same", "decisions": "same"}}, "two topics have one name"),
        ({"security": {"protocol": "SASL_SSL"}}, "needs sasl_username and sasl_password"),
        ({"security": {"protocol": "SSL", "key_file": "k.pem"}}, "go together"),
        ({"partition": 4}, "setting partition"),
        ({"session_s": 5}, "setting session_s"),
        ({"transaction_s": 4}, "setting transaction_s"),
        ({"call_s": 10}, "setting call_s"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace("(", r"\(")):
        load_settings(**wrong)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("partitions =")

    with pytest.raises(SettingsError, match=r"bad\.toml is not TOML"):
        load_settings(tmp_path / "bad.toml")
    with pytest.raises(SettingsError, match="can't read settings file"):
        load_settings(tmp_path / "none.toml")


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"can't read settings file /dev/zero: it has more than 1,000,000"
    ):
        load_settings(Path("/dev/zero"))
    with pytest.raises(SettingsError, match=r"can't read /dev/zero: it has more than 1,000,000"):
        Settings(signing_key_file=Path("/dev/zero")).signing_secret()


def test_no_secret_is_ever_shown() -> None:
    settings = Settings.model_validate(
        {
            "security": {"protocol": "SASL_SSL", "sasl_username": "u", "sasl_password": "hush"},
            "signing_key": "hush",
        }
    )

    assert "hush" not in repr(settings) + str(settings.model_dump_json())
    assert settings.signing_secret() == b"hush"


def test_the_signing_key_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"hush\n")

    assert Settings(signing_key_file=tmp_path / "key").signing_secret() == b"hush"
    assert Settings().signing_secret() is None


def test_every_topic_has_a_name_of_its_own() -> None:
    assert len(set(Topics().model_dump().values())) == len(Topics.model_fields)


def test_a_signing_key_file_that_is_not_there_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n")

    with pytest.raises(SettingsError, match=r"setting signing_key_file: can't read .*: No such file"):
        Settings(signing_key_file=tmp_path / "none").signing_secret()
    with pytest.raises(SettingsError, match="is empty"):
        Settings(signing_key_file=tmp_path / "empty").signing_secret()


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "none.pem"
    ca = Settings.model_validate({"security": {"protocol": "SSL", "ca_file": nowhere}})
    own = {"protocol": "SSL", "certificate_file": nowhere, "key_file": nowhere}

    with pytest.raises(SettingsError, match=r"setting security\.ca_file: can't use .*none\.pem"):
        ca.ssl_context()
    with pytest.raises(SettingsError, match=r"setting security\.certificate_file: can't use .*none\.pem"):
        Settings.model_validate({"security": own}).ssl_context()


def test_every_setting_is_described_with_its_variable_what_it_takes_and_its_default() -> None:
    described = {each.name: each for each in describe_settings()}

    nested = {"security", "topics", "gates", "guardrails"}
    assert nested.isdisjoint(described)
    assert set(Settings.model_fields) - nested <= set(described)
    session = described["session_s"]
    assert (session.variable, session.expects, session.default) == (
        "FRAUDSTREAM_SESSION_S",
        "6 to 300 seconds",
        "8",
    )
    assert described["security.protocol"].variable == "FRAUDSTREAM_SECURITY__PROTOCOL"
    assert described["review_at"].expects == "0 to 1"
    assert described["worker"].default == "the machine's name"
    assert described["signing_key"].expects == "text, kept secret"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FRAUDSTREAM_BROKERS", "FRAUDSTREAM_BROKER"),
        ("FRAUDSTREAM_TOPICS__ORDRES", "FRAUDSTREAM_TOPICS__ORDERS"),
        ("FRAUDSTREAM_TOPICS_ORDERS", "FRAUDSTREAM_TOPICS__ORDERS"),
        ("fraudstream_grup", "FRAUDSTREAM_GROUP"),
        ("FRAUDSTREAM_CONFG", "FRAUDSTREAM_CONFIG"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "x")

    with pytest.raises(SettingsError) as refused:
        load_settings()

    assert str(refused.value).startswith(
        f"setting {variable}: there is none of this name; did you mean {meant}? "
    )


def test_a_variable_like_no_setting_is_refused_without_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_QQQQQQQQQ", "x")

    with pytest.raises(SettingsError, match="there is none of this name; \\('fraudstream settings"):
        load_settings()


def test_a_misspelt_key_of_the_file_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"

    for text, said in (
        ('brokers = "x"', "setting brokers: there is none of this name; did you mean broker? "),
        (
            '[topics]\nordres = "x"',
            "setting topics.ordres: there is none of this name; did you mean topics.orders? ",
        ),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError) as refused:
            load_settings(file)
        assert str(refused.value).startswith(said)


def test_variables_that_kubernetes_sets_for_a_service_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FRAUDSTREAM_SERVICE_HOST": "10.0.0.1",
        "FRAUDSTREAM_WORKER_SERVICE_PORT_HTTP": "80",
        "FRAUDSTREAM_PORT": "tcp://10.0.0.1:80",
        "FRAUDSTREAM_PORT_80_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)

    assert load_settings() == load_settings()


def test_a_group_of_settings_may_come_as_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_TOPICS", '{"orders": "shop-orders"}')

    assert load_settings().topics.orders == "shop-orders"


def test_a_prefix_stands_before_every_topic_that_is_not_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_TOPICS__PREFIX", "shop.")
    monkeypatch.setenv("FRAUDSTREAM_TOPICS__DECISIONS", "verdicts")

    named = load_settings().topics

    assert (named.orders, named.changelog, named.decisions) == (
        "shop.orders",
        "shop.histories-changelog",
        "verdicts",
    )
