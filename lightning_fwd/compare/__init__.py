"""Compare learning rules under drift: accuracy before, after and adapted, and what a step costs."""

from .folder import Result
from .html_report import write_html
from .quick import quick
from .report import plot_pareto, print_table, summarise, write_markdown
from .run import compare
from .scenario import Row, Scenario, load_scenario

__all__ = [
    "Result", "Row", "Scenario", "compare", "load_scenario", "plot_pareto", "print_table", "quick", "summarise", "write_html",
    "write_markdown",
]  # fmt: skip
