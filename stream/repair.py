"""Putting the group's offsets back where the changelog says the rows are."""

import time

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.kafka import KafkaCluster
from stream.ports import NotStable, Refused
from stream.settings import Settings
from stream.writer import POSITION_KEY, decode_position

__all__ = ["repair_offsets"]

_STABLE_WITHIN_S = 60.0


def repair_offsets(settings: Settings) -> dict[tuple[str, int], int]:
    """Commit, for every partition, the input offsets of the changelog's last position; returns them.

    Needed after the group's offsets expired (a group idle for longer than the broker's
    `offsets.retention.minutes`) or were reset by hand: deciding from other offsets would count
    orders twice or never. Raises Refused while workers run, or when the changelog has no position.
    """
    cluster = KafkaCluster(settings)
    try:
        living = cluster.members()
        if living:
            raise Refused(
                f"group '{settings.group}' has {len(living)} running workers; stop them all, then repair"
            )
        offsets: dict[tuple[str, int], int] = {}
        for partition in range(settings.partitions):
            for topic, offset in _last_position(cluster, settings.topics.changelog, partition).items():
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
        for future in futures.values():
            future.result(timeout=30)
    except KafkaException as failure:
        raise Refused(
            f"the broker refused the offsets of group '{settings.group}': {failure.args[0].str()}"
        ) from failure
    return offsets


def _last_position(cluster: KafkaCluster, changelog: str, partition: int) -> dict[str, int]:
    tp = (changelog, partition)
    deadline = time.monotonic() + _STABLE_WITHIN_S
    while True:
        position: dict[str, int] = {}
        try:
            for chunk in cluster.read(tp, cluster.low(tp), cluster.high(tp)):
                for record in chunk:
                    if record.key == POSITION_KEY and record.value is not None:
                        position = decode_position(record.value)
        except NotStable:
            if time.monotonic() > deadline:
                raise Refused(
                    f"an open transaction covers {changelog}/{partition}; wait for the broker to end it, "
                    "then repair again"
                ) from None
            time.sleep(0.5)
        else:
            return position
