"""A tree of models learns, is published as one version and is scored in one go."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.catalogue import by_names
from models.errors import MalformedModelError
from models.learn import Rows, learn, out_of_fold
from models.model import Model, Period
from models.policy import Policy, rounded
from models.predictors import HistGradientBoosting, IsolationForest, LogisticRegression, RandomForest, Sigmoid
from models.preprocess import Scaler
from models.registry import Registry
from models.scorer import Scorer
from models.trained import Node, Trained
from tests.small_models import FEATURES, some_rows

ROWS = some_rows(1500)
NAMES = [each.name for each in FEATURES]
JUNE, JULY = Period.months("2025-06", "2025-06"), Period.months("2025-09", "2025-09")
BASKET = Model(
    "basket_risk",
    features=by_names(["amount", "hour_of_day"]),
    predictor=LogisticRegression(),
    preprocessors=(Scaler(),),
    trained_on=Period.months("2025-01", "2025-03"),
)
ODDITY = Model(
    "oddity",
    features=(*by_names(["items_count", "account_age_days"]), BASKET),
    predictor=IsolationForest(n_estimators=10),
    trained_on=JUNE,
)
RISK = Model(
    "order_risk",
    features=(*by_names(["payment_attempts", "amount", "country_category"]), ODDITY, BASKET),
    predictor=HistGradientBoosting(max_iter=15),
    imputer=None,
    calibration=Sigmoid(),
    trained_on=JULY,
)


def columns(model: Model, nodes: dict[str, Node]) -> np.ndarray[Any, Any]:
    """What a node learns from and is asked with, its submodels' scores by hand."""
    told = []
    for each in model.features:
        if isinstance(each, Model):
            told.append(nodes[each.name].score(columns(each, nodes)))
        else:
            told.append(ROWS.matrix[:, NAMES.index(each.name)])
    return np.column_stack(told)


def a_tree() -> Trained:
    nodes: dict[str, Node] = {}
    for model in RISK.nodes:
        nodes[model.name] = learn(model, Rows(columns(model, nodes), ROWS.labels), threads=1)
    return Trained(
        name="order_risk",
        version="2026-02-14.0aa9330b",
        features=RISK.leaves,
        nodes=tuple(nodes.values()),
        suggested_policy=Policy(review_at=0.5, decline_at=0.9),
        metrics={},
        split="",
        trained_at="2026-02-14",
        trained_on={},
        settings={"predictor": "HistGradientBoosting", "row_limit": 50},
        libraries={},
    )


@pytest.fixture(scope="module")
def tree() -> Trained:
    return a_tree()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def vectors(trained: Trained) -> list[list[float | None]]:
    places = [NAMES.index(each.name) for each in trained.features]
    return [[None if np.isnan(v) else v for v in row] for row in ROWS.matrix[:200, places].tolist()]


def test_a_published_tree_scores_as_its_nodes_do_one_after_the_other(
    registry: Registry, tree: Trained
) -> None:
    registry.publish(tree)
    scorer = registry.load(tree.name, tree.version)
    nodes = {node.name: node for node in tree.nodes}

    said = scorer.score(vectors(tree))

    assert [each.name for each in scorer.nodes] == ["basket_risk", "oddity", "order_risk"]
    expected = nodes["order_risk"].score(columns(RISK, nodes))
    assert [each.p_fraud for each in said] == expected[:200].tolist()
    of_submodels = zip(
        nodes["basket_risk"].score(columns(BASKET, nodes)),
        nodes["oddity"].score(columns(ODDITY, nodes)),
        strict=True,
    )
    assert [each.submodels for each in said] == list(of_submodels)[:200]


def test_each_feature_of_a_tree_is_asked_once(tree: Trained) -> None:
    names = [each.name for each in tree.features]
    assert sorted(names) == sorted(set(names))
    assert names[:3] == ["payment_attempts", "amount", "country_category"]


def test_a_tree_scores_an_order_alone_as_among_others_in_both_engines(tree: Trained) -> None:
    given: dict[str, Any] = {
        "name": tree.name, "version": "v", "digest": "d", "features": tree.features, "nodes": tree.nodes,
    }  # fmt: skip
    whole = Scorer(**given).score(vectors(tree))
    assert [Scorer(**given).score([vector])[0] for vector in vectors(tree)[:20]] == whole[:20]
    assert Scorer(**given, engine="numpy").score(vectors(tree)) == whole


def test_a_submodels_push_is_told_by_the_features_that_moved_it(registry: Registry, tree: Trained) -> None:
    registry.publish(tree)
    scorer = registry.load(tree.name, tree.version)

    told = {reason.feature for said in scorer.score(vectors(tree)) for reason in said.reasons}

    assert told <= {*NAMES, "basket_risk", "oddity"}
    # hour_of_day and account_age_days are asked by submodels only
    assert {"hour_of_day", "account_age_days"} <= told


