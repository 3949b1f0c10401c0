"""What an evaluation's page says, and that it stands for itself."""

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from models.examples import UNKNOWN, Examples
from models.labels import Labelling
from models.report import Evaluated, Scored, evaluated, page
from tests.strategies import NOON

DAY = timedelta(days=1)
LABELLING = Labelling(NOON + 90 * DAY, 45 * DAY)


def some_examples(rows: int = 1200, **changes: Any) -> Examples:
    chance = np.random.default_rng(4)
    risk = chance.random(rows)
    placed = np.datetime64("2024-01-01", "us") + (np.arange(rows) * 3600 * 1_000_000).astype(
        "timedelta64[us]"
    )
    labels = (chance.random(rows) < 0.3 * risk**2).astype(np.int8)
    labels[::50] = UNKNOWN
    missing = np.where(chance.random(rows) < 0.25, np.nan, chance.random(rows))
    told: dict[str, Any] = {
        "names": ("risk", "noise", "days_since_first_order"),
        "matrix": np.column_stack([risk, chance.random(rows), missing]),
        "labels": labels,
        "weights": np.ones(rows),
        "placed_at": placed,
        "known_at": placed + np.timedelta64(9, "D"),
        "caught_at": np.full(rows, np.datetime64("NaT"), "datetime64[us]"),
        "order_id": np.array([f"o{n}" for n in range(rows)], dtype=object),
        "customer_id": np.array([None if n % 9 == 0 else f"c{n % 200}" for n in range(rows)], dtype=object),
        "country": np.array(["DE" if n % 3 else "F<R" for n in range(rows)], dtype=object),
        "amount": chance.integers(100, 90_000, rows).astype(float),
        "action": np.array([None] * rows, dtype=object),
    }
    return Examples(**(told | changes))


def judged(examples: Examples, name: str, column: int) -> Scored:
    return Scored(
        name,
        examples.matrix[:, column],
        ("risk", "noise"),
        lambda rows: rows[:, column],
        learned_from="2023",
    )


def an_evaluation(**changes: Any) -> Evaluated:
    examples = some_examples(**changes)
    models = [judged(examples, "good", 0), judged(examples, "<b>blind</b>", 1)]
    return evaluated("An evaluation", examples, models, LABELLING)


@pytest.fixture(scope="module")
def found() -> Evaluated:
    return an_evaluation()


def test_only_orders_of_which_it_is_known_what_they_were_count(found: Evaluated) -> None:
    assert (found.orders, found.known) == (1200, 1176)
    assert found.frauds == found.judged[0].measures.frauds


def test_the_better_model_is_found_to_be_better(found: Evaluated) -> None:
    auc, precision = found.differences

    assert auc[:3] == ("good", "<b>blind</b>", "AUC")
    assert auc[3].low > 0
    assert auc[3].p_value < 0.05
    assert precision[2] == "average precision"
    good = {each.feature: each.lost for each in found.judged[0].importance}
    assert good["risk"] > 0.05
    assert good["noise"] == 0


def test_shapley_values_are_asked_of_frauds_and_others_in_turns() -> None:
    examples = some_examples()
    asked: list[Any] = []

    def shapley(rows: Any, others: Any) -> Any:
        asked.append((rows, others))
        return np.array([0.1234, 0.0])

    told = replace(judged(examples, "good", 0), shapley=shapley)
    found = evaluated("An evaluation", examples, [told], LABELLING)

    ((rows, others),) = asked
    assert (rows.shape, others.shape) == ((40, 2), (25, 2))
    kind = dict(zip(examples.matrix[:, 0], examples.labels, strict=True))
    assert [kind[row[0]] for row in rows] == [1, 0] * 20
    assert {each.feature: each.shapley for each in found.judged[0].importance} == {
        "risk": 0.1234,
        "noise": 0.0,
    }
    assert "<td>0.1234</td>" in page(found)


def test_groups_are_told_apart_and_small_ones_left_out(found: Evaluated) -> None:
    groups = found.judged[0].groups

    assert [name for name, _ in groups["country"]] == ["DE", "F<R"]
    assert [name for name, _ in groups["month"]] == ["2024-01", "2024-02"]
    assert {name for name, _ in groups["customer"]} == {"first order, or a guest", "ordered before"}
    assert len(groups["amount"]) == 4
    assert sum(each.orders for _, each in groups["amount"]) == found.known


def test_amounts_are_shown_from_the_least_to_the_greatest() -> None:
    amount = np.tile([500.0, 900.0, 2_000.0, 2_000.0, 11_000.0, 90_000.0], 200)

    groups = an_evaluation(amount=amount).judged[0].groups["amount"]

    assert [name.split()[0] for name, _ in groups] == ["0", "9.00", "20.00", "110.00"]


