"""What we believe: models, what they say of an order, and what is decided from it.

Predictors, imputers and preprocessors are in `models.predictors`, `models.impute` and `models.preprocess`.
Training stands apart in `models.train`, because it brings scikit-learn.
"""

from models.decision import (
    Decision,
    ModelRef,
    Reason,
    Source,
    decision_id,
    decode_decision,
    encode,
    rejected_decision,
    scored_decision,
)
from models.errors import (
    ExportError,
    MalformedModelError,
    ModelDefinitionError,
    ModelError,
    RegistryError,
    TrainingError,
)
from models.manifest import Manifest
from models.model import Model, Period
from models.policy import Action, Policy, rounded, score_of, suggest_policy
from models.registry import Registry
from models.scorer import Scored, Scorer
from models.trained import GoldenRows, Trained

__all__ = [
    "Action",
    "Decision",
    "ExportError",
    "GoldenRows",
    "MalformedModelError",
    "Manifest",
    "Model",
    "ModelDefinitionError",
    "ModelError",
    "ModelRef",
    "Period",
    "Policy",
    "Reason",
    "Registry",
    "RegistryError",
    "Scored",
    "Scorer",
    "Source",
    "Trained",
    "TrainingError",
    "decision_id",
    "decode_decision",
    "encode",
    "rejected_decision",
    "rounded",
    "score_of",
    "scored_decision",
    "suggest_policy",
]
