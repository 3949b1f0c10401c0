"""What a newly learned model has to pass before it is published: gates, each with what it found and why.

A gate that can't be asked fails: a model is not published because nobody could measure it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.evaluation import Difference, Ranking, stability
from models.examples import UNKNOWN, Examples
from models.report import Judged

__all__ = ["Gate", "Limits", "gates"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limits:
    """How good a model has to be, and what is too good to be true."""

    frauds: int = 30
    """Frauds it must be measured on at least."""
    auc: float = 0.7
    average_precision: float | None = None
    """None: at least three times the share of fraud."""
    calibration_error: float = 0.05
    unequal: float = 0.0
    """The share of a logged feature that may differ from the computed one."""
    alarm_auc: float = 0.995
    alarm_average_precision: float | None = None
    alarm_one_feature: float = 0.98
    """One feature alone may not tell frauds from others as well as this AUC."""
    alarm_known_at_once: float = 0.5
    """The share of frauds that may be known within the hour after their order."""
    worse_than_champion: float = 0.0
    """How much average precision the champion may be better by, beyond chance."""
    stability: float = 0.25

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Limits":
        """The limits that a job's file says. Raises ModelError for a name or value that is none."""
        for name, value in told.items():
            if name not in cls.__dataclass_fields__:
                known = ", ".join(cls.__dataclass_fields__)
                message = f"there is no gate '{name}'; there are {known}"
                raise ModelError(message)
            if isinstance(value, bool) or not isinstance(value, int | float):
                message = f"gate '{name}' takes a number, not {value!r}"
                raise ModelError(message)
        return cls(**told)


@dataclass(frozen=True, slots=True)
class Gate:
    """What one gate found."""

    name: str
    passed: bool
    said: str


def gates(
    judged: Judged,
    examples: Examples,
    p: Floats,
    limits: Limits,
    *,
    parity: Mapping[str, float] | None = None,
    against: Difference | None = None,
    champion: str | None = None,
) -> Sequence[Gate]:
    """All gates of a model that says `p` of orders it did not learn from.

    `parity` is the share of unequal values of each feature that a worker logged, None where none did.
    `against` is how much better the model is than the champion, by a paired test of average precision.
    """
    known = examples.labels != UNKNOWN
    is_fraud = examples.labels[known] == 1
    frauds, share = int(is_fraud.sum()), float(is_fraud.mean()) if known.any() else 0.0
    precision, auc = judged.measures.average_precision, judged.measures.auc
    wanted = 3 * share if limits.average_precision is None else limits.average_precision
    error = judged.calibration_error
    return [
        Gate(
            "enough frauds",
            frauds >= limits.frauds,
            f"measured on {frauds:,} frauds, at least {limits.frauds:,} are needed",
        ),
        Gate(
            "accuracy",
            auc is not None and precision is not None and auc >= limits.auc and precision >= wanted,
            f"AUC {_shown(auc)}, at least {limits.auc:.3f}; average precision {_shown(precision)}, at least "
            f"{wanted:.3f}",
        ),
        Gate(
            "calibration",
            error is not None and error <= limits.calibration_error,
            f"calibration error {_shown(error)}, at most {limits.calibration_error:.3f}",
        ),
        _parity(parity, limits),
        *_alarms(judged, examples.where(known), is_fraud, limits),
        _stable(p, limits),
        _champion(against, champion, limits),
    ]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _parity(parity: Mapping[str, float] | None, limits: Limits) -> Gate:
    if parity is None:
        return Gate(
            "parity", True, "no decision has logged these features yet; nothing was held against them"
        )
    over = {name: share for name, share in parity.items() if share > limits.unequal}
    said = ", ".join(
        f"{name} {share:.2%}" for name, share in sorted(over.items(), key=lambda each: -each[1])[:5]
    )
    return Gate(
        "parity",
        not over,
        f"logged and computed features differ: {said}" if over else f"{len(parity)} features are as logged",
    )


def _alarms(
    judged: Judged, known: Examples, is_fraud: npt.NDArray[np.bool_], limits: Limits
) -> Sequence[Gate]:
    auc, precision = judged.measures.auc or 0.0, judged.measures.average_precision or 0.0
    highest = limits.alarm_average_precision
    too_good = auc > limits.alarm_auc or (highest is not None and precision > highest)
    alone, name = max(
        ((_alone(known.matrix[:, at], is_fraud), name) for at, name in enumerate(known.names)),
        default=(0.0, "none"),
    )
    frauds = known.where(is_fraud)
    at_once = (frauds.known_at - frauds.placed_at) < np.timedelta64(1, "h")
    share = float(at_once.mean()) if len(frauds) else 0.0
    return [
        Gate(
            "leak: too good",
            not too_good,
            f"AUC {auc:.3f}, alarm above {limits.alarm_auc:.3f}; average precision {precision:.3f}"
            + ("" if highest is None else f", alarm above {highest:.3f}"),
        ),
        Gate(
            "leak: one feature",
            alone <= limits.alarm_one_feature,
            f"{name} alone has AUC {alone:.3f}, alarm above {limits.alarm_one_feature:.3f}",
        ),
        Gate(
            "leak: labels known at once",
            share <= limits.alarm_known_at_once,
            f"{share:.0%} of frauds were known within an hour of their order, alarm above "
            f"{limits.alarm_known_at_once:.0%}: is known_at when the shop learned of them?",
        ),
    ]


def _alone(column: Floats, is_fraud: npt.NDArray[np.bool_]) -> float:
    """How well a feature alone tells frauds, in whichever direction; unknown is less than everything."""
    values = np.where(np.isnan(column), -np.inf, column)
    auc = Ranking.of(values, is_fraud).auc(np.ones(len(values)))
    return 0.0 if auc is None else max(auc, 1 - auc)


def _stable(p: Floats, limits: Limits) -> Gate:
    half = len(p) // 2
    index = stability(p[:half], p[half:])
    return Gate(
        "stability",
        index <= limits.stability,
        f"stability index of its scores from half to half {index:.2f}, at most {limits.stability:.2f}",
    )


def _champion(against: Difference | None, champion: str | None, limits: Limits) -> Gate:
    if champion is None:
        return Gate("champion", True, "there is no champion to be compared with")
    if against is None:
        return Gate("champion", False, f"it could not be compared with {champion} on the same orders")
    return Gate(
        "champion",
        # better may be chance; worse beyond it is not
        against.high >= -limits.worse_than_champion,
        f"average precision {against.value:+.4f} over {champion} ({against.low:+.4f} to {against.high:+.4f})",
    )
