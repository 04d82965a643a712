"""Rewrite a traced step for the device: updates in place of gradients, and kernels that need no temporary.

Works on ``StepGraph.graph`` (flat aten). The optimizer's arithmetic, which the tracer wrote out, is replaced by ``lfwd::sgd*`` on
the gradient's factors: the weight gradient of a layer is an outer product or a correlation, and the update needs its entries one
by one, never all at once.
"""

from __future__ import annotations

import torch
from torch import fx

from lightning_fwd.trace.optimizers import state_name
from lightning_fwd.trace.step_graph import StepGraph

from . import ops  # noqa: F401  (defines lfwd::)

aten, lfwd = torch.ops.aten, torch.ops.lfwd


def fuse_step(step: StepGraph, lr: float, momentum: float) -> None:
    """Rewrite the step in place: SGD with these settings, linear layers, gradients. The results stay what they are."""
    split_gradients(step)
    fuse_updates(step, lr, momentum)
    fuse_layers(step.module)


def fuse_layers(module: fx.GraphModule) -> None:
    """Matrix products with a transposed weight -> linear; gradients of relu and average pooling in one pass; operators that ExecuTorch
    has."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function":
            _fuse_linear(graph, node)
            _fuse_relu_backward(graph, node)
            _fuse_spread(graph, node)
            _crop(graph, node)
            _rename(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def fuse_updates(step: StepGraph, lr: float, momentum: float) -> None:
    """Replace what the optimizer computes for every trained parameter by updates of its state."""
    graph, results = step.graph, step.results
    by_name = {n.name: n for n in graph.nodes}
    replaced = {}
    for name in step.trained:
        gradient, old = by_name[step.gradients[name]], step.node(name)
        velocity, part = state_name("momentum", name), _part(results[name])
        with graph.inserting_after(gradient):
            anchor = graph.call_function(aten.alias.default, (gradient,))  # marks where the updates go
        if velocity in results:
            new_velocity = _update(graph, anchor, step.node(velocity), gradient, -1.0, momentum, name)
            replaced[velocity] = new_velocity
            target, where = (lfwd.sgd_part, part) if part else (lfwd.sgd, ())
            replaced[name] = _insert(graph, anchor, target.default, (old, new_velocity, *where, lr, 1.0), old, name)
        elif part:
            replaced[name] = _insert(graph, anchor, lfwd.sgd_part.default, (old, gradient, *part, lr, 1.0), old, name)
        else:
            replaced[name] = _update(graph, anchor, old, gradient, lr, 1.0, name)
        graph.erase_node(anchor)
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    output.args = (tuple(replaced.get(name, node) for name, node in results.items()),)
    graph.eliminate_dead_code()


def split_gradients(step: StepGraph) -> None:
    """Each gradient of a convolution an operation of its own, so that one nobody reads goes, and each lives no longer than it is read."""
    graph = step.graph
    for node in [n for n in graph.nodes if n.target is aten.convolution_backward.default]:
        grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = node.args
        spatial = grad.meta["val"].dim() - 2
        if transposed or spatial not in (1, 2):
            continue  # no kernel has it; the translation to C says so and names the layer
        geometry = (list(stride), list(padding), list(dilation), groups)
        for part in list(node.users):
            size, which = list(part.meta["val"].shape), part.args[1]
            if which == 2:
                target, args = aten.sum.dim_IntList, (grad, [0, *range(2, spatial + 2)])
            elif which == 1:
                target, args = lfwd.conv2d_grad_weight.default, (grad, x, size, *geometry)
            else:
                target, args = lfwd.conv2d_grad_input.default, (grad, weight, size, *geometry)
            new = _replace(graph, part, target, args)
            step.gradients = {name: new.name if n == part.name else n for name, n in step.gradients.items()}
        graph.erase_node(node)


def _part(result: fx.Node) -> tuple[fx.Node, int] | None:
    """Index and dimension where only some entries of a parameter learn: the optimizer then writes ``old[..., index] = new``."""
    if result.target is not aten.index_put.default:
        return None
    *before, index = result.args[1]
    return (index, len(before)) if not any(before) else None


def _update(graph: fx.Graph, anchor: fx.Node, state: fx.Node, gradient: fx.Node, lr: float, decay: float, name: str) -> fx.Node:
    """``decay * state - lr * gradient``, the gradient taken apart as far as it is a sum, a multiple or a product."""
    target, args = gradient.target, gradient.args
    if target in (aten.add.Tensor, aten.sub.Tensor) and all(isinstance(a, fx.Node) for a in args[:2]) and _same_shapes(gradient):
        sign = gradient.kwargs.get("alpha", 1) * (1 if target is aten.add.Tensor else -1)
        first = _update(graph, anchor, state, args[0], lr, decay, name)
        return _update(graph, anchor, first, args[1], lr * sign, 1.0, name)
    if target in (aten.mul.Tensor, aten.mul.Scalar) and isinstance(args[1], int | float):
        return _update(graph, anchor, state, args[0], lr * args[1], decay, name)
    if target in (aten.div.Tensor, aten.div.Scalar) and isinstance(args[1], int | float):
        return _update(graph, anchor, state, args[0], lr / args[1], decay, name)
    if target is aten.neg.default:
        return _update(graph, anchor, state, args[0], -lr, decay, name)
    if (few := _scattered(gradient)) is not None:
        if decay != 1.0:  # the entries without a gradient decay as well
            state = _insert(graph, anchor, lfwd.sgd.default, (state, state, 0.0, decay), state, name)
        return _insert(graph, anchor, lfwd.sgd_part.default, (state, *few, lr, 1.0), state, name)
    factors = _outer_product(gradient)
    if factors is not None:
        return _insert(graph, anchor, lfwd.sgd_outer.default, (state, *factors, lr, decay), state, name)
    if target is lfwd.conv2d_grad_weight.default:
        grad, x, _, *geometry = args
        return _insert(graph, anchor, lfwd.sgd_conv2d.default, (state, grad, x, lr, decay, *geometry), state, name)
    return _insert(graph, anchor, lfwd.sgd.default, (state, gradient, lr, decay), state, name)


def _scattered(gradient: fx.Node) -> tuple[fx.Node, fx.Node, int] | None:
    """Values, index and dimension of a gradient that is zero but at some entries along one dimension (an error that is sparse by
    channel)."""
    if gradient.target is not aten.index_put.default or len(gradient.args) > 3:
        return None
    zeros, (*before, index), values = gradient.args
    is_zero = zeros.target is aten.full.default and zeros.args[1] == 0
    return (values, index, len(before)) if is_zero and not any(before) else None


def _same_shapes(node: fx.Node) -> bool:
    return all(a.meta["val"].shape == node.meta["val"].shape for a in node.args[:2])


def _transposed(node: fx.Node) -> fx.Node | None:
    """The matrix that this node transposes."""
    is_permute = node.target is aten.permute.default and [d % 2 for d in node.args[1]] == [1, 0] and len(node.args[1]) == 2
    return node.args[0] if is_permute or node.target is aten.t.default else None


def _outer_product(gradient: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Factors (g, x) of a gradient ``g^T x``."""
    if gradient.target is aten.mm.default:
        left = _transposed(gradient.args[0])
        return (left, gradient.args[1]) if left is not None else None
    product = _transposed(gradient)
    if product is not None and product.target is aten.mm.default:  # (x^T g)^T
        left = _transposed(product.args[0])
        return (product.args[1], left) if left is not None else None
    return None


