"""Lets ExecuTorch's Cortex-M flow load where Arm's TOSA serializer is not installed.

The quantiser for Cortex-M lives beside the lowering for Arm's NPUs, and that package imports ``tosa_serializer`` while it loads: for enum
tables and type annotations. Writing TOSA is the one thing that needs it, which the Cortex-M flow never does, and the wheel of ExecuTorch
names it under ``[ethos-u]`` only. Here a stand-in answers during the import and refuses to be used afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

_NAME = "tosa_serializer"


class _Names(type):
    """Any attribute is its own name: enough for a table of enum members."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"

    def __call__(cls, *_: object, **__: object) -> None:
        raise ImportError(f"{cls.__name__} writes TOSA, which needs Arm's serializer: pip install lightning_fwd[npu]")


class _Placeholder(types.ModuleType):
    def __getattr__(self, name: str) -> _Names:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, _Names(name, (), {}))
        return self.__dict__[name]


@contextlib.contextmanager
def tosa_optional() -> Iterator[None]:
    """Imports inside succeed without ``tosa_serializer``; the real one is used where it is installed."""
    missing = _NAME not in sys.modules and importlib.util.find_spec(_NAME) is None
    if missing:
        sys.modules[_NAME] = _Placeholder(_NAME)
    try:
        yield
    finally:
        if missing:
            del sys.modules[_NAME]  # who asks for it later hears that it is not installed
