"""Steps that wait for their error: a training forward hands out logits, the user's loss on them comes back as the error."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from .ends_in import ends_in
from .engine import gradient_of
from .kept_buffers import KeptBuffers
from .label_check import LabelCheck
from .refuse_backward import (
    refuse_gradient_at_input,
    refuse_losses_beside,
    refuse_lost_logits,
    refuse_plain_backward,
    refuse_second_backward,
    require_finite_error,
    require_finite_loss,
)
from .step import Step, StepRecord, accumulate

Manual = tuple[str, Callable[[], None]]

_running: list[PendingSteps] = []  # the innermost training step of the user's that is running comes last
_NOTHING = nullcontext()


class PendingSteps:
    """The steps of one training step of the user's whose logits are out; each lives as long as its logits do.

    Attributes:
        target, loss_scale: of the step that is running (:meth:`RewrittenModel.step`).
        handed_over: whether the user handed over the labels (:func:`set_labels`).
        stepping: whether one is. called: whether the network was, in the present or the last one.
        forgotten: whether logits were handed out since the last step and have died, detached or recomputed, before a loss came back.
    """

    def __init__(self) -> None:
        self.target: Any = None
        self.loss_scale = 1.0
        self.stepping = self.forgotten = self.handed_over = self.called = False
        self._waiting: list[tuple[ref[Tensor], Step]] = []
        self._labels = LabelCheck()
        self._buffers = KeptBuffers()
        self._on_backward: Callable[[Tensor], None] | None = None
        self._manual: Manual | None = None
        me = ref(self)  # logits may outlive the model
        self._forget, self._hooks = partial(_forget, me), OrderedDict({0: partial(_at_the_logits, me)})

    def __len__(self) -> int:
        return len(self._waiting)

    def __getitem__(self, index: int) -> tuple[ref[Tensor], Step]:
        return self._waiting[index]

    def __deepcopy__(self, _memo: dict) -> PendingSteps:
        return PendingSteps()  # logits that are out belong to the model that handed them out

    def __reduce__(self) -> Any:
        return PendingSteps, ()

    def open(self, target: Any, loss_scale: float, manual: Manual | None = None) -> AbstractContextManager[None]:
        """A training step of the user's, from a clean slate.

        Args:
            manual: a bare ``loss.backward()`` inside finishes the step of the logits that it reaches: the rule's name for errors, and what
                is called then. None: it is refused.
        """
        return _Open(self, target, loss_scale, manual)

    def keep_buffers(self, modules: Sequence[nn.Module]) -> None:
        """Of the modules that the coming forward lets write statistics: a batch that is refused leaves them as they are."""
        self._buffers.keep(modules)

    def put_buffers_back(self) -> None:
        """The step was refused: running statistics are as they were before it."""
        self._buffers.put_back()

    def clear(self) -> None:
        self._waiting.clear()
        self._buffers.forget()
        self.forgotten = False

    def hand_out(self, step: Step, learns_by_labels: bool) -> Tensor:
        """Remember a step and give its logits ``(B, C)``, cut off from the network, for the user's loss."""
        logits = step.logits
        assert logits is not None
        step.logits = None
        if learns_by_labels:
            step.target, step.handed_over = self.target, self.handed_over
        self._waiting.append((ref(logits, self._forget), step))
        logits._post_accumulate_grad_hooks = self._hooks  # type: ignore[assignment]  # one dict for all; autograd.grad calls none
        return logits.clone()  # which may be written into, as a leaf may not

    def finish(
        self,
        loss: Tensor,
        rule: str,
        parameters: dict[str, nn.Parameter],
        others: Sequence[nn.Parameter],
        gradient: Tensor | None = None,
        retain_graph: bool = False,
    ) -> int:
        """The error of every step from ``loss``, then the rule's updates into ``p.grad``.

        Args:
            rule: its name, for errors.
            parameters: of the model, by name; others: outside it, which get their ordinary gradient.
            gradient: of whatever follows, at the loss; None: 1. retain_graph: keep the user's own graph; a step is finished once all the
            same.

        Returns:
            how many steps were finished.

        Raises:
            StepError: the loss is not finite, does not depend on the logits of this step, or depends on trained parameters beside them; or
            the labels that the rule learns by do not fit it.
        """
        require_finite_loss(loss)  # read before anything is changed, at the price of one synchronisation on a GPU
        reached: list[tuple[Tensor, Step]] = []
        leaves: list[Tensor] = []
        has_inputs = False
        for weak, step in self._waiting:
            if (logits := weak()) is not None:
                reached.append((logits, step))
                leaves.append(logits)
                has_inputs = has_inputs or step.inputs is not None
        if not leaves:
            refuse_lost_logits()
        names: list[str] = []
        others = [p for p in others if p.requires_grad] if others else others
        if others or not ends_in(loss, leaves):
            names = [name for name, p in parameters.items() if p.requires_grad]
        sought = [*leaves, *others, *[parameters[name] for name in names]] if others or names else leaves
        grads = gradient_of(loss, sought, gradient, retain_graph or has_inputs)
        errors, rest = grads[: len(leaves)], grads[len(leaves) :]
        found = [(logits, step, error) for (logits, step), error in zip(reached, errors, strict=True) if error is not None]
        if not found:
            refuse_lost_logits()
        if names:
            refuse_losses_beside(rule, [name for name, grad in zip(names, rest[len(others) :], strict=True) if grad is not None])
        for logits, step, error in found:
            require_finite_error(error)
            if step.target is not None:
                self._check(rule, logits, step, error)
        touched: list[nn.Parameter] = []
        for parameter, grad in zip(others, rest, strict=False):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad + grad
                touched.append(parameter)
        self.clear()
        for _, step, error in found:
            _run_to_its_end(step, error, touched)
        if has_inputs:
            _pass_to_inputs([step for _, step, _ in found])
        if touched:
            _call_gradient_hooks(touched)
        return len(reached)

    def _check(self, rule: str, logits: Tensor, step: Step, error: Tensor) -> None:
        if isinstance(step.target, Tensor):
            self._labels.see(rule, logits, step.target, error, step.handed_over)

    @contextmanager
    def plain_backward(self, rule: str) -> Iterator[list[Step]]:
        """Inside, ``loss.backward()``, with whatever arguments and as often as there are losses, finishes the steps that it reaches.

        Yields:
            the steps finished so far.

        Raises:
            StepError: on the way out, no step was finished.
        """
        done: list[Step] = []
        touched: list[nn.Parameter] = []

        self._on_backward = lambda logits: done.append(self._finish_at(logits, rule, touched))
        try:
            yield done
            if not done:
                refuse_lost_logits()
        except BaseException:
            self.put_buffers_back()
            raise
        finally:
            self._on_backward = None
            self.clear()
        _pass_to_inputs(done)
        _call_gradient_hooks(touched)

    def _finish_at(self, logits: Tensor, rule: str, touched: list[nn.Parameter]) -> Step:
        """Finish the step of these logits by the error that has come down to them."""
        place = next((i for i, (weak, _) in enumerate(self._waiting) if weak() is logits), None)
        if place is None:
            refuse_second_backward()
        step = self._waiting.pop(place)[1]
        error, logits.grad = logits.grad, None
        assert error is not None
        with torch.enable_grad():
            require_finite_error(error)
            self._check(rule, logits, step, error)
            _run_to_its_end(step, error, touched)
        return step

    def _at_the_logits(self, logits: Tensor) -> None:
        """``loss.backward()`` has come down to the logits."""
        if self._on_backward is not None:
            self._on_backward(logits)
        elif self._manual is not None:
            rule, finished = self._manual
            touched: list[nn.Parameter] = []
            step = self._finish_at(logits, rule, touched)
            _pass_to_inputs([step])
            _call_gradient_hooks(touched)
            finished()
            self._buffers.forget()
        else:
            refuse_plain_backward()


