"""The journey of a decision: what was known of the order, what each model said of it, and what came of it.

It is read from what was recorded, in topics or an archive, by the code that `replay decision` goes through:
what is told is what was decided, and whether deciding again says the same. Nothing is joined, committed or
changed.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import msgspec

from features.decode import Rejection, decode_event
from features.define import Feature
from features.events import Order, OrderEvent, Outcome
from features.fast import Told
from models.decision import Decision, decode_decision
from models.policy import Policy
from models.reasons import customer_text
from models.scorer import Scorer, Vector
from models.shapley import shapley
from models.trained import Node
from stream.deciding import Deciding, said_in
from stream.decoder import decoder_of
from stream.explain import Explained, Explanation, explain_recorded, is_explained
from stream.own_features import catalogue_of
from stream.past import Made
from stream.past_desks import ControlPast, Doubt, Models
from stream.past_road import stood_in
from stream.ports import Record
from stream.recorded import Recorded, has_topic, recorded_of, records_of
from stream.settings import Settings
from stream.verify import Difference, Progress, Replayed, replay_decision

__all__ = ["Asked", "Became", "Journey", "NodeScore", "content_of", "journeys_of"]

_COMPARED: Final = 50
"""Orders that Shapley values hold an order against."""
_LOOKED_AT: Final = 2_000
"""Decisions among which they are looked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A feature that the deciding model asked, and what it counted."""

    name: str
    value: float | None
    """As the decision has it; None was unknown."""
    feature: Feature | None
    """None where no feature of that name is known here any more."""
    filled_with: float | None
    """What the model took an unknown value for; None where it asked on with it unknown."""
    push: float | None
    """How far it pushed the model's raw score, through the whole tree; None where no model is at hand."""
    made_by: Explained | None
    """The past orders that made it; None where that is not told."""
    shapley: float | None = None
    """Its exact Shapley value; None where nobody asked, or the model itself does not ask for it."""

    @property
    def category(self) -> str | None:
        """The text that its value stands for, if it stands for one."""
        texts = None if self.feature is None else self.feature.categories
        at = -1 if self.value is None else int(self.value)
        return texts[at] if texts is not None and 0 <= at < len(texts) else None

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        told: dict[str, Any] = {"feature": self.name, "value": self.value}
        if self.feature is not None:
            told |= {"unit": self.feature.unit, "meaning": self.feature.doc}
        if self.category is not None:
            told["category"] = self.category
        if self.value is None:
            told |= {
                "missing": None if self.feature is None else self.feature.missing,
                "filled_with": self.filled_with,
            }
        told["push"] = self.push
        if self.shapley is not None:
            told["shapley"] = self.shapley
        if self.made_by is not None:
            orders = [each.as_json() for each in self.made_by.orders]
            told |= {
                "orders": orders,
                "more_orders": self.made_by.more,
                "exact": self.made_by.is_exact,
                "value_now": self.made_by.value,
            }
        return told


@dataclass(frozen=True, slots=True)
class NodeScore:
    """What one model of the tree said; the last is the model itself."""

    name: str
    predictor: str
    p_fraud: float
    asks: tuple[str, ...]
    own_push: float
    """What of its push on the model's raw score none of its features accounts for; 0 for the model itself."""
    shapley: float | None = None
    """The exact Shapley value of its score; None where nobody asked, or the model itself does not ask it."""


@dataclass(frozen=True, slots=True)
class Became:
    """An outcome or event of the order."""

    event: Outcome | OrderEvent
    place: str
    """TOPIC/PARTITION/OFFSET."""
    was_known: bool
    """Whether the worker had read it when it decided."""

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        told = self.event.model_dump(mode="json", exclude_defaults=True)
        return told | {"place": self.place, "was_known_when_decided": self.was_known}


