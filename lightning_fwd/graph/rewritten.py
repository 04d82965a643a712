"""The rewritten model: the user's own layers, run by a learning rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, fx, nn

from ..errors import RewriteError, StepError
from .blocks import Block, Granularity, find_blocks
from .capture import capture
from .constants import INSERTED, is_inserted
from .module_state import ModuleState
from .out_of_place import make_activations_out_of_place
from .programs import BlockRunner, around_last_block, copy_of, modules_of, output_shape, whole
from .segment import Segment
from .step import Part, Step, StepRecord, accumulate
from .training_mode import TrainingEffects


class RewrittenModel(nn.Module):
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
    """

    original: nn.Module
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
    draws_in_training: list[str]  # paths of modules that draw random numbers in training
    pending: list[tuple[ref[Tensor], Step]]  # the logits handed out, and the step that waits for their error
    loss_scale: float

    def __init__(self, net: nn.Module, method: Any, example_input: Tensor, granularity: Granularity = "layer"):
        super().__init__()
        _refuse_clashing_names(net)
        captured = capture(net, example_input)
        graph_module = captured.graph_module
        logits = output_shape(graph_module)
        if len(logits) != 2:
            raise RewriteError(
                f"{type(net).__name__} returns shape {logits}, expected logits (B, C)",
                "the learning rules classify",
                "flatten or pool the output to one row of class scores per sample",
            )
        hidden = self.__dict__  # not registered: the original shares every child with this module
        hidden["original"], hidden["method"], hidden["_undo"], hidden["_original_trains"] = net, method, [], False
        self._parameters, self._buffers = net._parameters, net._buffers
        self._non_persistent_buffers_set = net._non_persistent_buffers_set
        self._modules = dict(net._modules)
        hidden.update({name: getattr(net, name) for name in _HOOKS})  # the original's own run around this model
        self.training = net.training
        hidden["_modes"] = {module: module.training for module in net.modules()}
        hidden["_captured"] = modules_of(net, graph_module.graph)
        hidden["_children"] = {
            name: net._modules[name] for name in {path.partition(".")[0] for path in self._captured} if name in net._modules
        }
        self.inserted = captured.inserted
        self.register_load_state_dict_post_hook(_allow_plain_state)
        counter = torch.zeros((), dtype=torch.int64, device=example_input.device)
        self.inserted.register_buffer("counter", counter)
        self.opaque, self.how_captured = captured.opaque, captured.how
        self.num_classes, self.input_shape = logits[1], tuple(example_input.shape[1:])
        self.example_input = example_input.detach()
        self.plan = find_blocks(graph_module, granularity)
        self.graph_before = copy_of(graph_module.graph)
        self.graph = graph_module.graph
        self.graph.owning_module = None  # the nodes now refer to this module
        self.compile_inference()
        self.block_runners, self.pending = [], []
        self.draws_in_training, self._custom_norms = [], []
        self._target, self.loss_scale, self._stepping = None, 1.0, False
        self._undo += [partial(setattr, module, "inplace", True) for module in make_activations_out_of_place(net)]

    # ---- inserted state: registered under one prefix, so that it can be told apart by name

    @property
    def inserted(self) -> nn.Module:
        return self._modules[INSERTED]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "original" not in self.__dict__:  # protocols (copy, pickle) ask for this object's own
                raise
            return getattr(self.__dict__["original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "inserted":
            self._modules[INSERTED] = value  # nn.Module.__setattr__ would register it as "inserted"
        elif isinstance(value, nn.Module):  # a new head, say: it belongs to the original
            setattr(self.original, name, value)
            self._modules[name] = value
        else:
            super().__setattr__(name, value)

    # ---- the original's own indices, where it is a Sequential

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.original)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.original)

    def __getitem__(self, index: Any) -> Any:
        return self.original[index]

    def __setitem__(self, index: Any, module: nn.Module) -> None:
        self.original[index] = module
        self._modules.update(self.original._modules)

    def is_stale(self) -> bool:
        """Whether a module that the graph calls was replaced in the original since the rewrite."""
        now = dict(self.original.named_modules(remove_duplicate=False))
        return any(now.get(path) is not module for path, module in self._captured.items())

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 4:  # torch.save's own is 2, which has no name for functions such as torch.conv2d
            raise RewriteError(
                f"a model rewritten for {type(self.method).__name__} cannot be pickled by protocol {protocol}",
                "its graphs name functions of torch; a LightningModule stays rewritten after fit",
                "call lf.unwrap(module) first, save module.state_dict(), or torch.save(..., pickle_protocol=4)",
            )
        return super().__reduce_ex__(protocol)

    # ---- running

    def forward(self, x: Tensor) -> Tensor:
        """Inference ``(B, ...) -> (B, C)``; in training mode, or inside :meth:`step`, the first half of a training step."""
        for name, child in self._children.items():
            if self.original._modules.get(name) is not child:
                raise StepError(
                    f"{name!r} of {type(self.original).__name__} was replaced after the rewrite",
                    "the graph that runs and learns was captured with the one before",
                    "fit by the rule's Lightning strategy, which rewrites anew, or call lf.unwrap(module) and rewrite again",
                )
        if not ((self.training or self._stepping) and torch.is_grad_enabled()):
            return self.method.predict(self, x)
        if self.method.needs_target and not self._stepping:
            raise StepError(
                f"a model rewritten for {type(self.method).__name__} was run in training mode outside a training step of its rule",
                "a plain Trainer or loop trains it; a LightningModule stays rewritten after fit",
                "for plain training call lf.unwrap(module) first (import lightning_fwd as lf); to go on with the rule, use its Lightning strategy or "
                "`with model.step(labels):`; to predict, call model.eval()",
            )
        self.method.check_step(self, x, self._target)
        before = x
        if x.requires_grad:
            if not self.method.reaches_input:
                raise StepError(
                    "the input of the network requires grad, as behind layers that learn",
                    f"{type(self.method).__name__} passes no error on into the input, so they would learn nothing",
                    "freeze them or detach the input; or make them part of the network (ForwardOnlyStrategy(method, module=...)), or use backprop",
                )
            x = x.detach().requires_grad_()
        self.pending = [(logits, step) for logits, step in self.pending if logits() is not None]  # no loss can reach the others any more
        record = StepRecord(x, self._target, self.loss_scale, self.inserted.counter + len(self.pending))
        autocast = _autocast_now(x.device.type)
        with autocast():
            step = Step(self.method.updates(self, record), autocast)
        logits, step.logits = step.logits, None
        step.inputs = (before, x) if before is not x else None
        self.pending.append((ref(logits), step))
        logits.register_post_accumulate_grad_hook(_refuse_plain_backward)  # torch.autograd.grad does not call it
        return logits.clone()  # which may be written into, as a leaf may not

    def run(self, x: Tensor) -> Tensor:
        """The original's own computation, with dropout and normalisation as their modules' modes say."""
        return self._inference(self, x)[0]

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

    def part_of(self, name: str) -> Part | None:
        """What of a parameter its rule trains (:func:`passes.slice_weight_gradients`); None: all of it."""
        return self.inserted.parts.of(name) if hasattr(self.inserted, "parts") else None

    def emit(self, x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The training graph in one go: logits, then everything that passes marked to leave it; ``more``: inputs that passes added."""
        return self._training(self, x, *more)

    @contextmanager
    def step(self, target: Tensor | None = None, loss_scale: float = 1.0) -> Iterator[None]:
        """One training step: labels ``(B,)`` for rules that need them, and a clean slate.

        Each forward call inside is a batch of its own, and a step of the rule: gradients add up as for ``loss_1 + loss_2``. A rule with losses of
        its own cannot see how the user's loss weighs the calls: of a mean of n calls, hidden blocks still take each call whole (n times the step).
        """
        whole = isinstance(target, Tensor) and not target.is_floating_point()
        self.pending, self._target, self.loss_scale, self._stepping = [], target.long() if whole else target, loss_scale, True
        try:
            yield
        finally:
            self._target, self._stepping = None, False

    def backward(self, loss: Tensor, others: list[nn.Parameter] | None = None) -> None:
        """Finish the step: error = gradient of ``loss`` w.r.t. the logits, then the rule's updates into ``p.grad``.

        Args:
            loss: scalar computed from the logits of this step's forward call(s).
            others: parameters outside this model that the loss depends on; they get their ordinary gradient.

        Raises:
            StepError: the loss is not finite, does not depend on the logits of this step, or depends on trained parameters beside them.
        """
        if not self.pending:
            raise StepError(
                "backward was called, but no training forward came before it",
                "the model was in eval mode or under no_grad, only a part of it was called, or backward was called twice",
                "call model.train(), run the model, compute the loss, then call backward once; in Lightning name the network that "
                "training_step calls: ForwardOnlyStrategy(method, module=...)",
            )
        if not torch.isfinite(loss).all():
            raise StepError(
                f"the loss is {loss.item()}",
                "an update from it would destroy the weights; they are unchanged",
                "lower the learning rate, or look for bad values in the batch",
            )
        others = [p for p in others or [] if p.requires_grad]
        reached = [(logits(), step) for logits, step in self.pending if logits() is not None]
        leaves = [logits for logits, _ in reached]
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        kept = any(step.inputs is not None for _, step in reached)
        grads = torch.autograd.grad(loss, [*leaves, *others, *own.values()], retain_graph=kept, allow_unused=True)
        if all(g is None for g in grads[: len(leaves)]):
            raise StepError(
                "the loss does not depend on the logits",
                "the training step detached or recomputed them",
                "compute the loss from the tensor that the model returned",
            )
        beside = [name for name, grad in zip(own, grads[len(leaves) + len(others) :], strict=True) if grad is not None]
        if beside:
            raise StepError(
                f"the loss depends on {', '.join(beside[:3])}{' and others' if beside[3:] else ''} otherwise than through the logits",
                f"{type(self.method).__name__} takes the gradient of the loss at the logits: a penalty on parameters would be lost",
                "use the optimizer's weight_decay; a term that is only logged: detach it",
            )
        for parameter, grad in zip(others, grads[len(leaves) :], strict=False):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad + grad
        self.pending = []
        inputs = []
        for (_, step), error in zip(reached, grads, strict=False):
            if error is not None:
                with step.autocast():  # later passes of the rule run in the same precision as its first
                    for update in step.finish(error):
                        accumulate(update)
                inputs += [step.inputs] if step.inputs is not None else []
        if inputs:
            torch.autograd.backward([before for before, _ in inputs], [x.grad for _, x in inputs])
        self.inserted.counter += len(reached)

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
        for module, mode in self._modes.items():
            module.training = mode
        self.training = self._modes[self.original]
        self.inserted.train(self.training)
        self._keep_in_eval()

    @contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """Inside, in training or in eval mode; then every module has its own mode again."""
        modes = {module: module.training for module in [self.original, *self.modules()]}
        self.train(training)
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def watch_training(self) -> None:
        """Find what draws random numbers in training, and which modules have statistics of their own to freeze; once, before the rule's passes."""
        effects, state = TrainingEffects(self, self.graph), ModuleState(self.original)
        with self.in_mode(training=True):
            effects.see(self.example_input)
        state.restore()
        self.draws_in_training, self._custom_norms = effects.draws, effects.writes

    def _keep_in_eval(self) -> None:
        if self.method.freeze_batch_norm:
            for path, module in self.named_modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) or path in self._custom_norms:
                    module.training = False
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
        self._inference = Segment(*whole(self.graph))
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
                self._undo.append(partial(setattr, parameter, "requires_grad", True))

    def undo(self) -> nn.Module:
        """Give the original back, flags restored, with the weights as trained."""
        while self._undo:
            self._undo.pop()()
        for module, mode in self._modes.items():
            module.training = mode
        if self.original.training != self.training:
            self.original.train(self.training)
        return self.original


