"""A proposed mapping for a file nobody has described yet: by the names of its columns and by their values.

Each line of the proposal says why it is there. What is a label never becomes a field of an order, because
a model that sees it has seen the answer; what names a person is hashed or left out.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from features.mapping import Kind, Reading, RowMapping, decimal_text
from features.money import CURRENCIES
from stream.sources import EncodingError, Source, SourceError, Unreadable, is_undecoded

__all__ = ["guessing_source", "proposed"]

_LOOKED_AT: Final = 10_000
"""How many rows are looked at."""
_MOSTLY: Final = 0.9
_MISSING: Final = frozenset(RowMapping.model_fields["missing"].default)

_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")
_OFFSET = re.compile(r".*\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)")
_PATTERNS: Final = (
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%m/%d/%Y %I:%M:%S %p", "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d", "%Y%m%d%H%M%S", "%Y%m%d",
)  # fmt: skip
_NO_AMOUNT: Final = 'amount = { value = 0, unit = "minor" }'
_LABEL = {"fraud", "isfraud", "label", "labels", "class", "chargeback", "fraudulent", "target_label"}
_PERSON = {
    "name", "firstname", "lastname", "surname", "street", "address", "birth", "birthday", "dob", "ssn",
    "email", "mail", "phone", "mobile", "iban",
}  # fmt: skip
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_SIGNS_MEAN: Final = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
_SIGNS: Final = frozenset(_SIGNS_MEAN)
_WESTERN: Final = "cp1252"
"""What a text is that is not UTF-8, most likely."""
_DEEPEST: Final = 16
_TIME = {"time", "date", "datetime", "timestamp", "at", "ts", "when", "day"}
_ID = {"id", "no", "nr", "num", "number", "key", "uuid", "ref", "reference"}


def proposed(source: Source, *, kind: Kind = "orders") -> str:
    """A mapping in TOML for the rows of the source, with the reasons as comments; it loads as it stands."""
    lines = _Proposal(source, kind).lines()
    # what is quoted of the file may hold anything, and must not end the comment it stands in
    said = [
        "".join(c if c.isprintable() else "?" for c in line) if line[:1] == "#" else line for line in lines
    ]
    return "\n".join(said) + "\n"


def guessing_source(file: str) -> Source:
    """The file as it is looked at: of a zip with several members the one that holds orders."""
    if file != "-" and zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                members = [each.filename for each in archive.infolist() if each.file_size]
        except (zipfile.BadZipFile, NotImplementedError):
            members = []  # opening it says what is wrong
        tables = [name for name in members if name.lower().endswith((".csv", ".tsv", ".txt", ".jsonl"))]
        if len(members) > 1 and tables:
            return Source(file, Reading(member=_with_orders(file, tables)))
    return _headed(file, _written(file))


def _written(file: str) -> Reading:
    """In which encoding the text is; a pipe can't be looked at twice and is taken as it should be."""
    reading = Reading()
    if file == "-":
        return reading
    try:
        with Source(file, reading) as source:
            if source.columns is None or source.is_parquet:
                return reading
            rows = (found for _, _, found in islice(source.rows(), _LOOKED_AT))
            if not any(is_undecoded(cell) for row in rows for cell in row if isinstance(cell, str)):
                return reading
    except EncodingError:
        pass
    return reading.model_copy(update={"encoding": _WESTERN})


def _headed(file: str, reading: Reading) -> Source:
    """The source read with the delimiter and the header that it seems to have."""
    source = Source(file, reading)
    columns = source.columns
    if columns is None or file == "-" or source.is_parquet:
        return source
    if len(columns) == 1:
        for delimiter in ";\t|":
            if delimiter in columns[0]:
                source.close()
                return _headed(file, reading.model_copy(update={"delimiter": delimiter}))
    if any(re.fullmatch(r"-?\d+([.,]\d+)?", name) or _ISO.match(name) for name in columns):
        source.close()
        names = tuple(f"column_{n}" for n in range(1, len(columns) + 1))
        return Source(file, reading.model_copy(update={"header": False, "columns": names}))
    return source