@dataclass(frozen=True, slots=True)
class Journey:
    """One arrival of an order and what was decided about it."""

    record: Record
    """The order as it arrived."""
    order: Order | Told | None
    """None where it could not be read."""
    made: Made | None
    """The recorded decision; None where there is none."""
    decision: Decision | None
    """What the decision says; None where there is none, or its bytes are no decision of this version."""
    policy: Policy | None
    model_doubt: str
    """Why the model is not at hand, so that scores by node and pushes are not told; empty where it is."""
    policy_doubt: str
    nodes: tuple[NodeScore, ...]
    features: tuple[Asked, ...]
    history: Explanation | None
    shadow: tuple[Made, ...]
    """What other models decided about the same arrival without acting, in their order."""
    became: tuple[Became, ...]
    difference: Difference | None
    """How deciding it again differs, or why that can't be said; None where it is equal or not decided."""
    is_equal: bool
    """Whether deciding it again gives the very bytes that were recorded."""
    said: str
    """What there is to say where there is no decision; empty otherwise."""
    compared_with: int = 0
    """Of how many orders decided before it Shapley values tell how it differs; 0 without them."""

    @property
    def is_observed(self) -> bool:
        """Whether the decision was made without acting on it."""
        return self.headers.get("mode") is not None

    @property
    def headers(self) -> Mapping[str, str]:
        """What the decision says beside its value; whoever could write it could say anything."""
        if self.made is None:
            return {}
        return {name: (value or b"").decode(errors="replace") for name, value in self.made.record.headers}

    @property
    def stages(self) -> Mapping[str, tuple[int, int]]:
        """Where the order stood in each stage of its road: topic, then partition and offset."""
        return {} if self.made is None else stood_in(self.made.record)

    @property
    def latency_ms(self) -> int | None:
        """Milliseconds from the order's arrival to its decision, by the broker's clock."""
        arrived_at = None if self.made is None else self.made.arrived_at
        if self.made is None or arrived_at is None:
            return None
        return self.made.record.timestamp - arrived_at

    def as_json(self) -> dict[str, Any]:
        """The whole journey, for machines."""
        record, decision, made = self.record, self.decision, self.made
        return {
            "order": {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "arrived_at_ms": record.timestamp,
                "content": content_of(self.order),
            },
            "decision": None if decision is None else json.loads(decision.model_dump_json()),
            "decision_place": None if made is None else made.place,
            "decided_at_ms": None if made is None else made.record.timestamp,
            "latency_ms": self.latency_ms,
            "headers": dict(self.headers),
            "stages": {topic: list(place) for topic, place in self.stages.items()},
            "policy": None if self.policy is None else self.policy.model_dump(),
            "reasons": [
                {"code": each.code, "analyst": each.text, "customer": customer_text(each.code)}
                for each in (decision.reasons if decision else ())
            ],
            "nodes": [
                {"name": each.name, "predictor": each.predictor, "p_fraud": each.p_fraud}
                | {"asks": list(each.asks), "own_push": each.own_push, "shapley": each.shapley}
                for each in self.nodes
            ],
            "features": [each.as_json() for each in self.features],
            "shapley_against_orders": self.compared_with,
            "history": None if self.history is None else self.history.as_json(),
            "shadow": [_shadow_json(each) for each in self.shadow],
            "became": [each.as_json() for each in self.became],
            "decided_again": {
                "equal": self.is_equal,
                "difference": None if self.difference is None else self.difference.as_json(),
            },
            "said": [each for each in (self.said, self.model_doubt, self.policy_doubt) if each],
        }


def journeys_of(
    settings: Settings,
    order_id: str,
    *,
    archive: str | None = None,
    most: int = 5,
    with_shapley: bool = False,
    told: Progress = lambda _read, _of: None,
) -> list[Journey]:
    """The journey of every arrival of an order: of its revisions, and of what was sent again.

    At most `most` past orders are told for each feature. `with_shapley`: exact Shapley values too. Raises
    VerifyError where there is no such order, and what else keeps topics or the archive from being read.
    """
    replayed = replay_decision(settings, order_id, archive=archive, told=told)
    with ExitStack() as stack:
        recorded = recorded_of(settings, archive)
        stack.callback(recorded.close)
        teller = _Teller(settings, recorded, order_id, most, with_shapley=with_shapley)
        return [teller.journey(each) for each in replayed]


