"""Models that come from elsewhere: bundles of another registry, and pipelines that somebody has fitted."""

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Final

import msgspec
from pydantic import ValidationError

from features.catalogue import Catalogue
from features.define import Feature
from features.errors import FeatureDefinitionError
from models.bundle import unpack
from models.errors import RegistryError
from models.manifest import NodeEntry, node_of
from models.policy import Policy
from models.registry import Registry
from models.trained import Node, Trained
from stream.errors import Refusal
from stream.model_reader import Answer, Told

__all__ = ["SKOPS", "ImportRefused", "Pipeline", "publish_bundle", "publish_pipeline"]

SKOPS: Final = b"PK\x03\x04"
"""How a file of skops begins: it is a zip."""

_NOT_MEASURED: Final = Policy(review_at=0.5, decline_at=0.9)
_SPLIT: Final = "imported: nothing was measured here, and the thresholds are suggested by nobody"
_LARGEST_ANSWER: Final = 1024 * 1024 * 1024
_NOT_DUMPABLE: Final = (4, 0, 0, 0, 0)
"""prctl(PR_SET_DUMPABLE, 0)."""


class ImportRefused(Refusal):
    """The pipeline can't become a model here; the message says why and what to do."""


def publish_bundle(registry: Registry, content: bytes, *, sign: bool) -> Iterator[tuple[str, bool]]:
    """Publish each version of a bundle, submodels first: `name@version`, and whether it is new here.

    Raises RegistryError where one would not load; those before it stay, and are whole.
    """
    versions: dict[tuple[str, str], dict[str, bytes]] = {}
    for path, file in unpack(content).items():
        name, version, what = path.split("/")
        versions.setdefault((name, version), {})[what] = file
    refused: dict[tuple[str, str], RegistryError] = {}
    while versions:
        before = len(versions)
        for each in list(versions):
            try:
                is_new = registry.adopt(*each, versions[each], sign=sign)
            except RegistryError as error:  # perhaps a submodel of it comes later
                refused[each] = error
            else:
                del versions[each]
                yield "@".join(each), is_new
        if len(versions) == before:
            raise refused[next(iter(versions))]


# ---------------------------------------------------------------------- pipelines


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A file with a fitted pipeline of scikit-learn, and what it does not say itself."""

    said: str
    """The file's name, for the manifest and for errors."""
    content: bytes
    name: str
    """What the model is to be called."""
    trained_at: date
    row_limit: int
    """How long the histories were that its features were computed from, as a worker must keep them."""
    features: tuple[str, ...] | None = None
    """The names of its columns in their order, or those it is expected to take where it names them itself."""
    renamed: Mapping[str, str] | None = None
    """By the pipeline's own name of a column, the feature it is."""
    trained_on: str | None = None
    policy: Policy | None = None
    is_trusted: bool = False
    """Whether a file that runs code when it is opened may be opened."""


def publish_pipeline(
    registry: Registry, catalogue: Catalogue, pipeline: Pipeline, *, timeout_s: float = 600
) -> tuple[str, bool]:
    """Publish a pipeline as a model: `name@version`, and whether it is new here.

    The file is opened in a process of its own, without settings and keys. Raises ImportRefused,
    RegistryError.
    """
    kind = "skops" if pipeline.content.startswith(SKOPS) else "joblib"
    if kind == "joblib" and not pipeline.is_trusted:
        raise ImportRefused(
            f"{pipeline.said} is neither a bundle nor a file of skops: a file of joblib or pickle runs any "
            "code when it is opened; save the pipeline with skops.io.dump, or say --trust-this-file if you "
            "trust whoever made it as much as this program"
        )
    answer = _answer(kind, pipeline, timeout_s)
    try:
        node = node_of(NodeEntry.model_validate_json(answer.entry), answer.arrays, answer.golden)
    except ValidationError as wrong:
        raise ImportRefused(
            f"{pipeline.said}: its process answered what describes no model ({wrong.error_count()} errors)"
        ) from None
    features = _matched(pipeline, node.inputs, catalogue)
    trained = _trained(pipeline, kind, node, features, answer.libraries)
    if registry.has(trained.name, trained.version):
        return f"{trained.name}@{trained.version}", False
    registry.publish(trained)
    return f"{trained.name}@{trained.version}", True


