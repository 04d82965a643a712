"""The rewritten model: the user's own layers, run by a learning rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import RewriteError, StepError
from .blocks import Block, Granularity, find_blocks
from .capture import capture
from .modes import freeze_norms, kept_modes, set_modes
from .module_state import ModuleState
from .module_table import ModuleTable
from .out_of_place import make_activations_out_of_place
from .pending import PendingSteps, start
from .programs import BlockRunner, around_last_block, copy_of, modules_of, output_shape, whole
from .read_numbers import ReadNumbers
from .refuse_call import refuse_learning_ahead, refuse_other_shape, refuse_plain_training
from .segment import Segment
from .step import Part, StepRecord
from .training_mode import TrainingEffects
from .view import View


class RewrittenModel(View):
    """A model whose layers are the original's own (same objects, same names) and whose training step is a learning rule.

    In eval mode ``forward(x)`` is inference. In training mode it runs the rule up to the logits and hands them out, cut off from the
    network: compute any loss on them and call :meth:`backward`. Not an ``fx.GraphModule``: that class regenerates its
    forward, drops modules that the graph does not use and copies the rest; this one shares everything with the original.

    Attributes:
        original: the user's module, never changed except for its weights (and undone by :func:`unwrap`).
        method: the learning rule.
        graph_before, graph: the captured graph, and the training graph after the rule's passes.
        inserted: module that holds all inserted state (heads, feedback projection, masks, step counter).
        block_runners: the training graph's blocks, each callable.
        num_classes, input_shape: read from the example, batch dimension excluded.
        opaque: modules kept whole because they cannot be traced, with the reason.
        fixed_shape: whether the graph holds for samples of the example's shape only.
    """

    method: Any
    graph_before: fx.Graph
    graph: fx.Graph
    plan: list[Block]
    block_runners: list[BlockRunner]
    num_classes: int
    input_shape: tuple[int, ...]
    example_input: Tensor
    opaque: dict[str, str]
    how_captured: str
    fixed_shape: bool
    draws_in_training: list[str]  # paths of modules that draw random numbers in training
    pending: PendingSteps
    module_table: ModuleTable
    custom_norms: list[str]  # paths of modules that write floating-point buffers of their own in training
    _statistics: list[nn.Module]
    _numbers: ReadNumbers
    inference: Segment  #: the original's own computation

    def __new__(cls, net: nn.Module | None = None, *_args: Any, **_settings: Any) -> RewrittenModel:
        """Of a network that can be iterated over, a model that can."""
        return super().__new__(RewrittenSequence if cls is RewrittenModel and isinstance(net, Iterable) else cls)

    def __init__(self, net: nn.Module, method: Any, example_input: Tensor, granularity: Granularity = "layer"):
        super().__init__(net)
        captured = capture(net, example_input)
        graph_module = captured.graph_module
        logits = output_shape(graph_module)
        if len(logits) != 2:
            raise RewriteError(
                f"{type(net).__name__} returns shape {logits}, expected logits (B, C)",
                "the learning rules classify",
                "flatten or pool the output to one row of class scores per sample",
            )
        hidden = self.__dict__
        hidden["method"], hidden["_undo"], hidden["_original_trains"] = method, [], False
        hidden["_modes"] = {module: module.training for module in net.modules()}
        self.remember(modules_of(net, graph_module.graph))
        hidden["_numbers"] = ReadNumbers(net, captured, example_input)
        self.inserted = captured.inserted
        counter = torch.zeros((), dtype=torch.int64, device=example_input.device)
        self.inserted.register_buffer("counter", counter)
        self.opaque, self.how_captured, self.fixed_shape = captured.opaque, captured.how, captured.fixed_shape
        self.num_classes, self.input_shape = logits[1], tuple(example_input.shape[1:])
        self.example_input = example_input.detach()
        self.plan = find_blocks(graph_module, granularity)
        self.graph_before = copy_of(graph_module.graph)
        self.graph = graph_module.graph
        self.graph.owning_module = None  # the nodes now refer to this module
        self.compile_inference()
        self.block_runners, self.pending, self.module_table = [], PendingSteps(), ModuleTable()
        self.draws_in_training, self.custom_norms = [], []
        for module in make_activations_out_of_place(net):
            self.on_undo(partial(setattr, module, "inplace", True))

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 4:  # torch.save's own is 2, which has no name for functions such as torch.conv2d
            raise RewriteError(
                f"a model rewritten for {type(self.method).__name__} cannot be pickled by protocol {protocol}",
                "its graphs name functions of torch; a LightningModule stays rewritten after fit",
                "call lf.unwrap(module) first, save module.state_dict(), or torch.save(..., pickle_protocol=4)",
            )
        return super().__reduce_ex__(protocol)

    # ---- running

    def forward(self, *inputs: Tensor, **named: Any) -> Tensor:
        """Inference ``(B, ...) -> (B, C)``; in training mode, or inside :meth:`step`, the first half of a training step."""
        x = inputs[0] if len(inputs) == 1 and not named else self.only_input(inputs, named)
        self.refuse_replaced_children()
        self._numbers.refuse_changed(self.original)
        if self.fixed_shape and tuple(x.shape[1:]) != self.input_shape:
            refuse_other_shape(self.original, tuple(x.shape[1:]), self.input_shape)
        if not ((self.training or self.pending.stepping) and torch.is_grad_enabled()):
            return self.method.predict(self, x)
        if self.method.needs_target and not self.pending.stepping:
            refuse_plain_training(self.method)
        self.method.check_step(self, x, self.pending.target)
        before = x
        if x.requires_grad:
            if not self.method.reaches_input:
                refuse_learning_ahead(self.method)
            x = x.detach().requires_grad_()
        pending = self.pending
        pending.called = True
        if self._statistics:
            pending.keep_buffers(self._written_in_training())
        counter, waiting = self.inserted.counter, len(pending)
        record = StepRecord(x, pending.target, pending.loss_scale, counter + waiting if waiting else counter)
        return pending.hand_out(start(partial(self.method.updates, self), record, before), self.method.needs_target)

    def _written_in_training(self) -> list[nn.Module]:
        """Modules that write statistics in a training forward, as they stand now."""
        return [module for module in self._statistics if module.training]

    def run(self, x: Tensor) -> Tensor:
        """The original's own computation, with dropout and normalisation as their modules' modes say."""
        return self.inference(self, x)[0]

    def run_until_last(self, x: Tensor) -> Tensor:
        """The original's own computation up to what enters the last block."""
        return self._until_last(self, x)[0]

    def run_last(self, h: Tensor) -> Tensor:
        """The original's last block, ``h -> (B, C)``."""
        return self._last(self, h)[0]

    @property
    def has_learned(self) -> bool:
        """Whether any step was finished since the rewrite."""
        return int(self.inserted.counter) > 0

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """``dict(model.named_parameters())``, at the price of a look at each module."""
        return self.module_table.named_parameters(self)

    def modules_now(self) -> list[nn.Module]:
        """Its modules, inserted ones too; some twice."""
        return self.module_table.modules(self)

    @property
    def learns_in_part(self) -> bool:
        """Whether there are parameters of which only a part learns."""
        return "parts" in self.inserted._modules

    def part_of(self, name: str) -> Part | None:
        """What of a parameter its rule trains (:func:`passes.slice_weight_gradients`); None: all of it."""
        return self.inserted.parts.of(name) if self.learns_in_part else None

    def emit(self, x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The training graph in one go: logits, then everything that passes marked to leave it; ``more``: inputs that passes added."""
        return self._training(self, x, *more)

    def step(self, target: Tensor | None = None, loss_scale: float = 1.0, manual: bool = False) -> AbstractContextManager[None]:
        """One training step: labels ``(B,)`` for rules that need them, and a clean slate.

        Each forward call inside is a batch of its own, and a step of the rule: gradients add up as for ``loss_1 + loss_2``. A rule with
        losses of its own cannot see how the user's loss weighs the calls: of a mean of n calls, hidden blocks still take each call whole (n
        times the step).

        Args:
            manual: a bare ``loss.backward()`` inside finishes the step of the logits that it reaches; else only :meth:`backward` does.
        """
        count = (type(self.method).__name__, partial(self.inserted.counter.add_, 1)) if manual else None
        return self.pending.open(target, loss_scale, count)

    def backward(
        self,
        loss: Tensor,
        others: list[nn.Parameter] | None = None,
        gradient: Tensor | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Finish the step: error = gradient of ``loss`` w.r.t. the logits, then the rule's updates into ``p.grad``.

        Args:
            loss: computed from the logits of this step's forward call(s); a scalar, or of any shape with the ``gradient`` at it.
            others: parameters outside this model that the loss depends on; they get their ordinary gradient.
            gradient, retain_graph: as of ``torch.Tensor.backward``; what is kept is the graph of the loss, a forward call is learned from
            once.

        Raises:
            StepError: the loss is not finite, does not depend on the logits of this step, or depends on trained parameters beside them; or
            the labels that the rule learns by do not fit it.
        """
        self._require_pending()
        rule = type(self.method).__name__
        with self.module_table.held(self) as parameters:
            try:
                done = self.pending.finish(loss, rule, parameters, others or [], gradient, retain_graph)
            except BaseException:
                self.pending.put_buffers_back()
                raise
        self.inserted.counter.add_(done)

    @contextmanager
    def plain_backward(self) -> Iterator[None]:
        """Inside, ``loss.backward()`` itself finishes the step, with whatever arguments it takes."""
        self._require_pending()
        with self.pending.plain_backward(type(self.method).__name__) as done:
            yield
        self.inserted.counter.add_(len(done))

    def _require_pending(self) -> None:
        if not self.pending and not self.pending.forgotten:
            raise StepError(
                "backward was called, but no training forward came before it",
                "the model was in eval mode or under no_grad, only a part of it was called, or backward was called twice",
                "call model.train(), run the model, compute the loss (of several losses the sum), then call backward once; in "
                "Lightning name the "
                "network that training_step calls: ForwardOnlyStrategy(method, module=...)",
            )

    # ---- modes, building, undoing

    def train(self, mode: bool = True) -> RewrittenModel:
        """As the original's own ``train``, which may keep some modules in eval mode; norms that the rule freezes stay in it too."""
        if self._original_trains:  # the original holds this model, and calls back
            super().train(mode)
        else:
            self.__dict__["_original_trains"] = True
            try:
                self.original.train(mode)
            finally:
                self.__dict__["_original_trains"] = False
            self.training = mode
            self.inserted.train(mode)
        self._keep_in_eval()
        return self

    def restore_modes(self) -> None:
        """Every module in the mode in which the rewrite found it, but for what the rule keeps in eval mode."""
        set_modes(self._modes)
        self.training = self._modes[self.original]
        self.inserted.train(self.training)
        self._keep_in_eval()

    @contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """Inside, in training or in eval mode; then every module has its own mode again."""
        with kept_modes(self.original, self):
            self.train(training)
            yield

    def watch_training(self) -> None:
        """Find what draws random numbers in training, and which modules have statistics of their own to freeze; once, before the rule's
        passes."""
        effects, state = TrainingEffects(self, self.graph), ModuleState(self.original)
        with self.in_mode(training=True):
            effects.see(self.example_input)
        state.restore()
        self.draws_in_training, self.custom_norms = effects.draws, effects.writes
        own = {*effects.writes, *effects.vectors}
        norms = {m: None for path, m in self.original.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase) or path in own}
        self.__dict__["_statistics"] = [module for module in norms if module._buffers]

    def _keep_in_eval(self) -> None:
        if self.method.freeze_batch_norm:
            freeze_norms(self, self.custom_norms)
        if self.method.updates_buffers_only:  # nothing that dropout could regularise, and it would blur the statistics
            for child in self.children():
                child.eval()

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Put ``new`` in the place of ``old`` in the training graph, for the users of its value and for its block."""
        new.meta = {**old.meta, **new.meta}
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        for block in self.plan:
            if block.output is old:
                block.output = new
        if not old.users:
            self.graph.erase_node(old)

    def compile_inference(self) -> None:
        """Compile the training graph as it stands as the inference program (a pass that changes what is computed calls it)."""
        self.inference = Segment(*whole(self.graph))
        self._until_last, self._last = around_last_block(self.graph, self.plan)

    def compile_blocks(self) -> None:
        """Compile the training graph, whole and block by block; called once, after the rule's passes."""
        self.graph.lint()
        nodes, inputs, outputs = whole(self.graph)
        self._training = Segment(nodes, inputs, outputs + [n for n in nodes if n.meta.get("emit")])
        self.block_runners = [BlockRunner(self, block) for block in self.plan]

    def freeze(self, names: set[str]) -> None:
        """Take ``requires_grad`` from the named parameters; :func:`unwrap` gives it back."""
        for name, parameter in self.named_parameters():
            if name in names and parameter.requires_grad:
                parameter.requires_grad_(False)
                self.on_undo(partial(setattr, parameter, "requires_grad", True))

    def on_undo(self, call: Callable[[], Any]) -> None:
        """Have something undone when the original is given back; what was added last is undone first."""
        self._undo.append(call)

    def undo(self) -> nn.Module:
        """Give the original back, flags restored, with the weights as trained."""
        while self._undo:
            self._undo.pop()()
        set_modes(self._modes)
        if self.original.training != self.training:
            self.original.train(self.training)
        return self.original


class RewrittenSequence(RewrittenModel):
    """Of an original that is a sequence of modules: callers ask whether they can iterate over it."""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.original)  # type: ignore[call-overload]