class _Teller:
    """Puts together what the recorded past says of an order's arrivals."""

    def __init__(
        self, settings: Settings, recorded: Recorded, order_id: str, most: int, *, with_shapley: bool
    ) -> None:
        self._settings = settings
        self._recorded = recorded
        self._order_id = order_id
        self._most = most
        self._with_shapley = with_shapley
        self._models = Models(settings)
        self._control = ControlPast.read(recorded, settings)
        catalogue = catalogue_of(settings)
        self._known = {each.name: each for group in catalogue.groups.values() for each in group}
        self._heard: dict[int, list[tuple[Record, Outcome | OrderEvent]]] = {}
        self._shadows: dict[int, list[Made]] = {}

    def journey(self, replayed: Replayed) -> Journey:
        record, made = replayed.order, replayed.made
        decision = None if made is None else _decision(made)
        scorer, model_doubt = self._scorer(made)
        policy, policy_doubt = self._policy(decision)
        settings = self._as_then(made)
        order = _order(settings, record)
        # a resend was not scored again: what made its features stands with the decision it repeats
        is_scored = decision is not None and decision.model is not None and decision.repeat_of is None
        history = self._history(settings, record, scorer, decision) if decision and is_scored else None
        features, nodes, doubt = self._asked(scorer, decision, history)
        compared_with = 0
        if self._with_shapley and nodes and made is not None and scorer is not None:
            others = self._before(made, scorer)
            if others:
                values, compared_with = _shapley(scorer, features, others), len(others)
                features = tuple(replace(each, shapley=values.get(each.name)) for each in features)
                nodes = tuple(replace(each, shapley=values.get(each.name)) for each in nodes)
        read = {} if decision is None else decision.source.others
        return Journey(
            record=record,
            order=order,
            made=made,
            decision=decision,
            policy=policy,
            model_doubt=model_doubt or doubt,
            policy_doubt=policy_doubt,
            nodes=nodes,
            features=features,
            history=history,
            shadow=tuple(
                each
                for each in self._shadow(record.partition)
                if each.about is not None
                and each.about.offset == record.offset
                and (made is None or each.place != made.place)
            ),
            became=tuple(
                Became(
                    event,
                    f"{each.topic}/{each.partition}/{each.offset}",
                    each.offset < read.get(each.topic, 0),
                )
                for each, event in self._became(record.partition)
            ),
            difference=replayed.difference,
            is_equal=replayed.is_equal,
            said=replayed.said,
            compared_with=compared_with,
        )

    def _before(self, made: Made, scorer: Scorer) -> list[Vector]:
        """What the model was asked for the last orders that it decided before, in the same partition."""
        record, names = made.record, [each.name for each in scorer.features]
        tp = (record.topic, record.partition)
        low, _ = self._recorded.bounds(tp)
        found: deque[Vector] = deque(maxlen=_COMPARED)
        start = max(low, record.offset - _LOOKED_AT)
        for chunk in self._recorded.read(tp, start, record.offset) if start < record.offset else ():
            for each in map(_decision, map(Made.of, chunk)):
                if (
                    each is not None
                    and each.model == scorer.ref
                    and each.repeat_of is None
                    and each.order_id != self._order_id
                    and each.features.keys() >= set(names)
                ):
                    found.append([each.features[name] for name in names])
        return list(found)

    def _as_then(self, made: Made | None) -> Settings:
        """The settings, with those that decide as they were when it was decided."""
        said = None if made is None else said_in(made.record.headers)
        then = Deciding.decode(said) if said else None
        if then is None:
            return self._settings
        # a stage whose topic is gone, or not in the archive, can't tell what it knew
        topics = self._settings.topics
        entities = tuple(each for each in then.entities if has_topic(self._recorded, topics.by(each)))
        return self._settings.model_copy(update={"row_limit": then.row_limit, "entities": entities})

    def _scorer(self, made: Made | None) -> tuple[Scorer | None, str]:
        model = None if made is None or made.word is None else made.word.model
        if model is None:
            return None, ""
        found = self._models.scorer(model)
        return (None, found.said) if isinstance(found, Doubt) else (found, "")

    def _policy(self, decision: Decision | None) -> tuple[Policy | None, str]:
        if decision is None or decision.model is None:
            return None, ""
        found = self._models.policy(decision.policy)
        if isinstance(found, Doubt):
            found = self._control.policy(decision.policy) or found
        return (None, found.said) if isinstance(found, Doubt) else (found, "")

    def _history(
        self, settings: Settings, record: Record, scorer: Scorer | None, decision: Decision
    ) -> Explanation | None:
        asked = scorer.features if scorer is not None else map(self._known.get, decision.features)
        told = [each for each in asked if each is not None and is_explained(each, settings.entities)]
        return explain_recorded(settings, self._recorded, record, told, most=self._most)

    def _asked(
        self, scorer: Scorer | None, decision: Decision | None, history: Explanation | None
    ) -> tuple[tuple[Asked, ...], tuple[NodeScore, ...], str]:
        if decision is None or not decision.features:
            return (), (), ""
        made_by = {each.feature.name: each for each in (history.features if history else ())}
        known, fills, pushes = self._known, dict[str, float | None](), dict[str, float]()
        nodes: tuple[NodeScore, ...] = ()
        doubt = ""
        if scorer is not None:
            known = known | {each.name: each for each in scorer.features}
            for node in scorer.nodes:  # the model itself last: where several fill a feature, it is its word
                filled = zip(node.model.imputer.names, node.model.imputer.fills, strict=True)
                fills |= {name: None if math.isnan(fill) else fill for name, fill in filled}
            missing = [each.name for each in scorer.features if each.name not in decision.features]
            if missing:
                doubt = (
                    f"the decision does not write down {', '.join(missing)}, so scores by model are not told"
                )
            else:
                nodes, pushes = _scored(scorer, decision)
        features = tuple(
            Asked(name, value, known.get(name), fills.get(name), pushes.get(name), made_by.get(name))
            for name, value in decision.features.items()
        )
        if nodes and nodes[-1].p_fraud != decision.p_fraud:
            doubt = (
                f"the model gives {nodes[-1].p_fraud} for these features here, and {decision.p_fraud} was "
                "decided"
            )
        return features, nodes, doubt

    def _became(self, partition: int) -> list[tuple[Record, Outcome | OrderEvent]]:
        found = self._heard.get(partition)
        if found is None:
            topics = self._settings.topics
            found = [
                *self._told_of(partition, topics.outcomes, Outcome),
                *self._told_of(partition, topics.order_events, OrderEvent),
            ]
            found.sort(key=lambda each: each[1].known_at)
            self._heard[partition] = found
        return found

    def _told_of(
        self, partition: int, topic: str, contract: type[Outcome] | type[OrderEvent]
    ) -> Iterator[tuple[Record, Outcome | OrderEvent]]:
        wanted = self._order_id.encode()
        for record in self._read(topic, partition):
            value = record.value or b""
            if wanted not in value and b"\\" not in value:  # JSON may write any letter with a backslash
                continue
            event = decode_event(
                value,
                contract,
                key=record.key,
                arrived_at=record.timestamp,
                ahead_by_at_most=timedelta(seconds=self._settings.ahead_by_at_most_s),
            )
            if not isinstance(event, Rejection) and event.order_id == self._order_id:
                yield record, event

    def _shadow(self, partition: int) -> list[Made]:
        found = self._shadows.get(partition)
        if found is None:
            found = self._shadows[partition] = [
                Made.of(each)
                for each in self._read(self._settings.topics.decisions_shadow, partition)
                if dict(each.headers).get("order_id") == self._order_id.encode()
            ]
        return found

    def _read(self, topic: str, partition: int) -> Iterator[Record]:
        if has_topic(self._recorded, topic):
            tp = (topic, partition)
            yield from records_of(self._recorded, tp, *self._recorded.bounds(tp))