def _insert(graph: fx.Graph, anchor: fx.Node, target, args: tuple, like: fx.Node, name: str) -> fx.Node:
    with graph.inserting_before(anchor):
        node = graph.call_function(target, args)
    node.meta = {"val": like.meta["val"], "phase": "update", "layer": name.rpartition(".")[0]}
    return node


def _replace(graph: fx.Graph, node: fx.Node, target, args: tuple) -> fx.Node:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _fuse_linear(graph: fx.Graph, node: fx.Node) -> None:
    """``x @ w^T + b``: no transposed copy of the weight."""
    if node.target is aten.addmm.default and not node.kwargs:
        bias, x, weight = node.args[0], node.args[1], _transposed(node.args[2])
        if weight is not None and bias.meta["val"].dim() == 1:
            _replace(graph, node, aten.linear.default, (x, weight, bias))
    elif node.target is aten.mm.default and (weight := _transposed(node.args[1])) is not None:
        _replace(graph, node, aten.linear.default, (node.args[0], weight))


def _fuse_relu_backward(graph: fx.Graph, node: fx.Node) -> None:
    """``where(y <= 0, 0, g)`` with y of g's shape."""
    if node.target is not aten.where.self:
        return
    condition, zero, grad = node.args
    is_zero = isinstance(zero, fx.Node) and zero.target in (aten.scalar_tensor.default, aten.full.default) and 0 in zero.args
    if not is_zero or condition.target is not aten.le.Scalar or condition.args[1] != 0:
        return
    result = condition.args[0]
    if result.meta["val"].shape == grad.meta["val"].shape == node.meta["val"].shape:
        _replace(graph, node, lfwd.relu_backward.default, (grad, result))


