"""The settings that a decision carries."""

from datetime import timedelta
from pathlib import Path

from stream.deciding import Deciding, said_in
from stream.settings import Settings

MAPPED = """
[fields]
order_id = "id"
placed_at = "at"
amount = { column = "cents", unit = "minor" }
currency = { value = "EUR" }
"""
WRITTEN = (
    b'{"ahead_by_at_most_s":300.0,"forget_after_days":730,"mapping":null,'
    b'"order_memory_days":400,"row_limit":512}'
)


def test_the_settings_that_decide_are_written_in_one_form() -> None:
    assert Deciding.of(Settings()).header == ("settings", WRITTEN)


def test_what_was_written_is_read_and_what_a_later_version_adds_is_passed_over() -> None:
    read = Deciding.decode(WRITTEN)

    assert read == Deciding.of(Settings())
    assert Deciding.decode(WRITTEN[:-1] + b',"colour":"red"}') == read
    assert read is not None
    assert read.ahead_by_at_most == timedelta(minutes=5)
    assert read.horizons == Settings().horizons


def test_what_is_no_such_header_is_none() -> None:
    assert [Deciding.decode(said) for said in (b"", b"\xff", b"[]", b'{"row_limit":"many"}')] == [None] * 4
    assert said_in((("worker", b"w1"),)) is None


def test_a_mapping_is_told_from_another_and_not_from_the_same_written_otherwise(tmp_path: Path) -> None:
    digests = []
    for text in (MAPPED, "# ours\n" + MAPPED.replace(" = ", "="), MAPPED.replace('"cents"', '"sum"')):
        file = tmp_path / "mapping.toml"
        file.write_text(text)
        digests.append(Deciding.of(Settings(mapping=file)).mapping)

    assert digests[0] == digests[1] != digests[2]
    assert None not in digests
