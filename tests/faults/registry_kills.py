"""Publications killed at random, and broken files offered to a registry: nothing half is ever seen.

    python tests/faults/registry_kills.py              # 50 kills, 10,000 broken files
    python tests/faults/registry_kills.py --short      # 5 and 500

A process publishes version after version as fast as it can, into a folder and into a store of objects in
turn, and is killed (SIGKILL) after a random moment. After each kill every version that the registry lists
loads, signature, sums and golden rows, and the version that was under way is published by the next process.
Then bundles, manifests, signatures and aliases with flipped, cut, doubled, moved and invented bytes are
offered: each must be refused in a sentence, or be the very model it was.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from pyarrow import fs

from models.bundle import pack, unpack
from models.errors import ModelError
from models.registry import ARRAYS, GOLDEN, MANIFEST, SIGNATURE, Registry
from models.scorer import Scorer
from models.shelf import Folder, Objects, Shelf
from models.trained import Trained
from stream.archive_place import Place
from tests.bench.results import Cell, record
from tests.faults.stage import StageError, end_on_sigterm, temporary_home
from tests.small_shop import a_trained

KEY = b"a key for kills"
PLACES = ("folder", "objects")


# ---------------------------------------------------------------------- kills


@dataclass(slots=True)
class Seen:
    """What became of the kills."""

    kills: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """What lay beside the versions after a kill."""
    versions: int = 0
    wrong: list[str] = field(default_factory=list)


class _Sent(Place):
    """A store of objects in a folder: as in S3 none is seen before it was sent whole, and none moves."""

    def __init__(self, root: Path) -> None:
        (root / "bucket").mkdir(parents=True, exist_ok=True)
        super().__init__("bucket", fs.SubTreeFileSystem(str(root), fs.LocalFileSystem()))
        self._beside = root

    def write(self, files: "dict[str, bytes]") -> None:  # type: ignore[override]
        """Send each; the rename is how this one keeps unfinished objects out of sight."""
        for name, content in files.items():
            final = self._beside / self.path(name)
            unfinished = self._beside / f"sending-{name.replace('/', '-')}"
            final.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(content)
            unfinished.replace(final)


def shelf_of(place: str, home: Path) -> Shelf:
    """Where the registry of this kind lies."""
    return Folder(home / place) if place == "folder" else Objects(_Sent(home / place))


def version_of(number: int) -> str:
    """The version that is published as the nth."""
    return f"2026-02-14.{number:08x}"


def publish_on(place: str, home: Path, first: int, told: Connection) -> None:
    """Publish one version after the other until killed, saying before each which it is."""
    registry, trained = Registry(shelf_of(place, home), key=KEY), a_trained("random_forest")
    for number in count(first):
        told.send(number)
        registry.publish(replace(trained, version=version_of(number)))


def killed_while_publishing(place: str, home: Path, first: int, chance: random.Random) -> int:
    """Kill a publisher after a random moment; the number of the version that was under way."""
    forked = get_context(
        "fork"
    )  # so that it begins to publish at once: what it needs is imported and learned
    hears, tells = forked.Pipe(duplex=False)
    publisher = forked.Process(target=publish_on, args=(place, home, first, tells))
    publisher.start()
    tells.close()
    under_way = first
    try:
        while under_way == first:
            under_way = hears.recv()
        time.sleep(chance.uniform(0, 0.3))
        ended = publisher.exitcode
    except EOFError:
        publisher.join(20)
        ended = publisher.exitcode
    finally:
        publisher.kill()
        publisher.join(20)
    if ended is not None:
        raise StageError(f"the publisher ended by itself with code {ended}")
    with suppress(EOFError):
        while True:
            under_way = hears.recv()
    return under_way


def play(kills: int, seed: int) -> Seen:
    """Kill so often; what was seen."""
    chance, seen = random.Random(seed), Seen()
    number = dict.fromkeys(PLACES, 0)
    with temporary_home("registry-kills") as home:
        Registry(home / "warm").publish(a_trained("random_forest"))
        for kill in range(kills):
            place = PLACES[kill % len(PLACES)]
            under_way = killed_while_publishing(place, home, number[place], chance)
            seen.kills += 1
            after_a_kill(Registry(shelf_of(place, home), key=KEY), under_way, seen)
            number[place] = under_way + 1
            print(f"kill {seen.kills} of {kills}, so far wrong: {len(seen.wrong)}", flush=True)
        for place in PLACES[: min(kills, 2)]:
            registry = Registry(shelf_of(place, home), key=KEY)
            seen.versions += len(registry.list())
            if len(registry.list()) != number[place]:
                seen.wrong.append(f"{place}: {len(registry.list())} versions of {number[place]} are there")
            registry.sweep()
            if registry.leftovers() or len(registry.list()) != number[place]:
                seen.wrong.append(f"{place}: sweeping left {registry.leftovers()} or took a version")
    return seen


def after_a_kill(registry: Registry, under_way: int, seen: Seen) -> None:
    """What is listed is whole, what is not can be published."""
    trained = a_trained("random_forest")
    listed = registry.list()
    for name, version in listed[-3:]:  # those before were looked at after an earlier kill
        try:
            registry.load(name, version)
        except ModelError as error:
            seen.wrong.append(f"kill {seen.kills}: {error}")
    is_there = (trained.name, version_of(under_way)) in listed
    seen.left["half a version, unseen" if registry.leftovers() else "nothing half"] += 1
    if not is_there:
        try:
            registry.publish(replace(trained, version=version_of(under_way)))
            registry.load(trained.name, version_of(under_way))
        except ModelError as error:
            seen.wrong.append(f"kill {seen.kills}: the next publication: {error}")


# ---------------------------------------------------------------------- broken files


@dataclass(slots=True)
class Offered:
    """What became of broken files."""

    files: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    same: int = 0
    """Were what they had been: a change of a text that says nothing of the score, where there is no key."""
    wrong: list[str] = field(default_factory=list)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with something wrong in them."""
    at, until = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    match chance.randrange(7):
        case 0:
            bit = chance.randrange(8 * len(content))
            return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + content[until:]
        case 3:
            return content[:until] + content[at:]
        case 4:
            return content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at:]
        case 5:
            return content[:at] + b"9" * chance.randrange(1, 32) + content[min(at + 12, len(content)) :]
        case _:
            return content[at:] + content[:at]


