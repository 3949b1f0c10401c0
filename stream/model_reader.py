"""A process of its own that opens a pipeline of somebody else's and hands back arrays, never an object.

    python -I -m stream.model_reader < what it is told and the file > the answer

It is started by stream.model_import with an empty environment: no settings, no keys. Before it opens the file
it takes a limit on memory, time and open files upon itself, gives up writing files, and gives up the network
where the system lets it.
"""

import ctypes
import os
import resource
import sys
import warnings
from contextlib import suppress
from typing import Any, Final

import msgspec

__all__ = ["MEMORY", "Answer", "Told"]

MEMORY: Final = 4 * 1024**3
"""Bytes of address space, at most."""

_CPU_S: Final = 600
_TRUSTED: Final = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""What skops does not trust by itself and trees are made of: they hold numbers and call nothing. Numbers that
are no tree may end this process, and no other."""
_OPEN_FILES: Final = 256
_NEW_USER_AND_NETWORK: Final = 0x10000000 | 0x40000000
_NO_NEW_PRIVILEGES: Final = 38


class Told(msgspec.Struct):
    """What to open, and what its columns are called here."""

    kind: str
    """skops or joblib."""
    name: str
    features: tuple[str, ...] | None
    """The names of its columns, where it has none of its own."""
    renamed: dict[str, str]
    content: bytes


class Answer(msgspec.Struct):
    """The node, or why there is none."""

    refused: str = ""
    entry: bytes = b""
    arrays: bytes = b""
    golden: bytes = b""
    libraries: dict[str, str] = {}


def main() -> None:
    """Read what is told from stdin, answer on stdout."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever the file's code prints must not stand in the answer
    told = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Told)
    _confine()
    try:
        answer = _opened(told)
    except MemoryError:
        answer = Answer(refused=f"it needs more than {MEMORY / 1024**3:.0f} GiB of memory")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told and nothing is published
        answer = Answer(refused=_said(error))
    with os.fdopen(answer_to, "wb") as out:
        out.write(msgspec.msgpack.encode(answer))


def _confine() -> None:
    # it compiles by writing files, and numpy gives the same bits: the flat model is held against both
    sys.modules["numba"] = None  # type: ignore[assignment]
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (limit, limit))
    with suppress(OSError, AttributeError):  # not Linux: then only what is above
        system = ctypes.CDLL(None)
        system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        system.unshare(_NEW_USER_AND_NETWORK)


def _opened(told: Told) -> Answer:
    from models.manifest import arrays_of, golden_of, node_entry  # noqa: PLC0415 - after the limits
    from models.pipeline import flat_node, names_of  # noqa: PLC0415

    pipeline = _loaded(told)
    names = names_of(pipeline)
    if names is None:
        if told.features is None:
            return Answer(
                refused="it was fitted without names of columns; name them in their order with --features, "
                "or fit it with a DataFrame"
            )
        names = told.features
    if strange := sorted(set(told.renamed) - set(names)):
        return Answer(refused=f"--rename names {strange}, and its columns are {list(names)}")
    node = flat_node(pipeline, name=told.name, features=[told.renamed.get(each, each) for each in names])
    return Answer(
        entry=node_entry(node).model_dump_json().encode(),
        arrays=arrays_of([node]),
        golden=golden_of([node]),
        libraries=_libraries(),
    )


def _loaded(told: Told) -> Any:
    from sklearn.exceptions import InconsistentVersionWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a pipeline of another version may load and answer otherwise than it did where it was made
        warnings.simplefilter("error", InconsistentVersionWarning)
        if told.kind == "joblib":
            import io  # noqa: PLC0415

            import joblib  # noqa: PLC0415

            return joblib.load(io.BytesIO(told.content))
        import skops.io  # noqa: PLC0415

        strange = set(skops.io.get_untrusted_types(data=told.content)) - set(_TRUSTED)
        if strange:
            raise TypeError(f"it holds types that skops does not trust: {', '.join(sorted(strange))}")
        return skops.io.loads(told.content, trusted=_TRUSTED)


def _libraries() -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415

    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{each: version(each) for each in ("numpy", "scikit-learn")}}


def _said(error: Exception) -> str:
    from models.errors import ModelError  # noqa: PLC0415

    said = " ".join(str(error).split())[:1000]
    return said if isinstance(error, ModelError | TypeError) else f"{type(error).__name__}: {said}"


if __name__ == "__main__":
    main()
