"""Models on trial: what a challenger has to show before it decides, and what sends a canary back.

Pure: what was seen comes in as values, and a verdict goes out. Who looks, and who moves, is in
`stream.judging`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Final, Literal, NamedTuple

from features.money import in_major_units
from models.comparison import Compared
from models.gates import Gate
from stream.guard import Gates, Guardrails

__all__ = [
    "Arm",
    "Arms",
    "Evidence",
    "Verdict",
    "judge_canary",
    "judge_challenger",
]

_SIGMAS: Final = 3.0
"""A guardrail breaks when it is broken by more than so many standard errors: it is looked at all the time."""
_MISSING_TOLD: Final = 3
_SLOW: Final = 0.05
"""By so much the canary's share of slow orders may be above that of all others."""
_MOST_SLOW: Final = 0.5
"""Its share of slow orders, whatever others': a model slows its neighbours, but so does a short outage."""


Kind = Literal["promote", "stop", "roll_back", "wait"]
"""What is to be done: make the challenger champion, retire it, take the canary back, or nothing yet."""


class Verdict(NamedTuple):
    """What is to be done with a model on trial, and why."""

    kind: Kind
    gates: Sequence[Gate]
    """Everything that was asked, with the figures."""
    why: str
    figures: Mapping[str, Any]
    """The same for machines."""

    @property
    def unmet(self) -> tuple[str, ...]:
        """The names of what did not pass."""
        return tuple(each.name for each in self.gates if not each.passed)


# Challengers --------------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """What is known of a challenger since it stands where it stands."""

    days: float
    """For how long that is."""
    scored: int = 0
    """Orders that both decided."""
    disagreed: int = 0
    """Where the challenger would have done something else."""
    compared: Compared | None = None
    """Of matured orders; None where there are none."""
    currency: str = ""
    stability: float | None = None
    """Of its scores; None where there are not yet two windows."""
    missing: tuple[str, float] | None = None
    """The feature whose missing share moved most, and by how much."""
    answered: float = 0.0
    """The share of the orders decided beside it, since it began to score, that it scored."""
    declined: int = 0
    """Orders that were declined, and of which nobody knows what they were."""
    released: int = 0
    """Of these, those that the challenger would have approved."""
    silent_days: float | None = None
    """Since the newest arrival that both decided, by the judge's clock; None where there is none."""
    took_us: float | None = None
    """Of an order; None while nobody measured it."""


def judge_challenger(seen: Evidence, gates: Gates) -> Verdict:
    """Whether a challenger is to decide, to go, or to wait. What can't be asked yet has not passed."""
    found = seen.compared
    known, frauds = (found.orders, found.frauds) if found is not None else (0, 0)
    share = seen.disagreed / seen.scored if seen.scored else 0.0
    released = seen.released / seen.declined if seen.declined else 0.0
    asked = [
        Gate("days", seen.days >= gates.days, f"{seen.days:.1f} days on trial, at least {gates.days:g}"),
        Gate(
            "orders",
            known >= gates.orders,
            f"{known:,} matured orders that both decided, at least {gates.orders:,}",
        ),
        Gate("frauds", frauds >= gates.frauds, f"{frauds:,} of them frauds, at least {gates.frauds:,}"),
        _money(seen, gates),
        Gate(
            "agreement",
            share <= gates.disagreement,
            f"would have done something else with {share:.1%} of {seen.scored:,} orders, at most "
            f"{gates.disagreement:.1%}",
        ),
        Gate(
            "answered",
            seen.answered >= gates.answered,
            f"it scored {seen.answered:.1%} of the orders decided beside it, at least {gates.answered:.1%}",
        ),
        Gate(
            "released",
            released <= gates.released,
            f"would have approved {seen.released:,} of {seen.declined:,} orders that were declined and that "
            f"nobody knows of, at most {gates.released:.1%}",
        ),
        _silent(seen, gates),
        *_drift(seen, gates),
        Gate(
            "speed",
            seen.took_us is not None and seen.took_us <= gates.slowest_us,
            "how long an order takes is measured once all else has passed"
            if seen.took_us is None
            else f"an order takes {seen.took_us:,.0f} microseconds, at most {gates.slowest_us:,.0f}",
        ),
    ]
    kind, why = _of_challenger(seen, gates, asked, known=known, frauds=frauds)
    return Verdict(kind, asked, why, _figures_of(seen))


