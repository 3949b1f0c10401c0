from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from features.catalogue import STARTER, by_names
from features.events import Order, Outcome
from features.revisions import MOST_REVISIONS
from models.errors import TrainingError
from models.manifest import arrays_of
from models.policy import Policy
from models.train import LEFT_OUT, Kept, PredictorKind, replay, train
from tests.small_shop import TRAINED_AT, a_past, a_trained, an_order

KINDS: tuple[PredictorKind, ...] = ("logistic_regression", "random_forest")
COUNT = by_names(["orders_count_1d", "amount_sum_1d"])


def counts(*orders: Order) -> list[tuple[float | None, ...]]:
    examples = [(order, False) for order in orders]
    return [each.vector for each in replay(examples, features=COUNT, row_limit=10)]


def trained(
    past: Iterable[tuple[Order, bool | None]], kind: PredictorKind = "logistic_regression", **with_: Any
) -> Any:
    given = {
        "name": "order_risk",
        "predictor": kind,
        "trained_at": TRAINED_AT,
        "row_limit": 50,
        "features": COUNT,
    }
    return train(past, **(given | with_))


def test_an_order_sees_the_orders_before_it_and_not_itself() -> None:
    assert counts(an_order(0, amount=100), an_order(1, amount=50), an_order(2)) == [
        (0, 0),
        (1, 1),
        (2, 1.5),
    ]


def test_a_late_order_sees_only_what_was_placed_before_it() -> None:
    assert counts(an_order(0), an_order(2), an_order(1)) == [(0, 0), (1, 50), (1, 50)]


def test_a_guest_has_no_history() -> None:
    assert counts(an_order(0), an_order(1, customer_id=None)) == [(0, 0), (None, None)]


def test_a_test_order_is_scored_and_never_remembered() -> None:
    assert counts(an_order(0, test=True), an_order(1)) == [(0, 0), (0, 0)]


def test_an_order_sent_again_counts_once_and_teaches_once() -> None:
    assert counts(an_order(0), an_order(0), an_order(0, amount=7), an_order(1)) == [(0, 0), (1, 50)]


def test_whatever_is_left_out_is_counted_with_its_reason() -> None:
    past = [
        (an_order(0), False),
        (an_order(0), False),
        (an_order(0), True),
        (an_order(0), None),
        (an_order(0, amount=7), False),
        *((an_order(1, revision=number), False) for number in range(MOST_REVISIONS + 2)),
        (an_order(1, revision=3), False),
    ]
    left_out: Counter[str] = Counter()

    examples = list(replay(past, features=COUNT, row_limit=10, left_out=left_out))

    assert left_out == {
        "repeated": 2,
        "conflicting_label": 2,
        "conflicting_content": 1,
        "too_many_revisions": 2,
    }
    assert len(examples) + left_out.total() == len(past)
    assert set(left_out) == set(LEFT_OUT)


def test_a_model_says_for_ever_what_its_training_left_out() -> None:
    past = a_past(300)
    model = trained([*past, past[0]])

    assert model.trained_on["left_out_repeated"] == 1
    assert model.version == trained(past).version


@pytest.mark.parametrize("threads", [2, 5])
def test_how_many_threads_grow_a_forest_changes_nothing(threads: int) -> None:
    once, again = (trained(a_past(300), "random_forest", threads=each) for each in (1, threads))

    assert arrays_of(again.nodes) == arrays_of(once.nodes)
    assert (again.version, again.metrics, again.suggested_policy) == (
        once.version, once.metrics, once.suggested_policy,
    )  # fmt: skip


def test_a_revision_takes_the_place_of_the_order_it_revises() -> None:
    revised = an_order(0, revision=1, amount=9000, placed_at=an_order(1).placed_at)
    assert counts(an_order(0), revised, an_order(2)) == [(0, 0), (0, 0), (1, 90)]


def test_a_revision_that_comes_after_a_newer_one_is_not_remembered() -> None:
    newer, older = an_order(0, revision=2, amount=9000), an_order(0, revision=1, amount=1)
    assert counts(newer, older, older, an_order(2)) == [(0, 0), (0, 0), (1, 90)]


def test_a_revision_that_is_a_test_order_takes_the_order_out_of_history() -> None:
    assert counts(an_order(0), an_order(0, revision=1, test=True), an_order(2)) == [(0, 0)] * 3


def test_an_order_that_changes_its_customer_leaves_the_first_ones_history() -> None:
    moved = an_order(0, revision=1, customer_id="c2")
    assert counts(an_order(0), moved, an_order(2)) == [(0, 0)] * 3


def test_a_row_holds_no_more_orders_than_the_workers() -> None:
    new = by_names(["device_is_new"])
    devices = ["first", *(f"d{number}" for number in range(70)), "first"]
    examples = [
        (an_order(number).model_copy(update={"device_id": device}), False)
        for number, device in enumerate(devices)
    ]

    def last(row_limit: int) -> float | None:
        return list(replay(examples, features=new, row_limit=row_limit))[-1].vector[0]

    assert (last(100), last(2)) == (0.0, 1.0)


