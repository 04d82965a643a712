"""From what a sensor gives to what a program takes, as C: pixels to 0..1, the source's means and deviations, MFCC, int8."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_fwd.data.audio import mfcc_shape
from lightning_fwd.data.inputs import InputForm

from ..errors import ExportError
from ..pte import Program, Tensor
from .front_end import FRONT_END, write_front_end
from .kernels import number

_HEADER = """
/* What a sensor gives, as the program takes it: {what}. {layout}. */
void lfwd_prepare(const {raw} raw[{count}], {input} input[LFWD_{method}_IN0]);
"""


def add_prepare(files: dict[str, str], form: InputForm | None, program: Program) -> None:
    """Add ``lfwd_prepare`` to generated files where it is known how the data become inputs."""
    if form is not None:
        if form.recording:
            files[FRONT_END] = write_front_end()
        prototype, files["lfwd_prepare.c"] = write_prepare(form, program)
        before, end, after = files["lfwd_model.h"].rpartition("\n#ifdef __cplusplus\n}")
        files["lfwd_model.h"] = before + prototype + end + after


def write_prepare(form: InputForm, program: Program) -> tuple[str, str]:
    """Prototype and definition of ``lfwd_prepare``: the data module's arithmetic, operation by operation, so that the same bits reach the
    network (of MFCC: but for the rounding of the transform).

    Args:
        form: of the data that the network was trained on.
        program: its first method's first input has the form's channels.

    Raises:
        ExportError: the form is one of recordings, and the network reads something else than their MFCC.
    """
    tensor = program.methods["forward"].inputs[0]
    last = bool(tensor.order) and len(tensor.order) > 2 and tensor.order[1] != 1  # NHWC
    make = _of_recordings if form.recording else _of_values
    tables, body, words, value = make(form, tensor, last)
    put, more = _put(value, tensor, program.numbers)
    words += more
    body = [line.replace("PUT", statement) for line in body for statement in (put if "PUT" in line else [""])]
    raw = {"uint8": "uint8_t", "int16": "int16_t", "float": "float"}[form.stored]
    count = str(tensor.shape[0] * form.recording) if form.recording else "LFWD_FORWARD_IN0"
    layout = "Channels last" if last else "Channels first" if len(tensor.shape) > 2 else "In the order of training"
    header = _HEADER.format(what=", ".join(words), layout=layout, raw=raw, count=count, input=tensor.ctype, method="FORWARD")
    lines = [
        "/* From what a sensor gives to what the program takes. */",
        '#include "lfwd_model.h"',
        *(["", "#include <math.h>"] if tensor.ctype == "int8_t" else []),
        *(["", '#include "lfwd_mfcc.h"'] if form.recording else []),
        "",
        *tables,
        *([""] if tables else []),
        f"void lfwd_prepare(const {raw} raw[{count}], {tensor.ctype} input[LFWD_FORWARD_IN0])",
        "{",
        *body,
        "}",
        "",
    ]
    return header, "\n".join(lines)


_Made = tuple[list[str], list[str], list[str], str]  #: tables, statements with PUT where the value is stored, words, the value


def _of_values(form: InputForm, tensor: Tensor, last: bool) -> _Made:
    """Pixels or signals, one by one."""
    channels = len(form.mean) if form.mean else 1
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
    head = f"    for (int32_t i = 0; i < {tensor.count}; i++) {{"
    return tables, [head, *(f"        {step}" for step in steps if step), "        PUT", "    }"], words, value


def _of_recordings(form: InputForm, tensor: Tensor, last: bool) -> _Made:
    """Sound, frame by frame."""
    _, frames, coefficients = mfcc_shape(form.recording)
    if tensor.count != tensor.shape[0] * frames * coefficients:
        raise ExportError(
            f"the network reads {tensor.count // tensor.shape[0]} values",
            f"{form.recording} samples of sound have {frames} x {coefficients} MFCC",
            "export without these data, and make the input yourself",
        )
    body = [
        "    int8_t steps[LFWD_MFCC_COEFFICIENTS];",
        "    float peak = 0.0f;",
        f"    for (int32_t f = 0; f < {tensor.shape[0] * frames}; f++) {{",
        f"        const int16_t *const recording = raw + f / {frames} * {form.recording};",
        f"        if (f % {frames} == 0) peak = lfwd_mfcc_peak(recording, {form.recording});",
        f"        lfwd_mfcc(recording + f % {frames} * LFWD_MFCC_HOP, peak, steps);",
        "        for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) {",
        "            const int32_t i = f * LFWD_MFCC_COEFFICIENTS + k;",
        "            PUT",
        "        }",
        "    }",
    ]
    return [], body, [f"MFCC of {form.recording} samples of sound"], "(float)(steps[k] - LFWD_MFCC_ZERO) * LFWD_MFCC_STEP"


def _put(value: str, tensor: Tensor, numbers: Mapping[str, int | float]) -> tuple[list[str], list[str]]:
    """Statements that store a value as the program takes it, and words for it."""
    if tensor.ctype != "int8_t":
        return [f"input[i] = {value};"], []
    scale, zero, low = numbers.get("forward_input0_scale"), 0, -128
    if scale is None:  # a step in integers
        scale, low = 2.0 ** -numbers["input_exponent"], -127
    else:
        zero = numbers["forward_input0_zp"]
    stored = f"(int8_t)(q < {low}.0f ? {low}.0f : q > 127.0f ? 127.0f : q)"
    return [
        f"const float q = nearbyintf(({value}) / {number(scale, 'float')}) + {number(float(zero), 'float')};",
        f"input[i] = {stored}; /* NaN: undefined, as from a broken sensor */",
    ], ["to int8"]
