import numpy as np
import pytest

from features.catalogue import CATALOGUE, by_name
from features.decode import REJECTION_CODES
from models.reasons import (
    CUSTOMER_TEXTS,
    UNKNOWN,
    code_of,
    customer_text,
    handed_down,
    reasons_for,
    text_of,
    with_unknown,
)


def test_every_feature_has_a_code_and_an_analysts_text_of_its_own() -> None:
    reasons = with_unknown(reasons_for(CATALOGUE))
    assert len({reason.code for reason in reasons}) == 2 * len(CATALOGUE)
    assert len({reason.text for reason in reasons}) == 2 * len(CATALOGUE)
    assert all(reason.text and not reason.text.endswith(".") for reason in reasons)


def test_a_known_value_and_a_missing_one_are_different_reasons() -> None:
    known, unknown = with_unknown(reasons_for([by_name("orders_count_30d")]))
    assert (known.code, unknown.code) == ("ORDERS_COUNT_30D", "ORDERS_COUNT_30D" + UNKNOWN)
    assert known.text == "Orders the customer placed in the 30 days before this one"
    assert unknown.text == "Unknown: Orders the customer placed in the 30 days before this one"
    assert known.feature == unknown.feature == "orders_count_30d"


def test_a_claim_reads_as_a_claim_and_not_as_a_number() -> None:
    assert text_of(by_name("is_weekend")) == "Whether the order was placed on a Saturday or Sunday in UTC"


def test_only_the_first_sentence_is_shown() -> None:
    assert text_of(by_name("amount_sum_1d")) == (
        "Total amount of the orders the customer placed in the day before this one"
    )


def test_a_code_changes_only_with_the_features_name() -> None:
    assert code_of("amount_over_amount_mean_30d") == "AMOUNT_OVER_AMOUNT_MEAN_30D"


def test_no_text_names_a_feature_where_an_analyst_needs_words() -> None:
    names = {each.name for each in CATALOGUE if "_" in each.name}
    for reason in reasons_for(CATALOGUE):
        assert not names & set(reason.text.replace(",", "").split())


@pytest.mark.parametrize(
    ("code", "about"),
    [
        ("BY_CARD_CUSTOMER_DISTINCT_30D", "payment"),
        ("SHIPPING_ADDRESS_IS_NEW_UNKNOWN", "address"),
        ("BY_EMAIL_CARD_DISTINCT_90D", "contact"),
        ("ACCOUNT_AGE_DAYS", "account"),
        ("AMOUNT", "order"),
        # what is known of a card is not for whoever holds it
        ("BY_CARD_FRAUD_SHARE_90D_KNOWN_AFTER_7D", "order"),
        ("A_SUBMODEL_OF_A_SHOPS_OWN", "order"),
    ],
)
def test_a_customer_reads_what_is_looked_at_and_no_more(code: str, about: str) -> None:
    assert customer_text(code) == CUSTOMER_TEXTS[about]


def test_a_rejected_order_has_words_for_its_customer_too() -> None:
    assert {customer_text(code) for code in REJECTION_CODES} <= set(CUSTOMER_TEXTS.values())


def test_a_push_is_shared_by_those_that_moved_the_node_its_way() -> None:
    """The node is column 2; it asks columns 0 and 1."""
    pushes = np.array([[1.0, 0.0, 6.0], [1.0, 0.0, -6.0], [1.0, 0.0, 6.0], [1.0, 0.0, 0.0]])
    moved_by = np.array([[1.0, 2.0], [1.0, -2.0], [-1.0, -2.0], [1.0, 1.0]])

    handed_down(pushes, 2, moved_by, [0, 1])

    assert pushes.tolist() == [[3.0, 4.0, 0.0], [1.0, -6.0, 0.0], [1.0, 0.0, 6.0], [1.0, 0.0, 0.0]]


def test_a_push_over_hardly_anything_stays_finite() -> None:
    pushes = np.array([[0.0, 0.0, 6.0]])

    handed_down(pushes, 2, np.array([[5e-324, 5e-324]]), [0, 1])

    assert pushes.tolist() == [[3.0, 3.0, 0.0]]
