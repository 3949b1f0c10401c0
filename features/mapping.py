"""A shop's own rows become orders, events and outcomes, by a mapping that is declared and not programmed.

A mapping names for each field of a contract where it comes from, in which unit and in what form. It is
bound to the columns of a source once and then turns row after row into the JSON of the contract; a row
that can't be turned is told by a `RowFault` that names field and column, and never a value of a person.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from difflib import get_close_matches
from ipaddress import IPv4Address
from math import isfinite
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args, get_origin
from zoneinfo import ZoneInfo

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from features.decode import Identity, Rejection, decode_order, identity_of
from features.events import Address, Card, Item, Order, OrderEvent, Outcome
from features.money import CURRENCIES

__all__ = [
    "Items",
    "Join",
    "Joined",
    "Kind",
    "Mapped",
    "MappingError",
    "Reading",
    "RowFault",
    "RowMapper",
    "RowMapping",
    "Taken",
    "at_path",
    "decimal_text",
    "row_in",
    "said_by",
]

Kind: TypeAlias = Literal["orders", "events", "outcomes"]
Scalar: TypeAlias = str | int | float | bool
Row: TypeAlias = Sequence[Any]

CONTRACTS: Final[Mapping[str, type[Order] | type[OrderEvent] | type[Outcome]]] = {
    "orders": Order,
    "events": OrderEvent,
    "outcomes": Outcome,
}
"""What each kind of row becomes."""

MONEY: Final = frozenset({"amount", "unit_price"})
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MappingError(ValueError):
    """A mapping is wrong, or does not fit the columns it is bound to; the message says what to write."""


class RowFault(Exception):
    """Why a row is no event of the contract, in one line without a value of a person."""

    def __init__(  # noqa: PLR0917 (each is a word of the sentence)
        self, code: str, field: str, column: str, expected: str, came: str, todo: str = ""
    ) -> None:
        """`code` is one of REJECTION_CODES; `column` is empty where no column is to blame."""
        where = f"{field} (column '{column}')" if column else field
        todo = todo or "correct the row, or change the mapping"
        super().__init__(f"{where}: expected {expected}, got {came}; {todo}")
        self.code, self.field, self.column = code, field, column


class _Wrong(Exception):
    """A value that can't be converted; the field and the column are added where they are known."""

    def __init__(self, code: str, expected: str, came: str, todo: str = "") -> None:
        super().__init__(code)
        self.code, self.expected, self.came, self.todo = code, expected, came, todo


class _Declared(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True
    )


class Taken(_Declared):
    """Where one field comes from, and how its text is read."""

    column: str | None = None
    """The column, or the dotted path in nested JSON."""
    template: str | None = None
    """A text made of columns: `"card-{card_id}"`, `"{day} {time:0>6}"` (padded with zeros to 6)."""
    value: Scalar | None = None
    """The same for every row."""
    sum: Literal["items"] | None = None
    """Of the order's amount: what its items come to, price by quantity, where no column has the total."""
    map: dict[str, Scalar] | None = None
    """What a value stands for: `{"0" = false, "1" = true}`; a value that is not listed stays as it is."""
    default: Scalar | None = None
    """What a missing value stands for; without it the field is left out."""
    unit: Literal["major", "minor"] | None = None
    """Of an amount: 12.50 (major) or 1250 (minor)."""
    decimal: Literal[".", ","] = "."
    """Of a number: what stands before the decimals."""
    round: bool = False
    """Of an amount: round what the currency can't pay (half up) instead of refusing the row."""
    format: str | None = None
    """Of a time: iso (when absent), epoch_s, epoch_ms, seconds_since, or a pattern such as `%d.%m.%Y`."""
    start: datetime | None = None
    """Of a time with `format = "seconds_since"`: the moment of second 0, with its offset."""
    zone: str | None = None
    """Of a time without an offset: the zone it is meant in, such as Europe/Berlin."""
    hash: Literal["email", "phone", "text"] | None = None
    """Replace it by the SHA-256 of its lower-case text (email, text) or of its digits (phone)."""
    part: Literal["domain"] | None = None
    """Of an e-mail address: only what follows the @."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Of a list in one text: what stands between."""
    type: Literal["text", "integer", "number", "boolean", "ipv4"] | None = None
    """Of an attribute: what it is; `ipv4` makes an address of a number."""

    @model_validator(mode="before")
    @classmethod
    def _from_a_name(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _sound(self) -> Self:
        given = (self.column, self.template, self.value, self.sum)
        if sum(each is not None for each in given) != 1:
            raise ValueError("needs one of column, template, value and sum")
        if self.zone is not None:
            _zone(self.zone)
        if (self.format == "seconds_since") != (self.start is not None):
            raise ValueError('format = "seconds_since" and start go together')
        if self.start is not None and self.start.utcoffset() is None:
            raise ValueError("start needs an offset, such as 2024-01-01T00:00:00Z")
        if self.format is not None and "%" not in self.format and self.format not in _FORMATS:
            raise ValueError(
                f"format '{self.format}' is none of {', '.join(_FORMATS)} and no pattern such as %Y-%m-%d"
            )
        if self.format is not None and "%" in self.format:
            _pattern(self.format)
        if self.template is not None and not self.columns:
            raise ValueError(f"template '{self.template}' names no column; write {{column}}, or use value")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        if self.column is not None:
            return (self.column,)
        return () if self.template is None else tuple(name for _, name, _ in _parts(self.template) if name)

    @property
    def said(self) -> str:
        """Where it comes from, for a message."""
        return ", ".join(self.columns)


_FORMATS = ("iso", "epoch_s", "epoch_ms", "seconds_since")


class Join(_Declared):
    """Another table, whose rows belong to a row of this one."""

    file: str | None = None
    """Its file, relative to the mapping; the same file (another member of the zip) when absent."""
    member: str | None = None
    """Its member, when the file is a zip of several."""
    on: str
    """The column of this table."""
    key: str
    """The column of the other table that has the same value."""


class Items(_Declared):
    """Where the lines of the basket come from: a list in the row, numbered columns or another table."""

    list: str | None = None
    """The column that holds a list of objects."""
    up_to: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many numbered groups of columns there are; `{n}` in a column's name is 1, 2, 3 ..."""
    join: Join | None = None
    fields: dict[str, Taken]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.list is not None) + (self.up_to is not None) + (self.join is not None) != 1:
            raise ValueError("needs one of list, up_to and join")
        for name in self.fields:
            _known(name, Item, "Item")
        return self


