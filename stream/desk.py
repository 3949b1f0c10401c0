"""The desk: what a batch of orders changes and emits, as a value; nothing has happened yet.

An order's way through it: decode, recall its customer, compute its features, remember it; then the
whole batch is scored at once and decided order by order.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Final, NamedTuple, cast
from uuid import UUID

from features.decode import REJECTION_CODES, Rejection
from features.events import Order, microseconds
from features.fast import Told
from features.history import Row, RowVersionError
from features.plan import Plan
from features.remembered import told
from features.revisions import MOST_REVISIONS, Arrival, Revision, Revisions, ids_of
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
from stream.control import ControlState
from stream.decoder import CONTRACT, Decoder
from stream.keeping import FOR_EVER, ORDER, ROW, Horizons
from stream.ports import (
    NO_POSITIONS,
    NO_WATERMARKS,
    Effects,
    Headers,
    Positions,
    Produce,
    Recall,
    Record,
    Refused,
    Watermarks,
)
from stream.settings import Topics

__all__ = [
    "KINDS",
    "MODE",
    "Kept",
    "ScoringDesk",
    "customer_key",
    "is_history",
    "kept_of",
    "order_key",
    "partition_of",
    "shorten",
]

log = logging.getLogger("fraudstream.desk")

MODE: Final = "mode"
"""The header of an order that says `history`: remember it, never decide it. In the header of a decision it
says `observe`: nobody should act on this."""

_HISTORY: Final = (MODE, b"history")

KINDS: Final = ("approximate", "guest", "late", "revised", "revised_folded", "test")
"""What an order may be besides decided, remembered or rejected (docs/history.md); counted as `orders_<kind>`.
"""

_ENTITIES: Final = ("customer",)
_RECENT: Final = 1_000
_WHOLE_DECISIONS: Final = 8
"""Of how many of an order's revisions the decision is kept whole; of the rest in brief."""

_KIB: Final = 1024
_LARGEST_KEY: Final = 64 * _KIB
_LARGEST_HEADERS: Final = 128 * _KIB
_LARGEST_VALUE: Final = 1536 * _KIB
_VALUE_CUT_TO: Final = 1024 * _KIB


def customer_key(customer_id: str) -> bytes:
    """The key of a customer's row, in the store and in the changelog."""
    return ROW + customer_id.encode()


def order_key(order_id: str) -> bytes:
    """The key under which an order's revisions and their decisions are remembered."""
    return ORDER + order_id.encode()


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition a key belongs to: murmur2, as Java, aiokafka and librdkafka's murmur2_random do."""
    from aiokafka.partitioner import murmur2  # noqa: PLC0415 (imports a whole client for one function)

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


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


