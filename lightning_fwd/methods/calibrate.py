"""Fit inserted heads to what a pretrained model already computes, in closed form, before the first step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import RewriteError, StepError
from ..graph.in_double import in_double
from ..graph.rewritten import RewrittenModel

_KEPT = 4096  # samples whose features are kept for the temperature


@torch.no_grad()
def calibrate(model: RewrittenModel, batches: Iterable[tuple[Tensor, Tensor | None]], ridge: float = 1e-3) -> None:
    """Fit the heads of a rewritten model by ridge regression on labelled (source) samples; the model's own weights stay.

    One pass over the samples: each head, or all heads that predict together, gets the least-squares map from its features to the one-hot
    labels, then
    a temperature (factor on the logits) that minimises the cross-entropy. From then on the model predicts by its rule's own means, so
    adaptation starts from what it knows. ``W = (F'F + ridge * trace(F'F)/m)^-1 F'Y`` for features ``F (N, m)``.

    Args:
        batches: ``(input (B, ...), target (B,))``, for example a DataLoader of source data; consumed once.

    Raises:
        RewriteError: the rule has no heads of its own.
        StepError: there are no samples, or labels outside of the model's classes.
    """
    groups = getattr(model.method, "head_groups", None)
    if groups is None:
        raise RewriteError(
            f"{type(model.method).__name__} has no heads to calibrate",
            "it predicts and learns by the model's own layers",
            "calibrate LocalLoss, or ForwardForward(head='layers')",
        )
    was_training, fits = model.training, {}
    model.eval()
    try:
        for x, target in batches:
            model.method.check_step(model, x, target)
            for index, (heads, features) in enumerate(groups(model, x)):
                fits.setdefault(index, _Fit(heads)).add(features, F.one_hot(target, model.num_classes))
    finally:
        model.train(was_training)
    if not fits:
        raise StepError("calibrate found no samples, or no heads that learn", "", "give batches of (input, target)")
    for fit in fits.values():
        fit.solve(ridge)
    model.inserted.counter += 1  # the model has learned: its rule's own prediction holds from now on


class _Fit:
    """Normal equations of heads that predict together, in double precision."""

    def __init__(self, heads: list):
        self.heads, self.gram, self.moment, self.kept = heads, 0.0, 0.0, []

    def add(self, features: list[Tensor], one_hot: Tensor) -> None:
        both = in_double(torch.cat([*features, features[0].new_ones(len(one_hot), 1)], dim=1))
        self.gram = self.gram + both.t() @ both
        self.moment = self.moment + both.t() @ in_double(one_hot)
        if sum(len(f) for f, _ in self.kept) < _KEPT:
            self.kept.append((both, one_hot.argmax(1).to(both.device)))

    def solve(self, ridge: float) -> None:
        size = len(self.gram) - 1
        penalty = ridge * self.gram.diagonal()[:size].mean() + 1e-12
        regular = self.gram + torch.diag(F.pad(penalty.repeat(size), (0, 1)))  # the bias is free
        solution = torch.linalg.lstsq(regular, self.moment).solution
        features, labels = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        scores = features @ solution
        temperatures = 2.0 ** torch.arange(0, 6.5, 0.5, dtype=torch.float64, device=scores.device)
        losses = torch.stack([F.cross_entropy(t * scores, labels) for t in temperatures])
        solution = solution * temperatures[losses.argmin()]
        start = 0
        for i, head in enumerate(self.heads):
            width = head.linear.in_features
            head.linear.weight.copy_(solution[start : start + width].t())
            head.linear.bias.copy_(solution[-1] if i == 0 else torch.zeros_like(solution[-1]))
            start += width
