"""Which dead letters are meant, and what may be sent in place of one."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stream.deadletters import DeadLetterError, order_in, since
from stream.settings import Settings

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "said", ["999999d", "0001-01-01T00:00Z", "0001-01-01T00:00+14:00", "1969-12-31T23:59:59.999Z"]
)
def test_since_before_all_logs_is_since_their_beginning(said: str) -> None:
    assert since(said, NOW) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_correction_is_read_by_the_workers_mapping(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        """
        [fields]
        order_id = "nr"
        customer_id = "buyer.id"
        placed_at = { column = "at", format = "epoch_s" }
        amount = { column = "total", unit = "major" }
        currency = { value = "EUR" }
        """
    )
    settings = Settings(mapping=tmp_path / "m.toml")
    own = {"nr": 7, "buyer": {"id": "c1"}, "at": 1_714_566_600, "total": "12.50"}

    assert order_in(settings, json.dumps(own).encode()) == b"c1"
    with pytest.raises(DeadLetterError, match="would be rejected too: bad_amount: amount"):
        order_in(settings, json.dumps(own | {"total": "lots"}).encode())
