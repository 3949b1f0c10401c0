"""Models that must not come into service: each is refused with its cause, on record, and service stays."""

import hashlib
import hmac
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from models.bundle import pack
from models.manifest import golden_of
from models.registry import ARRAYS, GOLDEN, MANIFEST, SIGNATURE, Registry
from models.trained import Trained
from stream import topics
from stream.control import history, in_force
from stream.deploying import Mover, Who
from stream.model_watch import WatchedFolder
from stream.ports import Refused
from stream.service import REFUSED
from stream.settings import Settings
from tests.small_shop import a_trained

KEY = b"a key for tests"
WHO = Who("anna", "a test")


def named(name: str) -> Trained:
    """A model of the small shop under another name."""
    trained = a_trained("logistic_regression")
    (node,) = trained.nodes
    settings = {**trained.settings, "row_limit": 512}
    return replace(trained, name=name, nodes=(replace(node, name=name),), settings=settings)


GOOD, OTHER = named("good"), named("other")

Files = dict[str, bytes]


def signed(files: Files, key: bytes = KEY) -> Files:
    signature = hmac.new(key, files[MANIFEST], "sha256").hexdigest().encode()
    return files | {SIGNATURE: signature}


def told(files: Files, /, **fields: object) -> Files:
    """The same with other fields in the manifest, signed as if it had always said so."""
    manifest = json.loads(files[MANIFEST]) | fields
    return signed(files | {MANIFEST: json.dumps(manifest).encode()})


def corrupted(files: Files) -> Files:
    return files | {ARRAYS: files[ARRAYS][:-1] + bytes([files[ARRAYS][-1] ^ 1])}


def unsigned(files: Files) -> Files:
    return {name: content for name, content in files.items() if name != SIGNATURE}


def failing_its_golden_rows(files: Files) -> Files:
    (node,) = OTHER.nodes
    golden = golden_of([replace(node, golden=replace(node.golden, p=node.golden.p + 0.01))])
    seals = json.loads(files[MANIFEST])["files"]
    seals[GOLDEN] = {"sha256": hashlib.sha256(golden).hexdigest(), "size": len(golden)}
    return told(files | {GOLDEN: golden}, files=seals)


def with_another_feature(files: Files) -> Files:
    features = json.loads(files[MANIFEST])["features"]
    features[0]["declaration"] += " of another shop"
    return told(files, features=features)


def with_longer_histories(files: Files) -> Files:
    return told(files, settings={**OTHER.settings, "row_limit": 9})


HARMS: Mapping[str, tuple[Callable[[Files], Files], str]] = {
    "corrupted": (corrupted, "arrays.safetensors is not as published, its sha256 differs"),
    "unsigned": (unsigned, "is not signed, and this registry takes only models signed with its key"),
    "wrongly signed": (
        lambda files: signed(files, b"a stranger's"),
        "is not signed with this registry's key",
    ),
    "not of this format": (
        lambda files: told(files, format=99),
        "has a manifest that this fraudstream cannot",
    ),
    "of another feature": (with_another_feature, "was trained on feature "),
    "of other histories": (with_longer_histories, "learned from histories of 9 orders at most"),
    "failing its golden rows": (failing_its_golden_rows, "is refused: "),
    "too slow": (dict, "microseconds an order and may take 0"),
}


@pytest.fixture
def shop(settings: Settings) -> Settings:
    topics.create(settings)
    return settings


@pytest.mark.parametrize("harm", HARMS)
def test_what_fails_a_check_is_refused_with_its_cause_on_record_and_service_stays(
    shop: Settings, harm: str, tmp_path: Path
) -> None:
    harmed, cause = HARMS[harm]
    registry = Registry(shop.home / "models", key=KEY)
    registry.publish(GOOD)
    registry.publish(OTHER)
    files = harmed(dict(registry.files(OTHER.name, OTHER.version)))
    place = shop.home / "models" / OTHER.name / OTHER.version
    said = f"{OTHER.name}@{OTHER.version}"

    with Mover(shop, registry) as mover, Mover(shop, registry, slowest_us=0.0) as hurried:
        mover.deploy(f"{GOOD.name}@{GOOD.version}", WHO, role="champion")
        before = in_force(shop).service
        asked = hurried if harm == "too slow" else mover
        shutil.rmtree(place)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        with pytest.raises(Refused, match="nothing was changed") as refused:
            asked.deploy(said, WHO, role="champion")
        shutil.rmtree(place)
        incoming = tmp_path / "incoming"
        incoming.mkdir()
        bundle = pack({f"{OTHER.name}/{OTHER.version}/{name}": each for name, each in files.items()})
        (incoming / "other.tar").write_bytes(bundle)
        (dropped,) = WatchedFolder(incoming, registry, asked, who="anna", role="champion").look(at_once=True)

    assert cause in str(refused.value)
    assert dropped.models == ()
    assert cause in (incoming / "other.tar.reason.txt").read_text()
    _, *events = history(shop)
    assert [event.record.kind for event in events] == [REFUSED, REFUSED]
    assert all(cause in event.record.why and event.record.who == "anna" for event in events), events
    assert {str((event.record.model_extra or {})["model"]) for event in events} <= {said, "other.tar"}
    assert in_force(shop).service == before
