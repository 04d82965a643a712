"""The kernels of a step in integers: instructions of plain C and of the body that a core gets, on the emulated boards."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fwd_export.boards import BOARDS
from lightning_fwd_export.boards.build import SEMIHOSTED, board_flags, emulate, kernel_objects, link, write_link_script
from lightning_fwd_export.generate_c import CSRC
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Case:
    """A call, and how often it multiplies."""

    name: str
    call: str
    macs: int
    setting: str = ""


def _linear(out: int, features: int, batch: int) -> list[Case]:
    macs, name = out * features * batch, f"linear {out}x{features}, batch {batch}"
    return [
        Case(f"{name}: update", f"lfwd_int_outer_update(m, &u, {batch}, {out}, {features}, 0, {features}, (uint16_t *)work)", macs),
        Case(f"{name}: velocity", f"lfwd_int_outer_velocity(m, &u, rate, {batch}, {out}, {features}, (uint16_t *)work)", macs),
        Case(f"{name}: error back", f"lfwd_int_linear_back(c, &w, {batch}, {out}, {features}, acc)", macs),
    ]


def _conv(channels: int, outputs: int, image: int, kernel: int, part: int = 0) -> list[Case]:
    learn, taps, name = part or channels, kernel * kernel, f"conv {kernel}x{kernel} {channels}->{outputs}, {image}x{image}"
    geometry = f"{image}, {image}, {outputs}, {image}, {image}, {kernel}, {kernel}, 1, 1, {kernel // 2}, {kernel // 2}, 1, 1, 1"
    shape = f"static const lfwd_int_conv_shape s = {{1, {learn}, {geometry}}};"
    macs = learn * outputs * taps * image * image
    update = f"lfwd_int_conv_update(m, &u, &s, {'index' if part else 0}, {channels}, (uint16_t *)work)"
    if part:
        return [Case(f"{name}, {part} channels: update", update, macs, shape)]
    return [
        Case(f"{name}: update", update, macs, shape),
        Case(f"{name}: velocity", "lfwd_int_conv_velocity(m, &u, rate, &s, (uint16_t *)work)", macs, shape),
        Case(f"{name}: error back", "lfwd_int_conv_back(c, &w, &s, work, acc)", macs, shape),
    ]


CASES = [
    *_linear(10, 64, 1),
    *_linear(64, 256, 1),
    *_linear(64, 256, 16),
    *_conv(64, 64, 8, 3),
    *_conv(64, 64, 8, 3, part=16),
    *_conv(64, 64, 8, 1),
]

_SOURCE = """#include <stdio.h>
#include "board.h"
#include "lfwd_integer.h"
extern void initialise_monitor_handles(void);
static int16_t m[64 * 64 * 9], c[64 * 64];
static int8_t x[64 * 64], exponents[64], c_exponent = 20, x_exponent = 7;
static int32_t acc[64 * 64], work[8192], rate[3] = {20000, 15, 29491};
static int64_t counter = 7, index[16];
void board_init(void) { initialise_monitor_handles(); board_start_ticks(); }
static void say(uint32_t from) { printf("%lu\\n", (unsigned long)(board_ticks() - from)); }
int main(void)
{
    uint32_t from, state = 1;
    const lfwd_int_update u = {c, &c_exponent, x, &x_exponent, exponents, &counter, 3u};
    const lfwd_int_weight w = {m, 0, exponents};
    for (uint32_t i = 0; i < sizeof m / sizeof *m; i++) m[i] = (int16_t)((state = state * 1664525u + 1013904223u) >> 16);
    for (int32_t i = 0; i < 64 * 64; i++) c[i] = (int16_t)(m[i] >> 4), x[i] = (int8_t)(m[i + 99] >> 8), exponents[i & 63] = 6;
    for (int32_t i = 0; i < 16; i++) index[i] = i;
    (void)rate, (void)acc, (void)w;
"""


def measure(board: str, cases: list[Case], plain: bool) -> list[int]:
    """Instructions of each case."""
    target = BOARDS[board]
    blocks = [f"    {{ {case.setting} from = board_ticks(); {case.call}; say(from); }}" for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "bench.c").write_text(_SOURCE + "\n".join(blocks) + "\n    return 0;\n}\n")
        write_link_script(work, target)
        objects = kernel_objects(CSRC, board_flags(target, ("-O2", "-DLFWD_PLAIN") if plain else ("-O2",)))
        elf = link(work, CSRC, target, work / "bench.c", objects, SEMIHOSTED)
        return [target.instructions(int(line)) for line in emulate(work, elf, target, 600.0).split()]


def rows(board: str, only: str = "") -> list[dict[str, Any]]:
    """Rows of board, case, MAC, instructions of plain C and of this core's body."""
    cases = [case for case in CASES if only in case.name]
    if not cases:
        raise SystemExit(f"no case is called {only!r}; there are: {'; '.join(case.name for case in CASES)}")
    both = zip(cases, measure(board, cases, plain=True), measure(board, cases, plain=False), strict=True)
    return [{"board": board, "case": c.name, "macs": c.macs, "plain": plain, "fast": fast} for c, plain, fast in both]


def print_table(found: list[dict[str, Any]]) -> None:
    for board in dict.fromkeys(row["board"] for row in found):
        table = Table("instructions", "plain C", "this core's", "ratio", title=f"{board}, {BOARDS[board].cpu}", title_justify="left")
        for r in (row for row in found if row["board"] == board):
            table.add_row(r["case"], f"{r['plain']:,}", f"{r['fast']:,}", f"{r['plain'] / r['fast']:.2f}")
        Console().print(table)
