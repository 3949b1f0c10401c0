"""A record's bytes become an order or a rejection; whatever came, nothing is raised."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from features.events import (
    LARGEST_AMOUNT,
    LARGEST_RECORD,
    LARGEST_REVISION,
    LONGEST_ID,
    Id,
    Order,
    microseconds,
)

__all__ = ["REJECTION_CODES", "Identity", "Rejection", "decode_order", "identity_in"]

REJECTION_CODES: Mapping[str, str] = MappingProxyType(
    {
        "tombstone": "The record has no value; orders are never deleted by tombstone.",
        "too_large": "The value is larger than an order may be; it was not read.",
        "bad_utf8": "The value is not UTF-8.",
        "not_json": "The value is not JSON.",
        "too_deep": "The JSON is nested deeper than any order is.",
        "not_an_object": "The JSON is not an object.",
        "missing_field": "A field every order has is not there.",
        "wrong_type": "A field is of another type than the contract says.",
        "bad_value": "A field has the right type and a value the contract does not allow.",
        "not_finite": "A number is NaN or infinite.",
        "unknown_currency": "The currency is not in ISO 4217.",
        "bad_amount": "The amount is negative or absurdly large.",
        "naive_time": "A time does not say its offset from UTC.",
        "future_time": "The order is dated after it arrived, by more than clocks may differ.",
        "key_mismatch": "The record's key is not the order's customer (or, for a guest, the order).",
        "unknown_schema_version": "The order follows a version of the contract that we cannot read.",
        "conflicting_content": "The same order and revision came before with other content.",
        "too_many_revisions": "The order was revised more often than we follow.",
        "scorer_error": "The order is sound and could not be scored.",
    }
)
"""Why an order is set aside: every code, with what it means in one line."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record is not an order we can decide, without a word of what a customer wrote."""

    code: str
    """One of REJECTION_CODES."""
    detail: str
    """Where, what was expected, what kind of thing came, and what to do."""
    order_id: str | None
    """Given where it could be read, so that a person can be asked to review the order."""
    customer_id: str | None
    revision: int | None = None


class Identity(NamedTuple):
    """Which order a record speaks of: each field None where it is not there, or cannot be what it should."""

    order_id: str | None = None
    customer_id: str | None = None
    revision: int | None = None


def decode_order(
    value: bytes | None, *, key: bytes | None, arrived_at: int | None, ahead_by_at_most: timedelta
) -> Order | Rejection:
    """The order in a record's value, or why there is none.

    `arrived_at` is the broker's clock in milliseconds since 1970; None, or less than 0, is unknown and
    lets any date pass. An order may be dated ahead of it by at most `ahead_by_at_most`: one dated 2099
    would put every honest order of its customer in the past of none.
    """
    if value is None:
        return Rejection(
            "tombstone",
            "value: expected a JSON object, got nothing; send an Outcome or a revision",
            None,
            None,
        )
    if len(value) > LARGEST_RECORD:
        detail = f"value: expected at most {LARGEST_RECORD} bytes, got {len(value)}; send a smaller order"
        return Rejection("too_large", detail, None, None)
    try:
        value.decode()
    except UnicodeDecodeError as error:
        detail = f"value: expected UTF-8, got another byte at {error.start} of {len(value)}; encode as UTF-8"
        return Rejection("bad_utf8", detail, None, None)
    if b"NaN" in value or b"Infinity" in value:  # pydantic reads them, though JSON has no such words
        rejection = _not_finite(value)
        if rejection is not None:
            return rejection
    try:
        order = Order.model_validate_json(value)
    except ValidationError as error:
        return _rejection(error, value)
    if key is None or key != order.key.encode():
        came = "nothing" if key is None else f"another of {len(key)} bytes"
        whose = "order_id" if order.customer_id is None else "customer_id"
        detail = f"key: expected the order's {whose}, got {came}; key the record so that histories stay whole"
        return Rejection("key_mismatch", detail, order.order_id, order.customer_id, order.revision)
    if arrived_at is not None and arrived_at >= 0:
        ahead = microseconds(order.placed_at) - arrived_at * 1000
        if ahead > ahead_by_at_most // _MICROSECOND:
            detail = (
                f"$.placed_at: expected at most {ahead_by_at_most // _SECOND} s after arrival, "
                f"got {ahead // 1_000_000} s after it; set the sender's clock and send the order again"
            )
            return Rejection("future_time", detail, order.order_id, order.customer_id, order.revision)
    return order