class _Batch:
    """What is being built up for one batch: the touched rows over those recalled, and the emissions.

    What lies too far before the watermark is absent, be it still stored or not: when a key is really
    removed must not be seen in any decision. The watermark advances order by order.
    """

    def __init__(self, recall: Recall, row_limit: int, horizons: Horizons, watermarks: Watermarks) -> None:
        self._recall = recall
        self._row_limit = row_limit
        self._horizons = horizons
        self._watermarks = dict(watermarks)
        self._rows: dict[tuple[int, str], Row] = {}
        self._orders: dict[tuple[int, bytes], Revisions] = {}
        # dicts, not sets: the order of the changelog must not depend on a hash
        self._changed_rows: dict[tuple[int, str], Row] = {}
        self._changed_orders: dict[tuple[int, bytes], Revisions] = {}
        self.effects = Effects()

    def row(self, partition: int, customer_id: str) -> Row:
        """The customer's row, as this batch has left it so far."""
        at = (partition, customer_id)
        row = self._rows.get(at)
        if row is None:
            kept = self._recall(partition, customer_key(customer_id))
            row = Row(self._row_limit) if kept is None else Row.decode(kept, self._row_limit)
            self._rows[at] = row
        if self._is_gone(partition, row.last_at, self._horizons.rows):
            row = self._rows[at] = Row(self._row_limit)
        return row

    def revisions(self, at: tuple[int, bytes]) -> Revisions:
        """What is known of the order, as this batch has left it so far."""
        revisions = self._orders.get(at)
        if revisions is None:
            kept = self._recall(*at)
            revisions = Revisions() if kept is None else Revisions.decode(kept)
            self._orders[at] = revisions
        if self._is_gone(at[0], revisions.last_at, self._horizons.orders):
            revisions = self._orders[at] = Revisions()
        return revisions

    def _is_gone(self, partition: int, last_at: int | None, kept_for: int | None) -> bool:
        """Whether what was last heard of then lies too far back; asked of every order, so without detours."""
        if last_at is None or kept_for is None:
            return False
        watermark = self._watermarks.get(partition)
        return watermark is not None and last_at < watermark - kept_for

    def accept(self, partition: int, order: Order | Told) -> None:
        """Let event time advance to the order's."""
        at, watermark = microseconds(order.placed_at), self._watermarks.get(partition)
        if watermark is None or at > watermark:
            self._watermarks[partition] = self.effects.watermarks[partition] = at

    def arrive(
        self, at: tuple[int, bytes], revisions: Revisions, order: Order | Told, content: bytes
    ) -> Arrival:
        """Note a revision that was not seen before, and take out of history what it replaces."""
        arrival = revisions.arrive(order, content, ids_of(order, _ENTITIES))
        self.touch(at, revisions)
        forgotten, partition = arrival.forgotten, at[0]
        if forgotten is not None:
            ((_, customer_id),) = forgotten.ids
            row = self.row(partition, customer_id)
            if row.forget(order.order_id, forgotten.placed_at):
                self._changed_rows[partition, customer_id] = row
                self.effects.counts["orders_revised"] += 1
            else:
                self.effects.counts["orders_revised_folded"] += 1
        elif arrival.held is not None and self._is_gone(partition, revisions.last_at, self._horizons.orders):
            # too old to be known for a resend: should it be one, it takes its own place in history
            row = self.row(partition, order.key)
            if row.forget(order.order_id, order.placed_at):
                self._changed_rows[partition, order.key] = row
        return arrival

    def touch(self, at: tuple[int, bytes], revisions: Revisions) -> None:
        """Note that what is known of the order changes with this batch."""
        self._changed_orders[at] = revisions

    def remember(self, partition: int, order: Order | Told, said: bytes | None) -> None:
        """Count the order in its customer's history."""
        customer_id = order.key
        row = self.row(partition, customer_id)
        if row.remember(order, said):
            self.effects.counts["orders_late"] += 1
        self._changed_rows[partition, customer_id] = row

    def done(self) -> Effects:
        """The effects, with every row and order that was changed."""
        rows = self.effects.rows
        for (partition, customer_id), row in self._changed_rows.items():
            # what a revision left without any event is as no row, and had nothing to be forgotten after
            is_empty = row.first_at is None and row.last_at is None
            rows.setdefault(partition, {})[customer_key(customer_id)] = None if is_empty else row.encode()
        for (partition, key), revisions in self._changed_orders.items():
            rows.setdefault(partition, {})[key] = revisions.encode()
        return self.effects


class _Under(NamedTuple):
    """What the control state in force means for a batch."""

    state: ControlState | None
    others: dict[str, int]
    """How far every other input was read: part of each decision, so that it is known what was in force."""
    observing: bool
    topic: str
    """Where decisions go."""
    headers: Headers


