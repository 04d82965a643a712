"""Does a rule learn features? Its updates beside backpropagation's, how far its weights move, what it gains over frozen ones."""

from .callback import Diagnosis

__all__ = ["Diagnosis"]
