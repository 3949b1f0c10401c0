"""Models of every kind as flat arrays: parity, speed, loading, damaged files, and what the Condenser saves.

    python tests/bench/models.py                  # all of it
    python tests/bench/models.py --only parity    # or speed, damage, condenser

Times are the processor's, of one thread, the quickest of several rounds: the machine may be busy.
"""

import argparse
import csv
import io
import json
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from features.define import OrderFact
from models.errors import ModelError
from models.export import flatten
from models.fit import Rows, fit
from models.flat import Engine
from models.impute import Constant
from models.learn import learn
from models.model import Model, Period
from models.policy import Policy
from models.predictors import LightGBM, LogisticRegression, RandomForest, XGBoost
from models.preprocess import Condenser, Hashing, Scaler
from models.prove import SINGLE_PARITY, trial_rows
from models.registry import ARRAYS, GOLDEN, MANIFEST, Registry
from models.scorer import Scorer
from models.trained import PARITY, Node, Trained
from tests.bench.results import Cell, record
from tests.small_models import ALL_KINDS, FEATURES, a_risk, some_rows

DATA = Path(__file__).parents[3] / "shared" / "data" / "skrub_credit_fraud.zip"
PARITY_ROWS = 20_000
DAMAGED = 10_000
SLOTS = 3
TEXTS = ("item", "make", "model", "goods_code")
DIMENSIONS = 2048

PARITY_SAID = (
    "Rows on and next to thresholds, with missing values and with categories never met are among them."
)
SPEED_SAID = (
    "Processor time of one thread, the quickest of many rounds. Targets: 25 µs, 12 µs a row of 64, 500 ms."
)
DAMAGE_SAID = (
    "Bits, bytes, cuts and insertions, in every file. Unsigned, a manifest may be changed where it only "
    "tells, such as in its metrics. Who may write to the registry can make the sums right again: then golden "
    "rows and checks refuse what they see, and only a signature refuses the rest."
)
CONDENSER_SAID = (
    "skrub's baskets, the first 80 % learned from; item, make, model and goods code of three lines hashed "
    "to 2,048 dimensions each."
)


# Parity ------------------------------------------------------------------------------------------------


def parity() -> dict[str, list[Cell]]:
    """Every kind against its library on many rows; a row of the table each."""
    rows = some_rows(4000)
    return {
        name: _parity_of(name, rows) if _is_installed(name) else ["not installed", *[""] * 4]
        for name in ALL_KINDS
    }


def _is_installed(name: str) -> bool:
    predictor = ALL_KINDS[name].get("predictor")
    libraries = {XGBoost: "xgboost", LightGBM: "lightgbm"}
    library = libraries.get(type(predictor))
    return library is None or find_spec(library) is not None


def _parity_of(name: str, rows: Rows) -> list[Cell]:
    model = a_risk(**ALL_KINDS[name])
    fitted = fit(model, rows, threads=1)
    flat = flatten(fitted)
    near = trial_rows(flat, rows.matrix, rows=2000, cuts=1500)
    never_met = some_rows(2000, seed=1).matrix
    never_met[:, 5:] += 30
    tried = np.vstack([near, never_met, some_rows(PARITY_ROWS, seed=2).matrix])[:PARITY_ROWS]
    allowed = SINGLE_PARITY if isinstance(model.predictor, XGBoost) else PARITY
    whole = flat.walk(tried, engine="numba")
    furthest = float(np.abs(whole.p - fitted.predict(tried)).max())
    answers = {
        "numpy": _in_parts(flat, tried, 4096, "numpy"),
        "256": _in_parts(flat, tried, 256, "numba"),
        "1": _in_parts(flat, tried, 1, "numba"),
    }
    same = {each: answer == (whole.p.tobytes(), whole.first.tobytes()) for each, answer in answers.items()}
    if not (furthest <= allowed and all(same.values())):
        sys.exit(f"{name}: {furthest:.3g} away, the same bits: {same}")
    return [len(tried), f"{furthest:.1e}", f"{allowed:.0e}", "yes", "yes"]


def _in_parts(flat: Any, rows: Any, size: int, engine: Engine) -> tuple[bytes, bytes]:
    parts = [flat.walk(rows[start : start + size], engine=engine) for start in range(0, len(rows), size)]
    return b"".join(each.p.tobytes() for each in parts), b"".join(each.first.tobytes() for each in parts)


# Speed ---------------------------------------------------------------------------------------------------


