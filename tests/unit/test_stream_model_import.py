"""Pipelines that somebody else has fitted become models that answer as they do, or are refused."""

import io
import json
import os
import socket
from datetime import date
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from features.catalogue import BUILT_IN
from models.errors import ExportError
from models.pipeline import flat_node
from models.registry import Registry
from models.trained import PARITY
from stream.cli import app
from stream.model_import import ImportRefused, Pipeline, publish_pipeline

skops = pytest.importorskip("skops.io")

NAMES = ("amount", "items_count", "orders_count_1d", "days_since_last_order")


def the_past(seed: int = 3) -> tuple[Any, Any]:
    """Rows of NAMES, a tenth of the values missing, and which are fraud."""
    chance = np.random.default_rng(seed)
    matrix = chance.gamma(2.0, 50.0, (800, len(NAMES))).round(2)
    fraud = (matrix[:, 0] + matrix[:, 2] > 220) ^ (chance.random(800) < 0.05)
    matrix[chance.random(matrix.shape) < 0.1] = np.nan
    return matrix, fraud.astype(int)


MATRIX, FRAUD = the_past()


def fitted(pipeline: Any, *, names: tuple[str, ...] | None = NAMES) -> Any:
    """Fitted, and as if on a DataFrame with these columns."""
    pipeline.fit(MATRIX, FRAUD)
    if names is not None:
        first = pipeline
        while isinstance(first, Steps):
            first = first.steps[0][1]
        first.feature_names_in_ = np.array(names, dtype=object)
    return pipeline


def an_import(pipeline: Any, **fields: Any) -> Pipeline:
    told: dict[str, Any] = {
        "said": "pipeline.skops",
        "content": skops.dumps(pipeline),
        "name": "brought",
        "trained_at": date(2026, 11, 29),
        "row_limit": 512,
    }
    return Pipeline(**(told | fields))


def imported(registry: Registry, pipeline: Any, **fields: Any) -> str:
    model, is_new = publish_pipeline(registry, BUILT_IN, an_import(pipeline, **fields))
    assert is_new
    return model.partition("@")[2]


def refused(registry: Registry, pipeline: Any, **fields: Any) -> str:
    with pytest.raises(ImportRefused) as told:
        publish_pipeline(registry, BUILT_IN, an_import(pipeline, **fields))
    assert registry.list() == ()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", key=b"a key for tests")


class AlmostAForest(RandomForestClassifier):
    """Whatever it overrides, the trees would not say it."""


FLAGGED = SimpleImputer(strategy="median", add_indicator=True)
PIPELINES = {
    "logistic": make_pipeline(FLAGGED, StandardScaler(), LogisticRegression()),
    "logistic, robust": make_pipeline(SimpleImputer(), RobustScaler(), LogisticRegression()),
    "logistic, not scaled": make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), LogisticRegression()
    ),
    "forest": make_pipeline(FLAGGED, RandomForestClassifier(30, random_state=1, n_jobs=2)),
    "forest, missing as it is": RandomForestClassifier(10, random_state=1),
    "forest, scaled": make_pipeline(FLAGGED, StandardScaler(), RandomForestClassifier(10, random_state=1)),
    "extra trees": make_pipeline(
        SimpleImputer(strategy="most_frequent"), ExtraTreesClassifier(10, random_state=1)
    ),
    "tree": DecisionTreeClassifier(max_depth=5, random_state=1),
    "boosting": make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=20, random_state=1)),
    "hist boosting": HistGradientBoostingClassifier(max_iter=20, random_state=1),
    "a pipeline in a pipeline": Steps(
        [
            ("prepare", make_pipeline(FLAGGED, "passthrough", StandardScaler())),
            ("learn", LogisticRegression()),
        ]
    ),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("which", PIPELINES)
def test_a_pipeline_as_arrays_answers_as_it_does(which: str) -> None:
    pipeline = fitted(PIPELINES[which])
    rows, _ = the_past(seed=11)

    node = flat_node(pipeline, name="brought", features=NAMES)

    expected = pipeline.predict_proba(rows)[:, 1]
    for engine in ("numba", "numpy"):
        assert np.abs(node.model.walk(rows, engine=engine).p - expected).max() <= PARITY
    node.golden.check(node.model)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("which", ["logistic", "hist boosting"])