def _of_challenger(
    seen: Evidence, gates: Gates, asked: Sequence[Gate], *, known: int, frauds: int
) -> tuple[Kind, str]:
    by_name = {each.name: each for each in asked}
    saved = seen.compared.saved if seen.compared is not None else None
    told = known >= gates.orders and frauds >= gates.frauds
    if told and saved is not None and saved.high < -_allowed(seen, gates):
        return "stop", f"it costs more than what decides: {by_name['money'].said}"
    if seen.scored >= gates.orders and not by_name["agreement"].passed:
        return "stop", f"it decides too much else: {by_name['agreement'].said}"
    unmet = [each for each in asked if not each.passed]
    if not unmet:
        return "promote", "every gate let it through: " + "; ".join(each.said for each in asked)
    lacks = "; ".join(each.said for each in unmet)
    if seen.days > gates.most_days:
        return "stop", f"no answer within {gates.most_days:g} days: {lacks}"
    return "wait", lacks


def _allowed(seen: Evidence, gates: Gates) -> float:
    """How much more it may cost, in minor units."""
    return gates.worse * seen.compared.champion_cost if seen.compared is not None else 0.0


def _money(seen: Evidence, gates: Gates) -> Gate:
    found = seen.compared
    saved = None if found is None else found.saved
    if found is None or saved is None:
        return Gate("money", passed=False, said="nothing is known yet of the money between them")

    def money(amount: float) -> str:
        return f"{in_major_units(round(amount), seen.currency)} {seen.currency}"

    return Gate(
        "money",
        saved.low >= -_allowed(seen, gates),
        f"it would have saved {money(saved.value)} of {money(found.champion_cost)}, between "
        f"{money(saved.low)} and {money(saved.high)} ({gates.confidence:.1%}), at least "
        f"{money(-_allowed(seen, gates))}",
    )


def _silent(seen: Evidence, gates: Gates) -> Gate:
    if seen.silent_days is None:
        return Gate("silent", passed=False, said="it scored nothing yet that was decided beside it")
    return Gate(
        "silent",
        seen.silent_days <= gates.silent_days,
        f"it scored last {max(seen.silent_days, 0.0):.1f} days ago by the judge's clock, at most "
        f"{gates.silent_days:g}",
    )


def _drift(seen: Evidence, gates: Gates) -> Sequence[Gate]:
    if seen.stability is None:
        said = f"no two windows of {gates.window_days:g} days to hold against each other"
        # a trial may be shorter than two windows: then there is nothing that could have moved
        return [Gate("drift", passed=True, said=said)]
    name, moved = seen.missing or ("no feature", 0.0)
    return [
        Gate(
            "drift",
            seen.stability <= gates.stability,
            f"stability of its scores {seen.stability:.3f}, at most {gates.stability:g}",
        ),
        Gate(
            "missing",
            moved <= gates.missing,
            f"the missing share of {name} moved by {moved:.1%}, at most {gates.missing:.1%}",
        ),
    ]


def _figures_of(seen: Evidence) -> Mapping[str, Any]:
    found = seen.compared
    saved = found.saved if found is not None else None
    return {
        "days": round(seen.days, 3),
        "scored": seen.scored,
        "disagreed": seen.disagreed,
        "orders": found.orders if found is not None else 0,
        "frauds": found.frauds if found is not None else 0,
        "currency": seen.currency or None,
        "champion_cost": None if found is None else found.champion_cost,
        "challenger_cost": None if found is None else found.challenger_cost,
        "saved": None if saved is None else saved._asdict(),
        "answered": round(seen.answered, 6),
        "declined": seen.declined,
        "released": seen.released,
        "silent_days": None if seen.silent_days is None else round(seen.silent_days, 3),
        "stability": seen.stability,
        "missing_moved": None if seen.missing is None else dict([seen.missing]),
        "microseconds": None if seen.took_us is None else round(seen.took_us, 1),
    }


