"""Training sets out of a recorded past of lists: whose rows come out, as of when, and with which label."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from features.aggregates import Count, Share
from features.catalogue import amount
from features.define import days
from models.examples import UNKNOWN
from models.labels import Labelling
from stream.ports import Record
from stream.replay import Features, ReplayError
from stream.replay_files import replay_to
from stream.settings import Settings
from stream.training_set import Chosen, TrainingRows, TrainingSet, TrainingSetError
from tests.recorded import a_record, opens
from tests.strategies import NOON

DAY = timedelta(days=1)
ORDERS, OUTCOMES, DECISIONS = "orders", "outcomes", "decisions"
LABELLING = Labelling(NOON + 60 * DAY, 7 * DAY)

Topics = dict[str, list[list[Record]]]


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def order(number: int, customer: str = "c1", *, day: float | None = None, **fields: Any) -> Record:
    at = NOON + (number if day is None else day) * DAY
    told = {
        "order_id": f"o{number}",
        "customer_id": customer,
        "placed_at": at.isoformat(),
        "amount": 1000 + number,
        "currency": "EUR",
    }
    value = json.dumps(told | fields).encode()
    return a_record(ORDERS, 0, number, ms(at), value, key=customer.encode())


def outcome(number: int, day: float, *, is_fraud: bool = True, arrived: float | None = None) -> Record:
    """Known on that day, and arrived then unless the test says otherwise."""
    at = NOON + day * DAY
    told = {"order_id": f"o{number}", "kind": "chargeback" if is_fraud else "confirmed_legitimate"}
    told |= {"is_fraud": is_fraud, "occurred_at": at.isoformat(), "known_at": at.isoformat()}
    when = NOON + (day if arrived is None else arrived) * DAY
    return a_record(OUTCOMES, 0, -1, ms(when), json.dumps(told).encode(), key=b"c1")


def past(*records: Record) -> Topics:
    topics: Topics = {ORDERS: [[]], OUTCOMES: [[]]}
    for each in sorted(records, key=lambda record: record.timestamp):
        mine = topics.setdefault(each.topic, [[]])[0]
        mine.append(each._replace(offset=len(mine)))
    return topics


FEATURES = (amount, Count(over=days(30)))


def some() -> Any:
    return FEATURES


def knowing() -> Any:
    return (amount, Share("fraud", over=days(30)))


def rows_of(topics: Topics, folder: Path, features: Any = some, **chosen: Any) -> list[dict[str, Any]]:
    return table_of(topics, folder, features, **chosen).to_pylist()  # type: ignore[no-any-return]


def table_of(topics: Topics, folder: Path, features: Any = some, processes: int = 1, **chosen: Any) -> Any:
    from_decisions = chosen.pop("from_decisions", False)
    job = TrainingRows(Settings(), features, Chosen(**{"labelling": LABELLING} | chosen), from_decisions)
    replay_to(job, opens(topics), folder / "set.parquet", processes=processes)
    return pq.read_table(folder / "set.parquet")


def test_a_row_is_an_order_with_what_the_worker_knew_then_and_what_it_turned_out_to_be(
    tmp_path: Path,
) -> None:
    topics = past(order(1), order(2, country="DE"), outcome(1, 5), outcome(2, 6, is_fraud=False))

    first, second = rows_of(topics, tmp_path)

    assert (first["order_id"], first["is_fraud"], first["orders_count_30d"]) == ("o1", True, 0.0)
    assert (second["order_id"], second["is_fraud"], second["orders_count_30d"]) == ("o2", False, 1.0)
    assert (second["order_country"], second["order_amount"], second["order_currency"]) == ("DE", 1002, "EUR")
    assert second["known_at"] == NOON + 6 * DAY


def test_its_features_are_those_of_the_replay_to_the_last_bit(tmp_path: Path) -> None:
    topics = past(
        *(order(n, f"c{n % 3}", day=n / 7) for n in range(60)),
        *(outcome(n, n / 7 + 3, is_fraud=n % 5 == 0) for n in range(60)),
    )
    replay_to(Features(Settings(), knowing), opens(topics), tmp_path / "replayed.parquet")

    made = table_of(topics, tmp_path, knowing)

    names = ["order_id", *(each.name for each in knowing())]
    assert made.num_rows == 60
    assert made.select(names).equals(pq.read_table(tmp_path / "replayed.parquet").select(names))


def test_an_order_of_which_nothing_is_known_is_no_row_and_never_not_fraud(tmp_path: Path) -> None:
    topics = past(order(1), order(2), outcome(1, 5))

    assert [each["order_id"] for each in rows_of(topics, tmp_path)] == ["o1"]
    assert [each["is_fraud"] for each in rows_of(topics, tmp_path, unlabelled=True)] == [True, None]


def test_outcomes_younger_than_maturity_at_the_cut_off_are_unknown(tmp_path: Path) -> None:
    topics = past(order(1), order(5), outcome(1, 2), outcome(5, 6))
    labelling = Labelling(NOON + 10 * DAY, 7 * DAY)

    assert [each["order_id"] for each in rows_of(topics, tmp_path, labelling=labelling)] == ["o1"]


def test_a_label_counts_by_when_it_was_known_and_not_by_when_it_arrived(tmp_path: Path) -> None:
    topics = past(order(1), outcome(1, 20, arrived=2))

    assert rows_of(topics, tmp_path, labelling=Labelling(NOON + 15 * DAY, 7 * DAY)) == []
    assert len(rows_of(topics, tmp_path, labelling=Labelling(NOON + 21 * DAY, 7 * DAY))) == 1


def test_a_label_known_only_after_an_order_is_not_in_that_orders_features(tmp_path: Path) -> None:
    topics = past(order(1), order(3), order(9), outcome(1, 5), outcome(3, 6), outcome(9, 12))

    shares = [each["fraud_share_30d"] for each in rows_of(topics, tmp_path, knowing)]

    assert shares == [None, 0.0, 1.0]


def test_test_orders_never_come_out_and_repeats_come_once(tmp_path: Path) -> None:
    topics = past(order(1), order(2, test=True), order(1, day=3), outcome(1, 5), outcome(2, 5))
    again = topics[ORDERS][0][0]
    topics[ORDERS][0][2] = again._replace(offset=2)

    assert [each["order_id"] for each in rows_of(topics, tmp_path, unlabelled=True)] == ["o1"]


def test_periods_are_of_the_order_and_half_open_and_countries_are_its_own(tmp_path: Path) -> None:
    topics = past(
        *(order(n, country="DE" if n % 2 else "FR") for n in range(1, 7)),
        *(outcome(n, n + 1) for n in range(1, 7)),
    )

    rows = rows_of(topics, tmp_path, since=NOON + 2 * DAY, until=NOON + 5 * DAY)
    assert [each["order_id"] for each in rows] == ["o2", "o3", "o4"]
    assert [each["orders_count_30d"] for each in rows] == [1.0, 2.0, 3.0]  # the past is whole all the same
    rows = rows_of(topics, tmp_path, countries=frozenset({"FR"}))
    assert [each["order_id"] for each in rows] == ["o2", "o4", "o6"]


def test_sampled_orders_stand_for_the_others_by_their_weight(tmp_path: Path) -> None:
    topics = past(
        *(order(n, f"c{n % 9}", day=n / 100) for n in range(1, 1001)),
        *(outcome(n, n / 100 + 1, is_fraud=n % 50 == 0) for n in range(1, 1001)),
    )

    rows = rows_of(topics, tmp_path, keep_legitimate=0.25)

    frauds = [each for each in rows if each["is_fraud"]]
    others = [each for each in rows if not each["is_fraud"]]
    assert len(frauds) == 20
    assert {each["weight"] for each in frauds} == {1.0}
    assert {each["weight"] for each in others} == {4.0}
    assert sum(each["weight"] for each in rows) == pytest.approx(1000, rel=0.15)
    # of those in the sample nothing else changes: their histories hold all orders
    whole = {each["order_id"]: each for each in rows_of(topics, tmp_path)}
    assert all(whole[each["order_id"]] | {"weight": 4.0} == each for each in others)


def test_customers_already_caught_are_left_out_where_asked(tmp_path: Path) -> None:
    topics = past(
        *(order(1), order(4), order(9), order(5, "c2", day=9)),
        *(outcome(1, 6), outcome(4, 8, is_fraud=False), outcome(9, 12), outcome(5, 12)),
    )

    rows = rows_of(topics, tmp_path)
    assert [each["order_id"] for each in rows if each["caught_at"] is not None] == ["o9"]
    rows = rows_of(topics, tmp_path, leave_out_caught=True)
    assert [each["order_id"] for each in rows] == ["o1", "o4", "o5"]
    rows = rows_of(topics, tmp_path, leave_out_caught=True, caught_since=NOON + 2 * DAY)
    assert [each["order_id"] for each in rows] == ["o1", "o4", "o9", "o5"]


def test_vectors_may_come_from_the_decisions_that_wrote_them_down(tmp_path: Path) -> None:
    topics = past(order(1), order(2), order(3), *(outcome(n, 5) for n in (1, 2, 3)))
    written = {"order_id": "o2", "action": "review", "model": {"name": "m", "version": "1"}}
    written |= {"features": {"amount": 9.5, "orders_count_30d": None}}
    unscored = {"order_id": "o3", "action": "review", "features": {}}
    topics[DECISIONS] = [
        [
            a_record(DECISIONS, 0, at, 0, json.dumps(each).encode(), key=b"c1")
            for at, each in enumerate((written, unscored))
        ]
    ]

    (row,) = rows_of(topics, tmp_path, from_decisions=True)
    assert (row["order_id"], row["amount"], row["orders_count_30d"]) == ("o2", 9.5, None)
    assert row["action"] == "review"
    # computed ones say what was decided, too
    assert [each["action"] for each in rows_of(topics, tmp_path)] == [None, "review", None]
    with pytest.raises(TrainingSetError, match="decisions by m@1 have no feature 'fraud_share_30d'"):
        rows_of(topics, tmp_path, knowing, from_decisions=True)


def test_without_outcomes_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(TrainingSetError, match="there is no topic 'outcomes'"):
        rows_of({ORDERS: [[order(1)]]}, tmp_path)
    with pytest.raises(ReplayError, match="different ones"):
        rows_of({ORDERS: [[order(1)]], OUTCOMES: [[], []]}, tmp_path)


def test_the_file_is_read_in_pieces_or_whole_in_the_order_of_time(tmp_path: Path) -> None:
    topics = past(
        *(order(n, f"c{n % 3}", day=n / 7) for n in range(50)),
        *(outcome(n, 10, is_fraud=n % 5 == 0) for n in range(0, 50, 2)),
    )
    table_of(topics, tmp_path, unlabelled=True)

    made = TrainingSet.open(tmp_path / "set.parquet")
    whole = made.examples()
    pieces = list(made.chunks(16))

    assert made.rows == len(whole) == 50
    assert made.names == ("amount", "orders_count_30d")
    assert made.told["labels_mature_after_days"] == 7
    assert [len(each) for each in pieces] == [16, 16, 16, 2]
    assert np.concatenate([each.matrix for each in pieces]).shape == (50, 2)
    assert (np.diff(whole.placed_at) > np.timedelta64(0)).all()
    assert whole.labels[:4].tolist() == [1, UNKNOWN, 0, UNKNOWN]
    assert len(whole.known()) == 25
    with pytest.raises(TrainingSetError, match=r"may take 0\.0; read it in chunks"):
        made.examples(memory=1_000)


def test_what_is_no_training_set_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(TrainingSetError, match="make one: fraudstream training-set"):
        TrainingSet.open(tmp_path / "a.parquet")
    replay_to(Features(Settings(), some), opens(past(order(1))), tmp_path / "b.parquet")
    with pytest.raises(TrainingSetError, match="it has no column 'order_country'"):
        TrainingSet.open(tmp_path / "b.parquet")


def test_a_choice_that_chooses_nothing_is_refused() -> None:
    with pytest.raises(TrainingSetError, match="above 0 and up to 1"):
        Chosen(LABELLING, keep_legitimate=0)
    with pytest.raises(TrainingSetError, match="no order is placed"):
        Chosen(LABELLING, since=NOON, until=NOON)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    topics: Topics = {ORDERS: [[], []], OUTCOMES: [[], []]}
    for n in range(40):
        one = order(n, f"c{n % 2}", day=n / 7)
        topics[ORDERS][n % 2].append(one._replace(partition=n % 2, offset=n // 2))
        said = outcome(n, 10, is_fraud=n % 5 == 0)
        topics[OUTCOMES][n % 2].append(said._replace(partition=n % 2, offset=n // 2))

    table_of(topics, tmp_path)
    alone = (tmp_path / "set.parquet").read_bytes()
    table_of(topics, tmp_path, processes=2)

    assert (tmp_path / "set.parquet").read_bytes() == alone
