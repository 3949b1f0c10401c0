"""Stages that are new get the rows that they would have, had they always been there."""

from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import Order, Outcome
from stream.anew import Anew
from stream.keeping import ORDER, PASSED
from stream.ports import Record
from stream.road import partition_of
from tests.small_desk import CountingScorer, Shop
from tests.strategies import NOON, an_order, as_json

PARTITIONS = 4
MINUTE = timedelta(minutes=1)


def a_record(shop: Shop, number: int, event: Order | Outcome) -> Record:
    key = (event.customer_id or event.order_id).encode()
    topic = "orders" if isinstance(event, Order) else "outcomes"
    value = as_json(event) if isinstance(event, Order) else event.model_dump_json().encode()
    at = 1_800_000_000_000 + number
    return shop.record(topic, partition_of(key, PARTITIONS), key, value, at=at)


def live(entities: tuple[str, ...], events: Sequence[Order | Outcome]) -> tuple[Shop, list[Record]]:
    """A shop that took all of it as it came, and what was recorded at home."""
    shop = Shop(entities=entities, partitions=PARTITIONS, row_limit=3, scorer=CountingScorer())
    records = [a_record(shop, number, event) for number, event in enumerate(events)]
    for record in records:
        shop.take([record])
    return shop, records


def anew(shop: Shop, records: Sequence[Record], *, at_once: int) -> dict[tuple[int, bytes], bytes]:
    """The rows of a desk with all the stages of a shop, made from what was recorded."""
    made = Anew(Shop(entities=shop.entities, partitions=PARTITIONS, row_limit=3).desk, shop.stages.values())
    rows: dict[tuple[int, bytes], bytes | None] = {}
    watermarks: dict[int, int] = {}
    for begin in range(0, len(records), at_once):
        some = records[begin : begin + at_once]
        changed = made.remember(some, lambda *at: rows.get(at), watermarks)  # noqa: B023 (asked at once)
        watermarks |= changed.watermarks
        rows |= {(number, key): row for number, keys in changed.rows.items() for key, row in keys.items()}
    assert watermarks == shop.watermarks
    return {at: row for at, row in rows.items() if row is not None}


def histories(rows: dict[tuple[int, bytes], bytes]) -> dict[tuple[int, bytes], bytes]:
    """What a history knows; who decided what is copied, not made anew."""
    return {at: row for at, row in rows.items() if at[1][:1] not in {ORDER, PASSED}}


@st.composite
def stories(draw: st.DrawFn) -> list[Order | Outcome]:
    """Orders, revisions, resends and outcomes of few customers, devices and merchants, in some order."""
    events: list[Order | Outcome] = []
    revisions: dict[int, int] = {}
    for number in range(draw(st.integers(1, 15))):
        which = draw(st.integers(0, 8))
        if draw(st.integers(0, 3)) == 0:
            told = {"kind": "chargeback", "occurred_at": NOON, "known_at": NOON + number * MINUTE}
            is_fraud = draw(st.booleans())
            events.append(
                Outcome(order_id=f"o{which}", customer_id=f"c{which % 3}", is_fraud=is_fraud, **told)
            )
            continue
        revisions[which] = revisions.get(which, -1) + 1
        events.append(
            an_order(
                order_id=f"o{which}",
                revision=revisions[which],
                customer_id=f"c{which % 3}",
                device_id=draw(st.sampled_from(["d1", "d2", None])),
                merchant_id=draw(st.sampled_from(["m1", "m2", None])),
                placed_at=NOON + which * MINUTE,
                amount=1_000 + number,
            )
        )
        if draw(st.booleans()):
            events.append(events[-1])
    return events


@settings(max_examples=40)
@given(stories(), st.sampled_from([("device", "merchant"), ("merchant", "device")]), st.integers(1, 10))
def test_rows_of_entities_turned_on_are_those_they_would_have_had(
    story: list[Order | Outcome], entities: tuple[str, ...], at_once: int
) -> None:
    """Nothing was there but the customer; the home inputs are all there is."""
    shop, records = live(entities, story)
    made = anew(shop, records, at_once=at_once)
    assert histories(made) == histories(shop.rows)


def test_what_was_never_said_makes_no_row() -> None:
    shop, records = live(("device",), [an_order(order_id="o1", customer_id="c1", device_id=None)])
    made = anew(shop, records, at_once=1)
    assert not [key for _, key in made if key[:1] == b"d"]
