"""Gradients on or off, and the phase marked: as :class:`torch.set_grad_enabled` and :func:`lightning_fwd.graph.phase.phase`.

A step enters a dozen of these two, which for a small net take several times as long to enter and to leave as this one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.traceback import annotate, has_preserved_node_meta

from .phase import Phase


class grad_mode:
    """Inside, autograd records (``on``) or does not. Each object for one ``with``.

    Args:
        name: the phase of the step that the operations inside belong to, if anybody records it.
    """

    __slots__ = ("_before", "_mark", "_on")

    def __init__(self, on: bool, name: Phase | None = None) -> None:
        self._on = on
        self._mark = annotate({"phase": name}) if name is not None and has_preserved_node_meta() else None

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        if self._before is not self._on:
            torch._C._set_grad_enabled(self._on)
        if self._mark is not None:
            self._mark.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._mark is not None:
            self._mark.__exit__(*error)
        if self._before is not self._on:
            torch._C._set_grad_enabled(self._before)
