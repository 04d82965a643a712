"""Plan where each tensor of a program lies: one after the other, each at the lowest offset that is free during its life.

Which comes first decides how well they fit. The largest do; then, for some rounds, what ended highest is placed before all others, and the
smallest plan is kept.

Beyond ExecuTorch's own planner: an elementwise operator writes over an input that dies with it, and results that only
alias updated weights take no memory.
"""

from __future__ import annotations

import math

from executorch.exir.memory_planning import (
    MemoryAlgoResult,
    MemoryPlanningAlgorithmSuite,
    SpecAllocResult,
    get_node_tensor_specs,
)
from executorch.exir.passes import MemoryPlanningPass
from torch import fx

_ROUNDS = 24
# Operators whose kernels read element i before they write element i, here and in ExecuTorch's runtime.
_UNARY = "abs clamp elu exp expm1 gelu hardtanh leaky_relu log log1p neg reciprocal relu rsqrt sigmoid sqrt tanh"
_BINARY = "add sub mul div maximum minimum bitwise_and bitwise_xor remainder"
_ELEMENTWISE = {f"aten::{name}.out" for name in f"{_UNARY} {_BINARY}".split()} | {
    *(f"aten::{name}.Scalar_out" for name in ("add", "sub", "mul", "div", "bitwise_and", "bitwise_xor", "remainder")),
    *(f"aten::{name}.Tensor_out" for name in ("bitwise_and", "bitwise_xor", "remainder")),
    "aten::bitwise_right_shift.Tensor_Scalar_out",
    "aten::bitwise_left_shift.Tensor_Scalar_out",
    "aten::where.self_out",
    "lfwd::relu_backward.out",
    "lfwd::where_bits.out",
    "cortex_m::quantized_add.out",
}


def memory_planning_pass() -> MemoryPlanningPass:
    """A fresh pass (they keep state) that shares mutable buffers between methods."""
    return MemoryPlanningPass(memory_planning_algo=MemoryPlanningAlgorithmSuite([first_fit]), share_mutable_buffers=True)


def first_fit(alignment, specs, graph_module: fx.GraphModule, graph_signature, extra_padding: int = 0) -> MemoryAlgoResult:
    """ExecuTorch's planner interface: an arena and offset for every spec, and the size of each arena."""
    owned = {id(s) for n in graph_module.graph.nodes if n.op != "output" for s in get_node_tensor_specs(n)}
    result = MemoryAlgoResult({}, [])
    for spec in specs:
        spec.realign(alignment)
        assert spec.storage_base is None, "views of slices are not planned"
    groups = _groups([s for s in specs if id(s) in owned], graph_module)
    for spec in specs:
        if id(spec) not in owned:  # stands at the output only, for a weight that was updated in place
            result.spec_dict[spec] = SpecAllocResult(spec.mem_id or 1, 0, 0)
    placed, sizes = _best(groups)
    for group, arena, offset in placed:
        for spec in group:
            result.spec_dict[spec] = SpecAllocResult(arena, 0, offset)
    sizes = {1: 0} | sizes
    result.bufsizes = [0] + [sizes.get(k, 0) + extra_padding for k in range(1, max(sizes) + 1)]
    return result


def _life(group: list) -> tuple[int, int]:
    return min(s.lifetime[0] for s in group), max(s.lifetime[1] for s in group)


def _best(groups: list[list]) -> tuple[list[tuple[list, int, int]], dict[int, int]]:
    """The smallest plan found: each group with its arena and offset, and the size of each arena."""
    order = sorted(groups, key=lambda g: (-g[0].allocated_memory, _life(g)[0]))
    best, total = None, 0
    for _ in range(_ROUNDS):
        placed, sizes = _place(order)
        if best is None or sum(sizes.values()) < total:
            best, total = (placed, sizes), sum(sizes.values())
        if not placed:
            break
        highest = max(placed, key=lambda p: p[2] + p[0][0].allocated_memory)[0]
        if highest is order[0]:
            break
        order = [highest, *(g for g in order if g is not highest)]
    return best


def _place(groups: list[list]) -> tuple[list[tuple[list, int, int]], dict[int, int]]:
    """The groups placed in this order."""
    placed: list[tuple[int, int, int, int, int]] = []  # arena, first use, last use, offset, end
    result, sizes = [], {}
    for group in groups:
        first, last = _life(group)
        arena, size, offset = group[0].mem_id or 1, group[0].allocated_memory, 0
        alive = sorted((p[3], p[4]) for p in placed if p[0] == arena and p[1] <= last and first <= p[2])
        for start, end in alive:
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((arena, first, last, offset, offset + size))
        sizes[arena] = max(sizes.get(arena, 0), offset + size)
        result.append((group, arena, offset))
    return result, sizes


def _groups(specs: list, graph_module: fx.GraphModule) -> list[list]:
    """Specs that share one place: an elementwise result with the first input that dies in it."""
    wanted = {id(s) for s in specs}
    inputs = {id(s) for n in graph_module.graph.nodes if n.op == "placeholder" for s in get_node_tensor_specs(n)}
    group_of = {id(s): [s] for s in specs}
    for position, node in enumerate(graph_module.graph.nodes):
        if node.op != "call_function" or _name(node) not in _ELEMENTWISE:
            continue
        (out,) = get_node_tensor_specs(node)
        for argument in node.all_input_nodes:
            source = next(iter(get_node_tensor_specs(argument)), None)
            if argument is node.kwargs.get("out") or source is None or id(source) not in wanted or id(source) in inputs:
                continue
            if (
                _same_order(source, out)
                and id(out) in wanted
                and source.lifetime[1] == position
                and group_of[id(source)] is not group_of[id(out)]
            ):
                merged = group_of[id(source)] + group_of[id(out)]
                for spec in merged:
                    group_of[id(spec)] = merged
                break
    return list({id(g): g for g in group_of.values()}.values())


def _same_order(a, b) -> bool:
    """Whether element i of one is element i of the other: equal in number, type and layout (then nothing is broadcast)."""
    row_major = all(list(s.dim_order) == sorted(s.dim_order) for s in (a, b))
    alike = row_major and math.prod(a.shape) == math.prod(b.shape)
    return a.dtype == b.dtype and (alike or (tuple(a.shape), a.dim_order) == (tuple(b.shape), b.dim_order))


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return f"{schema.name}.{schema.overload_name}" if schema is not None else ""
