"""Records of several inputs are taken in the order in which they arrived, however they were handed over."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.merge import ARRIVED_AT, Gap, Merge, Room, arrived_at, by_arrival, recorded_order
from stream.ports import TP, Assignment, Batch, Headers, Produce, Record

HOME = ("outcomes", "order-events", "orders")
DEVICE = ("orders-by-device",)
ASSIGNMENT = Assignment(1, "m", frozenset({0, 1}))
ROOM = Room(10_000, 10_000, 1 << 30)
WAIT_S = 0.25
TRUSTED_S = 1.0


def a_record(topic: str, partition: int, offset: int, at: int, headers: Headers = ()) -> Record:
    return Record(topic, partition, offset, at, b"k", b"v", headers)


def an_input(topic: str, partition: int, *arrivals: int) -> list[Record]:
    return [a_record(topic, partition, offset, at) for offset, at in enumerate(arrivals)]


def a_batch(records: Sequence[Record], *, after: int | None = None, until: int | None = None) -> Batch:
    return Batch(records[0].topic, records[0].partition, records, ASSIGNMENT, after, until=until)


def a_merge(roads: Sequence[Sequence[str]] = (HOME,), partitions: int = 1) -> Merge:
    merge = Merge(roads, wait_s=WAIT_S, trusted_s=TRUSTED_S)
    merge.open({number: dict.fromkeys(chain.from_iterable(roads), 0) for number in range(partitions)})
    return merge


def places(records: Iterable[Record]) -> list[tuple[str, int]]:
    return [(record.topic, record.offset) for record in records]


def positions(merge: Merge, tps: Iterable[TP], taken: Sequence[Record]) -> dict[int, dict[str, int]]:
    """The positions after what was taken so far was committed."""
    at: dict[int, dict[str, int]] = {}
    for topic, number in tps:
        at.setdefault(number, {})[topic] = 0
    for record in taken:
        at[record.partition][record.topic] = record.offset + 1
    return at


# ---------------------------------------------------------------------- arrival


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), 50),
        (((ARRIVED_AT, b"20"),), 20),
        ((("other", b"1"), (ARRIVED_AT, b"0")), 0),
        (((ARRIVED_AT, b"70"),), 50),
        (((ARRIVED_AT, b""),), 50),
        (((ARRIVED_AT, b"-20"),), 50),
        (((ARRIVED_AT, b" 20"),), 50),
        (((ARRIVED_AT, "²".encode()),), 50),
        (((ARRIVED_AT, b"9" * 40),), 50),
    ],
)
def test_a_record_arrived_when_it_says_unless_that_is_nonsense_or_still_to_come(
    headers: Headers, expected: int
) -> None:
    assert arrived_at(a_record("orders", 0, 0, 50, headers)) == expected


# ---------------------------------------------------------------------- the order


@st.composite
def logs(draw: st.DrawFn, topics: Sequence[str] = HOME, partitions: int = 2) -> dict[TP, list[Record]]:
    """Some inputs, with offsets that markers took and arrivals that may go back."""
    found: dict[TP, list[Record]] = {}
    for number in range(draw(st.integers(1, partitions))):
        for topic in topics:
            offset, records = 0, []
            for at, header, skipped in draw(
                st.lists(
                    st.tuples(st.integers(0, 12), st.none() | st.integers(0, 12), st.integers(0, 1)),
                    max_size=8,
                )
            ):
                offset += skipped
                headers = () if header is None else ((ARRIVED_AT, b"%d" % header),)
                records.append(a_record(topic, number, offset, at, headers))
                offset += 1
            found[topic, number] = records
    return found


def sorted_by_arrival(found: Mapping[TP, Sequence[Record]], topics: Sequence[str] = HOME) -> list[Record]:
    """The oracle: one sort, each input's arrivals never going back."""
    keyed = []
    for (topic, number), records in found.items():
        latest = -1
        for record in records:
            latest = max(latest, arrived_at(record))
            keyed.append(((latest, topics.index(topic), number, record.offset), record))
    return [record for _, record in sorted(keyed, key=lambda each: each[0])]


def ends_of(found: Mapping[TP, Sequence[Record]]) -> dict[TP, int]:
    return {tp: records[-1].offset + 1 if records else 0 for tp, records in found.items()}


