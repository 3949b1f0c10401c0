"""The models in service: who decides which orders, who looks on, who stands by; a fold of control records.

One record is one state, so no move is ever half in force. Where nothing was ever said, or where nobody in
service is for an order, the model decides that the settings name.

Of the champions whose scope an order is in, the one with the most specific scope decides. A scope that
names a merchant is more specific than any that doesn't, then one that names a country, then a channel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import compress, product
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.decision import ModelRef
from models.errors import RegistryError
from models.policy import Policy
from models.registry import named

__all__ = [
    "DEPLOYED",
    "EVERYWHERE",
    "JUDGED",
    "KILL_OFF",
    "KILL_ON",
    "MOVES",
    "NOBODY",
    "NOTES",
    "PROMOTED",
    "REFUSED",
    "RETIRED",
    "RETRAINED",
    "ROLLED_BACK",
    "WHOLE_SHARE",
    "Kill",
    "Lineup",
    "Move",
    "Role",
    "Scope",
    "Served",
    "Service",
    "bucket_of",
]

DEPLOYED: Final = "model_deployed"
PROMOTED: Final = "model_promoted"
ROLLED_BACK: Final = "model_rolled_back"
RETIRED: Final = "model_retired"
KILL_ON: Final = "kill_switch_on"
KILL_OFF: Final = "kill_switch_off"
REFUSED: Final = "model_refused"
"""A model that was to be deployed and failed a check."""
RETRAINED: Final = "model_retrained"
"""A model was learned anew, and published or not."""
JUDGED: Final = "model_judged"
"""A model on trial was looked at, and nothing is to be moved yet."""

MOVES: Final = frozenset({DEPLOYED, PROMOTED, ROLLED_BACK, RETIRED, KILL_ON, KILL_OFF})
"""The kinds of control records that change the service."""

NOTES: Final = frozenset({REFUSED, RETRAINED, JUDGED})
"""The kinds that are kept for whoever asks, and change nothing."""

Role = Literal["champion", "challenger", "canary", "fallback"]
"""champion decides, a challenger's decisions go to the shadow, a canary decides for a share of the customers,
and a fallback decides where the champion can't be used."""

Kill = Literal["approve", "review", "fallback"]
"""What the kill switch does with every order."""

WHOLE_SHARE: Final = 10_000
"""A canary's share is counted in ten-thousandths of the customers."""

_DIGEST: Final = r"^[0-9a-f]{64}$"
_NAMES: Final = ("merchant", "country", "channel")
"""What a scope may name, the most specific first."""


class Scope(BaseModel):
    """Which orders: those with every value that is named, all of them where none is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    country: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")
    channel: str | None = Field(default=None, min_length=1, max_length=256)
    merchant: str | None = Field(default=None, min_length=1, max_length=256)

    @property
    def values(self) -> tuple[str | None, ...]:
        """Merchant, country and channel."""
        return self.merchant, self.country, self.channel

    @property
    def is_everywhere(self) -> bool:
        """Whether all orders are in it."""
        return not any(self.values)

    def __str__(self) -> str:
        """`country=DE,channel=web`, or `everywhere`."""
        told = [
            f"{name}={value}" for name in ("country", "channel", "merchant") if (value := getattr(self, name))
        ]
        return ",".join(told) or "everywhere"


EVERYWHERE: Final = Scope()


class Move(BaseModel):
    """What a control record about a model says beside who, when and why."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str | None = None
    """None where a rollback goes back to the model that the settings name."""
    version: str | None = None
    digest: str | None = Field(default=None, pattern=_DIGEST)
    """Of the model's manifest: what was checked, and so what is served."""
    role: Role = "champion"
    share: int | None = Field(default=None, ge=1, le=WHOLE_SHARE)
    scope: Scope = EVERYWHERE
    review_at: float | None = None
    decline_at: float | None = None
    replaces: str | None = None
    """`name@version` of whoever had the place before; None where nobody had."""
    expects: int | None = Field(default=None, ge=0)
    """`since` of the service that the move was decided on: where another one is in force by then, the move
    is void. None: it holds whatever is in force."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.role == "canary") != (self.share is not None):
            raise ValueError("share goes with the role canary, and with no other")
        if self.name is not None:
            try:
                named(f"{self.name}@{self.version}")
            except RegistryError as error:
                raise ValueError(str(error)) from None
            if self.digest is None or self.policy is None:
                raise ValueError("a model comes with its digest and its thresholds")
        return self

    @property
    def policy(self) -> Policy | None:
        """The thresholds; None where none are told. Raises pydantic's ValidationError for wrong ones."""
        if self.review_at is None or self.decline_at is None:
            return None
        return Policy(review_at=self.review_at, decline_at=self.decline_at)


