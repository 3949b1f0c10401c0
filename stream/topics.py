"""The topics the scorer needs, how each must be kept, and making them.

A worker never makes a topic: a misspelt name would become one, with settings nobody chose.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic, ResourceType

from features.events import LARGEST_RECORD
from stream.errors import Refusal
from stream.settings import Settings

__all__ = [
    "TopicError",
    "TopicPlan",
    "TopicState",
    "create",
    "describe",
    "existing",
    "largest_record",
    "partitions_of",
    "plan",
]

MIB = 1024 * 1024
AROUND_AN_EVENT = MIB // 16
"""What the broker counts besides an event's own bytes: key, headers, and the batch it travels in."""
BESIDE_THE_ORDER = MIB // 2
"""What a rejected order may need beside its own bytes: headers, and the producer's own compression."""
DAY_MS = 24 * 60 * 60 * 1000

ANSWER_WITHIN_S = 15.0

_LARGEST = "max.message.bytes"


class TopicError(Refusal):
    """A topic is missing, can't be made, or is kept in a way the scorer can't live with."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """One topic as it should be."""

    name: str
    purpose: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    must: frozenset[str]
    """The settings that must be as planned; a shop may choose the others, such as retention, for itself."""
    at_least: Mapping[str, int] = field(default_factory=dict)
    """The settings that may be larger than this and never smaller."""
    key: str = ""
    """What its records are keyed by, in words."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as it is; `partitions` is None when it does not exist."""

    plan: TopicPlan
    partitions: int | None
    replication: int | None
    config: Mapping[str, str]

    @property
    def wrong(self) -> tuple[str, ...]:
        """What keeps the scorer from using it, in words; nothing for a topic that does not exist."""
        if self.partitions is None:
            return ()
        found = []
        if self.partitions != self.plan.partitions:
            found.append(f"has {self.partitions} partitions and not {self.plan.partitions}")
        found += [
            f"has {name}={self.config.get(name)} and not {self.plan.config[name]}"
            for name in sorted(self.plan.must)
            if self.config.get(name) != self.plan.config[name]
        ]
        found += [
            f"has {name}={self.config.get(name)} and not at least {least}"
            for name, least in sorted(self.plan.at_least.items())
            if int(self.config.get(name) or 0) < least
        ]
        return tuple(found)


def plan(settings: Settings) -> tuple[TopicPlan, ...]:
    """Every topic the scorer needs now, as it should be."""
    names = settings.topics
    for_ever = {"cleanup.policy": "delete", "retention.ms": "-1"}
    # A producer's own timestamps of 2018 would let time retention delete the history at once.
    arrival = {"message.timestamp.type": "LogAppendTime"}
    an_input = {**for_ever, **arrival, _LARGEST: str(LARGEST_RECORD + AROUND_AN_EVENT)}
    a_week = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}

    def topic(
        name: str,
        key: str,
        purpose: str,
        config: Mapping[str, str],
        *,
        partitions: int | None = None,
        record_of: int | None = None,
    ) -> TopicPlan:
        kept = dict(config)
        at_least = {} if record_of is None else {_LARGEST: record_of}
        kept |= {name: str(least) for name, least in at_least.items()}
        if settings.replication > 1:
            kept["min.insync.replicas"] = str(settings.replication - 1)
        must = {"cleanup.policy"} | ({"message.timestamp.type"} & config.keys())
        return TopicPlan(
            name,
            purpose,
            partitions or settings.partitions,
            settings.replication,
            kept,
            frozenset(must),
            at_least,
            key,
        )

    customer = "`customer_id`, or `order_id` for a guest"
    stages = [
        topic(
            name,
            f"the {entity.replace('_', ' ')}, or `order_id` where the order names none",
            f"orders on their way, to be looked at with the history of their {entity.replace('_', ' ')}",
            {**for_ever, **arrival},
            # an order, and what was computed of it so far
            record_of=2 * MIB,
        )
        for entity, name in settings.stages.items()
    ]

    return (
        topic(names.orders, customer, "orders to be decided", an_input),
        topic(names.outcomes, customer, "what orders turned out to be", an_input),
        topic(names.order_events, customer, "what happened to an order after it was placed", an_input),
        *stages,
        topic(names.decisions, customer, "one decision for each order", a_week),
        topic(names.decisions_shadow, customer, "decisions of models on trial", a_week),
        topic(
            names.rejected,
            "as received",
            "what could not be decided, as received, and why; which of it was sent again",
            {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS)},
            # Twice an order: a rejected one travels whole, with its headers.
            record_of=2 * MIB,
        ),
        topic(
            names.changelog,
            "a row: of a customer, another entity or an order; or the position",
            "the rows, for a worker that has lost its own",
            {
                "cleanup.policy": "compact",
                # A worker away for less than this replays the tail and can't miss a tombstone.
                "delete.retention.ms": str(7 * DAY_MS),
                # Compact early and in small pieces: a restore reads what compaction has not removed.
                "min.cleanable.dirty.ratio": "0.2",
                "segment.bytes": str(64 * MIB),
            },
            record_of=2 * MIB,
        ),
        # Never compacted: who was champion in March is answered from here.
        topic(
            names.control,
            "what it is about",
            "what was decided about all workers: pauses, observing, going live",
            {**for_ever, **arrival},
            partitions=1,
        ),
    )


