"""Every data file that holds orders, mapped, published and decided; rows in = decisions + refusals + rejects.

    python tests/bench/own_data.py                 # the whole of every file, 1,024,378 rows
    python tests/bench/own_data.py --rows 5000     # the first of each
    python tests/bench/own_data.py --only ms       # one file

Each file goes through its mapping in tests/mappings into topics of its own, and one worker started as a user
would start it decides it. The Handbook's transactions are also published as JSON lines and as Parquet.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from confluent_kafka import Consumer, TopicPartition

from features.mapping import RowMapping
from stream.mapping import load_mapping
from stream.publish import Published, Ready, planned, publish_file, ready_rows
from stream.settings import Settings, Topics
from stream.sources import Source
from tests.bench.results import Cell, record
from tests.faults.stage import (
    StageError,
    end_on_sigterm,
    make_topics,
    publish_starter,
    running_broker,
    temporary_home,
)
from tests.own_data import FILES, data_file, mapping_file
from tests.running import Worker

SILENCE_S = 120.0
COLUMNS = (
    "rows", "sent", "refused", "decisions", "rejected", "published/s", "CPU µs a row", "decisions/s",
)  # fmt: skip


def sent(
    settings: Settings, file: Path, mapping: RowMapping | None, rows: int | None
) -> tuple[Published, float]:
    """What became of the rows, and the publisher's own CPU seconds."""
    began = time.process_time()
    with Source(str(file), None if mapping is None else mapping.source) as source:
        done = publish_file(
            settings, source, planned(settings, source, mapping, beside=file.parent, limit=rows)
        )
    return done, time.process_time() - began


def counted(settings: Settings, topic: str, most: int) -> int:
    """How many committed records the topic holds, once it holds so many or grows no more."""
    consumer = Consumer(
        settings.confluent(group_id="reader", isolation_level="read_committed", enable_auto_commit=False)
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.partitions)])
    count, grew_at = 0, time.monotonic()
    while time.monotonic() < grew_at + (SILENCE_S if count < most else 2.0):
        found = sum(each.error() is None for each in consumer.consume(5_000, 0.2))
        count += found
        if found:
            grew_at = time.monotonic()
    consumer.close()
    return count


def play(home: Path, broker: str, name: str, rows: int | None) -> tuple[list[Cell], str]:
    """One file's figures, and what is wrong with them."""
    settings = Settings(
        broker=broker, home=home, partitions=4, topics=Topics(prefix=f"{name}."), group=name, worker=name
    )
    make_topics(settings)
    done, cpu = sent(settings, data_file(name), load_mapping(mapping_file(name)), rows)
    with Worker(settings, home / f"{name}.log") as worker:
        began = time.monotonic()
        decided = counted(settings, settings.topics.decisions, done.sent)
        seconds = time.monotonic() - began - 2.0
        if worker.stop() != 0:
            raise StageError(f"the worker of {name} did not stop cleanly: {home / name}.log")
    rejected = counted(settings, settings.topics.rejected, 0)
    wrong = "" if decided == done.sent and done.rows == decided + done.refused else f"{name} does not add up"
    figures: list[Cell] = [
        done.rows, done.sent, done.refused, decided, rejected,
        done.sent / done.seconds, cpu / max(done.rows, 1) * 1e6, decided / seconds,
    ]  # fmt: skip
    return figures, wrong


def same_rows_otherwise(home: Path, broker: str, rows: int | None) -> dict[str, list[Cell]]:
    """The Handbook's transactions as JSON lines of the contract and as Parquet of its own columns."""
    import pyarrow.csv  # type: ignore[import-untyped] # noqa: PLC0415
    import pyarrow.parquet  # type: ignore[import-untyped] # noqa: PLC0415

    mapping = load_mapping(mapping_file("handbook"))
    lines, parquet = home / "handbook.jsonl", home / "handbook.parquet"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(data_file("handbook")), parquet)
    with Source(str(data_file("handbook"))) as source, lines.open("wb") as out:
        for each in ready_rows(source, planned(Settings(), source, mapping, limit=rows)):
            if isinstance(each, Ready):
                out.write(each.value + b"\n")
    figures: dict[str, list[Cell]] = {}
    for name, file, by in (("JSON lines", lines, None), ("Parquet", parquet, mapping)):
        prefix = name.partition(" ")[0].lower()
        settings = Settings(
            broker=broker, home=home, partitions=4, topics=Topics(prefix=f"{prefix}."), group=prefix
        )
        make_topics(settings)
        done, cpu = sent(settings, file, by, rows)
        rate = done.sent / done.seconds
        figures[f"handbook, {name}"] = [
            done.rows, done.sent, done.refused, None, None, rate, cpu / max(done.rows, 1) * 1e6, None,
        ]  # fmt: skip
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Publish, decide, count; 1 when the rows of any file do not add up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, help="the first so many of each file; all when absent")
    parser.add_argument("--only", choices=FILES, help="this file alone")
    parser.add_argument("--smoke", action="store_true", help="the first 300 of one file, nothing recorded")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.rows, arguments.only = 300, "ms"
    names = [arguments.only] if arguments.only else list(FILES)
    if not all(data_file(name).exists() for name in names):
        print("needs ../shared/data", file=sys.stderr)
        return 2
    end_on_sigterm()
    figures: dict[str, list[Cell]] = {}
    wrong: list[str] = []
    with temporary_home("own-data") as home, running_broker(home) as broker:
        publish_starter(Settings(home=home), "logistic_regression")
        if "handbook" in names:
            figures |= same_rows_otherwise(home, broker.bootstrap, arguments.rows)
        for name in names:
            figures[name], amiss = play(home, broker.bootstrap, name, arguments.rows)
            wrong += [amiss] * bool(amiss)
            print(json.dumps({name: figures[name]}), file=sys.stderr)
    record(
        "Own data",
        figures,
        "One worker with a logistic regression, 4 partitions; all on one machine, which others used as well. "
        "Decisions a second include the worker's start." + "".join(f" WRONG: {each}." for each in wrong),
        columns=COLUMNS,
        keep=not (arguments.smoke or arguments.rows or arguments.only),
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
