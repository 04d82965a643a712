"""Numbers that a captured forward reads from attributes (``self.temperature``): the graph holds them as constants."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CaptureError, StepError
from .capture import Capture, capture
from .constants import is_inserted

_NUMBERS = (int, float, str, np.generic)
_ABSENT = object()
_EACH = 64  #: changes that are each looked into


@dataclass(slots=True)
class _Number:
    """What was read: a number, some of them, or a tensor, of which a copy is kept, and which it was in what version."""

    module: nn.Module
    path: str
    name: str
    value: Any
    tensor: Tensor | None = None
    version: int = 0

    def changed(self) -> Any:
        """What it is now, if that is something else; else None."""
        now = _read(self.module, self.name)
        if not isinstance(now, Tensor) or not isinstance(self.value, Tensor):
            return None if now is self.value or _same(now, self.value) else now
        if now is not self.tensor or now._version != self.version:
            if not _alike(now, self.value):
                return now
            self.tensor, self.version = now, now._version
        return None

    def take(self, now: Any) -> None:
        """The change is no matter."""
        self.value = now
        if isinstance(now, Tensor):
            self.value, self.tensor, self.version = now.detach().clone(), now, now._version


class ReadNumbers:
    """What the forwards of a network read as it was captured, and the graph does not read anew.

    One that has changed is no matter where the network, captured once more, gives the same graph (a counter that only logging looks at).

    Args:
        net: the network. captured: what it was captured as; modules that its graph calls whole read what is theirs themselves.
        example: the input it was captured with.
    """

    def __init__(self, net: nn.Module, captured: Capture, example: Tensor):
        nodes = captured.graph_module.graph.nodes
        called = {str(n.target) for n in nodes if n.op == "call_module" and not is_inserted(str(n.target))}
        inside = {m for path in called for m in net.get_submodule(path).modules()}
        read = [str(n.target) for n in nodes if n.op == "get_attr" and not is_inserted(str(n.target))]
        anew = {id(_at(net, target)) for target in read}
        through = {"", *(path for n in nodes for path in n.meta.get("nn_module_stack", ()))}  # others, such as a metric, were not run
        self._numbers: list[_Number] = []
        for path, module in net.named_modules():
            if path not in through or module in inside or not _is_users(type(module)):
                continue
            for name in dict.fromkeys(_names(type(module))):
                value = _read(module, name)
                if isinstance(value, Tensor):
                    if id(value) not in anew:
                        self._numbers.append(_Number(module, path, name, value.detach().clone(), value, value._version))
                elif value is not _ABSENT:
                    self._numbers.append(_Number(module, path, name, value))
        self._numbers.sort(key=lambda n: isinstance(getattr(type(n.module), n.name, None), property))  # what they read is the better name
        self._example, self._graph, self._changes = example[:2].detach(), _written(captured) if self._numbers else ([], {}), 0

    def refuse_changed(self, net: nn.Module) -> None:
        """Raise :class:`StepError` if one is another now, and the graph would be."""
        changed = [(number, now) for number in self._numbers if (now := number.changed()) is not None]
        if not changed:
            return
        self._changes += 1
        often = self._changes > _EACH and self._changes & (self._changes - 1)  # a counter: looked at after 128, 256, ... changes
        if often or self._is_the_same(net):
            for number, now in changed:
                number.take(now)
            return
        number, now = changed[0]
        path = f"{number.path}.{number.name}".lstrip(".")
        before, after = (
            f"a tensor of {tuple(v.shape)}" if isinstance(v, Tensor) and v.numel() > 1 else "gone" if v is _ABSENT else repr(v)
            for v in (number.value, now)
        )
        after = "another" if before == after else after
        raise StepError(
            f"{path} of {type(net).__name__} was {before} when its graph was captured, and is now {after}",
            "what forward reads and computes with before it meets the input is a constant there: the change would do nothing",
            "hold it as a buffer and use it with the activations themselves (h / self.t), or read it in a child that draws or counts "
            "by itself, such as nn.Dropout (its p may change); or set it before the fit",
        )

    def _is_the_same(self, net: nn.Module) -> bool:
        weight = next((p for p in net.parameters() if p.is_floating_point()), self._example)
        example = self._example.to(weight if self._example.is_floating_point() else weight.device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nodes, constants = _written(capture(net, example))
        except CaptureError:
            return False
        were, held = self._graph
        return nodes == were and constants.keys() == held.keys() and all(_alike(constants[name], held[name]) for name in held)


def _written(captured: Capture) -> tuple[list[str], dict[str, Tensor]]:
    """A graph's calls in words, and the tensors that tracing made constants of."""
    nodes = [f"{n.op} {n.target} {n.args} {n.kwargs}" for n in captured.graph_module.graph.nodes]
    inserted = [f"{name} {module}" for name, module in captured.inserted.named_modules() if name]
    tensors = [*captured.inserted.named_parameters(), *captured.inserted.named_buffers()]
    return nodes + inserted, {name: tensor.detach().clone() for name, tensor in tensors}


def _at(net: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(net.get_submodule(path), name, None)


def _read(module: nn.Module, name: str) -> Any:
    if (buffer := module._buffers.get(name)) is not None:
        return buffer
    try:
        value: Any = getattr(module, name, _ABSENT)
    except Exception:  # a property that needs what is not there yet
        return _ABSENT
    if type(value) in (list, tuple) and all(isinstance(v, _NUMBERS) for v in value):
        return tuple(value)
    return value if isinstance(value, _NUMBERS) else _ABSENT


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether they hold the same but for the rounding of a cast."""
    narrow = min(a.dtype, b.dtype, key=lambda kind: kind.itemsize)
    return a.shape == b.shape and _same(a.to(b.device, narrow), b.to(narrow))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or bool(a != a and b != b)


def _names(cls: type) -> Iterator[str]:
    """Names that forward, and what it calls of the class, look up; ``training`` aside, which the capture knows of."""
    waiting, seen = ["forward"], set[str]()
    while waiting:
        name = waiting.pop()
        member = inspect.getattr_static(cls, name, None)
        if name in seen or name == "training":
            continue
        seen.add(name)
        if name != "forward" and not inspect.isfunction(member):
            yield name
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
        if code is not None and any(name in vars(base) for base in cls.__mro__ if _is_users(base)):
            waiting += _looked_up(code)


def _is_users(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in ("torch", "lightning", "pytorch_lightning", "builtins", "abc")


def _looked_up(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _looked_up(constant)
