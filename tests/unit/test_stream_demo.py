"""What a person sees of the demo: counts, campaigns, money, reasons, at any size of terminal."""

import contextlib
import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from features.events import Order
from models.decision import Decision, ModelRef, Reason, Source
from models.policy import Action, score_of
from stream.cli import app
from stream.demo_tally import Assumptions, Tally
from stream.demo_view import NEXT, LiveView, Row, Steps, line, summary, what_next
from stream.demo_worker import DemoError, DemoWorker
from stream.settings import Settings
from stream.shop import Campaign, FraudKind, Placed, ShopSimulator
from stream.watch import why

AT = datetime(2026, 11, 22, 10, 42, 7, tzinfo=UTC)
TRIES = Reason(
    code="PAYMENT_ATTEMPTS", feature="payment_attempts", text="How often payment was tried for this order"
)
NEW_DEVICE = Reason(
    code="DEVICE_IS_NEW",
    feature="device_is_new",
    text="Whether no remembered order of the customer had this device",
)


def _placed(
    number: int, *, amount: int = 5000, currency: str = "EUR", kind: FraudKind | None = None,
    campaign: Campaign | None = None,
) -> Placed:  # fmt: skip
    order = Order(
        order_id=f"s8-2608260000-{number:07d}",
        customer_id=f"s8-c{number:06d}",
        placed_at=AT - timedelta(days=60),
        amount=amount,
        currency=currency,
    )
    return Placed(order, kind is not None, kind, campaign)


def _decision(
    placed: Placed, action: Action, *, p: float = 0.5, reasons: tuple[Reason, ...] = ()
) -> Decision:
    return Decision(
        decision_id=UUID(int=1),
        order_id=placed.order.order_id,
        customer_id=placed.order.customer_id,
        action=action,
        p_fraud=p,
        score=score_of(p),
        reasons=reasons,
        model=ModelRef(name="starter", version="1", digest="d"),
        policy="p",
        features={"payment_attempts": 5.0, "device_is_new": 1.0},
        source=Source(topic="orders", partition=0, offset=0),
    )


def _tally(*decided: tuple[Placed, Action]) -> Tally:
    tally = Tally()
    for second, (placed, action) in enumerate(decided):
        sent_at = AT + timedelta(seconds=second)
        tally.count(placed, action, latency=0.02, sent_at=sent_at, now=float(second))
    return tally


def _campaign(actions: Iterable[Action], *, orders: int, first: int = 1) -> Tally:
    return _tally(
        *(
            (_placed(nth, kind="card_testing", campaign=Campaign(7, nth, orders)), action)
            for nth, action in enumerate(actions, first)
        )
    )


def _told(tally: Tally, *, rows: int = 30) -> LiveView:
    """A view that has been told of many orders, the last of them declined for two reasons."""
    view = LiveView(tally, 50.0, began=0.0)
    view.now = 65.0
    for number in range(rows - 1):
        placed = _placed(number)
        view.add(Row(AT, _decision(placed, Action.APPROVE, p=0.004), placed, 0.012), shown=True)
    placed = _placed(999, amount=160_846, kind="account_takeover")
    declined = _decision(placed, Action.DECLINE, p=0.9125, reasons=(TRIES, NEW_DEVICE))
    view.add(Row(AT, declined, placed, 0.021), shown=True)
    return view


def _seen(view: LiveView, columns: int, rows: int) -> list[str]:
    console = Console(
        file=io.StringIO(), width=columns, height=rows, force_terminal=True, color_system=None, emoji=False
    )
    with console.capture() as captured:
        console.print(view, soft_wrap=False, end="")
    return captured.get().split("\n")


# ---------------------------------------------------------------------- money and counts