def _with_orders(file: str, members: Sequence[str]) -> str:
    """The member whose rows are orders: it has a unique id that the rows of another repeat."""
    for name in members:
        with Source(file, Reading(member=name)) as source:
            if any(each.is_unique and each.tokens & _ID for each in _looked_at(source)):
                return name
    return members[0]


@dataclass(frozen=True)
class _Column:
    """A column and what its values say."""

    name: str
    values: Sequence[Any]
    """As they came, missing ones left out."""
    rows: int

    @cached_property
    def tokens(self) -> frozenset[str]:
        """The words of its name."""
        spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.name)
        return frozenset(re.findall(r"[a-z]+|[0-9]+", spaced.lower()))

    @cached_property
    def texts(self) -> list[str]:
        return [
            value if isinstance(value, str) else "" if isinstance(value, list | dict) else str(value)
            for value in self.values
        ]

    @cached_property
    def distinct(self) -> int:
        return len(set(self.texts))

    @property
    def is_unique(self) -> bool:
        return len(self.values) == self.rows > 0 and self.distinct == self.rows

    def share(self, fits: Callable[[str], Any]) -> float:
        return sum(map(bool, map(fits, self.texts))) / len(self.texts) if self.texts else 0.0

    def matches(self, pattern: str) -> bool:
        return self.share(re.compile(pattern).fullmatch) >= _MOSTLY

    @cached_property
    def uses_comma(self) -> bool:
        """Whether more of its texts are numbers with a decimal comma than with a point."""
        return self.share(partial(decimal_text, comma=True)) > self.share(partial(decimal_text, comma=False))

    @cached_property
    def numbers(self) -> list[str]:
        """Its values as numbers are written; empty texts for those that are none."""
        return [decimal_text(text, comma=self.uses_comma) or "" for text in self.texts]

    @cached_property
    def is_number(self) -> bool:
        return sum(map(bool, self.numbers)) >= _MOSTLY * max(1, len(self.numbers)) and not self.matches(
            r"\d{1,3}(\.\d{1,3}){3}"
        )

    @cached_property
    def is_email(self) -> bool:
        return self.matches(_EMAIL.pattern)

    @cached_property
    def is_card_number(self) -> bool:
        return self.share(_could_be_a_card) >= _MOSTLY

    @cached_property
    def is_private(self) -> bool:
        """Whether it holds what must not be sent as it stands, whatever its name."""
        return self.is_card_number or any("@" in text and _EMAIL.search(text) for text in self.texts)

    @cached_property
    def names_person(self) -> bool:
        """Whether its values may be a person's own; a few values or small numbers are nobody's."""
        if self.is_private:
            return True
        is_named = bool(self.tokens & _PERSON) or (bool(self.tokens) and self.tokens <= {"first", "last"})
        return is_named and self.distinct > 2 and not (self.is_number and not self.share(_LONG.search))

    @cached_property
    def is_whole(self) -> bool:
        return self.is_number and self.matches(r"[-+]?\d+")

    @cached_property
    def time_format(self) -> str | None:
        """How its times are written; None when they are no times."""
        if not self.texts or self.rows < 1:
            return None
        if all(isinstance(value, datetime) for value in self.values) or self.matches(_ISO.pattern):
            return "iso"
        for pattern in _PATTERNS:
            if all(_reads(text, pattern) for text in self.texts):
                return pattern
        if self.is_whole and self.tokens & (_TIME | {"epoch", "unix", "created"}):
            for name, low in (("epoch_s", 10**9), ("epoch_ms", 10**12)):
                if self.share(lambda text: text.isdecimal() and low * 0.8 < int(text) < low * 2.5) >= _MOSTLY:  # noqa: B023
                    return name
        return None

    @property
    def said(self) -> str:
        """An example of how its values look, without saying any."""
        missing = self.rows - len(self.values)
        lacks = f", {missing / self.rows:.0%} missing" if missing and self.rows else ""
        return f"{self.distinct:,} values in {self.rows:,} rows{lacks}"


