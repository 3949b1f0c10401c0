"""The command `fraudstream replay decision`: one order decided again, beside what was decided."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.plainly import at_ms, plain
from stream.verify_cli import Archive, progress, shown

if TYPE_CHECKING:
    from stream.settings import Settings
    from stream.verify import Replayed

__all__ = ["mount"]


def mount(
    app: typer.Typer,
    settings: Callable[..., "Settings"],
    said_plainly: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    """Put the command into a command line, with its settings and its way of telling refusals."""

    @app.command("decision")
    @said_plainly
    def decision(
        order_id: Annotated[str, typer.Argument(metavar="ORDER_ID", help="The order.")],
        archive: Archive = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON object for each time the order arrived.")
        ] = False,
    ) -> None:
        """Decide one order again, as it was decided, and show both decisions side by side.

        Its customer's history is made anew from the beginning of its partition, so a large topic takes a
        while; nothing is changed. Exit code 1 when the two differ. This prints a customer's data.
        """
        from stream.replay_topics_cli import ends_plainly  # noqa: PLC0415
        from stream.verify import replay_decision  # noqa: PLC0415 (help must be quick)

        with ends_plainly(), progress("reading the past") as told:
            replayed = replay_decision(settings(), order_id, archive=archive, told=told)
        for each in replayed:
            for line in [json.dumps(_as_json(each))] if as_json else _said(each, order_id):
                typer.echo(line)
        if any(each.difference is not None for each in replayed):
            raise typer.Exit(1)


def _as_json(replayed: "Replayed") -> dict[str, Any]:
    made, order, difference = replayed.made, replayed.order, replayed.difference
    return {
        "order": {"topic": order.topic, "partition": order.partition, "offset": order.offset},
        "arrived_at": at_ms(order.timestamp),
        "decision": None if made is None else made.place,
        "equal": replayed.is_equal,
        "recorded": None if made is None else _content(made.record.value),
        "recomputed": _content(replayed.recomputed),
        "difference": None if difference is None else difference.as_json(),
        "said": replayed.said,
    }


def _said(replayed: "Replayed", order_id: str) -> Iterator[str]:
    order, made, difference = replayed.order, replayed.made, replayed.difference
    yield plain(
        f"{order_id}: {order.topic}/{order.partition} offset {order.offset:,}, arrived "
        f"{at_ms(order.timestamp)}"
    )
    if made is not None:
        told = {name: value.decode(errors="replace") for name, value in made.record.headers if value}
        by = "".join(f", {name} {told[name]}" for name in ("worker", "fraudstream") if name in told)
        yield plain(f"decided at {made.place}, {at_ms(made.record.timestamp)}{by}")
        if "settings" in told:
            yield plain(f"with the settings {told['settings']}")
    recorded = {} if made is None else _flat(_content(made.record.value))
    recomputed = _flat(_content(replayed.recomputed))
    names = list(dict.fromkeys([*recorded, *recomputed]))
    rows = [("", "recorded", "recomputed")] + [
        (name, _cell(recorded, name), _cell(recomputed, name)) for name in names
    ]
    if names:
        first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
        for name, one, other in rows:
            mark = "  differs" if name and replayed.recomputed is not None and one != other else ""
            yield plain(f"  {name:<{first}}  {one:<{second}}  {other}{mark}".rstrip())
    if replayed.is_equal:
        yield f"equal, byte for byte ({len(replayed.recomputed or b''):,} bytes)"
    elif difference is not None:
        yield plain(f"not equal: {difference.cause}: {difference.said}")
    else:
        yield replayed.said


def _cell(fields: Mapping[str, Any], name: str) -> str:
    return shown(fields[name]) if name in fields else "-"


def _content(value: bytes | None) -> Any:
    try:
        return None if value is None else json.loads(value)
    except ValueError:
        return value.decode(errors="backslashreplace") if value is not None else None


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    """The fields by their dotted paths; what is nested is taken apart."""
    if isinstance(content, dict) and (content or not path):
        found: dict[str, Any] = {}
        for name, value in content.items():
            found |= _flat(value, f"{path}.{name}" if path else name)
        return found
    return {path or "(bytes)": content} if path or content is not None else {}
