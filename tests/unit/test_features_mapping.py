"""Mappings: what becomes of a row, and what is said of one that becomes nothing."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.events import Order
from features.mapping import Joined, MappingError, RowFault, RowMapping, at_path, said_by
from features.money import CURRENCIES, in_major_units

FIELDS: dict[str, Any] = {
    "order_id": "id",
    "customer_id": "customer",
    "placed_at": {"column": "time", "zone": "UTC"},
    "amount": {"column": "amount", "unit": "major"},
    "currency": "currency",
}
ROW = {"id": "o1", "customer": "c1", "time": "2024-05-01 12:30:00", "amount": "12.50", "currency": "EUR"}


def mapped(row: dict[str, Any] | None = None, *, salt: bytes = b"", **mapping: Any) -> dict[str, Any]:
    """What the row becomes, with these fields beside or instead of the plain ones."""
    fields = FIELDS | mapping.pop("fields", {})
    declared = RowMapping.model_validate({"fields": fields, **mapping})
    whole = ROW | (row or {})
    value = declared.bind(list(whole), salt=salt).take(list(whole.values())).value
    return dict(json.loads(value))


def fault(row: dict[str, Any], **mapping: Any) -> RowFault:
    with pytest.raises(RowFault) as refused:
        mapped(row, **mapping)
    return refused.value


def test_a_row_becomes_the_order_its_mapping_says() -> None:
    assert mapped() == {
        "order_id": "o1",
        "customer_id": "c1",
        "placed_at": "2024-05-01T12:30:00Z",
        "amount": 1250,
        "currency": "EUR",
    }


def test_nested_fields_constants_and_attributes_find_their_places() -> None:
    order = mapped(
        {"ship_to": "DE", "bin": "401288", "gift": "yes", "age": "41", "note": "NA"},
        fields={"shipping": {"country": "ship_to"}, "card.bin": "bin", "channel": {"value": "web"}},
        attributes={
            "gift": {"column": "gift", "type": "boolean"},
            "age": {"column": "age", "type": "integer"},
            "note": "note",
        },
    )

    assert order["shipping"] == {"country": "DE"}
    assert order["card"] == {"bin": "401288"}
    assert order["channel"] == "web"
    assert order["attributes"] == {"gift": True, "age": 41}  # what is missing is left out


@pytest.mark.parametrize(
    ("amount", "options", "currency", "minor"),
    [
        ("12.5", {"unit": "major"}, "EUR", 1250),
        ("1250", {"unit": "minor"}, "EUR", 1250),
        ("12", {"unit": "major"}, "JPY", 12),
        ("1.234", {"unit": "major"}, "KWD", 1234),
        ("1.234,50", {"unit": "major", "decimal": ","}, "EUR", 123450),
        ("0,5", {"unit": "major", "decimal": ","}, "EUR", 50),
        ("1,234.50", {"unit": "major"}, "USD", 123450),
        ("$ 9.99", {"unit": "major"}, "USD", 999),
        ("$9.99", {"unit": "major"}, "AUD", 999),
        ("£9.99", {"unit": "major"}, "EGP", 999),
        ("9,99 €", {"unit": "major", "decimal": ","}, "EUR", 999),
        ("¥500", {"unit": "major"}, "JPY", 500),
        ("9.690000000000001", {"unit": "major", "round": True}, "EUR", 969),
        ("7.5", {"unit": "major", "round": True}, "JPY", 8),
        (9.69, {"unit": "major"}, "EUR", 969),
        (Decimal("9.69"), {"unit": "major"}, "EUR", 969),
        (7, {"unit": "major"}, "EUR", 700),
    ],
)
def test_an_amount_is_read_in_its_unit_and_its_currencys_decimals(
    amount: Any, options: dict[str, Any], currency: str, minor: int
) -> None:
    fields = {"amount": {"column": "amount", **options}}

    assert mapped({"amount": amount, "currency": currency}, fields=fields)["amount"] == minor


@given(minor=st.integers(0, 10**11), currency=st.sampled_from(sorted(CURRENCIES)))
def test_an_amount_written_in_major_units_comes_back_in_minor_units(minor: int, currency: str) -> None:
    written = str(in_major_units(minor, currency))

    assert mapped({"amount": written, "currency": currency})["amount"] == minor


@pytest.mark.parametrize(
    ("time", "options", "placed"),
    [
        ("2024-05-01T12:30:00+02:00", {}, "2024-05-01T10:30:00Z"),
        ("2024-05-01 12:30", {"zone": "Europe/Berlin"}, "2024-05-01T10:30:00Z"),
        ("2024-01-01 12:30", {"zone": "Europe/Berlin"}, "2024-01-01T11:30:00Z"),
        ("01.05.2024 12:30", {"format": "%d.%m.%Y %H:%M", "zone": "UTC"}, "2024-05-01T12:30:00Z"),
        ("1714566600", {"format": "epoch_s"}, "2024-05-01T12:30:00Z"),
        (1714566600500, {"format": "epoch_ms"}, "2024-05-01T12:30:00.500Z"),
        ("90", {"format": "seconds_since", "start": "2024-01-01T00:00:00Z"}, "2024-01-01T00:01:30Z"),
        (datetime(2024, 5, 1, 12, 30), {"zone": "UTC"}, "2024-05-01T12:30:00Z"),  # noqa: DTZ001
        (datetime(2024, 5, 1, 12, 30, tzinfo=UTC), {}, "2024-05-01T12:30:00Z"),
    ],
)
def test_a_time_is_read_as_it_is_written_where_it_is_meant(
    time: Any, options: dict[str, Any], placed: str
) -> None:
    order = mapped({"time": time}, fields={"placed_at": {"column": "time", **options}})

    assert datetime.fromisoformat(order["placed_at"]) == datetime.fromisoformat(placed)


def test_a_template_pads_and_joins_columns_and_is_missing_with_any_of_them() -> None:
    fields = {
        "placed_at": {"template": "{day} {clock:0>6}", "format": "%Y%m%d %H%M%S", "zone": "UTC"},
        "order_id": {"template": "shop-{id}"},
        "device_id": {"template": "{make}/{model}"},
    }
    order = mapped({"day": "20130402", "clock": "14450", "make": "A", "model": "NA"}, fields=fields)

    assert order["placed_at"] == "2013-04-02T01:44:50Z"
    assert order["order_id"] == "shop-o1"
    assert "device_id" not in order


def test_values_stand_for_others_and_missing_ones_for_a_default() -> None:
    fields = {
        "currency": {"column": "currency", "map": {"NIS": "ILS"}},
        "test": {"column": "mode", "map": {"L": False, "T": True}},
        "channel": {"column": "channel", "default": "web"},
    }
    order = mapped({"currency": "NIS", "mode": "T", "channel": "-"}, fields=fields)

    assert (order["currency"], order["test"], order["channel"]) == ("ILS", True, "web")
    assert mapped({"currency": "USD", "mode": "L", "channel": ""}, fields=fields)["currency"] == "USD"


def test_personal_fields_enter_as_hashes_however_they_are_written() -> None:
    fields = {
        "email_hash": {"column": "mail", "hash": "email"},
        "email_domain": {"column": "mail", "part": "domain"},
        "phone_hash": {"column": "phone", "hash": "phone"},
        "billing.hash": {"template": "{street}, {id}", "hash": "text"},
    }
    row = {"mail": " Ann@Shop.Example ", "phone": "+49 (30) 12-34", "street": "Long  Street 1"}
    order = mapped(row, fields=fields)

    assert order["email_hash"] == hashlib.sha256(b"ann@shop.example").hexdigest()
    assert order["email_domain"] == "shop.example"
    assert order["phone_hash"] == hashlib.sha256(b"+49301234").hexdigest()
    assert order["billing"] == {"hash": hashlib.sha256(b"long street 1, o1").hexdigest()}
    salted = mapped(row, fields=fields, salt=b"secret")
    assert salted["email_hash"] == hmac.new(b"secret", b"ann@shop.example", "sha256").hexdigest()


def test_no_hash_is_made_of_bytes_outside_the_encoding() -> None:
    why = fault({"mail": "caf\udce9@x.example"}, fields={"email_hash": {"column": "mail", "hash": "email"}})

    assert (why.code, why.field, why.column) == ("bad_utf8", "email_hash", "mail")
    assert "name the file's encoding" in str(why)


def test_items_come_from_a_list_from_numbered_columns_or_from_another_table() -> None:
    fields = {"sku": "sku", "unit_price": {"column": "price", "unit": "major"}, "quantity": "n"}
    wanted = [{"sku": "a", "unit_price": 100, "quantity": 2}, {"sku": "b", "unit_price": 250}]
    lines = [{"sku": "a", "price": 1, "n": 2}, {"sku": "b", "price": "2.5"}]
    assert mapped({"lines": lines}, items={"list": "lines", "fields": fields})["items"] == wanted

    numbered = {
        "sku": "sku{n}",
        "unit_price": {"column": "price{n}", "unit": "major"},
        "quantity": "n{n}",
    }
    row = {"sku1": "a", "price1": "1", "n1": "2", "sku2": "b", "price2": "2.50", "n2": ""}
    row |= {"sku3": "", "price3": "", "n3": ""}
    assert mapped(row, items={"up_to": 3, "fields": numbered})["items"] == wanted

    lines_of_all = [["o1", "a", "1", "2"], ["o2", "z", "9", "9"], ["o1", "b", "2.50", ""]]
    joined = Joined.by("order", ["order", "sku", "price", "n"], lines_of_all)
    declared = RowMapping.model_validate(
        {"fields": FIELDS, "items": {"join": {"on": "id", "key": "order"}, "fields": fields}}
    )
    taken = declared.bind(list(ROW), joined=joined).take(list(ROW.values()))
    assert json.loads(taken.value)["items"] == wanted


def test_an_amount_can_be_what_the_items_come_to() -> None:
    items = {"list": "lines", "fields": {"unit_price": {"column": "p", "unit": "major"}, "quantity": "n"}}
    fields = {"amount": {"sum": "items"}}

    assert mapped({"lines": [{"p": 2, "n": 3}, {"p": 1}]}, fields=fields, items=items)["amount"] == 700
    assert fault({"lines": []}, fields=fields, items=items).field == "amount"


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        (
            {"amount": ""},
            "missing_field",
            "amount (column 'amount'): expected a value for 'amount', got nothing",
        ),
        ({"amount": "12,50"}, "bad_amount", "got a text like '00,00'; say decimal = \",\""),
        ({"amount": "12.345"}, "bad_amount", "expected at most 2 decimals in EUR, got 3 decimals; say round"),
        ({"amount": "$12.50"}, "bad_amount", "expected an amount of EUR, got one in $; say with currency"),
        ({"amount": "12.50 €", "currency": "PLN"}, "bad_amount", "expected an amount of PLN, got one in €"),
        ({"amount": "-1"}, "bad_amount", "expected an integer of minor units from 0"),
        ({"amount": "lots"}, "bad_amount", "got a text like 'aaaa'"),
        ({"amount": "1e99"}, "bad_amount", "a larger one"),
        (
            {"currency": "EURO"},
            "unknown_currency",
            "currency (column 'currency'): expected a currency of ISO",
        ),
        ({"time": "01/05/2024"}, "bad_value", "got a text like '00/00/0000'; say with format"),
        ({"time": "1800-01-01 00:00:00"}, "bad_value", "a time from 1970 to 9998"),
        ({"id": "a\x1bb"}, "bad_value", "order_id (column 'id')"),
        ({"customer": "c" * 129}, "bad_value", "customer_id (column 'customer')"),
        (
            {"customer": "caf\udce9"},
            "bad_utf8",
            "customer_id (column 'customer'): expected text in the file's",
        ),
        ({"id": ["o1"]}, "wrong_type", "order_id (column 'id'): expected a text, got a list of 1"),
        ({"id": 1e20}, "wrong_type", "order_id (column 'id'): expected a text, or a number of at most 15"),
    ],
)
def test_a_refusal_names_field_and_column_and_what_was_expected(
    row: dict[str, Any], code: str, said: str
) -> None:
    why = fault(row)

    assert why.code == code
    assert said in str(why)


def test_a_refusal_says_nothing_of_a_person() -> None:
    fields = {"placed_at": {"column": "mail", "zone": "UTC"}, "country": "mail"}
    for extra in ({}, {"placed_at": FIELDS["placed_at"]}):
        assert "ann" not in str(fault({"mail": "ann@shop.example"}, fields=fields | extra))


def test_a_time_without_a_zone_is_refused_and_not_guessed() -> None:
    why = fault({}, fields={"placed_at": "time"})

    assert (why.code, why.field) == ("naive_time", "placed_at")
    assert 'say zone = "UTC"' in str(why)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"fields": FIELDS | {"amuont": "x"}}, "Order has no field 'amuont'; did you mean 'amount'?"),
        (
            {"fields": FIELDS | {"shipping": {"contry": "x"}}},
            "Address has no field 'contry'; did you mean 'country'?",
        ),
        ({"fields": FIELDS | {"channel": {"colum": "x"}}}, "'colum' is not known; did you mean 'column'?"),
        ({"fields": FIELDS, "atributes": []}, "'atributes' is not known; did you mean 'attributes'?"),
        ({"fields": FIELDS | {"shipping": "x"}}, "shipping has fields of its own"),
        ({"fields": FIELDS | {"channel.x": "x"}}, "channel has no field 'x'"),
        ({"fields": {"order_id": "id"}}, "[fields] has no 'placed_at', which every Order needs"),
        ({"fields": FIELDS | {"amount": "amount"}}, '[fields] amount needs unit = "major" (12.50)'),
        ({"fields": FIELDS | {"placed_at": {"column": "t", "zone": "Berlin"}}}, "zone 'Berlin' is not known"),
        ({"fields": FIELDS | {"placed_at": {"column": "t", "format": "epoch"}}}, "format 'epoch' is none of"),
        ({"fields": FIELDS | {"channel": {"template": "{a!r:>1000}"}}}, "is no padding"),
        ({"fields": FIELDS | {"channel": {"template": "shop-{}"}}}, "names no column"),
        ({"fields": FIELDS | {"channel": {"template": "shop"}}}, "names no column"),
        (
            {"fields": FIELDS | {"placed_at": {"column": "t", "format": "%d.%m.%Q"}}},
            "format '%d.%m.%Q': 'Q' is a bad directive",
        ),
        (
            {"fields": FIELDS | {"placed_at": {"column": "t", "format": "%H:%M %Z", "zone": "UTC"}}},
            "%Z names a zone and no offset; use %z",
        ),
        (
            {"fields": FIELDS | {"promotion_codes": {"column": "codes", "split": ""}}},
            "split: String should have at least 1 character",
        ),
        ({"fields": FIELDS, "missing": "NA"}, "missing: should be a list"),
        ({"fields": FIELDS, "source": {"sort": "known_at"}}, "[source] sort: no field 'known_at' is mapped"),
        ({"fields": FIELDS | {"channel": {}}}, "needs one of column, template, value and sum"),
        ({"kind": "outcomes", "fields": {}, "attributes": ["a"]}, "neither items nor attributes"),
        ({"kind": "order", "fields": FIELDS}, "kind: "),
    ],
)
def test_a_wrong_mapping_says_what_was_probably_meant(mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RowMapping.model_validate(mapping)

    assert said in said_by(refused.value)


def test_a_column_that_is_not_there_is_named_with_the_one_that_is() -> None:
    with pytest.raises(MappingError, match="there is no column 'curency'; did you mean 'currency'"):
        mapped(fields={"currency": "curency"})


def test_an_outcome_is_mapped_as_an_order_is() -> None:
    declared = RowMapping.model_validate(
        {
            "kind": "outcomes",
            "only": {"label": ["0", "1"]},
            "fields": {
                "order_id": "id",
                "kind": {"column": "label", "map": {"1": "chargeback", "0": "confirmed_legitimate"}},
                "is_fraud": "label",
                "occurred_at": "at",
                "known_at": "known",
            },
        }
    )
    mapper = declared.bind(["id", "label", "at", "known"])

    taken = mapper.take(["o1", "1", "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z"])
    assert json.loads(taken.value)["kind"] == "chargeback"
    assert taken.key == "o1"
    assert mapper.leaves_out(["o1", "", "", ""])
    with pytest.raises(RowFault, match="known_at at or after occurred_at"):
        mapper.take(["o1", "1", "2024-05-01T00:00:00Z", "2024-04-01T00:00:00Z"])


def test_an_event_is_mapped_with_its_amount_in_its_currency() -> None:
    declared = RowMapping.model_validate(
        {
            "kind": "events",
            "fields": {
                "order_id": "id",
                "customer_id": "customer",
                "kind": {"column": "status", "map": {"RETURNED": "returned"}},
                "amount": {"column": "back", "unit": "major"},
                "currency": {"value": "JPY"},
                "occurred_at": "at",
                "known_at": "at",
            },
        }
    )
    mapper = declared.bind(["id", "customer", "status", "back", "at"])

    taken = mapper.take(["o1", "c1", "RETURNED", "700", "2024-05-01T00:00:00Z"])
    assert (taken.key, json.loads(taken.value)["amount"]) == ("c1", 700)
    with pytest.raises(RowFault, match=r"kind \(column 'status'\): expected .*'refunded'"):
        mapper.take(["o1", "c1", "LOST", "700", "2024-05-01T00:00:00Z"])


texts = st.text(max_size=20) | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(max_size=9)


@given(st.fixed_dictionaries(dict.fromkeys(ROW, texts | st.just("2024-05-01 10:00") | st.just("12.50"))))
def test_whatever_a_row_holds_it_becomes_a_sound_order_or_a_fault(row: dict[str, Any]) -> None:
    try:
        order = mapped(row)
    except RowFault:
        return
    Order.model_validate_json(json.dumps(order))


def test_a_path_finds_what_is_nested_and_what_is_named_with_a_dot() -> None:
    content = {"a": {"b": [{"c": 1}]}, "x.y": 2}

    assert at_path(content, "a.b.0.c") == 1
    assert at_path(content, "x.y") == 2
    assert at_path(content, "a.b.7.c") is None
    assert at_path([content], "a") is None


@pytest.mark.parametrize("unknown", [None, float("nan"), "NA"])
def test_an_id_made_of_a_column_that_is_unknown_is_unknown_and_nobodys(unknown: Any) -> None:
    fields = {"customer_id": {"template": "shop-{customer}"}}

    assert "customer_id" not in mapped({"customer": unknown}, fields=fields, missing=["NA"])


@pytest.mark.parametrize("wrong", [1e20, ["c1"], {"id": "c1"}])
def test_an_id_is_made_of_what_an_id_may_be_read_from(wrong: Any) -> None:
    why = fault({"customer": wrong}, fields={"customer_id": {"template": "shop-{customer}"}})

    assert (why.code, why.field, why.column) == ("wrong_type", "customer_id", "customer")


def test_items_are_found_by_what_their_key_says_however_it_is_typed() -> None:
    lines = [[5.0, "a"], [5, "b"], ["5 ", "c"], [None, "d"], [float("nan"), "e"], ["", "f"]]
    joined = Joined.by("order", ["order", "sku"], lines)
    declared = RowMapping.model_validate(
        {
            "missing": ["NA"],
            "fields": FIELDS,
            "items": {"join": {"on": "nr", "key": "order"}, "fields": {"sku": "sku"}},
        }
    )
    mapper = declared.bind([*ROW, "nr"], joined=joined)

    def skus(nr: Any) -> list[str]:
        content = json.loads(mapper.take([*ROW.values(), nr]).value)
        return [item["sku"] for item in content["items"]]

    assert skus("5") == skus(5) == skus(5.0) == ["a", "b", "c"]
    assert skus(None) == skus(float("nan")) == skus("NA") == []
