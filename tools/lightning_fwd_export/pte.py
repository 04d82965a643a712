"""Read a .pte into plain Python objects, trusting nothing in it.

Everything C code will be generated from is checked here: every index, size, offset and constant. What comes back is
safe to print as array bounds and pointer offsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from executorch.exir import schema
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.runtime import Runtime, Verification

from .errors import ExportError
from .seal import is_sealed, unseal

# scalar type -> C type, bytes, struct format
C_TYPES = {
    ScalarType.BOOL: ("uint8_t", 1, "B"),
    ScalarType.BYTE: ("uint8_t", 1, "B"),
    ScalarType.CHAR: ("int8_t", 1, "b"),
    ScalarType.SHORT: ("int16_t", 2, "h"),
    ScalarType.INT: ("int32_t", 4, "i"),
    ScalarType.LONG: ("int64_t", 8, "q"),
    ScalarType.FLOAT: ("float", 4, "f"),
}
_MOST_BYTES = 2**31 - 1  # generated code counts in int32_t


@dataclass(frozen=True)
class Tensor:
    """One tensor of a method.

    Attributes:
        index: position among the method's values.
        shape, order: logical sizes, and the dimensions from outermost to innermost in memory.
        ctype, itemsize, format: C element type, bytes, ``struct`` letter.
        arena, offset: memory arena and byte offset where it is planned; ``arena`` is None for a constant, and for an output
            that its operator was told not to compute (no content then either).
        data: initial content (constants and initialised mutable buffers), else None.
    """

    index: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    ctype: str
    itemsize: int
    format: str
    arena: int | None
    offset: int
    data: bytes | None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next, per logical dimension."""
        strides, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            strides[dim] = step
            step *= self.shape[dim]
        return tuple(strides)


@dataclass(frozen=True)
class Call:
    """One kernel call: operator ``namespace::name.overload``, values as Tensor, int, float, bool, str, list or None."""

    operator: str
    args: tuple
    layer: str
    phase: str


@dataclass
class Method:
    """One method of a program: its calls in order, its inputs and outputs, and the size in bytes of each arena."""

    name: str
    calls: list[Call]
    inputs: list[Tensor]
    outputs: list[Tensor]
    arenas: list[int]
    initialised: list[Tensor] = field(default_factory=list)


@dataclass
class Program:
    """A program's methods, and its constant numbers (such as ``forward_input0_scale``), each by name."""

    methods: dict[str, Method]
    numbers: dict[str, int | float]


def read_program(data: bytes, trust_unsealed: bool = False) -> Program:
    """A .pte, checked.

    Args:
        data: the file's bytes.
        trust_unsealed: accept a file without this exporter's checksum; its structure is still checked.

    Raises:
        ExportError: the file is truncated, damaged, foreign, or holds what cannot become static C.
    """
    sealed = is_sealed(data)
    if sealed or not trust_unsealed:
        data = unseal(data)
    try:
        if not sealed:  # the runtime's C++ verifier bounds every vector before Python walks them
            Runtime.get().load_program(bytes(data), verification=Verification.InternalConsistency)
        file = deserialize_pte_binary(bytes(data))
        readers = {plan.name: _Reader(file, plan) for plan in file.program.execution_plan}
        numbers = {name: r.number() for name, r in readers.items() if r.number() is not None}
        return Program({name: r.method() for name, r in readers.items() if name not in numbers}, numbers)
    except ExportError:
        raise
    except (RecursionError, MemoryError, Exception) as error:  # whatever a foreign file makes a parser raise
        raise ExportError(f"not a readable ExecuTorch program: {type(error).__name__}: {error}") from error


