"""From what a sensor gives to what a program takes, as C: pixels to 0..1, the source's means and deviations, MFCC, int8."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lightning_fwd.data.audio import STEP, ZERO, mfcc_shape
from lightning_fwd.data.inputs import InputForm

from ..errors import ExportError
from ..pte import Program, Tensor
from .front_end import FRONT_END, INTEGER_FRONT_END, write_front_end, write_integer_front_end
from .kernels import number

_HEADER = """
/* What a sensor gives, as the program takes it: {what}. {layout}. */
void lfwd_prepare(const {raw} raw[{count}], {input} input[LFWD_{method}_IN0]);
"""


def add_prepare(files: dict[str, str], form: InputForm | None, program: Program) -> None:
    """Add ``lfwd_prepare`` to generated files where it is known how the data become inputs."""
    if form is not None:
        if form.recording and form.integers:
            files[INTEGER_FRONT_END] = write_integer_front_end()
        elif form.recording:
            files[FRONT_END] = write_front_end()
        prototype, files["lfwd_prepare.c"] = write_prepare(form, program)
        before, end, after = files["lfwd_model.h"].rpartition("\n#ifdef __cplusplus\n}")
        files["lfwd_model.h"] = before + prototype + end + after


def write_prepare(form: InputForm, program: Program) -> tuple[str, str]:
    """Prototype and definition of ``lfwd_prepare``: the data module's arithmetic, operation by operation, so that the same bits reach the
    network (of MFCC in float: but for the rounding of the transform).

    What has 256 values, a pixel or a step of MFCC, becomes int8 by a table of what Python makes of each: no float is left then, but of MFCC
    in float.

    Args:
        form: of the data that the network was trained on.
        program: its first method's first input has the form's channels.

    Raises:
        ExportError: the form is one of recordings, and the network reads something else than their MFCC.
    """
    tensor = program.methods["forward"].inputs[0]
    last = bool(tensor.order) and len(tensor.order) > 2 and tensor.order[1] != 1  # NHWC
    if form.recording:
        made = _of_recordings(form, tensor, program.numbers)
    elif form.stored == "uint8" and tensor.ctype == "int8_t":
        made = _of_bytes(form, tensor, last, program.numbers)
    else:
        made = _of_values(form, tensor, last, program.numbers)
    tables, body, words = made
    raw = {"uint8": "uint8_t", "int16": "int16_t", "float": "float"}[form.stored]
    count = str(tensor.shape[0] * form.recording) if form.recording else "LFWD_FORWARD_IN0"
    layout = "Channels last" if last else "Channels first" if len(tensor.shape) > 2 else "In the order of training"
    header = _HEADER.format(what=", ".join(words), layout=layout, raw=raw, count=count, input=tensor.ctype, method="FORWARD")
    lines = [
        "/* From what a sensor gives to what the program takes. */",
        '#include "lfwd_model.h"',
        *(["", "#include <math.h>"] if any("nearbyintf" in line for line in body) else []),
        *(["", f'#include "lfwd_mfcc{"_integer" if form.integers else ""}.h"'] if form.recording else []),
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


_Made = tuple[list[str], list[str], list[str]]  #: tables, statements, words
_Numbers = Mapping[str, int | float]


def _words(form: InputForm) -> list[str]:
    words = ["values"] if form.stored == "float" else ["pixels, 0..255, to 0..1"]
    words += [f"times {form.factor:g}"] if form.factor != 1 else []
    return words + (["less the source's means, over its deviations"] if form.mean else [])


def _channel(form: InputForm, tensor: Tensor, last: bool) -> str:
    """Which of the form's channels value i belongs to."""
    channels = len(form.mean)
    return f"i % {channels}" if last else f"i / {tensor.count // tensor.shape[0] // channels} % {channels}"


def _of_bytes(form: InputForm, tensor: Tensor, last: bool, numbers: _Numbers) -> _Made:
    """Pixels to int8, by a table for each channel."""
    x = (torch.arange(256).float() / 255)[None]
    if form.factor != 1:
        x = x * form.factor
    if form.mean:
        x = (x - torch.tensor(form.mean)[:, None]) / torch.tensor(form.std)[:, None]
    rows = _as_stored(x, numbers)
    at = f"[{_channel(form, tensor, last)}]" if len(rows) > 1 else "[0]"
    body = [f"    for (int32_t i = 0; i < {tensor.count}; i++) input[i] = stored{at}[raw[i]];"]
    return [_table(f"[{len(rows)}][256]", rows)], body, [*_words(form), "to int8"]


