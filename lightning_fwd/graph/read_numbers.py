"""Numbers that a captured forward reads from attributes (``self.temperature``): the graph holds them as constants."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import StepError
from .constants import is_inserted

_KINDS = (bool, int, float, str)
_ABSENT = object()


@dataclass(slots=True)
class _Number:
    """What was read; of a buffer, which may be written to for itself, a copy and its version."""

    module: nn.Module
    path: str
    name: str
    value: Any
    version: int = 0

    def changed(self) -> Any:
        """What it is now, if that is something else; else None."""
        now = _read(self.module, self.name)
        if not isinstance(now, Tensor) or not isinstance(self.value, Tensor):
            return None if now is self.value or (type(now) in _KINDS and type(self.value) in _KINDS and now == self.value) else now
        if now._version != self.version:
            if now.shape != self.value.shape or not torch.equal(now.to(self.value), self.value):
                return now
            self.version = now._version
        return None


class ReadNumbers:
    """What the forwards of a network read as it was captured, and the graph does not read anew.

    Args:
        net: the network. graph: what it was captured as; modules that it calls whole read what is theirs themselves.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph):
        called = {str(n.target) for n in graph.nodes if n.op == "call_module" and not is_inserted(str(n.target))}
        inside = {m for path in called for m in net.get_submodule(path).modules()}
        anew = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
        self._numbers = []
        for path, module in net.named_modules():
            if module in inside or not _is_users(type(module)):
                continue
            for name in dict.fromkeys(_names(type(module))):
                value = _read(module, name)
                if value is _ABSENT or f"{path}.{name}".lstrip(".") in anew:
                    continue
                version = 0
                if isinstance(value, Tensor):
                    value, version = value.detach().clone(), value._version
                self._numbers.append(_Number(module, path, name, value, version))
        self._numbers.sort(key=lambda n: isinstance(getattr(type(n.module), n.name, None), property))  # what they read is the better name

    def refuse_changed(self, net: nn.Module) -> None:
        """Raise :class:`StepError` if one is another now."""
        for number in self._numbers:
            now = number.changed()
            if now is None:
                continue
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


def _read(module: nn.Module, name: str) -> Any:
    if (buffer := module._buffers.get(name)) is not None:
        return buffer
    try:
        value = getattr(module, name, _ABSENT)
    except Exception:  # a property that needs what is not there yet
        return _ABSENT
    return value if type(value) in _KINDS else _ABSENT


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
