"""The desk: what a batch of orders changes and emits."""

from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from features.events import Order
from features.history import Row
from models.policy import Action
from stream.desk import KINDS, customer_key, kept_of, order_key, partition_of
from stream.ports import Record, Refused
from tests.small_desk import Shop, decisions, rejects
from tests.strategies import NOON, an_order, as_json


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

    assert again.features == first.features == {"orders_count_30d": 0, "amount": 10}


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

    with pytest.raises(Refused, match=r"1000 of the last 1000 orders were rejected.*orders-rejected"):
        shop.arrive(b"{}", key=b"c1")


def test_a_batch_tried_again_does_not_count_its_rejects_twice() -> None:
    shop = Shop(reject_share=0.5)
    shop.arrive(*[as_json(an_order(order_id=f"o{n}")) for n in range(600)])
    bad = [Record("orders", 0, 600 + n, 0, b"c1", b"{}") for n in range(400)]

    tries = [shop.desk.decide(bad, lambda *_: None) for _ in range(5)]
    shop.commit(tries[0])

    assert shop.arrive(b"{}", key=b"c1").counts["rejected"] == 1


def test_history_that_cannot_be_read_is_kept_and_neither_reviewed_nor_counted_by_the_breaker() -> None:
    shop = Shop(reject_share=0.5)

    effects = shop.arrive(*[as_json(an_order(), amount=-1)] * 1001, headers=(("mode", b"history"),))
    (live,) = shop.decide(an_order())

    assert len(rejects(effects)) == 1001
    assert decisions(effects) == []
    assert live.action is Action.APPROVE


def test_history_that_stopped_the_worker_is_set_aside_without_a_review() -> None:
    record = Record("orders", 0, 7, 0, b"c1", as_json(an_order()), (("mode", b"history"),))

    effects = Shop().desk.set_aside(record, lambda *_: None)

    assert [reject["reason"] for reject in rejects(effects)] == [b"scorer_error"]
    assert decisions(effects) == []


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
    shop = Shop(partitions=10_000)
    record = shop.record("orders", 0, b"c1", as_json(an_order()))
    assert partition_of(b"c1", 10_000) != 0

    effects = shop.take([record])

    assert effects.counts["orders_misplaced"] == 1


def counted(shop: Shop, *orders: Order) -> dict[str, int]:
    """How many of each kind the orders were, decided one by one."""
    counts: Counter[str] = Counter()
    for order in orders:
        counts += shop.arrive(as_json(order)).counts
    return {kind: counts["orders_" + kind] for kind in KINDS if counts["orders_" + kind]}


def hours_later(order_id: str, hours: int, **fields: Any) -> Order:
    return an_order(order_id=order_id, placed_at=NOON + timedelta(hours=hours), **fields)


def test_an_order_that_comes_after_one_placed_later_is_counted_as_late() -> None:
    told = [an_order(), hours_later("o2", 2), hours_later("o3", 1)]

    assert counted(Shop(), *told) == {"late": 1}
    assert counted(Shop(), *sorted(told, key=lambda order: order.placed_at)) == {}


def test_orders_of_the_same_instant_are_not_late() -> None:
    assert counted(Shop(), an_order(), an_order(order_id="o2")) == {}


def test_an_order_of_history_that_comes_late_is_counted_as_late() -> None:
    shop = Shop()
    shop.arrive(as_json(hours_later("o2", 2)), headers=(("mode", b"history"),))

    assert shop.arrive(as_json(an_order()), headers=(("mode", b"history"),)).counts["orders_late"] == 1


def test_guests_and_test_orders_are_counted_once_however_often_they_are_sent() -> None:
    guest, test = an_order(customer_id=None), an_order(order_id="o2", test=True)

    assert counted(Shop(), guest, guest, test, test, test) == {"guest": 1, "test": 1}


