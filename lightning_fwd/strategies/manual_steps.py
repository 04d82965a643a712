"""Manual optimisation, where a bare ``loss.backward()`` reaches whatever it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def guarded(parameters: Iterable[nn.Parameter], called: Callable[[], bool], refuse: Callable[[], None]) -> Iterator[None]:
    """Inside, no gradient reaches these parameters before the network was called: it would be plain training under a rule's name.

    Args:
        called: whether the network was. refuse: raises, in the middle of the user's backward, before a gradient is accumulated.
    """

    def guard(_gradient: Tensor) -> None:
        if not called():
            refuse()

    hooks = [p.register_hook(guard) for p in parameters if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
