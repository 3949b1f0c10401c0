"""Records as Parquet files, and back: every byte as received, and columns beside it that a query asks for.

The columns beside are read leniently: what a record does not say, or says otherwise than the contract,
is null in them and stays as it was in `value`. A schema only ever gains columns, so that files of every
version are read together; what an older file lacks is null.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice, pairwise, repeat
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from stream.merge import arrived_at
from stream.ports import Headers, Record

__all__ = [
    "NO_RECORDS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "as_current",
    "chained",
    "day_of",
    "digests_in",
    "digests_of",
    "divided",
    "erased",
    "file_of",
    "records_in",
    "table_of",
]

SCHEMA_VERSION: Final = 1
_VERSION_KEY: Final = b"fraudstream.archive.schema"

_HEADER: Final = pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())])
SCHEMA: Final = pa.schema(
    [
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("appended_at", pa.timestamp("ms", tz="UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(_HEADER)),
        pa.field("order_id", pa.string()),
        pa.field("revision", pa.int64()),
        pa.field("customer_id", pa.string()),
        pa.field("placed_at", pa.timestamp("us", tz="UTC")),
        pa.field("amount", pa.int64()),
        pa.field("currency", pa.string()),
        pa.field("decision_id", pa.string()),
        pa.field("action", pa.string()),
        pa.field("p_fraud", pa.float64()),
        pa.field("model_name", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("erased", pa.bool_()),
        pa.field("digest", pa.binary()),
        pa.field("import_id", pa.string()),
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)
"""The columns of a file; topic, day and country are said by the folders it lies in."""

KEPT_OF_AN_ERASED: Final = ("partition", "offset", "appended_at", "erased", "digest", "import_id")

NO_RECORDS: Final = bytes(32)
"""The chain's digest before its first record."""

NO_COUNTRY: Final = "none"
NO_DAY: Final = "1970-01-01"
"""Where the broker knew no time, or one beyond the year 9999."""

_DAY_MS: Final = 86_400_000
_LAST_DAY: Final = 2_932_896
"""9999-12-31, in days since 1970."""
ROWS_A_GROUP: Final = 16_384

_OF_FEW_VALUES: Final = (
    *("headers.list.element.name", "customer_id", "currency", "action", "model_name", "model_version"),
    "import_id",
)
_OF_STEPS: Final = {
    "partition": "DELTA_BINARY_PACKED",
    "offset": "DELTA_BINARY_PACKED",
    "appended_at": "DELTA_BINARY_PACKED",
}


# ---------------------------------------------------------------------- what a value says of itself

_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Model(msgspec.Struct, gc=False):
    name: str | None = None
    version: str | None = None


class _Told(msgspec.Struct, gc=False):
    """What the columns beside `value` are taken from."""

    order_id: str | None = None
    revision: _Long | None = None
    customer_id: str | None = None
    placed_at: _Moment | None = None
    amount: _Long | None = None
    currency: str | None = None
    decision_id: str | None = None
    action: str | None = None
    p_fraud: float | None = None
    model: _Model | None = None
    country: str | None = None


_NOTHING: Final = _Told()
_NO_MODEL: Final = _Model()
_read = msgspec.json.Decoder(_Told).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_each: Final[Mapping[str, Callable[[Any], Any]]] = {
    field.name: msgspec.json.Decoder(field.type).decode for field in msgspec.structs.fields(_Told)
}


