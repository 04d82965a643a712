"""One training step of a network under each rule on an NPU board: what the NPU takes of it, and the time beside the CPU alone.

    python tools/benchmarks/npu_board.py [--model resnet8] [--device ethos_u55_128_m55] [--json FILE]

The NPU takes products with frozen weights, forward and on the way back; the CPU takes the rest. Times are of multiply-accumulates, one
sample, int8 (batch norm as the rule leaves it); the CPU alone does all of them at the profile's default figure. Energy adds the bytes that
operations without products move. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import lightning_fwd as lf
from lightning_fwd.cost import load_device, step_cost
from lightning_fwd.models import MODELS

ALL, NOTHING = "all: weights are constants", "nothing: no weight is a constant"
#: rule, how often its step runs for one sample, and what of it the compiler takes
RULES = {
    "statistics": (lf.Statistics(), 1, ALL),
    "head": (lf.SparseUpdate(train="head"), 1, "all but the head's update"),
    "norms of all layers, way back": (lf.SparseUpdate(train="norms"), 1, ALL + ", on the way back too"),
    "biases of all layers, way back": (lf.SparseUpdate(train="biases"), 1, ALL + ", on the way back too"),
    "norms of all layers, zeroth order": (lf.Statistics(), 2, ALL + ", two inferences"),
    "label as context": (lf.Statistics(), 3, ALL + ", three inferences"),
    "last two layers": (lf.SparseUpdate(train=2), 1, "what lies before them"),
    "local losses": (lf.LocalLoss(), 1, NOTHING),
    "PEPITA": (lf.Pepita(), 1, NOTHING),
    "Forward-Forward": (lf.ForwardForward(), 1, NOTHING),
    "direct feedback": (lf.DirectFeedback(), 1, NOTHING),
    "backpropagation": (lf.Backprop(), 1, NOTHING),
}


def row(network: str, name: str, device_name: str) -> dict:
    """What a step takes; MAC in thousands, times in ms."""
    net, device, (method, times, takes) = MODELS[network]().eval(), load_device(device_name), RULES[name]
    report = step_cost(net, torch.zeros(1, *net.input_shape), device_name, "int8", method=method)
    on_cpu = sum(report.macs_without_constants.get("int8", {}).values())
    figures, constant = device.cycles_per_mac["int8"], report.macs_by_phase
    left = {phase: macs - report.macs_without_constants.get("int8", {}).get(phase, 0) for phase, macs in constant.items()}
    on_npu = sum(macs for phase, macs in left.items() if phase in figures)
    moved = sum(line.read_bytes + line.written_bytes for line in report.lines if not line.macs)
    return {
        "rule": name,
        "kmac": times * report.total_macs / 1e3,
        "npu_share": on_npu / report.total_macs,
        "cpu_kmac": times * (on_cpu + sum(macs for phase, macs in left.items() if phase not in figures)) / 1e3,
        "ms": times * 1e3 * report.latency_s,
        "cpu_only_ms": times * 1e3 * report.total_macs * figures["default"].value / device.clock_hz.value,
        "uj": times * 1e6 * report.energy_j,
        "cpu_only_uj": times * 1e6 * device.energy_j({"default": report.total_macs}, "int8", sram_bytes=moved),
        "ram_kb": report.peak_ram_bytes / 1e3,
        "takes": takes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet8", choices=sorted(MODELS))
    parser.add_argument("--device", default="ethos_u55_128_m55", help="profile of an NPU board")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row(options.model, name, options.device) for name in RULES]
    print("| rule | kMAC | on the NPU, % | kMAC left to the CPU | ms | ms, CPU alone | µJ | µJ, CPU alone | RAM, kB | what the NPU takes |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for r in rows:
        cells = (
            f"{r['kmac']:,.0f}",
            f"{100 * r['npu_share']:.1f}",
            f"{r['cpu_kmac']:,.0f}",
            f"{r['ms']:.2f}",
            f"{r['cpu_only_ms']:.2f}",
            f"{r['uj']:,.0f}",
            f"{r['cpu_only_uj']:,.0f}",
            f"{r['ram_kb']:.1f}",
            r["takes"],
        )
        print(f"| {r['rule']} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
