"""Accuracy won back over the number of labels: the staged rows of a comparison recipe under several drifts, as one table.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/recovery.py --out runs/recovery --choose 100 2000
    LIGHTNING_FWD_DATA=... python tools/benchmarks/recovery.py --out runs/recovery

``--choose``: for these numbers of labels the rate of each stage, stage by stage, by the mean accuracy over the drifts on another seed and
the validation part; written to ``rates.json``. A run takes the rates of the nearest number of labels there, or in ``RECIPE.rates.json``
beside the recipe; without either each adaptation chooses among the recipe's rates by the samples that it holds back.

``lightning-fwd compare`` runs a recipe's drifts and labels too, with costs; it does not choose rates on another seed, nor run with these.
Stages that do not say their ``steps`` take at least ``--steps``, the same for every row. Interrupted runs go on where they stopped;
``--no-train`` makes the tables of what is there. Writes ``results.jsonl`` (a line per row, drift, labels and
seed, with what became of each stage; of rows without a choice where the guard rolled something back also the accuracy without it),
``recovery.md`` and ``report.html``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import statistics
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from lightning_fwd.adaptation import Stage, adapt
from lightning_fwd.compare import Row, Scenario, load_scenario
from lightning_fwd.compare.cells import label_free
from lightning_fwd.compare.html_report import label_curves, write_page
from lightning_fwd.compare.html_report import table as html_table
from lightning_fwd.recipes import pretrain, pretrained, quiet
from lightning_fwd.recipes.accuracy import accuracy
from lightning_fwd.strict_yaml import load_yaml

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_resnet8_recovery.yaml"
DRIFTS, LABELS = ("noise=0.08", "contrast=0.3", "blur=3"), (50, 100, 200, 2000)
CHOOSING_SEED, CHOOSING_SAMPLES = 100, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--drifts", nargs="+", help=f"in place of the recipe's; without any there {' '.join(DRIFTS)}")
    parser.add_argument("--labels", nargs="+", type=int, help="in place of the recipe's; without any there 50 100 200 2000")
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of the recipe's")
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--steps", type=int, default=150, help="a stage that learns takes so many at least")
    parser.add_argument("--choose", nargs="+", type=int, help="only choose the rates, for these numbers of labels")
    parser.add_argument("--no-train", action="store_true", help="only the table")
    options = parser.parse_args()
    said = load_yaml(options.recipe.read_text())
    options.drifts = options.drifts or said.get("drifts") or DRIFTS
    options.labels = options.labels or said.get("labels") or LABELS
    options.out.mkdir(parents=True, exist_ok=True)
    if options.choose:
        choose(options)
        return
    file, rates = options.out / "results.jsonl", rates_in(options.out) or rates_of_file(options.recipe.with_suffix(".rates.json"))
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for labels in options.labels if not options.no_train else ():
        for drift in options.drifts:
            world = World(options.recipe, drift, labels, options.out)
            for seed in options.seeds or world.scenario.seeds:
                for row in world.rows(options.rows):
                    key = {"row": row.name, "drift": drift, "labels": labels, "seed": seed}
                    if not any(all(line[k] == v for k, v in key.items()) for line in done):
                        done.append(key | world.run(row, seed, options.steps, nearest(rates, labels)))
                        with file.open("a") as results:
                            results.write(json.dumps(done[-1]) + "\n")
                        print(done[-1], flush=True)
    table = as_markdown(done)
    (options.out / "recovery.md").write_text(table)
    write_page(
        f"Recovery over labels: {options.recipe.stem}", sections(done), shlex.join(["python", *sys.argv]), options.out / "report.html"
    )
    print(table)


Rates = dict[str, dict[str, float]]  #: by row and stage


def rates_in(out: Path) -> dict[int, Rates]:
    return rates_of_file(out / "rates.json")


def rates_of_file(file: Path) -> dict[int, Rates]:
    return {int(labels): rates for labels, rates in json.loads(file.read_text()).items()} if file.exists() else {}


def nearest(rates: dict[int, Rates], labels: int) -> Rates:
    return rates[min(rates, key=lambda known: abs(math.log(known / labels)))] if rates else {}


class World:
    """One drift and one number of labels."""

    def __init__(self, recipe: Path, drift: str, labels: int, out: Path):
        raw = load_yaml(recipe.read_text())
        one = {"data": {**raw["data"], "drift": drift}, "drifts": None, "adapt_samples": labels, "labels": None}
        self.scenario: Scenario = load_scenario(recipe, one)
        self.labels, self.out = labels, out
        self._ready: dict[tuple[str, int], Stage] = {}

    def rows(self, wanted: list[str] | None) -> list[Row]:
        return [row for row in self.scenario.all_rows() if wanted is None or row.name in wanted]

    @lru_cache(maxsize=4)  # noqa: B019 (a world lives as long as the program)
    def samples(self, seed: int, split: str) -> tuple[Tensor, Tensor]:
        return self.scenario.data_module(seed, "target").tensors(split)

    def network(self, seed: int) -> nn.Module:
        """The network before adaptation; trained on the source where the recipe asks for that, by the seed."""
        weights = self.weights(seed)
        if not weights.exists():
            pretrain(self.scenario, seed, self.scenario.data_module(seed, "source"), weights)
        return pretrained(self.scenario, weights).eval()

    def weights(self, seed: int) -> Path:
        of_a_world = f"_{self.scenario.data['drift']}" if self.scenario.data["dataset"] == "har" else ""  # there the source is another too
        return self.out / f"source{of_a_world}_{seed if self.scenario.pretrain is not None else 0}.safetensors"

    @lru_cache(maxsize=4)  # noqa: B019
    def start(self, seed: int, first: str) -> tuple[nn.Module, list[str]]:
        """The network after a row's first stages, those that need no labels; ``first`` is their repr. Rows that begin alike share it."""
        network = self.network(seed)
        stages = next((s for row in self.rows(None) if repr(s := label_free(row.adaptation())) == first), [])
        if not stages:
            return network, []
        done = adapt(network, self.prepared(stages, seed), self.samples(seed, "train"), seed=seed)
        return done.network, [str(stage) for stage in done.stages]

    def prepared(self, stages: list[Stage], seed: int) -> list[Stage]:
        """The stages with what their rules take along of the source, measured once."""
        return [self._prepared(stage, seed) for stage in stages]

    def _prepared(self, stage: Stage, seed: int) -> Stage:
        key = repr(stage), seed
        if key not in self._ready:
            source = self.scenario.data_module(seed if self.scenario.pretrain is not None else 0, "source")
            self._ready[key] = stage.prepared(self.network(seed), source, self.weights(seed))
        return self._ready[key]

    def run(self, row: Row, seed: int, steps: int, rates: Rates) -> dict:
        """One row: its accuracy on the test samples in percent, and its stages."""
        quiet(seed)
        network, said = self.start(seed, repr(label_free(row.adaptation())))
        said = list(said)
        if rest := learning(row):
            chosen = rates.get(row.name, {})
            stages = [dataclasses.replace(longer(s, steps), lr=chosen.get(s.name, s.lr)) for s in rest]
            done = adapt(network, self.prepared(stages, seed), self.samples(seed, "train"), seed=seed)
            network, said = done.network, said + [str(stage) for stage in done.stages]
        result = {"accuracy": self.tested(network, seed), "stages": said}
        if any(": rolled back" in stage for stage in said):
            network = self.network(seed)
            stages = self.prepared([longer(s, steps) for s in row.adaptation()], seed)
            if not any(stage.is_open for stage in stages):
                unguarded = adapt(network, stages, self.samples(seed, "train"), held_back=0, seed=seed).network
                result["unguarded"] = self.tested(unguarded, seed)
        return result

    def tested(self, network: nn.Module, seed: int) -> float:
        return accuracy(network, *self.samples(seed, "test"), batch=50)


