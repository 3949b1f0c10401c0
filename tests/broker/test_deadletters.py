"""Dead letters on a real broker: looked at, mended, sent again once whatever is killed."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

from stream import deadletters, topics
from stream.cli import app
from stream.deadletters import DeadLetterError, Filters, Place, find, list_dead_letters, redrive
from stream.desk import partition_of
from stream.ports import Record
from stream.settings import Settings
from tests.running import Worker, decisions, environment, orders, read, send
from tests.small_desk import Shop

run = CliRunner()


@pytest.fixture
def shop(settings: Settings) -> Settings:
    """Settings with every topic made."""
    topics.create(settings)
    return settings


def set_aside(settings: Settings, *records: tuple[bytes, bytes | None]) -> list[Place]:
    """Dead letters as the desk writes them, of records that never stood in the topic of orders."""
    desk = Shop(topics=settings.topics).desk
    out = Producer({**settings.confluent(), "message.max.bytes": 4_000_000})
    places: list[Place] = []

    def note(_: object, message: Message) -> None:
        places.append(Place(message.topic() or "", message.partition() or 0, message.offset() or 0))

    for offset, (key, value) in enumerate(records):
        partition = partition_of(key, settings.partitions)
        record = Record(
            settings.topics.orders, partition, offset, 1_790_000_000_000, key, value, (("shop", b"north"),)
        )
        effects = desk.decide([record], lambda *_: None)
        (rejected,) = [each for each in effects.produce if each.topic == settings.topics.rejected]
        out.produce(
            rejected.topic,
            rejected.value,
            rejected.key,
            rejected.partition,
            headers=list(rejected.headers),
            on_delivery=note,
        )
        assert out.flush(10) == 0
    return places


def an_order(order_id: str, **fields: Any) -> tuple[bytes, bytes]:
    order = {
        "order_id": order_id,
        "customer_id": "c1",
        "placed_at": "2026-01-01T00:00:00Z",
        "amount": 100,
        "currency": "EUR",
    } | fields
    return b"c1", json.dumps(order).encode()


def sent_again(settings: Settings, count: int) -> list[Message]:
    return read(settings, settings.topics.orders, count)


def test_a_dead_letter_goes_back_with_its_bytes_key_and_headers_and_only_once(shop: Settings) -> None:
    key, value = an_order("o1", currency="EUX")
    (place,) = set_aside(shop, (key, value))

    first = redrive(shop, places=[place])
    second = redrive(shop, places=[place])
    third = redrive(shop, filters=Filters(reason="unknown_currency"))

    assert (first.sent, first.before) == (1, 0)
    assert (second.sent, second.before) == (0, 1)
    assert (third.sent, third.before) == (0, 1)
    (message,) = sent_again(shop, 1)
    assert (message.key(), message.value()) == (key, value)
    assert message.partition() == partition_of(key, shop.partitions)
    assert message.headers() == [
        ("shop", b"north"),
        ("redriven_from", str(place).encode()),
        ("redriven_source", f"{shop.topics.orders}/{place.partition}/0".encode()),
    ]
    assert [letter.redriven for letter in list_dead_letters(shop, Filters())] == [True]


KILLED = """
import os, sys
import stream.kafka
from stream.cli import app

commit = stream.kafka._Producer.commit
when = sys.argv.pop()

def killed(self):
    if when == "after":
        commit(self)
    os._exit(9)

stream.kafka._Producer.commit = killed
app(sys.argv[1:])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_redrive_killed_at_its_commit_is_finished_by_the_next_and_never_doubled(
    shop: Settings, when: str
) -> None:
    set_aside(shop, an_order("o1", currency="EUX"), an_order("o2", amount=-1))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "dead-letters", "redrive", "--since", "1h", "--yes", when],
        env=environment(shop) | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == 9, killed.stderr
    done = redrive(shop, filters=Filters(since=datetime.now(UTC) - timedelta(hours=1)))

    assert (done.sent, done.before) == ((0, 2) if when == "after" else (2, 0))
    assert len(sent_again(shop, 2)) == 2