def _autocast_now(device: str) -> Callable[[], AbstractContextManager]:
    """The present autocast, to be entered again. Its cache would hand a weight cast under ``no_grad`` to a pass that wants its gradient: off."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=enabled, cache_enabled=False)


def _allow_plain_state(_model: RewrittenModel, keys: Any) -> None:
    """The original's state_dict loads, strictly, into the rewritten model: inserted state then stays as it is."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if not is_inserted(key)]


def _refuse_plain_backward(logits: Tensor) -> None:
    raise StepError(
        "loss.backward() was called on a model that is rewritten for a learning rule",
        "it stops at the logits, so no parameter would get a gradient; a LightningModule stays rewritten after fit",
        "call model.backward(loss), train with the rule's Lightning strategy, or call lf.unwrap(module) first for plain training",
    )


_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def _refuse_clashing_names(net: nn.Module) -> None:
    own = set(dir(RewrittenModel)) - set(dir(nn.Module)) | set(RewrittenModel.__annotations__)
    held = (net.named_children(), net.named_parameters(recurse=False), net.named_buffers(recurse=False))
    clashing = [name for kind in held for name, _ in kind if name in own]
    if clashing:
        raise RewriteError(
            f"{type(net).__name__}.{clashing[0]} cannot be told from {clashing[0]!r} of the rewritten model",
            "the rewritten model holds its layers under the same names as the original",
            f"rename it, or rewrite a module that holds the network as a child (its layers are then NAME.{clashing[0]})",
        )
