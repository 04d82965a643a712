"""Ship a training step: ExecuTorch program, plain C, emulated board."""

from .errors import ExportError
from .generate_c import pte_to_c

__all__ = ["ExportError", "pte_to_c"]
