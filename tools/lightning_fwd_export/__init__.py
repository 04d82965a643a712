"""Ship a training step: ExecuTorch program, plain C, emulated board."""

from .quiet import quiet

with quiet():  # ExecuTorch and what it imports speak while they load
    from .boards import BOARDS, run_on_board
    from .errors import ExportError
    from .export import ExportReport, export
    from .generate_c import pte_to_c

__all__ = ["BOARDS", "ExportError", "ExportReport", "export", "pte_to_c", "run_on_board"]
