"""A DataLoader over tensors that takes a batch by one indexing, goes on inside an epoch, and is still a plain DataLoader to Lightning and
DDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

from lightning_fwd.errors import LightningFwdError


class BatchedTensors(Dataset):
    """Samples and labels in memory.

    Args:
        x: (N, ...) samples.
        y: (N,) labels.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.resumed: dict[str, int] | None = None  # a loader's state; here, because Lightning makes loaders anew for several processes

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


class ResumableLoader(DataLoader):
    """A DataLoader over :class:`BatchedTensors` that goes on inside an epoch, from the state that a checkpoint keeps.

    The order within an epoch must be a function of the sampler's epoch, as :class:`EpochShuffle`'s and a DistributedSampler's is: then the
    epoch and how many batches were given say it all. What other epochs draw is as ever.
    """

    _given = 0  # batches of the present pass
    _epoch = 0  # of the present pass

    def state_dict(self) -> dict[str, int]:
        """Where the present pass is: after the batches that training has taken, not those that worker processes have ready."""
        return {"epoch": self._epoch, "batches": self._given, "batch_size": self.batch_size or 0, "samples": len(self.dataset)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there when the same epoch begins.

        Raises:
            LightningFwdError: inside an epoch, and of batches of another size or of other data; or it is no such state.
        """
        here = self.state_dict()
        if not isinstance(state, dict) or not all(isinstance(state.get(key), int) and state[key] >= 0 for key in here):
            raise LightningFwdError(
                "the checkpoint's place in the data cannot be read",
                f"it is damaged: not one number each for {', '.join(here)}",
                "take another checkpoint; for a new run from its weights, leave --ckpt_path out and load them into the model",
            )
        changed = [key for key in ("batch_size", "samples") if state.get(key) != here[key]]
        if changed and 0 < state["batches"] < -(-state["samples"] // max(1, state["batch_size"])):
            raise LightningFwdError(
                f"the checkpoint was written inside an epoch, of data with {', '.join(f'{key} {state.get(key)}' for key in changed)}",
                f"here: {', '.join(f'{key} {here[key]}' for key in changed)}; which samples it has seen is not known then",
                "resume with the same data and batch size, or from a checkpoint of the end of an epoch",
            )
        self.dataset.resumed = None if changed else dict(state)

    def __iter__(self) -> Iterator:
        # A generator: what Lightning says of the epoch between asking for the iterator and the first batch counts.
        self._epoch, self._given = getattr(self.sampler, "epoch", self._epoch + 1), 0
        resumed = self.dataset.resumed
        start = resumed["batches"] if resumed is not None and resumed["epoch"] == self._epoch else 0
        for number, batch in enumerate(super().__iter__()):
            if number >= start:
                self._given = number + 1
                yield batch


def tensor_loader(x: Tensor, y: Tensor, batch_size: int, *, shuffle_seed: int | None = None, num_workers: int = 0) -> ResumableLoader:
    """Loader of (x (B, ...), y (B,)); one that is shuffled by a seed goes on inside an epoch.

    Args:
        x, y: samples and labels.
        batch_size: B; the last batch may be smaller.
        shuffle_seed: shuffle by this seed; in order when None.
        num_workers: processes; 0 is fastest for tensors in memory.
    """
    data = BatchedTensors(x, y)
    sampler = None if shuffle_seed is None else EpochShuffle(data, shuffle_seed)
    own = torch.Generator()  # loaders draw a seed for their workers: not from the generator that dropout draws from
    return ResumableLoader(data, batch_size, sampler=sampler, collate_fn=collate, num_workers=num_workers, generator=own)