def test_an_unlabelled_order_makes_history_and_teaches_nothing() -> None:
    past = a_past(300)
    known = sum(label is not None for _, label in past)
    model = trained(past)
    assert 0 < known < 300
    assert model.trained_on["labelled_orders"] == known
    without_history = trained([pair for pair in past if pair[1] is not None])
    assert without_history.version != model.version


def test_a_test_order_teaches_nothing() -> None:
    past = a_past(300)
    tests = [(an_order(1000 + i, test=True), True) for i in range(5)]
    assert trained([*past, *tests]).version == trained(past).version


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_past_gives_the_same_model(kind: PredictorKind) -> None:
    once, again = trained(a_past(300), kind), trained(a_past(300), kind)
    assert once.version == again.version
    assert arrays_of(again.nodes) == arrays_of(once.nodes)
    assert once.golden.rows.tobytes() == again.golden.rows.tobytes()


@pytest.mark.parametrize(
    "changed",
    [{"seed": 2}, {"row_limit": 49}, {"features": COUNT[:1]}, {"name": "other"}, {"kind": "random_forest"}],
)
def test_whatever_makes_a_model_is_in_its_version(changed: dict[str, Any]) -> None:
    assert trained(a_past(300), **changed).version != trained(a_past(300)).version


def test_a_version_says_the_day_it_was_trained_and_a_fingerprint() -> None:
    day, fingerprint = a_trained("random_forest").version.split(".")
    assert day == "2026-02-14"
    assert len(bytes.fromhex(fingerprint)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_learned_is_learned(kind: PredictorKind) -> None:
    metrics = a_trained(kind).metrics
    auc = metrics["holdout_auc"]
    assert auc is not None
    assert auc > 0.9
    assert metrics["holdout_orders"] == round(0.2 * a_trained(kind).trained_on["labelled_orders"])  # type: ignore[operator]


def test_what_became_of_orders_is_learned_from_the_outcomes_that_stand_between_them() -> None:
    features = by_names(["orders_count_30d", "fraud_count_365d"])
    orders = [(an_order(hour), False) for hour in (0, 2)]
    known_at = an_order(1).placed_at
    outcome = Outcome(
        order_id="o0", kind="chargeback", is_fraud=True, occurred_at=known_at, known_at=known_at
    )

    found = list(replay([orders[0], outcome, orders[1]], features=features, row_limit=9))

    assert [each.vector for each in found] == [(0, 0), (1, 1)]
    with pytest.raises(TrainingError, match="fraud_count_365d ask what became of orders, and this past"):
        list(replay(orders, features=features, row_limit=9))


def test_what_workers_forget_teaches_nothing() -> None:
    orders = [an_order(24 * day, customer_id=who) for day, who in ((0, "c1"), (40, "c2"), (41, "c1"))]
    first = by_names(["days_since_first_order"])

    def of_the_last(rows: timedelta | None) -> float | None:
        past = [(order, False) for order in orders]
        return list(replay(past, features=first, row_limit=9, kept=Kept(rows)))[-1].vector[0]

    assert [of_the_last(each) for each in (None, timedelta(days=50), timedelta(days=30))] == [41, 41, None]


def test_labels_that_mean_nothing_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    past = [(order, bool(rng.random() < 0.5)) for order, _ in a_past(1200)]
    auc = trained(past).metrics["holdout_auc"]
    assert 0.4 < auc < 0.6


def test_metrics_come_from_orders_after_those_learned_from() -> None:
    past = [(order, bool(label)) for order, label in a_past(300)]
    late_frauds = [(order, label and number >= 240) for number, (order, label) in enumerate(past)]
    metrics = trained(late_frauds).metrics
    # no fraud among the first 80 %: nothing to learn from, so nothing is measured
    assert metrics["holdout_auc"] is None
    assert metrics["holdout_fraud"] == sum(label for _, label in late_frauds)
    assert trained(late_frauds).suggested_policy == Policy(review_at=0.5, decline_at=0.9)


@pytest.mark.parametrize("label", [True, False, None])
def test_one_kind_of_label_cannot_teach(label: bool | None) -> None:
    with pytest.raises(TrainingError, match="known to be fraud and orders known not to be"):
        trained([(order, label) for order, _ in a_past(50)])


def test_an_unknown_predictor_is_refused() -> None:
    with pytest.raises(TrainingError, match="got 'oracle'"):
        trained(a_past(100), "oracle")  # type: ignore[arg-type]


def test_a_feature_that_was_always_missing_cannot_move_a_score() -> None:
    for kind in KINDS:
        model = a_trained(kind).model
        assert "items_count" in model.imputer.all_missing
        row = a_trained(kind).golden.rows[:1].copy()
        there = row.copy()
        there[0, model.imputer.names.index("items_count")] = 1000.0
        assert model.walk(row).p == model.walk(there).p


def test_training_covers_the_period_of_its_labelled_orders() -> None:
    past = [*a_past(100), (an_order(5000, placed_at=an_order(0).placed_at + timedelta(days=900)), None)]
    told = trained(past).trained_on
    labelled = [order.placed_at for order, label in past if label is not None]
    assert told["first_placed_at"] == min(labelled).isoformat()
    assert told["last_placed_at"] == max(labelled).isoformat()


def test_a_starter_model_knows_all_starter_features() -> None:
    assert a_trained("random_forest").features == STARTER
