"""The commands `fraudstream models compare` and `drift`: what is asked, and what is told of it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.learn_cli import duration, moment
from stream.plainly import plain, settings_of, write_whole
from stream.replay_topics_cli import ends_plainly, opened
from stream.verify_cli import Archive, progress

if TYPE_CHECKING:
    from datetime import datetime

    from models.evaluation import Difference
    from stream.comparing import Comparison
    from stream.drifting import Drift

__all__ = ["models_compare", "models_drift"]

Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only orders placed then or later.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only orders placed before then.")]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object a line.")]


def models_compare(
    asked: typer.Context,
    challenger: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Only these challengers, NAME or NAME@VERSION."),
    ] = None,
    *,
    champion: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Only orders that this one decided [default: whichever did]."),
    ] = None,
    archive: Archive = None,
    since: Since = None,
    until: Until = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What became known later does not count [default: now]."),
    ] = None,
    mature_after: Annotated[
        str, typer.Option(metavar="45d", help="Orders younger than this at that time do not count.")
    ] = "45d",
    silence_is_legitimate: Annotated[
        bool,
        typer.Option(
            "--silence-is-legitimate", help="A matured order without any outcome is not fraud, not unknown."
        ),
    ] = False,
    currency: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Only orders of this one [default: that of most orders]."),
    ] = None,
    review_cost: Annotated[
        float,
        typer.Option(metavar="AMOUNT", min=0, max=1_000_000, help="What a review costs, in major units."),
    ] = 3.0,
    lost_share: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, max=10, help="Of an approved fraud's amount, what is lost."),
    ] = 1.0,
    margin: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, max=1, help="Of a declined good order's amount, what is lost."),
    ] = 0.2,
    samples: Annotated[
        int, typer.Option(metavar="COUNT", min=100, max=100_000, help="So many samples of the bootstrap.")
    ] = 2_000,
    as_json: Json = False,
) -> None:
    """Hold challengers against what decided the same orders: the money between them, with 95 % bounds.

    From decisions, from what challengers said in the shadow, and from outcomes of matured orders. Customers
    are drawn, not orders, because orders of one customer are not independent. An order that was declined and
    of which nobody heard anything does not count: what would have become of it is unknown.
    """
    from datetime import UTC, datetime

    from features.money import CURRENCIES
    from models.labels import Labelling
    from stream.comparing import Asked, compare

    if currency is not None and currency not in CURRENCIES:
        raise typer.BadParameter(f"'{currency}' is no currency of ISO 4217", param_hint="--currency")
    labelling = Labelling(
        moment(as_of, "--as-of") or datetime.now(UTC),
        duration(mature_after, "--mature-after"),
        "not_fraud" if silence_is_legitimate else "unknown",
    )
    wanted = Asked(
        labelling,
        review_cost,
        lost_share,
        margin,
        champion,
        challenger or (),
        moment(since, "--since"),
        moment(until, "--until"),
        currency,
        samples,
    )
    settings = settings_of(asked)
    with ends_plainly(), progress("reading decisions") as told:
        found = compare(settings, opened(settings, archive), wanted, read=told)
    costs = f"{lost_share:.0%} of an approved fraud's amount, {margin:.0%} of a declined good order's"
    times = Counter(each.challenger for each in found)
    for each in found:
        at = f"{costs}, {review_cost:.2f} {each.currency} a review"
        is_one_of_several = times[each.challenger] > 1
        for line in (
            [json.dumps(each.as_json())] if as_json else _compared(each, at, by_policy=is_one_of_several)
        ):
            typer.echo(line)


def _compared(comparison: "Comparison", losses: str, *, by_policy: bool) -> Iterator[str]:
    from features.money import in_major_units
    from stream.comparing import LEFT_OUT

    found, currency = comparison.found, comparison.currency

    def money(amount: float) -> str:
        return f"{in_major_units(round(amount), currency)} {currency}"

    champions = ", ".join(f"{name} ({count:,})" for name, count in sorted(comparison.champions.items()))
    yield plain(f"{comparison.challenger} against {champions or 'nobody'}")
    if by_policy:
        yield plain(f"  with the thresholds of policy {comparison.policy[:12]}: it was deployed with several")
    yield f"  {found.orders:,} orders of which it is known what they were, {found.frauds:,} of them fraud"
    for cause, count in sorted(comparison.left_out.items()):
        yield f"  {count:,} more {LEFT_OUT[cause]}"
    if not found.orders:
        return
    yield f"  costs, with {losses}:"
    yield f"    what was done   {money(found.champion_cost)}"
    yield f"    the challenger  {money(found.challenger_cost)}"
    saved = found.saved
    if saved is not None:
        yield (
            f"  the challenger would have saved {money(saved.value)}, between {money(saved.low)} and "
            f"{money(saved.high)} (95 %), {saved.p_said}"
        )
    yield from _auc(found.auc)
    yield "  champion   challenger      orders     frauds"
    for one, other, orders, frauds in found.actions:
        yield f"  {one:<9}  {other:<10}  {orders:>10,} {frauds:>10,}"
    said = {
        "undecided": "these orders do not tell which is better",
        "challenger": "the challenger is better on these orders",
        "champion": "what decides now is better on these orders",
    }
    yield f"  {said[found.verdict]}"


def _auc(found: "Difference | None") -> Iterator[str]:
    if found is not None:
        yield f"  its AUC is {found.value:+.4f}, between {found.low:+.4f} and {found.high:+.4f} (95 %)"


def models_drift(
    asked: typer.Context,
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Only these, NAME or NAME@VERSION.")
    ] = None,
    *,
    archive: Archive = None,
    window: Annotated[
        str, typer.Option(metavar="7d", help="How long a window of event time is, in hours or days.")
    ] = "7d",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..TO",
            help="Held against orders placed then [default: each model's first window of enough orders].",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    fewest: Annotated[
        int, typer.Option(metavar="ORDERS", min=1, help="Of a window with fewer orders nothing is said.")
    ] = 500,
    most_stability: Annotated[
        float,
        typer.Option(
            "--stability", metavar="INDEX", min=0, help="Drift from this population stability index on."
        ),
    ] = 0.25,
    most_missing: Annotated[
        float,
        typer.Option(
            "--missing", metavar="SHARE", min=0, max=1, help="Drift where a missing share moves so far."
        ),
    ] = 0.1,
    most_score: Annotated[
        float,
        typer.Option(
            "--score", metavar="SHIFT", min=0, max=1, help="Drift where the mean probability moves so far."
        ),
    ] = 0.05,
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.prom", help="Write the newest windows there for Prometheus, whole or not at all."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show whether the orders, and what models say of them, are still of the kind they were.

    Each model's features and scores as its decisions wrote them down, in windows of when orders were placed,
    held against a reference. Exit code 1 when the newest window of a model in use is beyond a limit, so that
    cron can tell somebody.
    """
    from models.drift import Limits
    from stream.drifting import Asked, drift_of, exposition

    wanted = Asked(
        duration(window, "--window"),
        model or (),
        _between(reference),
        moment(since, "--since"),
        moment(until, "--until"),
        fewest,
        Limits(most_stability, most_missing, most_score),
    )
    if not wanted.window:
        raise typer.BadParameter("a window takes some time; write 7d or 12h", param_hint="--window")
    settings = settings_of(asked)
    with ends_plainly(), progress("reading decisions") as told:
        found = drift_of(settings, opened(settings, archive), wanted, read=told)
    for each in found:
        for line in [json.dumps(each.as_json())] if as_json else _drifted(each):
            typer.echo(line)
    if metrics is not None:
        write_whole(metrics, exposition(found))
    if any(each.drifts for each in found):
        raise typer.Exit(1)