def identity_in(value: bytes | None) -> Identity:
    """Which order the value speaks of, where that can be read although the order cannot."""
    if value is None or len(value) > LARGEST_RECORD:
        return Identity()
    try:
        content = from_json(value)
    except ValueError:  # a field we ignore may hold what only a full reading trips over
        return Identity()
    if not isinstance(content, dict):
        return Identity()
    revision = content.get("revision", 0)
    is_one = type(revision) is int and 0 <= revision <= LARGEST_REVISION
    return Identity(
        _readable(content.get("order_id")),
        _readable(content.get("customer_id")),
        revision if is_one else None,
    )


_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_ID = TypeAdapter(Id)
_AGAIN = "correct it and send the order again"

_MEANING = {
    "missing": "missing_field",
    "finite_number": "not_finite",
    "unknown_currency": "unknown_currency",
    "timezone_aware": "naive_time",
}
"""What pydantic's error types mean here; a type that ends in '_type' is wrong_type, the rest bad_value."""


def _not_finite(value: bytes) -> Rejection | None:
    """The rejection of a bare NaN or Infinity; None when the word only stands inside a text."""
    try:
        from_json(value, allow_inf_nan=False)
    except ValueError as error:
        at = str(error).rpartition(" at ")[2]
    else:
        return None
    try:
        from_json(value, allow_inf_nan=True)
    except ValueError:
        return None  # not JSON even with those words; the contract says it better
    detail = f"value: expected finite numbers, got NaN or Infinity at {at}; leave unknown fields out"
    return Rejection("not_finite", detail, *identity_in(value))


def _rejection(error: ValidationError, value: bytes) -> Rejection:
    faults = error.errors(include_url=False, include_context=True)
    # of another version, every other fault may only be a difference between versions
    fault = next((each for each in faults if each["loc"] == ("schema_version",)), faults[0])
    if fault["type"] == "json_invalid":
        return _unreadable(fault, value)
    if not fault["loc"]:
        return Rejection(
            "not_an_object",
            f"$: expected an object, got {_kind(fault['input'])}; send one order a record",
            None,
            None,
        )
    code = _code(fault)
    others = {each["loc"][:2] for each in faults} - {fault["loc"][:2]}
    more = f" ({len(others)} more fields are wrong)" if others else ""
    came = "nothing" if code == "missing_field" else _kind(fault["input"])
    detail = f"{_path(fault)}: expected {_expected(fault)}, got {came}; {_AGAIN}{more}"
    return Rejection(code, detail, *identity_in(value))


def _unreadable(fault: ErrorDetails, value: bytes) -> Rejection:
    reason = str(fault.get("ctx", {}).get("error", "unreadable"))
    if "recursion limit" in reason:
        detail = "value: expected an object a few levels deep, got hundreds of levels; send the order flat"
        return Rejection("too_deep", detail, None, None)
    at = reason.rpartition(" at ")[2]
    detail = f"value: expected JSON, got {len(value)} bytes that are not from {at}; send one object a record"
    return Rejection("not_json", detail, None, None)


def _code(fault: ErrorDetails) -> str:
    kind, where = fault["type"], fault["loc"]
    if kind in _MEANING:
        return _MEANING[kind]
    if kind.endswith("_type"):
        return "wrong_type"
    if where == ("schema_version",):
        return "unknown_schema_version"
    return "bad_amount" if where == ("amount",) else "bad_value"


def _path(fault: ErrorDetails) -> str:
    where = fault["loc"]
    if where[0] == "attributes":
        return "$.attributes"  # its keys are the shop's own words, and may be anybody's
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)


def _expected(fault: ErrorDetails) -> str:
    if fault["loc"] == ("schema_version",):
        return "schema_version 1"
    if fault["loc"] == ("amount",):
        return f"an integer of minor units from 0 to {LARGEST_AMOUNT}"
    if fault["loc"][0] == "attributes":
        return "texts, finite numbers, true or false"
    if fault["type"] == "missing":
        return "a field every order has"
    words = fault["msg"].removeprefix("Input should ").removeprefix("String should ")
    return words.removeprefix("be ").removeprefix("have ")


def _kind(value: object) -> str:
    """What kind of thing came: its type and size, never its content."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int():
            return f"an integer of {len(str(abs(value))) if abs(value) < 10**30 else 'more than 30'} digits"
        case float():
            return "a number that is not an integer" if value == value else "NaN"  # noqa: PLR0124
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {len(value)} fields"
        case _:
            return "something else"


def _readable(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        return None
    try:
        return _ID.validate_python(value)
    except ValidationError:
        return None
