"""Laws of decisions, scores and flat models that hold whatever comes."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalogue import STARTER
from models.decision import (
    Decision,
    ModelRef,
    Reason,
    Source,
    decision_id,
    decode_decision,
    encode,
    scored_decision,
)
from models.flat import Engine, FlatColumns, FlatLinear, FlatModel, FlatTrees, Walked
from models.impute import Imputer
from models.policy import Action, Policy, rounded, score_of, suggest_policy
from models.scorer import Scorer
from models.train import PredictorKind
from tests.small_shop import a_trained

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
probabilities = st.floats(0, 1)
sources = st.builds(
    Source,
    topic=texts,
    partition=st.integers(0, 2**31),
    offset=st.integers(0, 2**63 - 1),
    others=st.dictionaries(texts, st.integers(0, 2**63 - 1), max_size=3),
)
reasons = st.builds(Reason, code=st.text(min_size=1, max_size=9), text=texts, feature=st.none() | texts)
parts = st.fixed_dictionaries(
    {
        "decision_id": st.uuids(),
        "order_id": st.text(min_size=1, max_size=128),
        "revision": st.integers(0, 2**31 - 1),
        "customer_id": st.none() | st.text(min_size=1, max_size=128),
        "action": st.sampled_from(Action),
        "p_fraud": probabilities.map(rounded),
        "reasons": st.lists(reasons, max_size=5).map(tuple),
        "model": st.builds(ModelRef, name=texts, version=texts, digest=texts),
        "policy_digest": texts,
        "features": st.dictionaries(texts, st.none() | numbers, max_size=30),
        "imputed": st.lists(texts, max_size=5).map(tuple),
        "source": sources,
        "repeat_of": st.none() | st.uuids(),
        "supersedes": st.none() | st.uuids(),
    }
)


@given(parts)
def test_a_decision_comes_back_as_it_was_written(told: dict[str, Any]) -> None:
    decision = scored_decision(**told)
    assert decode_decision(encode(decision)) == decision
    assert encode(decode_decision(encode(decision))) == encode(decision)


@given(parts)
def test_the_quick_encoding_and_construction_are_those_of_the_contract(told: dict[str, Any]) -> None:
    decision = scored_decision(**told)
    assert Decision(**dict(decision)) == decision
    assert json.loads(encode(decision)) == decision.model_dump(mode="json")
    assert decode_decision(decision.model_dump_json().encode()) == decision


@given(parts, st.randoms(use_true_random=False))
def test_the_order_in_which_features_are_told_does_not_change_a_byte(
    told: dict[str, Any], chance: Any
) -> None:
    shuffled = list(told["features"].items())
    chance.shuffle(shuffled)
    assert encode(scored_decision(**told)) == encode(scored_decision(**told | {"features": dict(shuffled)}))


identities = st.fixed_dictionaries(
    {
        "order_id": st.text("ab,:1", min_size=1, max_size=4),
        "revision": st.integers(0, 11),
        "content_digest": st.binary(min_size=1, max_size=2),
        "model_digest": st.text("ab,:1", max_size=3),
        "policy_digest": st.text("ab,:1", max_size=3),
        "source": st.builds(
            Source,
            topic=st.text("ab,:1", max_size=3),
            partition=st.integers(0, 11),
            offset=st.integers(0, 11),
            others=st.dictionaries(st.text("ab,:1", max_size=3), st.integers(0, 11), max_size=2),
        ),
    }
)


@given(identities, identities)
def test_two_decisions_share_an_id_only_if_all_that_determines_them_is_equal(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (decision_id(**one) == decision_id(**other)) == (one == other)


@given(probabilities, probabilities, st.floats(0.000001, 1), st.floats(0.000001, 1))
def test_a_riskier_order_is_never_treated_more_mildly(p: float, q: float, a: float, b: float) -> None:
    policy = Policy(review_at=min(a, b), decline_at=max(a, b))
    hardness = [Action.APPROVE, Action.REVIEW, Action.DECLINE].index
    low, high = sorted([p, q])
    assert hardness(policy.decide(low)) <= hardness(policy.decide(high))
    assert score_of(low) <= score_of(high)
    assert rounded(rounded(p)) == rounded(p)


@given(st.integers(0, 1000))
def test_a_score_reaches_a_threshold_of_thousandths_where_the_probability_does(thousandths: int) -> None:
    assert score_of(thousandths / 1000) == thousandths
    if thousandths:
        assert score_of(thousandths / 1000 - 1e-6) == thousandths - 1


@given(
    st.lists(st.tuples(probabilities, st.booleans()), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_a_suggested_policy_keeps_its_word_on_the_orders_it_was_read_from(
    seen: list[tuple[float, bool]], share: float, precision: float
) -> None:
    p, labels = [pair[0] for pair in seen], [pair[1] for pair in seen]
    policy = suggest_policy(p, labels, review_share=share, decline_precision=precision, fewest_declined=3)
    acted = [(policy.decide(each), label) for each, label in seen]
    assert sum(action is Action.REVIEW for action, _ in acted) <= share * len(seen)
    declined = [label for action, label in acted if action is Action.DECLINE]
    if policy.decline_at < 1.0:
        assert len(declined) >= 3
        assert sum(declined) >= precision * len(declined)


@st.composite
def forests(draw: st.DrawFn) -> FlatModel:
    """Any forest over three features, two of them flagged, its thresholds among the values tried."""
    few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0000000001, 2.0])
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    value: list[float] = []

    def grow(depth: int) -> int:
        node = len(value)
        splits = depth < 4 and draw(st.booleans())
        feature.append(draw(st.integers(0, 4)) if splits else 0)
        threshold.append(draw(few) if splits else 0.0)
        value.append(draw(probabilities))
        left.append(-1)
        right.append(-1)
        if splits:
            left[node], right[node] = grow(depth + 1), grow(depth + 1)
        return node

    roots = [grow(0) for _ in range(draw(st.integers(1, 4)))]
    imputer = Imputer(("a", "b", "c"), tuple(draw(few) for _ in range(3)), flagged=("c", "a"))
    nodes = len(value)
    return FlatModel(
        FlatColumns.of(imputer),
        FlatTrees(
            roots=np.array(roots, dtype=np.int32),
            feature=np.array(feature, dtype=np.int32),
            threshold=np.array(threshold),
            left=np.array(left, dtype=np.int32),
            right=np.array(right, dtype=np.int32),
            value=np.array(value, dtype=np.float64),
            missing_left=np.array([draw(st.integers(0, 1)) for _ in range(nodes)], dtype=np.int32),
            category=np.full(nodes, -1, dtype=np.int32),
            bits=np.zeros(0, dtype=np.uint32),
            base=np.zeros(1),
            combine="mean",
            single=True,
        ),
        "share",
    )


@st.composite
def linears(draw: st.DrawFn) -> FlatModel:
    some = st.floats(-1e6, 1e6)
    imputer = Imputer(("a", "b", "c"), tuple(draw(some) for _ in range(3)), flagged=("c", "a"))
    return FlatModel(
        FlatColumns.of(imputer),
        FlatLinear(
            column=np.arange(5, dtype=np.int32),
            coefficient=np.array([draw(some) for _ in range(5)]),
            typical=np.array([draw(some) for _ in range(5)]),
            intercept=np.array([draw(some)]),
        ),
        "log_odds",
    )


ENGINES: tuple[Engine, ...] = ("numba", "numpy")
values = st.sampled_from(
    [np.nan, -1.0, -0.0, 0.0, 0.5, 1.0, 1.0000000001, 2.0, 1e300, -1e39, 5e-324]
) | st.floats(-1e6, 1e6)
matrices = st.lists(st.tuples(values, values, values), min_size=1, max_size=8).map(np.array)


def by_recursion(model: FlatModel, row: Any) -> float:
    """The forest as one would explain it: the oracle of both engines."""
    forest = model.predictor
    assert isinstance(forest, FlatTrees)
    with np.errstate(over="ignore"):
        seen = model.imputer.fill(row.reshape(1, 3))[0].astype(np.float32).astype(np.float64)

    def leaf(node: int) -> float:
        if forest.left[node] < 0:
            return float(forest.value[node])
        goes_left = seen[forest.feature[node]] <= forest.threshold[node]
        return leaf(int(forest.left[node] if goes_left else forest.right[node]))

    total = 0.0
    for root in forest.roots:
        total += leaf(int(root))
    return total / len(forest.roots)


@given(forests(), matrices)
def test_a_forest_walks_as_one_would_explain_it(model: FlatModel, matrix: Any) -> None:
    assert model.walk(matrix, engine="numba").p.tolist() == [by_recursion(model, row) for row in matrix]


@given(forests() | linears(), matrices)
def test_both_engines_give_the_same_bits_whatever_the_batch(model: FlatModel, matrix: Any) -> None:
    whole = model.walk(matrix, engine="numba")
    assert bits(whole) == bits(model.walk(matrix, engine="numpy"))
    for number, row in enumerate(matrix):
        of = slice(number, number + 1)
        mine = Walked(whole.p[of], whole.attributions[of], whole.first[of])
        for engine in ENGINES:
            assert bits(model.walk(row.reshape(1, 3), engine=engine)) == bits(mine)


def bits(walked: Walked) -> list[bytes]:
    return [walked.p.tobytes(), walked.attributions.tobytes(), walked.first.tobytes()]


@given(forests(), matrices)
def test_attributions_add_up_to_what_separates_a_score_from_the_average(
    model: FlatModel, matrix: Any
) -> None:
    forest = model.predictor
    assert isinstance(forest, FlatTrees)
    start = forest.value[forest.roots].mean()
    walked = model.walk(matrix)
    assert walked.attributions.sum(axis=1) + start == pytest.approx(walked.p, abs=1e-12)


KINDS: tuple[PredictorKind, ...] = ("logistic_regression", "random_forest")
MOST = st.one_of(st.none(), st.floats(0, 1e12))


@settings(max_examples=50)
@given(
    st.lists(st.lists(MOST, min_size=len(STARTER), max_size=len(STARTER)), min_size=1, max_size=9), st.data()
)
def test_a_score_depends_on_its_own_vector_alone(
    vectors: list[list[float | None]], data: st.DataObject
) -> None:
    for kind in KINDS:
        trained = a_trained(kind)
        scorer = Scorer(name="a", version="b", digest="c", features=trained.features, nodes=trained.nodes)
        order = data.draw(st.permutations(range(len(vectors))))
        whole = scorer.score(vectors)
        assert scorer.score([vectors[i] for i in order]) == [whole[i] for i in order]
        assert [scorer.score([vector])[0] for vector in vectors] == whole
