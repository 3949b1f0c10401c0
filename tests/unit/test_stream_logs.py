"""What a worker logs, and what it must not."""

import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from stream import logs
from stream.logs import set_up_logging, tell_generation
from stream.ports import Assignment, Batch, Record, Refused
from stream.settings import Settings

MAIL = "ada@example.com"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook, logs._generation
    levels = {name: logging.getLogger(name).level for name in logs._CHATTY}
    yield
    root.handlers[:], level, sys.excepthook, threading.excepthook, logs._generation = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _crash() -> None:
    try:
        {}[MAIL]
    except KeyError as error:
        raise ValueError(f"no row for {MAIL}") from error


def test_json_is_one_object_a_line_with_worker_group_and_generation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging(Settings(log_format="json", worker="w1", group="g"))
    log = logging.getLogger("fraudstream.test")
    log.info("opened %d partitions", 3)
    tell_generation(lambda: 7)
    try:
        _crash()
    except ValueError:
        log.exception("the writer failed")

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())

    assert first.pop("at").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "fraudstream.test",
        "message": "opened 3 partitions",
        "worker": "w1",
        "group": "g",
    }
    assert second["generation"] == 7
    assert "ValueError" in second["exception"]
    assert "in _crash" in second["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_strangers_exception_says_is_not_logged_but_its_type_and_place_are(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(Settings(log_format=form))  # type: ignore[arg-type]
    log = logging.getLogger("mode.services")
    try:
        _crash()
    except ValueError as error:
        log.exception("Crashed reason=%r", error)  # noqa: TRY401 - as mode does

    said = capsys.readouterr().err
    assert MAIL not in said
    assert "KeyError" in said
    assert "ValueError" in said
    assert "in _crash" in said


def test_what_our_own_exceptions_say_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings())
    error = Refused("the offsets have expired; run 'fraudstream topics repair-offsets'")
    logging.getLogger("fraudstream").error("refused", exc_info=error)

    assert "run 'fraudstream topics repair-offsets'" in capsys.readouterr().err


def test_debug_shows_what_is_otherwise_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings(log_level="debug"))
    try:
        _crash()
    except ValueError:
        logging.getLogger("fraudstream").exception("failed")

    assert MAIL in capsys.readouterr().err


def test_an_exception_nobody_caught_is_logged_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings(log_format="json"))
    try:
        _crash()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    thread = threading.Thread(target=_crash, name="report")
    thread.start()
    thread.join()

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["message"], second["message"]) == ("the program failed", "thread 'report' failed")
    assert MAIL not in first["exception"] + second["exception"]


def test_libraries_are_heard_when_it_matters(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings())

    for name in ("aiokafka.consumer.group_coordinator", "faust.app", "stream.worker"):
        logging.getLogger(name).info("joined")
        logging.getLogger(name).warning("heartbeat failed")

    assert capsys.readouterr().err.count("joined") == 0
    set_up_logging(Settings(log_level="error"))
    logging.getLogger("aiokafka").warning("again")
    assert capsys.readouterr().err == ""


def test_a_batch_or_record_in_a_log_line_does_not_show_what_it_holds() -> None:
    record = Record("orders", 0, 7, 0, MAIL.encode(), MAIL.encode(), (("mail", MAIL.encode()),))
    batch = Batch("orders", 0, [record], Assignment(1, "m", frozenset({0})), None)

    assert MAIL not in f"{record!r} {batch!r}"
    assert "offset=7" in repr(record)


def test_what_a_library_repeats_is_told_once_in_ten_seconds_with_its_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging(Settings())
    log = logging.getLogger("aiokafka")
    (handler,) = logging.getLogger().handlers

    for second in range(25):
        record = log.makeRecord("aiokafka", logging.ERROR, "", 0, "node %d is away", (second % 3,), None)
        record.created = second
        handler.handle(record)
        ours = logging.getLogger("fraudstream").makeRecord(
            "fraudstream", logging.INFO, "", 0, "so far", (), None
        )
        handler.handle(ours)

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("aiokafka: ")[2] for line in lines if "away" in line] == [
        "node 0 is away",
        "node 1 is away (and 9 times before)",
        "node 2 is away (and 9 times before)",
    ]
    assert sum("so far" in line for line in lines) == 25


def test_a_library_that_never_says_the_same_twice_fills_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings())
    log = logging.getLogger("aiokafka")
    (handler,) = logging.getLogger().handlers
    (seldom,) = [each for each in handler.filters if isinstance(each, logs._Seldom)]

    for number in range(5_000):
        log.warning(f"request {number} failed")  # noqa: G004 - as some libraries do
        log.warning("the node is away")

    assert len(seldom._heard) < 1_000
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5_001, "what is new is told, what is repeated is not"
