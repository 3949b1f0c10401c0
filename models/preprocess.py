"""What becomes of columns between the imputer and the predictor: preprocessors as frozen constructors.

Each takes the columns the one before it left, in the order written. `OneHot`, `Ordinal`, `Hashing` and
`TargetEncoding` name the features they take; without names, all those with categories that none before them
took. A column that is made belongs to the feature it was made from, so reasons still name features.
"""

from dataclasses import dataclass

from models.errors import ModelDefinitionError
from models.parameters import check, claim, number, seed, whole

__all__ = ["Condenser", "Hashing", "OneHot", "Ordinal", "Preprocessor", "Scaler", "TargetEncoding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """Every column less its mean in training, over its standard deviation there.

    Each order counts once, whatever it weighs. A column of one value in training is only less its mean; what
    is unknown stays unknown. It stands behind the encoders, for these take values as they are.
    """

    with_mean: bool = claim(True)
    with_std: bool = claim(True)

    def __post_init__(self) -> None:
        """Check the parameters."""
        check(self)


@dataclass(frozen=True, slots=True, init=False)
class OneHot:
    """A column of 1.0 or 0.0 for each value met in training; a value not met there has none of them.

    Unknown is a value like others: it has a column where training met it.
    """

    features: tuple[str, ...]

    def __init__(self, *features: str) -> None:
        """Take the names of features, by position."""
        _take(self, features)


@dataclass(frozen=True, slots=True, init=False)
class Ordinal:
    """The rank of the value among those met in training, from 0.0; a value not met there is -1.0.

    What is unknown and not filled stays unknown, and is -1.0 where training met nothing unknown.
    """

    features: tuple[str, ...]

    def __init__(self, *features: str) -> None:
        """Take the names of features, by position."""
        _take(self, features)


@dataclass(frozen=True, slots=True, init=False)
class Hashing:
    """A feature of many whole numbers (codes) as one of `dimensions` columns, 1.0 or -1.0, by murmur3.

    Two codes may share a column; a code not met in training has one too. What is unknown, or no whole number
    of 32 bits, has none; such a number among the training orders stops the training. (Weinberger et al.,
    Feature Hashing for Large Scale Multitask Learning, 2009)
    """

    features: tuple[str, ...]
    dimensions: int = whole(1024, least=2, most=2**22)

    def __init__(self, *features: str, dimensions: int = 1024) -> None:
        """Take the names of features, by position, and how many columns each has."""
        _take(self, features, dimensions=dimensions)


@dataclass(frozen=True, slots=True, init=False)
class TargetEncoding:
    """The share of fraud among the training orders of the same value, drawn towards that of all orders.

    The labels are those known to training and no others; each training order is encoded from the other folds,
    so that it never sees its own label. A value not met in training has the share of all orders; unknown is
    a value like others. `smooth` is how many orders the share of all counts for; "auto" lets the values' own
    spread say it. (Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, 2001)
    """

    features: tuple[str, ...]
    smooth: float | str = number("auto", least=0, also=("auto",))
    folds: int = whole(5, least=2)
    random_state: int = seed()

    def __init__(
        self, *features: str, smooth: float | str = "auto", folds: int = 5, random_state: int = 0
    ) -> None:
        """Take the names of features, by position, and how scikit-learn's TargetEncoder is to work."""
        _take(self, features, smooth=smooth, folds=folds, random_state=random_state)


def _take(encoder: "Encoder", features: tuple[str, ...], **parameters: float | str) -> None:
    """Set the fields of a constructor whose features come by position, and check them."""
    if not all(isinstance(each, str) for each in features) or len(set(features)) != len(features):
        message = f"{type(encoder).__name__} takes the names of features, each once; got {features!r}"
        raise ModelDefinitionError(message)
    for name, value in {"features": features, **parameters}.items():
        object.__setattr__(encoder, name, value)
    check(encoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condenser:
    """Leaves out every column that is other than zero in fewer than `least` training orders.

    For the sparse columns of `OneHot` and `Hashing`, most of which never occur; so it stands behind them. An
    order counts once, whatever it weighs, and unknown is other than zero.
    """

    least: int = whole(1, least=1)

    def __post_init__(self) -> None:
        """Check the parameters."""
        check(self)


Encoder = OneHot | Ordinal | Hashing | TargetEncoding
Preprocessor = Scaler | Encoder | Condenser