class _Open:
    """One training step of the user's; as a class, for a generator costs a small network's step more than its loss does."""

    def __init__(self, steps: PendingSteps, target: Any, loss_scale: float, manual: Manual | None) -> None:
        self._steps, self._target, self._loss_scale, self._manual = steps, target, loss_scale, manual

    def __enter__(self) -> None:
        steps = self._steps
        steps.clear()
        steps.called = False
        steps.target, steps.loss_scale, steps.stepping, steps.handed_over = _as_labels(self._target), self._loss_scale, True, False
        steps._manual = self._manual
        _running.append(steps)

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        steps = self._steps
        try:
            if error is not None:  # the user's own loss refuses the batch, say
                steps.put_buffers_back()
                if steps._waiting:
                    refuse_gradient_at_input(error)
        finally:
            _running.remove(steps)
            steps.target, steps.stepping, steps._manual = None, False, None


def _forget(steps: ref[PendingSteps], dead: ref[Tensor]) -> None:
    """No loss can reach these logits any more: nothing of their step is kept."""
    if (me := steps()) is not None and any(item[0] is dead for item in me._waiting):
        me._waiting[:] = [item for item in me._waiting if item[0] is not dead]
        me.forgotten = True


def _at_the_logits(steps: ref[PendingSteps], logits: Tensor) -> None:
    if (me := steps()) is None:
        refuse_plain_backward()
    me._at_the_logits(logits)


