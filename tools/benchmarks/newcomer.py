"""What a newcomer gets: every rule by its name alone, from scratch, on a small residual net with batch norm, beside plain training.

    python tools/benchmarks/newcomer.py --out runs/newcomer

Digits, SGD 0.02 with momentum 0.9, 6 epochs of batches of 32. One line per rule in ``results.csv``: the mean test accuracy over the seeds,
its share of plain training's, and what was said: a refusal (then there is no accuracy) or warnings. ``--part val`` measures on validation
samples instead, by which settings are chosen; ``--rules`` takes expressions too: ``--rules "lf.ForwardForward(batch_norm='train')"``.
``--calibrate 10 --clip 1`` gives the batch norms the statistics of the first ten batches before training and bounds each step: rules that
refuse an untrained network then train it.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import warnings
from pathlib import Path

import joblib
import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.recipes import worker_count

LR, EPOCHS, BATCH = 0.02, 6, 32
COLUMNS = ("rule", "test_accuracy", "share_of_plain", "said")


class Block(nn.Module):
    """Two convolutions with batch norm around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


def residual_net() -> nn.Module:
    """``(B, 1, 8, 8) -> (B, 10)``: a stem, three residual blocks, global pooling, as torch initialises them."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        stem, Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def loaders(seed: int, part: str) -> tuple[DataLoader, DataLoader]:
    """Training data, and what is measured on: 200 validation or 360 test samples, the same for every seed."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16, torch.tensor(y)[order]
    test, val, train = slice(0, 360), slice(360, 560), slice(560, None)
    measured = test if part == "test" else val
    generator = torch.Generator().manual_seed(seed)
    return (
        DataLoader(TensorDataset(x[train], y[train]), BATCH, shuffle=True, drop_last=True, generator=generator),
        DataLoader(TensorDataset(x[measured], y[measured]), 360),
    )


@torch.no_grad()
def calibrated(net: nn.Module, batches: DataLoader, count: int) -> nn.Module:
    """The network, its batch norms with the mean statistics of so many batches, each as the ones before it then give it."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = None  # a plain mean
    for _, (x, _y) in zip(range(count), batches, strict=False):
        net.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net


def fit(rule: str, seed: int, part: str, calibrate: int = 0, clip: float | None = None) -> tuple[float | None, str]:
    """Accuracy after one fit, and what was said; None: it was refused."""
    torch.set_num_threads(1)
    method = "auto" if rule == "plain" else rule if rule in lf.METHODS else lf.ForwardOnlyStrategy(eval(rule, {"lf": lf}))
    L.seed_everything(seed, verbose=False)
    train, measured = loaders(seed, part)
    module = lf.Classifier(calibrated(residual_net(), train, calibrate), lr=LR, momentum=0.9)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(strategy=method, max_epochs=EPOCHS, accelerator="cpu", devices=1, gradient_clip_val=clip, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(module, train)
        except lf.LightningFwdError as error:
            return None, f"refused: {error.what}; {error.mend}"
    said = [str(w.message) for w in caught if str(w.message).startswith(tuple(r.__name__ for r in lf.METHODS.values()))]
    return trainer.test(module, measured, verbose=False)[0]["test/accuracy"], "; ".join(dict.fromkeys(said))


def run(
    rules: list[str], seeds: list[int], part: str = "test", jobs: int | None = None, calibrate: int = 0, clip: float | None = None
) -> list[tuple[str, float | None, float | None, str]]:
    """A row per rule, plain training first."""
    names = ["plain", *rules]
    cells = [(rule, seed, part, *((calibrate, clip) if rule != "plain" else ())) for rule in names for seed in seeds]
    results = joblib.Parallel(n_jobs=worker_count(jobs))(joblib.delayed(fit)(*cell) for cell in cells)
    rows: list[tuple[str, float | None, float | None, str]] = []
    for i, rule in enumerate(names):
        own = results[i * len(seeds) : (i + 1) * len(seeds)]
        found = [accuracy for accuracy, _ in own if accuracy is not None]
        mean = statistics.mean(found) if len(found) == len(seeds) else None
        plain = rows[0][1] if rows else mean
        rows.append(
            (rule, mean, mean / plain if mean is not None and plain else None, "; ".join(dict.fromkeys(said for _, said in own if said)))
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/newcomer"))
    parser.add_argument("--rules", nargs="+", default=list(lf.METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", choices=["test", "val"], default="test")
    parser.add_argument("--calibrate", type=int, default=0, metavar="BATCHES")
    parser.add_argument("--clip", type=float, help="the largest norm of a step's gradients, of the rules' rows")
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    rows = run(options.rules, options.seeds, options.part, options.jobs, options.calibrate, options.clip)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    for rule, accuracy, share, said in rows:
        figures = "refused" if accuracy is None or share is None else f"{accuracy:.3f}  {share:6.1%} of plain"
        print(f"{rule:20} {figures}  {said}")


if __name__ == "__main__":
    main()
