"""A worker that reads a shop's own JSON decides what `publish --map` would have sent."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from features.decode import Identity, Rejection, decode_order
from features.mapping import MappingError, RowMapping
from stream.decoder import CONTRACT, MappedDecoder, decoder_of
from stream.mapping import MappingFileError
from stream.settings import Settings

MAPPING = RowMapping.model_validate(
    {
        "fields": {
            "order_id": "order.number",
            "customer_id": "buyer.id",
            "placed_at": {"column": "order.at", "format": "epoch_s"},
            "amount": {"column": "order.total", "unit": "major"},
            "currency": "order.currency",
            "shipping.country": "ship.to",
            "email_hash": {"column": "buyer.mail", "hash": "email"},
        },
        "items": {"list": "basket", "fields": {"sku": "code"}},
        "attributes": {"gift": "gift"},
    }
)
SENT = {
    "order": {"number": 17, "at": 1714566600, "total": "12.50", "currency": "EUR"},
    "buyer": {"id": "c1", "mail": "ann@shop.example"},
    "ship": {"to": "DE"},
    "basket": [{"code": "a"}],
    "gift": True,
}
AHEAD = timedelta(minutes=5)


def with_beside(value: bytes) -> bytes:
    """The order with a field beside it that the mapping does not name."""
    return json.dumps(SENT)[:-1].encode() + b', "beside": ' + value + b"}"


def decoded(content: Any, *, key: bytes | None = b"c1") -> Any:
    value = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    return MappedDecoder(MAPPING).order(value, key=key, arrived_at=None, ahead_by_at_most=AHEAD)


def test_a_shops_own_json_decodes_to_what_publishing_it_would_have_sent() -> None:
    row = [17, "c1", 1714566600, "12.50", "EUR", "DE", "ann@shop.example", True, [{"code": "a"}]]
    sent = MAPPING.bind(MAPPING.columns).take(row)

    order = decoded(SENT)

    by_the_contract = decode_order(sent.value, key=b"c1", arrived_at=None, ahead_by_at_most=AHEAD)
    assert order.content_digest == by_the_contract.content_digest  # type: ignore[union-attr]
    assert (order.order_id, order.amount, order.items[0].sku) == ("17", 1250, "a")


@pytest.mark.parametrize(
    ("content", "code", "order_id"),
    [
        (None, "tombstone", None),
        (b"x" * 2_000_000, "too_large", None),
        (b"{", "not_json", None),
        (b"\xff", "bad_utf8", None),
        (with_beside(b"NaN"), "not_finite", "17"),
        (with_beside(b"1e999"), "not_finite", "17"),
        (with_beside(b"9" * 5_000), "not_finite", "17"),
        (with_beside(b'"\\ud800"'), "bad_value", "17"),
        (with_beside(b"[" * 3_000 + b"]" * 3_000), "too_deep", "17"),
        (b"[1]", "not_an_object", None),
        ({}, "missing_field", None),
        (SENT | {"order": {"number": 17}}, "missing_field", "17"),
        (SENT | {"order": SENT["order"] | {"total": "lots"}}, "bad_amount", "17"),  # type: ignore[operator]
        (SENT | {"order": SENT["order"] | {"currency": "XXX"}}, "unknown_currency", "17"),  # type: ignore[operator]
        (SENT | {"ship": {"to": "Germany"}}, "bad_value", "17"),
        (SENT | {"buyer": {"id": "c2"}}, "key_mismatch", "17"),
    ],
)
def test_what_can_not_be_mapped_is_rejected_under_its_order_where_that_can_be_read(
    content: Any, code: str, order_id: str | None
) -> None:
    why = decoded(content)

    assert isinstance(why, Rejection)
    assert (why.code, why.order_id) == (code, order_id)


def test_an_order_that_stops_the_worker_can_still_be_named() -> None:
    decoder = MappedDecoder(MAPPING)

    assert decoder.identity(json.dumps(SENT).encode()) == Identity("17", "c1", 0)
    assert decoder.identity(with_beside(b"NaN")) == Identity("17", "c1", 0)
    assert decoder.identity(b"{") == decoder.identity(None) == Identity()


def test_what_can_not_be_mapped_is_reviewed_under_its_own_revision() -> None:
    fields = {**MAPPING.fields, "revision": "order.version"}
    decoder = MappedDecoder(MAPPING.model_copy(update={"fields": fields}))

    for version, revision in ((3, 3), (None, 0), ("third", None)):
        bad = SENT | {"order": {"number": 17, "version": version, "total": "lots"}}
        value = json.dumps(bad).encode()
        why = decoder.order(value, key=b"c1", arrived_at=None, ahead_by_at_most=AHEAD)
        assert isinstance(why, Rejection)
        assert decoder.identity(value) == Identity("17", "c1", revision)
        assert (why.order_id, why.revision) == ("17", revision)


def test_a_mapping_that_only_files_can_have_is_refused_at_the_start(tmp_path: Path) -> None:
    fields = MAPPING.model_dump()["fields"]
    for wrong in (
        {"only": {"x": ["1"]}},
        {"items": {"join": {"on": "a", "key": "b"}, "fields": {"sku": "c"}}},
    ):
        with pytest.raises(MappingError, match="worker"):
            MappedDecoder(RowMapping.model_validate({"fields": fields, **wrong}))
    (tmp_path / "m.toml").write_text("kind = 1")
    with pytest.raises(MappingFileError, match=r"m\.toml"):
        decoder_of(Settings(mapping=tmp_path / "m.toml"))
    assert decoder_of(Settings()) is CONTRACT
