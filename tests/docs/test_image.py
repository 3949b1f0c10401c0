"""The image and docker-compose.yml, as far as they can be checked without Docker."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from stream.broker import KAFKA
from stream.cli import app
from stream.health import PATHS
from stream.settings import describe_settings, load_settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VARIABLES = {each.variable for each in describe_settings()}


# ---------------------------------------------------------------------- reading


def read_yaml(text: str) -> dict[str, Any]:
    """The part of YAML that docker-compose.yml keeps to: maps, lists of text, JSON lists and `|` blocks."""
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert "\t" not in text
    found, left = _block(lines, 0)
    assert left == []
    assert isinstance(found, dict)
    return found


def _block(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    if not lines or _indent(lines[0]) < indent:
        return None, lines
    indent = _indent(lines[0])
    if lines[0].strip().startswith("- "):
        items: list[Any] = []
        while lines and _indent(lines[0]) == indent:
            value, lines = _value(lines[0].strip()[2:], lines[1:], indent + 1)
            items.append(value)
        return items, lines
    found: dict[str, Any] = {}
    while lines and _indent(lines[0]) == indent:
        name, colon, rest = lines[0].strip().partition(":")
        assert colon, lines[0]
        assert name not in found, f"{name} twice"
        found[name], lines = _value(rest.strip(), lines[1:], indent + 1)
    assert not lines or _indent(lines[0]) < indent, lines[0]
    return found, lines


def _value(text: str, lines: list[str], indent: int) -> tuple[Any, list[str]]:
    if text == "|":
        inside = []
        while lines and _indent(lines[0]) >= indent:
            inside.append(lines.pop(0))
        depth = _indent(inside[0])
        return "".join(line[depth:] + "\n" for line in inside), lines
    if not text:
        return _block(lines, indent)
    if text[0] in '["':
        return json.loads(text), lines
    assert not re.search(r"[&*!{}#'>]|: ", text), f"more YAML than this reads: {text}"
    return {"true": True, "false": False}.get(text, text), lines


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


COMPOSE = read_yaml((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "kafka"}


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, " ".join(rest.split())


DOCKERFILE = list(instructions())


def environment_of_the_image() -> dict[str, str]:
    words = [word for name, rest in DOCKERFILE if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def command_lines(name: str) -> list[list[str]]:
    """What a service has `fraudstream` do, as words after the program's name."""
    service = SERVICES[name]
    if "entrypoint" not in service:
        return [service["command"]]
    (script,) = service["command"]
    return [shlex.split(line)[1:] for line in re.findall(r"^\s*(fraudstream .*)$", script, re.MULTILINE)]


def _left(context: Any) -> list[str]:
    """What a group of commands has not read yet."""
    return [*context._protected_args, *context.args]


# ---------------------------------------------------------------------- docker-compose.yml


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_the_command_line_takes(name: str) -> None:
    lines = command_lines(name)

    assert lines
    for words in lines:
        command: Any = typer.main.get_command(app)
        context = command.make_context("fraudstream", list(words))
        while isinstance(command, TyperGroup):
            called, command, rest = command.resolve_command(context, _left(context))
            context = command.make_context(called, rest, parent=context)


def test_what_is_no_command_would_be_noticed() -> None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("fraudstream", ["watch", "--form-beginning"])
    name, watch, rest = command.resolve_command(context, _left(context))

    with pytest.raises(Exception, match="No such option"):
        watch.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_takes_its_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment_of_the_image() | SERVICES[name]["environment"]
    ours = {variable: value for variable, value in given.items() if variable.startswith("FRAUDSTREAM_")}
    for variable, value in ours.items():
        monkeypatch.setenv(variable, value)

    assert set(ours) <= VARIABLES
    assert load_settings().broker == "kafka:9092"


def test_the_setup_is_a_script_that_a_shell_reads() -> None:
    service = SERVICES["setup"]
    (script,) = service["command"]

    assert service["entrypoint"] == ["sh", "-euc"]
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    # compose would put a variable of the host in its place
    assert "$" not in script


def test_the_setup_looks_for_the_model_where_the_program_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", environment_of_the_image()["FRAUDSTREAM_HOME"])
    settings = load_settings()

    assert f"! -e {settings.home}/models/{settings.model}/champion ]" in SERVICES["setup"]["command"][0]


