"""All stages of an adaptation lowered to integers, over one set of integer weights: what a device without floats holds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError, RewriteError
from ..graph.constants import COUNTER, is_inserted
from ..graph.rewritten import RewrittenModel
from ..graph.stored_as import StoredAs
from ..graph.whole import whole_operations
from ..integer import Integer, IntegerRule, IntegerStep, lower_step
from ..integer.body_rules import BODY
from ..integer.calibrate import calibrate_activations, calibrate_weights, exponent_buffers, largest, require_reach
from ..integer.judging import NATS, entropies, losses
from ..integer.lower_step import masters_stored_as, needed, to_integers
from ..integer.lowering import PREFIX, exponents_of
from ..integer.masters import UNKNOWN, from_bias, from_master, quantise
from ..integer.rate import Rate
from ..integer.split import hands_back, learning_inputs, split_floats
from ..methods import rewrite
from ..trace import StepGraph, trace_inference
from ..trace.optimizers import is_optimizer_state
from .guard import SCALES, Verdict
from .stage import Stage

_CHUNK = 50  #: predictions at a time
_CALIBRATION = 200  #: inputs of the source by which scales are found, at most


@dataclasses.dataclass
class IntegerStage:
    """A stage in integers.

    Attributes:
        stage: with a constant rate. model: a copy of the network under its rule. name: unique.
        step: its step; the graph's state has the library's names: what is the stage's own begins with its name.
        own: initial content of what is its own (heads, momentum, counters).
    """

    stage: Stage
    model: RewrittenModel
    name: str
    step: IntegerStep
    own: dict[str, Tensor]

    @property
    def rate(self) -> Tensor:
        """``(3,)`` int32: multiplier, exponent, momentum in Q15."""
        return self.model.method.rate.integers()


class IntegerStages:
    """Stages whose steps share the network's weights and exponents.

    Batch norm is folded, dropout is off; each weight that any stage trains is an int16 master in all of them. Scales of activations come
    from inputs of the source.

    Args:
        net: the trained network; left as it is. stages: as the device runs them. names: of each.
        source: inputs without drift ``(N, ...)``.

    Attributes:
        stages: in order. weights: names of what the stages share and change, weights before exponents. state: initial content of all that
            is shared.

    Raises:
        RewriteError: a rule has no integer form, named with the reason. StepError: an operation has none.
        LightningFwdError: no source, or it does not fit the network.
    """

    def __init__(self, net: nn.Module, stages: Sequence[Stage], names: Sequence[str], source: Tensor | None, settings: Integer):
        if source is None:
            raise LightningFwdError(
                "an adaptation in integers without inputs of the source", "scales of activations are found by them", "give source=inputs"
            )
        self.settings, self._source, self._net = settings, source[:_CALIBRATION], net
        models = [self._rewritten(net, stage) for stage in stages]
        batches = [self._batches(stage.batch_size, model) for stage, model in zip(stages, models, strict=True)]
        traced = [model.method.traced(model, *batch[0]) for model, batch in zip(models, batches, strict=True)]
        trained = dict.fromkeys(name for step in traced for name in step.trained)
        self.masters = tuple(name for name in trained if not is_inserted(name))
        self.split = _split(traced, models)
        steps = [lower_step(step, settings.error_bits, self.masters, True, self.split) for step in traced]
        require_reach(dict(models[0].named_parameters(remove_duplicate=False)))
        self._model, self._forwards = models[0], dict[tuple[int, ...], IntegerStep]()
        self._scales, self._exponents = dict[str, float](), exponent_buffers(self._forward(1))
        self._calibrate(self._forward(1), self._model, self._exponents, self._batches(1, self._model))
        self._known = {PREFIX + name for name in self._exponents}
        floats = split_floats(self._floats(self._model, self._exponents), self.split)
        self.state, self.stages = to_integers(self._forward(1), floats, self._scales), list[IntegerStage]()
        self.state[f"{PREFIX}input"] = self._exponents["input"]
        for stage, model, step, name, batch in zip(stages, models, steps, names, batches, strict=True):
            self.stages.append(self._stage(stage, model, step, name, batch))
        changed = dict.fromkeys(n for s in self.stages for n in s.step.graph.mutated if n in self.state)
        self.weights = sorted(changed, key=lambda n: (n.startswith(PREFIX), list(self.state).index(n)))

    def _rewritten(self, net: nn.Module, stage: Stage) -> RewrittenModel:
        own = _without_dropout(stage.network(copy.deepcopy(net).eval(), self._source))
        rule = IntegerRule(stage.method, self.settings)
        rule.rate = Rate(stage.lr[0], stage.momentum)
        if not stage.learns:
            raise RewriteError(
                f"stage {stage.name} cannot be part of a library in integers",
                f"{type(stage.method).__name__} sets batch norm right, which integers see folded into the layer before",
                "leave the stage out, or export the library in float (precision='float32')",
            )
        return rewrite(own, rule, self._source[:2])

    def _batches(self, size: int, model: RewrittenModel) -> list[tuple[Tensor, Tensor]]:
        """Of the source, labelled as the network sees it."""
        given = (
            self._source
            if len(self._source) >= size
            else self._source.repeat(-(-size // len(self._source)), *[1] * (self._source.ndim - 1))
        )
        with torch.no_grad():
            labels = model.eval()(given).argmax(1)
        return list(zip(given.split(size), labels.split(size), strict=True))[: len(given) // size]

    def _forward(self, batch: int) -> IntegerStep:
        key = (batch,)
        if key not in self._forwards:
            with whole_operations():
                x = self._source[:1].expand(batch, *self._source.shape[1:]).contiguous()
                self._forwards[key] = lower_step(trace_inference(self._model, x), self.settings.error_bits, self.masters, True, self.split)
        return self._forwards[key]

    @property
    def forward(self) -> StepGraph:
        """The prediction of one sample."""
        return self._forward(1).graph

    def _floats(self, model: RewrittenModel, exponents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
        return plain | {PREFIX + name: value for name, value in exponents.items()}

    def _calibrate(
        self, step: IntegerStep, model: RewrittenModel, exponents: dict[str, Tensor], batches: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Exponents that are unknown yet: of weights by their largest, of activations by the largest of all batches."""
        calibrate_weights(step, split_floats(self._floats(model, exponents), self.split), exponents, self.settings)
        floats = self._floats(model, exponents)
        unknown = {name for name, value in exponents.items() if int(value.max()) == UNKNOWN}
        ranges = {name: node for name, node in step.ranges.items() if name not in self._scales}
        for x, y in batches if ranges else ():
            seen = largest(step, floats, x, y, set(ranges.values()))
            for name, node in ranges.items():
                scale = max(seen[node], 2.0**-20) / (255 if step.body[name].gives.zero else 127)
                self._scales[name] = max(self._scales.get(name, 0.0), scale)
        for x, y in batches if unknown else ():
            found = {name: value.clone() for name, value in exponents.items()}
            calibrate_activations(step, floats, x, y, found)
            for name in unknown:
                exponents[name].copy_(torch.minimum(exponents[name], found[name]))

    def _stage(
        self, stage: Stage, model: RewrittenModel, step: IntegerStep, name: str, batches: list[tuple[Tensor, Tensor]]
    ) -> IntegerStage:
        exponents = {
            n: self._exponents.get(n, value) if PREFIX + n in self._known else value for n, value in exponent_buffers(step).items()
        }
        self._calibrate(step, model, exponents, batches)
        if strays := [n for n, layer in step.body.items() if layer != self._forward(1).body.get(n)]:
            raise RewriteError(
                f"stage {stage.name}: {strays[0].removeprefix(BODY)} is another computation in its step than in a prediction",
                "the frozen body is one for all stages",
                "leave the stage out",
            )
        values = to_integers(step, split_floats(self._floats(model, exponents), self.split), self._scales)
        shared = {
            n for n in values if n in self.state or (not _is_own(n) and not n.startswith(PREFIX)) or n in map(exponents_of, self.masters)
        }
        self.state |= {n: values[n] for n in shared if n not in self.state}
        names = {n: n if n in shared else f"{name}.{n}" for n in values}
        return IntegerStage(stage, model, name, _renamed(step, names), {names[n]: v for n, v in values.items() if n not in shared})

    @property
    def model(self) -> RewrittenModel:
        """The network, batch norm folded, under the first stage's rule."""
        return self._model

    def stored_as(self) -> dict[str, StoredAs]:
        """What the weights that learn are on the device."""
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        return masters_stored_as({name: parameters[name] for name in self.masters}, self.state, self.weights, self.split)

    # ---- running

    def quantised(self, x: Tensor) -> Tensor:
        """Inputs ``(N, ...)`` as the device takes them."""
        return quantise(x, self.state[f"{PREFIX}input"])

    def logits(self, q: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Of quantised inputs ``(N, ...)``: int32 logits ``(N, C)`` and their exponent."""
        given = {name: state[name] for name in self._forward(len(q)).graph.state}
        results = self._forward(len(q)).graph.run(self._model, q, None, **given)
        return results["logits"], int(results["logits_exponent"])

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The plain network with the weights that integers stand for."""
        model = copy.deepcopy(self._model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name in self.masters:
                parameter, exponents = parameters[name], state.get(exponents_of(name))
                value = from_bias(state[name]) if parameter.ndim == 1 else from_master(state[name], cast(Tensor, exponents))
                parameter.copy_(parameter.index_copy(1, self.split[name], value) if name in self.split else value)
        plain = copy.deepcopy(self._net)
        plain.load_state_dict(model.undo().state_dict())
        return plain.eval()


def _split(traced: Sequence[StepGraph], models: Sequence[RewrittenModel]) -> dict[str, Tensor]:
    """Weights of which the same inputs learn in every stage that trains them."""
    found, whole = dict[str, Tensor](), set[str]()
    for step, model in zip(traced, models, strict=True):
        parts = learning_inputs(step, needed(step), dict(model.named_buffers()))
        for name in step.trained:
            if name not in parts or not torch.equal(found.setdefault(name, parts[name]), parts[name]):
                whole.add(name)
        wanted = needed(step)
        whole |= {name for name in found if name in step.state and hands_back(step, wanted, name)}
    return {name: index for name, index in found.items() if name not in whole}


def _without_dropout(net: nn.Module) -> nn.Module:
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.dropout._DropoutNd):
                setattr(module, name, nn.Identity())
    return net


def _is_own(name: str) -> bool:
    """Whether state is a stage's own: what its rule inserted, momentum, the counter."""
    return is_optimizer_state(name) or name == COUNTER or is_inserted(name)


def _renamed(step: IntegerStep, names: Mapping[str, str]) -> IntegerStep:
    graph = step.graph
    renamed = dataclasses.replace(
        graph, state={names[old]: node for old, node in graph.state.items()}, outputs=[names.get(old, old) for old in graph.outputs]
    )
    return dataclasses.replace(step, graph=renamed)


class IntegerTraining:
    """A stage on its turn, as :class:`.train.Training` is one in float; the library's weights change with it.

    Attributes:
        x: samples as the device keeps them ``(N, ...)`` int8.
    """

    def __init__(self, library: IntegerStages, number: int, state: dict[str, Tensor], x: Tensor):
        self.library, self.own_stage, self.state, self.x = library, library.stages[number], state, x
        self.stage = self.own_stage.stage

    def steps(self, count: int) -> Callable[[Tensor, Tensor], None]:
        """``step(index, target)``: one step on the samples of these indices; of ``count`` in all, at a constant rate."""
        graph, own, rate = self.own_stage.step.graph, dict(self.own_stage.own), self.own_stage.rate

        def step(index: Tensor, target: Tensor) -> None:
            results = graph.run(self.own_stage.model, self.x[index], target, **(self.state | own), rate=rate)
            for name in graph.mutated:
                (own if name in own else self.state)[name] = results[name]

        return step

    def judge(self, index: Tensor, y: Tensor | None) -> Verdict:
        """What the network is worth at present on some of the samples."""
        total, right = torch.zeros(len(SCALES), dtype=torch.int64), []
        for place, part in zip(index.split(_CHUNK), y.split(_CHUNK) if y is not None else [None] * len(index), strict=False):
            logits, exponent = self.library.logits(self.x[place], self.state)
            total += entropies(logits, exponent) if part is None else losses(logits, exponent, part, SCALES)
            right.append(logits.argmax(1) == part if part is not None else None)
        least = int(total.min())
        return IntegerVerdict(least * NATS / len(index), None if y is None else torch.cat(right), total=least)

    def weights(self) -> dict[str, Tensor]:
        """What the stages share and change."""
        return {name: self.state[name] for name in self.library.weights}

    def take_back(self, weights: dict[str, Tensor]) -> None:
        self.state.update(weights)


@dataclasses.dataclass
class IntegerVerdict(Verdict):
    """In integers, as the device has it. Attributes: total: the loss of all samples, see :mod:`lightning_fwd.integer.judging`."""

    total: int = 0

    def better_than(self, best: Verdict) -> bool:
        assert isinstance(best, IntegerVerdict) and self.right is not None
        return self.total < best.total - (best.total >> 10) - len(self.right)


class IntegerNetwork(nn.Module):
    """What the device predicts, as a network of float inputs and logits."""

    def __init__(self, stages: IntegerStages, state: Mapping[str, Tensor]):
        super().__init__()
        self.__dict__.update(stages=stages, state=dict(state))

    def forward(self, x: Tensor) -> Tensor:
        """``x (N, ...)`` to logits ``(N, C)``."""
        parts = [self.stages.logits(part, self.state) for part in self.stages.quantised(x).split(_CHUNK)]
        return torch.cat([logits.double() * 2.0**-exponent for logits, exponent in parts]).float()
