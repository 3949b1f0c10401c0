"""An order on its road: from home through the stages of other entities to its one decision."""

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregates import Count
from features.catalogue import amount
from features.define import Feature, days
from features.events import Order, OrderEvent, Outcome
from features.facts import Fact
from features.fast import read_usual
from features.history import Row
from models.decision import ModelRef
from models.policy import Action
from models.scorer import Scored
from stream.control import ControlState
from stream.keeping import CLOCK, PASSED, ROWS, Horizons
from stream.passed import Passed, Place
from stream.ports import Effects, Produce, Record, Refused
from stream.road import Home, Passing, PassingBytesError, Road, Travelling, partition_of, written
from tests.small_desk import Shop, decisions, rejects
from tests.strategies import NOON, an_order, as_json, orders

DAY = timedelta(days=1)
OF_CUSTOMER, OF_DEVICE, OF_MERCHANT = FEATURES = (
    Count(over=days(30)),
    Count(over=days(30), by="device"),
    Count(over=days(30), by="merchant"),
)
NAMES = tuple(each.name for each in FEATURES)
FRAUD = Count("fraud", over=days(90), by="device")


class Telling:
    """A scorer by customer, device and merchant."""

    name, version, digest = "telling", "2026-01-01.0000", "d" * 64
    ref = ModelRef(name=name, version=version, digest=digest)

    def __init__(self, *features: Feature) -> None:
        self.features = features or FEATURES

    def score(self, vectors: Sequence[Sequence[float | None]]) -> list[Scored]:
        return [Scored(0.0, (), ()) for _ in vectors]


def a_shop(**options: Any) -> Shop:
    fields = {"scorer": Telling(), "entities": ("device", "merchant"), "partitions": 4} | options
    return Shop(**fields)


def values(decision: Any) -> tuple[float | None, ...]:
    """Those by customer, device and merchant."""
    return tuple(decision.features[name] for name in NAMES)


def placed(number: int, **fields: Any) -> Order:
    named = {"customer_id": f"c{number}", "device_id": "d1", "merchant_id": "m1"} | fields
    return an_order(order_id=f"o{number}", placed_at=NOON + timedelta(minutes=number), **named)


def arrive(shop: Shop, *values: Order, **fields: Any) -> list[Any]:
    return decisions(shop.arrive(*(as_json(each) for each in values), **fields))


def fraud(order: Order, **fields: Any) -> Outcome:
    told = {"kind": "chargeback", "is_fraud": True, "occurred_at": NOON, "known_at": NOON + DAY}
    return Outcome(order_id=order.order_id, customer_id=order.customer_id, **told | fields)


def tell(shop: Shop, *events: Outcome | OrderEvent, topic: str = "outcomes") -> Effects:
    return shop.arrive(*(each.model_dump_json().encode() for each in events), topic=topic)


# The message --------------------------------------------------------------------------------------


@given(orders(), st.lists(st.none() | st.floats(allow_nan=False), max_size=5), st.booleans())
def test_a_message_says_after_its_bytes_what_it_said_before(
    order: Order, values: list[float | None], known: bool
) -> None:
    fact = Fact(order.order_id, order.placed_at, "fraud", True, NOON, order.amount, order.currency)
    travelling = Travelling(
        *(written(order), order.content_digest, known, not known, known, b"1" * 16, None),
        *(b"2" * 16 if known else None, "a\nb", values, {"orders-by-device": (3, 4)}),
    )
    passing = Passing(
        *(Home("orders", 1, 2, 3, 4, {"control": 5}), order.order_id, order.key.encode()),
        *({"device": "d1"}, 1, order.placed_at, {}, None, (fact,), (), travelling),
    )

    again = Passing.decode(passing.encode())

    assert again == passing
    assert again.order().content_digest == order.content_digest
    told = read_usual(as_json(order), key=order.key.encode(), arrived_at=None, ahead_by_at_most=DAY)
    assert told is None or written(told) == written(again.order())


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_but_a_message_are_taken_for_one(value: bytes, close: bool) -> None:
    with pytest.raises(PassingBytesError):
        Passing.decode(b"road\1" + value if close else value)