_LONG = re.compile(r"\d{7}")


def _could_be_a_card(text: str) -> bool:
    """Whether it is a number of 13 to 19 digits whose last one checks the others (Luhn)."""
    if not (re.fullmatch(r"[0-9]{13,19}", text) and text.strip("0")):
        return False
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in text[-2::-2])
    return (doubled + sum(map(int, text[::-2]))) % 10 == 0


def _reads(text: str, pattern: str) -> bool:
    try:
        return 1970 <= datetime.strptime(text, pattern).year < 2100  # noqa: DTZ007 (only whether it can be read)
    except ValueError:
        return False


def _looked_at(source: Source) -> list[_Column]:
    rows = [found for _, _, found in islice(source.rows(), _LOOKED_AT) if not isinstance(found, Unreadable)]
    if source.columns is not None:
        table: dict[str, list[Any]] = {
            name: [row[at] for row in rows] for at, name in enumerate(source.columns)
        }
    else:
        table = {}
        flat = []
        for row in rows:
            try:
                flat.append(dict(_flat(orjson.loads(row))))  # type: ignore[arg-type]
            except orjson.JSONDecodeError:
                continue
        for name in dict.fromkeys(name for each in flat for name in each):
            table[name] = [each.get(name) for each in flat]
        rows = flat  # type: ignore[assignment]
    return [
        _Column(
            name,
            [
                each
                for value in values
                if not _is_missing(each := value.strip() if isinstance(value, str) else value)
            ],
            len(rows),
        )
        for name, values in table.items()
        if name  # the row numbers that some programs write have none
    ]


def _is_missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and value in _MISSING)  # noqa: PLR0124 (NaN)


def _flat(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and depth < _DEEPEST:
        for name, value in content.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name), depth + 1)
    elif path:
        yield path, content


