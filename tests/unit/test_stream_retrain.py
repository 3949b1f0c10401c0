"""Retraining from a recorded past: when it learns, what stops it, and what its report says."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.aggregates import Count
from features.catalogue import amount
from features.define import days
from models.errors import ModelError
from models.gates import Limits
from models.model import Model, Period
from models.predictors import LogisticRegression, RandomForest
from models.preprocess import Scaler
from models.registry import Registry
from stream.cli import app
from stream.evaluating import evaluate_set
from stream.jobs import Past
from stream.replay_files import replay_to
from stream.retrain import RetrainError, RetrainJob, Schedule, moved, read_job, retrain
from stream.training_set import TrainingSet, TrainingSetError
from tests.unit.test_stream_jobs import a_past, at, period

RISK = Model(
    "risk",
    features=(amount, Count(over=days(7))),
    predictor=RandomForest(n_estimators=5, max_depth=4),
    trained_on=period(0, 30),
    labels_mature_after=days(7),
)
SCHEDULE = Schedule(train_days=30, test_days=14)
LOOSE = Limits(frauds=5, auc=0.6, average_precision=0.2, calibration_error=0.5, stability=10)
EASY = replace(LOOSE, alarm_one_feature=1.0, alarm_auc=1.0)
"""Dear orders are fraud in the tests' past, so one feature alone tells them."""


def retrained(tmp_path: Path, job: RetrainJob, past: Past | None = None) -> Any:
    registry = Registry(tmp_path / "models")
    return retrain(job, past or a_past(as_of=60), registry, folder=tmp_path / "learning")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "learning").mkdir()


def test_it_learns_from_what_had_matured_when_its_test_began() -> None:
    trained_on, tested_on = SCHEDULE.periods(RISK, datetime(2024, 7, 1, 15, 30, tzinfo=UTC))

    assert str(tested_on) == "2024-06-10..2024-06-24"
    assert str(trained_on) == "2024-05-04..2024-06-03"


def test_submodels_move_with_their_model_and_stay_before_it() -> None:
    leaf = replace(RISK, name="leaf", trained_on=period(0, 15))
    shared = replace(RISK, name="shared", trained_on=period(30, 50))
    parent = replace(RISK, features=(amount, leaf, shared), trained_on=period(30, 50), out_of_fold=True)

    later = moved(parent, period(100, 130))

    first, second = later.submodels
    assert (first.trained_on, second.trained_on) == (period(70, 85), period(100, 130))


def test_a_model_that_passes_is_published_and_not_promoted(tmp_path: Path) -> None:
    done = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, EASY))

    registry = Registry(tmp_path / "models")
    assert done.passed, done.why
    assert [f"{name}@{version}" for name, version in registry.list()] == [done.published]
    assert registry.champion("risk") is None
    report = done.report.read_text()
    assert "every gate let it through" in report
    assert "passed leak: too good" in report
    told = json.loads(done.report.with_suffix(".json").read_text())
    assert told["published"] == done.published


def test_what_fails_a_gate_is_not_published_and_the_report_says_why(tmp_path: Path) -> None:
    done = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, replace(EASY, auc=0.9999)))

    assert done.published is None
    assert Registry(tmp_path / "models").list() == ()
    assert done.why.startswith("not published: accuracy: AUC")
    assert "FAILED accuracy" in done.report.read_text()


@pytest.mark.parametrize(
    ("limits", "gate"),
    [
        (replace(EASY, alarm_one_feature=0.8), "leak: one feature"),
        (replace(EASY, alarm_auc=0.7), "leak: too good"),
        (replace(EASY, frauds=10_000), "enough frauds"),
        (replace(EASY, calibration_error=0.0), "calibration"),
        (replace(EASY, stability=0.0), "stability"),
    ],
)
def test_each_gate_stops_it(tmp_path: Path, limits: Limits, gate: str) -> None:
    done = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, limits))

    assert [each.name for each in done.gates if not each.passed] == [gate]


def test_labels_known_with_their_orders_raise_the_alarm(tmp_path: Path) -> None:
    done = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, EASY), a_past(as_of=60, known_after=0))

    assert [each.name for each in done.gates if not each.passed] == ["leak: labels known at once"]
    assert "is known_at when the shop learned of them?" in done.why


def test_a_model_worse_than_the_champion_is_not_published(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    first = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, EASY))
    registry.promote("risk", first.published.partition("@")[2])
    blind = replace(
        RISK, features=(Count(over=days(7)),), predictor=LogisticRegression(), preprocessors=(Scaler(),)
    )
    anything = replace(EASY, auc=0, average_precision=0)

    done = retrained(tmp_path, RetrainJob(blind, SCHEDULE, anything))

    assert [each.name for each in done.gates if not each.passed] == ["champion"]
    assert "average precision -" in done.why