def _fuse_spread(graph: fx.Graph, node: fx.Node) -> None:
    """Average pooling's gradient, windows side by side: written out as an expanded view it is copied twice on its way to ``(B, C, H,
    W)``."""
    chain = [node]
    for target in (aten.view, aten.clone, aten.expand, aten.view, aten.div):
        if getattr(chain[-1].target, "overloadpacket", None) is not target:
            return
        chain.append(chain[-1].args[0])
    _, _, spread, _, div, grad = chain
    shape = list(spread.meta["val"].shape)
    if len(shape) != 6 or not isinstance(div.args[1], int | float):
        return
    b, c, h, k_h, w, k_w = shape
    size = [b, c, h * k_h, w * k_w]
    if div.args[1] == k_h * k_w and list(grad.meta["val"].shape) == [b, c, h, w] and list(node.meta["val"].shape) == size:
        _replace(graph, node, lfwd.adaptive_avg_pool2d_backward.default, (grad, size))


def _crop(graph: fx.Graph, node: fx.Node) -> None:
    """Padding by a negative amount, as the gradient of padding is: a slice, since no runtime's kernel takes it; positive amounts are padded
    still."""
    if node.target is not aten.constant_pad_nd.default or min(node.args[1]) >= 0:
        return
    x, amounts, *value = node.args
    kept = x
    for i, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        dim = x.meta["val"].dim() - 1 - i
        size = kept.meta["val"].shape[dim]
        start, end = max(-before, 0), size - max(-after, 0)
        if (start, end) != (0, size):
            with graph.inserting_before(node):
                part = graph.call_function(aten.slice.Tensor, (kept, dim, start, end))
            part.meta = dict(node.meta) | {"val": kept.meta["val"].narrow(dim, start, end - start)}
            kept = part
    if max(amounts) > 0:
        _replace(graph, node, aten.constant_pad_nd.default, (kept, [max(a, 0) for a in amounts], *value))
    else:
        node.replace_all_uses_with(kept)
        graph.erase_node(node)


_RENAMED = {
    aten.__rshift__.Scalar: aten.bitwise_right_shift.Tensor_Scalar,
    aten.__lshift__.Scalar: aten.bitwise_left_shift.Tensor_Scalar,
    aten.avg_pool2d_backward.default: lfwd.avg_pool2d_backward.default,
}


def _rename(graph: fx.Graph, node: fx.Node) -> None:
    if node.target in _RENAMED:
        _replace(graph, node, _RENAMED[node.target], node.args)
    elif node.target is aten.max_pool2d_with_indices_backward.default:
        grad, x, *_, index = node.args
        _replace(graph, node, lfwd.max_pool2d_backward.default, (grad, list(x.meta["val"].shape), index))
    elif node.target is aten._adaptive_avg_pool2d_backward.default:
        grad, x = node.args
        _replace(graph, node, lfwd.adaptive_avg_pool2d_backward.default, (grad, list(x.meta["val"].shape)))