class _Reader:
    def __init__(self, file, plan):
        self.file, self.plan, self.cache = file, plan, {}
        self.where = f"method {plan.name!r}"
        self.require(str(plan.name).isidentifier(), f"method name {plan.name!r} is no C identifier")
        self.arenas = [self.size(n, "arena") for n in plan.non_const_buffer_sizes]

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ExportError(f"{self.where}: {message}")

    def size(self, n: int, what: str) -> int:
        self.require(0 <= n <= _MOST_BYTES, f"{what} of {n} bytes")
        return n

    def method(self) -> Method:
        plan = self.plan
        self.require(len(plan.chains) == 1, f"{len(plan.chains)} instruction chains, expected 1")
        self.require(
            not plan.delegates,
            "parts are delegated to " + ", ".join(d.id for d in plan.delegates) + ", which runs no C; export without a partitioner",
        )
        initialised = [v for i in range(len(plan.values)) if isinstance(v := self.value(i), Tensor) and v.arena is not None and v.data]
        chain = plan.chains[0]
        calls = [self.call(k, i.instr_args) for k, i in enumerate(chain.instructions)]
        return Method(
            plan.name,
            [c for c in calls if c],
            self.tensors(plan.inputs, "input"),
            self.tensors(plan.outputs, "output"),
            self.arenas,
            initialised,
        )

    def number(self) -> int | float | None:
        """The one number this method returns without running anything, if that is what it does."""
        outputs, chains = self.plan.outputs, self.plan.chains
        value = self.value(outputs[0]) if len(outputs) == 1 else None
        return value if isinstance(value, int | float) and not any(c.instructions for c in chains) else None

    def tensors(self, indices: list[int], what: str) -> list[Tensor]:
        values = [self.value(i) for i in indices]
        self.require(all(isinstance(v, Tensor) for v in values), f"an {what} is not a tensor")
        return values

    def call(self, position: int, call) -> Call | None:
        if isinstance(call, schema.FreeCall):
            return None
        self.require(
            isinstance(call, schema.KernelCall),
            f"instruction {position} is a {type(call).__name__}: control flow and delegates have no place in static C",
        )
        self.require(0 <= call.op_index < len(self.plan.operators), f"instruction {position} names operator {call.op_index}")
        operator = self.plan.operators[call.op_index]
        layer, phase = self.source(position)
        return Call(f"{operator.name}.{operator.overload}", tuple(self.value(i) for i in call.args), layer, phase)

    def source(self, position: int) -> tuple[str, str]:
        """Layer and phase, which the exporter writes where ExecuTorch keeps stack traces."""
        trace = self.plan.chains[0].stacktrace or []
        if position >= len(trace) or not trace[position].items:
            return "", ""
        frame = trace[position].items[-1]
        return _comment(frame.filename), _comment(frame.name)

    def value(self, i: int):
        self.require(0 <= i < len(self.plan.values), f"value {i} of {len(self.plan.values)}")
        if i not in self.cache:
            self.cache[i] = self.convert(i, self.plan.values[i].val)
        return self.cache[i]

    def convert(self, i: int, v):
        match v:
            case None | schema.Null():
                return None
            case schema.Int():
                return int(v.int_val)
            case schema.Bool():
                return bool(v.bool_val)
            case schema.Double():
                return float(v.double_val)
            case schema.String():
                return str(v.string_val)
            case schema.IntList():
                return self.integers(v.items)
            case schema.BoolList() | schema.DoubleList():
                return list(v.items)
            case schema.TensorList() | schema.OptionalTensorList():
                return [None if j < 0 else self.tensors([j], "list item")[0] for j in v.items]
            case schema.Tensor():
                return self.tensor(i, v)
        raise ExportError(f"{self.where}: value {i} is a {type(v).__name__}")

    def integers(self, items: list[int]) -> list[int]:
        for j in items:
            self.require(0 <= j < len(self.plan.values) and isinstance(self.plan.values[j].val, schema.Int), "bad integer list")
        return [int(self.plan.values[j].val.int_val) for j in items]

    def tensor(self, i: int, v) -> Tensor:
        what = f"tensor {i}"
        self.require(v.scalar_type in C_TYPES, f"{what} has element type {ScalarType(v.scalar_type).name}, which has no kernels")
        ctype, itemsize, fmt = C_TYPES[v.scalar_type]
        shape, order = tuple(v.sizes), tuple(v.dim_order)
        self.require(all(n >= 0 for n in shape) and len(shape) <= 16, f"{what} has shape {shape}")
        self.require(sorted(order) == list(range(len(shape))), f"{what} has dimension order {order} for shape {shape}")
        self.require(v.shape_dynamism == schema.TensorShapeDynamism.STATIC, f"{what} has a dynamic shape; export with fixed sizes")
        self.require(v.storage_offset == 0, f"{what} starts {v.storage_offset} elements into its storage")
        nbytes = self.size(math.prod(shape) * itemsize, what)
        arena, offset = None, 0
        if v.allocation_info is not None:
            arena, offset = v.allocation_info.memory_id, v.allocation_info.memory_offset
            self.require(1 <= arena < len(self.arenas), f"{what} lies in arena {arena} of {len(self.arenas)}")
            self.require(0 <= offset <= self.arenas[arena] - nbytes, f"{what} ends beyond arena {arena}")
            self.require(offset % itemsize == 0, f"{what} is misaligned at {offset}")
        return Tensor(i, shape, order, ctype, itemsize, fmt, arena, offset, self.content(v, what, nbytes, arena))

    def content(self, v, what: str, nbytes: int, arena: int | None) -> bytes | None:
        external = v.extra_tensor_info is not None and v.extra_tensor_info.location == schema.TensorDataLocation.EXTERNAL
        self.require(not external, f"{what} keeps its data in another file")
        if v.data_buffer_idx == 0:
            return None
        store = self.file.program.constant_buffer if arena is None else self.file.mutable_data or []
        self.require(0 < v.data_buffer_idx < len(store), f"{what} takes its content from buffer {v.data_buffer_idx} of {len(store)}")
        content = bytes(store[v.data_buffer_idx].storage)
        self.require(len(content) >= nbytes, f"{what} needs {nbytes} bytes, its buffer holds {len(content)}")
        return content[:nbytes]


def _comment(text: str) -> str:
    """Text that cannot leave a C comment."""
    return "".join(c if c.isalnum() or c in "._-[]() " else "_" for c in str(text))[:80]