def mutated_manifest(content: bytes, chance: random.Random) -> bytes:
    """The manifest with a value of another kind, gone, doubled or huge somewhere in it."""
    told = json.loads(content)
    at = told
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], dict | list) or not at[key] or chance.random() < 0.3:
            break
        at = at[key]
    new = (
        None,
        True,
        -1,
        0.5,
        1e308,
        10**400,
        "",
        "x" * 5000,
        "../../x",
        [],
        {},
        [[[]]],
        {"a": {"b": 1}},
        "\x00",
    )
    if isinstance(at, dict) and chance.random() < 0.3:
        if chance.random() < 0.5:
            del at[key]
        else:
            at[f"{key}2"] = at[key]
    else:
        at[key] = chance.choice(new)
    return json.dumps(told).encode()


def offer(files: int, seed: int) -> Offered:
    """Offer so many broken files to a registry with a key and to one without."""
    chance, offered = random.Random(seed), Offered()
    trained = a_trained("logistic_regression")
    with temporary_home("registry-mutants") as home:
        signed, unsigned = (Registry(home / name, key=key) for name, key in (("s", KEY), ("u", None)))
        folders = {registry: Path(registry.publish(trained)) for registry in (signed, unsigned)}
        for registry in folders:
            registry.promote(trained.name, trained.version)
        expected = scores_of(signed.load(trained.name), trained)
        at = f"{trained.name}/{trained.version}"
        bundle = pack({f"{at}/{n}": c for n, c in signed.files(trained.name, trained.version).items()})
        for number in range(files):
            kind = ("bundle", "signed", "unsigned", "alias")[number % 4]
            offered.files[kind] += 1
            if kind == "bundle":
                _try(offered, lambda: _offered_bundle(signed, mutated(bundle, chance), bundle), kind)
                continue
            registry = unsigned if kind == "unsigned" else signed
            file = _chosen(kind, chance)
            path = folders[registry].parent / "champion" if kind == "alias" else folders[registry] / file
            content = path.read_bytes()
            change: Callable[[bytes, random.Random], bytes] = mutated
            if path.name == MANIFEST and chance.random() < 0.7:
                change = mutated_manifest
            broken = change(content, chance)
            path.write_bytes(broken)
            if broken != content:
                _try(offered, lambda r=registry: _loads(r, trained, expected), kind)  # type: ignore[misc]
            path.write_bytes(content)
        for registry in folders:
            if scores_of(registry.load(trained.name), trained) != expected:
                offered.wrong.append("the registry is not what it was")
    return offered


