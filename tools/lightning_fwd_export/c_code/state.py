"""What of a program lives across calls, in C: where it lies, how it begins, how it is read, set and kept."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import ExportError
from ..pte import Method, Tensor

GET_WEIGHTS = "get_weights"
_COPIES = {"aten::clone.out", "dim_order_ops::_clone_dim_order.out", "aten::alias_copy.out", "aten::view_copy.out"}

WEIGHT_PROTOTYPES = [
    "/* All weights, one after the other. To keep what was learned over a reset: lfwd_save and lfwd_load of lfwd_store.h. */",
    "void lfwd_get_weights(uint8_t weights[LFWD_WEIGHTS_BYTES]);",
    "void lfwd_set_weights(const uint8_t weights[LFWD_WEIGHTS_BYTES]);",
]


@dataclass(frozen=True)
class StateTensors:
    """Tensors that live across calls: ``learned`` in the order of ``get_weights``, then the ``rest`` (momentum, counters, exponents)."""

    learned: list[Tensor]
    rest: list[Tensor]

    @property
    def all(self) -> list[Tensor]:
        return [*self.learned, *self.rest]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.all)

    def in_memory_order(self) -> list[Tensor]:
        return sorted(self.all, key=lambda t: (t.arena, t.offset))

    def regions(self) -> list[tuple[int, int, int]]:
        """Arena, offset and bytes of each stretch, in order; neighbours are one."""
        found: list[tuple[int, int, int]] = []
        for t in self.all:
            if found and found[-1][0] == t.arena and sum(found[-1][1:]) == t.offset:
                found[-1] = (t.arena, found[-1][1], found[-1][2] + t.nbytes)
            else:
                found.append((t.arena, t.offset, t.nbytes))
        return found


def state_of(methods: dict[str, Method]) -> StateTensors:
    """The state of a program; nothing is ``learned`` where ``get_weights`` does more than copy.

    Raises:
        ExportError: methods disagree on how it begins, or where it lies.
    """
    initialised, learned = _initialised(methods), _weight_sources(methods)
    places = {(t.arena, t.offset) for t in learned}
    return StateTensors(learned, [t for t in initialised if (t.arena, t.offset) not in places])


def _initialised(methods: dict[str, Method]) -> list[Tensor]:
    """Initialised tensors of all methods, each once, in memory order."""
    found: dict[tuple[int, int], Tensor] = {}
    for m in methods.values():
        for t in m.initialised:
            other = found.setdefault((t.arena, t.offset), t)
            if other.data != t.data:
                raise ExportError(f"methods disagree on the initial weights at byte {t.offset} of arena {t.arena}")
    ordered = [found[key] for key in sorted(found)]
    for a, b in zip(ordered, ordered[1:], strict=False):
        if a.arena == b.arena and a.offset + a.nbytes > b.offset:
            raise ExportError(f"initial weights overlap at byte {b.offset} of arena {b.arena}")
    return ordered


def _weight_sources(methods: dict[str, Method]) -> list[Tensor]:
    """Where ``get_weights`` takes each output from, if all are plain copies of weights: then no copy is run."""
    m = methods.get(GET_WEIGHTS)
    if m is None or m.inputs or len(methods) == 1:
        return []
    sources = {
        c.args[-1].index: c.args[0]
        for c in m.calls
        if c.operator in _COPIES
        and isinstance(c.args[0], Tensor)
        and isinstance(c.args[-1], Tensor)
        and c.args[0].nbytes == c.args[-1].nbytes
        and c.args[0].strides == c.args[-1].strides
    }
    places = [sources.get(t.index, t) for t in m.outputs]
    plain = len(sources) == len(m.calls) and all(t.data is not None and t.arena is not None for t in places)
    return places if plain else []


def weight_access(learned: list[Tensor], arenas: dict[int, str]) -> str:
    """``lfwd_get_weights`` and ``lfwd_set_weights``."""
    get, put, at = [], [], 0
    for t in learned:
        place = f"{arenas[t.arena]} + {t.offset}"
        get.append(f"    memcpy(weights + {at}, {place}, {t.nbytes}); /* {shape(t)} */")
        put.append(f"    memcpy({place}, weights + {at}, {t.nbytes});")
        at += t.nbytes
    functions = [
        ("void lfwd_get_weights(uint8_t weights[LFWD_WEIGHTS_BYTES])", get),
        ("void lfwd_set_weights(const uint8_t weights[LFWD_WEIGHTS_BYTES])", put),
    ]
    return "\n\n".join("\n".join([head, "{", *body, "}"]) for head, body in functions)


def state_table(state: StateTensors, arenas: dict[int, str], beside: Mapping[str, int]) -> str:
    """Where all state lies, for whoever keeps it: a table of addresses and sizes; ``beside``: bytes of variables that are no tensors."""
    rows = [f"    {{{arenas[arena]} + {offset}, {nbytes}}}," for arena, offset, nbytes in state.regions()]
    rows += [f"    {{(uint8_t *)&{name}, {nbytes}}}," for name, nbytes in beside.items()]
    return "\n".join(["const lfwd_region lfwd_state[LFWD_STATE_REGIONS] = {", *rows, "};"])


def model_hash(state: StateTensors, constants: Iterable[bytes]) -> int:
    """Which model a state belongs to: a CRC-32 of shapes, types, initial values and frozen constants.

    Learned weights fit the frozen ones beside them and no others, so these count too.
    """
    model = 0
    for t in state.all:
        model = zlib.crc32(f"{t.ctype}{t.shape}".encode() + (t.data or b""), model)
    for data in constants:
        model = zlib.crc32(data, model)
    return model


def state_macros(state: StateTensors, constants: Iterable[bytes], beside: Mapping[str, int]) -> list[str]:
    """Sizes of the state, and which model it belongs to; ``beside`` as of :func:`state_table`."""
    return [
        f"#define LFWD_STATE_BYTES {state.nbytes + sum(beside.values())} "
        "/* all that lives across calls: the weights, then momentum, counters, exponents */",
        f"#define LFWD_STATE_REGIONS {len(state.regions()) + len(beside)}",
        f"#define LFWD_MODEL_HASH 0x{model_hash(state, constants):08x}u",
    ]


def shape(t: Tensor) -> str:
    """``3x4``, for comments."""
    return "x".join(map(str, t.shape)) or "scalar"
