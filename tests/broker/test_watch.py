"""Decisions as a reader sees them, on a real broker."""

from uuid import UUID

import pytest
from typer.testing import CliRunner

from models.decision import Decision, Source
from models.policy import Action
from stream import topics
from stream.cli import app
from stream.settings import Settings
from tests.running import environment, send


def test_what_is_no_decision_is_passed_over_and_shows_no_value(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    decision = Decision(
        decision_id=UUID(int=1),
        order_id="o1",
        revision=0,
        customer_id=None,
        action=Action.REVIEW,
        p_fraud=None,
        score=None,
        reasons=(),
        model=None,
        policy="",
        features={},
        imputed=(),
        repeat_of=None,
        supersedes=None,
        source=Source(topic="orders", partition=0, offset=0),
    )
    strange = [b"ada@example.com", b"{}", b"\xff", None]
    records = [*strange, decision.model_dump_json().encode()]
    send(settings, [(b"k", value) for value in records], topic=settings.topics.decisions, partition=0)

    result = CliRunner().invoke(app, ["watch", "--from-beginning", "--count", "1"])

    assert result.exit_code == 0
    assert "o1" in result.stdout
    assert result.stderr.splitlines() == [
        f"fraudstream: {settings.topics.decisions}/0/{offset} is no decision that this version can read: "
        "passed over"
        for offset in range(len(strange))
    ]
