"""Where published models stand: write-once folders `name/version/`, every byte of them checked on load.

A folder holds `manifest.json`, which names the sha256 of the other files, `arrays.safetensors`,
`golden.safetensors` and, when the registry has a key, `manifest.hmac`. No file can run code. Aliases
(`champion`) are small files beside the versions and are all that ever changes. Where it all lies, a folder
or a store of objects, is models.shelf's.
"""

import errno
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from features.catalogue import by_name, unserved
from features.define import Feature, features_digest
from models.errors import MalformedModelError, RegistryError
from models.flat import Engine
from models.manifest import FileSeal, Manifest, arrays_of, golden_of, manifest_of, nodes_of
from models.score import PREFIX, ScoreOf
from models.scorer import Scorer
from models.shelf import Content, Folder, Shelf, TooLargeError
from models.trained import Trained, check_tree

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.hmac"
ARRAYS: Final = "arrays.safetensors"
GOLDEN: Final = "golden.safetensors"
SEALED: Final = frozenset({ARRAYS, GOLDEN})
"""The files of a version that its manifest names, with their sha256."""
CHAMPION: Final = "champion"

_ALIAS_LIMIT: Final = 1024
_MANIFEST_LIMIT: Final = 4 * 1024 * 1024
_BEFORE_IT: Final = 40
_LONGEST_SHOWN: Final = 120
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LEFT: Final = re.compile(
    r"[a-z][a-z0-9_]{0,63}/(\.(champion|[0-9.a-f-]+)-\w+|[0-9]{4}-[0-9]{2}-[0-9]{2}\.[0-9a-f]{4,8})"
)
_VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.[0-9a-f]{4,8}")


def named(model: str) -> tuple[str, str | None]:
    """The name and the version in `name@version`; the version is None where only a name is given.

    Raises RegistryError for what can be neither.
    """
    name, at, version = model.partition("@")
    if not _NAME.fullmatch(name) or (at and not _VERSION.fullmatch(version)):
        message = (
            "a model is a name of lower-case letters, digits and underscores such as starter, for its "
            f"champion, or a name and a version such as starter@2026-02-14.3f9c; got {model!r}"
        )
        raise RegistryError(message)
    return name, version or None


_Reader = Callable[[str, int], bytes]
"""The content of a version's file by its name, if it has at most so many bytes; raises OSError."""