def test_a_sample_of_legitimate_orders_suggests_what_all_of_them_would() -> None:
    number = np.arange(1200)
    labels = (number % 40 == 0).astype(np.int8)
    # of the orders with 0.9 two thirds are fraud; in the sample nine of ten are
    alike, middling = number % 80 == 1, (number % 25 == 1) & (number % 80 != 1)
    risk = np.select([(labels == 1) | alike, middling], [0.9, 0.6], 0.1)
    matrix = np.column_stack([risk, risk, risk])
    fifth = [alike & (number % 400 == 1), middling & (number % 125 == 1), (risk == 0.1) & (number % 5 == 2)]
    is_kept = (labels == 1) | np.any(fifth, axis=0)

    def at(examples: Examples) -> Evaluated:
        return evaluated("An evaluation", examples, [judged(examples, "good", 0)], LABELLING)

    whole = at(some_examples(labels=labels, matrix=matrix))
    weights = np.where(labels == 1, 1.0, 5.0)
    sample = at(some_examples(labels=labels, matrix=matrix, weights=weights).where(is_kept))

    assert (whole.judged[0].policy.review_at, whole.judged[0].policy.decline_at) == (0.9, 1.0)
    assert sample.judged[0].policy == whole.judged[0].policy
    assert sample.fraud_share == pytest.approx(whole.fraud_share, abs=0.003)
    assert whole.judged[0].compromised is not None
    assert sample.judged[0].compromised is None
    assert "CP@100 can't be told of one" in page(sample)


def test_chance_is_never_said_to_be_impossible(found: Evaluated) -> None:
    html = page(found)

    assert "<td>p = 0.004</td>" in html
    assert "0.000" not in html.partition("more than chance")[2].partition("</table>")[0]


def test_the_page_needs_nothing_but_itself(found: Evaluated) -> None:
    html = page(found)

    assert not [
        word for word in ("<script", "http://", "https://", "src=", "@import", "url(") if word in html
    ]
    assert "<b>blind</b>" not in html  # what a model is called is no markup
    assert "F<R" not in html

    class Parts(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.seen: set[str] = set()

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.seen.add(tag)
            if tag not in {"meta", "line", "circle", "polyline", "polygon"}:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            self.seen.add(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parts = Parts()
    parts.feed(html)
    assert parts.open == []
    assert {"svg", "table", "polyline", "polygon"} <= parts.seen


def test_its_charts_are_whole_and_lie_within_their_frames(found: Evaluated) -> None:
    html = page(found)
    charts = [each.partition("</svg>")[0] + "</svg>" for each in html.split("<svg")[1:]]

    assert len(charts) == 5
    for text in charts:
        chart = ET.fromstring(f"<svg{text}")  # noqa: S314 - our own
        _, _, width, height = map(float, chart.attrib["viewBox"].split())
        for line in chart.iter("polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert -1 <= x <= width + 1
                assert -1 <= y <= height + 1


def test_a_cost_is_drawn_from_the_lowest_threshold_to_the_highest(found: Evaluated) -> None:
    (text,) = [each for each in page(found).split("<svg")[1:] if 'aria-label="Cost"' in each]
    chart = ET.fromstring(f"<svg{text.partition('</svg>')[0]}</svg>")  # noqa: S314 - our own

    lines = [each for each in chart.iter("polyline") if "stroke" in each.attrib]
    assert len(lines) == len(found.judged)
    for line in lines:
        across = [float(point.split(",")[0]) for point in line.attrib["points"].split()]
        assert across == sorted(across)


def test_it_states_label_maturity_and_what_nobody_knows(found: Evaluated) -> None:
    html = page(found)

    assert "An order counts once it is 45 days old" in html
    assert "24 of 1,200 orders are unknown and left out" in html
    assert "An order of which nothing was said is unknown, not legitimate." in html
    assert "No decision is known of these orders" in html


def test_it_says_what_declined_orders_hide() -> None:
    examples = some_examples()
    declined = np.array(["decline" if p > 0.8 else "approve" for p in examples.matrix[:, 0]], dtype=object)

    found = an_evaluation(action=declined)
    html = page(found)

    assert found.declined == (declined == "decline").sum()
    assert "What they would have become nobody knows" in html
    (_, without), _ = found.without_declined
    assert without.orders + found.declined_known == found.known


def test_orders_that_were_all_legitimate_make_a_page_too() -> None:
    found = an_evaluation(labels=np.zeros(1200, dtype=np.int8))

    assert found.judged[0].measures.auc is None
    assert "–" in page(found)  # noqa: RUF001
