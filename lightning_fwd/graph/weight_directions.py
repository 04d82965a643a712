"""Random directions of weights, of a displacement and of the slope along it: functions of a seed, nothing is stored.

Each function is one operator of the namespace ``lfwd`` in a step that is lowered to integers (:mod:`.whole`), and its parts elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from .counter_random import random_bits
from .whole import is_whole


def direction(seed: Tensor, place: int, like: Tensor) -> Tensor:
    """Independent +1 and -1 in the shape of ``like``, a function of the seed (0-d int64) and the parameter's place (below 1024)."""
    return 1.0 - 2.0 * (random_bits(seed + place, like.shape, like.device) & 1).to(like.dtype)


def seed_of(counter: Tensor, times: int, plus: int) -> Tensor:
    """``counter * times + plus``, 0-d int64."""
    return torch.ops.lfwd.seed_of(counter, times, plus) if is_whole() else counter * times + plus


def moved(parameter: Tensor, seed: Tensor, place: int, scale: float) -> Tensor:
    """``parameter + scale * direction``."""
    if is_whole():
        return torch.ops.lfwd.moved(parameter, seed, place, scale)
    return torch.add(parameter, direction(seed, place, parameter), alpha=scale)


def slope(error: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """``<error, after - before>`` of errors and logits ``(B, C)``; 0-d."""
    return torch.ops.lfwd.slope(error, after, before) if is_whole() else (error * (after - before)).sum()


def along(steepness: Tensor, seed: Tensor, place: int, like: Tensor, scale: float) -> Tensor:
    """``steepness`` (0-d) times the direction in which ``like`` was displaced by ``scale``."""
    if is_whole():
        return torch.ops.lfwd.along(steepness, seed, place, like, scale)
    return steepness * direction(seed, place, like)


@custom_op("lfwd::seed_of", mutates_args=())
def _seed_of(counter: Tensor, times: int, plus: int) -> Tensor:
    return counter * times + plus


@custom_op("lfwd::moved", mutates_args=())
def _moved(parameter: Tensor, seed: Tensor, place: int, scale: float) -> Tensor:
    return torch.add(parameter, direction(seed, place, parameter), alpha=scale)


@custom_op("lfwd::slope", mutates_args=())
def _slope(error: Tensor, after: Tensor, before: Tensor) -> Tensor:
    return (error * (after - before)).sum()


@custom_op("lfwd::along", mutates_args=())
def _along(steepness: Tensor, seed: Tensor, place: int, like: Tensor, scale: float) -> Tensor:
    return steepness * direction(seed, place, like)


@_seed_of.register_fake
def _(counter: Tensor, times: int, plus: int) -> Tensor:
    return torch.empty_like(counter)


@_moved.register_fake
def _(parameter: Tensor, seed: Tensor, place: int, scale: float) -> Tensor:
    return torch.empty_like(parameter)


@_slope.register_fake
def _(error: Tensor, after: Tensor, before: Tensor) -> Tensor:
    return error.new_empty(())


@_along.register_fake
def _(steepness: Tensor, seed: Tensor, place: int, like: Tensor, scale: float) -> Tensor:
    return torch.empty_like(like)
