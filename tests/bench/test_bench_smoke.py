"""The benches run from a shell as their docstrings say; what they measure is another matter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.test_published_features import TRANSACTIONS

HERE = Path(__file__).parent


def smoke(bench: str) -> dict[str, object]:
    before = (HERE / "RESULTS.md").read_bytes() if (HERE / "RESULTS.md").exists() else None
    done = subprocess.run(
        [sys.executable, str(HERE / bench), "--smoke"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=HERE,  # where a module of ours could stand in for the standard library's
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = (HERE / "RESULTS.md").read_bytes() if (HERE / "RESULTS.md").exists() else None
    assert before == after, "a smoke run is not a result"
    figures = json.loads(done.stdout.strip().splitlines()[-1])["figures"]
    assert isinstance(figures, dict)
    return figures


@pytest.mark.slow
def test_the_profile_tells_what_each_step_of_an_order_costs() -> None:
    figures = smoke("profile.py")

    assert "all of desk.decide, batches of 64" in figures
    assert all(isinstance(cost, float) and cost > 0 for cost in figures.values())


@pytest.mark.slow
@pytest.mark.broker
def test_the_features_bench_tells_what_an_order_costs_whatever_its_customers_past() -> None:
    figures = smoke("features.py")

    assert figures["orders held one by one"] == [10, 100, 512, 528], "the longest past is folded in part"
    costs = figures["all of it, 30 features"]
    assert isinstance(costs, list)
    assert all(cost > 0 for cost in costs)


@pytest.mark.slow
@pytest.mark.broker
def test_the_latency_bench_sees_every_order_it_sent_decided() -> None:
    assert smoke("latency.py")["orders measured"] == [150]


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_the_first_real_orders_are_each_decided_once() -> None:
    figures = smoke("real.py")

    assert figures["decisions"] == figures["distinct order ids"] == 3_000
    assert figures["rows unlike the naive pass"] == 0
    assert figures["sampled decisions unlike the naive features"] == 0


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_what_a_killed_worker_decided_of_the_first_real_orders_is_decided_again() -> None:
    figures = smoke("verify.py")

    assert figures["decisions compared"] == figures["decisions equal, byte for byte"] == 3_000
    assert figures["kills of the worker"] == 1


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_a_worker_decides_with_the_published_features_of_customers_and_merchants() -> None:
    figures = smoke("merchants.py")

    assert figures["orders decided"] == figures["published rows held"]
    assert (figures["missing"], figures["repeated"], figures["published rows missed"]) == (0, 0, 0)
    for whose in ("customer", "merchant"):
        met = figures[f"of them met to 1e-6 by {whose}"]
        assert isinstance(met, int)
        assert met > 500


@pytest.mark.slow
@pytest.mark.broker
def test_live_orders_are_decided_with_the_past_that_was_loaded_and_the_past_is_not() -> None:
    figures = smoke("history.py")

    assert (figures["orders loaded"], figures["decisions about history"]) == (3_000, 0)
    assert (
        figures["live orders decided"] == figures["live decisions held against the naive features"] == 1_000
    )
    assert (figures["of them unlike"], figures["rejected"]) == (0, 0)
    assert figures["orders in the workers' rows"] == 4_000


@pytest.mark.slow
@pytest.mark.broker
def test_the_archive_bench_reads_back_every_order_it_archived() -> None:
    figures = smoke("archive.py")

    assert figures["orders"] == figures["archived"] == figures["read back"] == 3_000
    assert figures["digests the same when made again"] == "yes"


@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_the_replay_bench_gets_the_same_bytes_from_one_process_and_from_two() -> None:
    figures = smoke("replay.py")

    assert figures["orders"] == [2_000, 2_000]


@pytest.mark.broker
@pytest.mark.slow
def test_swaps_of_champions_are_timed_and_no_order_is_lost() -> None:
    figures = smoke("service.py")

    assert figures["orders measured"] == [160] * 4


@pytest.mark.slow
@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="needs ../shared/data (the Handbook's transactions)")
def test_only_what_a_change_concerns_is_learned_again() -> None:
    assert smoke("learning.py")["learned again"] == "novelty_risk, risk"