def _told(value: bytes | None) -> _Told:
    if value is None:
        return _NOTHING
    try:
        return _read(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _as_far_as_readable(value)


def _as_far_as_readable(value: bytes) -> _Told:
    """One field that is wrong does not hide the others."""
    told = _Told()
    try:
        fields = _fields(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return told
    for name, read in _each.items():
        if (raw := fields.get(name)) is not None:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                setattr(told, name, read(raw))
    return told


def _country(told: _Told) -> str:
    """The folder of a country: two letters, or none; nothing else that a shop sends becomes a path."""
    given = told.country
    if given is not None and len(given) == 2 and given.isascii() and given.isalpha():
        return given.upper()
    return NO_COUNTRY


# ---------------------------------------------------------------------- digests

_FRAME: Final = struct.Struct("<qqqqi")
_HEADER_FRAME: Final = struct.Struct("<ii")


def digests_of(records: Iterable[Record]) -> list[bytes]:
    """Of each record 32 bytes that two share only if offset, time, key, value and headers are the same."""
    pack, blake2b = _FRAME.pack, hashlib.blake2b
    found = []
    for _, _, offset, timestamp, key, value, headers in records:
        framed = pack(
            offset,
            timestamp,
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            len(headers),
        )
        framed += (key or b"") + (value or b"")
        if headers:
            framed += _framed(headers)
        found.append(blake2b(framed, digest_size=32).digest())
    return found


def _framed(headers: Headers) -> bytes:
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (
            _HEADER_FRAME.pack(len(encoded), -1 if value is None else len(value)),
            encoded,
            value or b"",
        )
    return b"".join(parts)


def chained(before: bytes, digests: Iterable[bytes]) -> bytes:
    """The digest of all records so far: the one before, and each record's, in the order of offsets."""
    blake2b = hashlib.blake2b
    for digest in digests:
        before = blake2b(before + digest, digest_size=32).digest()
    return before


# ---------------------------------------------------------------------- records to columns


def table_of(
    records: Sequence[Record],
    *,
    digests: Sequence[bytes] = (),
    is_erased: Callable[[Record, str | None], bool] | None = None,
    import_id: str | None = None,
) -> tuple[pa.Table, list[tuple[str, str]]]:
    """The records as columns, and of each the day and the country it belongs to.

    What was imported belongs to the day it says it arrived on. `is_erased` says, given a record and the
    customer it names, whether only its place may be kept; then `digests` has the records' digests.
    """
    count = len(records)
    _, partitions, offsets, timestamps, keys, values, headers = zip(*records, strict=True)
    told = list(map(_told, values))
    countries = list(map(_country, told))
    days = _days(timestamps if import_id is None else list(map(arrived_at, records)))
    models = [each.model or _NO_MODEL for each in told]
    appended = np.array(timestamps, dtype=np.int64)
    columns: dict[str, Any] = {
        "partition": pa.array(partitions, pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "appended_at": pa.array(appended, pa.int64(), mask=appended < 0).cast(_type("appended_at")),
        "key": pa.array(keys, pa.binary()),
        "value": pa.array(values, pa.binary()),
        "headers": _header_column(headers),
        "order_id": pa.array([each.order_id for each in told], pa.string()),
        "revision": pa.array([each.revision for each in told], pa.int64()),
        "customer_id": pa.array([each.customer_id for each in told], pa.string()),
        "placed_at": pa.array([each.placed_at for each in told], _type("placed_at")),
        "amount": pa.array([each.amount for each in told], pa.int64()),
        "currency": pa.array([each.currency for each in told], pa.string()),
        "decision_id": pa.array([each.decision_id for each in told], pa.string()),
        "action": pa.array([each.action for each in told], pa.string()),
        "p_fraud": pa.array([each.p_fraud for each in told], pa.float64()),
        "model_name": pa.array([each.name for each in models], pa.string()),
        "model_version": pa.array([each.version for each in models], pa.string()),
        "erased": pa.array(np.zeros(count, dtype=np.bool_)),
        "digest": pa.nulls(count, pa.binary()),
        "import_id": pa.array([import_id] * count, pa.string()),
    }
    table = pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
    if is_erased is not None:
        marks = [is_erased(record, each.customer_id) for record, each in zip(records, told, strict=True)]
        if any(marks):
            table = erased(table, marks, digests)
    return table, list(zip(days, countries, strict=True))


def erased(table: pa.Table, marks: Sequence[bool], digests: Sequence[bytes]) -> pa.Table:
    """The table with nothing left of the marked rows but where they stood and their digest."""
    marked = pa.array(marks, pa.bool_())
    kept = dict(zip(table.column_names, table.columns, strict=True))
    for name in table.column_names:
        if name not in KEPT_OF_AN_ERASED:
            kept[name] = _without(table.column(name), marks, marked)
    before = table.column("erased").to_pylist()
    noted = table.column("digest").to_pylist()
    kept["erased"] = pa.array([bool(a) or b for a, b in zip(before, marks, strict=True)], pa.bool_())
    kept["digest"] = pa.array(
        [new if mark and old is None else old for mark, old, new in zip(marks, noted, digests, strict=True)],
        pa.binary(),
    )
    return pa.table([kept[name] for name in SCHEMA.names], schema=SCHEMA)


def _without(column: Any, marks: Sequence[bool], marked: Any) -> Any:
    if pa.types.is_list(column.type):
        values = [None if mark else value for mark, value in zip(marks, column.to_pylist(), strict=True)]
        return pa.array(values, column.type)
    return pc.if_else(marked, pa.scalar(None, column.type), column)


def _type(name: str) -> Any:
    return SCHEMA.field(name).type


def _days(timestamps: Sequence[int]) -> list[str]:
    days = np.array(timestamps, dtype=np.int64) // _DAY_MS
    named = {day: day_of(day * _DAY_MS) for day in np.unique(days).tolist()}
    return [named[day] for day in days.tolist()]


def day_of(timestamp: int) -> str:
    """The day, in UTC, of milliseconds since 1970."""
    day = timestamp // _DAY_MS
    return str(np.datetime64(day, "D")) if 0 <= day <= _LAST_DAY else NO_DAY


def _header_column(headers: Sequence[Headers]) -> Any:
    if not any(headers):
        offsets = pa.array(np.zeros(len(headers) + 1, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array([], _HEADER))
    offsets = np.zeros(len(headers) + 1, dtype=np.int32)
    np.cumsum([len(each) for each in headers], out=offsets[1:])
    flat = list(chain.from_iterable(headers))
    names = pa.array([name for name, _ in flat], pa.string())
    values = pa.array([value for _, value in flat], pa.binary())
    pairs = pa.StructArray.from_arrays([names, values], fields=list(_HEADER))
    return pa.ListArray.from_arrays(pa.array(offsets), pairs)


def divided(table: pa.Table, homes: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], pa.Table]]:
    """The rows of each day and country, in the order they had."""
    if len(set(homes)) == 1:
        yield homes[0], table
        return
    numbers: dict[tuple[str, str], int] = {}
    of_rows = np.fromiter(
        (numbers.setdefault(home, len(numbers)) for home in homes), dtype=np.int32, count=len(homes)
    )
    for home, number in numbers.items():
        yield home, table.take(pa.array(np.flatnonzero(of_rows == number)))


def file_of(tables: Sequence[pa.Table]) -> bytes:
    """The bytes of a Parquet file with the rows of the tables; the same for the same rows."""
    table = pa.concat_tables(tables).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_A_GROUP,
        compression="zstd",
        compression_level=3,
        use_dictionary=list(_OF_FEW_VALUES),
        column_encoding=dict(_OF_STEPS),
        # the bounds of whole JSON texts and keys would help nobody to skip a row group
        write_statistics=["offset", "appended_at", "placed_at", "order_id", "customer_id", "amount"],
        version="2.6",
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


# ---------------------------------------------------------------------- columns to records


def as_current(table: pa.Table, names: Sequence[str] = SCHEMA.names) -> pa.Table:
    """These columns of a table of any version: what it lacks is null, what a later one has is passed over."""
    there = set(table.column_names)
    fields = [SCHEMA.field(name) for name in names]
    columns = [
        table.column(field.name).cast(field.type) if field.name in there else pa.nulls(len(table), field.type)
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields, SCHEMA.metadata))


def records_in(topic: str, table: pa.Table, *, with_erased: bool = False) -> list[Record]:
    """The rows as the records they were made of; of an erased one nothing but its place is left to tell."""
    marks = table.column("erased")
    if not with_erased and marks.null_count < len(marks) and pc.any(marks).as_py():
        table = table.filter(pc.invert(pc.fill_null(marks, fill_value=False)))
    table = table.combine_chunks()
    appended = table.column("appended_at").cast(pa.int64())
    make = zip(
        repeat(topic, len(table)),
        table.column("partition").to_numpy().tolist(),
        table.column("offset").to_numpy().tolist(),
        pc.fill_null(appended, -1).to_numpy().tolist(),
        _bytes_in(table.column("key")),
        _bytes_in(table.column("value")),
        _headers_in(table.column("headers")),
        strict=True,
    )
    # without the call of Python's that Record._make would be
    return list(map(tuple.__new__, repeat(Record), make))


def digests_in(topic: str, table: pa.Table) -> list[bytes]:
    """Of each row the digest of the record it was made of; of erased ones the digest that was kept."""
    digests = digests_of(records_in(topic, table, with_erased=True))
    if table.column("erased").null_count == len(table) or not pc.any(table.column("erased")).as_py():
        return digests
    kept = table.column("digest").to_pylist()
    marks = table.column("erased").to_pylist()
    return [(old or b"") if mark else new for mark, old, new in zip(marks, kept, digests, strict=True)]


def _whole(column: Any) -> Any:
    """A column of one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _bytes_in(column: Any) -> list[Any]:
    """Each value's bytes; many times as quick as to_pylist, which makes an object of Arrow's of each."""
    column = _whole(column)
    if not len(column):
        return []
    _, ends, content = column.buffers()
    bounds = np.frombuffer(ends, dtype=np.int32)[column.offset : column.offset + len(column) + 1].tolist()
    first = bounds[0]
    whole = b"" if content is None else memoryview(content)[first : bounds[-1]].tobytes()
    values: list[Any] = [whole[begin - first : end - first] for begin, end in pairwise(bounds)]
    if column.null_count:
        for at in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
            values[at] = None
    return values


def _headers_in(column: Any) -> Iterable[Headers]:
    column = _whole(column)
    names, values = (_whole(each) for each in column.flatten().flatten())
    if not len(names):
        return repeat((), len(column))
    pairs = zip(names.to_pylist(), _bytes_in(values), strict=True)
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy().tolist()
    return [tuple(islice(pairs, count)) for count in counts]
