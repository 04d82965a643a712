"""Every rule on networks as they are in the wild: is the rewrite right, or refused with a reason that helps?

    pip install --no-deps timm==1.0.31 'torchvision==0.28.*'
    python tools/conformance/zoo.py --out runs/zoo.csv

One line per network and rule. ``right``: in eval mode the rewritten network gives the original's bits; one step changes every parameter
that the rule
should train and nothing else; the original comes back with its class, keys, flags and the trained weights; the step has a price (which
takes
longest: ``--price turns`` asks for fewer, ``none`` for none). For rules that are backpropagation the gradients are also compared with plain
autograd's. ``refused``: an error of this library that says how to mend it. Anything else is ``wrong`` or a ``crash``. Lines that are there
already are not run again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p).resolve() != _HERE)]  # this folder has a lightning.py

import numpy as np
import torch
from conformance.vision import declare_torchvision_operators
from conformance.zoo_models import Entry, entries
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf

FIELDS = ("network", "rule", "outcome", "priced", "reason", "seconds")
RATE = 0.01


class Wrong(Exception):
    """A rewrite that ran and is not what it says."""


class TookTooLong(BaseException):
    """The alarm of :func:`time_limit`; no Exception, so that nothing that tries one way after another takes it for one that failed."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise :class:`TookTooLong` in the block after so many seconds of the processor."""

    def ring(signum: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in [*net.named_parameters(), *net.named_buffers()]}


def seed() -> None:
    torch.manual_seed(0), random.seed(0), np.random.seed(0)


def pretrained(entry: Entry) -> nn.Module:
    """The network with batch norms that have seen data, and no layer scaled to nothing (as at some initialisations)."""
    seed()
    net = entry.build()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02, generator=generator)
    return net


def as_frozen(untouched: nn.Module, net: nn.Module) -> nn.Module:
    """The copy that was never rewritten, frozen as the rule froze the network: with weights that require no gradient a plain
    network may give other last bits (pit_ti_224 does)."""
    for mine, its in zip(untouched.parameters(), net.parameters(), strict=True):
        mine.requires_grad_(its.requires_grad)
    return untouched


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def plain_gradients(net: nn.Module, x: Tensor, y: Tensor, frozen_norms: bool) -> dict[str, Tensor]:
    """Of plain autograd in training mode; parameters that the loss does not reach have none."""
    state = state_of(net)
    net.train()
    if frozen_norms:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    seed()
    named = dict(net.named_parameters())
    found = torch.autograd.grad(loss_of(net, x, y), list(named.values()), allow_unused=True)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(state[name])
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


