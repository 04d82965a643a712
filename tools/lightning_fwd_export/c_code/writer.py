"""Write a checked program as C: ``lfwd_model.h``, ``lfwd_model.c`` and ``lfwd_constants.h``."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .. import __name__ as _package
from ..errors import ExportError
from ..pte import Method, Program, Tensor
from . import elementwise, int8, integer, integer_body, integer_goodness, layers, movement, reduce  # noqa: F401  (they fill KERNELS)
from .kernels import KERNELS, Context, no_kernel, number
from .liveness import ACTIVATIONS, Gaps
from .stages import RATE, Stage, StageTable, is_stage
from .state import GET_WEIGHTS, WEIGHT_PROTOTYPES, StateTensors, model_hash, shape, state_macros, state_of, state_table, weight_access

LEARNING_RATE, MOMENTUM = "learning_rate", "momentum"  #: numbers of a program that holds SGD; of one method alone: METHOD_learning_rate
_FORMATS = {"float": "f", "int8_t": "b", "uint8_t": "B", "int16_t": "h", "int32_t": "i", "int64_t": "q"}


@dataclass
class Unit:
    """What the calls of all methods share: constants, shape tables and arenas. ``gaps``: where scratch of the method at hand may lie."""

    constants: dict[tuple[str, bytes], str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    arenas: dict[int, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    gaps: Gaps | None = None
    activation_bytes: int = 0
    scratch_bytes: int = 0
    learning_rate: float | None = None
    momentum: float = 0.0
    rates: dict[str, str] = field(default_factory=dict)
    rate_name: str = RATE
    rate_macro: str = ""

    def pointer(self, t: Tensor) -> str:
        if t.arena is None:
            return self.named_constant(t.ctype, t.data)
        self.used[f"t{t.index}"] = f"{t.ctype} *const t{t.index} = (void *)({self.arenas[t.arena]} + {t.offset}); /* {shape(t)} */"
        return f"t{t.index}"

    def constant(self, ctype: str, values: list) -> str:
        return self.named_constant(ctype, struct.pack(f"<{len(values)}{_FORMATS[ctype]}", *values))

    def named_constant(self, ctype: str, data: bytes) -> str:
        return self.constants.setdefault((ctype, data), f"constant_{len(self.constants)}")

    def table(self, ctype: str, fields: list) -> str:
        text = f"{ctype} %s = {_braces(fields)};"
        return "&" + self.tables.setdefault(text, f"{ctype.removeprefix('lfwd_')}_{len(self.tables)}")

    def rate(self, value: float) -> str:
        """The factor of an update. What is a multiple of the program's learning rate follows ``lfwd_set_rate``; with momentum only the
        parameters' own updates are, by the rate itself (``fuse_step.fuse_updates``): velocities take gradients as they are."""
        if self.learning_rate is None or value == 0 or (self.momentum and value != self.learning_rate):
            return number(value, "float")
        self.rates[self.rate_name] = self.rate_macro
        factor = value / self.learning_rate
        return self.rate_name if factor == 1 else f"{number(factor, 'float')} * {self.rate_name}"

    def rate_of(self, method: str, numbers: Mapping[str, int | float]) -> None:
        """The rate and momentum that a method's updates have: its own, or the program's."""
        own = f"{method}_{LEARNING_RATE}" in numbers
        self.rate_name, prefix = (f"{RATE}_{method}", f"{method}_") if own else (RATE, "")
        self.rate_macro = f"LFWD_{prefix}{LEARNING_RATE}".upper()
        self.learning_rate, self.momentum = numbers.get(prefix + LEARNING_RATE), numbers.get(prefix + MOMENTUM, 0.0)
        if self.momentum and self.learning_rate == 1:  # then a parameter's update looks like a velocity's
            self.learning_rate = None

    def scratch(self, nbytes: int, position: int) -> str:
        """Pointer to working memory of call ``position``: bytes of the activation arena that nothing else uses meanwhile."""
        place = self.gaps.place(position, nbytes)
        self.activation_bytes = max(self.activation_bytes, self.gaps.end)
        self.scratch_bytes = max(self.scratch_bytes, nbytes)
        return f"(void *)({self.arenas.setdefault(ACTIVATIONS, 'lfwd_activations')} + {place})"


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
        bodies += [state_table(kept, unit.arenas), weight_access(state.learned, unit.arenas)]
    bodies += [f"void {_setter(name)}(float rate)\n{{\n    {name} = rate;\n}}" for name in unit.rates]
    table = StageTable(stages, defaults, run, state, unit)
    bodies += table.bodies
    if unit.activation_bytes:
        sizes[ACTIVATIONS] = max(sizes.get(ACTIVATIONS, 0), unit.activation_bytes)
    init = [f"    {_initialise(t, unit)};" for t in state.in_memory_order()]
    init += [f"    {name} = {initial};" for name, initial in unit.rates.items()]
    init += [f"    memcpy({name}, initial_{name}, sizeof {name});" for name in table.arrays]
    prototypes = (
        [_prototype(m) + ";" for m in run.values()]
        + (WEIGHT_PROTOTYPES if state.learned else [])
        + ([_RATE_COMMENT] if unit.rates else [])
        + [f"void {_setter(name)}(float rate);" for name in unit.rates]
    )
    files = {
        "lfwd_model.h": _header(source, run, kept, unit, sizes, prototypes, program.numbers, table),
        "lfwd_constants.h": _constants(unit),
        "lfwd_model.c": _source(source, unit, sizes, init, bodies, table.arrays),
    }
    ram = {unit.arenas[k]: size for k, size in sorted(sizes.items()) if size} | dict.fromkeys(unit.rates, 4)
    ram |= dict.fromkeys(table.arrays, 12)
    constants = sum(len(data) for _, data in unit.constants) + 4 * sum(_numbers(text) for text in unit.tables)
    identity = (model_hash(kept, [data for _, data in unit.constants]), kept.nbytes) if state.learned else (0, 0)
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
    inputs, outputs = _parameters(m)
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
    return "\n".join([_prototype(m), "{", *locals_, "", *lines, "}"])


