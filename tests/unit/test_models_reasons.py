from features.catalogue import CATALOGUE, by_name
from models.reasons import UNKNOWN, code_of, reasons_for, text_of, with_unknown


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