def _run_to_its_end(step: Step, error: Tensor, touched: list[nn.Parameter]) -> None:
    with step.autocast():  # later passes of the rule run in the same precision as its first
        for update in step.finish(error):
            accumulate(update)
            if update.tensor._post_accumulate_grad_hooks and update.value is None and isinstance(update.tensor, nn.Parameter):
                touched.append(update.tensor)


def _pass_to_inputs(steps: list[Step]) -> None:
    inputs = [step.inputs for step in steps if step.inputs is not None]
    if inputs:
        torch.autograd.backward([before for before, _ in inputs], [x.grad for _, x in inputs])


def _call_gradient_hooks(parameters: Iterable[nn.Parameter]) -> None:
    """What ``register_post_accumulate_grad_hook`` asked for, once a step, as autograd would call it (an optimizer of each parameter's own,
    say)."""
    for parameter in dict.fromkeys(parameters):
        for hook in list((parameter._post_accumulate_grad_hooks or {}).values()):
            hook(parameter)


def set_labels(labels: Tensor) -> Tensor:
    """Hand over the labels ``(B,)`` that your loss takes, where they are not those of the batch; before the network is called.

    For rules with losses of their own, which otherwise learn by the labels that stand in the batch. Outside a training step of a rule, as
    under a plain Trainer or in validation, nothing happens.

    Returns:
        the labels, as given.

    Example:
        >>> y = lf.set_labels(y[permutation])
        >>> loss = F.cross_entropy(self.net(x[permutation]), y)
    """
    if _running:
        _running[-1].target, _running[-1].handed_over = _as_labels(labels), True
    return labels


def _as_labels(target: Any) -> Any:
    return target.long() if isinstance(target, Tensor) and not target.is_floating_point() else target


def start(updates: Callable[[StepRecord], Any], record: StepRecord, before: Tensor) -> Step:
    """Run a rule up to its logits, under the autocast of now.

    Args:
        before: the input as it came; where it has a history, ``record.input`` is a leaf in its place.
    """
    autocast, entered = _autocast_now(record.input.device.type)
    with entered:
        step = Step(updates(record), autocast)
    step.inputs = (before, record.input) if before is not record.input else None
    return step


@lru_cache
def _without_autocast(device: str) -> Callable[[], AbstractContextManager]:
    """No autocast, wherever that is asked for."""
    if not torch.amp.is_autocast_available(device):
        return lambda: _NOTHING
    return lambda: torch.autocast(device, enabled=False, cache_enabled=False) if torch.is_autocast_enabled(device) else _NOTHING


def _autocast_now(device: str) -> tuple[Callable[[], AbstractContextManager], AbstractContextManager]:
    """The present autocast, to be entered again later, and now. Its cache would hand a weight cast under ``no_grad`` to a pass that wants
    its gradient: off."""
    later = _without_autocast(device)
    if later() is _NOTHING:
        return later, _NOTHING
    later = partial(torch.autocast, device, dtype=torch.get_autocast_dtype(device), cache_enabled=False)
    return later, later()
