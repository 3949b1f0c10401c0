"""Why an order looked risky: each feature's stable reason code and the words an analyst reads.

Code and words come from the feature's own name and docstring, so a new feature has both at once, and a
code changes only when the name does. Both are published with a model: a docstring mended later changes
no decision of a model in service. A reason is given for a feature that pushed this order's
probability up. Pushes are path attributions (Saabas 2014) for a forest, coefficient times value for a
logistic regression: a first reading, not exact Shapley values.
"""

import re
from collections.abc import Sequence
from typing import Final

from features.define import Feature
from models.decision import Reason

UNKNOWN = "_UNKNOWN"
"""The ending of a reason code that says: not the feature's value counted, but that it has none."""

_CLAIM: Final = re.compile(r"1 when (.+?), else 0")


def code_of(name: str) -> str:
    """The stable reason code of a feature.

    >>> code_of("orders_count_30d")
    'ORDERS_COUNT_30D'
    """
    return name.upper()


def text_of(feature: Feature) -> str:
    """What an analyst reads: the first sentence of the feature's docstring, without its full stop.

    A claim documented as "1 when X, else 0" reads "Whether X": a reason says that it counted, not which
    way it was; the decision's features do.
    """
    sentence = " ".join(feature.doc.split("\n\n")[0].split()).split(". ")[0].removesuffix(".")
    claim = _CLAIM.match(sentence)
    return f"Whether {claim[1]}" if claim else sentence


def reasons_for(features: Sequence[Feature]) -> tuple[Reason, ...]:
    """The reason of each feature, in their order; published with the model, so that its words stay."""
    return tuple(Reason(code=code_of(f.name), text=text_of(f), feature=f.name) for f in features)


def with_unknown(known: Sequence[Reason]) -> tuple[Reason, ...]:
    """Every reason a model can give: first those for known values, then those for unknown ones.

    The reason at `i` speaks of feature `i`, the one at `len(known) + i` of its being unknown, which is
    how `Walked.first` counts.
    """
    return (
        *known,
        *(Reason(code=r.code + UNKNOWN, text=f"Unknown: {r.text}", feature=r.feature) for r in known),
    )