def _chosen(kind: str, chance: random.Random) -> str:
    if kind == "unsigned":
        return chance.choice((MANIFEST, MANIFEST, ARRAYS, GOLDEN))
    return chance.choice((MANIFEST, SIGNATURE, ARRAYS, GOLDEN))


def _try(offered: Offered, look: Callable[[], str], kind: str) -> None:
    try:
        wrong = look()
    except ModelError as refused:
        offered.refused += 1
        if "\n" in str(refused) or not str(refused):
            offered.wrong.append(f"{kind}: a refusal of more than a line: {refused!r}")
    except Exception as error:  # noqa: BLE001 - a crash is what is looked for
        offered.wrong.append(f"{kind}: {type(error).__name__}: {error}"[:300])
    else:
        offered.same += 1
        if wrong or kind == "signed":
            offered.wrong.append(f"{kind}: {wrong or 'a changed byte was taken'}")


def _offered_bundle(registry: Registry, broken: bytes, whole: bytes) -> str:
    if broken == whole:
        return ""
    for path in unpack(broken):
        name, version, _ = path.split("/")
        files = {n.split("/")[2]: c for n, c in unpack(broken).items() if n.startswith(f"{name}/{version}/")}
        registry.adopt(name, version, files)
    return "a changed bundle was taken"


def _loads(registry: Registry, trained: Trained, expected: object) -> str:
    scorer = registry.load(trained.name)
    list(registry.entries())
    return "" if scores_of(scorer, trained) == expected else "it scores otherwise"


def scores_of(scorer: Scorer, trained: Trained) -> object:
    """What decides, and for which features; how a reason is worded is the manifest's alone."""
    return [
        (each.p_fraud, each.imputed, [reason.feature for reason in each.reasons])
        for each in scorer.score(trained.golden.rows.tolist())
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Play and judge; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--files", type=int, default=10_000, help="broken files (default 10,000)")
    parser.add_argument("--short", action="store_true", help="5 kills, 500 files")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the bytes (default 1)")
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/bench/RESULTS.md")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    seen = play(5 if arguments.short else arguments.kills, arguments.seed)
    offered = offer(500 if arguments.short else arguments.files, arguments.seed)
    wrong = seen.wrong + offered.wrong
    figures: dict[str, Cell] = {
        "kills": seen.kills,
        "of them left half a version, unseen": seen.left["half a version, unseen"],
        "versions in the end": seen.versions,
        "broken files": sum(offered.files.values()),
        "refused": offered.refused,
        "unchanged in what they say": offered.same,
        "wrong": len(wrong),
    }
    record(
        "A registry under kills and broken files",
        figures,
        "After each kill every version that was listed loaded, and the one under way was published by the "
        "next; half of the kills in a folder, half in a store of objects. Broken files are bundles, files "
        "of a signed and of an unsigned registry and aliases; without a key a changed text that says "
        "nothing of the score is taken." + "".join(f" WRONG: {each}." for each in wrong[:20]),
        keep=arguments.record,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
