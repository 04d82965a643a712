"""ResNet-8 learns after drift on a simulated Ethos-U55: statistics by probing, then the head, beside the same in float.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/npu_learning.py --out runs/npu_learning.json

Statistics need no labels; the head learns on the CPU from features that the NPU computes. With ``--norms`` the program has the way back of
the error, and after the statistics the shifts and scales of all batch norms learn together with the head. With ``--zeroth-order`` they
learn by two inferences per sample instead; with ``--forward-forward`` shifts and a context per class by three. Rates are the best on
held-out samples, for the NPU and in float apart. Accuracies on the test part, in percent.
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
from lightning_fwd_export.npu.learn import ContextForwardForward, NpuLearner, NpuTrainer, ZerothOrder
from lightning_fwd_export.npu.learn.head import Head
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import ResNet8

DRIFTS = ("noise=0.08", "contrast=0.3", "blur=3")
RATES = (0.003, 0.01, 0.03)
NORM_RATES = (0.003, 0.01)
MOMENTUM, BATCH = 0.9, 16
ZEROTH_RATES, SPREAD = (0.0005, 0.002), 0.1
ZEROTH_ROWS = ("statistics + norms by zeroth order + head, NPU",)
CONTEXT_RATES, CONTEXT_SIZE = (0.001, 0.01), 0.1
CONTEXT_ROWS = ("statistics + Forward-Forward by context + head, NPU", "the same, read by goodness, NPU")
NORM_ROWS = ("statistics + norms + head, float", "statistics + norms + head, NPU")
ROWS = ("nothing, float", "nothing, NPU", "statistics, float", "statistics, NPU", "statistics + head, float", "statistics + head, NPU")


def samples(drift: str, seed: int, options: argparse.Namespace) -> DriftDataModule:
    return DriftDataModule(
        "cifar10", drift=drift, view="target", normalize="byte", train_samples=options.train, test_samples=options.test, seed=seed,
        val_fraction=0.02,
    )  # fmt: skip


def network() -> ResNet8:
    return ResNet8(weights=str(Path(os.environ["LIGHTNING_FWD_DATA"]) / "mlperf_tiny" / "resnet8.npz")).eval()


def compiled(seed: int, options: argparse.Namespace) -> NpuLearner:
    """Calibrated on the source's samples of a seed: the same program for every drift."""
    calibration = samples(DRIFTS[0], seed, options).calibration_batch(options.calibration)
    return (NpuTrainer if options.norms else NpuLearner)(network(), calibration, options.accelerator)


def run(drift: str, seed: int, learner: NpuLearner, options: argparse.Namespace) -> dict[str, float]:
    """Accuracies of every row, and what the NPU took. ``learner``: as compiled."""
    data, net = samples(drift, seed, options), network()
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

    source = learner.source_statistics(data.calibration_batch(options.probes))
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
    if options.norms:
        labels = y, y_val, y_test
        start = learner.state()
        result[NORM_ROWS[1]], result["norm rate, NPU"] = best_norms(
            lambda rate: norms_on_the_npu(learner, start, train, y, rate, options, seed), (val, test), labels, options.norm_rates
        )
        result[NORM_ROWS[0]], result["norm rate, float"] = best_norms(
            lambda rate: norms_in_float(adapted, x, y, rate, options, seed), (x_val, x_test), labels, options.norm_rates
        )
    if options.zeroth_order:
        start = learner.state()
        result[ZEROTH_ROWS[0]], result["zeroth-order rate"] = best_norms(
            lambda rate: zeroth_order_on_the_npu(learner, start, train, y, rate, result["rate, NPU"], options, seed),
            (val, test), (y, y_val, y_test), options.zeroth_rates,
        )  # fmt: skip
    if options.forward_forward:
        start, trained = learner.state(), []
        for rate in options.context_rates:
            learner.restore(start)
            head, rule = context_on_the_npu(learner, train, y, rate, result["rate, NPU"], options, seed)
            of_val, of_test = (accuracy(head.logits(learner.features(part)), of) for part, of in ((val, y_val), (test, y_test)))
            trained.append((of_val, rate, of_test, accuracy(rule.goodness(test), y_test)))
        _, result["context rate"], *accuracies = max(trained)
        result |= dict(zip(CONTEXT_ROWS, accuracies, strict=True))
    return result | {"cycles per inference": learner.program.cycles, "seconds": round(time.time() - started)}


def best_norms(train, inputs, labels, rates) -> tuple[float, float]:
    """Test accuracy at the rate that is best on the validation samples, and that rate; ``train(rate)`` gives inputs -> logits."""
    (_, y_val, y_test), (x_val, x_test), trained = labels, inputs, []
    for rate in rates:
        logits = train(rate)
        trained.append((accuracy(logits(x_val), y_val), accuracy(logits(x_test), y_test), rate))
    _, test, rate = max(trained, key=lambda entry: entry[0])
    return test, rate


