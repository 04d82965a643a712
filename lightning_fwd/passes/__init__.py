"""Graph transforms, one per file, each named by its verb. They edit ``model.graph`` and add state under ``model.inserted``."""

from .count_dropout import count_dropout, exchange_dropout, put_back
from .fold_batch_norm import fold_batch_norm
from .insert_feedback_projection import insert_feedback_projection
from .insert_goodness_heads import insert_block_walls, insert_goodness_heads
from .insert_gradient_masks import insert_gradient_masks
from .insert_label_embedding import insert_label_embedding, insert_normalisation
from .insert_weight_masks import insert_weight_masks
from .insert_weight_perturbations import insert_weight_perturbations
from .map_input import map_input
from .share_dropout_masks import share_dropout_masks
from .slice_weight_gradients import slice_weight_gradients
from .widen_head import widen_head

__all__ = [
    "count_dropout",
    "exchange_dropout",
    "fold_batch_norm",
    "insert_block_walls",
    "insert_feedback_projection",
    "insert_goodness_heads",
    "insert_gradient_masks",
    "insert_label_embedding",
    "insert_normalisation",
    "insert_weight_masks",
    "insert_weight_perturbations",
    "map_input",
    "put_back",
    "share_dropout_masks",
    "slice_weight_gradients",
    "widen_head",
]
