"""Which samples: few labelled ones without label shift, or with one, and a validation part that shares nothing with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


def stratified_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw `count` samples with the class shares of `labels`, so that few-shot training brings no label shift.

    Quotas are the largest remainders of the exact shares; where `count` reaches the number of classes, each class gets
    at least one sample.

    Args:
        labels: (N,) integers.
        count: how many to draw, 0..N.
        seed: of the draw.

    Returns:
        (count,) positions in `labels`, in random order.

    Raises:
        ValueError: count outside 0..N.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"cannot draw {count} of {len(labels)} samples")
    sizes = np.unique(labels, return_counts=True)[1]
    return _drawn(labels, _quotas(sizes, count), seed)


def subset_with_shares(labels: np.ndarray, count: int | None, shares: Sequence[float], seed: int) -> np.ndarray:
    """Draw samples whose class shares are given: label shift.

    Args:
        labels: (N,) integers 0..C-1.
        count: how many to draw; None for as many as the shares allow.
        shares: (C,), not negative; only their ratios count. Whole quotas by largest remainders.
        seed: of the draw.

    Returns:
        (count,) positions in `labels`, in random order.

    Raises:
        ValueError: shares that are no such numbers, or more of a class asked for than there are.
    """
    wanted = np.asarray(shares, np.float64)
    if not np.isfinite(wanted).all() or (wanted < 0).any() or not wanted.sum() > 0 or labels.max() >= len(wanted):
        raise ValueError(f"class_shares must be one number per class, none negative and not all 0, got {list(shares)!r}")
    wanted, sizes = wanted / wanted.sum(), np.bincount(labels, minlength=len(wanted))
    if count is None:
        count = int(np.floor((sizes[wanted > 0] / wanted[wanted > 0]).min() + 1e-9))
    exact = wanted * count
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    if (short := np.flatnonzero(quota > sizes)).size:
        c = short[0]
        raise ValueError(f"class_shares {list(shares)!r} ask for {quota[c]} samples of class {c} in {count}, there are {sizes[c]}")
    return _drawn(labels, quota[np.unique(labels)], seed)


def _drawn(labels: np.ndarray, quota: np.ndarray, seed: int) -> np.ndarray:
    """So many of each class that occurs, in random order."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    _, class_of, sizes = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    # Rank of each sample within its class: position in the class-sorted order minus where the class starts there.
    by_class = np.argsort(class_of, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return shuffled[rank < quota[class_of]]


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """Whole shares of `count` in proportion to `sizes`, which sum to `count`."""
    exact = sizes * (count / max(1, sizes.sum()))
    quota = np.floor(exact).astype(np.int64)
    if count >= len(sizes):
        quota = np.maximum(quota, 1)
    # The floor of one may overdraw: then the classes with most beyond their share give back, one sample at a time.
    while quota.sum() > count:
        quota[np.argmax(np.where(quota > 1, quota - exact, -np.inf))] -= 1
    left = count - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:left]] += 1
    return quota


def hold_out(labels: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into those kept and those held out for validation, stratified.

    Args:
        labels: (N,) integers.
        fraction: share held out, 0 up to but not including 1.
        seed: of the split.
        groups: (N,) what must not be torn apart (recordings cut into overlapping windows). The share is then met as
            closely as whole groups allow.

    Returns:
        (kept, held): positions in `labels`, sorted, disjoint, together all of them.

    Raises:
        ValueError: fraction outside 0..1.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must lie in 0..1 (1 excluded), got {fraction}")
    held = np.empty(0, np.int64)
    if fraction and groups is None:
        held = stratified_subset(labels, max(1, round(fraction * len(labels))), seed)
    elif fraction:
        folds = StratifiedGroupKFold(max(2, round(1 / fraction)), shuffle=True, random_state=seed)
        held = next(folds.split(labels, labels, groups))[1]
    kept = np.ones(len(labels), bool)
    kept[held] = False
    return np.flatnonzero(kept), np.sort(held)