def test_saved_is_the_stopped_fraud_less_reviews_and_honest_orders_declined() -> None:
    tally = _tally(
        (_placed(1, amount=100_000, kind="reshipping"), Action.DECLINE),
        (_placed(2, amount=10_000, currency="GBP", kind="reshipping"), Action.REVIEW),
        (_placed(3, amount=30_000, kind="refund_abuse"), Action.APPROVE),
        (_placed(4, amount=8_000), Action.DECLINE),
        (_placed(5, amount=9_900), Action.REVIEW),
        (_placed(6, amount=9_900), Action.APPROVE),
    )

    assert tally.stopped_cents == 100_000 + 11_500
    assert tally.fraud_cents == 141_500
    assert tally.review_cents == 2 * 400
    assert tally.lost_cents == 2_000
    assert tally.saved_cents == 111_500 - 800 - 2_000
    assert (tally.held_up, tally.honest) == (2, 3)


def test_catching_little_by_declining_much_shows_as_a_loss() -> None:
    tally = _tally(
        (_placed(1, amount=100, kind="card_testing"), Action.DECLINE),
        (_placed(2, amount=100_000), Action.DECLINE),
    )

    assert tally.saved_cents == 100 - 25_000
    assert any(
        "saved            -249 EUR" in each for each in summary(tally, undecided=0, doubled=0, others=0)
    )


def test_the_assumptions_are_said_beside_the_money() -> None:
    assert str(Assumptions()) == "review 4 EUR, honest decline 25% of its amount, 1 GBP = 1.15 EUR"
    assert any("assumed: review 4 EUR" in each for each in _seen(_told(_tally()), 80, 24))


def test_latencies_are_told_as_shares_of_the_orders() -> None:
    tally = Tally()
    assert tally.latency(0.5) == 0
    for number in range(100, 0, -1):
        tally.count(_placed(number), Action.APPROVE, latency=number / 1000, sent_at=AT, now=0.0)

    assert tally.latency(0.5) == pytest.approx(0.051)
    assert tally.latency(0.99) == pytest.approx(0.1)


def test_the_rate_is_of_late_not_of_the_whole_run() -> None:
    tally = Tally()
    for number in range(1000):
        tally.count(_placed(number), Action.APPROVE, latency=0.01, sent_at=AT, now=number / 100)

    assert tally.per_second(10.0) == pytest.approx(100, rel=0.02)
    assert tally.per_second(60.0) == 0


# ---------------------------------------------------------------------- campaigns


def test_a_campaign_begins_goes_on_and_is_caught() -> None:
    through, stopped = Action.APPROVE, Action.DECLINE

    assert str(_campaign([through], orders=14).campaigns[7]) == "1 of 14 orders, none stopped yet"
    assert (
        str(_campaign([through, through, stopped], orders=14).campaigns[7])
        == "3 of 14 orders, 1 stopped, first stopped after 2"
    )
    assert (
        str(_campaign([through, through] + 12 * [stopped], orders=14).campaigns[7])
        == "14 orders, 12 stopped, first stopped after 2"
    )
    assert str(_campaign([stopped], orders=1).campaigns[7]) == "1 order, 1 stopped, from the first on"


def test_a_campaign_that_got_through_is_not_passed_over() -> None:
    assert str(_campaign(3 * [Action.APPROVE], orders=3).campaigns[7]) == "3 orders, none stopped"


def test_a_campaign_of_an_earlier_run_counts_only_what_was_seen() -> None:
    campaign = _campaign([Action.REVIEW, Action.DECLINE], orders=9, first=8).campaigns[7]

    assert str(campaign) == "2 more of 9 orders, 2 stopped"
    assert campaign.is_over


def test_a_campaign_began_with_its_first_order_whichever_was_decided_first() -> None:
    later, first = (_placed(n, kind="reshipping", campaign=Campaign(1, n, 2)) for n in (2, 1))
    tally = Tally()
    tally.count(later, Action.DECLINE, latency=0.1, sent_at=AT + timedelta(seconds=1), now=0)
    tally.count(first, Action.APPROVE, latency=0.1, sent_at=AT, now=0)

    assert tally.campaigns[1].began_at == AT
    assert str(tally.campaigns[1]) == "2 orders, 1 stopped, first stopped after 1"


