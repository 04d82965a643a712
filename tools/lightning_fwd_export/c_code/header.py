"""The header of a program as C: its guide, its macros, and the prototypes of its functions."""

from __future__ import annotations

from ..pte import Method
from .kernels import number
from .stages import RATE, StageTable, is_end, is_stage, kept_beside
from .state import StateTensors, shape, state_macros
from .unit import Unit

_PARAMETERS = {
    "train_step": (["input", "target"], ["loss", "logits"]),
    "forward": (["input"], ["logits"]),
    "watch": (["input"], ["logits", "features"]),
}

_INTEGER = {
    "train_step": (["input", "target", "rate"], ["logits", "logits_exponent"]),
    "forward": (["input"], ["logits", "logits_exponent"]),
}


def setter(rate: str) -> str:
    return rate.replace(RATE, "lfwd_set_rate", 1)


def parameters(m: Method) -> tuple[list[str], list[str]]:
    """Names of a function's inputs and outputs: what they are in the methods of this exporter, numbers in those of others."""
    in_integers = bool(m.outputs) and m.outputs[0].ctype == "int32_t"
    inputs, outputs = (_INTEGER if in_integers else _PARAMETERS).get(
        m.name, (["input", "target", "rate"], ["loss"]) if is_stage(m.name) else ([], [])
    )
    known = len(m.inputs) <= len(inputs) and len(m.outputs) <= len(outputs)
    numbered = [f"in{k}" for k in range(len(m.inputs))], [f"out{k}" for k in range(len(m.outputs))]
    return (inputs[: len(m.inputs)], outputs[: len(m.outputs)]) if known else numbered


def prototype(m: Method) -> str:
    names = parameters(m)
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
RATE_COMMENT = "/* Another learning rate from the next step on; that of the export again after lfwd_init(). */"


def header(source: str, run, state: StateTensors, unit: Unit, sizes: dict[int, int], prototypes, numbers, table: StageTable) -> str:
    macros = [f"#define {unit.arenas[k].upper()}_RAM {size} /* bytes */" for k, size in sorted(sizes.items())]
    macros.append(f"#define LFWD_SCRATCH_RAM {unit.scratch_bytes} /* bytes, the largest; they lie in the activations */")
    if state.learned:
        macros.append(f"#define LFWD_WEIGHTS_BYTES {sum(t.nbytes for t in state.learned)}")
        macros += state_macros(state, [data for _, data in unit.constants], kept_beside(table.stages))
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
    end = "what a round of a stage ends with: layers set right"
    width = max(26, *(len(f"lfwd_{name}(...); ") for name in run))
    known |= {n: step if is_stage(n) else end for n in run if is_stage(n) or is_end(n)}
    lines += [f"    {f'lfwd_{n}(...);':{width}}{known.get(n, 'see the prototype below')}" for n in run]
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
