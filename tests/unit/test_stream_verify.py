"""Decisions decided again from what was recorded: equal byte for byte, or listed with their cause."""

import json
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from features.history import Row
from models.policy import Policy
from models.registry import Registry
from stream.control import LIVE, OBSERVE, PAUSED, RESUMED, ControlState
from stream.deciding import HEADER, Deciding
from stream.desk import customer_key, order_key
from stream.past_rows import Rows
from stream.ports import Headers, Record
from stream.service import DEPLOYED, KILL_OFF, KILL_ON, PROMOTED, RETIRED, ROLLED_BACK
from stream.settings import Settings, Topics
from stream.verify import CAUSES, Difference, Verified, Window
from tests.small_past import NOON_MS, Live, publish_models
from tests.small_shop import OPENED_AT, an_order
from tests.strategies import as_json

MAPPED = """
[source]
format = "json"

[fields]
order_id = "id"
customer_id = "who"
placed_at = "at"
amount = { column = "cents", unit = "minor" }
currency = { value = "EUR" }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A shop with two models in its registry; the forest learned from as long histories as the other."""
    made = Settings(home=tmp_path, partitions=1, row_limit=50, topics=Topics(prefix="shop."))
    publish_models(made)
    return made


def value(number: int, **fields: Any) -> bytes:
    changes = {name: fields.pop(name) for name in ("amount",) if isinstance(fields.get(name), str)}
    return as_json(an_order(number, **fields), **changes)


def every_kind() -> list[bytes | None]:
    """Orders of three customers, resends, revisions, guests, a test order, and what can't be read."""
    orders: list[bytes | None] = [value(n, customer_id=f"c{n % 3}", amount=100 * n) for n in range(120)]
    return [
        *orders,
        *orders[:5],
        value(3, customer_id="c0", revision=1, amount=7),
        value(4, customer_id="c2", revision=1),
        value(5, customer_id="c2", amount=8),
        value(3, customer_id="c0", revision=1, amount=7),
        *(value(200 + n, customer_id=None) for n in range(4)),
        value(210, test=True),
        value(211, amount="none"),
        b"no json",
        b'{"order_id": "half", "customer_id": "c1"}',
        None,
        *(value(220, revision=n, amount=n) for n in range(12)),
        value(220, revision=1, amount=1),
        *(value(300 + n, customer_id=f"c{n % 3}") for n in range(20)),
    ]


def equal(found: Verified) -> int:
    """How many are equal, when all are."""
    assert (dict(found.causes), found.listed) == ({}, [])
    return found.equal


def replaced(record: Record, old: bytes, new: bytes) -> Record:
    assert record.value is not None
    assert record.value.count(old) == 1
    return record._replace(value=record.value.replace(old, new))


def only(found: Verified, cause: str, count: int = 1) -> list[Difference]:
    assert dict(found.causes) == {cause: count}, found.listed
    return found.listed


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_whatever_arrived_is_decided_again_as_it_was(settings: Settings, at_once: int) -> None:
    live = Live(settings)
    live.remember(*(value(1000 + n, customer_id=f"c{n % 3}") for n in range(90)))
    live.arrive(*every_kind(), at_once=at_once)
    live.set_aside(value(400))
    live.remember(value(401), value(402))
    live.arrive(value(401), value(400), value(403))

    found = live.verified()

    assert equal(found) == len(live.decided) == len(every_kind()) - 2 + 1 + 3
    assert (found.set_aside, found.undecided, found.notes) == (1, 0, [])


def test_history_that_was_set_aside_is_no_part_of_a_past(settings: Settings) -> None:
    live = Live(settings)
    live.set_aside(value(1), headers=(("mode", b"history"),))
    live.arrive(value(2))

    assert equal(live.verified()) == 1
    live.lists.topics[settings.topics.rejected].clear()
    (listed,) = only(live.verified(), "changed")
    assert "features.orders_count_30d" in [each.path for each in listed.fields]


def test_what_was_decided_observing_is_decided_again_into_the_shadow(settings: Settings) -> None:
    live = Live(settings.model_copy(update={"observe": True}))
    live.arrive(*every_kind())
    live.tell(LIVE)
    live.arrive(*every_kind()[:9], value(500))
    live.tell(PAUSED)
    live.tell(RESUMED)
    live.arrive(value(501))
    live.tell(OBSERVE)
    live.arrive(*every_kind()[:3], value(502))

    found = live.verified(settings)

    shadow = live.lists.topics[settings.topics.decisions_shadow]
    assert equal(found) == len(live.decided) + len(shadow)
    assert (len(live.decided), len(shadow)) == (11, len(every_kind()) - 2 + 4)


