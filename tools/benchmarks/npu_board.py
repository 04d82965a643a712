"""One training step of a network under each rule on an NPU board: what the NPU takes of it, and the time beside the CPU alone.

    python tools/benchmarks/npu_board.py [--model resnet8] [--device ethos_u55_128_m55] [--json FILE]

The NPU takes products with frozen weights, forward and on the way back; the CPU takes the rest. Times are of multiply-accumulates, one
sample, int8 (batch norm as the rule leaves it); the CPU alone does all of them at the profile's default figure. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import lightning_fwd as lf
from lightning_fwd.cost import load_device, step_cost
from lightning_fwd.models import MODELS

RULES = {
    "statistics": lf.Statistics(),
    "head": lf.SparseUpdate(train="head"),
    "norms of all layers": lf.SparseUpdate(train="norms"),
    "biases of all layers": lf.SparseUpdate(train="biases"),
    "last two layers": lf.SparseUpdate(train=2),
    "local losses": lf.LocalLoss(),
    "PEPITA": lf.Pepita(),
    "Forward-Forward": lf.ForwardForward(),
    "direct feedback": lf.DirectFeedback(),
    "backpropagation": lf.Backprop(),
}


def row(network: str, name: str, device_name: str) -> dict:
    """What a step takes; MAC in thousands, times in ms."""
    net, device = MODELS[network]().eval(), load_device(device_name)
    report = step_cost(net, torch.zeros(1, *net.input_shape), device_name, "int8", method=RULES[name])
    on_cpu = sum(report.macs_without_constants.get("int8", {}).values())
    figures, constant = device.cycles_per_mac["int8"], report.macs_by_phase
    left = {phase: macs - report.macs_without_constants.get("int8", {}).get(phase, 0) for phase, macs in constant.items()}
    on_npu = sum(macs for phase, macs in left.items() if phase in figures)
    return {
        "rule": name,
        "kmac": report.total_macs / 1e3,
        "npu_share": on_npu / report.total_macs,
        "cpu_kmac": (on_cpu + sum(macs for phase, macs in left.items() if phase not in figures)) / 1e3,
        "ms": 1e3 * report.latency_s,
        "cpu_only_ms": 1e3 * report.total_macs * figures["default"].value / device.clock_hz.value,
        "ram_kb": report.peak_ram_bytes / 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet8", choices=sorted(MODELS))
    parser.add_argument("--device", default="ethos_u55_128_m55", help="profile of an NPU board")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row(options.model, name, options.device) for name in RULES]
    print("| rule | kMAC | on the NPU, % | kMAC left to the CPU | ms | ms, CPU alone | RAM, kB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        cells = (
            f"{r['kmac']:,.0f}",
            f"{100 * r['npu_share']:.1f}",
            f"{r['cpu_kmac']:,.0f}",
            f"{r['ms']:.2f}",
            f"{r['cpu_only_ms']:.2f}",
            f"{r['ram_kb']:.1f}",
        )
        print(f"| {r['rule']} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
