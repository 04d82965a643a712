"""What the guard of an adaptation keeps, by several criteria, and what becomes of it on samples that it never sees.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/guard.py -c recipes/mlperf_tiny_har.yaml --out runs/guard --seeds 3 4 5

Of each row in stages every candidate of every stage is trained once, from what the guard as it is took of the stages before. By each
criterion one of them is taken or none; its accuracy on the comparison's test part (``--split val``: held out of training) is held against
that of the network before the stage. There is no last run on all labels, as an adaptation would do. Prints, for stages that learn from
labels and for those that do not, how many are kept, what they gain on average over all (points), and how many end more than one and two
standard errors below: of the accuracy before, by the number of test samples. Writes ``guard.jsonl`` (a line per candidate). The seeds
should not be those of the recipe's table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_fwd.adaptation import Stage
from lightning_fwd.adaptation.guard import Verdict, judge, split
from lightning_fwd.adaptation.train import train
from lightning_fwd.compare import load_scenario
from lightning_fwd.compare.cells import Cell, Start, cells_of, prepare
from lightning_fwd.errors import StepError
from lightning_fwd.recipes import pretrain, quiet
from lightning_fwd.recipes.accuracy import accuracy


def lower(after: Verdict, before: Verdict) -> bool:
    return after.loss < before.loss


def accepted(after: Verdict, before: Verdict) -> bool:
    return not after.against(before)


def certain(after: Verdict, before: Verdict) -> bool:
    return accepted(after, before) and not after.chance(before)


CRITERIA = {"a lower loss": lower, "and right answers": accepted, "and more than chance": certain}


def guard(learns: bool) -> Callable[[Verdict, Verdict], bool]:
    """Which criterion is the guard's, of a stage that learns from labels or of one that does not."""
    return accepted if learns else certain


@dataclass
class Tried:
    """A stage's candidates.

    Attributes:
        before, after: what judges say. chosen: the rate and settings of each candidate.
        tests: accuracies in % on the test part, before and of each candidate.
    """

    learns: bool
    chosen: list[str]
    before: Verdict
    after: list[Verdict]
    tests: list[float]

    def taken(self, passes: Callable[[Verdict, Verdict], bool]) -> int | None:
        """The candidate of the lowest loss that passes."""
        good = [(verdict.loss, i) for i, verdict in enumerate(self.after) if passes(verdict, self.before)]
        return min(good)[1] if good else None

    def gain(self, passes: Callable[[Verdict, Verdict], bool]) -> float:
        taken = self.taken(passes)
        return 0.0 if taken is None else self.tests[1 + taken] - self.tests[0]

    def error(self, count: int) -> float:
        """Of the accuracy before, in points, by so many test samples; one more right and one more wrong, so that it is never 0."""
        share = (self.tests[0] / 100 * count + 1) / (count + 2)
        return 100 * math.sqrt(share * (1 - share) / count)


def tried_in(
    network: nn.Module, stages: list[Stage], x: Tensor, y: Tensor, held_back: float, seed: int, test: tuple[Tensor, Tensor]
) -> list[Tried]:
    """All stages of a row; the next begins with what the guard takes of the one before."""
    kept, held = split(y, held_back, seed)
    tried, learned, state = [], False, network
    for stage in (stage.for_labels(len(x)) for stage in stages):
        judges = held if stage.learns or learned else torch.arange(len(x))
        before = judge(state, x[judges], y[judges])
        networks, chosen, rows = [], [], kept if stage.learns else torch.arange(len(x))
        for candidate in stage.candidates():
            try:
                networks.append(train(state, candidate, x[rows], y[rows] if stage.reads_labels else None, seed))
                chosen.append(stage.choice(candidate))
            except StepError:  # diverged
                continue
        after = [judge(net, x[judges], y[judges]) for net in networks]
        found = Tried(stage.learns, chosen, before, after, [accuracy(net, *test) for net in (state, *networks)])
        taken = found.taken(guard(stage.learns))
        if taken is not None:
            state, learned = networks[taken], learned or stage.learns
        tried.append(found)
    return tried


def run(cell: Cell, seed: int, out: Path) -> tuple[list[Tried], int]:
    """Every stage of every guarded row of a cell, and how many samples test."""
    weights = cell.weights_file(seed)
    if not weights.exists():
        pretrain(cell.scenario, seed, cell.scenario.data_module(seed, "source"), weights)
    rows = [row for row in cell.scenario.all_rows() if row.stages and row.held_back > 0]
    prepared, start = prepare(cell, seed, {cell.labels: rows}), Start(cell, seed)
    test, found = start.target.tensors(cell.scenario.split), []
    for row in rows:
        stages = prepared[row.name, cell.labels]
        if not isinstance(stages, list):  # its rule does not fit the network
            continue
        quiet(seed)
        tried = tried_in(start.network(), stages, *start.target.tensors("train"), row.held_back, seed, test)
        with (out / "guard.jsonl").open("a") as file:
            for stage, one in zip(stages, tried, strict=True):
                chosen = iter(one.chosen)
                for verdict, tested in zip(one.after, one.tests[1:], strict=True):
                    lost, won = verdict.changed(one.before)
                    gain, error = verdict.gain(one.before) if verdict.losses is not None else (math.nan, math.nan)
                    line = {"cell": str(cell), "seed": seed, "row": row.name, "stage": stage.name, "chosen": next(chosen)}
                    line |= {"loss_before": one.before.loss, "loss": verdict.loss, "gain": gain, "error": error, "lost": lost, "won": won}
                    file.write(json.dumps(line | {"test_before": one.tests[0], "test": tested}) + "\n")
        found += tried
    return found, len(test[1])


def table(found: list[tuple[Tried, float]]) -> str:
    """Of each criterion a line; ``found``: with the standard error of its accuracy before."""
    lines = ["| criterion | stages | kept | mean gain | ends > 1 error below | > 2 | worst |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, passes in CRITERIA.items():
        gains = [(tried.gain(passes), error) for tried, error in found]
        kept = sum(tried.taken(passes) is not None for tried, _ in found)
        below = [sum(gain < -k * error for gain, error in gains) for k in (1, 2)]
        mean, worst = statistics.fmean(gain for gain, _ in gains), min(gain for gain, _ in gains)
        lines.append(f"| {name} | {len(gains)} | {kept} | {mean:.2f} | {below[0]} | {below[1]} | {worst:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--labels", type=int, nargs="+", help="default: the recipe's")
    parser.add_argument("--drifts", nargs="+", help="default: the recipe's")
    parser.add_argument("--rows", nargs="+", help="default: all in stages")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    options = parser.parse_args()
    given = {key: value for key in ("drifts", "labels") if (value := getattr(options, key))}
    scenario = dataclasses.replace(load_scenario(options.config, given), split=options.split, seeds=options.seeds)
    scenario = scenario.only(options.rows) if options.rows else scenario
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "guard.jsonl").unlink(missing_ok=True)
    found = []
    for cell in cells_of(scenario, options.out):
        for seed in options.seeds:
            tried, count = run(cell, seed, options.out)
            found += [(one, one.error(count)) for one in tried if one.after]
            print(f"{cell}, seed {seed}: {len(found)} stages", flush=True)
    if not found:
        print("no row in stages that is guarded: nothing to judge")
    for what, learns in (("learn from labels", True), ("learn from none", False)):
        if some := [(tried, error) for tried, error in found if tried.learns is learns]:
            of_the_guard = next(name for name, passes in CRITERIA.items() if passes is guard(learns))
            print(f"\nStages that {what} (the guard: {of_the_guard})\n\n{table(some)}")


if __name__ == "__main__":
    main()
