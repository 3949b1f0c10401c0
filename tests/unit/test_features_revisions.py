"""Which revision of an order stands in whose history."""

from datetime import timedelta

import msgspec
import pytest

from features.history import RowBytesError, RowVersionError
from features.revisions import MOST_REVISIONS, Held, Revisions
from tests.strategies import NOON, an_order


def test_the_highest_revision_takes_the_place_of_the_one_before_it() -> None:
    revisions = Revisions()
    first = revisions.arrive(an_order(), b"a")

    second = revisions.arrive(an_order(revision=3, placed_at=NOON + timedelta(hours=1)), b"b")

    assert (first.forgotten, first.is_remembered) == (None, True)
    assert second.forgotten == Held("c1", NOON)
    assert revisions.held == Held("c1", NOON + timedelta(hours=1))


def test_a_revision_that_comes_after_a_newer_one_changes_nothing() -> None:
    revisions = Revisions()
    revisions.arrive(an_order(revision=2), b"a")

    late = revisions.arrive(an_order(revision=1, customer_id="c2"), b"b")

    assert (late.forgotten, late.is_remembered) == (None, False)
    assert revisions.held == Held("c1", NOON)
    seen = revisions.of(1)
    assert seen is not None
    assert seen.content == b"b"


@pytest.mark.parametrize("fields", [{"test": True}, {"customer_id": None}])
def test_what_belongs_in_no_history_only_takes_the_older_revision_out(fields: dict[str, object]) -> None:
    revisions = Revisions()
    revisions.arrive(an_order(), b"a")

    gone = revisions.arrive(an_order(revision=1, **fields), b"b")
    back = revisions.arrive(an_order(revision=2), b"c")

    assert (gone.forgotten, gone.is_remembered) == (Held("c1", NOON), False)
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


@pytest.mark.parametrize("content", [[3], [3, {"other": 1}], [7, [], None, "more"]])
def test_revisions_of_a_newer_version_are_refused_as_such(content: object) -> None:
    with pytest.raises(
        RowVersionError, match="reads up to 2; run the version that wrote them, or a newer one"
    ):
        Revisions.decode(msgspec.msgpack.encode(content))


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode([1, 7]), msgspec.msgpack.encode({})])
def test_bytes_that_are_no_revisions_are_told_apart(data: bytes) -> None:
    with pytest.raises(RowBytesError, match="restore them from the changelog"):
        Revisions.decode(data)
