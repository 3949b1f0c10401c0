"""What was decided about an order, why, and by which model and policy: contract `Decision` v1.

A decision holds only what the order's recorded past determines, so that replaying the past gives the
same bytes. What varies between runs (worker, latency, software) travels in message headers.
"""

import hashlib
from functools import lru_cache
from typing import Final, Literal, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.policy import Action, score_of

MOST_REASONS: Final = 5
_IDS_OF_DECISIONS: Final = UUID(
    "8f3c1c5e-6a0b-5d5b-9a57-0f6c2f1d7e44"
).bytes  # fixed for life, or ids would change


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Reason(_Contract):
    """One reason an order looked risky: a stable code, an analyst's text and the feature behind it."""

    code: str = Field(min_length=1, max_length=128)
    text: str
    feature: str | None = None


class ModelRef(_Contract):
    """Which model decided: its name, its version and the digest of its manifest."""

    name: str
    version: str
    digest: str


class Source(_Contract):
    """Where the order stood in the log, and how far every other input had been read by then."""

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    others: dict[str, int] = {}


class Decision(_Contract):
    """What was decided about one revision of an order.

    `model`, `p_fraud` and `score` are None together: nobody scored the order (it could not be read).
    A feature of None was unknown and is named in `imputed` if a model needed it.
    """

    schema_version: Literal[1] = 1
    decision_id: UUID
    order_id: str
    revision: int = Field(default=0, ge=0)
    customer_id: str | None = None
    action: Action
    p_fraud: float | None = Field(default=None, ge=0.0, le=1.0)
    score: int | None = Field(default=None, ge=0, le=1000)
    reasons: tuple[Reason, ...] = Field(default=(), max_length=MOST_REASONS)
    model: ModelRef | None = None
    policy: str
    features: dict[str, float | None] = {}
    imputed: tuple[str, ...] = ()
    repeat_of: UUID | None = None
    supersedes: UUID | None = None
    source: Source

    @model_validator(mode="after")
    def _scored_or_not(self) -> Self:
        if len({self.model is None, self.p_fraud is None, self.score is None}) != 1:
            message = "model, p_fraud and score come together: give all three, or none for an unscored order"
            raise ValueError(message)
        if self.p_fraud is not None and self.score != score_of(self.p_fraud):
            message = f"score={self.score} is not the score of p_fraud={self.p_fraud}; use score_of(p_fraud)"
            raise ValueError(message)
        return self


_ALL_FIELDS: Final = set(Decision.model_fields)
_set: Final = object.__setattr__


def decision_id(
    *,
    order_id: str,
    revision: int,
    content_digest: bytes,
    model_digest: str,
    policy_digest: str,
    source: Source,
) -> UUID:
    """The name of a decision: a uuid5 of everything that determines it.

    The same order, decided again by the same model and policy at the same place of the log, has the same
    id; an id seen twice is therefore the same decision seen twice.
    """
    named = (
        # lengths first: no two different lists of parts may read the same
        f"{len(order_id)}:{order_id},{revision},{content_digest.hex()},{len(model_digest)}:{model_digest},"
        f"{len(policy_digest)}:{policy_digest},{len(source.topic)}:{source.topic},{source.partition},{source.offset}"
    )
    if source.others:
        named += _read_so_far(tuple(source.others.items()))
    # what uuid.uuid5 computes, without building the namespace anew for every order
    name = hashlib.sha1(_IDS_OF_DECISIONS + named.encode(), usedforsecurity=False).digest()[:16]
    return UUID(bytes=name, version=5)


@lru_cache(maxsize=64)  # pure, and the same for whole batches
def _read_so_far(others: tuple[tuple[str, int], ...]) -> str:
    return "".join(f",{len(topic)}:{topic},{read}" for topic, read in sorted(others))


def scored_decision(
    *,
    decision_id: UUID,
    order_id: str,
    revision: int,
    customer_id: str | None,
    action: Action,
    p_fraud: float,
    reasons: tuple[Reason, ...],
    model: ModelRef,
    policy_digest: str,
    features: dict[str, float | None],
    imputed: tuple[str, ...],
    source: Source,
    repeat_of: UUID | None = None,
    supersedes: UUID | None = None,
) -> Decision:
    """The decision about an order that a model scored, built without validating twice.

    `decision_id` is what the function of that name says of it.
    Its parts come from types that have checked themselves (`Order`, `Scored`, `Policy`); a test holds
    that `Decision` would have accepted them.
    """
    decided = Decision.__new__(Decision)
    # What Decision.model_construct does, in 2 us instead of 12: this is the path of every order.
    _set(decided, "__pydantic_fields_set__", _ALL_FIELDS)
    _set(decided, "__pydantic_extra__", None)
    _set(decided, "__pydantic_private__", None)
    _set(
        decided,
        "__dict__",
        {
            "schema_version": 1,
            "decision_id": decision_id,
            "order_id": order_id,
            "revision": revision,
            "customer_id": customer_id,
            "action": action,
            "p_fraud": p_fraud,
            "score": score_of(p_fraud),
            "reasons": reasons,
            "model": model,
            "policy": policy_digest,
            "features": features,
            "imputed": imputed,
            "repeat_of": repeat_of,
            "supersedes": supersedes,
            "source": source,
        },
    )
    return decided


def rejected_decision(
    *,
    order_id: str,
    customer_id: str | None,
    code: str,
    text: str,
    content_digest: bytes,
    policy_digest: str,
    source: Source,
    revision: int = 0,
) -> Decision:
    """The REVIEW decision about an order that no model could score, with the code of its rejection.

    `content_digest` is of whatever arrived: the raw bytes if the order could not be read.
    """
    return Decision(
        decision_id=decision_id(
            order_id=order_id,
            revision=revision,
            content_digest=content_digest,
            model_digest="",
            policy_digest=policy_digest,
            source=source,
        ),
        order_id=order_id,
        revision=revision,
        customer_id=customer_id,
        action=Action.REVIEW,
        reasons=(Reason(code=code, text=text),),
        policy=policy_digest,
        source=source,
    )


def encode(decision: Decision) -> bytes:
    """The decision as canonical JSON: equal decisions give equal bytes.

    Keys are sorted, numbers in their shortest exact form, minus zero is zero. A test holds this equal to
    what pydantic writes for the contract.
    """
    model = decision.model
    source = decision.source
    p_fraud = decision.p_fraud
    return orjson.dumps(
        {
            "schema_version": decision.schema_version,
            "decision_id": decision.decision_id,
            "order_id": decision.order_id,
            "revision": decision.revision,
            "customer_id": decision.customer_id,
            "action": decision.action.value,
            "p_fraud": None if p_fraud is None else p_fraud + 0.0,
            "score": decision.score,
            "reasons": [{"code": r.code, "feature": r.feature, "text": r.text} for r in decision.reasons],
            "model": model and {"digest": model.digest, "name": model.name, "version": model.version},
            "policy": decision.policy,
            # + 0.0: minus zero equals zero and 1 equals 1.0, so each pair must be written alike
            "features": {k: None if v is None else v + 0.0 for k, v in decision.features.items()},
            "imputed": decision.imputed,
            "repeat_of": decision.repeat_of,
            "supersedes": decision.supersedes,
            "source": {
                "topic": source.topic,
                "partition": source.partition,
                "offset": source.offset,
                "others": source.others,
            },
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode_decision(data: bytes) -> Decision:
    """The decision that `encode` wrote; raises pydantic's ValidationError for anything else."""
    return Decision.model_validate_json(data)