def test_a_revision_is_counted_when_it_takes_another_out_of_a_history() -> None:
    shop = Shop()

    assert counted(shop, an_order(revision=1), an_order(amount=7)) == {}
    assert counted(shop, an_order(revision=2, amount=9)) == {"revised": 1}


def test_a_revision_of_an_order_too_old_to_be_taken_out_is_told_from_the_others() -> None:
    shop = Shop()
    shop.decide(*(hours_later(f"o{number}", number) for number in range(150)))  # 100 are held one by one

    assert counted(shop, hours_later("o0", 0, revision=1)) == {"revised_folded": 1, "late": 1}


def test_an_order_decided_on_an_approximate_history_is_counted() -> None:
    shop = Shop()
    shop.decide(*(hours_later(f"o{number}", 6 * number) for number in range(130)))

    assert counted(shop, hours_later("next", 6 * 130)) == {"approximate": 1}  # its 30 days cut a tile in two
    assert counted(Shop(), hours_later("next", 6 * 130)) == {}


@pytest.mark.parametrize("batches", [1, 3])
def test_a_revision_that_is_a_test_order_takes_the_order_out_of_history(batches: int) -> None:
    shop = Shop()
    told = [
        an_order(),
        an_order(revision=1, test=True),
        an_order(order_id="o2", placed_at=NOON + timedelta(hours=1)),
    ]

    heard = shop.decide(*told) if batches == 1 else [shop.decide(order)[0] for order in told]

    assert heard[2].features["orders_count_30d"] == 0
    assert len(Row.decode(shop.rows[0, customer_key("c1")], 100)) == 1


@pytest.mark.parametrize("batches", [1, 4])
def test_an_order_that_changes_its_customer_leaves_the_first_ones_history(batches: int) -> None:
    shop = Shop()
    later = NOON + timedelta(hours=1)
    told = [
        an_order(),
        an_order(revision=1, customer_id="c2"),
        an_order(order_id="o2", placed_at=later),
        an_order(order_id="o3", placed_at=later, customer_id="c2"),
    ]

    heard = shop.decide(*told) if batches == 1 else [shop.decide(order)[0] for order in told]

    assert [decision.features["orders_count_30d"] for decision in heard] == [0, 0, 0, 1]


def test_a_review_names_the_revision_that_was_rejected() -> None:
    shop = Shop()
    shop.decide(an_order(revision=3))

    (unreadable,) = decisions(shop.arrive(as_json(an_order(revision=2), amount=-1)))
    (conflicting,) = decisions(shop.arrive(as_json(an_order(revision=3, amount=9))))
    aside = Record("orders", 0, 7, 0, b"c1", as_json(an_order(revision=5)))
    (set_aside,) = decisions(shop.desk.set_aside(aside, lambda *_: None))

    assert [unreadable.revision, conflicting.revision, set_aside.revision] == [2, 3, 5]


def test_an_order_revised_again_and_again_stays_small_and_is_rejected_in_the_end() -> None:
    shop = Shop()
    for revision in range(100):
        shop.decide(an_order(revision=revision))

    effects = shop.arrive(as_json(an_order(revision=100)))

    assert [reject["reason"] for reject in rejects(effects)] == [b"too_many_revisions"]
    assert [decision.revision for decision in decisions(effects)] == [100]
    assert len(shop.rows[0, order_key("o1")]) < 100_000


@pytest.mark.parametrize("batches", [1, 21])
def test_a_resend_of_a_revision_long_replaced_hears_the_same_in_fewer_words(batches: int) -> None:
    shop = Shop()
    told = [an_order(revision=revision) for revision in range(20)]
    told += told[:1]

    heard = shop.decide(*told) if batches == 1 else [shop.decide(order)[0] for order in told]

    first, again = heard[0], heard[20]
    fewer = {"decision_id", "repeat_of", "source", "features", "imputed", "reasons"}
    assert again.repeat_of == first.decision_id
    assert again.model_dump(exclude=fewer) == first.model_dump(exclude=fewer)
    assert (again.features, again.reasons) == ({}, ())


