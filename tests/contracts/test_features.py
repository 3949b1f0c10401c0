"""What every feature of the catalogue keeps to, without being asked."""

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.catalogue import CATALOGUE
from features.define import Feature, compute, features_digest
from features.events import Order
from features.history import Row
from features.remembered import ENTITIES
from models.reasons import CUSTOMER_TEXTS, customer_text, reasons_for, with_unknown
from tests.parity.stories import NOON, Story, stories
from tests.parity.ways import Rows, keys_of, through_rows
from tests.strategies import an_order

every_feature = pytest.mark.parametrize("feature", CATALOGUE, ids=lambda each: each.name)
# a few each: what is subtle is tried harder, for all features at once, by tests/parity
a_few = settings(max_examples=4, suppress_health_check=list(HealthCheck), deadline=None)
a_story = stories(longest=10)


def last_of(feature: Feature, story: Story, *, through_bytes: bool = False) -> float | None:
    """The feature of the story's last order."""
    rows = Rows(100, through_bytes=through_bytes, entities=(feature.entity,))
    (value,) = (
        feature.value(order, rows.histories(order).get(feature.entity))
        for order in rows.play(story)
        if order is story.last
    )
    return value


@every_feature
def test_it_is_named_and_documented(feature: Feature) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", feature.name)
    assert re.fullmatch(r"[A-Z0-9a-z].{10,250}\.", feature.doc)
    assert feature.missing
    assert feature.declaration
    assert feature.entity is None or feature.entity in ENTITIES


@every_feature
def test_it_has_a_reason_for_the_analyst_and_one_that_a_customer_may_read(feature: Feature) -> None:
    for reason in with_unknown(reasons_for([feature])):
        told = customer_text(reason.code)

        assert reason.text
        assert told in CUSTOMER_TEXTS.values()
        assert told != reason.text


@pytest.mark.parametrize("told", CUSTOMER_TEXTS.values())
def test_what_a_customer_may_read_neither_accuses_nor_says_how_to_evade(told: str) -> None:
    measured = {word for each in CATALOGUE for word in each.name.split("_")} - {"order", "payment", "account"}
    measured -= {"address", "is", "by", "of", "to", "a", "this"}
    accusing = {
        "fraud",
        "suspicious",
        "suspect",
        "risk",
        "stolen",
        "false",
        "abuse",
        "unusual",
        "blocked",
        "you",
    }

    words = set(told.lower().split())

    assert not words & (measured | accusing)
    assert not re.search(r"\d", told)


@every_feature
def test_it_has_a_unit_and_bounds(feature: Feature) -> None:
    low, high = feature.between

    assert feature.unit
    assert high is None or low < high


@every_feature
@a_few
@given(story=a_story)
def test_it_is_finite_and_within_its_bounds_or_missing(feature: Feature, story: Story) -> None:
    value = last_of(feature, story)

    low, high = feature.between
    if value is not None:
        assert type(value) is float
        assert math.isfinite(value)
        assert low <= value <= (math.inf if high is None else high)
    elif feature.missing == "never":
        pytest.fail(f"{feature.name} is never missing, and was")


@every_feature
@a_few
@given(story=a_story)
def test_it_cannot_see_the_present_nor_the_future(feature: Feature, story: Story) -> None:
    """Neither orders placed from now on, nor what becomes known from now on."""
    now = story.last.placed_at
    past = tuple(
        each
        for each in story.events
        if (each.placed_at if isinstance(each, Order) else each.known_at) < now
        # a revision that moves its order out of the past takes it out of the past
        or (
            isinstance(each, Order)
            and any(
                one.order_id == each.order_id and one is not each
                for one in story.events
                if isinstance(one, Order)
            )
        )
    )

    assert last_of(feature, story) == last_of(feature, Story(past, story.last))


@every_feature
@a_few
@given(story=a_story)
def test_it_is_unaffected_by_what_other_entities_do(feature: Feature, story: Story) -> None:
    mine = dict(keys_of(story.last)).get(feature.entity or "")
    orders = [each for each in story.events if isinstance(each, Order)]
    own = {
        each.order_id
        for each in orders
        if mine is not None and dict(keys_of(each)).get(feature.entity or "") == mine
    }
    # a revision also speaks for the order of another entity that it takes the place of
    related = tuple(each for each in story.events if each.order_id in own)

    assert last_of(feature, story) == last_of(feature, Story(related, story.last))


@every_feature
@a_few
@given(data=st.data(), story=a_story)
def test_it_does_not_depend_on_the_order_of_arrival(
    feature: Feature, data: st.DataObject, story: Story
) -> None:
    # orders of one instant stay as they arrived, and of an order the highest revision counts
    orders = {each.placed_at: each for each in story.events if isinstance(each, Order)}
    distinct = list({each.order_id: each for each in orders.values()}.values())
    facts = [each for each in story.events if not isinstance(each, Order)]
    otherwise = data.draw(st.permutations([*distinct, *facts]))

    assert last_of(feature, Story((*distinct, *facts), story.last)) == last_of(
        feature, Story(tuple(otherwise), story.last)
    )


@every_feature
@a_few
@given(story=a_story)
def test_it_is_the_same_after_a_restart_and_of_an_order_that_went_through_json(
    feature: Feature, story: Story
) -> None:
    again = Story(
        tuple(
            Order.model_validate_json(each.model_dump_json()) if isinstance(each, Order) else each
            for each in story.events
        ),
        Order.model_validate_json(story.last.model_dump_json()),
    )

    assert last_of(feature, story) == last_of(feature, again, through_bytes=True)


@every_feature
@a_few
@given(story=a_story)
def test_it_answers_the_same_twice_and_changes_nothing(feature: Feature, story: Story) -> None:
    rows = Rows(100, through_bytes=False, entities=(feature.entity,))
    for order in rows.play(story):
        if order is not story.last:
            continue
        before = {at: rows.recall(at).encode() for at in keys_of(order)}
        as_sent = order.model_dump_json()

        first = compute([feature], order, rows.histories(order))
        second = compute([feature], order, rows.histories(order))

        assert first == second
        assert {at: rows.recall(at).encode() for at in keys_of(order)} == before
        assert order.model_dump_json() == as_sent


@every_feature
def test_it_answers_or_is_missing_on_an_empty_history_and_without_one(feature: Feature) -> None:
    assert isinstance(feature.value(an_order(), Row(1).as_of(NOON)), float | None)
    without = feature.value(an_order(customer_id=None), None)
    assert isinstance(without, float | None)
    if feature.entity is not None:
        assert without is None  # missing, never zero, and never another's


@every_feature
def test_its_declaration_and_its_name_are_its_own(feature: Feature) -> None:
    assert [each for each in CATALOGUE if features_digest([each]) == features_digest([feature])] == [feature]
    assert [each for each in CATALOGUE if each.name == feature.name] == [feature]


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=25)
@given(story=a_story, data=st.data())
def test_a_vector_does_not_depend_on_its_neighbours(story: Story, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(CATALOGUE))
    values = dict(
        zip(
            CATALOGUE,
            through_rows(lambda _: CATALOGUE, story, 100, through_bytes=False)[-1],
            strict=True,
        )
    )

    again = through_rows(lambda _: shuffled, story, 100, through_bytes=False)[-1]

    assert again == tuple(values[each] for each in shuffled)
