"""The recorded past, replayed from lists: what comes out, in which order, and what it knew."""

import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from features.aggregates import Count
from features.catalogue import SERVED, by_names
from features.define import Feature, compute, days
from features.events import Order
from features.replay import Replay
from stream.ports import TP, Headers, Record
from stream.replay import Bounds, Features, Job, Records, ReplayError, Tally, in_recorded_order
from stream.replay_files import Reading, replay_to
from stream.settings import Settings
from tests.recorded import Lists, opens
from tests.strategies import NOON

ORDERS, OUTCOMES, EVENTS = "orders", "outcomes", "order-events"
START = int(NOON.timestamp() * 1000)
HISTORY: Headers = (("mode", b"history"),)

Topics = dict[str, list[list[Record]]]


def order(number: int, customer: str = "c1", **fields: Any) -> bytes:
    told = {
        "order_id": f"o{number}",
        "customer_id": customer,
        "placed_at": (NOON + timedelta(minutes=number)).isoformat(),
        "amount": 1000 + number,
        "currency": "EUR",
    }
    return json.dumps(told | fields).encode()


def outcome(number: int, *, is_fraud: bool = True, minute: float = 0) -> bytes:
    at = (NOON + timedelta(minutes=minute)).isoformat()
    told = {"order_id": f"o{number}", "kind": "confirmed_fraud" if is_fraud else "reversal"}
    return json.dumps(told | {"is_fraud": is_fraud, "occurred_at": at, "known_at": at}).encode()


def arrived(
    topic: str,
    offset: int,
    value: bytes | None,
    *,
    minute: float | None = None,
    partition: int = 0,
    headers: Headers = (),
) -> Record:
    """A record that arrived so many minutes after noon, else as many as its offset says."""
    content = json.loads(value) if value and value.startswith(b"{") else {}
    key = str(content.get("customer_id", "c1")).encode()
    at = START + int(60_000 * (offset if minute is None else minute))
    return Record(topic, partition, offset, at, key, value, headers)


def a_past(count: int = 60, partitions: int = 3) -> Topics:
    """Orders of seven customers in three partitions."""
    past: list[list[Record]] = [[] for _ in range(partitions)]
    for number in range(count):
        mine = past[(number % 7) % partitions]
        value = order(number, f"c{number % 7}", country="DE" if number % 2 else "FR")
        mine.append(arrived(ORDERS, len(mine), value, minute=number, partition=(number % 7) % partitions))
    return {ORDERS: past}


def chosen(*names: str) -> Any:
    return partial(by_names, names)


def counted_by_device() -> Sequence[Feature]:
    return (Count(over=days(30), by="device"),)


def lines(job: Job, topics: Topics, *, tally: Tally | None = None) -> list[dict[str, Any]]:
    out = io.BytesIO()
    done = replay_to(job, opens(topics), out)
    if tally is not None:
        tally.add(done)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def features(topics: Topics, *names: str, bounds: Bounds | None = None, **settings: Any) -> Any:
    return lines(Features(Settings(**settings), chosen(*names), bounds or Bounds()), topics)


def places(job: Job, topics: Topics) -> list[tuple[str, int, int]]:
    return [(each["topic"], each["partition"], each["offset"]) for each in lines(job, topics)]


# Records ------------------------------------------------------------------------------------------


def test_records_come_partition_by_partition_by_their_offsets() -> None:
    past = a_past(9)
    past[ORDERS][0].pop(1)  # compaction and transactions leave gaps

    assert places(Records(Settings(), (ORDERS,)), past) == [
        *((ORDERS, 0, 0), (ORDERS, 0, 2), (ORDERS, 0, 3)),
        *((ORDERS, 1, 0), (ORDERS, 1, 1), (ORDERS, 1, 2)),
        *((ORDERS, 2, 0), (ORDERS, 2, 1)),
    ]


def test_several_topics_are_merged_by_arrival_and_outcomes_go_first_on_ties() -> None:
    topics = {
        ORDERS: [[arrived(ORDERS, n, order(n), minute=n) for n in range(3)]],
        EVENTS: [[arrived(EVENTS, 0, b"{}", minute=1)]],
        OUTCOMES: [[arrived(OUTCOMES, 0, outcome(0), minute=1), arrived(OUTCOMES, 1, outcome(1), minute=9)]],
    }

    assert places(Records(Settings(), (ORDERS, OUTCOMES, EVENTS)), topics) == [
        (ORDERS, 0, 0),
        *((OUTCOMES, 0, 0), (EVENTS, 0, 0), (ORDERS, 0, 1)),
        *((ORDERS, 0, 2), (OUTCOMES, 0, 1)),
    ]


