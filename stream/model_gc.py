"""Which published versions nothing needs any more: no alias, no decision, no other model."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

import msgspec

from models.errors import RegistryError
from models.registry import Entry
from stream.ports import Record
from stream.recorded import Recorded
from stream.settings import Settings

__all__ = ["Judged", "judged", "named_in_decisions"]


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
    served: Collection[str] = (),
) -> tuple[Judged, ...]:
    """Each version and whether it stays; those that may go come last, each before its submodels.

    `decided` are the `name@version` that decisions name, `pinned` the one in the setting model, `served`
    those in service and those that a rollback leads back to; versions trained on or after `kept_since` stay
    too. Raises RegistryError where a manifest can't be believed, because it would not say whose submodels it
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
        if (why := _kept_for(entry, decided, pinned, kept_since) or _in_service(entry, served))
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


def _in_service(entry: Entry, served: Collection[str]) -> str:
    return "in service, or what a rollback leads back to" if entry.said in served else ""


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


def named_in_decisions(settings: Settings, recorded: Recorded, since: datetime) -> frozenset[str]:
    """The `name@version` of every model that decisions since an instant name, shadow decisions too.

    Raises TopicError, Unreachable.
    """
    found: set[str] = set()
    for topic in (settings.topics.decisions, settings.topics.decisions_shadow):
        for partition in range(recorded.partitions(topic)):
            low, end = recorded.bounds((topic, partition))
            if low < end:
                for chunk in recorded.read((topic, partition), low, end):
                    found |= _named(chunk, int(since.timestamp() * 1000))
    return frozenset(found)


def _named(chunk: Iterable[Record], since: int) -> set[str]:
    found = set()
    for record in chunk:
        if 0 <= record.timestamp < since or record.value is None:  # an unknown time may be a recent one
            continue
        try:
            model = _decided(record.value).model
        except (msgspec.DecodeError, UnicodeDecodeError):  # anyone may write to a topic
            continue
        if model is not None:
            found.add(f"{model.name}@{model.version}")
    return found