def _scored(scorer: Scorer, decision: Decision) -> tuple[tuple[NodeScore, ...], dict[str, float]]:
    vector = [decision.features[each.name] for each in scorer.features]
    (said,) = scorer.score([vector])
    (row,) = scorer.pushes([vector]).tolist()
    own = row[len(scorer.features) :]
    nodes = tuple(
        NodeScore(node.name, _predictor(node), p, node.inputs, push)
        for node, p, push in zip(scorer.nodes, (*said.submodels, said.p_fraud), own, strict=True)
    )
    return nodes, {each.name: push for each, push in zip(scorer.features, row, strict=False)}


def _shapley(scorer: Scorer, features: Sequence[Asked], others: Sequence[Vector]) -> dict[str, float]:
    """By what the model itself asks, features and submodels' scores, its exact Shapley value."""
    known = {each.name: each.value for each in features}
    asked = scorer.inputs([[known[each.name] for each in scorer.features], *others])
    values = shapley(scorer.model, asked[0], asked[1:])
    return dict(zip(scorer.nodes[-1].inputs, values.tolist(), strict=True))


def _predictor(node: Node) -> str:
    described = node.described.get("predictor")
    return str(described["is"]) if isinstance(described, Mapping) else node.model.predictor.kind


def _decision(made: Made) -> Decision | None:
    try:
        return decode_decision(made.record.value or b"")
    except ValueError:  # pydantic's is one
        return None


def _order(settings: Settings, record: Record) -> Order | Told | None:
    # when it arrived is not looked at: what was decided was not dated too far ahead
    order = decoder_of(settings).order(
        record.value,
        key=record.key,
        arrived_at=None,
        ahead_by_at_most=timedelta(seconds=settings.ahead_by_at_most_s),
    )
    return None if isinstance(order, Rejection) else order


def content_of(order: Order | Told | None) -> dict[str, Any] | None:
    """What an order says, without what it does not say."""
    if order is None:
        return None
    if isinstance(order, Order):
        return order.model_dump(mode="json", exclude_defaults=True)
    content: dict[str, Any] = msgspec.to_builtins(order)
    return content


def _shadow_json(made: Made) -> dict[str, Any]:
    decision = _decision(made)
    return {
        "place": made.place,
        "decision": None if decision is None else json.loads(decision.model_dump_json()),
    }
