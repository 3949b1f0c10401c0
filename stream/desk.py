"""The desk: what a batch of orders changes and emits, as a value; nothing has happened yet.

An order's way through it: decode, recall its customer, compute its features, remember it; then the
whole batch is scored at once and decided order by order.
"""

import logging
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec
import orjson

from features.decode import REJECTION_CODES, Rejection, decode_order
from features.define import compute
from features.events import Order, microseconds
from features.history import Row
from models.decision import (
    Source,
    decision_id,
    decode_decision,
    encode,
    rejected_decision,
    scored_decision,
)
from models.policy import Policy
from models.scorer import Scored, Scorer
from stream.ports import Effects, Headers, Produce, Recall, Record, Refused
from stream.settings import Topics

__all__ = ["MODE", "ScoringDesk", "customer_key", "order_key", "partition_of"]

log = logging.getLogger("fraudstream.desk")

MODE: Final = "mode"
"""The header that says `history`: remember this order, never decide it."""

_RECENT: Final = 1_000
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def customer_key(customer_id: str) -> bytes:
    """The key of a customer's row, in the store and in the changelog."""
    return b"c" + customer_id.encode()


def order_key(order_id: str) -> bytes:
    """The key under which an order's revisions and their decisions are remembered."""
    return b"o" + order_id.encode()


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition a key belongs to: murmur2, as Java, aiokafka and librdkafka's murmur2_random do."""
    from aiokafka.partitioner import murmur2  # noqa: PLC0415 (imports a whole client for one function)

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class _Revision(msgspec.Struct, array_like=True):
    """One revision of an order, and what was decided about it."""

    revision: int
    content: bytes
    """Digest of the content, to tell a resend from a conflict."""
    placed_at: int
    decision_id: bytes = b""
    decision: bytes = b""
    """As it was emitted; empty for an order that was only remembered."""


class _Revisions(msgspec.Struct, array_like=True):
    """An order's revisions, oldest arrival first."""

    v: int = 1
    seen: list[_Revision] = msgspec.field(default_factory=list)

    def of(self, revision: int) -> _Revision | None:
        return next((seen for seen in self.seen if seen.revision == revision), None)

    def newest(self) -> _Revision | None:
        return max(self.seen, key=lambda seen: seen.revision, default=None)


class _Batch:
    """What is being built up for one batch: the touched rows over those recalled, and the emissions."""

    def __init__(self, recall: Recall, row_limit: int) -> None:
        self._recall = recall
        self._row_limit = row_limit
        self._rows: dict[tuple[int, bytes], Row] = {}
        self._orders: dict[tuple[int, bytes], _Revisions] = {}
        # dicts, not sets: the order of the changelog must not depend on a hash
        self._changed_rows: dict[tuple[int, bytes], Row] = {}
        self._changed_orders: dict[tuple[int, bytes], _Revisions] = {}
        self.effects = Effects()

    def row(self, partition: int, customer_id: str) -> Row:
        """The customer's row, as this batch has left it so far."""
        at = (partition, customer_key(customer_id))
        row = self._rows.get(at)
        if row is None:
            kept = self._recall(*at)
            row = Row(self._row_limit) if kept is None else Row.decode(kept, self._row_limit)
            self._rows[at] = row
        return row

    def revisions(self, partition: int, order_id: str) -> _Revisions:
        """What is known of the order, as this batch has left it so far."""
        at = (partition, order_key(order_id))
        revisions = self._orders.get(at)
        if revisions is None:
            kept = self._recall(*at)
            revisions = _Revisions() if kept is None else msgspec.msgpack.decode(kept, type=_Revisions)
            if revisions.v != 1:
                raise Refused(
                    f"an order in the changelog has version {revisions.v} and this program reads 1; "
                    "run the version that wrote it, or a newer one"
                )
            self._orders[at] = revisions
        return revisions

    def add(self, partition: int, order: Order, content: bytes) -> _Revision:
        """Note a revision of an order that was not seen before."""
        revisions = self.revisions(partition, order.order_id)
        seen = _Revision(order.revision, content, microseconds(order.placed_at))
        revisions.seen.append(seen)
        self.touch(partition, order)
        return seen

    def touch(self, partition: int, order: Order) -> None:
        """Note that what is known of the order changes with this batch."""
        at = (partition, order_key(order.order_id))
        self._changed_orders[at] = self._orders[at]

    def remember(self, partition: int, order: Order, row: Row) -> None:
        """Count the order in its customer's history."""
        row.remember(order)
        self._changed_rows[partition, customer_key(order.key)] = row

    def done(self) -> Effects:
        """The effects, with every row and order that was changed."""
        rows = self.effects.rows
        for (partition, key), row in self._changed_rows.items():
            rows.setdefault(partition, {})[key] = row.encode()
        for (partition, key), revisions in self._changed_orders.items():
            rows.setdefault(partition, {})[key] = msgspec.msgpack.encode(revisions)
        return self.effects