def test_an_imported_pipeline_answers_as_it_did_where_it_was_made(registry: Registry, which: str) -> None:
    pipeline = fitted(PIPELINES[which])
    rows, _ = the_past(seed=11)

    scorer = registry.load("brought", imported(registry, pipeline))

    asked = [[None if np.isnan(value) else value for value in row] for row in rows.tolist()]
    assert [each.name for each in scorer.features] == list(NAMES)
    expected = [round(p, 6) for p in pipeline.predict_proba(rows)[:, 1].tolist()]
    assert [each.p_fraud for each in scorer.score(asked)] == pytest.approx(expected, abs=1.1e-6)


def test_the_manifest_says_where_it_came_from(registry: Registry) -> None:
    brought = an_import(fitted(PIPELINES["logistic"]), trained_on="orders of 2025, DE only")
    model, _ = publish_pipeline(registry, BUILT_IN, brought)
    told = registry.manifest("brought", model.partition("@")[2])

    assert told.settings["file"] == "pipeline.skops"
    assert told.settings["imported_from"] == "skops"
    assert told.settings["row_limit"] == 512
    assert told.settings["predictor"] == "LogisticRegression"
    assert told.trained_on == {"said": "orders of 2025, DE only"}
    assert told.metrics == {}
    assert "scikit-learn" in told.libraries
    assert publish_pipeline(registry, BUILT_IN, brought) == (model, False)


# ---------------------------------------------------------------------- names


def test_columns_without_a_feature_are_listed(registry: Registry) -> None:
    pipeline = fitted(PIPELINES["tree"], names=("amuont", "items_count", "nonsense", "days_since_last_order"))

    told = refused(registry, pipeline, features=("amount", "items_count"))

    assert "columns that are no feature here: 'amuont' (did you mean amount?), 'nonsense';" in told
    assert "named with --features that it does not take: amount" in told
    assert "items_count" not in told.partition("columns that")[2]


def test_a_column_may_be_called_otherwise(registry: Registry) -> None:
    pipeline = fitted(PIPELINES["tree"], names=("amt", *NAMES[1:]))

    scorer = registry.load("brought", imported(registry, pipeline, renamed={"amt": "amount"}))

    assert [each.name for each in scorer.features] == list(NAMES)
    assert "--rename names ['other']" in refused_again(registry, pipeline, renamed={"other": "amount"})


def refused_again(registry: Registry, pipeline: Any, **fields: Any) -> str:
    with pytest.raises(ImportRefused) as told:
        publish_pipeline(registry, BUILT_IN, an_import(pipeline, **fields))
    return str(told.value)


def test_columns_without_names_are_named_in_their_order(registry: Registry) -> None:
    pipeline = fitted(DecisionTreeClassifier(max_depth=3), names=None)

    assert "name them in their order with --features" in refused(registry, pipeline)
    assert "takes 4 columns, and 3 features are named" in refused(registry, pipeline, features=NAMES[:3])
    scorer = registry.load("brought", imported(registry, pipeline, features=NAMES))
    assert [each.name for each in scorer.features] == list(NAMES)


# ---------------------------------------------------------------------- what can't be exported


@pytest.mark.parametrize(
    ("pipeline", "why"),
    [
        (make_pipeline(SimpleImputer(), MinMaxScaler(), LogisticRegression()), "MinMaxScaler can't be"),
        (make_pipeline(StandardScaler(), FLAGGED, LogisticRegression()), "SimpleImputer can't be"),
        (CalibratedClassifierCV(DecisionTreeClassifier()), "CalibratedClassifierCV can't be"),
        (AlmostAForest(2), "AlmostAForest can't be exported exactly; a pipeline ends in one of DecisionTree"),
    ],
)
def test_what_cannot_be_exported_exactly_is_refused_with_its_reason(pipeline: Any, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        flat_node(fitted(pipeline), name="brought", features=NAMES)


def test_other_classes_than_fraud_or_not_are_refused() -> None:
    pipeline = DecisionTreeClassifier().fit(MATRIX, np.where(FRAUD, "bad", "good"))

    with pytest.raises(ExportError, match="fit it with 0 for legitimate and 1 for fraud"):
        flat_node(pipeline, name="brought", features=NAMES)


def test_an_unknown_value_must_be_something() -> None:
    complete = np.nan_to_num(MATRIX)
    for pipeline in (LogisticRegression(max_iter=1000), GradientBoostingClassifier(n_estimators=2)):
        with pytest.raises(ExportError, match="does not say what an unknown value is"):
            flat_node(pipeline.fit(complete, FRAUD), name="brought", features=NAMES)


def test_types_of_their_own_are_not_opened(registry: Registry) -> None:
    assert "types that skops does not trust" in refused(registry, fitted(AlmostAForest(2)))


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 1000])
def test_a_damaged_file_is_refused(registry: Registry, content: bytes) -> None:
    assert "can't become a model" in refused(registry, None, content=content)