def test_decisions_from_before_there_was_a_control_topic_are_decided_again(settings: Settings) -> None:
    live = Live(settings)
    live.state = None
    live.started(settings)
    live.arrive(value(1), value(2))
    live.state = ControlState(settings.group)
    live.started(settings)
    live.arrive(value(3))

    assert equal(live.verified()) == 3


def test_each_decision_is_decided_again_by_the_model_and_policy_that_it_names(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*every_kind()[:130])
    forest = publish_named(settings)
    live.started(settings, forest)
    live.arrive(*every_kind()[:20], value(500))
    strict = settings.model_copy(update={"review_at": 0.01, "decline_at": 0.02})
    live.started(strict, forest, policy=Policy(review_at=0.01, decline_at=0.02))
    live.arrive(value(501), value(3, customer_id="c0", revision=2), b'{"order_id": "half"}')

    assert equal(live.verified(strict)) == len(live.decided)
    decided = [json.loads(each.value or b"") for each in live.decided]
    assert len({each["policy"] for each in decided}) == 3
    assert len({each["model"]["digest"] for each in decided if each["model"]}) == 2


def test_a_policy_that_is_neither_set_nor_suggested_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    live.started(settings, policy=Policy(review_at=0.01, decline_at=0.02))
    live.arrive(value(2), value(1))

    found = live.verified(settings)

    (listed,) = only(found, "policy_unknown")
    assert (listed.order_id, listed.offset, listed.fields) == ("o2", 1, ())
    assert "FRAUDSTREAM_REVIEW_AT" in listed.said
    assert found.equal == 2, "a resend repeats what was decided, whatever the policy is now"


def test_a_changed_byte_is_found_and_its_field_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*every_kind())
    amount = json.loads(live.decided[20].value or b"")["features"]["amount"]
    live.decided[20] = replaced(live.decided[20], b'"amount":%.1f' % amount, b'"amount":%.1f' % (amount + 1))

    found = live.verified()

    (listed,) = only(found, "changed")
    assert found.equal == len(live.decided) - 1
    assert (listed.partition, listed.offset, listed.order_id) == (0, 20, "o20")
    assert listed.decision == "shop.decisions/0/20"
    assert [(each.path, each.recorded, each.recomputed) for each in listed.fields] == [
        ("features.amount", amount + 1, amount)
    ]


def test_the_same_content_in_other_bytes_is_a_difference(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    live.decided[0] = live.decided[0]._replace(value=(live.decided[0].value or b"") + b" ")

    (listed,) = only(live.verified(), "changed")

    assert [each.path for each in listed.fields] == ["(bytes)"]


def test_a_decision_under_another_key_or_in_another_topic_is_a_difference(settings: Settings) -> None:
    live = Live(settings)
    live.tell(LIVE)
    live.arrive(value(1), value(2))
    live.decided[0] = live.decided[0]._replace(key=b"c2")
    moved = live.decided.pop()
    live.lists.append(settings.topics.decisions_shadow, moved.key, moved.value, moved.headers)

    found = live.verified()

    assert [[each.path for each in listed.fields] for listed in only(found, "changed", 2)] == [
        ["(key)"],
        ["(topic)"],
    ]


def test_a_missing_decision_is_found_and_the_others_are_equal(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*every_kind()[:30])
    gone = live.decided.pop(17)

    found = live.verified()

    (listed,) = only(found, "missing")
    assert (listed.offset, listed.order_id, listed.decision) == (17, "o17", None)
    assert gone.offset == 17
    assert found.equal == 29


def test_a_decision_that_is_there_twice_is_found(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*every_kind()[:30])
    for twin in (live.decided[3], live.decided[-1]):
        live.lists.append(settings.topics.decisions, twin.key, twin.value, twin.headers)
    shadow = live.decided[5]
    live.lists.append(settings.topics.decisions_shadow, shadow.key, shadow.value, shadow.headers)

    found = live.verified()

    assert sorted(each.offset or 0 for each in only(found, "repeated", 3)) == [3, 5, 29]
    assert found.equal == 30


def test_orders_whose_beginning_was_deleted_are_told_from_changed_ones(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(30)), *(value(100 + n, customer_id=f"new{n}") for n in range(5)))
    live.lists.beginnings[settings.topics.orders] = 10

    found = live.verified(most=100)

    assert dict(found.causes) == {"order_gone": 10, "beginning_missing": 20}
    assert found.equal == 5, "customers who came later are known whole"
    assert found.notes == [
        "shop.orders/0 begins at offset 10: what customers ordered before is not known here"
    ]


