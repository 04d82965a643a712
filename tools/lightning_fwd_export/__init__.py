"""Ship a training step: ExecuTorch program, plain C, emulated board."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .quiet import quiet, quiet_imports

if TYPE_CHECKING:
    from .boards import BOARDS, run_on_board
    from .errors import ExportError
    from .export_step import export
    from .generate_c import pte_to_c
    from .inference import export_inference
    from .library import LibraryReport, export_library
    from .report import ExportReport

_ROOM_OF = {
    "BOARDS": "boards",
    "run_on_board": "boards",
    "ExportError": "errors",
    "ExportReport": "report",
    "LibraryReport": "library",
    "export": "export_step",
    "export_inference": "inference",
    "export_library": "library",
    "pte_to_c": "generate_c",
}

__all__ = [
    "BOARDS",
    "ExportError",
    "ExportReport",
    "LibraryReport",
    "export",
    "export_inference",
    "export_library",
    "pte_to_c",
    "run_on_board",
]


quiet_imports()


def __getattr__(name: str) -> Any:
    """Imported when first used: the command line asks this package for its commands long before it needs ExecuTorch."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with quiet():  # ExecuTorch and what it imports speak while they load
        globals()[name] = value = getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
    return value