def test_a_message_of_a_newer_version_stops_the_worker_and_loses_no_order() -> None:
    shop = a_shop()

    with pytest.raises(Refused, match="version 2 and this program reads up to 1"):
        shop.take([shop.record("orders-by-device", 0, b"d1", b"road\x02rest")])


def test_what_is_no_message_is_set_aside_and_stops_nothing() -> None:
    shop = a_shop()
    strange = shop.record("orders-by-device", 2, b"d1", b"{}")

    effects = shop.take([strange])

    (reject,) = rejects(effects)
    assert reject["reason"] == b"not_a_message"
    assert reject["source_topic"] == b"orders-by-device"
    assert decisions(effects) == []
    assert len(arrive(shop, placed(1))) == 1


def test_a_message_goes_to_the_partition_of_its_entity_and_says_when_it_arrived() -> None:
    shop = a_shop()
    value = as_json(placed(1))
    partition = partition_of(b"c1", 4)

    effects = shop.desk.decide(
        [Record("orders", partition, 0, 1_800_000_000_000, b"c1", value)], lambda *_: None
    )

    (sent,) = effects.produce
    assert isinstance(sent, Produce)
    assert (sent.topic, sent.key, sent.partition) == ("orders-by-device", b"d1", partition_of(b"d1", 4))
    assert dict(sent.headers)["arrived_at"] == b"1800000000000"


def test_what_arrived_elsewhere_before_says_so_at_every_stage() -> None:
    shop = a_shop()
    where = partition_of(b"c1", 4)
    before = (("arrived_at", b"1700000000000"),)

    shop.only([shop.record("orders", where, b"c1", as_json(placed(1)), before)])
    (at_device,) = shop.waiting
    shop.go_on(Effects())
    (at_merchant,) = shop.waiting

    assert (at_device.topic, at_merchant.topic) == ("orders-by-device", "orders-by-merchant")
    for each in (at_device, at_merchant):
        assert dict(each.headers)["arrived_at"] == b"1700000000000"


def test_a_message_has_the_same_bytes_however_records_are_batched() -> None:
    """Of outcomes and order events whichever came first may be in the same batch or in one before."""
    refund = OrderEvent(
        order_id="o1", customer_id="c1", kind="refunded", occurred_at=NOON, known_at=NOON + DAY
    )
    values = {
        "order-events": refund.model_dump_json().encode(),
        "outcomes": fraud(placed(1)).model_dump_json().encode(),
        "orders": as_json(placed(1)),
    }
    where = partition_of(b"c1", 4)
    together, apart = a_shop(), a_shop()

    together.only([together.record(topic, where, b"c1", value) for topic, value in values.items()])
    for topic, value in values.items():
        apart.only([apart.record(topic, where, b"c1", value)])

    assert [each.value for each in together.waiting] == [each.value for each in apart.waiting]


def test_facts_go_the_way_of_their_order_and_so_never_overtake_it() -> None:
    road = Road({"device": "orders-by-device", "merchant": "orders-by-merchant"}, 4)
    home = Home("outcomes", 0, 0, 0, 0, {})
    facts = Passing(home, "o1", b"c1", {"merchant": "m1"}, 1, NOON, {}, None, (), (), None)

    first = road.sent(facts)
    assert first is not None
    assert (first.topic, first.key) == ("orders-by-device", b"o1"), "as an order that names no device"
    then = road.sent(facts, "device")
    assert then is not None
    assert (then.topic, then.key) == ("orders-by-merchant", b"m1")
    assert road.sent(facts, "merchant") is None


