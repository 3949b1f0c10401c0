"""Putting the group's offsets back where the changelog says the rows are."""

import time
from functools import partial

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.kafka import KafkaCluster, once_it_answers
from stream.last import last_with
from stream.ports import TP, NotStable, Refused, Unreachable
from stream.settings import Settings
from stream.topics import describe
from stream.writer import POSITION_KEY, Owner, Position, decode_position, is_position, left_for

__all__ = ["last_position", "repair_offsets"]

_STABLE_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 30.0
_PASSING = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)


def repair_offsets(settings: Settings) -> dict[tuple[str, int], int]:
    """Commit, for every partition, the input offsets of the changelog's last position; returns them.

    Needed after the group's offsets expired (a group idle for longer than the broker's
    `offsets.retention.minutes`) or were reset by hand: deciding from other offsets would count
    orders twice or never. Raises Refused while workers run, when the changelog has no position, when an input
    does not reach to one, or when workers did not go on with this changelog, and then commits nothing;
    TopicError or Unreachable when the cluster does not answer.
    """
    describe(settings)  # asked once where nobody answers: a consumer would ask, and log, again and again
    cluster = KafkaCluster(settings)
    try:
        living = len(once_it_answers(cluster.members))
        if living:
            raise Refused(
                f"group '{settings.group}' has {living} running workers; stop them all, then repair"
            )
        _check_not_left(cluster, settings)
        offsets: dict[tuple[str, int], int] = {}
        for partition in range(settings.partitions):
            position = last_position(cluster, settings, partition)
            if position is None:
                continue
            if position.rebuilding is not None:
                raise Refused(
                    f"{settings.topics.changelog}/{partition} was made anew and no worker has gone on with "
                    "it yet: repair with the settings of before (FRAUDSTREAM_TOPICS__CHANGELOG), whose "
                    "workers may have come further"
                )
            for topic, offset in position.inputs.items():
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
    words = Owner(changelog=settings.topics.changelog)
    asked = [
        TopicPartition(topic, partition, offset, words.left_with(offset).metadata)
        for (topic, partition), offset in sorted(offsets.items())
    ]
    deadline = time.monotonic() + _ANSWERS_WITHIN_S
    while (error := _committed(admin, settings, asked)) is not None:
        # a client has to find the coordinator first, and one that moves says so only in its answer
        if error.code() not in _PASSING or time.monotonic() > deadline:
            raise Refused(_not_committed(settings, error))
        time.sleep(0.2)
    return offsets


def _committed(admin: AdminClient, settings: Settings, asked: list[TopicPartition]) -> KafkaError | None:
    """Why the broker did not take the offsets; None when it did."""
    try:
        (future,) = admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(settings.group, asked)]
        ).values()
        answer = future.result(timeout=_ANSWERS_WITHIN_S)
    except KafkaException as failure:
        error: KafkaError = failure.args[0]
        return error
    except TimeoutError:
        raise Unreachable(
            f"the broker did not say within {_ANSWERS_WITHIN_S:g} s whether it took the offsets of group "
            f"'{settings.group}'; repair again"
        ) from None
    return next((each.error for each in answer.topic_partitions if each.error is not None), None)


def _not_committed(settings: Settings, error: KafkaError) -> str:
    return (
        f"the broker refused the offsets of group '{settings.group}': {error.str()}; "
        "see that no worker runs and that this user may change the group, then repair again"
    )


def _check_not_left(cluster: KafkaCluster, settings: Settings) -> None:
    """Refuse the changelog of before a rebuild: from its offsets orders would be decided again."""
    tps = [(topic, partition) for topic in settings.inputs for partition in range(settings.partitions)]
    committed = once_it_answers(cluster.committed, tps, stable=False)
    if left := left_for(committed, settings.topics.changelog):
        theirs = min(left.values())
        raise Refused(
            f"the workers of group '{settings.group}' have gone on with changelog '{theirs}', and these "
            f"settings name '{settings.topics.changelog}', whose rows were left for it: repair with the "
            f"settings of the workers (FRAUDSTREAM_TOPICS__CHANGELOG={theirs})"
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


def last_position(cluster: KafkaCluster, settings: Settings, partition: int) -> Position | None:
    """What a partition of the changelog says last of how far its inputs were decided; None for nothing.

    Raises Refused when a transaction stays open over the end.
    """
    tp = (settings.topics.changelog, partition)
    logs = {topic: cluster.log_id(topic) for topic in settings.inputs}
    read = partial(decode_position, group=settings.group, logs=logs)
    deadline = time.monotonic() + _STABLE_WITHIN_S
    while True:
        try:
            low, high = cluster.low(tp), cluster.high(tp)
            found = last_with(POSITION_KEY, partial(cluster.read, tp), low, high, sound=is_position)
        except NotStable:
            if time.monotonic() > deadline:
                raise Refused(
                    f"an open transaction covers {tp[0]}/{partition}; wait for the broker to end it, "
                    "then repair again"
                ) from None
            time.sleep(0.5)
        else:
            return None if found is None else read(found.value or b"")