def test_orders_that_were_lost_before_they_were_archived_are_told_from_changed_ones(
    settings: Settings,
) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(30)), *(value(100 + n, customer_id=f"new{n}") for n in range(5)))
    live.lists.lost[settings.topics.orders] = [(10, 14)]

    found = live.verified(most=100)

    assert dict(found.causes) == {"lost": 20}
    assert found.equal == 15, "what came before, and customers who came later, are known whole"
    assert sorted(each.offset or 0 for each in found.listed) == list(range(10, 30))
    assert found.notes == ["shop.orders/0 lacks the offsets 10 to 13, lost before they were archived"]


def test_decisions_that_were_lost_before_they_were_archived_are_not_missing(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(30)))
    live.lists.lost[settings.topics.decisions] = [(10, 14)]

    found = live.verified()

    assert sorted(each.offset or 0 for each in only(found, "lost", 4)) == [10, 11, 12, 13]
    assert found.equal == 26


def test_orders_older_than_the_decisions_are_gone_through_and_not_missing(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(30)))
    live.arrive(value(3), value(4, revision=1), value(40))
    live.lists.beginnings[settings.topics.decisions] = 10

    found = live.verified()

    assert (equal(found), found.unrecorded) == (23, 10)


def test_what_speaks_of_a_decision_that_is_gone_may_differ_and_says_so(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(10)))
    live.started(settings, publish_named(settings))
    live.arrive(*(value(n) for n in range(10, 20)))
    live.arrive(value(4, revision=1))
    live.lists.beginnings[settings.topics.decisions] = 12

    found = live.verified()

    (listed,) = only(found, "decisions_begin_later")
    assert [each.path for each in listed.fields] == ["supersedes"]
    assert found.equal == 8


def test_a_model_that_is_not_in_the_registry_is_named_and_what_others_decided_is_equal(
    settings: Settings,
) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(10)))
    live.started(settings, forest := publish_named(settings))
    live.arrive(*(value(n) for n in range(10, 15)))
    live.started(settings, "order_risk")
    live.arrive(*(value(n) for n in range(8, 20)), value(12, revision=1))
    name, _, version = forest.partition("@")
    (settings.home / "models" / name / version).rename(settings.home / "elsewhere")

    found = live.verified()

    listed = only(found, "model_unknown", 5)
    assert [each.order_id for each in listed] == [f"o{n}" for n in range(10, 15)]
    assert f"model {forest} (digest " in listed[0].said
    assert found.equal == 23, "resends and revisions of what it decided are decided again"


def test_another_model_under_the_same_name_and_version_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    live.decided[0] = _with_model_digest(live.decided[0], "0" * 64)

    (listed,) = only(live.verified(), "model_other")

    assert "decided with digest 000000000000, and the registry has it with" in listed.said


def test_a_feature_that_was_changed_since_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    manifest = _manifest(live)
    content = json.loads(manifest.read_text())
    content["features"][0]["declaration"] += " # as it was"
    manifest.write_text(json.dumps(content))

    listed = only(live.verified(), "features_changed", 2)

    assert f"was trained on feature '{content['features'][0]['name']}' declared as" in listed[0].said


