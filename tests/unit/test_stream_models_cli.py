"""What `fraudstream models` shows, proves, carries over and deletes."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from models.bundle import unpack
from models.errors import RegistryError
from models.registry import ARRAYS, MANIFEST, SIGNATURE, Entry, Registry
from models.score import ScoreOf
from models.train import train
from models.trained import Trained
from stream.cli import app
from stream.model_gc import judged, named_in_control, named_in_decisions
from stream.ports import TP, Record, Refused
from stream.settings import Settings
from tests.small_shop import TRAINED_AT, a_past, a_trained

FOREST, LINEAR = a_trained("random_forest"), a_trained("logistic_regression")
KEY = "a key for tests"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Registry:
    """Two versions of one model, the forest the champion."""
    there = Registry(home / "models")
    for trained in (FOREST, LINEAR):
        there.publish(trained)
    there.promote(FOREST.name, FOREST.version)
    return there


def said(trained: Trained) -> str:
    return f"{trained.name}@{trained.version}"


def invoke(*arguments: str, **env: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **env}).invoke(app, ["models", *arguments])


def run(*arguments: str, **env: str) -> str:
    result = invoke(*arguments, **env)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: str, **env: str) -> str:
    result = invoke(*arguments, **env)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, "a refusal is one line"
    return result.stderr


# ---------------------------------------------------------------------- looking


def test_a_list_marks_the_champion_and_says_who_signed(registry: Registry) -> None:
    lines = {line.split("@")[1].split()[0]: line for line in run("list").splitlines()}

    assert set(lines) == {FOREST.version, LINEAR.version}
    assert lines[FOREST.version].startswith("* order_risk@")
    assert "RandomForest" in lines[FOREST.version]
    assert "2026-01-01..2026-02-20, 1,070 orders" in lines[FOREST.version]
    assert f"auc {FOREST.metrics['holdout_auc']:.4f}" in lines[FOREST.version]
    assert lines[FOREST.version].endswith("unsigned")
    assert lines[LINEAR.version].startswith("  order_risk@")


def test_a_list_is_read_by_machines(registry: Registry) -> None:
    told = [json.loads(line) for line in run("list", "--json").splitlines()]

    assert {each["version"]: each["champion"] for each in told} == {
        FOREST.version: True,
        LINEAR.version: False,
    }
    assert told[0]["metrics"]["holdout_auc"] is not None
    assert run("list", "another", "--json") == ""


def test_an_empty_registry_is_said_to_be_empty(home: Path) -> None:
    result = invoke("list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"nothing is published in {home / 'models'}" in result.stderr


def test_a_list_goes_on_where_a_manifest_cannot_be_read(registry: Registry) -> None:
    (Path(registry.place(LINEAR.name, LINEAR.version)) / MANIFEST).write_text("\x1b[2Jnonsense")

    listed = run("list")

    assert "UNREADABLE" in listed
    assert said(FOREST) in listed
    assert "\x1b" not in listed


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, "signature not checked"),
        ({"FRAUDSTREAM_SIGNING_KEY": KEY}, "signed"),
        ({"FRAUDSTREAM_SIGNING_KEY": "another"}, "WRONG SIGNATURE"),
    ],
)
def test_a_list_says_whether_the_signature_is_right(home: Path, env: dict[str, str], wanted: str) -> None:
    Registry(home / "models", key=KEY.encode()).publish(LINEAR)

    assert run("list", **env).strip().endswith(f"  {wanted}")


def test_a_page_shows_what_the_manifest_says(registry: Registry) -> None:
    page = run("show", said(LINEAR))

    assert page.startswith(f"{said(LINEAR)}\n")
    assert registry.digest(LINEAR.name, LINEAR.version) in page
    assert "unsigned: whoever may write to the registry could have changed it" in page
    assert all(each.name in page and each.unit in page for each in LINEAR.features)


def test_a_name_is_its_champion(registry: Registry) -> None:
    assert json.loads(run("show", "order_risk", "--json"))["manifest"]["version"] == FOREST.version


def test_without_a_champion_the_versions_are_named(home: Path) -> None:
    Registry(home / "models").publish(LINEAR)

    assert f"no champion; name one of {said(LINEAR)}" in refusal("show", "order_risk")
    assert "fraudstream models list" in refusal("show", "another")
    assert "is not published in" in refusal("show", "order_risk@2026-02-14.ffff")


def test_two_models_differ_in_what_is_said(registry: Registry) -> None:
    lines = run("diff", said(FOREST), said(LINEAR)).splitlines()

    assert lines[0] == f"{said(FOREST)} -> {said(LINEAR)}"
    assert "  predictor: kind RandomForest -> LogisticRegression" in lines
    assert "  setting: - n_estimators 100" in lines
    assert any(line.startswith("  threshold: review_at") for line in lines)
    assert not any(line.startswith("  feature") for line in lines)
    assert run("diff", "order_risk", said(FOREST)).splitlines() == [
        f"{said(FOREST)} -> {said(FOREST)}",
        "  the same",
    ]


def test_a_metric_that_moved_says_by_how_much(registry: Registry) -> None:
    better = dataclasses.replace(LINEAR, version="2026-02-15.abcd", metrics={"holdout_auc": 0.75})
    worse = dataclasses.replace(LINEAR, version="2026-02-16.abcd", metrics={"holdout_auc": 0.7})
    registry.publish(better)
    registry.publish(worse)

    lines = run("diff", said(better), said(worse)).splitlines()

    assert lines[1:] == ["  metric: holdout_auc 0.7500 -> 0.7000 (-0.0500)"]


def test_models_of_other_features_differ_in_them(registry: Registry) -> None:
    smaller = _with_features(LINEAR, 3)
    registry.publish(smaller)

    lines = run("diff", said(LINEAR), said(smaller)).splitlines()

    gone = [each.name for each in LINEAR.features[3:]]
    assert [line for line in lines if "feature" in line] == [f"  feature: - {name}" for name in gone]
    told = [json.loads(line) for line in run("diff", said(smaller), said(LINEAR), "--json").splitlines()]
    assert [each["name"] for each in told if each["part"] == "feature"] == gone


def test_a_card_has_what_a_reader_of_cards_looks_for(registry: Registry, tmp_path: Path) -> None:
    card = run("card", "order_risk")

    for heading in ("What it is for", "What it learned from", "How good it is", "Where its limits are"):
        assert f"## {heading}\n" in card
    assert "period: orders placed from 2026-01-01" in card
    assert "countries: not restricted, or not recorded" in card
    assert "labels mature after: not recorded" in card
    assert "| holdout\\_auc |" in card
    assert all(f"| {each.name.replace('_', chr(92) + '_')} | " in card for each in FOREST.features)
    run("card", "order_risk", "--to", str(tmp_path / "card.md"))
    assert (tmp_path / "card.md").read_text() == card


def test_a_card_takes_no_orders_from_a_manifest(registry: Registry) -> None:
    manifest = Path(registry.place(LINEAR.name, LINEAR.version)) / MANIFEST
    told = json.loads(manifest.read_text())
    told["split"] = "<script>alert(1)</script> [here](javascript:x)\n# A heading \x1b[2J"
    manifest.write_text(json.dumps(told))

    card = run("card", said(LINEAR))

    assert "<script" not in card.replace("\\<", "")
    assert "\n# A heading" not in card
    assert "\x1b" not in card


# ---------------------------------------------------------------------- proving


def test_sound_models_are_said_to_be(registry: Registry) -> None:
    result = invoke("verify")

    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == sorted(f"ok  {said(e)}, unsigned" for e in (FOREST, LINEAR))
    assert "no key is set" in result.stderr


def test_with_a_key_nothing_is_left_to_say(home: Path) -> None:
    Registry(home / "models", key=KEY.encode()).publish(LINEAR)
    result = invoke("verify", FRAUDSTREAM_SIGNING_KEY=KEY)

    assert (result.exit_code, result.stdout, result.stderr) == (0, f"ok  {said(LINEAR)}, signed\n", "")


@pytest.mark.parametrize("file", [ARRAYS, MANIFEST, SIGNATURE])
def test_one_changed_byte_is_found(home: Path, file: str) -> None:
    folder = Path(Registry(home / "models", key=KEY.encode()).publish(LINEAR))
    Registry(home / "models", key=KEY.encode()).publish(FOREST)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)

    result = invoke("verify", "--json", FRAUDSTREAM_SIGNING_KEY=KEY)

    assert result.exit_code == 1
    told = {each["version"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert (told[LINEAR.version]["sound"], told[FOREST.version]["sound"]) == (False, True)
    assert told[LINEAR.version]["wrong"]
    assert invoke("verify", said(FOREST), FRAUDSTREAM_SIGNING_KEY=KEY).exit_code == 0
    assert invoke("verify", said(LINEAR), FRAUDSTREAM_SIGNING_KEY=KEY).exit_code == 1


def test_a_file_that_nobody_published_is_found(registry: Registry) -> None:
    (Path(registry.place(LINEAR.name, LINEAR.version)) / "run.py").write_text("print('hello')")

    result = invoke("verify")

    assert result.exit_code == 1
    assert f"BAD {said(LINEAR)}: holds run.py, which its manifest does not name" in result.stdout


def test_what_is_not_there_cannot_be_verified(registry: Registry) -> None:
    assert "order_risk@2026-02-14.ffff is not published in" in refusal("verify", "order_risk@2026-02-14.ffff")


# ---------------------------------------------------------------------- carrying over


def _with_features(trained: Trained, count: int) -> Trained:
    """The same past, learned from the first features only."""
    return train(
        a_past(),
        name=trained.name,
        predictor="logistic_regression",
        trained_at=date(2026, 2, 15),
        row_limit=50,
        features=trained.features[:count],
    )


def test_a_model_is_the_same_after_it_was_carried_over(registry: Registry, tmp_path: Path) -> None:
    bundle = tmp_path / "model.tar"
    run("export", said(FOREST), str(bundle))
    first = bundle.read_bytes()
    run("export", said(FOREST), str(bundle))
    assert bundle.read_bytes() == first

    there = {"FRAUDSTREAM_REGISTRY": str(tmp_path / "there")}
    assert run("import", str(bundle), **there) == f"published {said(FOREST)}\n"
    assert run("import", str(bundle), **there) == f"{said(FOREST)} was published before, with these bytes\n"

    arrived = Registry(tmp_path / "there")
    assert arrived.files(FOREST.name, FOREST.version) == registry.files(FOREST.name, FOREST.version)
    assert arrived.champion(FOREST.name) is None


def test_submodels_come_along(home: Path, tmp_path: Path) -> None:
    here = Registry(home / "models")
    here.publish(LINEAR)
    whole = train(
        a_past(),
        name="a_whole",  # before its submodel in every list
        predictor="logistic_regression",
        trained_at=TRAINED_AT,
        row_limit=50,
        features=(*LINEAR.features[:3], ScoreOf(here.load(LINEAR.name, LINEAR.version))),
    )
    here.publish(whole)
    run("export", said(whole), str(tmp_path / "model.tar"))

    told = run("import", str(tmp_path / "model.tar"), FRAUDSTREAM_REGISTRY=str(tmp_path / "there"))

    assert told == f"published {said(LINEAR)}\npublished {said(whole)}\n"
    assert (
        Registry(tmp_path / "there").load(whole.name, whole.version).digest
        == here.load(whole.name, whole.version).digest
    )


def test_a_signature_comes_along_and_is_held_against_the_key(home: Path, tmp_path: Path) -> None:
    Registry(home / "models", key=KEY.encode()).publish(LINEAR)
    bundle = str(tmp_path / "model.tar")
    run("export", said(LINEAR), bundle, FRAUDSTREAM_SIGNING_KEY=KEY)

    same = {"FRAUDSTREAM_REGISTRY": str(tmp_path / "same"), "FRAUDSTREAM_SIGNING_KEY": KEY}
    other = {"FRAUDSTREAM_REGISTRY": str(tmp_path / "other"), "FRAUDSTREAM_SIGNING_KEY": "another"}
    run("import", bundle, **same)
    assert "not signed with this registry's key" in refusal("import", bundle, **other)
    assert not (tmp_path / "other").exists() or Registry(tmp_path / "other").list() == ()
    run("import", bundle, "--sign", **other)

    run("verify", **same)
    run("verify", **other)
    first, second = (
        Registry(tmp_path / "same", key=KEY.encode()),
        Registry(tmp_path / "other", key=b"another"),
    )
    assert first.digest(LINEAR.name, LINEAR.version) == second.digest(LINEAR.name, LINEAR.version)


def test_nobody_signs_without_a_key(registry: Registry, tmp_path: Path) -> None:
    run("export", said(LINEAR), str(tmp_path / "m.tar"))

    told = refusal("import", str(tmp_path / "m.tar"), "--sign", FRAUDSTREAM_REGISTRY=str(tmp_path / "there"))

    assert "no key to sign with" in told


def test_a_version_is_not_replaced_by_a_bundle(registry: Registry, tmp_path: Path) -> None:
    run("export", said(LINEAR), str(tmp_path / "m.tar"))
    other = Registry(tmp_path / "there")
    other.publish(dataclasses.replace(LINEAR, metrics={"holdout_auc": 1.0}))

    told = refusal("import", str(tmp_path / "m.tar"), FRAUDSTREAM_REGISTRY=str(tmp_path / "there"))

    assert "published with other content" in told
    assert other.manifest(LINEAR.name, LINEAR.version).metrics == {"holdout_auc": 1.0}


def test_a_bundle_of_a_changed_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    run("export", said(LINEAR), str(tmp_path / "m.tar"))
    content = (tmp_path / "m.tar").read_bytes()
    arrays = unpack(content)[f"{LINEAR.name}/{LINEAR.version}/{ARRAYS}"]
    (tmp_path / "m.tar").write_bytes(content.replace(arrays, arrays[:-1] + bytes([arrays[-1] ^ 1])))

    told = refusal("import", str(tmp_path / "m.tar"), FRAUDSTREAM_REGISTRY=str(tmp_path / "there"))

    assert f"{ARRAYS} is not as published" in told
    assert Registry(tmp_path / "there").list() == ()


# ---------------------------------------------------------------------- deleting


def an_entry(name: str, version: str, *parents: str, **fields: Any) -> Entry:
    manifest = _MANIFEST.model_copy(update={"name": name, "version": version, "parents": parents})
    told = {"manifest": manifest, "wrong": "", "signature": "absent", "is_champion": False}
    return Entry(name=name, version=version, **(told | fields))


@pytest.fixture(autouse=True, scope="module")
def _a_manifest(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _MANIFEST  # noqa: PLW0603 - read once
    there = Registry(tmp_path_factory.mktemp("models"))
    there.publish(LINEAR)
    _MANIFEST = there.manifest(LINEAR.name, LINEAR.version)


_MANIFEST: Any = None


def kept(entries: list[Entry], **told: Any) -> dict[str, str]:
    default: dict[str, Any] = {"decided": (), "pinned": "", "kept_since": date(2026, 6, 1), "served": {}}
    return {entry.said: why for entry, why in judged(entries, **(default | told))}


def test_what_control_needs_is_kept() -> None:
    entries = [an_entry("a", "2026-01-01.aaaa"), an_entry("a", "2026-01-02.aaaa")]

    assert kept(entries, served={"a@2026-01-02.aaaa": "in service"}) == {
        "a@2026-01-02.aaaa": "in service",
        "a@2026-01-01.aaaa": "",
    }


def a_move(offset: int, at: datetime, kind: str, version: str, **told: Any) -> Record:
    told = {
        "name": "risk",
        "version": version,
        "digest": "0" * 64,
        "review_at": 0.2,
        "decline_at": 0.9,
    } | told
    said = {"kind": kind, "group": Settings().group, "who": "anna", "why": "a test", "required": True}
    said |= {"role": "champion"} | told
    return Record("control", 0, offset, int(at.timestamp() * 1000), None, json.dumps(said).encode(), ())


def test_whatever_was_in_service_lately_is_kept_for_every_group() -> None:
    since = datetime(2026, 6, 1, tzinfo=UTC)
    before, after = since - timedelta(seconds=1), since + timedelta(seconds=1)
    long_ago, until_june, now, theirs, on_trial = (f"2025-01-0{n}.aaaa" for n in range(1, 6))
    scope = {"country": "DE"}
    control = [
        a_move(0, before, "model_deployed", long_ago, scope=scope),
        a_move(1, before, "model_deployed", until_june, scope=scope),
        a_move(2, before, "model_deployed", on_trial, role="challenger"),
        a_move(3, before, "model_retired", on_trial, role="challenger"),
        a_move(4, before, "model_promoted", theirs, group="another"),
        a_move(5, after, "model_retired", until_june, scope=scope),
        a_move(6, after, "model_promoted", now),
    ]

    found = named_in_control(Settings(), SomeDecisions(control=control), since)

    assert found == {
        f"risk@{until_june}": "in service since 2026-06-01",
        f"risk@{now}": "in service",
        f"risk@{theirs}": "in service",
    }
    back = named_in_control(Settings(), SomeDecisions(control=control[:2]), since)
    assert back[f"risk@{long_ago}"] == "what a rollback leads back to"


def test_nothing_goes_while_a_move_cannot_be_followed() -> None:
    at = datetime(2026, 6, 1, tzinfo=UTC)
    control = [a_move(0, at, "model_doubled", "2026-01-01.aaaa")]

    with pytest.raises(Refused, match="until then nobody knows which models are needed"):
        named_in_control(Settings(), SomeDecisions(control=control), at)


def test_what_something_needs_is_kept() -> None:
    entries = [
        an_entry("a", "2026-01-01.aaaa", is_champion=True),
        an_entry("a", "2026-01-02.aaaa"),
        an_entry("a", "2026-01-03.aaaa"),
        an_entry("a", "2026-01-04.aaaa"),
        an_entry("a", "2026-06-01.aaaa"),
    ]

    found = kept(entries, decided={"a@2026-01-02.aaaa"}, pinned="a@2026-01-03.aaaa")

    assert found == {
        "a@2026-01-01.aaaa": "the champion",
        "a@2026-01-02.aaaa": "named by a decision",
        "a@2026-01-03.aaaa": "named by the setting model",
        "a@2026-06-01.aaaa": "trained since 2026-06-01",
        "a@2026-01-04.aaaa": "",
    }


def test_submodels_of_what_is_kept_are_kept_and_others_go_after_their_parents() -> None:
    entries = [
        an_entry("leaf", "2026-01-01.aaaa"),
        an_entry("leaf", "2026-01-02.aaaa"),
        an_entry("middle", "2026-01-01.aaaa", "leaf@2026-01-01.aaaa"),
        an_entry("middle", "2026-01-02.aaaa", "leaf@2026-01-02.aaaa"),
        an_entry("top", "2026-01-01.aaaa", "middle@2026-01-01.aaaa", is_champion=True),
        an_entry("top", "2026-01-02.aaaa", "middle@2026-01-02.aaaa"),
    ]

    found = kept(entries)

    assert found["leaf@2026-01-01.aaaa"] == "a submodel of middle@2026-01-01.aaaa"
    assert [each for each, why in found.items() if not why] == [
        "top@2026-01-02.aaaa",
        "middle@2026-01-02.aaaa",
        "leaf@2026-01-02.aaaa",
    ]


@pytest.mark.parametrize("fields", [{"manifest": None, "wrong": "it is gone"}, {"signature": "wrong"}])
def test_nothing_goes_while_a_manifest_cannot_be_believed(fields: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match="nobody knows what it needs"):
        kept([an_entry("a", "2026-01-01.aaaa"), an_entry("b", "2026-01-01.aaaa", **fields)])


class SomeDecisions:
    """What two topics of one partition have."""

    def __init__(self, **topics: list[Record]) -> None:
        self._topics = {name.replace("_", "-"): records for name, records in topics.items()}

    def partitions(self, topic: str) -> int:
        return 1

    def bounds(self, tp: TP) -> tuple[int, int]:
        return 0, len(self._topics[tp[0]])

    def read(self, tp: TP, start: int, end: int) -> Iterator[list[Record]]:
        yield self._topics[tp[0]][start:end]

    def close(self) -> None:
        pass


def a_decision(topic: str, offset: int, at: datetime, value: bytes | None) -> Record:
    return Record(topic, 0, offset, int(at.timestamp() * 1000), b"c1", value, ())


def test_models_that_decided_lately_are_found_in_both_topics() -> None:
    since = datetime(2026, 6, 1, tzinfo=UTC)
    before, after = since - timedelta(seconds=1), since + timedelta(seconds=1)

    def by(version: str) -> bytes:
        return json.dumps({"order_id": "o1", "model": {"name": "risk", "version": version}}).encode()

    decided = [
        a_decision("decisions", 0, before, by("long_ago")),
        a_decision("decisions", 1, after, by("lately")),
        a_decision("decisions", 2, after, b"nonsense"),
        a_decision("decisions", 3, after, None),
        a_decision("decisions", 4, after, b'{"order_id": "o2", "model": null}'),
    ]
    shadow = [a_decision("decisions-shadow", 0, after, by("observed"))]

    found = named_in_decisions(Settings(), SomeDecisions(decisions=decided, decisions_shadow=shadow), since)

    assert found == {"risk@lately", "risk@observed"}


def test_nothing_is_deleted_unless_it_is_said(registry: Registry) -> None:
    told = run("gc", "--ignore-decisions")
    assert f"gone  {said(LINEAR)}: would be deleted" in told
    assert f"keep  {said(FOREST)}: the champion" in told
    assert len(registry.list()) == 2

    told = run("gc", "--ignore-decisions", "--yes")
    assert f"gone  {said(LINEAR)}: deleted" in told
    assert registry.list() == ((FOREST.name, FOREST.version),)
    assert [each.name for each in Path(registry.address, FOREST.name).iterdir() if each.is_dir()] == [
        FOREST.version
    ]
    registry.load(FOREST.name)


def test_leftovers_go_where_it_is_said(registry: Registry) -> None:
    folder = Path(registry.address) / FOREST.name
    (folder / f".{FOREST.version}-abc").mkdir()
    (folder / f".{FOREST.version}-abc" / ARRAYS).write_bytes(b"half")
    (folder / "notes").mkdir()

    assert "abc" not in run("gc", "--ignore-decisions")
    assert "abc: would be deleted" in run("gc", "--ignore-decisions", "--leftovers")
    assert (folder / f".{FOREST.version}-abc").exists()
    run("gc", "--ignore-decisions", "--leftovers", "--keep", "36500", "--yes")
    assert not (folder / f".{FOREST.version}-abc").exists()
    assert (folder / "notes").exists()
    assert len(registry.list()) == 2
