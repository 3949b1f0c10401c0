"""What is read the fast way is what the contract reads, or it is not read the fast way."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from features import fast
from features.catalogue import STARTER
from features.decode import Rejection, decode_order
from features.define import compute
from features.events import Address, Card, Item, Order, microseconds
from features.fast import Told, read_usual
from features.history import Row
from tests.strategies import NOON, an_order, as_json, orders

ARRIVED_AT = microseconds(NOON) // 1000
AHEAD = timedelta(minutes=5)


def both(
    value: bytes | None, key: bytes | None = b"c1", arrived_at: int | None = ARRIVED_AT
) -> tuple[Told | None, Order | Rejection]:
    """The same record read both ways."""
    return (
        read_usual(value, key=key, arrived_at=arrived_at, ahead_by_at_most=AHEAD),
        decode_order(value, key=key, arrived_at=arrived_at, ahead_by_at_most=AHEAD),
    )


def assert_agree(told: Told | None, order: Order | Rejection) -> None:
    """The fast way read nothing, or just what the contract did."""
    if told is None:
        return
    assert isinstance(order, Order), f"read, and rejected by the contract: {order}"
    assert_same(told, order)
    assert (told.key, told.content_digest) == (order.key, order.content_digest)
    remembered, wanted = Row(3), Row(3)
    remembered.remember(told)
    wanted.remember(order)
    assert remembered == wanted
    later = wanted.as_of(order.placed_at + timedelta(hours=1))
    assert compute(STARTER, told, {"customer": later}) == compute(STARTER, order, {"customer": later})  # type: ignore[arg-type]


def assert_same(told: Any, order: Any) -> None:
    """The same fields with the same values of the same types: 1 is not 1.0."""
    if isinstance(order, BaseModel):
        for name in type(order).model_fields:
            assert_same(getattr(told, name), getattr(order, name))
    elif isinstance(order, tuple) and order and isinstance(order[0], BaseModel):
        assert len(told) == len(order)
        for one, other in zip(told, order, strict=True):
            assert_same(one, other)
    else:
        plain = dict(order) if isinstance(order, Mapping) else order
        assert repr(told) == repr(plain)


@given(order=orders(), shortly=st.booleans(), unknown=st.booleans())
def test_every_valid_order_is_read_as_the_contract_reads_it(
    order: Order, shortly: bool, unknown: bool
) -> None:
    said = json.loads(order.model_dump_json(exclude_defaults=shortly))
    if unknown:
        said |= {"is_fraud": True, "basket": {"lines": [1, 2.5, None, "x"]}}
    told, read = both(json.dumps(said).encode(), order.key.encode(), None)

    assert_agree(told, read)
    # else the test would hold of a reader that reads nothing
    assert told is not None or not (order.order_id + (order.customer_id or "")).isprintable()


FRAGMENTS = [
    *(
        b"",
        b"null",
        b"true",
        b"NaN",
        b"-1",
        b"-0",
        b"0",
        b"1.0",
        b"1e2",
        b"1e999",
        b"9" * 30,
        b"Z",
        b"+00:00",
    ),
    *(b'"', b"\\ud800", b"\\u0000", b"\\u00e9", b"[", b"{", b"}", b":", b",", b".", b" ", b"\xff"),
]


@given(order=orders(customer_ids=st.just("c1")), data=st.data())
@settings(max_examples=400)
def test_whatever_becomes_of_an_orders_bytes_both_ways_agree(order: Order, data: st.DataObject) -> None:
    value = bytearray(as_json(order) if data.draw(st.booleans()) else order.model_dump_json().encode())
    fragments = st.sampled_from(FRAGMENTS)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value)))
        value[at : at + data.draw(st.integers(0, 4))] = data.draw(fragments | st.binary(max_size=2))

    assert_agree(*both(bytes(value)))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        (0, 1, -1, 2**31, 2**31 - 1, 2**63, 2**63 - 1, -(2**63), 2**64, 10**12, 10**12 + 1, 10**400)
    )
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(
        ("", "x" * 128, "x" * 129, "x" * 256, "x" * 257, "DE", "de", "D", "DEU", "ÄÖ", "EUR", "eur")
    )
    | st.sampled_from(
        (
            "411111",
            "4111111111",
            "411",
            "\uff14\uff11\uff11\uff11",
            "credit",
            "a\nb",
            "a\n",
            "\x7f",
            "\x85",
            "\u2028",
            "\xa0",
        )
    )
)
CONTENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    **{name: (name,) for name in [*Order.model_fields, "unknown"]},
    **{f"card {name}": ("card", name) for name in ("fingerprint", "bin", "funding", "issuer_country")},
    **{f"billing {name}": ("billing", name) for name in ("hash", "country", "latitude", "longitude")},
    **{f"item {name}": ("items", name) for name in ("sku", "unit_price", "quantity", "digital")},
    "attribute": ("attributes", "x"),
}


@given(field=st.sampled_from(sorted(FIELDS)), content=CONTENTS)
@settings(max_examples=600)
@example(field="attribute", content=2**63)
@example(field="attribute", content=1.0)
@example(field="order_id", content="a\n")
@example(field="items", content=[{}] * 1001)
@example(field="attributes", content={str(n): n for n in range(101)})
def test_whatever_a_field_holds_both_ways_agree(field: str, content: object) -> None:
    outer, *inner = FIELDS[field]
    within: Any = {inner[0]: content} if inner else content
    value = as_json(an_order(), **{outer: [within] if inner and outer == "items" else within})

    # a changed id is its own key
    for key in (b"c1", content.encode(errors="replace") if isinstance(content, str) else None):
        assert_agree(*both(value, key))


MOMENTS = (
    "2024-05-01T12:00:00Z",
    "2024-05-01T12:00:00+00:00",
    "2024-05-01T14:00:00+02:00",
    "2024-05-01t12:00:00z",
    "2024-05-01 12:00:00Z",
    "2024-05-01T12:00:00.1Z",
    "2024-05-01T12:00:00.123Z",
    "2024-05-01T12:00:00.123+02:00",
    "2024-05-01T12:00:00.123456Z",
    "2024-05-01T12:00:00.1234567Z",
    "2024-05-01T11:59:59.9999999Z",
    "2024-05-01T12:00:00.123456-00:30",
    "2024-05-01T12:00:00.1234567+00:00",
    "2024-05-01T12:00:00.123456789012345Z",
    "2024-05-01T12:00:00,5Z",
    "2024-05-01T12:00Z",
    "2024-05-01T12:00:60Z",
    "2024-05-01T24:00:00Z",
    "2024-05-01T12:00:00",
    "2024-05-01",
    "20240501T120000Z",
    "1714564800",
    "1970-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
    "9998-12-31T23:59:59-14:00",
    "9999-01-01T00:00:00Z",
    "2024-02-30T12:00:00Z",
    "2024-05-01T12:00:00+24:00",
    "2024-05-01T12:00:00+0200",
    "2024-05-01T12:00:00\u22120200",
    "",
    "2024-05-01T12:05:00Z",
    "2024-05-01T12:05:00.000001Z",
)


@pytest.mark.parametrize("field", ["placed_at", "account_created_at"])
@pytest.mark.parametrize("said", MOMENTS)
def test_a_time_however_written_is_the_same_moment_both_ways(field: str, said: str) -> None:
    assert_agree(*both(as_json(an_order(), **{field: said})))


@given(
    moment=st.datetimes(),
    offset=st.sampled_from(("Z", "+00:00", "-11:45", "+14:00", "")),
    digits=st.text("0123456789", max_size=9),
)
def test_any_time_is_the_same_moment_both_ways(moment: Any, offset: str, digits: str) -> None:
    said = f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{digits}" if digits else "") + offset

    assert_agree(*both(as_json(an_order(), placed_at=said), arrived_at=None))


USUAL = as_json(an_order())
UNUSUAL = {
    "nothing": None,
    "nothing in it": b"",
    "deep": USUAL[:-1] + b', "x": ' + b"[" * 150 + b"]" * 150 + b"}",
    "very deep": USUAL[:-1] + b', "x": ' + b"[" * 400 + b"]" * 400 + b"}",
    "never closed": USUAL[:-1] + b', "x": ' + b"[" * 100_000,
    "too large": b" " * 1024 * 1024 + USUAL,
    "not UTF-8 in an unknown field": USUAL[:-1] + b', "x": "\xff"}',
    "NaN in an unknown field": USUAL[:-1] + b', "x": NaN}',
    "NaN in a text": as_json(an_order(), channel="NaN"),
    "half a surrogate": USUAL[:-1] + b', "channel": "\\ud800"}',
    "said twice": USUAL[:-1] + b', "amount": 7, "amount": 8, "customer_id": "c1"}',
    "said twice, once wrongly": USUAL[:-1] + b', "amount": "7", "amount": 8}',
    "a byte order mark": b"\xef\xbb\xbf" + USUAL,
    "white space around": b" \n\t" + USUAL + b" \r\n",
    "more after it": USUAL + b"{}",
    "many items": as_json(an_order(), items=[{"sku": "a"}] * 1000),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_record_is_read_the_same_or_left_to_the_contract(name: str) -> None:
    assert_agree(*both(UNUSUAL[name]))


@pytest.mark.parametrize("missing", ["order_id", "placed_at", "amount", "currency"])
def test_an_order_without_what_every_order_has_is_left_to_the_contract(missing: str) -> None:
    said = json.loads(USUAL)
    del said[missing]
    told, read = both(json.dumps(said).encode(), key=b"c1")

    assert told is None
    assert isinstance(read, Rejection)


@pytest.mark.parametrize("key", [None, b"", b"c2", b"o1"])
def test_an_order_under_another_key_is_left_to_the_contract(key: bytes | None) -> None:
    told, read = both(USUAL, key=key)

    assert told is None
    assert isinstance(read, Rejection)


def test_the_usual_order_goes_the_fast_way() -> None:
    told, read = both(USUAL)

    assert told is not None
    assert_agree(told, read)


def test_every_field_of_the_contract_is_read_the_fast_way_in_its_order() -> None:
    kinds = {Order: Told, Address: fast._Address, Card: fast._Card, Item: fast._Item}

    for contract, struct in kinds.items():
        assert list(contract.model_fields) == list(struct.__struct_fields__)