def test_a_model_that_the_registry_refuses_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    arrays = _manifest(live).with_name("arrays.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"!")

    (listed,) = only(live.verified(), "model_refused")

    assert "arrays.safetensors is not as published" in listed.said


def test_settings_that_were_changed_since_are_those_of_then(settings: Settings) -> None:
    then = settings.model_copy(update={"ahead_by_at_most_s": 0.0, "order_memory_days": 1, "row_limit": 50})
    live = Live(then)
    ahead = OPENED_AT + timedelta(days=110, seconds=10)
    live.arrive(value(1), value(2, placed_at=ahead), value(72), value(1), value(73))
    now = settings.model_copy(update={"row_limit": 7, "order_memory_days": 400})

    assert equal(live.verified(now)) == 5
    live.decided[:] = [each._replace(headers=_without_settings(each.headers)) for each in live.decided]
    found = live.verified(now)
    assert set(found.causes) == {"changed"}
    assert "it does not carry the settings it was made with" in found.listed[0].said


def test_decisions_of_a_version_that_did_not_say_its_settings_are_taken_to_have_those_of_now(
    settings: Settings,
) -> None:
    live = Live(settings)
    live.started(settings, headers=(("worker", b"w1"),))
    live.arrive(*every_kind())

    assert equal(live.verified()) == len(live.decided)


def test_orders_in_a_shops_own_json_are_decided_again_with_its_mapping(settings: Settings) -> None:
    file = settings.home / "mapping.toml"
    file.write_text(MAPPED)
    mapped = settings.model_copy(update={"mapping": file})
    live = Live(mapped)
    told = {"id": "o1", "who": "c1", "at": "2026-01-01T10:00:00Z", "cents": 100}
    live.arrive(*(json.dumps(told | {"id": f"o{n}"}).encode() for n in range(3)))
    live.started(settings)
    live.arrive(value(5))

    assert equal(live.verified(mapped)) == 4
    file.write_text(MAPPED.replace('"cents"', '"euros"'))
    listed = only(live.verified(mapped), "settings_differ", 3)
    assert "set the mapping of then (FRAUDSTREAM_MAPPING)" in listed[0].said


def test_a_control_record_that_this_version_cannot_follow_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    live.tell("erase", heard=False, required=True, written_by="9.0.0")
    live.state = ControlState(settings.group, next_offset=1)
    live.arrive(value(2))

    found = live.verified()

    (listed,) = only(found, "control_unreadable")
    assert (listed.order_id, found.equal) == ("o2", 1)
    assert "run fraudstream 9.0.0" in listed.said


@pytest.mark.parametrize("how", ["deleted", "cleared", "lost"])
def test_control_records_that_are_gone_are_named(settings: Settings, how: str) -> None:
    live = Live(settings)
    live.arrive(value(1))
    live.tell(LIVE)
    if how == "lost":
        live.tell(LIVE)
    live.arrive(value(2))
    if how == "deleted":
        live.lists.beginnings[settings.topics.control] = 1
    elif how == "lost":
        live.lists.lost[settings.topics.control] = [(0, 1)]
    else:
        live.lists.topics[settings.topics.control].clear()

    found = live.verified()

    (listed,) = only(found, "control_missing")
    assert (listed.order_id, found.equal) == ("o2", 1)


def test_bytes_that_are_no_decision_are_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    live.decided[0] = live.decided[0]._replace(value=b"\xff{")

    found = live.verified()

    assert dict(found.causes) == {"unreadable": 1, "missing": 1}
    assert found.equal == 1


def test_a_decision_about_an_order_that_was_never_there_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2), value(3))
    for old, new in ((b'"offset":1,', b'"offset":90000,'), (b'"topic":"shop.orders"', b'"topic":"other"')):
        strange = replaced(live.decided[1], old, new)
        live.decided.insert(0, strange._replace(offset=0))
    live.decided[:] = [each._replace(offset=at) for at, each in enumerate(live.decided)]

    found = live.verified()

    assert only(found, "order_gone", 2)
    assert found.equal == 3


def test_a_decision_about_another_order_than_the_one_at_its_place_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    orders = live.lists.topics[settings.topics.orders]
    orders[0] = orders[0]._replace(value=value(7))

    found = live.verified()

    (listed,) = [each for each in found.listed if each.offset == 0]
    assert (listed.cause, listed.order_id) == ("other_order", "o1")


def test_a_decision_about_history_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    orders = live.lists.topics[settings.topics.orders]
    orders[1] = orders[1]._replace(headers=(("mode", b"history"),))

    (listed,) = only(live.verified(), "not_recomputed")

    assert listed.said.startswith("the order is history (mode=history)")


def test_what_another_version_decided_otherwise_is_named(settings: Settings) -> None:
    live = Live(settings)
    live.started(settings, headers=(("fraudstream", b"0.0.1"), Deciding.of(settings).header))
    live.arrive(value(1), value(2))
    live.decided[0] = replaced(live.decided[0], b'"action":"', b'"action":"not ')

    found = live.verified()

    (listed,) = only(found, "other_version")
    assert "decided by fraudstream 0.0.1, and this is " in listed.said
    assert found.equal == 1


