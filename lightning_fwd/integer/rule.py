"""Training in integers as a learning rule around another: the lowered step runs, and the device's bits come out."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..errors import RewriteError, StepError
from ..graph.blocks import Granularity
from ..graph.constants import COUNTER
from ..graph.cross_entropy import cross_entropy
from ..graph.rewritten import RewrittenModel
from ..graph.stored_as import StoredAs
from ..graph.whole import whole_operations
from ..methods.base import LearningMethod, Logits, StepRecord, Update, Updates
from ..passes import fold_batch_norm
from ..trace import StepGraph, trace_inference, trace_step
from .arithmetic import saturate
from .calibrate import calibrate_activations, calibrate_weights, exponent_buffers, require_reach
from .lower_step import IntegerStep, lower_step, masters_stored_as, to_integers
from .lower_updates import MOMENTUM
from .lowering import PREFIX, RATE, exponents_of
from .masters import from_bias, from_master, quantise, velocity_scale
from .rate import Rate
from .settings import Integer


@dataclass
class IntegerRule(LearningMethod):
    """Another rule, its step lowered to integers.

    Args:
        method: the rule that learns.
        integer: settings of the arithmetic.

    Rate and momentum come from :class:`Rate`, which the strategy fills from the user's SGD.

    Raises:
        RewriteError: the rule's step is not the step alone, or batch norm would keep statistics of the batch.
        StepError: something in the step has no integer form; named.
    """

    method: LearningMethod
    integer: Integer

    def __post_init__(self) -> None:
        self.rate = Rate()
        self._forget_models()

    def _forget_models(self) -> None:
        self._steps: WeakKeyDictionary[nn.Module, dict[tuple, IntegerStep]] = WeakKeyDictionary()  # by model: a rule may be used again
        self._known: WeakSet[nn.Module] = WeakSet()  # models whose weights were looked at

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_steps", "_known")}  # made again where needed

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_models()

    # ---- what the wrapped rule says of itself

    @property
    def needs_target(self) -> bool:
        return True  # the error is made in the step, from the labels

    @property
    def updates_buffers_only(self) -> bool:
        return self.method.updates_buffers_only

    @property
    def forward_only(self) -> bool:
        return self.method.forward_only

    @property
    def granularity(self) -> Granularity:
        return self.method.granularity

    @property
    def freeze_batch_norm(self) -> bool:
        return True  # it is folded

    def beyond_the_step(self, model: RewrittenModel) -> str:
        return self.method.beyond_the_step(model)

    # ---- rewriting

    def rewrite(self, model: RewrittenModel) -> None:
        norms = [path for path, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms and getattr(self.method, "batch_norm", "freeze") == "train":
            raise RewriteError(
                f"{norms[0]} keeps statistics of the batch",
                "integers see batch norm folded into the layer before",
                f"use {type(self.method).__name__}(batch_norm='freeze')",
            )
        if norms and getattr(self.method, "batch_norm", "freeze") != "fold":
            fold_batch_norm(model)
        self.method.rewrite(model)
        if omitted := self.beyond_the_step(model):
            raise RewriteError(f"{type(self.method).__name__} cannot be trained in integers", f"beside its step there is {omitted}")

    def prepare(self, model: RewrittenModel) -> None:
        """Insert the exponents, unknown yet; once, when the model stands."""
        if not hasattr(model.inserted, "integer"):
            x = model.example_input
            target = torch.zeros(x.shape[:1], dtype=torch.int64)
            model.inserted.integer = nn.Module()
            for name, value in exponent_buffers(self.step(model, x, target), self.prediction(model, x)).items():
                model.inserted.integer.register_buffer(name, value)

    def follow(self, optimizer: Optimizer) -> None:
        """Take rate and momentum from an optimizer, and look at the weights anew: a checkpoint may have been loaded.

        Raises:
            StepError: it is no SGD of one rate.
        """
        self.rate.follow(optimizer)
        self._known.clear()

    # ---- the lowered graphs, one per shape of the batch

    def step(self, model: RewrittenModel, x: Tensor, target: Tensor) -> IntegerStep:
        """The training step for batches of this shape."""
        steps, key = self._steps.setdefault(model, {}), ("train", tuple(x.shape), self.rate.momentum > 0)
        if key not in steps:
            steps[key] = lower_step(self.traced(model, x, target), self.integer.error_bits)
        return steps[key]

    def traced(self, model: RewrittenModel, x: Tensor, target: Tensor) -> StepGraph:
        """The float step that is lowered."""
        with whole_operations():
            return trace_step(model, (x, target), loss=cross_entropy, momentum=0.5 if self.rate.momentum > 0 else 0.0)

    def prediction(self, model: RewrittenModel, x: Tensor) -> IntegerStep:
        """The inference for inputs of this shape."""
        steps, key = self._steps.setdefault(model, {}), ("predict", tuple(x.shape))
        if key not in steps:
            example = model.example_input
            trained = self.step(model, example, torch.zeros(example.shape[:1], dtype=torch.int64)).trained
            with whole_operations():
                source = trace_inference(model, x)
            steps[key] = lower_step(source, self.integer.error_bits, trained)
        return steps[key]

    # ---- running

    def integers(self, model: RewrittenModel, step: IntegerStep) -> dict[str, Tensor]:
        """The lowered graph's state, from what the model and the optimizer hold in float."""
        buffers, parameters = dict(model.named_buffers()), dict(model.named_parameters(remove_duplicate=False))
        state = to_integers(step, parameters | buffers)
        for name in (n for n in state if n.startswith(MOMENTUM)):
            state[name] = self._velocity(step, name.removeprefix(MOMENTUM), parameters, buffers)
        return state

    def stored_as(self, model: RewrittenModel, step: IntegerStep) -> dict[str, StoredAs]:
        """What each trained parameter is on the device: a master and its row's exponents, or a bias."""
        floats = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
        return masters_stored_as({name: floats[name] for name in step.trained}, floats, step.graph.mutated)

    def _velocity(self, step: IntegerStep, name: str, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        like = step.graph.node(MOMENTUM + name).meta["val"]
        kept = self.rate.velocity(parameters[name])
        if kept is None:
            return torch.zeros(like.shape, dtype=like.dtype)
        units = (kept / velocity_scale(parameters[name], buffers.get(exponents_of(name)))).round()
        return saturate(units.long(), 8 * like.dtype.itemsize).to(like.dtype)

    def calibrate(self, model: RewrittenModel, x: Tensor, target: Tensor) -> IntegerStep:
        """The step for a batch of this shape, its exponents known; where they were not, from this batch."""
        self.prepare(model)
        step, buffers = self.step(model, x, target), dict(model.inserted.integer.named_buffers())
        if model not in self._known:
            parameters = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
            require_reach({name: parameters[name] for name in step.graph.state if name in parameters})
            calibrate_weights(step, parameters, buffers, self.integer)
            self._known.add(model)
        self._calibrate_activations(model, step, x, target)
        return step

    def _calibrate_activations(self, model: RewrittenModel, step: IntegerStep, x: Tensor, target: Tensor | None) -> None:
        floats = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
        calibrate_activations(step, floats, x, target, dict(model.inserted.integer.named_buffers()))

    def calibrated_prediction(self, model: RewrittenModel, x: Tensor) -> IntegerStep:
        """The inference, with exponents for what only a prediction computes."""
        step = self.prediction(model, x)
        self._calibrate_activations(model, step, x, None)
        return step

    def run(self, model: RewrittenModel, x: Tensor, target: Tensor, counter: Tensor) -> tuple[IntegerStep, dict[str, Tensor]]:
        """One step in integers on a float batch; the model is left as it was, but for exponents that were unknown."""
        if x.device.type != "cpu":
            raise StepError(
                f"integers run on the CPU, the batch is on {x.device}", "their reference is no GPU kernel", "use accelerator='cpu'"
            )
        if not bool(x.isfinite().all()):
            raise StepError("the batch holds values that are no numbers", "integers have none for them", "clean the data")
        self.rate.reread()
        step = self.calibrate(model, x, target)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.rate.require_held({name: parameters[name] for name in step.trained})
        state = self.integers(model, step) | {COUNTER: counter, RATE: self.rate.integers()}
        return step, step.graph.run(model, quantise(x, model.inserted.integer.input), target, **state)

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        if type(record.input) is not Tensor:  # traced: the float step, to be lowered, priced or held against
            yield from self.method.updates(model, record)
            return
        if int(record.counter) != int(model.inserted.counter):
            raise StepError("two training forwards in one step", "a step in integers is one graph, updates included", "call the model once")
        step, results = self.run(model, record.input, record.target, record.counter)
        logits = results["logits"].double() * torch.exp2(-results["logits_exponent"].double())
        error = yield Logits(logits.float())
        self._require_softmax(logits, record.target, error)
        yield from self._new_state(model, step, results)

    def _require_softmax(self, logits: Tensor, target: Tensor, error: Tensor) -> None:
        own = (logits.softmax(1) - F.one_hot(target, logits.shape[1])) / len(target)
        if not torch.allclose(error.double(), own, rtol=1e-3, atol=1e-5 / len(target)):
            raise StepError(
                "the gradient of the loss is not (softmax(logits) - labels) / batch",
                "the integer step computes that error itself, so another loss, label smoothing or weights of classes would be ignored",
                "use cross_entropy with mean reduction, or train in float",
            )

    def _new_state(self, model: RewrittenModel, step: IntegerStep, results: dict[str, Tensor]) -> Updates:
        buffers, parameters = dict(model.named_buffers()), dict(model.named_parameters(remove_duplicate=False))
        new = {name: value for name, value in results.items() if name.startswith(PREFIX)}
        for name in step.trained:
            parameter, exponents = parameters[name], new.get(exponents_of(name))
            value = from_bias(results[name]) if exponents is None else from_master(results[name], exponents)
            yield Update(name, parameter, value=value)
            if MOMENTUM + name in results:
                self.rate.keep(parameter, results[MOMENTUM + name].float() * velocity_scale(parameter, exponents))
        for name, value in new.items():
            yield Update(name, buffers[name], value=value)

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        """The float network before the first step; the integer network afterwards."""
        if type(x) is not Tensor or not model.has_learned or not hasattr(model.inserted, "integer"):
            return self.method.predict(model, x)
        step = self.calibrated_prediction(model, x)
        results = step.graph.run(model, quantise(x, model.inserted.integer.input), **self.integers(model, step))
        return (results["logits"].double() * torch.exp2(-results["logits_exponent"].double())).float()
