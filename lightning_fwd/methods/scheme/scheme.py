"""What of a model learns: layers, fractions of their input channels, biases. As written by people, and as found by the budget search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from ...errors import RewriteError
from ...graph.blocks import canonical_names, is_norm, layer_of, parameters_of
from ...graph.rewritten import RewrittenModel
from ...passes.slice_weight_gradients import channel_dim, slice_weight_gradients
from ...plain_files import write_whole
from ...strict_yaml import read_yaml
from ..base import require_trainable
from .ranking import Ranking, rank_channels

Amount = float | Sequence[int]  #: of a layer's input channels: a fraction, or which
Train = Literal["head", "biases", "norms"] | int | str | Sequence[str] | Mapping[str, Amount]
Biases = Literal["trained", "all", "none"] | Sequence[str]


@dataclass
class Scheme:
    """A sparse update, resolved: parameters that learn, and of partly trained ones the input channels.

    Attributes:
        parameters: names of all that learn. channels: parameter name to input channels, ascending, where not all.
    """

    parameters: set[str]
    channels: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read_scheme(file: str | Path) -> tuple[dict[str, Amount], Biases]:
    """The ``train`` and ``biases`` of a scheme file (YAML).

    Raises:
        RewriteError: the file is missing or holds something else.
    """
    mend = "a scheme file has the key 'train' (layer: fraction of input channels, or their list) and optionally 'biases' (layers)"
    content = read_yaml(file, "the scheme", mend, RewriteError)
    try:
        if not isinstance(content, dict) or "train" not in content or set(content) - {"train", "biases", "found"}:
            raise TypeError(f"it holds {list(content) if isinstance(content, dict) else content!r}")
        if not isinstance(content["train"], dict):
            raise TypeError(f"train is {content['train']!r}, expected layer: fraction or channels")
        return content["train"], content.get("biases", "trained")
    except TypeError as error:
        raise RewriteError(f"cannot read the scheme {str(file)!r}", str(error), mend) from error


def write_scheme(file: str | Path, train: Mapping[str, Amount], biases: Biases, found: Mapping[str, Any] | None = None) -> None:
    """Write a scheme file; ``found`` says how it came about."""
    content = {"train": dict(train), "biases": biases} | ({"found": dict(found)} if found else {})
    write_whole(file, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def resolve(model: RewrittenModel, train: Train, fraction: float, biases: Biases, ranking: Ranking, seed: int) -> Scheme:
    """From what the user wrote to parameters and channels; arguments as of :class:`SparseUpdate`.

    Raises:
        RewriteError: something named is not in the model, or a fraction or channel is out of range.
    """
    if isinstance(train, str) and train.endswith((".yaml", ".yml")):
        if biases != "trained":
            raise RewriteError(
                f"biases={biases!r} beside the scheme {train!r}",
                "the scheme says which biases learn",
                "leave biases out, or write them there",
            )
        train, biases = read_scheme(train)
    first = canonical_names(model)
    names = list(first)
    amounts = _amounts(model, train, fraction, names)
    parameters: set[str] = set()
    wanted: dict[str, Amount] = {}
    for path, amount in amounts.items():
        for name in under(names, path):
            if is_bias(name):
                continue
            vector = model.get_parameter(name).ndim < 2
            if vector and amount != 1.0 and not (isinstance(train, Mapping) and name in (path, f"{path}.weight")):
                continue  # of a partly trained block a norm's scale does not learn: it would keep whole activations
            parameters.add(name)
            if amount != wanted.setdefault(first[name], amount):
                raise RewriteError(
                    f"{path}: {amount} of the input channels, but {wanted[first[name]]} of them elsewhere",
                    f"{name!r} is named twice, or tied to a weight that is",
                    "name it once, or give the same amount",
                )
    if train == "biases" or biases == "all":
        parameters |= {n for n in names if is_bias(n)}
    elif biases == "trained":
        parameters |= {n for path in amounts for n in under(names, path) if is_bias(n)}
    elif biases != "none":
        _require_known(biases, names, "biases", model)
        parameters |= {n for path in biases for n in under(names, path) if is_bias(n)}
    partly = {name: amount for name, amount in wanted.items() if amount != 1.0}
    return Scheme({first[name] for name in parameters}, _choose(model, partly, ranking, seed))


def train_only(model: RewrittenModel, scheme: Scheme) -> set[str]:
    """Freeze the rest of the model, and slice the gradients of what learns in part; the names of what learns."""
    require_trainable(model, sorted(scheme.parameters))
    model.freeze({name for name, _ in model.named_parameters()} - scheme.parameters)
    trained = {name for name in scheme.parameters if model.get_parameter(name).requires_grad}
    parts = {n: first for n, first in canonical_names(model).items() if first in trained and first in scheme.channels}
    slice_weight_gradients(model, {n: scheme.channels[first] for n, first in parts.items()})
    return trained


def _amounts(model: RewrittenModel, train: Train, fraction: float, names: list[str]) -> dict[str, Amount]:
    """Module path, or name of a parameter, to how much of it learns."""
    if train == "head":
        return dict.fromkeys(_head(model), fraction)
    if train == "biases":
        return {}
    if train == "norms" and not under(names, "norms"):  # a module of that name comes first
        return dict.fromkeys(_norms(model, names), 1.0)
    if isinstance(train, int) and not isinstance(train, bool):
        if not 1 <= train <= len(model.plan):
            raise RewriteError(f"train={train} blocks, the model has {len(model.plan)}", "", "choose fewer, or another granularity")
        return {name: fraction for block in model.plan[-train:] for node in block.nodes for name in parameters_of(node, model)}
    _require_known(train, names, "train", model)
    amounts = train if isinstance(train, Mapping) else dict.fromkeys([train] if isinstance(train, str) else train, fraction)
    for path, amount in amounts.items():
        if not _is_amount(amount):
            raise RewriteError(f"{path}: {amount!r} of its input channels", "", "give a fraction, 0 < fraction <= 1, or a list of channels")
    return dict(amounts)


def _head(model: RewrittenModel) -> list[str]:
    """Names of the parameters of the last layer, and of the norms behind it."""
    found: list[str] = []
    for node in reversed(model.plan[-1].nodes):
        found += parameters_of(node, model)
        if layer_of(node, model) and not (node.op == "call_module" and is_norm(model.get_submodule(node.target))):
            break
    return found


def _norms(model: RewrittenModel, names: list[str]) -> list[str]:
    """Names of the scales and shifts of all norms."""
    found = [name for name in names if is_norm(model.get_submodule(name.rpartition(".")[0]))]
    if not found:
        raise RewriteError(
            f'train="norms": {type(model.original).__name__} has no norm with parameters', "", 'train "biases", "head" or modules by name'
        )
    return found


def _is_amount(amount: object) -> bool:
    if isinstance(amount, int | float):
        return not isinstance(amount, bool) and 0.0 < amount <= 1.0
    return isinstance(amount, Sequence) and not isinstance(amount, str) and all(type(c) is int for c in amount)


def _require_known(paths: object, names: list[str], what: str, model: RewrittenModel) -> None:
    known = {
        "train": '"head", "biases", "norms", a number of blocks, module paths, or a scheme file (.yaml)',
        "biases": '"trained", "all", "none" or module paths',
    }
    paths = [paths] if isinstance(paths, str) or not isinstance(paths, Sequence | Mapping) else paths
    unknown = [str(p) for p in paths if not (isinstance(p, str) and under(names, p))]
    hint = "" if all(isinstance(p, str) for p in paths) else " (a path is text: in YAML '0', not 0)"
    if unknown:
        raise RewriteError(
            f"{what}: {', '.join(unknown)} names nothing with parameters" + hint,
            f"known: {known[what]}",
            f"layers of this model: {', '.join(p for b in model.plan for p in b.layers)}",
        )


def under(names: Iterable[str], path: str) -> list[str]:
    """Which of the names are of parameters of the module at ``path``, or of the parameter that it names itself."""
    return [n for n in names if n == path or n.startswith(path + ".")]


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias: also attention's ``in_proj_bias``, a recurrent layer's ``bias_hh_l0``, and one that is
    parametrised."""
    own = name.partition(".parametrizations.")[2].partition(".")[0] or name.rpartition(".")[2]
    return own.endswith("bias") or own.startswith("bias_")