def test_pushes_keep_their_sum_through_the_tree_and_give_the_reasons(tree: Trained) -> None:
    scorer = Scorer(name="a", version="b", digest="c", features=tree.features, nodes=tree.nodes)
    names = [*(each.name for each in tree.features), *(node.name for node in tree.nodes)]
    pushes = scorer.pushes(vectors(tree))

    assert pushes.shape == (200, len(names))
    at_the_top = scorer.walk(vectors(tree))["order_risk"].attributions.sum(axis=1)
    assert pushes.sum(axis=1) == pytest.approx(at_the_top, abs=1e-9)
    for row, vector, said in zip(pushes.tolist(), vectors(tree), scorer.score(vectors(tree)), strict=True):
        up = sorted((-push, at) for at, push in enumerate(row) if push > 1e-6)[:5]
        assert [reason.feature for reason in said.reasons] == [names[at] for _, at in up]
        unknown = {name for name, value in zip(names, vector, strict=False) if value is None}
        assert all(r.code.endswith("_UNKNOWN") == (r.feature in unknown) for r in said.reasons)


def test_what_the_last_node_is_asked_is_features_and_rounded_scores(tree: Trained) -> None:
    scorer = Scorer(name="a", version="b", digest="c", features=tree.features, nodes=tree.nodes)

    asked = scorer.inputs(vectors(tree))

    expected = columns(RISK, {node.name: node for node in tree.nodes})[:200]
    assert np.array_equal(asked, expected, equal_nan=True)


def test_a_version_published_before_gives_the_reasons_it_gave(tree: Trained) -> None:
    given: dict[str, Any] = {
        "name": tree.name, "version": "v", "digest": "d", "features": tree.features, "nodes": tree.nodes,
    }  # fmt: skip
    as_before = Scorer(**given, reasons_reach=False)
    tops = as_before.walk(vectors(tree))["order_risk"].attributions
    inputs = tree.nodes[-1].inputs
    for push, said in zip(tops.tolist(), as_before.score(vectors(tree)), strict=True):
        up = sorted((-each, at) for at, each in enumerate(push) if each > 1e-6)[:5]
        assert [reason.feature for reason in said.reasons] == [inputs[at] for _, at in up]


def test_a_model_alone_is_published_for_older_programs_too(registry: Registry, tree: Trained) -> None:
    alone = replace(
        tree, name="basket_risk", features=tuple(by_names(["amount", "hour_of_day"])), nodes=tree.nodes[:1]
    )
    registry.publish(alone)
    registry.publish(tree)

    assert registry.manifest("basket_risk", tree.version).format == 2
    assert registry.manifest("order_risk", tree.version).format == 3


def test_what_every_node_says_and_why_can_be_asked(tree: Trained) -> None:
    scorer = Scorer(name="a", version="b", digest="c", features=tree.features, nodes=tree.nodes)
    walked = scorer.walk(vectors(tree)[:3])
    assert list(walked) == ["basket_risk", "oddity", "order_risk"]
    assert [rounded(p) for p in walked["order_risk"].p.tolist()] == [
        said.p_fraud for said in scorer.score(vectors(tree)[:3])
    ]


def test_a_manifest_says_how_each_node_was_asked_for(registry: Registry, tree: Trained) -> None:
    registry.publish(tree)
    manifest = registry.manifest(tree.name, tree.version)
    assert [node.name for node in manifest.nodes] == ["basket_risk", "oddity", "order_risk"]
    assert manifest.nodes[0].described == BASKET.described
    assert manifest.nodes[2].fills["amount"] is None, "left missing"
    assert manifest.nodes[2].calibration == "sigmoid"


def test_nodes_that_are_no_tree_are_refused(registry: Registry, tree: Trained) -> None:
    basket, oddity, risk = tree.nodes
    for nodes, why in (
        ((oddity, basket, risk), "the node 'oddity' asks for 'basket_risk', which is neither"),
        ((basket, risk), "the node 'order_risk' asks for 'oddity', which is neither"),
        ((basket, basket, oddity, risk), "the node 'basket_risk' has a name that is a feature's or another"),
    ):
        with pytest.raises(MalformedModelError, match=why):
            registry.publish(replace(tree, nodes=nodes))
    assert registry.list() == ()


def test_a_parent_that_shares_the_period_learns_from_scores_out_of_fold() -> None:
    noise = np.random.default_rng(1)
    labels = noise.random(600) < 0.3
    matrix = noise.normal(size=(600, 2)).round(6)
    memory = replace_predictor(BASKET, RandomForest(n_estimators=20))
    knows = learn(memory, Rows(matrix, labels), threads=1).score(matrix)
    honest = out_of_fold(memory, Rows(matrix, labels), threads=1)
    # what knows the label separates noise; what does not, does not
    assert knows[labels].mean() - knows[~labels].mean() > 0.4
    assert abs(honest[labels].mean() - honest[~labels].mean()) < 0.08


def replace_predictor(model: Model, predictor: Any) -> Model:
    return replace(model, predictor=predictor, preprocessors=())
