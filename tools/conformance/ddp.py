"""Whether N processes take the steps of one: every rule, 20 optimizer steps, by gloo on the CPU of this machine.

    python tools/conformance/ddp.py --processes 2 4 --out runs/ddp.csv

One process trains on batches of 8; N processes train on the same batches, spread. In float64, so that what is left is rounding and not a
difference. Each case is run once as it is, and once with two batches accumulated per step and the gradient's norm clipped. Then a rank is
made to differ on purpose, which must be caught. Exit status 1 if a case is off by more than ``--within``, or the rank that differs is not
caught.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p).resolve() != _HERE)]  # this folder has a lightning.py

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lightning_fwd as lf
from lightning_fwd.methods import LearningMethod

BATCH, CLASSES = 8, 4


class Net(nn.Module):
    """What makes a step depend on its whole batch: batch norm, dropout (of units and of channels), a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.channels, self.dropout, self.head = nn.Dropout2d(0.1), nn.Dropout(0.2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(self.bn(self.conv(self.channels(x)))) + x
        return self.head(self.dropout(x.mean((2, 3))))


def cases(moments: str) -> dict[str, Callable[[], LearningMethod]]:
    """Every rule of the registry with its defaults, and settings that read the batch as a whole."""
    return {
        **lf.METHODS,
        "backprop, folded norms": lambda: lf.Backprop(batch_norm="fold"),
        "sparse_update, biases": lambda: lf.SparseUpdate("biases"),
        "sparse_update, sparse error": lambda: lf.SparseUpdate(3, error_density=(0.3, 0.9), batch_norm="train"),
        "forward_forward, trained norms": lambda: lf.ForwardForward(batch_norm="train", peer_normalisation=0.03),
        "forward_forward, hard": lambda: lf.ForwardForward(negatives="hard", head="layers"),
        "forward_forward, hybrid": lambda: lf.ForwardForward(negatives="hybrid"),
        "local_loss, groups": lambda: lf.LocalLoss(head="groups", prediction="sum"),
        "pepita, activity": lambda: lf.Pepita(update_scale="activity", mirror_rounds=2, mirror_interval=5),
        "pepita, hebbian": lambda: lf.Pepita(variant="hebbian", recompute=True, normalise=True),
        "direct_feedback, mirrored": lambda: lf.DirectFeedback(mirror_rounds=2, mirror_interval=5),
        "sparse_training, by gradient": lambda: lf.SparseTraining(density=0.5, interval=3, until=18),
        "sparse_training, at random": lambda: lf.SparseTraining(density=0.5, interval=3, until=18, regrow="random"),
        "statistics, momentum": lambda: lf.Statistics(momentum=0.3),
        "alignment, source": lambda: lf.Alignment(moments, patches=1, samples=48),
        "zeroth_order, samples": lambda: lf.ZerothOrder(2, samples=3),
        "zeroth_order, ranks": lambda: lf.ZerothOrder(2, samples=3, scale=0.05, estimator="ranks", loss="cross_entropy"),
    }


VARIANTS = {"plain": {}, "accumulated, clipped": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}}


