"""Dropout whose mask is a function of the step counter, so that two passes of one step drop the same units."""

from __future__ import annotations

from torch import Tensor, nn

from ..graph.constants import INSERTED
from ..graph.counter_random import hash32, uniform
from ..graph.errors import RewriteError
from ..graph.rewritten import RewrittenModel

RANDOM = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)
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
        draws = uniform(self._inserted.counter * 1024 + self.offset, shape, x.device)
        return x * (draws >= 2 * self.p - 1).to(x.dtype) / ((1 - self.p) or 1.0)  # p = 1: all is 0


def share_dropout_masks(model: RewrittenModel, seed: int = 0) -> None:
    """Replace every dropout layer; the inference program follows, so both passes of a two-pass rule drop alike.

    Raises:
        RewriteError: dropout inside a module that is kept whole, where its masks cannot be shared.
    """
    _refuse_hidden(model)
    count = 0
    for node in list(model.graph.nodes):
        module = model.get_submodule(node.target) if node.op == "call_module" else None
        if type(module) not in DROPOUTS:
            continue
        model.inserted.add_module(
            f"shared_dropout{count}", SharedDropout(module.p, DROPOUTS[type(module)], count, seed, model)
        )
        with model.graph.inserting_after(node):
            model.replace(node, model.graph.call_module(f"{INSERTED}.shared_dropout{count}", node.args))
        count += 1
    if count:
        model.compile_inference()


def _refuse_hidden(model: RewrittenModel) -> None:
    shared = {n.target for n in model.graph.nodes if n.op == "call_module" and type(model.get_submodule(n.target)) in DROPOUTS}
    called = [n.target for n in model.graph.nodes if n.op == "call_module" and n.target not in shared]
    hidden = [
        path
        for path, module in model.named_modules()
        if isinstance(module, RANDOM)
        and (getattr(module, "p", 0) or getattr(module, "dropout", 0))
        and any(path == leaf or path.startswith(f"{leaf}.") for leaf in called)
    ]
    if hidden:
        raise RewriteError(
            f"{type(model.method).__name__} cannot share the dropout of {', '.join(hidden)} between its passes",
            "it happens inside a module that is not traced, and two passes that drop different units differ by more than the error",
            "set its dropout to 0 (p=0 or dropout=0)",
        )
