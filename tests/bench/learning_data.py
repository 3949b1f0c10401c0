"""Labelled data sets as a shop would have them: published with their outcomes, archived, turned into arrays.

What the benches of learning share. Each data set's orders go through `publish --history` by its mapping and
its labels as outcomes, known when a shop would have known them, into a real broker; the topics are archived,
and everything else is read from that archive.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from features.define import Feature
from stream.archive import ArchivableTopics, Archive, Limits
from stream.archive_place import Place
from stream.mapping import load_mapping
from stream.publish import planned, publish_file
from stream.recorded import Recorded, recorded_of
from stream.replay_files import replay_to
from stream.settings import Settings, Topics
from stream.sources import Source
from stream.training_set import Chosen, TrainingRows, TrainingSet
from tests.faults.stage import StageError, make_topics, running_broker
from tests.own_data import data_file, mapping_file

DAY = timedelta(days=1)
START_OF_SFFSD = datetime(2024, 1, 1, tzinfo=UTC)
"""As its mapping says."""


@dataclass(frozen=True)
class Labels:
    """How a data set's labels are read: a column, which values are known, and how long a shop waits."""

    order_id: Callable[[dict[str, str]], str]
    placed_at: Callable[[dict[str, str]], datetime]
    customer_id: str
    column: str
    fraud: frozenset[str]
    legitimate: frozenset[str]
    """Empty: only frauds are said, as by chargebacks."""
    known_after: timedelta


def _utc(column: str, row: dict[str, str]) -> datetime:
    return datetime.fromisoformat(row[column]).replace(tzinfo=UTC)


def _second(row: dict[str, str]) -> datetime:
    return START_OF_SFFSD + timedelta(seconds=int(row["Time"]))


DATA_SETS = {
    "handbook": Labels(
        lambda row: row["TRANSACTION_ID"],
        partial(_utc, "TX_DATETIME"),
        *("CUSTOMER_ID", "TX_FRAUD"),
        *(frozenset({"1"}), frozenset()),
        7 * DAY,
    ),
    "sffsd": Labels(
        lambda row: f"s{row['Time']}",
        _second,
        *("Source", "Labels"),
        *(frozenset({"1"}), frozenset({"0"})),
        timedelta(seconds=1),
    ),
    "evalml": Labels(
        lambda row: row["id"],
        partial(_utc, "datetime"),
        *("card_id", "fraud"),
        *(frozenset({"True"}), frozenset({"False"})),
        timedelta(seconds=1),
    ),
    "fraudecom": Labels(
        lambda row: f"p{row['user_id']}",
        partial(_utc, "purchase_time"),
        *("user_id", "class"),
        *(frozenset({"1"}), frozenset({"0"})),
        7 * DAY,
    ),
}


def outcomes(name: str, most: int | None = None) -> Iterator[bytes]:
    """The labels of a data set as outcomes, in JSON of the contract, as they became known."""
    how = DATA_SETS[name]
    told = []
    with gzip.open(data_file(name), "rt", newline="") as lines:
        for row in islice(csv.DictReader(lines), most):
            label = row[how.column]
            if label not in how.fraud | how.legitimate:
                continue
            placed_at = how.placed_at(row)
            known_at = placed_at + how.known_after
            said = {
                "order_id": how.order_id(row),
                "customer_id": row[how.customer_id],
                "kind": "chargeback" if label in how.fraud else "confirmed_legitimate",
                "is_fraud": label in how.fraud,
                "occurred_at": placed_at.isoformat(),
                "known_at": known_at.isoformat(),
            }
            told.append((known_at, json.dumps(said).encode()))
    for _, line in sorted(told):
        yield line


def settings_of(name: str, home: Path, broker: str) -> Settings:
    """Topics of their own for a data set."""
    return Settings(
        broker=broker, home=home / name, partitions=8, group=name, worker="bench",
        topics=Topics(prefix=f"{name}-"),
    )  # fmt: skip


def archived(names: Sequence[str], home: Path, most: int | None = None) -> dict[str, Settings]:
    """Publish the data sets with their outcomes, archive the topics, and stop the broker.

    One whose archive lies in `home` already is taken as it is.
    """
    there = {name: settings_of(name, home, "127.0.0.1:9") for name in names}
    missing = [name for name in names if not (home / name / "archive").exists()]
    if missing:
        with running_broker(home) as broker:
            for name in missing:
                _archive_one(name, settings_of(name, home, broker.bootstrap), most)
    return there


def _archive_one(name: str, settings: Settings, most: int | None) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    make_topics(settings)
    mapping = load_mapping(mapping_file(name))
    with Source(str(data_file(name)), mapping.source) as source:
        done = publish_file(settings, source, planned(settings, source, mapping, history=True, limit=most))
    labels = settings.home / "outcomes.jsonl"
    labels.write_bytes(b"\n".join(outcomes(name, most)) + b"\n")
    with Source(str(labels)) as source:
        said = publish_file(settings, source, planned(settings, source, None, kind="outcomes", history=True))
    if not done.sent or not said.sent or said.refused:
        raise StageError(f"{name}: {done.sent} orders and {said.sent} outcomes sent, {said.refused} refused")
    topics = [settings.topics.orders, settings.topics.outcomes]
    topic_source = ArchivableTopics(settings)
    try:
        with Archive(Place(str(settings.home / "archive")), Limits()) as archive:
            archive.append(topic_source, topics)
    finally:
        topic_source.close()


def opened(settings: Settings) -> Callable[[], Recorded]:
    """What opens a data set's archive, in whichever process."""
    return partial(recorded_of, settings, str(settings.home / "archive"))


def training_set(
    settings: Settings,
    features: Callable[[], Sequence[Feature]],
    chosen: Chosen,
    file: Path,
    *,
    processes: int = 1,
) -> TrainingSet:
    """A training set out of a data set's archive."""
    replay_to(TrainingRows(settings, features, chosen), opened(settings), file, processes=processes)
    return TrainingSet.open(file)


@contextmanager
def kept_or_temporary(kept: Path | None, temporary: Callable[[], Any]) -> Iterator[Path]:
    """A folder that is kept between runs, or one that is removed."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with temporary() as home:
        yield home