def test_what_was_sent_is_known_though_a_worker_holds_a_transaction_open_before_it(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = set_aside(shop, an_order("o1", currency="EUX"))
    worker = Producer({**shop.confluent(), "transactional.id": f"{shop.group}-other"})
    worker.init_transactions(10)
    goal = deadletters._Shelf.goal

    def open_first(*arguments: Any) -> Any:
        worker.begin_transaction()
        worker.produce(place.topic, b"unfinished", partition=place.partition)
        worker.flush(10)
        monkeypatch.undo()
        return goal(*arguments)

    monkeypatch.setattr(deadletters._Shelf, "goal", open_first)
    assert redrive(shop, places=[place]).sent == 1
    again: list[Any] = []
    second = threading.Thread(target=lambda: again.append(redrive(shop, places=[place])))
    second.start()
    time.sleep(1)
    worker.abort_transaction(10)
    second.join(60)

    assert [(each.sent, each.before) for each in again] == [(0, 1)]


def test_of_two_that_redrive_at_once_one_gives_way(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = set_aside(shop, an_order("o1", currency="EUX"))
    goal = deadletters._Shelf.goal

    def beaten(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert redrive(shop, places=[place]).sent == 1
        return goal(*arguments)

    monkeypatch.setattr(deadletters._Shelf, "goal", beaten)

    with pytest.raises(DeadLetterError, match="run it again"):
        redrive(shop, places=[place])
    assert len(sent_again(shop, 1)) == 1


def test_what_was_too_large_to_be_kept_whole_comes_whole_from_its_source(shop: Settings) -> None:
    key, value = b"c1", b'{"order_id": "big", "junk": "' + b"x" * 2_000_000 + b'"}'
    out = Producer({**shop.confluent(), "compression.type": "lz4", "message.max.bytes": 4_000_000})
    partition = partition_of(key, shop.partitions)
    out.produce(shop.topics.orders, value, key, partition)
    assert out.flush(10) == 0
    (place,) = set_aside(shop, (key, value))
    assert find(shop, place).letter.is_cut

    assert redrive(shop, places=[place]).left == ()

    first, again = sent_again(shop, 2)
    assert first.value() == again.value() == value


def test_what_was_cut_and_is_gone_from_its_source_is_left_and_named(shop: Settings) -> None:
    (place,) = set_aside(shop, (b"c1", b'{"order_id": "big", "junk": "' + b"x" * 2_000_000 + b'"}'))

    done = redrive(shop, places=[place])

    assert done.sent == 0
    assert [(where, "let the shop send it again" in why) for where, why in done.left] == [(place, True)]


def test_one_that_comes_from_its_source_does_not_end_the_reading_of_those_behind_it(shop: Settings) -> None:
    key, value = b"c1", b'{"order_id": "big", "junk": "' + b"x" * 2_000_000 + b'"}'
    partition = partition_of(key, shop.partitions)
    out = Producer({**shop.confluent(), "compression.type": "lz4", "message.max.bytes": 4_000_000})
    out.produce(shop.topics.orders, value, key, partition)
    assert out.flush(10) == 0
    set_aside(shop, (key, value))
    # more than is read at once
    send(shop, [(None, b"")] * 3_000, topic=shop.topics.rejected, partition=partition)
    set_aside(shop, an_order("o2", currency="EUX"))

    done = redrive(shop, filters=Filters(topic=shop.topics.orders))

    assert (done.sent, done.left) == (2, ())
    assert len(sent_again(shop, 3)) == 3


def test_one_from_a_topic_that_is_no_input_keeps_back_no_other(shop: Settings) -> None:
    elsewhere = shop.model_copy(update={"topics": shop.topics.model_copy(update={"orders": "elsewhere"})})
    (strange,) = set_aside(elsewhere, an_order("o1", currency="EUX"))
    set_aside(shop, an_order("o2", currency="EUX"))

    done = redrive(shop, filters=Filters(reason="unknown_currency"))

    assert done.sent == 1
    assert [(where, "FRAUDSTREAM_TOPICS__ORDERS" in why) for where, why in done.left] == [(strange, True)]


def test_a_corrected_order_is_sent_in_place_of_the_wrong_one_under_its_own_key(shop: Settings) -> None:
    (place,) = set_aside(shop, an_order("o1", currency="EUX"))
    _, corrected = an_order("o1", customer_id="c2")

    with pytest.raises(DeadLetterError, match="would be rejected too: unknown_currency"):
        redrive(shop, places=[place], corrected=an_order("o1", currency="EUX")[1])
    assert redrive(shop, places=[place], corrected=corrected).sent == 1

    (message,) = sent_again(shop, 1)
    assert (message.key(), message.value()) == (b"c2", corrected)


def test_a_dry_run_sends_nothing(shop: Settings) -> None:
    set_aside(shop, an_order("o1", currency="EUX"))
    told: list[str] = []

    redrive(
        shop, filters=Filters(reason="unknown_currency"), dry_run=True, told=lambda _, what: told.append(what)
    )

    assert [what.startswith("would be sent to ") for what in told] == [True]
    assert read(shop, shop.topics.orders, 0) == []


@pytest.mark.parametrize(
    "headers",
    [
        [("redriven", b"no number")], [("redriven", None)], [("reason", b"of another program")],
        [("reason", b"bad_amount"), ("source_partition", b"x"), ("source_offset", b"0")],
        [("reason", b"x"), ("source_partition", b"0"), ("source_offset", b"0"), ("value_bytes", b"")],
    ],
)  # fmt: skip
def test_what_no_desk_wrote_hides_no_dead_letter(
    shop: Settings, headers: list[tuple[str, bytes | None]]
) -> None:
    out = Producer(shop.confluent())
    for partition in range(shop.partitions):
        out.produce(shop.topics.rejected, b"strange", b"k", partition, headers=headers)
    assert out.flush(10) == 0
    (place,) = set_aside(shop, an_order("o1", currency="EUX"))

    assert [letter.place for letter in list_dead_letters(shop, Filters())] == [place]
    assert redrive(shop, filters=Filters(topic=shop.topics.orders)).sent == 1


def test_a_place_without_a_dead_letter_is_refused(shop: Settings) -> None:
    with pytest.raises(DeadLetterError, match="there is no dead letter at"):
        find(shop, Place(shop.topics.rejected, 0, 17))
    with pytest.raises(DeadLetterError, match="no dead letter came from"):
        find(shop, Place(shop.topics.orders, 9, 17))


@pytest.fixture
def command(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(shop).items():
        monkeypatch.setenv(name, value)
    return shop


def test_the_list_counts_by_reason_and_shows_nothing_of_the_customer(command: Settings) -> None:
    set_aside(
        command,
        an_order("o1", currency="EUX", customer_id="c1"),
        (b"c1", b"call me: 555-1234"),
        an_order("o3", currency="EUX"),
    )

    plain = run.invoke(app, ["dead-letters", "list", "--limit", "2"])
    machine = run.invoke(app, ["dead-letters", "list", "--json"])

    assert plain.exit_code == machine.exit_code == 0
    assert plain.stdout.splitlines()[0].split() == ["2", "unknown_currency"]
    assert plain.stdout.count(command.topics.rejected) == 2
    for secret in ("c1", "555", "o1"):
        assert secret not in plain.stdout + machine.stdout
    lines = [json.loads(line) for line in machine.stdout.splitlines()]
    assert {"reason": "unknown_currency", "dead_letters": 2, "redriven": 0} in lines
    assert len([line for line in lines if "place" in line]) == 3


def test_the_filters_leave_through_what_they_say(shop: Settings) -> None:
    set_aside(shop, an_order("o1", currency="EUX"), an_order("o2", amount=-1))
    now = datetime.now(UTC)

    def reasons(filters: Filters) -> Sequence[str]:
        return [letter.reason for letter in list_dead_letters(shop, filters)]

    assert reasons(Filters(reason="bad_amount")) == ["bad_amount"]
    assert len(reasons(Filters(topic=shop.topics.orders))) == 2
    assert reasons(Filters(topic="elsewhere")) == []
    assert len(reasons(Filters(since=now - timedelta(hours=1)))) == 2
    assert reasons(Filters(since=now + timedelta(hours=1))) == []


def test_show_gives_every_byte_as_it_came(command: Settings) -> None:
    value = b'{"order_id": "o1", \xff\x00 broken'
    (place,) = set_aside(command, (b"c1", value))

    raw = run.invoke(app, ["dead-letters", "show", str(place), "--raw"])
    machine = run.invoke(app, ["dead-letters", "show", str(place), "--json"])
    plain = run.invoke(app, ["dead-letters", "show", str(place)])

    assert raw.stdout_bytes == value
    told = json.loads(machine.stdout)
    assert told["key"]["text"] == "c1"
    assert told["value"]["text"] is None
    assert told["headers"][0]["text"] == "north"
    assert told["refused_now"].startswith("bad_utf8")
    assert "\\xff" in plain.stdout


def test_without_yes_nothing_is_sent(command: Settings) -> None:
    set_aside(command, an_order("o1", currency="EUX"))

    result = run.invoke(app, ["dead-letters", "redrive", "--reason", "unknown_currency"])

    assert (result.exit_code, result.stderr) == (
        1,
        "fraudstream: say --yes to send them, or --dry-run to see what would be sent\n",
    )
    assert read(command, command.topics.orders, 0) == []


def test_a_redriven_order_is_decided_once_its_cause_is_mended(
    shop: Settings, registry: Path, tmp_path: Path
) -> None:
    shutil.copytree(registry, shop.home / "models")
    key, value = orders(1)[0]
    wrong = json.dumps(json.loads(value) | {"currency": "EUX"}).encode()
    with Worker(shop, tmp_path / "log") as worker:
        send(shop, [(key, wrong)])
        decisions(shop, 1)
        (letter,) = list_dead_letters(shop, Filters())
        redrive(shop, places=[letter.source], corrected=value)
        first, second = decisions(shop, 2)
        assert worker.stop() == 0, worker.said()

    assert (first["order_id"], first["action"], first["p_fraud"]) == ("o0", "review", None)
    assert second["order_id"] == "o0"
    assert second["p_fraud"] is not None
