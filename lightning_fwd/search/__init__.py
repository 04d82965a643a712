"""Find the sparse update that wins back most under a budget of memory and operations."""

from .budget import Budget, parse_budget
from .choose import Prices, best, evolve, random_genome
from .contribution import adapt
from .run import Found, search
from .space import Genome, Space
from .spec import SchemeSearch, load_search

__all__ = [
    "Budget",
    "Found",
    "Genome",
    "Prices",
    "SchemeSearch",
    "Space",
    "adapt",
    "best",
    "evolve",
    "load_search",
    "parse_budget",
    "random_genome",
    "search",
]