class Reading(_Declared):
    """How the rows are read; only for files, a worker reads JSON."""

    format: Literal["csv", "json", "parquet"] | None = None
    """Told by the content when absent."""
    member: str | None = None
    """The member of a zip that holds the rows."""
    encoding: str = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    header: bool = True
    """Whether the first line names the columns."""
    columns: tuple[str, ...] | None = None
    """The columns' names, for a file without a header or with one that can't be used."""
    sort: Literal["placed_at", "occurred_at", "known_at"] | None = None
    """Send the rows in the order of this field; the whole file is then held in memory."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.header and self.columns is None:
            raise ValueError("header = false needs columns, the names in their order")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):
            raise ValueError(f"encoding '{self.encoding}' is not known; use utf-8 or latin-1") from None
        return self


class RowMapping(_Declared):
    """What each field of a contract is taken from: the whole of a mapping file."""

    kind: Kind = "orders"
    missing: tuple[str, ...] = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN", "-")
    """Texts that stand for "unknown"."""
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Take only rows whose column has one of these texts; the others are left out, and counted."""
    source: Reading = Reading()
    fields: dict[str, Any]
    """Field -> where it comes from; `shipping.country` and `card.bin` for nested ones."""
    items: Items | None = None
    attributes: dict[str, Taken] = Field(default_factory=dict)
    """The shop's own columns under names of their own; a list of columns keeps their names."""

    @field_validator("attributes", mode="before")
    @classmethod
    def _from_names(cls, given: Any) -> Any:
        return {name: {"column": name} for name in given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _sound(self) -> Self:
        contract = CONTRACTS[self.kind]
        if contract is not Order and (self.items is not None or self.attributes):
            raise ValueError(f"kind '{self.kind}' has neither items nor attributes; leave them out")
        taken = self.taken
        if self.source.sort is not None and self.source.sort not in taken:
            raise ValueError(f"[source] sort: no field '{self.source.sort}' is mapped to sort by")
        for name, field in contract.model_fields.items():
            if field.is_required() and name not in taken:
                raise ValueError(f"[fields] has no '{name}', which every {contract.__name__} needs")
        for name, each in (*taken.items(), *(self.items.fields.items() if self.items else ())):
            if each.sum is not None:
                if name != "amount" or self.items is None or "unit_price" not in self.items.fields:
                    raise ValueError(
                        f"[fields] {name}: sum is for an order's amount, and [items] needs unit_price"
                    )
            elif name.rpartition(".")[2] in MONEY and each.unit is None:
                raise ValueError(f'[fields] {name} needs unit = "major" (12.50) or unit = "minor" (1250)')
        return self

    @property
    def taken(self) -> dict[str, Taken]:
        """The declared fields by their dotted names."""
        contract = CONTRACTS[self.kind]
        found: dict[str, Taken] = {}
        for name, given in self.fields.items():
            top, _, inner = name.partition(".")
            _known(top, contract, contract.__name__)
            nested = _NESTED.get(top) if contract is Order else None
            if top in {"items", "attributes"}:
                raise ValueError(f"write [{top}] instead of [fields] {top}")
            if nested is None:
                if inner:
                    raise ValueError(f"[fields] {top} has no field '{inner}'; it is one value")
                found[name] = _taken(name, given)
                continue
            several = {inner: given} if inner else given
            if not isinstance(several, dict):
                raise ValueError(  # noqa: TRY004 (pydantic collects only these)
                    f"[fields] {top} has fields of its own: write {top}.{next(iter(nested.model_fields))}"
                )
            for part, each in several.items():
                _known(part, nested, nested.__name__)
                found[f"{top}.{part}"] = _taken(f"{top}.{part}", each)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        taken = [*self.taken.values(), *self.attributes.values()]
        names = [name for each in taken for name in each.columns]
        names += self.only
        if self.items is not None:
            if self.items.list is not None:
                names.append(self.items.list)
            elif self.items.join is not None:
                names.append(self.items.join.on)
            else:
                names += [
                    name.replace("{n}", str(n))
                    for n in range(1, (self.items.up_to or 0) + 1)
                    for each in self.items.fields.values()
                    for name in each.columns
                ]
        return tuple(dict.fromkeys(names))

    @property
    def digest(self) -> str:
        """What two mappings share only if they say the same."""
        said = orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    def bind(
        self, columns: Sequence[str], *, salt: bytes = b"", joined: "Joined | None" = None
    ) -> "RowMapper":
        """What turns rows of these columns into events. Raises MappingError for a column that is not there.

        `salt` makes hashes that only its owner can make; `joined` are the rows of the items' table.
        """
        return RowMapper(self, columns, salt=salt, joined=joined)


@dataclass(frozen=True, slots=True)
class Joined:
    """The rows of another table, by the value that joins them."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[Row]]

    @classmethod
    def by(cls, key: str, columns: Sequence[str], rows: Iterable[Row]) -> Self:
        """The rows by what this column says; those of which it says nothing belong to no other row."""
        at = columns.index(key)
        found: dict[str, list[Row]] = {}
        for row in rows:
            if (value := row[at]) is not None and value == value:  # noqa: PLR0124 (NaN)
                found.setdefault(_plain_text(value), []).append(row)
        return cls(columns, found)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row as an event: the bytes to send and the key to send them under."""

    key: str
    value: bytes
    content: Mapping[str, Any]


_Get: TypeAlias = Callable[[Row], Any]


class RowMapper:
    """A mapping bound to columns: rows in, events or faults out."""

    def __init__(
        self, mapping: RowMapping, columns: Sequence[str], *, salt: bytes, joined: Joined | None
    ) -> None:
        self._mapping = mapping
        self._contract = CONTRACTS[mapping.kind]
        self._validate = self._contract.__pydantic_validator__.validate_json
        self._missing = frozenset(mapping.missing)
        self._salt = salt
        at = {name: index for index, name in enumerate(columns)}
        taken = mapping.taken
        self._said = {name: each.said for name, each in taken.items()}
        self._currency = self._field("currency", taken, at, self._contract)
        self._plain: list[tuple[str, _Get]] = []
        self._money: list[tuple[str, Callable[[Row, str | None], Any]]] = []
        self._nested: dict[str, list[tuple[str, _Get]]] = {}
        for name, each in taken.items():
            top, _, inner = name.partition(".")
            if name == "currency":
                continue
            if each.sum is not None:
                continue
            if name in MONEY:
                self._money.append((name, self._amount(name, each, at)))
            elif inner:
                get = self._value(name, each, at, _base(_NESTED[top], inner))
                self._nested.setdefault(top, []).append((inner, get))
            else:
                self._plain.append((name, self._value(name, each, at, _base(self._contract, name))))
        self._attributes = [
            (name, self._value(f"attributes.{name}", each, at, each.type or "any"))
            for name, each in mapping.attributes.items()
        ]
        self._sums_items = any(each.sum is not None for each in taken.values())
        self._only = [(self._column(name, at), frozenset(texts)) for name, texts in mapping.only.items()]
        self._required = tuple(
            name for name, field in self._contract.model_fields.items() if field.is_required()
        )
        self._items = self._items_of(mapping, at, joined)

    def leaves_out(self, row: Row) -> bool:
        """Whether the mapping takes only other rows."""
        return any(_plain_text(row[index]) not in texts for index, texts in self._only)

    def build(self, row: Row) -> Mapped:
        """The event of a row, not yet held against the contract. Raises RowFault."""
        content: dict[str, Any] = {}
        for name, get in self._plain:
            value = get(row)
            if value is not None:
                content[name] = value
        currency = None
        if self._currency is not None:
            currency = self._currency(row)
            if currency is not None:
                content["currency"] = currency
        for name, amount in self._money:
            value = amount(row, currency)
            if value is not None:
                content[name] = value
        for top, parts in self._nested.items():
            inner = {name: value for name, get in parts if (value := get(row)) is not None}
            if inner:
                content[top] = inner
        if self._items is not None:
            content["items"] = self._items(row, currency)
            if self._sums_items:
                content["amount"] = _sum_of(content["items"])
        if self._attributes:
            own = {name: value for name, get in self._attributes if (value := get(row)) is not None}
            if own:
                content["attributes"] = own
        for name in self._required:
            if name not in content:
                todo = "fill the column, or give the field a default"
                said = self._said.get(name, "")
                raise RowFault("missing_field", name, said, f"a value for '{name}'", "nothing", todo)
        try:
            value = orjson.dumps(content, option=orjson.OPT_UTC_Z)
        except (TypeError, ValueError) as error:  # a lone surrogate stands for a byte that could not be read
            raise self._unwritable(content) from error
        customer = content.get("customer_id")
        return Mapped(content["order_id"] if customer is None else customer, value, content)

    def take(self, row: Row) -> Mapped:
        """The event of a row, as the contract allows it. Raises RowFault."""
        mapped = self.build(row)
        try:
            self._validate(mapped.value)
        except ValidationError as error:
            raise self._refused(error, mapped) from error
        return mapped

    def identity(self, row: Row) -> Identity:
        """Which order a row speaks of, where that can be read although the row can't."""
        found: dict[str, Any] = {}
        for name, get in self._plain:
            if name in Identity._fields:
                try:
                    value = get(row)
                except RowFault:
                    found[name] = None
                else:
                    found |= {} if value is None else {name: value}
        return identity_of(found)

    # ------------------------------------------------------------------ building what reads a field

    def _column(self, name: str, at: Mapping[str, int]) -> int:
        try:
            return at[name]
        except KeyError:
            raise MappingError(f"there is no column '{name}'{_did_you_mean(name, at)}") from None

    def _raw(self, each: Taken, at: Mapping[str, int]) -> _Get:
        """The value as it stands, None where it is missing."""
        missing = self._missing
        if each.value is not None:
            constant = each.value
            return lambda _: constant
        if each.column is not None:
            index = self._column(each.column, at)

            def one(row: Row) -> Any:
                value = row[index]
                if type(value) is str:
                    value = value.strip()
                    return None if value in missing else value
                return None if value is None or value != value else value  # noqa: PLR0124 (NaN)

            return one
        parts = [
            (literal, self._column(name, at) if name else None, spec)
            for literal, name, spec in _parts(each.template or "")
        ]

        def several(row: Row) -> Any:
            text = ""
            for literal, index, spec in parts:
                text += literal
                if index is None:
                    continue
                value = row[index]
                if value is None or value != value:  # noqa: PLR0124 (NaN)
                    return None
                value = _plain_text(value) if isinstance(value, bool) else _text(value).strip()
                if value in missing:
                    return None
                text += format(value, spec) if spec else value
            return text

        return several

    def _value(self, field: str, each: Taken, at: Mapping[str, int], base: str) -> _Get:
        raw = self._raw(each, at)
        convert = self._conversion(each, base)
        stands_for = each.map
        default, column = each.default, each.said
        if each.value is not None:
            try:
                constant = convert(each.value)
            except _Wrong as wrong:
                raise MappingError(f"[fields] {field}: value: expected {wrong.expected}") from None
            return lambda _: constant

        def get(row: Row) -> Any:
            try:
                value = raw(row)
                if value is None:
                    if default is None:
                        return None
                    value = default
                elif stands_for is not None:
                    value = stands_for.get(_plain_text(value), value)
                return convert(value)
            except _Wrong as wrong:
                raise RowFault(wrong.code, field, column, wrong.expected, wrong.came, wrong.todo) from None

        return get

    def _field(
        self, name: str, taken: Mapping[str, Taken], at: Mapping[str, int], contract: type[BaseModel]
    ) -> _Get | None:
        return self._value(name, taken[name], at, _base(contract, name)) if name in taken else None

    def _amount(self, field: str, each: Taken, at: Mapping[str, int]) -> Callable[[Row, str | None], Any]:
        raw = self._raw(each, at)
        stands_for, default, column = each.map, each.default, each.said
        major, comma, rounds = each.unit == "major", each.decimal == ",", each.round

        def get(row: Row, currency: str | None) -> Any:
            try:
                value = raw(row)
                if value is None:
                    if default is None:
                        return None
                    value = default
                elif stands_for is not None:
                    value = stands_for.get(_plain_text(value), value)
                return _minor_units(value, currency, major=major, comma=comma, rounds=rounds)
            except _Wrong as wrong:
                # which currency it lacks is told where the currency comes from
                where = "currency" if wrong.code == "unknown_currency" else field
                named = self._said.get("currency", "") if where == "currency" else column
                raise RowFault(wrong.code, where, named, wrong.expected, wrong.came, wrong.todo) from None

        return get

    def _conversion(self, each: Taken, base: str) -> Callable[[Any], Any]:
        if each.hash is not None:
            return _hashing(each.hash, self._salt)
        if each.part == "domain":
            return _domain
        if each.split is not None:
            between = each.split
            return lambda value: [part.strip() for part in _text(value).split(between) if part.strip()]
        if base == "moment":
            return _moments(each)
        if each.type == "ipv4":
            return _ipv4
        comma = each.decimal == ","
        if base == "number":
            return lambda value: _number(value, comma=comma)
        return _CONVERSIONS[base]

    def _items_of(
        self, mapping: RowMapping, at: Mapping[str, int], joined: Joined | None
    ) -> Callable[[Row, str | None], list[dict[str, Any]]] | None:
        items = mapping.items
        if items is None:
            return None
        if items.join is not None:
            if joined is None:
                raise MappingError("[items] join needs a file; a worker reads items from a list in the order")
            index, rows = self._column(items.join.on, at), joined.rows
            line = self._line(items.fields, {name: place for place, name in enumerate(joined.columns)})
            missing = self._missing

            def joining(row: Row, currency: str | None) -> list[dict[str, Any]]:
                value = row[index]
                key = None if value is None or value != value else _plain_text(value)  # noqa: PLR0124 (NaN)
                if key is None or key in missing:
                    return []
                return [line(each, currency) for each in rows.get(key, ())]

            return joining
        if items.up_to is not None:
            lines = []
            for n in range(1, items.up_to + 1):
                numbered = {
                    name: each.model_copy(
                        update={
                            "column": each.column and each.column.replace("{n}", str(n)),
                            "template": each.template and each.template.replace("{n}", str(n)),
                        }
                    )
                    for name, each in items.fields.items()
                }
                lines.append(self._line(numbered, at))
            return lambda row, currency: [found for line in lines if (found := line(row, currency))]
        names = list(dict.fromkeys(name for each in items.fields.values() for name in each.columns))
        index = self._column(items.list or "", at)
        line = self._line(items.fields, {name: place for place, name in enumerate(names)})
        column = items.list or ""

        def listed(row: Row, currency: str | None) -> list[dict[str, Any]]:
            value = row[index]
            if value is None:
                return []
            if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                raise RowFault("wrong_type", "items", column, "a list of objects", _kind_of(value))
            return [line([at_path(each, name) for name in names], currency) for each in value]

        return listed

    def _line(
        self, fields: Mapping[str, Taken], at: Mapping[str, int]
    ) -> Callable[[Row, str | None], dict[str, Any]]:
        plain = [
            (name, self._value(f"items.{name}", each, at, _base(Item, name)))
            for name, each in fields.items()
            if name not in MONEY
        ]
        money = [
            (name, self._amount(f"items.{name}", each, at)) for name, each in fields.items() if name in MONEY
        ]
        constants = {name for name, each in fields.items() if each.value is not None}

        def line(row: Row, currency: str | None) -> dict[str, Any]:
            found = {name: value for name, get in plain if (value := get(row)) is not None}
            found |= {name: value for name, get in money if (value := get(row, currency)) is not None}
            return found if found.keys() - constants else {}

        return line

    def _refused(self, error: ValidationError, mapped: Mapped) -> RowFault:
        """What the contract does not allow, in the words a worker would use."""
        first = error.errors(include_url=False)[0]
        steps = [str(step) for step in first["loc"]]
        field = "attributes" if steps[:1] == ["attributes"] else ".".join(steps) or "row"
        column = self._said.get(field, "")
        if not column and steps[:1] == ["items"] and self._mapping.items is not None:
            taken = self._mapping.items.fields.get(steps[-1])
            column = "" if taken is None else taken.said
        code = _CODES.get(first["type"], "wrong_type" if first["type"].endswith("_type") else "bad_value")
        expected = first["msg"].removeprefix("Input should ").removeprefix("String should ")
        came = _shown(first["input"])
        if self._contract is Order:
            why = decode_order(
                mapped.value, key=mapped.key.encode(), arrived_at=None, ahead_by_at_most=timedelta()
            )
            if isinstance(why, Rejection):
                code = why.code
                _, _, said = why.detail.partition(": expected ")
                expected = said.rpartition(", got ")[0] or expected
        return RowFault(code, field, column, expected.removeprefix("be ").removeprefix("have "), came)

    def _unwritable(self, content: Mapping[str, Any]) -> RowFault:
        """Which field can't be written as JSON: a byte that is not in the encoding, or a huge integer."""
        for name, value in content.items():
            try:
                orjson.dumps(value, option=orjson.OPT_UTC_Z)
            except (TypeError, ValueError):
                return RowFault("bad_utf8", name, self._said.get(name, ""), *_IN_ENCODING)
        return RowFault("bad_utf8", "row", "", *_IN_ENCODING)


_IN_ENCODING: Final = (
    "text in the file's encoding",
    "other bytes",
    "name the file's encoding in [source], or correct the row",
)
"""What was expected, what came, and what to do."""


def row_in(value: bytes, columns: Sequence[str]) -> Row:
    """What stands at these paths of an object in JSON. Raises RowFault."""
    todo = "send one object"
    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        came = f"{error.msg} at character {error.pos:,} of {len(value):,} bytes"
        raise RowFault("not_json", "value", "", "JSON", came, todo) from None
    if not isinstance(content, dict):
        raise RowFault("not_an_object", "value", "", "a JSON object", _kind_of(content), todo)
    return [at_path(content, name) for name in columns]


def at_path(content: Any, path: str) -> Any:
    """What stands at a dotted path of nested JSON; None where there is nothing.

    >>> at_path({"a": {"b": [1, 2]}}, "a.b.1")
    2
    """
    if not isinstance(content, dict):
        return None
    if path in content:
        return content[path]
    found: Any = content
    for step in path.split("."):
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


_NESTED: Final[Mapping[str, type[BaseModel]]] = {"billing": Address, "shipping": Address, "card": Card}


def _taken(name: str, given: Any) -> Taken:
    try:
        return Taken.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"[fields] {name}: {said_by(error, Taken)}") from None