def learning(row: Row) -> list[Stage]:
    """The stages from the first that learns."""
    stages = row.adaptation()
    return stages[len(label_free(stages)) :]


def longer(stage: Stage, steps: int) -> Stage:
    """A stage that learns, with at least so many steps, if it does not say how many itself."""
    return dataclasses.replace(stage, steps=steps) if stage.learns and stage.steps is None else stage


def choose(options: argparse.Namespace) -> None:
    """Write ``rates.json``."""
    rates = rates_in(options.out)
    for labels in options.choose:
        worlds = [World(options.recipe, drift, labels, options.out) for drift in options.drifts]
        for row in worlds[0].rows(options.rows):
            if learning(row):
                rates.setdefault(labels, {})[row.name] = rates_of(row, worlds, lambda stage: longer(stage, options.steps))
                (options.out / "rates.json").write_text(json.dumps(rates, indent=1))


def rates_of(row: Row, worlds: list[World], lengthened: Callable[[Stage], Stage]) -> dict[str, float]:
    """The best rate of each stage of a row, the stages before it having theirs."""
    quiet(CHOOSING_SEED)
    states = [world.start(CHOOSING_SEED, repr(label_free(row.adaptation())))[0] for world in worlds]
    best = {}
    for stage in map(lengthened, learning(row)):
        after, means = {}, {}
        for lr in stage.lr:
            fixed = dataclasses.replace(stage, lr=lr)
            after[lr] = [
                adapt(s, [fixed], w.samples(CHOOSING_SEED, "train"), held_back=0, seed=CHOOSING_SEED).network
                for s, w in zip(states, worlds, strict=True)
            ]
            means[lr] = statistics.fmean(validated(network, world) for network, world in zip(after[lr], worlds, strict=True))
        best[stage.name] = max(means, key=means.get)
        states = after[best[stage.name]]
        print(
            f"{worlds[0].labels} labels, {row.name}, {stage.name}: " + ", ".join(f"{lr:g} {m:.1f}" for lr, m in means.items()), flush=True
        )
    return best


def validated(network: nn.Module, world: World) -> float:
    x, y = world.samples(CHOOSING_SEED, "val")
    every = max(1, len(y) // CHOOSING_SAMPLES)
    right = accuracy(network, x[::every], y[::every], batch=100)
    return right if right == right else 0.0


def sections(lines: list[dict]) -> list[str]:
    """Of the page: curves over the labels per drift, and what the guard rolled back."""
    curves: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for drift, row, labels in dict.fromkeys((line["drift"], line["row"], line["labels"]) for line in lines):
        found = [line["accuracy"] for line in lines if (line["drift"], line["row"], line["labels"]) == (drift, row, labels)]
        spread = statistics.stdev(found) if len(found) > 1 else math.nan
        curves.setdefault(drift, {}).setdefault(row, []).append((labels, statistics.fmean(found), spread))
    back = [
        (
            line["row"],
            line["drift"],
            str(line["labels"]),
            str(line["seed"]),
            stage.partition(";")[0],
            shown([line["unguarded"]] if "unguarded" in line else []),
        )
        for line in lines
        for stage in line["stages"]
        if ": rolled back" in stage
    ]
    headers = ("row", "drift", "labels", "seed", "stage", "unguarded, %")
    return [label_curves(curves), "<h2>What the guard rolled back</h2>", html_table(headers, back) if back else "<p>Nothing.</p>"]


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
