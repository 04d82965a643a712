"""Accuracy won back over the number of labels: the staged rows of a comparison recipe under several drifts, as one table.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/recovery.py --out runs/recovery

Epochs grow where labels are few, so that each stage that learns takes at least ``--steps`` steps, the same for every row. Interrupted runs
go on where they stopped; ``--no-train`` makes the table of what is there. Writes ``results.jsonl`` (a line per row, drift, labels and seed,
with what became of each stage) and ``recovery.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path

from lightning_fwd.adaptation import Stage, adapt
from lightning_fwd.compare import Row, Scenario, load_scenario
from lightning_fwd.compare.in_stages import prepared
from lightning_fwd.models import build
from lightning_fwd.recipes import quiet
from lightning_fwd.recipes.accuracy import accuracy
from lightning_fwd.strict_yaml import load_yaml

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_resnet8_recovery.yaml"
DRIFTS = ("noise=0.08", "contrast=0.3", "blur=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--drifts", nargs="+", default=DRIFTS)
    parser.add_argument("--labels", nargs="+", type=int, default=(50, 100, 200, 2000))
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of the recipe's")
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--steps", type=int, default=150, help="a stage that learns takes so many at least")
    parser.add_argument("--no-train", action="store_true", help="only the table")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    recipe = load_yaml(options.recipe.read_text())
    for labels in options.labels if not options.no_train else ():
        for drift in options.drifts:
            scenario = load_scenario(options.recipe, {"data": {**recipe["data"], "drift": drift}, "adapt_samples": labels})
            for seed in options.seeds or scenario.seeds:
                for row in scenario.all_rows():
                    key = {"row": row.name, "drift": drift, "labels": labels, "seed": seed}
                    wanted = options.rows is None or row.name in options.rows
                    if wanted and not any(all(line[k] == v for k, v in key.items()) for line in done):
                        done.append(key | run(scenario, row, seed, options.steps, options.out / "source"))
                        with file.open("a") as results:
                            results.write(json.dumps(done[-1]) + "\n")
                        print(done[-1], flush=True)
    table = as_markdown(done)
    (options.out / "recovery.md").write_text(table)
    print(table)


def run(scenario: Scenario, row: Row, seed: int, steps: int, source_file: Path) -> dict:
    """One row: its accuracy on the test samples in percent, and its stages."""
    quiet(seed)
    network = build(scenario.model, **scenario.model_args).eval()
    target, said = scenario.data_module(seed, "target"), []
    if row.stages:
        stages = prepared(row, network, scenario.data_module(0, "source"), source_file)
        done = adapt(network, [longer(stage, scenario.adapt_samples, steps) for stage in stages], target.tensors("train"), seed=seed)
        network, said = done.network, [str(stage) for stage in done.stages]
    return {"accuracy": accuracy(network, *target.tensors(scenario.split)), "stages": said}


def longer(stage: Stage, labels: int, steps: int) -> Stage:
    """A stage that learns, with at least so many steps."""
    if not stage.learns:
        return stage
    return dataclasses.replace(stage, epochs=max(5, math.ceil(steps * stage.batch_size / labels)))


def as_markdown(lines: list[dict]) -> str:
    """Per number of labels: accuracy of each row under each drift, and the mean over drifts, mean ± standard deviation over seeds."""
    text = []
    for labels in sorted({line["labels"] for line in lines}):
        some = [line for line in lines if line["labels"] == labels]
        drifts = list(dict.fromkeys(line["drift"] for line in some))
        text += [f"{labels} labels", "", f"| row | {' | '.join(drifts)} | mean |", f"|---|{'---:|' * (len(drifts) + 1)}"]
        for row in dict.fromkeys(line["row"] for line in some):
            found = {(line["drift"], line["seed"]): line["accuracy"] for line in some if line["row"] == row}
            seeds = sorted({seed for _, seed in found})
            cells = [[found[d, s] for s in seeds if (d, s) in found] for d in drifts]
            means = [statistics.fmean(found[d, s] for d in drifts) for s in seeds if all((d, s) in found for d in drifts)]
            text.append(f"| {row} | {' | '.join(map(shown, [*cells, means]))} |")
        text.append("")
    return "\n".join(text)


def shown(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
