"""The anomaly detector after drift: AUC before it, after it, and after adaptation from a few windows of normal sound, without labels.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/anomaly.py --out runs/anomaly

MLPerf Tiny's autoencoder with its official weights on ToyADMOS toy cars. Half of the normal clips are there to adapt with; the others and
the
anomalous ones are tested: a clip's score is the mean squared error of its windows, the AUC is a mean over the four machines. A guarded
row is kept if the error on a third of the windows is lower after learning from the others; it then learns from all.
The one rate of the control is chosen by ``--choose``: on another seed, by the AUC of the clips that are there to adapt with against the
anomalous
ones, which favours the control.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.data.lookup import DATA_FOLDER
from lightning_fwd.data.machine_sounds import MachineSounds, load_machine_sounds
from lightning_fwd.methods import LearningMethod
from lightning_fwd.models import build

DRIFTS = (("gain", -6.0), ("tilt", 12.0), ("response", 4.0), ("floor", 0.0), ("reverberation", 8.0))
ROWS = ("none", "statistics", "relative statistics", "band map", "band map + biases", "biases")
RATE, EPOCHS, BATCH = 1e-2, 20, 10  #: of the rates 0.0001, 0.001, 0.01, 0.03, 0.1 the best by --choose


class Mapped(nn.Module):
    """A network that reads each band of five frames shifted and scaled, so that mean and deviation are the source's: 256 values.

    The detector compares what it reads with what it gives, so the map stands in front of both.
    """

    def __init__(self, net: nn.Module, scale: Tensor, shift: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def seen(self, x: Tensor) -> Tensor:
        return (x.unflatten(1, (-1, len(self.scale))) * self.scale + self.shift).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", type=int, default=(20, 50, 100))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--choose", nargs="+", type=float, help="only compare these rates of the control, on seed 100")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for rate in options.choose or [RATE]:
        for seed in [100] if options.choose else options.seeds:
            lines += run(seed, options.windows, rate, options.out, choosing=bool(options.choose))
        if options.choose:
            some = [line["auc"] for line in lines if line["rate"] == rate and line["row"] == "biases"]
            print(f"rate {rate:g}: AUC of biases {statistics.fmean(some):.4f}", flush=True)
    if not options.choose:
        (options.out / "anomaly.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (options.out / "anomaly.md").write_text(table := as_markdown(lines))
        print(table)


def run(seed: int, counts: list[int], rate: float, out: Path, choosing: bool = False) -> list[dict]:
    sounds = load_machine_sounds()
    net = build("fc_autoencoder", weights=f"{os.environ[DATA_FOLDER]}/mlperf_tiny/autoencoder_ad.npz").eval()
    random = torch.Generator().manual_seed(seed)
    normal = torch.nonzero(~sounds.anomalous).flatten()
    normal = normal[torch.randperm(len(normal), generator=random)]
    adapting, tested = normal[: len(normal) // 2], normal[len(normal) // 2 :]
    tested = torch.cat([adapting if choosing else tested, torch.nonzero(sounds.anomalous).flatten()])
    home = sounds.some(adapting).windows().flatten(0, 1)
    moments = lf.source_moments(net, [home[torch.randperm(len(home), generator=random)[:1000]]], out / f"source_{seed}.moments.safetensors")
    bands = home.unflatten(1, (5, -1)).flatten(0, 1)
    lines = [{"drift": "before", "windows": 0, "seed": seed, "row": "none", "auc": auc(net, sounds.some(tested)), "rate": rate}]
    for kind, severity in DRIFTS:
        there = sounds.drifted(kind, severity)
        test = there.some(tested)
        every = there.some(adapting).windows().flatten(0, 1)
        for count in counts:
            x = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:count]]
            for row in ("biases",) if choosing else ROWS:
                learned = adapted(row, net, x, moments, (bands.mean(0), bands.std(0)), rate, seed)
                key = {"drift": f"{kind}={severity:g}", "windows": count, "seed": seed, "row": row, "rate": rate}
                lines.append(key | {"guard": False, "kept": True, "auc": auc(learned, test)})
                if row == "none":
                    untouched = lines[-1]["auc"]
                elif not choosing:
                    held, rest = x[: count // 3], x[count // 3 :]
                    judged = adapted(row, net, rest, moments, (bands.mean(0), bands.std(0)), rate, seed)
                    kept = bool(errors(judged, held).mean() < errors(net, held).mean())
                    lines.append(key | {"guard": True, "kept": kept, "auc": lines[-1]["auc"] if kept else untouched})
    return lines


def adapted(row: str, net: nn.Module, x: Tensor, moments: str, bands: tuple[Tensor, Tensor], rate: float, seed: int) -> nn.Module:
    """The detector after a row; ``x (N, 640)`` windows of normal sound, ``bands`` mean and deviation of each band at home."""
    for part in row.split(" + "):
        if part == "statistics":
            net = follow(net, lf.Alignment(samples=len(x)), x)
        elif part == "relative statistics":
            net = follow(net, lf.Alignment(moments, strength=0, norms="relative", samples=len(x)), x)
        elif part == "band map":
            found = x.unflatten(1, (5, -1)).flatten(0, 1)
            scale = bands[1] / found.std(0).clamp_min(1e-3)
            net = Mapped(net, scale, bands[0] - scale * found.mean(0))
        elif part == "biases":
            net = train_biases(net, x, rate, seed)
    return net


def follow(net: nn.Module, rule: LearningMethod, x: Tensor) -> nn.Module:
    """A rule without labels, for as many steps as it asks for."""
    model = lf.rewrite(copy.deepcopy(net), rule, x[:2]).train()
    while rule.unfinished(model):
        with model.step():
            loss = F.mse_loss(model(x), x)
        model.backward(loss)
    return lf.unwrap(model).eval()


def train_biases(net: nn.Module, x: Tensor, rate: float, seed: int) -> nn.Module:
    """The control: biases by sparse backpropagation of the reconstruction's error."""
    inner = net.net if isinstance(net, Mapped) else net
    seen = net.seen(x) if isinstance(net, Mapped) else x
    model = lf.rewrite(copy.deepcopy(inner), lf.SparseUpdate(train="biases"), seen[:2]).train()
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, EPOCHS * -(-len(x) // BATCH))
    for epoch in range(EPOCHS):
        for some in torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * seed + epoch)).split(BATCH):
            sgd.zero_grad()
            with model.step():
                loss = F.mse_loss(model(seen[some]), seen[some])
            model.backward(loss)
            sgd.step()
            cosine.step()
    inner = lf.unwrap(model).eval()
    return Mapped(inner, net.scale, net.shift) if isinstance(net, Mapped) else inner


