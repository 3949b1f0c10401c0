"""The contracts a shop's events follow."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from features.events import Order, OrderEvent, Outcome, contracts, microseconds
from tests.strategies import NOON, an_order, as_json


def test_an_order_is_keyed_by_its_customer() -> None:
    assert an_order(order_id="o7", customer_id="c9").key == "c9"


def test_a_guests_order_is_keyed_by_itself() -> None:
    assert an_order(order_id="o7", customer_id=None).key == "o7"


def test_an_order_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        an_order().amount = 2


def test_a_field_we_do_not_know_never_fails_an_order() -> None:
    assert Order.model_validate_json(as_json(an_order(), loyalty_tier={"deep": [1]})) == an_order()


def test_a_time_is_read_into_utc() -> None:
    order = Order.model_validate_json(as_json(an_order(), placed_at="2024-05-01T14:00:00+02:00"))

    assert order.placed_at == NOON
    assert order.placed_at.tzinfo is UTC


@pytest.mark.parametrize(
    "written", ["1714564800", "20240501", 1714564800, 1714564800.5, True, "2024-05-01", "", "noon"]
)
def test_a_time_that_is_not_iso_8601_text_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        Order.model_validate_json(as_json(an_order(), placed_at=written))


@pytest.mark.parametrize("written", ["0001-01-01T00:00+14:00", "1969-12-31T23:59Z", "9999-12-31T23:59-12:00"])
def test_a_time_no_clock_of_a_shop_can_show_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="from 1970 to 9998"):
        Order.model_validate_json(as_json(an_order(), placed_at=written))


def test_microseconds_are_exact() -> None:
    assert microseconds(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005
    assert microseconds(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == 0
    assert microseconds(datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == 253_370_764_799_999_999


def test_the_same_content_has_the_same_digest_however_it_was_written() -> None:
    order = an_order(attributes={"a": 1, "b": "x"})
    again = Order.model_validate_json(
        b'{"loyalty": 3, "attributes": {"b": "x", "a": 1}, "test": false, "revision": 0, "currency": "EUR",'
        b' "amount": 1000, "placed_at": "2024-05-01T14:00:00.0+02:00", "customer_id": "c1", "order_id": "o1"}'
    )

    assert len(order.content_digest) == 16
    assert again.content_digest == order.content_digest


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 1001},
        {"revision": 1},
        {"device_id": "d"},
        {"attributes": {"a": 1}},
        {"attributes": {"a": True}},
    ],
)
def test_other_content_has_another_digest(change: dict[str, object]) -> None:
    others = [an_order(), an_order(attributes={"a": 1.0})]

    assert an_order(**change).content_digest not in {other.content_digest for other in others}


def test_the_digest_of_an_order_stays_what_it_was() -> None:
    """A change of it would make every redelivered order look like a conflicting one."""
    assert an_order().content_digest.hex() == "6e167ab4737f4bf061bea353f302a63a"


def test_an_outcome_is_not_known_before_it_happened() -> None:
    with pytest.raises(ValidationError, match="known_at at or after occurred_at"):
        Outcome(
            order_id="o1",
            kind="chargeback",
            is_fraud=True,
            occurred_at=NOON,
            known_at=NOON - timedelta(seconds=1),
        )


def test_an_order_event_says_what_became_of_the_payment() -> None:
    event = OrderEvent(
        order_id="o1", kind="payment_declined", occurred_at=NOON, known_at=NOON, decline_code="do_not_honor"
    )

    assert OrderEvent.model_validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("name", ["Order", "OrderEvent", "Outcome"])
def test_every_contract_has_a_json_schema_with_its_required_fields(name: str) -> None:
    schema = contracts()[name].model_json_schema()

    assert schema["title"] == name
    assert "order_id" in schema["required"]
    assert "customer_id" not in schema["required"]


def test_a_time_is_a_date_time_in_the_json_schema() -> None:
    assert Order.model_json_schema()["properties"]["placed_at"] == {
        "format": "date-time",
        "title": "Placed At",
        "type": "string",
    }
