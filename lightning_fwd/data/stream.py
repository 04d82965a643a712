"""A sensor in time: drift that grows, and goes again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_fwd.data.datamodule import DriftDataModule, Split
from lightning_fwd.data.drift import Drift, DriftChain

GROWS_AND_RETURNS = (0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0)


class DriftStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches in the order of time, each sample once, under a drift whose level changes ("gradual" drift: Wang et al., "Continual
    test-time domain adaptation", CVPR 2022, section 4.3).

    What counts on a stream is the accuracy on each batch before anything is learned from it::

        stream = DriftStream(DriftDataModule("cifar10", drift="noise", normalize="byte"), batch_size=1)
        for (x, y), level in zip(stream, stream.levels):
            ...

    It is an iterable data set of whole batches: ``DataLoader(stream, batch_size=None)`` hands it to a Trainer.

    Args:
        data: whose source is drifted, and whose `drift` says by which kinds; their severities there do not count.
        levels: of each stretch of time, 0 (none) or 1 to 5, see `Drift`.
        samples_per_level: length of a stretch.
        batch_size: B; the last batch of a stretch may be smaller.
        split: which samples pass, "test", "train" or "val".
        seed: of their order.

    Attributes:
        levels: of each batch.

    Raises:
        ValueError: no simulated drift, a target that is more than that drift (a real one, recorded, or with other shares of the classes),
            a level outside 0..5, more samples than there are.
    """

    def __init__(
        self,
        data: DriftDataModule,
        levels: Sequence[int] = GROWS_AND_RETURNS,
        samples_per_level: int = 160,
        batch_size: int = 16,
        split: Split = "test",
        seed: int = 0,
    ) -> None:
        if data.drift is None:
            raise ValueError(f"a stream needs a simulated drift, got {data.real_drift or 'none'!r}: give drift='noise' or another kind")
        if (more := data.beside_drift()) is not None:
            raise ValueError(
                f"a stream begins at level 0, the source, and drifts that: it cannot show {more}, which has no levels; "
                "give data with a simulated drift alone, such as drift='noise'"
            )
        if not levels or any(level not in range(6) for level in levels):
            raise ValueError(f"levels must be whole numbers from 0 to 5, at least one, got {levels!r}")
        if samples_per_level < 1 or batch_size < 1:
            raise ValueError(f"samples_per_level and batch_size must be at least 1, got {samples_per_level} and {batch_size}")
        stored, wanted = data.stored(split), len(levels) * samples_per_level
        if wanted > len(stored):
            raise ValueError(f"{len(levels)} levels of {samples_per_level} samples are {wanted}, the {split} split has {len(stored)}")
        self._data, self._split = data, split
        order = torch.from_numpy(stored)[torch.randperm(len(stored), generator=torch.Generator().manual_seed(seed))[:wanted]]
        self._batches = [batch.numpy() for stretch in order.split(samples_per_level) for batch in stretch.split(batch_size)]
        per_level = -(-samples_per_level // batch_size)
        self.levels = [level for level in levels for _ in range(per_level)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for stored, level in zip(self._batches, self.levels, strict=True):
            yield self._data.drifted(self._split, stored, at_level(self._data.drift, level))


def at_level(drift: Drift | DriftChain, level: int) -> Drift | DriftChain | None:
    """The same kinds of drift at a level from 1 to 5; None at 0."""
    if level == 0:
        return None
    drifts = drift.drifts if isinstance(drift, DriftChain) else (drift,)
    named = tuple(Drift(one.kind, seed=one.seed, level=level) for one in drifts)
    return named[0] if len(named) == 1 else DriftChain(named)