def _answer(kind: str, pipeline: Pipeline, timeout_s: float) -> Answer:
    """What the process answers that has opened the file."""
    told = msgspec.msgpack.encode(
        Told(
            kind=kind,
            name=pipeline.name,
            features=pipeline.features,
            renamed=dict(pipeline.renamed or {}),
            content=pipeline.content,
        )
    )
    with suppress(OSError, AttributeError):
        # so that it can't read this process's environment, where a key may be; only Linux has it
        ctypes.CDLL(None).prctl(*_NOT_DUMPABLE)
    reader = subprocess.Popen(
        [sys.executable, "-I", "-m", "stream.model_reader"],
        env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answered, _ = reader.communicate(told, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ImportRefused(
            f"{pipeline.said} was not opened and exported within {timeout_s:.0f} s; nothing is published"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(reader.pid, signal.SIGKILL)  # and whatever the file's code has started
        reader.communicate()
    if reader.returncode or len(answered) > _LARGEST_ANSWER:
        raise ImportRefused(
            f"{pipeline.said} can't be opened: its process ended with code {reader.returncode}, perhaps for "
            "want of memory or time; nothing is published"
        )
    try:
        answer = msgspec.msgpack.decode(answered, type=Answer)
    except msgspec.DecodeError:
        raise ImportRefused(f"{pipeline.said}: its process answered nonsense; nothing is published") from None
    if answer.refused:
        raise ImportRefused(f"{pipeline.said} can't become a model: {answer.refused}")
    return answer


def _matched(pipeline: Pipeline, asked: Sequence[str], catalogue: Catalogue) -> tuple[Feature, ...]:
    """The features that its columns are, by name."""
    found, unseen = [], []
    for name in asked:
        try:
            found.append(catalogue.by_name(name))
        except FeatureDefinitionError:
            near = get_close_matches(name, [each.name for each in catalogue.served], n=1)
            unseen.append(f"'{name}'{f' (did you mean {near[0]}?)' if near else ''}")
    missing = sorted(set(pipeline.features or ()) - set(asked))
    said = []
    if unseen:
        said.append(f"columns that are no feature here: {', '.join(unseen)}")
    if missing:
        said.append(f"features named with --features that it does not take: {', '.join(missing)}")
    if said:
        raise ImportRefused(
            f"{pipeline.said}: {'; '.join(said)}; see 'fraudstream features', and say which is which with "
            "--rename THEIRS=OURS"
        )
    return tuple(found)


def _trained(
    pipeline: Pipeline, kind: str, node: Node, features: tuple[Feature, ...], libraries: Mapping[str, str]
) -> Trained:
    digest = hashlib.sha256(pipeline.content).hexdigest()
    told = repr((pipeline.name, node.inputs, pipeline.row_limit, pipeline.trained_on, pipeline.policy))
    fingerprint = hashlib.sha256(f"{digest}{told}".encode()).hexdigest()[:8]
    return Trained(
        name=pipeline.name,
        version=f"{pipeline.trained_at.isoformat()}.{fingerprint}",
        features=features,
        nodes=(node,),
        suggested_policy=pipeline.policy or _NOT_MEASURED,
        metrics={},
        split=_SPLIT,
        trained_at=pipeline.trained_at.isoformat(),
        trained_on={"said": pipeline.trained_on or "not said by whoever imported it"},
        settings={
            "predictor": next(reversed(list(node.described)), "pipeline").partition("_")[2],
            "row_limit": pipeline.row_limit,
            "imported_from": kind,
            "file": pipeline.said,
            "file_sha256": digest,
        },
        libraries=dict(libraries),
    )
