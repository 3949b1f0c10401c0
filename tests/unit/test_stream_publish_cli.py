"""`fraudstream publish` without a broker: the dry run, the guess, and what is refused."""

import gzip
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from features.events import Id
from features.mapping import Kind, RowMapping
from stream import publish as publish_module
from stream.cli import app
from stream.guess import guessing_source, proposed
from stream.mapping import bound_to, load_mapping, mapping_of
from stream.publish import Left, Plan, Ready, RefusedLine, _is_id, planned, ready_rows
from stream.settings import Settings
from stream.sources import Source
from tests.own_data import FILES, ROWS, data_file, mapping_file

run = CliRunner()

MAPPING = """
[fields]
order_id = "id"
customer_id = "customer"
placed_at = { column = "time", zone = "UTC" }
amount = { column = "amount", unit = "major" }
currency = { value = "EUR" }
"""
CSV = """id,customer,time,amount
o1,c1,2024-05-01 10:00:00,12.50
o2,c1,2024-05-01 10:00:01,lots
o3,,2024-05-01 10:00:02,3
o4,c2,yesterday,4
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    (tmp_path / "orders.csv").write_text(CSV)
    return tmp_path


def publish(*arguments: object) -> tuple[int, list[str], str]:
    result = run.invoke(app, ["publish", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout.splitlines(), result.stderr


def test_a_dry_run_shows_the_first_orders_every_refusal_and_the_sums(shop: Path) -> None:
    code, out, _ = publish(shop / "orders.csv", "--map", shop / "mapping.toml", "--dry-run", "--json")

    assert code == 1
    said = [json.loads(line) for line in out]
    assert [each["key"] for each in said if "key" in each] == ["c1", "o3"]  # a guest has only the order
    assert said[0]["value"]["amount"] == 1250
    refused = [each["refused"] for each in said if isinstance(each.get("refused"), dict)]
    assert [(each["row"], each["field"], each["column"]) for each in refused] == [
        (2, "amount", "amount"),
        (4, "placed_at", "time"),
    ]
    assert said[-1] == {
        "dry_run": True, "topic": "orders", "rows": 4, "sent": 2, "refused": 2, "left_out": 0,
        "refused_by_cause": {"bad_amount": 1, "bad_value": 1},
    }  # fmt: skip


def test_a_dry_run_for_a_person_says_row_line_column_and_what_to_do(shop: Path) -> None:
    _, out, _ = publish(shop / "orders.csv", "--map", shop / "mapping.toml", "--dry-run")

    assert "row 1 to 'orders' under key 'c1'" in out
    assert (
        "refused row 2: (line 3 of the text) amount (column 'amount'): expected an amount such as 12.50, "
        "got a text like 'aaaa'; correct the row, or change the mapping"
    ) in out
    assert out[-1] == (
        "a dry run, nothing was sent: of 4 rows 2 would be orders in 'orders'; refused 2 rows "
        "(bad_amount 1, bad_value 1)"
    )


def test_refused_rows_are_kept_whole(shop: Path) -> None:
    publish(shop / "orders.csv", "--map", shop / "mapping.toml", "--dry-run", "--rejects", shop / "rejects")

    kept = [json.loads(line) for line in (shop / "rejects").read_text().splitlines()]
    assert [each["raw"]["id"] for each in kept] == ["o2", "o4"]
    assert kept[1]["raw"] == {"id": "o4", "customer": "c2", "time": "yesterday", "amount": "4"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"order_id":"a\\nb"}', "order_id: expected 1 to 128 characters without control characters"),
        (b'{"order_id":"o1","customer_id":"\\u0000"}', "customer_id: expected 1 to 128 characters without"),
        (
            b'{"order_id":"o1","customer_id":"c\\u001b[2J"}',
            "got one with a control character; a worker would",
        ),
        (b'{"order_id":""}', "got an empty text"),
        (b'{"order_id":"' + b"x" * 129 + b'"}', "got 129 characters"),
        (b'{"customer_id":"c1"}', "missing required field `order_id`"),
        (b"not json", "JSON is malformed"),
    ],
)
def test_a_line_that_no_worker_could_take_is_refused(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "orders").write_bytes(
        b'{"order_id":"first"}\n' + line + b'\n{"order_id":"caf\xc3\xa9 \xe2\x80\x8b"}\n'
    )

    code, out, _ = publish(tmp_path / "orders", "--dry-run")

    assert code == 1
    refused = next(each for each in out if each.startswith("refused line 2: "))
    assert said in refused
    assert "2 would be orders" in out[-1]


@given(st.text(max_size=130) | st.text(st.sampled_from("a\x00\x1b\x7f\x80\u200b é"), max_size=4))
def test_an_id_is_refused_exactly_when_the_contract_refuses_it(given_id: str) -> None:
    contract = TypeAdapter(Id)
    try:
        contract.validate_python(given_id)
    except ValidationError:
        assert not _is_id(given_id)
    else:
        assert _is_id(given_id)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["orders.csv"], "is a table and not orders in JSON; say what its columns mean: --map"),
        (["none.csv", "--map", "mapping.toml"], "can't read"),
        (["orders.csv", "--map", "none.toml"], "can't read mapping"),
        (["orders.csv", "--map", "orders.csv"], "is not TOML"),
        (
            ["orders.csv", "--map", "mapping.toml", "--kind", "outcomes"],
            "is a mapping of orders and --kind says",
        ),
        (["other.csv", "--map", "mapping.toml"], "there is no column 'id'; there are: a, b"),
        (["empty.csv", "--map", "mapping.toml"], "is empty"),
    ],
)
def test_what_can_not_begin_is_refused_in_one_line(
    shop: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], said: str
) -> None:
    monkeypatch.chdir(shop)
    (shop / "other.csv").write_text("a,b\n1,2\n")
    (shop / "empty.csv").write_text("")

    code, _, err = publish(*arguments, "--dry-run")

    assert code == 1
    assert err.startswith("fraudstream: ")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["orders.csv", "mapping.toml", "other-name"])
def test_refused_rows_never_take_the_place_of_what_is_read(shop: Path, name: str) -> None:
    (shop / "other-name").hardlink_to(shop / "orders.csv")
    before = (shop / name).read_text()

    code, _, err = publish(
        shop / "orders.csv", "--map", shop / "mapping.toml", "--rejects", shop / name, "--dry-run"
    )

    assert code == 1
    assert "is a file we read and would be overwritten; name another" in err
    assert (shop / name).read_text() == before


def test_a_full_disk_under_the_refused_rows_is_named(shop: Path) -> None:
    full = shop / "full.jsonl"
    full.symlink_to("/dev/full")

    code, _, said = publish(
        shop / "orders.csv", "--map", shop / "mapping.toml", "--dry-run", "--rejects", full
    )

    assert code == 1
    assert f"can't write {full}: No space left on device" in said


def test_no_number_of_rows_is_beyond_what_is_understood(shop: Path) -> None:
    code, _, err = publish(
        shop / "orders.csv", "--map", shop / "mapping.toml", "--limit", str(10**30), "--dry-run"
    )
    assert code == 2
    assert "Invalid value for '--limit'" in err


def test_a_kind_that_is_none_is_a_usage_error(shop: Path) -> None:
    assert publish(shop / "orders.csv", "--kind", "order")[0] == 2


def test_orders_are_not_taken_for_outcomes(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_text('{"order_id": "o1", "customer_id": "c1", "amount": 5}\n')

    code, out, _ = publish(tmp_path / "orders.jsonl", "--kind", "outcomes", "--dry-run", "--json")

    assert code == 1
    assert "docs/contracts" in "".join(out)


def test_a_row_whose_order_is_too_large_is_kept_as_it_was_read(shop: Path) -> None:
    (shop / "mapping.toml").write_text(MAPPING + 'promotion_codes = { column = "codes", split = "|" }\n')
    codes = "|".join(["é" * 250] * 40)
    head = "id,customer,time,amount,codes"
    (shop / "orders.csv").write_text(f"{head}\no1,c1,2024-05-01 10:00:00,12.50,{codes}\n")
    plan_of_rows = load_mapping(shop / "mapping.toml")
    with Source(str(shop / "orders.csv")) as source:
        (refused,) = ready_rows(source, planned(Settings(), source, plan_of_rows), largest=20_000)

    assert isinstance(refused, RefusedLine)
    assert (refused.code, refused.raw["codes"]) == ("too_large", codes)


def test_a_hash_salt_changes_the_hashes_and_stays_secret(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "mapping.toml").write_text(MAPPING + 'email_hash = { column = "customer", hash = "text" }\n')
    command = (shop / "orders.csv", "--map", shop / "mapping.toml", "--dry-run", "--json")
    plain = json.loads(publish(*command)[1][0])["value"]["email_hash"]
    monkeypatch.setenv("FRAUDSTREAM_HASH_SALT", "hush")
    salted = publish(*command)[1]

    assert json.loads(salted[0])["value"]["email_hash"] != plain
    assert "hush" not in "".join(salted)


def _first(name: str, limit: int) -> list[Any]:
    with Source(str(data_file(name)), load_mapping(mapping_file(name)).source) as source:
        mapping = load_mapping(mapping_file(name))
        plan = planned(Settings(), source, mapping, beside=mapping_file(name).parent, limit=limit)
        return list(ready_rows(source, plan))


def _needs(name: str) -> None:
    if not data_file(name).exists():
        pytest.skip(f"needs ../shared/data/{data_file(name).name}")


@pytest.mark.parametrize("name", FILES)
def test_the_first_rows_of_each_data_file_become_orders_or_named_refusals(name: str) -> None:
    _needs(name)
    found = _first(name, 1_000)

    assert len(found) == min(1_000, ROWS[name])
    refused = [each for each in found if not isinstance(each, Ready)]
    assert {each.code for each in refused} <= {"unknown_currency"}
    assert len(refused) < 0.05 * len(found)


def test_unsorted_rows_are_sent_in_the_order_of_time() -> None:
    _needs("evalml")
    sent = [
        json.loads(each.value)["placed_at"] for each in _first("evalml", 2_000) if isinstance(each, Ready)
    ]

    assert sent == sorted(sent)


def test_every_row_with_items_has_all_of_them() -> None:
    _needs("skrub")
    orders = [json.loads(each.value) for each in _first("skrub", 1_000) if isinstance(each, Ready)]

    assert len(orders) == 1_000
    assert all(order["items"] for order in orders)
    assert all(
        order["amount"] == sum(item["unit_price"] * item["quantity"] for item in order["items"])
        for order in orders
    )


def test_rows_without_a_label_are_left_out_of_the_outcomes_and_counted() -> None:
    _needs("afd")
    found = _first("afd-outcomes", 2_000)

    assert (len(found), sum(isinstance(each, Left) for each in found)) == (1_611, 801)
    assert sum(json.loads(each.value)["is_fraud"] for each in found if isinstance(each, Ready)) == 95


@pytest.mark.parametrize("name", FILES)
def test_a_guessed_mapping_loads_and_says_mostly_what_a_person_says(name: str) -> None:
    _needs(name)
    with guessing_source(str(data_file(name))) as source:
        text = proposed(source)
    mapping = mapping_of(text, said="the guess")

    with Source(str(data_file(name)), mapping.source) as source:
        mapper = bound_to(mapping, source, said="the guess", beside=data_file(name).parent)
        plan = Plan(mapper=mapper, sort=mapping.source.sort, limit=1_000)
        guessed = [json.loads(each.value) for each in ready_rows(source, plan) if isinstance(each, Ready)]
    ours = [json.loads(each.value) for each in _first(name, 1_000) if isinstance(each, Ready)]
    assert len(guessed) > 0.9 * len(ours)
    by_amount = {(each.get("customer_id"), each["amount"]) for each in ours}
    assert sum((each.get("customer_id"), each["amount"]) in by_amount for each in guessed) > 0.9 * len(
        guessed
    )
    if name not in {"skrub", "retail"}:  # one has no times, the other's zone is a person's knowledge
        times = {each["placed_at"] for each in ours}
        assert sum(each["placed_at"] in times for each in guessed) > 0.9 * len(guessed)
    assert "fraud" not in {word.lower() for each in guessed[:1] for word in each.get("attributes", {})}


@pytest.mark.parametrize(
    ("name", "kind"), [("afd", "outcomes"), ("handbook", "outcomes"), ("retail", "events")]
)
def test_outcomes_and_events_are_guessed_too(name: str, kind: Kind) -> None:
    _needs(name)
    with guessing_source(str(data_file(name))) as source:
        mapping = mapping_of(proposed(source, kind=kind), said="the guess")

    assert mapping.kind == kind
    with Source(str(data_file(name)), mapping.source) as source:
        mapper = bound_to(mapping, source, said="the guess", beside=Path())
        found = list(ready_rows(source, Plan(kind=kind, mapper=mapper, limit=500)))
    if kind == "outcomes":
        assert not [each for each in found if not isinstance(each, Ready | Left)]
    else:  # what happened is for a person to say: no status of theirs is a kind of ours
        assert {each.field for each in found if not isinstance(each, Ready | Left)} == {"kind"}


def test_a_guess_never_makes_a_field_of_a_label_or_a_name(tmp_path: Path) -> None:
    rows = "".join(
        f"T{n};user{n % 300};2024-05-{n % 28 + 1:02} 10:00;{n % 90},{n % 100:02};{n % 2};Ann{n % 200}\n"
        for n in range(1_000)
    )
    file = tmp_path / "orders.csv.gz"
    file.write_bytes(
        gzip.compress(f"TransactionId;UserId;OrderDate;Total;IsFraud;FirstName\n{rows}".encode())
    )

    code, out, _ = publish(file, "--guess")

    assert code == 0
    mapping = mapping_of("\n".join(out), said="the guess")
    assert mapping.source.delimiter == ";"
    assert mapping.taken["order_id"].column == "TransactionId"
    assert mapping.taken["customer_id"].column == "UserId"
    assert mapping.taken["placed_at"].zone == "UTC"
    assert (mapping.taken["amount"].decimal, mapping.taken["amount"].unit) == (",", "major")
    assert {"IsFraud", "FirstName"}.isdisjoint(mapping.columns)
    assert any("IsFraud" in line and line.startswith("#") for line in out)


def test_a_guess_reads_nested_json_with_its_items(tmp_path: Path) -> None:
    orders = [
        {
            "id": f"o{n}", "customer": {"id": f"c{n % 90}", "email": f"a{n}@shop.example"},
            "created": 1_714_566_600 + n, "payment": {"amount": 1_999 + n, "currency": "EUR"},
            "lines": [{"sku": f"s{n % 40}", "price": 19.99, "qty": 1}],
        }
        for n in range(500)
    ]  # fmt: skip
    file = tmp_path / "orders.jsonl"
    file.write_text("\n".join(json.dumps(order) for order in orders))

    _, out, _ = publish(file, "--guess")
    (tmp_path / "m.toml").write_text("\n".join(out))
    code, shown, _ = publish(file, "--map", tmp_path / "m.toml", "--dry-run", "--json")

    assert code == 0, shown[-1]
    first = json.loads(shown[0])["value"]
    assert (first["order_id"], first["customer_id"], first["amount"]) == ("o0", "c0", 1999)
    assert first["placed_at"] == "2024-05-01T12:30:00Z"
    assert first["items"] == [{"sku": "s0", "unit_price": 1999, "quantity": 1}]
    assert first["email_domain"] == "shop.example"
    assert "a0@shop.example" not in json.dumps(first)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"order_id": 5}', "wrong_type"),
        (b'{"customer_id": "c1"}', "missing_field"),
        (b"[1]", "not_an_object"),
        (b"{", "not_json"),
        (b'{"order_id": "\xff"}', "bad_utf8"),
        (b'{"order_id": "o1", "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "too_deep"),
    ],
)
def test_a_line_is_refused_under_the_cause_a_worker_would_name(line: bytes, code: str) -> None:
    (refused,) = publish_module._of_lines([line], 2**20)

    assert isinstance(refused, RefusedLine)
    assert refused.code == code
    assert "docs/contracts" in refused.reason


def test_a_mapping_can_come_from_a_pipe(shop: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, MAPPING.encode())
    os.close(writing)

    code, out, _ = publish(shop / "orders.csv", "--map", f"/dev/fd/{reading}", "--dry-run")
    os.close(reading)

    assert code == 1
    assert "of 4 rows 2 would be orders" in out[-1]


def test_refused_rows_never_take_the_place_of_the_items(shop: Path) -> None:
    (shop / "lines.csv").write_text("order,sku\no1,a\n")
    join = '[items]\njoin = { file = "lines.csv", on = "id", key = "order" }\n[items.fields]\nsku = "sku"\n'
    (shop / "mapping.toml").write_text(MAPPING + join)

    code, _, err = publish(
        shop / "orders.csv", "--map", shop / "mapping.toml", "--rejects", shop / "lines.csv", "--dry-run"
    )

    assert code == 1
    assert "is a file we read and would be overwritten" in err
    assert (shop / "lines.csv").read_text() == "order,sku\no1,a\n"


def test_refused_rows_that_can_not_be_kept_end_it_in_one_line(shop: Path) -> None:
    code, _, err = publish(
        shop / "orders.csv", "--map", shop / "mapping.toml", "--rejects", "/dev/full", "--dry-run"
    )

    assert code == 1
    assert err.splitlines() == [
        "fraudstream: can't write /dev/full: No space left on device; name another file for the refused rows"
    ]


def guessed_of(file: Path, content: str | bytes) -> RowMapping:
    """The proposal for this content; that it loads is part of what is promised."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = publish(file, "--guess")
    assert (code, err) == (0, "")
    return mapping_of("\n".join(out), said="the guess")


