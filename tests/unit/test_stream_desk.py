"""The desk: what a batch of orders changes and emits."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from features.catalogue import by_name
from features.events import Order
from features.history import Row
from models.decision import ModelRef, Reason, decode_decision
from models.policy import Action, Policy
from models.scorer import Scored
from stream.desk import ScoringDesk, customer_key, order_key, partition_of
from stream.ports import Effects, Record, Refused
from stream.settings import Topics
from tests.strategies import NOON, an_order, as_json


class CountingScorer:
    """Believes that every earlier order of the customer adds a tenth to the probability of fraud."""

    name, version, digest = "counting", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)
    features = (by_name("orders_count_30d"), by_name("amount"))

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [
            Scored(
                (vector[0] or 0) / 10,
                ("orders_count_30d",) if vector[0] is None else (),
                (Reason(code="MANY_ORDERS", text="Many orders", feature="orders_count_30d"),),
            )
            for vector in vectors
        ]


class Shop:
    """A desk with its rows, fed one batch at a time as the writer would."""

    def __init__(self, **settings: Any) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.desk = ScoringDesk(
            scorer=CountingScorer(),  # type: ignore[arg-type]  # stands in for a trained model
            policy=Policy(review_at=0.2, decline_at=0.5),
            topics=Topics(),
            partitions=1,
            row_limit=100,
            ahead_by_at_most=timedelta(minutes=5),
            reject_share=settings.get("reject_share", 0.0),
            headers=(("worker", b"w1"),),
        )
        self.offset = 0

    def arrive(self, *values: bytes | None, key: bytes | None = None, **fields: Any) -> Effects:
        records = []
        for value in values:
            chosen = key if key is not None else _key_of(value)
            records.append(
                Record(
                    "orders",
                    0,
                    self.offset,
                    fields.get("at", 1_800_000_000_000),
                    chosen,
                    value,
                    fields.get("headers", ()),
                )
            )
            self.offset += 1
        effects = self.desk.decide(records, lambda partition, key: self.rows.get((partition, key)))
        self.commit(effects)
        return effects

    def commit(self, effects: Effects) -> None:
        for partition, rows in effects.rows.items():
            for row_key, row in rows.items():
                assert row is not None
                self.rows[partition, row_key] = row

    def decide(self, *orders: Order, **fields: Any) -> list[Any]:
        effects = self.arrive(*(as_json(order) for order in orders), **fields)
        return decisions(effects)


def _key_of(value: bytes | None) -> bytes:
    content = json.loads(value or b"{}")
    return str(content.get("customer_id") or content.get("order_id")).encode()


def decisions(effects: Effects) -> list[Any]:
    return [decode_decision(p.value or b"") for p in effects.produce if p.topic == "decisions"]


def rejects(effects: Effects) -> list[dict[str, bytes]]:
    return [dict(p.headers) for p in effects.produce if p.topic == "orders-rejected"]


def test_an_order_never_counts_itself_but_the_next_one_does() -> None:
    shop = Shop()

    first, second = shop.decide(an_order(), an_order(order_id="o2", placed_at=NOON + timedelta(minutes=1)))

    assert [first.features["orders_count_30d"], second.features["orders_count_30d"]] == [0, 1]


def test_the_policy_turns_the_score_into_an_action() -> None:
    shop = Shop()
    orders = [an_order(order_id=f"o{n}", placed_at=NOON + timedelta(minutes=n)) for n in range(6)]

    actions = [decision.action for decision in shop.decide(*orders)]

    assert actions == [Action.APPROVE] * 2 + [Action.REVIEW] * 3 + [Action.DECLINE]


def test_batches_of_one_decide_as_one_batch_does() -> None:
    orders = [an_order(order_id=f"o{n % 4}", placed_at=NOON + timedelta(minutes=n % 4)) for n in range(7)]
    together, alone = Shop(), Shop()

    in_one = together.decide(*orders)
    one_by_one = [decision for order in orders for decision in alone.decide(order)]

    assert in_one == one_by_one
    assert together.rows == alone.rows


@pytest.mark.parametrize("batches", [1, 2])
def test_a_resent_order_counts_once_and_hears_the_same_decision(batches: int) -> None:
    shop = Shop()
    order = an_order()

    heard = shop.decide(order, order) if batches == 1 else shop.decide(order) + shop.decide(order)

    first, again = heard
    assert again.repeat_of == first.decision_id
    assert again.decision_id != first.decision_id
    assert again.source.offset == first.source.offset + 1
    same = {"decision_id", "repeat_of", "source"}
    assert again.model_dump(exclude=same) == first.model_dump(exclude=same)
    assert len(Row.decode(shop.rows[0, customer_key("c1")], 100)) == 1


def test_a_resend_hears_the_first_decision_even_when_the_customer_has_ordered_more_since() -> None:
    shop = Shop()
    early = an_order(order_id="o1", placed_at=NOON + timedelta(hours=1))
    (first,) = shop.decide(early)
    shop.decide(an_order(order_id="o0", placed_at=NOON))

    (again,) = shop.decide(early)

    assert again.features == first.features == {"orders_count_30d": 0, "amount": 1000}


def test_the_same_identity_with_other_content_is_rejected_and_reviewed() -> None:
    shop = Shop()
    shop.decide(an_order())

    effects = shop.arrive(as_json(an_order(amount=9999)))

    assert [reject["reason"] for reject in rejects(effects)] == [b"conflicting_content"]
    (decision,) = decisions(effects)
    assert (decision.action, decision.p_fraud, decision.reasons[0].code) == (
        Action.REVIEW,
        None,
        "conflicting_content",
    )
    assert effects.rows == {}


def test_a_revision_takes_the_place_of_the_order_it_revises() -> None:
    shop = Shop()
    (first,) = shop.decide(an_order(placed_at=NOON))
    later = NOON + timedelta(hours=1)

    (revised,) = shop.decide(an_order(revision=1, amount=5000, placed_at=later))
    (following,) = shop.decide(an_order(order_id="o2", placed_at=later + timedelta(hours=1)))

    assert revised.supersedes == first.decision_id
    assert revised.features["orders_count_30d"] == 0, "an order revised is not in its own past"
    assert following.features["orders_count_30d"] == 1, "an order revised counts once"


def test_a_revision_that_arrives_after_a_newer_one_changes_no_history() -> None:
    shop = Shop()
    shop.decide(an_order(revision=2))
    before = shop.rows[0, customer_key("c1")]

    (late,) = shop.decide(an_order(revision=1, amount=5))

    assert late.supersedes is None
    assert shop.rows[0, customer_key("c1")] == before


def test_a_guest_has_no_history_and_leaves_none() -> None:
    shop = Shop()

    decided = shop.decide(an_order(customer_id=None), an_order(order_id="o2", customer_id=None))

    assert [decision.features["orders_count_30d"] for decision in decided] == [None, None]
    assert decided[0].imputed == ("orders_count_30d",)
    assert all(key.startswith(b"o") for _, key in shop.rows)


def test_a_test_order_is_decided_and_never_remembered() -> None:
    shop = Shop()

    shop.decide(an_order(test=True))
    (next_one,) = shop.decide(an_order(order_id="o2", placed_at=NOON + timedelta(hours=1)))

    assert next_one.features["orders_count_30d"] == 0


def test_history_is_remembered_and_never_decided() -> None:
    shop = Shop()

    effects = shop.arrive(as_json(an_order()), headers=(("mode", b"history"),))
    (live,) = shop.decide(an_order(order_id="o2", placed_at=NOON + timedelta(hours=1)))

    assert effects.produce == []
    assert live.features["orders_count_30d"] == 1


def test_an_order_known_from_history_is_decided_when_it_arrives_live_and_counts_once() -> None:
    shop = Shop()
    shop.arrive(as_json(an_order()), headers=(("mode", b"history"),))

    (live,) = shop.decide(an_order())

    assert (live.features["orders_count_30d"], live.repeat_of) == (0, None)
    assert len(Row.decode(shop.rows[0, customer_key("c1")], 100)) == 1


@pytest.mark.parametrize(
    ("value", "reason", "reviewed"),
    [
        (None, b"tombstone", False),
        (b"\xff\xfe", b"bad_utf8", False),
        (b"{", b"not_json", False),
        (b"[" * 100_000, None, False),
        (b"[]", b"not_an_object", False),
        (b'{"order_id": "o1"}', b"missing_field", True),
        (as_json(an_order(), amount="10"), b"wrong_type", True),
        (as_json(an_order(), amount=-1), b"bad_amount", True),
        (as_json(an_order(), amount=10**15), b"bad_amount", True),
        (as_json(an_order(), currency="XXQ"), b"unknown_currency", True),
        (as_json(an_order(), placed_at="2024-05-01T12:00:00"), b"naive_time", True),
        (as_json(an_order(), placed_at="2099-05-01T12:00:00Z"), b"future_time", True),
        (as_json(an_order(), schema_version=99), b"unknown_schema_version", True),
        (as_json(an_order()).replace(b"1000", b"NaN"), b"not_finite", True),
        (as_json(an_order()).replace(b"1000", b"-Infinity"), b"not_finite", True),
    ],
)
def test_bad_input_is_kept_whole_with_its_reason_and_reviewed_where_the_order_can_be_named(
    value: bytes | None, reason: bytes | None, reviewed: bool
) -> None:
    shop = Shop()

    effects = shop.arrive(value, as_json(an_order(order_id="o2")), key=b"c1")

    (kept,) = [p for p in effects.produce if p.topic == "orders-rejected"]
    (why,) = rejects(effects)
    assert (kept.key, kept.value) == (b"c1", value)
    assert reason is None or why["reason"] == reason
    assert why["detail"]
    assert (why["source_topic"], why["source_partition"], why["source_offset"]) == (b"orders", b"0", b"0")
    heard = decisions(effects)
    assert [decision.order_id for decision in heard] == (["o1", "o2"] if reviewed else ["o2"])
    assert heard[0].action is (Action.REVIEW if reviewed else Action.APPROVE)


def test_an_order_under_another_customers_key_is_rejected() -> None:
    effects = Shop().arrive(as_json(an_order()), key=b"c2")

    assert [reject["reason"] for reject in rejects(effects)] == [b"key_mismatch"]


def test_a_flood_of_rejects_stops_the_worker_when_the_breaker_is_set() -> None:
    shop = Shop(reject_share=0.5)
    shop.arrive(*[b"{}"] * 999, key=b"c1")

    with pytest.raises(Refused, match="1000 of the last 1000 orders were rejected"):
        shop.arrive(b"{}", key=b"c1")


def test_a_flood_of_rejects_stops_nothing_when_the_breaker_is_not_set() -> None:
    effects = Shop().arrive(*[b"{}"] * 2000, key=b"c1")

    assert len(rejects(effects)) == 2000


def test_a_record_that_stopped_the_worker_is_set_aside_whole_with_a_review() -> None:
    shop = Shop()
    record = Record("orders", 0, 7, 0, b"c1", as_json(an_order()))

    effects = shop.desk.set_aside(record, lambda *_: None)

    assert [reject["reason"] for reject in rejects(effects)] == [b"scorer_error"]
    (decision,) = decisions(effects)
    assert (decision.order_id, decision.action) == ("o1", Action.REVIEW)


def test_decisions_carry_the_order_id_and_go_to_the_orders_own_partition() -> None:
    effects = Shop().arrive(as_json(an_order()))

    (emitted,) = effects.produce
    assert emitted.partition == 0
    assert emitted.key == b"c1"
    assert dict(emitted.headers)["order_id"] == b"o1"


def test_an_order_is_remembered_under_its_own_key() -> None:
    shop = Shop()
    shop.decide(an_order())

    assert set(shop.rows) == {(0, customer_key("c1")), (0, order_key("o1"))}


def test_keys_find_the_partition_that_javas_murmur2_gives() -> None:
    # the hashes are those of Kafka's own UtilsTest.testMurmur2
    assert [partition_of(key, 10_000) for key in (b"21", b"foobar", b"a-little-bit-long-string")] == [
        (-973932308 & 0x7FFFFFFF) % 10_000,
        (-790332482 & 0x7FFFFFFF) % 10_000,
        (-985981536 & 0x7FFFFFFF) % 10_000,
    ]


def test_an_order_on_a_partition_that_is_not_its_keys_is_counted() -> None:
    shop = Shop()
    shop.desk._partitions = 10_000

    effects = shop.arrive(as_json(an_order()))

    assert effects.counts["orders_misplaced"] == 1
