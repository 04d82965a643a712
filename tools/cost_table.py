"""What one training step of each MLCommons-Tiny network costs under each rule, beside the published book: prints Markdown tables: all
figures, then
operations and memory by rule and network, then means.

    python tools/cost_table.py [--width int8] [--device stm32h735] [--with-batch-norm] [--json FILE]

Batch norm is folded into the layers, as in the int8 reference models and in the book; every layer learns. "Beside weights" is the peak of
everything but the learning weights and their int16 masters. "As traced" is the peak before scheduling: what a plain runtime needs for the
exported step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import CostReport, step_cost
from lightning_fwd.cost.book import published_books
from lightning_fwd.models import MODELS

NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025", "streaming_wake_word", "fc_autoencoder")
RULES = {  # name, rule, the book's name for it
    "backprop": (lf.Backprop, {}, "BP"),
    "forward_forward": (lf.ForwardForward, {}, "FF"),
    "pepita": (lf.Pepita, {}, "PEPITA"),
    "pepita, recompute": (lf.Pepita, {"recompute": True}, "MEMPEPITA"),
    "local_loss": (lf.LocalLoss, {}, None),
    "sparse_update, head": (lf.SparseUpdate, {"train": "head"}, None),
}


def price(name: str, rule: str, width: str, device: str, folded: bool) -> CostReport | None:
    """The step of one sample; None where the rule needs classes and the network has none."""
    network = MODELS[name]().eval()
    shape, classes = network.input_shape, network.num_classes
    net: nn.Module = fuse(network) if folded else network
    x = torch.zeros(1, *shape)
    method, settings, _ = RULES[rule]
    try:
        if classes is None:  # an autoencoder learns to give its input back
            return step_cost(net, (x, x), device, width, method=method(**settings), loss=F.mse_loss)
        return step_cost(net, x, device, width, method=method(**settings))
    except lf.StepError as error:
        if classes is None:
            return None
        raise error


def beside_weights(report: CostReport) -> int:
    resident = {"weights", "master weights"}
    return report.peak_ram_bytes - sum(b.bytes for b in report.plan.buffers if b.born < 0 and b.category in resident)


def rows(width: str, device: str, folded: bool) -> list[dict]:
    books, found = published_books(), []
    for name in NETWORKS:
        base = price(name, "backprop", width, device, folded)
        for rule, (_, _, book_name) in RULES.items():
            report = base if rule == "backprop" else price(name, rule, width, device, folded)
            if report is None:
                continue
            row = {
                "network": name, "rule": rule, "kmac": report.total_macs / 1000, "traced_bytes": report.savings[0][1],
                "peak_bytes": report.peak_ram_bytes, "beside_weights_bytes": beside_weights(report),
                "flash_bytes": report.flash_bytes, "ms": report.latency_s * 1000, "fits": report.verdict.fits,
                "peak_moment": report.peak_moment,
                "mac_change": report.total_macs / base.total_macs - 1, "ram_change": report.peak_ram_bytes / base.peak_ram_bytes - 1,
                "beside_weights_change": beside_weights(report) / beside_weights(base) - 1,
            }  # fmt: skip
            if book_name and name in books:
                entry = books[name]
                row["book_mac_change"] = entry.macs[book_name] / entry.macs["BP"] - 1
                row["book_ram_change"] = entry.ram_bytes[book_name] / entry.ram_bytes["BP"] - 1
            found.append(row)
            print(markdown(row), flush=True)
    return found


def markdown(row: dict) -> str:
    def percent(key: str) -> str:
        return f"{row[key]:+.1%}" if key in row else "-"

    sizes = [f"{row[key] / 1000:,.1f}" for key in ("traced_bytes", "peak_bytes", "beside_weights_bytes", "flash_bytes")]
    cells = [row["network"], row["rule"], f"{row['kmac']:,.0f}", *sizes, f"{row['ms']:,.1f}" + ("" if row["fits"] else " (too big)")]
    cells += [f"{percent('mac_change')} ({percent('book_mac_change')})", f"{percent('ram_change')} ({percent('book_ram_change')})"]
    return f"| {' | '.join(cells)} |"


def by_network(found: list[dict], title: str, key: str, change: str, number: str) -> str:
    """One figure as a table of rules by networks, with the change to backpropagation."""
    unit = 1 if key == "kmac" else 1000
    cells = {(r["rule"], r["network"]): number.format(r[key] / unit) + f" ({r[change]:+.0%})" * (r["rule"] != "backprop") for r in found}
    lines = [f"| {title} | {' | '.join(NETWORKS)} |", f"|---|{'---:|' * len(NETWORKS)}"]
    return "\n".join([*lines, *(f"| {rule} | {' | '.join(cells.get((rule, n), '-') for n in NETWORKS)} |" for rule in RULES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", default="int8", choices=("fp32", "int8", "mixed"))
    parser.add_argument("--device", default="stm32h735", help="named device or YAML file")
    parser.add_argument("--with-batch-norm", action="store_true", help="keep batch norm, and let it learn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(
        f"One step, {options.width}, batch 1, plain SGD, kB = 1000 B, time of the MACs on {options.device}; in parentheses the "
        "published book\n"
    )
    sizes = "RAM as traced, kB | RAM scheduled, kB | of it beside weights, kB | Flash, kB"
    print(f"| network | rule | kMAC | {sizes} | ms | MAC to backprop | RAM to backprop |\n|---|---|{'---:|' * 8}")
    found = rows(options.width, options.device, not options.with_batch_norm)
    print("\n" + by_network(found, "kMAC", "kmac", "mac_change", "{:,.0f}"))
    print("\n" + by_network(found, "RAM scheduled, kB", "peak_bytes", "ram_change", "{:,.1f}"))
    print("\n| mean of the classifiers of the book | MAC (book) | RAM (book) | RAM beside weights |\n|---|---:|---:|---:|")
    for rule in list(RULES)[1:]:
        of_rule = [r for r in found if r["rule"] == rule and r["network"] in ("resnet8", "ds_cnn", "mobilenet_v1_025")]
        means = {key: sum(r[key] for r in of_rule) / len(of_rule) if all(key in r for r in of_rule) else None
                 for key in ("mac_change", "book_mac_change", "ram_change", "book_ram_change", "beside_weights_change")}  # fmt: skip
        text = {key: "-" if value is None else f"{value:+.1%}" for key, value in means.items()}
        mac, ram = (f"{text[f'{what}_change']} ({text[f'book_{what}_change']})" for what in ("mac", "ram"))
        print(f"| {rule} | {mac} | {ram} | {text['beside_weights_change']} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
