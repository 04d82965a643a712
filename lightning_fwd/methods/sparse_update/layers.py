"""Vector-Jacobian products that keep no more than the trained parameters need.

Autograd keeps the input of a convolution even where its weight is frozen, the input of a batch norm of which only the bias learns, and a
ReLU's output at full width. Here a linear layer keeps the input channels that its weight slice reads, a frozen one nothing, a norm with
stored statistics nothing (its input, where its scale learns), a ReLU one bit per element. Any other layer is left to autograd, by itself.

Each class has ``forward(model, *inputs) -> (output, kept)`` and ``backward(model, kept, grad, ...) -> (input gradients, updates)``.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ...graph.bit_mask import positive_bits, where_bits
from ...graph.blocks import shape_of
from ...graph.constants import is_constant
from ...graph.gradients import gradients
from ...graph.phase import phase
from ...graph.plain_layers import BATCH_NORMS, CONVOLUTIONS, is_plain
from ...graph.rewritten import RewrittenModel
from ...graph.segment import Segment
from ...graph.step import Part, Update

_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_RELU = (torch.relu, nn.functional.relu, "relu")
_RELU6 = (nn.functional.relu6,)


@dataclass
class Stage:
    """One node of the captured graph (and any that hand it several tensors), on the way back from the logits to the deepest trained
    parameter.

    Attributes:
        name: of its value. inputs: names of the tensors that it reads. needs: which of these want a gradient.
        segment: ``(model, *inputs) -> (value,)``. path: the module that the node runs, if one. trained: its trained parameters.
    """

    name: str
    inputs: list[str]
    needs: list[bool]
    segment: Segment
    path: str
    trained: list[str]

    def forward(self, model: RewrittenModel, *inputs: Tensor) -> tuple[Tensor, tuple]:
        leaves = [x.detach().requires_grad_() if need else x for x, need in zip(inputs, self.needs, strict=True)]
        with torch.enable_grad():
            (value,) = self.segment(model, *leaves)
        return value.detach(), (value, [x for x, need in zip(leaves, self.needs, strict=True) if need])

    def backward(self, model: RewrittenModel, kept: tuple, grad: Tensor) -> tuple[list[Tensor | None], list[Update]]:
        (value, leaves), learning = kept, self.learning(model)
        if not value.requires_grad:  # new_zeros, detach: of the input only its shape or a copy of its values
            return [None] * len(leaves), []
        parameters = [model.get_parameter(name) for name in learning]
        with phase("backward"):
            grads, owned = gradients(value, [*leaves, *parameters], grad)
        updates = []
        for name, parameter, g in zip(learning, parameters, grads[len(leaves) :], strict=True):
            if g is not None:
                part = model.part_of(name)
                updates.append(Update(name, parameter, g if part is None else part.of(g), part=part, fresh=owned))
        return list(grads[: len(leaves)]), updates

    def learning(self, model: RewrittenModel) -> list[str]:
        """Its trained parameters, less those that were frozen since the rewrite."""
        return [name for name in self.trained if model.get_parameter(name).requires_grad]


class Ungraded(Stage):
    """A size, a shape, whole numbers, or a value of these alone: no gradient enters it, nothing is kept."""

    def forward(self, model, *inputs):
        return self.segment(model, *inputs)[0], ()


class Addition(Stage):
    """``a + b`` of one shape: the gradient goes to both, nothing is kept."""

    def forward(self, model, *inputs):
        return self.segment(model, *inputs)[0], ()

    def backward(self, model, kept, grad):
        return [grad] * sum(self.needs), []


class Averaging(Stage):
    """Average pooling: linear, so its product is the same at any input; autograd is asked at zero, where it has nothing to keep."""

    def forward(self, model, *inputs):
        (x,) = inputs
        return self.segment(model, x)[0], (x.shape,)

    def backward(self, model, kept, grad):
        with phase("backward"), torch.enable_grad():
            x = grad.new_zeros(()).expand(kept[0]).requires_grad_()
            (y,) = self.segment(model, x)
            return list(torch.autograd.grad(y, [x], grad)), []


class Rectifier(Stage):
    """ReLU and ReLU6: one bit per element."""

    top: float | None = None

    def forward(self, model, *inputs):
        (y,) = self.segment(model, *inputs)
        return y, (positive_bits(y if self.top is None else y * (self.top - y)),)

    def backward(self, model, kept, grad):
        with phase("backward"):
            return [where_bits(grad, kept[0])], []


class Rectifier6(Rectifier):
    top = 6.0


class StoredNorm(Stage):
    """Batch norm with stored statistics: one factor per channel."""

    def forward(self, model, *inputs):
        (x,) = inputs
        weight = f"{self.path}.weight"
        if weight not in self.trained:
            return self.segment(model, x)[0], ()
        part = model.part_of(weight)
        return self.segment(model, x)[0], (x if part is None else x.index_select(1, part.index),)

    def backward(self, model, kept, grad):
        norm = model.get_submodule(self.path)
        shape, dims = [1, -1, *[1] * (grad.ndim - 2)], [0, *range(2, grad.ndim)]
        factor, input_grads, updates = torch.rsqrt(norm.running_var + norm.eps), [], []
        for name in self.learning(model):
            part = model.part_of(name)
            with phase("update"):
                g = grad if part is None else grad.index_select(1, part.index)
                if name.endswith(".weight"):
                    mean, inverse = (t if part is None else part.of(t) for t in (norm.running_mean, factor))
                    g = g * ((kept[0] - mean.reshape(shape)) * inverse.reshape(shape))
                updates.append(Update(name, model.get_parameter(name), g.sum(dims), part=part, fresh=True, by_hand=True))
        if self.needs[0]:
            with phase("backward"):
                scale = factor if norm.weight is None else factor * norm.weight
                input_grads = [grad * scale.reshape(shape)]
        return input_grads, updates


class Affine(Stage):
    """Linear: of the input only the channels that the trained weight slice reads. All in the type of the output, as autocast chose it."""

    channel_axis = -1

    def forward(self, model, *inputs):
        (x,) = inputs
        (y,) = self.segment(model, x)
        name = f"{self.path}.weight"
        if name not in self.trained:
            return y, (x.shape,)
        part = model.part_of(name)
        kept = x if part is None else x.index_select(self.channel_axis, self._channels(model, part))
        return y, (x.shape, kept.to(y.dtype))

    def backward(self, model, kept, grad, rows: Tensor | None = None):
        """``rows``: the output channels that ``grad`` holds, if not all of them (dynamic sparsity; ungrouped layers only)."""
        module, (shape, *x) = model.get_submodule(self.path), kept
        weight = (module.weight if rows is None else module.weight.index_select(0, rows)).to(grad.dtype)
        updates, input_grads, learning = [], [], self.learning(model)
        if x and f"{self.path}.weight" in learning:
            part = model.part_of(f"{self.path}.weight")
            with phase("update"):
                g = _at(rows, self._weight_gradient(module, weight, part, x.pop(), grad), module.weight.shape[0])
            updates.append(Update(f"{self.path}.weight", module.weight, g, part=part, fresh=True, by_hand=True))
        if f"{self.path}.bias" in learning:
            part, axis = model.part_of(f"{self.path}.bias"), self.channel_axis % grad.ndim
            with phase("update"):
                g = _at(rows, grad.sum([d for d in range(grad.ndim) if d != axis]), module.weight.shape[0])
                g = g if part is None else part.of(g)
            updates.append(Update(f"{self.path}.bias", module.bias, g, part=part, fresh=True, by_hand=True))
        if self.needs[0]:
            with phase("backward"):
                input_grads = [self._input_gradient(module, weight, shape, grad)]
        return input_grads, updates

    def is_ungrouped(self, model: RewrittenModel) -> bool:
        return getattr(model.get_submodule(self.path), "groups", 1) == 1

    def _channels(self, model: RewrittenModel, part: Part) -> Tensor:
        """The input channels that a weight slice reads."""
        return part.index

    def _weight_gradient(self, module: nn.Module, weight: Tensor, part: Part | None, x: Tensor, grad: Tensor) -> Tensor:
        return grad.flatten(0, -2).t() @ x.flatten(0, -2)

    def _input_gradient(self, module: nn.Module, weight: Tensor, shape: torch.Size, grad: Tensor) -> Tensor:
        return grad @ weight


class Convolution(Affine):
    channel_axis = 1

    def _channels(self, model, part):
        if part.dim == 1:
            return part.index
        module = model.get_submodule(self.path)
        per_group = module.out_channels // module.groups  # depthwise: this many output channels read one input channel
        return torch.div(part.index[::per_group], per_group, rounding_mode="floor")

    def _weight_gradient(self, module, weight, part, x, grad):
        groups = module.groups
        if part is not None:
            weight = part.of(weight)
            if part.dim == 0:
                grad, groups = grad.index_select(1, part.index), x.shape[1]
        arguments = module.stride, module.padding, module.dilation, False, [0] * len(module.stride), groups
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *arguments, [False, True, False])[1]

    def _input_gradient(self, module, weight, shape, grad):
        """The transposed convolution; unlike ``convolution_backward`` it does not ask for the input."""
        along = zip(shape[2:], grad.shape[2:], module.stride, module.padding, module.dilation, module.kernel_size, strict=True)
        rest = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, s, p, d, k in along]
        return torch.ops.aten.convolution(grad, weight, None, module.stride, module.padding, module.dilation, True, rest, module.groups)


def _at(rows: Tensor | None, g: Tensor, count: int) -> Tensor:
    """A gradient known for some output channels, zero for the others."""
    return g if rows is None else g.new_zeros(count, *g.shape[1:]).index_copy(0, rows, g)


def may_have_gradient(node: fx.Node) -> bool:
    """Whether a value is something that a gradient can be taken of: not a size, a shape, or a tensor of whole numbers."""
    meta = node.meta.get("tensor_meta")  # absent where no tensor is in the value
    return meta is not None and getattr(meta, "dtype", torch.float32).is_floating_point


def holds_several(node: fx.Node) -> bool:
    """Whether a value is several tensors in one: of ``chunk``, attention, a recurrent layer."""
    return "tensor_meta" in node.meta and shape_of(node) is None


def stage_of(nodes: list[fx.Node], model: RewrittenModel, needing: set[fx.Node], trained: list[str], stored_norms: bool) -> Stage:
    """The stage of the last node, which the others lead to by values of several tensors.

    Args:
        needing: nodes whose value wants a gradient. trained: the trained parameters among the nodes' own.
        stored_norms: whether batch norms run on their stored statistics.
    """
    node = nodes[-1]
    inputs = list(dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in nodes and not is_constant(i)))
    path = next((n.target for n in nodes if n.op == "call_module"), "")
    module = model.get_submodule(path) if path else None
    kind = Stage
    if node not in needing:
        kind = Ungraded
    elif len(nodes) > 1:
        kind = Stage
    elif module is not None:
        kind = _kind_of(module, stored_norms)
    elif node.target in _RELU:
        kind = Rectifier
    elif node.target in _RELU6:
        kind = Rectifier6
    elif node.target in (operator.add, torch.add) and not node.kwargs and len(inputs) == 2:
        if shape_of(inputs[0]) == shape_of(inputs[1]):
            kind = Addition
    needs = [n in needing for n in inputs]
    return kind(node.name, [n.name for n in inputs], needs, Segment(nodes, inputs, [node]), path, trained)


def _kind_of(module: nn.Module, stored_norms: bool) -> type[Stage]:
    """What computes the products of a module; one that does more than its torch class says is left to autograd."""
    if is_plain(module, nn.Linear):
        return Affine
    if is_plain(module, *CONVOLUTIONS) and not isinstance(module.padding, str) and module.padding_mode == "zeros":
        return Convolution
    if is_plain(module, *BATCH_NORMS) and module.track_running_stats and stored_norms:
        return StoredNorm
    if is_plain(module, *_AVERAGES):
        return Averaging
    if is_plain(module, nn.ReLU):
        return Rectifier
    return Rectifier6 if is_plain(module, nn.ReLU6) else Stage
