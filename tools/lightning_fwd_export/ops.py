"""Operators of our own, with their reference in PyTorch: what they compute is said here, the C kernels are checked against it.

The updates write in place (``state = decay * state - lr * gradient``) and take the gradient's factors instead of the gradient, so a step
needs memory for weights and activations only. SGD is ``decay=1``; a momentum buffer is ``lr=-1, decay=momentum`` followed by
``sgd_`` with the buffer as gradient. Each comes as a pair: the functional form survives ``torch.export``, and
``reinplace_updates`` turns it into the mutating form that ExecuTorch then runs without a copy.
"""

from __future__ import annotations

import torch
from executorch.exir.dialects._ops import ops as edge_ops
from torch import Tensor
from torch.export import ExportedProgram
from torch.library import Library, impl, register_fake

import lightning_fwd.methods  # noqa: F401  (the rules define operators, e.g. lfwd::positive_bits; lightning_fwd itself loads no room)
from lightning_fwd.integer.operators import FUNCTIONAL as INTEGER
from lightning_fwd.integer.operators import UPDATES as INTEGER_UPDATES

_lib = Library("lfwd", "DEF")
UPDATES = ("sgd", "sgd_outer", "sgd_conv2d", "sgd_part")

_UPDATE_ARGUMENTS = {
    "sgd": "Tensor grad, float lr, float decay",
    "sgd_outer": "Tensor grad, Tensor input, float lr, float decay",
    "sgd_conv2d": "Tensor grad, Tensor input, float lr, float decay, int[] stride, int[] padding, int[] dilation, int groups",
    "sgd_part": "Tensor grad, Tensor index, int dim, float lr, float decay",
}


def _sgd(self: Tensor, grad: Tensor, lr: float, decay: float) -> Tensor:
    return decay * self - lr * grad


def _sgd_outer(self: Tensor, grad: Tensor, input: Tensor, lr: float, decay: float) -> Tensor:
    """``self (out, in)``, ``grad (B, out)``, ``input (B, in)``; the gradient is ``grad^T input``."""
    return decay * self - lr * (grad.t() @ input)


def _sgd_conv2d(self, grad, input, lr, decay, stride, padding, dilation, groups) -> Tensor:
    """The gradient is the weight gradient of ``conv(input, self)`` for the output gradient ``grad``."""
    spatial = self.dim() - 2
    _, weight, _ = torch.ops.aten.convolution_backward(
        grad, input, self, None, stride, padding, dilation, False, [0] * spatial, groups, [False, True, False]
    )
    return decay * self - lr * weight


def _sgd_part(self: Tensor, grad: Tensor, index: Tensor, dim: int, lr: float, decay: float) -> Tensor:
    """Only the entries ``index`` along ``dim`` learn; ``grad`` has those and no others."""
    return self.index_copy(dim, index, decay * self.index_select(dim, index) - lr * grad)


def _define_update(name: str, reference) -> None:
    arguments = _UPDATE_ARGUMENTS[name]
    _lib.define(f"{name}(Tensor self, {arguments}) -> Tensor")
    _lib.define(f"{name}_(Tensor(a!) self, {arguments}) -> Tensor(a!)")
    impl(_lib, name, "CompositeExplicitAutograd")(reference)
    impl(_lib, f"{name}_", "CompositeExplicitAutograd")(lambda self, *args: self.copy_(reference(self, *args)))
    register_fake(f"lfwd::{name}")(lambda self, *args: torch.empty_like(self))
    register_fake(f"lfwd::{name}_")(lambda self, *args: self)


for _name, _reference in zip(UPDATES, (_sgd, _sgd_outer, _sgd_conv2d, _sgd_part), strict=True):
    _define_update(_name, _reference)


def define(schema: str, reference, fake) -> None:
    """A functional operator with an out variant."""
    name = schema[: schema.index("(")]
    _lib.define(f"{schema} -> Tensor")
    _lib.define(f"{name}.out{schema[len(name) : -1]}, *, Tensor(a!) out) -> Tensor(a!)")
    impl(_lib, name, "CompositeExplicitAutograd")(reference)
    register_fake(f"lfwd::{name}")(fake)


def _relu_backward(grad: Tensor, result: Tensor) -> Tensor:
    """Gradient of relu from its result: one pass and no mask in memory."""
    return torch.where(result > 0, grad, 0.0)


define("relu_backward(Tensor grad, Tensor result)", _relu_backward, lambda grad, result: torch.empty_like(grad))


def _out_variant(operator: torch._ops.OpOverload) -> Library:
    """What ExecuTorch calls in the place of a functional operator that ``lightning_fwd`` defines: the same, into given memory."""
    namespace, name = operator._schema.name.split("::")
    arguments = str(operator._schema).partition("(")[2].partition(") ->")[0]
    library = Library(namespace, "FRAGMENT")
    library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")
    impl(library, f"{name}.out", "CompositeExplicitAutograd")(lambda *args, out: out.copy_(operator(*args)))
    return library


