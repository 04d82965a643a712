"""The tables of the front end of sound: ``lfwd_mfcc.c`` by :mod:`lightning_fwd.data.audio`, ``lfwd_mfcc_integer.c`` by
:mod:`lightning_fwd.data.integer_audio`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lightning_fwd.data import integer_audio
from lightning_fwd.data.audio import BANDS, COEFFICIENTS, FFT, FRAME, HOP, STEP, ZERO, tables
from lightning_fwd.data.inputs import InputForm

from .kernels import number

FRONT_END = "lfwd_mfcc_tables.h"  #: where it is, ``lfwd_mfcc.c`` belongs to the export
INTEGER_FRONT_END = "lfwd_mfcc_integer_tables.h"  #: the same of ``lfwd_mfcc_integer.c``


def front_end_ram(form: InputForm | None) -> dict[str, int]:
    """Static memory of the front end, where an input is made of sound."""
    return {"input": 4 * FFT} if form and form.recording else {}


def front_end_entries(form: InputForm | None) -> list[str]:
    """What ``lfwd_prepare`` calls of it."""
    if form is None or not form.recording:
        return []
    return ["lfwd_mfcc_listen", "lfwd_mfcc_integer"] if form.integers else ["lfwd_mfcc_peak", "lfwd_mfcc"]


def write_front_end() -> str:
    """``lfwd_mfcc_tables.h``: window, turns of the transform, which mel bands each of its bins belongs to and how much, cosines."""
    triangles, cosines = tables()
    angles = [2 * math.pi * k / FFT for k in range(FFT // 2)]
    turns = [f"{{{_float(math.cos(a))}, {_float(-math.sin(a))}}}" for a in angles]
    window = torch.hann_window(FRAME, periodic=True)[: FRAME // 2 + 1].tolist()
    arrays = [
        _array("float", "window", f"[{len(window)}]", map(_float, window)),
        _array("float", "turn", f"[{len(turns)}][2]", turns),
        *_bands(triangles, "float", _float),
        _array("float", "cosines", f"[{BANDS}][{COEFFICIENTS}]", _rows(cosines, _float)),
    ]
    return _header("LFWD_MFCC_TABLES_H", triangles, {"STEP": _float(STEP)}, arrays)


def write_integer_front_end() -> str:
    """``lfwd_mfcc_integer_tables.h``: the same in integers, and roots and logarithms."""
    known = integer_audio.integer_tables()
    macros = {
        "NORMAL": integer_audio.NORMAL, "BELOW": integer_audio.SPECTRUM + integer_audio.WEIGHT, "SILENCE": f"({integer_audio.SILENCE})",
        "NO_PEAK": f"({integer_audio.NO_PEAK})", "FLOOR_OF_PEAK": integer_audio.FLOOR_OF_PEAK, "FLOOR_BITS": integer_audio.FLOOR_BITS,
    }  # fmt: skip
    plain = {"window": "uint16_t", "sines": "int32_t", "roots": "uint32_t", "logs": "uint32_t"}
    arrays = [
        *(_array(ctype, name, f"[{len(known[name])}]", map(str, known[name].tolist())) for name, ctype in plain.items()),
        *_bands(known["weights"], "uint16_t", str),
        _array("int16_t", "cosines", f"[{BANDS}][{COEFFICIENTS}]", _rows(known["cosines"], str)),
    ]
    return _header("LFWD_MFCC_INTEGER_TABLES_H", known["weights"], macros, arrays)


def _used(weights: Tensor) -> range:
    """Bins that belong to a band."""
    used = (weights > 0).any(1).nonzero().flatten().tolist()
    return range(used[0], used[-1] + 1)


def _bands(triangles: Tensor, ctype: str, text: Callable[..., str]) -> list[str]:
    """Of each bin that belongs to any: the mel bands, and the weights there."""
    bins, weights = [], list[str]()
    for row in triangles[_used(triangles)]:
        there = (row > 0).nonzero().flatten().tolist()
        bins.append(f"{{{there[0] if there else 0}, {len(there)}}}")
        weights += map(text, row[there].tolist())
    return [_array("lfwd_mfcc_bin", "bins", f"[{len(bins)}]", bins), _array(ctype, "weights", f"[{len(weights)}]", weights)]


def _header(guard: str, triangles: Tensor, more: dict[str, str | int], arrays: Sequence[str]) -> str:
    used = _used(triangles)
    macros = {
        "FRAME": FRAME, "HOP": HOP, "FFT": FFT, "BANDS": BANDS, "COEFFICIENTS": COEFFICIENTS, "FIRST_BIN": f"{used[0]}u",
        "BINS": f"{len(used)}u", "ZERO": ZERO,
    }  # fmt: skip
    return "\n".join(
        [
            "/* The front end of sound in numbers; constants, so they stay in Flash. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "#include <stdint.h>",
            "",
            *(f"#define LFWD_MFCC_{name} {value}" for name, value in (macros | more).items()),
            "",
            "/* The mel bands of a bin of the transform: the first, and how many. */",
            "typedef struct {",
            "    uint8_t first, bands;",
            "} lfwd_mfcc_bin;",
            "",
            "#ifdef LFWD_MFCC_TABLES",
            *arrays,
            "#endif",
            "#endif",
            "",
        ]
    )


def _rows(matrix: Tensor, text: Callable[..., str]) -> list[str]:
    return [f"{{{', '.join(map(text, row))}}}" for row in matrix.tolist()]


def _float(value: float) -> str:
    return number(value, "float")


def _array(ctype: str, name: str, size: str, values: Iterable[str]) -> str:
    text = list(values)
    lines = ",\n    ".join(", ".join(text[i : i + 8]) for i in range(0, len(text), 8))
    return f"static const {ctype} lfwd_mfcc_{name}{size} = {{\n    {lines}}};"
