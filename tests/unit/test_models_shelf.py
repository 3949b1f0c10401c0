from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from models.errors import ModelError, RegistryError
from models.registry import ARRAYS, GOLDEN, MANIFEST, Registry
from models.shelf import Content, Folder, Objects, Shelf, TooLargeError
from stream.archive_place import Place
from tests.small_shop import a_trained

LINEAR = a_trained("logistic_regression")
NAME, VERSION = LINEAR.name, LINEAR.version
FILES = {"manifest.json": b"{}", "arrays": b"1234"}


def a_store() -> Place:
    """What can't rename, as S3 can't."""
    return Place("bucket/models", fs._MockFileSystem())


@pytest.fixture(params=["folder", "objects"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return Folder(tmp_path / "models") if request.param == "folder" else Objects(a_store())


def publish(
    shelf: Shelf, files: Content = FILES, check: Callable[[Content], object] = lambda _: None
) -> None:
    shelf.publish("risk/1", files, seal=MANIFEST, check=check)


def test_a_version_is_there_once_it_was_published(shelf: Shelf) -> None:
    assert not shelf.has("risk/1", seal=MANIFEST)
    assert list(shelf.files()) == []
    publish(shelf)
    assert shelf.has("risk/1", seal=MANIFEST)
    files = sorted(file for file in shelf.files() if file != "risk/1")
    assert files == ["risk/1/arrays", "risk/1/manifest.json"]
    assert shelf.read("risk/1/arrays", limit=4) == b"1234"


def test_a_version_that_is_there_is_never_written_over(shelf: Shelf) -> None:
    publish(shelf)
    with pytest.raises(FileExistsError):
        publish(shelf, {MANIFEST: b"[]", "arrays": b"other"})
    assert shelf.read("risk/1/arrays", limit=10) == b"1234"
    assert shelf.read("risk/1/manifest.json", limit=10) == b"{}"


def test_what_is_checked_is_what_was_written_and_nobody_sees_it_yet(shelf: Shelf) -> None:
    checked: list[Content] = []

    def check(written: Content) -> None:
        checked.append(written)
        assert not shelf.has("risk/1", seal=MANIFEST)

    publish(shelf, check=check)
    assert checked == [FILES]


def test_what_fails_its_check_leaves_nothing(shelf: Shelf) -> None:
    def check(_: Content) -> None:
        raise ModelError("it would not load")

    with pytest.raises(ModelError):
        publish(shelf, check=check)
    assert list(shelf.files()) == []
    publish(shelf)
    assert shelf.has("risk/1", seal=MANIFEST)


def test_a_version_that_is_removed_leaves_nothing(shelf: Shelf) -> None:
    publish(shelf)
    shelf.put("risk/champion", b"1\n")
    shelf.remove("risk/1", seal=MANIFEST)
    assert not shelf.has("risk/1", seal=MANIFEST)
    assert [file for file in shelf.files() if file != "risk/champion"] == []
    assert shelf.read("risk/champion", limit=10) == b"1\n"


def test_no_more_is_read_than_may_be_there(shelf: Shelf) -> None:
    publish(shelf)
    with pytest.raises(TooLargeError):
        shelf.read("risk/1/arrays", limit=3)
    read = list(shelf.read_all(["risk/1/arrays", "risk/1/manifest.json", "risk/2/manifest.json"], limit=3))
    assert isinstance(read[0], TooLargeError)
    assert read[1] == b"{}"
    assert isinstance(read[2], FileNotFoundError)


# ---------------------------------------------------------------------- a registry in a store of objects


def test_a_registry_in_a_store_of_objects_answers_as_one_in_a_folder(tmp_path: Path) -> None:
    objects, folder = Registry(Objects(a_store()), key=b"k"), Registry(tmp_path, key=b"k")
    rows = LINEAR.golden.rows.tolist()
    for registry in (objects, folder):
        assert registry.champion(NAME) is None
        registry.publish(LINEAR)
        registry.promote(NAME, VERSION)
    assert objects.list() == folder.list() == ((NAME, VERSION),)
    assert objects.champion(NAME) == VERSION
    assert objects.load(NAME).score(rows) == folder.load(NAME).score(rows)
    assert objects.load(NAME).digest == folder.load(NAME).digest


def test_objects_without_a_manifest_are_no_version() -> None:
    # what a publication that was killed leaves
    store = a_store()
    store.write({f"{NAME}/{VERSION}/{file}": b"half" for file in (ARRAYS, GOLDEN)})
    registry = Registry(Objects(store))
    assert registry.list() == ()
    assert not registry.has(NAME, VERSION)
    with pytest.raises(RegistryError, match="is that version published here"):
        registry.load(NAME, VERSION)
    registry.publish(LINEAR)
    assert registry.load(NAME, VERSION).version == VERSION


def test_a_changed_object_is_refused() -> None:
    store = a_store()
    registry = Registry(Objects(store), key=b"k")
    registry.publish(LINEAR)
    for file in (ARRAYS, GOLDEN, MANIFEST):
        where = f"{NAME}/{VERSION}/{file}"
        with store.open(where) as opened:
            content = opened.read()
        store.write({where: content[:-1] + bytes([content[-1] ^ 1])})
        with pytest.raises(RegistryError):
            registry.load(NAME, VERSION)
        store.write({where: content})
    assert registry.load(NAME, VERSION).version == VERSION
