"""Orders that went through stages decided again: equal byte for byte, or the place where they were not."""

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from features.events import Order, OrderEvent, Outcome
from features.revisions import Revisions
from models.registry import Registry
from stream.anew import Anew
from stream.ports import Record
from stream.service import DEPLOYED, EVERYWHERE, KILL_OFF, KILL_ON, PROMOTED, RETIRED, ROLLED_BACK
from stream.serving import Shelf
from stream.settings import Settings, Topics
from stream.verify import Verified, Window
from tests.small_road import NOON_MS, LiveRoad, an_outcome, publish_models
from tests.small_shop import an_order

EUROS = b'"currency":"EUR"'
HISTORY = (("mode", b"history"),)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A registry with three models: the second asks for fewer features, the third of customers alone."""
    home = tmp_path_factory.mktemp("home")
    return home, publish_models(Settings(home=home))


@pytest.fixture
def live(models: tuple[Path, list[str]]) -> LiveRoad:
    home, (first, *_) = models
    made = Settings(
        home=home, partitions=3, row_limit=20, topics=Topics(prefix="shop."), entities=("device", "merchant")
    )
    return LiveRoad(made, first)


def events(count: int, seed: int = 5) -> Iterator[Order | Outcome | OrderEvent]:
    """Orders of few customers, devices and merchants, resent, revised, and what became of them."""
    chance = random.Random(seed)
    orders: list[Order] = []
    for number in range(count):
        order = an_order(
            number,
            customer_id=f"c{chance.randrange(6)}" if chance.random() < 0.9 else None,
            device_id=f"d{chance.randrange(8)}" if chance.random() < 0.8 else None,
            merchant_id=f"m{chance.randrange(4)}" if chance.random() < 0.8 else None,
            amount=chance.randrange(100, 9000),
        )
        orders.append(order)
        yield order
        about = chance.choice(orders[-30:])
        if chance.random() < 0.1:
            yield about
        if chance.random() < 0.15:
            changes = {"revision": about.revision + 1, "device_id": f"d{chance.randrange(8)}"}
            orders.append(about.model_copy(update=changes))
            yield orders[-1]
        if chance.random() < 0.4:
            yield an_outcome(about, timedelta(hours=chance.randrange(1, 300)))
        if chance.random() < 0.1:
            known_at = about.placed_at + timedelta(hours=1)
            yield OrderEvent(
                order_id=about.order_id,
                customer_id=about.customer_id,
                kind="delivered",
                occurred_at=known_at,
                known_at=known_at,
            )


def happened(live: LiveRoad, count: int = 150, seed: int = 5) -> None:
    """What is sent is taken now and then, each input and each stage in its own time."""
    chance = random.Random(seed)
    inputs = [(topic, n) for topic in live.settings.inputs for n in range(live.settings.partitions)]
    for event in events(count, seed):
        live.send(event)
        live.take(*chance.choice(inputs), most=chance.randint(1, 9))
    live.finish(chance)


def equal(found: Verified) -> int:
    """How many are equal, when all are."""
    assert (dict(found.causes), found.listed) == ({}, [])
    assert (found.undecided, found.unrecorded, found.notes) == (0, 0, [])
    return found.equal


def only(found: Verified, cause: str) -> Any:
    assert dict(found.causes) == {cause: 1}, found.listed
    return found.listed[0]


def changed(record: Record, **fields: Any) -> Record:
    return record._replace(value=json.dumps(json.loads(record.value or b"") | fields).encode())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_went_through_stages_is_decided_again_as_it_was(live: LiveRoad, seed: int) -> None:
    live.send(*events(40, seed + 100), headers=HISTORY)
    live.send(b"no json", b'{"order_id": "half"}')
    happened(live, seed=seed)

    found = live.verified()

    assert equal(found) == found.compared == len(live.decided) > 150
    sent = [each for topic in live.settings.stages.values() for each in live.lists.topics[topic]]
    assert found.messages == sum(map(len, sent))


def test_orders_that_are_on_their_road_when_another_model_comes_are_decided_again(
    live: LiveRoad, models: tuple[Path, list[str]]
) -> None:
    _, (first, second, _) = models
    for turn, model in enumerate((second, first, second)):
        for number, event in enumerate(events(40, seed=turn)):
            live.send(event)
            live.take(live.settings.topics.orders, number % 3, most=4)
            live.take(live.settings.topics.outcomes, number % 3)
            live.take(live.settings.stages["device"], (number + 1) % 3, most=2)
            live.take(live.settings.stages["merchant"], number % 3, most=1)
        live.started(live.settings, model)
    live.finish()

    assert equal(live.verified()) == len(live.decided) > 120


def test_orders_set_aside_on_their_road_are_set_aside_again(live: LiveRoad) -> None:
    topics, stages = live.settings.topics, live.settings.stages
    happened(live, 20)
    for topic in (topics.orders, stages["device"], stages["merchant"]):
        (record,) = live.send(an_order(len(topic), customer_id="c1", device_id="d1", merchant_id="m1"))
        place = (topic, record.partition)
        while not any(live.waiting(topic, number) for number in range(3)):
            live.take(topics.orders, record.partition)
            if topic != stages["device"]:
                for number in range(3):
                    live.take(stages["device"], number)
        place = next((topic, number) for number in range(3) if live.waiting(topic, number))
        live.set_aside(*place)
    live.send(an_order(900, device_id="d1", merchant_id="m1"))
    live.finish()

    found = live.verified()

    assert equal(found) == len(live.decided)
    assert found.set_aside == 3
    live.lists.topics[topics.rejected] = [[] for _ in range(3)]
    assert equal(live.verified()) == len(live.decided), "the decisions say so themselves"


def test_one_changed_decision_is_found_and_its_field_is_named(live: LiveRoad) -> None:
    happened(live)
    victim = next(
        each for each in live.decided if b'"repeat_of":null' in (each.value or b"") and each.offset > 9
    )
    live.replace(victim, changed(victim, p_fraud=0.123))

    found = live.verified()

    difference = only(found, "changed")
    assert difference.decision == f"{victim.topic}/{victim.partition}/{victim.offset}"
    assert [each.path for each in difference.fields] == ["p_fraud"]
    assert found.compared == len(live.decided) == found.equal + 1


def test_a_missing_decision_and_one_that_is_there_twice_are_found(live: LiveRoad) -> None:
    happened(live)
    before = len(live.decided)
    victim, double = (live.lists.topics[live.settings.topics.decisions][n][5] for n in (0, 1))
    live.replace(victim, None)
    live.lists.append(double.topic, double.partition, double.key, double.value, double.headers)

    found = live.verified()

    assert dict(found.causes) == {"missing": 1, "repeated": 1}
    assert found.equal == before - 1


@pytest.mark.parametrize("entity", ["device", "merchant"])
def test_a_message_that_somebody_changed_is_named_and_decisions_are_held_against_what_was_taken(
    live: LiveRoad, entity: str
) -> None:
    chance, topic = random.Random(3), live.settings.stages[entity]
    victim = None
    for event in events(60):
        live.send(event)
        if victim is None:
            for upstream in live.settings.inputs[: live.settings.inputs.index(topic)]:
                for number in range(3):
                    live.take(upstream, number)
            some = [each for n in range(3) for each in live.waiting(topic, n) if EUROS in (each.value or b"")]
            if len(some) > 2:
                victim = some[-1]
                value = (victim.value or b"").replace(EUROS, EUROS.replace(b"EUR", b"USD"))
                live.replace(victim, victim._replace(value=value))
    live.finish(chance)

    found = live.verified()

    assert victim is not None
    assert only(found, "message_changed").decision == f"{topic}/{victim.partition}/{victim.offset}"
    assert found.equal == found.compared == len(live.decided)


@pytest.mark.parametrize("entity", ["device", "merchant"])
def test_a_message_that_is_gone_and_bytes_that_are_none_are_named(live: LiveRoad, entity: str) -> None:
    happened(live)
    topic = live.settings.stages[entity]
    gone = max(live.lists.topics[topic], key=len)[20]
    live.replace(gone, None)
    forged = live.lists.append(topic, 1, b"k", b"nothing of ours")

    found = live.verified()

    named = {each.cause: each for each in found.listed}
    assert found.causes["message_missing"] == 1
    assert named["message_missing"].said.startswith(f"a message is sent again to {topic}/{gone.partition}")
    assert f"{topic}/1/{forged.offset}" in [each.decision for each in found.listed]


def test_messages_lost_before_they_were_archived_are_told_from_deleted_ones(live: LiveRoad) -> None:
    happened(live)
    topic = live.settings.stages["device"]
    lost = [dict(each.headers)["order_id"].decode() for each in live.lists.topics[topic][0][20:23]]
    live.lists.lost[topic, 0] = [(20, 23)]

    found = live.verified()

    assert {each.order_id for each in found.listed} == set(lost)
    assert set(found.causes) <= {"message_lost", "lost"}
    assert any("lacks the offsets 20 to 22" in note for note in found.notes)


def test_only_what_arrived_in_the_window_is_compared_and_other_models_need_not_be_there(
    live: LiveRoad, models: tuple[Path, list[str]], tmp_path: Path
) -> None:
    home, (first, second, _) = models
    happened(live, 60, seed=1)
    begin = NOON_MS + live.lists.appended + 1
    live.started(live.settings, second)
    happened(live, 60, seed=2)
    registry = tmp_path / "models" / "order_risk"
    registry.mkdir(parents=True)
    name = second.partition("@")[2]
    (registry / name).symlink_to(home / "models" / "order_risk" / name)

    found = live.verified(live.settings.model_copy(update={"home": tmp_path}), Window(begin))

    after = [each for each in live.decided if int(dict(each.headers)["order_arrived_at"]) >= begin]
    assert equal(found) == len(after) > 60
    without = live.verified(live.settings.model_copy(update={"home": tmp_path}))
    assert set(without.causes) == {"model_unknown"}
    assert first.startswith("order_risk@")


def test_decisions_from_before_an_entity_was_on_are_decided_again_at_home(
    live: LiveRoad, models: tuple[Path, list[str]]
) -> None:
    _, (first, _, alone) = models
    both = live.settings
    live.started(both.model_copy(update={"entities": ()}), alone)
    live.send(*events(30, seed=7), headers=HISTORY)
    happened(live, 60, seed=1)
    live.started(both, first)
    happened(live, 60, seed=2)

    found = live.verified()
    assert (dict(found.causes), found.equal) == ({}, len(live.decided))
    assert any("begun without them" in note for note in found.notes)
    at_home = live.verified(both.model_copy(update={"entities": ()}))
    assert set(at_home.causes) == {"through_stages"}


def test_entities_turned_on_by_a_rebuild_are_verified_with_the_rows_that_it_made(
    live: LiveRoad, models: tuple[Path, list[str]]
) -> None:
    _, (first, _, alone) = models
    both = live.settings
    live.started(both.model_copy(update={"entities": ()}), alone)
    happened(live, 90, seed=1)
    live.started(both, first)
    topics = both.topics
    past = [each for topic in both.roads[0] for records in live.lists.topics[topic] for each in records]
    past.sort(key=lambda each: each.timestamp)
    made = Anew(live.desk, both.stages.values()).remember(past, lambda *_: None, {})
    for number, rows in made.rows.items():
        for key, row in rows.items():
            assert row is not None
            old = live.rows.get((number, key))
            if key.startswith(b"o") and old is not None:
                known = Revisions.decode(row)
                known.decided_as(Revisions.decode(old))
                row = known.encode()  # noqa: PLW2901
            live.rows[number, key] = row
    happened(live, 60, seed=2)

    found = live.verified()

    assert (dict(found.causes), found.equal) == ({}, len(live.decided))
    assert any("made from them" in note for note in found.notes)
    victim = live.lists.topics[topics.decisions][0][-1]
    live.replace(victim, changed(victim, action="challenge"))
    assert only(live.verified(), "changed").order_id is not None


def test_orders_whose_decisions_were_deleted_are_gone_through_and_not_missing(live: LiveRoad) -> None:
    happened(live)
    topic = live.settings.topics.decisions
    for number in range(3):
        live.lists.beginnings[topic, number] = 20

    found = live.verified()

    assert set(found.causes) <= {"decisions_begin_later"}
    assert found.compared + 60 == len(live.decided)
    assert found.unrecorded > 50


def test_what_is_still_on_its_road_is_not_missing(live: LiveRoad) -> None:
    happened(live, 60)
    decided = len(live.decided)
    live.send(*(an_order(900 + n, device_id=f"d{n}", merchant_id="m1") for n in range(9)))
    for topic in (live.settings.topics.orders, live.settings.stages["device"]):
        for number in range(3):
            live.take(topic, number)

    found = live.verified()

    assert (found.equal, dict(found.causes)) == (decided, {})
    assert found.undecided == 9


# Models in service --------------------------------------------------------------------------------


def in_service(live: LiveRoad, model: str, **more: Any) -> dict[str, Any]:
    """What a control record says that puts a model into service."""
    name, _, version = model.partition("@")
    digest = Registry(live.settings.home / "models", entities=live.settings.entities).digest(name, version)
    told = {"name": name, "version": version, "digest": digest, "role": "champion", "scope": {}}
    return told | {"review_at": 0.11, "decline_at": 0.33, "replaces": None} | more


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_orders_on_their_road_while_models_move_are_decided_again_under_the_service_of_their_home(
    models: tuple[Path, list[str]], seed: int
) -> None:
    home, (whole, fewer, customers) = models
    settings = Settings(
        home=home, partitions=3, row_limit=50, topics=Topics(prefix="shop."), entities=("device", "merchant")
    )
    live = LiveRoad(settings, whole)
    moves: list[tuple[str, dict[str, Any]]] = [
        (DEPLOYED, in_service(live, customers, scope={"merchant": "m2"})),
        (DEPLOYED, in_service(live, fewer)),
        (DEPLOYED, in_service(live, whole, scope={"merchant": "m1"})),
        (DEPLOYED, in_service(live, whole, role="challenger")),
        (PROMOTED, in_service(live, customers)),
        (DEPLOYED, in_service(live, whole, role="canary", share=3_000)),
        (KILL_ON, {"action": "review"}),
        (KILL_OFF, {}),
        (RETIRED, in_service(live, whole, role="canary")),
    ]
    chance = random.Random(seed)
    inputs = [(topic, n) for topic in settings.inputs for n in range(3)]
    for number, event in enumerate(events(180, seed)):
        if number % 20 == 19 and moves:
            kind, more = moves.pop(0)
            live.tell(kind, **more)
        live.send(event)
        live.take(*chance.choice(inputs), most=chance.randint(1, 9))
    live.finish(chance)
    assert not moves

    found = live.verified()

    assert (dict(found.causes), found.listed[:3]) == ({}, [])
    assert found.equal == len(live.decided)
    decided = [json.loads(each.value or b"") for each in live.decided]
    assert len({(each["model"] or {}).get("digest") for each in decided}) == 4, "three models, and none"


def a_move(live: LiveRoad, models: list[str], chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Any move that a person could make now."""
    service = live.state.service
    champion = service.champion(EVERYWHERE)
    scope = chance.choice([{}, {"merchant": f"m{chance.randrange(4)}"}])
    more = chance.choice([{}, {"review_at": 0.05, "decline_at": 0.5}]) | {"scope": scope}
    model = chance.choice(models)
    kind = chance.choice([KILL_ON, KILL_OFF, PROMOTED, RETIRED, ROLLED_BACK, *[DEPLOYED] * 3])
    if kind == KILL_ON:
        has_fallback = any((each.role, each.scope) == ("fallback", EVERYWHERE) for each in service.served)
        return kind, {"action": chance.choice(["review", "approve", *["fallback"] * has_fallback])}
    if kind == KILL_OFF or service.kill is not None:
        return KILL_OFF, {}
    if kind == RETIRED and service.served:
        gone = chance.choice(service.served)
        where = gone.scope.model_dump(exclude_none=True)
        return kind, in_service(live, gone.said, role=gone.role, share=gone.share, scope=where)
    if kind == ROLLED_BACK and champion is not None:
        before = service.before(EVERYWHERE)
        if before is None:
            return kind, {"role": "champion", "scope": {}, "replaces": champion.said}
        return kind, in_service(live, before.said)
    if kind == DEPLOYED:
        role = chance.choice(["fallback", "canary", "challenger"])
        more |= {"role": role, "share": chance.choice([1_000, 5_000]) if role == "canary" else None}
        return kind, in_service(live, model, **more)
    return PROMOTED, in_service(live, model, **more)


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_moved_beside_the_model_of_the_settings_and_can_not_be_read_is_decided_again_alike(
    models: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, *, seed: int, breaks: bool
) -> None:
    home, named = models
    chance = random.Random(seed)
    settings = Settings(
        home=home, partitions=3, row_limit=50, topics=Topics(prefix="shop."), entities=("device", "merchant")
    )
    gone: set[str] = set()
    features, scorer = Shelf.features, Shelf.scorer
    monkeypatch.setattr(
        Shelf, "features", lambda shelf, each: None if each.said in gone else features(shelf, each)
    )
    monkeypatch.setattr(
        Shelf, "scorer", lambda shelf, each: None if each.said in gone else scorer(shelf, each)
    )
    live = LiveRoad(settings, named[0])
    inputs = [(topic, n) for topic in settings.inputs for n in range(3)]
    for event in events(120, seed):
        if chance.random() < 0.1:
            kind, more = a_move(live, named, chance)
            live.tell(kind, **more)
            assert not live.state.malformed
        if breaks and chance.random() < 0.08:
            gone ^= {chance.choice(named)}
            live.started(settings, named[0])
        live.send(event)
        live.take(*chance.choice(inputs), most=chance.randint(1, 9))
    live.finish(chance)

    found = live.verified()

    assert (dict(found.causes), found.listed[:3]) == ({}, [])
    assert found.equal == len(live.decided)
