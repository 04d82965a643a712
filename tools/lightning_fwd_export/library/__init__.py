"""An adaptation as one C library: every stage's step over one set of weights, and the guarded loop that runs them."""

from .export import LibraryReport, export_library

__all__ = ["LibraryReport", "export_library"]