def said_by(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first fault of a declaration in words, with the name that was probably meant."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = (model or RowMapping).model_fields if len(first["loc"]) == 1 else _all_options()
        return f"'{where}' is not known{_did_you_mean(name, known)}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    for theirs, ours in (("valid tuple", "list"), ("valid dictionary", "table"), ("valid string", "text")):
        message = message.replace(theirs, ours)
    return f"{where}: {message}" if where else message


def _all_options() -> list[str]:
    models = (Taken, Items, Join, Reading)
    return [name for model in models for name in model.model_fields]


def _known(name: str, contract: type[BaseModel], said: str) -> None:
    if name not in contract.model_fields:
        raise ValueError(f"{said} has no field '{name}'{_did_you_mean(name, contract.model_fields)}")


def _did_you_mean(name: str, known: Any) -> str:
    names = [str(each) for each in known]
    folded = {each.casefold(): each for each in names}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{folded[close[0]]}'?"
    shown = ", ".join(names[:40]) + (" ..." if len(names) > 40 else "")
    return f"; there are: {shown}"


def _base(contract: type[BaseModel], name: str) -> str:
    """What kind of value a field of the contract takes."""
    kind: Any = contract.model_fields[name].annotation
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) is Literal:
            return "text"
        elif get_origin(kind) is tuple:
            return "texts"
        elif get_args(kind):
            kind = next(each for each in get_args(kind) if each is not type(None))
        else:
            return {datetime: "moment", bool: "boolean", float: "number", int: "integer"}.get(kind, "text")