def test_orders_stay_in_the_order_of_their_offsets_whatever_their_times() -> None:
    topics = {
        ORDERS: [[arrived(ORDERS, 0, order(0), minute=5), arrived(ORDERS, 1, order(1), minute=1)]],
        OUTCOMES: [[arrived(OUTCOMES, 0, outcome(0), minute=3)]],
    }

    assert places(Records(Settings(), (ORDERS, OUTCOMES)), topics) == [
        *((OUTCOMES, 0, 0), (ORDERS, 0, 0), (ORDERS, 0, 1))
    ]


def test_a_past_that_was_published_again_arrived_when_it_says_so() -> None:
    late = (("arrived_at", str(START).encode()),)
    topics = {
        ORDERS: [[arrived(ORDERS, 0, order(0), minute=0.5)]],
        OUTCOMES: [[arrived(OUTCOMES, 0, outcome(0), minute=99, headers=late)]],
    }

    assert places(Records(Settings(), (ORDERS, OUTCOMES)), topics) == [(OUTCOMES, 0, 0), (ORDERS, 0, 0)]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(since=NOON + timedelta(minutes=57)), {57, 58, 59}),
        (Bounds(until=NOON + timedelta(minutes=2)), {0, 1}),
        (Bounds(since=NOON + timedelta(minutes=1, microseconds=1), until=NOON + timedelta(minutes=3)), {2}),
        (Bounds(countries=frozenset({"DE"}), until=NOON + timedelta(minutes=5)), {1, 3}),
        (Bounds(customers=frozenset({"c3", "c4"}), until=NOON + timedelta(minutes=12)), {3, 4, 10, 11}),
        (Bounds(offsets={1: [(0, 1)], 2: [(0, 0)]}), {1, 4, 2}),
        (Bounds(offsets={2: [(15, None)]}), {54, 58}),
        (Bounds(partitions=frozenset({1, 2}), until=NOON + timedelta(minutes=3)), {1, 2}),
    ],
)
def test_bounds_say_which_records_and_which_orders_come_out(bounds: Bounds, expected: set[int]) -> None:
    past = a_past()
    settings = Settings()

    records = lines(Records(settings, (ORDERS,), bounds), past)
    orders = lines(Features(settings, chosen("amount"), bounds), past)

    assert {int(json.loads(each["value"])["order_id"][1:]) for each in records} == expected
    assert {int(each["order_id"][1:]) for each in orders} == expected


def test_of_large_records_few_are_in_memory_while_topics_are_merged() -> None:
    large = b"x" * 2**20
    topics = {
        topic: [[arrived(topic, offset, large, minute=offset) for offset in range(40)]]
        for topic in (ORDERS, OUTCOMES)
    }
    lists, taken, most = Counting(topics), 0, 0

    for _ in in_recorded_order(lists, [((topic, 0), (0, 40)) for topic in topics]):
        taken += 1
        most = max(most, lists.given - taken)

    assert taken == 80
    assert most <= 2 * 8


class Counting(Lists):
    """Lists that count what they have given."""

    given = 0

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        for chunk in super().read(tp, start, end):
            self.given += len(chunk)
            yield chunk


def test_bounds_that_a_topic_knows_nothing_of_are_refused() -> None:
    with pytest.raises(ReplayError, match="only orders say their country"):
        Records(Settings(), (ORDERS, OUTCOMES), Bounds(countries=frozenset({"DE"})))
    with pytest.raises(ReplayError, match="offsets are of one topic"):
        Records(Settings(), (ORDERS, OUTCOMES), Bounds(offsets={0: [(0, 1)]}))
    with pytest.raises(ReplayError, match="there is no partition 7, the topic has 3"):
        lines(Records(Settings(), (ORDERS,), Bounds(partitions=frozenset({7}))), a_past())


def test_a_record_is_told_whole_also_where_it_is_no_text() -> None:
    topics = {ORDERS: [[Record(ORDERS, 0, 4, -1, None, b"\xff\x00", (("shop", b"north"), ("raw", b"\xff")))]]}

    (told,) = lines(Records(Settings(), (ORDERS,)), topics)

    assert told == {
        "topic": ORDERS,
        "partition": 0,
        "offset": 4,
        "arrived_at": None,
        "key": None,
        "value_base64": "/wA=",
        "headers": [{"name": "shop", "value": "north"}, {"name": "raw", "value_base64": "/w=="}],
    }


