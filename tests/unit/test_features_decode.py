"""What comes on the topic is an order or a rejection, and never an exception."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.catalogue import STARTER
from features.decode import REJECTION_CODES, Rejection, decode_order
from features.define import compute
from features.events import Order, microseconds
from features.history import Row
from tests.strategies import NOON, an_order, as_json, orders

NOON_MS = microseconds(NOON) // 1000


def decode(
    value: bytes | None, key: bytes | None = b"c1", arrived_at: int | None = NOON_MS
) -> Order | Rejection:
    return decode_order(value, key=key, arrived_at=arrived_at, ahead_by_at_most=timedelta(minutes=5))


def rejected(value: bytes | None, key: bytes | None = b"c1") -> Rejection:
    answer = decode(value, key)
    assert isinstance(answer, Rejection)
    assert answer.code in REJECTION_CODES
    return answer


def without(field: str) -> bytes:
    content = json.loads(as_json(an_order()))
    del content[field]
    return json.dumps(content).encode()


def test_a_sound_order_is_decoded() -> None:
    assert decode(as_json(an_order())) == an_order()


def test_an_order_may_be_dated_ahead_as_far_as_clocks_differ() -> None:
    ahead = an_order(placed_at=NOON + timedelta(minutes=5))

    assert decode(as_json(ahead)) == ahead


def test_without_a_brokers_clock_no_date_is_too_late() -> None:
    order = an_order(placed_at=NOON + timedelta(days=365))

    assert decode(as_json(order), arrived_at=None) == order
    assert decode(as_json(order), arrived_at=-1) == order


def test_of_a_field_said_twice_the_last_counts() -> None:
    answer = decode(as_json(an_order()).replace(b'"amount": 1000', b'"amount": 5, "amount": 7'))

    assert isinstance(answer, Order)
    assert answer.amount == 7


SOUND = as_json(an_order())
BAD: dict[str, tuple[str, bytes | None]] = {
    "tombstone": ("tombstone", None),
    "more than a record may hold": ("too_large", SOUND + b" " * 1024 * 1024),
    "more items than an order may have": ("bad_value", as_json(an_order(), items=[{}] * 1001)),
    "more promotion codes than an order may have": (
        "bad_value",
        as_json(an_order(), promotion_codes=["x"] * 101),
    ),
    "more attributes than an order may have": (
        "bad_value",
        as_json(an_order(), attributes={str(number): 1 for number in range(101)}),
    ),
    "bad UTF-8 in a field": ("bad_utf8", SOUND.replace(b"o1", b"o\xff")),
    "bad UTF-8 in an unknown field": ("bad_utf8", b'{"x":"\xff"}'),
    "nothing": ("not_json", b""),
    "half an order": ("not_json", SOUND[:-9]),
    "an order and a half": ("not_json", SOUND + b"{"),
    "a byte order mark": ("not_json", b"\xef\xbb\xbf" + SOUND),
    "a lone surrogate": ("bad_value", SOUND.replace(b"o1", b"\\ud800")),
    "a lone surrogate in half an order": ("not_json", SOUND.replace(b"o1", b"\\ud800")[:-9]),
    "500,000 digits in half an order": ("not_json", SOUND.replace(b"1000", b"9" * 500_000)[:-9]),
    "an amount of 500,000 digits": ("bad_amount", SOUND.replace(b"1000", b"9" * 500_000)),
    "an amount of 1e400": ("bad_amount", SOUND.replace(b"1000", b"1e400")),
    "an amount of 5,000 digits and a point": ("bad_amount", SOUND.replace(b"1000", b"9" * 5_000 + b".5")),
    "a revision of 5,000 digits": ("bad_value", SOUND[:-1] + b', "revision": ' + b"9" * 5_000 + b"}"),
    "an attribute of 1e400": ("not_finite", SOUND[:-1] + b', "attributes": {"a": -1e400}}'),
    "an attribute of 5,000 digits": (
        "not_finite",
        SOUND[:-1] + b', "attributes": {"a": ' + b"9" * 5_000 + b"}}",
    ),
    "words": ("not_json", b"order o1 please"),
    "100,000 brackets": ("too_deep", b"[" * 100_000),
    "100,000 objects": ("too_deep", b'{"a":' * 100_000),
    "brackets in an unknown field": (
        "too_deep",
        SOUND[:-1] + b', "x": ' + b"[" * 9_999 + b"]" * 9_999 + b"}",
    ),
    "a list": ("not_an_object", b"[]"),
    "a number": ("not_an_object", b"7"),
    "null": ("not_an_object", b"null"),
    "no id": ("missing_field", without("order_id")),
    "no amount": ("missing_field", without("amount")),
    "no time": ("missing_field", without("placed_at")),
    "amount as text": ("wrong_type", as_json(an_order(), amount="1000")),
    "amount as float": ("wrong_type", as_json(an_order(), amount=10.0)),
    "amount as bool": ("wrong_type", as_json(an_order(), amount=True)),
    "amount as null": ("wrong_type", as_json(an_order(), amount=None)),
    "version as bool": ("wrong_type", as_json(an_order(), schema_version=True)),
    "card as text": ("wrong_type", as_json(an_order(), card="4111")),
    "items as object": ("wrong_type", as_json(an_order(), items={})),
    "test as number": ("wrong_type", as_json(an_order(), test=1)),
    "id as number": ("wrong_type", as_json(an_order(), order_id=7)),
    "attribute as list": ("wrong_type", as_json(an_order(), attributes={"a": []})),
    "time as number": ("wrong_type", as_json(an_order(), placed_at=1714564800)),
    "no id at all": ("bad_value", as_json(an_order(), order_id="")),
    "a long id": ("bad_value", as_json(an_order(), order_id="o" * 129)),
    "a NUL in an id": ("bad_value", as_json(an_order(), customer_id="\0position")),
    "an empty device": ("bad_value", as_json(an_order(), device_id="")),
    "a country in words": ("bad_value", as_json(an_order(), country="Germany")),
    "no quantity": ("bad_value", as_json(an_order(), items=[{"quantity": 0}])),
    "year 1": ("bad_value", as_json(an_order(), placed_at="0001-01-01T00:00:00+14:00")),
    "year 9999": ("bad_value", as_json(an_order(), placed_at="9999-12-31T23:59:59-12:00")),
    "NaN": ("not_finite", as_json(an_order(), shipping={"latitude": float("nan")})),
    "NaN in an unknown field": ("not_finite", as_json(an_order(), x=float("nan"))),
    "-Infinity": ("not_finite", as_json(an_order(), attributes={"a": float("-inf")})),
    "1e999": ("not_finite", as_json(an_order(), shipping={"latitude": 1}).replace(b": 1}", b": 1e999}")),
    "an unknown currency": ("unknown_currency", as_json(an_order(), currency="EURO")),
    "a small currency": ("unknown_currency", as_json(an_order(), currency="eur")),
    "a negative amount": ("bad_amount", as_json(an_order(), amount=-1)),
    "an absurd amount": ("bad_amount", as_json(an_order(), amount=10**12 + 1)),
    "an amount of 50 digits": ("bad_amount", as_json(an_order(), amount=10**50)),
    "a naive time": ("naive_time", as_json(an_order(), placed_at="2024-05-01T12:00:00")),
    "a naive account": ("naive_time", as_json(an_order(), account_created_at="2024-05-01T12:00:00")),
    "a future time": (
        "future_time",
        as_json(an_order(placed_at=NOON + timedelta(minutes=5, microseconds=1))),
    ),
    "the year 2099": ("future_time", as_json(an_order(), placed_at="2099-01-01T00:00:00Z")),
    "another key": ("key_mismatch", as_json(an_order(customer_id="c2"))),
    "a guest keyed by a customer": ("key_mismatch", as_json(an_order(customer_id=None))),
    "version 2": ("unknown_schema_version", as_json(an_order(), schema_version=2, amount="12.00 EUR")),
    "version 0": ("unknown_schema_version", as_json(an_order(), schema_version=0)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_an_order_is_rejected_with_its_code(name: str) -> None:
    code, value = BAD[name]

    answer = rejected(value)

    assert answer.code == code
    assert answer.detail.count(": expected ") == 1
    assert ", got " in answer.detail
    assert "; " in answer.detail
    assert len(answer.detail) < 300


def test_every_code_the_boundary_can_give_is_tried() -> None:
    of_the_stream = {"conflicting_content", "not_a_message", "too_many_revisions", "scorer_error"}

    assert {code for code, _ in BAD.values()} == set(REJECTION_CODES) - of_the_stream


def test_a_record_without_a_key_is_rejected() -> None:
    answer = rejected(as_json(an_order()), key=None)

    assert answer.code == "key_mismatch"
    assert answer.detail.startswith("key: expected the order's customer_id, got nothing")


def test_an_order_that_cannot_be_decided_still_names_itself_for_review() -> None:
    answer = rejected(as_json(an_order(order_id="o7", customer_id="c9"), amount="12"))

    assert (answer.order_id, answer.customer_id) == ("o7", "c9")


@pytest.mark.parametrize(
    ("revision", "told"), [(7, 7), (0, 0), ("7", None), (-1, None), (2**31, None), (True, None), (1.0, None)]
)
def test_an_order_that_cannot_be_decided_says_its_revision_where_it_can_be_read(
    revision: object, told: int | None
) -> None:
    assert rejected(as_json(an_order(), revision=revision, amount="12")).revision == told


def test_a_record_too_large_is_not_even_read() -> None:
    answer = rejected(b"\xff" * (1024 * 1024 + 1))

    assert answer == Rejection(
        "too_large",
        "value: expected at most 1,048,576 bytes, uncompressed, without key and headers, got 1,048,577; "
        "send a smaller order",
        None,
        None,
    )
    assert rejected(b" " * 1024 * 1024).code == "not_json"


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("items", b"[" + b",".join([b"0"] * 500_000) + b"]"),
        ("items", b"[" + b",".join([b"{}"] * 300_000) + b"]"),
        ("promotion_codes", b"[" + b",".join([b"0"] * 500_000) + b"]"),
        ("attributes", b"{" + b",".join(b'"%d":[]' % number for number in range(90_000)) + b"}"),
    ],
)
def test_a_flood_of_wrong_items_is_given_up_at_the_first(field: str, content: bytes) -> None:
    with pytest.raises(ValidationError) as refused:
        Order.model_validate_json(
            SOUND[:-1].replace(b'"%s": []' % field.encode(), b'"x": 0')
            + b', "%s": %s}' % (field.encode(), content)
        )

    assert refused.value.error_count() == 1


def test_an_order_of_exactly_the_most_bytes_is_decoded() -> None:
    assert decode(SOUND + b" " * (1024 * 1024 - len(SOUND))) == an_order()


def test_nan_does_not_hide_the_orders_name() -> None:
    answer = rejected(as_json(an_order(order_id="o7"), x=float("nan")))

    assert (answer.code, answer.order_id) == ("not_finite", "o7")


@pytest.mark.parametrize("order_id", ["", "x" * 129, 7, None, ["o1"], "a\0b", True])
def test_an_id_that_cannot_be_one_is_not_repeated(order_id: Any) -> None:
    assert rejected(as_json(an_order(), order_id=order_id)).order_id is None


def test_the_detail_says_where_and_what_and_nothing_of_the_customers() -> None:
    private = "Erika Mustermann"
    answer = rejected(
        as_json(an_order(), card={"bin": private}, email_hash=[private], attributes={private: [private]})
    )

    assert private not in answer.detail
    assert answer.detail == (
        "$.email_hash: expected a text, got a list of 1; "
        "correct it and send the order again (2 more fields are wrong)"
    )


def test_the_path_leads_to_the_item() -> None:
    answer = rejected(as_json(an_order(), items=[{}, {"unit_price": -5}]))

    assert answer.detail.startswith(
        "$.items[1].unit_price: expected 0 or more, got a negative integer of 1 digit"
    )


HUGE = b"9" * 500_000


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("amount", HUGE),
        ("amount", b"-" + HUGE),
        ("amount", HUGE + b".5e-3"),
        ("amount", b"1e" + HUGE),
        ("amount", b'"\\ud800"'),
        ("channel", b'"a\\udc00b"'),
        ("attributes", b'{"\\ud800": 1}'),
        ("items", b'[{"quantity": ' + HUGE + b"}]"),
        ("x", b"[" * 9_999 + b"]" * 9_999),
        ("x", b'"\\uDBFF"'),
    ],
    ids=lambda part: str(part)[:12],
)
def test_what_our_reader_stumbles_on_does_not_hide_the_orders_name(field: str, content: bytes) -> None:
    order = as_json(an_order(order_id="o7", customer_id="c9"), revision=4, **{field: "HERE"})

    answer = rejected(order.replace(b'"HERE"', content))

    assert (answer.order_id, answer.customer_id, answer.revision) == ("o7", "c9", 4)


def test_an_id_of_half_a_character_is_not_made_up() -> None:
    answer = rejected(SOUND.replace(b'"o1"', b'"o\\ud800"'))

    assert (answer.order_id, answer.customer_id) == (None, "c1")


@pytest.mark.parametrize("number", [HUGE, b"-" + HUGE, HUGE + b".5", b"1e400", b"1e" + HUGE])
def test_a_number_nobody_can_read_in_a_field_we_ignore_is_ignored(number: bytes) -> None:
    assert decode(SOUND[:-1] + b', "x": ' + number + b"}") == an_order()


def test_digits_and_escapes_that_can_be_read_stay_as_they_are() -> None:
    order = an_order(attributes={"text": "9" * 5_000, "smile": "\U0001f600", "escape": "\\ud800"})

    assert decode(json.dumps(order.model_dump(mode="json") | {"x": 0})[:-2].encode() + HUGE + b"}") == order


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a version we cannot read": (
        {"schema_version": 2},
        "$.schema_version: expected version 1, got version 2",
    ),
    "an id with a line break": (
        {"order_id": "a\nb"},
        "$.order_id: expected a text without control characters, got a text of 3 characters",
    ),
    "an empty id": (
        {"order_id": ""},
        "$.order_id: expected a text of 1 character or more, got an empty text",
    ),
    "a long id": (
        {"order_id": "x" * 129},
        "$.order_id: expected a text of at most 128 characters, got a text of 129 characters",
    ),
    "a revision as text": ({"revision": "7"}, "$.revision: expected an integer, got a text of 1 character"),
    "a day that does not exist": (
        {"placed_at": "2024-02-30T00:00:00Z"},
        "$.placed_at: expected a day, hour and offset that exist, got a text of 20 characters",
    ),
    "letters for a year": (
        {"placed_at": "abcd-05-01T00:00:00Z"},
        "$.placed_at: expected an ISO 8601 time such as 2024-05-01T12:30:00Z, got a text of 20 characters",
    ),
    "a day without an hour": (
        {"placed_at": "2024-05-01"},
        (
            "$.placed_at: expected a time with its offset from UTC, such as 2024-05-01T12:30:00Z, "
            "got a text of 10 characters"
        ),
    ),
    "an amount with decimals": (
        {"amount": 10.0},
        (
            "$.amount: expected an integer of minor units from 0 to 1,000,000,000,000, "
            "got a number with a point or an exponent"
        ),
    ),
    "a country of three letters": (
        {"country": "DEU"},
        "$.country: expected a country of ISO 3166 in two capitals, such as 'DE', got a text of 3 characters",
    ),
    "a country as a number": (
        {"country": 49},
        "$.country: expected a country of ISO 3166 in two capitals, such as 'DE', got an integer of 2 digits",
    ),
    "a card's first digits": (
        {"card": {"bin": "12"}},
        "$.card.bin: expected a text of 4 to 8 digits, got a text of 2 characters",
    ),
    "a funding we do not know": (
        {"card": {"funding": "gold"}},
        "$.card.funding: expected 'credit', 'debit', 'prepaid' or 'unknown', got a text of 4 characters",
    ),
    "a latitude beyond the pole": (
        {"billing": {"latitude": 90.5}},
        "$.billing.latitude: expected 90 or less, got a number with a point or an exponent",
    ),
    "too many items": (
        {"items": [{}] * 1001},
        "$.items: expected a list of at most 1,000, got a list of 1,001",
    ),
    "a flag as a number": ({"test": 1}, "$.test: expected true or false, got an integer of 1 digit"),
    "an attribute without a name": (
        {"attributes": {"": 1}},
        "$.attributes: expected names of 1 to 256 characters, got an empty text",
    ),
    "attributes as a list": (
        {"attributes": []},
        "$.attributes: expected an object of at most 100 texts, numbers, true or false, got an empty list",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_detail_is_short_and_in_our_own_words(name: str) -> None:
    fields, said = WRONG[name]

    assert rejected(as_json(an_order(), **fields)).detail == f"{said}; correct it and send the order again"


@given(field=st.sampled_from(sorted(Order.model_fields)), content=st.deferred(lambda: JSON))
def test_no_detail_speaks_the_librarys_words(field: str, content: object) -> None:
    answer = decode(as_json(an_order(), **{field: content}))

    if isinstance(answer, Rejection):
        said = answer.detail.lower()
        assert not any(
            word in said for word in ("valid", "should", "pattern", "tuple", "dict", "string", "datetime")
        )


def test_a_whole_number_beyond_64_bits_among_the_attributes_is_read_as_the_nearest_float() -> None:
    answer = decode(as_json(an_order(), attributes={"a": 2**63 - 1, "b": 2**63}))

    assert isinstance(answer, Order)
    assert answer.attributes == {"a": 2**63 - 1, "b": 2.0**63}
    survives(answer)


@pytest.mark.parametrize("word", ["NaN", "-Infinity"])
def test_a_word_that_only_stands_in_a_text_is_no_number(word: str) -> None:
    order = an_order(channel=word)

    assert decode(as_json(order)) == order


def survives(order: Order) -> None:
    """Whatever was accepted can be computed, remembered, encoded and sent on."""
    row = Row(3)
    compute(STARTER, order, {"customer": row.as_of(order.placed_at)})
    row.remember(order)
    again = Row.decode(row.encode(), 3)
    compute(STARTER, order, {"customer": again.as_of(order.placed_at)})
    assert again.forget(order.order_id, order.placed_at)
    assert Order.model_validate_json(order.model_dump_json()) == order
    assert len(order.content_digest) == 16


@given(order=orders(), arrived_at=st.none() | st.integers(-1, 2**62))
def test_every_valid_order_is_accepted_and_survives(order: Order, arrived_at: int | None) -> None:
    answer = decode(order.model_dump_json().encode(), key=order.key.encode(), arrived_at=None)

    assert answer == order
    survives(order)
    assert isinstance(
        decode(as_json(order), key=order.key.encode(), arrived_at=arrived_at), Order | Rejection
    )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = bytearray(draw(orders(customer_ids=st.just("c1"))).model_dump_json().encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value) - 1))
        until = at + draw(st.integers(0, 6))
        fragments = st.sampled_from(
            [
                b"",
                b"null",
                b"NaN",
                b"-1",
                b"1e999",
                b'"',
                b"\\ud800",
                b"\\u0000",
                b"[",
                b"{",
                b"true",
                b"9" * 5000,
            ]
        )
        value[at:until] = draw(fragments | st.binary(max_size=3))
        if not value:
            return b""
    return bytes(value)


@given(value=mutated())
def test_no_mutation_of_an_order_raises(value: bytes) -> None:
    answer = decode(value)

    if isinstance(answer, Order):
        survives(answer)
    else:
        assert answer.code in REJECTION_CODES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(field=st.sampled_from(sorted(Order.model_fields)), content=JSON)
@example(field="attributes", content={"x": {"y": 1}})
@example(field="attributes", content={"x": 10**400})
@example(field="order_id", content="\ud800")
def test_no_content_of_a_field_raises(field: str, content: object) -> None:
    answer = decode(as_json(an_order(), **{field: content}))

    if isinstance(answer, Order):
        survives(answer)
    else:
        assert answer.code in REJECTION_CODES


@given(value=st.binary(max_size=60))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(decode(value), Rejection)
