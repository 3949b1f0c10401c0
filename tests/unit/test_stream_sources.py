"""Files of rows: what they are is told by their bytes, and a bad row spoils no other."""

import gzip
import io
import random
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from features.mapping import Reading
from stream.sources import LONGEST_LINE, Source, SourceError, Unreadable

CSV = b"id,amount\n1,10\n2,20\n"


def rows(file: Path | str, **reading: Any) -> list[Any]:
    with Source(str(file), Reading.model_validate(reading)) as source:
        return [found for _, _, found in source.rows()]


def named(folder: Path, content: bytes, name: str = "orders") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def refusal(file: Path | str, **reading: Any) -> str:
    with pytest.raises(SourceError) as refused:
        rows(file, **reading)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_same_rows_come_from_plain_text_gzip_and_zip_whatever_the_name(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("orders.csv", CSV)
    for number, content in enumerate((CSV, gzip.compress(CSV), packed.getvalue(), b"\xef\xbb\xbf" + CSV)):
        assert rows(named(tmp_path, content, f"f{number}.txt")) == [["1", "10"], ["2", "20"]]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415
    import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415

    file = tmp_path / "orders"
    pq.write_table(pa.table({"id": [1, 2], "amount": [1.5, None]}), file)

    with Source(str(file)) as source:
        assert source.columns == ("id", "amount")
        assert [found for _, _, found in source.rows()] == [(1, 1.5), (2, None)]
    assert "is no whole Parquet file" in refusal(named(tmp_path, file.read_bytes()[:-20], "cut"))


def test_lines_of_json_come_as_they_are_without_the_empty_ones(tmp_path: Path) -> None:
    file = named(tmp_path, b'\xef\xbb\xbf{"a":1}\n\n{"a":2}')

    with Source(str(file)) as source:
        assert source.columns is None
        assert list(source.rows()) == [(1, 1, b'{"a":1}'), (2, 3, b'{"a":2}')]


def test_a_pipe_is_read_as_a_file_is() -> None:
    with Source("-", stdin=io.BytesIO(gzip.compress(CSV))) as source:
        assert [found for _, _, found in source.rows()] == [["1", "10"], ["2", "20"]]
        assert not source.is_continuable


def test_a_ragged_row_is_told_with_its_line_and_the_rows_around_it_are_read(tmp_path: Path) -> None:
    file = named(tmp_path, b'id,amount\n"a\nb",1\n2\n3,3,3\n4,4\n')

    with Source(str(file)) as source:
        first, short, long, last = source.rows()
    assert first == (1, 2, ["a\nb", "1"])
    assert (short[1], short[2][1]) == (4, "expected 2 columns, got 1; quote the delimiter, or mend the row")
    assert (long[1], long[2][2]) == (5, "3,3,3")
    assert last == (4, 6, ["4", "4"])


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (b'id,note\n1,"lost\n2,b\n3,c\n', ['1,"lost']),  # never closed
        (b'id,note\n1,"lost\n2,"b"\n3,c\n', ['1,"lost']),  # closed by the next row's
        (b'id,note\n1,"lost" too\n2,b\n3,c\n', ['1,"lost" too']),
    ],
)
def test_a_quote_that_swallows_lines_costs_only_its_own(
    tmp_path: Path, content: bytes, bad: list[str]
) -> None:
    found = rows(named(tmp_path, content))

    assert [each.raw for each in found if isinstance(each, Unreadable)] == bad
    assert [each[0] for each in found if not isinstance(each, Unreadable)] == ["2", "3"]


def test_a_huge_field_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    huge = b"1," + b"x" * 2_000_000 + b"\n"
    bad, good = rows(named(tmp_path, b"id,note\n" + huge + b"2,b\n"))

    assert "a field has more than 1,048,576 characters" in bad.reason
    assert good == ["2", "b"]


def test_a_huge_line_of_json_is_refused_without_being_held(tmp_path: Path) -> None:
    huge = b'{"a":"' + b"x" * LONGEST_LINE + b'"}\n'
    bad, good = rows(named(tmp_path, huge + b'{"a":1}\n'))

    assert (bad.code, len(bad.raw)) == ("too_large", 1000)
    assert good == b'{"a":1}'


def test_a_byte_outside_the_encoding_spoils_its_row_alone(tmp_path: Path) -> None:
    file = named(tmp_path, b"id,note\n1,caf\xe9\n2,b\n")

    assert rows(file) == [["1", "caf\udce9"], ["2", "b"]]
    assert rows(file, encoding="latin-1") == [["1", "café"], ["2", "b"]]


def test_a_file_that_can_not_be_read_says_what_to_do(tmp_path: Path) -> None:
    assert "can't read" in refusal(tmp_path / "none")
    assert "can't read" in refusal(tmp_path)
    assert "is empty" in refusal(named(tmp_path, b""))
    assert "is UTF-16; convert it: iconv" in refusal(named(tmp_path, "id\n1\n".encode("utf-16")))
    assert "jq -c" in refusal(named(tmp_path, b'[{"a": 1}]'))
    assert "has two columns 'id' (1 and 3)" in refusal(named(tmp_path, b"id,a,id\n1,2,3\n"))
    assert "does not begin with PAR1" in refusal(named(tmp_path, CSV), format="parquet")
    assert "is no zip" in refusal(named(tmp_path, CSV), member="orders.csv")
    assert "has 2 columns and the mapping names 3" in refusal(named(tmp_path, CSV), columns=["a", "b", "c"])


