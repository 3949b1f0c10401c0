"""A shop's own features, found where the setting `features` says: the one code of a shop that runs here.

A model's files never name code. The operator names it, in the settings, and a model is served only while
each of its features is declared there as it was when the model was trained.
"""

import importlib
import importlib.util
import linecache
import re
import sys
import sysconfig
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from features.catalogue import BUILT_IN, Catalogue, is_declared
from features.define import Feature
from features.errors import FeatureDefinitionError
from stream.errors import Refusal
from stream.settings import Settings

__all__ = ["OwnFeaturesError", "catalogue_of"]

_LARGEST_FILE: Final = 1_000_000
_NAMED: Final = re.compile(r"(?P<where>.+):(?P<name>[A-Za-z_]\w*)")
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_IMPORTED_AS: Final = "fraudstream_own_features"
"""Not by the file's own name: a features.py or a random.py must not take another module's place."""
_NOT_THEIRS: Final = (
    *(f"{Path(__file__).parents[1] / package}/" for package in ("features", "models", "stream")),
    sysconfig.get_path("stdlib"),
)


class OwnFeaturesError(Refusal):
    """A shop's own features can't be used; the message names the setting, what is wrong and what to write."""


def catalogue_of(settings: Settings) -> Catalogue:
    """The features that can be asked for by name: the built-in ones, and those the setting `features` names.

    Imports the shop's code when the setting is there. Raises OwnFeaturesError.
    """
    if settings.features is None:
        return BUILT_IN
    said = f"setting features: {settings.features}"
    named = _NAMED.fullmatch(settings.features)
    if named is None:
        raise OwnFeaturesError(
            f"{said} should be a module or a file and a name in it; write shop.features:FEATURES or "
            "path/to/features.py:FEATURES"
        )
    where, name = named["where"], named["name"]
    if not (_is_file(where) or _MODULE.fullmatch(where)):
        raise OwnFeaturesError(
            f"{said}: {where!r} is neither a module such as shop.features nor a file that ends in .py"
        )
    # what it prints must not stand among what a command answers
    with redirect_stdout(sys.stderr):
        module = _of_file(Path(where), said) if _is_file(where) else _of_module(where, said)
    declared = _attribute(module, name, said)
    try:
        return Catalogue(own=declared)
    except FeatureDefinitionError as error:
        raise OwnFeaturesError(f"{said}: {error}") from None


def _is_file(where: str) -> bool:
    return "/" in where or where.endswith(".py")


def _attribute(module: ModuleType, name: str, said: str) -> tuple[Feature, ...]:
    if name not in vars(module):
        tuples = sorted(
            each
            for each, value in vars(module).items()
            if isinstance(value, tuple | list) and value and all(map(is_declared, value))
        )
        there = f"it has {', '.join(tuples)}; name one" if tuples else f"write {name} = (...) there"
        raise OwnFeaturesError(f"{said}: there is no {name}; {there}")
    declared: Any = vars(module)[name]
    if not isinstance(declared, tuple | list):
        raise OwnFeaturesError(
            f"{said}: {name} should be a tuple of features and is of the class {type(declared).__name__}; "
            f"write {name} = (one, another)"
        )
    if not declared:
        raise OwnFeaturesError(f"{said}: {name} is empty; put features into it, or unset the setting")
    return tuple(declared)


def _of_file(file: Path, said: str) -> ModuleType:
    """What a file declares.

    The very bytes that are read are run, and they are what the digests hold: Python's own import might run
    what it once compiled, and look for the source in a file that has changed since.
    """
    if file.suffix != ".py":
        raise OwnFeaturesError(f"{said}: {file} is not Python's source; name a file that ends in .py")
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error  # of a path that can't be one
        raise OwnFeaturesError(
            f"{said}: can't read {file}: {why}; name a file that exists and this user may read"
        ) from None
    if len(content) > _LARGEST_FILE:
        raise OwnFeaturesError(f"{said}: {file} has more than a million bytes; name a file of features")
    shown = str(file.resolve())
    module = ModuleType(_IMPORTED_AS)
    module.__file__ = shown
    before = sys.modules.get(_IMPORTED_AS)
    sys.modules[_IMPORTED_AS] = module  # while it runs, a dataclass looks for its own module there
    try:
        code = compile(content, shown, "exec", dont_inherit=True)
        lines = importlib.util.decode_source(content).splitlines(keepends=True)
        linecache.cache[shown] = (len(content), None, lines, shown)
        exec(code, vars(module))  # noqa: S102 - what the operator named, and nothing else
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[_IMPORTED_AS]
        else:
            sys.modules[_IMPORTED_AS] = before
        raise OwnFeaturesError(f"{said}: {_told(error)}") from error
    return module


def _of_module(name: str, said: str) -> ModuleType:
    """A module from Python's path."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise OwnFeaturesError(f"{said}: {_told(error)}") from error
        raise OwnFeaturesError(
            f"{said}: there is no module {error.name!r}; put its folder into PYTHONPATH, or name the file "
            "itself: path/to/features.py:FEATURES"
        ) from None
    except (Exception, SystemExit) as error:
        raise OwnFeaturesError(f"{said}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """What went wrong while the shop's code was imported, and in which line of it."""
    if isinstance(error, SyntaxError):
        file, line, what = error.filename, error.lineno, error.msg
    else:
        theirs = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(("<", *_NOT_THEIRS))
        ]
        file, line = (theirs[-1].filename, theirs[-1].lineno) if theirs else (None, None)
        what = " ".join(str(error).split())
        if not isinstance(error, FeatureDefinitionError):
            what = f"{type(error).__name__}: {what}"
    place = "" if file is None or line is None else f"{Path(file).name}, line {line}: "
    return f"{place}{what}; mend it there"
