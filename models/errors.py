"""What can go wrong with a model, in one small tree.

ModelError
├── ModelDefinitionError   a description that can be no model
├── TrainingError       the examples cannot teach this model
├── ExportError         the flat model does not answer as scikit-learn does
└── RegistryError       a model in the registry must not be used, or cannot be published
    └── MalformedModelError   its arrays do not describe a model
"""


class ModelError(Exception):
    """Something about a model is wrong; the message says what was expected, what came and what to do."""


class ModelDefinitionError(ModelError):
    """A model, or a part of it, is described so that it could not be trained or served honestly."""


class TrainingError(ModelError):
    """The examples given cannot teach the model asked for."""


class ExportError(ModelError):
    """The flat model differs from the scikit-learn model it was made from, so it is not published."""


class RegistryError(ModelError):
    """A model folder is missing, changed, incomplete or not ours, or a version exists already."""


class MalformedModelError(RegistryError):
    """Arrays that do not describe a model: wrong shapes, indices out of range, cycles, NaN."""
