"""Source and target as two views of one data set, for Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_fwd.data.arguments import require, require_kinds
from lightning_fwd.data.dataset import Dataset
from lightning_fwd.data.drift import Drift, DriftChain, as_drift, drift_as_plain
from lightning_fwd.data.har import HAR_DRIFTS, HAR_SOURCES, real_and_simulated
from lightning_fwd.data.inputs import Arithmetic, InputForm, Inputs, Normalize
from lightning_fwd.data.loader import ResumableLoader, tensor_loader
from lightning_fwd.data.lookup import load_dataset, load_domains
from lightning_fwd.data.subsets import hold_out, stratified_subset, subset_with_shares
from lightning_fwd.settings import seed_fault

View = Literal["source", "target"]
Split = Literal["train", "val", "test"]


class DriftDataModule(L.LightningDataModule):
    """A data set before drift ("source") or after it ("target").

    Batches are (x, y): x float32 (B, C, H, W), (B, C, T) for signals, or (B, F) when flattened; y int64 (B,). All lies
    in memory as float32 (50,000 images of 3x32x32: 614 MB); drift is applied once, when a split is first used.

    Samples (C, H, W) that are neither uint8 nor all in 0..1, such as log-mel spectrograms, are signals like (C, T):
    standardised by the source, then drifted in standard deviations, by the kinds of drift that are not of pictures only.
    Recordings ("speech_commands") are drifted as sound; batches hold their MFCC (B, 1, 49, 10), not standardised, as DS-CNN reads them.

    Example::

        source = DriftDataModule("fashion_mnist", drift="noise", drift_severity=0.08)
        trainer.fit(model, source)
        target = source.changed(view="target", train_samples=200)
        trainer.test(model, target)

    Args:
        dataset: a name or a path, see `load_dataset`.
        drift: what `as_drift` reads: "noise", "contrast=0.3+noise=0.04", {"kind": "blur", "level": 2}, a `Drift`, or a
            list of these. For "har" also a real drift: "device" (the default), "subject" or "both"; more may follow ("subject+noise=0.5"):
            without one, the target has the very recordings, and people, of the source.
        drift_severity: severity of a single drift named without one.
        drift_seed: seed of the drift, for drifts that state none. Not the seed of the run: the drifted world stays the
            same over repetitions.
        view: "source" or "target".
        target_dataset: name or path of a recorded target data set with the same shape and classes. With a `drift` too,
            that is applied on top.
        batch_size: B.
        train_samples: train on so many labelled samples, class shares kept, drawn by `seed`; all when None.
        test_samples: test on so many, the same ones in every run; all when None.
        class_shares: label shift: how much of each class the target has, C numbers of which only the ratios count. Its training and test
            samples are then as many as `train_samples` and `test_samples` say, or as there are.
        val_fraction: share of the training part held out for validation, before `train_samples` are drawn.
        seed: of the validation split, the few samples and the shuffling.
        normalize: images only: None leaves pixels in 0..1, "standard" subtracts the source's channel means and divides
            by their standard deviations, "byte" gives 0..255. Signals are always standardised by the source.
        int16: recordings only: round them to 16 bits after drift, as a converter does and as the exported front end reads them.
        mfcc: recordings only: "float", or "integer": MFCC in integers of recordings of 16 bits, as cores without floats compute them; an
            exported library in integers asks for these.
        flatten: give x as (B, F).
        num_workers: loader processes; 0 is fastest for tensors in memory.
        root: folder with the data files, in place of LIGHTNING_FWD_DATA.

    Raises:
        ValueError: an argument out of its range, here; a target that does not fit its source, or a drift that does not fit the data, on
            first use.
        FileNotFoundError: the data set cannot be found, on first use.
    """

    def __init__(
        self,
        dataset: str = "digits",
        drift: Drift | str | dict | list | None = None,
        drift_severity: float | None = None,
        drift_seed: int = 0,
        view: View = "source",
        target_dataset: str | None = None,
        batch_size: int = 64,
        train_samples: int | None = None,
        test_samples: int | None = None,
        class_shares: Sequence[float] | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        normalize: Normalize | None = None,
        int16: bool = False,
        mfcc: Arithmetic = "float",
        flatten: bool = False,
        num_workers: int = 0,
        root: str | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        require_kinds(arguments)
        self.real_drift, simulated = self._divided(dataset, drift, drift_severity)
        self.drift = as_drift(simulated, drift_severity, drift_seed)
        if view == "target" and not (self.drift or self.real_drift or target_dataset or class_shares):
            raise ValueError("view='target' would be the source: give a drift (drift='noise', ...), a target_dataset or class_shares")
        require(view in ("source", "target"), "view", view, "'source' or 'target'")
        require(batch_size >= 1, "batch_size", batch_size, "at least 1")
        require(0 <= val_fraction < 1, "val_fraction", val_fraction, "in 0..1, 1 excluded")
        require(normalize in (None, "standard", "byte"), "normalize", normalize, "None, 'standard' or 'byte'")
        require(mfcc in ("float", "integer"), "mfcc", mfcc, "'float' or 'integer'")
        for name in ("seed", "drift_seed"):
            require(not seed_fault(arguments[name]), name, arguments[name], "a seed: from 0, below 2**32")
        for name in ("train_samples", "test_samples"):
            count = arguments[name]
            require(count is None or count >= 1, name, count, "at least 1, or None for all")
        self._arguments = arguments
        self.view, self.seed, self.batch_size, self.num_workers = view, seed, batch_size, num_workers
        self._tensors: dict[tuple[Split, View], tuple[Tensor, Tensor]] = {}
        self._inputs: Inputs | None = None
        self._resumed: dict[str, int] | None = None  # from a checkpoint: where in its epoch the training was
        # Plain values only, so that checkpoints load with weights_only=True. Not logged: the logger would refuse a
        # `seed` or `batch_size` that the LightningModule states too.
        plain = drift_as_plain(self.drift)
        if self.real_drift is not None:
            plain = [self.real_drift, *plain] if plain else self.real_drift
        self.save_hyperparameters(arguments | {"drift": plain, "drift_severity": None}, logger=False)

    def changed(self, **arguments) -> DriftDataModule:
        """The same data module with some constructor arguments changed; the data set is not loaded again."""
        return type(self)(**(self._arguments | arguments))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._domain("source").classes

    @property
    def which_source(self) -> str | None:
        """Which of the data set's sources the drift is from, see `HAR_SOURCES`; None where there is one only."""
        return HAR_SOURCES[self.real_drift or HAR_DRIFTS[0]] if self._arguments["dataset"] == "har" else None

    @property
    def title(self) -> str:
        """What tables call the data of this view, for example "CIFAR-10 (JPEG), noise=0.08"."""
        name = self._domain(self.view).title
        if self.view == "source":
            return name
        return ", ".join([name, *([str(self.drift)] if self.drift else []), *(["label shift"] if self._arguments["class_shares"] else [])])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as batches hold it: (C, H, W), (C, T) or (F,)."""
        shape = self._domain("source").input_shape
        return (int(np.prod(shape)),) if self._arguments["flatten"] else shape

    @override
    def prepare_data(self) -> None:
        """Downloads on one rank, the others read the cache; and finds out on one sample whether drift, counts and normalisation fit the
        data.

        Raises:
            ValueError: a drift that has no meaning on these data or is too large for them, more samples asked for than there are.
            FileNotFoundError: the data set cannot be found.
        """
        self._domain("source"), self._domain("target")
        domain = self._domain(self.view)
        for split in ("train", "test"):
            self._samples(domain, split, self._indices(split, self.view)[:1], self._drift_of(self.view))

    def tensors(self, split: Split, view: View | None = None) -> tuple[Tensor, Tensor]:
        """All of a split at once: x float32 (N, ...) and y int64 (N,). Built on first use, then kept.

        Args:
            split: "train" (after `val_fraction` and `train_samples`), "val" or "test".
            view: "source" or "target"; this module's own when None.
        """
        key = (split, view or self.view)
        if key not in self._tensors:
            domain = self._domain(key[1])
            index = self._indices(split, key[1])
            y = domain.y_test if split == "test" else domain.y_train
            self._tensors[key] = self._samples(domain, split, index, self._drift_of(key[1])), torch.from_numpy(y[index])
        return self._tensors[key]

    def labels(self, split: Split) -> Tensor:
        """The labels (N,) alone, without making the inputs."""
        domain = self._domain(self.view)
        return torch.from_numpy((domain.y_test if split == "test" else domain.y_train)[self._indices(split, self.view)])

    def recorded(self, split: Split) -> Tensor:
        """Recordings of a split as a sensor gives them, (N, T) int16, drift included: what `tensors` has the MFCC of.

        Raises:
            ValueError: the data are no recordings.
        """
        part: Literal["train", "test"] = "test" if split == "test" else "train"
        return self._the_inputs().recorded(self._domain(self.view), part, self._indices(split, self.view), self._drift_of(self.view))

    def stored(self, split: Split) -> np.ndarray:
        """Which of the stored samples of the source a split has, (N,)."""
        return self._indices(split, "source")

    def beside_drift(self) -> str | None:
        """What the target differs by from the source beside the simulated drift, in words; None: by nothing."""
        target, shares = self._arguments["target_dataset"], self._arguments["class_shares"]
        if self.real_drift is not None:
            return f"the real drift {self.real_drift!r}"
        return f"target_dataset {target!r}" if target is not None else None if shares is None else f"class_shares {shares!r}"

    def drifted(self, split: Split, stored: np.ndarray, drift: Drift | DriftChain | None) -> tuple[Tensor, Tensor]:
        """Some of the source's samples under any drift: x float32 (B, ...), as batches hold it, and y int64 (B,).

        Args:
            stored: (B,) of what :meth:`stored` gives for the split.
        """
        source = self._domain("source")
        y = source.y_test if split == "test" else source.y_train
        return self._samples(source, split, stored, drift), torch.from_numpy(y[stored])

    def calibration_batch(self, count: int = 256) -> Tensor:
        """Source samples without labels, class shares kept, for int8 ranges and normalisation statistics.

        Drawn from the training part without validation; `train_samples` does not bound it.

        Args:
            count: B; all there are, if fewer.

        Returns:
            x float32 (B, ...), as batches hold it.
        """
        source = self._domain("source")
        kept, _ = hold_out(source.y_train, self._arguments["val_fraction"], self.seed, source.groups_train)
        chosen = kept[stratified_subset(source.y_train[kept], min(count, len(kept)), self.seed)]
        return self._samples(source, "train", chosen, None)

    def input_form(self) -> InputForm:
        """What happens between a sensor and the network, by the source's statistics: for the C that does it on the device.

        Raises:
            ValueError: the normalisation does not fit the data.
        """
        return self._the_inputs().form()

    @override
    def train_dataloader(self) -> DataLoader:
        loader = self._loader("train", shuffle_seed=self.seed)
        if self._resumed is not None:
            loader.load_state_dict(self._resumed)
        return loader

    @override
    def state_dict(self) -> dict[str, int]:
        """Where in its epoch the training is, for checkpoints written inside one."""
        loader = self.trainer.train_dataloader if self.trainer is not None else None
        return loader.state_dict() if isinstance(loader, ResumableLoader) else {}

    @override
    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Kept until training asks for its loader: Lightning may do that early (a schedule that asks how many steps there are), before it
        hands
        loaders their state."""
        self._resumed = state_dict or None

    @override
    def teardown(self, stage: str) -> None:
        self._resumed = None

    @override
    def val_dataloader(self) -> EVAL_DATALOADERS:
        return self._loader("val") if self._arguments["val_fraction"] else []

    @override
    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    @override
    def predict_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, split: Split, shuffle_seed: int | None = None) -> ResumableLoader:
        # Lightning's batch-size finder sets `batch_size`, so it is read here and not from the arguments.
        x, y = self.tensors(split)
        return tensor_loader(x, y, self.batch_size, shuffle_seed=shuffle_seed, num_workers=self.num_workers)

    def _divided(self, dataset: str, drift: object, severity: float | None) -> tuple[str | None, Any]:
        if dataset != "har":
            return None, drift
        if drift is None and severity is None:
            return HAR_DRIFTS[0], None
        real, simulated = real_and_simulated(drift)
        if real is not None and simulated is None and severity is not None:
            raise ValueError(f"drift {real!r} of 'har' is a real one and has no severity, got {severity}")
        return real, simulated

    def _domain(self, view: View) -> Dataset:
        root, name = self._arguments["root"], self._arguments["dataset"]
        source, target = load_domains(name, self.real_drift or HAR_DRIFTS[0], root=root)
        if self.real_drift is None:
            target = source
        recorded = self._arguments["target_dataset"]
        if view == "target" and recorded is not None:
            target = load_dataset(recorded, root=root)
            for what in ("input_shape", "modality", "classes"):
                here, there = getattr(source, what), getattr(target, what)
                if here != there:
                    raise ValueError(f"target_dataset {recorded!r} has {what} {there}, the source {name!r} has {here}")
        return target if view == "target" else source

    def _indices(self, split: Split, view: View) -> np.ndarray:
        arguments, domain = self._arguments, self._domain(view)
        shares = arguments["class_shares"] if view == "target" else None
        fits = shares is None or len(shares) == self.num_classes
        require(fits, "class_shares", shares, f"{self.num_classes} numbers, one for each of {', '.join(map(str, self.class_names))}")
        if split == "test":
            count, labels = arguments["test_samples"], domain.y_test
            if count is None and shares is None:
                return np.arange(len(labels))
            return np.sort(_few(labels, count, 0, "test_samples", shares))
        kept, held = hold_out(domain.y_train, arguments["val_fraction"], self.seed, domain.groups_train)
        if split == "val":
            return held
        count = arguments["train_samples"]
        return kept if count is None and shares is None else kept[_few(domain.y_train[kept], count, self.seed, "train_samples", shares)]

    def _samples(self, domain: Dataset, split: Split, index: np.ndarray, drift: Drift | DriftChain | None) -> Tensor:
        x = self._the_inputs().of(domain, "test" if split == "test" else "train", index, drift)
        return x.flatten(1) if self._arguments["flatten"] else x

    def _drift_of(self, view: View) -> Drift | DriftChain | None:
        return self.drift if view == "target" else None

    def _the_inputs(self) -> Inputs:
        if self._inputs is None:
            how = (self._arguments[name] for name in ("normalize", "int16", "mfcc"))
            self._inputs = Inputs(self._domain("source"), *how)
        return self._inputs


def _few(labels: np.ndarray, count: int | None, seed: int, name: str, shares: Sequence[float] | None) -> np.ndarray:
    if shares is not None:
        return subset_with_shares(labels, count, shares, seed)
    require(count <= len(labels), name, count, f"at most {len(labels)}, all there are")
    return stratified_subset(labels, count, seed)
