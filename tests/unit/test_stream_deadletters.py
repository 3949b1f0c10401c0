"""When dead letters are asked for since a time."""

from datetime import UTC, datetime

import pytest

from stream.deadletters import since

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "said", ["999999d", "0001-01-01T00:00Z", "0001-01-01T00:00+14:00", "1969-12-31T23:59:59.999Z"]
)
def test_since_before_all_logs_is_since_their_beginning(said: str) -> None:
    assert since(said, NOW) == datetime(1970, 1, 1, tzinfo=UTC)
