"""What a model is, described: a tree of features and models, how it learns, and from when.

    BASKET_RISK = Model(
        "basket_risk",
        features=BASKET,
        predictor=LogisticRegression(C=0.3),
        preprocessors=(Scaler(),),
        trained_on=Period.months("2025-01", "2025-03"),
    )
    ORDER_RISK = Model(
        "order_risk",
        features=(*BASKET, *CUSTOMER_HISTORY, BASKET_RISK),
        predictor=HistGradientBoosting(max_iter=200),
        trained_on=Period.months("2025-06", "2025-11"),
    )

A model stands where a feature stands: its score is a column of the model above it. Everything is checked when
it is written. A `Model` describes and never learns; what has learned is a `models.trained.Trained`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, get_args

from features.catalogue import is_declared
from features.define import GRAMMAR, Feature, days
from models.errors import ModelDefinitionError
from models.impute import Filling, Median
from models.parameters import told
from models.predictors import Calibration, Predictor
from models.preprocess import Condenser, Encoder, Hashing, OneHot, Preprocessor, Scaler
from models.score import ScoreOf

__all__ = ["MODEL_NAME", "Model", "Period"]

MODEL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
_MONTH: Final = re.compile(r"([0-9]{4})-([0-9]{2})")


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """The orders placed in [start, end), two instants in UTC.

    >>> print(Period.months("2025-01", "2025-03"))
    2025-01-01..2025-04-01
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Refuse instants without a zone, and an end that does not come after the start."""
        for name in ("start", "end"):
            instant = getattr(self, name)
            if not isinstance(instant, datetime) or instant.tzinfo is None:
                message = (
                    f"Period: {name} must be an instant with a zone, such as {_EXAMPLE}; got {instant!r}"
                )
                raise ModelDefinitionError(message)
            object.__setattr__(self, name, instant.astimezone(UTC))
        if not self.start < self.end:
            message = f"Period: the end must come after the start; got {self}"
            raise ModelDefinitionError(message)

    @classmethod
    def months(cls, first: str, last: str) -> "Period":
        """Whole months in UTC, the last one included: from "2025-01" to "2025-03" is a quarter."""
        start, end = _month(first), _month(last)
        year, month = divmod(end.year * 12 + end.month, 12)
        return cls(start, end.replace(year=year, month=month + 1))

    @classmethod
    def days(cls, first: str, last: str) -> "Period":
        """Whole days in UTC, the last one included: from "2018-07-25" to "2018-07-31" is a week."""
        return cls(_day(first), _day(last) + timedelta(days=1))

    def __contains__(self, instant: datetime) -> bool:
        """Whether an order placed at the instant is of the period."""
        return self.start <= instant < self.end

    def __str__(self) -> str:
        """The start and the end, as days where they are midnights."""
        return f"{_said(self.start)}..{_said(self.end)}"


_EXAMPLE: Final = "datetime(2025, 1, 1, tzinfo=UTC)"


def _month(text: str) -> datetime:
    found = _MONTH.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 1 <= int(found[2]) <= 12 or not int(found[1]):
        message = f"Period.months takes months such as '2025-01'; got {text!r}"
        raise ModelDefinitionError(message)
    return datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)


def _day(text: str) -> datetime:
    try:
        found = date.fromisoformat(text)
    except (TypeError, ValueError) as wrong:
        message = f"Period.days takes days such as '2025-01-31'; got {text!r}"
        raise ModelDefinitionError(message) from wrong
    return datetime(found.year, found.month, found.day, tzinfo=UTC)


def _said(instant: datetime) -> str:
    is_midnight = instant.timetz().replace(tzinfo=None) == datetime.min.time()
    return instant.date().isoformat() if is_midnight else instant.isoformat()


@dataclass(frozen=True)
class Model:
    """A predictor over features and over the scores of other models.

    `trained_on` is when the orders it learns from were placed, in `countries` (None: in all); an order
    teaches once its label is `labels_mature_after` old. `sampled` is the share of legitimate orders kept,
    each weighing as many as it stands for. With `without_caught` the orders that a customer places after
    one of theirs was known as fraud teach nothing.

    A model that stands as a feature must have mature labels before this one's period begins; or, with
    `out_of_fold`, share the period: then this one learns from scores that were each given by a model
    trained without that order.
    """

    name: str
    features: "tuple[Feature | Model, ...]"
    predictor: Predictor
    trained_on: Period
    imputer: Filling | None = Median(flag_missing=True)
    preprocessors: tuple[Preprocessor, ...] = ()
    calibration: Calibration | None = None
    countries: tuple[str, ...] | None = None
    labels_mature_after: timedelta = days(45)
    sampled: float = 1.0
    without_caught: bool = False
    out_of_fold: bool = False

    def __post_init__(self) -> None:
        """Check the whole tree."""
        if not isinstance(self.name, str) or not MODEL_NAME.fullmatch(self.name):
            message = (
                "a model's name begins with a small letter and goes on with at most 63 small letters, "
                f"digits and underscores, such as basket_risk; got {self.name!r}"
            )
            raise ModelDefinitionError(message)
        for name in ("features", "preprocessors", "countries"):
            given = getattr(self, name)
            if isinstance(given, list):
                object.__setattr__(self, name, tuple(given))
        self._check_features()
        self._check_parts()
        self._check_preprocessors()
        self._check_names()
        for submodel in self.submodels:
            self._check_fence(submodel)

    # What it is made of -----------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its features and submodels, in their order."""
        return tuple(each.name for each in self.features)

    @property
    def submodels(self) -> "tuple[Model, ...]":
        """The models among its features."""
        return tuple(each for each in self.features if isinstance(each, Model))

    @cached_property
    def nodes(self) -> "tuple[Model, ...]":
        """Every model of the tree once, each after those it asks; this one is the last."""
        found: dict[str, Model] = {}
        for submodel in self.submodels:
            found |= {each.name: each for each in submodel.nodes}
        return (*found.values(), self)

    @cached_property
    def leaves(self) -> tuple[Feature, ...]:
        """Every feature of the tree once: its own first, then those that only submodels ask."""
        own: list[Feature] = [each for each in self.features if not isinstance(each, Model)]
        found = {each.name: each for each in own}
        for submodel in self.submodels:
            for each in submodel.leaves:
                found.setdefault(each.name, each)
        return tuple(found.values())

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of its features that are categories."""
        return tuple(each.name for each in self.features if each.categories is not None)

    @property
    def steps(self) -> tuple[Preprocessor, ...]:
        """The preprocessors, before them one-hot columns for categories that nothing else takes."""
        taken = {name for each in self.preprocessors for name in self.encoded_by(each)}
        left = [name for name in self.categorical if name not in taken]
        if not left or self.predictor.takes_categories:
            return self.preprocessors
        return (OneHot(*left), *self.preprocessors)

    def encoded_by(self, preprocessor: Preprocessor) -> tuple[str, ...]:
        """The features that one of the preprocessors takes: those it names, or the categories left."""
        if not isinstance(preprocessor, Encoder):
            return ()
        if preprocessor.features:
            return preprocessor.features
        named = {n for each in self.preprocessors if isinstance(each, Encoder) for n in each.features}
        return tuple(name for name in self.categorical if name not in named)

    # As a feature of another --------------------------------------------------------------------------

    unit = "probability"
    between = (0.0, 1.0)
    missing = "never"
    categories = None

    @property
    def doc(self) -> str:
        """What its score means as a feature."""
        return f"Probability of fraud by the model {self.name.replace('_', ' ')}."

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides its training but the orders: equal means described alike."""
        return sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()

    @cached_property
    def described(self) -> dict[str, Any]:
        """Everything that decides its training but the orders, as a manifest holds it."""
        return {
            "grammar": GRAMMAR,
            "name": self.name,
            "features": [
                {"model": each.digest} if isinstance(each, Model) else {"feature": each.declaration}
                for each in self.features
            ],
            "predictor": told(self.predictor),
            "imputer": None if self.imputer is None else told(self.imputer),
            "preprocessors": list(map(told, self.preprocessors)),
            "calibration": None if self.calibration is None else told(self.calibration),
            "trained_on": [self.trained_on.start.isoformat(), self.trained_on.end.isoformat()],
            "countries": None if self.countries is None else sorted(self.countries),
            "labels_mature_after": self.labels_mature_after.total_seconds(),
            "sampled": self.sampled,
            "without_caught": self.without_caught,
            "out_of_fold": self.out_of_fold,
        }

    def __str__(self) -> str:
        """The tree, a line for each feature and model."""
        return "\n".join(self._drawn(""))

    def _drawn(self, indent: str) -> Iterator[str]:
        yield f"{indent}{self.name}  {self.predictor}, {self.trained_on}"
        for each in self.features:
            if isinstance(each, Model):
                yield from each._drawn(f"{indent}  ")  # noqa: SLF001 - of the same class
            else:
                yield f"{indent}  {each.name}"

    # What makes it one -------------------------------------------------------------------------------

    def _refuse(self, why: str) -> None:
        message = f"model '{self.name}': {why}"
        raise ModelDefinitionError(message)

    def _check_features(self) -> None:
        if not isinstance(self.features, tuple) or not self.features:
            self._refuse(f"features= takes at least one feature in a tuple; got {self.features!r}")
        for each in self.features:
            if isinstance(each, str):
                self._refuse(f"{each!r} is a name and no feature; write by_name({each!r})")
            if not isinstance(each, Model | ScoreOf) and not is_declared(each):
                self._refuse(
                    f"its features are models or declared with @feature or the grammar's words; got {each!r}"
                )
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            self._refuse(f"it has {twice} twice among its features; name each once")

    def _check_parts(self) -> None:
        for name, kinds, may_be_none in (
            ("predictor", get_args(Predictor), False),
            ("imputer", get_args(Filling), True),
            ("calibration", get_args(Calibration), True),
            ("trained_on", (Period,), False),
            ("labels_mature_after", (timedelta,), False),
            ("without_caught", (bool,), False),
            ("out_of_fold", (bool,), False),
        ):
            part = getattr(self, name)
            if not isinstance(part, kinds) and not (may_be_none and part is None):
                words = ", ".join(kind.__name__ for kind in kinds)
                self._refuse(f"{name}= takes one of {words}{' or None' if may_be_none else ''}; got {part!r}")
        if self.labels_mature_after < timedelta(0):
            self._refuse(f"labels cannot mature before their orders; got {self.labels_mature_after!r}")
        is_share = isinstance(self.sampled, int | float) and 0 < self.sampled <= 1
        if not is_share or isinstance(self.sampled, bool):
            self._refuse(f"sampled= is the share of legitimate orders kept, in (0, 1]; got {self.sampled!r}")
        countries = () if self.countries is None else self.countries
        if self.countries is not None and (not isinstance(countries, tuple) or not countries):
            self._refuse(
                f"countries= takes country codes in a tuple, or None for all; got {self.countries!r}"
            )
        wrong = [each for each in countries if not isinstance(each, str) or not _COUNTRY.fullmatch(each)]
        if wrong or len(set(countries)) != len(countries):
            self._refuse(
                f"countries= takes codes of two capitals, each once, such as 'DE'; got {countries!r}"
            )
        if self.imputer is None and not self.predictor.takes_missing:
            self._refuse(
                f"{self.predictor} does not learn from missing values; "
                "give an imputer, such as Median(flag_missing=True)"
            )

    def _check_preprocessors(self) -> None:
        if not isinstance(self.preprocessors, tuple):
            self._refuse(f"preprocessors= takes a tuple; got {self.preprocessors!r}")
        taken: set[str] = set()
        is_sparse = is_scaled = False
        for each in self.preprocessors:
            if not isinstance(each, get_args(Preprocessor)):
                self._refuse(f"{each!r} is no preprocessor; write one of models.preprocess")
            names = self.encoded_by(each)
            if isinstance(each, Encoder) and not names:
                self._refuse(
                    f"{type(each).__name__} takes nothing: name features, for no categories are left"
                )
            if strangers := [name for name in names if name not in self.columns]:
                self._refuse(f"{type(each).__name__} takes {strangers}, which are not among its features")
            if again := sorted(taken & set(names)):
                self._refuse(f"{again} are taken by two preprocessors; leave them to one")
            taken |= set(names)
            if is_scaled and isinstance(each, Encoder):
                encoder = type(each).__name__
                self._refuse(
                    f"{encoder} takes values as they are, and a Scaler before it changes them; "
                    f"put the Scaler behind {encoder}"
                )
            if is_sparse and isinstance(each, Scaler) and each.with_mean:
                self._refuse(
                    "a mean taken away would fill the sparse columns of Hashing; "
                    "write Scaler(with_mean=False)"
                )
            is_sparse = is_sparse or isinstance(each, Hashing)
            is_scaled = is_scaled or isinstance(each, Scaler)
        left = [name for name in self.categorical if name not in taken]
        if is_scaled and left and self.predictor.takes_categories:
            self._refuse(
                f"a Scaler would make numbers of {left}, which {self.predictor} takes as categories; "
                "leave it out, for trees need none"
            )
        condensed = [isinstance(each, Condenser) for each in self.preprocessors]
        if sum(condensed) > 1:
            self._refuse("one Condenser is enough")

    def _check_names(self) -> None:
        seen: dict[str, Any] = {}
        for each in list(self._everything((self,))):  # all of them first: a circle has no digest
            other = seen.setdefault(each.name, each)
            if other is not each and not _same(other, each):
                self._refuse(f"two things of the tree are called '{each.name}'; give one another name")

    def _everything(self, above: "tuple[Model, ...]") -> "Iterator[Feature | Model]":
        """Everything in the tree, itself included."""
        yield self
        for each in self.features:
            if not isinstance(each, Model):
                yield each
            elif any(each is one for one in above):
                self._refuse(f"'{each.name}' is asked by itself; a model stands above what it asks")
            else:
                yield from each._everything((*above, each))  # noqa: SLF001 - of the same class

    def _check_fence(self, submodel: "Model") -> None:
        mature_at = submodel.trained_on.end + submodel.labels_mature_after
        if mature_at <= self.trained_on.start:
            return
        if self.out_of_fold and submodel.trained_on == self.trained_on:
            return
        begins = _said(self.trained_on.start)
        message = (
            f"'{self.name}' trains from {begins} on the scores of '{submodel.name}', whose labels are not "
            f"mature until {_said(mature_at)}; start '{self.name}' later or end '{submodel.name}' sooner"
        )
        message += (
            f", or give '{submodel.name}' the same period, for with out_of_fold=True both may share one"
            if self.out_of_fold
            else ", or give both the same period and "
            f"'{self.name}' out_of_fold=True, so that it learns from out-of-fold scores"
        )
        raise ModelDefinitionError(message)


def _same(one: Any, other: Any) -> bool:
    """Whether two things of one name are one thing written twice."""
    if isinstance(one, Model) and isinstance(other, Model):
        return one.digest == other.digest
    if isinstance(one, Model) or isinstance(other, Model):
        return False
    return bool(one.declaration == other.declaration)
