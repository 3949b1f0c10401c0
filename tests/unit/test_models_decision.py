import json
from typing import Any
from uuid import UUID, uuid5

import pytest
from pydantic import ValidationError

from models.decision import (
    Decision,
    ModelRef,
    Reason,
    Source,
    decision_id,
    decode_decision,
    encode,
    rejected_decision,
    scored_decision,
)
from models.policy import Action

SOURCE = Source(topic="orders", partition=3, offset=41)
MODEL = ModelRef(name="order_risk", version="2026-02-14.3f9c", digest="d" * 64)


def a_decision(**fields: Any) -> Decision:
    parts: dict[str, Any] = {
        "decision_id": an_id(),
        "order_id": "o1",
        "revision": 0,
        "customer_id": "c1",
        "action": Action.REVIEW,
        "p_fraud": 0.25,
        "reasons": (Reason(code="AMOUNT", text="The order's total", feature="amount"),),
        "model": MODEL,
        "policy_digest": "p" * 64,
        "features": {"orders_count_30d": 3.0, "amount": 5000.0, "account_age_days": None},
        "imputed": ("account_age_days",),
        "source": SOURCE,
    }
    return scored_decision(**(parts | fields))


def an_id(**fields: Any) -> UUID:
    parts: dict[str, Any] = {
        "order_id": "o1",
        "revision": 0,
        "content_digest": b"\x01" * 16,
        "model_digest": "m",
        "policy_digest": "p",
        "source": SOURCE,
    }
    return decision_id(**(parts | fields))


def test_the_quick_way_builds_what_the_contract_accepts() -> None:
    quick = a_decision()
    assert Decision(**dict(quick)) == quick
    assert quick.score == 250
    assert quick.model_fields_set == set(Decision.model_fields)


def test_a_decision_is_written_in_one_way_for_ever() -> None:
    decision = a_decision(customer_id="ü")
    assert (
        encode(decision)
        == (
            f'{{"action":"review","customer_id":"ü","decision_id":"{decision.decision_id}",'
            '"features":{"account_age_days":null,"amount":5000.0,"orders_count_30d":3.0},'
            '"imputed":["account_age_days"],"model":{"digest":"' + "d" * 64 + '","name":"order_risk",'
            '"version":"2026-02-14.3f9c"},"order_id":"o1","p_fraud":0.25,"policy":"' + "p" * 64 + '",'
            '"reasons":[{"code":"AMOUNT","feature":"amount","text":"The order\'s total"}],"repeat_of":null,'
            '"revision":0,"schema_version":1,"score":250,"source":{"offset":41,"others":{},"partition":3,'
            '"topic":"orders"},"supersedes":null}'
        ).encode()
    )


def test_a_decision_survives_the_log() -> None:
    decision = a_decision(repeat_of=UUID(int=1), supersedes=UUID(int=2))
    assert decode_decision(encode(decision)) == decision
    assert decision.action is decode_decision(encode(decision)).action


def test_equal_decisions_have_equal_bytes_however_their_parts_are_ordered() -> None:
    one = a_decision(
        features={"a": 0.0, "b": 1.0},
        source=Source(topic="t", partition=0, offset=0, others={"x": 1, "y": 2}),
    )
    other = a_decision(
        features={"b": 1, "a": -0.0}, source=Source(topic="t", partition=0, offset=0, others={"y": 2, "x": 1})
    )
    assert one == other
    assert encode(one) == encode(other)


def test_json_of_a_decision_is_what_the_contract_writes() -> None:
    decision = a_decision()
    assert json.loads(encode(decision)) == decision.model_dump(mode="json")


@pytest.mark.parametrize(
    "changed",
    [
        {"order_id": "o2"},
        {"revision": 1},
        {"content_digest": b"\x02" * 16},
        {"model_digest": "n"},
        {"policy_digest": "q"},
        {"source": Source(topic="orders", partition=3, offset=42)},
        {"source": Source(topic="orders", partition=4, offset=41)},
        {"source": Source(topic="orders2", partition=3, offset=41)},
        {"source": Source(topic="orders", partition=3, offset=41, others={"outcomes": 7})},
    ],
)
def test_whatever_determines_a_decision_is_in_its_id(changed: dict[str, Any]) -> None:
    assert an_id(**changed) != an_id()


def test_no_two_lists_of_parts_read_the_same() -> None:
    assert an_id(order_id="o1,0", revision=0) != an_id(order_id="o1", revision=0)
    assert an_id(model_digest="m,1:p", policy_digest="p") != an_id(model_digest="m", policy_digest="p,1:p")


def test_the_id_of_a_decision_never_changes() -> None:
    ours = UUID("8f3c1c5e-6a0b-5d5b-9a57-0f6c2f1d7e44")
    assert an_id() == uuid5(ours, f"2:o1,0,{'01' * 16},1:m,1:p,6:orders,3,41")
    others = Source(topic="orders", partition=3, offset=41, others={"outcomes": 7, "control": 1})
    named = f"2:o1,0,{'01' * 16},1:m,1:p,6:orders,3,41,7:control,1,8:outcomes,7"
    assert an_id(source=others) == uuid5(ours, named)


def test_an_unreadable_order_goes_to_a_person_and_names_no_model() -> None:
    decision = rejected_decision(
        order_id="o1",
        customer_id=None,
        code="bad_amount",
        text="the amount is not a whole number of minor units",
        content_digest=b"\x01" * 16,
        policy_digest="p" * 64,
        source=SOURCE,
    )
    assert decision.action is Action.REVIEW
    assert (decision.model, decision.p_fraud, decision.score, decision.features) == (None, None, None, {})
    assert [reason.code for reason in decision.reasons] == ["bad_amount"]
    assert decode_decision(encode(decision)) == decision


@pytest.mark.parametrize(
    "wrong",
    [
        {"p_fraud": None},
        {"model": None},
        {"score": 251},
        {"p_fraud": 1.5, "score": 1000},
        {"reasons": (Reason(code="A", text="a"),) * 6},
        {"features": {"amount": float("inf")}},
        {"action": "shrug"},
        {"revision": -1},
    ],
)
def test_a_decision_that_contradicts_itself_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Decision(**(dict(a_decision()) | wrong))


def test_a_decision_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        a_decision().action = Action.APPROVE  # type: ignore[misc]


def test_a_field_added_later_does_not_stop_an_older_reader() -> None:
    later = json.dumps(json.loads(encode(a_decision())) | {"mood": "good"}).encode()
    assert decode_decision(later) == a_decision()
