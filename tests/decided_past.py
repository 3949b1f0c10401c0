"""Orders with what was decided about them and what they turned out to be, recorded in lists."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from models.policy import Policy, score_of
from stream.ports import Headers, Record
from stream.replay import Opened
from tests.recorded import a_record, opens

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=100)
"""When all of it was recorded."""
SHADOW: Headers = (("mode", b"shadow"),)
POLICY = Policy(review_at=0.2, decline_at=0.8)
P = {"approve": 0.1, "review": 0.5, "decline": 0.9}


class DecidedPast:
    """Orders with their decisions, put down one after the other in one partition."""

    control = 0
    """How far the control topic was read when the next order is decided."""
    policy = POLICY
    """The thresholds of whoever says something of it."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = {
            "orders": [], "decisions": [], "decisions-shadow": [], "outcomes": [],
        }  # fmt: skip

    def put(self, topic: str, customer: str, content: Mapping[str, Any], headers: Headers = ()) -> int:
        records = self.topics[topic]
        value = json.dumps(content).encode()
        records.append(
            a_record(
                topic,
                0,
                len(records),
                int(LATER.timestamp() * 1000),
                value,
                key=customer.encode(),
                headers=headers,
            )
        )
        return len(records) - 1

    def order(
        self,
        number: int,
        champion: str,
        challenger: str | None,
        *,
        became: bool | None = None,
        headers: Headers = SHADOW,
        p: float | None = None,
        features: Mapping[str, float | None] | None = None,
        **fields: Any,
    ) -> None:
        customer = f"c{number}"
        order = {
            "order_id": f"o{number}",
            "customer_id": customer,
            "placed_at": (NOON + timedelta(minutes=number)).isoformat(),
            "amount": 10_000,
            "currency": "EUR",
        } | fields
        offset = self.put("orders", customer, order)
        known: dict[str, Any] = {"p": p, "features": {"amount": 100.0} if features is None else features}
        known |= {"control": self.control, "policy": self.policy}
        said = a_decision(order, offset, "old@2026-01-01.aaaa", champion, **known)
        self.put("decisions", customer, said)
        if challenger is not None:
            said = a_decision(order, offset, "new@2026-02-01.bbbb", challenger, **known | {"p": None})
            self.put("decisions-shadow", customer, said, headers)
        if became is not None:
            at = order["placed_at"]
            outcome = {"order_id": order["order_id"], "customer_id": customer, "is_fraud": became}
            kind = "chargeback" if became else "confirmed_legitimate"
            self.put("outcomes", customer, outcome | {"kind": kind, "occurred_at": at, "known_at": at})

    @property
    def opened(self) -> Opened:
        """What opens all of it."""
        return opens({topic: [records] for topic, records in self.topics.items()})


def a_decision(
    order: Mapping[str, Any],
    offset: int,
    model: str,
    action: str,
    *,
    p: float | None = None,
    features: Mapping[str, float | None],
    control: int = 0,
    policy: Policy = POLICY,
) -> dict[str, Any]:
    name, version = model.split("@")
    p = P[action] if p is None else p
    return {
        "decision_id": "00000000-0000-5000-8000-000000000000",
        "order_id": order["order_id"],
        "revision": order.get("revision", 0),
        "action": action,
        "p_fraud": p,
        "score": score_of(p),
        "model": {"name": name, "version": version, "digest": "d"},
        "policy": policy.digest,
        "features": dict(features),
        "source": {"topic": "orders", "partition": 0, "offset": offset, "others": {"control": control}},
    }
