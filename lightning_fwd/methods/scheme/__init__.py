"""What of a model learns, for every rule that trains a part of it: layers, fractions of their input channels, biases."""

from .ranking import RANKINGS, Ranking, rank_channels
from .scheme import Amount, Biases, Scheme, Train, is_bias, read_scheme, resolve, top_channels, train_only, under, write_scheme

__all__ = [
    "RANKINGS",
    "Amount",
    "Biases",
    "Ranking",
    "Scheme",
    "Train",
    "is_bias",
    "rank_channels",
    "read_scheme",
    "resolve",
    "top_channels",
    "train_only",
    "under",
    "write_scheme",
]
