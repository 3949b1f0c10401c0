"""Which revision of an order stands in whose history."""

from datetime import timedelta

import msgspec
import pytest

from features.events import microseconds
from features.history import RowBytesError, RowVersionError
from features.revisions import MOST_REVISIONS, Held, Revisions, last_placed_at
from tests.strategies import NOON, an_order


def test_the_highest_revision_takes_the_place_of_the_one_before_it() -> None:
    revisions = Revisions()
    first = revisions.arrive(an_order(), b"a")

    second = revisions.arrive(an_order(revision=3, placed_at=NOON + timedelta(hours=1)), b"b")

    assert (first.forgotten, first.is_remembered) == (None, True)
    assert second.forgotten == Held("c1", NOON, 1000, "EUR")
    assert revisions.held == Held("c1", NOON + timedelta(hours=1), 1000, "EUR")


def test_a_revision_that_comes_after_a_newer_one_changes_nothing() -> None:
    revisions = Revisions()
    revisions.arrive(an_order(revision=2), b"a")

    late = revisions.arrive(an_order(revision=1, customer_id="c2"), b"b")

    assert (late.forgotten, late.is_remembered) == (None, False)
    assert revisions.held == Held("c1", NOON, 1000, "EUR")
    seen = revisions.of(1)
    assert seen is not None
    assert seen.content == b"b"


@pytest.mark.parametrize("fields", [{"test": True}, {"customer_id": None}])
def test_what_belongs_in_no_history_only_takes_the_older_revision_out(fields: dict[str, object]) -> None:
    revisions = Revisions()
    revisions.arrive(an_order(), b"a")

    gone = revisions.arrive(an_order(revision=1, **fields), b"b")
    back = revisions.arrive(an_order(revision=2), b"c")

    assert (gone.forgotten, gone.is_remembered) == (Held("c1", NOON, 1000, "EUR"), False)
    assert (back.forgotten, back.is_remembered) == (None, True)


def test_an_order_is_followed_for_so_many_revisions() -> None:
    revisions = Revisions()
    for revision in range(MOST_REVISIONS):
        assert not revisions.is_full
        revisions.arrive(an_order(revision=revision), b"a")

    assert revisions.is_full


def test_revisions_come_back_from_their_bytes() -> None:
    revisions = Revisions()
    seen = revisions.arrive(an_order(placed_at=NOON + timedelta(microseconds=1)), b"a" * 16).seen
    seen.decision_id, seen.decision, seen.is_brief = b"i" * 16, b"{}", True

    assert Revisions.decode(revisions.encode()) == revisions


@pytest.mark.parametrize("content", [[4], [4, {"other": 1}], [7, [], None, "more"]])
def test_revisions_of_a_newer_version_are_refused_as_such(content: object) -> None:
    with pytest.raises(
        RowVersionError, match="reads up to 3; run the version that wrote them, or a newer one"
    ):
        Revisions.decode(msgspec.msgpack.encode(content))


def test_the_newest_time_is_known_of_every_order_also_of_a_guests_and_a_tests() -> None:
    for fields in ({}, {"customer_id": None}, {"test": True}):
        revisions = Revisions()
        revisions.arrive(an_order(placed_at=NOON + timedelta(hours=2), **fields), b"a")
        revisions.arrive(an_order(revision=1, **fields), b"b")

        assert revisions.last_at == microseconds(NOON + timedelta(hours=2))
        assert last_placed_at(revisions.encode()) == revisions.last_at


def test_of_what_older_versions_wrote_the_newest_time_is_that_of_the_order_in_a_history() -> None:
    held = msgspec.msgpack.encode((1, [], ("c1", NOON)))
    guest = msgspec.msgpack.encode((2, [], None, [0]))

    assert (last_placed_at(held), Revisions.decode(held).last_at) == (microseconds(NOON),) * 2
    assert (last_placed_at(guest), Revisions.decode(guest).last_at) == (None, None)


def test_the_newest_time_of_a_newer_version_is_not_guessed_at() -> None:
    assert last_placed_at(msgspec.msgpack.encode((4, [], None, [], 7))) is None
    assert last_placed_at(msgspec.msgpack.encode((4, {"other": 1}))) is None


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode([1, 7]), msgspec.msgpack.encode({})])
def test_bytes_that_are_no_revisions_are_told_apart(data: bytes) -> None:
    with pytest.raises(RowBytesError, match="restore them from the changelog"):
        Revisions.decode(data)