@settings(max_examples=60, deadline=None)
@given(found=logs(), choices=st.data())
def test_whatever_is_handed_over_first_records_are_taken_by_arrival_each_once(
    found: dict[TP, list[Record]], choices: st.DataObject
) -> None:
    merge = a_merge(partitions=2 if ("orders", 1) in found else 1)
    ends = ends_of(found)
    merge.learn(ends, 0.0)
    left = {tp: list(records) for tp, records in found.items() if records}
    after = dict.fromkeys(left, 0)
    taken: list[Record] = []
    while left:
        tp = choices.draw(st.sampled_from(sorted(left)))
        count = choices.draw(st.integers(1, 3))
        again = choices.draw(st.integers(0, 2))
        records = found[tp]
        begin = len(records) - len(left[tp])
        some = records[max(0, begin - again) : begin + count]
        merge.hand_over(a_batch(some, after=after[tp]))
        after[tp] = some[-1].offset + 1
        left[tp] = left[tp][count:]
        if not left[tp]:
            del left[tp]
        room = Room(choices.draw(st.integers(1, 5)), 10, 1 << 20)
        some = merge.take(0.5, room)
        if choices.draw(st.booleans()):
            # aborted: a part of it was committed before
            some = some[: choices.draw(st.integers(0, len(some)))]
        taken += some
        merge.put_back(positions(merge, found, taken))
    while some := merge.take(0.5, ROOM):
        taken += some
        merge.put_back(positions(merge, found, taken))

    assert taken == sorted_by_arrival(found)
    assert merge.waiting() == {}


@settings(max_examples=60, deadline=None)
@given(found=logs(), lost=st.sets(st.tuples(st.sampled_from(HOME), st.integers(0, 1))))
def test_what_is_never_handed_over_is_read_and_goes_where_it_belongs(
    found: dict[TP, list[Record]], lost: set[TP]
) -> None:
    merge = a_merge(partitions=2 if ("orders", 1) in found else 1)
    for tp, records in found.items():
        if records and tp not in lost:
            merge.hand_over(a_batch(records, after=0))
    taken: list[Record] = []
    now = 0.0
    for _ in range(60):
        now += 0.1
        if questions := merge.questions(now):
            merge.learn({tp: ends_of(found)[tp] for tp in questions}, now)
        if overdue := merge.overdue(now):
            merge.search({tp: ends_of(found)[tp] for tp in overdue}, now)
        if gap := merge.gap():
            piece = [r for r in found[gap.tp] if gap.begin <= r.offset < gap.end][:2]
            merge.fill(gap.tp, piece, piece[-1].offset + 1 if piece else gap.end)
        taken += merge.take(now, ROOM)
        merge.put_back(positions(merge, found, taken))

    last = max((sorted_by_arrival(found).index(r) for r in taken), default=-1)
    assert taken == sorted_by_arrival(found)[: last + 1], "in order, and nothing left out"
    handed_over = [r for tp, records in found.items() if tp not in lost for r in records]
    assert set(handed_over) <= set(taken)


def test_of_those_that_arrived_together_outcomes_go_first_then_order_events() -> None:
    merge = a_merge(partitions=2)
    merge.learn({(topic, number): 1 for topic in HOME for number in (0, 1)}, 0.0)
    for topic in reversed(HOME):
        for number in (1, 0):
            merge.hand_over(a_batch(an_input(topic, number, 7)))

    taken = [(record.topic, record.partition) for record in merge.take(0.0, ROOM)]

    assert taken == [(topic, number) for topic in HOME for number in (0, 1)]


def test_an_input_keeps_its_own_order_even_where_arrivals_go_back() -> None:
    merge = a_merge((("outcomes", "orders"),))
    merge.learn({("outcomes", 0): 3, ("orders", 0): 1}, 0.0)
    merge.hand_over(a_batch(an_input("outcomes", 0, 30, 10, 40)))
    merge.hand_over(a_batch(an_input("orders", 0, 20)))

    assert places(merge.take(0.0, ROOM)) == [("orders", 0), ("outcomes", 0), ("outcomes", 1), ("outcomes", 2)]


def test_later_stages_go_first_and_wait_for_nobody_at_home() -> None:
    merge = a_merge((HOME, DEVICE))
    merge.learn({("outcomes", 0): 5, (DEVICE[0], 0): 1}, 0.0)
    merge.hand_over(a_batch(an_input("orders", 0, 1)))
    merge.hand_over(a_batch(an_input(DEVICE[0], 0, 9)))

    assert places(merge.take(0.0, ROOM)) == [(DEVICE[0], 0)]


