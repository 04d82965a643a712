"""Find the line of the user's own code that runs a layer: for error texts only, so the model is traced once more when one is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import fx, nn

import lightning_fwd

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in .*\n\s*(.*)')
_NOT_THEIRS = (*(str(Path(package.__file__).parent) for package in (torch, lightning_fwd)), str(Path(__file__).parent), "<")


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def __init__(self, whole: set[str]):
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.whole or super().is_leaf_module(m, module_qualified_name)


def source_line(net: nn.Module, layer: str, whole: Iterable[str] = ()) -> str:
    """``file.py:12 "x = self.conv(x)"``: where a network runs the module ``layer`` (a path), or "" where that cannot be told; ``whole``:
    modules
    that are not traced into."""
    return _line(net, lambda node: node.op == "call_module" and f"{layer}.".startswith(f"{node.target}."), whole)


def line_of(net: nn.Module, op: str, name: str, target: object) -> str:
    """The same for a node of the network's graph, where another trace finds it under the same name."""
    return _line(net, lambda node: (node.op, node.name, node.target) == (op, name, target))


def _line(net: nn.Module, is_it: Callable[[fx.Node], bool], whole: Iterable[str] = ()) -> str:
    try:
        graph = _Tracer(set(whole)).trace(net)
    except Exception:  # whatever the model's code raises on a traced value
        return ""
    for node in filter(is_it, graph.nodes):
        if frames := [f for f in _FRAME.findall(node.stack_trace or "") if not f[0].startswith(_NOT_THEIRS)]:
            file, line, text = frames[-1]
            near = os.path.relpath(file)
            return f'{file if near.startswith("..") else near}:{line} "{text.strip()}"'
    return ""