CODE = """
from features.catalogue import amount
from features.define import days
from models.model import Model, Period
from models.predictors import DecisionTree

MODEL = Model(
    "risk",
    (amount,),
    DecisionTree(max_depth=4),
    trained_on=Period.months("2025-01", "2025-03"),
    labels_mature_after=days(7),
)
"""


def test_a_job_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "risk.py").write_text(CODE)
    (tmp_path / "risk.toml").write_text('model = "risk.py"\ntrain_days = 60\n[gates]\nauc = 0.8\n')

    plain, told = read_job(tmp_path / "risk.py"), read_job(tmp_path / "risk.toml")

    assert (plain.model.name, plain.schedule, plain.limits) == ("risk", Schedule(), Limits())
    assert told.schedule == Schedule(train_days=60)
    assert told.limits.auc == 0.8


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("train_days = 3", "names no model"),
        ('model = "risk.py"\ndays = 3', "says 'days', which nobody reads"),
        ('model = "risk.py"\ntrain_days = 0', "at least 1"),
        ('model = "risk.py"\nthen = "live"', 'then is "stop" or "shadow"'),
        ('model = "none.py"', "there is no Python file"),
        ('model = "empty.py"', "declares no MODEL"),
        ('model = "broken.py"', "failed with ZeroDivisionError"),
        ("model = ", "can't be read"),
        ('model = "risk.py"\n[gates]\nauk = 1', "there is no gate 'auk'"),
        ('model = "risk.py"\n[gates]\nauc = "high"', "takes a number"),
    ],
)
def test_a_job_that_can_not_be_meant_is_refused(tmp_path: Path, toml: str, why: str) -> None:
    (tmp_path / "risk.py").write_text(CODE)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "job.toml").write_text(toml)

    with pytest.raises((RetrainError, ModelError), match=why):
        read_job(tmp_path / "job.toml")


def test_published_models_are_evaluated_on_orders_they_did_not_learn_from(tmp_path: Path) -> None:
    past = a_past(as_of=60)
    published = retrained(tmp_path, RetrainJob(RISK, SCHEDULE, EASY), past).published
    registry = Registry(tmp_path / "models")
    file = tmp_path / "set.parquet"
    job = past.rows(RISK.leaves, Period(at(0), at(50)))
    labelled = replace(job, chosen=replace(job.chosen, labelling=past.judged(RISK), unlabelled=False))
    replay_to(labelled, past.opened, file)

    found = evaluate_set(registry, [published], TrainingSet.open(file))

    assert found.first >= "2024-05-31"
    assert "are left out" in found.notes[0]
    assert found.judged[0].measures.auc > 0.8
    owed = {each.feature: each.shapley for each in found.judged[0].importance}
    assert set(owed) == {each.name for each in RISK.leaves}
    assert max(each or 0.0 for each in owed.values()) > 0.0
    assert (
        "no later than the last"
        in evaluate_set(registry, [published], TrainingSet.open(file), with_learned_from=True).notes[0]
    )
    early = replace(job, chosen=replace(labelled.chosen, until=at(20)))
    replay_to(early, past.opened, file)
    with pytest.raises(TrainingSetError, match="build a set of later orders"):
        evaluate_set(registry, [published], TrainingSet.open(file))


def test_the_commands_measure_and_retrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past = a_past(as_of=60)
    monkeypatch.setattr("stream.learn_cli.opened", lambda *_, **__: past.opened)
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    (tmp_path / "risk.py").write_text(CODE)
    (tmp_path / "job.toml").write_text(
        'model = "risk.py"\ntrain_days = 20\ntest_days = 7\n'
        "[gates]\nauc = 0.6\nfrauds = 1\naverage_precision = 0\ncalibration_error = 1\nstability = 9\n"
        "alarm_one_feature = 1\nalarm_auc = 1"
    )
    asked = [str(tmp_path / "job.toml"), "--as-of", at(60).isoformat(), "--silence-is-legitimate"]

    plan = CliRunner().invoke(app, ["retrain", *asked, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "learn risk" in plan.stdout

    done = CliRunner().invoke(app, ["retrain", *asked])

    assert done.exit_code == 0, done.output
    assert "report: " in done.stdout
    assert len([*(tmp_path / "learning").glob("risk-*.html")]) == 1
    assert [name for name, _ in Registry(tmp_path / "models").list()] == ["risk"]
