"""What is said about records: decisions, the same decision again, and rejects, as records to be produced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from features.decode import REJECTION_CODES, Rejection
from features.events import Order
from features.fast import Told
from features.revisions import Revision
from models.decision import (
    MOST_REASONS,
    Decision,
    Reason,
    Source,
    decision_id,
    decode_decision,
    encode,
    rejected_decision,
    scored_decision,
)
from models.policy import Action, Policy
from models.scorer import Scored
from stream.panel import Bench, Judge, unavailable
from stream.ports import Effects, Headers, Produce, Record
from stream.road import MODE
from stream.settings import Topics

__all__ = [
    "ORDER_ARRIVED_AT",
    "SHADOW",
    "STAGES",
    "Answers",
    "Asked",
    "Kept",
    "Pending",
    "Rejected",
    "Verdict",
    "keep_few_whole",
    "kept_of",
    "shorten",
]

ORDER_ARRIVED_AT: Final = "order_arrived_at"
"""The header of a decision that says when the broker had its order, in milliseconds since 1970."""

STAGES: Final = "stages"
"""The header of a decision that says where its order stood in each stage: topic, then partition and
offset."""

SHADOW: Final = (MODE, b"shadow")
"""The header of a decision that a challenger would have made: the order's own is another one."""

_WHOLE_DECISIONS: Final = 8
"""Of how many of an order's revisions the decision is kept whole; of the rest in brief."""

_KIB: Final = 1024
_LARGEST_KEY: Final = 64 * _KIB
_LARGEST_HEADERS: Final = 128 * _KIB
_LARGEST_VALUE: Final = 1536 * _KIB
_VALUE_CUT_TO: Final = 1024 * _KIB


class Kept(NamedTuple):
    """What of a rejected record is kept: all of it where that fits, else the beginning."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    cuts: Headers
    """How large each part was that was cut, in bytes; nothing for a record kept whole."""


def kept_of(record: Record) -> Kept:
    """As much of a record as a record of the rejects' topic can carry, whatever its sender sent.

    A value over 1.5 MiB is cut to its first 1 MiB, a key over 64 KiB to its first 64 KiB, and headers over
    128 KiB in all are left out: a reject that cannot be written would stop its partition for ever.
    """
    key, value, headers = record.key, record.value, record.headers
    cuts = []
    if value is not None and len(value) > _LARGEST_VALUE:
        cuts.append(("value_bytes", str(len(value)).encode()))
        value = value[:_VALUE_CUT_TO]
    if key is not None and len(key) > _LARGEST_KEY:
        cuts.append(("key_bytes", str(len(key)).encode()))
        key = key[:_LARGEST_KEY]
    size = sum(len(name.encode()) + len(content or b"") for name, content in headers)
    if size > _LARGEST_HEADERS:
        cuts.append(("headers_bytes", str(size).encode()))
        headers = ()
    return Kept(key, value, headers, tuple(cuts))


class Asked(NamedTuple):
    """Who waits for a decision: the order as it came in at home."""

    source: Source
    timestamp: int
    """When the broker appended it, in milliseconds since 1970."""
    is_observed: bool
    """Whether it is decided into the shadow."""
    stages: Mapping[str, tuple[int, int]] = MappingProxyType({})
    """Where it stood in each stage: topic, partition and offset."""


@dataclass(slots=True)
class Pending:
    """An order at the end of its way: a vector to be scored, or a decision to be repeated."""

    order: Order | Told
    memory: Sequence[Revision]
    """All that is known of the order's revisions where its decision is kept."""
    seen: Revision
    asked: Asked
    vector: tuple[float | None, ...] | None = None
    """All features of the models in service; None for a resend: it is not scored again."""
    bench: Bench | None = None
    """Who is there to decide; None for a resend."""
    supersedes: UUID | None = None
    """The decision about the revision that this one takes the place of."""
    repeat_of: UUID | None = None
    """The decision it got the first time, where that can't be found any more to be repeated."""
    has_unheard: bool = False
    """Whether something in `vector` is UNHEARD: who asks for that can't be used."""


class Rejected(NamedTuple):
    """A record that is set aside, and who waits for a decision about its order all the same."""

    why: Rejection
    asked: Asked | None