_THEIR_OUT_VARIANTS = [  # kept: a Library that is collected takes its operators along
    _out_variant(torch.ops.lfwd.positive_bits.default),
    _out_variant(torch.ops.lfwd.where_bits.default),
    _out_variant(torch.ops.lfwd.modulate_from_seed.default),
    _out_variant(torch.ops.lfwd.transport.default),
    *(_out_variant(getattr(torch.ops.lfwd, name).default) for name in INTEGER),
]


def _in_place(operator: torch._ops.OpOverload) -> Library:
    """The form of a functional operator of ``lightning_fwd`` that writes its result over its first argument."""
    namespace, name = operator._schema.name.split("::")
    others = str(operator._schema).partition(", ")[2].partition(") ->")[0]
    library = Library(namespace, "FRAGMENT")
    library.define(f"{name}_(Tensor(a!) self, {others}) -> Tensor(a!)")  # ExecuTorch knows it by this name of its argument
    impl(library, f"{name}_", "CompositeExplicitAutograd")(lambda self, *args: self.copy_(operator(self, *args)))
    register_fake(f"{namespace}::{name}_", lib=library)(lambda self, *args: self)
    return library


_THEIR_FORMS_IN_PLACE = [_in_place(torch.ops.lfwd.fold.default)]


def _avg_pool2d_backward(grad, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override) -> Tensor:
    return torch.ops.aten.avg_pool2d_backward(grad, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


define(
    "avg_pool2d_backward(Tensor grad, Tensor input, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, "
    "bool count_include_pad, int? divisor_override)",
    _avg_pool2d_backward,
    lambda grad, input, *args: torch.empty_like(input),
)


def _max_pool2d_backward(grad: Tensor, size: list[int], index: Tensor) -> Tensor:
    """Each output's gradient to the place of its maximum, given as position in its plane (ExecuTorch's own adds to what the memory held
    before)."""
    flat = grad.new_zeros(*size[:-2], size[-2] * size[-1])
    return flat.scatter_add(-1, index.flatten(-2), grad.flatten(-2)).reshape(size)


define("max_pool2d_backward(Tensor grad, int[] size, Tensor index)", _max_pool2d_backward, lambda grad, size, index: grad.new_empty(size))


def _adaptive_avg_pool2d_backward(grad: Tensor, size: list[int]) -> Tensor:
    return torch.ops.aten._adaptive_avg_pool2d_backward(grad, grad.new_empty(size))


define("adaptive_avg_pool2d_backward(Tensor grad, int[] size)", _adaptive_avg_pool2d_backward, lambda grad, size: grad.new_empty(size))


def _conv2d_grad_input(grad, weight, size, stride, padding, dilation, groups) -> Tensor:
    """What ``conv(input, weight)`` of an input of this size hands back; 1-d and 2-d (ExecuTorch's ``convolution_backward`` is 2-d only)."""
    return torch.ops.aten.convolution_backward(
        grad, grad.new_empty(size), weight, None, stride, padding, dilation, False, [0] * len(stride), groups, [True, False, False]
    )[0]


def _conv2d_grad_weight(grad, input, size, stride, padding, dilation, groups) -> Tensor:
    """As above for a weight of this size, where it is needed as a tensor (a mere update is :func:`_sgd_conv2d`)."""
    return torch.ops.aten.convolution_backward(
        grad, input, grad.new_empty(size), None, stride, padding, dilation, False, [0] * len(stride), groups, [False, True, False]
    )[1]


for _name, _reference in (("conv2d_grad_input", _conv2d_grad_input), ("conv2d_grad_weight", _conv2d_grad_weight)):
    define(
        f"{_name}(Tensor grad, Tensor other, int[] size, int[] stride, int[] padding, int[] dilation, int groups)",
        _reference,
        lambda grad, other, size, *args: grad.new_empty(size),
    )


def reinplace_updates(program: ExportedProgram) -> None:
    """Turn every functional update of an edge program into its mutating form.

    Safe only where nothing reads the old state after the update, so each is moved behind the last reader of its state.
    Raises AssertionError if an update's state is no buffer of the program.
    """
    functional = {
        getattr(edge_ops.edge.lfwd, n).default: getattr(edge_ops.edge.lfwd, f"{n}_").default for n in (*UPDATES, "fold", *INTEGER_UPDATES)
    }
    graph = program.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target in functional:
            state = node.args[0]
            assert state.op == "placeholder" or state.target in functional.values(), f"{node} updates {state}, no buffer"
            last = max((u for u in state.users if u is not node and u.op != "output"), key=order.get, default=None)
            if last is not None and order[last] > order[node]:
                later = [u for u in node.users if u.op != "output" and order[u] < order[last]]
                assert not later, f"{later[0]} reads the new {state} before {last} reads the old"
                last.append(node)
            node.target = functional[node.target]
    graph.lint()
    program.graph_module.recompile()
