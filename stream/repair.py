"""Putting the group's offsets back where the changelog says the rows are."""

import time
from contextlib import suppress

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.kafka import KafkaCluster, once_it_answers
from stream.ports import TP, NotStable, Refused, Unreachable
from stream.settings import Settings
from stream.topics import describe
from stream.writer import POSITION_KEY, decode_position

__all__ = ["repair_offsets"]

_STABLE_WITHIN_S = 60.0


def repair_offsets(settings: Settings) -> dict[tuple[str, int], int]:
    """Commit, for every partition, the input offsets of the changelog's last position; returns them.

    Needed after the group's offsets expired (a group idle for longer than the broker's
    `offsets.retention.minutes`) or were reset by hand: deciding from other offsets would count
    orders twice or never. Raises Refused while workers run, when the changelog has no position, or when
    an input does not reach to one, and then commits nothing; TopicError or Unreachable when the cluster does
    not answer.
    """
    describe(settings)  # asked once where nobody answers: a consumer would ask, and log, again and again
    cluster = KafkaCluster(settings)
    try:
        living = len(once_it_answers(cluster.members))
        if living:
            raise Refused(
                f"group '{settings.group}' has {living} running workers; stop them all, then repair"
            )
        offsets: dict[tuple[str, int], int] = {}
        for partition in range(settings.partitions):
            for topic, offset in _last_position(cluster, settings, partition).items():
                _check_within(cluster, settings.topics.changelog, (topic, partition), offset)
                offsets[topic, partition] = offset
    finally:
        cluster.close()
    if not offsets:
        raise Refused(
            f"'{settings.topics.changelog}' holds no position: there is nothing to repair from; "
            "start a worker to begin at the first order"
        )
    admin = AdminClient(settings.confluent())
    asked = [
        TopicPartition(topic, partition, offset) for (topic, partition), offset in sorted(offsets.items())
    ]
    try:
        futures = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(settings.group, asked)])
        answers = [future.result(timeout=30) for future in futures.values()]
    except KafkaException as failure:
        raise Refused(_not_committed(settings, failure.args[0])) from failure
    except TimeoutError:
        raise Unreachable(
            f"the broker did not say within 30 s whether it took the offsets of group '{settings.group}'; "
            "repair again"
        ) from None
    for answer in answers:
        for each in answer.topic_partitions:
            if each.error is not None:
                raise Refused(_not_committed(settings, each.error))
    return offsets


def _not_committed(settings: Settings, error: KafkaError) -> str:
    return (
        f"the broker refused the offsets of group '{settings.group}': {error.str()}; "
        "see that no worker runs and that this user may change the group, then repair again"
    )


def _check_within(cluster: KafkaCluster, changelog: str, tp: TP, offset: int) -> None:
    """Refuse an offset the input does not have: it was deleted and made again, or has lost records."""
    low, high = cluster.low(tp), cluster.high(tp)
    if not low <= offset <= high:
        raise Refused(
            f"{changelog}/{tp[1]} says that {tp[0]}/{tp[1]} was decided up to offset {offset:,}, but that "
            f"has {low:,} to {high:,}: it is not the topic these rows were made from, or has lost records; "
            "bring it back, or begin anew with another group and changelog"
        )


def _last_position(cluster: KafkaCluster, settings: Settings, partition: int) -> dict[str, int]:
    tp = (settings.topics.changelog, partition)
    logs = {topic: cluster.log_id(topic) for topic in settings.inputs}
    deadline = time.monotonic() + _STABLE_WITHIN_S
    while True:
        position: dict[str, int] = {}
        try:
            for chunk in cluster.read(tp, cluster.low(tp), cluster.high(tp)):
                for record in chunk:
                    if record.key == POSITION_KEY and record.value is not None:
                        with suppress(msgspec.DecodeError):  # what no worker wrote
                            found = decode_position(record.value, settings.group, logs)
                            position = {} if found.is_partial else found.inputs
        except NotStable:
            if time.monotonic() > deadline:
                raise Refused(
                    f"an open transaction covers {tp[0]}/{partition}; wait for the broker to end it, "
                    "then repair again"
                ) from None
            time.sleep(0.5)
        else:
            return position