_PARAMETERS = {
    "train_step": (["input", "target"], ["loss", "logits"]),
    "forward": (["input"], ["logits"]),
    "watch": (["input"], ["logits", "features"]),
}

_INTEGER = {
    "train_step": (["input", "target", "rate"], ["logits", "logits_exponent"]),
    "forward": (["input"], ["logits", "logits_exponent"]),
}


def _setter(rate: str) -> str:
    return rate.replace(RATE, "lfwd_set_rate", 1)


def _parameters(m: Method) -> tuple[list[str], list[str]]:
    """Names of a function's inputs and outputs: what they are in the methods of this exporter, numbers in those of others."""
    in_integers = bool(m.outputs) and m.outputs[0].ctype == "int32_t"
    inputs, outputs = (_INTEGER if in_integers else _PARAMETERS).get(
        m.name, (["input", "target", "rate"], ["loss"]) if is_stage(m.name) else ([], [])
    )
    known = len(m.inputs) <= len(inputs) and len(m.outputs) <= len(outputs)
    numbered = [f"in{k}" for k in range(len(m.inputs))], [f"out{k}" for k in range(len(m.outputs))]
    return (inputs[: len(m.inputs)], outputs[: len(m.outputs)]) if known else numbered


def _prototype(m: Method) -> str:
    names = _parameters(m)
    inputs = [f"const {t.ctype} {name}[{max(t.count, 1)}]" for name, t in zip(names[0], m.inputs, strict=True)]
    outputs = [f"{t.ctype} {name}[{max(t.count, 1)}]" for name, t in zip(names[1], m.outputs, strict=True)]
    return f"void lfwd_{m.name}({', '.join(inputs + outputs) or 'void'})"


_REGION = ["typedef struct {", "    uint8_t *bytes;", "    uint32_t count;", "} lfwd_region;"]
_STATE = [
    "/* Where all that lives across calls lies; lfwd_store.h keeps it. */",
    "extern const lfwd_region lfwd_state[LFWD_STATE_REGIONS];",
    "",
    "#ifdef LFWD_SELFTEST",
    "/* A prediction, steps (two, or one of each stage), another prediction against what the exporting machine got, then lfwd_init().",
    " * 0, or the number of the result that is wrong: 1 the first prediction, 2 the first step, and so on. */",
    "int lfwd_selftest(void);",
    "#endif",
]
_RATE_COMMENT = "/* Another learning rate from the next step on; that of the export again after lfwd_init(). */"


