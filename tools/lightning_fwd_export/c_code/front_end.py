"""The tables of the front end of sound, ``lfwd_mfcc.c``, from those of :mod:`lightning_fwd.data.audio`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from lightning_fwd.data.audio import BANDS, COEFFICIENTS, FFT, FRAME, HOP, STEP, ZERO, tables
from lightning_fwd.data.inputs import InputForm

from .kernels import number

FRONT_END = "lfwd_mfcc_tables.h"  #: where it is, ``lfwd_mfcc.c`` belongs to the export


def front_end_ram(form: InputForm | None) -> dict[str, int]:
    """Static memory of ``lfwd_mfcc.c``, where an input is made of sound."""
    return {"input": 4 * FFT} if form and form.recording else {}


def write_front_end() -> str:
    """``lfwd_mfcc_tables.h``: window, turns of the transform, which mel bands each of its bins belongs to and how much, cosines."""
    triangles, cosines = tables()
    used = (triangles > 0).any(1).nonzero().flatten().tolist()
    first, count = used[0], used[-1] - used[0] + 1
    bins, weights = [], list[float]()
    for row in triangles[first : first + count]:
        there = (row > 0).nonzero().flatten().tolist()
        bins.append(f"{{{there[0] if there else 0}, {len(there)}}}")
        weights += row[there].tolist()
    angles = [2 * math.pi * k / FFT for k in range(FFT // 2)]
    turns = [f"{{{_float(math.cos(a))}, {_float(-math.sin(a))}}}" for a in angles]
    rows = [f"{{{', '.join(map(_float, row))}}}" for row in cosines.tolist()]
    window = torch.hann_window(FRAME, periodic=True)[: FRAME // 2 + 1].tolist()
    macros = {
        "FRAME": FRAME, "HOP": HOP, "FFT": FFT, "BANDS": BANDS, "COEFFICIENTS": COEFFICIENTS, "FIRST_BIN": f"{first}u",
        "BINS": f"{count}u", "STEP": _float(STEP), "ZERO": ZERO,
    }  # fmt: skip
    return "\n".join(
        [
            "/* The front end of sound in numbers; constants, so they stay in Flash. */",
            "#ifndef LFWD_MFCC_TABLES_H",
            "#define LFWD_MFCC_TABLES_H",
            "#include <stdint.h>",
            "",
            *(f"#define LFWD_MFCC_{name} {value}" for name, value in macros.items()),
            "",
            "/* The mel bands of a bin of the transform: the first, and how many. */",
            "typedef struct {",
            "    uint8_t first, bands;",
            "} lfwd_mfcc_bin;",
            "",
            "#ifdef LFWD_MFCC_TABLES",
            _array("float", "window", f"[{len(window)}]", map(_float, window)),
            _array("float", "turn", f"[{len(turns)}][2]", turns),
            _array("lfwd_mfcc_bin", "bins", f"[{len(bins)}]", bins),
            _array("float", "weights", f"[{len(weights)}]", map(_float, weights)),
            _array("float", "cosines", f"[{BANDS}][{COEFFICIENTS}]", rows),
            "#endif",
            "#endif",
            "",
        ]
    )


def _float(value: float) -> str:
    return number(value, "float")


def _array(ctype: str, name: str, size: str, values: Iterable[str]) -> str:
    text = list(values)
    lines = ",\n    ".join(", ".join(text[i : i + 8]) for i in range(0, len(text), 8))
    return f"static const {ctype} lfwd_mfcc_{name}{size} = {{\n    {lines}}};"