def test_kafka_is_the_version_the_tests_run_and_reached_where_it_listens() -> None:
    kafka = SERVICES["kafka"]
    environment = kafka["environment"]
    listeners = dict(each.split("://") for each in environment["KAFKA_LISTENERS"].split(","))
    advertised = dict(each.split("://") for each in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(
        each.split(":") for each in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )

    assert kafka["image"] == "apache/kafka:" + KAFKA.rpartition(":")[2]
    assert set(protocols) == set(listeners)
    assert advertised["INSIDE"] == kafka["hostname"] + listeners["INSIDE"] == "kafka:9092"
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@kafka" + listeners["CONTROLLER"]
    assert kafka["ports"] == [advertised["OUTSIDE"] + listeners["OUTSIDE"]]
    assert kafka["volumes"] == ["kafka:" + environment["KAFKA_LOG_DIRS"]]
    assert kafka["healthcheck"]["test"][-1] == advertised["INSIDE"]


def test_services_name_volumes_and_services_that_exist() -> None:
    volumes = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())}
    needed = {name for service in SERVICES.values() for name in service.get("depends_on", {})}

    assert volumes == set(COMPOSE["volumes"])
    assert needed <= set(SERVICES)
    for service in SERVICES.values():
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert SERVICES[name].get("healthcheck", {}).get("disable") is not True


@pytest.mark.parametrize("name", OURS)
def test_nothing_of_ours_may_do_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert service["image"] == f"fraudstream:{PROJECT['project']['version']}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "user" not in service, "the image's own, which is not root"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", OURS)
def test_a_stop_is_heard(name: str) -> None:
    # process 1 hears only the signals that it asked for, and of ours only the worker asks for SIGTERM
    assert SERVICES[name].get("init") is True or command_lines(name) == [["worker"]]


def test_the_worker_is_asked_on_the_port_it_answers_on() -> None:
    port = environment_of_the_image()["FRAUDSTREAM_HEALTH_PORT"]
    (check,) = (rest for name, rest in DOCKERFILE if name == "HEALTHCHECK")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)

    assert asked is not None
    assert asked.groups() == (port, "/healthz")
    assert "/healthz" in PATHS
    assert ("EXPOSE", port) in DOCKERFILE
    assert SERVICES["worker"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    json.loads(check[check.index("CMD ") + 4 :])


# ---------------------------------------------------------------------- Dockerfile


def test_every_image_is_pinned() -> None:
    images = [rest.split()[0] for name, rest in DOCKERFILE if name == "FROM"]
    images += [service["image"] for service in SERVICES.values()]

    for image in images:
        tag = image.rpartition(":")[2]
        assert re.match(r"\d+\.\d+", tag), image
        assert tag != "latest"
    assert len(set(images[:2])) == 1, "what is built for one Python is run by the same"
    assert images[0].startswith("python:3.11-")


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    copied = [
        source
        for name, rest in DOCKERFILE
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]

    assert patterns[0] == "*"
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in patterns, source
    assert {*PROJECT["tool"]["setuptools"]["packages"], "pyproject.toml", "requirements.lock"} <= set(copied)
    assert {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= set(copied)


def test_nothing_secret_reaches_the_build() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    for secret in (".env", ".git/config", ".fraudstream/models/key", "tests/conftest.py", "key.pem"):
        assert not any(fnmatch(secret, pattern) or secret.startswith(pattern + "/") for pattern in allowed)
    assert not any("KEY" in name or "PASSWORD" in name for name in environment_of_the_image())


def test_everything_installed_is_held_against_a_hash() -> None:
    installs = [
        part.strip()
        for name, rest in DOCKERFILE
        if name == "RUN"
        for part in rest.split("&&")
        if re.search(r"\bpip (install|wheel|download)\b", part)
    ]

    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-index" in command, command
    assert not any(name == "ADD" for name, _ in DOCKERFILE)
    assert not any("curl" in rest or "apt-get" in rest for name, rest in DOCKERFILE if name == "RUN")


def test_it_runs_as_nobody_in_particular_with_a_home_that_is_a_volume() -> None:
    names = [name for name, _ in DOCKERFILE]
    last = names[len(names) - 1 - names[::-1].index("FROM") :]
    (user,) = (rest for name, rest in DOCKERFILE if name == "USER")
    volumes = [rest for name, rest in DOCKERFILE if name == "VOLUME"]

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "a number, so that Kubernetes can see it is not root"
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert "RUN" not in last[last.index("USER") :]
    assert volumes == [environment_of_the_image()["FRAUDSTREAM_HOME"]]
    assert environment_of_the_image()["NUMBA_CACHE_DIR"].startswith(volumes[0] + "/")
    # a shell in between would keep SIGTERM to itself
    assert [rest[0] for name, rest in DOCKERFILE if name in {"ENTRYPOINT", "CMD"}] == ["[", "["]


def test_the_images_own_command_is_the_worker() -> None:
    (entry,) = (json.loads(rest) for name, rest in DOCKERFILE if name == "ENTRYPOINT")
    (command,) = (json.loads(rest) for name, rest in DOCKERFILE if name == "CMD")

    assert entry == list(PROJECT["project"]["scripts"])
    assert command == ["worker"]
