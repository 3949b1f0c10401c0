"""A decision's journey as a person reads it: in a terminal, or as a page of HTML that stands for itself.

Both show the same sections. Ids and texts come from strangers: a terminal takes none as an order, a page
shows all of it as text, runs nothing and asks the network for nothing, and no letter is invisible in either.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from models.decision import Decision, decode_decision
from models.reasons import customer_text
from stream.explain import PastOrder, money, when
from stream.journey import Asked, Journey, content_of
from stream.past import Made
from stream.plainly import at_ms, plain

__all__ = ["page", "said"]

_LEAST_PUSH: Final = 1e-6


@dataclass(frozen=True, slots=True)
class _Section:
    """A heading with what stands below it."""

    title: str
    head: tuple[str, ...] = ()
    """Of the table; empty where the rows are a name and what is said of it."""
    rows: Sequence[tuple[str, ...]] = ()
    notes: Sequence[str] = ()


def said(journeys: Sequence[Journey]) -> Iterator[str]:
    """The journeys in lines for a terminal."""
    for number, journey in enumerate(journeys):
        if number:
            yield ""
        yield plain(_title(journey))
        for section in _sections(journey):
            yield ""
            yield section.title
            yield from _lines(section)
            yield from (f"  {plain(each)}" for each in section.notes)


def page(order_id: str, journeys: Sequence[Journey]) -> str:
    """The journeys as one page of HTML."""
    title = _shown(f"The journey of order {order_id}")
    body = "".join(
        f"<h1>{_shown(_title(journey))}</h1>\n" + "".join(map(_html, _sections(journey)))
        for journey in journeys
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # nothing in it runs or is fetched, whatever an id says
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n{body}</body></html>\n"
    )


_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;max-width:1040px;margin:2em auto;padding:0 1em}
h1{font-size:1.4em}h2{font-size:1.15em;margin-top:1.6em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #e3e3e3;
overflow-wrap:anywhere}th{font-weight:600}p{color:#555}
@media print{body{max-width:none}h2{break-after:avoid}}
"""


def _lines(section: _Section) -> Iterator[str]:
    rows = [
        tuple(map(plain, row)) for row in ((section.head, *section.rows) if section.head else section.rows)
    ]
    if not rows:
        return
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _html(section: _Section) -> str:
    head = "".join(f"<th>{_shown(each)}</th>" for each in section.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_shown(cell)}</td>" for cell in row) + "</tr>\n" for row in section.rows
    )
    table = f"<table>{f'<tr>{head}</tr>' if head else ''}\n{rows}</table>" if rows else ""
    notes = "".join(f"<p>{_shown(each)}</p>" for each in section.notes)
    return f"<h2>{_shown(section.title)}</h2>\n{table}{notes}\n"


def _shown(text: str) -> str:
    # a page is looked at with `less` too, and a letter that turns the line around lies in a browser as well
    return escape(plain(text))


# What is told -------------------------------------------------------------------------------------


def _title(journey: Journey) -> str:
    order, record = journey.order, journey.record
    where = f"{record.topic}/{record.partition} offset {record.offset:,}"
    if order is None:
        return f"{where}, which could not be read as an order"
    return f"{order.order_id}, revision {order.revision}, {money(order.amount, order.currency)}, at {where}"


def _sections(journey: Journey) -> Iterator[_Section]:
    decision = journey.decision
    yield _decided(journey)
    if decision is not None and decision.reasons:
        yield _Section(
            "Why",
            ("reason", "an analyst reads", "a customer may read"),
            [(each.code, each.text, customer_text(each.code)) for each in decision.reasons],
        )
    if journey.nodes:
        yield _Section(
            "Score of each model",
            ("model", "is", "probability of fraud", "asks"),
            [
                (
                    each.name,
                    each.predictor,
                    f"{each.p_fraud:.6f}",
                    f"{len(each.asks)}: {', '.join(each.asks)}",
                )
                for each in journey.nodes
            ],
        )
    if journey.features:
        yield _features(journey)
    if journey.history is not None:
        yield _history(journey)
    if journey.shadow:
        yield _Section(
            "What others decided, in the shadow",
            ("model", "action", "probability of fraud", "stands at"),
            list(map(_shadow, journey.shadow)),
        )
    yield _became(journey)
    if journey.order is not None:
        yield _Section("The order", rows=[*_flat(content_of(journey.order) or {})])
    yield _Section("Versions", rows=[*_versions(journey)])
    yield _Section("When and where", rows=[*_places(journey)])
    yield _again(journey)


