"""Negative samples: wrong labels, labels that the model itself finds likely, and images mixed of two."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...graph.across_ranks import gathered, share
from ...graph.counter_random import random_bits_of_samples, uniform_of_samples


def hard_labels(target: Tensor, logits: Tensor, seed: Tensor) -> Tensor:
    """A wrong label for each sample, drawn by the probabilities ``softmax(logits) (B, C)``; never the true one.

    Drawn as the largest of the log-probabilities with Gumbel noise, so it needs no normalisation and no loop; in float32, as in bfloat16
    one noise in 500 would be infinite.
    """
    batch, classes = logits.shape
    noise = (random_bits_of_samples(seed, (batch, classes), logits.device).float() + 0.5) * 2.0**-32
    score = logits.detach().float().log_softmax(1) - torch.log(-torch.log(noise.clamp_max(1 - 2.0**-24)))
    score = score.clamp_min(torch.finfo(score.dtype).min)  # above the true class's, even where a probability is 0
    true = F.one_hot(target, classes).bool()
    return score.masked_fill(true, float("-inf")).argmax(1)


def blob_mask(x: Tensor, seed: Tensor, rounds: int = 6) -> Tensor:
    """Large random blobs of 0 and 1, one mask per sample, shared by its channels ``(B, 1, ...)``; over the values of a flat input.

    Random bits, blurred by [1/4, 1/2, 1/4] in every direction and cut at the middle (Hinton 2022, section 3.2). The middle is each mask's
    own mean, and a direction of few positions is blurred fewer times: no mask is all 0 or all 1, which would make the negative a positive.
    """
    shape = (x.shape[0], 1, *x.shape[2:]) if x.ndim > 2 else tuple(x.shape)
    mask, dims = uniform_of_samples(seed, shape, x.device), list(range(2 if x.ndim > 2 else 1, len(shape)))
    for turn in range(rounds):
        for dim in dims:
            if turn < shape[dim] // 4:
                mask = mask / 2 + (mask.roll(1, dim) + mask.roll(-1, dim)) / 4
    return (mask - mask.mean(dims, keepdim=True) > 0).to(x.dtype)


def hybrids(x: Tensor, seed: Tensor) -> Tensor:
    """Each sample mixed with the next one of the batch by a blob mask: right locally, wrong as a whole ``(B, ...)``."""
    mask = blob_mask(x, seed)
    other = share(gathered(x).roll(1, 0))
    return other + mask * (x - other)
