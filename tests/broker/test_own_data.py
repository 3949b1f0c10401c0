"""A shop's own files through a real broker: every row once, whatever ends the publisher."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.mapping import RowMapping
from stream import topics
from stream.cli import app
from stream.mapping import load_mapping
from stream.publish import Published, PublishError, RefusedLine, planned, publish_file
from stream.settings import Settings
from stream.sources import Source
from tests.own_data import FILES, data_file, mapping_file
from tests.running import Worker, decisions, environment, orders, read, send

TESTS = Path(__file__).parents[1]


def lines_of(count: int) -> bytes:
    return b"".join(value + b"\n" for _, value in orders(count))


def publish_whole(settings: Settings, file: Path, **how: Any) -> Published:
    start = how.pop("from_start", False)
    with Source(str(file)) as source:
        return publish_file(settings, source, planned(settings, source, None, **how), from_start=start)


def order_ids(settings: Settings, count: int, topic: str | None = None) -> Counter[str]:
    found = read(settings, topic or settings.topics.orders, count)
    return Counter(json.loads(each.value() or b"")["order_id"] for each in found)


def wait_until(holds: Any, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_publisher_that_was_killed_goes_on_where_it_was_and_nothing_comes_twice(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    file = tmp_path / "orders.jsonl"
    file.write_bytes(lines_of(3_000))
    command = [sys.executable, "-m", "stream.cli", "publish", str(file)]
    env = {**os.environ, **environment(settings)}
    killed = subprocess.Popen([*command, "--rate", "1000"], env=env, stderr=subprocess.DEVNULL)
    try:
        assert order_ids(settings, 200)  # committed already, while it is still publishing
        assert killed.poll() is None
    finally:
        killed.kill()
        killed.wait(10)

    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)

    assert "going on after row " in again.stdout
    found = order_ids(settings, 3_000)
    assert (len(found), max(found.values())) == (3_000, 1)
    third = subprocess.run(
        [*command, "--json"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(third.stdout)
    assert (said["already_published"], said["sent"], said["before"]["sent"]) == (True, 0, 3_000)


def test_an_interrupted_publisher_keeps_what_it_sent_and_says_how_to_go_on(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    file = tmp_path / "orders.jsonl"
    file.write_bytes(lines_of(1_000))
    stopped = subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "publish", str(file), "--rate", "100"],
        env={**os.environ, **environment(settings)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert order_ids(settings, 20)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=30)

    assert stopped.returncode == 1
    assert "the same command goes on from there" in said
    first = publish_whole(settings, file)
    assert first.before["sent"] + first.sent == 1_000
    assert len(order_ids(settings, 1_000)) == 1_000


def test_a_second_publisher_of_a_file_takes_over_and_nothing_comes_twice(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    file = tmp_path / "orders.jsonl"
    file.write_bytes(lines_of(1_000))
    ended: list[Exception] = []
    seen: list[int] = []

    def slowly() -> None:
        with Source(str(file)) as source:
            plan = planned(settings, source, None, rate=200)
            try:
                publish_file(settings, source, plan, progress=lambda published: seen.append(published.sent))
            except PublishError as error:
                ended.append(error)

    first = threading.Thread(target=slowly)
    first.start()
    wait_until(lambda: seen and seen[-1] > 100)
    publish_whole(settings, file)
    first.join(30)

    assert "another publisher of the same file" in str(ended[0])
    assert "has taken over after row " in str(ended[0])
    found = order_ids(settings, 1_000)
    assert (len(found), max(found.values())) == (1_000, 1)


def test_a_published_file_is_sent_again_only_when_asked_and_as_history_it_is_another(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    file = tmp_path / "orders.jsonl"
    file.write_bytes(lines_of(10))

    assert publish_whole(settings, file, limit=4).sent == 4
    assert publish_whole(settings, file, limit=4).is_repeat
    rest = publish_whole(settings, file)
    assert (rest.sent, rest.before["sent"]) == (6, 4)
    assert publish_whole(settings, file).is_repeat
    assert publish_whole(settings, file, limit=4).is_repeat
    assert publish_whole(settings, file).is_repeat
    assert publish_whole(settings, file, from_start=True).sent == 10
    assert publish_whole(settings, file, history=True).sent == 10
    file.write_bytes(lines_of(11))  # another content is another file
    assert publish_whole(settings, file).sent == 11
    marks = Counter(str((each.headers() or [None])[0]) for each in read(settings, settings.topics.orders, 41))
    assert marks == {"None": 31, "('mode', b'history')": 10}


def test_every_refused_row_is_counted_once_over_all_runs_and_kept_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    file, rejects = tmp_path / "orders.jsonl", tmp_path / "rejects.jsonl"
    file.write_bytes(lines_of(3) + b"no json\n" + lines_of(5) + b'{"order_id":"a\\u0000"}\n')
    command = ["publish", str(file), "--rejects", str(rejects), "--json"]

    part = CliRunner().invoke(app, [*command, "--limit", "5"])
    whole = CliRunner().invoke(app, command)
    again = CliRunner().invoke(app, command)

    assert (part.exit_code, whole.exit_code, again.exit_code) == (1, 1, 1)
    first, second = json.loads(part.stdout), json.loads(whole.stdout)
    assert (first["sent"], first["refused"], second["sent"], second["refused"]) == (4, 1, 4, 1)
    assert second["before"] == {"rows": 5, "sent": 4, "refused": 1, "left_out": 0}
    assert second["refused_by_cause"] == {"bad_value": 1}
    kept = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["row"], each["raw"]) for each in kept] == [(4, "no json"), (10, '{"order_id":"a\\u0000"}')]
    assert sum(order_ids(settings, 8).values()) == 8


def test_refusals_of_sorted_rows_are_kept_when_the_publisher_was_ended_and_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    mapping, file, rejects = tmp_path / "m.toml", tmp_path / "orders.csv", tmp_path / "rejects"
    mapping.write_text(
        """
        source = { sort = "placed_at" }
        [fields]
        order_id = "id"
        placed_at = { column = "at", format = "epoch_s" }
        amount = { column = "amount", unit = "major" }
        currency = { value = "EUR" }
        """
    )
    lines = [f"o{n},{1_714_566_600 - n},{'lots' if n == 900 else n}" for n in range(1, 1_001)]
    file.write_text("\n".join(["id,at,amount", *lines]))
    command = [sys.executable, "-m", "stream.cli", "publish", str(file), "--map", str(mapping)]
    command += ["--rejects", str(rejects)]
    env = {**os.environ, **environment(settings)}
    stopped = subprocess.Popen([*command, "--rate", "100"], env=env, stderr=subprocess.DEVNULL)
    assert order_ids(settings, 20)
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(30)

    subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)

    (kept,) = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert (kept["row"], kept["raw"]["id"]) == (900, "o900")
    found = order_ids(settings, 999)
    assert (len(found), max(found.values())) == (999, 1)


def test_a_row_too_large_for_its_topic_is_refused_and_the_rest_arrives(
    settings: Settings, tmp_path: Path
) -> None:
    topics.create(settings)
    file = tmp_path / "orders.jsonl"
    file.write_bytes(
        b'{"order_id":"o1"}\n{"order_id":"o2","note":"' + b"x" * 2_000_000 + b'"}\n{"order_id":"o3"}\n'
    )
    refused: list[RefusedLine] = []

    with Source(str(file)) as source:
        publish_file(settings, source, planned(settings, source, None), refused=refused.append)

    assert [(each.line, each.code) for each in refused] == [(2, "too_large")]
    assert set(order_ids(settings, 2)) == {"o1", "o3"}


def test_a_pipe_is_sent_plainly(settings: Settings) -> None:
    topics.create(settings)
    env = {**os.environ, **environment(settings)}
    command = [sys.executable, "-m", "stream.cli", "publish", "-"]

    done = subprocess.run(command, env=env, input=lines_of(20), capture_output=True, timeout=60, check=True)

    assert b"a pipe can't be continued" in done.stderr
    assert len(order_ids(settings, 20)) == 20


def test_outcomes_go_to_their_topic_under_their_orders_key(settings: Settings) -> None:
    file = data_file("afd-outcomes")
    if not file.exists():
        pytest.skip(f"needs ../shared/data/{file.name}")
    topics.create(settings)
    mapping = load_mapping(mapping_file("afd-outcomes"))

    with Source(str(file), mapping.source) as source:
        done = publish_file(settings, source, planned(settings, source, mapping, history=True))

    assert (done.sent, done.left_out, done.refused) == (810, 801, 0)
    found = read(settings, settings.topics.outcomes, 810)
    assert all(json.loads(each.value() or b"")["customer_id"].encode() == each.key() for each in found)
    for each in found:
        said, known_at = dict(each.headers() or ()), json.loads(each.value() or b"")["known_at"]
        assert said["mode"] == b"history"
        assert int(said["arrived_at"]) == int(datetime.fromisoformat(known_at).timestamp() * 1000)


@pytest.mark.slow
def test_each_row_of_each_shops_file_gets_a_decision_or_a_refusal(
    settings: Settings, registry: Path, tmp_path: Path
) -> None:
    """Of each file the first 1,000 rows; `python tests/bench/own_data.py` does the whole of all."""
    files = [name for name in FILES if data_file(name).exists()]
    if not files:
        pytest.skip("needs ../shared/data")
    settings = settings.model_copy(update={"home": registry.parent / "own-data"})
    settings.home.mkdir(exist_ok=True)
    (settings.home / "models").symlink_to(registry)
    topics.create(settings)
    done: dict[str, Published] = {}
    for name in files:
        with Source(str(data_file(name)), load_mapping(mapping_file(name)).source) as source:
            plan = planned(settings, source, _of_shop(name), limit=1_000)
            done[name] = publish_file(settings, source, plan)
    sent = sum(each.sent for each in done.values())

    with Worker(settings, tmp_path / "log"):
        made = decisions(settings, sent, within_s=60)

    assert {each.rows for each in done.values()} == {1_000}
    assert sent + sum(each.refused for each in done.values()) == 1_000 * len(files)
    decided = Counter(each["order_id"].partition("/")[0] for each in made)
    assert decided == {name: each.sent for name, each in done.items()}
    assert not read(settings, settings.topics.rejected, 0)


def _of_shop(name: str) -> RowMapping:
    """The file's mapping, with ids that eight shops on one topic can't share."""
    content = load_mapping(mapping_file(name)).model_dump(exclude_unset=True, by_alias=True)
    for field in ("order_id", "customer_id"):
        if (taken := content["fields"].get(field)) is not None:
            column = taken if isinstance(taken, str) else taken.get("template", "{%s}" % taken.get("column"))  # noqa: UP031
            column = column if "{" in column else "{" + column + "}"
            content["fields"][field] = {"template": f"{name}/{column}"}
    return RowMapping.model_validate(content)


def test_a_worker_decides_a_shops_own_json_and_keeps_what_it_rejects(
    settings: Settings, registry: Path, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        """
        [fields]
        order_id = "nr"
        customer_id = "buyer.id"
        placed_at = { column = "at", format = "epoch_s" }
        amount = { column = "total", unit = "major" }
        currency = { value = "EUR" }
        """
    )
    settings = settings.model_copy(update={"home": registry.parent / "own-json", "mapping": mapping})
    settings.home.mkdir(exist_ok=True)
    (settings.home / "models").symlink_to(registry)
    topics.create(settings)
    sent: list[Mapping[str, Any]] = [
        {"nr": n, "buyer": {"id": f"c{n % 3}"}, "at": 1_714_566_600 + n, "total": f"{n}.50"}
        for n in range(20)
    ]
    bad = json.dumps(sent[0] | {"nr": 99, "total": "lots"}).encode()
    send(
        settings,
        [(each["buyer"]["id"].encode(), json.dumps(each).encode()) for each in sent] + [(b"c0", bad)],
    )

    with Worker(settings, tmp_path / "log"):
        made = {each["order_id"]: each for each in decisions(settings, 21)}
        (rejected,) = read(settings, settings.topics.rejected, 1)

    assert set(made) == {str(n) for n in range(20)} | {"99"}
    assert made["19"]["features"]["amount"] == 19.5
    assert made["19"]["features"]["orders_count_30d"] == 6
    assert rejected.value() == bad
    assert ("reason", b"bad_amount") in (rejected.headers() or [])