def test_while_orders_are_kept_at_home_stages_go_on_and_nothing_of_home_is_lost() -> None:
    merge = a_merge((HOME, DEVICE))
    merge.learn({("outcomes", 0): 0, ("order-events", 0): 0, ("orders", 0): 2}, 0.0)
    merge.hand_over(a_batch(an_input("orders", 0, 1, 2)))
    merge.hand_over(a_batch(an_input(DEVICE[0], 0, 9)))

    assert places(merge.take(0.0, ROOM, only_stages=True)) == [(DEVICE[0], 0)]
    assert places(merge.take(0.0, ROOM, only_stages=True)) == []
    assert places(merge.take(0.0, ROOM)) == [("orders", 0), ("orders", 1)]


# ---------------------------------------------------------------------- waiting


def test_an_idle_input_at_its_end_never_delays() -> None:
    merge = a_merge()
    merge.hand_over(a_batch(an_input("orders", 0, 1, 2, 3)))
    assert sorted(merge.questions(5.0)) == sorted((topic, 0) for topic in HOME)
    merge.learn({("outcomes", 0): 0, ("order-events", 0): 0, ("orders", 0): 3}, 5.0)

    assert len(merge.take(5.0, ROOM)) == 3

    merge.hand_over(a_batch([a_record("orders", 0, 3, 4)], after=3))
    assert merge.questions(5.4) == [], "its end is still believed"
    assert merge.questions(5.6) != [], "asked again early, so that nobody has to wait"
    assert len(merge.take(5.9, ROOM)) == 1


def test_an_end_is_asked_again_only_once_it_is_old_and_somebody_waits() -> None:
    merge = a_merge()
    merge.learn(dict.fromkeys(((topic, 0) for topic in HOME), 0), 5.0)

    assert merge.questions(99.0) == [], "nobody waits"
    merge.hand_over(a_batch(an_input("orders", 0, 1)))
    assert merge.take(6.0, ROOM) == []
    assert merge.questions(6.0) != []


def test_an_input_alone_in_its_road_is_never_asked_for() -> None:
    merge = a_merge((("orders",),))
    merge.hand_over(a_batch(an_input("orders", 0, 1)))

    assert merge.questions(0.0) == []
    assert len(merge.take(0.0, ROOM)) == 1


def test_an_empty_input_that_is_behind_is_waited_for_and_then_a_gap() -> None:
    merge = a_merge((("outcomes", "orders"),))
    merge.learn({("outcomes", 0): 2, ("orders", 0): 1}, 0.0)
    merge.hand_over(a_batch(an_input("orders", 0, 5)))

    assert merge.take(0.0, ROOM) == []
    assert merge.patience(0.1) == pytest.approx(0.15)
    assert (merge.overdue(0.2), merge.gap()) == ([], None)
    assert merge.overdue(0.25) == [("outcomes", 0)]
    merge.search({("outcomes", 0): 2}, 0.25)
    assert merge.gap() == Gap(("outcomes", 0), 0, 2)
    merge.fill(("outcomes", 0), an_input("outcomes", 0, 3, 9), 2)
    assert merge.gap() is None
    assert places(merge.take(0.25, ROOM)) == [("outcomes", 0), ("orders", 0), ("outcomes", 1)]


def test_what_nobody_can_read_yet_is_not_waited_for() -> None:
    merge = a_merge((DEVICE,), partitions=2)
    tp = (DEVICE[0], 1)
    merge.learn({(DEVICE[0], 0): 1, tp: 0}, 0.0)
    merge.produced({tp: 0, ("decisions", 1): 3}, ())
    merge.hand_over(a_batch(an_input(DEVICE[0], 0, 5)))

    assert merge.take(0.0, ROOM) == [], "it was produced by ourselves, so it comes"
    merge.search(dict.fromkeys(merge.overdue(0.3), 0), 0.3)
    assert len(merge.take(0.3, ROOM)) == 1, "another's transaction is in the way: nobody knows for how long"


def produced(topic: str, arrived: int) -> Produce:
    return Produce(topic, 0, None, None, ((ARRIVED_AT, str(arrived).encode()),))


def a_live_merge() -> Merge:
    """All was there at second 5, by the broker's clock 1,000,000 ms; outcomes are behind since."""
    merge = a_merge((("outcomes", "orders"),))
    merge.hand_over(a_batch(an_input("orders", 0, 1_000_000)))
    merge.learn({("outcomes", 0): 0, ("orders", 0): 1}, 5.0)
    assert len(merge.take(5.0, ROOM)) == 1
    merge.learn({("outcomes", 0): 1, ("orders", 0): 3}, 5.6)
    return merge