class _Proposal:
    """The lines of a mapping, as they are found."""

    def __init__(self, source: Source, kind: Kind) -> None:
        self._source = source
        self._kind = kind
        self._columns = _looked_at(source)
        self._left = {each.name: each for each in self._columns}
        self._fields: list[str] = []
        self._reading: list[str] = []
        self._notes: list[str] = []
        self._attributes: list[str] = []
        self._items: list[str] = []
        self._only: list[str] = []

    def lines(self) -> list[str]:
        if not self._columns or not self._columns[0].rows:
            raise SourceError(f"{self._source.file} has no rows to guess from; name a file with some")
        self._read_as()
        labels = self._labels()
        self._ids()
        self._times(labels)
        if self._kind == "outcomes":
            self._outcome(labels)
        else:
            if self._kind == "events":
                self._event()
            self._money()
        if self._kind == "orders":
            self._others()
            self._lines_of_items()
            self._own()
        rows = self._columns[0].rows
        return [
            f"# Proposed for {Path(self._source.file).name} by its first {rows:,} rows.",
            "# Read it, correct it, and try it with --dry-run.",
            f'kind = "{self._kind}"',
            *self._only,
            *(["", "[source]", *self._reading] if self._reading else []),
            "",
            "[fields]",
            *self._fields,
            *(["", *self._items] if self._items else []),
            *(["", "[attributes]", *self._attributes] if self._attributes else []),
            *(["", "# Not taken:", *self._notes] if self._notes else []),
        ]

    # ------------------------------------------------------------------ parts

    def _add(self, field: str, how: str, why: str) -> None:
        self._fields += [f"# {why}", f"{field} = {how}"]

    def _take(self, column: _Column) -> _Column:
        self._left.pop(column.name, None)
        return column

    def _named(self, *words: str, fits: Callable[[_Column], bool] = lambda _: True) -> _Column | None:
        """The first column left whose name has all words of a phrase; the first phrases are preferred."""
        for phrase in words:
            wanted = set(phrase.split())
            for each in self._left.values():
                is_named = wanted <= each.tokens or phrase.replace(" ", "") in each.tokens
                if is_named and not each.is_private and fits(each):
                    return each
        return None

    def _read_as(self) -> None:
        reading = self._source.reading
        if reading.member is not None:
            self._reading.append(f"member = {_quoted(reading.member)}")
        if reading.encoding != "utf-8":
            self._reading += [
                "# it is not UTF-8; this is what most texts in Western Europe are then",
                f"encoding = {_quoted(reading.encoding)}",
            ]
        if reading.delimiter != ",":
            self._reading.append(f"delimiter = {_quoted(reading.delimiter)}")
        if not reading.header:
            self._reading += [
                "# the first line looks like a row; give the columns the names they deserve",
                "header = false",
                f"columns = {json.dumps(list(reading.columns or ()))}",
            ]

    def _labels(self) -> dict[str, _Column]:
        """What says, or when it was said, whether an order was fraud: never a field of an order."""
        found = {}
        for each in self._columns:
            is_label = bool(each.tokens & _LABEL) and each.time_format is None
            if is_label and each.distinct <= 20 and "label" not in found and "scenario" not in each.tokens:
                found["label"] = each
            elif {"label"} & each.tokens and each.time_format:
                found["known"] = each
            elif not (each.tokens & {"scenario"} and each.tokens & _LABEL):
                continue
            self._take(each)
            if self._kind == "orders":
                self._note(
                    each,
                    "a label: an order that carries it would tell a model the answer; see kind = outcomes",
                )
        return found

    def _ids(self) -> None:
        order = self._named(
            "order id", "transaction id", "tx id", "event id", "basket id", "purchase id", "invoice", "order",
            fits=lambda each: each.is_unique and not each.time_format and not each.names_person,
        )  # fmt: skip
        customer = self._named(
            "customer id", "user id", "account id", "client id", "buyer id", "member id", "entity id",
            "customer", "user", "account", "client", "buyer", "card id", "payer", "source",
            fits=lambda each: _is_identifying(each) and each is not order and not each.names_person,
        )  # fmt: skip
        order = order or self._named(
            "id", "uuid", "number", "num", "key",
            fits=lambda each: each.is_unique and each is not customer and not each.names_person,
        )  # fmt: skip
        if order is None and not self._source.reading.header:
            order = next((each for each in self._columns if each.is_unique and each.is_whole), None)
        if customer is None and not self._source.reading.header:
            customer = next(
                (
                    each
                    for each in self._left.values()
                    if each is not order and each.is_whole and _is_identifying(each)
                ),
                None,
            )
        if order is None:
            chosen = min(self._columns, key=lambda each: (each.names_person, not each.is_unique))
            why = (
                "unique"
                if chosen.is_unique
                else "NOT unique: an order id must be; make one of several columns"
            )
            how = _hidden(chosen) if chosen.names_person else _quoted(chosen.name)
            if not (chosen.is_number or chosen.names_person):  # those say something else beside
                self._take(chosen)
            self._add("order_id", how, f"no column is named so; this is {why}")
        else:
            self._add("order_id", _quoted(self._take(order).name), f"an id, {order.said}")
        if customer is None:
            customer = next((e for e in self._left.values() if e.is_email), None) or next(
                (e for e in self._left.values() if e.is_card_number), None
            )
            if customer is not None:
                why = "no column is named so; the hash of an address or a card stands for the customer"
                self._add("customer_id", _hidden(customer), why)
                return
            self._fields.append("# customer_id: no column found; without it every order is a guest's")
        else:
            self._add("customer_id", _quoted(self._take(customer).name), f"an id, {customer.said}")

    def _times(self, labels: dict[str, _Column]) -> None:
        field = "placed_at" if self._kind == "orders" else "occurred_at"
        signup = {
            "signup",
            "registered",
            "registration",
            "birth",
            "expiration",
            "expiry",
            "account",
            "member",
        }
        times = [each for each in self._left.values() if each.time_format and not each.tokens & signup]
        times.sort(key=lambda each: (
            not each.tokens & {"placed", "order", "purchase", "transaction", "tx", "event"},
            each.time_format == "%Y%m%d",
        ))  # fmt: skip
        how, column = self._moment(field, times)
        if self._kind != "orders":
            known = labels.get("known")
            if known is not None:
                self._add("known_at", _time(known), f"when the label was known, {known.said}")
            else:
                self._fields += [
                    "# no column says when it was known: taken as known when it happened",
                    f"known_at = {how}",
                ]
            return
        if column is not None and _is_unsorted(column):
            self._reading += ["# the rows are not in the order of time", 'sort = "placed_at"']
        created = next(
            (
                each
                for each in self._left.values()
                if each.time_format and each.tokens & {"signup", "registered", "registration", "account"}
            ),
            None,
        )
        if created is not None:
            self._add("account_created_at", _time(self._take(created)), f"times, {created.said}")

    def _moment(self, field: str, times: Sequence[_Column]) -> tuple[str, _Column | None]:
        clock = self._named("time", fits=lambda each: each.matches(r"\d{1,6}|\d{1,2}:\d\d(:\d\d)?"))
        if times and clock and clock not in times and times[0].time_format in {"%Y%m%d", "iso"}:
            day = self._take(times[0])
            self._take(clock)
            padded, hours = ("{%s:0>6}", "%H%M%S") if clock.is_whole else ("{%s}", "%H:%M:%S")
            date = "%Y-%m-%d" if day.time_format == "iso" else "%Y%m%d"
            template = _quoted("{%s} %s" % (day.name, padded % clock.name))  # noqa: UP031 (braces)
            how = f'{{ template = {template}, format = "{date} {hours}", zone = "UTC" }}'
            self._add(field, how, "a day and a time of day; without a zone: UTC is assumed, say which it is")
            return how, None
        if times:
            column = self._take(times[0])
            how = _time(column)
            why = f"times, {column.said}"
            if "zone" in how:
                why += "; without an offset: UTC is assumed, say which zone it is"
            self._add(field, how, why)
            return how, column
        counted = self._named("time", "seconds", "step", fits=lambda each: each.is_whole)
        if counted is not None:
            how = (
                f'{{ column = {_quoted(self._take(counted).name)}, format = "seconds_since", '
                "start = 2024-01-01T00:00:00Z }"
            )
            self._add(field, how, "numbers that count time, taken as seconds; say when second 0 was")
            return how, None
        self._add(
            field,
            '{ value = "2024-01-01T00:00:00Z" }',
            "NO COLUMN HAS TIMES: every row stands at this one moment, and no history can be made of that",
        )
        return '{ value = "2024-01-01T00:00:00Z" }', None

    def _outcome(self, labels: dict[str, _Column]) -> None:
        label = labels.get("label")
        if label is None:
            raise SourceError(
                f"{self._source.file} has no column that looks like a label (fraud, label, class); "
                "write the mapping of its outcomes by hand: docs/own-data.md"
            )
        yes = [
            text for text in sorted(set(label.texts)) if text.casefold() in {"1", "true", "yes", "fraud", "y"}
        ]
        no = [
            text for text in sorted(set(label.texts)) if text.casefold() in {"0", "false", "no", "legit", "n"}
        ]
        name = _quoted(label.name)
        kinds = ", ".join(
            [f'{_quoted(each)} = "confirmed_fraud"' for each in yes]
            + [f'{_quoted(each)} = "confirmed_legitimate"' for each in no]
        )
        truth = ", ".join(
            [f"{_quoted(each)} = true" for each in yes] + [f"{_quoted(each)} = false" for each in no]
        )
        self._add("kind", f"{{ column = {name}, map = {{ {kinds} }} }}", f"the label, {label.said}")
        self._fields.append(f"is_fraud = {{ column = {name}, map = {{ {truth} }} }}")
        told = sorted({*yes, *no})
        if len(label.values) < label.rows or set(label.texts) - {*yes, *no}:
            name, texts = _key(label.name), json.dumps(told, ensure_ascii=False)
            self._only = [
                "# rows without a label, or with another, are left out",
                f"only = {{ {name} = {texts} }}",
            ]

    def _event(self) -> None:
        what = self._named("kind", "status", "event type", "event", "type") or next(
            (
                each
                for each in self._left.values()
                if 2 <= each.distinct <= 20 and not each.is_number and each.time_format is None
            ),
            None,
        )
        if what is None:
            self._add("kind", '{ value = "delivered" }', "NO COLUMN SAYS WHAT HAPPENED: say it for all rows")
        else:
            seen = ", ".join(sorted(set(what.texts))[:8])
            how = f"{{ column = {_quoted(self._take(what).name)}, map = {{}} }}"
            self._add("kind", how, f"say with map what these stand for: {seen}")

    def _money(self) -> None:
        currency = next(
            (
                each
                for each in self._left.values()
                if each.matches(r"[A-Z]{3}") and each.share(CURRENCIES.__contains__) >= 0.8
            ),
            None,
        )
        amount = self._named(
            "amount", "amt", "total", "order price", "price", "purchase value", "value", "sum", "revenue",
            "payment", fits=lambda each: each.is_number and not each.tokens & {"currency", "id"},
        )  # fmt: skip
        constant = None
        if currency is None:
            signs = Counter(sign for text in (amount.texts if amount else ()) for sign in _SIGNS & {*text})
            constant = _SIGNS_MEAN[signs.most_common(1)[0][0]] if signs else "EUR"
            self._add("currency", f'{{ value = "{constant}" }}', "NO COLUMN HAS CURRENCIES: say which it is")
        else:
            unknown = sorted(set(self._take(currency).texts) - set(CURRENCIES))
            why = f"currencies of ISO 4217, {currency.said}"
            if unknown:
                why += (
                    f"; unknown, so refused unless a map says what they stand for: {', '.join(unknown[:12])}"
                )
            self._add("currency", _quoted(currency.name), why)
        if amount is None:
            if self._kind == "orders":
                self._add(
                    "amount", '{ value = 0, unit = "minor" }', "NO COLUMN HAS AMOUNTS: 0 stands for all"
                )
            return
        self._take(amount)
        comma, texts = amount.uses_comma, amount.numbers
        has_decimals = any("." in text and text.partition(".")[2].strip("0") for text in texts)
        middle = median(float(text) for text in texts if text)
        is_minor = bool(amount.tokens & {"cents", "minor", "pence"}) or (not has_decimals and middle >= 1000)
        unit = "minor" if is_minor else "major"
        why = f"amounts, {'with' if has_decimals else 'without'} decimals, {amount.said}; {unit} unit"
        if not has_decimals and not amount.tokens & {"cents", "minor"}:
            why += " is a guess"
        most = max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)
        finest = (
            CURRENCIES[constant or "EUR"]
            if currency is None
            else min(CURRENCIES.get(each, 2) for each in set(currency.texts))
        )
        rounds = unit == "major" and (most > finest)
        if rounds and currency is not None:
            # where one of them is missing they are not in step; a refusal then says what to do
            rounds = len(texts) == currency.rows == len(currency.texts) and any(
                len(text.partition(".")[2].rstrip("0")) > CURRENCIES.get(code, 9)
                for code, text in zip(currency.texts, texts, strict=True)
            )
        options = (
            f', unit = "{unit}"' + (', decimal = ","' if comma else "") + (", round = true" if rounds else "")
        )
        if rounds:
            why += "; some have more decimals than the currency, and are rounded"
        self._add("amount", f"{{ column = {_quoted(amount.name)}{options} }}", why)

    def _others(self) -> None:
        def field(name: str, column: _Column | None, options: str = "", why: str = "") -> None:
            if column is None:
                return
            how = f"{{ column = {_quoted(column.name)}, {options} }}" if options else _quoted(column.name)
            self._add(name, how, f"{why or 'by its name'}, {self._take(column).said}")

        email = next((e for e in self._left.values() if e.is_email), None)
        if email is not None:
            field(
                "email_hash", email, 'hash = "email"', "e-mail addresses: only their hash leaves this machine"
            )
            self._fields.append(f'email_domain = {{ column = {_quoted(email.name)}, part = "domain" }}')
        phone = self._named("phone", "mobile", fits=lambda e: e.matches(r"[-+()x./ \d]{6,}"))
        field("phone_hash", phone, 'hash = "phone"', "phone numbers: only their hash leaves this machine")
        address = self._named(
            "ip", fits=lambda e: e.matches(r"\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:]+")
        )
        number = self._named("ip", fits=lambda e: e.matches(r"\d{7,10}(\.\d+)?"))
        field("ip", address, why="IP addresses")
        field("ip", None if address else number, 'type = "ipv4"', "IP addresses written as numbers")
        if address is None and number is None:
            field("ip", self._named("ip", "ip address"))
        field("device_id", self._named("device id", "device"))
        field(
            "merchant_id",
            self._named("merchant", "store", "terminal", "seller", "target", fits=_is_identifying),
        )
        field("card.bin", self._named("bin", fits=lambda e: e.matches(r"\d{4,8}")))
        pan = next(
            (
                e
                for e in self._left.values()
                if e.is_card_number or ("card" in e.tokens and e.matches(r"\d{13,19}"))
            ),
            None,
        )
        field("card.fingerprint", pan, 'hash = "text"', "card numbers: only their hash leaves this machine")
        if pan is None:
            field("card.fingerprint", self._named("card id", "card hash", "card fingerprint"))
        field("payment_method", self._named("payment method", "payment type"))
        field("channel", self._named("channel", "source", fits=lambda e: e.distinct <= 50))
        for place in ("billing", "shipping"):
            for part, words in (
                ("city", ("city",)), ("postcode", ("zip", "postcode", "postal")), ("country", ("country",)),
                ("latitude", ("latitude", "lat")), ("longitude", ("longitude", "lng", "lon")),
            ):  # fmt: skip
                fits = _is_country if part == "country" else lambda _: True
                field(f"{place}.{part}", self._named(*(f"{place} {word}" for word in words), fits=fits))
            street = self._named(f"{place} street", f"{place} address")
            field(f"{place}.hash", street, 'hash = "text"', "addresses: only their hash leaves this machine")
        field("country", self._named("country", fits=_is_country), why="countries of two letters")

    def _lines_of_items(self) -> None:
        for each in list(self._left.values()):
            if each.values and all(isinstance(value, list) for value in each.values[:100]):
                objects = [item for value in each.values[:1000] for item in value if isinstance(item, dict)]
                if objects:
                    names = list(dict.fromkeys(name for item in objects for name in item))
                    columns = [_Column(n, [o[n] for o in objects if n in o], len(objects)) for n in names]
                    self._take(each)
                    self._items = ["[items]", f"list = {_quoted(each.name)}", "", *_item_fields(columns)]
                    if "unit_price" in "".join(self._items):
                        self._sum_items()
                    return
        self._joined()

    def _joined(self) -> None:
        """Another member of the zip whose rows repeat the ids of this one."""
        file, member = self._source.path, self._source.reading.member
        if member is None:
            return
        ids = [each for each in self._columns if each.is_unique]
        with zipfile.ZipFile(file) as archive, ExitStack() as closing:
            for name in archive.namelist():
                if name == member or not name.lower().endswith(".csv"):
                    continue
                columns = _looked_at(closing.enter_context(Source(file, Reading(member=name))))
                for one in ids:
                    key = next(
                        (
                            c
                            for c in columns
                            if c.tokens & _ID and len(set(c.texts) & set(one.texts)) * 2 > c.distinct
                        ),
                        None,
                    )
                    if key is None:
                        continue
                    join = f"member = {_quoted(name)}, on = {_quoted(one.name)}, key = {_quoted(key.name)}"
                    others = [each for each in columns if each is not key]
                    self._items = ["[items]", f"join = {{ {join} }}", "", *_item_fields(others)]
                    if "unit_price" in "".join(self._items):
                        self._sum_items()
                    return

    def _sum_items(self) -> None:
        zero = self._fields.index(_NO_AMOUNT) if _NO_AMOUNT in self._fields else None
        if zero is not None:
            self._fields[zero - 1 : zero + 1] = ["# what the items come to", 'amount = { sum = "items" }']

    def _own(self) -> None:
        """What is left: the shop's own columns, but for those of persons and those that say nothing."""
        for each in self._left.values():
            if each.names_person:
                self._note(each, "may name a person; take it under a hash or leave it")
            elif not each.values:
                self._note(each, "always missing")
            elif isinstance(each.values[0], list | dict):
                self._note(each, "a list or an object; name a path inside it")
            elif len(self._attributes) >= 100:
                self._note(each, "an order carries 100 attributes at most")
            else:
                kind = _type_of(each)
                how = (
                    _quoted(each.name)
                    if kind is None
                    else f'{{ column = {_quoted(each.name)}, type = "{kind}" }}'
                )
                self._attributes.append(f"{_key(each.name)} = {how}  # {each.said}")

    def _note(self, column: _Column, why: str) -> None:
        self._notes.append(f"#   {_quoted(column.name)}: {why} ({column.said})")