def test_a_record_too_large_is_kept_in_part_and_says_where_it_stands_whole() -> None:
    value = as_json(an_order(), channel="x" * 3_000_000)

    effects = Shop().arrive(value, key=b"c1")

    (kept,) = effects.produce
    why = dict(kept.headers)
    assert why["reason"] == b"too_large"
    assert (kept.value, why["value_bytes"]) == (value[: 1024 * 1024], str(len(value)).encode())
    assert why["detail"].endswith(b"; the whole record stands in topic orders, partition 0, offset 0")


@pytest.mark.parametrize("value", [as_json(an_order()), b"{}"])
def test_a_record_that_stopped_the_worker_is_set_aside_whatever_its_size(value: bytes) -> None:
    headers = tuple((f"h{number}", b"x" * 1_000) for number in range(4_000))
    record = Record("orders", 0, 7, 0, b"k" * 5_000_000, value + b" " * 5_000_000, headers)

    effects = Shop().desk.set_aside(record, lambda *_: None)

    (kept,) = [each for each in effects.produce if each.topic == "orders-rejected"]
    size = len(kept.key or b"") + len(kept.value or b"") + sum(len(n) + len(v) for n, v in kept.headers)
    assert size < 2 * 1024 * 1024 - 4_096


def test_what_fits_is_kept_whole() -> None:
    headers = (("trace", b"x" * 100_000),)
    record = Record("orders", 0, 7, 0, b"k" * 65_536, b"v" * 1_572_864, headers)

    kept = kept_of(record)

    assert (kept.key, kept.value, kept.headers, kept.cuts) == (record.key, record.value, headers, ())


def test_what_is_cut_off_is_said() -> None:
    headers = (("trace", b"x" * 131_072), ("null", None))
    record = Record("orders", 0, 7, 0, b"k" * 65_537, b"v" * 1_572_865, headers)  # type: ignore[arg-type]

    kept = kept_of(record)

    assert (kept.key, kept.value, kept.headers) == (b"k" * 65_536, b"v" * 1_048_576, ())
    assert dict(kept.cuts) == {
        "value_bytes": b"1572865",
        "key_bytes": b"65537",
        "headers_bytes": str(5 + 131_072 + 4).encode(),
    }


@pytest.mark.parametrize("order_id", ["x" * 129, "a\0b", 7])
def test_an_id_that_cannot_be_one_is_in_no_decision(order_id: object) -> None:
    record = Record("orders", 0, 7, 0, b"c1", as_json(an_order(), order_id=order_id))

    assert decisions(Shop().desk.set_aside(record, lambda *_: None)) == []


@pytest.mark.parametrize("key", [customer_key("c1"), order_key("o1")])
def test_a_row_of_a_newer_version_refuses_and_rejects_no_order(key: bytes) -> None:
    shop = Shop()
    shop.decide(an_order())
    kept = shop.rows[0, key]
    shop.rows[0, key] = bytes([200]) + kept[1:] if key[:1] == b"c" else msgspec.msgpack.encode([9, {"a": 1}])

    with pytest.raises(Refused, match="version"):
        shop.decide(an_order(order_id="o1", revision=1))


@pytest.mark.parametrize("batches", [1, 2])
def test_a_revision_supersedes_no_decision_that_came_after_it(batches: int) -> None:
    shop = Shop()
    shop.arrive(as_json(an_order()), headers=(("mode", b"history"),))
    told = [an_order(revision=1), an_order()]

    heard = shop.decide(*told) if batches == 1 else [shop.decide(order)[0] for order in told]

    assert [decision.supersedes for decision in heard] == [None, None]


def test_a_senders_own_reason_does_not_stand_for_ours() -> None:
    effects = Shop().arrive(b"{}", key=b"c1", headers=(("reason", b"all is well"),))

    (why,) = rejects(effects)
    assert why["reason"] == b"missing_field"