def test_a_file_cut_short_says_so_after_the_rows_before_the_cut(tmp_path: Path) -> None:
    lines = b"".join(b"%d,%d\n" % (n, n * n) for n in range(50_000))
    file = named(tmp_path, gzip.compress(b"id,amount\n" + lines)[:-5000])
    seen: list[Any] = []

    with Source(str(file)) as source, pytest.raises(SourceError, match="is cut short or damaged"):
        seen.extend(source.rows())
    assert len(seen) > 1000


def test_a_zip_of_several_files_asks_which(tmp_path: Path) -> None:
    file = tmp_path / "orders.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", CSV)
        archive.writestr("b.csv", b"id\n")

    assert "holds 2 files; name one as member under [source]: a.csv, b.csv" in refusal(file)
    assert "has no member 'c.csv'" in refusal(file, member="c.csv")
    assert rows(file, member="a.csv") == [["1", "10"], ["2", "20"]]


def test_a_file_without_a_header_takes_its_names_from_the_mapping(tmp_path: Path) -> None:
    file = named(tmp_path, b"1;10\n2;20\n")

    with Source(str(file), Reading(header=False, columns=("id", "amount"), delimiter=";")) as source:
        assert source.columns == ("id", "amount")
        assert len(list(source.rows())) == 2
    with Source(str(named(tmp_path, CSV)), Reading(columns=("x", "y"))) as source:
        assert source.columns == ("x", "y")
        assert len(list(source.rows())) == 2


@pytest.mark.parametrize("name", ["orders.parquet", "orders.gz", "orders.csv"])
@pytest.mark.parametrize("size", [40, 5_000])
def test_bytes_that_are_no_text_are_refused_whatever_they_are_called(
    tmp_path: Path, name: str, size: int
) -> None:
    file = named(tmp_path, random.Random(size).randbytes(size), name)

    assert re.search(
        r"orders\.\w+ is neither text nor Parquet, gzip or zip: it begins with the bytes [0-9a-f ]+; "
        r"get it again, or name the text's encoding under \[source\]",
        refusal(file),
    )


def test_column_names_outside_the_encoding_are_refused_with_the_setting(tmp_path: Path) -> None:
    file = named(tmp_path, "id,straße\n1,2\n".encode("latin-1"))

    assert "the line that names the columns is not utf-8" in refusal(file)
    assert rows(file, encoding="latin-1") == [["1", "2"]]


def test_a_text_cut_within_a_character_says_so_after_the_rows_before(tmp_path: Path) -> None:
    file = named(tmp_path, "id,amount\n1,2\n".encode("utf-16") + b"\x00")
    seen: list[Any] = []

    with (
        Source(str(file), Reading(encoding="utf-16")) as source,
        pytest.raises(SourceError, match="is not utf-16"),
    ):
        seen.extend(found for _, _, found in source.rows())
    assert seen == [["1", "2"]]


def test_a_moment_that_python_can_not_hold_spoils_its_row_alone(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    moments = pa.array([1_714_566_600_123_456, 9 * 10**18], pa.timestamp("us"))
    finer = pa.array([1_714_566_600_123_456_789, 0], pa.timestamp("ns"))
    file = tmp_path / "orders"
    pq.write_table(pa.table({"id": ["a", "b"], "at": moments, "ns": finer}), file)

    good, bad = rows(file)

    assert good[0] == "a"
    assert good[1] == good[2] == datetime(2024, 5, 1, 12, 30, 0, 123456)  # noqa: DTZ001
    assert isinstance(bad, Unreadable)
    assert "at" in bad.reason


def test_a_damaged_page_of_parquet_is_told_in_one_line(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    file = tmp_path / "orders"
    pq.write_table(pa.table({"id": [str(n) for n in range(1_000)]}), file)
    whole = file.read_bytes()

    assert "is damaged after row 0" in refusal(named(tmp_path, whole[:4] + b"\xff" * 40 + whole[44:], "bad"))


def test_times_of_a_parquet_zone_are_the_moments_they_were(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    moments = [
        pa.array([1_714_566_600], pa.timestamp("s", zone)) for zone in ("Europe/Berlin", "Nowhere/Town")
    ]
    file = tmp_path / "orders"
    pq.write_table(pa.table(moments, ["berlin", "nowhere"]), file)

    assert rows(file) == [(datetime(2024, 5, 1, 12, 30, tzinfo=UTC),) * 2]


def test_a_zip_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("orders.csv", CSV)
    content = bytearray(packed.getvalue())
    content[content.rindex(b"PK\x01\x02") + 6] = 196  # the version it needs

    assert "zip file version 19.6" in refusal(named(tmp_path, bytes(content)))


def test_empty_lines_before_the_names_of_the_columns_are_passed_over(tmp_path: Path) -> None:
    with Source(str(named(tmp_path, b"\n\n" + CSV))) as source:
        assert source.columns == ("id", "amount")
        assert [(line, found) for _, line, found in source.rows()] == [(4, ["1", "10"]), (5, ["2", "20"])]


@pytest.mark.parametrize("content", [b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(40)])
def test_a_zip_without_files_is_refused(tmp_path: Path, content: bytes) -> None:
    assert re.search(r"is a zip without files|is cut short or damaged", refusal(named(tmp_path, content)))
