"""What a person reads about a published model: a line in a list, a page, a card, how two differ.

All of it comes from the manifest and from nowhere else. Whoever may write to a registry without a key wrote
that text too, so none of it is an order to a terminal or to Markdown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from models.manifest import FeatureEntry, Manifest
from models.registry import Entry
from stream.plainly import plain

__all__ = ["Difference", "as_json", "card", "differences", "line", "page"]

SIGNATURES: Final = {
    "right": "signed",
    "wrong": "WRONG SIGNATURE",
    "absent": "unsigned",
    "unchecked": "signature not checked",
}
"""What a list says of a signature."""

_SIGNATURES_SAID: Final = {
    "right": "signed with this registry's key",
    "wrong": "its signature is not this registry's: do not use it",
    "absent": "unsigned: whoever may write to the registry could have changed it, sums and all",
    "unchecked": "it has a signature that was not checked: no key is set (FRAUDSTREAM_SIGNING_KEY_FILE)",
}
_MARKS: Final = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~&"})


_PURPOSE: Final = (
    "It gives an order, before it is accepted, a probability of being fraud, from what the order says and "
    "what its customer and other entities did before. Thresholds on it make the action: approve, review or "
    "decline. It is not made for judging persons, for credit, or for orders of another shop."
)
_LIMITS: Final = (
    "- It was measured on orders like those it learned from; other countries or seasons may differ.",
    "- An order without an outcome is no good order; fraud that was not reported yet counts as none.",
    "- Declined orders have no outcome, so what earlier decisions stopped is missing from its past.",
    "- Reasons are path attributions: they say what moved this score, not what causes fraud.",
)


# ---------------------------------------------------------------------- in a line


def line(entry: Entry) -> tuple[str, ...]:
    """Its cells in a list: `*` for a champion and the name, predictor, trained on, metrics, signature."""
    marked = f"{'*' if entry.is_champion else ' '} {entry.said}"
    manifest = entry.manifest
    if manifest is None:
        return marked, "UNREADABLE", plain(entry.wrong), "", SIGNATURES[entry.signature]
    metrics = [f"{_short(name)} {_number(value)}" for name, value in _first_metrics(manifest)]
    return (
        marked,
        plain(manifest.predictor),
        trained_on(manifest),
        ", ".join(metrics) or "not measured",
        SIGNATURES[entry.signature],
    )


def trained_on(manifest: Manifest) -> str:
    """The days and the orders that it learned from, in a few words."""
    told = manifest.trained_on
    said = []
    if "first_placed_at" in told and "last_placed_at" in told:
        said.append(f"{_day(told['first_placed_at'])}..{_day(told['last_placed_at'])}")
    if isinstance(orders := told.get("labelled_orders"), int):
        said.append(f"{orders:,} orders")
    return plain(", ".join(said) or str(told.get("said", "unknown orders")))


def as_json(entry: Entry) -> dict[str, Any]:
    """The line for a machine."""
    manifest = entry.manifest
    told: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "champion": entry.is_champion,
        "signature": entry.signature,
    }
    if manifest is None:
        return told | {"wrong": entry.wrong}
    return told | {
        "predictor": manifest.predictor,
        "trained_at": manifest.trained_at,
        "trained_on": dict(manifest.trained_on),
        "metrics": dict(manifest.metrics),
        "parents": list(manifest.parents),
    }


def _first_metrics(manifest: Manifest) -> Iterator[tuple[str, float | int | None]]:
    for name, value in manifest.metrics.items():
        if name.endswith(("auc", "average_precision")):
            yield name, value


def _short(metric: str) -> str:
    return plain(metric.removeprefix("holdout_").replace("average_precision", "ap"))


def _number(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(str(value))


def _day(instant: object) -> str:
    return str(instant)[:10]


# ---------------------------------------------------------------------- on a page


def page(entry: Entry, digest: str) -> Iterator[str]:
    """Everything that the manifest says, in lines."""
    manifest = _readable(entry)
    yield f"{entry.said}{' (champion)' if entry.is_champion else ''}"
    yield f"  digest {digest}"
    yield f"  {_SIGNATURES_SAID[entry.signature]}"
    for title, told in _parts(manifest):
        yield f"{title}:"
        width = max(map(len, told), default=0)
        for name, value in told.items():
            yield f"  {plain(name):<{width}}  {_number(value)}"
    yield "features:"
    width = max(len(each.name) for each in manifest.features)
    for each in manifest.features:
        yield f"  {plain(each.name):<{width}}  {plain(each.unit)}; missing: {plain(each.missing)}"


def _parts(manifest: Manifest) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "predictor", {"kind": manifest.predictor}
    yield "trained on", manifest.trained_on
    yield "settings", manifest.settings
    yield f"metrics ({plain(manifest.split)})", manifest.metrics
    policy = manifest.suggested_policy
    yield "thresholds", {"review_at": policy.review_at, "decline_at": policy.decline_at}
    yield "libraries", manifest.libraries
    if manifest.parents:
        yield "submodels", dict.fromkeys(manifest.parents, "stands among its features")


def _readable(entry: Entry) -> Manifest:
    if entry.manifest is None:
        raise ValueError(entry.wrong)
    return entry.manifest


# ---------------------------------------------------------------------- on a card


def card(entry: Entry, digest: str) -> Iterator[str]:
    """The model card in lines of Markdown."""
    manifest = _readable(entry)
    told = manifest.trained_on
    yield from (f"# Model card: {entry.said}", "")
    yield from (
        "## What it is for",
        "",
        _PURPOSE,
        "",
        f"- version: `{entry.version}`{', the champion' if entry.is_champion else ''}",
        f"- trained at: {_marked(manifest.trained_at)}",
        f"- digest: `{digest}`; {_SIGNATURES_SAID[entry.signature]}",
        f"- predictor: {_marked(manifest.predictor)}",
    )
    if manifest.parents:
        yield f"- submodels among its features: {', '.join(map(_marked, manifest.parents))}"
    yield ""
    yield from ("## What it learned from", "")
    yield f"- period: {_period(told)}"
    yield f"- countries: {_known(told, 'countries', 'not restricted, or not recorded')}"
    yield f"- labels mature after: {_known(told, 'labels_mature_after', 'not recorded')}"
    shown = {"first_placed_at", "last_placed_at", "countries", "labels_mature_after"}
    yield from _items({name: value for name, value in told.items() if name not in shown})
    yield from ("", "## How good it is", "")
    yield from (f"{_marked(manifest.split)}.", "")
    yield from _table(("metric", "value"), [(n, _number(v)) for n, v in manifest.metrics.items()])
    policy = manifest.suggested_policy
    yield from (
        "",
        f"Suggested thresholds: review from {policy.review_at}, decline from {policy.decline_at}.",
        "",
        "## Where its limits are",
        "",
        *_LIMITS,
    )
    if "row_limit" in manifest.settings:
        row_limit = _marked(manifest.settings["row_limit"])
        yield f"- It learned from histories of at most {row_limit} orders; a worker must keep as many."
    if always := manifest.all_missing:
        yield f"- Always unknown in training, so without influence: {', '.join(map(_marked, always))}."
    yield from ("", "## Features", "")
    yield from _table(
        ("feature", "unit", "missing", "flag when missing"),
        [
            (each.name, each.unit, each.missing, "yes" if each.name in manifest.flagged else "no")
            for each in manifest.features
        ],
    )
    yield from ("", "## Settings and libraries", "")
    yield from _items({**manifest.settings, **manifest.libraries})


def _period(told: Mapping[str, Any]) -> str:
    if "first_placed_at" not in told or "last_placed_at" not in told:
        return "not recorded"
    return f"orders placed from {_marked(told['first_placed_at'])} to {_marked(told['last_placed_at'])}"


def _known(told: Mapping[str, Any], name: str, otherwise: str) -> str:
    return _marked(told[name]) if name in told else otherwise


def _items(told: Mapping[str, Any]) -> Iterator[str]:
    for name, value in told.items():
        yield f"- {_marked(name.replace('_', ' '))}: {_marked(_number(value))}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_marked, row))} |"


def _marked(text: object) -> str:
    return plain(str(text)).translate(_MARKS)


# ---------------------------------------------------------------------- beside another


class Difference(NamedTuple):
    """One thing in which two models differ; None where one has no such thing."""

    part: str
    name: str
    first: str | float | None
    second: str | float | None

    def __str__(self) -> str:
        """In a line."""
        if self.first is None:
            return f"{self.part}: + {plain(self.name)} {_number(self.second)}".rstrip()
        if self.second is None:
            return f"{self.part}: - {plain(self.name)} {_number(self.first)}".rstrip()
        by = ""
        if isinstance(self.first, float) and isinstance(self.second, float):
            by = f" ({self.second - self.first:+.4f})"
        return f"{self.part}: {plain(self.name)} {_number(self.first)} -> {_number(self.second)}{by}"


def differences(first: Manifest, second: Manifest) -> Iterator[Difference]:
    """In what the second differs from the first: features, training, settings, metrics, thresholds."""
    ours, theirs = _by_name(first.features), _by_name(second.features)
    for name in _names(ours, theirs):
        if name not in ours or name not in theirs:
            yield Difference("feature", name, *(None if name not in each else "" for each in (ours, theirs)))
        elif ours[name].declaration != theirs[name].declaration:
            yield Difference("feature", name, "as declared then", "as declared otherwise")
    order = [each.name for each in first.features if each.name in theirs]
    if order != [each.name for each in second.features if each.name in ours]:
        yield Difference("feature", "order", "one", "another")
    parts = zip(_compared(first), _compared(second), strict=True)
    for (part, one), (_, other) in parts:
        for name in _names(one, other):
            if name not in one or name not in other or one[name] != other[name]:
                yield Difference(part, name, _value(one, name), _value(other, name))


def _compared(manifest: Manifest) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "predictor", {"kind": manifest.predictor}
    yield "submodel", dict.fromkeys(manifest.parents, "")
    yield "trained on", {"trained_at": manifest.trained_at, **manifest.trained_on}
    yield "setting", manifest.settings
    yield "library", manifest.libraries
    yield "metric", manifest.metrics
    policy = manifest.suggested_policy
    yield "threshold", {"review_at": policy.review_at, "decline_at": policy.decline_at}


def _value(told: Mapping[str, Any], name: str) -> str | float | None:
    return ("unknown" if told[name] is None else told[name]) if name in told else None


def _by_name(features: Sequence[FeatureEntry]) -> dict[str, FeatureEntry]:
    return {each.name: each for each in features}


def _names(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """The first one's in their order, then what only the second has."""
    return [*first, *(name for name in second if name not in first)]
