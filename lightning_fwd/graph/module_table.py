"""A module's parameters by name at every step, without walking over all its modules to find them.

``named_parameters`` is a recursion of generators: on a small network two calls of it take as long as the step's own arithmetic. Here the
modules lie in one flat list, and a call only looks whether each still has the children and the names that it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class ModuleTable:
    """What ``named_parameters`` and ``modules`` of one module give, whatever was exchanged, added or removed since the last call."""

    def __init__(self) -> None:
        self._root: nn.Module | None = None
        self._held: dict[str, nn.Parameter] | None = None
        self._places: list[tuple[nn.Module, Mapping, Any, list[tuple[str, str]]]] = []  # a module, its children, its keys, their names

    def __deepcopy__(self, _memo: dict) -> ModuleTable:
        return ModuleTable()  # the copy's modules are others

    def __reduce__(self) -> Any:
        return ModuleTable, ()

    def named_parameters(self, root: nn.Module) -> dict[str, nn.Parameter]:
        """As ``dict(root.named_parameters())``: of a parameter with two names the first alone."""
        if self._held is not None:
            return self._held
        self._follow(root)
        found, seen = {}, set()
        for module, _, _, names in self._places:
            for key, name in names:
                parameter = module._parameters[key]
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    found[name] = parameter
        return found

    @contextmanager
    def held(self, root: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
        """Inside, where nothing is exchanged, the same dict is given to whoever asks."""
        self._held = self.named_parameters(root)
        try:
            yield self._held
        finally:
            self._held = None

    def modules(self, root: nn.Module) -> list[nn.Module]:
        """As ``list(root.modules())``, but for those that stand there twice, which are given twice."""
        self._follow(root)
        return [module for module, *_ in self._places]

    def _follow(self, root: nn.Module) -> None:
        if root is self._root:
            for module, children, keys, _ in self._places:
                if module._modules != children or module._parameters.keys() != keys:
                    break
            else:
                return
        self._root = root
        self._places = [
            (
                module,
                _kept(module._modules),
                _kept(module._parameters).keys(),
                [(k, f"{path}.{k}" if path else k) for k in module._parameters.keys()],
            )
            for path, module in root.named_modules(remove_duplicate=False)
        ]


def _kept(entries: Any) -> Any:
    """The entries as they are now; a scripted module's, which cannot change, are no dict."""
    return dict(entries) if isinstance(entries, dict) else entries


def parameter_at(root: nn.Module, path: tuple[str, ...]) -> nn.Parameter | None:
    """The parameter under a name split at its dots, as it is now; None where there is none."""
    module: Any = root
    try:
        for part in path[:-1]:
            module = module._modules[part]
        return module._parameters[path[-1]]
    except KeyError:
        return None
