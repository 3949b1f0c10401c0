"""What one order costs in one process, step by step, in microseconds; no Kafka.

    python tests/bench/profile.py
    python tests/bench/profile.py --smoke

Every customer has a hundred past orders. Each figure is the processor time of the quickest of several
passes, divided by the orders in it: whatever else runs on the machine can only add to it.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast
from uuid import UUID

if __name__ == "__main__":
    # else this file stands in for the standard library's profile
    sys.path[0] = str(Path(__file__).parents[2])

from features.catalogue import STARTER
from features.decode import decode_order
from features.events import Order
from features.fast import Told, read_usual
from features.history import Row
from features.plan import Plan
from features.revisions import Revision, Revisions
from models.decision import Source, decision_id, encode, scored_decision
from models.policy import Policy
from models.registry import Registry
from models.scorer import Scorer
from models.train import PredictorKind, train
from stream.decoder import CONTRACT
from stream.desk import ScoringDesk, customer_key, order_key, partition_of
from stream.ports import Record
from stream.settings import Settings, Topics
from tests.bench.results import Cell, record
from tests.faults.stage import temporary_home
from tests.small_shop import a_past

AT = datetime(2026, 3, 1, tzinfo=UTC)
PAST = 100
LIMIT = 512
PARTITIONS = 8


def an_order(number: int, customer: int, placed_at: datetime, chance: random.Random) -> dict[str, Any]:
    """An order with what a shop usually tells."""
    return {
        "order_id": f"order-{number}",
        "customer_id": f"customer-{customer}",
        "placed_at": placed_at.isoformat(),
        "amount": chance.randrange(100, 100_000),
        "currency": "EUR",
        "country": "DE",
        "merchant_id": "m1",
        "device_id": f"d{customer}-{chance.randrange(4)}",
        "ip": f"192.0.2.{chance.randrange(255)}",
        "email_domain": "example.org",
        "card": {"fingerprint": f"f{customer}-{chance.randrange(3)}", "issuer_country": "DE"},
        "payment_method": "card",
        "payment_attempts": 1,
        "shipping": {"hash": f"s{customer}", "postcode": "10115", "country": "DE"},
        "billing": {"hash": f"s{customer}", "postcode": "10115", "country": "DE"},
        "items": [{"sku": "a", "category": "books", "unit_price": 1200, "quantity": 2}],
    }


def microseconds_each(work: Callable[[], object], orders: int, passes: int) -> float:
    """The least processor time of a pass, divided by its orders."""
    least = float("inf")
    for _ in range(passes):
        began = time.thread_time_ns()
        work()
        least = min(least, time.thread_time_ns() - began)
    return least / 1_000 / orders


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--customers", type=int, default=500)
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument(
        "--predictor", choices=("logistic_regression", "random_forest"), default="random_forest"
    )
    parser.add_argument("--smoke", action="store_true", help="a few orders, nothing recorded")
    arguments = parser.parse_args(argv)
    customers, passes = (40, 2) if arguments.smoke else (arguments.customers, arguments.passes)
    chance = random.Random(1)

    trained = train(
        a_past(2_000),
        name="starter",
        predictor=cast("PredictorKind", arguments.predictor),
        trained_at=date(2026, 2, 14),
        row_limit=LIMIT,
    )
    with temporary_home("profile") as home:
        registry = Registry(home)
        registry.publish(trained)
        scorer = registry.load(trained.name, trained.version)
    policy = trained.suggested_policy

    rows: dict[int, Row] = {}
    for customer in range(customers):
        row = rows[customer] = Row(LIMIT)
        for number in range(PAST):
            placed_at = AT - timedelta(hours=9 * (PAST - number))
            row.remember(Order.model_validate_json(json.dumps(an_order(number, customer, placed_at, chance))))
    told = [an_order(10_000 + c, c, AT, chance) for c in range(customers)]
    keys = [order["customer_id"].encode() for order in told]
    values = [json.dumps(order).encode() for order in told]
    arrived_at = int(AT.timestamp() * 1000)
    ahead = timedelta(seconds=300)
    kept = [rows[c].encode() for c in range(customers)]
    orders = [Order.model_validate_json(value) for value in values]
    histories = [row.as_of(AT) for row in rows.values()]
    plan = Plan(STARTER)
    vectors = [plan(order, {"customer": history}) for order, history in zip(orders, histories, strict=True)]
    some = list(islice(cycle(vectors), 256))
    scored = scorer.score(vectors)
    source = Source.model_construct(topic="orders", partition=0, offset=0, others={})
    digests = [order.content_digest for order in orders]

    def named(number: int) -> UUID:
        return decision_id(
            order_id=orders[number].order_id,
            revision=0,
            content_digest=digests[number],
            model_digest=scorer.digest,
            policy_digest=policy.digest,
            source=source,
        )

    def decided(number: int) -> bytes:
        order, answer = orders[number], scored[number]
        return encode(
            scored_decision(
                decision_id=named(number),
                order_id=order.order_id,
                revision=order.revision,
                customer_id=order.customer_id,
                action=policy.decide(answer.p_fraud),
                p_fraud=answer.p_fraud,
                reasons=answer.reasons,
                model=scorer.ref,
                policy_digest=policy.digest,
                features=dict(zip([f.name for f in STARTER], vectors[number], strict=True)),
                imputed=answer.imputed,
                source=source,
                supersedes=None,
            )
        )

    decisions = [decided(number) for number in range(customers)]
    revisions = [
        Revisions(seen=[Revision(0, digest, b"0" * 16, decision)])
        for digest, decision in zip(digests, decisions, strict=True)
    ]
    remembered = [each.encode() for each in revisions]

    def each_one(step: Callable[[int], object]) -> float:
        def work() -> None:
            for number in range(customers):
                step(number)

        return microseconds_each(work, customers, passes)

    def read(number: int) -> Told:
        told = read_usual(values[number], key=keys[number], arrived_at=arrived_at, ahead_by_at_most=ahead)
        assert told is not None, "an order of the bench was left to the slow way"
        return told

    told_fast = [read(number) for number in range(customers)]

    def remember(number: int) -> Row:
        row = Row.decode(kept[number], LIMIT)
        row.remember(told_fast[number])
        return row

    def unpack(number: int) -> None:
        Row.decode(kept[number], LIMIT).as_of(AT)

    def decide_and_encode(number: int) -> bytes:
        row = Row.decode(kept[number], LIMIT)
        row.as_of(AT)
        row.remember(orders[number])
        return row.encode()

    def compute_afresh(number: int) -> None:
        order = orders[number]
        plan(order, {"customer": Row.decode(kept[number], LIMIT).as_of(order.placed_at)})

    recall = each_one(lambda n: Row.decode(kept[n], LIMIT))
    unpacked = each_one(unpack)
    figures: dict[str, Cell] = {
        "decode and check the order": each_one(
            lambda n: CONTRACT.order(values[n], key=keys[n], arrived_at=arrived_at, ahead_by_at_most=ahead)
        ),
        "the same by pydantic, where the fast way is not sure": each_one(
            lambda n: decode_order(values[n], key=keys[n], arrived_at=arrived_at, ahead_by_at_most=ahead)
        ),
        "digest of its content": each_one(lambda n: told_fast[n].content_digest),
        "recall: decode the customer's row": recall,
        "unpack the row": unpacked - recall,
        # a row just recalled has no running totals yet: that is how a worker meets it
        f"compute {len(STARTER)} features": each_one(compute_afresh) - unpacked,
        f"compute {len(STARTER)} features, row asked before": each_one(
            lambda n: plan(orders[n], {"customer": rows[n].as_of(AT)})
        ),
        "remember the order in the row": each_one(remember) - recall,
        "recall, remember the newest and encode, never unpacked": each_one(lambda n: remember(n).encode()),
        "recall, unpack, remember the newest and encode": each_one(decide_and_encode),
        "name the decision (uuid5)": each_one(named),
        "score, one at a time": each_one(lambda n: scorer.score(vectors[n : n + 1])),
        "score, 256 at a time": microseconds_each(lambda: scorer.score(some), 256, passes),
        "name, decide and encode the decision": each_one(decided),
        "order memory: encode": each_one(lambda n: revisions[n].encode()),
        "order memory: decode": each_one(lambda n: Revisions.decode(remembered[n])),
    }
    store = {customer_key(order.key): row for order, row in zip(orders, kept, strict=True)}
    for size in (1, 64, 500):
        figures[f"all of desk.decide, batches of {size}"] = whole_desk(
            scorer,
            policy,
            store=store,
            keys=keys,
            values=values,
            size=size,
            passes=passes,
            arrived_at=arrived_at,
        )
    note = (
        f"Microseconds an order; {customers} customers of {PAST} past orders, {arguments.predictor}, "
        f"{scorer.engine}, a decision of {len(decisions[0])} bytes, a row of {len(kept[0])} bytes. Recall is "
        "from a dict: RocksDB is not in it, nor is Kafka."
    )
    record("One order, step by step", figures, note, columns=("µs",), keep=not arguments.smoke)
    return 0


def whole_desk(
    scorer: Scorer,
    policy: Policy,
    *,
    store: dict[bytes, bytes],
    keys: list[bytes],
    values: list[bytes],
    size: int,
    passes: int,
    arrived_at: int,
) -> float:
    """Every order through the desk, in batches of one size; rows are recalled as they were."""
    desk = ScoringDesk(
        scorer=scorer,
        policy=policy,
        topics=Topics(),
        partitions=PARTITIONS,
        row_limit=LIMIT,
        ahead_by_at_most=timedelta(seconds=300),
        reject_share=0,
        headers=(),
        horizons=Settings.model_construct().horizons,
    )
    # as in a worker: what is recalled is held against the time
    watermarks = dict.fromkeys(range(PARTITIONS), 1000 * arrived_at)
    chosen = list(islice(cycle(range(len(keys))), max(size, len(keys))))
    records = [
        Record("orders", partition_of(keys[n], PARTITIONS), at, arrived_at, keys[n], values[n])
        for at, n in enumerate(dict.fromkeys(chosen))
    ]
    batches = [records[begin : begin + size] for begin in range(0, len(records), size)]

    def work() -> None:
        for batch in batches:
            desk.decide(batch, lambda _, key: store.get(key), watermarks)

    effects = desk.decide(records[:1], lambda _, key: store.get(key), watermarks)
    assert effects.counts["decisions"] == 1, "an order of the bench was not decided"
    assert {customer_key("customer-0"), order_key("order-10000")} == set(effects.rows[records[0].partition])
    return microseconds_each(work, len(records), passes)


if __name__ == "__main__":
    sys.exit(main())
