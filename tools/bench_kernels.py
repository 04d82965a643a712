"""Instructions per MAC of the float kernels on the emulated boards.

    python tools/bench_kernels.py [--board mps2-an386] [--only conv] [--json FILE] [--integers]

Each shape runs forward, gradient to the input and update of the weights. MAC are those of the layer, padded taps included. Instructions,
not cycles: the emulator knows no pipeline. With ``--integers`` the kernels of a step in integers: plain C beside the core's own body.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lightning_fwd_export.boards import BOARDS
from lightning_fwd_export.boards.build import SEMIHOSTED, board_flags, emulate, kernel_objects, link, write_link_script
from lightning_fwd_export.c_code.scratch import conv2d_scratch
from lightning_fwd_export.generate_c import CSRC
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Conv:
    """A convolution of square images and kernels, padded by half a kernel; or of images of one row (``line``), not padded."""

    channels: int
    outputs: int
    image: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    batch: int = 1
    line: bool = False

    @property
    def fields(self) -> list[int]:
        pad = 0 if self.line else self.kernel // 2
        out = (self.image + 2 * pad - self.kernel) // self.stride + 1
        image, k, s, high = self.image, self.kernel, self.stride, not self.line
        sizes = [self.batch, self.channels, image if high else 1, image, self.outputs, out if high else 1, out]
        return [*sizes, k if high else 1, k, s if high else 1, s, pad, pad, 1, 1, self.groups]

    @property
    def macs(self) -> int:
        f = self.fields
        return self.batch * self.outputs * f[5] * f[6] * self.channels // self.groups * f[7] * f[8]

    def __str__(self) -> str:
        kind = "depthwise" if self.groups == self.channels > 1 else "conv"
        stride, f = f" / {self.stride}" if self.stride > 1 else "", self.fields
        return f"{kind} {f[7]}x{f[8]}{stride} {self.channels}->{self.outputs}, {f[2]}x{f[3]}"

    def calls(self) -> dict[str, str]:
        return {
            "forward": "lfwd_conv2d_f32(x, w, b, &s, work, y)",
            "dX": "lfwd_conv2d_grad_input_f32(y, w, &s, work, x)",
            "dW": "lfwd_sgd_conv2d_f32(w, y, x, &s, 0.001f, 1.0f, work)",
        }

    def declaration(self) -> str:
        return f"static const lfwd_conv2d_shape s = {{{', '.join(map(str, self.fields))}}};"

    def floats(self) -> dict[str, int]:
        """Sizes of the buffers its calls use."""
        f = self.fields
        work = max(conv2d_scratch(kind, f) for kind in ("forward", "grad_input", "update"))
        weights = self.outputs * self.channels // self.groups * f[7] * f[8]
        return {"x": f[0] * f[1] * f[2] * f[3], "y": f[0] * f[4] * f[5] * f[6], "w": weights, "work": work, "b": self.outputs}


@dataclass(frozen=True)
class Linear:
    features: int
    outputs: int
    batch: int = 1

    @property
    def macs(self) -> int:
        return self.batch * self.features * self.outputs

    def __str__(self) -> str:
        return f"linear {self.features}->{self.outputs}, batch {self.batch}"

    def declaration(self) -> str:
        return ""

    def calls(self) -> dict[str, str]:
        sizes = f"{self.batch}, {self.features}, {self.outputs}"
        return {
            "forward": f"lfwd_linear_f32(x, w, b, {sizes}, y)",
            "dX": f"lfwd_mm_f32(y, w, {self.batch}, {self.outputs}, {self.features}, x)",
            "dW": f"lfwd_sgd_outer_f32(w, y, x, {self.batch}, {self.outputs}, {self.features}, 0.001f, 1.0f)",
        }

    def floats(self) -> dict[str, int]:
        return {
            "x": self.batch * self.features,
            "y": self.batch * self.outputs,
            "w": self.features * self.outputs,
            "work": 0,
            "b": self.outputs,
        }


CASES: list[Conv | Linear] = [
    Conv(16, 16, 32),
    Conv(64, 64, 8),
    Conv(32, 32, 16),
    Conv(16, 32, 32, stride=2),
    Conv(3, 16, 32),
    Conv(1, 64, 16, kernel=5, stride=2),
    Conv(16, 16, 16, kernel=1),
    Conv(64, 64, 12, kernel=1),
    Conv(16, 32, 32, kernel=1, stride=2),
    Conv(64, 64, 12, groups=64),
    Conv(32, 32, 24, stride=2, groups=32),
    Conv(64, 64, 3, groups=64),
    Conv(64, 64, 12, kernel=5, groups=64),
    Conv(128, 128, 24, kernel=10, groups=128, line=True),
    Conv(128, 128, 15, kernel=15, groups=128, line=True),
    Conv(64, 64, 3),
    Conv(64, 64, 2),
    Conv(64, 64, 1),
    Conv(128, 128, 3, kernel=1),
    Conv(128, 128, 1, kernel=1),
    Linear(64, 64),
    Linear(64, 64, 8),
    Linear(64, 10),
]


def source(cases: list[Conv | Linear]) -> str:
    """A firmware that runs every call of every case once and prints what the counter says."""
    sizes = [case.floats() for case in cases]
    buffers = [f"static float {name}[{max(1, *(s[name] for s in sizes))}];" for name in ("x", "y", "w", "work", "b")]
    blocks = []
    for case in cases:
        runs = [f"    from = board_ticks(); {call}; say(from);" for call in case.calls().values()]
        blocks.append("\n".join(["    {", f"    {case.declaration()}", "    fill();", *runs, "    }"]))
    fills = [f"    for (uint32_t i = 0; i < sizeof {n} / sizeof *{n}; i++) {n}[i] = (float)(i % 7) * 0.01f;" for n in ("x", "y", "w", "b")]
    return "\n".join(
        [
            "#include <stdio.h>",
            '#include "board.h"',
            '#include "lfwd_float.h"',
            "extern void initialise_monitor_handles(void);",
            *buffers,
            "void board_init(void) { initialise_monitor_handles(); board_start_ticks(); }",
            'static void say(uint32_t from) { printf("%lu\\n", (unsigned long)(board_ticks() - from)); }',
            "static void fill(void)\n{",
            *fills,
            "}",
            "int main(void)\n{",
            "    uint32_t from;",
            *blocks,
            "    return 0;\n}\n",
        ]
    )


def measure(board: str, cases: list[Conv | Linear], optimise: tuple[str, ...] = ("-O2",)) -> list[dict[str, object]]:
    """Rows of board, case, call, MAC, instructions and instructions per MAC."""
    target = BOARDS[board]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "bench.c").write_text(source(cases))
        write_link_script(work, target)
        elf = link(work, CSRC, target, work / "bench.c", kernel_objects(CSRC, board_flags(target, optimise)), SEMIHOSTED)
        ticks = [int(line) for line in emulate(work, elf, target, 600.0).split()]
    names = [(case, call) for case in cases for call in case.calls()]
    rows = []
    for (case, call), count in zip(names, ticks, strict=True):
        instructions = target.instructions(count)
        per_mac = instructions / case.macs
        rows.append({"board": board, "case": str(case), "call": call, "macs": case.macs, "instructions": instructions, "per_mac": per_mac})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", choices=sorted(BOARDS), action="append", help="default: Cortex-M4 and Cortex-M55")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--integers", action="store_true", help="kernels of a step in integers, instructions by plain C and by this core's body"
    )
    options = parser.parse_args()
    boards = options.board or ("mps2-an386", "mps3-an547")
    if options.integers:
        from benchmarks.integer_kernels import print_table, rows

        found = [row for board in boards for row in rows(board, options.only)]
        print_table(found)
        _write(options.json, found)
        return
    cases = [case for case in CASES if options.only in str(case)]
    if not cases:
        parser.error(f"no shape is called {options.only!r}; there are: {'; '.join(map(str, CASES))}")
    measured = [row for board in boards for row in measure(board, cases)]
    for board in dict.fromkeys(row["board"] for row in measured):
        table = Table("instructions per MAC", "forward", "dX", "dW", title=f"{board}, {BOARDS[board].cpu}", title_justify="left")
        for case in cases:
            found = {r["call"]: f"{r['per_mac']:.2f}" for r in measured if (r["board"], r["case"]) == (board, str(case))}
            table.add_row(str(case), *(found[call] for call in ("forward", "dX", "dW")))
        Console().print(table)
    _write(options.json, measured)


def _write(file: Path | None, found: list[dict[str, object]]) -> None:
    if file:
        file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