@torch.no_grad()
def errors(net: nn.Module, x: Tensor) -> Tensor:
    """Anomaly score of each window ``(N,)``."""
    if isinstance(net, Mapped):
        return errors(net.net, net.seen(x))
    return torch.cat([net.anomaly_score(part) for part in x.split(2000)])


def auc(net: nn.Module, sounds: MachineSounds) -> float:
    """Mean over machines of the area under the ROC curve; NaN where scores are not finite."""
    windows = sounds.windows()
    scores = errors(net, windows.flatten(0, 1)).unflatten(0, windows.shape[:2]).mean(1)
    if not scores.isfinite().all():
        return float("nan")
    of = [sounds.machine == m for m in sounds.machine.unique()]
    return statistics.fmean(float(roc_auc_score(sounds.anomalous[mine], scores[mine])) for mine in of)


def as_markdown(lines: list[dict]) -> str:
    """AUC by row and drift, per number of windows; mean ± standard deviation over seeds."""
    before = [line["auc"] for line in lines if line["drift"] == "before"]
    text = [f"before drift: {shown(before)}", ""]
    lines = [line for line in lines if line["drift"] != "before"]
    drifts = list(dict.fromkeys(line["drift"] for line in lines))
    for count in dict.fromkeys(line["windows"] for line in lines):
        text += [f"{count} windows", "", f"| row | {' | '.join(drifts)} | mean | rolled back |", f"|---|{'---:|' * (len(drifts) + 2)}"]
        for row, guard in dict.fromkeys((line["row"], line["guard"]) for line in lines):
            mine = [line for line in lines if (line["row"], line["guard"], line["windows"]) == (row, guard, count)]
            cells = [[line["auc"] for line in mine if line["drift"] == drift] for drift in drifts]
            means = [statistics.fmean(values) for values in zip(*cells, strict=True)]
            back = sum(not line["kept"] for line in mine)
            text.append(
                f"| {row}{', guarded' if guard else ''} | {' | '.join(map(shown, [*cells, means]))} | "
                f"{f'{back} of {len(mine)}' if guard else ''} |"
            )
        text.append("")
    return "\n".join(text)


def shown(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