# Canaries -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """What one customer's orders add up to."""

    orders: int = 0
    declines: int = 0
    reviews: int = 0
    p: float = 0.0


@dataclass(slots=True)
class Arm:
    """The customers of one side, and what was done with their orders; a customer counts once."""

    orders: int = 0
    fallbacks: int = 0
    """Orders that the model of this side could not decide; nothing else counts of them."""
    customers: dict[str, _Sum] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    """Of how many orders each feature is unknown."""
    took_s: list[float] = field(default_factory=list)

    def add(
        self,
        customer: str,
        *,
        action: str,
        p_fraud: float,
        took_s: float | None,
        unknown: Sequence[str],
        failed: bool,
    ) -> None:
        """Take in an order."""
        self.orders += 1
        if took_s is not None:
            self.took_s.append(took_s)
        if failed:
            self.fallbacks += 1
            return
        of = self.customers.setdefault(customer, _Sum())
        of.orders += 1
        of.declines += action == "decline"
        of.reviews += action in {"review", "challenge"}
        of.p += p_fraud
        for name in unknown:
            self.unknown[name] = self.unknown.get(name, 0) + 1

    @property
    def decided(self) -> int:
        """Orders that its model decided."""
        return self.orders - self.fallbacks

    def mean(self, what: str) -> float:
        """The mean over customers of each one's share of `declines` or `reviews`, or mean `p`."""
        told = self._of_customers(what)
        return sum(told) / len(told) if told else 0.0

    def variance(self, what: str) -> float:
        """Of the same."""
        told = self._of_customers(what)
        mean = sum(told) / len(told)
        return sum((each - mean) ** 2 for each in told) / max(len(told) - 1, 1)

    def _of_customers(self, what: str) -> list[float]:
        return [float(getattr(each, what)) / each.orders for each in self.customers.values()]

    def slower_than(self, seconds: float) -> int:
        """How many orders took longer."""
        return sum(each > seconds for each in self.took_s)


@dataclass(slots=True)
class Arms:
    """The canary's customers of a window, and those that it does not decide for."""

    window: str
    """`60 minutes`."""
    canary: Arm = field(default_factory=Arm)
    others: Arm = field(default_factory=Arm)


def judge_canary(short: Arms, long: Arms, before: Arm, guardrails: Guardrails) -> Verdict:
    """Whether a canary is to go: where in either window a guardrail is broken, and that is no chance.

    `before` are the canary's orders of the longer window that are not in the shorter.
    """
    seen = (short, long)
    asked = [gate for each in seen for gate in _guarded(each, guardrails)]
    asked += _missing(short.canary, before, guardrails, short.window)
    broken = [each for each in asked if not each.passed and each.name != _FEW]
    figures = {each.window: _figures(each, guardrails.slow_s) for each in seen}
    if broken:
        return Verdict("roll_back", asked, "; ".join(each.said for each in broken), figures)
    unmet = [each for each in asked if not each.passed]
    why = "; ".join(each.said for each in unmet) or "within every guardrail: " + "; ".join(
        each.said for each in asked
    )
    return Verdict("wait", asked, why, figures)


_FEW: Final = "customers"


