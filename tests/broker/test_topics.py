import json
import random
import time

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from features.events import LARGEST_RECORD
from stream import topics
from stream.publish import RefusedLine, publish
from stream.settings import Settings
from stream.topics import TopicError


def test_creating_the_topics_twice_changes_nothing(settings: Settings) -> None:
    made = topics.create(settings)

    assert set(made) == set(settings.topics.model_dump(exclude={"prefix"}).values())
    assert topics.create(settings) == []


def test_inputs_are_kept_by_arrival_and_for_ever(settings: Settings) -> None:
    topics.create(settings)

    states = {state.plan.name: state for state in topics.describe(settings)}
    for name in (settings.topics.orders, settings.topics.outcomes, settings.topics.order_events):
        assert states[name].config["message.timestamp.type"] == "LogAppendTime"
        assert states[name].config["retention.ms"] == "-1"
        assert states[name].partitions == 2
    assert states[settings.topics.changelog].config["cleanup.policy"] == "compact"
    assert states[settings.topics.rejected].config["max.message.bytes"] == "2097152"
    assert states[settings.topics.control].partitions == 1


def test_a_topic_with_another_partition_count_is_refused_before_anything_is_made(settings: Settings) -> None:
    _make(settings, settings.topics.orders, partitions=3, config={"message.timestamp.type": "LogAppendTime"})

    with pytest.raises(TopicError, match="has 3 partitions and not 2"):
        topics.create(settings)
    assert [s.plan.name for s in topics.describe(settings) if s.partitions] == [settings.topics.orders]


def test_an_input_with_the_producers_timestamps_is_refused(settings: Settings) -> None:
    _make(settings, settings.topics.outcomes, partitions=2, config={})

    with pytest.raises(TopicError, match=r"message\.timestamp\.type=CreateTime and not LogAppendTime"):
        topics.create(settings)


def test_a_changelog_that_forgets_by_age_is_refused(settings: Settings) -> None:
    _make(settings, settings.topics.changelog, partitions=2, config={"cleanup.policy": "delete"})

    with pytest.raises(TopicError, match=r"cleanup\.policy=delete and not compact"):
        topics.create(settings)


def test_a_shops_own_retention_is_its_own_choice(settings: Settings) -> None:
    kept = {"message.timestamp.type": "LogAppendTime", "retention.ms": "86400000"}
    _make(settings, settings.topics.orders, partitions=2, config=kept)

    assert settings.topics.orders not in topics.create(settings)


def test_no_broker_is_said_with_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "ANSWER_WITHIN_S", 0.5)
    nowhere = settings.model_copy(update={"broker": "127.0.0.1:1"})

    with pytest.raises(TopicError, match=r"no broker answers at 127\.0\.0\.1:1 .*fraudstream broker start"):
        topics.describe(nowhere)


def _make(settings: Settings, name: str, *, partitions: int, config: dict[str, str]) -> None:
    admin = AdminClient(settings.confluent())
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result()
    while all(state.partitions is None for state in topics.describe(settings)):
        time.sleep(0.05)


def test_a_topic_that_cannot_take_every_reject_is_refused(settings: Settings) -> None:
    _make(settings, settings.topics.rejected, partitions=2, config={"max.message.bytes": str(topics.MIB)})

    with pytest.raises(TopicError, match=r"max\.message\.bytes=1048576 and not at least 2097152"):
        topics.create(settings)


def test_where_orders_may_be_larger_so_may_rejected_ones(settings: Settings) -> None:
    kept = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(3 * topics.MIB)}
    _make(settings, settings.topics.orders, partitions=2, config=kept)

    topics.create(settings)

    states = {state.plan.name: state for state in topics.describe(settings)}
    assert states[settings.topics.rejected].config["max.message.bytes"] == str(3 * topics.MIB + 512 * 1024)
    assert states[settings.topics.rejected].wrong == ()


def test_a_shop_may_allow_more_than_it_must(settings: Settings) -> None:
    _make(settings, settings.topics.rejected, partitions=2, config={"max.message.bytes": str(9 * topics.MIB)})

    assert settings.topics.rejected not in topics.create(settings)


def test_an_order_of_exactly_1_mib_fits_its_topic_with_key_and_framing(settings: Settings) -> None:
    topics.create(settings)
    order = json.dumps({"order_id": "o1", "customer_id": "c" * 128}).encode()
    # digits of a seeded stream: text that compresses would fit whatever the limit
    filling = random.Random(1).randbytes(LARGEST_RECORD).hex().encode()
    order = order[:-1] + b', "note": "'
    order += filling[: LARGEST_RECORD - len(order) - 2] + b'"}'
    assert len(order) == LARGEST_RECORD
    refused: list[RefusedLine] = []

    published = publish(settings, [order], refused=refused.append)

    assert (published.sent, refused) == (1, [])
