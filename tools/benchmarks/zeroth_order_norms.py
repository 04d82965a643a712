"""Scales and shifts of the norms from few labels: by their gradient, by SPSA and by an evolution strategy of 1 to 64 directions per step.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/zeroth_order_norms.py --out runs/norms --directions 1 4 16

ResNet-8 (official weights), CIFAR-10 (JPEG) under noise 0.08, after recomputed statistics; 150 steps, momentum 0.9, no guard. Each row's
rate is the best of three on seed 100 and 1,000 samples of the validation part, then seeds 0, 1, 2 on 2,000 test samples. Writes
``results.jsonl`` (a line per row, rate and seed) and ``norms.md``; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.models import build
from lightning_fwd.recipes import quiet
from lightning_fwd.recipes.accuracy import accuracy

RECIPE = Path(__file__).parents[2] / "recipes" / "stream_resnet8.yaml"  #: the network and the data
CHOOSING_SEED, SEEDS, BATCH, STEPS = 100, (0, 1, 2), 4, 150
SLOPES = {1: (1e-5, 3e-5, 1e-4), 4: (3e-5, 1e-4, 3e-4), 16: (1e-4, 3e-4, 1e-3), 64: (1e-4, 3e-4, 1e-3)}  #: rates tried
RANKS = {1: (3e-5, 9e-5, 3e-4), 4: (9e-5, 3e-4, 9e-4), 16: (3e-4, 9e-4, 3e-3), 64: (3e-4, 9e-4, 3e-3)}


def rules(directions: Sequence[int]) -> dict[str, tuple[lf.LearningMethod, tuple[float, ...]]]:
    """Rows: the rule, and the rates among which its own is chosen."""
    found: dict[str, tuple[lf.LearningMethod, tuple[float, ...]]] = {
        "norms by their gradient": (lf.SparseUpdate("norms"), (1e-4, 3e-4, 1e-3))
    }
    for k in directions:
        found[f"SPSA, {k}"] = (lf.ZerothOrder("norms", samples=k), SLOPES[k])
        found[f"evolution strategy, {k}"] = (lf.ZerothOrder("norms", samples=k, estimator="ranks"), RANKS[k])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--directions", type=int, nargs="+", choices=tuple(SLOPES), default=list(SLOPES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = rules(options.directions)

    def accuracy_of(row: str, lr: float, seed: int) -> float:
        known = [line["accuracy"] for line in done if (line["row"], line["lr"], line["seed"]) == (row, lr, seed)]
        if not known:
            known.append(run(row, rows.get(row, (None,))[0], lr, seed, options.labels))
            done.append({"row": row, "lr": lr, "seed": seed, "accuracy": known[0]})
            with file.open("a") as results:
                results.write(json.dumps(done[-1]) + "\n")
            print(done[-1], flush=True)
        return known[0]

    lines = ["| row | rate | accuracy | inferences per step |", "| --- | ---: | ---: | ---: |"]
    for row in ["none", "statistics", *rows]:
        rule, rates = rows.get(row, (None, (0.0,)))
        lr = max(rates, key=lambda lr: accuracy_of(row, lr, CHOOSING_SEED)) if rule is not None else 0.0
        right = [accuracy_of(row, lr, seed) for seed in SEEDS]
        runs = rule.samples + 1 if isinstance(rule, lf.ZerothOrder) else ""
        lines.append(f"| {row} | {f'{lr:g}' if lr else ''} | {statistics.fmean(right):.1f} ± {statistics.stdev(right):.1f} | {runs} |")
        (options.out / "norms.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def run(row: str, rule: lf.LearningMethod | None, lr: float, seed: int, labels: int) -> float:
    """Accuracy in % after the adaptation; of the seed that rates are chosen on, on the validation part."""
    quiet(seed)
    scenario = load_scenario(RECIPE, {})
    scenario = dataclasses.replace(scenario, data=scenario.data | {"drift": "noise=0.08", "test_samples": 2000}, adapt_samples=labels)
    data = scenario.data_module(seed, "target")
    net, samples = build(scenario.model, **scenario.model_args).eval(), data.tensors("train")
    x, y = data.tensors("val" if seed == CHOOSING_SEED else "test")
    every = max(1, len(y) // 1000) if seed == CHOOSING_SEED else 1
    if row != "none":
        net = lf.adapt(net, ["statistics"], samples, held_back=0, seed=seed).network
    if rule is not None:
        stage = lf.Stage(rule, lr=lr, batch_size=BATCH, epochs=max(1, STEPS * BATCH // labels))
        net = lf.adapt(net, [stage], samples, held_back=0, seed=seed).network
    return accuracy(net, x[::every], y[::every])


if __name__ == "__main__":
    main()
