"""Trace one training step, loss, rule and optimizer included, to a flat aten graph: what is priced, scheduled and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import LightningFwdError, StepError
from ..graph.constants import COUNTER
from ..graph.modes import kept_modes
from ..graph.operand import given
from ..graph.phase import layer, phase
from ..graph.priced_as import Memory, PricedAs, category_of, priced_modules
from ..graph.rewritten import RewrittenModel
from ..graph.step import Step, StepRecord
from .decompositions import DEVICE_DECOMPOSITIONS, remove_identities
from .label_nodes import annotate_layers, complete_labels
from .optimizers import Optimizer, get_optimizer


@dataclass
class StepGraph:
    """One step as a function without side effects, on fake tensors.

    Every node carries ``meta["phase"]``, ``meta["layer"]`` (a module path, "" where none applies) and ``meta["val"]`` (a fake tensor:
    shape, dtype).

    Attributes:
        module: the graph; flat aten nodes in order of execution, no autograd, nothing mutated, no view of an output.
        inputs: name of the placeholder of the batch: ``"input"`` and, where the step reads it, ``"target"``, to its node's name.
        state: tensor that lives across steps, to the name of its placeholder: parameters and buffers under the rewritten model's names
            (inserted ones under :data:`lightning_fwd.graph.constants.INSERTED`), optimizer state under
            :func:`lightning_fwd.trace.optimizers.state_name`, which starts at zero.
        outputs: what each element of the output tuple is, in order: ``"logits"``, ``"loss"``, or the name in ``state`` whose new value it
            is.
        gradients: trained parameter, to the name of the node that holds its gradient (of the part that learns).
        trained: names of the parameters that the step trains.
        priced_as: path of an inserted module, to the memory categories that it gives itself.
    """

    module: fx.GraphModule
    inputs: dict[str, str]
    state: dict[str, str]
    outputs: list[str]
    gradients: dict[str, str]
    trained: tuple[str, ...]
    priced_as: dict[str, PricedAs] = field(default_factory=dict)

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    def node(self, name: str) -> fx.Node:
        """The placeholder of an input or of state."""
        wanted = self.inputs.get(name) or self.state[name]
        return next(n for n in self.graph.nodes if n.name == wanted)

    @property
    def results(self) -> dict[str, fx.Node]:
        """What leaves the step, by name."""
        output = next(n for n in reversed(self.graph.nodes) if n.op == "output")
        return dict(zip(self.outputs, output.args[0], strict=True))

    @property
    def mutated(self) -> tuple[str, ...]:
        """Names of all state that the step writes."""
        return tuple(name for name in self.outputs if name in self.state)

    def category(self, path: str, memory: Memory) -> str:
        """The memory category that an inserted module gives what is at ``path`` (a layer or a name of state); "" for the model's own."""
        return category_of(path, self.priced_as, memory)

    def learning_entries(self, name: str) -> int:
        """How many entries of a trained parameter learn: the size of its gradient."""
        return next(n for n in self.graph.nodes if n.name == self.gradients[name]).meta["val"].numel()

    def run(self, model: nn.Module, x: Tensor, target: Tensor | None = None, **state: Tensor) -> dict[str, Tensor]:
        """Run the graph on real tensors: state from the model, except what ``state`` gives; optimizer state from zero.

        Returns:
            every output by name; the model is unchanged.
        """
        known = dict([*model.named_parameters(), *model.named_buffers()]) | {"input": x, "target": target} | state
        names = {node: name for name, node in (self.inputs | self.state).items()}
        placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
        zeros = {names[n.name]: n.meta["val"] for n in placeholders if names[n.name] not in known}
        known |= {name: torch.zeros(like.shape, dtype=like.dtype, device=x.device) for name, like in zeros.items()}
        values = [known[names[n.name]] for n in placeholders]
        with torch.no_grad():
            return dict(zip(self.outputs, self.module(*values), strict=True))