class Verdict(NamedTuple):
    """What was decided about an order, and by whom."""

    judge: Judge | None
    """None where no model decided."""
    vector: Sequence[float | None]
    """Of the judge's features."""
    scored: Scored | None
    failed: Judge | None
    """Who was to decide and could not."""


class Answers:
    """Words decisions and rejects."""

    def __init__(self, *, topics: Topics, headers: Headers) -> None:
        self._topics = topics
        self._headers = headers
        self._observed: Headers = ((MODE, b"observe"), *headers)
        self._shadow: Headers = (SHADOW, *headers)

    def name(self, order: Order | Told, content: bytes, source: Source, bench: Bench) -> UUID:
        """The id of the decision about an order that stands there, by whoever is to decide it."""
        judge = bench.deciders[0] if bench.deciders else None
        return _named(order, content, source, judge, bench.policy)

    def decide(self, pending: Pending, verdict: Verdict, effects: Effects) -> None:
        """Emit the decision about an order, kept with the order so that a resend hears the same."""
        order, seen = pending.order, pending.seen
        bench, judge, scored = pending.bench, verdict.judge, verdict.scored
        assert bench is not None  # noqa: S101 - of what is not a resend
        first: tuple[Reason, ...] = () if bench.why is None else (bench.why,)
        if bench.why is not None:
            effects.counts["decided_by_kill_switch"] += 1
        if verdict.failed is not None or (scored is None and bench.action is None):
            said = None if verdict.failed is None else verdict.failed.said
            first += (unavailable(said, decided=scored is not None),)
            effects.counts["model_unavailable"] += 1
        if judge is None or scored is None:
            action = bench.action or Action.REVIEW
            # rare enough to be checked like any other
            decision = Decision(
                decision_id=UUID(bytes=seen.decision_id),
                order_id=order.order_id,
                revision=order.revision,
                customer_id=order.customer_id,
                action=action,
                reasons=first,
                policy=bench.policy.digest,
                source=pending.asked.source,
                repeat_of=pending.repeat_of,
                supersedes=pending.supersedes,
            )
        else:
            action = judge.policy.decide(scored.p_fraud)
            decision = scored_decision(
                decision_id=UUID(bytes=seen.decision_id),
                order_id=order.order_id,
                revision=order.revision,
                customer_id=order.customer_id,
                action=action,
                p_fraud=scored.p_fraud,
                reasons=(*first, *scored.reasons)[:MOST_REASONS] if first else scored.reasons,
                model=judge.ref,
                policy_digest=judge.policy.digest,
                features=dict(zip(judge.names, verdict.vector, strict=True)),
                imputed=scored.imputed,
                source=pending.asked.source,
                repeat_of=pending.repeat_of,
                supersedes=pending.supersedes,
            )
        effects.counts["decision_" + action] += 1
        seen.decision = value = encode(decision)
        # here and not when the batch is done: what a resend hears must not depend on batches
        keep_few_whole(pending.memory)
        self._emit(value, order, pending.asked, effects)

    def repeat(self, pending: Pending, effects: Effects) -> None:
        """Emit the decision an order got the first time, under an id of its own.

        Of a revision that many newer ones followed it is without features and reasons.
        """
        source = pending.asked.source
        first = decode_decision(pending.seen.decision)
        named = decision_id(
            order_id=first.order_id,
            revision=first.revision,
            content_digest=pending.seen.content,
            model_digest=first.model.digest if first.model else "",
            policy_digest=first.policy,
            source=source,
        )
        again = first.model_copy(
            update={"decision_id": named, "repeat_of": first.decision_id, "source": source}
        )
        effects.counts["decision_repeated"] += 1
        self._emit(encode(again), pending.order, pending.asked, effects)

    def shadow(
        self, pending: Pending, judge: Judge, vector: Sequence[float | None], scored: Scored, effects: Effects
    ) -> None:
        """Emit what a challenger would have decided: nobody acts on it, and no resend hears it."""
        order, source = pending.order, pending.asked.source
        decision = scored_decision(
            decision_id=_named(order, pending.seen.content, source, judge, judge.policy),
            order_id=order.order_id,
            revision=order.revision,
            customer_id=order.customer_id,
            action=judge.policy.decide(scored.p_fraud),
            p_fraud=scored.p_fraud,
            reasons=scored.reasons,
            model=judge.ref,
            policy_digest=judge.policy.digest,
            features=dict(zip(judge.names, vector, strict=True)),
            imputed=scored.imputed,
            source=source,
        )
        effects.counts["challenged"] += 1
        self._produce(encode(decision), order, pending.asked, self._shadow, effects)

    def reject(self, record: Record, rejected: Rejected, policy: Policy, effects: Effects) -> None:
        """Keep the record with its reason and, where somebody waits for a decision, ask for a review."""
        why, asked = rejected
        effects.counts["rejected"] += 1
        effects.counts["rejected_" + why.code] += 1
        kept = kept_of(record)
        detail = why.detail
        if kept.cuts:
            detail += (
                f"; the whole record stands in topic {record.topic}, partition {record.partition}, "
                f"offset {record.offset}"
            )
        headers = (
            # first: a sender's own 'reason' must not stand for ours in a reader's dictionary
            *kept.headers,
            ("reason", why.code.encode()),
            ("detail", detail.encode(errors="backslashreplace")),
            ("source_topic", record.topic.encode()),
            ("source_partition", str(record.partition).encode()),
            ("source_offset", str(record.offset).encode()),
            *kept.cuts,
        )
        effects.produce.append(
            Produce(self._topics.rejected, record.partition, kept.key, kept.value, headers)
        )
        if why.order_id is None or asked is None:
            return
        decision = rejected_decision(
            order_id=why.order_id,
            revision=why.revision or 0,
            customer_id=why.customer_id,
            code=why.code,
            text=REJECTION_CODES[why.code],
            content_digest=blake2b(record.value or b"", digest_size=16).digest(),
            policy_digest=policy.digest,
            source=asked.source,
        )
        effects.counts["decision_review"] += 1
        self._emit(encode(decision), why, asked, effects)

    def _emit(self, value: bytes, order: Order | Told | Rejection, asked: Asked, effects: Effects) -> None:
        observed = asked.is_observed
        effects.counts["decisions"] += 1
        if observed:
            effects.counts["decisions_observed"] += 1
        self._produce(value, order, asked, self._observed if observed else self._headers, effects)

    def _produce(
        self,
        value: bytes,
        order: Order | Told | Rejection,
        asked: Asked,
        more: Headers,
        effects: Effects,
    ) -> None:
        order_id = order.order_id or ""
        headers: Headers = (
            ("order_id", order_id.encode()),
            (ORDER_ARRIVED_AT, str(asked.timestamp).encode()),
            *more,
        )
        if asked.stages:
            headers += ((STAGES, msgspec.json.encode(asked.stages)),)
        # the order's own key: a rejected record may have come under one that is too large to pass on
        key = (order.customer_id or order_id).encode()
        topic = self._topics.decisions if more is self._headers else self._topics.decisions_shadow
        effects.produce.append(Produce(topic, asked.source.partition, key, value, headers))


def _named(order: Order | Told, content: bytes, source: Source, judge: Judge | None, policy: Policy) -> UUID:
    return decision_id(
        order_id=order.order_id,
        revision=order.revision,
        content_digest=content,
        model_digest="" if judge is None else judge.ref.digest,
        policy_digest=(policy if judge is None else judge.policy).digest,
        source=source,
    )


def keep_few_whole(memory: Sequence[Revision]) -> None:
    """Keep the decisions about the newest revisions of an order whole, and of the others what was decided."""
    whole = [each for each in memory if each.decision and not each.is_brief]
    if len(whole) > _WHOLE_DECISIONS:
        for each in sorted(whole, key=lambda each: each.revision)[:-_WHOLE_DECISIONS]:
            shorten(each)


def shorten(seen: Revision) -> None:
    """Keep of a decision what was decided, and not what it was decided from."""
    decision = decode_decision(seen.decision)
    brief = decision.model_copy(update={"features": {}, "imputed": (), "reasons": ()})
    seen.decision, seen.is_brief = encode(brief), True