class Task(L.LightningModule):
    """An ordinary LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = Net()
        for norm in (self.network.bn0, self.network.bn):  # as of a pretrained network
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2.0)

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), 0.05, 0.9)


class Differs(L.Callback):
    """Writes into one weight of the last rank alone."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        if batch_idx == 4 and trainer.global_rank == trainer.world_size - 1:
            with torch.no_grad():
                next(module.parameters()).view(-1)[0] += 1e-12


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Gaussian clouds, one per class."""
    generator = torch.Generator().manual_seed(3)
    centres, y = torch.randn(CLASSES, 1, 8, 8, generator=generator), torch.arange(count) * 7 // 5 % CLASSES
    return (centres[y] + 0.4 * torch.randn(count, 1, 8, 8, generator=generator)).double(), y


def train(method: LearningMethod, processes: int, steps: int, callbacks: list, **settings: Any) -> dict[str, Tensor]:
    """The network's state, what the rule inserted included, after so many optimizer steps."""
    batches = steps * settings.get("accumulate_grad_batches", 1)
    dataset, rank = TensorDataset(*samples(batches * BATCH)), int(os.environ.get("LOCAL_RANK", 0))
    dealt = DistributedSampler(dataset, processes, rank, shuffle=False)  # Lightning's own shuffles, otherwise than one process would
    data = DataLoader(dataset, BATCH // processes, sampler=dealt)
    module = Task()
    torch.manual_seed(7)
    trainer = L.Trainer(
        strategy=lf.ForwardOnlyStrategy(method), devices=processes, accelerator="cpu", precision="64-true", max_steps=steps, logger=False,
        enable_checkpointing=False, use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, **settings,
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.global_step == steps and trainer.world_size == processes
    return {name: value.detach().clone() for name, value in module.network.state_dict().items()}


def work(processes: int, steps: int, names: list[str], moments: str, out: Path) -> None:
    """What one of the processes does."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    every, states = cases(moments), {}
    for name in names:
        print(f"{processes} processes: {name}", file=sys.stderr, flush=True)
        for variant, settings in VARIANTS.items():
            states[f"{name} | {variant}"] = train(every[name](), processes, steps, [], **settings)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        torch.save(states, out)
    if processes > 1:
        try:
            train(lf.LocalLoss(), processes, 10, [Differs()])
        except lf.LightningFwdError as error:
            assert "hold different networks" in str(error), error
            out.with_suffix(".caught").write_text(str(error))


def launch(processes: int, steps: int, names: list[str], moments: str, out: Path) -> None:
    """Run :func:`work` in so many processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--work", str(out), "--processes", str(processes), "--steps", str(steps), "--moments", moments]
    command += ["--cases", *names]
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, env={**os.environ, **(ranks | {"LOCAL_RANK": str(rank)} if processes > 1 else {})})
        for rank in range(processes)
    ]
    try:
        if any([process.wait() for process in running]):
            raise SystemExit(f"a process of {processes} failed")
    finally:
        for process in running:
            process.kill()


def compare(processes: list[int], steps: int, names: list[str], within: float) -> list[dict[str, Any]]:
    """One row per case, variant and number of processes: the largest difference from one process, over all tensors."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        moments = lf.source_moments(Task().network, [(samples(64)[0].float(), None)], Path(folder) / "moments.safetensors", patches=1)
        files = {count: Path(folder) / f"{count}.pt" for count in [1, *processes]}
        for count, file in files.items():
            launch(count, steps, names, moments, file)
        states = {count: torch.load(file, weights_only=True) for count, file in files.items()}
        for count in processes:
            for case, alone in states[1].items():
                there = states[count][case]
                assert alone.keys() == there.keys()
                start = {k: v for k, v in Task().network.state_dict().items() if v.is_floating_point()}
                learned = max((v.double() - alone[k].double()).abs().max().item() for k, v in start.items())
                off = max((alone[k].double() - there[k].double()).abs().max().item() for k in alone if alone[k].numel())
                rows.append(
                    {"case": case, "processes": count, "steps": steps, "moved": f"{learned:.2e}", "off": f"{off:.2e}", "ok": off <= within}
                )
            caught = files[count].with_suffix(".caught")
            rows.append({"case": "a rank that differs", "processes": count, "steps": 10, "moved": "", "off": "", "ok": caught.exists()})
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="divisors of 8")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--cases", nargs="+", default=list(cases("")), help="by default all")
    options.add_argument("--within", type=float, default=1e-6)
    options.add_argument("--out", type=Path, help="a CSV file")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--moments", default="", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.work:
        return work(args.processes[0], args.steps, args.cases, args.moments, args.work)
    rows = compare(args.processes, args.steps, args.cases, args.within)
    for row in rows:
        print(f"{'ok ' if row['ok'] else 'OFF'} {row['processes']} processes  {row['off']:>9}  (moved {row['moved']:>9})  {row['case']}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    raise SystemExit(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    main()