def create(settings: Settings) -> list[str]:
    """Make the topics that are missing, and return their names; running it again changes nothing.

    Raises TopicError when a topic that exists can't serve, before anything is made.
    """
    admin = _admin(settings)
    states = describe(settings)
    _refuse_wrong(states)
    missing = [state.plan for state in states if state.partitions is None]
    if not missing:
        return []
    pending = admin.create_topics(
        [
            NewTopic(each.name, each.partitions, each.replication, config=dict(each.config))
            for each in missing
        ],
        operation_timeout=ANSWER_WITHIN_S,
        request_timeout=ANSWER_WITHIN_S,
    )
    made = []
    for name, future in pending.items():
        try:
            future.result()
            made.append(name)
        except KafkaException as error:
            reason = error.args[0]
            if (
                reason.code() != KafkaError.TOPIC_ALREADY_EXISTS
            ):  # by another, at the same moment: looked at below
                raise TopicError(
                    f"can't create topic '{name}': {reason.str()}; "
                    f"the cluster has to allow {settings.replication} replicas and this user to create topics"
                ) from error
    # The controller answers before the brokers know: a producer that comes at once would not find the topic.
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        states = describe(settings)
        if all(state.partitions is not None for state in states):
            break
        if time.monotonic() > deadline:
            raise TopicError(
                f"the topics were made on {settings.broker} but its brokers don't show them; try again"
            )
        time.sleep(0.05)
    _refuse_wrong(states)
    return made


def delete(settings: Settings, topic: str) -> None:
    """Delete a topic and all its records. Raises TopicError when the cluster refuses to."""
    admin = _admin(settings)  # which has to live until it has answered
    (future,) = admin.delete_topics([topic], operation_timeout=ANSWER_WITHIN_S).values()
    try:
        future.result()
    except KafkaException as error:
        raise TopicError(
            f"can't delete topic '{topic}': {error.args[0].str()}; this user has to be allowed to delete it"
        ) from error


def _refuse_wrong(states: list[TopicState]) -> None:
    wrong = [f"topic '{state.plan.name}' {what}" for state in states for what in state.wrong]
    if wrong:
        raise TopicError(
            f"{'; '.join(wrong)}. Partitions are fixed for life because the key's hash divides by them; "
            "make the topic's settings or FRAUDSTREAM_PARTITIONS agree, or name another topic"
        )