def _pattern(written: str) -> None:
    """Refuse a pattern that no text can be written in, or that passes over what a text says."""
    if "%Z" in written.replace("%%", ""):
        raise ValueError(f"format '{written}': %Z names a zone and no offset; use %z, or zone")
    try:
        datetime.strptime("", written)  # noqa: DTZ007 (nothing is read)
    except ValueError as error:
        said = str(error)
        if "time data" not in said:
            raise ValueError(f"format '{written}': {said.partition(' in format')[0]}") from None


_SPEC = re.compile(r"([^{}]?[<>^])?0?\d{0,3}")


def _parts(template: str) -> list[tuple[str, str, str]]:
    """Literal, column and padding of each part of a template."""
    try:
        parts = [(literal, name or "", spec or "") for literal, name, spec, _ in Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"template '{template}' can't be read: {error}; write {{column}}") from None
    for _, name, spec in parts:
        if spec and not name:
            raise ValueError(f"template '{template}': ':{spec}' pads no column; write {{column:{spec}}}")
        if not _SPEC.fullmatch(spec):
            raise ValueError(f"template '{template}': ':{spec}' is no padding such as ':0>6'")
    return parts


# ---------------------------------------------------------------------- reading one value


def _plain_text(value: Any) -> str:
    """A value as the texts of `map`, `only` and templates are written."""
    if type(value) is str:
        return value.strip()
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise _Wrong("bad_utf8", "text", "other bytes") from None
    if isinstance(value, float) and abs(value) > _EXACT:
        # beyond this two numbers are written alike: a long id that was read as a number is another's
        raise _Wrong("wrong_type", "a text, or a number of at most 15 digits", "a larger number")
    if isinstance(value, int | float | Decimal | date | time) and not isinstance(value, bool):
        return _plain_text(value)
    raise _Wrong("wrong_type", "a text", _kind_of(value))


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_text(each) for each in value]
    raise _Wrong("wrong_type", "a list", _kind_of(value), "say with split what stands between its parts")


