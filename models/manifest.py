"""What a published model's manifest says, and how its nodes become arrays and come back from them.

Format 2 holds a tree: all its nodes in one version, so that what was proven together is published, signed,
promoted and rolled back together. Format 3 is the same, and its reasons reach through the tree to the
features; a model without submodels is written as format 2, which says the same. Format 1 held one logistic
regression or random forest. All are read, and give the reasons that they gave when they were published.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from safetensors import SafetensorError

from features.define import Feature, features_digest
from models.decision import Reason
from models.errors import MalformedModelError
from models.flat import (
    FlatColumns,
    FlatIsotonic,
    FlatLinear,
    FlatModel,
    FlatPredictor,
    FlatSigmoid,
    FlatTrees,
)
from models.flat_columns import SCALE
from models.flat_scores import Link
from models.flat_trees import Combine
from models.impute import Imputer
from models.policy import Policy
from models.reasons import reasons_for
from models.trained import GoldenRows, Node, Trained

__all__ = [
    "FeatureEntry",
    "FileSeal",
    "Manifest",
    "NodeEntry",
    "arrays_of",
    "golden_of",
    "manifest_of",
    "node_entry",
    "node_of",
    "nodes_of",
]

FILE_LIMIT: Final = 1024 * 1024 * 1024
_COLUMNS: Final = ("op", "source", "into", "start", "count", "table", "owners")
_CALIBRATIONS: Final = {each.kind: each for each in (FlatSigmoid, FlatIsotonic)}
_GOLDEN: Final = tuple(GoldenRows.__dataclass_fields__)

_Arrays = Mapping[str, npt.NDArray[Any]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileSeal(_Part):
    """What a file of the model must be, to the byte."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=FILE_LIMIT)


class FeatureEntry(_Part):
    """A feature the model was trained on: its name, its reason's code and text, its whole declaration."""

    name: str
    code: str
    text: str
    unit: str
    missing: str
    declaration: str


class ImputerEntry(_Part):
    """Format 1: training medians by feature, which carry a missing flag, which were always missing."""

    medians: dict[str, float]
    flagged: tuple[str, ...]
    all_missing: tuple[str, ...]


class NodeEntry(_Part):
    """A model of the tree: what it asks and is filled with, and of what kinds its arrays are."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    fills: dict[str, float | None]
    """By feature or node that it asks, in the order of its columns; null stays missing."""
    flagged: tuple[str, ...]
    all_missing: tuple[str, ...]
    predictor: Literal["linear", "trees"]
    combine: Combine | None = None
    single: bool | None = None
    link: Link
    calibration: Literal["sigmoid", "isotonic"] | None = None
    described: dict[str, JsonValue]
    """How it was asked for."""


class Manifest(_Part):
    """Everything about a published model but its numbers; its sha256 is the model's digest."""

    format: Literal[1, 2, 3] = 2
    name: str
    version: str
    predictor: str
    """What the model itself is: in format 1 logistic_regression or random_forest, then as RandomForest."""
    features: tuple[FeatureEntry, ...]
    features_digest: str
    imputer: ImputerEntry | None = None
    nodes: tuple[NodeEntry, ...] = ()
    settings: dict[str, str | bool | int | float]
    libraries: dict[str, str]
    trained_at: str
    trained_on: dict[str, str | int]
    split: str
    metrics: dict[str, float | int | None]
    suggested_policy: Policy
    parents: tuple[str, ...] = ()
    files: dict[str, FileSeal]

    @model_validator(mode="after")
    def _is_of_its_format(self) -> Self:
        is_first = self.imputer is not None and not self.nodes and self.predictor in _FIRST
        is_second = self.imputer is None and bool(self.nodes) and self.nodes[-1].name == self.name
        if not (is_first if self.format == 1 else is_second):
            message = f"it is not what a manifest of format {self.format} is"
            raise ValueError(message)
        return self

    @property
    def reasons_reach(self) -> bool:
        """Whether a submodel's push is told by the features that moved it, and not by its own name."""
        return self.format >= 3

    @property
    def flagged(self) -> tuple[str, ...]:
        """The features that were sometimes missing in training, and of which the model knows it."""
        if self.imputer is not None:
            return self.imputer.flagged
        return tuple(dict.fromkeys(name for node in self.nodes for name in node.flagged))

    @property
    def all_missing(self) -> tuple[str, ...]:
        """The features that were always missing in training."""
        if self.imputer is not None:
            return self.imputer.all_missing
        return tuple(dict.fromkeys(name for node in self.nodes for name in node.all_missing))

    @property
    def reasons(self) -> dict[str, Reason]:
        """The reason that each feature was published with."""
        return {
            each.name: Reason(code=each.code, text=each.text, feature=each.name) for each in self.features
        }


