"""When one key has too much of a partition."""

import logging

import pytest

from stream.hot import RECENT, HotKeys
from stream.ports import Record


def records(keys: list[bytes | None], topic: str = "orders-by-merchant", partition: int = 0) -> list[Record]:
    return [Record(topic, partition, offset, 0, key, b"") for offset, key in enumerate(keys)]


def one_in(every: int, hot: bytes = b"m") -> list[bytes | None]:
    """So many keys that one in `every` is the hot one."""
    return [hot if number % every == 0 else b"%d" % number for number in range(RECENT)]


def test_a_share_is_told_of_whole_thousands_and_of_each_partition_by_itself() -> None:
    hot = HotKeys()
    every_other = one_in(2)

    hot.count(records(every_other[:-1]) + records(one_in(4), partition=1))
    assert hot.shares == {("orders-by-merchant", 1): 0.25}
    hot.count(records(every_other[-1:]))

    assert hot.shares == {("orders-by-merchant", 0): 0.5, ("orders-by-merchant", 1): 0.25}


def test_each_thousand_is_counted_anew() -> None:
    hot = HotKeys()
    hot.count(records([b"m"] * RECENT))
    hot.count(records(one_in(10)))

    assert hot.shares == {("orders-by-merchant", 0): 0.1}


def test_records_without_a_key_are_no_hot_key() -> None:
    hot = HotKeys(0.5)
    hot.count(records([None] * RECENT))

    assert hot.shares == {("orders-by-merchant", 0): 0.0}


def test_a_share_above_the_limit_is_warned_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    now = [1000.0]
    hot = HotKeys(0.4, clock=lambda: now[0])

    hot.count(records(one_in(2)))
    hot.count(records(one_in(2), partition=1))
    now[0] += 59
    hot.count(records(one_in(2)))
    assert len(caplog.messages) == 1
    assert "50% of the last 1,000 records of topic 'orders-by-merchant', partition 0," in caplog.text
    now[0] += 1
    hot.count(records(one_in(2)))

    assert len(caplog.messages) == 2


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_a_share_up_to_the_limit_is_no_warning_and_none_never_is(
    limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    HotKeys(limit).count(records(one_in(2)))

    assert not caplog.messages
