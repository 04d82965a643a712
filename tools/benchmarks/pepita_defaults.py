"""Which settings of PEPITA learn from scratch: today's defaults, activity scaling, mirrored F, and both, at several rates.

    python tools/benchmarks/pepita_defaults.py

Digits, validation samples, an MLP of two hidden layers of 64, momentum 0.9, 6 epochs of batches of 32. One line per setting and rate: the
validation accuracy of each seed.
"""

from __future__ import annotations

import argparse

import lightning as L
import torch

import lightning_fwd as lf
from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import MLP
from lightning_fwd.recipes import Training, caller_kept, fit, quiet
from lightning_fwd.recipes.accuracy import accuracy

MIRRORED = {"mirror_rounds": 100, "mirror_interval": 2}
SETTINGS = {
    "defaults": {},
    "activity": {"update_scale": "activity"},
    "mirrored": MIRRORED,
    "mirrored, activity": {**MIRRORED, "update_scale": "activity"},
}


@caller_kept()
def measured(settings: dict, lr: float, seed: int) -> float:
    """Percent of the validation samples right after one fit."""
    quiet(seed)
    data = DriftDataModule("digits", flatten=True, seed=seed, batch_size=32)
    L.seed_everything(seed, verbose=False)
    net = fit(MLP(64, (64, 64)), lf.Pepita(seed=seed, **settings), data, Training(epochs=6, lr=lr), accelerator="cpu")
    return accuracy(net, *data.tensors("val"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.1, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for lr in options.rates:
        for name, settings in SETTINGS.items():
            found = [measured(settings, lr, seed) for seed in options.seeds]
            print(f"lr {lr:<5} {name:20} {'  '.join(f'{value:5.1f}' for value in found)}", flush=True)


if __name__ == "__main__":
    main()
