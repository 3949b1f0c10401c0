"""A record's bytes become an order: by our contract, or by the mapping of a shop that sends its own JSON.

The place for another format (Avro or Protobuf with a schema registry) is a class with these two methods,
chosen in `decoder_of`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import orjson

from features.decode import Identity, Rejection, decode_order, identity_in
from features.events import LARGEST_RECORD, Order
from features.fast import Told, read_order
from features.mapping import MappingError, RowFault, RowMapping, at_path
from stream.mapping import MappingFileError, load_mapping
from stream.settings import Settings

__all__ = ["CONTRACT", "Decoder", "MappedDecoder", "decoder_of"]


class Decoder(Protocol):
    """What makes orders of records; whatever came, nothing is raised."""

    def order(
        self, value: bytes | None, *, key: bytes | None, arrived_at: int | None, ahead_by_at_most: timedelta
    ) -> Order | Told | Rejection:
        """The order in a record's value, or why there is none."""

    def identity(self, value: bytes | None) -> Identity:
        """Which order the value speaks of, where that can be read although the order can't."""


class _ContractDecoder:
    """Orders in JSON, as docs/contracts says."""

    def order(
        self, value: bytes | None, *, key: bytes | None, arrived_at: int | None, ahead_by_at_most: timedelta
    ) -> Order | Told | Rejection:
        """The order, read the fast way where that is sure to say the same."""
        return read_order(
            value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most
        ) or decode_order(value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most)

    def identity(self, value: bytes | None) -> Identity:
        """Which order the value speaks of."""
        return identity_in(value)


CONTRACT: Decoder = _ContractDecoder()
"""The decoder of a shop that sends our contract."""


class MappedDecoder:
    """Orders in a shop's own JSON, as its mapping says; they decode to what `publish --map` would send."""

    def __init__(self, mapping: RowMapping, *, salt: bytes = b"") -> None:
        """Raise MappingError for a mapping that only files can have."""
        if mapping.kind != "orders":
            raise MappingError(f"kind = '{mapping.kind}', and a worker decides orders; map those")
        if mapping.only:
            raise MappingError(
                "a worker can't leave records out; take 'only' away, or send other records elsewhere"
            )
        self._columns = mapping.columns
        self._mapper = mapping.bind(self._columns, salt=salt)

    def order(
        self, value: bytes | None, *, key: bytes | None, arrived_at: int | None, ahead_by_at_most: timedelta
    ) -> Order | Rejection:
        """The order in a record's value, or why there is none."""
        if value is None or len(value) > LARGEST_RECORD:
            # said in the words of the contract, which only looks at the size
            return decode_order(value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most)
        row = self._row(value)
        if isinstance(row, Rejection):
            return row
        try:
            mapped = self._mapper.build(row)
        except RowFault as fault:
            return Rejection(fault.code, str(fault), *self._mapper.identity(row))
        return decode_order(mapped.value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most)

    def identity(self, value: bytes | None) -> Identity:
        """Which order the value speaks of."""
        if value is None or len(value) > LARGEST_RECORD:
            return Identity()
        row = self._row(value)
        return Identity() if isinstance(row, Rejection) else Identity(*self._mapper.identity(row), 0)

    def _row(self, value: bytes) -> Sequence[Any] | Rejection:
        try:
            content = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            detail = (
                f"value: expected JSON, got {len(value):,} bytes that are not ({error.msg}); send one object"
            )
            return Rejection("not_json", detail, None, None)
        if not isinstance(content, dict):
            detail = "$: expected an object, got something else; send one order a record"
            return Rejection("not_an_object", detail, None, None)
        return [at_path(content, name) for name in self._columns]


def decoder_of(settings: Settings) -> Decoder:
    """The decoder that the settings choose. Raises MappingFileError."""
    if settings.mapping is None:
        return CONTRACT
    mapping = load_mapping(settings.mapping)
    try:
        return MappedDecoder(mapping, salt=settings.hashing_salt())
    except MappingError as error:
        raise MappingFileError(f"mapping {settings.mapping}: {error}") from None
