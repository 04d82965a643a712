"""Do the recipes still compute what they computed? Each one, made short, on this checkout and on another, bit against bit.

    python tools/same_figures.py OTHER_CHECKOUT --out runs/same_figures        # --recipes NAME ... ; LIGHTNING_FWD_DATA=...

A figure of a page is as good as the code that made it. Running all of them again takes days; this takes minutes, and says of which the code
behind them now gives other bits, so that those are run again. A ``fit`` recipe runs two epochs of 30 batches: its weights are compared. A
``compare`` recipe runs every row for one epoch on 64 samples: its accuracies on 500 images of source and target are compared. Recipes that
the other checkout does not have, or has otherwise, are left out and named.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

HERE = Path(__file__).parents[1]
_START = "import sys; sys.argv[0] = 'lightning-fwd'; from lightning_fwd.cli import main; sys.exit(main())"
_FIT = {"max_epochs": 2, "limit_train_batches": 30, "limit_val_batches": 1, "enable_checkpointing": "true", "check_val_every_n_epoch": 1}


def command(checkout: Path, arguments: list[str], work: Path) -> str:
    """Run the command line of a checkout in an empty folder; what it said last if it failed."""
    work.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'tools'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _START, *arguments], cwd=work, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1][:160]


def fitted(checkout: Path, recipe: Path, work: Path) -> dict[str, str]:
    """Name to hash of every tensor that a short fit ends with."""
    options = [f"--trainer.{key}={value}" for key, value in _FIT.items()]
    if said := command(checkout, ["fit", "-c", str(recipe), *options], work):
        return {"failed": said}
    (file,) = work.glob("**/*.ckpt")
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name: hashlib.sha256(value.flatten().view(torch.uint8).numpy()).hexdigest() for name, value in state.items()}


def compared(checkout: Path, recipe: Path, work: Path) -> dict[str, str]:
    """Row and column to figure, of a short comparison."""
    short = yaml.safe_load(recipe.read_text())
    short["seeds"], short["adapt_samples"] = [0], 64
    if drifts := short.pop("drifts", None):  # one cell
        short["data"]["drift"] = drifts[0]
    for several in ("labels", "devices"):
        short.pop(several, None)
    if short["data"].get("test_samples", 0) > 500:
        short["data"]["test_samples"] = 500
    short["adapt"] = {**short.get("adapt", {}), "epochs": 1}
    if short.get("pretrain"):
        short["pretrain"] = {**short["pretrain"], "epochs": 1}
    short.pop("device", None)
    file = work.parent / f"{work.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(short, sort_keys=False))
    if said := command(checkout, ["compare", "-c", str(file), "--out", "out", "--jobs", "1"], work):
        return {"failed": said}
    figures = {}
    for name in ("results.csv", "details.csv"):
        with open(work / "out" / name, newline="") as rows:
            for row in csv.DictReader(rows):
                figures |= {f"{row['method']}: {column}": value for column, value in row.items() if column.startswith("accuracy")}
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, help="a checkout of an earlier state")
    parser.add_argument("--out", type=Path, default=Path("runs/same_figures"), help="an empty folder")
    parser.add_argument("--recipes", nargs="+", help="names without .yaml (default: all)")
    options = parser.parse_args()
    other, out = options.other.resolve(), options.out.resolve()
    print("| recipe | bits |\n| --- | --- |", flush=True)
    differs = False
    for recipe in sorted((HERE / "recipes").glob("*.yaml")):
        before = other / "recipes" / recipe.name
        content = yaml.safe_load(recipe.read_text())
        if options.recipes and recipe.stem not in options.recipes or "rows" not in content and "trainer" not in content:
            continue
        if not before.exists() or yaml.safe_load(before.read_text()) != content:
            print(f"| `{recipe.stem}` | not there as it is now |", flush=True)
            continue
        run = compared if "rows" in content else fitted
        one, two = (run(checkout, recipe, out / recipe.stem / name) for checkout, name in ((other, "other"), (HERE, "this")))
        wrong = [f"{name} {one.get(name)} -> {two.get(name)}" if "rows" in content or "failed" in name else name
                 for name in {**one, **two} if one.get(name) != two.get(name) or name == "failed"]  # fmt: skip
        differs = differs or bool(wrong)
        print(f"| `{recipe.stem}` | {'same' if not wrong else 'other: ' + '; '.join(wrong)} |", flush=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
