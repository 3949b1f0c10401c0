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


def a_batch(assignment: Assignment, topic: str = "orders", offset: int = 0) -> Batch:
    return Batch(topic, 0, [Record(topic, 0, offset, 0, None, b"o1")], assignment, None)


def test_while_held_a_mailbox_gives_out_assignments_and_no_batches() -> None:
    clock = Script()
    mailbox = Mailbox(clock, Limits())
    assignment = Assignment(1, "m", frozenset({0}))
    mailbox.hold(True)
    mailbox.assign(assignment)
    batch = a_batch(assignment)
    clock.then(lambda: mailbox.offer(batch), mailbox.search, lambda: None, lambda: mailbox.hold(False))

    opening = mailbox.take(None, 10.0)
    mailbox.done(assignment, {})
    taken = mailbox.take(assignment, 10.0)

    assert opening == (assignment, ())
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

    assert mailbox.take(assignment, 10.0) is None


def test_an_input_that_others_wait_for_is_never_full_and_the_others_share_the_room() -> None:
    clock = Script()
    mailbox = Mailbox(clock, Limits())
    assignment = Assignment(1, "m", frozenset({0, 1}))
    mailbox.assign(assignment)
    most = (4, 1_000)

    for offset in range(5):
        mailbox.offer(a_batch(assignment, offset=offset))
    alone = mailbox.full(most)
    mailbox.take(assignment, 0.0)
    mailbox.done(assignment, {("orders", 0): (3, 6)})
    kept = mailbox.full(most)
    mailbox.offer(a_batch(assignment, "outcomes"))
    shared = mailbox.full(most)

    assert alone == {("orders", 0)}
    assert kept == frozenset(), "what the writer has not committed waits too, and is less"
    assert shared == {("orders", 0)}
    assert mailbox.waiting == 4


def test_what_an_old_assignment_left_takes_no_room_from_the_new_one() -> None:
    mailbox = Mailbox(Script(), Limits())
    old, new = Assignment(1, "m", frozenset({0})), Assignment(2, "m", frozenset({0}))
    mailbox.assign(old)
    mailbox.offer(a_batch(old))
    mailbox.take(old, 0.0)
    mailbox.assign(new)

    mailbox.done(old, {("orders", 0): (9, 9)})

    assert (mailbox.waiting, mailbox.has_work) == (0, False)


def test_without_an_assignment_a_mailbox_does_not_spin() -> None:
    clock = Script(lambda: None)
    mailbox = Mailbox(clock, Limits(idle_s=10.0))
    clock.then(mailbox.stop)

    assert mailbox.take(None, 0.0) is None
    assert clock.now == 20.0
