"""lightning_fwd: learning rules for devices too small for backpropagation, in PyTorch Lightning.

>>> import lightning_fwd as lf
>>> model = lf.rewrite(net, lf.Pepita(), example_input)      # any classifier, as a rule's variant
>>> trainer = L.Trainer(strategy="pepita")                   # or: as a drop-in strategy, LightningModule unchanged
>>> net = lf.unwrap(model)                                   # the original class and keys, trained weights

Names are imported when they are first used (PEP 562), so that the command line can answer before torch is loaded.

The rooms of this package import one way, each only from rooms further left; those between two arrows do not import each other
(``tests/test_imports.py`` holds this line, and a new room needs a place in it)::

    errors <- plain_files <- settings, strict_yaml, import_path, workers <- graph, models, data <- passes <- methods <- trace
        <- cost <- integer <- adaptation, device_weights, strategies <- callbacks, classifier, register <- recipes <- compare, search <- cli

The tools import lightning_fwd, never the other way. ``graph``, ``passes``, ``methods``, ``trace`` and ``cost`` import no Lightning. Nothing
in ``trace``, ``cost``, ``adaptation`` or ``strategies`` knows a rule by name. No rule's room imports another's, and no private name is used
across rooms.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .register import register_with_lightning

if TYPE_CHECKING:
    from .adaptation import Adaptation, CorrectionBank, DomainChange, Firmware, Stage, adapt, adaptation_cost
    from .callbacks import CalibrateHeads, Diagnosis, StepCost
    from .classifier import Classifier
    from .cost import step_cost
    from .device_weights import load_device_weights
    from .errors import CaptureError, LightningFwdError, RewriteError, StepError
    from .graph import RewrittenModel, set_labels
    from .integer import Integer
    from .methods import *  # noqa: F403  # every rule of the registry
    from .methods import METHODS, LearningMethod, rewrite, source_moments
    from .passes import map_input, widen_head
    from .strategies import ForwardOnlyDDPStrategy, ForwardOnlyStrategy, unwrap

__version__ = "0.1.0"

_ROOM_OF = {
    "Adaptation": "adaptation",
    "CorrectionBank": "adaptation",
    "DomainChange": "adaptation",
    "Firmware": "adaptation",
    "Stage": "adaptation",
    "adapt": "adaptation",
    "adaptation_cost": "adaptation",
    "CalibrateHeads": "callbacks",
    "Diagnosis": "callbacks",
    "StepCost": "callbacks",
    "Classifier": "classifier",
    "step_cost": "cost",
    "load_device_weights": "device_weights",
    "CaptureError": "errors",
    "LightningFwdError": "errors",
    "RewriteError": "errors",
    "StepError": "errors",
    "RewrittenModel": "graph",
    "set_labels": "graph",
    "Integer": "integer",
    "METHODS": "methods",
    "LearningMethod": "methods",
    "rewrite": "methods",
    "source_moments": "methods",
    "ForwardOnlyDDPStrategy": "strategies",
    "ForwardOnlyStrategy": "strategies",
    "unwrap": "strategies",
    "map_input": "passes",
    "widen_head": "passes",
}

__all__ = [
    "METHODS",
    "Adaptation",
    "CalibrateHeads",
    "CaptureError",
    "Classifier",
    "CorrectionBank",
    "Diagnosis",
    "DomainChange",
    "Firmware",
    "ForwardOnlyDDPStrategy",
    "ForwardOnlyStrategy",
    "Integer",
    "LearningMethod",
    "LightningFwdError",
    "RewriteError",
    "RewrittenModel",
    "Stage",
    "StepCost",
    "StepError",
    "adapt",
    "adaptation_cost",
    "load_device_weights",
    "map_input",
    "rewrite",
    "set_labels",
    "source_moments",
    "step_cost",
    "unwrap",
    "widen_head",
]


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        value = getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
    elif name.startswith("_") or (value := _rules().get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _rules() -> dict[str, type]:
    """Every learning rule of the registry by its class's name: a new one is ``lf.NewRule`` without another line."""
    return {rule.__name__: rule for rule in import_module(".methods", __name__).METHODS.values()}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_rules()})


register_with_lightning()
