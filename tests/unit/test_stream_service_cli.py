"""What the commands that move models make of what is typed."""

import pytest
import typer
from typer.testing import CliRunner

from stream.cli import app
from stream.service import Scope
from stream.service_cli import _scope


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy", "m", "--why", "x", "--role", "canary", "--share", "nan"], "nan is no percentage"),
        (["deploy", "m", "--why", "x", "--role", "canary", "--share", "inf"], "inf is no percentage"),
        (["deploy", "m", "--why", "x", "--role", "canary", "--share", "0"], "0 is no percentage"),
        (["deploy", "m", "--why", "x", "--role", "canary", "--share", "0.001"], "0.001 is no percentage"),
        (["watch", ".", "--every", "inf"], "--every"),
        (["compare", "--review-cost", "inf"], "--review-cost"),
    ],
)
def test_a_number_that_means_nothing_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["models", *arguments])

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_scope_may_be_typed_as_it_is_told() -> None:
    both = Scope(country="DE", channel="web,shop")

    assert str(both) == "country=DE,channel=web,shop"
    assert _scope([str(both)]) == _scope(["channel=web,shop", "country=DE"]) == both
    assert _scope(["channel=web,country=DE"]) == Scope(country="DE", channel="web")
    with pytest.raises(typer.BadParameter, match="each at most once"):
        _scope(["channel=web,channel=app"])