class _Step(nn.Module):
    """The step as a module over the model, so that ``functional_call`` can put the traced tensors in."""

    def __init__(self, model: RewrittenModel, loss: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer):
        super().__init__()
        self.model = model
        self.__dict__.update(loss=loss, optimizer=optimizer)  # not registered: the loss may be a module

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer

    def forward(self, x: Tensor, target: Tensor, optimizer_state: dict[str, Tensor]) -> tuple[dict, dict]:
        model, counter = self.model, self.model.inserted.counter
        step = Step(model.method.updates(model, StepRecord(x, target, 1.0, counter)))
        with torch.enable_grad(), phase("error"), layer(""):
            logits = given(step.logits)
            loss = self.loss(logits, target)
            (error,) = torch.autograd.grad(loss, logits)
        results, gradients = {"logits": logits.detach(), "loss": loss.detach()}, dict[str, Tensor]()
        for update in step.finish(error):
            with torch.no_grad(), phase("update"), layer(update.name.rpartition(".")[0]):
                if update.value is not None:
                    results[update.name] = update.value
                    continue
                gradient, part = given(update.gradient), update.part
                if update.name in gradients:  # a shared parameter: the sum is stepped with; the step before is dead code
                    gradient = gradients[update.name] + gradient
                gradients[update.name] = gradient
                learns = update.tensor if part is None else part.of(update.tensor)
                results |= self.optimizer.step(update.name, learns, gradient, optimizer_state)
                if part is not None:
                    results[update.name] = part.put(update.tensor, results[update.name])
        with phase("update"), layer(""):
            results[COUNTER] = counter + 1
        return results, gradients


def trace_step(
    model: RewrittenModel,
    example_batch: tuple[Tensor, Tensor],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: str | Optimizer = "sgd",
    lr: float = 0.01,
    momentum: float = 0.0,
) -> StepGraph:
    """Trace one training step of a rewritten model; nothing is computed and the model is left as it was.

    Args:
        example_batch: input ``(B, ...)`` and target; only their shapes and types matter.
        loss: ``(logits, target) -> scalar``, the user's loss.
        optimizer: a name in :data:`lightning_fwd.trace.optimizers.OPTIMIZERS`; its arithmetic becomes part of the graph. Or one with
            settings of its own, in place of ``lr`` and ``momentum``.

    Raises:
        StepError: the rule or the model cannot learn from such a batch, or the step depends on the values of tensors.
    """
    x, target = example_batch
    model.method.check_step(model, x, target)
    rule = get_optimizer(optimizer, lr, momentum)
    tensors = {f"model.{n}": t for n, t in [*model.named_parameters(), *model.named_buffers()]}
    trainable = {n: _learning_part(model, n, p) for n, p in model.named_parameters() if p.requires_grad}
    optimizer_state = {name: zero for n, p in trainable.items() for name, zero in rule.initial_state(n, p).items()}
    shell = _Step(model, loss, rule)
    results_of: list[str] = []
    gradients_of: list[str] = []

    def step(x: Tensor, target: Tensor, *flat: Tensor) -> list[Tensor]:
        state = dict(zip([*tensors, *optimizer_state], flat, strict=True))
        inside = {n: state[n] for n in tensors}
        results, gradients = functional_call(shell, inside, (x, target, {n: state[n] for n in optimizer_state}))
        for name in tensors:  # what modules changed in place (batch norm's statistics), unless the rule gives a value
            key = name.removeprefix("model.")
            if key not in results and not inside[name].requires_grad:
                results[key] = inside[name]
        results_of[:], gradients_of[:] = results, gradients
        return [*results.values(), *gradients.values()]

    try:
        with kept_modes(model):
            model.train()
            module = trace_flat(step, model, [x, target, *tensors.values(), *optimizer_state.values()])
    except LightningFwdError:
        raise
    except (RuntimeError, NotImplementedError, ValueError) as error:
        mend = "the step must not read tensor values in Python (.item(), if tensor:), in the model, the rule or the loss"
        if "more than 1 value per channel" in str(error):
            mend = "price a batch of 2 or more, or keep batch norm's statistics (batch_norm='freeze' or 'fold', where the rule has it)"
        raise StepError(
            f"the training step of {type(model.method).__name__} on {type(model.original).__name__}, batch of {len(x)}, cannot be traced",
            str(error).splitlines()[0],
            mend,
        ) from error
    names = ["input", "target", *(n.removeprefix("model.") for n in tensors), *optimizer_state]
    return finish(module, names, results_of, gradients_of, model)