def _header(source: str, run, state: StateTensors, unit: Unit, sizes: dict[int, int], prototypes, numbers, table: StageTable) -> str:
    macros = [f"#define {unit.arenas[k].upper()}_RAM {size} /* bytes */" for k, size in sorted(sizes.items())]
    macros.append(f"#define LFWD_SCRATCH_RAM {unit.scratch_bytes} /* bytes, the largest; they lie in the activations */")
    if state.learned:
        macros.append(f"#define LFWD_WEIGHTS_BYTES {sum(t.nbytes for t in state.learned)}")
        macros += state_macros(state, [data for _, data in unit.constants])
    macros += [f"#define LFWD_{k.upper()} {number(v, 'float' if isinstance(v, float) else 'int32_t')}" for k, v in numbers.items()]
    for m in run.values():
        for what, tensors in (("IN", m.inputs), ("OUT", m.outputs)):
            macros += [f"#define LFWD_{m.name.upper()}_{what}{k} {t.count} /* {shape(t)} */" for k, t in enumerate(tensors)]
    macros += table.macros
    return "\n".join(
        [
            _guide(source, run, bool(state.learned)),
            "#ifndef LFWD_MODEL_H",
            "#define LFWD_MODEL_H",
            "#include <stdint.h>",
            "",
            *macros,
            "",
            *(_REGION if state.learned else []),
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "void lfwd_init(void);",
            *prototypes,
            *(_STATE if state.learned else []),
            *table.prototypes,
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "#endif",
            "",
        ]
    )


def _guide(source: str, run: dict[str, Method], has_weights: bool) -> str:
    """The comment on top of the header: what there is and in which order it is called."""
    lines = [f"Generated from {source}.", "", "    lfwd_init();              once, after every reset: the initial weights"]
    known = {
        "train_step": "one step of learning on one batch: updates the weights, returns loss and logits",
        "forward": "a prediction with the present weights",
        "watch": "the same, and the features that lfwd_drift.h notices drift by",
    }
    step = "one step of a stage on one batch; lfwd_adapt.h runs all of them, guarded"
    width = max(26, *(len(f"lfwd_{name}(...); ") for name in run))
    lines += [f"    {f'lfwd_{n}(...);':{width}}{known.get(n, step if is_stage(n) else 'see the prototype below')}" for n in run]
    if has_weights:
        lines += ["    lfwd_save(...);           what was learned, to keep it over a reset; lfwd_load takes it back: lfwd_store.h"]
    lines += [
        "",
        "One call at a time: not from an interrupt while another runs. All memory is static (*_RAM below), constants",
        "are const and stay in Flash; nothing is allocated. int8 inputs are round(x / scale) + zero point, images",
        "channels last (NHWC); class labels are int64_t. A step in integers takes round(x * 2^LFWD_INPUT_EXPONENT)",
        "within -127..127 (NCHW) and its rate as {multiplier, exponent, momentum * 2^15}: rate = multiplier * 2^-exponent,",
        "multiplier below 2^15; logits are integers * 2^-logits_exponent. Compile as the Makefile does: with",
        "-ffp-contract=fast a product and a sum are one instruction (results then differ in the last bits), with",
        "-std=c99 alone they are two.",
    ]
    return "/* " + "\n".join(f" * {line}".rstrip() for line in lines)[3:] + " */"


def _constants(unit: Unit) -> str:
    lines = ["/* Constants of the program; they stay in Flash. */", "#ifndef LFWD_CONSTANTS_H", "#define LFWD_CONSTANTS_H", ""]
    for (ctype, data), name in unit.constants.items():
        values = struct.unpack(f"<{len(data) // struct.calcsize(_FORMATS[ctype])}{_FORMATS[ctype]}", data)
        text = [number(v, ctype) for v in values]
        per_line = 8 if ctype in ("float", "int64_t", "int32_t") else 24
        rows = [", ".join(text[i : i + per_line]) for i in range(0, len(text), per_line)]
        lines.append(f"static const {ctype} {name}[{max(len(values), 1)}] = {{\n    " + ",\n    ".join(rows) + "};")
    return "\n".join([*lines, "#endif", ""])


def _source(source: str, unit: Unit, sizes: dict[int, int], init: list[str], bodies: list[str], numbers: Mapping[str, str]) -> str:
    arenas = [f"static uint8_t {unit.arenas[k]}[{size}] __attribute__((aligned(16)));" for k, size in sorted(sizes.items()) if size]
    tables = ["static const " + text % name for text, name in unit.tables.items()]
    rate = ["", *(f"static float {name}; /* lfwd_init sets it */" for name in unit.rates)] if unit.rates else []
    for name, initial in numbers.items():
        rate += ["", f"static const int32_t initial_{name}[3] = {{{initial}}};", f"static int32_t {name}[3]; /* lfwd_init sets it */"]
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


def _braces(fields: list) -> str:
    return "{" + ", ".join(_braces(f) if isinstance(f, list) else str(f) for f in fields) + "}"
