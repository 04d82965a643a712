"""A Lightning strategy that trains by any learning rule, the LightningModule unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from ..errors import ExampleError, LightningFwdError, NoInputError
from ..graph.module_table import ModuleTable
from ..graph.refuse_backward import require_finite_loss
from ..graph.rewritten import RewrittenModel
from ..integer import Integer, IntegerRule
from ..methods import DEFAULT, LearningMethod, get_method
from .adopting import adopt_inserted, give_up_inserted
from .averaging import rewrite_averages, spare_frozen_norms
from .backward_settings import backward_settings
from .batch import Key, input_of, target_of
from .checkpoints import refuse_optimizer_state, require_inserted, warn_of_dropped
from .example import example_of_checkpoint, is_training_batch, refuse_no_call
from .first_call import step_of_first_call
from .fresh_layers import warn_fresh_layers
from .fresh_norms import refuse_fresh_norms
from .install import folded_state, inserted_state, install, installed, load_folded_state, network_of, split_state, unwrap
from .integer import require_plain_steps
from .manual_steps import guarded


class TrainsByRule(Strategy):
    """What a strategy does for a learning rule, on one device or on several.

    The network inside the LightningModule is rewritten when the Trainer connects to it, where an example input is known by then, else when
    the first batch arrives that training draws; until then it is what it was, in validation too. ``training_step`` then computes its own
    loss as ever; the strategy takes the loss's gradient at the logits and lets the rule turn it into parameter gradients. Optimizers,
    schedulers, clipping, accumulation, bf16, callbacks, loggers and checkpoints work as with any strategy; checkpoints load into the plain
    model.

    Args:
        method: a learning rule, or its registered name.
        module: attribute of the LightningModule that is the network; by default the child that holds all parameters, else the whole module.
        example_input: a batch ``(B, ...)``; by default ``example_input_array``, else two samples of the first batch, or of what
            training_step first calls the network with.
        integer: train the rule's step lowered to integers, with the bits of a device without FPU; rate and momentum are those of the user's
            SGD.
        from_scratch: train although the network's batch norms say that it is untrained and the rule keeps them so.
        input_key, target_key: where the input and the labels are in a batch, if not first and second or under a usual name.

    Raises:
        CaptureError, RewriteError: the network cannot be captured, or the rule does not apply to it.
        StepError: with ``integer``: no SGD, a loss other than cross-entropy, or a step that cannot be lowered.
        LightningFwdError: 16-mixed precision, several optimizers, LBFGS under a forward-only rule, or a loss
            without a call of the network.
    """

    def __init__(
        self,
        method: LearningMethod | str = DEFAULT,
        module: str | None = None,
        example_input: Tensor | None = None,
        input_key: Key = None,
        target_key: Key = None,
        integer: Integer | None = None,
        from_scratch: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.method = get_method(method) if integer is None else IntegerRule(get_method(method), integer)
        self._module_name, self._example_input = module, example_input
        self._input_key, self._target_key, self._from_scratch = input_key, target_key, from_scratch
        self._adopted: list[nn.Parameter] = []
        self._module_table = ModuleTable()
        self._found: tuple[Any, Any, list[nn.Parameter]] = None, None, []

    @property
    def rewritten(self) -> RewrittenModel | None:
        """The rewritten network, once there is one."""
        return installed(self._lightning_module) if self._lightning_module is not None else None

    @property
    def network(self) -> RewrittenModel:
        """The rewritten network, which is there from the set-up on."""
        model = self.rewritten
        assert model is not None, "before connect() there is no rewritten network"
        return model

    @property
    def connected(self) -> LightningModule:
        """The LightningModule, which is there from the set-up on."""
        assert self.lightning_module is not None, "before connect() there is no module"
        return self.lightning_module

    def input_of(self, batch: Any) -> Tensor:
        """The input tensor of a batch."""
        return input_of(batch, self._input_key)

    def target_of(self, batch: Any) -> Tensor | None:
        """The labels of a batch, or None."""
        return target_of(batch, self._target_key)

    # ---- set-up

    @override
    def connect(self, model: LightningModule) -> None:
        if isinstance(self.precision_plugin, MixedPrecision) and self.precision_plugin.precision == "16-mixed":
            raise LightningFwdError(
                "ForwardOnlyStrategy does not support precision='16-mixed'",
                "loss scaling would scale the user's loss but not the gradients that a rule computes locally",
                "use precision='bf16-mixed', 'bf16-true' or 32",
            )
        super().connect(model)
        if not is_overridden("configure_model", model):
            self._install_if_known(model)
        elif any(True for _ in model.parameters()):  # the network stands already
            self._install_if_known(model)

    @override
    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Lightning calls ``configure_model`` in here: what it builds is rewritten right after, before a checkpoint is restored."""
        with super().model_sharded_context():
            yield
        self._install_if_known(self.connected)

    def _install_if_known(self, model: LightningModule) -> None:
        """Rewrite now where an input is known without a batch of the data; else it waits for the first batch that training draws."""
        current = installed(model)
        if current is not None and repr(current.method) == repr(self.method) and not current.is_stale():
            return  # from an earlier call
        known = self._example_input if self._example_input is not None else model.example_input_array
        if not any(True for _ in model.parameters()):
            return
        if isinstance(known, Tensor):
            self._install(model, known)
        elif current is not None:
            self._install(model, current.example_input, direct=True)

    def _install(self, model: LightningModule, x: Tensor, direct: bool = False) -> None:
        rewritten = install(model, self.method, x, self._module_name, direct)
        if isinstance(rewritten.method, IntegerRule):
            rewritten.method.prepare(rewritten)

    @override
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """The first batch that training draws is the example, where none was known before.

        A batch whose input is not found, or is not yet as the network takes it, leaves the rewrite to the network's first call.
        """
        batch = super().batch_to_device(batch, device, dataloader_idx)
        module = self.lightning_module
        if module is not None and self.rewritten is None and is_training_batch(module.trainer):
            try:
                self._meet(self.input_of(batch))
            except (NoInputError, ExampleError):
                if self._input_key is not None:
                    raise
        return batch

    def _meet(self, x: Tensor, direct: bool = False) -> RewrittenModel:
        """Rewrite the network in the middle of a fit, by an input of the module's forward (``direct``: of the network itself)."""
        with isolate_rng(), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            self._install(self.connected, x[:2].detach().clone(), direct)
            rewrite_averages(self.connected)
        self._meet_optimizer(self.connected.trainer)
        return self.network

    @override
    def setup(self, trainer: Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it in its connector
            if isinstance(callback, StochasticWeightAveraging):
                spare_frozen_norms(callback)
        self._install_if_known(self.connected)  # a network that was built in setup()
        super().setup(trainer)

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        try:
            super().setup_optimizers(trainer)
            several = len(self.optimizers) > 1
        except RuntimeError as error:  # Lightning allows several with manual optimisation only
            if "multiple optimizers" not in str(error):
                raise
            several = True
        if several:
            unwrap(self.connected)
            raise LightningFwdError(
                "configure_optimizers returned several optimizers, ForwardOnlyStrategy drives one",
                "one training step of a rule updates all layers",
                "return one optimizer, with parameter groups for different learning rates",
            )
        if self.method.forward_only and any(isinstance(o, torch.optim.LBFGS) for o in self.optimizers):
            unwrap(self.connected)
            raise LightningFwdError(
                f"{type(self.method).__name__} cannot be trained by LBFGS",
                "it fits a curvature to gradients of one loss, and this rule's updates are not the gradient of any",
                "use SGD or Adam",
            )
        self._meet_optimizer(trainer)

    def _meet_optimizer(self, trainer: Trainer) -> None:
        """What a rewritten network and its optimizer have to know of each other."""
        if self.rewritten is not None and not self._from_scratch:
            try:
                refuse_fresh_norms(self.rewritten)
                warn_fresh_layers(self.rewritten)
            except LightningFwdError:
                unwrap(self.connected)
                raise
        if self.optimizers and self.rewritten is not None:
            self._adopted = adopt_inserted(self.optimizers[0], self.rewritten, self.connected) or self._adopted
            if isinstance(self.rewritten.method, IntegerRule):  # an equal rule may have been installed by an earlier fit
                require_plain_steps(trainer)
                self.rewritten.method.follow(self.optimizers[0])

    def _take_back(self) -> None:
        """Back to before the first batch, as a checkpoint of then asks for."""
        unwrap(self.connected)
        for optimizer in self.optimizers:
            give_up_inserted(optimizer, self._adopted)
        self._adopted = []

    @override
    def on_train_end(self) -> None:
        super().on_train_end()
        broken = [name for name, p in self.connected.named_parameters() if p.is_floating_point() and not p.isfinite().all()]
        if broken:
            rank_zero_warn(
                f"the fit ends with weights that are not finite ({', '.join(broken[:3])}{', ...' if broken[3:] else ''}): its last "
                "steps diverged. "
                "Take an earlier checkpoint; lower the learning rate, or clip gradients."
            )
        if self.rewritten is not None and (left := self.method.unfinished(self.rewritten)):
            rank_zero_warn(
                f"{type(self.method).__name__} is not finished: {left}. Layers that it has not reached still expect what the "
                "earlier ones gave before: train for more epochs, or let it take fewer samples."
            )

    # ---- one step

    @override
    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        network, module, target = self.rewritten, self.connected, self.target_of(batch)
        scale, manual = 1.0 / module.trainer.accumulate_grad_batches, not module.automatic_optimization
        if network is not None:
            step = network.step(target, scale, manual)
        else:
            step = step_of_first_call(network_of(module, self._module_name), partial(self._meet, direct=True), target, scale, manual)
        if not manual:
            with step:
                return super().training_step(batch, *args, **kwargs)
        own = network_of(module, self._module_name).parameters() if network is None else network.parameters()
        with step, guarded(own, self._network_was_called, partial(refuse_no_call, module, self._module_name)):
            return super().training_step(batch, *args, **kwargs)

    def _network_was_called(self) -> bool:
        return self.rewritten is not None and self.rewritten.pending.called

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        module, network = self.connected, self.rewritten
        if network is None:
            refuse_no_call(module, self._module_name)
        self.pre_backward(closure_loss)
        closure_loss = self.precision_plugin.pre_backward(closure_loss, module)
        with self.precision_plugin.forward_context():  # a rule's later passes run in the same precision as its first
            if _has_own_backward(module):  # its loss.backward() then finishes the step
                with network.plain_backward():
                    require_finite_loss(closure_loss)
                    self.precision_plugin.backward(closure_loss, module, optimizer, *args, **kwargs)
            else:
                settings = backward_settings(*args, **kwargs) if args or kwargs else {}
                with network.module_table.held(network):
                    network.backward(closure_loss, self._outside(network, module), **settings)
        closure_loss = self.precision_plugin.post_backward(closure_loss, module)
        self.post_backward(closure_loss)
        return closure_loss.detach()

    def _outside(self, network: RewrittenModel, module: LightningModule) -> list[nn.Parameter]:
        """Parameters of the module that are not the network's."""
        own = network.parameters_by_name()
        every = self._module_table.named_parameters(module, beside=network.module_table)
        if own is not self._found[0] or every is not self._found[1]:  # the tables give the same dicts while nothing changed
            inside = {id(p) for p in own.values()}
            self._found = own, every, [p for p in every.values() if id(p) not in inside]
        return self._found[2]

    # ---- checkpoints: the plain model's own keys, and beside them what the rule inserted

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        inserted, folded = inserted_state(self.connected), folded_state(self.connected)
        # a callback may have put another state there (the averaged weights)
        checkpoint["state_dict"], averaged = split_state(checkpoint["state_dict"])
        checkpoint["lightning_fwd"] = {"method": repr(self.method), "inserted": inserted, "averaged": averaged, "folded": folded}
        if self.rewritten is not None:  # so that it can be rewritten before its data is there
            checkpoint["lightning_fwd"]["example"] = self.rewritten.example_input[:2].cpu()
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        saved, inserted, folded = checkpoint.get("lightning_fwd", {}), {}, {}
        if saved.get("method") == repr(self.method):
            if not saved["inserted"] and self.rewritten is not None:
                self._take_back()
            elif saved["inserted"] and self.rewritten is None:
                self._install(self.connected, example_of_checkpoint(saved, self.connected), direct=True)
                rewrite_averages(self.connected)
            inserted, folded = saved["inserted"], saved.get("folded", {})
            if inserted:
                require_inserted(inserted_state(self.connected), inserted)
            checkpoint["state_dict"].update(saved["averaged"])  # for the callback, which reads it next
        else:
            warn_of_dropped(saved, self.method)
        self.connected.load_state_dict({**checkpoint["state_dict"], **inserted}, strict=strict)
        load_folded_state(self.connected, folded, checkpoint["state_dict"])

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        try:
            super().load_optimizer_state_dict(checkpoint)
        except ValueError as error:
            refuse_optimizer_state(checkpoint, self.method, error)


def _has_own_backward(module: LightningModule) -> bool:
    if type(module).backward is LightningModule.backward and "backward" not in vars(module):
        return False
    return is_overridden("backward", module)