def test_facts_go_no_further_than_their_order_names_an_entity() -> None:
    road = Road({"device": "orders-by-device", "merchant": "orders-by-merchant"}, 4)
    home = Home("outcomes", 0, 0, 0, 0, {})

    assert road.sent(Passing(home, "o1", b"c1", {}, 1, NOON, {}, None, (), (), None)) is None
    of_a_device = Passing(home, "o1", b"c1", {"device": "d1"}, 1, NOON, {}, None, (), (), None)
    assert road.sent(of_a_device, "device") is None


# Orders -------------------------------------------------------------------------------------------


def test_an_order_is_looked_at_with_the_history_of_each_entity_and_decided_once() -> None:
    shop = a_shop()

    said = [arrive(shop, placed(number, customer_id=f"c{number % 2}"))[0] for number in range(4)]

    assert [values(each) for each in said] == [(0, 0, 0), (0, 1, 1), (1, 2, 2), (1, 3, 3)]


def test_the_decision_is_at_home_and_says_where_the_order_passed() -> None:
    shop = a_shop()

    effects = shop.arrive(as_json(placed(1)))

    (made,) = [each for each in effects.produce if each.topic == "decisions"]
    headers = dict(made.headers)
    assert (made.partition, made.key) == (partition_of(b"c1", 4), b"c1")
    assert headers["order_arrived_at"] == b"1800000000000"
    assert json.loads(headers["stages"]) == {
        "orders-by-device": [partition_of(b"d1", 4), 0],
        "orders-by-merchant": [partition_of(b"m1", 4), 0],
    }
    (decision,) = decisions(effects)
    assert (decision.source.topic, decision.source.partition) == ("orders", partition_of(b"c1", 4))


def test_without_further_entities_an_order_goes_no_road_and_its_decision_has_no_word_of_one() -> None:
    shop = a_shop(entities=(), scorer=Telling(OF_CUSTOMER))

    effects = shop.arrive(as_json(placed(1)))

    (made,) = effects.produce
    assert "stages" not in dict(made.headers)
    assert decisions(effects)[0].source.others == {}


def test_an_order_that_names_no_entity_is_decided_with_their_features_unknown() -> None:
    shop = a_shop()
    arrive(shop, placed(1))

    (decision,) = arrive(shop, placed(2, device_id=None, merchant_id=None))

    assert values(decision) == (0, None, None)


@pytest.mark.parametrize("at_once", [1, None])
def test_a_resend_hears_at_the_end_of_its_road_what_it_heard_the_first_time(at_once: int | None) -> None:
    shop = a_shop(at_once=at_once)
    order = placed(1)
    first, *_ = arrive(shop, order, placed(2), placed(3))

    (again,) = arrive(shop, order)

    assert (again.repeat_of, again.features) == (first.decision_id, first.features)
    assert again.decision_id != first.decision_id
    assert again.source.offset == first.source.offset + 1
    assert len(shop.row("device", "d1")) == len(shop.row("merchant", "m1")) == 3


def test_a_resend_hears_what_it_heard_although_more_is_known_of_what_came_before() -> None:
    shop = a_shop()
    (first,) = arrive(shop, placed(2))
    arrive(shop, placed(1))

    (again,) = arrive(shop, placed(2))

    assert (again.repeat_of, again.features) == (first.decision_id, first.features)


def test_a_resend_in_the_same_batch_hears_the_same() -> None:
    shop = a_shop()

    first, again = arrive(shop, placed(1), placed(1))

    assert (again.repeat_of, again.features) == (first.decision_id, first.features)


def test_a_resend_whose_decision_was_made_at_home_hears_it_there() -> None:
    """Before the entities were turned on there was no stage that could have it."""
    shop = a_shop(entities=())
    (first,) = arrive(shop, placed(1))
    later = a_shop()
    later.rows, later.ends = shop.rows, shop.ends

    (again,) = arrive(later, placed(1))

    assert again.repeat_of == first.decision_id
    assert later.ends["orders-by-device", partition_of(b"d1", 4)] == 0