def describe(settings: Settings) -> list[TopicState]:
    """How each topic the scorer needs is kept now, in the order of `plan`."""
    admin = _admin(settings)
    plans = plan(settings)
    known = _metadata(settings, admin).topics
    there = [each for each in plans if each.name in known and known[each.name].error is None]
    resources = [ConfigResource(ResourceType.TOPIC, each.name) for each in there]
    config: dict[str, dict[str, str]] = {}
    if resources:
        try:
            for resource, future in admin.describe_configs(
                resources, request_timeout=ANSWER_WITHIN_S
            ).items():
                config[resource.name] = {name: entry.value for name, entry in future.result().items()}
        except KafkaException as error:
            raise TopicError(
                f"can't read the topics' settings: {error.args[0].str()}; let this user describe them"
            ) from error
    states = []
    for each in _with_room_for_rejects(plans, settings, config):
        if each.name not in config:
            states.append(TopicState(each, None, None, {}))
            continue
        partitions = known[each.name].partitions
        replicas = min((len(partition.replicas) for partition in partitions.values()), default=0)
        shown = {name: config[each.name].get(name, "") for name in sorted(each.config)}
        states.append(TopicState(each, len(partitions), replicas, shown))
    return states


def _with_room_for_rejects(
    plans: Sequence[TopicPlan], settings: Settings, config: Mapping[str, Mapping[str, str]]
) -> list[TopicPlan]:
    """The plans, in which whatever the orders topic of this cluster takes fits into the rejected one."""
    orders = int(config.get(settings.topics.orders, {}).get(_LARGEST) or MIB)
    return [
        replace(
            each,
            config={**each.config, _LARGEST: str(least)},
            at_least={**each.at_least, _LARGEST: least},
        )
        if each.name == settings.topics.rejected
        and (least := max(each.at_least[_LARGEST], orders + BESIDE_THE_ORDER))
        else each
        for each in plans
    ]


def existing(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """How many partitions each of these topics has that exist. Raises TopicError when no broker answers."""
    known = _metadata(settings, _admin(settings)).topics
    return {
        topic: len(known[topic].partitions)
        for topic in topics
        if topic in known and known[topic].error is None
    }


def partitions_of(settings: Settings, *topics: str) -> dict[str, int]:
    """How many partitions each topic has. Raises TopicError when one does not exist or no broker answers."""
    return _partitions_of(settings, _admin(settings), topics)


def _partitions_of(settings: Settings, admin: AdminClient, topics: Sequence[str]) -> dict[str, int]:
    # All are asked for: asking for one by its name would make it, where brokers make topics themselves.
    known = _metadata(settings, admin).topics
    for topic in topics:
        if topic not in known:
            raise TopicError(
                f"topic '{topic}' does not exist on {settings.broker}; run 'fraudstream topics create'"
            )
    return {topic: len(known[topic].partitions) for topic in topics}


def largest_record(settings: Settings, topic: str) -> int:
    """How many bytes a record of this topic may have. Raises TopicError when the topic does not exist."""
    admin = _admin(settings)
    _partitions_of(settings, admin, [topic])
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=ANSWER_WITHIN_S)[resource].result()
    except KafkaException:
        return LARGEST_RECORD + AROUND_AN_EVENT  # may produce but not describe: what `create` gives an input
    return int(found[_LARGEST].value)


def _admin(settings: Settings) -> AdminClient:
    try:
        return AdminClient({**settings.confluent(), "log_level": 0})
    except KafkaException as error:
        raise TopicError(
            f"no client can be made for {settings.broker}: {error.args[0].str()}; "
            "mend the settings in [security], FRAUDSTREAM_SECURITY__…"
        ) from error


def _metadata(settings: Settings, admin: AdminClient) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=ANSWER_WITHIN_S)
    except KafkaException as error:
        raise TopicError(
            f"no broker answers at {settings.broker} ({error.args[0].str()}); "
            "start one with 'fraudstream broker start', set FRAUDSTREAM_BROKER, or ask 'fraudstream doctor'"
        ) from error
