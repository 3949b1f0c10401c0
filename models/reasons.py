"""Why an order looked risky: each feature's stable reason code, an analyst's words, and a customer's.

Code and words come from the feature's own name and docstring, so a new feature has both at once, and a
code changes only when the name does. Both are published with a model: a docstring mended later changes
no decision of a model in service. A reason is given for a feature that pushed this order's
probability up. Pushes are path attributions (Saabas 2014) for a forest, coefficient times value for a
logistic regression: a first reading, not exact Shapley values.

What a customer may read is looked up by the code, and is one of few sentences: none says what was
measured, over which time, or from which value on, so none says what to change; and none accuses.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from features.define import Feature
from models.decision import Reason
from models.flat_arrays import Floats

__all__ = [
    "CUSTOMER_TEXTS",
    "UNKNOWN",
    "code_of",
    "customer_text",
    "handed_down",
    "reasons_for",
    "text_of",
    "with_unknown",
]

UNKNOWN = "_UNKNOWN"
"""The ending of a reason code that says: not the feature's value counted, but that it has none."""

_CLAIM: Final = re.compile(r"1 when (.+?), else 0")

CUSTOMER_TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "order": "We need a little more time to check this order",
        "payment": "We could not confirm the payment details of this order",
        "address": "We could not confirm the address details of this order",
        "contact": "We could not confirm the contact details of this order",
        "account": "We could not confirm the account details of this order",
    }
)
"""Everything that a customer is ever told, by what it is about."""

_ABOUT: Final[Sequence[tuple[str, frozenset[str]]]] = (
    # first, because a customer must not read of a card or an account what was found out about it
    ("order", frozenset({"FRAUD", "REFUNDED", "RETURNED", "CANCELLED", "REPAID", "DELIVERED", "MERCHANT"})),
    ("contact", frozenset({"EMAIL", "PHONE"})),
    ("address", frozenset({"ADDRESS", "SHIPPING", "BILLING", "KM"})),
    ("payment", frozenset({"CARD", "PAYMENT", "ISSUER", "DECLINED"})),
    ("order", frozenset({"GIFT"})),
    ("account", frozenset({"ACCOUNT", "CUSTOMER", "GUEST"})),
)
"""What a code is about by the words in it, the first that fits; whatever fits none is about the order."""


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


def customer_text(code: str) -> str:
    """What a customer may read where a decision gives this code, whoever defined the feature.

    Every code has one, those of rejections and of submodels too; two codes often have the same.

    >>> customer_text("BY_CARD_CUSTOMER_DISTINCT_30D")
    'We could not confirm the payment details of this order'
    """
    words = frozenset(code.upper().split("_"))
    return CUSTOMER_TEXTS[next((about for about, named in _ABOUT if words & named), "order")]


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


def handed_down(pushes: Floats, node: int, moved_by: Floats, places: Sequence[int]) -> None:
    """Give what a node pushed, the column `node` of `pushes`, on to what moved its own score.

    `moved_by` has the pushes on the node's score, by row, in the columns of `pushes` that `places` names.
    Those that moved it the way it pushes share its push in proportion, so that the pushes of a row keep their
    sum and none given on is larger than the node's. Where none moved it that way, the push stays the node's
    own: its score counted for being what it is, not for what this order changed in it.
    """
    push = pushes[:, node].copy()
    same_way = np.maximum(moved_by * np.sign(push)[:, np.newaxis], 0.0)
    # one after the other: a row's sum must not depend on how many rows there are
    together = np.add.accumulate(same_way, axis=1)[:, -1]
    has_moved = together > 0.0
    whole = np.where(has_moved, together, 1.0)[:, np.newaxis]
    pushes[:, places] += same_way / whole * push[:, np.newaxis]
    pushes[has_moved, node] = 0.0
