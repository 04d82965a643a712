"""What the loaders of the user's own LightningDataModule give, read once and held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import lightning as L
import torch
from torch import Tensor

from ..errors import LightningFwdError
from ..import_path import named
from ..settings import arguments
from ..strategies.batch import input_of, target_of

Parts = dict[str, tuple[Tensor, Tensor]]
_MOST_BYTES = 4 << 30  #: of samples in memory
_EXAMPLE = "module: {class_path: mine.Data, init_args: {folder: ...}}"
_READ: dict[str, Parts] = {}
_READ_OBJECTS: WeakKeyDictionary[L.LightningDataModule, dict[str, Parts]] = WeakKeyDictionary()


def class_path(module: Any) -> str:
    """The import path of a data module's class, of the object itself or of a recipe's entry."""
    if isinstance(module, L.LightningDataModule):
        return f"{type(module).__module__}.{type(module).__qualname__}"
    return str(module.get("class_path")) if isinstance(module, Mapping) else repr(module)


def data_module_of(spec: Any) -> L.LightningDataModule | Callable[..., Any]:
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


def read_loaders(spec: Any, prefix: str) -> Parts:
    """What the loaders of a data module give, in memory; each is read once per process.

    Args:
        prefix: of the loaders' names: "" or "target_".

    Returns:
        samples ``(N, ...)`` and labels ``(N,)`` of "train", "test" (without one, the validation loader's) and, where there is one left,
        "val".

    Raises:
        LightningFwdError: it cannot be made, has no training or neither other loader, one of them raises, or gives what is no labelled
            batch.
    """
    made = data_module_of(spec)
    if isinstance(made, L.LightningDataModule):
        kept, key = _READ_OBJECTS.setdefault(made, {}), prefix
    else:
        kept, key = _READ, prefix + json.dumps(spec, sort_keys=True, default=repr)
    if key not in kept:
        if not isinstance(made, L.LightningDataModule):
            try:
                made = made(**(spec.get("init_args") or {}))
            except TypeError as error:
                raise LightningFwdError(
                    f"data: {class_path(spec)} cannot be made", str(error), f"its arguments: {arguments(made)}"
                ) from error
        kept[key] = _loaded(made, prefix)
    return kept[key]


def _loaded(module: L.LightningDataModule, prefix: str) -> Parts:
    name, found = type(module).__name__, {}
    module.prepare_data()
    module.setup("fit"), module.setup("test")
    for split in ("train", "val", "test"):
        if not _defines(module, hook := f"{prefix}{split}_dataloader"):
            continue
        try:
            batches = getattr(module, hook)()
        except Exception as error:  # the user's own: the part is there, so no other may be measured in its place
            raise LightningFwdError(
                f"data: {name}.{hook}: {type(error).__name__}: {error}", "the loader cannot be made", "run it by itself, and mend it"
            ) from error
        if batches is None or (isinstance(batches, list | tuple) and not batches):
            continue
        if isinstance(batches, list | tuple | Mapping):
            raise LightningFwdError(
                f"data: {name}.{prefix}{split}_dataloader gives several loaders", "a comparison measures on one", "give the one that counts"
            )
        found[split] = _joined(batches, f"{name}.{prefix}{split}_dataloader")
    if "train" not in found:
        raise LightningFwdError(f"data: {name} has no {prefix}train_dataloader, or it gives none", "rules learn from it", "define one")
    if "test" not in found:
        if "val" not in found:
            raise LightningFwdError(
                f"data: {name} has neither {prefix}test_dataloader nor {prefix}val_dataloader", "accuracy is measured on it", "define one"
            )
        found["test"] = found.pop("val")
    return found


def _defines(module: L.LightningDataModule, hook: str) -> bool:
    """Whether a data module has this loader of its own; Lightning's class has all of its own names, and each raises."""
    own = getattr(module, hook, None)
    return own is not None and getattr(own, "__func__", own) is not getattr(L.LightningDataModule, hook, None)


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
