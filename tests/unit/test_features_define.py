"""Declarations check themselves, name themselves and mean what they say."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from features.aggregates import (
    Category,
    Count,
    Distance,
    Distinct,
    IsNew,
    Max,
    Mean,
    OrderAmount,
    Ratio,
    Share,
    SinceFirst,
    SinceLast,
    Sum,
)
from features.catalogue import STARTER, amount, by_name, by_names
from features.conditions import at_least, is_in, near_hour, same, was
from features.define import Feature, compute, days, feature, features_digest, hours, minutes, weeks, years
from features.errors import FeatureDefinitionError, FeatureValueError
from features.events import Order
from features.history import Row
from features.rates import Rates, RatesError
from tests.strategies import NOON, an_order


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (Count(over=hours(1)), "orders_count_1h"),
        (Count(over=minutes(90)), "orders_count_90m"),
        (Count(over=hours(24)), "orders_count_1d"),
        (Sum("amount", over=days(1)), "amount_sum_1d"),
        (Mean("amount", over=days(30)), "amount_mean_30d"),
        (Max("amount", over=days(7)), "amount_max_7d"),
        (Distinct("shipping_address", over=days(30)), "shipping_address_distinct_30d"),
        (SinceLast(), "days_since_last_order"),
        (SinceFirst(), "days_since_first_order"),
        (IsNew("card"), "card_is_new"),
        (Ratio(amount, to=Mean("amount", over=days(30))), "amount_over_amount_mean_30d"),
        (amount, "amount"),
    ],
)
def test_a_feature_is_called_what_it_declares(declared: Feature, name: str) -> None:
    assert declared.name == name


def test_a_misspelt_number_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        FeatureDefinitionError, match=r"a history has no number 'amuont'; did you mean 'amount'\?"
    ):
        Mean("amuont", over=days(30))


def test_a_mean_of_devices_is_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match=r"'device' is a text; count its values with Distinct"):
        Mean("device", over=days(30))


def test_a_misspelt_value_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeatureDefinitionError, match=r"does not remember 'devcie'; did you mean 'device'\?"):
        Distinct("devcie", over=days(30))
    with pytest.raises(
        FeatureDefinitionError, match="does not remember 'shoe_size'; there are billing_address, card"
    ):
        IsNew("shoe_size")


@pytest.mark.parametrize("over", [timedelta(0), days(-1), timedelta(seconds=90), 30])
def test_a_window_is_whole_minutes(over: timedelta) -> None:
    with pytest.raises(FeatureDefinitionError, match="Count looks over"):
        Count(over=over)


def test_a_feature_without_a_docstring_is_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match="feature 'nope' has no docstring"):

        @feature(unit="1", between=(0, 1), missing="never")
        def nope(order: Order) -> float:
            return order.amount


def test_a_feature_that_asks_for_more_than_the_order_is_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match="must take the order and nothing else"):

        @feature(unit="1", between=(0, 1), missing="never")  # type: ignore[arg-type]
        def greedy(order: Order, history: object) -> float:
            """Too much."""
            return order.amount


def test_a_feature_that_answers_nan_is_named() -> None:
    @feature(unit="1", between=(0, 1), missing="never")
    def broken(order: Order) -> float:
        """Never a number."""
        return order.amount * float("nan")

    with pytest.raises(FeatureValueError, match="feature 'broken' answered nan on order 'o1'; answer"):
        broken.value(an_order(), None)


def test_a_ratio_compares_features_only() -> None:
    with pytest.raises(FeatureDefinitionError, match=r"Ratio compares features such as .*, not 'amount'"):
        Ratio(amount, to="amount")  # type: ignore[arg-type]


def test_an_order_never_counts_itself() -> None:
    row = Row(9)
    row.remember(an_order())

    assert compute(
        (Count(over=days(1)), SinceLast(), SinceFirst()), an_order(), {"customer": row.as_of(NOON)}
    ) == (
        0.0,
        None,
        None,
    )


def test_a_guest_has_no_history_and_not_an_empty_one() -> None:
    features = (
        Count(over=days(1)),
        Sum("amount", over=days(1)),
        IsNew("device"),
        Distinct("card", over=days(1)),
    )

    assert compute(features, an_order(customer_id=None, device_id="phone"), {}) == (None, None, None, None)
    assert compute(features, an_order(device_id="phone"), {"customer": Row(1).as_of(NOON)}) == (
        0.0,
        0.0,
        1.0,
        0.0,
    )


def test_nothing_is_compared_with_a_mean_of_zero() -> None:
    row = Row(9)
    row.remember(an_order(order_id="free", amount=0, placed_at=NOON - days(1)))

    assert Mean("amount", over=days(30)).value(an_order(), row.as_of(NOON)) == 0.0
    assert Ratio(amount, to=Mean("amount", over=days(30))).value(an_order(), row.as_of(NOON)) is None


def test_amounts_of_different_currencies_are_told_in_major_units() -> None:
    def told(currency: str, minor: int) -> tuple[float | None, ...]:
        row = Row(9)
        row.remember(an_order(order_id="before", amount=minor, currency=currency, placed_at=NOON - hours(1)))
        words = (amount, *(word("amount", over=days(1)) for word in (Sum, Mean, Max)))
        return compute(words, an_order(amount=minor, currency=currency), {"customer": row.as_of(NOON)})

    assert told("EUR", 5000) == (50.0,) * 4
    assert told("JPY", 5000) == (5000.0,) * 4
    assert told("KWD", 5001) == (5.001,) * 4


def test_a_ratio_is_rounded_once() -> None:
    row = Row(9)
    for number, each in enumerate((1, 1, 1)):
        row.remember(an_order(order_id=f"o{number}", amount=each, placed_at=NOON - days(number + 1)))
    third = Ratio(Sum("amount", over=days(1)), to=Sum("amount", over=days(30)))

    assert third.value(an_order(), row.as_of(NOON)) == 1 / 3


def test_two_instants_a_microsecond_apart_are_apart() -> None:
    row = Row(9)
    row.remember(an_order(placed_at=NOON - timedelta(microseconds=1)))

    assert SinceLast().value(an_order(), row.as_of(NOON)) == 1 / 86_400_000_000


def test_the_digest_holds_what_features_compute_and_their_order() -> None:
    count, mean = Count(over=days(1)), Mean("amount", over=days(30))

    assert features_digest([count, mean]) == features_digest([Count(over=hours(24)), mean])
    assert features_digest([count, mean]) != features_digest([mean, count])
    assert features_digest([count]) != features_digest([Count(over=days(2))])


def test_the_digest_of_a_function_holds_its_body_and_not_its_layout() -> None:
    def declared(version: int) -> Feature:
        if version == 1:

            @feature(unit="1", between=(0, None), missing="never")
            def doubled(order: Order) -> float:
                """Twice."""
                return order.amount * 2

        elif version == 2:

            @feature(unit="1", between=(0, None), missing="never")
            def doubled(order: Order) -> float:
                """Two times."""
                # the same in another layout
                return (order.amount
                        * 2)  # fmt: skip

        else:

            @feature(unit="1", between=(0, None), missing="never")
            def doubled(order: Order) -> float:
                """Twice."""
                return order.amount * 3

        return doubled

    first, same, other = (features_digest([declared(version)]) for version in (1, 2, 3))

    assert first == same
    assert first != other


def _scaled(by: int, *, doubled: bool) -> Feature:
    def twice(number: int) -> int:
        return number * (2 if doubled else 3)

    @feature(unit="1", between=(0, None), missing="never")
    def scaled(order: Order) -> float:
        """Scaled."""
        return sum(by * twice(each) for each in (order.amount,))

    return scaled


def test_the_digest_of_a_function_holds_the_constants_it_names() -> None:
    assert features_digest([_scaled(1, doubled=True)]) == features_digest([_scaled(1, doubled=True)])
    assert features_digest([_scaled(1, doubled=True)]) != features_digest([_scaled(2, doubled=True)])
    assert "by = 1" in _scaled(1, doubled=True).declaration


def test_the_digest_of_a_function_holds_the_functions_it_calls_and_what_they_name() -> None:
    assert features_digest([_scaled(1, doubled=True)]) != features_digest([_scaled(1, doubled=False)])
    assert "twice(number: int)\nreturn number * (2 if doubled else 3)" in _scaled(1, doubled=True).declaration
    assert "_MICROSECONDS_A_DAY = 86400000000" in by_name("account_age_days").declaration


def test_a_feature_that_names_what_may_change_is_refused() -> None:
    risky = ["XX"]

    with pytest.raises(
        FeatureDefinitionError, match="feature 'is_risky' names 'risky', a list, which no digest"
    ):

        @feature(unit="0 or 1", between=(0, 1), missing="never")
        def is_risky(order: Order) -> float:
            """1 when the country is risky, else 0."""
            return order.country in risky


def test_two_constants_of_one_name_are_both_in_the_digest() -> None:
    def declared(inner: int) -> Feature:
        def part(number: int) -> int:
            return number * factor

        factor = inner
        return _with_a_factor_of_two(part)

    assert features_digest([declared(3)]) != features_digest([declared(5)])


def _with_a_factor_of_two(part: Callable[[int], int]) -> Feature:
    factor = 2

    @feature(unit="1", between=(0, None), missing="never")
    def scaled(order: Order) -> float:
        """Scaled."""
        return factor * part(order.amount)

    return scaled


def test_what_is_a_set_reads_the_same_in_every_run() -> None:
    risky = frozenset({"XX", "YY", "ZZ"})

    @feature(unit="0 or 1", between=(0, 1), missing="never")
    def is_risky(order: Order) -> float:
        """1 when the country is risky, else 0."""
        return order.country in risky

    assert is_risky.declaration.endswith("risky = {'XX', 'YY', 'ZZ'}")


def test_a_feature_is_found_by_its_name() -> None:
    assert by_name("orders_count_30d") == Count(over=days(30))
    assert by_names(["amount", "card_is_new"]) == (amount, IsNew("card"))


def test_a_misspelt_feature_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        FeatureDefinitionError, match=r"no feature 'order_count_30d'; did you mean 'orders_count_30d'\?"
    ):
        by_name("order_count_30d")


def test_the_starter_features_are_what_trained_models_know_them_as() -> None:
    """A change here makes every model trained before refuse to load: say so in the changelog."""
    assert features_digest(STARTER) == "c7a43bb5dfc84b8000d735bf540f7391ce9fe35e8ba2c02363713dbe25430898"


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Count(over=days(1), by=["device"]), "no such entity; did you mean 'device'"),
        (lambda: Distance(by=[]), "no such entity; there are"),
        (lambda: Count(["fraud"], over=days(1)), "no such fact about an order"),
        (lambda: Sum(["amount"], over=days(1)), "no number"),
        (lambda: Distinct(["device"], over=days(1)), "does not remember"),
        (lambda: same(["card"]), "does not remember"),
        (lambda: was(["fraud"]), "no such fact"),
        (lambda: at_least(["pieces"], 1), "no number"),
        (lambda: near_hour(True), "near_hour takes 1 to 11 hours, not True"),
        (lambda: near_hour(2.0), "near_hour takes 1 to 11 hours, not 2.0"),
        (lambda: Count(over=days(1), where=same), "a condition such as"),
        (lambda: Share(same, over=days(1)), "a condition such as"),
        (lambda: same("card") & same, "a condition such as"),
        (lambda: same("card") and was("declined"), "joined with &"),
        (lambda: Ratio(OrderAmount, to=OrderAmount), "Ratio compares features"),
        (lambda: Ratio(Category("country", ("DE",)), to=amount), "Ratio compares features"),
        (lambda: Category(["country"], ("DE",)), "no such text"),
        (lambda: Category("country", (["DE"],)), "a tuple of different texts"),
        (lambda: Category("country", ("DE", "other")), "leave it out"),
        (lambda: days(True), r"days\(\) takes a whole number"),
        (lambda: hours("3"), r"hours\(\) takes a whole number"),
        (lambda: minutes(0.5), r"minutes\(\) takes a whole number"),
        (lambda: weeks(None), r"weeks\(\) takes a whole number"),
        (lambda: years(10**12), r"years\(\) takes a whole number"),
    ],
)
def test_what_no_feature_can_mean_is_refused_where_it_is_written(
    declare: Callable[[], Any], told: str
) -> None:
    with pytest.raises(FeatureDefinitionError, match=told):
        declare()


@pytest.mark.parametrize(
    ("per_unit", "told"),
    [
        ({"USD": "1e99999999"}, "must be worth a positive number"),
        ({"USD": " 0.9"}, "must be worth a positive number"),
        ({"USD": "1_0"}, "must be worth a positive number"),
        ({"USD": "0.0"}, "must be worth a positive number"),
        ([("USD", "0.9")], "per_unit= takes what one unit"),
    ],
)
def test_a_rate_is_a_plain_positive_decimal(per_unit: Any, told: str) -> None:
    with pytest.raises(RatesError, match=told):
        Rates("2026-01", base="EUR", per_unit=per_unit)


@pytest.mark.parametrize("declared", [(5, "EUR"), ("2026-01", ["EUR"])])
def test_the_words_of_a_table_of_rates_are_texts(declared: tuple[Any, Any]) -> None:
    with pytest.raises(RatesError, match="need a"):
        Rates(declared[0], base=declared[1], per_unit={})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"between": 5}, "between="),
        ({"between": (0,)}, "between="),
        ({"between": (None, 5)}, "between="),
        ({"between": (float("nan"), 5)}, "between="),
        ({"unit": None}, "a text for unit="),
        ({"missing": None}, "a text for missing="),
    ],
)
def test_what_a_feature_says_of_itself_is_checked(words: dict[str, Any], told: str) -> None:
    def said(order: Order) -> float:
        """Something."""
        return order.amount

    with pytest.raises(FeatureDefinitionError, match=told):
        feature(**{"unit": "1", "between": (0, 1), "missing": "never"} | words)(said)


def test_conditions_that_differ_have_names_that_differ() -> None:
    card, ip, device = same("card"), same("ip"), same("device")
    conditions = [
        *(~(card & ip), ~card & ip, ~(card & ip) & device, ~(card & ip & device), ~card & ip & device),
        *(~(~(card & ip) & device), ~(card & ip) & ~device),
        *(is_in("country", "DE", "FR"), is_in("country", "DE FR")),
    ]

    assert len({each.name for each in conditions}) == len(conditions)
    assert (~(card & ip)).doc == "other than those both with the same card and with the same IP address"


def _at_most(largest: int) -> Callable[[int], bool]:
    def allowed(number: int) -> bool:
        return number <= largest

    return allowed


def _between(low: int, high: int) -> Feature:
    above, below = _at_most(low), _at_most(high)

    @feature(unit="0 or 1", between=(0, 1), missing="never")
    def is_between(order: Order) -> float:
        """Whether it lies between two."""
        return below(order.amount) and not above(order.amount)

    return is_between


def test_the_digest_of_a_function_holds_each_of_two_made_by_one_function() -> None:
    assert features_digest([_between(1, 5)]) == features_digest([_between(1, 5)])
    assert len({features_digest([_between(*each)]) for each in ((1, 5), (2, 5), (1, 6))}) == 3


def _with_preset(preset: int) -> Feature:
    def scaled(number: int, by: int = preset) -> float:
        return number * by

    @feature(unit="1", between=(0, None), missing="never")
    def preset_amount(order: Order) -> float:
        """The amount, scaled."""
        return scaled(order.amount)

    return preset_amount


def _with_preset_by_name(preset: int) -> Feature:
    def scaled(number: int, *, by: int = preset) -> float:
        return number * by

    @feature(unit="1", between=(0, None), missing="never")
    def preset_amount(order: Order) -> float:
        """The amount, scaled."""
        return scaled(order.amount)

    return preset_amount


@pytest.mark.parametrize("made", [_with_preset, _with_preset_by_name])
def test_the_digest_of_a_function_holds_what_arguments_are_preset_to(made: Callable[[int], Feature]) -> None:
    assert features_digest([made(2)]) == features_digest([made(2)])
    assert features_digest([made(2)]) != features_digest([made(3)])


def _tripled(function: Callable[[Order], float]) -> Callable[[Order], float]:
    @wraps(function)
    def thrice(order: Order) -> float:
        return 3 * function(order)

    return thrice


def test_a_decorator_that_changes_what_a_feature_answers_is_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match="'tripled_amount' is wrapped by a decorator"):

        @feature(unit="1", between=(0, None), missing="never")
        @_tripled
        def tripled_amount(order: Order) -> float:
            """The amount, three times."""
            return order.amount


def test_a_feature_may_catch_an_error_and_match_a_pattern() -> None:
    @feature(unit="1", between=(0, None), missing="never")
    def caught(order: Order) -> float:
        """The amount over the revision."""
        try:
            return order.amount / order.revision
        except ZeroDivisionError as error:
            match error.args:
                case (first, *others):
                    return len(first) + len(others)
                case _:
                    return 0

    assert caught.value(an_order(amount=10, revision=0), None) == len("division by zero")


LATER = 3


def _with_two_of_one_name(order: Order) -> float:
    return LATER * order.amount + sum(map(lambda LATER: LATER, (1,)))  # noqa: C417, N803 - on purpose


def test_the_digest_holds_a_constant_whose_name_is_also_that_of_an_argument_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def declared() -> Feature:
        @feature(unit="1", between=(0, None), missing="never")
        def twice_named(order: Order) -> float:
            """The amount, scaled."""
            return _with_two_of_one_name(order)

        return twice_named

    before = features_digest([declared()])
    monkeypatch.setitem(globals(), "LATER", 4)
    assert features_digest([declared()]) != before


def test_a_feature_that_names_what_is_defined_below_it_is_refused() -> None:
    with pytest.raises(FeatureDefinitionError, match="names 'below', which is not there yet"):

        @feature(unit="1", between=(0, None), missing="never")
        def early(order: Order) -> float:
            """The amount."""
            return below(order.amount)

    def below(amount: int) -> int:
        return amount