@pytest.mark.parametrize(
    ("amount", "decimal"), [("{n}.234,50", ","), ("{n},234.50", "."), ("{n},50", ","), ("$ {n}.50", ".")]
)
def test_a_guess_reads_amounts_as_people_write_them(tmp_path: Path, amount: str, decimal: str) -> None:
    rows = "".join(
        f"o{n};c{n % 30};2024-05-01 10:{n % 60:02};{'free' if n == 7 else amount.format(n=n % 9 + 1)}\n"
        for n in range(200)
    )
    mapping = guessed_of(tmp_path / "f.csv", "order_id;customer_id;placed;amount\n" + rows)

    taken = mapping.taken["amount"]
    assert (taken.column, taken.decimal, taken.unit) == ("amount", decimal, "major")
    assert mapping.taken["currency"].value == ("USD" if "$" in amount else "EUR")


def test_a_guess_is_not_thrown_by_a_few_words_among_the_times(tmp_path: Path) -> None:
    rows = "".join(
        f"o{n},c{n % 30},{'unknown' if n % 50 == 0 else 1_714_566_600 + n},5.50\n" for n in range(200)
    )
    mapping = guessed_of(tmp_path / "f.csv", "order_id,customer_id,created,amount\n" + rows)

    assert mapping.taken["placed_at"].format == "epoch_s"


