"""The network that a comparison or a search starts from: built, given its weights, pretrained where asked, and shown to know the source."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..classifier import cannot_take
from ..data import DriftDataModule
from ..data.subsets import stratified_subset
from ..errors import LightningFwdError
from ..methods import Backprop
from ..models import build, load_weights
from ..models.sealed_weights import load_sealed, save_sealed
from ..models.weights import load_state
from .own_data import OwnData
from .recipe import Recipe
from .training import fit, quiet

_ANEW = "delete it, and the results beside it, which started from it, or choose another --out"
_SAMPLES = 1000  #: on which a network must show that it knows the source


def require_keywords(values: Any, name: str) -> None:
    """Refuse what is no mapping of arguments.

    Raises:
        LightningFwdError: naming it by ``name``.
    """
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise LightningFwdError(
            f"{name} is {values!r}", "expected a mapping of arguments", f"write e.g. {name.split()[-1]}: {{key: value}}"
        )


def data_module(arguments: dict[str, Any], instead: Mapping[str, str] | None = None, **more: Any) -> Any:
    """The data of a recipe: a data set by name, or with ``module`` the user's own data module.

    Args:
        arguments: what the recipe says under ``data``. more: what it says in other places.
        instead: for each argument that it says in another place, in words, which that is.

    Raises:
        LightningFwdError: an argument is unknown, or belongs into that other place.
        ValueError: one is out of its range.
    """
    for name, place in (instead or {}).items():
        if name in arguments:
            raise LightningFwdError(f"data: {name}={arguments[name]!r}", place, f"leave {name} out of data")
    kind = OwnData if "module" in arguments else DriftDataModule
    try:
        return kind(**arguments, **more)
    except TypeError as error:
        known = ", ".join(name for name in inspect.signature(kind).parameters if name not in {*more, *(instead or ())})
        raise LightningFwdError(f"data: {arguments!r}", str(error), f"known keys: {known}") from error


def require_data(data: DriftDataModule, samples: str) -> None:
    """Refuse data, drift and numbers of samples that do not fit one another.

    Args:
        samples: what the recipe calls ``train_samples``.

    Raises:
        LightningFwdError, FileNotFoundError: see :meth:`DriftDataModule.prepare_data`; the training or the test part has one class.
    """
    try:
        data.prepare_data()
    except ValueError as error:
        raise LightningFwdError(str(error).replace("train_samples", samples)) from error
    _require_classes(data, samples)


def _require_classes(data: DriftDataModule, samples: str) -> None:
    for split, called in (("train", "training"), ("test", "test")):
        shown = data.labels(split).unique().tolist()
        if len(shown) < 2:
            few = data.view == "target" and split == "train"
            found = f"one class: {data.class_names[shown[0]]}" if shown else "no samples"
            raise LightningFwdError(
                f"the {called} part of {data.title} ({data.view}) has {found}",
                "there is nothing to learn: whatever always gives that class is right on all of it",
                f"give more samples ({samples}), of two classes at least" if few else "give data of two classes at least",
            )


def starting_network(recipe: Recipe) -> nn.Module:
    """The network with the weights that a recipe names, before any pretraining.

    Raises:
        LightningFwdError: model, arguments or weights do not fit.
    """
    network = build(recipe.model, **recipe.model_args)
    if recipe.weights is not None:
        load_weights(network, str(recipe.weights))
    return network


def pretrain(recipe: Recipe, seed: int, source: DriftDataModule, file: Path, accelerator: str = "auto") -> None:
    """Store the weights to start from (.safetensors): those that the recipe names, trained on the source where it asks for that."""
    quiet(seed)
    network = starting_network(recipe)
    if recipe.pretrain is not None:
        fit(network, Backprop(), source, recipe.pretrain, accelerator=accelerator)
    store_weights(network, file)


def store_weights(network: nn.Module, file: Path) -> None:
    """Write a network's state as .safetensors, at once. Tied weights once each."""
    save_sealed(network.state_dict(), file)


