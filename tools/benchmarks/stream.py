"""Rules on a stream in which drift grows and returns: accuracy on each batch before it is learned from, and the labels come behind it.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/stream.py --out runs/stream --choose 0.0001 0.001 0.01 0.03 0.1 0.3
    LIGHTNING_FWD_DATA=... python tools/benchmarks/stream.py --out runs/stream

``--choose``: of these rates (for rules without a rate: of these weights of a new batch) the one with the best mean accuracy of each row, on
another stream: samples of the training part, seed 100; written to ``rates.json``, which a run reads; those that it holds are kept. Rows
never share anything: each begins at the network that the recipe pretrains or brings. Writes ``results.jsonl`` (a line per row and seed,
with the accuracy per stretch) and ``stream.md``; of other ``--levels`` files named after them. Interrupted runs go on where they stopped.

``--bank``: beside each row that trains the norms the same with stored corrections (``lf.CorrectionBank``), whenever the moments of what the
stem gives say that the domain changes. ``+ mixture``: mixed by the row's own gradient, as ZOA does. ``+ recall``: the one with the lowest
loss on the first labelled batch of a domain.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.compare import Row, Scenario, load_scenario
from lightning_fwd.data import DriftStream
from lightning_fwd.data.stream import GROWS_AND_RETURNS
from lightning_fwd.methods.calibrate import calibrate
from lightning_fwd.recipes import pretrain, pretrained, quiet

RECIPE = Path(__file__).parents[2] / "recipes" / "stream_resnet8.yaml"
CHOOSING_SEED = 100
BANKS = {" + mixture": 0.3, " + recall": 0.0}  #: the mixture's rate; that of ZOA's steps, or none
PHASES = {"before": (0,), "growing": (1, 2, 3, 4), "worst": (5,), "returning": (6, 7, 8, 9), "after": (10,)}  #: which stretches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--samples-per-level", type=int, default=160)
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of the recipe's")
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--levels", nargs="+", type=int, default=list(GROWS_AND_RETURNS), help="of each stretch")
    parser.add_argument("--bank", action="store_true", help="also rows with stored corrections")
    parser.add_argument("--choose", nargs="+", type=float, metavar="RATE", help="only choose each row's rate")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    usual = tuple(options.levels) == GROWS_AND_RETURNS
    scenario = load_scenario(options.recipe, {})
    rows = [row for row in scenario.all_rows() if options.rows is None or row.name in options.rows]
    if options.bank:
        rows = [row for plain in rows for row in with_banks(plain)]
    kind = "" if usual else "_" + "".join(map(str, options.levels))
    rates_file, file = options.out / f"rates{kind}.json", options.out / f"results{kind}.jsonl"
    rates = json.loads(rates_file.read_text()) if rates_file.exists() else {}
    if options.choose:
        for row in rows:
            if row.method is not None and row.name not in rates:
                means = {lr: statistics.fmean(run(scenario, row, lr, CHOOSING_SEED, "train", options)) for lr in options.choose}
                rates[row.name] = max(means, key=means.__getitem__)
                print(row.name, {lr: round(mean, 1) for lr, mean in means.items()}, flush=True)
                rates_file.write_text(json.dumps(rates, indent=1))
        return
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in options.seeds or scenario.seeds:
        for row in rows:
            if not any(line["row"] == row.name and line["seed"] == seed for line in done):
                lr = rates.get(row.name, row.lr or scenario.adapt.lr)
                done.append({"row": row.name, "seed": seed, "lr": lr, "accuracy": run(scenario, row, lr, seed, "test", options)})
                with file.open("a") as results:
                    results.write(json.dumps(done[-1]) + "\n")
                print(done[-1], flush=True)
    text = table(done, PHASES if usual else {f"{i + 1}: {level}": (i,) for i, level in enumerate(options.levels)})
    (options.out / f"stream{kind}.md").write_text(text)
    print(text)


def with_banks(row: Row) -> list[Row]:
    """The row, and where it trains the norms the same with stored corrections."""
    return [dataclasses.replace(row, name=row.name + end) for end in ("", *(BANKS if row.settings.get("train") == "norms" else ()))]


def bank_of(row: Row) -> str | None:
    """The end of its name, of a row with stored corrections."""
    return next((end for end in BANKS if row.name.endswith(end)), None)


def start(scenario: Scenario, seed: int, out: Path) -> nn.Module:
    weights = out / f"source_{seed}.safetensors"
    if not weights.exists():
        pretrain(scenario, seed, scenario.data_module(seed, "source"), weights)
    return pretrained(scenario, weights).eval()


def run(scenario: Scenario, row: Row, lr: float, seed: int, split: str, options: argparse.Namespace) -> list[float]:
    """Accuracy in % of each stretch, on batches that are not learned from yet. A row that diverges predicts as it then does."""
    quiet(seed)
    data = scenario.data_module(seed, "target")
    length, batch = options.samples_per_level, scenario.adapt.batch_size
    stream = DriftStream(data, options.levels, length, batch_size=batch, split=split, seed=seed)
    net = start(scenario, seed, options.out)
    learner = None if row.method is None else Learner(row.frozen(net), row, lr, scenario.adapt.momentum, next(iter(stream))[0], seed)
    if row.calibrate:  # at home
        calibrate(learner.model, list(scenario.data_module(seed, "source").changed(train_samples=2000).train_dataloader()))
    right = dict.fromkeys(range(len(options.levels)), 0)
    seen = 0
    for x, y in stream:
        stretch = seen // options.samples_per_level
        seen += len(x)
        with torch.no_grad():
            logits = (net if learner is None else learner.model.eval())(x)
        right[stretch] += int((logits.argmax(1) == y).sum())
        if learner is not None:
            learner.learn(x, y)
    return [100 * count / options.samples_per_level for count in right.values()]


class Learner:
    """A network under one rule, one step of SGD per batch; a rule without gradients moves what it keeps by its own weight of a batch."""

    def __init__(self, net: nn.Module, row: Row, lr: float, momentum: float, x: torch.Tensor, seed: int):
        method = row.build(seed)
        if isinstance(method, lf.Statistics):
            method = dataclasses.replace(method, momentum=min(lr, 1.0))
        self.model = lf.rewrite(net, method, x[:2])
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learning, lr, momentum) if learning else None
        self.bank, self.change = None, lf.DomainChange()
        if (end := bank_of(row)) is not None:
            self.bank = lf.CorrectionBank(self.model, rate=BANKS[end])
            first = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
            first.register_forward_pre_hook(self.watch)

    def watch(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """What enters the first norm ``(B, C, H, W)``: nothing before it learns."""
        self.entering = inputs[0].detach()

    def look(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """If the batch, just predicted, opens another domain: store the correction of the one before, and perhaps take another."""
        if self.bank is not None and self.change.see(self.entering):
            self.bank.store()
            if not self.bank.rate:
                with torch.no_grad():
                    self.bank.recall(lambda: F.cross_entropy(self.model.eval()(x), y))

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.look(x, y)
        self.model.train()
        with self.model.step(y):
            loss = F.cross_entropy(self.model(x), y)
        if not loss.isfinite():
            return
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        self.model.backward(loss)
        if self.bank is not None:
            self.bank.learn()
        if self.optimizer is not None:
            self.optimizer.step()


def table(done: list[dict], phases: dict[str, tuple[int, ...]]) -> str:
    text = ["| row | rate | " + " | ".join(phases) + " | whole stream |", "| --- |" + " ---: |" * (len(phases) + 2)]
    for row in dict.fromkeys(line["row"] for line in done):
        lines = [line for line in done if line["row"] == row]
        cells = [of([statistics.fmean(line["accuracy"][i] for i in stretches) for line in lines]) for stretches in phases.values()]
        whole = of([statistics.fmean(line["accuracy"]) for line in lines])
        rate = "" if row == "none" else f"{lines[0]['lr']:g}"
        text.append(f"| {row} | {rate} | {' | '.join(cells)} | {whole} |")
    return "\n".join(text) + "\n"


def of(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
