"""How far a group is behind: where every partition stands, what waits in it, and who owns it.

Read from outside, with and without a worker running: nothing is joined, committed or changed.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition
from rich.markup import escape
from rich.table import Table

from stream.kafka import KafkaCluster, once_it_answers
from stream.keeping import ROWS
from stream.ports import TP
from stream.settings import Settings
from stream.topics import existing, partitions_of
from stream.writer import Owner

__all__ = ["Held", "PartitionLag", "held_by_transactions", "left_on_the_road", "read_lag", "shown"]

_FIRST_RECORDS_S = 3.0


@dataclass(frozen=True, slots=True)
class Held:
    """A partition whose newest records are held back from readers by a transaction that is still open."""

    topic: str
    partition: int
    records: int
    """How many offsets lie behind the open transaction's first."""
    open_s: float | None
    """Seconds since that transaction's first record; None where it ended while we looked."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Where the group stands in one partition of an input."""

    topic: str
    partition: int
    position: int | None
    """The group's committed offset: the next order to be decided; None before the first worker."""
    end: int
    """The offset after the last record."""
    waiting: int
    """Records from the position to the end; transaction markers count, unless only they wait."""
    oldest_s: float | None
    """Seconds since the oldest waiting record arrived; None when none waits, or none could be read."""
    owner: str | None
    """The worker that committed last; None before the first."""
    owner_lives: bool
    """Whether that worker is in the group now."""
    held: int
    """How many of the waiting records an open transaction of their sender holds back."""
    held_s: float | None
    """For how many seconds it has been open."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        return asdict(self)


def read_lag(settings: Settings) -> list[PartitionLag]:
    """The lag of every partition of every input, by topic and partition.

    Ages are this machine's clock against the broker's. Raises TopicError when a topic is missing or no
    broker answers, Unreachable or Refused when the cluster does not tell.
    """
    return _read(settings, partitions_of(settings, *settings.inputs))


def left_on_the_road(settings: Settings) -> dict[str, int]:
    """How many records wait in the stages of entities that are not in the settings any more, by entity.

    No worker with these settings would ever take them: the orders in them would never be decided. Raises as
    `read_lag` does.
    """
    topics = {
        settings.topics.by(entity): entity
        for entity in ROWS
        if entity not in ("customer", *settings.entities)
    }
    left: dict[str, int] = {}
    for topic, count in existing(settings, topics).items():
        lags = _read(settings, {topic: count})
        if all(each.position is None for each in lags):
            continue  # another group's
        # where only an open transaction or markers wait, nothing ever will
        waiting = sum(each.waiting for each in lags if each.oldest_s is not None or not each.held)
        if waiting:
            left[topics[topic]] = waiting
    return left


def _read(settings: Settings, counts: Mapping[str, int]) -> list[PartitionLag]:
    tps = [(topic, partition) for topic, count in counts.items() for partition in range(count)]
    with closing(KafkaCluster(settings, quiet=True)) as cluster:
        committed = once_it_answers(cluster.committed, tps, stable=False)
        living = once_it_answers(cluster.roll_call)
        bounds = {tp: once_it_answers(cluster.bounds, tp) for tp in tps}
        stables = {tp: once_it_answers(cluster.bounds, tp, stable=True)[1] for tp in tps}
    lows, highs = ({tp: each[end] for tp, each in bounds.items()} for end in (0, 1))
    positions = {
        tp: lows[tp] if (offset := committed[tp]) is None else max(offset.offset, lows[tp]) for tp in tps
    }
    oldest = _first_times(settings, {tp: positions[tp] for tp in tps if positions[tp] < stables[tp]})
    held_back = {
        (held.topic, held.partition): held for held in held_by_transactions(settings, tps, highs, stables)
    }
    now = time.time()
    lags = []
    for tp in tps:
        owner = Owner.of(committed[tp])
        held = held_back.get(tp)
        waiting = max(0, highs[tp] - positions[tp])
        if held is None and oldest.get(tp, 0) is None:
            waiting = 0  # up to the end there are only markers and what was aborted
        first = oldest.get(tp)
        lags.append(
            PartitionLag(
                topic=tp[0],
                partition=tp[1],
                position=None if (offset := committed[tp]) is None else offset.offset,
                end=highs[tp],
                waiting=waiting,
                oldest_s=None if first is None else max(0.0, round(now - first, 3)),
                owner=owner.name or None,
                owner_lives=owner.member in living,
                held=0 if held is None else held.records,
                held_s=None if held is None else held.open_s,
            )
        )
    return lags


def shown(lags: Sequence[PartitionLag]) -> Table:
    """The lags as a table for a person, with their sum."""
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("partition")
    waiting = sum(each.waiting for each in lags)
    oldest = max((each.oldest_s for each in lags if each.oldest_s is not None), default=None)
    held = sum(each.held for each in lags)
    for name, footer in (
        ("position", ""),
        ("end", ""),
        ("waiting", f"{waiting:,}"),
        ("oldest", _age(oldest)),
        ("held", f"{held:,}"),
    ):
        table.add_column(name, footer=footer, justify="right")
    table.add_column("owner")
    for each in lags:
        open_for = f" ({_age(each.held_s)})" if each.held else ""
        owner = each.owner or "nobody yet"
        table.add_row(
            f"{each.topic}/{each.partition}",
            "-" if each.position is None else f"{each.position:,}",
            f"{each.end:,}",
            f"{each.waiting:,}",
            _age(each.oldest_s),
            f"{each.held:,}{open_for}",
            escape(owner) if each.owner_lives or each.owner is None else f"{escape(owner)} [red](gone)[/]",
        )
    return table


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def held_by_transactions(
    settings: Settings,
    tps: Iterable[TP],
    highs: Mapping[TP, int],
    stables: Mapping[TP, int],
    *,
    clock: Callable[[], float] = time.time,
) -> list[Held]:
    """The partitions whose last stable offset is behind their high watermark, and since when.

    `stables` must have been read after `highs`: a transaction that ended in between holds nothing.
    """
    behind = {tp: stables[tp] for tp in tps if stables[tp] < highs[tp]}
    began = _first_times(settings, behind, committed=False)
    now = clock()
    return [
        Held(
            tp[0],
            tp[1],
            highs[tp] - stable,
            None if (first := began.get(tp)) is None else max(0.0, round(now - first, 3)),
        )
        for tp, stable in behind.items()
    ]


def _first_times(
    settings: Settings, positions: Mapping[TP, int], *, committed: bool = True
) -> dict[TP, float | None]:
    """When the first record at or after each position was appended, in seconds since 1970.

    None where nothing but markers and aborted records follows; a partition that did not answer in time is
    left out.
    """
    if not positions:
        return {}
    consumer = Consumer(
        settings.confluent(
            group_id=f"{settings.group}-lag",
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed" if committed else "read_uncommitted",
            max_partition_fetch_bytes=1024,  # the first record comes whatever its size; no more is wanted
            fetch_wait_max_ms=10,
            log_level=0,
        )
    )
    found: dict[TP, float | None] = {}
    try:
        consumer.assign([TopicPartition(*tp, offset) for tp, offset in positions.items()])
        deadline = time.monotonic() + _FIRST_RECORDS_S
        while len(found) < len(positions) and time.monotonic() < deadline:
            for message in consumer.consume(100, 0.05):
                tp = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if tp in found:
                    continue
                if error is None:
                    found[tp] = message.timestamp()[1] / 1000
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    found[tp] = None
                else:
                    continue
                consumer.pause([TopicPartition(*tp)])
    finally:
        consumer.close()
    return found
