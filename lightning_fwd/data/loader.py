"""A DataLoader over tensors that takes a batch by one indexing and is still a plain DataLoader to Lightning and DDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate


class BatchedTensors(Dataset):
    """Samples and labels in memory.

    Args:
        x: (N, ...) samples.
        y: (N,) labels.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The whole batch at once; DataLoader calls this in place of `__getitem__` for each sample."""
        at = torch.as_tensor(indices)
        return self.x[at], self.y[at]


def collate(batch: tuple[Tensor, Tensor] | list) -> tuple[Tensor, Tensor]:
    """Pass a ready batch through; join a list of samples."""
    return batch if isinstance(batch, tuple) else tuple(default_collate(batch))


class EpochShuffle(RandomSampler):
    """An order that depends on the seed and the epoch only: a resumed run sees the batches it would have seen.

    Lightning calls `set_epoch`; without it each pass is the next epoch. A RandomSampler by type, so that under DDP
    Lightning puts a shuffling distributed sampler in its place.
    """

    def __init__(self, data_source: Dataset, seed: int) -> None:
        super().__init__(data_source)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        yield from torch.randperm(len(self.data_source), generator=generator).tolist()


def tensor_loader(x: Tensor, y: Tensor, batch_size: int, *, shuffle_seed: int | None = None, num_workers: int = 0) -> DataLoader:
    """Loader of (x (B, ...), y (B,)).

    Args:
        x, y: samples and labels.
        batch_size: B; the last batch may be smaller.
        shuffle_seed: shuffle by this seed; in order when None.
        num_workers: processes; 0 is fastest for tensors in memory.
    """
    data = BatchedTensors(x, y)
    sampler = None if shuffle_seed is None else EpochShuffle(data, shuffle_seed)
    return DataLoader(data, batch_size, sampler=sampler, collate_fn=collate, num_workers=num_workers)