_EXACT: Final = 2**53
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:[, '\u00a0\u202f][0-9]{3})+(?:\.[0-9]+)?")
_GROUPED_COMMA = re.compile(r"[+-]?[0-9]{1,3}(?:[. '\u00a0\u202f][0-9]{3})+(?:,[0-9]+)?")
_SIGNS = " \u00a0\u202f$€£¥"


def _integer(value: Any) -> int:
    if type(value) is str:
        if _INTEGER.fullmatch(value):
            return int(value.partition(".")[0])
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    elif isinstance(value, float | Decimal) and isfinite(value) and value == int(value):
        return int(value)
    raise _Wrong("wrong_type", "a whole number", _shape(value))


def decimal_text(text: str, *, comma: bool) -> str | None:
    """A number as Decimal reads it; None for a text that is no number."""
    if not comma and _NUMBER.fullmatch(text):
        return text
    text = text.strip(_SIGNS)
    if comma:
        if _GROUPED_COMMA.fullmatch(text):
            text = re.sub(r"[. '\u00a0\u202f]", "", text)
        elif "." in text:
            return None
        text = text.replace(",", ".", 1)
    elif _GROUPED.fullmatch(text):
        text = re.sub(r"[, '\u00a0\u202f]", "", text)
    return text if _NUMBER.fullmatch(text) else None


def _number(value: Any, *, comma: bool = False) -> float:
    if type(value) is str:
        text = decimal_text(value, comma=comma)
        if text is not None:
            return float(text)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(value)
    raise _Wrong("wrong_type", "a number", _shape(value))


_CODES: Final[Mapping[str, str]] = {
    "missing": "missing_field",
    "finite_number": "not_finite",
    "unknown_currency": "unknown_currency",
    "timezone_aware": "naive_time",
}
"""What the contract's error types are called; one that ends in '_type' is wrong_type, the rest bad_value."""

_TRUE: Final = {"true": True, "t": True, "yes": True, "y": True, "1": True}
_FALSE: Final = {"false": False, "f": False, "no": False, "n": False, "0": False}
_BOOLEANS: Final = _TRUE | _FALSE


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = _BOOLEANS.get(_plain_text(value).casefold()) if isinstance(value, str | int | float) else None
    if found is None:
        raise _Wrong(
            "wrong_type", "true or false", _shape(value), 'say with map what it stands for, as {"P" = true}'
        )
    return found


def _any(value: Any) -> Any:
    """As it came, where JSON has a word for it."""
    return value if isinstance(value, str | int | float) else _text(value)


def _ipv4(value: Any) -> str:
    number = _number(value)
    if not 0 <= number < 2**32:
        raise _Wrong("bad_value", "a number from 0 to 4294967295", "another", "it is no IPv4 address")
    return str(IPv4Address(int(number)))


_CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": _text,
    "texts": _texts,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "any": _any,
    "ipv4": _ipv4,
}