def test_no_person_is_in_what_a_guess_would_send(tmp_path: Path) -> None:
    head = "customer_name,customer_email,seller_email,first,last,cc_num,gsm phone,order_date,amount\n"
    rows = "".join(
        f"Ann{n} Smith,ann{n}@x.example,bo{n}@y.example,Ann{n},Smith{n},{card(n)},+49 30 55{n:04},"
        f"2024-05-01 10:00,{n}.50\n"
        for n in range(200)
    )
    file = tmp_path / "f.csv"
    (tmp_path / "m.toml").write_text("")
    mapping = guessed_of(file, head + rows)
    out = publish(file, "--guess")[1]
    (tmp_path / "m.toml").write_text("\n".join(out))
    code, sent, _ = publish(file, "--map", tmp_path / "m.toml", "--dry-run", "--json")

    assert code == 0
    assert not [word for word in ("Ann3", "ann3", "Smith", "bo3", card(3), "550003") if word in "".join(sent)]
    assert (mapping.taken["customer_id"].column, mapping.taken["customer_id"].hash) == (
        "customer_email", "email",
    )  # fmt: skip
    assert mapping.taken["card.fingerprint"].hash == "text"
    first, second = (json.loads(line)["value"]["order_id"] for line in sent[:2])
    assert first != second