def pretrained(recipe: Recipe, file: Path) -> nn.Module:
    """The network with the weights that :func:`pretrain` stored."""
    network = build(recipe.model, **recipe.model_args)
    load_state(network, {"state_dict": load_sealed(file, "the pretrained weights", _ANEW)}, str(file))
    return network


def require_same_weights(recipe: Recipe, seed: int, file: Path) -> None:
    """Refuse results that started from other weights than the recipe's file, or the model's own class, gives now.

    Raises:
        LightningFwdError: they differ.
    """
    if recipe.pretrain is not None or not file.exists():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stored, now = load_sealed(file, "the pretrained weights", _ANEW), starting_network(recipe).state_dict()
    if stored.keys() != now.keys() or any(not torch.equal(stored[k], v) for k, v in now.items()):
        what = f"{file} holds other weights than {recipe.weights or recipe.model} gives now"
        raise LightningFwdError(what, "the results beside it started from those", "choose another --out, or delete it")


@torch.no_grad()
def require_fit(network: nn.Module, source: DriftDataModule) -> None:
    """Refuse a network that cannot take these data.

    Raises:
        LightningFwdError: it cannot take the samples, or gives no logits for each of their classes.
    """
    few = source.changed(train_samples=2)
    try:
        logits = network.eval()(few.tensors("train")[0])
    except Exception as error:  # whatever the user's forward raises
        raise cannot_take(source.input_shape, error) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] < source.num_classes:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise LightningFwdError(
            f"the model gives {shape} for two samples, the data have {source.num_classes} classes",
            "logits (B, C) are needed, one for each class",
            "set in model_args the argument of your model that sets its number of outputs",
        )  # fmt: skip


@torch.no_grad()
def require_trained(recipe: Recipe, network: nn.Module, source: DriftDataModule, split: str, may_pretrain: bool = True) -> None:
    """Refuse a network that knows the source about as well as one that was never trained: there is nothing that drift could take from it.

    What counts is the mean share of right answers over classes (an untrained network tends to give one class, which in unbalanced data may
    be right often). It must lie above 1/C by three standard errors, and by a tenth of what is missing to 1: untrained networks come near
    that.

    Args:
        may_pretrain: whether the recipe could ask for pretraining instead of bringing weights.

    Raises:
        LightningFwdError: it does not.
    """
    x, y = source.tensors(split)
    few = torch.from_numpy(stratified_subset(y.numpy(), min(_SAMPLES, len(y)), seed=0))
    right = (network.eval()(x[few]).argmax(1) == y[few]).numpy()
    counts = np.bincount(y[few], minlength=source.num_classes)
    shown, chance = counts > 0, 1 / source.num_classes
    share = np.bincount(y[few], right, source.num_classes)[shown] / counts[shown]
    error = np.sqrt(chance * (1 - chance) * (1 / counts[shown]).sum()) / shown.sum()
    if share.mean() > chance + max(3 * error, 0.1 * (1 - chance)):
        return
    if recipe.pretrain is not None:
        why, mend = "its pretraining taught it next to nothing", "pretrain longer, or with another lr"
    elif recipe.weights is not None:
        why = f"{recipe.weights} was trained on other data, on other classes or another order of them, or scaled otherwise"
        mend = "see normalize and flatten of the data, and classes of the .npz"
    else:
        why = "the model was built as drawn, without trained weights: drift takes nothing from it, and nothing can be won back"
        mend = "give weights: FILE (a checkpoint of Lightning, a saved state_dict, .safetensors, or Keras .npz or .h5)"
        mend += ", or pretrain: {epochs: 20, lr: 0.05}" if may_pretrain else ""
    found = f"{100 * share.mean():.1f} % of the source, mean over classes; by chance it would be {100 * chance:.1f} %"
    raise LightningFwdError(f"{recipe.model} is right on {found}", why, mend)
