"""What the help and docs/cli.md promise of the command line is so."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from typer.main import get_command

from stream.cli import app
from stream.examples import EXAMPLES
from stream.reference import commands

COMMANDS = dict(commands(get_command(app)))


def _words(example: str) -> list[str]:
    """The arguments of an example, without what only the shell sees."""
    words = shlex.split(example.partition(" > ")[0])
    return words[words.index("fraudstream") + 1 :]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_an_example_of_its_own(name: str) -> None:
    assert EXAMPLES.get(name), f"give '{name}' an example in stream/examples.py"
    assert all(f" {name}" in f" {example}" for example in EXAMPLES[name])
    assert all(example in (COMMANDS[name].epilog or "") for example in EXAMPLES[name])


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "example"), [(name, each) for name, examples in EXAMPLES.items() for each in examples]
)
def test_every_example_is_a_command_line_that_is_accepted(name: str, example: str) -> None:
    taken: list[str] = []
    command = get_command(app)
    for called, each in commands(command):
        each.callback = partial(lambda called, **_: taken.append(called), called)

    command.main(args=_words(example), prog_name="fraudstream", standalone_mode=False)

    # a group that is a command by itself is asked first, and then passes on to the command below it
    assert taken[-1] == name
    assert all(name.startswith(each) for each in taken)


def test_a_command_line_that_is_wrong_is_not_accepted() -> None:
    with pytest.raises(Exception, match="No such option"):
        get_command(app).main(args=["lag", "--nonsense"], standalone_mode=False)


def _parameters() -> Iterator[tuple[str, Any]]:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            yield f"{name} {parameter.name}", parameter


@pytest.mark.parametrize("parameter", [each for _, each in _parameters()], ids=[n for n, _ in _parameters()])
def test_every_option_says_what_it_means(parameter: Any) -> None:
    assert parameter.help
    assert parameter.help.endswith((".", "]."))


@pytest.mark.parametrize("parameter", [each for _, each in _parameters()], ids=[n for n, _ in _parameters()])
def test_every_option_that_takes_a_value_names_its_unit_or_kind(parameter: Any) -> None:
    assert parameter.metavar or getattr(parameter, "is_flag", False)


def test_what_prints_results_prints_them_for_machines_too() -> None:
    no_results = {"worker", "demo", "publish", "simulate past", "simulate live"}
    written = {"contracts export", "docs export", "models card"}

    without = {
        name for name, command in COMMANDS.items() if "as_json" not in {p.name for p in command.params}
    }

    assert without <= no_results | written
