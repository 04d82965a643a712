"""The user's own LightningDataModule as the data of a comparison: its batches in memory, source and target as two views of them."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.drift import as_drift
from ..data.inputs import STATISTICS_SAMPLES
from ..data.loader import ResumableLoader, tensor_loader
from ..data.subsets import hold_out, stratified_subset
from ..errors import LightningFwdError
from ..settings import seed_fault
from .own_loaders import Parts, class_path, data_module_of, read_loaders

Split = Literal["train", "val", "test"]
_CHUNK = 256  #: samples drifted at a time


class OwnData(L.LightningDataModule):
    """Source or target view of the user's data module, as :class:`lightning_fwd.data.DriftDataModule` is of a data set.

    The training, validation and test loaders are read once, so what they shuffle and augment is drawn once. Samples stay as the loaders
    give them: no scaling. Images ``(B, C, H, W)`` that all lie in 0..1 drift in full scale, everything else in standard deviations of the
    source's channels. The target is, by what is given, another data module; or loaders of the same one that are called
    ``target_train_dataloader`` and ``target_test_dataloader``; or the source; in each case with ``drift`` on top.

    Args:
        module: a LightningDataModule, or ``{"class_path": ..., "init_args": {...}}``. target_module: of the target.
        drift, drift_severity, drift_seed: as of DriftDataModule.
        view: "source" or "target". batch_size: of training. seed: of the few samples, the held-out part and shuffling.
        train_samples, test_samples: so many, class shares kept; all when None.
        val_fraction: of the training part, held out where the module has no validation loader.

    Raises:
        LightningFwdError: neither target, drift nor target loaders are there for the view "target"; on first use, batches that hold no
            input and labels, or that do not fit one another.
    """

    def __init__(
        self,
        module: L.LightningDataModule | dict[str, Any],
        target_module: L.LightningDataModule | dict[str, Any] | None = None,
        drift: Any = None,
        drift_severity: float | None = None,
        drift_seed: int = 0,
        view: Literal["source", "target"] = "source",
        batch_size: int = 64,
        train_samples: int | None = None,
        test_samples: int | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.drift, self.view, self.seed, self.batch_size = as_drift(drift, drift_severity, drift_seed), view, seed, batch_size
        if not 0 <= val_fraction < 1:
            raise LightningFwdError(f"data: val_fraction={val_fraction!r}", "", "give a share from 0, below 1")
        for name, number in (("seed", seed), ("drift_seed", drift_seed)):
            if fault := seed_fault(number):
                raise LightningFwdError(f"data: {name}={number!r}", "", fault)
        self._tensors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def changed(self, **changes: Any) -> OwnData:
        """The same with some arguments changed; nothing is read again."""
        return type(self)(**(self._arguments | changes))

    def _parts(self, view: str) -> Parts:
        own, other = self._arguments["module"], self._arguments["target_module"]
        if view == "source":
            return read_loaders(own, "")
        if other is not None:
            return read_loaders(other, "")
        if hasattr(data_module_of(own), "target_train_dataloader"):
            return read_loaders(own, "target_")
        if self.drift is None:
            raise LightningFwdError(
                "data: the target would be the source",
                "there is neither a drift, nor a target_module, nor target_train_dataloader and target_test_dataloader in the module",
                "give one of them, e.g. drift: noise=0.1",
            )
        return read_loaders(own, "")

    def prepare_data(self) -> None:
        """Read both views, and find out whether they fit one another.

        Raises:
            LightningFwdError: see the class.
            ValueError: a drift that has no meaning on these data.
        """
        (x, _), (t, _) = self._parts("source")["train"], self._parts("target" if self.view == "target" else "source")["train"]
        if x.shape[1:] != t.shape[1:]:
            raise LightningFwdError(
                f"data: samples of the source are {tuple(x.shape[1:])}, of the target {tuple(t.shape[1:])}", "one network reads both",
                "make them alike in the data modules",
            )  # fmt: skip
        shown, most = np.unique(self._parts("source")["train"][1]), self.num_classes
        if len(shown) < most:
            missing = sorted(set(range(most)) - set(shown.tolist()))
            raise LightningFwdError(
                f"data: the training labels go up to {most - 1} and never show {', '.join(map(str, missing[:5]))}",
                f"that would be {most} classes, counted from 0",
                "number the classes from 0 without gaps",
            )
        if (highest := max(int(y.max()) for _, y in self._parts(self.view).values())) >= most:
            raise LightningFwdError(f"data: the target has the label {highest}", f"the source has {most} classes", "give the same classes")
        for split in ("train", "test"):
            self._samples(split, np.arange(1), self.view)
            self._indices(split, self.view)

    def tensors(self, split: Split, view: str | None = None) -> tuple[Tensor, Tensor]:
        """Samples ``(N, ...)`` and labels ``(N,)``."""
        key = split, view or self.view
        if key not in self._tensors:
            index = self._indices(*key)
            self._tensors[key] = self._samples(split, index, key[1]), self._stored(split, key[1])[1][index]
        return self._tensors[key]

    def labels(self, split: Split) -> Tensor:
        """The labels ``(N,)`` alone."""
        return self._stored(split, self.view)[1][self._indices(split, self.view)]

    def _stored(self, split: str, view: str) -> tuple[Tensor, Tensor]:
        parts = self._parts(view)
        return parts[split if split in parts else "train" if split == "val" else "test"]

    def _indices(self, split: str, view: str) -> np.ndarray:
        parts, labels = self._parts(view), self._stored(split, view)[1].numpy()
        kept = np.arange(len(labels))
        if split != "test" and "val" not in parts:
            kept, held = hold_out(labels, self._arguments["val_fraction"], self.seed)
            if split == "val":
                return held
        count = self._arguments[f"{split}_samples"] if split != "val" else None
        if count is None:
            return kept
        if not 1 <= count <= len(kept):
            raise LightningFwdError(f"data: {split}_samples={count}", f"the loaders give {len(kept)}", "take at most so many")
        return kept[stratified_subset(labels[kept], count, self.seed if split == "train" else 0)]

    def _samples(self, split: str, index: np.ndarray, view: str) -> Tensor:
        x = self._stored(split, view)[0]
        if view != "target" or self.drift is None:
            return x[index]
        units = self._units()
        offset = len(self._stored("train", view)[1]) if split == "test" else 0  # test samples draw other noise than training samples
        of = (*x.shape[1:], 1) if x.ndim == 2 else x.shape[1:]  # a row of numbers drifts as channels at one moment
        drifted = []
        for some in (index[k : k + _CHUNK] for k in range(0, len(index), _CHUNK)):
            chunk, at = x[some].reshape(-1, *of), torch.from_numpy(some + offset)
            if units is None:
                drifted.append(self.drift(chunk, at, signal=False, others=None))
            else:
                mean, deviation = units
                drifted.append(self.drift((chunk - mean) / deviation, at, signal=True, others=None) * deviation + mean)
        return torch.cat(drifted).reshape(-1, *x.shape[1:])

    def _units(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the source's channels, in which its signals drift; None: images in 0..1, which drift as they are."""
        x, labels = self._stored("train", "source")
        if x.ndim == 4 and float(x.min()) >= 0 and float(x.max()) <= 1:
            return None
        few = x[stratified_subset(labels.numpy(), min(STATISTICS_SAMPLES, len(x)), seed=0)]
        deviation, mean = torch.std_mean(few.transpose(0, 1).flatten(1).double(), dim=1)
        deviation[deviation == 0] = 1
        shape = (-1, *[1] * max(1, x.ndim - 2))
        return mean.float().view(shape), deviation.float().view(shape)

    @property
    def num_classes(self) -> int:
        return 1 + max(int(y.max()) for _, y in self._parts("source").values())

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self._parts("source")["train"][0].shape[1:])

    @property
    def title(self) -> str:
        shown = (
            self._arguments["target_module"] if self.view == "target" and self._arguments["target_module"] else self._arguments["module"]
        )
        name = class_path(shown).rpartition(".")[2]
        return f"{name}, {self.drift}" if self.view == "target" and self.drift else name

    def train_dataloader(self) -> ResumableLoader:
        return tensor_loader(*self.tensors("train"), self.batch_size, shuffle_seed=self.seed)

    def val_dataloader(self) -> DataLoader:
        return tensor_loader(*self.tensors("val"), self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return tensor_loader(*self.tensors("test"), self.batch_size)


def as_plain(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's data with objects as the class and hyperparameters that made them, for files."""

    def plain(value: Any) -> Any:
        if not isinstance(value, L.LightningDataModule):
            return value
        return {"class_path": class_path(value), "init_args": {k: repr(v) if not _is_plain(v) else v for k, v in value.hparams.items()}}

    return {key: plain(value) for key, value in data.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