def test_a_live_record_waits_for_no_input_that_had_all_until_a_second_before_it() -> None:
    merge = a_live_merge()
    merge.hand_over(
        a_batch([a_record("orders", 0, 1, 1_001_000), a_record("orders", 0, 2, 1_001_001)], after=1)
    )

    assert places(merge.take(5.7, ROOM)) == [("orders", 1)], "the next must see that outcome first"


def test_a_published_past_waits_for_all_that_was_published_with_it() -> None:
    merge = a_merge((("outcomes", "orders"),), partitions=2)
    ends = {("outcomes", 0): 0, ("outcomes", 1): 0, ("orders", 0): 0, ("orders", 1): 1}
    merge.hand_over(a_batch(an_input("orders", 1, 1_000_000)))
    merge.learn(ends, 5.0)
    assert len(merge.take(5.0, ROOM)) == 1
    merge.learn(ends | {("outcomes", 0): 1}, 5.6)

    arrived = ((ARRIVED_AT, b"5000"),)
    merge.hand_over(a_batch([a_record("orders", 0, 0, 1_000_500, arrived)], after=0))

    assert merge.take(5.7, ROOM) == []


def test_what_was_just_produced_is_waited_for_even_by_live_records() -> None:
    merge = a_live_merge()
    merge.hand_over(a_batch([a_record("outcomes", 0, 0, 1_000_400)], after=0))
    merge.produced({("outcomes", 0): 1}, [produced("outcomes", 1_000_499), produced("decisions", 1)])
    merge.hand_over(a_batch([a_record("orders", 0, 1, 1_000_500)], after=1))

    assert places(merge.take(5.7, ROOM)) == [("outcomes", 0)]


def test_a_live_record_does_not_wait_for_what_was_just_produced_and_arrived_later() -> None:
    merge = a_live_merge()
    merge.hand_over(a_batch([a_record("outcomes", 0, 0, 1_000_400)], after=0))
    merge.produced({("outcomes", 0): 1}, [produced("outcomes", 1_000_501), produced("decisions", 1)])
    merge.hand_over(
        a_batch([a_record("orders", 0, 1, 1_000_500), a_record("orders", 0, 2, 1_000_502)], after=1)
    )

    assert places(merge.take(5.7, ROOM)) == [("outcomes", 0), ("orders", 1)]


def test_only_what_could_have_arrived_earlier_is_waited_for() -> None:
    merge = a_merge((("outcomes", "orders"),))
    merge.learn({("outcomes", 0): 9, ("orders", 0): 9}, 0.0)
    merge.hand_over(a_batch(an_input("outcomes", 0, 6)))
    merge.hand_over(a_batch(an_input("orders", 0, 4, 5, 6, 7)))

    assert places(merge.take(0.0, ROOM)) == [("orders", 0), ("orders", 1), ("outcomes", 0)]


# ---------------------------------------------------------------------- holes and bounds


def test_a_hole_is_read_and_never_taken_for_markers() -> None:
    merge = a_merge((("orders",),))
    log = an_input("orders", 0, *range(8))
    merge.hand_over(a_batch(log[:2], after=0))
    merge.hand_over(a_batch(log[5:6]))
    merge.hand_over(a_batch(log[6:], after=6))

    assert places(merge.take(0.0, ROOM)) == [("orders", 0), ("orders", 1)]
    assert merge.waiting() == {("orders", 0): (3, 3)}
    assert merge.gap() == Gap(("orders", 0), 2, 5)
    merge.fill(("orders", 0), log[2:4], 4)
    merge.take(0.0, ROOM)
    assert merge.gap() == Gap(("orders", 0), 4, 5)
    merge.fill(("orders", 0), (), 5)
    assert places(merge.take(0.0, ROOM)) == [("orders", 5), ("orders", 6), ("orders", 7)]


def test_what_follows_on_from_a_fetch_has_only_markers_before_it() -> None:
    merge = a_merge((("orders",),))
    merge.hand_over(a_batch([a_record("orders", 0, 0, 1)], after=0, until=3))
    assert merge.take(0.0, ROOM)
    assert merge.position_after(("orders", 0), 0) == 3
    merge.hand_over(a_batch([a_record("orders", 0, 4, 1)], after=1))

    assert len(merge.take(0.0, ROOM)) == 1