def speed() -> dict[str, Cell]:
    """A random forest of 100 trees of the depth that `fraudstream train` grows, and 300 trees loaded."""
    rows = some_rows(20_000)
    forest = learn(a_risk(predictor=RandomForest(max_depth=8, min_samples_leaf=10)), rows, threads=1)
    scorer = Scorer(name="risk", version="v", digest="d", features=FEATURES, nodes=[forest])
    one, many = rows.matrix[:1].copy(), rows.matrix[:64].copy()
    said_one, said_many = (
        [[None if np.isnan(v) else v for v in row] for row in each.tolist()] for each in (one, many)
    )
    grown = learn(
        a_risk(predictor=RandomForest(n_estimators=300, max_depth=8, min_samples_leaf=10)), rows, threads=1
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        trained = _published(registry, grown)
        load = _quickest(lambda: registry.load(trained.name, trained.version), rounds=5, times=1)
    return {
        "nodes of the 100 trees": len(forest.model.predictor.arrays[5]),
        "one row, walked, µs": _quickest(lambda: forest.model.walk(one)),
        "one row, scored with names and reasons, µs": _quickest(lambda: scorer.score(said_one)),
        "a row of 64, walked, µs": _quickest(lambda: forest.model.walk(many), times=30) / 64,
        "a row of 64, scored with names and reasons, µs": _quickest(lambda: scorer.score(said_many), times=30)
        / 64,
        "one row, walked by numpy, µs": _quickest(lambda: forest.model.walk(one, engine="numpy"), times=10),
        "300 trees loaded from the registry, every byte and golden row checked, ms": load / 1000,
    }


def _quickest(work: Callable[[], object], *, rounds: int = 30, times: int = 200) -> float:
    """Microseconds of processor time."""
    work()
    found = []
    for _ in range(rounds):
        began = time.thread_time()
        for _ in range(times):
            work()
        found.append((time.thread_time() - began) / times)
    return min(found) * 1e6


def _published(registry: Registry, node: Node) -> Trained:
    trained = Trained(
        name=node.name, version="2026-02-14.0aa9330b", features=FEATURES, nodes=(node,),
        suggested_policy=Policy(review_at=0.5, decline_at=0.9), metrics={}, split="",
        trained_at="2026-02-14", trained_on={}, settings={"predictor": "RandomForest", "row_limit": 50},
        libraries={},
    )  # fmt: skip
    registry.publish(trained)
    return trained


# Damaged files ---------------------------------------------------------------------------------------------


def damage() -> dict[str, list[Cell]]:
    """Files of a model changed at random, as they stand and with their sums made right again."""
    rng = np.random.default_rng(11)
    rows = some_rows(1500)
    node = learn(a_risk(predictor=RandomForest(n_estimators=8, max_depth=5)), rows, threads=1)
    found = {}
    for said, key, resealed in (
        ("signed", b"a secret of the bench", False),
        ("unsigned", None, False),
        ("unsigned, their sums made right again", None, True),
    ):
        with tempfile.TemporaryDirectory() as folder:
            registry = Registry(Path(folder), key=key)
            trained = _published(registry, node)
            place = Path(folder) / trained.name / trained.version
            whole = {each.name: each.read_bytes() for each in sorted(place.iterdir())}
            found[said] = _damaged(registry, trained, place, whole, rows, rng=rng, resealed=resealed)
    if found["signed"][1] != DAMAGED or found["unsigned"][3]:
        sys.exit(f"a damaged model was loaded: {found}")
    return found


def _damaged(
    registry: Registry, trained: Trained, place: Path, whole: dict[str, bytes], rows: Rows, *, rng: Any,
    resealed: bool,
) -> list[Cell]:  # fmt: skip
    good = registry.load(trained.name, trained.version).model.walk(rows.matrix).p
    refused = same = other = 0
    for _ in range(DAMAGED):
        name = str(rng.choice([ARRAYS, GOLDEN] if resealed else sorted(whole)))
        content = _mutated(whole[name], rng)
        (place / name).write_bytes(content)
        if resealed:
            _reseal(place, whole)
        try:
            p = registry.load(trained.name, trained.version).model.walk(rows.matrix).p
        except ModelError:
            refused += 1
        else:
            is_same = np.array_equal(p, good)
            same, other = same + is_same, other + (not is_same)
        for each in {name, MANIFEST}:
            (place / each).write_bytes(whole[each])
    return [DAMAGED, refused, same, other]


def _mutated(content: bytes, rng: Any) -> bytes:
    """The content with a bit or a few bytes changed, cut off, or with bytes put in."""
    at = int(rng.integers(len(content)))
    few = rng.bytes(int(rng.integers(1, 9)))
    match int(rng.integers(4)):
        case 0:
            changed = content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
        case 1:
            changed = content[:at] + few + content[at + len(few) :]
        case 2:
            changed = content[:at]
        case _:
            changed = content[:at] + few + content[at:]
    return changed if changed != content else content + b"!"


def _reseal(place: Path, whole: dict[str, bytes]) -> None:
    from hashlib import sha256  # noqa: PLC0415

    manifest = json.loads(whole[MANIFEST])
    for name in (ARRAYS, GOLDEN):
        content = (place / name).read_bytes()
        manifest["files"][name] = {"sha256": sha256(content).hexdigest(), "size": len(content)}
    (place / MANIFEST).write_text(json.dumps(manifest))


# The Condenser ------------------------------------------------------------------------------------------


def condenser(data: Path, *, forest: bool) -> dict[str, list[Cell]]:
    """Real baskets, their items hashed to tens of thousands of dimensions, learned with and without."""
    rows, features = _baskets(data)
    cut = round(0.8 * len(rows))
    early, late = rows.where(slice(cut)), rows.where(slice(cut, None))
    found: dict[str, list[Cell]] = {}
    forests = [RandomForest(n_estimators=20, min_samples_leaf=5)] if forest else []
    for predictor in (LogisticRegression(), *forests):
        for said, condensers in (
            ("all dimensions", ()),
            ("condensed", (Condenser(),)),
            ("condensed, met ten times", (Condenser(least=10),)),
        ):
            model = _of_baskets(features, predictor, condensers)
            began = time.perf_counter(), time.process_time()
            fitted = fit(model, early, threads=1)
            learned = time.perf_counter() - began[0], time.process_time() - began[1]
            flat = flatten(fitted)
            p = flat.walk(late.matrix).p
            walk = _quickest(lambda flat=flat: flat.walk(late.matrix[:64]), rounds=5, times=3) / 64  # type: ignore[misc]
            found[f"{predictor}, {said}"] = [
                len(fitted.layout.columns), learned[1], walk, brier_score_loss(late.labels, p) * 1000,
                average_precision_score(late.labels, p), roc_auc_score(late.labels, p),
            ]  # fmt: skip
            sys.stdout.write(f"{predictor}, {said}: {found[f'{predictor}, {said}']}\n")
            sys.stdout.flush()
    return found


def _baskets(data: Path) -> tuple[Rows, tuple[OrderFact, ...]]:
    """Per basket the texts of its first lines as codes, its value and whether it was fraud, as they came."""
    with zipfile.ZipFile(data) as folder:
        labels = {row["ID"]: row["fraud_flag"] == "1" for row in _lines(folder, "baskets.csv")}
        lines: dict[str, list[dict[str, str]]] = {}
        for row in _lines(folder, "products.csv"):
            lines.setdefault(row["basket_ID"], []).append(row)
    known = [basket for basket in labels if basket in lines]
    matrix = np.array([_vector(lines[basket]) for basket in known], dtype=np.float64)
    names = [f"{what}_{slot + 1}" for slot in range(SLOTS) for what in TEXTS]
    features = tuple(_a_feature(name) for name in (*names, "basket_value", "basket_lines"))
    return Rows(matrix, np.array([labels[basket] for basket in known])), features


def _lines(folder: zipfile.ZipFile, name: str) -> Iterator[dict[str, str]]:
    with folder.open(f"credit_fraud/{name}") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8"))


def _vector(lines: list[dict[str, str]]) -> list[float]:
    codes = [
        float(np.int32(zlib.crc32(line[what].encode()) - 2**31)) if line[what] else np.nan
        for line in lines[:SLOTS]
        for what in TEXTS
    ]
    value = sum(float(line["cash_price"]) * float(line["Nbr_of_prod_purchas"]) for line in lines)
    return [*codes, *[np.nan] * (SLOTS * len(TEXTS) - len(codes)), value, float(len(lines))]


def _a_feature(name: str) -> OrderFact:
    return OrderFact(
        name=name, doc=f"The {name}.", unit="code", between=(0, None), missing="not that many lines",
        declaration=name, read=lambda _: None,
    )  # fmt: skip


def _of_baskets(features: tuple[OrderFact, ...], predictor: Any, condensers: tuple[Condenser, ...]) -> Model:
    hashed = Hashing(*(each.name for each in features[:-2]), dimensions=DIMENSIONS)
    scaled = (Scaler(with_mean=False),) if isinstance(predictor, LogisticRegression) else ()
    return Model(
        "baskets", features=features, predictor=predictor, trained_on=Period.months("2025-01", "2025-01"),
        imputer=Constant(), preprocessors=(hashed, *condensers, *scaled),
    )  # fmt: skip


def main() -> None:
    """Run what is asked and record it."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--only", choices=("parity", "speed", "damage", "condenser"))
    asked.add_argument("--data", type=Path, default=DATA)
    asked.add_argument("--forest", action="store_true", help="condense for a random forest too (minutes)")
    asked.add_argument("--keep", action="store_true", help="add the figures to RESULTS.md")
    told = asked.parse_args()
    wanted = {told.only} if told.only else {"parity", "speed", "damage", "condenser"}
    if "parity" in wanted:
        columns = ("rows", "furthest", "allowed", "numba = numpy, bit for bit", "alone = in a batch")
        record("Parity of flat models", parity(), PARITY_SAID, columns=columns, keep=told.keep)
    if "speed" in wanted:
        record("Flat models", speed(), SPEED_SAID, keep=told.keep)
    if "damage" in wanted:
        columns = ("files", "refused", "loaded, the same scores", "loaded, other scores")
        record("Damaged models", damage(), DAMAGE_SAID, columns=columns, keep=told.keep)
    if "condenser" in wanted:
        columns = ("dimensions", "learned, CPU s", "scored, µs a row", "Brier, thousandths", "AP", "AUC")
        record(
            "The Condenser",
            condenser(told.data, forest=told.forest),
            CONDENSER_SAID,
            columns=columns,
            keep=told.keep,
        )


if __name__ == "__main__":
    main()
