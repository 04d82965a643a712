"""Weight mirroring: turn the feedback matrix towards the network's own weights, by forward passes alone.

Akrout et al., "Deep learning without weight transport", NeurIPS 2019 (arXiv 1904.05391), mirror each layer; Srinivasan et al., "Forward learning
with top-down feedback", ICLR 2024 (arXiv 2302.05440), bring it to PEPITA, whose F stands for the product of all layers. Here the product
is mirrored in one go: noise into the input, correlated with what it does to the logits, gives the mean Jacobian
``E[xi (f(x + s xi) - f(x - s xi))^T] / 2s``, whatever lies between. With ``x + F e`` and updates that move h towards h_err, F has to point
along ``-J^T``, so that the modulated pass shows the network an input on which it would err less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph.counter_random import uniform
from ...graph.phase import phase
from ...graph.rewritten import RewrittenModel


@torch.no_grad()
def mirrored(model: RewrittenModel, x: Tensor, seed: int, strength: float) -> Tensor:
    """One estimate of ``-J^T`` ``(n_in, C)`` from noise of size ``strength`` around ``x`` ``(B, ...)``; two forward passes."""
    with phase("projection"):
        noise = uniform(seed, x.shape, x.device).to(x.dtype) * 3.0**0.5  # variance 1
    with phase("forward"):
        difference = model.run(x - strength * noise) - model.run(x + strength * noise)
    with phase("projection"):
        return noise.flatten(1).t() @ difference


@torch.no_grad()
def turned(matrix: Tensor, towards: Tensor, share: float) -> Tensor:
    """``matrix`` turned towards another direction, its norm kept: ``share`` 1 replaces it, 0 leaves it; so does a direction of length 0.

    That is the one of a head that starts at zero: no noise reaches the logits.
    """
    norm, length = matrix.norm(), towards.norm()
    if not (norm > 0 and length > 0):
        return matrix
    mixed = (1 - share) * matrix / norm + share * towards / length
    return mixed * (norm / mixed.norm())
