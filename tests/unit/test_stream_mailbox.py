"""What the writer is given to do, and what is held back from it."""

from collections.abc import Callable

from stream.ports import Assignment, Batch, Record
from stream.writer import Limits, Mailbox


class Told(Exception):
    """The mailbox would wait, and nothing more happens."""


class Script:
    """A clock whose waits are when the next thing happens; nobody really waits."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self._events = list(events)
        self.now = 0.0

    def then(self, *events: Callable[[], object]) -> None:
        self._events += events

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def condition(self) -> "Script":
        return self

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait(self, timeout: float | None = None) -> bool:
        if not self._events:
            raise Told
        self.now += timeout or 0.0
        self._events.pop(0)()
        return False

    def notify_all(self) -> None: ...


def a_batch(assignment: Assignment) -> Batch:
    return Batch("orders", 0, [Record("orders", 0, 0, 0, None, b"o1")], assignment, None)


def test_while_held_a_mailbox_gives_out_assignments_and_no_batches() -> None:
    clock = Script()
    mailbox = Mailbox(clock, Limits())
    assignment = Assignment(1, "m", frozenset({0}))
    mailbox.hold(True)
    mailbox.assign(assignment)
    batch = a_batch(assignment)
    clock.then(lambda: mailbox.offer(batch), mailbox.search, lambda: None, lambda: mailbox.hold(False))

    opening = mailbox.take(None)
    mailbox.done()
    taken = mailbox.take(assignment)

    assert opening == (assignment, [])
    assert taken == (assignment, [batch])
    assert (mailbox.resumed_at, clock.now) == (40.0, 40.0), "given out only once it was let go"


def test_a_mailbox_that_is_held_for_ever_still_lets_the_writer_end() -> None:
    clock = Script()
    mailbox = Mailbox(clock, Limits())
    assignment = Assignment(1, "m", frozenset({0}))
    mailbox.assign(assignment)
    mailbox.offer(a_batch(assignment))
    mailbox.hold(True)
    clock.then(mailbox.stop)

    assert mailbox.take(assignment) is None
