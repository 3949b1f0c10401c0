"""A record's bytes become an order or a rejection; whatever came, nothing is raised."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import isinf, isnan
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from features.events import (
    CARD_BIN,
    COUNTRY_CODE,
    LARGEST_AMOUNT,
    LARGEST_RECORD,
    LARGEST_REVISION,
    LONGEST_ID,
    MOST_ATTRIBUTES,
    NO_CONTROL_CHARACTERS,
    Id,
    Order,
    OrderEvent,
    Outcome,
    microseconds,
)

__all__ = [
    "REJECTION_CODES",
    "Identity",
    "Rejection",
    "content_in",
    "decode_event",
    "decode_order",
    "identity_in",
    "identity_of",
    "read_order",
]

_Event = TypeVar("_Event", bound=Outcome | OrderEvent)
_Read = TypeVar("_Read", bound=Order | Outcome | OrderEvent)

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
        "not_a_message": "A record of a stage's topic is not what workers send each other.",
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
        detail = (
            f"value: expected at most {LARGEST_RECORD:,} bytes, uncompressed, without key and headers, "
            f"got {len(value):,}; send a smaller order"
        )
        return Rejection("too_large", detail, None, None)
    order = read_order(value)
    if isinstance(order, Rejection):
        return order
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


def decode_event(
    value: bytes | None,
    contract: type[_Event],
    *,
    key: bytes | None,
    arrived_at: int | None,
    ahead_by_at_most: timedelta,
) -> _Event | Rejection:
    """What became of an order, as a record's value says it, or why it says nothing.

    As `decode_order`: `arrived_at` is in milliseconds since 1970, and nothing may be known further ahead of
    it than `ahead_by_at_most`. The key must be the event's customer; where it names none, any will do.
    """
    if value is None:
        detail = (
            "value: expected a JSON object, got nothing; take an outcome back by another that supersedes it"
        )
        return Rejection("tombstone", detail, None, None)
    if len(value) > LARGEST_RECORD:
        detail = f"value: expected at most {LARGEST_RECORD:,} bytes, uncompressed, got {len(value):,}"
        return Rejection("too_large", detail, None, None)
    event = _read(value, contract)
    if isinstance(event, Rejection):
        return event
    named = (event.order_id, event.customer_id)
    if key is None or (event.customer_id is not None and key != event.customer_id.encode()):
        came = "nothing" if key is None else f"another of {len(key)} bytes"
        detail = f"key: expected the order's key, its customer_id, got {came}; it would not find its order"
        return Rejection("key_mismatch", detail, *named)
    if arrived_at is not None and arrived_at >= 0:
        ahead = microseconds(event.known_at) - arrived_at * 1000
        if ahead > ahead_by_at_most // _MICROSECOND:
            detail = (
                f"$.known_at: expected at most {ahead_by_at_most // _SECOND} s after arrival, "
                f"got {ahead // 1_000_000} s after it; set the sender's clock and send it again"
            )
            return Rejection("future_time", detail, *named)
    return event


def read_order(value: bytes) -> Order | Rejection:
    """The order that these bytes say, or why they say none; where they came from is not looked at."""
    return _read(value, Order)


def _read(value: bytes, contract: type[_Read]) -> _Read | Rejection:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        detail = (
            f"value: expected UTF-8, got another byte at offset {error.start:,} of {len(value):,}; "
            "send JSON as UTF-8, uncompressed"
        )
        return Rejection("bad_utf8", detail, None, None)
    if b"NaN" in value or b"Infinity" in value:  # pydantic reads them, though JSON has no such words
        rejection = _not_finite(value)
        if rejection is not None:
            return rejection
    try:
        return cast("_Read", contract.model_validate_json(value))
    except ValidationError as error:
        return _without_what_trips(value, contract) or _rejection(error, value)


def identity_in(value: bytes | None) -> Identity:
    """Which order the value speaks of, where that can be read although the order cannot."""
    if value is None or len(value) > LARGEST_RECORD:
        return Identity()
    content = content_in(value)
    return identity_of(content) if isinstance(content, dict) else Identity()


def content_in(value: bytes) -> object:
    """What the JSON holds, for whoever only looks for a name in it; None where it is no JSON.

    What no reader here can take, such as NaN or half a surrogate pair, does not hide the rest.
    """
    try:
        return _content(value)
    except ValueError:
        return None


def identity_of(content: Mapping[str, Any]) -> Identity:
    """Which order the fields speak of, sound or not."""
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


_TEXTS_AND_NUMBERS = re.compile(
    rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|(-?[0-9]++)((?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)', re.DOTALL
)
_TEXTS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
_MOST_DIGITS = 4_000  # the reader's own limit is 4,300
_TRIPS = re.compile(rb"[0-9]{%d}|\\u[dD][89a-fA-F]" % (_MOST_DIGITS + 1))
_DEEP = 20


def _content(value: bytes) -> object:
    """What the JSON holds, for whoever only wants to know its name. Raises ValueError."""
    try:
        return from_json(value)
    except ValueError as error:
        if "recursion limit" in str(error):
            return from_json(_flattened(value))
        readable, _ = _stood_in(value)
        return from_json(readable)


def _without_what_trips(value: bytes, contract: type[_Read]) -> _Read | Rejection | None:
    """What is said of JSON that only our reader stumbles on; None when it is no JSON, or needs nothing.

    A number of thousands of digits and half a surrogate pair are good JSON that no reader here can take.
    Whoever sent one as an amount should hear of the amount, and whoever sent one in a field that we
    ignore is ignored.
    """
    readable, is_half = _stood_in(value)
    if readable == value:
        return None
    answer = _read(readable, contract)
    if isinstance(answer, Rejection) and answer.code in {"not_json", "too_deep"}:
        return None
    if not is_half:
        return answer
    detail = (
        "value: expected Unicode, got half a surrogate pair (an escape from \\ud800 to \\udfff alone); "
        "cut texts between characters and send the order again"
    )
    return Rejection("bad_value", detail, *identity_in(readable))


def _stood_in(value: bytes) -> tuple[bytes, bool]:
    """The JSON with stand-ins for what can't be read, and whether half a surrogate pair was among it.

    A stand-in is as wrong as what it stands for: too large for every field, or in no id.
    """
    if _TRIPS.search(value) is None:
        return value, False
    is_half = False

    def half(escape: re.Match[bytes]) -> bytes:
        nonlocal is_half
        if escape[1] is None:
            return escape[0]
        is_half = True
        return b"\\u0000"

    def token(found: re.Match[bytes]) -> bytes:
        if found[1] is None:
            return _ESCAPES.sub(half, found[0]) if b"\\u" in found[0] else found[0]
        if len(found[1]) <= _MOST_DIGITS:
            return found[0]
        return b"1e999" if found[2] else found[1][:_MOST_DIGITS]

    return _TEXTS_AND_NUMBERS.sub(token, value), is_half


def _flattened(value: bytes) -> bytes:
    """The JSON with null for whatever lies deeper than any order is."""
    kept, depth, since = [], 0, 0
    for found in _TEXTS_AND_BRACKETS.finditer(value):
        mark = found[0]
        if mark in b"[{":
            depth += 1
            if depth == _DEEP:
                kept.append(value[since : found.start()] + b"null")
        elif mark in b"]}":
            if depth == _DEEP:
                since = found.end()
            depth -= 1
    return b"".join(kept) + (value[since:] if depth < _DEEP else b"")


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
    if fault["type"] == "known_before_it_happened":
        detail = f"$.known_at: expected a time at or after occurred_at, got an earlier one; {_AGAIN}"
        return Rejection("bad_value", detail, *identity_in(value))
    if not fault["loc"]:
        return Rejection(
            "not_an_object",
            f"$: expected an object, got {_kind(fault['input'])}; send one order a record",
            None,
            None,
        )
    code = _code(fault)
    others = len({each["loc"][:2] for each in faults} - {fault["loc"][:2]})
    more = f" ({others} more {'field is' if others == 1 else 'fields are'} wrong)" if others else ""
    came = "nothing" if code == "missing_field" else _came(fault)
    detail = f"{_path(fault)}: expected {_expected(fault)}, got {came}; {_AGAIN}{more}"
    return Rejection(code, detail, *identity_in(value))


def _unreadable(fault: ErrorDetails, value: bytes) -> Rejection:
    reason = str(fault.get("ctx", {}).get("error", "unreadable"))
    if "recursion limit" in reason:
        detail = "value: expected an object a few levels deep, got hundreds of levels; send the order flat"
        return Rejection("too_deep", detail, *identity_in(value))
    at = reason.rpartition(" at ")[2]
    came = f"{len(value):,} bytes that stop being JSON at {at}"
    if value.startswith(b"\xef\xbb\xbf"):
        came = "a byte order mark before it"
    elif not value.strip():
        came = "nothing" if not value else "white space"
    detail = f"value: expected one JSON object, got {came}; send one order a record, whole"
    return Rejection("not_json", detail, None, None)


def _code(fault: ErrorDetails) -> str:
    kind, where = fault["type"], fault["loc"]
    if kind in _MEANING:
        return _MEANING[kind]
    if isinstance(fault["input"], float) and isinf(
        fault["input"]
    ):  # written as 1e400: no bare word comes here
        return "bad_amount" if where == ("amount",) else "not_finite"
    if where[0] == "attributes" and type(fault["input"]) is int:
        return "not_finite"  # a whole number is refused there only when no float reaches so far
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


_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "missing": "a field every order has",
        "string_type": "a text",
        "string_too_short": "a text of 1 character or more",
        "string_too_long": "a text of at most {max_length} characters",
        "int_type": "an integer",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "dict_type": "an object",
        "model_type": "an object",
        "literal_error": "{expected}",
        "greater_than_equal": "{ge:,.15g} or more",
        "less_than_equal": "{le:,.15g} or less",
        "too_long": "a list of at most {max_length:,}",
    }
)
"""What pydantic's error types expected, in our words; the others are ours already."""

