"""Which published versions nothing needs any more: no alias, no service, no decision, no other model."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

import msgspec

from models.errors import RegistryError
from models.registry import Entry
from stream.control import ControlState, event_of
from stream.ports import TP, Record, Refused
from stream.recorded import Recorded, records_of
from stream.settings import Settings

__all__ = ["Judged", "has_lost_decisions", "judged", "named_in_control", "named_in_decisions"]


class _Ref(msgspec.Struct):
    name: str
    version: str


class _Decided(msgspec.Struct):
    model: _Ref | None = None


_decided: Final = msgspec.json.Decoder(_Decided).decode


class Judged(NamedTuple):
    """A version, and why it stays; empty where nothing needs it."""

    entry: Entry
    kept_for: str


def judged(
    entries: Sequence[Entry],
    *,
    decided: Collection[str],
    pinned: str,
    kept_since: date,
    served: Mapping[str, str],
) -> tuple[Judged, ...]:
    """Each version and whether it stays; those that may go come last, each before its submodels.

    `decided` are the `name@version` that decisions name, `pinned` the one in the setting model, `served`
    those that control names, and for what each is needed; versions trained on or after `kept_since` stay too.
    Raises RegistryError where a manifest can't be believed, because it would not say whose submodels it
    needs.
    """
    for entry in entries:
        if entry.manifest is None or entry.signature == "wrong":
            raise RegistryError(
                f"{entry.said} is not as it was published, so nobody knows what it needs; put it back from a "
                "copy or delete its folder, and try again (fraudstream models verify)"
            )
    kept = {
        entry.said: why
        for entry in entries
        if (why := _kept_for(entry, decided, pinned, kept_since) or served.get(entry.said, ""))
    }
    parents = {entry.said: entry.manifest.parents for entry in entries if entry.manifest is not None}
    asked = list(kept)
    while asked:
        child = asked.pop()
        for parent in parents.get(child, ()):
            if parent not in kept:
                kept[parent] = f"a submodel of {child}"
                asked.append(parent)
    stay = [Judged(entry, kept[entry.said]) for entry in entries if entry.said in kept]
    go = {entry.said: Judged(entry, "") for entry in entries if entry.said not in kept}
    return (*stay, *(go[each] for each in _children_first({said: parents[said] for said in go})))


def _kept_for(entry: Entry, decided: Collection[str], pinned: str, kept_since: date) -> str:
    if entry.is_champion:
        return "the champion"
    if entry.said == pinned:
        return "named by the setting model"
    if entry.said in decided:
        return "named by a decision"
    if entry.version[:10] >= kept_since.isoformat():
        return f"trained since {kept_since.isoformat()}"
    return ""


def _children_first(parents: Mapping[str, Sequence[str]]) -> Iterator[str]:
    left = dict(parents)
    while left:
        needed = {parent for each in left.values() for parent in each}
        free = [each for each in left if each not in needed]
        for each in free or list(left):  # a circle can't be published
            yield each
            del left[each]


def named_in_control(settings: Settings, recorded: Recorded, since: datetime) -> Mapping[str, str]:
    """By `name@version` why what control says needs a model: of each group that the topic speaks of.

    Needed is what is in service, what a rollback leads back to, and what was in service at any time since an
    instant: decisions of then are decided again by it, and retention may have taken them out of the topics
    whose archive has them. Raises Refused where a record can't be followed, for it may have put any model
    into service; TopicError, Unreachable.
    """
    topic = settings.topics.control
    recorded.partitions(topic)  # a missing topic is told, and not taken for one that says nothing
    records = list(records_of(recorded, (topic, 0), *recorded.bounds((topic, 0))))
    groups = {event.record.group for record in records if (event := event_of(record)) is not None}
    found: dict[str, str] = {}
    since_ms = _ms(since)
    for group in sorted(groups - {None} | {settings.group}, key=str):
        state = ControlState(str(group))
        for record in records:
            before, state = state.service, state.after(record)
            if state.service is not before and not _is_before(record, since_ms):
                found |= {each.said: f"in service since {since:%Y-%m-%d}" for each in before.served}
        if state.refusal:
            raise Refused(f"{state.refusal}; until then nobody knows which models are needed")
        found |= {each.said: "what a rollback leads back to" for each in state.service.past}
        found |= {each.said: "in service" for each in state.service.served}
    return found


def named_in_decisions(settings: Settings, recorded: Recorded, since: datetime) -> frozenset[str]:
    """The `name@version` of every model that decisions since an instant name, shadow decisions too.

    Raises TopicError, Unreachable.
    """
    found: set[str] = set()
    since_ms = _ms(since)
    for tp in _of_decisions(settings, recorded):
        found |= _named(records_of(recorded, tp, *recorded.bounds(tp)), since_ms)
    return frozenset(found)


def has_lost_decisions(settings: Settings, recorded: Recorded) -> bool:
    """Whether decisions were made that are no longer there, so that nobody can ask which models they name."""
    return any(recorded.bounds(tp)[0] > 0 for tp in _of_decisions(settings, recorded))


def _of_decisions(settings: Settings, recorded: Recorded) -> Iterator[TP]:
    for topic in (settings.topics.decisions, settings.topics.decisions_shadow):
        yield from ((topic, partition) for partition in range(recorded.partitions(topic)))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _is_before(record: Record, since_ms: int) -> bool:
    return 0 <= record.timestamp < since_ms  # an unknown time may be a recent one


def _named(records: Iterable[Record], since_ms: int) -> set[str]:
    found = set()
    for record in records:
        if record.value is None or _is_before(record, since_ms):
            continue
        try:
            model = _decided(record.value).model
        except (msgspec.DecodeError, UnicodeDecodeError):  # anyone may write to a topic
            continue
        if model is not None:
            found.add(f"{model.name}@{model.version}")
    return found
