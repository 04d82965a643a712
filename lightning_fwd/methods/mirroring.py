"""Weight mirroring: turn a feedback matrix towards the network's own weights, by forward passes alone.

Akrout et al., "Deep learning without weight transport", NeurIPS 2019 (arXiv 1904.05391), mirror each layer; Srinivasan et al., "Forward
learning with top-down feedback", ICLR 2024 (arXiv 2302.05440), bring it to PEPITA, whose F stands for the product of all layers. Here the
product
is mirrored in one go: noise into an activation, correlated with what it does to the logits, gives the mean Jacobian
``E[xi (f(h + s xi) - f(h - s xi))^T] / 2s``, whatever lies between.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..graph.across_ranks import total
from ..graph.counter_random import uniform_of_samples
from ..graph.phase import phase


@torch.no_grad()
def mirrored(run: Callable[[Tensor], Tensor], h: Tensor, seed: int, strength: float | Tensor) -> Tensor:
    """One estimate of the direction of ``J^T`` ``(n, C)``, n the values of a sample of h, from noise around them; two forward passes.

    Args:
        run: what lies between, ``h (B, ...) -> logits (B, C)``.
        strength: standard deviation of the noise.
    """
    with phase("projection"):
        noise = uniform_of_samples(seed, h.shape, h.device).to(h.dtype) * 3.0**0.5  # variance 1
    with phase("forward"):
        difference = run(h + strength * noise) - run(h - strength * noise)
    with phase("projection"):
        return total(noise.flatten(1).t() @ difference)


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
