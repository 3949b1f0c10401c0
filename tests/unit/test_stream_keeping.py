"""What is forgotten, and when: by event time, the same whenever it is really removed."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.aggregates import Count, OrderAmount, Ratio, SinceFirst, Sum, Trend
from features.catalogue import CATALOGUE
from features.define import days, hours
from features.events import microseconds
from features.history import Row
from features.revisions import Revisions
from stream.keeping import FOR_EVER, ORDER, ROW, Horizons, check_horizons, reach
from stream.ports import Effects, LocalPosition, Record, Refused
from stream.settings import Settings, load_settings
from stream.store import RocksStore
from tests.small_desk import Shop, decisions
from tests.strategies import NOON, an_order, as_json

DAY = 86_400_000_000


def _count(decision: Any) -> float | None:
    value: float | None = decision.features["orders_count_30d"]
    return value


# How far features ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "asks"),
    [
        (OrderAmount(), timedelta(0)),
        (Count(over=hours(1)), hours(1)),
        (Count("fraud", over=days(365), known_after=days(45)), days(410)),
        (Trend("orders", over=days(7), against=days(90)), days(90)),
        (Ratio(OrderAmount(), to=Sum("amount", over=days(30))), days(30)),
        (SinceFirst(), timedelta(0)),
    ],
)
def test_a_feature_asks_as_far_back_as_its_window_and_what_it_waits_for(
    feature: Any, asks: timedelta
) -> None:
    assert reach(feature) == asks


def test_rows_are_not_kept_for_shorter_than_a_feature_asks() -> None:
    features = [OrderAmount(), Count("fraud", over=days(365), known_after=days(45))]

    check_horizons(features, model="m@1", forget_after_days=410)
    check_horizons(features, model="m@1", forget_after_days=0)
    with pytest.raises(
        Refused, match=r"m@1 asks for 410 days .*\(fraud_count_365d_known_after_45d\) .* forgets it after 409"
    ):
        check_horizons(features, model="m@1", forget_after_days=409)


def test_what_is_kept_by_default_is_enough_for_every_feature_there_is() -> None:
    check_horizons(CATALOGUE, model="all", forget_after_days=load_settings().forget_after_days)


def test_zero_days_are_for_ever() -> None:
    assert Settings(forget_after_days=0, order_memory_days=0).horizons == FOR_EVER
    assert FOR_EVER.at(7) == {}


# The rule ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beyond", "held"), [(timedelta(0), 1), (timedelta(microseconds=1), 0)])
def test_a_customer_is_forgotten_when_time_has_moved_on_for_longer_than_it_is_kept(
    beyond: timedelta, held: int
) -> None:
    shop = Shop(horizons=Horizons(rows=10 * DAY))
    shop.decide(an_order())
    shop.decide(an_order(order_id="o2", customer_id="c2", placed_at=NOON + timedelta(days=10) + beyond))

    # time does not go back with a late order: what is forgotten stays so
    (late,) = shop.decide(an_order(order_id="o3", placed_at=NOON + timedelta(days=9)))

    assert _count(late) == held


def test_an_order_itself_forgets_nothing_before_it_is_decided() -> None:
    shop = Shop(horizons=Horizons(rows=10 * DAY))
    shop.decide(an_order())

    (first,) = shop.decide(an_order(order_id="o2", placed_at=NOON + timedelta(days=20)))

    assert _count(first) == 1, "the watermark is that before the order"


def test_a_rejected_order_lets_no_time_pass() -> None:
    shop = Shop(horizons=Horizons(rows=10 * DAY))
    shop.decide(an_order())
    shop.decide(an_order(amount=7, placed_at=NOON + timedelta(days=20)))

    assert shop.watermarks == {0: microseconds(NOON)}


def test_an_order_is_known_for_a_resend_as_long_as_it_is_remembered() -> None:
    shop = Shop(horizons=Horizons(orders=10 * DAY))
    guest = an_order(customer_id=None)
    first, again = shop.decide(guest, guest)
    shop.decide(an_order(order_id="o2", placed_at=NOON + timedelta(days=11)))

    (anew,) = shop.decide(guest)

    assert (again.repeat_of, anew.repeat_of) == (first.decision_id, None)


def test_a_resend_that_is_no_longer_known_for_one_still_counts_once() -> None:
    shop = Shop(horizons=Horizons(orders=10 * DAY))
    shop.decide(an_order(), an_order(order_id="o2", placed_at=NOON + timedelta(days=11)))

    (anew,) = shop.decide(an_order())
    (last,) = shop.decide(an_order(order_id="o3", placed_at=NOON + timedelta(days=12)))

    assert (_count(anew), _count(last)) == (0, 2)


_stories = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 5),
        st.sampled_from((-40, -11, -10, 0, 0, 1, 5, 10, 11, 30)),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@given(_stories, st.lists(st.integers(1, 5), min_size=25, max_size=25), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_when_a_key_is_really_removed_and_how_orders_are_batched_shows_in_no_decision(
    story: list[tuple[int, int, int, bool]], sizes: list[int], chance: Any
) -> None:
    horizons = Horizons(rows=10 * DAY, orders=7 * DAY)
    orders, today = [], 0
    for customer, order, stride, history in story:
        placed = NOON + timedelta(days=today + stride)
        today = max(today, today + stride)
        fields = {"order_id": f"o{customer}-{order}", "customer_id": f"c{customer}" if customer else None}
        orders.append((as_json(an_order(**fields, placed_at=placed)), history))

    def run(batches: Iterator[int], *, removing: bool) -> tuple[list[bytes | None], dict[Any, bytes]]:
        shop, said, rest = Shop(horizons=horizons), list[bytes | None](), orders
        while rest:
            size = next(batches)
            effects = shop.take([_record(shop, value, history=history) for value, history in rest[:size]])
            said += [each.value for each in effects.produce]
            rest = rest[size:]
            if removing:
                for (number, key), value in list(shop.rows.items()):
                    if _is_expired(horizons, shop, number, key, value) and chance.random() < 0.5:
                        del shop.rows[number, key]
        kept = {at: value for at, value in shop.rows.items() if not _is_expired(horizons, shop, *at, value)}
        return said, kept

    assert run(iter(sizes), removing=True) == run(iter([1] * 25), removing=False)


def _record(shop: Shop, value: bytes, *, history: bool) -> Record:
    headers = (("mode", b"history"),) if history else ()
    return shop.record("orders", 0, None, value, headers, at=1_900_000_000_000)


def _is_expired(horizons: Horizons, shop: Shop, number: int, key: bytes, value: bytes) -> bool:
    before = horizons.at(shop.watermarks[number])[key[:1]]
    last_at = Row.decode(value, 100).last_at if key[:1] == ROW else Revisions.decode(value).last_at
    return last_at is not None and last_at < before


@pytest.mark.parametrize("at_once", [True, False])
def test_a_customer_whose_only_order_a_revision_took_away_leaves_nothing(at_once: bool) -> None:
    shop = Shop()
    orders = [an_order(), an_order(revision=1, customer_id="c2", placed_at=NOON + timedelta(days=1))]

    for some in [orders] if at_once else [[each] for each in orders]:
        shop.decide(*some)

    assert sorted(key for _, key in shop.rows) == [b"cc2", b"oo1"], "a row without an event has no end"


def test_the_effects_of_a_batch_say_how_far_time_has_moved() -> None:
    shop = Shop()

    effects = shop.arrive(as_json(an_order()), as_json(an_order(order_id="o2", placed_at=NOON - days(1))))

    assert effects.watermarks == {0: microseconds(NOON)}
    assert isinstance(effects, Effects)
    assert len(decisions(effects)) == 2


# What is removed -----------------------------------------------------------------------------------


def _bytes(key: bytes, day: int) -> bytes:
    """What stands under a key whose last event was in the middle of a day."""
    at = day * DAY + DAY // 2
    if key[:1] == ORDER:
        return Revisions(last_at=at).encode()
    row = Row(10)
    row.remember(an_order(placed_at=NOON + timedelta(microseconds=at - microseconds(NOON))))
    return row.encode()


def _position(watermark: int = 0) -> LocalPosition:
    return LocalPosition({"orders": 3}, 7, "log", 1_767_225_600.0, watermark)


_keys = st.builds(lambda kind, n: kind + b"%d" % n, st.sampled_from((ROW, ORDER)), st.integers(0, 6))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.lists(_keys, max_size=4), st.integers(0, 40)),
            st.tuples(st.just("sweep"), st.integers(1, 4), st.integers(0, 12)),
            st.tuples(st.just("try"), st.integers(1, 4), st.integers(0, 12)),
            st.tuples(st.just("open"), st.just(0), st.just(0)),
        ),
        max_size=20,
    )
)
@settings(max_examples=40, deadline=None)
def test_what_is_expired_is_found_in_the_end_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, Any, int]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "w1"
    store = RocksStore(path)
    last: dict[tuple[int, bytes], int] = {}
    today = 0

    def sweep(most: int, *, remove: bool = True) -> list[bytes]:
        found = store.expired(1, {ROW: today * DAY, ORDER: (today + 5) * DAY}, most)
        assert len(found) <= most
        for key in found:
            assert last[1, key] < today + (5 if key[:1] == ORDER else 0)
        if remove:
            store.write(1, dict.fromkeys(found), _position())
            for key in found:
                del last[1, key]
        return found

    for what, which, number in story:
        if what == "write":
            for partition in (0, 1, 2):
                days_of = {key: max(number, last.get((partition, key), 0)) for key in which}
                for key in which:
                    store.recall(partition, key)
                store.write(partition, {key: _bytes(key, day) for key, day in days_of.items()}, _position())
                last |= {(partition, key): day for key, day in days_of.items()}
        elif what == "open":
            store.close()
            store = RocksStore(path)
        else:
            today += number
            sweep(which, remove=what == "sweep")
    for _ in range(40):
        sweep(3)

    due = {key for (at, key), day in last.items() if at == 1 and day < today + (5 if key[:1] == ORDER else 0)}
    assert due == set()
    assert {(at, key) for at in (0, 1, 2) for key, _ in store.rows(at)} == set(last)
    store.close()


def test_a_key_costs_the_index_one_entry_however_often_it_changes(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    for day in range(20):
        store.recall(0, b"c1")
        store.write(0, {b"c1": _bytes(b"c1", day)}, _position())

    assert len(list(store._filed.keys())) == 1
    assert store.expired(0, {ROW: 19 * DAY}, 10) == [], "it is filed anew"
    assert len(list(store._filed.keys())) == 1
    assert store.expired(0, {ROW: 20 * DAY}, 10) == [b"c1"]
    store.close()


def test_of_many_keys_filed_together_each_is_found_and_none_that_lives_on(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    keys = [b"o%03d" % number for number in range(150)]
    store.write(0, {key: _bytes(key, 1) for key in keys}, _position())
    living = keys[::7]
    for key in living:
        store.recall(0, key)
    store.write(0, {key: _bytes(key, 30) for key in living}, _position())

    found: list[bytes] = []
    for _ in range(40):
        some = store.expired(0, {ORDER: 9 * DAY}, 10)
        assert len(some) <= 10
        gone = some[: len(some) // 2 + 1]  # the others are left alone, as where a batch touches them
        store.write(0, dict.fromkeys(gone), _position())
        found += gone

    assert sorted(found) == sorted(set(keys) - set(living))
    assert sorted(store.expired(0, {ORDER: 31 * DAY}, 150)) == living
    store.close()


@pytest.mark.parametrize("version", [2, 4])
def test_rows_of_another_format_are_made_anew_and_their_index_is_never_read(
    tmp_path: Path, version: int
) -> None:
    store = RocksStore(tmp_path / "w1")
    store.write(0, {b"c1": _bytes(b"c1", 1)}, _position())
    place = bytes(4)
    stored = msgspec.msgpack.decode(store._rows[place + b"\0local"])
    store._rows[place + b"\0local"] = msgspec.msgpack.encode(stored | {"v": version})
    store._filed[place + ROW + (2**31 + 1).to_bytes(4, "big") + b"c1"] = b""  # as format 2 had it

    assert store.position(0) is None
    store.clear(0)  # as a restore begins where there is no position
    store.write(0, {b"c2": _bytes(b"c2", 2)}, _position())
    assert store.expired(0, {ROW: 9 * DAY}, 10) == [b"c2"]
    store.close()


def test_a_key_that_is_filed_twice_is_found_once(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    for day in (1, 5):  # as a restore does, which writes without having read
        store.write(0, {b"c1": _bytes(b"c1", day)}, _position())

    assert store.expired(0, {ROW: 9 * DAY}, 10) == [b"c1"]

    store.write(0, {b"c1": None}, _position())
    assert store.expired(0, {ROW: 9 * DAY}, 10) == []
    assert list(store._filed.keys()) == []
    store.close()


def test_an_expired_key_that_comes_back_in_the_same_batch_is_no_longer_held_in_memory(
    tmp_path: Path,
) -> None:
    store = RocksStore(tmp_path / "w1")
    store.write(0, {b"c1": _bytes(b"c1", 1)}, _position())
    store.recall(0, b"c1")
    assert store.expired(0, {ROW: 9 * DAY}, 10) == [b"c1"]

    store.write(0, {b"c1": _bytes(b"c1", 9)}, _position())

    assert not any(store._due.values())
    assert store.expired(0, {ROW: 9 * DAY}, 10) == []
    assert store.expired(0, {ROW: 10 * DAY}, 10) == [b"c1"]
    store.close()


def test_what_cannot_be_told_is_looked_at_again_and_stays(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    store.write(0, {b"ounknown": Revisions().encode(), b"cnewer": b"\xff newer"}, _position(3 * DAY))

    for today in range(3, 200):
        assert store.expired(0, {ROW: today * DAY, ORDER: today * DAY}, 10) == []

    assert {key for key, _ in store.rows(0)} == {b"ounknown", b"cnewer"}
    store.close()


def test_rows_of_a_program_without_the_index_are_made_anew(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    store.write(0, {b"c1": _bytes(b"c1", 1)}, _position())
    old = {"inputs": {"orders": 3}, "changelog": 7, "log": "log", "stored_at": 1.0}
    store._rows[(0).to_bytes(4, "big") + b"\0local"] = msgspec.msgpack.encode(old)

    assert store.position(0) is None
    store.close()


def test_a_partition_that_is_cleared_has_nothing_to_evict(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "w1")
    for partition in (0, 1):
        store.write(partition, {b"c1": _bytes(b"c1", 1)}, _position())
    assert store.expired(0, {ROW: 9 * DAY}, 10) == [b"c1"]

    store.clear(0)

    assert store.expired(0, {ROW: 9 * DAY}, 10) == []
    assert store.expired(1, {ROW: 9 * DAY}, 10) == [b"c1"]
    store.close()
