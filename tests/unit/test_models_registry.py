import dataclasses
import errno
import hashlib
import hmac
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from features.catalogue import by_name
from features.define import Feature
from models.errors import MalformedModelError, ModelError, RegistryError
from models.registry import ARRAYS, GOLDEN, MANIFEST, SIGNATURE, Registry, named
from tests.small_shop import a_trained

FOREST = a_trained("random_forest")
NAME, VERSION = FOREST.name, FOREST.version


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def published(registry: Registry) -> Path:
    return Path(registry.publish(FOREST))


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """What somebody who may write to the registry can do: change files and make the sums right again."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in (ARRAYS, GOLDEN):
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change_arrays(folder: Path, **arrays: Any) -> None:
    there = safetensors.numpy.load((folder / ARRAYS).read_bytes())
    named = {f"{NAME}.predictor.{name}": array for name, array in arrays.items()}
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(there | named))
    reseal(folder)


@pytest.mark.parametrize("kind", ["logistic_regression", "random_forest"])
def test_a_published_model_scores_as_it_did_in_training(registry: Registry, kind: Any) -> None:
    trained = a_trained(kind)
    registry.publish(trained)
    scorer = registry.load(trained.name, trained.version)
    answered = scorer.score(trained.golden.rows.tolist())
    assert [s.p_fraud for s in answered] == [round(p, 6) for p in trained.golden.p.tolist()]
    assert scorer.features == trained.features
    assert scorer.suggested_policy == trained.suggested_policy


def test_the_digest_of_a_model_is_the_sha256_of_its_manifest(registry: Registry, published: Path) -> None:
    scorer = registry.load(NAME, VERSION)
    assert scorer.digest == hashlib.sha256((published / MANIFEST).read_bytes()).hexdigest()
    assert (scorer.ref.name, scorer.ref.version, scorer.ref.digest) == (NAME, VERSION, scorer.digest)


def test_publishing_the_same_training_elsewhere_gives_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        registry = Registry(tmp_path / place)
        registry.publish(FOREST)
        digests.add(registry.load(NAME, VERSION).digest)
    assert len(digests) == 1


def test_the_manifest_says_where_the_model_came_from(registry: Registry, published: Path) -> None:
    manifest = registry.manifest(NAME, VERSION)
    assert manifest.trained_at == "2026-02-14"
    assert manifest.trained_on["first_placed_at"] == "2026-01-01T09:00:00+00:00"
    assert set(manifest.libraries) == {"python", "numpy", "scikit-learn"}
    assert manifest.predictor == "RandomForest"
    (node,) = manifest.nodes
    assert node.fills["amount"] == FOREST.model.imputer.fills[0]
    assert node.described["predictor"]["n_estimators"] == 100  # type: ignore[index, call-overload]
    assert "items_count" in manifest.all_missing
    assert manifest.parents == ()
    assert manifest.features[0].code == "AMOUNT"
    assert set(manifest.files) == {ARRAYS, GOLDEN}
    assert "last 20 %" in manifest.split


def test_a_version_is_published_once(registry: Registry, published: Path) -> None:
    before = {file.name: file.read_bytes() for file in published.iterdir()}
    with pytest.raises(RegistryError, match="published already"):
        registry.publish(FOREST)
    assert {file.name: file.read_bytes() for file in published.iterdir()} == before


def test_of_two_publications_at_once_one_wins_whole(
    registry: Registry, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as the one that loses sees it
    with pytest.raises(RegistryError, match="someone else"):
        registry.publish(FOREST)
    monkeypatch.undo()
    assert registry.load(NAME, VERSION).version == VERSION
    assert [path.name for path in published.parent.iterdir()] == [VERSION]


def test_a_publication_that_fails_leaves_nothing_behind(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        registry.publish(FOREST)
    monkeypatch.undo()
    assert registry.list() == ()
    assert list((Path(registry.address) / NAME).iterdir()) == []


def test_a_disk_that_fails_is_not_said_to_be_somebody_elses_publication(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Read-only file system"):
        registry.publish(FOREST)
    monkeypatch.undo()
    assert registry.list() == ()
    registry.publish(FOREST)


def test_a_model_that_would_not_load_is_not_published(registry: Registry) -> None:
    wrong = dataclasses.replace(FOREST.golden, p=1.0 - FOREST.golden.p)
    node = dataclasses.replace(FOREST.nodes[-1], golden=wrong)
    with pytest.raises(MalformedModelError, match="probabilities they had in training"):
        registry.publish(dataclasses.replace(FOREST, nodes=(node,)))
    assert registry.list() == ()


@pytest.mark.parametrize("file", [MANIFEST, ARRAYS, GOLDEN])
def test_any_changed_byte_is_refused_where_the_registry_has_a_key(tmp_path: Path, file: str) -> None:
    registry = Registry(tmp_path, key=b"the registry's key")
    folder = Path(registry.publish(FOREST))
    content = (folder / file).read_bytes()
    for at in range(0, len(content), max(1, len(content) // 40)):
        (folder / file).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(RegistryError):
            registry.load(NAME, VERSION)
    (folder / file).write_bytes(content)
    assert registry.load(NAME, VERSION).version == VERSION


@pytest.mark.parametrize("file", [ARRAYS, GOLDEN])
def test_any_changed_byte_of_a_models_numbers_is_refused_without_a_key(
    registry: Registry, published: Path, file: str
) -> None:
    content = (published / file).read_bytes()
    for at in range(0, len(content), max(1, len(content) // 40)):
        (published / file).write_bytes(content[:at] + bytes([content[at] ^ 128]) + content[at + 1 :])
        with pytest.raises(RegistryError, match=f"{file} is not as published"):
            registry.load(NAME, VERSION)


@pytest.mark.parametrize("file", [MANIFEST, ARRAYS, GOLDEN])
@pytest.mark.parametrize("wrong", ["gone", "empty", "cut", "longer", "folder", "link", "pipe"])
def test_a_damaged_folder_is_refused(registry: Registry, published: Path, file: str, wrong: str) -> None:
    path = published / file
    content = path.read_bytes()
    path.unlink()
    if wrong == "folder":
        path.mkdir()
    elif wrong == "link":
        (published.parent / "elsewhere").write_bytes(content)
        path.symlink_to(published.parent / "elsewhere")
    elif wrong == "pipe":
        os.mkfifo(path)
    elif wrong != "gone":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "longer": content + b"!"}[wrong])
    with pytest.raises(RegistryError):
        registry.load(NAME, VERSION)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"left": np.array([0], dtype=np.int32)}, "one number a node"),
        ({"left": np.where(FOREST.model.predictor.left > 0, 0, -1).astype(np.int32)}, "cycle"),  # type: ignore[union-attr]
        ({"right": np.full_like(FOREST.model.predictor.right, 10**9)}, "neither a left nor a right"),  # type: ignore[union-attr]
        ({"threshold": np.full_like(FOREST.model.predictor.threshold, np.nan)}, "threshold must be a number"),  # type: ignore[union-attr]
        ({"feature": np.full_like(FOREST.model.predictor.feature, 999)}, "outside the [0-9]+ there are"),  # type: ignore[union-attr]
        ({"value": np.zeros_like(FOREST.model.predictor.value)}, "golden rows"),  # type: ignore[union-attr]
        ({"surprise": np.zeros(3)}, r"\['order_risk.predictor.surprise'\] belong to no node"),
    ],
    ids=["short", "cycle", "child", "nan", "column", "other", "surprise"],
)
def test_hostile_arrays_with_the_right_sums_are_refused(
    registry: Registry, published: Path, arrays: dict[str, Any], why: str
) -> None:
    change_arrays(published, **arrays)
    with pytest.raises(MalformedModelError, match=why):
        registry.load(NAME, VERSION)


def header(said: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("file", [ARRAYS, GOLDEN])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        struct.pack("<Q", 2**63) + b"{}",
        header(b"not json"),
        header({"value": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"value": {"dtype": "F64", "shape": [2**60], "data_offsets": [0, 2**63]}}, b"\0" * 8),
        header({"value": {"dtype": "F64", "shape": [1], "data_offsets": [4, 12]}}, b"\0" * 8),
        header({"value": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"value": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"value": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"\x93NUMPY\x01\x00" + b"v" * 80,
    ],
)
def test_files_that_lie_about_their_shape_are_refused_without_a_crash(
    registry: Registry, published: Path, file: str, content: bytes
) -> None:
    (published / file).write_bytes(content)
    reseal(published)
    with pytest.raises(MalformedModelError, match=f"{NAME}@{VERSION} is refused"):
        registry.load(NAME, VERSION)


@pytest.mark.parametrize(
    "golden",
    [
        {"rows": np.zeros((1, 3)), "p": np.zeros(1), "first": np.zeros((1, 5), dtype=np.int32)},
        {"rows": np.zeros((0, 25)), "p": np.zeros(0), "first": np.zeros((0, 5), dtype=np.int32)},
        {"rows": np.zeros(25), "p": np.zeros(1), "first": np.zeros((1, 5), dtype=np.int32)},
        {"rows": np.full((1, 25), np.inf), "p": np.zeros(1), "first": np.zeros((1, 5), dtype=np.int32)},
        {"rows": np.zeros((1, 25)), "p": np.zeros(2), "first": np.zeros((1, 5), dtype=np.int32)},
        {"rows": np.zeros((1, 25)), "p": np.full(1, np.nan), "first": np.zeros((1, 5), dtype=np.int32)},
        {
            "rows": np.zeros((1, 25), dtype=np.int8),
            "p": np.zeros(1),
            "first": np.zeros((1, 5), dtype=np.int32),
        },
        {"rows": FOREST.golden.rows, "p": FOREST.golden.p, "first": FOREST.golden.first[:, ::-1]},
        {"rows": FOREST.golden.rows, "p": FOREST.golden.p + 1e-11, "first": FOREST.golden.first},
    ],
    ids=["narrow", "none", "flat", "infinite", "too-many", "nan", "bytes", "other-reasons", "a-hair-off"],
)
def test_a_model_that_fails_its_golden_rows_is_refused(
    registry: Registry, published: Path, golden: dict[str, Any]
) -> None:
    saved = {f"{NAME}.{name}": np.ascontiguousarray(array) for name, array in golden.items()}
    (published / GOLDEN).write_bytes(safetensors.numpy.save(saved))
    reseal(published)
    with pytest.raises(MalformedModelError, match="golden rows"):
        registry.load(NAME, VERSION)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m["nodes"][0].update(predictor="pickle"), "predictor"),
        (lambda m: m["nodes"][0].update(predictor="linear"), "expected the arrays"),
        (lambda m: m["nodes"][0].update(combine="sum", link="log_odds"), "golden rows"),
        (lambda m: m["nodes"][0].update(combine=None), "how the trees of 'order_risk' are combined"),
        (lambda m: m["nodes"][0].update(name="another"), "not what a manifest of format 2 is"),
        (lambda m: m.update(format=1), "not what a manifest of format 1 is"),
        (lambda m: m.update(nodes=[]), "not what a manifest of format 2 is"),
        (lambda m: m["nodes"].insert(0, m["nodes"][0]), "has a name that is a feature's or another node's"),
        (lambda m: m.update(version="2026-02-14.ffff"), "holds the manifest of"),
        (lambda m: m.update(format=4), "at format: .*; run the version that published it, or a newer one"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("metrics"), "metrics"),
        (lambda m: m.update(features_digest="0" * 64), "digest differs"),
        (lambda m: m["features"][0].update(name="amuont"), "did you mean 'amount'"),
        (
            lambda m: m["features"][0].update(declaration="amount: return 0"),
            "declared as 'amount: return 0'",
        ),
        (lambda m: m["features"].reverse(), "digest differs"),
        (lambda m: m["nodes"][0]["fills"].pop("amount"), "the first columns must be the imputer's"),
        (lambda m: m["nodes"][0].update(flagged=["nobody"]), "name the imputer's own features"),
        (lambda m: m["nodes"][0].update(flagged=[]), "the first columns must be|golden rows"),
        (
            lambda m: m["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "size": 1}}),
            "should seal the files",
        ),
        (lambda m: m["files"].pop(GOLDEN), "should seal the files"),
        (lambda m: m["files"][ARRAYS].update(size=10**12), "files"),
        (lambda m: m["files"][ARRAYS].update(size=-1), "files"),
        (lambda m: m.update(suggested_policy={"review_at": 2, "decline_at": 1}), "suggested_policy"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    registry: Registry, published: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    reseal(published, change)
    with pytest.raises(RegistryError, match=why):
        registry.load(NAME, VERSION)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{" * 100_000, b'{"format": NaN}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_refused(registry: Registry, published: Path, content: bytes) -> None:
    (published / MANIFEST).write_bytes(content)
    with pytest.raises(RegistryError, match="cannot read"):
        registry.load(NAME, VERSION)


def test_a_signed_model_carries_the_hmac_of_its_manifest(tmp_path: Path) -> None:
    folder = Path(Registry(tmp_path, key=b"secret").publish(FOREST))
    expected = hmac.new(b"secret", (folder / MANIFEST).read_bytes(), "sha256").hexdigest()
    assert (folder / SIGNATURE).read_text() == expected


def test_only_the_right_key_opens_a_signed_registry(tmp_path: Path) -> None:
    Registry(tmp_path, key=b"secret").publish(FOREST)
    assert Registry(tmp_path, key=b"secret").load(NAME, VERSION).name == NAME
    with pytest.raises(RegistryError, match="not signed with this registry's key"):
        Registry(tmp_path, key=b"another").load(NAME, VERSION)
    assert Registry(tmp_path).load(NAME, VERSION).name == NAME


def test_an_unsigned_model_is_refused_where_the_registry_has_a_key(tmp_path: Path) -> None:
    Registry(tmp_path).publish(FOREST)
    with pytest.raises(
        RegistryError, match="is not signed, and this registry takes only models signed with its key"
    ):
        Registry(tmp_path, key=b"secret").load(NAME, VERSION)


def test_an_empty_key_is_a_mistake_and_not_a_key(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="key is empty"):
        Registry(tmp_path, key=b"")


def test_a_model_whose_feature_has_changed_is_refused(registry: Registry, published: Path) -> None:
    def changed(name: str) -> Feature:
        feature = by_name(name)
        return dataclasses.replace(feature, declaration="other") if name == "payment_attempts" else feature  # type: ignore[type-var]

    with pytest.raises(RegistryError, match="trained on feature 'payment_attempts' declared as"):
        Registry(Path(registry.address), find_feature=changed).load(NAME, VERSION)


def test_a_docstring_mended_later_changes_no_decision_of_a_published_model(
    registry: Registry, published: Path
) -> None:
    def mended(name: str) -> Feature:
        feature = by_name(name)
        return dataclasses.replace(feature, doc="Tries.") if name == "payment_attempts" else feature  # type: ignore[type-var]

    rows = FOREST.golden.rows.tolist()
    before = registry.load(NAME, VERSION).score(rows)
    assert "How often payment was tried for this order" in {
        reason.text for scored in before for reason in scored.reasons
    }
    assert Registry(Path(registry.address), find_feature=mended).load(NAME, VERSION).score(rows) == before


def test_a_version_that_is_not_there_is_said_to_be_missing(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"order_risk@2026-02-14\.ffff: manifest\.json cannot be read"):
        registry.load(NAME, "2026-02-14.ffff")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("../order_risk", VERSION),
        ("", VERSION),
        (NAME, "../x"),
        (NAME, "latest"),
        (NAME, VERSION + "\n"),
        ("A", VERSION),
    ],
)
def test_names_that_lead_elsewhere_are_refused(registry: Registry, name: str, version: str) -> None:
    with pytest.raises(RegistryError, match="got"):
        registry.load(name, version)


def test_the_champion_is_loaded_where_no_version_is_named(registry: Registry, published: Path) -> None:
    assert registry.champion(NAME) is None
    with pytest.raises(RegistryError, match="has no champion; promote one"):
        registry.load(NAME)
    registry.promote(NAME, VERSION)
    assert registry.champion(NAME) == VERSION
    assert registry.load(NAME).version == VERSION
    registry.promote(NAME, VERSION)
    assert sorted(path.name for path in published.parent.iterdir()) == [VERSION, "champion"]


def test_a_registry_that_is_none_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()

    with pytest.raises(RegistryError, match=r"a-file.* cannot be read \(Not a directory\)"):
        Registry(tmp_path / "a-file").champion(NAME)
    with pytest.raises(RegistryError, match=r"nothing is published under that name in .*: train it"):
        Registry(tmp_path / "none").load(NAME)


def test_a_model_that_does_not_load_is_not_promoted(registry: Registry, published: Path) -> None:
    (published / ARRAYS).write_bytes(b"")
    with pytest.raises(RegistryError):
        registry.promote(NAME, VERSION)
    assert registry.champion(NAME) is None


@pytest.mark.parametrize("content", [b"", b"latest", b"../../x", b"\xff"])
def test_a_damaged_alias_is_refused(registry: Registry, published: Path, content: bytes) -> None:
    (published.parent / "champion").write_bytes(content)
    with pytest.raises(RegistryError, match="promote"):
        registry.load(NAME)


def test_only_whole_publications_are_listed(registry: Registry, published: Path) -> None:
    registry.publish(a_trained("logistic_regression"))
    (published.parent / f".{VERSION}-abc").mkdir()
    (published.parent / f".{VERSION}-abc" / MANIFEST).write_text("{}")
    (Path(registry.address) / "stray").write_text("")
    assert registry.list() == tuple(
        sorted([(NAME, VERSION), (NAME, a_trained("logistic_regression").version)])
    )


def test_an_empty_registry_lists_nothing(tmp_path: Path) -> None:
    assert Registry(tmp_path / "nowhere").list() == ()


def test_every_refusal_is_an_error_about_a_model() -> None:
    assert issubclass(MalformedModelError, RegistryError)
    assert issubclass(RegistryError, ModelError)


def test_a_model_is_referred_to_by_name_or_by_name_and_version() -> None:
    assert named("starter") == ("starter", None)
    assert named("starter@2026-02-14.3f9c") == ("starter", "2026-02-14.3f9c")


@pytest.mark.parametrize(
    "model", ["", "@", "starter@", "Starter", "starter@latest", "@2026-02-14.3f9c", "a@b@c"]
)
def test_a_model_that_names_neither_is_refused_and_never_taken_for_the_champion(model: str) -> None:
    with pytest.raises(
        RegistryError, match=r"or a name and a version such as starter@2026-02-14\.3f9c; got "
    ):
        named(model)
