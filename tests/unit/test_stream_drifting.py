"""Drift of features and scores in decisions, by windows of event time."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stream import compare_cli, drifting
from stream.cli import app
from stream.decided import DecidedError
from stream.drifting import Asked, Drift, drift_of, exposition
from stream.settings import Settings
from tests.decided_past import NOON, DecidedPast

A_DAY = timedelta(days=1)
OLD = "old@2026-01-01.aaaa"


class Past(DecidedPast):
    """Days of orders."""

    number = 0

    def day(
        self, day: int, orders: int = 200, *, p: float = 0.1, challenger: str | None = None, **features: Any
    ) -> None:
        """Orders of a day, whose features take the values of lists in turn."""
        for at in range(orders):
            values: Mapping[str, float | None] = {
                name: each[at % len(each)] if isinstance(each, list) else each
                for name, each in features.items()
            }
            self.number += 1
            placed_at = NOON + day * A_DAY + timedelta(seconds=at)
            self.order(
                self.number, "approve", challenger, p=p, features=values, placed_at=placed_at.isoformat()
            )

    def drift(self, **asked: Any) -> list[Drift]:
        return drift_of(Settings(), self.opened, Asked(**{"window": A_DAY, "fewest": 100} | asked))


def beyond(drift: Drift) -> dict[str, tuple[str, ...]]:
    newest = drift.newest
    assert newest is not None
    return {each.name: each.breaks for each in newest.beyond}


LIKE_BEFORE = list(range(50))


def test_what_stays_as_it_was_does_not_drift() -> None:
    past = Past()
    for day in range(4):
        past.day(day, amount=LIKE_BEFORE)

    (found,) = past.drift()

    assert (found.model, found.drifts) == (OLD, False)
    assert [each.orders for each in found.windows] == [200] * 4
    assert [bool(each.moved) for each in found.windows] == [False, True, True, True]
    assert found.reference is not None
    assert found.reference[2] == 200


def test_each_kind_of_change_is_told_of_its_feature() -> None:
    past = Past()
    past.day(0, p=0.1, amount=LIKE_BEFORE, account_age_days=[1.0, 2.0, None, 4.0], steady=LIKE_BEFORE)
    past.day(1, p=0.2, amount=list(range(40, 90)), account_age_days=[1.0, None], steady=LIKE_BEFORE)

    (found,) = past.drift()

    assert found.drifts
    assert beyond(found)["amount"] == ("stability",)
    assert "missing" in beyond(found)["account_age_days"]
    assert "score" in beyond(found)["p_fraud"]
    assert "steady" not in beyond(found)
    ages = next(each for each in found.windows[1].moved if each.name == "account_age_days")
    assert (ages.missing_before, ages.missing_now) == (0.25, 0.5)


def test_only_the_newest_window_of_a_model_in_use_gives_an_alarm() -> None:
    past = Past()
    past.day(0, amount=LIKE_BEFORE)
    past.day(1, amount=list(range(100, 150)))
    past.day(2, amount=LIKE_BEFORE)

    (recovered,) = past.drift()
    (still,) = past.drift(until=NOON + 2 * A_DAY - timedelta(hours=12))

    assert not recovered.drifts
    assert recovered.windows[1].beyond
    assert still.drifts


def test_a_model_that_decided_nothing_lately_gives_no_alarm() -> None:
    past = Past()
    past.day(0, challenger="approve", amount=LIKE_BEFORE)
    past.day(1, challenger="approve", amount=list(range(100, 150)))
    for day in range(2, 5):
        past.day(day, amount=list(range(100, 150)))

    new, old = past.drift()

    assert (new.model, new.is_current, new.drifts) == ("new@2026-02-01.bbbb", False, False)
    assert new.windows[0].is_shadow
    assert not old.windows[0].is_shadow
    assert old.drifts


def test_of_few_orders_nothing_is_said() -> None:
    past = Past()
    past.day(0, amount=LIKE_BEFORE)
    past.day(1, orders=99, amount=list(range(100, 150)))

    (found,) = past.drift()
    (none,) = past.drift(fewest=1_000)

    assert (found.newest, found.drifts, found.windows[1].orders) == (None, False, 99)
    assert (none.reference, none.drifts) == (None, False)


def test_a_reference_that_is_named_is_held_against_every_window() -> None:
    past = Past()
    past.day(0, amount=list(range(100, 150)))
    past.day(1, amount=LIKE_BEFORE)
    past.day(2, amount=LIKE_BEFORE)

    (found,) = past.drift(reference=(NOON + A_DAY, NOON + 2 * A_DAY))

    assert [bool(each.beyond) for each in found.windows] == [True, False]
    assert not found.drifts


def test_a_window_of_more_orders_than_are_kept_is_told_alike_however_they_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drifting, "KEPT", 150)
    past = Past()
    past.day(0, amount=LIKE_BEFORE)
    past.day(1, amount=LIKE_BEFORE)
    (found,) = past.drift()
    for topic in ("orders", "decisions"):
        past.topics[topic] = _turned(past.topics[topic])
    (turned,) = past.drift()

    assert found == turned
    assert found.windows[1].orders == 200
    assert 0 < found.windows[1].moved[1].stability < 0.25


def test_where_no_such_model_decided_it_is_said() -> None:
    past = Past()
    past.day(0, amount=LIKE_BEFORE)

    with pytest.raises(DecidedError, match="was scored by other within these bounds"):
        past.drift(models=["other"])


def test_the_newest_windows_are_written_for_prometheus() -> None:
    past = Past()
    past.day(0, amount=LIKE_BEFORE)
    past.day(1, amount=[7.0])

    text = exposition(past.drift())

    lines = text.splitlines()
    assert f'fraudstream_drift_mean{{model="{OLD}",feature="amount"}} 7.0' in lines
    assert f'fraudstream_drift_orders{{model="{OLD}"}} 200' in lines
    assert f'fraudstream_drift_beyond_limits{{model="{OLD}"}} 1' in lines
    assert all(line.startswith(("# HELP ", "# TYPE ", "fraudstream_drift_")) for line in lines)


def test_the_command_ends_with_1_where_something_drifts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past()
    past.day(0, amount=LIKE_BEFORE)
    past.day(1, amount=list(range(100, 150)))
    monkeypatch.setattr(compare_cli, "opened", lambda *_: past.opened)
    arguments = ["models", "drift", "--window", "1d", "--fewest", "100"]
    file = tmp_path / "drift.prom"

    drifts = CliRunner().invoke(app, [*arguments, "--metrics", str(file)])
    lenient = CliRunner().invoke(app, [*arguments, "--stability", "100", "--json"])

    assert drifts.exit_code == 1
    assert "DRIFTS" in drifts.stdout
    assert "fraudstream_drift_stability" in file.read_text()
    assert lenient.exit_code == 0, lenient.output
    assert json.loads(lenient.stdout)["drifts"] is False


def _turned(records: list[Any]) -> list[Any]:
    """The same records at the offsets of each other, the last first; decisions go on naming their order."""
    last = len(records) - 1
    turned = []
    for at, record in enumerate(reversed(records)):
        content = json.loads(record.value)
        if "source" in content:
            content["source"]["offset"] = last - content["source"]["offset"]
        turned.append(record._replace(offset=at, value=json.dumps(content).encode()))
    return turned
