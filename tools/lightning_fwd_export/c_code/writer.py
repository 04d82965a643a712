"""Write a checked program as C: ``lfwd_model.h``, ``lfwd_model.c`` and ``lfwd_constants.h``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .. import __name__ as _package
from ..errors import ExportError
from ..pte import Method, Program, Tensor
from . import elementwise, int8, integer, integer_body, integer_directions, integer_goodness, layers, movement, reduce, transport  # noqa: F401  (they fill KERNELS)
from .header import RATE_COMMENT, header, parameters, prototype, setter
from .kernels import KERNELS, Context, no_kernel, number
from .liveness import ACTIVATIONS, Gaps
from .stages import Stage, StageTable, definitions, kept_beside
from .state import GET_WEIGHTS, WEIGHT_PROTOTYPES, StateTensors, model_hash, state_of, state_table, weight_access
from .unit import FORMATS, Unit


@dataclass(frozen=True)
class Written:
    """Generated C, and what it takes of a device beside code.

    Attributes:
        files: text by name.
        ram: bytes of each static array, by name: all of the program's RAM but the stack.
        scratch: the largest working memory of one call; it lies in the activations.
        constants: bytes of constants and tables in Flash.
        model_hash, state_bytes: LFWD_MODEL_HASH and LFWD_STATE_BYTES; 0 without a state that is kept.
    """

    files: dict[str, str]
    ram: dict[str, int]
    scratch: int
    constants: int
    model_hash: int = 0
    state_bytes: int = 0

    @property
    def ram_bytes(self) -> int:
        return sum(self.ram.values())


def write_c(program: Program, source: str, stages: Sequence[Stage] = (), defaults: Sequence[str] = ()) -> Written:
    """The generated files, and the memory they declare.

    Args:
        program: what ``read_program`` returned.
        source: name of the program, for the header comment.
        stages: of an adaptation, whose steps are methods of the program. defaults: macros of its settings.

    Raises:
        ExportError: an operator has no kernel (named, with its layer), or methods cannot share memory.
    """
    methods = program.methods
    if not methods:
        raise ExportError("the program has no methods")
    unit, state = Unit(), state_of(methods)
    kept = StateTensors(state.learned, []) if stages else state  # what else a stage has begins anew with it
    run = {name: m for name, m in methods.items() if not (name == GET_WEIGHTS and state.learned)}
    weight_arenas = {t.arena for t in state.all}
    sizes: dict[int, int] = {}
    for m in run.values() or methods.values():
        for k, size in enumerate(m.arenas[1:], 1):
            sizes[k] = max(sizes.get(k, 0), size)
    for k in list(sizes) + list(weight_arenas):
        sizes[k] = max([sizes.get(k, 0), *(m.arenas[k] for m in methods.values() if k in weight_arenas and k < len(m.arenas))])
        unit.arenas[k] = {ACTIVATIONS: "lfwd_activations"}.get(k, "lfwd_weights" if k in weight_arenas else f"lfwd_arena_{k}")
    if 1 in weight_arenas and len(run) > 1:
        raise ExportError("methods do not share their weights; plan memory with share_mutable_buffers=True")
    bodies = []
    for m in run.values():
        unit.rate_of(m.name, program.numbers)
        bodies.append(_function(m, unit))
    if state.learned:
        bodies += [state_table(kept, unit.arenas, kept_beside(stages)), weight_access(state.learned, unit.arenas)]
    bodies += [f"void {setter(name)}(float rate)\n{{\n    {name} = rate;\n}}" for name in unit.rates]
    table = StageTable(stages, defaults, run, state, unit)
    bodies += table.bodies
    if unit.activation_bytes:
        sizes[ACTIVATIONS] = max(sizes.get(ACTIVATIONS, 0), unit.activation_bytes)
    init = [f"    {_initialise(t, unit)};" for t in state.in_memory_order()]
    init += [f"    {name} = {initial};" for name, initial in unit.rates.items()]
    init += [f"    memcpy({name}, initial_{name}, sizeof {name});" for name in table.arrays]
    init += [f"    {name} = initial_{name};" for name in kept_beside(stages)]
    prototypes = (
        [prototype(m) + ";" for m in run.values()]
        + (WEIGHT_PROTOTYPES if state.learned else [])
        + ([RATE_COMMENT] if unit.rates else [])
        + [f"void {setter(name)}(float rate);" for name in unit.rates]
    )
    files = {
        "lfwd_model.h": header(source, run, kept, unit, sizes, prototypes, program.numbers, table),
        "lfwd_constants.h": _constants(unit),
        "lfwd_model.c": _source(source, unit, sizes, init, bodies, table),
    }
    ram = {unit.arenas[k]: size for k, size in sorted(sizes.items()) if size} | dict.fromkeys(unit.rates, 4)
    ram |= dict.fromkeys(table.arrays, 12) | kept_beside(stages)
    constants = sum(len(data) for _, data in unit.constants) + 4 * sum(_numbers(text) for text in unit.tables)
    state_bytes = kept.nbytes + sum(kept_beside(stages).values())
    identity = (model_hash(kept, [data for _, data in unit.constants]), state_bytes) if state.learned else (0, 0)
    return Written(files, ram, unit.scratch_bytes, constants, *identity)


def _initialise(t: Tensor, unit: Unit) -> str:
    place = f"{unit.arenas[t.arena]} + {t.offset}"
    if not any(t.data):  # optimizer state starts at zero: no Flash for that
        return f"memset({place}, 0, {t.nbytes})"
    return f"memcpy({place}, {unit.named_constant(t.ctype, t.data)}, {t.nbytes})"


def _function(m: Method, unit: Unit) -> str:
    unit.used, unit.gaps = {}, Gaps(m)
    lines: list[str] = []
    last = None
    inputs, outputs = parameters(m)
    for name, tensor in zip(inputs, m.inputs, strict=True):
        lines.append(f"    memcpy({unit.pointer(tensor)}, {name}, {tensor.nbytes});")
    for position, call in enumerate(m.calls):
        emit = KERNELS.get(call.operator)
        if emit is None:
            raise no_kernel(call, f"{_package}/c_code has none for it")
        context = Context(call, unit, position)
        statement = emit(context)
        origin = " ".join(filter(None, (call.layer, call.phase)))
        if origin != last and origin:
            lines.append(f"\n    /* ---- {origin} */")
            last = origin
        lines += [f"    {line}" for line in context.before]
        if statement is not None:
            lines.append(f"    {statement}; /* {call.operator} */")
    for name, tensor in zip(outputs, m.outputs, strict=True):
        lines.append(f"    memcpy({name}, {unit.pointer(tensor)}, {tensor.nbytes});")
    locals_ = [f"    {declaration}" for declaration in unit.used.values()]
    return "\n".join([prototype(m), "{", *locals_, "", *lines, "}"])


def _constants(unit: Unit) -> str:
    lines = ["/* Constants of the program; they stay in Flash. */", "#ifndef LFWD_CONSTANTS_H", "#define LFWD_CONSTANTS_H", ""]
    for (ctype, data), name in unit.constants.items():
        values = struct.unpack(f"<{len(data) // struct.calcsize(FORMATS[ctype])}{FORMATS[ctype]}", data)
        text = [number(v, ctype) for v in values]
        per_line = 8 if ctype in ("float", "int64_t", "int32_t") else 24
        rows = [", ".join(text[i : i + per_line]) for i in range(0, len(text), per_line)]
        lines.append(f"static const {ctype} {name}[{max(len(values), 1)}] = {{\n    " + ",\n    ".join(rows) + "};")
    return "\n".join([*lines, "#endif", ""])


def _source(source: str, unit: Unit, sizes: dict[int, int], init: list[str], bodies: list[str], table: StageTable) -> str:
    arenas = [f"static uint8_t {unit.arenas[k]}[{size}] __attribute__((aligned(16)));" for k, size in sorted(sizes.items()) if size]
    tables = ["static const " + text % name for text, name in unit.tables.items()]
    rate = ["", *(f"static float {name}; /* lfwd_init sets it */" for name in unit.rates)] if unit.rates else []
    for name, initial in table.arrays.items():
        rate += ["", f"static const int32_t initial_{name}[3] = {{{initial}}};", f"static int32_t {name}[3]; /* lfwd_init sets it */"]
    rate += ["", *definitions(table.stages)]
    return "\n".join(
        [
            f"/* Generated from {source}: one call per instruction of the program. */",
            '#include "lfwd_model.h"',
            "",
            "#include <math.h>",
            "#include <string.h>",
            "",
            '#include "lfwd_constants.h"',
            '#include "lfwd_float.h"',
            '#include "lfwd_int8.h"',
            '#include "lfwd_integer.h"',
            "",
            "/* Planned memory: values that are never alive together share bytes, whatever their types: -fno-strict-aliasing. */",
            *arenas,
            *rate,
            "",
            "/* Shapes and quantisation parameters, fields in the order of their struct. */",
            *tables,
            "",
            "void lfwd_init(void)",
            "{",
            *init,
            "}",
            "",
            "\n\n".join(bodies),
            "",
        ]
    )


def _numbers(table: str) -> int:
    """How many 32-bit fields a table has."""
    return table.count(",") + 1
