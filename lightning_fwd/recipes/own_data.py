"""The user's own LightningDataModule as the data of a comparison: its batches in memory, source and target as two views of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.drift import as_drift
from ..data.loader import ResumableLoader, tensor_loader
from ..data.subsets import hold_out, stratified_subset
from ..errors import LightningFwdError
from ..import_path import named
from ..settings import arguments
from ..strategies.batch import input_of, target_of

Split = Literal["train", "val", "test"]
Parts = dict[str, tuple[Tensor, Tensor]]
_MOST_BYTES = 4 << 30  #: of samples in memory
_CHUNK = 256  #: samples drifted at a time
_EXAMPLE = "module: {class_path: mine.Data, init_args: {folder: ...}}"
_READ: dict[str, Parts] = {}
_READ_OBJECTS: WeakKeyDictionary[L.LightningDataModule, dict[str, Parts]] = WeakKeyDictionary()


class OwnData(L.LightningDataModule):
    """Source or target view of the user's data module, as :class:`lightning_fwd.data.DriftDataModule` is of a data set.

    The training, validation and test loaders are read once, so what they shuffle and augment is drawn once. Samples stay as the loaders
    give them: no scaling. The target is, by what is given, another data module; or loaders of the same one that are called
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
        self._tensors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def changed(self, **changes: Any) -> OwnData:
        """The same with some arguments changed; nothing is read again."""
        return type(self)(**(self._arguments | changes))

    def _parts(self, view: str) -> Parts:
        own, other = self._arguments["module"], self._arguments["target_module"]
        if view == "source":
            return _read(own, "")
        if other is not None:
            return _read(other, "")
        if hasattr(_made(own), "target_train_dataloader"):
            return _read(own, "target_")
        if self.drift is None:
            raise LightningFwdError(
                "data: the target would be the source",
                "there is neither a drift, nor a target_module, nor target_train_dataloader and target_test_dataloader in the module",
                "give one of them, e.g. drift: noise=0.1",
            )
        return _read(own, "")

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
        signal = not (x.ndim == 4 and float(x.min()) >= 0 and float(x.max()) <= 1)
        offset = len(self._stored("train", view)[1]) if split == "test" else 0  # test samples draw other noise than training samples
        of = (*x.shape[1:], 1) if x.ndim == 2 else x.shape[1:]  # a row of numbers drifts as channels at one moment
        chunks = (index[k : k + _CHUNK] for k in range(0, len(index), _CHUNK))
        drifted = [self.drift(x[some].reshape(-1, *of), torch.from_numpy(some + offset), signal=signal, others=None) for some in chunks]
        return torch.cat(drifted).reshape(-1, *x.shape[1:])

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
        name = _path(shown).rpartition(".")[2]
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
        return {"class_path": _path(value), "init_args": {k: repr(v) if not _is_plain(v) else v for k, v in value.hparams.items()}}

    return {key: plain(value) for key, value in data.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _path(module: Any) -> str:
    if isinstance(module, L.LightningDataModule):
        return f"{type(module).__module__}.{type(module).__qualname__}"
    return str(module.get("class_path")) if isinstance(module, Mapping) else repr(module)


def _made(spec: Any) -> L.LightningDataModule | Callable[..., Any]:
    """The object itself, or the class that is named.

    Raises:
        LightningFwdError: it names something else.
    """
    if isinstance(spec, L.LightningDataModule):
        return spec
    if not isinstance(spec, Mapping) or set(spec) - {"class_path", "init_args"} or not isinstance(spec.get("init_args") or {}, Mapping):
        raise LightningFwdError(
            f"data: module is {spec!r}", "expected a LightningDataModule, or its class and arguments", f"write {_EXAMPLE}"
        )
    return named(spec.get("class_path"), L.LightningDataModule, "data: module")


def _read(spec: Any, prefix: str) -> Parts:
    """What the loaders of a data module give, in memory; each is read once per process."""
    made = _made(spec)
    if isinstance(made, L.LightningDataModule):
        kept, key = _READ_OBJECTS.setdefault(made, {}), prefix
    else:
        kept, key = _READ, prefix + json.dumps(spec, sort_keys=True, default=repr)
    if key not in kept:
        if not isinstance(made, L.LightningDataModule):
            try:
                made = made(**(spec.get("init_args") or {}))
            except TypeError as error:
                raise LightningFwdError(f"data: {_path(spec)} cannot be made", str(error), f"its arguments: {arguments(made)}") from error
        kept[key] = _loaded(made, prefix)
    return kept[key]


def _loaded(module: L.LightningDataModule, prefix: str) -> Parts:
    name, found = type(module).__name__, {}
    module.prepare_data()
    module.setup("fit"), module.setup("test")
    for split in ("train", "val", "test"):
        loader = getattr(module, f"{prefix}{split}_dataloader", None)
        try:
            batches = loader() if loader is not None else None
        except Exception as error:  # of Lightning's own class, which has none: "must be implemented"
            if split == "train":
                raise LightningFwdError(f"data: {name}.{prefix}train_dataloader: {type(error).__name__}: {error}") from error
            batches = None
        if batches is None or (isinstance(batches, list | tuple) and not batches):
            continue
        if isinstance(batches, list | tuple | Mapping):
            raise LightningFwdError(
                f"data: {name}.{prefix}{split}_dataloader gives several loaders", "a comparison measures on one", "give the one that counts"
            )
        found[split] = _joined(batches, f"{name}.{prefix}{split}_dataloader")
    if "test" not in found:
        if "val" not in found:
            raise LightningFwdError(
                f"data: {name} has neither {prefix}test_dataloader nor {prefix}val_dataloader", "accuracy is measured on it", "define one"
            )
        found["test"] = found.pop("val")
    return found


def _joined(batches: Iterable[Any], where: str) -> tuple[Tensor, Tensor]:
    xs, ys, size = [], [], 0
    for batch in batches:
        x, y = input_of(batch), target_of(batch)
        if y is None or y.ndim != 1 or len(y) != len(x) or y.is_floating_point() or (len(y) and int(y.min()) < 0):
            raise LightningFwdError(
                f"data: {where} gives labels {None if y is None else (tuple(y.shape), y.dtype)} for inputs {tuple(x.shape)}",
                "a comparison counts right classes",
                "give (input, target) batches, or dicts with 'target', one class number from 0 per sample",
            )
        xs.append(x.detach().cpu().float())
        ys.append(y.cpu().long())
        size += 4 * x.numel()
        if size > _MOST_BYTES:
            raise LightningFwdError(
                f"data: {where} gives more than {_MOST_BYTES >> 30} GiB", "a comparison holds its data in memory", "give a part of them"
            )
    if not xs:
        raise LightningFwdError(f"data: {where} gives no batch", "", "check its data")
    if len({x.shape[1:] for x in xs}) > 1:
        raise LightningFwdError(f"data: {where} gives samples of several shapes", "one network reads all", "make them alike")
    return torch.cat(xs), torch.cat(ys)