def _decided(journey: Journey) -> _Section:
    decision, policy = journey.decision, journey.policy
    if decision is None:
        return _Section("The decision", notes=[journey.said or "its bytes are no decision of this version"])
    rows = [("action", decision.action.value)]
    if decision.p_fraud is not None:
        rows.append(("probability of fraud", f"{decision.p_fraud:.6f}, a score of {decision.score} of 1000"))
    if policy is not None:
        rows.append(("thresholds", f"review from {policy.review_at:g}, decline from {policy.decline_at:g}"))
    if decision.repeat_of is not None:
        rows.append(("repeats", f"decision {decision.repeat_of}: the order was sent again"))
    if decision.supersedes is not None:
        rows.append(("takes the place of", f"decision {decision.supersedes}: the order was revised"))
    if journey.is_observed:
        rows.append(("acted on", f"no: decided with mode {journey.headers['mode']}, into the shadow"))
    notes = [each for each in (journey.said, journey.model_doubt, journey.policy_doubt) if each]
    return _Section("The decision", rows=rows, notes=notes)


def _features(journey: Journey) -> _Section:
    with_push = [each for each in journey.features if each.push is not None]
    exact = journey.compared_with > 0
    ordered = (
        sorted(journey.features, key=lambda each: -(each.push or 0.0)) if with_push else journey.features
    )
    rows = [
        (
            each.name,
            _value(each),
            _pushed(each.push),
            *([_pushed(each.shapley)] if exact else ()),
            _counted(each),
        )
        for each in ordered
    ]
    notes = []
    if with_push:
        notes.append(
            "A push is a path attribution (Saabas; of a linear model coefficient times value) on the model's "
            "raw score, up or down; a submodel's is given on to the features that moved it. It is no exact "
            "Shapley value; --shap tells those too."
            if not exact
            else "Shapley values are exact, and tell how the model's raw score differs from the mean of the "
            f"{journey.compared_with} orders that it decided before in this partition. A submodel's score "
            "counts as a whole: its features have none of their own."
        )
        whole = [f"{each.name} {_pushed(each.shapley)}" for each in journey.nodes if each.shapley is not None]
        if whole:
            notes.append(f"Shapley values of the scores of submodels: {', '.join(whole)}.")
        left = [f"{each.name} {_pushed(each.own_push)}" for each in journey.nodes if each.own_push]
        if left:
            notes.append(f"None of their features accounts for the pushes of: {', '.join(left)}.")
    changed = [
        each.name
        for each in journey.features
        if each.made_by is not None and each.made_by.value != each.value
    ]
    if changed:
        notes.append(
            f"What is recorded now gives other values for {', '.join(changed)}: part of the past was lost, "
            "or was not there yet."
        )
    head = ("feature", "value", "push", *(["Shapley value"] if exact else ()), "made by")
    return _Section("Features", head, rows, notes)


def _value(asked: Asked) -> str:
    feature, value = asked.feature, asked.value
    if value is None:
        why = "MISSING" if feature is None else f"MISSING: {feature.missing}"
        filled = "" if asked.filled_with is None else f"; the model took it for {asked.filled_with:,.6g}"
        return why + filled
    if asked.category is not None:
        return asked.category
    number = f"{value:,.0f}" if value.is_integer() else f"{value:,.6g}"
    return number if feature is None else f"{number}  ({feature.unit})"


def _pushed(push: float | None) -> str:
    if push is None:
        return ""
    return "0" if abs(push) < _LEAST_PUSH else f"{push:+.6f}"


def _counted(asked: Asked) -> str:
    made_by = asked.made_by
    if made_by is None or not made_by.orders:
        return ""
    shown = ", ".join(each.order_id for each in made_by.orders)
    return f"{shown}, and {made_by.more:,} more" if made_by.more else shown