def _minor_units(value: Any, currency: str | None, *, major: bool, comma: bool, rounds: bool) -> int:
    if type(value) is str:
        text = decimal_text(value, comma=comma)
        if text is None:
            todo = 'say decimal = "," if a comma stands before the decimals' if "," in value else ""
            raise _Wrong("bad_amount", "an amount such as 12.50", _shape(value), todo)
        if currency is not None and (sign := _contradicting(value, currency)):
            todo = f"say with currency what {sign} stands for"
            raise _Wrong("bad_amount", f"an amount of {currency}", f"one in {sign}", todo)
        amount = Decimal(text)
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = Decimal(value)
    elif isinstance(value, float | Decimal):
        amount = Decimal(repr(value)) if isinstance(value, float) else value
        if not amount.is_finite():
            raise _Wrong("not_finite", "a finite amount", "NaN or infinity")
    else:
        raise _Wrong("bad_amount", "an amount such as 12.50", _shape(value))
    if amount.adjusted() > 15:
        raise _Wrong("bad_amount", "an amount of at most 10,000,000,000", "a larger one")
    if major:
        if currency is None:
            raise _Wrong("missing_field", "the amount's currency, for its minor unit", "nothing")
        decimals = CURRENCIES.get(currency)
        if decimals is None:
            raise _Wrong("unknown_currency", "a currency of ISO 4217", _shown(currency), _MAP_IT)
        amount = amount.scaleb(decimals)
    minor = int(amount)
    if minor != amount:
        if not rounds:
            expected = (
                f"at most {CURRENCIES[currency]} decimals in {currency}"
                if major and currency
                else "a whole number"
            )
            raise _Wrong(
                "bad_amount", expected, f"{_decimals(value)} decimals", "say round = true to round it"
            )
        minor = int(amount.to_integral_value(ROUND_HALF_UP))
    return minor


