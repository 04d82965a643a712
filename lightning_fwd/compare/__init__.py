"""Compare learning rules under drift: accuracy before, after and adapted, and what a step costs."""

from .folder import Result
from .grid import compare_grid
from .grid_report import print_grid, write_grid_html, write_grid_markdown
from .html_report import write_html
from .quick import quick
from .report import plot_pareto, print_table, summarise, write_markdown
from .row import Row
from .run import Finished, compare
from .scenario import Scenario, load_scenario

__all__ = [
    "Finished", "Result", "Row", "Scenario", "compare", "compare_grid", "load_scenario", "plot_pareto", "print_grid", "print_table",
    "quick", "summarise", "write_grid_html", "write_grid_markdown", "write_html", "write_markdown",
]  # fmt: skip