def test_what_was_forgotten_before_a_horizon_was_raised_is_named(settings: Settings) -> None:
    short = settings.model_copy(update={"forget_after_days": 90})
    live = Live(short)
    live.arrive(value(1), value(24 * 95, customer_id="c2"))
    live.forget(customer_key("c1"))
    live.started(settings.model_copy(update={"forget_after_days": 730}))
    live.arrive(value(24 * 96), value(24 * 96 + 1, customer_id="c2"))

    found = live.verified()

    (listed,) = only(found, "history_evicted")
    assert (listed.order_id, found.equal) == (f"o{24 * 96}", 3)
    assert listed.said.startswith("forget_after_days was raised")


def test_when_a_key_is_really_let_go_is_seen_in_no_decision(settings: Settings) -> None:
    short = settings.model_copy(update={"forget_after_days": 90, "order_memory_days": 10})
    live = Live(short)
    live.arrive(value(1), value(2))
    live.arrive(value(24 * 95, customer_id="c2"))
    live.forget(customer_key("c1"), order_key("o1"))
    live.arrive(value(24 * 96), value(1), value(2))

    assert equal(live.verified()) == 6


def test_only_what_arrived_in_the_window_is_compared(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(10)), value(2), *(value(n) for n in range(10, 20)))
    wrong = b'"action":"not '
    for at in (1, 4, 18):
        live.decided[at] = replaced(live.decided[at], b'"action":"', wrong)

    found = live.verified(window=Window(NOON_MS + 2_000, NOON_MS + 18_000))

    (listed,) = only(found, "changed")
    assert (listed.offset, found.equal, found.orders) == (4, 15, 21)
    assert equal(live.verified(window=Window(NOON_MS + 5_000, NOON_MS + 18_000))) == 13
    assert equal(live.verified(window=Window(None, NOON_MS + 1_000))) == 1


def test_a_model_from_before_the_window_need_not_be_there(settings: Settings) -> None:
    live = Live(settings)
    live.started(settings, forest := publish_named(settings))
    live.arrive(*(value(n) for n in range(10)))
    live.started(settings, "order_risk")
    live.arrive(value(10), value(2), value(3, revision=1))
    name, _, version = forest.partition("@")
    (settings.home / "models" / name / version).rename(settings.home / "elsewhere")

    assert equal(live.verified(window=Window(NOON_MS + 10_000))) == 3


def test_orders_that_the_workers_have_not_come_to_are_not_missing(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    for number in (3, 4, 5):
        live.lists.append(settings.topics.orders, b"c1", value(number))

    assert (equal(found := live.verified()), found.undecided) == (2, 3)
    live.lists.topics[settings.topics.changelog].clear()
    assert (equal(found := live.verified()), found.undecided) == (2, 3)


def test_a_transaction_of_just_now_that_only_the_changelog_knows_yet_is_not_missing(
    settings: Settings,
) -> None:
    live = Live(settings)
    live.arrive(value(1), value(2))
    live.decided.pop()
    changelog = live.lists.topics[settings.topics.changelog]

    assert only(live.verified(), "missing")
    changelog[-1] = changelog[-1]._replace(timestamp=int(time.time() * 1000))
    assert (equal(found := live.verified()), found.undecided) == (1, 1)


def test_what_an_archive_has_of_decisions_only_is_not_compared(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(10)))
    del live.lists.topics[settings.topics.orders][8:]
    del live.lists.topics[settings.topics.changelog]
    del live.lists.topics[settings.topics.rejected]

    assert equal(live.verified(from_archive=True)) == 8


def test_transaction_markers_leave_gaps_that_mean_nothing(settings: Settings) -> None:
    live = Live(settings)
    live.lists.append(settings.topics.orders, None, None)
    live.arrive(value(1), value(2))
    del live.lists.topics[settings.topics.orders][0]
    live.decided[:] = [each._replace(offset=3 * each.offset + 1) for each in live.decided]
    live.lists.ends[settings.topics.decisions] = 9

    assert equal(live.verified()) == 2


def test_at_most_so_many_differences_are_listed_and_all_are_counted(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*(value(n) for n in range(10)))
    live.decided[:] = [replaced(each, b'"action":"', b'"action":"not ') for each in live.decided]

    found = live.verified(most=3)
    together = Verified()
    together.add(found, 2)
    together.add(found, 2)

    assert ([each.offset for each in found.listed], found.different) == ([0, 1, 2], 10)
    assert (len(together.listed), together.different, together.compared) == (2, 20, 20)


