"""The checker of the fault harness finds what it is there to find."""

import random

from tests.faults.chaos import plan_of
from tests.faults.checks import (
    Answers,
    Fault,
    Sighting,
    compare_answers,
    lone_gaps,
    shared_names,
)
from tests.faults.swaps import switched_back

EXPECTED = {(0, 0): b"approve", (0, 1): b"review", (1, 0): b"decline"}
SEEN = [((0, 0), b"approve"), ((0, 1), b"review"), ((1, 0), b"decline")]


def found(seen: list[tuple[tuple[int, int], bytes]]) -> dict[str, tuple[tuple[int, int], ...]]:
    return compare_answers(EXPECTED, seen).violations("decisions")


def test_every_order_decided_once_and_as_expected_is_no_violation() -> None:
    answers: Answers[tuple[int, int]] = compare_answers(EXPECTED, reversed(SEEN))

    assert answers.violations("decisions") == {}
    assert (answers.expected, answers.seen) == (3, 3)


def test_a_missing_decision_is_found() -> None:
    assert found(SEEN[:2]) == {"decisions missing": ((1, 0),)}


def test_a_repeated_decision_is_found_although_it_agrees() -> None:
    assert found([*SEEN, SEEN[1]]) == {"decisions repeated": ((0, 1),)}


def test_a_conflicting_decision_is_found() -> None:
    assert found([*SEEN, ((0, 1), b"approve")]) == {
        "decisions repeated": ((0, 1),),
        "decisions conflicting": ((0, 1),),
        "decisions different": ((0, 1),),
    }


def test_a_decision_unlike_the_single_process_run_is_found_although_it_is_the_only_one() -> None:
    assert found([*SEEN[:2], ((1, 0), b"approve")]) == {"decisions different": ((1, 0),)}


def test_a_decision_of_an_order_that_never_came_is_found() -> None:
    assert found([*SEEN, ((1, 7), b"approve")]) == {"decisions unknown": ((1, 7),)}


def test_a_wrong_row_a_lost_row_and_a_row_too_many_are_found() -> None:
    rows = {(0, b"c1"): b"two orders", (0, b"c2"): b"one order"}
    there = [((0, b"c1"), b"three orders"), ((1, b"c2"), b"one order")]

    assert compare_answers(rows, there).violations("rows") == {
        "rows missing": ((0, b"c2"),),
        "rows different": ((0, b"c1"),),
        "rows unknown": ((1, b"c2"),),
    }


def test_two_orders_under_one_decision_id_are_found() -> None:
    assert shared_names([((0, 0), "d1"), ((0, 1), "d2"), ((1, 0), "d1"), ((0, 1), "d2")]) == ("d1",)


# --- the gap after a lone kill: two partitions, w1 has the first and w2 the second


def decided(seen_at: float, partition: int, worker: str, arrived_at: float | None = None) -> Sighting:
    return Sighting(seen_at, partition, seen_at - 0.01 if arrived_at is None else arrived_at, worker)


def gaps(faults: list[Fault], sightings: list[Sighting]) -> list[tuple[str, float]]:
    measured = lone_gaps(faults, sightings, partitions=2, workers=2, alone_for=15, until=200.0)
    return [(fault.worker, round(gap, 3)) for fault, gap in measured]


BOTH_DECIDE = [decided(99.0, 0, "w1"), decided(99.5, 1, "w2")]
KILL = Fault("kill", "w1", 100.0, 100.0)


def test_the_gap_ends_with_the_first_decision_of_an_order_that_came_after_the_kill() -> None:
    sightings = [
        *BOTH_DECIDE,
        decided(100.2, 0, "w1", arrived_at=99.9),  # committed before the kill, read after it
        decided(100.3, 1, "w2"),  # the other worker's own partition says nothing about the gap
        decided(111.0, 0, "w2"),
    ]

    assert gaps([KILL], sightings) == [("w1", 11.0)]


def test_a_gap_that_never_closes_lasts_to_the_end() -> None:
    assert gaps([KILL], BOTH_DECIDE) == [("w1", 100.0)]


def test_a_gap_longer_than_the_bound_is_not_hidden_by_a_fault_after_it() -> None:
    later = Fault("kill", "w2", 118.0, 118.0)
    sightings = [*BOTH_DECIDE, decided(130.0, 0, "w2"), decided(130.0, 1, "w2")]

    assert gaps([KILL, later], sightings) == [("w1", 30.0)]


def test_a_kill_with_another_fault_before_its_gap_closed_is_not_lone() -> None:
    later = Fault("kill", "w2", 104.0, 104.0)
    sightings = [*BOTH_DECIDE, decided(115.0, 0, "w2"), decided(115.0, 1, "w2")]

    assert gaps([KILL, later], sightings) == []


def test_a_kill_while_the_other_worker_is_paused_is_not_lone() -> None:
    pause = Fault("stop", "w2", 95.0, 110.0)

    assert gaps([pause, KILL], [*BOTH_DECIDE, decided(112.0, 0, "w2")]) == []


def test_a_kill_before_the_group_got_over_the_last_fault_is_not_lone() -> None:
    earlier = Fault("kill", "w2", 99.2, 99.2)

    assert gaps([earlier, KILL], [*BOTH_DECIDE[:1], decided(111.0, 0, "w2")]) == []


def test_every_plan_begins_and_ends_with_a_kill_to_a_group_at_rest_and_changes_no_count() -> None:
    counts = {"kill": 2, "stop": 1, "wipe": 3, "clean": 1}
    for seed in range(200):
        plan = plan_of(random.Random(seed), counts)

        assert {kind: sum(step.kind == kind for step in plan) for kind in counts} == counts
        assert [plan[0].kind, plan[-1].kind] == ["kill", "kill"]
        assert all(step.calm for step in (*plan[:2], plan[-1]))


def test_a_partition_that_goes_back_to_earlier_models_is_found_and_one_that_goes_on_is_not() -> None:
    assert switched_back({0: {0: 1, 1: 1, 2: 3}, 1: {0: 0, 7: 3}}) == ()
    assert switched_back({0: {2: 3, 1: 1, 0: 1, 3: 2}, 1: {0: 0}}) == ((0, 3),)
