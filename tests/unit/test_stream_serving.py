"""When models are loaded, and from when on what was said of them is in force."""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from features.define import Feature
from models.decision import ModelRef
from models.policy import Policy
from models.registry import ARRAYS, Registry
from stream.control import ControlState
from stream.panel import Panels
from stream.ports import Record
from stream.service import DEPLOYED, EVERYWHERE, KILL_OFF, KILL_ON, PROMOTED, Served
from stream.serving import Serving, Shelf
from stream.settings import Settings
from tests.small_shop import a_trained
from tests.strategies import an_order
from tests.unit.test_stream_panel import MODELS, POLICY, Says, state
from tests.unit.test_stream_service import a_model

WITHIN_S = 10.0
FOREST, LINEAR = a_trained("random_forest"), a_trained("logistic_regression")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    registry = Registry(tmp_path / "models")
    for trained in (FOREST, LINEAR):
        registry.publish(trained)
    return Settings(home=tmp_path, row_limit=50)


def served(settings: Settings, version: str, *, digest: str | None = None) -> Served:
    known = Registry(settings.home / "models").digest("order_risk", version)
    ref = ModelRef(name="order_risk", version=version, digest=digest or known)
    return Served(ref, "champion", EVERYWHERE, Policy(review_at=0.2, decline_at=0.5), None, 0)


def a_shelf(settings: Settings) -> Shelf:
    return Shelf(settings, Registry(settings.home / "models"))


def a_move(settings: Settings, version: str, **scope: str) -> dict[str, Any]:
    """What a record says that has a version of the registry decide some orders."""
    ref = served(settings, version).ref
    named = {"name": ref.name, "version": version, "digest": ref.digest}
    return {**named, "role": "champion", "scope": scope, "review_at": 0.2, "decline_at": 0.5}


def shelf_size(settings: Settings, version: str) -> int:
    files = Registry(settings.home / "models").manifest("order_risk", version).files
    return sum(each.size for each in files.values())


def test_a_shelf_holds_what_fits_and_loads_the_rest_again_when_it_is_asked_for(settings: Settings) -> None:
    small = a_shelf(settings.model_copy(update={"serving_memory_mb": 0}))
    forest, linear = served(settings, FOREST.version), served(settings, LINEAR.version)

    first = small.scorer(forest)
    assert small.scorer(forest) is first, "it stays, whatever its size"
    small.scorer(linear)

    assert small.loaded == 1
    again = small.scorer(forest)
    assert again is not first
    assert again is not None
    assert again.ref == forest.ref
    roomy = a_shelf(settings)
    assert [roomy.scorer(each) is not None for each in (forest, linear)] == [True, True]
    assert roomy.loaded == 2


