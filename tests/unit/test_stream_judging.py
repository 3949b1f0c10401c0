"""What the judge reads of recorded decisions: about whom, since when, and on which side of a canary."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from models.decision import ModelRef
from models.policy import Policy
from stream.cli import app
from stream.control import ControlState
from stream.deploying import AlreadySo, _check_on_trial
from stream.guard import Gates, Guardrails
from stream.judge_cli import _look_on
from stream.judging import evidence_of, windows_of
from stream.ports import Record, Unreachable
from stream.service import DEPLOYED, EVERYWHERE, KILL_ON, NOBODY, PROMOTED, Scope, Served, Service, bucket_of
from stream.settings import Settings
from stream.trial import Arm, Arms, Evidence
from tests.decided_past import LATER, NOON, POLICY, SHADOW, DecidedPast, a_decision
from tests.unit.test_stream_service import a_model, told

OLD, NEW = "old@2026-01-01.aaaa", "new@2026-02-01.bbbb"


def served(said: str, role: Any = "challenger", *, offset: int = 0, scope: Scope = EVERYWHERE) -> Served:
    name, version = said.split("@")
    return Served(ModelRef(name=name, version=version, digest="0" * 64), role, scope, POLICY, None, offset)


class Past(DecidedPast):
    state = ControlState("g")

    def evidence(
        self, on_trial: Served | None = None, *, champion: Served | None = None, **gates: Any
    ) -> Evidence:
        return evidence_of(
            Settings(gates=Gates(silence_is_legitimate=True, **gates)),
            self.opened,
            on_trial or served(NEW),
            self.state,
            champion=champion,
            since=NOON,
            as_of=LATER,
        )


def test_a_challengers_evidence_is_what_it_said_of_orders_that_the_champion_decided() -> None:
    past = Past()
    past.control = 1
    for number in range(10):
        past.order(number, "approve", "decline", became=True)
    for number in range(10, 40):
        past.order(number, "approve", "approve")
    past.order(40, "approve", "decline", placed_at=(LATER - timedelta(days=3)).isoformat())

    seen = past.evidence(champion=served(OLD, "champion", offset=0))
    of_another = past.evidence(champion=served("other@2026-01-01.cccc", "champion", offset=0))

    assert (seen.days, seen.scored, seen.disagreed) == (100.0, 41, 11)
    assert seen.compared is not None
    assert seen.compared.saved is not None
    assert (seen.compared.orders, seen.compared.frauds, seen.compared.saved.value) == (40, 10, 100_000)
    assert of_another == Evidence(100.0), "what another champion decided says nothing of this one"


def test_what_was_said_before_either_stood_where_it_stands_does_not_count() -> None:
    past = Past()
    for number, control in enumerate([1, 4, 5, 6, 9, 10]):
        past.control = control
        past.order(number, "approve", "approve")

    assert past.evidence(served(NEW, offset=4)).scored == 4
    assert past.evidence(served(NEW, offset=4), champion=served(OLD, "champion", offset=8)).scored == 2


def test_a_challenger_of_one_country_is_judged_by_its_orders() -> None:
    past = Past()
    past.control = 1
    past.order(0, "approve", "approve", country="DE")
    past.order(1, "approve", "approve", country="FR")
    past.order(2, "approve", "approve")

    assert past.evidence(served(NEW, scope=Scope(country="DE"))).scored == 1


def test_what_a_canary_decided_is_nothing_to_be_held_against() -> None:
    past = Past()
    past.state = told((DEPLOYED, a_model("new")), (DEPLOYED, a_model("old", role="canary", share=5_000)))
    past.control = past.state.next_offset
    for number in range(100):
        past.order(number, "decline", "approve")
    on_trial = sum(bucket_of(f"c{number}") < 5_000 for number in range(100))

    seen = past.evidence(served(NEW))

    assert 0 < on_trial < 100
    assert seen.scored == 100 - on_trial


def test_a_challenger_that_failed_on_the_hard_orders_is_not_judged_by_the_easy_ones_alone() -> None:
    past = Past()
    past.control = 1
    past.order(0, "approve", None)  # before it said anything: retention may have taken what it said
    for number in range(1, 31):
        past.order(number, "approve", "approve" if number <= 20 else None)
    past.order(31, "approve", None, country="FR")

    assert past.evidence().answered == pytest.approx(20 / 31)
    assert past.evidence(served(NEW, scope=Scope(country="FR"))).answered == 0.0


def test_what_a_challenger_would_let_through_of_what_was_declined_is_told_beside_the_money() -> None:
    past = Past()
    past.control = 1
    for number, (champion, challenger) in enumerate(
        [("decline", "approve"), ("decline", "review"), ("decline", "decline"), ("approve", "approve")]
    ):
        past.order(number, champion, challenger)
    past.order(4, "decline", "approve", became=False)  # known to have been good

    seen = past.evidence()

    assert seen.compared is not None
    assert (seen.compared.orders, seen.declined, seen.released) == (2, 3, 1)


def test_how_long_a_challenger_is_silent_is_told_by_when_orders_arrived() -> None:
    past = Past()
    past.control = 1
    past.order(0, "approve", "approve")

    def silent(as_of: datetime) -> float | None:
        settings = Settings(gates=Gates())
        return evidence_of(
            settings, past.opened, served(NEW), past.state, champion=None, since=NOON, as_of=as_of
        ).silent_days

    assert silent(LATER) == 0.0
    assert silent(LATER + timedelta(days=60)) == 60.0, "a clock far ahead, or nothing was scored since"


def test_what_a_challenger_says_elsewhere_with_other_thresholds_is_no_evidence_here() -> None:
    past = Past()
    past.control = 1
    for number in range(10):
        past.order(number, "approve", "decline", became=True)
    elsewhere = Policy(review_at=0.95, decline_at=0.99)
    for offset in range(10):
        order = {"order_id": f"o{offset}"}
        said = a_decision(order, offset, NEW, "approve", features={}, control=1, policy=elsewhere)
        past.put("decisions-shadow", f"c{offset}", said, SHADOW)

    here = past.evidence()
    there = past.evidence(replace(served(NEW), policy=elsewhere))

    assert (here.scored, here.disagreed) == (10, 10)
    assert (there.scored, there.disagreed) == (10, 0)


@pytest.mark.parametrize(
    "since",
    [
        (PROMOTED, a_model("better")),
        (PROMOTED, a_model("old", review_at=0.5)),
        (KILL_ON, {"action": "review"}),
    ],
)
def test_a_challenger_is_not_moved_beside_another_champion_than_it_was_judged_beside(since: Any) -> None:
    before = (PROMOTED, a_model("old")), (DEPLOYED, a_model("new", role="challenger"))
    judged, now = told(*before).service, told(*before, since).service
    elsewhere = told(*before, (PROMOTED, a_model("german", scope={"country": "DE"}))).service
    on_trial = next(each for each in judged.served if each.role == "challenger")

    with pytest.raises(AlreadySo, match="nothing was changed"):
        _check_on_trial(now, on_trial, judged)
    _check_on_trial(elsewhere, on_trial, judged)
    _check_on_trial(now, on_trial, None)


def test_drift_is_told_of_whole_windows() -> None:
    past = Past()
    past.control = 1
    number = 0
    for day, actions in enumerate(
        [("approve", "review"), ("approve", "review"), ("review", "decline"), ("approve", "review")]
    ):
        for minute in range(600):
            number += 1
            at = NOON + timedelta(days=day, minutes=minute / 2)
            past.order(number, "approve", actions[minute % 2], placed_at=at.isoformat())

    seen = past.evidence(window_days=1)

    assert seen.stability is not None
    assert seen.stability > 0.25, "the third day against the first; of the fourth only a part may be there"
    assert Past.evidence(past, window_days=30).stability is None


def test_a_challenger_of_a_country_is_held_against_whoever_decides_there() -> None:
    german = a_model("german", scope={"country": "DE"})
    state = told((PROMOTED, a_model("old")), (PROMOTED, a_model("web", scope={"channel": "web"})))

    def decides(service: Service, **scope: str) -> str:
        found = service.deciding(Scope(**scope))
        return "" if found is None else found.ref.name

    assert decides(state.service, country="DE") == "old"
    assert decides(state.service, country="DE", channel="web") == "web"
    assert decides(told((PROMOTED, a_model("old")), (PROMOTED, german)).service, country="DE") == "german"
    assert decides(NOBODY, country="DE") == ""


def test_another_time_than_now_is_judged_only_where_nothing_is_moved() -> None:
    result = CliRunner().invoke(app, ["models", "judge", "--as-of", "2026-01-01"])

    assert result.exit_code == 2
    assert "only --dry-run judges another time than now" in " ".join(result.output.split())


def test_a_look_that_failed_is_made_again_soon_and_not_only_when_it_is_due() -> None:
    looks: list[Iterator[Any]] = []
    waits: list[float] = []

    def look() -> Iterator[Any]:
        if not waits:
            raise Unreachable("no broker answers")
        return iter(())

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _look_on(look, looks.append, every=3600.0, again=30.0, sleep=sleep)

    assert len(looks) == 1
    assert waits[0] <= 30.0
    assert waits[1] > 3000.0


class Trial:
    """A canary for 30 % of the customers beside a champion, and what was decided."""

    def __init__(self, *moves: tuple[str, dict[str, Any]], share: int = 3_000, **rails: Any) -> None:
        canary = a_model("new", role="canary", share=share)
        moves = moves or ((PROMOTED, a_model("old")), (DEPLOYED, canary))
        self.state: ControlState = told(*moves)
        self.past = DecidedPast()
        self.past.control = self.state.next_offset
        self.number = 0
        self.rails = Guardrails(**rails)

    @property
    def on_trial(self) -> Served:
        return next(each for each in self.state.service.served if each.role == "canary")

    def order(self, by: str | None, action: str = "approve", *, on_trial: bool, **fields: Any) -> None:
        """An order of a customer who is on trial, or is not."""
        while (bucket_of(f"c{self.number}") < (self.on_trial.share or 0)) != on_trial:
            self.number += 1
        number, past = self.number, self.past
        self.number += 1
        order = {
            "order_id": f"o{number}",
            "customer_id": f"c{number}",
            "placed_at": (NOON + timedelta(seconds=number)).isoformat(),
            "amount": 1_000,
            "currency": "EUR",
        } | fields
        offset = past.put("orders", f"c{number}", order)
        model = "old@2026-01-01.0000" if by is None else f"{by}@2026-01-01.0000"
        said = a_decision(order, offset, model, action, features={"amount": 1.0}, control=past.control)
        if by is None:
            said |= {"model": None, "p_fraud": None, "reasons": [{"code": "model_unavailable", "text": "-"}]}
        headers = (("order_arrived_at", str(int(LATER.timestamp() * 1000) - 40).encode()),)
        past.put("decisions", f"c{number}", said, headers)

    def windows(self) -> tuple[Arms, Arms, Arm]:
        return windows_of(
            Settings(guardrails=self.rails),
            self.past.opened,
            self.on_trial,
            self.state,
            since=NOON,
            as_of=LATER,
        )


def test_orders_are_told_apart_by_who_was_to_decide_them() -> None:
    trial = Trial()
    for _ in range(5):
        trial.order("new", "decline", on_trial=True)
        trial.order("old", "review", on_trial=False)
    trial.order("old", on_trial=True)  # the canary failed
    trial.order(None, "review", on_trial=True)  # and the champion too

    short, long, before = trial.windows()

    assert (short.canary.orders, short.canary.fallbacks, short.canary.mean("declines")) == (7, 2, 1.0)
    assert (short.others.orders, short.others.fallbacks, short.others.mean("reviews")) == (5, 0, 1.0)
    assert short.canary.took_s == [0.04] * 7
    assert (long.canary, before.orders) == (short.canary, 0)


def test_what_was_decided_before_the_trial_or_by_a_person_does_not_count() -> None:
    trial = Trial(
        (PROMOTED, a_model("old")),
        (DEPLOYED, a_model("new", role="canary", share=3_000)),
        (KILL_ON, {"action": "review"}),
    )
    for control in (1, 2, 3):
        trial.past.control = control
        trial.order("new", on_trial=True)

    assert trial.windows()[0].canary.orders == 1


def test_orders_of_a_narrower_champion_are_on_no_side() -> None:
    trial = Trial(
        (PROMOTED, a_model("old")),
        (PROMOTED, a_model("german", scope={"country": "DE"})),
        (DEPLOYED, a_model("new", role="canary", share=3_000)),
    )
    trial.order("german", on_trial=True, country="DE")
    trial.order("german", on_trial=False, country="DE")
    trial.order("new", on_trial=True, country="FR")

    short, _, _ = trial.windows()

    assert (short.canary.orders, short.others.orders) == (1, 0)


def test_windows_end_with_the_newest_order_by_when_it_was_placed() -> None:
    trial = Trial(short_window_minutes=60, long_window_hours=24)
    for hours in (30, 20, 1.5, 0.5, 0):
        at = (NOON + timedelta(hours=48 - hours)).isoformat()
        trial.order("new", on_trial=True, placed_at=at)

    short, long, before = trial.windows()

    assert (short.canary.orders, long.canary.orders, before.orders) == (2, 4, 2)


def test_of_very_many_orders_the_newest_are_read() -> None:
    trial = Trial(most_orders=8_000)  # a thousand of each of 8 partitions
    for _ in range(1_500):
        trial.order("new", on_trial=True)

    assert trial.windows()[1].canary.orders == 1_000


def test_a_decision_without_words_about_control_is_of_nobody_on_trial() -> None:
    trial = Trial()
    trial.order("new", on_trial=True)
    record = trial.past.topics["decisions"][0]
    said = json.loads(record.value or b"")
    said["source"]["others"] = {}
    trial.past.topics["decisions"][0] = Record(*record[:5], json.dumps(said).encode(), record.headers)

    assert trial.windows()[0].canary.orders == 0


@pytest.mark.parametrize("role", ["challenger", "canary"])
def test_with_nothing_recorded_nothing_is_known(role: Any) -> None:
    assert Past().evidence(served(NEW, role)) == Evidence(100.0)