def test_a_table_of_records_holds_every_byte(tmp_path: Path) -> None:
    headers: Headers = (("shop", b"\xff"), ("shop", b""))
    first = Record(ORDERS, 0, 7, 1_700_000_000_123, b"c1", b"\x00\xff", headers)
    topics = {ORDERS: [[first, Record(ORDERS, 0, 9, -1, None, None)]]}

    replay_to(Records(Settings(), (ORDERS,)), opens(topics), tmp_path / "all.parquet")

    assert pq.read_table(tmp_path / "all.parquet").to_pylist() == [
        {
            "topic": ORDERS,
            "partition": 0,
            "offset": 7,
            "key": b"c1",
            "value": b"\x00\xff",
            "arrived_at": datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC),
            "headers": [{"name": "shop", "value": b"\xff"}, {"name": "shop", "value": b""}],
        },
        {
            "topic": ORDERS,
            "partition": 0,
            "offset": 9,
            "key": None,
            "value": None,
            "arrived_at": None,
            "headers": [],
        },
    ]


# Features -----------------------------------------------------------------------------------------


def test_features_are_those_of_a_replay_of_the_partition_whatever_comes_out_of_it() -> None:
    past = a_past()
    job = Features(Settings(), partial(tuple, SERVED), Bounds(since=NOON + timedelta(minutes=30)))

    told = lines(job, past)

    expected = []
    for records in past[ORDERS]:
        known = Replay(partial(compute, SERVED), row_limit=512)
        for record in records:
            an_order = Order.model_validate_json(record.value or b"")
            vector = known.follow(an_order)
            assert isinstance(vector, tuple)
            values = [
                value if each.categories is None or value is None else each.categories[int(value)]
                for each, value in zip(SERVED, vector, strict=True)
            ]
            if an_order.placed_at >= NOON + timedelta(minutes=30):
                expected.append((an_order.order_id, record.partition, record.offset, values))
    assert [
        (each["order_id"], each["partition"], each["offset"], [each[f.name] for f in SERVED]) for each in told
    ] == expected
    assert len(expected) == 30


def test_an_order_that_is_not_wanted_still_makes_history() -> None:
    bounds = Bounds(offsets={0: [(2, 2)]})
    topics = {ORDERS: [[arrived(ORDERS, n, order(n)) for n in range(4)]]}

    (told,) = features(topics, "orders_count_30d", bounds=bounds)

    assert (told["order_id"], told["orders_count_30d"]) == ("o2", 2)


def test_an_order_knows_what_was_told_before_it_arrived_and_at_the_same_time() -> None:
    topics = {
        ORDERS: [[arrived(ORDERS, n, order(n, placed_at=NOON.isoformat()), minute=n) for n in range(2)]],
        OUTCOMES: [[arrived(OUTCOMES, 0, outcome(0, minute=-1), minute=1)]],
        EVENTS: [[]],
    }
    topics[ORDERS][0][1] = arrived(ORDERS, 1, order(1), minute=1)

    known = features(topics, "fraud_count_365d")
    topics[OUTCOMES][0][0] = arrived(OUTCOMES, 0, outcome(0, minute=-1), minute=2)
    unknown = features(topics, "fraud_count_365d")

    assert [each["fraud_count_365d"] for each in known] == [0, 1]
    assert [each["fraud_count_365d"] for each in unknown] == [0, 0]


def test_outcomes_are_left_alone_where_no_feature_asks_or_there_is_no_such_topic() -> None:
    topics = {ORDERS: [[arrived(ORDERS, 0, order(0))]], OUTCOMES: [[arrived(OUTCOMES, 0, b"nonsense")]]}
    tally = Tally()

    lines(Features(Settings(), chosen("amount")), topics, tally=tally)
    without = features({ORDERS: topics[ORDERS]}, "fraud_count_365d")

    assert (tally.read, tally.bad.total()) == (1, 0)
    assert [each["fraud_count_365d"] for each in without] == [0]


def test_bad_records_are_counted_with_their_place_and_stop_nothing() -> None:
    topics = {
        ORDERS: [
            [arrived(ORDERS, 0, b"not JSON"), arrived(ORDERS, 1, None), arrived(ORDERS, 2, order(2))],
            [arrived(ORDERS, 0, order(0, currency="EUX"), partition=1)],
        ],
        OUTCOMES: [[arrived(OUTCOMES, 0, b'{"order_id": "o2"}')], []],
    }
    tally = Tally()

    told = lines(Features(Settings(), chosen("fraud_count_365d")), topics, tally=tally)

    assert [each["order_id"] for each in told] == ["o2"]
    assert (tally.read, tally.out, sum(tally.bad.values())) == (5, 1, 4)
    assert [(str(each.place), each.code) for each in tally.bad_records] == [
        ("outcomes/0/0", "bad_event"),
        *(("orders/0/0", "not_json"), ("orders/0/1", "tombstone")),
        ("orders/1/0", "unknown_currency"),
    ]