def card(n: int) -> str:
    """A number of sixteen digits that a card might have."""
    digits = f"40128888{n:07}"
    odd = sum(sum(divmod(2 * int(each), 10)) for each in digits[::2]) + sum(map(int, digits[1::2]))
    return digits + str(-odd % 10)


def test_a_guess_takes_the_unnamed_column_of_row_numbers_for_none(tmp_path: Path) -> None:
    rows = "".join(f"{n},o{n},c{n % 30},2024-05-01 10:00,{n}.50,{n}\n" for n in range(200))
    mapping = guessed_of(tmp_path / "f.csv", ",order_id,customer_id,order_date,amount,basket{}\n" + rows)

    assert "" not in mapping.columns
    assert mapping.attributes["basket{}"].column == "basket{}"


def test_what_a_guess_quotes_of_the_file_stays_in_its_comment(tmp_path: Path) -> None:
    codes = {3: '"E\nx = ["', 4: '"\x1b[2J\x7f"'}
    rows = "".join(
        f"o{n},c{n % 30},2024-05-01 10:00,{n}.50,{codes.get(n, 'EUR')},{codes.get(n % 5, 'paid')}\n"
        for n in range(200)
    )
    file = tmp_path / "a\nb.csv"
    head = "order_id,customer_id,order_date,amount,currency,status\n"
    guessed_of(file, head + rows)

    for kind in ("orders", "events"):
        code, out, _ = publish(file, "--guess", "--kind", kind)
        assert code == 0
        assert mapping_of("\n".join(out), said="the guess").kind == kind
        assert "\x1b" not in "".join(out)