def _sum_of(items: Sequence[Mapping[str, Any]]) -> int:
    if not items or any("unit_price" not in item for item in items):
        came = "an item without a price" if items else "no items"
        raise RowFault("missing_field", "amount", "", "items with a unit_price to sum up", came)
    return sum(int(item["unit_price"]) * int(item.get("quantity", 1)) for item in items)


_SIGN_OF: Final = {"EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "¥", "USD": "$"}


def _contradicting(amount: str, currency: str) -> str:
    """The sign an amount is written with, when another currency's; many have dollars and pounds."""
    sign = amount[0] if amount[0] in "$€£¥" else amount[-1]
    if sign in "$£":
        return sign if _SIGN_OF.get(currency, sign) != sign else ""
    return sign if sign in "€¥" and _SIGN_OF.get(currency) != sign else ""


_MAP_IT: Final = 'say with map what it stands for, as {"NIS" = "ILS"}'


def _decimals(value: Any) -> int:
    return len(_plain_text(value).replace(",", ".").rpartition(".")[2])


def _shown(value: Any) -> str:
    """A short code of letters, which is nobody's secret, or the kind of thing it is."""
    is_code = isinstance(value, str) and re.fullmatch("[A-Za-z]{1,4}", value) is not None
    return f"'{value}'" if is_code else _kind_of(value)


def _kind_of(value: Any) -> str:
    """What kind of thing a value is: its type and size, never its content."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a negative whole number" if value < 0 else "a whole number"
        case float() | Decimal():
            return "a number with decimals"
        case str() | bytes():
            return f"a text of {len(value):,} characters"
        case datetime():
            return "a time"
        case list():
            return f"a list of {len(value):,}"
        case dict():
            return f"an object of {len(value):,} fields"
        case _:
            return "something else"


def _shape(value: Any) -> str:
    """How a value is written, with every digit a 0 and every letter an a."""
    if not isinstance(value, str):
        return _kind_of(value)
    shown = re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "0", value[:24]))
    return f"a text like '{shown if shown.isprintable() else '?'}'" + (" ..." if len(value) > 24 else "")


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"zone '{name}' is not known; use a name such as Europe/Berlin or UTC") from None


def _moments(each: Taken) -> Callable[[Any], datetime]:
    """What reads a time as the mapping says it is written."""
    how = each.format or "iso"
    zone = None if each.zone is None else _zone(each.zone)
    start = each.start

    def located(moment: datetime) -> datetime:
        if moment.tzinfo is None:
            if zone is None:
                todo = 'say zone = "UTC" or the zone it is meant in'
                raise _Wrong("naive_time", "a time with its offset from UTC", "one without", todo)
            return moment.replace(tzinfo=zone)
        return moment

    def iso(text: str) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            todo = 'say with format how it is written, such as "%d.%m.%Y %H:%M"'
            raise _Wrong("bad_value", "an ISO 8601 time", _shape(text), todo) from None

    def pattern(text: str) -> datetime:
        try:
            return datetime.strptime(text, how)  # noqa: DTZ007 (its zone is the mapping's)
        except ValueError:
            raise _Wrong("bad_value", f"a time written as {how}", _shape(text)) from None

    def since(value: Any, unit: timedelta, zero: datetime) -> datetime:
        try:
            return zero + _number(value) * unit
        except (OverflowError, ValueError):
            raise _Wrong("bad_value", "a time from 1970 to 9998", "a larger number") from None

    if how in {"epoch_s", "epoch_ms"}:
        unit = timedelta(seconds=1) if how == "epoch_s" else timedelta(milliseconds=1)
        return lambda value: since(value, unit, EPOCH)
    if start is not None:
        return lambda value: since(value, timedelta(seconds=1), start)
    parse = iso if how == "iso" else pattern

    def moment(value: Any) -> datetime:
        if type(value) is str:
            return located(parse(value))
        if isinstance(value, datetime):
            return located(value)
        if how != "iso" and isinstance(value, int) and not isinstance(value, bool):
            return located(parse(str(value)))
        if isinstance(value, date):
            return located(datetime.combine(value, time()))
        todo = 'say format = "epoch_s" or "epoch_ms" if it counts from 1970'
        raise _Wrong("wrong_type", "a time", _kind_of(value), todo)

    return moment


def _hashing(kind: str, salt: bytes) -> Callable[[Any], str]:
    def hashed(value: Any) -> str:
        text = _text(value)
        # written one way, so that two spellings of one address are one address
        text = re.sub(r"[^0-9+]", "", text) if kind == "phone" else " ".join(text.casefold().split())
        if kind == "email" and "@" not in text:
            raise _Wrong("bad_value", "an e-mail address", "a text without @")
        if not text:
            raise _Wrong("bad_value", "a phone number", "a text without digits")
        try:
            said = text.encode()
        except UnicodeEncodeError:
            raise _Wrong("bad_utf8", *_IN_ENCODING) from None
        return hmac.new(salt, said, "sha256").hexdigest() if salt else hashlib.sha256(said).hexdigest()

    return hashed


def _domain(value: Any) -> str:
    _, at, domain = _text(value).rpartition("@")
    if not at or not domain:
        raise _Wrong("bad_value", "an e-mail address", "a text without @")
    return domain.casefold()