def test_a_resend_comes_out_once_and_what_came_twice_with_other_content_is_counted() -> None:
    again = [order(0), order(0), order(0, amount=5), order(0, amount=5, revision=1)]
    topics = {ORDERS: [[arrived(ORDERS, n, value) for n, value in enumerate(again)]]}
    tally = Tally()

    told = lines(Features(Settings(), chosen("orders_count_30d")), topics, tally=tally)

    assert [(each["revision"], each["orders_count_30d"]) for each in told] == [(0, 0), (1, 0)]
    assert tally.left_out == {"repeated": 1, "conflicting_content": 1}


def test_what_was_only_to_be_remembered_says_so() -> None:
    topics = {ORDERS: [[arrived(ORDERS, 0, order(0), headers=HISTORY), arrived(ORDERS, 1, order(1))]]}

    assert [each["history"] for each in features(topics, "amount")] == [True, False]


def test_a_history_that_crosses_partitions_is_made_of_all_of_them_by_arrival() -> None:
    topics = {
        ORDERS: [
            [arrived(ORDERS, n, order(2 * n, "c1", device_id="d1"), minute=2 * n) for n in range(3)],
            [
                arrived(ORDERS, n, order(2 * n + 1, "c2", device_id="d1"), minute=2 * n + 1, partition=1)
                for n in range(3)
            ],
        ]
    }
    job = Features(Settings(), counted_by_device)
    (name,) = (each.name for each in counted_by_device())

    told = lines(job, topics)
    bounded = lines(Features(Settings(), counted_by_device, Bounds(partitions=frozenset({1}))), topics)

    assert [(each["order_id"], each[name]) for each in told] == [(f"o{n}", n) for n in range(6)]
    assert bounded == [each for each in told if each["partition"] == 1]


def test_inputs_with_different_partitions_are_refused() -> None:
    topics: Topics = {ORDERS: [[], []], OUTCOMES: [[]]}

    with pytest.raises(ReplayError, match="'orders' 2, 'outcomes' 1"):
        features(topics, "fraud_count_365d")


# Files and processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("what", ["records", "features"])
def test_two_processes_write_what_one_writes_byte_for_byte(tmp_path: Path, suffix: str, what: str) -> None:
    past = a_past(200)
    past[ORDERS][1].append(arrived(ORDERS, 999, b"bad", partition=1))
    names = ("orders_count_30d", "country_category", "amount_mean_30d")
    settings = Settings()
    job: Job = Records(settings, (ORDERS,)) if what == "records" else Features(settings, chosen(*names))
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    heard: list[Reading] = []

    alone = replay_to(job, opens(past), one)
    together = replay_to(job, opens(past), two, processes=2, told=heard.append)

    assert one.read_bytes() == two.read_bytes()
    assert alone == together
    assert heard[-1].read == alone.read == 201
    assert sorted(each.name for each in tmp_path.iterdir()) == [one.name, two.name]


def test_a_table_has_a_column_for_each_feature_with_all_categories(tmp_path: Path) -> None:
    job = Features(Settings(), chosen("amount", "country_category"))

    replay_to(job, opens(a_past(6)), tmp_path / "some.parquet")

    table = pq.read_table(tmp_path / "some.parquet")
    assert table.column_names == [
        *("order_id", "revision", "customer_id", "placed_at", "partition", "offset", "arrived_at", "history"),
        *("amount", "country_category"),
    ]
    assert sorted(table["amount"].to_pylist()) == [10 + n / 100 for n in range(6)]
    assert set(table["country_category"].to_pylist()) == {"DE", "FR"}


def test_a_file_that_could_not_be_written_whole_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text("before\n")

    def tired(_: Reading) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay_to(Records(Settings(), (ORDERS,)), opens(a_past()), file, told=tired)

    assert file.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_whose_name_says_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"end it with \.jsonl or \.parquet"):
        replay_to(Records(Settings(), (ORDERS,)), opens(a_past()), tmp_path / "all.csv")


def test_what_is_there_and_no_file_is_refused_by_its_name_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    read: list[Reading] = []

    for name in ("folder.jsonl", "pipe.jsonl"):
        with pytest.raises(ReplayError, match=f"{name}' is there and no file"):
            replay_to(Records(Settings(), (ORDERS,)), opens(a_past()), tmp_path / name, told=read.append)

    assert not read
    assert {each.name for each in tmp_path.iterdir()} == {"folder.jsonl", "pipe.jsonl"}
    assert (tmp_path / "pipe.jsonl").is_fifo()


def test_a_disk_that_gets_full_is_said_with_the_file_that_was_named(tmp_path: Path) -> None:
    def full(_: Reading) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*all\.jsonl'"):
        replay_to(Records(Settings(), (ORDERS,)), opens(a_past()), tmp_path / "all.jsonl", told=full)
    with pytest.raises(FileNotFoundError, match=r"nowhere/all\.jsonl'"):
        replay_to(Records(Settings(), (ORDERS,)), opens(a_past()), tmp_path / "nowhere" / "all.jsonl")
