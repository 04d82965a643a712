"""One stage, trained: the plain loop of a device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import RewriteError, StepError
from ..graph.frozen_prefix import Split, split_frozen
from ..graph.rewritten import RewrittenModel
from ..methods import rewrite
from ..passes import exchange_dropout, put_back
from .guard import Verdict, judge
from .stage import Stage

_CHUNK = 250  #: samples whose frozen part is run at a time


class Training:
    """A stage with one rule and one rate on a copy of a network, step by step.

    What lies before the first trained layer is run once per sample, where the rule allows it: a device with room for features does the
    same.

    Args:
        x: all samples ``(N, ...)`` that it will see.
        count_dropout: masks are drawn from the step counter, as on a device.

    Attributes:
        network: the copy. model: what learns, under the rule: the network, or the part of it that is run in every step.

    Raises:
        RewriteError: the rule does not fit.
    """

    def __init__(self, net: nn.Module, stage: Stage, x: Tensor, count_dropout: bool = False):
        net = copy.deepcopy(net).eval()
        self._learning = {id(p) for p in net.parameters() if p.requires_grad}
        self.network, self.stage, self.x = stage.network(net, x), stage, x
        self.model = rewrite(self.network, stage.method, x[:2])
        split = _frozen_part(self.model)
        if split is not None:
            with torch.no_grad():
                self.x = torch.cat([split.before(self.model, part)[0] for part in x.split(_CHUNK)])
            tail = _tail(self.model, split)
            self.model.undo()
            self.model = rewrite(tail, stage.method, self.x[:2])
        self._exchanged = exchange_dropout(self.model) if count_dropout else {}
        self.model.train()

    def steps(self, count: int) -> Callable[[Tensor, Tensor], None]:
        """``step(index, target)``: one step on the samples of these indices, of ``count`` in all (the schedule's length)."""
        clear, advance = self.stage.optimizer([p for p in self.model.parameters() if p.requires_grad], count)

        def step(index: Tensor, target: Tensor) -> None:
            clear()
            with self.model.step(target):
                loss = loss_for(target)(self.model(self.x[index]), target)
            self.model.backward(loss)
            advance()

        return step

    def judge(self, index: Tensor, y: Tensor | None) -> Verdict:
        """What the network is worth at present on some of the samples."""
        verdict = judge(self.model, self.x[index], y)
        self.model.train()
        return verdict

    def weights(self) -> dict[str, Tensor]:
        """A copy of all that the network holds."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    @torch.no_grad()
    def take_back(self, weights: dict[str, Tensor]) -> None:
        """Put a copy of before back."""
        for name, value in self.network.state_dict().items():
            value.copy_(weights[name])

    def finish(self) -> nn.Module:
        """The network, without the rule.

        Raises:
            RewriteError: the rule predicts by other means than the network's. StepError: it diverged.
        """
        net, name = self.network, self.stage.name
        put_back(self.model, self._exchanged)
        _same_without_the_rule(self.model.eval(), self.stage, self.x[:8])
        broken = [name for name, p in [*net.named_parameters(), *net.named_buffers()] if p.is_floating_point() and not p.isfinite().all()]
        if broken:
            raise StepError(f"{', '.join(broken[:3])} not finite after stage {name}", "it diverged", "lower the rate")
        for parameter in net.parameters():  # what a stage freezes, the next one may train
            parameter.requires_grad_(parameter.requires_grad or id(parameter) in self._learning)
        return net.eval()


def train(net: nn.Module, stage: Stage, x: Tensor, y: Tensor | None, seed: int) -> nn.Module:
    """A copy of the network after a stage with one rule and one rate.

    Args:
        x: samples ``(N, ...)``. y: their classes ``(N,)``; None for a rule that needs no labels.
        seed: of the order, and of what the network draws.

    Raises:
        RewriteError, StepError: the rule does not fit, or it diverged.
    """
    with _own_draws(x.device, seed):
        training = Training(net, stage, x)
        rule, model, count = stage.method, training.model, math.ceil(len(x) / stage.batch_size)
        epochs = stage.epochs or stage.default_epochs
        step = training.steps(epochs * count)
        target = unlabelled(x) if y is None else y
        epoch = 0
        while epoch < epochs or rule.unfinished(model):
            for index in _order(len(x), stage.batch_size, 1000 * seed + epoch):
                if epoch >= epochs and not rule.unfinished(model):
                    break
                step(index, target[index])
            epoch += 1
        return training.finish()


@contextmanager
def _own_draws(device: torch.device, seed: int) -> Iterator[None]:
    """What the network draws (dropout) begins at the seed; the caller's generators stay where they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


def loss_for(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of classes, the mean squared error of what is to be given."""
    return F.mse_loss if target.is_floating_point() else F.cross_entropy


def unlabelled(x: Tensor) -> Tensor:
    """Labels for a rule that has no use for the loss ``(N,)``."""
    return torch.zeros(len(x), dtype=torch.int64, device=x.device)


@torch.no_grad()
def _same_without_the_rule(model: RewrittenModel, stage: Stage, x: Tensor) -> None:
    """Give the network back; refuse a rule that predicted by means of its own, which the next stage would not have."""
    predicted = model(x)
    if not torch.allclose(model.undo().eval()(x), predicted, rtol=1e-2, atol=1e-2 * float(predicted.abs().max()), equal_nan=True):
        raise RewriteError(
            f"stage {stage.name}: {stage.method!r} predicts by other means than the network's own layers",
            "the stages hand one network on, without what a rule inserted",
            "choose settings by which it predicts by the network (prediction='own')",
        )


def _order(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    yield from torch.randperm(count, generator=torch.Generator().manual_seed(seed)).split(batch)


def _frozen_part(model: RewrittenModel) -> Split | None:
    """Where the graph's trained part begins, if what comes before may be run once: one tensor, nothing random, norms as stored."""
    if not (model.method.repeats_frozen and model.method.freeze_batch_norm) or model.draws_in_training:
        return None
    split = split_frozen(model.graph_before, model.original, {name for name, p in model.named_parameters() if p.requires_grad})
    one = len(split.entries) == 1 and split.entries[0].op != "placeholder"
    return split if one and getattr(split.entries[0].meta.get("tensor_meta"), "shape", (0,))[0] == 2 else None


def _tail(model: RewrittenModel, split: Split) -> nn.Module:
    """The rest of the network as a network on the frozen part's values; its layers are the network's own, under their names."""
    graph, copies = fx.Graph(), {}
    copies[split.entries[0]] = graph.placeholder("input")

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:  # a constant
            copies[node] = graph.node_copy(node, copy_of)
        return copies[node]

    for node in split.after:
        copies[node] = graph.node_copy(node, copy_of)
    graph.output(copies[split.output])
    return fx.GraphModule(model.original, graph, type(model.original).__name__).eval()
