"""Emulated Cortex-M boards: build the generated C for them, run it, read what it costs."""

from .board import BOARDS, Board, board
from .run import PACKAGES, BoardReport, missing_tools, run_on_board

__all__ = ["BOARDS", "PACKAGES", "Board", "BoardReport", "board", "missing_tools", "run_on_board"]