def manifest_of(trained: Trained, files: Mapping[str, FileSeal]) -> Manifest:
    """The manifest of a model whose other files are sealed so."""
    return Manifest(
        # the oldest format that can hold it, so that an older program reads what it can
        format=3 if len(trained.nodes) > 1 else 2,
        name=trained.name,
        version=trained.version,
        predictor=str(trained.settings["predictor"]),
        features=tuple(map(_entry, trained.features, reasons_for(trained.features))),
        features_digest=features_digest(trained.features),
        nodes=tuple(map(node_entry, trained.nodes)),
        settings=dict(trained.settings),
        libraries=dict(trained.libraries),
        trained_at=trained.trained_at,
        trained_on=dict(trained.trained_on),
        split=trained.split,
        metrics=dict(trained.metrics),
        suggested_policy=trained.suggested_policy,
        parents=tuple(trained.parents),
        files=dict(files),
    )


def arrays_of(nodes: Sequence[Node]) -> bytes:
    """All numbers of all nodes, without pickle."""
    return _saved(dict(each for node in nodes for each in _arrays(node)))


def golden_of(nodes: Sequence[Node]) -> bytes:
    """The golden rows of all nodes."""
    return _saved({f"{node.name}.{name}": getattr(node.golden, name) for node in nodes for name in _GOLDEN})


def node_of(entry: NodeEntry, arrays: bytes, golden: bytes) -> Node:
    """A node, from what `node_entry`, `arrays_of` and `golden_of` made of it; or MalformedModelError."""
    return _node(entry, _loaded(arrays), _loaded(golden))


def nodes_of(manifest: Manifest, arrays: bytes, golden: bytes) -> tuple[Node, ...]:
    """The nodes of a published model. Raises MalformedModelError where the arrays are no such model."""
    said, proven = _loaded(arrays), _loaded(golden)
    if manifest.format == 1:
        return (_first_format(manifest, said, proven),)
    nodes = tuple(_node(entry, said, proven) for entry in manifest.nodes)
    for whole, taken in (
        (said, {name for node in nodes for name, _ in _arrays(node)}),
        (proven, {f"{node.name}.{name}" for node in nodes for name in _GOLDEN}),
    ):
        if strange := sorted(set(whole) - taken):
            message = f"the arrays {strange} belong to no node; publish the model again from its training"
            raise MalformedModelError(message)
    return nodes


def _arrays(node: Node) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    model = node.model
    parts: list[tuple[str, Any, tuple[str, ...]]] = [
        ("columns", model.columns, _COLUMNS),
        ("predictor", model.predictor, _array_names(type(model.predictor))),
    ]
    if model.calibration is not None:
        parts.append(("calibration", model.calibration, _array_names(type(model.calibration))))
    for part, value, names in parts:
        yield from ((f"{node.name}.{part}.{name}", getattr(value, name)) for name in names)


def _array_names(kind: Any) -> tuple[str, ...]:
    return tuple(
        name
        for name, each in kind.__dataclass_fields__.items()
        if each.init and name not in {"combine", "single"}
    )


def node_entry(node: Node) -> NodeEntry:
    """What a manifest says of a node."""
    model, imputer = node.model, node.model.imputer
    trees = model.predictor if isinstance(model.predictor, FlatTrees) else None
    return NodeEntry(
        name=node.name,
        fills={n: None if np.isnan(v) else v for n, v in zip(imputer.names, imputer.fills, strict=True)},
        flagged=imputer.flagged,
        all_missing=imputer.all_missing,
        predictor="linear" if trees is None else "trees",
        combine=None if trees is None else trees.combine,
        single=None if trees is None else trees.single,
        link=model.link,
        calibration=None if model.calibration is None else model.calibration.kind,
        described=dict(node.described),
    )


def _node(entry: NodeEntry, said: _Arrays, proven: _Arrays) -> Node:
    imputer = Imputer(
        names=tuple(entry.fills),
        fills=tuple(float("nan") if each is None else each for each in entry.fills.values()),
        flagged=entry.flagged,
        all_missing=entry.all_missing,
    )
    columns = FlatColumns(imputer, **_part(said, f"{entry.name}.columns", _COLUMNS))
    predictor: FlatPredictor
    if entry.predictor == "linear":
        predictor = FlatLinear(**_part(said, f"{entry.name}.predictor", _array_names(FlatLinear)))
    else:
        if entry.combine is None or entry.single is None:
            message = f"the manifest does not say how the trees of '{entry.name}' are combined"
            raise MalformedModelError(message)
        predictor = FlatTrees(
            **_part(said, f"{entry.name}.predictor", _array_names(FlatTrees)),
            combine=entry.combine,
            single=entry.single,
        )
    calibration = None
    if entry.calibration is not None:
        kind = _CALIBRATIONS[entry.calibration]
        calibration = kind(**_part(said, f"{entry.name}.calibration", _array_names(kind)))
    return Node(
        entry.name,
        FlatModel(columns, predictor, entry.link, calibration),
        GoldenRows(**_part(proven, entry.name, _GOLDEN)),
        entry.described,
    )


