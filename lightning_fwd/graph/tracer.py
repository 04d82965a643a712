"""fx's tracer, for models as people write them: what cannot be traced is kept whole, sizes may be numbers, and random choices are
noticed."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _orig_module_call, _orig_module_getattr

from .generators import global_states, own_states

_MAKERS = (
    "zeros",
    "ones",
    "full",
    "empty",
    "arange",
    "rand",
    "randn",
    "eye",
    "linspace",
)  # torch's functions that take sizes and no tensor
_OURS, _TORCH = Path(__file__).parents[1], Path(torch.__file__).parent


class LeafTracer(fx.Tracer):
    """A tracer that remembers the innermost module in which tracing failed, and those whose own code drew random numbers or switched
    gradients off: a graph has no place for either.

    Args:
        leaves: paths of the modules to keep whole.
        example: ``(B, ...)``; with it every value is computed beside its node, so that sizes are numbers: all but the first, which is the
            batch's.
    """

    def __init__(self, leaves: set[str], example: Tensor | None = None):
        super().__init__()
        self._kept_whole, self._example = leaves, example
        self._values: dict[fx.Node, Any] = {}
        self.failed_in: str | None = None
        self.drew: list[str] = []  # "" for the root
        self.switched_off: dict[str, list[fx.Node]] = {}  # path to what was recorded under its no_grad
        self._open = [""]  # paths of the modules that were entered with gradients on, the innermost last

    def trace(self, root: nn.Module | Callable, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        assert isinstance(root, nn.Module)
        with torch.enable_grad(), _noting_draws(self, root, ""), _makers_of_tensors(self):
            return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args=None):
        """One placeholder: optional arguments of forward keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        scripted = isinstance(m, torch.jit.ScriptModule)
        return scripted or module_qualified_name in self._kept_whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict):
        path = self.path_of_module(m)
        try:
            if self.is_leaf_module(m, path):
                return super().call_module(m, forward, args, kwargs)
            with _noting_draws(self, m, path), self._entered(path):
                return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or path
            raise

    @contextmanager
    def _entered(self, path: str) -> Iterator[None]:
        """Whoever switched gradients off is the module that was entered with them on."""
        on = torch.is_grad_enabled()
        if on:
            self._open.append(path)
        try:
            yield
        finally:
            if on:
                self._open.pop()

    # ---- sizes as numbers

    def create_proxy(self, kind: str, target: Any, args: tuple, kwargs: dict, *more: Any, **options: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        if not torch.is_grad_enabled():
            self.switched_off.setdefault(self._open[-1], []).append(proxy.node)
        if self._example is not None:
            self._values[proxy.node] = self._compute(proxy.node)
        return proxy

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return super().proxy(node) if self._example is None else _Sized(node, self)

    def value(self, node: fx.Node) -> Any:
        return self._values.get(node)

    @torch.no_grad()
    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        if node.op == "placeholder":
            return self._example
        if node.op == "get_attr":
            with _unpatched():
                return operator.attrgetter(str(node.target))(self.root)
        with _unpatched():
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs) if callable(node.target) else None


@contextmanager
def _unpatched() -> Iterator[None]:
    """While tracing, modules hand out proxies and record their calls; inside, they run."""
    patched = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__, nn.Module.__getattr__ = _orig_module_call, _orig_module_getattr  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = patched  # type: ignore[method-assign]


class _Sized(fx.Proxy):
    """A value whose sizes are numbers, but for the first one of a tensor, which follows the batch."""

    tracer: LeafTracer

    def __getattr__(self, name: str) -> Any:
        value = self.tracer.value(self.node)
        if name == "shape" and isinstance(value, Tensor):
            return self.size()
        if name == "ndim" and isinstance(value, Tensor):
            return value.ndim
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[Any]:
        value = self.tracer.value(self.node)
        if not isinstance(value, tuple | list):
            return super().__iter__()
        return iter([self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(len(value))])

    def dim(self) -> Any:
        return self.tracer.value(self.node).dim()

    def size(self, dim: int | None = None) -> Any:
        """``(batch, *numbers)``, or one of them."""
        shape = self.tracer.value(self.node).shape
        if dim is not None and dim % max(1, len(shape)) != 0:
            return shape[dim]
        first = self.tracer.create_proxy("call_method", "size", (self, 0), {}) if len(shape) else ()
        return first if dim is not None else (first, *shape[1:]) if len(shape) else ()


@contextmanager
def _noting_draws(tracer: LeafTracer, module: nn.Module, path: str) -> Iterator[None]:
    known, before = len(tracer.drew), (global_states(), own_states(module))
    yield
    if len(tracer.drew) == known and before != (global_states(), own_states(module)):
        tracer.drew.append(path)


@contextmanager
def _makers_of_tensors(tracer: LeafTracer) -> Iterator[None]:
    """Inside, ``torch.zeros(x.shape[0], n)`` is a node like any other; torch itself asks no tracer about sizes."""
    originals = {name: getattr(torch, name) for name in _MAKERS}

    def recorded(original: Callable) -> Callable:
        def make(*args: Any, **kwargs: Any) -> Any:
            traced: list[fx.Proxy] = []
            fx.node.map_aggregate((args, kwargs), lambda a: traced.append(a) if isinstance(a, fx.Proxy) else a)
            return tracer.create_proxy("call_function", original, args, kwargs) if traced else original(*args, **kwargs)

        return make

    for name, original in originals.items():
        setattr(torch, name, recorded(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


def where_in_the_model(error: BaseException) -> str:
    """``file.py:12: `the line` `` of the user's code that raised; "" where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if _TORCH not in file.parents and _OURS not in file.parents and frame.line:
            return f"{file.name}:{frame.lineno}: `{frame.line.strip()}`"
    return ""
