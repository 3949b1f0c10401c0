"""How long learning takes: a training set of every order, and a tree of models at once, serially, and again.

    python tests/bench/learning.py
    python tests/bench/learning.py --orders 50000
    python tests/bench/learning.py --smoke

The Handbook's orders and outcomes lie in eight partitions, in files; reading them takes the place of an
archive. The training set has 30 features, two of them of what became of orders. The tree is a parent with
four submodels; what is learned twice has to be the same to the last bit, which is checked.
"""

import argparse
import json
import pickle
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import numpy as np

from features.catalogue import GROUPS, amount
from features.define import Feature, days
from models.labels import Labelling
from models.model import Model, Period
from models.predictors import RandomForest
from stream.desk import partition_of
from stream.jobs import Done, Learn, Past
from stream.ports import TP, Record
from stream.replay_files import replay_to
from stream.settings import Settings
from stream.topics import TopicError
from stream.training_set import Chosen, TrainingRows, TrainingSet
from tests.bench.features import THIRTY
from tests.bench.real import TRANSACTIONS, transactions
from tests.bench.replay import CHUNK, Files
from tests.bench.results import Cell, record
from tests.faults.stage import temporary_home

PARTITIONS = 8
TARGET_S = 45.0
SMOKE = 30_000
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)
AS_OF = datetime(2018, 9, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TwoTopics:
    """Orders and outcomes in files."""

    orders: Files
    outcomes: Files

    def _of(self, topic: str) -> Files:
        if topic not in {"orders", "outcomes"}:
            raise TopicError(f"topic '{topic}' does not exist")
        return self.orders if topic == "orders" else self.outcomes

    def partitions(self, topic: str) -> int:
        """How many; there are no other topics."""
        return len(self._of(topic).counts)

    def bounds(self, tp: TP) -> tuple[int, int]:
        """All of them."""
        return self._of(tp[0]).bounds(("orders", tp[1]))

    def read(self, tp: TP, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of a topic."""
        for chunk in self._of(tp[0]).read(("orders", tp[1]), start, end):
            yield [each._replace(topic=tp[0]) for each in chunk]

    def gaps(self, _: TP) -> Sequence[tuple[int, int]]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def lay_down(folder: Path, most: int | None, known_after: timedelta) -> TwoTopics:
    """The main data set as records in files, and its frauds as outcomes."""
    topics: dict[str, list[list[tuple[int, bytes, bytes]]]] = {
        name: [[] for _ in range(PARTITIONS)] for name in ("orders", "outcomes")
    }
    for each in transactions(most):
        key = each.customer_id.encode()
        partition = partition_of(key, PARTITIONS)
        at = int(each.placed_at.timestamp() * 1000)
        topics["orders"][partition].append((at, key, each.line().strip()))
        if each.is_fraud:
            known_at = each.placed_at + known_after
            said = {"order_id": each.order_id, "customer_id": each.customer_id, "kind": "chargeback"}
            said |= {"is_fraud": True, "occurred_at": each.placed_at.isoformat()}
            value = json.dumps(said | {"known_at": known_at.isoformat()}).encode()
            topics["outcomes"][partition].append((int(known_at.timestamp() * 1000), key, value))
    found = []
    for name, parts in topics.items():
        (folder / name).mkdir(parents=True)
        for number, part in enumerate(parts):
            with (folder / name / str(number)).open("wb") as kept:
                for at in range(0, len(part), CHUNK):
                    pickle.dump(part[at : at + CHUNK], kept)
        found.append(Files(folder / name, tuple(map(len, parts))))
    return TwoTopics(*found)


def thirty() -> Sequence[Feature]:
    """What a first model would ask."""
    return THIRTY


def peak_mb() -> float:
    """The most memory that this process, or one that it waited for, has had."""
    each = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(each) / 1024


def a_tree(start: datetime, *, trees: int = 100) -> Model:
    """A parent over four submodels, each of a group of features."""
    period = Period(start, start + 14 * days(1))
    parts = tuple(
        Model(
            f"{name}_risk",
            tuple({each.name: each for each in (amount, *GROUPS[name])}.values()),
            RandomForest(n_estimators=trees, min_samples_leaf=5),
            period,
            labels_mature_after=WEEK,
        )
        for name in ("velocity", "amounts", "habit", "novelty")
    )
    after = Period(period.end + WEEK, period.end + WEEK + 14 * days(1))
    forest = RandomForest(n_estimators=trees, min_samples_leaf=5)
    return Model("risk", (amount, *parts), forest, after, labels_mature_after=WEEK)


def same(one: Done, other: Done) -> bool:
    """Whether all models that both have answer their golden rows alike."""
    return all(np.array_equal(one.nodes[name].golden.p, node.golden.p) for name, node in other.nodes.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=None, help="only the first so many")
    parser.add_argument("--smoke", action="store_true", help="a few orders, nothing recorded")
    arguments = parser.parse_args(argv)
    if not TRANSACTIONS.exists():
        print(f"{TRANSACTIONS} is not there; nothing is measured", file=sys.stderr)
        return 0
    most = SMOKE if arguments.smoke else arguments.orders
    keep = not (arguments.smoke or arguments.orders)
    wrong: list[str] = []
    rows: dict[str, Cell | Sequence[Cell]] = {}
    with temporary_home("learning") as home:
        kept = lay_down(home / "records", most, HOUR if arguments.smoke else WEEK)
        settings, opened = Settings(), partial(_same_again, kept)
        chosen = Chosen(Labelling(AS_OF, WEEK, "not_fraud"))
        file = home / "set.parquet"
        began = time.monotonic()
        replay_to(TrainingRows(settings, thirty, chosen), opened, file, processes=2)
        seconds = time.monotonic() - began
        made = TrainingSet.open(file)
        rows["orders in the training set"] = made.rows
        rows["features"] = len(made.names)
        rows["training set by two processes, s"] = seconds
        rows["memory of one of its processes at most, MB"] = peak_mb()
        rows["bytes of Parquet an order"] = file.stat().st_size / made.rows
        if keep and seconds > TARGET_S:
            wrong.append(f"the training set took {seconds:.1f} s, and the target is {TARGET_S:.0f}")

        past = Past(settings, opened, AS_OF, "not_fraud", "the Handbook", processes=2)
        first = datetime(2018, 6, 11, tzinfo=UTC)
        if arguments.smoke:
            tree = a_tree(first, trees=5)
            tree = _shortened(tree, first)
        else:
            tree = a_tree(first)
        done: dict[str, Done] = {}
        Learn(tree).alone.run(past, home / "read", at_once=1)  # the orders are read once and for all
        for name, at_once in (("serially", 1), ("two at once", 2)):
            cache = home / name
            cache.mkdir()
            (cache / "rows").symlink_to(home / "read" / "rows")
            began = time.monotonic()
            done[name] = Learn(tree).alone.run(past, cache, at_once=at_once)
            rows[f"a parent and four submodels, {name}, s"] = time.monotonic() - began
        *others, last = (each for each in tree.submodels)
        changed = replace(last, predictor=replace(last.predictor, min_samples_leaf=8))
        again = replace(tree, features=(amount, *others, changed))
        began = time.monotonic()
        after = Learn(again).alone.run(past, home / "two at once")
        rows["after one of them changed, s"] = time.monotonic() - began
        rows["learned again"] = ", ".join(sorted(after.learned))
        began = time.monotonic()
        Learn(again).alone.run(past, home / "two at once")
        rows["with nothing changed, s"] = time.monotonic() - began
        rows["memory at most, MB"] = peak_mb()
        if not same(done["serially"], done["two at once"]):
            wrong.append("two at once learned something else")
        if sorted(after.learned) != sorted((changed.name, tree.name)):
            wrong.append(f"after {changed.name} changed {after.learned} were learned")
    record(
        "Learning",
        rows,
        "The Handbook's orders, frauds known after a week, read from files; forests of 100 trees over two "
        "weeks each. The target for the training set is 45 s on two cores.",
        keep=keep,
    )
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


def _same_again(kept: TwoTopics) -> TwoTopics:
    return kept


def _shortened(tree: Model, first: datetime) -> Model:
    """The tree over the little time of a smoke run."""
    of_parts = Period(first, first + 36 * HOUR)
    parts = [
        replace(each, trained_on=of_parts, labels_mature_after=HOUR) if isinstance(each, Model) else each
        for each in tree.features
    ]
    after = Period(first + 37 * HOUR, first + 72 * HOUR)
    return replace(tree, features=tuple(parts), trained_on=after, labels_mature_after=HOUR)


if __name__ == "__main__":
    sys.exit(main())