def test_a_guess_names_the_encoding_of_a_text_that_is_not_utf_8(tmp_path: Path) -> None:
    rows = "".join(f"o{n},c{n % 30},2024-05-01 10:00,{n}.50,Süd {n % 40}\n" for n in range(200))
    for head in ("order_id,customer_id,order_date,amount,region\n", "order_id,kunde,datum,amount,straße\n"):
        mapping = guessed_of(tmp_path / "f.csv", (head + rows).encode("cp1252"))
        assert mapping.source.encoding == "cp1252"
        assert not [name for name in mapping.columns if not name.isprintable()]


def test_a_guess_looks_only_as_deep_as_orders_are(tmp_path: Path) -> None:
    deep = b'{"order_id":"o1","a":' * 900 + b"[" * 99 + b"]" * 99 + b"}" * 900

    assert "order_id" in guessed_of(tmp_path / "f", deep).columns


def test_a_guess_from_what_can_not_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", "id\n1\n")
        archive.writestr("b.csv", "id\n1\n")
    broken = packed.getvalue().replace(b"PK\x01\x02", b"PK\x01\x00")
    file = tmp_path / "f"
    for content, said in (
        (broken, "is cut short or damaged"),
        (b'{\n "order_id": "o1"\n}\n', "has no rows to guess from"),
    ):
        file.write_bytes(content)
        code, _, err = publish(file, "--guess")
        assert (code, len(err.splitlines())) == (1, 1)
        assert said in err


