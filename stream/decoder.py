"""A record's bytes become an order: by our contract, or by the mapping of a shop that sends its own JSON.

The place for another format (Avro or Protobuf with a schema registry) is a class with these two methods,
chosen in `decoder_of`.
"""

from datetime import timedelta
from typing import Protocol

from features.decode import Identity, Rejection, content_in, decode_order, identity_in, read_order
from features.events import LARGEST_RECORD, Order
from features.fast import Told, read_usual
from features.mapping import MappingError, RowFault, RowMapping, at_path, row_in
from stream.mapping import MappingFileError, load_mapping
from stream.ports import Record
from stream.settings import Settings

__all__ = ["CONTRACT", "Decoder", "MappedDecoder", "decoder_for", "decoder_of"]


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
        return read_usual(
            value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most
        ) or decode_order(value, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most)

    def identity(self, value: bytes | None) -> Identity:
        """Which order the value speaks of."""
        return identity_in(value)


CONTRACT: Decoder = _ContractDecoder()
"""The decoder of a shop that sends our contract."""


def decoder_for(record: Record, decoder: Decoder) -> Decoder:
    """The shop's decoder, or the contract's for what was imported into an archive.

    That was mapped when it was imported, by a mapping of its own, and it lies before offset 0.
    """
    return CONTRACT if record.offset < 0 else decoder


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
    ) -> Order | Told | Rejection:
        """The order in a record's value, or why there is none."""
        ours = value
        # what is missing or too large is said in the words of the contract, which only looks at the size
        if value is not None and len(value) <= LARGEST_RECORD:
            try:
                ours = self._mapper.build(row_in(value, self._columns)).value
            except RowFault as fault:
                code, detail, named = fault.code, str(fault), self.identity(value)
                if code == "not_json":
                    # what orjson cannot take, such as NaN: of the whole, the contract has the words
                    why = read_order(value)
                    if isinstance(why, Rejection) and why.detail.startswith("value: "):
                        code, detail = why.code, why.detail
                    elif content_in(value) is not None:
                        code = "not_finite"
                return Rejection(code, detail, *named)
        return CONTRACT.order(ours, key=key, arrived_at=arrived_at, ahead_by_at_most=ahead_by_at_most)

    def identity(self, value: bytes | None) -> Identity:
        """Which order the value speaks of."""
        if value is None or len(value) > LARGEST_RECORD:
            return Identity()
        content = content_in(value)
        if not isinstance(content, dict):
            return Identity()
        return self._mapper.identity([at_path(content, name) for name in self._columns])


def decoder_of(settings: Settings) -> Decoder:
    """The decoder that the settings choose. Raises MappingFileError."""
    if settings.mapping is None:
        return CONTRACT
    mapping = load_mapping(settings.mapping)
    try:
        return MappedDecoder(mapping, salt=settings.hashing_salt())
    except MappingError as error:
        raise MappingFileError(f"mapping {settings.mapping}: {error}") from None