# ---------------------------------------------------------------------- files that run code


def joblib_of(thing: Any) -> bytes:
    written = io.BytesIO()
    joblib.dump(thing, written)
    return written.getvalue()


def test_a_file_that_runs_code_is_opened_only_where_it_is_trusted(registry: Registry) -> None:
    content = joblib_of(fitted(PIPELINES["forest"]))

    assert "say --trust-this-file" in refused(registry, None, content=content)
    assert imported(registry, None, content=content, is_trusted=True)


class _Runs:
    """When it is opened, it calls."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.reduced = what, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def refusal_of(registry: Registry, what: Any, *arguments: Any, **options: Any) -> str:
    import pickle  # noqa: PLC0415 - what it can do is what is tried here

    pipeline = an_import(None, content=pickle.dumps(_Runs(what, *arguments)), is_trusted=True)
    with pytest.raises(ImportRefused) as told:
        publish_pipeline(registry, BUILT_IN, pipeline, **options)
    return str(told.value)


def test_code_in_a_file_sees_no_settings_and_no_keys(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_SIGNING_KEY", "very secret")
    see = "raise TypeError(sorted(__import__('os').environ))"

    told = refusal_of(registry, exec, see)

    assert "FRAUDSTREAM" not in told
    assert "OPENBLAS_NUM_THREADS" in told
    parents = f"raise TypeError('secret' in open('/proc/{os.getpid()}/environ').read())"
    assert "True" not in refusal_of(registry, exec, parents)


def test_code_in_a_file_writes_no_file_and_prints_nothing_into_the_answer(
    registry: Registry, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    code = f"print('nonsense'); f = open({str(target)!r}, 'w'); f.write('x' * 10); f.flush()"

    refusal_of(registry, exec, code)

    assert not target.exists() or target.read_text() == ""


def test_code_in_a_file_that_goes_on_for_ever_is_ended(registry: Registry) -> None:
    assert "within 3 s" in refusal_of(registry, exec, "import time; time.sleep(1000)", timeout_s=3)


def test_code_in_a_file_that_takes_all_memory_is_ended(registry: Registry) -> None:
    told = refusal_of(registry, exec, "x = bytearray(1 << 40)")

    assert "more than 4 GiB" in told


def test_code_in_a_file_that_ends_its_process_is_told(registry: Registry) -> None:
    assert "ended with code 7" in refusal_of(registry, os._exit, 7)


@pytest.mark.skipif(not Path("/proc/self/ns/user").exists(), reason="only Linux can take the network away")
def test_code_in_a_file_reaches_no_network(registry: Registry) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        code = (
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); raise TypeError('reached')"
        )
        told = refusal_of(registry, exec, code)
    if "reached" in told:
        pytest.skip("this system lets no process give its network up")
    assert "unreachable" in told


# ---------------------------------------------------------------------- as a person does it


def test_a_pipeline_is_imported_by_command(tmp_path: Path) -> None:
    (tmp_path / "pipeline.skops").write_bytes(skops.dumps(fitted(PIPELINES["forest"])))
    run = CliRunner(env={"FRAUDSTREAM_HOME": str(tmp_path), "COLUMNS": "200"})
    words = ["models", "import", str(tmp_path / "pipeline.skops")]

    assert "needs a name" in run.invoke(app, words).stderr
    thresholds = ("--review-at", "0.2", "--decline-at", "0.8")
    done = run.invoke(app, [*words, "--name", "brought", *thresholds, "--json"])

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["published"] is True
    shown = run.invoke(app, ["models", "show", told["model"], "--json"])
    manifest = json.loads(shown.stdout)["manifest"]
    assert manifest["suggested_policy"] == {"review_at": 0.2, "decline_at": 0.8}
    assert run.invoke(app, ["models", "card", told["model"]]).exit_code == 0
    assert run.invoke(app, ["models", "verify", told["model"]]).exit_code == 0