@pytest.mark.parametrize("mapped", [True, False])
def test_what_a_topic_takes_is_counted_in_bytes_and_with_the_key(shop: Path, mapped: bool) -> None:
    key, codes = "\N{SLICE OF PIZZA}" * 128, "x" * 200
    fields = MAPPING + 'promotion_codes = { column = "codes", split = "|" }\n'
    (shop / "m.toml").write_text(fields)
    (shop / "rows.csv").write_text(f"id,customer,time,amount,codes\no1,{key},2024-05-01 10:00:00,1,{codes}\n")
    mapping = load_mapping(shop / "m.toml")
    with Source(str(shop / "rows.csv")) as source:
        (ready,) = ready_rows(source, planned(Settings(), source, mapping))
    assert isinstance(ready, Ready)
    (shop / "rows.jsonl").write_bytes(ready.value)
    file, mapping_of_rows = ("rows.csv", mapping) if mapped else ("rows.jsonl", None)
    room = len(ready.value) + len(key.encode()) + 256

    for largest, kind in ((room, Ready), (room - 1, RefusedLine)):
        with Source(str(shop / file)) as source:
            plan = planned(Settings(), source, mapping_of_rows)
            (found,) = ready_rows(source, plan, largest=largest)
        assert type(found) is kind


def test_a_dry_run_takes_the_largest_order_that_a_worker_takes(tmp_path: Path) -> None:
    for size, code in ((1024 * 1024, 0), (1024 * 1024 + 1, 1)):
        order = b'{"order_id":"o1","note":""}'
        (tmp_path / "orders").write_bytes(order[:-2] + b"x" * (size - len(order)) + order[-2:])
        assert publish(tmp_path / "orders", "--dry-run")[0] == code


def test_refused_rows_are_json_whatever_a_number_was(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415
    import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415

    columns = {"id": ["o1"], "customer": ["c1"], "time": ["never"], "amount": [float("nan")]}
    pq.write_table(pa.table(columns), tmp_path / "orders")
    (tmp_path / "m.toml").write_text(MAPPING)

    publish(tmp_path / "orders", "--map", tmp_path / "m.toml", "--dry-run", "--rejects", tmp_path / "rejects")

    assert orjson.loads((tmp_path / "rejects").read_bytes())["raw"]["amount"] == "nan"