class _Pending:
    """An order on its way through the batch: a vector to be scored, or a decision to be repeated."""

    __slots__ = ("before", "order", "seen", "source", "vector")

    def __init__(
        self,
        order: Order,
        seen: _Revision,
        source: Source,
        vector: tuple[float | None, ...] | None = None,
        before: _Revision | None = None,
    ) -> None:
        self.order = order
        self.seen = seen
        self.source = source
        self.vector = vector
        """None for a resend: it is not scored again."""
        self.before = before
        """The revision this one supersedes."""


class ScoringDesk:
    """Decides batches with one model and one policy; pure but for the rows it recalls."""

    def __init__(
        self,
        *,
        scorer: Scorer,
        policy: Policy,
        topics: Topics,
        partitions: int,
        row_limit: int,
        ahead_by_at_most: timedelta,
        reject_share: float,
        headers: Headers,
    ) -> None:
        self._scorer = scorer
        self._names = tuple(feature.name for feature in scorer.features)
        self._policy = policy
        self._topics = topics
        self._partitions = partitions
        self._row_limit = row_limit
        self._ahead_by_at_most = ahead_by_at_most
        self._reject_share = reject_share
        self._headers = headers
        self._recent: deque[bool] = deque(maxlen=_RECENT)

    def decide(self, records: Sequence[Record], recall: Recall) -> Effects:
        """What these records change and emit.

        Raises Refused when rejects flood and the breaker is set; anything else is a mistake of ours.
        """
        batch = _Batch(recall, self._row_limit)
        counts = batch.effects.counts
        # one entry a record, in log order: decisions come out in the order the orders went in
        passing = [self._take(record, batch) for record in records]
        self._mind_the_breaker(passing)
        vectors = [p.vector for p in passing if isinstance(p, _Pending) and p.vector is not None]
        scores = iter(self._scorer.score(vectors))
        for record, passed in zip(records, passing, strict=True):
            if isinstance(passed, Rejection):
                self._reject(record, passed, batch.effects)
            elif passed is not None and passed.vector is None:
                counts["decision_repeated"] += 1
                self._emit(record, self._again(passed), passed.order, batch.effects)
            elif passed is not None:
                value = self._decided(passed, next(scores), counts)
                self._emit(record, value, passed.order, batch.effects)
        return batch.done()

    def set_aside(self, record: Record, recall: Recall) -> Effects:  # noqa: ARG002 (its rows may be the cause)
        """Dead-letter a record that stopped the worker again and again, with a REVIEW decision."""
        order_id = customer_id = None
        try:
            content = orjson.loads(record.value or b"null")
            if isinstance(content, dict):
                order_id, customer_id = content.get("order_id"), content.get("customer_id")
        except orjson.JSONDecodeError:
            pass
        effects = Effects()
        why = Rejection(
            "scorer_error",
            "deciding this order stopped the worker repeatedly; report it with this record, then redrive it",
            order_id if isinstance(order_id, str) and order_id else None,
            customer_id if isinstance(customer_id, str) and customer_id else None,
        )
        self._reject(record, why, effects)
        return effects

    def _take(self, record: Record, batch: _Batch) -> _Pending | Rejection | None:
        """Recall, compute, remember: everything about an order that needs its past."""
        order = decode_order(
            record.value,
            key=record.key,
            arrived_at=record.timestamp,
            ahead_by_at_most=self._ahead_by_at_most,
        )
        if isinstance(order, Rejection):
            return order
        counts = batch.effects.counts
        if record.key is not None and partition_of(record.key, self._partitions) != record.partition:
            counts["orders_misplaced"] += 1
        only_history = bool(record.headers) and (MODE, b"history") in record.headers
        content = order.content_digest
        revisions = batch.revisions(record.partition, order.order_id)
        seen = revisions.of(order.revision)
        if seen is not None and seen.content != content:
            return Rejection(
                "conflicting_content",
                f"order_id and revision {order.revision} came before with other content; "
                "send a changed order with a higher revision",
                order.order_id,
                order.customer_id,
            )
        if seen is not None and (seen.decision_id or only_history):
            # a resend counts once, and hears again what it heard the first time
            return None if only_history else _Pending(order, seen, _source(record))
        before = revisions.newest()
        newest = seen is None and (before is None or before.revision < order.revision)
        if seen is None:
            seen = batch.add(record.partition, order, content)
        row = None if order.customer_id is None else batch.row(record.partition, order.customer_id)
        if row is not None and newest and before is not None:
            # a revision takes the place of the order it revises, also in its own past
            row.forget(order.order_id, _EPOCH + timedelta(microseconds=before.placed_at))
        pending = None
        if only_history:
            counts["orders_remembered"] += 1
        else:
            vector = compute(
                self._scorer.features, order, None if row is None else row.as_of(order.placed_at)
            )
            # named at once, so that a resend in this very batch is known for one
            source = _source(record)
            seen.decision_id = self._id_of(order, content, source).bytes
            batch.touch(record.partition, order)
            pending = _Pending(order, seen, source, vector, before if newest else None)
        if row is not None and newest and not order.test:
            batch.remember(record.partition, order, row)  # after compute: never part of its own past
        return pending

    def _id_of(self, order: Order, content: bytes, source: Source) -> UUID:
        return decision_id(
            order_id=order.order_id,
            revision=order.revision,
            content_digest=content,
            model_digest=self._scorer.digest,
            policy_digest=self._policy.digest,
            source=source,
        )

    def _decided(self, pending: _Pending, scored: Scored, counts: Counter[str]) -> bytes:
        """The decision's bytes, kept with the order so that a resend hears the same."""
        order, seen = pending.order, pending.seen
        action = self._policy.decide(scored.p_fraud)
        counts["decision_" + action] += 1
        before = pending.before
        decision = scored_decision(
            order_id=order.order_id,
            revision=order.revision,
            customer_id=order.customer_id,
            content_digest=seen.content,
            action=action,
            p_fraud=scored.p_fraud,
            reasons=scored.reasons,
            model=self._scorer.ref,
            policy_digest=self._policy.digest,
            features=dict(zip(self._names, pending.vector or (), strict=True)),
            imputed=scored.imputed,
            source=pending.source,
            supersedes=UUID(bytes=before.decision_id) if before is not None and before.decision_id else None,
        )
        seen.decision = encode(decision)
        return seen.decision

    def _again(self, pending: _Pending) -> bytes:
        """The decision an order got the first time, under an id of its own."""
        first = decode_decision(pending.seen.decision)
        named = decision_id(
            order_id=first.order_id,
            revision=first.revision,
            content_digest=pending.seen.content,
            model_digest=first.model.digest if first.model else "",
            policy_digest=first.policy,
            source=pending.source,
        )
        return encode(
            first.model_copy(
                update={"decision_id": named, "repeat_of": first.decision_id, "source": pending.source}
            )
        )

    def _emit(self, record: Record, value: bytes, order: Order | Rejection, effects: Effects) -> None:
        effects.counts["decisions"] += 1
        order_id = order.order_id or ""
        headers = (
            ("order_id", order_id.encode()),
            ("order_arrived_at", str(record.timestamp).encode()),
            *self._headers,
        )
        # the order's own key: a rejected record may have come under one that is too large to pass on
        key = (order.customer_id or order_id).encode()
        effects.produce.append(Produce(self._topics.decisions, record.partition, key, value, headers))

    def _reject(self, record: Record, why: Rejection, effects: Effects) -> None:
        """Keep the record whole with its reason and, where its order can be named, ask for a review."""
        effects.counts["rejected"] += 1
        effects.counts["rejected_" + why.code] += 1
        headers = (
            ("reason", why.code.encode()),
            ("detail", why.detail.encode(errors="backslashreplace")),
            ("source_topic", record.topic.encode()),
            ("source_partition", str(record.partition).encode()),
            ("source_offset", str(record.offset).encode()),
            *record.headers,
        )
        effects.produce.append(
            Produce(self._topics.rejected, record.partition, record.key, record.value, headers)
        )
        if why.order_id is None:
            return
        decision = rejected_decision(
            order_id=why.order_id,
            customer_id=why.customer_id,
            code=why.code,
            text=REJECTION_CODES[why.code],
            content_digest=blake2b(record.value or b"", digest_size=16).digest(),
            policy_digest=self._policy.digest,
            source=_source(record),
        )
        effects.counts["decision_review"] += 1
        self._emit(record, encode(decision), why, effects)

    def _mind_the_breaker(self, passing: Sequence[object]) -> None:
        """Stop when rejects flood: most likely the shop changed its format, and a person must look."""
        if not self._reject_share:
            return
        self._recent.extend(isinstance(passed, Rejection) for passed in passing)
        rejected = sum(self._recent)
        if len(self._recent) == _RECENT and rejected > self._reject_share * _RECENT:
            raise Refused(
                f"{rejected} of the last {_RECENT} orders were rejected, more than reject_share="
                f"{self._reject_share} allows; see 'fraudstream dead-letters', mend the sender or raise the "
                "setting, then start the worker again"
            )


def _source(record: Record) -> Source:
    return Source.model_construct(
        topic=record.topic, partition=record.partition, offset=record.offset, others={}
    )
