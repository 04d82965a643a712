"""From what a sensor gives to what a program takes, as C: pixels to 0..1, the source's means and deviations, int8."""

from __future__ import annotations

from lightning_fwd.data.inputs import InputForm

from ..pte import Program
from .kernels import number

_HEADER = """
/* What a sensor gives, as the program takes it: {what}. {layout}. */
void lfwd_prepare(const {raw} raw[LFWD_{method}_IN0], {input} input[LFWD_{method}_IN0]);
"""


def add_prepare(files: dict[str, str], form: InputForm | None, program: Program) -> None:
    """Add ``lfwd_prepare`` to generated files where it is known how the data become inputs."""
    if form is not None:
        prototype, files["lfwd_prepare.c"] = write_prepare(form, program)
        before, end, after = files["lfwd_model.h"].rpartition("\n#ifdef __cplusplus\n}")
        files["lfwd_model.h"] = before + prototype + end + after


def write_prepare(form: InputForm, program: Program) -> tuple[str, str]:
    """Prototype and definition of ``lfwd_prepare``: the data module's arithmetic, operation by operation, so that the same bits reach the
    network.

    Args:
        form: of the data that the network was trained on.
        program: its first method's first input has the form's channels.
    """
    name = "forward"
    tensor = program.methods[name].inputs[0]
    channels = len(form.mean) if form.mean else 1
    last = bool(tensor.order) and len(tensor.order) > 2 and tensor.order[1] != 1  # NHWC
    sample = tensor.count // tensor.shape[0]
    steps = [f"const {'float x = (float)raw[i]' if form.stored == 'float' else 'float x = (float)raw[i] / 255.0f'};"]
    value, words = "x", ["values"] if form.stored == "float" else ["pixels, 0..255, to 0..1"]
    tables = []
    if form.factor != 1:
        value = f"{value} * {number(form.factor, 'float')}"
        words.append(f"times {form.factor:g}")
    if form.mean:
        channel = "i % channels" if last else f"i / {sample // channels} % channels"
        steps.append(f"const int32_t c = {channel};")
        value = "(x - mean[c]) / deviation[c]"
        words.append("less the source's means, over its deviations")
        for what, values in (("mean", form.mean), ("deviation", form.std)):
            tables.append(f"static const float {what}[{channels}] = {{{', '.join(number(v, 'float') for v in values)}}};")
        if channels > 1:
            steps[-1] = steps[-1].replace("channels", str(channels))
        else:
            steps[-1], value = "", value.replace("[c]", "[0]")
    ctype, scale, zero, low = tensor.ctype, program.numbers.get(f"{name}_input0_scale"), 0, -128
    if ctype == "int8_t" and scale is None:  # a step in integers
        scale, low = 2.0 ** -program.numbers["input_exponent"], -127
    elif ctype == "int8_t":
        zero = program.numbers[f"{name}_input0_zp"]
    if ctype == "int8_t":
        words.append("to int8")
        steps.append(f"const float q = nearbyintf(({value}) / {number(scale, 'float')}) + {number(float(zero), 'float')};")
        steps.append(
            f"input[i] = (int8_t)(q < {low}.0f ? {low}.0f : q > 127.0f ? 127.0f : q); /* NaN: undefined, as from a broken sensor */"
        )
    else:
        steps.append(f"input[i] = {value};")
    raw = {"uint8": "uint8_t", "float": "float"}[form.stored]
    layout = "Channels last" if last else "Channels first" if len(tensor.shape) > 2 else "In the order of training"
    header = _HEADER.format(what=", ".join(words), layout=layout, raw=raw, input=ctype, method=name.upper())
    lines = [
        "/* From what a sensor gives to what the program takes. */",
        '#include "lfwd_model.h"',
        *(["", "#include <math.h>"] if ctype == "int8_t" else []),
        "",
        *tables,
        *([""] if tables else []),
        f"void lfwd_prepare(const {raw} raw[LFWD_FORWARD_IN0], {ctype} input[LFWD_FORWARD_IN0])",
        "{",
        f"    for (int32_t i = 0; i < {tensor.count}; i++) {{",
        *(f"        {step}" for step in steps if step),
        "    }",
        "}",
        "",
    ]
    return header, "\n".join(lines)
