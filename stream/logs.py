"""What a worker says of itself: one line a happening, as text or as JSON, and never an order's values.

A message that we wrote names ids of ours, topics, partitions and offsets. The message of somebody else's
exception may hold what it stumbled over, a customer's address included: of those only the type and the
place are logged, unless `log_level` is debug.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final

from pythonjsonlogger.json import JsonFormatter

from stream.settings import Settings

__all__ = ["set_up_logging", "tell_generation"]

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_CHATTY: Final = ("faust", "mode", "aiokafka", "asyncio", "numba", "stream")
"""Libraries whose warnings matter and whose everyday talk does not; in `stream`, our own loggers begin with
`fraudstream`, Faust speaks for the classes that we made from its own."""

_SELDOM_S: Final = 10.0
_REMEMBERED: Final = 256

_WITHOUT_VALUES: Final = frozenset({"stream", "models", "features", "aiokafka", "cimpl", "confluent_kafka"})
"""Packages whose exceptions say what is wrong without saying what an order holds."""

_generation: Callable[[], int | None] = lambda: None  # noqa: E731 (until an assignment can be asked for)


def tell_generation(generation: Callable[[], int | None]) -> None:
    """Have every JSON line carry the group's generation, asked for when the line is written."""
    global _generation  # noqa: PLW0603 - one worker a process, like the logging module itself
    _generation = generation


def set_up_logging(settings: Settings) -> None:
    """Send what this process logs to stderr, the libraries' warnings included.

    With `log_format=json` each line is one JSON object with `at`, `level`, `logger`, `message`, `worker`,
    `group` and, once known, `generation`; a traceback stands in `exception`.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    discreet = level > logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Json(settings, discreet=discreet) if settings.log_format == "json" else _Text(discreet=discreet)
    )
    handler.addFilter(_Seldom())
    if discreet:
        handler.addFilter(_without_values)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        # even for debugging: aiokafka would print every record it fetches
        logging.getLogger(name).setLevel(max(level, logging.WARNING if discreet else logging.INFO))
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


class _Text(logging.Formatter):
    def __init__(self, *, discreet: bool) -> None:
        super().__init__(_TEXT)
        self._discreet = discreet

    def formatException(self, ei: "_ExcInfo") -> str:  # noqa: N802 (logging's name)
        return _told(ei[1]) if self._discreet else super().formatException(ei)


class _Json(JsonFormatter):
    def __init__(self, settings: Settings, *, discreet: bool) -> None:
        super().__init__(
            ("levelname", "name", "message"),
            timestamp="at",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            static_fields={"worker": settings.worker, "group": settings.group},
        )
        self._discreet = discreet

    def format(self, record: logging.LogRecord) -> str:
        generation = _generation()
        if generation is not None:
            record.generation = generation
        return super().format(record)

    def formatException(self, ei: "_ExcInfo") -> str:  # noqa: N802 (logging's name)
        return _told(ei[1]) if self._discreet else logging.Formatter.formatException(self, ei)


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Seldom:
    """Lets a library say the same thing once in ten seconds: aiokafka tells every failed attempt.

    What was not heard for longest is forgotten first: some messages name what is never the same again.
    """

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], tuple[float, int]] = {}
        self._one_at_a_time = threading.RLock()  # logging asks its filters from every thread at once

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in _CHATTY:
            return True
        what = (record.name, str(record.msg))
        with self._one_at_a_time:
            said_at, untold = self._heard.pop(what, (-_SELDOM_S, 0))
            again = record.created - said_at < _SELDOM_S
            self._heard[what] = (said_at, untold + 1) if again else (record.created, 0)
            if len(self._heard) > _REMEMBERED:
                del self._heard[next(iter(self._heard))]
        if again:
            return False
        if untold:
            record.msg = f"{record.msg} (and {untold} times before)"
        return True


def _without_values(record: logging.LogRecord) -> bool:
    """Put the type of an exception in the place of its message, where a library logs one."""
    if isinstance(record.args, tuple):
        record.args = tuple(_in_brief(each) for each in record.args)
    return True


def _in_brief(argument: object) -> object:
    if isinstance(argument, BaseException) and not _says_no_values(argument):
        return type(argument).__qualname__
    return argument


def _says_no_values(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return package in _WITHOUT_VALUES or isinstance(error, OSError)


def _told(error: BaseException | None) -> str:
    """A traceback with the messages that hold no values; of the others only the type."""
    return "\n".join(_lines(error, set())) if error is not None else ""


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if _says_no_values(error):
        yield f"{name}: {error}"
    else:
        yield f"{name} (its message may hold an order's values; log_level=debug shows it)"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("fraudstream").critical("the program failed", exc_info=error)


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    logging.getLogger("fraudstream").critical(
        "thread '%s' failed",
        arguments.thread.name if arguments.thread else "?",
        exc_info=arguments.exc_value,
    )
