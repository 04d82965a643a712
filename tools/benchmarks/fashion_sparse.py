"""Fashion-MNIST from scratch at a tenth of the weights: RigL, SET, a mask that never moves, and the dense net, over seeds.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/fashion_sparse.py --out runs/fashion_sparse

Runs ``lightning-fwd fit -c recipes/fashion_rigl.yaml`` with one setting changed per row; what is done already is not run again. The density
is
counted in the checkpoint: weights other than zero over all weights of the linear layers. Writes ``sparse.md``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from lightning_fwd.graph.constants import is_inserted

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion_rigl.yaml"
METHOD = "--trainer.strategy.init_args.method.init_args"
ROWS = {
    "dense": [f"{METHOD}.density", "1.0"],
    "RigL": [],
    "SET": [f"{METHOD}.regrow", "random"],
    "mask that never moves": [f"{METHOD}.until", "0"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    lines = ["| weights | test accuracy % | density % |", "|---|---:|---:|"]
    for name, changes in ROWS.items():
        runs = [fit(options.out / f"{name.replace(' ', '_')}_{seed}", seed, changes) for seed in options.seeds]
        accuracies, densities = zip(*runs, strict=True)
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        shown = " / ".join(sorted({f"{100 * d:.2f}" for d in densities}))
        lines.append(f"| {name} | {statistics.fmean(accuracies):.2f} ± {spread:.2f} | {shown} |")
    (options.out / "sparse.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def fit(folder: Path, seed: int, changes: list[str]) -> tuple[float, float]:
    """Test accuracy in percent, and the density of the trained weights."""
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "lightning_fwd.cli.main", "fit", "-c", str(RECIPE), "--seed_everything", str(seed), *changes]
        command += ["--data.init_args.seed", str(seed), "--trainer.enable_checkpointing", "true", "--trainer.enable_progress_bar", "false"]
        command += ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", str(folder)]
        subprocess.run(command, check=True)
        (folder / "done").touch()
    run = sorted((folder / "lightning_logs").glob("version_*"))[-1]
    with (run / "metrics.csv").open(newline="") as file:
        accuracy = next(float(row["test/accuracy"]) for row in csv.DictReader(file) if row.get("test/accuracy"))
    state = torch.load(next((run / "checkpoints").glob("*.ckpt")), weights_only=True)["state_dict"]
    weights = [w for name, w in state.items() if name.endswith(".weight") and not is_inserted(name)]
    return 100 * accuracy, sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


if __name__ == "__main__":
    main()
