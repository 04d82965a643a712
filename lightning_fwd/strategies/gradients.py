"""One exchange between ranks per optimizer step: the mean of their gradients; and the check that they still hold the same network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, distributed, nn

from ..errors import LightningFwdError


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each ``p.grad`` by its mean over the ranks; where no rank has one, there is none.

    Raises:
        LightningFwdError: a gradient is sparse.
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise LightningFwdError(
                    f"a sparse gradient of shape {tuple(parameter.shape)} on several devices",
                    "ranks exchange their gradients in one dense piece",
                    "use nn.Embedding(sparse=False)",
                )
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    size = distributed.get_world_size()
    for (dtype, device), those in kinds.items():
        has = torch.tensor([p.grad is not None for p in those], dtype=dtype, device=device)
        pieces = [has, *(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in those)]
        flat = torch.cat(pieces)
        distributed.all_reduce(flat)
        anywhere, *means = flat.split([len(piece) for piece in pieces])
        for parameter, there, mean in zip(those, anywhere.tolist(), means, strict=True):
            if there:
                mean = (mean / size).view_as(parameter)
                if parameter.grad is None:
                    parameter.grad = mean
                else:
                    parameter.grad.copy_(mean)


@torch.no_grad()
def copy_from_first(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Give every rank the first one's values.

    Args:
        device: of the exchange, which may differ from the tensors' (before Lightning has moved the module).
    """
    for tensor in tensors:
        sent = tensor.to(device).contiguous()
        distributed.broadcast(sent, 0)
        tensor.copy_(sent)


@torch.no_grad()
def require_equal_ranks(state: Mapping[str, Tensor], device: torch.device, step: int) -> None:
    """Compare a fingerprint of the bits of every tensor between ranks; each rank comes here, and each raises.

    Raises:
        LightningFwdError: ranks differ; names the tensors and the ranks.
    """
    own = torch.tensor([part for tensor in state.values() for part in _fingerprint(tensor)], dtype=torch.int64, device=device)
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    apart = torch.stack(every) != every[0]
    if apart.any():
        names = [name for name, differs in zip(state, apart.any(0).reshape(-1, 2).any(1).tolist(), strict=True) if differs]
        others = ", ".join(map(str, apart.any(1).nonzero().flatten().tolist()))
        raise LightningFwdError(
            f"after step {step} the ranks hold different networks: {', '.join(names[:4])}{' and others' if names[4:] else ''} of rank "
            f"{others} "
            "differ from rank 0's",
            "every rank takes the same step from the same mean gradient, so something changed one of them alone: a callback or hook "
            "that writes "
            "weights on one rank, a layer with state of its own, or memory that fails",
            "do on all ranks what is done on one; go on from the last checkpoint",
        )


def _fingerprint(tensor: Tensor) -> tuple[int, int]:
    """Two sums over the bits, modulo 2**64: of the values as whole numbers, and of their squares."""
    flat = torch.view_as_real(tensor).flatten() if tensor.is_complex() else tensor.detach().flatten()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    bits = flat.contiguous().view(whole).long()
    return int(bits.sum()), int((bits * bits).sum())
