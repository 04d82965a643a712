"""Compare learning rules under drift: accuracy before, after and adapted, and what a step costs."""

from .report import plot_pareto, print_table, summarise, write_markdown
from .run import Result, compare
from .scenario import Row, Scenario, Training, load_scenario

__all__ = [
    "Result", "Row", "Scenario", "Training", "compare", "load_scenario", "plot_pareto", "print_table", "summarise", "write_markdown",
]  # fmt: skip