class _Switch(BaseModel):
    """What a control record about the kill switch says."""

    model_config = ConfigDict(frozen=True, strict=True)

    action: Kill


@dataclass(frozen=True, slots=True)
class Served:
    """A model in service: in which role, for which orders, with which thresholds."""

    ref: ModelRef
    role: Role
    scope: Scope
    policy: Policy
    share: int | None
    """Of a canary: how many of 10,000 customers it decides for."""
    offset: int
    """The control record that put it there."""

    @property
    def said(self) -> str:
        """`name@version`."""
        return f"{self.ref.name}@{self.ref.version}"

    def __str__(self) -> str:
        """`order_risk@2026-02-14.3f9c, champion of country=DE`."""
        share = "" if self.share is None else f" for {self.share / 100:g} % of the customers"
        where = "" if self.scope.is_everywhere else f" of {self.scope}"
        policy = f"review from {self.policy.review_at:g}, decline from {self.policy.decline_at:g}"
        return f"{self.said}, {self.role}{where}{share} ({policy})"

    def shown(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "model": self.said,
            "digest": self.ref.digest,
            "role": self.role,
            "scope": self.scope.model_dump(exclude_none=True),
            "share": self.share,
            "review_at": self.policy.review_at,
            "decline_at": self.policy.decline_at,
            "policy": self.policy.digest,
            "since_offset": self.offset,
        }


class Lineup(NamedTuple):
    """Who is there for orders of one country, channel and merchant."""

    levels: tuple[tuple[Served | None, Served | None], ...]
    """Canary and champion of each scope that has one of them, the most specific first."""
    fallbacks: tuple[Served, ...]
    """The most specific first."""
    challengers: tuple[Served, ...]

    def deciders(self, bucket: int) -> tuple[Served | None, ...]:
        """Who is to decide for a customer in this bucket, and who instead where one can't be used.

        None is the model that the settings name. After a canary comes whoever would decide without it, then
        the fallbacks, then the champions of wider scopes.
        """
        canaries: list[Served] = []
        champions: list[Served | None] = []
        for canary, champion in self.levels:
            if not canaries and not champions and canary is not None and bucket < (canary.share or 0):
                canaries.append(canary)
            if champion is not None:
                champions.append(champion)
        # the last is of the widest scope: where that is everywhere, the settings' model is out of service
        if not (champions and champions[-1] is not None and champions[-1].scope.is_everywhere):
            champions.append(None)
        return (*canaries, champions[0], *self.fallbacks, *champions[1:])


