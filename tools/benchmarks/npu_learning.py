"""ResNet-8 learns after drift on a simulated Ethos-U55: statistics by probing, then the head, beside the same in float.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/npu_learning.py --out runs/npu_learning.json

Statistics need no labels; the head learns on the CPU from features that the NPU computes. The rate of the head is the best of three on a
tenth of the training samples that is held out, for the NPU and in float apart. Accuracies on the test part, in percent.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fwd_export.npu.learn import NpuLearner
from lightning_fwd_export.npu.learn.head import Head
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import ResNet8

DRIFTS = ("noise=0.08", "contrast=0.3", "blur=3")
RATES = (0.003, 0.01, 0.03)
MOMENTUM, BATCH = 0.9, 16
ROWS = ("nothing, float", "nothing, NPU", "statistics, float", "statistics, NPU", "statistics + head, float", "statistics + head, NPU")


def run(drift: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Accuracies of every row, and what the NPU took."""
    data = DriftDataModule(
        "cifar10", drift=drift, view="target", normalize="byte", train_samples=options.train, test_samples=options.test, seed=seed,
        val_fraction=0.02,
    )  # fmt: skip
    net = ResNet8(weights=str(Path(os.environ["LIGHTNING_FWD_DATA"]) / "mlperf_tiny" / "resnet8.npz")).eval()
    (x, y), (x_val, y_val), (x_test, y_test) = (data.tensors(split, "target") for split in ("train", "val", "test"))
    x_val, y_val = x_val[: options.val], y_val[: options.val]
    result, started = {"nothing, float": accuracy(in_float(net, x_test), y_test)}, time.time()

    adapted = batch_statistics(net, x)
    result["statistics, float"] = accuracy(in_float(adapted, x_test), y_test)
    classifier, features = adapted.classifier, [in_float(without_head(adapted), part).numpy() for part in (x, x_val, x_test)]
    result["statistics + head, float"], result["rate, float"] = best_head(
        lambda rate, steps: Head(classifier.weight.detach().numpy(), classifier.bias.detach().numpy(), rate, MOMENTUM, BATCH, steps),
        features, (y, y_val, y_test), options, seed,
    )  # fmt: skip

    learner = NpuLearner(net, data.calibration_batch(64), options.accelerator)
    source = learner.source_statistics(learner.store(data.calibration_batch(options.probes)))
    train, val, test = (learner.store(part) for part in (x, x_val, x_test))
    result["nothing, NPU"] = accuracy(learner.logits(test), y_test)
    before = learner.simulator.runs
    learner.adapt_statistics(train[: options.probes], source)
    result["inferences for statistics"] = learner.simulator.runs - before
    result["statistics, NPU"] = accuracy(learner.logits(test), y_test)
    result["statistics + head, NPU"], result["rate, NPU"] = best_head(
        lambda rate, steps: learner.head(rate, MOMENTUM, BATCH, steps),
        [learner.features(part) for part in (train, val, test)], (y, y_val, y_test), options, seed,
    )  # fmt: skip
    return result | {"cycles per inference": learner.program.cycles, "seconds": round(time.time() - started)}


def batch_statistics(net: nn.Module, x: Tensor) -> nn.Module:
    """The float procedure: every batch norm with mean and variance of all of ``x``."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    in_float(net.train(), x)
    return net.eval()


def without_head(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    net.classifier = nn.Identity()
    return net


@torch.no_grad()
def in_float(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(100)])


def best_head(make, features, labels, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Test accuracy of the head trained at the rate that is best on the validation samples, and that rate."""
    (f, f_val, f_test), (y, y_val, y_test) = features, labels
    trained = []
    for rate in RATES:
        per_epoch, rng = len(f) // BATCH, np.random.default_rng(seed)
        head = make(rate, options.epochs * per_epoch)
        for _ in range(options.epochs):
            for batch in rng.permutation(len(f))[: per_epoch * BATCH].reshape(per_epoch, BATCH):
                head.step(f[batch].astype(np.float32), y[torch.from_numpy(batch)].numpy())
        trained.append((accuracy(head.logits(f_val), y_val), rate, head))
    _, rate, head = max(trained, key=lambda entry: entry[0])
    return accuracy(head.logits(f_test), y_test), rate


def accuracy(logits: np.ndarray | Tensor, y: Tensor) -> float:
    return 100 * float((torch.as_tensor(logits).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; runs that it holds are not repeated")
    parser.add_argument("--accelerator", default="ethos-u55-128")
    parser.add_argument("--drifts", nargs="+", default=DRIFTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--probes", type=int, default=256, help="images for the statistics, of source and target")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5, help="of the head")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        for drift in options.drifts:
            if f"{drift} seed {seed}" not in results:
                results[f"{drift} seed {seed}"] = run(drift, seed, options)
                options.out.write_text(json.dumps(results, indent=2) + "\n")
    table = Table("", *options.drifts, title=f"test accuracy, mean (spread) of {len(options.seeds)} seeds")
    for row in ROWS:
        cells = [[results[f"{drift} seed {seed}"][row] for seed in options.seeds] for drift in options.drifts]
        table.add_row(row, *(f"{statistics.mean(c):.1f} ({max(c) - min(c):.1f})" for c in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
