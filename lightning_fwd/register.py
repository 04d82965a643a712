"""Make ``Trainer(strategy="pepita")`` work after ``import lightning_fwd``, without importing Lightning for those who do not use it.

Lightning finds strategies in a registry that it fills on import, and has no entry point for more. So the rules register themselves right
away where Lightning is loaded, else as soon as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_LIGHTNING = "lightning"


def register_with_lightning() -> None:
    """Register the strategies now, or when ``lightning`` is imported."""
    if _LIGHTNING in sys.modules:
        import_module(f"{__package__}.strategies")
    elif not any(isinstance(finder, _AfterLightning) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterLightning())


class _AfterLightning(MetaPathFinder):
    """Finds ``lightning`` as the other finders do, and lets the strategies register when it is loaded."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _LIGHTNING or self._asking:
            return None
        self._asking = True  # the other finders; a mere look whether Lightning is there must not use this one up
        try:
            spec = find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    """A loader that runs another and then imports the strategies."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self._loader  # nothing of this stays behind
        self._loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterLightning)]
        import_module(f"{__package__}.strategies")
