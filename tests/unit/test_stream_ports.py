"""What passes between the transaction core and the world: complete by itself, and silent about orders."""

import pytest

from stream.ports import Produce, Record


def test_a_record_to_be_produced_has_no_headers_unless_they_are_given() -> None:
    assert Produce("changelog", 0, b"c1", None).headers == ()


@pytest.mark.parametrize(
    "shown",
    [
        Record("orders", 3, 5, 0, b"anna", b"berta", (("carla", b"dora"),)),
        Produce("decisions", 3, b"anna", b"berta", (("carla", b"dora"),)),
    ],
)
def test_a_record_in_a_log_or_a_traceback_shows_its_place_and_nothing_of_the_order(shown: object) -> None:
    said = repr(shown)

    assert type(shown).__name__ in said
    assert "3" in said
    assert not any(name in said for name in ("anna", "berta", "carla", "dora"))
