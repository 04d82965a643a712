"""The learning rules. A new one is a room here and a line in ``METHODS``: it then trains, is priced, compared and exported.

No rule's room imports another's. What several share stands beside them: :mod:`.base`, :mod:`.scheme` (what of a model learns),
:mod:`.heads`, :mod:`.local_gradients`, :mod:`.calibrate`.
"""

from inspect import signature

from torch import Tensor, nn

from ..errors import RewriteError
from ..graph.rewritten import RewrittenModel
from .alignment import Alignment, source_moments
from .backprop import Backprop
from .base import LearningMethod
from .direct_feedback import DirectFeedback
from .forward_forward import ForwardForward
from .local_loss import LocalLoss
from .pepita import Pepita
from .sparse_training import SparseTraining
from .sparse_update import SparseUpdate
from .statistics import Statistics
from .zeroth_order import ZerothOrder

METHODS: dict[str, type[LearningMethod]] = {
    "backprop": Backprop,
    "sparse_update": SparseUpdate,
    "forward_forward": ForwardForward,
    "local_loss": LocalLoss,
    "pepita": Pepita,
    "direct_feedback": DirectFeedback,
    "sparse_training": SparseTraining,
    "statistics": Statistics,
    "alignment": Alignment,
    "zeroth_order": ZerothOrder,
}
__all__ = [
    *(rule.__name__ for rule in METHODS.values()),
    "DEFAULT",
    "METHODS",
    "REFERENCE",
    "LearningMethod",
    "get_method",
    "rewrite",
    "source_moments",
]
REFERENCE = "backprop"  #: what every other rule is held against; what a plain model is priced as
DEFAULT = "local_loss"  #: of a strategy that is told none


def get_method(method: LearningMethod | str, **settings: object) -> LearningMethod:
    """A method from its registered name and settings, or itself.

    Raises:
        RewriteError: the name is not registered, it is no method at all, or it has no such setting.
    """
    if isinstance(method, LearningMethod):
        return method
    if not isinstance(method, str):
        raise RewriteError(
            f"{method!r} is no learning rule",
            "the class stands where an instance, which has settings, is expected" if isinstance(method, type) else "",
            f"give an instance, like {method.__name__ if method in METHODS.values() else 'LocalLoss'}(), or a name: {', '.join(METHODS)}",
        )
    if method not in METHODS:
        raise RewriteError(f"unknown method {method!r}", "", f"known methods: {', '.join(METHODS)}")
    known = list(signature(METHODS[method]).parameters)
    mend = f"settings of {method}: {', '.join(known) or 'none'}"
    if unknown := [name for name in settings if name not in known]:
        raise RewriteError(f"{method} has no setting {', '.join(map(repr, unknown))}", "", mend)
    try:
        return METHODS[method](**settings)
    except TypeError as error:
        raise RewriteError(f"{method}: {error}", "", mend) from error


def rewrite(net: nn.Module, method: LearningMethod | str, example_input: Tensor) -> RewrittenModel:
    """Rewrite a model for a learning rule.

    The layers stay the original's own objects under their own names; before any training, inference gives what the original gave in eval
    mode, bit for bit (up to rounding where batch norm is folded).

    Args:
        net: a classifier, ``(B, ...) -> logits (B, C)``.
        method: a learning rule or its registered name.
        example_input: a batch of the shape the model takes.

    Raises:
        CaptureError, RewriteError: the model cannot be captured, or the rule cannot be applied; ``net`` is then unchanged.
    """
    if isinstance(net, RewrittenModel):
        raise RewriteError(f"the model is already rewritten for {net.method!r}", "", "call lightning_fwd.unwrap(model) first")
    if not isinstance(example_input, Tensor):
        raise RewriteError(
            f"the example input is a {type(example_input).__name__}, expected one tensor",
            "the model is run on it once",
            "give a batch of inputs (B, ...) without labels, like batch[0]",
        )
    method = get_method(method)
    complex_ones = [name for name, parameter in net.named_parameters() if parameter.is_complex()]
    if complex_ones and method.forward_only:
        raise RewriteError(
            f"{type(method).__name__} cannot train {type(net).__name__}: {', '.join(complex_ones[:3])} holds complex numbers",
            "its own losses, projections and perturbations are of real numbers",
            "use backprop, or hold real and imaginary part as two real parameters",
        )
    hooked = [path for path, module in net.named_modules() if path and (module._backward_hooks or module._backward_pre_hooks)]
    if hooked and method.forward_only:
        raise RewriteError(
            f"{type(method).__name__} calls no backward hooks, and {type(net).__name__} has some on {', '.join(hooked[:3])}",
            "the gradient of the loss that they wait for does not come by there: the rule has signals of its own",
            "remove them (handle.remove()), hook the whole network or its parameters instead, or use backprop",
        )
    model = RewrittenModel(net, method, example_input, method.granularity)
    try:
        model.watch_training()
        method.rewrite(model)
        model.compile_blocks()
    except Exception:
        model.undo()
        raise
    model.restore_modes()
    return model
