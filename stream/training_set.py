"""Training sets: past orders, each with its features as of its own placing and its label as of a cut-off.

The features come out of `stream.replay.Features`, the worker's own code, or out of the decisions in which a
worker wrote them down. Labels come from the outcomes that were recorded, whenever those arrived; only what
was known by the cut-off counts, and only of orders that have matured (`models.labels`).

Nothing is held but histories and the labels of one part: rows go to a Parquet file, part by part, and are
read from there in pieces that fit the memory that may be used.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b, sha256
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec
import numpy as np

from features.define import Feature, features_digest
from features.events import Order, Outcome
from features.facts import Statement, statement_of
from models.examples import UNKNOWN, Examples
from models.labels import Label, Labelling
from stream.ports import Record
from stream.recorded import Recorded
from stream.replay import (
    OF_THE_ORDER,
    ROWS_AT_ONCE,
    Features,
    FeatureSheet,
    Kind,
    ReplayError,
    Sheet,
    Span,
    Tally,
    Told,
    event_in,
    of_the_order,
    refuse_unequal,
    spans_of,
)
from stream.settings import Settings
from stream.topics import TopicError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = [
    "LABELLED",
    "Chosen",
    "Logged",
    "TrainingRows",
    "TrainingSet",
    "TrainingSetError",
    "kept_in_sample",
    "logged_in",
]

LABELLED: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        **OF_THE_ORDER,
        "order_country": "text",
        "order_amount": "int64",
        "order_currency": "text",
        "is_fraud": "bool",
        "known_at": "moment",
        "caught_at": "moment",
        "weight": "float",
        "action": "text",
    }
)
"""What is said of an order beside its features; amounts in minor units, `is_fraud` null where unknown."""

ASKED: Final = b"fraudstream.asked"
"""In a file's metadata: how it was asked for."""

_A_CELL: Final = 8
_OF_A_ROW: Final = 400
"""Bytes, about, of a row's texts and times in memory."""
_PIECE: Final = 65_536


class TrainingSetError(ReplayError):
    """A training set can't be built or read as asked; the message says why and what to do."""


class Logged(NamedTuple):
    """What a decision wrote down."""

    features: Mapping[str, float | None]
    action: str
    model: str


class _Model(msgspec.Struct):
    name: str
    version: str


class _Decided(msgspec.Struct):
    order_id: str
    action: str
    revision: int = 0
    features: dict[str, float | None] = {}
    model: _Model | None = None
    repeat_of: str | None = None


_decision = msgspec.json.Decoder(_Decided).decode


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which orders come out, and how they are labelled.

    `since` and `until` are of `placed_at`. Of legitimate orders a share of `keep_legitimate` is kept, each
    standing for more of them by its weight; which ones says the order's id, so that it is always the same.
    `caught_since` is from when on frauds count as catching their customer; with `leave_out_caught` the
    orders of a customer are left out once a fraud of his was known. Test orders never come out.
    """

    labelling: Labelling
    since: datetime | None = None
    until: datetime | None = None
    countries: frozenset[str] = frozenset()
    keep_legitimate: float = 1.0
    unlabelled: bool = False
    """Whether orders come out of which it is not known whether they are fraud."""
    leave_out_caught: bool = False
    caught_since: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what would choose nothing."""
        if not 0 < self.keep_legitimate <= 1:
            raise TrainingSetError(
                "the share of legitimate orders that is kept lies above 0 and up to 1, "
                f"and {self.keep_legitimate} does not"
            )
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise TrainingSetError(f"no order is placed from {self.since} on and before {self.until}")

    def takes(self, order: Order) -> bool:
        """Whether it is among those that may come out, by what the order itself says."""
        placed_at = order.placed_at
        return (
            not order.test
            and (self.since is None or placed_at >= self.since)
            and (self.until is None or placed_at < self.until)
            and (not self.countries or order.country in self.countries)
        )

    def told(self) -> dict[str, Any]:
        """What was asked, to be written beside the rows."""
        labelling = self.labelling
        return {
            "as_of": labelling.as_of.isoformat(),
            "labels_mature_after_days": labelling.mature_after / timedelta(days=1),
            "silence": labelling.silence,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "countries": sorted(self.countries),
            "keep_legitimate": self.keep_legitimate,
            "unlabelled": self.unlabelled,
            "leave_out_caught": self.leave_out_caught,
            "caught_since": None if self.caught_since is None else self.caught_since.isoformat(),
        }