def _item_fields(columns: Sequence[_Column]) -> list[str]:
    lines, left = ["[items.fields]"], list(columns)
    for field, words, options, fits in (
        ("unit_price", ("price", "amount"), 'unit = "major"', lambda c: c.is_number),
        ("quantity", ("quantity", "qty", "nbr", "count", "number"), "", lambda c: c.is_whole),
        ("sku", ("sku", "code", "product", "article"), "", _is_identifying),
        ("category", ("category", "item", "department", "type"), "", lambda _: True),
    ):
        found = next((c for word in words for c in left if word in c.tokens and fits(c)), None)
        if found is not None:
            left.remove(found)
            how = f"{{ column = {_quoted(found.name)}, {options} }}" if options else _quoted(found.name)
            lines.append(f"{field} = {how}  # {found.said}")
    return [*lines, *(f"# not taken: {_quoted(each.name)}" for each in left)]


def _is_identifying(column: _Column) -> bool:
    """Many values, and none that measures anything."""
    enough = column.distinct > max(20, 0.002 * column.rows) or column.distinct == column.rows
    return (
        bool(column.values)
        and column.time_format is None
        and enough
        and not column.matches(r"-?\d+\.\d*[1-9]\d*")
    )


def _is_country(column: _Column) -> bool:
    return column.matches(r"[A-Z]{2}")


