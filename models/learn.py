"""One model of a tree learns: fitted by its library, exported to flat arrays and held against it.

Imported by name (`from models.learn import learn`): it brings scikit-learn, which a worker never needs.
"""

import platform
from dataclasses import fields
from importlib.metadata import version

import numpy as np

from models.export import flatten
from models.fit import ALL_CORES, Rows, fit, folds_of
from models.flat_arrays import Floats
from models.model import Model
from models.prove import prove
from models.trained import Node

__all__ = ["Rows", "learn", "libraries", "out_of_fold", "settings_of"]


def learn(model: Model, rows: Rows, *, threads: int = ALL_CORES) -> Node:
    """The node that `model` becomes by learning from `rows`, whose columns are `model.columns` in order.

    A submodel's column holds the rounded scores that its node gives (`Node.score`), or `out_of_fold` ones.
    The same rows, description and libraries give the same node, whatever the threads. Raises TrainingError
    where there is nothing to learn, ExportError where the flat model would not answer as the library does.
    """
    fitted = fit(model, rows, threads=threads)
    flat = flatten(fitted)
    return Node(model.name, flat, prove(fitted, flat, rows.matrix), model.described)


def out_of_fold(model: Model, rows: Rows, *, folds: int = 5, threads: int = ALL_CORES) -> Floats:
    """The rounded score of each of the orders by a model that learned without it, nor any of its group.

    What a parent that shares the period learns from instead of scores that know the label. Raises
    TrainingError where a class or the groups are fewer than the folds.
    """
    scores = np.empty(len(rows))
    for learned, left_out in folds_of(rows, folds, model.name):
        fitted = fit(model, rows.where(learned), threads=threads)
        flat = flatten(fitted)
        node = Node(model.name, flat, prove(fitted, flat, rows.matrix[learned]))
        scores[left_out] = node.score(rows.matrix[left_out])
    return scores


def settings_of(model: Model) -> dict[str, str | int | float]:
    """What its predictor is and the parameters it learned with, those that are None left out."""
    told = {"predictor": str(model.predictor)}
    parameters = {each.name: getattr(model.predictor, each.name) for each in fields(model.predictor)}
    return told | {name: value for name, value in parameters.items() if value is not None}


def libraries(*models: Model) -> dict[str, str]:
    """The versions of what these models learn with."""
    asked = {each.predictor.estimator.partition(".")[0].partition(":")[0] for each in models} - {"sklearn"}
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scikit-learn", *sorted(asked))},
    }