def _learning_part(model: RewrittenModel, name: str, parameter: Tensor) -> Tensor:
    part = model.part_of(name)
    return parameter.detach() if part is None else part.of(parameter.detach())


def trace_inference(model: nn.Module, x: Tensor) -> StepGraph:
    """Trace a prediction ``x -> logits`` in eval mode (of a rewritten model: by the rule's own means) as a step without updates."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    if isinstance(model, RewrittenModel):  # a value that the rule may look at: price the prediction of a model that has learned
        tensors.pop(COUNTER)
        learned = {COUNTER: torch.ones_like(model.inserted.counter)}
    else:
        learned = {}

    def predict(x: Tensor, *flat: Tensor) -> list[Tensor]:
        with torch.no_grad(), phase("forward"):
            return [functional_call(model, dict(zip(tensors, flat, strict=True)) | learned, (x,))]

    with kept_modes(model):
        model.eval()
        module = trace_flat(predict, model, [x, *tensors.values()])
    return finish(module, ["input", *tensors], ["logits"], [], model)


@contextmanager
def _no_kernels_of_the_host() -> Iterator[None]:
    """A CPU's own kernels for LSTM and attention would hide their matrix products in one node."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def trace_flat(function: Callable, model: nn.Module, tensors: list[Tensor]) -> fx.GraphModule:
    """A function of tensors as a flat aten graph, traced twice: through autograd, then without it to remove mutation and to decompose what
    devices have no kernel for."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(t, static_shapes=True) for t in tensors]
    with preserve_node_meta(), mode, _no_kernels_of_the_host():
        with annotate_layers(model):
            traced = make_fx(function, tracing_mode="real")(*fakes)
        plain = [f.detach() for f in fakes]
        pure = functionalize(_Again(traced).run, remove="mutations")
        return make_fx(pure, decomposition_table=DEVICE_DECOMPOSITIONS, tracing_mode="real")(*plain)


class _Again(fx.Interpreter):
    """The second time, operations that lay their results out otherwise may leave a view no way to be one: then it is of a copy."""

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        if target is torch.ops.aten.view.default and not args[0].is_contiguous():
            target = torch.ops.aten.reshape.default  # a view again where it can be one
        return super().call_function(target, args, kwargs)


def finish(module: fx.GraphModule, names: list[str], results: list[str], gradients: list[str], model: nn.Module) -> StepGraph:
    """Name the placeholders, keep the results that changed, and drop what nothing reads."""
    graph = module.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    by_name = dict(zip(names, placeholders, strict=True))
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    for node in [n for n in graph.nodes if n.target is torch.ops.aten.copy_.default]:
        node.replace_all_uses_with(node.args[1])  # functionalize's write-back: here the new value itself is the output
        graph.erase_node(node)
    remove_identities(graph)
    leaving = dict(zip(results, output.args[0], strict=False))
    gradient_nodes = dict(zip(gradients, output.args[0][len(results) :], strict=True))
    kept = {name: node for name, node in leaving.items() if node is not by_name.get(name)}
    counter = by_name.get(COUNTER)
    if counter is not None and set(counter.users) <= {kept[COUNTER]} and set(kept[COUNTER].users) == {output}:
        del kept[COUNTER]  # nothing in this step is random
    output.args = (tuple(kept.values()),)
    graph.eliminate_dead_code()
    for name, node in list(by_name.items()):
        if not node.users and name != "input" and name not in kept:  # what is written need not be read
            graph.erase_node(node)
            del by_name[name]
        else:
            _rename(node, name)
    inputs = {name: node.name for name, node in by_name.items() if name in ("input", "target")}
    state = {name: node.name for name, node in by_name.items() if name not in inputs}
    complete_labels(graph, {node: name for name, node in by_name.items() if name in state}, model)
    module.recompile()
    trained = tuple(name for name in gradient_nodes if name in kept)
    gradients_of = {n: gradient_nodes[n].name for n in trained}
    return StepGraph(module, inputs, state, list(kept), gradients_of, trained, priced_modules(model))


def _rename(node: fx.Node, name: str) -> None:
    node._rename("".join(c if c.isalnum() else "_" for c in name).strip("_"))
    node.target = node.name