def test_the_shop_says_which_campaign_an_order_belongs_to() -> None:
    month = list(ShopSimulator(seed=7, start=AT, orders_per_day=300, beset=2).past(28))
    campaigns: dict[int, list[Placed]] = {}
    for placed in month:
        assert (placed.campaign is None) == (not placed.is_fraud)
        if placed.campaign is not None:
            campaigns.setdefault(placed.campaign.number, []).append(placed)

    assert len(campaigns) > 20
    for orders in campaigns.values():
        assert len({each.fraud_kind for each in orders}) == 1
        stands = [each.campaign for each in orders if each.campaign is not None]
        assert [each.nth for each in stands] == list(range(1, len(orders) + 1))
        assert len(orders) <= stands[0].orders


# ---------------------------------------------------------------------- the view


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40), (200, 60), (60, 15), (40, 10), (100, 8)])
def test_the_view_fills_any_terminal_and_never_overflows_it(columns: int, rows: int) -> None:
    seen = _seen(_told(_campaign(5 * [Action.DECLINE], orders=9)), columns, rows)

    assert len(seen) == rows
    assert max(len(each) for each in seen) <= columns
    assert "orders 5" in seen[1]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_a_usual_terminal_shows_all_an_analyst_asks_for(columns: int, rows: int) -> None:
    view = _told(_campaign([Action.APPROVE, Action.DECLINE, Action.DECLINE], orders=14))
    seen = _seen(view, columns, rows)
    text = "\n".join(seen)

    assert "live 1:05" in seen[0]
    assert "orders 3  approved 1  reviewed 0  declined 2" in text
    assert "p50 20 ms  p99 20 ms" in text
    assert "frauds stopped 2 of 3 (66.7%)" in text
    assert "saved 100 EUR = 100 of 150 fraud stopped - 0 reviews - 0 honest declined" in text
    assert "10:42:07  card testing     3 of 14 orders, 2 stopped, first stopped after 1" in text
    (row,) = (each for each in seen if "0000999" in each and "decline" in each)
    for shown in ("10:42:07", "c000999", "1,608.46 EUR", "0.912", "decline", "account takeover", "21"):
        assert shown in row
    assert "1,608.46 EUR at 10:42:07 was declined with 0.912; it is account takeover" in text
    assert "5 tries  How often payment was tried for this order" in text
    assert "yes  Whether no remembered order of the customer had this device" in text


def test_a_wide_terminal_shows_whole_ids_the_probability_as_a_bar_and_short_reasons() -> None:
    (row,) = (each for each in _seen(_told(_tally()), 140, 40) if "0000999" in each)

    assert "s8-2608260000-0000999" in row
    assert "s8-c000999" in row
    assert "0.912 #####" in row
    assert "account takeover: payment attempts, device is new" in row


def test_the_newest_decisions_are_the_ones_that_stay() -> None:
    seen = "\n".join(_seen(_told(_tally(), rows=100), 80, 24))

    assert "0000999" in seen
    assert "0000098" in seen
    assert "0000001 " not in seen


def test_what_is_out_of_the_ordinary_is_said_in_the_view() -> None:
    view = _told(_tally())
    view.notice = "the worker was ended by signal 9; another takes over"

    assert any(each.startswith("the worker was ended by signal 9") for each in _seen(view, 80, 24))


def test_an_empty_view_is_whole_too() -> None:
    view = LiveView(Tally(), 50.0, began=0.0)
    view.now = 0.0

    seen = _seen(view, 80, 24)

    assert len(seen) == 24
    assert "orders 0" in seen[1]


def test_ids_of_strangers_give_the_terminal_no_orders() -> None:
    view = LiveView(Tally(), 50.0, began=0.0)
    stranger = _decision(_placed(1), Action.DECLINE).model_copy(
        update={"order_id": "o\x1b[2J[red]", "customer_id": "c\x1b]0;x\x07"}
    )
    row = Row(AT, stranger, None, 0.0)
    view.add(row, shown=True)

    assert "\x1b" not in "\n".join(_seen(view, 140, 40))
    assert "\x1b" not in line(row)
    assert "[red]" in Text.from_markup(line(row)).plain


