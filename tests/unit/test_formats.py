"""Every format that outlives a worker: what earlier versions wrote is read, and no version changes.

tests/fixtures has bytes of each version as that version wrote them. They are never changed: a format that
changes gets a new version, and another file.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pytest

from features.events import OrderEvent, Outcome
from features.facts import Fact
from features.history import ROW_VERSION, History, Row
from features.questions import Span
from features.remembered import NUMBERS, VALUES, fingerprint
from features.revisions import _VERSION as REVISIONS_VERSION
from features.revisions import Held, Revisions, ids_of
from models.decision import Decision, ModelRef, Reason, Source, decode_decision, encode
from models.flat import Engine
from models.manifest import Manifest, nodes_of
from models.policy import Action
from models.registry import ARRAYS, GOLDEN, MANIFEST
from stream.control import SCHEMA_VERSION, ControlRecord, ControlState
from stream.ports import Record, Refused
from stream.writer import Position, decode_position, encode_position
from tests.strategies import NOON, an_order

FIXTURES = Path(__file__).parents[1] / "fixtures"


def a_row(*, learned: bool = True) -> Row:
    """Three of four orders held, one folded; columns of equal, unknown and different values; two facts."""
    row = Row(3)
    for number in range(4):
        row.remember(
            an_order(
                order_id=f"o{number}",
                placed_at=NOON + timedelta(hours=number, microseconds=number),
                amount=1000 + number,
                device_id=f"d{number}",
                country=None if number == 2 else "DE",
            )
        )
    if learned:
        for is_so in (True, False):
            known_at = NOON + timedelta(days=2 - is_so)
            row.learn(Fact("o0", NOON, "fraud", is_so, known_at, 1000, "EUR"))
    return row


def revisions(version: int) -> Revisions:
    """Two revisions of an order, the second decided, since version 2 while observing.

    Since version 4 with its device, and what was said of it.
    """
    known = Revisions()
    entities = ("customer",) if version < 4 else ("customer", "device")
    order = an_order(device_id="d1")
    known.arrive(order, b"a" * 16, ids_of(order, entities))
    later = NOON + timedelta(microseconds=1)
    revised = order.model_copy(update={"revision": 1, "placed_at": later})
    seen = known.arrive(revised, b"b" * 16, ids_of(revised, entities)).seen
    known.decide(seen, b"i" * 16, observing=version >= 2)
    seen.decision = b'{"a":1}'
    if version < 3 and known.held is not None:
        known.held = Held(known.held.ids, known.held.placed_at)
    if version >= 4:
        known.learn(
            Outcome(
                order_id="o1",
                kind="chargeback",
                is_fraud=True,
                occurred_at=NOON,
                known_at=later,
                amount=900,
                currency="EUR",
                outcome_id="cb1",
                supersedes="w1",
            )
        )
        refunded = OrderEvent(order_id="o1", kind="refunded", occurred_at=NOON, known_at=NOON)
        known.learn(refunded)
        known.statements_dropped = 2
    return known


def a_decision() -> Decision:
    return Decision(
        decision_id=UUID(int=7),
        order_id="o1",
        revision=1,
        customer_id="c1",
        action=Action.REVIEW,
        p_fraud=0.25,
        score=250,
        reasons=(Reason(code="MANY_ORDERS", text="Many orders", feature="orders_count_30d"),),
        model=ModelRef(name="starter", version="2026-01-01.0000", digest="d" * 64),
        policy="p" * 64,
        features={"orders_count_30d": 2.0, "ip_count": None},
        imputed=("ip_count",),
        supersedes=UUID(int=6),
        source=Source(topic="orders", partition=3, offset=41, others={"control": 2}),
    )


def a_control_record() -> ControlRecord:
    return ControlRecord(kind="paused", group="g", who="anna", why="stocktaking", written_by="0.1.0")


class Format(NamedTuple):
    """How one format is read and written, and what its fixtures hold."""

    newest: int
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    holds: Callable[[int], Any]
    """What the fixture of a version says, as this program understands it."""


FORMATS = {
    "row": Format(ROW_VERSION, lambda data: Row.decode(data, 3), Row.encode, lambda _: a_row()),
    "order-memory": Format(
        REVISIONS_VERSION,
        Revisions.decode,
        Revisions.encode,
        revisions,
    ),
    "position": Format(
        2,
        lambda data: decode_position(data, "g", {"orders": "id-1"}),
        lambda said: encode_position(said.inputs, "g", {"orders": "id-1"}, said.watermark),
        lambda version: Position(
            {"orders": 7, "outcomes": 2}, None if version < 2 else 1_714_564_800_000_001
        ),
    ),
    "decision": Format(1, decode_decision, encode, lambda _: a_decision()),
    "control": Format(
        SCHEMA_VERSION,
        ControlRecord.model_validate_json,
        lambda record: record.model_dump_json().encode(),
        lambda _: a_control_record(),
    ),
}
VERSIONS = [
    (name, version)
    for name, each in FORMATS.items()
    for version in range(1, each.newest + 1)
    if (name, version) != ("row", 1)  # knew less of an order, and is read below
]


def fixture(name: str, version: int) -> bytes:
    """The bytes as that version wrote them."""
    return bytes.fromhex((FIXTURES / f"{name}.v{version}.hex").read_text())


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_what_every_earlier_version_wrote_is_read(name: str, version: int) -> None:
    known = FORMATS[name]

    assert known.read(fixture(name, version)) == known.holds(version)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_changes_only_with_its_version(name: str) -> None:
    known = FORMATS[name]
    written = known.write(known.holds(known.newest))

    assert written == fixture(name, known.newest), (
        f"the bytes of '{name}' are no longer those of version {known.newest}: give the format a new "
        f"version, go on reading the old one, and keep this as tests/fixtures/{name}.v{known.newest + 1}.hex:"
        f" {written.hex()}"
    )


def test_a_row_of_version_1_is_read_with_what_it_knew() -> None:
    told = Row.decode(fixture("row", 1), 3)
    known = a_row(learned=False)

    assert (len(told), told.folded, told.first_at) == (3, 1, known.first_at)
    for name in ("placed_at", "amount", "order", *list(VALUES)[:11]):
        assert told.column(name) == known.column(name)
    for name in (*list(VALUES)[11:], *NUMBERS):
        assert told.column(name) == [0, 0, 0]
    history = told.as_of(NOON + timedelta(days=3))
    assert (history.count(Span(None)), history.is_exact) == (3, False), "what version 1 dropped is in no tile"


@pytest.mark.parametrize(
    "ask",
    [
        lambda history: history.count(Span(None)),
        lambda history: history.spent(Span(None), fingerprint("EUR")),
        lambda history: history.distinct("device", Span(None)),
        lambda history: history.last_with("device", fingerprint("never seen")),
        lambda history: history.last_at(),
    ],
)
@pytest.mark.parametrize("limit", [3, 1])
def test_a_row_of_version_1_that_dropped_orders_answers_and_says_that_it_is_not_exact(
    ask: Callable[[History], object], limit: int
) -> None:
    history = Row.decode(fixture("row", 1), limit).as_of(NOON - timedelta(microseconds=1))

    ask(history)

    assert not history.is_exact


def test_a_position_before_the_first_order_is_written_as_version_1_did() -> None:
    position = FORMATS["position"]

    assert position.write(position.holds(1)) == fixture("position", 1)


def test_a_manifest_of_version_1_is_read() -> None:
    manifest = Manifest.model_validate_json((FIXTURES / "manifest.v1.json").read_bytes())

    assert (manifest.format, manifest.name) == (1, "order_risk")


@pytest.mark.parametrize(("version", "reaches"), [(2, False), (3, True)])
def test_a_manifest_of_a_tree_is_read_and_written_as_it_was(version: int, *, reaches: bool) -> None:
    content = (FIXTURES / f"manifest.v{version}.json").read_text()
    manifest = Manifest.model_validate_json(content)

    assert (manifest.format, manifest.reasons_reach) == (version, reaches)
    assert [node.name for node in manifest.nodes] == ["basket_risk", "oddity", "order_risk"]
    assert json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n" == content


@pytest.mark.parametrize("kind", ["logistic_regression", "random_forest"])
@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_a_model_of_format_1_scores_as_it_did_to_the_last_bit(kind: str, engine: Engine) -> None:
    (folder,) = (FIXTURES / "models.v1" / kind).iterdir()
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    then = json.loads((FIXTURES / "models.v1" / f"{kind}.json").read_bytes())

    (node,) = nodes_of(manifest, (folder / ARRAYS).read_bytes(), (folder / GOLDEN).read_bytes())
    node.golden.check(node.model, engine=engine)
    walked = node.model.walk(np.array(then["rows"], dtype=np.float64), engine=engine)

    assert [float(p).hex() for p in walked.p] == then["p"]
    assert [[float(a).hex() for a in row] for row in walked.attributions] == then["attributions"]
    assert walked.first.tolist() == then["first"]


def test_a_position_of_a_newer_version_is_refused() -> None:
    with pytest.raises(
        Refused, match="has version 3 and this program reads up to 2; run the version that wrote it"
    ):
        decode_position(b'{"next":{},"v":3}')


def test_a_position_of_a_newer_version_is_refused_whatever_its_form() -> None:
    with pytest.raises(Refused, match="has version 3 and this program reads up to 2"):
        decode_position(b'{"next":[["orders",0,7]],"v":3}')


def test_a_control_record_of_a_newer_version_is_refused() -> None:
    newer = a_control_record().model_copy(update={"schema_version": 2, "written_by": "9.9.9"})
    record = Record("control", 0, 4, 0, None, newer.model_dump_json().encode())

    state = ControlState("g").after(record)

    assert "run fraudstream 9.9.9, which wrote it, or a newer one" in state.refusal
    assert ControlState("another").after(record).refusal == ""