def _choose(model: RewrittenModel, wanted: dict[str, Amount], ranking: Ranking, seed: int) -> dict[str, tuple[int, ...]]:
    """Fractions to the channels of highest rank; lists as they are. A fraction keeps at least one channel."""
    fractions = {name: a for name, a in wanted.items() if isinstance(a, int | float)}
    if bare := [name for name in fractions if "." not in name]:
        raise RewriteError(
            f"cannot rank the input channels of {', '.join(bare)}", "it is in no layer", "train it whole (1.0), or name its channels"
        )
    layers = [name.rpartition(".")[0] for name in fractions]
    ranks = rank_channels(model.original, model.example_input, layers, ranking, seed) if layers else {}
    chosen = {name: tuple(a) for name, a in wanted.items() if name not in fractions}
    for name, amount in fractions.items():
        chosen[name] = top_channels(ranks[name.rpartition(".")[0]], amount)
    return {n: c for n, c in chosen.items() if len(c) < _count(model, n) or c != tuple(range(len(c)))}


def top_channels(importance: Tensor, fraction: float) -> tuple[int, ...]:
    """The channels of highest importance, ascending: ``round(fraction * C)``, at least one."""
    count = max(1, round(fraction * len(importance)))
    return tuple(sorted(importance.topk(count).indices.tolist()))


def _count(model: RewrittenModel, name: str) -> int:
    weight, groups = model.get_parameter(name), getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1)
    dim = channel_dim(weight, groups)
    return groups if dim == 0 and weight.ndim > 1 else weight.shape[dim]