def test_why_tells_what_was_found() -> None:
    unknown = Reason(
        code="DEVICE_IS_NEW_UNKNOWN", feature="hour_of_day", text="Unknown: The hour the order was placed in"
    )
    strange = Reason(code="X", feature="no_such_feature", text="Something new")
    decision = _decision(_placed(1), Action.REVIEW, reasons=(TRIES, NEW_DEVICE, unknown, strange)).model_copy(
        update={"features": {"payment_attempts": 5.0, "device_is_new": 0.0, "no_such_feature": 1.25}}
    )

    assert why(decision) == [
        ("How often payment was tried for this order", "5 tries"),
        ("Whether no remembered order of the customer had this device", "no"),
        ("The hour the order was placed in", "unknown"),
        ("Something new", "1.25"),
    ]


# ---------------------------------------------------------------------- steps, summary, what next


def test_who_has_no_terminal_reads_each_step_when_it_begins_and_when_it_ends() -> None:
    out = io.StringIO()
    with Steps(Console(file=out)).step("broker", "starting [it]") as step:
        assert out.getvalue() == "broker  starting [it]\n"
        step.outcome = "answers"

    assert out.getvalue().splitlines()[1].startswith("broker  answers (")


def test_a_step_that_failed_is_not_said_to_have_ended() -> None:
    out = io.StringIO()
    with contextlib.suppress(DemoError), Steps(Console(file=out)).step("broker", "starting") as step:
        step.outcome = "answers"
        raise DemoError("no")

    assert out.getvalue() == "broker  starting\n"


def test_the_summary_tells_orders_without_a_decision_and_with_two() -> None:
    said = list(summary(_tally((_placed(1), Action.APPROVE)), undecided=2, doubled=1, others=0))

    assert "3 live orders, 1 decisions, 2 undecided, 1 decided twice" in said[0]


def test_every_command_that_is_proposed_afterwards_exists() -> None:
    makefile = Path(__file__).parents[2].joinpath("Makefile").read_text()
    for steps in NEXT.values():
        for command, _ in steps:
            program, *words = command.split()
            if program == "make":
                assert f"\n{words[0]}: " in makefile
                continue
            assert program == "fraudstream"
            named = [
                each for each in words if not each.startswith("-") and "." not in each and each != "mine"
            ]
            helped = CliRunner().invoke(app, [*named, "--help"], env={"COLUMNS": "200"})
            assert helped.exit_code == 0, command
            for option in (each for each in words if each.startswith("--")):
                assert option in helped.stdout, command


def test_what_was_set_for_the_demo_is_set_for_what_comes_next(tmp_path: Path) -> None:
    usual = "\n".join(what_next(Settings(broker="127.0.0.1:9092", home=Path(".fraudstream"))))
    other = "\n".join(what_next(Settings(broker="127.0.0.1:19092", home=tmp_path)))

    assert "export" not in usual
    assert f"export FRAUDSTREAM_BROKER=127.0.0.1:19092 FRAUDSTREAM_HOME={tmp_path}" in other


def test_a_worker_that_never_started_has_not_died(tmp_path: Path) -> None:
    assert DemoWorker(Settings(home=tmp_path), None).died() is None


# ---------------------------------------------------------------------- homes that can't be used


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")

    said = _refused(home)

    assert said.startswith(f"fraudstream: can't write in {home}: ")
    assert "FRAUDSTREAM_HOME" in said


def test_a_home_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.demo_home.NEEDS_MB", 10**9)

    said = _refused(tmp_path)

    assert said.startswith(f"fraudstream: {tmp_path} has ")
    assert "MB free and the demo needs 1000000000" in said


def _refused(home: Path) -> str:
    result = CliRunner().invoke(app, ["demo", "--once"], env={"FRAUDSTREAM_HOME": str(home)})
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    return result.stderr
