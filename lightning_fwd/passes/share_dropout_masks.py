"""Dropout whose mask is a function of the step counter, so that two passes of one step drop the same units."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import RewriteError
from ..graph.constants import INSERTED
from ..graph.counter_random import hash32, uniform_of_samples
from ..graph.rewritten import RewrittenModel

DROPOUTS = {
    nn.Dropout: None,
    nn.Dropout1d: 2,
    nn.Dropout2d: 2,
    nn.Dropout3d: 2,
}  # leading dimensions that share a mask entry


class SharedDropout(nn.Module):
    """Inverted dropout; the mask depends on the seed, the step counter, the place and the position alone."""

    def __init__(self, p: float, leading: int | None, place: int, seed: int, counter_of: RewrittenModel):
        super().__init__()
        self.p, self.leading, self.offset = p, leading, place + hash32(seed)
        self.__dict__["_inserted"] = counter_of.inserted

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = x.shape if self.leading is None else (*x.shape[: self.leading], *[1] * (x.ndim - self.leading))
        draws = uniform_of_samples(self._inserted.counter * 1024 + self.offset, shape, x.device)
        return x * (draws >= 2 * self.p - 1).to(x.dtype) / ((1 - self.p) or 1.0)  # p = 1: all is 0


def share_dropout_masks(model: RewrittenModel, seed: int = 0) -> None:
    """Replace every dropout layer; the inference program follows, so both passes of a two-pass rule drop alike.

    Raises:
        RewriteError: a module that the graph calls draws random numbers otherwise (dropout inside attention, noise, stochastic depth).
    """
    _refuse_hidden(model)
    count = 0
    for node in list(model.graph.nodes):
        module = model.get_submodule(node.target) if node.op == "call_module" else None
        if type(module) not in DROPOUTS:
            continue
        model.inserted.add_module(f"shared_dropout{count}", SharedDropout(module.p, DROPOUTS[type(module)], count, seed, model))
        with model.graph.inserting_after(node):
            model.replace(node, model.graph.call_module(f"{INSERTED}.shared_dropout{count}", node.args))
        count += 1
    if count:
        model.compile_inference()


def _refuse_hidden(model: RewrittenModel) -> None:
    hidden = [path for path in model.draws_in_training if type(model.get_submodule(path)) not in DROPOUTS]
    if hidden:
        raise RewriteError(
            f"{type(model.method).__name__} cannot share what {', '.join(hidden)} draws between its passes",
            "it is random in training (dropout, noise, stochastic depth), and two passes that draw differently differ by more than the "
            "error",
            "set its probability to 0 (p=0, dropout=0), or replace it by nn.Dropout modules that the model calls itself",
        )