_PATTERNS = {
    NO_CONTROL_CHARACTERS: "a text without control characters",
    COUNTRY_CODE: "a country of ISO 3166 in two capitals, such as 'DE'",
    CARD_BIN: "a text of 4 to 8 digits",
}


def _expected(fault: ErrorDetails) -> str:
    where, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    if where == ("schema_version",):
        return "version 1"
    if where == ("amount",) and kind != "missing":
        return f"an integer of minor units from 0 to {LARGEST_AMOUNT:,}"
    if where[0] == "attributes":
        if where[-1] == "[key]":
            return "names of 1 to 256 characters"
        if len(where) > 1:
            return "texts, finite numbers, true or false"
        return f"an object of at most {MOST_ATTRIBUTES} texts, numbers, true or false"
    if kind == "string_pattern_mismatch":
        return _PATTERNS[context["pattern"]]
    if kind == "string_type" and where[-1] in {"country", "issuer_country"}:
        return _PATTERNS[COUNTRY_CODE]
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    return fault["msg"].removeprefix("Input should ").removeprefix("be ")


def _came(fault: ErrorDetails) -> str:
    value = fault["input"]
    if fault["loc"] == ("schema_version",) and type(value) is int and abs(value) < _A_MILLION:
        return f"version {value}"
    return _kind(value)


_A_MILLION = 10**6


def _kind(value: object) -> str:
    """What kind of thing came: its type and size, never its content."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int():
            size = _counted(len(str(abs(value))), "digit") if abs(value) < 10**30 else "more than 30 digits"
            return f"{'a negative' if value < 0 else 'an'} integer of {size}"
        case float():
            if isnan(value):
                return "NaN"
            return "a number beyond every float" if isinf(value) else "a number with a point or an exponent"
        case str():
            return f"a text of {_counted(len(value), 'character')}" if value else "an empty text"
        case list():
            return f"a list of {len(value):,}" if value else "an empty list"
        case dict():
            return f"an object of {_counted(len(value), 'field')}" if value else "an empty object"
        case _:
            return "something else"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _readable(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        return None
    try:
        return _ID.validate_python(value)
    except ValidationError:
        return None