Signature = Literal["right", "wrong", "absent", "unchecked"]
"""Of a version: unchecked is one that is there while the registry has no key to check it with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A published version, as a list of them shows it: its manifest was read, its other files were not."""

    name: str
    version: str
    manifest: Manifest | None
    wrong: str
    """Why there is no manifest; empty where there is."""
    signature: Signature
    is_champion: bool

    @property
    def said(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class Registry:
    """The published models in one place.

    With a `key`, models are signed (HMAC-SHA256) when published and refused on load unless the signature
    is right; without one, a signature is neither made nor read.
    """

    def __init__(
        self,
        shelf: Path | Shelf,
        *,
        key: bytes | None = None,
        find_feature: Callable[[str], Feature] = by_name,
        entities: Collection[str] = (),
    ) -> None:
        """A registry in a folder, which need not exist yet, or on another shelf.

        `find_feature` gives the feature of a name; `entities` have histories beside the customer.
        """
        if key is not None and not key:
            message = "the registry's key is empty; give the secret's bytes, or None for an unsigned registry"
            raise RegistryError(message)
        self._shelf: Shelf = Folder(shelf) if isinstance(shelf, Path) else shelf
        self._key = key
        self._find_feature = find_feature
        self._entities = frozenset(entities)

    @property
    def address(self) -> str:
        """Where it lies, as a person names it."""
        return self._shelf.address

    @property
    def is_signed(self) -> bool:
        """Whether it has a key, and so takes only models that are signed with it."""
        return self._key is not None

    def place(self, name: str, version: str) -> str:
        """Where a version lies, or would. Raises RegistryError for names that lead elsewhere."""
        return f"{self.address}/{_folder(name, version)}"

    def publish(self, trained: Trained) -> str:
        """Put a trained model in its place for ever, and return its folder.

        All of it appears at once or none of it; a version that exists is refused. It is loaded once from
        where it was written before it gets its name, so what is published can be loaded.
        """
        self._publish(trained.name, trained.version, self._files(trained))
        return self.place(trained.name, trained.version)

    def _publish(self, name: str, version: str, files: Content) -> None:
        """Publish the files of a version, unless they would not load."""
        folder = _folder(name, version)
        if self.has(name, version):
            message = f"{name}@{version} is published already, and versions never change"
            raise RegistryError(message)

        def check(written: Content) -> None:
            self._read(_within(written), name, version, engine=None)

        try:
            self._shelf.publish(folder, files, seal=MANIFEST, check=check)
        except FileExistsError as taken:
            message = f"{name}@{version} was published by someone else just now; train again"
            raise RegistryError(message) from taken

    def has(self, name: str, version: str) -> bool:
        """Whether this version is published."""
        return self._shelf.has(_folder(name, version), seal=MANIFEST)

    def load(self, name: str, version: str | None = None, *, engine: Engine | None = None) -> Scorer:
        """The scorer of a version, or of the champion, after checking every byte and its golden rows."""
        if version is None:
            version = self.champion(name)
            if version is None:
                there = [v for n, v in self.list() if n == name]
                message = f"model '{name}' has no champion; "
                message += (
                    f"promote one of its versions {there} or name one"
                    if there
                    else f"nothing is published under that name in {self.address}: train it, or name another"
                )
                raise RegistryError(message)
        return self._read(self._reader(name, version), name, version, engine=engine)

    def manifest(self, name: str, version: str) -> Manifest:
        """The manifest of a version, its signature checked if the registry has a key."""
        return self._manifest(self._reader(name, version), name, version)[0]

    def described(self, name: str, version: str) -> tuple[Manifest, str, tuple[Feature, ...]]:
        """The manifest of a version, its digest, and the features it asks as they are here; loads nothing."""
        manifest, digest = self._manifest(self._reader(name, version), name, version)
        return manifest, digest, self._features(manifest, f"{name}@{version}")

    def digest(self, name: str, version: str) -> str:
        """The sha256 of a version's manifest, which decisions name it by."""
        return self._manifest(self._reader(name, version), name, version)[1]

    def list(self) -> tuple[tuple[str, str], ...]:
        """The name and version of everything published, by name and then by version."""
        return tuple(
            sorted(
                (parts[0], parts[1])
                for parts in (file.split("/") for file in self._shelf.files())
                if len(parts) == 3
                and parts[2] == MANIFEST
                and _NAME.fullmatch(parts[0])
                and _VERSION.fullmatch(parts[1])
            )
        )

    def entries(self, only: Collection[str] = ()) -> Iterator[Entry]:
        """Everything published, or all versions of some names, in the order of `list`; none is loaded."""
        versions = [each for each in self.list() if not only or each[0] in only]
        champions = {name: self._champion_or_none(name) for name in {name for name, _ in versions}}
        folders = [_folder(name, version) for name, version in versions]
        manifests = self._shelf.read_all([f"{each}/{MANIFEST}" for each in folders], limit=_MANIFEST_LIMIT)
        signatures = self._shelf.read_all([f"{each}/{SIGNATURE}" for each in folders], limit=_MANIFEST_LIMIT)
        for (name, version), content, signature in zip(versions, manifests, signatures, strict=True):
            manifest, wrong = None, ""
            try:
                if isinstance(content, OSError):
                    raise _unread(content, MANIFEST, limit=_MANIFEST_LIMIT, said=f"{name}@{version}")
                manifest = _parsed(content, name, version)
            except RegistryError as error:
                wrong = str(error)
            yield Entry(
                name=name,
                version=version,
                manifest=manifest,
                wrong=wrong,
                signature=self._signature(content, signature),
                is_champion=champions[name] == version,
            )

    def _signature(self, manifest: bytes | OSError, signature: bytes | OSError) -> Signature:
        if isinstance(signature, FileNotFoundError):
            return "absent"
        if self._key is None:
            return "unchecked"
        if isinstance(signature, OSError) or isinstance(manifest, OSError):
            return "wrong"
        is_right = hmac.compare_digest(signature, _signed(self._key, manifest))
        return "right" if is_right else "wrong"

    def entry(self, name: str, version: str) -> Entry:
        """One version, as a list would show it. Raises RegistryError where it is not published."""
        found = next((each for each in self.entries([name]) if each.version == version), None)
        if found is None:
            raise RegistryError(
                f"{name}@{version} is not published in {self.address}; see what is: fraudstream models list"
            )
        return found

    def strays(self) -> Mapping[str, Sequence[str]]:
        """By published version, `name@version`, the files in its folder that its manifest does not name."""
        found: dict[str, list[str]] = {}
        published = set(self.list())
        for file in sorted(self._shelf.files()):
            name, version, *beside = file.split("/")
            if (name, version) in published and beside and beside[0] not in {MANIFEST, SIGNATURE, *SEALED}:
                found.setdefault(f"{name}@{version}", []).append("/".join(beside))
        return found

    def files(self, name: str, version: str) -> Content:
        """Every byte of a version, checked: the manifest, the signature if it has one, and what is sealed."""
        read, said = self._reader(name, version), f"{name}@{version}"
        manifest, _ = self._manifest(read, name, version)
        files = {MANIFEST: _read_file(read, MANIFEST, limit=_MANIFEST_LIMIT, said=said)}
        with suppress(FileNotFoundError):
            files[SIGNATURE] = read(SIGNATURE, _MANIFEST_LIMIT)
        return files | _sealed(read, manifest, said)

    def adopt(self, name: str, version: str, files: Content, *, sign: bool = False) -> bool:
        """Publish a version whose files came from another registry; False where it was published before.

        It is refused as on load, so with a key its signature must be right, unless `sign`: then it is signed
        anew, whatever signature it had. Raises RegistryError.
        """
        said = f"{name}@{version}"
        known = {MANIFEST, SIGNATURE, *SEALED}
        if strange := sorted(set(files) - known):
            raise RegistryError(f"{said} brings {strange[0]}, which is no file of a model; export it again")
        if sign:
            if self._key is None:
                raise RegistryError("there is no key to sign with; set FRAUDSTREAM_SIGNING_KEY_FILE")
            files = {**files, SIGNATURE: _signed(self._key, files.get(MANIFEST, b""))}
        if self.has(name, version):
            theirs = {file: content for file, content in files.items() if file != SIGNATURE}
            ours = {file: content for file, content in self.files(name, version).items() if file != SIGNATURE}
            if theirs != ours:
                raise RegistryError(f"{said} is published with other content, and versions never change")
            return False
        self._publish(name, version, files)
        return True

    def remove(self, name: str, version: str) -> None:
        """Delete a version for ever; the champion is refused."""
        if self.champion(name) == version:
            raise RegistryError(f"{name}@{version} is the champion; promote another before it is deleted")
        self._shelf.remove(_folder(name, version), seal=MANIFEST)

    def leftovers(self) -> tuple[str, ...]:
        """What publications and deletions that were killed, or are under way, left; none is a version."""
        published = {_folder(name, version) for name, version in self.list()}
        found = {"/".join(file.split("/")[:2]) for file in self._shelf.files()}
        return tuple(sorted(each for each in found - published if _LEFT.fullmatch(each)))

    def sweep(self) -> tuple[str, ...]:
        """Delete the leftovers and say which; only while nobody publishes."""
        left = self.leftovers()
        for each in left:
            self._shelf.sweep(each)
        return left

    def _champion_or_none(self, name: str) -> str | None:
        try:
            return self.champion(name)
        except RegistryError:  # a list is no place to stop for it: `verify` and a worker say it
            return None

    def champion(self, name: str) -> str | None:
        """The version in service, or None if none was promoted."""
        where = f"{_folder(name)}/{CHAMPION}"
        try:
            version = self._shelf.read(where, limit=_ALIAS_LIMIT).decode("ascii").strip()
        except FileNotFoundError:
            return None
        except TooLargeError:
            version = ""
        except OSError as unreadable:
            message = f"{self.address}/{where} cannot be read ({_why(unreadable)}); let this user read it"
            raise RegistryError(message) from unreadable
        except UnicodeDecodeError as unreadable:
            message = f"the champion of '{name}' cannot be read; promote a version again"
            raise RegistryError(message) from unreadable
        if not _VERSION.fullmatch(version):
            message = (
                f"the champion of '{name}' should be a version such as 2026-02-14.3f9c; promote one again"
            )
            raise RegistryError(message)
        return version

    def promote(self, name: str, version: str) -> None:
        """Make a published version the champion, once it has loaded; the old one stays where it is."""
        self.load(name, version)
        self._shelf.put(f"{_folder(name)}/{CHAMPION}", f"{version}\n".encode())

    def _reader(self, name: str, version: str) -> _Reader:
        folder = _folder(name, version)
        return lambda file, limit: self._shelf.read(f"{folder}/{file}", limit=limit)

    def _files(self, trained: Trained) -> dict[str, bytes]:
        content = {ARRAYS: arrays_of(trained.nodes), GOLDEN: golden_of(trained.nodes)}
        manifest = manifest_of(
            trained,
            {n: FileSeal(sha256=hashlib.sha256(c).hexdigest(), size=len(c)) for n, c in content.items()},
        )
        content[MANIFEST] = (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode()
        if self._key is not None:
            content[SIGNATURE] = _signed(self._key, content[MANIFEST])
        return content

    def _manifest(self, read: _Reader, name: str, version: str) -> tuple[Manifest, str]:
        said = f"{name}@{version}"
        content = _read_file(read, MANIFEST, limit=_MANIFEST_LIMIT, said=said)
        if self._key is not None:
            try:
                signature = _read_file(read, SIGNATURE, limit=_MANIFEST_LIMIT, said=said)
            except RegistryError as wrong:
                if not isinstance(wrong.__cause__, FileNotFoundError):
                    raise
                message = (
                    f"{said} is not signed, and this registry takes only models signed with its key; publish "
                    "it again, or sign it where you trust it: fraudstream models import --sign"
                )
                raise RegistryError(message) from wrong
            if not hmac.compare_digest(signature, _signed(self._key, content)):
                message = (
                    f"{said} is not signed with this registry's key; publish it again or give the right key"
                )
                raise RegistryError(message)
        return _parsed(content, name, version), hashlib.sha256(content).hexdigest()

    def _read(self, read: _Reader, name: str, version: str, *, engine: Engine | None) -> Scorer:
        said = f"{name}@{version}"
        manifest, digest = self._manifest(read, name, version)
        content = _sealed(read, manifest, said)
        features = self._features(manifest, said)
        try:
            nodes = nodes_of(manifest, content[ARRAYS], content[GOLDEN])
            check_tree([each.name for each in features], nodes)
            for node in nodes:
                node.golden.check(node.model, engine=engine)
        except MalformedModelError as wrong:
            message = f"{said} is refused: {wrong}"
            raise MalformedModelError(message) from wrong
        return Scorer(
            name=name,
            version=version,
            digest=digest,
            features=features,
            nodes=nodes,
            reasons=manifest.reasons,
            reasons_reach=manifest.reasons_reach,
            suggested_policy=manifest.suggested_policy,
            engine=engine,
        )

    def _features(self, manifest: Manifest, said: str) -> tuple[Feature, ...]:
        found = []
        for entry in manifest.features:
            try:
                feature = self._score_of(entry.name, manifest) or self._find_feature(entry.name)
            except Exception as unknown:  # whatever the catalogue raises, the model cannot be used
                message = f"{said} was trained on feature '{entry.name}', and {unknown}"
                raise RegistryError(message) from unknown
            if feature.declaration != entry.declaration:
                then, now = _difference(entry.declaration, feature.declaration)
                message = (
                    f"{said} was trained on feature '{entry.name}' declared as {then}, and here it is {now}, "
                    "so its digest differs; train again or go back to the old definition"
                )
                raise RegistryError(message)
            found.append(feature)
        if features_digest(found) != manifest.features_digest:
            message = f"{said} was trained on features whose digest differs from the catalogue's; train again"
            raise RegistryError(message)
        if why := unserved(found, self._entities):
            # so it is neither published, nor promoted, nor opened by a worker
            message = f"{said} {why}"
            raise RegistryError(message)
        return tuple(found)

    def _score_of(self, feature: str, manifest: Manifest) -> ScoreOf | None:
        """The model that stands as this feature in another; None for any other feature."""
        wanted = feature.removeprefix(PREFIX)
        for parent in manifest.parents if wanted != feature else ():
            name, _, version = parent.partition("@")
            if name == wanted:
                return ScoreOf(self.load(name, version))
        return None


def _parsed(content: bytes, name: str, version: str) -> Manifest:
    said = f"{name}@{version}"
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        message = f"{said} has a manifest that this fraudstream cannot read, at {where}: {first['msg']}"
        if where == "format":
            message += "; run the version that published it, or a newer one (docs/upgrades.md)"
        raise RegistryError(message) from None
    if (manifest.name, manifest.version) != (name, version):
        message = f"{said} holds the manifest of {manifest.name}@{manifest.version}; put the folder back"
        raise RegistryError(message)
    if set(manifest.files) != SEALED:
        message = f"{said} should seal the files {sorted(SEALED)}; it seals {sorted(manifest.files)}"
        raise RegistryError(message)
    return manifest


def _sealed(read: _Reader, manifest: Manifest, said: str) -> dict[str, bytes]:
    content = {}
    for file, seal in manifest.files.items():
        # these very bytes are parsed afterwards: nobody can swap the file in between
        content[file] = _read_file(read, file, limit=seal.size, said=said)
        if len(content[file]) != seal.size or hashlib.sha256(content[file]).hexdigest() != seal.sha256:
            message = f"{said}: {file} is not as published, its sha256 differs; restore it from a copy"
            raise RegistryError(message)
    return content


def _difference(then: str, now: str) -> tuple[str, str]:
    """Where two declarations first differ, short enough for one line: a function's is its whole source."""
    for one, other in zip_longest(then.splitlines(), now.splitlines(), fillvalue=""):
        if one != other:
            alike = next(at for at, (a, b) in enumerate(zip_longest(one, other)) if a != b)
            begin = max(0, alike - _BEFORE_IT)
            return _cut(one, begin), _cut(other, begin)
    return _cut(then, 0), _cut(now, 0)  # in how their lines end


def _cut(line: str, begin: int) -> str:
    cut = line[begin : begin + _LONGEST_SHOWN]
    return f"'{'…' if begin else ''}{cut}{'…' if begin + _LONGEST_SHOWN < len(line) else ''}'"


def _signed(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, "sha256").hexdigest().encode()


def _within(files: Content) -> _Reader:
    """Files that are in memory, as a shelf would give them."""

    def read(name: str, limit: int) -> bytes:
        if name not in files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if len(files[name]) > limit:
            raise TooLargeError
        return files[name]

    return read


def _read_file(read: _Reader, file: str, *, limit: int, said: str) -> bytes:
    try:
        return read(file, limit)
    except OSError as wrong:
        raise _unread(wrong, file, limit=limit, said=said) from wrong


def _unread(wrong: OSError, file: str, *, limit: int, said: str) -> RegistryError:
    if isinstance(wrong, TooLargeError):
        return RegistryError(
            f"{said}: {file} is larger than the {limit} bytes it may have; restore it from a copy"
        )
    return RegistryError(f"{said}: {file} cannot be read ({_why(wrong)}); is that version published here?")


def _why(wrong: OSError) -> str:
    """In a few words: pyarrow's errors have no strerror, and say more than a line."""
    return wrong.strerror or str(wrong).partition("\n")[0]


def _folder(name: str, version: str | None = None) -> str:
    """Where a model, or a version of it, lies below the registry. Raises RegistryError for no such name."""
    if not _NAME.fullmatch(name):
        message = f"a model's name is lower-case letters, digits and underscores; got {name!r}"
        raise RegistryError(message)
    if version is None:
        return name
    if not _VERSION.fullmatch(version):
        message = f"a version of '{name}' looks like 2026-02-14.3f9c; got {version!r}"
        raise RegistryError(message)
    return f"{name}/{version}"
