"""What a YAML recipe is: read, checked, and started. Comparisons and searches build on it, and know nothing of each other."""

from .cluster import BACKENDS, on_backend
from .own_data import OwnData, as_plain
from .processes import caller_kept, run_each, worker_count
from .read import differences, from_mapping, read_recipe, require_same
from .recipe import Recipe
from .start import (
    data_module,
    pretrain,
    pretrained,
    require_data,
    require_fit,
    require_keywords,
    require_same_weights,
    require_trained,
    starting_network,
    store_weights,
)
from .training import Training, fit, quiet, require_accelerator

__all__ = [
    "BACKENDS",
    "OwnData",
    "Recipe",
    "Training",
    "as_plain",
    "caller_kept",
    "data_module",
    "differences",
    "fit",
    "from_mapping",
    "on_backend",
    "pretrain",
    "pretrained",
    "quiet",
    "read_recipe",
    "require_accelerator",
    "require_data",
    "require_fit",
    "require_keywords",
    "require_same",
    "require_same_weights",
    "require_trained",
    "run_each",
    "starting_network",
    "store_weights",
    "worker_count",
]
