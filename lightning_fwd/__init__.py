"""lightning_fwd: learning rules for devices too small for backpropagation, in PyTorch Lightning.

>>> import lightning_fwd as lf
>>> model = lf.rewrite(net, lf.Pepita(), example_input)      # any classifier, as a rule's variant
>>> trainer = L.Trainer(strategy="pepita")                   # or: as a drop-in strategy, LightningModule unchanged
>>> net = lf.unwrap(model)                                   # the original class and keys, trained weights
"""

from .callbacks import CalibrateHeads, Diagnosis, StepCost
from .classifier import Classifier
from .cost import step_cost
from .graph import CaptureError, LightningFwdError, RewriteError, RewrittenModel, StepError
from .methods import (
    METHODS,
    Backprop,
    ForwardForward,
    LearningMethod,
    LocalLoss,
    Pepita,
    SparseTraining,
    SparseUpdate,
    Statistics,
    ZerothOrder,
    rewrite,
)
from .strategies import ForwardOnlyStrategy, unwrap

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Backprop",
    "CalibrateHeads",
    "CaptureError",
    "Classifier",
    "Diagnosis",
    "ForwardForward",
    "ForwardOnlyStrategy",
    "LearningMethod",
    "LightningFwdError",
    "LocalLoss",
    "Pepita",
    "RewriteError",
    "RewrittenModel",
    "SparseTraining",
    "SparseUpdate",
    "Statistics",
    "StepCost",
    "StepError",
    "ZerothOrder",
    "rewrite",
    "step_cost",
    "unwrap",
]