def test_a_model_that_is_not_the_one_that_was_deployed_is_not_served(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = a_shelf(settings)
    other = served(settings, FOREST.version, digest="0" * 64)

    assert (shelf.features(other), shelf.scorer(other)) == (None, None)
    assert "deployed with digest 000000000000" in caplog.text
    assert shelf.scorer(served(settings, LINEAR.version)) is not None


@pytest.mark.parametrize("harm", ["gone", "changed", "row_limit"])
def test_a_model_that_cannot_be_loaded_is_said_to_be_so_and_stops_nothing(
    settings: Settings, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = served(settings, FOREST.version)
    folder = settings.home / "models/order_risk" / FOREST.version
    if harm == "gone":
        shutil.rmtree(folder)
    elif harm == "changed":
        (folder / ARRAYS).chmod(0o644)
        (folder / ARRAYS).write_bytes(b"other")
    shelf = a_shelf(settings.model_copy(update={"row_limit": 60}) if harm == "row_limit" else settings)

    assert shelf.scorer(model) is None
    assert f"order_risk@{FOREST.version} is champion and can't be used" in caplog.text


def test_a_model_that_failed_is_tried_again_and_no_order_waits_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served(settings, FOREST.version)
    folder = settings.home / "models/order_risk" / FOREST.version
    folder.rename(settings.home / "elsewhere")
    shelf = a_shelf(settings)
    assert shelf.scorer(model) is None
    (settings.home / "elsewhere").rename(folder)
    assert shelf.scorer(model) is None, "not at once"

    monkeypatch.setattr("stream.serving._AGAIN_S", 0.0)
    assert shelf.scorer(model) is None, "it loads meanwhile"
    deadline = time.monotonic() + WITHIN_S
    while not shelf.loaded and time.monotonic() < deadline:
        time.sleep(0.01)

    assert shelf.scorer(model) is not None


def test_a_model_that_could_not_be_read_when_it_was_moved_decides_once_it_can_be(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.serving._AGAIN_S", 0.02)
    model = served(settings, FOREST.version)
    folder = settings.home / "models/order_risk" / FOREST.version
    folder.rename(settings.home / "elsewhere")
    shelf = a_shelf(settings)
    panels = Panels(scorer=None, policy=POLICY, models=shelf)
    told = {"version": FOREST.version, "digest": model.ref.digest}
    at_work = Serving(shelf, panels, state((DEPLOYED, a_model("order_risk", **told))))
    before = at_work.state

    def said() -> Any:
        judge = panels.of(at_work.state.service).bench(an_order()).deciders[0]
        return judge.score([[None] * len(judge.names)])[0]

    assert said() is None
    (settings.home / "elsewhere").rename(folder)
    deadline = time.monotonic() + 6 * WITHIN_S  # a kernel may have to be compiled
    while at_work.state is before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert said() is not None, "the desk takes up a state that is another one"
    assert at_work.state == before, "nothing was said meanwhile"
    assert shelf.loaded == 1, "no order waits for it"


class Slow:
    """Models that load only once they are let."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = threading.Event()

    def features(self, served: Served) -> Sequence[Feature] | None:
        return MODELS.features(served)

    def scorer(self, served: Served) -> Any:
        self.asked.set()
        assert self.may.wait(WITHIN_S)
        return MODELS.scorer(served)

    def load_ahead(self, several: Iterable[Served]) -> None:
        for each in several:
            self.scorer(each)


@pytest.fixture
def slow() -> Iterator[Slow]:
    models = Slow()
    yield models
    models.may.set()


def serving(models: Slow) -> Serving:
    scorer: Any = Says(0.6, "amount")
    panels = Panels(scorer=scorer, policy=POLICY, models=models)
    return Serving(cast("Shelf", models), panels, ControlState("g"))


def test_a_state_is_in_force_only_once_its_models_are_loaded(slow: Slow) -> None:
    at_work = serving(slow)

    at_work.take_up(state((DEPLOYED, a_model("low"))))
    assert slow.asked.wait(WITHIN_S)
    assert at_work.state.next_offset == 0
    assert not at_work.settle(0.0)
    slow.may.set()

    assert at_work.settle(WITHIN_S)
    assert [each.ref.name for each in at_work.state.service.served] == ["low"]


def test_a_kill_switch_waits_for_no_model_and_what_loaded_meanwhile_changes_nothing(slow: Slow) -> None:
    at_work = serving(slow)
    moves = [(DEPLOYED, a_model("low")), (KILL_ON, {"action": "review"})]

    at_work.take_up(state(*moves[:1]))
    assert slow.asked.wait(WITHIN_S)
    at_work.take_up(state(*moves))

    assert at_work.state.service.kill == "review"
    slow.may.set()
    at_work.take_up(state(*moves, (PROMOTED, a_model("high")), (KILL_OFF, {})))
    assert at_work.settle(WITHIN_S)
    assert (at_work.state.next_offset, at_work.state.service.kill) == (4, None)


def test_models_of_narrow_scopes_are_loaded_before_an_order_needs_them(settings: Settings) -> None:
    shelf = a_shelf(settings)
    moves = [
        (DEPLOYED, a_move(settings, FOREST.version, merchant="m1")),
        (DEPLOYED, a_move(settings, LINEAR.version, merchant="m2")),
    ]

    Serving(shelf, Panels(scorer=None, policy=None, models=shelf), state(*moves))

    deadline = time.monotonic() + WITHIN_S
    while shelf.loaded < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shelf.loaded == 2


def test_what_is_loaded_ahead_takes_nobodys_room(settings: Settings) -> None:
    forest, linear = served(settings, FOREST.version), served(settings, LINEAR.version)
    shelf = a_shelf(settings)
    shelf._most = shelf_size(settings, FOREST.version)
    held = shelf.scorer(forest)

    shelf.load_ahead([linear, forest])

    assert shelf.loaded == 1
    assert shelf.scorer(forest) is held


def test_what_is_said_of_no_model_is_in_force_at_once(slow: Slow) -> None:
    at_work = serving(slow)

    value = b'{"kind":"observe","group":"g","who":"anna","why":"a test"}'
    at_work.take_up(at_work.state.after(Record("control", 0, 0, 0, None, value)))

    assert at_work.state.observing()
    assert not slow.asked.is_set()


def test_what_is_said_in_a_topic_made_anew_is_in_force_though_its_offsets_begin_again(slow: Slow) -> None:
    at_work = serving(slow)
    slow.may.set()
    at_work.take_up(state((DEPLOYED, a_model("low")), (PROMOTED, a_model("high"))))
    assert at_work.settle(WITHIN_S)

    at_work.take_up(state((KILL_ON, {"action": "review"})))

    assert (at_work.state.next_offset, at_work.state.service.kill) == (1, "review")