def test_a_resend_whose_decision_is_nowhere_any_more_is_decided_anew_and_says_what_it_repeats() -> None:
    shop = a_shop()
    (first,) = arrive(shop, placed(1))
    shop.rows = {at: row for at, row in shop.rows.items() if at[1][:1] != PASSED}

    (again,) = arrive(shop, placed(1))

    assert again.repeat_of == first.decision_id
    assert again.decision_id != first.decision_id
    assert len(shop.row("device", "d1")) == 1


def test_history_is_remembered_at_every_stage_and_decided_nowhere() -> None:
    shop = a_shop()

    assert arrive(shop, placed(1), headers=(("mode", b"history"),)) == []

    assert "o1" in shop.row("device", "d1")
    assert "o1" in shop.row("merchant", "m1")
    (decision,) = arrive(shop, placed(1))
    assert decision.repeat_of is None
    assert len(shop.row("device", "d1")) == 1


def test_a_test_order_is_decided_and_remembered_nowhere() -> None:
    shop = a_shop()

    (decision,) = arrive(shop, placed(1, test=True))

    assert decision.features[NAMES[1]] == 0
    assert len(shop.row("device", "d1")) == len(shop.row("merchant", "m1")) == 0


def test_a_guest_has_no_customers_history_but_that_of_its_device() -> None:
    shop = a_shop()
    arrive(shop, placed(1, customer_id=None))

    (decision,) = arrive(shop, placed(2, customer_id=None))

    assert values(decision) == (None, 1, 1)


def test_a_revision_leaves_the_histories_it_is_not_in_any_more() -> None:
    shop = a_shop()
    arrive(shop, placed(1))

    (decision,) = arrive(shop, placed(1, revision=1, device_id="d2"))

    assert "o1" not in shop.row("device", "d1")
    assert "o1" in shop.row("device", "d2")
    assert len(shop.row("merchant", "m1")) == 1
    assert values(decision) == (0, 0, 0), "it is no part of its own past"
    assert decision.supersedes is not None


def test_an_order_is_decided_under_the_control_state_that_home_saw() -> None:
    state = [ControlState("g")]
    shop = a_shop(in_force=lambda: state[0])
    live = shop.only([shop.record("orders", partition_of(b"c1", 4), b"c1", as_json(placed(1)))])
    assert live.produce == []
    told = {"kind": "observe", "group": "g", "who": "anna", "why": "a test"}
    state[0] = state[0].after(Record("control", 0, 0, 0, None, json.dumps(told).encode()))

    effects = Effects()
    while shop.waiting:
        shop.go_on(effects)

    assert [each.topic for each in effects.produce] == ["decisions"]
    assert decisions(effects)[0].source.others == {"control": 0}
    observed = shop.arrive(as_json(placed(2)))
    assert [each.topic for each in observed.produce] == ["decisions-shadow"]
    assert decisions(observed, "decisions-shadow")[0].source.others == {"control": 1}


def test_a_worker_with_another_model_decides_with_what_both_know() -> None:
    shop = a_shop()
    arrive(shop, placed(1))
    shop.only([shop.record("orders", partition_of(b"c2", 4), b"c2", as_json(placed(2)))])
    other = a_shop(scorer=Telling(amount, OF_CUSTOMER, OF_MERCHANT))
    other.rows, other.waiting, other.ends = shop.rows, shop.waiting, shop.ends

    effects = Effects()
    while other.waiting:
        other.go_on(effects)

    (decision,) = decisions(effects)
    assert decision.features == {"amount": None, NAMES[0]: 0, NAMES[2]: 1}
    assert effects.counts["orders_of_another_model"] == 1