def test_few_go_together_where_one_of_them_is_to_be_decided() -> None:
    merge = a_merge((("orders",),))
    past = Batch("orders", 0, an_input("orders", 0, 1, 1, 1), ASSIGNMENT, 0, is_history=True)
    merge.hand_over(past)
    merge.hand_over(a_batch([a_record("orders", 0, each, 2) for each in (3, 4, 5)], after=3))
    room = Room(2, 5, 1 << 20)

    sizes = []
    for _ in range(3):
        sizes.append(len(merge.take(0.0, room)))
        merge.put_back({0: {"orders": sum(sizes)}})

    assert sizes == [3, 2, 1]


def test_a_transaction_has_so_many_bytes_and_one_record_more() -> None:
    merge = a_merge((("orders",),))
    merge.hand_over(a_batch(an_input("orders", 0, 1, 1, 1)))

    assert len(merge.take(0.0, Room(10, 10, 2))) == 2


def test_what_was_taken_and_not_committed_comes_again_and_what_was_does_not() -> None:
    merge = a_merge((("orders",),))
    merge.hand_over(a_batch(an_input("orders", 0, *range(5))))

    merge.take(0.0, ROOM)
    merge.open({0: {"orders": 3}})

    assert places(merge.take(0.0, ROOM)) == [("orders", 3), ("orders", 4)]


# ---------------------------------------------------------------------- the past


def as_taken(
    found: Mapping[str, Sequence[Record]], marks: Iterable[tuple[int, Mapping[str, int]]]
) -> Iterator[Record]:
    return recorded_order(found, orders="orders", marks=marks)


@settings(max_examples=60, deadline=None)
@given(found=logs(partitions=1), choices=st.data())
def test_the_recorded_order_is_the_order_in_which_they_were_taken(
    found: dict[TP, list[Record]], choices: st.DataObject
) -> None:
    left = {topic: list(found[topic, 0]) for topic in HOME}
    others: dict[str, int] = dict.fromkeys(HOME[:2], 0)
    taken, marks = [], []
    while any(left.values()):
        topic = choices.draw(st.sampled_from([each for each in HOME if left[each]]))
        record = left[topic].pop(0)
        taken.append(record)
        if topic == "orders":
            marks.append((record.offset, dict(others)))
        else:
            others[topic] = record.offset + 1

    again = list(as_taken({topic: found[topic, 0] for topic in HOME}, marks))

    # what is said between two orders may be told in either order: no decision depends on it
    def between(records: Sequence[Record]) -> list[set[Record]]:
        parts: list[set[Record]] = [set()]
        for record in records:
            parts += [{record}, set()] if record.topic == "orders" else []
            parts[-1] |= {record} if record.topic != "orders" else set()
        return parts

    assert between(again) == between(taken)
    assert {topic: [r for r in again if r.topic == topic] for topic in HOME} == {
        topic: list(found[topic, 0]) for topic in HOME
    }


@settings(max_examples=60, deadline=None)
@given(found=logs(partitions=1))
def test_where_nothing_was_said_arrival_is_the_recorded_order(found: dict[TP, list[Record]]) -> None:
    again = list(as_taken({topic: found[topic, 0] for topic in HOME}, ()))

    assert again == sorted_by_arrival(found)


def test_an_order_without_a_decision_goes_by_arrival_between_those_with_one() -> None:
    found = {"outcomes": an_input("outcomes", 0, 1, 5, 9), "orders": an_input("orders", 0, 2, 3, 6)}

    again = as_taken(found, [(0, {"outcomes": 0}), (2, {"outcomes": 3})])

    assert places(again) == [
        ("orders", 0), ("outcomes", 0), ("orders", 1), ("outcomes", 1), ("outcomes", 2), ("orders", 2),
    ]  # fmt: skip


def test_decisions_that_contradict_one_another_are_told() -> None:
    found = {"outcomes": an_input("outcomes", 0, 1, 5), "orders": an_input("orders", 0, 2, 3)}

    with pytest.raises(
        ValueError, match="'orders' offset 1 says that 'outcomes' had been taken up to offset 1"
    ):
        list(as_taken(found, [(0, {"outcomes": 2}), (1, {"outcomes": 1})]))


@given(found=logs(partitions=2))
@settings(max_examples=60, deadline=None)
def test_a_past_of_which_all_is_known_goes_in_the_order_in_which_a_worker_takes_it(
    found: dict[TP, list[Record]],
) -> None:
    inputs = [found[tp] for tp in sorted(found, key=lambda tp: (HOME.index(tp[0]), tp[1]))]

    assert list(by_arrival(inputs)) == sorted_by_arrival(found)
