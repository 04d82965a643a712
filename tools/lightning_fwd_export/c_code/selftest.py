"""Golden inputs and outputs of a program as C: a board that is flashed says by one call whether it computes what was exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .kernels import number

_TYPES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t"}
TOLERANCE = 1e-4  #: of floats, relative to the largest output where that is above 1: processors round products and sums otherwise

_HEAD = """/* Golden inputs and outputs, made on the exporting machine. Compiled with LFWD_SELFTEST alone: they take Flash. */
#include "lfwd_model.h"

#ifdef LFWD_SELFTEST

static int differ_float(const float *got, const float *wanted, int32_t count)
{
    float largest = 1.0f;
    for (int32_t i = 0; i < count; i++) {
        const float size = wanted[i] < 0.0f ? -wanted[i] : wanted[i];
        if (size > largest) largest = size;
    }
    for (int32_t i = 0; i < count; i++) {
        const float difference = got[i] < wanted[i] ? wanted[i] - got[i] : got[i] - wanted[i];
        if (!(difference <= TOLERANCE * largest)) return 1; /* NaN too */
    }
    return 0;
}
"""

_DIFFER = """
static int differ_TYPE(const TYPE *got, const TYPE *wanted, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (got[i] != wanted[i]) return 1;
    return 0;
}
"""


def write_selftest(run: Callable[..., Iterable], calls: list[tuple[str, tuple]]) -> str:
    """``lfwd_selftest.c``.

    Args:
        run: ``(method, *inputs) -> outputs`` on this machine, from the initial weights on.
        calls: method and its inputs, in order.
    """
    arrays, body, types, known = [], [], set(), {}

    def array(name: str, values: object) -> tuple[str, str, int]:
        flat = np.asarray(values).reshape(-1)
        ctype = _TYPES[str(flat.dtype)]
        first = known.setdefault((ctype, flat.tobytes()), name)  # the same samples are predicted and trained on
        if first != name:
            return first, ctype, flat.size
        text = [number(v.item(), ctype) for v in flat]
        rows = ",\n    ".join(", ".join(text[i : i + 8]) for i in range(0, len(text), 8))
        arrays.append(f"static const {ctype} {name}[{max(len(text), 1)}] = {{\n    {rows}}};")
        return name, ctype, len(text)

    for k, (method, inputs) in enumerate(calls, 1):
        outputs = list(run(method, *inputs))
        given = [array(f"input_{k}_{i}", x)[0] for i, x in enumerate(inputs)]
        wanted = [array(f"wanted_{k}_{i}", x) for i, x in enumerate(outputs)]
        got = [f"got_{k}_{i}" for i in range(len(outputs))]
        arrays += [f"static {ctype} {name}[{max(count, 1)}];" for name, (_, ctype, count) in zip(got, wanted, strict=True)]
        types |= {ctype for _, ctype, _ in wanted}
        body.append(f"    lfwd_{method}({', '.join([*given, *got])});")
        tests = [f"differ_{t.removesuffix('_t')}({g}, {w}, {count})" for g, (w, t, count) in zip(got, wanted, strict=True)]
        if tests:
            body.append(f"    if (wrong == 0 && ({' || '.join(tests)})) wrong = {k};")
    head = _HEAD.replace("TOLERANCE", number(TOLERANCE, "float"))
    if "float" not in types:
        head = head[: head.index("\nstatic int")]
    for ctype in sorted(types - {"float"}):
        head += _DIFFER.replace("differ_TYPE", f"differ_{ctype.removesuffix('_t')}").replace("TYPE", ctype)
    test = ["int lfwd_selftest(void)", "{", "    int wrong = 0;", "    lfwd_init();", *body, "    lfwd_init();", "    return wrong;", "}"]
    return "\n".join([head, *arrays, "", *test, "", "#endif", ""])