def test_an_order_that_stops_the_worker_at_a_stage_is_set_aside_with_a_review_at_home() -> None:
    shop = a_shop()
    shop.only(
        [shop.record("orders", partition_of(b"c1", 4), b"c1", as_json(placed(1)), at=1_800_000_000_000)]
    )
    (waiting,) = shop.waiting

    effects = shop.desk.set_aside(waiting, lambda *_: None)

    (decision,) = decisions(effects)
    assert (decision.order_id, decision.customer_id, decision.action) == ("o1", "c1", Action.REVIEW)
    assert decision.source.topic == "orders"
    (made,) = [each for each in effects.produce if each.topic == "decisions"]
    assert made.partition == partition_of(b"c1", 4)
    assert rejects(effects)[0]["source_topic"] == b"orders-by-device"


# What became of orders ----------------------------------------------------------------------------


def test_an_outcome_is_known_to_every_history_the_order_stands_in() -> None:
    shop = a_shop(scorer=Telling(FRAUD))
    order = placed(1)
    arrive(shop, order)

    effects = tell(shop, fraud(order))

    assert effects.counts["outcomes"] == 1
    (decision,) = arrive(
        shop, an_order(order_id="o9", customer_id="c9", device_id="d1", placed_at=NOON + 2 * DAY)
    )
    assert decision.features == {FRAUD.name: 1}
    assert decision.source.others == {}, "its own partition had no outcome"
    (decision,) = arrive(
        shop, an_order(order_id="o8", customer_id="c1", device_id="d1", placed_at=NOON + 2 * DAY)
    )
    assert decision.source.others == {"outcomes": 1}


def test_an_outcome_waits_for_its_order() -> None:
    shop = a_shop()
    order = placed(1)

    effects = tell(shop, fraud(order), fraud(order))
    assert effects.counts["outcomes_waiting"] == 1
    assert effects.counts["outcomes_repeated"] == 1
    arrive(shop, order)

    for row in (shop.row("customer", "c1"), shop.row("device", "d1"), shop.row("merchant", "m1")):
        assert row.as_of(NOON + 2 * DAY).known_at("fraud") is not None


def test_an_order_takes_what_became_of_it_along_when_it_is_revised() -> None:
    shop = a_shop()
    order = placed(1)
    arrive(shop, order)
    tell(shop, fraud(order))

    arrive(shop, placed(1, revision=1, device_id="d2"))

    later = NOON + 2 * DAY
    assert shop.row("device", "d1").as_of(later).known_at("fraud") is None
    assert shop.row("device", "d2").as_of(later).known_at("fraud") is not None
    assert shop.row("customer", "c1").as_of(later).known_at("fraud") is not None


def test_what_is_told_of_an_order_after_it_has_left_a_history_is_not_learned_there() -> None:
    """A fact comes through the device's stage, and that the order has left straight from home."""
    shop = a_shop()
    order = placed(1)
    arrive(shop, order)
    home = partition_of(b"c1", 4)
    shop.only([shop.record("outcomes", home, b"c1", fraud(order).model_dump_json().encode())])
    elsewhere = next(f"m{n}" for n in range(2, 99) if partition_of(b"m%d" % n, 4) != partition_of(b"m1", 4))
    revised = placed(1, revision=1, merchant_id=elsewhere)
    shop.only([shop.record("orders", home, b"c1", as_json(revised))])
    assert [each.topic for each in shop.waiting].count("orders-by-merchant") == 1, "it is told to forget"

    while shop.waiting:
        shop.go_on(Effects())  # of the last stage first

    assert shop.row("merchant", "m1").encode() == Row(100).encode()
    assert shop.row("merchant", elsewhere).as_of(NOON + 2 * DAY).known_at("fraud") is not None


def test_an_order_stands_where_its_newest_revision_says_whichever_comes_first() -> None:
    first, second, third = (Place(named, NOON) for named in ("d1", "d2", "d3"))
    passed = Passed()
    assert passed.put(3, third, second) == ([third], True), "the first might have stood just there"

    assert passed.put(2, second, first) == ([first], False)
    assert passed.put(1, first, None) == ([], False)

    assert passed.place == third