def kept_in_sample(order_id: str, share: float) -> bool:
    """Whether a legitimate order is in a sample of this share: always the same, and in all larger ones."""
    if share >= 1:
        return True
    return int.from_bytes(blake2b(order_id.encode(), digest_size=8).digest()) < share * 2**64


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """A replay of orders with features and labels; a `Job` of `stream.replay_files.replay_to`."""

    settings: Settings
    features: Callable[[], Sequence[Feature]]
    """Finds the features, in whichever process."""
    chosen: Chosen
    from_decisions: bool = False
    """Whether the features are those that the decisions wrote down, instead of computed ones."""
    _of: Features = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Everything that makes features is what any replay does."""
        replayed = _none if self.from_decisions else self.features
        object.__setattr__(self, "_of", Features(self.settings, replayed))

    def inputs(self, recorded: Recorded) -> Span:
        """Orders, what became of them, and the decisions where they are there."""
        found = dict(self._of.inputs(recorded))
        names = self.settings.topics
        partitions = sorted({partition for topic, partition in found if topic == names.orders})
        for topic in (names.outcomes, names.decisions):
            try:
                count = recorded.partitions(topic)
            except TopicError:
                if topic == names.outcomes:
                    raise TrainingSetError(
                        f"there is no topic '{topic}', and without outcomes nobody knows what was fraud; "
                        "publish them (docs/own-data.md), or name the topic in the settings"
                    ) from None
                continue
            refuse_unequal({names.orders: recorded.partitions(names.orders), topic: count})
            found |= spans_of(recorded, topic, partitions)
        if self.from_decisions and not any(topic == names.decisions for topic, _ in found):
            raise TrainingSetError(f"there is no topic '{names.decisions}'; compute the features instead")
        return found

    def parts(self, spans: Span) -> list[tuple[int, ...]]:
        """Each partition by itself, unless a history crosses them."""
        return self._of.parts(spans)

    def sheet(self) -> Sheet:
        """What LABELLED names, then a column for each feature."""
        features = self.features()
        asked = {
            **self.chosen.told(),
            "declarations": {
                each.name: sha256(json.dumps(each.declaration).encode()).hexdigest() for each in features
            },
            "features_digest": features_digest(features),
            "from_decisions": self.from_decisions,
            "row_limit": self.settings.row_limit,
        }
        return FeatureSheet(features, LABELLED, {ASKED: json.dumps(asked).encode()})

    def rows(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """The chosen orders with their labels, in recorded order."""
        rows: list[tuple[Any, ...]] = []
        for row in self._labelled(recorded, spans, part, tally, told):
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    def _labelled(
        self, recorded: Recorded, spans: Span, part: Sequence[int], tally: Tally, told: Told
    ) -> Iterator[tuple[Any, ...]]:
        chosen, labelling, names = self.chosen, self.chosen.labelling, self.settings.topics
        said = statements_in(recorded, spans, names.outcomes, part, tally)
        logged = logged_in(recorded, spans, names.decisions, part, with_features=self.from_decisions)
        caught: dict[str, datetime] = {}
        label: Label | None = None
        share = chosen.keep_legitimate
        out = Counter[str]()

        def wanted(order: Order, _: Record) -> bool:
            # asked before the order is followed: its features are computed only where it comes out
            nonlocal label
            label = labelling.label(said.get(order.order_id, ()), order.placed_at)
            customer = order.customer_id
            since = caught.get(customer) if customer is not None else None
            if (
                label is not None
                and label.is_fraud
                and customer is not None
                and not order.test
                and (chosen.caught_since is None or order.placed_at >= chosen.caught_since)
            ):
                caught[customer] = label.known_at if since is None else min(since, label.known_at)
            if not chosen.takes(order):
                return False
            if label is None and not chosen.unlabelled:
                out["label_unknown"] += 1
                return False
            if chosen.leave_out_caught and since is not None and since <= order.placed_at:
                out["customer_caught"] += 1
                return False
            if label is not None and not label.is_fraud and not kept_in_sample(order.order_id, share):
                out["not_sampled"] += 1
                return False
            if self.from_decisions and (order.order_id, order.revision) not in logged:
                out["not_decided"] += 1
                return False
            return True

        topics = self._of.topics()
        follows = {tp: span for tp, span in spans.items() if tp[0] in topics}
        features = self.features() if self.from_decisions else ()
        for record, order, computed in self._of.followed(recorded, follows, part, tally, told, wanted=wanted):
            since = caught.get(order.customer_id) if order.customer_id is not None else None
            decided = logged.get((order.order_id, order.revision))
            vector = computed
            if self.from_decisions and decided is not None:
                vector = np.array([_written(decided, each.name) for each in features], np.float64)
            yield (
                *of_the_order(order, record),
                *(order.country, order.amount, order.currency),
                *((None, None) if label is None else (label.is_fraud, label.known_at)),
                since if since is not None and since <= order.placed_at else None,
                1.0 if label is None or label.is_fraud else 1.0 / share,
                None if decided is None else decided.action,
                vector.tobytes(),
            )
        tally.left_out += out


def _none() -> Sequence[Feature]:
    return ()


def _written(decided: Logged, name: str) -> float | None:
    try:
        return decided.features[name]
    except KeyError:
        raise TrainingSetError(
            f"decisions by {decided.model} have no feature '{name}'; choose features of that model, "
            "or compute them"
        ) from None


def statements_in(
    recorded: Recorded, spans: Span, topic: str, part: Sequence[int], tally: Tally
) -> Mapping[str, Sequence[Statement]]:
    """What was said of the orders of some partitions, by order, in the order in which it was recorded."""
    said: defaultdict[str, list[Statement]] = defaultdict(list)
    for each in part:
        begin, end = spans[topic, each]
        for record in chain.from_iterable(recorded.read((topic, each), begin, end)):
            outcome = event_in(record, Outcome)
            if isinstance(outcome, str):
                tally.note(record, "bad_event", outcome)
            else:
                said[outcome.order_id].append(statement_of(outcome))
    return said


def logged_in(
    recorded: Recorded, spans: Span, topic: str, part: Sequence[int], *, with_features: bool = True
) -> Mapping[tuple[str, int], Logged]:
    """What decisions wrote down of the orders of some partitions, by order and revision; the first counts.

    Orders that nobody scored are not there.
    """
    found: dict[tuple[str, int], Logged] = {}
    for each in part:
        begin, end = spans.get((topic, each), (0, 0))
        for record in chain.from_iterable(recorded.read((topic, each), begin, end)) if begin < end else ():
            try:
                said = _decision(record.value or b"")
            except msgspec.MsgspecError:
                continue  # not a decision about an order that could be read
            if said.model is not None and said.repeat_of is None:
                by = f"{said.model.name}@{said.model.version}"
                features = said.features if with_features else {}
                found.setdefault((said.order_id, said.revision), Logged(features, said.action, by))
    return found


# ---------------------------------------------------------------------- what was written


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A training set in a Parquet file."""

    file: Path
    names: tuple[str, ...]
    """Its features."""
    rows: int
    told: Mapping[str, Any]
    """How it was asked for; empty where the file does not say."""

    @classmethod
    def open(cls, file: Path) -> Self:
        """The training set in a file. Raises TrainingSetError for what is none."""
        import pyarrow as pa  # noqa: PLC0415 - half a second, and only for tables
        import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415

        try:
            with pq.ParquetFile(file) as opened:
                schema, rows = opened.schema_arrow, opened.metadata.num_rows
        except (pa.ArrowException, FileNotFoundError) as error:
            raise TrainingSetError(
                f"'{file}' can't be read as a training set ({error}); make one: fraudstream training-set"
            ) from None
        missing = [name for name in LABELLED if name not in schema.names]
        if missing:
            raise TrainingSetError(
                f"'{file}' is no training set, it has no column '{missing[0]}'; "
                "make one: fraudstream training-set"
            )
        told = (schema.metadata or {}).get(ASKED, b"{}")
        names = tuple(name for name in schema.names if name not in LABELLED)
        return cls(file, names, rows, MappingProxyType(json.loads(told)))

    @property
    def bytes_in_memory(self) -> int:
        """What all of it takes as arrays, about."""
        return self.rows * (_A_CELL * len(self.names) + _OF_A_ROW)

    def chunks(self, rows: int = _PIECE, *, names: Sequence[str] | None = None) -> Iterator[Examples]:
        """The orders in the order of the file, so many at once; with `names` only these features."""
        import pyarrow.parquet as pq  # noqa: PLC0415

        names = self.names if names is None else names
        with pq.ParquetFile(self.file) as opened:
            for batch in opened.iter_batches(rows, columns=[*LABELLED, *names]):
                yield _examples(batch, names)

    def examples(self, *, memory: int | None = None, names: Sequence[str] | None = None) -> Examples:
        """All orders, in the order of their `placed_at`, those of one moment by their place in the log.

        With `names` only these features. Raises TrainingSetError where they would take more memory.
        """
        if memory is not None and self.bytes_in_memory > memory:
            fits = memory / self.bytes_in_memory
            raise TrainingSetError(
                f"'{self.file}' takes about {self.bytes_in_memory / 1e9:.1f} GB in memory and may take "
                f"{memory / 1e9:.1f}; read it in chunks, or build it with --keep-legitimate {fits:.1g}"
            )
        import pyarrow.parquet as pq  # noqa: PLC0415

        parts = list(self.chunks(names=names))
        if not parts:
            raise TrainingSetError(f"'{self.file}' has no orders; choose more of them")
        places = pq.read_table(self.file, columns=["offset", "partition", "placed_at"])
        order = np.lexsort([places.column(name).to_numpy() for name in places.column_names])
        fields = [name for name in Examples.__dataclass_fields__ if name != "names"]
        joined = {name: np.concatenate([getattr(each, name) for each in parts])[order] for name in fields}
        return Examples(names=parts[0].names, **joined)


def _examples(batch: "pa.RecordBatch", names: Sequence[str]) -> Examples:
    import pyarrow as pa  # noqa: PLC0415

    def texts(name: str) -> Any:
        return batch.column(name).to_numpy(zero_copy_only=False)

    def moments(name: str) -> Any:
        # numpy knows no zones: all are in UTC
        return batch.column(name).cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)

    def numbers(name: str) -> Any:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.indices
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)

    is_fraud = batch.column("is_fraud")
    labels = is_fraud.cast(pa.int8()).fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
    matrix = np.empty((batch.num_rows, len(names)))
    for at, name in enumerate(names):
        matrix[:, at] = numbers(name)
    return Examples(
        names=tuple(names),
        matrix=matrix,
        labels=labels,
        weights=numbers("weight"),
        placed_at=moments("placed_at"),
        known_at=moments("known_at"),
        caught_at=moments("caught_at"),
        order_id=texts("order_id"),
        customer_id=texts("customer_id"),
        country=texts("order_country"),
        amount=numbers("order_amount"),
        action=texts("action"),
    )
