"""A module's parameters by name at every step, without walking over all its modules to find them.

``named_parameters`` is a recursion of generators: on a small network two calls of it take as long as the step's own arithmetic. Here the
modules lie in one flat list, and a call only looks whether each still has the children and the parameters that it had: then the dict of the
call before is given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any

from torch import nn


class ModuleTable:
    """What ``named_parameters`` and ``modules`` of one module give, whatever was exchanged, added or removed since the last call."""

    def __init__(self) -> None:
        self._root: nn.Module | None = None
        self._beside: object = None  # the places of another table, which are not looked at again here
        self._looked_at: list = []
        self._holds = False
        self._found: dict[str, nn.Parameter] = {}
        self._places: list[tuple[nn.Module, Mapping, list[str], list[nn.Parameter | None]]] = []  # a module, its children, its parameters

    def __deepcopy__(self, _memo: dict) -> ModuleTable:
        return ModuleTable()  # the copy's modules are others

    def __reduce__(self) -> Any:
        return ModuleTable, ()

    def named_parameters(self, root: nn.Module, beside: ModuleTable | None = None) -> dict[str, nn.Parameter]:
        """As ``dict(root.named_parameters())``: of a parameter with two names the first alone. The same dict, while nothing changed.

        Args:
            beside: the table of a module inside, which has just been asked.
        """
        self._follow(root, beside)
        return self._found

    def held(self, root: nn.Module) -> ModuleTable:
        """Inside ``with`` nothing is exchanged, and nobody looks again."""
        self._follow(root)
        return self

    def __enter__(self) -> dict[str, nn.Parameter]:
        self._holds = True
        return self._found

    def __exit__(self, *_: object) -> None:
        self._holds = False

    def modules(self, root: nn.Module) -> list[nn.Module]:
        """As ``list(root.modules())``, but for those that stand there twice, which are given twice."""
        self._follow(root)
        return [module for module, *_ in self._places]

    def _follow(self, root: nn.Module, beside: ModuleTable | None = None) -> None:
        known = None if beside is None else beside._places  # another list, once that table has found a change
        if root is self._root and (self._holds or known is self._beside and self._is_as_it_was()):
            return
        self._root, self._places, self._found, seen = root, [], {}, set()
        for path, module in root.named_modules(remove_duplicate=False):
            keys, parameters = list(module._parameters.keys()), list(module._parameters.values())
            self._places.append((module, _kept(module._modules), keys, parameters))
            for key, parameter in zip(keys, parameters, strict=True):
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    self._found[f"{path}.{key}" if path else key] = parameter
        inside = {module for module, *_ in known or ()}
        self._beside, self._looked_at = known, [place for place in self._places if place[0] not in inside]

    def _is_as_it_was(self) -> bool:
        for module, children, keys, parameters in self._looked_at:
            if module._modules != children:
                return False
            own = module._parameters
            if (keys or own) and (list(own.keys()) != keys or not all(map(is_, own.values(), parameters))):
                return False
        return True


def _kept(entries: Any) -> Any:
    """The entries as they are now; a scripted module's, which cannot change, are no dict."""
    return dict(entries) if isinstance(entries, dict) else entries


def trained_at(root: nn.Module, paths: list[tuple[str, tuple[str, ...]]]) -> dict[str, nn.Parameter]:
    """By name, as they are now, those parameters that learn under these names (each beside itself split at its dots)."""
    found = {}
    for name, path in paths:
        module: Any = root
        try:
            for part in path[:-1]:
                module = module._modules[part]
            parameter = module._parameters[path[-1]]
        except KeyError:  # taken away
            continue
        if parameter is not None and parameter.requires_grad:
            found[name] = parameter
    return found