def norms_in_float(net: nn.Module, x: Tensor, y: Tensor, rate: float, options: argparse.Namespace, seed: int):
    """Shift and scale of every batch norm and the head, by backpropagation."""
    net = copy.deepcopy(net).requires_grad_(False)
    learned = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.Linear) for p in m.parameters()]
    optimizer = torch.optim.SGD([p.requires_grad_() for p in learned], lr=rate, momentum=MOMENTUM)
    steps = options.epochs * (len(x) // BATCH)
    for step, batch in enumerate(batches(len(x), options, seed)):
        optimizer.param_groups[0]["lr"] = rate * (steps - step) / steps
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return lambda inputs: in_float(net, inputs)


def norms_on_the_npu(learner: NpuTrainer, start, train: np.ndarray, y: Tensor, rate: float, options: argparse.Namespace, seed: int):
    """The same by the way back on the NPU."""
    learner.restore(start)
    head = learner.head(rate, MOMENTUM, BATCH, options.epochs * (len(train) // BATCH))
    for batch in batches(len(train), options, seed):
        learner.step(head, train[batch], y[torch.from_numpy(batch)].numpy())
    return lambda inputs: head.logits(learner.features(inputs))


def zeroth_order_on_the_npu(learner: NpuLearner, start, train: np.ndarray, y: Tensor, rate: float, head_rate: float, options, seed: int):
    """The same by forward passes alone; the head has the rate that was best for it alone."""
    learner.restore(start)
    steps = options.epochs * (len(train) // BATCH)
    head, norms = learner.head(head_rate, MOMENTUM, BATCH, steps), ZerothOrder(learner, rate, SPREAD, steps, seed=seed + 1)
    for batch in batches(len(train), options, seed):
        norms.step(head, train[batch], y[torch.from_numpy(batch)].numpy())
    return lambda inputs: head.logits(learner.features(inputs))


def context_on_the_npu(learner: NpuLearner, train: np.ndarray, y: Tensor, rate: float, head_rate: float, options, seed: int):
    """Forward-Forward under a table of records for each class; the head, which has the rate that was best for it alone, and the rule."""
    steps = options.epochs * (len(train) // BATCH)
    head, rule = learner.head(head_rate, MOMENTUM, BATCH, steps), ContextForwardForward(learner, rate, steps, CONTEXT_SIZE, seed=seed + 1)
    for batch in batches(len(train), options, seed):
        rule.step(head, train[batch], y[torch.from_numpy(batch)].numpy())
    return head, rule


def batches(count: int, options: argparse.Namespace, seed: int):
    """Numbers of the samples of every step."""
    rng = np.random.default_rng(seed)
    for _ in range(options.epochs):
        yield from rng.permutation(count)[: count // BATCH * BATCH].reshape(-1, BATCH)


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
        head = make(rate, options.epochs * (len(f) // BATCH))
        for batch in batches(len(f), options, seed):
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
    parser.add_argument("--calibration", type=int, default=64, help="images that give the ranges of the quantisation")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5, help="of the head, and of the norms")
    parser.add_argument("--norm-rates", type=float, nargs="+", default=NORM_RATES)
    parser.add_argument("--zeroth-order", action="store_true", help="they learn by forward passes alone")
    parser.add_argument("--zeroth-rates", type=float, nargs="+", default=ZEROTH_RATES)
    parser.add_argument("--forward-forward", action="store_true", help="shifts and contexts learn, under a table of records per class")
    parser.add_argument("--context-rates", type=float, nargs="+", default=CONTEXT_RATES)
    parser.add_argument("--norms", action="store_true", help="shifts and scales of the batch norms learn too, by the way back on the NPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in options.seeds:
        if due := [drift for drift in options.drifts if f"{drift} seed {seed}" not in results]:
            learner = compiled(seed, options)
            as_compiled = learner.state()
            for drift in due:
                learner.restore(as_compiled)
                results[f"{drift} seed {seed}"] = run(drift, seed, learner, options)
                options.out.write_text(json.dumps(results, indent=2) + "\n")
    table = Table("", *options.drifts, title=f"test accuracy, mean (spread) of {len(options.seeds)} seeds")
    for row in ROWS + NORM_ROWS * options.norms + ZEROTH_ROWS * options.zeroth_order + CONTEXT_ROWS * options.forward_forward:
        cells = [[results[f"{drift} seed {seed}"][row] for seed in options.seeds] for drift in options.drifts]
        table.add_row(row, *(f"{statistics.mean(c):.1f} ({max(c) - min(c):.1f})" for c in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