def test_rows_that_do_not_fit_into_memory_are_what_they_are_all_the_same(tmp_path: Path) -> None:
    chance = random.Random(5)
    known: dict[bytes, bytes] = {}
    with Rows(most=2_000, beside=tmp_path) as rows:
        for _ in range(300):
            change: dict[bytes, bytes | None] = {}
            for _ in range(5):
                key = b"c%d" % chance.randrange(60)
                change[key] = None if chance.random() < 0.2 else chance.randbytes(chance.randrange(50))
            rows.change(change)
            for key, kept in change.items():
                if kept is None:
                    known.pop(key, None)
                else:
                    known[key] = kept
            keys = [b"c%d" % number for number in range(60)]
            assert [rows.recall(0, key) for key in keys] == [known.get(key) for key in keys]
        folder = rows._folder
        assert folder is not None
        assert folder.parent == tmp_path, "whoever ends this process has to find what it leaves"
    assert not folder.exists()


def test_every_cause_is_explained(settings: Settings) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()

    assert [cause for cause in CAUSES if f"| `{cause}` |" not in page] == []


def test_a_customers_row_is_the_one_a_worker_has(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(*every_kind(), at_once=3)
    with live.past() as past:
        for _ in past.again(lambda _: True):
            pass
        again = past._rows.recall(0, customer_key("c1"))

    assert again == live.rows[customer_key("c1")]
    assert len(Row.decode(again or b"", 50)) == 47


def publish_named(settings: Settings) -> str:
    """The forest, by its name and version."""
    found = sorted(
        (settings.home / "models").glob("*/*/manifest.json"),
        key=lambda file: json.loads(file.read_text())["predictor"],
    )
    content = json.loads(found[-1].read_text())
    assert content["predictor"] == "RandomForest"
    return f"{content['name']}@{content['version']}"


def _manifest(live: Live) -> Path:
    model = json.loads(live.decided[0].value or b"")["model"]
    return live.settings.home / "models" / model["name"] / model["version"] / "manifest.json"


def _with_model_digest(record: Record, digest: str) -> Record:
    content = json.loads(record.value or b"")
    return replaced(record, content["model"]["digest"].encode(), digest.encode())


def _without_settings(headers: Headers) -> Headers:
    return tuple(each for each in headers if each[0] != HEADER)


def test_orders_are_decided_again_with_the_outcomes_that_were_known_then(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    told = {"kind": "chargeback", "is_fraud": True, "occurred_at": "2024-05-01T12:00:00Z"}
    for number in (1, 2):
        order = json.loads(value(number))
        about = {name: order[name] for name in ("order_id", "customer_id")}
        live.hear(json.dumps(told | about | {"known_at": "2024-05-02T12:00:00Z"}).encode())
        live.arrive(value(10 * number))

    assert equal(live.verified()) == 3
    others = [json.loads(each.value or b"")["source"]["others"] for each in live.decided]
    assert [each.get("shop.outcomes") for each in others] == [None, 1, 2]


def test_what_was_decided_behind_stages_is_said_not_to_be_decided_again(settings: Settings) -> None:
    live = Live(settings)
    live.arrive(value(1))
    headers = dict(live.decided[0].headers)
    behind = json.dumps(json.loads(headers[HEADER]) | {"entities": ["device"]}).encode()
    said = json.loads(live.decided[0].value or b"") | {"score": 7}
    live.decided[0] = live.decided[0]._replace(
        value=json.dumps(said).encode(), headers=tuple((headers | {HEADER: behind}).items())
    )

    assert set(live.verified().causes) == {"through_stages"}


# Models in service --------------------------------------------------------------------------------


def in_service(settings: Settings, model: str, **more: Any) -> dict[str, Any]:
    """What a control record says that puts a model into service."""
    name, _, version = model.partition("@")
    digest = Registry(settings.home / "models").digest(name, version)
    told = {"name": name, "version": version, "digest": digest, "role": "champion", "scope": {}}
    return told | {"review_at": 0.11, "decline_at": 0.33, "replaces": None} | more


def published(settings: Settings) -> tuple[str, str]:
    """The line and the forest, by name and version."""
    forest = publish_named(settings)
    name = forest.partition("@")[0]
    versions = [f"{n}@{v}" for n, v in Registry(settings.home / "models").list() if n == name]
    return next(each for each in versions if each != forest), forest


def from_countries(*countries: str, first: int = 0, count: int = 40) -> list[bytes]:
    return [
        value(first + n, customer_id=f"c{n % 7}", country=countries[n % len(countries)], amount=100 * n)
        for n in range(count)
    ]


def test_orders_are_decided_again_across_all_moves_of_models_by_control_alone(settings: Settings) -> None:
    live = Live(settings)
    line, forest = published(settings)
    german = {"country": "DE"}
    moves: list[tuple[str, dict[str, Any]]] = [
        (DEPLOYED, in_service(settings, forest, scope=german)),
        (DEPLOYED, in_service(settings, forest, role="challenger", review_at=0.2)),
        (DEPLOYED, in_service(settings, line, role="canary", share=5_000, review_at=0.3)),
        (DEPLOYED, in_service(settings, line, role="fallback")),
        (KILL_ON, {"action": "approve"}),
        (KILL_ON, {"action": "fallback"}),
        (KILL_OFF, {}),
        (PROMOTED, in_service(settings, forest)),
        (ROLLED_BACK, {"scope": {}, "replaces": forest}),
        (RETIRED, in_service(settings, forest, scope=german)),
    ]
    live.arrive(*every_kind()[:30])
    for number, (kind, more) in enumerate(moves, 1):
        live.tell(kind, **more)
        orders = from_countries("DE", "FR", first=200 * number)
        # some that came before are sent again, and one is revised
        live.arrive(*orders, *orders[:3], value(200 * number + 5, revision=1, customer_id="c5"), at_once=16)

    assert equal(live.verified()) == len(live.decided)
    models = {(each["model"] or {}).get("digest") for each in map(_content, live.decided)}
    assert len(models) == 3, "both models, and none"
    assert len({each["policy"] for each in map(_content, live.decided)}) == 3, "of settings, champion, canary"
    shadow = live.lists.topics[settings.topics.decisions_shadow]
    assert len(shadow) > 100, (
        "what a challenger would have decided is no decision that is missing or repeated"
    )


def test_a_decision_by_another_model_than_the_one_in_service_is_found(settings: Settings) -> None:
    live = Live(settings)
    line, forest = published(settings)
    live.tell(DEPLOYED, **in_service(settings, forest))
    live.arrive(*from_countries("DE", count=3))
    content = _content(live.decided[1])
    name, _, version = line.partition("@")
    digest = Registry(settings.home / "models").digest(name, version)
    content["model"] |= {"version": version, "digest": digest}
    live.decided[1] = live.decided[1]._replace(value=json.dumps(content).encode())

    (listed,) = only(live.verified(), "changed")

    assert {"model.version", "model.digest"} <= {each.path for each in listed.fields}


def test_what_a_fallback_decided_is_decided_again_when_the_champion_is_well_again(settings: Settings) -> None:
    live = Live(settings)
    line, forest = published(settings)
    live.tell(DEPLOYED, **in_service(settings, line, role="fallback"))
    live.tell(DEPLOYED, **in_service(settings, forest))
    folder = settings.home / "models" / forest.replace("@", "/")
    folder.rename(settings.home / "elsewhere")
    live.started(settings, line)
    live.arrive(*from_countries("DE", count=10))
    (settings.home / "elsewhere").rename(folder)
    live.started(settings, line)
    live.arrive(*from_countries("DE", first=100, count=10), *from_countries("DE", count=3))

    decided = [_content(each) for each in live.decided]
    assert [each["reasons"][0]["code"] == "model_unavailable" for each in decided] == (
        [True] * 10 + [False] * 10 + [True] * 3
    )
    assert equal(live.verified()) == 23


def test_a_model_that_was_in_service_and_is_gone_is_named_and_what_others_decided_is_equal(
    settings: Settings,
) -> None:
    live = Live(settings)
    line, forest = published(settings)
    live.tell(DEPLOYED, **in_service(settings, line))
    live.tell(DEPLOYED, **in_service(settings, forest, scope={"country": "DE"}))
    live.arrive(*from_countries("DE", "FR", count=10), *from_countries("DE", count=1))
    (settings.home / "models" / forest.replace("@", "/")).rename(settings.home / "elsewhere")

    found = live.verified()

    only(found, "model_unknown", 5)
    assert found.equal == 6, "a resend of what it decided is decided again"


def _content(record: Record) -> Any:
    return json.loads(record.value or b"")
