"""What `fraudstream replay` makes of its options, and which it refuses before anything is read."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from features.catalogue import SERVED
from stream import replay_files
from stream.cli import app
from stream.deadletters import Place
from stream.replay import BadRecord, Bounds, Tally


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that were asked for; each reads four records, of which two come out."""
    jobs: list[Any] = []

    def done(job: Any, *_: Any, **options: Any) -> Tally:
        jobs.append((job, options["processes"]))
        bad = BadRecord(Place("orders", 1, 7), "not_json", "value: expected JSON")
        return Tally(4, 2, Counter(not_json=1), [bad], Counter(repeated=1), partitions=8)

    monkeypatch.setattr(replay_files, "replay_to", done)
    return jobs


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--offsets", "0-100"), "'0-100' is none; write 0:100-200"),
        (("--offsets", "0:9-1"), "'0:9-1' ends before it begins"),
        (("--since", "2026-05-02", "--until", "2026-05-01"), "nothing lies between"),
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--country", "Germany"), "'Germany' is no country; write DE"),
    ],
)
def test_a_bound_that_nobody_can_mean_is_a_usage_error(options: tuple[str, ...], why: str) -> None:
    result = replay("records", *options)

    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())


def test_a_time_that_nothing_lies_in_is_a_usage_error_of_verify_too() -> None:
    for until in ("2026-05-01", "2026-05-02"):
        result = CliRunner().invoke(app, ["verify", "--from", "2026-05-02", "--to", until])

        assert result.exit_code == 2
        assert "nothing lies between --from and --to" in " ".join(result.stderr.split())


def test_bounds_are_read_as_they_are_written(asked: list[Any], tmp_path: Path) -> None:
    result = replay(
        *("records", "--to", str(tmp_path / "a.jsonl"), "--processes", "2"),
        *("--since", "2026-05-01", "--until", "2026-05-02T08:00+02:00", "--country", "DE", "--country", "FR"),
        *(
            "--customer",
            "c1",
            "--offsets",
            "0:1-2",
            "--offsets",
            "0:7",
            "--offsets",
            "3:5-",
            "--partition",
            "0",
        ),
    )

    assert result.exit_code == 0, result.output
    ((job, processes),) = asked
    assert (job.topics, processes) == (("orders",), 2)
    assert job.bounds == Bounds(
        datetime(2026, 5, 1, tzinfo=UTC),
        datetime(2026, 5, 2, 6, tzinfo=UTC),
        frozenset({"DE", "FR"}),
        frozenset({"c1"}),
        {0: [(1, 2), (7, 7)], 3: [(5, None)]},
        frozenset({0}),
    )


def test_the_summary_counts_what_was_read_and_names_what_was_bad(asked: list[Any], tmp_path: Path) -> None:
    result = replay("features", "--to", str(tmp_path / "a.parquet"))

    assert len(asked) == 1
    assert f"2 orders to {tmp_path}/a.parquet, from 4 records of 8 partitions" in result.stdout
    assert "left out 1 (repeated 1)" in result.stdout
    assert result.stderr.splitlines() == [
        "fraudstream: orders/1/7: not_json: value: expected JSON",
        "fraudstream: 1 bad records (not_json 1)",
    ]


def test_features_are_those_asked_for_by_name_or_all_that_are_served(
    asked: list[Any], tmp_path: Path
) -> None:
    file = str(tmp_path / "a.parquet")
    replay("features", "--to", file)
    replay("features", "--to", file, "--features", "starter,by_device_orders_count_1h")
    both = replay("features", "--to", file, "--features", "starter", "--model", "starter")

    (every, _), (some, _) = asked
    assert every.chosen() == SERVED
    assert some.chosen()[-1].name == "by_device_orders_count_1h"
    assert both.exit_code == 2
