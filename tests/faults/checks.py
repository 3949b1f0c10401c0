"""What must be true after the faults, asked of plain values: no broker, no clock.

The harness reads what is there and works out what should be; here the two are compared. Every
question answers with what is wrong, so that a clean run is one of empty answers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Answers(Generic[K]):
    """How the answers that were seen compare with those that were expected, by what was asked."""

    expected: int
    seen: int
    missing: tuple[K, ...]
    """Asked and never answered."""
    repeated: tuple[K, ...]
    """Answered more than once, whether or not the answers agree."""
    conflicting: tuple[K, ...]
    """Answered more than once, and not the same each time."""
    different: tuple[K, ...]
    """Answered, but not (or not only) as expected."""
    unknown: tuple[K, ...]
    """Answered and never asked."""

    def violations(self, what: str) -> dict[str, tuple[K, ...]]:
        """What is wrong, in words; nothing when every answer is there once and as expected."""
        found = {
            f"{what} missing": self.missing,
            f"{what} repeated": self.repeated,
            f"{what} conflicting": self.conflicting,
            f"{what} different": self.different,
            f"{what} unknown": self.unknown,
        }
        return {name: keys for name, keys in found.items() if keys}


def compare_answers(expected: Mapping[K, bytes | None], seen: Iterable[tuple[K, bytes | None]]) -> Answers[K]:
    """Compare what was answered, in any order, with the one answer that each question should have."""
    answers: dict[K, list[bytes | None]] = {}
    for key, value in seen:
        answers.setdefault(key, []).append(value)
    return Answers(
        expected=len(expected),
        seen=sum(map(len, answers.values())),
        missing=tuple(key for key in expected if key not in answers),
        repeated=tuple(key for key, values in answers.items() if len(values) > 1),
        conflicting=tuple(key for key, values in answers.items() if len(set(values)) > 1),
        different=tuple(
            key for key, values in answers.items() if key in expected and set(values) != {expected[key]}
        ),
        unknown=tuple(key for key in answers if key not in expected),
    )


def shared_names(seen: Iterable[tuple[K, str]]) -> tuple[str, ...]:
    """The ids that stand for more than one thing."""
    owners: dict[str, set[K]] = {}
    for key, name in seen:
        owners.setdefault(name, set()).add(key)
    return tuple(name for name, keys in owners.items() if len(keys) > 1)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One decision as the harness came to see it."""

    seen_at: float
    """When, in seconds since 1970."""
    partition: int
    arrived_at: float
    """When its order had arrived at the broker, in seconds since 1970."""
    worker: str
    offset: int = -1
    """Where the decision stands in its partition."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something done to a worker; `ended_at` is later than `at` only for a pause."""

    kind: str
    worker: str
    at: float
    ended_at: float
    in_flight: bool = False
    """Whether a transaction of the worker was surely open when it was struck."""

    @property
    def is_a_kill(self) -> bool:
        """Whether the worker ended without a word."""
        return self.kind in {"kill", "wipe"}


def owners_at(sightings: Sequence[Sighting], at: float) -> dict[int, str]:
    """Who had decided last in each partition at that time; sightings are in the order they were seen."""
    owners: dict[int, str] = {}
    for sighting in sightings:
        if sighting.seen_at > at:
            break
        owners[sighting.partition] = sighting.worker
    return owners


def lone_gaps(
    faults: Sequence[Fault],
    sightings: Sequence[Sighting],
    *,
    partitions: int,
    workers: int,
    alone_for: float,
    until: float,
) -> list[tuple[Fault, float]]:
    """For each lone kill, how long it was until every partition of the dead worker decided again.

    Only decisions of orders that arrived after the kill count: those before may have been committed
    and not yet been read. A kill is lone when the group had got over the fault before it (every
    partition decided something newer, every worker had a share) and no other fault came until
    `alone_for` seconds later, or until the gap had closed if that was sooner. A gap that never closed
    lasts until `until`.
    """
    gaps = []
    for number, fault in enumerate(faults):
        if not fault.is_a_kill:
            continue
        before = [sighting for sighting in sightings if sighting.seen_at <= fault.at]
        others = [other for position, other in enumerate(faults) if position != number]
        if any(other.at <= fault.at < other.ended_at for other in others):
            continue
        last = max((other.ended_at for other in others if other.ended_at <= fault.at), default=0.0)
        recovered = {sighting.partition for sighting in before if sighting.arrived_at > last}
        owners = owners_at(before, fault.at)
        if len(recovered) < partitions or len(set(owners.values())) < workers:
            continue
        closed: dict[int, float] = {}
        for sighting in sightings:
            if sighting.seen_at > fault.at and sighting.arrived_at > fault.at:
                closed.setdefault(sighting.partition, sighting.seen_at)
        lost = [partition for partition, owner in owners.items() if owner == fault.worker]
        gap = max((closed.get(partition, until) - fault.at for partition in lost), default=0.0)
        following = min((other.at for other in others if other.at >= fault.at), default=until + alone_for)
        if following - fault.at >= min(alone_for, gap):
            gaps.append((fault, gap))
    return gaps


def count_by(items: Iterable[K], name: Callable[[K], str]) -> dict[str, int]:
    """How many there are of each name, names in order."""
    return dict(sorted(Counter(name(item) for item in items).items()))