def check(entry: Entry, rule: str, price_seconds: int, said: dict[str, str]) -> None:
    """Raise what is to be said of one cell; whether it was priced goes into ``said`` (0 seconds: not asked for)."""
    net = pretrained(entry).eval()
    x = torch.randn(4, *entry.shape)
    with torch.no_grad():
        logits = net(x)
    y = torch.arange(4) % logits.shape[1]
    written, flags = repr(net), {name: p.requires_grad for name, p in net.named_parameters()}
    method = lf.Alignment(samples=len(x)) if rule == "alignment" else lf.METHODS[rule]()  # whose round ends with the step
    reached = plain_gradients(net, x, y, method.freeze_batch_norm)
    net.eval()
    untouched = copy.deepcopy(net)
    before, identity = state_of(net), {name: id(p) for name, p in net.named_parameters()}
    model = lf.rewrite(net, method, x[:2])
    with torch.no_grad():
        if not torch.equal(model.eval()(x), logits) and not torch.equal(model(x), as_frozen(untouched, net)(x)):
            raise Wrong(f"in eval mode the rewritten network's logits are off by {(model(x) - logits).abs().max():.1e}")
    gradients = step(model, x, y)
    after = state_of(net)
    compare(method, before, after, gradients, reached, flags, {n: p.requires_grad for n, p in net.named_parameters()}, net)
    if price_seconds:
        price(model, (x, y), price_seconds, said)
    model.eval()
    with torch.no_grad():
        learned = model(x)
    back = lf.unwrap(model)
    if back is not net or repr(net) != written or {name: id(p) for name, p in net.named_parameters()} != identity:
        raise Wrong("unwrap gives another network back")
    if {name: p.requires_grad for name, p in net.named_parameters()} != flags or net.training:
        raise Wrong("unwrap leaves flags or modes changed")
    with torch.no_grad():
        if rule != "sparse_training" and not torch.allclose(net.eval()(x), learned, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise Wrong("unwrapped, the network predicts otherwise than rewritten")


def price_alone(entry: Entry, rule: str, seconds: int, said: dict[str, str]) -> None:
    """Price one cell, and check nothing else."""
    net = pretrained(entry).eval()
    x = torch.randn(4, *entry.shape)
    model = lf.rewrite(net, rule, x[:2])
    with torch.no_grad():
        y = torch.arange(4) % model(x).shape[1]
    price(model, (x, y), seconds, said)


def price(model: lf.RewrittenModel, batch: tuple[Tensor, Tensor], seconds: int, said: dict[str, str]) -> None:
    """Price one step, as traced; given up after so many seconds."""
    try:
        with time_limit(seconds):
            cost = lf.step_cost(model, batch, scheduled=False)
    except TookTooLong:
        said["priced"] = f"not within {seconds} s"
    else:
        if not cost.total_macs > 0:
            raise Wrong("its price is nothing")
        said["priced"] = "yes"


def step(model: lf.RewrittenModel, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One step of the rule and of SGD; the gradients, by name."""
    model.train()
    seed()
    with model.step(y):
        loss = loss_of(model, x, y)
    model.backward(loss)
    trained = {name: p for name, p in model.original.named_parameters() if p.grad is not None}
    gradients = {name: p.grad.clone() for name, p in trained.items()}
    if trained:
        torch.optim.SGD(trained.values(), RATE).step()
    for parameter in model.parameters():
        parameter.grad = None
    return gradients


def compare(
    method: lf.LearningMethod,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    gradients: dict[str, Tensor],
    reached: dict[str, Tensor],
    flags: dict[str, bool],
    trains: dict[str, bool],
    net: nn.Module,
) -> None:
    """What changed against what should have.

    Args:
        gradients, reached: the rule's, and plain autograd's. flags, trains: requires_grad before and after the rewrite.
    """
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise Wrong(f"the gradient of {name} is not finite")
    norms = {name for name, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parameters = set(flags)
    statistics = {name for name in before if name not in parameters and name.rpartition(".")[0] in norms}
    if method.updates_buffers_only:
        if not changed & statistics or changed - statistics:
            raise Wrong(f"it changed {sorted(changed)[:3]}, statistics alone were to change")
        return
    asked = {name for name, yes in trains.items() if yes}
    should = {name for name in asked & set(reached) if gradients.get(name) is None}
    if should:
        raise Wrong(f"{len(should)} of {len(asked)} parameters got no gradient: {sorted(should)[:3]}")
    if not gradients:
        raise Wrong("no parameter got a gradient")
    moved = {name for name, gradient in gradients.items() if (gradient * RATE).abs().max() > 1e-6}
    masked = method.__class__.__name__ == "SparseTraining"
    if still := {name for name in moved - changed if not masked}:
        raise Wrong(f"{sorted(still)[:3]} have a gradient and did not change")
    free = set() if method.freeze_batch_norm else statistics
    if more := {name for name in changed - set(gradients) - free}:
        raise Wrong(f"{sorted(more)[:3]} changed, and nothing was to change them")
    if method.__class__.__name__ in ("Backprop", "SparseUpdate"):
        for name, gradient in gradients.items():
            if not torch.allclose(gradient, reached[name], rtol=1e-3, atol=1e-4 * float(reached[name].abs().max()) + 1e-7):
                off = (gradient - reached[name]).abs().max() / reached[name].abs().max()
                raise Wrong(f"the gradient of {name} is off autograd's by {off:.1e} of its size")


def cell(entry: Entry, rule: str, price_seconds: int, run: Callable[..., None] = check) -> dict[str, str]:
    """One line of the table; ``run`` is :func:`check` or :func:`price_alone`."""
    begun, said = time.perf_counter(), {"priced": "no"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(entry, rule, price_seconds, said)
        outcome, reason = "right", ""
    except Wrong as error:
        outcome, reason = "wrong", str(error)
    except lf.LightningFwdError as error:
        outcome, reason = ("refused" if error.mend else "wrong"), str(error)
    except Exception as error:  # the table goes on, and says so
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome, reason = "crash", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    seconds = f"{time.perf_counter() - begun:.1f}"
    text = " ".join(reason.split())[:600]
    return {"network": entry.name, "rule": rule, "outcome": outcome, "priced": said["priced"], "reason": text, "seconds": seconds}


def table(lines: list[dict[str, str]]) -> str:
    """Counts by rule, in Markdown."""
    rules = list(dict.fromkeys(line["rule"] for line in lines))
    kinds = ("right", "refused", "wrong", "crash")
    text = ["| rule | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    for rule in [*rules, None]:
        counts = Counter(line["outcome"] for line in lines if rule in (line["rule"], None))
        text.append(f"| {f'`{rule}`' if rule else 'all'} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    return "\n".join(text)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("runs/zoo.csv"))
    options.add_argument("--networks", nargs="+", help="by default all; parts of names")
    options.add_argument("--rules", nargs="+", default=list(lf.METHODS))
    options.add_argument(
        "--price",
        choices=("all", "turns", "none"),
        default="all",
        help="turns: of each network the step of one rule, each rule in its turn",
    )
    options.add_argument(
        "--price-seconds", type=int, default=60, help="of the processor; a price that takes longer is given up, and the line says so"
    )
    options.add_argument("--only-prices", action="store_true", help="price what --price asks for, and check nothing else")
    args = options.parse_args()
    torch.set_num_threads(1)
    declare_torchvision_operators()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, str]] = []
    if args.out.exists():
        with args.out.open(newline="") as file:
            done = list(csv.DictReader(file))
    known = {(line["network"], line["rule"]) for line in done}
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for place, entry in enumerate(entries()):
            if args.networks and not any(part in entry.name for part in args.networks):
                continue
            for rule in args.rules:
                if (entry.name, rule) not in known:
                    turn = args.price == "turns" and list(lf.METHODS).index(rule) == place % len(lf.METHODS)
                    asked = turn or args.price == "all"
                    if args.only_prices and not asked:
                        continue
                    run = price_alone if args.only_prices else check
                    done.append(cell(entry, rule, args.price_seconds if asked else 0, run))
                    writer.writerow(done[-1])
                    file.flush()
                    print(f"{done[-1]['outcome']:8} {entry.name} {rule}  {done[-1]['priced']}  {done[-1]['reason'][:120]}", file=sys.stderr)
    networks, priced = len({line["network"] for line in done}), sum(line["priced"] == "yes" and line["outcome"] == "right" for line in done)
    print(f"{networks} networks; priced: {priced} of the right ones\n\n{table(done)}")
    for line in done:
        if line["outcome"] in ("wrong", "crash"):
            print(f"{line['outcome']}: {line['network']}, {line['rule']}: {line['reason']}")


if __name__ == "__main__":
    main()
