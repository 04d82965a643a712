"""What a module's forward writes into the module itself. A captured graph neither writes it nor follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_STRUCTURE = set(vars(nn.Module()))
_SCALARS = (bool, int, float, str)
_MISSING = object()


class ModuleState:
    """Attributes and buffers of a network and its submodules as they are now; :meth:`restore` gives them back."""

    def __init__(self, net: nn.Module):
        self._attributes = {m: _attributes(m) for m in net.modules()}
        self._buffers = {
            m: {name: (b, b._version, b.detach().clone()) for name, b in m._buffers.items() if b is not None and not is_lazy(b)}
            for m in net.modules()
        }

    def written_buffers(self) -> dict[nn.Module, list[str]]:
        """Module to the names of its buffers that were written into or replaced since."""
        found = {
            m: [name for name, (b, version, _) in buffers.items() if _replaced(m, name, b) or b._version != version]
            for m, buffers in self._buffers.items()
        }
        return {m: names for m, names in found.items() if names}

    def written(self) -> dict[nn.Module, list[str]]:
        """Module to the names of its buffers and attributes that were written since; a number or a word of the same value is not."""
        found = self.written_buffers()
        for module, before in self._attributes.items():
            now = _attributes(module)
            if names := [name for name in {**before, **now} if not _same(before.get(name, _MISSING), now.get(name, _MISSING))]:
                found[module] = found.get(module, []) + names
        return found

    def restore(self) -> None:
        """Put every attribute and buffer back as it was."""
        for module, attributes in self._attributes.items():
            for name in _attributes(module).keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)
        for module, buffers in self._buffers.items():
            for name, (buffer, version, value) in buffers.items():
                if buffer._version != version:
                    buffer.detach().copy_(value)
                if _replaced(module, name, buffer):
                    module._buffers[name] = buffer


def _replaced(module: nn.Module, name: str, buffer: Tensor) -> bool:
    """Whether another tensor stands in its place. A scripted module gives its buffers in new clothes each time, and never exchanges one."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return module._buffers.get(name) is not buffer


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name not in _STRUCTURE}


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in _SCALARS and a == b)
