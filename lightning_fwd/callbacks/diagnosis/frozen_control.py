"""The honest control: the same network, its features as they were at the start, only its last layer trained, on the same batches."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from ...errors import LightningFwdError
from ...graph.rewritten import RewrittenModel
from ...strategies.fresh_norms import fresh_norms


class FrozenControl:
    """A copy of the network in eval mode, but for batch norms without statistics, which collect some; its last layer with parameters learns
    by the
    gradient of the cross-entropy.

    Its optimizer is of the same kind as the run's, with the settings of the parameter group that holds the head; its learning rate follows
    that group's schedule.

    Args:
        model: the rewritten network before its first step. optimizer: the run's.
        lr: learning rate at the start; None: the run's own. A head alone often wants a larger one.
    """

    def __init__(self, model: RewrittenModel, optimizer: Optimizer, lr: float | None):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._norms = fresh_norms(self.model)
        for norm in self._norms:
            norm.__dict__["momentum"] = None  # the mean over all batches
        head = self.model.plan[-1].layers[-1]
        parameters = [p for name, p in self.model.named_parameters() if name.rpartition(".")[0] == head]
        if not parameters:
            raise LightningFwdError(
                f"Diagnosis finds no last layer to train for its control in {type(model.original).__name__}", "", "use frozen_control=False"
            )
        for parameter in parameters:
            parameter.requires_grad_(True)
        theirs = {id(p) for name, p in model.named_parameters() if name.rpartition(".")[0] == head}
        holding = (i for i, group in enumerate(optimizer.param_groups) if any(id(p) in theirs for p in group["params"]))
        self._run_optimizer, self._index = optimizer, next(holding, 0)
        group = optimizer.param_groups[self._index]
        self._start = float(group.get("initial_lr", group["lr"]))  # initial_lr: of a scheduler, whose warm-up has changed lr already
        self._lr = self._start if lr is None else lr
        self._factor = 1.0
        known = set(inspect.signature(type(optimizer).__init__).parameters) - {"params"}
        settings = {k: v for k, v in {**optimizer.defaults, **group}.items() if k in known}
        self.optimizer = type(optimizer)(parameters, **settings)

    def follow_schedule(self) -> None:
        """Read the run's learning rate; before its step, as a scheduler may change it right after."""
        self._factor = float(self._run_optimizer.param_groups[self._index]["lr"]) / self._start

    def step(self, samples: tuple[Tensor, Tensor] | None, accumulated: int = 1, update: bool = True) -> None:
        """Learn from one batch.

        Args:
            samples: ``(B, ...)`` and ``(B,)``; None: the loss was on none of the batch.
            accumulated: batches per optimizer step. update: whether this is the last of them.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * self._factor
        if samples is not None:
            self._learn(*samples, accumulated)
        if update:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _learn(self, x: Tensor, target: Tensor, accumulated: int) -> None:
        for norm in self._norms:  # of an untrained network: its features are as they began, its statistics are those of the data
            norm.training = True
        with torch.enable_grad():
            (F.cross_entropy(self.model.run(x).float(), target) / accumulated).backward()
        for norm in self._norms:
            norm.training = False

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        return self.model.run(x)

    def state_dict(self) -> dict[str, Any]:
        """All tensors of the copy as they are in memory, and the optimizer's state."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {"tensors": {k: v.detach().clone() for k, v in tensors.items()}, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            tensor.copy_(state["tensors"][name])
        self.optimizer.load_state_dict(state["optimizer"])