def _part(arrays: _Arrays, of: str, names: tuple[str, ...]) -> dict[str, Any]:
    missing = [f"{of}.{name}" for name in names if f"{of}.{name}" not in arrays]
    if missing:
        message = f"expected the arrays {missing}; got {sorted(arrays)}"
        raise MalformedModelError(message)
    return {name: arrays[f"{of}.{name}"] for name in names}


# Format 1 ---------------------------------------------------------------------------------------------

_FIRST: Final[Mapping[str, tuple[str, ...]]] = {
    "logistic_regression": ("mean", "scale", "coefficient", "intercept"),
    "random_forest": ("roots", "feature", "threshold", "left", "right", "value"),
}


def _first_format(manifest: Manifest, said: _Arrays, proven: _Arrays) -> Node:
    entry = manifest.imputer
    assert entry is not None  # noqa: S101 - the manifest was checked
    imputer = Imputer(
        names=tuple(entry.medians),
        fills=tuple(entry.medians.values()),
        flagged=entry.flagged,
        all_missing=entry.all_missing,
    )
    if imputer.names != tuple(feature.name for feature in manifest.features):
        message = "the imputer's medians do not follow the features"
        raise MalformedModelError(message)
    for arrays, names in ((said, _FIRST[manifest.predictor]), (proven, _GOLDEN)):
        if set(arrays) != set(names):
            message = f"expected the arrays {sorted(names)}; got {sorted(arrays)}"
            raise MalformedModelError(message)
    if manifest.predictor == "logistic_regression":
        model = _first_linear(imputer, **said)
    else:
        model = _first_forest(imputer, **said)
    return Node(manifest.name, model, GoldenRows(**proven))


def _first_linear(imputer: Imputer, *, mean: Any, scale: Any, coefficient: Any, intercept: Any) -> FlatModel:
    wide = imputer.columns
    if not mean.shape == scale.shape == (wide,) or not mean.dtype == scale.dtype == np.float64:
        message = f"mean and scale must be {wide} numbers each; publish the model again from its training"
        raise MalformedModelError(message)
    every = np.arange(wide, dtype=np.int32)
    columns = FlatColumns(
        imputer,
        op=np.full(wide, SCALE, dtype=np.int32),
        source=every,
        into=every + np.int32(wide),
        start=every * np.int32(2),
        count=np.zeros(wide, dtype=np.int32),
        table=np.column_stack([mean, scale]).ravel(),
        owners=np.tile(np.array(imputer.owners, dtype=np.int32), 2),
    )
    predictor = FlatLinear(every + np.int32(wide), coefficient, np.zeros(wide), intercept)
    return FlatModel(columns, predictor, "log_odds")


def _first_forest(imputer: Imputer, **arrays: Any) -> FlatModel:
    nodes = arrays["value"].shape
    trees = FlatTrees(
        **arrays,
        missing_left=np.zeros(nodes, dtype=np.int32),
        category=np.full(nodes, -1, dtype=np.int32),
        bits=np.zeros(0, dtype=np.uint32),
        base=np.zeros(1),
        combine="mean",
        single=True,
    )
    return FlatModel(FlatColumns.of(imputer), trees, "share")


# Bytes --------------------------------------------------------------------------------------------------


def _entry(feature: Feature, reason: Reason) -> FeatureEntry:
    return FeatureEntry(
        name=feature.name,
        code=reason.code,
        text=reason.text,
        unit=feature.unit,
        missing=feature.missing,
        declaration=feature.declaration,
    )


def _saved(arrays: _Arrays) -> bytes:
    # safetensors writes a strided array's memory as it lies there, which is another array
    return safetensors.numpy.save({name: np.ascontiguousarray(each) for name, each in arrays.items()})


def _loaded(content: bytes) -> _Arrays:
    # safetensors holds offsets, shapes and types against the length of the file before anything is made
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as wrong:
        message = (
            f"its arrays cannot be read ({type(wrong).__name__}); publish the model again from its training"
        )
        raise MalformedModelError(message) from wrong
