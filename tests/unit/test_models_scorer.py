import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import nan

from features.catalogue import STARTER, by_name
from models.errors import MalformedModelError
from models.flat import Engine
from models.policy import rounded
from models.registry import Registry
from models.scorer import Scored, Scorer
from models.train import PredictorKind, replay
from tests.small_shop import a_past, a_trained

KINDS: tuple[PredictorKind, ...] = ("logistic_regression", "random_forest")
Vectors = list[tuple[float | None, ...]]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return [each.vector for each in replay(a_past(300, seed=3), features=STARTER, row_limit=50)]


def a_scorer(kind: PredictorKind, engine: Engine | None = None) -> Scorer:
    trained = a_trained(kind)
    return Scorer(
        name=trained.name,
        version=trained.version,
        digest="0" * 64,
        features=trained.features,
        nodes=trained.nodes,
        engine=engine,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_gets_the_same_score_alone_and_among_others(kind: PredictorKind, vectors: Vectors) -> None:
    scorer = a_scorer(kind)
    alone = [scorer.score([vector])[0] for vector in vectors[:256]]
    assert scorer.score(vectors[:256]) == alone
    assert scorer.score(vectors[:256][::-1]) == alone[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_numba_and_numpy_give_identical_bits(kind: PredictorKind, vectors: Vectors) -> None:
    model = a_trained(kind).model
    matrix = np.array(vectors, dtype=np.float64)
    compiled, plain = model.walk(matrix, engine="numba"), model.walk(matrix, engine="numpy")
    assert compiled.p.tobytes() == plain.p.tobytes()
    assert compiled.attributions.tobytes() == plain.attributions.tobytes()
    assert compiled.first.tobytes() == plain.first.tobytes()
    assert a_scorer(kind, "numba").score(vectors) == a_scorer(kind, "numpy").score(vectors)


def test_a_machine_without_numba_gives_the_same_answers(tmp_path: Path, vectors: Vectors) -> None:
    registry = Registry(tmp_path)
    for kind in KINDS:
        registry.publish(a_trained(kind))
    there = (
        "import json, sys; sys.modules['numba'] = None\n"
        "from pathlib import Path; from models.registry import Registry\n"
        "asked = json.load(sys.stdin); registry = Registry(Path(asked['root']))\n"
        "scorers = [registry.load(*each) for each in registry.list()]\n"
        "print(json.dumps([[s.engine, *s.score(asked['vectors'])] for s in scorers], default=dict))"
    )
    asked = json.dumps({"root": str(tmp_path), "vectors": vectors[:50]})
    answered = subprocess.run(
        [sys.executable, "-c", there], input=asked, capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    for (name, version), answer in zip(registry.list(), json.loads(answered.stdout), strict=True):
        here = registry.load(name, version)
        assert (here.engine, answer[0]) == ("numba", "numpy")
        assert json.loads(json.dumps(here.score(vectors[:50]), default=dict)) == answer[1:]


def test_none_and_nan_are_both_unknown(vectors: Vectors) -> None:
    scorer = a_scorer("random_forest")
    told = [None] * len(STARTER)
    assert scorer.score([told]) == scorer.score([[nan] * len(STARTER)])
    assert scorer.score([told])[0].imputed == tuple(feature.name for feature in STARTER)


def test_what_was_imputed_is_named_in_the_models_order(vectors: Vectors) -> None:
    scored = a_scorer("random_forest").score(vectors)
    for vector, said in zip(vectors, scored, strict=True):
        assert said.imputed == tuple(f.name for f, v in zip(STARTER, vector, strict=True) if v is None)


@pytest.mark.parametrize("kind", KINDS)
def test_reasons_are_the_largest_pushes_upwards(kind: PredictorKind, vectors: Vectors) -> None:
    scorer = a_scorer(kind)
    for vector, said in zip(vectors[:50], scorer.score(vectors[:50]), strict=True):
        pushes = scorer.model.walk(np.array([vector], dtype=np.float64)).attributions[0].tolist()
        up = [(push, f.name) for push, f in zip(pushes, STARTER, strict=True) if push > 1e-6]
        first = sorted(up, key=lambda each: -each[0])[:5]
        assert [reason.feature for reason in said.reasons] == [name for _, name in first]
        for reason in said.reasons:
            assert reason.code.endswith("_UNKNOWN") == (reason.feature in said.imputed)


def test_a_probability_is_rounded_where_all_are(vectors: Vectors) -> None:
    for said in a_scorer("logistic_regression").score(vectors[:20]):
        assert said.p_fraud == rounded(said.p_fraud)


def test_no_orders_have_no_scores() -> None:
    assert a_scorer("random_forest").score([]) == []


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_value_is_refused_and_named(value: float) -> None:
    vector = [value] + [1.0] * (len(STARTER) - 1)
    with pytest.raises(ValueError, match=r"infinite value for \['amount'\]"):
        a_scorer("random_forest").score([vector])


@pytest.mark.parametrize(
    "wrong",
    [[[1.0]], [[1.0] * 25, [1.0]], [["a"] * 25], [[object()] * 25]],
    ids=["short", "ragged", "text", "object"],
)
def test_a_vector_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="25"):
        a_scorer("random_forest").score(wrong)


def test_remembered_patterns_of_missing_values_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.scorer._PATTERNS_KEPT", 2)
    scorer = a_scorer("random_forest")
    for missing in range(5):
        vector = [None if i == missing else 1.0 for i in range(len(STARTER))]
        assert scorer.score([vector])[0].imputed == (STARTER[missing].name,)
    assert len(scorer._imputed) <= 2


def test_features_may_come_in_another_order_and_none_too_many_or_too_few(vectors: Vectors) -> None:
    trained = a_trained("random_forest")
    named = {"name": "a", "version": "b", "digest": "c", "nodes": trained.nodes}
    turned = Scorer(features=trained.features[::-1], **named)
    assert [s.p_fraud for s in turned.score([v[::-1] for v in vectors])] == [
        s.p_fraud for s in a_scorer("random_forest").score(vectors)
    ]
    with pytest.raises(MalformedModelError, match="asks for 'amount', which is neither a feature nor a node"):
        Scorer(features=trained.features[1:], **named)
    with pytest.raises(MalformedModelError, match=r"never asks for its features \['is_guest'\]"):
        Scorer(features=(*trained.features, by_name("is_guest")), **named)


def test_a_scored_order_reads_by_name(vectors: Vectors) -> None:
    said = a_scorer("random_forest").score(vectors[:1])[0]
    assert said == Scored(p_fraud=said.p_fraud, imputed=said.imputed, reasons=said.reasons)
    assert repr(a_scorer("random_forest")).startswith("<Scorer order_risk@2026-02-14.")