class _Pending:
    """An order on its way through the batch: a vector to be scored, or a decision to be repeated."""

    __slots__ = ("order", "revisions", "seen", "source", "supersedes", "vector")

    def __init__(
        self,
        order: Order | Told,
        revisions: Revisions,
        seen: Revision,
        source: Source,
        *,
        vector: tuple[float | None, ...] | None = None,
        supersedes: UUID | None = None,
    ) -> None:
        self.order = order
        self.revisions = revisions
        """All that is known of the order."""
        self.seen = seen
        self.source = source
        self.vector = vector
        """None for a resend: it is not scored again."""
        self.supersedes = supersedes
        """The decision about the revision that this one takes the place of."""


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
        in_force: Callable[[], ControlState] | None = None,
        observe: bool = False,
        decoder: Decoder = CONTRACT,
        horizons: Horizons = FOR_EVER,
    ) -> None:
        """Decide under the control state that `in_force` answers at the beginning of each batch.

        `observe` is the mode of a group for which nothing was recorded. Without `in_force` there is no
        control topic.
        """
        self._in_force = in_force
        self._observe = observe
        self._decoder = decoder
        self._scorer = scorer
        self._names = tuple(feature.name for feature in scorer.features)
        self._compute = Plan(scorer.features)
        self._policy = policy
        self._topics = topics
        self._partitions = partitions
        self._row_limit = row_limit
        self._horizons = horizons
        self._ahead_by_at_most = ahead_by_at_most
        self._reject_share = reject_share
        self._headers = headers
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        """Whether each of the last live records was rejected; of committed batches only."""
        self._under = self._meaning(None)

    @property
    def share_rejected(self) -> float:
        """The share of the last 1,000 live records that was rejected; any thread may ask."""
        recent = list(self._recent)
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def observing(self) -> bool:
        """Whether the next batch is decided into the shadow; any thread may ask."""
        return self._observes(None if self._in_force is None else self._in_force())

    def decide(
        self,
        records: Sequence[Record],
        recall: Recall,
        watermarks: Watermarks = NO_WATERMARKS,
        positions: Positions = NO_POSITIONS,  # noqa: ARG002 (of one input, there are no others)
    ) -> Effects:
        """What these records change and emit; trying it again changes nothing and says the same.

        Raises Refused when a row or a control record is of a newer version; the effects do, once committed,
        when rejects flood; anything else is a mistake of ours.
        """
        self._look_at_control()
        batch = _Batch(recall, self._row_limit, self._horizons, watermarks)
        counts = batch.effects.counts
        # one entry a record, in log order: decisions come out in the order the orders went in
        try:
            passing = [self._take(record, batch) for record in records]
        except RowVersionError as error:
            # no fault of the order's: setting it aside would lose it to the version that can read the row
            raise Refused(str(error)) from error
        # of a past that was accepted nothing is said
        heard = [
            (record, passed) for record, passed in zip(records, passing, strict=True) if passed is not None
        ]
        tally = [isinstance(passed, Rejection) for record, passed in heard if not is_history(record)]
        batch.effects.committed = partial(self._mind_the_breaker, tally)
        vectors = [p.vector for _, p in heard if isinstance(p, _Pending) and p.vector is not None]
        scores = iter(self._scorer.score(vectors))
        for record, passed in heard:
            if isinstance(passed, Rejection):
                self._reject(record, passed, batch.effects)
            elif passed.vector is None:
                counts["decision_repeated"] += 1
                self._emit(record, self._again(passed), passed.order, batch.effects)
            else:
                value = self._decided(passed, next(scores), counts)
                self._emit(record, value, passed.order, batch.effects)
        return batch.done()

    def set_aside(self, record: Record, recall: Recall) -> Effects:  # noqa: ARG002 (its rows may be the cause)
        """Dead-letter a record that stopped the worker again and again, with a REVIEW decision."""
        self._look_at_control()
        effects = Effects()
        named = self._decoder.identity(record.value)
        why = Rejection(
            "scorer_error",
            "deciding this order stopped the worker repeatedly; report it with this record",
            named.order_id,
            named.customer_id,
            named.revision,
        )
        self._reject(record, why, effects)
        return effects

    def _look_at_control(self) -> None:
        """Take on what is in force now; between batches, so that one batch is decided under one state."""
        if self._in_force is not None and (state := self._in_force()) is not self._under.state:
            if state.refusal:
                raise Refused(state.refusal)
            self._under = self._meaning(state)

    def _observes(self, state: ControlState | None) -> bool:
        return self._observe if state is None else state.observing(unless_told=self._observe)

    def _meaning(self, state: ControlState | None) -> _Under:
        observing = self._observes(state)
        return _Under(
            state,
            {} if state is None else {self._topics.control: state.next_offset},
            observing,
            self._topics.decisions_shadow if observing else self._topics.decisions,
            ((MODE, b"observe"), *self._headers) if observing else self._headers,
        )

    def _take(self, record: Record, batch: _Batch) -> _Pending | Rejection | None:
        """Recall, compute, remember: everything about an order that needs its past."""
        order = self._decoder.order(
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
        only_history = is_history(record)
        content = order.content_digest
        at = (record.partition, order_key(order.order_id))
        revisions = batch.revisions(at)
        seen = revisions.of(order.revision)
        if seen is not None and seen.content != content:
            return _rejected(
                order,
                "conflicting_content",
                f"order_id and revision {order.revision} came before with other content; "
                "send a changed order with a higher revision",
            )
        observing = self._under.observing
        if seen is not None and (only_history or revisions.is_decided(seen, observing=observing)):
            # a resend counts once, and hears again what it heard the first time
            return None if only_history else _Pending(order, revisions, seen, self._source(record))
        if seen is None and revisions.is_full:
            return _rejected(
                order,
                "too_many_revisions",
                f"$.revision: expected at most {MOST_REVISIONS} revisions of an order, got another; "
                "send it as a new order",
            )
        arrival = None
        if seen is None:
            arrival = batch.arrive(at, revisions, order, content)
            seen = arrival.seen
            if order.test:
                counts["orders_test"] += 1
            if order.customer_id is None:
                counts["orders_guest"] += 1
        pending = said = None
        if only_history:
            counts["orders_remembered"] += 1
        else:
            row = None if order.customer_id is None else batch.row(record.partition, order.customer_id)
            history = None if row is None else row.as_of(order.placed_at)
            # either kind of order has the fields that features read
            said = None if history is None else told(order)
            vector = self._compute(cast("Order", order), {"customer": history}, said)
            if history is not None and not history.is_exact:
                counts["orders_approximate"] += 1
            # asked on arrival: a revision known from history may be decided later, even in the same batch
            superseded = revisions.superseded_by(seen, observing=observing)
            # named at once, so that a resend in this very batch is known for one
            source = self._source(record)
            named = self._id_of(order, content, source).bytes
            revisions.decide(seen, named, observing=observing)
            batch.touch(at, revisions)
            pending = _Pending(
                order,
                revisions,
                seen,
                source,
                vector=vector,
                supersedes=None if superseded is None else UUID(bytes=superseded.decision_id),
            )
        if arrival is not None and arrival.held is not None:
            batch.remember(record.partition, order, said)  # after compute: never part of its own past
        batch.accept(record.partition, order)  # last: it is decided with what was known before it
        return pending

    def _id_of(self, order: Order | Told, content: bytes, source: Source) -> UUID:
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
        decision = scored_decision(
            decision_id=UUID(bytes=seen.decision_id),
            order_id=order.order_id,
            revision=order.revision,
            customer_id=order.customer_id,
            action=action,
            p_fraud=scored.p_fraud,
            reasons=scored.reasons,
            model=self._scorer.ref,
            policy_digest=self._policy.digest,
            features=dict(zip(self._names, pending.vector or (), strict=True)),
            imputed=scored.imputed,
            source=pending.source,
            supersedes=pending.supersedes,
        )
        seen.decision = value = encode(decision)
        # here and not when the batch is done: what a resend hears must not depend on batches
        whole = [each for each in pending.revisions.seen if each.decision and not each.is_brief]
        if len(whole) > _WHOLE_DECISIONS:
            shorten(min(whole, key=lambda each: each.revision))
        return value

    def _again(self, pending: _Pending) -> bytes:
        """The decision an order got the first time, under an id of its own.

        Of a revision that many newer ones followed it is without features and reasons.
        """
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

    def _emit(self, record: Record, value: bytes, order: Order | Told | Rejection, effects: Effects) -> None:
        under = self._under
        effects.counts["decisions"] += 1
        if under.observing:
            effects.counts["decisions_observed"] += 1
        order_id = order.order_id or ""
        headers = (
            ("order_id", order_id.encode()),
            ("order_arrived_at", str(record.timestamp).encode()),
            *under.headers,
        )
        # the order's own key: a rejected record may have come under one that is too large to pass on
        key = (order.customer_id or order_id).encode()
        effects.produce.append(Produce(under.topic, record.partition, key, value, headers))

    def _reject(self, record: Record, why: Rejection, effects: Effects) -> None:
        """Keep the record with its reason and, where its order can be named, ask for a review.

        What is only to be remembered is never reviewed: nobody waits for a decision about the past.
        """
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
        if why.order_id is None or is_history(record):
            return
        decision = rejected_decision(
            order_id=why.order_id,
            revision=why.revision or 0,
            customer_id=why.customer_id,
            code=why.code,
            text=REJECTION_CODES[why.code],
            content_digest=blake2b(record.value or b"", digest_size=16).digest(),
            policy_digest=self._policy.digest,
            source=self._source(record),
        )
        effects.counts["decision_review"] += 1
        self._emit(record, encode(decision), why, effects)

    def _source(self, record: Record) -> Source:
        return Source.model_construct(
            topic=record.topic, partition=record.partition, offset=record.offset, others=self._under.others
        )

    def _mind_the_breaker(self, tally: Sequence[bool]) -> None:
        """Stop when rejects flood: most likely the shop changed its format, and a person must look.

        Asked once a batch is committed, so that one tried again does not count twice.
        """
        self._recent.extend(tally)
        if not self._reject_share:
            return
        rejected = sum(self._recent)
        if len(self._recent) == _RECENT and rejected > self._reject_share * _RECENT:
            raise Refused(
                f"{rejected} of the last {_RECENT} orders were rejected, more than reject_share="
                f"{self._reject_share} allows; see why in topic '{self._topics.rejected}', mend the sender "
                "or raise the setting, then start the worker again"
            )


def is_history(record: Record) -> bool:
    """Whether the order is only to be remembered, never decided."""
    return _HISTORY in record.headers


def _rejected(order: Order | Told, code: str, detail: str) -> Rejection:
    return Rejection(code, detail, order.order_id, order.customer_id, order.revision)


def shorten(seen: Revision) -> None:
    """Keep of a decision what was decided, and not what it was decided from."""
    decision = decode_decision(seen.decision)
    brief = decision.model_copy(update={"features": {}, "imputed": (), "reasons": ()})
    seen.decision, seen.is_brief = encode(brief), True
