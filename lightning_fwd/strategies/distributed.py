"""The strategy on several devices: each rank runs the rule on its samples, and together they take the step of one process with all of
them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, device, no_grad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from typing_extensions import override

from ..errors import LightningFwdError
from ..graph.across_ranks import Ranks, mean, together
from ..graph.as_one_batch import AsOneBatch
from ..graph.rewritten import RewrittenModel
from ..integer import IntegerRule
from .example import refuse_no_example
from .forward_only import TrainsByRule
from .gradients import average_gradients, copy_from_first, require_equal_ranks


class ForwardOnlyDDPStrategy(TrainsByRule, DDPStrategy):
    """Train with a learning rule on several devices or nodes, one process each (gloo on CPUs, nccl on GPUs).

    Every rank begins with the first one's weights and the first one's rewrite. Inside a step, what a rule reads of the batch as a whole
    (batch norm's mean and variance, the largest errors, what dropout and negative labels draw) is read of the samples of all ranks.
    Gradients are averaged once per optimizer step, and so are the statistics of norms that are not torch's. So N processes take the step of
    one process with N times the batch; torch's ``DistributedDataParallel`` is not used.

    Args:
        method, module, example_input, input_key, target_key: as for :class:`ForwardOnlyStrategy`.
        check_every: optimizer steps between two checks that all ranks hold the same network, bit for bit.
        **kwargs: of ``DDPStrategy`` (``process_group_backend``, ``timeout``, ``start_method``, ...), less those of its wrapper.

    Example:
        >>> Trainer(strategy="pepita_ddp", devices=4)
        >>> Trainer(strategy="pepita", devices=4)

    Raises:
        LightningFwdError: an integer rule, settings of torch's wrapper, or ranks that differ.
    """

    strategy_name = "forward_only_ddp"

    def __init__(self, *args: Any, check_every: int = 50, **kwargs: Any):
        super().__init__(*args, **kwargs)
        wrapper = ("ddp_comm_state", "ddp_comm_hook", "ddp_comm_wrapper", "model_averaging_period")
        if unused := [*(name for name in wrapper if getattr(self, f"_{name}") is not None), *self._ddp_kwargs]:
            raise LightningFwdError(
                f"ForwardOnlyDDPStrategy({', '.join(f'{name}=...' for name in unused)})",
                "these are settings of torch's DistributedDataParallel, which is not used: autograd never hands it the gradients that "
                "it waits for",
                "leave them out: gradients of all rules are averaged once per optimizer step",
            )
        self._begin(check_every)

    def _begin(self, check_every: int = 50) -> None:
        if not isinstance(check_every, int) or check_every < 1:
            raise LightningFwdError(
                f"check_every={check_every!r}", "it is a number of optimizer steps", "give a whole number of at least 1"
            )
        if isinstance(self.method, IntegerRule):
            raise LightningFwdError(
                "integer training on several devices",
                "its step multiplies the rate into the error and rounds once: there is no gradient whose mean could be taken",
                "use Trainer(devices=1), or train in float",
            )
        self._check_every, self._steps, self._exchanges = check_every, 0, True

    # ---- set-up: every rank has the first one's weights before the rewrite, which may read them, and after it

    @override
    def connect(self, model: LightningModule) -> None:
        self.setup_environment()  # Lightning calls it again after this
        super().connect(model)

    @override
    def _install(self, model: LightningModule, x: Tensor, direct: bool = False) -> None:
        """By the first rank's example, so that what is measured of it is the same on all; every rank comes here with the same batch's
        number."""
        self._share_state(model)
        super()._install(model, self.broadcast(x.cpu()).to(x), direct)

    @override
    def setup(self, trainer: Trainer) -> None:
        self._layer_sync = (
            None  # sync_batchnorm=True: norms see all ranks as they are, and exchanging modules would leave the rewrite stale
        )
        super().setup(trainer)

    @override
    def configure_ddp(self) -> None:
        """In place of torch's wrapper, which would wait for gradients that autograd never hands out."""
        self._share_state(self.connected)
        self._steps = 0

    def _share_state(self, module: LightningModule) -> None:
        copy_from_first([*(p.data for p in module.parameters()), *module.buffers()], self.root_device)

    # ---- one step

    @contextmanager
    def _as_one_batch(self) -> Iterator[None]:
        if self.world_size == 1:
            yield
        else:
            with together(Ranks(self.global_rank, self.world_size)), AsOneBatch():
                yield

    @override
    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        if self.rewritten is None:
            refuse_no_example(self.connected)
        with self._as_one_batch():
            return super().training_step(batch, *args, **kwargs)

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        with self._as_one_batch():
            loss = super().backward(closure_loss, optimizer, *args, **kwargs)
        if self._exchanges and self.world_size > 1:
            average_gradients(self.connected.parameters())
            self._average_statistics()
        return loss

    def _average_statistics(self) -> None:
        """Of norms that are not torch's; what those write is of all ranks already."""
        with together(Ranks(self.global_rank, self.world_size)), no_grad():
            for model in self._networks().values():
                for norm in map(model.get_submodule, model.custom_norms):
                    if not isinstance(norm, _BatchNorm):
                        for buffer in norm.buffers(recurse=False):
                            if buffer.is_floating_point():
                                buffer.copy_(mean(buffer))

    def _networks(self) -> dict[str, RewrittenModel]:
        return {name: child for name, child in self.connected.named_modules() if isinstance(child, RewrittenModel)}

    @override
    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:  # type: ignore[override]
        """Lightning's accumulation runs all but the last batch of an optimizer step in here."""
        self._exchanges = False
        try:
            yield
        finally:
            self._exchanges = True

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().optimizer_step(*args, **kwargs)
        self._steps += 1
        if self._steps == 1 or self._steps % self._check_every == 0:
            self._require_equal_ranks()
        return output

    @override
    def on_train_end(self) -> None:
        if self._steps:
            self._require_equal_ranks()
        super().on_train_end()

    def _require_equal_ranks(self) -> None:
        """Of the network and of all other parameters; buffers beside the network (a metric's) are each rank's own."""
        state: dict[str, Tensor] = dict(self.connected.named_parameters())
        for name, model in self._networks().items():
            state |= {f"{name}.{key}": buffer for key, buffer in model.named_buffers()}
        require_equal_ranks(state, self.root_device, self._steps)


def distribute(strategy: TrainsByRule, devices: list[device] | None, cluster: Any) -> ForwardOnlyDDPStrategy:
    """Make a single-device strategy the one for several: Lightning tells a strategy of its devices only after it was built."""
    settings = {
        "accelerator": strategy._accelerator,
        "checkpoint_io": strategy._checkpoint_io,
        "precision_plugin": strategy._precision_plugin,
        "parallel_devices": devices,
        "cluster_environment": cluster,
    }
    for name in ("global_rank", "local_rank", "world_size"):  # several devices' are properties
        del strategy.__dict__[name]
    strategy.__class__ = ForwardOnlyDDPStrategy
    assert isinstance(strategy, ForwardOnlyDDPStrategy)
    DDPStrategy.__init__(strategy, **settings)
    strategy._begin()
    return strategy


def refuse_sharding(asked: str) -> NoReturn:
    """What ``Trainer(strategy="NAME_fsdp")`` and ``"NAME_deepspeed"`` answer.

    Raises:
        LightningFwdError: always; why a rule cannot run on parameters that are divided between devices.
    """
    raise LightningFwdError(
        f"strategy={asked!r}: learning rules do not run under FSDP or DeepSpeed",
        "these divide each parameter between the devices and put it together while autograd runs over the whole network; a rule takes "
        "the gradients "
        "of one layer or block at a time, from parameters that are whole",
        f"use strategy={asked.rpartition('_')[0] + '_ddp'!r}, which keeps the whole network on each device",
    )