def _between(text: str | None) -> "tuple[datetime, datetime] | None":
    if text is None:
        return None
    first, dots, last = text.partition("..")
    since, until = (moment(each, "--reference") for each in (first, last)) if dots else (None, None)
    if since is None or until is None or since >= until:
        raise typer.BadParameter(
            f"'{text}' is no time after another; write 2026-01-01..2026-02-01", param_hint="--reference"
        )
    return since, until


def _drifted(drift: "Drift") -> Iterator[str]:
    yield plain(drift.model)
    reference = drift.reference
    if reference is None:
        yield "  too few orders to hold anything against (--fewest, --reference)"
    else:
        since, until, orders = reference
        yield f"  reference: {orders:,} orders placed {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}"
    yield "  window            orders  mean score  stability  beyond a limit"
    for each in drift.windows:
        line = f"  {each.start:%Y-%m-%d %H:%M}  {each.orders:>6,}"
        if each.moved:
            score = each.moved[0]
            names = ", ".join(one.name for one in each.beyond) or "nothing"
            line += f"  {score.mean_now or 0.0:>10.4f}  {score.stability:>9.3f}  {names}"
        yield plain(line + ("  (in the shadow)" if each.is_shadow else ""))
    newest = drift.newest
    if newest is None:
        return
    for one in newest.beyond:
        yield plain(
            f"  {one.name}: stability {one.stability:.3f}, missing {one.missing_before:.1%} then and "
            f"{one.missing_now:.1%} now, mean {_number(one.mean_before)} then and {_number(one.mean_now)} now"
        )
    if drift.drifts:
        yield "  DRIFTS: the newest window is beyond a limit"
    elif not drift.is_current:
        yield "  not judged: it decided nothing lately"
    else:
        yield "  as it was, within the limits"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.6g}"