def _history(journey: Journey) -> _Section:
    history = journey.history
    if history is None:
        return _Section("History")
    orders: dict[str, PastOrder] = {}
    for each in history.features:
        orders |= {past.order_id: past for past in each.orders}
    newest = sorted(orders.values(), key=lambda each: each.placed_at, reverse=True)
    notes = ["a guest, who has no history"]
    if history.past is not None:
        notes = [_remembered("customer", history.past, history.folded)]
    for entity, known in history.known.items():
        if known.history is not None:
            named = f"{entity.replace('_', ' ')} {known.named}"
            notes.append(_remembered(named, len(known.history), known.folded))
    if newest:
        notes.append(
            "Listed are those that made features. Which outcomes made features is not told: see "
            "'fraudstream entity show'."
        )
    return _Section(
        "History",
        ("past order", "placed", "amount") if newest else (),
        [(each.order_id, when(each.placed_at), money(each.amount, each.currency)) for each in newest],
        notes,
    )


def _remembered(of: str, orders: int, folded: int) -> str:
    older = f"; {folded:,} older ones are counted in tiles" if folded else ""
    return f"orders of the {of} that were remembered: {orders:,}{older}"


def _shadow(made: Made) -> tuple[str, ...]:
    try:
        decision: Decision | None = decode_decision(made.record.value or b"")
    except ValueError:
        decision = None
    if decision is None:
        return "", "its bytes are no decision", "", made.place
    model = "" if decision.model is None else f"{decision.model.name}@{decision.model.version}"
    p = "" if decision.p_fraud is None else f"{decision.p_fraud:.6f}"
    return model, decision.action.value, p, made.place


def _became(journey: Journey) -> _Section:
    if not journey.became:
        return _Section("What became of it", notes=["nothing is known of it so far: no outcome, no event"])
    rows = []
    for each in journey.became:
        event = each.event
        what = f"{event.kind}{', fraud' if getattr(event, 'is_fraud', False) else ''}"
        rows.append(
            (when(event.known_at), what, "known when decided" if each.was_known else "later", each.place)
        )
    return _Section("What became of it", ("known at", "what", "", "stands at"), rows)


def _versions(journey: Journey) -> Iterator[tuple[str, ...]]:
    decision, headers = journey.decision, journey.headers
    if decision is not None and decision.model is not None:
        yield "model", f"{decision.model.name}@{decision.model.version}"
        yield "manifest", decision.model.digest
    if decision is not None:
        yield "policy", decision.policy
    yield from ((name, headers[name]) for name in ("fraudstream", "worker", "settings") if name in headers)


def _places(journey: Journey) -> Iterator[tuple[str, ...]]:
    record, decision, made = journey.record, journey.decision, journey.made
    if journey.order is not None:
        yield "placed", when(journey.order.placed_at)
    yield (
        "arrived",
        f"{at_ms(record.timestamp)} at {record.topic}/{record.partition} offset {record.offset:,}",
    )
    for topic, (partition, offset) in journey.stages.items():
        yield "went through", f"{topic}/{partition} offset {offset:,}"
    if made is not None:
        took = "" if journey.latency_ms is None else f", {journey.latency_ms:,} ms after it arrived"
        yield "decided", f"{at_ms(made.record.timestamp)} at {made.place}{took}"
    for topic, read in decision.source.others.items() if decision is not None else ():
        yield "read until then", f"{topic} up to offset {read:,}"


def _again(journey: Journey) -> _Section:
    if journey.is_equal:
        return _Section("Decided again", notes=["equal, byte for byte"])
    if journey.difference is None:
        return _Section("Decided again", notes=["there is no decision to hold it against"])
    found = journey.difference
    rows = [(each.path, _short(each.recorded), _short(each.recomputed)) for each in found.fields]
    head = ("field", "decided", "decided again") if rows else ()
    return _Section("Decided again", head, rows, [f"not equal: {found.cause}: {found.said}"])


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _flat(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, ...]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for number, each in enumerate(value, 1):
                yield from _flat(each, f"{path}{name} {number}.")
        else:
            yield f"{path}{name}", value if isinstance(value, str) else _short(value)
