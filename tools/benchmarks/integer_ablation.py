"""What of the integer arithmetic matters: rounding, width of errors, scales. Digits from scratch, one sample per step.

    python tools/benchmarks/integer_ablation.py --epochs 1 --seeds 0 1 2

SGD without momentum, at the rate of batches divided by 40, or at ``--rate``. Rounding is exchanged in the reference, which only this script
does; masters of 32 bits are not part of the product and not here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch
from integer_digits import RATE, RULES, train
from torch import Tensor

import lightning_fwd as lf
from lightning_fwd.integer import updates

VARIANTS: dict[str, tuple[lf.Integer | None, int | None]] = {  # settings, and what stands in the place of every draw
    "float": (None, None),
    "integers": (lf.Integer(), None),
    "rounded to the nearest": (lf.Integer(), 1 << 15),
    "truncated": (lf.Integer(), 0),
    "errors of 8 bits": (lf.Integer(error_bits=8), None),
    "a scale per tensor": (lf.Integer(scales="tensor"), None),
    "no room (weights start at full range)": (lf.Integer(room=0), None),
}


def fixed(draw: int) -> Callable[[Tensor, int, int, int], Tensor]:
    """In the place of :func:`lightning_fwd.integer.arithmetic.draws`."""
    return lambda counter, stream, rows, columns: torch.full((rows, columns), draw, dtype=torch.int32)


def run(rule: str, variant: str, seed: int, epochs: int, rate: float) -> float:
    integer, draw = VARIANTS[variant]
    with patch.object(updates, "draws", updates.draws if draw is None else fixed(draw)):
        return train(rule, seed, epochs, integer, rate, batch=1, momentum=0.0)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", default="backprop_small", choices=list(RULES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE * 10 / 40, help="10: what momentum 0.9 makes of a rate")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| arithmetic | accuracy [%] |", "|---|---:|"]
    for variant in options.variants:
        found = [run(options.rule, variant, seed, options.epochs, options.rate) for seed in options.seeds]
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        lines.append(f"| {variant} | {statistics.fmean(found):.2f}{spread} |")
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