def _is_unsorted(column: _Column) -> bool:
    values = column.values if column.time_format == "iso" else []
    if column.time_format in {"epoch_s", "epoch_ms"}:
        values = [int(text) for text in column.texts if text.isdecimal()]
    elif column.time_format and "%" in column.time_format:
        values = [datetime.strptime(text, column.time_format) for text in column.texts]  # noqa: DTZ007
    return any(one > other for one, other in pairwise(values))


def _time(column: _Column) -> str:
    written = column.time_format or "iso"
    options = "" if written == "iso" else f", format = {_quoted(written)}"
    if written not in {"epoch_s", "epoch_ms"} and not all(map(_OFFSET.fullmatch, column.texts[:1000])):
        options += ', zone = "UTC"'
    return f"{{ column = {_quoted(column.name)}{options} }}" if options else _quoted(column.name)


def _type_of(column: _Column) -> str | None:
    if all(isinstance(value, bool | int | float) for value in column.values):
        return None  # JSON and Parquet say it themselves
    if {text.casefold() for text in column.texts} <= {"true", "false", "yes", "no"}:
        return "boolean"
    # a code with leading zeros is a text; numbers are for what can be more or less
    if column.is_whole and not any(len(text) > 1 and text[0] == "0" for text in column.texts):
        return "integer" if column.matches(r"-?\d{1,18}") else None
    return "number" if column.matches(r"-?\d+(\.\d+)?") and not column.is_whole else None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _hidden(column: _Column) -> str:
    """The column by its hash."""
    return f'{{ column = {_quoted(column.name)}, hash = "{"email" if column.is_email else "text"}" }}'


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)
