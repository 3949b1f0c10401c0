"""From what a library learned to flat arrays; what cannot be exported exactly is refused with its reason."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble._iforest import _average_path_length

from models.errors import ExportError
from models.fit import Fitted
from models.flat import FlatModel
from models.flat_arrays import Floats
from models.flat_columns import HEAD, LOOK_UP
from models.flat_linear import FlatLinear
from models.flat_scores import Calibrated, FlatIsotonic, FlatSigmoid, Link
from models.flat_trees import WORDS, Combine, FlatTrees
from models.layout import Layout
from models.predictors import (
    DecisionTree,
    ExtraTrees,
    GradientBoosting,
    HistGradientBoosting,
    IsolationForest,
    LightGBM,
    LogisticRegression,
    RandomForest,
    XGBoost,
)

__all__ = ["flatten"]

_LEAF: Final = -1


class _Categories(NamedTuple):
    """Which of the rows of bits a node asks, -1 for one that splits on a number."""

    which: npt.NDArray[Any]
    bits: npt.NDArray[Any]


class _Tree(NamedTuple):
    """One tree, its columns as the predictor counts them: an entry a node, children after their parents."""

    feature: npt.NDArray[Any]
    threshold: Floats
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    value: Floats
    missing_left: npt.NDArray[Any]
    categories: _Categories | None = None


def flatten(fitted: Fitted) -> FlatModel:
    """The fitted model as flat arrays. Raises ExportError for what they cannot say."""
    layout, estimator = fitted.layout.copy(), fitted.estimator
    combine: Combine = "sum"
    link: Link = "log_odds"
    base, single = 0.0, True
    match fitted.predictor:
        case LogisticRegression():
            return _of_linear(fitted, layout)
        case DecisionTree():
            trees = [_share_tree(estimator)]
            combine, link = "mean", "share"
        case RandomForest() | ExtraTrees():
            trees = [_share_tree(each) for each in estimator.estimators_]
            combine, link = "mean", "share"
        case GradientBoosting():
            trees = [
                _boosted_tree(each.tree_, estimator.learning_rate) for each in estimator.estimators_[:, 0]
            ]
            nothing = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
            base = float(estimator._raw_predict_init(nothing)[0, 0])  # noqa: SLF001 - nowhere else said
        case HistGradientBoosting():
            trees = _hist_trees(estimator, layout)
            base, single = float(estimator._baseline_prediction.ravel()[0]), False  # noqa: SLF001 - same
        case IsolationForest():
            trees, link = _isolation_trees(estimator), "depth"
        case XGBoost():
            trees, base = _xgboost_trees(estimator.get_booster())
            combine = "single_sum"
        case LightGBM():
            trees, single = _lightgbm_trees(estimator.booster_), False
    used = sorted({layout.columns[at] for tree in trees for at in tree.feature[tree.left != _LEAF].tolist()})
    columns, place = layout.flat(used)
    whole = _joined(trees, [place.get(column, -1) for column in layout.columns])
    predictor = FlatTrees(**whole, base=np.array([base]), combine=combine, single=single)
    return FlatModel(columns, predictor, link, _calibrated(fitted))


def _of_linear(fitted: Fitted, layout: Layout) -> FlatModel:
    columns, place = layout.flat(layout.columns)
    predictor = FlatLinear(
        column=np.array([place[column] for column in layout.columns], dtype=np.int32),
        coefficient=np.asarray(fitted.estimator.coef_[0], dtype=np.float64),
        typical=fitted.typical,
        intercept=np.asarray(fitted.estimator.intercept_, dtype=np.float64).reshape(1),
    )
    return FlatModel(columns, predictor, "log_odds", _calibrated(fitted))


def _calibrated(fitted: Fitted) -> Calibrated | None:
    calibrator = fitted.calibrator
    if calibrator is None:
        return None
    if hasattr(calibrator, "X_thresholds_"):
        return FlatIsotonic(
            raw=np.asarray(calibrator.X_thresholds_, dtype=np.float64),
            p=np.asarray(calibrator.y_thresholds_, dtype=np.float64),
        )
    return FlatSigmoid(
        slope=np.asarray(calibrator.coef_[0], dtype=np.float64),
        intercept=np.asarray(calibrator.intercept_, dtype=np.float64).reshape(1),
    )


def _joined(trees: Sequence[_Tree], flat: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """All trees in one row of nodes; `flat` has for each column of the predictor the flat one."""
    sizes = [len(tree.value) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    if roots[-1] + sizes[-1] >= 2**31:
        message = f"{sum(sizes)} nodes are more than a flat model numbers; grow fewer or smaller trees"
        raise ExportError(message)
    leaf = np.concatenate([tree.left == _LEAF for tree in trees])
    moved = {
        name: np.concatenate([getattr(tree, name) + root for tree, root in zip(trees, roots, strict=True)])
        for name in ("left", "right")
    }
    feature = np.where(leaf, 0, np.concatenate([tree.feature for tree in trees]))
    category = np.full(len(leaf), -1)
    words = [np.zeros(0, dtype=np.uint32)]
    at = 0
    for tree, root in zip(trees, roots, strict=True):
        if tree.categories is not None:
            told = np.flatnonzero(tree.categories.which >= 0)
            category[root + told] = at + WORDS * tree.categories.which[told]
            words.append(tree.categories.bits.ravel().astype(np.uint32))
            at += tree.categories.bits.size
    return {
        "roots": roots.astype(np.int32),
        "feature": np.where(leaf, 0, np.array(flat)[feature]).astype(np.int32),
        "threshold": np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees])).astype(
            np.float64
        ),
        "left": np.where(leaf, -1, moved["left"]).astype(np.int32),
        "right": np.where(leaf, -1, moved["right"]).astype(np.int32),
        "value": np.concatenate([tree.value for tree in trees]).astype(np.float64),
        "missing_left": np.where(leaf, 0, np.concatenate([tree.missing_left for tree in trees])).astype(
            np.int32
        ),
        "category": category.astype(np.int32),
        "bits": np.concatenate(words),
    }


# scikit-learn -------------------------------------------------------------------------------------------


def _tree(tree: Any, value: Floats, feature: npt.NDArray[Any] | None = None) -> _Tree:
    return _Tree(
        feature=tree.feature if feature is None else feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        value=value,
        missing_left=tree.missing_go_to_left.astype(np.int32),
    )


def _share_tree(estimator: Any) -> _Tree:
    (fraud,) = np.flatnonzero(estimator.classes_.astype(bool))
    return _tree(estimator.tree_, estimator.tree_.value[:, 0, fraud])


def _boosted_tree(tree: Any, rate: float) -> _Tree:
    value = rate * tree.value[:, 0, 0]
    left, right = tree.children_left, tree.children_right
    return _tree(tree, _means(left, right, value, tree.weighted_n_node_samples))


def _hist_trees(estimator: Any, layout: Layout) -> list[_Tree]:
    taken = estimator.is_categorical_
    seen = list(range(estimator.n_features_in_))
    if taken is not None:
        # it puts categories first, each as its rank in training; what it has not met is missing to it
        categories = estimator._preprocessor.named_transformers_["encoder"].categories_  # noqa: SLF001
        seen = [*np.flatnonzero(taken).tolist(), *np.flatnonzero(~taken).tolist()]
        for at, known in zip(np.flatnonzero(taken).tolist(), categories, strict=True):
            keys = known[~np.isnan(known)].astype(np.float64)
            source = layout.columns[at]
            (layout.columns[at],) = layout.new(source)
            table = np.concatenate([[np.nan] * HEAD, keys, np.arange(len(keys), dtype=np.float64)])
            layout.steps.append((LOOK_UP, source, layout.columns[at], table))
    trees = []
    for (predictor,) in estimator._predictors:  # noqa: SLF001
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        left = np.where(leaf, _LEAF, nodes["left"].astype(np.int64))
        right = np.where(leaf, _LEAF, nodes["right"].astype(np.int64))
        told = nodes["is_categorical"].astype(bool) & ~leaf
        trees.append(
            _Tree(
                feature=np.array(seen)[np.where(leaf, 0, nodes["feature_idx"])],
                threshold=np.where(told, 0.0, nodes["num_threshold"]),
                left=left,
                right=right,
                value=_means(left, right, nodes["value"], nodes["count"]),
                missing_left=nodes["missing_go_to_left"].astype(np.int32),
                categories=_Categories(
                    np.where(told, nodes["bitset_idx"].astype(np.int64), -1), predictor.raw_left_cat_bitsets
                )
                if told.any()
                else None,
            )
        )
    return trees


def _isolation_trees(forest: Any) -> list[_Tree]:
    expected = len(forest.estimators_) * float(_average_path_length(np.array([forest.max_samples_]))[0])
    trees = []
    for each, features in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = each.tree_
        depth = tree.compute_node_depths() + _average_path_length(tree.n_node_samples) - 1.0
        value = _means(tree.children_left, tree.children_right, -depth / expected, tree.n_node_samples)
        leaf = tree.children_left == _LEAF
        trees.append(_tree(tree, value, np.where(leaf, 0, features[np.where(leaf, 0, tree.feature)])))
    return trees


def _means(
    left: npt.NDArray[Any], right: npt.NDArray[Any], value: Floats, weight: npt.NDArray[Any]
) -> Floats:
    """The values of leaves, and above them the mean of what lies below, by weight."""
    values, weights = value.astype(np.float64).tolist(), weight.astype(np.float64).tolist()
    for node in range(len(values) - 1, -1, -1):
        if left[node] != _LEAF:
            one, other = left[node], right[node]
            whole = weights[one] + weights[other]
            share = weights[one] / whole if whole > 0 else 0.5
            values[node] = share * values[one] + (1.0 - share) * values[other]
    return np.array(values)


# XGBoost and LightGBM --------------------------------------------------------------------------------------


def _xgboost_trees(booster: Any) -> tuple[list[_Tree], float]:
    learned = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective, kind = learned["objective"]["name"], learned["gradient_booster"]["name"]
    if (objective, kind) != ("binary:logistic", "gbtree"):
        message = (
            f"XGBoost's {kind} for {objective} is not trees that add up to log-odds; it cannot be exported"
        )
        raise ExportError(message)
    said = str(learned["learner_model_param"]["base_score"]).strip("[]")
    prior = np.float32(float(said))
    base = float(-np.log(np.float32(1.0) / prior - np.float32(1.0)))
    trees = []
    for tree in learned["gradient_booster"]["model"]["trees"]:
        if tree["categories"]:
            message = "XGBoost's own splits on categories cannot be exported; encode them with a preprocessor"
            raise ExportError(message)
        conditions = np.array(tree["split_conditions"], dtype=np.float32)
        # it goes left where x < threshold: in float32 the same as x <= the number before
        before = np.nextafter(conditions, np.float32(-np.inf))
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        order, left, right = _preordered(left, right)
        value = _means(
            left, right, conditions[order].astype(np.float64), np.array(tree["sum_hessian"])[order]
        )
        trees.append(
            _Tree(
                feature=np.array(tree["split_indices"])[order],
                threshold=before[order].astype(np.float64),
                left=left,
                right=right,
                value=value,
                missing_left=np.array(tree["default_left"], dtype=np.int32)[order],
            )
        )
    return trees, base


def _preordered(
    left: npt.NDArray[Any], right: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The nodes that can be reached, each after its parent, and their children as they are numbered then."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if left[node] != _LEAF:
            waiting += [int(right[node]), int(left[node])]
    place = np.full(len(left) + 1, _LEAF)  # the last is where a leaf's children, -1, are found
    place[order] = np.arange(len(order))
    place[-1] = _LEAF
    return np.array(order), place[left[order]], place[right[order]]


def _lightgbm_trees(booster: Any) -> list[_Tree]:
    learned = booster.dump_model()
    objective = learned["objective"].split()
    if objective[:2] != ["binary", "sigmoid:1"] or learned.get("average_output"):
        message = (
            f"LightGBM's {learned['objective']} is not trees that add up to log-odds; it cannot be exported"
        )
        raise ExportError(message)
    return [_lightgbm_tree(each["tree_structure"]) for each in learned["tree_info"]]


def _lightgbm_tree(root: dict[str, Any]) -> _Tree:
    rows: list[tuple[int, float, float, int, float]] = []
    children: list[list[int]] = []
    waiting: list[tuple[dict[str, Any], int, int]] = [(root, -1, 0)]
    while waiting:
        node, parent, side = waiting.pop()
        at = len(rows)
        children.append([_LEAF, _LEAF])
        if parent >= 0:
            children[parent][side] = at
        if "split_feature" not in node:
            rows.append((0, 0.0, node["leaf_value"], 0, node.get("leaf_weight", 1.0)))
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            message = (
                f"a split of LightGBM by {node['decision_type']!r}, missing {node['missing_type']}, "
                "cannot be exported; encode categories with a preprocessor"
            )
            raise ExportError(message)
        threshold = float(node["threshold"])
        # where nothing was missing in training it takes NaN for zero
        missing_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
        rows.append((node["split_feature"], threshold, 0.0, int(missing_left), node["internal_weight"]))
        waiting += [(node["right_child"], at, 1), (node["left_child"], at, 0)]
    feature, cut, value, goes_left, weight = map(np.array, zip(*rows, strict=True))
    left, right = np.array(children).T
    return _Tree(feature, cut, left, right, _means(left, right, value, weight), goes_left)
