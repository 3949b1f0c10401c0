"""Laws of the desk: how orders happen to be fetched changes nothing, and training sees what it saw."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

import features.revisions
import stream.answers
from features.catalogue import STARTER, by_name
from features.decode import Rejection, decode_order
from features.events import Order
from models.train import replay
from stream.ports import Produce, Record
from tests.small_desk import CountingScorer, Shop, decisions
from tests.strategies import NOON, an_order, as_json

ALL = (by_name("orders_count_30d"), *(each for each in STARTER if each.name != "orders_count_30d"))
LIMIT = 100

some_orders = st.builds(
    an_order,
    order_id=st.sampled_from(("o1", "o1", "o2", "o3")),
    revision=st.integers(0, 4),
    customer_id=st.sampled_from(("c1", "c1", "c2", None)),
    placed_at=st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)),
    amount=st.sampled_from((1000, 1000, 5000)),
    currency=st.sampled_from(("EUR", "EUR", "JPY")),
    device_id=st.sampled_from((None, "phone", "laptop")),
    test=st.sampled_from((False, False, True)),
)


def _sound(order: Order) -> tuple[bytes, bytes]:
    return order.key.encode(), as_json(order)


def _bad(order: Order) -> st.SearchStrategy[tuple[bytes, bytes | None]]:
    key, value = _sound(order)
    return st.sampled_from(
        (
            (b"c9", value),
            (key, as_json(order, amount=-1)),
            (key, as_json(order, revision="1")),
            (key, value[:-1]),
            (key, None),
        )
    )


@st.composite
def logs(draw: st.DrawFn, *, history: bool = True, bad: bool = True) -> list[Record]:
    """One partition's records: orders revised, sent again, changed under the same name, and bad ones."""
    pool: list[tuple[bytes, bytes | None]] = [
        _sound(order) for order in draw(st.lists(some_orders, min_size=1, max_size=7))
    ]
    if bad:
        pool += [draw(_bad(order)) for order in draw(st.lists(some_orders, max_size=2))]
    told = draw(st.lists(st.sampled_from(pool), max_size=14))
    modes = st.sampled_from(((), (), (("mode", b"history"),)) if history else ((),))
    return [
        Record("orders", 0, offset, 1_800_000_000_000, key, value, draw(modes))
        for offset, (key, value) in enumerate(told)
    ]


def heard(
    log: list[Record], cuts: list[int]
) -> tuple[list[Produce], dict[tuple[int, bytes], bytes], Counter[str]]:
    """What comes out, what is kept and what is counted when the log is fetched in these pieces."""
    shop = Shop(scorer=CountingScorer(ALL))
    produced, counts = [], Counter[str]()
    edges = [0, *sorted(cuts), len(log)]
    for begin, end in pairwise(edges):
        effects = shop.take(log[begin:end])
        produced += effects.produce
        counts += effects.counts
    return produced, shop.rows, counts


@given(log=logs(), data=st.data())
def test_however_a_log_is_fetched_the_same_is_decided_and_kept(
    log: list[Record], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(log)), max_size=len(log)))
    # bounds that a short log reaches
    with (
        patch.object(features.revisions, "MOST_REVISIONS", 3),
        patch.object(stream.answers, "_WHOLE_DECISIONS", 1),
    ):
        assert heard(log, cuts) == heard(log, []) == heard(log, list(range(len(log))))


@given(log=logs())
def test_a_batch_tried_again_says_the_same(log: list[Record]) -> None:
    shop = Shop(scorer=CountingScorer(ALL), reject_share=0.01)
    tried = [shop.desk.decide(log, lambda *_: None) for _ in range(2)]

    assert tried[0] == tried[1]


@given(log=logs(history=False))
def test_training_sees_what_the_worker_saw(log: list[Record]) -> None:
    shop = Shop(scorer=CountingScorer(ALL))
    decided = [
        each for each in decisions(shop.take(log)) if each.model is not None and each.repeat_of is None
    ]
    sound = []
    for record in log:
        order = decode_order(
            record.value, key=record.key, arrived_at=record.timestamp, ahead_by_at_most=timedelta(minutes=5)
        )
        if not isinstance(order, Rejection):
            sound.append((order, None))

    learned = list(replay(sound, features=ALL, row_limit=LIMIT))

    assert [(each.order.order_id, each.order.revision) for each in learned] == [
        (each.order_id, each.revision) for each in decided
    ]
    assert [each.vector for each in learned] == [
        tuple(each.features[feature.name] for feature in ALL) for each in decided
    ]


@given(log=logs(history=False, bad=False))
def test_every_live_order_is_answered_once_and_in_order(log: list[Record]) -> None:
    shop = Shop(scorer=CountingScorer(ALL))

    assert [each.source.offset for each in decisions(shop.take(log))] == list(range(len(log)))
