"""Chains of jobs on a recorded past of lists: what is refused, what is planned, what is learned again."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.aggregates import Count, Mean
from features.catalogue import amount, by_name
from features.define import days
from models.errors import ModelDefinitionError, TrainingError
from models.model import Model, Period
from models.predictors import DecisionTree, LogisticRegression
from models.preprocess import Scaler
from models.registry import Registry
from stream.jobs import Chain, Evaluate, JobError, Learn, Past, Predict, Register
from stream.ports import Record
from stream.settings import Settings
from tests.recorded import a_record, opens
from tests.strategies import NOON

DAY = timedelta(days=1)
ORDERS, OUTCOMES = "orders", "outcomes"
START = NOON.replace(hour=0)


def at(day: float) -> datetime:
    return START + day * DAY


def period(first: float, last: float) -> Period:
    return Period(at(first), at(last))


def a_past(
    orders: int = 1200, *, as_of: float = 80, silence: Any = "not_fraud", known_after: float = 5
) -> Past:
    """Twenty orders a day; most dear ones are fraud, heard of so many days later."""
    chance = np.random.default_rng(3)
    topics: dict[str, list[list[Record]]] = {ORDERS: [[], []], OUTCOMES: [[], []]}
    for number in range(orders):
        placed, customer = at(number / 20), int(chance.integers(40))
        cents = int(chance.integers(500, 20_000))
        part, key = customer % 2, f"c{customer}".encode()
        told = {"order_id": f"o{number}", "customer_id": f"c{customer}", "placed_at": placed.isoformat()}
        told |= {"amount": cents, "currency": "EUR", "country": "DE" if number % 3 else "FR"}
        ms = int(placed.timestamp() * 1000)
        mine = topics[ORDERS][part]
        mine.append(a_record(ORDERS, part, len(mine), ms, json.dumps(told).encode(), key=key))
        if cents > 15_000 and chance.random() < 0.8:
            known = placed + known_after * DAY
            said = {"order_id": f"o{number}", "kind": "chargeback", "is_fraud": True}
            said |= {"occurred_at": placed.isoformat(), "known_at": known.isoformat()}
            mine = topics[OUTCOMES][part]
            ms = int(known.timestamp() * 1000)
            mine.append(a_record(OUTCOMES, part, len(mine), ms, json.dumps(said).encode(), key=key))
    return Past(Settings(), opens(topics), at(as_of), silence, place="lists")


def a_leaf(name: str = "leaf", *features: Any, **changes: Any) -> Model:
    told: dict[str, Any] = {
        "features": features or (amount,),
        "predictor": DecisionTree(max_depth=2),
        "trained_on": period(0, 15),
        "labels_mature_after": days(7),
    }
    return Model(name, **(told | changes))


def a_parent(*features: Any, **changes: Any) -> Model:
    told: dict[str, Any] = {
        "predictor": LogisticRegression(),
        "preprocessors": (Scaler(),),
        "trained_on": period(22, 40),
        "labels_mature_after": days(7),
    }
    return Model("parent", features=features, **(told | changes))


LEAF = a_leaf()
PARENT = a_parent(Count(over=days(7)), LEAF)


def test_a_chain_learns_predicts_and_registers(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    chain = Learn(PARENT) >> Predict(PARENT, period(47, 60)) >> Register(registry)

    done = chain.run(a_past(), tmp_path / "cache")

    (scores,) = done.scores
    assert len(scores.p) == len(scores.examples) == 13 * 20
    (said,) = done.registered
    scorer = registry.load("parent", said.partition("@")[2])
    vectors = scores.examples.only([each.name for each in PARENT.leaves]).matrix
    # what is in the registry says the same of the same orders
    assert [each.p_fraud for each in scorer.score(vectors.tolist())] == scores.p.tolist()
    trained = done.trained["parent"]
    assert trained.metrics["holdout_auc"] > 0.8  # type: ignore[operator]
    assert trained.metrics["holdout_orders"] == 260
    assert trained.trained_on["labelled_orders"] == 18 * 20
    assert "by labels as of" in trained.split


def test_only_what_changed_and_what_stands_above_is_learned_again(tmp_path: Path) -> None:
    leaves = [a_leaf(f"leaf_{n}", amount, Count(over=days(n))) for n in (1, 2, 3, 4)]
    past, cache = a_past(), tmp_path / "cache"

    first = (Learn(a_parent(*leaves)) >> Learn(LEAF)).run(past, cache)
    assert sorted(first.learned) == ["leaf", "leaf_1", "leaf_2", "leaf_3", "leaf_4", "parent"]
    again = Learn(a_parent(*leaves)).alone.run(past, cache)
    assert again.learned == []
    assert len(again.reused) == 5
    changed = a_parent(*leaves[:3], replace(leaves[3], predictor=DecisionTree(max_depth=3)))
    done = Learn(changed).alone.run(past, cache)
    assert done.learned == ["leaf_4", "parent"]
    assert done.reused == ["leaf_1", "leaf_2", "leaf_3"]


def test_of_a_changed_leaf_only_the_new_features_are_read_again(tmp_path: Path) -> None:
    past, cache = a_past(), tmp_path / "cache"
    Learn(PARENT).alone.run(past, cache)
    changed = a_parent(Count(over=days(7)), a_leaf("leaf", amount, Mean("amount", over=days(7))))

    plan = Learn(changed) >> Predict(changed, period(47, 60))
    assert [each.name for each in plan.plan(past, cache).missing] != ["amount_mean_7d"]  # another span
    assert [each.name for each in Learn(changed).alone.plan(past, cache).missing] == ["amount_mean_7d"]

    beside = Learn(changed).alone.run(past, cache)
    alone = Learn(changed).alone.run(past, tmp_path / "other")
    one, other = (done.nodes["parent"] for done in (beside, alone))
    assert np.array_equal(one.golden.p, other.golden.p)


def test_the_plan_says_what_is_to_do_and_changes_nothing(tmp_path: Path) -> None:
    past, cache = a_past(), tmp_path / "cache"
    chain = Learn(PARENT) >> Predict(PARENT, period(47, 60)) >> Evaluate()

    plan = str(chain.plan(past, cache))

    assert not cache.exists()
    told = [" ".join(line.split()) for line in plan.splitlines()]
    assert told[0].startswith("to do read 2 features")
    assert told[1].startswith("to do learn leaf")
    assert told[2].endswith("after learn leaf")
    assert told[3].startswith("to do predict parent, 2024-")
    assert told[4] == "to do evaluate"
    chain.run(past, cache)
    after = [line.split()[:2] for line in str(chain.plan(past, cache)).splitlines()[:3]]
    assert after == [["done", "before"]] * 3


def test_what_decides_a_model_is_part_of_its_digest(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def key(past: Past, model: Model = LEAF) -> str:
        return Learn(model).alone.plan(past, cache).keys["leaf"]

    first = key(a_past())
    assert key(a_past()) == first
    others = [
        key(a_past(1190)),
        key(a_past(silence="unknown")),
        key(a_past(as_of=60)),
        key(replace(a_past(), settings=Settings(row_limit=7))),
        key(a_past(), replace(LEAF, countries=("DE",))),
        key(a_past(), replace(LEAF, sampled=0.5)),
    ]
    assert len({first, *others}) == 7


def test_orders_teach_only_once_their_labels_have_matured(tmp_path: Path) -> None:
    late = a_past(as_of=16)  # of 15 days, seven of which have not matured
    done = Learn(LEAF).alone.run(late, tmp_path / "cache")

    assert len(done.labels["leaf"]) == 9 * 20 + 1
    with pytest.raises(TrainingError, match=r"no order of .* has a label that had matured"):
        Learn(LEAF).alone.run(a_past(as_of=3), tmp_path / "other")
    with pytest.raises(TrainingError, match="choose an earlier period, or say what silence means"):
        Learn(a_leaf(trained_on=period(0, 0.01))).alone.run(a_past(silence="unknown"), tmp_path / "third")


def test_a_sample_of_legitimate_orders_weighs_what_it_stands_for(tmp_path: Path) -> None:
    whole = Learn(LEAF).alone.run(a_past(), tmp_path / "cache")
    half = Learn(replace(LEAF, sampled=0.5)).alone.run(a_past(), tmp_path / "cache")

    assert len(half.labels["leaf"]) < 0.7 * len(whole.labels["leaf"])
    assert half.labels["leaf"].sum() == whole.labels["leaf"].sum()


def test_customers_already_caught_teach_nothing_where_asked(tmp_path: Path) -> None:
    whole = Learn(PARENT).alone.run(a_past(), tmp_path / "cache")
    fewer = Learn(replace(PARENT, without_caught=True)).alone.run(a_past(), tmp_path / "cache")

    assert len(fewer.labels["parent"]) < len(whole.labels["parent"])


def test_a_parent_of_the_same_period_learns_from_scores_out_of_fold(tmp_path: Path) -> None:
    leaf = a_leaf("leaf", amount, by_name("hour_of_day"), predictor=DecisionTree(), trained_on=period(0, 40))
    parent = a_parent(leaf, trained_on=period(0, 40), out_of_fold=True)
    past, cache = a_past(), tmp_path / "cache"

    done = Learn(parent).alone.run(past, cache)

    # a tree that knows its labels by heart would be believed: out of fold it is not
    plan = Learn(parent).alone.plan(past, cache)
    folded = np.load(plan.folded(leaf))
    labels = done.labels["leaf"]
    chosen = ~np.isnan(folded)
    assert chosen.sum() == 800
    assert (folded[chosen] != labels).mean() > 0.05
    assert [each.name for each in plan.steps()][1:] == [
        "learn leaf",
        "score leaf out of fold",
        "learn parent",
    ]


def test_a_submodel_that_shares_its_parents_period_is_refused_otherwise() -> None:
    with pytest.raises(ModelDefinitionError, match="whose labels are not mature until"):
        a_parent(LEAF, trained_on=period(0, 15))


@pytest.mark.parametrize(
    ("jobs", "why"),
    [
        ((Predict(PARENT, period(47, 60)),), "needs Learn"),
        ((Learn(PARENT), Predict(PARENT, period(39, 60))), "begins before the period ends"),
        ((Learn(PARENT), Predict(LEAF, period(47, 60))), "needs Learn"),
        ((Learn(PARENT), Evaluate()), "needs a Predict"),
        ((Register(Registry(Path("models"))),), "needs a Learn"),
        ((Learn(LEAF), Learn(replace(LEAF, sampled=0.5))), "two models are called 'leaf'"),
    ],
)
def test_a_chain_that_makes_no_sense_can_not_be_written(jobs: Sequence[Any], why: str) -> None:
    with pytest.raises(ModelDefinitionError, match=why):
        Chain(tuple(jobs))


def test_orders_that_do_not_fit_the_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError.__base__, match="read it in chunks"):  # type: ignore[arg-type]
        Learn(LEAF).alone.run(a_past(), tmp_path / "cache", memory=1000)


def test_a_period_without_orders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no order was placed in"):
        (Learn(LEAF) >> Predict(LEAF, period(70, 75))).run(a_past(), tmp_path / "cache")