def _guarded(arms: Arms, rails: Guardrails) -> Sequence[Gate]:
    canary, others, of = arms.canary, arms.others, f"in {arms.window}"
    share, error = _smoothed(canary.fallbacks, canary.orders)
    slow = canary.slower_than(rails.slow_s)
    slow_share, slow_error = _smoothed(slow, len(canary.took_s))
    slow_beside = others.slower_than(rails.slow_s)
    beside_share, beside_error = _smoothed(slow_beside, len(others.took_s))
    more_are_slow = slow_share - beside_share - _SIGMAS * sqrt(slow_error**2 + beside_error**2) > _SLOW
    if canary.orders < rails.customers:
        said = f"{of} the canary met {canary.orders:,} orders, at least {rails.customers:,} tell something"
        return [Gate(_FEW, passed=False, said=said)]
    asked = [
        Gate(
            "fallbacks",
            share - _SIGMAS * error <= rails.fallbacks,
            f"{of} others had to decide {canary.fallbacks:,} of the canary's {canary.orders:,} orders, "
            f"at most {rails.fallbacks:.1%}",
        ),
        Gate(
            "latency",
            not more_are_slow and slow_share - _SIGMAS * slow_error <= _MOST_SLOW,
            f"{of} {slow:,} of its {len(canary.took_s):,} orders took over {rails.slow_s:g} s and of others' "
            f"{slow_beside:,} of {len(others.took_s):,}; at most {_SLOW:.0%} more, {_MOST_SLOW:.0%} at all",
        ),
    ]
    count = len(canary.customers)
    if count < rails.customers:
        said = f"{of} the canary decided for {count:,} customers, at least {rails.customers:,} tell something"
        return [*asked, Gate(_FEW, passed=False, said=said)]
    declines, error = _smoothed(canary.mean("declines") * count, count)
    asked.append(
        Gate(
            "most declines",
            declines - _SIGMAS * error <= rails.most_declines,
            f"{of} it declined {canary.mean('declines'):.1%} of its customers' orders, at most "
            f"{rails.most_declines:.1%}",
        )
    )
    if len(others.customers) < rails.customers:
        said = f"{of} others decided for {len(others.customers):,} customers, too few to hold it against"
        return [*asked, Gate(_FEW, passed=False, said=said)]
    return [
        *asked,
        _more(canary, others, "declines", rails.declines, of),
        _more(canary, others, "reviews", rails.reviews, of),
        _score(canary, others, rails, of),
    ]


def _smoothed(found: float, of: int) -> tuple[float, float]:
    """A share and its standard error, by Agresti and Coull: not 0 where all, or none, were found."""
    share = (found + 1) / (of + 2)
    return share, sqrt(share * (1 - share) / (of + 2))


def _more(canary: Arm, others: Arm, what: str, most: float, of: str) -> Gate:
    one, two = canary.mean(what), others.mean(what)
    first, first_error = _smoothed(one * len(canary.customers), len(canary.customers))
    second, second_error = _smoothed(two * len(others.customers), len(others.customers))
    surely = first - second - _SIGMAS * sqrt(first_error**2 + second_error**2)
    done = "declined" if what == "declines" else "had reviewed"
    return Gate(
        what,
        surely <= most,
        f"{of} it {done} {one:.1%} of {len(canary.customers):,} customers' orders and others {two:.1%} of "
        f"{len(others.customers):,}, at most {most:.1%} more",
    )


def _score(canary: Arm, others: Arm, rails: Guardrails, of: str) -> Gate:
    one, two = canary.mean("p"), others.mean("p")
    error = sqrt(canary.variance("p") / len(canary.customers) + others.variance("p") / len(others.customers))
    return Gate(
        "score",
        abs(one - two) - _SIGMAS * error <= rails.score,
        f"{of} its mean probability of fraud is {one:.3f} and that of others {two:.3f}, at most "
        f"{rails.score:g} apart",
    )


def _missing(now: Arm, before: Arm, rails: Guardrails, window: str) -> Sequence[Gate]:
    if min(now.decided, before.decided) < rails.customers:
        return []
    grown = []
    for name, unknown in now.unknown.items():
        one, one_error = _smoothed(unknown, now.decided)
        two, two_error = _smoothed(before.unknown.get(name, 0), before.decided)
        if one - two - _SIGMAS * sqrt(one_error**2 + two_error**2) > rails.missing:
            was = before.unknown.get(name, 0) / before.decided
            grown.append(f"{name} of {unknown / now.decided:.1%} after {was:.1%}")
    said = ", ".join(grown[:_MISSING_TOLD]) or "nothing that was known before"
    return [Gate("missing", not grown, f"in {window} unknown: {said}, at most {rails.missing:.1%} more")]


def _figures(arms: Arms, slow_s: float) -> Mapping[str, Any]:
    return {
        side: {
            "orders": arm.orders,
            "customers": len(arm.customers),
            "fallbacks": arm.fallbacks,
            "declines": round(arm.mean("declines"), 6),
            "reviews": round(arm.mean("reviews"), 6),
            "p_fraud": round(arm.mean("p"), 6),
            "slow": arm.slower_than(slow_s),
        }
        for side, arm in (("canary", arms.canary), ("others", arms.others))
    }