@dataclass(frozen=True, slots=True)
class Service:
    """All models in service after the first records of the control topic."""

    served: tuple[Served, ...] = ()
    kill: Kill | None = None
    """What the kill switch does with every order; None while it is off."""
    since: int = 0
    """The control offset from which on this is in force."""
    past: tuple[Served, ...] = field(default=(), compare=False)
    """Champions that others took the place of, the oldest first: where a rollback goes back to. It decides
    nothing, and of services that are no longer in force it is not kept."""

    def deciding(self, scope: Scope) -> Served | None:
        """The champion of a scope, or of the next wider one that has any; None for the settings' model."""
        levels = self.lineup(*scope.values).levels
        return next((champion for _, champion in levels if champion is not None), None)

    def after(self, kind: str, told: Mapping[str, Any], offset: int) -> "Service":
        """The service after a move, itself where the move is void. Raises ValueError for what is no move."""
        since = offset + 1
        if kind == KILL_ON:
            return replace(self, kill=_Switch.model_validate(told).action, since=since)
        if kind == KILL_OFF:
            return replace(self, kill=None, since=since)
        move = Move.model_validate(told)
        if move.expects not in {None, self.since}:
            return self
        if kind == RETIRED:
            return replace(self._without(move), since=since)
        if move.name is None:
            if kind != ROLLED_BACK:
                raise ValueError("only a rollback may name no model")
            return replace(
                self,
                since=since,
                served=tuple(each for each in self.served if not _is_at(each, "champion", move.scope)),
                past=tuple(each for each in self.past if each.scope != move.scope),
            )
        return replace(self._with(kind, move, offset), since=since)

    def _with(self, kind: str, move: Move, offset: int) -> "Service":
        assert move.name is not None and move.version is not None and move.digest is not None  # noqa: S101, PT018
        policy = move.policy
        assert policy is not None  # noqa: S101 - Move has looked
        ref = ModelRef(name=move.name, version=move.version, digest=move.digest)
        role: Role = move.role if kind == DEPLOYED else "champion"
        put = Served(ref, role, move.scope, policy, move.share if role == "canary" else None, offset)
        stay, past = [], list(self.past)
        for each in self.served:
            if each.scope != move.scope:
                stay.append(each)
            elif role == "challenger":
                if each.role != role or each.said != put.said:
                    stay.append(each)
            elif each.role == role:
                if role == "champion" and kind != ROLLED_BACK and each.ref != ref:
                    past.append(each)
            elif role != "champion" or each.role == "fallback" or each.said != put.said:
                # what becomes champion neither looks on nor is on trial any more where it decides
                stay.append(each)
        if kind == ROLLED_BACK:
            past = _before(past, put)
        return replace(self, served=(*stay, put), past=tuple(past))

    def _without(self, move: Move) -> "Service":
        gone = [
            each
            for each in self.served
            if each.said == f"{move.name}@{move.version}" and _is_at(each, move.role, move.scope)
        ]
        past = self.past
        if any(each.role == "champion" for each in gone):
            past = tuple(each for each in past if each.scope != move.scope)
        return replace(self, served=tuple(each for each in self.served if each not in gone), past=past)

    def champion(self, scope: Scope) -> Served | None:
        """The champion of exactly this scope."""
        return next((each for each in self.served if _is_at(each, "champion", scope)), None)

    def before(self, scope: Scope) -> Served | None:
        """Whom the champion of exactly this scope took the place of."""
        return next((each for each in reversed(self.past) if each.scope == scope), None)

    @property
    def asks(self) -> tuple[bool, bool, bool]:
        """Whether any scope names a merchant, a country, a channel: what of an order decides who decides."""
        return tuple(any(each.scope.values[at] for each in self.served) for at in range(3))  # type: ignore[return-value]

    @property
    def is_for_all(self) -> bool:
        """Whether there is a champion for every order, so that the model of the settings decides none."""
        return self.champion(EVERYWHERE) is not None

    def lineup(self, merchant: str | None, country: str | None, channel: str | None) -> Lineup:
        """Who is there for the orders with these values."""
        levels: list[tuple[Served | None, Served | None]] = []
        fallbacks: list[Served] = []
        challengers: list[Served] = []
        for values in _scopes_of(merchant, country, channel):
            here = {
                each.role: each
                for each in self.served
                if each.scope.values == values and each.role != "challenger"
            }
            if "champion" in here or "canary" in here:
                levels.append((here.get("canary"), here.get("champion")))
            if "fallback" in here:
                fallbacks.append(here["fallback"])
            challengers += [
                each for each in self.served if each.role == "challenger" and each.scope.values == values
            ]
        return Lineup(tuple(levels), tuple(fallbacks), tuple(challengers))

    def said(self) -> Iterator[str]:
        """What is in service, in a line for each thing; nothing where nothing was said."""
        if self.kill is not None:
            what = {"approve": "every order is approved", "review": "every order is reviewed"}
            yield f"the kill switch is on: {what.get(self.kill, 'the fallback model decides every order')}"
        for each in self.served:
            yield f"in service: {each}"


NOBODY: Final = Service()


def _is_at(served: Served, role: Role, scope: Scope) -> bool:
    return served.role == role and served.scope == scope


def _before(past: list[Served], put: Served) -> list[Served]:
    """What a rollback can still go back to, once this one is champion again."""
    of_scope = [at for at, each in enumerate(past) if each.scope == put.scope]
    back_to = next((at for at in reversed(of_scope) if past[at].ref == put.ref), None)
    if back_to is None:
        return past
    return [each for at, each in enumerate(past) if at < back_to or each.scope != put.scope]


def _scopes_of(
    merchant: str | None, country: str | None, channel: str | None
) -> Iterator[tuple[str | None, ...]]:
    """The scopes that an order is in, the most specific first."""
    values = (merchant, country, channel)
    for named_here in product((True, False), repeat=len(values)):
        if None not in compress(values, named_here):
            yield tuple(
                value if is_named else None for value, is_named in zip(values, named_here, strict=True)
            )


def bucket_of(customer: str) -> int:
    """Which of 10,000 buckets a customer is in, for ever: a canary decides for the first ones, its share."""
    return int.from_bytes(blake2b(customer.encode(), digest_size=8, person=b"canary").digest()) % WHOLE_SHARE