def _of_values(form: InputForm, tensor: Tensor, last: bool, numbers: _Numbers) -> _Made:
    """Pixels or signals, one by one."""
    steps = [f"const {'float x = (float)raw[i]' if form.stored == 'float' else 'float x = (float)raw[i] / 255.0f'};"]
    value, tables = "x", []
    if form.factor != 1:
        value = f"x * {number(form.factor, 'float')}"
    if form.mean:
        one = len(form.mean) == 1
        value = "(x - mean[0]) / deviation[0]" if one else "(x - mean[c]) / deviation[c]"
        steps += [] if one else [f"const int32_t c = {_channel(form, tensor, last)};"]
        for what, values in (("mean", form.mean), ("deviation", form.std)):
            tables.append(f"static const float {what}[{len(values)}] = {{{', '.join(number(v, 'float') for v in values)}}};")
    steps += _put(value, tensor, numbers)
    head = f"    for (int32_t i = 0; i < {tensor.count}; i++) {{"
    return tables, [head, *(f"        {step}" for step in steps), "    }"], _words(form) + ["to int8"] * (tensor.ctype == "int8_t")


def _of_recordings(form: InputForm, tensor: Tensor, numbers: _Numbers) -> _Made:
    """Sound, frame by frame."""
    _, frames, coefficients = mfcc_shape(form.recording)
    if tensor.count != tensor.shape[0] * frames * coefficients:
        raise ExportError(
            f"the network reads {tensor.count // tensor.shape[0]} values",
            f"{form.recording} samples of sound have {frames} x {coefficients} MFCC",
            "export without these data, and make the input yourself",
        )
    if form.integers:
        kept, each, heard = "lfwd_mfcc_loudness loudness;", "lfwd_mfcc_integer", "&loudness"
        listen = f"lfwd_mfcc_listen(recording, {form.recording}, &loudness)"
    else:
        kept, each, heard = "float peak = 0.0f;", "lfwd_mfcc", "peak"
        listen = f"peak = lfwd_mfcc_peak(recording, {form.recording})"
    tables, value = [], f"(float)(steps[k] - LFWD_MFCC_ZERO) * {number(STEP, 'float')}"
    if tensor.ctype == "int8_t":
        tables = [_table("[256]", _as_stored(((torch.arange(-128, 128) - ZERO).float() * STEP)[None], numbers))]
        value = "stored[steps[k] + 128]"
    body = [
        "    int8_t steps[LFWD_MFCC_COEFFICIENTS];",
        f"    {kept}",
        f"    for (int32_t f = 0; f < {tensor.shape[0] * frames}; f++) {{",
        f"        const int16_t *const recording = raw + f / {frames} * {form.recording};",
        f"        if (f % {frames} == 0) {listen};",
        f"        {each}(recording + f % {frames} * LFWD_MFCC_HOP, {heard}, steps);",
        f"        for (int32_t k = 0; k < LFWD_MFCC_COEFFICIENTS; k++) input[f * LFWD_MFCC_COEFFICIENTS + k] = {value};",
        "    }",
    ]
    words = [f"MFCC of {form.recording} samples of sound{', in integers' if form.integers else ''}"]
    return tables, body, words + ["to int8"] * (tensor.ctype == "int8_t")


def _scale(numbers: _Numbers) -> tuple[float, int, int]:
    """Of the program's int8 input: a step, its zero, its least value."""
    scale = numbers.get("forward_input0_scale")
    if scale is None:  # a step in integers
        return 2.0 ** -numbers["input_exponent"], 0, -127
    return scale, int(numbers["forward_input0_zp"]), -128


def _as_stored(x: torch.Tensor, numbers: _Numbers) -> list[list[int]]:
    """Real values as the program takes them."""
    scale, zero, low = _scale(numbers)
    return ((x / scale).round() + zero).clamp(low, 127).int().tolist()


def _table(size: str, rows: list[list[int]]) -> str:
    lines = [", ".join(map(str, row[i : i + 32])) for row in rows for i in range(0, 256, 32)]
    braced = [f"{{{row}}}" for row in (",\n     ".join(lines[i : i + 8]) for i in range(0, len(lines), 8))]
    inner = ",\n    ".join(braced)
    return f"static const int8_t stored{size} = {inner if size == '[256]' else '{' + inner + '}'};"


def _put(value: str, tensor: Tensor, numbers: _Numbers) -> list[str]:
    """Statements that store a value as the program takes it."""
    if tensor.ctype != "int8_t":
        return [f"input[i] = {value};"]
    scale, zero, low = _scale(numbers)
    return [
        f"const float q = nearbyintf(({value}) / {number(scale, 'float')}) + {number(float(zero), 'float')};",
        f"input[i] = (int8_t)(q < {low}.0f ? {low}.0f : q > 127.0f ? 127.0f : q); /* NaN: undefined, as from a broken sensor */",
    ]