def test_what_was_superseded_before_it_was_known_is_known_to_no_history() -> None:
    shop = a_shop()
    order = placed(1)
    arrive(shop, order)
    tell(shop, fraud(order, outcome_id="x1", known_at=NOON + 2 * DAY))

    tell(shop, fraud(order, outcome_id="x2", supersedes="x1", is_fraud=False, kind="confirmed_legitimate"))

    for row in (shop.row("customer", "c1"), shop.row("device", "d1"), shop.row("merchant", "m1")):
        assert row.as_of(NOON + 3 * DAY).known_at("fraud") is None


def test_an_order_event_is_known_to_every_history_too() -> None:
    shop = a_shop()
    order = placed(1)
    arrive(shop, order)

    refund = OrderEvent(
        order_id="o1", customer_id="c1", kind="refunded", occurred_at=NOON, known_at=NOON + DAY
    )
    effects = tell(shop, refund, topic="order-events")

    assert effects.counts["order_events"] == 1
    assert shop.row("merchant", "m1").as_of(NOON + 2 * DAY).known_at("refunded") is not None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", b"not_json"),
        (None, b"tombstone"),
        (b'{"order_id": "o1"}', b"missing_field"),
        (fraud(placed(1), known_at=NOON + 40_000 * DAY).model_dump_json().encode(), b"future_time"),
        (fraud(placed(2)).model_dump_json().encode(), b"key_mismatch"),
    ],
)
def test_a_bad_outcome_is_set_aside_with_its_reason_and_reviews_nothing(
    value: bytes | None, reason: bytes
) -> None:
    shop = a_shop(reject_share=0.1)

    effects = shop.arrive(value, key=b"c1", topic="outcomes")

    assert [each["reason"] for each in rejects(effects)] == [reason]
    assert [each.topic for each in effects.produce] == ["orders-rejected"]
    assert shop.desk.share_rejected == 0.0, "the breaker is about orders"


# Forgetting ---------------------------------------------------------------------------------------


def test_each_stage_forgets_by_its_own_time() -> None:
    horizons = Horizons.of_days(rows=30, orders=10)
    shop = a_shop(partitions=1, horizons=horizons)
    arrive(shop, placed(1))
    late = an_order(order_id="o2", customer_id="c2", merchant_id="m1", placed_at=NOON + 60 * DAY)

    (decision,) = arrive(shop, late)
    effects = shop.desk.decide([], lambda n, key: shop.rows.get((n, key)))
    (again,) = arrive(
        shop, an_order(order_id="o3", customer_id="c3", device_id="d1", merchant_id="m1", placed_at=NOON)
    )

    assert decision.features[NAMES[2]] == 0
    assert effects.gone_before == {}
    assert again.features[NAMES[1]] == 0
    assert (0, CLOCK + ROWS["device"]) in shop.rows


def test_what_may_go_at_a_stage_is_told_to_whoever_evicts() -> None:
    shop = a_shop(partitions=1, horizons=Horizons.of_days(rows=30, orders=10))
    gone: dict[bytes, int] = {}
    commit = shop.commit
    shop.commit = lambda effects: (gone.update(effects.gone_before.get(0, {})), commit(effects))[1]  # type: ignore[method-assign]

    arrive(shop, placed(1))

    assert set(gone) == {ROWS["device"], ROWS["merchant"], PASSED}
    assert gone[PASSED] - gone[ROWS["device"]] == 20 * 86_400_000_000


@pytest.mark.parametrize("order_of_coming", list(permutations((1, 2, 3))))
def test_an_order_that_comes_back_to_where_it_stood_first_is_there_once(
    order_of_coming: tuple[int, ...],
) -> None:
    """The second change of place leads to another partition, so that all three may overtake each other."""
    here = Place("d1", NOON)
    changes = {1: (1, here, None), 2: (2, None, here), 3: (3, here, None)}
    passed, held = Passed(), 0

    for each in order_of_coming:
        taken_out, enters = passed.put(*changes[each])
        held -= sum(place == here and held > 0 for place in taken_out)
        held += enters

    assert held == 1
