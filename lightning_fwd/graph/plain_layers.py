"""Which modules compute exactly what their torch class computes, so that a rule or a pass may compute it in their place."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_plain(module: nn.Module | None, *classes: type[nn.Module]) -> bool:
    """Whether ``module`` is one of ``classes`` itself and nothing changes its arithmetic or its gradient.

    A subclass (timm's ``BatchNormAct2d``, a LoRA layer), a parametrised layer (``weight_norm``, old style too), hooks, and a forward set on
    the instance are not plain.
    """
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return (
        module is not None
        and type(module) in classes
        and not is_parametrized(module)
        and "forward" not in module.__dict__
        and not any(getattr(module, name) for name in hooks)
    )
