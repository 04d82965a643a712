"""Fold batch norm, with its stored statistics, into the convolution or linear layer before it."""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import RewriteError
from ..graph.blocks import layer_of, shape_of
from ..graph.constants import INSERTED
from ..graph.plain_layers import BATCH_NORMS, is_plain
from ..graph.rewritten import RewrittenModel
from ..graph.stored_as import StoredAs

_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)


class FoldedLayer(nn.Module):
    """A layer and its batch norm as one affine map: weight ``w g/s``, bias ``beta + (b - mean) g/s``.

    The scaled weight lives in the layer's own weight, the bias in the norm's own bias: both parameters keep their identity and name, and
    :meth:`unfold` gives the two layers back with the function that the folded one has learned. With ``s = sqrt(var + eps)``.
    """

    def __init__(self, layer_path: str, layer: nn.Module, norm_path: str, norm: nn.Module):
        super().__init__()
        self.__dict__.update(layer=layer, norm=norm)  # not registered: both keep their own place and names
        self.uses = (f"{layer_path}.weight", f"{norm_path}.bias")
        self.fold()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.layer.weight, self.norm.bias)
        return self.layer._conv_forward(x, self.layer.weight, self.norm.bias)

    def _scale(self) -> Tensor:
        return self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()

    def _shift(self) -> Tensor:
        """What the norm's statistics and the layer's own bias contribute to the folded bias."""
        own = 0.0 if self.layer.bias is None else self.layer.bias
        return (own - self.norm.running_mean) * self._scale()

    def stored_as(self) -> dict[str, StoredAs]:
        """Names of their own for the weight and bias in memory: under the plain ones they would load into the plain model, and be wrong."""
        weight, bias = self.uses
        home, scale, shift = f"{INSERTED}.folded.{weight.removesuffix('.weight').replace('.', '/')}", self._scale(), self._shift()
        scale = _per_output(scale.detach(), self.layer.weight)
        return {
            weight: StoredAs(f"{home}.weight", 1 / scale, torch.zeros_like(scale)),
            bias: StoredAs(f"{home}.bias", torch.ones_like(shift.detach()), shift.detach()),
        }

    @torch.no_grad()
    def fold(self) -> None:
        self.layer.weight.mul_(_per_output(self._scale(), self.layer.weight))
        self.norm.bias.add_(self._shift())

    @torch.no_grad()
    def unfold(self) -> None:
        self.norm.bias.sub_(self._shift())
        self.layer.weight.div_(_per_output(self._scale(), self.layer.weight))


def fold_batch_norm(model: RewrittenModel) -> list[str]:
    """Fold every batch norm that directly follows a foldable layer and is that layer's only reader.

    The eval output stays the same up to rounding. Norms with a zero scale, which could not be unfolded, layers that are used twice, and
    whatever is not torch's own class as it is are left alone.

    Returns:
        paths of the norms folded.

    Raises:
        RewriteError: on the example input a folded layer gives something else than the layer and its norm.
    """
    holder, shared = nn.ModuleDict(), _shared(model)
    model.inserted.add_module("folded", holder)
    pairs = {
        norm: layer for norm in model.graph.nodes if (layer := _layer_before(norm, model)) and not shared & {norm.target, layer.target}
    }
    if not pairs:
        return []
    folding = _Folding(model, pairs)
    with model.in_mode(training=False), torch.no_grad():
        folding.run(model.example_input)
    if folding.wrong:
        raise RewriteError(
            f"batch norm {folding.wrong[0].target!r} cannot be folded into {pairs[folding.wrong[0]].target!r}",
            "on the example input the folded layer gives something else than the two give",
            "use batch_norm='freeze' or 'train'",
        )
    for norm_node, layer_node in pairs.items():
        key = layer_node.target.replace(".", "/")
        holder[key] = fold = folding.folds[norm_node]
        model.freeze({f"{norm_node.target}.weight"} | ({f"{layer_node.target}.bias"} if fold.layer.bias is not None else set()))
        with model.graph.inserting_after(layer_node):
            new = model.graph.call_module(f"{INSERTED}.folded.{key}", layer_node.args)
        model.replace(norm_node, new)
        model.graph.erase_node(layer_node)
    model.compile_inference()
    model.register_state_dict_post_hook(partial(_unfold_state, list(holder.values())))
    model.register_load_state_dict_pre_hook(partial(_before_load, list(holder.values())))
    model.register_load_state_dict_post_hook(partial(_after_load, list(holder.values())))
    return [node.target for node in pairs]


class _Folding(fx.Interpreter):
    """Runs the graph in eval mode; folds each pair as it comes by and holds the folded layer against the two.

    Attributes:
        folds: norm node to its folded layer. wrong: norm nodes where the two differ by more than rounding (TF32 and bfloat16 included).
    """

    def __init__(self, model: RewrittenModel, pairs: dict[fx.Node, fx.Node]):
        super().__init__(model, graph=model.graph)
        self.pairs, self.folds, self.wrong = pairs, {}, []
        self._entering: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self.pairs.values():
            self._entering[n] = self.env[n.args[0]]
        if n in self.pairs:
            layer = self.pairs[n]
            fold = FoldedLayer(layer.target, self.fetch_attr(layer.target), n.target, self.fetch_attr(n.target))
            self.module.on_undo(fold.unfold)
            self.folds[n] = fold
            got, size = fold(self._entering.pop(layer)), value.abs().max() + fold._shift().abs().max()
            if got.shape != value.shape or not (got - value).abs().max() <= max(0.01, torch.finfo(value.dtype).eps ** 0.5) * size:
                self.wrong.append(n)
        return value


def _layer_before(norm_node: fx.Node, model: RewrittenModel) -> fx.Node | None:
    """The layer that a batch norm may be folded into."""
    norm = model.get_submodule(norm_node.target) if norm_node.op == "call_module" else None
    if not is_plain(norm, *BATCH_NORMS) or not (norm.affine and norm.track_running_stats) or not bool((norm.weight != 0).all()):
        return None
    before = norm_node.args[0]
    if before.op != "call_module" or len(before.users) != 1 or layer_of(before, model) is None:
        return None
    layer = model.get_submodule(before.target)
    tokens = isinstance(layer, nn.Linear) and len(shape_of(before)) > 2  # (B, T, n): the norm's channels are T
    return before if is_plain(layer, *_FOLDABLE) and not tokens else None


def _shared(model: RewrittenModel) -> set[str]:
    """Paths of modules that are called more than once or share a parameter: folding one use would change the other."""
    calls = Counter(n.target for n in model.graph.nodes if n.op == "call_module")
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if calls[path] > 1 or any(owners[id(p)] > 1 for p in module.parameters(recurse=False))
    }


def _per_output(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _unfold_state(folded: list[FoldedLayer], module: nn.Module, state: dict, prefix: str, _meta: dict) -> None:
    """Checkpoints hold the original's own weights, whatever is folded in memory."""
    for fold in folded:
        weight, bias = (prefix + name for name in fold.uses)
        scale = fold._scale().detach()
        state[weight] = state[weight] / _per_output(scale, state[weight])
        state[bias] = state[bias] - fold._shift().detach()


def _before_load(folded: list[FoldedLayer], *_args) -> None:
    for fold in folded:
        fold.unfold()


def _after_load(folded: list[FoldedLayer], *_args) -> None:
    for fold in folded:
        fold.fold()
