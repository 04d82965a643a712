"""The same rule in float and in integers on pretrained networks after drift: same weights, samples and order, as the library runs it.

    python tools/benchmarks/integer_adaptation.py --out runs/integer_adaptation --nets resnet8 ds_cnn har

Batch norm is folded into the layer before for both: otherwise one rate would mean two steps. Labelled samples of the target, batches of 16,
momentum 0.9, a constant rate, no guard. The rate of each row, one of three, is the best in float on another seed and the validation
samples, by the mean over drifts. Run again to resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from torch.fx.experimental.optimization import fuse

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.compare.cells import Start, cells_of
from lightning_fwd.recipes import pretrain
from lightning_fwd.recipes.accuracy import accuracy

RECIPES = Path(__file__).parents[2] / "recipes"
CHOICE_SEED, SOURCE = 100, 200
NETS = {  # recipe, drifts, labels, epochs
    "resnet8": ("compare_resnet8_recovery.yaml", ["noise=0.08", "contrast=0.3", "blur=3"], 500, 4),
    "ds_cnn": ("mlperf_tiny_kws.yaml", ["white_noise=0.56", "babble=0.56"], 320, 6),
    "har": ("compare_har_device.yaml", None, 150, 12),
}
ROWS = {  # name, net, what learns, rates
    "ResNet-8, head": ("resnet8", "head", (0.001, 0.003, 0.01)),
    "ResNet-8, 16 channels of block3.conv2 + head": ("resnet8", {"block3.conv2": 0.25, "classifier": 1.0}, (0.0003, 0.001, 0.003)),
    "ResNet-8, biases": ("resnet8", "biases", (0.0003, 0.001, 0.003)),
    "DS-CNN, head": ("ds_cnn", "head", (0.0003, 0.001, 0.003)),
    "DS-CNN, last block": ("ds_cnn", {"block4": 1.0, "classifier": 1.0}, (0.0001, 0.0003, 0.001)),
    "HAR net, head": ("har", "head", (0.003, 0.01, 0.03)),
    "HAR net, last block": ("har", 2, (0.003, 0.01, 0.03)),
    "HAR net, all": ("har", None, (0.001, 0.003, 0.01)),
}


class Worlds:
    """A network's drifts, and what has been measured there."""

    def __init__(self, net: str, out: Path):
        recipe, drifts, self.labels, self.epochs = NETS[net]
        scenario = load_scenario(RECIPES / recipe, {})
        data = {**scenario.data, "test_samples": 2000} if net == "resnet8" else {**scenario.data, "val_fraction": 0.2}
        scenario = dataclasses.replace(scenario, data=data, drifts=drifts, labels=[self.labels], rates=None)
        self.cells, self.file = cells_of(scenario, out / net), out / f"{net}.json"
        self.known: dict[str, float] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def accuracy(self, train: object, lr: float, drift: int, seed: int, split: str, integer: bool) -> float:
        key = json.dumps([train, lr, drift, seed, split, integer])
        if key not in self.known:
            self.known[key] = self._measure(train, lr, drift, seed, split, integer)
            self.file.write_text(json.dumps(self.known, indent=1) + "\n")
        return self.known[key]

    def _measure(self, train: object, lr: float, drift: int, seed: int, split: str, integer: bool) -> float:
        cell = self.cells[drift]
        if not cell.weights_file(seed).exists():
            pretrain(cell.scenario, seed, cell.scenario.data_module(seed, "source"), cell.weights_file(seed))
        start = Start(cell, seed)
        method = lf.Backprop() if train is None else lf.SparseUpdate(train)
        stage = lf.Stage(method, lr=lr, batch_size=16, epochs=self.epochs, momentum=0.9, name="learning")
        firmware = lf.Firmware(samples=self.labels, precision="integer" if integer else "float32", room=1)
        data, source = start.target.tensors("train"), start.source.tensors("train")[0][:SOURCE]
        done = lf.adapt(fuse(start.network().eval()), [stage], data, held_back=0, seed=seed, firmware=firmware, source=source)
        x, y = start.target.tensors(split)
        return accuracy(done.device_after if integer else done.network, x[:2000], y[:2000])

    def rate(self, train: object, rates: tuple[float, ...]) -> float:
        """The best in float."""
        means = {lr: self._mean(train, lr) for lr in rates}
        print("  rates in float, seed 100:", ", ".join(f"{lr:g} {mean:.1f}" for lr, mean in means.items()), flush=True)
        return max(means, key=lambda lr: means[lr])

    def _mean(self, train: object, lr: float) -> float:
        return statistics.fmean(self.accuracy(train, lr, k, CHOICE_SEED, "val", False) for k in range(len(self.cells)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines = ["| row | drift | rate | float [%] | integer [%] |", "|---|---|---:|---:|---:|"]
    for row, (net, train, rates) in ROWS.items():
        if net not in options.nets:
            continue
        print(row, flush=True)
        worlds = Worlds(net, options.out)
        lr = worlds.rate(train, rates)
        for k, cell in enumerate(worlds.cells):
            found = [[worlds.accuracy(train, lr, k, seed, "test", integer) for seed in options.seeds] for integer in (False, True)]
            cells = [f"{statistics.fmean(f):.1f}" + (f" ± {statistics.stdev(f):.1f}" if len(f) > 1 else "") for f in found]
            lines.append(f"| {row} | {cell.drift or 'device and person'} | {lr:g} | {cells[0]} | {cells[1]} |")
            print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
