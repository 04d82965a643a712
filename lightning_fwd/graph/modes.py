"""Training and eval mode: kept around what changes it, and held where a rule freezes statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(*nets: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module of these networks has its own mode again afterwards."""
    modes = {module: module.training for net in nets for module in net.modules()}
    try:
        yield
    finally:
        set_modes(modes)


def set_modes(modes: dict[nn.Module, bool]) -> None:
    """Each module into its own mode, its children untouched."""
    for module, training in modes.items():
        module.training = training


def freeze_norms(net: nn.Module, more: Iterable[str]) -> None:
    """Put batch norms, and the modules at the paths ``more``, into eval mode: they normalise by stored statistics and leave them as they
    are."""
    paths = set(more)
    for path, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) or path in paths:
            module.training = False
